//! Receipts: a publisher that asks for one is told what became of its message for every subscriber.

use std::{fs, net::SocketAddr, path::PathBuf};

use serde_json::{Value, json};

use crate::support::{
    Client, RESTART, Received, Server, clean, dial, dial_with, exchange, post, program, published, read_response, text,
};

/// Publishes, and returns the receipt.
#[track_caller]
fn receipt(address: SocketAddr, topic: &str, body: &str) -> Value {
    let response = exchange(address, &post(&format!("/t/{topic}?receipt=true"), "text/plain", body));
    published(&response);
    let answer: Value = serde_json::from_str(&response.body).unwrap();
    answer["receipt"].clone()
}

/// Returns the numbers of a receipt: matched, sent, queued, dropped, closed.
#[track_caller]
fn counts(receipt: &Value) -> [u64; 5] {
    let members = receipt.as_object().unwrap_or_else(|| panic!("{receipt}"));
    let names: Vec<&str> = members.keys().map(String::as_str).collect();
    assert_eq!(names.len(), 5, "{receipt}");
    let counts = ["matched", "sent", "queued", "dropped", "closed"];
    let counts = counts.map(|name| receipt[name].as_u64().unwrap_or_else(|| panic!("{receipt}")));
    assert_eq!(counts[0], counts[1..].iter().sum::<u64>(), "each subscriber counts once: {receipt}");
    counts
}

fn talking(server: &Server) -> Client {
    Client::open_with(dial(server.address()), "/ws", &["ringhub.v1"], &[]).unwrap()
}

#[test]
fn a_receipt_counts_the_subscribers_of_all_shards_and_protocols() {
    let server = Server::start(&["--shards", "3"]);
    assert_eq!(counts(&receipt(server.address(), "news", "nobody")), [0; 5]);
    let mut raw: Vec<Client> = (0..10).map(|_| server.connect("/t/news")).collect();
    let mut others: Vec<Client> = (0..5).map(|_| talking(&server)).collect();
    for client in &mut others {
        client.send_text(r#"{"subscribe":{"topic":"news"}}"#);
        assert!(matches!(client.receive(), Received::Text(frame) if frame.starts_with("{\"subscribed\"")));
    }
    let elsewhere = server.connect("/t/other?mode=sub");
    let publisher = server.connect("/t/news?mode=pub");
    assert_eq!(counts(&receipt(server.address(), "news", "all")), [15, 15, 0, 0, 0]);
    raw.iter_mut().for_each(|client| client.expect(text("all")));
    for client in &mut others {
        assert!(matches!(client.receive(), Received::Text(frame) if frame.ends_with("\"data\":\"all\"}}")));
    }
    // A publisher that is a subscriber does not get its own message.
    others[0].send_text(r#"{"publish":{"id":3,"topic":"news","data":"mine","receipt":true}}"#);
    let Received::Text(answer) = others[0].receive() else { panic!("no answer") };
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["published"]["offset"], 3);
    assert_eq!(counts(&answer["published"]["receipt"]), [14, 14, 0, 0, 0]);
    drop((elsewhere, publisher));
    // Without the query there is no receipt.
    for target in ["/t/news", "/t/news?receipt=false"] {
        let response = exchange(server.address(), &post(target, "text/plain", "x"));
        assert!(!response.body.contains("receipt"), "{response:?}");
    }
    assert_eq!(exchange(server.address(), &post("/t/news?receipt=yes", "text/plain", "x")).status(), 400);
    server.expect_counts(&[("receipts_total{outcome=\"complete\"}", 3)]);
}

/// A subscriber that stalls has a backlog, and is closed when the backlog is beyond its limit.
#[test]
fn receipts_tell_of_a_subscriber_that_stalls() {
    let server = Server::start(&["--shards", "2", "--max-backlog", "2MiB", "--send-buffer", "64KiB"]);
    let mut reader = server.connect("/t/x?mode=sub");
    let stalled = Client::open(dial_with(server.address(), Some(4_096)), "/t/x?mode=sub", b"").unwrap();
    let body = "x".repeat(100_000);
    let mut seen = Vec::new();
    for _ in 0..200 {
        let counts = counts(&receipt(server.address(), "x", &body));
        reader.expect(text(&body));
        if seen.last() != Some(&counts) {
            seen.push(counts);
        }
        if counts[0] == 1 {
            break;
        }
    }
    // The first message, or the first few, may have room in the buffers of both sides.
    let of_stalled = [[2, 1, 1, 0, 0], [2, 1, 0, 0, 1], [1, 1, 0, 0, 0]];
    assert!(seen == of_stalled || seen[1..] == of_stalled && seen[0] == [2, 2, 0, 0, 0], "{seen:?}");
    drop(stalled);
}

/// A settings' file, which a drop removes.
struct File(PathBuf);

impl Drop for File {
    fn drop(&mut self) {
        fs::remove_file(&self.0).unwrap();
    }
}

#[test]
fn receipts_tell_what_a_policy_has_dropped() {
    let file = File(std::env::temp_dir().join(format!("ringhub-receipts-{}.toml", std::process::id())));
    let rule = "[[topics]]\nmatch = \"x\"\nslow = \"drop_newest\"\nbacklog_messages = 3\n";
    fs::write(&file.0, rule).unwrap();
    let mut command = clean(program());
    command.args(["--shards", "2", "--send-buffer", "64KiB", "--config"]).arg(&file.0);
    let server = Server::start_command(command);
    let mut reader = server.connect("/t/x?mode=sub");
    let stalled = dial_with(server.address(), Some(4_096));
    let stalled = Client::open(stalled, "/t/x?mode=sub&lag=silent", b"").unwrap();
    let body = "x".repeat(100_000);
    let mut seen = Vec::new();
    for _ in 0..60 {
        seen.push(counts(&receipt(server.address(), "x", &body)));
        reader.expect(text(&body));
    }
    let (sent, queued, dropped) = ([2, 2, 0, 0, 0], [2, 1, 1, 0, 0], [2, 1, 0, 1, 0]);
    let first = seen.iter().position(|counts| *counts == dropped).unwrap_or_else(|| panic!("{seen:?}"));
    assert!(seen[..first].iter().all(|counts| *counts == sent || *counts == queued), "{seen:?}");
    assert!(seen[..first].contains(&queued), "{seen:?}");
    assert!(seen[first..].iter().filter(|counts| **counts == dropped).count() > 40, "{seen:?}");
    drop(stalled);
}

#[test]
fn a_repetition_has_the_first_receipt() {
    let server = Server::start(&["--shards", "2"]);
    let mut subscriber = server.connect("/t/x?mode=sub");
    let publish = |target: &str, key: &str| {
        let head = format!("POST {target} HTTP/1.1\r\nHost: a\r\nIdempotency-Key: {key}\r\nContent-Length: 1\r\n\r\nm");
        let response = exchange(server.address(), &head);
        assert_eq!(response.status(), 202, "{response:?}");
        response.body
    };
    let first = publish("/t/x?receipt=true", "one");
    subscriber.expect(crate::support::binary(b"m"));
    let one = json!({"matched": 1, "sent": 1, "queued": 0, "dropped": 0, "closed": 0});
    assert_eq!(serde_json::from_str::<Value>(&first).unwrap()["receipt"], one);
    subscriber.leave();
    assert_eq!(publish("/t/x?receipt=true", "one"), first, "although the subscriber has left");
    assert_eq!(publish("/t/x", "one"), first);
    publish("/t/x", "two");
    let repeated: Value = serde_json::from_str(&publish("/t/x?receipt=true", "two")).unwrap();
    assert_eq!((&repeated["offset"], &repeated["receipt"]), (&json!(2), &json!({"error": "not_asked"})));
}

/// A publisher that leaves before its receipt disturbs nobody.
#[test]
fn publishers_may_leave_before_their_receipts() {
    use std::io::Write as _;
    let server = Server::start(&["--shards", "2"]);
    let mut subscriber = server.connect("/t/x?mode=sub");
    for number in 0..50 {
        let mut stream = dial(server.address());
        stream.write_all(post("/t/x?receipt=true", "text/plain", &number.to_string()).as_bytes()).unwrap();
        drop(stream);
        let mut client = talking(&server);
        client.send_text(r#"{"publish":{"id":1,"topic":"x","data":"left","receipt":true}}"#);
        client.leave();
    }
    assert_eq!(counts(&receipt(server.address(), "x", "last")), [1, 1, 0, 0, 0]);
    let mut received = 0;
    while subscriber.receive() != text("last") {
        received += 1;
    }
    assert!(received >= 50, "{received}");
}

/// A server that leaves answers the receipts of messages that it has published.
#[test]
fn a_server_that_leaves_answers_receipts() {
    use std::io::Write as _;

    use rustix::process::Signal;
    let mut server = Server::start(&["--shards", "2"]);
    let mut subscribers: Vec<Client> = (0..4).map(|_| server.connect("/t/x?mode=sub")).collect();
    let mut stream = dial(server.address());
    stream.write_all(post("/t/x?receipt=true", "text/plain", "before").as_bytes()).unwrap();
    subscribers[0].expect(text("before"));
    server.signal(Signal::TERM);
    let response = read_response(&mut stream, &[], true);
    published(&response);
    let answer: Value = serde_json::from_str(&response.body).unwrap();
    let [matched, sent, queued, dropped, _] = counts(&answer["receipt"]);
    assert_eq!((matched, sent + queued, dropped), (4, 4, 0));
    subscribers[1..].iter_mut().for_each(|client| client.expect(text("before")));
    drop((subscribers, stream));
    assert!(server.wait().success());
}

/// In a drain the connection of a publisher is closed when what it has published is answered.
#[test]
fn a_drain_waits_for_the_answers_to_a_publisher() {
    use rustix::process::Signal;
    let file = File(std::env::temp_dir().join(format!("ringhub-drain-{}.toml", std::process::id())));
    fs::write(&file.0, "[[topics]]\nmatch = \"paced\"\ndelivery_interval = \"3s\"\n").unwrap();
    let mut command = clean(program());
    command.args(["--shards", "2", "--drain-timeout", "60s", "--config"]).arg(&file.0);
    let mut server = Server::start_command(command);
    let mut subscriber = server.connect("/t/paced?mode=sub");
    let mut publisher = talking(&server);
    for id in [1, 2] {
        publisher.send_text(&format!(r#"{{"publish":{{"id":{id},"topic":"paced","data":"{id}","receipt":true}}}}"#));
        if id == 2 {
            // The next delivery, and so the receipt, is due three seconds after the first, or when the server leaves.
            server.expect_counts(&[("messages_in_total", 2)]);
            server.signal(Signal::TERM);
        }
        subscriber.expect(text(&id.to_string()));
        let Received::Text(answer) = publisher.receive() else { panic!("message {id} is not answered") };
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!((&answer["published"]["id"], &answer["published"]["offset"]), (&json!(id), &json!(id)));
        assert_eq!(counts(&answer["published"]["receipt"])[0], 1, "{answer}");
    }
    for mut client in [subscriber, publisher] {
        client.expect_close(1012, RESTART);
    }
    assert!(server.wait().success());
}
