//! The scenarios: each opens its connections, does what its name says, and returns what was measured.

pub(crate) mod churn;
mod idle;
mod ramp;
pub(crate) mod stall;
pub(crate) mod storm;

use crate::crew::Order;
use crate::disturbance::Disturbance;
use crate::error::Error;
use crate::generator::Generator;
use crate::moment::Moment;
use crate::options::{Activity, Load, Pace, Span};
use crate::process::Memory;
use crate::progress::Progress;
use crate::publishing::{Measured, Publishing};
use crate::report::Opening;
use crate::sampling::{Edge, Sampler};
use crate::scenario_figures::ScenarioFigures;

/// The result of a run, after everything has stopped.
#[derive(Default)]
pub(crate) struct Run {
    /// The edges of the window; `None` if the run ended before its window began.
    pub(crate) edges: Option<[Edge; 2]>,
    /// The messages of each stream that were written.
    pub(crate) written: Vec<u64>,
    /// Messages that were due and that the server did not take.
    pub(crate) unpublished: u64,
    /// Why parts of the run cannot be trusted, if they were judged apart.
    pub(crate) disturbed: Vec<Disturbance>,
    /// Whether the user ended the run early.
    pub(crate) is_interrupted: bool,
    /// Connections that the run has opened, if the user ended it before all were open.
    pub(crate) opened: Option<usize>,
    /// Why the window ended early, if nobody ended it.
    pub(crate) early_end: Option<String>,
    /// In a stall, the server's memory before the stalled subscribers read again.
    pub(crate) memory_in_stall: Option<Memory>,
    pub(crate) series: Vec<Moment>,
    pub(crate) opening: Option<Opening>,
    pub(crate) figures: Option<ScenarioFigures>,
}

impl Run {
    fn of(measured: Measured, sampler: Sampler, opening: Opening) -> Run {
        let Measured { edges, written, unpublished, is_interrupted, early_end, memory_in_stall } = measured;
        let (series, opening) = (sampler.into_moments(), Some(opening));
        Run {
            edges,
            written,
            unpublished,
            is_interrupted,
            early_end,
            memory_in_stall,
            series,
            opening,
            ..Run::default()
        }
    }
}

/// Carries out the plan's scenario.
///
/// # Errors
/// An error is returned if the run could not take place.
pub(crate) fn carry_out(generator: &mut Generator<'_>, progress: &mut dyn Progress) -> Result<Run, Error> {
    let plan = generator.plan;
    match &plan.activity {
        &Activity::Hold { hold_ns, steps, settle_ns } => idle::run(generator, [hold_ns, settle_ns], steps, progress),
        &Activity::Publish(pace) => fanout(generator, pace, progress),
        &Activity::Echo(pace) => echo(generator, pace, progress),
        &Activity::Storm { hold_ns, rounds, at_once } => storm::run(generator, hold_ns, rounds, at_once, progress),
        &Activity::Churn { pace, .. } => churn::run(generator, pace, progress),
        &Activity::Stall { pace, .. } => stall::run(generator, pace, progress),
        Activity::Ramp { .. } => ramp::run(generator, progress),
        Activity::Replay { messages } => {
            let span = Span::Messages(messages.len() as u64);
            let mut run = fanout(generator, Pace { load: Load::Unthrottled, span, warmup_ns: 0 }, progress)?;
            let seconds = messages.last().map_or(0.0, |last| last.at_ns as f64 / 1e9);
            run.figures = Some(ScenarioFigures::Replay { messages: messages.len() as u64, seconds });
            Ok(run)
        }
    }
}

fn fanout(generator: &mut Generator<'_>, pace: Pace, progress: &mut dyn Progress) -> Result<Run, Error> {
    let opening = open(generator, progress)?;
    let mut sampler = Sampler::new();
    let subscribers = generator.plan.subscribers;
    if let Activity::Echo(_) = generator.plan.activity {
        generator.crew.give(Order::Echo);
    }
    let measured = Publishing::new(generator, pace, subscribers).run(&mut sampler, progress, &mut |_, _| Ok(()))?;
    generator.settle()?;
    Ok(Run::of(measured, sampler, opening))
}

fn echo(generator: &mut Generator<'_>, pace: Pace, progress: &mut dyn Progress) -> Result<Run, Error> {
    let mut run = fanout(generator, pace, progress)?;
    let Load::InFlight(depth) = pace.load else { return Ok(run) };
    let round_trips_per_second = run.edges.as_ref().map_or(0.0, |[start, end]| {
        let messages = generator.deliveries(&end.received) - generator.deliveries(&start.received);
        messages as f64 / ((end.time_ns - start.time_ns).max(1) as f64 / 1e9)
    });
    run.figures = Some(ScenarioFigures::Echo { depth, round_trips_per_second });
    Ok(run)
}

/// Opens all connections of the plan.
fn open(generator: &mut Generator<'_>, progress: &mut dyn Progress) -> Result<Opening, Error> {
    let begin_ns = generator.now_ns();
    generator.open_all(generator.plan.subscribers, progress)?;
    let opened = generator.opened + generator.crew.connections().0;
    Ok(Opening::of(opened, generator.now_ns() - begin_ns))
}
