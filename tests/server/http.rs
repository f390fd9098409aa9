//! Plain HTTP on the hub's port: publishing, health, readiness, and connections that have both HTTP requests and a
//! WebSocket.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use ringhub::proto::OpCode;

use crate::support::{
    Client, Server, binary, dial, exchange, post, published, read_response, take_response, text, upgrade_request,
};

#[test]
fn posted_messages_are_published() {
    let server = Server::start(&["--shards", "3"]);
    let mut subscriber = server.connect("/t/a%20b");
    for (offset, (content_type, body, is_text)) in [
        ("text/plain", "hello", true),
        ("application/json; charset=utf-8", "{}", true),
        ("application/x-www-form-urlencoded", "a=b", true),
        ("application/problem+json", "{}", true),
        ("TEXT/csv", "", true),
        ("application/octet-stream", "x", false),
        ("", "y", false),
    ]
    .into_iter()
    .enumerate()
    {
        let (topic, epoch, at) = published(&exchange(server.address(), &post("/t/a%20b", content_type, body)));
        assert_eq!((&*topic, at), ("a b", offset as u64 + 1));
        assert!(epoch > 0);
        subscriber.expect(if is_text { text(body) } else { binary(body.as_bytes()) });
    }
}

#[test]
fn a_thousand_pipelined_posts_are_answered_in_order() {
    let server = Server::start(&["--shards", "2"]);
    let mut subscriber = server.connect("/t/x");
    let mut stream = dial(server.address());
    let mut writer = stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        for number in 0..1_000 {
            writer.write_all(post("/t/x", "text/plain", &number.to_string()).as_bytes()).unwrap();
        }
    });
    let mut rest = Vec::new();
    for number in 0..1_000 {
        let (response, behind) = take_response(&mut stream, rest, true);
        rest = behind;
        assert_eq!(published(&response).2, number + 1);
    }
    writing.join().unwrap();
    (0..1_000).for_each(|number| subscriber.expect(text(&number.to_string())));
}

/// A proxy reuses its connections. So it may open a WebSocket on a connection on which messages were posted before.
#[test]
fn an_upgrade_after_posts_on_one_connection() {
    let server = Server::start(&["--shards", "2"]);
    let mut stream = dial(server.address());
    for offset in 1..=3 {
        stream.write_all(post("/t/x", "text/plain", "before").as_bytes()).unwrap();
        let (response, _) = take_response(&mut stream, Vec::new(), true);
        assert_eq!(published(&response).2, offset);
    }
    let mut client = Client::open(stream, "/t/x?echo=true", &[]).unwrap();
    client.send_text("after");
    client.expect(text("after"));
    published(&exchange(server.address(), &post("/t/x", "text/plain", "by another")));
    client.expect(text("by another"));
    server.expect_counts(&[("http_returned_total", 1), ("http_connections_open", 0), ("connections_open", 1)]);
}

/// The answers to the posts come first, and frames in the same write as the opening request are not lost.
#[test]
fn posts_an_upgrade_and_frames_in_one_write() {
    let server = Server::start(&[]);
    let mut subscriber = server.connect("/t/x");
    for _ in 0..20 {
        let mut stream = dial(server.address());
        let all = post("/t/x", "text/plain", "1") + &post("/t/x", "text/plain", "2") + &upgrade_request("/t/x");
        let bytes = [all.as_bytes(), &crate::support::frame(OpCode::Text, true, b"3")].concat();
        stream.write_all(&bytes).unwrap();
        let (first, rest) = take_response(&mut stream, Vec::new(), true);
        let (second, rest) = take_response(&mut stream, rest, true);
        assert_eq!(published(&first).2 + 1, published(&second).2);
        let head = read_to_end_of_head(&mut stream, rest);
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        ["1", "2", "3"].into_iter().for_each(|expected| subscriber.expect(text(expected)));
    }
}

fn read_to_end_of_head(stream: &mut TcpStream, mut bytes: Vec<u8>) -> String {
    while !bytes.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        bytes.push(byte[0]);
    }
    String::from_utf8(bytes).unwrap()
}

#[test]
fn health_and_readiness() {
    let server = Server::start(&[]);
    for (path, body) in [("/healthz", "alive\n"), ("/readyz", "ready\n")] {
        let response = exchange(server.address(), &format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!((response.status(), &*response.body), (200, body));
    }
}

#[test]
fn a_body_of_the_largest_message_and_one_byte_more() {
    let server = Server::start(&["--max-message", "1000"]);
    let mut subscriber = server.connect("/t/x");
    let largest = "x".repeat(1_000);
    published(&exchange(server.address(), &post("/t/x", "text/plain", &largest)));
    subscriber.expect(text(&largest));
    let response = exchange(server.address(), &post("/t/x", "text/plain", &"x".repeat(1_001)));
    assert_eq!((response.status(), response.header("connection")), (413, Some("close")));
    assert!(response.error().contains("1000"), "{}", response.error());
    // With chunks, no length is announced.
    let head = "POST /t/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut stream = dial(server.address());
    stream.write_all(format!("{head}3e8\r\n{largest}\r\n1\r\nx\r\n0\r\n\r\n").as_bytes()).unwrap();
    assert_eq!(read_response(&mut stream, &[], true).status(), 413);
}
