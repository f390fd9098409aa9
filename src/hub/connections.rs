//! Connections by id: slots that are reused, and generations that tell their owners apart.

use std::{collections::VecDeque, fmt, str::FromStr};

use bytes::BytesMut;

use super::{Backlog, Door, Scope, TopicId, subscriptions::Subscriptions};
use crate::proto::{Tick, WebSocket};

/// Names one connection of the whole hub: the shard that owns it, its slot there, and which of the slot's owners is
/// meant. An id is not used again until its slot has had 16 million other owners.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(u64);

impl ConnectionId {
    /// The largest number of connections of a shard.
    pub const SLOTS_MAX: u32 = 1 << 24;
    const GENERATIONS: u32 = 1 << 24;

    /// Puts an id together.
    ///
    /// # Panics
    ///
    /// If slot or generation have more than 24 bits.
    #[must_use]
    pub fn new(shard: u16, slot: u32, generation: u32) -> Self {
        assert!(slot < Self::SLOTS_MAX && generation < Self::GENERATIONS, "a connection id has 24 bits for each");
        ConnectionId(u64::from(shard) << 48 | u64::from(generation) << 24 | u64::from(slot))
    }

    /// The shard that owns the connection.
    #[must_use]
    pub fn shard(self) -> u16 {
        (self.0 >> 48) as u16
    }

    /// Its slot in that shard.
    #[must_use]
    pub fn slot(self) -> u32 {
        self.0 as u32 & (Self::SLOTS_MAX - 1)
    }

    /// Which of the slot's owners it is.
    #[must_use]
    pub fn generation(self) -> u32 {
        (self.0 >> 24) as u32 & (Self::GENERATIONS - 1)
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.shard(), self.slot(), self.generation())
    }
}

impl fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnectionId({self})")
    }
}

/// An id as it is written, such as `0.17.2`.
///
/// ```
/// use ringhub::ConnectionId;
/// assert_eq!("0.17.2".parse(), Ok(ConnectionId::new(0, 17, 2)));
/// assert!("0.17".parse::<ConnectionId>().is_err());
/// ```
impl FromStr for ConnectionId {
    type Err = ConnectionIdError;

    fn from_str(text: &str) -> Result<Self, ConnectionIdError> {
        let mut numbers = text.split('.').map(number);
        let mut next = || numbers.next().flatten().ok_or(ConnectionIdError);
        let (shard, slot, generation) = (next()?, next()?, next()?);
        let shard = u16::try_from(shard).map_err(|_| ConnectionIdError)?;
        if slot >= Self::SLOTS_MAX || generation >= Self::GENERATIONS || numbers.next().is_some() {
            return Err(ConnectionIdError);
        }
        Ok(ConnectionId::new(shard, slot, generation))
    }
}

/// Digits only: `u32::from_str` would take a sign.
fn number(text: &str) -> Option<u32> {
    text.bytes().all(|octet| octet.is_ascii_digit()).then(|| text.parse().ok())?
}

/// Text that is no [`ConnectionId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionIdError;

impl fmt::Display for ConnectionIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a connection's id is three numbers with dots between them, such as 0.17.2")
    }
}

impl std::error::Error for ConnectionIdError {}

/// One established connection. While it is idle it owns nothing outside this struct.
#[derive(Debug)]
pub struct Connection {
    /// The protocol's state.
    pub websocket: WebSocket,
    /// The beginning of a frame that has not arrived whole, or input that is not parsed to its end.
    pub partial: Option<Box<BytesMut>>,
    /// What waits to be sent to this connection alone, and what it is still owed.
    pub output: Option<Box<Output>>,
    /// The topics it receives.
    pub(super) subscriptions: Subscriptions,
    /// Where its client's messages go. If nowhere, one closes the connection with 1008.
    pub publishes: Option<Publishing>,
    /// Nothing may be sent to it yet: its opening answer waits until all that it subscribes to can go live, which they
    /// do together. [`Hub::release`](super::Hub::release) ends this.
    pub is_held: bool,
    /// Whether it is received from.
    pub reading: Reading,
    /// Has input that was received and is not parsed to its end.
    pub has_unparsed: bool,
    /// Stands in the shard's list of connections with something in their outbox.
    pub is_dirty: bool,
    /// The peer has finished or the socket has failed: receive until the end shows.
    pub hung_up: bool,
    /// The peer's end of input has been received.
    pub peer_done: bool,
    /// Our side of the socket has been finished; only the peer's end is awaited.
    pub is_finished: bool,
    /// A backlog waits for room in the socket, or for memory of the kernel's.
    pub awaits_room: bool,
    /// When the timer wheel looks at it next.
    pub timer: Option<Tick>,
    /// When it is dropped, whatever the peer does. Set when it leaves the open state.
    pub ends_by: Option<Tick>,
}

/// Whether a connection is received from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// Its socket has reported nothing since it was last received from.
    Idle,
    /// It stands in one of the shard's queues of connections to receive from.
    Queued,
    /// It is not received from until it has taken some of what it is owed.
    Parked,
}

/// Where a client's messages go as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publishing {
    /// To this topic.
    pub topic: TopicId,
    /// To these of its subscribers.
    pub scope: Scope,
}

/// What a connection that is not on the fast path owns.
#[derive(Debug, Default)]
pub struct Output {
    /// Frames for this connection alone, in whole: the opening answer, pongs, closes. Leaves with the next flush.
    pub outbox: Vec<u8>,
    /// What the socket did not take.
    pub backlog: Backlog,
    /// Room was reported for the backlog, and none of it has been offered since.
    pub found_room: bool,
    /// Whether the peer takes any of the backlog is being watched.
    pub watch: Option<Watch>,
}

/// What a peer has taken of a backlog since when.
#[derive(Debug, Clone, Copy)]
pub struct Watch {
    /// When the watch began.
    pub since: Tick,
    /// What the peer had yet to take of what its socket held then.
    held: usize,
    /// What the socket has taken of the backlog since.
    sent: usize,
}

impl Watch {
    /// Begins a watch over a peer whose socket holds so many bytes.
    #[must_use]
    pub fn new(since: Tick, held: usize) -> Self {
        Watch { since, held, sent: 0 }
    }

    /// Returns whether the peer, whose socket now holds so many bytes, has taken any, or all there is to take.
    #[must_use]
    pub fn sees_progress(&self, held: usize) -> bool {
        held == 0 || held < self.held + self.sent
    }
}

impl Output {
    /// Marks the next `count` bytes of the backlog as sent.
    ///
    /// # Panics
    ///
    /// If there are fewer.
    pub fn advance(&mut self, count: usize) {
        self.backlog.advance(count);
        if let Some(watch) = &mut self.watch {
            watch.sent += count;
        }
    }

    /// Appends frames for this connection alone.
    pub fn append(&mut self, frames: &[u8]) {
        let length = self.outbox.len();
        if self.outbox.capacity() - length < frames.len() {
            // What is kept counts with its unused part: much does not double.
            let part = if length < OUTBOX_DOUBLES { length } else { length / 8 };
            self.outbox.reserve_exact(frames.len().max(part));
        }
        self.outbox.extend_from_slice(frames);
    }

    /// Returns whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.outbox.is_empty() && self.backlog.is_empty()
    }

    /// The memory of all that waits, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.backlog.bytes() + self.outbox.capacity()
    }

    /// Returns whether so many bytes more would be within a limit. A limit of two messages allows two messages.
    #[must_use]
    pub fn has_room_for(&self, more: usize, bytes_max: usize) -> bool {
        self.bytes().saturating_add(more) <= bytes_max.saturating_add(Backlog::BESIDES)
    }
}

/// An outbox doubles up to so many bytes.
const OUTBOX_DOUBLES: usize = 4 * 1_024;

impl Connection {
    /// A connection that has just been established: without topics.
    #[must_use]
    pub fn new(websocket: WebSocket) -> Self {
        Connection {
            websocket,
            partial: None,
            output: None,
            subscriptions: Subscriptions::None,
            publishes: None,
            is_held: false,
            reading: Reading::Idle,
            has_unparsed: false,
            is_dirty: false,
            hung_up: false,
            is_finished: false,
            awaits_room: false,
            peer_done: false,
            timer: None,
            ends_by: None,
        }
    }

    /// Is anything still to be sent to it?
    #[must_use]
    pub fn owes_output(&self) -> bool {
        self.output.is_some()
    }

    /// Does it have a backlog?
    #[must_use]
    pub fn is_laggard(&self) -> bool {
        self.output.as_ref().is_some_and(|output| !output.backlog.is_empty())
    }

    /// Returns whether its socket has refused some of what it is owed, and the rest waits for its peer.
    #[must_use]
    pub fn awaits_peer(&self) -> bool {
        self.output.as_ref().is_some_and(|output| output.backlog.was_refused())
    }

    /// The entry of a batch that it leaves by, if it may be in several walks of one.
    pub fn door(&mut self) -> Option<&mut Door> {
        self.subscriptions.door()
    }

    /// Gives up the output's memory once nothing is in it.
    pub fn drop_empty_output(&mut self) {
        if self.output.as_ref().is_some_and(|output| output.is_empty()) {
            self.output = None;
        }
    }
}

/// The connections of one shard.
#[derive(Debug)]
pub struct Connections {
    shard: u16,
    slots: Vec<Slot>,
    /// Slots without an owner; the one that was left first is used again first.
    free: VecDeque<u32>,
    /// So many of them rest before one is used again, as long as there may be more slots: on a server with few clients
    /// that come and go one slot would have all of them, and be through with its generations within hours.
    resting: usize,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    connection: Option<Connection>,
}

const _: () = assert!(size_of::<Slot>() == 112, "ARCHITECTURE.md adds up what an idle connection costs");

impl Connections {
    /// No connections yet.
    #[must_use]
    pub fn new(shard: u16) -> Self {
        Connections { shard, slots: Vec::new(), free: VecDeque::new(), resting: RESTING }
    }

    /// Lets `count` slots rest before one is used again.
    #[cfg(test)]
    pub fn let_rest(&mut self, count: usize) {
        self.resting = count;
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Are there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes in a connection and names it.
    ///
    /// # Errors
    ///
    /// Gives the connection back if all [`ConnectionId::SLOTS_MAX`] slots are taken.
    pub fn insert(&mut self, connection: Connection) -> Result<ConnectionId, Box<Connection>> {
        let may_grow = (self.slots.len() as u32) < ConnectionId::SLOTS_MAX;
        let slot = if self.free.len() <= self.resting && may_grow {
            self.slots.push(Slot { generation: 0, connection: None });
            self.slots.len() as u32 - 1
        } else if let Some(slot) = self.free.pop_front() {
            slot
        } else {
            return Err(Box::new(connection));
        };
        let entry = &mut self.slots[slot as usize];
        entry.connection = Some(connection);
        Ok(ConnectionId::new(self.shard, slot, entry.generation))
    }

    /// Takes a connection out. Its id means nothing from now on.
    pub fn remove(&mut self, id: ConnectionId) -> Option<Connection> {
        let shard = self.shard;
        let slot = self.slots.get_mut(id.slot() as usize)?;
        if id.shard() != shard || slot.generation != id.generation() {
            return None;
        }
        let connection = slot.connection.take()?;
        slot.generation = (slot.generation + 1) % ConnectionId::GENERATIONS;
        self.free.push_back(id.slot());
        Some(connection)
    }

    /// The connection, if it still exists.
    #[must_use]
    pub fn get(&self, id: ConnectionId) -> Option<&Connection> {
        let slot = self.slots.get(id.slot() as usize)?;
        (id.shard() == self.shard && slot.generation == id.generation()).then_some(slot.connection.as_ref()).flatten()
    }

    /// The connection, if it still exists.
    pub fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        let slot = self.slots.get_mut(id.slot() as usize)?;
        (id.shard() == self.shard && slot.generation == id.generation()).then_some(slot.connection.as_mut()).flatten()
    }

    /// The id of the slot's present owner.
    #[must_use]
    pub fn id_at(&self, slot: u32) -> Option<ConnectionId> {
        let entry = self.slots.get(slot as usize)?;
        entry.connection.as_ref()?;
        Some(ConnectionId::new(self.shard, slot, entry.generation))
    }

    /// The slot's present owner. For those whose entry ends with the connection: topics.
    pub fn at_mut(&mut self, slot: u32) -> Option<&mut Connection> {
        self.slots.get_mut(slot as usize)?.connection.as_mut()
    }

    /// The id made of a slot and a generation, whether it still exists or not.
    #[must_use]
    pub fn name(&self, slot: u32, generation: u32) -> ConnectionId {
        ConnectionId::new(self.shard, slot, generation)
    }

    /// The ids of all connections, by slot.
    pub fn ids(&self) -> impl Iterator<Item = ConnectionId> + '_ {
        (0..self.slots.len() as u32).filter_map(|slot| self.id_at(slot))
    }
}

/// Slots that rest before one is used again. With a thousand new connections a second an id then comes back after half
/// a year; the slots themselves stay in the nearest caches.
const RESTING: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{hub::Piece, proto::Role};

    fn connection() -> Connection {
        Connection::new(WebSocket::new(Role::Server, Tick(0)))
    }

    #[test]
    fn ids_are_read_as_they_are_written() {
        let last = ConnectionId::new(u16::MAX, ConnectionId::SLOTS_MAX - 1, ConnectionId::GENERATIONS - 1);
        for id in [ConnectionId::new(0, 0, 0), ConnectionId::new(1, 2, 3), last] {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        for no_id in
            ["", "1", "1.2", "1.2.3.4", "1.2.", "1.+2.3", "1. 2.3", "65536.0.0", "0.16777216.0", "0.0.16777216"]
        {
            assert_eq!(no_id.parse::<ConnectionId>(), Err(ConnectionIdError), "{no_id:?}");
        }
    }

    /// What the socket takes is no progress of the peer, only what leaves the socket.
    #[test]
    fn a_watch_sees_what_the_peer_takes() {
        let mut output = Output::default();
        output.backlog.push(Piece::new(vec![0; 1_000].into(), 1));
        output.watch = Some(Watch::new(Tick(5), 100));
        let sees_progress = |output: &Output, held| output.watch.unwrap().sees_progress(held);
        assert!(!sees_progress(&output, 100));
        assert!(sees_progress(&output, 99) && sees_progress(&output, 0));
        output.advance(30);
        assert!(!sees_progress(&output, 130));
        assert!(sees_progress(&output, 129) && sees_progress(&output, 100));
        assert!(sees_progress(&Output { watch: Some(Watch::new(Tick(5), 0)), ..Output::default() }, 0));
    }

    #[test]
    fn an_id_names_one_owner_of_a_slot() {
        let mut connections = Connections::new(3);
        connections.let_rest(0);
        let first = connections.insert(connection()).unwrap();
        assert!(connections.remove(first).is_some());
        let second = connections.insert(connection()).unwrap();
        assert_eq!(first.slot(), second.slot());
        assert_ne!(first, second);
        assert!(connections.get(first).is_none());
        assert!(connections.get_mut(first).is_none());
        assert!(connections.remove(first).is_none());
        assert!(connections.get(second).is_some());
        assert_eq!(connections.len(), 1);
        assert_eq!(connections.ids().collect::<Vec<_>>(), [second]);
    }

    /// One client that comes again and again: a slot rests until a thousand others have been used.
    #[test]
    fn slots_are_used_in_turn() {
        let mut connections = Connections::new(0);
        let mut ids = Vec::new();
        for _ in 0..3 * (RESTING + 1) {
            let id = connections.insert(connection()).unwrap();
            connections.remove(id).unwrap();
            ids.push(id);
        }
        for (number, id) in ids.iter().enumerate() {
            let (slot, generation) = (number % (RESTING + 1), number / (RESTING + 1));
            assert_eq!((id.slot() as usize, id.generation() as usize), (slot, generation), "connection {number}");
        }
        assert_eq!(connections.len(), 0);
    }

    #[test]
    fn another_shards_id_is_not_ours() {
        let mut connections = Connections::new(3);
        let ours = connections.insert(connection()).unwrap();
        let theirs = ConnectionId::new(4, ours.slot(), ours.generation());
        assert!(connections.get(theirs).is_none());
        assert!(connections.remove(theirs).is_none());
    }

    #[test]
    fn an_id_keeps_its_parts() {
        let id = ConnectionId::new(65_535, ConnectionId::SLOTS_MAX - 1, 5);
        assert_eq!((id.shard(), id.slot(), id.generation()), (65_535, ConnectionId::SLOTS_MAX - 1, 5));
        assert_eq!(id.to_string(), "65535.16777215.5");
    }
}
