//! Sessions: the protocol that an established connection speaks, with the state in which the connection is.
//!
//! The shard knows a protocol only by [`Session`]: the state, the next deadline, the events in the input, and the
//! *goodbye*, the last bytes that a session sends. No other file of the shard names a protocol, except the opening,
//! which begins a session. Each protocol is a variant, and its state machine has the methods that `of!` calls. A
//! protocol that lacks a feature still has the method: if it has no pings, its deadline is `None`.
//!
//! | from | on | appends | to |
//! | --- | --- | --- | --- |
//! | `Open` | [`Session::close`] of a protocol in which the peer answers a goodbye | our goodbye | `Closing` |
//! | `Open` | [`Session::close`] of a protocol without an answer | our goodbye | `Closed` |
//! | `Open` | the peer's goodbye, its errors, its silence | our goodbye | `Closed` |
//! | `Closing` | the peer's answer, its errors, no answer in time | nothing | `Closed` |
//! | `Open`, `Closing` | [`Session::abandon`] | nothing | `Closed` |
//!
//! So a session leaves `Open` once. Unless the session is abandoned then, its goodbye is appended, and no byte follows
//! the goodbye.

#[cfg(test)]
pub(crate) mod client_end;
mod event_stream;
#[cfg(test)]
pub(crate) mod length_prefixed;

use self::event_stream::EventStream;
#[cfg(test)]
use self::length_prefixed::LengthPrefixed;
use crate::proto::{
    CloseCode, Event, FrameHeader, Framing, Input, KeepAlive, MessageLimits, ProtocolError, Role, State, Tick, Timeout,
    Verdict, WebSocket,
};
use crate::surface::Positions;

/// The protocol of an established connection, in its present state.
///
/// - getters: [`state`](Self::state), [`has_pings`](Self::has_pings), [`awaits_rest`](Self::awaits_rest),
///   [`last_received`](Self::last_received), [`message_length`](Self::message_length),
///   [`is_within_message`](Self::is_within_message), [`assembled_bytes`](Self::assembled_bytes),
///   [`missing`](Self::missing) and [`deadline`](Self::deadline)
/// - inputs: [`receive`](Self::receive) or [`receive_with`](Self::receive_with), and
///   [`handle_timeout`](Self::handle_timeout) at the deadline
/// - commands: [`close`](Self::close), [`abandon`](Self::abandon) and [`excuse_silence`](Self::excuse_silence)
#[derive(Debug)]
pub(crate) enum Session {
    /// RFC 6455.
    WebSocket(WebSocket),
    /// Server-Sent Events.
    EventStream(EventStream),
    /// The second protocol of the tests.
    #[cfg(test)]
    LengthPrefixed(LengthPrefixed),
}

/// Evaluates the same expression for the state machine of the session's protocol.
macro_rules! of {
    ($session:expr, $protocol:ident => $call:expr) => {
        match $session {
            Session::WebSocket($protocol) => $call,
            Session::EventStream($protocol) => $call,
            #[cfg(test)]
            Session::LengthPrefixed($protocol) => $call,
        }
    };
}

impl Session {
    /// Returns a WebSocket whose opening handshake is over. The silence of the peer counts from the first call of
    /// [`Session::excuse_silence`] on, since the opening has no clock.
    pub(crate) fn web_socket() -> Self {
        Session::WebSocket(WebSocket::new(Role::Server, Tick(0)))
    }

    /// Returns an event stream whose head is sent. The messages of a stream of several topics have positions in all of
    /// them.
    pub(crate) fn event_stream(framing: Framing, positions: Option<Positions>) -> Self {
        Session::EventStream(EventStream::new(framing, positions))
    }

    /// Returns the position of the client in several topics, and the framing of the stream; `None` if messages need no
    /// such position.
    #[inline]
    pub(crate) fn positions(&mut self) -> Option<(Framing, &mut Positions)> {
        let Session::EventStream(stream) = self else { return None };
        let framing = stream.framing();
        stream.positions().map(|positions| (framing, positions))
    }

    /// Returns whether each message needs a position of its own.
    #[inline]
    pub(crate) fn adds_positions(&self) -> bool {
        matches!(self, Session::EventStream(stream) if stream.has_positions())
    }

    /// Returns the status of the answer with which the session begins.
    pub(crate) fn opening_status(&self) -> u16 {
        if self.framing().is_some() { 200 } else { 101 }
    }

    /// Returns the framing of an event stream; `None` for any other protocol.
    pub(crate) fn framing(&self) -> Option<Framing> {
        if let Session::EventStream(stream) = self { Some(stream.framing()) } else { None }
    }

    /// Returns the state. In `Open` neither side has said goodbye, and the session may be sent messages. In `Closing`
    /// our side has, and the peer's answer is awaited. In `Closed` nothing more is appended and all input is dropped.
    #[inline]
    pub(crate) fn state(&self) -> State {
        of!(self, protocol => protocol.state())
    }

    /// Returns whether the protocol has pings and pongs, which a handler may send.
    pub(crate) fn has_pings(&self) -> bool {
        match self {
            Session::WebSocket(_) => true,
            Session::EventStream(_) => false,
            #[cfg(test)]
            Session::LengthPrefixed(_) => false,
        }
    }

    /// Returns the code and the reason of the goodbye of a server that leaves, which asks the peer to connect again
    /// after so many milliseconds. The goodbye has to follow, since some protocols tell the time in another place.
    pub(crate) fn goodbye_of_restart(&mut self, retry_after_ms: u32) -> (CloseCode, String) {
        match self {
            // The reason is JSON, so that a page reads it by `JSON.parse(event.reason)`. It has far fewer than the 123
            // bytes that a close frame has room for (RFC 6455 5.5).
            Session::WebSocket(_) => (CloseCode::SERVICE_RESTART, format!(r#"{{"retry_after_ms":{retry_after_ms}}}"#)),
            Session::EventStream(stream) => {
                stream.set_retry(retry_after_ms);
                (CloseCode::SERVICE_RESTART, "this server is going away".into())
            }
            #[cfg(test)]
            Session::LengthPrefixed(_) => (CloseCode::SERVICE_RESTART, format!("retry after {retry_after_ms} ms")),
        }
    }

    /// Returns whether the goodbye of a closed session should wait for the rest of a message that is too big. The rest
    /// is dropped. A browser that gets a close frame in the middle of its message calls the close unclean.
    pub(crate) fn awaits_rest(&self) -> bool {
        match self {
            Session::WebSocket(websocket) => {
                websocket.state() == State::Closed && websocket.sent_close_code() == CloseCode::MESSAGE_TOO_BIG
            }
            Session::EventStream(_) => false,
            #[cfg(test)]
            Session::LengthPrefixed(_) => false,
        }
    }

    /// Returns whether a client ends the session by the end of its side alone, without a goodbye.
    pub(crate) fn ends_without_goodbye(&self) -> bool {
        matches!(self, Session::EventStream(_))
    }

    /// Returns the time of the peer's last sign of life: of its last bytes, or of the last call of
    /// [`Session::excuse_silence`].
    pub(crate) fn last_received(&self) -> Tick {
        of!(self, protocol => protocol.last_received())
    }

    /// Returns the payload bytes so far of the message that is under way; 0 if there is none.
    pub(crate) fn message_length(&self) -> usize {
        of!(self, protocol => protocol.message_length())
    }

    /// Returns whether a message is under way, so that its limits may not change.
    #[inline]
    pub(crate) fn is_within_message(&self) -> bool {
        of!(self, protocol => protocol.is_within_message())
    }

    /// Returns the bytes of memory that the session itself holds for the message under way; 0 if all of it is in the
    /// input.
    #[inline]
    pub(crate) fn assembled_bytes(&self) -> usize {
        of!(self, protocol => protocol.assembled_bytes())
    }

    /// Returns how many bytes are missing from the frame or message at the front of `input`, or only from its header if
    /// the header is not whole; 0 if `input` is empty. The peer has announced this number, within the limits.
    pub(crate) fn missing(&self, input: &[u8]) -> usize {
        of!(self, protocol => protocol.missing(input))
    }

    /// Returns the time at which [`Session::handle_timeout`] is due; `None` for never. In `Open` the deadline may move
    /// to later times with every received byte.
    pub(crate) fn deadline(&self, keep_alive: &KeepAlive) -> Option<Tick> {
        of!(self, protocol => protocol.deadline(keep_alive))
    }

    /// Returns the next event in `input`; `None` if more bytes are needed, or if as many frames have been taken as
    /// [`Input::limit_frames`] allows. Replies are appended to `replies`, the goodbye among them.
    ///
    /// # Errors
    ///
    /// The peer broke the protocol or a limit: the session is closed.
    #[inline]
    pub(crate) fn receive<'a>(
        &mut self,
        now: Tick,
        input: &'a mut Input,
        limits: &MessageLimits,
        replies: &mut Vec<u8>,
    ) -> Result<Option<Event<'a>>, ProtocolError> {
        of!(self, protocol => protocol.receive(now, input, limits, replies))
    }

    /// Receives as [`Session::receive`] does, and calls a hook for each frame before the frame takes effect. A protocol
    /// without frames shows a message as the one frame that would carry it.
    ///
    /// # Errors
    ///
    /// As [`Session::receive`], and [`ProtocolError::Refused`].
    pub(crate) fn receive_with<'a>(
        &mut self,
        now: Tick,
        input: &'a mut Input,
        limits: &MessageLimits,
        replies: &mut Vec<u8>,
        hook: impl FnMut(&FrameHeader, &[u8]) -> Verdict,
    ) -> Result<Option<Event<'a>>, ProtocolError> {
        of!(self, protocol => protocol.receive_with(now, input, limits, replies, hook))
    }

    /// Acts on a deadline: appends a sign of life with the payload `ping`, or ends a session whose peer has been silent
    /// for too long, or has not answered our goodbye in time.
    pub(crate) fn handle_timeout(
        &mut self,
        now: Tick,
        keep_alive: &KeepAlive,
        ping: &[u8],
        replies: &mut Vec<u8>,
    ) -> Timeout {
        of!(self, protocol => protocol.handle_timeout(now, keep_alive, ping, replies))
    }

    /// Appends our goodbye, with as much of the code and the reason as the protocol can say. Does nothing unless the
    /// state is `Open`.
    ///
    /// # Panics
    ///
    /// If `code` is neither [`CloseCode::is_sendable`] nor [`CloseCode::NO_STATUS`].
    pub(crate) fn close(&mut self, now: Tick, code: CloseCode, reason: &str, replies: &mut Vec<u8>) {
        of!(self, protocol => protocol.close(now, code, reason, replies));
    }

    /// Ends the session without a goodbye: its socket is lost, or the peer has ended its side without a goodbye.
    pub(crate) fn abandon(&mut self) {
        of!(self, protocol => protocol.abandon());
    }

    /// Counts `now` as a sign of life of the peer: after a pause in which nothing was received, or when the peer has
    /// taken output.
    pub(crate) fn excuse_silence(&mut self, now: Tick) {
        of!(self, protocol => protocol.excuse_silence(now));
    }
}
