//! Large messages whose buffers double while others copy theirs.

use super::world::World;
use crate::{
    config::Config,
    hub::ConnectionId,
    metrics::Counter,
    proto::{MessageLimits, Tick},
    shard::{incoming::RECEIVE_BUFFER, pace::Pace},
};

/// Connections of a crowd; with one more a turn serves each connection once, in the same order in each turn.
const CROWD: usize = 15;

/// Bytes of a message whose buffer doubles from 2 MiB to 4 MiB, and those of the crowd's messages.
const LARGE: usize = 3 << 20;
const USUAL: usize = 100_000;

/// The last copy of the large message takes all that a turn may copy.
const _: () = assert!(2 << 20 == (Pace::DEFAULT.frames as usize / 2) << 10 && 2 << 20 < LARGE && LARGE < 4 << 20);

/// Returns a message of so many bytes.
fn message(length: usize) -> Vec<u8> {
    [&b"\x82\xff"[..], &(length as u64).to_be_bytes(), &[0; 4], &vec![0; length]].concat()
}

/// A connection whose copy a turn has refused comes first in the next turn: a turn makes such a copy only as its first.
/// Behind a crowd that copies a little in each turn it would never be made.
#[test]
fn a_refused_copy_is_the_first_of_the_next_turn() {
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
