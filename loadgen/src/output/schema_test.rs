//! The page docs/loadgen-report.md names every field of a report, and no other.

#[path = "../../tests/support/schema.rs"]
mod schema;

use super::testing::{bare, report};
use crate::process::Memory;
use crate::report::SCHEMA_VERSION;
use crate::scenario_figures::{MemoryStep, RampStep, ScenarioFigures, StormRound};
use std::collections::BTreeSet;

#[test]
fn every_field_is_documented_and_every_documented_field_is_there() {
    let found = schema::check(&serde_json::to_value(report()).unwrap());
    let left = |path: &String| {
        let repeated = ["figures.latency_uncorrected", "figures.distribution_uncorrected"];
        !found.contains(path) && !repeated.contains(&path.as_str())
    };
    assert_eq!(schema::documented().into_keys().filter(left).collect::<Vec<_>>(), Vec::<String>::new());
    schema::check(&serde_json::to_value(bare()).unwrap());
}

#[test]
fn the_page_has_the_version_and_the_formula_of_the_buckets() {
    let page = include_str!("../../../docs/loadgen-report.md");
    assert!(page.contains(&format!("`schema_version` is {SCHEMA_VERSION}.")));
    assert!(page.contains("`(8 + (b - 1) % 8) << ((b - 1) / 8 + 7)`"));
    for bucket in 1..200 {
        assert_eq!(crate::moment::bucket_start_ns(bucket), (8 + (bucket as u64 - 1) % 8) << ((bucket - 1) / 8 + 7));
    }
}

#[test]
fn a_report_before_the_schema_had_a_version_is_read() {
    let old = r#"{"outcome":"exact","void":false,"void_reasons":[],"disconnections":[],"subscribers":1,"publishers":1,
        "size":128,"load":"rate 1","verified_subscribers":1,"counts":{"published":1,"expected":1,"lost":0,
        "duplicated":0,"reordered":0,"foreign":0,"corrupt":0,"disconnected":0,"other_orders":0},"figures":null,
        "memory_before":null,"memory_after":null}"#;
    let report: crate::Report = serde_json::from_str(old).unwrap();
    assert_eq!((report.schema_version, report.counts.expected), (0, 1));
}

#[test]
fn every_figure_of_a_scenario_is_documented_and_every_documented_one_is_there() {
    let memory = MemoryStep { connections: 1, memory: Memory::default() };
    let round = StormRound { seconds: 1.0, per_second: 1.0, refused: 0, back: None };
    let step =
        RampStep { level: 1, deliveries_per_second: 1.0, missing: 0, unpublished: 0, latency: None, is_kept: true };
    let mut found = BTreeSet::new();
    for figures in [
        ScenarioFigures::Echo { depth: 1, round_trips_per_second: 1.0 },
        ScenarioFigures::Idle { steps: vec![memory], bytes_per_connection: None },
        ScenarioFigures::Storm { connections: 1, rounds: vec![round] },
        ScenarioFigures::Churn { left: 0, joined: 0, refused: 0, join: None },
        ScenarioFigures::Stall { stalled: 0, ended: 0, missed: 0, before: None, during: None },
        ScenarioFigures::Ramp { by: String::new(), steps: vec![step], knee: None, end: None },
        ScenarioFigures::Replay { messages: 0, seconds: 0.0 },
    ] {
        let value = serde_json::to_value(figures).unwrap();
        let kind = value["kind"].as_str().unwrap();
        for (name, field) in value.as_object().unwrap().iter().filter(|(name, _)| *name != "kind") {
            match field.get(0).and_then(serde_json::Value::as_object) {
                Some(entry) => found.extend(entry.keys().map(|key| format!("{kind} {name}[].{key}"))),
                None => {
                    found.insert(format!("{kind} {name}"));
                }
            }
        }
    }
    let page = include_str!("../../../docs/loadgen-report.md");
    let table = page.split_once("| `kind` | field | type | meaning |").unwrap().1;
    let mut kind = "";
    let mut documented = BTreeSet::new();
    for line in table.lines().skip(2).take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        kind = if cells[1].is_empty() { kind } else { cells[1].trim_matches('`') };
        documented.extend(cells[2].split(", ").map(|field| format!("{kind} {}", field.trim_matches('`'))));
    }
    assert_eq!(found, documented);
}
