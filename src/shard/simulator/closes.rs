//! Closes that wait, and the time that a close has.

use super::{plan::Plan, random::Random, simulation::Simulation};
use crate::{
    config::{Config, Settings},
    metrics::Counter,
    proto::{CloseCode, State},
};

/// The close frame for a message that is too big leaves when the rest has come, or half of the close timeout has
/// passed; that for a protocol error at once.
#[test]
fn a_close_for_a_size_waits_for_the_rest() {
    let mut config = Config::new(&Settings::default(), 20_000).expect("the defaults");
    config.keep_alive.close_timeout = 50;
    // A frame of 2^63 - 1 bytes; one with a reserved bit.
    let too_big: &[u8] = b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff\0\0\0\0 and so on";
    let (broken, rest): (&[u8], &[u8]) = (b"\xc1\x80\0\0\0\0", b"more");
    for (first, ticks_of_rest, closed_at) in [(too_big, 0, 3), (too_big, 10, 13), (too_big, 100, 25), (broken, 10, 0)] {
        let mut simulation = Simulation::new(Random::new(0), Plan::CALM, false, &config);
        simulation.join(None);
        simulation.settle();
        let number = simulation.clients.len() - 1;
        simulation.clients[number].mute = true;
        let begin = simulation.now;
        let mut closed = None;
        for tick in 0..=40 {
            let bytes = if tick == 0 { first } else { rest };
            if tick <= ticks_of_rest {
                let network = &mut *simulation.network.borrow_mut();
                network.lines[number].on_the_way.extend(bytes);
                network.arrive(number, usize::MAX);
            }
            while simulation.serve() {}
            if closed.is_none() && simulation.network.borrow().lines[number].stream.has_ended() {
                closed = Some(simulation.now.since(begin));
                assert!(simulation.network.borrow().lines[number].finished, "its end follows at once");
            }
            simulation.now = simulation.now.after(1);
        }
        assert_eq!(closed, Some(closed_at), "{ticks_of_rest} ticks of more");
        assert_eq!(simulation.counters.get(Counter::ProtocolErrors), 1);
        simulation.network.borrow_mut().is_over = true;
    }
}

/// A client that answers a close at the last moment, and then does not end its side, gets no second close timeout.
#[test]
fn a_close_takes_one_close_timeout_in_all() {
    let mut config = Config::new(&Settings::default(), 20_000).expect("the defaults");
    config.keep_alive.close_timeout = 50;
    let mut simulation = Simulation::new(Random::new(0), Plan::CALM, false, &config);
    simulation.join(None);
    simulation.settle();
    let number = simulation.clients.len() - 1;
    simulation.clients[number].mute = true;
    let id = simulation.clients[number].id.expect("it has joined");
    simulation.shard.close(id, CloseCode::GOING_AWAY, "");
    simulation.more = true;
    for tick in 0..50 {
        if tick == 45 {
            let network = &mut *simulation.network.borrow_mut();
            network.lines[number].on_the_way.extend(b"\x88\x80\0\0\0\0");
            network.arrive(number, usize::MAX);
        }
        while simulation.serve() {}
        let state = simulation.shard.hub.connections.get(id).map(|connection| connection.websocket.state());
        assert_eq!(state, Some(if tick < 45 { State::Closing } else { State::Closed }), "tick {tick}");
        simulation.now = simulation.now.after(1);
    }
    while simulation.serve() {}
    assert!(simulation.shard.hub.connections.get(id).is_none());
    assert_eq!(simulation.counters.get(Counter::CloseTimeout), 1);
    simulation.network.borrow_mut().is_over = true;
}
