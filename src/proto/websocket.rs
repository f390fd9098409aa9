//! The state machine of one established connection: bytes and time in; events, replies and the next deadline out.
//!
//! This file has all code that changes the [`State`] of a connection; `front.rs` works through the received bytes.
//! "Connecting" does not exist here: a [`WebSocket`] is made when the opening handshake is over (RFC 6455 4). The other
//! states are those of RFC 6455 7:
//!
//! | state | on | appends | next |
//! | --- | --- | --- | --- |
//! | `Open` | [`WebSocket::close`] | our close frame | `Closing` |
//! | `Open` | the peer's close frame | its echo | `Closed` |
//! | `Open` | a protocol error, a hook's refusal | a close frame that names it | `Closed` |
//! | `Open` | no sign of life after a ping | a close frame | `Closed` |
//! | `Closing` | the peer's close frame, a protocol error, a hook's refusal, no answer in time | nothing | `Closed` |
//! | `Open`, `Closing` | [`WebSocket::abandon`] | nothing | `Closed` |
//!
//! In `Closing`, data, pings and pongs are parsed and dropped. In `Closed`, nothing is sent and all input is ignored.

mod front;
mod state;

use super::{
    close::CloseFrame,
    close_code::CloseCode,
    error::ProtocolError,
    event::{Event, Verdict},
    frame::{self, CONTROL_PAYLOAD_MAX, Fin, FrameHeader, OpCode, header_len_at_least},
    input::Input,
    keep_alive::{KeepAlive, Tick, Timeout},
    limits::MessageLimits,
    masking::MaskingKeys,
    message::{Fragment, Message},
};
use front::Step;
use state::{Front, assert_may_send};

pub use state::{Role, State, WebSocket};

impl WebSocket {
    /// Returns a connection whose opening handshake has just ended (RFC 6455 4).
    pub fn new(role: Role, now: Tick) -> Self {
        let masking = match role {
            Role::Server => None,
            Role::Client { masking_seed } => Some(Box::new(MaskingKeys::new(masking_seed))),
        };
        Self {
            masking,
            assembly: None,
            front: Front::FRESH,
            last_received: now,
            waiting_since: now,
            close_code: CloseCode::ABNORMAL,
            sent_close_code: CloseCode::ABNORMAL,
            state: State::Open,
            awaiting_pong: false,
        }
    }

    /// Returns the state of the closing handshake (RFC 6455 7).
    #[inline]
    pub fn state(&self) -> State {
        self.state
    }

    /// Returns "The WebSocket Connection Close Code" (RFC 6455 7.1.5): the code of the peer's close frame,
    /// [`CloseCode::NO_STATUS`] if it had none, [`CloseCode::ABNORMAL`] while the peer has sent no close frame.
    #[inline]
    pub fn close_code(&self) -> CloseCode {
        self.close_code
    }

    /// Returns the code of our close frame: [`CloseCode::NO_STATUS`] if it had none, [`CloseCode::ABNORMAL`] while we
    /// have sent no close frame.
    #[inline]
    pub fn sent_close_code(&self) -> CloseCode {
        self.sent_close_code
    }

    /// Returns whether both sides have sent their close frames: the WebSocket connection is closed *cleanly* (RFC 6455
    /// 7.1.4) once its socket is closed too.
    ///
    /// ```
    /// use ringhub::proto::{CloseCode, Event, Input, MessageLimits, Role, Tick, WebSocket};
    /// let (mut websocket, mut replies) = (WebSocket::new(Role::Server, Tick(0)), Vec::new());
    /// websocket.close(Tick(1), CloseCode::GOING_AWAY, "", &mut replies);
    /// assert!(!websocket.closed_cleanly());
    /// let mut input = Input::new(b"\x88\x82\0\0\0\0\x03\xe8"[..].into());
    /// let event = websocket.receive(Tick(2), &mut input, &MessageLimits::DEFAULT, &mut replies)?;
    /// assert!(matches!(event, Some(Event::Close(_))) && websocket.closed_cleanly());
    /// assert_eq!(websocket.close_code(), CloseCode::NORMAL);
    /// assert_eq!(websocket.sent_close_code(), CloseCode::GOING_AWAY);
    /// # Ok::<(), ringhub::proto::ProtocolError>(())
    /// ```
    #[inline]
    pub fn closed_cleanly(&self) -> bool {
        // No close frame has this code, so any other code is from the peer's close frame. Our close frame was the
        // answer, or was appended before.
        self.close_code != CloseCode::ABNORMAL
    }

    /// Returns the time of the peer's last sign of life: the time of its last bytes, in [`State::Closed`] too, or of
    /// the last call of [`WebSocket::excuse_silence`].
    pub fn last_received(&self) -> Tick {
        self.last_received
    }

    /// Returns the payload bytes so far of the data message that is under way; 0 if there is none.
    ///
    /// ```
    /// use ringhub::proto::{Input, MessageLimits, Role, Tick, WebSocket};
    /// let mut websocket = WebSocket::new(Role::Server, Tick(0));
    /// let mut input = Input::new(b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d"[..].into());
    /// let event = websocket.receive(Tick(1), &mut input, &MessageLimits::DEFAULT, &mut Vec::new())?;
    /// assert!(event.is_none());
    /// assert_eq!(websocket.message_length(), 3);
    /// # Ok::<(), ringhub::proto::ProtocolError>(())
    /// ```
    pub fn message_length(&self) -> usize {
        let fragments = self.assembly.as_ref().map_or(0, |assembly| assembly.length());
        fragments as usize + self.front.held().0
    }

    /// Returns whether a data message is under way, so that its limits may not change: fragments of it have come, or
    /// payload of its first frame.
    ///
    /// ```
    /// use ringhub::proto::{Input, MessageLimits, Role, Tick, WebSocket};
    /// let mut websocket = WebSocket::new(Role::Server, Tick(0));
    /// let mut input = Input::new(b"\x01\x80\x37\xfa\x21\x3d"[..].into());
    /// assert!(websocket.receive(Tick(1), &mut input, &MessageLimits::DEFAULT, &mut Vec::new())?.is_none());
    /// assert!(websocket.message_length() == 0 && websocket.is_within_message());
    /// # Ok::<(), ringhub::proto::ProtocolError>(())
    /// ```
    #[inline]
    pub fn is_within_message(&self) -> bool {
        self.assembly.is_some() || self.front.held().0 > 0
    }

    /// Returns the bytes of memory that the fragments of the message under way take; 0 if there is no such message, or
    /// if each fragment is a separate event.
    ///
    /// ```
    /// use ringhub::proto::{Input, MessageLimits, Role, Tick, WebSocket};
    /// let mut websocket = WebSocket::new(Role::Server, Tick(0));
    /// let mut input = Input::new(b"\x01\x80\x37\xfa\x21\x3d"[..].into());
    /// assert!(websocket.receive(Tick(1), &mut input, &MessageLimits::DEFAULT, &mut Vec::new())?.is_none());
    /// assert!(websocket.assembled_bytes() > 0);
    /// # Ok::<(), ringhub::proto::ProtocolError>(())
    /// ```
    pub fn assembled_bytes(&self) -> usize {
        self.assembly.as_ref().map_or(0, |assembly| assembly.memory())
    }

    /// Returns the next event in `input`; `None` if more bytes are needed, or more frames than
    /// [`limit_frames`](Input::limit_frames) allows. Pongs and the answer to a close frame are appended to `replies`.
    ///
    /// Call this method until it returns `None`. Then put [`Input::into_rest`] in front of the bytes that arrive next.
    ///
    /// # Errors
    ///
    /// The peer broke the protocol or a limit, and the connection is failed (RFC 6455 7.1.7): a close frame with
    /// [`ProtocolError::close_code`] has been appended to `replies` unless we had sent one before, and the state is
    /// [`State::Closed`]. Input after that is ignored.
    #[inline]
    pub fn receive<'a>(
        &mut self,
        now: Tick,
        input: &'a mut Input,
        limits: &MessageLimits,
        replies: &mut Vec<u8>,
    ) -> Result<Option<Event<'a>>, ProtocolError> {
        self.advance::<false>(now, input, limits, replies, |_, _| Verdict::Pass)
    }

    /// Receives like [`WebSocket::receive`], and calls a hook for each frame, data or control. The hook is called once,
    /// when the frame is whole and before it takes effect, with the header and the unmasked payload. See [`Verdict`]
    /// for an example.
    ///
    /// An error in a header (RSV bits, opcode, mask, order of fragments, sizes) fails the connection without a call of
    /// the hook; a payload (UTF-8, the content of a close frame) is checked after the call. So every frame stays in the
    /// input until it is whole, and bad UTF-8 is refused only then, not at its first bad octet. After our close frame
    /// the hook is called for the peer's close frame alone; every other frame is dropped without a call.
    ///
    /// For one connection, always call this method, or always [`WebSocket::receive`].
    ///
    /// # Errors
    ///
    /// As [`WebSocket::receive`], and [`ProtocolError::Refused`].
    ///
    /// # Panics
    ///
    /// If the hook fails the connection with a code that is neither [`CloseCode::is_sendable`] nor
    /// [`CloseCode::NO_STATUS`].
    pub fn receive_with<'a>(
        &mut self,
        now: Tick,
        input: &'a mut Input,
        limits: &MessageLimits,
        replies: &mut Vec<u8>,
        hook: impl FnMut(&FrameHeader, &[u8]) -> Verdict,
    ) -> Result<Option<Event<'a>>, ProtocolError> {
        self.advance::<true>(now, input, limits, replies, hook)
    }

    /// Returns how many bytes are missing from the frame at the front of `input`, or only from its header if the header
    /// is not whole; 0 if there is no frame to keep. The peer has announced this number, within the limits, but may
    /// never send the bytes: a careful caller grows its buffer as bytes arrive, and to this size at most.
    pub fn missing(&self, input: &[u8]) -> usize {
        if input.is_empty() || self.state == State::Closed {
            return 0;
        }
        let end = match FrameHeader::decode(input) {
            Ok(Some((header, header_len))) => header_len + header.payload_len as usize,
            Ok(None) => header_len_at_least(input),
            Err(_) => 0,
        };
        end.saturating_sub(input.len())
    }

    /// Appends a frame, masked in the client's role, if the connection is open (RFC 6455 5.5.1). Returns whether the
    /// frame was appended.
    ///
    /// A server sends messages as [`PreparedMessage`](super::PreparedMessage) instead; this method is for clients, for
    /// fragments and for pings. The caller is responsible for UTF-8 in text and for the order of fragments.
    ///
    /// # Panics
    ///
    /// If a control frame is fragmented, longer than [`CONTROL_PAYLOAD_MAX`], or a close frame, for which there is
    /// [`WebSocket::close`].
    pub fn send(&mut self, opcode: OpCode, fin: Fin, payload: &[u8], out: &mut Vec<u8>) -> bool {
        assert!(opcode != OpCode::Close, "close() sends close frames");
        assert!(
            !opcode.is_control() || (fin.is_set() && payload.len() <= CONTROL_PAYLOAD_MAX),
            "RFC 6455 5.5 on control frames"
        );
        let open = self.state == State::Open;
        if open {
            self.put(opcode, fin, payload, out);
        }
        open
    }

    /// Starts the closing handshake (RFC 6455 7.1.2): appends a close frame with as much of `reason` as the frame can
    /// hold: at most [`CLOSE_REASON_MAX`](super::CLOSE_REASON_MAX) bytes, cut between two characters.
    /// [`CloseFrame::new`] says whether a reason fits. With [`CloseCode::NO_STATUS`] the frame is empty. Does nothing
    /// unless the state is [`State::Open`].
    ///
    /// # Panics
    ///
    /// If `code` is neither [`CloseCode::is_sendable`] nor [`CloseCode::NO_STATUS`].
    ///
    /// ```
    /// use ringhub::proto::{CloseCode, Role, State, Tick, WebSocket};
    /// let (mut websocket, mut replies) = (WebSocket::new(Role::Server, Tick(0)), Vec::new());
    /// websocket.close(Tick(1), CloseCode::GOING_AWAY, "", &mut replies);
    /// assert_eq!(replies, b"\x88\x02\x03\xe9");
    /// assert_eq!(websocket.state(), State::Closing);
    /// ```
    pub fn close(&mut self, now: Tick, code: CloseCode, reason: &str, replies: &mut Vec<u8>) {
        assert_may_send(code);
        if self.state != State::Open {
            return;
        }
        self.put_close(code, reason, replies);
        self.state = State::Closing;
        self.waiting_since = now;
        // A message under way will be dropped: the rest of a fragment's payload, or a whole frame with its header,
        // which is still in the input.
        self.front = match self.assembly.take().and_then(|assembly| assembly.missing()) {
            Some(missing) => Front::Skip(missing),
            None => Front::FRESH,
        };
    }

    /// Returns the time at which [`WebSocket::handle_timeout`] is due; `None` for never. In [`State::Open`] this time
    /// moves with every received byte. A caller may keep an old deadline, and call this method again when the old
    /// deadline has come.
    pub fn deadline(&self, keep_alive: &KeepAlive) -> Option<Tick> {
        let (since, ticks) = match self.state {
            State::Open if keep_alive.ping_interval == 0 => return None,
            State::Open if !self.awaiting_pong => (self.last_received, keep_alive.ping_interval),
            State::Open if keep_alive.pong_timeout == 0 => (self.waiting_since, keep_alive.ping_interval),
            State::Open => (self.waiting_since, keep_alive.pong_timeout),
            State::Closing => (self.waiting_since, keep_alive.close_timeout),
            State::Closed => return None,
        };
        (ticks > 0).then(|| since.after(ticks))
    }

    /// Acts on a deadline. Pings a silent peer (RFC 6455 5.5.2) with the payload `ping`. Ends the connection if the
    /// peer has not answered a ping, or our close frame, in time.
    ///
    /// # Panics
    ///
    /// If `ping` is longer than [`CONTROL_PAYLOAD_MAX`].
    ///
    /// ```
    /// use ringhub::proto::{KeepAlive, Role, Tick, Timeout, WebSocket};
    /// let (mut websocket, mut replies) = (WebSocket::new(Role::Server, Tick(0)), Vec::new());
    /// let timeout = websocket.handle_timeout(Tick(300), &KeepAlive::default(), b"Hello", &mut replies);
    /// assert_eq!(timeout, Timeout::PingSent);
    /// assert_eq!(replies, b"\x89\x05Hello"); // RFC 6455 5.7
    /// ```
    pub fn handle_timeout(&mut self, now: Tick, keep_alive: &KeepAlive, ping: &[u8], replies: &mut Vec<u8>) -> Timeout {
        assert!(ping.len() <= CONTROL_PAYLOAD_MAX, "RFC 6455 5.5 on control frames");
        if self.deadline(keep_alive).is_none_or(|deadline| now < deadline) {
            return Timeout::Nothing;
        }
        if self.state == State::Closing {
            self.end();
            return Timeout::CloseTimeout;
        }
        if self.awaiting_pong && keep_alive.pong_timeout > 0 {
            self.put_close(CloseCode::INTERNAL_ERROR, "no answer to a ping", replies);
            self.end();
            return Timeout::PongTimeout;
        }
        self.put(OpCode::Ping, Fin::Set, ping, replies);
        self.awaiting_pong = true;
        self.waiting_since = now;
        Timeout::PingSent
    }

    /// Ends the connection without a close frame: its socket is lost, or the peer has ended it without a closing
    /// handshake (RFC 6455 7.1.5: 1006). The state is [`State::Closed`].
    ///
    /// ```
    /// use ringhub::proto::{CloseCode, Role, State, Tick, WebSocket};
    /// let mut websocket = WebSocket::new(Role::Server, Tick(0));
    /// websocket.abandon();
    /// assert_eq!(websocket.state(), State::Closed);
    /// assert_eq!((websocket.close_code(), websocket.closed_cleanly()), (CloseCode::ABNORMAL, false));
    /// ```
    pub fn abandon(&mut self) {
        self.end();
    }

    /// Counts `now` as a sign of life of the peer. Call this method after a pause in which you did not read, or when
    /// the peer has taken output.
    pub fn excuse_silence(&mut self, now: Tick) {
        self.last_received = now;
        self.awaiting_pong = false;
    }

    /// Receives with or without a hook.
    #[inline]
    fn advance<'a, const HOOKED: bool>(
        &mut self,
        now: Tick,
        input: &'a mut Input,
        limits: &MessageLimits,
        replies: &mut Vec<u8>,
        mut hook: impl FnMut(&FrameHeader, &[u8]) -> Verdict,
    ) -> Result<Option<Event<'a>>, ProtocolError> {
        if !input.rest().is_empty() {
            self.last_received = now;
            self.awaiting_pong = false;
        }
        if self.state == State::Closed {
            input.consume_all();
            return Ok(None);
        }
        let step = loop {
            if input.frames_left() == 0 {
                return Ok(None);
            }
            match self.step::<HOOKED>(input, limits, &mut hook) {
                Ok(Step::Starved) => return Ok(None),
                // A fragment counts at its end. The end of an empty fragment needs no further bytes.
                Ok(Step::Again) if self.assembly.as_ref().is_some_and(|assembly| assembly.missing().is_some()) => {}
                Ok(Step::Again) => input.count_frame(),
                Ok(step) => {
                    input.count_frame();
                    break step;
                }
                Err(error) => {
                    input.consume_all();
                    return Err(self.fail(error, &error.reason(limits), replies));
                }
            }
        };
        match step {
            // The loop above ends with neither of these steps.
            Step::Again | Step::Starved => Ok(None),
            Step::Whole(message_type, payload) => {
                Ok(Some(Event::Message(Message::in_place(message_type, input, payload))))
            }
            Step::Assembled(assembly) => Ok(Some(Event::Message(assembly.finish()))),
            Step::Fragment(place, payload) => Ok(Some(Event::Fragment(Fragment::new(place, input, payload)))),
            Step::Control(opcode, payload) => {
                if opcode == OpCode::Close {
                    input.consume_all();
                }
                self.control(opcode, &input.bytes[payload], replies).map(Some)
            }
        }
    }

    fn control<'a>(
        &mut self,
        opcode: OpCode,
        payload: &'a [u8],
        replies: &mut Vec<u8>,
    ) -> Result<Event<'a>, ProtocolError> {
        match opcode {
            OpCode::Ping => {
                self.put(OpCode::Pong, Fin::Set, payload, replies);
                Ok(Event::Ping(payload))
            }
            OpCode::Close => {
                let frame =
                    CloseFrame::parse(payload).map_err(|error| self.fail(error, &error.to_string(), replies))?;
                self.close_code = frame.code.unwrap_or(CloseCode::NO_STATUS);
                if self.state == State::Open {
                    self.put_close(self.close_code, "", replies);
                }
                self.end();
                Ok(Event::Close(frame))
            }
            _ => Ok(Event::Pong(payload)),
        }
    }

    /// Fails the connection (RFC 6455 7.1.7).
    #[cold]
    fn fail(&mut self, error: ProtocolError, reason: &str, replies: &mut Vec<u8>) -> ProtocolError {
        if self.state == State::Open {
            self.put_close(error.close_code(), reason, replies);
        }
        self.end();
        error
    }

    fn end(&mut self) {
        self.state = State::Closed;
        self.front = Front::FRESH;
        self.assembly = None;
    }

    fn put_close(&mut self, code: CloseCode, reason: &str, replies: &mut Vec<u8>) {
        self.sent_close_code = code;
        let (code, mut payload) = (Some(code).filter(|&code| code != CloseCode::NO_STATUS), Vec::new());
        CloseFrame { code, reason }.encode(&mut payload);
        self.put(OpCode::Close, Fin::Set, &payload, replies);
    }

    fn put(&mut self, opcode: OpCode, fin: Fin, payload: &[u8], out: &mut Vec<u8>) {
        match &mut self.masking {
            None => frame::encode_frame(opcode, fin, payload, out),
            Some(keys) => frame::encode_masked(opcode, fin, payload, keys.next(), out),
        }
    }
}

#[cfg(test)]
mod tests;
