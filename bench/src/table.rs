//! The scenarios and the bars, as data.

use crate::metric::Metric;
use crate::peers::Peer;
use crate::scenario::{Against, Bar, Counting, Limit, Load, Rival, Scenario, Topics};

use Limit::{AtLeast, AtMost};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "rate-100",
        load: Load::Rate(100),
        bars: &[
            ratio(Metric::CpuPerDelivery, Peer::K2, AtMost(1.03)),
            ratio(Metric::CpuPerDelivery, Peer::Bun, AtMost(0.92)),
            ratio(Metric::CpuPerDelivery, Peer::Kore, AtMost(0.95)),
            beside_hub(Peer::Shards2, AtMost(1.08)),
            beside_hub(Peer::HubHistory, AtMost(1.02)),
        ],
        asked: &[beside_hub(Peer::Handler, AtMost(1.05)), beside_hub(Peer::Limited, AtMost(1.02))],
        beside: &[Peer::TokioTungstenite, Peer::Fastwebsockets, Peer::SockudoWs, Peer::HubEpoll, Peer::K1],
        ..FANOUT
    },
    Scenario {
        name: "in-flight-16",
        load: Load::InFlight(16),
        bars: &[ratio(Metric::DeliveriesPerSecond, Peer::Bun, AtLeast(1.3))],
        asked: &[beside_hub(Peer::Limited, AtMost(1.02))],
        beside: &[Peer::K2],
        ..FANOUT
    },
    Scenario {
        name: "in-flight-128",
        load: Load::InFlight(128),
        counting: Counting::Sends,
        bars: &[
            ratio(Metric::DeliveriesPerSecond, Peer::Bun, AtLeast(4.5)),
            absolute(Metric::MessagesPerSend, AtLeast(115.0)),
            ratio(Metric::DeliveriesPerSecond, Peer::TokioTungstenite, AtLeast(4.0)),
            ratio(Metric::DeliveriesPerSecond, Peer::Fastwebsockets, AtLeast(4.0)),
            ratio(Metric::DeliveriesPerSecond, Peer::SockudoWs, AtLeast(4.0)),
            ratio(Metric::DeliveriesPerSecond, Peer::Ws, AtLeast(4.0)),
            ratio(Metric::DeliveriesPerSecond, Peer::Nchan, AtLeast(4.0)),
            ratio(Metric::DeliveriesPerSecond, Peer::Nats, AtLeast(4.0)),
            beside_hub(Peer::Shards2, AtMost(1.15)),
        ],
        asked: &[beside_hub(Peer::Handler, AtMost(1.05)), beside_hub(Peer::Limited, AtMost(1.02))],
        beside: &[Peer::HubEpoll, Peer::K2],
        ..FANOUT
    },
    Scenario {
        name: "10k-one-topic",
        subscribers: 10_000,
        load: Load::InFlight(16),
        bars: &[ratio(Metric::DeliveriesPerSecond, Peer::Bun, AtLeast(1.35))],
        ..FANOUT
    },
    Scenario {
        name: "10k-1000-topics",
        subscribers: 10_000,
        topics: Topics::Zipf(1_000),
        load: Load::InFlight(128),
        bars: &[ratio(Metric::DeliveriesPerSecond, Peer::Bun, AtLeast(1.25))],
        ..FANOUT
    },
    Scenario {
        name: "two-topics",
        subscribers: 10_000,
        topics: Topics::Two,
        load: Load::InFlight(16),
        counting: Counting::Sends,
        bars: &[ratio(Metric::DeliveriesPerSecond, Peer::Bun, AtLeast(1.5))],
        // The shares of both topics must leave in one send.
        asked: &[ratio(Metric::SendsPerDelivery, Peer::Baseline, AtMost(0.5))],
        ..FANOUT
    },
    Scenario {
        name: "17-bytes",
        size: 17,
        load: Load::InFlight(8),
        bars: &[ratio(Metric::DeliveriesPerSecond, Peer::Bun, AtLeast(1.2))],
        ..FANOUT
    },
    Scenario {
        name: "4-kib",
        size: 4 << 10,
        load: Load::InFlight(8),
        bars: &[ratio(Metric::DeliveriesPerSecond, Peer::Bun, AtLeast(1.3))],
        ..FANOUT
    },
    Scenario {
        name: "64-kib",
        size: 64 << 10,
        load: Load::InFlight(8),
        bars: &[ratio(Metric::DeliveriesPerSecond, Peer::Bun, AtLeast(1.8))],
        ..FANOUT
    },
    Scenario {
        name: "256-kib",
        size: 256 << 10,
        load: Load::InFlight(8),
        bars: &[ratio(Metric::DeliveriesPerSecond, Peer::Bun, AtLeast(1.3))],
        ..FANOUT
    },
    Scenario { name: "half-of-bun", load: Load::Share(50, BUN), bars: LATE_BUN, ..FANOUT },
    Scenario { name: "most-of-bun", load: Load::Share(70, BUN), bars: LATE_BUN, ..FANOUT },
    Scenario { name: "half-of-crate", load: Load::Share(50, Rival::BestCrate), bars: LATE_CRATE, ..FANOUT },
    Scenario { name: "most-of-crate", load: Load::Share(70, Rival::BestCrate), bars: LATE_CRATE, ..FANOUT },
    Scenario {
        name: "echo-1",
        subscribers: 100,
        size: 64,
        load: Load::Echo(1),
        bars: &[ratio(Metric::RoundTripsPerSecond, Peer::Bun, AtLeast(1.0))],
        beside: &[Peer::K3],
        ..FANOUT
    },
    Scenario {
        name: "echo-16",
        subscribers: 100,
        size: 64,
        load: Load::Echo(16),
        bars: &[ratio(Metric::RoundTripsPerSecond, Peer::Bun, AtLeast(1.2))],
        beside: &[Peer::K3],
        ..FANOUT
    },
    Scenario {
        name: "storm",
        subscribers: 15_000,
        load: Load::Storm,
        bars: &[ratio(Metric::SecondsToAll, Peer::Bun, AtMost(0.8))],
        ..FANOUT
    },
    Scenario {
        name: "idle",
        subscribers: 15_000,
        load: Load::Idle,
        bars: &[
            absolute(Metric::UserBytes, AtMost(152.0)),
            Bar { against: Against::Above(Peer::Hold), ..absolute(Metric::AllBytes, AtMost(512.0)) },
            Bar { of: Peer::HubSse, ..absolute(Metric::UserBytes, AtMost(250.0)) },
        ],
        beside: &[Peer::Bun],
        ..FANOUT
    },
    Scenario { name: "read-64", size: 64, load: Load::Micro, bars: READ_PATH, ..FANOUT },
    Scenario { name: "read-1k", size: 1 << 10, load: Load::Micro, bars: READ_PATH, ..FANOUT },
    Scenario { name: "read-16k", size: 16 << 10, load: Load::Micro, bars: READ_PATH, ..FANOUT },
    Scenario { name: "read-64k", size: 64 << 10, load: Load::Micro, bars: READ_PATH, ..FANOUT },
    Scenario {
        name: "post",
        subscribers: 0,
        load: Load::Post(16),
        bars: &[
            ratio(Metric::RequestsPerCpuSecond, Peer::Bun, AtLeast(1.2)),
            Bar { of: Peer::HubHistory, ..ratio(Metric::CpuPerRequest, Peer::Hub, AtMost(1.3)) },
        ],
        ..FANOUT
    },
    Scenario {
        name: "calls-rate-100",
        load: Load::Rate(100),
        counting: Counting::Calls,
        bars: &[absolute(Metric::CallsPerDelivery, AtMost(1.0 / 48.0))],
        ..FANOUT
    },
    Scenario {
        name: "calls-in-flight-128",
        load: Load::InFlight(128),
        counting: Counting::Calls,
        bars: &[absolute(Metric::CallsPerDelivery, AtMost(1.0 / 500.0))],
        ..FANOUT
    },
    Scenario { name: "v1-rate-100", load: Load::OfV1(100), bars: &[beside_hub(Peer::HubV1, AtMost(1.05))], ..FANOUT },
    Scenario {
        name: "sse-rate-100",
        load: Load::Streams(100),
        bars: &[beside_hub(Peer::HubSse, AtMost(1.1))],
        ..FANOUT
    },
    Scenario { name: "stall-0", load: Load::Stall { rate: 50, percent: 0 }, bars: UNHURT, ..STALL },
    Scenario { name: "stall-1", load: Load::Stall { rate: 50, percent: 1 }, bars: UNHURT, ..STALL },
    Scenario { name: "stall-10", load: Load::Stall { rate: 50, percent: 10 }, bars: UNHURT_AND_BOUND, ..STALL },
    Scenario { name: "stall-50", load: Load::Stall { rate: 50, percent: 50 }, bars: BOUND, ..STALL },
    Scenario {
        name: "kept",
        subscribers: 0,
        load: Load::Keep { few: 20_000, many: 120_000 },
        bars: &[Bar { of: Peer::HubHistory, ..absolute(Metric::KeptBytes, AtMost(256.0)) }],
        ..FANOUT
    },
    Scenario { name: "unthrottled-17", size: 17, load: Load::Unthrottled(400_000), ..FANOUT },
];

/// The default scenarios of `compare`.
pub(crate) const USUAL: [&str; 3] = ["rate-100", "in-flight-16", "in-flight-128"];

/// The default scenarios of `compare` beside a baseline.
pub(crate) const BESIDE_BASELINE: [&str; 6] =
    ["rate-100", "in-flight-16", "in-flight-128", "two-topics", "post", "unthrottled-17"];

/// The scenarios of `results`: those with a bar.
pub(crate) fn rows() -> impl Iterator<Item = &'static Scenario> {
    SCENARIOS.iter().filter(|scenario| !scenario.bars.is_empty())
}

/// Returns the scenario of this name.
pub(crate) fn scenario(name: &str) -> Option<&'static Scenario> {
    SCENARIOS.iter().find(|scenario| scenario.name == name)
}

/// What most scenarios have.
const FANOUT: Scenario = Scenario {
    name: "",
    subscribers: 1_000,
    topics: Topics::One,
    size: 128,
    load: Load::Rate(100),
    counting: Counting::Nothing,
    bars: &[],
    asked: &[],
    beside: &[],
};

/// What the scenarios with stalled readers have: each such reader is owed more than its socket takes.
const STALL: Scenario = Scenario { size: 8 << 10, beside: &[Peer::Bun], ..FANOUT };

/// The readers that do not stall notice nothing, on either backend. Without stalled readers this shows the noise.
const UNHURT: &[Bar] = &[
    absolute(Metric::P99Stalled, AtMost(1.15)),
    absolute(Metric::ThroughputStalled, AtLeast(0.97)),
    Bar { of: Peer::HubEpoll, ..absolute(Metric::P99Stalled, AtMost(1.15)) },
    Bar { of: Peer::HubEpoll, ..absolute(Metric::ThroughputStalled, AtLeast(0.97)) },
];

/// The memory of the process stays within what the hub accounts for, and a tenth.
const BOUND: &[Bar] = &[
    absolute(Metric::MemoryOfAccounted, AtMost(1.1)),
    Bar { of: Peer::HubEpoll, ..absolute(Metric::MemoryOfAccounted, AtMost(1.1)) },
];

const UNHURT_AND_BOUND: &[Bar] = &[UNHURT[0], UNHURT[1], UNHURT[2], UNHURT[3], BOUND[0], BOUND[1]];

const BUN: Rival = Rival::Peer(Peer::Bun);

/// The hub's latency beside Bun's.
const LATE_BUN: &[Bar] = &[ratio(Metric::P50, Peer::Bun, AtMost(0.8)), ratio(Metric::P99, Peer::Bun, AtMost(0.6))];

/// The hub's latency beside that of the best server on a crate.
const LATE_CRATE: &[Bar] = &[
    Bar { against: Against::Rival(Rival::BestCrate), ..absolute(Metric::P50, AtMost(0.8)) },
    Bar { against: Against::Rival(Rival::BestCrate), ..absolute(Metric::P99, AtMost(0.6)) },
];

/// The hub's reader of frames beside those of crates.
const READ_PATH: &[Bar] = &[
    Bar { against: Against::Crate("fastwebsockets"), ..absolute(Metric::BytesPerSecond, AtLeast(1.2)) },
    Bar { against: Against::Crate("tungstenite"), ..absolute(Metric::BytesPerSecond, AtLeast(2.0)) },
];

/// A limit on the hub's median, divided by that of a peer.
const fn ratio(metric: Metric, against: Peer, limit: Limit) -> Bar {
    Bar { of: Peer::Hub, metric, against: Against::Rival(Rival::Peer(against)), limit }
}

/// A limit on the hub's median.
const fn absolute(metric: Metric, limit: Limit) -> Bar {
    Bar { of: Peer::Hub, metric, against: Against::Nothing, limit }
}

/// A limit on the CPU time per delivery of another server of this project, divided by the hub's.
const fn beside_hub(of: Peer, limit: Limit) -> Bar {
    Bar { of, metric: Metric::CpuPerDelivery, against: Against::Rival(Rival::Peer(Peer::Hub)), limit }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{SATURATION, Verdict};
    use clap::ValueEnum as _;
    use std::collections::BTreeSet;

    #[test]
    fn every_row_has_a_bar_that_can_be_missed() {
        for scenario in rows() {
            for bar in scenario.bars {
                let (Limit::AtMost(limit) | Limit::AtLeast(limit)) = bar.limit;
                assert!(limit > 0.0 && limit.is_finite(), "{}", scenario.name);
                let verdicts = [0.0, limit, limit * 1e6].map(|value| bar.limit.judge(value));
                assert!(verdicts.contains(&Verdict::Missed) && verdicts.contains(&Verdict::Met), "{}", scenario.name);
                assert!(scenario.metrics().contains(&bar.metric), "{}: {:?}", scenario.name, bar.metric);
            }
        }
        assert!(rows().count() >= 25);
    }

    #[test]
    fn names_and_loads_are_unique() {
        let names: BTreeSet<&str> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
        let loads: BTreeSet<String> = SCENARIOS.iter().map(Scenario::description).collect();
        assert_eq!([names.len(), loads.len()], [SCENARIOS.len(); 2]);
        for name in USUAL.iter().chain(&BESIDE_BASELINE).chain([&SATURATION]) {
            assert!(names.contains(name), "{name}");
        }
    }

    #[test]
    fn the_saturation_is_measured_before_its_shares() {
        let place = |wanted: &dyn Fn(&Scenario) -> bool| SCENARIOS.iter().position(wanted).unwrap();
        let first_share = place(&|scenario| matches!(scenario.load, Load::Share(..)));
        assert!(place(&|scenario| scenario.name == SATURATION) < first_share);
        // Every rival of a share is measured there.
        let saturated = scenario(SATURATION).unwrap().named_servers(None);
        let crates = Peer::value_variants().iter().filter(|peer| peer.is_on_a_crate());
        assert!(crates.chain([&Peer::Bun, &Peer::Hub]).all(|peer| saturated.contains(peer)), "{saturated:?}");
    }

    #[test]
    fn every_named_server_can_take_part() {
        for scenario in SCENARIOS {
            let named = scenario.named_servers(Some(Peer::Fastwebsockets));
            assert_eq!(scenario.servers(&named), named, "{}", scenario.name);
            let all = [scenario.bars, scenario.asked].concat();
            let judged: Vec<Peer> = all.iter().map(|bar| bar.of).collect();
            assert!(scenario.load == Load::Micro || scenario.servers(&judged) == judged, "{}", scenario.name);
        }
    }

    #[test]
    fn scenarios_beside_a_baseline_are_held_against_it() {
        for name in BESIDE_BASELINE {
            let scenario = scenario(name).unwrap();
            let own = scenario.bars.len() + scenario.asked.len();
            let beside: Vec<Bar> = scenario.compared_bars().skip(own).collect();
            assert!(beside.iter().all(|bar| bar.against == Against::Rival(Rival::Peer(Peer::Baseline))));
            assert!(scenario.compared_bars().all(|bar| scenario.metrics().contains(&bar.metric)), "{name}");
            // A ratio that is worse by up to 3 % meets the bar, one beyond that does not.
            let verdicts = |ratio| beside.iter().map(|bar| bar.limit.judge(ratio)).collect::<Vec<_>>();
            assert_eq!(verdicts(1.04), [Verdict::Missed, Verdict::Met]);
            assert_eq!(verdicts(0.96), [Verdict::Met, Verdict::Missed]);
        }
    }

    #[test]
    fn servers_take_part_in_what_they_can_do() {
        let check = |name: &str, servers: &[Peer], expected: &[Peer]| {
            assert_eq!(scenario(name).unwrap().servers(servers), expected, "{name}");
        };
        let servers = [Peer::Hub, Peer::Bun, Peer::K2, Peer::K3, Peer::Hold, Peer::Baseline];
        check("post", &servers, &[Peer::Hub, Peer::Bun, Peer::Baseline]);
        check("two-topics", &servers, &[Peer::Hub, Peer::Bun, Peer::Baseline]);
        check("rate-100", &servers, &[Peer::Hub, Peer::Bun, Peer::K2, Peer::Baseline]);
        check("10k-1000-topics", &servers, &[Peer::Hub, Peer::Bun, Peer::Baseline]);
        check("echo-1", &servers, &[Peer::Hub, Peer::Bun, Peer::K3, Peer::Baseline]);
        check("idle", &servers, &servers);
        check("read-64", &servers, &[]);
    }
}
