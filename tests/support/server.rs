//! Runs a server as a process, on a free port.

use std::{
    collections::HashMap,
    net::SocketAddr,
    process::{Command, ExitStatus},
    thread,
    time::Instant,
};

use rustix::process::{Pid, Signal};

use super::{
    Client, DEADLINE,
    program::{POLL, Program, program},
};

/// A running server. A drop ends the server, and fails the test if the end was not orderly.
pub(crate) struct Server {
    program: Program,
    address: SocketAddr,
    other_address: Option<SocketAddr>,
    notes: String,
    may_fail: bool,
}

impl Server {
    /// Starts a server with these flags on a free port of the loopback.
    pub(crate) fn start(flags: &[&str]) -> Server {
        let mut command = program();
        command.args(flags);
        Self::start_command(command)
    }

    /// Starts a server on a free port, by a command that runs [`binary_path`](super::binary_path).
    pub(crate) fn start_command(mut command: Command) -> Server {
        command.args(["--listen", "127.0.0.1:0"]);
        Self::start_at(command)
    }

    /// Starts a server by a command that names the address itself.
    pub(crate) fn start_at(command: Command) -> Server {
        Self::of(Program::start(command))
    }

    /// Waits until a program serves, and returns it as a server.
    pub(crate) fn of(program: Program) -> Server {
        let first = program.line().unwrap_or_else(|| panic!("the server did not start:\n{}", program.log()));
        let addresses = first.split(" serves on ").nth(1).unwrap_or_else(|| panic!("no address in {first:?}"));
        let mut addresses = addresses.split(" and ").map(|address| address.parse().unwrap());
        let address = addresses.next().unwrap();
        let other_address = addresses.next();
        // Notes for people follow the line with the addresses; the last note names the metrics.
        let mut notes = String::new();
        while !notes.contains("/metrics") {
            notes += &program.line().unwrap_or_else(|| panic!("the server ended:\n{}", program.log()));
        }
        Server { program, address, other_address, notes, may_fail: false }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the second address that the server listens on.
    pub(crate) fn other_address(&self) -> Option<SocketAddr> {
        self.other_address
    }

    /// Returns the notes for people that the server wrote at its start.
    pub(crate) fn notes(&self) -> &str {
        &self.notes
    }

    pub(crate) fn pid(&self) -> Pid {
        self.program.pid()
    }

    /// Connects a client to the target. When this returns, the client is subscribed.
    pub(crate) fn connect(&self, target: &str) -> Client {
        Client::connect(self.address, target)
    }

    /// Returns the next line of the server's standard output.
    pub(crate) fn line(&self) -> String {
        self.program.line().unwrap_or_else(|| panic!("no further line:\n{}", self.log()))
    }

    /// Asks the server for its counters, and returns them.
    pub(crate) fn counts(&self) -> Counts {
        self.signal(Signal::USR1);
        let mut counts = HashMap::new();
        loop {
            let line = self.program.line().unwrap_or_else(|| panic!("no counters:\n{}", self.log()));
            let mut words = line.split_whitespace();
            let Some(name) = words.next() else { return Counts(counts) };
            let numbers: Vec<u64> = words.filter_map(|word| word.parse().ok()).collect();
            assert!(!numbers.is_empty(), "no counter: {line:?}");
            counts.insert(name.to_string(), numbers);
        }
    }

    /// Asks for the counters until `is_wanted` accepts them.
    pub(crate) fn counts_until(&self, what: &str, mut is_wanted: impl FnMut(&Counts) -> bool) -> Counts {
        let begin = Instant::now();
        loop {
            let counts = self.counts();
            if is_wanted(&counts) {
                return counts;
            }
            assert!(begin.elapsed() < DEADLINE, "{what}: {counts:?}\n{}", self.log());
            thread::sleep(POLL);
        }
    }

    /// Waits until these counters have these values. The server may count a message after a client has received it.
    pub(crate) fn expect_counts(&self, expected: &[(&str, u64)]) {
        let what = format!("{expected:?}");
        self.counts_until(&what, |counts| expected.iter().all(|&(name, count)| counts.get(name) == count));
    }

    /// Closes the reading end of standard output.
    pub(crate) fn stop_reading(&mut self) {
        self.program.stop_reading();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.program.signal(signal);
    }

    /// Waits until the server ends by itself.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.program.wait()
    }

    /// Lets the server end with a failure without failing the test.
    pub(crate) fn may_fail(&mut self) {
        self.may_fail = true;
    }

    /// Ends the server, and returns its whole log.
    pub(crate) fn end(&mut self) -> String {
        self.signal(Signal::TERM);
        let status = self.wait();
        assert!(status.success(), "{status}: {}", self.log());
        self.log()
    }

    /// Waits until standard error contains `what`.
    pub(crate) fn log_until(&self, what: &str) {
        self.program.log_until(what);
    }

    /// Waits until standard error has `count` lines that contain `what`, and returns these lines.
    pub(crate) fn log_lines(&self, what: &str, count: usize) -> Vec<String> {
        self.program.log_lines(what, count)
    }

    /// Returns the standard error that has been read; after [`Server::wait`] it is all of it.
    pub(crate) fn log(&self) -> String {
        self.program.log()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the server's log:\n{}", self.log());
            return;
        }
        if !self.program.has_ended() {
            self.signal(Signal::TERM);
        }
        let status = self.wait();
        let log = self.log();
        assert!(!log.contains("panicked"), "a thread has panicked:\n{log}");
        assert!(self.may_fail || status.success(), "the server ended with {status}:\n{log}");
    }
}

/// The counters at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Counts(HashMap<String, Vec<u64>>);

impl Counts {
    /// Returns the sum of a counter.
    pub(crate) fn get(&self, name: &str) -> u64 {
        self.numbers(name)[0]
    }

    /// Returns the number of all refused requests.
    pub(crate) fn refused(&self) -> u64 {
        let refused = self.0.iter().filter(|(name, _)| name.starts_with("refused_total{"));
        refused.map(|(_, numbers)| numbers[0]).sum()
    }

    /// Returns a counter's value for each shard, if there are several. If the control thread counts too, its value
    /// comes last.
    pub(crate) fn by_shard(&self, name: &str) -> &[u64] {
        &self.numbers(name)[1..]
    }

    fn numbers(&self, name: &str) -> &[u64] {
        self.0.get(name).unwrap_or_else(|| panic!("no counter has the name {name}"))
    }
}
