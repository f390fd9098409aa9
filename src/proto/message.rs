//! What a peer's data frames become: whole messages, or fragments as they come; and how much of them it may send.

use super::{Input, OpCode, PreparedMessage};
use bytes::BytesMut;
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

/// How much a peer may send at once (RFC 6455 10.4), and how it is handed on. A header that announces more fails the
/// connection with 1009 before its payload is read. The worst case of a connection is `message_bytes_max` assembled,
/// twice that for the moment its buffer grows, and `frame_bytes_max` in the caller's buffer.
///
/// They may change between two messages of a connection, not within one.
///
/// ```
/// use ringhub::proto::{Deliver, MessageLimits};
/// let limits = MessageLimits { message_bytes_max: 64 << 20, deliver: Deliver::Fragments, ..MessageLimits::DEFAULT };
/// assert!(limits.check_utf8);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageLimits {
    /// Payload of one text, binary or continuation frame.
    pub frame_bytes_max: u32,
    /// Payload of a message, its fragments together.
    pub message_bytes_max: u32,
    /// Frames of one message, empty ones included.
    pub fragments_max: u32,
    /// Whether text must be UTF-8 (RFC 6455 8.1); if not, the connection is failed with 1007. Without it that MUST is
    /// the caller's business: text may be any bytes, goes out again as it came, and [`Message::as_text`] tells. Close
    /// reasons are always checked.
    pub check_utf8: bool,
    /// What data frames become.
    pub deliver: Deliver,
}

impl MessageLimits {
    /// 1 MiB in a frame and in a message, 65 537 fragments; text is checked, messages are whole.
    pub const DEFAULT: Self = Self {
        frame_bytes_max: 1 << 20,
        message_bytes_max: 1 << 20,
        fragments_max: 65_537,
        check_utf8: true,
        deliver: Deliver::Messages,
    };
}

impl Default for MessageLimits {
    /// [`MessageLimits::DEFAULT`].
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What data frames become (RFC 6455 5.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Deliver {
    /// Fragments are assembled: one [`Event::Message`](super::Event::Message) for each message.
    #[default]
    Messages,
    /// Each frame is an [`Event::Fragment`](super::Event::Fragment) as soon as it is whole, and nothing of it is kept.
    /// How a sender cuts its messages means nothing in itself, and a proxy may cut them otherwise.
    Fragments,
}

/// A whole message, unmasked, and checked to be UTF-8 if it is text (RFC 6455 5.4, 8.1) and
/// [`MessageLimits::check_utf8`] asks for that.
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

    /// The payload of a text message; `None` of a binary one, and of bytes that are not UTF-8 if nobody checked that
    /// ([`MessageLimits::check_utf8`]). It is scanned again; where bytes will do, take [`Message::payload`].
    pub fn as_text(&self) -> Option<&str> {
        match self.message_type {
            MessageType::Text => simdutf8::basic::from_utf8(self.payload()).ok(),
            MessageType::Binary => None,
        }
    }

    /// Makes it the frame that everybody gets.
    ///
    /// Below [`LARGE_FRAME`] it is copied, so that it pins no read buffer. From there on it becomes a frame in place: a
    /// server's header is four bytes shorter than the client's in front of the same payload, so it fits where that one
    /// stood.
    pub fn prepare(self) -> PreparedMessage {
        let opcode = self.message_type.opcode();
        match self.source {
            Source::InPlace { input, payload } => prepare(opcode, true, input, payload),
            Source::Assembled(buffer) if buffer.len() - HEADER_ROOM < LARGE_FRAME => {
                PreparedMessage::one(opcode, true, &buffer[HEADER_ROOM..])
            }
            Source::Assembled(buffer) => PreparedMessage::in_place(opcode, true, buffer, HEADER_ROOM),
        }
    }
}

/// One data frame, unmasked, with its place in its message (RFC 6455 5.4). A message in one frame is a fragment that is
/// both first and last.
///
/// Text is checked across fragments (RFC 6455 8.1), so a fragment may begin and stop inside a character.
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
    place: Place,
    input: &'a mut Input,
    payload: Range<usize>,
}

impl<'a> Fragment<'a> {
    pub(super) fn new(place: Place, input: &'a mut Input, payload: Range<usize>) -> Self {
        Self { place, input, payload }
    }

    /// What its message is: text or binary.
    #[inline]
    pub fn message_type(&self) -> MessageType {
        self.place.message_type
    }

    /// Does a message begin with it?
    #[inline]
    pub fn is_first(&self) -> bool {
        self.place.is_first
    }

    /// Does its message end with it?
    #[inline]
    pub fn is_last(&self) -> bool {
        self.place.is_last
    }

    /// The bytes of its message so far, its own included.
    #[inline]
    pub fn message_length(&self) -> usize {
        self.place.message_length as usize
    }

    /// The unmasked payload.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        &self.input.bytes[self.payload.clone()]
    }

    /// Makes it a frame to pass on, as first, middle or last of the same message; from [`LARGE_FRAME`] on in place, as
    /// [`Message::prepare`] does. To be one message for a recipient too, the fragments must all reach it, in order, and
    /// with only control frames between them (RFC 6455 5.4).
    pub fn prepare(self) -> PreparedMessage {
        let opcode = if self.is_first() { self.message_type().opcode() } else { OpCode::Continuation };
        prepare(opcode, self.is_last(), self.input, self.payload)
    }
}

/// Where a fragment stands in its message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) message_type: MessageType,
    pub(super) is_first: bool,
    pub(super) is_last: bool,
    pub(super) message_length: u32,
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

/// The frame around a payload that stands, consumed, in `input` behind a header of its own.
fn prepare(opcode: OpCode, fin: bool, input: &mut Input, payload: Range<usize>) -> PreparedMessage {
    if payload.len() < LARGE_FRAME {
        return PreparedMessage::one(opcode, fin, &input.bytes[payload]);
    }
    PreparedMessage::in_place(opcode, fin, input.take_to(payload.end), payload.start)
}
