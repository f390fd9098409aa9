//! Compares a report with the table of its fields in docs/loadgen-report.md.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// The documented fields: the path of each, and its type.
pub(crate) fn documented() -> BTreeMap<String, String> {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/loadgen-report.md")).unwrap();
    let table = page.split_once("| field | type | meaning |").unwrap().1;
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|')).map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        (cells[1].trim_matches('`').to_owned(), cells[2].to_owned())
    });
    let rows: BTreeMap<String, String> = rows.collect();
    assert!(rows.len() > 90, "{rows:?}");
    rows
}

/// Checks the type of each field of a report, and that it is documented. Returns the paths of all fields.
#[track_caller]
pub(crate) fn check(report: &Value) -> BTreeSet<String> {
    let documented = documented();
    let mut found = BTreeSet::new();
    walk(report, "", &mut |path, value| {
        // Fields that have those of another field are documented there. A scenario's own figures are its own.
        let path = path.replace("latency_uncorrected", "latency").replace("distribution_uncorrected", "distribution");
        let path = path.replace("memory_after.", "memory_before.");
        if path.starts_with("scenario_figures.") {
            return;
        }
        let kind = documented.get(&path).unwrap_or_else(|| panic!("{path} is not documented"));
        let is_right = kind.split(" or ").any(|kind| match kind {
            "integer" => value.is_u64(),
            "number" => value.is_f64(),
            "text" => value.is_string(),
            "boolean" => value.is_boolean(),
            "list" => value.is_array(),
            "object" => value.is_object(),
            "null" => value.is_null(),
            other => panic!("{path}: {other} is no type"),
        });
        assert!(is_right, "{path}: {value} is no {kind}");
        found.insert(path);
    });
    found
}

fn walk(value: &Value, path: &str, see: &mut impl FnMut(&str, &Value)) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                see(&path, field);
                walk(field, &path, see);
            }
        }
        Value::Array(entries) => {
            for entry in entries {
                let path = format!("{path}[]");
                // The fields of an object stand for it.
                if !entry.is_object() {
                    see(&path, entry);
                }
                walk(entry, &path, see);
            }
        }
        _ => {}
    }
}
