//! An end of the mesh that is no shard: it publishes, sends commands, takes the answers, and reads topics.

use std::sync::Arc;

use super::{
    command::{Command, Reply},
    connection_id::ConnectionId,
    encoding::DearFormats,
    entry::{Delivery, Interest, Placed, Request, Unplaced},
    feeds::{Begun, Feeds},
    mesh::MeshEnd,
    publication::{Place, Posted, Publication},
    topic_name::{TopicName, home},
};

/// An end of the mesh that is no shard. It has no connections and no topics.
///
/// The owner calls [`ExternalEnd::submit`] and [`ExternalEnd::command`] for shards that are not behind
/// ([`ExternalEnd::is_behind`]), and then [`ExternalEnd::send_out`]. The owner takes what comes back by
/// [`ExternalEnd::next_arrival`], and calls [`ExternalEnd::may_sleep`] before it sleeps.
#[derive(Debug)]
pub struct ExternalEnd {
    mesh: MeshEnd,
    /// How many shards have sent their barrier to this engine.
    barriers: u16,
    /// The topics that the end reads.
    feeds: Feeds,
}

/// What comes from the shards to an external end.
#[derive(Debug, Clone)]
pub enum Arrival {
    /// The answer to a submitted publication or a command.
    Answer {
        /// Its ticket.
        ticket: u64,
        /// The answer.
        reply: Reply,
    },
    /// The readers of a topic that have waited get every message of the topic from here on.
    Live {
        /// The topic.
        topic: TopicName,
    },
    /// The next message of a topic that is read.
    Message {
        /// The publication.
        posted: Arc<Posted>,
        /// Its place in the topic's order.
        place: Place,
    },
}

/// A publication that an engine is to give a place, and the home of its topic, to which the engine returns the
/// publication.
#[derive(Debug)]
pub struct Order {
    /// The publication.
    pub unplaced: Unplaced,
    home: u16,
}

impl ExternalEnd {
    /// Takes over an end of the mesh.
    ///
    /// # Panics
    ///
    /// If the end is a shard.
    #[must_use]
    pub fn new(mesh: MeshEnd) -> Self {
        assert!(mesh.number() >= mesh.shards(), "a shard has a hub");
        ExternalEnd { mesh, barriers: 0, feeds: Feeds::default() }
    }

    /// Publishes to all subscribers of the topic; to `source` only if it has subscribed with echo. The publication's
    /// place comes back with the ticket.
    pub fn submit(&mut self, topic: TopicName, source: Option<ConnectionId>, publication: Publication, ticket: u64) {
        let home = home(&topic, self.mesh.shards());
        let posted = Arc::new(Posted { topic, source, publication });
        self.mesh.request(home, Request::Submit { posted, ticket });
    }

    /// Sends a command to a shard. The answer comes back with the ticket.
    ///
    /// # Panics
    ///
    /// If there is no such shard.
    pub fn command(&mut self, shard: u16, command: Command, ticket: u64) {
        assert!(shard < self.mesh.shards(), "{shard} is no shard");
        self.mesh.request(shard, Request::Command { command: Box::new(command), ticket });
    }

    /// Sends every shard a barrier, after all that was submitted. Shards that drain wait for this barrier. The owner
    /// calls this once, and submits nothing afterwards.
    pub fn send_barrier(&mut self) {
        for shard in self.mesh.other_shards() {
            self.mesh.request(shard, Request::Barrier);
        }
    }

    /// Returns how many ends the mesh has.
    #[must_use]
    pub fn ends(&self) -> usize {
        self.mesh.ends()
    }

    /// Returns how many shards there are.
    #[must_use]
    pub fn shards(&self) -> u16 {
        self.mesh.shards()
    }

    /// Begins to read a topic, for the reader of this number. Returns whether the reader gets every message that comes
    /// from here on. Otherwise it does so from the topic's [`Arrival::Live`] on.
    pub fn read(&mut self, topic: &TopicName, reader: u64) -> bool {
        match self.feeds.add(topic, reader) {
            Begun::Live => return true,
            Begun::Pending => {}
            Begun::Announce(number) => {
                self.announce(topic, number, Interest::Messages { dear: DearFormats::default() });
            }
        }
        false
    }

    /// Ends the reading of a topic, for one reader.
    pub fn stop_reading(&mut self, topic: &TopicName, reader: u64) {
        if let Some(number) = self.feeds.remove(topic, reader) {
            self.announce(topic, number, Interest::None);
        }
    }

    /// Returns the readers that get the messages of a topic.
    #[must_use]
    pub fn readers(&self, topic: &TopicName) -> &[u64] {
        self.feeds.readers(topic)
    }

    fn announce(&mut self, topic: &TopicName, number: u64, interest: Interest) {
        let home = home(topic, self.mesh.shards());
        self.mesh.request(home, Request::Interest { topic: topic.clone(), number, interest });
    }

    /// Returns what has come next from the shards.
    pub fn next_arrival(&mut self) -> Option<Arrival> {
        loop {
            match self.mesh.next_delivery()? {
                Delivery::Reply { ticket, reply } => return Some(Arrival::Answer { ticket, reply }),
                // A topic without readers is one whose home has not taken the withdrawal yet, or whose messages are
                // from before the acknowledgement.
                Delivery::Publication { posted, place } if !self.feeds.readers(&posted.topic).is_empty() => {
                    return Some(Arrival::Message { posted, place });
                }
                Delivery::Acknowledged { topic, number, .. } if self.feeds.acknowledge(&topic, number) => {
                    return Some(Arrival::Live { topic });
                }
                Delivery::Publication { .. }
                | Delivery::Acknowledged { .. }
                | Delivery::Chunk(_)
                | Delivery::Barrier
                | Delivery::Mark { .. } => {}
            }
        }
    }

    /// Returns the next answer, and its ticket. Everything else that comes before it is dropped, so this is for ends
    /// that read no topic.
    #[cfg(test)]
    pub fn next_answer(&mut self) -> Option<(u64, Reply)> {
        loop {
            if let Arrival::Answer { ticket, reply } = self.next_arrival()? {
                return Some((ticket, reply));
            }
        }
    }

    /// Returns the next publication that this engine is to order, from a home that is not behind. The owner gives
    /// publications of the same topic their places by [`ExternalEnd::distribute`] in the order in which they come.
    pub fn next_order(&mut self) -> Option<Order> {
        loop {
            match self.mesh.next_request_where(|mesh, home| !mesh.is_behind(home))? {
                (home, Request::Order(unplaced)) => return Some(Order { unplaced: *unplaced, home }),
                (_, Request::Barrier) => self.barriers += 1,
                (home, mark @ Request::Mark { .. }) => self.mesh.request(home, mark),
                _ => {}
            }
        }
    }

    /// Returns an ordered publication to its topic's home, with its place. Within an epoch, the offsets must grow.
    pub fn distribute(&mut self, order: Order, place: Place) {
        let Order { unplaced, home } = order;
        self.mesh.request(home, Request::Distribute(Box::new(Placed { unplaced, place })));
    }

    /// Returns whether the barriers of all shards have come: no further publication comes to be ordered. The engine
    /// answers with [`ExternalEnd::send_barrier`].
    #[must_use]
    pub fn has_all_barriers(&self) -> bool {
        self.barriers == self.mesh.shards()
    }

    /// Returns whether submitting to that shard must pause, because requests wait for room in the lane to it.
    #[must_use]
    pub fn is_behind(&self, shard: u16) -> bool {
        self.mesh.is_behind(shard)
    }

    /// Returns how many requests have found no room in a lane so far.
    #[must_use]
    pub fn overflowed(&self) -> u64 {
        self.mesh.overflowed()
    }

    /// Sends the requests that have waited for room, and wakes the shards that have something to take.
    pub fn send_out(&mut self) {
        self.mesh.send_out();
    }

    /// Notes that the owner is about to sleep. Returns whether the owner may sleep: an answer may have come just now.
    #[must_use]
    pub fn may_sleep(&self) -> bool {
        self.mesh.about_to_sleep();
        !self.mesh.has_mail()
    }

    /// Notes that the owner is awake.
    pub fn awake(&self) {
        self.mesh.awake();
    }

    /// Returns whether no mail waits for this end, and no request of this end waits for room.
    #[cfg(test)]
    pub(super) fn is_quiet(&self) -> bool {
        !self.mesh.has_mail() && self.mesh.has_sent_all()
    }

    #[cfg(test)]
    pub(super) fn mesh(&self) -> &MeshEnd {
        &self.mesh
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::hub::{Commanded, EndRole, HubLimits, MeshLimits, Scope, ShardHub, Wake, testing::TestEngine};

    /// A command reaches its shard, and the answer comes back with the command's ticket.
    #[test]
    fn commands_are_answered() {
        let wake = (0..2).map(|_| Arc::new(|| {}) as Wake).collect();
        let mut ends = MeshEnd::connect_with(wake, &EndRole::shards_and_control(1), &MeshLimits::default());
        let mut external = ExternalEnd::new(ends.pop().unwrap());
        let mut hub: ShardHub = ShardHub::new(ends.pop().unwrap(), HubLimits::default(), 7);
        external.command(0, Command::List, 5);
        external.send_out();
        let mut commands = Vec::new();
        assert!(hub.take_request(&mut commands) && !hub.take_request(&mut commands));
        let [Commanded { end: 1, ticket: 5, command: Command::List }] = commands[..] else { panic!("{commands:?}") };
        hub.reply(1, 5, Reply::Connections([ConnectionId::new(0, 1, 2)].into()));
        hub.send_out();
        let Some((5, Reply::Connections(ids))) = external.next_answer() else { panic!("no answer") };
        assert_eq!(*ids, [ConnectionId::new(0, 1, 2)]);
        assert!(external.next_answer().is_none());
    }

    /// An engine takes nothing from a home that is behind, and sleeps until the home makes room.
    #[test]
    fn an_engine_sleeps_while_homes_are_behind() {
        let limits = MeshLimits { lane_entries_max: 2, ..MeshLimits::default() };
        let is_woken = Arc::new(AtomicBool::new(false));
        let wake_engine = {
            let is_woken = Arc::clone(&is_woken);
            Arc::new(move || is_woken.store(true, Ordering::Relaxed)) as Wake
        };
        let roles = [EndRole::Shard, EndRole::Engine];
        let mut ends = MeshEnd::connect_with(vec![Arc::new(|| {}), wake_engine], &roles, &limits);
        let mut engine = TestEngine::new(ends.pop().unwrap());
        let hub: ShardHub = ShardHub::new(ends.pop().unwrap(), HubLimits::default(), 7);
        let mut hub = hub.with_engine(TestEngine::topics(1));
        let topic = TopicName::new("topic 0").unwrap();
        (0..20).for_each(|_| _ = hub.publish_by_name(&topic, None, Publication::text("x"), Scope::Server));
        while !engine.end.is_behind(0) {
            hub.send_out();
            assert!(engine.work(|_| 1), "the home has more");
            engine.end.send_out();
        }
        hub.send_out();
        assert!(engine.end.mesh().has_request_of(0) && !engine.work(|_| 1), "nothing is taken from that home");
        assert!(engine.end.may_sleep());
        is_woken.store(false, Ordering::Relaxed);
        assert!(hub.take_request(&mut Vec::new()));
        assert!(is_woken.load(Ordering::Relaxed), "the home has made room");
        engine.end.awake();
        engine.end.send_out();
        assert!(!engine.end.may_sleep() && engine.work(|_| 1), "the engine goes on");
    }

    /// However short the lanes: every message gets the next place of its topic, in the order of submission.
    #[test]
    fn submitted_messages_are_answered_with_their_places() {
        let limits = MeshLimits { lane_entries_max: 2, ..MeshLimits::default() };
        let wake = (0..3).map(|_| Arc::new(|| {}) as Wake).collect();
        let mut ends = MeshEnd::connect_with(wake, &EndRole::shards_and_control(2), &limits);
        let mut external = ExternalEnd::new(ends.pop().unwrap());
        let mut hubs: Vec<ShardHub> =
            ends.into_iter().map(|mesh| ShardHub::new(mesh, HubLimits::default(), 7)).collect();
        assert!(!hubs[0].is_alone());
        let names: Vec<TopicName> = (0..6).map(|n| TopicName::new(&format!("topic {n}")).unwrap()).collect();
        let homes: Vec<u16> = names.iter().map(|name| home(name, 2)).collect();
        assert!(homes.contains(&0) && homes.contains(&1), "{homes:?}");
        for ticket in 0..60 {
            external.submit(names[ticket % 6].clone(), None, Publication::text("x"), ticket as u64);
        }
        assert!(external.is_behind(0) && external.is_behind(1) && external.overflowed() > 0);
        let mut answers = Vec::new();
        while answers.len() < 60 {
            external.send_out();
            hubs.iter_mut().for_each(|hub| while hub.take_request(&mut Vec::new()) {});
            hubs.iter_mut().for_each(ShardHub::send_out);
            answers.extend(std::iter::from_fn(|| external.next_answer()));
        }
        assert!(!external.is_behind(0) && !external.is_behind(1) && external.may_sleep());
        external.awake();
        answers.sort_unstable_by_key(|(ticket, _)| *ticket);
        for (at, (ticket, reply)) in answers.iter().enumerate() {
            let Reply::Published(place) = reply else { panic!("{reply:?}") };
            assert_eq!((*ticket, place.offset, place.previous), (at as u64, at as u64 / 6 + 1, at as u64 / 6));
            assert!((1..1 << 53).contains(&place.epoch));
        }
    }
}
