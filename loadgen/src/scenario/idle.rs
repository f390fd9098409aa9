//! Connections that are opened in steps and held.

use super::Run;
use crate::error::Error;
use crate::generator::Generator;
use crate::process::memory_of;
use crate::progress::Progress;
use crate::publishing::NAP_MAX;
use crate::report::Opening;
use crate::sampling::{Edge, Sampler};
use crate::scenario_figures::{MemoryStep, ScenarioFigures, slope};
use std::time::Duration;

pub(super) fn run(
    generator: &mut Generator<'_>,
    [hold_ns, settle_ns]: [u64; 2],
    steps: usize,
    progress: &mut dyn Progress,
) -> Result<Run, Error> {
    let plan = generator.plan;
    let (mut measured, mut opening_ns, mut is_interrupted) = (Vec::new(), 0, false);
    for step in 1..=steps {
        let begin_ns = generator.now_ns();
        let connections = plan.subscribers * step / steps;
        generator.open_all(connections, progress)?;
        opening_ns += generator.now_ns() - begin_ns;
        let mut sampler = Sampler::new();
        is_interrupted = hold(generator, settle_ns, &mut sampler, progress)?;
        if let Some(pid) = plan.server_pid
            && steps > 1
        {
            measured.push(MemoryStep { connections, memory: memory_of(pid) });
        }
        if is_interrupted {
            break;
        }
    }
    let opened = generator.opened + generator.crew.connections().0;
    let opening = Some(Opening::of(opened, opening_ns));
    let bytes_per_connection = slope(&measured);
    let has_figures = steps > 1 && (bytes_per_connection.is_some() || !is_interrupted);
    let figures = has_figures.then_some(ScenarioFigures::Idle { steps: measured, bytes_per_connection });
    if is_interrupted {
        // The connections were not held yet.
        return Ok(Run { is_interrupted, opened: Some(opened), opening, figures, ..Run::default() });
    }
    let mut sampler = Sampler::new();
    let start = Edge::now(generator)?;
    sampler.begin(generator, 0);
    let is_interrupted = hold(generator, hold_ns, &mut sampler, progress)?;
    let end = Edge::now(generator)?;
    sampler.sample(generator, 0, progress);
    Ok(Run {
        edges: Some([start, end]),
        is_interrupted,
        series: sampler.into_moments(),
        opening,
        figures,
        ..Run::default()
    })
}

/// Stays idle for a time, answering pings. Returns whether the user has ended the run.
pub(super) fn hold(
    generator: &mut Generator<'_>,
    hold_ns: u64,
    sampler: &mut Sampler,
    progress: &mut dyn Progress,
) -> Result<bool, Error> {
    let end_ns = generator.now_ns().saturating_add(hold_ns);
    loop {
        let now_ns = generator.now_ns();
        let is_interrupted = progress.is_interrupted();
        if now_ns >= end_ns || is_interrupted {
            return Ok(is_interrupted);
        }
        if sampler.is_due(now_ns) {
            sampler.sample(generator, 0, progress);
        }
        generator.poll(Duration::from_nanos(end_ns - now_ns).min(NAP_MAX))?;
    }
}
