//! Received messages and fragments, and how they become frames to send.

use super::{
    frame::{Fin, FrameHeader, HEADER_ROOM, MessageType, OpCode},
    input::Input,
    prepared::PreparedMessage,
};
use bytes::BytesMut;
use std::ops::Range;

/// A whole message, unmasked (RFC 6455 5.4). A text message is UTF-8 (RFC 6455 8.1), unless
/// [`checks_utf8`](super::MessageLimits::checks_utf8) is off.
#[derive(Debug)]
pub struct Message<'a> {
    message_type: MessageType,
    source: Source<'a>,
}

impl<'a> Message<'a> {
    pub(super) fn in_place(message_type: MessageType, input: &'a mut Input, payload: Range<usize>) -> Self {
        Self { message_type, source: Source::InPlace { input, payload } }
    }

    /// Returns a message from its assembled payload, which stands after [`HEADER_ROOM`] bytes of any content in
    /// `buffer`.
    pub(super) fn assembled(message_type: MessageType, buffer: BytesMut) -> Self {
        Self { message_type, source: Source::Assembled(buffer) }
    }

    /// Returns a message with a copy of this payload.
    #[cfg(test)]
    pub(crate) fn copied(message_type: MessageType, payload: &[u8]) -> Self {
        let mut buffer = BytesMut::zeroed(HEADER_ROOM);
        buffer.extend_from_slice(payload);
        Self::assembled(message_type, buffer)
    }

    /// Returns the type: text or binary.
    #[inline]
    pub fn message_type(&self) -> MessageType {
        self.message_type
    }

    /// Returns the unmasked payload.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        match &self.source {
            Source::InPlace { input, payload } => &input.bytes[payload.clone()],
            Source::Assembled(buffer) => &buffer[HEADER_ROOM..],
        }
    }

    /// Returns the payload of a text message; `None` for a binary message, and for text that is not UTF-8, which may
    /// come where [`checks_utf8`](super::MessageLimits::checks_utf8) is off. The call checks the text again, so
    /// [`Message::payload`] is cheaper if bytes are enough.
    pub fn as_text(&self) -> Option<&str> {
        match self.message_type {
            MessageType::Text => simdutf8::basic::from_utf8(self.payload()).ok(),
            MessageType::Binary => None,
        }
    }

    /// Returns whether the frame of the message is shorter than [`LARGE_FRAME`].
    #[inline]
    pub(crate) fn is_small(&self) -> bool {
        self.payload().len() + HEADER_ROOM < LARGE_FRAME
    }

    /// Returns the message as one frame for all its recipients: writes the header of a server in front of the payload,
    /// where the client's header stood, which was at least as long.
    pub(crate) fn frame(&mut self) -> &[u8] {
        let opcode = self.message_type.opcode();
        let (buffer, payload) = match &mut self.source {
            Source::InPlace { input, payload } => (&mut input.bytes[..payload.end], payload.start),
            Source::Assembled(buffer) => (&mut buffer[..], HEADER_ROOM),
        };
        let mut header = [0; FrameHeader::LEN_MAX];
        let header_len = FrameHeader::new(opcode, Fin::Set, buffer.len() - payload).encode(&mut header);
        let begin = payload - header_len;
        buffer[begin..payload].copy_from_slice(&header[..header_len]);
        &buffer[begin..]
    }

    /// Encodes the message as one frame for all its recipients.
    ///
    /// A payload below [`LARGE_FRAME`] is copied, so that it pins no read buffer. A larger payload becomes a frame in
    /// place: a server's header has no masking key and is four bytes shorter, so the header fits where the client's
    /// header stood.
    pub fn prepare(self) -> PreparedMessage {
        let opcode = self.message_type.opcode();
        match self.source {
            Source::InPlace { input, payload } => prepare(opcode, Fin::Set, input, payload),
            Source::Assembled(buffer) if buffer.len() - HEADER_ROOM < LARGE_FRAME => {
                PreparedMessage::one(opcode, Fin::Set, &buffer[HEADER_ROOM..])
            }
            Source::Assembled(buffer) => PreparedMessage::in_place(opcode, Fin::Set, buffer, HEADER_ROOM),
        }
    }
}

/// One data frame, unmasked, with its place in its message (RFC 6455 5.4). A message in one frame is a fragment that is
/// both first and last.
///
/// Text is checked as a whole (RFC 6455 8.1), so a fragment may begin or end inside a character.
///
/// ```
/// use ringhub::proto::{Deliver, Event, Input, MessageLimits, Role, Tick, WebSocket};
///
/// let limits = MessageLimits { deliver: Deliver::Fragments, ..MessageLimits::DEFAULT };
/// let mut websocket = WebSocket::new(Role::Client { masking_seed: [7; 16] }, Tick(0));
/// // RFC 6455 5.7: a fragmented unmasked text message.
/// let (mut input, mut replies) = (Input::new(b"\x01\x03Hel\x80\x02lo"[..].into()), Vec::new());
/// let mut passed_on = Vec::new();
/// while let Some(event) = websocket.receive(Tick(1), &mut input, &limits, &mut replies)? {
///     let Event::Fragment(fragment) = event else { unreachable!() };
///     assert_eq!(fragment.message_length(), if fragment.is_last() { 5 } else { 3 });
///     passed_on.extend_from_slice(fragment.prepare().frame());
/// }
/// assert_eq!(passed_on, b"\x01\x03Hel\x80\x02lo");
/// # Ok::<(), ringhub::proto::ProtocolError>(())
/// ```
#[derive(Debug)]
pub struct Fragment<'a> {
    place: FragmentPlace,
    input: &'a mut Input,
    payload: Range<usize>,
}

impl<'a> Fragment<'a> {
    pub(super) fn new(place: FragmentPlace, input: &'a mut Input, payload: Range<usize>) -> Self {
        Self { place, input, payload }
    }

    /// Returns the type of the message: text or binary.
    #[inline]
    pub fn message_type(&self) -> MessageType {
        self.place.message_type
    }

    /// Returns whether the fragment begins its message.
    #[inline]
    pub fn is_first(&self) -> bool {
        self.place.is_first
    }

    /// Returns whether the fragment ends its message.
    #[inline]
    pub fn is_last(&self) -> bool {
        self.place.is_last
    }

    /// Returns the bytes of the message so far, those of this fragment included.
    #[inline]
    pub fn message_length(&self) -> usize {
        self.place.message_length as usize
    }

    /// Returns the unmasked payload.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        &self.input.bytes[self.payload.clone()]
    }

    /// Encodes the fragment as a frame with the same place in its message. A payload of [`LARGE_FRAME`] or more becomes
    /// a frame in place, as in [`Message::prepare`]. A recipient must get all fragments of the message, in order, and
    /// with only control frames between them (RFC 6455 5.4).
    pub fn prepare(self) -> PreparedMessage {
        let opcode = if self.is_first() { self.message_type().opcode() } else { OpCode::Continuation };
        prepare(opcode, self.is_last().into(), self.input, self.payload)
    }
}

/// The place of a fragment in its message.
#[derive(Clone, Copy, Debug)]
pub(super) struct FragmentPlace {
    pub(super) message_type: MessageType,
    pub(super) is_first: bool,
    pub(super) is_last: bool,
    pub(super) message_length: u32,
}

/// From this length of payload on, a received message is sent from its read buffer. A shorter message is copied: a copy
/// is cheap (8 KiB in about 80 ns), and a shared read buffer would be much larger than the message that pins it.
pub const LARGE_FRAME: usize = 16 * 1024;

#[derive(Debug)]
enum Source<'a> {
    /// The payload of an unfragmented frame; its header stands before it in the same buffer.
    InPlace { input: &'a mut Input, payload: Range<usize> },
    /// The payload after [`HEADER_ROOM`].
    Assembled(BytesMut),
}

/// Returns a frame with the payload at this range of `input`, where it has been consumed and stands after its header.
fn prepare(opcode: OpCode, fin: Fin, input: &mut Input, payload: Range<usize>) -> PreparedMessage {
    if payload.len() < LARGE_FRAME {
        return PreparedMessage::one(opcode, fin, &input.bytes[payload]);
    }
    PreparedMessage::in_place(opcode, fin, input.take_to(payload.end), payload.start)
}
