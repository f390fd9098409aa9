//! A shard on a simulated network whose behaviour one seed decides.
//!
//! The real [`Shard`] runs its turns over a simulated [`Io`](crate::sys::Io) under a clock of its own, driven just as
//! the shard's thread drives it: after a turn that leaves work, when the ring has a report, at the next deadline, and
//! after an arrival. Its clients use the client role of `proto`. The seed draws everything: the actions of clients
//! ([`actions`]), the faults of the network ([`network`]), the limits, and the size of each portion of work ([`plan`]),
//! so that a handful of subscribers meets the interleavings of many thousand.
//!
//! The checks:
//!
//! - of every byte as a socket takes it ([`stream`]): the answer of the opening handshake first, then whole frames,
//!   nothing behind a close frame, no end before it;
//! - of every client as it reads ([`client`]): no protocol error, payloads intact, pings answered in order;
//! - after every turn ([`Simulation::check_turn`]): limits kept, gauges true, no connection waits for an event that
//!   will not come;
//! - at the end ([`Simulation::check_end`]): on each topic an observer, which has all the room it needs and never
//!   leaves, has seen the one order. Any other client has seen pieces of that order without gap or repetition, each
//!   from the message after it subscribed, less its own without echo, to where it gave the topic up or left; each
//!   client's messages stand in the order in which it sent them; and the counters agree with the run.
//!
//! `RINGHUB_SEED=n cargo test simulator -- --nocapture` replays one run and prints what happens in it; `RINGHUB_SEEDS`
//! is how many are run.

mod actions;
mod answering;
mod checks;
mod client;
mod closes;
mod copies;
mod crowds;
mod discards;
mod drains;
mod homes;
mod leftovers;
mod line;
mod lost_sockets;
mod marks;
mod message_times;
mod network;
mod plan;
mod random;
mod seen;
mod several;
mod signs_of_life;
mod simulation;
mod socket;
mod stream;
mod tally;
mod topics;
mod turns;
mod world;

use std::{env, panic};

use self::{plan::Plan, random::Random, seen::Seen, simulation::Simulation};
use crate::config::{Config, Settings};

impl Simulation {
    /// Returns the run that the seed draws; `config` is what it begins with.
    fn of_seed(seed: u64, is_logged: bool, config: &Config) -> Self {
        let mut random = Random::new(seed);
        let mut config = config.clone();
        let plan = Plan::draw(&mut random, &mut config);
        Self::new(random, plan, is_logged, &config)
    }

    /// Returns a run with an observer of each topic.
    fn new(random: Random, plan: Plan, is_logged: bool, config: &Config) -> Self {
        let mut simulation = Self::without_clients(random, plan, is_logged, config);
        simulation.log(format_args!("{plan:#?} {:#?}", config.limits));
        for topic in 0..plan.topics {
            simulation.join(Some(topic));
        }
        simulation
    }

    fn run(&mut self) {
        for _ in 0..self.plan.steps {
            self.step();
        }
        if self.plan.settles {
            self.settle();
            self.check_settled();
            if self.keep_alive.ping_interval > 0 {
                self.let_time_pass();
            }
        }
        self.drain();
        self.check_end();
        self.network.borrow_mut().is_over = true;
    }

    /// Lets one thing happen.
    fn step(&mut self) {
        match self.random.within(0..=99) {
            0..=4 => self.join(None),
            5..=34 => self.act(),
            35..=59 => self.move_bytes(),
            60..=69 => self.look(),
            70 => self.pass(1),
            72..=79 => self.embed(),
            71 if self.keep_alive.ping_interval > 0 && self.random.chance(300) => self.jump(),
            _ => drop(self.serve()),
        }
    }
    /// Drains the shard.
    fn drain(&mut self) {
        let ticks = self.random.within(1..=40) as u32;
        self.log(format_args!("drains in {ticks} ticks"));
        self.is_draining = true;
        self.calm_observers();
        let now = self.moment();
        self.shard.drain(now, ticks);
        self.more = true;
        if !self.plan.settles {
            for _ in 0..self.random.within(0..=20) {
                self.serve();
                self.move_bytes();
                self.look();
            }
            self.plan.clients_max += 1;
            self.join(None);
        }
        self.settle();
        let end = self.now.after(ticks + self.keep_alive.close_timeout + 2);
        while self.now < end && !self.shard.is_empty() {
            let due = self.shard.next_deadline().unwrap_or(end);
            self.now = due.max(self.now.after(1)).min(end);
            self.settle();
        }
        assert!(self.shard.is_empty(), "{} connections do not leave", self.shard.open());
    }
}

fn number_of(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

#[test]
fn seeds() {
    let config = Config::new(&Settings::default(), 20_000).expect("the defaults");
    if let Some(seed) = number_of("RINGHUB_SEED") {
        return Simulation::of_seed(seed, true, &config).run();
    }
    let count = number_of("RINGHUB_SEEDS").unwrap_or(SEEDS);
    let mut seen = Seen::default();
    for seed in 0..count {
        let run = panic::AssertUnwindSafe(|| {
            let mut simulation = Simulation::of_seed(seed, false, &config);
            simulation.run();
            simulation
        });
        match panic::catch_unwind(run) {
            Ok(simulation) => seen.add(&simulation),
            Err(cause) => {
                println!("replay with RINGHUB_SEED={seed} cargo test simulator -- --nocapture");
                panic::resume_unwind(cause);
            }
        }
    }
    println!("{seen}");
    if count >= SEEDS {
        seen.check();
    }
}

/// Seeds of an ordinary test run.
const SEEDS: u64 = 1_500;
