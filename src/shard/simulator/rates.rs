//! Clients that send faster than their rates, next to clients that keep to them.

use std::num::NonZeroU64;

use super::{
    line::End,
    world::{EMPTY_MESSAGE, PONG, World, take_sent},
};
use crate::{
    config::Config,
    hub::ConnectionId,
    metrics::Counter,
    proto::{CloseCode, KeepAlive, State, Tick},
    rates::{InputRates, Rate},
    shard::{
        incoming::{RECEIVE_BUFFER, RECEIVE_SMALL},
        io_state::Reading,
    },
};

const KEEP_ALIVE: KeepAlive = KeepAlive { ping_interval: 0, pong_timeout: 0, close_timeout: 50 };

fn rate(count: u64) -> Option<Rate> {
    NonZeroU64::new(count).map(Rate::per_second)
}

/// Returns a shard whose clients may send ten messages in a second, and its clients: a subscriber, number 0, and two
/// publishers.
fn ten_messages(change: impl FnOnce(&mut Config)) -> (World, [ConnectionId; 3]) {
    let mut world = World::without_clients(|config: &mut Config| {
        config.keep_alive = KEEP_ALIVE;
        config.limits.input_rates = InputRates { messages: rate(10), bytes: None };
        config.limits.rate_ticks_max = 0;
        change(config);
    });
    let clients = [true, false, false].map(|subscribes| world.connect(usize::MAX, subscribes));
    world.serve_at(0);
    (world, clients)
}

fn text(number: usize) -> String {
    format!("{number:03}")
}

/// Returns a frame with a text, with the masking key 0.
fn frame(text: &[u8]) -> Vec<u8> {
    [&[0x81, 0x80 | text.len() as u8, 0, 0, 0, 0], text].concat()
}

impl World {
    /// Runs turns until nothing is due at this tick.
    fn serve_at(&mut self, tick: u32) {
        while self.shard.turn(Tick(tick).begin()) || self.network.borrow().has_reports() {}
    }

    fn reading_of(&self, id: ConnectionId) -> Option<Reading> {
        self.shard.hub.connections.get(id).map(|connection| connection.io.reading)
    }

    fn counted_throttled(&self) -> [u64; 3] {
        [Counter::ConnectionsThrottled, Counter::ThrottledMessages, Counter::ThrottledBytes]
            .map(|counter| self.counters.get(counter))
    }
}

/// A client sends a hundred messages at once. Ten of them are taken at once, the others as they come due, in their
/// order and none twice. A client that sends a message in each tick, which its rate allows, is served in the same tick.
#[test]
fn messages_beyond_the_rate_wait_and_keep_their_order() {
    let (mut world, [_, flooder, _]) = ten_messages(|_| {});
    take_sent(&world.network, 0);
    (0..100).for_each(|number| world.arrive(1, &frame(text(number).as_bytes()), 1));
    let mut seen = Vec::new();
    for tick in 0..=100 {
        let honest = format!("honest {tick}");
        world.arrive(2, &frame(honest.as_bytes()), 1);
        world.serve_at(tick);
        let mut sent = take_sent(&world.network, 0);
        let at = sent.iter().position(|text| *text == honest);
        sent.remove(at.unwrap_or_else(|| panic!("{honest:?} waits")));
        seen.extend(sent);
        assert_eq!(seen.len(), (10 + tick as usize).min(100), "tick {tick}");
        // Whether another message waits shows only when the next one is due.
        let is_throttled = tick <= 90;
        assert_eq!(world.reading_of(flooder) == Some(Reading::Throttled), is_throttled, "tick {tick}");
        assert_eq!(world.counted_throttled()[0], u64::from(is_throttled), "tick {tick}");
    }
    assert_eq!(seen, (0..100).map(text).collect::<Vec<_>>());
    assert_eq!(world.counted_throttled(), [0, 91, 0]);
}

/// Bytes are counted as they come, so the client waits for the time of a whole receive. What has been received is
/// handled at once.
#[test]
fn bytes_beyond_the_rate_stay_in_the_socket() {
    let (mut world, [_, sender, _]) = ten_messages(|config| {
        config.limits.input_rates = InputRates { messages: None, bytes: rate(10_000) };
    });
    let message = [&b"\x82\xfe\x27\x10\0\0\0\0"[..], &[0; 10_000]].concat();
    world.arrive(1, &message, 10);
    world.serve_at(0);
    // Six messages and a part of the seventh have come with the first receive of 64 KiB, which costs 65 536 bytes. A
    // second of them was free.
    assert_eq!(world.counters.get(Counter::MessagesIn), 6);
    assert_eq!((world.reading_of(sender), world.counted_throttled()), (Some(Reading::Throttled), [1, 0, 1]));
    world.serve_at(55);
    assert_eq!(world.counters.get(Counter::MessagesIn), 6);
    // The rest of the seventh message has a buffer of its own, which is received into first.
    world.serve_at(56);
    assert_eq!((world.counters.get(Counter::MessagesIn), world.counted_throttled()), (7, [1, 0, 2]));
    world.serve_at(60);
    assert_eq!(world.counters.get(Counter::MessagesIn), 7);
    world.serve_at(61);
    assert_eq!(world.counters.get(Counter::MessagesIn), 10);
    assert_eq!((world.reading_of(sender), world.counted_throttled()), (Some(Reading::Idle), [0, 0, 2]));
}

/// The shard sees no pong of a throttled client, and does not take that for silence. Afterwards silence counts again.
#[test]
fn a_throttled_client_is_not_silent() {
    let (mut world, [subscriber, flooder, _]) = ten_messages(|config| {
        config.keep_alive = KeepAlive { ping_interval: 10, pong_timeout: 10, close_timeout: 5 };
    });
    world.arrive(1, EMPTY_MESSAGE, 70);
    for tick in 0..=59 {
        world.serve_at(tick);
        world.arrive(0, PONG, u32::is_multiple_of(tick, 5).into());
        assert_eq!(world.reading_of(flooder), Some(Reading::Throttled), "tick {tick}");
        assert!(world.shard.hub.connections.get(subscriber).is_some(), "tick {tick}");
    }
    for tick in 60..=90 {
        world.serve_at(tick);
        world.arrive(0, PONG, u32::is_multiple_of(tick, 5).into());
    }
    assert_eq!(world.counters.get(Counter::MessagesIn), 70);
    assert!(world.reading_of(flooder).is_none_or(|reading| reading != Reading::Throttled));
    let state = world.shard.hub.connections.get(flooder).map(|connection| connection.io.session.state());
    assert_ne!(state, Some(State::Open), "silence counts again");
}

/// A client that sends as fast as it can is closed after the time that it has. A client that sends too much at once and
/// then rests stays.
#[test]
fn a_client_that_does_not_keep_to_its_rate_is_closed() {
    let (mut world, [_, flooder, resting]) = ten_messages(|config| config.limits.rate_ticks_max = 30);
    let mut closed_at = None;
    for tick in 0..300 {
        if world.shard.hub.connections.get(flooder).is_some_and(|connection| connection.is_open()) {
            world.arrive(1, EMPTY_MESSAGE, 5);
        } else if closed_at.is_none() {
            closed_at = Some(tick);
            assert_eq!(take_sent(&world.network, 1), ["answer", "close 1008"]);
        }
        if tick % 40 == 0 {
            world.arrive(2, EMPTY_MESSAGE, 30);
        }
        world.serve_at(tick);
    }
    // The first ten messages are free, so the flood is over its rate from the third tick on.
    assert_eq!(closed_at, Some(33));
    let counters = [Counter::RateClosedMessages, Counter::RateClosedBytes].map(|counter| world.counters.get(counter));
    assert_eq!(counters, [1, 0]);
    assert!(world.shard.hub.connections.get(resting).is_some_and(|connection| connection.is_open()));
    assert!(world.counted_throttled()[1] > 8 * 20, "the resting client was throttled in each of its bursts");
}

/// The answer to a close frame is received, however much the client has sent before it.
#[test]
fn a_throttled_connection_that_closes_is_received_from() {
    let (mut world, [_, flooder, _]) = ten_messages(|_| {});
    world.arrive(1, EMPTY_MESSAGE, 50);
    world.arrive(1, b"\x88\x82\0\0\0\0\x03\xe8", 1);
    world.serve_at(0);
    assert_eq!(world.reading_of(flooder), Some(Reading::Throttled));
    world.shard.close(flooder, CloseCode::GOING_AWAY, "");
    world.serve_at(1);
    let state = world.shard.hub.connections.get(flooder).map(|connection| connection.io.session.state());
    assert_eq!((state, world.counted_throttled()[0]), (Some(State::Closed), 0), "the client's close frame has come");
    assert_eq!(world.counters.get(Counter::MessagesIn), 10, "messages after our close frame are dropped");
}

/// The time of a message stands still while its connection is throttled, and goes on afterwards.
#[test]
fn a_message_takes_no_time_while_its_connection_is_throttled() {
    let (mut world, [_, sender, _]) = ten_messages(|config| config.limits.message_ticks_max = 10);
    world.arrive(1, PONG, 40);
    world.arrive(1, b"\x02\x80\0\0\0\0", 1);
    world.serve_at(0);
    // The message has begun in the receive whose pongs are taken one by one, until tick 30.
    for tick in 1..=38 {
        world.serve_at(tick);
        assert!(world.shard.hub.connections.get(sender).is_some_and(|connection| connection.is_open()), "tick {tick}");
    }
    world.serve_at(60);
    assert_eq!(world.counters.get(Counter::MessageTimeout), 1);
}

/// A connection that ends while it is throttled is counted no more.
#[test]
fn a_throttled_connection_that_ends_is_not_counted() {
    let (mut world, [_, flooder, _]) = ten_messages(|_| {});
    world.arrive(1, EMPTY_MESSAGE, 50);
    world.serve_at(0);
    assert_eq!(world.counted_throttled()[0], 1);
    world.shard.remove(flooder);
    assert_eq!(world.counted_throttled()[0], 0);
}

/// A client sends a whole receive of small messages at once. Each time that the client is throttled again its rest
/// stays where it is, and is copied only when it has become half as long. What the rest keeps is counted meanwhile.
#[test]
fn the_rest_of_a_throttled_client_is_copied_few_times() {
    let (mut world, [_, flooder, _]) = ten_messages(|_| {});
    let count = RECEIVE_BUFFER / EMPTY_MESSAGE.len();
    world.arrive(1, EMPTY_MESSAGE, count);
    let (mut places, mut tick) = (Vec::new(), 0);
    let rest = |world: &World| {
        let partial = world.shard.hub.connections.get(flooder)?.io.partial.as_ref()?;
        // The end stays where it is while the front is parsed.
        Some((partial.as_ptr() as usize + partial.len(), partial.len()))
    };
    world.serve_at(tick);
    while let Some((place, length)) = rest(&world) {
        places.push(place);
        let counted = world.shard.incoming.paused_bytes();
        let is_right = (length..2 * length.max(1)).contains(&counted) && counted <= RECEIVE_BUFFER;
        assert!(is_right || world.reading_of(flooder) != Some(Reading::Throttled), "{counted} bytes of {length}");
        tick += 10;
        world.serve_at(tick);
    }
    let paused = places.len();
    places.dedup();
    assert!(paused > 900 && places.len() <= 18, "{} copies in {paused} pauses", places.len());
    assert_eq!(world.shard.incoming.paused_bytes(), 0);
    assert_eq!(world.counters.get(Counter::MessagesIn), count as u64);
}

/// A throttled client that is gone keeps its place for the close timeout, whether it has ended its side or reset the
/// connection, before it is throttled or after. Its messages that are due by then are handled.
#[test]
fn a_throttled_client_that_is_gone_leaves_its_place() {
    for (end, is_gone_first) in [(End::Finished, false), (End::Finished, true), (End::Reset, false)] {
        let (mut world, [_, flooder, _]) = ten_messages(|config| config.limits.rate_ticks_max = 0);
        let leave = |world: &mut World| {
            let mut network = world.network.borrow_mut();
            network.lines[1].end = Some(end);
            network.arrive(1, usize::MAX);
        };
        world.arrive(1, EMPTY_MESSAGE, 10_000);
        if is_gone_first {
            leave(&mut world);
        }
        world.serve_at(0);
        if !is_gone_first {
            leave(&mut world);
        }
        (0..=49).for_each(|tick| world.serve_at(tick));
        assert_eq!(world.reading_of(flooder), Some(Reading::Throttled), "{end:?}");
        assert_eq!(world.counters.get(Counter::MessagesIn), 10 + 49, "{end:?}: those that are due");
        for tick in 50..=60 {
            world.serve_at(tick);
            // The client takes the goodbye, if it can.
            world.sent(1);
        }
        assert_eq!(world.reading_of(flooder), None, "{end:?}: the connection has ended");
        let counters = [Counter::RateClosedMessages, Counter::Ended, Counter::ConnectionsThrottled];
        assert_eq!(counters.map(|counter| world.counters.get(counter)), [1, 1, 0], "{end:?}");
    }
}

/// A crowd is throttled with input that waits. Only the first connections keep a whole receive each.
#[test]
fn a_crowd_of_throttled_clients_keeps_little_input() {
    const CROWD: usize = 300;
    let (mut world, _) = ten_messages(|_| {});
    (0..CROWD).for_each(|_| _ = world.connect(usize::MAX, false));
    world.serve_at(0);
    for client in 0..CROWD {
        world.arrive(3 + client, EMPTY_MESSAGE, RECEIVE_BUFFER / EMPTY_MESSAGE.len());
        world.serve_at(0);
    }
    assert_eq!(world.counted_throttled()[0], CROWD as u64);
    let kept = world.shard.incoming.paused_bytes();
    let most = 64 * RECEIVE_BUFFER + (CROWD - 64) * RECEIVE_SMALL;
    assert!((64 * RECEIVE_BUFFER / 2..=most).contains(&kept), "{kept} bytes, of at most {most}");
}
