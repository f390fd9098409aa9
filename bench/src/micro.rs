//! `bench/run micro`: runs the benchmarks of `bench/benches/micro` in rounds, and writes their figures beside each
//! other.
//!
//! A figure is what a side does in a second: the median over the rounds of criterion's medians. A ratio is the median
//! of the rounds' ratios, since a round's sides run within seconds of each other. So it matters less that a machine is
//! faster in one round than in the next.

use crate::peers::SERVER_CPU;
use crate::record::Circumstances;
use crate::statistics::Summary;
use crate::tools::{OUTPUT, cargo, pinned, succeed};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::Path;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// How often every benchmark is run.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Measure roughly, to see that everything works. The build takes as long as without this.
    #[arg(long)]
    quick: bool,
    /// Run only benchmarks whose name has this text.
    filter: Option<String>,
}

/// Runs the benchmarks, prints their figures, and writes [`KEPT`].
pub(crate) fn micro(options: &Options) -> Result<bool, Box<dyn Error>> {
    check_filter(options.filter.as_deref())?;
    let criterion = std::path::absolute(Path::new(OUTPUT).join("criterion"))?;
    let circumstances = Circumstances::now();
    let mut rounds = Vec::new();
    eprintln!("building the benchmarks, which takes minutes the first time");
    for _ in 0..options.rounds {
        // The figures of another round, or of a benchmark that is no more, are not taken for those of this round.
        if criterion.exists() {
            fs::remove_dir_all(&criterion)?;
        }
        let mut bench = pinned(SERVER_CPU, Path::new(cargo().get_program()));
        bench.args(["bench", "--package", "ringhub-bench", "--bench", "micro", "--"]).env("CRITERION_HOME", &criterion);
        succeed(bench.args(options.quick.then_some("--quick")).args(&options.filter))?;
        let round = figures(&criterion)?;
        if let (Some(filter), true) = (&options.filter, round.is_empty()) {
            return Err(format!("no benchmark has a name with {filter:?}").into());
        }
        rounds.push(round);
    }
    let rows = rows(&rounds)?;
    rows.iter().for_each(|row| println!("{}", row.line()));
    fs::write(KEPT, serde_json::to_string_pretty(&rows)?)?;
    fs::write(CIRCUMSTANCES, serde_json::to_string_pretty(&circumstances)?)?;
    println!("{KEPT} has these figures");
    Ok(true)
}

/// Checks that a case has a name with this text, before the build, which takes minutes.
fn check_filter(filter: Option<&str>) -> Result<(), String> {
    match filter {
        Some(filter) if !CASES.iter().any(|case| case.contains(filter)) => {
            Err(format!("no benchmark has a name with {filter:?}; there are: {}", CASES.join("; ")))
        }
        _ => Ok(()),
    }
}

/// What the sides of a case do in a second, in one round.
#[derive(Default)]
struct Figures {
    unit: String,
    ours: f64,
    reference: f64,
    crates: BTreeMap<String, f64>,
}

/// A case beside one crate.
#[derive(Debug, PartialEq, Serialize)]
struct Row {
    /// The name of the case, and after a comma that of the crate.
    name: String,
    /// What the case does in a second.
    unit: String,
    ours: f64,
    reference: f64,
    #[serde(rename = "crate")]
    of_crate: f64,
    /// Ours by the reference, and ours by the crate: above 1 ours is faster.
    ratio_reference: f64,
    ratio_crate: f64,
    /// The lowest and the highest `ratio_crate` of a round.
    ratio_crate_extremes: [f64; 2],
    rounds: usize,
}

impl Row {
    fn line(&self) -> String {
        let [low, high] = self.ratio_crate_extremes;
        format!(
            "{:58} {:>9.3e} {:13} {:6.2} x reference {:6.2} x crate ({low:.2} to {high:.2})",
            self.name, self.ours, self.unit, self.ratio_reference, self.ratio_crate
        )
    }
}

/// Returns the figures of a round by the names of the cases, from the files that criterion has written.
fn figures(criterion: &Path) -> Result<BTreeMap<String, Figures>, Box<dyn Error>> {
    let mut cases = BTreeMap::<String, Figures>::new();
    for group in subfolders(criterion)? {
        for side in subfolders(&group)? {
            // The folder `CASE/SIDE/NOUN` has the folder `new`; a report of the group has none.
            for noun in subfolders(&side)? {
                let new = noun.join("new");
                if new.join("benchmark.json").exists() {
                    add_figure(&mut cases, &new)?;
                }
            }
        }
    }
    Ok(cases)
}

fn subfolders(folder: &Path) -> Result<Vec<std::path::PathBuf>, Box<dyn Error>> {
    let entries = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    Ok(entries.into_iter().filter(|path| path.is_dir()).collect())
}

fn add_figure(cases: &mut BTreeMap<String, Figures>, folder: &Path) -> Result<(), Box<dyn Error>> {
    let benchmark: Benchmark = serde_json::from_str(&fs::read_to_string(folder.join("benchmark.json"))?)?;
    let estimates: Estimates = serde_json::from_str(&fs::read_to_string(folder.join("estimates.json"))?)?;
    let (Throughput::Bytes(number) | Throughput::Elements(number)) = benchmark.throughput;
    let in_a_second = number as f64 / estimates.median.point_estimate * 1e9;
    let figures = cases.entry(benchmark.group_id).or_default();
    figures.unit = format!("{}/s", benchmark.value_str);
    match benchmark.function_id.as_str() {
        "ours" => figures.ours = in_a_second,
        "reference" => figures.reference = in_a_second,
        name => drop(figures.crates.insert(name.to_owned(), in_a_second)),
    }
    Ok(())
}

/// Criterion's description of a benchmark, as far as it is used here.
#[derive(Deserialize)]
struct Benchmark {
    group_id: String,
    function_id: String,
    value_str: String,
    throughput: Throughput,
}

#[derive(Deserialize)]
enum Throughput {
    Bytes(u64),
    Elements(u64),
}

/// Criterion's estimates of the time of one call, in nanoseconds.
#[derive(Deserialize)]
struct Estimates {
    median: Estimate,
}

#[derive(Deserialize)]
struct Estimate {
    point_estimate: f64,
}

/// Returns a row for each case and crate.
///
/// # Errors
///
/// A round has not measured what another has.
fn rows(rounds: &[BTreeMap<String, Figures>]) -> Result<Vec<Row>, Box<dyn Error>> {
    let first = rounds.first().ok_or("no round was run")?;
    if first.is_empty() {
        return Err("no benchmark has such a name".into());
    }
    let mut rows = Vec::new();
    for (case, figures) in first {
        for name in figures.crates.keys() {
            let missing = || format!("a round lacks a side of {case}: a filter must name a whole case");
            let of_rounds: Option<Vec<[f64; 3]>> = rounds
                .iter()
                .map(|round| {
                    let figures = round.get(case)?;
                    let sides = [figures.ours, figures.reference, *figures.crates.get(name)?];
                    sides.iter().all(|&figure| figure > 0.0).then_some(sides)
                })
                .collect();
            rows.push(row(format!("{case}, {name}"), figures.unit.clone(), &of_rounds.ok_or_else(missing)?));
        }
    }
    Ok(rows)
}

/// Returns the row of a case and a crate, from what ours, the reference and the crate do in a second in each round.
fn row(name: String, unit: String, rounds: &[[f64; 3]]) -> Row {
    let summary = |figure: fn(&[f64; 3]) -> f64| Summary::of(rounds.iter().map(figure)).expect("there are rounds");
    let by_crate = summary(|sides| sides[0] / sides[2]);
    Row {
        name,
        unit,
        ours: summary(|sides| sides[0]).median,
        reference: summary(|sides| sides[1]).median,
        of_crate: summary(|sides| sides[2]).median,
        ratio_reference: summary(|sides| sides[0] / sides[1]).median,
        ratio_crate: by_crate.median,
        ratio_crate_extremes: [by_crate.min, by_crate.max],
        rounds: rounds.len(),
    }
}

/// The names of all cases, by which a filter is checked before the build.
const CASES: &[&str] = &[
    "read path, 64 B",
    "read path, 1 KiB",
    "read path, 16 KiB",
    "read path, 64 KiB",
    "read path, 1 KiB of many scripts",
    "read path, 64 B in 4 fragments",
    "read path, 1 KiB in 4 fragments",
    "read path, 16 KiB in 4 fragments",
    "read path, 64 KiB in 4 fragments",
    "unmask, 64 B",
    "unmask, 1 KiB",
    "unmask, 16 KiB",
    "unmask, 64 KiB",
    "UTF-8, 64 B of ASCII",
    "UTF-8, 1 KiB of ASCII",
    "UTF-8, 16 KiB of ASCII",
    "UTF-8, 64 KiB of ASCII",
    "UTF-8, 1 KiB of many scripts",
    "header codec",
    "topic publish, 1 message to 1 000",
    "topic publish, 16 messages to 1 000",
    "lane hop",
    "encoding, 128 B",
    "encoding, 4 KiB",
    "history, keep with 10 000",
    "history, page amid 10 000",
    "history, last of 10 000",
];

/// The files of the figures, and of the machine and the commit that they are from.
const KEPT: &str = "target/bench/micro.json";
const CIRCUMSTANCES: &str = "target/bench/micro-circumstances.json";

#[cfg(test)]
#[path = "../benches/micro/cases/mod.rs"]
mod cases;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_sides_of_a_benchmark_have_the_same_results() {
        cases::check();
    }

    #[test]
    fn a_filter_is_checked_before_the_build() {
        let names: Vec<String> = cases::all().into_iter().map(|case| case.name).collect();
        assert_eq!(names, CASES);
        assert_eq!(check_filter(None), Ok(()));
        assert_eq!(check_filter(Some("history")), Ok(()));
        assert!(check_filter(Some("histery")).is_err_and(|why| why.starts_with("no benchmark has a name with")));
    }

    /// The ratio of the medians would be 2, and each round's ratio is lower or higher.
    #[test]
    fn ratios_are_medians_of_rounds() {
        let row = row("x".into(), "bytes/s".into(), &[[8.0, 1.0, 2.0], [4.0, 1.0, 2.0], [2.0, 4.0, 4.0]]);
        assert_eq!((row.ours, row.reference, row.of_crate), (4.0, 1.0, 2.0));
        assert_eq!((row.ratio_reference, row.ratio_crate, row.ratio_crate_extremes), (4.0, 2.0, [0.5, 4.0]));
    }

    #[test]
    fn every_round_has_all_sides() {
        let side = |name: &str| BTreeMap::from([(name.to_owned(), 2.0)]);
        let round = |ours, crates| {
            BTreeMap::from([("case".to_owned(), Figures { unit: "bytes/s".into(), ours, reference: 1.0, crates })])
        };
        let rows_of = |second| rows(&[round(4.0, side("peer")), second]);
        let good = rows_of(round(6.0, side("peer"))).expect("two whole rounds");
        assert_eq!((good.len(), good[0].name.as_str(), good[0].ours), (1, "case, peer", 5.0));
        for bad in [round(0.0, side("peer")), round(6.0, side("other")), BTreeMap::new()] {
            assert!(rows_of(bad).unwrap_err().to_string().contains("lacks a side of case"));
        }
        assert!(rows(&[BTreeMap::new()]).unwrap_err().to_string().contains("no benchmark"));
    }

    /// The files are those of criterion 0.8.
    #[test]
    fn criterion_s_files_are_read() {
        let folder = std::env::temp_dir().join(format!("ringhub-micro-{}", std::process::id()));
        let new = folder.join("unmask_ 64 B/ours/bytes/new");
        fs::create_dir_all(&new).unwrap();
        fs::create_dir_all(folder.join("unmask_ 64 B/ours/bytes/base")).unwrap();
        let benchmark = r#"{"group_id":"unmask, 64 B","function_id":"ours","value_str":"bytes",
            "throughput":{"Bytes":4096},"full_id":"unmask, 64 B/ours/bytes","directory_name":"unmask_ 64 B/ours/bytes",
            "title":"unmask, 64 B/ours/bytes"}"#;
        fs::write(new.join("benchmark.json"), benchmark).unwrap();
        fs::write(new.join("estimates.json"), r#"{"mean":{},"median":{"point_estimate":2048.0}}"#).unwrap();
        let cases = figures(&folder);
        fs::remove_dir_all(&folder).unwrap();
        let cases = cases.unwrap();
        assert_eq!((cases["unmask, 64 B"].ours, cases["unmask, 64 B"].unit.as_str()), (2e9, "bytes/s"));
    }
}
