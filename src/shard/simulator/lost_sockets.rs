//! Sockets that fail while input of their clients waits: the input is taken whole.

use bytes::{Bytes, BytesMut};

use super::{
    line::End,
    simulation::arrival,
    socket::SimulatedSocket,
    world::{ANSWER, EMPTY_MESSAGE, PING, World},
};
use crate::{
    auth::{Identities, Identity},
    handler::ShardApi,
    hub::{ConnectionId, Refused, Sent, SubscribeOptions, Subscribed, TopicName, Who},
    metrics::Counter,
    proto::{CloseCode, Tick},
    shard::io_state::Reading,
};

impl World {
    /// Lets these bytes and a reset after them arrive at the client's socket. The ring reports neither.
    fn fail(&self, client: usize, bytes: &[u8]) {
        let line = &mut self.network.borrow_mut().lines[client];
        line.arrived.extend(bytes);
        (line.end, line.arrived_end) = (Some(End::Reset), Some(End::Reset));
        line.sent.clear();
    }

    fn offset(&self) -> u64 {
        self.shard.hub.offset(&TopicName::new("t").expect("a name"))
    }

    fn counted<const N: usize>(&self, counters: [Counter; N]) -> [u64; N] {
        counters.map(|counter| self.counters.get(counter))
    }

    fn has(&self, id: ConnectionId) -> bool {
        self.shard.hub.connections.get(id).is_some()
    }

    /// Adds a client whose messages go to its handler.
    fn connect_asking(&mut self) -> ConnectionId {
        let socket = SimulatedSocket::connect(&self.network, ANSWER, usize::MAX);
        let subscriptions = vec![(TopicName::new("t").expect("a name"), true)];
        let arrival = arrival(socket, subscriptions, None, Bytes::from_static(ANSWER), BytesMut::new());
        self.shard.adopt(Tick(0).begin(), arrival).expect("there is room")
    }
}

/// A send fails before the shard has received the messages that arrived in front of the reset. After these messages
/// come a ping, which gets no answer any more, and in two cases a close frame or a breach of the protocol.
#[test]
fn messages_in_front_of_a_reset_are_taken_after_a_failed_send() {
    for end in [&b""[..], b"\x88\x80\0\0\0\0", b"\xc1\x80\0\0\0\0"] {
        let mut world = World::without_clients(|_| {});
        let (id, _) = (world.connect(usize::MAX, true), world.connect(usize::MAX, false));
        world.turns();
        world.fail(0, &[&EMPTY_MESSAGE.repeat(3), PING, end].concat());
        world.arrive(1, EMPTY_MESSAGE, 1);
        world.turn();
        assert_eq!((world.offset(), world.has(id)), (1, true), "the send has failed in the flush");
        assert!(!world.shard.hub.is_subscribed(id, &TopicName::new("t").expect("a name")));
        world.turns();
        assert_eq!((world.offset(), world.has(id)), (4, false), "{end:x?}");
        let counters = [Counter::MessagesIn, Counter::Aborted, Counter::Ended, Counter::SlowConsumers];
        assert_eq!(world.counted(counters), [4, 1, 1, 0]);
        let network = world.network.borrow();
        assert!(network.lines[0].reset && network.lines[0].offers == 2, "the answer, and the send that failed");
    }
}

/// The send of the first messages' echoes fails while the others wait to be parsed.
#[test]
fn input_that_waits_to_be_parsed_is_taken_after_a_failed_send() {
    let mut world = World::without_clients(|_| {});
    let id = world.connect(usize::MAX, true);
    world.turns();
    world.shard.pace.frames = 4;
    world.fail(0, &EMPTY_MESSAGE.repeat(20));
    world.network.borrow_mut().arrive(0, 0);
    world.shard.incoming.push_ready(world.shard.hub.connections.get_mut(id).expect("it is there"), id);
    assert_eq!(world.turn(), 4);
    assert!(
        world.shard.hub.connections.get(id).is_some_and(|connection| connection.is_lost && connection.io.has_unparsed)
    );
    world.turns();
    assert_eq!((world.offset(), world.has(id)), (20, false));
}

/// A connection that is owed much is not read. When it is lost, the messages that it has sent meanwhile are taken.
#[test]
fn messages_of_a_parked_connection_are_taken_after_a_failed_send() {
    let mut world = World::without_clients(|config| config.limits.backlog_bytes_max = 1 << 20);
    let (id, _) = (world.connect(20_000, true), world.connect(usize::MAX, false));
    let message = [&b"\x82\xfe\x27\x10\0\0\0\0"[..], &[0; 10_000]].concat();
    world.arrive(1, &message, 70);
    while world.shard.turn(Tick(0).begin()) {}
    world.arrive(0, EMPTY_MESSAGE, 3);
    while world.shard.turn(Tick(0).begin()) {}
    let reading = world.shard.hub.connections.get(id).map(|connection| connection.io.reading);
    assert_eq!((reading, world.offset()), (Some(Reading::Parked), 70));
    world.fail(0, &EMPTY_MESSAGE.repeat(2));
    world.network.borrow_mut().arrive(0, 0);
    while world.shard.turn(Tick(0).begin()) || world.network.borrow().has_reports() {}
    assert_eq!((world.offset(), world.has(id)), (75, false));
    assert_eq!(world.counted([Counter::Aborted, Counter::SlowConsumers, Counter::SlowClosed]), [1, 0, 0]);
}

/// Messages in front of a client's end are taken however many turns that needs.
#[test]
fn messages_in_front_of_an_end_are_taken() {
    for end in [End::Finished, End::Closed] {
        let mut world = World::without_clients(|_| {});
        world.connect(usize::MAX, true);
        world.turns();
        world.shard.pace.frames = 4;
        world.network.borrow_mut().lines[0].end = Some(end);
        world.arrive(0, EMPTY_MESSAGE, 20);
        world.turns();
        assert_eq!((world.offset(), world.counters.get(Counter::Aborted)), (20, 1), "{end:?}");
    }
}

/// Input of a lost connection is dropped if the shard does not handle it within the close timeout.
#[test]
fn a_lost_connection_has_the_close_timeout() {
    const TICKS: u32 = 20;
    let mut world = World::without_clients(|config| config.keep_alive.close_timeout = TICKS);
    let (id, _) = (world.connect(usize::MAX, true), world.connect(usize::MAX, false));
    world.turns();
    world.fail(0, EMPTY_MESSAGE);
    world.arrive(1, EMPTY_MESSAGE, 1);
    world.turn();
    world.shard.pace.receive_batches = 0;
    for tick in 0..=TICKS {
        assert!(world.has(id), "tick {tick}");
        world.shard.turn(Tick(tick).begin());
    }
    assert!(!world.has(id));
    let counters = [Counter::MessagesIn, Counter::Aborted, Counter::CloseTimeout, Counter::Reset];
    assert_eq!(world.counted(counters), [1, 1, 1, 1]);
}

/// A drain closes no connection that is lost: its client does not take a close frame, and has sent messages before.
#[test]
fn a_drain_takes_the_input_of_lost_connections() {
    let mut world = World::without_clients(|_| {});
    let (id, _) = (world.connect(usize::MAX, true), world.connect(usize::MAX, false));
    world.turns();
    world.shard.pace.frames = 1;
    world.fail(0, &EMPTY_MESSAGE.repeat(3));
    world.arrive(1, EMPTY_MESSAGE, 1);
    world.turn();
    world.shard.drain(Tick(5).begin(), 10);
    while world.shard.turn(Tick(5).begin()) {}
    assert_eq!((world.offset(), world.has(id), world.shard.open()), (4, false, 1));
}

/// A revocation ends a connection that is lost too: its client does not take a close frame, and its further messages
/// are not taken.
#[test]
fn a_revocation_ends_lost_connections() {
    let mut world = World::without_clients(|_| {});
    let (id, _) = (world.connect(usize::MAX, true), world.connect(usize::MAX, false));
    world.shard.people.note(id.slot(), &Identities::new(Some(Identity::new("ann")), &[]));
    world.turns();
    world.shard.pace.frames = 1;
    world.fail(0, &EMPTY_MESSAGE.repeat(3));
    world.arrive(1, EMPTY_MESSAGE, 1);
    world.turn();
    let taken = world.offset();
    assert!(world.shard.hub.connections.get(id).is_some_and(|connection| connection.is_lost));
    let revoke =
        |world: &mut World| world.shard.close_all(&Who::identity("ann"), 0, CloseCode::POLICY_VIOLATION, "revoked");
    assert_eq!((revoke(&mut world), revoke(&mut world)), ((1, None), (0, None)));
    world.turns();
    assert_eq!((world.offset(), world.has(id)), (taken, false));
}

/// A send may fail although the socket is not at its end. All that has arrived is taken, and then the socket is reset.
#[test]
fn a_lost_connection_waits_for_no_input() {
    let mut world = World::without_clients(|_| {});
    let (id, _) = (world.connect(usize::MAX, true), world.connect(usize::MAX, false));
    world.turns();
    world.fail(0, EMPTY_MESSAGE);
    world.arrive(1, EMPTY_MESSAGE, 1);
    world.turn();
    world.network.borrow_mut().lines[0].arrived_end = None;
    world.turns();
    assert_eq!((world.offset(), world.has(id)), (2, false));
    assert!(world.network.borrow().lines[0].reset);
}

/// The handler of a lost connection gets its messages, and can neither answer nor subscribe. A close ends it at once.
#[test]
fn a_handler_of_a_lost_connection_gets_its_messages() {
    let mut world = World::without_clients(|_| {});
    let (id, _) = (world.connect_asking(), world.connect(usize::MAX, false));
    world.turns();
    let (question, close): (&[u8], &[u8]) = (b"\x81\x82\0\0\0\0?1", b"\x81\x85\0\0\0\0close");
    world.fail(0, &[question, question, close, question].concat());
    world.arrive(1, EMPTY_MESSAGE, 1);
    world.turn();
    assert_eq!(ShardApi::send(&mut world.shard, id, b"\x82\0"), Sent::Refused(Refused::NotOpen));
    let topic = TopicName::new("another").expect("a name");
    assert_eq!(world.shard.hub.subscribe(id, &topic, SubscribeOptions::default()), Subscribed::Closed);
    assert!(!world.shard.connections().contains(&id));
    world.turns();
    assert_eq!(world.counted([Counter::MessagesIn, Counter::HandlerPanics]), [4, 0]);
    assert!(!world.has(id));
}
