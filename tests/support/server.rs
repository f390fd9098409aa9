//! A server as a process of its own, on a port of its own.

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

/// A running server. Dropping it ends it, and fails the test if it did not end in an orderly way.
pub(crate) struct Server {
    program: Program,
    address: SocketAddr,
    other_address: Option<SocketAddr>,
    notes: String,
    may_fail: bool,
}

impl Server {
    /// A server on a free port of the loopback.
    pub(crate) fn start(flags: &[&str]) -> Server {
        let mut command = program();
        command.args(flags);
        Self::start_command(command)
    }

    /// The same by a command that runs [`binary_path`] with its own arguments.
    pub(crate) fn start_command(mut command: Command) -> Server {
        command.args(["--listen", "127.0.0.1:0"]);
        Self::start_at(command)
    }

    /// The same where the command names the address.
    pub(crate) fn start_at(command: Command) -> Server {
        Self::of(Program::start(command))
    }

    /// The server that a program becomes.
    pub(crate) fn of(program: Program) -> Server {
        let first = program.line().unwrap_or_else(|| panic!("the server did not start:\n{}", program.log()));
        let addresses = first.split(" serves on ").nth(1).unwrap_or_else(|| panic!("no address in {first:?}"));
        let mut addresses = addresses.split(" and ").map(|address| address.parse().unwrap());
        let address = addresses.next().unwrap();
        let other_address = addresses.next();
        // What follows the address is for people; the last line names the metrics.
        let mut notes = String::new();
        while !notes.contains("/metrics") {
            notes += &program.line().unwrap_or_else(|| panic!("the server ended:\n{}", program.log()));
        }
        Server { program, address, other_address, notes, may_fail: false }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The second address it listens on.
    pub(crate) fn other_address(&self) -> Option<SocketAddr> {
        self.other_address
    }

    /// What it has told people when it started.
    pub(crate) fn notes(&self) -> &str {
        &self.notes
    }

    pub(crate) fn pid(&self) -> Pid {
        self.program.pid()
    }

    /// A client of what the target names, subscribed when this returns.
    pub(crate) fn connect(&self, target: &str) -> Client {
        Client::connect(self.address, target)
    }

    /// What it has counted, by the counters' names.
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

    /// Asks for the counters until they are as wanted.
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

    /// These counters come to these numbers. What a client has received may be counted a moment later.
    pub(crate) fn expect_counts(&self, expected: &[(&str, u64)]) {
        let what = format!("{expected:?}");
        self.counts_until(&what, |counts| expected.iter().all(|&(name, count)| counts.get(name) == count));
    }

    /// Lets go of its standard output.
    pub(crate) fn stop_reading(&mut self) {
        self.program.stop_reading();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.program.signal(signal);
    }

    /// Waits for its end, which must come on its own.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.program.wait()
    }

    /// This test wants it to fail.
    pub(crate) fn may_fail(&mut self) {
        self.may_fail = true;
    }

    /// Ends it, and returns its whole log.
    pub(crate) fn end(&mut self) -> String {
        self.signal(Signal::TERM);
        let status = self.wait();
        assert!(status.success(), "{status}: {}", self.log());
        self.log()
    }

    /// Waits for something in its standard error.
    pub(crate) fn log_until(&self, what: &str) {
        self.program.log_until(what);
    }

    /// Its standard error so far as it has been read; all of it after [`Server::wait`].
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
    /// Over all shards.
    pub(crate) fn get(&self, name: &str) -> u64 {
        self.numbers(name)[0]
    }

    /// The sum of all requests refused.
    pub(crate) fn refused(&self) -> u64 {
        let refused = self.0.iter().filter(|(name, _)| name.starts_with("refused_total{"));
        refused.map(|(_, numbers)| numbers[0]).sum()
    }

    /// Of each shard, where there are several; of control last, if it counts it too.
    pub(crate) fn by_shard(&self, name: &str) -> &[u64] {
        &self.numbers(name)[1..]
    }

    fn numbers(&self, name: &str) -> &[u64] {
        self.0.get(name).unwrap_or_else(|| panic!("no counter has the name {name}"))
    }
}
