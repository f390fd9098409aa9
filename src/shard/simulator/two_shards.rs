//! A shard, the hub of another one, and perhaps an engine, for tests that choose the actions themselves.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use bytes::{Bytes, BytesMut};

use super::{
    super::io_state::IoHub,
    line::End,
    network::{Network, Weather},
    random::Random,
    simulation::{arrival, handlers_with},
    socket::{SimulatedIo, SimulatedSocket},
    world::{ANSWER, take_sent},
};
use crate::{
    config::{Config, Settings},
    handler::RouteOptions,
    hub::{
        ConnectionId, EndRole, HubLimits, MeshEnd, MeshLimits, Publication, Scope, TopicName, Wake, testing::TestEngine,
    },
    metrics::Counters,
    proto::{KeepAlive, Tick},
    shard::state::Shard,
};

/// A shard, the hub of another one, and perhaps an engine, which the tests run step by step.
pub(super) struct World {
    pub(super) shard: Shard<SimulatedIo>,
    pub(super) counters: Arc<Counters>,
    pub(super) network: Rc<RefCell<Network>>,
    pub(super) other: IoHub,
    engine: Option<TestEngine>,
    pub(super) now: Tick,
}

impl World {
    pub(super) fn new() -> Self {
        Self::with(RouteOptions::new(), |_| {})
    }

    /// Returns a world whose settings are the defaults without pings after `change`.
    pub(super) fn with(options: RouteOptions, change: impl FnOnce(&mut Config)) -> Self {
        Self::with_roles(&[EndRole::Shard; 2], options, change)
    }

    /// Returns a world in which an engine orders some of the topics.
    pub(super) fn with_engine() -> Self {
        Self::with_roles(&[EndRole::Shard, EndRole::Shard, EndRole::Engine], RouteOptions::new(), |_| {})
    }

    fn with_roles(roles: &[EndRole], options: RouteOptions, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::new(&Settings::default(), 20_000).expect("the defaults");
        config.keep_alive = KeepAlive { ping_interval: 0, pong_timeout: 0, close_timeout: CLOSE_TICKS };
        change(&mut config);
        let network = Rc::new(RefCell::new(Network::new(Random::new(0), Weather::FAIR)));
        let counters = Arc::new(Counters::default());
        let wake = roles.iter().map(|_| Arc::new(|| {}) as Wake).collect();
        let mut ends = MeshEnd::connect_with(wake, roles, &MeshLimits::default()).into_iter();
        let (mesh, other) = (ends.next().expect("an end"), ends.next().expect("two ends"));
        let engine = ends.next().map(TestEngine::new);
        let io = SimulatedIo::new(&network);
        let handlers = handlers_with(&config, options);
        let mut shard = Shard::new(mesh, &config, io, handlers, Arc::clone(&counters), 1, Tick(0).begin());
        let mut other = IoHub::new(other, HubLimits::default(), 1);
        if engine.is_some() {
            shard = shard.with_engine(TestEngine::topics(2));
            other = other.with_engine(TestEngine::topics(2));
        }
        World { shard, counters, network, other, engine, now: Tick(0) }
    }

    /// Returns so many topics whose home is the shard, or the other one.
    pub(super) fn topics(&self, is_near: bool, count: usize) -> Vec<TopicName> {
        let names = (0..).map(|number| TopicName::new(&format!("topic {number}")).expect("a name"));
        names.filter(|name| (self.other.home(name) == 0) == is_near).take(count).collect()
    }

    /// Returns a topic whose home is the shard, or the other one.
    pub(super) fn topic(&self, is_near: bool) -> TopicName {
        self.topics(is_near, 1).remove(0)
    }

    /// Publishes at the topic's home.
    pub(super) fn publish(&mut self, topic: &TopicName, text: &str) {
        let hub = if self.other.home(topic) == 0 { &mut self.shard.hub } else { &mut self.other };
        let published = hub.publish_by_name(topic, None, Publication::text(text), Scope::Server);
        assert!(published.is_some(), "at home");
    }

    /// Adds a client that receives these topics.
    pub(super) fn connect(&mut self, subscriptions: &[&TopicName]) -> ConnectionId {
        let subscriptions = subscriptions.iter().map(|&topic| (topic.clone(), true)).collect();
        self.adopt(subscriptions, None, usize::MAX)
    }

    /// Adds a client that receives a topic and publishes to it, with so much room in its socket, and lets it take the
    /// answer.
    pub(super) fn connect_publisher(
        &mut self,
        topic: &TopicName,
        echo: bool,
        scope: Scope,
        room: usize,
    ) -> ConnectionId {
        let id = self.adopt(vec![(topic.clone(), echo)], Some((topic.clone(), scope)), room);
        self.answer();
        let client = self.network.borrow().lines.len() - 1;
        self.sent(client);
        id
    }

    /// Adds a client, with so much room in its socket.
    pub(super) fn adopt(
        &mut self,
        subscriptions: Vec<(TopicName, bool)>,
        forwards: Option<(TopicName, Scope)>,
        room: usize,
    ) -> ConnectionId {
        let socket = SimulatedSocket::connect(&self.network, ANSWER, room);
        let arrival = arrival(socket, subscriptions, forwards, Bytes::from_static(ANSWER), BytesMut::new());
        self.shard.adopt(self.now.begin(), arrival).expect("there is room")
    }

    /// Lets bytes of a client arrive in one segment.
    pub(super) fn arrive(&mut self, client: usize, bytes: &[u8]) {
        self.network.borrow_mut().lines[client].on_the_way.extend(bytes);
        self.network.borrow_mut().arrive(client, usize::MAX);
        self.turn();
    }

    /// Lets the client's side end.
    pub(super) fn end(&mut self, client: usize, end: End) {
        self.network.borrow_mut().lines[client].end = Some(end);
        self.arrive(client, &[]);
    }

    /// Runs the shard's turns until they leave no work, while the other one stands still.
    pub(super) fn turn(&mut self) {
        while self.shard.turn(self.now.begin()) || self.network.borrow().has_reports() {}
    }

    /// Lets the time pass.
    pub(super) fn pass(&mut self, ticks: u32) {
        self.now = self.now.after(ticks);
        self.turn();
    }

    /// Lets the other shard answer its requests.
    pub(super) fn answer(&mut self) {
        while self.other.take_request(&mut Vec::new()) {}
        self.other.send_out();
        self.turn();
    }

    /// Lets the engine order what has come to it.
    pub(super) fn order(&mut self) {
        let engine = self.engine.as_mut().expect("the world has an engine");
        while engine.work(|_| 1) {}
        engine.end.send_out();
    }

    /// Returns what a client was sent since the last call: the answer, texts, and the codes of close frames.
    pub(super) fn sent(&self, client: usize) -> Vec<String> {
        take_sent(&self.network, client)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.network.borrow_mut().is_over = true;
    }
}

/// The close timeout of a world.
pub(super) const CLOSE_TICKS: u32 = 50;

/// A client's masked close frame with the code 1000.
pub(super) const CLOSE_FRAME: &[u8] = b"\x88\x82\0\0\0\0\x03\xe8";
