//! Messages whose end has not arrived: how much memory they hold, and since when.

use std::collections::HashMap;

use crate::{hub::ConnectionId, proto::Tick};

/// The messages under way of all connections of a shard. A connection without one costs nothing here.
#[derive(Debug, Default)]
pub(super) struct Unfinished {
    begun: HashMap<ConnectionId, Begun>,
    bytes: usize,
    /// How many have ever begun.
    count: u64,
}

/// One connection's message under way.
#[derive(Debug)]
struct Begun {
    /// Its place among all that have ever begun.
    number: u64,
    since: Tick,
    bytes: usize,
}

impl Unfinished {
    /// Notes that a message holds so many bytes of buffers. Returns whether it has begun just now.
    pub(super) fn note(&mut self, id: ConnectionId, bytes: usize, now: Tick) -> bool {
        let bytes = bytes + ENTRY;
        self.bytes += bytes;
        match self.begun.get_mut(&id) {
            Some(begun) => {
                self.bytes -= begun.bytes;
                begun.bytes = bytes;
                false
            }
            None => {
                self.begun.insert(id, Begun { number: self.count, since: now, bytes });
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
            if self.begun.is_empty() {
                // A crowd's table is not kept.
                self.begun.shrink_to(TABLE_KEPT);
            }
        }
    }

    /// Returns when the connection's message under way began.
    pub(super) fn since(&self, id: ConnectionId) -> Option<Tick> {
        self.begun.get(&id).map(|begun| begun.since)
    }

    /// Counts the time of the connection's message from `now` on.
    pub(super) fn excuse(&mut self, id: ConnectionId, now: Tick) {
        if let Some(begun) = self.begun.get_mut(&id) {
            begun.since = now;
        }
    }

    /// Returns the connection whose message has been under way for the longest time.
    pub(super) fn oldest(&self) -> Option<ConnectionId> {
        self.begun.iter().min_by_key(|(_, begun)| begun.number).map(|(&id, _)| id)
    }

    /// Returns the bytes that all messages under way hold, their entries here included.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Bytes of an entry of the table, which is at least half full while it grows.
const ENTRY: usize = 2 * (size_of::<(ConnectionId, Begun)>() + 1);

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
        unfinished.excuse(id(1), Tick(9));
        assert_eq!(unfinished.since(id(1)), Some(Tick(9)));
        unfinished.forget(id(1));
        unfinished.forget(id(1));
        assert_eq!((unfinished.bytes(), unfinished.since(id(1))), (ENTRY, None));
    }

    #[test]
    fn whoever_began_first_goes_first() {
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
