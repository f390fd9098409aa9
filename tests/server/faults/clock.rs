//! The wall clock of this machine is set while a server runs. The server's times follow the monotonic clock, so no
//! timeout comes too early or too late.
//!
//! libfaketime changes the server's wall clock alone (`CLOCK_REALTIME`), by a file that it reads at each call.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use ringhub::proto::OpCode;

use crate::support::{
    Client, DEADLINE, RESTART, Received, Server, ask, close, dial, frame, post, program, published, request, text,
};

/// The clock jumps by a year and by minutes, ahead and back. No timeout comes because of this: not that of a silent
/// client, an unfinished message, a head, a body or an idle connection. Offsets go on, and shown times are those of the
/// wall clock.
#[test]
#[ignore = "libfaketime changes the clock; tests/run installs it"]
fn nothing_is_over_because_the_clock_jumps() {
    let hour = "--ping-interval=1h --pong-timeout=1h --message-timeout=1h --handshake-timeout=1h --idle-timeout=1h";
    let clock = Clock::new("ahead");
    let server = clock.serve(&hour.split(' ').chain(["--body-timeout=1h"]).collect::<Vec<_>>());
    let mut subscriber = server.connect("/t/x?mode=sub");
    let mut publisher = server.connect("/t/x");
    let mut begun = server.connect("/t/x?mode=pub");
    let message = frame(OpCode::Text, true, b"begun before");
    begun.send_raw(&message[..8]);
    let mut http = dial(server.address());
    let first = published(&ask(&mut http, &post("/t/x", "text/plain", "0")));
    let mut late = dial(server.address());
    let head = request("GET", "/healthz");
    late.write_all(&head.as_bytes()[..10]).unwrap();
    let mut half = dial(server.address());
    let body = post("/t/x", "text/plain", "a body");
    half.write_all(&body.as_bytes()[..body.len() - 3]).unwrap();
    let mut expected = vec!["0".to_string()];
    for (round, jump) in [YEAR, -YEAR, -600, 600, -30 * DAY, 1].into_iter().enumerate() {
        clock.jump(jump);
        check_times(&clock, &mut http);
        publisher.send_text(&format!("by a client {round}"));
        // The pong proves that the server has taken the message.
        publisher.send(OpCode::Ping, true, b"");
        while publisher.receive() != Received::Pong(Vec::new()) {}
        let (topic, epoch, offset) =
            published(&ask(&mut http, &post("/t/x", "text/plain", &format!("posted {round}"))));
        assert_eq!((topic, epoch, offset), ("x".into(), first.1, first.2 + 2 * (round as u64 + 1)));
        expected.extend([format!("by a client {round}"), format!("posted {round}")]);
    }
    expected.iter().for_each(|message| subscriber.expect(text(message)));
    begun.send_raw(&message[8..]);
    subscriber.expect(text("begun before"));
    assert_eq!(ask(&mut late, &head[10..]).status(), 200);
    assert_eq!(ask(&mut half, &body[body.len() - 3..]).status(), 202);
    subscriber.expect(text("a body"));
    for counter in ["handshake_timeout_total", "message_timeout_total", "pong_timeout_total", "pings_sent_total"] {
        assert_eq!(server.counts().get(counter), 0, "{counter}");
    }
}

/// The clock goes back by a month and by days, and every timeout still comes.
#[test]
#[ignore = "libfaketime changes the clock; tests/run installs it"]
fn times_are_over_although_the_clock_goes_back() {
    let times = "--ping-interval=300ms --pong-timeout=1s --message-timeout=2s --close-timeout=500ms \
                 --handshake-timeout=1s --idle-timeout=1s --drain-timeout=500ms";
    let clock = Clock::new("back");
    let mut server = clock.serve(&times.split_ascii_whitespace().collect::<Vec<_>>());
    let mut deaf = server.connect("/t/x");
    deaf.never_answer();
    let mut slow = server.connect("/t/x");
    // A pong can come between two fragments.
    slow.send_raw(&frame(OpCode::Text, false, b"it never ends"));
    let mut head = dial(server.address());
    head.write_all(b"GET / HT").unwrap();
    let mut idle = dial(server.address());
    assert_eq!(ask(&mut idle, &request("GET", "/healthz")).status(), 200);
    clock.jump(-30 * DAY);
    // A client answers pings only while the test receives from it.
    expect_after_pings(&mut slow, close(1008, "a message did not arrive in time"));
    expect_after_pings(&mut deaf, close(1011, "no answer to a ping"));
    let mut rest = Vec::new();
    // Bytes that the server has not read turn the end into a reset.
    drop(head.read_to_end(&mut rest));
    assert_eq!(idle.read_to_end(&mut rest).expect("an orderly end"), 0);
    server.expect_counts(&[("pong_timeout_total", 1), ("message_timeout_total", 1), ("handshake_timeout_total", 1)]);
    drop((deaf, slow));
    server.expect_counts(&[("connections_open", 0)]);
    // A client that answers stays through all jumps, and is pinged all the time.
    let mut quiet = server.connect("/t/x");
    for jump in [-DAY, 2 * DAY, -DAY] {
        clock.jump(jump);
        (0..3).for_each(|_| quiet.expect(Received::Ping(Vec::new())));
    }
    // The drain's timeout comes too.
    quiet.never_answer();
    server.signal(rustix::process::Signal::TERM);
    expect_after_pings(&mut quiet, close(1012, RESTART));
    clock.jump(-DAY);
    assert!(server.wait().success(), "{}", server.log());
}

#[track_caller]
fn expect_after_pings(client: &mut Client, expected: Received) {
    let begin = Instant::now();
    loop {
        match client.receive() {
            Received::Ping(_) => assert!(begin.elapsed() < DEADLINE, "only pings arrive"),
            other => return assert_eq!(other, expected),
        }
    }
}

/// Waits until the metrics and the dates of answers show the wall clock; the server keeps the text of its metrics for a
/// second.
#[track_caller]
fn check_times(clock: &Clock, http: &mut TcpStream) {
    let begin = Instant::now();
    loop {
        let response = ask(http, &request("GET", "/metrics"));
        let line = response.body.lines().find(|line| line.starts_with("ringhub_taken_timestamp_seconds"));
        let taken: f64 = line.unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let date = httpdate::parse_http_date(response.header("date").expect("a date")).unwrap();
        let date = date.duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64 + clock.offset();
        // Every jump but the last is longer than this.
        let is_close = |time: i64| (time - wall).abs() < 300;
        if is_close(taken as i64) && is_close(date) {
            return;
        }
        let is_in_time = begin.elapsed() < DEADLINE / 4;
        assert!(is_in_time, "the wall clock shows {wall}, the metrics are of {taken}, the answer is dated {date}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// The wall clock of one server.
struct Clock {
    file: PathBuf,
    offset: std::cell::Cell<i64>,
}

impl Clock {
    fn new(name: &str) -> Clock {
        let file = std::env::temp_dir().join(format!("ringhub-clock-{name}-{}", std::process::id()));
        let clock = Clock { file, offset: std::cell::Cell::new(0) };
        clock.jump(0);
        clock
    }

    /// Starts a server with this clock.
    fn serve(&self, flags: &[&str]) -> Server {
        let mut command = program();
        command.args(flags).env("LD_PRELOAD", library()).env("FAKETIME_TIMESTAMP_FILE", &self.file);
        // The monotonic clock is not changed.
        command.envs([("FAKETIME_NO_CACHE", "1"), ("FAKETIME_DONT_FAKE_MONOTONIC", "1"), ("DONT_FAKE_MONOTONIC", "1")]);
        Server::start_command(command)
    }

    /// Sets the clock ahead by `seconds`.
    fn jump(&self, seconds: i64) {
        self.offset.set(self.offset() + seconds);
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{:+}\n", self.offset())).unwrap();
        // A reader sees the old offset or the new one, never a half-written file.
        fs::rename(new, &self.file).unwrap();
    }

    /// Returns the seconds by which the clock is ahead of this process's clock.
    fn offset(&self) -> i64 {
        self.offset.get()
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.file));
    }
}

/// Returns the library's path on Debian or Fedora.
fn library() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").unwrap().chain(fs::read_dir("/usr/lib64").into_iter().flatten());
    let folders = folders.filter_map(|entry| Some(entry.ok()?.path())).chain([Path::new("/usr/lib64").into()]);
    let mut files = folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1"));
    files.find(|file| file.exists()).expect("libfaketime is installed (package faketime or libfaketime)")
}

const DAY: i64 = 24 * 60 * 60;
const YEAR: i64 = 365 * DAY;
