//! Tests what a subscriber that has stalled gets first when it reads on: what the kernel has kept for it.

use std::{net::SocketAddr, thread, time::Duration};

use socket2::SockRef;

use super::{
    Running, Server,
    testing::{Client, Manner, Publishers, Subscribers},
};
use crate::{
    config::Size,
    hub::{Overflow, TopicRule, testing::REVERSED},
    sys::BackendKind,
};

/// The bytes of a message, and how many are published: more than the kernel keeps by itself.
const MESSAGE: usize = 2_000;
const MESSAGES: usize = 5_000;
const LOW_WATER: usize = 16 << 10;

/// A send may exceed the low water by one segment.
const SEGMENT: usize = 64 << 10;

fn start(backend: BackendKind, unsent_low_water: Option<u64>) -> (Running, SocketAddr) {
    let rule = |topic: &str| TopicRule::new([topic.parse().unwrap()]).slow(Overflow::Latest);
    let mut server = Server::builder()
        .listen(["127.0.0.1:0".parse().unwrap()])
        .shards(1)
        .settings(|settings| settings.unsent_low_water = unsent_low_water.map(Size))
        .topic_rule(rule("plain"))
        .topic_rule(rule("low").unsent_low_water(LOW_WATER as u64))
        .topic_rule(rule("small").send_buffer(LOW_WATER as u64))
        .route("/told/{topic}", Subscribers(REVERSED))
        .route("/publish/{topic}", Publishers)
        .build()
        .unwrap();
    server.backend.kind = backend;
    let running = server.start().unwrap();
    let address = running.local_addr();
    (running, address)
}

/// Lets a subscriber stall while messages come, and then read on. Returns the bytes of outdated messages that it gets
/// before the newest one, and the size of its receive buffer.
fn outdated(address: SocketAddr, topic: &str) -> (usize, usize) {
    let mut client = Client::open(
        address,
        &format!("/told/{topic}"),
        Manner { format: REVERSED, is_slow: true, ..Manner::default() },
    );
    client.set_patience(Duration::from_secs(60));
    let receive_buffer = SockRef::from(client.wire.socket()).recv_buffer_size().unwrap();
    let mut publisher = Client::web_socket(address, &format!("/publish/{topic}"));
    for number in 1..=MESSAGES {
        publisher.say(&format!("{number:>MESSAGE$}"));
    }
    publisher.leave();
    // The sockets of both sides have taken what they take.
    thread::sleep(Duration::from_millis(300));
    let (mut bytes, mut is_told) = (0, false);
    loop {
        let text = client.text();
        is_told |= text.starts_with("lag");
        match text.trim_start().parse::<usize>() {
            Ok(MESSAGES) => break,
            Ok(_) => bytes += text.len(),
            Err(_) => assert!(text.starts_with("lag"), "{text}"),
        }
    }
    assert!(is_told, "the subscriber was slow");
    (bytes, receive_buffer)
}

/// A reader that wakes gets nothing older than the low water, a segment, what was in flight, and what its own receive
/// buffer has kept. Bytes in flight fit into its receive buffer.
fn stale_output_is_bounded(backend: BackendKind) {
    let (running, address) = start(backend, None);
    let (plain, receive_buffer) = outdated(address, "plain");
    let most = LOW_WATER + SEGMENT + 2 * receive_buffer + MESSAGE;
    assert!(plain > 2 * most, "without a limit the kernel keeps more: {plain} of {most}");
    let (low, _) = outdated(address, "low");
    assert!(low <= most, "{low} bytes with a low water, of {most}");
    // The kernel doubles the size of a send buffer.
    let (small, _) = outdated(address, "small");
    assert!(small <= 2 * LOW_WATER + 2 * receive_buffer + MESSAGE, "{small} bytes with a small send buffer");
    running.stop();
    running.wait_blocking().unwrap();
    // The setting of the server holds for all topics.
    let (running, address) = start(backend, Some(LOW_WATER as u64));
    let (low, _) = outdated(address, "plain");
    assert!(low <= most, "{low} bytes with the server's low water, of {most}");
    running.stop();
    running.wait_blocking().unwrap();
}

#[test]
fn stale_output_is_bounded_on_io_uring() {
    stale_output_is_bounded(BackendKind::Uring);
}

#[test]
fn stale_output_is_bounded_on_epoll() {
    stale_output_is_bounded(BackendKind::Epoll);
}
