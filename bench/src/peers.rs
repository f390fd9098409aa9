//! Starts the servers that are compared, each on its own port, and ends them. Runs the load generator against a server.

use crate::others;
use crate::tools::{OUTPUT, Tools, command_line, pinned};
use clap::ValueEnum;
use ringhub_loadgen::Report;
use rustix::process::{Pid, Signal, kill_process};
use std::error::Error;
use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// A kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Peer {
    /// This project.
    Hub,
    /// This project on epoll.
    HubEpoll,
    /// This project at another commit.
    Baseline,
    /// This project with two shards on one CPU. It shows the cost of the mesh.
    Shards2,
    /// This project with a handler that publishes each message. It shows the cost of the handler's calls.
    Handler,
    /// This project with all limits and a rule for its topics. It shows the cost of their checks.
    Limited,
    /// A server on Bun that uses Bun's `publish`. Its engine is uWebSockets.
    Bun,
    /// A module for Kore that uses Kore's broadcast.
    Kore,
    /// nginx with the module nchan. Messages are published by POST.
    Nchan,
    /// The WebSocket listener of a NATS server.
    Nats,
    /// A server on Node's `ws`.
    Ws,
    /// A server on tokio-tungstenite with tokio's broadcast channel.
    TokioTungstenite,
    /// A server on fastwebsockets with tokio's broadcast channel.
    Fastwebsockets,
    /// A server on sockudo-ws with this crate's `PubSub`.
    SockudoWs,
    /// The bare loop of plain sends, one system call for each subscriber (`plain.rs`).
    K1,
    /// The bare loop of batched sends (`k2.rs`).
    K2,
    /// A bare server that only holds connections (`hold.rs`).
    Hold,
    /// The bare echo: one system call for a receive, and one for the send of what was received (`plain.rs`).
    K3,
}

impl Peer {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Peer::Hub => "hub",
            Peer::HubEpoll => "hub-epoll",
            Peer::Baseline => "baseline",
            Peer::Shards2 => "shards2",
            Peer::Handler => "handler",
            Peer::Limited => "limited",
            Peer::Bun => "bun",
            Peer::Kore => "kore",
            Peer::Nchan => "nchan",
            Peer::Nats => "nats",
            Peer::Ws => "ws",
            Peer::TokioTungstenite => "tokio-tungstenite",
            Peer::Fastwebsockets => "fastwebsockets",
            Peer::SockudoWs => "sockudo-ws",
            Peer::K1 => "k1",
            Peer::K2 => "k2",
            Peer::K3 => "k3",
            Peer::Hold => "hold",
        }
    }

    /// Returns whether this is a server of this project's hub, whose counters can be read.
    pub(crate) fn is_hub(self) -> bool {
        matches!(self, Peer::Hub | Peer::HubEpoll | Peer::Baseline | Peer::Shards2 | Peer::Handler | Peer::Limited)
    }

    /// Returns whether this is a server of ours on a crate for WebSockets.
    pub(crate) fn is_on_a_crate(self) -> bool {
        matches!(self, Peer::TokioTungstenite | Peer::Fastwebsockets | Peer::SockudoWs)
    }

    /// Returns whether a message of a publisher goes to all subscribers.
    pub(crate) fn takes_fanout(self) -> bool {
        !matches!(self, Peer::K3 | Peer::Hold)
    }

    /// Returns whether one run can have several topics.
    pub(crate) fn has_topics(self) -> bool {
        !matches!(self, Peer::Kore | Peer::K1 | Peer::K2 | Peer::K3 | Peer::Hold)
    }

    /// Returns whether this server can send each message back to its sender alone.
    pub(crate) fn takes_echo(self) -> bool {
        !matches!(self, Peer::Kore | Peer::Nchan | Peer::K1 | Peer::K2 | Peer::Hold)
    }

    /// Returns whether this server publishes messages that are sent by POST to `/t/{topic}`.
    pub(crate) fn takes_posts(self) -> bool {
        matches!(self, Peer::Hub | Peer::HubEpoll | Peer::Baseline | Peer::Shards2 | Peer::Limited | Peer::Bun)
    }

    /// Returns whether this kind of server can run with subscribers that have two topics each.
    pub(crate) fn has_two_topics(self) -> bool {
        matches!(self, Peer::Hub | Peer::Baseline | Peer::Bun)
    }

    /// Returns the setting of this server. The table of servers in `bench/README.md` has the reasons.
    pub(crate) fn setting(self) -> &'static str {
        match self {
            Peer::Hub => "io_uring, one shard, no pings",
            Peer::HubEpoll => "epoll, one shard, no pings",
            Peer::Baseline => "as hub, at the other commit",
            Peer::Shards2 => "as hub, two shards on the one CPU",
            Peer::Handler => "as hub, with a handler that publishes",
            Peer::Limited => "as hub, with every limit and a rule for topics",
            Peer::Bun => "server.publish, no compression, no pings, backpressure limit 64 MiB",
            Peer::Kore => "one worker, kore_websocket_broadcast, no TLS, no access log",
            Peer::Nchan => "one nginx worker, nchan_publisher and nchan_subscriber, message buffer off, no access log",
            Peer::Nats => "WebSocket listener without TLS and compression, PUB and SUB",
            Peer::Ws => "perMessageDeflate off, frames made once by Sender.frame, cork for each turn",
            Peer::TokioTungstenite => "current-thread runtime, tokio broadcast, feed and flush",
            Peer::Fastwebsockets => "current-thread runtime, tokio broadcast, vectored writes",
            Peer::SockudoWs => "current-thread runtime, its PubSub with a channel for each subscriber",
            Peer::K1 => "epoll, one send for each subscriber",
            Peer::K2 => "the hub's ring, sends in batches",
            Peer::K3 => "epoll, one send for each receive, back to the sender",
            Peer::Hold => "accepts, answers the opening handshake, and does nothing more",
        }
    }

    /// Returns the generator's flags that say where this server is, and what it speaks.
    fn target_flags(self, address: SocketAddr) -> Vec<String> {
        // Servers of ours speak the paths and queries of the hub, as far as they have topics.
        let preset = match self {
            Peer::Kore => "kore",
            Peer::Nchan => "nchan",
            Peer::Nats => "nats",
            _ => "ringhub",
        };
        ["--preset", preset, "--url", &format!("ws://{address}")].map(str::to_owned).to_vec()
    }

    /// Returns the flags of an echo: each connection has a topic of its own.
    fn echo_flags(self, address: SocketAddr) -> Vec<String> {
        let mut flags = self.target_flags(address);
        if self != Peer::Nats {
            flags.extend(["--sub-query", "echo=true"].map(str::to_owned));
        }
        flags
    }

    /// Returns the command that starts this server with subscribers that have two topics each.
    fn command_of_two_topics(self, tools: &Tools, address: SocketAddr) -> Result<Command, Box<dyn Error>> {
        let (listen, cpu) = (address.to_string(), SERVER_CPU.to_string());
        if self == Peer::Baseline {
            let program = tools.baseline.as_ref().and_then(|baseline| baseline.two_topics.as_deref());
            let mut command = pinned(SERVER_CPU, program.ok_or("no baseline with two topics was built")?);
            command.args([&listen, &cpu]);
            return Ok(command);
        }
        if self == Peer::Bun {
            let mut command = self.command(tools, address)?;
            command.arg("two-topics");
            return Ok(command);
        }
        let mut command = pinned(SERVER_CPU, &tools.bench);
        command.args(["two-topics", "--listen", &listen, "--cpu", &cpu]);
        Ok(command)
    }

    fn command(self, tools: &Tools, address: SocketAddr) -> Result<Command, Box<dyn Error>> {
        match self {
            Peer::Hub | Peer::HubEpoll | Peer::Shards2 | Peer::Limited | Peer::Baseline => {
                let program = match self {
                    Peer::Baseline => &tools.baseline.as_ref().ok_or("no baseline was built")?.program,
                    _ => &tools.hub,
                };
                let mut command = hub(program, address, if self == Peer::Shards2 { 2 } else { 1 });
                if self == Peer::HubEpoll {
                    command.args(["--io", "epoll"]);
                }
                if self == Peer::Limited {
                    let settings = Path::new(OUTPUT).join("limited.toml");
                    fs::write(&settings, LIMITS)?;
                    command.arg("--config").arg(settings);
                }
                Ok(command)
            }
            Peer::Handler | Peer::K1 | Peer::K2 | Peer::K3 | Peer::Hold => {
                let mut command = pinned(SERVER_CPU, &tools.bench);
                let cpu = SERVER_CPU.to_string();
                command.args([self.name(), "--listen", &address.to_string(), "--cpu", &cpu]);
                Ok(command)
            }
            _ => others::command(self, tools, address),
        }
    }
}

/// Returns the command of a hub with all its shards on the server's CPU.
fn hub(program: &Path, address: SocketAddr, shards: usize) -> Command {
    let mut command = pinned(SERVER_CPU, program);
    command.args(["serve", "--listen", &address.to_string(), "--cpus", &SERVER_CPU.to_string()]);
    command.args(["--ping-interval", "0", "--shards", &shards.to_string()]);
    command
}

/// Settings with every limit that is off by default, each far above what the loads need.
const LIMITS: &str = r#"
max_message_rate = "100000000/s"
max_byte_rate = "100GiB/s"
max_publish_rate_per_address = "100000000/s"
max_publish_rate_per_identity = "100000000/s"
max_publish_rate_per_token = "100000000/s"
max_handshake_rate = "100000000/s"
max_accept_rate = "100000000/s"
max_connections_per_address = 1000000
max_memory = "64GiB"
trusted_proxies = ["192.0.2.1"]

[[topics]]
match = ["bench", "orders/**"]
subscribe = "anyone"
publish = "anyone"
"#;

/// A running server. A drop ends the server. If this process is killed, the kernel kills the server too.
pub(crate) struct Running {
    peer: Peer,
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) command_line: String,
}

impl Running {
    /// Starts a server and waits until it accepts connections.
    pub(crate) fn start(peer: Peer, tools: &Tools) -> Result<Running, Box<dyn Error>> {
        let address = free_address()?;
        Running::spawn(peer, peer.name(), peer.command(tools, address)?, address)
    }

    /// Starts a server whose subscribers have two topics each.
    pub(crate) fn start_with_two_topics(peer: Peer, tools: &Tools) -> Result<Running, Box<dyn Error>> {
        let address = free_address()?;
        Running::spawn(peer, peer.name(), peer.command_of_two_topics(tools, address)?, address)
    }

    /// Starts the hub of this tree with this number of shards, all of them on one CPU.
    pub(crate) fn start_hub(tools: &Tools, shards: usize) -> Result<Running, Box<dyn Error>> {
        let address = free_address()?;
        Running::spawn(Peer::Hub, Peer::Hub.name(), hub(&tools.hub, address, shards), address)
    }

    /// Starts the hub of this tree with one shard and these settings, which are written to a file.
    pub(crate) fn start_hub_with(tools: &Tools, name: &str, settings: &str) -> Result<Running, Box<dyn Error>> {
        let (address, file) = (free_address()?, Path::new(OUTPUT).join(format!("{name}.toml")));
        fs::write(&file, settings)?;
        let mut command = hub(&tools.hub, address, 1);
        command.arg("--config").arg(file);
        Running::spawn(Peer::Hub, name, command, address)
    }

    /// Adds `--listen` and an address to the command, and starts it as a server of this project.
    pub(crate) fn start_other(name: &str, mut command: Command) -> Result<Running, Box<dyn Error>> {
        let address = free_address()?;
        command.args(["--listen", &address.to_string()]);
        Running::spawn(Peer::Hub, name, command, address)
    }

    fn spawn(peer: Peer, name: &str, mut command: Command, address: SocketAddr) -> Result<Running, Box<dyn Error>> {
        let command_line = command_line(&command);
        let log = Path::new(OUTPUT).join(format!("{name}.log"));
        let output = File::create(&log)?;
        command.stdout(output.try_clone()?).stderr(output);
        let child = command.spawn().map_err(|error| format!("{command_line}: {error}"))?;
        let mut running = Running { peer, child, address, command_line };
        let deadline = Instant::now() + START_DEADLINE;
        while TcpStream::connect(address).is_err() {
            let exited = running.child.try_wait()?;
            if exited.is_some() || Instant::now() > deadline {
                let said = fs::read_to_string(&log).unwrap_or_default();
                return Err(format!("{} does not accept connections: {}", running.command_line, said.trim()).into());
            }
            thread::sleep(POLL_INTERVAL);
        }
        Ok(running)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // An error means that the server has ended already. The wait below notices that.
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap_or_default();
        let deadline = Instant::now() + STOP_DEADLINE;
        while let Ok(None) = self.child.try_wait() {
            if Instant::now() > deadline {
                eprintln!("the server does not end on SIGTERM, killing it: {}", self.command_line);
                self.child.kill().unwrap_or_default();
                self.child.wait().map_or_else(|error| eprintln!("{error}"), drop);
                return;
            }
            thread::sleep(POLL_INTERVAL);
        }
    }
}

/// Runs a load on a thread that is pinned to the load's CPU, so that the server has its own CPU.
pub(crate) fn on_the_loads_cpu<T: Send>(work: impl FnOnce() -> Result<T, String> + Send) -> Result<T, String> {
    let pinned = || {
        if !core_affinity::set_for_current(core_affinity::CoreId { id: LOAD_CPU }) {
            return Err(format!("cannot pin to CPU {LOAD_CPU}"));
        }
        work()
    };
    thread::scope(|scope| scope.spawn(pinned).join()).unwrap_or_else(|_| Err("the load panicked".to_owned()))
}

/// A run of the generator.
pub(crate) struct Load {
    pub(crate) command_line: String,
    /// The report, or the reason why there is none.
    pub(crate) report: Result<Report, String>,
}

impl Load {
    /// Runs the generator's `fanout` with `flags` against a server.
    pub(crate) fn run(tools: &Tools, server: &Running, flags: &[String]) -> io::Result<Load> {
        Load::run_scenario(tools, server, "fanout", flags)
    }

    /// Runs a scenario of the generator, such as `echo`, with `flags` against a server.
    pub(crate) fn run_scenario(tools: &Tools, server: &Running, scenario: &str, flags: &[String]) -> io::Result<Load> {
        let mut command = pinned(LOAD_CPU, &tools.loadgen);
        command.arg(scenario);
        command.args(match scenario {
            "echo" => server.peer.echo_flags(server.address),
            _ => server.peer.target_flags(server.address),
        });
        // Rounds that were disturbed are this program's to judge.
        command.args(["--json", "--allow-disturbance"]);
        command.args(["--cpu", &LOAD_CPU.to_string(), "--server-pid", &server.pid().to_string()]).args(flags);
        let command_line = command_line(&command);
        let output = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output()?;
        let report = serde_json::from_slice(&output.stdout).map_err(|_| {
            let said = String::from_utf8_lossy(&output.stderr);
            format!("no report, {}: {}", output.status, said.trim())
        });
        Ok(Load { command_line, report })
    }
}

/// Returns an address whose port was free a moment ago.
fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

/// The CPU of the server under test.
pub(crate) const SERVER_CPU: usize = 0;

/// The CPU of the generator.
pub(crate) const LOAD_CPU: usize = 1;

const START_DEADLINE: Duration = Duration::from_secs(10);
const STOP_DEADLINE: Duration = Duration::from_secs(5);
const POLL_INTERVAL: Duration = Duration::from_millis(10);
