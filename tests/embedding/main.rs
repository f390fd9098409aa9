//! Tests of the library as embedders use it: servers in this process, with ordinary clients. A test whose name begins
//! with `kore_`, `qore_` or `ioto_` covers a row of that library in docs/coming-from.md.

mod between_turns;
mod broadcasts;
mod builders;
mod census;
mod client;
mod drains;
mod endings;
#[path = "../support/example.rs"]
mod example;
mod examples;
mod hub;
mod openings;
mod panics;
mod people;
mod proxies;
mod receiving;
mod reloads;
mod renewal;
mod sending;
mod services;
mod spans;
mod spawned;
mod stuck;
mod subscriptions;
#[path = "../support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "these tests use a part of it")]
mod support;
mod topics;

use std::{
    net::SocketAddr,
    sync::{
        Mutex,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use ringhub::{
    config::{IoChoice, Pin, Time},
    handler::{Accept, Closed, Connection, Handler, OpeningRequest, Response, TopicName},
    proto::{Fragment, FrameHeader, Message, MessageType, ProtocolError, Verdict},
    server::{Builder, Hub, Running, Server},
};
use support::{Client, DEADLINE, dial, is_on_epoll};

/// A server in this process. A drop ends the server.
struct Live {
    running: Option<Running>,
    address: SocketAddr,
}

/// Starts a server with `shards` shards and these routes.
fn serve(shards: usize, routes: impl FnOnce(Builder) -> Builder) -> Live {
    Live::start(routes(builder(shards)))
}

fn builder(shards: usize) -> Builder {
    // Several servers share few CPUs here, so shards are not pinned. A client that a test no longer serves must not
    // delay the end, so the drain is short.
    let builder = Server::builder().listen(["127.0.0.1:0".parse().unwrap()]).shards(shards).pin(Pin::Off);
    builder.settings(|settings| {
        settings.drain_timeout = Time(Duration::from_secs(2));
        if is_on_epoll() {
            settings.io = IoChoice::Epoll;
        }
    })
}

impl Live {
    fn start(builder: Builder) -> Live {
        let running = builder.build().expect("a server").start().expect("the server starts");
        Live { address: running.local_addr(), running: Some(running) }
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("the server has not ended")
    }

    fn hub(&self) -> Hub {
        self.running().hub()
    }

    fn connect(&self, target: &str) -> Client {
        Client::connect(self.address, target)
    }

    fn open(&self, target: &str, protocols: &[&str], headers: &[(&str, &str)]) -> Result<Client, support::Response> {
        Client::open_with(dial(self.address), target, protocols, headers)
    }

    /// Connects clients until each shard has at least `each`, and returns them.
    fn connect_to_all(&self, target: &str, each: usize) -> Vec<Client> {
        let shards = self.running().counters().len() as u16;
        let mut clients = Vec::new();
        loop {
            let ids = Hub::wait(self.hub().connections()).unwrap();
            let is_enough = |shard| ids.iter().filter(|id| id.shard() == shard).count() >= each;
            if (0..shards).all(is_enough) {
                return clients;
            }
            clients.push(self.connect(target));
        }
    }

    /// Ends the server, and waits for its end.
    fn end(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop();
            running.wait_blocking().expect("an orderly end");
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.end();
    }
}

type Callback<S> = Box<dyn Fn(&mut Connection<'_, S>) + Send + Sync>;
type Judge<S> = Box<dyn Fn(&OpeningRequest) -> Result<Accept<S>, Response> + Send + Sync>;
type Listener<S> = Box<dyn Fn(&mut Connection<'_, S>, Message<'_>) + Send + Sync>;
type Hook<S> = Box<dyn Fn(&mut S, &FrameHeader, &[u8]) -> Verdict + Send + Sync>;
type With<S, T> = Box<dyn Fn(&mut Connection<'_, S>, &T) + Send + Sync>;

/// A handler that writes each call into a [`Journal`], then does what a test wants.
struct Script<S: 'static = ()> {
    told: Mutex<Sender<String>>,
    opening: Judge<S>,
    open: Callback<S>,
    message: Listener<S>,
    fragment: Callback<S>,
    frame: Hook<S>,
    ping: Callback<S>,
    pong: Callback<S>,
    subscribed: With<S, TopicName>,
    unsubscribed: With<S, TopicName>,
    error: Callback<S>,
    close: With<S, Closed>,
}

impl<S: Default> Script<S> {
    fn new() -> (Script<S>, Journal) {
        let (told, entries) = channel();
        let script = Script {
            told: Mutex::new(told),
            opening: Box::new(|_| Ok(Accept::default())),
            open: Box::new(|_| {}),
            message: Box::new(|_, _| {}),
            fragment: Box::new(|_| {}),
            frame: Box::new(|_, _, _| Verdict::Pass),
            ping: Box::new(|_| {}),
            pong: Box::new(|_| {}),
            subscribed: Box::new(|_, _| {}),
            unsubscribed: Box::new(|_, _| {}),
            error: Box::new(|_| {}),
            close: Box::new(|_, _| {}),
        };
        (script, Journal(entries))
    }

    /// Returns a script that calls `f` with every message.
    fn by_message(f: impl Fn(&mut Connection<'_, S>, &str) + Send + Sync + 'static) -> (Script<S>, Journal) {
        let (script, journal) = Script::new();
        (script.on_message(f), journal)
    }

    fn opening(mut self, f: impl Fn(&OpeningRequest) -> Result<Accept<S>, Response> + Send + Sync + 'static) -> Self {
        self.opening = Box::new(f);
        self
    }

    fn on_open(mut self, f: impl Fn(&mut Connection<'_, S>) + Send + Sync + 'static) -> Self {
        self.open = Box::new(f);
        self
    }

    fn on_message(mut self, f: impl Fn(&mut Connection<'_, S>, &str) + Send + Sync + 'static) -> Self {
        self.message = Box::new(move |connection, message| f(connection, &lossy(message.payload())));
        self
    }

    fn on_fragment(mut self, f: impl Fn(&mut Connection<'_, S>) + Send + Sync + 'static) -> Self {
        self.fragment = Box::new(f);
        self
    }

    fn on_frame(mut self, f: impl Fn(&mut S, &FrameHeader, &[u8]) -> Verdict + Send + Sync + 'static) -> Self {
        self.frame = Box::new(f);
        self
    }

    fn on_ping(mut self, f: impl Fn(&mut Connection<'_, S>) + Send + Sync + 'static) -> Self {
        self.ping = Box::new(f);
        self
    }

    fn on_pong(mut self, f: impl Fn(&mut Connection<'_, S>) + Send + Sync + 'static) -> Self {
        self.pong = Box::new(f);
        self
    }

    fn on_subscribed(mut self, f: impl Fn(&mut Connection<'_, S>, &TopicName) + Send + Sync + 'static) -> Self {
        self.subscribed = Box::new(f);
        self
    }

    fn on_unsubscribed(mut self, f: impl Fn(&mut Connection<'_, S>, &TopicName) + Send + Sync + 'static) -> Self {
        self.unsubscribed = Box::new(f);
        self
    }

    fn on_error(mut self, f: impl Fn(&mut Connection<'_, S>) + Send + Sync + 'static) -> Self {
        self.error = Box::new(f);
        self
    }

    fn on_close(mut self, f: impl Fn(&mut Connection<'_, S>, &Closed) + Send + Sync + 'static) -> Self {
        self.close = Box::new(f);
        self
    }

    fn tell(&self, entry: impl Into<String>) {
        // A test may have dropped its journal.
        _ = self.told.lock().unwrap().send(entry.into());
    }
}

impl<S: Default + 'static> Handler for Script<S> {
    type State = S;

    async fn opening(&self, request: &OpeningRequest) -> Result<Accept<S>, Response> {
        (self.opening)(request)
    }

    fn on_open(&self, connection: &mut Connection<'_, S>) {
        self.tell("open");
        (self.open)(connection);
    }

    fn on_message(&self, connection: &mut Connection<'_, S>, message: Message<'_>) {
        let kind = match message.message_type() {
            MessageType::Text => "text",
            MessageType::Binary => "binary",
        };
        self.tell(format!("{kind} {}", lossy(message.payload())));
        (self.message)(connection, message);
    }

    fn on_fragment(&self, connection: &mut Connection<'_, S>, fragment: Fragment<'_>) {
        let place = match (fragment.is_first(), fragment.is_last()) {
            (true, true) => "only",
            (true, false) => "first",
            (false, true) => "last",
            (false, false) => "next",
        };
        self.tell(format!("{place} fragment {}", lossy(fragment.payload())));
        (self.fragment)(connection);
    }

    fn on_frame(&self, state: &mut S, header: &FrameHeader, payload: &[u8]) -> Verdict {
        self.tell(format!("{:?} frame {}", header.opcode, lossy(payload)));
        (self.frame)(state, header, payload)
    }

    fn on_ping(&self, connection: &mut Connection<'_, S>, payload: &[u8]) {
        self.tell(format!("ping {}", lossy(payload)));
        (self.ping)(connection);
    }

    fn on_pong(&self, connection: &mut Connection<'_, S>, payload: &[u8]) {
        self.tell(format!("pong {}", lossy(payload)));
        (self.pong)(connection);
    }

    fn on_subscribed(&self, connection: &mut Connection<'_, S>, topic: &TopicName) {
        self.tell(format!("subscribed {topic}"));
        (self.subscribed)(connection, topic);
    }

    fn on_unsubscribed(&self, connection: &mut Connection<'_, S>, topic: &TopicName) {
        self.tell(format!("unsubscribed {topic}"));
        (self.unsubscribed)(connection, topic);
    }

    fn on_error(&self, connection: &mut Connection<'_, S>, error: &ProtocolError) {
        self.tell(format!("error {error:?}"));
        (self.error)(connection);
    }

    fn on_close(&self, connection: &mut Connection<'_, S>, closed: &Closed) {
        let Closed { code, reason, is_clean } = closed;
        self.tell(format!("close {} {reason:?} {}", code.0, if *is_clean { "clean" } else { "unclean" }));
        (self.close)(connection, closed);
    }
}

/// The calls of a script's handler, on all shards.
struct Journal(Receiver<String>);

impl Journal {
    fn next(&self) -> String {
        self.0.recv_timeout(DEADLINE).expect("the handler is told something")
    }

    #[track_caller]
    fn expect(&self, entries: &[&str]) {
        for expected in entries {
            let entry = self.next();
            assert_eq!(entry, *expected);
        }
    }

    /// Waits for an entry, and ignores those before it.
    fn until(&self, expected: &str) {
        while self.next() != expected {}
    }

    /// Ends the server, and returns all entries that have not been taken.
    fn rest(self, mut server: Live) -> Vec<String> {
        server.end();
        let mut entries = Vec::new();
        loop {
            match self.0.recv_timeout(DEADLINE) {
                Ok(entry) => entries.push(entry),
                Err(RecvTimeoutError::Disconnected) => return entries,
                Err(RecvTimeoutError::Timeout) => panic!("a handler outlives its server"),
            }
        }
    }

    /// Ends the server, and expects these entries.
    #[track_caller]
    fn expect_at_the_end(self, server: Live, expected: &[&str]) {
        assert_eq!(self.rest(server), expected);
    }
}

/// Polls until `is_so` returns true.
fn until(what: &str, is_so: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < DEADLINE, "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn topic(name: &str) -> TopicName {
    TopicName::new(name).unwrap()
}
