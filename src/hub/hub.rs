//! The hub of one shard: its connections, its topics, and its end of the mesh.
//!
//! The other `impl ShardHub` stand on floors above this file, and each floor calls only those below it: `fanout`
//! (members, runs, walks), `interest` (the shard's interest in remote topics), `keeping` (histories), `attending`
//! (presence), `order` (publishing), `announcing` (joins and leaves), `membership` (subscribing), `mail` (requests and
//! deliveries of the mesh).

use std::{collections::VecDeque, sync::Arc};

use bytes::BytesMut;

use super::{
    audience::{Audience, AudienceId},
    barrier::Barriers,
    connection_id::ConnectionId,
    connections::{Attachment, Connections, Publishing},
    cursors::Cursors,
    due::Due,
    encoding::Encodings,
    end_role::{EndRole, EngineTopics},
    histories::Histories,
    ids::{IdCounts, IdLimits, Ids},
    joined::HistoryPart,
    listing::{LOOKS_MAX, TOPICS_PER_STEP, TopicPart},
    mesh::MeshEnd,
    paced::Paced,
    publication::Scope,
    publish_error::PublishOutcome,
    receipts::{RECEIPTS_MAX, ReceiptCounts, Receipts},
    rosters::Rosters,
    run::RunWeights,
    topic_id::TopicId,
    topic_name::TopicName,
    topic_rules::RulesOfTopics,
    topics::{TopicRole, Topics},
};
use crate::proto::Millis;

/// Limits of one hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HubLimits {
    /// The most subscriptions of one connection. Each takes 20 bytes; a topic takes some 300 bytes once for all
    /// subscriptions.
    pub subscriptions_max: usize,
    /// The most topics that the hub remembers although no connection of any shard subscribes or publishes to them.
    pub topics_idle_max: usize,
    /// Bytes of gathered messages. Three quarters are for messages that the shard's clients publish (see
    /// [`ShardHub::is_full`]), and a quarter is for messages that come by lanes (see [`ShardHub::has_room_for_mail`]).
    pub gathered_bytes_max: usize,
    /// The ids of publications that the hub remembers.
    pub ids: IdLimits,
    /// Bytes of the histories of all topics whose home is this shard.
    pub history_bytes_max: usize,
    /// Bytes of presence from which on further members are counted, and not listed.
    pub presence_bytes_max: usize,
    /// Milliseconds for which a publisher waits for a receipt.
    pub receipt_ms: u64,
    /// The most publications that wait for their receipts, of topics whose home is this shard.
    pub receipts_max: usize,
}

impl Default for HubLimits {
    fn default() -> Self {
        HubLimits {
            subscriptions_max: 1_024,
            topics_idle_max: 10_000,
            gathered_bytes_max: 4 << 20,
            ids: IdLimits::default(),
            history_bytes_max: 64 << 20,
            presence_bytes_max: 64 << 20,
            receipt_ms: 5_000,
            receipts_max: RECEIPTS_MAX,
        }
    }
}

/// The homes, or the topic, that a client's messages may have to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Homes {
    /// The home of one topic, to which the messages are published as they are.
    One(u16),
    /// Any home: a handler chooses the topic of each message.
    Any,
    /// A topic whose messages gather on this shard, whichever shard orders them.
    Topic(TopicId),
}

/// The connections and topics of one shard, and the messages that the connections are owed.
///
/// In each turn the shard calls [`ShardHub::subscribe`], [`ShardHub::unsubscribe`], [`ShardHub::publish`] and
/// [`ShardHub::remove`] as input demands; then [`ShardHub::take_due`] returns the audiences that have gathered
/// messages, [`ShardHub::next_member`] is called until it returns `None`, and [`ShardHub::end_walk`] ends each walk. A
/// walk may last several turns; messages that arrive after its begin gather in the topic's next run. A connection with
/// several subscriptions may get its shares of several walks ([`ShardHub::walks_ahead`]) in one visit; the other walks
/// then pass the connection.
#[derive(Debug)]
pub struct ShardHub<T: Attachment = ()> {
    /// The connections of the shard.
    pub connections: Connections<T>,
    /// The limits of this hub.
    pub limits: HubLimits,
    pub(super) topics: Topics,
    /// The audiences that have a run and no walk, and that [`ShardHub::take_due`] has not taken; each once.
    pub(super) dirty: Vec<AudienceId>,
    /// The audiences that have a run and no walk, and whose walk is not due yet.
    pub(super) paced: Paced,
    pub(super) encodings: Arc<Encodings>,
    /// The weight of all runs, filling and frozen.
    pub(super) gathered: RunWeights,
    /// Whether an entry of a lane is being handled.
    pub(super) takes_mail: bool,
    /// The topic that gathered the last message since the last call of [`ShardHub::take_behind`].
    pub(super) last_gathered: Option<TopicId>,
    /// The buffers of earlier runs, for later runs.
    pub(super) spare: Vec<BytesMut>,
    /// A buffer for encoding, empty between uses.
    pub(super) encoded: BytesMut,
    pub(super) mesh: MeshEnd,
    /// Topics whose interest has found no room in the lane to their home.
    pub(super) due: Due,
    /// The number of the last interest that was announced, over all topics. So a topic that was forgotten and comes
    /// back never gets the number of an old acknowledgement.
    pub(super) interest_number: u64,
    pub(super) barriers: Barriers,
    /// The marks that have come back, and that [`ShardHub::take_marks`] has not taken.
    pub(super) marks: Vec<ConnectionId>,
    /// The answers that publications of [`ShardHub::publish_asking`] have got, and that [`ShardHub::take_answered`] has
    /// not taken.
    pub(super) answered: Vec<(u64, PublishOutcome)>,
    /// The ids of publications to topics whose home is this shard.
    pub(super) ids: Ids,
    /// Bytes of the publications with ids that have come by lanes in this turn, whose contents were hashed.
    pub(super) hashed_from_mail: usize,
    /// The connections that have subscribed to a topic with limits of what the kernel keeps, and that
    /// [`ShardHub::take_limited`] has not taken.
    pub(super) limited: Vec<ConnectionId>,
    pub(super) receipts: Receipts,
    /// The time of the turn.
    now: Millis,
    /// The time of the turn for measures, in microseconds.
    pub(super) turn_us: u64,
    /// The subscriptions of all connections to topics with public names.
    pub(super) subscribed: usize,
    pub(super) histories: Histories,
    pub(super) rosters: Rosters,
    /// The subscriptions that read histories.
    pub(super) cursors: Cursors,
    /// The parts of histories that have come, and that [`ShardHub::take_resumed`] has not taken.
    pub(super) resumed: VecDeque<HistoryPart>,
    /// The notes of a simulated run.
    #[cfg(test)]
    pub(crate) journal: Option<Box<super::testing::Journal>>,
}

impl<T: Attachment> ShardHub<T> {
    /// Returns an empty hub for the shard at this end of the mesh. The epochs of its topics follow from `epoch_seed`,
    /// which must be a random number.
    #[must_use]
    pub fn new(mesh: MeshEnd, limits: HubLimits, epoch_seed: u64) -> Self {
        assert!(mesh.number() < mesh.shards(), "the hub belongs to a shard");
        ShardHub {
            connections: Connections::new(mesh.number()),
            limits,
            topics: Topics::new(limits.topics_idle_max, epoch_seed, mesh.number(), mesh.shards()),
            dirty: Vec::new(),
            paced: Paced::default(),
            encodings: Arc::default(),
            gathered: RunWeights::default(),
            takes_mail: false,
            last_gathered: None,
            spare: Vec::new(),
            encoded: BytesMut::new(),
            mesh,
            due: Due::default(),
            interest_number: 0,
            barriers: Barriers::default(),
            marks: Vec::new(),
            answered: Vec::new(),
            ids: Ids::new(limits.ids),
            hashed_from_mail: 0,
            limited: Vec::new(),
            receipts: Receipts::new(limits.receipts_max, limits.receipt_ms),
            now: Millis::default(),
            turn_us: 0,
            subscribed: 0,
            histories: Histories::default(),
            rosters: Rosters::default(),
            cursors: Cursors::default(),
            resumed: VecDeque::new(),
            #[cfg(test)]
            journal: None,
        }
    }

    /// Takes the encodings of the formats that subscribers may want beside [`Format::RAW`](super::Format::RAW).
    #[must_use]
    pub fn with_encodings(mut self, encodings: Arc<Encodings>) -> Self {
        self.encodings = encodings;
        self
    }

    /// Lets an engine order its topics. The hub must not know any of them yet.
    #[must_use]
    pub fn with_engine(mut self, engine: EngineTopics) -> Self {
        assert_eq!(self.mesh.role(engine.end), EndRole::Engine, "end {} is no engine", engine.end);
        self.topics.engine = Some(engine);
        self
    }

    /// Takes the rules of all topics. The hub must not know any topic yet.
    #[must_use]
    pub fn with_topic_rules(mut self, rules: RulesOfTopics) -> Self {
        self.topics.set_rules(rules);
        self
    }

    /// Returns the rules of all topics.
    #[must_use]
    pub fn topic_rules(&self) -> &RulesOfTopics {
        self.topics.rules()
    }

    /// Notes the time, which the shard has from its clock, and the last replacement of the topics' rules.
    ///
    /// # Panics
    ///
    /// If the time goes back.
    pub fn note_time(&mut self, now: Millis) {
        assert!(now >= self.now, "the clock goes back from {:?} to {now:?}", self.now);
        self.now = now;
        self.hashed_from_mail = 0;
        self.topics.notice_rules();
    }

    /// Notes the time of the turn, in microseconds from a beginning that the caller chooses. Only measures use it.
    pub fn note_turn(&mut self, turn_us: u64) {
        self.turn_us = turn_us;
    }

    /// Returns the time that was noted last.
    #[must_use]
    pub fn now(&self) -> Millis {
        self.now
    }

    /// Calls `step` with the topic of that name. An unknown topic is added, and is forgotten later unless `step` puts
    /// the topic to use.
    pub(super) fn with_topic<R>(&mut self, name: &TopicName, step: impl FnOnce(&mut Self, TopicId) -> R) -> R {
        let topic = self.topics.find_or_add(name);
        let result = step(self, topic);
        self.topics.notice_unused(topic);
        result
    }

    /// Returns the memory of messages that were gathered and have not yet been handed to every subscriber, in all
    /// topics.
    #[inline]
    #[must_use]
    pub fn gathered_bytes(&self) -> usize {
        self.gathered.bytes
    }

    /// Returns whether so much is gathered that the shard receives nothing. Mail does not count: a flood by mail does
    /// not close the shard to its clients.
    #[inline]
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.gathered_from_input() > self.limits.gathered_bytes_max / 4 * 3
    }

    /// Returns whether there is room to gather mail. Input does not count: a flood of input keeps no mail waiting.
    /// Publications with ids count in their turn even if they gather nothing, since they take the time of a hash.
    #[inline]
    #[must_use]
    pub fn has_room_for_mail(&self) -> bool {
        self.gathered.from_mail.max(self.hashed_from_mail) <= self.limits.gathered_bytes_max / 4
    }

    /// Returns whether [`ShardHub::take_due`] has an audience to add.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Returns when [`ShardHub::take_due`] has an audience to add, if nothing happens before.
    #[must_use]
    pub fn next_walk(&self) -> Option<Millis> {
        self.paced.next()
    }

    /// Sets the limits of gathered memory and of idle topics. What exceeds a smaller limit is sent, or forgotten, as it
    /// is at the limit.
    pub fn set_limits(&mut self, limits: HubLimits) {
        self.limits = limits;
        self.topics.idle_max = limits.topics_idle_max;
        self.ids.set_limits(limits.ids);
        self.receipts.set_limits(limits.receipts_max, limits.receipt_ms, self.now);
    }

    /// Forgets ids of publications whose time has ended, a bounded number of them.
    pub fn forget_ended_ids(&mut self) {
        self.ids.forget_ended(self.now, IDS_FORGOTTEN_PER_TICK);
    }

    /// Returns the memory of the ids of publications, in bytes.
    #[must_use]
    pub fn id_bytes(&self) -> usize {
        self.ids.bytes()
    }

    /// Returns how many publications with ids were not published so far.
    #[must_use]
    pub fn id_counts(&self) -> IdCounts {
        self.ids.counts()
    }

    /// Returns how many receipts publishers have asked this home for.
    #[must_use]
    pub fn receipt_counts(&self) -> ReceiptCounts {
        self.receipts.counts()
    }

    /// Returns when the next receipt is given up, for which [`ShardHub::expire_receipts`] must be called.
    #[must_use]
    pub fn next_receipt_end(&self) -> Option<Millis> {
        self.receipts.next_end()
    }

    /// Returns the name of a topic to which a connection is attached.
    #[must_use]
    pub fn topic_name(&self, topic: TopicId) -> &TopicName {
        &self.topics[topic].name
    }

    /// Returns the shard that orders the topic's messages.
    #[must_use]
    pub fn home(&self, name: &TopicName) -> u16 {
        self.topics.home(name)
    }

    /// Returns how many topics have their home on this shard. Topics that are only remembered count too.
    #[must_use]
    pub fn topics(&self) -> usize {
        self.topics.homes()
    }

    /// Returns topics whose home is this shard, that connections of any shard use, and whose names begin with `prefix`,
    /// from an index on: at most `most` and [`TOPICS_PER_STEP`], of at most [`LOOKS_MAX`] topics that are looked at. A
    /// topic keeps its index while it is in use.
    #[must_use]
    pub fn topic_part(&self, from: u32, most: usize, prefix: &str) -> TopicPart {
        let (mut part, count) = (TopicPart::default(), self.topics.indices());
        for index in from..count {
            if part.topics.len() == most.min(TOPICS_PER_STEP) || index - from == LOOKS_MAX {
                part.next = Some(index);
                break;
            }
            let Some(topic) = self.topics.get(TopicId(index)) else { continue };
            let TopicRole::Home(home) = &topic.role else { continue };
            let is_used = topic.attached > 0 || !home.interested.is_empty() || !home.remembering.is_empty();
            if is_used && !topic.name.is_hidden() && topic.name.as_str().starts_with(prefix) {
                part.topics.push(topic.name.clone());
            }
        }
        part
    }

    /// Returns how many subscribers the topic has on this shard.
    #[must_use]
    pub fn subscribers(&self, name: &TopicName) -> usize {
        self.topics.find(name).map_or(0, |id| self.topics[id].subscribed as usize)
    }

    /// Returns how many subscriptions all connections have to topics with public names, pending ones included.
    #[must_use]
    pub fn subscribed(&self) -> usize {
        self.subscribed
    }

    /// Returns the number of entries in the fullest lane to this shard.
    #[must_use]
    pub fn fullest_lane(&self) -> usize {
        self.mesh.fullest_lane()
    }

    /// Returns whether all requests of this shard are in the lanes to their homes.
    #[must_use]
    pub fn has_sent_requests(&self) -> bool {
        !self.mesh.has_waiting_requests()
    }

    /// Returns whether this shard has something to send to an end that is no shard, or has mail, which may become that.
    #[must_use]
    pub fn owes_external_ends(&self) -> bool {
        self.mesh.owes_external_ends() || self.mesh.has_mail()
    }

    /// Returns the memory of the deliveries and requests that wait for room in their lanes.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.mesh.waiting_bytes()
    }

    /// Returns the offset of the topic's last message; 0 before the first, or if this shard is not the topic's home.
    #[must_use]
    pub fn offset(&self, name: &TopicName) -> u64 {
        self.topics.find(name).map_or(0, |id| match &self.topics[id].role {
            TopicRole::Home(home) => home.offset,
            TopicRole::Remote(_) => 0,
        })
    }

    /// Returns the epoch of the topic's last publication, if this shard is the topic's home and knows it.
    #[cfg(test)]
    pub(super) fn epoch(&self, name: &TopicName) -> Option<u64> {
        match &self.topics[self.topics.find(name)?].role {
            TopicRole::Home(home) => Some(home.epoch),
            TopicRole::Remote(_) => None,
        }
    }

    /// Returns whether the mesh has no other shard.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.mesh.shards() == 1
    }

    /// Returns the memory of the requests and deliveries that this shard has sent and that were not taken.
    #[must_use]
    pub fn lane_bytes(&self) -> usize {
        self.mesh.bytes()
    }

    /// Returns how many requests and deliveries have found no room in a lane so far.
    #[must_use]
    pub fn overflowed(&self) -> u64 {
        self.mesh.overflowed()
    }

    /// Returns whether a home or a topic may be behind. Otherwise [`ShardHub::is_behind`] is `false` for all of them.
    #[inline]
    #[must_use]
    pub fn has_waiting(&self) -> bool {
        // A topic that is behind weighs more than the room that is left, so more than half of the room is taken.
        self.mesh.has_waiting() || self.gathered.bytes > self.room() / 2
    }

    /// Returns whether a message that goes to these homes must wait, because earlier requests or deliveries wait for
    /// room. For a topic: whether a message must wait, because the messages that the topic has gathered weigh more than
    /// the room that is left.
    ///
    /// So one topic may take half of the room, and each of `n` topics a part of 1 / (`n` + 1). A topic that has
    /// gathered nothing is never behind: only publishers to a topic wait for its walks.
    #[must_use]
    pub fn is_behind(&self, homes: Homes) -> bool {
        match homes {
            Homes::One(home) => self.mesh.is_behind(home),
            Homes::Any => self.mesh.is_congested(),
            Homes::Topic(topic) => self.gathered_for(topic) > self.room().saturating_sub(self.gathered_from_input()),
        }
    }

    /// Takes the home that has had no room for a request since the last call; of several such homes, the home with the
    /// most requests waiting. If no such home is behind any more, takes the topic that gathered the last message, if
    /// that topic is behind.
    pub fn take_behind(&mut self) -> Option<Homes> {
        let home = self.mesh.take_behind().map(Homes::One);
        let topic = self.last_gathered.take().map(Homes::Topic);
        home.into_iter().chain(topic).find(|&homes| self.is_behind(homes))
    }

    /// Returns the home, or the engine, that orders a client's messages; `None` if the messages stay on this shard.
    #[must_use]
    pub fn homes_of(&self, Publishing { topic, scope }: Publishing) -> Option<Homes> {
        match (scope, &self.topics[topic].role) {
            (Scope::Shard, _) => None,
            (Scope::Server, TopicRole::Home(home)) => Some(Homes::One(home.engine.unwrap_or(self.mesh.number()))),
            (Scope::Server, TopicRole::Remote(remote)) => Some(Homes::One(remote.home)),
        }
    }

    /// Returns the room: the bytes that all topics share for the messages of the shard's clients. The rest, up to the
    /// limit of [`ShardHub::is_full`], is for messages that come at the same time, each of which may be large.
    #[inline]
    fn room(&self) -> usize {
        self.limits.gathered_bytes_max / 2
    }

    #[inline]
    fn gathered_from_input(&self) -> usize {
        self.gathered.bytes - self.gathered.from_mail
    }

    /// Returns the memory of the messages that a topic has gathered and has not handed to every subscriber; 0 if the
    /// topic is unknown.
    fn gathered_for(&self, topic: TopicId) -> usize {
        let Some(topic) = self.topics.get(topic) else { return 0 };
        topic.audiences.iter().map(Audience::weight).sum()
    }

    /// Returns whether the mesh has something that [`ShardHub::take_delivery`] or [`ShardHub::take_request`] would
    /// take.
    #[must_use]
    pub fn has_mail(&self) -> bool {
        self.mesh.has_mail()
    }

    /// Returns whether the mesh has a delivery that was not taken.
    #[must_use]
    pub fn has_deliveries(&self) -> bool {
        self.mesh.has_deliveries()
    }

    /// Returns whether an engine has sent something that was not taken.
    #[must_use]
    pub fn has_engine_mail(&self) -> bool {
        self.topics.engine.is_some_and(|engine| self.mesh.has_request_of(engine.end))
    }

    /// Notes that the shard is about to sleep. The shard must ask [`ShardHub::has_mail`] once more after this call.
    pub fn about_to_sleep(&self) {
        self.mesh.about_to_sleep();
    }

    /// Notes that the shard is awake.
    pub fn awake(&self) {
        self.mesh.awake();
    }
}

/// The most ids that are forgotten in a tick, beside those that make room for others.
const IDS_FORGOTTEN_PER_TICK: usize = 4_096;

#[cfg(test)]
mod tests {
    use super::*;

    fn hub() -> ShardHub {
        ShardHub::new(MeshEnd::alone(), HubLimits::default(), 1)
    }

    #[test]
    fn the_time_is_that_of_the_turn() {
        let mut hub = hub();
        for now in [Millis(0), Millis(1_234), Millis(1_234), Millis(1_235)] {
            hub.note_time(now);
            assert_eq!(hub.now(), now);
        }
    }

    #[test]
    #[should_panic(expected = "the clock goes back")]
    fn the_time_does_not_go_back() {
        let mut hub = hub();
        hub.note_time(Millis(2));
        hub.note_time(Millis(1));
    }
}
