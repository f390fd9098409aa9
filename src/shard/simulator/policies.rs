//! The policies for slow subscribers on a whole shard: clients that take bytes now and then know what they have lost.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};

use super::{
    random::Random,
    simulation::arrival,
    socket::SimulatedSocket,
    world::{ANSWER, EMPTY_MESSAGE, World, take_sent},
};
use crate::{
    handler::ShardApi,
    hub::{
        ConnectionId, Format, Overflow, Publication, RulesOfTopics, Scope, SlowRules, SubscribeOptions, Tags,
        TopicName, TopicRules,
        seeds::each_seed,
        testing::{REVERSED, reversed, telling_encodings},
    },
    metrics::Counter,
    proto::{MessageType, Millis},
    shard::arrival::Arrival,
};

/// The topics, by the names of their policies. The last has no rule.
const TOPICS: [&str; 4] = ["drop_oldest", "drop_newest", "latest", "plain"];
const KEYS: u64 = 4;

/// What a client has agreed to, and so what becomes of it when it is slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Its format has notices.
    Told,
    /// It has agreed to lose messages.
    Silent,
    /// It is closed.
    Raw,
}

struct Client {
    id: ConnectionId,
    manner: Manner,
    topics: Vec<usize>,
    texts: Vec<String>,
}

/// A run of one shard whose clients have these manners.
struct Run {
    world: World,
    random: Random,
    now: Millis,
    clients: Vec<Client>,
    /// How many messages each topic has had.
    published: [u64; TOPICS.len()],
}

fn name(topic: usize) -> TopicName {
    TopicName::new(TOPICS[topic]).expect("a name")
}

/// Returns the rules of a topic, with limits that the random number draws.
fn rules(topic: &TopicName, draw: u64) -> TopicRules {
    let delivery_interval_ms = (draw / 64).is_multiple_of(2).then_some(1 + draw / 128 % 30);
    let overflow = match topic.as_str() {
        "drop_oldest" => Overflow::DropOldest,
        "drop_newest" => Overflow::DropNewest,
        "latest" => Overflow::Latest,
        _ => return TopicRules { delivery_interval_ms, ..TopicRules::default() },
    };
    let is_latest = overflow == Overflow::Latest;
    let (messages_max, bytes_max) = (draw.is_multiple_of(2).then_some(5), draw.is_multiple_of(3).then_some(9_000));
    let age_max_ms = (draw.is_multiple_of(5)).then_some(40);
    let slow =
        if is_latest { SlowRules::default() } else { SlowRules { messages_max, bytes_max, age_max_ms, overflow } };
    let tags = if is_latest && delivery_interval_ms.is_some() { Tags::Newest } else { Tags::On };
    TopicRules { tags, slow: SlowRules { overflow, ..slow }, delivery_interval_ms, ..TopicRules::default() }
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let draw = random.next();
        let rules = RulesOfTopics::new(move |topic| rules(topic, draw));
        let messages_max = random.pick(&[12, 40, 1_000]);
        let bytes_max = random.pick(&[20_000, 100_000, 4 << 20]);
        let change = |config: &mut crate::config::Config| {
            (config.limits.backlog_messages_max, config.limits.backlog_bytes_max) = (messages_max, bytes_max);
        };
        let mut world =
            World::with_shard(change, |shard| shard.with_encodings(telling_encodings()).with_topic_rules(rules));
        world.shard.pace.backlog_bytes = random.pick(&[100, 3_000, 256 << 10]);
        Run { world, random, now: Millis(0), clients: Vec::new(), published: [0; TOPICS.len()] }
    }

    fn connect(&mut self, manner: Manner) {
        let all = 1..=TOPICS.len() - 1;
        let topics = match self.random.within(0..=2) {
            0 => vec![self.random.within(0..=TOPICS.len() - 1)],
            1 => (0..TOPICS.len()).collect(),
            _ => (0..self.random.within(all)).collect(),
        };
        let room = self.random.within(100..=4_000);
        let socket = SimulatedSocket::connect(&self.world.network, ANSWER, room);
        let arrival = arrival(socket, Vec::new(), None, Bytes::from_static(ANSWER), BytesMut::new());
        let options = SubscribeOptions { has_silent_lags: manner == Manner::Silent, ..SubscribeOptions::default() };
        let arrival = Arrival {
            subscriptions: topics.iter().map(|&topic| (name(topic), options)).collect(),
            format: if manner == Manner::Told { REVERSED } else { Format::RAW },
            ..arrival
        };
        let id = self.world.shard.adopt(self.now, arrival).expect("there is room");
        self.clients.push(Client { id, manner, topics, texts: Vec::new() });
        self.turns();
    }

    fn turns(&mut self) {
        while self.world.shard.turn(self.now) || self.world.network.borrow().has_reports() {}
    }

    fn publish(&mut self, topic: usize) {
        self.published[topic] += 1;
        let number = self.published[topic];
        let length = if self.random.chance(30) { 30_000 } else { self.random.within(0..=600) };
        let text = format!("{} {number} {}", TOPICS[topic], "x".repeat(length));
        let publication = Publication::text(&text).key(&(number % KEYS).to_string()).expect("a key");
        let place = ShardApi::publish(&mut self.world.shard, None, &name(topic), publication, Scope::Server);
        assert_eq!(place.map(|place| place.offset), Some(number));
    }

    fn step(&mut self) {
        match self.random.within(0..=9) {
            0..=4 => {
                let topic = self.random.within(0..=TOPICS.len() - 1);
                let most = if TOPICS[topic] == "plain" { 1 } else { 12 };
                (0..self.random.within(1..=most)).for_each(|_| self.publish(topic));
            }
            5..=7 => {
                let client = self.random.within(0..=self.clients.len() - 1);
                let bytes = self.random.within(1..=2_500);
                self.world.network.borrow_mut().fetch(client, bytes);
            }
            8 => self.now = Millis(self.now.0 + self.random.within(1..=30) as u64),
            _ => {}
        }
        if self.random.chance(700) {
            self.turns();
        }
    }

    /// Lets every client take all that it is owed.
    fn drain(&mut self) {
        self.turns();
        for _ in 0..20_000 {
            let mut is_quiet = true;
            for client in 0..self.clients.len() {
                let texts = take_sent(&self.world.network, client);
                is_quiet &= texts.is_empty() && self.world.network.borrow().lines[client].fetched.is_empty();
                self.clients[client].texts.extend(texts);
            }
            if let Some(due) = self.world.shard.hub.next_walk() {
                self.now = due.max(self.now);
            }
            self.turns();
            is_quiet &= self.world.shard.hub.next_walk().is_none();
            if is_quiet && self.clients.iter().all(|client| !self.owes(client)) {
                return;
            }
        }
        panic!("the clients are still owed something");
    }

    fn owes(&self, client: &Client) -> bool {
        self.world.shard.hub.connections.get(client.id).is_some_and(|connection| connection.io.owes_output())
    }

    /// Checks what each client knows. Returns how many messages the clients have lost that were not closed, and how
    /// many clients were closed.
    fn check(&self) -> (u64, u64) {
        let (mut lost, mut closed) = (0, 0);
        for client in &self.clients {
            let mut items: Vec<String> = client.texts[1..].to_vec();
            let is_closed = items.last().is_some_and(|last| last.starts_with("close"));
            assert_eq!(client.texts[0], "answer");
            closed += u64::from(is_closed);
            if is_closed {
                assert_eq!(items.pop().as_deref(), Some("close 1008"));
            }
            if client.manner == Manner::Told {
                let forward =
                    |text: &String| String::from_utf8(reversed(MessageType::Text, text.as_bytes())).expect("text");
                items = items.iter().map(forward).collect();
            }
            for &topic in &client.topics {
                lost += self.check_topic(client, topic, &items, is_closed);
            }
        }
        (lost, closed)
    }

    fn check_topic(&self, client: &Client, topic: usize, items: &[String], is_closed: bool) -> u64 {
        let (mut received, mut lags, mut last) = (BTreeSet::new(), Vec::new(), 0);
        for item in items {
            let parts: Vec<&str> = item.split(' ').collect();
            let number = |at: usize| parts[at].parse::<u64>().expect("a number");
            if parts[0] == TOPICS[topic] {
                assert!(last < number(1), "messages come in their order");
                last = number(1);
                received.insert(last);
            } else if parts[0] == "lag" && parts[1] == TOPICS[topic] {
                assert!(last < number(3), "a notice stands before what follows the first message that is missing");
                lags.push((number(3), number(4), number(5)));
            }
        }
        let published = self.published[topic];
        let lost: BTreeSet<u64> = (1..=published).filter(|number| !received.contains(number)).collect();
        let is_plain = TOPICS[topic] == "plain" || client.manner == Manner::Raw;
        if is_plain {
            assert!(lags.is_empty() && received.iter().copied().eq(1..=received.len() as u64), "nothing is missing");
        }
        if is_closed {
            return 0;
        }
        assert!(!is_plain || lost.is_empty());
        if client.manner == Manner::Told {
            for &(from, to, count) in &lags {
                assert!(lost.contains(&from) && lost.contains(&to) && lost.range(from..=to).count() as u64 >= count);
            }
            let is_told = |number: &u64| lags.iter().any(|&(from, to, _)| (from..=to).contains(number));
            assert!(lost.iter().all(is_told), "{lags:?} {lost:?}");
            assert_eq!(lags.iter().map(|lag| lag.2).sum::<u64>(), lost.len() as u64, "{lags:?} {lost:?}");
        }
        if TOPICS[topic] == "latest" {
            let last = |numbers: &mut dyn Iterator<Item = u64>| -> BTreeMap<u64, u64> {
                numbers.map(|number| (number % KEYS, number)).collect()
            };
            assert_eq!(
                last(&mut received.iter().copied()),
                last(&mut (1..=published)),
                "each key ends at its last value"
            );
        }
        lost.len() as u64
    }
}

/// The counters of all runs: messages that each policy has dropped, lags that were told, and clients that were closed.
type Seen = [u64; 6];

fn run(seed: u64) -> Seen {
    let mut run = Run::new(seed);
    let raw = if run.random.chance(500) { Manner::Raw } else { Manner::Silent };
    for manner in [Manner::Told, Manner::Silent, raw, Manner::Told, Manner::Told] {
        run.connect(manner);
    }
    let steps = run.random.within(5..=150);
    (0..steps).for_each(|_| run.step());
    run.drain();
    let (lost, closed) = run.check();
    run.world.shard.set_gauges();
    let count = |counter| run.world.counters.get(counter);
    let dropped =
        [Counter::DroppedOldest, Counter::DroppedNewest, Counter::DroppedOutdated, Counter::DroppedByInterval]
            .map(count);
    let all = dropped.iter().sum::<u64>();
    assert!(lost == all || lost < all && closed > 0, "{lost} messages are missing, and {all} were dropped");
    assert_eq!((count(Counter::Lagging), count(Counter::SlowConsumers)), (0, 0));
    let [oldest, newest, outdated, by_interval] = dropped;
    [oldest, newest, outdated, by_interval, count(Counter::LagsTold), closed]
}

/// What a client has received, and what it was told that it lost, is exactly the order of each topic.
#[test]
fn slow_clients_know_what_they_have_lost() {
    let mut all = Seen::default();
    let add = |seen: Seen| all.iter_mut().zip(seen).for_each(|(all, seen)| *all += seen);
    let count = each_seed("shard::simulator::policies", SEEDS, run, add);
    if count.is_some_and(|count| count >= SEEDS) {
        assert!(all.iter().all(|&count| count > 0), "the runs have met everything: {all:?}");
    }
}

/// A client that reads too slowly is heard all the same if policies may drop what it is owed.
#[test]
fn a_lagging_client_is_heard() {
    for (topic, is_heard) in [("drop_oldest", true), ("drop_newest", true), ("latest", true), ("plain", false)] {
        let change = |config: &mut crate::config::Config| config.limits.backlog_messages_max = 40;
        let rules = RulesOfTopics::new(|topic| rules(topic, 67));
        let mut world = World::with_shard(change, |shard| shard.with_topic_rules(rules));
        let socket = SimulatedSocket::connect(&world.network, ANSWER, 1_000);
        let target = TopicName::new("t").expect("a name");
        let forwards = Some((target.clone(), Scope::Server));
        let arrival = arrival(socket, Vec::new(), forwards, Bytes::from_static(ANSWER), BytesMut::new());
        let topic = TopicName::new(topic).expect("a name");
        let options = SubscribeOptions { has_silent_lags: true, ..SubscribeOptions::default() };
        let arrival = Arrival { subscriptions: [(topic.clone(), options)].into_iter().collect(), ..arrival };
        world.shard.adopt(Millis(0), arrival).expect("there is room");
        for number in 0..35 {
            let publication = Publication::text(&"x".repeat(300)).key(&number.to_string()).expect("a key");
            ShardApi::publish(&mut world.shard, None, &topic, publication, Scope::Server);
            while world.shard.turn(Millis(0)) {}
        }
        world.arrive(0, EMPTY_MESSAGE, 1);
        while world.shard.turn(Millis(0)) {}
        let outcome = (world.shard.hub.offset(&target), world.counters.get(Counter::Parked));
        assert_eq!(outcome, if is_heard { (1, 0) } else { (0, 1) }, "{topic:?}");
    }
}

/// A reader that wakes up gets what its network holds, the message that is being sent, and then what the policy has
/// kept: nothing older.
#[test]
fn a_woken_reader_gets_no_old_messages() {
    const ROOM: usize = 2_000;
    const ALL: u64 = 500;
    let budget = |overflow| SlowRules { overflow, messages_max: Some(5), ..SlowRules::default() };
    let age = SlowRules { overflow: Overflow::DropOldest, age_max_ms: Some(100), ..SlowRules::default() };
    let latest = SlowRules { overflow: Overflow::Latest, ..SlowRules::default() };
    for (slow, kept) in [(budget(Overflow::DropOldest), 5), (age, 100), (latest, KEYS)] {
        let rules = RulesOfTopics::new(move |_| TopicRules { tags: Tags::On, slow, ..TopicRules::default() });
        let mut world = World::with_shard(|_| {}, |shard| shard.with_topic_rules(rules));
        let topic = TopicName::new("t").expect("a name");
        let socket = SimulatedSocket::connect(&world.network, ANSWER, ROOM);
        let arrival = arrival(socket, Vec::new(), None, Bytes::from_static(ANSWER), BytesMut::new());
        let options = SubscribeOptions { has_silent_lags: true, ..SubscribeOptions::default() };
        let arrival = Arrival { subscriptions: [(topic.clone(), options)].into_iter().collect(), ..arrival };
        world.shard.adopt(Millis(0), arrival).expect("there is room");
        while world.shard.turn(Millis(0)) {}
        let mut length = 0;
        for number in 1..=ALL {
            let text = format!("{number} {}", "x".repeat(90));
            length = text.len() + 2;
            let publication = Publication::text(&text).key(&(number % KEYS).to_string()).expect("a key");
            ShardApi::publish(&mut world.shard, None, &topic, publication, Scope::Server);
            while world.shard.turn(Millis(number)) {}
        }
        let mut numbers: Vec<u64> = Vec::new();
        for _ in 0..100 {
            let texts = take_sent(&world.network, 0).into_iter().filter(|text| text != "answer");
            numbers.extend(texts.map(|text| text.split(' ').next().expect("a number").parse::<u64>().expect("one")));
            while world.shard.turn(Millis(ALL)) || world.network.borrow().has_reports() {}
        }
        assert_eq!(numbers.last(), Some(&ALL), "{slow:?}");
        let old = numbers.iter().filter(|number| **number < ALL - kept).count();
        assert!(old >= ROOM / length - 2 && old <= ROOM / length + 1, "{slow:?}: {old} old messages in {numbers:?}");
        assert!(numbers.len() as u64 <= old as u64 + kept + 1, "{slow:?}: {numbers:?}");
    }
}

/// Seeds of an ordinary test run.
const SEEDS: u64 = 300;
