//! Places that anybody may hold: who gives way when they are used up, and who is told what.

mod support;

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, TcpStream},
    thread,
    time::Instant,
};

use support::{
    Client, DEADLINE, Response, Server, dial, dial_from, exchange, post, published, reset, take_response, text,
    upgrade_request,
};

fn request(method: &str, target: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n")
}

/// The response on a connection that stays.
#[track_caller]
fn ask(stream: &mut TcpStream, request: &str) -> Response {
    stream.write_all(request.as_bytes()).unwrap();
    let (response, rest) = take_response(stream, Vec::new(), !request.starts_with("HEAD "));
    assert!(rest.is_empty(), "{response:?}");
    response
}

/// All addresses from 127.0.0.2 on are this machine's too.
fn address(last: u8) -> Option<IpAddr> {
    Some(Ipv4Addr::new(127, 0, 0, last).into())
}

/// What a new connection is answered that asks for a WebSocket or something else.
fn answered(server: &Server, from: Option<IpAddr>, request: &str) -> u16 {
    let mut stream = dial_from(server.address(), from, None);
    stream.write_all(request.as_bytes()).unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).expect("a status line");
    str::from_utf8(&head[9..]).unwrap().parse().unwrap()
}

/// Whatever they speak, and on whichever shard they are: the fourth of an address is told so, that of another is not.
#[test]
fn an_address_has_so_many_connections() {
    let mut server = Server::start(&["--shards", "2", "--max-connections-per-address", "3"]);
    let websocket = server.connect("/t/x");
    let mut http = dial(server.address());
    published(&ask(&mut http, &post("/t/x", "", "x")));
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
    // Each of the three gives its place back.
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

/// However connections have begun, gone from thread to thread and ended, in the end an address has as many places as at
/// first.
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
                    // Any of these may be refused, and the socket closed at any moment.
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

/// A connection that becomes a WebSocket behind other requests is counted once, before and after.
#[test]
fn an_address_keeps_its_place_from_thread_to_thread() {
    let server = Server::start(&["--shards", "2", "--max-connections-per-address", "1"]);
    for _ in 0..3 {
        let begin = || {
            let mut stream = dial(server.address());
            stream.write_all(post("/t/x", "", "x").as_bytes()).ok()?;
            let mut first = [0];
            // Until the place of the one before is free again, there is none.
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
