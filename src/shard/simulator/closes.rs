//! Closes that wait, and the time that a close has.

use super::{line::End, plan::Plan, random::Random, simulation::Simulation, world::World};
use crate::{
    config::{Config, Settings},
    hub::ConnectionId,
    metrics::Counter,
    proto::{CloseCode, State, Tick},
};

/// A step of the test, and the state of the connection after it.
type Transition = (Step, &'static str);

/// The steps of an end.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// The server starts the closing handshake.
    Close,
    /// The client's close frame arrives.
    CloseFrame,
    /// The client's side ends.
    End(End),
    /// The client reads everything.
    Read,
    /// The close timeout passes.
    Timeout,
}

/// A client's masked close frame without a code.
const CLOSE_FRAME: &[u8] = b"\x88\x80\0\0\0\0";

/// Takes a step, and returns our side's state after the turns that follow.
fn take(step: Step, world: &mut World, id: ConnectionId, now: &mut Tick) -> &'static str {
    match step {
        Step::Close => world.shard.close(id, CloseCode::GOING_AWAY, ""),
        Step::CloseFrame => world.arrive(0, CLOSE_FRAME, 1),
        Step::End(end) => {
            let network = &mut *world.network.borrow_mut();
            network.lines[0].end = Some(end);
            network.arrive(0, usize::MAX);
        }
        Step::Read => _ = world.sent(0),
        Step::Timeout => *now = now.after(CLOSE_TICKS),
    }
    while world.shard.turn(now.begin()) {}
    match world.shard.hub.connections.get(id).map(|connection| &connection.io.sides) {
        None => "dropped",
        Some(sides) if sides.is_open() => "open",
        Some(sides) if sides.is_finished() => "finished",
        Some(_) => "leaving",
    }
}

/// The close timeout of [`each_transition_of_an_end_is_taken`].
const CLOSE_TICKS: u32 = 50;

/// Each row of the table in `ending`, with the connections that are counted as aborted, reset and timed out.
#[test]
fn each_transition_of_an_end_is_taken() {
    use Step::{Close, CloseFrame, End as PeerEnds, Read, Timeout};
    let finished = PeerEnds(End::Finished);
    let paths: [(&[Transition], [u64; 3]); 8] = [
        (&[(Close, "leaving"), (CloseFrame, "finished"), (finished, "finished"), (Read, "dropped")], [0, 0, 0]),
        (&[(Read, "open"), (CloseFrame, "finished"), (Read, "finished"), (finished, "dropped")], [0, 0, 0]),
        (&[(finished, "finished"), (Read, "dropped")], [1, 0, 0]),
        (&[(Close, "leaving"), (finished, "finished"), (Read, "dropped")], [0, 0, 0]),
        (&[(Close, "leaving"), (Timeout, "dropped")], [0, 1, 1]),
        (&[(CloseFrame, "finished"), (Timeout, "dropped")], [0, 1, 1]),
        (&[(PeerEnds(End::Reset), "dropped")], [1, 0, 0]),
        (&[(Close, "leaving"), (PeerEnds(End::Reset), "dropped")], [0, 0, 0]),
    ];
    for (path, counts) in paths {
        let mut world = World::without_clients(|config| {
            config.keep_alive.ping_interval = 0;
            config.keep_alive.close_timeout = CLOSE_TICKS;
        });
        let (id, mut now) = (world.connect(usize::MAX, false), Tick(0));
        while world.shard.turn(now.begin()) {}
        for &(step, expected) in path {
            assert_eq!(take(step, &mut world, id, &mut now), expected, "after {step:?} of {path:?}");
        }
        let counted = [Counter::Aborted, Counter::Reset, Counter::CloseTimeout].map(|name| world.counters.get(name));
        assert_eq!(counted, counts, "{path:?}");
    }
}

/// The close frame for a message that is too big leaves when the rest has come, or half of the close timeout has
/// passed. The close frame for a protocol error leaves at once.
#[test]
fn a_close_for_a_size_waits_for_the_rest() {
    let mut config = Config::new(&Settings::default(), 20_000).expect("the defaults");
    config.keep_alive.close_timeout = 50;
    // A frame of 2^63 - 1 bytes, and a frame with a reserved bit.
    let too_big: &[u8] = b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff\0\0\0\0 and so on";
    let (broken, rest): (&[u8], &[u8]) = (b"\xc1\x80\0\0\0\0", b"more");
    for (first, ticks_of_rest, closed_at) in [(too_big, 0, 3), (too_big, 10, 13), (too_big, 100, 25), (broken, 10, 0)] {
        let mut simulation = Simulation::new(Random::new(0), Plan::CALM, false, &config);
        simulation.join(0, None);
        simulation.settle();
        let number = simulation.clients.len() - 1;
        simulation.clients[number].mute = true;
        let begin = simulation.now;
        let mut closed = None;
        for tick in 0..=40 {
            let bytes = if tick == 0 { first } else { rest };
            if tick <= ticks_of_rest {
                let network = &mut *simulation.drivers[0].network.borrow_mut();
                network.lines[number].on_the_way.extend(bytes);
                network.arrive(number, usize::MAX);
            }
            while simulation.serve() {}
            if closed.is_none() && simulation.drivers[0].network.borrow().lines[number].stream.has_ended() {
                closed = Some(simulation.now.since(begin));
                assert!(simulation.drivers[0].network.borrow().lines[number].finished, "its end follows at once");
            }
            simulation.now = simulation.now.after(1);
        }
        assert_eq!(closed, Some(closed_at), "{ticks_of_rest} ticks of more");
        assert_eq!(simulation.drivers[0].counters.get(Counter::ProtocolErrors), 1);
        simulation.end();
    }
}

/// A client that answers a close at the last moment, and then does not end its side, gets no second close timeout.
#[test]
fn a_close_takes_one_close_timeout_in_all() {
    let mut config = Config::new(&Settings::default(), 20_000).expect("the defaults");
    config.keep_alive.close_timeout = 50;
    let mut simulation = Simulation::new(Random::new(0), Plan::CALM, false, &config);
    simulation.join(0, None);
    simulation.settle();
    let number = simulation.clients.len() - 1;
    simulation.clients[number].mute = true;
    let id = simulation.clients[number].id.expect("it has joined");
    simulation.drivers[0].shard.close(id, CloseCode::GOING_AWAY, "");
    simulation.drivers[0].rouse();
    for tick in 0..50 {
        if tick == 45 {
            let network = &mut *simulation.drivers[0].network.borrow_mut();
            network.lines[number].on_the_way.extend(CLOSE_FRAME);
            network.arrive(number, usize::MAX);
        }
        while simulation.serve() {}
        let state = simulation.drivers[0].shard.hub.connections.get(id).map(|connection| connection.io.session.state());
        assert_eq!(state, Some(if tick < 45 { State::Closing } else { State::Closed }), "tick {tick}");
        simulation.now = simulation.now.after(1);
    }
    while simulation.serve() {}
    assert!(simulation.drivers[0].shard.hub.connections.get(id).is_none());
    assert_eq!(simulation.drivers[0].counters.get(Counter::CloseTimeout), 1);
    simulation.end();
}
