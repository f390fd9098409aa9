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
    support::{Client, Server, dial, exchange, post, program, text},
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
        client.send_text(r#"{"subscribe":{"id":1,"topic":"two"}}"#);
        expect_subscribed(client, Some(1), "two");
        client.send_text(r#"{"subscribe":{"id":2,"topic":"three"}}"#);
        assert_eq!(json(client)["error"]["name"], "forbidden");
        client.send_text(r#"{"publish":{"id":3,"topic":"one","data":1}}"#);
        assert_eq!(json(client)["error"]["name"], "forbidden");
        let other = sign(r#""sub":"43","subscribe":["one"]"#);
        client.send_text(&format!(r#"{{"refresh":{{"id":4,"token":"{other}"}}}}"#));
        assert_eq!(json(client)["error"]["name"], "other_identity");
        client.send_text(r#"{"refresh":{"id":5,"token":"x.y.z"}}"#);
        assert_eq!(json(client)["error"]["name"], "unauthorized");
        let fresh = sign(r#""sub":"42","subscribe":["one","three"],"publish":["three"]"#);
        client.send_text(&format!(r#"{{"refresh":{{"id":6,"token":"{fresh}"}}}}"#));
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
    (0..8).for_each(|id| {
        client.send_text(&format!(r#"{{"publish":{{"id":{id},"topic":"orders/42","data":"{large}"}}}}"#))
    });
    let error = &json(&mut client)["error"];
    assert_eq!((&error["id"], &error["name"]), (&7.into(), &"too_many_commands".into()), "{error}");
    (8..300).for_each(|id| client.send_text(&format!(r#"{{"unsubscribe":{{"id":{id},"topic":"x"}}}}"#)));
    application.let_go();
    let frames: Vec<_> = (0..299).map(|_| json(&mut client)).collect();
    let placed = frames.iter().filter(|frame| frame.get("published").is_some());
    let mut offsets: Vec<(u64, u64)> = placed
        .map(|frame| &frame["published"])
        .map(|placed| (placed["id"].as_u64().unwrap(), placed["offset"].as_u64().unwrap()))
        .collect();
    offsets.sort_unstable();
    assert!(offsets.len() == 7 && offsets.windows(2).all(|pair| pair[0].1 + 1 == pair[1].1), "{offsets:?}");
    let named = |name: &str| frames.iter().filter(|frame| frame["error"]["name"] == name).count();
    assert_eq!(named("not_subscribed") + named("too_many_commands"), 292);
    assert!(named("too_many_commands") >= 292 - 249, "no more wait than 256");
    client.expect_nothing();
}
