//! The rate, or the number of subscribers, rises until the latency exceeds a bound.

use super::{Run, open};
use crate::crew::{Handed, Order};
use crate::disturbance::{Disturbance, disturbances};
use crate::error::Error;
use crate::generator::Generator;
use crate::judge::histogram;
use crate::options::{Activity, Load, Pace, RampBy};
use crate::progress::Progress;
use crate::publishing::{Measured, Publishing};
use crate::report::Latency;
use crate::sampling::{Edge, Sampler, joined};
use crate::scenario_figures::{RampStep, ScenarioFigures};

pub(super) fn run(generator: &mut Generator<'_>, progress: &mut dyn Progress) -> Result<Run, Error> {
    let plan = generator.plan;
    let &Activity::Ramp { pace, by, factor, steps, p99_ns } = &plan.activity else {
        unreachable!("a ramp has a plan of a ramp")
    };
    let Load::Rate(rate) = pace.load else { unreachable!("a ramp has a rate") };
    let opening = open(generator, progress)?;
    let mut all = Handed::new();
    let (mut done, mut edges, mut knee) = (Vec::new(), None::<[Edge; 2]>, None);
    let (mut sampler, mut disturbed) = (Sampler::new(), Vec::new());
    let (mut rate, mut subscribers) = (rate, plan.subscribers);
    let mut ended = 0;
    let (measured, end) = loop {
        let step_pace = Pace { load: Load::Rate(rate), ..pace };
        let mut publishing = Publishing::new(generator, step_pace, subscribers);
        let measured = publishing.run(&mut sampler, progress, &mut |_, _| Ok(()))?;
        let missing = publishing.missing();
        let unpublished = measured.unpublished + publishing.unwritten();
        let level = if by == RampBy::Rate { rate } else { subscribers as u64 };
        let latency = take_latency(generator, &mut all)?;
        let mut step = step(generator, &measured, level, latency, p99_ns);
        (step.missing, step.unpublished) = (missing, unpublished);
        step.disconnected = generator.disconnected + generator.crew.connections().1 - ended;
        ended += step.disconnected;
        step.is_kept &= missing == 0 && unpublished == 0 && step.disconnected == 0 && !measured.is_interrupted;
        if let Some([start, end]) = &measured.edges {
            edges = Some(joined(edges, start, end));
            if let Some(Disturbance { cause, text }) =
                disturbances(plan, &[start.clone(), end.clone()]).into_iter().next()
            {
                disturbed.push(Disturbance { cause, text: format!("the step of {level}: {text}") });
            }
        }
        done.push(step);
        if step.is_kept {
            knee = Some(level);
        }
        if let Some(end) = ending(&step, &measured, done.len() == steps) {
            break (measured, end);
        }
        match by {
            RampBy::Rate => rate = raised(rate, factor),
            RampBy::Connections => {
                subscribers = raised(subscribers as u64, factor) as usize;
                match generator.open_more(subscribers, progress) {
                    Ok(None) => {}
                    Ok(Some(why)) => break (measured, format!("{subscribers} subscribers could not be opened: {why}")),
                    Err(Error::Interrupted { .. }) => {
                        break (Measured { is_interrupted: true, ..measured }, INTERRUPTED.to_owned());
                    }
                    Err(error) => return Err(error),
                }
            }
        }
    };
    generator.settle()?;
    (generator.judge.latency, generator.judge.uncorrected) = (all.latency, all.uncorrected);
    let by = if by == RampBy::Rate { "messages/s" } else { "subscribers" }.to_owned();
    Ok(Run {
        edges,
        written: measured.written,
        disturbed,
        is_interrupted: measured.is_interrupted,
        series: sampler.into_moments(),
        opening: Some(opening),
        figures: Some(ScenarioFigures::Ramp { by, p99_bound_ns: Some(p99_ns), steps: done, knee, end: Some(end) }),
        ..Run::default()
    })
}

/// Returns the reason for which a step is the last one.
fn ending(step: &RampStep, measured: &Measured, is_last: bool) -> Option<String> {
    let why = match step {
        _ if measured.is_interrupted => INTERRUPTED,
        RampStep { disconnected: ended @ 1.., .. } => {
            return Some(format!("{ended} connections ended in the last step"));
        }
        RampStep { missing: 1.., .. } => "deliveries were lost or outstanding",
        RampStep { unpublished: 1.., .. } => "the server did not take all messages",
        RampStep { latency: None, .. } => "no latency was measured",
        RampStep { is_kept: false, .. } => "p99 exceeded the bound",
        _ if is_last => "all steps were done",
        _ => return None,
    };
    Some(why.to_owned())
}

/// Takes the latencies of a step from all threads, and adds them to those of all steps.
fn take_latency(generator: &mut Generator<'_>, all: &mut Handed) -> Result<Option<Latency>, Error> {
    generator.crew.give(Order::HandOver);
    generator.await_followers(&mut |_| Ok(()))?;
    let mut latency = std::mem::replace(&mut generator.judge.latency, histogram());
    all.uncorrected += std::mem::replace(&mut generator.judge.uncorrected, histogram());
    for handed in generator.crew.take_handed() {
        latency += handed.latency;
        all.uncorrected += handed.uncorrected;
    }
    let found = Latency::from_histogram(&latency);
    all.latency += latency;
    Ok(found)
}

/// Judges a step.
fn step(generator: &Generator<'_>, measured: &Measured, level: u64, latency: Option<Latency>, p99_ns: u64) -> RampStep {
    let deliveries_per_second = measured.edges.as_ref().map_or(0.0, |[start, end]| {
        let deliveries = generator.deliveries(&end.received) - generator.deliveries(&start.received);
        deliveries as f64 / ((end.time_ns - start.time_ns).max(1) as f64 / 1e9)
    });
    let is_kept = latency.is_some_and(|latency| latency.p99_ns <= p99_ns);
    RampStep { level, deliveries_per_second, missing: 0, unpublished: 0, disconnected: 0, latency, is_kept }
}

/// Returns the next level, which is higher in any case.
fn raised(level: u64, factor: f64) -> u64 {
    ((level as f64 * factor) as u64).max(level.saturating_add(1))
}

const INTERRUPTED: &str = "the user ended it";
