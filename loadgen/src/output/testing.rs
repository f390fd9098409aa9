//! A report for tests, with every field filled.

use crate::machine::Machine;
use crate::moment::{LatencyBuckets, Moment};
use crate::process::{Cpu, Memory};
use crate::report::{
    Counts, Distribution, Figures, GeneratorFigures, Latency, Opening, Outcome, Report, SCHEMA_VERSION, ServerFigures,
    SubscriberCounts,
};
use crate::scenario_figures::{MemoryStep, RampStep, ScenarioFigures, StormRound};
use hdrhistogram::Histogram;

/// Returns a report of a run that went wrong a little, in every field.
pub(crate) fn report() -> Report {
    let memory = Memory { rss: Some(9 << 20), rss_peak: Some(10 << 20), rss_anon: Some(3 << 20), pss: Some(8 << 20) };
    Report {
        schema_version: SCHEMA_VERSION,
        program: Some("ringhub-loadgen 0.1.0".to_owned()),
        command_line: ["ringhub-loadgen", "--rate", "1000", "--url", "ws://127.0.0.1:1/t/<x>"]
            .map(str::to_owned)
            .to_vec(),
        assertions: vec!["p99<5ms".parse::<super::Assertion>().expect("an assertion").check(&bare())],
        started_unix_ms: Some(1_790_000_000_000),
        machine: Some(Machine {
            cpu_model: Some("A CPU & more".to_owned()),
            cpus: 2,
            kernel: "Linux 6.18.0".to_owned(),
            architecture: "x86_64".to_owned(),
        }),
        interrupted: true,
        early_end: Some("nothing arrived for 5 s".to_owned()),
        opening: Some(Opening::of(1_001, 250_000_000)),
        foreign_sample: vec!["<script>document.title='bad'</script>".to_owned()],
        corrupt_sample: vec!["changed".to_owned()],
        misrouted_sample: vec!["of another topic".to_owned()],
        hints: vec!["--sleep may help".to_owned()],
        affected_subscribers: vec![SubscriberCounts { subscriber: 7, lost: 2, duplicated: 1, ..Default::default() }],
        scenario_figures: Some(scenario_figures()),
        figures: Some(figures()),
        memory_before: Some(memory),
        memory_after: Some(memory),
        ..bare()
    }
}

/// Returns the figures of some scenario.
pub(crate) fn scenario_figures() -> ScenarioFigures {
    ScenarioFigures::Echo { depth: 4, round_trips_per_second: 1_000.0 }
}

/// Returns the figures of all scenarios that have some, with every field filled.
pub(crate) fn all_scenario_figures() -> Vec<ScenarioFigures> {
    let latency = Some(Latency { p50_ns: 1, p90_ns: 2, p99_ns: 3, p99_9_ns: 4, max_ns: 5, count: 6 });
    let memory = Memory { rss: Some(9 << 20), rss_peak: Some(10 << 20), rss_anon: Some(3 << 20), pss: Some(8 << 20) };
    let round = StormRound { seconds: 1.0, per_second: 1.0, refused: 0, missing: 0, back: latency };
    let step = |level, is_kept| RampStep {
        level,
        deliveries_per_second: 1.0,
        missing: 0,
        unpublished: 0,
        disconnected: 0,
        latency,
        is_kept,
    };
    vec![
        scenario_figures(),
        ScenarioFigures::Idle { steps: vec![MemoryStep { connections: 1, memory }], bytes_per_connection: Some(100.0) },
        ScenarioFigures::Storm { connections: 1, rounds: vec![round, StormRound { seconds: 2.0, ..round }] },
        ScenarioFigures::Churn { left: 1, joined: 1, refused: 0, join: latency },
        ScenarioFigures::Stall {
            stalled: 1,
            ended: 0,
            missed: 0,
            before: latency,
            during: latency,
            memory: Some(memory),
        },
        ScenarioFigures::Ramp {
            by: "messages/s".to_owned(),
            p99_bound_ns: Some(4),
            steps: vec![step(100, true), step(200, false)],
            knee: Some(100),
            end: Some("p99 exceeded the bound".to_owned()),
        },
        ScenarioFigures::Replay { messages: 1, seconds: 1.0 },
    ]
}

/// Returns a report without anything that may be left out.
pub(crate) fn bare() -> Report {
    Report {
        schema_version: SCHEMA_VERSION,
        program: None,
        command_line: Vec::new(),
        assertions: Vec::new(),
        started_unix_ms: None,
        machine: None,
        scenario: "fanout".to_owned(),
        interrupted: false,
        early_end: None,
        ignore_foreign: false,
        opening: None,
        foreign_sample: Vec::new(),
        corrupt_sample: Vec::new(),
        misrouted_sample: Vec::new(),
        affected_subscribers: Vec::new(),
        scenario_figures: None,
        outcome: Outcome::Broken,
        void: false,
        void_reasons: vec!["the machine was busy with something else".to_owned()],
        disturbances: vec!["the machine was busy with something else".to_owned()],
        bottleneck: None,
        disconnections: vec!["subscriber 3: closed by the server with 1008".to_owned()],
        hints: Vec::new(),
        subscribers: 1_000,
        publishers: 1,
        size: 128,
        load: "rate 1000".to_owned(),
        verified_subscribers: 1_000,
        counts: Counts { published: 6_000, expected: 6_000_000, lost: 2, duplicated: 1, ..Counts::default() },
        figures: None,
        memory_before: None,
        memory_after: None,
        total_order: false,
    }
}

/// Returns figures of 60 moments whose latency rises in the middle.
pub(crate) fn figures() -> Figures {
    let bounds = || Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("valid bounds");
    let (mut corrected, mut uncorrected) = (bounds(), bounds());
    let series = (0..60_u64).map(|place| {
        let mut buckets = LatencyBuckets::default();
        let hump = if (25..35).contains(&place) { 40 } else { 1 };
        for step in 0..1_000_u64 {
            // A few deliveries in a thousand take much longer.
            let tail = if step % 250 == 249 { 12 } else { 1 };
            let latency_ns = (150_000 + step * 700 + place * 1_000) * hump * tail;
            buckets.record(latency_ns);
            corrected.saturating_record(latency_ns);
            uncorrected.saturating_record(latency_ns / hump);
        }
        Moment {
            at_ns: (place + 1) * 100_000_000,
            span_ns: 100_000_000,
            deliveries: 100_000 - place % 7 * 1_000,
            published: 100,
            connections: 1_001,
            lost: Some(place / 30),
            server_cpu_ns: Some(60_000_000 + place % 3 * 10_000_000),
            own_cpu_ns: 90_000_000,
            latency: buckets.row(),
        }
    });
    Figures {
        seconds: 6.0,
        series: series.collect(),
        deliveries: 6_000_000,
        deliveries_per_second: 1_000_000.0,
        messages_per_read: 1.25,
        latency: Latency::from_histogram(&corrected),
        latency_uncorrected: Latency::from_histogram(&uncorrected),
        distribution: Distribution::from_histogram(&corrected),
        distribution_uncorrected: Distribution::from_histogram(&uncorrected),
        generator: GeneratorFigures { cpu_ns: 5_400_000_000, cores: 0.9, cpu_ns_per_delivery: 900.0, spare: 0.4 },
        server: Some(ServerFigures {
            cpu: Cpu { user_ns: 1_200_000_000, system_ns: 3_000_000_000 },
            cores: 0.7,
            cpu_ns_per_delivery: 700.0,
            other_cores: 0.05,
        }),
    }
}
