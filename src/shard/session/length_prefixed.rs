//! A second protocol, for tests alone: each message follows its length, and nobody answers a goodbye.
//!
//! A connection opens as a WebSocket does, by a request that offers the subprotocol [`SUBPROTOCOL`]. A message is its
//! length (4 bytes), its kind (1 byte: 1 is text, 2 is binary) and its payload. A goodbye has the length 0xffff_ffff;
//! then, in place of the kind, the length of a close frame's payload; then that payload. There are no fragments, no
//! pings and no masks. Messages of the server are frames without a mask (RFC 6455 5.2), as the hub delivers them; none
//! of them begins with 0xff.
//!
//! For the shard this protocol differs from a WebSocket in three ways: our goodbye ends the session at once, since the
//! peer does not answer it; no deadline is ever due; and no part of a message leaves the input before all of it has
//! arrived.

use super::Session;
use crate::proto::{
    CloseCode, CloseFrame, Event, Fin, FrameHeader, Input, KeepAlive, Message, MessageLimits, MessageType, OpCode,
    ProtocolError, State, Tick, Timeout, Upgrade, Verdict,
};

/// The state machine of one connection, on the server's side.
#[derive(Debug)]
pub(crate) struct LengthPrefixed {
    last_received: Tick,
    /// The payload bytes that have arrived of the message at the front of the input, if its header was accepted.
    under_way: Option<u32>,
    state: State,
}

/// The first bytes of a message or of a goodbye.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Head {
    Message(MessageType, usize),
    Goodbye(usize),
}

impl LengthPrefixed {
    /// Returns the session for which this opening request asks, if it asks for this protocol.
    pub(in crate::shard) fn asked_for(upgrade: &Upgrade) -> Option<Session> {
        upgrade.protocols().iter().any(|name| name == SUBPROTOCOL).then(Self::session)
    }

    /// Returns a session that has just been opened.
    pub(in crate::shard) fn session() -> Session {
        Session::LengthPrefixed(LengthPrefixed { last_received: Tick(0), under_way: None, state: State::Open })
    }

    pub(super) fn state(&self) -> State {
        self.state
    }

    pub(super) fn last_received(&self) -> Tick {
        self.last_received
    }

    pub(super) fn message_length(&self) -> usize {
        self.under_way.unwrap_or_default() as usize
    }

    pub(super) fn is_within_message(&self) -> bool {
        self.under_way.is_some()
    }

    pub(super) fn assembled_bytes(&self) -> usize {
        0
    }

    pub(super) fn missing(&self, input: &[u8]) -> usize {
        if input.is_empty() || self.state == State::Closed {
            return 0;
        }
        let end = match Head::decode(input) {
            Ok(Some(head)) => HEAD_BYTES + head.length(),
            Ok(None) => HEAD_BYTES,
            Err(_) => 0,
        };
        end.saturating_sub(input.len())
    }

    pub(super) fn deadline(&self, _keep_alive: &KeepAlive) -> Option<Tick> {
        None
    }

    pub(super) fn handle_timeout(
        &mut self,
        _now: Tick,
        _keep_alive: &KeepAlive,
        _ping: &[u8],
        _replies: &mut Vec<u8>,
    ) -> Timeout {
        Timeout::Nothing
    }

    pub(super) fn receive<'a>(
        &mut self,
        now: Tick,
        input: &'a mut Input,
        limits: &MessageLimits,
        replies: &mut Vec<u8>,
    ) -> Result<Option<Event<'a>>, ProtocolError> {
        self.receive_with(now, input, limits, replies, |_, _| Verdict::Pass)
    }

    pub(super) fn receive_with<'a>(
        &mut self,
        now: Tick,
        input: &'a mut Input,
        limits: &MessageLimits,
        replies: &mut Vec<u8>,
        mut hook: impl FnMut(&FrameHeader, &[u8]) -> Verdict,
    ) -> Result<Option<Event<'a>>, ProtocolError> {
        if !input.rest().is_empty() {
            self.last_received = now;
        }
        let head = loop {
            if self.state == State::Closed {
                input.consume_all();
                return Ok(None);
            }
            if input.frames_left() == 0 {
                return Ok(None);
            }
            let head = match self.next_head(input.rest(), limits) {
                Ok(Some(head)) => head,
                Ok(None) => return Ok(None),
                Err(error) => return Err(self.fail(error, replies)),
            };
            input.count_frame();
            self.under_way = None;
            match hook(&head.frame(), head.payload_in(input.rest())) {
                Verdict::Pass => break head,
                Verdict::Drop => input.consume(HEAD_BYTES + head.length()),
                Verdict::Fail(code) => return Err(self.fail(ProtocolError::Refused(code), replies)),
            }
        };
        let payload = head.payload_in(input.rest());
        match head {
            Head::Message(MessageType::Text, _) if limits.checks_utf8 && std::str::from_utf8(payload).is_err() => {
                Err(self.fail(ProtocolError::InvalidUtf8, replies))
            }
            Head::Message(message_type, _) => {
                let message = Message::copied(message_type, payload);
                input.consume(HEAD_BYTES + head.length());
                Ok(Some(Event::Message(message)))
            }
            Head::Goodbye(length) => match CloseFrame::parse(&input.take(HEAD_BYTES + length)[HEAD_BYTES..]) {
                Ok(frame) => {
                    self.end(frame.code.unwrap_or(CloseCode::NO_STATUS), "", replies);
                    Ok(Some(Event::Close(frame)))
                }
                Err(error) => Err(self.fail(error, replies)),
            },
        }
    }

    /// Returns the head of the message or goodbye at the front of the input once all of it has arrived.
    fn next_head(&mut self, rest: &[u8], limits: &MessageLimits) -> Result<Option<Head>, ProtocolError> {
        let Some(head) = Head::decode(rest)? else { return Ok(None) };
        if let Head::Message(_, length) = head {
            if length > limits.message_bytes_max as usize {
                return Err(ProtocolError::MessageTooBig);
            }
            self.under_way = Some(length.min(rest.len() - HEAD_BYTES) as u32);
        }
        Ok(Some(head).filter(|head| rest.len() >= HEAD_BYTES + head.length()))
    }

    pub(super) fn close(&mut self, _now: Tick, code: CloseCode, reason: &str, replies: &mut Vec<u8>) {
        assert!(code.is_sendable() || code == CloseCode::NO_STATUS, "close code {code} must not be sent");
        if self.state == State::Open {
            self.end(code, reason, replies);
        }
    }

    pub(super) fn abandon(&mut self) {
        self.state = State::Closed;
        self.under_way = None;
    }

    pub(super) fn excuse_silence(&mut self, now: Tick) {
        self.last_received = now;
    }

    fn fail(&mut self, error: ProtocolError, replies: &mut Vec<u8>) -> ProtocolError {
        self.end(error.close_code(), &error.to_string(), replies);
        error
    }

    fn end(&mut self, code: CloseCode, reason: &str, replies: &mut Vec<u8>) {
        encode_goodbye(code, reason, replies);
        self.abandon();
    }
}

impl Head {
    fn decode(bytes: &[u8]) -> Result<Option<Self>, ProtocolError> {
        let Some((&[a, b, c, d, kind], _)) = bytes.split_first_chunk::<HEAD_BYTES>() else { return Ok(None) };
        let length = u32::from_be_bytes([a, b, c, d]);
        match (length, kind) {
            (GOODBYE, length) => Ok(Some(Head::Goodbye(usize::from(length)))),
            (_, 1) => Ok(Some(Head::Message(MessageType::Text, length as usize))),
            (_, 2) => Ok(Some(Head::Message(MessageType::Binary, length as usize))),
            (_, kind) => Err(ProtocolError::ReservedOpCode(kind)),
        }
    }

    fn length(self) -> usize {
        match self {
            Head::Message(_, length) | Head::Goodbye(length) => length,
        }
    }

    /// Returns the payload after this head, which stands at the front of `bytes`.
    fn payload_in(self, bytes: &[u8]) -> &[u8] {
        &bytes[HEAD_BYTES..HEAD_BYTES + self.length()]
    }

    /// Returns the header of the frame that would carry the same message or goodbye.
    fn frame(self) -> FrameHeader {
        let opcode = match self {
            Head::Message(message_type, _) => message_type.opcode(),
            Head::Goodbye(_) => OpCode::Close,
        };
        FrameHeader::new(opcode, Fin::Set, self.length())
    }
}

/// Appends a message, as a client sends it.
pub(crate) fn encode_message(message_type: MessageType, payload: &[u8], out: &mut Vec<u8>) {
    let kind = match message_type {
        MessageType::Text => 1,
        MessageType::Binary => 2,
    };
    let length = u32::try_from(payload.len()).expect("a test's message is small");
    out.extend_from_slice(&length.to_be_bytes());
    out.push(kind);
    out.extend_from_slice(payload);
}

/// Appends a goodbye, as either side sends it, with as much of the reason as a close frame can hold.
pub(crate) fn encode_goodbye(code: CloseCode, reason: &str, out: &mut Vec<u8>) {
    let mut payload = Vec::new();
    CloseFrame { code: Some(code).filter(|&code| code != CloseCode::NO_STATUS), reason }.encode(&mut payload);
    out.extend_from_slice(&GOODBYE.to_be_bytes());
    out.push(payload.len() as u8);
    out.extend_from_slice(&payload);
}

/// Returns the length of the goodbye at the front of a server's output, and its code and reason; `None` if no goodbye
/// stands there, or not all of it.
pub(crate) fn decode_goodbye(bytes: &[u8]) -> Option<(usize, CloseFrame<'_>)> {
    let Ok(Some(head @ Head::Goodbye(length))) = Head::decode(bytes) else { return None };
    let end = HEAD_BYTES + length;
    (bytes.len() >= end).then(|| (end, CloseFrame::parse(head.payload_in(bytes)).expect("a close frame's payload")))
}

/// The subprotocol by which a client asks for this protocol.
pub(crate) const SUBPROTOCOL: &str = "length-prefixed.test";

/// The bytes in front of each payload.
const HEAD_BYTES: usize = 5;

/// The length of a goodbye. No message has it.
const GOODBYE: u32 = u32::MAX;

mod tests {
    use bytes::BytesMut;

    use super::*;

    /// The events of a session, as tests compare them.
    #[derive(Debug, PartialEq, Eq)]
    enum Seen {
        Message(MessageType, Vec<u8>),
        Goodbye(CloseCode, String),
        Error(ProtocolError),
    }

    fn session() -> LengthPrefixed {
        let Session::LengthPrefixed(session) = LengthPrefixed::session() else { panic!("it is length-prefixed") };
        session
    }

    /// Returns the events that bring `session` to the end of `bytes`, which arrive `step` at a time, and its replies.
    fn receive(
        session: &mut LengthPrefixed,
        bytes: &[u8],
        step: usize,
        limits: &MessageLimits,
    ) -> (Vec<Seen>, Vec<u8>) {
        let (mut seen, mut replies, mut rest) = (Vec::new(), Vec::new(), BytesMut::new());
        for (at, part) in bytes.chunks(step).enumerate() {
            rest.extend_from_slice(part);
            let mut input = Input::new(rest);
            loop {
                seen.push(match session.receive(Tick(at as u32), &mut input, limits, &mut replies) {
                    Ok(None) => break,
                    Ok(Some(Event::Message(message))) => {
                        Seen::Message(message.message_type(), message.payload().to_vec())
                    }
                    Ok(Some(Event::Close(frame))) => Seen::Goodbye(frame.code.unwrap(), frame.reason.to_owned()),
                    Ok(Some(event)) => panic!("{event:?}"),
                    Err(error) => Seen::Error(error),
                });
            }
            rest = input.into_rest();
        }
        (seen, replies)
    }

    fn goodbye(code: CloseCode, reason: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode_goodbye(code, reason, &mut bytes);
        bytes
    }

    #[test]
    fn any_split_of_the_input_gives_the_same_events() {
        let mut bytes = b"\0\0\0\x02\x01hi\0\0\0\0\x02".to_vec();
        bytes.extend(goodbye(CloseCode::NORMAL, "done"));
        bytes.extend(b"\0\0\0\0\x01");
        for step in 1..=bytes.len() {
            let mut session = session();
            let (seen, replies) = receive(&mut session, &bytes, step, &MessageLimits::DEFAULT);
            let expected = [
                Seen::Message(MessageType::Text, b"hi".to_vec()),
                Seen::Message(MessageType::Binary, Vec::new()),
                Seen::Goodbye(CloseCode::NORMAL, "done".to_owned()),
            ];
            assert_eq!(seen, expected, "{step} bytes at a time");
            assert_eq!(replies, b"\xff\xff\xff\xff\x02\x03\xe8");
            assert_eq!(session.state(), State::Closed);
        }
    }

    #[test]
    fn errors_close_with_their_codes() {
        let small = MessageLimits { message_bytes_max: 3, ..MessageLimits::DEFAULT };
        for (bytes, error) in [
            (&b"\0\0\0\0\x09"[..], ProtocolError::ReservedOpCode(9)),
            (b"\0\0\0\x04\x02", ProtocolError::MessageTooBig),
            (b"\0\0\0\x01\x01\xff", ProtocolError::InvalidUtf8),
            (b"\xff\xff\xff\xff\x01\x03", ProtocolError::CloseTooShort),
            (b"\xff\xff\xff\xff\x02\x03\xed", ProtocolError::CloseCodeInvalid(1005)),
        ] {
            let mut session = session();
            let (seen, replies) = receive(&mut session, bytes, 1, &small);
            assert_eq!(seen, [Seen::Error(error)]);
            let (length, said) = decode_goodbye(&replies).expect("a goodbye");
            assert_eq!((length, said.code), (replies.len(), Some(error.close_code())));
            assert_eq!(said.reason, error.to_string());
            assert_eq!(session.state(), State::Closed);
        }
    }

    #[test]
    fn our_goodbye_ends_the_session_and_is_said_once() {
        let (mut session, mut replies) = (session(), Vec::new());
        session.close(Tick(1), CloseCode::GOING_AWAY, "later", &mut replies);
        assert_eq!(session.state(), State::Closed);
        session.close(Tick(2), CloseCode::NORMAL, "again", &mut replies);
        assert_eq!(replies, goodbye(CloseCode::GOING_AWAY, "later"));
        assert_eq!(receive(&mut session, b"\0\0\0\x02\x01hi", 7, &MessageLimits::DEFAULT), (Vec::new(), Vec::new()));
    }

    /// The limits may change only between two messages.
    #[test]
    fn a_message_is_under_way_from_its_head_to_its_end() {
        let mut session = session();
        let bytes = b"\0\0\0\x03\x01abc";
        for end in 0..=bytes.len() {
            let (mut input, mut replies) = (Input::new(bytes[..end].into()), Vec::new());
            let event = session.receive(Tick(0), &mut input, &MessageLimits::DEFAULT, &mut replies).unwrap();
            assert_eq!(event.is_some(), end == bytes.len());
            let is_within = (HEAD_BYTES..bytes.len()).contains(&end);
            assert_eq!(session.is_within_message(), is_within, "{end} bytes");
            assert_eq!(session.message_length(), if is_within { end - HEAD_BYTES } else { 0 });
            let missing = if end == 0 {
                0
            } else if end < HEAD_BYTES {
                HEAD_BYTES - end
            } else {
                bytes.len() - end
            };
            assert_eq!(session.missing(&bytes[..end]), missing);
        }
    }

    #[test]
    fn a_message_counts_as_a_frame() {
        let (mut session, mut replies) = (session(), Vec::new());
        let mut input = Input::new(b"\0\0\0\0\x02\0\0\0\0\x02"[..].into());
        input.limit_frames(1);
        let mut next =
            || session.receive(Tick(0), &mut input, &MessageLimits::DEFAULT, &mut replies).unwrap().is_some();
        assert_eq!([next(), next()], [true, false]);
        assert_eq!((input.frames_left(), input.rest().len()), (0, HEAD_BYTES));
    }

    #[test]
    fn a_hook_sees_each_message_as_a_frame() {
        let (mut session, mut replies, mut seen) = (session(), Vec::new(), Vec::new());
        let mut bytes = b"\0\0\0\x01\x01a\0\0\0\x01\x02b".to_vec();
        bytes.extend(goodbye(CloseCode::NORMAL, ""));
        let mut input = Input::new(bytes[..].into());
        let hook = |header: &FrameHeader, payload: &[u8]| {
            seen.push((header.opcode, payload.to_vec()));
            match header.opcode {
                OpCode::Text => Verdict::Drop,
                OpCode::Binary => Verdict::Pass,
                _ => Verdict::Fail(CloseCode::UNSUPPORTED),
            }
        };
        let mut hook = hook;
        let mut next =
            || match session.receive_with(Tick(0), &mut input, &MessageLimits::DEFAULT, &mut replies, &mut hook) {
                Ok(Some(Event::Message(message))) => Ok(message.payload().to_vec()),
                Ok(event) => panic!("{event:?}"),
                Err(error) => Err(error),
            };
        assert_eq!(next(), Ok(b"b".to_vec()), "the text was dropped");
        assert_eq!(next(), Err(ProtocolError::Refused(CloseCode::UNSUPPORTED)));
        let expected = [(OpCode::Text, &b"a"[..]), (OpCode::Binary, b"b"), (OpCode::Close, b"\x03\xe8")];
        assert_eq!(seen.iter().map(|(opcode, payload)| (*opcode, &payload[..])).collect::<Vec<_>>(), expected);
        assert_eq!(replies, goodbye(CloseCode::UNSUPPORTED, "the frame was refused"));
    }
}
