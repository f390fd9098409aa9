//! Tests two surfaces in one server, over real sockets: raw topics share topics with the surface `lines`, and the
//! control thread makes the same checks before an endpoint of either surface answers.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use super::{
    BuildError, Running, Server,
    testing::{Client, Manner, PATIENCE},
};
use crate::{
    config::{Config, Flags, Given, effective},
    surface::echo::Echo,
};

/// The messages of all publishers have one order, and the subscribers of both surfaces see this order, whichever way a
/// message came. An answer over HTTP names the place of its message in this order.
#[test]
fn both_surfaces_share_topics_and_their_order() {
    let server = serve("shards = 3\n", &[HUB, LINES]);
    let address = server.local_addr();
    let mut observer = open(address, "/t/news?echo=true");
    let mut others = vec![open(address, "/t/news?mode=sub")];
    others.extend((0..3).map(|_| {
        let mut peer = open(address, "/l/open");
        peer.say("subscribe news");
        assert_eq!(peer.text(), ":subscribed news");
        peer
    }));
    let total = PUBLISHERS.len() * MESSAGES + JOINS;
    let publishing: Vec<_> = (0..PUBLISHERS.len()).map(|kind| thread::spawn(move || publish(address, kind))).collect();
    let joining = thread::spawn(move || join_and_leave(address));
    let order: Vec<u64> = (0..total).map(|_| number(&mut observer)).collect();
    for other in &mut others {
        assert_eq!((0..total).map(|_| number(other)).collect::<Vec<_>>(), order, "there is one order");
    }
    for (kind, placed) in publishing.into_iter().map(|thread| thread.join().unwrap()).enumerate() {
        let own = order.iter().copied().filter(|number| number / KIND == kind as u64);
        assert!(own.eq((0..MESSAGES as u64).map(|number| kind as u64 * KIND + number)), "{}", PUBLISHERS[kind]);
        placed.into_iter().for_each(|(offset, number)| assert_eq!(order[offset as usize - 1], number));
    }
    for seen in joining.join().unwrap() {
        let start = order.iter().position(|number| *number == seen[0]).expect("it was published");
        assert_eq!(order[start..][..seen.len()], seen, "a subscription is a piece of the order");
        assert!(seen.iter().any(|number| number / KIND == PUBLISHERS.len() as u64), "its own message is in it");
    }
    end(server);
}

/// The ways to publish in the test of the order.
const PUBLISHERS: [&str; 5] = ["raw", "line", "raw POST", "named POST", "PUT"];

/// Messages of each publisher.
const MESSAGES: usize = 150;

/// Subscriptions that come and go meanwhile.
const JOINS: usize = 40;

/// The numbers of a publisher's messages begin at a multiple of this number.
const KIND: u64 = 1_000;

/// Publishes numbers in one of the ways. Returns the offset of each, if its answers have offsets.
fn publish(address: SocketAddr, kind: usize) -> Vec<(u64, u64)> {
    let numbers = (0..MESSAGES as u64).map(|number| kind as u64 * KIND + number);
    let offset_in = |answer: &str| {
        let digits = answer.trim_end().rsplit(['{', ':', ' ', ',']).next().unwrap().trim_end_matches('}');
        digits.parse().unwrap_or_else(|_| panic!("no offset in {answer}"))
    };
    match PUBLISHERS[kind] {
        "raw" => {
            let mut peer = open(address, "/t/news?mode=pub");
            numbers.for_each(|number| peer.say(&number.to_string()));
            // The socket is closed when all is published.
            peer.end_side();
            peer.rest();
            Vec::new()
        }
        "line" => {
            let mut peer = open(address, "/l/open");
            numbers.for_each(|number| peer.say(&format!("publish news {number}")));
            peer.end_side();
            peer.rest();
            Vec::new()
        }
        "raw POST" => {
            numbers.map(|number| (offset_in(&ask(address, "POST /t/news", "", &number.to_string())), number)).collect()
        }
        "named POST" => {
            let body = |number| format!("{{\"topic\":\"news\",\"payload\":\"{number}\"}}");
            numbers.map(|number| (offset_in(&ask(address, "POST /l/publish", "", &body(number))), number)).collect()
        }
        _ => numbers
            .map(|number| (offset_in(&ask(address, "PUT /l/topics/news", "", &number.to_string())), number))
            .collect(),
    }
}

/// Subscribes and unsubscribes by lines, and publishes once in each subscription. Returns the messages that each
/// subscription has brought.
fn join_and_leave(address: SocketAddr) -> Vec<Vec<u64>> {
    let mut peer = open(address, "/l/open");
    let round = |join: usize| {
        peer.say("subscribe news");
        assert_eq!(peer.text(), ":subscribed news");
        let own = PUBLISHERS.len() as u64 * KIND + join as u64;
        peer.say(&format!("publish news {own}"));
        let mut seen = vec![number(&mut peer)];
        while *seen.last().unwrap() != own {
            seen.push(number(&mut peer));
        }
        peer.say("unsubscribe news");
        loop {
            match &*peer.text() {
                ":unsubscribed news" => return seen,
                number => seen.push(number.parse().unwrap()),
            }
        }
    };
    (0..JOINS).map(round).collect()
}

/// The rules of a topic hold however a client names it: in a path, in a body, or in a message.
#[test]
fn a_topic_is_judged_by_its_name() {
    let staff = "match = \"/staff/{topic...}\"\nhandler = \"hub\"\ntopic_prefix = \"staff/\"\nmax_message = \"8B\"\n\
                 [routes.bearer.tokens]\nann = \"a-long-random-word\"\n";
    let server = serve("", &[HUB, LINES, staff]);
    let address = server.local_addr();
    let with = "Authorization: Bearer a-long-random-word\r\n";
    let named = |topic: &str, payload: &str| format!("{{\"topic\":\"{topic}\",\"payload\":\"{payload}\"}}");
    let check = |line: &str, headers: &str, body: &str, expected: u16| {
        let answer = ask(address, line, headers, body);
        assert_eq!(status(&answer), expected, "{line} {headers:?} {body}: {answer}");
        answer
    };
    check("POST /l/publish", "", &named("news", "x"), 200);
    let refused = check("POST /l/publish", "", &named("staff/x", "x"), 401);
    assert!(refused.contains("by the rules of the route /staff/{topic...}"), "{refused}");
    check("POST /l/publish", "Authorization: Bearer another\r\n", &named("staff/x", "x"), 401);
    check("POST /l/publish", with, &named("staff/x", "x"), 200);
    check("PUT /l/topics/staff/x", "", "x", 401);
    check("PUT /l/topics/staff/x", with, "x", 201);
    // The permission that the path has given is for no other topic.
    check("PUT /l/topics/news", "X-Topic: staff/x\r\n", "x", 401);
    check("PUT /l/topics/news", &format!("X-Topic: staff/x\r\n{with}"), "x", 201);
    // The limit of the topic's messages is that of the narrowest route to it, too.
    let refused = check("POST /l/publish", with, &named("staff/x", "123456789"), 413);
    assert!(refused.contains("largest one to this topic, 8 bytes"), "{refused}");
    check("PUT /l/topics/staff/x", with, "123456789", 413);
    check("PUT /l/topics/news", with, "123456789", 201);
    for bad in ["", "\\u0000"] {
        check("POST /l/publish", with, &named(bad, "x"), 400);
    }
    let mut peer = open(address, "/l/open");
    for (line, expected) in [
        ("subscribe news", ":subscribed news"),
        ("publish news hello", "hello"),
        ("subscribe staff/x", ":refused 401 "),
        ("publish staff/x hello", ":refused 401 "),
        ("publish staff/x", ":refused 401 "),
        ("subscribe", ":refused 400 "),
        ("dance news", ":refused 400 "),
    ] {
        peer.say(line);
        let answer = peer.text();
        assert!(answer.starts_with(expected), "{line}: {answer}");
    }
    let mut staff = open_with(address, "/l/open", "a-long-random-word");
    staff.say("subscribe staff/x");
    assert_eq!(staff.text(), ":subscribed staff/x");
    staff.say("publish staff/x 123456789");
    assert!(staff.text().starts_with(":refused 413 "));
    staff.say("publish staff/x 12345678");
    assert_eq!(staff.text(), "12345678");
    drop((peer, staff));
    end(server);
}

/// The prefix and the gate of a route hold for every way to its topics, and the server's tokens hold in addition.
#[test]
fn the_rules_of_a_second_surface_hold_for_its_topics() {
    let lines = LINES.to_owned() + "topic_prefix = \"in/\"\n[routes.bearer.tokens]\nbob = \"a-word-of-bob\"\n";
    let server = serve("subscribe_tokens = [\"a-word-of-bob\"]\n", &[HUB, &lines]);
    let address = server.local_addr();
    let with = "Authorization: Bearer a-word-of-bob\r\n";
    let named = "{\"topic\":\"x\",\"payload\":\"y\"}";
    assert_eq!(status(&ask(address, "POST /l/publish", "", named)), 401);
    let mut peer = open_with(address, "/l/open", "a-word-of-bob");
    peer.say("subscribe x");
    assert_eq!(peer.text(), ":subscribed in/x");
    assert_eq!(status(&ask(address, "POST /l/publish", with, named)), 200);
    assert_eq!(peer.text(), "y");
    assert_eq!(status(&ask(address, "POST /t/in/x", "", "z")), 401);
    assert_eq!(status(&ask(address, "POST /t/in/x", with, "z")), 202);
    assert_eq!(peer.text(), "z");
    assert_eq!(status(&ask(address, "POST /t/x", "", "elsewhere")), 202);
    assert_eq!(status(&ask(address, "GET /l/facts/a/b", with, "")), 200);
    drop(peer);
    end(server);
    let server = serve("subscribe_tokens = [\"a-long-random-word\"]\n", &[LINES]);
    let mut peer = open(server.local_addr(), "/l/open");
    peer.say("publish x y");
    peer.say("subscribe x");
    assert!(peer.text().starts_with(":refused 401 "));
    drop(peer);
    end(server);
}

#[test]
fn the_same_checks_stand_in_front_of_every_endpoint() {
    let lines = LINES.to_owned()
        + "greeting = \"hello\"\nhas_deletes = true\nmax_line = \"20B\"\nmax_message = \"1KiB\"\n\
           [routes.passwords]\nann = \"secret\"\n";
    let server = serve("", &[HUB, &lines]);
    let address = server.local_addr();
    let check = |line: &str, headers: &str, body: &str, expected: u16, within: &str| {
        let answer = ask(address, line, headers, body);
        assert_eq!(status(&answer), expected, "{line}: {answer}");
        assert!(answer.contains(within), "{line}: {within:?} is not in {answer}");
    };
    for (line, allow) in [
        ("POST /l/open", "GET, HEAD"),
        ("OPTIONS /l/open", "GET, HEAD"),
        ("GET /l/publish", "POST, OPTIONS"),
        ("POST /l/topics/x", "PUT, PATCH, OPTIONS"),
        ("put /l/topics/x", "PUT, PATCH, OPTIONS"),
        ("POST /l/facts/a/b", "GET, DELETE, OPTIONS"),
    ] {
        check(line, "", "", 405, &format!("allow: {allow}\r\n"));
    }
    check("GET /l/open", "", "", 426, "upgrade: websocket\r\n");
    for path in ["/l", "/l/", "/l/facts/a", "/l/facts/a/b/c", "/l/topics"] {
        check(&format!("GET {path}"), "", "", 404, "nothing is at");
    }
    check("OPTIONS /l/publish", "", "", 204, "access-control-allow-methods: POST\r\n");
    check("OPTIONS /l/publish", "", "", 204, "access-control-allow-headers: authorization, content-type, x-line\r\n");
    check("OPTIONS /l/facts/a/b", "", "", 204, "access-control-allow-methods: GET, DELETE\r\n");
    check("OPTIONS /l/facts/a/b", "", "", 204, ": authorization, content-type, x-fact, x-other\r\n");
    check("OPTIONS /t/x", "", "", 204, "access-control-allow-methods: GET, POST, DELETE\r\n");
    let password = "X-Password: secret\r\n";
    check("GET /l/facts/a%20b/c", password, "", 200, "kind=a b name=c for nobody, from true");
    check("HEAD /l/facts/a/b", password, "", 200, "content-length: 35\r\n");
    check("GET /l/facts/a/b", "", "", 403, "cache-control: no-store\r\n");
    check("GET /l/facts/a/b?x", password, "", 400, "facts have no query");
    check("DELETE /l/facts/a/b", "", "", 200, "deleted");
    check("PATCH /l/topics/a/b%2Fc", "", "x", 201, "x-topic: a/b/c\r\n");
    check("PUT /l/topics/x", "", &"x".repeat(1_024), 201, "x 1");
    check("PUT /l/topics/x", "", &"x".repeat(1_025), 413, "than the largest message, 1024 bytes");
    let named = |count: usize| format!("{{\"topic\":\"x\",\"payload\":\"\"}}{}", " ".repeat(count));
    check("POST /l/publish", "", &named(4_096 - named(0).len()), 200, "{\"offset\":2}");
    check(
        "POST /l/publish",
        "",
        &named(4_097 - named(0).len()),
        413,
        "than the largest body that this path takes, 4096 bytes",
    );
    check("POST /l/publish", "", "{", 400, "EOF");
    check("POST /l/publish", "Origin: null\r\n", &named(0), 200, "access-control-allow-origin: null\r\n");
    let mut peer = open(address, "/l/open");
    assert_eq!(peer.text(), "hello");
    peer.say("publish x 1234567890");
    peer.say("publish x 12345678901");
    assert!(peer.text().starts_with(":refused 413 "));
    assert_eq!(Client::try_open(address, "/l/publish", &[], Manner::default()).err(), Some(404));
    drop(peer);
    end(server);
    let server = serve("", &[LINES]);
    let answer = ask(server.local_addr(), "DELETE /l/facts/a/b", "", "");
    assert!(status(&answer) == 410 && answer.contains("cache-control: no-store\r\n"), "{answer}");
    end(server);
}

/// A request for an endpoint of any surface is refused while the server leaves. A request whose head has begun is still
/// read.
#[test]
fn a_server_that_leaves_refuses_every_endpoint() {
    for (line, expected) in
        [("PUT /l/topics/x", 503), ("GET /l/facts/a/b", 503), ("POST /t/x", 503), ("OPTIONS /l/publish", 204)]
    {
        let server = serve("", &[HUB, LINES]);
        // The server waits for its closing handshake.
        let peer = open(server.local_addr(), "/l/open");
        let mut stream = dial(server.local_addr());
        stream.write_all(format!("GET /l/facts/a/b HTTP/1.1\r\nHost: a\r\n\r\n{line}").as_bytes()).unwrap();
        assert!(stream.read(&mut [0; 4_096]).unwrap() > 0);
        // The control thread has taken the beginning of the second head when it has nothing else to do.
        thread::sleep(Duration::from_millis(100));
        server.stop();
        thread::sleep(Duration::from_millis(100));
        stream.write_all(b" HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(status(&answer), expected, "{line}: {answer}");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
        drop(peer);
        server.wait_blocking().unwrap();
    }
}

/// Every conflict of paths is found before the server listens, and its error names the path and both routes.
#[test]
fn no_two_surfaces_have_one_path() {
    let hub = |path: &str| format!("match = \"{path}\"\nhandler = \"hub\"\n");
    let lines = |path: &str, keys: &str| format!("match = \"{path}\"\nhandler = \"lines\"\n{keys}");
    for (routes, expected) in [
        (vec![lines("/l", ""), hub("/l/topics/{topic...}")], "\"/l/topics/{topic...}\" is there already, at "),
        (vec![hub("/l/topics/{topic...}"), lines("/l", "")], "\"/l/topics/{topic...}\" is there already, at "),
        (vec![lines("/l", ""), lines("/l/", "")], "\"/l/open\" is there already, at "),
        (vec![lines("/", "")], "routes.match: /healthz is the server's own, for its operator"),
        (vec![lines("/l/{x...}", "")], "\"lines\" has paths below \"/l/{x...}\": the route \"/l/{x...}/open\" has"),
        (vec![lines("/{topic}", "")], "the route \"/{topic}/topics/{topic...}\" has {topic} twice"),
        (vec![hub("/l")], "\"/l\" has no {topic} or {topic...}"),
        (vec![hub("/{topic}") + "greeting = \"x\""], "routes.greeting: \"hub\" has no greeting"),
        (vec![lines("/l", "greeting = \"\"")], "routes.greeting: it is empty; leave it out"),
        (vec![lines("/l", "greeting = 7")], "routes.greeting: text in quotes is expected, not this integer"),
        (vec![lines("/l", "has_deletes = 7")], "routes.has_deletes: true or false is expected"),
        (vec![lines("/l", "max_line = 0")], "routes.max_line: no command fits into 0 bytes"),
        (vec![lines("/l", "passwords = \"x\"")], "routes.passwords: a table is expected"),
        (vec![lines("/l", "[routes.passwords]\nann = 7")], "routes.passwords: a secret in quotes is expected"),
        (vec![lines("/l", "greetings = \"x\"")], "unknown key \"greetings\" of a route; did you mean \"greeting\"?"),
        (vec!["match = \"/\"\nhandler = \"page\"\ngreeting = \"x\"".into()], "greeting concerns WebSockets"),
        (vec![lines("/l", "documents = \"x\"")], "routes.documents"),
        (
            vec!["match = \"/l\"\nhandler = \"line\"".into()],
            "routes.handler: \"line\" is none of hub, echo, lines, ringhub.v1, events, publish, files, page",
        ),
        (
            vec!["match = \"/l\"".into()],
            "a route needs a handler: \"hub\", \"echo\", \"lines\", \"ringhub.v1\", \"events\",",
        ),
    ] {
        let routes: Vec<&str> = routes.iter().map(|route| &**route).collect();
        let error = config("", &routes).map(drop).expect_err(expected);
        assert!(error.contains(expected), "{expected:?} is not in {error}");
    }
    let small = "max_message = \"1KiB\"\nmax_bodies = \"2KiB\"\n";
    let error = config(small, &[LINES]).map(drop).expect_err("a limit of bodies that is too small");
    assert!(error.contains("routes.handler: \"lines\" needs a max_bodies of 4KiB, which is 2KiB"), "{error}");
    // The routes of an embedder meet those of the file when the server is built.
    let build = |path: &str| Server::builder().config(config("", &[LINES]).unwrap()).route(path, Echo).build();
    assert!(matches!(build("/l/facts/{x}/{y}"), Err(BuildError::Clash(..))));
    assert!(build("/l/facts/{x}").is_ok());
}

/// A printed configuration shows no secret of a surface.
#[test]
fn secrets_of_surfaces_are_masked() {
    let path = file("", &[&(LINES.to_owned() + "greeting = \"hello\"\n[routes.passwords]\nann = \"hush\"\n")]);
    let mut flags = Flags::default();
    flags.read_file(path.clone(), "test");
    let given = Given::read(&flags, []);
    let shown = effective(&given, &given.config(20_000).unwrap());
    fs::remove_file(path).unwrap();
    assert!(shown.contains("hello") && shown.contains("ann = \"***\"") && !shown.contains("hush"), "{shown}");
}

const HUB: &str = "match = \"/t/{topic...}\"\nhandler = \"hub\"\n";
const LINES: &str = "match = \"/l\"\nhandler = \"lines\"\n";

/// Returns the path of a file with these settings and routes.
fn file(settings: &str, routes: &[&str]) -> PathBuf {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("surfaces-{}-{number}.toml", std::process::id()));
    let routes: String = routes.iter().map(|route| format!("[[routes]]\n{route}\n")).collect();
    fs::write(&path, format!("listen = \"127.0.0.1:0\"\n{settings}\n{routes}")).unwrap();
    path
}

/// Returns the configuration of a file, or the text of its errors.
fn config(settings: &str, routes: &[&str]) -> Result<Config, String> {
    let path = file(settings, routes);
    let mut flags = Flags::default();
    flags.read_file(path.clone(), "test");
    let config = Given::read(&flags, []).config(20_000);
    fs::remove_file(path).unwrap();
    config.map_err(|errors| errors.to_string())
}

fn serve(settings: &str, routes: &[&str]) -> Running {
    let config = config(settings, routes).unwrap_or_else(|error| panic!("{error}"));
    Server::builder().config(config).build().unwrap().start().unwrap()
}

fn end(server: Running) {
    server.stop();
    server.wait_blocking().unwrap();
}

fn dial(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Returns the whole answer to a request, in small letters up to the end of its head.
fn ask(address: SocketAddr, line: &str, headers: &str, body: &str) -> String {
    let mut stream = dial(address);
    let length = body.len();
    let head = format!("{line} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n");
    stream.write_all((head + body).as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{line}: {answer:?}"));
    format!("{}\r\n\r\n{body}", head.split("\r\n").map(lower_name).collect::<Vec<_>>().join("\r\n"))
}

/// Returns a header line with its name in small letters.
fn lower_name(line: &str) -> String {
    line.split_once(": ").map_or_else(|| line.into(), |(name, value)| format!("{}: {value}", name.to_lowercase()))
}

fn status(answer: &str) -> u16 {
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.unwrap_or_else(|| panic!("no status in {answer:?}"))
}

/// Opens a WebSocket of either surface.
fn open(address: SocketAddr, target: &str) -> Client {
    Client::web_socket(address, target)
}

/// Opens a WebSocket with this token.
fn open_with(address: SocketAddr, target: &str, token: &str) -> Client {
    let headers = [("Authorization", &*format!("Bearer {token}"))];
    Client::try_open(address, target, &headers, Manner::default()).expect("the token opens the door")
}

/// Returns the next message, which is a number.
fn number(client: &mut Client) -> u64 {
    let text = client.text();
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no number"))
}
