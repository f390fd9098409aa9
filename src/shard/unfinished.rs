//! Messages whose end has not arrived: the memory that they hold, and the time since they began.

use std::collections::{BTreeMap, HashMap};

use crate::{hub::ConnectionId, proto::Tick};

/// The messages under way of all connections of a shard. A connection without one costs nothing here.
#[derive(Debug, Default)]
pub(super) struct Unfinished {
    begun: HashMap<ConnectionId, Begun>,
    /// The same connections in the order in which their messages began.
    order: BTreeMap<u64, ConnectionId>,
    bytes: usize,
    /// The number of messages that have ever begun.
    count: u64,
}

/// One connection's message under way.
#[derive(Debug)]
struct Begun {
    /// The message's place among all that have ever begun.
    number: u64,
    /// When the message began, later by the time in which it was paused.
    since: Tick,
    /// The time since which the connection's input has not been parsed, for reasons that are not the client's.
    paused: Option<Tick>,
    bytes: usize,
}

impl Unfinished {
    /// Notes that a message holds so many bytes of buffers, and that its input is parsed. Returns whether its deadline
    /// is new.
    pub(super) fn note(&mut self, id: ConnectionId, bytes: usize, now: Tick) -> bool {
        let bytes = bytes + ENTRY;
        self.bytes += bytes;
        match self.begun.get_mut(&id) {
            Some(begun) => {
                self.bytes -= begun.bytes;
                begun.bytes = bytes;
                begun.resume(now)
            }
            None => {
                self.begun.insert(id, Begun { number: self.count, since: now, paused: None, bytes });
                self.order.insert(self.count, id);
                self.count += 1;
                true
            }
        }
    }

    /// Notes that the connection has no message under way any more.
    #[inline]
    pub(super) fn forget(&mut self, id: ConnectionId) {
        if !self.begun.is_empty()
            && let Some(begun) = self.begun.remove(&id)
        {
            self.bytes -= begun.bytes;
            self.order.remove(&begun.number);
            if self.begun.is_empty() {
                // A crowd's table is not kept.
                self.begun.shrink_to(TABLE_KEPT);
            }
        }
    }

    /// Stops the time of the connection's message: its input is not parsed.
    pub(super) fn pause(&mut self, id: ConnectionId, now: Tick) {
        if let Some(begun) = self.begun.get_mut(&id) {
            begun.paused.get_or_insert(now);
        }
    }

    /// Lets the time of the connection's message go on. Returns whether it had been stopped.
    pub(super) fn resume(&mut self, id: ConnectionId, now: Tick) -> bool {
        self.begun.get_mut(&id).is_some_and(|begun| begun.resume(now))
    }

    /// Returns when the connection's message under way began, unless its time has been stopped.
    pub(super) fn since(&self, id: ConnectionId) -> Option<Tick> {
        self.begun.get(&id).filter(|begun| begun.paused.is_none()).map(|begun| begun.since)
    }

    /// Returns the connection whose message has been under way for the longest time.
    pub(super) fn oldest(&self) -> Option<ConnectionId> {
        self.order.first_key_value().map(|(_, &id)| id)
    }

    /// Returns the bytes that all messages under way hold, their entries here included.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Begun {
    /// Takes off the time in which the message was paused. Returns whether it was.
    fn resume(&mut self, now: Tick) -> bool {
        let Some(paused) = self.paused.take() else { return false };
        self.since = self.since.after(now.since(paused));
        true
    }
}

/// Bytes of an entry: its places in the table and in the order, both of which are at least half full.
const ENTRY: usize = 2 * (size_of::<(ConnectionId, Begun)>() + 1) + 2 * size_of::<(u64, ConnectionId)>();

/// Entries that an empty table has room for.
const TABLE_KEPT: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn id(slot: u32) -> ConnectionId {
        ConnectionId::new(0, slot, 0)
    }

    #[test]
    fn a_message_counts_from_its_first_byte_with_what_it_holds_now() {
        let mut unfinished = Unfinished::default();
        assert!(unfinished.note(id(1), 100, Tick(5)));
        assert!(!unfinished.note(id(1), 40, Tick(7)));
        assert!(unfinished.note(id(2), 0, Tick(8)));
        assert_eq!((unfinished.bytes(), unfinished.since(id(1))), (40 + 2 * ENTRY, Some(Tick(5))));
        unfinished.forget(id(1));
        unfinished.forget(id(1));
        assert_eq!((unfinished.bytes(), unfinished.since(id(1))), (ENTRY, None));
    }

    /// Input of the client in the meantime does not begin the message's time anew.
    #[test]
    fn only_the_time_of_a_pause_is_given() {
        let mut unfinished = Unfinished::default();
        unfinished.note(id(1), 100, Tick(5));
        unfinished.pause(id(1), Tick(10));
        unfinished.pause(id(1), Tick(12));
        assert_eq!(unfinished.since(id(1)), None);
        assert!(unfinished.note(id(1), 100, Tick(17)), "its deadline has moved");
        assert_eq!(unfinished.since(id(1)), Some(Tick(12)));
        unfinished.pause(id(1), Tick(20));
        assert!(unfinished.resume(id(1), Tick(21)));
        assert!(!unfinished.resume(id(1), Tick(30)));
        assert_eq!(unfinished.since(id(1)), Some(Tick(13)));
    }

    #[test]
    fn the_message_that_began_first_is_the_oldest() {
        let mut unfinished = Unfinished::default();
        assert_eq!(unfinished.oldest(), None);
        for slot in [1, 2, 3, 2] {
            unfinished.note(id(slot), 1, Tick(5));
        }
        assert_eq!(unfinished.oldest(), Some(id(1)));
        unfinished.forget(id(1));
        assert_eq!(unfinished.oldest(), Some(id(2)));
    }
}
