//! Turns of the shard, and the time between them.

use super::{
    super::driver::{AfterTurn, Next, decide},
    network::Weather,
    simulation::Simulation,
};
use crate::{metrics::Counter, proto::KeepAlive};

impl Simulation {
    /// Runs a turn if one is due, as the shard's thread would. Returns whether one was.
    pub(super) fn serve(&mut self) -> bool {
        let has_work = self.more || self.network.borrow().has_reports();
        let is_due = match decide(AfterTurn { has_work, is_drained: false }, || self.shard.next_deadline()) {
            Next::Again => true,
            Next::Sleep(until) => until.is_some_and(|until| until <= self.now),
            Next::End => unreachable!("it is not drained"),
        };
        if is_due {
            let before = (self.counters.get(Counter::CloseTimeout), self.network.borrow().tally.cut_off);
            let now = self.moment();
            self.more = self.shard.turn(now);
            self.log(format_args!(
                "turn at {:?}: {} pings sent, {} bytes in, {} bytes out",
                self.now,
                self.counters.get(Counter::PingsSent),
                self.counters.get(Counter::BytesIn),
                self.counters.get(Counter::BytesOut)
            ));
            self.check_turn(before);
        }
        is_due
    }

    /// Lets so much time pass.
    pub(super) fn pass(&mut self, ticks: u32) {
        self.ticks_restless += ticks;
        if self.ticks_restless > self.keep_alive.pong_timeout / 2 {
            self.calm_observers();
        }
        self.now = self.now.after(ticks);
        self.log(format_args!("it is {:?}", self.now));
    }

    /// Lets much time pass at once.
    pub(super) fn jump(&mut self) {
        let KeepAlive { ping_interval, pong_timeout, close_timeout } = self.keep_alive;
        let ticks = self.random.pick(&[ping_interval, ping_interval + 1, pong_timeout, close_timeout, 600]);
        self.calm_observers();
        self.now = self.now.after(ticks);
        self.log(format_args!("it is {:?}", self.now));
        self.calm_observers();
    }

    /// Lets the observers answer their pings, so that they never have to leave.
    pub(super) fn calm_observers(&mut self) {
        self.ticks_restless = 0;
        for _ in 0..ROUNDS_MAX {
            let mut something = self.serve();
            let network = &mut *self.network.borrow_mut();
            for observer in &mut self.clients[..self.topics.len()] {
                network.fetch(observer.number, usize::MAX);
                let line = &network.lines[observer.number];
                something |= !line.fetched.is_empty() || !line.on_the_way.is_empty();
                observer.look(self.now, network);
                network.arrive(observer.number, usize::MAX);
            }
            if !something {
                let left = self.clients[..self.topics.len()].iter().find(|observer| observer.close.is_some());
                assert!(left.is_none(), "an observer was sent away: {left:x?}");
                return;
            }
        }
        panic!("the shard does not come to rest");
    }

    /// Lets all clients but the mute read until nothing comes any more.
    pub(super) fn settle(&mut self) {
        self.log(format_args!("settles"));
        {
            let network = &mut *self.network.borrow_mut();
            network.weather = Weather::FAIR;
            for client in self.clients.iter_mut().filter(|client| !client.mute) {
                client.put(usize::MAX, network);
                let line = &mut network.lines[client.number];
                line.stalled = false;
                line.room = line.room.max(1 << 20);
            }
        }
        for _ in 0..ROUNDS_MAX {
            let served = self.serve();
            let network = &mut *self.network.borrow_mut();
            for number in network.active.clone() {
                let client = &mut self.clients[number];
                network.arrive(number, usize::MAX);
                if !client.mute {
                    network.fetch(number, usize::MAX);
                    client.look(self.now, network);
                    client.follow_the_end(network);
                }
            }
            if !served && !self.more && network.is_quiet() {
                if self.shard.flush.next_try().is_none() {
                    return;
                }
                // Connections that were refused in spite of room try again.
                self.now = self.now.after(1);
            }
        }
        panic!("the shard does not come to rest");
    }

    /// Lets time pass in which only the keep-alive acts.
    pub(super) fn let_time_pass(&mut self) {
        let KeepAlive { ping_interval, pong_timeout, close_timeout } = self.keep_alive;
        let end = self.now.after(3 * (ping_interval + pong_timeout + close_timeout));
        let open: Vec<usize> =
            self.open_clients().filter(|client| !client.mute && !client.deaf).map(|c| c.number).collect();
        while self.now < end {
            let due = self.shard.next_deadline().unwrap_or(end).max(self.now.after(1));
            self.now = due.min(end);
            self.settle();
        }
        for number in open {
            assert!(!self.clients[number].gone, "client {number} answers its pings and was dropped");
        }
        if pong_timeout > 0 {
            let dead = self.clients.iter().find(|client| (client.mute || client.deaf) && !client.gone);
            assert!(dead.is_none(), "a dead client is still there: {dead:?}");
        }
    }
}

/// Rounds in which a shard must come to rest when nothing new happens.
const ROUNDS_MAX: usize = 100_000;
