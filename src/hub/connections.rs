//! The connections of one shard: slots that are reused, and generations that tell their owners apart.

use std::{collections::VecDeque, fmt, mem};

use super::{
    connection_id::ConnectionId, format::Format, publication::Scope, subscriptions::Subscriptions, topic_id::TopicId,
};

/// The data that the owner of a hub keeps for each connection, in addition to the data that the hub keeps.
pub trait Attachment {
    /// The owner's data for a connection that may be in several walks, because it has several subscriptions. The note
    /// is stored with the subscriptions, so that other connections take no memory for it.
    type Note: fmt::Debug + Default;

    /// Returns the form in which the connection gets publications.
    #[inline]
    fn format(&self) -> Format {
        Format::RAW
    }

    /// Returns whether the connection's protocol still lets messages be sent.
    fn is_open(&self) -> bool;
}

/// No data: the connections of such a hub have no protocol, and are open until they are removed.
impl Attachment for () {
    type Note = ();

    fn is_open(&self) -> bool {
        true
    }
}

/// One established connection.
#[derive(Debug)]
pub struct HubConnection<T: Attachment = ()> {
    /// The data of the hub's owner.
    pub io: T,
    /// The topics that the connection receives.
    pub(super) subscriptions: Subscriptions<T::Note>,
    /// The topic of the client's messages, if they are published as they are. Otherwise the connection's handler gets
    /// them.
    pub publishes: Option<Publishing>,
    /// Whether nothing may be sent to the connection yet: its opening answer waits until all its subscriptions can go
    /// live together. [`ShardHub::release`](super::hub::ShardHub::release) ends the wait.
    pub is_held: bool,
    /// Whether a send to the connection has failed. Its socket takes nothing more, and the connection has no
    /// subscription. The input that has arrived is still handled.
    pub is_lost: bool,
    /// Whether the connection has published a message that another shard orders.
    pub(super) has_published_elsewhere: bool,
    /// The slot's generation.
    generation: u32,
}

/// The target of a client's messages that are published as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publishing {
    /// The topic.
    pub topic: TopicId,
    /// The subscribers that the messages are for.
    pub scope: Scope,
}

impl<T: Attachment> HubConnection<T> {
    /// Returns a connection that has just been established, without topics.
    #[must_use]
    pub fn new(io: T) -> Self {
        HubConnection {
            io,
            subscriptions: Subscriptions::None,
            publishes: None,
            is_held: false,
            is_lost: false,
            has_published_elsewhere: false,
            generation: 0,
        }
    }

    /// Returns whether the connection has several subscriptions, and so may be in several walks. The last subscription
    /// still counts as several while its share of the topic's walk is taken, until that walk passes.
    #[inline]
    #[must_use]
    pub fn has_several(&self) -> bool {
        self.subscriptions.are_several()
    }

    /// Returns whether messages may be sent to the connection: its protocol lets them, and its socket has not failed.
    #[inline]
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.io.is_open() && !self.is_lost
    }

    /// Returns the note of a connection with several subscriptions.
    pub fn note(&mut self) -> Option<&mut T::Note> {
        self.subscriptions.note()
    }
}

/// The connections of one shard.
#[derive(Debug)]
pub struct Connections<T: Attachment = ()> {
    shard: u16,
    slots: Vec<Slot<T>>,
    /// Slots without an owner; the slot that has been free for longest is used first.
    free: VecDeque<u32>,
    /// How many free slots rest before one is used again, as long as the table may grow. Without this rest, a few
    /// clients that come and go would all get the same slot, and would use up its generations within hours.
    resting: usize,
}

#[derive(Debug)]
enum Slot<T: Attachment> {
    /// The slot has no owner; the next owner gets this generation.
    Free { generation: u32 },
    /// The slot has an owner, which holds the generation: a field next to the owner would make the slot larger.
    Taken(HubConnection<T>),
}

impl<T: Attachment> Connections<T> {
    /// Bytes that each connection takes in the table.
    pub const SLOT_BYTES: usize = size_of::<Slot<T>>();

    /// Returns the empty table of a shard.
    #[must_use]
    pub fn new(shard: u16) -> Self {
        Connections { shard, slots: Vec::new(), free: VecDeque::new(), resting: RESTING }
    }

    /// Lets `count` slots rest before one is used again.
    #[cfg(test)]
    pub fn let_rest(&mut self, count: usize) {
        self.resting = count;
    }

    /// Returns how many connections there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Returns how many slots there are, with those that are free.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.slots.len() as u32
    }

    /// Returns whether there is no connection.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a connection and returns its id.
    ///
    /// # Errors
    ///
    /// Returns the connection if all [`ConnectionId::SLOTS_MAX`] slots are taken.
    pub fn insert(&mut self, mut connection: HubConnection<T>) -> Result<ConnectionId, Box<HubConnection<T>>> {
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

    /// Removes a connection. Its id is invalid from now on.
    pub fn remove(&mut self, id: ConnectionId) -> Option<HubConnection<T>> {
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
    pub fn get(&self, id: ConnectionId) -> Option<&HubConnection<T>> {
        match self.slots.get(id.slot() as usize)? {
            Slot::Taken(owner) if id.shard() == self.shard && owner.generation == id.generation() => Some(owner),
            _ => None,
        }
    }

    /// Returns the connection, if it still exists.
    pub fn get_mut(&mut self, id: ConnectionId) -> Option<&mut HubConnection<T>> {
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

    /// Returns the slot's present owner. The slot must be that of a topic's member: members leave before their slots
    /// get other owners.
    pub fn at_mut(&mut self, slot: u32) -> Option<&mut HubConnection<T>> {
        match self.slots.get_mut(slot as usize)? {
            Slot::Taken(owner) => Some(owner),
            Slot::Free { .. } => None,
        }
    }

    /// Returns the id with this slot and generation. Its connection may have ended.
    #[must_use]
    pub fn name(&self, slot: u32, generation: u32) -> ConnectionId {
        ConnectionId::new(self.shard, slot, generation)
    }

    /// Returns the ids of all connections, by slot.
    pub fn ids(&self) -> impl Iterator<Item = ConnectionId> + '_ {
        (0..self.slots.len() as u32).filter_map(|slot| self.id_at(slot))
    }
}

/// Slots that rest before one is used again. With a thousand new connections a second an id then comes back after half
/// a year; the slots themselves stay in the CPU's nearest caches.
const RESTING: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    fn connection() -> HubConnection {
        HubConnection::new(())
    }

    /// An owner's data, in which a test opens and closes the protocol.
    #[derive(Debug)]
    struct Protocol {
        is_open: bool,
    }

    impl Attachment for Protocol {
        type Note = ();

        fn is_open(&self) -> bool {
            self.is_open
        }
    }

    #[test]
    fn a_connection_is_open_while_its_protocol_is_and_its_socket_has_not_failed() {
        let mut connection = HubConnection::new(Protocol { is_open: true });
        assert!(connection.is_open());
        connection.is_lost = true;
        assert!(!connection.is_open());
        connection.is_lost = false;
        connection.io.is_open = false;
        assert!(!connection.is_open());
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

    /// A client that comes again and again: a slot rests until a thousand others have been used.
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
}
