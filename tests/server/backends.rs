//! The choice of a server's backend, and that clients see no difference between backends.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    process::Output,
    thread,
    time::Duration,
};

use ringhub::{config::IoChoice, proto::OpCode, server::ChosenBackend};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

use crate::{
    container::confined,
    support::{
        Server, dial, dial_with, exchange, frame, pattern, post, program, request, reset, run_to_end, text,
        upgrade_request,
    },
};

/// Calls `run` on a thread on which each call of io_uring fails with `errno`. The filter also holds for the processes
/// that the thread starts.
fn without_io_uring<T: Send>(errno: i32, run: impl FnOnce() -> T + Send) -> T {
    without(&[libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register], errno, run)
}

/// The same without some of the calls.
fn without<T: Send>(calls: &[libc::c_long], errno: i32, run: impl FnOnce() -> T + Send) -> T {
    let filter = SeccompFilter::new(
        calls.iter().map(|call| (*call, Vec::new())).collect::<BTreeMap<_, _>>(),
        SeccompAction::Allow,
        SeccompAction::Errno(errno as u32),
        std::env::consts::ARCH.try_into().unwrap(),
    );
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    confined(&[program], run)
}

/// Returns the line of `/metrics` that names the server's backend.
pub(crate) fn backend_info(server: &Server) -> String {
    let metrics = exchange(server.address(), &request("GET", "/metrics")).body;
    let line = metrics.lines().find(|line| line.starts_with("ringhub_io_backend_info")).expect("one line");
    line.to_string()
}

/// If io_uring is refused, as in a container, the server serves on epoll, and one warning says why.
#[test]
fn where_io_uring_is_refused_the_hub_serves_on_epoll() {
    for (errno, name) in [
        (libc::EPERM, "EPERM"),
        (libc::ENOSYS, "ENOSYS"),
        (libc::EACCES, "EACCES"),
        (libc::ENOMEM, "ENOMEM"),
        (libc::EOPNOTSUPP, "EOPNOTSUPP"),
    ] {
        let mut server = without_io_uring(errno, || Server::start(&["--io", "auto", "--shards", "2"]));
        let mut subscriber = server.connect("/t/x");
        server.connect("/t/x").send_text("hello");
        subscriber.expect(text("hello"));
        subscriber.leave();
        let info = format!("ringhub_io_backend_info{{backend=\"epoll\",reason=\"io_uring_setup {name}\"}} 1");
        assert_eq!(backend_info(&server), info);
        let log = server.end();
        let warnings: Vec<&str> = log.lines().filter(|line| line.contains("WARN")).collect();
        assert!(matches!(warnings[..], [_]), "{log}");
        let refused = format!("io_uring cannot be used: io_uring_setup fails with {name}.");
        assert!(warnings[0].contains(&refused) && warnings[0].contains("on epoll instead"), "{log}");
        for way in ["Docker", "Podman", "compose", "Kubernetes", "systemd"] {
            assert!(warnings[0].contains(way), "{way}: {log}");
        }
        let report = log
            .lines()
            .find(|line| line.contains("INFO") && line.contains(" serves on "))
            .expect("a report of the start");
        assert!(report.contains(&format!("epoll (io_uring: io_uring_setup fails with {name})")), "{report}");
    }
}

/// A filter may let a ring be set up, and refuse the next call.
#[test]
fn each_call_that_is_refused_alone_is_named() {
    if let Err(error) = ChosenBackend::choose(IoChoice::Uring) {
        println!("skipped, since there is only one backend here: {error}");
        return;
    }
    for (call, name) in [
        (libc::SYS_io_uring_setup, "io_uring_setup"),
        (libc::SYS_io_uring_register, "io_uring_register"),
        (libc::SYS_io_uring_enter, "io_uring_enter"),
    ] {
        let last_line = without(&[call], libc::EPERM, || run(&["check-config", "--io", "auto"]));
        let (text, told) = (String::from_utf8(last_line.stdout).unwrap(), String::from_utf8(last_line.stderr).unwrap());
        let refused = format!("{name} fails with EPERM");
        assert_eq!(text.lines().last(), Some(&*format!("# epoll (io_uring: {refused})")));
        assert!(told.contains(&refused) && told.contains("ringhub seccomp-profile"), "{told}");
        let server = without(&[call], libc::EPERM, || Server::start(&["--io", "auto"]));
        let info = format!("ringhub_io_backend_info{{backend=\"epoll\",reason=\"{name} EPERM\"}} 1");
        assert_eq!(backend_info(&server), info);
        let strict = without(&[call], libc::EPERM, || run(&["--io", "uring", "--listen", "127.0.0.1:0"]));
        let told = String::from_utf8(strict.stderr).unwrap();
        assert!(strict.status.code() == Some(1) && told.contains(&refused), "{told}");
    }
}

/// The error is one line, and comes before anything listens.
#[test]
fn a_server_that_must_have_io_uring_does_not_start_without_it() {
    for (errno, named) in [
        (libc::EPERM, ["fails with EPERM", "seccomp="]),
        (libc::ENOSYS, ["fails with ENOSYS", "seccomp"]),
        (libc::ENOMEM, ["fails with ENOMEM", "memlock"]),
        (libc::EOPNOTSUPP, ["fails with EOPNOTSUPP", "seccomp"]),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // The address is in use. The error about io_uring must come first.
        let taken = listener.local_addr().unwrap().to_string();
        let output = without_io_uring(errno, || run(&["--io", "uring", "--listen", &taken]));
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(matches!(output.status.code(), Some(1)) && output.stdout.is_empty(), "{}: {log}", output.status);
        let ways_on = ["The likely cause: ", "The remedy: ", "`--io auto`", "`--io epoll`"];
        assert!(named.iter().chain(&ways_on).all(|word| log.contains(word)), "{log}");
        assert!(!log.contains("panicked") && !log.contains("unconfined"), "{log}");
        assert_eq!(log.lines().count(), 1, "{log}");
        let checked = without_io_uring(errno, || run(&["check-config", "--io", "uring"]));
        assert_eq!((checked.status.code(), String::from_utf8_lossy(&checked.stderr)), (Some(1), log));
    }
}

fn run(arguments: &[&str]) -> Output {
    let mut command = program();
    command.args(arguments);
    run_to_end(command)
}

#[test]
fn check_config_names_the_backend() {
    let last_line = |arguments: &[&str]| {
        let output = run(arguments);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{text}");
        text.lines().last().unwrap_or_default().to_string()
    };
    assert_eq!(last_line(&["check-config", "--io", "epoll"]), "# epoll (by the setting io)");
    let fallback = without_io_uring(libc::EPERM, || last_line(&["check-config", "--io", "auto"]));
    assert_eq!(fallback, "# epoll (io_uring: io_uring_setup fails with EPERM)");
}

#[test]
fn a_server_set_to_epoll_does_not_warn() {
    let mut server = Server::start(&["--io", "epoll"]);
    assert_eq!(backend_info(&server), "ringhub_io_backend_info{backend=\"epoll\",reason=\"setting\"} 1");
    let log = server.end();
    assert!(!log.contains("WARN") && log.contains("epoll (by the setting io)"), "{log}");
}

/// The same corpus of client bytes goes to a server of each backend. The answers, the ends of the connections, and the
/// messages of a subscriber to the same topic are equal.
#[test]
fn both_backends_answer_with_the_same_bytes() {
    if let Err(error) = ChosenBackend::choose(IoChoice::Uring) {
        println!("skipped, since there is only one backend here: {error}");
        return;
    }
    let outcomes = ["uring", "epoll"].map(|io| {
        let flags = ["--io", io, "--shards", "2", "--send-buffer", "8KiB", "--max-backlog", "64MiB", "--close-timeout"];
        let mut server = Server::start(&[&flags[..], &["60s", "--ping-interval", "0"]].concat());
        let outcomes: Vec<Outcome> = corpus().into_iter().map(|script| script.play(&server)).collect();
        server.end();
        outcomes
    });
    for (uring, epoll) in outcomes[0].iter().zip(&outcomes[1]) {
        assert!(uring == epoll, "on io_uring: {uring:?}\non epoll: {epoll:?}");
        assert!(uring.has_answer(), "{uring:?}");
    }
}

/// A client's actions.
enum Step {
    /// Bytes in one write.
    Send(Vec<u8>),
    /// Bytes in parts of this length, with pauses now and then, so that the parts arrive one by one.
    Trickle(Vec<u8>, usize),
    /// The end of the client's side.
    Finish,
    /// A pause without reading, in which the server sends.
    Wait,
}

/// The last action of a client.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    /// The client reads to the end of the connection.
    Read,
    /// The client resets the connection.
    Reset,
}

struct Script {
    name: &'static str,
    /// The bytes that open the connection; `None` for an opening request at the script's topic.
    opening: Option<Vec<u8>>,
    steps: Vec<Step>,
    last: Last,
}

/// The bytes that the client received, and those that a subscriber of the same topic received.
#[derive(PartialEq, Eq)]
struct Outcome {
    name: &'static str,
    received: Vec<u8>,
    end: String,
    witnessed: Vec<u8>,
}

impl Outcome {
    fn has_answer(&self) -> bool {
        !self.received.is_empty() || !self.witnessed.is_empty()
    }
}

impl std::fmt::Debug for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Outcome { name, received, end, witnessed } = self;
        let shown = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned();
        write!(f, "{name}: {} bytes, {end}, {} witnessed", received.len(), witnessed.len())?;
        write!(f, "\n{:?}\n{:?}", shown(received), shown(witnessed))
    }
}

impl Script {
    fn play(self, server: &Server) -> Outcome {
        let Script { name, opening, steps, last } = self;
        let target = format!("/t/{}", name.replace(' ', "-"));
        let witness = open_witness(server, &format!("{target}?mode=sub"));
        let mut stream = dial_with(server.address(), Some(16 * 1_024));
        stream.write_all(&opening.unwrap_or_else(|| upgrade_request(&target).into_bytes())).unwrap();
        for step in steps {
            // The server may have ended the connection because of an earlier step.
            match step {
                Step::Send(bytes) => drop(stream.write_all(&bytes)),
                Step::Trickle(bytes, length) => trickle(&mut stream, &bytes, length),
                Step::Finish => {
                    settle(server);
                    stream.shutdown(Shutdown::Write).unwrap();
                }
                Step::Wait => thread::sleep(Duration::from_millis(50)),
            }
        }
        let (mut received, mut end) = (Vec::new(), "reset by the client".to_string());
        match last {
            Last::Read => end = read_to_end(&mut stream, &mut received),
            Last::Reset => reset(stream),
        }
        let witnessed = end_witness(server, witness, &target);
        Outcome { name, received: without_dates(&received), end, witnessed }
    }
}

/// Returns when each shard has sent what it owes for all that has arrived: an end without a goodbye gives up the rest.
/// A shard takes a publication in a turn, before which it has received what arrived earlier; the homes of these topics
/// are on all shards.
fn settle(server: &Server) {
    for topic in 0..8 {
        let answer = exchange(server.address(), &post(&format!("/t/settled-{topic}"), "text/plain", "x"));
        assert_eq!(answer.status(), 202, "{answer:?}");
    }
}

fn trickle(stream: &mut TcpStream, bytes: &[u8], length: usize) {
    for (number, part) in bytes.chunks(length).enumerate() {
        if stream.write_all(part).is_err() {
            return;
        }
        if number % 8 == 0 {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Reads until the connection ends. Returns how it ended.
fn read_to_end(stream: &mut TcpStream, received: &mut Vec<u8>) -> String {
    match stream.read_to_end(received) {
        Ok(_) => "end".into(),
        Err(error) => error.kind().to_string(),
    }
}

/// Opens a subscriber with a small receive buffer, which does not read yet.
fn open_witness(server: &Server, target: &str) -> TcpStream {
    let mut witness = dial_with(server.address(), Some(4_096));
    witness.write_all(upgrade_request(target).as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        witness.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    witness
}

/// Publishes a last message, and returns all that the witness has received up to this message.
fn end_witness(server: &Server, mut witness: TcpStream, target: &str) -> Vec<u8> {
    const LAST: &[u8] = b"\x81\x11the last of these";
    // The server handles the messages of a reset connection within a moment, which a client cannot observe.
    thread::sleep(Duration::from_millis(100));
    let answer = exchange(server.address(), &post(target, "text/plain", "the last of these"));
    assert_eq!(answer.status(), 202, "{answer:?}");
    let (mut received, mut chunk) = (Vec::new(), [0; 8_192]);
    while !received.ends_with(LAST) {
        let count = witness.read(&mut chunk).unwrap();
        assert!(count > 0, "the witness was disconnected");
        received.extend_from_slice(&chunk[..count]);
    }
    received
}

/// Returns answers of HTTP without the lines that differ between any two answers: the date, the place of a message, and
/// the length of that. Other bytes stay as they are.
fn without_dates(bytes: &[u8]) -> Vec<u8> {
    let lines = bytes.split_inclusive(|&octet| octet == b'\n');
    let is_dated = |line: &[u8]| {
        let line = line.to_ascii_lowercase();
        [&b"date: "[..], b"content-length: ", b"{\"topic\""].iter().any(|start| line.starts_with(start))
    };
    lines.filter(|line| !is_dated(line)).flatten().copied().collect()
}

fn bye() -> Vec<u8> {
    frame(OpCode::Close, true, b"\x03\xe8bye")
}

fn message(number: usize) -> Vec<u8> {
    frame(OpCode::Text, true, format!("message {number}").as_bytes())
}

fn messages(count: usize) -> Vec<u8> {
    (0..count).flat_map(message).collect()
}

/// Returns a script that opens a WebSocket and reads to its end.
fn script(name: &'static str, steps: Vec<Step>) -> Script {
    Script { name, opening: None, steps, last: Last::Read }
}

/// Returns a script of requests.
fn requests(name: &'static str, bytes: Vec<u8>, steps: Vec<Step>) -> Script {
    Script { name, opening: Some(bytes), steps, last: Last::Read }
}

fn corpus() -> Vec<Script> {
    use Step::{Finish, Send, Trickle, Wait};
    let fragments = [
        frame(OpCode::Text, false, "frag".as_bytes()),
        frame(OpCode::Ping, true, b"between"),
        frame(OpCode::Continuation, false, b""),
        frame(OpCode::Continuation, true, b"ments"),
        bye(),
    ]
    .concat();
    let pings: Vec<u8> =
        (0..3_000).flat_map(|number: usize| frame(OpCode::Ping, true, &pattern(number, 125))).collect();
    let large = frame(OpCode::Binary, true, &pattern(1, 1 << 20));
    let many_large: Vec<u8> = (0..8).flat_map(|seed| frame(OpCode::Binary, true, &pattern(seed, 300_000))).collect();
    let unmasked = b"\x81\x05hello".to_vec();
    let reserved = [vec![0xb1], frame(OpCode::Text, true, b"x")[1..].to_vec()].concat();
    let half = [messages(3), frame(OpCode::Text, true, &pattern(1, 500))[..200].to_vec()].concat();
    let published = post("/t/posts", "text/plain", "by a request");
    let two_requests = [published.as_bytes(), request("GET", "/nothing").as_bytes()].concat();
    let closing = b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".to_vec();
    vec![
        script("one write", vec![Send([message(0), bye()].concat())]),
        script("behind the opening", vec![Trickle([messages(20), bye()].concat(), 1)]),
        script("fragments", vec![Send(fragments.clone())]),
        script("fragments by the byte", vec![Trickle(fragments, 1)]),
        script("many at once", vec![Send([messages(5_000), bye()].concat())]),
        script("many in odd parts", vec![Trickle([messages(2_000), bye()].concat(), 113)]),
        script("a large message", vec![Send([large.clone(), bye()].concat())]),
        script("large messages in parts", vec![Trickle([many_large, bye()].concat(), 7_001)]),
        script(
            "a message that is too large",
            vec![Send(frame(OpCode::Binary, true, &pattern(1, (1 << 20) + 1))), Finish],
        ),
        script("no UTF-8", vec![Send(frame(OpCode::Text, true, b"\xff")), Finish]),
        script("no mask", vec![Send(unmasked), Finish]),
        script("a reserved bit", vec![Send(reserved), Finish]),
        script("pings without reading", vec![Send(pings), Wait, Send(bye())]),
        script("an end without a close", vec![Send(messages(10)), Finish]),
        script("an end within a frame", vec![Send(half.clone()), Finish]),
        script("an end within a header", vec![Send(messages(2)), Send(vec![0x81]), Wait, Finish]),
        Script { last: Last::Reset, ..script("a reset behind messages", vec![Send(messages(50))]) },
        Script { last: Last::Reset, ..script("a reset within a frame", vec![Wait, Send(half), Wait]) },
        requests("posts", two_requests, vec![Trickle(closing.clone(), 3)]),
        requests("health", closing, vec![]),
        requests("no request", b"what is this\r\n\r\n".to_vec(), vec![Finish]),
        requests("half a request", upgrade_request("/t/half").as_bytes()[..40].to_vec(), vec![Wait, Finish]),
    ]
}

/// Clients that leave while their sockets are armed for output leave nothing behind in the backend.
#[test]
fn nothing_is_left_on_epoll_of_clients_that_leave() {
    let server = Server::start(&["--io", "epoll", "--send-buffer", "8KiB"]);
    let mut publisher = server.connect("/t/x?mode=pub");
    for round in 0..10 {
        let mut subscribers: Vec<TcpStream> = (0..20).map(|_| open_witness(&server, "/t/x?mode=sub")).collect();
        publisher.send_binary(&pattern(round, 500_000));
        server.counts_until("all have a backlog", |counts| counts.get("slow_consumers") == 20);
        reset(subscribers.pop().unwrap());
        drop(subscribers);
        server.expect_counts(&[("connections_open", 1), ("polls_armed", 1), ("slow_consumers", 0)]);
    }
    let mut idle: Vec<TcpStream> = (0..20).map(|_| dial(server.address())).collect();
    idle.iter_mut().for_each(|stream| stream.write_all(b"GET /t/x HTTP/1.1\r\n").unwrap());
    drop(idle);
    publisher.expect_nothing();
    publisher.leave();
    server.expect_counts(&[("connections_open", 0), ("polls_armed", 0)]);
}
