//! A share of the subscribers stops reading; what the others notice of it.

use super::{Run, open};
use crate::connection::State;
use crate::error::Error;
use crate::generator::{Generator, is_in_share};
use crate::judge::histogram;
use crate::options::Pace;
use crate::progress::Progress;
use crate::publishing::Publishing;
use crate::report::Latency;
use crate::sampling::Sampler;
use crate::scenario_figures::ScenarioFigures;

pub(super) fn run(
    generator: &mut Generator<'_>,
    pace: Pace,
    share: f64,
    progress: &mut dyn Progress,
) -> Result<Run, Error> {
    let opening = open(generator, progress)?;
    let mut sampler = Sampler::new();
    let subscribers = generator.plan.subscribers;
    let mut before = None;
    let mut publishing = Publishing::new(generator, pace, subscribers);
    let middle_ns = publishing.window.start_ns + (publishing.window.end_ns - publishing.window.start_ns) / 2;
    let measured = publishing.run(&mut sampler, progress, &mut |generator, now_ns| {
        if before.is_none() && now_ns >= middle_ns {
            before = Some(std::mem::replace(&mut generator.judge.latency, histogram()));
            generator.stalled = Some(share);
        }
        Ok(())
    })?;
    generator.settle()?;
    let during = Latency::from_histogram(&generator.judge.latency);
    let (stalled, ended) = (0..subscribers).filter(|&number| is_in_share(share, number)).fold((0, 0), |sum, index| {
        let is_ended = generator.connections[index].socket.is_none();
        (sum.0 + 1, sum.1 + u64::from(is_ended))
    });
    let before_latency = before.as_ref().and_then(Latency::from_histogram);
    if let Some(before) = before {
        generator.judge.latency += before;
    }
    let missed = missed(generator, share);
    let mut run = Run::of(measured, sampler, opening);
    run.figures = Some(ScenarioFigures::Stall { stalled, ended, missed, before: before_latency, during });
    Ok(run)
}

/// Returns the deliveries that the stalled subscribers never got.
fn missed(generator: &Generator<'_>, share: f64) -> u64 {
    let stalled = (0..generator.first_subscribers).filter(|&index| is_in_share(share, index));
    let missed = stalled.map(|index| {
        let State::Reading(reading) = &generator.connections[index].state else { return 0 };
        let checkers = reading.checkers.iter().enumerate();
        let tallies = checkers.map(|(slot, checker)| {
            let stream = generator.plan.topics.stream_of_slot(reading.first_topic as usize, slot);
            let tally = checker.finish(generator.pushed.get(stream).copied().unwrap_or_default());
            tally.lost + tally.outstanding
        });
        tallies.sum()
    });
    missed.sum()
}

impl Generator<'_> {
    /// Ends a stall: what the stalled subscribers read now is late by their own fault, so it is not measured.
    pub(crate) fn end_stall(&mut self) -> Result<(), Error> {
        if self.stalled.is_none() {
            return Ok(());
        }
        let nowhere = crate::window::Window { start_ns: u64::MAX, end_ns: u64::MAX };
        self.judge.clocks.set_window(nowhere);
        let stalled: Vec<usize> = (0..self.connections.len()).filter(|&index| self.is_stalled(index)).collect();
        self.stalled = None;
        stalled.into_iter().try_for_each(|index| self.receive(index, true))
    }
}
