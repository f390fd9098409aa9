//! The rate, or the number of subscribers, rises until the latency passes a bound.

use super::Run;
use crate::error::Error;
use crate::generator::Generator;
use crate::judge::histogram;
use crate::options::{Activity, Load, Pace, RampBy};
use crate::progress::Progress;
use crate::publishing::{Measured, Publishing};
use crate::report::{Latency, Opening};
use crate::sampling::{Edge, Sampler};
use crate::scenario_figures::{RampStep, ScenarioFigures};

pub(super) fn run(generator: &mut Generator<'_>, progress: &mut dyn Progress) -> Result<Run, Error> {
    let plan = generator.plan;
    let &Activity::Ramp { pace, by, factor, steps, p99_ns } = &plan.activity else {
        unreachable!("a ramp has a plan of a ramp")
    };
    let Load::Rate(rate) = pace.load else { unreachable!("a ramp has a rate") };
    let begin_ns = generator.now_ns();
    generator.open_all(plan.subscribers, progress)?;
    let opening = Opening::of(generator.opened, generator.now_ns() - begin_ns);
    let (mut all, mut uncorrected) = (histogram(), histogram());
    let (mut done, mut edges, mut knee) = (Vec::new(), None::<[Edge; 2]>, None);
    let mut sampler = Sampler::new();
    let (mut rate, mut subscribers) = (rate, plan.subscribers);
    let (written, is_interrupted) = loop {
        let step_pace = Pace { load: Load::Rate(rate), ..pace };
        let mut publishing = Publishing::new(generator, step_pace, subscribers);
        let measured = publishing.run(&mut sampler, progress, &mut |_, _| Ok(()))?;
        let missing = publishing.missing();
        let level = if by == RampBy::Rate { rate } else { subscribers as u64 };
        let step = step(generator, &measured, level, missing, p99_ns);
        all += std::mem::replace(&mut generator.judge.latency, histogram());
        uncorrected += std::mem::replace(&mut generator.judge.uncorrected, histogram());
        if let Some([start, end]) = measured.edges {
            edges = Some([edges.map_or(start, |[first, _]| first), end]);
        }
        done.push(step);
        if step.is_kept {
            knee = Some(level);
        }
        if !step.is_kept || measured.is_interrupted || done.len() == steps {
            break (measured.written, measured.is_interrupted);
        }
        match by {
            RampBy::Rate => rate = raised(rate, factor),
            RampBy::Connections => {
                subscribers = raised(subscribers as u64, factor) as usize;
                let total = subscribers + generator.own_publishers();
                generator.open_to(total, &mut |generator| match progress.is_interrupted() {
                    true => Err(Error::Interrupted { opened: generator.opened, connections: total }),
                    false => Ok(()),
                })?;
            }
        }
    };
    generator.settle()?;
    (generator.judge.latency, generator.judge.uncorrected) = (all, uncorrected);
    let by = if by == RampBy::Rate { "messages/s" } else { "subscribers" }.to_owned();
    Ok(Run {
        edges,
        written,
        is_interrupted,
        series: sampler.into_moments(),
        opening: Some(opening),
        figures: Some(ScenarioFigures::Ramp { by, steps: done, knee }),
    })
}

/// Judges a step.
fn step(generator: &Generator<'_>, measured: &Measured, level: u64, missing: u64, p99_ns: u64) -> RampStep {
    let latency = Latency::from_histogram(&generator.judge.latency);
    let deliveries_per_second = measured.edges.as_ref().map_or(0.0, |[start, end]| {
        let deliveries = generator.deliveries(&end.received) - generator.deliveries(&start.received);
        deliveries as f64 / ((end.time_ns - start.time_ns).max(1) as f64 / 1e9)
    });
    let is_kept = missing == 0 && latency.is_some_and(|latency| latency.p99_ns <= p99_ns);
    RampStep { level, deliveries_per_second, missing, latency, is_kept }
}

/// Returns the next level, which is higher in any case.
fn raised(level: u64, factor: f64) -> u64 {
    ((level as f64 * factor) as u64).max(level + 1)
}
