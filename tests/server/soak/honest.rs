//! The honest crowd of a soak: listeners that must receive every message of their topics, in order, to the end.

use std::{
    io::Write as _,
    net::{SocketAddr, TcpStream},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, Scope, ScopedJoinHandle},
    time::Duration,
};

use ringhub::proto::OpCode;

use super::random::Random;
use crate::support::{Client, Listeners, Numbered, Received, Server, dial, post, take_response};

/// The honest crowd and its topics. Other listeners may come and go on these topics.
pub(super) struct Honest {
    address: SocketAddr,
    topics: Vec<Numbered>,
    listeners: Mutex<Listeners>,
    /// How many publishers have published their last message.
    published: AtomicU64,
    checked: AtomicU64,
}

impl Honest {
    /// Lets all listeners join before the first message.
    pub(super) fn join(server: &Server) -> Honest {
        let topics: Vec<Numbered> = (0..TOPICS).map(|number| Numbered::new(&format!("/t/honest-{number}"))).collect();
        let mut listeners = Listeners::new(server.address());
        topics.iter().for_each(|topic| listeners.join(LISTENERS, topic, None));
        Honest {
            address: server.address(),
            topics,
            listeners: Mutex::new(listeners),
            published: AtomicU64::new(0),
            checked: AtomicU64::new(0),
        }
    }

    /// Returns one of the topics.
    pub(super) fn topic(&self, random: &mut Random) -> &Numbered {
        &self.topics[random.below(TOPICS)]
    }

    /// Returns the number of messages that all listeners together have received.
    pub(super) fn checked(&self) -> u64 {
        self.checked.load(Ordering::Relaxed)
    }

    /// Publishes and listens until the troubles are over. Then publishes each topic's last message, and waits for it
    /// and for the end of all connections.
    pub(super) fn serve<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        is_over: &'scope AtomicBool,
    ) -> Vec<ScopedJoinHandle<'scope, ()>> {
        let mut threads = vec![scope.spawn(move || self.listen(is_over))];
        for (number, topic) in self.topics.iter().enumerate() {
            threads.push(scope.spawn(move || match number {
                0 => self.publish(topic, is_over, Poster::new(self.address, topic)),
                _ => self.publish(topic, is_over, Sender::new(self.address, topic)),
            }));
        }
        threads
    }

    fn listen(&self, is_over: &AtomicBool) {
        let mut listeners = self.listeners.lock().unwrap();
        while !is_over.load(Ordering::Relaxed) || self.published.load(Ordering::SeqCst) < TOPICS as u64 {
            listeners.serve_once(50);
            assert_eq!(
                listeners.open(),
                TOPICS * LISTENERS,
                "an honest listener has lost its connection: {listeners:?}"
            );
        }
        listeners.serve_until("all have the last message", |all| all.finished() == TOPICS * LISTENERS);
        let all = 0..listeners.len();
        self.checked.store(all.clone().map(|number| listeners.next(number)).sum(), Ordering::Relaxed);
        all.for_each(|number| listeners.close(number));
        listeners.serve_until("all have left", |all| all.open() == 0);
    }

    fn publish(&self, topic: &Numbered, is_over: &AtomicBool, mut publisher: impl Publisher) {
        let mut count: usize = 0;
        while !is_over.load(Ordering::Relaxed) {
            // Some messages are large enough to be shared instead of copied.
            let length = if count.is_multiple_of(50) { 20_000 } else { 10 + count % 500 };
            publisher.publish(&topic.next(length));
            count += 1;
            thread::sleep(Duration::from_millis(2));
        }
        publisher.publish(&topic.last());
        publisher.leave();
        self.published.fetch_add(1, Ordering::SeqCst);
    }
}

/// Publishes messages one after the other.
trait Publisher {
    /// Publishes a message, and returns when the server has taken it.
    fn publish(&mut self, message: &str);
    fn leave(self);
}

/// A publisher on a WebSocket.
struct Sender(Client);

impl Sender {
    fn new(address: SocketAddr, topic: &Numbered) -> Sender {
        Sender(Client::connect(address, &format!("{}?mode=pub", topic.target())))
    }
}

impl Publisher for Sender {
    fn publish(&mut self, message: &str) {
        self.0.send_text(message);
        self.0.send(OpCode::Ping, true, b"taken?");
        loop {
            match self.0.receive() {
                Received::Ping(_) => {}
                Received::Pong(payload) if payload == b"taken?" => return,
                other => panic!("an honest publisher receives {other:?}"),
            }
        }
    }

    fn leave(self) {
        self.0.leave();
    }
}

/// A publisher by POST, on a kept connection.
struct Poster {
    stream: TcpStream,
    target: String,
}

impl Poster {
    fn new(address: SocketAddr, topic: &Numbered) -> Poster {
        Poster { stream: dial(address), target: topic.target().into() }
    }
}

impl Publisher for Poster {
    fn publish(&mut self, message: &str) {
        self.stream.write_all(post(&self.target, "text/plain", message).as_bytes()).unwrap();
        let (response, _) = take_response(&mut self.stream, Vec::new(), true);
        assert_eq!(response.status(), 202, "{response:?}");
    }

    fn leave(self) {}
}

const TOPICS: usize = 4;

/// The number of listeners of each topic.
const LISTENERS: usize = 50;
