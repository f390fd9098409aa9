//! The figures that only one scenario has.

use crate::output::units;
use crate::process::Memory;
use crate::report::Latency;
use serde::{Deserialize, Serialize};

/// The figures of a scenario in addition to those of every run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ScenarioFigures {
    /// Every connection sent messages, and the server sent them back.
    Echo {
        /// Messages in flight on each connection.
        depth: u64,
        /// Round trips per second, over all connections.
        round_trips_per_second: f64,
    },
    /// Connections opened in steps and stayed open.
    Idle {
        /// The server's memory after each step; empty without `--server-pid`.
        steps: Vec<MemoryStep>,
        /// The slope of the anonymous memory over the steps, or of all resident memory if the kernel does not tell them
        /// apart.
        bytes_per_connection: Option<f64>,
    },
    /// All connections closed at once, and came back at once.
    Storm {
        /// Connections that came back in each round.
        connections: usize,
        /// The rounds in order.
        rounds: Vec<StormRound>,
    },
    /// Subscribers left, and others joined.
    Churn {
        /// Subscribers that left.
        left: u64,
        /// Subscribers that joined in their places.
        joined: u64,
        /// Attempts to join that the server refused; each was repeated.
        refused: u64,
        /// The time from a subscriber's first attempt to its subscription.
        join: Option<Latency>,
    },
    /// A share of the subscribers stopped reading. The counts of the report are those of the others.
    Stall {
        /// Subscribers that stopped.
        stalled: u64,
        /// Those of them whose connections the server ended.
        ended: u64,
        /// Deliveries that were lost or outstanding at these subscribers when the wait for them ended, after they read
        /// again.
        missed: u64,
        /// The latency of the others before the stall.
        before: Option<Latency>,
        /// The latency of the others during the stall.
        during: Option<Latency>,
        /// The server's memory at the end of the stall, before the stalled subscribers read again. `None` without
        /// `--server-pid`, or if the run ended before the stall.
        #[serde(default)]
        memory: Option<Memory>,
    },
    /// The load rose step by step.
    Ramp {
        /// What rose: messages per second, or subscribers.
        by: String,
        /// The bound of the 99th percentile, in nanoseconds.
        #[serde(default)]
        p99_bound_ns: Option<u64>,
        /// The steps in order.
        steps: Vec<RampStep>,
        /// The highest level whose latency was within the bound and whose deliveries were complete; `None` if there is
        /// none. If every step was so, the server's limit is above this level.
        knee: Option<u64>,
        /// Why no further step followed.
        #[serde(default)]
        end: Option<String>,
    },
    /// Recorded messages were published at their times.
    Replay {
        /// The messages of the file.
        messages: u64,
        /// The time from the first to the last one.
        seconds: f64,
    },
}

/// The memory of a server with a number of idle connections.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct MemoryStep {
    /// Open connections.
    pub connections: usize,
    /// The server's memory.
    pub memory: Memory,
}

/// A round of a storm.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct StormRound {
    /// The time until the last of the connections that came back.
    pub seconds: f64,
    /// Handshakes per second.
    pub per_second: f64,
    /// Attempts that failed; each was repeated.
    pub refused: u64,
    /// Connections that did not come back. The round is then the last one.
    #[serde(default)]
    pub missing: u64,
    /// The time until each connection was back.
    pub back: Option<Latency>,
}

/// A step of a ramp.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct RampStep {
    /// Messages per second, or subscribers.
    pub level: u64,
    /// Deliveries per second.
    pub deliveries_per_second: f64,
    /// Deliveries that were lost or outstanding when the wait for them ended.
    pub missing: u64,
    /// Messages that were due, and that the server did not take.
    #[serde(default)]
    pub unpublished: u64,
    /// Connections that ended in this step.
    #[serde(default)]
    pub disconnected: u64,
    /// The latency.
    pub latency: Option<Latency>,
    /// Whether the latency was within the bound and everything arrived.
    pub is_kept: bool,
}

impl ScenarioFigures {
    /// Returns the figures that assertions may name, that comparisons show, and that a page shows as large numbers.
    /// Those that were not measured are left out. Times are in nanoseconds, memory is in bytes.
    pub(crate) fn named(&self) -> Vec<(&'static str, f64)> {
        let p99 = |latency: &Option<Latency>| latency.map(|latency| latency.p99_ns as f64);
        let named: Vec<(&'static str, Option<f64>)> = match self {
            ScenarioFigures::Echo { round_trips_per_second, .. } => {
                vec![("round_trips_per_second", Some(*round_trips_per_second))]
            }
            ScenarioFigures::Idle { bytes_per_connection, .. } => {
                vec![("bytes_per_connection", *bytes_per_connection)]
            }
            ScenarioFigures::Storm { rounds, .. } => {
                // The worst round decides.
                let of = |value: fn(&StormRound) -> f64| rounds.iter().map(value);
                let is_back = rounds.iter().all(|round| round.missing == 0);
                let slowest = of(|round| round.seconds * 1e9).reduce(f64::max).filter(|_| is_back);
                vec![
                    ("back", slowest),
                    ("handshakes_per_second", of(|round| round.per_second).reduce(f64::min)),
                    ("refused", of(|round| round.refused as f64).reduce(|sum, own| sum + own)),
                ]
            }
            ScenarioFigures::Churn { refused, join, .. } => vec![
                ("join_p50", join.map(|join| join.p50_ns as f64)),
                ("join_p99", p99(join)),
                ("refused", Some(*refused as f64)),
            ],
            ScenarioFigures::Stall { ended, missed, before, during, memory, .. } => vec![
                ("p99_before", p99(before)),
                ("p99_during", p99(during)),
                ("stalled_ended", Some(*ended as f64)),
                ("stalled_missed", Some(*missed as f64)),
                ("stalled_rss", memory.and_then(|memory| memory.rss).map(|bytes| bytes as f64)),
            ],
            ScenarioFigures::Ramp { steps, knee, .. } => {
                let at_knee = steps.iter().find(|step| Some(step.level) == *knee);
                vec![
                    ("knee", knee.map(|level| level as f64)),
                    ("p99_at_knee", at_knee.and_then(|step| p99(&step.latency))),
                ]
            }
            ScenarioFigures::Replay { .. } => Vec::new(),
        };
        named.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    /// Returns the figures as a table for people: the name of each, and its value with its unit.
    pub fn rows(&self) -> Vec<(String, String)> {
        let row = |name: &str, value: String| (name.to_owned(), value);
        match self {
            ScenarioFigures::Echo { depth, round_trips_per_second } => vec![
                row("round trips", format!("{round_trips_per_second:.0}/s")),
                row("in flight", format!("{depth} on each connection")),
            ],
            ScenarioFigures::Idle { steps, bytes_per_connection } => {
                let mut rows: Vec<_> = steps.iter().map(MemoryStep::row).collect();
                if let Some(bytes) = bytes_per_connection {
                    rows.push(row("memory", format!("{bytes:.0} B for each connection (slope after the first step)")));
                }
                rows
            }
            ScenarioFigures::Storm { connections, rounds } => {
                let mut rows = vec![row("connections", connections.to_string())];
                rows.extend(rounds.iter().enumerate().map(|(place, round)| {
                    let StormRound { seconds, per_second, refused, missing, .. } = round;
                    let back = match missing {
                        0 => "all".to_owned(),
                        missing => format!("{} of {connections}", *connections as u64 - missing),
                    };
                    let text =
                        format!("{back} back after {seconds:.3} s, {per_second:.0} handshakes/s, {refused} refused");
                    row(&format!("round {}", place + 1), text)
                }));
                rows
            }
            ScenarioFigures::Churn { left, joined, refused, join } => vec![
                row("left", left.to_string()),
                row("joined", format!("{joined}, after {refused} refusals")),
                row("time to join", shown(join.as_ref())),
            ],
            ScenarioFigures::Stall { stalled, ended, missed, before, during, memory } => {
                let mut rows = vec![
                    row("stalled", format!("{stalled} subscribers, {ended} of them disconnected")),
                    row("they missed", format!("{missed} deliveries, lost or outstanding")),
                    row("before stall", format!("others: {}", shown(before.as_ref()))),
                    row("during stall", format!("others: {}", shown(during.as_ref()))),
                ];
                let memory = memory.iter().map(|memory| format!("of the server at the end of the stall: {memory}"));
                rows.extend(memory.map(|text| row("memory", text)));
                rows
            }
            ScenarioFigures::Ramp { by, p99_bound_ns, steps, knee, end } => {
                let bound = p99_bound_ns.map(|ns| row("bound", format!("p99 of {}", units::time(ns as f64))));
                let steps_rows = steps.iter().map(|step| step.row(by));
                let mut rows: Vec<_> = bound.into_iter().chain(steps_rows).collect();
                let knee = match (knee, steps.last()) {
                    (None, _) => "below the first step".to_owned(),
                    (Some(level), Some(last)) if last.is_kept => {
                        format!("at least {level} {by}: no step exceeded the bound")
                    }
                    (Some(level), _) => format!("{level} {by}"),
                };
                rows.push(row("knee", knee));
                rows.extend(end.iter().map(|end| row("end", end.clone())));
                rows
            }
            ScenarioFigures::Replay { messages, seconds } => {
                vec![row("recorded", format!("{messages} messages in {seconds:.3} s"))]
            }
        }
    }
}

impl MemoryStep {
    fn row(&self) -> (String, String) {
        (format!("{} connections", self.connections), self.memory.to_string())
    }
}

impl RampStep {
    fn row(&self, by: &str) -> (String, String) {
        let RampStep { level, deliveries_per_second, missing, unpublished, disconnected, .. } = self;
        let mut wrong = if *missing == 0 { String::new() } else { format!(", {missing} lost or outstanding") };
        if *unpublished > 0 {
            wrong += &format!(", {unpublished} not published");
        }
        if *disconnected > 0 {
            wrong += &format!(", {disconnected} connections ended");
        }
        let judged = match (self.is_kept, wrong.is_empty()) {
            (true, _) => "within the bound",
            (false, true) => "over the bound",
            (false, false) => "incomplete",
        };
        let latency = shown(self.latency.as_ref());
        (format!("{level} {by}"), format!("{deliveries_per_second:.0} deliveries/s, {latency}{wrong}: {judged}"))
    }
}

/// Returns the slope of the memory over the connections, by least squares; `None` for less than two steps.
pub(crate) fn slope(steps: &[MemoryStep]) -> Option<f64> {
    let bytes = |memory: &Memory| memory.rss_anon.or(memory.rss).map(|bytes| bytes as f64);
    let points: Vec<(f64, f64)> =
        steps.iter().filter_map(|step| Some((step.connections as f64, bytes(&step.memory)?))).collect();
    let count = points.len() as f64;
    let mean_x = points.iter().map(|point| point.0).sum::<f64>() / count;
    let mean_y = points.iter().map(|point| point.1).sum::<f64>() / count;
    let spread: f64 = points.iter().map(|point| (point.0 - mean_x).powi(2)).sum();
    let common: f64 = points.iter().map(|point| (point.0 - mean_x) * (point.1 - mean_y)).sum();
    (points.len() > 1 && spread > 0.0).then(|| common / spread)
}

fn shown(latency: Option<&Latency>) -> String {
    latency.map_or_else(
        || "no latency".to_owned(),
        |latency| format!("p50 {}, p99 {}", units::time(latency.p50_ns as f64), units::time(latency.p99_ns as f64)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_knee_is_a_limit_only_if_a_step_exceeded_the_bound() {
        let step = |level, is_kept| RampStep {
            level,
            deliveries_per_second: 1.0,
            missing: 0,
            unpublished: 0,
            disconnected: 0,
            latency: None,
            is_kept,
        };
        let knee = |steps: &[RampStep], knee| {
            let (by, steps) = ("messages/s".to_owned(), steps.to_vec());
            let figures = ScenarioFigures::Ramp { by, p99_bound_ns: Some(10_000_000), steps, knee, end: None };
            assert_eq!(figures.rows()[0], ("bound".to_owned(), "p99 of 10 ms".to_owned()));
            figures.rows().into_iter().find(|(name, _)| name == "knee").unwrap().1
        };
        let over = knee(&[step(100, true), step(200, false)], Some(100));
        assert_eq!(over, "100 messages/s");
        let within = knee(&[step(100, true), step(200, true)], Some(200));
        assert_eq!(within, "at least 200 messages/s: no step exceeded the bound");
        assert_eq!(knee(&[step(100, false)], None), "below the first step");
    }

    #[test]
    fn memory_rises_by_the_slope() {
        let step = |connections, bytes| MemoryStep {
            connections,
            memory: Memory { rss_anon: Some(bytes), ..Memory::default() },
        };
        assert_eq!(slope(&[step(100, 11_000), step(200, 21_000), step(300, 31_000)]), Some(100.0));
        assert_eq!(slope(&[step(100, 11_000)]), None);
        assert_eq!(slope(&[step(100, 11_000), step(100, 12_000)]), None);
    }
}
