//! Counts the events between the shards of a simulated run.

macro_rules! events {
    ($($(#[doc = $help:literal])* $event:ident,)+) => {
        /// The events between the shards of a run, or of many.
        #[derive(Debug, Default, Clone, Copy)]
        pub(super) struct Events {
            $($(#[doc = $help])* pub(super) $event: u64,)+
        }

        impl Events {
            pub(super) fn add(&mut self, other: &Events) {
                $(self.$event += other.$event;)+
            }

            /// Checks that each of the events has happened.
            pub(super) fn check(&self) {
                $(assert!(self.$event > 0, "{} has never happened: {self:?}", stringify!($event));)+
            }
        }
    };
}

events! {
    /// Runs with more than one shard.
    several_shards,
    /// Sleeps of shards.
    slept,
    /// Sleeps that another end of the mesh has ended.
    woken,
    /// Turns after which interest waited for room.
    interest_due,
    /// Turns after which requests waited for room.
    requests_waited,
    /// Turns after which deliveries waited for room.
    deliveries_waited,
    /// Requests of the control thread that waited for room.
    control_waited,
    /// Messages of the control thread that were answered with a place.
    posts,
    /// Messages among `posts` that had a source.
    posts_with_source,
    /// Messages among `posts` that were answered when the drain had begun.
    posts_in_drain,
    /// Commands of the control thread.
    commands,
    /// Messages that the engine has given a place, and epochs that it has begun in the midst of a topic.
    engine_orders,
    engine_epochs,
    /// Messages of the engine that waited for room.
    engine_waited,
    /// Turns after which a goodbye waited for a mark from the engine of the shard's own topic.
    engine_marks,
    /// Messages of backlogs whose tags were checked.
    tags,
    /// Subscriptions to topics of other shards that have gone live.
    far_subscriptions,
    /// Messages that handlers have published in callbacks.
    published_in_callbacks,
    /// Topics of which clients of both protocols have received messages.
    mixed_topics,
    /// Goodbyes to clients of the second protocol.
    second_goodbyes,
    /// Goodbyes among `second_goodbyes` that answer the goodbye of the client.
    second_answers,
    /// Turns of a shard that drained while another shard had not begun to drain.
    drained_before_another,
    /// Turns of a shard that drained and had no connections while another shard had some.
    drained_and_stayed,
}
