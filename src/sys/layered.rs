//! The layer between a shard and its sockets that packs the bytes of connections into the records of their transports.
//!
//! Without such a connection each call goes straight to the [`Io`] below, at the cost of one comparison. With some, a
//! batch goes down in parts:
//!
//! 1. **Records are sealed as late as possible**, into the layer's own memory, just before the part is sent. What the
//!    connection offers stays shared with other connections until then.
//! 2. **One record at a time.** A connection's next record is sealed when the kernel has taken the one before, in a
//!    later part of the same batch. So the bytes that a connection's transport keeps are bounded, and a connection that
//!    takes everything is offered everything.
//! 3. **Sealed bytes count as sent** for the caller: they have their place in the order and cannot be taken back. The
//!    bytes that the kernel has not taken stay with the socket. They go before newer bytes, which are refused until
//!    then. The layer awaits room for them by itself, and the caller passes the report of room on ([`Io::resume`]).
//! 4. **Opened input is no input of the socket.** A receive ends only when the buffer is full or the socket is empty.
//!    Where the layer knows of input that the socket will not report, it reports it.

mod receiving;
mod sending;

use std::{
    collections::HashSet,
    io::{self, IoSlice},
    net::SocketAddr,
};

use super::{
    io::{Io, Key, Readiness, Receive, Resumed, SendEntry, SendLimits, Unsent},
    sealed::SealedSocket,
    transport::Transport,
};

/// An [`Io`] whose sockets may have transports of their own, over an [`Io`] whose sockets have none.
#[derive(Debug)]
pub struct Layered<I> {
    inner: I,
    /// The armed connections whose bytes travel in records.
    sealed: HashSet<Key>,
    /// Input that the sockets do not report.
    reports: Vec<Readiness>,
    /// The records of the part of a batch that is being sent; scratch.
    records: Vec<u8>,
    /// The contents of a record that consists of several pieces; scratch.
    gathered: Vec<u8>,
}

impl<I> Layered<I> {
    /// Returns a layer without connections over `inner`.
    pub fn new(inner: I) -> Self {
        let (sealed, reports) = (HashSet::new(), Vec::new());
        Layered { inner, sealed, reports, records: Vec::new(), gathered: Vec::new() }
    }

    /// Returns the [`Io`] below.
    pub fn inner(&self) -> &I {
        &self.inner
    }
}

impl<S, I: Io<Socket = Transport<S>>> Io for Layered<I> {
    type Socket = Transport<S>;

    fn arm(&mut self, key: Key, socket: &Transport<S>) {
        self.inner.arm(key, socket);
        if let Some(sealed) = socket.sealed() {
            self.enter(key, socket, sealed);
        }
    }

    fn await_room(&mut self, key: Key, socket: &Transport<S>) {
        let is_awaited = socket.sealed().is_some_and(|sealed| {
            sealed.with(|state| {
                state.is_room_wanted = true;
                // For kept bytes, room is awaited already, or another try is due.
                !state.unsent.is_empty() || std::mem::replace(&mut state.awaits_room, true)
            })
        });
        if !is_awaited {
            self.inner.await_room(key, socket);
        }
    }

    fn disarm(&mut self, key: Key) {
        self.inner.disarm(key);
        if !self.sealed.is_empty() {
            self.sealed.remove(&key);
        }
    }

    fn submit(&mut self) {
        self.inner.submit();
    }

    fn reap(&mut self, ready: &mut Vec<Readiness>) {
        self.inner.reap(ready);
        ready.append(&mut self.reports);
    }

    fn has_reports(&mut self) -> bool {
        !self.reports.is_empty() || self.inner.has_reports()
    }

    fn resume(&mut self, key: Key, socket: &Transport<S>) -> Resumed {
        let Some(sealed) = socket.sealed() else { return self.inner.resume(key, socket) };
        let kept = sealed.with(|state| {
            state.awaits_room = false;
            state.unsent.len()
        });
        self.push(socket, sealed);
        sealed.with(|state| match state.unsent.len() {
            0 if std::mem::take(&mut state.is_room_wanted) => Resumed::Room,
            0 => Resumed::Nothing,
            left if left == kept => Resumed::Refused,
            _ => {
                state.awaits_room = true;
                self.inner.await_room(key, socket);
                Resumed::Nothing
            }
        })
    }

    fn retry(&mut self, socket: &Transport<S>) {
        let Some(sealed) = socket.sealed() else { return self.inner.retry(socket) };
        if !sealed.with(|state| state.awaits_room) {
            self.push_and_await(socket, sealed);
        }
    }

    fn receive(&mut self, batch: &mut [Receive<'_, Transport<S>>]) {
        if self.sealed.is_empty() {
            self.inner.receive(batch);
        } else {
            self.receive_mixed(batch);
        }
    }

    fn discard(&mut self, socket: &Transport<S>, most: usize) -> io::Result<usize> {
        let Some(sealed) = socket.sealed() else { return self.inner.discard(socket, most) };
        let dropped = sealed.with(|state| {
            drop(state.take_partial());
            let count = state.opened_bytes().min(most);
            state.drop_opened(count);
            if count > 0 { Some(Ok(count)) } else { state.take_end(false).map(|end| end.map(|()| 0)) }
        });
        dropped.unwrap_or_else(|| self.inner.discard(socket, most))
    }

    fn send(&mut self, batch: &[SendEntry<'_, Transport<S>>], refused: &mut Vec<Unsent>) {
        if self.sealed.is_empty() {
            self.inner.send(batch, refused);
        } else {
            self.send_mixed(batch, refused);
        }
    }

    fn addresses(&self, socket: &Transport<S>) -> (Option<SocketAddr>, Option<SocketAddr>) {
        self.inner.addresses(socket)
    }

    fn finish(&mut self, socket: &Transport<S>) {
        let Some(sealed) = socket.sealed() else { return self.inner.finish(socket) };
        sealed.say_goodbye();
        if !sealed.with(|state| state.awaits_room) {
            self.push_and_await(socket, sealed);
        }
    }

    fn unread(&self, socket: &Transport<S>) -> usize {
        self.inner.unread(socket) + socket.sealed().map_or(0, |sealed| sealed.with(|state| state.opened_bytes()))
    }

    fn limit_output(&mut self, socket: &Transport<S>, limits: SendLimits) {
        self.inner.limit_output(socket, limits);
    }

    fn unacknowledged(&self, socket: &Transport<S>) -> usize {
        let kept = |sealed: &SealedSocket<S>| sealed.with(|state| state.unsent.len() + usize::from(state.owes_end()));
        self.inner.unacknowledged(socket) + socket.sealed().map_or(0, kept)
    }

    fn reset(&mut self, socket: &Transport<S>) {
        if let Some(sealed) = socket.sealed() {
            sealed.with(|state| state.give_up());
        }
        self.inner.reset(socket);
    }
}

impl<S, I: Io<Socket = Transport<S>>> Layered<I> {
    /// Notes the key of a connection. Bytes that its transport has kept until now are sent as soon as there is room,
    /// and input that the transport has opened is reported.
    fn enter(&mut self, key: Key, socket: &Transport<S>, sealed: &SealedSocket<S>) {
        self.sealed.insert(key);
        let (has_input, is_owed) = sealed.with(|state| {
            let is_new = state.key.replace(key).is_none();
            let is_owed = is_new && !state.unsent.is_empty();
            state.awaits_room |= is_owed;
            (is_new && state.has_input(), is_owed)
        });
        if is_owed {
            self.inner.await_room(key, socket);
        }
        if has_input {
            self.report_input(sealed);
        }
    }

    /// Reports input that the socket does not report.
    fn report_input(&mut self, sealed: &SealedSocket<S>) {
        let (key, hung_up) = sealed.with(|state| (state.key, state.has_ended()));
        if let Some(key) = key {
            self.reports.push(Readiness { key, readable: true, hung_up, writable: false, disarmed: false });
        }
    }

    /// Sends what the transport of a socket keeps, and ends our side after it if that is due.
    fn push(&mut self, socket: &Transport<S>, sealed: &SealedSocket<S>) {
        let unsent = sealed.with(|state| std::mem::take(&mut state.unsent));
        if !unsent.is_empty() {
            let mut refused = Vec::new();
            self.inner.send(&[SendEntry { socket, pieces: &[IoSlice::new(&unsent)] }], &mut refused);
            sealed.with(|state| {
                state.unsent = unsent;
                let outcome = refused.pop().map_or(Ok(state.unsent.len()), |entry| Unsent::taken(entry.sent));
                // After a failure nothing is kept. The failure shows with the next send, or with the end of the input.
                drop(state.settle(outcome));
            });
        }
        if sealed.with(|state| state.take_end_of_output()) {
            self.inner.finish(socket);
        }
    }

    /// Does the same as [`Layered::push`], and awaits room for what is left.
    fn push_and_await(&mut self, socket: &Transport<S>, sealed: &SealedSocket<S>) {
        self.push(socket, sealed);
        self.await_room_for_kept(socket, sealed);
    }

    /// Awaits room for what the transport of a socket keeps, unless room is awaited already.
    fn await_room_for_kept(&mut self, socket: &Transport<S>, sealed: &SealedSocket<S>) {
        let awaited = sealed.with(|state| {
            let is_due = !state.unsent.is_empty() && !state.awaits_room;
            state.awaits_room |= is_due;
            state.key.filter(|_| is_due)
        });
        if let Some(key) = awaited {
            self.inner.await_room(key, socket);
        }
    }
}

#[cfg(test)]
mod tests;
