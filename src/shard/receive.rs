//! Receiving: from readable sockets to what their frames say.
//!
//! The plain version: receive from each connection that is ready into one of the shard's buffers, and handle all that
//! arrived. What is added, so that nobody who sends much makes the others wait:
//!
//! - **A budget.** A turn parses up to [`Pace::frames`] frames. The connections of a batch share what is left of it
//!   evenly; one alone gets all. A connection whose share is used up keeps the rest of its input, which is parsed
//!   before its socket is read again.
//! - **Two queues.** Connections that the ring has just reported stand in `ready`; those that had more than their
//!   share, or whose socket filled its buffer, stand in `busy`. Both are served by turns, so that whoever sends little
//!   waits for no crowd of those who send much.
//! - **Room is asked for between two messages.** While too much waits to be sent nothing is parsed; and a connection
//!   that does not take what it is sent (above half of its backlog's limit) is *parked*: it is not read from until it
//!   has taken some.
//! - **Messages that do not end** hold at most [`Limits::unfinished_bytes_max`] together, each for at most
//!   [`Limits::message_ticks_max`].
//!
//! [`Pace::frames`]: super::pace::Pace::frames
//! [`Limits::unfinished_bytes_max`]: crate::config::Limits::unfinished_bytes_max
//! [`Limits::message_ticks_max`]: crate::config::Limits::message_ticks_max

use std::{io, mem};

use bytes::BytesMut;

use super::{
    incoming::{Buffer, RECEIVE_BUFFER, STAYS_IN_PLACE},
    io_state::Reading,
    turn::Shard,
};
use crate::{
    hub::{ConnectionId, Publishing},
    metrics::Counter,
    proto::{CloseCode, Event, Input, MessageLimits, ProtocolError, State, Verdict},
    sys::{Io, Receive},
};

impl<I: Io> Shard<I> {
    /// Receives from connections that are ready and handles what they sent, up to a bound, so that sending has its turn
    /// too.
    pub(super) fn receive(&mut self) {
        let mut budget = if self.flush.has_walks() { self.pace.frames_beside_walks } else { self.pace.frames };
        for _ in 0..self.pace.receive_batches {
            if budget == 0 || self.incoming.is_empty() {
                return;
            }
            if self.is_full() {
                // Publishers wait in their sockets until subscribers have been served, here or on other shards.
                self.count(Counter::ReceivePaused, 1);
                return;
            }
            budget = self.receive_batch(budget);
        }
    }

    /// Serves up to [`Pace::receive_batch`] connections. Returns what is left of the budget.
    ///
    /// [`Pace::receive_batch`]: super::pace::Pace::receive_batch
    fn receive_batch(&mut self, mut budget: u32) -> u32 {
        let most = self.pace.receive_batch.min(self.incoming.len());
        // Those whose input is parsed on, and those whose sockets are read.
        let mut unparsed: Vec<(ConnectionId, Buffer)> = Vec::new();
        let mut batch: Vec<(ConnectionId, Buffer)> = Vec::with_capacity(most);
        while batch.len() + unparsed.len() < most
            && let Some(id) = self.incoming.pop()
        {
            let owes_much = self.owes_much(id);
            let Some(connection) = self.hub.connections.get_mut(id) else { continue };
            connection.io.reading = if owes_much { Reading::Parked } else { Reading::Idle };
            if owes_much {
                self.incoming.park(connection, id, self.now);
                self.count(Counter::Parked, 1);
                continue;
            }
            if let Some(bytes) = self.incoming.take_unparsed(connection) {
                unparsed.push((id, Buffer { bytes, is_own: false, is_consumed: false }));
            } else {
                batch.push((id, self.incoming.buffer_for(connection)));
            }
        }
        let results = self.receive_into(&mut batch);
        let mut served = unparsed.len() + batch.len();
        let mut share = |budget: u32| {
            let share = (budget / served as u32).max(1);
            served -= 1;
            share
        };
        for (id, buffer) in unparsed {
            budget = budget.saturating_sub(self.input(id, buffer, share(budget)));
            // It has not been received from since then.
            self.look_again(id);
        }
        for ((id, buffer), result) in batch.into_iter().zip(results) {
            budget = budget.saturating_sub(self.received(id, buffer, result, share(budget)));
        }
        budget
    }

    /// Receives into each buffer of the batch, in one system call.
    fn receive_into(&mut self, batch: &mut [(ConnectionId, Buffer)]) -> Vec<io::Result<usize>> {
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
        entries.into_iter().map(|entry| entry.result).collect()
    }

    /// Handles the outcome of one receive, up to `share` frames of it. Returns what that took of the budget.
    fn received(&mut self, id: ConnectionId, buffer: Buffer, result: io::Result<usize>, share: u32) -> u32 {
        let Some(connection) = self.hub.connections.get_mut(id) else {
            self.incoming.give_back(buffer);
            return 0;
        };
        match result {
            Ok(0) => {
                connection.io.peer_done = true;
                self.incoming.give_back(buffer);
                self.end_if_done(id);
                0
            }
            Ok(count) => {
                // A full buffer may have left something behind, and a hang-up is not reported again.
                let is_full = buffer.bytes.len() == buffer.bytes.capacity() || count == Receive::<I::Socket>::BYTES_MAX;
                let has_more = is_full || connection.io.hung_up;
                self.count(Counter::BytesIn, count as u64);
                let frames = self.input(id, buffer, share);
                if has_more {
                    self.look_again(id);
                }
                frames + (count / BYTES_PER_FRAME) as u32
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.keep_rest(id, buffer);
                0
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                self.keep_rest(id, buffer);
                self.look_again(id);
                0
            }
            Err(error) => {
                self.incoming.give_back(buffer);
                self.lose(id, &error);
                0
            }
        }
    }

    /// Notes that the connection's socket may hold more, or that its input is not parsed to its end.
    fn look_again(&mut self, id: ConnectionId) {
        if let Some(connection) = self.hub.connections.get_mut(id) {
            self.incoming.push_busy(connection, id);
        }
    }

    /// Notes that the client sent something with its opening request, which is parsed with the next batch.
    pub(super) fn receive_leftover(&mut self, id: ConnectionId, leftover: BytesMut) {
        if let Some(connection) = self.hub.connections.get_mut(id)
            && !leftover.is_empty()
        {
            self.incoming.keep_unparsed(connection, id, leftover);
        }
    }

    /// Returns whether the connection is owed so much that it is not read from: above half of what a backlog may have.
    /// A connection that is closing is always read from, since its client's close frame or end is awaited.
    fn owes_much(&self, id: ConnectionId) -> bool {
        let Some(connection) = self.hub.connections.get(id) else { return false };
        let Some(output) = &connection.io.output else { return false };
        let is_much = output.bytes() > self.limits.backlog_bytes_max / 2
            || output.backlog.messages() > self.limits.backlog_messages_max / 2;
        is_much && connection.websocket.state() == State::Open && !self.handlers.has_manual_backpressure(id)
    }

    /// Reads from a parked connection again if it has taken enough of what it is owed, or is closing.
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

    /// Parses what has arrived, up to `share` frames, and does what it says. Returns how many frames that were.
    fn input(&mut self, id: ConnectionId, received: Buffer, share: u32) -> u32 {
        let length = received.bytes.len();
        let mut input = Input::new(received.bytes);
        input.limit_frames(share);
        let mut replies = mem::take(&mut self.replies);
        let (mut has_ended_message, mut is_paused) = (false, false);
        while !is_paused && let Some(connection) = self.hub.connections.get(id) {
            let limits = self.handlers.limits(id, || !connection.websocket.is_within_message());
            match self.next_event(id, &mut input, &limits, &mut replies) {
                Ok(None) => break,
                Ok(Some(Event::Message(message))) => {
                    has_ended_message = true;
                    self.count(Counter::MessagesIn, 1);
                    let forwards = self.hub.connections.get(id).and_then(|connection| connection.publishes);
                    if let Some(Publishing { topic, scope }) = forwards {
                        self.hub.publish(topic, Some(id), &message.prepare(), scope);
                    } else {
                        self.say(id, &mut replies);
                        self.tell(id, Event::Message(message));
                    }
                }
                Ok(Some(event)) => {
                    has_ended_message |= matches!(event, Event::Fragment(_));
                    // What the protocol has said before goes before what a handler says: it may close.
                    self.say(id, &mut replies);
                    self.tell(id, event);
                }
                Err(error) => {
                    tracing::debug!(%id, peer = self.peer(id), %error, "the client broke the protocol");
                    self.count(Counter::ProtocolErrors, 1);
                    self.say(id, &mut replies);
                    self.call(id, |handler, door, seat| handler.on_error(door, seat, &error));
                }
            }
            is_paused = self.is_full() || self.owes_much(id);
        }
        self.finish_replies(id, replies);
        let frames = share - input.frames_left();
        let is_stopped = is_paused || input.frames_left() == 0;
        let bytes = input.into_rest();
        let consumed = length - bytes.len();
        let buffer = Buffer { bytes, is_own: received.is_own, is_consumed: consumed > 0 };
        if is_stopped && !buffer.bytes.is_empty() {
            self.count(Counter::InputDeferred, 1);
            self.keep_unparsed(id, buffer);
        } else {
            self.keep_rest(id, buffer);
        }
        self.note_unfinished(id, has_ended_message, is_paused);
        self.notice_close(id);
        frames
    }

    /// The next event of what has arrived, after the handler has looked at its frames if it wants to.
    #[inline]
    fn next_event<'a>(
        &mut self,
        id: ConnectionId,
        input: &'a mut Input,
        limits: &MessageLimits,
        replies: &mut Vec<u8>,
    ) -> Result<Option<Event<'a>>, ProtocolError> {
        let hook = self.looks_at_frames(id);
        let Some(connection) = self.hub.connections.get_mut(id) else { return Ok(None) };
        let Some((handler, seat)) = hook else {
            return connection.websocket.receive(self.now, input, limits, replies);
        };
        let mut panicked = None;
        let event =
            connection.websocket.receive_with(self.now, input, limits, replies, |header, payload| {
                match handler.on_frame(seat, header, payload) {
                    Ok(Verdict::Fail(code)) if !code.is_sendable() && code != CloseCode::NO_STATUS => {
                        tracing::error!(%id, %code, "a handler fails a connection with a code nobody may send");
                        Verdict::Fail(CloseCode::INTERNAL_ERROR)
                    }
                    Ok(verdict) => verdict,
                    Err(panic) => {
                        panicked = Some(panic);
                        Verdict::Fail(CloseCode::INTERNAL_ERROR)
                    }
                }
            });
        if let Some(panicked) = panicked {
            // The client is told; the handler knows.
            self.notice_panic(id, &panicked);
            return Ok(None);
        }
        event
    }

    /// Appends what the protocol has said so far.
    #[inline]
    fn say(&mut self, id: ConnectionId, replies: &mut Vec<u8>) {
        if !replies.is_empty() {
            self.reply(id, replies);
            replies.clear();
        }
    }

    /// Keeps input that is to be parsed before anything else is received.
    fn keep_unparsed(&mut self, id: ConnectionId, buffer: Buffer) {
        let Buffer { bytes: rest, is_own, is_consumed } = buffer;
        let Some(connection) = self.hub.connections.get_mut(id) else {
            return self.incoming.give_back(Buffer { bytes: rest, is_own, is_consumed });
        };
        // A buffer that was made for one frame does not stay for what came behind it, which is one receive at most.
        let rest = if is_own && is_consumed { BytesMut::from(&rest[..]) } else { rest };
        self.incoming.keep_unparsed(connection, id, rest);
    }

    /// Keeps what is left of the input for the next receive, and gives the receive buffer back.
    ///
    /// Little is copied into as little memory. Much is the beginning of a large frame, which goes on arriving where it
    /// will stay, since it is to be sent from there. Its buffer doubles as it fills: a peer that has only announced a
    /// frame does not hold memory for it.
    fn keep_rest(&mut self, id: ConnectionId, buffer: Buffer) {
        let Buffer { bytes: mut rest, is_own, is_consumed } = buffer;
        if let Some(connection) = self.hub.connections.get_mut(id)
            && !rest.is_empty()
        {
            let missing = connection.websocket.missing(&rest);
            // Behind a frame that was consumed a buffer of its own would go on keeping that frame's memory.
            let stays = if is_own { !is_consumed } else { rest.len() >= RECEIVE_BUFFER / 2 };
            if stays {
                if rest.len() == rest.capacity() {
                    rest.reserve(missing.clamp(1, rest.len()));
                }
                connection.io.partial = Some(Box::new(rest));
                return;
            }
            // Below the limit it goes back into a receive buffer and needs no room.
            let room = if rest.len() >= STAYS_IN_PLACE { missing.min(rest.len()).max(1) } else { 0 };
            let mut partial = BytesMut::with_capacity(rest.len() + room);
            partial.extend_from_slice(&rest);
            connection.io.partial = Some(Box::new(partial));
        }
        self.incoming.give_back(Buffer { bytes: rest, is_own, is_consumed });
    }

    /// Notes what the connection's message under way holds. If all of them hold too much, those that have been under
    /// way for the longest time are given up.
    ///
    /// The time in which input waits is the client's if its share is used up, by whatever it has sent, but not if the
    /// shard may not parse (`is_paused`).
    fn note_unfinished(&mut self, id: ConnectionId, has_ended_message: bool, is_paused: bool) {
        let Some(connection) = self.hub.connections.get(id) else { return };
        if has_ended_message {
            self.incoming.unfinished.forget(id);
        }
        if connection.io.has_unparsed {
            if is_paused {
                self.incoming.unfinished.pause(id, self.now);
            } else if self.incoming.unfinished.resume(id, self.now) {
                self.schedule(id);
            }
            return;
        }
        let partial = connection.io.partial.as_ref().map_or(0, |partial| partial.capacity());
        let bytes = partial + connection.websocket.assembled_bytes();
        if bytes == 0 || connection.websocket.state() != State::Open {
            return self.incoming.unfinished.forget(id);
        }
        if self.incoming.unfinished.note(id, bytes, self.now) {
            self.schedule(id);
        }
        // Its time may have been over when there was input to be parsed, in which its end might have stood.
        self.expire_message(id);
        for _ in 0..GIVEN_UP_AT_ONCE {
            if self.incoming.unfinished.bytes() <= self.unfinished_bytes_max {
                break;
            }
            let Some(oldest) = self.incoming.unfinished.oldest() else { break };
            tracing::debug!(id = %oldest, peer = self.peer(oldest), "too many messages are unfinished: given up");
            self.count(Counter::UnfinishedClosed, 1);
            self.close(oldest, CloseCode::TRY_AGAIN_LATER, "too many messages are unfinished");
        }
    }

    /// Closes the connection if its message under way has had its time.
    pub(super) fn expire_message(&mut self, id: ConnectionId) {
        let Some(since) = self.incoming.unfinished.since(id) else { return };
        if self.limits.message_ticks_max == 0 || since.after(self.limits.message_ticks_max) > self.now {
            return;
        }
        let has_unparsed = self.hub.connections.get(id).is_some_and(|connection| connection.io.has_unparsed);
        if has_unparsed || self.is_full() {
            // The rest may have come. It is looked at again when what was received is parsed, and with the next tick.
            return;
        }
        tracing::debug!(%id, peer = self.peer(id), "a message did not arrive in time");
        self.count(Counter::MessageTimeout, 1);
        self.close(id, CloseCode::POLICY_VIOLATION, "a message did not arrive in time");
    }

    /// Lets the rest of a message go that a closing connection does not take any more: parsing drops it.
    pub(super) fn drop_partial(&mut self, id: ConnectionId) {
        self.unpark(id);
        self.incoming.unfinished.forget(id);
        let Some(connection) = self.hub.connections.get_mut(id) else { return };
        // Below this it may be the beginning of a header or of the peer's close frame, which stays.
        if !connection.io.has_unparsed
            && connection.io.partial.as_ref().is_some_and(|partial| partial.len() >= STAYS_IN_PLACE)
            && let Some(rest) = connection.io.partial.take()
        {
            self.incoming.keep_unparsed(connection, id, *rest);
        }
    }
}

/// Messages that are given up for one that grows; the next that grows gives up more.
const GIVEN_UP_AT_ONCE: usize = 64;

/// Input is counted as frames of this size if it has fewer.
const BYTES_PER_FRAME: usize = 1_024;
