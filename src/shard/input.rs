//! What a connection has sent: from received bytes to what its frames say.

use std::mem;

use bytes::BytesMut;

use super::{
    incoming::{Buffer, RECEIVE_BUFFER, STAYS_IN_PLACE},
    state::Shard,
};
use crate::{
    hub::{ConnectionId, Publishing},
    metrics::Counter,
    proto::{CloseCode, Event, Input, MessageLimits, ProtocolError, State, Verdict},
    sys::Io,
};

impl<I: Io> Shard<I> {
    /// Parses what has arrived, up to `share` frames, and does what it says. Returns how many frames that were.
    pub(super) fn input(&mut self, id: ConnectionId, received: Buffer, share: u32) -> u32 {
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
                    self.call(id, |handler, shard, seat| handler.on_error(shard, seat, &error));
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
    /// will stay, since it is to be sent from there.
    pub(super) fn keep_rest(&mut self, id: ConnectionId, buffer: Buffer) {
        let Buffer { bytes: rest, is_own, is_consumed } = buffer;
        if let Some(connection) = self.hub.connections.get_mut(id)
            && !rest.is_empty()
        {
            let missing = connection.websocket.missing(&rest);
            // Behind a frame that was consumed a buffer of its own would go on keeping that frame's memory.
            let stays = if is_own { !is_consumed } else { rest.len() >= RECEIVE_BUFFER / 2 };
            if stays {
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
}

/// Messages that are given up for one that grows; the next that grows gives up more.
const GIVEN_UP_AT_ONCE: usize = 64;
