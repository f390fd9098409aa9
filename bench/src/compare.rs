//! Runs scenarios against servers in interleaved rounds, and computes the ratios of the medians.

use crate::baseline::Baseline;
use crate::judge::Sample;
use crate::metric::{Metric, number};
use crate::peers::Peer;
use crate::record::{self, Circumstances};
use crate::run::{OTHERS_MAX, Order, Run, at_least_one, rotated, run_once};
use crate::scenario::{Bar, Load, Scenario, Topics, Verdict};
use crate::statistics::Summary;
use crate::table::{BESIDE_BASELINE, SCENARIOS, USUAL, scenario};
use crate::tools::{ANCHOR, Flags, Tools};
use clap::builder::PossibleValuesParser;
use serde::Serialize;
use std::error::Error;

/// Flags of `compare`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Rounds; each runs every server in every scenario once.
    #[arg(long, default_value_t = 9, value_parser = at_least_one)]
    rounds: usize,
    /// The servers to compare. [default: hub,bun,k2; with --baseline hub,baseline]
    #[arg(long, value_enum, value_delimiter = ',')]
    servers: Vec<Peer>,
    /// A commit, or a file whose first word is one: its hub is built and takes part as `baseline`. [default:
    /// bench/ANCHOR if --servers names baseline]
    #[arg(long, value_name = "REV")]
    baseline: Option<String>,
    /// The scenarios to run. [default: rate-100,in-flight-16,in-flight-128; with a baseline also
    /// two-topics,post,unthrottled-17]
    #[arg(long, value_delimiter = ',', value_parser = PossibleValuesParser::new(comparable()))]
    scenarios: Vec<String>,
    /// Length of each measured window.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=20))]
    seconds: u64,
    /// CPUs that may be busy with other programs during a run; with more the run is disturbed.
    #[arg(long, default_value_t = OTHERS_MAX)]
    others_max: f64,
    /// How often a disturbed run is repeated.
    #[arg(long, default_value_t = 2)]
    retries: usize,
    /// Show disturbed runs too, for a rough table on a busy machine. No run is repeated, and no bar is judged.
    #[arg(long, conflicts_with = "retries")]
    allow_disturbance: bool,
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
            [] if with_baseline => BESIDE_BASELINE.to_vec(),
            [] => USUAL.to_vec(),
            scenarios => scenarios.iter().map(|name| &**name).collect(),
        };
        Ok(Choice { servers, scenarios, baseline })
    }
}

/// Returns the names of the scenarios whose load depends on nothing but itself.
fn comparable() -> impl Iterator<Item = &'static str> {
    let is_comparable = |scenario: &&Scenario| !matches!(scenario.load, Load::Share(..) | Load::Micro);
    SCENARIOS.iter().filter(is_comparable).map(|scenario| scenario.name)
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
    of: Peer,
    against: String,
    line: String,
    /// `None` if a side has no run that counts.
    ratio: Option<f64>,
    met: bool,
    /// Why the bar is not judged, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    obstacle: Option<&'static str>,
}

impl Judged {
    /// Returns the verdict for people.
    fn verdict(&self) -> String {
        match (self.obstacle, self.met) {
            (Some(obstacle), _) => format!("NOT JUDGED, {obstacle}"),
            (None, true) => "met".to_owned(),
            (None, false) => "MISSED".to_owned(),
        }
    }
}

/// Runs and prints the comparison, and writes a record. Returns whether all runs were exact, and all bars were judged
/// and met.
pub(crate) fn compare(options: &Options) -> Result<bool, Box<dyn Error>> {
    let Choice { servers, scenarios, baseline } = options.choice()?;
    let mut tools = Tools::prepare(&options.tools, &servers, baseline)?;
    let servers = tools.startable(&servers);
    let scenarios: Vec<&Scenario> = scenarios.iter().filter_map(|name| scenario(name)).collect();
    if scenarios.iter().any(|scenario| scenario.topics == Topics::Two) {
        tools.prepare_two_topics(&options.tools)?;
    }
    let circumstances = Circumstances::now();
    let mut runs = Vec::new();
    for round in 0..options.rounds {
        for &scenario in rotated(&scenarios, round) {
            for &server in rotated(&scenario.servers(&servers), round) {
                let &Options { seconds, others_max, .. } = options;
                let order = Order { round, scenario, server, rate: None, seconds, others_max };
                for _ in 0..=if options.allow_disturbance { 0 } else { options.retries } {
                    let run = run_once(&tools, order);
                    eprintln!("round {}/{} {}", round + 1, options.rounds, run.line());
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
    let disturbed = runs.iter().filter(|run| run.disturbed).count();
    let shown: Vec<Run> = match options.allow_disturbance {
        true => runs.iter().map(|run| Run { disturbed: false, ..run.clone() }).collect(),
        false => runs.clone(),
    };
    let obstacle = (options.allow_disturbance && disturbed > 0).then_some("disturbed runs are among those shown");
    for scenario in scenarios {
        print_scenario(scenario, &scenario.servers(&servers), &shown, obstacle, &mut judged);
    }
    print_bars(&judged);
    if disturbed > 0 && !options.allow_disturbance {
        let hint = "end other programs, raise --others-max, or see a rough table with --allow-disturbance";
        println!("\n{disturbed} of {} runs were disturbed and left out: {hint}", runs.len());
    }
    let failures: Vec<&Run> = runs.iter().filter(|run| run.failure.is_some()).collect();
    for run in &failures {
        let failure = run.failure.as_deref().unwrap_or_default();
        println!("FAILED: round {}, {}, {}: {failure}", run.round + 1, run.scenario, run.server);
    }
    let record = record::write(
        "compare",
        &circumstances,
        &Record { baseline: tools.baseline.as_ref(), runs: &runs, bars: &judged },
    )?;
    println!("record: {}", record.display());
    Ok(failures.is_empty() && judged.iter().all(|bar| bar.met))
}

/// Prints a table for each placement in which every server has runs that count. The bars are judged by the table with
/// most runs.
fn print_scenario(
    scenario: &'static Scenario,
    servers: &[Peer],
    runs: &[Run],
    obstacle: Option<&'static str>,
    judged: &mut Vec<Judged>,
) {
    println!("\n{}", scenario.line());
    // A server without a run that counts takes no table from the others.
    let counted = |server: &&Peer| {
        runs.iter().any(|run| run.counts() && run.scenario == scenario.name && run.server == server.name())
    };
    let able: Vec<Peer> = servers.iter().filter(counted).copied().collect();
    let names = || able.iter().map(|server| server.name());
    let samples: Vec<Sample<'_>> =
        Sample::all(scenario.name, runs).into_iter().filter(|sample| sample.depth(names()) > 0).collect();
    samples.iter().for_each(|sample| print_sample(sample, &able, &scenario.metrics()));
    let deepest = samples.iter().max_by_key(|sample| sample.depth(names()));
    for bar in scenario.compared_bars() {
        let Bar { of, metric, against, .. } = bar;
        if !servers.contains(&of) || against.peer(None).is_some_and(|against| !servers.contains(&against)) {
            continue;
        }
        let judgement = deepest.and_then(|sample| sample.judge(&bar, None));
        let obstacle = if judgement.is_none() { Some("no comparable runs") } else { obstacle };
        let found = match (judgement, obstacle) {
            (Some(judgement), None) => format!("{}, {}", bar.text(judgement.value), judgement.verdict),
            (Some(judgement), Some(why)) => format!("{}, NOT JUDGED, {why}", bar.text(judgement.value)),
            (None, why) => format!("NOT JUDGED, {}", why.unwrap_or_default()),
        };
        let against = against.name(None);
        let line = format!("{} {}/{against} {}: {found}", metric.title(), of.name(), bar.must());
        println!("  bar: {line}");
        judged.push(Judged {
            scenario: scenario.name,
            metric: metric.title(),
            of,
            against: against.to_owned(),
            line,
            ratio: judgement.map(|judgement| judgement.value),
            met: obstacle.is_none() && judgement.is_some_and(|judgement| judgement.verdict != Verdict::Missed),
            obstacle,
        });
    }
}

/// Prints a table with every bar of every scenario.
fn print_bars(judged: &[Judged]) {
    if judged.is_empty() {
        return;
    }
    println!("\n{:16}{:18}{:>10}  {:>8}  bar", "all scenarios", "", "", "ratio");
    for bar @ Judged { scenario, metric, of, against, ratio, .. } in judged {
        let (ratio, sides) = (ratio.map_or_else(|| "–".to_owned(), number), format!("{}/{against}", of.name()));
        let verdict = bar.verdict();
        println!("{scenario:20}{metric:18}{sides:>16}  {ratio:>8}  {verdict}");
    }
}

/// Prints the medians of one scenario in one placement, with the ratios of the hub to the other servers.
fn print_sample(sample: &Sample<'_>, servers: &[Peer], metrics: &[Metric]) {
    let names = servers.iter().map(|server| server.name());
    println!("CPUs {}; median (min–max) of at least {} runs", sample.placement.name(), sample.depth(names));
    let row = |name: &str, cell: &dyn Fn(Metric) -> Option<String>| {
        let cells = metrics.iter().map(|&metric| format!("{:>26}", cell(metric).unwrap_or_default()));
        println!("{name:20}{}", cells.collect::<String>().trim_end());
    };
    row("", &|metric| Some(metric.title().to_owned()));
    for &server in servers {
        row(server.name(), &|metric| {
            let Summary { median, min, max, .. } = sample.summary(server.name(), metric)?;
            Some(format!("{} ({}–{})", number(median), number(min), number(max)))
        });
    }
    for &against in servers.iter().filter(|&&server| server != Peer::Hub) {
        if servers.contains(&Peer::Hub) {
            row(&format!("hub/{}", against.name()), &|metric| {
                let ratio = sample.ratio(Peer::Hub.name(), metric, against.name());
                ratio.filter(|_| metric.is_compared()).map(number)
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::testing::run;
    use crate::scenario::SATURATION;

    fn options(flags: &str) -> Options {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            options: Options,
        }
        let words = ["compare"].into_iter().chain(flags.split_ascii_whitespace());
        <Cli as clap::Parser>::try_parse_from(words).map(|cli| cli.options).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Returns the bars of a scenario with these runs of the hub and of Bun.
    fn judged(obstacle: Option<&'static str>, hub: Option<f64>, bun: Option<f64>) -> Vec<Judged> {
        let speed = |server, value: f64| run(SATURATION, server, 0, Metric::DeliveriesPerSecond, value);
        let runs = [(Peer::Hub, hub), (Peer::Bun, bun)];
        let runs: Vec<Run> = runs.into_iter().filter_map(|(server, value)| Some(speed(server, value?))).collect();
        let mut judged = Vec::new();
        print_scenario(scenario(SATURATION).unwrap(), &[Peer::Hub, Peer::Bun], &runs, obstacle, &mut judged);
        judged.retain(|bar| bar.metric == Metric::DeliveriesPerSecond.title() && bar.against == Peer::Bun.name());
        assert_eq!(judged.len(), 1);
        judged
    }

    /// A bar has the same verdict below its scenario and in the table of all.
    #[test]
    fn a_bar_is_judged_once() {
        let check = |bar: &Judged, verdict: &str| {
            assert!(bar.line.ends_with(verdict) && bar.verdict() == verdict, "{}: {}", bar.line, bar.verdict());
            assert_eq!(bar.met, verdict == "met");
        };
        check(&judged(None, Some(10.0), Some(1.0))[0], "met");
        check(&judged(None, Some(1.0), Some(10.0))[0], "MISSED");
        check(&judged(None, Some(1.0), None)[0], "NOT JUDGED, no comparable runs");
        check(&judged(Some("disturbed runs"), Some(10.0), Some(1.0))[0], "NOT JUDGED, disturbed runs");
    }

    #[test]
    fn a_baseline_brings_itself_and_its_scenarios() {
        let check = |flags: &str, servers: &[Peer], scenarios: &[&str], baseline: Option<&str>| {
            let expected = Choice { servers: servers.to_vec(), scenarios: scenarios.to_vec(), baseline };
            assert_eq!(options(flags).choice().as_ref(), Ok(&expected), "{flags}");
        };
        check("", &[Peer::Hub, Peer::Bun, Peer::K2], &USUAL, None);
        check("--baseline HEAD~1", &[Peer::Hub, Peer::Baseline], &BESIDE_BASELINE, Some("HEAD~1"));
        check("--servers hub,baseline --scenarios post", &[Peer::Hub, Peer::Baseline], &["post"], Some(ANCHOR));
        check("--servers hub,k2 --scenarios rate-100,post", &[Peer::Hub, Peer::K2], &["rate-100", "post"], None);
        assert!(options("--servers hub,k2 --baseline HEAD").choice().is_err_and(|why| why.contains("does not name")));
    }
}
