//! Refused opening handshakes, each with a whole HTTP response and an orderly end, and the page for browsers.

use std::{
    io::{Read, Write},
    net::Shutdown,
};

use crate::support::{Client, Response, Server, dial, exchange, read_response, reset, text, upgrade_request};

/// Returns the sample request of RFC 6455 1.3, with one replacement.
fn changed(what: &str, by: &str) -> String {
    let request = upgrade_request("/t/x");
    assert!(request.contains(what), "{what:?} is not in the request");
    request.replacen(what, by, 1)
}

/// Expects that each request is refused with its status and reason, that all refusals are counted, and that none was
/// opened.
fn check_refused(cases: &[(String, u16, &str)]) -> Vec<Response> {
    let server = Server::start(&[]);
    let mut responses = Vec::new();
    for (request, status, reason) in cases {
        let response = exchange(server.address(), request);
        assert_eq!(response.status(), *status, "{request:?} {response:?}");
        if !request.starts_with("HEAD ") {
            assert!(response.error().contains(reason), "{request:?}: {:?} is not about {reason:?}", response.error());
        }
        responses.push(response);
    }
    let counts = server.counts_until("all are gone", |counts| {
        counts.refused() == cases.len() as u64 && counts.get("connections_open") == 0
    });
    assert_eq!((counts.get("accepted_total"), counts.get("opened_total")), (cases.len() as u64, 0), "{counts:?}");
    server.connect("/t/x").leave();
    responses
}

/// RFC 6455 1.3: the sample handshake has exactly this answer.
#[test]
fn the_sample_handshake() {
    let server = Server::start(&[]);
    let mut stream = dial(server.address());
    stream.write_all(upgrade_request("/t/chat").as_bytes()).unwrap();
    let mut answer = [0; 129];
    stream.read_exact(&mut answer).unwrap();
    let answer = str::from_utf8(&answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    assert!(answer.contains("\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
}

/// The server supports none of the offered extensions and subprotocols, so its answer names none.
#[test]
fn offers_are_declined() {
    let server = Server::start(&[]);
    let offers = "Sec-WebSocket-Protocol: chat, superchat\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\
        Origin: http://page.example\r\n\r\n";
    let mut stream = dial(server.address());
    stream.write_all(upgrade_request("/t/x").replace("\r\n\r\n", &format!("\r\n{offers}")).as_bytes()).unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    let answer = String::from_utf8(answer).unwrap().to_lowercase();
    assert!(answer.starts_with("http/1.1 101 ") && !answer.contains("protocol:") && !answer.contains("extensions:"));
}

#[test]
fn paths_that_are_not_found() {
    let get = |target: &str| upgrade_request(target);
    check_refused(&[
        (get("/topic"), 404, "/t/{topic...}"),
        (get("/t"), 404, "/t/{topic...}"),
        (get("/T/x"), 404, "/t/{topic...}"),
        (get("//t/x"), 400, "an empty segment"),
        (get("*"), 404, "/t/{topic...}"),
        ("GET /favicon.ico HTTP/1.1\r\nHost: a\r\n\r\n".into(), 404, "topics are at"),
        ("HEAD /favicon.ico HTTP/1.1\r\nHost: a\r\n\r\n".into(), 404, "topics are at"),
    ]);
}

/// RFC 9112: requests that two readers could understand differently are refused.
#[test]
fn requests_that_are_not_http() {
    let second = |header: &str| changed("\r\n\r\n", &format!("\r\n{header}\r\n\r\n"));
    check_refused(&[
        ("hello\r\n\r\n".into(), 400, "request line"),
        ("\x16\x03\x01\x02".into(), 400, "control character"),
        (changed("GET /t/x", "GET  /t/x"), 400, "request line"),
        (changed("HTTP/1.1", "http/1.1"), 400, "request line"),
        (changed("/t/x", "/t/x#fragment"), 400, "request line"),
        (changed("\r\n", "\n"), 400, "without a carriage return"),
        (changed("hub.example", "hub\0example"), 400, "control character"),
        (changed("Host: ", "Host : "), 400, "header line"),
        (second(" folded"), 400, "header line"),
        (second("Host: other.example"), 400, "more than one Host"),
        (second("Content-Length: +5"), 400, "Content-Length"),
        (second("Content-Length: 0\r\nContent-Length: 0"), 400, "Content-Length"),
        (second("Content-Length: 5\r\nTransfer-Encoding: chunked"), 400, "Transfer-Encoding"),
    ]);
}

/// RFC 6455 4.2.1.
#[test]
fn requests_that_are_no_opening_handshake() {
    let second = |header: &str| changed("\r\n\r\n", &format!("\r\n{header}\r\n\r\n"));
    check_refused(&[
        (changed("Host: hub.example\r\n", ""), 400, "Host"),
        (changed("hub.example", ""), 400, "Host"),
        (changed("hub.example", "hub/example"), 400, "Host"),
        (changed("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""), 400, "Sec-WebSocket-Key"),
        (changed("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZQ=="), 400, "Sec-WebSocket-Key"),
        (changed("dGhlIHNhbXBsZSBub25jZQ==", "not base64 at all!!!!!!!"), 400, "Sec-WebSocket-Key"),
        (second("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="), 400, "Sec-WebSocket-Key"),
        (second("Content-Length: 5"), 400, "body"),
        (second("Transfer-Encoding: chunked"), 400, "body"),
        (second("Sec-WebSocket-Protocol: a b"), 400, "Sec-WebSocket-Protocol"),
        (second("Sec-WebSocket-Protocol: a, a"), 400, "Sec-WebSocket-Protocol"),
        (second("Origin: a\r\nOrigin: b"), 400, "Origin"),
    ]);
}

/// RFC 9110 15.5.6: a 405 says what is allowed.
#[test]
fn methods_other_than_get() {
    for response in check_refused(&[
        (changed("GET", "POST"), 405, "GET"),
        (changed("GET", "PUT"), 405, "GET"),
        (changed("GET", "get"), 405, "GET"),
    ]) {
        assert_eq!(response.header("allow"), Some("GET"));
    }
}

/// RFC 9110 15.5.22 and RFC 6455 4.4: a 426 names the protocol, and its version where that is wrong.
#[test]
fn requests_for_no_upgrade_or_another_version() {
    let responses = check_refused(&[
        ("GET /t/x HTTP/1.1\r\nHost: a\r\n\r\n".into(), 426, "Upgrade"),
        (changed("Upgrade: websocket", "Upgrade: h2c"), 426, "Upgrade"),
        (changed("Connection: Upgrade", "Connection: keep-alive"), 426, "Connection"),
        (changed("Version: 13", "Version: 8"), 426, "13"),
        (changed("Version: 13", "Version: 13\r\nSec-WebSocket-Version: 8"), 426, "13"),
        (changed("Sec-WebSocket-Version: 13\r\n", ""), 426, "13"),
    ]);
    for (number, response) in responses.iter().enumerate() {
        assert_eq!(response.header("upgrade"), Some("websocket"));
        assert!(response.head.headers().list_contains("connection", "upgrade"), "{response:?}");
        assert_eq!(response.header("sec-websocket-version"), (number >= 3).then_some("13"), "{response:?}");
    }
}

/// A browser's page cannot see why its WebSocket was refused. The same request without the upgrade gets the same
/// refusal.
#[test]
fn without_an_upgrade_the_refusal_is_the_same() {
    let server = Server::start(&["--subscribe-tokens", "s,both", "--publish-tokens", "p,both"]);
    let check = |target: &str, refusal: Option<(u16, &str)>| {
        let plain = exchange(server.address(), &format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let Some((status, reason)) = refusal else {
            assert_eq!(plain.status(), 426, "{target}");
            return server.connect(target).leave();
        };
        let upgrade = exchange(server.address(), &upgrade_request(target));
        assert_eq!((plain.status(), upgrade.status()), (status, status), "{target}");
        assert!(plain.error().contains(reason), "{plain:?}");
        assert_eq!(plain.body, upgrade.body, "{target}");
        assert_eq!(plain.header("www-authenticate"), upgrade.header("www-authenticate"), "{target}");
    };
    check("/t/x", Some((401, "subscribing needs a bearer token")));
    check("/t/x?mode=pub", Some((401, "publishing needs a bearer token")));
    check("/t/x?access_token=x", Some((401, "not valid")));
    check("/t/x?access_token=s", Some((403, "not for publishing")));
    check("/t/x?access_token=p", Some((403, "not for subscribing")));
    check("/t/x?access_token=s&mode=pub", Some((403, "not for publishing")));
    check("/t/x?access_token=s&mode=no", Some((400, "mode is")));
    check("/t/%ff?access_token=both", Some((400, "UTF-8")));
    check("/t/x?access_token=both", None);
    check("/t/x?access_token=s&mode=sub", None);
    check("/t/x?access_token=p&mode=pub", None);
}

/// RFC 6455 4.2.1: names and keywords of headers are compared without case, and lists may have further elements.
#[test]
fn what_browsers_and_proxies_send_is_accepted() {
    let server = Server::start(&[]);
    for request in [
        changed("Connection: Upgrade", "connection:keep-alive, UPGRADE"),
        changed("Upgrade: websocket", "UPGRADE: h2c, WebSocket"),
        changed("Host: hub.example", "host:\t[::1]:6455 "),
        changed("\r\n\r\n", "\r\nX-Forwarded-For: 192.0.2.1\r\nX-Note: caf\u{e9}\r\nContent-Length: 0\r\n\r\n"),
        format!("\r\n{}", upgrade_request("/t/x")),
    ] {
        let mut stream = dial(server.address());
        stream.write_all(request.as_bytes()).unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).unwrap();
        assert_eq!(str::from_utf8(&status), Ok("HTTP/1.1 101"), "{request}");
    }
}

/// RFC 6585 5.
#[test]
fn heads_that_are_too_long() {
    let filled = |length: usize| {
        let request = upgrade_request("/t/x");
        let filler = "x".repeat(length - request.len() - "X-Filler: \r\n".len());
        request.replacen("\r\n\r\n", &format!("\r\nX-Filler: {filler}\r\n\r\n"), 1)
    };
    let lines = |count: usize| {
        let more: String = (0..count).map(|number| format!("X-{number}: x\r\n")).collect();
        upgrade_request("/t/x").replacen("\r\n\r\n", &format!("\r\n{more}\r\n"), 1)
    };
    check_refused(&[
        (filled(8_193), 431, "8 KiB"),
        (filled(100_000), 431, "8 KiB"),
        (format!("GET /t/{}", "x".repeat(8_192)), 431, "8 KiB"),
        (lines(60), 431, "64 header lines"),
    ]);
    let server = Server::start(&[]);
    for request in [filled(8_191), filled(8_192), lines(59)] {
        let mut stream = dial(server.address());
        stream.write_all(request.as_bytes()).unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).unwrap();
        assert_eq!(str::from_utf8(&status), Ok("HTTP/1.1 101"), "{} bytes", request.len());
    }
}

/// RFC 9110 15.6.6.
#[test]
fn versions_other_than_1_1() {
    check_refused(&[
        (changed("HTTP/1.1", "HTTP/1.0"), 505, "HTTP/1.1"),
        (changed("HTTP/1.1", "HTTP/2.0"), 505, "version"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), 505, "version"),
    ]);
}

/// The answer to a HEAD request has no body, which the client would take for the next answer.
#[test]
fn head_has_no_body() {
    let server = Server::start(&[]);
    for (target, status) in [("/", 200), ("/t/x", 426), ("/nothing", 404)] {
        let with_body = exchange(server.address(), &format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let head = exchange(server.address(), &format!("HEAD {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!((head.status(), with_body.status()), (status, status), "{target}");
        for name in ["content-type", "content-length", "upgrade"] {
            assert_eq!(head.header(name), with_body.header(name), "{target}");
        }
    }
}

#[test]
fn the_page() {
    let server = Server::start(&[]);
    let response = exchange(server.address(), "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(response.status(), 200);
    assert!(response.header("content-type").unwrap().starts_with("text/html"));
    assert!(response.body.starts_with("<!DOCTYPE html>") || response.body.starts_with("<!doctype html>"));
    assert!(response.body.contains("/t/"));
    assert_eq!(exchange(server.address(), "GET /?x=1 HTTP/1.1\r\nHost: a\r\n\r\n").status(), 200);
    assert_eq!(server.counts().refused(), 0);
}

#[test]
fn a_head_that_arrives_byte_by_byte() {
    let server = Server::start(&[]);
    let mut stream = dial(server.address());
    for byte in upgrade_request("/t/x").bytes() {
        stream.write_all(&[byte]).unwrap();
        std::thread::yield_now();
    }
    let mut status = [0; 12];
    stream.read_exact(&mut status).unwrap();
    assert_eq!(str::from_utf8(&status), Ok("HTTP/1.1 101"));
    let mut stream = dial(server.address());
    for byte in changed("GET", "PUT").bytes() {
        stream.write_all(&[byte]).unwrap();
        std::thread::yield_now();
    }
    assert_eq!(read_response(&mut stream, &[], true).status(), 405);
}

/// A refused client that goes on sending is not reset. A reset could destroy the answer before the client reads it.
#[test]
fn a_refusal_survives_what_follows_the_request() {
    let server = Server::start(&[]);
    let head = "PUT /t/x HTTP/1.1\r\nHost: a\r\nContent-Length: 30000\r\n\r\n";
    assert_eq!(exchange(server.address(), &format!("{head}{}", "x".repeat(30_000))).status(), 405);
    let mut stream = dial(server.address());
    stream.write_all(head.as_bytes()).unwrap();
    // The whole answer has come, and the server has finished sending.
    let response = read_response(&mut stream, &[], true);
    assert_eq!(response.status(), 405);
    for _ in 0..10 {
        stream.write_all(&[b'x'; 3_000]).expect("the server still takes it");
        // The server has done other work meanwhile, and could have closed the first connection.
        assert_eq!(exchange(server.address(), "GET / HTTP/1.1\r\nHost: a\r\n\r\n").status(), 200);
    }
}

/// RFC 9112 9.6: a client that has ended its side can still read the answer.
#[test]
fn a_client_that_has_finished_sending_gets_its_answer() {
    let server = Server::start(&[]);
    let mut stream = dial(server.address());
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_response(&mut stream, &[], true).status(), 200);
}

#[test]
fn no_room_for_one_more() {
    let server = Server::start(&["--max-connections", "2"]);
    let mut first = server.connect("/t/x");
    let mut second = server.connect("/t/x");
    for _ in 0..5 {
        let response = Client::open(dial(server.address()), "/t/x", &[]).err().expect("there is no room");
        assert_eq!((response.status(), response.header("retry-after")), (503, Some("1")), "{response:?}");
        assert!(response.error().contains("connections"), "{}", response.error());
    }
    first.send_text("undisturbed");
    second.expect(text("undisturbed"));
    second.leave();
    let counts = server.counts_until("one has left", |counts| counts.get("connections_open") == 1);
    assert_eq!(counts.get("refused_total{cause=\"limit\"}"), 5);
    let mut third = server.connect("/t/x");
    first.send_text("room again");
    third.expect(text("room again"));
    // A connection that is reset gives its place back too.
    reset(third.into_stream());
    server.counts_until("one was reset", |counts| counts.get("connections_open") == 1);
    server.connect("/t/x").leave();
}

/// An opening handshake under way has a place: otherwise a burst of handshakes would exceed the limit.
#[test]
fn handshakes_under_way_count() {
    let server = Server::start(&["--max-connections", "2"]);
    let waiting: Vec<_> = (0..2).map(|_| dial(server.address())).collect();
    server.counts_until("both are accepted", |counts| counts.get("accepted_total") == 2);
    let response = Client::open(dial(server.address()), "/t/x", &[]).err().expect("there is no room");
    assert_eq!(response.status(), 503);
    drop(waiting);
    // The server may notice their ends a moment later.
    Client::open_when_there_is_room(server.address(), "/t/x").leave();
}
