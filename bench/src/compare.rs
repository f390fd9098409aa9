//! Interleaved rounds of every scenario against every server, and the ratios of the medians.

use crate::peers::{Load, Peer, Running};
use crate::record::{self, Circumstances};
use crate::scenario::{Bar, Metric, SCENARIOS, Scenario, Verdict};
use crate::statistics::Summary;
use crate::tools::{Flags, Tools};
use clap::builder::PossibleValuesParser;
use ringhub_loadgen::{Outcome, Report};
use serde::Serialize;
use std::error::Error;

/// Flags of `compare`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Rounds; each runs every server in every scenario once.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Who takes part.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "hub,bun,k2")]
    servers: Vec<Peer>,
    /// Which scenarios.
    #[arg(long, value_delimiter = ',', default_value = "rate-100,in-flight-16,in-flight-128",
          value_parser = PossibleValuesParser::new(SCENARIOS.iter().map(|scenario| scenario.name)))]
    scenarios: Vec<String>,
    /// Length of each measured window.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=20))]
    seconds: u64,
    #[command(flatten)]
    tools: Flags,
}

/// One server in one scenario in one round.
#[derive(Serialize)]
struct Run {
    round: usize,
    scenario: &'static str,
    server: Peer,
    server_command: String,
    load_command: String,
    /// Why it does not count; `None` when it does.
    failure: Option<String>,
    report: Option<Report>,
}

#[derive(Serialize)]
struct Record<'a> {
    runs: &'a [Run],
    bars: &'a [Judged],
}

/// A bar and what came of it.
#[derive(Serialize)]
struct Judged {
    scenario: &'static str,
    line: String,
    /// `None` when a side has no run that counts.
    ratio: Option<f64>,
    met: bool,
}

/// Runs the comparison, prints it and keeps a record; whether all runs were exact and all bars met.
pub(crate) fn compare(options: &Options) -> Result<bool, Box<dyn Error>> {
    let tools = Tools::prepare(&options.tools, options.servers.contains(&Peer::Bun))?;
    let circumstances = Circumstances::now();
    let scenarios: Vec<&Scenario> =
        SCENARIOS.iter().filter(|scenario| options.scenarios.iter().any(|name| name == scenario.name)).collect();
    let mut runs = Vec::new();
    for round in 0..options.rounds {
        for scenario in rotated(&scenarios, round) {
            for &server in rotated(&options.servers, round) {
                let run = run_once(&tools, round, scenario, server, options.seconds)?;
                eprintln!("{}", progress(&run, options.rounds));
                runs.push(run);
            }
        }
    }
    println!("{}", circumstances.line());
    let mut judged = Vec::new();
    for scenario in scenarios {
        print_scenario(scenario, &options.servers, &runs, &mut judged);
    }
    let failures: Vec<&Run> = runs.iter().filter(|run| run.failure.is_some()).collect();
    for run in &failures {
        let failure = run.failure.as_deref().unwrap_or_default();
        println!("FAILED: round {}, {}, {}: {failure}", run.round + 1, run.scenario, run.server.name());
    }
    let record = record::write("compare", &circumstances, &Record { runs: &runs, bars: &judged })?;
    println!("record: {}", record.display());
    Ok(failures.is_empty() && judged.iter().all(|bar| bar.met))
}

/// The items beginning with another one in each round, so that nobody always runs after the same neighbour's noise.
fn rotated<T>(items: &[T], round: usize) -> impl Iterator<Item = &T> {
    let (front, back) = items.split_at(if items.is_empty() { 0 } else { round % items.len() });
    back.iter().chain(front)
}

fn run_once(
    tools: &Tools,
    round: usize,
    scenario: &Scenario,
    server: Peer,
    seconds: u64,
) -> Result<Run, Box<dyn Error>> {
    let running = Running::start(server, tools)?;
    let mut flags: Vec<String> = scenario.load.flag().into();
    for (flag, value) in [
        ("--subscribers", scenario.subscribers.to_string()),
        ("--size", scenario.size.to_string()),
        ("--warmup", format!("{WARMUP_SECONDS}s")),
        ("--duration", format!("{seconds}s")),
        ("--verify", "sample".to_owned()),
    ] {
        flags.extend([flag.to_owned(), value]);
    }
    let load = Load::run(tools, &running, &flags)?;
    let exact = scenario.load.exact_messages(WARMUP_SECONDS + seconds);
    let (failure, report) = match load.report {
        Err(why) => (Some(why), None),
        Ok(report) => (failure_of(&report, exact), Some(report)),
    };
    let server_command = running.command_line.clone();
    let load_command = load.command_line;
    Ok(Run { round, scenario: scenario.name, server, server_command, load_command, failure, report })
}

/// Why a run does not count, if so.
fn failure_of(report: &Report, exact_messages: Option<u64>) -> Option<String> {
    let published = report.counts.published;
    match report.outcome {
        Outcome::Void => Some(format!("void: {}", report.void_reasons.join("; "))),
        Outcome::Broken => Some(format!("not exact: {:?} {}", report.counts, report.disconnections.join("; "))),
        Outcome::Exact => match exact_messages {
            Some(exact) if published != exact => Some(format!("published {published} messages instead of {exact}")),
            _ if report.figures.as_ref().is_none_or(|figures| figures.deliveries == 0) => {
                Some("nothing was delivered inside the window".to_owned())
            }
            _ => None,
        },
    }
}

fn progress(run: &Run, rounds: usize) -> String {
    let outcome = match (&run.failure, run.report.as_ref().and_then(|report| report.figures.as_ref())) {
        (Some(failure), _) => format!("FAILED: {failure}"),
        (None, Some(figures)) => {
            let shown = [Metric::CpuPerDelivery, Metric::DeliveriesPerSecond, Metric::P99, Metric::MessagesPerRead];
            let show = |metric: Metric| format!("{} {}", metric.title(), number(metric.of(figures)));
            shown.map(show).join(", ")
        }
        (None, None) => "no figures".to_owned(),
    };
    format!("round {}/{rounds} {:13} {:4} {outcome}", run.round + 1, run.scenario, run.server.name())
}

fn print_scenario(scenario: &'static Scenario, servers: &[Peer], runs: &[Run], judged: &mut Vec<Judged>) {
    let Scenario { name, subscribers, size, load, bars } = scenario;
    let load = load.flag().join(" ");
    println!("\n{name}: {subscribers} subscribers, {size} B, {load}; median (min–max) of the runs that count");
    print!("{:10}", "");
    Metric::ALL.iter().for_each(|metric| print!("{:>26}", metric.title()));
    println!();
    let summary = |server: Peer, metric: Metric| {
        let of_server =
            runs.iter().filter(|run| run.scenario == *name && run.server == server && run.failure.is_none());
        let figures = of_server.filter_map(|run| run.report.as_ref()?.figures.as_ref());
        Summary::of(figures.filter_map(|figures| metric.of(figures)))
    };
    for &server in servers {
        print!("{:10}", server.name());
        for metric in Metric::ALL {
            let cell = summary(server, metric).map_or_else(
                || "–".to_owned(),
                |Summary { median, min, max, .. }| {
                    format!("{} ({}–{})", number(Some(median)), number(Some(min)), number(Some(max)))
                },
            );
            print!("{cell:>26}");
        }
        println!();
    }
    let ratio =
        |metric: Metric, against: Peer| Some(summary(Peer::Hub, metric)?.median / summary(against, metric)?.median);
    for &against in servers.iter().filter(|&&server| server != Peer::Hub && servers.contains(&Peer::Hub)) {
        print!("{:10}", format!("hub/{}", against.name()));
        for metric in Metric::ALL.into_iter().filter(|metric| metric.is_compared()) {
            let cell = ratio(metric, against).map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.3}"));
            print!("{cell:>26}");
        }
        println!();
    }
    for Bar { metric, against, limit } in *bars {
        if !servers.contains(&Peer::Hub) || !servers.contains(against) {
            continue;
        }
        let ratio = ratio(*metric, *against);
        let verdict = ratio.map_or(Verdict::Missed, |ratio| limit.judge(ratio));
        let shown = ratio.map_or_else(|| "no figures".to_owned(), |ratio| format!("{ratio:.3}"));
        let line = format!("{} hub/{} {limit}: {shown}, {verdict}", metric.title(), against.name());
        println!("  bar: {line}");
        judged.push(Judged { scenario: name, line, ratio, met: verdict != Verdict::Missed });
    }
}

/// Three digits that matter.
fn number(value: Option<f64>) -> String {
    match value {
        None => "–".to_owned(),
        Some(value) if value.abs() >= 100.0 => format!("{value:.0}"),
        Some(value) if value.abs() >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.2}"),
    }
}

const WARMUP_SECONDS: u64 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everyone_begins_a_round_once() {
        let order = |round| rotated(&["a", "b", "c"], round).copied().collect::<String>();
        assert_eq!([order(0), order(1), order(2), order(3)], ["abc", "bca", "cab", "abc"]);
        assert_eq!(rotated::<u8>(&[], 4).count(), 0);
    }

    #[test]
    fn numbers_keep_three_digits() {
        assert_eq!(
            [number(Some(3_440.4)), number(Some(15.83)), number(Some(0.789)), number(None)],
            ["3440", "15.8", "0.79", "–"]
        );
    }
}
