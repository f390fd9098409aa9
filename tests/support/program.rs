//! A program as a process of its own, whose output is read as it comes.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::DEADLINE;

/// A running program, whose output is read as it comes. Dropping it ends it.
pub(crate) struct Program {
    child: Child,
    lines: Receiver<String>,
    log: Arc<Mutex<String>>,
    log_reader: Option<thread::JoinHandle<()>>,
}

impl Program {
    pub(crate) fn start(command: Command) -> Program {
        Program::start_with(command, Stdio::null())
    }

    /// The same with a standard input.
    pub(crate) fn start_with(mut command: Command, stdin: Stdio) -> Program {
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
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
        Program { child, lines, log, log_reader: Some(log_reader) }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("it has ended before its time");
    }

    /// Returns whether it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// The next line of its standard output; `None` at the end.
    pub(crate) fn line(&self) -> Option<String> {
        match self.lines.recv_timeout(DEADLINE) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("nothing on standard output:\n{}", self.log()),
        }
    }

    /// The reader ends with the next line, and the pipe with it.
    pub(crate) fn stop_reading(&mut self) {
        self.lines = channel().1;
    }

    /// Its standard error so far as it has been read; all of it after [`Program::wait`].
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits for something in its standard error.
    pub(crate) fn log_until(&self, what: &str) {
        let begin = Instant::now();
        while !self.log().contains(what) {
            assert!(begin.elapsed() < DEADLINE, "no {what:?} in:\n{}", self.log());
            thread::sleep(POLL);
        }
    }

    /// Waits for its end, which must come on its own, and reads its whole log.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                if let Some(reader) = self.log_reader.take() {
                    reader.join().unwrap();
                }
                return status;
            }
            assert!(begin.elapsed() < DEADLINE, "it does not end:\n{}", self.log());
            thread::sleep(POLL);
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // It may end between the question and the answer.
            drop(self.child.kill());
            drop(self.child.wait());
        }
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

/// Takes the caller's settings away, except the backend, so that the same tests run on each. Several servers share few
/// CPUs here, so none stays on one; and a client that the test no longer serves shall not delay the server's end. One
/// shard unless the test asks for more: over several, what one client has been answered says nothing of what another
/// has received.
pub(crate) fn clean(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("RINGHUB_") && name != "RINGHUB_IO" {
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
    let mut process = Program::start(command);
    let status = process.wait();
    let mut stdout = Vec::new();
    while let Some(line) = process.line() {
        stdout.extend_from_slice(line.as_bytes());
        stdout.push(b'\n');
    }
    Output { status, stdout, stderr: process.log().into_bytes() }
}

pub(super) const POLL: Duration = Duration::from_millis(5);
