//! The hostile crowd: connections drawn from a seed, and the threads that run them.
//!
//! A crowd consists of visitors. Each visitor opens one connection after the other. The plan of a connection, its
//! [`Visit`], depends only on the crowd's seed, the visitor's number and the number of the visit. So a seed replays the
//! sent bytes, but not their times.

mod crawlers;
mod droppers;
mod flooders;
mod forgers;
mod frames;
mod hoarders;
mod paths;
#[path = "../../conformance/random.rs"]
#[allow(dead_code, reason = "a crowd draws in some of the ways")]
mod random;
mod received;
mod requests;
mod stallers;
mod visit;
mod visitor;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, Timespec, poll},
    io::Errno,
};

pub(crate) use frames::foreign;
pub(crate) use random::Random;
pub(crate) use received::SECRET;
use visit::Visit;
use visitor::Visitor;

/// The kinds of hostile clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Sends as much as it can, valid or not.
    Flooder,
    /// Sends or receives a byte at a time.
    Crawler,
    /// Holds places, and begins messages that do not end.
    Hoarder,
    /// Resets its connection in any state.
    Dropper,
    /// Receives nothing, or stops within a message.
    Staller,
    /// Sends requests that a parser could misunderstand.
    Forger,
}

impl Kind {
    pub(crate) const ALL: [Kind; 6] =
        [Kind::Flooder, Kind::Crawler, Kind::Hoarder, Kind::Dropper, Kind::Staller, Kind::Forger];

    /// Draws the next visit of a visitor of this kind.
    fn visit(self, random: &mut Random, scene: &Scene) -> Visit {
        match self {
            Kind::Flooder => flooders::visit(random, scene),
            Kind::Crawler => crawlers::visit(random, scene),
            Kind::Hoarder => hoarders::visit(random, scene),
            Kind::Dropper => droppers::visit(random, scene),
            Kind::Staller => stallers::visit(random, scene),
            Kind::Forger => forgers::visit(random, scene),
        }
    }
}

/// The facts about a server that decide what its crowd sends.
#[derive(Clone, Debug)]
pub(crate) struct Scene {
    /// The largest message that the server takes, in bytes.
    pub(crate) message_max: usize,
    /// Targets of topics with honest subscribers. Visitors sometimes publish whole messages there; a part of a message
    /// must never arrive.
    pub(crate) honest_targets: Vec<String>,
    /// The longest time for which a visitor holds a connection, in milliseconds.
    pub(crate) patience_ms: usize,
}

/// A hostile crowd.
#[derive(Clone, Debug)]
pub(crate) struct Crowd {
    pub(crate) seed: u64,
    /// The kind of each visitor.
    pub(crate) visitors: Vec<Kind>,
    pub(crate) server: SocketAddr,
    /// The number of addresses that the visitors share, from 127.0.1.1 on.
    pub(crate) addresses: u8,
    pub(crate) scene: Scene,
}

/// The results of a crowd's visits.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// The visits by kind and name of the plan.
    pub(crate) visits: BTreeMap<(Kind, &'static str), Tally>,
    /// Broken promises of the server, each with the plan of its visit.
    pub(crate) violations: Vec<String>,
}

/// The visits of one plan, in numbers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) begun: u64,
    /// Visits whose steps are all done, or that the server has ended.
    pub(crate) done: u64,
    /// Answers 101 and 2xx.
    pub(crate) accepted: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) taken_bytes: u64,
}

impl Outcome {
    /// Adds the outcome of other visitors.
    pub(crate) fn merge(&mut self, other: Outcome) {
        for (name, tally) in other.visits {
            let sum = self.visits.entry(name).or_default();
            sum.begun += tally.begun;
            sum.done += tally.done;
            sum.accepted += tally.accepted;
            sum.sent_bytes += tally.sent_bytes;
            sum.taken_bytes += tally.taken_bytes;
        }
        self.violations.extend(other.violations);
    }

    /// Returns the sum over all plans of a kind.
    pub(crate) fn of(&self, kind: Kind) -> Tally {
        let mut sum = Tally::default();
        for tally in self.visits.iter().filter(|((of, _), _)| *of == kind).map(|(_, tally)| tally) {
            sum.begun += tally.begun;
            sum.done += tally.done;
            sum.accepted += tally.accepted;
            sum.sent_bytes += tally.sent_bytes;
            sum.taken_bytes += tally.taken_bytes;
        }
        sum
    }
}

impl Crowd {
    /// Runs the visitors whose numbers are `part` modulo `parts` until `is_over`. Then ends each connection with the
    /// end of its plan.
    pub(crate) fn run(&self, part: usize, parts: usize, is_over: &AtomicBool) -> Outcome {
        // On a busy machine the honest clients have priority.
        rustix::process::nice(NICE).expect("a lower priority needs no right");
        let own = (0..self.visitors.len()).filter(|number| number % parts == part);
        let mut visitors: Vec<Visitor> = own.map(|number| Visitor::new(self, number)).collect();
        let mut outcome = Outcome::default();
        while !is_over.load(Ordering::Relaxed) {
            let now = Instant::now();
            for visitor in &mut visitors {
                visitor.go_on(now, self, &mut outcome);
            }
            wait(&mut visitors, now);
        }
        visitors.into_iter().for_each(|visitor| visitor.leave(&mut outcome));
        outcome
    }

    /// Draws a visit.
    fn visit(&self, visitor: usize, number: u64) -> Visit {
        let mut random = Random::new(self.seed ^ (visitor as u64).wrapping_mul(0xd6e8_feb8_6659_fd93) ^ (number << 32));
        self.visitors[visitor].visit(&mut random, &self.scene)
    }
}

/// Waits until a socket is ready or a pause is over, and notes which sockets are ready.
fn wait(visitors: &mut [Visitor], now: Instant) {
    let wake = visitors.iter().filter_map(Visitor::wake).min().unwrap_or(now + NAP).min(now + NAP);
    let patience = wake.saturating_duration_since(Instant::now());
    let patience = Timespec { tv_sec: 0, tv_nsec: patience.as_nanos() as i64 };
    let mut ready: Vec<(usize, PollFd<'_>)> = Vec::new();
    for (at, visitor) in visitors.iter().enumerate() {
        ready.extend(visitor.interest().map(|fd| (at, fd)));
    }
    let (places, mut fds): (Vec<usize>, Vec<PollFd<'_>>) = ready.into_iter().unzip();
    match poll(&mut fds, Some(&patience)) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => panic!("poll: {error}"),
    }
    let is_ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
    drop(fds);
    for (at, _) in places.into_iter().zip(is_ready).filter(|(_, is_ready)| *is_ready) {
        visitors[at].set_ready();
    }
}

/// The priority of a crowd's threads.
const NICE: i32 = 10;

/// The longest sleep.
const NAP: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    fn crowd(seed: u64) -> Crowd {
        Crowd {
            seed,
            visitors: Kind::ALL.to_vec(),
            server: ([127, 0, 0, 1], 1).into(),
            addresses: 1,
            scene: Scene { message_max: 65_536, honest_targets: vec!["/t/honest-0".to_owned()], patience_ms: 1_000 },
        }
    }

    /// Equal seeds lead to equal plans, different seeds to different ones.
    #[test]
    fn a_seed_replays_its_visits() {
        let plans = |seed| {
            let crowd = crowd(seed);
            let visits = (0..crowd.visitors.len()).flat_map(|visitor| (0..20).map(move |number| (visitor, number)));
            visits.map(|(visitor, number)| format!("{:?}", crowd.visit(visitor, number))).collect::<Vec<_>>()
        };
        assert_eq!(plans(7), plans(7));
        assert_ne!(plans(7), plans(8));
    }

    /// Every plan is drawn, and no two kinds have a plan of the same name.
    #[test]
    fn every_plan_is_drawn() {
        let crowd = crowd(1);
        let mut names: BTreeMap<&str, (Kind, u32)> = BTreeMap::new();
        for (visitor, &kind) in crowd.visitors.iter().enumerate() {
            for number in 0..600 {
                let name = crowd.visit(visitor, number).name;
                let entry = names.entry(name).or_insert((kind, 0));
                assert_eq!(entry.0, kind, "{name}");
                entry.1 += 1;
            }
        }
        println!("{names:#?}");
        assert!(names.len() >= 45, "only {} plans: {names:?}", names.len());
        assert!(names.values().all(|(_, count)| *count >= 5), "{names:?}");
    }
}
