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
    let (mut measured, mut opening_ns) = (Vec::new(), 0);
    for step in 1..=steps {
        let begin_ns = generator.now_ns();
        let connections = plan.subscribers * step / steps;
        generator.open_all(connections, progress)?;
        opening_ns += generator.now_ns() - begin_ns;
        let mut sampler = Sampler::new();
        hold(generator, settle_ns, &mut sampler, progress)?;
        if let Some(pid) = plan.server_pid
            && steps > 1
        {
            measured.push(MemoryStep { connections, memory: memory_of(pid) });
        }
    }
    let mut sampler = Sampler::new();
    let start = Edge::now(generator, 0)?;
    sampler.begin(generator, 0)?;
    let (idle_ns, is_interrupted) = hold(generator, hold_ns, &mut sampler, progress)?;
    let end = Edge::now(generator, idle_ns)?;
    sampler.sample(generator, 0, progress)?;
    let bytes_per_connection = slope(&measured);
    Ok(Run {
        edges: Some([start, end]),
        is_interrupted,
        series: sampler.into_moments(),
        opening: Some(Opening::of(plan.subscribers, opening_ns)),
        figures: (steps > 1).then_some(ScenarioFigures::Idle { steps: measured, bytes_per_connection }),
        ..Run::default()
    })
}

/// Stays idle for a time, answering pings. Returns the time for which there was nothing to do, and whether the user has
/// ended the run.
pub(super) fn hold(
    generator: &mut Generator<'_>,
    hold_ns: u64,
    sampler: &mut Sampler,
    progress: &mut dyn Progress,
) -> Result<(u64, bool), Error> {
    let end_ns = generator.now_ns().saturating_add(hold_ns);
    let mut idle_ns = 0;
    loop {
        let now_ns = generator.now_ns();
        let is_interrupted = progress.is_interrupted();
        if now_ns >= end_ns || is_interrupted {
            return Ok((idle_ns, is_interrupted));
        }
        if sampler.is_due(now_ns) {
            sampler.sample(generator, 0, progress)?;
        }
        generator.poll(Duration::from_nanos(end_ns - now_ns).min(NAP_MAX))?;
        idle_ns += generator.now_ns() - now_ns;
    }
}
