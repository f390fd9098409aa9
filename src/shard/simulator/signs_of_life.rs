//! Clients that send and do not take, or take and do not send, and how long they may do so.

use bytes::{Bytes, BytesMut};

use super::{
    super::{io_state::Reading, pace::Pace},
    client::Client,
    plan::Plan,
    random::Random,
    simulation::{Simulation, arrival},
    socket::SimulatedSocket,
    world::{ANSWER, PONG, World},
};
use crate::{
    config::{Config, Settings},
    hub::{ConnectionId, Scope, TopicName},
    metrics::Counter,
    proto::{KeepAlive, State, Tick},
};

const KEEP_ALIVE: KeepAlive = KeepAlive { ping_interval: 10, pong_timeout: 10, close_timeout: 5 };
const BACKLOG_MAX: usize = 1 << 20;

/// Returns a shard with two clients: a subscriber with little room, number 0, and a publisher, number 1.
fn slow_consumer() -> (World, ConnectionId) {
    let mut world = World::without_clients(|config: &mut Config| {
        config.keep_alive = KEEP_ALIVE;
        config.limits.backlog_bytes_max = BACKLOG_MAX;
    });
    let id = world.connect(20_000, true);
    world.connect(usize::MAX, false);
    (world, id)
}

impl World {
    /// Runs turns until nothing is due at this tick.
    fn serve(&mut self, tick: u32) {
        while self.shard.turn(Tick(tick).begin()) {}
    }

    /// Lets the publisher send so many messages of 10 000 bytes.
    fn publish(&self, count: usize) {
        let message = [&b"\x82\xfe\x27\x10\0\0\0\0"[..], &[0; 10_000]].concat();
        self.arrive(1, &message, count);
    }

    fn state(&self, id: ConnectionId) -> Option<State> {
        self.shard.hub.connections.get(id).map(|connection| connection.io.session.state())
    }
}

/// The silence of a client counts from the moment at which its connection is adopted, however late that is.
#[test]
fn a_new_connection_has_not_been_silent() {
    let mut world = World::without_clients(|config: &mut Config| config.keep_alive = KEEP_ALIVE);
    let socket = SimulatedSocket::connect(&world.network, ANSWER, usize::MAX);
    let arrival = arrival(socket, Vec::new(), None, Bytes::from_static(ANSWER), BytesMut::new());
    world.shard.adopt(Tick(1_000).begin(), arrival).expect("there is room");
    for (tick, pings) in [(1_000, 0), (1_009, 0), (1_010, 1)] {
        world.serve(tick);
        assert_eq!(world.counters.get(Counter::PingsSent), pings, "tick {tick}");
    }
}

/// The client is closed whether it is parked or is owed too little for that.
#[test]
fn a_slow_consumer_that_takes_nothing_is_closed_whatever_it_sends() {
    for (messages, is_parked) in [(10, false), (70, true)] {
        let (mut world, id) = slow_consumer();
        world.publish(messages);
        world.serve(0);
        let mut closed = None;
        for tick in 1..=100 {
            world.arrive(0, PONG, 1);
            // The publisher stays.
            world.arrive(1, PONG, 1);
            world.serve(tick);
            let connection = world.shard.hub.connections.get(id);
            if let Some(connection) = connection.filter(|connection| connection.io.session.state() == State::Open) {
                assert_eq!(connection.io.reading == Reading::Parked, is_parked, "tick {tick}");
            } else {
                closed = Some(tick);
                break;
            }
        }
        assert!(closed.is_some_and(|tick| (20..=40).contains(&tick)), "closed at {closed:?}");
        assert_eq!(world.counters.get(Counter::PongTimeout), 1);
        world.serve(100);
        assert_eq!((world.state(id), world.counters.get(Counter::SlowConsumers)), (None, 0));
    }
}

/// A ping would reach the client only after all that the client has not read. In the first case its socket never has
/// enough room to be reported; in the second case the socket is filled again each time.
#[test]
fn a_slow_consumer_that_takes_a_little_all_the_time_stays() {
    for (messages, part, is_refilled) in [(10, 100, false), (60, 7_000, true)] {
        let (mut world, id) = slow_consumer();
        world.publish(messages);
        world.serve(0);
        let sent = world.counters.get(Counter::BytesOut);
        for tick in 1..=60 {
            world.network.borrow_mut().fetch(0, part);
            world.arrive(1, PONG, 1);
            world.serve(tick);
            assert_eq!(world.state(id), Some(State::Open), "tick {tick}");
        }
        assert_eq!(world.counters.get(Counter::BytesOut) > sent, is_refilled, "room is reported from a third on");
        // From here on the client takes nothing.
        for tick in 61..=120 {
            world.arrive(1, PONG, 1);
            world.serve(tick);
        }
        assert_eq!((world.state(id), world.counters.get(Counter::PongTimeout)), (None, 1));
    }
}

/// If the kernel refuses bytes for lack of memory, that does not count as a client that takes nothing.
#[test]
fn a_slow_consumer_that_has_taken_all_that_was_sent_stays() {
    let (mut world, id) = slow_consumer();
    world.network.borrow_mut().is_short_of_memory = true;
    world.publish(1);
    world.serve(0);
    world.network.borrow_mut().fetch(0, usize::MAX);
    for tick in 1..=60 {
        world.arrive(1, PONG, 1);
        world.serve(tick);
        assert!(
            world.shard.hub.connections.get(id).is_some_and(|connection| connection.io.has_backlog()),
            "tick {tick}"
        );
        assert_eq!(world.state(id), Some(State::Open), "tick {tick}");
    }
}

/// While a client's topic is behind, its input waits in its socket. This wait does not count as the client's silence.
#[test]
fn a_client_that_waits_to_be_read_is_not_silent() {
    let mut config = Config::new(&Settings::default(), 20_000).expect("the defaults");
    config.limits.gathered_bytes_max = 1;
    config.keep_alive = KeepAlive { ping_interval: 50, pong_timeout: 20, close_timeout: 50 };
    let pace = Pace {
        receive_batch: 1,
        receive_batches: 1,
        frames: 1,
        send_batch: 1,
        entry_pieces: 1,
        flush_entries: 1,
        flush_bytes: 1,
        batch_bytes: 1,
        backlog_pieces: 1,
        backlog_bytes: 1,
        mail: 1,
        history_parts: 1,
    };
    let mut simulation = Simulation::new(Random::new(12), Plan { pace, ..Plan::CALM }, false, &config);
    for _ in 0..10 {
        simulation.join(0, None);
    }
    simulation.settle();
    let is_plain =
        |client: &&Client| client.publishes && !client.subscriptions.is_empty() && !client.mute && !client.deaf;
    let plain: Vec<usize> = simulation.clients.iter().filter(is_plain).map(|client| client.number).collect();
    let [first, second, ..] = plain[..] else { panic!("chance made too few plain clients") };
    let speak = |simulation: &mut Simulation, number: usize| {
        let network = &mut *simulation.drivers[0].network.borrow_mut();
        let client = &mut simulation.clients[number];
        client.compose(5, &mut simulation.random);
        client.put(usize::MAX, network);
        network.arrive(number, usize::MAX);
    };
    // The walk over the subscribers of the first message takes many turns, and the second waits for it.
    speak(&mut simulation, first);
    simulation.serve();
    speak(&mut simulation, second);
    for _ in 0..2 {
        simulation.now = simulation.now.after(60);
        simulation.serve();
    }
    let id = simulation.clients[second].id.expect("it has joined");
    let waiting = simulation.drivers[0].shard.hub.connections.get(id).expect("it is still there");
    assert!(waiting.io.reading == Reading::AwaitsHome && waiting.io.session.state() == State::Open);
    assert!(simulation.drivers[0].counters.get(Counter::PongTimeout) > 0, "the others were silent");
    simulation.end();
}

/// A slow consumer has two topics whose walks meet in a batch. The share of the first topic exceeds the limit of its
/// backlog, so the share of the second is dropped instead of being owed for the rest of the batch.
#[test]
fn a_slow_consumer_gets_no_share_beyond_the_one_that_closes_it() {
    let mut world = World::without_clients(|config| config.limits.backlog_bytes_max = 40_000);
    let topics = [TopicName::new("t").expect("a name"), TopicName::new("u").expect("a name")];
    let mut connect = |room, subscriptions: &[&TopicName], topic: &TopicName| {
        let socket = SimulatedSocket::connect(&world.network, ANSWER, room);
        let subscriptions = subscriptions.iter().map(|&topic| (topic.clone(), true)).collect();
        let forwards = Some((topic.clone(), Scope::Server));
        let arrival = arrival(socket, subscriptions, forwards, Bytes::from_static(ANSWER), BytesMut::new());
        world.shard.adopt(Tick(0).begin(), arrival).expect("there is room")
    };
    connect(1_000, &[&topics[0], &topics[1]], &topics[0]);
    topics.iter().for_each(|topic| _ = connect(usize::MAX, &[], topic));
    while world.shard.turn(Tick(0).begin()) {}
    let message = [&b"\x82\xfe\x27\x10\0\0\0\0"[..], &[0; 10_000]].concat();
    world.arrive(1, &message, 4);
    while world.shard.turn(Tick(0).begin()) {}
    let counted = |world: &World| {
        [Counter::SlowClosed, Counter::Deliveries, Counter::SlowDropped].map(|counter| world.counters.get(counter))
    };
    assert_eq!(counted(&world), [0, 4, 0]);
    (1..=2).for_each(|client| world.arrive(client, &message, 1));
    while world.shard.turn(Tick(0).begin()) {}
    assert_eq!(counted(&world), [1, 5, 2]);
}
