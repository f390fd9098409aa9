//! The honest crowd: publishers and subscribers that keep to the protocol and check their messages.
//!
//! Each client is a thread. The client panics at the first message that is missing, repeated, out of order or cut, and
//! when the server disconnects it.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use ringhub::proto::{OpCode, ResponseHead};

use crate::{
    crowd::Random,
    ledger::{Ledger, Sent, Watch},
    support::{Client, DEADLINE, Received, dial, dial_from},
};

/// A topic of the honest crowd: the targets that lead to it.
#[derive(Clone, Copy)]
pub(crate) struct Topic {
    pub(crate) targets: &'static [&'static str],
    /// Whether the right token is needed.
    pub(crate) is_private: bool,
}

/// The topics of the honest crowd.
pub(crate) const TOPICS: &[Topic] = &[
    Topic { targets: &["/t/honest-0", "/all/all%2Fhonest-0", "/%74/honest-0"], is_private: false },
    Topic { targets: &["/t/honest-1", "/rooms/all%2Fhonest-1"], is_private: false },
    Topic { targets: &["/private/plan", "/all/private/plan", "/rooms/private%2Fplan"], is_private: true },
];

/// The only token for private places.
pub(crate) const TOKEN: &str = "the-right-word";

/// The honest crowd at work.
pub(crate) struct Honest {
    stage: Arc<Stage>,
    clients: Vec<JoinHandle<()>>,
}

/// The state that all honest clients share.
struct Stage {
    server: SocketAddr,
    ledger: Arc<Ledger>,
    tally: Mutex<Tally>,
    sessions: AtomicU64,
}

/// The work of an honest client on a topic.
type Role = fn(&Stage, usize, Random);

/// The results of an honest crowd, in numbers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    /// Connections of subscribers and publishers by WebSocket.
    pub(crate) sessions: u64,
    /// Messages of all publishers.
    pub(crate) published: u64,
    /// Messages whose publishers got no answer.
    pub(crate) uncertain: u64,
    /// Messages that were answered 202.
    pub(crate) posted: u64,
    /// Requests on new connections that had no answer.
    pub(crate) unanswered: u64,
    /// Requests that were answered 503 and then repeated.
    pub(crate) repeated: u64,
    /// Messages that were received.
    pub(crate) received: usize,
}

impl Honest {
    /// Starts the crowd. One subscriber of each topic stays from the beginning to the end.
    pub(crate) fn start(server: SocketAddr, seed: u64) -> Honest {
        let ledger = Arc::new(Ledger::default());
        let stage = Arc::new(Stage { server, ledger, tally: Mutex::default(), sessions: AtomicU64::new(0) });
        let mut clients = Vec::new();
        for topic in 0..TOPICS.len() {
            let roles: [(&str, Role); 7] = [
                ("constant subscriber", |stage, topic, random| stage.subscribe(topic, random, true)),
                ("subscriber", |stage, topic, random| stage.subscribe(topic, random, false)),
                ("another subscriber", |stage, topic, random| stage.subscribe(topic, random, false)),
                ("publisher", Stage::publish),
                ("member with echo", |stage, topic, random| stage.talk(topic, random, true)),
                ("member without echo", |stage, topic, random| stage.talk(topic, random, false)),
                ("poster", Stage::post),
            ];
            for (name, role) in roles {
                let random = Random::new(seed.wrapping_mul(1_000).wrapping_add(clients.len() as u64));
                let stage = Arc::clone(&stage);
                let client = thread::Builder::new().name(format!("{name} of topic {topic}"));
                clients.push(client.spawn(move || role(&stage, topic, random)).unwrap());
            }
        }
        Honest { stage, clients }
    }

    /// Returns whether a client has failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.clients.iter().any(JoinHandle::is_finished)
    }

    /// Ends the crowd, and fails if a client has missed a message.
    pub(crate) fn finish(self) -> Tally {
        let Stage { ledger, server, .. } = &*self.stage;
        ledger.finish();
        let begin = Instant::now();
        while ledger.publishing() > 0 {
            assert!(begin.elapsed() < 2 * DEADLINE, "{} publishers do not end", ledger.publishing());
            thread::sleep(Duration::from_millis(5));
        }
        ledger.complete();
        for topic in TOPICS {
            // This message wakes each subscriber, which then checks the ledger again.
            let mut stream = dial(*server);
            while !matches!(publish(&mut stream, topic, topic.targets[0], b"end"), Posted::Taken { .. }) {
                stream = dial(*server);
            }
        }
        let mut failed = Vec::new();
        for client in self.clients {
            let name = client.thread().name().unwrap_or_default().to_owned();
            if client.join().is_err() {
                failed.push(name);
            }
        }
        assert!(failed.is_empty(), "honest clients were not served as promised: {failed:?}");
        let mut tally = *self.stage.tally.lock().unwrap();
        tally.received = ledger.check_orders();
        (tally.published, tally.uncertain) = ledger.totals();
        tally.sessions = self.stage.sessions.load(Ordering::Relaxed);
        tally
    }
}

impl Stage {
    /// Dials from an address for each topic, since the connections of an address are limited.
    fn dial(&self, topic: usize) -> TcpStream {
        let own = Ipv4Addr::new(127, 0, 0, 2 + topic as u8);
        dial_from(self.server, Some(own.into()), None)
    }

    fn open(&self, topic: usize, query: &str, random: &mut Random) -> Client {
        let Topic { targets, is_private } = TOPICS[topic];
        let target = format!("{}{query}", random.pick(targets));
        let token = format!("Bearer {TOKEN}");
        let headers = [("Authorization", &*token)];
        let headers = if is_private { &headers[..] } else { &[] };
        self.sessions.fetch_add(1, Ordering::Relaxed);
        Client::open_with(self.dial(topic), &target, &[], headers)
            .unwrap_or_else(|response| panic!("an honest client is refused at {target}: {response:?}"))
    }

    /// Acts as a subscriber that receives, and leaves and subscribes again unless it `stays`. At the end of the crowd
    /// it waits until all messages have come.
    fn subscribe(&self, topic: usize, mut random: Random, stays: bool) {
        loop {
            let mut client = self.open(topic, random.pick(&["?mode=sub", "?mode=sub&echo=true"]), &mut random);
            let mut watch = Watch::begin(&self.ledger, topic, None);
            let quota = if stays { usize::MAX } else { 20 + random.below(300) };
            if self.watch(&mut client, &mut watch, quota) {
                leave(client, &mut watch);
                return watch.end();
            }
            leave(client, &mut watch);
            watch.end();
        }
    }

    /// Receives `quota` messages, or at the end of the crowd all that are missing. Returns whether the crowd has ended.
    fn watch(&self, client: &mut Client, watch: &mut Watch, quota: usize) -> bool {
        let mut last = None;
        for _ in 0..quota {
            if self.ledger.is_complete() {
                let Some(missing) = watch.missing() else { return true };
                let since = last.get_or_insert_with(Instant::now);
                assert!(since.elapsed() < DEADLINE, "messages do not come: {missing}");
            }
            receive(client, watch);
        }
        false
    }

    /// Publishes by WebSocket. Opens another connection from time to time, as another publisher, since messages keep
    /// their order only within a connection.
    fn publish(&self, topic: usize, mut random: Random) {
        while !self.ledger.is_over() {
            let mut client = self.open(topic, "?mode=pub", &mut random);
            let (sent, _publishing) = self.ledger.publisher(topic);
            for _ in 0..20 + random.below(300) {
                if self.ledger.is_over() {
                    break;
                }
                self.send(&mut client, &sent, topic, &mut random);
                if random.once_in(10) {
                    await_pong(&mut client, None);
                }
                pause(&mut random);
            }
            leave_quietly(client);
        }
    }

    /// Subscribes and publishes by one connection.
    fn talk(&self, topic: usize, mut random: Random, has_echo: bool) {
        loop {
            let query = if has_echo { "?echo=true" } else { "" };
            let mut client = self.open(topic, query, &mut random);
            let (sent, publishing) = self.ledger.publisher(topic);
            let mut watch = Watch::begin(&self.ledger, topic, Some((Arc::clone(&sent), has_echo)));
            for _ in 0..20 + random.below(200) {
                if self.ledger.is_over() {
                    break;
                }
                self.send(&mut client, &sent, topic, &mut random);
                await_pong(&mut client, Some(&mut watch));
                pause(&mut random);
            }
            drop(publishing);
            let is_last = self.ledger.is_over();
            if is_last {
                assert!(self.watch(&mut client, &mut watch, usize::MAX));
            }
            leave(client, &mut watch);
            watch.end();
            if is_last {
                return;
            }
        }
    }

    fn send(&self, client: &mut Client, sent: &Sent, topic: usize, random: &mut Random) {
        let message = sent.text(sent.begin(), random.below(400), TOPICS[topic].is_private);
        match random.below(4) {
            0 => {
                let (begin, end) = message.as_bytes().split_at(random.below(message.len()));
                client.send(OpCode::Text, false, begin);
                client.send(OpCode::Continuation, true, end);
            }
            _ => client.send_text(&message),
        }
    }

    /// Publishes by POST, on connections of one or of many requests.
    fn post(&self, topic: usize, mut random: Random) {
        let (sent, _publishing) = self.ledger.publisher(topic);
        let mut stream = None;
        let mut last = (0, 0);
        while !self.ledger.is_over() {
            let number = sent.begin();
            let message = sent.text(number, random.below(400), TOPICS[topic].is_private);
            let begin = Instant::now();
            loop {
                assert!(begin.elapsed() < DEADLINE, "message {number} finds no room by HTTP");
                let is_fresh = stream.is_none();
                let mut used = stream.take().unwrap_or_else(|| self.dial(topic));
                let target = random.pick(TOPICS[topic].targets);
                match publish(&mut used, &TOPICS[topic], target, message.as_bytes()) {
                    Posted::Taken { place, stays } => {
                        assert!(place > last, "the place {place:?} does not follow {last:?}");
                        last = place;
                        self.tally.lock().unwrap().posted += 1;
                        stream = Some(used).filter(|_| stays && !random.once_in(4));
                        break;
                    }
                    Posted::NoRoom => {
                        self.tally.lock().unwrap().repeated += 1;
                        thread::sleep(Duration::from_millis(20));
                    }
                    // The server may have ended the connection for a new one.
                    Posted::Unknown => {
                        self.tally.lock().unwrap().unanswered += u64::from(is_fresh);
                        sent.is_uncertain(number);
                        break;
                    }
                }
            }
            pause(&mut random);
        }
    }
}

/// The outcome of a POST.
enum Posted {
    /// The answer was 202: the message's epoch and offset, and whether the connection stays open.
    Taken { place: (u64, u64), stays: bool },
    /// The answer was 503.
    NoRoom,
    /// The connection has ended without an answer.
    Unknown,
}

fn publish(stream: &mut TcpStream, topic: &Topic, target: &str, body: &[u8]) -> Posted {
    let token = if topic.is_private { format!("Authorization: Bearer {TOKEN}\r\n") } else { String::new() };
    let head = format!(
        "POST {target} HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\n{token}Content-Length: {}\r\n\r\n",
        body.len()
    );
    if stream.write_all(&[head.as_bytes(), body].concat()).is_err() {
        return Posted::Unknown;
    }
    let mut bytes = Vec::new();
    loop {
        if let Some((head, length)) = ResponseHead::decode(&bytes).expect("the answer is HTTP") {
            let announced = head.headers().get("content-length").and_then(|value| str::from_utf8(value).ok());
            let end = length + announced.expect("the answer has a length").parse::<usize>().unwrap();
            if bytes.len() >= end {
                assert_eq!(bytes.len(), end, "something follows the answer");
                return posted(&head, &bytes[length..]);
            }
        }
        let mut chunk = [0; 4_096];
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            // A stop and a continue of the process interrupt a read with a timeout (signal(7)).
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => panic!("no answer to a POST: {error}"),
        }
    }
    assert!(bytes.is_empty(), "an answer is cut: {:?}", String::from_utf8_lossy(&bytes));
    Posted::Unknown
}

fn posted(head: &ResponseHead, body: &[u8]) -> Posted {
    match head.status() {
        202 => {
            let answer: serde_json::Value = serde_json::from_slice(body).expect("JSON");
            let number = |key: &str| answer[key].as_u64().expect("a number");
            let stays = !head.headers().list_contains("connection", "close");
            Posted::Taken { place: (number("epoch"), number("offset")), stays }
        }
        503 => Posted::NoRoom,
        status => panic!("an honest POST is answered {status}: {}", String::from_utf8_lossy(body)),
    }
}

/// Receives one frame.
fn receive(client: &mut Client, watch: &mut Watch) {
    match client.receive() {
        Received::Text(message) => watch.take(&message),
        Received::Ping(_) => {}
        other => panic!("an honest client is sent {other:?}"),
    }
}

/// Waits for the answer to a ping, so that a client does not have too much under way.
fn await_pong(client: &mut Client, mut watch: Option<&mut Watch>) {
    client.send(OpCode::Ping, true, b"here?");
    loop {
        match (client.receive(), watch.as_deref_mut()) {
            (Received::Pong(payload), _) if payload == b"here?" => return,
            (Received::Ping(_), _) => {}
            (Received::Text(message), Some(watch)) => watch.take(&message),
            (other, _) => panic!("an honest client is sent {other:?}"),
        }
    }
}

/// Leaves with a closing handshake; checks the messages until its end too.
fn leave(mut client: Client, watch: &mut Watch) {
    client.send_close(1000, "bye");
    loop {
        match client.receive() {
            Received::Text(message) => watch.take(&message),
            Received::Ping(_) => {}
            Received::Close(Some(1000), _) => break,
            other => panic!("an honest client that leaves is sent {other:?}"),
        }
    }
    client.expect(Received::End);
}

/// Leaves with a closing handshake, and expects no message.
fn leave_quietly(mut client: Client) {
    client.send_close(1000, "bye");
    loop {
        match client.receive() {
            Received::Ping(_) => {}
            Received::Close(Some(1000), _) => break,
            other => panic!("an honest publisher that leaves is sent {other:?}"),
        }
    }
    client.expect(Received::End);
}

fn pause(random: &mut Random) {
    thread::sleep(Duration::from_millis(5 + random.below(40) as u64));
}
