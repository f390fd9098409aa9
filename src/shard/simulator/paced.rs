//! Topics with an interval between two deliveries, on a whole shard and in simulated time.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use bytes::{Bytes, BytesMut};

use super::{
    random::Random,
    simulation::arrival,
    socket::SimulatedSocket,
    world::{ANSWER, World, take_sent},
};
use crate::{
    handler::ShardApi,
    hub::{
        ConnectionId, Format, Overflow, Publication, PublishOutcome, Receipt, RulesOfTopics, Scope, SubscribeOptions,
        TopicName, TopicRule, TopicTable,
        seeds::each_seed,
        testing::{REVERSED, reversed, telling_encodings},
    },
    metrics::Counter,
    proto::{MessageType, Millis},
    shard::arrival::Arrival,
};

const KEYS: u64 = 5;

fn topic() -> TopicName {
    TopicName::new("t").expect("a name")
}

/// Returns a shard whose topic has this policy and interval.
fn world(overflow: Overflow, interval_ms: u64) -> World {
    let rule = TopicRule::new(["t".parse().expect("a pattern")]).slow(overflow).delivery_interval_ms(interval_ms);
    let rules = RulesOfTopics::of_table(TopicTable::new([&rule]).expect("one rule"));
    World::with_shard(|_| {}, |shard| shard.with_encodings(telling_encodings()).with_topic_rules(rules))
}

/// Connects a subscriber, whose format has notices of lags if it is `told`, and which has else agreed to lags if it is
/// `silent`.
fn connect(world: &mut World, now: Millis, (told, silent): (bool, bool)) -> ConnectionId {
    let socket = SimulatedSocket::connect(&world.network, ANSWER, usize::MAX);
    let arrival = arrival(socket, Vec::new(), None, Bytes::from_static(ANSWER), BytesMut::new());
    let options = SubscribeOptions { has_silent_lags: silent, ..SubscribeOptions::default() };
    let format = if told { REVERSED } else { Format::RAW };
    let arrival = Arrival { subscriptions: [(topic(), options)].into_iter().collect(), format, ..arrival };
    let id = world.shard.adopt(now, arrival).expect("there is room");
    turns(world, now);
    id
}

fn turns(world: &mut World, now: Millis) {
    while world.shard.turn(now) || world.network.borrow().has_reports() {}
}

fn publish(world: &mut World, number: u64, text: &str) {
    let publication = Publication::text(text).key(&(number % KEYS).to_string()).expect("a key");
    ShardApi::publish(&mut world.shard, None, &topic(), publication, Scope::Server);
}

/// Returns what a client of the format with notices was sent since the last call.
fn told(world: &World, client: usize) -> Vec<String> {
    let forward = |text: &String| String::from_utf8(reversed(MessageType::Text, text.as_bytes())).expect("text");
    let is_answer = |text: &&String| *text != "answer";
    take_sent(&world.network, client).iter().filter(is_answer).map(forward).collect()
}

/// What a subscriber has received and was told of.
#[derive(Debug, Default)]
struct Known {
    received: Vec<u64>,
    told: u64,
    /// The last message that was received or told of.
    last: u64,
}

impl Known {
    fn note(&mut self, items: &[String]) {
        for item in items {
            let parts: Vec<&str> = item.split(' ').collect();
            let number = |at: usize| parts[at].parse::<u64>().expect("a number");
            if parts[0] == "lag" {
                assert!(self.received.last().is_none_or(|&last| last < number(3)), "{item} after {self:?}");
                self.told += number(5);
                self.last = self.last.max(number(4));
            } else {
                assert!(self.received.last().is_none_or(|&last| last < number(0)), "messages come in their order");
                self.received.push(number(0));
                self.last = self.last.max(number(0));
            }
        }
    }
}

/// Runs a shard for a while: messages come at any time, and the shard has a turn only when something comes, or its
/// deadline has come. Returns the deliveries, and the messages that were told of.
fn run(seed: u64) -> [u64; 2] {
    let mut random = Random::new(seed);
    let interval = random.pick(&[1, 2, 7, 20, 130]);
    let overflow = random.pick(&[Overflow::Latest, Overflow::Latest, Overflow::DropOldest, Overflow::Close]);
    let mut world = world(overflow, interval);
    let mut now = Millis(random.within(0..=300) as u64);
    connect(&mut world, now, (true, false));
    let (mut known, mut times, mut came) = (Known::default(), Vec::new(), Vec::new());
    let per_mille = random.pick(&[30, 300, 900]);
    let end = now.0 + 20 * interval + 50;
    while now.0 < end || came.len() as u64 > known.last {
        let mut is_due = world.shard.next_deadline().is_some_and(|deadline| deadline <= now);
        if now.0 < end && random.chance(per_mille) {
            for _ in 0..random.within(1..=9) {
                came.push(now);
                let number = came.len() as u64;
                let key = number * number;
                publish(&mut world, key, &format!("{number} {}", "x".repeat(random.within(0..=300))));
            }
            is_due = true;
        }
        if is_due {
            turns(&mut world, now);
            let items = told(&world, 0);
            if !items.is_empty() {
                times.push(now.0);
                known.note(&items);
            }
        }
        if let Some(first) = came.get(known.last as usize) {
            assert!(now.0 - first.0 < interval, "a message waits for an interval at most");
        }
        now = Millis(now.0 + 1);
    }
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= interval), "{times:?} every {interval} ms");
    let received: BTreeSet<u64> = known.received.iter().copied().collect();
    let published = came.len() as u64;
    assert_eq!(received.len() as u64 + known.told, published, "each message is received or told of, once");
    if overflow == Overflow::Latest {
        let last = |numbers: &mut dyn Iterator<Item = u64>| -> BTreeMap<u64, u64> {
            numbers.map(|number| (number * number % KEYS, number)).collect()
        };
        assert_eq!(last(&mut received.iter().copied()), last(&mut (1..=published)), "each key ends at its last value");
    } else {
        assert_eq!(known.told, 0, "the run only gathers");
    }
    assert_eq!(world.counters.get(Counter::DroppedByInterval), known.told);
    assert_eq!(world.counters.get(Counter::SlowConsumers), 0);
    [times.len() as u64, known.told]
}

/// A walk begins at most once in an interval, and no message waits for longer.
#[test]
fn deliveries_keep_their_interval() {
    let mut all = [0; 2];
    let add = |seen: [u64; 2]| all.iter_mut().zip(seen).for_each(|(all, seen)| *all += seen);
    let count = each_seed("shard::simulator::paced", SEEDS, run, add);
    if count.is_some_and(|count| count >= SEEDS) {
        assert!(all.iter().all(|&count| count > 1_000), "the runs have met everything: {all:?}");
    }
}

/// Without an interval, a message leaves in its turn; with one, the shard sleeps until the interval has ended.
#[test]
fn the_shard_wakes_at_the_end_of_an_interval() {
    let mut world = world(Overflow::Close, 250);
    connect(&mut world, Millis(40), (true, false));
    let quiet = world.shard.next_deadline();
    for (at, text, expected, deadline) in [
        (50, Some("1"), vec!["1"], None),
        (60, Some("2"), vec![], Some(300)),
        (70, Some("3"), vec![], Some(300)),
        (299, None, vec![], Some(300)),
        (300, None, vec!["2", "3"], None),
        (549, Some("4"), vec![], Some(550)),
        (550, None, vec!["4"], None),
        (800, Some("5"), vec!["5"], None),
    ] {
        text.into_iter().for_each(|text| publish(&mut world, 0, text));
        turns(&mut world, Millis(at));
        assert_eq!(told(&world, 0), expected, "at {at}");
        let next = deadline.map(Millis).or(quiet);
        assert_eq!(world.shard.next_deadline().map(|next| next.0.min(9_999)), next.map(|next| next.0.min(9_999)));
    }
}

/// What waits for the end of an interval goes before the goodbye, whoever closes, with the notice of what was lost.
#[test]
fn what_waits_goes_before_a_close() {
    for drains in [false, true] {
        let mut world = world(Overflow::Latest, 60_000);
        let id = connect(&mut world, Millis(0), (true, false));
        publish(&mut world, 0, "1");
        turns(&mut world, Millis(0));
        assert_eq!(told(&world, 0), ["1"]);
        // The run conflates once it has many messages.
        (2..=100).for_each(|number| publish(&mut world, 0, &number.to_string()));
        turns(&mut world, Millis(1));
        assert!(told(&world, 0).is_empty());
        if drains {
            world.shard.drain(Millis(2), 100);
        } else {
            world.shard.close(id, crate::proto::CloseCode::NORMAL, "");
        }
        for at in 2..40 {
            turns(&mut world, Millis(100 * at));
        }
        let mut items = told(&world, 0);
        let close = items.pop().map(|close| close.chars().rev().collect::<String>());
        assert_eq!(close.as_deref(), Some(if drains { "close 1012" } else { "close 1000" }));
        let mut known = Known::default();
        known.note(&items);
        assert!(known.told > 0 && known.received.last() == Some(&100), "{known:?}");
        assert_eq!(known.received.len() as u64 + known.told, 99);
    }
}

/// A client that can neither be told of a lag nor has agreed to one gets every message, and so do those that get the
/// same frames.
#[test]
fn who_cannot_be_told_loses_nothing() {
    let mut world = world(Overflow::Latest, 10);
    connect(&mut world, Millis(0), (true, false));
    connect(&mut world, Millis(0), (false, true));
    let raw = connect(&mut world, Millis(0), (false, false));
    let raw_texts = |world: &World, client| {
        take_sent(&world.network, client).into_iter().filter(|text| text != "answer").collect::<Vec<_>>()
    };
    let round = |world: &mut World, now: u64| {
        (1..=200).for_each(|number| publish(world, 0, &number.to_string()));
        turns(world, Millis(now));
        [told(world, 0).len(), raw_texts(world, 1).len(), raw_texts(world, 2).len()]
    };
    // The first round leaves at once.
    assert_eq!(round(&mut world, 0), [2, 200, 200]);
    assert_eq!(round(&mut world, 5), [0, 0, 0]);
    // It has joined in the middle of a run, and leaves again.
    world.shard.close(raw, crate::proto::CloseCode::NORMAL, "");
    assert_eq!(round(&mut world, 10), [2, 400, 201]);
    let told_before = world.counters.get(Counter::LagsTold);
    assert_eq!(round(&mut world, 20), [2, 1, 0]);
    assert_eq!(world.counters.get(Counter::LagsTold) - told_before, 2, "the handler is told of the silent lag");
}

/// A receipt counts a message as dropped that a newer one of its key has replaced before the walk; who has left before
/// has ended.
#[test]
fn receipts_count_what_the_interval_drops() {
    let mut world = world(Overflow::Latest, 10);
    let [_, publisher, leaver] = [(); 3].map(|()| connect(&mut world, Millis(0), (true, false)));
    publish(&mut world, 0, "1");
    turns(&mut world, Millis(0));
    let receipts: Rc<RefCell<Vec<(u64, Receipt)>>> = Rc::default();
    let ask = |world: &mut World, number: u64, key: &str| {
        let publication = Publication::text(&number.to_string()).key(key).expect("a key").ask_receipt();
        let receipts = Rc::clone(&receipts);
        let note = move |_: &mut dyn ShardApi, answer: PublishOutcome| {
            receipts
                .borrow_mut()
                .push((number, answer.expect("it has no id").receipt.expect("asked").expect("in time")));
        };
        world.shard.publish_asking(publisher, &topic(), publication, Box::new(note));
    };
    ask(&mut world, 2, "a");
    ask(&mut world, 3, "b");
    world.shard.remove(leaver);
    // The run drops messages while it gathers, too.
    (4..100).for_each(|number| ask(&mut world, number, "c"));
    ask(&mut world, 100, "a");
    turns(&mut world, Millis(9));
    assert_eq!(receipts.borrow().len(), 0, "the walk has not begun");
    turns(&mut world, Millis(10));
    let mut receipts = receipts.take();
    receipts.sort_unstable_by_key(|receipt| receipt.0);
    assert_eq!(receipts.len(), 99);
    for (number, receipt) in receipts {
        let is_sent = [3, 99, 100].contains(&number);
        let closed = u32::from(number < 4);
        let (sent, dropped) = (u32::from(is_sent), u32::from(!is_sent));
        assert_eq!(receipt, Receipt { matched: 1 + closed, sent, queued: 0, dropped, closed }, "{number}");
    }
    let items = told(&world, 0);
    assert_eq!(items.len(), 2 + 3, "the first message, a notice, and the newest of each key: {items:?}");
}

/// A server that leaves ends the intervals, so that publishers get their receipts while there are subscribers.
#[test]
fn a_drain_ends_the_interval() {
    let mut world = world(Overflow::Latest, 60_000);
    let [_, publisher] = [(); 2].map(|()| connect(&mut world, Millis(0), (true, false)));
    publish(&mut world, 0, "1");
    turns(&mut world, Millis(0));
    let receipt: Rc<RefCell<Option<Receipt>>> = Rc::default();
    let noted = Rc::clone(&receipt);
    let note = move |_: &mut dyn ShardApi, answer: PublishOutcome| {
        noted.replace(Some(answer.expect("it has no id").receipt.expect("asked").expect("in time")));
    };
    world.shard.publish_asking(publisher, &topic(), Publication::text("2").ask_receipt(), Box::new(note));
    turns(&mut world, Millis(1));
    assert_eq!(receipt.take(), None);
    world.shard.drain(Millis(2), 100);
    turns(&mut world, Millis(2));
    assert_eq!(receipt.take(), Some(Receipt { matched: 1, sent: 1, ..Receipt::default() }));
    assert_eq!(told(&world, 0)[..2], ["1", "2"]);
}

/// After a reload to another policy a run that gathers keeps every message, also those that have no key any more.
#[test]
fn a_run_keeps_all_once_the_policy_keeps_all() {
    for overflow in [Overflow::DropOldest, Overflow::Close] {
        let mut world = world(Overflow::Latest, 10);
        connect(&mut world, Millis(0), (true, false));
        publish(&mut world, 0, "1");
        turns(&mut world, Millis(0));
        (2..=100).for_each(|number| publish(&mut world, 0, &number.to_string()));
        let rule = TopicRule::new(["t".parse().expect("a pattern")]).slow(overflow);
        world.shard.hub.topic_rules().replace(TopicTable::new([&rule]).expect("one rule"));
        turns(&mut world, Millis(1));
        (101..=300).for_each(|number| publish(&mut world, 0, &number.to_string()));
        turns(&mut world, Millis(10));
        let mut known = Known::default();
        known.note(&told(&world, 0));
        assert!(known.received.ends_with(&(101..=300).collect::<Vec<_>>()), "{known:?}");
        assert_eq!(known.received.len() as u64 + known.told, 300);
    }
}

/// What waits has a limit, beyond which walks begin early, whatever the interval.
#[test]
fn what_waits_has_a_limit() {
    let mut world = world(Overflow::Close, 60_000);
    connect(&mut world, Millis(0), (true, false));
    publish(&mut world, 0, "0");
    turns(&mut world, Millis(0));
    let most = world.shard.hub.limits.gathered_bytes_max / 8;
    let (mut waited, mut walks) = (0, 0);
    for number in 0..400 {
        publish(&mut world, number, &"x".repeat(10_000));
        turns(&mut world, Millis(1));
        let waits = world.shard.hub.gathered_bytes();
        assert!(waits <= most, "{waits} bytes wait");
        waited = waited.max(waits);
        walks += u64::from(waits == 0);
    }
    assert!(waited > most / 2 && (2..20).contains(&walks), "{waited} of {most}, {walks} walks");
}

/// Seeds of an ordinary test run.
const SEEDS: u64 = 200;
