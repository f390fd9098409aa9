//! Tests over real sockets that each topic has one order and each message comes exactly once, on every backend, also on
//! the faulty ones.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use super::{
    Running, Server,
    testing::{Client, PATIENCE, check_piece, check_publishers},
};
use crate::{metrics::Counter, sys::BackendKind};

#[test]
fn one_order_on_io_uring() {
    agree(BackendKind::Uring);
}

#[test]
fn one_order_on_epoll() {
    agree(BackendKind::Epoll);
}

#[test]
fn one_order_on_a_faulty_io_uring() {
    for seed in SEEDS {
        agree(BackendKind::Faulty { over: &BackendKind::Uring, seed });
    }
}

#[test]
fn one_order_on_a_faulty_epoll() {
    for seed in SEEDS {
        agree(BackendKind::Faulty { over: &BackendKind::Epoll, seed });
    }
}

const SEEDS: [u64; 2] = [1, 6_455];
const TOPICS: usize = 2;
const SUBSCRIBERS: usize = 5;
const PUBLISHERS: usize = 3;
const MESSAGES: usize = 120;
const LAST: &str = "the last";

/// There are two topics. All subscribers of a topic see the topic's messages in one order, each message once, while
/// other clients join and leave.
fn agree(backend: BackendKind) {
    let running = start(backend);
    let address = running.local_addr();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let mut subscribers = Vec::new();
        for topic in 0..TOPICS {
            for _ in 0..SUBSCRIBERS {
                let client = Client::web_socket(address, &format!("/t/{topic}?mode=sub"));
                subscribers.push((topic, scope.spawn(move || read_to_last(client))));
            }
        }
        // These clients join and leave while messages are published.
        let mut passers = Vec::new();
        for topic in 0..TOPICS {
            let is_over = &is_over;
            passers.push((topic, scope.spawn(move || pass_by(address, topic, is_over))));
        }
        let publishers: Vec<_> = (0..PUBLISHERS).map(|own| scope.spawn(move || publish(address, own))).collect();
        publishers.into_iter().for_each(|publisher| publisher.join().unwrap());
        is_over.store(true, Ordering::Relaxed);
        let passed: Vec<(usize, Vec<Vec<String>>)> =
            passers.into_iter().map(|(topic, passer)| (topic, passer.join().unwrap())).collect();
        for topic in 0..TOPICS {
            let mut client = Client::web_socket(address, &format!("/t/{topic}?mode=pub"));
            client.say(LAST);
            client.leave();
        }
        let mut orders: Vec<Option<Vec<String>>> = vec![None; TOPICS];
        for (topic, subscriber) in subscribers {
            let seen = subscriber.join().unwrap();
            let order = orders[topic].get_or_insert_with(|| seen.clone());
            assert!(*order == seen, "{backend:?}: two subscribers of topic {topic} disagree");
        }
        let orders: Vec<Vec<String>> = orders.into_iter().map(|order| order.expect("it has subscribers")).collect();
        orders.iter().for_each(|order| check_publishers(order, PUBLISHERS, MESSAGES));
        for (topic, pieces) in passed {
            assert!(!pieces.is_empty(), "nobody has passed by");
            pieces.iter().for_each(|piece| check_piece(&orders[topic], piece));
        }
    });
    let count = |counter| running.counters().iter().map(|shard| shard.get(counter)).sum::<u64>();
    assert_eq!(count(Counter::SlowClosed), 0);
    let begin = Instant::now();
    while count(Counter::ConnectionsOpen) + count(Counter::PollsArmed) > 0 {
        assert!(begin.elapsed() < PATIENCE, "{backend:?}: something is left of clients that have left");
        thread::sleep(Duration::from_millis(5));
    }
    running.stop();
    running.wait_blocking().unwrap();
}

fn start(backend: BackendKind) -> Running {
    let builder = Server::builder().listen(["127.0.0.1:0".parse().unwrap()]).shards(2).topics();
    let settings = |settings: &mut crate::config::Settings| {
        // A small send buffer, so that sends fall short, and a backlog for all messages.
        settings.send_buffer = Some(crate::config::Size(8 << 10));
        settings.max_backlog = Some(crate::config::Size(256 << 20));
        settings.pin = crate::config::Pin::Off;
        settings.drain_timeout = "5s".parse().unwrap();
    };
    let mut server = builder.settings(settings).build().unwrap();
    server.backend.kind = backend;
    server.start().unwrap()
}

/// Publishes numbered messages of several lengths, some of them in fragments, to both topics in turn.
fn publish(address: SocketAddr, own: usize) {
    let mut clients: Vec<Client> =
        (0..TOPICS).map(|topic| Client::web_socket(address, &format!("/t/{topic}?mode=pub"))).collect();
    for number in 0..MESSAGES {
        let length = [0, 10, 200, 5_000, 40_000][(number + own) % 5];
        let text = format!("{own} {number} {}", "x".repeat(length));
        for client in &mut clients {
            if text.len() % 2 == 0 { client.say(&text) } else { client.say_in_fragments(&text) }
        }
        if number % 10 == 0 {
            thread::sleep(Duration::from_millis(1));
        }
    }
    clients.into_iter().for_each(|client| drop(client.leave()));
}

/// Subscribes again and again, each time for some messages. Returns what was seen each time.
fn pass_by(address: SocketAddr, topic: usize, is_over: &AtomicBool) -> Vec<Vec<String>> {
    let mut pieces = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        let mut client = Client::web_socket(address, &format!("/t/{topic}?mode=sub"));
        client.set_patience(Duration::from_millis(20));
        let mut piece = Vec::new();
        while piece.len() < 15
            && let Some(text) = client.text_in_time()
        {
            piece.push(text);
        }
        pieces.push(piece);
    }
    pieces
}

/// Reads until the last message, and returns those before it.
fn read_to_last(mut client: Client) -> Vec<String> {
    let mut seen = vec![client.text()];
    while seen.last().is_some_and(|text| text != LAST) {
        seen.push(client.text());
    }
    seen.pop();
    seen
}
