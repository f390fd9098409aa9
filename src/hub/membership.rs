//! Begins and ends subscriptions to topics.
//!
//! A subscription to a topic whose home is another shard is pending until the home has acknowledged this shard's
//! interest. A connection that opens with several topics is held until all its subscriptions can go live. A
//! subscription that resumes then becomes a cursor, which reads the topic's history (`resuming`).

use std::mem;

use super::{
    audience::AudienceId,
    connection_id::ConnectionId,
    connections::{Attachment, Connections, HubConnection, Publishing},
    cursors::Cursor,
    entry::Request,
    hub::ShardHub,
    joined::Joined,
    piece::Owed,
    publication::{OrderEnd, Scope},
    subscribe_options::SubscribeOptions,
    subscriptions::{Membership, Subscription, Subscriptions},
    topic_id::TopicId,
    topic_name::TopicName,
    topic_rules::KernelRules,
    topics::{Feed, Topic, TopicRole},
};

/// The outcome of [`ShardHub::subscribe`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subscribed {
    /// The connection is a subscriber, and is owed every message published from here on. A subscription that resumes is
    /// live at once only if the topic keeps no messages.
    Live,
    /// The connection becomes a subscriber when [`ShardHub::take_delivery`] or [`ShardHub::release`] adds the
    /// subscription to `joined`, or, if it resumes, when [`ShardHub::take_resumed`] returns it. The client must not be
    /// told before.
    Pending,
    /// The connection has had this subscription before the call. The subscription keeps its options.
    Already,
    /// Refused: the connection has [`HubLimits::subscriptions_max`](super::hub::HubLimits::subscriptions_max)
    /// subscriptions.
    TooMany,
    /// Refused: the connection is closing or gone, or its socket has failed.
    Closed,
}

impl<T: Attachment> ShardHub<T> {
    /// Makes the connection a subscriber of the topic.
    pub fn subscribe(&mut self, id: ConnectionId, name: &TopicName, options: SubscribeOptions) -> Subscribed {
        let Some(connection) = self.connections.get_mut(id) else { return Subscribed::Closed };
        if !connection.is_open() {
            return Subscribed::Closed;
        }
        let subscriptions = &mut connection.subscriptions;
        if self.topics.find(name).is_some_and(|topic| subscriptions.get(topic).is_some()) {
            return Subscribed::Already;
        }
        if subscriptions.len() + usize::from(options.has_presence) >= self.limits.subscriptions_max {
            return Subscribed::TooMany;
        }
        if options.has_presence {
            // The events are live no later than the subscription of which the client is told.
            self.subscribe(id, &name.events(), SubscribeOptions::default());
        }
        let Some(connection) = self.connections.get_mut(id) else { return Subscribed::Closed };
        let topic_id = self.topics.attach(name);
        self.topics.renew_rules(topic_id);
        if self.topics[topic_id].rules.kernel != KernelRules::default() {
            self.limited.push(id);
        }
        self.subscribed += usize::from(!name.is_everyone());
        let format = connection.io.format();
        let subscription = Subscription {
            topic: topic_id,
            membership: Membership::Pending,
            format,
            echo: options.has_echo,
            has_silent_lags: options.has_silent_lags,
            is_taken: false,
        };
        connection.subscriptions.insert(subscription);
        self.greet(id, topic_id);
        let Some(connection) = self.connections.get(id) else { return Subscribed::Closed };
        let is_held = connection.is_held;
        let topic = &mut self.topics[topic_id];
        topic.subscribed += 1;
        topic.audiences.add(format);
        let is_lossless = self.is_lossless(&subscription);
        let audience = &mut self.topics[AudienceId { topic: topic_id, format }];
        audience.subscribed += 1;
        audience.lossless += u32::from(is_lossless);
        let is_live = self.topics[topic_id].is_live();
        if let Some(resume) = options.resume {
            self.cursors.add(id, Cursor::new(topic_id, resume, options.accepts_unrecovered));
        }
        if is_live {
            let is_joined = !is_held && self.begin(id, topic_id);
            self.announce(topic_id);
            return if is_joined { Subscribed::Live } else { Subscribed::Pending };
        }
        self.add_pending(id, topic_id);
        Subscribed::Pending
    }

    /// Takes the connections that have subscribed, since the last call, to a topic with limits of the output that the
    /// kernel keeps. Each has the smallest limits of its topics.
    pub fn take_limited(&mut self) -> Vec<(ConnectionId, KernelRules)> {
        let limited = mem::take(&mut self.limited);
        limited.into_iter().map(|id| (id, self.kernel_rules(id))).collect()
    }

    fn kernel_rules(&self, id: ConnectionId) -> KernelRules {
        let connection = self.connections.get(id);
        let subscriptions = connection.map_or(&[][..], |connection| connection.subscriptions.as_slice());
        let rules = subscriptions.iter().map(|own| self.topics[own.topic].rules.kernel);
        rules.fold(KernelRules::default(), KernelRules::min)
    }

    /// Returns the end of a topic's order, at which a subscription that is live at once begins.
    #[must_use]
    pub fn order_end(&self, name: &TopicName) -> Option<OrderEnd> {
        self.topics.find(name).and_then(|topic| self.topics[topic].end())
    }

    /// Ends a subscription, and that to the topic's joins and leaves. Returns the messages that the connection is still
    /// owed of the topic: messages that were
    /// gathered before this call and have not been handed to the connection.
    ///
    /// If the connection was held because of the topic, [`ShardHub::release`] must follow.
    pub fn unsubscribe(&mut self, id: ConnectionId, name: &TopicName) -> Vec<Owed> {
        let mut owed = self.end_subscription(id, name);
        if self.connections.get(id).is_some_and(|connection| connection.subscriptions.len() > 0) {
            owed.extend(self.end_subscription(id, &name.events()));
        }
        owed
    }

    fn end_subscription(&mut self, id: ConnectionId, name: &TopicName) -> Vec<Owed> {
        let Some(topic) = self.topics.find(name) else { return Vec::new() };
        let connection = self.connections.get_mut(id);
        let Some(subscription) = connection.and_then(|connection| connection.subscriptions.remove(topic)) else {
            return Vec::new();
        };
        let owed = self.owed(id, &[subscription]);
        self.forget(id, &subscription);
        owed
    }

    /// Sends marks after the messages that the connection has published. Only topics count to which the connection has
    /// a live subscription with echo. Each other shard that is the home of such a topic gets one mark. So does an
    /// engine that orders such a topic if this shard is the topic's home. Returns how many marks were sent. Each mark
    /// comes back after the messages that were ordered before it, and [`ShardHub::take_marks`] returns the mark when
    /// these messages are gathered.
    ///
    /// If a mark is sent, the pending subscriptions end, since the connection is about to leave.
    pub fn send_marks(&mut self, id: ConnectionId) -> usize {
        let Some(connection) = self.connections.get(id).filter(|connection| connection.has_published_elsewhere) else {
            return 0;
        };
        let (mut homes, mut pending) = (Vec::new(), Vec::new());
        for &Subscription { topic, membership, echo, .. } in connection.subscriptions.as_slice() {
            match &self.topics[topic].role {
                _ if membership == Membership::Pending => pending.push(topic),
                TopicRole::Remote(remote) if echo => homes.push(remote.home),
                TopicRole::Home(home) if echo => homes.extend(home.engine),
                _ => {}
            }
        }
        homes.sort_unstable();
        homes.dedup();
        if homes.is_empty() {
            return 0;
        }
        for topic in pending {
            let connection = self.connections.get_mut(id);
            if let Some(subscription) = connection.and_then(|connection| connection.subscriptions.remove(topic)) {
                self.forget(id, &subscription);
            }
        }
        homes.iter().for_each(|&home| self.mesh.request(home, Request::Mark { id }));
        homes.len()
    }

    /// Ends all of the connection's subscriptions and returns the messages that it is owed up to now. For each topic
    /// these are, in order: the connection's share of the walk under way, unless it was handed out, and the
    /// connection's share of the runs.
    pub fn leave(&mut self, id: ConnectionId) -> Vec<Owed> {
        let subscriptions = self.take_subscriptions(id);
        let owed = self.owed(id, subscriptions.as_slice());
        subscriptions.as_slice().iter().for_each(|subscription| self.forget(id, subscription));
        owed
    }

    /// Ends all of the connection's subscriptions, and returns the number of messages that [`ShardHub::leave`] would
    /// return.
    pub fn leave_unsent(&mut self, id: ConnectionId) -> u64 {
        let subscriptions = self.take_subscriptions(id);
        let messages = self.owed_messages(id, subscriptions.as_slice());
        self.give_up(id, subscriptions.as_slice());
        subscriptions.as_slice().iter().for_each(|subscription| self.forget(id, subscription));
        messages
    }

    /// Ends all of the connection's subscriptions. The connection is owed nothing more.
    pub fn unsubscribe_all(&mut self, id: ConnectionId) {
        let subscriptions = self.take_subscriptions(id);
        self.give_up(id, subscriptions.as_slice());
        subscriptions.as_slice().iter().for_each(|subscription| self.forget(id, subscription));
    }

    /// Returns whether the connection has a subscription to a topic, which may be pending.
    #[must_use]
    pub fn has_subscription(&self, id: ConnectionId, name: &TopicName) -> bool {
        let Some(topic) = self.topics.find(name) else { return false };
        self.connections.get(id).is_some_and(|connection| connection.subscriptions.get(topic).is_some())
    }

    /// Returns the topics that the connection has subscribed to, pending ones included.
    #[must_use]
    pub fn subscriptions(&self, id: ConnectionId) -> Vec<TopicName> {
        let connection = self.connections.get(id);
        let subscriptions = connection.map_or(&[][..], |connection| connection.subscriptions.as_slice());
        subscriptions.iter().map(|subscription| self.topics[subscription.topic].name.clone()).collect()
    }

    /// Returns the first `most` topics that the connection has subscribed to, and the number of all. Neither counts
    /// hidden topics.
    #[must_use]
    pub fn some_subscriptions(&self, id: ConnectionId, most: usize) -> (Box<[TopicName]>, usize) {
        let connection = self.connections.get(id);
        let subscriptions = connection.map_or(&[][..], |connection| connection.subscriptions.as_slice());
        let names = || subscriptions.iter().map(|own| &self.topics[own.topic].name).filter(|name| !name.is_hidden());
        (names().take(most).cloned().collect(), names().count())
    }

    /// Returns whether the connection is a subscriber of the topic, and owed its messages.
    #[must_use]
    pub fn is_subscribed(&self, id: ConnectionId, name: &TopicName) -> bool {
        let subscription = self.topics.find(name).and_then(|topic| self.connections.get(id)?.subscriptions.get(topic));
        subscription.is_some_and(|subscription| subscription.membership != Membership::Pending)
    }

    /// Lets the client publish to this topic: from now on, each message that it sends is published unchanged. A shard
    /// calls this at most once for each connection.
    pub fn publish_to(&mut self, id: ConnectionId, name: &TopicName, scope: Scope) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        assert!(connection.publishes.is_none(), "a connection's messages go to one topic");
        let topic = self.topics.attach(name);
        connection.publishes = Some(Publishing { topic, scope });
        self.announce(topic);
    }

    /// Removes the connection, its subscriptions included.
    pub fn remove(&mut self, id: ConnectionId) -> Option<HubConnection<T>> {
        self.unsubscribe_all(id);
        let connection = self.connections.remove(id)?;
        if let Some(Publishing { topic, .. }) = connection.publishes {
            self.detach(topic);
        }
        Some(connection)
    }

    /// Makes all subscriptions of a held connection live, if all of them can go live: adds them to `joined`, or lets
    /// them read histories, and the connection is held no longer. Until then no message is owed for them, so nothing
    /// gathers for a client that cannot get messages yet.
    ///
    /// Returns whether the connection's opening answer may leave.
    pub fn release(&mut self, id: ConnectionId, joined: &mut Vec<Joined>) -> bool {
        let Some(connection) = self.connections.get_mut(id) else { return false };
        let subscriptions = connection.subscriptions.as_slice();
        if !connection.is_held || !subscriptions.iter().all(|own| self.topics[own.topic].is_live()) {
            return false;
        }
        let topics: Vec<TopicId> = subscriptions.iter().map(|subscription| subscription.topic).collect();
        connection.is_held = false;
        topics.into_iter().for_each(|topic| self.join_pending(id, topic, joined));
        true
    }

    /// Takes the home's acknowledgement of an interest: pending subscriptions go live if the acknowledgement is for the
    /// latest announcement. An older acknowledgement is ignored.
    pub(super) fn go_live(&mut self, topic_id: TopicId, number: u64, end: Option<OrderEnd>, joined: &mut Vec<Joined>) {
        let TopicRole::Remote(remote) = &mut self.topics[topic_id].role else {
            unreachable!("a home acknowledges to other shards")
        };
        if remote.feed != Feed::Requested || remote.number != number {
            return;
        }
        (remote.feed, remote.end) = (Feed::Live, end);
        for id in mem::take(&mut remote.pending) {
            if !is_pending(&self.connections, id, topic_id) {
                continue;
            }
            if self.connections.get(id).is_some_and(|connection| connection.is_held) {
                self.release(id, joined);
            } else {
                self.join_pending(id, topic_id, joined);
            }
        }
    }

    /// Adds a subscription to those that go live with the acknowledgement of the topic's home.
    fn add_pending(&mut self, id: ConnectionId, topic_id: TopicId) {
        let topic = &mut self.topics[topic_id];
        let TopicRole::Remote(remote) = &mut topic.role else { unreachable!("a topic is live at its home") };
        // A connection that subscribes again and again has an entry for each time.
        if remote.pending.len() >= 2 * topic.subscribed as usize + PENDING_SLACK {
            remote.pending.sort_unstable();
            remote.pending.dedup();
            remote.pending.retain(|&other| other != id && is_pending(&self.connections, other, topic_id));
        }
        remote.pending.push(id);
        if remote.feed == Feed::Off {
            remote.feed = Feed::Requested;
        }
        self.announce(topic_id);
    }

    fn join_pending(&mut self, id: ConnectionId, topic: TopicId, joined: &mut Vec<Joined>) {
        let resumes = self.cursors.has(id, topic);
        if self.begin(id, topic) {
            let Topic { name, .. } = &self.topics[topic];
            let recovered = resumes.then_some(false);
            joined.push(Joined { id, topic: name.clone(), end: self.topics[topic].end(), recovered });
        }
    }

    /// Begins a subscription to a topic that is live: makes the subscriber a member, or lets its cursor read. Returns
    /// whether the subscriber is a member.
    ///
    /// A cursor of a topic that keeps nothing has nothing to read. If it may miss messages it becomes a member at once,
    /// so that it misses none from here on.
    fn begin(&mut self, id: ConnectionId, topic: TopicId) -> bool {
        if let Some(accepts_unrecovered) = self.cursors.accepts_unrecovered(id, topic) {
            if !accepts_unrecovered || self.topics[topic].rules.kept.keeps_messages() {
                self.cursors.start(id, topic);
                return false;
            }
            self.cursors.remove(id, topic);
        }
        self.join(id, topic);
        true
    }

    fn take_subscriptions(&mut self, id: ConnectionId) -> Subscriptions<T::Note> {
        self.connections.get_mut(id).map(|connection| mem::take(&mut connection.subscriptions)).unwrap_or_default()
    }

    /// Ends the topic's side of a subscription that its connection has given up.
    fn forget(&mut self, id: ConnectionId, subscription: &Subscription) {
        let topic_id = subscription.topic;
        self.dismiss(id, topic_id);
        if !self.cursors.is_empty() {
            self.cursors.remove(id, topic_id);
        }
        self.remove_member(id, subscription);
        let is_lossless = self.is_lossless(subscription);
        let audience = &mut self.topics[subscription.audience()];
        audience.subscribed -= 1;
        audience.lossless -= u32::from(is_lossless);
        let topic = &mut self.topics[topic_id];
        assert!(topic.subscribed > 0, "a subscription was counted");
        topic.subscribed -= 1;
        self.subscribed -= usize::from(!topic.name.is_everyone());
        if topic.subscribed == 0
            && let TopicRole::Remote(remote) = &mut topic.role
        {
            remote.feed = Feed::Off;
            remote.pending = Vec::new();
        }
        self.detach(topic_id);
    }
}

/// Returns whether the connection's subscription to the topic is pending.
fn is_pending<T: Attachment>(connections: &Connections<T>, id: ConnectionId, topic: TopicId) -> bool {
    let subscription = connections.get(id).and_then(|connection| connection.subscriptions.get(topic));
    subscription.is_some_and(|subscription| subscription.membership == Membership::Pending)
}

/// `Remote::pending` is compacted when it has this many entries more than twice the number of the topic's
/// subscriptions.
pub(super) const PENDING_SLACK: usize = 64;
