//! A whole message as it was received, and the one frame in which it goes out to everybody.

use super::{FrameHeader, Input, OpCode};
use bytes::{Buf, Bytes, BytesMut};
use std::ops::Range;

/// What a message carries (RFC 6455 5.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MessageType {
    /// UTF-8.
    Text,
    /// Any bytes.
    Binary,
}

impl MessageType {
    /// The opcode of the message's first frame.
    #[inline]
    pub const fn opcode(self) -> OpCode {
        match self {
            Self::Text => OpCode::Text,
            Self::Binary => OpCode::Binary,
        }
    }
}

/// How much a peer may send at once (RFC 6455 10.4). A header that announces more fails the connection with 1009 before
/// its payload is read. The worst case of a connection is `message_bytes_max` assembled, twice that for the moment its
/// buffer grows, and `frame_bytes_max` in the caller's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageLimits {
    /// Payload of one text, binary or continuation frame.
    pub frame_bytes_max: u32,
    /// Payload of a message, its fragments together.
    pub message_bytes_max: u32,
    /// Frames of one message, empty ones included.
    pub fragments_max: u32,
}

impl Default for MessageLimits {
    /// 1 MiB in a frame and in a message, 65 537 fragments.
    fn default() -> Self {
        Self { frame_bytes_max: 1 << 20, message_bytes_max: 1 << 20, fragments_max: 65_537 }
    }
}

/// A whole message, unmasked, and checked to be UTF-8 if it is text (RFC 6455 5.4, 8.1).
#[derive(Debug)]
pub struct Message<'a> {
    message_type: MessageType,
    source: Source<'a>,
}

impl<'a> Message<'a> {
    pub(super) fn in_place(message_type: MessageType, input: &'a mut Input, payload: Range<usize>) -> Self {
        Self { message_type, source: Source::InPlace { input, payload } }
    }

    /// `buffer` holds [`HEADER_ROOM`] bytes of any content in front of the payload.
    pub(super) fn assembled(message_type: MessageType, buffer: BytesMut) -> Self {
        Self { message_type, source: Source::Assembled(buffer) }
    }

    /// Text or binary.
    #[inline]
    pub fn message_type(&self) -> MessageType {
        self.message_type
    }

    /// The unmasked payload.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        match &self.source {
            Source::InPlace { input, payload } => &input.bytes[payload.clone()],
            Source::Assembled(buffer) => &buffer[HEADER_ROOM..],
        }
    }

    /// The payload of a text message. It is scanned again; where bytes will do, take [`Message::payload`].
    pub fn as_text(&self) -> Option<&str> {
        as_text(self.message_type, self.payload())
    }

    /// Makes it the frame that everybody gets.
    ///
    /// Below [`LARGE_FRAME`] it is copied, so that it pins no read buffer. From there on it becomes a frame in place: a
    /// server's header is four bytes shorter than the client's in front of the same payload, so it fits where that one
    /// stood.
    pub fn prepare(self) -> PreparedMessage {
        if self.payload().len() < LARGE_FRAME {
            return PreparedMessage::new(self.message_type, self.payload());
        }
        let message_type = self.message_type;
        let (mut frame, payload_at) = match self.source {
            Source::InPlace { input, payload } => (input.take_to(payload.end), payload.start),
            Source::Assembled(buffer) => (buffer, HEADER_ROOM),
        };
        let header = FrameHeader::new(message_type.opcode(), true, frame.len() - payload_at);
        let mut encoded = [0; FrameHeader::LEN_MAX];
        let header_len = header.encode(&mut encoded);
        frame.advance(payload_at - header_len);
        frame[..header_len].copy_from_slice(&encoded[..header_len]);
        PreparedMessage { frame: frame.freeze(), header_len: header_len as u8, message_type }
    }
}

/// A message as one unmasked frame, immutable; a clone is a reference (RFC 6455 5.1: a server does not mask, so one
/// frame serves all).
///
/// ```
/// use ringhub::proto::PreparedMessage;
/// let message = PreparedMessage::text("Hello");
/// assert_eq!(message.frame()[..], *b"\x81\x05Hello"); // RFC 6455 5.7
/// assert_eq!(message.payload(), b"Hello");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedMessage {
    frame: Bytes,
    header_len: u8,
    message_type: MessageType,
}

impl PreparedMessage {
    /// A text message.
    pub fn text(payload: &str) -> Self {
        Self::new(MessageType::Text, payload.as_bytes())
    }

    /// A binary message.
    pub fn binary(payload: &[u8]) -> Self {
        Self::new(MessageType::Binary, payload)
    }

    /// `payload` is UTF-8 if the message is text.
    fn new(message_type: MessageType, payload: &[u8]) -> Self {
        let header = FrameHeader::new(message_type.opcode(), true, payload.len());
        let mut encoded = [0; FrameHeader::LEN_MAX];
        let header_len = header.encode(&mut encoded);
        let mut frame = Vec::with_capacity(header_len + payload.len());
        frame.extend_from_slice(&encoded[..header_len]);
        frame.extend_from_slice(payload);
        Self { frame: frame.into(), header_len: header_len as u8, message_type }
    }

    /// The bytes to send: header and payload.
    #[inline]
    pub fn frame(&self) -> &Bytes {
        &self.frame
    }

    /// The bytes behind the header.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        &self.frame[usize::from(self.header_len)..]
    }

    /// Text or binary.
    #[inline]
    pub fn message_type(&self) -> MessageType {
        self.message_type
    }

    /// The payload of a text message. It is scanned again; where bytes will do, take [`PreparedMessage::payload`].
    pub fn as_text(&self) -> Option<&str> {
        as_text(self.message_type, self.payload())
    }
}

/// From this payload on a received message is sent from where it stands. Below, a copy is cheap (8 KiB in about 80 ns),
/// and sharing would pin a read buffer that is much larger than the message.
pub const LARGE_FRAME: usize = 16 * 1024;

/// Room for an unmasked header in front of an assembled message.
pub(super) const HEADER_ROOM: usize = 10;

#[derive(Debug)]
enum Source<'a> {
    /// The payload of an unfragmented frame; its header stands before it in the same buffer.
    InPlace { input: &'a mut Input, payload: Range<usize> },
    /// The payload behind [`HEADER_ROOM`].
    Assembled(BytesMut),
}

fn as_text(message_type: MessageType, payload: &[u8]) -> Option<&str> {
    match message_type {
        MessageType::Text => simdutf8::basic::from_utf8(payload).ok(),
        MessageType::Binary => None,
    }
}
