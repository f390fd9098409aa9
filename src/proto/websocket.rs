//! The state machine of one established connection: bytes and time in; events, replies and the next deadline out.
//!
//! Everything that changes the state of a connection stands in this file. "Connecting" does not exist here: a
//! [`WebSocket`] is made when the opening handshake is over (RFC 6455 4). What is left are the states of RFC 6455 7:
//!
//! | state | on | appends | next |
//! | --- | --- | --- | --- |
//! | `Open` | [`WebSocket::close`] | our close frame | `Closing` |
//! | `Open` | the peer's close frame | its echo | `Closed` |
//! | `Open` | a protocol error | a close frame that names it | `Closed` |
//! | `Open` | no sign of life after a ping | a close frame | `Closed` |
//! | `Closing` | the peer's close frame, a protocol error, no answer in time | nothing | `Closed` |
//!
//! In `Closing` data, pings and pongs are parsed and dropped. In `Closed` nothing is sent and whatever arrives is
//! ignored.
//!
//! # What stands at the front of the input
//!
//! A connection owns no buffer. An unfragmented frame stays in the input until it is whole; what has arrived of it is
//! unmasked in place and its text checked at once, and only the two positions are kept here, so nothing is scanned
//! twice and bad UTF-8 is refused at its first bad octet. The payload of a fragment moves into an [`Assembly`] as it
//! arrives. A payload to be dropped is skipped as it arrives.

use super::assembly::{Assembly, End, utf8_prefix};
use super::frame::{self, MASK, decode_first, header_len_at_least};
use super::masking::{self, MaskingKeys};
use super::{
    CONTROL_PAYLOAD_MAX, CloseCode, CloseFrame, FrameHeader, Input, KeepAlive, Message, MessageLimits, MessageType,
    OpCode, ProtocolError, Tick, Timeout,
};
use std::ops::Range;

/// One established connection.
///
/// - getters: [`state`](Self::state), [`close_code`](Self::close_code), [`missing`](Self::missing) and
///   [`deadline`](Self::deadline)
/// - inputs: [`receive`](Self::receive) until it returns `None`, and [`handle_timeout`](Self::handle_timeout) at the
///   deadline
/// - commands: [`send`](Self::send), [`close`](Self::close) and [`excuse_silence`](Self::excuse_silence)
///
/// Whatever a call appends to `replies` must reach the peer in that order, and nothing may follow a close frame.
#[derive(Debug)]
pub struct WebSocket {
    /// Of a client; a server masks nothing (RFC 6455 5.1).
    masking: Option<Box<MaskingKeys>>,
    assembly: Option<Box<Assembly>>,
    front: Front,
    last_received: Tick,
    /// `Open`: when the last ping was sent. `Closing`: when our close frame was.
    waiting_since: Tick,
    close_code: CloseCode,
    state: State,
    awaiting_pong: bool,
}

/// Which side of the connection this is (RFC 6455 1.1).
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Sends unmasked frames and takes only masked ones.
    Server,
    /// Sends masked frames and takes only unmasked ones.
    Client {
        /// Where the masking keys come from: bytes from the operating system's random source, never used twice (RFC
        /// 6455 10.3).
        masking_seed: [u8; 16],
    },
}

/// How far the closing handshake is (RFC 6455 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Neither side has sent a close frame.
    Open,
    /// We sent a close frame; the peer has not answered (RFC 6455 7.1.3).
    Closing,
    /// Both sent one, or the connection failed: nothing more is sent or accepted. A server closes the socket once its
    /// replies are out (RFC 6455 7.1.1).
    Closed,
}

/// What the peer sent.
#[derive(Debug)]
pub enum Event<'a> {
    /// A whole message (RFC 6455 5.6).
    Message(Message<'a>),
    /// A ping, already answered (RFC 6455 5.5.2).
    Ping(&'a [u8]),
    /// A pong, whether we asked for it or not (RFC 6455 5.5.3).
    Pong(&'a [u8]),
    /// A close frame, already answered unless it is itself the answer (RFC 6455 5.5.1). The last event.
    Close(CloseFrame<'a>),
}

impl WebSocket {
    /// A connection whose opening handshake has just ended (RFC 6455 4).
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
            state: State::Open,
            awaiting_pong: false,
        }
    }

    /// How far the closing handshake is (RFC 6455 7).
    #[inline]
    pub fn state(&self) -> State {
        self.state
    }

    /// "The WebSocket Connection Close Code" (RFC 6455 7.1.5): the code of the peer's close frame,
    /// [`CloseCode::NO_STATUS`] if it had none, [`CloseCode::ABNORMAL`] while the peer has sent no close frame.
    #[inline]
    pub fn close_code(&self) -> CloseCode {
        self.close_code
    }

    /// The next event in `input`; `None` when it takes more bytes. Pongs and the answer to a close frame are appended
    /// to `replies`.
    ///
    /// Call it until it returns `None`, then keep [`Input::into_rest`] in front of what arrives next.
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
        if !input.rest().is_empty() {
            self.last_received = now;
            self.awaiting_pong = false;
        }
        if self.state == State::Closed {
            input.consume_all();
            return Ok(None);
        }
        let step = loop {
            match self.step(input, limits) {
                Ok(Step::Again) => {}
                Ok(step) => break step,
                Err(error) => {
                    input.consume_all();
                    return Err(self.fail(error, replies));
                }
            }
        };
        match step {
            Step::Again | Step::Starved => Ok(None),
            Step::Whole(message_type, payload) => {
                Ok(Some(Event::Message(Message::in_place(message_type, input, payload))))
            }
            Step::Assembled(assembly) => Ok(Some(Event::Message(assembly.finish()))),
            Step::Control(opcode, payload) => {
                if opcode == OpCode::Close {
                    input.consume_all();
                }
                self.control(opcode, &input.bytes[payload], replies).map(Some)
            }
        }
    }

    /// How many more bytes complete what stands at the front of `input`, so far as it tells: its header, or a control
    /// or unfragmented frame. 0 when there is nothing to keep. It is what the peer announced, within the limits; a
    /// careful caller grows its buffer as bytes arrive and takes this as the most it will need.
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

    /// Appends a frame of ours, masked in the client's role. Returns whether it did: only an open connection sends (RFC
    /// 6455 5.5.1).
    ///
    /// A server sends messages as [`PreparedMessage`](super::PreparedMessage) instead; this is for clients, for
    /// fragments and for pings. Whether text is UTF-8 and fragments are in order is up to the caller.
    ///
    /// # Panics
    ///
    /// If a control frame is fragmented, longer than [`CONTROL_PAYLOAD_MAX`], or a close frame, for which there is
    /// [`WebSocket::close`].
    pub fn send(&mut self, opcode: OpCode, fin: bool, payload: &[u8], out: &mut Vec<u8>) -> bool {
        assert!(opcode != OpCode::Close, "close() sends close frames");
        assert!(
            !opcode.is_control() || (fin && payload.len() <= CONTROL_PAYLOAD_MAX),
            "RFC 6455 5.5 on control frames"
        );
        let open = self.state == State::Open;
        if open {
            self.put(opcode, fin, payload, out);
        }
        open
    }

    /// Starts the closing handshake (RFC 6455 7.1.2): appends a close frame with as much of `reason` as it can hold,
    /// 123 bytes. [`CloseCode::NO_STATUS`] makes it an empty one. Does nothing if a close frame was sent before.
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
        assert!(code.is_sendable() || code == CloseCode::NO_STATUS, "close code {code} must not be sent");
        if self.state != State::Open {
            return;
        }
        self.put_close(Some(code).filter(|&code| code != CloseCode::NO_STATUS), reason, replies);
        self.state = State::Closing;
        self.waiting_since = now;
        // What is under way will be dropped: a fragment's payload from where it stands, a whole frame from its header.
        self.front = match self.assembly.take().and_then(|assembly| assembly.missing()) {
            Some(missing) => Front::Skip(missing),
            None => Front::FRESH,
        };
    }

    /// When [`WebSocket::handle_timeout`] is due; `None` for never. It moves with every received byte, so a caller may
    /// keep an old deadline and ask again when that has come.
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

    /// Does what is due: pings a silent peer (RFC 6455 5.5.2), or gives up one that answers neither ping nor close.
    pub fn handle_timeout(&mut self, now: Tick, keep_alive: &KeepAlive, replies: &mut Vec<u8>) -> Timeout {
        if self.deadline(keep_alive).is_none_or(|deadline| now < deadline) {
            return Timeout::Nothing;
        }
        if self.state == State::Closing {
            self.end();
            return Timeout::CloseOverdue;
        }
        if self.awaiting_pong && keep_alive.pong_timeout > 0 {
            self.put_close(Some(CloseCode::INTERNAL_ERROR), "no answer to a ping", replies);
            self.end();
            return Timeout::PongOverdue;
        }
        self.put(OpCode::Ping, true, &[], replies);
        self.awaiting_pong = true;
        self.waiting_since = now;
        Timeout::PingSent
    }

    /// Takes the peer for alive at `now`. For a caller that stopped reading: silence it caused itself must not count.
    pub fn excuse_silence(&mut self, now: Tick) {
        self.last_received = now;
        self.awaiting_pong = false;
    }

    /// Consumes what stands at the front of the input, as far as it has arrived.
    #[inline]
    fn step(&mut self, input: &mut Input, limits: &MessageLimits) -> Result<Step, ProtocolError> {
        if let Some(assembly) = &mut self.assembly
            && assembly.missing().is_some()
        {
            let progress = assembly.append(input.rest())?;
            input.consume(progress.taken);
            return Ok(match progress.end {
                None => Step::Starved,
                Some(End::Fragment) => Step::Again,
                Some(End::Message) => self.assembly.take().map_or(Step::Again, Step::Assembled),
            });
        }
        if let Front::Skip(missing) = self.front {
            let skipped = input.rest().len().min(missing as usize);
            input.consume(skipped);
            self.front = Front::skip(missing - skipped as u32);
            if self.front != Front::FRESH {
                return Ok(Step::Starved);
            }
        }
        self.check_start(input.rest())?;
        let Some((header, header_len)) = FrameHeader::decode(input.rest())? else { return Ok(Step::Starved) };
        if header.opcode.is_control() {
            return Ok(self.step_control(&header, header_len, input));
        }
        if header.payload_len > u64::from(limits.frame_bytes_max) {
            return Err(ProtocolError::FrameTooBig);
        }
        if self.state == State::Closing {
            input.consume(header_len);
            self.front = Front::skip(header.payload_len as u32);
            return Ok(Step::Again);
        }
        let message_type = match header.opcode {
            OpCode::Text => MessageType::Text,
            _ => MessageType::Binary,
        };
        if header.fin && header.opcode != OpCode::Continuation {
            return self.step_whole(message_type, &header, header_len, input, limits);
        }
        input.consume(header_len);
        self.assembly.get_or_insert_with(|| Box::new(Assembly::new(message_type))).begin(&header, limits)?;
        Ok(Step::Again)
    }

    /// What the first two bytes of a frame show to be wrong on this connection. The order of the checks is the order of
    /// the bytes, here and in [`FrameHeader::decode`] after it: so the first error is the same however the bytes
    /// arrive.
    #[inline]
    fn check_start(&self, bytes: &[u8]) -> Result<(), ProtocolError> {
        let Some(&first) = bytes.first() else { return Ok(()) };
        let (_, rsv, opcode) = decode_first(first)?;
        if rsv != 0 {
            return Err(ProtocolError::ReservedBits);
        }
        if self.state == State::Open && !opcode.is_control() {
            match (opcode == OpCode::Continuation, self.assembly.is_some()) {
                (true, false) => return Err(ProtocolError::NothingToContinue),
                (false, true) => return Err(ProtocolError::MessageInterrupted),
                _ => {}
            }
        }
        match (bytes.get(1).map(|second| second & MASK != 0), self.masking.is_some()) {
            (Some(false), false) => Err(ProtocolError::MaskMissing),
            (Some(true), true) => Err(ProtocolError::MaskUnexpected),
            _ => Ok(()),
        }
    }

    /// An unfragmented message: unmasks and checks what has arrived since the last time.
    #[inline]
    fn step_whole(
        &mut self,
        message_type: MessageType,
        header: &FrameHeader,
        header_len: usize,
        input: &mut Input,
        limits: &MessageLimits,
    ) -> Result<Step, ProtocolError> {
        if header.payload_len > u64::from(limits.message_bytes_max) {
            return Err(ProtocolError::MessageTooBig);
        }
        if limits.fragments_max == 0 {
            return Err(ProtocolError::TooManyFragments);
        }
        let (unmasked, utf8_tail) = match self.front {
            Front::Payload { unmasked, utf8_tail } => (unmasked as usize, usize::from(utf8_tail)),
            Front::Skip(_) => (0, 0),
        };
        let payload_len = header.payload_len as usize;
        let received = &mut input.rest_mut()[header_len..];
        let available = received.len().min(payload_len);
        let received = &mut received[..available];
        if let Some(key) = header.mask {
            masking::apply(&mut received[unmasked..], key, unmasked);
        }
        let unchecked = &received[unmasked - utf8_tail..];
        let utf8_tail = match message_type {
            MessageType::Text => unchecked.len() - utf8_prefix(unchecked)?,
            MessageType::Binary => 0,
        };
        if available < payload_len {
            self.front = Front::Payload { unmasked: available as u32, utf8_tail: utf8_tail as u8 };
            return Ok(Step::Starved);
        }
        if utf8_tail != 0 {
            return Err(ProtocolError::InvalidUtf8);
        }
        self.front = Front::FRESH;
        input.consume(header_len + payload_len);
        Ok(Step::Whole(message_type, input.at - payload_len..input.at))
    }

    /// A control frame, once it is whole. After our close frame only the peer's is of interest.
    fn step_control(&self, header: &FrameHeader, header_len: usize, input: &mut Input) -> Step {
        let payload_len = header.payload_len as usize;
        let Some(payload) = input.rest_mut().get_mut(header_len..header_len + payload_len) else {
            return Step::Starved;
        };
        if let Some(key) = header.mask {
            masking::apply(payload, key, 0);
        }
        input.consume(header_len + payload_len);
        if self.state == State::Closing && header.opcode != OpCode::Close {
            return Step::Again;
        }
        Step::Control(header.opcode, input.at - payload_len..input.at)
    }

    fn control<'a>(
        &mut self,
        opcode: OpCode,
        payload: &'a [u8],
        replies: &mut Vec<u8>,
    ) -> Result<Event<'a>, ProtocolError> {
        match opcode {
            OpCode::Ping => {
                self.put(OpCode::Pong, true, payload, replies);
                Ok(Event::Ping(payload))
            }
            OpCode::Close => {
                let frame = CloseFrame::parse(payload).map_err(|error| self.fail(error, replies))?;
                self.close_code = frame.code.unwrap_or(CloseCode::NO_STATUS);
                if self.state == State::Open {
                    self.put_close(frame.code, "", replies);
                }
                self.end();
                Ok(Event::Close(frame))
            }
            _ => Ok(Event::Pong(payload)),
        }
    }

    /// RFC 6455 7.1.7.
    #[cold]
    fn fail(&mut self, error: ProtocolError, replies: &mut Vec<u8>) -> ProtocolError {
        if self.state == State::Open {
            self.put_close(Some(error.close_code()), &error.to_string(), replies);
        }
        self.end();
        error
    }

    fn end(&mut self) {
        self.state = State::Closed;
        self.front = Front::FRESH;
        self.assembly = None;
    }

    fn put_close(&mut self, code: Option<CloseCode>, reason: &str, replies: &mut Vec<u8>) {
        let mut payload = Vec::new();
        CloseFrame { code, reason }.encode(&mut payload);
        self.put(OpCode::Close, true, &payload, replies);
    }

    fn put(&mut self, opcode: OpCode, fin: bool, payload: &[u8], out: &mut Vec<u8>) {
        match &mut self.masking {
            None => frame::encode_frame(opcode, fin, payload, out),
            Some(keys) => frame::encode_masked(opcode, fin, payload, keys.next(), out),
        }
    }
}

/// A hundred thousand idle connections should cost megabytes.
const _: () = assert!(size_of::<WebSocket>() == 40);

/// How far the frame at the front of the input has been worked through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Front {
    /// Its header stands at the front. So many bytes of its payload are unmasked; the last `utf8_tail` of them begin a
    /// character.
    Payload { unmasked: u32, utf8_tail: u8 },
    /// Its header is consumed, and so many bytes of its payload are to be dropped. Never 0.
    Skip(u32),
}

impl Front {
    const FRESH: Self = Self::Payload { unmasked: 0, utf8_tail: 0 };

    fn skip(missing: u32) -> Self {
        if missing == 0 { Self::FRESH } else { Self::Skip(missing) }
    }
}

/// What one look at the input came to. Ranges are positions in its buffer.
enum Step {
    /// Something was consumed that is no event.
    Again,
    /// It takes more bytes.
    Starved,
    Whole(MessageType, Range<usize>),
    Assembled(Box<Assembly>),
    Control(OpCode, Range<usize>),
}

#[cfg(test)]
mod tests;
