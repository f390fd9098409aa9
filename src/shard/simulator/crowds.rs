//! Clients that send as much as they can, next to one that sends little.

use std::mem;

use bytes::{Bytes, BytesMut};

use super::{
    client::Client,
    plan::Plan,
    random::Random,
    simulation::{Simulation, arrival},
    socket::SimulatedSocket,
    world::{ANSWER, EMPTY_MESSAGE, PING, PONG, World},
};
use crate::{
    config::{Config, Limits, Settings},
    hub::{ConnectionId, Scope, TopicName},
    metrics::Counter,
    proto::{State, Tick},
    shard::{
        incoming::{RECEIVE_BUFFER, RECEIVE_SMALL},
        io_state::ShardConnection,
        pace::Pace,
    },
};

const FRAMES: u64 = Pace::DEFAULT.frames as u64;

#[test]
fn a_turn_parses_a_bounded_number_of_frames() {
    for (crowd, count) in [(1, 100_000), (64, 2_000), (300, 500)] {
        let mut world = World::new(crowd);
        (0..crowd).for_each(|client| world.arrive(client, EMPTY_MESSAGE, count));
        for _ in 0..20 {
            let taken = world.turn();
            assert!((FRAMES / 2..=FRAMES + 64).contains(&taken), "{taken} messages in a turn, {crowd} clients");
        }
        while world.shard.turn(Tick(0).begin()) {}
        assert_eq!(world.counters.get(Counter::MessagesIn), (count * crowd) as u64, "all of them are taken in the end");
    }
}

/// Lets 64 clients each send half of a data frame of 1 MiB that begins with `first`, and runs turns until the input is
/// parsed. Returns the most bytes that one turn has copied into larger buffers; `memory` returns a buffer's size.
fn most_copied(first: u8, memory: impl Fn(&ShardConnection) -> usize) -> usize {
    let crowd = 64;
    let mut world = World::new(crowd);
    let begin = [&[first, 0xff, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0][..], &[0; 512 << 10]].concat();
    (0..crowd).for_each(|client| world.arrive(client, &begin, 1));
    let sizes = |world: &World| -> Vec<usize> {
        let connections = &world.shard.hub.connections;
        let ids = (0..crowd as u32).map(|slot| connections.id_at(slot).expect("all of them stay"));
        ids.map(|id| memory(connections.get(id).expect("all of them stay"))).collect()
    };
    let (mut before, mut most, mut more) = (sizes(&world), 0, true);
    while more {
        more = world.shard.turn(Tick(0).begin());
        let after = sizes(&world);
        let grown = before.iter().zip(&after).filter(|(before, after)| before < after);
        most = most.max(grown.map(|(before, _)| before).sum());
        before = after;
    }
    assert!(before.iter().all(|&size| size > 512 << 10), "{before:?}");
    most
}

#[test]
fn large_frames_in_step_are_not_copied_in_one_turn() {
    let partial = |connection: &ShardConnection| connection.io.partial.as_ref().map_or(0, |partial| partial.capacity());
    let most = most_copied(0x82, partial);
    assert!(most <= (FRAMES as usize / 2) << 10, "{most} bytes copied in a turn");
}

#[test]
fn fragments_in_step_are_not_copied_in_one_turn() {
    let most = most_copied(0x02, |connection| connection.io.session.assembled_bytes());
    // A turn copies as many KiB as it has frames, and the rest of the buffer that uses up the last frames.
    assert!(most <= (FRAMES as usize + 512) << 10, "{most} bytes copied in a turn");
}

/// A copy that is larger than a turn's budget leaves half of the budget to other connections.
#[test]
fn a_large_copy_keeps_no_small_client_waiting() {
    let crowd = 64;
    let mut world = World::new(crowd + 1);
    world.shard.pace.frames = 64;
    world.sent(crowd);
    let begin = [&b"\x82\xff\0\0\0\0\0\x10\0\0\0\0\0\0"[..], &[0; 512 << 10]].concat();
    (0..crowd).for_each(|client| world.arrive(client, &begin, 1));
    for _ in 0..60 {
        world.arrive(crowd, PING, 1);
        let turns = (1..100).find(|_| {
            world.turn();
            world.sent(crowd) > 0
        });
        assert!(turns.is_some_and(|turns| turns <= 4), "{turns:?} turns until a ping is answered");
    }
}

/// The buffer of a large frame is freed with the frame, even if the frame waited for the next turn.
#[test]
fn a_frame_that_waited_leaves_no_buffer_behind() {
    const CLIENTS: usize = 40;
    const LENGTH: usize = (1 << 20) - (56 << 10);
    let mut world = World::new(CLIENTS);
    let whole = message(LENGTH);
    let rest = [&b"\x82\xff"[..], &(LENGTH as u64).to_be_bytes(), &[0; 4], &[0; 100_000]].concat();
    (0..CLIENTS).for_each(|client| world.arrive(client, &whole[..whole.len() - 1], 1));
    while world.shard.turn(Tick(0).begin()) {}
    world.shard.pace.frames = 1;
    (0..CLIENTS).for_each(|client| world.arrive(client, &[&[0], &rest[..]].concat(), 1));
    while world.shard.turn(Tick(0).begin()) {}
    assert_eq!(world.counters.get(Counter::MessagesIn), CLIENTS as u64);
    for slot in 0..CLIENTS as u32 {
        let id = world.shard.hub.connections.id_at(slot).expect("all of them stay");
        let connection = world.shard.hub.connections.get_mut(id).expect("all of them stay");
        let partial = connection.io.partial.as_mut().expect("the beginning of a frame");
        assert!(!partial.try_reclaim(LENGTH / 2), "connection {slot} keeps the buffer of a frame that is gone");
    }
}

/// However many connections are beyond their limit at once, a turn closes at most as many as it visits.
#[test]
fn a_turn_closes_a_bounded_number_of_slow_consumers() {
    const SLOW: usize = 600;
    let mut world = World::with_subscribers(1, SLOW, 1_000);
    world.shard.limits.backlog_bytes_max = 300_000;
    world.shard.pace.flush_entries = 64;
    // One run closes no connection that had kept up until then.
    world.arrive(0, &message(600_000), 1);
    while world.shard.turn(Tick(0).begin()) {}
    assert_eq!(world.counters.get(Counter::SlowClosed), 0);
    world.arrive(0, EMPTY_MESSAGE, 1);
    let mut closed = 0;
    let mut more = true;
    while more {
        more = world.shard.turn(Tick(0).begin());
        let now = world.counters.get(Counter::SlowClosed);
        assert!(now - closed <= 64, "{} slow consumers closed in a turn", now - closed);
        closed = now;
    }
    assert_eq!(closed, SLOW as u64);
}

/// Pongs for other clients do not count as progress of a walk: pongs that use up flushes do not make runs longer.
#[test]
fn pongs_lengthen_no_run() {
    const SUBSCRIBERS: usize = 200;
    let longest = |pinging: usize| {
        let mut world = World::with_subscribers(1 + pinging, SUBSCRIBERS, usize::MAX);
        world.shard.pace.flush_entries = 64;
        world.shard.pace.flush_bytes = 256 << 10;
        let mut longest = 0;
        for _ in 0..400 {
            world.arrive(0, b"\x82\x81\0\0\0\0x", 5_000);
            (1..=pinging).for_each(|client| world.arrive(client, PING, 1));
            world.shard.turn(Tick(0).begin());
            longest = longest.max(world.shard.hub.gathered_bytes());
            world.network.borrow_mut().lines.iter_mut().for_each(|line| {
                line.sent.clear();
                line.on_the_way.clear();
            });
        }
        longest
    };
    let (alone, beside) = (longest(0), longest(150));
    assert!(beside <= 2 * alone, "{beside} bytes gathered beside pongs, {alone} without");
}

#[test]
fn a_client_that_sends_little_waits_for_no_crowd() {
    let quiet = 300;
    let mut world = World::new(quiet + 1);
    world.sent(quiet);
    (0..quiet).for_each(|client| world.arrive(client, EMPTY_MESSAGE, 1_000));
    // In these turns every client of the crowd is served at least once.
    (0..15).for_each(|_| _ = world.turn());
    for _ in 0..10 {
        world.arrive(quiet, PING, 1);
        let turns = (1..100).find(|_| {
            world.turn();
            world.sent(quiet) > 0
        });
        assert!(turns.is_some_and(|turns| turns <= 2), "{turns:?} turns until a ping is answered");
    }
}

/// Returns a binary message of so many bytes, at least 64 KiB.
fn message(length: usize) -> Vec<u8> {
    [&b"\x82\xff"[..], &(length as u64).to_be_bytes(), &[0; 4], &vec![0; length]].concat()
}

/// A few large messages come together. A turn hands them out to no more subscribers than its bytes allow.
#[test]
fn a_turn_sends_a_bounded_number_of_bytes() {
    let mut world = World::with_subscribers(4, 300, 100_000);
    let large = message(1 << 20);
    (0..4).for_each(|client| world.arrive(client, &large[..large.len() - 1], 1));
    world.turns();
    (0..4).for_each(|client| world.arrive(client, b"\0", 1));
    world.turns();
    assert_eq!(world.counters.get(Counter::SlowConsumers), 300);
}

/// Backlogs leave in portions too.
#[test]
fn a_turn_sends_a_bounded_number_of_bytes_of_backlogs() {
    const SUBSCRIBERS: usize = 30;
    let mut world = World::with_subscribers(4, SUBSCRIBERS, 100_000);
    world.shard.pace.flush_bytes = 1 << 20;
    (0..4).for_each(|client| world.arrive(client, &message(70_000), 2));
    let mut received = [0; SUBSCRIBERS];
    for _ in 0..20 {
        world.turns();
        (0..SUBSCRIBERS).for_each(|number| received[number] += world.sent(4 + number));
    }
    let owed = ANSWER.len() + 8 * (70_000 + 10);
    assert_eq!(received, [owed; SUBSCRIBERS]);
    assert_eq!(world.counters.get(Counter::SlowConsumers), 0);
}

/// A ping is answered although each turn has a walk, and slow consumers whose sockets take a little in each turn.
#[test]
fn backlogs_keep_no_outbox_waiting() {
    const SLOW: usize = 300;
    const QUIET: usize = 1 + SLOW;
    let mut world = World::with_subscribers(1, SLOW, 50_000);
    // Each of them is owed three messages of 1 MiB, which its socket takes over more turns than this test has.
    world.arrive(0, &message(1 << 20), 3);
    world.turns();
    assert_eq!(world.counters.get(Counter::SlowConsumers), SLOW as u64);
    world.connect(usize::MAX, false);
    let fast = TopicName::new("fast").expect("a name");
    for _ in 0..600 {
        let socket = SimulatedSocket::connect(&world.network, ANSWER, usize::MAX);
        let forwards = Some((fast.clone(), Scope::Server));
        let subscriptions = vec![(fast.clone(), true)];
        let arrival = arrival(socket, subscriptions, forwards, Bytes::from_static(ANSWER), BytesMut::new());
        world.shard.adopt(Tick(0).begin(), arrival).expect("there is room");
    }
    world.turns();
    world.sent(QUIET);
    for turn in 0..60 {
        (1..=SLOW).for_each(|client| _ = world.sent(client));
        world.arrive(QUIET + 1, EMPTY_MESSAGE, 1);
        if turn % 6 == 0 {
            world.sent(QUIET);
            world.arrive(QUIET, PING, 1);
        }
        world.turn();
        if turn % 6 == 5 {
            let pong = [0x8a, 0x00];
            let mut sent = mem::take(&mut world.network.borrow_mut().lines[QUIET].sent);
            assert!(sent.make_contiguous().windows(2).any(|two| two == pong), "no pong in turn {turn}");
        }
    }
    assert_eq!(world.counters.get(Counter::SlowConsumers), SLOW as u64, "they were slow to the end");
}

/// Frames for a slow consumer alone stay before the messages of its topic that are published later.
#[test]
fn an_outbox_goes_before_later_messages() {
    let mut world = World::with_subscribers(1, 1, 1_000);
    world.arrive(0, &message(70_000), 1);
    world.turns();
    world.arrive(1, PING, 1);
    world.turns();
    world.arrive(0, b"\x82\x81\0\0\0\0B", 1);
    world.turns();
    let mut received = Vec::new();
    while world.counters.get(Counter::SlowConsumers) > 0 || !world.network.borrow().lines[1].sent.is_empty() {
        let mut network = world.network.borrow_mut();
        let count = network.lines[1].sent.len();
        network.fetch(1, count);
        received.append(&mut network.lines[1].fetched);
        drop(network);
        world.turns();
    }
    assert!(received.ends_with(b"\x8a\0\x82\x01B"), "{:?}", &received[received.len() - 10..]);
}

/// In each turn more pongs are due than a flush sends: a message waits for some turns, and not for the last pong.
#[test]
fn a_walk_waits_for_no_crowd() {
    const CROWD: usize = 1_000;
    let mut world = World::with_subscribers(CROWD, 1, usize::MAX);
    world.sent(CROWD);
    world.shard.pace.flush_entries = world.shard.pace.receive_batch;
    let mut expected = 0;
    for turn in 0..200 {
        (1..CROWD).for_each(|client| world.arrive(client, PING, 1));
        if turn % 10 == 0 {
            world.arrive(0, EMPTY_MESSAGE, 1);
            expected += EMPTY_MESSAGE.len() - 4;
        }
        world.turn();
        if turn % 10 == 9 {
            assert_eq!(mem::take(&mut expected), world.sent(CROWD), "turn {turn}");
        }
    }
}

/// Thousands of connections are closing and go on sending input that is dropped: a message of another client waits for
/// at most two turns.
#[test]
fn closing_connections_delay_no_message() {
    const CROWD: usize = 4_000;
    let mut world = World::new(CROWD + 1);
    // RFC 6455 5.1: a client masks its frames.
    (0..CROWD).for_each(|client| world.arrive(client, b"\x82\x00", 1));
    while world.shard.turn(Tick(0).begin()) {}
    assert_eq!(world.counters.get(Counter::ProtocolErrors), CROWD as u64);
    for _ in 0..10 {
        (0..CROWD).for_each(|client| world.arrive(client, EMPTY_MESSAGE, 10));
        world.arrive(CROWD, EMPTY_MESSAGE, 1);
        assert_eq!(world.turn() + world.turn(), 1);
    }
}

/// A topic with much to send delays a topic with little to send by one batch at most.
#[test]
fn topics_take_turns_within_a_flush() {
    const LARGE: usize = 200;
    let mut world = World::with_subscribers(1, LARGE, usize::MAX);
    let small = TopicName::new("small").expect("a name");
    let socket = SimulatedSocket::connect(&world.network, ANSWER, usize::MAX);
    let subscriptions = vec![(small.clone(), true)];
    let forwards = Some((small, Scope::Server));
    let arrival = arrival(socket, subscriptions, forwards, Bytes::from_static(ANSWER), BytesMut::new());
    world.shard.adopt(Tick(0).begin(), arrival).expect("there is room");
    while world.shard.turn(Tick(0).begin()) {}
    let client = LARGE + 1;
    world.sent(client);
    world.shard.pace.batch_bytes = 1_000;
    world.shard.pace.flush_bytes = 10_000;
    // 200 shares of 200 bytes, of which a flush sends a quarter.
    world.arrive(0, EMPTY_MESSAGE, 100);
    world.turn();
    world.arrive(client, EMPTY_MESSAGE, 1);
    world.turn();
    assert_eq!(world.sent(client), EMPTY_MESSAGE.len() - 4, "its own message comes back");
}

/// The shares of a topic leave in one batch as long as nothing else is due.
#[test]
fn a_topic_alone_is_sent_in_one_batch() {
    for (has_other, batches) in [(false, 1), (true, 50)] {
        let mut world = World::with_subscribers(1, 50, usize::MAX);
        world.shard.pace.batch_bytes = 200;
        world.arrive(0, EMPTY_MESSAGE, 100);
        if has_other {
            // The pongs wait behind the shares.
            (1..=50).for_each(|client| world.arrive(client, PING, 1));
        }
        let before = world.shard.flush.batch;
        world.turn();
        let sent = world.shard.flush.batch - before;
        assert!(if has_other { sent >= batches } else { sent == batches }, "{sent} batches");
    }
}

/// Each connection that the kernel refuses for lack of memory is tried again in every tick, however many others the
/// kernel refuses in the meantime.
#[test]
fn a_shortage_of_memory_delays_no_connection_longer_than_others() {
    let mut world = World::with_subscribers(0, 20, 100_000);
    world.network.borrow_mut().is_short_of_memory = true;
    for tick in 0..20 {
        let offers = |world: &World| world.network.borrow().lines.iter().map(|line| line.offers).collect::<Vec<_>>();
        let before = offers(&world);
        world.arrive(tick, PING, 1);
        while world.shard.turn(Tick(tick as u32).begin()) || world.network.borrow().has_reports() {}
        let tried = offers(&world).iter().zip(before).filter(|(now, before)| *now > before).count();
        assert_eq!(tried, tick + 1, "tried at tick {tick}");
    }
}

/// Empty fragments of a message count as frames, although they are no messages.
#[test]
fn fragments_count() {
    let mut world = World::new(65);
    (0..64).for_each(|client| {
        world.arrive(client, b"\x02\x80\0\0\0\0", 1);
        world.arrive(client, b"\x00\x80\0\0\0\0", 9_998);
        world.arrive(client, b"\x80\x80\0\0\0\0", 1);
    });
    world.sent(64);
    world.turn();
    world.arrive(64, PING, 1);
    (0..2).for_each(|_| _ = world.turn());
    assert!(world.sent(64) > 0, "a ping is answered between the fragments of others");
    assert_eq!(world.counters.get(Counter::MessagesIn), 0);
    while world.shard.turn(Tick(0).begin()) {}
    assert_eq!(world.counters.get(Counter::MessagesIn), 64);
}

/// The fragments of a message count among the unfinished messages while more input of their client waits to be parsed.
#[test]
fn fragments_count_while_input_waits() {
    const FRAGMENT: usize = 10_000;
    let mut world = World::new(1);
    world.shard.pace.frames = 1;
    let fragment = |opcode: u8| [&[opcode, 0xfe][..], &(FRAGMENT as u16).to_be_bytes(), &[0; 4 + FRAGMENT]].concat();
    world.arrive(0, &fragment(0x02), 1);
    world.arrive(0, &fragment(0x00), 20);
    let id = world.shard.hub.connections.id_at(0).expect("it stays");
    let mut most = 0;
    for _ in 0..300 {
        world.turn();
        let connection = world.shard.hub.connections.get(id).expect("it stays");
        let assembled = connection.io.session.assembled_bytes();
        if connection.io.has_unparsed {
            most = most.max(assembled);
        }
        let counted = world.shard.incoming.unfinished.bytes();
        assert!(counted >= assembled, "{counted} bytes are counted for {assembled}");
    }
    assert!(most > 10 * FRAGMENT, "{most} bytes of fragments while input waits");
}

/// Input that waits to be parsed keeps a receive buffer for some connections, and little for any number of others.
#[test]
fn input_that_waits_is_bounded() {
    let mut world = World::new(300);
    (0..300).for_each(|client| world.arrive(client, EMPTY_MESSAGE, 12_000));
    let mut most = 0;
    for _ in 0..300 {
        world.turn();
        let connections = &world.shard.hub.connections;
        let kept =
            connections.ids().filter_map(|id| connections.get(id)?.io.partial.as_ref().map(|rest| rest.capacity()));
        most = most.max(kept.sum());
    }
    assert!((4 << 20..=(8 << 20) + 300 * 4_096).contains(&most), "{most} bytes wait to be parsed");
}

/// The receive buffers have one bound in all: those that wait with input, those of one more batch, and those that are
/// free.
#[test]
fn receive_buffers_are_bounded() {
    const WAITING: usize = 63;
    const ADDED: usize = 200;
    const QUICK: usize = 64;
    let mut world = World::new(WAITING + ADDED + QUICK);
    let kept = |world: &World| {
        let connections = &world.shard.hub.connections;
        let partials = connections.ids().filter_map(|id| connections.get(id)?.io.partial.as_ref());
        // A buffer counts in full, since parsing has moved past its front. Small buffers are not receive buffers.
        let waiting = partials.filter(|rest| rest.capacity() > 2 * RECEIVE_SMALL).count() * RECEIVE_BUFFER;
        waiting + world.shard.incoming.free_bytes()
    };
    let mut most = 0;
    let mut turn = |world: &mut World| {
        world.turn();
        most = most.max(kept(world));
    };
    (0..WAITING).for_each(|client| world.arrive(client, EMPTY_MESSAGE, 11_000));
    turn(&mut world);
    (WAITING..WAITING + ADDED).for_each(|client| world.arrive(client, EMPTY_MESSAGE, 11_000));
    turn(&mut world);
    for _ in 0..100 {
        (0..QUICK).for_each(|client| world.arrive(WAITING + ADDED + client, PONG, 1));
        turn(&mut world);
    }
    while world.shard.turn(Tick(0).begin()) {
        most = most.max(kept(&world));
    }
    assert!((Limits::RECEIVED_BYTES_MAX / 3..=Limits::RECEIVED_BYTES_MAX).contains(&most), "{most} bytes are kept");
}

/// The input after a large frame is no more than one receive, and does not keep the frame's buffer.
#[test]
fn input_after_a_large_frame_is_bounded() {
    const CLIENTS: usize = 20;
    const LENGTH: usize = 1_000_000;
    let mut world = World::new(CLIENTS);
    let header = [&b"\x82\xff"[..], &(LENGTH as u64).to_be_bytes(), &[0; 4]].concat();
    let large = [&header[..], &vec![0; LENGTH - 1]].concat();
    (0..CLIENTS).for_each(|client| world.arrive(client, &large, 1));
    while world.shard.turn(Tick(0).begin()) {}
    (0..CLIENTS).for_each(|client| {
        world.arrive(client, b"\0", 1);
        world.arrive(client, b"\x8a\x80\0\0\0\0", LENGTH / 6);
    });
    for _ in 0..20 {
        world.turn();
        let connections = &world.shard.hub.connections;
        for partial in connections.ids().filter_map(|id| connections.get(id)?.io.partial.as_ref()) {
            assert!(partial.len() <= 64 << 10 || partial.len() > 900_000, "{} bytes wait to be parsed", partial.len());
        }
    }
    assert_eq!(world.counters.get(Counter::MessagesIn), CLIENTS as u64);
}

/// A flood of control frames, of which there are more than a turn parses, does not stop the time of a message.
#[test]
fn no_flood_extends_the_time_of_a_message() {
    const CLIENTS: usize = 8;
    let mut world = World::without_clients(|config: &mut Config| {
        config.keep_alive.ping_interval = 0;
        config.limits.message_ticks_max = 20;
    });
    let ids: Vec<ConnectionId> = (0..CLIENTS).map(|_| world.connect(usize::MAX, false)).collect();
    while world.shard.turn(Tick(0).begin()) {}
    (0..CLIENTS).for_each(|client| world.arrive(client, b"\x02\x80\0\0\0\0", 1));
    while world.shard.turn(Tick(0).begin()) {}
    for tick in 0..=200 {
        if tick % 10 == 0 {
            (0..CLIENTS).for_each(|client| world.arrive(client, PONG, 20_000));
        }
        // One turn: there is always something left to be parsed.
        world.shard.turn(Tick(tick).begin());
        let open = ids
            .iter()
            .filter(|&&id| {
                let connection = world.shard.hub.connections.get(id);
                connection.is_some_and(|connection| connection.io.session.state() == State::Open)
            })
            .count();
        assert!(tick >= 20 || open == CLIENTS, "{open} are open at tick {tick}");
    }
    assert_eq!(world.counters.get(Counter::MessageTimeout), CLIENTS as u64);
}

/// A message whose end was received in time is whole, however much input of its client stands before that end.
#[test]
fn the_end_of_a_message_may_stand_after_a_flood() {
    let mut world = World::without_clients(|config: &mut Config| {
        config.keep_alive.ping_interval = 0;
        config.limits.message_ticks_max = 2;
    });
    (0..64).for_each(|_| _ = world.connect(usize::MAX, false));
    while world.shard.turn(Tick(0).begin()) {}
    (0..64).for_each(|client| world.arrive(client, b"\x02\x80\0\0\0\0", 1));
    while world.shard.turn(Tick(0).begin()) {}
    for client in 0..64 {
        world.arrive(client, PONG, 9_000);
        world.arrive(client, b"\x80\x80\0\0\0\0", 1);
    }
    // All of the input is received in the first turn, and is parsed in some 140 turns.
    for tick in 0..300 {
        world.shard.turn(Tick(tick).begin());
    }
    assert_eq!((world.counters.get(Counter::MessagesIn), world.counters.get(Counter::MessageTimeout)), (64, 0));
}

/// A kernel that is short of memory refuses a send although it reports room. The send is tried once a tick, not turn
/// after turn.
#[test]
fn a_shortage_of_memory_is_waited_out() {
    let config = Config::new(&Settings::default(), 20_000).expect("the defaults");
    let mut simulation = Simulation::new(Random::new(0), Plan::CALM, false, &config);
    for _ in 0..10 {
        simulation.join(0, None);
    }
    simulation.settle();
    let speaks = |client: &&Client| client.publishes && !client.mute && !client.deaf;
    let number = simulation.clients.iter().find(speaks).expect("chance made none that speaks").number;
    simulation.drivers[0].network.borrow_mut().is_short_of_memory = true;
    {
        let network = &mut *simulation.drivers[0].network.borrow_mut();
        let client = &mut simulation.clients[number];
        client.compose(5, &mut simulation.random);
        client.put(usize::MAX, network);
        network.arrive(number, usize::MAX);
    }
    for tick in 0..20 {
        let mut turns = 0;
        while simulation.serve() {
            turns += 1;
            assert!(turns < 10, "the shard does not come to rest at tick {tick}");
        }
        assert!(turns > 0, "no send is tried at tick {tick}");
        assert!(simulation.drivers[0].counters.get(Counter::SlowConsumers) > 0, "some sends were refused");
        assert_eq!(simulation.drivers[0].shard.next_deadline(), Some(simulation.now.after(1).begin()));
        simulation.now = simulation.now.after(1);
    }
    simulation.drivers[0].network.borrow_mut().is_short_of_memory = false;
    simulation.settle();
    simulation.check_settled();
    assert_eq!(simulation.drivers[0].counters.get(Counter::SlowConsumers), 0);
    simulation.end();
}
