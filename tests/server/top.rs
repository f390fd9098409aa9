//! `/debug/top`: the busiest topics and the largest backlogs, and who may read them.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::support::{Client, Response, Server, ask, dial, dial_with, exchange, post, request};

/// The header line of the operator.
const BOSS: &str = "Authorization: Bearer boss\r\n";

/// Starts a server with these flags, and a token for its administration.
fn start(flags: &[&str]) -> Server {
    Server::start(&[flags, &["--admin-tokens", "boss"]].concat())
}

fn get(server: &Server, query: &str, lines: &str) -> Response {
    let request = format!("GET /debug/top{query} HTTP/1.1\r\nHost: a\r\n{lines}Connection: close\r\n\r\n");
    exchange(server.address(), &request)
}

fn top(server: &Server) -> Value {
    // All requests within a second get the same numbers.
    thread::sleep(Duration::from_millis(1_100));
    let response = get(server, "", BOSS);
    assert_eq!((response.status(), response.header("content-type")), (200, Some("application/json")), "{response:?}");
    assert_eq!(response.header("cache-control"), Some("no-store"));
    serde_json::from_str(&response.body).unwrap()
}

/// The topic with the most deliveries is first, whichever shards its subscribers are on.
#[test]
fn busy_topics_are_found() {
    let server = start(&["--shards", "3"]);
    let subscribers: Vec<Client> = (0..90).map(|_| server.connect("/t/busy?mode=sub")).collect();
    let others: Vec<Client> = (0..20).map(|_| server.connect("/t/other?mode=sub")).collect();
    let mut poster = dial(server.address());
    for number in 0..30 {
        assert_eq!(ask(&mut poster, &post("/t/busy", "text/plain", "xyz")).status(), 202);
        if number % 3 == 0 {
            assert_eq!(ask(&mut poster, &post("/t/other", "text/plain", "xyz")).status(), 202);
        }
    }
    server.counts_until("all deliveries", |counts| counts.get("deliveries_total") == 30 * 90 + 10 * 20);
    let top = top(&server);
    assert_eq!(top["shards_silent"], 0);
    let topics = top["topics"].as_array().unwrap();
    let names: Vec<&str> = topics.iter().map(|topic| topic["topic"].as_str().unwrap()).collect();
    assert_eq!(names[..1], ["busy"], "{top}");
    // A shard with fewer than 16 subscribers of a topic counts one walk in 16, 16 times.
    let deliveries = topics[0]["deliveries"].as_u64().unwrap();
    assert!((1_500..=4_500).contains(&deliveries), "{top}");
    assert!(topics[0]["bytes"].as_u64() > topics[0]["messages"].as_u64(), "{top}");
    drop((subscribers, others));
}

/// A connection that does not read is there with its address, its backlog and its age, and is gone later.
#[test]
fn backlogs_are_found() {
    let flags = ["--shards", "2", "--send-buffer", "4096", "--max-backlog", "8MiB", "--ping-interval", "0"];
    let server = start(&flags);
    let laggard = Client::open(dial_with(server.address(), Some(4_096)), "/t/x?mode=sub", &[]).unwrap();
    let quick = server.connect("/t/y?mode=sub");
    let mut poster = dial(server.address());
    for _ in 0..20 {
        assert_eq!(ask(&mut poster, &post("/t/x", "text/plain", &"x".repeat(50_000))).status(), 202);
    }
    server.counts_until("a backlog", |counts| counts.get("slow_consumers") == 1);
    let begun = Instant::now();
    let stream = laggard.into_stream();
    let peer = stream.local_addr().unwrap().to_string();
    let found = top(&server);
    for kind in ["backlogs_largest", "backlogs_oldest"] {
        let backlogs = found[kind].as_array().unwrap();
        assert_eq!(backlogs.len(), 1, "{found}");
        assert_eq!(backlogs[0]["peer"].as_str(), Some(&*peer), "{found}");
        assert!(backlogs[0]["bytes"].as_u64().unwrap() >= 50_000 && backlogs[0]["messages"].as_u64().unwrap() > 0);
        let age = backlogs[0]["age_ms"].as_u64().unwrap();
        assert!(age >= 1_000 && age <= begun.elapsed().as_millis() as u64 + 5_000, "{found}");
    }
    let text = get(&server, "?format=text", BOSS);
    assert_eq!(text.header("content-type"), Some("text/plain; charset=utf-8"));
    assert!(text.body.contains("largest backlogs") && text.body.contains(&peer), "{}", text.body);
    drop(stream);
    server.expect_counts(&[("connections_open", 1), ("slow_consumers", 0)]);
    assert_eq!(top(&server)["backlogs_largest"].as_array().unwrap().len(), 0);
    drop(quick);
}

/// A name of a topic cannot move the cursor of the operator's terminal.
#[test]
fn names_are_escaped_in_the_table() {
    let server = start(&["--shards", "1"]);
    let subscribers: Vec<Client> = (0..20).map(|_| server.connect("/t/a%22b?mode=sub")).collect();
    assert_eq!(ask(&mut dial(server.address()), &post("/t/a%22b", "text/plain", "m")).status(), 202);
    server.expect_counts(&[("deliveries_total", 20)]);
    thread::sleep(Duration::from_millis(1_100));
    let text = get(&server, "?format=text", BOSS);
    assert!(text.body.contains("a\\\"b"), "{}", text.body);
    drop(subscribers);
}

/// Only the administration sees clients and topics; without its token nobody does.
#[test]
fn the_answer_is_for_the_administration() {
    let server = start(&["--metrics-tokens", "hush", "--publish-tokens", "other"]);
    assert_eq!(get(&server, "", "").status(), 401);
    for token in ["other", "hush"] {
        assert_eq!(get(&server, "", &format!("Authorization: Bearer {token}\r\n")).status(), 403);
    }
    assert_eq!(get(&server, "", "Authorization: Bearer guess\r\n").status(), 401);
    assert_eq!(get(&server, "?access_token=boss", "").status(), 401);
    assert_eq!(get(&server, "", BOSS).status(), 200);
    let refused = get(&server, "?format=xml", BOSS);
    assert_eq!((refused.status(), &*refused.error()), (400, "format is json or text"));
    let refused = exchange(server.address(), &request("POST", "/debug/top"));
    assert_eq!((refused.status(), refused.header("allow")), (405, Some("GET, HEAD, OPTIONS")));
    let without = Server::start(&[]);
    assert_eq!(get(&without, "", "").status(), 403);
}

/// With an address of its own for the metrics, the answer is there and not at the address of the clients.
#[test]
fn the_answer_is_where_the_metrics_are() {
    let server = start(&["--metrics-listen", "127.0.0.1:0"]);
    let refused = get(&server, "", BOSS);
    assert_eq!(refused.status(), 404, "{refused:?}");
    let notes = server.notes();
    let address = notes.split("http://").last().and_then(|rest| rest.split('/').next()).unwrap().parse().unwrap();
    let ask = |path: &str| exchange(address, &format!("GET {path} HTTP/1.1\r\nHost: a\r\n{BOSS}\r\n"));
    assert_eq!((ask("/debug/top").status(), ask("/t/x").status()), (200, 404));
}
