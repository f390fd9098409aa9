//! Deadlines of connections: the work that is due when a deadline has come.

use std::mem;

use super::{
    io_state::{Reading, Watch},
    schedule::deadline_of,
    state::Shard,
};
use crate::{
    handler::TOKEN_EXPIRED,
    hub::ConnectionId,
    metrics::Counter,
    proto::{CloseCode, State, Timeout},
    sys::Io,
};

impl<I: Io> Shard<I> {
    /// Does the work of the deadlines that have come.
    pub(super) fn expire_timers(&mut self) {
        let mut due = mem::take(&mut self.due);
        self.wheel.advance(self.now, &mut due);
        for (tick, id) in due.drain(..) {
            let Some(connection) = self.hub.connections.get_mut(id) else { continue };
            // Otherwise an entry for another tick has replaced this entry.
            if connection.io.timer == Some(tick) {
                connection.io.timer = None;
                self.expire(id);
            }
        }
        self.due = due;
    }

    /// Does the work of a connection's deadlines that have come, and enters the next one.
    fn expire(&mut self, id: ConnectionId) {
        let Some(connection) = self.hub.connections.get_mut(id) else { return };
        if connection.io.sides.ends_by().is_some_and(|ends_by| ends_by <= self.now) {
            tracing::debug!(%id, peer = self.peer(id), "close timeout");
            self.count(Counter::CloseTimeout, 1);
            self.remove(id);
            return;
        }
        if self.marks.until(id).is_some_and(|until| until <= self.now) {
            tracing::debug!(%id, peer = self.peer(id), "the connection's own messages have not come back in time");
            self.end_marks(id);
        }
        let Some(connection) = self.hub.connections.get_mut(id) else { return };
        if connection.io.reading != Reading::Idle {
            // The connection's silence proves nothing: its input waits in a queue, or the shard does not receive from
            // it.
            connection.io.session.excuse_silence(self.now);
        }
        self.expire_token(id);
        if !self.expire_throttling(id) {
            self.unthrottle(id);
        }
        self.expire_watch(id);
        self.expire_message(id);
        let Some(connection) = self.hub.connections.get_mut(id) else { return };
        let mut replies = mem::take(&mut self.replies);
        let keep_alive = self.handlers.keep_alive(id);
        let ping = self.handlers.ping_payload(id);
        let timeout = connection.io.session.handle_timeout(self.now, &keep_alive, ping, &mut replies);
        self.finish_replies(id, replies);
        match timeout {
            Timeout::Nothing => {}
            Timeout::PingSent => self.count(Counter::PingsSent, 1),
            Timeout::PongTimeout => {
                tracing::debug!(%id, peer = self.peer(id), "pong timeout");
                self.count(Counter::PongTimeout, 1);
            }
            Timeout::CloseTimeout => {
                tracing::debug!(%id, peer = self.peer(id), "close timeout");
                self.count(Counter::CloseTimeout, 1);
                self.remove(id);
                return;
            }
        }
        self.notice_close(id);
        self.schedule(id);
    }

    /// Closes an open connection whose token has expired. Its messages that have arrived before are handled.
    fn expire_token(&mut self, id: ConnectionId) {
        if self.handlers.expiry(id).is_none_or(|expiry| expiry > self.now) {
            return;
        }
        // A connection that is closing already needs no further look for its token.
        self.handlers.expiries.remove(&id);
        if self.hub.connections.get(id).is_some_and(|connection| connection.io.session.state() == State::Open) {
            tracing::debug!(%id, peer = self.peer(id), "the token has expired");
            self.count(Counter::TokenExpired, 1);
            self.close(id, TOKEN_EXPIRED, "token expired");
        }
    }

    /// Closes an open connection with a backlog if its peer has taken nothing for as long as a peer may be silent.
    ///
    /// Only bytes that the peer takes are a sign of life. A client that sends a byte from time to time, and takes
    /// nothing, would keep its backlog for ever; and a client that reads slowly cannot answer a ping before it has read
    /// all that stands before the ping.
    fn expire_watch(&mut self, id: ConnectionId) {
        let keep_alive = self.handlers.keep_alive(id);
        let Some(connection) = self.hub.connections.get_mut(id) else { return };
        let awaits_peer = connection.io.awaits_peer() && connection.io.session.state() == State::Open;
        let Some(output) = &mut connection.io.output else { return };
        let Some(socket) = self.sockets[id.slot() as usize].as_ref().filter(|_| awaits_peer) else {
            output.watch = None;
            return;
        };
        let held = self.io.unacknowledged(socket);
        match output.watch {
            Some(watch) if !watch.sees_progress(held) => {
                if deadline_of(&watch, &keep_alive).is_none_or(|deadline| self.now < deadline) {
                    return;
                }
                tracing::debug!(%id, peer = self.peer(id), "pong timeout: the client takes nothing of its backlog");
                self.count(Counter::PongTimeout, 1);
                self.close(id, CloseCode::INTERNAL_ERROR, "the client takes nothing");
            }
            _ => {
                output.watch = Some(Watch::new(self.now, held));
                connection.io.session.excuse_silence(self.now);
            }
        }
    }

    /// Closes the connection if the time of its message under way is over, and all input that had arrived by then has
    /// been parsed: the message's end may have stood in that input. Input that arrives later does not delay the close.
    pub(super) fn expire_message(&mut self, id: ConnectionId) {
        let Some(since) = self.incoming.unfinished.since(id, self.now) else { return };
        if self.limits.message_ticks_max == 0 || since.after(self.limits.message_ticks_max) > self.now {
            return;
        }
        let unread = self.sockets[id.slot() as usize].as_ref().map_or(0, |socket| self.io.unread(socket));
        let left = self.incoming.unfinished.left(id, unread);
        let has_unparsed = self.hub.connections.get(id).is_some_and(|connection| connection.io.has_unparsed);
        if has_unparsed || left > 0 {
            // The shard looks again when the input is parsed, and with the next tick.
            return;
        }
        tracing::debug!(%id, peer = self.peer(id), "message timeout");
        self.count(Counter::MessageTimeout, 1);
        self.close(id, CloseCode::POLICY_VIOLATION, "a message did not arrive in time");
    }
}
