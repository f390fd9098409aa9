//! The limits of a peer's messages, and whether messages are delivered whole or frame by frame.

/// The limits of a peer's messages (RFC 6455 10.4), and whether messages are delivered whole or frame by frame. A
/// header that announces more fails the connection with 1009 before its payload is read. At worst a connection takes
/// twice `message_bytes_max` for assembled fragments, since their buffer doubles as it grows, and `frame_bytes_max` in
/// the caller's buffer.
///
/// The limits may change between two messages of a connection, not within one.
///
/// ```
/// use ringhub::proto::{Deliver, MessageLimits};
/// let limits = MessageLimits { message_bytes_max: 64 << 20, deliver: Deliver::Fragments, ..MessageLimits::DEFAULT };
/// assert!(limits.checks_utf8);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageLimits {
    /// Bytes of payload in one text, binary or continuation frame.
    pub frame_bytes_max: u32,
    /// Bytes of payload in a message, all fragments together.
    pub message_bytes_max: u32,
    /// Frames of one message, empty ones included.
    pub fragments_max: u32,
    /// Whether text must be UTF-8 (RFC 6455 8.1): other text fails the connection with 1007. Without this check text
    /// may be any bytes, goes out again as it came, and [`Message::as_text`](super::Message::as_text) returns `None`
    /// for text that is not UTF-8. Close reasons are always checked.
    pub checks_utf8: bool,
    /// Whether messages are delivered whole or frame by frame.
    pub deliver: Deliver,
}

impl MessageLimits {
    /// 1 MiB in a frame and in a message, 65 537 fragments; text is checked, messages are whole.
    pub const DEFAULT: Self = Self {
        frame_bytes_max: 1 << 20,
        message_bytes_max: 1 << 20,
        fragments_max: 65_537,
        checks_utf8: true,
        deliver: Deliver::Messages,
    };
}

impl Default for MessageLimits {
    /// [`MessageLimits::DEFAULT`].
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The delivery of data frames (RFC 6455 5.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Deliver {
    /// Fragments are assembled: one [`Event::Message`](super::Event::Message) for each message.
    #[default]
    Messages,
    /// Each frame is an [`Event::Fragment`](super::Event::Fragment) as soon as it is whole, and nothing of it is kept.
    /// The boundaries of fragments have no meaning: a proxy may move them.
    Fragments,
}
