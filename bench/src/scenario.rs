//! The scenarios and the bars, as data.

use crate::peers::Peer;
use crate::post;
use ringhub_loadgen::Figures;

/// A load, and the bars that the hub must reach under it.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) subscribers: usize,
    /// The number of each subscriber's topics, 1 or 2. Each topic has a publisher.
    pub(crate) topics: usize,
    /// Payload bytes.
    pub(crate) size: usize,
    pub(crate) load: Load,
    pub(crate) bars: &'static [Bar],
}

#[derive(Clone, Copy)]
pub(crate) enum Load {
    /// Open loop, messages per second.
    Rate(u64),
    /// Closed loop, the number of messages that are not yet delivered to all.
    InFlight(u64),
    /// As fast as the server reads, this number of messages for each second of the window. A walk takes many
    /// milliseconds, and a window of seconds would end within a walk. So the window is a number of messages.
    Unthrottled(u64),
    /// HTTP requests, one in flight on each of this number of connections.
    Post(usize),
}

/// The result of a run.
#[derive(Clone, Copy)]
pub(crate) enum Measured<'a> {
    /// The figures of deliveries, and the sends per delivery if the server was asked for its counters.
    Deliveries(&'a Figures, Option<f64>),
    Requests(&'a post::Figures),
}

/// A limit on the ratio of two medians, the hub's divided by a peer's.
#[derive(Clone, Copy)]
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
    /// The busy time of all CPUs without that of the generator. If a server saturates its CPU, the kernel accounts up
    /// to 10 % of this CPU's time to no process, differently in each run. This figure includes that time.
    BusyPerDelivery,
    DeliveriesPerSecond,
    CpuPerRequest,
    RequestsPerSecond,
    P50,
    P99,
    MessagesPerRead,
    /// The sends per delivery, by the server's counters.
    SendsPerDelivery,
    /// The generator's time to spare; near 0 the generator was the bottleneck.
    Spare,
    /// CPUs that were busy with other programs. The higher this is, the less reliable the other figures are.
    Others,
}

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "rate-100",
        subscribers: 1_000,
        topics: 1,
        size: 128,
        load: Load::Rate(100),
        bars: &[
            Bar { metric: Metric::CpuPerDelivery, against: Peer::Bun, limit: Limit::AtMost(0.85) },
            Bar { metric: Metric::CpuPerDelivery, against: Peer::K2, limit: Limit::AtMost(1.12) },
            // Two shards cost at most 1.15 times as much as one; a handler costs at most 1.05 times as much as a raw
            // topic.
            Bar { metric: Metric::CpuPerDelivery, against: Peer::Shards2, limit: Limit::AtLeast(1.0 / 1.15) },
            Bar { metric: Metric::CpuPerDelivery, against: Peer::Handler, limit: Limit::AtLeast(1.0 / 1.05) },
            Bar { metric: Metric::CpuPerDelivery, against: Peer::Limited, limit: Limit::AtLeast(1.0 / 1.02) },
            Bar { metric: Metric::P99, against: Peer::Bun, limit: Limit::AtMost(1.05) },
        ],
    },
    Scenario {
        name: "in-flight-16",
        subscribers: 1_000,
        topics: 1,
        size: 128,
        load: Load::InFlight(16),
        bars: &[
            Bar { metric: Metric::DeliveriesPerSecond, against: Peer::Bun, limit: Limit::AtLeast(1.2) },
            Bar { metric: Metric::CpuPerDelivery, against: Peer::Limited, limit: Limit::AtLeast(1.0 / 1.02) },
            Bar { metric: Metric::P99, against: Peer::Bun, limit: Limit::AtMost(1.05) },
        ],
    },
    Scenario {
        name: "in-flight-128",
        subscribers: 1_000,
        topics: 1,
        size: 128,
        load: Load::InFlight(128),
        bars: &[
            Bar { metric: Metric::DeliveriesPerSecond, against: Peer::Bun, limit: Limit::AtLeast(3.5) },
            Bar { metric: Metric::CpuPerDelivery, against: Peer::Shards2, limit: Limit::AtLeast(1.0 / 1.15) },
            Bar { metric: Metric::CpuPerDelivery, against: Peer::Handler, limit: Limit::AtLeast(1.0 / 1.05) },
            Bar { metric: Metric::CpuPerDelivery, against: Peer::Limited, limit: Limit::AtLeast(1.0 / 1.02) },
            Bar { metric: Metric::P99, against: Peer::Bun, limit: Limit::AtMost(1.05) },
        ],
    },
    Scenario {
        name: "unthrottled-17",
        subscribers: 1_000,
        topics: 1,
        size: 17,
        load: Load::Unthrottled(400_000),
        bars: &[],
    },
    Scenario { name: "post", subscribers: 0, topics: 1, size: 128, load: Load::Post(16), bars: &[] },
    Scenario {
        name: "two-topics",
        subscribers: 10_000,
        topics: 2,
        size: 128,
        load: Load::InFlight(16),
        // The shares of both topics must leave in one send.
        bars: &[Bar { metric: Metric::SendsPerDelivery, against: Peer::Baseline, limit: Limit::AtMost(0.5) }],
    },
];

/// The default scenarios of `compare`.
pub(crate) const USUAL: [&str; 3] = ["rate-100", "in-flight-16", "in-flight-128"];

impl Scenario {
    /// Returns those of `servers` that can take part in this scenario.
    pub(crate) fn servers(&self, servers: &[Peer]) -> Vec<Peer> {
        let can = |server: &Peer| match self.load {
            Load::Post(_) => server.takes_posts(),
            _ => self.topics == 1 || server.has_two_topics(),
        };
        servers.iter().copied().filter(can).collect()
    }

    /// Returns the scenario's bars, and those that every scenario has against a baseline.
    pub(crate) fn bars(&self) -> impl Iterator<Item = Bar> {
        let [cost, speed] = self.load.headline();
        let against = Peer::Baseline;
        let beside_baseline = [
            Bar { metric: cost, against, limit: Limit::AtMost(1.0) },
            Bar { metric: speed, against, limit: Limit::AtLeast(1.0) },
        ];
        self.bars.iter().copied().chain(beside_baseline)
    }

    /// Returns the columns of the scenario's table.
    pub(crate) fn metrics(&self) -> Vec<Metric> {
        let sends = (self.topics > 1).then_some(Metric::SendsPerDelivery);
        self.load.metrics().iter().copied().chain(sends).collect()
    }

    /// Returns a line for people.
    pub(crate) fn line(&self) -> String {
        let Scenario { name, subscribers, topics, size, load, .. } = self;
        let load = match load {
            Load::Rate(rate) => format!("{rate} messages/s"),
            Load::InFlight(in_flight) => format!("{in_flight} in flight"),
            Load::Unthrottled(_) => "one publisher, unthrottled".to_owned(),
            Load::Post(connections) => format!("POST on {connections} connections, one request in flight on each"),
        };
        let topics = if *topics > 1 { format!(" of {topics} topics each") } else { String::new() };
        format!("{name}: {subscribers} subscribers{topics}, {size} B, {load}")
    }
}

impl Load {
    /// Returns the generator's flags for a window of `seconds`; none if the load is not the generator.
    pub(crate) fn flags(&self, warmup_seconds: u64, seconds: u64) -> Vec<String> {
        let timed = |flag: &str, value: u64| {
            [
                flag.to_owned(),
                value.to_string(),
                format!("--warmup={warmup_seconds}s"),
                format!("--duration={seconds}s"),
            ]
            .to_vec()
        };
        match self {
            Load::Rate(rate) => timed("--rate", *rate),
            Load::InFlight(in_flight) => timed("--in-flight", *in_flight),
            Load::Unthrottled(per_second) => {
                ["--unthrottled", "--drain=60s", "--messages", &(per_second * seconds).to_string()]
                    .map(str::to_owned)
                    .to_vec()
            }
            Load::Post(_) => Vec::new(),
        }
    }

    /// Returns the number of messages that a run publishes, if it does not depend on the server.
    pub(crate) fn exact_messages(&self, warmup_seconds: u64, seconds: u64) -> Option<u64> {
        match self {
            Load::Rate(rate) => Some(rate * (warmup_seconds + seconds)),
            Load::Unthrottled(per_second) => Some(per_second * seconds),
            Load::InFlight(_) | Load::Post(_) => None,
        }
    }

    /// Returns the two main figures: the server's cost per delivery or request, and how many it handles.
    pub(crate) fn headline(&self) -> [Metric; 2] {
        match self {
            Load::Post(_) => [Metric::CpuPerRequest, Metric::RequestsPerSecond],
            Load::Unthrottled(_) => [Metric::BusyPerDelivery, Metric::DeliveriesPerSecond],
            _ => [Metric::CpuPerDelivery, Metric::DeliveriesPerSecond],
        }
    }

    /// Returns the figures that every scenario with this load has.
    fn metrics(&self) -> &'static [Metric] {
        match self {
            Load::Post(_) => {
                &[Metric::CpuPerRequest, Metric::RequestsPerSecond, Metric::P50, Metric::P99, Metric::Others]
            }
            _ => &[
                Metric::CpuPerDelivery,
                Metric::BusyPerDelivery,
                Metric::DeliveriesPerSecond,
                Metric::P50,
                Metric::P99,
                Metric::MessagesPerRead,
                Metric::Spare,
                Metric::Others,
            ],
        }
    }
}

impl Metric {
    /// The figures in the line about a single run, if its load has them.
    pub(crate) const SHOWN: [Metric; 7] = [
        Metric::CpuPerDelivery,
        Metric::DeliveriesPerSecond,
        Metric::CpuPerRequest,
        Metric::RequestsPerSecond,
        Metric::P99,
        Metric::MessagesPerRead,
        Metric::SendsPerDelivery,
    ];

    /// Returns whether the figure is about the server. The other figures show how reliable the measurement is.
    pub(crate) fn is_compared(self) -> bool {
        !matches!(self, Metric::Spare | Metric::Others)
    }

    /// Returns the name and unit, as the head of a column.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Metric::CpuPerDelivery => "CPU/delivery ns",
            Metric::BusyPerDelivery => "busy/delivery ns",
            Metric::DeliveriesPerSecond => "deliveries/s k",
            Metric::CpuPerRequest => "CPU/request ns",
            Metric::RequestsPerSecond => "requests/s k",
            Metric::P50 => "p50 µs",
            Metric::P99 => "p99 µs",
            Metric::MessagesPerRead => "messages/read",
            Metric::SendsPerDelivery => "sends/delivery",
            Metric::Spare => "load spare %",
            Metric::Others => "other CPUs busy",
        }
    }

    /// Returns this figure of a run, in the unit of its column.
    pub(crate) fn of(self, measured: Measured<'_>) -> Option<f64> {
        match measured {
            Measured::Deliveries(_, sends_per_delivery) if self == Metric::SendsPerDelivery => sends_per_delivery,
            Measured::Deliveries(figures, _) => self.of_deliveries(figures),
            Measured::Requests(figures) => self.of_requests(figures),
        }
    }

    fn of_deliveries(self, figures: &Figures) -> Option<f64> {
        Some(match self {
            Metric::CpuPerDelivery => figures.server?.cpu_ns_per_delivery,
            Metric::BusyPerDelivery => {
                let server = figures.server?;
                (server.cores + server.other_cores) * figures.seconds * 1e9 / figures.deliveries as f64
            }
            Metric::DeliveriesPerSecond => figures.deliveries_per_second / 1e3,
            Metric::P50 => figures.latency?.p50_ns as f64 / 1e3,
            Metric::P99 => figures.latency?.p99_ns as f64 / 1e3,
            Metric::MessagesPerRead => figures.messages_per_read,
            Metric::Spare => figures.generator.spare * 100.0,
            Metric::Others => figures.server?.other_cores,
            Metric::CpuPerRequest | Metric::RequestsPerSecond | Metric::SendsPerDelivery => return None,
        })
    }

    fn of_requests(self, figures: &post::Figures) -> Option<f64> {
        Some(match self {
            Metric::CpuPerRequest => figures.cpu_ns(),
            Metric::RequestsPerSecond => figures.requests_per_second / 1e3,
            Metric::P50 => figures.p50_us,
            Metric::P99 => figures.p99_us,
            Metric::Others => figures.other_cores,
            Metric::CpuPerDelivery
            | Metric::BusyPerDelivery
            | Metric::DeliveriesPerSecond
            | Metric::MessagesPerRead
            | Metric::SendsPerDelivery
            | Metric::Spare => return None,
        })
    }
}

/// The verdict about a bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Met,
    /// The bar is missed by no more than [`TOLERANCE`], which is noise and counts as met.
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
    fn every_scenario_is_held_against_the_baseline() {
        for scenario in SCENARIOS {
            let beside: Vec<Bar> = scenario.bars().skip(scenario.bars.len()).collect();
            assert!(beside.iter().all(|bar| bar.against == Peer::Baseline));
            assert_eq!(beside.iter().map(|bar| bar.metric).collect::<Vec<_>>(), scenario.load.headline());
            assert!(scenario.bars().all(|bar| scenario.metrics().contains(&bar.metric)), "{}", scenario.name);
            // A ratio that is worse by up to 3 % meets the bar, one beyond that does not.
            assert_eq!(
                beside.iter().map(|bar| bar.limit.judge(1.04)).collect::<Vec<_>>(),
                [Verdict::Missed, Verdict::Met]
            );
            assert_eq!(
                beside.iter().map(|bar| bar.limit.judge(0.96)).collect::<Vec<_>>(),
                [Verdict::Met, Verdict::Missed]
            );
        }
        assert!(USUAL.iter().all(|usual| SCENARIOS.iter().any(|scenario| scenario.name == *usual)));
    }

    #[test]
    fn only_hubs_are_posted_to_or_have_two_topics() {
        let servers = [Peer::Hub, Peer::Bun, Peer::K2, Peer::Baseline];
        for scenario in SCENARIOS {
            let is_for_hubs = ["post", "two-topics"].contains(&scenario.name);
            let expected = if is_for_hubs { vec![Peer::Hub, Peer::Baseline] } else { servers.to_vec() };
            assert_eq!(scenario.servers(&servers), expected);
        }
    }

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
