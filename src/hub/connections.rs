//! Connections by id: slots that are reused, and generations that tell their owners apart.

use std::{collections::VecDeque, fmt, mem, str::FromStr};

use super::{Scope, TopicId, subscriptions::Subscriptions};
use crate::proto::WebSocket;

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

/// What the owner of a [`Hub`](super::Hub) keeps of each connection, beside what the hub itself knows.
pub trait Attachment {
    /// What the owner keeps of a connection with several subscriptions, which may be in several walks at a time. It
    /// stands beside them, so that other connections have no memory of it.
    type Mark: fmt::Debug + Default;
}

impl Attachment for () {
    type Mark = ();
}

/// One established connection.
#[derive(Debug)]
pub struct Connection<T: Attachment = ()> {
    /// The protocol's state.
    pub websocket: WebSocket,
    /// What the hub's owner keeps of it.
    pub io: T,
    /// The topics it receives.
    pub(super) subscriptions: Subscriptions<T::Mark>,
    /// Where its client's messages go as they are. Without it they are its handler's.
    pub publishes: Option<Publishing>,
    /// Nothing may be sent to it yet: its opening answer waits until all that it subscribes to can go live, which they
    /// do together. [`Hub::release`](super::Hub::release) ends this.
    pub is_held: bool,
    /// Which of its slot's owners it is.
    generation: u32,
}

/// Where a client's messages go as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publishing {
    /// To this topic.
    pub topic: TopicId,
    /// To these of its subscribers.
    pub scope: Scope,
}

impl<T: Attachment> Connection<T> {
    /// Returns a connection that has just been established, without topics.
    #[must_use]
    pub fn new(websocket: WebSocket, io: T) -> Self {
        Connection { websocket, io, subscriptions: Subscriptions::None, publishes: None, is_held: false, generation: 0 }
    }

    /// Returns the mark of a connection with several subscriptions.
    pub fn mark(&mut self) -> Option<&mut T::Mark> {
        self.subscriptions.mark()
    }
}

/// The connections of one shard.
#[derive(Debug)]
pub struct Connections<T: Attachment = ()> {
    shard: u16,
    slots: Vec<Slot<T>>,
    /// Slots without an owner; the one that was left first is used again first.
    free: VecDeque<u32>,
    /// So many of them rest before one is used again, as long as there may be more slots: on a server with few clients
    /// that come and go one slot would have all of them, and be through with its generations within hours.
    resting: usize,
}

#[derive(Debug)]
enum Slot<T: Attachment> {
    /// Waits for an owner of this generation.
    Free { generation: u32 },
    /// Has an owner, which knows its generation: a field beside it would make the slot larger.
    Taken(Connection<T>),
}

impl<T: Attachment> Connections<T> {
    /// What each connection takes here, in bytes.
    pub const SLOT_BYTES: usize = size_of::<Slot<T>>();

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
    pub fn insert(&mut self, mut connection: Connection<T>) -> Result<ConnectionId, Box<Connection<T>>> {
        let may_grow = (self.slots.len() as u32) < ConnectionId::SLOTS_MAX;
        let slot = if self.free.len() <= self.resting && may_grow {
            self.slots.push(Slot::Free { generation: 0 });
            self.slots.len() as u32 - 1
        } else if let Some(slot) = self.free.pop_front() {
            slot
        } else {
            return Err(Box::new(connection));
        };
        let entry = &mut self.slots[slot as usize];
        let Slot::Free { generation } = *entry else { unreachable!("a slot in the list of free ones has no owner") };
        connection.generation = generation;
        *entry = Slot::Taken(connection);
        Ok(ConnectionId::new(self.shard, slot, generation))
    }

    /// Takes a connection out. Its id means nothing from now on.
    pub fn remove(&mut self, id: ConnectionId) -> Option<Connection<T>> {
        self.get(id)?;
        let generation = (id.generation() + 1) % ConnectionId::GENERATIONS;
        let taken = mem::replace(&mut self.slots[id.slot() as usize], Slot::Free { generation });
        self.free.push_back(id.slot());
        match taken {
            Slot::Taken(connection) => Some(connection),
            Slot::Free { .. } => None,
        }
    }

    /// Returns the connection, if it still exists.
    #[must_use]
    pub fn get(&self, id: ConnectionId) -> Option<&Connection<T>> {
        match self.slots.get(id.slot() as usize)? {
            Slot::Taken(owner) if id.shard() == self.shard && owner.generation == id.generation() => Some(owner),
            _ => None,
        }
    }

    /// Returns the connection, if it still exists.
    pub fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Connection<T>> {
        match self.slots.get_mut(id.slot() as usize)? {
            Slot::Taken(owner) if id.shard() == self.shard && owner.generation == id.generation() => Some(owner),
            _ => None,
        }
    }

    /// Returns the id of the slot's present owner.
    #[must_use]
    pub fn id_at(&self, slot: u32) -> Option<ConnectionId> {
        match self.slots.get(slot as usize)? {
            Slot::Taken(owner) => Some(ConnectionId::new(self.shard, slot, owner.generation)),
            Slot::Free { .. } => None,
        }
    }

    /// Returns the slot's present owner, for topics, whose entry of a slot ends with its connection.
    pub fn at_mut(&mut self, slot: u32) -> Option<&mut Connection<T>> {
        match self.slots.get_mut(slot as usize)? {
            Slot::Taken(owner) => Some(owner),
            Slot::Free { .. } => None,
        }
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
    use crate::proto::{Role, Tick};

    fn connection() -> Connection {
        Connection::new(WebSocket::new(Role::Server, Tick(0)), ())
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
