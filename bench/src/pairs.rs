//! Compares the hub with that of another commit in short slices of the same load, taken in turn.
//!
//! Both servers run all the time, on the same CPU, and one of them is loaded in each slice. Two slices that follow each
//! other are a pair. Whatever disturbs this machine for longer than a pair (other programs, another placement of the
//! CPUs) costs both slices alike, so the median of the pairs' ratios is far steadier than the ratio of two medians of
//! long runs. The reported interval is that of the median, without assumptions about the distribution.

use crate::client::{DROP_BYTES, Received, binary_frame, drop_received, open, send_some};
use crate::peers::{Peer, Running, SERVER_CPU, on_the_loads_cpu};
use crate::post::{Load as PostLoad, Plan, Threads};
use crate::record::{self, Circumstances};
use crate::scenario::{Limit, Verdict};
use crate::tools::{ANCHOR, Flags, Tools};
use clap::ValueEnum;
use serde::Serialize;
use std::error::Error;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Flags of `pairs`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The load.
    #[arg(long, value_enum, default_value = "post")]
    load: Kind,
    /// Pairs of slices.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(10..=100_000))]
    pairs: u32,
    /// Milliseconds of each slice.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(20..=10_000))]
    slice: u64,
    /// The other commit, or a file whose first word is a commit.
    #[arg(long, default_value = ANCHOR)]
    baseline: String,
    #[command(flatten)]
    tools: Flags,
}

/// A kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    /// POST of 128 bytes without subscribers, one request in flight on each of 16 connections.
    Post,
    /// Messages of 128 bytes to 1 000 subscribers, 16 in flight.
    Raw,
}

impl Kind {
    fn unit(self) -> &'static str {
        match self {
            Kind::Post => "request",
            Kind::Raw => "delivery",
        }
    }
}

/// A pair of slices: the CPU times for each request or delivery, in nanoseconds.
#[derive(Clone, Copy, Serialize)]
struct Pair {
    hub_ns: f64,
    baseline_ns: f64,
    /// Requests or deliveries per second.
    hub_rate: f64,
    baseline_rate: f64,
}

#[derive(Serialize)]
struct Record<'a> {
    load: Kind,
    commands: [&'a str; 2],
    pairs: &'a [Pair],
}

/// A median with the interval that has it in 95 of 100 cases.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Estimate {
    median: f64,
    low: f64,
    high: f64,
}

impl Estimate {
    /// Estimates the median of what the values are drawn from. The bounds are those values between which the median is,
    /// by the binomial distribution of the number of values below it.
    fn of(values: impl IntoIterator<Item = f64>) -> Option<Estimate> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_unstable_by(f64::total_cmp);
        let last = values.len().checked_sub(1)?;
        let (middle, half) = (last as f64 / 2.0, 0.98 * (values.len() as f64).sqrt());
        let at = |rank: f64| values[(rank.round().max(0.0) as usize).min(last)];
        Some(Estimate { median: at(middle), low: at((middle - half).floor()), high: at((middle + half).ceil()) })
    }
}

/// Measures, prints and writes a record. Returns whether the hub is at most as expensive as the other commit, within
/// the tolerance of all bars.
pub(crate) fn pairs(options: &Options) -> Result<bool, Box<dyn Error>> {
    let tools = Tools::prepare(&options.tools, &[], Some(&options.baseline))?;
    let circumstances = Circumstances::now();
    let servers = [Running::start(Peer::Hub, &tools)?, Running::start(Peer::Baseline, &tools)?];
    let pairs = on_the_loads_cpu(|| measure(&servers, options).map_err(|error| error.to_string()))?;
    println!("{}", circumstances.line());
    let unit = options.load.unit();
    let (count, slice) = (pairs.len(), options.slice);
    println!("{count} pairs of slices of {slice} ms, hub and baseline in turn on CPU {SERVER_CPU}");
    let of = |value: fn(&Pair) -> f64| Estimate::of(pairs.iter().map(value)).ok_or("there are no pairs");
    let (hub, baseline) = (of(|pair| pair.hub_ns)?, of(|pair| pair.baseline_ns)?);
    println!("  CPU per {unit}: hub {:.0} ns, baseline {:.0} ns", hub.median, baseline.median);
    let cost = of(|pair| pair.hub_ns / pair.baseline_ns)?;
    let rate = of(|pair| pair.hub_rate / pair.baseline_rate)?;
    let verdict = Limit::AtMost(1.0).judge(cost.median);
    println!("  ratio of CPU: {:.3} ({:.3} to {:.3}); bar: ≤ 1, {verdict}", cost.median, cost.low, cost.high);
    println!("  ratio of {unit} rates: {:.3} ({:.3} to {:.3})", rate.median, rate.low, rate.high);
    let commands = [&*servers[0].command_line, &*servers[1].command_line];
    let record = record::write("pairs", &circumstances, &Record { load: options.load, commands, pairs: &pairs })?;
    println!("record: {}", record.display());
    Ok(verdict != Verdict::Missed)
}

fn measure(servers: &[Running; 2], options: &Options) -> Result<Vec<Pair>, Box<dyn Error>> {
    let slice = Duration::from_millis(options.slice);
    let mut loads = Vec::new();
    for server in servers {
        let mut load = Load::open(options.load, server.address)?;
        load.run(Duration::from_millis(500))?;
        loads.push(load);
    }
    let mut pairs = Vec::new();
    for number in 0..options.pairs {
        let mut found = [(0.0, 0.0); 2];
        // Every second pair begins with the other server, so that neither is always the first one.
        for turn in 0..2 {
            let at = (turn + number as usize) % 2;
            let (begin, before) = (Instant::now(), Threads::of(servers[at].pid())?.sum());
            let count = loads[at].run(slice)? as f64;
            let seconds = begin.elapsed().as_secs_f64();
            let cpu_ns = (Threads::of(servers[at].pid())?.sum() - before) as f64;
            found[at] = (cpu_ns / count, count / seconds);
        }
        let [(hub_ns, hub_rate), (baseline_ns, baseline_rate)] = found;
        pairs.push(Pair { hub_ns, baseline_ns, hub_rate, baseline_rate });
    }
    Ok(pairs)
}

/// The clients of one server.
enum Load {
    Post(PostLoad),
    Raw(Raw),
}

impl Load {
    fn open(kind: Kind, address: SocketAddr) -> Result<Load, Box<dyn Error>> {
        Ok(match kind {
            Kind::Post => {
                Load::Post(PostLoad::open(address, Plan { connections: 16, subscribers: 0, size: SIZE, seconds: 0 })?)
            }
            Kind::Raw => Load::Raw(Raw::open(address)?),
        })
    }

    /// Loads the server for this time, and waits for the last answers or deliveries. Returns their number.
    fn run(&mut self, time: Duration) -> Result<u64, Box<dyn Error>> {
        match self {
            Load::Post(load) => load.run(time),
            Load::Raw(load) => load.run(time),
        }
    }
}

/// A publisher, and subscribers whose bytes the kernel drops.
struct Raw {
    publisher: TcpStream,
    subscribers: Vec<TcpStream>,
    frame: Vec<u8>,
    nothing: Vec<u8>,
}

impl Raw {
    fn open(address: SocketAddr) -> Result<Raw, Box<dyn Error>> {
        let subscribers = (0..SUBSCRIBERS).map(|_| open(address, "/t/bench?mode=sub")).collect::<io::Result<_>>()?;
        let publisher = open(address, "/t/bench?mode=pub")?;
        Ok(Raw { publisher, subscribers, frame: binary_frame(SIZE as u8), nothing: vec![0; DROP_BYTES] })
    }

    fn run(&mut self, time: Duration) -> Result<u64, Box<dyn Error>> {
        let ends = Instant::now() + time;
        let (mut published, mut received) = (0, 0);
        loop {
            let is_over = Instant::now() >= ends;
            let delivered = received / (SUBSCRIBERS * DELIVERED_BYTES) as u64;
            if is_over && delivered == published {
                return Ok(published * SUBSCRIBERS as u64);
            }
            if Instant::now() > ends + DELIVERY_DEADLINE {
                return Err(format!("{received} bytes of {published} messages were delivered").into());
            }
            while !is_over && published < delivered + IN_FLIGHT {
                let sent = send_some(&self.publisher, &self.frame)?;
                if sent != self.frame.len() {
                    return Err("the server does not read the publisher's messages".into());
                }
                published += 1;
            }
            for stream in &self.subscribers {
                match drop_received(stream, &mut self.nothing)? {
                    Received::Bytes(count) => received += count,
                    Received::Nothing => {}
                    Received::End => return Err("the server has closed a subscriber".into()),
                }
            }
        }
    }
}

const SUBSCRIBERS: usize = 1_000;
const IN_FLIGHT: u64 = 16;

/// Bytes of each body or message.
const SIZE: usize = 128;

/// A delivered frame: a header of four bytes, and the payload.
const DELIVERED_BYTES: usize = 4 + SIZE;

/// How long the last deliveries may take.
const DELIVERY_DEADLINE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_of_a_median() {
        assert_eq!(Estimate::of([]), None);
        assert_eq!(Estimate::of([2.0]), Some(Estimate { median: 2.0, low: 2.0, high: 2.0 }));
        // Of 101 values the 41st and the 61st bound the median in 95.4 of 100 cases.
        let found = Estimate::of((0..=100).rev().map(f64::from));
        assert_eq!(found, Some(Estimate { median: 50.0, low: 40.0, high: 60.0 }));
    }
}
