//! A shard whose clients publish to one topic, for tests that choose the actions themselves.

use std::{cell::RefCell, mem, rc::Rc, sync::Arc};

use bytes::{Bytes, BytesMut};

use super::{
    network::{Network, Weather},
    random::Random,
    simulation::{arrival, handlers},
    socket::{SimulatedIo, SimulatedSocket},
    tally::Offered,
};
use crate::{
    config::{Config, Settings},
    hub::{ConnectionId, MeshEnd, Scope, TopicName},
    metrics::{Counter, Counters},
    proto::{FrameHeader, OpCode, Tick},
    shard::state::Shard,
};

/// A shard whose clients publish to one topic.
pub(super) struct World {
    pub(super) shard: Shard<SimulatedIo>,
    pub(super) counters: Arc<Counters>,
    pub(super) network: Rc<RefCell<Network>>,
}

impl World {
    /// Returns a shard with so many clients that publish, and no subscribers.
    pub(super) fn new(clients: usize) -> Self {
        Self::with_subscribers(clients, 0, 0)
    }

    /// Returns a shard with so many clients that publish, and then so many subscribers, each with so much room in its
    /// socket.
    pub(super) fn with_subscribers(clients: usize, subscribers: usize, room: usize) -> Self {
        let mut world = Self::without_clients(|_| {});
        for client in 0..clients + subscribers {
            let subscribes = client >= clients;
            world.connect(if subscribes { room } else { usize::MAX }, subscribes);
        }
        while world.shard.turn(Tick(0).begin()) {}
        world.network.borrow_mut().offered = Offered::default();
        world
    }

    /// Returns a shard without clients, whose settings are the defaults after `change`.
    pub(super) fn without_clients(change: impl FnOnce(&mut Config)) -> Self {
        Self::with_shard(change, |shard| shard)
    }

    /// Returns a shard without clients, whose settings are the defaults after `change`, and that `complete` completes.
    pub(super) fn with_shard(
        change: impl FnOnce(&mut Config),
        complete: impl FnOnce(Shard<SimulatedIo>) -> Shard<SimulatedIo>,
    ) -> Self {
        Self::at(MeshEnd::alone(), change, complete)
    }

    /// Returns the same at an end of a mesh.
    pub(super) fn at(
        mesh: MeshEnd,
        change: impl FnOnce(&mut Config),
        complete: impl FnOnce(Shard<SimulatedIo>) -> Shard<SimulatedIo>,
    ) -> Self {
        let mut config = Config::new(&Settings::default(), 20_000).expect("the defaults");
        change(&mut config);
        let network = Rc::new(RefCell::new(Network::new(Random::new(0), Weather::FAIR)));
        let counters = Arc::new(Counters::default());
        let io = SimulatedIo::new(&network);
        let handlers = handlers(&config);
        let shard = Shard::new(mesh, &config, io, handlers, Arc::clone(&counters), 1, Tick(0).begin());
        World { shard: complete(shard), counters, network }
    }

    /// Adds a client with so much room in its socket.
    pub(super) fn connect(&mut self, room: usize, subscribes: bool) -> ConnectionId {
        let topic = TopicName::new("t").expect("a name");
        let socket = SimulatedSocket::connect(&self.network, ANSWER, room);
        let subscriptions = if subscribes { vec![(topic.clone(), true)] } else { Vec::new() };
        let forwards = Some((topic, Scope::Server));
        let arrival = arrival(socket, subscriptions, forwards, Bytes::from_static(ANSWER), BytesMut::new());
        self.shard.adopt(Tick(0).begin(), arrival).expect("there is room")
    }

    /// Adds a client that receives these topics, with so much room in its socket.
    pub(super) fn connect_to(&mut self, topics: &[TopicName], room: usize) -> ConnectionId {
        let socket = SimulatedSocket::connect(&self.network, ANSWER, room);
        let subscriptions = topics.iter().map(|topic| (topic.clone(), true)).collect();
        let arrival = arrival(socket, subscriptions, None, Bytes::from_static(ANSWER), BytesMut::new());
        self.shard.adopt(Tick(0).begin(), arrival).expect("there is room")
    }

    /// Lets so many frames of the client arrive.
    pub(super) fn arrive(&self, client: usize, frame: &[u8], count: usize) {
        let mut network = self.network.borrow_mut();
        network.lines[client].on_the_way.extend(frame.repeat(count));
        network.arrive(client, usize::MAX);
    }

    /// Runs a turn. Returns how many messages it has taken.
    pub(super) fn turn(&mut self) -> u64 {
        let before = self.counters.get(Counter::MessagesIn);
        self.shard.turn(Tick(0).begin());
        self.counters.get(Counter::MessagesIn) - before
    }

    /// Runs turns until they leave no work. Checks that each turn sends at most a flush's portion.
    pub(super) fn turns(&mut self) {
        let mut more = true;
        while more {
            more = self.shard.turn(Tick(0).begin()) || self.network.borrow().has_reports();
            let offered = mem::take(&mut self.network.borrow_mut().offered);
            assert!(offered.is_within(&self.shard.pace), "{offered:?} in a turn");
        }
    }

    /// Returns how many bytes the client was sent since the last call.
    pub(super) fn sent(&self, client: usize) -> usize {
        let mut network = self.network.borrow_mut();
        let count = network.lines[client].sent.len();
        network.fetch(client, count);
        network.lines[client].fetched.clear();
        count
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.network.borrow_mut().is_over = true;
    }
}

/// Takes what a client was sent since the last call: `answer`, texts, and the codes of close frames. The beginning of a
/// frame is left for the next call.
pub(super) fn take_sent(network: &RefCell<Network>, client: usize) -> Vec<String> {
    network.borrow_mut().fetch(client, usize::MAX);
    take_fetched(network, client)
}

/// Takes what a client has fetched, as [`take_sent`] does.
pub(super) fn take_fetched(network: &RefCell<Network>, client: usize) -> Vec<String> {
    let mut network = network.borrow_mut();
    let fetched = &mut network.lines[client].fetched;
    if fetched.len() < ANSWER.len() && ANSWER.starts_with(fetched) {
        return Vec::new();
    }
    let (mut sent, mut rest) = (Vec::new(), &fetched[..]);
    if let Some(behind) = rest.strip_prefix(ANSWER) {
        sent.push("answer".to_owned());
        rest = behind;
    }
    let frames = for_each_frame(rest, |opcode, payload| {
        sent.push(match opcode {
            OpCode::Close => format!("close {}", u16::from_be_bytes([payload[0], payload[1]])),
            _ => String::from_utf8_lossy(payload).into_owned(),
        });
    });
    *fetched = rest[frames..].to_vec();
    sent
}

/// Calls `visit` with each whole frame at the beginning of these bytes. Returns the length of these frames.
pub(super) fn for_each_frame(bytes: &[u8], mut visit: impl FnMut(OpCode, &[u8])) -> usize {
    let mut begin = 0;
    while let Some((header, length)) = FrameHeader::decode(&bytes[begin..]).expect("a frame")
        && let Some(payload) = bytes[begin + length..].get(..header.payload_len as usize)
    {
        visit(header.opcode, payload);
        begin += length + payload.len();
    }
    begin
}

pub(super) const ANSWER: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\n\r\n";
pub(super) const EMPTY_MESSAGE: &[u8] = b"\x82\x80\0\0\0\0";
pub(super) const PING: &[u8] = b"\x89\x80\0\0\0\0";
pub(super) const PONG: &[u8] = b"\x8a\x80\0\0\0\0";
