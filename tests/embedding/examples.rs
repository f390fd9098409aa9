//! Each example does what its first lines promise. (The client's tests run `client_tail`.)

use ringhub::ConnectionId;

use crate::example::Example;
use crate::support::{Client, RESTART, Received, close, dial, exchange, post, request, text, upgrade_request};

/// Returns the next text message.
#[track_caller]
fn line(client: &mut Client) -> String {
    match client.receive() {
        Received::Text(text) => text,
        other => panic!("{other:?} instead of text"),
    }
}

/// Returns the id in parentheses, or else the last word, as an id.
fn id(line: &str) -> ConnectionId {
    let word = line.split_whitespace().find(|word| word.starts_with('(')).or(line.split_whitespace().last());
    word.unwrap().trim_matches(['(', ')']).parse().unwrap_or_else(|error| panic!("{line:?}: {error}"))
}

#[test]
fn chat() {
    let mut chat = Example::start("chat", &[]);
    let mut anna = chat.connect("/rooms/lobby?name=anna");
    let anna_id = id(&line(&mut anna));
    let mut bob = chat.connect("/rooms/lobby?name=bob");
    let bob_id = id(&line(&mut bob));
    anna.expect(text(&format!("* bob ({bob_id}) has come")));
    anna.send_text("hello");
    bob.expect(text("anna: hello"));

    anna.send_text(&format!("/to {bob_id} psst"));
    bob.expect(text("anna, to you alone: psst"));
    anna.send_text("/to 0.1 x");
    anna.expect(text("* a connection's id is three numbers with dots between them, such as 0.17.2"));
    anna.send_text("/to 0.77777.0 x");
    anna.expect(text("* there is no open connection 0.77777.0"));

    let mut carla = chat.connect("/rooms/attic?name=carla");
    line(&mut carla);
    bob.send_text("/join attic");
    carla.expect(text(&format!("* bob ({bob_id}) has come to attic")));
    carla.send_text("who is there?");
    bob.expect(text("carla: who is there?"));
    bob.send_text("/join attic");
    bob.expect(text("* the connection is a subscriber of this topic"));
    bob.send_text("/leave attic");
    carla.expect(text("* bob has left attic"));
    bob.send_text("/leave attic");
    bob.expect(text("* you are not in attic"));
    // A client gets neither its own messages nor those of other rooms.
    carla.expect_nothing();
    bob.leave();
    anna.expect(text("* bob has gone"));
    anna.send_text(&format!("/to {anna_id} note to self"));
    anna.expect(text("anna, to you alone: note to self"));

    let refused = exchange(chat.address(), &upgrade_request("/rooms/lobby"));
    assert_eq!((refused.status(), &*refused.error()), (400, "say who you are: ?name=..."));
    chat.interrupt();
    for mut client in [anna, carla] {
        client.expect_close(1012, RESTART);
    }
    chat.wait();
}

/// Every other client gets a broadcast once. Kore's GLOBAL sends it twice on the worker of its source.
#[test]
fn broadcast() {
    let example = Example::start("broadcast", &["--workers", "2"]);
    let targets = ["/connect", "/connect/local"];
    // A hash of the addresses chooses the worker, so clients connect until both workers have a connection of each kind.
    let mut clients: Vec<(ConnectionId, &str, Client)> = Vec::new();
    let has = |clients: &[(ConnectionId, &str, Client)], shard: u16, kind: &str| {
        clients.iter().any(|(id, target, _)| id.shard() == shard && *target == kind)
    };
    while !targets.iter().all(|kind| has(&clients, 0, kind) && has(&clients, 1, kind)) {
        let target = targets[clients.len() % 2];
        let mut client = example.connect(target);
        let id = id(&line(&mut client));
        assert_eq!(example.line(), Some(format!("{id} connected")));
        clients.push((id, target, client));
    }
    for source in 0..clients.len() {
        let (from, kind, client) = &mut clients[source];
        let (from, is_local) = (*from, *kind == "/connect/local");
        let said = format!("{from} says {source}");
        client.send_text(&said);
        for (id, _, client) in clients.iter_mut().filter(|(id, ..)| *id != from) {
            if !is_local || id.shard() == from.shard() {
                client.expect(text(&said));
            }
        }
        for (.., client) in &mut clients {
            client.expect_nothing();
        }
    }
    for (id, _, client) in clients {
        client.leave();
        assert_eq!(example.line(), Some(format!("{id} disconnected: 1000 bye")));
    }
}

#[test]
fn ticker() {
    let ticker = Example::start("ticker", &["--rate", "2000"]);
    let mut clients = [ticker.connect("/ticks"), ticker.connect("/ticks")];
    for client in &mut clients {
        let mut number = || -> u64 {
            let tick: serde_json::Value = serde_json::from_str(&line(client)).unwrap();
            tick["tick"].as_u64().unwrap_or_else(|| panic!("{tick}"))
        };
        let first = number();
        for next in 1..500 {
            assert_eq!(number(), first + next);
        }
    }
    let second = ticker.line().unwrap();
    assert!(second.starts_with("2000 published in "), "{second}");
}

#[test]
fn auth() {
    let auth = Example::start("auth", &[]);
    let basic = |user: &str| -> String {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        format!("Basic {}", STANDARD.encode(user))
    };
    let connect =
        |user: &str| Client::open_with(dial(auth.address()), "/news", &[], &[("Authorization", &basic(user))]).unwrap();
    let mut alice = connect("alice:wonderland");
    alice.expect(text("welcome, alice (Editor)"));
    let mut agency = auth.connect("/news?access_token=press-agency-token");
    agency.expect(text("welcome, press agency (Editor)"));
    let mut bob = connect("bob:builder");
    bob.expect(text("welcome, bob (Reader)"));
    for (number, announcement) in [(1, "good news"), (2, "better news")] {
        alice.send_text(announcement);
        for client in [&mut alice, &mut agency, &mut bob] {
            client.expect(text(&format!("alice, {number}: {announcement}")));
        }
    }
    bob.send_text("me too");
    bob.expect_close(1008, "readers only read");
    alice.expect_nothing();

    let refuse = |header: &str, status: u16, error: &str| {
        let request = upgrade_request("/news").replacen("\r\n", &format!("\r\n{header}"), 1);
        let response = exchange(auth.address(), &request);
        assert_eq!((response.status(), &*response.error()), (status, error));
        let challenge = response.head.headers().get_all("www-authenticate").next();
        assert_eq!(challenge.is_some(), status == 401);
    };
    refuse(&format!("Authorization: {}\r\n", basic("mallory:letmein")), 403, "you have no account here");
    refuse(&format!("Authorization: {}\r\n", basic("alice:guess")), 401, "the user or the password is wrong");
}

#[test]
fn json_telemetry() {
    let telemetry = Example::start("json_telemetry", &[]);
    let mut dashboard = telemetry.connect("/dashboard");
    dashboard.send_text(r#"{"watch":"boiler"}"#);
    dashboard.expect(text(r#"{"watching":"boiler"}"#));
    let mut boiler = telemetry.connect("/devices/boiler");
    let mut other = telemetry.connect("/devices/other");
    boiler.send_text(r#"{"celsius":71.5,"battery":93}"#);
    dashboard.expect(text(r#"{"device":"boiler","number":1,"celsius":71.5,"is_low":false}"#));
    other.send_text(r#"{"celsius":1,"battery":93}"#);
    other.expect_nothing();
    boiler.send_text(r#"{"battery":19,"celsius":-3}"#);
    dashboard.expect(text(r#"{"device":"boiler","number":2,"celsius":-3.0,"is_low":true}"#));

    let check = |target: &str, bad: &str, error: &str| {
        let mut client = telemetry.connect(target);
        client.send_text(bad);
        client.expect(text(&serde_json::json!({ "error": error }).to_string()));
        client.expect_close(1008, &error[..error.len().min(123)]);
        telemetry.log_until(error.split('"').next().unwrap());
    };
    check("/devices/x", "hot", "expected value at line 1 column 1");
    check("/devices/x", r#"{"celsius":"hot"}"#, "invalid type: string \"hot\", expected f64 at line 1 column 16");
    check("/devices/x", r#"{"celsius":1}"#, "missing field `battery` at line 1 column 13");
    check("/devices/x", r#"{"celsius":1,"battery":101}"#, "battery is 101, not between 0 and 100 per cent");
    check("/dashboard", r#"{"ignore":"x"}"#, "x: it was not watched");
    let long = format!(r#"{{"{}":1}}"#, "k".repeat(200));
    let error = format!("unknown variant `{}`, expected `watch` or `ignore` at line 1 column 203", "k".repeat(200));
    check("/dashboard", &long, &error);
    let mut binary = telemetry.connect("/dashboard");
    binary.send_binary(b"{}");
    binary.expect(text(r#"{"error":"JSON is text, not binary"}"#));
    binary.expect_close(1008, "JSON is text, not binary");

    dashboard.send_text(r#"{"ignore":"boiler"}"#);
    dashboard.expect_nothing();
    boiler.send_text(r#"{"celsius":0,"battery":93}"#);
    boiler.expect_nothing();
    dashboard.expect_nothing();
}

#[test]
fn beside_axum() {
    let beside = Example::start("beside_axum", &["--token", "hush"]);
    let second = beside.line().unwrap();
    let http = second.strip_prefix("http://").and_then(|rest| rest.split('/').next()).unwrap().parse().unwrap();
    let mut watchers = [beside.connect("/t/orders/eu?mode=sub"), beside.connect("/t/orders/eu?mode=sub")];
    let mut elsewhere = beside.connect("/t/orders/us?mode=sub");
    for number in 1..=3 {
        let order = format!("{{\"order\":{number}}}");
        let answer = exchange(http, &post("/orders/eu", "application/json", &order));
        assert_eq!((answer.status(), &*answer.body), (200, &*format!("message {number} of orders/eu\n")));
        watchers.iter_mut().for_each(|watcher| watcher.expect(text(&order)));
    }
    elsewhere.expect_nothing();
    let refused = exchange(http, &post(&format!("/orders/{}", "x".repeat(300)), "text/plain", "1"));
    assert_eq!(refused.status(), 400, "{refused:?}");
    // Without the token a WebSocket only watches.
    let refused = exchange(beside.address(), &upgrade_request("/t/orders/eu"));
    assert_eq!(refused.status(), 401, "{refused:?}");
}

/// The login, the interface and the WebSocket are on one port, and know the same sessions.
#[test]
fn http_beside() {
    let example = Example::start("http_beside", &[]);
    let address = example.address();
    let page = exchange(address, &request("GET", "/"));
    assert!(page.status() == 200 && page.body.contains("<form"), "{page:?}");
    let log_in = |password: &str| {
        exchange(
            address,
            &post("/login", "application/x-www-form-urlencoded", &format!("name=anna&password={password}")),
        )
    };
    assert_eq!(log_in("guess").status(), 401);
    let answer = log_in("hush");
    assert_eq!((answer.status(), answer.header("location")), (303, Some("/")), "{answer:?}");
    let cookie = answer.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    let headers = [("Cookie", &*cookie)];
    assert_eq!(exchange(address, &request("GET", "/api/me")).status(), 403);
    let with_cookie = |request: String| request.replacen("Host:", &format!("Cookie: {cookie}\r\nHost:"), 1);
    assert_eq!(exchange(address, &with_cookie(request("GET", "/api/me"))).body, "anna");
    let refused = Client::open(dial(address), "/live?room=lobby", &[]);
    assert_eq!(refused.err().expect("it is refused").status(), 403);
    let mut client = Client::open_with(dial(address), "/live?room=lobby", &[], &headers).unwrap();
    let said = exchange(address, &with_cookie(post("/api/say/lobby", "text/plain", "hello")));
    assert_eq!((said.status(), &*said.body), (200, "1"));
    client.expect(text("anna: hello"));
}

#[test]
fn files() {
    let files = Example::start("files", &[]);
    let get = |path: &str| {
        exchange(files.address(), &format!("GET {path} HTTP/1.1\r\nHost: hub.example\r\nConnection: close\r\n\r\n"))
    };
    for (path, content_type, part) in [
        ("/", "text/html", "src=\"wall.js\""),
        ("/wall.js", "text/javascript", "new WebSocket(new URL(\"wall\""),
        ("/wall.css", "text/css", "body {"),
    ] {
        let response = get(path);
        assert_eq!(response.status(), 200, "{path}");
        assert!(response.header("content-type").unwrap().starts_with(content_type), "{response:?}");
        assert!(response.body.contains(part), "{response:?}");
    }
    assert_eq!(get("/nothing").status(), 404);
    let mut writers = [files.connect("/wall"), files.connect("/wall")];
    writers[0].send_text("first");
    for client in &mut writers {
        client.expect(text("first"));
        client.expect_nothing();
    }
    writers[1].send_text(&"x".repeat(401));
    writers[1].expect(close(1009, "a message is larger than 400 bytes"));
}
