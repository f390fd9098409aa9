//! All connections are closed at once and come back at once.

use super::{Run, idle, open};
use crate::connection::{Connection, State};
use crate::crew::{Handed, Order};
use crate::error::Error;
use crate::generator::Generator;
use crate::judge::histogram;
use crate::progress::Progress;
use crate::report::Latency;
use crate::sampling::{Edge, Sampler, joined};
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
    sampler.begin(generator, 0);
    let (mut edges, mut is_interrupted, mut done) = (None, false, Vec::new());
    for _ in 0..rounds {
        is_interrupted = idle::hold(generator, hold_ns, &mut sampler, progress)?;
        if is_interrupted {
            break;
        }
        let start = Edge::now(generator)?;
        let Some(round) = round(generator, at_once, &mut sampler, progress)? else {
            is_interrupted = true;
            break;
        };
        done.push(round);
        edges = Some(joined(edges, &start, &Edge::now(generator)?));
        if round.missing > 0 {
            break;
        }
    }
    sampler.sample(generator, 0, progress);
    let connections = generator.plan.subscribers;
    Ok(Run {
        edges,
        is_interrupted,
        series: sampler.into_moments(),
        opening: Some(opening),
        figures: Some(ScenarioFigures::Storm { connections, rounds: done }),
        ..Run::default()
    })
}

/// Closes all connections of all threads, and opens them again. Returns `None` if the user ends the run before that.
fn round(
    generator: &mut Generator<'_>,
    at_once: usize,
    sampler: &mut Sampler,
    progress: &mut dyn Progress,
) -> Result<Option<StormRound>, Error> {
    let begin_ns = generator.now_ns();
    generator.crew.give(Order::Reopen { begin_ns });
    let mut watch = |generator: &mut Generator<'_>| {
        if sampler.is_due(generator.now_ns()) {
            sampler.sample(generator, 0, progress);
        }
        Ok(progress.is_interrupted())
    };
    let mut all = reopen(generator, begin_ns, at_once, &mut watch)?;
    let mut is_interrupted = false;
    let outcome = generator.await_followers(&mut |generator| {
        is_interrupted |= watch(generator)?;
        if is_interrupted { Err(Error::Interrupted { opened: 0, connections: 0 }) } else { Ok(()) }
    });
    if !is_interrupted {
        outcome?;
    }
    for back in generator.crew.take_handed() {
        all.latency += back.latency;
        all.refused += back.refused;
        all.last_ns = all.last_ns.max(back.last_ns);
        all.missing += back.missing;
    }
    let count = all.latency.len();
    if count + all.missing < generator.plan.subscribers as u64 {
        return Ok(None);
    }
    let seconds = (all.last_ns - begin_ns) as f64 / 1e9;
    let per_second = count as f64 / seconds.max(1e-9);
    let back = Latency::from_histogram(&all.latency);
    Ok(Some(StormRound { seconds, per_second, refused: all.refused, missing: all.missing, back }))
}

/// Closes all connections of this thread, and opens them again. A connection that is refused tries again a little
/// later. When none comes back for the plan's drain time, those that are not back count as ended by the server. It ends
/// early if `is_over` says so.
///
/// # Errors
/// The failure of a system call, and the errors of `is_over`.
pub(crate) fn reopen(
    generator: &mut Generator<'_>,
    begin_ns: u64,
    at_once: usize,
    is_over: &mut dyn FnMut(&mut Generator<'_>) -> Result<bool, Error>,
) -> Result<Handed, Error> {
    let count = generator.connections.len();
    // Each thread has its part of the handshakes under way.
    let at_once = at_once.div_ceil(generator.share.of);
    close_all(generator);
    let (mut due, mut later) = ((0..count).collect::<VecDeque<usize>>(), VecDeque::new());
    let (mut under_way, mut refused, mut started) = (Vec::new(), 0, 0);
    let (mut missing, mut refusal) = (0, None);
    let mut times = histogram();
    let mut last_back = (0, begin_ns);
    while times.len() < count as u64 && !is_over(generator)? {
        let now_ns = generator.now_ns();
        while later.front().is_some_and(|&(at_ns, _)| at_ns <= now_ns) {
            due.extend(later.pop_front().map(|(_, index): (u64, usize)| index));
        }
        while under_way.len() < at_once && started < generator.allowed(now_ns - begin_ns) {
            let Some(index) = due.pop_front() else { break };
            started += 1;
            match generator.socket(index) {
                Ok(socket) => {
                    generator.replace(index, socket)?;
                    under_way.push(index);
                }
                // The server may be starting anew, or the machine has no port left for a moment.
                Err(error) => {
                    later.push_back((now_ns + RETRY_NS, index));
                    refused += 1;
                    refusal = Some(error.to_string());
                }
            }
        }
        generator.poll(Duration::from_millis(1))?;
        let now_ns = generator.now_ns();
        for (index, why) in generator.refused.as_mut().map(std::mem::take).unwrap_or_default() {
            under_way.retain(|&other| other != index);
            later.push_back((now_ns + RETRY_NS, index));
            refused += 1;
            refusal = Some(why);
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
        } else if now_ns - last_back.1 > generator.plan.drain_ns {
            let why = refusal.unwrap_or_else(|| "no answer".to_owned());
            missing = give_up(generator, &why);
            break;
        }
    }
    generator.refused = None;
    Ok(Handed { refused, last_ns: last_back.1, missing, latency: times, ..Handed::new() })
}

/// Counts the connections that did not come back as ended, and closes them. Returns their number.
fn give_up(generator: &mut Generator<'_>, why: &str) -> u64 {
    let late = |connection: &Connection| !connection.is_open();
    let late: Vec<usize> = (0..generator.connections.len()).filter(|&at| late(&generator.connections[at])).collect();
    for &index in &late {
        generator.connections[index].socket = None;
        // What ends has opened before, in the numbers of connections.
        generator.opened += 1;
        generator.count_ended(index, &format!("it did not come back: {why}"));
    }
    late.len() as u64
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
