//! User-space memory of idle subscribers.

use crate::load::{await_ended_connections, mistakes_of};
use crate::metric::Metric;
use crate::peers::{Load, Peer, Running};
use crate::record::{self, Circumstances};
use crate::run::at_least_one;
use crate::scenario::{Against, Bar, Limit, Verdict};
use crate::statistics::Summary;
use crate::table::scenario;
use crate::tools::{ANCHOR, Flags, Tools};
use ringhub_loadgen::{Memory, Outcome};
use serde::Serialize;
use std::error::Error;

/// Flags of `idle`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Rounds; each starts every server twice, for few and for many connections.
    #[arg(long, default_value_t = 3, value_parser = at_least_one)]
    rounds: usize,
    /// The servers to measure. The bars are for the hub.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "hub")]
    servers: Vec<Peer>,
    /// Seconds between the last handshake and the measurement.
    #[arg(long, default_value_t = 3)]
    settle: u64,
    #[command(flatten)]
    tools: Flags,
}

/// The measurement of a server with a number of idle subscribers.
#[derive(Serialize)]
struct Point {
    round: usize,
    server: Peer,
    connections: usize,
    server_command: String,
    load_command: String,
    memory: Memory,
}

#[derive(Serialize)]
struct Record<'a> {
    points: &'a [Point],
}

/// Measures, prints and writes a record. Returns whether the hub met its bars.
pub(crate) fn idle(options: &Options) -> Result<bool, Box<dyn Error>> {
    let baseline = options.servers.contains(&Peer::Baseline).then_some(ANCHOR);
    let tools = Tools::prepare(&options.tools, &options.servers, baseline)?;
    let servers = tools.startable(&options.servers);
    let circumstances = Circumstances::now();
    let mut points = Vec::new();
    for round in 0..options.rounds {
        for &server in &servers {
            for connections in [FEW, MANY] {
                points.push(measure(&tools, round, server, connections, options.settle)?);
            }
        }
    }
    println!("{}", circumstances.line());
    println!("user-space memory, medians of {} rounds; without the kernel's sockets and polls", options.rounds);
    let mut met = true;
    for &server in &servers {
        let median = |connections: usize, bytes: fn(&Memory) -> Option<u64>| {
            let of_point = points.iter().filter(|point| point.server == server && point.connections == connections);
            let values = of_point.filter_map(|point| bytes(&point.memory)).map(|bytes| bytes as f64);
            Summary::of(values).map(|summary| summary.median).ok_or("the kernel does not show the server's memory")
        };
        let anonymous = [median(FEW, |memory| memory.rss_anon)?, median(MANY, |memory| memory.rss_anon)?];
        let proportional = [median(FEW, |memory| memory.pss)?, median(MANY, |memory| memory.pss)?];
        let slope = (anonymous[1] - anonymous[0]) / (MANY - FEW) as f64;
        let [few, many, pss_few, pss_many] =
            [anonymous[0], anonymous[1], proportional[0], proportional[1]].map(|bytes| bytes / MEBIBYTE);
        println!("\n{}", server.name());
        println!("  anonymous     {few:.2} MiB with {FEW}, {many:.2} MiB with {MANY} connections");
        println!(
            "  proportional  {pss_few:.2} MiB with {FEW}, {pss_many:.2} MiB with {MANY} (PSS: code and files included)"
        );
        println!("  per connection {slope:.0} B anonymous");
        if server == Peer::Hub {
            let bar = slope_bar().ok_or("the table has no bar for idle connections")?;
            let slope_verdict = bar.limit.judge(slope);
            let total_verdict = Limit::AtMost(TOTAL_MAX_MEBIBYTES).judge(pss_many);
            println!("  bar: per connection {} B: {slope:.0}, {slope_verdict}", bar.must());
            println!("  bar: PSS with {MANY} ≤ {TOTAL_MAX_MEBIBYTES} MiB: {pss_many:.2}, {total_verdict}");
            met &= slope_verdict != Verdict::Missed && total_verdict != Verdict::Missed;
        }
    }
    let record = record::write("idle", &circumstances, &Record { points: &points })?;
    println!("record: {}", record.display());
    Ok(met)
}

fn measure(
    tools: &Tools,
    round: usize,
    server: Peer,
    connections: usize,
    settle: u64,
) -> Result<Point, Box<dyn Error>> {
    await_ended_connections(ENDED_MAX)?;
    let running = Running::start(server, tools)?;
    let flags = ["--subscribers".to_owned(), connections.to_string(), "--hold".to_owned(), format!("{settle}s")];
    let load = Load::run(tools, &running, &flags)?;
    let report = load.report?;
    let fail = |why: String| Err(format!("{} with {connections} idle connections: {why}", server.name()).into());
    if report.outcome != Outcome::Exact {
        return fail(mistakes_of(&report));
    }
    let Some(memory) = report.memory_after else { return fail("no memory was read".to_owned()) };
    eprintln!("round {} {:4} {connections} connections: {memory}", round + 1, server.name());
    let server_command = running.command_line.clone();
    Ok(Point { round, server, connections, server_command, load_command: load.command_line, memory })
}

/// Returns the bar of the row `idle` for user-space memory per connection.
fn slope_bar() -> Option<&'static Bar> {
    let bars = scenario("idle")?.bars.iter();
    bars.clone().find(|bar| bar.metric == Metric::UserBytes && bar.against == Against::Nothing)
}

const FEW: usize = 1_000;
const MANY: usize = 15_000;

/// The connections that have ended before, whose ports [`MANY`] new ones can do without.
const ENDED_MAX: u64 = 10_000;

const TOTAL_MAX_MEBIBYTES: f64 = 32.0;
const MEBIBYTE: f64 = 1_048_576.0;

#[cfg(test)]
mod tests {
    use super::*;

    /// `idle` and `results` judge the same figure by the same bar.
    #[test]
    fn the_bar_is_that_of_the_table() {
        assert!(slope_bar().is_some_and(|bar| bar.of == Peer::Hub));
    }
}
