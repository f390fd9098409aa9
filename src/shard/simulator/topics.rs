//! Connections with several topics, some of which have their home on another shard.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use bytes::{Bytes, BytesMut};

use super::{
    super::io_state::IoHub,
    network::{Network, Weather},
    random::Random,
    simulation::{arrival, handlers_with},
    socket::{SimulatedIo, SimulatedSocket},
    world::{ANSWER, decoded},
};
use crate::{
    config::{Config, Settings},
    handler::RouteOptions,
    hub::{
        ConnectionId, HubLimits, MeshEnd, MeshLimits, Publication, Scope, SubscribeOptions, Subscribed, TopicName, Wake,
    },
    metrics::{Counter, Counters},
    proto::{CloseCode, Fin, Millis, OpCode, Tick, encode_masked},
    shard::state::Shard,
};

/// A shard, and the hub of another shard. The tests run both step by step.
struct World {
    shard: Shard<SimulatedIo>,
    counters: Arc<Counters>,
    network: Rc<RefCell<Network>>,
    other: IoHub,
}

impl World {
    fn new() -> Self {
        Self::with(RouteOptions::new())
    }

    fn with(options: RouteOptions) -> Self {
        let config = Config::new(&Settings::default(), 20_000).expect("the defaults");
        let network = Rc::new(RefCell::new(Network::new(Random::new(0), Weather::FAIR)));
        let counters = Arc::new(Counters::default());
        let wake = (0..2).map(|_| Arc::new(|| {}) as Wake).collect();
        let mut mesh = MeshEnd::connect(wake, &MeshLimits::default());
        let other = IoHub::new(mesh.pop().expect("two ends"), HubLimits::default(), 1);
        let mesh = mesh.pop().expect("two ends");
        let io = SimulatedIo::new(&network);
        let shard =
            Shard::new(mesh, &config, io, handlers_with(&config, options), Arc::clone(&counters), 1, Tick(0).begin());
        World { shard, counters, network, other }
    }

    /// Returns so many topics whose home is the shard if `is_near`, and otherwise the other shard.
    fn topics(&self, is_near: bool, count: usize) -> Vec<TopicName> {
        let names = (0..).map(|number| TopicName::new(&format!("topic {number}")).expect("a name"));
        names.filter(|name| (self.other.home(name) == 0) == is_near).take(count).collect()
    }

    /// Publishes at the topic's home.
    fn publish(&mut self, topic: &TopicName, text: &str) {
        let hub = if self.other.home(topic) == 0 { &mut self.shard.hub } else { &mut self.other };
        let published = hub.publish_by_name(topic, None, Publication::text(text), Scope::Server);
        assert!(published.is_some(), "at home");
    }

    fn connect(&mut self, subscriptions: &[&TopicName]) -> ConnectionId {
        let socket = SimulatedSocket::connect(&self.network, ANSWER, usize::MAX);
        let subscriptions = subscriptions.iter().map(|&topic| (topic.clone(), true)).collect();
        let answer = Bytes::from_static(ANSWER);
        let arrival = arrival(socket, subscriptions, None, answer, BytesMut::new());
        self.shard.adopt(Tick(0).begin(), arrival).expect("there is room")
    }

    /// Runs the shard's turns until they leave no work, while the other shard stands still.
    fn turn(&mut self) {
        while self.shard.turn(Tick(0).begin()) {}
    }

    /// Lets the other shard answer its requests.
    fn answer(&mut self) {
        while self.other.take_request(&mut Vec::new()) {}
        self.other.send_out();
        self.turn();
    }

    /// Returns what the only client was sent since the last call: the answer, texts, and the code of a close frame.
    fn sent(&mut self) -> Vec<String> {
        self.sent_to(0)
    }

    /// Returns what a client was sent since the last call.
    fn sent_to(&mut self, client: usize) -> Vec<String> {
        let bytes: Vec<u8> = self.network.borrow_mut().lines[client].sent.drain(..).collect();
        decoded(&bytes)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.network.borrow_mut().is_over = true;
    }
}

#[test]
fn an_answer_waits_until_all_topics_are_live() {
    let mut world = World::new();
    let (near, far) = (world.topics(true, 1).remove(0), world.topics(false, 1).remove(0));
    world.connect(&[&near, &far]);
    world.publish(&near, "before");
    world.turn();
    assert!(world.sent().is_empty(), "one of its topics is not live");
    world.answer();
    assert_eq!(world.sent(), ["answer"], "earlier messages are not for the connection");
    world.publish(&near, "near");
    world.publish(&far, "far");
    world.answer();
    let mut sent = world.sent();
    sent.sort_unstable();
    assert_eq!(sent, ["far", "near"]);
}

#[test]
fn a_later_subscription_holds_nothing() {
    let mut world = World::new();
    let (near, far) = (world.topics(true, 1).remove(0), world.topics(false, 1).remove(0));
    let id = world.connect(&[&near]);
    assert_eq!(world.shard.hub.subscribe(id, &far, SubscribeOptions::default().echo()), Subscribed::Pending);
    world.publish(&near, "1");
    world.publish(&far, "before");
    world.turn();
    assert_eq!(world.sent(), ["answer", "1"]);
    world.answer();
    assert!(world.shard.hub.is_subscribed(id, &far));
    world.publish(&far, "2");
    world.answer();
    assert_eq!(world.sent(), ["2"]);
}

#[test]
fn the_end_of_a_pending_subscription_releases_the_answer() {
    let mut world = World::new();
    let (near, far) = (world.topics(true, 1).remove(0), world.topics(false, 1).remove(0));
    let id = world.connect(&[&near, &far]);
    world.turn();
    world.shard.unsubscribe(id, &far);
    world.publish(&near, "1");
    world.turn();
    assert_eq!(world.sent(), ["answer", "1"]);
}

#[test]
fn the_answer_of_a_held_connection_goes_before_its_close() {
    let mut world = World::new();
    let (near, far) = (world.topics(true, 1).remove(0), world.topics(false, 1).remove(0));
    let id = world.connect(&[&near, &far]);
    world.publish(&near, "1");
    world.shard.close(id, CloseCode::GOING_AWAY, "");
    world.answer();
    assert_eq!(world.sent(), ["answer", "close 1001"]);
    assert_eq!(world.shard.hub.subscribe(id, &near, SubscribeOptions::default().echo()), Subscribed::Closed);
}

/// A share of each topic leaves in one send, and the shares that the connection is owed leave before its close frame.
#[test]
fn topics_share_an_entry() {
    let mut world = World::new();
    let topics = world.topics(true, 3);
    let id = world.connect(&topics.iter().collect::<Vec<_>>());
    world.turn();
    world.sent();
    let sends = world.counters.get(Counter::Sends);
    let publish = |world: &mut World, texts: [&str; 3]| {
        for (topic, text) in topics.iter().zip(texts) {
            world.publish(topic, text);
        }
    };
    publish(&mut world, ["1", "2", "3"]);
    world.turn();
    assert_eq!(world.sent(), ["1", "2", "3"]);
    assert_eq!(world.counters.get(Counter::Sends) - sends, 1);
    publish(&mut world, ["4", "5", "6"]);
    world.shard.unsubscribe(id, &topics[1]);
    publish(&mut world, ["7", "8", "9"]);
    world.shard.close(id, CloseCode::GOING_AWAY, "");
    publish(&mut world, ["no", "no", "no"]);
    world.turn();
    let sent = world.sent();
    assert_eq!(sent.last().map(String::as_str), Some("close 1001"));
    let mut before = sent[..sent.len() - 1].to_vec();
    before.sort_unstable();
    assert_eq!(before, ["4", "5", "6", "7", "9"]);
}

/// Shares that together have more pieces than one send takes leave in several sends, whole and in order.
#[test]
fn a_full_entry_ends_the_batch() {
    let mut world = World::new();
    let topics = world.topics(true, 5);
    world.connect(&topics.iter().collect::<Vec<_>>());
    world.turn();
    world.sent();
    let sends = world.counters.get(Counter::Sends);
    let large = "x".repeat(crate::proto::LARGE_FRAME);
    for (number, topic) in topics.iter().enumerate() {
        for count in 0..200 {
            world.publish(topic, &format!("{number} {count}"));
            world.publish(topic, &format!("{number} {count} {large}"));
        }
    }
    world.turn();
    let sent = world.sent();
    assert_eq!(sent.len(), 5 * 400);
    for number in 0..topics.len() {
        let of_topic: Vec<&String> = sent.iter().filter(|text| text.starts_with(&format!("{number} "))).collect();
        assert_eq!(of_topic.len(), 400);
        for (at, text) in of_topic.iter().enumerate() {
            assert_eq!(text.split(' ').nth(1), Some(&*(at / 2).to_string()), "{text}");
        }
    }
    // Two runs of 400 pieces fit into one send.
    assert_eq!(world.counters.get(Counter::Sends) - sends, 3);
}

#[test]
fn more_topics_than_it_may_have_close_a_connection_at_its_opening() {
    let mut world = World::new();
    world.shard.hub.limits.subscriptions_max = 2;
    let topics = world.topics(true, 3);
    world.connect(&topics.iter().collect::<Vec<_>>());
    world.turn();
    assert_eq!(world.sent(), ["answer", "close 1008"]);
    assert_eq!(world.counters.get(Counter::PolicyClosed), 1);
    assert!(topics.iter().all(|topic| world.shard.hub.subscribers(topic) == 0));
}

/// A client whose opening answer waits for a topic's home may send pings all the while. Their pongs have the limit of
/// every backlog. Beyond half of the limit nothing is received. If the route has manual backpressure, the connection is
/// closed beyond the whole limit. The answer goes first.
#[test]
fn a_held_connection_has_the_limit_of_a_backlog() {
    const LIMIT: usize = 200_000;
    for (options, is_closed) in [(RouteOptions::new(), false), (RouteOptions::new().manual_backpressure(), true)] {
        let mut world = World::with(options);
        world.shard.limits.backlog_bytes_max = LIMIT;
        let far = world.topics(false, 1).remove(0);
        let id = world.connect(&[&far]);
        let mut ping = Vec::new();
        encode_masked(OpCode::Ping, Fin::Set, &[b'x'; 125], [1, 2, 3, 4], &mut ping);
        world.network.borrow_mut().lines[0].on_the_way.extend(ping.repeat(20_000));
        let mut most = 0;
        for _ in 0..1_000 {
            world.network.borrow_mut().arrive(0, 50_000);
            world.turn();
            let connection = world.shard.hub.connections.get(id).expect("the connection is held");
            most = most.max(connection.io.output.as_ref().map_or(0, |output| output.bytes()));
        }
        let halves = if is_closed { 2 } else { 1 };
        assert!(
            (LIMIT * halves * 2 / 5..LIMIT * halves * 3 / 5).contains(&most),
            "the connection was owed {most} of {LIMIT} bytes"
        );
        assert_eq!(world.counters.get(Counter::SlowClosed), u64::from(is_closed));
        world.answer();
        let sent = world.sent();
        assert_eq!(sent[0], "answer");
        assert_eq!(sent[sent.len() - 1] == "close 1008", is_closed);
        assert!(is_closed || sent.len() > 20_000, "all that was not read is read and answered now");
    }
}

/// A publisher on another shard outruns no walk: a topic gathers as much during a walk, however many turns the walk
/// takes.
#[test]
fn mail_grows_no_run_beyond_a_walk() {
    const SUBSCRIBERS: usize = 128;
    let mut world = World::new();
    let far = world.topics(false, 1).remove(0);
    (0..SUBSCRIBERS).for_each(|_| _ = world.connect(&[&far]));
    world.answer();
    (0..SUBSCRIBERS).for_each(|client| _ = world.sent_to(client));
    world.shard.pace.flush_entries = SUBSCRIBERS / 4;
    world.shard.pace.flush_bytes = 1 << 20;
    // The bound has a portion of mail for each turn of a walk of four turns, and for the turn after it, and four times
    // the least part that a turn takes. The frame of a message has 19 bytes.
    let most = (5 * world.shard.pace.mail + 4 * world.shard.pace.receive_batch) * 19;
    for turn in 0..150 {
        (0..world.shard.pace.mail).for_each(|_| world.publish(&far, "seventeen bytes.."));
        world.other.send_out();
        let before = [Counter::Sends, Counter::BytesOut].map(|counter| world.counters.get(counter));
        world.shard.turn(Tick(0).begin());
        let [sends, bytes] = [Counter::Sends, Counter::BytesOut].map(|counter| world.counters.get(counter));
        let (sends, bytes) = ((sends - before[0]) as usize, (bytes - before[1]) as usize);
        assert!(bytes <= sends * most, "turn {turn}: {bytes} bytes in {sends} sends");
        world.network.borrow_mut().lines.iter_mut().for_each(|line| line.sent.clear());
    }
}

/// A message that stands in a lane was ordered before a connection that arrives now, and is not for it.
#[test]
fn an_arrival_gets_nothing_that_was_ordered_before() {
    let mut world = World::new();
    let far = world.topics(false, 1).remove(0);
    world.connect(&[&far]);
    world.answer();
    world.publish(&far, "before");
    world.other.send_out();
    world.connect(&[&far]);
    world.turn();
    world.publish(&far, "after");
    world.answer();
    assert_eq!(world.sent_to(0), ["answer", "before", "after"]);
    assert_eq!(world.sent_to(1), ["answer", "after"]);
}

/// The hub has the time to the millisecond, keep-alives have it in ticks.
#[test]
fn every_call_of_a_shard_notes_its_time() {
    let mut world = World::new();
    world.shard.turn(Millis(1_234));
    assert_eq!((world.shard.hub.now(), world.shard.now), (Millis(1_234), Tick(12)));
    world.shard.call_back(Millis(1_299), ConnectionId::new(0, 0, 0), Box::new(|_| {}));
    assert_eq!((world.shard.hub.now(), world.shard.now), (Millis(1_299), Tick(12)));
    world.shard.drain(Millis(1_300), 10);
    assert_eq!((world.shard.hub.now(), world.shard.now), (Millis(1_300), Tick(13)));
}
