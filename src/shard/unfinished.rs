//! Messages whose end has not arrived: the memory that they hold, and the time since they began.

use std::collections::{BTreeMap, HashMap};

use crate::{hub::ConnectionId, proto::Tick};

/// The messages under way of all connections of a shard. A connection without a message under way costs nothing here.
#[derive(Debug, Default)]
pub(super) struct Unfinished {
    begun: HashMap<ConnectionId, Begun>,
    /// The same connections in the order in which their messages began.
    order: BTreeMap<u64, ConnectionId>,
    bytes: usize,
    /// The number of messages that have ever begun.
    count: u64,
    /// Set while the shard receives nothing: from this tick on the time of all messages stands still.
    stopped_at: Option<Tick>,
    /// The ticks for which that time stood still before.
    stood: u32,
}

/// One connection's message under way.
#[derive(Debug)]
struct Begun {
    /// The message's place among all that have ever begun.
    number: u64,
    /// When the message began, by [`Unfinished::clock`], plus the time for which it was paused.
    since: Tick,
    /// The time since which the connection is not received from, by the same clock.
    paused: Option<Tick>,
    bytes: usize,
    /// Bytes that had arrived when the message's time was over, and that the shard has yet to receive. Set once the
    /// time is over.
    left: Option<usize>,
}

impl Unfinished {
    /// Notes that a message holds so many bytes of buffers. Returns whether it is new.
    pub(super) fn note(&mut self, id: ConnectionId, bytes: usize, now: Tick) -> bool {
        let bytes = bytes + ENTRY;
        self.bytes += bytes;
        if let Some(begun) = self.begun.get_mut(&id) {
            self.bytes -= begun.bytes;
            begun.bytes = bytes;
            return false;
        }
        let since = self.clock(now);
        self.begun.insert(id, Begun { number: self.count, since, paused: None, bytes, left: None });
        self.order.insert(self.count, id);
        self.count += 1;
        true
    }

    /// Notes that the buffers of a message under way have grown while its input waits to be parsed.
    pub(super) fn grow(&mut self, id: ConnectionId, bytes: usize) {
        if let Some(begun) = self.begun.get_mut(&id) {
            let more = (bytes + ENTRY).saturating_sub(begun.bytes);
            begun.bytes += more;
            self.bytes += more;
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
                // The large table of a crowd is not kept.
                self.begun.shrink_to(TABLE_KEPT);
            }
        }
    }

    /// Notes whether the shard receives from no connection at all. The time of all messages then stands still.
    #[inline]
    pub(super) fn stop(&mut self, is_stopped: bool, now: Tick) {
        match self.stopped_at {
            Some(since) if !is_stopped => {
                self.stood += now.since(since);
                self.stopped_at = None;
            }
            None if is_stopped => self.stopped_at = Some(now),
            _ => {}
        }
    }

    /// Stops the time of the connection's message: its input is not received.
    pub(super) fn pause(&mut self, id: ConnectionId, now: Tick) {
        let now = self.clock(now);
        if let Some(begun) = self.begun.get_mut(&id) {
            begun.paused.get_or_insert(now);
        }
    }

    /// Lets the time of the connection's message go on.
    pub(super) fn resume(&mut self, id: ConnectionId, now: Tick) {
        let now = self.clock(now);
        if let Some(begun) = self.begun.get_mut(&id)
            && let Some(paused) = begun.paused.take()
        {
            begun.since = begun.since.after(now.since(paused));
        }
    }

    /// Returns the connections with a message under way.
    pub(super) fn ids(&self) -> impl Iterator<Item = ConnectionId> + '_ {
        self.order.values().copied()
    }

    /// Returns when the connection's message under way began, plus the time for which it stood still; `None` while the
    /// message is paused.
    pub(super) fn since(&self, id: ConnectionId, now: Tick) -> Option<Tick> {
        let begun = self.begun.get(&id).filter(|begun| begun.paused.is_none())?;
        Some(begun.since.after(now.since(self.clock(now))))
    }

    /// Notes that so many bytes were received from the connection.
    pub(super) fn received(&mut self, id: ConnectionId, bytes: usize) {
        if let Some(left) = self.begun.get_mut(&id).and_then(|begun| begun.left.as_mut()) {
            *left = left.saturating_sub(bytes);
        }
    }

    /// Returns how many bytes the shard has yet to receive of those that arrived before the time of the connection's
    /// message was over. Called only after that time. The number of bytes that wait in the connection's socket is
    /// `unread`; the first call notes them as the bytes that arrived in time.
    pub(super) fn left(&mut self, id: ConnectionId, unread: usize) -> usize {
        let Some(begun) = self.begun.get_mut(&id) else { return 0 };
        let left = begun.left.map_or(unread, |left| left.min(unread));
        begun.left = Some(left);
        left
    }

    /// Returns the time by which messages are measured, which stands still while the shard receives nothing.
    fn clock(&self, now: Tick) -> Tick {
        Tick(self.stopped_at.unwrap_or(now).0 - self.stood)
    }

    /// Returns the connection whose message has been under way for the longest time.
    pub(super) fn oldest(&self) -> Option<ConnectionId> {
        self.order.first_key_value().map(|(_, &id)| id)
    }

    /// Returns the bytes that the connection's message under way holds, with its entries in these tables.
    pub(super) fn bytes_of(&self, id: ConnectionId) -> usize {
        if self.begun.is_empty() { 0 } else { self.begun.get(&id).map_or(0, |begun| begun.bytes) }
    }

    /// Returns the bytes that all messages under way hold, including their entries in these tables.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Bytes of an entry: its places in the table and in the order, if both are only half full.
const ENTRY: usize = 2 * (size_of::<(ConnectionId, Begun)>() + 1) + 2 * size_of::<(u64, ConnectionId)>();

/// Entries that an empty table has room for.
const TABLE_KEPT: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn id(slot: u32) -> ConnectionId {
        ConnectionId::new(0, slot, 0)
    }

    /// Buffers that grow while their input waits count at once, and begin no message.
    #[test]
    fn waiting_buffers_count_as_they_grow() {
        let mut unfinished = Unfinished::default();
        unfinished.grow(id(1), 1_000);
        assert_eq!((unfinished.bytes(), unfinished.oldest()), (0, None));
        assert!(unfinished.note(id(1), 1_000, Tick(5)));
        unfinished.grow(id(1), 2_000);
        unfinished.grow(id(1), 500);
        assert_eq!(unfinished.bytes(), 2_000 + ENTRY);
        unfinished.forget(id(1));
        assert_eq!(unfinished.bytes(), 0);
    }

    #[test]
    fn a_message_counts_from_its_first_byte_with_what_it_holds_now() {
        let mut unfinished = Unfinished::default();
        assert!(unfinished.note(id(1), 100, Tick(5)));
        assert!(!unfinished.note(id(1), 40, Tick(7)));
        assert!(unfinished.note(id(2), 0, Tick(8)));
        assert_eq!((unfinished.bytes(), unfinished.since(id(1), Tick(8))), (40 + 2 * ENTRY, Some(Tick(5))));
        unfinished.forget(id(1));
        unfinished.forget(id(1));
        assert_eq!((unfinished.bytes(), unfinished.since(id(1), Tick(8))), (ENTRY, None));
    }

    /// Input of the client in the meantime does not begin the message's time anew.
    #[test]
    fn only_the_time_of_a_pause_is_given() {
        let mut unfinished = Unfinished::default();
        unfinished.note(id(1), 100, Tick(5));
        unfinished.pause(id(1), Tick(10));
        unfinished.pause(id(1), Tick(12));
        assert_eq!(unfinished.since(id(1), Tick(12)), None);
        unfinished.resume(id(1), Tick(17));
        assert!(!unfinished.note(id(1), 100, Tick(17)));
        unfinished.resume(id(1), Tick(30));
        assert_eq!(unfinished.since(id(1), Tick(30)), Some(Tick(12)));
    }

    /// Time in which the shard receives nothing counts for no message. A message that is paused as well gets this time
    /// back only once.
    #[test]
    fn the_time_of_all_messages_stands_still_together() {
        let mut unfinished = Unfinished::default();
        unfinished.note(id(1), 100, Tick(5));
        unfinished.note(id(2), 100, Tick(5));
        unfinished.pause(id(2), Tick(8));
        unfinished.stop(true, Tick(10));
        unfinished.stop(true, Tick(13));
        assert_eq!(unfinished.since(id(1), Tick(14)), Some(Tick(9)));
        unfinished.note(id(3), 100, Tick(15));
        unfinished.stop(false, Tick(20));
        unfinished.stop(false, Tick(21));
        unfinished.resume(id(2), Tick(22));
        let since = |number| unfinished.since(id(number), Tick(30));
        // The third message began while the time stood still. The second one was also paused for four ticks.
        assert_eq!([since(1), since(2), since(3)], [Some(Tick(15)), Some(Tick(19)), Some(Tick(20))]);
    }

    #[test]
    fn what_arrives_after_the_time_is_not_waited_for() {
        let mut unfinished = Unfinished::default();
        unfinished.note(id(1), 100, Tick(5));
        unfinished.received(id(1), 50);
        assert_eq!(unfinished.left(id(1), 300), 300);
        unfinished.received(id(1), 100);
        assert_eq!(unfinished.left(id(1), 1_000), 200);
        // The kernel has dropped some of the bytes.
        assert_eq!(unfinished.left(id(1), 20), 20);
        unfinished.received(id(1), 500);
        assert_eq!(unfinished.left(id(1), 1_000), 0);
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
