//! Input that comes with an opening request.

use bytes::{Bytes, BytesMut};

use super::{
    simulation::arrival,
    socket::SimulatedSocket,
    world::{ANSWER, EMPTY_MESSAGE, World},
};
use crate::{
    hub::{ConnectionId, Scope, TopicName},
    metrics::Counter,
    proto::Tick,
};

impl World {
    /// Adds a client that has sent `input` after its opening request. The buffer of the input is large, since it has
    /// held a body before.
    fn connect_with(&mut self, input: &[u8]) -> ConnectionId {
        let mut received = BytesMut::with_capacity(LARGE_BUFFER);
        received.extend_from_slice(input);
        let socket = SimulatedSocket::connect(&self.network, ANSWER, usize::MAX);
        let forwards = Some((TopicName::new("t").expect("a name"), Scope::Server));
        let arrival = arrival(socket, Vec::new(), forwards, Bytes::from_static(ANSWER), received);
        self.shard.adopt(Tick(0).begin(), arrival).expect("there is room")
    }

    /// Returns the memory of the input that the connection has not parsed.
    fn kept(&self, id: ConnectionId) -> Option<usize> {
        let connection = self.shard.hub.connections.get(id).expect("it is connected");
        connection.io.partial.as_ref().map(|partial| partial.capacity())
    }
}

/// Input that comes with an opening request has memory of its own size, and counts from the connection's adoption on.
#[test]
fn input_with_an_opening_request_is_bounded() {
    let mut world = World::without_clients(|config| {
        config.shards = 1;
        config.limits.unfinished_bytes_max = LIMIT;
    });
    let message = [EMPTY_MESSAGE, EMPTY_MESSAGE].concat();
    let few: Vec<ConnectionId> = (0..4).map(|_| world.connect_with(&message)).collect();
    for &id in &few {
        assert_eq!(world.kept(id), Some(message.len()));
    }
    let held = world.shard.incoming.unfinished.bytes();
    assert!((4 * message.len()..LIMIT / 2).contains(&held), "{held}");
    while world.shard.turn(Tick(0).begin()) {}
    assert_eq!(world.counters.get(Counter::MessagesIn), 8);
    assert_eq!((world.shard.incoming.unfinished.bytes(), world.kept(few[0])), (0, None));
    // The shard has parsed no input of this crowd.
    let crowd: Vec<ConnectionId> = (0..8).map(|_| world.connect_with(&[0x82; LIMIT / 4])).collect();
    let closed = world.counters.get(Counter::UnfinishedClosed);
    let held = world.shard.incoming.unfinished.bytes();
    assert!(closed >= 4 && held <= LIMIT, "{closed} closed, {held} bytes held by {crowd:?}");
}

/// The first byte of a message has come with the opening request, and no other byte comes.
#[test]
fn a_message_that_began_with_an_opening_request_has_its_time() {
    let mut world = World::without_clients(|config| {
        config.shards = 1;
        config.keep_alive.ping_interval = 0;
        config.limits.message_ticks_max = TICKS_MAX;
    });
    for begun in [&b"\x82"[..], b"\x82\xfe", b"\x01\x80\0\0\0\0"] {
        world.connect_with(begun);
    }
    // The message of this client ends in time.
    world.connect_with(EMPTY_MESSAGE);
    let timed_out = |world: &World| world.counters.get(Counter::MessageTimeout);
    for (tick, expected) in [(0, 0), (TICKS_MAX - 1, 0), (TICKS_MAX + 1, 3), (3 * TICKS_MAX, 3)] {
        while world.shard.turn(Tick(tick).begin()) {}
        assert_eq!(timed_out(&world), expected, "tick {tick}");
    }
    assert_eq!(world.counters.get(Counter::MessagesIn), 1);
}

/// A message may take so many ticks.
const TICKS_MAX: u32 = 20;
const LARGE_BUFFER: usize = 32 * 1_024;
const LIMIT: usize = 16 * 1_024;
