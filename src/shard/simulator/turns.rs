//! Turns of the shards, steps of the control thread, and the time between them.

use super::{client::Client, engine::Engine, network::Weather, simulation::Simulation};
use crate::{
    hub::testing::UnderWay,
    metrics::Counter,
    proto::{KeepAlive, Millis},
    shard::session::client_end::Protocol,
};

impl Simulation {
    /// Runs a turn of a shard, or a step of the control thread or of the engine, if one is due. Returns whether one
    /// was.
    pub(super) fn serve(&mut self) -> bool {
        let shards = self.drivers.len();
        let is_due = |end: usize| match self.drivers.get(end) {
            Some(driver) => driver.is_due(self.now),
            None if end == shards => self.control.is_due(),
            None => self.engine.as_ref().is_some_and(Engine::is_due),
        };
        let due: Vec<usize> = (0..=shards + 1).filter(|&end| is_due(end)).collect();
        if due.is_empty() {
            if !self.may_end {
                self.check_rest();
            }
            return false;
        }
        match self.random.pick(&due) {
            end if end == shards => {
                let answers = self.control.step();
                self.note_answers(answers);
            }
            end if end > shards => self.step_engine(),
            shard => self.turn(shard),
        }
        true
    }

    /// Runs a turn or a step in the middle of a run, if one is due. One shard may be much slower than the others there.
    pub(super) fn serve_some(&mut self) {
        let lazy = self.plan.lazy.filter(|_| !self.random.chance(50));
        let ends = self.drivers.len() + usize::from(self.engine.is_some());
        let shard = self.random.within(0..=ends);
        if shard > self.drivers.len() {
            self.step_engine();
        } else if shard == self.drivers.len() {
            if self.control.is_due() {
                let answers = self.control.step();
                self.note_answers(answers);
            }
        } else if lazy != Some(shard) && self.drivers[shard].is_due(self.now) {
            self.turn(shard);
        } else if !self.is_due() {
            self.check_rest();
        }
    }

    /// Runs a turn of the shard, and decides about the next step.
    fn turn(&mut self, shard: usize) {
        let (before, room) = (self.places(shard), self.room(shard));
        let driver = &mut self.drivers[shard];
        let counted = (driver.counters.get(Counter::CloseTimeout), driver.network.borrow().tally.cut_off);
        if driver.command.is_some() {
            self.note_taken_before_drain(shard);
        }
        let has_more = self.drivers[shard].turn(self.now);
        let counters = &self.drivers[shard].counters;
        self.log(format_args!(
            "turn of shard {shard} at {:?}: {} pings sent, {} bytes in, {} bytes out",
            self.now,
            counters.get(Counter::PingsSent),
            counters.get(Counter::BytesIn),
            counters.get(Counter::BytesOut)
        ));
        self.read_notes(shard, &before);
        self.check_turn(shard, counted);
        self.check_memory(shard, &room);
        self.note_turn(shard);
        self.drivers[shard].sign_off();
        let have_all_left = self.drivers.iter().all(|driver| !driver.is_occupied);
        let is_drained = self.may_end && have_all_left && !self.drivers[shard].shard.owes_external_ends();
        self.drivers[shard].follow(has_more, is_drained);
    }

    /// Notes how many messages of each topic a shard has taken from its connections by now.
    fn note_taken_before_drain(&mut self, shard: usize) {
        let orders = self.orders();
        for (topic, order) in orders.iter().enumerate() {
            let is_own = |author: usize| self.clients[author].shard == shard;
            let placed = order.iter().filter(|placed| !placed.is_posted() && placed.author.is_some_and(is_own));
            self.taken_before_drain[topic][shard] = match self.homes[topic] == shard && !self.is_of_engine(topic) {
                true => placed.count() as u64,
                false => self.journal(shard).sent.get(&self.topics[topic]).copied().unwrap_or_default(),
            };
        }
    }

    /// Counts the events of a shard's turn.
    fn note_turn(&mut self, shard: usize) {
        let UnderWay { has_due, requests, deliveries, .. } = UnderWay::of(&self.drivers[shard].shard.hub);
        let events = &mut self.events;
        events.interest_due += u64::from(has_due);
        events.requests_waited += u64::from(requests > 0);
        events.deliveries_waited += u64::from(deliveries > 0);
        if self.drivers[shard].is_draining {
            events.drained_before_another += u64::from(self.drivers.iter().any(|driver| !driver.is_draining));
            let is_occupied = |shard: usize| !self.drivers[shard].shard.is_empty();
            let others = (0..self.drivers.len()).any(|other| other != shard && is_occupied(other));
            events.drained_and_stayed += u64::from(!is_occupied(shard) && others);
        }
    }

    /// Lets so much time pass.
    pub(super) fn pass(&mut self, ticks: u32) {
        self.ticks_restless += ticks;
        if self.keep_alive.ping_interval > 0 && self.ticks_restless > self.keep_alive.pong_timeout / 2 {
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
            for observer in self.clients.iter_mut().take_while(|client| client.observes) {
                let network = &mut *self.drivers[observer.shard].network.borrow_mut();
                network.fetch(observer.line, usize::MAX);
                let line = &network.lines[observer.line];
                something |= !line.fetched.is_empty() || !line.on_the_way.is_empty();
                observer.look(self.now, network);
                network.arrive(observer.line, usize::MAX);
            }
            if !something {
                let left = self.clients.iter().find(|client| client.observes && client.close.is_some());
                assert!(left.is_none(), "an observer was sent away: {left:x?}");
                return;
            }
        }
        panic!("the shards do not come to rest");
    }

    /// Lets all clients except the mute ones read until nothing comes any more.
    pub(super) fn settle(&mut self) {
        self.log(format_args!("settles"));
        for driver in &self.drivers {
            let network = &mut *driver.network.borrow_mut();
            network.weather = Weather::FAIR;
            for &number in &driver.clients {
                let client = &mut self.clients[number];
                if !client.mute {
                    client.put(usize::MAX, network);
                    let line = &mut network.lines[client.line];
                    line.stalled = false;
                    line.room = line.room.max(1 << 20);
                }
            }
        }
        for _ in 0..ROUNDS_MAX {
            let served = self.serve();
            let mut is_quiet = true;
            for driver in &self.drivers {
                let network = &mut *driver.network.borrow_mut();
                for line in network.active.clone() {
                    let client = &mut self.clients[driver.clients[line]];
                    network.arrive(line, usize::MAX);
                    if !client.mute {
                        network.fetch(line, usize::MAX);
                        client.look(self.now, network);
                        client.follow_the_end(network);
                    }
                }
                is_quiet &= network.is_quiet();
            }
            if !served && is_quiet && !self.is_due() {
                if self.drivers.iter().all(|driver| driver.shard.flush.next_try().is_none()) {
                    return;
                }
                // Connections whose sockets reported room and took nothing try again in the next tick.
                self.now = self.now.after(1);
            }
        }
        panic!("the shards do not come to rest");
    }

    /// Sets the clock to the next deadline of a shard, or to `end` if that is earlier.
    pub(super) fn pass_to_deadline(&mut self, end: crate::proto::Tick) {
        let due = self.drivers.iter().filter_map(|driver| driver.shard.next_deadline()).min().map(Millis::tick);
        self.now = due.unwrap_or(end).max(self.now.after(1)).min(end);
    }

    /// Lets time pass in which only the keep-alive acts.
    pub(super) fn let_time_pass(&mut self) {
        let KeepAlive { ping_interval, pong_timeout, close_timeout } = self.keep_alive;
        let end = self.now.after(3 * (ping_interval + pong_timeout + close_timeout));
        let open: Vec<usize> =
            self.open_clients().filter(|client| !client.mute && !client.deaf).map(|c| c.number).collect();
        while self.now < end {
            self.pass_to_deadline(end);
            self.settle();
        }
        for number in open {
            assert!(!self.clients[number].gone, "client {number} answers its pings and was dropped");
        }
        if pong_timeout > 0 {
            // The second protocol has no pings.
            let is_pinged = |client: &&Client| client.end.protocol() == Protocol::WebSocket;
            let mut silent = self.clients.iter().filter(|client| client.mute || client.deaf).filter(is_pinged);
            let dead = silent.find(|client| !client.gone);
            assert!(dead.is_none(), "a dead client is still there: {dead:?}");
        }
    }
}

/// Rounds in which the shards must come to rest when nothing new happens.
const ROUNDS_MAX: usize = 200_000;
