//! Throttles single connections: those whose clients send faster than a rate of their route.
//!
//! The plain version: all that a client sends is counted in buckets ([`rates`](super::rates)), and while a bucket is
//! empty the shard does not receive from the connection. The rest stays in its socket, whose window closes, so a client
//! that waits for its socket is slowed down and loses nothing. A client that goes on at full speed for
//! [`Limits::rate_ticks_max`] is closed. A client that is gone keeps its place for the close timeout at most.
//!
//! [`Limits::rate_ticks_max`]: crate::config::Limits::rate_ticks_max

use super::{io_state::Reading, rates::InputRate, state::Shard};
use crate::{hub::ConnectionId, metrics::Counter, proto::CloseCode, sys::Io};

impl<I: Io> Shard<I> {
    /// Stops receiving from a connection that was taken out of its queue, until its rates allow it.
    pub(super) fn throttle(&mut self, id: ConnectionId, rate: InputRate) {
        let Some(connection) = self.hub.connections.get_mut(id) else { return };
        self.incoming.throttle(connection, id, self.now);
        let is_gone = connection.io.sides.has_hung_up();
        if let Some(table) = &mut self.rates {
            table.throttle(id, self.now);
            if is_gone {
                table.note_gone(id, self.now);
            }
        }
        let counter = match rate {
            InputRate::Messages => Counter::ThrottledMessages,
            InputRate::Bytes => Counter::ThrottledBytes,
        };
        self.count(counter, 1);
        self.note_throttled();
        if !self.expire_throttling(id) {
            self.schedule(id);
        }
    }

    /// Notes that the client of a throttled connection has ended its side, or the connection. Input that is due within
    /// the close timeout is handled.
    pub(super) fn note_gone(&mut self, id: ConnectionId) {
        if let Some(table) = &mut self.rates {
            table.note_gone(id, self.now);
            self.schedule(id);
        }
    }

    /// Closes a throttled connection that has been over its rates for too long, or whose client is gone. Returns
    /// whether it is closed.
    pub(super) fn expire_throttling(&mut self, id: ConnectionId) -> bool {
        let is_throttled =
            self.hub.connections.get(id).is_some_and(|connection| connection.io.reading == Reading::Throttled);
        if !is_throttled || self.throttled_at_most(id).is_none_or(|closed| self.now < closed) {
            return false;
        }
        let Some(rate) = self.exceeded_rate(id) else { return false };
        tracing::debug!(%id, peer = self.peer(id), ?rate, "closed: the client does not keep to its rate");
        let counter = match rate {
            InputRate::Messages => Counter::RateClosedMessages,
            InputRate::Bytes => Counter::RateClosedBytes,
        };
        self.count(counter, 1);
        self.close(id, CloseCode::POLICY_VIOLATION, rate.reason());
        true
    }
}
