//! How a connection ends: from its leaving the open state to the descriptor's close.
//!
//! The close timeout is for all of it, unless it is 0. A socket that then, or whenever its connection is dropped,
//! holds something that its peer has not taken is reset: the kernel would keep that for minutes, beyond the server's
//! end.

use std::io;

use super::{
    io_state::ShardConnection,
    state::{Shard, key},
};
use crate::{
    hub::ConnectionId,
    metrics::Counter,
    proto::{CloseCode, State},
    sys::Io,
};

impl<I: Io> Shard<I> {
    /// Starts the closing handshake.
    pub(super) fn close(&mut self, id: ConnectionId, code: CloseCode, reason: &str) {
        let Some(connection) = self.hub.connections.get_mut(id) else { return };
        let mut frame = Vec::new();
        connection.websocket.close(self.now, code, reason, &mut frame);
        self.append(id, &frame);
        self.notice_close(id);
    }

    /// After anything that may have ended the open state: no more messages for it, and a deadline.
    pub(super) fn notice_close(&mut self, id: ConnectionId) {
        let Some(connection) = self.hub.connections.get_mut(id) else { return };
        if connection.websocket.state() == State::Open {
            return;
        }
        // It will not become a subscriber any more; it is still owed its answer.
        connection.is_held = false;
        if connection.io.owes_output() {
            self.flush.mark_dirty(connection, id);
        }
        // The deadline holds whatever progress the close makes. A route's keep-alive may have turned it off by 0.
        let close_timeout = self.handlers.keep_alive(id).close_timeout;
        if connection.io.ends_by.is_none() && close_timeout > 0 {
            connection.io.ends_by = Some(self.now.after(close_timeout));
        }
        self.hub.unsubscribe_all(id);
        self.drop_partial(id);
        self.schedule(id);
        self.end_if_done(id);
    }

    /// Takes the connection through the end of its socket: when the closing handshake is over and everything has been
    /// sent, our side is finished; when the peer's is too and it has taken everything, the socket is closed. Closing it
    /// before could destroy what is still on its way to the peer (RFC 6455 7.1.1). Until then input is read and
    /// dropped, since closing a socket with unread input would reset the connection and destroy the close frame.
    pub(super) fn end_if_done(&mut self, id: ConnectionId) {
        let Some(connection) = self.hub.connections.get_mut(id) else { return };
        let Some(socket) = &self.sockets[id.slot() as usize] else { return };
        if connection.websocket.state() != State::Closed {
            if connection.io.peer_done {
                self.abandon(id);
            }
            return;
        }
        if connection.io.owes_output() {
            return;
        }
        if !connection.io.is_finished {
            connection.io.is_finished = true;
            self.io.finish(socket);
        }
        if connection.io.peer_done && !self.io.has_unsent(socket) {
            self.remove(id);
        }
    }

    /// Ends a connection whose peer has ended it without a closing handshake, or without answering ours: it is owed
    /// nothing more but what its socket has taken before.
    fn abandon(&mut self, id: ConnectionId) {
        let Some(connection) = self.hub.connections.get_mut(id) else { return };
        let (was_open, was_slow) = (connection.websocket.state() == State::Open, connection.io.has_backlog());
        connection.websocket.abandon();
        connection.io.output = None;
        connection.io.awaits_room = false;
        self.count(Counter::Aborted, u64::from(was_open));
        self.count_slow(was_slow, false);
        self.notice_close(id);
    }

    /// Ends a connection whose socket has failed: what its peer has not taken is given up by a reset.
    pub(super) fn lose(&mut self, id: ConnectionId, error: &io::Error) {
        tracing::debug!(%id, peer = self.peer(id), %error, "the connection was lost");
        if self.hub.connections.get(id).is_some_and(|connection| connection.websocket.state() == State::Open) {
            self.count(Counter::Aborted, 1);
        }
        if let Some((_, socket)) = self.take_out(id) {
            // Whatever the error was: nothing of it stays.
            self.io.reset(&socket);
        }
    }

    /// Ends a connection at once. Nobody waits any longer for its peer to take what was sent: the kernel would, for as
    /// long as that pleases.
    pub(super) fn remove(&mut self, id: ConnectionId) {
        let Some((connection, socket)) = self.take_out(id) else { return };
        if connection.io.owes_output() || self.io.has_unsent(&socket) {
            self.io.reset(&socket);
            self.count(Counter::Reset, 1);
        }
    }

    /// Takes a connection and its socket out of the shard. Every end comes through here.
    fn take_out(&mut self, id: ConnectionId) -> Option<(ShardConnection, I::Socket)> {
        let connection = self.hub.remove(id)?;
        self.incoming.forget(&connection, id);
        self.handlers.notice_ended(id);
        self.count_slow(connection.io.has_backlog(), false);
        self.io.disarm(key(id));
        if let Some(of_address) = self.of_address.get_mut(id.slot() as usize) {
            *of_address = None;
        }
        self.count(Counter::Ended, 1);
        self.counters.set(Counter::ConnectionsOpen, self.hub.connections.len() as u64);
        let socket = self.sockets[id.slot() as usize].take().expect("a connection has a socket");
        Some((connection, socket))
    }
}
