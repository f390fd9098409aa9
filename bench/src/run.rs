//! One run: a server is started, loaded, and ended. Its figures say nothing if the run was not exact, or if other
//! programs disturbed it.

use crate::distance::{Placement, hop_ns};
use crate::load::{self, Driven};
use crate::metric::{Metric, Values};
use crate::peers::{LOAD_CPU, Peer, Running, SERVER_CPU};
use crate::post;
use crate::scenario::{Load, Scenario, Topics};
use crate::tools::Tools;
use ringhub_loadgen::Report;
use serde::{Deserialize, Serialize};

/// What a run is about.
#[derive(Clone, Copy)]
pub(crate) struct Order<'a> {
    pub(crate) round: usize,
    pub(crate) scenario: &'a Scenario,
    pub(crate) server: Peer,
    /// The messages per second of a load that depends on what servers can handle.
    pub(crate) rate: Option<u64>,
    /// Length of the measured window.
    pub(crate) seconds: u64,
    /// CPUs that may be busy with other programs.
    pub(crate) others_max: f64,
}

/// One server in one scenario in one round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) round: usize,
    pub(crate) scenario: String,
    pub(crate) server: String,
    #[serde(default)]
    pub(crate) rate: Option<u64>,
    pub(crate) server_command: String,
    pub(crate) load_command: String,
    /// The reason why the run was not exact, if so.
    pub(crate) failure: Option<String>,
    /// Whether other programs used the machine meanwhile. Such a run must still be exact, but its figures do not count.
    pub(crate) disturbed: bool,
    /// By what the run was disturbed; records from before the field existed lack it.
    #[serde(default)]
    pub(crate) disturbance: Option<String>,
    /// Whether the generator had no time to spare, so that the server could have done more.
    #[serde(default)]
    pub(crate) is_limited: bool,
    /// The time of a hop from CPU to CPU, before and after the run.
    pub(crate) hops_ns: [f64; 2],
    pub(crate) placement: Placement,
    pub(crate) values: Values,
    /// What another program says of its rounds, if it ran them and the values are its medians.
    #[serde(default)]
    pub(crate) elsewhere: Option<Elsewhere>,
    /// The report of the generator. Nothing reads it from a record but people.
    #[serde(skip_deserializing)]
    pub(crate) report: Option<Report>,
    /// The figures of HTTP requests, if these were the load.
    #[serde(skip_deserializing)]
    pub(crate) requests: Option<post::Figures>,
}

/// The rounds of another program, which compared the hub with a server.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Elsewhere {
    pub(crate) rounds: usize,
    /// The least and the greatest ratio of the hub to the server in one round.
    pub(crate) spread: [f64; 2],
}

impl Run {
    /// Returns whether the run's figures may be compared with those of other runs in the same placement.
    pub(crate) fn counts(&self) -> bool {
        self.failure.is_none() && !self.disturbed
    }

    /// Returns a line for people.
    pub(crate) fn line(&self) -> String {
        let outcome = match &self.failure {
            Some(failure) => format!("FAILED: {failure}"),
            None => {
                let shown = Metric::SHOWN.iter().filter_map(|metric| Some((metric, self.values.get(metric)?)));
                shown
                    .map(|(metric, value)| format!("{} {}", metric.title(), metric.text(*value)))
                    .collect::<Vec<_>>()
                    .join(", ")
            }
        };
        let [before, after] = self.hops_ns;
        let disturbed = match (self.disturbed, &self.disturbance) {
            (false, _) => String::new(),
            (true, None) => ", DISTURBED".to_owned(),
            (true, Some(why)) => format!(", DISTURBED: {why}"),
        };
        let limited = if self.is_limited { ", the generator was the bottleneck" } else { "" };
        let placement = self.placement.name();
        format!(
            "{:20} {:18} {outcome}; CPUs {placement} ({before:.0}, {after:.0} ns){disturbed}{limited}",
            self.scenario, self.server
        )
    }
}

/// Starts a server, puts the scenario's load on it, and ends it. A server that does not start is a failed run.
pub(crate) fn run_once(tools: &Tools, order: Order<'_>) -> Run {
    let Order { round, scenario, server, rate, others_max, .. } = order;
    let started = match (scenario.load, scenario.topics) {
        (Load::Stall { .. }, _) => Running::start_for_stalls(server, tools),
        (_, Topics::Two) => Running::start_with_two_topics(server, tools),
        (_, Topics::One | Topics::Zipf(_)) => Running::start(server, tools),
    };
    let hop_before = hop_ns(SERVER_CPU, LOAD_CPU);
    let server_command = started.as_ref().map_or_else(|_| String::new(), |running| running.command_line.clone());
    let done = started.and_then(|running| load::drive(tools, &running, order));
    let driven = done.unwrap_or_else(|why| Driven { failure: Some(why.to_string()), ..Driven::default() });
    let hops_ns = [hop_before, hop_ns(SERVER_CPU, LOAD_CPU)];
    let [placement, placement_after] = hops_ns.map(Placement::of);
    let others = driven.values.get(&Metric::Others).copied().unwrap_or_default();
    let disturbance = disturbance([placement, placement_after], [others, others_max], driven.disturbance);
    Run {
        round,
        scenario: scenario.name.to_owned(),
        server: server.name().to_owned(),
        rate,
        server_command,
        load_command: driven.command,
        failure: driven.failure,
        disturbed: disturbance.is_some(),
        disturbance,
        is_limited: driven.report.as_ref().is_some_and(|report| report.bottleneck.is_some()),
        hops_ns,
        placement,
        values: driven.values,
        elsewhere: None,
        report: driven.report,
        requests: driven.requests,
    }
}

/// Returns by what a run was disturbed: a placement of the CPUs that changed, other programs that were busy, or what
/// the generator says.
fn disturbance(
    [before, after]: [Placement; 2],
    [others, others_max]: [f64; 2],
    of_generator: Option<String>,
) -> Option<String> {
    if before != after {
        return Some(format!("the CPUs moved from {} to {}", before.name(), after.name()));
    }
    let busy = || format!("other programs used {others:.2} CPUs, and --others-max is {others_max}");
    (others > others_max).then(busy).or(of_generator)
}

/// Parses a number of rounds or of something else, of which there must be one at least.
pub(crate) fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("it must be above 0".to_owned()),
        Ok(number) => Ok(number),
        Err(_) => Err("expected a whole number above 0".to_owned()),
    }
}

/// Returns the items in the order of a round: every second round is the one before it backwards, and two rounds later
/// another item is the first. So neither noise of other programs nor what an item leaves behind always hits the same
/// item.
pub(crate) fn rotated<T>(items: &[T], round: usize) -> impl Iterator<Item = &T> {
    let (front, back) = items.split_at(if items.is_empty() { 0 } else { (round / 2) % items.len() });
    let mut order: Vec<&T> = back.iter().chain(front).collect();
    if round % 2 == 1 {
        order.reverse();
    }
    order.into_iter()
}

/// The CPUs that may be busy with other programs during a run, unless a flag says otherwise. The threads of the kernel
/// that serve a run's own sockets count as other programs.
pub(crate) const OTHERS_MAX: f64 = 0.15;

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// Returns a run that counts, with one figure.
    pub(crate) fn run(scenario: &str, server: Peer, round: usize, metric: Metric, value: f64) -> Run {
        Run {
            round,
            scenario: scenario.to_owned(),
            server: server.name().to_owned(),
            rate: None,
            server_command: format!("{} --listen 127.0.0.1:1", server.name()),
            load_command: "ringhub-loadgen fanout".to_owned(),
            failure: None,
            disturbed: false,
            disturbance: None,
            is_limited: false,
            hops_ns: [25.0; 2],
            placement: Placement::Near,
            values: Values::from([(metric, value)]),
            elsewhere: None,
            report: None,
            requests: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everyone_begins_rounds_and_follows_others() {
        let order = |round| rotated(&["a", "b", "c"], round).copied().collect::<String>();
        assert_eq!([0, 1, 2, 3, 4, 5].map(order), ["abc", "cba", "bca", "acb", "cab", "bac"]);
        assert_eq!(rotated::<u8>(&[], 4).count(), 0);
    }

    #[test]
    fn a_run_without_time_to_spare_is_marked() {
        let limited = Run { is_limited: true, ..testing::run("rate-100", Peer::Hub, 0, Metric::Spare, 1.0) };
        assert!(limited.counts() && limited.line().contains("the generator was the bottleneck"));
    }

    #[test]
    fn a_run_that_failed_or_was_disturbed_does_not_count() {
        let run = || testing::run("rate-100", Peer::Hub, 0, Metric::CpuPerDelivery, 900.0);
        assert!(run().counts() && run().line().contains("ns of CPU per delivery 900"));
        let busy = Run { disturbed: true, disturbance: Some("other programs".to_owned()), ..run() };
        assert!(!busy.counts() && busy.line().contains(", DISTURBED: other programs"));
        let failed = Run { failure: Some("void: no CPU".to_owned()), ..run() };
        assert!(!failed.counts() && failed.line().contains("FAILED: void: no CPU"));
    }

    #[test]
    fn a_disturbance_has_its_reason() {
        let (near, far) = (Placement::Near, Placement::Far);
        assert_eq!(disturbance([near, near], [0.1, 0.1], None), None);
        assert_eq!(disturbance([near, far], [0.0, 0.1], None).unwrap(), "the CPUs moved from near to far");
        let busy = "other programs used 0.84 CPUs, and --others-max is 0.15";
        assert_eq!(disturbance([near, near], [0.84, 0.15], None).unwrap(), busy);
        let waited = Some("kept a thread from its CPU".to_owned());
        assert_eq!(disturbance([near, near], [0.0, 0.15], waited.clone()), waited);
    }

    #[test]
    fn there_is_a_round_at_least() {
        assert_eq!(at_least_one("3"), Ok(3));
        assert!(at_least_one("0").is_err() && at_least_one("x").is_err() && at_least_one("-1").is_err());
    }

    #[test]
    fn a_run_is_read_as_it_was_written() {
        let run = testing::run("rate-100", Peer::Bun, 3, Metric::P99, 12.5);
        let again: Run = serde_json::from_str(&serde_json::to_string(&run).unwrap()).unwrap();
        assert_eq!(format!("{again:?}"), format!("{run:?}"));
    }
}
