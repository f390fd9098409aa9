//! Rates at which clients come, and at which they publish by HTTP.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use crate::support::{
    Client, Response, Server, binary, clean, dial, dial_from, exchange, program, read_response, take_response, text,
    upgrade_request,
};

/// Publishes a text with these header lines, from an address of the loopback.
fn publish(server: &Server, from: Ipv4Addr, target: &str, headers: &str) -> Response {
    let mut stream = dial_from(server.address(), Some(IpAddr::V4(from)), None);
    let request = format!("POST {target} HTTP/1.1\r\nHost: a\r\n{headers}Content-Length: 2\r\n\r\nhi");
    stream.write_all(request.as_bytes()).expect("the server takes the request");
    read_response(&mut stream, &[], true)
}

fn retry_after(response: &Response) -> u64 {
    let seconds = response.header("retry-after").unwrap_or_else(|| panic!("{response:?}"));
    seconds.parse().unwrap_or_else(|_| panic!("{response:?}"))
}

const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// An address that has published as much as it may waits; another does not. A refused message is not published.
#[test]
fn an_address_publishes_at_its_rate() {
    let server = Server::start(&["--max-publish-rate-per-address", "1/h burst 3"]);
    let mut subscriber = server.connect("/t/x?mode=sub");
    (0..3).for_each(|_| assert_eq!(publish(&server, HERE, "/t/x", "").status(), 202));
    let refused = publish(&server, HERE, "/t/x", "");
    assert_eq!(
        (refused.status(), refused.error().as_str()),
        (429, "more messages than max_publish_rate_per_address allows")
    );
    assert!((3_500..=3_600).contains(&retry_after(&refused)), "{refused:?}");
    assert_eq!(publish(&server, ELSEWHERE, "/t/x", "").status(), 202);
    (0..4).for_each(|_| subscriber.expect(binary(b"hi")));
    subscriber.expect_nothing();
    server.expect_counts(&[
        ("rate_refused_total{rate=\"publishes_of_address\"}", 1),
        ("refused_total{cause=\"rate\"}", 1),
    ]);
}

/// Other requests of an address, and its WebSockets, do not count.
#[test]
fn only_messages_by_http_count_as_publishes() {
    let server = Server::start(&["--max-publish-rate-per-address", "1/h burst 2"]);
    for _ in 0..5 {
        assert_eq!(
            exchange(server.address(), "GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").status(),
            200
        );
    }
    let mut subscriber = server.connect("/t/x");
    let mut publisher = server.connect("/t/x?mode=pub");
    (0..20).for_each(|number| publisher.send_text(&number.to_string()));
    (0..20).for_each(|number| subscriber.expect(text(&number.to_string())));
    (0..2).for_each(|_| assert_eq!(publish(&server, HERE, "/t/x", "").status(), 202));
    assert_eq!(publish(&server, HERE, "/t/x", "").status(), 429);
}

/// A token has its rate whatever the addresses that show it, in the header or in the query.
#[test]
fn a_token_publishes_at_its_rate() {
    let server = Server::start(&["--publish-tokens=one,other", "--max-publish-rate-per-token", "1/h burst 2"]);
    let one = "Authorization: Bearer one\r\n";
    assert_eq!(publish(&server, HERE, "/t/x", one).status(), 202);
    assert_eq!(publish(&server, ELSEWHERE, "/t/x?access_token=one", "").status(), 202);
    let refused = publish(&server, HERE, "/t/y", one);
    assert_eq!(
        (refused.status(), refused.error().as_str()),
        (429, "more messages than max_publish_rate_per_token allows")
    );
    assert_eq!(publish(&server, HERE, "/t/x", "Authorization: Bearer wrong\r\n").status(), 401);
    assert_eq!(publish(&server, HERE, "/t/x", "Authorization: Bearer other\r\n").status(), 202);
    server.expect_counts(&[("rate_refused_total{rate=\"publishes_of_token\"}", 1)]);
}

/// A message that one rate refuses counts against no other: who shares the address can still publish.
#[test]
fn an_identity_publishes_at_its_rate() {
    let file = std::env::temp_dir().join(format!("ringhub-identities-{}.toml", std::process::id()));
    let settings = r#"
        max_publish_rate_per_identity = "1/h burst 2"
        max_publish_rate_per_address = "1/h burst 4"
        [[routes]]
        match = "/t/{topic...}"
        handler = "hub"
        basic = { users = { alice = "secret", bob = "hidden" } }
    "#;
    fs::write(&file, settings).expect("a file of settings");
    let mut command = clean(program());
    command.args(["serve", "--config"]).arg(&file);
    let server = Server::start_command(command);
    fs::remove_file(&file).expect("the file is there");
    let (alice, bob) = ("Authorization: Basic YWxpY2U6c2VjcmV0\r\n", "Authorization: Basic Ym9iOmhpZGRlbg==\r\n");
    let statuses = |user| [(); 3].map(|()| publish(&server, HERE, "/t/x", user).status());
    assert_eq!(statuses(alice), [202, 202, 429]);
    assert_eq!(statuses(alice), [429, 429, 429]);
    assert_eq!(statuses(bob), [202, 202, 429]);
    assert_eq!(publish(&server, ELSEWHERE, "/t/x", bob).status(), 429);
    server.expect_counts(&[
        ("rate_refused_total{rate=\"publishes_of_identity\"}", 5),
        // The address has published four messages, and was asked for a fifth first.
        ("rate_refused_total{rate=\"publishes_of_address\"}", 1),
    ]);
}

/// An address that opens WebSockets faster than it may is told how long to wait; another is served. A request that
/// opens none does not count.
#[test]
fn an_address_opens_websockets_at_its_rate() {
    let server = Server::start(&["--max-handshake-rate", "1/h burst 2", "--shards=2"]);
    let clients: Vec<Client> = (0..2).map(|_| server.connect("/t/x")).collect();
    let refused = Client::open(dial(server.address()), "/t/x", &[]).err().expect("it is refused");
    let what = "more opening requests from one address than max_handshake_rate allows";
    assert_eq!((refused.status(), refused.error().as_str()), (429, what));
    assert!((3_500..=3_600).contains(&retry_after(&refused)), "{refused:?}");
    let elsewhere = dial_from(server.address(), Some(IpAddr::V4(ELSEWHERE)), None);
    Client::open(elsewhere, "/t/x", &[]).expect("another address is served").leave();
    assert_eq!(publish(&server, HERE, "/t/x", "").status(), 202);
    server.expect_counts(&[
        ("rate_refused_total{rate=\"handshakes\"}", 1),
        ("refused_total{cause=\"rate\"}", 1),
        ("opened_total", 3),
    ]);
    clients.into_iter().for_each(|client| drop(client.into_stream()));
}

/// Asks several times on one connection that the control thread serves. Returns the answers.
fn ask_kept(address: SocketAddr, requests: &[String]) -> Vec<Response> {
    let mut kept = dial(address);
    kept.write_all(b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n").expect("the server takes the request");
    let (first, mut rest) = take_response(&mut kept, Vec::new(), true);
    assert_eq!(first.status(), 404);
    let mut ask = |request: &String| {
        kept.write_all(request.as_bytes()).expect("the connection is kept");
        let (answer, after) = take_response(&mut kept, std::mem::take(&mut rest), true);
        rest = after;
        answer
    };
    requests.iter().map(&mut ask).collect()
}

fn statuses(answers: &[Response]) -> Vec<u16> {
    answers.iter().map(Response::status).collect()
}

/// A request that shows a token.
fn shown(request_line: &str, token: &str) -> String {
    format!("{request_line} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\nContent-Length: 0\r\n\r\n")
}

/// Opening requests on a connection that the control thread keeps count too, so guesses of a token are slow there.
#[test]
fn refused_openings_on_a_kept_connection_have_the_rate_of_openings() {
    let server = Server::start(&["--subscribe-tokens=right", "--max-handshake-rate", "1/h burst 3"]);
    let opening = |token: &str| upgrade_request(&format!("/t/x?mode=sub&access_token={token}"));
    let answers = ask_kept(server.address(), &["a", "b", "c", "d", "right"].map(opening));
    assert_eq!(statuses(&answers), [401, 401, 401, 429, 429]);
    assert_eq!(answers[4].error(), "more opening requests from one address than max_handshake_rate allows");
    assert!((3_500..=3_600).contains(&retry_after(&answers[4])), "{answers:?}");
    // The same bucket on a shard.
    let refused = Client::open(dial(server.address()), "/t/x?mode=sub&access_token=right", &[]).err();
    assert_eq!(refused.map(|refused| refused.status()), Some(429));
    server.expect_counts(&[("rate_refused_total{rate=\"handshakes\"}", 3), ("opened_total", 0)]);
}

/// An opening on a kept connection counts once, though the control thread and a shard judge it.
#[test]
fn an_opening_on_a_kept_connection_counts_once() {
    let server = Server::start(&["--max-handshake-rate", "1/h burst 2"]);
    let open = || {
        let mut kept = dial(server.address());
        kept.write_all(b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n").expect("the server takes the request");
        let (first, rest) = take_response(&mut kept, Vec::new(), true);
        assert_eq!((first.status(), rest.len()), (404, 0));
        Client::open(kept, "/t/x?mode=sub", &[]).map_or_else(|refused| refused.status(), |_| 101)
    };
    assert_eq!([open(), open(), open()], [101, 101, 429]);
}

/// Whoever shows wrong tokens faster than the rate gets no further answer about one, on any path and on any thread. A
/// request without a token, and another address, are served.
#[test]
fn refused_credentials_of_an_address_have_a_rate() {
    let settings = r#"
        max_guess_rate = "1/h burst 6"
        admin_tokens = ["boss"]
        metrics_tokens = ["watch"]
        publish_tokens = ["right"]
        [[routes]]
        match = "/t/{topic...}"
        handler = "hub"
        [[routes]]
        match = "/files"
        handler = "files"
        documents = "DOCS"
        bearer = { tokens = { ann = "word" } }
    "#;
    let settings = settings.replace("DOCS", concat!(env!("CARGO_MANIFEST_DIR"), "/docs"));
    let file = std::env::temp_dir().join(format!("ringhub-guesses-{}.toml", std::process::id()));
    fs::write(&file, settings).expect("a file of settings");
    let mut command = clean(program());
    command.args(["serve", "--config"]).arg(&file);
    let server = Server::start_command(command);
    fs::remove_file(&file).expect("the file is there");
    let lines = ["POST /t/x", "GET /files/limits.md", "GET /connections", "GET /metrics"];
    let guesses = lines.map(|line| shown(line, "guess"));
    let answers = ask_kept(server.address(), &[&guesses[..], &guesses[..]].concat());
    assert_eq!(statuses(&answers), [401, 401, 401, 401, 401, 401, 429, 429]);
    assert_eq!(answers[7].error(), "more wrong credentials from one address than max_guess_rate allows");
    assert!((3_500..=3_600).contains(&retry_after(&answers[7])), "{answers:?}");
    // Right ones are not told from wrong ones.
    let right = [("POST /t/x", "right"), ("GET /files/limits.md", "word"), ("GET /connections", "boss")];
    let right = right.map(|(line, token)| shown(line, token));
    assert_eq!(statuses(&ask_kept(server.address(), &right)), [429, 429, 429]);
    for token in ["guess", "right"] {
        let target = format!("/t/x?mode=pub&access_token={token}");
        let refused = Client::open(dial(server.address()), &target, &[]).err();
        assert_eq!(refused.map(|refused| refused.status()), Some(429), "on a shard");
    }
    assert_eq!(publish(&server, HERE, "/t/x", "").status(), 401, "no token is no guess");
    Client::open(dial(server.address()), "/t/x?mode=sub", &[]).expect("no token is needed").leave();
    assert_eq!(publish(&server, ELSEWHERE, "/t/x", "Authorization: Bearer right\r\n").status(), 202);
    let mut elsewhere = dial_from(server.address(), Some(IpAddr::V4(ELSEWHERE)), None);
    elsewhere.write_all(shown("GET /metrics", "watch").as_bytes()).expect("the server takes the request");
    let metrics = read_response(&mut elsewhere, &[], true);
    let counted = "ringhub_rate_refused_total{shard=\"process\",rate=\"guesses\"} 7";
    assert!(metrics.body.contains(counted), "{:?}", metrics.body.lines().find(|line| line.contains("guesses")));
}

/// On a shard wrong tokens of opening requests count.
#[test]
fn refused_credentials_of_opening_requests_have_a_rate() {
    let server = Server::start(&["--subscribe-tokens=right", "--max-guess-rate", "1/h burst 2", "--shards=2"]);
    let open = |token: &str, from| {
        let stream = dial_from(server.address(), Some(IpAddr::V4(from)), None);
        let target = format!("/t/x?mode=sub&access_token={token}");
        Client::open(stream, &target, &[]).map_or_else(|refused| refused.status(), |_| 101)
    };
    assert_eq!([open("a", HERE), open("right", HERE), open("b", HERE), open("right", HERE)], [401, 101, 401, 429]);
    assert_eq!(open("right", ELSEWHERE), 101);
    server.expect_counts(&[("rate_refused_total{rate=\"guesses\"}", 1)]);
}

/// Sockets beyond the rate wait in the kernel's queue, and are served in the end.
#[test]
fn sockets_beyond_the_rate_wait_to_be_accepted() {
    let server = Server::start(&["--max-accept-rate", "10/s burst 5", "--shards=1"]);
    let begin = Instant::now();
    let streams: Vec<TcpStream> = (0..20)
        .map(|_| {
            let mut stream = dial(server.address());
            stream.write_all(upgrade_request("/t/x").as_bytes()).expect("the kernel takes the request");
            stream
        })
        .collect();
    for mut stream in streams {
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).expect("an answer");
        assert_eq!(&answer, b"HTTP/1.1 101");
    }
    assert!(begin.elapsed() >= Duration::from_millis(1_400), "20 were accepted in {:?}", begin.elapsed());
    let counts = server.counts();
    assert!(counts.get("accept_throttled_total") > 0 && counts.get("accepted_total") == 20, "{counts:?}");
}

/// Behind a trusted proxy the rates see the clients. The proxy's own address has no rate.
#[test]
fn rates_see_the_clients_of_trusted_proxies() {
    let rates = ["--max-handshake-rate", "1/h", "--max-publish-rate-per-address", "1/h"];
    let server = Server::start(&[&["--trusted-proxies=127.0.0.1"], &rates[..]].concat());
    let open = |client: Option<&str>| {
        let named: Vec<(&str, &str)> = client.iter().map(|client| ("X-Forwarded-For", *client)).collect();
        Client::open_with(dial(server.address()), "/t/x", &[], &named).map_or_else(|refused| refused.status(), |_| 101)
    };
    let publish = |client: &str| publish(&server, HERE, "/t/x", &format!("X-Forwarded-For: {client}\r\n")).status();
    for client in ["192.0.2.1", "192.0.2.2", "2001:db8::1"] {
        assert_eq!([open(Some(client)), open(Some(client))], [101, 429], "{client}");
        assert_eq!([publish(client), publish(client)], [202, 429], "{client}");
    }
    assert_eq!((open(Some("2001:db8::ffff")), open(Some("2001:db8:0:1::1"))), (429, 101), "a /64 counts as one");
    assert_eq!([open(None), open(None)], [101, 101]);
}
