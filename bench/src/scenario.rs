//! The scenarios and the bars, as data.

use crate::peers::Peer;
use ringhub_loadgen::Figures;

/// One kind of load, its exact outcome, and what the hub must reach under it.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) subscribers: usize,
    /// Payload bytes.
    pub(crate) size: usize,
    pub(crate) load: Load,
    pub(crate) bars: &'static [Bar],
}

#[derive(Clone, Copy)]
pub(crate) enum Load {
    /// Open loop, messages per second.
    Rate(u64),
    /// Closed loop, messages not yet delivered to all.
    InFlight(u64),
}

/// A limit on the ratio of two medians, the hub's over a peer's.
pub(crate) struct Bar {
    pub(crate) metric: Metric,
    pub(crate) against: Peer,
    pub(crate) limit: Limit,
}

#[derive(Clone, Copy)]
pub(crate) enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

/// A figure of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Metric {
    CpuPerDelivery,
    DeliveriesPerSecond,
    P50,
    P99,
    MessagesPerRead,
    /// The generator's time to spare; near 0 it was the bottleneck.
    Spare,
    /// CPUs busy with something else meanwhile; the more, the less the rest is worth.
    Others,
}

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "rate-100",
        subscribers: 1_000,
        size: 128,
        load: Load::Rate(100),
        bars: &[
            Bar { metric: Metric::CpuPerDelivery, against: Peer::Bun, limit: Limit::AtMost(0.85) },
            Bar { metric: Metric::CpuPerDelivery, against: Peer::K2, limit: Limit::AtMost(1.12) },
            // Two shards cost at most 1.15 times as much as one, a handler 1.05 times as much as a raw topic.
            Bar { metric: Metric::CpuPerDelivery, against: Peer::Shards2, limit: Limit::AtLeast(1.0 / 1.15) },
            Bar { metric: Metric::CpuPerDelivery, against: Peer::Handler, limit: Limit::AtLeast(1.0 / 1.05) },
            Bar { metric: Metric::P99, against: Peer::Bun, limit: Limit::AtMost(1.05) },
        ],
    },
    Scenario {
        name: "in-flight-16",
        subscribers: 1_000,
        size: 128,
        load: Load::InFlight(16),
        bars: &[
            Bar { metric: Metric::DeliveriesPerSecond, against: Peer::Bun, limit: Limit::AtLeast(1.2) },
            Bar { metric: Metric::P99, against: Peer::Bun, limit: Limit::AtMost(1.05) },
        ],
    },
    Scenario {
        name: "in-flight-128",
        subscribers: 1_000,
        size: 128,
        load: Load::InFlight(128),
        bars: &[
            Bar { metric: Metric::DeliveriesPerSecond, against: Peer::Bun, limit: Limit::AtLeast(3.5) },
            Bar { metric: Metric::CpuPerDelivery, against: Peer::Shards2, limit: Limit::AtLeast(1.0 / 1.15) },
            Bar { metric: Metric::CpuPerDelivery, against: Peer::Handler, limit: Limit::AtLeast(1.0 / 1.05) },
            Bar { metric: Metric::P99, against: Peer::Bun, limit: Limit::AtMost(1.05) },
        ],
    },
];

impl Load {
    /// The generator's flag.
    pub(crate) fn flag(&self) -> [String; 2] {
        match self {
            Load::Rate(rate) => ["--rate".to_owned(), rate.to_string()],
            Load::InFlight(in_flight) => ["--in-flight".to_owned(), in_flight.to_string()],
        }
    }

    /// How many messages a run of so many seconds publishes, where that does not depend on the server.
    pub(crate) fn exact_messages(&self, seconds: u64) -> Option<u64> {
        match self {
            Load::Rate(rate) => Some(rate * seconds),
            Load::InFlight(_) => None,
        }
    }
}

impl Metric {
    pub(crate) const ALL: [Metric; 7] = [
        Metric::CpuPerDelivery,
        Metric::DeliveriesPerSecond,
        Metric::P50,
        Metric::P99,
        Metric::MessagesPerRead,
        Metric::Spare,
        Metric::Others,
    ];

    /// Whether it says something about the server. The others say how far the measurement can be trusted.
    pub(crate) fn is_compared(self) -> bool {
        !matches!(self, Metric::Spare | Metric::Others)
    }

    /// Name and unit, as the head of a column.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Metric::CpuPerDelivery => "CPU/delivery ns",
            Metric::DeliveriesPerSecond => "deliveries/s k",
            Metric::P50 => "p50 µs",
            Metric::P99 => "p99 µs",
            Metric::MessagesPerRead => "messages/read",
            Metric::Spare => "load spare %",
            Metric::Others => "other CPUs busy",
        }
    }

    /// This figure in the unit of its column.
    pub(crate) fn of(self, figures: &Figures) -> Option<f64> {
        Some(match self {
            Metric::CpuPerDelivery => figures.server?.cpu_ns_per_delivery,
            Metric::DeliveriesPerSecond => figures.deliveries_per_second / 1e3,
            Metric::P50 => figures.latency?.p50_ns as f64 / 1e3,
            Metric::P99 => figures.latency?.p99_ns as f64 / 1e3,
            Metric::MessagesPerRead => figures.messages_per_read,
            Metric::Spare => figures.generator.spare * 100.0,
            Metric::Others => figures.server?.other_cores,
        })
    }
}

/// Whether a bar was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Met,
    /// Beyond the bar by no more than [`TOLERANCE`], which is noise and counts as met.
    WithinNoise,
    Missed,
}

impl Limit {
    pub(crate) fn judge(self, value: f64) -> Verdict {
        let (met, near) = match self {
            Limit::AtMost(limit) => (value <= limit, value <= limit * (1.0 + TOLERANCE)),
            Limit::AtLeast(limit) => (value >= limit, value >= limit * (1.0 - TOLERANCE)),
        };
        match (met, near) {
            (true, _) => Verdict::Met,
            (false, true) => Verdict::WithinNoise,
            (false, false) => Verdict::Missed,
        }
    }
}

impl std::fmt::Display for Limit {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Limit::AtMost(limit) => write!(out, "≤ {limit:.3}"),
            Limit::AtLeast(limit) => write!(out, "≥ {limit:.3}"),
        }
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Verdict::Met => "met",
            Verdict::WithinNoise => "met (within 3 %)",
            Verdict::Missed => "MISSED",
        })
    }
}

const TOLERANCE: f64 = 0.03;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_have_a_margin_of_three_per_cent() {
        assert_eq!(Limit::AtMost(0.85).judge(0.85), Verdict::Met);
        assert_eq!(Limit::AtMost(0.85).judge(0.87), Verdict::WithinNoise);
        assert_eq!(Limit::AtMost(0.85).judge(0.88), Verdict::Missed);
        assert_eq!(Limit::AtLeast(3.5).judge(3.5), Verdict::Met);
        assert_eq!(Limit::AtLeast(3.5).judge(3.4), Verdict::WithinNoise);
        assert_eq!(Limit::AtLeast(3.5).judge(3.39), Verdict::Missed);
        assert_eq!(Limit::AtMost(1.0).judge(f64::NAN), Verdict::Missed);
    }
}
