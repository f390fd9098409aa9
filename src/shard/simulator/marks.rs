//! Close frames that wait for messages of their connection, which another shard orders.

use super::{
    super::marks::MARK_TICKS_MAX,
    line::End,
    two_shards::{CLOSE_FRAME, CLOSE_TICKS, World},
    world::PONG,
};
use crate::{
    config::Config,
    handler::RouteOptions,
    hub::{ConnectionId, Publication, Scope, SubscribeOptions, Subscribed, TopicName, testing::TestEngine},
    metrics::Counter,
    proto::{CloseCode, Fin, OpCode, Tick, encode_masked},
};

/// Adds a client with an echo of its messages to a topic whose home is the other shard.
fn connect_far(world: &mut World) -> (ConnectionId, TopicName) {
    let topic = world.topic(false);
    (world.connect_publisher(&topic, true, Scope::Server, usize::MAX), topic)
}

/// Returns a world whose settings are the defaults after `change`.
fn world_with(change: impl FnOnce(&mut Config)) -> World {
    World::with(RouteOptions::new(), change)
}

fn waits(world: &World, id: ConnectionId) -> bool {
    world.shard.marks.has(id)
}

fn has(world: &World, id: ConnectionId) -> bool {
    world.shard.hub.connections.get(id).is_some()
}

/// Returns the messages as masked frames, and these bytes after them.
fn segment(texts: &[&str], end: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    texts.iter().for_each(|text| encode_masked(OpCode::Text, Fin::Set, text.as_bytes(), [1, 2, 3, 4], &mut bytes));
    bytes.extend_from_slice(end);
    bytes
}

/// A frame with a reserved bit.
const BREACH: &[u8] = b"\xc1\x80\0\0\0\0";

/// Whatever ends the open state, the close frame follows the messages that its connection has published before.
#[test]
fn a_close_frame_follows_the_echoes() {
    type Case = (&'static [u8], bool, &'static [&'static str]);
    let cases: [Case; 3] = [
        (CLOSE_FRAME, false, &["1", "2", "3", "close 1000"]),
        (BREACH, false, &["1", "2", "3", "close 1002"]),
        (b"", true, &["1", "2", "3", "close 1001"]),
    ];
    for (end, server_closes, expected) in cases {
        let mut world = World::new();
        let (id, topic) = connect_far(&mut world);
        world.arrive(0, &segment(&["1", "2", "3"], end));
        if server_closes {
            world.shard.close(id, CloseCode::GOING_AWAY, "");
        }
        world.turn();
        assert!(world.sent(0).is_empty() && waits(&world, id), "the messages are on their way");
        assert!(world.shard.hub.is_subscribed(id, &topic), "the connection stays a subscriber");
        world.answer();
        assert_eq!(world.sent(0), expected);
        assert!(!waits(&world, id) && !world.shard.hub.is_subscribed(id, &topic));
        world.other.publish_by_name(&topic, None, Publication::text("late"), Scope::Server);
        world.answer();
        assert!(world.sent(0).is_empty(), "nothing follows a close frame");
        if server_closes {
            world.arrive(0, CLOSE_FRAME);
        }
        world.end(0, End::Finished);
        assert!(!has(&world, id), "the end takes its usual course");
    }
}

/// A close frame follows the messages that an engine has yet to order, whichever shard is the topic's home.
#[test]
fn a_close_frame_follows_what_an_engine_orders() {
    for is_near in [true, false] {
        let mut world = World::with_engine();
        let topic = world.topics(is_near, 20).into_iter().find(TestEngine::has).expect("every other topic");
        let id = world.connect_publisher(&topic, true, Scope::Server, usize::MAX);
        world.arrive(0, &segment(&["1", "2"], CLOSE_FRAME));
        world.answer();
        assert!(world.sent(0).is_empty() && waits(&world, id), "the engine has the messages");
        world.order();
        world.answer();
        assert_eq!(world.sent(0), ["1", "2", "close 1000"], "{is_near}");
        assert!(!waits(&world, id));
    }
}

/// A close frame waits for marks of all homes, and for no home that has none of the connection's messages to return.
#[test]
fn a_close_waits_only_for_its_own_messages() {
    // The cases are: no echo, a topic of the shard itself, a message within the shard, and no message.
    for (is_near, echo, scope, texts) in [
        (false, false, Scope::Server, &["1"][..]),
        (true, true, Scope::Server, &["1"]),
        (false, true, Scope::Shard, &["1"]),
        (false, true, Scope::Server, &[]),
    ] {
        let mut world = World::new();
        let topic = world.topic(is_near);
        let id = world.connect_publisher(&topic, echo, scope, usize::MAX);
        world.arrive(0, &segment(texts, CLOSE_FRAME));
        let sent = world.sent(0);
        assert_eq!(sent.last().map(String::as_str), Some("close 1000"), "{is_near} {echo} {scope:?} {texts:?}");
        assert_eq!(sent.len(), 1 + usize::from(echo && (is_near || scope == Scope::Shard)));
        assert!(!waits(&world, id));
    }
}

/// A home that does not answer keeps a close frame for two ticks, and for less if the close timeout is short. Its marks
/// come back too late, and are ignored.
#[test]
fn a_stuck_home_keeps_a_close_for_two_ticks() {
    for (close_timeout, ticks) in [(CLOSE_TICKS, MARK_TICKS_MAX), (0, MARK_TICKS_MAX), (3, 1), (1, 0)] {
        let mut world = world_with(|config| config.keep_alive.close_timeout = close_timeout);
        let (id, topic) = connect_far(&mut world);
        world.arrive(0, &segment(&["1"], CLOSE_FRAME));
        for tick in 0..ticks {
            assert!(waits(&world, id) && world.sent(0).is_empty(), "tick {tick}");
            assert!(world.shard.next_deadline().is_some_and(|deadline| deadline <= Tick(ticks).begin()), "tick {tick}");
            world.pass(1);
        }
        assert_eq!((world.sent(0), waits(&world, id)), (vec!["close 1000".to_owned()], false), "{close_timeout}");
        assert!(!world.shard.hub.is_subscribed(id, &topic));
        world.answer();
        assert!(world.sent(0).is_empty());
        world.end(0, End::Finished);
        assert_eq!((has(&world, id), world.counters.get(Counter::CloseTimeout)), (false, 0));
    }
}

/// While the shard itself has no room for the mail in front of which the mark stands, that of another home or of an
/// engine, the time of the wait stands still, up to half of the close timeout.
#[test]
fn a_full_shard_goes_on_waiting_for_marks() {
    for has_engine in [false, true] {
        for (full_ticks, expected) in [(3, &["1", "close 1000"][..]), (CLOSE_TICKS / 2, &["close 1000"])] {
            let mut world = if has_engine { World::with_engine() } else { World::new() };
            let mut topics = world.topics(has_engine, 20).into_iter();
            let topic = topics.find(|name| !has_engine || TestEngine::has(name)).expect("every other topic");
            let id = world.connect_publisher(&topic, true, Scope::Server, usize::MAX);
            let near =
                world.topics(true, 20).into_iter().find(|name| !TestEngine::has(name)).expect("every other topic");
            (0..2 * CLOSE_TICKS).for_each(|_| _ = world.connect_publisher(&near, true, Scope::Server, usize::MAX));
            world.arrive(0, &segment(&["1"], CLOSE_FRAME));
            world.shard.hub.limits.gathered_bytes_max = 0;
            // One subscriber in a turn.
            (world.shard.pace.send_batch, world.shard.pace.flush_entries) = (1, 1);
            // A message of the other shard uses up the room for mail.
            world.other.publish_by_name(&near, None, Publication::text("near"), Scope::Server);
            world.other.send_out();
            world.shard.turn(world.now.begin());
            if has_engine {
                world.order();
            } else {
                while world.other.take_request(&mut Vec::new()) {}
                world.other.send_out();
            }
            for tick in 0..full_ticks {
                assert!(waits(&world, id) && world.sent(0).is_empty(), "tick {tick}, engine {has_engine}");
                let deadline = world.shard.next_deadline().expect("the wait has an end");
                assert!(deadline <= world.now.after(MARK_TICKS_MAX).begin());
                world.now = world.now.after(1);
                world.shard.turn(world.now.begin());
                assert!(!world.shard.hub.has_room_for_mail(), "the walk has ended at tick {tick}");
            }
            world.turn();
            assert_eq!(world.sent(0), expected, "after {full_ticks} ticks, engine {has_engine}");
        }
    }
}

/// The mark of a connection that has gone does not count for the next owner of its slot.
#[test]
fn a_late_mark_is_for_nobody() {
    let mut world = World::new();
    world.shard.hub.connections.let_rest(0);
    let (first, _) = connect_far(&mut world);
    world.arrive(0, &segment(&["1"], CLOSE_FRAME));
    world.end(0, End::Reset);
    world.pass(MARK_TICKS_MAX);
    assert!(!has(&world, first) && !waits(&world, first));
    let topic = world.topic(false);
    let second = world.adopt(vec![(topic.clone(), true)], Some((topic, Scope::Server)), usize::MAX);
    assert_eq!(second.slot(), first.slot());
    // The home takes the first client's message and mark, and the second client's interest.
    world.answer();
    assert_eq!(world.sent(1), ["answer"]);
    world.arrive(1, &segment(&["2"], CLOSE_FRAME));
    assert!(waits(&world, second));
    world.shard.hub.take_marks();
    world.answer();
    assert_eq!(world.sent(1), ["2", "close 1000"]);
    assert!(!world.shard.marks.arrive(first), "a second answer would be ignored as well");
}

/// A peer that ends its side without an answer to our close frame takes nothing more: the wait for its marks ends. A
/// peer that has sent its close frame may still read.
#[test]
fn the_peers_end_ends_the_wait_for_marks() {
    let mut world = World::new();
    let (id, topic) = connect_far(&mut world);
    world.arrive(0, &segment(&["1"], b""));
    world.shard.close(id, CloseCode::GOING_AWAY, "");
    assert!(waits(&world, id));
    world.end(0, End::Finished);
    assert!(!waits(&world, id) && !world.shard.hub.is_subscribed(id, &topic));
    world.answer();
    assert_eq!((world.sent(0), has(&world, id)), (Vec::new(), false));
    let mut world = World::new();
    let (id, _) = connect_far(&mut world);
    world.network.borrow_mut().lines[0].end = Some(End::Finished);
    world.arrive(0, &segment(&["1"], CLOSE_FRAME));
    assert!(waits(&world, id), "the close frame waits behind the end, too");
    world.answer();
    assert_eq!(world.sent(0), ["1", "close 1000"]);
    world.turn();
    assert!(!has(&world, id));
}

/// A connection that waits for marks has the limit of every backlog: beyond the limit the connection leaves its topics.
#[test]
fn a_closing_connection_may_become_a_slow_consumer() {
    let mut world = world_with(|config| config.limits.backlog_bytes_max = 100_000);
    let topic = world.topic(false);
    let id = world.connect_publisher(&topic, true, Scope::Server, 20_000);
    world.arrive(0, &segment(&["1"], CLOSE_FRAME));
    let message = Publication::text(&"x".repeat(10_000));
    let mut most = 0;
    for _ in 0..30 {
        world.other.publish_by_name(&topic, None, &message, Scope::Server);
        world.other.send_out();
        world.turn();
        let connection = world.shard.hub.connections.get(id).expect("it is there");
        most = most.max(connection.io.output.as_ref().map_or(0, |output| output.bytes()));
    }
    assert!((90_000..130_000).contains(&most), "{most}");
    assert!(!waits(&world, id) && !world.shard.hub.is_subscribed(id, &topic));
    let mut sent = Vec::new();
    while let part = world.sent(0)
        && !part.is_empty()
    {
        sent.extend(part);
        world.turn();
    }
    assert_eq!(sent.last().map(String::as_str), Some("close 1000"));
    assert!((10..15).contains(&sent.len()), "{} frames", sent.len());
    assert_eq!([Counter::SlowClosed, Counter::SlowDropped].map(|counter| world.counters.get(counter)), [0, 0]);
}

/// A subscription that is pending when its connection leaves never goes live.
#[test]
fn a_pending_subscription_ends_with_the_open_state() {
    let mut world = World::new();
    let (id, topic) = connect_far(&mut world);
    let mut names = (0..).map(|number| TopicName::new(&format!("pending {number}")).expect("a name"));
    let pending = names.find(|name| world.other.home(name) == 1).expect("a topic");
    assert_eq!(world.shard.hub.subscribe(id, &pending, SubscribeOptions::default()), Subscribed::Pending);
    world.arrive(0, &segment(&["1"], CLOSE_FRAME));
    assert_eq!(world.shard.hub.subscriptions(id), [topic]);
    world.answer();
    let message = Publication::text("no");
    world.other.publish_by_name(&pending, None, &message, Scope::Server);
    world.answer();
    assert_eq!(world.sent(0), ["1", "close 1000"]);
}

/// A connection that waits is dropped by the end of a drain and by a reset, like any other connection.
#[test]
fn a_connection_that_waits_can_be_dropped() {
    for drop in [
        |world: &mut World| {
            world.network.borrow_mut().lines[0].stalled = true;
            world.shard.drop_all();
        },
        |world: &mut World| world.end(0, End::Reset),
    ] {
        let mut world = World::new();
        let (id, _) = connect_far(&mut world);
        world.arrive(0, &segment(&["1"], b""));
        world.shard.close(id, CloseCode::GOING_AWAY, "");
        world.arrive(0, PONG);
        assert!(waits(&world, id));
        drop(&mut world);
        assert!(!has(&world, id) && !waits(&world, id));
        world.answer();
    }
}
