//! Resuming: lets connections read the histories of their topics as their sockets take what they are owed.

use super::state::Shard;
use crate::{
    handler::UNRECOVERED,
    hub::{ConnectionId, HISTORY_PART_BYTES, HistoryPart, Room},
    metrics::Counter,
    sys::Io,
};

impl<I: Io> Shard<I> {
    /// Lets connections read histories, up to the bound of a turn.
    pub(super) fn read_histories(&mut self) {
        for _ in 0..self.pace.history_parts {
            let Some(id) = self.hub.next_reader() else { return };
            // A connection without room reads on when its socket has taken its backlog.
            if let Some(room) = self.room_for_history(id) {
                self.hub.read_on(id, room);
                self.report_resumed();
            }
        }
    }

    /// Hands the parts of histories that have come to their subscribers. A subscriber is told that its subscription is
    /// live before it gets messages.
    pub(super) fn report_resumed(&mut self) {
        while let Some(HistoryPart { id, topic, joined, owed, is_unrecovered }) = self.hub.take_resumed() {
            if is_unrecovered {
                self.count(Counter::UnrecoveredClosed, 1);
                let reason = format!("messages of {topic} after the position are not kept");
                self.close(id, UNRECOVERED, &reason);
                continue;
            }
            if let Some(joined) = joined {
                self.joined.push(joined);
                self.report_joined();
            }
            // The handler may have ended the subscription.
            if self.hub.has_subscription(id, &topic) && (!owed.pieces.is_empty() || owed.lag.is_some()) {
                self.owe_behind_outbox(id, vec![owed]);
            }
            self.note_room_for_history(id);
        }
    }

    /// Lets a connection read on if it has cursors and room. This call follows whenever a backlog has become empty.
    #[inline]
    pub(super) fn note_room_for_history(&mut self, id: ConnectionId) {
        if self.hub.has_readers() && self.room_for_history(id).is_some() {
            self.hub.let_read_on(id);
        }
    }

    /// Returns the room of a connection for messages of histories; `None` while it has a backlog, in which the last
    /// part may still wait.
    fn room_for_history(&self, id: ConnectionId) -> Option<Room> {
        let connection = self.hub.connections.get(id).filter(|connection| connection.is_open())?;
        if connection.io.has_backlog() {
            return None;
        }
        // A part alone is within the limits of the backlog, so reading never makes a slow consumer.
        let limits = self.output_limits();
        let bytes = HISTORY_PART_BYTES.min(limits.bytes_max / 2);
        Some(Room { bytes, messages: (limits.messages_max / 2).max(1) })
    }
}
