//! The sum that `check-config` prints bounds the memory of a server, and is not much larger than that memory.

use std::{
    collections::HashMap,
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    process::Command,
};

use ringhub::proto::OpCode;

use crate::support::{Client, Counts, Server, binary_path, clean, dial, dial_with, frame, pattern, read_response};

/// The settings of a server with one shard and room for 100 connections.
const LIMITS: &[&str] = &[
    "--shards=1",
    "--max-connections=100",
    "--max-http-connections=20",
    "--max-message=256KiB",
    "--max-backlog=2MiB",
    "--max-gathered=2MiB",
    "--max-unfinished=16MiB",
    "--max-bodies=4MiB",
    "--max-idle-topics=100",
    "--max-subscriptions=1",
    // The test publishes nothing with a key.
    "--max-idempotency=0",
];

/// How many subscribers read nothing.
const SUBSCRIBERS: usize = 82;
const MESSAGE: usize = 16_000;
/// How many messages of this size are published to each subscriber: a little less than its backlog's limit.
const MESSAGES: usize = 122;
/// How many of the subscribers have begun a message of nearly the largest size.
const BEGUN: usize = 60;
const UNFINISHED: usize = 250_000;
const BODIES: usize = 15;

#[test]
fn a_server_at_all_its_limits_needs_what_check_config_says() {
    let worst = worst_case();
    assert!((200.0..400.0).contains(&worst), "{worst} MiB");
    let times = ["--ping-interval=0", "--message-timeout=0", "--body-timeout=1h", "--handshake-timeout=1h"];
    let server = Server::start(&[LIMITS, &times, &["--send-buffer=4096"]].concat());
    let begun = frame(OpCode::Binary, true, &pattern(0, UNFINISHED + 1));
    let mut subscribers: Vec<Client> = Vec::new();
    for number in 0..SUBSCRIBERS {
        let stream = dial_with(server.address(), Some(4_096));
        let mut client = Client::open(stream, &format!("/t/{number}"), &[]).unwrap();
        if number < BEGUN {
            client.send_raw(&begun[..begun.len() - 1]);
        }
        subscribers.push(client);
    }
    // A socket may hold a megabyte, so the test waits until the server has received the bytes.
    let unfinished = (BEGUN * (begun.len() - 1)) as u64;
    server.counts_until("all messages have begun", |counts| counts.get("bytes_in_total") >= unfinished);
    let mut publisher = dial(server.address());
    for number in 0..SUBSCRIBERS * MESSAGES {
        post(&mut publisher, &format!("/t/{}", number % SUBSCRIBERS), &pattern(number, MESSAGE));
    }
    let bodies: Vec<TcpStream> = (0..BODIES).map(|_| begin_body(&server)).collect();
    let heads: Vec<TcpStream> = (0..100 - SUBSCRIBERS - BODIES - 1).map(|_| begin_head(&server)).collect();
    server.counts_until("all bodies have begun", |counts| counts.get("http_requests_total") >= (BODIES + 1) as u64);
    let counts = server.counts();
    assert_eq!(
        (counts.get("slow_closed_total"), counts.get("unfinished_closed_total")),
        (0, 0),
        "no connection was closed"
    );
    assert_eq!(counts.get("slow_consumers"), SUBSCRIBERS as u64, "every subscriber is owed something");
    let peak = peak_mib(server.pid().as_raw_nonzero().get());
    drop((subscribers, bodies, heads));
    println!("{peak:.1} MiB at the most, of {worst:.1} MiB");
    // The test asks for no receipts, and the shard has memory for many.
    assert!((0.68 * worst..1.1 * worst).contains(&peak), "{peak} MiB at the most, where check-config says {worst}");
}

/// A route that keeps the requests of its connections, and one that does not.
const ROUTES: &str = r#"
    [[routes]]
    match = "/echo"
    handler = "echo"

    [[routes]]
    match = "/t/{topic...}"
    handler = "hub"
"#;

/// The number of connections of each kind of [`the_budget_weighs_what_check_config_says`].
const EACH: usize = 40;

/// The budget counts what clients hold, by kind, as `check-config` weighs it: opening requests that do not end,
/// requests that are kept, input of throttled clients, HTTP connections, and the tables of rates.
#[test]
fn the_budget_weighs_what_check_config_says() {
    let flags = [
        "--shards=1",
        "--max-connections=200",
        "--max-http-connections=50",
        "--max-memory=1GiB",
        "--max-message-rate=10/s",
        "--max-handshake-rate=1000000/s",
        "--rate-timeout=0",
        "--handshake-timeout=1h",
        "--idle-timeout=1h",
        "--ping-interval=0",
        "--message-timeout=0",
    ];
    let file = std::env::temp_dir().join(format!("ringhub-memory-{}.toml", std::process::id()));
    fs::write(&file, ROUTES).unwrap();
    let config = format!("--config={}", file.display());
    let flags = [&flags[..], &[&*config]].concat();
    let rows = rows_of(&flags);
    let row = |name: &str| *rows.get(name).unwrap_or_else(|| panic!("no row {name} in {rows:?}")) * f64::from(1 << 20);
    let server = Server::start(&flags);
    fs::remove_file(file).unwrap();
    let held = |kind: &str| server.counts().get(&format!("memory_bytes{{kind=\"{kind}\"}}")) as f64;
    let check = |kind: &str, least: f64, most: f64| {
        server.counts_until(kind, |counts| {
            let held = counts.get(&format!("memory_bytes{{kind=\"{kind}\"}}")) as f64;
            (least..=most).contains(&held)
        });
    };
    let each = |bytes: usize| (EACH * bytes) as f64;

    // Requests that are kept: their own size, and the slot.
    let kept: Vec<Client> = (0..EACH).map(|_| server.connect(&format!("/echo?{}", "x".repeat(7_000)))).collect();
    check("connections", each(7_000 + 512), row("connections"));
    check("openings", 0.0, 0.0);

    // Input of throttled clients: what one receive has taken.
    let flood = b"\x82\x80\0\0\0\0".repeat(10_922);
    let mut throttled: Vec<Client> = Vec::new();
    for number in 0..EACH {
        let mut client = server.connect("/t/x?mode=pub");
        client.send_raw(&flood);
        throttled.push(client);
        let is_so = |counts: &Counts| counts.get("connections_throttled") == number as u64 + 1;
        server.counts_until("the client is throttled", is_so);
    }
    check("input", each(60_000), row("input that waits") + row("received input"));

    // Opening requests that do not end.
    let heads: Vec<TcpStream> = (0..EACH).map(|_| begin_head(&server)).collect();
    check("openings", each(20 << 10), row("connections"));

    // HTTP connections. The connection that reads the metrics is one of them.
    let idle: Vec<TcpStream> = (0..EACH)
        .map(|_| {
            let mut stream = dial(server.address());
            post(&mut stream, "/t/x", b"x");
            stream
        })
        .collect();
    check("http", each(112 << 10), row("HTTP connections"));
    check("tables", 64.0, row("rates"));

    let all: f64 = ["connections", "input", "openings", "http"].into_iter().map(held).sum();
    assert!(all > each(7_512 + 60_000 + (20 << 10) + (112 << 10)), "{all}");
    drop((kept, throttled, heads, idle));
    check("openings", 0.0, 0.0);
    check("connections", 0.0, 0.0);
    check("input", 0.0, f64::from(64 << 16));
}

/// Returns the rows of memory in the output of `check-config`, in MiB.
fn rows_of(flags: &[&str]) -> HashMap<String, f64> {
    let output = clean(Command::new(binary_path())).arg("check-config").args(flags).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let rows = text.lines().filter_map(|line| {
        let (bytes, name) = line.trim_start_matches(['#', ' ']).split_once(" MiB  ")?;
        let name = name.split_once(":").map_or(name, |(name, _)| name);
        Some((name.trim().to_owned(), bytes.trim().parse().ok()?))
    });
    rows.collect()
}

/// Returns the sum at the end of the output of `check-config`.
fn worst_case() -> f64 {
    let output = clean(Command::new(binary_path())).arg("check-config").args(LIMITS).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find(|line| line.contains("MiB  in all")).unwrap_or_else(|| panic!("no sum in {text}"));
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Publishes a body and reads the answer.
fn post(stream: &mut TcpStream, target: &str, body: &[u8]) {
    let head = format!("POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    let response = read_response(stream, &[], true);
    assert_eq!(response.status(), 202, "{response:?}");
}

/// Sends all of a body but its last byte.
fn begin_body(server: &Server) -> TcpStream {
    let mut stream = dial(server.address());
    let body = pattern(1, 256 << 10);
    let head = format!("POST /t/body HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&body[..body.len() - 1]).unwrap();
    stream
}

/// Sends most of a head of nearly the largest size.
fn begin_head(server: &Server) -> TcpStream {
    let mut stream = dial(server.address());
    stream.write_all(format!("GET /t/head HTTP/1.1\r\nX: {}", "x".repeat(8_000)).as_bytes()).unwrap();
    stream
}

/// Returns the largest resident memory that a process has had.
fn peak_mib(pid: i32) -> f64 {
    let mut status = String::new();
    fs::File::open(format!("/proc/{pid}/status")).unwrap().read_to_string(&mut status).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a peak");
    line.split_ascii_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1_024.0
}
