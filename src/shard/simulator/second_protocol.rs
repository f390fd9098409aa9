//! Connections of the second protocol, which has no answer to a goodbye and no pings, on their way through a shard.

use bytes::{Bytes, BytesMut};

use super::{
    line::End,
    simulation::arrival,
    socket::SimulatedSocket,
    world::{ANSWER, World},
};
use crate::{
    hub::{ConnectionId, Scope, TopicName},
    metrics::Counter,
    proto::{CloseCode, KeepAlive, MessageType, State, Tick},
    shard::{
        arrival::Arrival,
        session::{
            client_end::{ClientEnd, Heard, Protocol},
            length_prefixed::{encode_goodbye, encode_message},
        },
    },
};

impl World {
    /// Adds a client of the second protocol that receives what it publishes, with so much room in its socket.
    fn connect_second(&mut self, room: usize) -> ConnectionId {
        let topic = TopicName::new("t").expect("a name");
        let socket = SimulatedSocket::connect(&self.network, ANSWER, room);
        self.network.borrow_mut().lines.last_mut().expect("a line").stream.expect(Protocol::LengthPrefixed);
        let subscriptions = vec![(topic.clone(), true)];
        let forwards = Some((topic, Scope::Server));
        let arrival = arrival(socket, subscriptions, forwards, Bytes::from_static(ANSWER), BytesMut::new());
        let arrival = Arrival { session: Protocol::LengthPrefixed.session(), ..arrival };
        self.shard.adopt(Tick(0).begin(), arrival).expect("there is room")
    }

    /// Returns what the client was sent after the answer: the lengths of messages, and the codes of goodbyes.
    fn heard(&self, client: usize) -> Vec<usize> {
        let network = &mut *self.network.borrow_mut();
        network.fetch(client, usize::MAX);
        let output = BytesMut::from(&network.lines[client].fetched[ANSWER.len()..]);
        let (heard, rest) = ClientEnd::new(Protocol::LengthPrefixed, [0; 16]).hear(Tick(0), output, &mut Vec::new());
        assert!(rest.is_empty(), "half a message");
        let number = |heard: Heard| match heard {
            Heard::Message(_, payload) => payload.len(),
            Heard::Goodbye(code, _) => usize::from(code.0),
            Heard::Pong(_) => panic!("nobody has pinged"),
        };
        heard.into_iter().map(number).collect()
    }

    fn message(&self, client: usize, length: usize) {
        let mut bytes = Vec::new();
        encode_message(MessageType::Binary, &vec![0; length], &mut bytes);
        self.arrive(client, &bytes, 1);
    }
}

/// Our goodbye follows the messages that the client is owed, and our side of the socket ends after the goodbye: no
/// answer is awaited.
#[test]
fn a_goodbye_without_an_answer_ends_our_side() {
    let mut world = World::without_clients(|_| {});
    let id = world.connect_second(1_000);
    world.message(0, 700);
    world.message(0, 900);
    world.turns();
    world.shard.close(id, CloseCode::GOING_AWAY, "bye");
    world.turns();
    let connection = world.shard.hub.connections.get(id).expect("it is owed output");
    assert!(connection.io.session.state() == State::Closed && connection.io.has_backlog());
    assert!(!world.network.borrow().lines[0].finished);
    // The client takes its output.
    let mut room = world.network.borrow_mut();
    room.lines[0].room = usize::MAX;
    room.fetch(0, usize::MAX);
    drop(room);
    world.turns();
    assert_eq!(world.heard(0), [700, 900, 1_001]);
    assert!(world.network.borrow().lines[0].finished, "our side has ended");
    world.network.borrow_mut().lines[0].end = Some(End::Finished);
    world.arrive(0, b"", 1);
    world.turns();
    assert!(world.shard.is_empty());
    let counted = [Counter::Reset, Counter::CloseTimeout].map(|counter| world.counters.get(counter));
    assert_eq!(counted, [0, 0]);
}

/// The answer to the client's goodbye follows the client's own messages, and input after the goodbye is dropped.
#[test]
fn a_clients_goodbye_is_answered() {
    let mut world = World::without_clients(|_| {});
    world.connect_second(usize::MAX);
    world.message(0, 1);
    let mut goodbye = Vec::new();
    encode_goodbye(CloseCode(4_000), "", &mut goodbye);
    world.arrive(0, &goodbye, 1);
    world.message(0, 2);
    world.turns();
    assert_eq!(world.heard(0), [1, 4_000]);
    assert_eq!(world.counters.get(Counter::MessagesIn), 1);
}

/// The close timeout bounds the end of a session whose goodbye is not taken, though no answer is awaited.
#[test]
fn a_goodbye_that_is_not_taken_has_its_time() {
    let close_timeout = 20;
    let mut world = World::without_clients(|config| config.keep_alive.close_timeout = close_timeout);
    let id = world.connect_second(1_000);
    world.message(0, 2_000);
    world.turns();
    world.shard.close(id, CloseCode::GOING_AWAY, "bye");
    for (tick, is_there) in [(close_timeout - 1, true), (close_timeout, false)] {
        while world.shard.turn(Tick(tick).begin()) {}
        assert_eq!(world.shard.hub.connections.get(id).is_some(), is_there, "tick {tick}");
    }
    assert_eq!(world.counters.get(Counter::CloseTimeout), 1);
}

/// A protocol without pings closes no client for its silence.
#[test]
fn silence_ends_no_session_without_pings() {
    let mut world = World::without_clients(|config| {
        config.keep_alive = KeepAlive { ping_interval: 10, pong_timeout: 10, close_timeout: 10 };
    });
    let id = world.connect_second(usize::MAX);
    world.connect(usize::MAX, false);
    for tick in 0..100 {
        while world.shard.turn(Tick(tick).begin()) {}
    }
    assert!(world.shard.hub.connections.get(id).is_some_and(|connection| connection.is_open()));
    assert_eq!(world.heard(0), [] as [usize; 0]);
    let counted = [Counter::PingsSent, Counter::PongTimeout].map(|counter| world.counters.get(counter));
    assert_eq!(counted, [1, 1], "the WebSocket's");
}
