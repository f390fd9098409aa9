//! Several hubs and the lanes between them.

use std::{
    collections::HashMap,
    slice,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{TOPICS, subscriber::Subscriber};
use crate::hub::{
    AudienceId, ConnectionId, EndRole, Format, Homes, HubConnection, HubLimits, Joined, MeshEnd, MeshLimits, Owed,
    Piece, Place, Publication, RulesOfTopics, Scope, ShardHub, SubscribeOptions, Subscribed, Tags, TopicName,
    TopicRules, Wake,
    testing::{FORMATS, Got, PLACED, TestEngine, Wants, decode, encodings, pieces},
};

/// Some shards and the lanes between them, stepped in an order that a seed decides.
pub(super) struct World {
    random: u64,
    pub(super) hubs: Vec<ShardHub<Wants>>,
    /// For each shard: whether it sleeps, and whether it has been woken since.
    pub(super) sleeps: Vec<bool>,
    woken: Vec<Arc<AtomicBool>>,
    pub(super) walks: Vec<Vec<AudienceId>>,
    pub(super) connections: Vec<ConnectionId>,
    /// The subscriptions of each connection, by topic.
    pub(super) members: HashMap<(ConnectionId, usize), Subscriber>,
    /// The subscriptions that have ended.
    gone: Vec<Subscriber>,
    pub(super) published: u32,
    /// The engine that orders some of the topics.
    engine: Option<TestEngine>,
}

impl World {
    pub(super) fn new(seed: u64) -> World {
        Self::with_idle(seed, 1)
    }

    pub(super) fn with_idle(seed: u64, topics_idle_max: usize) -> World {
        Self::with(seed, topics_idle_max, false)
    }

    /// Returns a world; in every second one an engine orders some of the topics.
    pub(super) fn drawn(seed: u64) -> World {
        Self::with(seed, 1, seed.is_multiple_of(2))
    }

    fn with(seed: u64, topics_idle_max: usize, has_engine: bool) -> World {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let shards = 2 + next(&mut random, 4);
        let limits = MeshLimits {
            lane_entries_max: 2 + next(&mut random, 6),
            overflow_bytes_max: next(&mut random, 2_000),
            message_bytes_max: if next(&mut random, 2) == 0 { 0 } else { 1 << 20 },
            ..MeshLimits::default()
        };
        let mut roles = vec![EndRole::Shard; shards];
        roles.extend(has_engine.then_some(EndRole::Engine));
        let woken: Vec<Arc<AtomicBool>> = roles.iter().map(|_| Arc::default()).collect();
        let wake = woken.iter().map(|woken| {
            let woken = Arc::clone(woken);
            Arc::new(move || woken.store(true, Ordering::Relaxed)) as Wake
        });
        let wake = wake.collect();
        let mut ends = MeshEnd::connect_with(wake, &roles, &limits);
        let engine = has_engine.then(|| TestEngine::new(ends.pop().expect("the engine's end")));
        let hubs: Vec<ShardHub<Wants>> = {
            let limits_of_hub = HubLimits { topics_idle_max, ..HubLimits::default() };
            let hub = |mesh| {
                let hub = ShardHub::new(mesh, limits_of_hub, 1_000).with_encodings(encodings());
                let tags = |name: &TopicName| if has_tags(name) { Tags::On } else { Tags::Off };
                let hub = hub.with_topic_rules(RulesOfTopics::new(move |name| TopicRules {
                    tags: tags(name),
                    ..TopicRules::default()
                }));
                if has_engine { hub.with_engine(TestEngine::topics(shards as u16)) } else { hub }
            };
            ends.into_iter().map(hub).collect()
        };
        let walks = (0..shards).map(|_| Vec::new()).collect();
        let mut world = World {
            random,
            hubs,
            sleeps: vec![false; shards],
            woken,
            walks,
            connections: Vec::new(),
            members: HashMap::new(),
            gone: Vec::new(),
            published: 0,
            engine,
        };
        // An observer at each topic's home sees the one order.
        for number in 0..TOPICS {
            let home = world.home(number);
            let observer = world.connect_for(home, Format::RAW, &[(number, true)]);
            let observer = world.members.get_mut(&(observer, number)).unwrap();
            assert_eq!(observer.told_at, Some(0));
            observer.is_observer = true;
        }
        world
    }

    pub(super) fn home(&self, number: usize) -> usize {
        usize::from(self.hubs[0].topics.home(&topic(number)))
    }

    /// Returns how many messages the topic's home has ordered, or has got from the engine.
    pub(super) fn ordered(&self, number: usize) -> u64 {
        let hub = &self.hubs[self.home(number)];
        let offset = hub.offset(&topic(number));
        let Some(places) = self.places(number) else { return offset };
        let is_last = |place: &Place| place.offset == offset && Some(place.epoch) == hub.epoch(&topic(number));
        places.iter().position(is_last).map_or(0, |index| index as u64 + 1)
    }

    /// Returns the places that the engine has given, if it orders the topic.
    pub(super) fn places(&self, number: usize) -> Option<&[Place]> {
        let (engine, name) = (self.engine.as_ref()?, topic(number));
        TestEngine::has(&name).then(|| engine.places.get(&name).map_or(&[][..], Vec::as_slice))
    }

    /// Returns the format that a connection wants.
    fn format(&self, id: ConnectionId) -> Format {
        self.hubs[usize::from(id.shard())].connections.get(id).expect("it is connected").io.0
    }

    fn pick(&mut self, below: usize) -> usize {
        next(&mut self.random, below)
    }

    /// Wakes a shard for an event that no other end tells it of.
    pub(super) fn rouse(&mut self, shard: usize) {
        self.sleeps[shard] = false;
        self.hubs[shard].awake();
    }

    /// Ends a turn: a shard that has nothing to do sleeps until it is woken.
    fn end_turn(&mut self, shard: usize) {
        let hub = &mut self.hubs[shard];
        hub.send_out();
        if self.walks[shard].is_empty() && !hub.is_dirty() && !hub.has_mail() {
            self.woken[shard].store(false, Ordering::Relaxed);
            hub.about_to_sleep();
            self.sleeps[shard] = true;
            if hub.has_mail() {
                self.rouse(shard);
            }
        }
    }

    /// Adds a connection that is held until all of these topics are live.
    pub(super) fn connect(&mut self, shard: usize, topics: &[(usize, bool)]) -> ConnectionId {
        let format = FORMATS[self.pick(FORMATS.len())];
        self.connect_for(shard, format, topics)
    }

    /// Adds a connection that wants this format, and is held until all of these topics are live.
    pub(super) fn connect_for(&mut self, shard: usize, format: Format, topics: &[(usize, bool)]) -> ConnectionId {
        self.rouse(shard);
        let hub = &mut self.hubs[shard];
        let mut connection = HubConnection::new(Wants(format));
        connection.is_held = true;
        let id = hub.connections.insert(connection).unwrap();
        self.connections.push(id);
        for &(number, echo) in topics {
            assert_ne!(self.subscribe(id, number, echo), Subscribed::Live, "it is held");
        }
        self.release(id);
        id
    }

    /// Adds a connection that publishes to a topic and subscribes to none.
    pub(super) fn connect_publisher(&mut self, shard: usize, number: usize) -> ConnectionId {
        let id = self.connect(shard, &[]);
        self.hubs[shard].publish_to(id, &topic(number), Scope::Server);
        id
    }

    fn release(&mut self, id: ConnectionId) {
        let mut joined = Vec::new();
        let hub = &mut self.hubs[usize::from(id.shard())];
        hub.release(id, &mut joined);
        self.tell(joined);
    }

    fn tell(&mut self, joined: Vec<Joined>) {
        for Joined { id, topic: name, .. } in joined {
            let number = (0..TOPICS).find(|&number| topic(number) == name).unwrap();
            let ordered = self.ordered(number);
            let subscriber = self.members.get_mut(&(id, number)).expect("who is told has subscribed");
            assert_eq!(subscriber.told_at.replace(ordered), None, "told once");
        }
    }

    pub(super) fn subscribe(&mut self, id: ConnectionId, number: usize, echo: bool) -> Subscribed {
        self.rouse(usize::from(id.shard()));
        let outcome = self.hubs[usize::from(id.shard())].subscribe(
            id,
            &topic(number),
            SubscribeOptions { has_echo: echo, ..SubscribeOptions::default() },
        );
        assert_eq!(outcome == Subscribed::Already, self.members.contains_key(&(id, number)));
        if outcome != Subscribed::Already {
            let told_at = (outcome == Subscribed::Live).then(|| self.ordered(number));
            let new = Subscriber {
                id,
                topic: number,
                echo,
                is_observer: false,
                told_at,
                seen: Vec::new(),
                places: Vec::new(),
            };
            self.members.insert((id, number), new);
        }
        outcome
    }

    pub(super) fn unsubscribe(&mut self, id: ConnectionId, number: usize) {
        let shard = usize::from(id.shard());
        self.rouse(shard);
        let format = self.format(id);
        let owed = pieces(self.hubs[shard].unsubscribe(id, &topic(number)));
        self.see(id, format, &owed);
        self.gone.extend(self.members.remove(&(id, number)));
        self.release(id);
    }

    /// Returns a connection that is no observer.
    fn someone(&mut self) -> Option<ConnectionId> {
        let at = self.pick(self.connections.len() - TOPICS);
        self.connections.get(TOPICS + at).copied()
    }

    pub(super) fn leave(&mut self, id: ConnectionId) {
        let shard = usize::from(id.shard());
        self.rouse(shard);
        let format = self.format(id);
        let owed = pieces(self.hubs[shard].leave(id));
        self.hubs[shard].remove(id);
        self.see(id, format, &owed);
        self.connections.retain(|&other| other != id);
        for number in 0..TOPICS {
            self.gone.extend(self.members.remove(&(id, number)));
        }
    }

    fn see(&mut self, id: ConnectionId, format: Format, pieces: &[Piece]) {
        for piece in pieces {
            let tags = piece.tags.as_ref().map(|tags| tags.messages());
            for (at, Got { text, place }) in decode(format, slice::from_ref(piece)).into_iter().enumerate() {
                let number = text.split(' ').next_back().unwrap().parse().unwrap();
                let subscriber = self.members.get_mut(&(id, number)).expect("nothing of what it is not subscribed to");
                assert_eq!(tags.is_some(), has_tags(&topic(number)), "{text}");
                let tagged = tags.map(|tags| tags[at].tag.place);
                assert!(tagged.is_none() || format != PLACED || tagged == Some(place), "{text} {place:?} {tagged:?}");
                subscriber.places.extend(place.or(tagged.flatten()).map(|place| (text.clone(), place)));
                subscriber.seen.push(text);
            }
        }
    }

    pub(super) fn publish(&mut self, id: ConnectionId, number: usize, scope: Scope) {
        if let Some(message) = self.next_message(id, number, scope) {
            let hub = &mut self.hubs[usize::from(id.shard())];
            hub.publish_by_name(&topic(number), Some(id), message, scope);
        }
    }

    /// Publishes a message whose publisher waits for a receipt. Returns the message, unless its connection has to wait.
    pub(super) fn publish_with_receipt(&mut self, id: ConnectionId, number: usize, ticket: u64) -> Option<String> {
        let message = self.next_message(id, number, Scope::Server)?;
        let text = String::from_utf8(message.payload().to_vec()).expect("text");
        let hub = &mut self.hubs[usize::from(id.shard())];
        assert_eq!(hub.publish_asking(&topic(number), id, message.ask_receipt(), ticket), None);
        Some(text)
    }

    /// Returns the next message of a connection, unless the connection has to wait.
    fn next_message(&mut self, id: ConnectionId, number: usize, scope: Scope) -> Option<Publication> {
        self.rouse(usize::from(id.shard()));
        let home = self.home(number);
        // The connection would wait for the topic's home.
        let engine = self.hubs.len() as u16;
        let hub = &self.hubs[usize::from(id.shard())];
        let is_ordered_by_engine = self.engine.is_some() && TestEngine::has(&topic(number));
        let orders = if is_ordered_by_engine && home == usize::from(id.shard()) { engine } else { home as u16 };
        if scope == Scope::Server && hub.is_behind(Homes::One(orders)) {
            return None;
        }
        self.published += 1;
        let local = if scope == Scope::Shard { "local " } else { "" };
        Some(Publication::text(&format!("{local}{id} {} {number}", self.published)))
    }

    /// Returns how many subscribers have seen a message, those that have left included.
    pub(super) fn seen_by(&self, text: &str) -> usize {
        let all = self.members.values().chain(&self.gone);
        all.filter(|subscriber| subscriber.seen.iter().any(|seen| seen == text)).count()
    }

    pub(super) fn step_shard(&mut self, shard: usize, act: Act) {
        if self.sleeps[shard] {
            if !self.woken[shard].load(Ordering::Relaxed) {
                return;
            }
            self.rouse(shard);
        }
        let hub = &mut self.hubs[shard];
        let mut joined = Vec::new();
        match act {
            Act::TakeDelivery => drop(hub.take_delivery(&mut joined)),
            Act::TakeRequest => drop(hub.take_request(&mut Vec::new())),
            Act::SendOut => hub.send_out(),
            Act::TakeDue => hub.take_due(&mut self.walks[shard]),
            Act::EndTurn => self.end_turn(shard),
            Act::Walk => {
                let at = next(&mut self.random, self.walks[shard].len());
                if let Some(&walk) = self.walks[shard].get(at) {
                    match hub.next_member(walk) {
                        Some(slot) => self.visit(shard, walk, slot),
                        None => hub.end_walk(self.walks[shard].remove(at)),
                    }
                }
            }
        }
        self.tell(joined);
    }

    /// Makes a walk's visit: hands out the walk's share, and perhaps shares of other walks, which then pass the
    /// connection.
    fn visit(&mut self, shard: usize, walk: AudienceId, slot: u32) {
        let further_max = next(&mut self.random, TOPICS);
        let hub = &mut self.hubs[shard];
        let id = hub.connections.id_at(slot).unwrap();
        if hub.passes(id, walk) {
            return;
        }
        let take = |hub: &mut ShardHub<Wants>, walk| {
            let Owed { pieces, tickets, .. } = hub.owed_by_walk(walk, slot);
            tickets.into_iter().for_each(|(_, ticket)| ticket.sent());
            pieces
        };
        let (mut owed, mut ahead) = (take(hub, walk), Vec::new());
        hub.walks_ahead(id, self.walks[shard].iter().copied(), &mut ahead);
        for walk in ahead.into_iter().take(further_max) {
            owed.extend(take(hub, walk));
            hub.take_share(id, walk);
        }
        self.see(id, walk.format, &owed);
    }

    pub(super) fn step(&mut self) {
        if self.pick(4) == 0 {
            self.step_engine();
        }
        let shard = self.pick(self.hubs.len());
        match self.pick(16) {
            0 => {
                let topics: Vec<(usize, bool)> = (0..TOPICS).map(|number| (number, self.pick(2) == 0)).collect();
                let first = self.pick(TOPICS);
                let last = first + self.pick(TOPICS + 1 - first);
                self.connect(shard, &topics[first..last]);
            }
            1 => {
                if let Some(id) = self.someone() {
                    self.leave(id);
                }
            }
            2..=4 => {
                let at = self.pick(self.connections.len());
                let (number, scope) = (self.pick(TOPICS), if self.pick(8) == 0 { Scope::Shard } else { Scope::Server });
                self.publish(self.connections[at], number, scope);
            }
            12 => {
                let (number, echo) = (self.pick(TOPICS), self.pick(2) == 0);
                if let Some(id) = self.someone() {
                    self.subscribe(id, number, echo);
                }
            }
            13 => {
                let number = self.pick(TOPICS);
                if let Some(id) = self.someone() {
                    self.unsubscribe(id, number);
                }
            }
            14 => self.step_shard(shard, Act::EndTurn),
            15 => {
                let number = self.pick(TOPICS);
                self.connect_publisher(shard, number);
            }
            9..=11 => self.step_shard(shard, Act::Walk),
            act => self.step_shard(shard, Act::ALL[act - 5]),
        }
    }

    /// Lets the engine, if there is one, take a step.
    fn step_engine(&mut self) {
        if let Some(engine) = &mut self.engine {
            engine.work(|below| next(&mut self.random, below));
            engine.end.send_out();
        }
    }

    /// Lets the engine and one of the shards take a step.
    pub(super) fn step_any(&mut self) {
        self.step_engine();
        let (shard, act) = (self.pick(self.hubs.len()), self.pick(Act::ALL.len()));
        self.step_shard(shard, Act::ALL[act]);
    }

    /// Returns how many of its own messages a connection that has left had seen.
    pub(super) fn own_messages(&self, id: ConnectionId) -> usize {
        let seen = self.gone.iter().filter(|gone| gone.id == id).flat_map(|gone| &gone.seen);
        seen.filter(|text| text.starts_with(&format!("{id} "))).count()
    }

    /// Lets every shard work until nothing is under way any more.
    pub(super) fn settle(&mut self) {
        for _ in 0..200_000 {
            let is_quiet = (0..self.hubs.len()).all(|shard| {
                let hub = &self.hubs[shard];
                !hub.has_mail() && hub.mesh.has_sent_all() && !hub.is_dirty() && hub.due.is_empty()
            }) && self.walks.iter().all(Vec::is_empty)
                && self.engine.as_ref().is_none_or(|engine| engine.end.is_quiet());
            if is_quiet {
                return;
            }
            let mut shards = self.sleeps.iter().zip(&self.woken);
            let is_stuck = shards.all(|(sleeps, woken)| *sleeps && !woken.load(Ordering::Relaxed));
            let has_engine_mail = self.engine.as_ref().is_some_and(|engine| !engine.end.is_quiet());
            assert!(!is_stuck || has_engine_mail, "every shard sleeps, and something is under way");
            self.step_any();
        }
        panic!("the shards wait for each other");
    }

    /// Checks what every subscription has seen of its topic against what the observer at the topic's home has seen.
    pub(super) fn check(&self) {
        for number in 0..TOPICS {
            let observer = self.members.values().find(|own| own.topic == number && own.is_observer);
            let order = observer.expect("observers do not leave").seen_in_order();
            assert_eq!(order.len() as u64, self.ordered(number));
            let places = self.places(number);
            let is_of_topic = |subscriber: &&Subscriber| subscriber.topic == number;
            self.members.values().filter(is_of_topic).for_each(|present| present.check(&order, places, true));
            self.gone.iter().filter(is_of_topic).for_each(|gone| gone.check(&order, places, false));
        }
    }
}

/// Returns whether the topic of that name asks for tags: every third one does.
fn has_tags(name: &TopicName) -> bool {
    (0..TOPICS).step_by(3).any(|number| topic(number) == *name)
}

/// A step of a shard.
#[derive(Debug, Clone, Copy)]
pub(super) enum Act {
    TakeDelivery,
    TakeRequest,
    SendOut,
    TakeDue,
    /// A walk under way hands out one share, or ends.
    Walk,
    /// The shard has nothing more to do for now.
    EndTurn,
}

impl Act {
    const ALL: [Act; 6] = [Act::TakeDelivery, Act::TakeRequest, Act::SendOut, Act::TakeDue, Act::Walk, Act::EndTurn];
}

pub(super) fn topic(number: usize) -> TopicName {
    TopicName::new(&format!("topic {number}")).unwrap()
}

pub(super) fn next(random: &mut u64, below: usize) -> usize {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    (*random >> 33) as usize % below.max(1)
}
