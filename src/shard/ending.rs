//! The end of a connection: from the moment it leaves the open state to the close of its descriptor.
//!
//! An orderly end takes three steps. Each step asserts that the step before it is complete:
//!
//! 1. [`Shard::leave`]: the session has left the open state. The connection gets no more messages; the messages that it
//!    is owed up to here are sent, and the session's goodbye after them. If the connection still gets back messages of
//!    its own that other shards order, it stays in its topics, and its goodbye waits for marks ([`Shard::end_marks`]).
//! 2. [`Shard::finish`]: the session is closed, and the socket has taken everything. Our side ends (FIN). Input is
//!    received and dropped from here on: closing a socket with unread input would reset the connection, and a reset
//!    destroys a goodbye that is still on its way (RFC 6455 7.1.1).
//! 3. [`Shard::drop_socket`]: the peer has ended its side and has taken everything. The descriptor is closed.
//!
//! | our side | the peer's side | event | steps | our side after them |
//! | --- | --- | --- | --- | --- |
//! | `Open` | any | a goodbye in either direction, a protocol error, a pong timeout | `leave` | `Leaving` |
//! | `Open` | gets `Ended` | the peer ends its side without a goodbye | `abandon`, `leave`, `finish` | `Finished` |
//! | `Leaving` | gets `Ended` | the peer ends its side without a goodbye | `abandon`, `finish` | `Finished` |
//! | `Leaving` | any | the session is `Closed`, and the socket has taken everything | `finish` | `Finished` |
//! | `Finished` | `Ended` | the peer has taken everything | `drop_socket` | closed |
//! | any | any | the close timeout, the end of a drain | `remove` | closed, or reset |
//! | `Open` | any | a send fails | `lose_output` | `Leaving`, and the connection is lost |
//! | `Leaving`, lost | any | the session is not open any more, or the input has been received | `end_lost` | reset |
//! | any other | any | a send or a receive fails | `lose` | reset |
//!
//! A send fails as soon as a reset has arrived, while Linux keeps the input in front of the reset readable. So a failed
//! send ends the output alone: its connection leaves its topics, and stays until that input is handled. The error of a
//! receive stands after all input.
//!
//! The peer's side goes from `Sends` to `Ended`, whatever our side does. In between it is `HungUp`, if the ring reports
//! a hang-up before the end is received.
//!
//! The close timeout bounds all three steps, unless it is 0. If the peer has not taken everything by the deadline, or
//! by the time at which the connection is dropped, the socket is reset. Otherwise the kernel would keep the rest for
//! minutes, beyond the server's end.

use std::io;

use super::{
    io_state::ShardConnection,
    state::{Shard, key},
};
use crate::{
    hub::{ConnectionId, Reply, SubscribeOutcome},
    metrics::Counter,
    proto::{CloseCode, State},
    sys::Io,
};

impl<I: Io> Shard<I> {
    /// Begins the end of the session with our goodbye.
    pub(super) fn close(&mut self, id: ConnectionId, code: CloseCode, reason: &str) {
        let Some(connection) = self.hub.connections.get_mut(id) else { return };
        let mut goodbye = Vec::new();
        connection.io.session.close(self.now, code, reason, &mut goodbye);
        self.append(id, &goodbye);
        self.notice_close(id);
    }

    /// Takes the steps that are due if the connection's session has left the open state. This call follows every call
    /// that may end the open state.
    pub(super) fn notice_close(&mut self, id: ConnectionId) {
        let Some(connection) = self.hub.connections.get_mut(id) else { return };
        if connection.io.session.state() == State::Open {
            return;
        }
        if connection.is_lost {
            // The goodbye of a lost connection cannot be sent, and its further input would only be dropped.
            return self.end_lost(id);
        }
        if connection.io.sides.is_open() {
            self.leave(id);
        }
        let Some(connection) = self.hub.connections.get_mut(id) else { return };
        // The goodbye for a message that is too big may wait (`close_waits`); it may be due now.
        if connection.io.owes_output() {
            self.flush.mark_dirty(connection, id);
        }
        // The deadline holds whatever progress the close makes. A `close_timeout` of 0 sets no deadline.
        connection.io.sides.limit(self.now, self.handlers.keep_alive(id).close_timeout);
        self.drop_partial(id);
        self.schedule(id);
        self.end_if_done(id);
    }

    /// Takes the steps that may have become due: after the peer's end was received, or after the socket has taken all
    /// that the connection was owed.
    pub(super) fn end_if_done(&mut self, id: ConnectionId) {
        let Some(connection) = self.hub.connections.get(id) else { return };
        if connection.is_lost {
            return self.end_lost(id);
        }
        if connection.io.session.state() != State::Closed {
            if connection.io.sides.has_peer_ended() {
                self.abandon(id);
            }
            return;
        }
        if connection.io.owes_output() || self.marks.has(id) {
            return;
        }
        if !connection.io.sides.is_finished() {
            self.finish(id);
        }
        self.drop_socket(id);
    }

    /// The first step: the connection gets no more messages, unless its goodbye waits for marks.
    fn leave(&mut self, id: ConnectionId) {
        let Some(connection) = self.hub.connections.get_mut(id) else { return };
        assert_ne!(connection.io.session.state(), State::Open, "an open session receives messages");
        connection.io.sides.leave();
        // A held connection never becomes a subscriber now. Its opening answer still leaves.
        connection.is_held = false;
        if !self.marks.has(id) {
            self.hub.unsubscribe_all(id);
        }
    }

    /// Ends the wait for marks: the connection leaves its topics, and its goodbye follows its messages.
    pub(super) fn end_marks(&mut self, id: ConnectionId) {
        if let Some(goodbye) = self.marks.end(id) {
            self.append(id, &goodbye);
            self.notice_close(id);
        }
    }

    /// The second step: our side of the socket ends.
    fn finish(&mut self, id: ConnectionId) {
        let Some(connection) = self.hub.connections.get_mut(id) else { return };
        assert_eq!(connection.io.session.state(), State::Closed, "the session is over");
        assert!(!connection.io.owes_output() && !connection.is_held, "the socket has taken everything");
        connection.io.sides.finish();
        let socket = self.sockets[id.slot() as usize].as_ref().expect("a connection has a socket");
        self.io.finish(socket);
    }

    /// The third step: the descriptor is closed once the peer has ended its side and has taken everything.
    fn drop_socket(&mut self, id: ConnectionId) {
        let Some(connection) = self.hub.connections.get(id) else { return };
        assert!(connection.io.sides.is_finished(), "our side ends first");
        let socket = self.sockets[id.slot() as usize].as_ref().expect("a connection has a socket");
        if !connection.io.sides.has_peer_ended() || self.io.has_unsent(socket) {
            return;
        }
        let taken = self.take_out(id);
        assert!(taken.is_some_and(|(connection, _)| !connection.io.owes_output()), "nothing is sent after the end");
    }

    /// Ends the session of a connection whose peer has ended its side without a goodbye, or without an answer to our
    /// goodbye. Output that its socket has not taken is dropped.
    fn abandon(&mut self, id: ConnectionId) {
        let Some(connection) = self.hub.connections.get_mut(id) else { return };
        assert!(connection.io.sides.has_peer_ended(), "a goodbye may still come");
        let session = &mut connection.io.session;
        let is_aborted = session.state() == State::Open && !session.ends_without_goodbye();
        session.abandon();
        let was_slow = connection.io.has_backlog();
        let output = connection.io.output.take();
        self.forget_output(id, output.as_deref());
        if self.marks.end(id).is_some() {
            self.hub.unsubscribe_all(id);
        }
        self.count(Counter::Aborted, u64::from(is_aborted));
        self.count_slow(was_slow, false);
        self.notice_close(id);
    }

    /// Drops the output of a connection to which a send has failed. The input that has arrived is still received and
    /// handled to its end, within the close timeout.
    pub(super) fn lose_output(&mut self, id: ConnectionId, error: &io::Error) {
        let Some(connection) = self.hub.connections.get_mut(id) else { return };
        if connection.io.session.state() != State::Open {
            // A closing connection drops its input.
            return self.lose(id, error);
        }
        assert!(!connection.is_lost, "nothing is sent to a connection that is lost");
        let was_slow = connection.io.has_backlog();
        (connection.is_lost, connection.is_held) = (true, false);
        let output = connection.io.output.take();
        connection.io.sides.leave();
        connection.io.sides.limit(self.now, self.handlers.keep_alive(id).close_timeout);
        // The end of the socket shows after the input. The ring may have reported this end already.
        connection.io.sides.hang_up();
        self.hub.unsubscribe_all(id);
        self.forget_output(id, output.as_deref());
        self.opening.remove(&id);
        tracing::debug!(%id, peer = self.peer(id), %error, "the connection was lost; its input is handled to its end");
        self.count(Counter::Aborted, 1);
        self.count_slow(was_slow, false);
        self.unpark(id);
        if let Some(connection) = self.hub.connections.get_mut(id) {
            self.incoming.push_busy(connection, id);
        }
        self.schedule(id);
    }

    /// Ends a connection whose socket has failed, and whose input has been received.
    pub(super) fn lose(&mut self, id: ConnectionId, error: &io::Error) {
        tracing::debug!(%id, peer = self.peer(id), %error, "the connection was lost");
        let is_open = self.hub.connections.get(id).is_some_and(ShardConnection::is_open);
        self.count(Counter::Aborted, u64::from(is_open));
        self.end_lost(id);
    }

    /// Ends at once a connection whose socket has failed: a reset drops the bytes that the peer has not taken.
    pub(super) fn end_lost(&mut self, id: ConnectionId) {
        if let Some((_, socket)) = self.take_out(id) {
            // After any error the socket is reset, so that the kernel keeps no bytes of it.
            self.io.reset(&socket);
        }
    }

    /// Ends a connection at once. A reset drops the bytes that the peer has not taken, which the kernel would otherwise
    /// keep until the peer takes them.
    pub(super) fn remove(&mut self, id: ConnectionId) {
        let Some((connection, socket)) = self.give_up(id) else { return };
        if connection.io.owes_output() || connection.is_lost || self.io.has_unsent(&socket) {
            self.io.reset(&socket);
            self.count(Counter::Reset, 1);
        }
    }

    /// Ends a connection by a reset, which drops the bytes that either side has not taken.
    pub(super) fn reset(&mut self, id: ConnectionId) {
        let Some((_, socket)) = self.give_up(id) else { return };
        self.io.reset(&socket);
        self.count(Counter::Reset, 1);
    }

    /// Takes out a connection that has not left by itself. In a drain the connection counts as dropped, even if the
    /// drain has closed it.
    fn give_up(&mut self, id: ConnectionId) -> Option<(ShardConnection, I::Socket)> {
        if let Some(drain) = &mut self.drain {
            drain.note_end(id);
        }
        let taken = self.take_out(id)?;
        self.count(Counter::DrainDropped, u64::from(self.drain.is_some()));
        Some(taken)
    }

    /// Takes a connection and its socket out of the shard. Every end comes through here, once.
    fn take_out(&mut self, id: ConnectionId) -> Option<(ShardConnection, I::Socket)> {
        let connection = self.hub.remove(id)?;
        self.forget_output(id, connection.io.output.as_deref());
        self.opening.remove(&id);
        self.access.note_ended(id);
        self.incoming.forget(&connection, id);
        self.note_throttled();
        self.marks.end(id);
        self.people.remove(id.slot());
        for (end, ticket) in self.joining.take_all(id) {
            self.hub.reply(end, ticket, Reply::Subscribed(SubscribeOutcome::NotOpen));
        }
        self.handlers.notice_ended(id);
        self.count_slow(connection.io.has_backlog(), false);
        self.io.disarm(key(id));
        if let Some(of_address) = self.of_address.get_mut(id.slot() as usize) {
            *of_address = None;
        }
        if let Some(named) = self.named.get_mut(id.slot() as usize) {
            *named = None;
        }
        self.count(Counter::Ended, 1);
        if self.drain.as_mut().is_some_and(|drain| drain.note_end(id)) {
            self.count(Counter::DrainLeft, 1);
        }
        self.counters.set(Counter::ConnectionsOpen, self.hub.connections.len() as u64);
        let socket = self.sockets[id.slot() as usize].take().expect("a connection has a socket");
        Some((connection, socket))
    }
}
