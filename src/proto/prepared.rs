//! Messages of a server, encoded once for all recipients.

use super::frame::{CONTROL_PAYLOAD_MAX, Fin, FrameHeader, HEADER_ROOM, MessageType, OpCode, encode_frame};
use bytes::{Buf, Bytes, BytesMut};
use std::{fmt, iter};

/// Unmasked frames that a server may send to many connections: a message in one frame or split over several, a
/// fragment, a ping or a pong. A server does not mask (RFC 6455 5.1), so one encoding is right for all recipients. The
/// bytes are immutable, and a clone shares them. A close frame changes the state of one connection, so it is sent by
/// [`WebSocket::close`](super::WebSocket::close) instead.
///
/// ```
/// use ringhub::proto::PreparedMessage;
/// let message = PreparedMessage::text("Hello");
/// assert_eq!(message.frame()[..], *b"\x81\x05Hello"); // RFC 6455 5.7
/// assert_eq!(message.payload(), b"Hello");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedMessage {
    /// At least one frame, and only whole ones.
    frame: Bytes,
}

impl PreparedMessage {
    /// Makes a text message (RFC 6455 5.6).
    pub fn text(payload: &str) -> Self {
        Self::one(OpCode::Text, Fin::Set, payload.as_bytes())
    }

    /// Makes a binary message (RFC 6455 5.6).
    pub fn binary(payload: &[u8]) -> Self {
        Self::one(OpCode::Binary, Fin::Set, payload)
    }

    /// Makes a message in frames of at most `frame_bytes_max` bytes of payload, one after the other (RFC 6455 5.4). A
    /// message that fits into one frame is not fragmented. A cut may divide a character, which RFC 6455 5.6 allows.
    ///
    /// # Errors
    ///
    /// [`PrepareError::FramesTooSmall`] if `frame_bytes_max` is 0, [`PrepareError::NotUtf8`] if text is not UTF-8.
    ///
    /// ```
    /// use ringhub::proto::{MessageType, PrepareError, PreparedMessage};
    /// let message = PreparedMessage::fragments(MessageType::Text, b"Hello", 3)?;
    /// assert_eq!(message.frame()[..], *b"\x01\x03Hel\x80\x02lo"); // RFC 6455 5.7
    /// let refused = PreparedMessage::fragments(MessageType::Text, b"Hello", 0);
    /// assert_eq!(refused, Err(PrepareError::FramesTooSmall));
    /// # Ok::<(), PrepareError>(())
    /// ```
    pub fn fragments(message_type: MessageType, payload: &[u8], frame_bytes_max: usize) -> Result<Self, PrepareError> {
        if frame_bytes_max == 0 {
            return Err(PrepareError::FramesTooSmall);
        }
        if message_type == MessageType::Text && simdutf8::basic::from_utf8(payload).is_err() {
            return Err(PrepareError::NotUtf8);
        }
        if payload.len() <= frame_bytes_max {
            return Ok(Self::one(message_type.opcode(), Fin::Set, payload));
        }
        let frames = payload.len().div_ceil(frame_bytes_max);
        let header = FrameHeader::new(OpCode::Continuation, Fin::Unset, frame_bytes_max);
        let mut out = Vec::with_capacity(payload.len() + frames * header.encoded_len());
        for (i, part) in payload.chunks(frame_bytes_max).enumerate() {
            let opcode = if i == 0 { message_type.opcode() } else { OpCode::Continuation };
            encode_frame(opcode, (i + 1 == frames).into(), part, &mut out);
        }
        Ok(Self { frame: out.into() })
    }

    /// Makes the first fragment of a message (RFC 6455 5.4). Between this fragment and the [last](Self::last_fragment),
    /// a recipient may get only the [other fragments](Self::next_fragment) and control frames. A fragment of text may
    /// end inside a character; the whole message must be UTF-8.
    ///
    /// ```
    /// use ringhub::proto::{MessageType, PreparedMessage};
    /// assert_eq!(PreparedMessage::first_fragment(MessageType::Text, b"Hel").frame()[..], *b"\x01\x03Hel");
    /// assert_eq!(PreparedMessage::next_fragment(b"l").frame()[..], *b"\x00\x01l");
    /// assert_eq!(PreparedMessage::last_fragment(b"o").frame()[..], *b"\x80\x01o");
    /// ```
    pub fn first_fragment(message_type: MessageType, payload: &[u8]) -> Self {
        Self::one(message_type.opcode(), Fin::Unset, payload)
    }

    /// Makes a fragment that is neither the first nor the last of its message (RFC 6455 5.4).
    pub fn next_fragment(payload: &[u8]) -> Self {
        Self::one(OpCode::Continuation, Fin::Unset, payload)
    }

    /// Makes the last fragment of a message (RFC 6455 5.4).
    pub fn last_fragment(payload: &[u8]) -> Self {
        Self::one(OpCode::Continuation, Fin::Set, payload)
    }

    /// Makes a ping (RFC 6455 5.5.2).
    ///
    /// # Errors
    ///
    /// [`PrepareError::ControlTooLong`] above [`CONTROL_PAYLOAD_MAX`] bytes.
    ///
    /// ```
    /// use ringhub::proto::{PrepareError, PreparedMessage};
    /// assert_eq!(PreparedMessage::ping(b"Hello")?.frame()[..], *b"\x89\x05Hello"); // RFC 6455 5.7
    /// assert_eq!(PreparedMessage::ping(&[0; 126]), Err(PrepareError::ControlTooLong));
    /// # Ok::<(), PrepareError>(())
    /// ```
    pub fn ping(payload: &[u8]) -> Result<Self, PrepareError> {
        Self::control(OpCode::Ping, payload)
    }

    /// Makes an unsolicited pong, "a unidirectional heartbeat" (RFC 6455 5.5.3). Pings are answered by
    /// [`WebSocket`](super::WebSocket).
    ///
    /// # Errors
    ///
    /// [`PrepareError::ControlTooLong`] above [`CONTROL_PAYLOAD_MAX`] bytes.
    ///
    /// ```
    /// use ringhub::proto::{PrepareError, PreparedMessage};
    /// assert_eq!(PreparedMessage::pong(b"")?.frame()[..], *b"\x8a\x00");
    /// # Ok::<(), PrepareError>(())
    /// ```
    pub fn pong(payload: &[u8]) -> Result<Self, PrepareError> {
        Self::control(OpCode::Pong, payload)
    }

    /// Returns the bytes to send: whole frames, each with its header.
    #[inline]
    pub fn frame(&self) -> &Bytes {
        &self.frame
    }

    /// Returns the bytes to send, as [`PreparedMessage::frame`] does.
    #[inline]
    pub fn into_frame(self) -> Bytes {
        self.frame
    }

    /// Returns the frames one by one; there are several only if [`PreparedMessage::fragments`] has split the message.
    ///
    /// ```
    /// use ringhub::proto::{FrameHeader, MessageType, OpCode, PrepareError, PreparedMessage};
    /// let message = PreparedMessage::fragments(MessageType::Binary, b"Hello", 3)?;
    /// let payloads: Vec<_> = message.frames().map(|(header, payload)| (header.opcode, payload)).collect();
    /// assert_eq!(payloads, [(OpCode::Binary, &b"Hel"[..]), (OpCode::Continuation, &b"lo"[..])]);
    /// # Ok::<(), PrepareError>(())
    /// ```
    pub fn frames(&self) -> impl Iterator<Item = (FrameHeader, &[u8])> {
        let mut rest = &self.frame[..];
        iter::from_fn(move || {
            let (header, header_len) = FrameHeader::decode(rest).ok()??;
            let (payload, after) = rest[header_len..].split_at(header.payload_len as usize);
            rest = after;
            Some((header, payload))
        })
    }

    /// Returns the opcode of the first frame.
    ///
    /// ```
    /// use ringhub::proto::{OpCode, PreparedMessage};
    /// assert_eq!(PreparedMessage::text("Hello").opcode(), OpCode::Text);
    /// assert_eq!(PreparedMessage::last_fragment(b"").opcode(), OpCode::Continuation);
    /// ```
    pub fn opcode(&self) -> OpCode {
        self.first().0.opcode
    }

    /// Returns the payload of the first frame. That is the whole payload, unless [`PreparedMessage::fragments`] has
    /// split the message.
    pub fn payload(&self) -> &[u8] {
        self.first().1
    }

    /// Returns the type, text or binary; `None` for a control frame, and for a fragment that is not a message's first.
    ///
    /// ```
    /// use ringhub::proto::{MessageType, PreparedMessage};
    /// assert_eq!(PreparedMessage::text("Hello").message_type(), Some(MessageType::Text));
    /// assert_eq!(PreparedMessage::next_fragment(b"lo").message_type(), None);
    /// ```
    pub fn message_type(&self) -> Option<MessageType> {
        match self.opcode() {
            OpCode::Text => Some(MessageType::Text),
            OpCode::Binary => Some(MessageType::Binary),
            _ => None,
        }
    }

    /// Returns the payload of a text message in one frame. The call checks the text again, so
    /// [`PreparedMessage::payload`] is cheaper if bytes are enough.
    pub fn as_text(&self) -> Option<&str> {
        let (header, payload) = self.first();
        (header.opcode == OpCode::Text && header.fin.is_set()).then(|| simdutf8::basic::from_utf8(payload).ok())?
    }

    /// Makes a frame of `buffer` without a copy. The payload stands from `payload_at` to the end; in front of it is
    /// room for an unmasked header.
    pub(super) fn in_place(opcode: OpCode, fin: Fin, mut buffer: BytesMut, payload_at: usize) -> Self {
        let mut encoded = [0; FrameHeader::LEN_MAX];
        let header_len = FrameHeader::new(opcode, fin, buffer.len() - payload_at).encode(&mut encoded);
        debug_assert!(header_len <= HEADER_ROOM);
        buffer.advance(payload_at - header_len);
        buffer[..header_len].copy_from_slice(&encoded[..header_len]);
        Self { frame: buffer.freeze() }
    }

    /// Makes one frame. The caller has checked the payload, and that the frame is no close frame.
    pub(crate) fn one(opcode: OpCode, fin: Fin, payload: &[u8]) -> Self {
        let header_len = FrameHeader::new(opcode, fin, payload.len()).encoded_len();
        let mut frame = Vec::with_capacity(header_len + payload.len());
        encode_frame(opcode, fin, payload, &mut frame);
        Self { frame: frame.into() }
    }

    fn control(opcode: OpCode, payload: &[u8]) -> Result<Self, PrepareError> {
        if payload.len() > CONTROL_PAYLOAD_MAX {
            return Err(PrepareError::ControlTooLong);
        }
        Ok(Self::one(opcode, Fin::Set, payload))
    }

    fn first(&self) -> (FrameHeader, &[u8]) {
        self.frames().next().expect("at least one frame")
    }
}

/// Why a message cannot be prepared.
///
/// ```
/// use ringhub::proto::PrepareError;
/// assert_eq!(PrepareError::ControlTooLong.to_string(), "a control frame carries 125 bytes at most");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PrepareError {
    /// A ping or pong above [`CONTROL_PAYLOAD_MAX`] bytes (RFC 6455 5.5).
    ControlTooLong,
    /// A message cannot be cut into frames of no payload.
    FramesTooSmall,
    /// A text message that is not UTF-8 (RFC 6455 5.6).
    NotUtf8,
}

impl fmt::Display for PrepareError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ControlTooLong => "a control frame carries 125 bytes at most",
            Self::FramesTooSmall => "a message cannot be split into frames of 0 bytes",
            Self::NotUtf8 => "a text message must be UTF-8",
        })
    }
}

impl std::error::Error for PrepareError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::testing::hex;
    use proptest::prelude::*;

    fn check(prepared: PreparedMessage, frame: &str, opcode: OpCode, message_type: Option<MessageType>) {
        assert_eq!(prepared.frame()[..], hex(frame));
        assert_eq!((prepared.opcode(), prepared.message_type()), (opcode, message_type));
        let payloads: Vec<u8> = prepared.frames().flat_map(|(_, payload)| payload.iter().copied()).collect();
        assert!(payloads.starts_with(prepared.payload()));
    }

    /// RFC 6455 5.7. Examples
    #[test]
    fn examples() {
        let text = Some(MessageType::Text);
        check(PreparedMessage::text("Hello"), "81 05 48656c6c6f", OpCode::Text, text);
        check(PreparedMessage::first_fragment(MessageType::Text, b"Hel"), "01 03 48656c", OpCode::Text, text);
        check(PreparedMessage::last_fragment(b"lo"), "80 02 6c6f", OpCode::Continuation, None);
        check(PreparedMessage::next_fragment(b""), "00 00", OpCode::Continuation, None);
        check(PreparedMessage::ping(b"Hello").unwrap(), "89 05 48656c6c6f", OpCode::Ping, None);
        check(PreparedMessage::pong(b"Hello").unwrap(), "8a 05 48656c6c6f", OpCode::Pong, None);
        check(PreparedMessage::binary(b""), "82 00", OpCode::Binary, Some(MessageType::Binary));
    }

    /// RFC 6455 5.5: control frames carry at most 125 bytes.
    #[test]
    fn control_frames() {
        for prepare in [PreparedMessage::ping, PreparedMessage::pong] {
            assert_eq!(prepare(&[7; 125]).unwrap().payload(), [7; 125]);
            assert_eq!(prepare(&[7; 126]), Err(PrepareError::ControlTooLong));
        }
    }

    /// RFC 6455 5.4: the first frame has the type, the last one FIN, and a cut may go through a character (5.6).
    #[test]
    fn split_messages() {
        let split = |payload: &str, max| PreparedMessage::fragments(MessageType::Text, &hex(payload), max);
        let text = Some(MessageType::Text);
        check(split("e29aa1", 2).unwrap(), "01 02 e29a 80 01 a1", OpCode::Text, text);
        check(split("6162 6364", 2).unwrap(), "01 02 6162 80 02 6364", OpCode::Text, text);
        check(split("61626364", 4).unwrap(), "81 04 61626364", OpCode::Text, text);
        check(split("61", usize::MAX).unwrap(), "81 01 61", OpCode::Text, text);
        check(split("", 1).unwrap(), "81 00", OpCode::Text, text);
        assert_eq!(split("61", 0), Err(PrepareError::FramesTooSmall));
        assert_eq!(split("e29a", 1), Err(PrepareError::NotUtf8));
        assert!(PreparedMessage::fragments(MessageType::Binary, &hex("e29a"), 1).is_ok());
    }

    /// Only a whole text message in one frame is a text to read.
    #[test]
    fn prepared_text() {
        assert_eq!(PreparedMessage::text("⚡").as_text(), Some("⚡"));
        assert_eq!(PreparedMessage::binary("⚡".as_bytes()).as_text(), None);
        assert_eq!(PreparedMessage::first_fragment(MessageType::Text, b"a").as_text(), None);
        assert_eq!(PreparedMessage::fragments(MessageType::Text, b"ab", 1).unwrap().as_text(), None);
    }

    proptest! {
        /// Headers of every length; all frames but the last are full.
        #[test]
        fn any_split(len in 0usize..200_000, frame_bytes_max in 1usize..100_000) {
            let frame_bytes_max = frame_bytes_max.max(len / 1000);
            let payload: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let prepared = PreparedMessage::fragments(MessageType::Binary, &payload, frame_bytes_max).unwrap();
            let frames: Vec<_> = prepared.frames().collect();
            prop_assert_eq!(frames.len(), len.div_ceil(frame_bytes_max).max(1));
            for (i, (header, part)) in frames.iter().enumerate() {
                let opcode = if i == 0 { OpCode::Binary } else { OpCode::Continuation };
                let fin = i + 1 == frames.len();
                prop_assert_eq!(*header, FrameHeader::new(opcode, fin.into(), part.len()));
                prop_assert!(part.len() == frame_bytes_max || (fin && part.len() < frame_bytes_max));
            }
            prop_assert_eq!(frames.iter().map(|(_, part)| *part).collect::<Vec<_>>().concat(), payload);
        }
    }
}
