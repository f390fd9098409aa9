//! Order and exactly-once on real sockets, with thousands of subscribers, of which hundreds join and leave in the
//! middle of each fan-out.
//!
//! One thread serves all clients with epoll. On each topic there is an observer, which never leaves and so sees the
//! whole order. The messages that another subscriber has seen must be one part of this order, without a gap and without
//! a repetition. If the subscriber has no echo, its own messages are missing from the part. The part must not begin
//! after the first message that was sent after the opening answer. If the subscriber has stayed, the part must reach
//! the end of the order.

use std::{
    io::{ErrorKind, Read, Write},
    mem,
    net::{Shutdown, TcpStream},
    time::Instant,
};

use bytes::BytesMut;
use ringhub::proto::{
    ClientHandshake, Event, Fin, Input, MessageLimits, OpCode, ResponseHead, Role, State, Tick, WebSocket,
};
use rustix::event::{Timespec, epoll};

use crate::support::{CrowdPermit, DEADLINE, Server, reset};

#[test]
fn thousands_agree_on_one_order_while_others_come_and_go() {
    agree(SUBSCRIBERS, "--shards 1");
}

/// Every shard has publishers and subscribers of every topic, and each topic still has one order.
#[test]
fn four_shards_agree_on_one_order() {
    agree(SUBSCRIBERS / 4, "--shards 4");
}

#[test]
fn five_shards_on_one_cpu_agree_on_one_order() {
    agree(SUBSCRIBERS / 10, "--shards 5 --cpus 0");
}

fn agree(subscribers: usize, shards: &str) {
    let permit = CrowdPermit::take();
    // A connection takes one descriptor of this process. Its other end takes a descriptor of the server's process.
    let affordable = permit.descriptors();
    let wanted = subscribers;
    let subscribers = wanted.min(affordable.saturating_sub(2 * CHURN));
    if subscribers < wanted {
        println!("only {subscribers} subscribers: the hard limit of descriptors allows no more");
    }
    assert!(subscribers >= 100, "the limit of descriptors, {affordable}, is too low for this test");
    // The sockets have little room, so that sends are short. The backlogs have much room, so that no client is closed
    // as slow. The timeouts are long: on a busy machine it may take long until a client has read all that comes before
    // its close frame.
    let flags = "--send-buffer 8KiB --max-backlog 1GiB --max-backlog-messages 1000000 --ping-interval 0 \
                 --close-timeout 1h --handshake-timeout 1h";
    let server = Server::start(&flags.split_whitespace().chain(shards.split(' ')).collect::<Vec<_>>());
    let mut crowd = Crowd::new(&server);
    for topic in 0..TOPICS {
        crowd.join(topic, Kind::Observer);
    }
    for number in 0..subscribers {
        let kind = match number {
            0..SENDERS => Kind::Sender { echo: number % 2 == 0 },
            _ => Kind::Listener,
        };
        crowd.join(crowd.topic_of(number), kind);
    }
    crowd.serve_until("everybody is subscribed", |crowd| crowd.pending == 0);
    for round in 0..ROUNDS {
        crowd.speak(round);
        crowd.churn(round);
        // The test does not wait for silence, so the next messages meet walks that are under way.
        for _ in 0..3 {
            crowd.serve_once(0);
        }
    }
    crowd.serve_until("everybody is subscribed", |crowd| crowd.pending == 0);
    crowd.say_last_words();
    crowd.serve_until("everybody has the last message", |crowd| crowd.awaiting_last == 0);
    crowd.serve_until("the leaving clients have left", |crowd| crowd.clients.iter().all(|client| client.has_settled()));
    crowd.check();
    server.expect_counts(&[("slow_closed_total", 0), ("connections_open", crowd.connected() as u64)]);
    let counts = server.counts();
    println!(
        "{} connections, {} messages in, {} deliveries in {} sends, {} of them short",
        counts.get("opened_total"),
        counts.get("messages_in_total"),
        counts.get("deliveries_total"),
        counts.get("sends_total"),
        counts.get("short_sends_total")
    );
}

/// All clients of the server, served by this thread.
struct Crowd<'a> {
    server: &'a Server,
    poll: rustix::fd::OwnedFd,
    clients: Vec<Client>,
    /// For each message, by the number in its payload: its sender, and its position among the messages of that sender.
    sent: Vec<(u32, u32)>,
    /// How many clients are not subscribed yet.
    pending: usize,
    /// How many of the staying clients have not seen the last message of their topic.
    awaiting_last: usize,
    /// The number of each topic's last message.
    last_words: Vec<Option<u32>>,
    /// When bytes last arrived, or when the present wait began if that was later.
    moved: Instant,
    chunk: Vec<u8>,
    events: Vec<epoll::Event>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Observer,
    Listener,
    Sender { echo: bool },
}

struct Client {
    topic: usize,
    kind: Kind,
    stream: Option<TcpStream>,
    handshake: ClientHandshake,
    /// How many messages the topic's observer had seen before this client asked to join.
    asked_at: usize,
    /// How many messages had been sent when the opening answer came.
    joined_at: Option<u32>,
    websocket: WebSocket,
    rest: BytesMut,
    /// The numbers of the received messages, in the order in which they came.
    received: Vec<u32>,
    said: u32,
    /// The client has begun the closing handshake.
    is_leaving: bool,
    /// The client has left without a closing handshake, so its last messages may not have arrived.
    was_cut: bool,
}

impl Client {
    /// Returns whether the client has left or will stay.
    fn has_settled(&self) -> bool {
        self.stream.is_none() || !self.is_leaving
    }
}

impl<'a> Crowd<'a> {
    fn new(server: &'a Server) -> Self {
        Crowd {
            server,
            poll: epoll::create(epoll::CreateFlags::CLOEXEC).expect("epoll"),
            clients: Vec::new(),
            sent: Vec::new(),
            pending: 0,
            awaiting_last: 0,
            last_words: vec![None; TOPICS],
            moved: Instant::now(),
            chunk: vec![0; 256 * 1_024],
            events: Vec::with_capacity(1_024),
        }
    }

    /// Returns the topic of a client by its number. Most clients are on the first topic.
    fn topic_of(&self, number: usize) -> usize {
        match number % 10 {
            0 => 2,
            1 | 2 => 1,
            _ => 0,
        }
    }

    fn join(&mut self, topic: usize, kind: Kind) {
        let number = self.clients.len() as u64;
        // Some clients have so small a buffer that the server has to wait for them.
        let receive_buffer = number.is_multiple_of(20).then_some(4_096);
        let mut stream = crate::support::dial_with(self.server.address(), receive_buffer);
        let seed = u128::from(number).to_le_bytes();
        let mut handshake = ClientHandshake::new(seed);
        let query = match kind {
            Kind::Observer => "?mode=sub",
            Kind::Listener | Kind::Sender { echo: false } => "",
            Kind::Sender { echo: true } => "?echo=true",
        };
        let request = handshake.request("hub.example", &format!("/t/order-{topic}{query}"), &[], &[]);
        stream.write_all(&request).expect("a request fits");
        stream.set_nonblocking(true).expect("a socket");
        let data = epoll::EventData::new_u64(number);
        epoll::add(&self.poll, &stream, data, epoll::EventFlags::IN).expect("epoll");
        let asked_at = self.clients.get(topic).map_or(0, |observer| observer.received.len());
        self.clients.push(Client {
            topic,
            kind,
            asked_at,
            stream: Some(stream),
            handshake,
            joined_at: None,
            websocket: WebSocket::new(Role::Client { masking_seed: seed }, Tick(0)),
            rest: BytesMut::new(),
            received: Vec::new(),
            said: 0,
            is_leaving: false,
            was_cut: false,
        });
        self.pending += 1;
        // The kernel's queue of connections that the server has not accepted yet is short.
        if self.pending >= PENDING_MAX {
            self.serve_until("some are subscribed", |crowd| crowd.pending < PENDING_MAX / 2);
        }
    }

    /// Every connected sender sends a message; a few messages are large.
    fn speak(&mut self, round: usize) {
        for number in 0..self.clients.len() {
            let client = &self.clients[number];
            let speaks = matches!(client.kind, Kind::Sender { .. }) && client.joined_at.is_some();
            if !speaks || client.is_leaving || client.stream.is_none() {
                continue;
            }
            let size = match (number + round) % 97 {
                0 => 17_000,
                1..10 => 700,
                _ => 20,
            };
            self.say(number, size);
            self.serve_once(0);
            // Some senders send two messages at once.
            if (number + round).is_multiple_of(3) {
                self.say(number, 20);
            }
        }
    }

    fn say(&mut self, number: usize, size: usize) -> u32 {
        let client = &mut self.clients[number];
        let message = self.sent.len() as u32;
        let mut text = format!("{message}.");
        text.extend(std::iter::repeat_n('x', size));
        let mut frame = Vec::new();
        assert!(client.websocket.send(OpCode::Text, Fin::Set, text.as_bytes(), &mut frame));
        let stream = client.stream.as_mut().expect("a sender is connected");
        // The write waits for room in the socket. This wait is short: the server never stops reading for long.
        stream.set_nonblocking(false).expect("a socket");
        stream.write_all(&frame).expect("the server reads what is sent");
        stream.set_nonblocking(true).expect("a socket");
        self.sent.push((number as u32, client.said));
        client.said += 1;
        message
    }

    /// Lets hundreds of clients leave in different ways, and as many join.
    fn churn(&mut self, round: usize) {
        let mut left = 0;
        // The start moves with the round, so that clients of all kinds and ages leave. The observers stay.
        for step in 0..self.clients.len() - TOPICS {
            if left == CHURN {
                break;
            }
            let number = TOPICS + (round * 1_009 + step * 31) % (self.clients.len() - TOPICS);
            let client = &self.clients[number];
            let is_there = client.stream.is_some() && !client.is_leaving && client.joined_at.is_some();
            // In each round, one in ten of the senders may leave too.
            let may_go = client.kind == Kind::Listener || (number + round).is_multiple_of(10);
            if is_there && may_go {
                self.leave(number, left);
                left += 1;
            }
            if step % 50 == 0 {
                self.serve_once(0);
            }
        }
        for newcomer in 0..left {
            let number = round + newcomer * 7;
            let kind = match newcomer % 25 {
                0 => Kind::Sender { echo: newcomer % 2 == 0 },
                _ => Kind::Listener,
            };
            self.join(self.topic_of(number), kind);
        }
    }

    fn leave(&mut self, number: usize, way: usize) {
        let client = &mut self.clients[number];
        match way % 4 {
            0 => {
                let mut frame = Vec::new();
                client.websocket.close(Tick(0), ringhub::proto::CloseCode::NORMAL, "bye", &mut frame);
                client.is_leaving = true;
                let stream = client.stream.as_mut().expect("the client is connected");
                stream.write_all(&frame).expect("a close frame fits");
                return;
            }
            // The client resets the connection.
            1 => reset(client.stream.take().expect("the client is connected")),
            // The client ends its side first, then closes the socket.
            2 => {
                let stream = client.stream.take().expect("the client is connected");
                stream.shutdown(Shutdown::Write).expect("the server is there");
            }
            // The client closes its socket. If the socket has unread input, the kernel sends a reset.
            _ => client.stream = None,
        }
        client.was_cut = true;
    }

    /// Publishes a last message on each topic, by a sender with echo. Every subscriber must get it.
    fn say_last_words(&mut self) {
        for topic in 0..TOPICS {
            let speaker = self.clients.iter().position(|client| {
                let may = matches!(client.kind, Kind::Sender { echo: true });
                may && client.topic == topic && client.stream.is_some() && !client.is_leaving
            });
            let speaker = speaker.expect("a sender with echo has stayed on each topic");
            self.last_words[topic] = Some(self.say(speaker, 20));
        }
        self.awaiting_last = self.connected();
    }

    /// Returns how many clients are connected and stay.
    fn connected(&self) -> usize {
        self.clients.iter().filter(|client| client.stream.is_some() && !client.is_leaving).count()
    }

    fn serve_until(&mut self, what: &str, is_done: impl Fn(&Self) -> bool) {
        self.moved = Instant::now();
        while !is_done(self) {
            if self.moved.elapsed() > DEADLINE {
                let Crowd { pending, awaiting_last, server, .. } = self;
                panic!("nothing arrives until {what}: {pending} {awaiting_last} {:#?}", server.counts());
            }
            self.serve_once(100);
        }
    }

    /// Reads from clients that have input, after a wait of at most `wait_ms` milliseconds.
    fn serve_once(&mut self, wait_ms: i64) {
        let mut events = mem::take(&mut self.events);
        events.clear();
        let wait = Timespec { tv_sec: 0, tv_nsec: wait_ms * 1_000_000 };
        match epoll::wait(&self.poll, rustix::buffer::spare_capacity(&mut events), Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("epoll: {error}"),
        }
        for event in &events {
            let data = event.data;
            self.read(data.u64() as usize);
        }
        self.events = events;
    }

    fn read(&mut self, number: usize) {
        let client = &mut self.clients[number];
        let Some(stream) = &mut client.stream else { return };
        match stream.read(&mut self.chunk) {
            Ok(0) => {
                assert_eq!(client.websocket.state(), State::Closed, "client {number} is cut off");
                assert!(client.is_leaving && client.rest.is_empty(), "client {number} is sent away");
                client.stream = None;
            }
            Ok(count) => {
                client.rest.extend_from_slice(&self.chunk[..count]);
                self.moved = Instant::now();
                self.look(number);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("client {number}: {error}"),
        }
    }

    /// Parses what a client has received.
    fn look(&mut self, number: usize) {
        let client = &mut self.clients[number];
        if client.joined_at.is_none() {
            let Some((head, length)) = ResponseHead::decode(&client.rest).expect("an answer") else { return };
            assert_eq!(client.handshake.check(&head), Ok(None), "client {number}");
            drop(client.rest.split_to(length));
            client.joined_at = Some(self.sent.len() as u32);
            self.pending -= 1;
        }
        let last_word = self.last_words[client.topic];
        let mut input = Input::new(mem::take(&mut client.rest));
        let mut replies = Vec::new();
        while let Some(event) =
            client.websocket.receive(Tick(0), &mut input, &LIMITS, &mut replies).expect("the server keeps to RFC 6455")
        {
            match event {
                Event::Message(message) => {
                    let payload = message.payload();
                    let digits =
                        payload.split(|&byte| byte == b'.').next().and_then(|digits| str::from_utf8(digits).ok());
                    let message =
                        digits.and_then(|digits| digits.parse().ok()).expect("a message begins with its number");
                    client.received.push(message);
                    self.awaiting_last -= usize::from(Some(message) == last_word);
                }
                Event::Close(frame) => assert!(client.is_leaving, "client {number} is closed: {frame:?}"),
                Event::Fragment(_) => unreachable!("whole messages were asked for"),
                Event::Ping(_) | Event::Pong(_) => panic!("pings are off"),
            }
        }
        client.rest = input.into_rest();
    }

    fn check(&self) {
        for topic in 0..TOPICS {
            let order = &self.clients[topic].received;
            self.check_senders(topic, order);
            // For each message: the lowest position in the order that this message, or any message sent after it, has.
            let mut positions = vec![None; self.sent.len()];
            for (position, &message) in order.iter().enumerate() {
                assert!(positions[message as usize].replace(position).is_none(), "message {message} twice");
            }
            let mut first_from = vec![order.len(); self.sent.len() + 1];
            for message in (0..self.sent.len()).rev() {
                first_from[message] = positions[message].unwrap_or(order.len()).min(first_from[message + 1]);
            }
            let others = self.clients.iter().enumerate().filter(|(_, client)| client.topic == topic);
            for (number, client) in others {
                self.check_client(number, client, order, &positions, &first_from);
            }
        }
    }

    /// Checks that a topic's order has each sender's messages without a gap, in the order in which the sender sent
    /// them.
    fn check_senders(&self, topic: usize, order: &[u32]) {
        let mut next = vec![0; self.clients.len()];
        for &message in order {
            let (sender, count) = self.sent[message as usize];
            assert_eq!(count, next[sender as usize], "the messages of client {sender} on topic {topic}");
            next[sender as usize] += 1;
        }
        for (number, client) in self.clients.iter().enumerate().filter(|(_, client)| client.topic == topic) {
            assert!(next[number] == client.said || client.was_cut, "{} of client {number} are lost", client.said);
        }
    }

    fn check_client(
        &self,
        number: usize,
        client: &Client,
        order: &[u32],
        positions: &[Option<usize>],
        first_from: &[usize],
    ) {
        let has_echo = client.kind != Kind::Sender { echo: false };
        let owed = |message: u32| has_echo || self.sent[message as usize].0 != number as u32;
        let joined_at = client.joined_at.expect("everybody has joined") as usize;
        let latest = first_from[joined_at];
        // The client's part of the order begins at the client's first message. For a client without messages, the part
        // begins at the latest position that is allowed.
        let begin = match client.received.first() {
            Some(&message) => positions[message as usize].expect("the observer has seen it too"),
            None => latest,
        };
        let late = order.get(latest..begin).unwrap_or_default().iter().any(|&message| owed(message));
        assert!(!late, "client {number} has missed a message that was sent after its opening answer");
        assert!(
            begin >= client.asked_at.min(latest),
            "client {number} has a message that was ordered before it asked to join"
        );
        let mut expected = order[begin..].iter().copied().filter(|&message| owed(message));
        for (index, &message) in client.received.iter().enumerate() {
            assert_eq!(Some(message), expected.next(), "message {index} of client {number}, {:?}", client.kind);
        }
        let stayed = client.stream.is_some() && !client.is_leaving;
        assert!(!stayed || expected.next().is_none(), "client {number} has not seen the end");
    }
}

const SUBSCRIBERS: usize = 5_000;
const SENDERS: usize = 48;
const TOPICS: usize = 3;
const ROUNDS: usize = 25;

/// How many clients leave in each round, and how many join.
const CHURN: usize = 200;

/// How many opening handshakes are under way at the same time.
const PENDING_MAX: usize = 100;

const LIMITS: MessageLimits = MessageLimits { fragments_max: 1, ..MessageLimits::DEFAULT };
