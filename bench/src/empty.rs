//! Measures how a flood of the smallest frames affects the server's memory.
//!
//! A message can have six bytes, and what a server keeps for a message is larger. Each shape of the flood sends the
//! same number of bytes to a new server. The growth of the server's resident memory at its peak is compared with a
//! limit.

use crate::client::{DROP_BYTES, Received, drop_received, metrics_of, open, send_some};
use crate::peers::Running;
use crate::record::{self, Circumstances};
use crate::statistics::Summary;
use crate::tools::{Flags, Tools};
use clap::ValueEnum;
use ringhub_loadgen::{memory_of, reset_peak};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::Serialize;
use std::error::Error;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Flags of `empty`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Rounds; each starts a server for every shape.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// The shapes of the flood.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "heard,unheard,pings,alternating")]
    shapes: Vec<Shape>,
    /// MiB to send in all.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=1_024))]
    mebibytes: u64,
    /// Connections that send; at most 16 if they are subscribers too.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=4_096))]
    connections: u64,
    /// The fewest subscribers of the topic; there are more if a shard has none yet.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=4_096))]
    subscribers: u64,
    /// Shards of the server, all on one CPU.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=256))]
    shards: u64,
    #[command(flatten)]
    tools: Flags,
}

/// A shape of the flood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Shape {
    /// Empty messages by `mode=pub` to a topic with subscribers on all shards.
    Heard,
    /// Empty messages by `mode=pub` to a topic without subscribers.
    Unheard,
    /// Pings by `mode=pub`, whose senders read the pongs.
    Pings,
    /// Empty messages of subscribers without echo, which send one after the other.
    Alternating,
}

impl Shape {
    fn name(self) -> &'static str {
        match self {
            Shape::Heard => "heard",
            Shape::Unheard => "unheard",
            Shape::Pings => "pings",
            Shape::Alternating => "alternating",
        }
    }

    fn has_subscribers(self) -> bool {
        matches!(self, Shape::Heard | Shape::Alternating)
    }

    fn frame(self) -> [u8; FRAME_LENGTH] {
        let opcode = if self == Shape::Pings { 0x89 } else { 0x82 };
        [opcode, 0x80, 0, 0, 0, 0]
    }

    /// Returns how many of the `asked` connections send. Senders that alternate are subscribers, so each message is
    /// delivered to all of them.
    fn senders(self, asked: u64) -> u64 {
        if self == Shape::Alternating { asked.min(ALTERNATING_MAX) } else { asked }
    }

    /// Returns how many bytes a sender writes before the next sender's turn.
    fn portion(self) -> usize {
        if self == Shape::Alternating { FRAME_LENGTH } else { CHUNK_FRAMES * FRAME_LENGTH }
    }
}

/// The measurement of one flood.
#[derive(Serialize)]
struct Point {
    round: u64,
    shape: Shape,
    server_command: String,
    subscribers: usize,
    /// Resident bytes before the flood.
    before: u64,
    /// The most resident bytes since then.
    peak: u64,
    seconds: f64,
}

#[derive(Serialize)]
struct Record<'a> {
    points: &'a [Point],
}

/// Measures, prints and writes a record. Returns whether every growth was below the limit. It is an error if the server
/// ends a connection, or if a delivery is lost or invented.
pub(crate) fn empty(options: &Options) -> Result<bool, Box<dyn Error>> {
    let tools = Tools::prepare(&options.tools, &[], None)?;
    let circumstances = Circumstances::now();
    let mut points = Vec::new();
    for round in 0..options.rounds {
        for &shape in &options.shapes {
            let point = measure(&tools, options, round, shape)
                .map_err(|error| format!("round {}, {}: {error}", round + 1, shape.name()))?;
            let [before, peak] = [point.before, point.peak].map(mebibytes);
            let (name, growth, seconds) = (shape.name(), peak - before, point.seconds);
            eprintln!("round {} {name:12} {before:.1} → {peak:.1} MiB, +{growth:.1}, {seconds:.2} s", round + 1);
            points.push(point);
        }
    }
    println!("{}", circumstances.line());
    println!("command: {}", std::env::args().collect::<Vec<_>>().join(" "));
    let Options { rounds, mebibytes: sent, connections, shards, .. } = options;
    println!(
        "{sent} MiB of frames of {FRAME_LENGTH} bytes from {connections} connections; server of {shards} shards on one \
         CPU; growth of its resident memory at the peak, {rounds} rounds\n"
    );
    let mut is_met = true;
    for &shape in &options.shapes {
        let of_shape = points.iter().filter(|point| point.shape == shape);
        let growth = Summary::of(of_shape.map(|point| mebibytes(point.peak) - mebibytes(point.before)));
        let Some(Summary { median, min, max, .. }) = growth else { continue };
        let verdict = if max < GROWTH_MAX_MEBIBYTES { "met" } else { "MISSED" };
        println!("{:12} +{median:.1} MiB ({min:.1}–{max:.1})  {verdict}", shape.name());
        is_met &= max < GROWTH_MAX_MEBIBYTES;
    }
    println!("bar: each below {GROWTH_MAX_MEBIBYTES} MiB; every delivery arrived once\n");
    let record = record::write("empty", &circumstances, &Record { points: &points })?;
    println!("record: {}", record.display());
    Ok(is_met)
}

fn measure(tools: &Tools, options: &Options, round: u64, shape: Shape) -> Result<Point, Box<dyn Error>> {
    let server = Running::start_hub(tools, options.shards as usize)?;
    let mut flood = Flood::open(server.address, options, shape)?;
    reset_peak(server.pid())?;
    let before = memory_of(server.pid()).rss.ok_or("the kernel does not show the server's memory")?;
    let begin = Instant::now();
    flood.send()?;
    flood.await_deliveries()?;
    flood.close()?;
    let seconds = begin.elapsed().as_secs_f64();
    let peak = memory_of(server.pid()).rss_peak.ok_or("the kernel does not show the server's memory")?;
    let (subscribers, server_command) = (flood.subscribers.len(), server.command_line.clone());
    Ok(Point { round, shape, server_command, subscribers, before, peak, seconds })
}

struct Flood {
    shape: Shape,
    senders: Vec<Sender>,
    subscribers: Vec<(TcpStream, u64)>,
    /// Bytes of many frames.
    chunk: Vec<u8>,
    nothing: Vec<u8>,
    deadline: Instant,
}

struct Sender {
    stream: TcpStream,
    /// The number of bytes to send; `sent` of them have been sent.
    total: usize,
    sent: usize,
    received: u64,
}

impl Flood {
    fn open(address: SocketAddr, options: &Options, shape: Shape) -> Result<Flood, Box<dyn Error>> {
        let frames = (options.mebibytes << 20) / FRAME_LENGTH as u64;
        let count = shape.senders(options.connections);
        let mode = if shape == Shape::Alternating { "" } else { "?mode=pub" };
        let sender = |index: u64| {
            let stream = open(address, &format!("/t/empty{mode}"))?;
            stream.set_nonblocking(true)?;
            let one_more = u64::from(index < frames % count);
            let total = (frames / count + one_more) as usize * FRAME_LENGTH;
            Ok(Sender { stream, total, sent: 0, received: 0 })
        };
        let senders = (0..count).map(sender).collect::<Result<Vec<_>, Box<dyn Error>>>()?;
        let others: Vec<u64> = connections_by_shard(address)?;
        let mut subscribers = Vec::new();
        while shape.has_subscribers() && subscribers.len() < SUBSCRIBERS_MAX {
            let is_enough = subscribers.len() as u64 >= options.subscribers;
            let has_one = |(now, before): (&u64, &u64)| now > before;
            if is_enough && connections_by_shard(address)?.iter().zip(&others).all(has_one) {
                break;
            }
            subscribers.push((open(address, "/t/empty?mode=sub")?, 0));
        }
        Ok(Flood {
            shape,
            senders,
            subscribers,
            chunk: shape.frame().repeat(CHUNK_FRAMES),
            nothing: vec![0; DROP_BYTES],
            deadline: Instant::now() + DEADLINE,
        })
    }

    /// Sends everything, as fast as the server reads.
    fn send(&mut self) -> Result<(), Box<dyn Error>> {
        while self.senders.iter().any(|sender| sender.sent < sender.total) {
            let mut count = 0;
            for sender in &mut self.senders {
                // A write may have ended within a frame.
                let begun = sender.sent % FRAME_LENGTH;
                let end = self.shape.portion().min(begun + sender.total - sender.sent);
                if begun < end {
                    let sent = send_some(&sender.stream, &self.chunk[begun..end])
                        .map_err(|error| format!("a sender's connection: {error}"))?;
                    (sender.sent, count) = (sender.sent + sent, count + sent);
                }
            }
            let received = self.receive()?;
            if count == 0 && received == 0 {
                self.wait(true)?;
            }
        }
        Ok(())
    }

    /// Waits until every subscriber has everything, then a moment for deliveries that must not come.
    fn await_deliveries(&mut self) -> Result<(), Box<dyn Error>> {
        if self.shape.has_subscribers() {
            while self.missing() > 0 {
                if self.receive().map_err(|error| format!("{error}, {} bytes are missing", self.missing()))? == 0 {
                    self.wait(false)?;
                }
            }
            let settled = Instant::now() + SETTLE;
            while Instant::now() < settled {
                if self.receive()? == 0 {
                    self.wait(false)?;
                }
            }
            if self.missing() != 0 {
                return Err(format!("{} bytes more were delivered than owed", -self.missing()).into());
            }
        }
        Ok(())
    }

    /// Returns the number of bytes that are owed and have not come, over all connections. A negative number is that of
    /// excess bytes.
    fn missing(&self) -> i64 {
        let all: usize = self.senders.iter().map(|sender| sender.total).sum();
        let owed = |of_others: usize| (of_others / FRAME_LENGTH * DELIVERY_LENGTH) as i64;
        let subscribers = self.subscribers.iter().map(|(_, received)| owed(all) - *received as i64);
        let is_owed = self.shape == Shape::Alternating;
        let senders = self.senders.iter().filter(|_| is_owed);
        let missing = subscribers.chain(senders.map(|sender| owed(all - sender.total) - sender.received as i64));
        // Excess bytes of one connection do not make up for missing bytes of another.
        let (too_few, too_many): (Vec<i64>, Vec<i64>) = missing.partition(|missing| *missing > 0);
        if too_few.is_empty() { too_many.iter().sum() } else { too_few.iter().sum() }
    }

    /// Closes the senders, and waits until the server has read all their bytes.
    fn close(&mut self) -> Result<(), Box<dyn Error>> {
        for sender in &mut self.senders {
            sender.stream.set_nonblocking(false)?;
            sender.stream.set_read_timeout(Some(DEADLINE))?;
            sender.stream.write_all(&[0x88, 0x80, 0, 0, 0, 0])?;
        }
        for sender in &mut self.senders {
            while sender.stream.read(&mut self.nothing).map_err(|error| format!("a close: {error}"))? > 0 {}
        }
        Ok(())
    }

    /// Drops the bytes that have come, and returns their number.
    fn receive(&mut self) -> Result<u64, Box<dyn Error>> {
        let Flood { senders, subscribers, nothing, deadline, .. } = self;
        let senders = senders.iter_mut().map(|sender| (&sender.stream, &mut sender.received));
        let subscribers = subscribers.iter_mut().map(|(stream, received)| (&*stream, received));
        let mut sum = 0;
        if Instant::now() > *deadline {
            return Err(format!("not done after {DEADLINE:?}").into());
        }
        for (stream, received) in senders.chain(subscribers) {
            match drop_received(stream, nothing)? {
                Received::Bytes(count) => (*received, sum) = (*received + count, sum + count),
                Received::Nothing => {}
                Received::End => return Err("the server has closed a connection".into()),
            }
        }
        Ok(sum)
    }

    /// Waits until a socket is ready.
    fn wait(&self, sending: bool) -> Result<(), Box<dyn Error>> {
        let interest = |sender: &Sender| match sending && sender.sent < sender.total {
            true => PollFlags::IN | PollFlags::OUT,
            false => PollFlags::IN,
        };
        let senders = self.senders.iter().map(|sender| PollFd::new(&sender.stream, interest(sender)));
        let subscribers = self.subscribers.iter().map(|(stream, _)| PollFd::new(stream, PollFlags::IN));
        match poll(&mut senders.chain(subscribers).collect::<Vec<_>>(), Some(&PATIENCE)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Returns the number of open WebSockets of each shard, by the server's count.
fn connections_by_shard(address: SocketAddr) -> Result<Vec<u64>, Box<dyn Error>> {
    let answer = metrics_of(address)?;
    let counts = answer.lines().filter(|line| line.starts_with("ringhub_connections_open{shard="));
    let counts: Vec<u64> = counts.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
    if counts.is_empty() { Err("the server does not tell its connections by shard".into()) } else { Ok(counts) }
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// A masked frame without a payload.
const FRAME_LENGTH: usize = 6;

/// The most senders that are subscribers.
const ALTERNATING_MAX: u64 = 16;

/// The bytes of the unmasked frame that a subscriber receives.
const DELIVERY_LENGTH: usize = 2;

/// The frames of one write.
const CHUNK_FRAMES: usize = 10_922;

/// How much 16 MiB of input may add to the memory of a server.
const GROWTH_MAX_MEBIBYTES: f64 = 64.0;

/// The most subscribers before it is an error that a shard has none. The kernel spreads connections, so this is very
/// unlikely.
const SUBSCRIBERS_MAX: usize = 4_096;

/// How long a flood may take.
const DEADLINE: Duration = Duration::from_secs(300);

/// How long to wait for deliveries that must not come.
const SETTLE: Duration = Duration::from_millis(200);

/// The longest sleep.
const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
