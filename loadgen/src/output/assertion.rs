//! Assertions about a report, such as `p99<5ms`, which decide the exit status.

use super::units;
use crate::report::{Counts, Figures, Latency, Outcome, Report, ServerFigures};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// An assertion: the name of a figure or a count, a comparison and a bound.
#[derive(Clone, Debug, PartialEq)]
pub struct Assertion {
    text: String,
    name: &'static Name,
    comparison: Comparison,
    bound: f64,
}

/// An assertion that was checked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckedAssertion {
    /// The assertion as it was given.
    pub assertion: String,
    /// Whether it holds.
    pub holds: bool,
    /// The value that was found; times are in nanoseconds. `None` if it was not measured, and then nothing holds.
    pub found: Option<f64>,
    /// The value as people read it.
    pub found_text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Less,
    AtMost,
    More,
    AtLeast,
    Equal,
    Unequal,
}

/// What a name's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A time in nanoseconds. Its bound needs a unit.
    Time,
    /// A number without a unit.
    Number,
    /// A number of mistakes. An assertion about it replaces the rule that there are none.
    Mistakes,
}

/// A name that assertions may use.
#[derive(Debug)]
struct Name {
    text: &'static str,
    kind: Kind,
    /// The scenarios that have this figure; none if all have it.
    scenarios: &'static [&'static str],
    value: fn(&Report) -> Option<f64>,
}

impl PartialEq for Name {
    fn eq(&self, other: &Name) -> bool {
        self.text == other.text
    }
}

impl Assertion {
    /// Returns whether the assertion is about the count or figure with this name.
    pub(crate) fn is_about(&self, name: &str) -> bool {
        self.name.text == name
    }

    /// Returns why a run of a scenario cannot have the value, if so.
    pub(crate) fn obstacle(&self, scenario: &str) -> Option<String> {
        let Name { text, scenarios, .. } = self.name;
        let has_it = scenarios.is_empty() || scenarios.contains(&scenario);
        (!has_it).then(|| format!("--assert: {text} is a figure of {}", scenarios.join(" and ")))
    }

    /// Compares the report with the bound.
    pub fn check(&self, report: &Report) -> CheckedAssertion {
        let found = (self.name.value)(report);
        let found_text = match (found, self.name.kind) {
            (None, _) => "not measured".to_owned(),
            (Some(ns), Kind::Time) => units::time(ns),
            (Some(number), _) => units::significant(number),
        };
        let holds = found.is_some_and(|found| match self.comparison {
            Comparison::Less => found < self.bound,
            Comparison::AtMost => found <= self.bound,
            Comparison::More => found > self.bound,
            Comparison::AtLeast => found >= self.bound,
            Comparison::Equal => found == self.bound,
            Comparison::Unequal => found != self.bound,
        });
        CheckedAssertion { assertion: self.text.clone(), holds, found, found_text }
    }
}

/// Returns the name and the number of each kind of mistakes.
pub(crate) fn mistakes(report: &Report) -> impl Iterator<Item = (&'static str, u64)> {
    let mistakes = NAMES.iter().filter(|name| name.kind == Kind::Mistakes);
    mistakes.filter_map(|name| Some((name.text, (name.value)(report)? as u64)))
}

/// Returns the verdict about a run and its assertions. The run passes if it is not void, all assertions hold, and
/// nothing went wrong but mistakes whose number is asserted.
pub fn verdict(report: &Report, assertions: &[Assertion]) -> Verdict {
    if report.outcome == Outcome::Void {
        return Verdict::Void;
    }
    let is_asserted = |name: &Name| assertions.iter().any(|assertion| assertion.name == name);
    let is_ignored = |name: &Name| report.ignore_foreign && name.text == "foreign";
    let mistakes = NAMES.iter().filter(|name| name.kind == Kind::Mistakes && !is_ignored(name));
    let mut wrong = mistakes.filter(|name| (name.value)(report).is_some_and(|number| number > 0.0)).peekable();
    let is_explained = wrong.peek().is_some() && wrong.all(is_asserted);
    if report.outcome == Outcome::Broken && !is_explained {
        return Verdict::Broken;
    }
    match assertions.iter().all(|assertion| assertion.check(report).holds) {
        true => Verdict::Passed,
        false => Verdict::Failed,
    }
}

/// The verdict that becomes the exit status: that of the report, and of its assertions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The run is exact, or what went wrong is within the assertions.
    Passed,
    /// Deliveries or connections went wrong.
    Broken,
    /// The figures mean nothing.
    Void,
    /// An assertion does not hold.
    Failed,
}

impl Verdict {
    /// Returns the exit status.
    pub fn exit_status(self) -> u8 {
        match self {
            Verdict::Passed => 0,
            Verdict::Broken => 2,
            Verdict::Void => 3,
            Verdict::Failed => 4,
        }
    }
}

impl FromStr for Assertion {
    type Err = String;

    fn from_str(text: &str) -> Result<Assertion, String> {
        let start =
            text.find(['<', '>', '=', '!']).ok_or("expected NAME, a comparison and a bound, such as p99<5ms")?;
        let (name, rest) = (text[..start].trim(), &text[start..]);
        let length = rest.find(|letter| !"<>=!".contains(letter)).unwrap_or(rest.len());
        let comparison = match &rest[..length] {
            "<" => Comparison::Less,
            "<=" => Comparison::AtMost,
            ">" => Comparison::More,
            ">=" => Comparison::AtLeast,
            "==" => Comparison::Equal,
            "!=" => Comparison::Unequal,
            other => return Err(format!("`{other}` is no comparison; there are < <= > >= == !=")),
        };
        let name = NAMES.iter().find(|known| known.text == name).ok_or_else(|| {
            let known: Vec<&str> = NAMES.iter().map(|name| name.text).collect();
            format!("there is no `{name}`; there are {}", known.join(", "))
        })?;
        let bound = parse_bound(rest[length..].trim(), name)?;
        Ok(Assertion { text: text.to_owned(), name, comparison, bound })
    }
}

impl fmt::Display for CheckedAssertion {
    /// Writes a line of the report; the alternate form has neither the verdict nor its column.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if out.alternate() {
            return write!(out, "{} (found: {})", self.assertion, self.found_text);
        }
        let word = if self.holds { "holds" } else { "FAILS" };
        write!(out, "{word:13} {} (found: {})", self.assertion, self.found_text)
    }
}

fn parse_bound(text: &str, name: &Name) -> Result<f64, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_alphabetic());
    let scale = match (name.kind, text[digits.len()..].trim()) {
        (Kind::Time, "ns") => 1.0,
        (Kind::Time, "us" | "µs" | "μs") => 1e3,
        (Kind::Time, "ms") => 1e6,
        (Kind::Time, "s") => 1e9,
        (Kind::Time, "") => return Err(format!("{} is a time: write its unit, ns, us, ms or s", name.text)),
        (Kind::Time, unit) => return Err(format!("`{unit}` is no unit of time; there are ns, us, ms and s")),
        (_, "") => 1.0,
        (_, unit) => return Err(format!("{} has no unit, but `{unit}` was given", name.text)),
    };
    match digits.trim().parse::<f64>() {
        Ok(bound) if bound.is_finite() => Ok(bound * scale),
        _ if digits.trim().is_empty() => Err("the bound has no number".to_owned()),
        _ => Err(format!("`{}` is no number", digits.trim())),
    }
}

/// All names of assertions.
const NAMES: &[Name] = &[
    name("p50", Kind::Time, |report| latency(report, |latency| latency.p50_ns)),
    name("p90", Kind::Time, |report| latency(report, |latency| latency.p90_ns)),
    name("p99", Kind::Time, |report| latency(report, |latency| latency.p99_ns)),
    name("p99.9", Kind::Time, |report| latency(report, |latency| latency.p99_9_ns)),
    name("max", Kind::Time, |report| latency(report, |latency| latency.max_ns)),
    name("mean", Kind::Time, |report| Some(report.figures.as_ref()?.distribution.as_ref()?.mean_ns)),
    name("lost", Kind::Mistakes, |report| count(report, |counts| counts.lost)),
    name("outstanding", Kind::Mistakes, |report| count(report, |counts| counts.outstanding)),
    name("duplicated", Kind::Mistakes, |report| count(report, |counts| counts.duplicated)),
    name("reordered", Kind::Mistakes, |report| count(report, |counts| counts.reordered)),
    name("foreign", Kind::Mistakes, |report| count(report, |counts| counts.foreign)),
    name("corrupt", Kind::Mistakes, |report| count(report, |counts| counts.corrupt)),
    name("disconnected", Kind::Mistakes, |report| count(report, |counts| counts.disconnected)),
    name("other_orders", Kind::Mistakes, |report| count(report, |counts| counts.other_orders)),
    name("misrouted", Kind::Mistakes, |report| count(report, |counts| counts.misrouted)),
    name("miscounted", Kind::Mistakes, |report| count(report, |counts| counts.miscounted)),
    name("unpublished", Kind::Mistakes, |report| count(report, |counts| counts.unpublished)),
    name("published", Kind::Number, |report| count(report, |counts| counts.published)),
    name("expected", Kind::Number, |report| count(report, |counts| counts.expected)),
    name("deliveries", Kind::Number, |report| figure(report, |figures| figures.deliveries as f64)),
    name("deliveries_per_second", Kind::Number, |report| figure(report, |figures| figures.deliveries_per_second)),
    name("messages_per_read", Kind::Number, |report| figure(report, |figures| figures.messages_per_read)),
    name("seconds", Kind::Number, |report| figure(report, |figures| figures.seconds)),
    name("cpu_ns_per_delivery", Kind::Number, |report| server(report, |server| server.cpu_ns_per_delivery)),
    name("server_cores", Kind::Number, |report| server(report, |server| server.cores)),
    name("other_cores", Kind::Number, |report| server(report, |server| server.other_cores)),
    name("own_cores", Kind::Number, |report| figure(report, |figures| figures.generator.cores)),
    name("own_cpu_ns_per_delivery", Kind::Number, |report| {
        figure(report, |figures| figures.generator.cpu_ns_per_delivery)
    }),
    name("spare", Kind::Number, |report| figure(report, |figures| figures.generator.spare)),
    name("connections_per_second", Kind::Number, |report| report.opening.map(|opening| opening.per_second)),
    name("rss", Kind::Number, |report| report.memory_after?.rss.map(|bytes| bytes as f64)),
    name("rss_anon", Kind::Number, |report| report.memory_after?.rss_anon.map(|bytes| bytes as f64)),
    of(&["echo"], name("round_trips_per_second", Kind::Number, |report| own(report, "round_trips_per_second"))),
    of(&["idle"], name("bytes_per_connection", Kind::Number, |report| own(report, "bytes_per_connection"))),
    of(&["storm"], name("back", Kind::Time, |report| own(report, "back"))),
    of(&["storm"], name("handshakes_per_second", Kind::Number, |report| own(report, "handshakes_per_second"))),
    of(&["storm", "churn"], name("refused", Kind::Number, |report| own(report, "refused"))),
    of(&["churn"], name("join_p50", Kind::Time, |report| own(report, "join_p50"))),
    of(&["churn"], name("join_p99", Kind::Time, |report| own(report, "join_p99"))),
    of(&["stall"], name("p99_before", Kind::Time, |report| own(report, "p99_before"))),
    of(&["stall"], name("p99_during", Kind::Time, |report| own(report, "p99_during"))),
    of(&["stall"], name("stalled_ended", Kind::Number, |report| own(report, "stalled_ended"))),
    of(&["stall"], name("stalled_missed", Kind::Number, |report| own(report, "stalled_missed"))),
    of(&["stall"], name("stalled_rss", Kind::Number, |report| own(report, "stalled_rss"))),
    of(&["ramp"], name("knee", Kind::Number, |report| own(report, "knee"))),
    of(&["ramp"], name("p99_at_knee", Kind::Time, |report| own(report, "p99_at_knee"))),
];

const fn name(text: &'static str, kind: Kind, value: fn(&Report) -> Option<f64>) -> Name {
    Name { text, kind, scenarios: &[], value }
}

/// Makes a name one of these scenarios alone.
const fn of(scenarios: &'static [&'static str], name: Name) -> Name {
    Name { scenarios, ..name }
}

/// Returns a figure of the scenario.
pub(crate) fn own(report: &Report, name: &str) -> Option<f64> {
    let named = report.scenario_figures.as_ref()?.named();
    named.into_iter().find(|(own, _)| *own == name).map(|(_, value)| value)
}

fn latency(report: &Report, of: fn(&Latency) -> u64) -> Option<f64> {
    report.figures.as_ref()?.latency.as_ref().map(|latency| of(latency) as f64)
}

fn count(report: &Report, of: fn(&Counts) -> u64) -> Option<f64> {
    Some(of(&report.counts) as f64)
}

fn figure(report: &Report, of: fn(&Figures) -> f64) -> Option<f64> {
    report.figures.as_ref().map(of)
}

fn server(report: &Report, of: fn(&ServerFigures) -> f64) -> Option<f64> {
    report.figures.as_ref()?.server.as_ref().map(of)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::testing::{all_scenario_figures, report};

    fn check(text: &str, report: &Report) -> CheckedAssertion {
        text.parse::<Assertion>().unwrap_or_else(|why| panic!("{text}: {why}")).check(report)
    }

    #[test]
    fn every_name_has_a_value_in_a_full_report() {
        let reports = all_scenario_figures().into_iter().map(|figures| {
            let kind = serde_json::to_value(&figures).unwrap()["kind"].as_str().unwrap().to_owned();
            Report { scenario: kind, scenario_figures: Some(figures), ..report() }
        });
        let reports: Vec<Report> = reports.collect();
        for name in NAMES {
            let has_it = |report: &Report| name.scenarios.is_empty() || name.scenarios.contains(&&*report.scenario);
            for report in &reports {
                assert_eq!((name.value)(report).is_some(), has_it(report), "{}: {}", report.scenario, name.text);
            }
        }
        let names = reports.iter().flat_map(|report| report.scenario_figures.as_ref().unwrap().named());
        for (own, _) in names {
            assert!(NAMES.iter().any(|name| name.text == own), "{own}");
        }
    }

    #[test]
    fn a_figure_of_another_scenario_is_refused() {
        let knee: Assertion = "knee>=100".parse().unwrap();
        assert_eq!(knee.obstacle("ramp"), None);
        assert_eq!(knee.obstacle("fanout").as_deref(), Some("--assert: knee is a figure of ramp"));
        let refused: Assertion = "refused==0".parse().unwrap();
        assert_eq!(refused.obstacle("echo").as_deref(), Some("--assert: refused is a figure of storm and churn"));
        assert_eq!("p99<1s".parse::<Assertion>().unwrap().obstacle("idle"), None);
    }

    /// The guide's table has every name.
    #[test]
    fn the_guide_has_every_name() {
        let guide = include_str!("../../../docs/loadgen-report.md");
        let table = guide.split_once("| name | value |").unwrap().1.split_once("\n\n").unwrap().0;
        for name in NAMES {
            assert!(table.contains(&format!("`{}`", name.text)), "{}", name.text);
        }
    }

    #[test]
    fn comparisons_and_units() {
        let mut report = report();
        report.figures.as_mut().unwrap().latency.as_mut().unwrap().p99_ns = 5_000_000;
        report.counts.lost = 3;
        for (text, holds) in [
            ("p99<5ms", false),
            ("p99 <= 5ms", true),
            ("p99<=4999us", false),
            ("p99>=5000µs", true),
            ("p99>4.999999ms", true),
            ("p99==0.005s", true),
            ("p99!=5000000ns", false),
            ("lost<=3", true),
            ("lost == 2", false),
            ("lost!=2", true),
            ("lost>3", false),
        ] {
            assert_eq!(check(text, &report).holds, holds, "{text}");
        }
        assert_eq!(check("p99<5ms", &report).to_string(), "FAILS         p99<5ms (found: 5 ms)");
        assert_eq!(check("lost<5", &report).to_string(), "holds         lost<5 (found: 3)");
    }

    #[test]
    fn what_was_not_measured_does_not_hold() {
        let mut report = report();
        report.figures = None;
        for text in ["p99<1s", "p99>0ns", "cpu_ns_per_delivery<1", "deliveries_per_second>=0"] {
            let CheckedAssertion { holds, found, found_text, .. } = check(text, &report);
            assert_eq!((holds, found, &*found_text), (false, None, "not measured"), "{text}");
        }
    }

    #[test]
    fn errors_name_what_is_wrong() {
        for (text, why) in [
            ("", "expected NAME, a comparison and a bound, such as p99<5ms"),
            ("p99", "expected NAME, a comparison and a bound, such as p99<5ms"),
            ("p99=5ms", "`=` is no comparison; there are < <= > >= == !="),
            ("p99=<5ms", "`=<` is no comparison; there are < <= > >= == !="),
            ("p99<5", "p99 is a time: write its unit, ns, us, ms or s"),
            ("p99<5m", "`m` is no unit of time; there are ns, us, ms and s"),
            ("p99<ms", "the bound has no number"),
            ("p99<NaN", "`NaN` is no unit of time; there are ns, us, ms and s"),
            ("lost==0ms", "lost has no unit, but `ms` was given"),
            ("lost==none", "lost has no unit, but `none` was given"),
            ("lost==1e999", "`1e999` is no number"),
        ] {
            assert_eq!(text.parse::<Assertion>().unwrap_err(), why, "{text}");
        }
        let why = "p98<1ms".parse::<Assertion>().unwrap_err();
        assert!(why.starts_with("there is no `p98`; there are p50, p90, p99, p99.9, max, mean, lost, "), "{why}");
    }

    #[test]
    fn mistakes_are_forgiven_only_if_their_number_is_asserted() {
        let verdict = |report: &Report, texts: &[&str]| {
            let assertions: Vec<Assertion> = texts.iter().map(|text| text.parse().unwrap()).collect();
            verdict(report, &assertions)
        };
        let mut report = report();
        (report.outcome, report.counts) = (Outcome::Exact, Counts { published: 5, ..Counts::default() });
        assert_eq!(verdict(&report, &[]), Verdict::Passed);
        assert_eq!(verdict(&report, &["lost==0", "published==5"]), Verdict::Passed);
        assert_eq!(verdict(&report, &["lost==0", "published>5"]), Verdict::Failed);
        (report.outcome, report.counts.lost) = (Outcome::Broken, 3);
        assert_eq!(verdict(&report, &[]), Verdict::Broken);
        assert_eq!(verdict(&report, &["published==5"]), Verdict::Broken);
        assert_eq!(verdict(&report, &["lost<=3"]), Verdict::Passed);
        assert_eq!(verdict(&report, &["lost<3"]), Verdict::Failed);
        report.counts.duplicated = 1;
        assert_eq!(verdict(&report, &["lost<=3"]), Verdict::Broken);
        assert_eq!(verdict(&report, &["lost<=3", "duplicated<=1"]), Verdict::Passed);
        // Something that no count says went wrong.
        report.counts = Counts::default();
        assert_eq!(verdict(&report, &["lost==0"]), Verdict::Broken);
        report.outcome = Outcome::Void;
        assert_eq!(verdict(&report, &["lost==0"]), Verdict::Void);
        assert_eq!(
            [Verdict::Passed, Verdict::Broken, Verdict::Void, Verdict::Failed].map(Verdict::exit_status),
            [0, 2, 3, 4]
        );
    }
}
