//! Shards on simulated networks, and the mesh between them. One seed decides everything that happens.
//!
//! One to four real [`Shard`](crate::shard::state::Shard)s run their turns over a simulated [`Io`](crate::sys::Io)
//! under their own clock. A shard has a turn only when its thread would run one ([`driver`]): after a turn that leaves
//! work, when the ring has a report, at the deadline that the shard had when it fell asleep, after an arrival, a call
//! or a command, and when another end of the mesh wakes it; at no other time. The control thread's end ([`control`])
//! publishes and commands. In some runs an engine ([`engine`]) orders some of the topics, and some topics ask for tags.
//! The clients use the client role of `proto`, or speak the second protocol, mixed on the same topics. The seed draws
//! everything: the end that has the next turn, the actions of clients ([`actions`]), of handlers ([`answering`]) and of
//! calls ([`calls`]), the faults of the network ([`network`]), the limits, the lanes, and the size of each portion of
//! work ([`plan`]), so that a handful of subscribers meets the interleavings of many thousand.
//!
//! The checks:
//!
//! - of every byte as a socket takes it ([`stream`]): the answer of the opening handshake first, then whole frames,
//!   nothing after a close frame, and no end of our side before it. Where bytes travel in records ([`sealing`]), the
//!   records hold what the shard has sent, and the goodbye and the end come last;
//! - of every client as it reads ([`client`]): no protocol error, payloads intact, pings answered in order;
//! - after every turn ([`checks`]): limits kept, gauges true, no connection waits for an event that will not come;
//! - whenever every end sleeps ([`rest`]): nothing is under way; and at the end nothing is left;
//! - at the end ([`outcome`]): any client has seen pieces of each topic's one order without gap or repetition, each
//!   from the message after the subscription went live (without echo, less the client's own messages) to where the
//!   client gave the topic up or left ([`owed`]); each sender's messages stand in the order in which it sent them; a
//!   message that was answered with a place stands there; and the counters agree with the run;
//! - of every backlog, if its topics ask for tags ([`tags`]): each message has its own place and time;
//! - three promises about the end of a connection ([`promises`]).
//!
//! `RINGHUB_SEED=n cargo test simulator -- --nocapture` replays one run and prints what happens in it; `RINGHUB_SEEDS`
//! is the number of runs.

mod actions;
mod answering;
mod budgets;
mod calls;
mod checks;
mod client;
mod closes;
mod control;
mod copies;
mod crowds;
mod discards;
mod drains;
mod driver;
mod engine;
mod events;
mod full;
mod histories;
mod homes;
mod kernel_limits;
mod leftovers;
mod line;
mod lost_sockets;
mod marks;
mod memory;
mod message_times;
mod names;
mod network;
mod notes;
mod outcome;
mod owed;
mod paced;
mod plan;
mod policies;
mod promises;
mod random;
mod rates;
mod reloads;
mod rest;
mod resume;
mod sealing;
mod second_protocol;
mod seen;
mod several;
mod signs_of_life;
mod simulation;
mod socket;
mod stream;
mod tags;
mod tally;
mod tokens;
mod topics;
mod turns;
mod two_shards;
mod wires;
mod world;

use self::{driver::SimulatedDriver, plan::Plan, random::Random, seen::Seen, simulation::Simulation};
use crate::{
    config::{Config, Settings},
    hub::seeds::{each_seed, number_of},
};

impl Simulation {
    /// Returns the run that the seed draws. The draw changes some settings of `config`.
    fn of_seed(seed: u64, is_logged: bool, config: &Config) -> Self {
        let mut random = Random::new(seed);
        let mut config = config.clone();
        let plan = Plan::draw(&mut random, &mut config);
        Self::new(random, plan, is_logged, &config)
    }

    /// Returns a run in which each topic has an observer, and some topics have observers on several shards.
    fn new(random: Random, plan: Plan, is_logged: bool, config: &Config) -> Self {
        let mut simulation = Self::without_clients(random, plan, is_logged, config);
        simulation.log(format_args!("{plan:#?} {:#?}", config.limits));
        for topic in 0..plan.topics {
            let first = simulation.random.within(0..=plan.shards - 1);
            simulation.join(first, Some(topic));
            for shard in (0..plan.shards).filter(|&shard| shard != first) {
                if simulation.random.chance(150) {
                    simulation.join(shard, Some(topic));
                }
            }
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
        self.end();
    }

    /// Lets one thing happen.
    fn step(&mut self) {
        match self.random.within(0..=99) {
            0..=4 => self.join_somewhere(),
            5..=31 => self.act(),
            32..=51 => self.move_bytes(),
            52..=59 => self.look(),
            60 => self.pass(1),
            61 if self.keep_alive.ping_interval > 0 && self.random.chance(300) => self.jump(),
            62..=68 => self.call(),
            69..=72 => self.request(),
            _ => (0..self.drivers.len()).for_each(|_| self.serve_some()),
        }
    }

    /// Establishes a connection of a new client, if there is room.
    fn join_somewhere(&mut self) {
        let alive = self.clients.iter().filter(|client| !client.observes && !client.gone).count();
        let shards: Vec<usize> = (0..self.drivers.len()).filter(|&shard| self.drivers[shard].is_occupied).collect();
        if alive < self.plan.clients_max && !shards.is_empty() {
            let shard = self.random.pick(&shards);
            self.join(shard, None);
        }
    }

    /// Drains all shards together, and ends them.
    fn drain(&mut self) {
        let ticks = self.random.within(1..=40) as u32;
        self.log(format_args!("drains in {ticks} ticks"));
        self.is_draining = true;
        // The control thread refuses messages before the first connection is closed.
        self.control.leave();
        self.drivers.iter_mut().for_each(|driver| driver.command = Some(ticks));
        if !self.plan.settles {
            for _ in 0..self.random.within(0..=20 * self.drivers.len()) {
                self.serve_some();
                self.move_bytes();
                self.look();
            }
            self.plan.clients_max += 1;
            self.join_somewhere();
        }
        self.settle();
        let end = self.now.after(ticks + self.keep_alive.close_timeout + 2);
        while self.now < end && self.drivers.iter().any(|driver| !driver.shard.is_empty()) {
            self.pass_to_deadline(end);
            self.settle();
        }
        let open: Vec<usize> = self.drivers.iter().map(|driver| driver.shard.open()).collect();
        assert!(open.iter().all(|&open| open == 0), "{open:?} connections do not leave");
        self.check_rest();
        self.check_interest();
        self.check_leftovers();
        self.end_shards();
    }

    /// Lets the shards notice that none has connections any more.
    fn end_shards(&mut self) {
        self.may_end = true;
        for _ in 0..3 {
            self.now = self.now.after(1);
            while self.serve() {}
        }
        assert!(self.drivers.iter().all(SimulatedDriver::has_ended), "a shard does not end");
    }
}

#[test]
fn seeds() {
    let config = Config::new(&Settings::default(), 20_000).expect("the defaults");
    let is_logged = number_of("RINGHUB_SEED").is_some();
    let run = |seed| {
        let mut simulation = Simulation::of_seed(seed, is_logged, &config);
        simulation.run();
        simulation
    };
    let mut seen = Seen::default();
    let count = each_seed("shard::simulator", SEEDS, run, |simulation| seen.add(&simulation));
    println!("{seen}");
    if count.is_some_and(|count| count >= SEEDS) {
        seen.check();
    }
}

/// Seeds of an ordinary test run.
const SEEDS: u64 = 3_000;
