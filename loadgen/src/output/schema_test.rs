//! The page docs/loadgen-report.md names every field of a report, and no other.

#[path = "../../tests/support/schema.rs"]
mod schema;

use super::testing::{all_scenario_figures, bare, report};
use crate::report::SCHEMA_VERSION;
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
    let mut found = BTreeSet::new();
    for figures in all_scenario_figures() {
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
