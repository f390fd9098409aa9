//! A server as a process of its own, on a port of its own.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::{Client, DEADLINE};

/// A running server. Dropping it ends it, and fails the test if it did not end in an orderly way.
pub(crate) struct Server {
    process: Process,
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
        let process = Process::spawn(command);
        let first = process.line().unwrap_or_else(|| panic!("the server did not start:\n{}", process.log()));
        let addresses = first.split(" serves on ").nth(1).unwrap_or_else(|| panic!("no address in {first:?}"));
        let mut addresses = addresses.split(" and ").map(|address| address.parse().unwrap());
        let address = addresses.next().unwrap();
        let other_address = addresses.next();
        // What follows the address is for people; the last line names the metrics.
        let mut notes = String::new();
        while !notes.contains("/metrics") {
            notes += &process.line().unwrap_or_else(|| panic!("the server ended:\n{}", process.log()));
        }
        Server { address, other_address, notes, process, may_fail: false }
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
        self.process.pid()
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
            let line = self.process.line().unwrap_or_else(|| panic!("no counters:\n{}", self.log()));
            let mut words = line.split_whitespace();
            let Some(name) = words.next() else { return Counts(counts) };
            let numbers: Vec<u64> = words.filter_map(|word| word.parse().ok()).collect();
            assert!(!numbers.is_empty(), "no counter: {line:?}");
            counts.insert(name.to_string(), numbers);
        }
    }

    /// Asks for the counters until they are as wanted.
    pub(crate) fn counts_until(&self, what: &str, is_wanted: impl Fn(&Counts) -> bool) -> Counts {
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
        self.process.stop_reading();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the server has ended before its time");
    }

    /// Waits for its end, which must come on its own.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.process.wait().unwrap_or_else(|| panic!("the server does not end:\n{}", self.log()))
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
        self.process.log_until(what);
    }

    /// Its standard error so far as it has been read; all of it after [`Server::wait`].
    pub(crate) fn log(&self) -> String {
        self.process.log()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the server's log:\n{}", self.log());
            return;
        }
        if let Ok(None) = self.process.child.try_wait() {
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

/// The binary under test.
pub(crate) fn binary_path() -> &'static str {
    env!("CARGO_BIN_EXE_ringhub")
}

/// A command that runs the binary without the caller's own settings.
pub(crate) fn program() -> Command {
    clean(Command::new(binary_path()))
}

/// Takes the caller's settings away. Several servers share few CPUs here, so none stays on one; and a client that the
/// test no longer serves shall not delay the server's end. One shard unless the test asks for more: over several, what
/// one client has been answered says nothing of what another has received.
pub(crate) fn clean(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("RINGHUB_") {
            command.env_remove(name);
        }
    }
    command.envs([
        ("RINGHUB_SHARDS", "1"),
        ("RINGHUB_PIN", "off"),
        ("RINGHUB_DRAIN_TIMEOUT", "2s"),
        ("RUST_BACKTRACE", "1"),
    ]);
    command
}

/// Runs a command that ends by itself.
pub(crate) fn run_to_end(command: Command) -> Output {
    let mut process = Process::spawn(command);
    let status = process.wait().unwrap_or_else(|| panic!("it does not end:\n{}", process.log()));
    let mut stdout = Vec::new();
    while let Some(line) = process.line() {
        stdout.extend_from_slice(line.as_bytes());
        stdout.push(b'\n');
    }
    Output { status, stdout, stderr: process.log().into_bytes() }
}

/// Another program of ours. Dropping it ends it.
pub(crate) struct Program(Process);

impl Program {
    pub(crate) fn start(command: Command) -> Program {
        Program(Process::spawn(command))
    }

    /// The next line of its standard output; `None` at the end.
    pub(crate) fn line(&self) -> Option<String> {
        self.0.line()
    }

    /// Waits for something in its standard error.
    pub(crate) fn log_until(&self, what: &str) {
        self.0.log_until(what);
    }

    /// Its standard error so far as it has been read; all of it after [`Program::wait`].
    pub(crate) fn log(&self) -> String {
        self.0.log()
    }

    pub(crate) fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.0.pid(), signal).expect("it has ended before its time");
    }

    /// Waits for its end, which must come on its own.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.0.wait().unwrap_or_else(|| panic!("it does not end:\n{}", self.0.log()))
    }
}

/// A child whose output is read as it comes. Dropping it ends it.
struct Process {
    child: Child,
    lines: Receiver<String>,
    log: Arc<Mutex<String>>,
    log_reader: Option<thread::JoinHandle<()>>,
}

impl Process {
    fn spawn(mut command: Command) -> Process {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut stderr = child.stderr.take().expect("it is piped");
        let (sender, lines) = channel();
        thread::spawn(move || {
            // A test that has seen enough lets go of the receiver.
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let log = Arc::new(Mutex::new(String::new()));
        let written = Arc::clone(&log);
        let log_reader = thread::spawn(move || {
            let mut chunk = [0; 4_096];
            while let Ok(count @ 1..) = stderr.read(&mut chunk) {
                written.lock().unwrap().push_str(&String::from_utf8_lossy(&chunk[..count]));
            }
        });
        Process { child, lines, log, log_reader: Some(log_reader) }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// The next line of its standard output; `None` at the end.
    fn line(&self) -> Option<String> {
        match self.lines.recv_timeout(DEADLINE) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("nothing on standard output:\n{}", self.log()),
        }
    }

    /// The reader ends with the next line, and the pipe with it.
    fn stop_reading(&mut self) {
        self.lines = channel().1;
    }

    fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    fn log_until(&self, what: &str) {
        let begin = Instant::now();
        while !self.log().contains(what) {
            assert!(begin.elapsed() < DEADLINE, "no {what:?} in:\n{}", self.log());
            thread::sleep(POLL);
        }
    }

    /// Its status if it ends within [`DEADLINE`], its whole log read.
    fn wait(&mut self) -> Option<ExitStatus> {
        let begin = Instant::now();
        while begin.elapsed() < DEADLINE {
            if let Some(status) = self.child.try_wait().unwrap() {
                if let Some(reader) = self.log_reader.take() {
                    reader.join().unwrap();
                }
                return Some(status);
            }
            thread::sleep(POLL);
        }
        None
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // It may end between the question and the answer.
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

const POLL: Duration = Duration::from_millis(5);
