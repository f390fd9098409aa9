//! Tests intervals between deliveries over real sockets, on both backends.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use super::{
    Running, Server,
    testing::{Client, Manner, Publishers, Subscribers},
};
use crate::{
    hub::{Overflow, TopicRule, testing::REVERSED},
    metrics::Counter,
    proto::CloseCode,
    sys::BackendKind,
};

const KEYS: u64 = 10;
const MESSAGES: u64 = 3_000;

fn start(backend: BackendKind) -> (Running, SocketAddr) {
    let mut builder = Server::builder().listen(["127.0.0.1:0".parse().unwrap()]).shards(2);
    for (topic, overflow, interval_ms) in [
        ("newest", Overflow::Latest, 50),
        ("fine", Overflow::Latest, 1),
        ("all", Overflow::Close, 50),
        ("minute", Overflow::Close, 60_000),
    ] {
        let rule = TopicRule::new([topic.parse().unwrap()]).slow(overflow).delivery_interval_ms(interval_ms);
        let rule = if overflow == Overflow::Latest { rule.key("/key".parse().unwrap()) } else { rule };
        builder = builder.topic_rule(rule);
    }
    let mut server =
        builder.route("/told/{topic}", Subscribers(REVERSED)).route("/publish/{topic}", Publishers).build().unwrap();
    server.backend.kind = backend;
    let running = server.start().unwrap();
    let address = running.local_addr();
    (running, address)
}

fn subscribe(address: SocketAddr, topic: &str) -> Client {
    let client = Client::open(address, &format!("/told/{topic}"), Manner { format: REVERSED, ..Manner::default() });
    client.set_patience(Duration::from_secs(60));
    client
}

/// Publishes all messages to a topic, over a second or more. Returns how long that has taken.
fn publish(address: SocketAddr, topic: &str) -> Duration {
    let begin = Instant::now();
    let mut publisher = Client::web_socket(address, &format!("/publish/{topic}"));
    for number in 1..=MESSAGES {
        publisher.say(&format!(r#"{{"number":{number},"key":"k{}"}}"#, number % KEYS));
        if number % 30 == 0 {
            thread::sleep(Duration::from_millis(10));
        }
    }
    publisher.leave();
    begin.elapsed()
}

/// Reads until all messages are received or told of. Returns the numbers of the messages, and how many notices came.
fn read(client: &mut Client) -> (Vec<u64>, u64) {
    let (mut received, mut told, mut notices) = (Vec::new(), 0, 0);
    while received.len() as u64 + told < MESSAGES {
        let text = client.text();
        if let Ok(message) = serde_json::from_str::<serde_json::Value>(&text) {
            received.push(message["number"].as_u64().expect("a number"));
        } else {
            let numbers: Vec<u64> = text.split(' ').filter_map(|part| part.parse().ok()).collect();
            assert!(received.last().is_none_or(|&last| last < numbers[1]), "{text} after {received:?}");
            (told, notices) = (told + numbers[3], notices + 1);
        }
    }
    assert!(received.is_sorted_by(|a, b| a < b), "messages come in their order");
    (received, notices)
}

/// Subscribers on both shards get what the interval lets through, and are told of the rest.
fn keep_to_intervals(backend: BackendKind) {
    let (running, address) = start(backend);
    for topic in ["newest", "fine", "all"] {
        let clients: Vec<Client> = (0..4).map(|_| subscribe(address, topic)).collect();
        let reading: Vec<_> =
            clients.into_iter().map(|mut client| thread::spawn(move || (read(&mut client), client))).collect();
        let took = publish(address, topic);
        for reader in reading {
            let ((received, notices), client) = reader.join().unwrap();
            let last: BTreeMap<u64, u64> = received.iter().map(|number| (number % KEYS, *number)).collect();
            let expected = (MESSAGES - KEYS + 1..=MESSAGES).map(|number| (number % KEYS, number)).collect();
            assert_eq!(last, expected, "each key ends at its last value");
            let walks_max = took.as_millis() as u64 / 50 + 2;
            match topic {
                "newest" => {
                    assert!(received.len() as u64 <= walks_max * KEYS, "{} in {took:?}", received.len());
                    assert!((3..=walks_max).contains(&notices), "{notices} notices in {took:?}");
                }
                "fine" => assert!(notices > 20, "{notices} notices in {took:?}"),
                _ => assert_eq!((received.len() as u64, notices), (MESSAGES, 0)),
            }
            client.leave();
        }
    }
    let count = |counter| running.counters().iter().map(|shard| shard.get(counter)).sum::<u64>();
    assert!(count(Counter::DroppedByInterval) > 0 && count(Counter::LagsTold) > 0);
    // What waits when the server leaves goes before the close frames.
    let mut client = subscribe(address, "minute");
    let mut publisher = Client::web_socket(address, "/publish/minute");
    publisher.say("first");
    assert_eq!(client.text(), "first");
    (2..=9).for_each(|number| publisher.say(&number.to_string()));
    publisher.leave();
    running.stop();
    let (texts, code) = client.rest();
    assert_eq!((texts, code), ((2..=9).map(|number| number.to_string()).collect(), Some(CloseCode(1012))));
    running.wait_blocking().unwrap();
}

#[test]
fn deliveries_keep_their_intervals_on_io_uring() {
    keep_to_intervals(BackendKind::Uring);
}

#[test]
fn deliveries_keep_their_intervals_on_epoll() {
    keep_to_intervals(BackendKind::Epoll);
}
