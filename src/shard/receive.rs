//! Receiving: from readable sockets to input.
//!
//! The plain version: receive from each connection that is ready into one of the shard's buffers, and handle all that
//! arrived. Five things are added, so that a client that sends much makes no other wait:
//!
//! - **A budget.** A turn parses up to [`Pace::frames`] frames. The connections of a batch share the rest of the budget
//!   evenly; a connection alone gets all of it. A connection whose part of the budget is used up keeps the rest of its
//!   input, which is parsed before the shard receives from its socket again. A received KiB counts as a frame, and so
//!   does a KiB that is copied because a large message has filled its buffer.
//! - **Three queues.** Open connections that the ring has just reported stand in `ready`. Connections stand in `busy`
//!   if they had more input than their share, if their socket filled its buffer or had more input, or if they are
//!   closing. Connections whose frame has to be copied into a larger buffer stand in `copying`. The queues are served
//!   alternately, so that a client that sends little waits for no crowd of clients that send much. Connections whose
//!   next message goes to a home that is behind, or to a topic that has gathered its share of memory, wait in queues of
//!   their own ([`awaiting`](super::awaiting)) until there is room. Closed connections stand apart: a turn drops some
//!   of their input.
//! - **Room is checked between two messages.** After each message the shard checks the room for output. So if the shard
//!   becomes full within a batch, at most one more message of each connection of the batch is parsed. An open
//!   connection that is owed more than half of its backlog's limit is *parked* unless its route has
//!   `manual_backpressure`: the shard does not receive from the connection until the connection is owed no more than
//!   that half.
//! - **Rates.** What clients send is counted, and a connection that is over a rate of its route is *throttled*: the
//!   shard does not receive from it until the rate allows it ([`throttling`](super::throttling)).
//! - **Messages that do not end** hold at most [`Limits::unfinished_bytes_max`] together, each for at most
//!   [`Limits::message_ticks_max`].
//!
//! [`Pace::frames`]: super::pace::Pace::frames
//! [`Limits::unfinished_bytes_max`]: crate::config::Limits::unfinished_bytes_max
//! [`Limits::message_ticks_max`]: crate::config::Limits::message_ticks_max

use std::{io, mem};

use super::{
    incoming::{Buffer, Incoming, MessagePace, Next, Queue, RECEIVE_BUFFER},
    io_state::{Reading, Room, ShardConnection},
    pace::frames_of,
    state::Shard,
};
use crate::{
    hub::{ConnectionId, Homes},
    metrics::Counter,
    proto::State,
    sys::{Io, Readiness, Receive, Resumed},
};

impl<I: Io> Shard<I> {
    /// Notes the readiness that the ring reports.
    pub(super) fn reap(&mut self) {
        let mut readiness = mem::take(&mut self.readiness);
        self.io.reap(&mut readiness);
        for Readiness { key, readable, hung_up, writable, disarmed } in readiness.drain(..) {
            let id = self.hub.connections.name(key.slot, key.generation);
            // The report was on its way when its connection ended.
            let Some(connection) = self.hub.connections.get_mut(id) else { continue };
            if hung_up {
                connection.io.sides.hang_up();
            }
            let is_gone = hung_up && connection.io.reading == Reading::Throttled;
            if disarmed && let Some(socket) = &self.sockets[key.slot as usize] {
                self.io.arm(key, socket);
            }
            if readable {
                self.incoming.push_ready(connection, id);
            }
            if writable && let Some(socket) = &self.sockets[key.slot as usize] {
                match self.io.resume(key, socket) {
                    Resumed::Room => {
                        if let Some(output) = &mut connection.io.output {
                            output.room = Room::Found;
                        }
                        self.flush.mark_dirty(connection, id);
                    }
                    Resumed::Nothing => {}
                    Resumed::Refused => self.flush.pause(id, self.now),
                }
            }
            if is_gone {
                self.note_gone(id);
            }
        }
        self.readiness = readiness;
    }

    /// Receives from connections that are ready and handles their input, up to a bound, so that the flush of this turn
    /// is not delayed.
    pub(super) fn receive(&mut self) {
        let mut budget = self.part_of_turn(self.pace.frames as usize) as u32;
        // A client whose input waits for the shard does not use up the time of its message.
        let receives_nothing = self.receives_nothing() && self.has_input();
        self.incoming.unfinished.stop(receives_nothing, self.now);
        let mut copies = Copies { frames: budget / 2, has_begun: false };
        self.incoming.begin_turn();
        for _ in 0..self.pace.receive_batches {
            if budget == 0 || !self.has_input() {
                break;
            }
            if self.receives_nothing() {
                // The input of publishers stays in their sockets until subscribers have been served.
                self.count(Counter::ReceivePaused, 1);
                break;
            }
            budget = self.receive_batch(budget, &mut copies);
        }
        self.incoming.end_turn();
        self.discard_input();
    }

    /// Notes a connection that is not open and has filled a buffer: its input is only dropped.
    fn notice_discarding(&mut self, id: ConnectionId) {
        let is_open = |connection: &ShardConnection| connection.io.session.state() == State::Open;
        if self.hub.connections.get(id).is_some_and(|connection| !is_open(connection)) {
            self.incoming.note_discarding(id);
        }
    }

    /// Resets the connections whose input has been dropped for the longest time, while there are too many of them.
    fn limit_discarding(&mut self) {
        if self.incoming.discarding.len() <= DISCARDING_MAX {
            return;
        }
        let connections = &self.hub.connections;
        self.incoming.discarding.retain(|&id| connections.get(id).is_some());
        while self.incoming.discarding.len() > DISCARDING_MAX
            && let Some(id) = self.incoming.discarding.pop_front()
        {
            self.reset(id);
        }
    }

    /// Serves up to [`Pace::receive_batch`] connections. Returns the rest of the budget.
    ///
    /// [`Pace::receive_batch`]: super::pace::Pace::receive_batch
    fn receive_batch(&mut self, mut budget: u32, copies: &mut Copies) -> u32 {
        let most = self.pace.receive_batch.min(self.incoming.len());
        copies.frames = copies.frames.min(budget / 2);
        // Connections that have unparsed input, and connections whose sockets are read.
        let mut unparsed: Vec<(ConnectionId, Buffer)> = Vec::new();
        let mut batch: Vec<(ConnectionId, Buffer)> = Vec::with_capacity(most);
        for _ in 0..most {
            let connections = &self.hub.connections;
            // A connection that has ended needs no copy.
            let admit = |id, frames| if connections.get(id).is_some() { copies.admit(frames) } else { Some(0) };
            let Some(next) = self.incoming.pop(admit, |homes| self.hub.is_behind(homes)) else { break };
            let (id, admitted) = (next.id, next.copied);
            budget -= admitted.unwrap_or(0);
            let Some(homes) = self.admit(next) else { continue };
            let Some(connection) = self.hub.connections.get_mut(id) else { continue };
            if connection.io.session.state() == State::Closed {
                self.incoming.drop_input(connection);
                self.incoming.push_busy(connection, id);
                continue;
            }
            if let Some(bytes) = self.incoming.take_unparsed(connection) {
                // `is_own` keeps `keep_unparsed` from holding this large buffer for a few bytes after its frame.
                let is_own = bytes.capacity() > RECEIVE_BUFFER;
                unparsed.push((id, Buffer { bytes, is_own, is_consumed: false }));
            } else {
                let frames = frames_of(Incoming::copied_for(connection));
                if admitted.is_none() && frames > 0 {
                    // Copies are made in the order of the queue of copies.
                    let copied = if self.incoming.is_copying() { None } else { copies.admit(frames) };
                    let Some(copied) = copied else {
                        self.incoming.push_copying(connection, id, frames);
                        continue;
                    };
                    budget -= copied;
                }
                let is_limited = self.rates.is_some() && self.handlers.route(id).rules.rates.messages.is_some();
                let pace = if is_limited { MessagePace::Limited } else { MessagePace::Free };
                batch.push((id, self.incoming.buffer_for(connection, homes, pace)));
            }
        }
        let outcomes = self.receive_into(&mut batch);
        let mut served = unparsed.len() + batch.len();
        let mut frames_max = |budget: u32| {
            // A connection for which no frame is left comes first in the next turn.
            let frames = if budget == 0 { 0 } else { (budget / served as u32).max(1) };
            served -= 1;
            frames
        };
        for (id, buffer) in unparsed {
            budget = budget.saturating_sub(self.input(id, buffer, 0, frames_max(budget)));
            // The socket may have become readable meanwhile.
            self.queue_again(id);
        }
        for ((id, buffer), outcome) in batch.into_iter().zip(outcomes) {
            budget = budget.saturating_sub(self.received(id, buffer, outcome, frames_max(budget)));
        }
        self.incoming.end_batch();
        budget
    }

    /// Admits the next connection to the batch. Returns `None` if the connection has ended or must be paused. Otherwise
    /// returns the homes, or the topic, that its next message may have to wait for, if there are any.
    fn admit(&mut self, Next { id, queue, awaited, .. }: Next) -> Option<Option<Homes>> {
        let owes_much = self.owes_much(id);
        let connection = self.hub.connections.get_mut(id)?;
        let has_awaited = queue == Queue::Awaiting;
        if !has_awaited {
            connection.io.reading = Reading::Idle;
        } else if self.incoming.end_awaiting(connection, id, self.now) {
            // The time of its message goes on.
            self.schedule(id);
        } else {
            return None;
        }
        let connection = self.hub.connections.get_mut(id)?;
        if owes_much {
            self.incoming.park(connection, id, self.now);
            self.count(Counter::Parked, 1);
            return None;
        }
        if let Some(rate) = self.exceeded_rate(id).filter(|&rate| self.holds_up(id, rate)) {
            self.throttle(id, rate);
            return None;
        }
        if !has_awaited && !self.hub.has_waiting() && !self.incoming.has_awaiting() {
            self.incoming.note_served_behind(id);
            return Some(None);
        }
        let mut homes = self.next_homes(id);
        // Connections that already wait for the same home go first. A connection that waited for a copy has had its
        // turn among them.
        let is_later = matches!(queue, Queue::Ready | Queue::Busy);
        let has_others = |homes| is_later && self.incoming.is_awaited(homes);
        if let Some(homes) = homes.clone().find(|&homes| has_others(homes) || self.hub.is_behind(homes)) {
            self.await_home(id, homes, queue);
            return None;
        }
        self.incoming.note_served(id, awaited);
        let first = homes.clone().next();
        Some(homes.find(|&homes| self.incoming.is_awaited(homes)).or(first))
    }

    /// Drops input of closed connections. Dropped input makes room, which the kernel fills at once with the bytes that
    /// the peer has ready, in the time of this call. So a turn drops input of few connections.
    fn discard_input(&mut self) {
        for _ in 0..DISCARDS_PER_TURN {
            let Some(id) = self.incoming.pop_closed() else { break };
            let Some(connection) = self.hub.connections.get_mut(id) else { continue };
            connection.io.reading = Reading::Idle;
            self.discard(id);
        }
        self.limit_discarding();
    }

    /// Drops input of a closed connection.
    fn discard(&mut self, id: ConnectionId) {
        let Some(socket) = &self.sockets[id.slot() as usize] else { return };
        let result = self.io.discard(socket, DISCARD_MAX);
        let result = self.checked(id, result);
        let Some(connection) = self.hub.connections.get_mut(id) else { return };
        match result {
            Ok(0) => {
                connection.io.sides.end_peer();
                self.end_if_done(id);
            }
            Ok(count) => {
                // A goodbye may wait until the peer is silent.
                connection.io.session.excuse_silence(self.now);
                let is_full = count == DISCARD_MAX;
                let has_more = is_full || connection.io.sides.has_hung_up() || self.has_unread(id);
                self.count(Counter::BytesIn, count as u64);
                if has_more {
                    self.queue_again(id);
                }
                if is_full {
                    self.incoming.note_discarding(id);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => self.queue_again(id),
            Err(error) => self.lose(id, &error),
        }
    }

    /// Receives into each buffer of the batch, in one system call.
    fn receive_into(&mut self, batch: &mut [(ConnectionId, Buffer)]) -> Vec<Received> {
        if batch.is_empty() {
            return Vec::new();
        }
        let sockets = &self.sockets;
        let mut entries: Vec<Receive<'_, I::Socket>> = batch
            .iter_mut()
            .map(|(id, buffer)| {
                let socket = sockets[id.slot() as usize].as_ref().expect("a connection has a socket");
                Receive::new(socket, &mut buffer.bytes)
            })
            .collect();
        self.io.receive(&mut entries);
        entries.into_iter().map(|Receive { result, has_more, .. }| Received { result, has_more }).collect()
    }

    /// Handles the outcome of one receive, up to `frames_max` frames of it. Returns the part of the budget that was
    /// used.
    fn received(&mut self, id: ConnectionId, buffer: Buffer, outcome: Received, frames_max: u32) -> u32 {
        let result = self.checked(id, outcome.result);
        let Some(connection) = self.hub.connections.get_mut(id) else {
            self.incoming.give_back(buffer);
            return 0;
        };
        match result {
            Ok(0) => {
                connection.io.sides.end_peer();
                self.incoming.give_back(buffer);
                self.end_if_done(id);
                0
            }
            Ok(count) => {
                // No report comes for input that was left in the socket: behind a full buffer, or behind an urgent
                // byte. A hang-up is reported only once, so the shard receives until the end shows.
                let is_full = buffer.bytes.len() == buffer.bytes.capacity() || count == Receive::<I::Socket>::BYTES_MAX;
                let has_more = is_full || outcome.has_more || connection.io.sides.has_hung_up();
                self.count(Counter::BytesIn, count as u64);
                self.charge_bytes(id, count);
                let frames = self.input(id, buffer, count, frames_max);
                if has_more {
                    self.queue_again(id);
                }
                if is_full {
                    self.notice_discarding(id);
                }
                frames + frames_of(count)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if connection.is_lost {
                    // All that had arrived has been handled.
                    self.incoming.give_back(buffer);
                    self.end_lost(id);
                    return 0;
                }
                self.keep_rest(id, buffer);
                // The buffer may have grown for this receive.
                self.note_unfinished(id, 0, false);
                0
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                self.keep_rest(id, buffer);
                self.note_unfinished(id, 0, false);
                self.queue_again(id);
                0
            }
            Err(error) => {
                self.incoming.give_back(buffer);
                self.lose(id, &error);
                0
            }
        }
    }

    /// Returns the result of a receive; `Interrupted` if the kernel says that there is no input although there is some.
    /// It does so in front of an urgent byte while a signal, or work of a ring, waits for the thread.
    fn checked(&self, id: ConnectionId, result: io::Result<usize>) -> io::Result<usize> {
        match result {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && self.has_unread(id) => {
                Err(io::ErrorKind::Interrupted.into())
            }
            result => result,
        }
    }

    /// Returns whether the connection's socket has input that was not received.
    fn has_unread(&self, id: ConnectionId) -> bool {
        self.sockets[id.slot() as usize].as_ref().is_some_and(|socket| self.io.unread(socket) > 0)
    }

    /// Queues the connection again: its socket may hold more, or its input is not parsed to its end.
    fn queue_again(&mut self, id: ConnectionId) {
        if let Some(connection) = self.hub.connections.get_mut(id) {
            self.incoming.push_busy(connection, id);
        }
    }
}

/// The outcome of one receive.
#[derive(Debug)]
struct Received {
    result: io::Result<usize>,
    /// Whether input was left in the socket.
    has_more: bool,
}

/// The most bytes that are dropped in one call.
const DISCARD_MAX: usize = RECEIVE_BUFFER;

/// The most closed connections whose input a turn drops.
pub(super) const DISCARDS_PER_TURN: usize = 16;

/// The most connections of a shard that are not open and whose clients still send much. Each may have megabytes in the
/// kernel's buffers, and takes time of the shard. A client that is closed and connects again at once adds such a
/// connection each time.
pub(super) const DISCARDING_MAX: usize = 128;

/// The rest of a turn's budget for copies of full buffers, which is half of the turn's frames at first. The first copy
/// is made whatever its size.
#[derive(Debug)]
struct Copies {
    frames: u32,
    has_begun: bool,
}

impl Copies {
    /// Returns the frames that the copy takes from the turn's budget, at most those left for copies. Returns `None` if
    /// the copy waits for the next turn.
    fn admit(&mut self, frames: u32) -> Option<u32> {
        if frames > self.frames && self.has_begun {
            return None;
        }
        let taken = frames.min(self.frames);
        self.frames -= taken;
        self.has_begun |= frames > 0;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_copies_half_of_its_budget_or_one_buffer() {
        let new = || Copies { frames: 32, has_begun: false };
        let mut large = new();
        assert_eq!([64, 1, 0].map(|frames| large.admit(frames)), [Some(32), None, Some(0)]);
        let mut small = new();
        assert_eq!([0, 8, 64, 24, 1].map(|frames| small.admit(frames)), [Some(0), Some(8), None, Some(24), None]);
    }
}
