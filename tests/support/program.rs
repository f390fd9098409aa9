//! Runs a program as a process, and reads its output as it comes.

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

/// A running program. Threads read its output as the output comes. A drop kills the program.
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

    /// Starts a program with a standard input.
    pub(crate) fn start_with(mut command: Command, stdin: Stdio) -> Program {
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdout = BufReader::new(child.stdout.take().expect("standard output is piped"));
        let mut stderr = child.stderr.take().expect("standard error is piped");
        let (sender, lines) = channel();
        thread::spawn(move || {
            // A send fails after `stop_reading`, which drops the receiver.
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
        kill_process(self.pid(), signal).expect("the program has ended early");
    }

    /// Returns whether the program has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Returns the next line of standard output; `None` at the end.
    pub(crate) fn line(&self) -> Option<String> {
        match self.lines.recv_timeout(DEADLINE) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("nothing on standard output:\n{}", self.log()),
        }
    }

    /// Ends the standard input of the program.
    pub(crate) fn close_stdin(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Stops reading standard output. The reader's thread ends at the next line, and closes its end of the pipe.
    pub(crate) fn stop_reading(&mut self) {
        self.lines = channel().1;
    }

    /// Returns the text of standard error that has been read. After [`Program::wait`] the text is complete.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until standard error contains `what`.
    pub(crate) fn log_until(&self, what: &str) {
        let begin = Instant::now();
        while !self.log().contains(what) {
            assert!(begin.elapsed() < DEADLINE, "no {what:?} in:\n{}", self.log());
            thread::sleep(POLL);
        }
    }

    /// Waits until standard error has `count` lines that contain `what`, and returns these lines.
    pub(crate) fn log_lines(&self, what: &str, count: usize) -> Vec<String> {
        let begin = Instant::now();
        loop {
            let log = self.log();
            // The last line may not be complete yet.
            let lines: Vec<&str> = log.split_inclusive('\n').filter(|line| line.ends_with('\n')).collect();
            let lines: Vec<String> = lines.into_iter().filter(|line| line.contains(what)).map(Into::into).collect();
            if lines.len() >= count {
                return lines;
            }
            assert!(begin.elapsed() < DEADLINE, "no {count} lines with {what:?} in:\n{log}");
            thread::sleep(POLL);
        }
    }

    /// Waits until the program ends by itself, and reads the rest of standard error.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                if let Some(reader) = self.log_reader.take() {
                    reader.join().unwrap();
                }
                return status;
            }
            assert!(begin.elapsed() < DEADLINE, "the program does not end:\n{}", self.log());
            thread::sleep(POLL);
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // The program may have ended since `try_wait`.
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// Returns the path of the binary under test.
pub(crate) fn binary_path() -> &'static str {
    env!("CARGO_BIN_EXE_ringhub")
}

/// Returns a command that runs the binary without the caller's settings.
pub(crate) fn program() -> Command {
    clean(Command::new(binary_path()))
}

/// Removes the settings of the caller's environment, and sets those of a test. The caller's choice of the backend and
/// of the sandbox stays, so that the same tests run on each backend, and in the sandbox. Several servers share few CPUs
/// here, so shards are not pinned. A client that the test no longer serves must not delay the server's end, so the
/// drain is short. There is one shard unless the test asks for more: with several shards, an answer to one client does
/// not prove that another client has received anything.
pub(crate) fn clean(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("RINGHUB_") && !KEPT.contains(&&*name.to_string_lossy()) {
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

/// The settings of the caller's environment that [`clean`] does not remove.
const KEPT: [&str; 2] = ["RINGHUB_IO", "RINGHUB_SANDBOX"];

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
