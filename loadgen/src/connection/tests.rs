use super::*;
use crate::cli::Cli;
use crate::judge::{Clock, Writes};
use crate::payload::{Form, Stamp};
use crate::window::Window;
use clap::Parser as _;
use std::sync::Arc;

const ACCEPTED: &str = "HTTP/1.1 101 Switching Protocols\r\nupgrade: WebSocket\r\nConnection: Upgrade\r\n\
                        sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

#[test]
fn answer_is_checked_and_its_end_found() {
    let mut answer = ACCEPTED.as_bytes().to_vec();
    answer.extend(b"\x81\x00");
    assert_eq!(opening_answer(&answer, Input::Open), Ok(Some(ACCEPTED.len())));
    assert_eq!(opening_answer(&answer[..ACCEPTED.len() - 1], Input::Open), Ok(None));
    let refusal = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\n\r\nno token\n";
    assert_eq!(opening_answer(refusal, Input::Open), Err("HTTP/1.1 403 Forbidden: no token".to_owned()));
    assert!(opening_answer(ACCEPTED.replace("s3p", "xxx").as_bytes(), Input::Open).is_err());
    assert!(opening_answer(ACCEPTED.replace("WebSocket", "h2c").as_bytes(), Input::Open).is_err());
}

fn plan(flags: &str) -> Plan {
    let words = ["ringhub-loadgen", "--rate=1", "--subscribers=1", "--size=40"];
    let words = words.into_iter().chain(flags.split_ascii_whitespace());
    Cli::try_parse_from(words).unwrap().into_options().unwrap().plan().unwrap()
}

/// A connection in a state that a test has made, with a judge whose run is 1.
struct Bench {
    plan: Plan,
    judge: Judge,
    connection: Connection,
    role: Role,
}

impl Bench {
    fn new(flags: &str, role: Role) -> Bench {
        let plan = plan(flags);
        let clock = Arc::new(Clock::default());
        clock.set_window(Window { start_ns: 0, end_ns: 1_000 });
        let judge = Judge::new(&plan, 1, clock, Arc::new(Writes::new(plan.topics.streams())));
        let state = State::Reading(Box::new(Reading::new(&plan, role)));
        let connection = Connection { socket: None, state, tls: None, outgoing: Vec::new(), written: 0, flushed: 0 };
        Bench { plan, judge, connection, role }
    }

    fn take(&mut self, bytes: &[u8]) -> Taken {
        self.connection.take(bytes, 250, &self.plan, self.role, &mut self.judge)
    }

    fn reading(&self) -> &Reading {
        let State::Reading(reading) = &self.connection.state else { panic!("{:?}", self.connection.state) };
        reading
    }

    /// Returns the payloads of the frames that wait for the socket, unmasked.
    fn sent(&self) -> Vec<String> {
        let (mut sent, mut rest) = (Vec::new(), &self.connection.outgoing[..]);
        while let [_, length, key0, key1, key2, key3, ..] = *rest {
            let length = usize::from(length & 0x7f);
            let mut payload = rest[6..6 + length].to_vec();
            frame::mask([key0, key1, key2, key3], &mut payload);
            sent.push(String::from_utf8(payload).unwrap());
            rest = &rest[6 + length..];
        }
        sent
    }
}

fn payload(run: u16, publisher: u16, sequence: u64, padding: &[u8]) -> Vec<u8> {
    let stamp = Stamp { run, publisher, sequence, due_ns: Some(100) };
    let mut bytes = vec![0; Form::Timed.length()];
    stamp.encode(Form::Timed, &mut bytes);
    // A payload of 40 bytes has check digits and no padding.
    let check_digits = stamp.check_digits();
    bytes.extend(if padding.is_empty() { &check_digits } else { padding });
    bytes
}

fn framed(opcode: u8, payload: &[u8]) -> Vec<u8> {
    assert!(payload.len() < 126);
    [&[0x80 | opcode, payload.len() as u8], payload].concat()
}

fn message(opcode: u8, run: u16, publisher: u16, padding: &[u8]) -> Vec<u8> {
    framed(opcode, &payload(run, publisher, 0, padding))
}

fn messages(count: u64) -> Taken {
    Taken { messages: count, ..Taken::default() }
}

#[test]
fn right_foreign_and_corrupt_messages() {
    let torn = [&payload(1, 0, 0, b"")[..32], &payload(1, 0, 1, b"")[32..]].concat();
    for (bytes, foreign, corrupt, misrouted) in [
        (message(opcode::TEXT, 1, 0, b""), 0, 0, 0),
        (message(opcode::TEXT, 2, 0, b""), 1, 0, 0),
        (message(opcode::TEXT, 1, 1, b""), 0, 0, 1),
        (message(opcode::BINARY, 1, 0, b""), 0, 1, 0),
        (message(opcode::TEXT, 1, 0, b"abcdefgX"), 0, 1, 0),
        (message(opcode::TEXT, 1, 0, b"abc"), 0, 1, 0),
        // The end of the next message.
        (framed(opcode::TEXT, &torn), 0, 1, 0),
        (b"\x81\x02hi".to_vec(), 1, 0, 0),
    ] {
        let mut bench = Bench::new("", Role::Subscriber(0));
        assert_eq!(bench.take(&bytes), messages(1 - foreign - misrouted));
        let reading = bench.reading();
        assert_eq!((reading.foreign, reading.corrupt, reading.misrouted), (foreign, corrupt, misrouted));
        assert_eq!(reading.checkers[0].finish(1).outstanding, foreign + corrupt + misrouted);
        assert!(bench.judge.latency.is_empty() || bench.judge.latency.max() == 150);
        let Judge { foreign_sample, corrupt_sample, misrouted_sample, .. } = &bench.judge;
        let samples = [foreign_sample, corrupt_sample, misrouted_sample].map(|sample| sample.len() as u64);
        assert_eq!(samples, [foreign, corrupt, misrouted]);
    }
}

#[test]
fn the_order_among_publishers_leaves_a_trace() {
    let order_of = |publishers: [u16; 2]| {
        let mut bench = Bench::new("--publishers 2", Role::Subscriber(0));
        for publisher in publishers {
            assert_eq!(bench.take(&message(opcode::TEXT, 1, publisher, b"")), messages(1));
        }
        bench.reading().order
    };
    assert_eq!(order_of([0, 1]), order_of([0, 1]));
    assert_ne!(order_of([0, 1]), order_of([1, 0]));
}

#[test]
fn pings_are_answered_and_a_close_ends_it() {
    let mut bench = Bench::new("", Role::Subscriber(0));
    assert_eq!(bench.take(b"\x89\x01x"), messages(0));
    assert_eq!((bench.connection.outgoing[0], bench.sent()), (0x8a, vec!["x".to_owned()]));
    let ended = bench.take(b"\x88\x06\x03\xf0slow").ended;
    assert_eq!(ended.as_deref(), Some("the server closed it with code 1008 (slow)"));
}

#[test]
fn publishers_may_receive_only_if_the_preset_says_so() {
    for (flags, foreign) in [("", 1), ("--publishers-receive", 0), ("--url=ws://127.0.0.1:1/x", 0)] {
        let mut bench = Bench::new(flags, Role::Publisher(0));
        assert_eq!(bench.take(&message(opcode::TEXT, 1, 0, b"")), messages(0));
        assert_eq!(bench.reading().foreign, foreign, "{flags}");
    }
}

#[test]
fn a_nats_subscriber_joins_step_by_step() {
    let mut bench = Bench::new("--url=ws://127.0.0.1:1 --preset=nats", Role::Subscriber(0));
    let mut output = Vec::new();
    let State::Reading(reading) = &mut bench.connection.state else { unreachable!() };
    assert!(!reading.join(&bench.plan, Role::Subscriber(0), &mut output).unwrap() && output.is_empty());
    assert_eq!(bench.take(&framed(opcode::BINARY, b"INFO {\"max\":1}\r\n")), messages(0));
    assert!(bench.sent()[0].starts_with("CONNECT {") && bench.sent()[0].ends_with("\r\nPING\r\n"));
    assert_eq!(bench.take(&framed(opcode::BINARY, b"PONG\r\n")), messages(0));
    assert_eq!(bench.sent()[1], "SUB bench 1000000001\r\nPING\r\n");
    assert_eq!(bench.take(&framed(opcode::BINARY, b"PONG\r\n")), Taken { is_joined: true, ..Taken::default() });
    let delivery = [b"MSG bench 1000000001 40\r\n", &payload(1, 0, 0, b"abcdefgh")[..], b"\r\nPING\r\n"].concat();
    assert_eq!(bench.take(&framed(opcode::BINARY, &delivery)), messages(1));
    assert_eq!((bench.sent().last().map(String::as_str), bench.reading().foreign), (Some("PONG\r\n"), 0));
    let ended = bench.take(&framed(opcode::BINARY, b"-ERR 'Stale Connection'\r\n")).ended;
    assert_eq!(ended.as_deref(), Some("refused by the server: -ERR 'Stale Connection'"));
}

#[test]
fn an_answer_decides_whether_a_post_was_accepted() {
    let check = |answer: &str, under_way: usize, accepted: usize, why: Option<&str>| {
        let mut posting = Posting { under_way, ..Posting::default() };
        let taken = posting.take(answer.as_bytes(), Input::Open);
        assert_eq!((posting.accepted, taken.err().as_deref()), (accepted, why), "{answer}");
    };
    check("HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n", 1, 1, None);
    check("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n", 1, 1, None);
    check("HTTP/1.1 202 Accepted\r\n", 1, 0, None);
    let refusal = "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno";
    check(refusal, 1, 0, Some("the server answered a publish with HTTP/1.1 403 Forbidden: no"));
    check(refusal, 0, 0, Some("the server answered without a request: HTTP/1.1 403 Forbidden: no"));
}

/// 400 bytes of user memory for an idle connection are the bar; the allocator's overhead and the socket of TLS are
/// not in this sum, and `tests/memory.rs` counts what is really allocated.
#[test]
fn an_idle_connection_is_small() {
    assert!(size_of::<Connection>() + size_of::<Reading>() + size_of::<SequenceChecker>() <= 256);
}
