//! What happens between two turns of a shard, and at its edges: nothing is told too early, told twice, or waits for the
//! next accident.

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

/// Shards that nothing wakes but what they are to do.
fn quiet(shards: usize) -> Builder {
    builder(shards).settings(|settings| settings.ping_interval = Time(Duration::ZERO))
}

/// Becomes a subscriber of the topics in the query.
fn by_query() -> (Script, crate::Journal) {
    let (script, journal) = Script::new();
    let script = script.opening(|request| {
        Ok(request
            .query()
            .fold(Accept::with(()), |accept, (name, _)| accept.subscribe(topic(&name), SubscribeOptions::default())))
    });
    (script, journal)
}

/// Nothing overtakes the opening answer, and `on_open` comes before all the others.
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

/// Who gives up in `on_open` what it waits for is told of the rest afterwards.
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
    // The broadcasts are live on every shard.
    let _others = server.connect_to_all("/", 1);
    let topics: Vec<String> = (0..24).map(|number| format!("topic-{number}")).collect();
    for _ in 0..6 {
        let mut client = server.connect(&format!("/?{}", topics.join("&")));
        let Received::Text(kept) = client.receive() else { panic!("no count") };
        let kept: usize = kept.parse().unwrap();
        assert!(0 < kept && kept < topics.len());
        for _ in 0..kept {
            let Received::Text(live) = client.receive() else { panic!("nothing more is live") };
            assert!(live.starts_with("live topic-"), "{live}");
        }
        client.expect_nothing();
        client.leave();
    }
}

/// Nobody is told of a subscription that it has given up by then.
#[test]
fn what_was_given_up_does_not_go_live() {
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

/// Work of a connection ends with it though nothing else happens on its shard.
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

/// Work that has waited for room goes on as soon as there is some.
#[test]
fn work_goes_on_when_there_is_room() {
    // More than may wait beside a lane.
    const MESSAGES: usize = 30_000;
    let (go, going) = channel::<()>();
    let going = Mutex::new(going);
    let (script, journal) = Script::<()>::by_message(move |connection, what| match what {
        "block" => going.lock().unwrap().recv().unwrap(),
        // To a topic of the other shard.
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
    // It sleeps soon, since it can do nothing.
    thread::sleep(Duration::from_millis(50));
    go.send(()).unwrap();
    publisher.expect(text("done"));
}

/// What a handler begins when its server ends is dropped with it.
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
    // It does not answer the close frame, and is dropped.
    let _client = server.connect("/");
    journal.rest(server);
    assert!(dropped.load(Ordering::SeqCst));
}

/// A client cannot make any number of tasks, and has room again when some have ended. Refused work makes one line of
/// the log.
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
            other => assert_eq!(other, text("false"), "they have not all ended yet"),
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

/// Who is accepted when the server leaves already is told so by HTTP.
#[test]
fn an_opening_that_lasts_into_the_end() {
    let (begun, has_begun) = channel();
    let go: Arc<Notify> = Arc::default();
    let slow = Slow { begun: Mutex::new(begun), go: Arc::clone(&go) };
    let (script, _journal) = Script::<()>::new();
    let server = serve(1, |builder| builder.route("/", script).route("/slow", slow));
    // It does not answer the close frame: the server waits for it.
    let _patient = server.connect("/");
    let address = server.address;
    let opening = thread::spawn(move || Client::open_with(dial(address), "/slow", &[], &[]).err());
    has_begun.recv().unwrap();
    server.running().stop();
    until("it listens no more", || TcpStream::connect(address).is_err());
    go.notify_one();
    let response = opening.join().unwrap().expect("it is refused");
    assert_eq!(response.status(), 503, "{response:?}");
}

struct Waiting(Hub);

impl Authenticator for Waiting {
    fn authenticate(&self, _: &Credentials<'_>) -> Result<Identity, Refusal> {
        let waited = Hub::wait(self.0.connections());
        panic!("it has waited: {waited:?}");
    }
}

/// Neither kind of the server's threads can wait for itself.
#[test]
fn an_authenticator_does_not_wait_for_its_own_thread() {
    let builder = builder(1);
    let waiting = Waiting(builder.hub());
    let options = RouteOptions::new().authenticator(waiting);
    let documents = Documents::new("examples").unwrap();
    let server = Live::start(builder.documents_with("/files", documents, options));
    let mut stream = dial(server.address);
    stream.write_all(b"GET /files/chat.rs HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    // It is answered, and the thread goes on.
    let mut status = [0; 12];
    stream.read_exact(&mut status).unwrap();
    assert_eq!(status, *b"HTTP/1.1 500");
    assert_eq!(Hub::wait(server.hub().connections()), Ok(Vec::new()));
}

/// A server of one shard whose turns last, once a client has sent a message, until the test ends them.
struct LongTurns {
    end: Sender<()>,
    begun: Receiver<()>,
    /// The last: it waits for its handlers, which wait for `end`.
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
            // Nothing comes once the test is over.
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

/// However long turns are, many clients are let in between two of them.
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
        // The next turn has something to do before this one ends.
        busy.send_text("a turn");
        turns.end.send(()).unwrap();
        turns.await_turn();
    }
}

/// However many come during a turn, and find no room: each that has sent its request is told so.
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
