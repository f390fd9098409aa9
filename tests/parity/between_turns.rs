//! What happens between two turns of a shard, and at its edges: nothing is told too early, told twice, or waits for the
//! next accident.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::channel,
    },
    time::Duration,
};

use ringhub::{
    config::Time,
    handler::{Accept, Connection, Scope},
    metrics::Counter,
    proto::PreparedMessage,
    server::Builder,
};

use crate::{
    Live, Script, builder, serve,
    support::{Received, text},
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
        Ok(request.query().fold(Accept::with(()), |accept, (name, _)| accept.subscribe(topic(&name), false)))
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
            connection.publish(name, &PreparedMessage::text("nobody sees its own"), Scope::Global).is_some()
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
    const MESSAGES: usize = 10_000;
    let (go, going) = channel::<()>();
    let going = Mutex::new(going);
    let (script, journal) = Script::<()>::by_message(move |connection, what| match what {
        "block" => going.lock().unwrap().recv().unwrap(),
        // To a topic of the other shard.
        "publish" => connection.spawn(|handle| async move {
            for _ in 0..MESSAGES {
                let publish = |connection: &mut Connection<'_, ()>| {
                    let mut names = (0..).map(|number| topic(&format!("topic-{number}")));
                    let message = PreparedMessage::text("x");
                    names.find(|name| connection.publish(name, &message, Scope::Global).is_none());
                };
                handle.with(publish).await.unwrap();
            }
            handle.send_text("done").await;
        }),
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
    until("the lane is full", || server.hub().count(Counter::LaneOverflow) > 0);
    // It sleeps soon, since it can do nothing.
    std::thread::sleep(Duration::from_millis(50));
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
