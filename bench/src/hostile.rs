//! Measures honest clients beside a crowd of flooders and alone, to see how a crowd affects others.

use crate::flood::{Done, Kind, READY};
use crate::honest::{Honest, Latency, Plan, medians};
use crate::peers::{LOAD_CPU, Running, on_the_loads_cpu};
use crate::record::{self, Circumstances};
use crate::tools::{Flags, Tools, command_line, pinned};
use clap::ValueEnum;
use clap::builder::PossibleValuesParser;
use ringhub_loadgen::cpu_of;
use serde::Serialize;
use std::error::Error;
use std::io::{BufRead, BufReader};
use std::iter;
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Stdio};
use std::time::{Duration, Instant};

/// Flags of `hostile`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Pairs of a quiet and a hostile run for each crowd.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    pairs: u64,
    /// What the crowds send; `mixed` is all kinds at once, `drawn` is drawn from `--seed`.
    #[arg(long, value_delimiter = ',', default_values_t = crowds(), value_parser = PossibleValuesParser::new(crowds()))]
    floods: Vec<String>,
    /// Flooders in a crowd.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(8..=4_096))]
    flooders: u64,
    /// Shards of the server, all on one CPU.
    #[arg(long, default_value_t = 1)]
    shards: usize,
    /// Honest subscribers.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..))]
    subscribers: u64,
    /// Messages per second of the honest publisher.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    rate: u64,
    /// Length of each measured window.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Seed of the drawn crowd in the first pair; each further pair has the next seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    tools: Flags,
}

/// Returns the names of all crowds.
fn crowds() -> Vec<String> {
    let kinds = Kind::value_variants().iter().map(|kind| kind.name());
    iter::once(MIXED).chain(kinds).chain([DRAWN]).map(str::to_owned).collect()
}

/// Returns the kinds of frames that a crowd sends.
fn kinds(crowd: &str) -> Vec<Kind> {
    Kind::value_variants().iter().copied().filter(|kind| crowd == MIXED || crowd == kind.name()).collect()
}

/// One quiet or hostile run.
#[derive(Serialize)]
struct Run {
    pair: u64,
    crowd: String,
    is_hostile: bool,
    server_command: String,
    flood_commands: Vec<String>,
    /// The reason if the honest clients were not served as promised.
    failure: Option<String>,
    latency: Option<Latency>,
    flood: Done,
    seconds: f64,
    /// CPUs that the server used.
    server_cores: f64,
}

/// The result of a crowd's pairs.
#[derive(Serialize)]
struct Judged {
    crowd: String,
    quiet: Option<Latency>,
    hostile: Option<Latency>,
    met: bool,
}

#[derive(Serialize)]
struct Record<'a> {
    runs: &'a [Run],
    crowds: &'a [Judged],
}

/// Measures, prints and writes a record. Returns whether every crowd met the bar.
pub(crate) fn hostile(options: &Options) -> Result<bool, Box<dyn Error>> {
    let tools = Tools::prepare(&options.tools, &[], None)?;
    let circumstances = Circumstances::now();
    let mut runs = Vec::new();
    for pair in 0..options.pairs {
        for crowd in &options.floods {
            // The order of the two runs alternates between pairs.
            for is_hostile in [pair % 2 == 1, pair % 2 == 0] {
                let run = run_once(&tools, options, pair, crowd, is_hostile)?;
                eprintln!("{}", progress(&run, options.pairs));
                runs.push(run);
            }
        }
    }
    let judged: Vec<Judged> = options.floods.iter().map(|crowd| judge(crowd, &runs)).collect();
    println!("{}", circumstances.line());
    println!("command: {}", std::env::args().collect::<Vec<_>>().join(" "));
    let Options { pairs, flooders, shards, subscribers, rate, .. } = options;
    println!(
        "{flooders} flooders at nice 19 beside an honest publisher of {rate} messages/s and {subscribers} subscribers; \
         server of {shards} shards on one CPU, all clients on the other; medians of {pairs} pairs, ms from send to the \
         kernel's receipt\n"
    );
    print_table(&judged, &runs);
    let failures: Vec<_> = runs.iter().filter_map(|run| Some((run, run.failure.as_ref()?))).collect();
    for (run, failure) in &failures {
        let side = if run.is_hostile { "hostile" } else { "quiet" };
        println!("FAILED: pair {}, {}, {side}: {failure}", run.pair + 1, run.crowd);
    }
    let record = record::write("hostile", &circumstances, &Record { runs: &runs, crowds: &judged })?;
    println!("record: {}", record.display());
    Ok(failures.is_empty() && judged.iter().all(|judged| judged.met))
}

fn run_once(tools: &Tools, options: &Options, pair: u64, crowd: &str, is_hostile: bool) -> Result<Run, Box<dyn Error>> {
    let server = Running::start_hub(tools, options.shards)?;
    let plan = Plan {
        subscribers: options.subscribers as usize,
        rate: options.rate,
        warmup_ns: WARMUP.as_nanos() as u64,
        window_ns: Duration::from_secs(options.seconds).as_nanos() as u64,
        drain_ns: DRAIN.as_nanos() as u64,
    };
    let honest = Honest::open(server.address, plan)?;
    let mut floods = if is_hostile { start_crowd(tools, options, pair, crowd, server.address)? } else { Vec::new() };
    for flood in &mut floods {
        flood.await_ready()?;
    }
    let (begin, cpu) = (Instant::now(), cpu_of(server.pid())?);
    let latency = on_the_loads_cpu(|| honest.run());
    let seconds = begin.elapsed().as_secs_f64();
    let server_cores = cpu_of(server.pid()).map_or(f64::NAN, |now| now.since(cpu).total_ns() as f64 / 1e9 / seconds);
    let flood_commands = floods.iter().map(|flood| flood.command_line.clone()).collect();
    let mut flood = Done::default();
    let mut failure = latency.as_ref().err().cloned();
    for one in floods {
        let name = one.name;
        let done = one.end()?;
        if done.frames == 0 {
            failure = failure.or_else(|| Some(format!("no client flooded with {name}")));
        }
        flood = flood.and(done);
    }
    Ok(Run {
        pair,
        crowd: crowd.to_owned(),
        is_hostile,
        server_command: server.command_line.clone(),
        flood_commands,
        failure,
        latency: latency.ok(),
        flood,
        seconds,
        server_cores,
    })
}

/// Starts the processes of a crowd.
fn start_crowd(
    tools: &Tools,
    options: &Options,
    pair: u64,
    crowd: &str,
    server: SocketAddr,
) -> Result<Vec<Flood>, Box<dyn Error>> {
    let flooders = options.flooders as usize;
    if crowd == DRAWN {
        let seed = (options.seed + pair).to_string();
        return Ok(vec![Flood::start(tools, server, DRAWN, &["drawn", "--seed", &seed], flooders)?]);
    }
    let kinds = kinds(crowd);
    let start = |(index, kind): (usize, &Kind)| {
        // The flooders are divided equally among the kinds; the first kinds may have one more.
        let connections = flooders / kinds.len() + usize::from(index < flooders % kinds.len());
        Flood::start(tools, server, kind.name(), &["flood", "--kind", kind.name()], connections)
    };
    kinds.iter().enumerate().map(start).collect()
}

/// A process that floods until it is ended. If the bench is killed, the kernel kills the flooding process too.
struct Flood {
    name: &'static str,
    child: Child,
    output: BufReader<ChildStdout>,
    command_line: String,
}

impl Flood {
    fn start(
        tools: &Tools,
        address: SocketAddr,
        name: &'static str,
        arguments: &[&str],
        connections: usize,
    ) -> Result<Flood, Box<dyn Error>> {
        let mut command = pinned(LOAD_CPU, &tools.bench);
        command.args(arguments).args(["--address", &address.to_string()]);
        command.args(["--connections", &connections.to_string()]);
        let command_line = command_line(&command);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().ok_or("a flood has no output")?;
        Ok(Flood { name, child, output: BufReader::new(output), command_line })
    }

    /// Waits until every flooder has been connected once.
    fn await_ready(&mut self) -> Result<(), Box<dyn Error>> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        if line.trim() == READY {
            return Ok(());
        }
        Err(format!("{}: {}, it said `{}`", self.command_line, self.child.wait()?, line.trim()).into())
    }

    fn end(mut self) -> Result<Done, Box<dyn Error>> {
        drop(self.child.stdin.take());
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        let status = self.child.wait()?;
        serde_json::from_str(&line).map_err(|_| format!("{}: {status}, it said `{line}`", self.command_line).into())
    }
}

fn judge(crowd: &str, runs: &[Run]) -> Judged {
    let side = |is_hostile: bool| {
        let runs = runs.iter().filter(|run| run.crowd == crowd && run.is_hostile == is_hostile);
        medians(&runs.filter_map(|run| run.latency).collect::<Vec<_>>())
    };
    let (quiet, hostile) = (side(false), side(true));
    let met = quiet.zip(hostile).is_some_and(|(quiet, hostile)| hostile.p99_ms <= quiet.p99_ms + MARGIN_MS);
    Judged { crowd: crowd.to_owned(), quiet, hostile, met }
}

fn progress(run: &Run, pairs: u64) -> String {
    let side = if run.is_hostile { "hostile" } else { "quiet" };
    let outcome = match (&run.failure, &run.latency) {
        (Some(failure), _) => format!("FAILED: {failure}"),
        (None, Some(Latency { p50_ms, p99_ms, max_ms, .. })) => {
            format!("p50 {p50_ms:.2} ms, p99 {p99_ms:.2}, max {max_ms:.2}")
        }
        (None, None) => "no figures".to_owned(),
    };
    let Done { frames, bytes, opened, refused } = run.flood;
    let flood = match run.is_hostile {
        true => format!("; {frames} frames, {} MiB, {opened} handshakes, {refused} refused", bytes >> 20),
        false => String::new(),
    };
    let (pair, crowd, cores) = (run.pair + 1, &run.crowd, run.server_cores);
    format!("pair {pair}/{pairs} {crowd:13} {side:8} {outcome}; server {cores:.2} CPUs{flood}")
}

fn print_table(judged: &[Judged], runs: &[Run]) {
    println!(
        "{:14}{:>10}{:>10}{:>13}{:>13}{:>10}{:>13}{:>10}{:>14}",
        "crowd", "quiet p50", "quiet p99", "hostile p50", "hostile p99", "max", "frames/s k", "MiB/s", "handshakes/s"
    );
    for Judged { crowd, quiet, hostile, met } in judged {
        let cell = |latency: &Option<Latency>, figure: fn(&Latency) -> f64| {
            latency.as_ref().map_or_else(|| "–".to_owned(), |latency| format!("{:.2}", figure(latency)))
        };
        let hostile_runs = || runs.iter().filter(|run| run.crowd == *crowd && run.is_hostile);
        let seconds: f64 = hostile_runs().map(|run| run.seconds).sum();
        let flood = hostile_runs().fold(Done::default(), |sum, run| sum.and(run.flood));
        println!(
            "{crowd:14}{:>10}{:>10}{:>13}{:>13}{:>10}{:>13.0}{:>10.1}{:>14.0}  {}",
            cell(quiet, |latency| latency.p50_ms),
            cell(quiet, |latency| latency.p99_ms),
            cell(hostile, |latency| latency.p50_ms),
            cell(hostile, |latency| latency.p99_ms),
            cell(hostile, |latency| latency.max_ms),
            flood.frames as f64 / seconds / 1e3,
            flood.bytes as f64 / seconds / f64::from(1 << 20),
            flood.opened as f64 / seconds,
            if *met { "met" } else { "MISSED" }
        );
    }
    println!("bar: hostile p99 ≤ quiet p99 + {MARGIN_MS} ms; nothing lost, repeated, reordered or invented\n");
}

/// The crowd that has all kinds.
const MIXED: &str = "mixed";

/// The crowd that is drawn from a seed.
const DRAWN: &str = "drawn";

/// How much a crowd may add to the honest clients' p99.
const MARGIN_MS: f64 = 10.0;

/// How long the honest clients run before their times count.
const WARMUP: Duration = Duration::from_secs(1);

/// How long the last deliveries may take.
const DRAIN: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    fn run(is_hostile: bool, p99_ms: f64) -> Run {
        Run {
            pair: 0,
            crowd: "pings".to_owned(),
            is_hostile,
            server_command: String::new(),
            flood_commands: Vec::new(),
            failure: None,
            latency: Some(Latency { p50_ms: 0.1, p99_ms, max_ms: p99_ms, deliveries: 1 }),
            flood: Done::default(),
            seconds: 1.0,
            server_cores: 1.0,
        }
    }

    #[test]
    fn medians_decide_and_a_side_without_runs_is_missed() {
        let runs = |hostile: [f64; 3]| {
            let quiet = [1.0, 2.0, 30.0].map(|p99_ms| run(false, p99_ms));
            quiet.into_iter().chain(hostile.map(|p99_ms| run(true, p99_ms))).collect::<Vec<_>>()
        };
        assert!(judge("pings", &runs([5.0, 12.0, 900.0])).met);
        assert!(!judge("pings", &runs([5.0, 12.1, 12.2])).met);
        assert!(!judge("pings", &[run(false, 1.0)]).met);
        assert!(!judge("pongs", &runs([1.0, 1.0, 1.0])).met);
    }

    #[test]
    fn a_mixed_crowd_has_every_kind() {
        assert_eq!(kinds(MIXED), Kind::value_variants());
        assert_eq!(kinds("garbage"), [Kind::Garbage]);
        assert_eq!(crowds().len(), Kind::value_variants().len() + 2);
    }
}
