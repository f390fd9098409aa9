//! Subscribers that drop and resume at their last place, on whole shards: what each of them received over all of its
//! connections is the order of each topic from its first subscription on, or has a told gap where messages were not
//! kept.
//!
//! One to three shards have turns in any order. Publishers are on any shard, and some subscribers publish. Topics keep
//! so many messages, for so long, or none; some are forgotten; and some have policies for slow subscribers.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, sync::Arc};

use bytes::{Bytes, BytesMut};

use super::{
    line::End,
    network::{Network, Weather},
    random::Random,
    simulation::{arrival, handlers_of},
    socket::{SimulatedIo, SimulatedSocket},
    world::{ANSWER, take_fetched},
};
use crate::{
    config::{Config, Settings},
    handler::{Connection, Handler, RouteOptions, ShardApi, UNRECOVERED},
    hub::{
        ConnectionId, Encodable, EncodeLag, Encodings, Format, Growth, HistoryRules, Lag, MeshEnd, MeshLimits,
        NewEncoding, OrderEnd, Overflow, Place, Publication, Resume, RulesOfTopics, Scope, SlowRules, SubscribeOptions,
        Tags, TopicName, TopicRules,
        seeds::each_seed,
        testing::{Journal, Ordered},
    },
    metrics::{Counter, Counters},
    proto::{Fin, Millis, OpCode, encode_frame},
    shard::{arrival::Arrival, state::Shard},
};

/// The topics, each with the most messages that it keeps.
const TOPICS: [(&str, Option<u64>); 7] = [
    ("plain", Some(1_000)),
    ("short", Some(4)),
    ("aged", Some(1_000)),
    ("replay", Some(1_000)),
    ("trimmed", Some(12)),
    ("oldest", Some(40)),
    ("none", None),
];

/// Tells the client of its subscriptions, as `ringhub.v1` does.
struct Telling;

impl Handler for Telling {
    type State = ();

    fn on_subscribed(&self, connection: &mut Connection<'_, ()>, topic: &TopicName) {
        let OrderEnd { epoch, offset } = connection.order_end().expect("no engine orders the topics");
        let recovered = connection.is_recovered();
        connection.send_text(format!("subscribed|{topic}|{epoch}|{offset}|{recovered:?}"));
    }
}

fn encode(Encodable { topic, publication, place, .. }: &Encodable<'_>, out: &mut BytesMut) {
    let Place { epoch, offset, .. } = place.expect("every message has a place");
    let text = String::from_utf8_lossy(publication.payload());
    put_text(&format!("message|{topic}|{epoch}|{offset}|{text}"), out);
}

fn encode_lag(Lag { topic, epoch, from, to, count, policy }: &Lag, out: &mut BytesMut) {
    put_text(&format!("lag|{topic}|{epoch}|{from}|{to}|{count}|{}", policy.name()), out);
}

fn put_text(text: &str, out: &mut BytesMut) {
    let mut frame = Vec::new();
    encode_frame(OpCode::Text, Fin::Set, text.as_bytes(), &mut frame);
    out.extend_from_slice(&frame);
}

/// Returns the encodings with one format, whose frames tell places and lags.
fn encodings() -> (Arc<Encodings>, Format) {
    let mut encodings = Encodings::default();
    let encode_lag: Option<EncodeLag> = Some(encode_lag);
    let new = NewEncoding { name: "told", encode, encode_lag, is_body: false, growth: Growth::RAW };
    let format = encodings.add_new(&new);
    (Arc::new(encodings), format)
}

fn name(topic: usize) -> TopicName {
    TopicName::new(TOPICS[topic].0).expect("a name")
}

fn rules(topic: &TopicName) -> TopicRules {
    let messages_max = TOPICS.iter().find(|(name, _)| topic.as_str() == *name).and_then(|(_, most)| *most);
    let age_max_ms = (topic.as_str() == "aged").then_some(40);
    let kept = HistoryRules { messages_max, age_max_ms, ..HistoryRules::default() };
    let overflow = match topic.as_str() {
        "replay" | "trimmed" => Overflow::Replay,
        "oldest" => Overflow::DropOldest,
        _ => return TopicRules { kept, ..TopicRules::default() },
    };
    let slow = SlowRules { overflow, messages_max: Some(6), ..SlowRules::default() };
    TopicRules { kept, slow, tags: Tags::On, ..TopicRules::default() }
}

/// A subscriber, over all of its connections.
#[derive(Default)]
struct Subscriber {
    is_told: bool,
    topics: Vec<usize>,
    /// The connection, if there is one: its shard, its line and its id.
    connection: Option<(usize, usize, ConnectionId)>,
    /// The last position in each topic, and whether the subscription was told of it.
    known: BTreeMap<usize, Known>,
    /// The connections that were closed because a position was not recovered.
    unrecovered: u64,
    closed_slow: u64,
}

/// What a subscriber knows of a topic.
#[derive(Debug, Clone, Copy)]
struct Known {
    position: OrderEnd,
    /// Whether the present connection has a live subscription.
    is_live: bool,
    /// Messages of these offsets are missing, as the subscriber was told.
    told: Option<(u64, u64)>,
    /// Messages that were told to be missing, and have not been passed.
    missing: u64,
}

struct World {
    shards: Vec<Simulated>,
    random: Random,
    now: Millis,
    told: Format,
    subscribers: Vec<Subscriber>,
    published: u64,
    /// How often the history of each topic was forgotten.
    forgotten: [bool; TOPICS.len()],
}

/// A shard, its network and its counters.
type Simulated = (Shard<SimulatedIo>, Rc<RefCell<Network>>, Arc<Counters>);

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let count = random.within(1..=3);
        let mut config = Config::new(&Settings::default(), 20_000).expect("the defaults");
        config.shards = count;
        config.keep_alive.ping_interval = 0;
        config.limits.topics_idle_max = random.pick(&[0, 10_000]);
        config.limits.backlog_bytes_max = random.pick(&[20_000, 100_000, 1 << 20]);
        config.limits.backlog_messages_max = random.pick(&[20, 100_000]);
        let wake = (0..count).map(|_| Arc::new(|| {}) as crate::hub::Wake).collect();
        let limits = MeshLimits { lane_entries_max: random.pick(&[2, 64]), ..MeshLimits::default() };
        let (encodings, told) = encodings();
        let history_bytes_max = random.pick(&[12_000, 64 << 20]);
        let weather = if random.chance(300) { Weather { short_send: 200, ..Weather::FAIR } } else { Weather::FAIR };
        let mut start = |mesh| {
            let network = Rc::new(RefCell::new(Network::new(Random::new(random.next()), weather)));
            let counters = Arc::new(Counters::default());
            let handlers = handlers_of(&config, RouteOptions::new(), Telling);
            let io = SimulatedIo::new(&network);
            let shard = Shard::new(mesh, &config, io, handlers, Arc::clone(&counters), random.next(), Millis(0));
            let mut shard = shard.with_encodings(Arc::clone(&encodings)).with_topic_rules(RulesOfTopics::new(rules));
            shard.pace.backlog_bytes = random.pick(&[100, 3_000, 256 << 10]);
            shard.pace.history_parts = random.pick(&[1, 16]);
            shard.hub.limits.history_bytes_max = history_bytes_max;
            shard.hub.journal = Some(Box::new(Journal::default()));
            (shard, network, counters)
        };
        let shards = MeshEnd::connect(wake, &limits).into_iter().map(&mut start).collect();
        let forgotten = [history_bytes_max < 1 << 20; TOPICS.len()];
        World { shards, random, now: Millis(0), told, subscribers: Vec::new(), published: 0, forgotten }
    }

    fn home(&self, topic: usize) -> usize {
        usize::from(self.shards[0].0.hub.home(&name(topic)))
    }

    /// Returns the messages of a topic, in their order.
    fn order(&self, topic: usize) -> &[Ordered] {
        let journal = self.shards[self.home(topic)].0.hub.journal.as_ref().expect("each shard has one");
        journal.ordered.get(&name(topic)).map_or(&[], Vec::as_slice)
    }

    fn turn(&mut self, shard: usize) -> bool {
        let (shard, network, _) = &mut self.shards[shard];
        // What waits for room in a lane is work for the shard at the other end.
        shard.turn(self.now) || network.borrow().has_reports() || shard.hub.waiting_bytes() > 0
    }

    /// Runs turns of all shards until no shard has work.
    fn settle(&mut self) {
        let mut quiet = 0;
        while quiet < 8 {
            let has_work = (0..self.shards.len()).map(|shard| self.turn(shard)).fold(false, |any, has| any | has);
            quiet = if has_work { 0 } else { quiet + 1 };
        }
    }

    fn connect(&mut self, number: usize) {
        let shard = self.random.within(0..=self.shards.len() - 1);
        let room = self.random.within(100..=4_000);
        let Subscriber { is_told, topics, known, .. } = &self.subscribers[number];
        let (is_told, topics, known) = (*is_told, topics.clone(), known.clone());
        let has_echo = self.random.chance(500);
        let options = |topic: &usize| {
            let resume = match known.get(topic) {
                Some(Known { position: OrderEnd { epoch, offset }, .. }) => {
                    Some(Resume::After { epoch: *epoch, offset: *offset })
                }
                None => match self.random.within(0..=3) {
                    0 => Some(Resume::Earliest),
                    1 => Some(Resume::Last(self.random.within(0..=5) as u64)),
                    2 => Some(Resume::After { epoch: 7, offset: 9 }),
                    _ => None,
                },
            };
            let options = SubscribeOptions { has_echo, resume, ..SubscribeOptions::default() };
            (name(*topic), SubscribeOptions { accepts_unrecovered: is_told, ..options })
        };
        let subscriptions = topics.iter().map(options).collect();
        let (shard_of, network, _) = &mut self.shards[shard];
        let socket = SimulatedSocket::connect(network, ANSWER, room);
        let line = network.borrow().lines.len() - 1;
        let arrival = arrival(socket, Vec::new(), None, Bytes::from_static(ANSWER), BytesMut::new());
        let arrival = Arrival { subscriptions, format: if is_told { self.told } else { Format::RAW }, ..arrival };
        let id = shard_of.adopt(self.now, arrival).expect("there is room");
        let subscriber = &mut self.subscribers[number];
        subscriber.connection = Some((shard, line, id));
        for known in subscriber.known.values_mut() {
            known.is_live = false;
        }
    }

    /// Lets a subscriber read what it was sent, and checks it. Returns whether there was something to read.
    fn read(&mut self, number: usize, most: usize) -> bool {
        let Some((shard, line, id)) = self.subscribers[number].connection else { return false };
        let has_bytes = !self.shards[shard].1.borrow().lines[line].sent.is_empty();
        self.shards[shard].1.borrow_mut().fetch(line, most);
        for item in take_fetched(&self.shards[shard].1, line) {
            self.note(number, id, &item);
        }
        // The server gives up a connection whose client has not read its goodbye in time.
        if !has_bytes && self.shards[shard].1.borrow().lines[line].dropped {
            self.subscribers[number].connection = None;
        }
        has_bytes
    }

    fn note(&mut self, number: usize, id: ConnectionId, item: &str) {
        let parts: Vec<&str> = item.split('|').collect();
        let topic_of = |text: &str| TOPICS.iter().position(|(name, _)| *name == text).expect("a topic");
        let number_of = |at: usize| parts[at].parse::<u64>().expect("a number");
        match parts[0] {
            "answer" => {}
            "subscribed" => {
                let at = OrderEnd { epoch: number_of(2), offset: number_of(3) };
                self.note_subscribed(number, topic_of(parts[1]), at, parts[4]);
            }
            "message" => {
                let place = (number_of(2), number_of(3));
                self.note_message(number, id, topic_of(parts[1]), place, parts[4]);
            }
            "lag" => {
                let topic = topic_of(parts[1]);
                assert!(matches!(parts[6], "replay" | "drop_oldest"), "{item}");
                let known = self.subscribers[number].known.get_mut(&topic).expect("it is subscribed");
                assert_eq!(known.position.epoch, number_of(2), "{item} after {known:?}");
                assert!(known.position.offset < number_of(3), "{item} after {known:?}");
                let from = known.told.map_or(number_of(3), |(from, _)| from.min(number_of(3)));
                known.told = Some((from, number_of(4)));
                known.missing += number_of(5);
            }
            _ if item.starts_with("close ") => self.note_close(number, item),
            // A raw message: its text says where it stands.
            text => {
                let topic = topic_of(text.split(' ').nth(1).expect("two words"));
                let text = text.to_owned();
                let place = self.order(topic).iter().find(|ordered| text.as_bytes().starts_with(&ordered.beginning));
                let place = place.and_then(|ordered| ordered.tag.place).expect("the message has a place");
                self.note_message(number, id, topic, (place.epoch, place.offset), &text);
            }
        }
    }

    fn note_subscribed(&mut self, number: usize, topic: usize, at: OrderEnd, recovered: &str) {
        let end = self.shards[self.home(topic)].0.hub.order_end(&name(topic));
        let (most, is_cut) = (TOPICS[topic].1, self.forgotten[topic] || TOPICS[topic].0 == "aged");
        let subscriber = &mut self.subscribers[number];
        let earlier = subscriber.known.insert(topic, Known { position: at, is_live: true, told: None, missing: 0 });
        let Some(Known { position, is_live, .. }) = earlier else { return };
        assert!(!is_live, "a subscription goes live once");
        match recovered {
            "Some(true)" => assert_eq!(at, position, "recovered, and not where the subscriber was"),
            "Some(false)" => {
                assert!(subscriber.is_told, "a raw subscriber cannot be told");
                let is_gone = end.is_none_or(|end| end.epoch != position.epoch || end.offset < position.offset);
                let is_kept =
                    end.zip(most).is_some_and(|(end, most)| end.offset - position.offset.min(end.offset) <= most);
                assert!(is_gone || is_cut || !is_kept, "everything after {position:?} was kept up to {end:?}");
            }
            other => panic!("a subscription that resumes is told {other}"),
        }
    }

    /// Checks that a message is the next of its topic for a subscriber, apart from its own ones and those of which it
    /// was told.
    fn note_message(&mut self, number: usize, id: ConnectionId, topic: usize, (epoch, offset): (u64, u64), text: &str) {
        let known = self.subscribers[number].known[&topic];
        let order = self.order(topic);
        let place = |ordered: &Ordered| ordered.tag.place.map(|place| (place.epoch, place.offset)).expect("a place");
        let found = order.iter().find(|ordered| place(ordered) == (epoch, offset)).expect("it was ordered");
        assert!(text.as_bytes().starts_with(&found.beginning), "{text} is another message");
        assert!(known.is_live && known.position.epoch == epoch, "{text} after {known:?}");
        let between = order.iter().filter(|ordered| {
            let (other, between) = place(ordered);
            other == epoch && known.position.offset < between && between < offset && ordered.source != Some(id)
        });
        let between: Vec<u64> = between.map(|ordered| place(ordered).1).collect();
        assert!(known.position.offset < offset, "{text} comes again or too late: {known:?}");
        let is_told = |between: &u64| known.told.is_some_and(|(from, to)| (from..=to).contains(between));
        assert!(between.iter().all(is_told), "{between:?} are missing before {text}: {known:?}");
        let known = self.subscribers[number].known.get_mut(&topic).expect("it is known");
        known.position.offset = offset;
        known.missing = known.missing.checked_sub(between.len() as u64).expect("no more are missing than were told");
    }

    fn note_close(&mut self, number: usize, item: &str) {
        self.drop_connection(number);
        let subscriber = &mut self.subscribers[number];
        if item == format!("close {}", UNRECOVERED.0) {
            assert!(!subscriber.is_told, "whoever can be told is not closed");
            subscriber.unrecovered += 1;
            // The client begins anew.
            subscriber.known.clear();
        } else {
            assert_eq!(item, "close 1008");
            subscriber.closed_slow += 1;
        }
    }

    fn publish(&mut self) {
        let topic = self.random.within(0..=TOPICS.len() - 1);
        let most = if self.random.chance(200) { 30 } else { 3 };
        let by = self.random.within(0..=self.subscribers.len() - 1);
        let (shard, source) = match self.subscribers[by].connection {
            Some((shard, _, id)) if self.random.chance(500) => (shard, Some(id)),
            _ => (self.random.within(0..=self.shards.len() - 1), None),
        };
        for _ in 0..self.random.within(1..=most) {
            self.published += 1;
            let length = if self.random.chance(20) { 9_000 } else { self.random.within(0..=300) };
            let text = format!("{:08} {} {}", self.published, TOPICS[topic].0, "x".repeat(length));
            let publication = Publication::text(&text);
            ShardApi::publish(&mut self.shards[shard].0, source, &name(topic), publication, Scope::Server);
        }
    }

    fn step(&mut self) {
        let number = self.random.within(0..=self.subscribers.len() - 1);
        match self.random.within(0..=19) {
            0..=6 => self.publish(),
            7..=11 => {
                let most = self.random.within(1..=2_500);
                self.read(number, most);
            }
            12 => self.drop_connection(number),
            13..=14 if self.subscribers[number].connection.is_none() => self.connect(number),
            15 => self.now = Millis(self.now.0 + self.random.within(1..=30) as u64),
            16 if self.random.chance(200) => {
                let topic = self.random.within(0..=TOPICS.len() - 1);
                let home = self.home(topic);
                self.shards[home].0.hub.forget_history(&name(topic));
                self.forgotten[topic] = true;
            }
            _ => {}
        }
        for _ in 0..self.random.within(0..=4) {
            let shard = self.random.within(0..=self.shards.len() - 1);
            self.turn(shard);
        }
    }

    fn drop_connection(&mut self, number: usize) {
        if let Some((shard, line, _)) = self.subscribers[number].connection.take() {
            let network = &self.shards[shard].1;
            network.borrow_mut().lines[line].end = Some(End::Reset);
            network.borrow_mut().arrive(line, usize::MAX);
        }
    }

    /// Connects all subscribers once more, lets them read everything, and checks that nothing is missing at the end.
    fn finish(&mut self) {
        for (_, network, _) in &self.shards {
            network.borrow_mut().weather = Weather::FAIR;
        }
        for _ in 0..200 {
            for number in 0..self.subscribers.len() {
                if self.subscribers[number].connection.is_none() {
                    self.connect(number);
                }
            }
            let mut is_quiet = false;
            while !is_quiet {
                self.now = Millis(self.now.0 + 20);
                self.settle();
                is_quiet =
                    !(0..self.subscribers.len()).map(|number| self.read(number, usize::MAX)).fold(false, |a, b| a | b);
            }
            if self.subscribers.iter().all(|subscriber| subscriber.connection.is_some()) {
                return self.check();
            }
        }
        panic!("a subscriber is closed again and again");
    }

    fn check(&self) {
        for subscriber in &self.subscribers {
            let Some((_, _, id)) = subscriber.connection else { continue };
            for &topic in &subscriber.topics {
                let known = subscriber.known.get(&topic).expect("the subscription is live");
                let order = self.order(topic);
                let own = order.iter().filter(|ordered| ordered.source != Some(id));
                let places = own.filter_map(|ordered| ordered.tag.place);
                let left: Vec<u64> = places
                    .filter(|place| place.epoch == known.position.epoch && place.offset > known.position.offset)
                    .map(|place| place.offset)
                    .collect();
                let is_told = |offset: &u64| known.told.is_some_and(|(from, to)| (from..=to).contains(offset));
                assert!(left.iter().all(is_told), "{left:?} of {} are missing: {known:?}", TOPICS[topic].0);
                let end = self.shards[self.home(topic)].0.hub.order_end(&name(topic));
                assert_eq!(end.map(|end| end.epoch), Some(known.position.epoch), "the epoch is that of the topic");
            }
        }
        for (shard, _, _) in &self.shards {
            assert_eq!(shard.hub.readers(), 0, "no cursor is left");
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shards.iter().for_each(|(_, network, _)| network.borrow_mut().is_over = true);
    }
}

/// The counters of all runs.
type Seen = [u64; 6];

fn run(seed: u64) -> Seen {
    let mut world = World::new(seed);
    for _ in 0..world.random.within(1..=5) {
        let count = world.random.within(1..=3);
        let mut topics: Vec<usize> = (0..count).map(|_| world.random.within(0..=TOPICS.len() - 1)).collect();
        topics.sort_unstable();
        topics.dedup();
        let is_told = world.random.chance(700);
        world.subscribers.push(Subscriber { is_told, topics, ..Subscriber::default() });
    }
    for _ in 0..world.random.within(20..=250) {
        world.step();
    }
    world.finish();
    let sum = |counter| world.shards.iter().map(|(_, _, counters)| counters.get(counter)).sum::<u64>();
    let counted = [
        Counter::Recovered,
        Counter::Unrecovered,
        Counter::UnrecoveredClosed,
        Counter::MissedInHistory,
        Counter::Replayed,
        Counter::DroppedOldest,
    ];
    counted.map(sum)
}

/// Every subscriber gets each topic's order, or is told where messages are missing.
#[test]
fn subscribers_resume_without_loss_or_are_told() {
    let mut all = Seen::default();
    let add = |seen: Seen| all.iter_mut().zip(seen).for_each(|(all, seen)| *all += seen);
    let count = each_seed("shard::simulator::resume", SEEDS, run, add);
    if count.is_some_and(|count| count >= SEEDS) {
        assert!(all.iter().all(|&count| count > 0), "the runs have met everything: {all:?}");
    }
}

/// Seeds of an ordinary test run.
const SEEDS: u64 = 2_000;
