//! The presence of topics: who is subscribed, over all shards.

use std::{env, fs, thread, time::Instant};

use serde_json::{Value, json};

use crate::{
    support::{Client, CrowdPermit, DEADLINE, Received, Response, Server, clean, dial, exchange, program, request},
    tokens::{issuer, sign},
};

/// Topics for people with tokens, whose members are kept. In rooms a member has left after a while.
const SETTINGS: &str = r#"
    admin_tokens = ["the-boss"]

    [[routes]]
    match = "/t/{topic...}"
    handler = "hub"
    bearer.tokens = { ann = "word-ann", ben = "word-ben" }

    [[topics]]
    match = "rooms/*"
    presence = true
    leave_delay = "300ms"

    [[topics]]
    match = "halls/*"
    presence = true
    leave_delay = "1h"

    [[topics]]
    match = "closed"
    presence = "nobody"

    [[topics]]
    match = "small"
    presence = true
    presence_max_members = 1
"#;

fn serve(name: &str, flags: &[&str]) -> Server {
    serve_file(name, SETTINGS, flags)
}

fn serve_file(name: &str, settings: &str, flags: &[&str]) -> Server {
    let file = env::temp_dir().join(format!("ringhub-presence-{name}-{}.toml", std::process::id()));
    fs::write(&file, settings).unwrap();
    let mut command = clean(program());
    command.args(["serve", "--config"]).arg(&file).args(flags);
    let server = Server::start_command(command);
    fs::remove_file(file).unwrap();
    server
}

fn ask(server: &Server, target: &str) -> Response {
    exchange(server.address(), &request("GET", target))
}

/// Returns a view of a topic, without its versions and its place.
fn view(server: &Server, topic: &str, view: &str) -> Value {
    let response = ask(server, &format!("/t/{topic}?view={view}&access_token=word-ann"));
    assert_eq!((response.status(), response.header("content-type")), (200, Some("application/json")), "{response:?}");
    let mut view: Value = serde_json::from_str(&response.body).unwrap();
    assert!(view["version"].is_u64(), "{view}");
    view.as_object_mut().unwrap().retain(|key, _| !["version", "epoch", "offset", "topic"].contains(&&**key));
    if let Some(members) = view.get_mut("members").and_then(Value::as_array_mut) {
        members.sort_by_key(|member| member["id"].to_string());
    }
    view
}

/// Waits until the members of a topic are these.
fn expect(server: &Server, topic: &str, expected: &Value) {
    let begun = Instant::now();
    while view(server, topic, "presence") != *expected {
        assert!(begun.elapsed() < DEADLINE, "{} instead of {expected}", view(server, topic, "presence"));
        thread::yield_now();
    }
}

fn connect_as(server: &Server, name: &str, topic: &str) -> Client {
    server.connect(&format!("/t/{topic}?access_token=word-{name}"))
}

fn members(members: &[(&str, u32)], anonymous: u32) -> Value {
    let rows: Vec<Value> = members.iter().map(|(id, count)| json!({ "id": id, "connections": count })).collect();
    json!({ "count": rows.len(), "anonymous": anonymous, "unlisted": 0, "members": rows })
}

#[test]
fn two_tabs_are_one_member() {
    for flags in [&["--shards", "1"][..], &["--shards", "3"], &["--shards", "2", "--io", "epoll"]] {
        let server = serve(&format!("tabs{}", flags.join("")), flags);
        assert_eq!(view(&server, "halls/1", "presence"), members(&[], 0));
        let tabs: Vec<Client> = (0..8).map(|_| connect_as(&server, "ann", "halls/1")).collect();
        let ben = connect_as(&server, "ben", "halls/1");
        expect(&server, "halls/1", &members(&[("ann", 8), ("ben", 1)], 0));
        assert_eq!(view(&server, "halls/1", "count"), json!({ "count": 2, "anonymous": 0 }));
        assert_eq!(view(&server, "halls/2", "count"), json!({ "count": 0, "anonymous": 0 }));
        // Whoever is gone stays for an hour.
        ben.leave();
        expect(&server, "halls/1", &members(&[("ann", 8), ("ben", 0)], 0));
        let room = connect_as(&server, "ben", "rooms/1");
        expect(&server, "rooms/1", &members(&[("ben", 1)], 0));
        room.leave();
        expect(&server, "rooms/1", &members(&[], 0));
        tabs.into_iter().for_each(Client::leave);
        expect(&server, "halls/1", &members(&[("ann", 0), ("ben", 0)], 0));
        server.counts_until("the members are counted", |counts| counts.get("presence_members") == 2);
    }
}

/// Whoever has no identity, or that of a network, is counted and not listed.
#[test]
fn strangers_are_counted() {
    for authenticator in ["", "network.allow = [\"127.0.0.0/8\"]\n"] {
        let route = format!("[[routes]]\nmatch = \"/t/{{topic...}}\"\nhandler = \"hub\"\n{authenticator}");
        let rule = "[[topics]]\nmatch = \"**\"\npresence = true\nleave_delay = \"1h\"\n";
        let server = serve_file("strangers", &format!("{route}{rule}"), &["--shards", "2"]);
        let first = server.connect("/t/a");
        let _second = server.connect("/t/a");
        expect(&server, "a", &members(&[], 2));
        first.leave();
        expect(&server, "a", &members(&[], 1));
        assert_eq!(view(&server, "a", "count"), json!({ "count": 0, "anonymous": 1 }));
    }
}

#[test]
fn bad_requests_are_refused_precisely() {
    let server = serve("bad", &["--shards", "2"]);
    let refused = |target: &str| {
        let response = ask(&server, &format!("{target}&access_token=word-ann"));
        (response.status(), response.error())
    };
    for (target, status, error) in [
        ("/t/rooms/1?view=members", 400, "view is \"members\", not presence or count"),
        ("/t/rooms/1?view=", 400, "view is \"\", not presence or count"),
        ("/t/rooms/1?view=count&view=presence", 400, "\"view\" is given twice"),
        ("/t/rooms/1?view=count&last=3", 400, "\"last\" is not known beside view; access_token is"),
        (
            "/t/other?view=presence",
            404,
            "the topic \"other\" keeps no presence; a rule of topics with presence = true would let it",
        ),
        ("/t/closed?view=count", 403, "nobody may see who is in the topic \"closed\""),
    ] {
        let (found, text) = refused(target);
        assert!((found, &*text) == (status, error), "{target}: {found} {text}");
    }
    assert_eq!(ask(&server, "/t/rooms/1?view=count").status(), 401);
    let opening =
        Client::open(dial(server.address()), "/t/rooms/1?view=presence&access_token=word-ann", &[]).err().unwrap();
    assert_eq!(opening.status(), 400, "a view is no option of a subscription");
}

#[test]
fn further_members_are_counted() {
    let server = serve("full", &["--shards", "2"]);
    let _ann = connect_as(&server, "ann", "small");
    expect(&server, "small", &members(&[("ann", 1)], 0));
    let _ben = connect_as(&server, "ben", "small");
    expect(
        &server,
        "small",
        &json!({ "count": 2, "anonymous": 0, "unlisted": 1, "members": [{ "id": "ann", "connections": 1 }] }),
    );
    server.counts_until("one is not listed", |counts| counts.get("presence_unlisted") == 1);
}

/// A connection that is closed for a revocation leaves as any other does.
#[test]
fn whoever_is_revoked_has_left() {
    let server = serve("revoked", &["--shards", "2"]);
    let _ann = connect_as(&server, "ann", "rooms/1");
    let mut ben = connect_as(&server, "ben", "rooms/1");
    expect(&server, "rooms/1", &members(&[("ann", 1), ("ben", 1)], 0));
    let close = request("DELETE", "/connections?identity=ben");
    let close = close.replacen("\r\n", "\r\nAuthorization: Bearer the-boss\r\n", 1);
    assert_eq!(exchange(server.address(), &close).status(), 200);
    ben.expect_close(1008, "disconnected");
    expect(&server, "rooms/1", &members(&[("ann", 1)], 0));
}

/// People with tokens of an issuer, and a room in which few members are told by name.
fn serve_people(name: &str, flags: &[&str]) -> Server {
    let routes = r#"
        [[routes]]
        match = "/t/{topic...}"
        handler = "hub"
        jwt = ["app"]

        [[routes]]
        match = "/ws"
        handler = "ringhub.v1"
        jwt = ["app"]

        [[topics]]
        match = "rooms/*"
        presence = true
        leave_delay = "10m"
        presence_events_max_members = 20

        [[topics]]
        match = "doors/*"
        presence = true
        leave_delay = "0ms"
        presence_events_max_members = 20
    "#;
    serve_file(name, &format!("{routes}\n{}", issuer()), flags)
}

fn token(name: &str, presence: &str) -> String {
    sign(&format!(
        r#""sub":"{name}","info":{{"name":"{name}"}},"subscribe":["**"],"presence":{presence},"publish":["**"]"#
    ))
}

fn speaks_v1(server: &Server, name: &str, presence: &str) -> Client {
    let protocols = ["ringhub.v1", "access_token", &token(name, presence)];
    Client::open_with(dial(server.address()), "/ws", &protocols, &[]).unwrap()
}

fn frame(client: &mut Client) -> Value {
    loop {
        match client.receive() {
            Received::Text(text) => return serde_json::from_str(&text).unwrap(),
            // On a slow machine a storm lasts longer than the interval of pings.
            Received::Ping(_) => {}
            other => panic!("{other:?} instead of a frame"),
        }
    }
}

/// Receives frames until one tells of this number of members of a topic. Returns it, and the number of frames.
fn told(watcher: &mut Client, topic: &str, count: usize) -> (Value, usize) {
    for frames in 1.. {
        let frame = frame(watcher)["presence_changed"].clone();
        assert!(frame.is_object(), "the watcher gets nothing else");
        assert!(frame.to_string().len() < 4_096, "{frame}");
        if frame["topic"] == topic && frame["count"] == count {
            return (frame, frames);
        }
    }
    unreachable!("every frame is looked at")
}

/// The info of a token is told, and a token without a grant for presence sees nobody. A fresh token without it ends the
/// subscription.
#[test]
fn grants_decide_who_sees_the_members() {
    let server = serve_people("grants", &["--shards", "2"]);
    let mut blind = speaks_v1(&server, "blind", "[]");
    blind.send_text(r#"{"presence":{"id":1,"topic":"doors/1"}}"#);
    assert_eq!(frame(&mut blind)["error"]["name"], "forbidden");
    blind.send_text(r#"{"subscribe":{"id":2,"topic":"doors/1","presence":true}}"#);
    assert_eq!(frame(&mut blind)["error"]["name"], "forbidden");
    let mut ann = speaks_v1(&server, "ann", r#"["doors/*"]"#);
    ann.send_text(r#"{"subscribe":{"id":1,"topic":"doors/1","presence":true}}"#);
    assert_eq!(frame(&mut ann)["subscribed"]["id"], 1);
    assert_eq!(frame(&mut ann)["presence_changed"]["joined"], json!([{ "id": "ann", "info": { "name": "ann" } }]));
    blind.send_text(r#"{"subscribe":{"id":3,"topic":"doors/1"}}"#);
    assert_eq!(frame(&mut blind)["subscribed"]["id"], 3);
    assert_eq!(frame(&mut ann)["presence_changed"]["joined"][0]["id"], "blind");
    ann.send_text(&json!({ "refresh": { "id": 2, "token": token("ann", "[]") } }).to_string());
    assert_eq!(frame(&mut ann)["refreshed"]["id"], 2);
    let ended = frame(&mut ann);
    assert_eq!(
        (&ended["unsubscribed"]["topic"], &ended["unsubscribed"]["name"]),
        (&json!("doors/1"), &json!("forbidden"))
    );
    blind.send_text(r#"{"ping":{"id":4}}"#);
    assert_eq!(frame(&mut blind)["pong"]["id"], 4, "whoever did not ask is told nothing");
}

/// Many members connect again and again: whoever watches gets few short frames, and the list is right at the end.
#[test]
fn a_storm_of_members() {
    let permit = CrowdPermit::take();
    let count = permit.afford(env::var("RINGHUB_STORM").map_or(1_000, |count| count.parse().expect("a number")), 0);
    let server = serve_people("storm", &["--shards", "2"]);
    let tokens: Vec<String> = (0..count).map(|number| token(&format!("user-{number}"), "[]")).collect();
    let join = |topic: &str, tokens: &[String]| -> Vec<Client> {
        tokens.iter().map(|token| server.connect(&format!("/t/{topic}?access_token={token}"))).collect()
    };
    let begun = Instant::now();
    let mut watcher = speaks_v1(&server, "watcher", r#"["**"]"#);
    watcher.send_text(r#"{"subscribe":{"id":1,"topic":"rooms/1","presence":true}}"#);
    assert_eq!(frame(&mut watcher)["subscribed"]["id"], 1);
    let mut members = join("rooms/1", &tokens);
    let (full, mut frames) = told(&mut watcher, "rooms/1", count + 1);
    assert!(full.get("joined").is_none() && full.get("left").is_none(), "{full}");
    for _ in 0..3 {
        // All are gone, and come back within the delay.
        members.clear();
        members = join("rooms/1", &tokens);
    }
    watcher.send_text(r#"{"presence":{"id":2,"topic":"rooms/1"}}"#);
    let list = frame(&mut watcher)["presence"].clone();
    assert_eq!((&list["id"], &list["count"], &list["unlisted"]), (&2.into(), &(count + 1).into(), &0.into()));
    let mut ids: Vec<&str> =
        list["members"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    let mut expected: Vec<String> = (0..count).map(|number| format!("user-{number}")).collect();
    expected.push("watcher".into());
    expected.sort_unstable();
    assert_eq!(ids, expected);
    // Nobody has left the room: the watcher was told nothing more. Then all leave another one, where nobody waits.
    watcher.send_text(r#"{"subscribe":{"id":3,"topic":"doors/1","presence":true}}"#);
    assert_eq!(frame(&mut watcher)["subscribed"]["id"], 3);
    drop(members);
    let members = join("doors/1", &tokens);
    frames += told(&mut watcher, "doors/1", count + 1).1;
    let (mut few, rest) = (members, 10);
    few.truncate(rest);
    let (last, more) = told(&mut watcher, "doors/1", rest + 1);
    frames += more;
    assert!(last["version"].is_u64(), "{last}");
    few.pop();
    let (left, more) = told(&mut watcher, "doors/1", rest);
    assert_eq!(left["left"], json!([format!("user-{}", rest - 1)]), "few are told by name again");
    frames += more;
    let periods = begun.elapsed().as_millis() as usize / 100 + 1;
    assert!(frames <= 2 * periods, "{frames} frames in {periods} periods, for two topics");
    let view = ask(&server, &format!("/t/doors/1?view=presence&access_token={}", token("watcher", r#"["**"]"#)));
    let view: Value = serde_json::from_str(&view.body).unwrap();
    assert_eq!((&view["count"], view["members"].as_array().unwrap().len()), (&rest.into(), rest));
}
