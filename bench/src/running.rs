//! Runs servers, each on its own port, and ends them. Runs the load generator against a server.

use crate::peers::{LOAD_CPU, Peer, STALLS, hub, preset_flags};
use crate::tools::{OUTPUT, Tools, command_line, pinned};
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

/// A running server. A drop ends the server. If this process is killed, the kernel kills the server too.
pub(crate) struct Running {
    pub(crate) peer: Peer,
    child: Child,
    /// The process that serves: the child, or the child of a child that only watches.
    pid: u32,
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

    /// Starts a server whose subscribers stall. A hub drops messages of theirs.
    pub(crate) fn start_for_stalls(peer: Peer, tools: &Tools) -> Result<Running, Box<dyn Error>> {
        let address = free_address()?;
        let mut command = peer.command(tools, address)?;
        if peer.is_hub() {
            let file = Path::new(OUTPUT).join("stalls.toml");
            fs::write(&file, STALLS)?;
            command.arg("--config").arg(file);
        }
        Running::spawn(peer, peer.name(), command, address)
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
        let mut running = Running { peer, pid: child.id(), child, address, command_line };
        let deadline = Instant::now() + START_DEADLINE;
        while TcpStream::connect(address).is_err() {
            let exited = running.child.try_wait()?;
            if exited.is_some() || Instant::now() > deadline {
                let said = fs::read_to_string(&log).unwrap_or_default();
                return Err(format!("{} does not accept connections: {}", running.command_line, said.trim()).into());
            }
            thread::sleep(POLL_INTERVAL);
        }
        if peer == Peer::Kore {
            running.pid = worker_of(running.pid, deadline)?;
        }
        Ok(running)
    }

    /// Returns the process that serves.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
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

/// Waits until a process has a child, and returns the child.
fn worker_of(parent: u32, deadline: Instant) -> Result<u32, Box<dyn Error>> {
    loop {
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
        if let Some(worker) = children.split_whitespace().next() {
            return Ok(worker.parse()?);
        }
        if Instant::now() > deadline {
            return Err(format!("the process {parent} has started no worker").into());
        }
        thread::sleep(POLL_INTERVAL);
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
        let target = match scenario {
            "echo" => server.peer.echo_flags(server.address),
            _ => server.peer.target_flags(server.address),
        };
        Load::run_against(tools, server, scenario, &target, &server.peer.fitted(flags))
    }

    /// Runs the generator's `fanout` with nothing but a preset and `flags` against a server.
    pub(crate) fn run_preset(tools: &Tools, server: &Running, preset: &str, flags: &[String]) -> io::Result<Load> {
        Load::run_against(tools, server, "fanout", &preset_flags(preset, server.address), flags)
    }

    fn run_against(
        tools: &Tools,
        server: &Running,
        scenario: &str,
        target: &[String],
        flags: &[String],
    ) -> io::Result<Load> {
        let mut command = pinned(LOAD_CPU, &tools.loadgen);
        command.arg(scenario).args(target);
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

const START_DEADLINE: Duration = Duration::from_secs(10);
const STOP_DEADLINE: Duration = Duration::from_secs(5);
const POLL_INTERVAL: Duration = Duration::from_millis(10);
