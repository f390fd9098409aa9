//! Subscribers leave, and others join, while messages are published.

use super::{Run, open};
use crate::connection::State;
use crate::error::Error;
use crate::frame::{self, opcode};
use crate::generator::Generator;
use crate::judge::histogram;
use crate::options::Pace;
use crate::progress::Progress;
use crate::publishing::Publishing;
use crate::report::Latency;
use crate::sampling::Sampler;
use crate::scenario_figures::ScenarioFigures;
use hdrhistogram::Histogram;

/// The subscribers that come and go.
struct Churn {
    per_second: u64,
    begin_ns: u64,
    left: u64,
    joined: u64,
    refused: u64,
    /// The places of subscribers that are on their way in, and when they set out.
    under_way: Vec<(usize, u64)>,
    times: Histogram<u64>,
}

pub(super) fn run(
    generator: &mut Generator<'_>,
    pace: Pace,
    per_second: u64,
    progress: &mut dyn Progress,
) -> Result<Run, Error> {
    let opening = open(generator, progress)?;
    let begin_ns = generator.now_ns();
    let under_way = Vec::new();
    let mut churn = Churn { per_second, begin_ns, left: 0, joined: 0, refused: 0, under_way, times: histogram() };
    let mut sampler = Sampler::new();
    let subscribers = generator.plan.subscribers;
    generator.refused = Some(Vec::new());
    let measured =
        Publishing::new(generator, pace, subscribers)
            .run(&mut sampler, progress, &mut |generator, now_ns| churn.turn(generator, now_ns))?;
    generator.settle()?;
    churn.welcome(generator)?;
    generator.refused = None;
    let mut run = Run::of(measured, sampler, opening);
    let Churn { left, joined, refused, times, .. } = churn;
    run.figures = Some(ScenarioFigures::Churn { left, joined, refused, join: Latency::from_histogram(&times) });
    Ok(run)
}

impl Churn {
    fn turn(&mut self, generator: &mut Generator<'_>, now_ns: u64) -> Result<(), Error> {
        self.welcome(generator)?;
        let due = u128::from(now_ns - self.begin_ns) * u128::from(self.per_second) / 1_000_000_000;
        let subscribers = generator.first_subscribers;
        while u128::from(self.left) < due && self.under_way.len() < subscribers {
            let index = (self.left % subscribers as u64) as usize;
            if !generator.connections[index].is_open() || generator.connections[index].socket.is_none() {
                // The server has ended this one, or it is still on its way in; the next turn tries again.
                break;
            }
            self.replace(generator, index)?;
            self.left += 1;
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
        let socket = generator.socket(index)?;
        generator.replace(index, socket)?;
        self.under_way.push((index, since_ns));
        Ok(())
    }

    /// Counts the subscribers that have joined, and lets those that were refused try again.
    fn welcome(&mut self, generator: &mut Generator<'_>) -> Result<(), Error> {
        let now_ns = generator.now_ns();
        for (index, _) in generator.refused.as_mut().map(std::mem::take).unwrap_or_default() {
            self.refused += 1;
            let place = self.under_way.iter().position(|&(other, _)| other == index);
            let since_ns = place.map_or(now_ns, |place| self.under_way.swap_remove(place).1);
            self.set_out(generator, index, since_ns)?;
        }
        let (joined, times) = (&mut self.joined, &mut self.times);
        self.under_way.retain(|&(index, since_ns)| {
            let is_open = generator.connections[index].is_open();
            if is_open {
                *joined += 1;
                times.saturating_record(now_ns - since_ns);
            }
            !is_open
        });
        Ok(())
    }
}

/// The masking key of close frames.
const CLOSE_KEY: [u8; 4] = [0x11, 0x22, 0x33, 0x44];
