//! What both pages show, made from the records.

use super::kept::{Described, Kept, Round};
use crate::judge::{Found, Sample};
use crate::load::NOT_EXACT;
use crate::metric::{Metric, number};
use crate::peers::Peer;
use crate::run::Run;
use crate::scenario::{Against, Bar, Limit, Load, SATURATION, Scenario, Verdict};
use crate::statistics::Summary;
use crate::table::rows;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The rounds from which on a bar is judged.
pub(crate) const ROUNDS: usize = 9;

/// All that the pages show.
pub(crate) struct View {
    /// Names and values about the measurement as a whole.
    pub(crate) facts: Vec<(&'static str, String)>,
    pub(crate) rows: Vec<Row>,
    pub(crate) servers: Vec<Described>,
}

/// A row: a scenario with its bars.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) load: String,
    pub(crate) lines: Vec<Line>,
    /// The servers' medians, and the metrics of their columns.
    pub(crate) metrics: Vec<Metric>,
    pub(crate) medians: Vec<(String, Vec<Option<Summary>>)>,
    /// The hub's medians divided by those of each other server.
    pub(crate) ratios: Vec<(String, Vec<Option<f64>>)>,
    /// What was measured when and how, in words; empty if nothing was.
    pub(crate) notes: Vec<String>,
    /// The command that measures the row, and then those of the programs.
    pub(crate) commands: Vec<String>,
}

/// A bar with what was found about it.
pub(crate) struct Line {
    pub(crate) what: String,
    pub(crate) of: String,
    pub(crate) against: String,
    pub(crate) must: String,
    pub(crate) found: Option<Found>,
    /// The value and its spread, for people.
    pub(crate) value: String,
    pub(crate) spread: String,
    /// The value as a multiple of the limit.
    pub(crate) of_limit: Option<f64>,
    pub(crate) result: Result<Verdict, String>,
}

impl View {
    /// Makes the view of all rows.
    pub(crate) fn of(kept: &Kept, state: &str, seconds: u64) -> View {
        let rows: Vec<Row> = rows().map(|row| Row::of(kept, row)).collect();
        let times = || kept.rounds.iter().map(|round| round.circumstances.started);
        let list = |of: &dyn Fn(&Round) -> String| {
            let values: BTreeSet<String> = kept.rounds.iter().map(of).collect();
            if values.is_empty() { NOTHING.to_owned() } else { values.into_iter().collect::<Vec<_>>().join("; ") }
        };
        let placements = |round: &Round| round.runs.first().map_or("", |run| run.placement.name()).to_owned();
        let date = match (times().min(), times().max()) {
            (Some(first), Some(last)) if day(first) == day(last) => day(first),
            (Some(first), Some(last)) => format!("{} to {}", day(first), day(last)),
            _ => NOTHING.to_owned(),
        };
        let machine = |round: &Round| format!("{} × {}", round.circumstances.cpus, round.circumstances.cpu_model);
        let facts = vec![
            ("programs", if kept.rounds.is_empty() { NOTHING.to_owned() } else { state.to_owned() }),
            ("date (UTC)", date),
            ("machine", list(&machine)),
            ("kernel", list(&|round| format!("Linux {}", round.circumstances.kernel))),
            ("CPUs", format!("the server on CPU 0, the load on CPU 1; placements seen: {}", list(&placements))),
            ("window", format!("{seconds} s, after 1 s of warm-up")),
            ("command", "bench/run results".to_owned()),
        ];
        View { facts, rows, servers: servers(kept) }
    }

    /// Returns how many bars have which result.
    pub(crate) fn summary(&self) -> String {
        let lines = || self.rows.iter().flat_map(|row| &row.lines);
        let count = |verdict: Verdict| lines().filter(|line| line.result == Ok(verdict)).count();
        let [met, near, missed] = [Verdict::Met, Verdict::WithinNoise, Verdict::Missed].map(count);
        let open = lines().filter(|line| line.result.is_err()).count();
        format!("{} bars: {met} met, {near} met within 3 %, {missed} missed, {open} not judged", lines().count())
    }
}

impl Row {
    /// Returns the cells of the row's table, with its head.
    pub(crate) fn cells(&self) -> Vec<Vec<String>> {
        let row = |name: &str, cells: Vec<String>| std::iter::once(name.to_owned()).chain(cells).collect::<Vec<_>>();
        let or_none = |cell: Option<String>| cell.unwrap_or_else(|| NOTHING.to_owned());
        let head =
            row("median (least–greatest)", self.metrics.iter().map(|metric| metric.title().to_owned()).collect());
        let medians = self.medians.iter().map(|(name, cells)| {
            let text = |cell: &Option<Summary>| {
                let of =
                    |Summary { median, min, max, .. }| format!("{} ({}–{})", number(median), number(min), number(max));
                or_none(cell.map(of))
            };
            row(name, cells.iter().map(text).collect())
        });
        let ratios = self.ratios.iter().map(|(name, cells)| {
            row(name, cells.iter().map(|cell| or_none(cell.map(|ratio| format!("{}×", number(ratio))))).collect())
        });
        std::iter::once(head).chain(medians).chain(ratios).collect()
    }

    fn of(kept: &Kept, scenario: &'static Scenario) -> Row {
        let runs = kept.runs_of(scenario.name);
        let sample = Sample::deepest(scenario.name, &runs);
        let best = kept.best_crate(scenario);
        let last = kept.rounds_of(scenario.name).next_back();
        let line = |bar: &Bar| {
            let found = sample.as_ref().and_then(|sample| sample.judge(bar, best));
            let limited = || sample.as_ref().and_then(|sample| limited(sample, bar, best));
            let failed = failures(&runs, bar.of);
            let result = match found {
                _ if failed > 0 => Err(format!("FAILED: {failed} runs of {} were not exact", bar.of.name())),
                Some(found) if found.rounds < ROUNDS => Err(format!("not judged: {} of {ROUNDS} rounds", found.rounds)),
                Some(found) => match limited() {
                    Some(side) if side != bar.of || found.verdict == Verdict::Missed => {
                        Err(format!("not judged: the generator was the bottleneck with {}", side.name()))
                    }
                    // If the judged server was limited, it could have done more, and the bar is met already.
                    _ => Ok(found.verdict),
                },
                None => Err(format!("not run: {}", why_not(kept, scenario, bar, best, &runs))),
            };
            Line::of(bar, bar.against.name(best), found, result)
        };
        let lines = scenario.bars.iter().map(line).collect();
        let names: Vec<&str> = last.map_or_else(Vec::new, |_| names(&runs));
        let metrics: Vec<Metric> = scenario
            .metrics()
            .into_iter()
            .filter(|metric| runs.iter().any(|run| run.values.contains_key(metric)))
            .collect();
        let cells = |name: &str| metrics.iter().map(|metric| sample.as_ref()?.summary(name, *metric)).collect();
        let medians = names.iter().map(|name| ((*name).to_owned(), cells(name))).collect();
        let hub = Peer::Hub.name();
        let ratios = |name: &str| {
            let ratio = |metric: &Metric| sample.as_ref()?.ratio(hub, *metric, name).filter(|_| metric.is_compared());
            metrics.iter().map(ratio).collect()
        };
        let others = names.iter().filter(|name| **name != hub);
        let ratios = others.map(|name| (format!("{hub} / {name}"), ratios(name))).collect();
        let (notes, commands) = match (&sample, last) {
            (Some(sample), Some(last)) => (notes(kept, scenario, sample, &runs), commands(last, sample, &names)),
            _ => (Vec::new(), vec![format!("bench/run results --only {}", scenario.name)]),
        };
        Row { name: scenario.name, load: scenario.description(), lines, metrics, medians, ratios, notes, commands }
    }

    /// Returns whether every bar was judged and met.
    pub(crate) fn is_met(&self) -> bool {
        self.lines.iter().all(|line| matches!(line.result, Ok(Verdict::Met | Verdict::WithinNoise)))
    }
}

impl Line {
    /// Returns the verdict, or the reason why there is none.
    pub(crate) fn verdict(&self) -> String {
        match &self.result {
            Ok(verdict) => verdict.to_string(),
            Err(why) => why.clone(),
        }
    }

    fn of(bar: &Bar, against: &str, found: Option<Found>, result: Result<Verdict, String>) -> Line {
        let (Limit::AtMost(limit) | Limit::AtLeast(limit)) = bar.limit;
        let against = match bar.against {
            Against::Nothing => "absolute".to_owned(),
            Against::Above(_) => format!("above {against}"),
            _ => against.to_owned(),
        };
        let text = |value: f64| bar.text(value);
        Line {
            what: bar.metric.title().to_owned(),
            of: bar.of.name().to_owned(),
            against,
            must: bar.must(),
            value: found.map_or_else(|| NOTHING.to_owned(), |found| text(found.value)),
            spread: found.map_or_else(String::new, |Found { spread: [least, most], .. }| {
                format!("{}–{}", text(least), text(most))
            }),
            of_limit: found.map(|found| found.value / limit),
            found,
            result,
        }
    }
}

/// Returns how many runs of a server of this project were not exact. A lost message is no noise.
fn failures(runs: &[Run], of: Peer) -> usize {
    let is_inexact = |run: &Run| run.failure.as_deref().is_some_and(|failure| failure.starts_with(NOT_EXACT));
    let own = |run: &&Run| run.server == of.name() && is_inexact(run);
    if of.is_hub() { runs.iter().filter(own).count() } else { 0 }
}

/// Returns a side of a bar whose speed was that of the generator. The rival comes first: with a faster generator it
/// might have been faster than the judged server.
fn limited(sample: &Sample<'_>, bar: &Bar, best: Option<Peer>) -> Option<Peer> {
    let mut sides = [bar.against.peer(best), Some(bar.of)].into_iter().flatten();
    sides.find(|side| bar.metric.is_speed() && sample.is_limited(side.name()))
}

/// Returns why a bar has no runs to be judged by.
fn why_not(kept: &Kept, scenario: &Scenario, bar: &Bar, best: Option<Peer>, runs: &[Run]) -> String {
    let sides = [Some(bar.of), bar.against.peer(best)].into_iter().flatten();
    for side in sides {
        let described = kept
            .rounds_of(scenario.name)
            .next_back()
            .and_then(|round| round.servers.iter().find(|server| server.name == side.name()));
        if let Some(why) = described.and_then(|server| server.obstacle.as_deref()) {
            return format!("{} cannot start here: {why}", side.name());
        }
        let mut own = runs.iter().filter(|run| run.server == side.name()).rev();
        if let Some(failure) = own.find_map(|run| run.failure.as_deref()) {
            return format!("{} failed: {}", side.name(), portable(failure));
        }
    }
    match scenario.load {
        _ if !runs.is_empty() => "no runs that are comparable".to_owned(),
        Load::Share(..) if kept.rounds_of(SATURATION).next().is_none() => format!("it needs the row {SATURATION}"),
        _ => "no record of these programs".to_owned(),
    }
}

/// Returns the servers in the order in which they first ran.
fn names(runs: &[Run]) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for run in runs {
        if !names.contains(&run.server.as_str()) {
            names.push(&run.server);
        }
    }
    names.sort_by_key(|name| *name != Peer::Hub.name());
    names
}

fn notes(kept: &Kept, scenario: &Scenario, sample: &Sample<'_>, runs: &[Run]) -> Vec<String> {
    let rounds = kept.rounds_of(scenario.name).count();
    let names = names(runs);
    let at_least = sample.depth(names.iter().copied());
    let days: BTreeSet<String> = kept.rounds_of(scenario.name).map(|round| day(round.circumstances.started)).collect();
    let mut notes = vec![format!(
        "{rounds} rounds on {}, of which at least {at_least} count for each server; CPUs {}",
        days.into_iter().collect::<Vec<_>>().join(", "),
        sample.placement.name()
    )];
    let (failed, disturbed) = (
        runs.iter().filter(|run| run.failure.is_some()).count(),
        runs.iter().filter(|run| run.failure.is_none() && run.disturbed).count(),
    );
    if failed + disturbed > 0 {
        notes.push(format!("{disturbed} runs were disturbed and {failed} failed; they are in no figure"));
    }
    notes.extend(kept.rate_of(scenario.name).map(|rate| format!("{rate} messages/s")));
    notes
}

/// Returns the commands of the row, and of its servers and loads as they ran in the last round.
fn commands(last: &Round, sample: &Sample<'_>, names: &[&str]) -> Vec<String> {
    let mut commands = vec![last.command.clone()];
    for run in names.iter().filter_map(|name| sample.runs_of(name).last()) {
        commands.extend([&run.server_command, &run.load_command].map(|command| portable(command)));
    }
    commands.retain(|command| !command.is_empty());
    let mut seen = BTreeSet::new();
    commands.retain(|command| seen.insert(command.clone()));
    commands
}

/// Returns a command without what differs from machine to machine, and from run to run: folders, ports, and ids of
/// processes.
pub(crate) fn portable(command: &str) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    let mut after_pid = false;
    let words = command.split(' ').map(|word| {
        let path = Path::new(word);
        let word = match (path.strip_prefix(&here), path.file_name()) {
            (Ok(inside), _) => inside.to_string_lossy().into_owned(),
            (Err(_), Some(name)) if path.is_absolute() => name.to_string_lossy().into_owned(),
            _ => word.to_owned(),
        };
        let is_pid = std::mem::replace(&mut after_pid, word == "--server-pid");
        if is_pid { "PID".to_owned() } else { with_one_port(&word) }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Returns the word with the port of the loopback address replaced.
fn with_one_port(word: &str) -> String {
    match word.split_once(LOOPBACK) {
        Some((before, after)) => {
            let rest = after.trim_start_matches(|letter: char| letter.is_ascii_digit());
            format!("{before}{LOOPBACK}6455{rest}")
        }
        None => word.to_owned(),
    }
}

/// Returns every server of the records, as the last record describes it, sorted by name.
fn servers(kept: &Kept) -> Vec<Described> {
    let described = kept.rounds.iter().flat_map(|round| &round.servers);
    let servers: BTreeMap<&str, &Described> = described.map(|server| (server.name.as_str(), server)).collect();
    servers.into_values().cloned().collect()
}

/// Returns a day such as 2026-11-30, of seconds since 1970 (UTC).
pub(crate) fn day(seconds: u64) -> String {
    // Days since 0000-03-01, in eras of 400 years. A year that begins in March ends with the leap day.
    let days = seconds / 86_400 + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    format!("{:04}-{month:02}-{day:02}", era * 400 + year + u64::from(month <= 2))
}

const NOTHING: &str = "–";
const LOOPBACK: &str = "127.0.0.1:";

/// The presets of the generator that were tested against a real server of the kind.
pub(crate) const REAL_PRESETS: &[&str] = &["ringhub", "ws", "bun", "kore", "nchan", "nats", "socketio"];

/// The presets that were tested against a scripted peer only (`loadgen/tests`).
pub(crate) const SCRIPTED_PRESETS: &[&str] = &["pusher", "centrifuge"];

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::scenario::Load;
    use crate::table::scenario;

    /// Returns a view of one row with a bar of each result.
    pub(crate) fn view() -> View {
        let row = scenario("rate-100").unwrap();
        assert_eq!(row.load, Load::Rate(100));
        let found =
            |value: f64, spread, bar: &Bar| Some(Found { value, spread, rounds: 9, verdict: bar.limit.judge(value) });
        let found_of = |place: usize, bar: &Bar| match place {
            0 => found(1.0, [0.98, 1.02], bar),
            1 => found(0.93, [0.9, 0.95], bar),
            2 => found(1.1, [1.0, 1.2], bar),
            _ => None,
        };
        let lines = row.bars.iter().take(4).enumerate().map(|(place, bar)| {
            let found = found_of(place, bar);
            let result = found.map(|found| found.verdict).ok_or_else(|| "not run: a | reason".to_owned());
            Line::of(bar, bar.against.name(None), found, result)
        });
        let described = |name: &str, setting: &str, obstacle: Option<&str>| Described {
            name: name.to_owned(),
            version: None,
            setting: setting.to_owned(),
            obstacle: obstacle.map(str::to_owned),
        };
        let median = Summary { median: 900.0, min: 880.0, max: 920.0, count: 9 };
        let row = Row {
            name: row.name,
            load: row.description(),
            lines: lines.collect(),
            metrics: vec![Metric::CpuPerDelivery],
            medians: vec![("hub".to_owned(), vec![Some(median)]), ("kore".to_owned(), vec![None])],
            ratios: vec![("hub / bun".to_owned(), vec![Some(0.93)])],
            notes: vec!["9 rounds".to_owned()],
            commands: vec!["bench/run results --only rate-100".to_owned(), "ringhub serve".to_owned()],
        };
        let facts = vec![("programs", "abc".to_owned())];
        let servers = vec![described("hub", "one shard", None), described("kore", "one worker", Some("no package"))];
        View { facts, rows: vec![row], servers }
    }
}

#[cfg(test)]
mod tests {
    use super::super::kept::testing::round;
    use super::*;
    use crate::run::testing::run;
    use clap::ValueEnum as _;

    const CPU: Metric = Metric::CpuPerDelivery;

    /// Returns the records of this number of rounds of `rate-100`, in which the hub costs 900 ns.
    fn kept(rounds: usize, bun: f64) -> Kept {
        let of_round = |number: usize| {
            let runs = [(Peer::Hub, 900.0), (Peer::Bun, bun)].map(|(peer, ns)| run("rate-100", peer, number, CPU, ns));
            round("rate-100", 1_796_000_000 + number as u64, runs.into())
        };
        Kept { rounds: (0..rounds).map(of_round).collect(), ..Kept::default() }
    }

    fn line<'v>(view: &'v View, row: &str, against: &str) -> &'v Line {
        let row = view.rows.iter().find(|other| other.name == row).unwrap();
        row.lines.iter().find(|line| line.against == against).unwrap()
    }

    #[test]
    fn a_bar_is_judged_from_nine_rounds_on() {
        let result = |rounds, bun| line(&View::of(&kept(rounds, bun), "abc", 4), "rate-100", "bun").result.clone();
        assert_eq!(result(9, 1_000.0), Ok(Verdict::Met));
        assert_eq!(result(9, 960.0), Ok(Verdict::WithinNoise));
        assert_eq!(result(9, 900.0), Ok(Verdict::Missed));
        assert_eq!(result(8, 1_000.0), Err("not judged: 8 of 9 rounds".to_owned()));
        assert_eq!(result(0, 1_000.0), Err("not run: no record of these programs".to_owned()));
    }

    #[test]
    fn a_hub_that_loses_messages_meets_no_bar() {
        let mut kept = kept(9, 1_000.0);
        let mut lost = run("rate-100", Peer::Hub, 9, CPU, 900.0);
        lost.failure = Some(format!("{NOT_EXACT}: 1 lost"));
        kept.rounds.last_mut().unwrap().runs.push(lost);
        let view = View::of(&kept, "abc", 4);
        assert_eq!(line(&view, "rate-100", "bun").result, Err("FAILED: 1 runs of hub were not exact".to_owned()));
        // A rival's mistakes are in no figure, and its other runs count.
        kept.rounds.last_mut().unwrap().runs.last_mut().unwrap().server = "bun".to_owned();
        assert_eq!(line(&View::of(&kept, "abc", 4), "rate-100", "bun").result, Ok(Verdict::Met));
    }

    #[test]
    fn a_speed_of_the_generator_is_no_speed_of_a_server() {
        let result = |hub: f64, limited: &[Peer]| {
            let of_round = |number: usize| {
                let runs = [(Peer::Hub, hub), (Peer::Bun, 10.0)].map(|(peer, speed)| Run {
                    is_limited: limited.contains(&peer),
                    ..run("echo-1", peer, number, Metric::RoundTripsPerSecond, speed)
                });
                round("echo-1", 1_796_000_000 + number as u64, runs.into())
            };
            let kept = Kept { rounds: (0..9).map(of_round).collect(), ..Kept::default() };
            line(&View::of(&kept, "abc", 4), "echo-1", "bun").result.clone()
        };
        let not_judged = |server| Err(format!("not judged: the generator was the bottleneck with {server}"));
        assert_eq!(result(10.0, &[]), Ok(Verdict::Met));
        assert_eq!(result(10.0, &[Peer::Bun]), not_judged("bun"));
        assert_eq!(result(10.0, &[Peer::Hub, Peer::Bun]), not_judged("bun"));
        // The hub would be still faster with a faster generator.
        assert_eq!(result(10.0, &[Peer::Hub]), Ok(Verdict::Met));
        assert_eq!(result(5.0, &[Peer::Hub]), not_judged("hub"));
    }

    #[test]
    fn a_bar_that_was_not_run_says_why() {
        let mut kept = kept(9, 1_000.0);
        let result = |kept: &Kept, row, against| line(&View::of(kept, "abc", 4), row, against).result.clone();
        assert_eq!(result(&kept, "rate-100", "k2"), Err("not run: no runs that are comparable".to_owned()));
        let last = kept.rounds.last_mut().unwrap();
        let (mut kore, mut failed) = (last.servers[0].clone(), run("rate-100", Peer::K2, 8, CPU, 1.0));
        (kore.name, kore.obstacle) = ("kore".to_owned(), Some("apt-get has no such package".to_owned()));
        failed.failure = Some("not exact".to_owned());
        last.servers.push(kore);
        last.runs.push(failed);
        assert_eq!(
            result(&kept, "rate-100", "kore"),
            Err("not run: kore cannot start here: apt-get has no such package".to_owned())
        );
        assert_eq!(result(&kept, "rate-100", "k2"), Err("not run: k2 failed: not exact".to_owned()));
        assert_eq!(result(&kept, "half-of-bun", "bun"), Err("not run: it needs the row in-flight-128".to_owned()));
    }

    #[test]
    fn every_row_is_shown_even_without_a_record() {
        let view = View::of(&Kept::default(), "abc", 4);
        assert_eq!(view.rows.len(), rows().count());
        let bars: usize = rows().map(|row| row.bars.len()).sum();
        assert_eq!(view.summary(), format!("{bars} bars: 0 met, 0 met within 3 %, 0 missed, {bars} not judged"));
        assert!(view.rows.iter().all(|row| !row.is_met() && row.commands.len() == 1));
    }

    #[test]
    fn a_row_shows_its_medians_and_commands() {
        let view = View::of(&kept(9, 1_000.0), "abc", 4);
        let row = &view.rows[0];
        let hub = &row.medians[0];
        assert_eq!((hub.0.as_str(), hub.1[0].map(|summary| summary.median)), ("hub", Some(900.0)));
        assert_eq!(
            (row.metrics.as_slice(), row.ratios.as_slice()),
            (&[CPU][..], &[("hub / bun".to_owned(), vec![Some(0.9)])][..])
        );
        assert_eq!(row.commands[0], "bench/run results --only rate-100");
        assert!(row.commands.contains(&"bun --listen 127.0.0.1:6455".to_owned()), "{:?}", row.commands);
        assert_eq!(row.notes[0], "9 rounds on 2026-11-30, of which at least 9 count for each server; CPUs near");
        let value = line(&view, "rate-100", "bun");
        assert_eq!(
            (value.value.as_str(), value.spread.as_str(), value.must.as_str()),
            ("0.900×", "0.900×–0.900×", "≤ 0.92×")
        );
        assert_eq!(view.facts[1].1, "2026-11-30");
        assert_eq!(view.servers.len(), 2);
    }

    #[test]
    fn commands_name_no_machine() {
        let here = std::env::current_dir().unwrap();
        let command = format!(
            "taskset -c 0 {}/target/release/ringhub --listen 127.0.0.1:40123 /usr/bin/nginx --server-pid 77 --cpu 1",
            here.display()
        );
        let expected = "taskset -c 0 target/release/ringhub --listen 127.0.0.1:6455 nginx --server-pid PID --cpu 1";
        assert_eq!(portable(&command), expected);
        assert_eq!(portable("--url ws://127.0.0.1:40123/t/bench"), "--url ws://127.0.0.1:6455/t/bench");
    }

    #[test]
    fn days_of_leap_years_and_of_others() {
        let days = [0, 951_782_400, 951_868_800, 1_796_037_711, 4_107_542_400];
        assert_eq!(days.map(day), ["1970-01-01", "2000-02-29", "2000-03-01", "2026-11-30", "2100-03-01"]);
    }

    #[test]
    fn every_preset_is_said_to_be_tested() {
        let mut said: Vec<&str> = REAL_PRESETS.iter().chain(SCRIPTED_PRESETS).copied().collect();
        let presets = ringhub_loadgen::PresetName::value_variants().iter();
        let mut names: Vec<String> =
            presets.map(|preset| preset.to_possible_value().unwrap().get_name().to_owned()).collect();
        said.sort_unstable();
        names.sort_unstable();
        assert_eq!(said, names);
    }
}
