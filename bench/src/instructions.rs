//! Counts the instructions of a fan-out to 1 000 subscribers, a publish, a POST and an opening handshake with
//! callgrind.
//!
//! Unlike times, instructions hardly differ between two runs, so the file [`KEPT`] can record them. They depend on the
//! compiler and the architecture, which the file names too; with others nothing is compared. A system call counts as
//! the few instructions that enter it.
//!
//! How much a server does in one turn depends on what has arrived by then. So the server is stopped while clients send,
//! and clients send only to a server whose threads all sleep: a busy machine does not change the figures.

use crate::client::{DROP_BYTES, Opening, Received, binary_frame, drop_received, open};
use crate::peers::Running;
use crate::post::{Load as PostLoad, Plan};
use crate::tools::{Flags, OUTPUT, Tools};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use socket2::SockRef;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Flags of `instructions`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Write the counted figures into the recorded file, instead of comparing them.
    #[arg(long)]
    write: bool,
    #[command(flatten)]
    tools: Flags,
}

/// The counted instructions.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Figures {
    /// A message that is published to [`SUBSCRIBERS`] subscribers, and back to its publisher.
    fanout_1000: f64,
    /// A message that is published, and goes back to its publisher alone.
    publish: f64,
    /// A message that is published by POST to a topic without subscribers, on one of 16 kept connections.
    post: f64,
    /// A connection that is opened, subscribes, and is reset.
    handshake: f64,
}

impl Figures {
    fn rows(&self) -> [(&'static str, f64); 4] {
        [
            ("fanout_1000", self.fanout_1000),
            ("publish", self.publish),
            ("post", self.post),
            ("handshake", self.handshake),
        ]
    }
}

/// Counts, prints, and compares with the recorded file. Returns whether every figure is within [`SLACK`] of the file's
/// figure.
pub(crate) fn instructions(options: &Options) -> Result<bool, Box<dyn Error>> {
    let tools = Tools::prepare(&options.tools, &[], None)?;
    let toolchain = toolchain()?;
    let figures = Figures {
        fanout_1000: count(&tools, Work::Publish { subscribers: SUBSCRIBERS }, MESSAGES)?,
        publish: count(&tools, Work::Publish { subscribers: 0 }, ALONE_MESSAGES)?,
        post: count(&tools, Work::Post, ALONE_MESSAGES)?,
        handshake: count(&tools, Work::Handshake, ALONE_MESSAGES)?,
    };
    println!("{toolchain}");
    if options.write {
        fs::write(KEPT, kept_text(&toolchain, &figures))?;
        figures.rows().iter().for_each(|(name, count)| println!("{name:11} {count:.0}"));
        return Ok(true);
    }
    let text = fs::read_to_string(KEPT)?;
    let Some(kept) = kept_figures(&text, &toolchain) else {
        println!("{KEPT} is of another compiler or architecture: nothing is compared");
        figures.rows().iter().for_each(|(name, count)| println!("{name:11} {count:.0}"));
        return Ok(true);
    };
    let mut is_within = true;
    for ((name, count), (_, kept)) in figures.rows().into_iter().zip(kept.rows()) {
        let (ratio, fits) = (count / kept, (count / kept - 1.0).abs() <= SLACK);
        is_within &= fits;
        let verdict = if fits { "ok" } else { "MISSED" };
        println!("{name:11} {count:.0}, {KEPT} has {kept:.0}: {ratio:.3}, {verdict}");
    }
    Ok(is_within)
}

/// The work of a server that is counted.
#[derive(Clone, Copy)]
enum Work {
    /// A message that the publisher and this number of subscribers receive.
    Publish {
        subscribers: usize,
    },
    Post,
    Handshake,
}

/// Returns the instructions of a server for one piece of work, the mean of `times` pieces.
fn count(tools: &Tools, work: Work, times: usize) -> Result<f64, Box<dyn Error>> {
    let out = Path::new(OUTPUT).join("callgrind.out");
    let dump = out.with_extension("out.1");
    fs::remove_file(&dump).or_else(|error| if dump.exists() { Err(error) } else { Ok(()) })?;
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "valgrind", "--tool=callgrind"]);
    command.arg(format!("--callgrind-out-file={}", out.display())).arg(&tools.hub);
    command.args(["serve", "--ping-interval", "0", "--shards", "1", "--pin", "off"]).stdin(Stdio::null());
    let server = Running::start_other("callgrind", command)?;
    let control = |what: &str| -> Result<(), Box<dyn Error>> {
        let output = Command::new("callgrind_control").args([what, &server.pid().to_string()]).output()?;
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into()) }
    };
    let mut clients = Clients::open(&server, work)?;
    // After this, tables have grown and buffers have been allocated.
    clients.cause(work, times)?;
    control("-z")?;
    clients.cause(work, times)?;
    control("-d")?;
    let deadline = Instant::now() + DUMP_DEADLINE;
    while !dump.exists() {
        if Instant::now() > deadline {
            return Err(format!("callgrind has not written {}", dump.display()).into());
        }
        thread::sleep(Duration::from_millis(10));
    }
    drop((clients, server));
    let text = fs::read_to_string(&dump)?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: ").or(line.strip_prefix("summary: ")));
    let total: u64 = total.ok_or("callgrind's file has no sum")?.trim().parse()?;
    Ok(total as f64 / times as f64)
}

struct Clients {
    address: SocketAddr,
    /// The process of the server.
    pid: u32,
    /// The publisher, which receives its own messages.
    publisher: TcpStream,
    subscribers: Vec<TcpStream>,
    frame: Vec<u8>,
    /// The clients that publish by POST.
    posts: Option<PostLoad>,
}

impl Clients {
    fn open(server: &Running, work: Work) -> Result<Clients, Box<dyn Error>> {
        raise_descriptors()?;
        let (address, pid) = (server.address, server.pid());
        let subscribers = if let Work::Publish { subscribers } = work { subscribers } else { 0 };
        let plan = Plan { connections: 16, subscribers: 0, size: PAYLOAD_BYTES, seconds: 0 };
        let posts = matches!(work, Work::Post).then(|| PostLoad::open(address, plan)).transpose()?;
        let publisher = open(address, "/t/bench?echo=true")?;
        publisher.set_read_timeout(Some(DELIVERY_DEADLINE))?;
        let subscribers = (0..subscribers).map(|_| open(address, "/t/bench?mode=sub")).collect::<Result<_, _>>()?;
        Ok(Clients { address, pid, publisher, subscribers, frame: binary_frame(PAYLOAD_BYTES as u8), posts })
    }

    /// Causes this number of pieces of work, one after the other; POSTs are in flight on all their connections.
    fn cause(&mut self, work: Work, times: usize) -> Result<(), Box<dyn Error>> {
        let pid = self.pid;
        match (work, &mut self.posts) {
            (Work::Post, Some(posts)) => posts.repeat(times, |send| at_once(pid, send)),
            (Work::Handshake, _) => (0..times).try_for_each(|_| {
                let stream = at_once(pid, || Opening::begin(self.address, "/t/bench?mode=sub"))?.finish()?;
                until_asleep(pid)?;
                // A reset leaves no socket behind that waits for late segments.
                SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
                Ok(())
            }),
            _ => self.publish(times),
        }
    }

    /// Publishes messages, each after every client has received the one before.
    fn publish(&mut self, messages: usize) -> Result<(), Box<dyn Error>> {
        let mut nothing = vec![0; DROP_BYTES];
        for _ in 0..messages {
            // Each message wakes the server.
            until_asleep(self.pid)?;
            self.publisher.write_all(&self.frame)?;
            self.publisher.read_exact(&mut [0; FRAME_BYTES])?;
            let deadline = Instant::now() + DELIVERY_DEADLINE;
            for subscriber in &self.subscribers {
                let mut received = 0;
                while received < FRAME_BYTES as u64 {
                    match drop_received(subscriber, &mut nothing)? {
                        Received::Bytes(count) => received += count,
                        Received::Nothing if Instant::now() < deadline => thread::sleep(Duration::from_millis(1)),
                        Received::Nothing | Received::End => return Err("a message was not delivered".into()),
                    }
                }
            }
        }
        Ok(())
    }
}

/// Lets clients send while the server does not run, and before that waits until it has nothing to do.
fn at_once<T>(pid: u32, send: impl FnOnce() -> io::Result<T>) -> Result<T, Box<dyn Error>> {
    until_asleep(pid)?;
    let signal = |signal| {
        let process = Pid::from_raw(pid as i32).ok_or("a process has no number")?;
        kill_process(process, signal).map_err(Box::<dyn Error>::from)
    };
    signal(Signal::STOP)?;
    let sent = send();
    signal(Signal::CONT)?;
    Ok(sent?)
}

/// Waits until all threads of a process sleep. A thread that runs, or waits for a CPU, does not.
fn until_asleep(pid: u32) -> Result<(), Box<dyn Error>> {
    let deadline = Instant::now() + DELIVERY_DEADLINE;
    let mut looks = 0;
    // Between two system calls of a thread another one may be about to wake.
    while looks < LOOKS {
        if Instant::now() > deadline {
            return Err("the server does not come to rest".into());
        }
        let mut is_asleep = true;
        for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
            let stat = fs::read_to_string(thread?.path().join("stat"))?;
            // The state follows the name, which is in parentheses (proc_pid_stat(5)).
            is_asleep &= stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S'));
        }
        looks = if is_asleep { looks + 1 } else { 0 };
        thread::sleep(LOOK_PAUSE);
    }
    Ok(())
}

/// Raises the limit of descriptors, so that each subscriber can have one.
fn raise_descriptors() -> Result<(), Box<dyn Error>> {
    let limits = getrlimit(Resource::Nofile);
    let wanted = limits.maximum.map_or(DESCRIPTORS, |maximum| maximum.min(DESCRIPTORS));
    if limits.current.is_some_and(|current| current < wanted) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limits.maximum })?;
    }
    Ok(())
}

/// Returns the version of the compiler, and the architecture of this program.
fn toolchain() -> Result<String, Box<dyn Error>> {
    let output = Command::new("rustc").arg("--version").output()?;
    Ok(format!("{} {}", String::from_utf8(output.stdout)?.trim(), std::env::consts::ARCH))
}

fn kept_text(toolchain: &str, figures: &Figures) -> String {
    let mut text = format!("toolchain {toolchain}\n");
    for (name, count) in figures.rows() {
        writeln!(text, "{name} {count:.0}").expect("a string takes everything");
    }
    text
}

/// Returns the figures of a recorded file; `None` if they are of another toolchain, or if the text is no such file.
fn kept_figures(text: &str, toolchain: &str) -> Option<Figures> {
    let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let count = |name: &str| value(name)?.parse().ok();
    if value("toolchain")? != toolchain {
        return None;
    }
    Some(Figures {
        fanout_1000: count("fanout_1000")?,
        publish: count("publish")?,
        post: count("post")?,
        handshake: count("handshake")?,
    })
}

/// The file of the recorded figures.
const KEPT: &str = "bench/INSTRUCTIONS";

/// How far a figure may be from the recorded one.
const SLACK: f64 = 0.02;

const SUBSCRIBERS: usize = 1_000;

/// The numbers of messages are so large that the work of the server's timers does not matter.
const MESSAGES: usize = 40;
const ALONE_MESSAGES: usize = 2_000;

/// The number of looks in a row that find every thread asleep.
const LOOKS: usize = 3;
const LOOK_PAUSE: Duration = Duration::from_micros(100);

const PAYLOAD_BYTES: usize = 128;

/// A delivered frame: a header of four bytes, and the payload.
const FRAME_BYTES: usize = 4 + PAYLOAD_BYTES;

const DESCRIPTORS: u64 = 4_096;
const DELIVERY_DEADLINE: Duration = Duration::from_secs(60);
const DUMP_DEADLINE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_figures_are_found() {
        let figures = Figures { fanout_1000: 300_000.0, publish: 4_000.0, post: 30_000.0, handshake: 50_000.0 };
        let text = kept_text("rustc 1.0 x86_64", &figures);
        assert_eq!(kept_figures(&text, "rustc 1.0 x86_64"), Some(figures));
        assert_eq!(kept_figures(&text, "rustc 1.1 x86_64"), None);
        assert_eq!(kept_figures("", "rustc 1.0 x86_64"), None);
    }
}
