//! Clients that send on after their connection has left the open state.

use super::world::World;
use crate::{
    metrics::Counter,
    proto::Tick,
    shard::{incoming::RECEIVE_BUFFER, receive::DISCARDING_MAX},
};

/// A data frame with a reserved bit, for which the connection is closed.
const GARBAGE: &[u8] = b"\xc1\x80\0\0\0\0";

/// Returns how many of so many clients are reset that break the protocol and then send so many bytes more.
fn resets(clients: usize, bytes: usize) -> u64 {
    let mut world = World::new(clients);
    (0..clients).for_each(|client| world.arrive(client, &[GARBAGE, &vec![0; bytes]].concat(), 1));
    while world.shard.turn(Tick(0).begin()) {}
    assert_eq!(world.counters.get(Counter::ProtocolErrors), clients as u64);
    let reset = world.counters.get(Counter::Reset);
    assert_eq!(world.shard.open() as u64, clients as u64 - reset, "the others wait for their clients' end");
    let unread = |client: &usize| !world.network.borrow().lines[*client].arrived.is_empty();
    assert!((0..clients).filter(unread).count() as u64 <= reset, "what the others have sent is dropped");
    reset
}

/// However often clients break the protocol and connect again, a shard has the input of a bounded number of them to
/// drop; the others, and each that sends little, may read the close frame.
#[test]
fn a_bounded_number_of_clients_sends_on() {
    const CROWD: usize = DISCARDING_MAX + 40;
    assert_eq!(resets(CROWD, 8 * RECEIVE_BUFFER), 40);
    assert_eq!(resets(DISCARDING_MAX, 8 * RECEIVE_BUFFER), 0);
    assert_eq!(resets(2 * CROWD, 1_000), 0);
}
