//! All connections are closed at once and come back at once.

use super::{Run, idle, open};
use crate::connection::State;
use crate::error::Error;
use crate::generator::Generator;
use crate::judge::histogram;
use crate::open::PROGRESS_DEADLINE_NS;
use crate::progress::Progress;
use crate::report::Latency;
use crate::sampling::{Edge, Sampler};
use crate::scenario_figures::{ScenarioFigures, StormRound};
use std::collections::VecDeque;
use std::time::Duration;

pub(super) fn run(
    generator: &mut Generator<'_>,
    hold_ns: u64,
    rounds: usize,
    at_once: usize,
    progress: &mut dyn Progress,
) -> Result<Run, Error> {
    let opening = open(generator, progress)?;
    let mut sampler = Sampler::new();
    sampler.begin(generator, 0)?;
    let start = Edge::now(generator, 0)?;
    let (mut idle_ns, mut is_interrupted, mut done) = (0, false, Vec::new());
    for _ in 0..rounds {
        let (idle_now_ns, is_ended) = idle::hold(generator, hold_ns, &mut sampler, progress)?;
        idle_ns += idle_now_ns;
        if is_ended {
            is_interrupted = true;
            break;
        }
        match round(generator, at_once, &mut sampler, progress)? {
            Some(round) => done.push(round),
            None => {
                is_interrupted = true;
                break;
            }
        }
    }
    let end = Edge::now(generator, idle_ns)?;
    sampler.sample(generator, 0, progress)?;
    Ok(Run {
        edges: Some([start, end]),
        is_interrupted,
        series: sampler.into_moments(),
        opening: Some(opening),
        figures: Some(ScenarioFigures::Storm { connections: generator.connections.len(), rounds: done }),
        ..Run::default()
    })
}

/// Closes all connections, and opens them again. A connection that is refused tries again a little later. Returns
/// `None` if the user ends the run before all are back.
fn round(
    generator: &mut Generator<'_>,
    at_once: usize,
    sampler: &mut Sampler,
    progress: &mut dyn Progress,
) -> Result<Option<StormRound>, Error> {
    let count = generator.connections.len();
    close_all(generator);
    let begin_ns = generator.now_ns();
    let (mut due, mut later) = ((0..count).collect::<VecDeque<usize>>(), VecDeque::new());
    let (mut under_way, mut refused, mut started) = (Vec::new(), 0, 0);
    let mut times = histogram();
    let mut last_back = (0, begin_ns);
    while times.len() < count as u64 {
        let now_ns = generator.now_ns();
        while later.front().is_some_and(|&(at_ns, _)| at_ns <= now_ns) {
            due.extend(later.pop_front().map(|(_, index): (u64, usize)| index));
        }
        while under_way.len() < at_once && started < generator.allowed(now_ns - begin_ns) {
            let Some(index) = due.pop_front() else { break };
            let socket = generator.socket(index)?;
            generator.replace(index, socket)?;
            under_way.push(index);
            started += 1;
        }
        generator.poll(Duration::from_millis(1))?;
        let now_ns = generator.now_ns();
        for (index, _) in generator.refused.as_mut().map(std::mem::take).unwrap_or_default() {
            under_way.retain(|&other| other != index);
            later.push_back((now_ns + RETRY_NS, index));
            refused += 1;
        }
        under_way.retain(|&index| {
            let is_open = generator.connections[index].is_open();
            if is_open {
                times.saturating_record(now_ns - begin_ns);
            }
            !is_open
        });
        if times.len() != last_back.0 {
            last_back = (times.len(), now_ns);
        } else if now_ns - last_back.1 > PROGRESS_DEADLINE_NS {
            return Err(Error::Connect(generator.stuck(count)));
        }
        if sampler.is_due(now_ns) {
            sampler.sample(generator, 0, progress)?;
        }
        if progress.is_interrupted() {
            return Ok(None);
        }
    }
    generator.refused = None;
    let seconds = (last_back.1 - begin_ns) as f64 / 1e9;
    let per_second = count as f64 / seconds.max(1e-9);
    Ok(Some(StormRound { seconds, per_second, refused, back: Latency::from_histogram(&times) }))
}

/// Closes all connections without a closing handshake, as a lost network does.
fn close_all(generator: &mut Generator<'_>) {
    for connection in &mut generator.connections {
        connection.socket = None;
        connection.state = State::Connecting;
    }
    generator.opened = 0;
    generator.refused = Some(Vec::new());
}

/// The time after which a refused connection tries again.
const RETRY_NS: u64 = 100_000_000;
