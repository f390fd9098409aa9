//! Two reports side by side.

use super::assertion::own;
use super::units;
use crate::report::{Counts, Figures, Latency, Report, SCHEMA_VERSION};
use crate::scenario_figures::ScenarioFigures;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Two reports to compare.
#[derive(Clone, Debug, clap::Args)]
pub struct Comparison {
    /// The first report, as --json prints it.
    first: PathBuf,
    /// The second report.
    second: PathBuf,
    /// Write both runs as one page of HTML.
    #[arg(short, long, visible_alias = "report", value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Comparison {
    /// Reads both reports, writes the page, and returns the table as text.
    ///
    /// # Errors
    /// An error is returned if a file cannot be read or written, or is no report.
    pub fn run(&self) -> Result<String, Box<dyn std::error::Error>> {
        let (first, second) = (read(&self.first)?, read(&self.second)?);
        let [one, other] = [&self.first, &self.second].map(|path| path.display().to_string());
        if let Some(path) = &self.output {
            let page = super::page::comparison_page((&one, &first), (&other, &second));
            super::files::Pending::open("--output", path)?.write(&page)?;
        }
        Ok(text((&one, &first), (&other, &second)))
    }
}

/// A figure of both runs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    name: &'static str,
    /// The figures as people read them.
    shown: [String; 2],
    /// The second figure divided by the first.
    ratio: Option<f64>,
}

impl Row {
    /// Returns the row as cells: the name, both figures, and their ratio.
    pub(crate) fn cells(&self) -> Vec<String> {
        let [first, second] = self.shown.clone();
        let ratio = self.ratio.map_or_else(String::new, |ratio| format!("{ratio:.3}"));
        vec![self.name.to_owned(), first, second, ratio]
    }
}

/// Returns the figures that at least one run has.
pub(crate) fn rows(first: &Report, second: &Report) -> Vec<Row> {
    let of_scenario =
        OF_SCENARIOS.iter().map(|&(name, title, show)| (title, [first, second].map(|report| own(report, name)), show));
    let of_all = FIGURES.iter().map(|&(name, value, show)| (name, [first, second].map(value), show));
    let rows = of_scenario.chain(of_all).filter_map(|(name, found, show)| {
        let ratio = match found {
            [Some(first), Some(second)] if first != 0.0 => Some(second / first),
            [None, None] => return None,
            _ => None,
        };
        Some(Row { name, shown: found.map(|figure| figure.map_or_else(|| "–".to_owned(), show)), ratio })
    });
    rows.collect()
}

/// Returns the title and the shown value of each figure that only this scenario has.
pub(crate) fn of_scenario(report: &Report) -> Vec<(&'static str, String)> {
    let named = report.scenario_figures.iter().flat_map(ScenarioFigures::named);
    let shown = named.filter_map(|(own, value)| {
        let (_, title, show) = OF_SCENARIOS.iter().find(|(name, ..)| *name == own)?;
        Some((*title, show(value)))
    });
    shown.collect()
}

/// Returns what makes the runs hard to compare, a sentence each.
pub(crate) fn differences(first: &Report, second: &Report) -> Vec<String> {
    let of = |report: &Report| {
        let machine = report.machine.as_ref();
        let cpu = machine.and_then(|machine| machine.cpu_model.clone()).unwrap_or_default();
        [
            ("scenario", report.scenario.clone()),
            ("subscribers", report.subscribers.to_string()),
            ("publishers", report.publishers.to_string()),
            ("size of a message", format!("{} B", report.size)),
            ("load", report.load.clone()),
            ("CPU model", cpu),
            ("kernel", machine.map(|machine| machine.kernel.clone()).unwrap_or_default()),
        ]
    };
    let pairs = of(first).into_iter().zip(of(second));
    let sentences = pairs.filter(|((_, one), (_, other))| one != other && !one.is_empty() && !other.is_empty());
    sentences.map(|((name, one), (_, other))| format!("The runs differ in their {name}: {one} and {other}")).collect()
}

/// Returns the comparison as text for people.
fn text((one, first): (&str, &Report), (other, second): (&str, &Report)) -> String {
    let mut out = String::new();
    for (letter, path, report) in [("A", one, first), ("B", other, second)] {
        // Writing to a string does not fail, here and below.
        _ = writeln!(out, "{letter}: {path}: {}", super::text::outcome(report));
        let notes = [("void", &report.void_reasons), ("disturbed", &report.disturbances)];
        for (name, reasons) in notes.into_iter().filter(|(_, reasons)| !reasons.is_empty()).take(1) {
            _ = writeln!(out, "   {name}: {}", reasons.join("; "));
        }
        if report.interrupted || report.early_end.is_some() {
            _ = writeln!(out, "   ended early: {}", report.early_end.as_deref().unwrap_or("by a signal"));
        }
    }
    for difference in differences(first, second) {
        _ = writeln!(out, "{difference}");
    }
    let head = ["", "A", "B", "B : A"].map(str::to_owned).to_vec();
    let rows: Vec<Vec<String>> = [head].into_iter().chain(rows(first, second).iter().map(Row::cells)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths = [0, 1, 2, 3].map(width);
    for row in &rows {
        let [name, first, second, ratio] = &row[..] else { continue };
        let [name_width, first_width, second_width, ratio_width] = widths;
        let line = format!("{name:name_width$}  {first:>first_width$}  {second:>second_width$}  {ratio:>ratio_width$}");
        _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

/// Reads a report.
fn read(path: &Path) -> Result<Report, String> {
    let wrong = |why: String| format!("{}: {why}", path.display());
    let text = fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let value: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| wrong(format!("this is no report of --json: {error}")))?;
    let version = value.get("schema_version").and_then(serde_json::Value::as_u64).unwrap_or(0);
    if version > u64::from(SCHEMA_VERSION) {
        let why = format!("the report has version {version} of the schema; this program knows up to {SCHEMA_VERSION}");
        return Err(wrong(why));
    }
    serde_json::from_value(value).map_err(|error| wrong(format!("this is no report of --json: {error}")))
}

type Value = fn(&Report) -> Option<f64>;
type Show = fn(f64) -> String;

/// The figures of scenarios, by their names in assertions: each has a title, and the way in which it is shown.
const OF_SCENARIOS: &[(&str, &str, Show)] = &[
    ("knee", "highest level within the bound", whole),
    ("p99_at_knee", "p99 at this level", units::time),
    ("back", "time until all were back", units::time),
    ("handshakes_per_second", "handshakes per second", whole),
    ("refused", "refused attempts", whole),
    ("join_p50", "p50 of the time to join", units::time),
    ("join_p99", "p99 of the time to join", units::time),
    ("p99_before", "p99 before the stall", units::time),
    ("p99_during", "p99 during the stall", units::time),
    ("stalled_ended", "stalled subscribers disconnected", whole),
    ("stalled_missed", "missed by the stalled", whole),
    ("stalled_rss", "resident memory in the stall", mebibytes),
    ("bytes_per_connection", "memory for each connection", bytes),
    ("round_trips_per_second", "round trips per second", whole),
];

/// The compared figures: each has a name, its value in a report, and the way in which it is shown.
const FIGURES: &[(&str, Value, Show)] = &[
    ("deliveries per second", |report| of_one_load(report, |figures| figures.deliveries_per_second), whole),
    ("messages per read", |report| of_deliveries(report, |figures| figures.messages_per_read), units::significant),
    ("p50", |report| latency(report, |latency| latency.p50_ns), units::time),
    ("p90", |report| latency(report, |latency| latency.p90_ns), units::time),
    ("p99", |report| latency(report, |latency| latency.p99_ns), units::time),
    ("p99.9", |report| latency(report, |latency| latency.p99_9_ns), units::time),
    ("max", |report| latency(report, |latency| latency.max_ns), units::time),
    ("server CPU per delivery", server_cost, units::time),
    ("server CPUs", |report| Some(report.figures.as_ref()?.server?.cores), units::significant),
    ("CPUs of other programs", |report| Some(report.figures.as_ref()?.server?.other_cores), units::significant),
    ("generator's time to spare", |report| Some(report.figures.as_ref()?.generator.spare * 100.0), percent),
    ("published", |report| count(report, |counts| counts.published).filter(|_| has_deliveries(report)), whole),
    ("lost", |report| count(report, |counts| counts.lost), whole),
    ("outstanding", |report| count(report, |counts| counts.outstanding), whole),
    ("duplicated", |report| count(report, |counts| counts.duplicated), whole),
    ("reordered", |report| count(report, |counts| counts.reordered), whole),
    ("foreign", |report| count(report, |counts| counts.foreign), whole),
    ("corrupt", |report| count(report, |counts| counts.corrupt), whole),
    ("misrouted", |report| count(report, |counts| counts.misrouted), whole),
    ("miscounted", |report| count(report, |counts| counts.miscounted), whole),
    ("unpublished", |report| count(report, |counts| counts.unpublished), whole),
    ("other orders", |report| count(report, |counts| counts.other_orders), whole),
    ("disconnected", |report| count(report, |counts| counts.disconnected), whole),
    ("connections per second", |report| report.opening.map(|opening| opening.per_second), whole),
    ("resident memory at the end", |report| Some(report.memory_after?.rss? as f64), mebibytes),
];

/// Returns whether the run has published at all.
fn has_deliveries(report: &Report) -> bool {
    report.load != "none"
}

/// Returns a figure about deliveries; `None` of a run that publishes nothing.
fn of_deliveries(report: &Report, of: fn(&Figures) -> f64) -> Option<f64> {
    report.figures.as_ref().filter(|_| has_deliveries(report)).map(of)
}

/// Returns a figure that depends on the load; `None` of a ramp, which has a load for each step.
fn of_one_load(report: &Report, of: fn(&Figures) -> f64) -> Option<f64> {
    of_deliveries(report, of).filter(|_| report.scenario != "ramp")
}

fn latency(report: &Report, of: fn(&Latency) -> u64) -> Option<f64> {
    let latency = report.figures.as_ref()?.latency.as_ref().filter(|_| report.scenario != "ramp");
    latency.map(|latency| of(latency) as f64)
}

fn server_cost(report: &Report) -> Option<f64> {
    let server = report.figures.as_ref()?.server.filter(|_| has_deliveries(report));
    server.map(|server| server.cpu_ns_per_delivery)
}

fn count(report: &Report, of: fn(&Counts) -> u64) -> Option<f64> {
    Some(of(&report.counts) as f64)
}

fn whole(number: f64) -> String {
    units::grouped(number.round() as u64)
}

fn percent(number: f64) -> String {
    format!("{number:.0} %")
}

fn mebibytes(bytes: f64) -> String {
    format!("{:.1} MiB", bytes / 1_048_576.0)
}

fn bytes(number: f64) -> String {
    format!("{number:.0} B")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::output::testing::{all_scenario_figures, bare, report};
    use crate::report::Outcome;

    /// Returns the title of a figure that only a scenario has.
    pub(crate) fn title(name: &str) -> Option<&'static str> {
        OF_SCENARIOS.iter().find(|(own, ..)| *own == name).map(|(_, title, _)| *title)
    }

    #[test]
    fn a_row_has_both_figures_and_their_ratio() {
        let (one, mut other) = (report(), report());
        other.figures.as_mut().unwrap().deliveries_per_second = 500_000.0;
        other.counts.lost = 0;
        let rows = rows(&one, &other);
        let cells = |name: &str| rows.iter().find(|row| row.name == name).map(Row::cells).unwrap();
        let expected = ["deliveries per second", "1 000 000", "500 000", "0.500"].map(str::to_owned);
        assert_eq!(cells("deliveries per second"), expected);
        assert_eq!(cells("lost"), ["lost", "2", "0", "0.000"].map(str::to_owned));
        assert_eq!(cells("corrupt"), ["corrupt", "0", "0", ""].map(str::to_owned));
        for name in ["misrouted", "unpublished", "other orders", "round trips per second"] {
            assert!(rows.iter().any(|row| row.name == name), "{name}");
        }
    }

    /// Every figure of a scenario has a row, and there is no row about what the scenario does not do.
    #[test]
    fn the_figures_of_a_scenario_are_compared() {
        let mut shown = std::collections::BTreeSet::new();
        let mut named = 0;
        for figures in all_scenario_figures() {
            named += figures.named().len();
            let scenario = serde_json::to_value(&figures).unwrap()["kind"].as_str().unwrap().to_owned();
            let is_silent = ["idle", "storm"].contains(&&*scenario);
            let load = if is_silent { "none" } else { "rate 1000" }.to_owned();
            let run = Report { scenario: scenario.clone(), scenario_figures: Some(figures), load, ..report() };
            let names: Vec<&str> = rows(&run, &run).iter().map(|row| row.name).collect();
            assert_eq!(names.contains(&"deliveries per second"), !is_silent && scenario != "ramp", "{scenario}");
            assert_eq!(names.contains(&"p99"), scenario != "ramp", "{scenario}");
            assert_eq!(names.contains(&"published"), !is_silent, "{scenario}");
            shown.extend(names.into_iter().map(|name| (scenario.clone(), name)));
        }
        let without = Report { scenario_figures: None, ..report() };
        let usual: Vec<&str> = rows(&without, &without).iter().map(|row| row.name).collect();
        assert_eq!(shown.iter().filter(|(_, name)| !usual.contains(name)).count(), named, "{shown:?}");
    }

    #[test]
    fn the_verdicts_of_both_runs_are_shown() {
        let (mut one, mut other) = (report(), bare());
        (one.void_reasons, one.disturbances, one.early_end) = (Vec::new(), Vec::new(), None);
        other.outcome = Outcome::Void;
        let text = text(("a", &one), ("b", &other));
        assert!(text.contains("A: a: BROKEN") && text.contains("   ended early: by a signal\n"), "{text}");
        assert!(text.contains("B: b: VOID") && text.contains("   void: the machine was busy with something"), "{text}");
    }

    #[test]
    fn what_one_run_lacks_is_a_dash_and_what_both_lack_is_left_out() {
        let table = rows(&report(), &bare());
        let p99 = table.iter().find(|row| row.name == "p99").unwrap();
        assert_eq!((&*p99.shown[1], p99.ratio), ("–", None));
        assert!(rows(&bare(), &bare()).iter().all(|row| row.name != "p99"));
    }

    #[test]
    fn runs_that_differ_are_told_apart() {
        let (one, mut other) = (report(), report());
        assert_eq!(differences(&one, &other), Vec::<String>::new());
        (other.load, other.machine) = ("rate 2000".to_owned(), None);
        assert_eq!(differences(&one, &other), ["The runs differ in their load: rate 1000 and rate 2000"]);
        let text = text(("a", &one), ("b", &other));
        assert!(text.starts_with("A: a: BROKEN") && text.contains("\nThe runs differ in their load"), "{text}");
        assert!(text.lines().any(|line| line.starts_with("p99 ") && line.ends_with(" 1.000")), "{text}");
    }
}
