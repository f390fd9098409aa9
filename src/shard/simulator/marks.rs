//! Close frames that wait for messages of their connection, which another shard orders.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use bytes::{Bytes, BytesMut};

use super::{
    super::{io_state::IoHub, marks::MARK_TICKS_MAX},
    line::End,
    network::{Network, Weather},
    random::Random,
    simulation::{arrival, handlers},
    socket::{SimulatedIo, SimulatedSocket},
    world::{ANSWER, PONG},
};
use crate::{
    config::{Config, Settings},
    hub::{
        ConnectionId, HubLimits, MeshEnd, MeshLimits, Publication, Scope, SubscribeOptions, Subscribed, TopicName, Wake,
    },
    metrics::{Counter, Counters},
    proto::{CloseCode, Fin, FrameHeader, KeepAlive, OpCode, Tick, encode_masked},
    shard::state::Shard,
};

/// A shard, and the hub of another shard. The tests run both step by step.
struct World {
    shard: Shard<SimulatedIo>,
    counters: Arc<Counters>,
    network: Rc<RefCell<Network>>,
    other: IoHub,
    now: Tick,
}

impl World {
    fn new() -> Self {
        Self::with(|_| {})
    }

    /// Returns a world whose settings are the defaults without pings after `change`.
    fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::new(&Settings::default(), 20_000).expect("the defaults");
        config.keep_alive = KeepAlive { ping_interval: 0, pong_timeout: 0, close_timeout: CLOSE_TICKS };
        change(&mut config);
        let network = Rc::new(RefCell::new(Network::new(Random::new(0), Weather::FAIR)));
        let counters = Arc::new(Counters::default());
        let wake = (0..2).map(|_| Arc::new(|| {}) as Wake).collect();
        let mut mesh = MeshEnd::connect(wake, &MeshLimits::default());
        let other = IoHub::new(mesh.pop().expect("two ends"), HubLimits::default(), 1);
        let mesh = mesh.pop().expect("two ends");
        let io = SimulatedIo::new(&network);
        let shard = Shard::new(mesh, &config, io, handlers(&config), Arc::clone(&counters), 1, Tick(0).begin());
        World { shard, counters, network, other, now: Tick(0) }
    }

    /// Returns a topic whose home is the shard if `is_near`, and otherwise the other shard.
    fn topic(&self, is_near: bool) -> TopicName {
        let mut names = (0..).map(|number| TopicName::new(&format!("topic {number}")).expect("a name"));
        names.find(|name| (self.other.home(name) == 0) == is_near).expect("a topic")
    }

    /// Adds a client that publishes to the topic, with so much room in its socket.
    fn connect(&mut self, topic: &TopicName, echo: bool, scope: Scope, room: usize) -> ConnectionId {
        let socket = SimulatedSocket::connect(&self.network, ANSWER, room);
        let forwards = Some((topic.clone(), scope));
        let answer = Bytes::from_static(ANSWER);
        let arrival = arrival(socket, vec![(topic.clone(), echo)], forwards, answer, BytesMut::new());
        let id = self.shard.adopt(self.now.begin(), arrival).expect("there is room");
        self.answer();
        let client = self.network.borrow().lines.len() - 1;
        self.sent(client);
        id
    }

    /// Adds a client with an echo of its messages to a topic whose home is the other shard.
    fn connect_far(&mut self) -> (ConnectionId, TopicName) {
        let topic = self.topic(false);
        (self.connect(&topic, true, Scope::Server, usize::MAX), topic)
    }

    /// Lets bytes of a client arrive in one segment.
    fn arrive(&mut self, client: usize, bytes: &[u8]) {
        self.network.borrow_mut().lines[client].on_the_way.extend(bytes);
        self.network.borrow_mut().arrive(client, usize::MAX);
        self.turn();
    }

    /// Lets the client's side end.
    fn end(&mut self, client: usize, end: End) {
        self.network.borrow_mut().lines[client].end = Some(end);
        self.arrive(client, &[]);
    }

    /// Runs the shard's turns until they leave no work, while the other shard stands still.
    fn turn(&mut self) {
        while self.shard.turn(self.now.begin()) || self.network.borrow().has_reports() {}
    }

    /// Lets so many ticks pass, and runs the turns that are due then.
    fn pass(&mut self, ticks: u32) {
        self.now = self.now.after(ticks);
        self.turn();
    }

    /// Lets the other shard answer its requests.
    fn answer(&mut self) {
        while self.other.take_request(&mut Vec::new()) {}
        self.other.send_out();
        self.turn();
    }

    /// Returns what a client was sent since the last call: texts, and the code of a close frame.
    fn sent(&mut self, client: usize) -> Vec<String> {
        let mut network = self.network.borrow_mut();
        let count = network.lines[client].sent.len();
        network.fetch(client, count);
        let fetched = &mut network.lines[client].fetched;
        let (mut sent, mut rest) = (Vec::new(), fetched.strip_prefix(ANSWER).unwrap_or(fetched));
        while let Some((header, length)) = FrameHeader::decode(rest).expect("a frame")
            && let Some(payload) = rest.get(length..length + header.payload_len as usize)
        {
            sent.push(match header.opcode {
                OpCode::Close if payload.is_empty() => "close".to_owned(),
                OpCode::Close => format!("close {}", u16::from_be_bytes([payload[0], payload[1]])),
                _ => String::from_utf8_lossy(payload).into_owned(),
            });
            rest = &rest[length + payload.len()..];
        }
        *fetched = rest.to_vec();
        sent
    }

    fn waits(&self, id: ConnectionId) -> bool {
        self.shard.marks.has(id)
    }

    fn has(&self, id: ConnectionId) -> bool {
        self.shard.hub.connections.get(id).is_some()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.network.borrow_mut().is_over = true;
    }
}

/// Returns the messages as masked frames, and these bytes after them.
fn segment(texts: &[&str], end: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    texts.iter().for_each(|text| encode_masked(OpCode::Text, Fin::Set, text.as_bytes(), [1, 2, 3, 4], &mut bytes));
    bytes.extend_from_slice(end);
    bytes
}

const CLOSE_TICKS: u32 = 50;
const CLOSE_FRAME: &[u8] = b"\x88\x82\0\0\0\0\x03\xe8";
/// A frame with a reserved bit.
const BREACH: &[u8] = b"\xc1\x80\0\0\0\0";

/// Whatever ends the open state, the close frame follows the messages that its connection has published before.
#[test]
fn a_close_frame_follows_the_echoes() {
    type Case = (&'static [u8], bool, &'static [&'static str]);
    let cases: [Case; 3] = [
        (CLOSE_FRAME, false, &["1", "2", "3", "close 1000"]),
        (BREACH, false, &["1", "2", "3", "close 1002"]),
        (b"", true, &["1", "2", "3", "close 1001"]),
    ];
    for (end, server_closes, expected) in cases {
        let mut world = World::new();
        let (id, topic) = world.connect_far();
        world.arrive(0, &segment(&["1", "2", "3"], end));
        if server_closes {
            world.shard.close(id, CloseCode::GOING_AWAY, "");
        }
        world.turn();
        assert!(world.sent(0).is_empty() && world.waits(id), "the messages are on their way");
        assert!(world.shard.hub.is_subscribed(id, &topic), "the connection stays a subscriber");
        world.answer();
        assert_eq!(world.sent(0), expected);
        assert!(!world.waits(id) && !world.shard.hub.is_subscribed(id, &topic));
        world.other.publish_by_name(&topic, None, Publication::text("late"), Scope::Server);
        world.answer();
        assert!(world.sent(0).is_empty(), "nothing follows a close frame");
        if server_closes {
            world.arrive(0, CLOSE_FRAME);
        }
        world.end(0, End::Finished);
        assert!(!world.has(id), "the end takes its usual course");
    }
}

/// A close frame waits for marks of all homes, and for no home that has none of the connection's messages to return.
#[test]
fn a_close_waits_only_for_its_own_messages() {
    // The cases are: no echo, a topic of the shard itself, a message within the shard, and no message.
    for (is_near, echo, scope, texts) in [
        (false, false, Scope::Server, &["1"][..]),
        (true, true, Scope::Server, &["1"]),
        (false, true, Scope::Shard, &["1"]),
        (false, true, Scope::Server, &[]),
    ] {
        let mut world = World::new();
        let topic = world.topic(is_near);
        let id = world.connect(&topic, echo, scope, usize::MAX);
        world.arrive(0, &segment(texts, CLOSE_FRAME));
        let sent = world.sent(0);
        assert_eq!(sent.last().map(String::as_str), Some("close 1000"), "{is_near} {echo} {scope:?} {texts:?}");
        assert_eq!(sent.len(), 1 + usize::from(echo && (is_near || scope == Scope::Shard)));
        assert!(!world.waits(id));
    }
}

/// A home that does not answer keeps a close frame for two ticks, and for less if the close timeout is short. Its marks
/// come back too late, and are ignored.
#[test]
fn a_stuck_home_keeps_a_close_for_two_ticks() {
    for (close_timeout, ticks) in [(CLOSE_TICKS, MARK_TICKS_MAX), (0, MARK_TICKS_MAX), (3, 1), (1, 0)] {
        let mut world = World::with(|config| config.keep_alive.close_timeout = close_timeout);
        let (id, topic) = world.connect_far();
        world.arrive(0, &segment(&["1"], CLOSE_FRAME));
        for tick in 0..ticks {
            assert!(world.waits(id) && world.sent(0).is_empty(), "tick {tick}");
            assert!(world.shard.next_deadline().is_some_and(|deadline| deadline <= Tick(ticks)), "tick {tick}");
            world.pass(1);
        }
        assert_eq!((world.sent(0), world.waits(id)), (vec!["close 1000".to_owned()], false), "{close_timeout}");
        assert!(!world.shard.hub.is_subscribed(id, &topic));
        world.answer();
        assert!(world.sent(0).is_empty());
        world.end(0, End::Finished);
        assert_eq!((world.has(id), world.counters.get(Counter::CloseTimeout)), (false, 0));
    }
}

/// While the shard has no room for deliveries, after which the mark stands, the time for the homes begins anew; the
/// wait takes up to half of the close timeout.
#[test]
fn a_full_shard_goes_on_waiting_for_marks() {
    for (full_ticks, expected) in [(3, &["1", "close 1000"][..]), (CLOSE_TICKS / 2, &["close 1000"])] {
        let mut world = World::new();
        let (id, _) = world.connect_far();
        let near = world.topic(true);
        (0..2 * CLOSE_TICKS).for_each(|_| _ = world.connect(&near, true, Scope::Server, usize::MAX));
        world.arrive(0, &segment(&["1"], CLOSE_FRAME));
        world.shard.hub.limits.gathered_bytes_max = 0;
        // One subscriber in a turn.
        (world.shard.pace.send_batch, world.shard.pace.flush_entries) = (1, 1);
        // A message of the other shard uses up the room for mail.
        world.other.publish_by_name(&near, None, Publication::text("near"), Scope::Server);
        world.other.send_out();
        world.shard.turn(world.now.begin());
        while world.other.take_request(&mut Vec::new()) {}
        world.other.send_out();
        for tick in 0..full_ticks {
            assert!(world.waits(id) && world.sent(0).is_empty(), "tick {tick}");
            assert!(world.shard.next_deadline().is_some_and(|deadline| deadline <= world.now.after(MARK_TICKS_MAX)));
            world.now = world.now.after(1);
            world.shard.turn(world.now.begin());
            assert!(!world.shard.hub.has_room_for_mail(), "the walk has ended at tick {tick}");
        }
        world.turn();
        assert_eq!(world.sent(0), expected, "after {full_ticks} ticks");
    }
}

/// The mark of a connection that has gone does not count for the next owner of its slot.
#[test]
fn a_late_mark_is_for_nobody() {
    let mut world = World::new();
    world.shard.hub.connections.let_rest(0);
    let (first, _) = world.connect_far();
    world.arrive(0, &segment(&["1"], CLOSE_FRAME));
    world.end(0, End::Reset);
    world.pass(MARK_TICKS_MAX);
    assert!(!world.has(first) && !world.waits(first));
    let topic = world.topic(false);
    let socket = SimulatedSocket::connect(&world.network, ANSWER, usize::MAX);
    let forwards = Some((topic.clone(), Scope::Server));
    let arrival = arrival(socket, vec![(topic.clone(), true)], forwards, Bytes::from_static(ANSWER), BytesMut::new());
    let second = world.shard.adopt(world.now.begin(), arrival).expect("there is room");
    assert_eq!(second.slot(), first.slot());
    // The home takes the first client's message and mark, and the second client's interest.
    world.answer();
    assert_eq!(world.sent(1), Vec::<String>::new());
    world.arrive(1, &segment(&["2"], CLOSE_FRAME));
    assert!(world.waits(second));
    world.shard.hub.take_marks();
    world.answer();
    assert_eq!(world.sent(1), ["2", "close 1000"]);
    assert!(!world.shard.marks.arrive(first), "a second answer would be ignored as well");
}

/// A peer that ends its side without an answer to our close frame takes nothing more: the wait for its marks ends. A
/// peer that has sent its close frame may still read.
#[test]
fn the_peers_end_ends_the_wait_for_marks() {
    let mut world = World::new();
    let (id, topic) = world.connect_far();
    world.arrive(0, &segment(&["1"], b""));
    world.shard.close(id, CloseCode::GOING_AWAY, "");
    assert!(world.waits(id));
    world.end(0, End::Finished);
    assert!(!world.waits(id) && !world.shard.hub.is_subscribed(id, &topic));
    world.answer();
    assert_eq!((world.sent(0), world.has(id)), (Vec::new(), false));
    let mut world = World::new();
    let (id, _) = world.connect_far();
    world.network.borrow_mut().lines[0].end = Some(End::Finished);
    world.arrive(0, &segment(&["1"], CLOSE_FRAME));
    assert!(world.waits(id), "the close frame waits after the end, too");
    world.answer();
    assert_eq!(world.sent(0), ["1", "close 1000"]);
    world.turn();
    assert!(!world.has(id));
}

/// A connection that waits for marks has the limit of every backlog: beyond the limit the connection leaves its topics.
#[test]
fn a_closing_connection_may_become_a_slow_consumer() {
    let mut world = World::with(|config| config.limits.backlog_bytes_max = 100_000);
    let topic = world.topic(false);
    let id = world.connect(&topic, true, Scope::Server, 20_000);
    world.arrive(0, &segment(&["1"], CLOSE_FRAME));
    let message = Publication::text(&"x".repeat(10_000));
    let mut most = 0;
    for _ in 0..30 {
        world.other.publish_by_name(&topic, None, &message, Scope::Server);
        world.other.send_out();
        world.turn();
        let connection = world.shard.hub.connections.get(id).expect("it is there");
        most = most.max(connection.io.output.as_ref().map_or(0, |output| output.bytes()));
    }
    assert!((90_000..130_000).contains(&most), "{most}");
    assert!(!world.waits(id) && !world.shard.hub.is_subscribed(id, &topic));
    let mut sent = Vec::new();
    while let part = world.sent(0)
        && !part.is_empty()
    {
        sent.extend(part);
        world.turn();
    }
    assert_eq!(sent.last().map(String::as_str), Some("close 1000"));
    assert!((10..15).contains(&sent.len()), "{} frames", sent.len());
    assert_eq!([Counter::SlowClosed, Counter::SlowDropped].map(|counter| world.counters.get(counter)), [0, 0]);
}

/// A subscription that is pending when its connection leaves never goes live.
#[test]
fn a_pending_subscription_ends_with_the_open_state() {
    let mut world = World::new();
    let (id, topic) = world.connect_far();
    let mut names = (0..).map(|number| TopicName::new(&format!("pending {number}")).expect("a name"));
    let pending = names.find(|name| world.other.home(name) == 1).expect("a topic");
    assert_eq!(world.shard.hub.subscribe(id, &pending, SubscribeOptions::default()), Subscribed::Pending);
    world.arrive(0, &segment(&["1"], CLOSE_FRAME));
    assert_eq!(world.shard.hub.subscriptions(id), [topic]);
    world.answer();
    let message = Publication::text("no");
    world.other.publish_by_name(&pending, None, &message, Scope::Server);
    world.answer();
    assert_eq!(world.sent(0), ["1", "close 1000"]);
}

/// A connection that waits is dropped by the end of a drain and by a reset, like any other connection.
#[test]
fn a_connection_that_waits_can_be_dropped() {
    for drop in [
        |world: &mut World| {
            world.network.borrow_mut().lines[0].stalled = true;
            world.shard.drop_all();
        },
        |world: &mut World| world.end(0, End::Reset),
    ] {
        let mut world = World::new();
        let (id, _) = world.connect_far();
        world.arrive(0, &segment(&["1"], b""));
        world.shard.close(id, CloseCode::GOING_AWAY, "");
        world.arrive(0, PONG);
        assert!(world.waits(id));
        drop(&mut world);
        assert!(!world.has(id) && !world.waits(id));
        world.answer();
    }
}
