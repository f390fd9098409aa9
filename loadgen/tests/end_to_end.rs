//! Runs the whole generator against a small broadcast server that makes no mistake, or exactly one.

use clap::Parser as _;
use ringhub_loadgen::{Counts, Error, Moment, Options, Outcome, Progress, Report};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

/// The server's mistake with message [`AT`] to subscriber [`VICTIM`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    Lose,
    Repeat,
    /// Sends the next message first.
    Swap,
    /// Changes the last byte.
    Corrupt,
    /// Sends a foreign message before it.
    Invent,
    /// Sends a ping before the message, which is no mistake.
    Ping,
    /// Sends a close frame instead, and ends the connection.
    Close,
    /// Ends the connection without a close frame.
    HangUp,
    /// Refuses every handshake.
    NotFound,
}

/// The second subscriber, which a sample of one does not read.
const VICTIM: usize = 1;
const AT: usize = 5;

#[test]
fn everything_arrives_in_every_way_of_running() {
    for flags in [
        "--in-flight 1 --messages 50",
        "--in-flight 16 --messages 500 --subscribers 20 --publishers 3 --binary --size 300",
        "--in-flight 16 --messages 500 --subscribers 20 --verify sample --sample 3 --size 70000",
        "--rate 500 --duration 300ms --warmup 100ms",
        "--rate 500 --duration 300ms --warmup 0 --verify sample --sample 1 --sleep",
        "--rate 2000 --messages 100 --total-order --size 32 --cpu 0",
        "--unthrottled --messages 500 --publishers 2 --size 40",
    ] {
        let (status, report) = run(Fault::None, flags);
        let report = report.unwrap();
        assert_eq!((status, report.outcome), (0, Outcome::Exact), "{flags}: {report}");
        let figures = report.figures.unwrap();
        assert!(figures.deliveries > 0 && figures.latency.is_some() && figures.messages_per_read >= 0.5, "{flags}");
        assert!((0.0..=1.0).contains(&figures.generator.spare), "{flags}: spare {}", figures.generator.spare);
    }
}

#[test]
fn the_smallest_messages_have_no_time_and_are_counted() {
    let flags = "--unthrottled --messages 20 --size 17";
    let (status, report) = run(Fault::None, flags);
    let report = report.unwrap();
    assert_eq!((status, report.outcome, report.counts.expected), (0, Outcome::Exact, 80), "{report}");
    assert!(report.figures.unwrap().latency.is_none());
    for (fault, lost, corrupt) in [(Fault::Lose, 1, 0), (Fault::Corrupt, 1, 0), (Fault::Repeat, 0, 0)] {
        let (status, report) = run(fault, &format!("{flags} --drain 300ms"));
        let Counts { lost: found, corrupt: changed, foreign, duplicated, .. } = report.unwrap().counts;
        let is_repeated = u64::from(fault == Fault::Repeat);
        // The last digit of the sequence becomes an invalid one.
        let foreigners = u64::from(fault == Fault::Corrupt);
        assert_eq!((status, found, changed, foreign, duplicated), (2, lost, corrupt, foreigners, is_repeated));
    }
}

#[test]
fn messages_are_counted_exactly() {
    let (_, report) = run(Fault::None, "--in-flight 7 --messages 123 --subscribers 5 --publishers 2");
    let report = report.unwrap();
    assert_eq!(report.counts, Counts { published: 123, expected: 615, ..Counts::default() });
    assert_eq!(report.figures.unwrap().deliveries, 615);
}

#[test]
fn every_mistake_is_named() {
    let wrong = |fault, change: fn(&mut Counts)| {
        let (status, report) = run(fault, "--in-flight 16 --messages 20 --drain 300ms");
        let report = report.unwrap();
        let mut expected = Counts { published: 20, expected: 80, ..Counts::default() };
        change(&mut expected);
        assert_eq!((status, report.outcome, report.counts), (2, Outcome::Broken, expected), "{fault:?}");
    };
    wrong(Fault::Lose, |counts| counts.lost = 1);
    wrong(Fault::Repeat, |counts| counts.duplicated = 1);
    wrong(Fault::Swap, |counts| counts.reordered = 1);
    wrong(Fault::Invent, |counts| counts.foreign = 1);
    wrong(Fault::Corrupt, |counts| (counts.corrupt, counts.lost) = (1, 1));
    wrong(Fault::Close, |counts| (counts.disconnected, counts.lost) = (1, 15));
    wrong(Fault::HangUp, |counts| (counts.disconnected, counts.lost) = (1, 15));
}

#[test]
fn a_wrong_number_of_bytes_beside_a_sample_is_a_mistake() {
    for fault in [Fault::Lose, Fault::Repeat, Fault::Invent, Fault::Ping, Fault::Close] {
        // The sample of one reads the last subscriber, so the victim's bytes are only counted.
        let (status, report) = run(fault, "--in-flight 16 --messages 20 --drain 300ms --verify sample --sample 1");
        let report = report.unwrap();
        assert_eq!((status, report.outcome, report.counts.miscounted), (2, Outcome::Broken, 1), "{fault:?}: {report}");
        assert!(report.disconnections.iter().any(|why| why.starts_with("subscriber 1: ")), "{fault:?}: {report}");
    }
}

#[test]
fn a_ping_is_answered_and_is_no_mistake() {
    let (status, report) = run(Fault::Ping, "--in-flight 16 --messages 20");
    assert_eq!(status, 0, "{}", report.unwrap());
}

#[test]
fn hold_only_connects() {
    let (status, report) = run(Fault::None, "--hold 100ms --subscribers 50");
    let report = report.unwrap();
    assert_eq!((status, report.publishers, report.counts), (0, 0, Counts::default()));
    assert!(report.figures.unwrap().generator.spare > 0.5);
}

#[test]
fn a_server_process_is_measured() {
    let flags = format!("--rate 1000 --duration 300ms --server-pid {}", std::process::id());
    let (_, report) = run(Fault::None, &flags);
    let report = report.unwrap();
    assert!(report.memory_after.is_some_and(|memory| memory.rss.is_some()));
    assert!(report.figures.unwrap().server.is_some());
}

/// Ends the run at some time.
struct Watcher {
    end: End,
    moments: Vec<Moment>,
    connecting: Vec<(usize, usize)>,
    is_done: bool,
}

impl Progress for Watcher {
    fn connecting(&mut self, open: usize, of: usize) {
        self.connecting.push((open, of));
    }

    fn running(&mut self, moment: &Moment) {
        self.moments.push(moment.clone());
    }

    fn done(&mut self) {
        self.is_done = true;
    }

    fn is_interrupted(&self) -> bool {
        match self.end {
            End::Never => false,
            End::AtOnce => true,
            End::WhenOpen => self.connecting.last().is_some_and(|(open, of)| open == of),
            End::AfterMoments(count) => self.moments.len() >= count,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum End {
    Never,
    /// While the generator connects.
    AtOnce,
    /// When all connections are open, before the window begins.
    WhenOpen,
    AfterMoments(usize),
}

fn watch(flags: &str, end: End) -> (Watcher, Result<Report, Error>) {
    let url = format!("--url=ws://{}/t/x", start(Fault::None));
    let flags = ["ringhub-loadgen", &url, "--subscribers=4", "--allow-disturbance"]
        .into_iter()
        .chain(flags.split_ascii_whitespace());
    let plan = Options::try_parse_from(flags).unwrap().plan().unwrap();
    let mut watcher = Watcher { end, moments: Vec::new(), connecting: Vec::new(), is_done: false };
    let report = ringhub_loadgen::run(&plan, &mut watcher);
    (watcher, report)
}

#[test]
fn an_interrupted_run_reports_what_was_measured() {
    for flags in ["--rate 1000 --warmup 0 --duration 30s", "--in-flight 4 --messages 1000000", "--hold 30s"] {
        let (watcher, report) = watch(flags, End::AfterMoments(2));
        let report = report.unwrap();
        assert!(report.interrupted && watcher.is_done, "{flags}: {report}");
        assert_eq!(report.outcome, Outcome::Exact, "{flags}: {report}");
        assert!(report.to_string().contains("interrupted: the run was ended early"), "{flags}: {report}");
        assert!(report.figures.is_some_and(|figures| figures.seconds > 0.0), "{flags}");
        assert_eq!(watcher.connecting.last().map(|(open, of)| open == of), Some(true));
    }
    // While the memory of a step is awaited, no connection is held yet.
    let (_, report) = watch("--hold 30s", End::WhenOpen);
    let report = report.unwrap();
    assert!(report.interrupted && report.subscribers == 4 && report.figures.is_none(), "{report}");
    let (_, report) = watch("--rate 1", End::AtOnce);
    let complaint = report.unwrap_err().to_string();
    let (_, early) = watch("--rate 100 --warmup 60s", End::WhenOpen);
    let early = early.unwrap();
    assert!(early.interrupted && early.outcome == Outcome::Exact && early.figures.is_none(), "{early}");
    assert!(complaint.starts_with("interrupted while connecting: "), "{complaint}");
}

#[test]
fn the_series_adds_up_to_the_figures() {
    for flags in ["--rate 1000 --warmup 0 --duration 450ms", "--in-flight 4 --messages 400"] {
        let (watcher, report) = watch(flags, End::Never);
        let report = report.unwrap();
        assert!(!report.interrupted, "{flags}: {report}");
        let figures = report.figures.unwrap();
        assert_eq!(figures.series, watcher.moments, "{flags}");
        let sum = |figure: fn(&Moment) -> u64| figures.series.iter().map(figure).sum::<u64>();
        assert!(sum(|moment| moment.deliveries).abs_diff(figures.deliveries) <= 40, "{flags}: {figures}");
        let window_ns = (figures.seconds * 1e9) as u64;
        assert!(sum(|moment| moment.span_ns).abs_diff(window_ns) <= 200_000_000, "{flags}: {figures}");
        let latencies = figures.latency.unwrap().count;
        assert!(sum(|moment| moment.latency.total()) <= latencies && latencies > 0, "{flags}");
        let rows = figures.distribution.unwrap().rows;
        assert_eq!(rows.last().map(|row| (row.quantile, row.count)), Some((1.0, latencies)), "{flags}");
    }
}

#[test]
fn a_run_that_cannot_take_place_has_status_one() {
    assert_eq!(run(Fault::NotFound, "--rate 1").0, 1);
    assert_eq!(run(Fault::None, "--rate 1 --size 16").0, 1);
    assert_eq!(run(Fault::None, "--no-such-flag").0, 1);
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_eq!(generator(&format!("--rate 1 --url ws://{free}/t/x")).0, 1);
}

/// Standard output is closed before the report, as in `ringhub-loadgen ... | head -1`, or its disk is full.
#[test]
fn a_report_without_a_reader_is_no_panic() {
    let check = |flags: &str, stdout: Stdio, status: i32, complaint: &str| {
        let address = start(Fault::None);
        let output = Command::new(env!("CARGO_BIN_EXE_ringhub-loadgen"))
            .args(["--url", &format!("ws://{address}/t/x"), "--in-flight", "1", "--messages", "5"])
            .args(flags.split_ascii_whitespace())
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
            .wait_with_output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), &*stderr), (Some(status), complaint), "{flags}");
    };
    let closed = || {
        let (_, writer) = std::io::pipe().unwrap();
        Stdio::from(writer)
    };
    check("", closed(), 0, "");
    check("--json", closed(), 0, "");
    let full = std::fs::File::create("/dev/full").unwrap();
    let complaint =
        "ringhub-loadgen: cannot write the report to standard output: No space left on device (os error 28)\n";
    check("", full.into(), 1, complaint);
}

/// Runs the generator against a new server, with four subscribers unless `flags` set another number.
fn run(fault: Fault, flags: &str) -> (i32, Option<Report>) {
    let address = start(fault);
    let subscribers = if flags.contains("--subscribers") { "" } else { "--subscribers 4" };
    generator(&format!("--url ws://{address}/t/x {subscribers} {flags}"))
}

/// Starts a new server.
fn start(fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || serve(&listener, fault));
    address
}

fn generator(flags: &str) -> (i32, Option<Report>) {
    let output = Command::new(env!("CARGO_BIN_EXE_ringhub-loadgen"))
        .args(flags.split_ascii_whitespace())
        // A machine that is busy with other tests makes no run void.
        .args(["--json", "--allow-disturbance"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).ok())
}

/// The subscribers with their places in the order of connecting, the number of broadcast messages, and a frame held
/// back for a swap.
#[derive(Default)]
struct Topic {
    subscribers: Vec<(usize, TcpStream)>,
    messages: usize,
    held: Vec<u8>,
}

fn serve(listener: &TcpListener, fault: Fault) {
    let topic = Arc::new(Mutex::new(Topic::default()));
    for (place, stream) in listener.incoming().enumerate() {
        let topic = Arc::clone(&topic);
        // The generator may reset its connections at its end, which is no failure.
        thread::spawn(move || drop(converse(stream.unwrap(), place, &topic, fault)));
    }
}

fn converse(mut stream: TcpStream, place: usize, topic: &Mutex<Topic>, fault: Fault) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(byte(&mut stream)?);
    }
    if fault == Fault::NotFound {
        return stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    }
    stream.set_nodelay(true)?;
    let publishes = head.windows(8).any(|window| window == b"mode=pub");
    let mut topic_now = topic.lock().unwrap();
    stream.write_all(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
          Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
    )?;
    if !publishes {
        topic_now.subscribers.push((place, stream.try_clone()?));
    }
    drop(topic_now);
    loop {
        let (opcode, payload) = read_masked(&mut stream)?;
        match opcode {
            1 | 2 => topic.lock().unwrap().broadcast(&unmasked(opcode, &payload), fault),
            10 => assert_eq!(payload, b"are you there"),
            other => panic!("the generator sent opcode {other}"),
        }
    }
}

impl Topic {
    fn broadcast(&mut self, frame: &[u8], fault: Fault) {
        for &(place, ref stream) in &self.subscribers {
            let mut subscriber = stream;
            let own = unmasked(1, b"hello");
            let bytes = match (fault, self.messages) {
                _ if place != VICTIM => frame.to_vec(),
                (Fault::Lose, AT) => Vec::new(),
                (Fault::Repeat, AT) => frame.repeat(2),
                (Fault::Swap, AT) => {
                    self.held = frame.to_vec();
                    Vec::new()
                }
                (Fault::Corrupt, AT) => [&frame[..frame.len() - 1], b"#"].concat(),
                (Fault::Invent, AT) => [&own, frame].concat(),
                (Fault::Ping, AT) => [&unmasked(9, b"are you there"), frame].concat(),
                (Fault::Close, AT) => unmasked(8, &1008_u16.to_be_bytes()),
                (Fault::Close | Fault::HangUp, AT..) => {
                    subscriber.shutdown(std::net::Shutdown::Both).unwrap_or_default();
                    continue;
                }
                _ => [frame, &std::mem::take(&mut self.held)].concat(),
            };
            subscriber.write_all(&bytes).unwrap_or_default();
        }
        self.messages += 1;
    }
}

fn unmasked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let length = match payload.len() {
        length @ 0..=125 => vec![length as u8],
        length @ 126..=65_535 => [&[126], &(length as u16).to_be_bytes()[..]].concat(),
        length => [&[127], &(length as u64).to_be_bytes()[..]].concat(),
    };
    [&[0x80 | opcode], &length[..], payload].concat()
}

fn read_masked(stream: &mut TcpStream) -> std::io::Result<(u8, Vec<u8>)> {
    let opcode = byte(stream)? & 0x0f;
    let second = byte(stream)?;
    assert!(second & 0x80 != 0, "a client masks");
    let extended = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let mut length = if extended == 0 { usize::from(second & 0x7f) } else { 0 };
    for _ in 0..extended {
        length = length << 8 | usize::from(byte(stream)?);
    }
    let mut key = [0; 4];
    stream.read_exact(&mut key)?;
    assert_ne!(key, [0; 4]);
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload)?;
    payload.iter_mut().zip(key.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
    Ok((opcode, payload))
}

fn byte(stream: &mut TcpStream) -> std::io::Result<u8> {
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    Ok(byte[0])
}
