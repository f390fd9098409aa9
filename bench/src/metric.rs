//! The figures of a run: their names and units, and where they come from.

use crate::post;
use ringhub_loadgen::{Latency, Moment, Report, ScenarioFigures};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A figure of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Metric {
    CpuPerDelivery,
    /// The busy time of all CPUs without that of the generator. If a server saturates its CPU, the kernel accounts up
    /// to 10 % of this CPU's time to no process, differently in each run. This figure includes that time.
    BusyPerDelivery,
    DeliveriesPerSecond,
    CpuPerRequest,
    RequestsPerSecond,
    /// The requests that one second of the server's CPU time serves.
    RequestsPerCpuSecond,
    RoundTripsPerSecond,
    P50,
    P99,
    MessagesPerRead,
    /// The deliveries that one send of the server carries, by the server's counters.
    MessagesPerSend,
    /// The inverse of `MessagesPerSend`.
    SendsPerDelivery,
    /// The server's system calls per delivery, counted by the kernel.
    CallsPerDelivery,
    /// The time until all connections are back.
    SecondsToAll,
    /// The server's anonymous memory for each idle connection.
    UserBytes,
    /// The memory of the server and of the kernel for each idle connection. The client's sockets are included.
    AllBytes,
    /// The proportional share of the whole server's memory with all idle connections.
    ServerMebibytes,
    /// The server's anonymous memory for each message that it keeps.
    KeptBytes,
    /// The p99 while readers stall, of those that read, divided by the p99 of all before.
    P99Stalled,
    /// The deliveries per second to each subscriber that reads, while others stall, divided by those before.
    ThroughputStalled,
    /// The growth of the server's anonymous memory while readers stall, divided by the memory that the hub accounts
    /// for.
    MemoryOfAccounted,
    /// The payload bytes that a reader of frames takes in a second.
    BytesPerSecond,
    /// The generator's time to spare; near 0 the generator was the bottleneck.
    Spare,
    /// CPUs that were busy with other programs. The higher this is, the less reliable the other figures are.
    Others,
}

/// The figures of a run, each in the unit of its column.
pub(crate) type Values = BTreeMap<Metric, f64>;

impl Metric {
    /// The figures in the line about a single run, if its load has them.
    pub(crate) const SHOWN: [Metric; 16] = [
        Metric::CpuPerDelivery,
        Metric::DeliveriesPerSecond,
        Metric::CpuPerRequest,
        Metric::RequestsPerSecond,
        Metric::RoundTripsPerSecond,
        Metric::P50,
        Metric::P99,
        Metric::MessagesPerRead,
        Metric::CallsPerDelivery,
        Metric::SecondsToAll,
        Metric::UserBytes,
        Metric::AllBytes,
        Metric::KeptBytes,
        Metric::P99Stalled,
        Metric::ThroughputStalled,
        Metric::MemoryOfAccounted,
    ];

    /// Returns whether the figure is about the server. The other figures show how reliable the measurement is.
    pub(crate) fn is_compared(self) -> bool {
        !matches!(self, Metric::Spare | Metric::Others)
    }

    /// Returns whether the figure is a speed that a slow generator bounds.
    pub(crate) fn is_speed(self) -> bool {
        matches!(self, Metric::DeliveriesPerSecond | Metric::RoundTripsPerSecond)
    }

    /// Returns the name and unit, as the head of a column.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Metric::CpuPerDelivery => "ns of CPU per delivery",
            Metric::BusyPerDelivery => "ns busy per delivery",
            Metric::DeliveriesPerSecond => "thousand deliveries/s",
            Metric::CpuPerRequest => "ns of CPU per request",
            Metric::RequestsPerSecond => "thousand requests/s",
            Metric::RequestsPerCpuSecond => "thousand requests per CPU second",
            Metric::RoundTripsPerSecond => "thousand round trips/s",
            Metric::P50 => "p50 µs",
            Metric::P99 => "p99 µs",
            Metric::MessagesPerRead => "messages per read",
            Metric::MessagesPerSend => "messages per send",
            Metric::SendsPerDelivery => "sends per delivery",
            Metric::CallsPerDelivery => "system calls per delivery",
            Metric::SecondsToAll => "seconds until all are back",
            Metric::UserBytes => "user-space B per connection",
            Metric::AllBytes => "user-space and kernel B per connection",
            Metric::ServerMebibytes => "server MiB",
            Metric::KeptBytes => "B per kept message",
            Metric::P99Stalled => "p99 beside stalled readers / before",
            Metric::ThroughputStalled => "deliveries/s beside stalled readers / before",
            Metric::MemoryOfAccounted => "memory / accounted memory",
            Metric::BytesPerSecond => "MB/s of payload",
            Metric::Spare => "% the generator had to spare",
            Metric::Others => "CPUs busy with the rest",
        }
    }

    /// Returns a value for people.
    pub(crate) fn text(self, value: f64) -> String {
        match self {
            // A system call for many deliveries is a number that nobody can picture; one in so many is not.
            Metric::CallsPerDelivery if value > 0.0 && value < 1.0 => format!("1/{:.0}", 1.0 / value),
            _ => number(value),
        }
    }
}

/// Formats a value with three significant digits.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Returns the figures of a report of the generator; none if the run was void.
pub(crate) fn of_report(report: &Report) -> Values {
    let mut values = Values::new();
    let Some(figures) = &report.figures else { return values };
    let mut put = |metric, value: Option<f64>| {
        values.extend(value.filter(|value| value.is_finite()).map(|value| (metric, value)));
    };
    put(Metric::Spare, Some(figures.generator.spare * 100.0));
    put(Metric::Others, figures.server.map(|server| server.other_cores));
    put(Metric::P50, figures.latency.map(|latency| latency.p50_ns as f64 / 1e3));
    put(Metric::P99, figures.latency.map(|latency| latency.p99_ns as f64 / 1e3));
    match &report.scenario_figures {
        Some(ScenarioFigures::Stall { stalled, before, during, .. }) => {
            let p99 = |latency: &Option<Latency>| latency.map(|latency| latency.p99_ns as f64);
            put(Metric::P99Stalled, p99(during).zip(p99(before)).map(|(during, before)| during / before));
            put(Metric::ThroughputStalled, throughput_stalled(&figures.series, report.subscribers, *stalled));
            put(Metric::DeliveriesPerSecond, Some(figures.deliveries_per_second / 1e3));
            put(Metric::CpuPerDelivery, figures.server.map(|server| server.cpu_ns_per_delivery));
        }
        Some(ScenarioFigures::Storm { rounds, .. }) => {
            put(Metric::SecondsToAll, rounds.iter().map(|round| round.seconds).reduce(f64::max));
        }
        Some(ScenarioFigures::Echo { round_trips_per_second, .. }) => {
            put(Metric::RoundTripsPerSecond, Some(round_trips_per_second / 1e3));
        }
        _ if figures.deliveries == 0 => {}
        _ => {
            put(Metric::DeliveriesPerSecond, Some(figures.deliveries_per_second / 1e3));
            put(Metric::MessagesPerRead, Some(figures.messages_per_read));
            put(Metric::CpuPerDelivery, figures.server.map(|server| server.cpu_ns_per_delivery));
            let busy = figures.server.map(|server| server.cores + server.other_cores);
            put(Metric::BusyPerDelivery, busy.map(|busy| busy * figures.seconds * 1e9 / figures.deliveries as f64));
        }
    }
    values
}

/// Returns what the deliveries per second to each subscriber that reads, while `stalled` of `subscribers` do not, are
/// of those before; `None` without moments of both halves of the window.
pub(crate) fn throughput_stalled(series: &[Moment], subscribers: usize, stalled: u64) -> Option<f64> {
    let middle_ns = series.last()?.at_ns / 2;
    let (before, after): (Vec<&Moment>, Vec<&Moment>) = series.iter().partition(|moment| moment.at_ns <= middle_ns);
    let per_second = |moments: &[&Moment], readers: u64| {
        let (deliveries, span_ns) = moments
            .iter()
            .fold((0, 0), |(deliveries, span_ns), moment| (deliveries + moment.deliveries, span_ns + moment.span_ns));
        (readers > 0 && deliveries > 0).then(|| deliveries as f64 / span_ns as f64 / readers as f64)
    };
    Some(per_second(&after, subscribers as u64 - stalled)? / per_second(&before, subscribers as u64)?)
}

/// Returns the figures of HTTP requests.
pub(crate) fn of_requests(figures: &post::Figures) -> Values {
    Values::from([
        (Metric::CpuPerRequest, figures.cpu_ns()),
        (Metric::RequestsPerSecond, figures.requests_per_second / 1e3),
        (Metric::RequestsPerCpuSecond, 1e6 / figures.cpu_ns()),
        (Metric::P50, figures.p50_us),
        (Metric::P99, figures.p99_us),
        (Metric::Others, figures.other_cores),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(scenario_figures: &str, deliveries: u64) -> Report {
        let counts = r#"{"published":1,"expected":1,"lost":0,"duplicated":0,"reordered":0,"foreign":0,"corrupt":0,
            "disconnected":0,"other_orders":0}"#;
        let server =
            r#"{"cpu":{"user_ns":1,"system_ns":1},"cores":0.5,"cpu_ns_per_delivery":250.0,"other_cores":0.25}"#;
        let text = format!(
            r#"{{"outcome":"exact","void":false,"void_reasons":[],"disconnections":[],"subscribers":1,"publishers":1,
            "size":128,"load":"rate 1","verified_subscribers":1,"counts":{counts},"memory_before":null,
            "memory_after":null,"scenario_figures":{scenario_figures},"figures":{{"seconds":2.0,
            "deliveries":{deliveries},"deliveries_per_second":4000.0,"messages_per_read":3.0,"latency":{{"p50_ns":1500,
            "p90_ns":2,"p99_ns":9000,"p99_9_ns":2,"max_ns":2,"count":1}},"generator":{{"cpu_ns":1,"spare":0.125}},
            "server":{server}}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn each_kind_of_run_has_its_figures() {
        let fanout = of_report(&report("null", 1_000));
        let expected = [
            (Metric::CpuPerDelivery, 250.0),
            (Metric::BusyPerDelivery, 1.5e6),
            (Metric::DeliveriesPerSecond, 4.0),
            (Metric::P50, 1.5),
            (Metric::P99, 9.0),
            (Metric::MessagesPerRead, 3.0),
            (Metric::Spare, 12.5),
            (Metric::Others, 0.25),
        ];
        assert_eq!(fanout, Values::from(expected));
        let echo = of_report(&report(r#"{"kind":"echo","depth":1,"round_trips_per_second":5000.0}"#, 1_000));
        assert_eq!(echo.get(&Metric::RoundTripsPerSecond), Some(&5.0));
        assert!(!echo.contains_key(&Metric::DeliveriesPerSecond));
        let rounds = r#"{"kind":"storm","connections":2,"rounds":[
            {"seconds":0.5,"per_second":4,"refused":0,"back":null},
            {"seconds":0.75,"per_second":4,"refused":0,"back":null}]}"#;
        assert_eq!(of_report(&report(rounds, 0)).get(&Metric::SecondsToAll), Some(&0.75));
        // Without a delivery there is no cost of one.
        assert!(!of_report(&report("null", 0)).contains_key(&Metric::CpuPerDelivery));
    }

    #[test]
    fn stalled_readers_have_no_part_in_the_throughput() {
        let moment = |at_ns, deliveries| Moment { at_ns, span_ns: 10, deliveries, ..Moment::default() };
        let series = [moment(10, 90), moment(20, 110), moment(30, 60), moment(40, 60)];
        let ratio = throughput_stalled(&series, 100, 20).unwrap();
        assert!((ratio - 0.75).abs() < 1e-9, "{ratio}");
        assert_eq!(throughput_stalled(&series, 100, 100), None);
        assert_eq!(throughput_stalled(&[], 100, 20), None);
    }

    #[test]
    fn numbers_keep_three_digits() {
        assert_eq!([3_440.4, 15.83, 1.0 / 3.0, 3.456].map(number), ["3440", "15.8", "0.333", "3.46"]);
        assert_eq!(Metric::CallsPerDelivery.text(1.0 / 48.0), "1/48");
        assert_eq!(Metric::CallsPerDelivery.text(2.0), "2.00");
        assert_eq!(Metric::UserBytes.text(152.4), "152");
    }

    #[test]
    fn a_figure_keeps_its_name_in_records() {
        let values = Values::from([(Metric::RequestsPerCpuSecond, 136.5)]);
        let text = serde_json::to_string(&values).unwrap();
        assert_eq!(text, r#"{"requests_per_cpu_second":136.5}"#);
        assert_eq!(serde_json::from_str::<Values>(&text).unwrap(), values);
    }
}
