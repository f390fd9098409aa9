//! Several shards, one of which takes nothing for a while, and the connections that have to wait for that shard.

use std::{
    cell::RefCell,
    collections::HashMap,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::{Bytes, BytesMut};

use super::{
    super::{
        arrival::Arrival,
        incoming::{RECEIVE_BUFFER, RECEIVE_SMALL},
        io_state::Reading,
        pace::Pace,
        seats::Handlers,
    },
    line::End,
    network::{Network, Weather},
    random::Random,
    simulation::arrival,
    socket::{SimulatedIo, SimulatedSocket},
    world::{ANSWER, take_sent},
};
use crate::{
    config::{Config, Settings, Sources, settle},
    handler::{Connection, Factory, Handler, Pattern, Route, RouteOptions, Tasks, Typed},
    hub::{ConnectionId, MeshEnd, MeshLimits, Publication, Scope, TopicName, Wake, home},
    metrics::{Counter, Counters},
    proto::{CloseCode, Fin, KeepAlive, Message, OpCode, State, Tick, encode_masked},
    shard::state::Shard,
    surface::{
        echo::Echo,
        raw::{RawTopics, TOPIC_PATTERN},
    },
};

/// Publishes each message to the topic that is its first word.
struct Relaying;

impl Handler for Relaying {
    type State = ();

    fn on_message(&self, connection: &mut Connection<'_, ()>, message: Message<'_>) {
        let text = std::str::from_utf8(message.payload()).expect("clients send text");
        let topic = TopicName::new(text.split(' ').next().expect("a word")).expect("a name");
        connection.publish(&topic, Publication::text(text), Scope::Server);
    }
}

/// Three shards; each test decides which of them stand still.
pub(super) struct World {
    pub(super) nodes: Vec<Node>,
    woken: Vec<Arc<AtomicBool>>,
    now: Tick,
}

/// A shard and its clients.
pub(super) struct Node {
    pub(super) shard: Shard<SimulatedIo>,
    counters: Arc<Counters>,
    pub(super) network: Rc<RefCell<Network>>,
    /// The last turn has left work.
    has_more: bool,
}

/// A client: its shard, and its line and its connection there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Client {
    shard: usize,
    pub(super) line: usize,
    pub(super) id: ConnectionId,
}

/// The routes of a shard, by their handlers.
const RELAYING: u16 = 0;
const RAW_TOPICS: u16 = 1;
const ECHO: u16 = 2;

const SHARDS: usize = 3;

/// The shard that takes nothing while the others run.
const STUCK: usize = 2;

/// A lane takes so many entries.
const LANE: usize = 4;

/// The number of messages that go to a home that takes nothing: the messages in the lane, and the message that makes
/// the home fall behind.
const UNTIL_BEHIND: u64 = LANE as u64 + 1;

impl World {
    pub(super) fn new() -> Self {
        Self::with(MeshLimits::default(), |_| {})
    }

    pub(super) fn with(limits: MeshLimits, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::new(&Settings::default(), 20_000).expect("the defaults");
        config.keep_alive.ping_interval = 0;
        change(&mut config);
        let woken: Vec<Arc<AtomicBool>> = (0..SHARDS).map(|_| Arc::default()).collect();
        let wake = woken.iter().map(|woken| {
            let woken = Arc::clone(woken);
            Arc::new(move || woken.store(true, Ordering::Relaxed)) as Wake
        });
        let ends = MeshEnd::connect(wake.collect(), &MeshLimits { lane_entries_max: LANE, ..limits });
        let nodes = ends.into_iter().map(|mesh| Node::new(mesh, &config)).collect();
        World { nodes, woken, now: Tick(0) }
    }

    /// Returns a topic with its home on that shard.
    pub(super) fn topic(shard: usize) -> TopicName {
        Self::topics(shard, 1).remove(0)
    }

    /// Returns so many topics with their home on that shard.
    pub(super) fn topics(shard: usize, count: usize) -> Vec<TopicName> {
        let names = (0..).map(|number| TopicName::new(&format!("topic-{number}")).expect("a name"));
        names.filter(|name| usize::from(home(name, SHARDS as u16)) == shard).take(count).collect()
    }

    pub(super) fn connect(
        &mut self,
        shard: usize,
        subscribes: Option<&TopicName>,
        publishes: Option<&TopicName>,
    ) -> Client {
        self.connect_at(RELAYING, shard, subscribes, publishes)
    }

    fn connect_at(
        &mut self,
        route: u16,
        shard: usize,
        subscribes: Option<&TopicName>,
        publishes: Option<&TopicName>,
    ) -> Client {
        let node = &mut self.nodes[shard];
        let socket = SimulatedSocket::connect(&node.network, ANSWER, usize::MAX);
        let line = node.network.borrow().lines.len() - 1;
        let subscriptions = subscribes.map(|topic| (topic.clone(), true)).into_iter().collect();
        let forwards = publishes.map(|topic| (topic.clone(), Scope::Server));
        let arrival = arrival(socket, subscriptions, forwards, Bytes::from_static(ANSWER), BytesMut::new());
        let arrival = Arrival { route, ..arrival };
        let id = node.shard.adopt(self.now.begin(), arrival).expect("there is room");
        node.has_more = true;
        Client { shard, line, id }
    }

    pub(super) fn subscriber(&mut self, shard: usize, topic: &TopicName) -> Client {
        self.connect(shard, Some(topic), None)
    }

    pub(super) fn publisher(&mut self, shard: usize, topic: &TopicName) -> Client {
        self.connect(shard, None, Some(topic))
    }

    /// Lets so many texts of the client arrive: `text` and a number, from 0.
    pub(super) fn send(&self, client: Client, text: &str, count: usize) {
        let mut frames = Vec::new();
        for number in 0..count {
            encode_masked(OpCode::Text, Fin::Set, format!("{text} {number}").as_bytes(), [1, 2, 3, 4], &mut frames);
        }
        self.arrive(client, &frames);
    }

    pub(super) fn arrive(&self, client: Client, bytes: &[u8]) {
        let mut network = self.nodes[client.shard].network.borrow_mut();
        network.lines[client.line].on_the_way.extend(bytes);
        network.arrive(client.line, usize::MAX);
    }

    /// Returns the texts and the close codes that the client was sent since the last call.
    pub(super) fn sent(&self, client: Client) -> Vec<String> {
        let mut sent = take_sent(&self.nodes[client.shard].network, client.line);
        sent.retain(|part| part != "answer");
        sent
    }

    /// Runs turns of these shards, like their threads: while a turn leaves work, when the ring has reports, and when
    /// another shard wakes the shard. Returns when all of them sleep.
    fn run(&mut self, shards: &[usize]) {
        for round in 0.. {
            assert!(round < 200_000, "the shards do not come to rest");
            let mut is_quiet = true;
            for &shard in shards {
                let is_woken = self.woken[shard].swap(false, Ordering::Relaxed);
                let node = &mut self.nodes[shard];
                if node.has_more || is_woken || node.network.borrow().has_reports() {
                    node.shard.awake();
                    node.has_more = node.shard.turn(self.now.begin()) || !node.shard.may_sleep();
                    is_quiet = false;
                }
            }
            if is_quiet {
                return;
            }
        }
    }

    /// Runs one turn of a shard.
    pub(super) fn turn(&mut self, shard: usize) {
        let node = &mut self.nodes[shard];
        node.shard.awake();
        node.has_more = node.shard.turn(self.now.begin());
    }

    /// Runs all shards but the one that is stuck.
    fn run_others(&mut self) {
        self.run(&[0, 1]);
    }

    pub(super) fn run_all(&mut self) {
        self.run(&[0, 1, STUCK]);
    }

    pub(super) fn count(&self, shard: usize, counter: Counter) -> u64 {
        self.nodes[shard].counters.get(counter)
    }

    pub(super) fn reading(&self, client: Client) -> Option<Reading> {
        Some(self.nodes[client.shard].shard.hub.connections.get(client.id)?.io.reading)
    }

    fn state(&self, client: Client) -> Option<State> {
        Some(self.nodes[client.shard].shard.hub.connections.get(client.id)?.io.session.state())
    }
}

impl Node {
    fn new(mesh: MeshEnd, config: &Config) -> Self {
        let network = Rc::new(RefCell::new(Network::new(Random::new(0), Weather::FAIR)));
        let counters = Arc::new(Counters::default());
        let options = RouteOptions::new().forget_request().no_broadcast();
        let rules = settle(&options, Sources::WebSockets, &config.base_of_routes()).expect("rules that can be");
        let pattern = Pattern::new(TOPIC_PATTERN).expect("a pattern");
        let factories: [Arc<dyn Factory>; 3] = [
            Arc::new(Typed(Arc::new(Relaying))),
            Arc::new(Typed(Arc::new(RawTopics))),
            Arc::new(Typed(Arc::new(Echo))),
        ];
        let routes = factories.map(|factory| Route {
            pattern: pattern.clone(),
            rules: rules.clone(),
            topics: Some(Default::default()),
            factory,
        });
        let handlers: Vec<_> = routes.iter().map(|route| route.factory.on_shard()).collect();
        let handlers = Handlers::new(&routes, &handlers, Tasks::default());
        let io = SimulatedIo::new(&network);
        let shard = Shard::new(mesh, config, io, handlers, Arc::clone(&counters), 1, Tick(0).begin());
        Node { shard, counters, network, has_more: true }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.nodes.iter().for_each(|node| node.network.borrow_mut().is_over = true);
    }
}

fn numbered(text: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{text} {number}")).collect()
}

/// A crowd floods a topic whose home takes nothing. Meanwhile all messages of publishers to other homes reach their
/// subscribers.
#[test]
fn a_home_that_takes_nothing_holds_up_only_its_publishers() {
    const CROWD: usize = 100;
    const MESSAGES: usize = 300;
    let mut world = World::new();
    let topics: Vec<TopicName> = (0..SHARDS).map(World::topic).collect();
    let subscribers: Vec<[Client; 2]> =
        (0..2).map(|number| [0, 1].map(|shard| world.subscriber(shard, &topics[number]))).collect();
    let crowd: Vec<Client> = (0..CROWD).map(|_| world.publisher(0, &topics[STUCK])).collect();
    let publishers = [0, 1].map(|number| world.publisher(0, &topics[number]));
    let last = world.subscriber(STUCK, &topics[STUCK]);
    world.run_all();
    crowd.iter().enumerate().for_each(|(number, &client)| world.send(client, &format!("crowd {number}"), MESSAGES));
    world.run_others();
    publishers.iter().for_each(|&client| world.send(client, "m", MESSAGES));
    world.run_others();
    for subscriber in subscribers.iter().flatten() {
        assert_eq!(world.sent(*subscriber), numbered("m", MESSAGES));
    }
    assert_eq!(world.count(0, Counter::MessagesIn), 2 * MESSAGES as u64 + UNTIL_BEHIND);
    assert!(crowd.iter().all(|&client| world.reading(client) == Some(Reading::AwaitsHome)));
    assert_eq!(world.count(0, Counter::ReceivePaused), 0);
    world.run_all();
    let received = world.sent(last);
    assert_eq!(received.len(), CROWD * MESSAGES);
    for number in 0..CROWD {
        let prefix = format!("crowd {number} ");
        let own: Vec<&String> = received.iter().filter(|text| text.starts_with(&prefix)).collect();
        assert_eq!(own, numbered(prefix.trim_end(), MESSAGES).iter().collect::<Vec<_>>());
    }
    assert!(crowd.iter().all(|&client| world.reading(client) == Some(Reading::Idle)));
    assert!(world.count(0, Counter::AwaitedHome) >= CROWD as u64);
}

/// Connections that wait for a home are served in the order in which they have come, and each queues again after the
/// others.
#[test]
fn a_home_serves_those_that_wait_for_it_in_turn() {
    const CROWD: usize = 60;
    const MESSAGES: usize = 6;
    // The order is the same if a turn has only one frame.
    for frames in [Pace::DEFAULT.frames, 1] {
        let mut world = World::new();
        let topic = World::topic(STUCK);
        let subscriber = world.subscriber(STUCK, &topic);
        let crowd: Vec<Client> = (0..CROWD).map(|_| world.publisher(0, &topic)).collect();
        world.run_all();
        world.nodes[0].shard.pace.frames = frames;
        world.nodes[STUCK].shard.pace.mail = 1;
        crowd.iter().enumerate().for_each(|(number, &client)| world.send(client, &number.to_string(), MESSAGES));
        world.run_all();
        let received = world.sent(subscriber);
        let sender = |text: &String| text.split(' ').next().and_then(|word| word.parse().ok()).expect("a number");
        let mut turns: Vec<usize> = received.iter().map(sender).collect();
        assert_eq!(turns.len(), CROWD * MESSAGES);
        turns.dedup();
        for (at, sender) in turns.iter().take(2 * CROWD).enumerate() {
            assert_eq!(*sender, at % CROWD, "turn {at} with {frames} frames: {:?}", &turns[..=at]);
        }
    }
}

/// A connection that first sends when its home has room again is served after those that have waited for that home.
#[test]
fn a_newcomer_waits_after_those_that_wait_for_its_home() {
    let mut world = World::new();
    let topic = World::topic(STUCK);
    let subscriber = world.subscriber(STUCK, &topic);
    let [crowd, first, second] = [(); 3].map(|()| world.publisher(0, &topic));
    world.run_all();
    world.send(crowd, "crowd", 50);
    world.run_others();
    world.send(first, "first", 1);
    world.run_others();
    make_room(&mut world);
    world.send(second, "second", 1);
    world.run_all();
    let received = world.sent(subscriber);
    let at = |text: &str| received.iter().position(|received| received == text).expect("it is there");
    assert!(at("first 0") < at("second 0"), "{received:?}");
}

/// A connection that begins to close when its home has room stands in two queues, and is served once.
#[test]
fn a_connection_that_closes_when_its_home_has_room_is_served_once() {
    let mut world = World::new();
    let topic = World::topic(STUCK);
    let (crowd, closed) = (world.publisher(0, &topic), world.publisher(0, &topic));
    world.run_all();
    world.send(crowd, "crowd", 50);
    world.run_others();
    world.send(closed, "closed", 1);
    world.run_others();
    make_room(&mut world);
    world.nodes[0].shard.close(closed.id, CloseCode::GOING_AWAY, "");
    // The network refuses a batch that names a socket twice.
    world.run_all();
    assert_eq!(world.sent(closed), ["close 1001"]);
    assert_eq!(world.count(0, Counter::MessagesIn), 50);
}

/// Lets the stuck shard take the messages in the lane from shard 0, and lets shard 0 send those that wait beside the
/// lane.
fn make_room(world: &mut World) {
    world.nodes[STUCK].shard.turn(world.now.begin());
    world.nodes[0].shard.awake();
    world.nodes[0].has_more = world.nodes[0].shard.turn(world.now.begin());
    assert!(world.nodes[0].has_more, "those that wait may go on");
}

/// A client that sends little is served soon, although a crowd that sends much waits for the same home.
#[test]
fn a_small_client_does_not_wait_for_the_crowd_of_its_home() {
    const CROWD: usize = 100;
    let mut world = World::new();
    let topic = World::topic(STUCK);
    let subscriber = world.subscriber(STUCK, &topic);
    let crowd: Vec<Client> = (0..CROWD).map(|_| world.publisher(0, &topic)).collect();
    let small = world.publisher(0, &topic);
    world.run_all();
    world.nodes[STUCK].shard.pace.mail = 1;
    crowd.iter().for_each(|&client| world.send(client, "crowd", 100));
    // Each client of the crowd has had its turn, and has shown that it has more input.
    for _ in 0..3 * CROWD {
        world.run_others();
        world.nodes[STUCK].shard.turn(world.now.begin());
    }
    let before = world.sent(subscriber).len();
    world.send(small, "small", 1);
    world.run_others();
    assert_eq!(world.reading(small), Some(Reading::AwaitsHome));
    world.run_all();
    let received = world.sent(subscriber);
    assert_eq!(before + received.len(), CROWD * 100 + 1);
    let at = received.iter().position(|text| text == "small 0").expect("the message has arrived");
    assert!(at <= UNTIL_BEHIND as usize + 4, "after {at} others");
}

/// A connection that is closing is received from, whatever its home does, and a connection that has ended leaves
/// nothing in the queues.
#[test]
fn closing_connections_leave_the_queue_of_their_home() {
    let mut world = World::new();
    world.nodes.iter_mut().for_each(|node| node.shard.hub.connections.let_rest(0));
    let topics: Vec<TopicName> = (0..SHARDS).map(World::topic).collect();
    let (subscriber, last) = (world.subscriber(0, &topics[1]), world.subscriber(STUCK, &topics[STUCK]));
    let waiting: Vec<Client> = (0..6).map(|_| world.publisher(0, &topics[STUCK])).collect();
    world.run_all();
    waiting.iter().enumerate().for_each(|(number, &client)| world.send(client, &number.to_string(), 10));
    world.run_others();
    assert!(waiting.iter().all(|&client| world.reading(client) == Some(Reading::AwaitsHome)));
    let [_, closed, removed, reset, gone, quiet] = waiting[..] else { unreachable!("six of them") };
    // The server closes one, and its client answers after ten messages.
    world.nodes[0].shard.close(closed.id, CloseCode::GOING_AWAY, "");
    world.nodes[0].has_more = true;
    world.run_others();
    assert_eq!(world.sent(closed), ["close 1001"]);
    let mut answer = Vec::new();
    encode_masked(OpCode::Close, Fin::Set, &1001_u16.to_be_bytes(), [1, 2, 3, 4], &mut answer);
    world.arrive(closed, &answer);
    for (client, end) in [(closed, End::Finished), (reset, End::Reset), (gone, End::Finished)] {
        let mut network = world.nodes[0].network.borrow_mut();
        network.lines[client.line].end = Some(end);
        network.arrive(client.line, usize::MAX);
    }
    world.nodes[0].shard.remove(removed.id);
    world.run_others();
    assert_eq!((world.state(closed), world.state(removed)), (None, None));
    // The next owner of the slot publishes to another home.
    let next = world.publisher(0, &topics[1]);
    assert_eq!(next.id.slot(), removed.id.slot());
    world.send(next, "next", 20);
    world.run_others();
    assert_eq!(world.sent(subscriber), numbered("next", 20));
    // The messages that a client has sent before its end are published.
    world.run_all();
    let received = world.sent(last);
    let of = |client: usize| received.iter().filter(|text| text.starts_with(&format!("{client} "))).count();
    assert_eq!([0, 1, 2, 3, 4, 5].map(of), [10, 0, 0, 10, 10, 10]);
    // The client `gone` has ended its side, and has taken the opening answer.
    assert_eq!((world.state(gone), world.sent(gone)), (Some(State::Closed), Vec::new()));
    world.now = Tick(100);
    world.nodes[0].has_more = true;
    world.run_all();
    assert_eq!((world.state(reset), world.state(gone), world.state(quiet)), (None, None, Some(State::Open)));
}

/// Connections that come, wait, and end, while their home takes nothing, take no more room than those that wait.
#[test]
fn connections_that_end_while_they_wait_take_no_room() {
    let mut world = World::new();
    let topic = World::topic(STUCK);
    let first = world.publisher(0, &topic);
    world.run_all();
    world.send(first, "first", 10);
    world.run_others();
    for _ in 0..1_000 {
        let client = world.publisher(0, &topic);
        world.run_others();
        world.send(client, "x", 1);
        world.run_others();
        assert_eq!(world.reading(client), Some(Reading::AwaitsHome));
        world.nodes[0].shard.remove(client.id);
    }
    let entries = world.nodes[0].shard.incoming.len();
    assert!(entries < 100, "{entries} entries for one connection");
}

/// The time in which a home is behind counts neither as silence of its publishers nor as time of their messages.
#[test]
fn the_time_of_a_wait_for_a_home_does_not_count() {
    let mut world = World::with(MeshLimits::default(), |config| {
        config.keep_alive = KeepAlive { ping_interval: 10, pong_timeout: 10, close_timeout: 5 };
        config.limits.message_ticks_max = 20;
    });
    let topics: Vec<TopicName> = (0..SHARDS).map(World::topic).collect();
    let (crowd, waiting) = (world.publisher(0, &topics[STUCK]), world.publisher(0, &topics[STUCK]));
    let silent = world.publisher(0, &topics[1]);
    world.run_all();
    let fragment = |opcode, fin| {
        let mut fragment = Vec::new();
        encode_masked(opcode, fin, b"a message", [1, 2, 3, 4], &mut fragment);
        fragment
    };
    world.arrive(waiting, &fragment(OpCode::Text, Fin::Unset));
    world.run_others();
    world.send(crowd, "x", 10);
    world.run_others();
    world.arrive(waiting, &fragment(OpCode::Continuation, Fin::Unset));
    for tick in 1..=200 {
        world.now = Tick(tick);
        world.nodes[0].has_more = true;
        world.run_others();
        assert_eq!(world.state(waiting), Some(State::Open), "tick {tick}");
    }
    assert_eq!((world.state(silent), world.count(0, Counter::PongTimeout)), (None, 1));
    world.nodes[STUCK].has_more = true;
    world.run_all();
    assert_eq!(world.count(0, Counter::MessagesIn), 10);
    world.now = Tick(210);
    world.arrive(waiting, &fragment(OpCode::Continuation, Fin::Set));
    world.run_all();
    assert_eq!((world.count(0, Counter::MessagesIn), world.count(0, Counter::MessageTimeout)), (11, 0));
    // From here on the client's silence counts.
    for tick in 211..=260 {
        world.now = Tick(tick);
        world.nodes[0].has_more = true;
        world.run_all();
    }
    assert_eq!(world.state(waiting), None);
}

/// The time of a message goes on after a wait for a home, although the message's deadline has passed meanwhile.
#[test]
fn the_time_of_a_message_goes_on_after_a_wait_for_a_home() {
    let mut world = World::with(MeshLimits::default(), |config| {
        config.keep_alive = KeepAlive { ping_interval: 0, pong_timeout: 0, close_timeout: 5 };
        config.limits.message_ticks_max = 20;
    });
    let topic = World::topic(STUCK);
    let (crowd, waiting) = (world.publisher(0, &topic), world.publisher(0, &topic));
    world.run_all();
    let mut begin = Vec::new();
    encode_masked(OpCode::Text, Fin::Unset, b"a message", [1, 2, 3, 4], &mut begin);
    world.arrive(waiting, &begin);
    world.run_others();
    world.send(crowd, "x", 10);
    world.run_others();
    world.arrive(waiting, b"\0");
    for tick in 1..=100 {
        world.now = Tick(tick);
        world.nodes[0].has_more = true;
        world.run_others();
    }
    assert_eq!(world.state(waiting), Some(State::Open), "the time is not its client's");
    world.nodes[STUCK].has_more = true;
    world.run_all();
    let deadline = world.nodes[0].shard.next_deadline();
    assert!(deadline.is_some_and(|deadline| deadline <= Tick(121).begin()), "{deadline:?}");
    for tick in 101..=130 {
        world.now = Tick(tick);
        world.nodes[0].has_more = true;
        world.run_all();
    }
    assert_eq!((world.state(waiting), world.count(0, Counter::MessageTimeout)), (None, 1));
}

/// A handler publishes to any home: its connection waits once a message has found no room, and others go on.
#[test]
fn a_handlers_connection_waits_for_the_home_that_it_has_published_to() {
    const CROWD: usize = 30;
    let mut world = World::new();
    let topics: Vec<TopicName> = (0..SHARDS).map(World::topic).collect();
    let subscribers = [world.subscriber(0, &topics[1]), world.subscriber(STUCK, &topics[STUCK])];
    let crowd: Vec<Client> = (0..CROWD).map(|_| world.connect(0, None, None)).collect();
    let other = world.connect(0, None, None);
    world.run_all();
    // One message at a time: nothing of a client's input is left when its connection has to wait.
    for round in 0..10 {
        crowd.iter().for_each(|&client| world.send(client, &format!("{} {round}", topics[STUCK].as_str()), 1));
        world.run_others();
        world.send(other, &format!("{} {round}", topics[1].as_str()), 10);
        world.run_others();
    }
    assert_eq!(world.sent(subscribers[0]).len(), 100);
    // The clients whose messages found room in the lane have sent a second message, which found no room.
    assert_eq!(world.count(0, Counter::MessagesIn), 100 + (CROWD + LANE) as u64);
    assert!(crowd.iter().all(|&client| world.reading(client) == Some(Reading::AwaitsHome)));
    assert_eq!(world.reading(other), Some(Reading::Idle));
    world.run_all();
    assert_eq!(world.sent(subscribers[1]).len(), 10 * CROWD);
}

/// Requests that wait for room have a limit over all homes. Beyond the limit, connections and calls that may publish to
/// any home wait; publishers to the topics of other homes go on.
#[test]
fn requests_that_wait_have_a_limit() {
    const CROWD: usize = 100;
    const LIMIT: usize = 4_000;
    let limits = MeshLimits { overflow_bytes_max: LIMIT, ..MeshLimits::default() };
    let mut world = World::with(limits, |_| {});
    let topics: Vec<TopicName> = (0..SHARDS).map(World::topic).collect();
    let subscribers = [world.subscriber(1, &topics[1]), world.subscriber(STUCK, &topics[STUCK])];
    let crowd: Vec<Client> = (0..CROWD).map(|_| world.connect(0, None, None)).collect();
    let (relayed, raw) = (world.connect(0, None, None), world.publisher(0, &topics[1]));
    world.run_all();
    assert!(world.nodes[0].shard.takes_calls());
    crowd.iter().for_each(|&client| world.send(client, topics[STUCK].as_str(), 10));
    world.run_others();
    let taken = world.count(0, Counter::MessagesIn);
    assert!((10..60).contains(&taken), "{taken} messages were taken");
    assert!(!world.nodes[0].shard.takes_calls(), "a call may publish to any home");
    world.send(relayed, topics[1].as_str(), 10);
    world.send(raw, "raw", 100);
    world.run_others();
    assert_eq!(world.sent(subscribers[0]), numbered("raw", 100));
    assert_eq!(world.reading(relayed), Some(Reading::AwaitsHome));
    world.run_all();
    assert_eq!(world.sent(subscribers[0]), numbered(topics[1].as_str(), 10));
    assert_eq!(world.sent(subscribers[1]).len(), 10 * CROWD);
    assert!(world.nodes[0].shard.takes_calls());
}

/// Deliveries that wait for a shard hold up only two kinds of connections: publishers to topics of the deliveries'
/// home, on every shard, and connections that may publish to any topic.
#[test]
fn deliveries_that_wait_hold_up_only_the_publishers_of_their_home() {
    const MESSAGES: usize = 200;
    let limits = MeshLimits { overflow_bytes_max: 4_000, ..MeshLimits::default() };
    let mut world = World::with(limits, |_| {});
    let topics: Vec<TopicName> = (0..SHARDS).map(World::topic).collect();
    let stuck = world.subscriber(STUCK, &topics[0]);
    let near = world.subscriber(0, &topics[1]);
    // Neither the clients of raw topics that only receive, nor those of `echo`, publish anything.
    let receiver = world.connect_at(RAW_TOPICS, 0, Some(&topics[1]), None);
    let (echoed, relayed) = (world.connect_at(ECHO, 0, None, None), world.connect(0, None, None));
    let flood = [0, 1].map(|shard| world.publisher(shard, &topics[0]));
    let others = [0, 1].map(|shard| world.publisher(shard, &topics[1]));
    world.run_all();
    flood.iter().for_each(|&client| world.send(client, "flood", MESSAGES));
    world.run_others();
    others.iter().for_each(|&client| world.send(client, "other", MESSAGES));
    world.run_others();
    assert_eq!(world.sent(near).len(), 2 * MESSAGES);
    assert!(flood.iter().all(|&client| world.reading(client) == Some(Reading::AwaitsHome)));
    assert_eq!(world.sent(receiver).len(), 2 * MESSAGES);
    for client in [receiver, echoed, relayed] {
        world.arrive(client, b"\x89\x84\0\0\0\0ping");
    }
    world.send(echoed, "echoed", 2);
    world.run_others();
    assert_eq!(world.sent(receiver), ["ping"]);
    assert_eq!(world.sent(echoed), ["ping", "echoed 0", "echoed 1"]);
    assert_eq!((world.sent(relayed), world.reading(relayed)), (Vec::new(), Some(Reading::AwaitsHome)));
    world.run_all();
    assert_eq!(world.sent(relayed), ["ping"]);
    assert_eq!(world.sent(stuck).len(), 2 * MESSAGES);
}

/// Some connections that wait for a home with input keep a receive buffer; any number of others keep little memory.
#[test]
fn input_that_waits_for_a_home_is_bounded() {
    const CROWD: usize = 400;
    let mut world = World::new();
    let topic = World::topic(STUCK);
    let crowd: Vec<Client> = (0..CROWD).map(|_| world.publisher(0, &topic)).collect();
    world.run_all();
    let mut frames = Vec::new();
    (0..10_000).for_each(|_| encode_masked(OpCode::Text, Fin::Set, b"", [1, 2, 3, 4], &mut frames));
    crowd.iter().for_each(|&client| world.arrive(client, &frames));
    let (mut most, mut moved) = (0, 0);
    let mut places: HashMap<ConnectionId, *const u8> = HashMap::new();
    for _ in 0..2 * CROWD {
        world.run_others();
        // A home that takes a message now and then lets each connection be received from.
        world.nodes[STUCK].shard.pace.mail = 1;
        world.nodes[STUCK].shard.turn(world.now.begin());
        let connections = &world.nodes[0].shard.hub.connections;
        let partials = connections.ids().filter_map(|id| connections.get(id)?.io.partial.as_ref());
        most = most.max(partials.map(|rest| rest.capacity()).sum::<usize>());
        for id in connections.ids() {
            let rest = connections.get(id).and_then(|connection| connection.io.partial.as_ref());
            let place = rest.map(|rest| rest.as_ptr());
            moved += usize::from(place.is_some_and(|place| places.insert(id, place) != Some(place)));
        }
    }
    // A connection that is postponed keeps its buffer.
    assert!(moved <= 6 * CROWD, "{moved} buffers were copied");
    let is_read = |client: &&Client| {
        let connection = world.nodes[0].shard.hub.connections.get(client.id);
        connection.is_some_and(|connection| connection.io.has_unparsed)
    };
    assert!(crowd.iter().filter(is_read).count() > CROWD / 2, "few of them keep input");
    let bound = 128 * RECEIVE_BUFFER + CROWD * 2 * RECEIVE_SMALL;
    assert!((20 * RECEIVE_BUFFER..=bound).contains(&most), "{most} bytes wait, of at most {bound}");
}
