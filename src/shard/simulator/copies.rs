//! Large messages whose full receive buffers must be copied into larger ones, while other connections need such copies
//! too.

use super::world::{PING, World};
use crate::{
    config::Config,
    hub::ConnectionId,
    metrics::Counter,
    proto::{MessageLimits, Tick},
    shard::{
        incoming::{Incoming, RECEIVE_BUFFER},
        pace::Pace,
    },
};

/// Connections of a crowd. With one more connection, a turn serves each connection once, and each turn in the same
/// order.
const CROWD: usize = 15;

/// Bytes of a message whose buffer doubles from 2 MiB to 4 MiB.
const LARGE: usize = 3 << 20;
/// Bytes of each message of the crowd.
const USUAL: usize = 100_000;

/// The last copy of the large message takes all that a turn may copy.
const _: () = assert!(2 << 20 >= (Pace::DEFAULT.frames as usize / 2) << 10 && 2 << 20 < LARGE && LARGE < 4 << 20);

/// Returns a message of so many bytes.
fn message(length: usize) -> Vec<u8> {
    let header = match length {
        0..126 => vec![0x82, 0x80 | length as u8],
        126..=0xffff => [&b"\x82\xfe"[..], &(length as u16).to_be_bytes()].concat(),
        _ => [&b"\x82\xff"[..], &(length as u64).to_be_bytes()].concat(),
    };
    [&header[..], &[0; 4], &vec![0; length]].concat()
}

/// A copy that waits is the first of the next turn. A turn makes a very large copy only as its first. So next to a
/// crowd that copies a little in each turn, such a copy would otherwise never be made.
#[test]
fn a_copy_that_waits_is_the_first_of_the_next_turn() {
    let mut world = World::without_clients(|config: &mut Config| {
        let message = MessageLimits { frame_bytes_max: 4 << 20, message_bytes_max: 4 << 20, ..config.limits.message };
        config.limits.message = message;
    });
    let ids: Vec<ConnectionId> = (0..=CROWD).map(|_| world.connect(usize::MAX, false)).collect();
    while world.shard.turn(Tick(0).begin()) {}
    (world.shard.pace.receive_batch, world.shard.pace.receive_batches) = (8, 2);
    // The messages of the crowd are out of step, so that some of them are copied in each turn.
    (0..CROWD).for_each(|client| world.arrive(client, &message(1 + client * 6_000), 1));
    let usual = message(USUAL);
    let turn = |world: &mut World| {
        for client in 0..CROWD {
            let arrived = world.network.borrow().lines[client].arrived.len();
            if arrived < 2 * RECEIVE_BUFFER {
                world.arrive(client, &usual, 2);
            }
        }
        world.turn();
    };
    turn(&mut world);
    world.arrive(CROWD, &message(LARGE), 1);
    let held = |world: &World| {
        let connection = world.shard.hub.connections.get(ids[CROWD]).expect("it stays");
        connection.io.partial.as_ref().map_or(0, |partial| partial.len())
    };
    let fills = (0..200).find(|_| {
        turn(&mut world);
        held(&world) == 2 << 20
    });
    assert!(fills.is_some(), "the buffer of 2 MiB is not full");
    let taken = world.counters.get(Counter::MessagesIn);
    turn(&mut world);
    turn(&mut world);
    assert!(held(&world) > 2 << 20, "the copy is made in the second turn at the latest");
    assert!(world.counters.get(Counter::MessagesIn) > taken, "and the crowd is served");
}

/// However many connections wait for copies, or receive more than their part of the frames, and however few frames a
/// turn parses: a client that sends little waits for a few turns at most.
#[test]
fn a_crowd_that_receives_much_keeps_no_small_client_waiting() {
    const CROWD: usize = 200;
    // Buffers that are full, with more in the socket; and messages that are received whole.
    let (large, whole) = (message(1 << 20)[..300 << 10].to_vec(), message(60_000).repeat(12));
    for (input, waits_for_copies, small) in [(&large, true, 10), (&whole, false, 10)] {
        let mut world = World::new(CROWD + small);
        // So few frames are parsed in a turn during a walk that hands out few shares.
        world.shard.pace.frames = 64;
        for client in CROWD..CROWD + small {
            world.sent(client);
        }
        (0..CROWD).for_each(|client| world.arrive(client, input, 1));
        let copies = |world: &World| {
            let connections = &world.shard.hub.connections;
            let ids = (0..CROWD as u32).filter_map(|slot| connections.id_at(slot));
            ids.filter(|&id| connections.get(id).is_some_and(|own| Incoming::copied_for(own) > 0)).count()
        };
        let most = (0..CROWD).map(|_| (world.turn(), copies(&world)).1).max();
        assert!(most > Some(CROWD / 2) || !waits_for_copies, "{most:?} connections wait for a copy");
        let mut waits = Vec::new();
        for _ in 0..12 {
            let mut waiting: Vec<usize> = (CROWD..CROWD + small).collect();
            waiting.iter().for_each(|&client| world.arrive(client, PING, 1));
            let turns = (1..1_000).find(|_| {
                world.turn();
                waiting.retain(|&client| world.sent(client) == 0);
                waiting.is_empty()
            });
            waits.push(turns.expect("pings are answered"));
        }
        assert!(waits.iter().all(|&turns| turns <= 6), "{waits:?} turns until {small} pings are answered");
        assert!(!world.shard.incoming.is_empty(), "the crowd has input to the end");
    }
}

/// A client for whose input a turn has no frame left comes first in the next turn, and not after a crowd.
#[test]
fn a_client_without_a_share_is_the_first_of_the_next_turn() {
    const CROWD: usize = 40;
    let mut world = World::new(CROWD + 3);
    let small = CROWD + 1;
    world.sent(small);
    let pace = &mut world.shard.pace;
    (pace.frames, pace.receive_batch, pace.receive_batches) = (32, 5, 1);
    (0..CROWD).for_each(|client| world.arrive(client, &message(60_000), 12));
    for _ in 0..CROWD {
        world.turn();
    }
    // The first of the three uses up the budget of all.
    world.arrive(small - 1, &message(60_000), 1);
    world.arrive(small, PING, 1);
    world.arrive(small + 1, &message(60_000), 1);
    let turns = (1..1_000).find(|_| (world.turn(), world.sent(small) > 0).1);
    assert!(turns.is_some_and(|turns| turns <= 3), "{turns:?} turns until a ping is answered");
    assert!(!world.shard.incoming.is_empty(), "the crowd has input to the end");
}

/// After a frame that was consumed, the beginning of the next frame keeps only memory of its own size.
#[test]
fn a_beginning_after_a_frame_keeps_no_buffer() {
    let mut world = World::new(1);
    let begin = message(1 << 20);
    world.arrive(0, &[&message(32_600)[..], &begin[..32_780]].concat(), 1);
    while world.shard.turn(Tick(0).begin()) {}
    assert_eq!(world.counters.get(Counter::MessagesIn), 1);
    let id = world.shard.hub.connections.id_at(0).expect("it stays");
    let charged = world.shard.incoming.unfinished.bytes();
    let connection = world.shard.hub.connections.get_mut(id).expect("it stays");
    let partial = connection.io.partial.as_mut().expect("the beginning of a frame");
    let (held, entry) = (partial.capacity(), 256);
    assert!((held..held + entry).contains(&charged), "{charged} bytes are charged for {held}");
    assert!(!partial.try_reclaim(held - partial.len() + 1), "the buffer is larger than it is charged");
}
