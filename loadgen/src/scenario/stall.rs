//! A share of the subscribers stops reading, and the latency of the others is measured.

use super::{Run, open};
use crate::connection::State;
use crate::crew::Order;
use crate::error::Error;
use crate::generator::{Generator, is_in_share};
use crate::judge::histogram;
use crate::options::{Activity, Pace};
use crate::process::Memory;
use crate::progress::Progress;
use crate::publishing::Publishing;
use crate::report::Latency;
use crate::sampling::Sampler;
use crate::scenario_figures::ScenarioFigures;

pub(super) fn run(generator: &mut Generator<'_>, pace: Pace, progress: &mut dyn Progress) -> Result<Run, Error> {
    let opening = open(generator, progress)?;
    let mut sampler = Sampler::new();
    let subscribers = generator.plan.subscribers;
    let mut has_begun = false;
    let mut publishing = Publishing::new(generator, pace, subscribers);
    let middle_ns = publishing.window.start_ns + (publishing.window.end_ns - publishing.window.start_ns) / 2;
    let measured = publishing.run(&mut sampler, progress, &mut |generator, now_ns| {
        if !has_begun && now_ns >= middle_ns {
            has_begun = true;
            generator.crew.give(Order::Stall);
            generator.stop_reading();
        }
        Ok(())
    })?;
    generator.settle()?;
    Ok(Run::of(measured, sampler, opening))
}

/// Returns the figures of a stall, and joins the latencies before the stall and during it. `memory` is that of the
/// server at the end of the stall.
pub(crate) fn figures(generators: &mut [Generator<'_>], memory: Option<Memory>) -> Option<ScenarioFigures> {
    let Activity::Stall { share, .. } = generators.first()?.plan.activity else { return None };
    let (mut before, mut during, mut has_begun) = (histogram(), histogram(), false);
    for Generator { judge, .. } in &mut *generators {
        match judge.before.take() {
            Some(own) => {
                has_begun = true;
                during += &judge.latency;
                judge.latency += &own;
                before += own;
            }
            // The run ended before the stall.
            None => before += &judge.latency,
        }
    }
    let (mut stalled, mut ended, mut missed) = (0, 0, 0);
    for generator in generators.iter().filter(|_| has_begun) {
        for index in generator.stalling(share) {
            stalled += 1;
            ended += u64::from(generator.connections[index].socket.is_none());
            missed += missed_by(generator, index);
        }
    }
    let [before, during] = [before, during].map(|latency| Latency::from_histogram(&latency));
    Some(ScenarioFigures::Stall { stalled, ended, missed, before, during, memory })
}

/// Returns the deliveries that were lost or outstanding at a subscriber.
fn missed_by(generator: &Generator<'_>, index: usize) -> u64 {
    let State::Reading(reading) = &generator.connections[index].state else { return 0 };
    let checkers = reading.checkers.iter().enumerate();
    let missed = checkers.map(|(slot, checker)| {
        let stream = generator.plan.topics.stream_of_slot(reading.first_topic as usize, slot);
        let tally = checker.finish(generator.crew.pushed(stream));
        tally.lost + tally.outstanding
    });
    missed.sum()
}

impl Generator<'_> {
    /// Returns the connections of this thread's subscribers that belong to a share of all.
    pub(crate) fn stalling(&self, share: f64) -> impl Iterator<Item = usize> {
        let own = self.share;
        (0..self.first_subscribers).filter(move |&index| is_in_share(share, own.global(index)))
    }

    /// Begins a stall. The latencies from now on are those during the stall.
    pub(crate) fn stop_reading(&mut self) {
        let Activity::Stall { share, .. } = self.plan.activity else { return };
        self.judge.before = Some(std::mem::replace(&mut self.judge.latency, histogram()));
        self.stalled = Some(share);
        let stalled: Vec<usize> = self.stalling(share).collect();
        for index in stalled {
            if let State::Reading(reading) = &mut self.connections[index].state {
                reading.is_late = true;
            }
        }
    }

    /// Ends a stall, if there is one.
    pub(crate) fn read_again(&mut self) -> Result<(), Error> {
        let Some(share) = self.stalled.take() else { return Ok(()) };
        let stalled: Vec<usize> = self.stalling(share).collect();
        stalled.into_iter().try_for_each(|index| self.receive(index, true))
    }
}
