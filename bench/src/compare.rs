//! Runs every scenario against every server in interleaved rounds, and computes the ratios of the medians.

use crate::baseline::Baseline;
use crate::client::metrics_of;
use crate::distance::{Placement, hop_ns};
use crate::peers::{LOAD_CPU, Load, Peer, Running, SERVER_CPU};
use crate::post;
use crate::record::{self, Circumstances};
use crate::scenario::{self, Bar, Measured, Metric, SCENARIOS, Scenario, USUAL, Verdict};
use crate::statistics::Summary;
use crate::tools::{ANCHOR, Flags, Tools};
use clap::builder::PossibleValuesParser;
use ringhub_loadgen::{Outcome, Report};
use serde::Serialize;
use std::error::Error;
use std::net::SocketAddr;

/// Flags of `compare`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Rounds; each runs every server in every scenario once.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// The servers to compare. [default: hub,bun,k2; with --baseline hub,baseline]
    #[arg(long, value_enum, value_delimiter = ',')]
    servers: Vec<Peer>,
    /// A commit, or a file whose first word is one: its hub is built and takes part as `baseline`. [default:
    /// bench/ANCHOR if --servers names baseline]
    #[arg(long, value_name = "REV")]
    baseline: Option<String>,
    /// The scenarios to run. [default: rate-100,in-flight-16,in-flight-128; all if baseline takes part]
    #[arg(long, value_delimiter = ',',
          value_parser = PossibleValuesParser::new(SCENARIOS.iter().map(|scenario| scenario.name)))]
    scenarios: Vec<String>,
    /// Length of each measured window.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=20))]
    seconds: u64,
    /// CPUs that may be busy with other programs during a run; with more the run is disturbed.
    #[arg(long, default_value_t = 0.1)]
    others_max: f64,
    /// How often a disturbed run is repeated.
    #[arg(long, default_value_t = 2)]
    retries: usize,
    #[command(flatten)]
    tools: Flags,
}

/// The choice that the flags make together.
#[derive(Debug, PartialEq, Eq)]
struct Choice<'a> {
    servers: Vec<Peer>,
    scenarios: Vec<&'a str>,
    baseline: Option<&'a str>,
}

impl Options {
    fn choice(&self) -> Result<Choice<'_>, String> {
        let servers = match (&*self.servers, &self.baseline) {
            ([], None) => vec![Peer::Hub, Peer::Bun, Peer::K2],
            ([], Some(_)) => vec![Peer::Hub, Peer::Baseline],
            (servers, _) => servers.to_vec(),
        };
        let with_baseline = servers.contains(&Peer::Baseline);
        let baseline = match &self.baseline {
            Some(_) if !with_baseline => return Err("--baseline builds a hub that --servers does not name".to_owned()),
            Some(asked) => Some(&**asked),
            None => with_baseline.then_some(ANCHOR),
        };
        let scenarios = match &*self.scenarios {
            [] if with_baseline => SCENARIOS.iter().map(|scenario| scenario.name).collect(),
            [] => USUAL.to_vec(),
            scenarios => scenarios.iter().map(|name| &**name).collect(),
        };
        Ok(Choice { servers, scenarios, baseline })
    }
}

/// One server in one scenario in one round.
#[derive(Serialize)]
struct Run {
    round: usize,
    scenario: &'static str,
    server: Peer,
    server_command: String,
    load_command: String,
    /// The reason why the run was not exact, if so.
    failure: Option<String>,
    /// Whether other programs used the machine meanwhile. Such a run must still be exact, but its figures do not count.
    disturbed: bool,
    /// The time of a hop from CPU to CPU, before and after the run.
    hops_ns: [f64; 2],
    placement: Placement,
    /// The report of the generator.
    report: Option<Report>,
    /// The sends per delivery, if each subscriber had several topics.
    sends_per_delivery: Option<f64>,
    /// The figures of HTTP requests, if these were the load.
    requests: Option<post::Figures>,
}

impl Run {
    fn measured(&self) -> Option<Measured<'_>> {
        let figures = self.report.as_ref().and_then(|report| report.figures.as_ref());
        let deliveries = figures.map(|figures| Measured::Deliveries(figures, self.sends_per_delivery));
        deliveries.or(self.requests.as_ref().map(Measured::Requests))
    }

    /// Returns whether the run's figures may be compared with those of other runs in the same placement.
    fn counts(&self) -> bool {
        self.failure.is_none() && !self.disturbed
    }
}

#[derive(Serialize)]
struct Record<'a> {
    baseline: Option<&'a Baseline>,
    runs: &'a [Run],
    bars: &'a [Judged],
}

/// A bar and its result.
#[derive(Serialize)]
struct Judged {
    scenario: &'static str,
    metric: &'static str,
    against: Peer,
    line: String,
    /// `None` if a side has no run that counts.
    ratio: Option<f64>,
    met: bool,
}

/// Runs and prints the comparison, and writes a record. Returns whether all runs were exact, and all bars were judged
/// and met.
pub(crate) fn compare(options: &Options) -> Result<bool, Box<dyn Error>> {
    let Choice { servers, scenarios, baseline } = options.choice()?;
    let mut tools = Tools::prepare(&options.tools, &servers, baseline)?;
    let servers = tools.startable(&servers);
    let scenarios: Vec<&Scenario> = SCENARIOS.iter().filter(|scenario| scenarios.contains(&scenario.name)).collect();
    if scenarios.iter().any(|scenario| scenario.topics > 1) {
        tools.prepare_two_topics(&options.tools)?;
    }
    let circumstances = Circumstances::now();
    let mut runs = Vec::new();
    for round in 0..options.rounds {
        for scenario in rotated(&scenarios, round) {
            for &server in rotated(&scenario.servers(&servers), round) {
                for _ in 0..=options.retries {
                    let run = run_once(&tools, round, scenario, server, options)?;
                    eprintln!("{}", progress(&run, options.rounds));
                    let again = run.failure.is_none() && run.disturbed;
                    runs.push(run);
                    if !again {
                        break;
                    }
                }
            }
        }
    }
    println!("{}", circumstances.line());
    if let Some(baseline) = &tools.baseline {
        println!("{}", baseline.line());
    }
    println!("command: {}", std::env::args().collect::<Vec<_>>().join(" "));
    let mut judged = Vec::new();
    for scenario in scenarios {
        print_scenario(scenario, &scenario.servers(&servers), &runs, &mut judged);
    }
    print_bars(&judged);
    let disturbed = runs.iter().filter(|run| run.disturbed).count();
    if disturbed > 0 {
        println!("\n{disturbed} of {} runs were disturbed and left out", runs.len());
    }
    let failures: Vec<&Run> = runs.iter().filter(|run| run.failure.is_some()).collect();
    for run in &failures {
        let failure = run.failure.as_deref().unwrap_or_default();
        println!("FAILED: round {}, {}, {}: {failure}", run.round + 1, run.scenario, run.server.name());
    }
    let record = record::write(
        "compare",
        &circumstances,
        &Record { baseline: tools.baseline.as_ref(), runs: &runs, bars: &judged },
    )?;
    println!("record: {}", record.display());
    Ok(failures.is_empty() && judged.iter().all(|bar| bar.met))
}

/// Returns the items, beginning with another one in each round, so that noise of other programs does not always hit the
/// same item.
fn rotated<T>(items: &[T], round: usize) -> impl Iterator<Item = &T> {
    let (front, back) = items.split_at(if items.is_empty() { 0 } else { round % items.len() });
    back.iter().chain(front)
}

fn run_once(
    tools: &Tools,
    round: usize,
    scenario: &Scenario,
    server: Peer,
    options: &Options,
) -> Result<Run, Box<dyn Error>> {
    let running = match scenario.topics {
        1 => Running::start(server, tools)?,
        _ => Running::start_with_two_topics(server, tools)?,
    };
    let hop_before = hop_ns(SERVER_CPU, LOAD_CPU);
    let Driven { command, failure, report, sends_per_delivery, requests } =
        drive(tools, &running, scenario, options.seconds)?;
    let hops_ns = [hop_before, hop_ns(SERVER_CPU, LOAD_CPU)];
    let [placement, placement_after] = hops_ns.map(Placement::of);
    let mut run = Run {
        round,
        scenario: scenario.name,
        server,
        server_command: running.command_line.clone(),
        load_command: command,
        failure,
        disturbed: placement != placement_after,
        hops_ns,
        placement,
        report,
        sends_per_delivery,
        requests,
    };
    let others = run.measured().and_then(|measured| Metric::Others.of(measured));
    run.disturbed |= others.is_some_and(|others| others > options.others_max);
    Ok(run)
}

/// The result of a load on a server.
struct Driven {
    command: String,
    failure: Option<String>,
    report: Option<Report>,
    sends_per_delivery: Option<f64>,
    requests: Option<post::Figures>,
}

/// Puts the scenario's load on a server.
fn drive(tools: &Tools, server: &Running, scenario: &Scenario, seconds: u64) -> Result<Driven, Box<dyn Error>> {
    let Scenario { subscribers, topics, size, load, .. } = scenario;
    if let &scenario::Load::Post(connections) = load {
        let done = post::drive(server, post::Plan { connections, subscribers: *subscribers, size: *size, seconds });
        let command = format!("POST of {size} B by this process for {seconds} s, {connections} connections");
        let (requests, failure) = (done.as_ref().ok().copied(), done.err());
        return Ok(Driven { command, failure, report: None, sends_per_delivery: None, requests });
    }
    let mut flags = load.flags(WARMUP_SECONDS, seconds);
    for (flag, value) in [
        ("--subscribers", subscribers.to_string()),
        ("--publishers", topics.to_string()),
        ("--size", size.to_string()),
        ("--verify", "sample".to_owned()),
    ] {
        flags.extend([flag.to_owned(), value]);
    }
    let done = Load::run(tools, server, &flags)?;
    // The opening answer of each connection is a send too, so these sends are left out.
    let sends_per_delivery = match topics {
        1 => None,
        _ => Some(
            (counted(server.address, "sends")? - (subscribers + topics) as f64)
                / counted(server.address, "deliveries")?,
        ),
    };
    let exact = load.exact_messages(WARMUP_SECONDS, seconds);
    let (failure, report) = match done.report {
        Err(why) => (Some(why), None),
        Ok(report) => (failure_of(&report, exact), Some(report)),
    };
    Ok(Driven { command: done.command_line, failure, report, sends_per_delivery, requests: None })
}

/// Returns one of the server's counters, over all shards.
fn counted(address: SocketAddr, counter: &str) -> Result<f64, Box<dyn Error>> {
    let (metrics, begin) = (metrics_of(address)?, format!("ringhub_{counter}_total{{shard="));
    let values = metrics.lines().filter(|line| line.starts_with(&begin));
    let values: Vec<f64> = values.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
    if values.is_empty() {
        Err(format!("the server's metrics do not have {counter}").into())
    } else {
        Ok(values.iter().sum())
    }
}

/// Returns the reason for which a run does not count, if there is one.
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
    let outcome = match (&run.failure, run.measured()) {
        (Some(failure), _) => format!("FAILED: {failure}"),
        (None, Some(measured)) => {
            let shown = Metric::SHOWN.iter().filter_map(|metric| Some((metric.title(), metric.of(measured)?)));
            shown.map(|(title, value)| format!("{title} {}", number(Some(value)))).collect::<Vec<_>>().join(", ")
        }
        (None, None) => "no figures".to_owned(),
    };
    let [before, after] = run.hops_ns;
    let disturbed = if run.disturbed { ", DISTURBED" } else { "" };
    let (round, placement) = (run.round + 1, run.placement.name());
    format!(
        "round {round}/{rounds} {:14} {:8} {outcome}; CPUs {placement} ({before:.0}, {after:.0} ns){disturbed}",
        run.scenario,
        run.server.name()
    )
}

/// Prints a table for each placement in which every server has runs that count. The bars are judged by the table with
/// most runs.
fn print_scenario(scenario: &'static Scenario, servers: &[Peer], runs: &[Run], judged: &mut Vec<Judged>) {
    println!("\n{}", scenario.line());
    let tables: Vec<Table<'_>> = [Placement::Near, Placement::Apart, Placement::Far]
        .into_iter()
        .map(|placement| Table {
            placement,
            servers,
            metrics: scenario.metrics(),
            runs: runs
                .iter()
                .filter(|run| run.scenario == scenario.name && run.placement == placement && run.counts())
                .collect(),
        })
        .filter(|table| table.depth() > 0)
        .collect();
    tables.iter().for_each(Table::print);
    let deepest = tables.iter().max_by_key(|table| table.depth());
    for Bar { metric, against, limit } in scenario.bars() {
        if !servers.contains(&Peer::Hub) || !servers.contains(&against) {
            continue;
        }
        let ratio = deepest.and_then(|table| table.ratio(metric, against));
        let verdict = ratio.map(|ratio| limit.judge(ratio));
        let found = match ratio.zip(verdict) {
            Some((ratio, verdict)) => format!("{ratio:.3}, {verdict}"),
            None => "NOT JUDGED, no comparable runs".to_owned(),
        };
        let line = format!("{} hub/{} {limit}: {found}", metric.title(), against.name());
        println!("  bar: {line}");
        judged.push(Judged {
            scenario: scenario.name,
            metric: metric.title(),
            against,
            line,
            ratio,
            met: verdict.is_some_and(|verdict| verdict != Verdict::Missed),
        });
    }
}

/// Prints a table with every bar of every scenario.
fn print_bars(judged: &[Judged]) {
    if judged.is_empty() {
        return;
    }
    println!("\n{:16}{:18}{:>10}  {:>8}  bar", "all scenarios", "", "hub /", "ratio");
    for Judged { scenario, metric, against, ratio, met, .. } in judged {
        let ratio = ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.3}"));
        let verdict = if *met { "met" } else { "MISSED" };
        println!("{scenario:16}{metric:18}{:>10}  {ratio:>8}  {verdict}", against.name());
    }
}

/// The runs of one scenario in one placement.
struct Table<'a> {
    placement: Placement,
    servers: &'a [Peer],
    metrics: Vec<Metric>,
    runs: Vec<&'a Run>,
}

impl Table<'_> {
    /// Returns the number of runs of the server with the fewest.
    fn depth(&self) -> usize {
        let runs_of = |server: &Peer| self.runs.iter().filter(|run| run.server == *server).count();
        self.servers.iter().map(runs_of).min().unwrap_or(0)
    }

    fn summary(&self, server: Peer, metric: Metric) -> Option<Summary> {
        let measured = self.runs.iter().filter(|run| run.server == server).filter_map(|run| run.measured());
        Summary::of(measured.filter_map(|measured| metric.of(measured)))
    }

    fn ratio(&self, metric: Metric, against: Peer) -> Option<f64> {
        Some(self.summary(Peer::Hub, metric)?.median / self.summary(against, metric)?.median)
    }

    fn print(&self) {
        println!("CPUs {}; median (min–max) of at least {} runs", self.placement.name(), self.depth());
        let row = |name: &str, cell: &dyn Fn(Metric) -> Option<String>| {
            let cells = self.metrics.iter().map(|&metric| format!("{:>26}", cell(metric).unwrap_or_default()));
            println!("{name:12}{}", cells.collect::<String>().trim_end());
        };
        row("", &|metric| Some(metric.title().to_owned()));
        for &server in self.servers {
            row(server.name(), &|metric| {
                let Summary { median, min, max, .. } = self.summary(server, metric)?;
                Some(format!("{} ({}–{})", number(Some(median)), number(Some(min)), number(Some(max))))
            });
        }
        for &against in self.servers.iter().filter(|&&server| server != Peer::Hub) {
            if self.servers.contains(&Peer::Hub) {
                row(&format!("hub/{}", against.name()), &|metric| {
                    let ratio = self.ratio(metric, against).filter(|_| metric.is_compared())?;
                    Some(format!("{ratio:.3}"))
                });
            }
        }
    }
}

/// Formats a value with three significant digits.
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

    fn options(flags: &str) -> Options {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            options: Options,
        }
        let words = ["compare"].into_iter().chain(flags.split_ascii_whitespace());
        <Cli as clap::Parser>::try_parse_from(words).map(|cli| cli.options).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn a_baseline_brings_itself_and_every_scenario() {
        let every: Vec<&str> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
        let check = |flags: &str, servers: &[Peer], scenarios: &[&str], baseline: Option<&str>| {
            let expected = Choice { servers: servers.to_vec(), scenarios: scenarios.to_vec(), baseline };
            assert_eq!(options(flags).choice().as_ref(), Ok(&expected), "{flags}");
        };
        check("", &[Peer::Hub, Peer::Bun, Peer::K2], &USUAL, None);
        check("--baseline HEAD~1", &[Peer::Hub, Peer::Baseline], &every, Some("HEAD~1"));
        check("--servers hub,baseline --scenarios post", &[Peer::Hub, Peer::Baseline], &["post"], Some(ANCHOR));
        check("--servers hub,k2 --scenarios rate-100,post", &[Peer::Hub, Peer::K2], &["rate-100", "post"], None);
        assert!(options("--servers hub,k2 --baseline HEAD").choice().is_err_and(|why| why.contains("does not name")));
    }

    #[test]
    fn numbers_keep_three_digits() {
        assert_eq!(
            [number(Some(3_440.4)), number(Some(15.83)), number(Some(0.789)), number(None)],
            ["3440", "15.8", "0.79", "–"]
        );
    }
}
