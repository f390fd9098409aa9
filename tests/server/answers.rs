//! The answers to requests that the hub's port refuses, or that take too long.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, TcpStream},
    sync::mpsc::channel,
    thread,
};

use rustix::process::Signal;

use crate::support::{
    Client, Response, Server, ask, dial, dial_with, exchange, post, published, read_response, request, take_response,
    text, upgrade_request,
};

/// All requests come on one connection, since none of these refusals ends it.
#[test]
fn paths_methods_and_queries() {
    let server = Server::start(&[]);
    let mut stream = dial(server.address());
    let mut check = |request: &str, status: u16, reason: &str, allow: Option<&str>| {
        let response = ask(&mut stream, request);
        assert_eq!((response.status(), response.header("allow")), (status, allow), "{request} {response:?}");
        if !request.starts_with("HEAD ") {
            assert!(response.error().contains(reason), "{request}: {:?} is not about {reason:?}", response.error());
        }
    };
    for path in ["/nothing", "/t", "/T/x", "/healthz/"] {
        check(&request("GET", path), 404, "topics are at /t/{topic...}", None);
        check(&request("POST", path), 404, "topics are at /t/{topic...}", None);
    }
    check(&request("HEAD", "/nothing"), 404, "", None);
    for path in ["/", "/healthz", "/readyz"] {
        check(&request("PUT", path), 405, "GET, HEAD", Some("GET, HEAD"));
        check(&request("POST", path), 405, "GET, HEAD", Some("GET, HEAD"));
    }
    for method in ["PUT", "POST"] {
        check(&request(method, "/metrics"), 405, "GET, HEAD, OPTIONS", Some("GET, HEAD, OPTIONS"));
    }
    for method in ["PUT", "PATCH", "post", "TRACE"] {
        check(&request(method, "/t/x"), 405, "GET, POST, DELETE, OPTIONS", Some("GET, POST, DELETE, OPTIONS"));
    }
    for (target, reason) in [
        ("/t/", "empty"),
        ("//t/x", "empty segment"),
        ("/t/../x", "segment . or .."),
        ("/t/%", "percent-encoded UTF-8"),
        ("/t/%ff", "percent-encoded UTF-8"),
        ("/t/a%0Ab", "control character"),
        (&format!("/t/{}", "x".repeat(256)), "255"),
        ("/t/x?echo=true", "\"echo\" is not known here"),
        ("/t/x?=", "\"\" is not known here"),
    ] {
        check(&post(target, "", ""), 400, reason, None);
    }
    let upgrade = ask(&mut stream, &request("GET", "/t/x"));
    assert_eq!((upgrade.status(), upgrade.header("upgrade")), (426, Some("websocket")));
    assert_eq!(upgrade.header("connection"), Some("upgrade"), "{upgrade:?}");
    assert_eq!(ask(&mut stream, &request("HEAD", "/t/x")).status(), 426);
    assert_eq!(ask(&mut stream, &request("GET", "/t/")).status(), 400);
    for (path, content_type) in [("/", "text/html"), ("/healthz", "text/plain"), ("/metrics", "text/plain")] {
        let response = ask(&mut stream, &request("HEAD", path));
        assert!(response.status() == 200 && response.header("content-type").unwrap().starts_with(content_type));
    }
    published(&ask(&mut stream, &post("/t/x", "", "still served")));
    server.expect_counts(&[
        ("accepted_total", 1),
        ("refused_total{cause=\"not_found\"}", 9),
        ("refused_total{cause=\"method\"}", 12),
        ("refused_total{cause=\"malformed\"}", 10),
        ("refused_total{cause=\"upgrade\"}", 2),
    ]);
}

#[test]
fn text_is_checked_to_the_byte() {
    let server = Server::start(&[]);
    let mut watcher = server.connect("/t/x");
    for (body, at) in [(&b"\xff"[..], 0), (b"caf\xc3", 3), (b"ok \xed\xa0\x80", 3)] {
        let mut stream = dial(server.address());
        let head = post("/t/x", "text/plain", "").replace("Length: 0", &format!("Length: {}", body.len()));
        stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
        let response = read_response(&mut stream, &[], true);
        assert_eq!(response.status(), 400);
        assert!(response.error().ends_with(&format!("not UTF-8 at byte {at}")), "{}", response.error());
    }
    watcher.expect_nothing();
}

/// RFC 9110 10.1.1: a client that asks before it sends a body gets no 100 if the server would refuse the body.
#[test]
fn bodies_that_are_asked_for() {
    let server = Server::start(&["--max-message", "1000"]);
    let expect = |length: usize| {
        let head = post("/t/x", "text/plain", "").replace("Length: 0", &format!("Length: {length}"));
        let mut stream = dial(server.address());
        stream.write_all(head.replacen("\r\n", "\r\nExpect: 100-continue\r\n", 1).as_bytes()).unwrap();
        stream
    };
    let response = read_response(&mut expect(1_001), &[], true);
    assert_eq!((response.status(), response.header("connection")), (413, Some("close")), "{response:?}");
    let mut stream = expect(1_000);
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    published(&ask(&mut stream, &"x".repeat(1_000)));
}

#[test]
fn a_body_that_takes_too_long() {
    let server = Server::start(&["--body-timeout", "100ms"]);
    let half = post("/t/x", "text/plain", "hello").replace("hello", "he");
    let response = exchange(server.address(), &half);
    assert_eq!((response.status(), response.header("connection")), (408, Some("close")));
    assert!(response.error().contains("100ms"), "{}", response.error());
    server.expect_counts(&[("refused_total{cause=\"timeout\"}", 1), ("messages_in_total", 0)]);
}

/// On a kept connection, the next head has `handshake_timeout`, as any head has; the pause before that head has
/// `idle_timeout`.
#[test]
fn heads_that_take_too_long_on_a_kept_connection() {
    for (flags, begin, overdue) in [
        (["--handshake-timeout", "200ms", "--idle-timeout", "1h"], "POST /t/x HT", 1),
        (["--handshake-timeout", "1h", "--idle-timeout", "200ms"], "", 0),
    ] {
        let server = Server::start(&flags);
        let mut stream = dial(server.address());
        published(&ask(&mut stream, &post("/t/x", "", "x")));
        stream.write_all(begin.as_bytes()).unwrap();
        // The end is orderly, or a reset because the server has not read the half head.
        let end = stream.read(&mut [0; 1]);
        assert!(matches!(&end, Ok(0)) || end.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
        drop(stream);
        server.expect_counts(&[("handshake_timeout_total", overdue), ("http_connections_open", 0)]);
    }
}

/// Requests may come one byte at a time.
#[test]
fn one_byte_at_a_time() {
    let server = Server::start(&[]);
    let mut watcher = server.connect("/t/x");
    let mut stream = dial(server.address());
    let chunked = "POST /t/x HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n\
        2;x=y\r\ntw\r\n01\r\no\r\n0\r\nA: b\r\n\r\n";
    for request in [post("/t/x", "text/plain", "one"), chunked.into(), request("GET", "/healthz")] {
        for byte in request.as_bytes() {
            stream.write_all(&[*byte]).unwrap();
        }
        let (response, rest) = take_response(&mut stream, Vec::new(), true);
        assert!(matches!(response.status(), 200 | 202) && rest.is_empty(), "{response:?}");
    }
    watcher.expect(text("one"));
    watcher.expect(text("two"));
    for byte in upgrade_request("/t/x").as_bytes() {
        stream.write_all(&[*byte]).unwrap();
    }
    let mut answer = [0; 129];
    stream.read_exact(&mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 101 "));
    server.expect_counts(&[("http_returned_total", 1), ("connections_open", 2)]);
}

/// A client that ends its side after a request is still answered; one that ends it within a request is not.
#[test]
fn half_closed_clients() {
    let server = Server::start(&[]);
    let mut stream = dial(server.address());
    let request = post("/t/x", "", "x");
    stream.write_all((request.clone() + &request).as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let (first, rest) = take_response(&mut stream, Vec::new(), true);
    let (second, rest) = take_response(&mut stream, rest, true);
    assert!(published(&first).2 == 1 && published(&second).2 == 2 && rest.is_empty());
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    for begin in ["POST /t", &request[..request.len() - 1]] {
        let mut stream = dial(server.address());
        published(&ask(&mut stream, &request));
        stream.write_all(begin.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 400 "), "{rest}");
    }
    server.expect_counts(&[("http_connections_open", 0), ("messages_in_total", 4)]);
}

/// RFC 9110 7.8: a client that offers another protocol gets the answer in HTTP/1.1.
#[test]
fn other_protocols_and_versions() {
    let server = Server::start(&[]);
    let mut stream = dial(server.address());
    let offer = "\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n";
    for _ in 0..2 {
        assert_eq!(ask(&mut stream, &request("GET", "/").replace("\r\n\r\n", offer)).status(), 200);
        published(&ask(&mut stream, &post("/t/x", "", "x").replacen("\r\n\r\n", offer, 1)));
    }
    // The simplest health checks have no Host, and end the connection.
    let response = exchange(server.address(), "GET /healthz HTTP/1.0\r\n\r\n");
    assert_eq!((response.status(), &*response.body), (200, "alive\n"));
    let response = exchange(server.address(), "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    assert_eq!(response.status(), 505);
}

/// A refused opening request on a kept connection leaves the connection open for the next request.
#[test]
fn a_refused_upgrade_leaves_the_connection() {
    let server = Server::start(&[]);
    let mut stream = dial(server.address());
    published(&ask(&mut stream, &post("/t/x", "", "x")));
    for (request, status) in [
        (upgrade_request("/nothing"), 404),
        (upgrade_request("/t/x?echo=1"), 400),
        (upgrade_request("/t/x").replace("Version: 13", "Version: 8"), 426),
        (upgrade_request("/t/x").replace("GET", "POST"), 405),
    ] {
        assert_eq!(ask(&mut stream, &request).status(), status);
    }
    published(&ask(&mut stream, &post("/t/x", "", "x")));
    Client::open(stream, "/t/x", &[]).unwrap().leave();
    server.expect_counts(&[("accepted_total", 1), ("opened_total", 1), ("http_returned_total", 1)]);
}

#[test]
fn more_connections_than_allowed() {
    let mut server = Server::start(&["--max-http-connections", "2", "--max-connections", "4"]);
    let mut kept: Vec<TcpStream> = (0..2).map(|_| dial(server.address())).collect();
    for stream in &mut kept {
        assert_eq!(ask(stream, &request("GET", "/")).status(), 200);
        // An idle connection would give way.
        stream.write_all(b"GET / HT").unwrap();
    }
    let response = exchange(server.address(), &request("GET", "/"));
    assert_eq!((response.status(), response.header("retry-after")), (503, Some("1")), "{response:?}");
    assert!(response.error().contains("HTTP connections"), "{}", response.error());
    server.expect_counts(&[("http_connections_open", 2)]);
    // WebSockets still find room, until all sockets are in use.
    let clients: Vec<Client> = (0..2).map(|_| Client::open_when_there_is_room(server.address(), "/t/x")).collect();
    let response = exchange(server.address(), &request("GET", "/"));
    assert_eq!(response.status(), 503, "{response:?}");
    assert!(response.error().contains("connections as this server"), "{}", response.error());
    server.expect_counts(&[("refused_total{cause=\"limit\"}", 2), ("connections_open", 2)]);
    // Every place comes back.
    drop((kept, clients));
    server.expect_counts(&[("http_connections_open", 0), ("connections_open", 0)]);
    let mut clients: Vec<Client> = (0..4).map(|_| Client::open_when_there_is_room(server.address(), "/t/x")).collect();
    clients.iter_mut().for_each(Client::expect_nothing);
    drop(clients);
    let log = server.end();
    assert!(log.contains("--max-http-connections allows") && log.contains("--max-connections allows"), "{log}");
}

/// The server ends the connection of a client that reads no answers, and frees its place.
#[test]
fn a_client_that_does_not_read_its_answers() {
    let server = Server::start(&["--send-buffer", "4096", "--body-timeout", "300ms", "--max-http-connections", "1"]);
    let mut stream = dial_with(server.address(), Some(4_096));
    let page = request("GET", "/");
    let error = (0..100_000_000).find_map(|_| stream.write_all(page.as_bytes()).err());
    let error = error.expect("the server takes requests without end");
    assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
    server.expect_counts(&[("http_connections_open", 0)]);
    assert_eq!(exchange(server.address(), &request("GET", "/")).status(), 200);
}

/// All bodies in memory have one limit together: of eight bodies of the largest size, each without its last byte, four
/// stay.
#[test]
fn bodies_of_many_clients_together() {
    const LARGEST: usize = 16 << 20;
    let server = Server::start(&["--max-message", "16MiB", "--body-timeout", "60s"]);
    let head = post("/t/x", "", "").replace("Length: 0", &format!("Length: {LARGEST}"));
    let begin = [head.as_bytes(), &vec![b'x'; LARGEST - 1]].concat();
    let mut streams: Vec<TcpStream> = (0..8).map(|_| dial(server.address())).collect();
    let (answered, answers) = channel();
    thread::scope(|scope| {
        for (number, stream) in streams.iter().enumerate() {
            // The server need not read all of a refused body.
            scope.spawn(|| drop((&*stream).write_all(&begin)));
            let (mut reader, answered) = (stream.try_clone().unwrap(), answered.clone());
            scope.spawn(move || answered.send((number, take_response(&mut reader, Vec::new(), true).0)).unwrap());
        }
        let mut refused = Vec::new();
        for (number, response) in answers.iter().take(4) {
            assert_eq!((response.status(), response.header("retry-after")), (503, Some("1")), "{response:?}");
            assert!(response.error().contains("bytes of bodies"), "{}", response.error());
            refused.push(number);
        }
        for number in (0..8).filter(|number| !refused.contains(number)) {
            (&streams[number]).write_all(b"x").unwrap();
        }
        answers.iter().take(4).for_each(|(_, response)| drop(published(&response)));
    });
    streams.clear();
    server.expect_counts(&[("refused_total{cause=\"limit\"}", 4), ("messages_in_total", 4)]);
}

/// A client that does not answer its close frame delays the server's end. In this time the server answers requests that
/// have begun, and takes no new messages.
#[test]
fn leaving() {
    let mut server = Server::start(&["--drain-timeout", "60s", "--close-timeout", "60s"]);
    let mut stays = server.connect("/t/x");
    stays.never_answer();
    let [mut third, mut publisher] = [(); 2].map(|()| dial(server.address()));
    published(&ask(&mut publisher, &post("/t/x", "text/plain", "before")));
    // The rest of each request comes when the server is already leaving.
    let requests =
        [request("GET", "/readyz"), request("GET", "/healthz"), upgrade_request("/t/x"), post("/t/x", "", "after")];
    let mut begun: Vec<_> = (0..requests.len()).map(|_| dial(server.address())).collect();
    for (stream, request_to_come) in begun.iter_mut().zip(&requests) {
        assert_eq!(ask(stream, &request("GET", "/")).status(), 200);
        stream.write_all(&request_to_come.as_bytes()[..8]).unwrap();
    }
    third.write_all(post("/t/x", "text/plain", "late").trim_end_matches("late").as_bytes()).unwrap();
    server.counts_until("all are served", |counts| counts.get("http_requests_total") == 6);
    stays.expect(text("before"));
    server.signal(Signal::TERM);
    stays.expect(crate::support::close(1012, crate::support::RESTART));
    let away = |response: Response| {
        assert_eq!((response.status(), response.header("retry-after")), (503, Some("1")), "{response:?}");
        assert!(response.error().contains("going away"), "{}", response.error());
    };
    let mut answers = begun.iter_mut().zip(&requests).map(|(stream, request)| ask(stream, &request[8..]));
    away(answers.next().unwrap());
    assert_eq!(answers.next().unwrap().status(), 200);
    answers.for_each(away);
    away(ask(&mut third, "late"));
    let counts = server.counts();
    assert_eq!(counts.get("refused_total{cause=\"leaving\"}"), 4, "{counts:?}");
    assert_eq!((counts.get("messages_in_total"), counts.get("deliveries_total")), (1, 1), "{counts:?}");
    drop(stays);
    assert!(server.wait().success());
}

/// A message that is answered 202 while the server leaves is delivered before the close frames. Every other message is
/// refused.
#[test]
fn leaving_with_posts_in_flight() {
    for shards in ["1", "3"] {
        let mut server = Server::start(&["--shards", shards]);
        let mut watchers: Vec<Client> = (0..6).map(|_| server.connect("/t/x?mode=sub")).collect();
        let address = server.address();
        let publishers: Vec<_> = (0..8)
            .map(|_| {
                thread::spawn(move || {
                    let mut stream = dial(address);
                    let mut last = 0;
                    loop {
                        // The server may end the connection between two requests.
                        let Ok(()) = stream.write_all(post("/t/x", "text/plain", "x").as_bytes()) else { return last };
                        if stream.peek(&mut [0]).unwrap_or(0) == 0 {
                            return last;
                        }
                        let (response, _) = take_response(&mut stream, Vec::new(), true);
                        match response.status() {
                            202 => last = published(&response).2,
                            _ => assert_eq!(response.status(), 503, "{response:?}"),
                        }
                    }
                })
            })
            .collect();
        server.counts_until("messages are under way", |counts| counts.get("messages_in_total") > 200);
        server.signal(Signal::TERM);
        let mut seen = 0;
        for watcher in &mut watchers {
            let mut count = 0;
            while watcher.receive() == text("x") {
                count += 1;
            }
            seen = seen.max(count);
        }
        let last = publishers.into_iter().map(|publisher| publisher.join().unwrap()).max().unwrap();
        assert!(last > 200 && seen >= last, "{last} was accepted, and {seen} were delivered");
        drop(watchers);
        assert!(server.wait().success(), "{}", server.log());
    }
}
