//! The connections that a shard receives from, and the buffers that it receives into.

use std::{collections::VecDeque, mem};

use bytes::BytesMut;

use super::{
    awaiting::Awaiting,
    io_state::{Reading, ShardConnection},
    pace::Pace,
    unfinished::Unfinished,
};
use crate::{
    config::Limits,
    hub::{ConnectionId, Homes, LARGE_PIECE_PINS},
    proto::{State, Tick},
    sys::Receive,
};

/// The connections that a shard receives from, and the input that has arrived and is not handled.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    /// Open connections whose sockets have been reported readable.
    ready: VecDeque<ConnectionId>,
    /// Connections that had more input than their part of the frames: input that is not parsed, or a socket that filled
    /// its buffer. Connections that are closing stand here too.
    busy: VecDeque<ConnectionId>,
    /// Connections whose session is closed: thousands of them may send input that is only dropped.
    closed: VecDeque<ConnectionId>,
    /// Connections whose large frame has filled its buffer, with the number of frames that the copy into a larger
    /// buffer counts as.
    copying: VecDeque<(ConnectionId, u32)>,
    /// Connections that a turn took from a queue when no frame of its budget was left.
    unserved: Vec<ConnectionId>,
    /// Connections that wait until a home, or a topic, is not behind any more.
    awaiting: Awaiting,
    /// Connections of the batch under way whose home had fallen behind before they were served. They go to the front of
    /// the queues of that home.
    postponed: Vec<(ConnectionId, Homes)>,
    /// The connections of the batch in the order in which they were taken out of their queues, each with the homes, or
    /// the topic, that it has waited for. Empty as long as none of them may be postponed.
    served: Vec<(ConnectionId, Option<Homes>)>,
    /// The queue that the next connection comes from, unless the queue is empty.
    next: Queue,
    /// The number of connections whose input is not parsed to its end, without those that wait for a home and those
    /// that are parked or throttled.
    unparsed: usize,
    /// The number of throttled connections.
    throttled: usize,
    /// The number of throttled connections with unparsed input.
    throttled_unparsed: usize,
    /// Bytes of the unparsed input of connections that are parked or throttled, by [`paused_bytes`].
    paused_bytes: usize,
    pub(super) unfinished: Unfinished,
    /// Connections that are not open and have filled a receive since they left the open state, in the order of these
    /// receives.
    pub(super) discarding: VecDeque<ConnectionId>,
    /// Receive buffers that are free.
    buffers: Vec<BytesMut>,
}

/// A queue of connections to receive from. The queues are served alternately, in this order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Queue {
    #[default]
    Copying,
    Ready,
    Busy,
    /// The queues of homes and topics that are not behind any more.
    Awaiting,
}

/// Whether a rate limits the messages of a connection, so that it may be throttled with unparsed input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MessagePace {
    Free,
    Limited,
}

/// A connection that comes next.
#[derive(Debug, Clone, Copy)]
pub(super) struct Next {
    pub(super) id: ConnectionId,
    /// The queue that it stood in.
    pub(super) queue: Queue,
    /// The number of frames that the connection's copy was admitted with, if the connection has waited for a copy.
    pub(super) copied: Option<u32>,
    /// The homes, or the topic, that the connection has waited for.
    pub(super) awaited: Option<Homes>,
}

/// A buffer to receive into.
#[derive(Debug)]
pub(super) struct Buffer {
    pub(super) bytes: BytesMut,
    /// The buffer belongs to one connection, and is not one of the shard's receive buffers.
    pub(super) is_own: bool,
    /// Bytes at the buffer's front have been parsed and are gone.
    pub(super) is_consumed: bool,
}

impl Incoming {
    /// Returns whether there is no connection to receive from or to parse, those that wait for homes included.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns whether a closed connection has input to be dropped.
    pub(super) fn has_closed(&self) -> bool {
        !self.closed.is_empty()
    }

    /// Returns whether there is a connection to receive from or to parse.
    pub(super) fn has_next(&self, is_behind: impl Fn(Homes) -> bool) -> bool {
        !(self.ready.is_empty() && self.busy.is_empty() && self.copying.is_empty()) || self.awaiting.has_next(is_behind)
    }

    /// Notes that the connection's socket is readable.
    pub(super) fn push_ready(&mut self, connection: &mut ShardConnection, id: ConnectionId) {
        if mark_queued(connection) {
            let queue = match connection.io.session.state() {
                State::Open => &mut self.ready,
                State::Closing => &mut self.busy,
                State::Closed => &mut self.closed,
            };
            queue.push_back(id);
        }
    }

    /// Notes that the connection may have more input.
    pub(super) fn push_busy(&mut self, connection: &mut ShardConnection, id: ConnectionId) {
        if mark_queued(connection) {
            let is_closed = connection.io.session.state() == State::Closed;
            let queue = if is_closed { &mut self.closed } else { &mut self.busy };
            queue.push_back(id);
        }
    }

    /// Drops the input of a closed connection that was received and is not parsed.
    pub(super) fn drop_input(&mut self, connection: &mut ShardConnection) {
        drop(self.take_unparsed(connection));
        connection.io.partial = None;
    }

    /// Returns the next closed connection whose input is to be dropped.
    pub(super) fn pop_closed(&mut self) -> Option<ConnectionId> {
        self.closed.pop_front()
    }

    /// Notes that the turn had no frame left for the connection's input. The connection comes first in the next turn.
    pub(super) fn push_unserved(&mut self, connection: &mut ShardConnection, id: ConnectionId) {
        if mark_queued(connection) {
            self.unserved.push(id);
        }
    }

    /// Notes that the connection waits for a copy that counts as so many frames.
    pub(super) fn push_copying(&mut self, connection: &mut ShardConnection, id: ConnectionId, frames: u32) {
        if mark_queued(connection) {
            self.copying.push_back((id, frames));
        }
    }

    /// Notes that the connection, which is not open, has filled a receive.
    pub(super) fn note_discarding(&mut self, id: ConnectionId) {
        if !self.discarding.contains(&id) {
            self.discarding.push_back(id);
        }
    }

    /// Returns whether a connection waits for a copy.
    pub(super) fn is_copying(&self) -> bool {
        !self.copying.is_empty()
    }

    /// Begins a turn. The first connection that waits for a copy comes first, since a turn makes a very large copy only
    /// as its first copy.
    pub(super) fn begin_turn(&mut self) {
        self.next = Queue::Copying;
        self.awaiting.begin_turn();
    }

    /// Ends a turn: connections for which it had no frame left come before those that it has served.
    pub(super) fn end_turn(&mut self) {
        while let Some(id) = self.unserved.pop() {
            self.busy.push_front(id);
        }
    }

    /// Returns the next connection to serve, from the queues alternately. The first connection that waits for a copy is
    /// returned only if `admit` returns the frames for it; otherwise all connections that wait for copies go on
    /// waiting. A connection that waits for homes is returned only if these homes are not behind.
    pub(super) fn pop(
        &mut self,
        mut admit: impl FnMut(ConnectionId, u32) -> Option<u32>,
        is_behind: impl Fn(Homes) -> bool,
    ) -> Option<Next> {
        for _ in 0..4 {
            let queue = self.next;
            self.next = queue.next();
            let next = |id| Next { id, queue, copied: None, awaited: None };
            let next = match queue {
                Queue::Ready => self.ready.pop_front().map(next),
                Queue::Busy => self.busy.pop_front().map(next),
                Queue::Copying => self.copying.front().and_then(|&(id, frames)| {
                    let copied = Some(admit(id, frames)?);
                    Some(Next { copied, ..next(id) })
                }),
                Queue::Awaiting => {
                    let popped = self.awaiting.pop(&is_behind);
                    popped.map(|(id, homes)| Next { awaited: Some(homes), ..next(id) })
                }
            };
            if let Some(next) = next {
                if next.copied.is_some() {
                    self.copying.pop_front();
                }
                return Some(next);
            }
        }
        None
    }

    /// Returns how many connections wait to be served, those for a home included.
    pub(super) fn len(&self) -> usize {
        self.ready.len() + self.busy.len() + self.copying.len() + self.awaiting.len()
    }

    /// Returns whether connections wait for one of these homes.
    pub(super) fn is_awaited(&self, homes: Homes) -> bool {
        self.awaiting.has(homes)
    }

    /// Returns whether some connection waits for a home.
    pub(super) fn has_awaiting(&self) -> bool {
        !self.awaiting.is_empty()
    }

    /// Keeps input that is not parsed to its end. The connection stands in a queue, or the caller puts it into one.
    pub(super) fn keep_unparsed(&mut self, connection: &mut ShardConnection, rest: BytesMut) {
        connection.io.partial = Some(Box::new(rest));
        if !mem::replace(&mut connection.io.has_unparsed, true) {
            self.unparsed += 1;
        }
    }

    /// Takes input that was not parsed to its end.
    pub(super) fn take_unparsed(&mut self, connection: &mut ShardConnection) -> Option<BytesMut> {
        if !mem::take(&mut connection.io.has_unparsed) {
            return None;
        }
        self.unparsed = self.unparsed.checked_sub(1).expect("unparsed input has been counted");
        connection.io.partial.take().map(|rest| *rest)
    }

    /// Notes that the connection is parked, which [`Incoming::unpark`] ends.
    pub(super) fn park(&mut self, connection: &mut ShardConnection, id: ConnectionId, now: Tick) {
        self.pause(connection, id, Reading::Parked, now);
        Self::fit_unparsed(connection);
        self.paused_bytes += paused_bytes(connection);
    }

    /// Ends the parking: the connection is served again, and the time of its message goes on.
    pub(super) fn unpark(&mut self, connection: &mut ShardConnection, id: ConnectionId, now: Tick) {
        self.paused_bytes -= paused_bytes(connection);
        self.resume(connection, id, Reading::Parked, now);
        self.push_busy(connection, id);
    }

    /// Notes that the connection is throttled, which [`Incoming::unthrottle`] ends.
    pub(super) fn throttle(&mut self, connection: &mut ShardConnection, id: ConnectionId, now: Tick) {
        self.pause(connection, id, Reading::Throttled, now);
        Self::fit_loose(connection);
        self.paused_bytes += paused_bytes(connection);
        self.throttled += 1;
        self.throttled_unparsed += usize::from(connection.io.has_unparsed);
    }

    /// Ends the throttling: the connection is served again, and the time of its message goes on.
    pub(super) fn unthrottle(&mut self, connection: &mut ShardConnection, id: ConnectionId, now: Tick) {
        self.paused_bytes -= paused_bytes(connection);
        self.resume(connection, id, Reading::Throttled, now);
        self.throttled -= 1;
        self.throttled_unparsed -= usize::from(connection.io.has_unparsed);
        self.push_busy(connection, id);
    }

    /// Returns how many receive buffers are free, or are kept at most by connections with unparsed input that are not
    /// parked or throttled.
    pub(super) fn buffers_held(&self) -> usize {
        self.buffers.len() + self.unparsed + self.awaiting.unparsed()
    }

    /// Returns the bytes of the unparsed input of connections that are parked or throttled, without the buffers of
    /// large frames, which are unfinished messages.
    pub(super) fn paused_bytes(&self) -> usize {
        self.paused_bytes
    }

    /// Returns how many connections are throttled.
    pub(super) fn throttled(&self) -> usize {
        self.throttled
    }

    /// Notes that the connection waits for one of these homes. [`Incoming::end_awaiting`] ends the wait when the
    /// connection is taken out of its queue; [`Incoming::leave_home`] ends the wait earlier.
    pub(super) fn await_home(
        &mut self,
        connection: &mut ShardConnection,
        id: ConnectionId,
        homes: Homes,
        queue: Queue,
        now: Tick,
    ) {
        self.enter_home(connection, id, now);
        Self::fit_unparsed(connection);
        self.awaiting.push(homes, queue != Queue::Ready, id);
    }

    /// Notes that a connection of the batch waits for these homes: they fell behind while connections before it were
    /// served. The connection comes first when the homes are not behind any more.
    pub(super) fn postpone(&mut self, connection: &mut ShardConnection, id: ConnectionId, homes: Homes, now: Tick) {
        self.enter_home(connection, id, now);
        Self::fit_loose(connection);
        self.postponed.push((id, homes));
    }

    /// Notes that the connection is of the batch under way, and the homes, or the topic, that it has waited for.
    pub(super) fn note_served(&mut self, id: ConnectionId, awaited: Option<Homes>) {
        self.served.push((id, awaited));
    }

    /// Notes a connection of the batch that need not wait. Does nothing unless a connection before it may be postponed.
    pub(super) fn note_served_behind(&mut self, id: ConnectionId) {
        if !self.served.is_empty() {
            self.served.push((id, None));
        }
    }

    /// Returns the homes, or the topic, that a connection of the batch has waited for.
    pub(super) fn has_awaited(&self, id: ConnectionId) -> Option<Homes> {
        self.served.iter().find(|(served, _)| *served == id)?.1
    }

    /// Ends a batch: puts the postponed connections in front of their queues, in the order in which the batch has taken
    /// them. They were postponed in another order, since connections with unparsed input come before the others.
    pub(super) fn end_batch(&mut self) {
        if self.postponed.len() > 1 {
            self.postponed.sort_by_key(|(id, _)| self.served.iter().position(|(served, _)| served == id));
        }
        while let Some((id, homes)) = self.postponed.pop() {
            self.awaiting.push_front(homes, id);
        }
        self.served.clear();
    }

    /// Ends the wait for a home of a connection that was taken out of its queue. Returns whether the connection still
    /// waited.
    pub(super) fn end_awaiting(&mut self, connection: &mut ShardConnection, id: ConnectionId, now: Tick) -> bool {
        let waits = connection.io.reading == Reading::AwaitsHome;
        if waits {
            self.awaiting.leave(connection.io.has_unparsed);
            self.resume(connection, id, Reading::AwaitsHome, now);
        }
        waits
    }

    /// Ends the wait for a home of a connection that need not wait any more, and queues the connection to be served.
    pub(super) fn leave_home(&mut self, connection: &mut ShardConnection, id: ConnectionId, now: Tick) {
        if self.end_awaiting(connection, id, now) {
            self.push_busy(connection, id);
        }
    }

    /// Removes from the queues the connections that wait for no home any more, if these are many.
    pub(super) fn compact_awaiting(&mut self, waits: impl Fn(ConnectionId) -> bool) {
        self.awaiting.compact(waits);
    }

    fn enter_home(&mut self, connection: &mut ShardConnection, id: ConnectionId, now: Tick) {
        self.pause(connection, id, Reading::AwaitsHome, now);
        self.awaiting.enter(connection.io.has_unparsed);
    }

    /// Copies the unparsed input of a connection that may be paused many times before its input is parsed, if the
    /// input's buffer has free room. A full buffer needs no fit: it was fitted before, or one receive has filled it. A
    /// rest that has become half as long was copied when it was parsed ([`is_halved`]).
    fn fit_loose(connection: &mut ShardConnection) {
        if connection.io.partial.as_ref().is_some_and(|rest| rest.capacity() > rest.len()) {
            Self::fit_unparsed(connection);
        }
    }

    /// Copies unparsed input into a buffer of its length. The buffer of a large frame stays: it is counted among the
    /// unfinished messages.
    fn fit_unparsed(connection: &mut ShardConnection) {
        if connection.io.has_unparsed
            && let Some(rest) = &mut connection.io.partial
            && rest.capacity() <= RECEIVE_BUFFER
        {
            **rest = BytesMut::from(&rest[..]);
        }
    }

    /// Notes that the connection is not received from, and that the time of its message stands still.
    fn pause(&mut self, connection: &mut ShardConnection, id: ConnectionId, reading: Reading, now: Tick) {
        assert_eq!(connection.io.reading, Reading::Idle, "a connection that was taken out of its queue is paused");
        connection.io.reading = reading;
        self.unfinished.pause(id, now);
        if connection.io.has_unparsed {
            self.unparsed = self.unparsed.checked_sub(1).expect("unparsed input has been counted");
        }
    }

    fn resume(&mut self, connection: &mut ShardConnection, id: ConnectionId, reading: Reading, now: Tick) {
        assert_eq!(connection.io.reading, reading, "a pause ends once");
        connection.io.reading = Reading::Idle;
        self.unparsed += usize::from(connection.io.has_unparsed);
        self.unfinished.resume(id, now);
    }

    /// Forgets a connection that has ended.
    pub(super) fn forget(&mut self, connection: &ShardConnection, id: ConnectionId) {
        let has_unparsed = connection.io.has_unparsed;
        match connection.io.reading {
            Reading::Parked => self.paused_bytes -= paused_bytes(connection),
            Reading::Throttled => {
                self.paused_bytes -= paused_bytes(connection);
                self.throttled -= 1;
                self.throttled_unparsed -= usize::from(has_unparsed);
            }
            Reading::AwaitsHome => self.awaiting.leave(has_unparsed),
            Reading::Idle | Reading::Queued => {
                let others = self.unparsed.checked_sub(usize::from(has_unparsed));
                self.unparsed = others.expect("unparsed input has been counted");
            }
        }
        self.unfinished.forget(id);
    }

    /// Returns how many bytes [`Incoming::buffer_for`] has to copy because a large frame has filled its buffer.
    pub(super) fn copied_for(connection: &ShardConnection) -> usize {
        let partial = connection.io.partial.as_deref();
        let (length, capacity) = partial.map_or((0, 0), |partial| (partial.len(), partial.capacity()));
        if length >= STAYS_IN_PLACE && length == capacity { length } else { 0 }
    }

    /// Returns a buffer that has the rest of the connection's last input, and room for its next input.
    ///
    /// The buffer of a large frame doubles when it is full: a peer that has only announced a frame does not hold memory
    /// for it. The buffer doubles here and not when it has filled, so that the turn can stop before the next copy.
    /// Otherwise a batch of 64 connections could have 64 large buffers copied at once.
    ///
    /// While few connections have unparsed input, the buffer is one of the shard's receive buffers. Otherwise the
    /// buffer is a small one, since the connection may have to keep it. If `UNPARSED_MAX` connections with unparsed
    /// input wait for homes, buffers are small for connections that may have to wait as well; from `AWAITING_MAX` on,
    /// for all. If `UNPARSED_MAX` throttled connections have unparsed input, buffers are small for connections that may
    /// be throttled with some.
    pub(super) fn buffer_for(
        &mut self,
        connection: &mut ShardConnection,
        homes: Option<Homes>,
        pace: MessagePace,
    ) -> Buffer {
        let may_wait = homes.is_some_and(|homes| homes == Homes::Any || self.awaiting.has(homes));
        let waiting = self.awaiting.unparsed();
        let may_be_throttled = pace == MessagePace::Limited && self.throttled_unparsed >= UNPARSED_MAX;
        let is_crowded = self.unparsed >= UNPARSED_MAX
            || (may_wait && waiting >= UNPARSED_MAX)
            || waiting >= AWAITING_MAX
            || may_be_throttled;
        match connection.io.partial.take() {
            Some(partial) if partial.len() >= STAYS_IN_PLACE => {
                let mut bytes = *partial;
                if bytes.len() == bytes.capacity() {
                    let missing = connection.io.session.missing(&bytes);
                    bytes.reserve(missing.clamp(1, bytes.len()));
                }
                Buffer { bytes, is_own: true, is_consumed: false }
            }
            partial if is_crowded => {
                let partial = partial.map_or_else(BytesMut::new, |partial| *partial);
                let mut bytes = BytesMut::with_capacity(partial.len() + RECEIVE_SMALL);
                bytes.extend_from_slice(&partial);
                Buffer { bytes, is_own: true, is_consumed: false }
            }
            partial => {
                let mut bytes = self.empty_buffer();
                if let Some(partial) = partial {
                    bytes.extend_from_slice(&partial);
                }
                Buffer { bytes, is_own: false, is_consumed: false }
            }
        }
    }

    /// Returns the bytes of receive buffers that are free.
    #[cfg(test)]
    pub(super) fn free_bytes(&self) -> usize {
        self.buffers.iter().map(BytesMut::capacity).sum()
    }

    /// Returns how many connections have input that is not parsed to its end.
    #[cfg(test)]
    pub(super) fn unparsed(&self) -> usize {
        self.unparsed
    }

    fn empty_buffer(&mut self) -> BytesMut {
        let mut buffer = self.buffers.pop().unwrap_or_default();
        buffer.clear();
        // Reuses the memory that parsing has moved past, or takes new memory if a large frame has kept the old.
        buffer.reserve(RECEIVE_BUFFER);
        buffer
    }

    /// Takes a receive buffer back. A buffer that grew with a connection's frame is not kept.
    pub(super) fn give_back(&mut self, buffer: Buffer) {
        let is_usual = !buffer.is_own && buffer.bytes.capacity() <= RECEIVE_BUFFER;
        if is_usual && self.buffers.len() < BUFFERS_MAX {
            self.buffers.push(buffer.bytes);
        }
    }
}

impl Queue {
    fn next(self) -> Queue {
        match self {
            Queue::Copying => Queue::Ready,
            Queue::Ready => Queue::Busy,
            Queue::Busy => Queue::Awaiting,
            Queue::Awaiting => Queue::Copying,
        }
    }
}

/// Returns whether the rest of some input is so much shorter than the input that the rest is worth a copy. One receive
/// is copied less than twice then, however often its connection is paused, and a buffer is less than twice as long as
/// the rest in it.
pub(super) fn is_halved(length: usize, rest: usize) -> bool {
    rest.next_power_of_two() < length.next_power_of_two()
}

/// Returns the bytes that the unparsed input of a connection keeps alive at most, unless they are in the buffer of a
/// large frame, which is an unfinished message.
///
/// They follow from the length alone, which does not change while the connection is paused: a buffer is at most as
/// large as the next power of two.
pub(super) fn paused_bytes(connection: &ShardConnection) -> usize {
    let rest = connection.io.partial.as_ref().filter(|_| connection.io.has_unparsed);
    rest.map_or(0, |rest| if rest.capacity() <= RECEIVE_BUFFER { rest.len().next_power_of_two() } else { 0 })
}

/// Marks a connection as queued. Returns whether the caller has to put the connection into a queue: it stood in none,
/// and is not paused.
fn mark_queued(connection: &mut ShardConnection) -> bool {
    let is_idle = connection.io.reading == Reading::Idle;
    if is_idle {
        connection.io.reading = Reading::Queued;
    }
    is_idle
}

/// Bytes of each receive buffer of the shard. One receive takes no more, unless it goes on with a large frame, which
/// has a buffer of its own.
pub(super) const RECEIVE_BUFFER: usize = LARGE_PIECE_PINS;

/// Bytes of one receive while many connections have unparsed input.
pub(super) const RECEIVE_SMALL: usize = 2 * 1_024;

/// Connections of a shard that may keep a whole receive buffer for input that is not parsed. The connections of one
/// batch may come on top: all of them get their buffers before any of their input is counted.
const UNPARSED_MAX: usize = 64;

const _: () = assert!(
    Limits::RECEIVED_BYTES_MAX == (BUFFERS_MAX + UNPARSED_MAX + Pace::DEFAULT.receive_batch) * RECEIVE_BUFFER,
    "free buffers, those of input that waits, and those of a batch that is added to it"
);

/// If so many connections of a shard wait for homes with unparsed input, every receive is small. Each home may fall
/// behind after a batch of receives for it.
const AWAITING_MAX: usize = 4 * UNPARSED_MAX;

/// From so many bytes on, the beginning of a frame has a buffer of its own, into which the frame goes on arriving. A
/// shorter beginning is copied into the buffer of the next receive.
pub(super) const STAYS_IN_PLACE: usize = 4 * 1_024;

const _: () = assert!(
    STAYS_IN_PLACE < RECEIVE_BUFFER / 2 && RECEIVE_BUFFER <= Receive::<()>::BYTES_MAX,
    "a short rest leaves most of a receive buffer free, and one receive may fill it"
);

/// Receive buffers kept for the next batch.
const BUFFERS_MAX: usize = Pace::DEFAULT.receive_batch;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::{io_state::IoState, session::Session};

    /// Every receive is small while very many connections wait for homes with input, whichever these homes are.
    #[test]
    fn a_crowd_that_waits_for_many_homes_makes_receives_small() {
        let mut incoming = Incoming::default();
        let mut connection = ShardConnection::new(IoState::new(Session::web_socket()));
        let free = MessagePace::Free;
        let mut room =
            |incoming: &mut Incoming, homes| incoming.buffer_for(&mut connection, homes, free).bytes.capacity();
        (1..AWAITING_MAX).for_each(|_| incoming.awaiting.enter(true));
        assert_eq!(room(&mut incoming, None), RECEIVE_BUFFER);
        incoming.awaiting.enter(true);
        assert_eq!(room(&mut incoming, None), RECEIVE_SMALL);
        assert_eq!(room(&mut incoming, Some(Homes::One(3))), RECEIVE_SMALL);
    }
}
