//! The rows of the read path: they come from `bench/run micro`, which measures parts of the hub in memory.

use crate::distance::{Placement, hop_ns};
use crate::metric::{Metric, Values};
use crate::peers::{LOAD_CPU, Peer, SERVER_CPU};
use crate::results::ROUNDS;
use crate::run::{Elsewhere, Run};
use crate::scenario::Scenario;
use crate::tools::{OUTPUT, succeed};
use serde::Deserialize;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::Command;

/// A case of `bench/run micro` beside a crate: the medians of both sides.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Case {
    /// The name of the case, and after a comma that of the crate.
    name: String,
    unit: String,
    ours: f64,
    #[serde(rename = "crate")]
    of_crate: f64,
    /// The least and the greatest ratio of both sides in one round.
    ratio_crate_extremes: [f64; 2],
    rounds: usize,
}

/// Runs the benchmarks, and returns their cases.
///
/// # Errors
/// An error is returned if the benchmarks do not run, or leave no file that is understood.
pub(crate) fn measure() -> Result<Vec<Case>, Box<dyn Error>> {
    let rounds = ROUNDS.to_string();
    succeed(Command::new(std::env::current_exe()?).args(["micro", "--rounds", &rounds, FILTER]))?;
    read(&Path::new(OUTPUT).join("micro.json"))
}

fn read(path: &Path) -> Result<Vec<Case>, Box<dyn Error>> {
    let text = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()).into())
}

/// Returns the runs of a row, whose servers are readers of frames.
///
/// # Errors
/// An error is returned if a case of the row is missing, or is in another unit.
pub(crate) fn runs(cases: &[Case], row: &Scenario) -> Result<Vec<Run>, String> {
    let size = if row.size < 1_024 { format!("{} B", row.size) } else { format!("{} KiB", row.size / 1_024) };
    let hop = hop_ns(SERVER_CPU, LOAD_CPU);
    let run = |server: &str, bytes: f64, elsewhere: Option<Elsewhere>| Run {
        round: 0,
        scenario: row.name.to_owned(),
        server: server.to_owned(),
        rate: None,
        server_command: String::new(),
        load_command: format!("bench/run micro --rounds {ROUNDS} '{FILTER}'"),
        failure: None,
        disturbed: false,
        disturbance: None,
        is_limited: false,
        hops_ns: [hop; 2],
        placement: Placement::of(hop),
        values: Values::from([(Metric::BytesPerSecond, bytes / 1e6)]),
        elsewhere,
        report: None,
        requests: None,
    };
    let mut runs = Vec::new();
    for bar in row.bars {
        let crate_name = bar.against.name(None);
        let name = format!("{FILTER}, {size}, {crate_name}");
        let case = cases.iter().find(|case| case.name == name).ok_or_else(|| format!("micro has no case `{name}`"))?;
        let &Case { ref unit, ours, of_crate, ratio_crate_extremes: spread, rounds, .. } = case;
        if unit != UNIT {
            return Err(format!("the case `{name}` is in {unit}, not in {UNIT}"));
        }
        if runs.is_empty() {
            runs.push(run(Peer::Hub.name(), ours, None));
        }
        runs.push(run(crate_name, of_crate, Some(Elsewhere { rounds, spread })));
    }
    Ok(runs)
}

const UNIT: &str = "bytes/s";

/// The begin of the cases' names, by which the benchmarks are chosen.
const FILTER: &str = "read path";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::{Found, Sample};
    use crate::scenario::{Load, Verdict};
    use crate::table::{rows, scenario};

    fn case(name: &str, unit: &str, ours: f64, of_crate: f64) -> Case {
        let text = format!(
            r#"{{"name":"{name}","unit":"{unit}","ours":{ours},"reference":1.0,"crate":{of_crate},"ratio_reference":1.0,
            "ratio_crate":1.0,"ratio_crate_extremes":[1.25,1.75],"rounds":9}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_row_takes_its_cases() {
        let cases = [
            case("unmasking, 64 B, fastwebsockets", UNIT, 1.0, 1.0),
            case("read path, 64 B, fastwebsockets", UNIT, 3e9, 2e9),
            case("read path, 64 B, tungstenite", UNIT, 3e9, 2e9),
        ];
        let row = scenario("read-64").unwrap();
        let runs = runs(&cases, row).unwrap();
        assert_eq!(runs.len(), 3);
        let sample = Sample::deepest(row.name, &runs).unwrap();
        let found = |verdict| Some(Found { value: 1.5, spread: [1.25, 1.75], rounds: 9, verdict });
        let judged: Vec<_> = row.bars.iter().map(|bar| sample.judge(bar, None)).collect();
        assert_eq!(judged, [found(Verdict::Met), found(Verdict::Missed)]);
    }

    #[test]
    fn a_missing_case_or_another_unit_is_named() {
        let row = scenario("read-1k").unwrap();
        let name = "read path, 1 KiB, fastwebsockets";
        assert_eq!(runs(&[], row).unwrap_err(), format!("micro has no case `{name}`"));
        let other = case(name, "messages/s", 1.0, 1.0);
        assert_eq!(runs(&[other], row).unwrap_err(), format!("the case `{name}` is in messages/s, not in {UNIT}"));
        assert!(read(Path::new("no such file")).is_err_and(|error| error.to_string().starts_with("no such file: ")));
    }

    #[test]
    fn every_row_of_the_read_path_has_a_size_of_the_cases() {
        let sizes: Vec<usize> = rows().filter(|row| row.load == Load::Micro).map(|row| row.size).collect();
        assert_eq!(sizes, [64, 1_024, 16 * 1_024, 64 * 1_024]);
    }
}
