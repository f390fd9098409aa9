//! Tests over real sockets that each topic has one order and each message comes exactly once, on every backend, also on
//! the faulty ones.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use bytes::{Buf as _, BytesMut};

use super::{Running, Server};
use crate::{
    metrics::Counter,
    proto::{ClientHandshake, FrameHeader, OpCode, ResponseHead, encode_masked},
    sys::BackendKind,
};

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

/// Subscribers of two topics see one order each, with every message once, while others join and leave.
fn agree(backend: BackendKind) {
    let running = start(backend);
    let address = running.local_addr();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let mut subscribers = Vec::new();
        for topic in 0..TOPICS {
            for _ in 0..SUBSCRIBERS {
                let client = Client::open(address, &format!("/t/{topic}?mode=sub"));
                subscribers.push((topic, scope.spawn(move || client.read_to_last())));
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
            let mut client = Client::open(address, &format!("/t/{topic}?mode=pub"));
            client.send(LAST);
            client.leave();
        }
        let mut orders: Vec<Option<Vec<String>>> = vec![None; TOPICS];
        for (topic, subscriber) in subscribers {
            let seen = subscriber.join().unwrap();
            let order = orders[topic].get_or_insert_with(|| seen.clone());
            assert!(*order == seen, "{backend:?}: two subscribers of topic {topic} disagree");
        }
        let orders: Vec<Vec<String>> = orders.into_iter().map(|order| order.expect("it has subscribers")).collect();
        orders.iter().enumerate().for_each(|(topic, order)| check_order(topic, order));
        for (topic, pieces) in passed {
            assert!(!pieces.is_empty(), "nobody has passed by");
            for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
                let is_piece = orders[topic].windows(piece.len()).any(|window| window == &piece[..]);
                assert!(is_piece, "{backend:?}: {piece:?} is no piece of the order of topic {topic}");
            }
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
        (0..TOPICS).map(|topic| Client::open(address, &format!("/t/{topic}?mode=pub"))).collect();
    for number in 0..MESSAGES {
        let length = [0, 10, 200, 5_000, 40_000][(number + own) % 5];
        let text = format!("{own} {number} {}", "x".repeat(length));
        clients.iter_mut().for_each(|client| client.send(&text));
        if number % 10 == 0 {
            thread::sleep(Duration::from_millis(1));
        }
    }
    clients.into_iter().for_each(Client::leave);
}

/// Checks that each publisher's messages are there once and in their order.
fn check_order(topic: usize, order: &[String]) {
    assert_eq!(order.len(), PUBLISHERS * MESSAGES, "topic {topic}");
    for own in 0..PUBLISHERS {
        let prefix = format!("{own} ");
        let own_texts = order.iter().filter_map(|text| text.strip_prefix(&prefix));
        let numbers = own_texts.map(|text| text.split(' ').next().unwrap_or_default().parse::<usize>().unwrap());
        assert!(numbers.eq(0..MESSAGES), "topic {topic}, publisher {own}");
    }
}

/// Subscribes again and again, each time for some messages. Returns what was seen each time.
fn pass_by(address: SocketAddr, topic: usize, is_over: &AtomicBool) -> Vec<Vec<String>> {
    let mut pieces = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        let mut client = Client::open(address, &format!("/t/{topic}?mode=sub"));
        client.stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let mut piece = Vec::new();
        while piece.len() < 15
            && let Some(text) = client.next()
        {
            piece.push(text);
        }
        pieces.push(piece);
    }
    pieces
}

/// A blocking client.
struct Client {
    stream: TcpStream,
    input: BytesMut,
}

impl Client {
    fn open(address: SocketAddr, target: &str) -> Client {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let mut handshake = ClientHandshake::new(*b"sixteen octets..");
        stream.write_all(&handshake.request("a", target, &[], &[])).unwrap();
        let mut client = Client { stream, input: BytesMut::new() };
        loop {
            assert!(client.fetch(), "the server ends the connection");
            if let Some((head, length)) = ResponseHead::decode(&client.input).unwrap() {
                handshake.check(&head).unwrap_or_else(|error| panic!("{target}: {error}"));
                client.input.advance(length);
                return client;
            }
        }
    }

    /// Receives more. Returns whether something came in time.
    fn fetch(&mut self) -> bool {
        let mut chunk = [0; 16 * 1_024];
        let count = self.stream.read(&mut chunk).unwrap_or_default();
        self.input.extend_from_slice(&chunk[..count]);
        count > 0
    }

    /// Returns the next message, if one comes in time.
    fn next(&mut self) -> Option<String> {
        loop {
            if let Some((header, length)) = FrameHeader::decode(&self.input).unwrap()
                && self.input.len() >= length + header.payload_len as usize
            {
                self.input.advance(length);
                let payload = self.input.split_to(header.payload_len as usize);
                assert_eq!(header.opcode, OpCode::Text, "{payload:?}");
                return Some(String::from_utf8(payload.to_vec()).unwrap());
            }
            if !self.fetch() {
                return None;
            }
        }
    }

    fn read_to_last(mut self) -> Vec<String> {
        let mut seen = Vec::new();
        loop {
            match self.next() {
                Some(text) if text == LAST => return seen,
                Some(text) => seen.push(text),
                None => panic!("nothing comes after {} messages", seen.len()),
            }
        }
    }

    fn send(&mut self, text: &str) {
        let (mut frames, bytes) = (Vec::new(), text.as_bytes());
        let (first, rest) = bytes.split_at(bytes.len() / 3);
        let mask = [1, 2, 3, 4];
        if first.is_empty() || bytes.len() % 2 == 0 {
            encode_masked(OpCode::Text, true.into(), bytes, mask, &mut frames);
        } else {
            encode_masked(OpCode::Text, false.into(), first, mask, &mut frames);
            encode_masked(OpCode::Continuation, true.into(), rest, mask, &mut frames);
        }
        self.stream.write_all(&frames).unwrap();
    }

    /// Closes, and waits for the server's close: everything that was sent is handled then.
    fn leave(mut self) {
        let mut frame = Vec::new();
        encode_masked(OpCode::Close, true.into(), b"\x03\xe8", [1, 2, 3, 4], &mut frame);
        self.stream.write_all(&frame).unwrap();
        while self.fetch() {}
        assert_eq!(self.input, b"\x88\x02\x03\xe8"[..], "the close frame comes back");
    }
}

const PATIENCE: Duration = Duration::from_secs(60);
