//! Subscriptions in the process of the server.

use std::{
    collections::BTreeMap,
    io::Write as _,
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    task::{Context, Poll, Waker},
    thread,
    time::Duration,
};

use ringhub::{
    Hub, Publication,
    server::{HubError, Lagged, QueueLimits, Subscription, TopicMessage},
};

use crate::{
    Script, builder, serve,
    support::{Client, dial, request, text},
    topic,
};

/// Waits for the next message, and returns its offset and its text.
fn next(subscription: &mut Subscription) -> (u64, String) {
    let message = Hub::wait(subscription.next()).expect("the server goes on").expect("there is room");
    (message.place.offset, String::from_utf8(message.publication.payload().to_vec()).unwrap())
}

fn has_nothing(subscription: &mut Subscription) -> bool {
    let mut next = std::pin::pin!(subscription.next());
    let poll: Poll<Option<Result<TopicMessage, Lagged>>> = next.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    poll.is_pending()
}

/// Whatever shard is the topic's home: a subscription gets what is published after it has begun, and nothing else.
#[test]
fn a_subscription_begins_when_it_returns() {
    for shards in [1, 4] {
        let server = serve(shards, |builder| builder.topics());
        let hub = server.hub();
        for number in 0..12 {
            let name = topic(&format!("topic-{number}"));
            let mut client = server.connect(&format!("/t/topic-{number}"));
            let publish = |text: &str| Hub::wait(hub.publish(&name, Publication::text(text))).unwrap();
            publish("before");
            let mut first = Hub::wait(hub.subscribe(&name)).unwrap();
            assert_eq!(first.topic(), &name);
            publish("hello");
            assert_eq!(next(&mut first), (2, "hello".into()));
            let mut second = Hub::wait(hub.subscribe(&name)).unwrap();
            client.send_text("from a client");
            for subscription in [&mut first, &mut second] {
                let message = Hub::wait(subscription.next()).unwrap().unwrap();
                assert_eq!((message.place.offset, message.place.previous), (3, 2));
                assert_eq!(message.publication.payload(), b"from a client");
                let id = message.source.expect("a client has sent it");
                assert!(Hub::wait(hub.connections()).unwrap().contains(&id));
            }
            drop(first);
            publish("more");
            assert_eq!(next(&mut second), (4, "more".into()));
            assert!(has_nothing(&mut second));
            [text("before"), text("hello"), text("more")].into_iter().for_each(|message| client.expect(message));
        }
    }
}

/// While clients and threads publish, every subscription sees one piece of the topic's one order.
#[test]
fn subscriptions_see_the_order_of_the_topic() {
    const MESSAGES: u64 = 2_000;
    const READERS: usize = 4;
    let server = serve(3, |builder| builder.topics());
    let (hub, name) = (server.hub(), topic("busy"));
    let (orders, received) = mpsc::channel();
    let limits = QueueLimits { messages_max: usize::MAX, bytes_max: usize::MAX };
    let readers_done = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..READERS {
            let orders = orders.clone();
            scope.spawn(|| {
                let orders = orders;
                // Four subscriptions come and go, and the fifth stays to the end.
                for part in 1..=5 {
                    let mut subscription = Hub::wait(hub.subscribe_with(&name, limits)).unwrap();
                    let mut order = Vec::new();
                    while part == 5 || order.len() < 20 {
                        let (offset, text) = next(&mut subscription);
                        if text == "end" {
                            break;
                        }
                        order.push((offset, text));
                    }
                    orders.send(order).unwrap();
                }
                readers_done.fetch_add(1, Ordering::Relaxed);
            });
        }
        let publishers: Vec<_> = (0..2)
            .flat_map(|_| {
                let threads = scope.spawn(|| {
                    for number in 0..MESSAGES / 4 {
                        Hub::wait(hub.publish(&name, Publication::text(&number.to_string()))).unwrap();
                    }
                });
                let clients = scope.spawn(|| {
                    let mut client = server.connect("/t/busy?mode=pub");
                    (0..MESSAGES / 4).for_each(|number| client.send_text(&number.to_string()));
                    client.leave();
                });
                [threads, clients]
            })
            .collect();
        publishers.into_iter().for_each(|publisher| publisher.join().unwrap());
        // A subscription may begin behind an end, so there are as many as it takes.
        while readers_done.load(Ordering::Relaxed) < READERS {
            Hub::wait(hub.publish(&name, Publication::text("end"))).unwrap();
            thread::sleep(Duration::from_millis(1));
        }
    });
    drop(orders);
    let orders: Vec<Vec<(u64, String)>> = received.iter().collect();
    assert_eq!(orders.len(), 5 * READERS);
    let mut all = BTreeMap::new();
    for order in &orders {
        assert!(order.windows(2).all(|pair| pair[1].0 == pair[0].0 + 1), "no gap, no repetition");
        for (offset, text) in order {
            assert_eq!(all.entry(*offset).or_insert(text), &text, "one order");
        }
    }
    assert_eq!(all.last_key_value().map(|(offset, _)| *offset), Some(MESSAGES), "somebody stays to the end");
}

/// A reader that is too slow is told, and holds up nobody.
#[test]
fn a_slow_reader_is_told_that_it_lags() {
    let server = serve(2, |builder| builder.topics());
    let hub = server.hub();
    let name = topic("news");
    let mut client = server.connect("/t/news");
    let few = QueueLimits { messages_max: 2, ..QueueLimits::default() };
    let mut slow = Hub::wait(hub.subscribe_with(&name, few)).unwrap();
    let mut fast = Hub::wait(hub.subscribe(&name)).unwrap();
    for number in 1..=5 {
        Hub::wait(hub.publish(&name, Publication::text(&number.to_string()))).unwrap();
        assert_eq!(next(&mut fast), (number, number.to_string()));
        client.expect(text(&number.to_string()));
    }
    assert_eq!((next(&mut slow).0, next(&mut slow).0), (1, 2));
    assert_eq!(Hub::wait(slow.next()).unwrap().unwrap_err(), Lagged);
    assert!(Hub::wait(slow.next()).is_none() && Hub::wait(slow.next()).is_none());
    Hub::wait(hub.publish(&name, Publication::text("on"))).unwrap();
    assert_eq!(next(&mut fast), (6, "on".into()));
}

/// The home of a topic forgets a subscription that is dropped, even if no message comes.
#[test]
fn a_dropped_subscription_is_withdrawn() {
    let server = serve(3, |builder| builder.topics());
    let hub = server.hub();
    let topics = || Hub::wait(hub.topics(None, 100)).unwrap().topics;
    let all: Vec<Subscription> =
        (0..9).map(|number| Hub::wait(hub.subscribe(&topic(&number.to_string()))).unwrap()).collect();
    let found = topics();
    assert!(found.len() == 9 && found.iter().all(|summary| summary.subscribers == 0), "{found:?}");
    drop(all);
    crate::until("nobody reads the topics", || topics().is_empty());
}

/// The stream ends with the server, behind all messages that it was owed.
#[test]
fn a_subscription_ends_with_the_server() {
    let mut server = serve(3, |builder| builder.topics());
    let hub = server.hub();
    let name = topic("news");
    let mut subscription = Hub::wait(hub.subscribe(&name)).unwrap();
    (0..100).for_each(|_| _ = Hub::wait(hub.publish(&name, Publication::text("x"))).unwrap());
    let client: Client = server.connect("/t/news");
    client.leave();
    server.end();
    for offset in 1..=100 {
        assert_eq!(next(&mut subscription).0, offset);
    }
    assert!(Hub::wait(subscription.next()).is_none());
    assert_eq!(Hub::wait(hub.subscribe(&name)).unwrap_err(), HubError::Ended);
}

/// The control thread is held up while messages wait for it beside a full lane. The server leaves, and has no
/// connection any more. The stream nevertheless has every message.
#[test]
fn a_stream_ends_whole_although_its_thread_was_late() {
    const MESSAGES: u64 = 5_000;
    let (go, going) = mpsc::channel::<()>();
    let going = std::sync::Arc::new(std::sync::Mutex::new(going));
    let (blocks, is_blocked) = mpsc::channel();
    let block = axum::routing::get(move || {
        blocks.send(()).unwrap();
        _ = going.lock().unwrap().recv();
        std::future::ready("done")
    });
    let mut server = serve(1, |builder| builder.http("/block", axum::Router::new().route("/block", block)).topics());
    let (hub, name) = (server.hub(), topic("busy"));
    let limits = QueueLimits { messages_max: usize::MAX, bytes_max: usize::MAX };
    let mut subscription = Hub::wait(hub.subscribe_with(&name, limits)).unwrap();
    let mut blocked = dial(server.address);
    blocked.write_all(request("GET", "/block").as_bytes()).unwrap();
    is_blocked.recv().unwrap();
    let (mut publisher, mut witness) = (server.connect("/t/busy?mode=pub"), server.connect("/t/busy?mode=sub"));
    for number in 1..=MESSAGES {
        publisher.send_text(&number.to_string());
        if number % 100 == 0 {
            (number - 99..=number).for_each(|number| witness.expect(text(&number.to_string())));
        }
    }
    publisher.leave();
    witness.leave();
    // The shards end long before the control thread goes on, unless they wait for it.
    let late = thread::spawn(move || {
        thread::sleep(Duration::from_millis(500));
        drop(go);
    });
    server.end();
    late.join().unwrap();
    for offset in 1..=MESSAGES {
        assert_eq!(next(&mut subscription), (offset, offset.to_string()));
    }
    assert!(Hub::wait(subscription.next()).is_none());
}

/// A subscription may be asked for before the start, and may be given up before it has begun.
#[test]
fn a_subscription_before_the_start_waits_for_it() {
    let builder = builder(2).route("/", Script::<()>::new().0);
    let (hub, name) = (builder.hub(), topic("early"));
    let mut given_up = Box::pin(hub.subscribe(&name));
    assert!(given_up.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    drop(given_up);
    let mut early = Box::pin(hub.subscribe(&name));
    assert!(early.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    let server = crate::Live::start(builder);
    let mut subscription = Hub::wait(early).unwrap();
    Hub::wait(server.hub().publish(&name, Publication::text("hello"))).unwrap();
    assert_eq!(next(&mut subscription), (1, "hello".into()));
}
