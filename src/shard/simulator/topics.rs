//! Connections with several topics, some of which have their home on another shard.

use super::two_shards::World;
use crate::{
    handler::RouteOptions,
    hub::{ConnectionId, SubscribeOptions, Subscribed},
    metrics::Counter,
    proto::{CloseCode, Fin, Millis, OpCode, Tick, encode_masked},
};

#[test]
fn an_answer_waits_until_all_topics_are_live() {
    let mut world = World::new();
    let (near, far) = (world.topic(true), world.topic(false));
    world.connect(&[&near, &far]);
    world.publish(&near, "before");
    world.turn();
    assert!(world.sent(0).is_empty(), "one of its topics is not live");
    world.answer();
    assert_eq!(world.sent(0), ["answer"], "earlier messages are not for the connection");
    world.publish(&near, "near");
    world.publish(&far, "far");
    world.answer();
    let mut sent = world.sent(0);
    sent.sort_unstable();
    assert_eq!(sent, ["far", "near"]);
}

#[test]
fn a_later_subscription_holds_nothing() {
    let mut world = World::new();
    let (near, far) = (world.topic(true), world.topic(false));
    let id = world.connect(&[&near]);
    assert_eq!(world.shard.hub.subscribe(id, &far, SubscribeOptions::default().echo()), Subscribed::Pending);
    world.publish(&near, "1");
    world.publish(&far, "before");
    world.turn();
    assert_eq!(world.sent(0), ["answer", "1"]);
    world.answer();
    assert!(world.shard.hub.is_subscribed(id, &far));
    world.publish(&far, "2");
    world.answer();
    assert_eq!(world.sent(0), ["2"]);
}

#[test]
fn the_end_of_a_pending_subscription_releases_the_answer() {
    let mut world = World::new();
    let (near, far) = (world.topic(true), world.topic(false));
    let id = world.connect(&[&near, &far]);
    world.turn();
    world.shard.unsubscribe(id, &far);
    world.publish(&near, "1");
    world.turn();
    assert_eq!(world.sent(0), ["answer", "1"]);
}

#[test]
fn the_answer_of_a_held_connection_goes_before_its_close() {
    let mut world = World::new();
    let (near, far) = (world.topic(true), world.topic(false));
    let id = world.connect(&[&near, &far]);
    world.publish(&near, "1");
    world.shard.close(id, CloseCode::GOING_AWAY, "");
    world.answer();
    assert_eq!(world.sent(0), ["answer", "close 1001"]);
    assert_eq!(world.shard.hub.subscribe(id, &near, SubscribeOptions::default().echo()), Subscribed::Closed);
}

/// A share of each topic leaves in one send, and the shares that the connection is owed leave before its close frame.
#[test]
fn topics_share_an_entry() {
    let mut world = World::new();
    let topics = world.topics(true, 3);
    let id = world.connect(&topics.iter().collect::<Vec<_>>());
    world.turn();
    world.sent(0);
    let sends = world.counters.get(Counter::Sends);
    let publish = |world: &mut World, texts: [&str; 3]| {
        for (topic, text) in topics.iter().zip(texts) {
            world.publish(topic, text);
        }
    };
    publish(&mut world, ["1", "2", "3"]);
    world.turn();
    assert_eq!(world.sent(0), ["1", "2", "3"]);
    assert_eq!(world.counters.get(Counter::Sends) - sends, 1);
    publish(&mut world, ["4", "5", "6"]);
    world.shard.unsubscribe(id, &topics[1]);
    publish(&mut world, ["7", "8", "9"]);
    world.shard.close(id, CloseCode::GOING_AWAY, "");
    publish(&mut world, ["no", "no", "no"]);
    world.turn();
    let sent = world.sent(0);
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
    world.sent(0);
    let sends = world.counters.get(Counter::Sends);
    let large = "x".repeat(crate::proto::LARGE_FRAME);
    for (number, topic) in topics.iter().enumerate() {
        for count in 0..200 {
            world.publish(topic, &format!("{number} {count}"));
            world.publish(topic, &format!("{number} {count} {large}"));
        }
    }
    world.turn();
    let sent = world.sent(0);
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
    assert_eq!(world.sent(0), ["answer", "close 1008"]);
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
        let mut world = World::with(options, |_| {});
        world.shard.limits.backlog_bytes_max = LIMIT;
        let far = world.topic(false);
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
        let sent = world.sent(0);
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
    let far = world.topic(false);
    (0..SUBSCRIBERS).for_each(|_| _ = world.connect(&[&far]));
    world.answer();
    (0..SUBSCRIBERS).for_each(|client| _ = world.sent(client));
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
    let far = world.topic(false);
    world.connect(&[&far]);
    world.answer();
    world.publish(&far, "before");
    world.other.send_out();
    world.connect(&[&far]);
    world.turn();
    world.publish(&far, "after");
    world.answer();
    assert_eq!(world.sent(0), ["answer", "before", "after"]);
    assert_eq!(world.sent(1), ["answer", "after"]);
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
