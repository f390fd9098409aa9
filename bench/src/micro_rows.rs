//! The rows of the read path: they come from `bench/run micro`, which measures parts of the hub in memory.

use crate::distance::{Placement, hop_ns};
use crate::metric::{Metric, Values};
use crate::peers::{LOAD_CPU, Peer, SERVER_CPU};
use crate::results::Described;
use crate::run::Run;
use crate::scenario::Scenario;
use crate::tools::{OUTPUT, succeed};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::Command;

/// A case of `bench/run micro`: the medians of all sides.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Case {
    name: String,
    unit: String,
    ours: f64,
    /// The crates' figures by their names.
    crates: BTreeMap<String, f64>,
}

/// Runs the benchmarks, and returns their cases.
///
/// # Errors
/// An error is returned if the benchmarks do not run, or leave no file that is understood.
pub(crate) fn measure() -> Result<Vec<Case>, Box<dyn Error>> {
    succeed(Command::new(std::env::current_exe()?).arg("micro"))?;
    read(&Path::new(OUTPUT).join("micro.json"))
}

fn read(path: &Path) -> Result<Vec<Case>, Box<dyn Error>> {
    let text = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()).into())
}

/// Returns the servers and runs of a row, whose servers are readers of frames.
///
/// # Errors
/// An error is returned if no case is that of the row.
pub(crate) fn runs(cases: &[Case], row: &Scenario) -> Result<(Vec<Described>, Vec<Run>), String> {
    let size = if row.size < 1_024 { format!("{} B", row.size) } else { format!("{} KiB", row.size / 1_024) };
    let name = format!("read path, {size}");
    let case = cases.iter().find(|case| case.name == name).ok_or_else(|| format!("micro has no case `{name}`"))?;
    if case.unit != UNIT {
        return Err(format!("the case `{name}` is in {}, not in {UNIT}", case.unit));
    }
    let hop = hop_ns(SERVER_CPU, LOAD_CPU);
    let sides = case.crates.iter().map(|(name, value)| (name.as_str(), *value));
    let sides = [(Peer::Hub.name(), case.ours)].into_iter().chain(sides);
    let run = |(server, bytes): (&str, f64)| Run {
        round: 0,
        scenario: row.name.to_owned(),
        server: server.to_owned(),
        rate: None,
        server_command: String::new(),
        load_command: "bench/run micro".to_owned(),
        failure: None,
        disturbed: false,
        hops_ns: [hop; 2],
        placement: Placement::of(hop),
        values: Values::from([(Metric::BytesPerSecond, bytes / 1e6)]),
        report: None,
        requests: None,
    };
    Ok((Vec::new(), sides.map(run).collect()))
}

const UNIT: &str = "bytes/s";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::Sample;
    use crate::scenario::{Load, Verdict};
    use crate::table::{rows, scenario};

    fn cases(text: &str) -> Vec<Case> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_row_takes_its_case() {
        let cases = cases(
            r#"[{"name":"unmasking, 64 B","unit":"bytes/s","ours":1,"reference":1,"crates":{}},
                {"name":"read path, 64 B","unit":"bytes/s","ours":3e9,"reference":1,
                 "crates":{"fastwebsockets":2e9,"tungstenite":2e9},"rounds":9}]"#,
        );
        let row = scenario("read-64").unwrap();
        let (_, runs) = runs(&cases, row).unwrap();
        let sample = Sample::deepest(row.name, &runs).unwrap();
        let verdicts = row.bars.iter().map(|bar| sample.judge(bar, None).map(|found| (found.value, found.verdict)));
        assert_eq!(verdicts.collect::<Vec<_>>(), [Some((1.5, Verdict::Met)), Some((1.5, Verdict::Missed))]);
    }

    #[test]
    fn a_missing_case_or_another_unit_is_named() {
        let row = scenario("read-1k").unwrap();
        assert_eq!(runs(&[], row).unwrap_err(), "micro has no case `read path, 1 KiB`");
        let other = cases(r#"[{"name":"read path, 1 KiB","unit":"ns","ours":1,"crates":{}}]"#);
        assert_eq!(runs(&other, row).unwrap_err(), "the case `read path, 1 KiB` is in ns, not in bytes/s");
        assert!(read(Path::new("no such file")).is_err_and(|error| error.to_string().starts_with("no such file: ")));
    }

    #[test]
    fn every_row_of_the_read_path_has_a_size_of_the_cases() {
        let sizes: Vec<usize> = rows().filter(|row| row.load == Load::Micro).map(|row| row.size).collect();
        assert_eq!(sizes, [64, 1_024, 16 * 1_024, 64 * 1_024]);
    }
}
