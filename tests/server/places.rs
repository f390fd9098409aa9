//! The places of connections and bodies: which connections give way when places are used up, and which answers the
//! others get.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::support::{
    Client, DEADLINE, KernelSocket, Server, ask, clean, dial, dial_from, dial_with, exchange, pattern, post, program,
    published, read_response, request, reset, run_to_end, take_response, text, upgrade_request,
};

/// Returns 127.0.0.`last`, which is an address of this machine too.
fn address(last: u8) -> Option<IpAddr> {
    Some(Ipv4Addr::new(127, 0, 0, last).into())
}

/// Sends a request on a new connection, and returns the status of the answer.
fn answered(server: &Server, from: Option<IpAddr>, request: &str) -> u16 {
    let mut stream = dial_from(server.address(), from, None);
    stream.write_all(request.as_bytes()).unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).expect("a status line");
    str::from_utf8(&head[9..]).unwrap().parse().unwrap()
}

/// The fourth connection of an address is refused, on every shard and for every request. A connection of another
/// address is not.
#[test]
fn an_address_has_so_many_connections() {
    let mut server = Server::start(&["--shards", "2", "--max-connections-per-address", "3"]);
    let websocket = server.connect("/t/x");
    let mut http = dial(server.address());
    published(&ask(&mut http, &post("/t/x", "", "x")));
    http.write_all(b"POST /t/x HT").unwrap();
    let waiting = dial(server.address());
    server.counts_until("three are accepted", |counts| counts.get("accepted_total") == 3);
    for _ in 0..3 {
        let response = exchange(server.address(), &upgrade_request("/t/x"));
        assert_eq!((response.status(), response.header("retry-after")), (429, Some("1")), "{response:?}");
        assert!(response.error().contains("from one address"), "{}", response.error());
    }
    assert_eq!(exchange(server.address(), &request("HEAD", "/")).status(), 429);
    assert_eq!(answered(&server, address(2), &upgrade_request("/t/x")), 101);
    server.expect_counts(&[("refused_total{cause=\"address\"}", 4), ("refused_total{cause=\"limit\"}", 0)]);
    // Each of the three connections gives its place back.
    let mut others: Vec<Box<dyn FnOnce()>> =
        vec![Box::new(move || websocket.leave()), Box::new(move || drop(http)), Box::new(move || reset(waiting))];
    let mut clients = Vec::new();
    while let Some(leave) = others.pop() {
        leave();
        clients.push(Client::open_when_there_is_room(server.address(), "/t/x"));
        assert_eq!(answered(&server, None, &upgrade_request("/t/x")), 429);
    }
    drop(clients);
    let log = server.end();
    assert_eq!(log.matches("--max-connections-per-address allows").count(), 1, "{log}");
    assert!(log.contains("address=127.0.0.1\n"), "{log}");
}

/// Idle connections of an address give way to new ones of the same address, the longest idle first. They never give way
/// to another address.
#[test]
fn idle_connections_of_an_address_give_way() {
    let server = Server::start(&["--shards", "2", "--max-connections-per-address", "2"]);
    let publish = |stream: &mut TcpStream| drop(published(&ask(stream, &post("/t/x", "", "x"))));
    let mut other = dial_from(server.address(), address(2), None);
    publish(&mut other);
    let mut kept: Vec<TcpStream> = (0..2).map(|_| dial(server.address())).collect();
    kept.iter_mut().for_each(publish);
    // After this the second connection has been idle longest.
    publish(&mut kept[0]);
    let mut clients = Vec::new();
    for gives_way in [1, 0] {
        clients.push(Client::open_when_there_is_room(server.address(), "/t/x?echo=true"));
        expect_end(&mut kept[gives_way]);
    }
    for _ in 0..3 {
        assert_eq!(answered(&server, None, &upgrade_request("/t/x")), 429);
    }
    publish(&mut other);
    for client in &mut clients {
        client.expect(crate::support::binary(b"x"));
    }
    // A connection whose request has begun to arrive does not give way. One that becomes a WebSocket is not idle any
    // more.
    let mut begun = dial_from(server.address(), address(3), None);
    publish(&mut begun);
    begun.write_all(b"POST /t/x HT").unwrap();
    let mut upgraded = dial_from(server.address(), address(3), None);
    publish(&mut upgraded);
    let upgraded = Client::open(upgraded, "/t/x", &[]).unwrap();
    assert_eq!(answered(&server, address(3), &upgrade_request("/t/x")), 429);
    begun.write_all(&post("/t/x", "", "x").as_bytes()[12..]).unwrap();
    published(&take_response(&mut begun, Vec::new(), true).0);
    // When the connection is idle again, it gives way. Its client may have the answer a moment before.
    let deadline = Instant::now() + DEADLINE;
    while answered(&server, address(3), &upgrade_request("/t/x")) != 101 {
        assert!(Instant::now() < deadline, "the connection does not give way");
    }
    expect_end(&mut begun);
    drop((upgraded, clients));
    server.expect_counts(&[("http_displaced_total", 3), ("connections_open", 0)]);
}

/// The server refuses a new connection while it is full itself, and no idle connection of the address gives way to the
/// refused one.
#[test]
fn an_idle_connection_does_not_give_way_to_a_refused_one() {
    let server = Server::start(&["--shards", "2", "--max-connections", "2", "--max-connections-per-address", "2"]);
    let websocket = server.connect("/t/x");
    let mut idle = dial(server.address());
    let publish = |stream: &mut TcpStream| drop(published(&ask(stream, &post("/t/y", "", "x"))));
    publish(&mut idle);
    let answers = [(); 5].map(|()| answered(&server, None, &upgrade_request("/t/x")));
    assert_eq!(server.counts().get("http_displaced_total"), 0, "{answers:?}");
    assert_eq!(answers, [503; 5]);
    server.expect_counts(&[("refused_total{cause=\"limit\"}", 5), ("refused_total{cause=\"address\"}", 0)]);
    publish(&mut idle);
    // A refused connection keeps no permit.
    websocket.leave();
    Client::open_when_there_is_room(server.address(), "/t/x").leave();
    publish(&mut idle);
}

/// After connections have begun, moved between threads and ended in many ways, an address has all its places again.
#[test]
fn an_address_gets_every_place_back() {
    const PLACES: usize = 8;
    let flags = ["--shards", "2", "--max-connections-per-address", "8", "--handshake-timeout", "300ms"];
    let server = Server::start(&[&flags[..], &["--max-http-connections", "2"]].concat());
    let own = server.address();
    let churners: Vec<_> = (0..4)
        .map(|number| {
            thread::spawn(move || {
                for round in 0..40 {
                    let mut stream = dial(own);
                    // A write may fail, since the server may refuse any of these requests.
                    let mut say = |text: &str| drop(stream.write_all(text.as_bytes()));
                    match (number + round) % 8 {
                        0 => {}
                        1 => say("GET /t/x HT"),
                        2 => say("nonsense\r\n\r\n"),
                        3 => say(&upgrade_request("/nothing")),
                        4 => say(&upgrade_request("/t/x")),
                        5 => say(&post("/t/x", "", "x")),
                        6 => say(&(post("/t/x", "", "x") + &upgrade_request("/t/x"))),
                        _ => say(&(request("GET", "/") + &upgrade_request("/nothing"))),
                    }
                    if round % 3 == 0 {
                        drop(stream.read(&mut [0; 64]));
                    }
                    if round % 2 == 0 { drop(stream) } else { reset(stream) }
                }
            })
        })
        .collect();
    churners.into_iter().for_each(|churner| churner.join().unwrap());
    let clients: Vec<Client> = (0..PLACES).map(|_| Client::open_when_there_is_room(server.address(), "/t/x")).collect();
    assert_eq!(answered(&server, None, &upgrade_request("/t/x")), 429);
    drop(clients);
    server.expect_counts(&[("connections_open", 0), ("http_connections_open", 0)]);
}

/// A connection that becomes a WebSocket after other requests is counted once, before and after.
#[test]
fn an_address_keeps_its_place_from_thread_to_thread() {
    let server = Server::start(&["--shards", "2", "--max-connections-per-address", "1"]);
    for _ in 0..3 {
        let begin = || {
            let mut stream = dial(server.address());
            stream.write_all(post("/t/x", "", "x").as_bytes()).ok()?;
            let mut first = [0];
            // The answer comes only after the place of the connection before is free again.
            stream.peek(&mut first).ok().filter(|&count| count > 0)?;
            let (response, _) = take_response(&mut stream, Vec::new(), true);
            (response.status() == 202).then_some(stream)
        };
        let deadline = Instant::now() + DEADLINE;
        let attempts = std::iter::from_fn(|| (Instant::now() < deadline).then(begin));
        let stream = attempts.flatten().next().expect("its place is free again");
        let mut client = Client::open(stream, "/t/x?echo=true", &[]).unwrap();
        assert_eq!(answered(&server, None, &upgrade_request("/t/x")), 429);
        client.send_text("still here");
        client.expect(text("still here"));
        client.leave();
    }
}

/// Expects the end of a connection, and nothing before it.
#[track_caller]
fn expect_end(stream: &mut TcpStream) {
    assert_eq!(stream.read(&mut [0]).expect("an orderly end"), 0);
}

/// Returns the address of the metrics from the notes that a server wrote at its start.
fn metrics_address(server: &Server) -> SocketAddr {
    let notes = server.notes();
    let end = notes.rfind("/metrics").unwrap();
    let address = notes[..end].rsplit("http://").next().unwrap();
    address.parse().unwrap_or_else(|_| panic!("no address in {notes}"))
}

/// For each new connection, the one that has been idle longest ends.
#[test]
fn idle_connections_give_way() {
    let server = Server::start(&["--max-http-connections", "3"]);
    let publish = |stream: &mut TcpStream| drop(published(&ask(stream, &post("/t/x", "", "x"))));
    let mut kept: Vec<TcpStream> = (0..3).map(|_| dial(server.address())).collect();
    kept.iter_mut().for_each(publish);
    // After this the second connection has been idle longest.
    publish(&mut kept[0]);
    for gives_way in [1, 2, 0] {
        let mut new = dial(server.address());
        publish(&mut new);
        expect_end(&mut kept[gives_way]);
        kept.push(new);
    }
    kept[3..].iter_mut().for_each(publish);
    for _ in 0..20 {
        published(&exchange(server.address(), &post("/t/x", "", "x").replacen("\r\n", "\r\nConnection: close\r\n", 1)));
    }
    server.expect_counts(&[("refused_total{cause=\"limit\"}", 0), ("messages_in_total", 3 + 1 + 3 + 3 + 20)]);
    assert!(server.counts().get("http_displaced_total") >= 4);
}

/// Sends a request `times` times, then ends the client's side. The answers are far larger than the client's socket.
/// Returns the client, which has read only the first status; `None` if the connection was refused.
fn ask_and_read_nothing(address: SocketAddr, target: &str, times: usize) -> Option<TcpStream> {
    let mut stream = dial_with(address, Some(4_096));
    stream.write_all(request("GET", target).repeat(times).as_bytes()).ok()?;
    stream.shutdown(Shutdown::Write).ok()?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).ok()?;
    head.ends_with(b" 200").then_some(stream)
}

/// A client that does not read its last answer keeps its connection's permit for one `--body-timeout`, and then is
/// reset. There are never more such connections than permits.
#[test]
fn connections_that_deliver_their_last_answer_give_way() {
    const ROUNDS: u64 = 4;
    for (limit, permits) in [("--max-connections-per-address", 2), ("--max-http-connections", 1)] {
        let flags = [limit, &permits.to_string(), "--send-buffer", "4MiB", "--body-timeout", "1s"];
        let server = Server::start(&flags);
        let begin = Instant::now();
        let mut deaf = Vec::new();
        while deaf.len() < ROUNDS as usize {
            // There is no permit before the last connection is reset.
            deaf.extend(ask_and_read_nothing(server.address(), "/", 4));
            let open = KernelSocket::with_much_unsent(server.address().port());
            assert!(open.len() <= permits, "{limit}: {open:?}");
            assert!(begin.elapsed() < DEADLINE, "{limit}: {} have been answered", deaf.len());
        }
        server.expect_counts(&[("http_connections_open", 0), ("http_too_slow_total", ROUNDS)]);
        server.expect_counts(&[("http_displaced_total", 0)]);
    }
}

/// A connection that has sent its last answer and waits for its client's end gives way to a new one of its address. So
/// does one whose request had `Connection: close`, and one whose client sends a byte after the idle time.
#[test]
fn connections_that_have_delivered_their_last_answer_give_way() {
    const FIN_WAIT_1: u8 = 4;
    let flags = ["--max-connections-per-address", "1", "--idle-timeout", "100ms", "--body-timeout", "1h"];
    let (_folder, server) = Folder::serve("delivered", &[&flags[..], &["--send-buffer", "8MiB"]].concat());
    for (round, request) in [closing("/large"), request("GET", "/large")].into_iter().enumerate() {
        let mut stream = dial_with(server.address(), Some(16_384));
        stream.write_all(request.as_bytes()).unwrap();
        let begin = Instant::now();
        // Waits until the server has ended its side, while most of the answer is still unsent.
        while !KernelSocket::with_much_unsent(server.address().port()).iter().any(|socket| socket.state == FIN_WAIT_1) {
            assert!(begin.elapsed() < DEADLINE, "the server does not finish its side");
        }
        if round == 1 {
            stream.write_all(b"x").unwrap();
        }
        assert_eq!(answered(&server, None, &closing("/nothing")), 429);
        assert!(read_slowly(&mut stream, Duration::ZERO) > Folder::LARGE);
        while answered(&server, None, &closing("/nothing")) != 404 {
            assert!(begin.elapsed() < DEADLINE, "the connection does not give way");
        }
        // The client has not ended its side, so only the giving way has made room.
        server.expect_counts(&[("http_displaced_total", round as u64 + 1), ("http_connections_open", 0)]);
    }
}

/// A client that reads its last answer slowly gets all of it, although new connections want its permit all the time.
#[test]
fn newcomers_do_not_cut_off_a_reader() {
    for (limit, refused) in [("--max-http-connections", 503), ("--max-connections-per-address", 429)] {
        let (_folder, server) = Folder::serve(limit, &[limit, "1", "--send-buffer", "8MiB"]);
        let mut reader = dial_with(server.address(), Some(16_384));
        reader.write_all(request("GET", "/large").as_bytes()).unwrap();
        assert_eq!(reader.peek(&mut [0]).unwrap(), 1);
        let reading = thread::spawn(move || read_slowly(&mut reader, Duration::from_millis(30)));
        let begin = Instant::now();
        let mut refusals = 0;
        while answered(&server, None, &closing("/nothing")) == refused {
            refusals += 1;
            assert!(begin.elapsed() < DEADLINE, "{limit}: the connection does not give way");
            thread::sleep(Duration::from_millis(10));
        }
        assert!(refusals > 0, "{limit}: a new connection finds room at once");
        assert!(reading.join().unwrap() > Folder::LARGE, "{limit}: the answer is cut off");
        server.expect_counts(&[("http_displaced_total", 1), ("http_too_slow_total", 0)]);
    }
}

/// Connections to the address of the metrics are reset in the same way, so at most as many as there are permits hold
/// much memory.
#[test]
fn connections_that_deliver_their_last_metrics_give_way() {
    const PERMITS: usize = 64;
    let server = Server::start(&["--metrics-listen", "127.0.0.1:0", "--body-timeout", "1s"]);
    let metrics = metrics_address(&server);
    let length = exchange(metrics, &closing("/metrics")).body.len();
    let times = (256 * 1_024_usize).div_ceil(length);
    let mut deaf = Vec::new();
    // On a busy machine all of them take long, but each of them some moments.
    let mut begin = Instant::now();
    while deaf.len() < 3 * PERMITS {
        let answered = ask_and_read_nothing(metrics, "/metrics", times);
        if answered.is_some() {
            begin = Instant::now();
        }
        deaf.extend(answered);
        let open = KernelSocket::with_much_unsent(metrics.port());
        assert!(open.len() <= PERMITS, "{open:?}");
        assert!(begin.elapsed() < DEADLINE, "{} have been answered", deaf.len());
    }
    assert_eq!(exchange(metrics, &closing("/metrics")).status(), 200);
    server.counts_until("the connections are reset", |counts| counts.get("http_too_slow_total") >= PERMITS as u64);
    KernelSocket::until_none("sockets with much unsent", || KernelSocket::with_much_unsent(metrics.port()));
}

/// A connection whose request has begun to arrive, or is being answered, does not give way. A connection without a
/// place gets a refusal.
#[test]
fn busy_connections_do_not_give_way() {
    let mut server = Server::start(&["--max-http-connections", "3", "--send-buffer", "4096"]);
    let mut busy: Vec<TcpStream> = (0..2).map(|_| dial(server.address())).collect();
    busy.iter_mut().for_each(|stream| drop(published(&ask(stream, &post("/t/x", "", "x")))));
    busy[0].write_all(b"POST /t/x HT").unwrap();
    let whole = post("/t/x", "", "body");
    busy[1].write_all(whole.trim_end_matches('y').as_bytes()).unwrap();
    // The client does not read the page.
    let mut reader = dial_with(server.address(), Some(4_096));
    reader.write_all(request("GET", "/").as_bytes()).unwrap();
    server.expect_counts(&[("http_requests_total", 4)]);
    for (request, status) in [(post("/t/x", "", "x"), 503), (request("GET", "/"), 503), (request("HEAD", "/"), 503)] {
        let response = exchange(server.address(), &request);
        assert_eq!((response.status(), response.header("retry-after")), (status, Some("1")), "{response:?}");
        assert_eq!(response.header("connection"), Some("close"));
    }
    server.expect_counts(&[("refused_total{cause=\"limit\"}", 3), ("http_displaced_total", 0)]);
    busy[0].write_all(&whole.as_bytes()[12..]).unwrap();
    busy[1].write_all(b"y").unwrap();
    for stream in &mut busy {
        published(&take_response(stream, Vec::new(), true).0);
    }
    assert_eq!(take_response(&mut reader, Vec::new(), true).0.status(), 200);
    published(&exchange(server.address(), &post("/t/x", "", "x").replacen("\r\n", "\r\nConnection: close\r\n", 1)));
    drop((busy, reader));
    assert_eq!(server.end().matches("--max-http-connections allows").count(), 1);
}

/// On the address of the metrics, idle connections give way too, even before their first request; busy ones do not.
#[test]
fn connections_to_the_metrics_give_way() {
    let server = Server::start(&["--metrics-listen", "127.0.0.1:0"]);
    let metrics = metrics_address(&server);
    let idle: Vec<TcpStream> = (0..100).map(|_| dial(metrics)).collect();
    assert_eq!(exchange(metrics, &closing("/metrics")).status(), 200);
    let mut busy: Vec<TcpStream> = (0..64).map(|_| dial(metrics)).collect();
    for stream in &mut busy {
        assert_eq!(ask(stream, &request("HEAD", "/metrics")).status(), 200);
        stream.write_all(b"GET /metrics HT").unwrap();
    }
    drop(idle);
    // There may be a place until the last of the busy requests has begun.
    while exchange(metrics, &closing("/nothing")).status() == 404 {}
    let silent: Vec<TcpStream> = (0..100).map(|_| dial(metrics)).collect();
    for (target, status) in [("/healthz", 200), ("/readyz", 200), ("/metrics", 200), ("/nothing", 503)] {
        assert_eq!(exchange(metrics, &closing(target)).status(), status, "{target}");
    }
    drop(silent);
    for stream in &mut busy {
        stream.write_all(b"TP/1.1\r\nHost: a\r\n\r\n").unwrap();
        assert_eq!(take_response(stream, Vec::new(), true).0.status(), 200);
    }
}

fn closing(target: &str) -> String {
    request("GET", target).replacen("\r\n", "\r\nConnection: close\r\n", 1)
}

/// Returns whether `ringhub health` finds the server alive.
fn is_healthy(address: SocketAddr) -> bool {
    let mut command = program();
    command.args(["health", "--address", &address.to_string()]);
    run_to_end(command).status.success()
}

/// Checks the health that a shard reports, on connections with a place or without one.
#[track_caller]
fn check_health(address: SocketAddr) {
    for (target, body) in [("/healthz", "alive\n"), ("/readyz", "ready\n")] {
        let response = exchange(address, &request("GET", target));
        assert_eq!((response.status(), &*response.body), (200, body));
        assert_eq!(response.header("content-type"), Some("text/plain; charset=utf-8"));
        assert_eq!(exchange(address, &format!("GET http://a{target}?x HTTP/1.0\r\n\r\n")).status(), 200);
        assert_eq!(exchange(address, &request("HEAD", target)).header("content-length"), Some("6"));
        let response = exchange(address, &request("POST", target));
        assert_eq!((response.status(), response.header("allow")), (405, Some("GET, HEAD")));
    }
    assert!(is_healthy(address));
}

/// A full server is healthy: with all connections in use, or all of one address, or all HTTP connections, and with
/// silent sockets in every place for a refusal.
#[test]
fn a_full_server_is_healthy() {
    for flags in [["--max-connections", "2"], ["--max-connections-per-address", "2"]] {
        let server = Server::start(&flags);
        let clients: Vec<Client> = (0..2).map(|_| server.connect("/t/x")).collect();
        check_health(server.address());
        let silent: Vec<TcpStream> = (0..200).map(|_| dial(server.address())).collect();
        server.counts_until("all are accepted", |counts| counts.get("accepted_total") >= 200 + 2 + 9);
        check_health(server.address());
        let status = if flags[0] == "--max-connections" { 503 } else { 429 };
        for request in [request("GET", "/"), upgrade_request("/healthz"), upgrade_request("/t/x")] {
            assert_eq!(answered(&server, None, &request), status, "{request}");
        }
        drop((silent, clients));
    }
    let server = Server::start(&["--max-http-connections", "1"]);
    let mut busy = dial(server.address());
    busy.write_all(post("/t/x", "", "body").trim_end_matches('y').as_bytes()).unwrap();
    server.counts_until("the request is served", |counts| counts.get("http_requests_total") == 1);
    assert_eq!(answered(&server, None, &request("GET", "/")), 503);
    check_health(server.address());
    busy.write_all(b"y").unwrap();
    published(&take_response(&mut busy, Vec::new(), true).0);
}

/// A server that is full in any way answers requests for its metrics, if the client may read them, and nothing else.
#[test]
fn a_full_server_is_monitored() {
    for flags in [["--max-connections", "2"], ["--max-connections-per-address", "2"]] {
        let server = Server::start(&[&flags[..], &["--metrics-tokens", "m-token", "--shards", "2"]].concat());
        let address = server.address();
        let clients: Vec<Client> = (0..2).map(|_| server.connect("/t/x")).collect();
        let authorized =
            |method: &str| request(method, "/metrics").replacen("\r\n", "\r\nAuthorization: Bearer m-token\r\n", 1);
        let scrape = exchange(address, &authorized("GET"));
        assert_eq!((scrape.status(), scrape.header("connection")), (200, Some("close")), "{scrape:?}");
        assert!(scrape.body.contains("connections_open"), "{}", scrape.body);
        assert_eq!(exchange(address, &authorized("HEAD")).status(), 200);
        assert_eq!(exchange(address, &authorized("POST")).status(), 405);
        assert_eq!(exchange(address, &request("GET", "/metrics")).status(), 401);
        // Silent sockets hold every place for a refusal, and some monitors neither read nor leave.
        let silent: Vec<TcpStream> = (0..200).map(|_| dial(address)).collect();
        let deaf: Vec<TcpStream> = (0..100)
            .map(|_| {
                let mut stream = dial(address);
                stream.write_all(authorized("GET").as_bytes()).unwrap();
                stream
            })
            .collect();
        server.counts_until("all are accepted", |counts| counts.get("accepted_total") >= 2 + 4 + 300);
        let deadline = Instant::now() + DEADLINE;
        // There may be no room until all monitors have been accepted.
        while exchange(address, &authorized("GET")).status() != 200 {
            assert!(Instant::now() < deadline, "no monitor is answered");
        }
        let status = if flags[0] == "--max-connections" { 503 } else { 429 };
        for request in [request("GET", "/"), upgrade_request("/metrics"), post("/t/x", "", "x")] {
            assert_eq!(answered(&server, None, &request), status, "{request}");
        }
        drop((silent, deaf, clients));
        server.expect_counts(&[("http_connections_open", 0), ("connections_open", 0)]);
        // Refused connections have neither taken nor given back a place.
        let clients: Vec<Client> = (0..2).map(|_| Client::open_when_there_is_room(address, "/t/x")).collect();
        assert_eq!(answered(&server, None, &upgrade_request("/t/x")), status);
        drop(clients);
    }
    // Only clients that may read the metrics take the place of a monitor.
    let flags = ["--max-connections", "1", "--metrics-tokens", "m-token", "--allowed-origins", "http://a.example"];
    let server = Server::start(&flags);
    let _client = server.connect("/t/x");
    let with = |line: &str| request("GET", "/metrics").replacen("\r\n", &format!("\r\n{line}\r\n"), 1);
    let refused = exchange(server.address(), &with("Origin: http://a.example"));
    assert_eq!((refused.status(), refused.header("www-authenticate")), (401, Some("Bearer")), "{refused:?}");
    assert_eq!(refused.header("access-control-allow-origin"), Some("http://a.example"));
    assert_eq!(exchange(server.address(), &with("Authorization: Bearer x")).status(), 401);
    assert_eq!(exchange(server.address(), &with("Origin: http://b.example")).status(), 403);
    let counts = server.counts();
    let refused = ["token", "forbidden"].map(|cause| counts.get(&format!("refused_total{{cause=\"{cause}\"}}")));
    assert_eq!((refused, counts.get("http_requests_total"), counts.get("http_connections_total")), ([2, 1], 3, 0));
    assert_eq!(exchange(server.address(), &with("Authorization: Bearer m-token")).status(), 200);
    assert_eq!(server.counts().get("http_connections_total"), 1);
    let server = Server::start(&["--max-http-connections", "1"]);
    let mut busy = dial(server.address());
    busy.write_all(post("/t/x", "", "body").trim_end_matches('y').as_bytes()).unwrap();
    server.counts_until("the request is served", |counts| counts.get("http_requests_total") == 1);
    assert_eq!(exchange(server.address(), &request("GET", "/metrics")).status(), 200);
    assert_eq!(exchange(server.address(), &request("GET", "/")).status(), 503);
    // If the metrics have their own address, a full server does not answer them here.
    let server = Server::start(&["--max-connections", "1", "--metrics-listen", "127.0.0.1:0"]);
    let _client = server.connect("/t/x");
    assert_eq!(exchange(server.address(), &request("GET", "/metrics")).status(), 503);
    assert_eq!(exchange(metrics_address(&server), &request("GET", "/metrics")).status(), 200);
}

/// A connection that was accepted before the drain and asks during it gets an answer, even without a place.
#[test]
fn a_leaving_server_is_alive_and_not_ready() {
    let mut server = Server::start(&["--max-connections", "3", "--drain-timeout", "60s", "--close-timeout", "60s"]);
    let mut stays = server.connect("/t/x");
    stays.never_answer();
    let mut early: Vec<TcpStream> = (0..4).map(|_| dial(server.address())).collect();
    server.counts_until("all are accepted", |counts| counts.get("accepted_total") == 5);
    server.signal(Signal::TERM);
    stays.expect(crate::support::close(1012, crate::support::RESTART));
    for (stream, (target, status)) in early.iter_mut().zip([("/healthz", 200), ("/readyz", 503)].repeat(2)) {
        stream.write_all(request("GET", target).as_bytes()).unwrap();
        let response = read_response(stream, &[], true);
        assert_eq!(response.status(), status, "{target}");
        if status == 503 {
            assert!(response.error().contains("going away"), "{}", response.error());
        }
    }
    drop((stays, early));
    assert!(server.wait().success());
}

/// A page of an allowed origin may read the health from a shard, and also from the control thread.
#[test]
fn pages_may_read_the_health() {
    let server = Server::start(&["--allowed-origins", "https://a.example"]);
    for (origin, allowed) in [("https://a.example", Some("https://a.example")), ("https://b.example", None)] {
        let asks = request("GET", "/healthz").replacen("\r\n", &format!("\r\nOrigin: {origin}\r\n"), 1);
        let fresh = exchange(server.address(), &asks);
        let mut kept = dial(server.address());
        assert_eq!(ask(&mut kept, &request("GET", "/")).status(), 200);
        for response in [fresh, ask(&mut kept, &asks)] {
            assert_eq!((response.status(), &*response.body), (200, "alive\n"));
            assert_eq!(
                (response.header("access-control-allow-origin"), response.header("vary")),
                (allowed, Some("origin, sec-fetch-site, sec-fetch-mode, sec-fetch-dest"))
            );
        }
    }
    // A shard does not answer a request that hyper would refuse.
    assert_eq!(exchange(server.address(), "GET /healthz HTTP/1.1\r\n\r\n").status(), 400);
}

/// A folder with one large file, which a drop removes.
struct Folder(PathBuf);

impl Folder {
    const LARGE: usize = 4 << 20;

    fn serve(name: &str, settings: &[&str]) -> (Folder, Server) {
        let path = std::env::temp_dir().join(format!("ringhub-places-{name}-{}", std::process::id()));
        fs::create_dir_all(path.join("site")).unwrap();
        fs::write(path.join("site/large"), pattern(0, Folder::LARGE)).unwrap();
        let file = path.join("ringhub.toml");
        fs::write(&file, "routes = [{ match = \"/\", documents = \"./site\" }]").unwrap();
        let mut command = clean(program());
        command.args(["serve", "--config"]).arg(file).args(settings);
        (Folder(path), Server::start_command(command))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

/// Reads a little at a time, and returns the number of bytes before the end or a reset.
fn read_slowly(stream: &mut TcpStream, pause: Duration) -> usize {
    let (mut all, mut chunk) = (0, vec![0; 32 * 1_024]);
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return all,
            Ok(count) => all += count,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return all,
            Err(error) => panic!("{error} after {all} bytes"),
        }
        thread::sleep(pause);
    }
}

/// Readers that are slower than `--min-rate` lose their files and places.
#[test]
fn slow_readers_are_given_up() {
    let (_folder, server) =
        Folder::serve("slow", &["--min-rate", "1GiB", "--body-timeout", "1s", "--send-buffer", "64KiB"]);
    let slow: Vec<TcpStream> = (0..64).map(|_| dial_with(server.address(), Some(16_384))).collect();
    for mut stream in &slow {
        stream.write_all(request("GET", "/large").as_bytes()).unwrap();
    }
    let readers: Vec<_> = slow
        .into_iter()
        .map(|mut stream| thread::spawn(move || read_slowly(&mut stream, Duration::from_millis(100))))
        .collect();
    server.expect_counts(&[("http_too_slow_total", 64), ("http_connections_open", 0)]);
    for reader in readers {
        assert!(reader.join().unwrap() < Folder::LARGE, "a slow reader has got everything");
    }
    let mut fast = dial(server.address());
    fast.write_all(closing("/large").as_bytes()).unwrap();
    assert!(read_slowly(&mut fast, Duration::ZERO) > Folder::LARGE);
}

/// When the largest number of files is being sent, a request for one more is answered 503, until one has been read.
#[test]
fn more_files_than_are_sent_at_once() {
    let (_folder, server) = Folder::serve("files", &["--body-timeout", "1h", "--send-buffer", "64KiB"]);
    let mut readers: Vec<TcpStream> = (0..64).map(|_| dial_with(server.address(), Some(16_384))).collect();
    for stream in &mut readers {
        stream.write_all(closing("/large").as_bytes()).unwrap();
        stream.peek(&mut [0]).unwrap();
    }
    let response = exchange(server.address(), &closing("/large"));
    assert_eq!((response.status(), response.header("retry-after")), (503, Some("1")), "{response:?}");
    assert!(response.error().contains("as many files"), "{}", response.error());
    assert!(read_slowly(&mut readers.pop().unwrap(), Duration::ZERO) > Folder::LARGE);
    let mut stream = dial(server.address());
    stream.write_all(closing("/large").as_bytes()).unwrap();
    assert!(read_slowly(&mut stream, Duration::ZERO) > Folder::LARGE);
}

/// Slow readers are reset too when the socket has taken the whole answer: the rest is not left to the kernel.
#[test]
fn slow_readers_of_the_rest_are_given_up() {
    let settings = ["--min-rate", "1GiB", "--body-timeout", "1s", "--send-buffer", "32MiB"];
    let (_folder, server) = Folder::serve("rest", &settings);
    let mut slow = dial_with(server.address(), Some(16_384));
    slow.write_all(closing("/large").as_bytes()).unwrap();
    let reader = thread::spawn(move || read_slowly(&mut slow, Duration::from_millis(100)));
    server.expect_counts(&[("http_too_slow_total", 1), ("http_connections_open", 0)]);
    assert!(reader.join().unwrap() < Folder::LARGE, "the slow reader has got everything");
}

/// A slow reader that is no slower than `min_rate` gets all of a large file.
#[test]
fn slow_but_honest_readers_get_everything() {
    let (_folder, server) = Folder::serve("honest", &["--body-timeout", "2s", "--send-buffer", "64KiB"]);
    let mut stream = dial_with(server.address(), Some(16_384));
    stream.write_all(closing("/large").as_bytes()).unwrap();
    assert!(read_slowly(&mut stream, Duration::from_millis(20)) > Folder::LARGE);
    server.expect_counts(&[("http_too_slow_total", 0), ("http_connections_open", 0)]);
}

/// Unfinished bodies hold all the room for bodies, until other bodies need it.
#[test]
fn bodies_without_an_end_give_way() {
    const LARGEST: usize = 1 << 20;
    let server = Server::start(&["--max-message", "1MiB", "--max-bodies", "4MiB", "--body-timeout", "1h"]);
    let head = post("/t/x", "", "").replace("Length: 0", &format!("Length: {LARGEST}"));
    let begun = [head.as_bytes(), &pattern(0, LARGEST - 1)].concat();
    let mut hoarders: Vec<TcpStream> = (0..4).map(|_| dial(server.address())).collect();
    for stream in &mut hoarders {
        stream.write_all(&begun).unwrap();
    }
    let begin = Instant::now();
    while has_unread_input(server.address()) {
        assert!(begin.elapsed() < DEADLINE, "the bodies do not arrive");
        thread::sleep(Duration::from_millis(5));
    }
    let mut honest = dial(server.address());
    let small = post("/t/x", "", &"x".repeat(10_000));
    for _ in 0..100 {
        published(&ask(&mut honest, &small));
    }
    server.expect_counts(&[("refused_total{cause=\"limit\"}", 1)]);
    let mut statuses: Vec<u16> = hoarders
        .iter_mut()
        .map(|stream| {
            // The write may fail, if the body has given way.
            drop(stream.write_all(b"x"));
            take_response(stream, Vec::new(), true).0.status()
        })
        .collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [202, 202, 202, 503]);
}

/// Returns whether bytes for that address are still unsent or unread.
fn has_unread_input(address: SocketAddr) -> bool {
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let port = format!(":{:04X}", address.port());
    // The columns: number, both addresses, state, unsent and unread bytes.
    table.lines().skip(1).any(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let (unsent, unread) = columns[4].split_once(':').unwrap();
        (columns[1].ends_with(&port) && columns[3] == "01" && unread != "00000000")
            || (columns[2].ends_with(&port) && unsent != "00000000")
    })
}
