//! The report of a run, for people and for programs.

use crate::machine::Machine;
use crate::moment::Moment;
use crate::output::{CheckedAssertion, above_zero, mistakes};
use crate::process::{Cpu, Memory};
use crate::scenario_figures::ScenarioFigures;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// The verdict, its reasons, and the figures if they can be trusted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The version of this schema, [`SCHEMA_VERSION`]; 0 in reports from before the field existed.
    #[serde(default)]
    pub schema_version: u32,
    /// The name and version of the generator.
    #[serde(default)]
    pub program: Option<String>,
    /// The words of the command, the program's name first; empty if the run was not started by a command.
    #[serde(default)]
    pub command_line: Vec<String>,
    /// The assertions, and whether each holds.
    #[serde(default)]
    pub assertions: Vec<CheckedAssertion>,
    /// The time at which the run started, in milliseconds since 1970 (UTC).
    #[serde(default)]
    pub started_unix_ms: Option<u64>,
    /// The machine of the generator.
    #[serde(default)]
    pub machine: Option<Machine>,
    /// The name of the scenario.
    #[serde(default)]
    pub scenario: String,
    /// Whether the user ended the run early.
    #[serde(default)]
    pub interrupted: bool,
    /// Why the window ended early, if nobody ended it.
    #[serde(default)]
    pub early_end: Option<String>,
    /// Whether foreign messages are no mistake.
    #[serde(default)]
    pub ignore_foreign: bool,
    /// The opening of all connections, each to the end of its subscription.
    #[serde(default)]
    pub opening: Option<Opening>,
    /// The first few foreign messages, as text; bytes that are no text are escaped.
    #[serde(default)]
    pub foreign_sample: Vec<String>,
    /// The first few messages that changed on the way.
    #[serde(default)]
    pub corrupt_sample: Vec<String>,
    /// The first few messages that were not for the connection that received them.
    #[serde(default)]
    pub misrouted_sample: Vec<String>,
    /// The first few subscribers whose deliveries went wrong, each with its own counts.
    #[serde(default)]
    pub affected_subscribers: Vec<SubscriberCounts>,
    /// The figures that only this scenario has.
    #[serde(default)]
    pub scenario_figures: Option<ScenarioFigures>,
    /// The verdict.
    pub outcome: Outcome,
    /// Whether the figures are missing because they would mean nothing.
    pub void: bool,
    /// The first few reasons for which the run is void.
    pub void_reasons: Vec<String>,
    /// The disturbances of the run. They make it void unless the flags allow them.
    #[serde(default)]
    pub disturbances: Vec<String>,
    /// The disturbance that says that the generator was the bottleneck, if it was.
    #[serde(default)]
    pub bottleneck: Option<String>,
    /// The first few disconnected connections, each with the reason, publishers first.
    pub disconnections: Vec<String>,
    /// What the user may do about what went wrong, or should check.
    #[serde(default)]
    pub hints: Vec<String>,
    /// Connections that received.
    pub subscribers: usize,
    /// Connections that published.
    pub publishers: usize,
    /// Payload bytes of each message.
    pub size: usize,
    /// `rate N` (in a ramp by rate: of the first step), `in-flight N` (in an echo: on each connection), `unthrottled`,
    /// `recorded` or `none`.
    pub load: String,
    /// Subscribers that read every frame; of the others only bytes were counted.
    pub verified_subscribers: usize,
    /// The counts from the first connection to the last delivery.
    pub counts: Counts,
    /// The measurements inside the window; `None` if the run is void.
    pub figures: Option<Figures>,
    /// The server's memory before the first connection.
    pub memory_before: Option<Memory>,
    /// The server's memory at the end, while all connections are still open.
    pub memory_after: Option<Memory>,
    /// Whether the order of arrival at all subscribers was compared.
    #[serde(default)]
    pub total_order: bool,
}

/// The verdict about a run, without its assertions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// What was checked arrived once and in order, and no connection ended.
    Exact,
    /// One of the counts of mistakes is above 0.
    Broken,
    /// The run has a reason in [`Report::void_reasons`].
    Void,
}

/// Exact counts. `expected` and `disconnected` are over all connections. The others are over the subscribers that read
/// every frame, in a stall without the stalled ones. All counts but the first two are 0 in a good run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Messages published.
    pub published: u64,
    /// Expected deliveries of these messages to all subscribers.
    pub expected: u64,
    /// Deliveries that did not arrive although a later one of the same stream did, or the connection ended.
    pub lost: u64,
    /// Deliveries that had not arrived at an open connection, and no later ones either, when the wait for them ended.
    #[serde(default)]
    pub outstanding: u64,
    /// Deliveries that arrived again.
    pub duplicated: u64,
    /// Deliveries that arrived after a later one.
    pub reordered: u64,
    /// Messages without a stamp of this run.
    pub foreign: u64,
    /// Messages whose padding, length or type (text or binary) changed. Each also counts as lost, or as outstanding if
    /// nothing later arrived.
    pub corrupt: u64,
    /// Connections that ended before the run did: closed by the server, or given up after a refusal or an error in the
    /// protocol.
    pub disconnected: u64,
    /// Orders of arrival besides the first, if `total_order` is checked.
    pub other_orders: u64,
    /// Messages of this run that were not for the connection that received them, or that were never published.
    #[serde(default)]
    pub misrouted: u64,
    /// Subscribers whose bytes were only counted, and that got a wrong number of bytes.
    #[serde(default)]
    pub miscounted: u64,
    /// Messages that were due, and that the server did not take before the wait for it ended.
    #[serde(default)]
    pub unpublished: u64,
}

/// The measurements inside the window.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figures {
    /// The length of the window.
    pub seconds: f64,
    /// Messages that arrived inside the window, over all subscribers.
    pub deliveries: u64,
    /// These deliveries per second.
    pub deliveries_per_second: f64,
    /// The mean number of messages that one read found, which shows how many the server put into one send.
    pub messages_per_read: f64,
    /// The latency of messages that were due inside the window, at subscribers that read their frames. `None` if there
    /// was no such message, or if messages are too small for a time.
    pub latency: Option<Latency>,
    /// The latency from the time at which a message was written instead of from its due time; `None` in a closed loop,
    /// where a message is due when it can be written. It is too low when the
    /// generator was late or the server did not read (coordinated omission).
    #[serde(default)]
    pub latency_uncorrected: Option<Latency>,
    /// All percentiles of `latency`.
    #[serde(default)]
    pub distribution: Option<Distribution>,
    /// All percentiles of `latency_uncorrected`.
    #[serde(default)]
    pub distribution_uncorrected: Option<Distribution>,
    /// The parts of the window in order.
    #[serde(default)]
    pub series: Vec<Moment>,
    /// The generator's own figures.
    pub generator: GeneratorFigures,
    /// The server's figures, if its process is known.
    pub server: Option<ServerFigures>,
}

/// Percentiles of a time, in nanoseconds. The latency of a delivery is the time from the message's due time to the
/// subscriber's read.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "percentiles")]
pub struct Latency {
    pub p50_ns: u64,
    pub p90_ns: u64,
    pub p99_ns: u64,
    pub p99_9_ns: u64,
    pub max_ns: u64,
    /// The number of recorded deliveries.
    pub count: u64,
}

impl Latency {
    pub(crate) fn from_histogram(histogram: &Histogram<u64>) -> Option<Latency> {
        if histogram.is_empty() {
            return None;
        }
        let at = |quantile| histogram.value_at_quantile(quantile);
        Some(Latency {
            p50_ns: at(0.5),
            p90_ns: at(0.9),
            p99_ns: at(0.99),
            p99_9_ns: at(0.999),
            max_ns: histogram.max(),
            count: histogram.len(),
        })
    }
}

/// The latency at many percentiles, closer together towards the highest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// The mean.
    pub mean_ns: f64,
    /// The standard deviation.
    pub deviation_ns: f64,
    /// The longest latency.
    pub max_ns: u64,
    /// The buckets of the histogram, each twice as wide as the one before.
    pub buckets: u32,
    /// The parts of a bucket.
    pub sub_buckets: u32,
    /// The rows in ascending order.
    pub rows: Vec<PercentileRow>,
}

/// A percentile.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PercentileRow {
    /// The fraction of the deliveries, 0 to 1.
    pub quantile: f64,
    /// The latency that this fraction does not exceed, in nanoseconds.
    pub value_ns: u64,
    /// The number of deliveries up to this latency.
    pub count: u64,
}

impl Distribution {
    /// Returns the percentiles of a histogram; `None` if the histogram is empty.
    pub fn from_histogram(histogram: &Histogram<u64>) -> Option<Distribution> {
        if histogram.is_empty() {
            return None;
        }
        let mut count = 0;
        let rows = histogram.iter_quantiles(TICKS_PER_HALF_DISTANCE).map(|step| {
            count += step.count_since_last_iteration();
            PercentileRow { quantile: step.quantile_iterated_to(), value_ns: step.value_iterated_to(), count }
        });
        let rows = rows.collect();
        Some(Distribution {
            mean_ns: histogram.mean(),
            deviation_ns: histogram.stdev(),
            max_ns: histogram.max(),
            buckets: u32::from(histogram.buckets()),
            // As many as a number of this many digits needs at least, times two, rounded up to a power of 2.
            sub_buckets: (2 * 10_u32.pow(u32::from(histogram.sigfig()))).next_power_of_two(),
            rows,
        })
    }
}

/// The opening of all connections before a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Opening {
    /// The opened connections.
    pub connections: usize,
    /// The time from the first connection to the last subscription, hello and acknowledgement included.
    pub seconds: f64,
    /// Opened connections per second.
    pub per_second: f64,
}

impl Opening {
    /// Returns the figures of `connections` that were opened within `span_ns`.
    pub fn of(connections: usize, span_ns: u64) -> Opening {
        let seconds = span_ns as f64 / 1e9;
        Opening { connections, seconds, per_second: if span_ns == 0 { 0.0 } else { connections as f64 / seconds } }
    }
}

/// What went wrong at one subscriber.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscriberCounts {
    /// The index of the subscriber, from 0.
    pub subscriber: usize,
    /// As in [`Counts`].
    pub lost: u64,
    /// As in [`Counts`].
    pub outstanding: u64,
    /// As in [`Counts`].
    pub duplicated: u64,
    /// As in [`Counts`].
    pub reordered: u64,
    /// As in [`Counts`].
    pub foreign: u64,
    /// As in [`Counts`].
    pub corrupt: u64,
    /// As in [`Counts`].
    #[serde(default)]
    pub misrouted: u64,
}

/// Figures that show whether the generator could have been the bottleneck.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct GeneratorFigures {
    /// CPU time inside the window; a spinning generator uses the whole window.
    pub cpu_ns: u64,
    /// This CPU time as a number of CPUs.
    #[serde(default)]
    pub cores: f64,
    /// This CPU time per delivery.
    #[serde(default)]
    pub cpu_ns_per_delivery: f64,
    /// Fraction of the window in which there was nothing to read and nothing to publish.
    pub spare: f64,
}

/// The server's CPU time inside the window.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ServerFigures {
    /// CPU time of the whole process.
    pub cpu: Cpu,
    /// This CPU time as a number of CPUs.
    pub cores: f64,
    /// This CPU time per delivery.
    pub cpu_ns_per_delivery: f64,
    /// CPUs that were busy with other programs than the server and the generator, or taken by a hypervisor. The higher
    /// this is, the less reliable the other figures are.
    pub other_cores: f64,
}

impl Report {
    /// Returns the numbers of mistakes that are not 0, each with its name: `lost 3, disconnected 1`.
    pub fn mistakes(&self) -> String {
        above_zero(mistakes(self))
    }

    /// Returns the report as one JSON object on one line.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a report of plain fields serialises")
    }
}

/// The version of the schema of [`Report`]. A new field leaves it as it is; a changed or removed one raises it.
pub const SCHEMA_VERSION: u32 = 1;

/// The number of percentiles between each percentile and the one half as far from 100 %.
const TICKS_PER_HALF_DISTANCE: u32 = 5;
