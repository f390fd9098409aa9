//! Event streams: the server sends blocks, and the client sends nothing.

use crate::proto::{
    CloseCode, Event, FrameHeader, Framing, Input, KeepAlive, MessageLimits, ProtocolError, State, Tick, Timeout,
    Verdict,
};
use crate::surface::Positions;

/// The state of one event stream.
///
/// A client cannot answer, so the session neither awaits an answer to its goodbye nor a sign of life. Its heartbeats
/// are comments. A client that has left shows by its socket, on which heartbeats are not acknowledged
/// ([`limit_silence`](crate::sys::net::limit_silence)).
#[derive(Debug)]
pub(crate) struct EventStream {
    /// The time of the last heartbeat, or the last time at which the stream needed none.
    quiet_since: Tick,
    /// The time after which the client should connect again, in milliseconds; 0 for the client's own time.
    retry_ms: u32,
    /// The bytes that the client has sent.
    discarded: u16,
    framing: Framing,
    state: State,
    /// The position of the client, if it is of several topics.
    positions: Option<Box<Positions>>,
}

impl EventStream {
    /// Returns the session of a stream that has just been opened.
    pub(super) fn new(framing: Framing, positions: Option<Positions>) -> EventStream {
        let (quiet_since, retry_ms, discarded, positions) = (Tick(0), 0, 0, positions.map(Box::new));
        EventStream { quiet_since, retry_ms, discarded, framing, state: State::Open, positions }
    }

    pub(super) fn positions(&mut self) -> Option<&mut Positions> {
        self.positions.as_deref_mut()
    }

    pub(super) fn has_positions(&self) -> bool {
        self.positions.is_some()
    }

    pub(super) fn framing(&self) -> Framing {
        self.framing
    }

    pub(super) fn state(&self) -> State {
        self.state
    }

    pub(super) fn message_length(&self) -> usize {
        0
    }

    pub(super) fn is_within_message(&self) -> bool {
        false
    }

    pub(super) fn assembled_bytes(&self) -> usize {
        0
    }

    pub(super) fn missing(&self, _input: &[u8]) -> usize {
        0
    }

    pub(super) fn last_received(&self) -> Tick {
        self.quiet_since
    }

    pub(super) fn set_retry(&mut self, retry_ms: u32) {
        self.retry_ms = retry_ms;
    }

    /// Returns when the next heartbeat is due: after half of the interval between pings, since proxies and browsers
    /// expect a byte each 15 s or so.
    pub(super) fn deadline(&self, keep_alive: &KeepAlive) -> Option<Tick> {
        let beats = self.state == State::Open && keep_alive.ping_interval > 0;
        beats.then(|| self.quiet_since.after(keep_alive.ping_interval.div_ceil(2)))
    }

    pub(super) fn handle_timeout(
        &mut self,
        now: Tick,
        keep_alive: &KeepAlive,
        _ping: &[u8],
        replies: &mut Vec<u8>,
    ) -> Timeout {
        if self.deadline(keep_alive).is_none_or(|deadline| now < deadline) {
            return Timeout::Nothing;
        }
        self.quiet_since = now;
        self.framing.put_comment(replies);
        Timeout::PingSent
    }

    /// Drops the input, of which there is no event.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::StreamInput`] beyond [`INPUT_BYTES_MAX`] bytes since the stream began.
    pub(super) fn receive<'a>(
        &mut self,
        now: Tick,
        input: &'a mut Input,
        _limits: &MessageLimits,
        replies: &mut Vec<u8>,
    ) -> Result<Option<Event<'a>>, ProtocolError> {
        let bytes = input.rest().len();
        input.consume_all();
        if self.state == State::Closed {
            return Ok(None);
        }
        match usize::from(self.discarded) + bytes {
            discarded @ ..=INPUT_BYTES_MAX => {
                self.discarded = discarded as u16;
                Ok(None)
            }
            _ => {
                let error = ProtocolError::StreamInput;
                self.close(now, error.close_code(), &error.to_string(), replies);
                Err(error)
            }
        }
    }

    /// Receives as [`EventStream::receive`] does: a stream has no frames that a hook could look at.
    pub(super) fn receive_with<'a>(
        &mut self,
        now: Tick,
        input: &'a mut Input,
        limits: &MessageLimits,
        replies: &mut Vec<u8>,
        _hook: impl FnMut(&FrameHeader, &[u8]) -> Verdict,
    ) -> Result<Option<Event<'a>>, ProtocolError> {
        self.receive(now, input, limits, replies)
    }

    pub(super) fn close(&mut self, _: Tick, code: CloseCode, reason: &str, replies: &mut Vec<u8>) {
        if self.state == State::Open {
            let retry_ms = Some(self.retry_ms).filter(|retry_ms| *retry_ms > 0);
            replies.extend_from_slice(&self.framing.goodbye(code.0, reason, retry_ms));
            self.state = State::Closed;
        }
    }

    pub(super) fn abandon(&mut self) {
        self.state = State::Closed;
    }

    pub(super) fn excuse_silence(&mut self, now: Tick) {
        self.quiet_since = now;
    }
}

/// The most bytes that a client may send after its request. A client has nothing to say on a stream.
pub(crate) const INPUT_BYTES_MAX: usize = 8 * 1_024;

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;

    fn stream() -> EventStream {
        EventStream::new(Framing::Chunked, None)
    }

    #[test]
    fn input_is_dropped_up_to_a_limit() {
        let (mut stream, mut replies) = (stream(), Vec::new());
        let mut receive = |bytes: usize| {
            let mut input = Input::new(BytesMut::zeroed(bytes));
            let outcome =
                stream.receive(Tick(1), &mut input, &MessageLimits::DEFAULT, &mut replies).map(|event| event.is_none());
            assert!(input.rest().is_empty());
            (outcome, stream.state(), replies.len())
        };
        assert_eq!(receive(INPUT_BYTES_MAX - 1), (Ok(true), State::Open, 0));
        assert_eq!(receive(1), (Ok(true), State::Open, 0));
        let (outcome, state, bytes) = receive(1);
        assert_eq!((outcome, state), (Err(ProtocolError::StreamInput), State::Closed));
        assert_eq!(receive(1), (Ok(true), State::Closed, bytes), "nothing follows the end");
        let goodbye = String::from_utf8(replies).unwrap();
        assert!(goodbye.contains("{\"code\":1008,\"reason\":") && goodbye.ends_with("\r\n0\r\n\r\n"), "{goodbye}");
    }

    #[test]
    fn heartbeats_come_in_half_of_the_interval() {
        let keep_alive = KeepAlive { ping_interval: 301, ..KeepAlive::default() };
        let (mut stream, mut replies) = (stream(), Vec::new());
        stream.excuse_silence(Tick(10));
        assert_eq!(stream.deadline(&keep_alive), Some(Tick(161)));
        assert_eq!(stream.handle_timeout(Tick(160), &keep_alive, b"", &mut replies), Timeout::Nothing);
        assert_eq!(stream.handle_timeout(Tick(161), &keep_alive, b"", &mut replies), Timeout::PingSent);
        assert_eq!(replies, b"2\r\n:\n\r\n");
        assert_eq!(stream.deadline(&keep_alive), Some(Tick(312)));
        assert_eq!(stream.deadline(&KeepAlive::seconds(0, 0)), None);
        stream.abandon();
        assert_eq!(stream.deadline(&keep_alive), None);
    }

    #[test]
    fn a_stream_says_goodbye_once() {
        let (mut stream, mut replies) = (stream(), Vec::new());
        stream.set_retry(1_234);
        stream.close(Tick(1), CloseCode::SERVICE_RESTART, "bye", &mut replies);
        let said = replies.len();
        stream.close(Tick(1), CloseCode::NORMAL, "again", &mut replies);
        assert_eq!(replies.len(), said);
        assert!(String::from_utf8(replies).unwrap().contains("retry: 1234\n"));
    }
}
