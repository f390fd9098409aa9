//! The page docs/loadgen-report.md names every field of a report, and no other.

#[path = "../../tests/support/schema.rs"]
mod schema;

use super::testing::{bare, report};
use crate::report::SCHEMA_VERSION;

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
