//! One order for each topic over all shards: the home's part, and that of those who are interested.
//!
//! Every topic has a home, a shard that its name alone decides. The home gives each message the next offset and
//! delivers it to every shard that has subscribers. A shard announces its interest with its first subscriber and
//! withdraws it with its last; each of these has a number. The home's acknowledgement comes down the same lane as its
//! messages, so:
//!
//! - what comes before the acknowledgement of the *latest* number is not for those who wait, and there is nobody else;
//! - what comes after is everything, until the interest is withdrawn.
//!
//! A subscriber is told that it is one only after the acknowledgement. So "subscribed" means: from here on, all of it.

use super::{ConnectionId, Delivery, Hub, Published, Request, TopicId, topics::Interest};
use crate::proto::PreparedMessage;

impl Hub {
    /// Handles the next delivery of the mesh. Subscribers who may now be told so are added to `joined`. Returns whether
    /// there was one.
    pub fn take_delivery(&mut self, joined: &mut Vec<ConnectionId>) -> bool {
        match self.mesh.next_delivery() {
            None => return false,
            Some(Delivery::Message { topic, source, message, .. }) => {
                // Nobody is interested any more: our withdrawal is on its way.
                if let Some(id) = self.topics.find(&topic) {
                    self.gather(id, source, &message);
                }
            }
            // Only who is no shard submits.
            Some(Delivery::Submitted { .. }) => {}
            Some(Delivery::Acknowledged { topic, number }) => {
                if let Some(id) = self.topics.find(&topic) {
                    self.go_live(id, number, joined);
                }
            }
        }
        true
    }

    /// Handles the next request of the mesh. Returns whether there was one.
    pub fn take_request(&mut self) -> bool {
        match self.mesh.next_request() {
            None => return false,
            Some((_, Request::Publish { topic, source, message })) => {
                let id = self.topics.find_or_add(&topic);
                self.order(id, source, &message);
                self.topics.notice_unused(id);
            }
            Some((end, Request::Submit { topic, message, ticket })) => {
                let id = self.topics.find_or_add(&topic);
                let published = self.order(id, None, &message);
                self.mesh.deliver(end, Delivery::Submitted { ticket, published });
                self.topics.notice_unused(id);
            }
            Some((shard, Request::Interest { topic, number, wanted })) => {
                let id = self.topics.find_or_add(&topic);
                let interested = &mut self.topics[id].interested;
                interested.retain(|&other| other != shard);
                if wanted {
                    interested.push(shard);
                    self.mesh.deliver(shard, Delivery::Acknowledged { topic, number });
                }
                self.topics.notice_unused(id);
            }
        }
        true
    }

    /// Sends what has waited for room in a lane, and wakes those who have something to take.
    pub fn send_out(&mut self) {
        let mut due = std::mem::take(&mut self.due);
        due.retain(|&id| !self.ask(id));
        self.due = due;
        self.mesh.send_out();
    }

    /// How many requests and deliveries have found no room in a lane so far.
    #[must_use]
    pub fn overflowed(&self) -> u64 {
        self.mesh.overflowed()
    }

    /// Is this the only shard?
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.mesh.shards() == 1
    }

    /// Must receiving from connections pause, because what they send could not go on?
    #[must_use]
    pub fn is_congested(&self) -> bool {
        self.mesh.is_congested()
    }

    /// Is there something in the mesh that [`Hub::take_delivery`] or [`Hub::take_request`] would take?
    #[must_use]
    pub fn has_mail(&self) -> bool {
        self.mesh.has_mail()
    }

    /// The shard is about to sleep. It must ask [`Hub::has_mail`] once more after this call.
    pub fn about_to_sleep(&self) {
        self.mesh.about_to_sleep();
    }

    /// The shard is awake.
    pub fn awake(&self) {
        self.mesh.awake();
    }

    /// At home: gives the message its place and hands it to every shard that has subscribers, this one included.
    pub(super) fn order(
        &mut self,
        topic: TopicId,
        source: Option<ConnectionId>,
        message: &PreparedMessage,
    ) -> Published {
        let entry = &mut self.topics[topic];
        debug_assert_eq!(entry.home, self.mesh.number(), "only a topic's home orders it");
        entry.offset += 1;
        let published = Published { epoch: entry.epoch, offset: entry.offset };
        for &shard in &entry.interested {
            let (topic, message) = (entry.name.clone(), message.clone());
            self.mesh.deliver(shard, Delivery::Message { topic, source, published, message });
        }
        self.gather(topic, source, message);
        published
    }

    /// Tells the home that this shard wants the topic's messages, or no more.
    pub(super) fn announce(&mut self, id: TopicId, interest: Interest) {
        self.interest_number += 1;
        let topic = &mut self.topics[id];
        topic.interest = interest;
        topic.number = self.interest_number;
        if interest == Interest::None {
            topic.waiting = Vec::new();
        }
        // What waits for room is the topic's latest wish, not a queue of wishes.
        if !topic.is_due {
            topic.is_due = true;
            if !self.ask(id) {
                self.due.push(id);
            }
        }
    }

    /// Sends the topic's latest wish if there is room. Returns whether there was.
    fn ask(&mut self, id: TopicId) -> bool {
        let topic = &mut self.topics[id];
        let has_room = self.mesh.has_room_for_requests(topic.home);
        if has_room {
            topic.is_due = false;
            let wanted = topic.interest != Interest::None;
            let request = Request::Interest { topic: topic.name.clone(), number: topic.number, wanted };
            self.mesh.request(topic.home, request);
            self.topics.notice_unused(id);
        }
        has_room
    }

    /// The home has acknowledged; those who wait become subscribers if it answers the latest wish.
    fn go_live(&mut self, id: TopicId, number: u64, joined: &mut Vec<ConnectionId>) {
        let topic = &mut self.topics[id];
        if topic.interest != Interest::Asked || topic.number != number {
            return;
        }
        topic.interest = Interest::Live;
        for waiting in std::mem::take(&mut topic.waiting) {
            if let Some(connection) = self.connections.get_mut(waiting)
                && std::mem::take(&mut connection.is_waiting)
            {
                self.join(waiting);
                joined.push(waiting);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, sync::Arc};

    use super::*;
    use crate::{
        hub::{Connection, MeshEnd, MeshLimits, Scope, TopicName, Wake, Walk, testing::texts},
        proto::{Role, Tick, WebSocket},
    };

    /// Some shards and the lanes between them, stepped in an order that a seed decides.
    struct World {
        random: u64,
        hubs: Vec<Hub>,
        walks: Vec<Vec<Walk>>,
        members: HashMap<ConnectionId, Subscriber>,
        /// Of those who have left, what they had seen by then.
        gone: Vec<Subscriber>,
        published: u32,
    }

    #[derive(Clone)]
    struct Subscriber {
        id: ConnectionId,
        topic: usize,
        echo: bool,
        is_observer: bool,
        /// How many messages the home had ordered when it was told.
        told_at: Option<u64>,
        seen: Vec<String>,
    }

    fn topic(number: usize) -> TopicName {
        TopicName::new(&format!("topic {number}")).unwrap()
    }

    impl World {
        fn new(seed: u64) -> World {
            let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let shards = 2 + next(&mut random, 4);
            let limits = MeshLimits {
                lane_entries_max: 2 + next(&mut random, 6),
                overflow_bytes_max: next(&mut random, 200),
                message_bytes_max: if next(&mut random, 2) == 0 { 0 } else { 1 << 20 },
                ..MeshLimits::default()
            };
            let wake = (0..shards).map(|_| Arc::new(|| {}) as Wake).collect();
            let hubs: Vec<Hub> =
                MeshEnd::connect(wake, &limits).into_iter().map(|mesh| Hub::new(mesh, 1, 1_000)).collect();
            let walks = (0..shards).map(|_| Vec::new()).collect();
            let mut world = World { random, hubs, walks, members: HashMap::new(), gone: Vec::new(), published: 0 };
            // An observer at each topic's home sees the one order.
            for number in 0..TOPICS {
                let home = world.home(number);
                let observer = world.join(home, number, true);
                assert_eq!(world.members[&observer].told_at, Some(0));
            }
            world
        }

        fn home(&self, number: usize) -> usize {
            usize::from(self.hubs[0].topics.home(&topic(number)))
        }

        fn ordered(&self, number: usize) -> u64 {
            self.hubs[self.home(number)].offset(&topic(number))
        }

        fn pick(&mut self, below: usize) -> usize {
            next(&mut self.random, below)
        }

        fn join(&mut self, shard: usize, number: usize, echo: bool) -> ConnectionId {
            let hub = &mut self.hubs[shard];
            let topic_id = hub.attach(&topic(number));
            let websocket = WebSocket::new(Role::Server, Tick(0));
            let id = hub.connections.insert(Connection::new(websocket, topic_id, true, echo)).unwrap();
            let is_told = hub.subscribe(id);
            let told_at = is_told.then(|| self.ordered(number));
            let is_observer = self.published == 0 && self.home(number) == shard && id.slot() < TOPICS as u32;
            self.members.insert(id, Subscriber { id, topic: number, echo, is_observer, told_at, seen: Vec::new() });
            id
        }

        fn some_member(&mut self) -> Option<ConnectionId> {
            let mut ids: Vec<ConnectionId> = self.members.keys().copied().collect();
            ids.sort_unstable();
            let at = self.pick(ids.len());
            ids.get(at).copied()
        }

        fn leave(&mut self, id: ConnectionId) {
            let shard = usize::from(id.shard());
            let owed = self.hubs[shard].leave(id, self.walks[shard].iter());
            self.hubs[shard].remove(id);
            let mut subscriber = self.members.remove(&id).unwrap();
            subscriber.seen.extend(texts(&owed));
            self.gone.push(subscriber);
        }

        fn publish(&mut self, id: ConnectionId, scope: Scope) {
            let hub = &mut self.hubs[usize::from(id.shard())];
            // The shard would have paused.
            if hub.is_congested() {
                return;
            }
            self.published += 1;
            let local = if scope == Scope::Local { "local " } else { "" };
            let message = PreparedMessage::text(&format!("{local}{id} {}", self.published));
            let topic = hub.connections.get(id).unwrap().topic;
            hub.publish(topic, Some(id), &message, scope);
        }

        fn step_shard(&mut self, shard: usize, what: usize) {
            let hub = &mut self.hubs[shard];
            let mut joined = Vec::new();
            match what {
                0 => drop(hub.take_delivery(&mut joined)),
                1 => drop(hub.take_request()),
                2 => hub.send_out(),
                3 => hub.begin_walks(&mut self.walks[shard]),
                _ => {
                    if let Some(walk) = self.walks[shard].last_mut() {
                        match hub.next_member(walk) {
                            Some(slot) => {
                                let id = hub.connections.id_at(slot).unwrap();
                                let texts = texts(&walk.run.owed(slot));
                                self.members.get_mut(&id).unwrap().seen.extend(texts);
                            }
                            None => hub.end_walk(self.walks[shard].pop().unwrap()),
                        }
                    }
                }
            }
            for id in joined {
                let ordered = self.ordered(self.members[&id].topic);
                self.members.get_mut(&id).unwrap().told_at = Some(ordered);
            }
        }

        fn step(&mut self) {
            let shard = self.pick(self.hubs.len());
            match self.pick(12) {
                0 => {
                    let (number, echo) = (self.pick(TOPICS), self.pick(2) == 0);
                    self.join(shard, number, echo);
                }
                1 => {
                    if let Some(id) = self.some_member().filter(|id| !self.members[id].is_observer) {
                        self.leave(id);
                    }
                }
                2..=4 => {
                    if let Some(id) = self.some_member() {
                        let scope = if self.pick(8) == 0 { Scope::Local } else { Scope::Global };
                        self.publish(id, scope);
                    }
                }
                what => {
                    let what = if what >= 9 { 4 } else { what - 5 };
                    self.step_shard(shard, what);
                }
            }
        }

        /// Lets every shard work until nothing is under way any more.
        fn settle(&mut self) {
            for _ in 0..200_000 {
                let is_quiet = (0..self.hubs.len()).all(|shard| {
                    let hub = &self.hubs[shard];
                    !hub.has_mail() && hub.mesh.has_sent_all() && !hub.is_dirty() && hub.due.is_empty()
                }) && self.walks.iter().all(Vec::is_empty);
                if is_quiet {
                    return;
                }
                let (shard, what) = (self.pick(self.hubs.len()), self.pick(5));
                self.step_shard(shard, what);
            }
            panic!("the shards wait for each other");
        }

        fn check(&self) {
            for number in 0..TOPICS {
                let observer = self.members.values().find(|s| s.topic == number && s.is_observer && s.echo);
                let is_global = |text: &&String| !text.starts_with("local ");
                let order: Vec<&String> = observer.unwrap().seen.iter().filter(is_global).collect();
                assert_eq!(order.len() as u64, self.ordered(number));
                let position: HashMap<&String, usize> =
                    order.iter().enumerate().map(|(at, text)| (*text, at)).collect();
                for subscriber in self.members.values().chain(&self.gone).filter(|s| s.topic == number) {
                    let Subscriber { id, echo, told_at, .. } = subscriber;
                    let is_own =
                        |text: &str| text.trim_start_matches("local ").split(' ').next() == Some(&id.to_string());
                    let seen: Vec<&String> = subscriber.seen.iter().filter(is_global).collect();
                    let Some(told_at) = told_at else {
                        assert!(seen.is_empty(), "{id} has seen something before it was told");
                        continue;
                    };
                    let is_live = self.members.contains_key(id);
                    let first = seen.first().map_or(order.len(), |text| position[text]);
                    let last = if is_live { order.len() } else { seen.last().map_or(first, |text| position[text] + 1) };
                    // Between being told and the first it has seen there is nothing but its own.
                    let from = first.min(*told_at as usize);
                    let owed = order[from..last.max(from)].iter().filter(|text| *echo || !is_own(text)).copied();
                    let owed: Vec<&String> = if is_live { owed.collect() } else { owed.take(seen.len()).collect() };
                    assert_eq!(seen, owed, "{id} echo {echo} told {told_at}");
                    // Local messages stay on their shard.
                    for text in subscriber.seen.iter().filter(|text| text.starts_with("local ")) {
                        let shard = text.trim_start_matches("local ").split('.').next().unwrap();
                        assert_eq!(shard, id.shard().to_string());
                        assert!(*echo || !is_own(text));
                    }
                }
            }
        }
    }

    fn next(random: &mut u64, below: usize) -> usize {
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        (*random >> 33) as usize % below.max(1)
    }

    /// Whoever publishes wherever, and whatever the shards do meanwhile: every subscriber's messages are a piece of the
    /// topic's one order, without a gap or a repetition, from where it was told to where it left.
    #[test]
    fn one_order_over_all_shards() {
        let seeds = match option_env!("RINGHUB_SEED") {
            Some(seed) => {
                let seed = seed.parse().expect("a seed is a number");
                seed..seed + 1
            }
            None => 0..SEEDS,
        };
        for seed in seeds {
            let outcome = std::panic::catch_unwind(|| {
                let mut world = World::new(seed);
                for _ in 0..STEPS {
                    world.step();
                }
                world.settle();
                world.check();
                for hub in &world.hubs {
                    assert_eq!(hub.gathered_bytes(), 0);
                    assert_eq!(hub.mesh.overflow_bytes(), 0);
                }
            });
            assert!(outcome.is_ok(), "replay with RINGHUB_SEED={seed} cargo test one_order_over_all_shards");
        }
    }

    /// Two shards that flood each other's topics through lanes of two wait for each other's room, not for ever.
    #[test]
    fn floods_both_ways_neither_deadlock_nor_grow() {
        let mut world = World::new(7);
        let subscribers: Vec<ConnectionId> = (0..world.hubs.len())
            .flat_map(|shard| (0..TOPICS).map(move |number| (shard, number)))
            .map(|(shard, number)| world.join(shard, number, true))
            .collect();
        world.settle();
        let most_before = world.hubs.iter().map(|hub| hub.mesh.overflow_bytes()).max();
        assert_eq!(most_before, Some(0));
        for round in 0..3_000 {
            for &id in &subscribers {
                world.publish(id, Scope::Global);
            }
            for shard in 0..world.hubs.len() {
                for what in [2, 0, 1, 3, 4, 4, 4, 4] {
                    world.step_shard((shard + round) % subscribers.len() % world.walks.len(), what);
                }
            }
            let waiting = world.hubs.iter().map(|hub| hub.mesh.overflow_bytes()).max().unwrap();
            assert!(waiting < 10_000, "{waiting} bytes wait for room");
        }
        world.settle();
        world.check();
        assert!(world.published > 1_000);
    }

    const TOPICS: usize = 3;
    const SEEDS: u64 = 1_500;
    const STEPS: usize = 400;
}
