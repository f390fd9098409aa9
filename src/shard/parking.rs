//! Parking: a connection that is owed much is not received from.

use super::{incoming::STAYS_IN_PLACE, io_state::Reading, state::Shard};
use crate::{hub::ConnectionId, proto::State, sys::Io};

impl<I: Io> Shard<I> {
    /// Returns whether the connection is owed so much that it is not read from: above half of what a backlog may have.
    /// A connection that is closing is always read from, since its client's close frame or end is awaited.
    pub(super) fn owes_much(&self, id: ConnectionId) -> bool {
        let Some(connection) = self.hub.connections.get(id) else { return false };
        let Some(output) = &connection.io.output else { return false };
        let is_much = output.bytes() > self.limits.backlog_bytes_max / 2
            || output.backlog.messages() > self.limits.backlog_messages_max / 2;
        is_much && connection.websocket.state() == State::Open && !self.handlers.has_manual_backpressure(id)
    }

    /// Reads from a parked connection again if it has taken enough of its backlog, or is closing.
    pub(super) fn unpark(&mut self, id: ConnectionId) {
        let is_parked = self.hub.connections.get(id).is_some_and(|connection| connection.io.reading == Reading::Parked);
        if is_parked
            && !self.owes_much(id)
            && let Some(connection) = self.hub.connections.get_mut(id)
        {
            self.incoming.unpark(connection, id, self.now);
            self.schedule(id);
        }
    }

    /// Lets parsing drop the rest of a message that a closing connection does not take any more.
    pub(super) fn drop_partial(&mut self, id: ConnectionId) {
        self.unpark(id);
        self.incoming.unfinished.forget(id);
        let Some(connection) = self.hub.connections.get_mut(id) else { return };
        // A shorter rest may be the beginning of a header or of the peer's close frame, and stays.
        if !connection.io.has_unparsed
            && connection.io.partial.as_ref().is_some_and(|partial| partial.len() >= STAYS_IN_PLACE)
            && let Some(rest) = connection.io.partial.take()
        {
            self.incoming.keep_unparsed(connection, id, *rest);
        }
    }
}
