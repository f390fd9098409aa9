//! Measures publishing by HTTP: many requests on each connection, one after the other.
//!
//! The load spins over non-blocking sockets, and lets the kernel drop what subscribers receive. So the load is not the
//! bottleneck, and the server does not pay for waking it.

use crate::client::open;
use crate::distance::{Placement, hop_ns};
use crate::peers::{LOAD_CPU, Peer, Running, SERVER_CPU, on_the_loads_cpu};
use crate::record::{self, Circumstances};
use crate::run::at_least_one;
use crate::statistics::Summary;
use crate::subscribers::Subscribers;
use crate::tools::{Flags, Tools};
use ringhub_loadgen::{cpu_of, machine_busy_ns};
use serde::Serialize;
use std::error::Error;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Flags of `post`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Rounds; each starts the server once for every number of subscribers.
    #[arg(long, default_value_t = 3, value_parser = at_least_one)]
    rounds: usize,
    /// Length of each measured window.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=20))]
    seconds: u64,
    /// Connections that publish.
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// Subscribers of the topic.
    #[arg(long, value_delimiter = ',', default_value = "0,1000")]
    subscribers: Vec<usize>,
    /// Bytes of each body.
    #[arg(long, default_value_t = 128)]
    size: usize,
    #[command(flatten)]
    tools: Flags,
}

/// The plan of a load.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) connections: usize,
    pub(crate) subscribers: usize,
    /// Bytes of each body.
    pub(crate) size: usize,
    /// Length of the measured window.
    pub(crate) seconds: u64,
}

/// The figures of one window.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Figures {
    requests: u64,
    pub(crate) requests_per_second: f64,
    /// The server's CPU time per request on all threads except the control thread. Nearly all of it is the shard's.
    shard_cpu_ns: f64,
    /// The server's CPU time per request on the control thread.
    control_cpu_ns: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// CPUs that were busy with other programs than the server and the load.
    pub(crate) other_cores: f64,
}

impl Figures {
    /// Returns the CPU time of the whole server per request, in nanoseconds.
    pub(crate) fn cpu_ns(&self) -> f64 {
        self.shard_cpu_ns + self.control_cpu_ns
    }
}

/// The figures of one window, with its circumstances.
#[derive(Serialize)]
struct Point {
    round: usize,
    subscribers: usize,
    server_command: String,
    hops_ns: [f64; 2],
    placements: [Placement; 2],
    #[serde(flatten)]
    figures: Figures,
}

#[derive(Serialize)]
struct Record<'a> {
    points: &'a [Point],
}

/// Measures, prints the figures, and writes a record. It is an error if a request is not accepted, or if a subscriber
/// receives fewer or more bytes than were published.
pub(crate) fn post(options: &Options) -> Result<bool, Box<dyn Error>> {
    let tools = Tools::prepare(&options.tools, &[], None)?;
    let circumstances = Circumstances::now();
    let mut points = Vec::new();
    for round in 0..options.rounds {
        for &subscribers in &options.subscribers {
            let point = measure(&tools, options, round, subscribers)?;
            let Figures { requests_per_second, shard_cpu_ns, control_cpu_ns, p50_us, p99_us, .. } = &point.figures;
            eprintln!(
                "round {} {subscribers:5} subscribers: {requests_per_second:.0} requests/s, {shard_cpu_ns:.0} + \
                 {control_cpu_ns:.0} ns, p50 {p50_us:.0} µs, p99 {p99_us:.0} µs",
                round + 1
            );
            points.push(point);
        }
    }
    println!("{}", circumstances.line());
    println!(
        "POST of {} bytes, {} connections, medians of {} rounds; shard and control thread both on CPU {SERVER_CPU}",
        options.size, options.connections, options.rounds
    );
    for &subscribers in &options.subscribers {
        let of_point = |figure: fn(&Figures) -> f64| {
            let points = points.iter().filter(|point| point.subscribers == subscribers);
            Summary::of(points.map(|point| figure(&point.figures))).map_or(f64::NAN, |summary| summary.median)
        };
        println!("\n{subscribers} subscribers");
        println!("  requests/s       {:.0}", of_point(|figures| figures.requests_per_second));
        println!("  CPU per request  {:.0} ns", of_point(Figures::cpu_ns));
        println!("    control thread {:.0} ns", of_point(|figures| figures.control_cpu_ns));
        println!("  latency          p50 {:.0} µs, p99 {:.0} µs", of_point(|p| p.p50_us), of_point(|p| p.p99_us));
    }
    let record = record::write("post", &circumstances, &Record { points: &points })?;
    println!("record: {}", record.display());
    Ok(true)
}

fn measure(tools: &Tools, options: &Options, round: usize, subscribers: usize) -> Result<Point, Box<dyn Error>> {
    let running = Running::start(Peer::Hub, tools)?;
    let &Options { connections, size, seconds, .. } = options;
    let before = hop_ns(SERVER_CPU, LOAD_CPU);
    let figures = drive(&running, Plan { connections, subscribers, size, seconds })?;
    let hops_ns = [before, hop_ns(SERVER_CPU, LOAD_CPU)];
    let server_command = running.command_line.clone();
    Ok(Point { round, subscribers, server_command, hops_ns, placements: hops_ns.map(Placement::of), figures })
}

/// Publishes to a server from a thread on the load's CPU.
///
/// # Errors
/// An error is returned if a request is not accepted, or if a subscriber receives fewer or more bytes than were
/// published.
pub(crate) fn drive(server: &Running, plan: Plan) -> Result<Figures, String> {
    on_the_loads_cpu(|| publish(server, plan).map_err(|error| error.to_string()))
}

fn publish(server: &Running, plan: Plan) -> Result<Figures, Box<dyn Error>> {
    let mut load = Load::open(server.address, plan)?;
    load.run(Duration::from_millis(500))?;
    load.latencies.clear();
    let (whole, busy) = (cpu_of(server.pid())?, machine_busy_ns()?);
    let (begin, cpu) = (Instant::now(), Threads::of(server.pid())?);
    let requests = load.run(Duration::from_secs(plan.seconds))?;
    let (elapsed, now) = (begin.elapsed().as_nanos() as f64, Threads::of(server.pid())?);
    let busy_ns = machine_busy_ns()?.saturating_sub(busy) as f64;
    load.subscribers.await_bytes(load.accepted * load.frame_bytes)?;
    load.latencies.sort_unstable();
    let quantile = |q: f64| load.latencies[((load.latencies.len() - 1) as f64 * q) as usize] as f64 / 1_000.0;
    let whole_ns = cpu_of(server.pid())?.since(whole).total_ns();
    // Helper threads of a runtime may end, and then only the process has their time, in ticks.
    let others_ns = if server.peer.is_hub() { now.others.saturating_sub(cpu.others) } else { whole_ns };
    let [shard_ns, control_ns] = [others_ns, now.control.saturating_sub(cpu.control)].map(|ns| ns as f64);
    Ok(Figures {
        requests,
        requests_per_second: requests as f64 * 1e9 / elapsed,
        shard_cpu_ns: shard_ns / requests as f64,
        control_cpu_ns: control_ns / requests as f64,
        p50_us: quantile(0.5),
        p99_us: quantile(0.99),
        // The load spins, so it used one CPU all the time.
        other_cores: ((busy_ns - shard_ns - control_ns) / elapsed - 1.0).max(0.0),
    })
}

/// The CPU time of a server's threads until now, in nanoseconds.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Threads {
    control: u64,
    others: u64,
}

impl Threads {
    /// Returns the CPU time of all threads together.
    pub(crate) fn sum(self) -> u64 {
        self.control + self.others
    }

    /// Reads the CPU times of a server's threads.
    pub(crate) fn of(pid: u32) -> io::Result<Threads> {
        let mut threads = Threads::default();
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let task = task?.path();
            // A thread may end while it is looked at.
            let read = |file: &str| fs::read_to_string(task.join(file));
            let (Ok(name), Ok(schedstat)) = (read("comm"), read("schedstat")) else { continue };
            let ns: u64 = schedstat.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or_default();
            *(if name.trim() == "ringhub-control" { &mut threads.control } else { &mut threads.others }) += ns;
        }
        Ok(threads)
    }
}

/// The clients of one server.
pub(crate) struct Load {
    request: Vec<u8>,
    /// Each publisher with the time of its last request, and the part of the answer that has come.
    publishers: Vec<(TcpStream, Instant, Vec<u8>)>,
    subscribers: Subscribers,
    latencies: Vec<u64>,
    accepted: u64,
    frame_bytes: u64,
}

impl Load {
    /// Opens the connections of all publishers and subscribers.
    pub(crate) fn open(address: SocketAddr, plan: Plan) -> Result<Load, Box<dyn Error>> {
        let Plan { connections, subscribers, size, .. } = plan;
        let mut request = format!(
            "POST /t/bench HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/octet-stream\r\n\
             Content-Length: {size}\r\n\r\n"
        )
        .into_bytes();
        request.resize(request.len() + size, b'x');
        let header = if size < 126 { 2 } else { 4 };
        let subscribers = (0..subscribers).map(|_| open(address, "/t/bench?mode=sub"));
        let subscribers = subscribers.collect::<io::Result<Vec<_>>>()?;
        let publishers = (0..connections).map(|_| {
            let stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            Ok((stream, Instant::now(), Vec::new()))
        });
        Ok(Load {
            request,
            publishers: publishers.collect::<io::Result<Vec<_>>>()?,
            subscribers: Subscribers::new(subscribers),
            latencies: Vec::new(),
            accepted: 0,
            frame_bytes: (header + size) as u64,
        })
    }

    /// Sends this number of requests, one on each connection at once by `at_once`, and waits for their answers.
    pub(crate) fn repeat(
        &mut self,
        times: usize,
        at_once: impl Fn(&mut dyn FnMut() -> io::Result<()>) -> Result<(), Box<dyn Error>>,
    ) -> Result<(), Box<dyn Error>> {
        for _ in 0..times.div_ceil(self.publishers.len()) {
            at_once(&mut || self.send())?;
            self.answers(Instant::now())?;
        }
        Ok(())
    }

    /// Keeps one request in flight on each connection for this time, then waits for the last answers. Returns the
    /// number of accepted requests.
    pub(crate) fn run(&mut self, time: Duration) -> Result<u64, Box<dyn Error>> {
        let (accepted, ends) = (self.accepted, Instant::now() + time);
        self.send()?;
        self.answers(ends)?;
        Ok(self.accepted - accepted)
    }

    /// Sends a request on each connection.
    fn send(&mut self) -> io::Result<()> {
        self.publishers.iter_mut().try_for_each(|(stream, sent, _)| {
            *sent = Instant::now();
            stream.write_all(&self.request)
        })
    }

    /// Takes the answers, each followed by another request until `ends`.
    fn answers(&mut self, ends: Instant) -> Result<(), Box<dyn Error>> {
        let mut waiting = self.publishers.len();
        while waiting > 0 {
            for (stream, sent, answer) in &mut self.publishers {
                let mut chunk = [0; 1_024];
                match stream.read(&mut chunk) {
                    Ok(0) => return Err("the server has closed a connection".into()),
                    Ok(count) => answer.extend_from_slice(&chunk[..count]),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                    Err(error) => return Err(error.into()),
                }
                if !is_whole(answer) {
                    continue;
                }
                if !answer.starts_with(b"HTTP/1.1 202 ") {
                    return Err(format!("not accepted: {}", String::from_utf8_lossy(answer)).into());
                }
                answer.clear();
                let now = Instant::now();
                self.latencies.push((now - *sent).as_nanos() as u64);
                self.accepted += 1;
                if now < ends {
                    *sent = now;
                    stream.write_all(&self.request)?;
                } else {
                    waiting -= 1;
                }
            }
            self.subscribers.drop_some()?;
        }
        Ok(())
    }
}

/// Returns whether an answer has arrived whole, to the end of its body.
pub(crate) fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let headers = head.lines().filter_map(|line| line.split_once(": "));
    let mut lengths = headers.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    lengths.next().and_then(|(_, length)| length.parse().ok()).is_none_or(|length: usize| body.len() >= length)
}
