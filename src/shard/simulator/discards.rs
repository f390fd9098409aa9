//! Clients that send on after their connection has left the open state.

use super::world::{EMPTY_MESSAGE, World};
use crate::{
    config::Config,
    metrics::Counter,
    proto::{KeepAlive, State, Tick},
    shard::{
        incoming::RECEIVE_BUFFER,
        receive::{DISCARDING_MAX, DISCARDS_PER_TURN},
    },
};

/// A data frame with a reserved bit, for which the connection is closed.
const GARBAGE: &[u8] = b"\xc1\x80\0\0\0\0";

/// Returns how many clients are reset if `clients` clients break the protocol, and each then sends `bytes` more bytes.
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

/// Many clients break the protocol and go on sending. If their number exceeds a bound, the shard resets the clients
/// beyond the bound. The other clients may read the close frame. So may all clients that send little.
#[test]
fn a_bounded_number_of_clients_sends_on() {
    const CROWD: usize = DISCARDING_MAX + 40;
    assert_eq!(resets(CROWD, 8 * RECEIVE_BUFFER), 40);
    assert_eq!(resets(DISCARDING_MAX, 8 * RECEIVE_BUFFER), 0);
    assert_eq!(resets(2 * CROWD, 1_000), 0);
}

/// However many clients of closed connections go on sending, a turn drops the input of a bounded number of them.
#[test]
fn a_turn_drops_input_of_few_closed_connections() {
    const CLIENTS: usize = 4 * DISCARDS_PER_TURN;
    let mut world = World::new(CLIENTS);
    (0..CLIENTS).for_each(|client| world.arrive(client, GARBAGE, 1));
    while world.shard.turn(Tick(0).begin()) {}
    (0..CLIENTS).for_each(|client| world.arrive(client, &[0; 1_000], 1));
    let mut more = true;
    while more {
        let before = world.counters.get(Counter::BytesIn);
        more = world.shard.turn(Tick(0).begin());
        let dropped = world.counters.get(Counter::BytesIn) - before;
        assert!(dropped <= (DISCARDS_PER_TURN * 1_000) as u64, "{dropped} bytes in a turn");
    }
    assert_eq!(world.counters.get(Counter::BytesIn), (CLIENTS * (GARBAGE.len() + 1_000)) as u64);
}

/// A drain does not count a client that is reset among those that have left.
#[test]
fn a_client_that_sends_on_in_a_drain_is_dropped() {
    const CROWD: usize = DISCARDING_MAX + 40;
    let mut world = World::new(CROWD);
    world.shard.drain(Tick(0).begin(), 40);
    let turns = |world: &mut World, tick| while world.shard.turn(Tick(tick).begin()) {};
    (0..=5).for_each(|tick| turns(&mut world, tick));
    assert_eq!(world.counters.get(Counter::DrainClosed), CROWD as u64);
    (0..CROWD).for_each(|client| world.arrive(client, EMPTY_MESSAGE, 3 * RECEIVE_BUFFER / EMPTY_MESSAGE.len()));
    turns(&mut world, 5);
    let counted =
        [Counter::Reset, Counter::DrainDropped, Counter::DrainLeft].map(|counter| world.counters.get(counter));
    assert_eq!(counted, [40, 40, 0]);
}

/// A connection that is closed in the middle of a frame keeps no part of the frame.
#[test]
fn a_closed_connection_keeps_no_input() {
    let mut world = World::without_clients(|config: &mut Config| {
        config.keep_alive = KeepAlive { ping_interval: 10, pong_timeout: 10, close_timeout: 50 };
    });
    let id = world.connect(usize::MAX, false);
    let begin = [&b"\x82\xff\0\0\0\0\0\x10\0\0\0\0\0\0"[..], &[0; 100_000]].concat();
    world.arrive(0, &begin, 1);
    for tick in 0..40 {
        while world.shard.turn(Tick(tick).begin()) {}
    }
    let connection = world.shard.hub.connections.get(id).expect("its client has not ended");
    assert_eq!(connection.io.session.state(), State::Closed);
    assert!(connection.io.partial.is_none() && !connection.io.has_unparsed);
}
