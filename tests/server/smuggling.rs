//! Requests that two readers could understand differently, on a new connection and after another request. None becomes
//! a WebSocket, and no body is taken for a request or for frames.

use std::{io::Write as _, net::TcpStream, thread};

use ringhub::proto::OpCode;

use crate::support::{
    Client, Response, Server, dial, frame, post, published, read_response, take_response, text, upgrade_request,
};

/// Returns bytes that an attacker hides, to be taken for requests.
fn smuggled() -> String {
    upgrade_request("/t/watched") + &post("/t/watched", "text/plain", "smuggled")
}

/// Returns the request with another header line.
fn with(request: &str, line: &str) -> String {
    request.replacen("\r\n", &format!("\r\n{line}\r\n"), 1)
}

/// Returns a kept connection that has published.
fn kept_alive(server: &Server) -> TcpStream {
    let mut stream = dial(server.address());
    stream.write_all(post("/t/before", "text/plain", "x").as_bytes()).unwrap();
    let (response, rest) = take_response(&mut stream, Vec::new(), true);
    published(&response);
    assert!(rest.is_empty());
    stream
}

/// Sends each request with the hidden bytes after it. Expects one answer with this status and reason, then the end of
/// the connection. Nothing reaches the topic, and no connection becomes a WebSocket.
fn check(cases: &[(String, u16, &str)]) {
    let server = Server::start(&["--shards", "2"]);
    let mut watcher = server.connect("/t/watched");
    for (request, status, reason) in cases {
        for mut stream in [dial(server.address()), kept_alive(&server)] {
            stream.write_all((request.clone() + &smuggled()).as_bytes()).unwrap();
            let response = read_response(&mut stream, &[], true);
            assert_eq!(response.status(), *status, "{request:?} {response:?}");
            assert_eq!(
                response.header("connection").map(|value| value.starts_with("close")),
                Some(true),
                "{response:?}"
            );
            assert!(response.error().contains(reason), "{request:?}: {:?} is not about {reason:?}", response.error());
        }
    }
    watcher.expect_nothing();
    let count = cases.len() as u64;
    let counts = server.counts_until("every one is counted", |counts| counts.refused() == 2 * count);
    assert_eq!((counts.get("opened_total"), counts.get("http_returned_total")), (1, 0), "{counts:?}");
    // Only the messages of `kept_alive` were published.
    assert_eq!(counts.get("messages_in_total"), count, "{counts:?}");
}

/// RFC 9112 6.3.
#[test]
fn two_lengths() {
    let chunked = "Transfer-Encoding: chunked";
    let post = post("/t/watched", "text/plain", "hello");
    check(&[
        (with(&post, chunked), 400, "both Content-Length and Transfer-Encoding"),
        (post.replace("Content-Length: 5", &format!("{chunked}\r\nContent-Length: 5")), 400, "both Content-Length"),
        (with(&post, "Content-Length: 50"), 400, "not one decimal number"),
        (with(&post, "Content-Length: 5"), 400, "not one decimal number"),
        (post.replace("Length: 5", "Length: 5, 5"), 400, "not one decimal number"),
        (post.replace("Length: 5", "Length: +5"), 400, "not one decimal number"),
        (post.replace("Length: 5", "Length: 0x5"), 400, "not one decimal number"),
        (post.replace("Length: 5", "Length: 18446744073709551621"), 400, "not one decimal number"),
        (with(&post, "Transfer-Encoding: identity"), 400, "both Content-Length"),
    ]);
}

/// RFC 9112 6.1, 7.1.
#[test]
fn encodings_and_chunks() {
    let chunked = |encoding: &str, body: &str| {
        format!("POST /t/watched HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {encoding}\r\n\r\n{body}")
    };
    let broken = |body| (chunked("chunked", body), 400, "the body is broken");
    check(&[
        (chunked("gzip, chunked", "0\r\n\r\n"), 501, "Transfer-Encoding"),
        (chunked("chunked, identity", "0\r\n\r\n"), 501, "Transfer-Encoding"),
        (chunked("xchunked", "0\r\n\r\n"), 501, "Transfer-Encoding"),
        (chunked("chunked\r\nTransfer-Encoding: chunked", "0\r\n\r\n"), 501, "Transfer-Encoding"),
        (chunked("\u{b}chunked", "0\r\n\r\n"), 400, "control character"),
        (chunked("chunked", "0\r\n\r\n").replace("HTTP/1.1", "HTTP/1.0"), 501, "Transfer-Encoding"),
        broken("hello\r\n"),
        broken("5\nhello\r\n0\r\n\r\n"),
        broken("5\r\nhelloo\r\n0\r\n\r\n"),
        broken("5\r\nhello\n0\r\n\r\n"),
        broken("5;\nx\r\nhello\r\n0\r\n\r\n"),
        broken("-5\r\nhello\r\n0\r\n\r\n"),
        broken("0x5\r\nhello\r\n0\r\n\r\n"),
        broken("10000000000000005\r\nhello\r\n0\r\n\r\n"),
    ]);
}

/// RFC 9112 2.2, 5.1, 5.2; RFC 9110 5.5.
#[test]
fn lines() {
    let mut cases = Vec::new();
    for request in [post("/t/watched", "text/plain", "hello"), upgrade_request("/t/watched")] {
        cases.extend([
            (request.replace("\r\n", "\n"), 400, "without a carriage return"),
            (request.replacen("\r\n", "\n", 1), 400, "without a carriage return"),
            (with(&request, "X: a\nUpgrade: websocket"), 400, "without a carriage return"),
            (with(&request, "X: a\rUpgrade: websocket"), 400, "ends no line"),
            (with(&request, "X: a\0b"), 400, "control character"),
            (with(&request, "X: a\r\n b"), 400, "header line"),
            (with(&request, "X : a"), 400, "header line"),
            (with(&request, ": a"), 400, "header line"),
            (with(&request, "X"), 400, "header line"),
            (with(&request, "Host: b"), 400, "more than one Host"),
            (request.replacen(' ', "  ", 1), 400, "request line"),
            (request.replacen("HTTP/1.1", "HTTP/1.1 x", 1), 400, "request line"),
            (request.replacen("HTTP/1.1", "HTTP/2.0", 1), 505, "version"),
        ]);
    }
    let publish = post("/t/watched", "text/plain", "hello");
    cases.extend([
        (publish.replace("Host: a\r\n", ""), 400, "Host is missing"),
        (publish.replace("HTTP/1.1", "HTTP/1.2"), 505, "version"),
    ]);
    check(&cases);
}

/// RFC 6455 4.1: a body could be taken for frames.
#[test]
fn upgrades_with_bodies() {
    let upgrade = upgrade_request("/t/watched");
    let message = String::from_utf8_lossy(&frame(OpCode::Ping, true, b"")).into_owned();
    let length = smuggled().len() + message.len();
    check(&[
        (with(&upgrade, &format!("Content-Length: {length}")) + &message, 400, "no body"),
        (with(&upgrade, "Transfer-Encoding: chunked") + "0\r\n\r\n", 400, "no body"),
        (with(&upgrade, "Transfer-Encoding: chunked") + &message, 400, "no body"),
        (with(&upgrade, "Transfer-Encoding: gzip") + &message, 501, "Transfer-Encoding"),
    ]);
}

/// A body is only a message, whatever it contains; the next request begins after it.
#[test]
fn requests_in_bodies() {
    let server = Server::start(&["--shards", "2"]);
    let mut watcher = server.connect("/t/watched");
    let hidden = smuggled();
    let chunked =
        "POST /t/watched HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n";
    let (begin, end) = hidden.split_at(20);
    for request in [
        post("/t/watched", "text/plain", &hidden),
        format!("{chunked}14\r\n{begin}\r\n{:x};\"0\"\r\n{end}\r\n00\r\nUpgrade: websocket\r\n\r\n", end.len()),
    ] {
        for stream in [dial(server.address()), kept_alive(&server)] {
            check_in_body(stream, &request, &hidden, &mut watcher);
        }
    }
    server.expect_counts(&[("opened_total", 1), ("http_returned_total", 0)]);
}

fn check_in_body(mut stream: TcpStream, request: &str, hidden: &str, watcher: &mut Client) {
    stream.write_all((request.to_string() + &post("/t/watched", "text/plain", "behind")).as_bytes()).unwrap();
    let (first, rest) = take_response(&mut stream, Vec::new(), true);
    let (second, rest) = take_response(&mut stream, rest, true);
    assert!(rest.is_empty());
    assert_eq!(published(&first).2 + 1, published(&second).2);
    watcher.expect(text(hidden));
    watcher.expect(text("behind"));
}

/// RFC 9112 3.2: the target may be the whole URI, but not only a host.
#[test]
fn targets() {
    let server = Server::start(&["--shards", "2"]);
    let mut watcher = server.connect("/t/watched");
    let exchange = |request: &str| -> [Response; 2] {
        [dial(server.address()), kept_alive(&server)].map(|mut stream| {
            stream.write_all(request.as_bytes()).unwrap();
            take_response(&mut stream, Vec::new(), true).0
        })
    };
    for response in exchange(&post("http://other.example/t/watched?", "text/plain", "absolute")) {
        published(&response);
        watcher.expect(text("absolute"));
    }
    for (target, status) in [("hub.example:80", 404), ("*", 404), ("http://hub.example", 405), ("/t/a<b", 400)] {
        for response in exchange(&post(target, "text/plain", "x")) {
            assert_eq!(response.status(), status, "{target} {response:?}");
            response.error();
        }
    }
    for (target, status) in [("hub.example:80", 404), ("*", 404), ("http://hub.example", 404)] {
        for response in exchange(&upgrade_request(target)) {
            assert_eq!(response.status(), status, "{target} {response:?}");
        }
    }
    for response in exchange("CONNECT hub.example:80 HTTP/1.1\r\nHost: hub.example:80\r\n\r\n") {
        assert_eq!(response.status(), 404, "{response:?}");
    }
    for stream in [dial(server.address()), kept_alive(&server)] {
        let mut client = Client::open(stream, "http://hub.example/t/watched", &[]).unwrap();
        client.send_text("by its whole URI");
        watcher.expect(text("by its whole URI"));
    }
    watcher.expect_nothing();
}

/// Bytes after an opening request are frames, even if they look like a request.
#[test]
fn two_upgrades_in_one_write() {
    let server = Server::start(&["--shards", "2"]);
    let mut watcher = server.connect("/t/watched");
    for stream in [dial(server.address()), kept_alive(&server)] {
        let mut client = Client::open(stream, "/t/x", smuggled().as_bytes()).unwrap();
        // "G" is read as the first byte of a frame.
        client.expect(crate::support::close(1002, "opcode 7 is reserved"));
    }
    watcher.expect_nothing();
    server.expect_counts(&[("opened_total", 3), ("protocol_errors_total", 2)]);
}

/// Many requests on one connection, with lengths or with chunks of any size, sent in pieces of any size. Each body is a
/// message, in order, and each request gets its answer.
#[test]
fn any_pieces() {
    const COUNT: usize = 400;
    let server = Server::start(&["--shards", "2"]);
    let mut watcher = server.connect("/t/watched");
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below
    };
    let bodies: Vec<String> = (0..COUNT).map(|number| format!("{number} {}", "\r\n0".repeat(random(3_000)))).collect();
    let mut bytes = Vec::new();
    for body in &bodies {
        if random(2) == 0 {
            bytes.extend_from_slice(post("/t/watched", "text/plain", body).as_bytes());
            continue;
        }
        let head = post("/t/watched", "text/plain", "").replace("Content-Length: 0", "Transfer-Encoding: chunked");
        bytes.extend_from_slice(head.as_bytes());
        let mut rest = body.as_str();
        while !rest.is_empty() {
            let (chunk, behind) = rest.split_at(1 + random(rest.len()));
            let extension = [";a=b", ""][random(2)];
            bytes.extend_from_slice(format!("{:X}{extension}\r\n{chunk}\r\n", chunk.len()).as_bytes());
            rest = behind;
        }
        bytes.extend_from_slice(["0\r\n\r\n", "000\r\nA: b\r\n\r\n"][random(2)].as_bytes());
    }
    let mut stream = dial(server.address());
    let mut writer = stream.try_clone().unwrap();
    let writing = thread::spawn(move || {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let most = [1, 10, 1_000, 100_000][random(4)];
            let (piece, behind) = rest.split_at((1 + random(most)).min(rest.len()));
            writer.write_all(piece).unwrap();
            rest = behind;
        }
    });
    let mut rest = Vec::new();
    for (number, body) in bodies.iter().enumerate() {
        let (response, behind) = take_response(&mut stream, rest, true);
        rest = behind;
        assert_eq!(published(&response).2, number as u64 + 1);
        watcher.expect(text(body));
    }
    writing.join().unwrap();
    assert!(rest.is_empty());
    watcher.expect_nothing();
}
