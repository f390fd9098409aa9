//! Tests the times between two turns of a shard: handlers are called neither too early nor twice, and no work waits for
//! an unrelated event.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};

use ringhub::{
    Publication,
    auth::{Authenticator, Credentials, Identity},
    config::Time,
    documents::Documents,
    handler::{Accept, Connection, Handler, OpeningRequest, Response, RouteOptions, Scope, SubscribeOptions},
    metrics::Counter,
    proto::Refusal,
    server::{Builder, Hub},
};
use tokio::sync::Notify;

use crate::{
    Live, Script, builder, serve,
    spans::Log,
    support::{Client, DEADLINE, Received, dial, text, upgrade_request},
    topic, until,
};

/// Returns a builder without pings, so that only work wakes the shards.
fn quiet(shards: usize) -> Builder {
    builder(shards).settings(|settings| settings.ping_interval = Time(Duration::ZERO))
}

/// Returns a handler that subscribes each connection to the topics in its query.
fn by_query() -> (Script, crate::Journal) {
    let (script, journal) = Script::new();
    let script = script.opening(|request| {
        Ok(request
            .query()
            .fold(Accept::with(()), |accept, (name, _)| accept.subscribe(topic(&name), SubscribeOptions::default())))
    });
    (script, journal)
}

/// Nothing overtakes the opening answer, and `on_open` is called before the other methods.
#[test]
fn on_open_comes_first() {
    for shards in [1, 3] {
        let (script, journal) = by_query();
        let script = script.on_open(|connection| _ = connection.send_text("welcome"));
        let script = script.on_subscribed(|connection, name| _ = connection.send_text(format!("live {name}")));
        let server = serve(shards, |builder| builder.route("/", script));
        let mut client = server.connect("/?a&b&c");
        client.expect(text("welcome"));
        let mut live = [client.receive(), client.receive(), client.receive()];
        live.sort_by_key(|received| format!("{received:?}"));
        assert_eq!(live, [text("live a"), text("live b"), text("live c")]);
        client.expect_nothing();
        journal.expect(&["open"]);
    }
}

/// A handler unsubscribes in `on_open` from topics that are not live yet. After that it is called for the other topics.
#[test]
fn a_handler_that_releases_its_own_connection() {
    let (script, _journal) = by_query();
    let script = script.on_open(|connection| {
        let topics = connection.topics();
        let is_at_home = |connection: &mut Connection<'_, ()>, name: &_| {
            connection.publish(name, Publication::text("nobody sees its own"), Scope::Server).is_some()
        };
        let kept = topics.iter().filter(|name| is_at_home(connection, name) || !connection.unsubscribe(name)).count();
        connection.send_text(format!("{kept}"));
    });
    let script = script.on_subscribed(|connection, name| _ = connection.send_text(format!("live {name}")));
    let server = serve(3, |builder| builder.route("/", script));
    // These clients make the broadcasts live on every shard.
    let _others = server.connect_to_all("/", 1);
    let topics: Vec<String> = (0..24).map(|number| format!("topic-{number}")).collect();
    for _ in 0..6 {
        let mut client = server.connect(&format!("/?{}", topics.join("&")));
        let Received::Text(kept) = client.receive() else { panic!("no count") };
        let kept: usize = kept.parse().unwrap();
        assert!(0 < kept && kept < topics.len());
        for _ in 0..kept {
            let Received::Text(live) = client.receive() else { panic!("no further topic is live") };
            assert!(live.starts_with("live topic-"), "{live}");
        }
        client.expect_nothing();
        client.leave();
    }
}

/// `on_subscribed` is not called for a subscription that has ended before it went live.
#[test]
fn a_subscription_that_has_ended_does_not_go_live() {
    let (script, _journal) = by_query();
    let script = script.on_open(|connection| {
        connection.unsubscribe(&topic("a"));
        connection.send_text("given up");
    });
    let script = script.on_subscribed(|connection, name| _ = connection.send_text(format!("live {name}")));
    let server = serve(1, |builder| builder.route("/", script));
    let mut client = server.connect("/?a&b");
    client.expect(text("given up"));
    client.expect(text("live b"));
    client.expect_nothing();
}

struct Flag(Arc<AtomicBool>);

impl Drop for Flag {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// The work of a connection ends with the connection, even if nothing else happens on the shard.
#[test]
fn work_ends_with_its_connection_on_a_quiet_shard() {
    let dropped: Arc<AtomicBool> = Arc::default();
    let flag = Arc::clone(&dropped);
    let (script, _journal) = Script::<()>::new();
    let script = script.on_open(move |connection| {
        let flag = Flag(Arc::clone(&flag));
        connection.spawn(|handle| async move {
            handle.send_text("begun").await;
            std::future::pending::<()>().await;
            drop(flag);
        });
    });
    let server = Live::start(quiet(1).route("/", script));
    let mut client = server.connect("/");
    client.expect(text("begun"));
    drop(client);
    until("its work is dropped", || dropped.load(Ordering::SeqCst));
}

/// Work that waits for room goes on as soon as there is room.
#[test]
fn work_goes_on_when_there_is_room() {
    // The number exceeds what may wait beside a lane.
    const MESSAGES: usize = 30_000;
    let (go, going) = channel::<()>();
    let going = Mutex::new(going);
    let (script, journal) = Script::<()>::by_message(move |connection, what| match what {
        "block" => going.lock().unwrap().recv().unwrap(),
        // The topic's home is the other shard.
        "publish" => {
            _ = connection.spawn(|handle| async move {
                for _ in 0..MESSAGES {
                    let publish = |connection: &mut Connection<'_, ()>| {
                        let mut names = (0..).map(|number| topic(&format!("topic-{number}")));
                        let message = Publication::text("x");
                        names.find(|name| connection.publish(name, &message, Scope::Server).is_none());
                    };
                    handle.with(publish).await.unwrap();
                }
                handle.send_text("done").await;
            })
        }
        _ => _ = connection.send_text(connection.id().shard().to_string()),
    });
    let server = Live::start(quiet(2).route("/", script));
    let mut clients = server.connect_to_all("/", 1);
    let mut on = |shard: &str| {
        let at = clients.iter_mut().position(|client| {
            client.send_text("where");
            client.receive() == text(shard)
        });
        clients.remove(at.unwrap())
    };
    let (mut publisher, mut blocked) = (on("0"), on("1"));
    blocked.send_text("block");
    journal.until("text block");
    publisher.send_text("publish");
    until("the lane is full", || server.hub().count(Counter::LaneOverflow) > MESSAGES as u64 / 4);
    // The shard soon sleeps, since it has nothing to do.
    thread::sleep(Duration::from_millis(50));
    go.send(()).unwrap();
    publisher.expect(text("done"));
}

/// Work that a handler spawns at the end of its server is dropped with the server.
#[test]
fn work_begun_at_the_end_is_dropped() {
    let dropped: Arc<AtomicBool> = Arc::default();
    let flag = Arc::clone(&dropped);
    let (script, journal) = Script::<()>::new();
    let script = script.on_close(move |connection, _| {
        let flag = Flag(Arc::clone(&flag));
        connection.spawn(|handle| async move {
            std::future::pending::<()>().await;
            drop((flag, handle));
        });
    });
    let server = serve(1, |builder| builder.route("/", script));
    // The client does not answer the close frame, so the drain drops its connection.
    let _client = server.connect("/");
    journal.rest(server);
    assert!(dropped.load(Ordering::SeqCst));
}

/// The tasks of one connection have a limit, and ended tasks make room. Refused tasks cause one log line.
#[test]
fn work_of_a_connection_has_a_limit() {
    let log = Log::get();
    let gate: Arc<Notify> = Arc::default();
    let opened = Arc::clone(&gate);
    let (script, _journal) = Script::<()>::by_message(move |connection, what| {
        let answer = match what {
            "one" => connection.spawn(|_| async {}).to_string(),
            _ => {
                let mut begin = || {
                    let gate = Arc::clone(&gate);
                    connection.spawn(|_| async move { gate.notified().await })
                };
                (0..2_000).filter(|_| begin()).count().to_string()
            }
        };
        connection.send_text(answer);
    });
    let server = serve(1, |builder| builder.route("/", script));
    let (mut client, mut other) = (server.connect("/"), server.connect("/"));
    client.send_text("many");
    client.expect(text("1024"));
    client.send_text("one");
    client.expect(text("false"));
    other.send_text("one");
    other.expect(text("true"));
    opened.notify_waiters();
    loop {
        client.send_text("one");
        match client.receive() {
            Received::Text(answer) if answer == "true" => break,
            other => assert_eq!(other, text("false"), "no task has ended yet"),
        }
    }
    let line = log.line("a connection has too much work under way");
    assert!(line.contains("WARN") && line.contains(" limit=1024 suppressed=0"), "{line}");
}

struct Slow {
    begun: Mutex<Sender<()>>,
    go: Arc<Notify>,
}

impl Handler for Slow {
    type State = ();

    async fn opening(&self, _: &OpeningRequest) -> Result<Accept<()>, Response> {
        self.begun.lock().unwrap().send(()).unwrap();
        self.go.notified().await;
        Ok(Accept::default())
    }
}

/// A request whose handler accepts it during a drain is refused by HTTP.
#[test]
fn an_opening_that_lasts_into_the_end() {
    let (begun, has_begun) = channel();
    let go: Arc<Notify> = Arc::default();
    let slow = Slow { begun: Mutex::new(begun), go: Arc::clone(&go) };
    let (script, _journal) = Script::<()>::new();
    let server = serve(1, |builder| builder.route("/", script).route("/slow", slow));
    // The client does not answer the close frame, so the server waits for it.
    let _patient = server.connect("/");
    let address = server.address;
    let opening = thread::spawn(move || Client::open_with(dial(address), "/slow", &[], &[]).err());
    has_begun.recv().unwrap();
    server.running().stop();
    until("the server does not listen any more", || TcpStream::connect(address).is_err());
    go.notify_one();
    let response = opening.join().unwrap().expect("the request is refused");
    assert_eq!(response.status(), 503, "{response:?}");
}

struct Waiting(Hub);

impl Authenticator for Waiting {
    fn authenticate(&self, _: &Credentials<'_>) -> Result<Identity, Refusal> {
        let waited = Hub::wait(self.0.connections());
        panic!("the authenticator has waited: {waited:?}");
    }
}

/// Neither a shard nor the control thread can wait for itself: the authenticator panics instead.
#[test]
fn an_authenticator_does_not_wait_for_its_own_thread() {
    let builder = builder(1);
    let waiting = Waiting(builder.hub());
    let options = RouteOptions::new().authenticator(waiting);
    let documents = Documents::new("examples").unwrap();
    let server = Live::start(builder.documents_with("/files", documents, options));
    let mut stream = dial(server.address);
    stream.write_all(b"GET /files/chat.rs HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    // The request is answered, and the thread goes on.
    let mut status = [0; 12];
    stream.read_exact(&mut status).unwrap();
    assert_eq!(status, *b"HTTP/1.1 500");
    assert_eq!(Hub::wait(server.hub().connections()), Ok(Vec::new()));
}

/// A server of one shard. A turn with a message lasts until the test ends it.
struct LongTurns {
    end: Sender<()>,
    begun: Receiver<()>,
    /// The last field: its drop waits for handlers, which wait for `end` to be dropped.
    server: Live,
}

impl LongTurns {
    fn start(builder: Builder) -> LongTurns {
        let (begin, begun) = channel();
        let (end, ends) = channel();
        let (begin, ends) = (Mutex::new(begin), Mutex::new(ends));
        let (script, _journal) = Script::<()>::new();
        let script = script.on_message(move |_, _| {
            begin.lock().unwrap().send(()).unwrap();
            // The channel is closed when the test is over.
            _ = ends.lock().unwrap().recv();
        });
        LongTurns { end, begun, server: Live::start(builder.route("/", script)) }
    }

    fn count(&self, counter: Counter) -> u64 {
        self.server.running().counters()[0].get(counter)
    }

    fn await_turn(&self) {
        self.begun.recv_timeout(DEADLINE).unwrap();
    }
}

/// The shard accepts many clients between two turns, even if turns are long.
#[test]
fn long_turns_let_clients_in() {
    const CLIENTS: u64 = 400;
    const TURNS_MAX: u64 = 30;
    let turns = LongTurns::start(builder(1));
    let mut busy = turns.server.connect("/");
    busy.send_text("a turn");
    turns.await_turn();
    let (before, accepted) = (turns.count(Counter::Turns), turns.count(Counter::Accepted));
    let _clients: Vec<TcpStream> = (0..CLIENTS).map(|_| dial(turns.server.address)).collect();
    while turns.count(Counter::Accepted) < accepted + CLIENTS {
        let (count, accepted) = (turns.count(Counter::Turns) - before, turns.count(Counter::Accepted) - accepted);
        assert!(count < TURNS_MAX, "{accepted} clients in {count} turns");
        // This message waits for the next turn before the current turn ends.
        busy.send_text("a turn");
        turns.end.send(()).unwrap();
        turns.await_turn();
    }
}

/// A crowd connects during a long turn and finds no room. Each client that has sent its request gets a refusal.
#[test]
fn a_crowd_of_a_long_turn_is_told_that_there_is_no_room() {
    let turns = LongTurns::start(builder(1).settings(|settings| settings.max_connections = Some(1)));
    let mut busy = turns.server.connect("/");
    busy.send_text("a turn");
    turns.await_turn();
    let crowd = (0..200).map(|_| {
        let mut client = dial(turns.server.address);
        client.write_all(upgrade_request("/").as_bytes()).unwrap();
        client
    });
    let crowd: Vec<TcpStream> = crowd.collect();
    turns.end.send(()).unwrap();
    for mut client in crowd {
        let mut status = [0; 12];
        client.read_exact(&mut status).unwrap();
        assert_eq!(status, *b"HTTP/1.1 503");
    }
}
