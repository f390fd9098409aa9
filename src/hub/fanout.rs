//! Fan-out: what is gathered for the members of a topic, and the walks that hand each of them its share.

use std::mem;

use super::{
    connection_id::ConnectionId,
    connections::{Attachment, Connections},
    hub::Hub,
    run::{FrozenRun, Piece, Run},
    subscriptions::{Membership, Subscription},
    topics::{Topic, TopicId},
    walk::{VACANT, Walk},
};
use crate::proto::PreparedMessage;

impl<T: Attachment> Hub<T> {
    /// Gathers the message for the topic's subscribers on this shard.
    pub(super) fn gather(&mut self, topic: TopicId, source: Option<ConnectionId>, message: &PreparedMessage) {
        let subscription = source.and_then(|id| self.connections.get(id)?.subscriptions.get(topic));
        let excludes = subscription.is_some_and(|own| !own.echo && own.membership != Membership::Pending);
        let entry = &mut self.topics[topic];
        if entry.members.len() == entry.vacant as usize && entry.joining.is_empty() {
            return;
        }
        if entry.run.is_none() {
            entry.run = Some(Box::new(Run::new(self.spare.pop().unwrap_or_default())));
            if entry.walk.is_none() {
                self.dirty.push(topic);
            }
        }
        if let Some(run) = &mut entry.run {
            let except = source.filter(|_| excludes).map(ConnectionId::slot);
            change(&mut self.gathered_bytes, run, |run| run.append(message, except));
        }
    }

    /// Freezes the run of every topic that has one and no walk. Each of these topics begins a walk, and is added to
    /// `walks`.
    pub fn begin_walks(&mut self, walks: &mut impl Extend<TopicId>) {
        for &id in &self.dirty {
            let topic = &mut self.topics[id];
            assert!(topic.walk.is_none(), "a topic has one walk at a time");
            let run = topic.run.take().expect("a dirty topic has a run");
            let before = run.weight();
            let run = run.freeze();
            self.gathered_bytes = self.gathered_bytes - before + run.weight();
            // A step that shares no divisor with most lengths: over many walks every subscriber is early and late.
            topic.rotation = topic.rotation.wrapping_add(ROTATION_STEP);
            topic.walk = Some(Box::new(Walk::new(run, topic.members.len() as u32, topic.rotation)));
        }
        walks.extend(self.dirty.drain(..));
    }

    /// Returns what the walk of this topic hands out.
    ///
    /// # Panics
    ///
    /// If the topic has no walk, as the four methods below.
    #[inline]
    #[must_use]
    pub fn run(&self, topic: TopicId) -> &FrozenRun {
        &self.topics[topic].walk.as_ref().expect(WALKING).run
    }

    /// Returns what the walk of this topic owes the subscriber at `slot`, in pieces that may be kept for long.
    #[must_use]
    pub fn owed_by_walk(&mut self, topic: TopicId, slot: u32) -> Vec<Piece> {
        self.topics[topic].walk.as_mut().expect(WALKING).run.owed(slot)
    }

    /// Returns the slot of the next subscriber that the topic's walk visits.
    pub fn next_member(&mut self, topic: TopicId) -> Option<u32> {
        let Topic { members, walk, .. } = &mut self.topics[topic];
        walk.as_mut().expect(WALKING).next(members)
    }

    /// Takes back the last member that [`Hub::next_member`] has returned, which returns it once more.
    pub fn step_back(&mut self, topic: TopicId) {
        self.topics[topic].walk.as_mut().expect(WALKING).step_back();
    }

    /// Ends the topic's walk: vacant places of members are filled, joining subscriptions become members, and the topic
    /// is dirty if messages were gathered meanwhile.
    pub fn end_walk(&mut self, id: TopicId) {
        let topic = &mut self.topics[id];
        let run = topic.walk.take().expect(WALKING).run;
        let mut index = 0;
        while topic.vacant > 0 {
            if topic.members[index] != VACANT {
                index += 1;
                continue;
            }
            topic.members.swap_remove(index);
            topic.vacant -= 1;
            if let Some(&moved) = topic.members.get(index)
                && moved != VACANT
            {
                note_membership(&mut self.connections, moved, id, Membership::Member(index as u32));
            }
        }
        for slot in mem::take(&mut topic.joining) {
            let index = topic.members.len() as u32;
            topic.members.push(slot);
            note_membership(&mut self.connections, slot, id, Membership::Member(index));
        }
        if topic.run.is_some() {
            self.dirty.push(id);
        }
        if topic.attached == 0 {
            topic.forget_members();
        }
        self.gathered_bytes -= run.weight();
        if let Some(buffer) = run.into_buffer()
            && self.spare.len() < SPARE_BUFFERS_MAX
            && buffer.capacity() <= SPARE_BYTES_MAX
        {
            self.spare.push(buffer);
        }
        self.topics.forget_idle();
    }

    /// Makes a pending subscription live: from here on the connection is owed every message of the topic.
    pub(super) fn join(&mut self, id: ConnectionId, topic_id: TopicId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let Some(subscription) = connection.subscriptions.get_mut(topic_id) else { return };
        assert_eq!(subscription.membership, Membership::Pending, "a subscription joins once");
        let topic = &mut self.topics[topic_id];
        if let Some(run) = &mut topic.run {
            change(&mut self.gathered_bytes, run, |run| run.join(id.slot()));
        }
        let list = if topic.walk.is_some() { &mut topic.joining } else { &mut topic.members };
        let index = list.len() as u32;
        list.push(id.slot());
        subscription.membership =
            if topic.walk.is_some() { Membership::Joining(index) } else { Membership::Member(index) };
    }

    /// Removes the connection from the members of a topic, which its subscription was until now.
    pub(super) fn remove_member(&mut self, id: ConnectionId, topic_id: TopicId, membership: Membership) {
        let topic = &mut self.topics[topic_id];
        let (list, index) = match membership {
            Membership::Pending => return,
            Membership::Joining(index) => (&mut topic.joining, index),
            Membership::Member(index) => (&mut topic.members, index),
        };
        let place = &mut list[index as usize];
        assert_eq!(*place, id.slot(), "a member stands where its subscription says");
        if matches!(membership, Membership::Member(_)) && topic.walk.is_some() {
            *place = VACANT;
            topic.vacant += 1;
            return;
        }
        list.swap_remove(index as usize);
        if let Some(&moved) = list.get(index as usize) {
            note_membership(&mut self.connections, moved, topic_id, membership);
        }
    }

    /// Returns what these subscriptions of a connection are owed and has not been handed to it.
    pub(super) fn owed(&mut self, id: ConnectionId, subscriptions: &[Subscription]) -> Vec<Piece> {
        let mut owed = Vec::new();
        for subscription in subscriptions {
            let topic = &mut self.topics[subscription.topic];
            if let Membership::Member(index) = subscription.membership
                && let Some(walk) = &mut topic.walk
                && walk.is_ahead_of(index)
            {
                owed.extend(walk.run.owed(id.slot()));
            }
            if subscription.membership != Membership::Pending
                && let Some(run) = &mut topic.run
            {
                owed.extend(change(&mut self.gathered_bytes, run, |run| run.owed(id.slot())));
            }
        }
        owed
    }
}

/// Notes in the subscription of the connection at `slot` where it stands among the members of the topic now.
fn note_membership<T: Attachment>(connections: &mut Connections<T>, slot: u32, topic: TopicId, membership: Membership) {
    let connection = connections.at_mut(slot).expect("a member is a connection");
    connection.subscriptions.get_mut(topic).expect("a member has a subscription").membership = membership;
}

/// Changes a run, and the weight of all runs by what the run's weight changes. An empty run does not count yet.
#[inline]
fn change<R>(gathered_bytes: &mut usize, run: &mut Run, change: impl FnOnce(&mut Run) -> R) -> R {
    let before = if run.is_empty() { 0 } else { run.weight() };
    let result = change(run);
    *gathered_bytes = *gathered_bytes - before + run.weight();
    result
}

const WALKING: &str = "the topic has a walk";

/// About the golden ratio of 2³², and odd.
const ROTATION_STEP: u32 = 0x9e37_79b1;

const _: () = assert!(!ROTATION_STEP.is_multiple_of(2), "walks over 2ⁿ members begin at each of them");

/// Memory kept for runs to come: a few buffers, none of them large.
const SPARE_BUFFERS_MAX: usize = 16;
const SPARE_BYTES_MAX: usize = 256 * 1_024;

/// Bytes of runs that were sent and are kept for runs to come.
pub const SPARE_RUN_BYTES_MAX: usize = SPARE_BUFFERS_MAX * SPARE_BYTES_MAX;

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::{
        hub::{Connection, HubLimits, MeshEnd, Scope, Subscribed, TopicName, testing},
        proto::{Role, Tick, WebSocket},
    };

    fn hub() -> Hub {
        let mut hub: Hub = Hub::new(MeshEnd::alone(), HubLimits { subscriptions_max: 4, topics_idle_max: 4 }, 100);
        // Slots are used again within a run.
        hub.connections.let_rest(0);
        hub
    }

    fn name(topic: &str) -> TopicName {
        TopicName::new(topic).unwrap()
    }

    fn connect(hub: &mut Hub) -> ConnectionId {
        hub.connections.insert(Connection::new(WebSocket::new(Role::Server, Tick(0)), ())).unwrap()
    }

    fn join(hub: &mut Hub, topic: &str, echo: bool) -> ConnectionId {
        let id = connect(hub);
        assert_eq!(hub.subscribe(id, &name(topic), echo), Subscribed::Live);
        id
    }

    fn publish(hub: &mut Hub, source: ConnectionId, topic: &str, text: &str) -> u64 {
        let message = PreparedMessage::text(text);
        hub.publish_by_name(&name(topic), Some(source), &message, Scope::Server).expect("at home").offset
    }

    /// Begins and finishes every walk, and returns what each slot got.
    fn flush(hub: &mut Hub) -> BTreeMap<u32, Vec<String>> {
        let mut received = BTreeMap::new();
        let mut walks = Vec::new();
        hub.begin_walks(&mut walks);
        for walk in walks {
            while let Some(slot) = hub.next_member(walk) {
                received.entry(slot).or_insert_with(Vec::new).extend(texts(hub, walk, slot));
            }
            hub.end_walk(walk);
        }
        received
    }

    fn texts(hub: &mut Hub, walk: TopicId, slot: u32) -> Vec<String> {
        testing::texts(&hub.owed_by_walk(walk, slot))
    }

    #[test]
    fn every_subscriber_but_the_source_gets_a_message() {
        let mut hub = hub();
        let (a, b, c) = (join(&mut hub, "t", false), join(&mut hub, "t", true), join(&mut hub, "other", false));
        assert_eq!(publish(&mut hub, a, "t", "1"), 1);
        assert_eq!(publish(&mut hub, b, "t", "2"), 2);
        assert_eq!(publish(&mut hub, c, "t", "3"), 3);
        let received = flush(&mut hub);
        assert_eq!(received[&a.slot()], ["2", "3"]);
        assert_eq!(received[&b.slot()], ["1", "2", "3"]);
        assert!(!received.contains_key(&c.slot()));
        assert_eq!(hub.gathered_bytes(), 0);
    }

    #[test]
    fn the_echo_is_for_each_subscription() {
        let mut hub = hub();
        let a = join(&mut hub, "quiet", false);
        assert_eq!(hub.subscribe(a, &name("echoing"), true), Subscribed::Live);
        publish(&mut hub, a, "quiet", "1");
        publish(&mut hub, a, "echoing", "2");
        assert_eq!(flush(&mut hub)[&a.slot()], ["2"]);
    }

    #[test]
    fn subscribing_has_an_outcome_for_each_state() {
        let mut hub = hub();
        let id = join(&mut hub, "0", false);
        let mut check = |topic: &str, expected| assert_eq!(hub.subscribe(id, &name(topic), true), expected, "{topic}");
        check("0", Subscribed::Already);
        check("1", Subscribed::Live);
        check("2", Subscribed::Live);
        check("3", Subscribed::Live);
        check("4", Subscribed::TooMany);
        check("3", Subscribed::Already);
        assert_eq!(hub.subscribers(&name("4")), 0);
        hub.unsubscribe(id, &name("1"));
        assert_eq!(hub.subscribe(id, &name("4"), true), Subscribed::Live);
        let connection = hub.connections.get_mut(id).unwrap();
        connection.websocket.close(Tick(0), crate::proto::CloseCode::NORMAL, "", &mut Vec::new());
        assert_eq!(hub.subscribe(id, &name("5"), true), Subscribed::Closed);
        hub.remove(id);
        assert_eq!(hub.subscribe(id, &name("5"), true), Subscribed::Closed);
        assert!((0..6).all(|topic| hub.subscribers(&name(&topic.to_string())) == 0));
    }

    #[test]
    fn without_subscribers_only_the_offset_moves() {
        let mut hub = hub();
        let a = join(&mut hub, "t", false);
        hub.unsubscribe(a, &name("t"));
        assert_eq!(publish(&mut hub, a, "t", "1"), 1);
        assert_eq!(publish(&mut hub, a, "t", "2"), 2);
        assert!(!hub.is_dirty());
        assert_eq!(hub.gathered_bytes(), 0);
    }

    /// Publishing to many names makes no topic last.
    #[test]
    fn topics_that_are_only_published_to_are_forgotten() {
        let mut hub = hub();
        let a = connect(&mut hub);
        for topic in 0..100 {
            assert_eq!(publish(&mut hub, a, &topic.to_string(), "1"), 1);
        }
        assert_eq!((hub.offset(&name("95")), hub.offset(&name("96"))), (0, 1));
        hub.publish_by_name(&name("local"), Some(a), &PreparedMessage::text("1"), Scope::Shard);
        assert_eq!(hub.offset(&name("96")), 1, "a message without receivers makes no topic");
    }

    /// A subscriber that comes and goes all through a walk takes no more room than one that came once.
    #[test]
    fn coming_and_going_during_a_walk_takes_no_room() {
        let mut hub = hub();
        let (a, b) = (join(&mut hub, "t", true), join(&mut hub, "t", true));
        publish(&mut hub, a, "t", "1");
        let mut walks = Vec::new();
        hub.begin_walks(&mut walks);
        for _ in 0..1_000 {
            hub.unsubscribe(b, &name("t"));
            hub.subscribe(b, &name("t"), true);
        }
        let topic = &hub.topics[walks[0]];
        assert_eq!((topic.members.len(), topic.joining.len()), (2, 1));
        hub.end_walk(walks.pop().unwrap());
        assert_eq!(hub.subscribers(&name("t")), 2);
    }

    #[test]
    fn walks_begin_at_different_members() {
        let mut hub = hub();
        let all: Vec<_> = (0..10).map(|_| join(&mut hub, "t", true)).collect();
        let mut firsts = BTreeSet::new();
        for _ in 0..40 {
            publish(&mut hub, all[0], "t", "x");
            let mut walks = Vec::new();
            hub.begin_walks(&mut walks);
            let walk = walks.pop().unwrap();
            let first = hub.next_member(walk).unwrap();
            hub.step_back(walk);
            assert_eq!(hub.next_member(walk), Some(first));
            firsts.insert(first);
            hub.end_walk(walk);
        }
        assert!(firsts.len() >= 8, "{firsts:?}");
    }

    #[derive(Debug, Clone)]
    enum Step {
        Connect,
        Subscribe(usize, usize, bool),
        Unsubscribe(usize, usize),
        Leave(usize),
        Publish(usize, usize),
        BeginWalks,
        Walk(usize, usize),
        EndWalks,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            2 => Just(Step::Connect),
            4 => (0..64_usize, 0..TOPICS.len(), any::<bool>()).prop_map(|(a, b, c)| Step::Subscribe(a, b, c)),
            2 => (0..64_usize, 0..TOPICS.len()).prop_map(|(a, b)| Step::Unsubscribe(a, b)),
            1 => (0..64_usize).prop_map(Step::Leave),
            5 => (0..64_usize, 0..TOPICS.len()).prop_map(|(a, b)| Step::Publish(a, b)),
            2 => Just(Step::BeginWalks),
            4 => (0..4_usize, 1..4_usize).prop_map(|(a, b)| Step::Walk(a, b)),
            1 => Just(Step::EndWalks),
        ];
        prop::collection::vec(step, 0..160)
    }

    const TOPICS: [&str; 3] = ["a", "b", "c"];

    /// What each subscription is owed, and has seen, by slot and topic; the obvious way beside the clever one.
    #[derive(Default)]
    struct Model {
        live: Vec<ConnectionId>,
        owed: BTreeMap<(u32, usize), Vec<String>>,
        seen: BTreeMap<(u32, usize), Vec<String>>,
        echoes: BTreeMap<(u32, usize), bool>,
        walks: Vec<TopicId>,
        count: usize,
    }

    impl Model {
        /// The messages say which topic they are of.
        fn see(&mut self, slot: u32, texts: Vec<String>) {
            for text in texts {
                let topic = TOPICS.iter().position(|topic| text.starts_with(topic)).unwrap();
                self.seen.get_mut(&(slot, topic)).expect("nothing of what it is not subscribed to").push(text);
            }
        }

        /// A subscription is over: it has had everything.
        fn end(&mut self, slot: u32, topic: usize) {
            assert_eq!(self.owed.remove(&(slot, topic)), self.seen.remove(&(slot, topic)));
            self.echoes.remove(&(slot, topic));
        }

        fn take(&mut self, slot: u32, last: &[Piece]) {
            let messages: u32 = last.iter().map(|piece| piece.messages).sum();
            assert_eq!(testing::texts(last).len(), messages as usize);
            self.see(slot, testing::texts(last));
        }

        fn visit(&mut self, hub: &mut Hub, which: usize, most: usize) {
            for _ in 0..most {
                if self.walks.is_empty() {
                    return;
                }
                let which = which % self.walks.len();
                match hub.next_member(self.walks[which]) {
                    Some(slot) => self.see(slot, texts(hub, self.walks[which], slot)),
                    None => hub.end_walk(self.walks.swap_remove(which)),
                }
            }
        }

        fn step(&mut self, hub: &mut Hub, step: Step) {
            let some = |which: usize| self.live.get(which % self.live.len().max(1)).copied();
            match step {
                Step::Connect => self.live.push(connect(hub)),
                Step::Subscribe(which, topic, echo) => {
                    let Some(id) = some(which) else { return };
                    let is_new = hub.subscribe(id, &name(TOPICS[topic]), echo) == Subscribed::Live;
                    assert_eq!(is_new, !self.owed.contains_key(&(id.slot(), topic)));
                    if is_new {
                        self.owed.insert((id.slot(), topic), Vec::new());
                        self.seen.insert((id.slot(), topic), Vec::new());
                        self.echoes.insert((id.slot(), topic), echo);
                    }
                }
                Step::Unsubscribe(which, topic) => {
                    let Some(id) = some(which) else { return };
                    let last = hub.unsubscribe(id, &name(TOPICS[topic]));
                    self.take(id.slot(), &last);
                    self.end(id.slot(), topic);
                }
                Step::Leave(which) => {
                    let Some(id) = some(which) else { return };
                    self.live.retain(|&other| other != id);
                    let last = hub.leave(id);
                    hub.remove(id);
                    self.take(id.slot(), &last);
                    (0..TOPICS.len()).for_each(|topic| self.end(id.slot(), topic));
                }
                Step::Publish(which, topic) => {
                    let Some(id) = some(which) else { return };
                    self.count += 1;
                    let text = format!("{}{}", TOPICS[topic], self.count);
                    publish(hub, id, TOPICS[topic], &text);
                    for (&(slot, of), owed) in &mut self.owed {
                        if of == topic && (slot != id.slot() || self.echoes[&(slot, of)]) {
                            owed.push(text.clone());
                        }
                    }
                }
                Step::BeginWalks => hub.begin_walks(&mut self.walks),
                Step::Walk(which, most) => self.visit(hub, which, most),
                Step::EndWalks => self.visit(hub, 0, 1_000),
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        /// Connections subscribe, leave and publish in the middle of walks: each subscription brings every message
        /// between its two ends once and in order, without its connection's own.
        #[test]
        fn every_subscriber_sees_every_message_once(steps in steps()) {
            let mut hub = hub();
            let mut model = Model::default();
            for step in steps {
                model.step(&mut hub, step);
            }
            while !model.walks.is_empty() || hub.is_dirty() {
                hub.begin_walks(&mut model.walks);
                model.visit(&mut hub, 0, 1_000);
            }
            prop_assert_eq!(&model.owed, &model.seen);
            prop_assert_eq!(hub.gathered_bytes(), 0);
            for (number, topic) in TOPICS.iter().enumerate() {
                let subscribers = model.owed.keys().filter(|&&(_, of)| of == number).count();
                prop_assert_eq!(hub.subscribers(&name(topic)), subscribers);
                for id in &model.live {
                    let expected = model.owed.contains_key(&(id.slot(), number));
                    prop_assert_eq!(hub.is_subscribed(*id, &name(topic)), expected);
                }
            }
            for id in model.live {
                hub.remove(id);
            }
            let mut topics = TOPICS.iter().filter_map(|topic| hub.topics.find(&name(topic)));
            prop_assert!(topics.all(|id| hub.topics[id].attached == 0 && hub.topics[id].members.is_empty()));
        }
    }
}
