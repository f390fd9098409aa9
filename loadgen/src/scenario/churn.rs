//! Subscribers leave, and others join, while messages are published.

use super::{Run, open};
use crate::connection::State;
use crate::crew::Order;
use crate::error::Error;
use crate::frame::{self, opcode};
use crate::generator::Generator;
use crate::judge::histogram;
use crate::options::{Activity, Pace, Plan};
use crate::progress::Progress;
use crate::publishing::Publishing;
use crate::report::Latency;
use crate::sampling::Sampler;
use crate::scenario_figures::ScenarioFigures;
use hdrhistogram::Histogram;
use std::collections::VecDeque;
use std::time::Duration;

/// The subscribers of a thread that come and go.
pub(crate) struct Churn {
    per_second: u64,
    begin_ns: u64,
    own: Churned,
    /// The places of subscribers that are on their way in, and when they set out.
    under_way: Vec<(usize, u64)>,
    /// Those that were refused: when they try again, their place, and when they set out first.
    later: VecDeque<(u64, usize, u64)>,
    /// Why the latest one was refused.
    refusal: Option<String>,
}

/// The subscribers of a thread that came and went.
#[derive(Debug, Default)]
pub(crate) struct Churned {
    left: u64,
    joined: u64,
    refused: u64,
    /// The times from the first attempt to the end of the subscription; `None` if nobody joined.
    times: Option<Histogram<u64>>,
}

pub(super) fn run(generator: &mut Generator<'_>, pace: Pace, progress: &mut dyn Progress) -> Result<Run, Error> {
    let opening = open(generator, progress)?;
    let begin_ns = generator.now_ns();
    let mut churn = Churn::new(generator.plan, begin_ns);
    let mut sampler = Sampler::new();
    let subscribers = generator.plan.subscribers;
    generator.refused = Some(Vec::new());
    generator.crew.give(Order::Churn { begin_ns });
    let measured =
        Publishing::new(generator, pace, subscribers)
            .run(&mut sampler, progress, &mut |generator, now_ns| churn.turn(generator, now_ns))?;
    let end_ns = generator.now_ns().saturating_add(generator.plan.drain_ns);
    loop {
        churn.welcome(generator)?;
        let is_complete = churn.joining() == 0 && generator.crew.joining() == 0;
        if is_complete || generator.now_ns() > end_ns || progress.is_interrupted() {
            break;
        }
        generator.poll(Duration::from_millis(1))?;
    }
    generator.settle()?;
    churn.finish(generator);
    Ok(Run::of(measured, sampler, opening))
}

/// Returns the figures of a churn.
pub(crate) fn figures(generators: &[&Generator<'_>]) -> ScenarioFigures {
    let (mut left, mut joined, mut refused, mut times) = (0, 0, 0, histogram());
    for Churned { left: own_left, joined: own_joined, refused: own_refused, times: own_times } in
        generators.iter().map(|generator| &generator.churned)
    {
        left += own_left;
        joined += own_joined;
        refused += own_refused;
        if let Some(own) = own_times {
            times += own;
        }
    }
    ScenarioFigures::Churn { left, joined, refused, join: Latency::from_histogram(&times) }
}

impl Churn {
    pub(crate) fn new(plan: &Plan, begin_ns: u64) -> Churn {
        let Activity::Churn { per_second, .. } = plan.activity else { unreachable!("a churn has a plan of a churn") };
        let (under_way, later) = (Vec::new(), VecDeque::new());
        Churn { per_second, begin_ns, own: Churned::default(), under_way, later, refusal: None }
    }

    /// Returns the number of subscribers that are on their way in.
    pub(crate) fn joining(&self) -> usize {
        self.under_way.len() + self.later.len()
    }

    /// Lets the subscribers leave whose time has come.
    pub(crate) fn turn(&mut self, generator: &mut Generator<'_>, now_ns: u64) -> Result<(), Error> {
        self.welcome(generator)?;
        let due = u128::from(now_ns - self.begin_ns) * u128::from(self.per_second) / 1_000_000_000;
        let due = generator.share.size(usize::try_from(due).unwrap_or(usize::MAX)) as u64;
        let subscribers = generator.first_subscribers;
        while self.own.left < due && self.joining() < subscribers {
            let index = (self.own.left % subscribers as u64) as usize;
            if !generator.connections[index].is_open() || generator.connections[index].socket.is_none() {
                // The server has ended this one, or it is still on its way in; the next turn tries again.
                break;
            }
            self.replace(generator, index)?;
            self.own.left += 1;
        }
        Ok(())
    }

    /// Lets a subscriber leave, and another one set out in its place.
    fn replace(&mut self, generator: &mut Generator<'_>, index: usize) -> Result<(), Error> {
        let connection = &mut generator.connections[index];
        if let State::Reading(reading) = &connection.state {
            for checker in &reading.checkers {
                // What was still on its way to a subscriber that leaves is not missing.
                generator.departed.0.add(checker.finish(checker.next()));
                generator.departed.1 += checker.reached();
            }
            generator.departed_foreign[0] += reading.foreign;
            generator.departed_foreign[1] += reading.corrupt;
            generator.departed_foreign[2] += reading.misrouted;
        }
        let mut close = Vec::new();
        frame::write_masked(opcode::CLOSE, CLOSE_KEY, &1000_u16.to_be_bytes(), &mut close);
        connection.push(&close);
        // A server that has closed meanwhile takes no close frame.
        connection.flush().unwrap_or_default();
        connection.socket = None;
        generator.opened -= 1;
        self.set_out(generator, index, generator.now_ns())
    }

    fn set_out(&mut self, generator: &mut Generator<'_>, index: usize, since_ns: u64) -> Result<(), Error> {
        match generator.socket(index) {
            Ok(socket) => {
                generator.replace(index, socket)?;
                self.under_way.push((index, since_ns));
            }
            // The server may be starting anew, or the machine has no port left for a moment.
            Err(error) => {
                self.own.refused += 1;
                self.refusal = Some(error.to_string());
                self.later.push_back((generator.now_ns() + RETRY_NS, index, since_ns));
            }
        }
        Ok(())
    }

    /// Counts the subscribers that have joined, and lets those that were refused try again a little later.
    pub(crate) fn welcome(&mut self, generator: &mut Generator<'_>) -> Result<(), Error> {
        let now_ns = generator.now_ns();
        for (index, why) in generator.refused.as_mut().map(std::mem::take).unwrap_or_default() {
            self.own.refused += 1;
            self.refusal = Some(why);
            let place = self.under_way.iter().position(|&(other, _)| other == index);
            let since_ns = place.map_or(now_ns, |place| self.under_way.swap_remove(place).1);
            self.later.push_back((now_ns + RETRY_NS, index, since_ns));
        }
        while self.later.front().is_some_and(|&(at_ns, ..)| at_ns <= now_ns) {
            if let Some((_, index, since_ns)) = self.later.pop_front() {
                self.set_out(generator, index, since_ns)?;
            }
        }
        let Churned { joined, times, .. } = &mut self.own;
        self.under_way.retain(|&(index, since_ns)| {
            let is_open = generator.connections[index].is_open();
            if is_open {
                *joined += 1;
                times.get_or_insert_with(histogram).saturating_record(now_ns - since_ns);
            }
            !is_open
        });
        Ok(())
    }

    /// Ends the churn. Subscribers that are still on their way in count as ended by the server.
    pub(crate) fn finish(self, generator: &mut Generator<'_>) {
        let Churn { own, under_way, later, refusal, .. } = self;
        let why = refusal.unwrap_or_else(|| "no answer".to_owned());
        let late = under_way.into_iter().map(|(index, _)| index).chain(later.into_iter().map(|(_, index, _)| index));
        for index in late {
            generator.count_ended(index, &format!("the server did not let a new subscriber in: {why}"));
        }
        generator.refused = None;
        generator.churned = own;
    }
}

/// The masking key of close frames.
const CLOSE_KEY: [u8; 4] = [0x11, 0x22, 0x33, 0x44];

/// The time after which a refused subscriber tries again.
const RETRY_NS: u64 = 100_000_000;
