//! `ringhub.v1` over real sockets: its test vectors, one order for all clients, rights, and conversations with a model.

mod model;
mod rights;
mod vectors;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::support::{Client, Received, Server, dial, post, text};

/// The name of the subprotocol.
const PROTOCOL: &str = "ringhub.v1";

/// Opens a connection at a path.
fn open(server: &Server, target: &str) -> Client {
    let opened = Client::open_with(dial(server.address()), target, &[PROTOCOL], &[]);
    opened.unwrap_or_else(|response| panic!("{target}: {response:?}"))
}

/// Returns the next frame of JSON.
#[track_caller]
fn json(client: &mut Client) -> Value {
    match client.receive() {
        Received::Text(text) => serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")),
        other => panic!("{other:?} came instead of text"),
    }
}

/// Expects that a subscription has gone live, and returns the offset after which it begins.
#[track_caller]
fn expect_subscribed(client: &mut Client, id: Option<u64>, topic: &str) -> u64 {
    let frame = json(client);
    let subscribed = &frame["subscribed"];
    assert_eq!((subscribed["id"].as_u64(), subscribed["topic"].as_str()), (id, Some(topic)), "{frame}");
    assert!(subscribed["epoch"].is_string(), "{frame}");
    subscribed["offset"].as_u64().unwrap()
}

/// Publishers of all kinds, on several shards, and subscribers of all kinds agree on one order. The places in messages
/// and in answers are those of this order.
#[test]
fn all_clients_agree_on_one_order() {
    const EACH: usize = 100;
    let server = Server::start(&["--shards", "3"]);
    let address = server.address();
    let mut raw: Vec<Client> = (0..3).map(|_| server.connect("/t/order?mode=sub")).collect();
    let mut talking: Vec<Client> = (0..4).map(|_| open(&server, "/ws")).collect();
    for client in &mut talking {
        client.send_text(r#"{"subscribe":{"id":1,"topic":"order","echo":true}}"#);
        assert_eq!(expect_subscribed(client, Some(1), "order"), 0);
    }
    let publishing = (0..3).map(|publisher| {
        let mut client = open(&server, "/ws");
        thread::spawn(move || {
            let mut places = Vec::new();
            for number in 0..EACH {
                let payload = format!("{publisher} {number}");
                client.send_text(&format!(r#"{{"publish":{{"id":{number},"topic":"order","data":"{payload}"}}}}"#));
                // Some are under way at the same time.
                if number % 10 == 9 {
                    places.extend((0..10).map(|_| json(&mut client)["published"].clone()));
                }
            }
            places
                .into_iter()
                .map(|place| {
                    let payload = format!("{publisher} {}", place["id"]);
                    (place["offset"].as_u64().unwrap(), place["epoch"].clone(), payload)
                })
                .collect::<Vec<_>>()
        })
    });
    let mut publishing: Vec<_> = publishing.collect();
    publishing.push(thread::spawn(move || {
        let places = (0..EACH).map(|number| {
            let payload = format!("post {number}");
            let response = crate::support::exchange(address, &post("/t/order", "text/plain", &payload));
            let answer: Value = serde_json::from_str(&response.body).unwrap();
            (answer["offset"].as_u64().unwrap(), Value::String(answer["epoch"].to_string()), payload)
        });
        places.collect()
    }));
    let total = 4 * EACH;
    let order: Vec<Received> = (0..total).map(|_| raw[0].receive()).collect();
    for other in &mut raw[1..] {
        order.iter().for_each(|message| other.expect(message.clone()));
    }
    for client in &mut talking {
        let mut offsets = 0;
        for message in &order {
            let message = message.clone();
            let found = &json(client)["message"];
            assert_eq!(text(found["data"].as_str().unwrap()), message);
            offsets += 1;
            assert_eq!(found["offset"].as_u64(), Some(offsets));
        }
    }
    for placed in publishing.into_iter().map(|thread| thread.join().unwrap()) {
        assert_eq!(placed.len(), EACH);
        for (offset, epoch, payload) in placed {
            assert_eq!(order[offset as usize - 1], text(&payload));
            assert!(epoch.as_str().is_some_and(|digits| digits.bytes().all(|digit| digit.is_ascii_digit())));
        }
    }
}

/// A subscription begins with its answer, and ends with its answer, while others publish. Some shards have subscribers
/// of the topic before.
#[test]
fn answers_stand_where_subscriptions_begin_and_end() {
    let server = Server::start(&["--shards", "3"]);
    let mut publisher = server.connect("/t/busy?mode=pub");
    let others: Vec<Client> = (0..8).map(|_| server.connect("/t/busy?mode=sub")).collect();
    let is_over = Arc::new(AtomicBool::new(false));
    let publishing = {
        let is_over = Arc::clone(&is_over);
        thread::spawn(move || {
            for number in 0.. {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                publisher.send_text(&format!("{number}"));
                thread::sleep(Duration::from_micros(100));
            }
        })
    };
    let talking: Vec<_> = (0..4).map(|_| open(&server, "/ws")).collect();
    let talking: Vec<_> = talking.into_iter().map(|client| thread::spawn(move || come_and_go(client, 30))).collect();
    talking.into_iter().for_each(|thread| thread.join().unwrap());
    is_over.store(true, Ordering::Relaxed);
    publishing.join().unwrap();
    drop(others);
}

/// Subscribes to the topic `busy` and unsubscribes again and again. Its messages are numbers from 0.
fn come_and_go(mut client: Client, rounds: u64) {
    for round in 0..rounds {
        client.send_text(&format!(r#"{{"subscribe":{{"id":{round},"topic":"busy"}}}}"#));
        let before = expect_subscribed(&mut client, Some(round), "busy");
        client.send_text(&format!(r#"{{"unsubscribe":{{"id":{round},"topic":"busy"}}}}"#));
        let mut next = before;
        loop {
            let frame = json(&mut client);
            if frame.get("unsubscribed").is_some() {
                break;
            }
            // The first message has the number 0 and the offset 1.
            assert_eq!(frame["message"]["data"].as_str().unwrap().parse(), Ok(next), "after {before}");
            next += 1;
            assert_eq!(frame["message"]["offset"].as_u64(), Some(next));
        }
    }
    client.expect_nothing();
}

/// Offers of subprotocols decide what a path opens.
#[test]
fn offers_decide_what_is_spoken() {
    let server = Server::start(&[]);
    let refused = |target: &str, protocols: &[&str]| {
        let opened = Client::open_with(dial(server.address()), target, protocols, &[]);
        opened.err().map(|response| (response.status(), response.error()))
    };
    assert_eq!(refused("/ws", &[]), Some((400, "this route needs one of the subprotocols ringhub.v1".into())));
    assert_eq!(refused("/ws", &["ringhub.v2"]).unwrap().0, 400);
    assert_eq!(refused("/ws", &["ringhub.v2", PROTOCOL]), None);
    assert_eq!(
        refused("/ws?echo=true", &[PROTOCOL]),
        Some((400, "\"echo\" is not known for ringhub.v1; binary and access_token are".into()))
    );
    assert_eq!(refused("/ws?binary=1", &[PROTOCOL]).unwrap().1, "binary is \"1\", not true or false");
    assert_eq!(refused("/t/x?mode=sub", &[PROTOCOL]).unwrap().0, 400);
    assert_eq!(refused("/t/x?mode=sub", &["other"]), None);
    let mut raw = server.connect("/t/x");
    let mut talking = open(&server, "/t/x?echo=true");
    assert_eq!(talking.protocol(), Some(PROTOCOL));
    assert_eq!(raw.protocol(), None);
    expect_subscribed(&mut talking, None, "x");
    raw.send_text("hello");
    assert_eq!(json(&mut talking)["message"]["data"], "hello");
    // A raw client may offer what it likes, and its messages are no commands.
    talking.send_text(r#"{"publish":{"topic":"x","data":{"a":1}}}"#);
    raw.expect(text(r#"{"a":1}"#));
}

/// A path that names a topic is a boundary: a proxy that admits clients to this path admits them to this topic alone.
#[test]
fn a_path_opens_its_topic_alone() {
    let server = Server::start(&["--shards", "1"]);
    let mut client = open(&server, "/t/public/x?echo=true");
    expect_subscribed(&mut client, None, "public/x");
    for command in [
        r#"{"subscribe":{"id":1,"topic":"private/y"}}"#,
        r#"{"unsubscribe":{"id":1,"topic":"private/y"}}"#,
        r#"{"publish":{"id":1,"topic":"private/y","data":1}}"#,
    ] {
        client.send_text(command);
        let error = json(&mut client)["error"].clone();
        assert_eq!((error["id"].as_u64(), error["name"].as_str()), (Some(1), Some("forbidden")), "{command}");
        assert!(error["reason"].as_str().unwrap().contains("/ws"), "{error}");
    }
    client.send_text(r#"{"publish":{"topic":"public/x","data":1}}"#);
    assert_eq!(json(&mut client)["message"]["data"], 1);
    client.send_text(r#"{"unsubscribe":{"id":2,"topic":"public/x"}}"#);
    client.expect(text(r#"{"unsubscribed":{"id":2,"topic":"public/x"}}"#));
    client.send_text(r#"{"subscribe":{"id":3,"topic":"public/x"}}"#);
    expect_subscribed(&mut client, Some(3), "public/x");
}

/// Two of the largest messages have room in the backlog of a subscriber in any form.
#[test]
fn two_messages_of_control_characters_have_room() {
    let server = Server::start(&["--shards", "1", "--send-buffer", "4096", "--close-timeout", "60s"]);
    let mut publisher = server.connect("/t/news?mode=pub");
    let mut client = open(&server, "/ws");
    client.send_text(r#"{"subscribe":{"id":1,"topic":"news"}}"#);
    expect_subscribed(&mut client, Some(1), "news");
    let payload = "\u{1}".repeat((1 << 20) - 14);
    publisher.send_text(&payload);
    publisher.send_text(&payload);
    // The client reads only when both have come.
    thread::sleep(std::time::Duration::from_secs(1));
    for _ in 0..2 {
        assert_eq!(json(&mut client)["message"]["data"].as_str().map(str::len), Some(payload.len()));
    }
}

/// A reload changes how many topics a connection may have.
#[test]
fn a_connection_has_so_many_topics() {
    let server = Server::start(&["--max-subscriptions", "3"]);
    let mut client = open(&server, "/ws");
    for topic in 0..3 {
        client.send_text(&format!(r#"{{"subscribe":{{"id":{topic},"topic":"{topic}"}}}}"#));
        expect_subscribed(&mut client, Some(topic), &topic.to_string());
    }
    client.send_text(r#"{"subscribe":{"id":3,"topic":"3"}}"#);
    let error = &json(&mut client)["error"];
    assert_eq!((error["id"].as_u64(), error["name"].as_str()), (Some(3), Some("too_many_topics")));
    client.send_text(r#"{"unsubscribe":{"topic":"0"}}"#);
    client.expect(text(r#"{"unsubscribed":{"topic":"0"}}"#));
    client.send_text(r#"{"subscribe":{"id":3,"topic":"3"}}"#);
    expect_subscribed(&mut client, Some(3), "3");
}
