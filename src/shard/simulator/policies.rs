//! The policies for slow subscribers on whole shards: clients that take bytes now and then know what they have lost.
//!
//! Two shards, each the home of some topics, and the control thread's end. Clients, shards and the control thread
//! publish to the same topics. Clients of three formats have sockets with little room, and connect also while others
//! are losing messages. The rules are replaced meanwhile. The control thread's end reads all topics, which tells the
//! test the order of each: what a client has received, and what it was told that it lost, is exactly the rest of that
//! order from where it connected. And the count of a shard for a receipt is what has become of the message when the
//! shard sends the count: in the sockets and in the backlogs of the clients.

mod checks;
mod client;
mod run;

use bytes::{Bytes, BytesMut};

use self::{client::Manner, run::Run};
use super::{
    simulation::arrival,
    socket::SimulatedSocket,
    world::{ANSWER, EMPTY_MESSAGE, World, take_sent},
};
use crate::{
    handler::ShardApi,
    hub::{
        Overflow, Publication, Receipt, RulesOfTopics, Scope, SlowRules, SubscribeOptions, Tags, TopicName, TopicRules,
        seeds::each_seed,
    },
    metrics::Counter,
    proto::Millis,
    shard::arrival::Arrival,
};

/// The topics, which begin with the names of their policies. The last has no policy. Both shards are homes.
const TOPICS: [&str; 4] = ["drop_oldest", "drop_newest", "latest.1", "plain.1"];
const PLAIN: usize = 3;
const KEYS: u64 = 4;

fn name(topic: usize) -> TopicName {
    TopicName::new(TOPICS[topic]).expect("a name")
}

/// Returns the rules of a topic, with limits that the random number draws. After a reload by another random number a
/// topic may have the policy of another one's name, or none.
fn rules(topic: &TopicName, draw: u64, reload: Option<u64>) -> TopicRules {
    // The publishers of a run agree about the keys.
    let key = draw.is_multiple_of(7).then(|| "/k".parse().expect("a pointer"));
    let draw = reload.unwrap_or(draw);
    let delivery_interval_ms = (draw / 64).is_multiple_of(2).then_some(1 + draw / 128 % 30);
    let rules = TopicRules { delivery_interval_ms, key, ..TopicRules::default() };
    let policies = [Overflow::DropOldest, Overflow::DropNewest, Overflow::Latest];
    let own = policies.iter().position(|policy| topic.as_str().starts_with(policy.name()));
    let shift = reload.map_or(0, |reload| reload / 8 % 6) as usize;
    // Half of the reloads leave the policies and change the limits.
    let overflow = match (own, shift) {
        (None, _) | (_, 5) => return rules,
        (Some(own), 0..=2) => policies[own],
        (Some(own), shift) => policies[(own + shift - 2) % policies.len()],
    };
    let is_latest = overflow == Overflow::Latest;
    let (messages_max, bytes_max) = (draw.is_multiple_of(2).then_some(5), draw.is_multiple_of(3).then_some(9_000));
    let age_max_ms = (draw.is_multiple_of(5)).then_some(40);
    let slow =
        if is_latest { SlowRules::default() } else { SlowRules { messages_max, bytes_max, age_max_ms, overflow } };
    let tags = if is_latest && delivery_interval_ms.is_some() { Tags::Newest } else { Tags::On };
    TopicRules { tags, slow: SlowRules { overflow, ..slow }, ..rules }
}

fn topic_of(name: &str) -> usize {
    TOPICS.iter().position(|topic| *topic == name).expect("a topic of the run")
}

/// The counters of all runs: messages that each policy has dropped, lags that were told, clients that were closed, and
/// what receipts have counted.
type Seen = [u64; 11];

fn run(seed: u64) -> Seen {
    let mut run = Run::new(seed);
    for manner in [Manner::Told, Manner::Silent, Manner::Raw, Manner::Json, Manner::Told, Manner::Json] {
        if run.random.chance(800) {
            run.connect(manner);
        }
    }
    run.connect(Manner::Told);
    let steps = run.random.within(5..=150);
    (0..steps).for_each(|_| run.step());
    run.drain();
    let (lost, closed) = run.check();
    run.worlds.iter_mut().for_each(|world| world.shard.set_gauges());
    let count = |counter| run.worlds.iter().map(|world| world.counters.get(counter)).sum::<u64>();
    let dropped =
        [Counter::DroppedOldest, Counter::DroppedNewest, Counter::DroppedOutdated, Counter::DroppedByInterval]
            .map(count);
    let all = dropped.iter().sum::<u64>();
    assert!(lost == all || lost < all && closed > 0, "{lost} messages are missing, and {all} were dropped");
    assert_eq!((count(Counter::Lagging), count(Counter::SlowConsumers)), (0, 0));
    assert_eq!(count(Counter::BacklogBytes) + count(Counter::BacklogMessages), 0, "nothing stays counted");
    let receipts = |part: fn(&Receipt) -> u32| run.answered.values().map(|receipt| u64::from(part(receipt))).sum();
    let [oldest, newest, outdated, by_interval] = dropped;
    [
        oldest,
        newest,
        outdated,
        by_interval,
        count(Counter::LagsTold),
        closed,
        receipts(|receipt| receipt.matched),
        receipts(|receipt| receipt.sent),
        receipts(|receipt| receipt.queued),
        receipts(|receipt| receipt.dropped),
        receipts(|receipt| receipt.closed),
    ]
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
        let rules = RulesOfTopics::new(|topic| rules(topic, 67, None));
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

/// The most clients of a run.
const CLIENTS_MAX: usize = 9;

/// Seeds of an ordinary test run.
const SEEDS: u64 = 300;
