//! Tests an engine on a thread of its own, over real sockets: clients with any transport, protocol and format see one
//! order of each topic, whether the engine or a home orders the topic.

use std::{
    collections::HashMap,
    io::Write as _,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
};

use serde_json::Value;

use super::{
    DrainReport, Running, Server,
    engine::{Engine, EngineEnds},
    formats::Topics,
    testing::{Client, ClientTransport, Manner, PATIENCE, check_piece, check_publishers, speak_both},
};
use crate::{
    hub::{
        Format, Place, TopicName,
        testing::{REVERSED, TestEngine},
    },
    proto::CloseCode,
    shard::session::client_end::Protocol,
    sys::BackendKind,
};

#[test]
fn one_order_of_an_engine_on_io_uring() {
    agree(BackendKind::Uring);
}

#[test]
fn one_order_of_an_engine_on_epoll() {
    agree(BackendKind::Epoll);
}

#[test]
fn one_order_of_an_engine_on_a_faulty_io_uring() {
    agree(BackendKind::Faulty { over: &BackendKind::Uring, seed: 1 });
}

/// Two topics that the engine orders, and two whose homes do; of each kind one on each shard, or both on one.
const TOPICS: [&str; 4] = ["0", "1", "2", "3"];
const PUBLISHERS: usize = 4;
const MESSAGES: usize = 80;

/// Every manner in which a client may connect.
fn manners() -> [Manner; 8] {
    [0, 1, 2, 3, 4, 5, 6, 7].map(|number| Manner {
        transport: [ClientTransport::Plain, ClientTransport::Sealed][number % 2],
        protocol: [Protocol::WebSocket, Protocol::LengthPrefixed][number / 2 % 2],
        format: [Format::RAW, REVERSED][number / 4],
        is_slow: number == 5,
    })
}

/// A server with an engine, and the addresses for the two transports.
struct World {
    running: Running,
    addresses: [SocketAddr; 2],
    is_over: Arc<AtomicBool>,
    places: mpsc::Receiver<HashMap<TopicName, Vec<Place>>>,
}

impl World {
    fn start(backend: BackendKind) -> World {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let builder = Server::builder().listen([any, any]).shards(2).topics();
        let builder = builder.route("/raw/{topic}", Topics(Format::RAW)).route("/reversed/{topic}", Topics(REVERSED));
        let mut server = builder.settings(|settings| settings.pin = crate::config::Pin::Off).build().unwrap();
        let addresses = speak_both(&server);
        server.backend.kind = backend;
        let (report, places) = mpsc::channel();
        let is_over = Arc::new(AtomicBool::new(false));
        let ends_with = Arc::clone(&is_over);
        let start = move |ends| drop(thread::spawn(move || report.send(run_engine(ends, &ends_with))));
        server.engine = Some(Engine { has: TestEngine::has, start: Box::new(start) });
        World { running: server.start().unwrap(), addresses, is_over, places }
    }

    fn open(&self, topic: &str, manner: Manner) -> Client {
        let prefix = if manner.format == REVERSED { "reversed" } else { "raw" };
        Client::open(self.addresses[manner.transport as usize], &format!("/{prefix}/{topic}"), manner)
    }
}

/// Publishes texts by POST, and returns the epoch and the offset of each.
fn post(address: SocketAddr, topic: &str, texts: impl IntoIterator<Item = String>) -> Vec<(u64, u64)> {
    let mut client = Client::dial(address, Manner::default());
    let post = |text: String| {
        let length = text.len();
        let head = format!("POST /t/{topic} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
        client.wire.write_all((head + &text).as_bytes()).unwrap();
        let (head, body) = client.read_answer();
        assert!(head.starts_with("HTTP/1.1 202 "), "{head}{body}");
        let answer: Value = serde_json::from_str(&body).unwrap();
        let number = |key: &str| answer[key].as_u64().expect("a number");
        (number("epoch"), number("offset"))
    };
    texts.into_iter().map(post).collect()
}

impl World {
    /// Waits for the end of the server, which is leaving, and returns the places that the engine has given.
    fn end(self) -> HashMap<TopicName, Vec<Place>> {
        let counters = self.running.counters().to_vec();
        self.running.wait_blocking().unwrap();
        let report = DrainReport::of(&counters);
        assert!(report.is_barrier_whole && report.dropped == 0, "{report:?}");
        self.is_over.store(true, Ordering::Relaxed);
        self.places.recv_timeout(PATIENCE).expect("the engine ends")
    }
}

/// Orders what comes until the server has ended. Returns the places that the engine has given.
fn run_engine(ends: EngineEnds, is_over: &AtomicBool) -> HashMap<TopicName, Vec<Place>> {
    let EngineEnds { mesh, woken } = ends;
    let mut engine = TestEngine::new(mesh);
    let mut drawn = 0_usize;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    while !is_over.load(Ordering::Relaxed) {
        let mut draw = |below| {
            drawn = drawn.wrapping_mul(25).wrapping_add(7) % 1_009;
            drawn % below
        };
        while engine.work(&mut draw) {}
        engine.end.send_out();
        if engine.end.may_sleep() {
            // The end of the server wakes nobody.
            drop(runtime.block_on(async { tokio::time::timeout(POLL, woken.notified()).await }));
        }
        engine.end.awake();
    }
    engine.places
}

/// How long the engine sleeps before it looks whether the server has ended.
const POLL: std::time::Duration = std::time::Duration::from_millis(20);

/// Members of every manner see each topic in one order, of which passers-by see pieces. An answer over HTTP names the
/// place that the engine has given, and a drain closes nobody before a message that was answered.
fn agree(backend: BackendKind) {
    let world = World::start(backend);
    let address = world.addresses[0];
    let read = |number: usize, mut client: Client| {
        // The last publisher uses HTTP.
        if number < PUBLISHERS - 1 {
            for at in 0..MESSAGES {
                let length = [0, 10, 300, 3_000, 20_000][(number + at) % 5];
                client.say(&format!("{number} {at} {}", "x".repeat(length)));
            }
        }
        (client.texts(PUBLISHERS * MESSAGES), client)
    };
    let members: Vec<(usize, usize, Client)> = (0..TOPICS.len())
        .flat_map(|topic| manners().into_iter().enumerate().map(move |(number, manner)| (topic, number, manner)))
        .map(|(topic, number, manner)| (topic, number, world.open(TOPICS[topic], manner)))
        .collect();
    let (members, posted) = thread::scope(|scope| {
        let members: Vec<_> = members
            .into_iter()
            .map(|(topic, number, client)| (topic, scope.spawn(move || read(number, client))))
            .collect();
        let texts = || (0..MESSAGES).map(|at| format!("{} {at}", PUBLISHERS - 1));
        let posting = TOPICS.map(|topic| scope.spawn(move || post(address, topic, texts())));
        let passers = (0..2 * manners().len()).map(|number| (number % TOPICS.len(), manners()[number / 2]));
        let pieces: Vec<(usize, Vec<String>)> =
            passers.map(|(topic, manner)| (topic, world.open(TOPICS[topic], manner).leave())).collect();
        let members: Vec<(usize, Vec<String>, Client)> = members
            .into_iter()
            .map(|(topic, member)| {
                let (seen, client) = member.join().unwrap();
                (topic, seen, client)
            })
            .collect();
        for (topic, piece) in pieces {
            let (_, order, _) = members.iter().find(|(of, ..)| *of == topic).expect("each topic has members");
            check_piece(order, &piece);
        }
        (members, posting.map(|posting| posting.join().unwrap()))
    });
    let last = TOPICS.map(|topic| post(address, topic, ["last".to_owned()])[0]);
    world.running.stop();
    let mut orders: [Option<Vec<String>>; TOPICS.len()] = [const { None }; TOPICS.len()];
    for (topic, seen, mut client) in members {
        assert_eq!(client.rest(), (vec!["last".to_owned()], Some(CloseCode::SERVICE_RESTART)), "topic {topic}");
        let order = orders[topic].get_or_insert_with(|| seen.clone());
        assert!(*order == seen, "{backend:?}: two members of topic {topic} disagree");
    }
    let engine_places = world.end();
    for (topic, order) in orders.into_iter().enumerate() {
        let order = order.expect("it has members");
        check_publishers(&order, PUBLISHERS, MESSAGES);
        let name = TopicName::new(TOPICS[topic]).unwrap();
        let given =
            engine_places.get(&name).map(|places| places.iter().map(|place| (place.epoch, place.offset)).collect());
        assert_eq!(given.is_some(), TestEngine::has(&name), "the engine orders every other topic");
        let (epoch, _) = last[topic];
        let places: Vec<(u64, u64)> =
            given.unwrap_or_else(|| (1..).map(|at| (epoch, at)).take(order.len() + 1).collect());
        assert_eq!((places.len(), places[order.len()]), (order.len() + 1, last[topic]), "the last message of {name}");
        let is_posted = |text: &str| text.starts_with(&format!("{} ", PUBLISHERS - 1));
        let of_posts = order.iter().zip(&places).filter(|(text, _)| is_posted(text)).map(|(_, place)| place);
        assert!(of_posts.eq(&posted[topic]), "the answers over HTTP name the places of {name}");
    }
}
