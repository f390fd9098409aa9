//! Who may use which topic in `ringhub.v1`: fresh tokens, and decisions that take a while.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{PROTOCOL, expect_subscribed, json};
use crate::{
    callbacks::Application,
    support::{Client, Counts, Server, dial, exchange, post, program, reset, text},
    tokens::{issuer, sign, sign_with},
};

/// Starts a server with this file and these flags.
fn start(name: &str, file: &str, flags: &[String]) -> Server {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("v1-{name}.toml"));
    fs::write(&path, file).unwrap();
    let mut command = program();
    command.arg("--config").arg(path).args(flags);
    Server::start_command(command)
}

/// Returns a token that ends in so many seconds.
fn short_token(seconds: u64, claims: &str) -> String {
    let ends = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + seconds;
    sign_with(&format!(r#"{{"exp":{ends},{claims}}}"#))
}

/// A connection outlives its first token by a fresh one, whose grants decide about the topics that it has: on a server
/// without routes, and on one whose routes to the topics have gates of their own.
#[test]
fn a_fresh_token_counts_for_all_topics() {
    const SECONDS: u64 = 4;
    let issuer = format!("{}leeway = \"0s\"\n", issuer());
    let routes = "[[routes]]\nmatch = \"/t/{topic...}\"\nhandler = \"hub\"\njwt = \"app\"\n[[routes]]\nmatch = \
                  \"/ws\"\nhandler = \"ringhub.v1\"\njwt = \"app\"\n";
    let servers = [start("default", &issuer, &[]), start("routes", &format!("{issuer}{routes}"), &[])];
    let talks = servers.iter().flat_map(|server| {
        ["/ws", "/t/one"].map(|target| {
            let token = short_token(SECONDS, r#""sub":"42","subscribe":["one","two"],"publish":["two"]"#);
            let protocols = [PROTOCOL, "access_token", &token];
            (server, target, Client::open_with(dial(server.address()), target, &protocols, &[]).unwrap())
        })
    });
    let mut talks: Vec<_> = talks.collect();
    for (_, target, client) in &mut talks {
        if *target == "/ws" {
            client.send_text(r#"{"subscribe":{"topic":"one"}}"#);
        }
        expect_subscribed(client, None, "one");
        client.send_text(r#"{"publish":{"id":3,"topic":"one","data":1}}"#);
        assert_eq!(json(client)["error"]["name"], "forbidden");
        let fresh = sign(r#""sub":"42","subscribe":["one","three"],"publish":["three"]"#);
        let fresh = format!(r#"{{"refresh":{{"id":6,"token":"{fresh}"}}}}"#);
        if *target != "/ws" {
            client.send_text(&fresh);
            client.expect(text(r#"{"refreshed":{"id":6}}"#));
            continue;
        }
        client.send_text(r#"{"subscribe":{"id":1,"topic":"two"}}"#);
        expect_subscribed(client, Some(1), "two");
        client.send_text(r#"{"subscribe":{"id":2,"topic":"three"}}"#);
        assert_eq!(json(client)["error"]["name"], "forbidden");
        client.send_text(&fresh);
        client.expect(text(r#"{"refreshed":{"id":6}}"#));
        let ended = &json(client)["unsubscribed"];
        assert_eq!((&ended["topic"], &ended["name"]), (&"two".into(), &"forbidden".into()));
        assert!(ended["code"] == 121 && ended["temporary"] == false && ended["reason"].is_string());
        client.send_text(r#"{"subscribe":{"id":7,"topic":"three"}}"#);
        expect_subscribed(client, Some(7), "three");
    }
    thread::sleep(Duration::from_secs(SECONDS + 1));
    let token = sign(r#""sub":"1","publish":["one"]"#);
    for server in &servers {
        let request = post("/t/one", "text/plain", "later");
        let request = request.replacen("\r\n", &format!("\r\nAuthorization: Bearer {token}\r\n"), 1);
        assert_eq!(exchange(server.address(), &request).status(), 202);
    }
    for (_, target, client) in &mut talks {
        assert_eq!(json(client)["message"]["data"], "later", "{target}");
    }
}

/// The judge is asked about one token in a second; the same token again is no question.
#[test]
fn tokens_are_judged_at_intervals() {
    let server = start("intervals", &issuer(), &[]);
    let open = || {
        let first = sign(r#""sub":"42","subscribe":["one"]"#);
        Client::open_with(dial(server.address()), "/ws", &[PROTOCOL, "access_token", &first], &[]).unwrap()
    };
    let refresh = |client: &mut Client, id: u64, token: &str| {
        client.send_text(&format!(r#"{{"refresh":{{"id":{id},"token":"{token}"}}}}"#));
        json(client)
    };
    let other = sign(r#""sub":"43","subscribe":["one"]"#);
    assert_eq!(refresh(&mut open(), 1, &other)["error"]["name"], "other_identity");
    let mut client = open();
    assert_eq!(refresh(&mut client, 1, "x.y.z")["error"]["name"], "unauthorized");
    let frame = refresh(&mut client, 2, &other);
    assert_eq!((&frame["error"]["name"], &frame["error"]["temporary"]), (&"too_many_commands".into(), &true.into()));
    thread::sleep(Duration::from_millis(1_100));
    let fresh = sign(r#""sub":"42","subscribe":["one","two"]"#);
    assert_eq!(refresh(&mut client, 3, &fresh)["refreshed"]["id"], 3);
    assert_eq!(refresh(&mut client, 4, &fresh)["refreshed"]["id"], 4);
    assert_eq!(refresh(&mut client, 5, &other)["error"]["name"], "too_many_commands");
    client.send_text(r#"{"subscribe":{"id":6,"topic":"two"}}"#);
    expect_subscribed(&mut client, Some(6), "two");
}

/// A fresh token for many topics does not hold up the turn: pings are answered before all topics are judged. Commands
/// wait behind the token.
#[test]
fn many_topics_are_judged_over_several_turns() {
    const TOPICS: usize = 100;
    let server = start("many", &format!("shards = 1\n{}", issuer()), &[]);
    let first = sign(r#""sub":"42","subscribe":["*"]"#);
    let mut client =
        Client::open_with(dial(server.address()), "/ws", &[PROTOCOL, "access_token", &first], &[]).unwrap();
    for topic in 0..TOPICS {
        client.send_text(&format!(r#"{{"subscribe":{{"id":{topic},"topic":"t{topic}"}}}}"#));
        expect_subscribed(&mut client, Some(topic as u64), &format!("t{topic}"));
    }
    let kept: Vec<String> = (0..TOPICS).step_by(2).map(|topic| format!("\"t{topic}\"")).collect();
    let fresh = sign(&format!(r#""sub":"42","subscribe":[{}]"#, kept.join(",")));
    client.send_text(&format!(r#"{{"refresh":{{"id":1,"token":"{fresh}"}}}}"#));
    client.send_text(r#"{"subscribe":{"id":2,"topic":"t1"}}"#);
    client.send_text(r#"{"ping":{"id":3}}"#);
    client.expect(text(r#"{"pong":{"id":3}}"#));
    client.expect(text(r#"{"refreshed":{"id":1}}"#));
    let mut ended: Vec<String> =
        (0..TOPICS / 2).map(|_| json(&mut client)["unsubscribed"]["topic"].as_str().unwrap().into()).collect();
    ended.sort_unstable();
    let mut expected: Vec<String> = (1..TOPICS).step_by(2).map(|topic| format!("t{topic}")).collect();
    expected.sort_unstable();
    assert_eq!(ended, expected);
    assert_eq!(json(&mut client)["error"]["name"], "forbidden");
    client.expect_nothing();
}

/// What the judge cannot decide now ends no subscription: the refresh fails, and the earlier token holds.
#[test]
fn a_refresh_without_a_decision_changes_nothing() {
    let application = Application::start();
    let rules = "shards = 1\ncallback_timeout = \"1s\"\n[[topics]]\nmatch = \"orders/*\"\nsubscribe = \
                 \"callback\"\n[[routes]]\nmatch = \"/ws\"\nhandler = \"ringhub.v1\"\njwt = \"app\"\n";
    let file = rules.replacen("[[topics]]", &format!("{}[[topics]]", issuer()), 1);
    let server = start("undecided", &file, &application.flags());
    let first = sign(r#""sub":"42","subscribe":["orders/42","one"],"publish":["one","orders/42"]"#);
    let mut client =
        Client::open_with(dial(server.address()), "/ws", &[PROTOCOL, "access_token", &first], &[]).unwrap();
    for (id, topic) in [(1, "orders/42"), (2, "one")] {
        client.send_text(&format!(r#"{{"subscribe":{{"id":{id},"topic":"{topic}","echo":true}}}}"#));
        expect_subscribed(&mut client, Some(id), topic);
    }
    application.hold();
    let fresh = sign(r#""sub":"42","subscribe":["orders/42"],"publish":[]"#);
    client.send_text(&format!(r#"{{"refresh":{{"id":3,"token":"{fresh}"}}}}"#));
    let error = &json(&mut client)["error"];
    assert_eq!((&error["id"], &error["name"], &error["temporary"]), (&3.into(), &"unavailable".into(), &true.into()));
    for topic in ["orders/42", "one"] {
        client.send_text(&format!(r#"{{"publish":{{"topic":"{topic}","data":"still"}}}}"#));
        assert_eq!(json(&mut client)["message"]["topic"], topic);
    }
    application.let_go();
}

/// A connection that is closing carries out no command that has waited.
#[test]
fn nothing_is_carried_out_after_the_close() {
    let application = Application::start();
    let file = format!(
        "shards = 1\ncallback_timeout = \"8s\"\n{}leeway = \"0s\"\n[[topics]]\nmatch = \"orders/*\"\npublish = \
         \"callback\"\n[[routes]]\nmatch = \"/ws\"\nhandler = \"ringhub.v1\"\njwt = \"app\"\n",
        issuer()
    );
    let server = start("closed", &file, &application.flags());
    let mut watcher = {
        let token = sign(r#""sub":"1","subscribe":["one"]"#);
        Client::open_with(dial(server.address()), "/ws", &[PROTOCOL, "access_token", &token], &[]).unwrap()
    };
    watcher.send_text(r#"{"subscribe":{"id":1,"topic":"one"}}"#);
    expect_subscribed(&mut watcher, Some(1), "one");
    let token = short_token(3, r#""sub":"42","publish":["orders/42","one"]"#);
    let mut client =
        Client::open_with(dial(server.address()), "/ws", &[PROTOCOL, "access_token", &token], &[]).unwrap();
    client.send_text(r#"{"publish":{"id":1,"topic":"one","data":"before"}}"#);
    assert_eq!(json(&mut client)["published"]["offset"], 1);
    assert_eq!(json(&mut watcher)["message"]["data"], "before");
    application.hold();
    client.send_text(r#"{"publish":{"id":2,"topic":"orders/42","data":"waits"}}"#);
    client.send_text(r#"{"publish":{"id":3,"topic":"one","data":"after"}}"#);
    // The client does not answer the close, so that its connection is still closing.
    thread::sleep(Duration::from_secs(4));
    application.let_go();
    watcher.expect_nothing();
    thread::sleep(Duration::from_millis(500));
    watcher.expect_nothing();
}

/// While the application takes its time, later commands wait behind the one that it is asked about, in order; only
/// pings are answered. A bounded number of commands waits.
#[test]
fn commands_wait_behind_a_decision() {
    let application = Application::start();
    let file = "shards = 1\n[[topics]]\nmatch = \"orders/*\"\nsubscribe = \"callback\"\npublish = \"callback\"\n";
    let server = start("callback", file, &application.flags());
    let mut client = Client::open_with(dial(server.address()), "/ws", &[PROTOCOL], &[("Cookie", "ann")]).unwrap();
    application.hold();
    client.send_text(r#"{"subscribe":{"id":1,"topic":"orders/42","echo":true}}"#);
    client.send_text(r#"{"publish":{"id":2,"topic":"orders/42","data":"first"}}"#);
    client.send_text(r#"{"unsubscribe":{"id":3,"topic":"orders/42"}}"#);
    client.send_text(r#"{"ping":{"id":4}}"#);
    client.expect(text(r#"{"pong":{"id":4}}"#));
    client.send_text(r#"{"unsubscribe":{"id":3,"topic":"orders/42"}}"#);
    assert_eq!(json(&mut client)["error"]["name"], "duplicate_id");
    application.let_go();
    let mut kinds: Vec<String> =
        (0..4).map(|_| json(&mut client).as_object().unwrap().keys().next().unwrap().clone()).collect();
    kinds.retain(|kind| kind != "message" && kind != "published");
    assert_eq!(kinds, ["subscribed", "unsubscribed"]);

    client.send_text(r#"{"subscribe":{"id":1,"topic":"orders/43"}}"#);
    let error = &json(&mut client)["error"];
    assert_eq!((&error["name"], &error["reason"]), (&"forbidden".into(), &"pay first".into()));

    let mut client = Client::open_with(dial(server.address()), "/ws", &[PROTOCOL], &[("Cookie", "ann")]).unwrap();
    application.hold();
    let large = "x".repeat(10_000);
    // The first waits for the decision, and the second has room whatever its size is.
    (0..9).for_each(|id| {
        client.send_text(&format!(r#"{{"publish":{{"id":{id},"topic":"orders/42","data":"{large}"}}}}"#))
    });
    let error = &json(&mut client)["error"];
    assert_eq!((&error["id"], &error["name"]), (&8.into(), &"too_many_commands".into()), "{error}");
    (9..300).for_each(|id| client.send_text(&format!(r#"{{"unsubscribe":{{"id":{id},"topic":"x"}}}}"#)));
    // All commands have come when the ping is answered.
    client.send_text(r#"{"ping":{}}"#);
    let mut frames = Vec::new();
    loop {
        let frame = json(&mut client);
        if frame.get("pong").is_some() {
            break;
        }
        frames.push(frame);
    }
    application.let_go();
    frames.extend((frames.len()..299).map(|_| json(&mut client)));
    let placed = frames.iter().filter(|frame| frame.get("published").is_some());
    let mut offsets: Vec<(u64, u64)> = placed
        .map(|frame| &frame["published"])
        .map(|placed| (placed["id"].as_u64().unwrap(), placed["offset"].as_u64().unwrap()))
        .collect();
    offsets.sort_unstable();
    assert!(offsets.len() == 8 && offsets.windows(2).all(|pair| pair[0].1 + 1 == pair[1].1), "{offsets:?}");
    let named = |name: &str| frames.iter().filter(|frame| frame["error"]["name"] == name).count();
    assert_eq!(named("not_subscribed") + named("too_many_commands"), 291);
    assert!(named("too_many_commands") >= 291 - 248, "no more wait than 256");
    client.expect_nothing();
}

/// Commands that wait for a decision take the memory: the connections that hold the most of them are closed, and others
/// are served. Their memory is counted, and free afterwards.
#[test]
fn commands_that_wait_are_given_up_when_memory_is_short() {
    let application = Application::start();
    let file = "shards = 1\nmax_memory = \"48MiB\"\ncallback_timeout = \"60s\"\nhandshake_timeout = \
                \"60s\"\n[[topics]]\nmatch = \"orders/*\"\npublish = \"callback\"\n[[routes]]\nmatch = \
                \"/ws\"\nhandler = \"ringhub.v1\"\n";
    let server = start("memory", file, &application.flags());
    let open = || Client::open_with(dial(server.address()), "/ws", &[PROTOCOL], &[("Cookie", "ann")]);
    let held = |counts: &Counts| counts.get("memory_bytes{kind=\"input\"}");
    let mut honest = open().unwrap();
    honest.send_text(r#"{"subscribe":{"id":1,"topic":"news","echo":true}}"#);
    expect_subscribed(&mut honest, Some(1), "news");
    application.hold();
    let large = "x".repeat(1_000_000);
    let mut hoarders: Vec<Client> = Vec::new();
    let before = held(&server.counts());
    // The memory is looked at once in a tick, in which more may come.
    for number in 0..100 {
        let Ok(mut client) = open() else { break };
        for topic in ["orders/1", "news"] {
            client.send_text(&format!(r#"{{"publish":{{"topic":"{topic}","data":"{large}"}}}}"#));
        }
        client.send_text(r#"{"ping":{}}"#);
        hoarders.push(client);
        if number == 0 {
            hoarders[0].expect(text(r#"{"pong":{}}"#));
            let is_counted = |counts: &Counts| (before + 1_900_000..before + 2_400_000).contains(&held(counts));
            server.counts_until("two payloads are counted", is_counted);
        }
    }
    assert!(hoarders.len() >= 15, "{} hoarders", hoarders.len());
    let counts = server.counts_until("hoarders are closed", |counts| counts.get("memory_closed_total") > 0);
    assert_eq!((counts.get("slow_closed_total"), counts.get("unfinished_closed_total")), (0, 0));
    honest.send_text(r#"{"publish":{"topic":"news","data":"still served"}}"#);
    assert_eq!(json(&mut honest)["message"]["data"], "still served");
    // A server need not read what has come before a reset to see it.
    hoarders.into_iter().for_each(|hoarder| reset(hoarder.into_stream()));
    server.counts_until("the memory is free", |counts| held(counts) < before + 2_000_000);
    application.let_go();
}

/// Tokens cannot be guessed by `refresh` faster than by opening requests.
#[test]
fn tokens_are_not_guessed_by_refreshes() {
    let file = "shards = 1\nmax_guess_rate = \"2/h\"\n[[routes]]\nmatch = \"/ws\"\nhandler = \"ringhub.v1\"\n\
                [routes.bearer.tokens]\nann = [\"the-first-token-of-ann\", \"the-second-token-of-ann\"]\n";
    let server = start("guesses", file, &[]);
    let open = || {
        let protocols = [PROTOCOL, "access_token", "the-first-token-of-ann"];
        Client::open_with(dial(server.address()), "/ws", &protocols, &[]).unwrap()
    };
    let mut clients: Vec<Client> = (0..4).map(|_| open()).collect();
    let mut refresh = |client: usize, token: &str| {
        clients[client].send_text(&format!(r#"{{"refresh":{{"id":1,"token":"{token}"}}}}"#));
        json(&mut clients[client])
    };
    assert_eq!(refresh(0, "the-second-token-of-ann")["refreshed"]["id"], 1);
    assert_eq!(refresh(1, "a-guess")["error"]["name"], "unauthorized");
    assert_eq!(refresh(2, "another-guess")["error"]["name"], "unauthorized");
    let error = refresh(3, "the-second-token-of-ann")["error"].clone();
    assert_eq!(
        (&error["code"], &error["name"], &error["temporary"]),
        (&131.into(), &"too_many_requests".into(), &true.into())
    );
    assert_eq!(refresh(0, "the-second-token-of-ann")["refreshed"]["id"], 1, "that token is known already");
    assert_eq!(server.counts().get("rate_refused_total{rate=\"guesses\"}"), 1);
}
