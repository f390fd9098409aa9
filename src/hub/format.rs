//! Formats: the numbers of encodings.

/// The form in which a subscriber gets the publications of a topic: an encoding, and the options that change its bytes.
/// A format is the number of a row of [`Encodings`](super::Encodings).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Format(pub(crate) u8);

impl Format {
    /// The frame in which a server sends the message to a WebSocket (RFC 6455 5.2).
    pub const RAW: Format = Format(0);
}
