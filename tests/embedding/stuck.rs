//! A handler blocks its shard. Work that does not need this shard goes on.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use ringhub::{
    CloseCode, ConnectionFilter, Hub, NoReceipt, Publication, Receipt, TopicName,
    auth::Identity,
    handler::{Accept, Scope, SubscribeOptions},
    metrics::Counter,
};

use crate::{
    Journal, Live, Script, serve,
    support::{Client, DEADLINE, Received, ask, dial, post, text},
    topic, until,
};

const SHARDS: usize = 3;

/// The blocked shard.
const STUCK: usize = 2;

/// A server with a shard that a test blocks. Each client gets the number of its shard.
struct Stuck {
    /// Unblocks the shard.
    go: Sender<()>,
    journal: Journal,
    /// A client on each shard, by the shard's number.
    clients: Vec<Client>,
    /// A topic for each home, by the number of the shard.
    topics: Vec<TopicName>,
    server: Live,
}

impl Stuck {
    fn new() -> Stuck {
        let (go, going) = channel::<()>();
        let going = Mutex::new(going);
        let (script, journal) = Script::<()>::by_message(move |connection, what| match what.split_once(' ') {
            Some(("home", name)) => {
                let is_home = connection.publish(&topic(name), Publication::text("nobody"), Scope::Server).is_some();
                connection.send_text(is_home.to_string());
            }
            // The first word has the names of the topics to publish to.
            Some((names, text)) => names.split(',').for_each(|name| {
                connection.publish(&topic(name), Publication::text(text), Scope::Server);
            }),
            // The end of the test closes the channel, which unblocks the shard too.
            None => _ = going.lock().unwrap().recv(),
        });
        let script = script.opening(|request| {
            Ok(request.query().fold(Accept::with(()), |accept, (key, name)| match &*key {
                "publish" => accept.forward(topic(&name), Scope::Server),
                _ => accept.subscribe(topic(&name), SubscribeOptions::default()),
            }))
        });
        let script = script.on_open(|connection| _ = connection.send_text(connection.id().shard().to_string()));
        let server = serve(SHARDS, |builder| builder.route("/", script).topics());
        let mut clients: Vec<Option<Client>> = (0..SHARDS).map(|_| None).collect();
        while clients.iter().any(Option::is_none) {
            let (client, shard) = connect(&server, "/");
            clients[shard] = Some(client);
        }
        let mut clients: Vec<Client> = clients.into_iter().flatten().collect();
        let topics = clients.iter_mut().map(|client| {
            let mut names = (0..).map(|number| format!("topic-{number}"));
            let own = names.find(|name| {
                client.send_text(&format!("home {name}"));
                client.receive() == text("true")
            });
            topic(&own.unwrap())
        });
        let topics = topics.collect();
        Stuck { go, journal, clients, topics, server }
    }

    /// Connects to the target until each shard that is not blocked has `each` clients. Further clients leave.
    fn connect(&self, target: &str, each: usize) -> Vec<Client> {
        let mut clients: [Vec<Client>; 2] = Default::default();
        while clients.iter().any(|clients| clients.len() < each) {
            let (client, shard) = connect(&self.server, target);
            match clients.get_mut(shard) {
                Some(clients) if clients.len() < each => clients.push(client),
                _ => client.leave(),
            }
        }
        clients.into_iter().flatten().collect()
    }

    fn subscribers(&self, home: usize) -> Vec<Client> {
        self.connect(&format!("/?subscribe={}", self.topics[home]), 1)
    }

    fn publishers(&self, home: usize, each: usize) -> Vec<Client> {
        self.connect(&format!("/?publish={}", self.topics[home]), each)
    }

    /// Blocks the shard until a message in `go`.
    fn begin(&mut self) {
        self.clients[STUCK].send_text("block");
        self.journal.until("text block");
    }
}

fn connect(server: &Live, target: &str) -> (Client, usize) {
    let mut client = server.connect(target);
    let Received::Text(shard) = client.receive() else { panic!("no shard") };
    (client, shard.parse().unwrap())
}

/// A watch over the turns names only the blocked shard: a shard without work has turns too.
#[test]
fn a_watch_over_turns_names_the_blocked_shard() {
    let mut stuck = Stuck::new();
    let mut watch = stuck.server.running().watch_turns();
    // On a busy machine another shard may not run for that long either, so the look is repeated.
    let mut look_until = |expected: &[usize]| {
        let begin = Instant::now();
        loop {
            thread::sleep(Duration::from_millis(100));
            let stuck = watch.look();
            if stuck == expected {
                break;
            }
            assert!(begin.elapsed() < DEADLINE, "{stuck:?} are stuck instead of {expected:?}");
        }
    };
    look_until(&[]);
    stuck.begin();
    look_until(&[STUCK]);
    stuck.go.send(()).unwrap();
    look_until(&[]);
}

/// A shard is blocked while an identity is closed everywhere. Each other shard closes all its connections of the
/// identity, however many steps that takes.
#[test]
fn the_closes_of_other_shards_wait_for_no_blocked_shard() {
    /// More connections than one step closes.
    const EACH: usize = 150;
    let (go, going) = channel::<()>();
    let going = Mutex::new(going);
    let (script, journal) = Script::<()>::by_message(move |_, _| _ = going.lock().unwrap().recv());
    let script = script.opening(|_| Ok(Accept::with(()).identity(Identity::new("ann"))));
    let script = script.on_open(|connection| _ = connection.send_text(connection.id().shard().to_string()));
    let server = serve(2, |builder| builder.route("/", script));
    let mut clients: [Vec<Client>; 2] = Default::default();
    while clients.iter().any(|clients| clients.len() < EACH) {
        let (client, shard) = connect(&server, "/");
        clients[shard].push(client);
    }
    let all = clients.iter().map(Vec::len).sum::<usize>() as u64;
    let [stuck, others] = &mut clients;
    stuck[0].send_text("block");
    journal.until("text block");
    let hub = server.hub();
    let closing = thread::spawn(move || Hub::wait(hub.disconnect_identity("ann", CloseCode::POLICY_VIOLATION, "over")));
    let closed = Received::Close(Some(1008), "over".into());
    others.iter_mut().for_each(|client| client.expect(closed.clone()));
    go.send(()).unwrap();
    stuck.iter_mut().for_each(|client| client.expect(closed.clone()));
    assert_eq!(closing.join().unwrap(), Ok(all));
}

/// Clients flood a topic whose home is blocked. Meanwhile messages to other topics reach all their subscribers.
#[test]
fn a_flood_of_a_blocked_home_delays_no_other_topic() {
    const FLOOD: usize = 3_000;
    const MESSAGES: usize = 500;
    let mut stuck = Stuck::new();
    let mut flooders = stuck.publishers(STUCK, 2);
    let mut flooded = stuck.subscribers(STUCK);
    let mut others: Vec<(Vec<Client>, Vec<Client>)> =
        (0..STUCK).map(|home| (stuck.publishers(home, 1), stuck.subscribers(home))).collect();
    stuck.begin();
    (0..FLOOD).for_each(|number| send_from_each(&mut flooders, number));
    let hub = stuck.server.hub();
    until("publishers wait for the home", || hub.count(Counter::AwaitedHome) >= 2);
    for (publishers, subscribers) in &mut others {
        (0..MESSAGES).for_each(|number| send_from_each(publishers, number));
        subscribers.iter_mut().for_each(|subscriber| expect_from_each(subscriber, 2, MESSAGES));
    }
    assert!(hub.count(Counter::MessagesIn) < (4 * MESSAGES + 4 * FLOOD) as u64, "the server took the whole flood");
    stuck.go.send(()).unwrap();
    flooded.iter_mut().for_each(|subscriber| expect_from_each(subscriber, 4, FLOOD));
}

fn send_from_each(publishers: &mut [Client], number: usize) {
    publishers
        .iter_mut()
        .enumerate()
        .for_each(|(publisher, client)| client.send_text(&format!("{publisher} {number}")));
}

/// Receives `messages` messages of each publisher, in the publisher's order.
#[track_caller]
fn expect_from_each(subscriber: &mut Client, publishers: usize, messages: usize) {
    let mut next = vec![0; publishers];
    for _ in 0..publishers * messages {
        let Received::Text(text) = subscriber.receive() else { panic!("a text is expected") };
        let (publisher, number) = text.split_once(' ').unwrap();
        let next = &mut next[publisher.parse::<usize>().unwrap()];
        assert_eq!(number, next.to_string());
        *next += 1;
    }
    assert_eq!(next, vec![messages; publishers]);
}

/// Handlers that publish to a blocked home do not block others while there is room for their messages.
#[test]
fn handlers_that_publish_to_a_blocked_home() {
    const MESSAGES: usize = 400;
    let mut stuck = Stuck::new();
    let mut crowd = stuck.connect("/", 10);
    let mut near = stuck.subscribers(0);
    let mut far = stuck.subscribers(STUCK);
    stuck.begin();
    let both = format!("{},{}", stuck.topics[0], stuck.topics[STUCK]);
    for number in 0..MESSAGES {
        crowd.iter_mut().for_each(|client| client.send_text(&format!("{} {number}", stuck.topics[STUCK])));
    }
    until("publishers wait for the home", || stuck.server.hub().count(Counter::AwaitedHome) >= 20);
    stuck.clients[0].send_text(&format!("{both} last"));
    near.iter_mut().for_each(|client| client.expect(text("last")));
    stuck.go.send(()).unwrap();
    for client in &mut far {
        let texts = (0..20 * MESSAGES + 1).filter(|_| client.receive() == text("last")).count();
        assert_eq!(texts, 1);
    }
}

/// A shard that does not end its walks keeps a publisher from its receipt, and not from its place.
#[test]
fn a_receipt_that_a_blocked_shard_owes_is_given_up() {
    let mut stuck = Stuck::new();
    let (near, far) = (stuck.topics[0].clone(), stuck.topics[1].clone());
    let mut subscribers = stuck.subscribers(0);
    // A subscriber on the blocked shard, of a topic whose home is another one.
    let mut of_stuck = loop {
        let (client, shard) = connect(&stuck.server, &format!("/?subscribe={far}"));
        if shard == STUCK {
            break client;
        }
        client.leave();
    };
    let hub = stuck.server.hub().clone();
    let publish = |topic: &TopicName| Hub::wait(hub.publish_with_receipt(topic, Publication::text("m"))).unwrap();
    let all = |matched| Ok(Receipt { matched, sent: matched, ..Receipt::default() });
    assert_eq!(publish(&near).1, all(2));
    let (first, receipt) = publish(&far);
    assert_eq!(receipt, all(1));
    of_stuck.expect(text("m"));
    stuck.begin();
    assert_eq!(publish(&near).1, all(2), "the blocked shard has no subscriber");
    let begin = Instant::now();
    let (place, receipt) = publish(&far);
    assert_eq!((place.offset, receipt), (first.offset + 1, Err(NoReceipt::TimedOut)));
    assert!(begin.elapsed() >= Duration::from_secs(4), "{:?}", begin.elapsed());
    // The home shard counts at the end of the turn whose answer has come.
    until("the home counts", || hub.count(Counter::ReceiptsTimedOut) == 1);
    stuck.go.send(()).unwrap();
    of_stuck.expect(text("m"));
    for client in &mut subscribers {
        (0..2).for_each(|_| client.expect(text("m")));
    }
    assert_eq!(publish(&far).1, all(1));
}

/// Publishes of the control thread to the blocked home wait, in their order. Publishes to other homes are answered.
#[test]
fn posts_to_other_homes_are_answered() {
    const WAITING: usize = 3_000;
    let mut stuck = Stuck::new();
    let mut subscribers = [stuck.subscribers(0), stuck.subscribers(STUCK)];
    // After the first request the control thread has the connection.
    let mut stream = dial(stuck.server.address);
    let request = post(&format!("/t/{}", stuck.topics[0]), "text/plain", "goes on");
    assert_eq!(ask(&mut stream, &request).status(), 202);
    stuck.begin();
    let (hub, answered) = (stuck.server.hub(), Arc::new(AtomicUsize::new(0)));
    let waiting = {
        let (hub, answered, topic) = (hub.clone(), Arc::clone(&answered), stuck.topics[STUCK].clone());
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let tasks: Vec<_> = (0..WAITING)
                    .map(|_| {
                        let (hub, answered, topic) = (hub.clone(), Arc::clone(&answered), topic.clone());
                        tokio::spawn(async move {
                            hub.publish(&topic, Publication::text("waits")).await.unwrap();
                            answered.fetch_add(1, Ordering::Relaxed);
                        })
                    })
                    .collect();
                for task in tasks {
                    task.await.unwrap();
                }
            });
        })
    };
    let message = Publication::text("goes on");
    for number in 0..100 {
        let place = Hub::wait(hub.publish(&stuck.topics[0], &message)).unwrap();
        assert!(place.offset > number);
    }
    for _ in 0..100 {
        assert_eq!(ask(&mut stream, &request).status(), 202);
    }
    assert_eq!(answered.load(Ordering::Relaxed), 0);
    for client in &mut subscribers[0] {
        (0..201).for_each(|_| client.expect(text("goes on")));
    }
    stuck.go.send(()).unwrap();
    waiting.join().unwrap();
    assert_eq!(answered.load(Ordering::Relaxed), WAITING);
    for client in &mut subscribers[1] {
        (0..WAITING).for_each(|_| client.expect(text("waits")));
    }
}

/// The program ends a subscription of `ringhub.v1` whose home is blocked, so that it never was live: the command that
/// waits for it fails, and its id can be used again.
#[test]
fn a_subscription_may_be_ended_before_it_is_live() {
    let mut stuck = Stuck::new();
    let hub = stuck.server.hub();
    let (mut client, id) = loop {
        let client = Client::open_with(dial(stuck.server.address), "/ws", &["ringhub.v1"], &[]).unwrap();
        let own = Some(client.stream().local_addr().unwrap());
        let page = Hub::wait(hub.connection_page(&ConnectionFilter::default(), None, 1_000)).unwrap();
        let id = page.connections.iter().find(|summary| summary.address == own).unwrap().id;
        if usize::from(id.shard()) != STUCK {
            break (client, id);
        }
    };
    stuck.begin();
    let topic = stuck.topics[STUCK].clone();
    for command_id in ["\"id\":1,", ""] {
        client.send_text(&format!(r#"{{"subscribe":{{{command_id}"topic":"{topic}"}}}}"#));
        client.send_text(r#"{"ping":{}}"#);
        client.expect(text(r#"{"pong":{}}"#));
        assert_eq!(Hub::wait(hub.unsubscribe_connection(id, &topic)), Ok(true));
        let Received::Text(told) = client.receive() else { panic!("no text") };
        let kind =
            if command_id.is_empty() { "{\"unsubscribed\":{\"topic\":" } else { "{\"error\":{\"id\":1,\"code\":117," };
        assert!(told.starts_with(kind) && told.contains("\"name\":\"ended\""), "{told}");
    }
    stuck.go.send(()).unwrap();
    client.send_text(&format!(r#"{{"subscribe":{{"id":1,"topic":"{topic}"}}}}"#));
    let Received::Text(told) = client.receive() else { panic!("no text") };
    assert!(told.starts_with("{\"subscribed\":{\"id\":1,"), "{told}");
}
