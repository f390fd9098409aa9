//! Publishing: order, gather, and the walks that hand each subscriber its share. The only door for every surface.

use bytes::BytesMut;

use super::{
    Connection, ConnectionId, Connections, FrozenRun, MeshEnd, Piece, Request, Run, TopicId, TopicName,
    topics::{Interest, Member, Topics, VACANT},
};
use crate::proto::PreparedMessage;

/// Which subscribers a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scope {
    /// Those of the publisher's shard only. Not ordered against what others publish.
    Local,
    /// All subscribers of the topic, on every shard, in one order.
    #[default]
    Global,
}

/// Where a published message stands in its topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// The topic's life; a topic that was forgotten comes back with another.
    pub epoch: u64,
    /// The message's number within it, from 1.
    pub offset: u64,
}

/// The connections and topics of one shard, and what is owed between them.
///
/// Each turn: [`Hub::attach`], [`Hub::subscribe`], [`Hub::publish`] and [`Hub::remove`] as input demands; then
/// [`Hub::begin_walks`] freezes what was gathered, [`Hub::next_member`] is called until it returns `None`, and
/// [`Hub::end_walk`] closes each walk. A walk may last several turns; messages that arrive meanwhile gather in the
/// topic's next run.
#[derive(Debug)]
pub struct Hub {
    /// Every connection of the shard.
    pub connections: Connections,
    pub(super) topics: Topics,
    /// Topics whose run has something and that are not being walked; each once.
    dirty: Vec<TopicId>,
    /// Bytes in all runs, filling and frozen.
    gathered_bytes: usize,
    /// Memory of runs that have been sent, for those to come.
    spare: Vec<BytesMut>,
    pub(super) mesh: MeshEnd,
    /// Topics whose home has not been asked yet, for want of room in the lane; each once.
    pub(super) due: Vec<TopicId>,
    /// The number of the last interest announced or withdrawn, over all topics: a topic that is forgotten and comes
    /// back must not take an old acknowledgement for its own.
    pub(super) interest_number: u64,
}

/// One pass over the subscribers of a topic. It owns the run it hands out; those who were subscribed when it began are
/// its members, less those who leave before their turn.
#[derive(Debug)]
pub struct Walk {
    /// The topic being walked.
    pub topic: TopicId,
    /// What its subscribers are owed.
    pub run: FrozenRun,
    start: u32,
    visited: u32,
    length: u32,
}

impl Walk {
    /// Is the member at this index still to be visited?
    fn is_ahead_of(&self, index: u32) -> bool {
        let position = if index >= self.start { index - self.start } else { index + self.length - self.start };
        position >= self.visited
    }
}

impl Hub {
    /// An empty hub for the shard at this end of the mesh. Epochs count up from `epoch_first`, which must be larger
    /// than any epoch of an earlier process.
    #[must_use]
    pub fn new(mesh: MeshEnd, topics_idle_max: usize, epoch_first: u64) -> Self {
        Hub {
            connections: Connections::new(mesh.number()),
            topics: Topics::new(topics_idle_max, epoch_first, mesh.shards()),
            dirty: Vec::new(),
            gathered_bytes: 0,
            spare: Vec::new(),
            mesh,
            due: Vec::new(),
            interest_number: 0,
        }
    }

    /// A reference to the topic of that name for a connection about to be made; [`Hub::remove`] gives it back.
    pub fn attach(&mut self, name: &TopicName) -> TopicId {
        self.topics.attach(name)
    }

    /// Gives back a reference that became no connection.
    pub fn detach(&mut self, topic: TopicId) {
        self.topics.detach(topic);
    }

    /// Makes the connection a subscriber of its topic. Returns whether it is one already, and owed every message
    /// published from here on; if not, it will be when [`Hub::take_delivery`] says so, and must not be told before.
    pub fn subscribe(&mut self, id: ConnectionId) -> bool {
        let Some(connection) = self.connections.get_mut(id) else { return false };
        if connection.member.is_some() || connection.is_waiting {
            return connection.member.is_some();
        }
        let topic_id = connection.topic;
        let topic = &mut self.topics[topic_id];
        topic.subscribed += 1;
        if topic.home == self.mesh.number() || topic.interest == Interest::Live {
            self.join(id);
            return true;
        }
        connection.is_waiting = true;
        topic.waiting.push(id);
        if topic.interest == Interest::None {
            self.announce(topic_id, Interest::Asked);
        }
        false
    }

    /// The connection is owed nothing more of its topic.
    pub fn unsubscribe(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let member = connection.member.take();
        if member.is_none() && !std::mem::take(&mut connection.is_waiting) {
            return;
        }
        let topic_id = connection.topic;
        let topic = &mut self.topics[topic_id];
        topic.subscribed -= 1;
        match member {
            None => {}
            Some(Member::Joiner(index)) => topic.joiners[index as usize] = VACANT,
            Some(Member::Index(index)) if topic.is_walking => {
                topic.members[index as usize] = VACANT;
                topic.vacant += 1;
            }
            Some(Member::Index(index)) => {
                topic.members.swap_remove(index as usize);
                if let Some(&moved) = topic.members.get(index as usize) {
                    Self::moved(&mut self.connections, moved, index);
                }
            }
        }
        if topic.subscribed == 0 && topic.interest != Interest::None {
            self.announce(topic_id, Interest::None);
        }
    }

    /// From here on the connection is owed every message.
    pub(super) fn join(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let topic = &mut self.topics[connection.topic];
        if let Some(run) = &mut topic.run {
            run.join(id.slot());
        }
        let list = if topic.is_walking { &mut topic.joiners } else { &mut topic.members };
        let index = list.len() as u32;
        list.push(id.slot());
        connection.member = Some(if topic.is_walking { Member::Joiner(index) } else { Member::Index(index) });
    }

    /// Unsubscribes the connection and returns what it is owed up to now: its share of the walk under way if that has
    /// not come to it yet, and of what has been gathered since.
    pub fn leave<'a>(&mut self, id: ConnectionId, mut walks: impl Iterator<Item = &'a Walk>) -> Vec<Piece> {
        let Some(connection) = self.connections.get(id) else { return Vec::new() };
        let Some(member) = connection.member else { return Vec::new() };
        let topic = connection.topic;
        let mut owed = Vec::new();
        if let Member::Index(index) = member
            && let Some(walk) = walks.find(|walk| walk.topic == topic && walk.is_ahead_of(index))
        {
            owed = walk.run.owed(id.slot());
        }
        if let Some(run) = &mut self.topics[topic].run {
            owed.extend(run.owed(id.slot()));
        }
        self.unsubscribe(id);
        owed
    }

    /// Takes the connection out of everything.
    pub fn remove(&mut self, id: ConnectionId) -> Option<Connection> {
        self.unsubscribe(id);
        let connection = self.connections.remove(id)?;
        self.topics.detach(connection.topic);
        Some(connection)
    }

    /// Publishes a message of this shard. `source` does not receive it unless it asked for the echo.
    ///
    /// Returns its place in the topic's order if this shard is the topic's home. If not, the message is on its way
    /// there, and comes back with those of everybody else. A message of local scope has no place in the order.
    pub fn publish(
        &mut self,
        topic: TopicId,
        source: Option<ConnectionId>,
        message: &PreparedMessage,
        scope: Scope,
    ) -> Option<Published> {
        let home = self.topics[topic].home;
        match scope {
            Scope::Local => {
                self.gather(topic, source, message);
                None
            }
            Scope::Global if home == self.mesh.number() => Some(self.order(topic, source, message)),
            Scope::Global => {
                let (topic, message) = (self.topics[topic].name.clone(), message.clone());
                self.mesh.request(home, Request::Publish { topic, source, message });
                None
            }
        }
    }

    /// Gathers the message for the topic's subscribers on this shard.
    pub(super) fn gather(&mut self, topic: TopicId, source: Option<ConnectionId>, message: &PreparedMessage) {
        let except = source.filter(|&id| self.connections.get(id).is_some_and(|c| !c.echo && c.is_subscribed()));
        let entry = &mut self.topics[topic];
        if entry.members.len() == entry.vacant as usize && entry.joiners.is_empty() {
            return;
        }
        if entry.run.is_none() {
            entry.run = Some(Box::new(Run::new(self.spare.pop().unwrap_or_default())));
            if !entry.is_walking {
                self.dirty.push(topic);
            }
        }
        if let Some(run) = &mut entry.run {
            run.append(message, except.map(ConnectionId::slot));
            self.gathered_bytes += message.frame().len();
        }
    }

    /// Bytes gathered and not yet handed to every subscriber, in all topics.
    #[must_use]
    pub fn gathered_bytes(&self) -> usize {
        self.gathered_bytes
    }

    /// Does [`Hub::begin_walks`] have something to begin?
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Freezes the run of every topic that has one and is not being walked.
    pub fn begin_walks(&mut self, walks: &mut impl Extend<Walk>) {
        let topics = &mut self.topics;
        walks.extend(self.dirty.drain(..).map(|id| {
            let topic = &mut topics[id];
            let run = topic.run.take().expect("a dirty topic has a run").freeze();
            let length = topic.members.len() as u32;
            topic.is_walking = true;
            // A step that shares no divisor with most lengths: over many walks every subscriber is early and late.
            topic.rotation = topic.rotation.wrapping_add(ROTATION_STEP);
            let start = topic.rotation.checked_rem(length).unwrap_or(0);
            Walk { topic: id, run, start, visited: 0, length }
        }));
    }

    /// The slot of the walk's next subscriber.
    pub fn next_member(&self, walk: &mut Walk) -> Option<u32> {
        let members = &self.topics[walk.topic].members;
        while walk.visited < walk.length {
            let index = walk.start + walk.visited;
            walk.visited += 1;
            let index = if index < walk.length { index } else { index - walk.length };
            let slot = members[index as usize];
            if slot != VACANT {
                return Some(slot);
            }
        }
        None
    }

    /// Ends a walk: those who left make room, those who joined become members, and what was gathered meanwhile is
    /// dirty.
    pub fn end_walk(&mut self, walk: Walk) {
        let topic = &mut self.topics[walk.topic];
        topic.is_walking = false;
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
                Self::moved(&mut self.connections, moved, index as u32);
            }
        }
        for slot in std::mem::take(&mut topic.joiners) {
            if slot != VACANT {
                topic.members.push(slot);
                Self::moved(&mut self.connections, slot, topic.members.len() as u32 - 1);
            }
        }
        if topic.run.is_some() {
            self.dirty.push(walk.topic);
        }
        if topic.attached == 0 {
            topic.forget_members();
        }
        self.gathered_bytes -= walk.run.bytes();
        if let Some(buffer) = walk.run.into_buffer()
            && self.spare.len() < SPARE_BUFFERS_MAX
            && buffer.capacity() <= SPARE_BYTES_MAX
        {
            self.spare.push(buffer);
        }
        self.topics.forget_idle();
    }

    /// How many subscribers the topic has on this shard.
    #[must_use]
    pub fn subscribers(&self, name: &TopicName) -> usize {
        self.topics.find(name).map_or(0, |id| self.topics[id].subscribed as usize)
    }

    /// The number of the topic's last message; 0 if there was none, or if the topic is not known.
    #[must_use]
    pub fn offset(&self, name: &TopicName) -> u64 {
        self.topics.find(name).map_or(0, |id| self.topics[id].offset)
    }

    fn moved(connections: &mut Connections, slot: u32, index: u32) {
        connections.at_mut(slot).expect("a subscriber is a connection").member = Some(Member::Index(index));
    }
}

/// About the golden ratio of 2³², and odd.
const ROTATION_STEP: u32 = 0x9e37_79b1;

/// Memory kept for runs to come: a few buffers, none of them large.
const SPARE_BUFFERS_MAX: usize = 16;
const SPARE_BYTES_MAX: usize = 256 * 1_024;

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::{
        hub::testing,
        proto::{Role, Tick, WebSocket},
    };

    fn hub() -> Hub {
        Hub::new(MeshEnd::alone(), 4, 100)
    }

    fn join(hub: &mut Hub, topic: &str, echo: bool) -> ConnectionId {
        let topic = hub.attach(&TopicName::new(topic).unwrap());
        let connection = Connection::new(WebSocket::new(Role::Server, Tick(0)), topic, true, echo);
        let id = hub.connections.insert(connection).unwrap();
        hub.subscribe(id);
        id
    }

    fn publish(hub: &mut Hub, source: ConnectionId, text: &str) -> u64 {
        let topic = hub.connections.get(source).unwrap().topic;
        hub.publish(topic, Some(source), &PreparedMessage::text(text), Scope::Global).expect("at home").offset
    }

    /// Begins and finishes every walk, and returns who got what.
    fn flush(hub: &mut Hub) -> BTreeMap<u32, Vec<String>> {
        let mut received = BTreeMap::new();
        let mut walks = Vec::new();
        hub.begin_walks(&mut walks);
        for mut walk in walks {
            while let Some(slot) = hub.next_member(&mut walk) {
                received.entry(slot).or_insert_with(Vec::new).extend(texts(&walk, slot));
            }
            hub.end_walk(walk);
        }
        received
    }

    fn texts(walk: &Walk, slot: u32) -> Vec<String> {
        testing::texts(&walk.run.owed(slot))
    }

    #[test]
    fn everybody_but_the_source() {
        let mut hub = hub();
        let (a, b, c) = (join(&mut hub, "t", false), join(&mut hub, "t", true), join(&mut hub, "other", false));
        assert_eq!(publish(&mut hub, a, "1"), 1);
        assert_eq!(publish(&mut hub, b, "2"), 2);
        let received = flush(&mut hub);
        assert_eq!(received[&a.slot()], ["2"]);
        assert_eq!(received[&b.slot()], ["1", "2"]);
        assert!(!received.contains_key(&c.slot()));
        assert_eq!(hub.gathered_bytes(), 0);
    }

    #[test]
    fn without_subscribers_only_the_offset_moves() {
        let mut hub = hub();
        let a = join(&mut hub, "t", false);
        hub.unsubscribe(a);
        assert_eq!(publish(&mut hub, a, "1"), 1);
        assert_eq!(publish(&mut hub, a, "2"), 2);
        assert!(!hub.is_dirty());
        assert_eq!(hub.gathered_bytes(), 0);
    }

    #[test]
    fn walks_begin_at_different_members() {
        let mut hub = hub();
        let all: Vec<_> = (0..10).map(|_| join(&mut hub, "t", true)).collect();
        let mut firsts = BTreeSet::new();
        for _ in 0..40 {
            publish(&mut hub, all[0], "x");
            let mut walks = Vec::new();
            hub.begin_walks(&mut walks);
            let mut walk = walks.pop().unwrap();
            firsts.insert(hub.next_member(&mut walk).unwrap());
            hub.end_walk(walk);
        }
        assert!(firsts.len() >= 8, "{firsts:?}");
    }

    #[derive(Debug, Clone)]
    enum Step {
        Join(bool),
        Leave(usize),
        Publish(usize),
        BeginWalks,
        Walk(usize),
        EndWalks,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => any::<bool>().prop_map(Step::Join),
            2 => (0..64_usize).prop_map(Step::Leave),
            4 => (0..64_usize).prop_map(Step::Publish),
            2 => Just(Step::BeginWalks),
            4 => (1..4_usize).prop_map(Step::Walk),
            1 => Just(Step::EndWalks),
        ];
        prop::collection::vec(step, 0..120)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        /// Whoever joins, leaves and publishes in the middle of a walk: each subscriber sees every message after its
        /// joining once and in order, less its own.
        #[test]
        fn every_subscriber_sees_every_message_once(steps in steps()) {
            let mut hub = hub();
            let mut live: Vec<ConnectionId> = Vec::new();
            let mut owed: BTreeMap<u32, Vec<String>> = BTreeMap::new();
            let mut seen: BTreeMap<u32, Vec<String>> = BTreeMap::new();
            let mut walks: Vec<Walk> = Vec::new();
            let mut count = 0;
            let visit = |hub: &mut Hub, walks: &mut Vec<Walk>, seen: &mut BTreeMap<u32, Vec<String>>, most: usize| {
                for _ in 0..most {
                    let Some(walk) = walks.last_mut() else { return };
                    match hub.next_member(walk) {
                        Some(slot) => seen.get_mut(&slot).unwrap().extend(texts(walk, slot)),
                        None => hub.end_walk(walks.pop().unwrap()),
                    }
                }
            };
            for step in steps {
                match step {
                    Step::Join(echo) => {
                        let id = join(&mut hub, "t", echo);
                        live.push(id);
                        owed.insert(id.slot(), Vec::new());
                        seen.insert(id.slot(), Vec::new());
                    }
                    Step::Leave(which) if !live.is_empty() => {
                        let id = live.swap_remove(which % live.len());
                        let last = hub.leave(id, walks.iter());
                        hub.remove(id);
                        let (owed, mut seen) = (owed.remove(&id.slot()).unwrap(), seen.remove(&id.slot()).unwrap());
                        let messages: u32 = last.iter().map(|piece| piece.messages).sum();
                        prop_assert_eq!(testing::texts(&last).len(), messages as usize);
                        seen.extend(testing::texts(&last));
                        prop_assert_eq!(owed, seen);
                    }
                    Step::Publish(which) if !live.is_empty() => {
                        let source = live[which % live.len()];
                        count += 1;
                        let text = count.to_string();
                        publish(&mut hub, source, &text);
                        for id in &live {
                            if *id != source || hub.connections.get(*id).unwrap().echo {
                                owed.get_mut(&id.slot()).unwrap().push(text.clone());
                            }
                        }
                    }
                    Step::Leave(_) | Step::Publish(_) => {}
                    Step::BeginWalks => hub.begin_walks(&mut walks),
                    Step::Walk(most) => visit(&mut hub, &mut walks, &mut seen, most),
                    Step::EndWalks => visit(&mut hub, &mut walks, &mut seen, 1_000),
                }
            }
            while !walks.is_empty() || hub.is_dirty() {
                hub.begin_walks(&mut walks);
                visit(&mut hub, &mut walks, &mut seen, 1_000);
            }
            prop_assert_eq!(owed, seen);
            prop_assert_eq!(hub.gathered_bytes(), 0);
            let topic = TopicName::new("t").unwrap();
            prop_assert_eq!(hub.subscribers(&topic), live.len());
        }
    }
}
