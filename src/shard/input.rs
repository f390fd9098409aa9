//! The input of a connection: from received bytes to the events of its frames.

use std::mem;

use bytes::BytesMut;

use super::{
    incoming::{Buffer, Queue, RECEIVE_BUFFER, STAYS_IN_PLACE, is_halved},
    pace::frames_of,
    state::Shard,
};
use crate::{
    hub::{ConnectionId, Homes, Publishing},
    metrics::Counter,
    proto::{CloseCode, Event, Input, MessageLimits, ProtocolError, State, Verdict},
    sys::Io,
};

/// The outcome of parsing.
struct Parsed {
    /// A data message has ended, or a fragment was an event of its own.
    has_ended_message: bool,
    /// Parsing has stopped because too much waits to be sent.
    is_paused: bool,
    /// Parsing has stopped because these homes are behind.
    lacking: Option<Homes>,
}

impl<I: Io> Shard<I> {
    /// Parses the input that has arrived, up to `frames_max` frames, and acts on it. The last `new` bytes of the input
    /// were received just now. Returns the number of frames.
    pub(super) fn input(&mut self, id: ConnectionId, received: Buffer, new: usize, frames_max: u32) -> u32 {
        if let Some(homes) = self.lacking(id) {
            // The home has fallen behind since the batch began.
            self.postpone(id, received, new, homes);
            return 0;
        }
        let length = received.bytes.len();
        let mut input = Input::new(received.bytes);
        input.limit_frames(frames_max);
        let assembled = self.assembled_bytes(id);
        let Parsed { has_ended_message, is_paused, lacking } = self.parse(id, &mut input);
        // The buffer of a fragmented message doubles when it is full, which copies the fragments in it.
        let has_copied = self.assembled_bytes(id) > assembled || has_ended_message;
        let copied = if has_copied { frames_of(assembled) } else { 0 };
        let frames = frames_max - input.frames_left() + copied;
        let is_stopped = is_paused || input.frames_left() == 0;
        let mut bytes = input.into_rest();
        let consumed = length - bytes.len();
        // A connection whose input has a rate may be throttled with this rest, again and again.
        if is_stopped && self.rates.is_some() && is_halved(length, bytes.len()) {
            bytes = BytesMut::from(&bytes[..]);
        }
        let buffer = Buffer { bytes, is_own: received.is_own, is_consumed: consumed > 0 };
        if is_stopped && !buffer.bytes.is_empty() {
            self.count(Counter::InputDeferred, 1);
            if frames_max == 0
                && let Some(connection) = self.hub.connections.get_mut(id)
            {
                self.incoming.push_unserved(connection, id);
            }
            self.keep_unparsed(id, buffer);
        } else {
            self.keep_rest(id, buffer);
        }
        // The message is noted before the wait, which stops the message's time.
        self.note_unfinished(id, new, has_ended_message);
        if let Some(homes) = lacking {
            // The connection waits even if no input is left: the client's next message would have to wait as well.
            self.await_home(id, homes, Queue::Busy);
        }
        self.look_at_unparsed(id);
        self.notice_close(id);
        frames
    }

    /// Keeps the input of a connection whose homes have fallen behind since the batch began.
    fn postpone(&mut self, id: ConnectionId, received: Buffer, new: usize, homes: Homes) {
        self.count(Counter::InputDeferred, 1);
        self.keep_unparsed(id, received);
        self.note_unfinished(id, new, false);
        match self.hub.connections.get_mut(id) {
            Some(connection) if connection.io.session.state() == State::Open => {
                self.incoming.postpone(connection, id, homes, self.now);
                self.count_wait(homes);
            }
            // The connection was just closed, since too many messages are unfinished.
            _ => self.look_at_unparsed(id),
        }
    }

    fn assembled_bytes(&self, id: ConnectionId) -> usize {
        self.hub.connections.get(id).map_or(0, |connection| connection.io.session.assembled_bytes())
    }

    /// Parses input and acts on it, until there is no further event or the shard may not parse.
    fn parse(&mut self, id: ConnectionId, input: &mut Input) -> Parsed {
        let mut replies = mem::take(&mut self.replies);
        // Forgets the home, or the topic, that had no room for a message of an earlier connection.
        self.hub.take_behind();
        let (mut has_ended_message, mut is_paused, mut lacking) = (false, false, None);
        while !is_paused && let Some(connection) = self.hub.connections.get_mut(id) {
            let limits = self.handlers.limits(id, || !connection.io.session.is_within_message());
            let publishes = connection.publishes;
            // Most messages pass through this loop in a few hundred instructions, so it looks the connection up once.
            let event = if self.handlers.route(id).rules.inspects_frames {
                self.next_inspected(id, input, &limits, &mut replies)
            } else {
                connection.io.session.receive(self.now, input, &limits, &mut replies)
            };
            match event {
                Ok(None) => break,
                Ok(Some(Event::Message(message))) => {
                    has_ended_message = true;
                    self.handlers.notice_end_of_message(id);
                    self.count(Counter::MessagesIn, 1);
                    if let Some(Publishing { topic, scope }) = publishes {
                        self.hub.forward(topic, id, message, scope);
                    } else {
                        self.send_replies(id, &mut replies);
                        self.dispatch(id, Event::Message(message));
                    }
                }
                Ok(Some(event)) => {
                    if let Event::Fragment(fragment) = &event {
                        has_ended_message = true;
                        if fragment.is_last() {
                            self.handlers.notice_end_of_message(id);
                        }
                    }
                    // Earlier replies of the protocol go before the output of a handler, which may close.
                    self.send_replies(id, &mut replies);
                    self.dispatch(id, event);
                }
                Err(error) => {
                    tracing::debug!(%id, peer = self.peer(id), %error, "the client broke the protocol");
                    self.count(Counter::ProtocolErrors, 1);
                    self.send_replies(id, &mut replies);
                    self.call(id, |handler, door, seat| handler.on_error(door, seat, &error));
                }
            }
            if self.hub.has_waiting() {
                lacking = self.lacking_after(id);
            }
            self.charge_message(id);
            is_paused = lacking.is_some() || self.is_full() || self.owes_much(id) || self.is_over_message_rate(id);
        }
        self.finish_replies(id, replies);
        Parsed { has_ended_message, is_paused, lacking }
    }

    /// Returns the homes, or the topic, that the connection has to wait for after an event: the homes for whose
    /// messages from the handler there was no room, or the homes that the next message goes to.
    fn lacking_after(&mut self, id: ConnectionId) -> Option<Homes> {
        self.hub.take_behind().or_else(|| self.lacking(id))
    }

    /// Returns the next event of the input of a connection whose handler sees each frame first.
    fn next_inspected<'a>(
        &mut self,
        id: ConnectionId,
        input: &'a mut Input,
        limits: &MessageLimits,
        replies: &mut Vec<u8>,
    ) -> Result<Option<Event<'a>>, ProtocolError> {
        let (handler, seat) = self.frame_hook(id);
        let Some(connection) = self.hub.connections.get_mut(id) else { return Ok(None) };
        let mut panicked = None;
        let event =
            connection.io.session.receive_with(self.now, input, limits, replies, |header, payload| {
                match handler.on_frame(seat, header, payload) {
                    Ok(Verdict::Fail(code)) if !code.is_sendable() && code != CloseCode::NO_STATUS => {
                        tracing::error!(%id, %code, "a handler fails a connection with a code that must not be sent");
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
            // The goodbye is among the replies, and the handler needs no `on_error`.
            self.notice_panic(id, &panicked);
            return Ok(None);
        }
        event
    }

    /// Appends the protocol's replies so far.
    #[inline]
    fn send_replies(&mut self, id: ConnectionId, replies: &mut Vec<u8>) {
        if !replies.is_empty() {
            self.reply(id, replies);
            replies.clear();
        }
    }

    /// Keeps input that has to be parsed before anything else is received.
    fn keep_unparsed(&mut self, id: ConnectionId, buffer: Buffer) {
        let Buffer { bytes: rest, is_own, is_consumed } = buffer;
        let Some(connection) = self.hub.connections.get_mut(id) else {
            return self.incoming.give_back(Buffer { bytes: rest, is_own, is_consumed });
        };
        // The bytes after a frame, one receive at most, do not keep the buffer that was made for that frame.
        let rest = if is_own && is_consumed { BytesMut::from(&rest[..]) } else { rest };
        self.incoming.keep_unparsed(connection, rest);
    }

    /// Queues the connection to be served again if it has unparsed input.
    fn look_at_unparsed(&mut self, id: ConnectionId) {
        if let Some(connection) = self.hub.connections.get_mut(id)
            && connection.io.has_unparsed
        {
            self.incoming.push_busy(connection, id);
        }
    }

    /// Keeps the rest of the input for the next receive, and gives the receive buffer back.
    ///
    /// A short rest is copied into a buffer of its length. From [`STAYS_IN_PLACE`] bytes on, the copy has room for up
    /// to as much again. A rest of half a receive buffer or more stays in the buffer: the rest of the frame arrives
    /// there, and the frame is sent from there.
    pub(super) fn keep_rest(&mut self, id: ConnectionId, buffer: Buffer) {
        let Buffer { bytes: rest, is_own, is_consumed } = buffer;
        if let Some(connection) = self.hub.connections.get_mut(id)
            && !rest.is_empty()
        {
            let missing = connection.io.session.missing(&rest);
            // A buffer from which a frame was consumed would keep that frame's memory too.
            let stays = !is_consumed && (is_own || rest.len() >= RECEIVE_BUFFER / 2);
            if stays {
                connection.io.partial = Some(Box::new(rest));
                return;
            }
            // A shorter rest goes back into a receive buffer and needs no room.
            let room = if rest.len() >= STAYS_IN_PLACE { missing.min(rest.len()).max(1) } else { 0 };
            let mut partial = BytesMut::with_capacity(rest.len() + room);
            partial.extend_from_slice(&rest);
            connection.io.partial = Some(Box::new(partial));
        }
        self.incoming.give_back(Buffer { bytes: rest, is_own, is_consumed });
    }

    /// Notes the memory that the connection's message under way holds, and keeps all messages within their limit.
    ///
    /// While input waits to be parsed, the time of the message goes on, unless it was stopped or paused.
    pub(super) fn note_unfinished(&mut self, id: ConnectionId, new: usize, has_ended_message: bool) {
        let Some(connection) = self.hub.connections.get(id) else { return };
        if has_ended_message {
            self.incoming.unfinished.forget(id);
        }
        let partial = connection.io.partial.as_ref().map_or(0, |partial| partial.capacity());
        if connection.io.has_unparsed {
            self.incoming.unfinished.received(id, new);
            let assembled = connection.io.session.assembled_bytes();
            // The buffer of a large frame has grown for the last receive. A smaller buffer does not count here: the
            // number of connections that keep one is bounded.
            let bytes = assembled + if partial > RECEIVE_BUFFER { partial } else { 0 };
            if assembled > 0 && connection.io.session.state() == State::Open {
                if self.incoming.unfinished.note(id, bytes, self.now) {
                    self.schedule(id);
                }
            } else if bytes > 0 {
                self.incoming.unfinished.grow(id, bytes);
            }
            self.limit_unfinished();
            return;
        }
        let bytes = partial + connection.io.session.assembled_bytes();
        if bytes == 0 || connection.io.session.state() != State::Open {
            return self.incoming.unfinished.forget(id);
        }
        if self.incoming.unfinished.note(id, bytes, self.now) {
            self.schedule(id);
        } else {
            self.incoming.unfinished.received(id, new);
        }
        // The message's time may have been over while there was unparsed input, in which its end might have stood.
        self.expire_message(id);
        self.limit_unfinished();
    }

    /// Closes the connections whose messages have been under way for the longest time, while all unfinished messages
    /// together hold too much memory.
    pub(super) fn limit_unfinished(&mut self) {
        for _ in 0..GIVEN_UP_AT_ONCE {
            if self.incoming.unfinished.bytes() <= self.unfinished_bytes_max {
                break;
            }
            let Some(oldest) = self.incoming.unfinished.oldest() else { break };
            tracing::debug!(id = %oldest, peer = self.peer(oldest), "closed: too many messages are unfinished");
            self.count(Counter::UnfinishedClosed, 1);
            self.close(oldest, CloseCode::TRY_AGAIN_LATER, "too many messages are unfinished");
        }
    }
}

/// The most connections that are closed when one message grows. The next message that grows closes more.
const GIVEN_UP_AT_ONCE: usize = 64;
