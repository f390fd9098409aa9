//! Standard error and standard output that are not read, are full or are closed: the server neither waits for them nor
//! ends because of them. The forms of what is written there.

use std::{
    env,
    fs::File,
    io::{BufRead, BufReader, PipeReader, Read, pipe},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use ringhub::{
    config::Settings,
    handler::{Connection, Handler},
    logs::Logs,
    proto::Message,
    server::Server,
};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{
    self, Client, DEADLINE, RESTART, Received, close, dial, dial_with, exchange, pattern, program, program::run_to_end,
    text,
};

/// A server whose output streams the test chooses. A drop kills the server.
struct Hub {
    child: Child,
    address: SocketAddr,
}

impl Hub {
    /// Starts a server, and returns once it accepts connections, without reading its output.
    fn start(flags: &[&str], stdout: impl Into<Stdio>, stderr: impl Into<Stdio>) -> Hub {
        let mut command = program();
        // No client of these tests uses this address for its own end.
        let address = TcpListener::bind("127.77.0.1:0").unwrap().local_addr().unwrap();
        command.args(["--listen", &address.to_string(), "--ping-interval", "0"]).args(flags);
        let mut hub = Hub { child: spawn(command, stdout, stderr), address };
        let begin = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert_eq!(hub.child.try_wait().unwrap(), None, "the server has ended before it served");
            assert!(begin.elapsed() < DEADLINE, "the server does not serve");
            thread::sleep(POLL);
        }
        hub
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn wait(&mut self) -> ExitStatus {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begin.elapsed() < DEADLINE, "the server does not end");
            thread::sleep(POLL);
        }
    }

    /// Checks that the server serves, and ends orderly at SIGTERM.
    fn check(mut self) {
        let mut client = Client::connect(self.address, "/t/x?echo=true");
        client.send_text("served");
        client.expect(text("served"));
        self.signal(Signal::TERM);
        client.expect_close(1012, RESTART);
        drop(client);
        assert_eq!(self.wait().code(), Some(0));
    }

    /// Sends `times` requests, each of which is logged in a line of about `bytes` bytes.
    fn log(&self, times: usize, bytes: usize) {
        let request = format!("GET /{} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "x".repeat(bytes));
        for _ in 0..times {
            assert_eq!(exchange(self.address, &request).status(), 404);
        }
    }

    fn lines_dropped(&self) -> u64 {
        let response = exchange(self.address, "GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let line = response.body.lines().find(|line| line.starts_with("ringhub_log_lines_dropped_total"));
        line.and_then(|line| line.split(' ').nth(1)).expect("the metrics count dropped lines").parse().unwrap()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // The server may have ended since `try_wait`.
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

fn spawn(mut command: Command, stdout: impl Into<Stdio>, stderr: impl Into<Stdio>) -> Child {
    command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).spawn().unwrap()
}

/// Returns the writing end of a pipe without a reader.
fn broken() -> Stdio {
    pipe().unwrap().1.into()
}

fn full() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

/// Reads until a line contains `what`. Returns this line, and the reader.
fn read_until(reader: PipeReader, what: &str) -> (String, BufReader<PipeReader>) {
    let mut reader = BufReader::new(reader);
    (next_with(&mut reader, what), reader)
}

/// Reads until a line contains `what`. Returns this line.
fn next_with(reader: &mut impl BufRead, what: &str) -> String {
    let mut text = String::new();
    loop {
        let mut line = String::new();
        assert!(reader.read_line(&mut line).unwrap() > 0, "no {what:?} in:\n{text}");
        text += &line;
        if line.contains(what) {
            return line;
        }
    }
}

/// The refusals fill the pipe and then the queue of log lines. A late reader is told how many lines were dropped.
#[test]
fn a_log_that_nobody_reads() {
    let (reader, writer) = pipe().unwrap();
    let hub = Hub::start(&["--log", "debug"], Stdio::null(), writer);
    hub.log(1_200, 2_000);
    let dropped = hub.lines_dropped();
    assert!(dropped > 0);
    let mut reader = BufReader::new(reader);
    // Lines that are dropped while the first number waits in the pipe come with a number of their own.
    let mut told = 0;
    while told < dropped {
        let line = next_with(&mut reader, "log lines were dropped");
        told += line.split_whitespace().rev().nth(4).unwrap().parse::<u64>().unwrap();
    }
    hub.check();
}

#[test]
fn a_log_that_nobody_reads_does_not_hold_the_end() {
    let (_reader, writer) = pipe().unwrap();
    let hub = Hub::start(&["--log", "debug"], Stdio::null(), writer);
    hub.log(100, 2_000);
    hub.check();
    let (_reader, writer) = pipe().unwrap();
    let mut hub =
        Hub::start(&["--log", "debug", "--close-timeout", "1h", "--drain-timeout", "1h"], Stdio::null(), writer);
    hub.log(100, 2_000);
    let mut deaf = Client::connect(hub.address, "/t/x");
    deaf.never_answer();
    hub.signal(Signal::TERM);
    deaf.expect(close(1012, RESTART));
    hub.signal(Signal::TERM);
    assert_eq!(hub.wait().code(), Some(1));
}

/// The reader of the log has gone, and then a client causes log lines.
#[test]
fn a_log_whose_reader_has_gone() {
    let hub = Hub::start(&["--max-message", "64KiB", "--max-backlog", "256KiB"], Stdio::null(), broken());
    let mut slow = Client::open(dial_with(hub.address, Some(4_096)), "/t/x?mode=sub", &[]).unwrap();
    let mut publisher = Client::connect(hub.address, "/t/x?mode=pub");
    // The close of the slow subscriber is logged.
    let begin = Instant::now();
    let is_closed = || {
        let metrics = exchange(hub.address, "GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").body;
        metrics.lines().any(|line| line.starts_with("ringhub_slow_closed_total") && line.ends_with(" 1"))
    };
    while !is_closed() {
        for _ in 0..20 {
            publisher.send_binary(&pattern(1, 64 << 10));
        }
        assert!(begin.elapsed() < DEADLINE, "no subscriber is slow");
    }
    while !matches!(slow.receive(), Received::Close { .. } | Received::End | Received::Reset) {}
    drop((slow, publisher));
    assert!(hub.lines_dropped() > 0);
    hub.check();
}

#[test]
fn disks_that_are_full() {
    Hub::start(&[], full(), full()).check();
    Hub::start(&["--log", "debug", "--log-format", "json"], full(), broken()).check();
    Hub::start(&[], broken(), full()).check();
}

/// The counters that SIGUSR1 prints do not wait for a reader either, and the server handles the next signal.
#[test]
fn counters_without_a_reader() {
    let (reader, writer) = pipe().unwrap();
    let hub = Hub::start(&[], writer, Stdio::null());
    let (first, reader) = read_until(reader, "serves on");
    assert!(first.contains(&hub.address.to_string()));
    for _ in 0..100 {
        hub.signal(Signal::USR1);
        // The server has heard the signal, or hears it before the next one.
        Client::connect(hub.address, "/t/x").leave();
    }
    hub.check();
    drop(reader);
}

/// The log is written although standard output is stuck.
#[test]
fn one_stream_does_not_hold_the_other() {
    let (stdout, writer) = pipe().unwrap();
    let (stderr, log_writer) = pipe().unwrap();
    let hub = Hub::start(&["--log", "debug"], writer, log_writer);
    for _ in 0..100 {
        hub.signal(Signal::USR1);
        Client::connect(hub.address, "/t/x").leave();
    }
    exchange(hub.address, "GET /the-last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let (_, stderr) = read_until(stderr, "the-last");
    hub.check();
    drop((stdout, stderr));
}

/// A wrong setting still ends the server with status 1, although its error cannot be written.
#[test]
fn a_start_that_fails() {
    for (stdout, stderr) in [(full(), full()), (broken(), broken())] {
        let mut command = program();
        command.args(["--shards", "0"]);
        let mut hub = Hub { child: spawn(command, stdout, stderr), address: "127.0.0.1:1".parse().unwrap() };
        assert_eq!(hub.wait().code(), Some(1));
    }
}

struct Panics;

impl Handler for Panics {
    type State = ();

    fn on_message(&self, _: &mut Connection<'_, ()>, _: Message<'_>) {
        panic!("{}", "x".repeat(2_000));
    }
}

/// Panics that a client causes go through the same queue: the shard does not wait, and the next client is served.
#[test]
fn panics_without_a_reader_of_the_log() {
    let (reader, writer) = pipe().unwrap();
    let (stdout, stdout_writer) = pipe().unwrap();
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "logs::a_program_that_panics", "--ignored", "--nocapture"]).env("RUST_BACKTRACE", "0");
    let child = spawn(command, stdout_writer, writer);
    let mut hub = Hub { child, address: "127.0.0.1:1".parse().unwrap() };
    let (told, stdout) = read_until(stdout, "serves on ");
    hub.address = told.split("serves on ").nth(1).unwrap().trim_end().parse().unwrap();
    for _ in 0..100 {
        let mut client = Client::open(dial(hub.address), "/", &[]).unwrap();
        client.send_text("panic");
        client.expect(close(1011, "a handler has failed"));
    }
    let (line, mut log) = read_until(reader, "panicked at");
    let expected = format!(" ERROR ringhub::logs: thread 'ringhub-shard-0' panicked at {}:", file!());
    assert!(line.contains(&expected), "{line}");
    hub.signal(Signal::KILL);
    hub.wait();
    let mut rest = Vec::new();
    log.read_to_end(&mut rest).unwrap();
    drop(stdout);
}

#[test]
#[ignore = "another test runs this process"]
fn a_program_that_panics() {
    let logs = Logs::start().unwrap();
    let settings = Settings::default();
    logs.take_over(&settings.log, settings.log_format).unwrap();
    assert!(logs.take_over(&settings.log, settings.log_format).is_err(), "twice");
    let server = Server::builder().listen(["127.0.0.1:0".parse().unwrap()]).shards(1).route("/", Panics).build();
    let running = server.unwrap().start().unwrap();
    logs.print(format_args!("serves on {}", running.local_addr()));
    running.wait_blocking().unwrap();
}

const POLL: Duration = Duration::from_millis(5);

/// With JSON, the error that ends the program is an event of the log, one for each line; without, it is text.
#[test]
fn errors_of_the_start_have_the_format_of_the_log() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    for (flags, told) in [
        (vec!["--listen", &taken], vec!["is in use: another ringhub"]),
        (vec!["--max-frame", "0", "--shards", "300"], vec!["--shards: 300 is not", "--max-frame: 0 is not"]),
        (vec!["--shards", "some"], vec!["--shards: \"some\" is no whole number"]),
    ] {
        let run = |format: &str| {
            let mut command = program();
            command.args(&flags).args(["--log-format", format]);
            let output = run_to_end(command);
            assert!(output.status.code() == Some(1) && output.stdout.is_empty(), "{output:?}");
            String::from_utf8(output.stderr).unwrap()
        };
        let (text, json) = (run("text"), run("json"));
        assert_eq!((text.lines().count(), json.lines().count()), (told.len(), told.len()), "{text}{json}");
        for ((text, json), told) in text.lines().zip(json.lines()).zip(told) {
            let event: serde_json::Value = serde_json::from_str(json).unwrap();
            let message = event["message"].as_str().unwrap();
            assert!(message.contains(told), "{json}");
            assert_eq!((&event["level"], text), (&"ERROR".into(), &*format!("ringhub: {message}")));
            assert!(event["timestamp"].is_string() && event["target"].is_string(), "{json}");
        }
    }
}

/// The line about a slow consumer names the setting whose limit it went beyond.
#[test]
fn a_slow_consumer_is_logged_with_its_limit() {
    for (flags, limit) in [
        (["--max-backlog", "2MiB"], "beyond max_backlog "),
        (["--max-backlog-messages", "3"], "beyond max_backlog_messages "),
    ] {
        let mut server = support::Server::start(&[&flags[..], &["--shards", "1", "--send-buffer", "16KiB"]].concat());
        let slow = server.connect("/t/x?mode=sub");
        let mut publisher = server.connect("/t/x?mode=pub");
        (0..300).for_each(|_| publisher.send_text(&"x".repeat(60_000)));
        server.expect_counts(&[("slow_closed_total", 1)]);
        drop((slow, publisher));
        let log = server.end();
        let line = log.lines().find(|line| line.contains("slow consumer: ")).expect("a line about it");
        assert!(line.contains(limit), "{line}");
    }
}
