//! The fields of a connection: the state that its state machine keeps between two calls.

use super::super::{assembly::Assembly, close_code::CloseCode, keep_alive::Tick, masking::MaskingKeys};

/// One established connection.
///
/// - getters: [`state`](Self::state), [`close_code`](Self::close_code), [`sent_close_code`](Self::sent_close_code),
///   [`closed_cleanly`](Self::closed_cleanly), [`last_received`](Self::last_received),
///   [`message_length`](Self::message_length), [`is_within_message`](Self::is_within_message),
///   [`assembled_bytes`](Self::assembled_bytes), [`missing`](Self::missing) and [`deadline`](Self::deadline)
/// - inputs: [`receive`](Self::receive) or [`receive_with`](Self::receive_with) until it returns `None`, and
///   [`handle_timeout`](Self::handle_timeout) at the deadline
/// - commands: [`send`](Self::send), [`close`](Self::close), [`abandon`](Self::abandon) and
///   [`excuse_silence`](Self::excuse_silence)
///
/// The bytes that calls append to `replies` must reach the peer in the order of the calls, and nothing may follow a
/// close frame.
///
/// The facts about a connection that has ended (RFC 6455 7.1.4, 7.1.5):
///
/// | ending | told by | `close_code` | `sent_close_code` | `closed_cleanly` |
/// | --- | --- | --- | --- | --- |
/// | the peer closes | [`Event::Close`] in `Open`, with its reason | the peer's | the same | true |
/// | we close, the peer answers | [`Event::Close`] in `Closing`, with its reason | the peer's | ours | true |
/// | we close, no answer | [`Timeout::CloseTimeout`], or the socket's end | 1006 | ours | false |
/// | a protocol error | [`ProtocolError`], which says why | 1006 | the error's, or ours before it | false |
/// | silence | [`Timeout::PongTimeout`] | 1006 | 1011 | false |
/// | the socket is lost | the socket ([`abandon`](Self::abandon)) | 1006 | 1006 | false |
///
/// [`Event::Close`]: crate::proto::Event::Close
/// [`ProtocolError`]: crate::proto::ProtocolError
/// [`Timeout::CloseTimeout`]: crate::proto::Timeout::CloseTimeout
/// [`Timeout::PongTimeout`]: crate::proto::Timeout::PongTimeout
#[derive(Debug)]
pub struct WebSocket {
    /// The keys of a client; a server masks nothing (RFC 6455 5.1).
    pub(super) masking: Option<Box<MaskingKeys>>,
    pub(super) assembly: Option<Box<Assembly>>,
    pub(super) front: Front,
    pub(super) last_received: Tick,
    /// In `Open` the time of the last ping, in `Closing` the time of our close frame.
    pub(super) waiting_since: Tick,
    pub(super) close_code: CloseCode,
    pub(super) sent_close_code: CloseCode,
    pub(super) state: State,
    pub(super) awaiting_pong: bool,
}

/// The side of a connection (RFC 6455 1.1).
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Sends unmasked frames and takes only masked ones.
    Server,
    /// Sends masked frames and takes only unmasked ones.
    Client {
        /// The seed of the masking keys: bytes from the operating system's random source, never used twice (RFC
        /// 6455 10.3).
        masking_seed: [u8; 16],
    },
}

/// The state of the closing handshake (RFC 6455 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Neither side has sent a close frame.
    Open,
    /// We sent a close frame; the peer has not answered (RFC 6455 7.1.3).
    Closing,
    /// Both sides have sent a close frame, or the connection has failed or is lost: nothing more is sent or accepted. A
    /// server closes the socket once its replies are sent (RFC 6455 7.1.1).
    Closed,
}

// A hundred thousand idle connections should cost a few megabytes.
const _: () = assert!(size_of::<WebSocket>() == 40);

/// The progress in the frame at the front of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Front {
    /// The frame's header stands at the front. `unmasked` bytes of its payload are unmasked, and the last `utf8_tail`
    /// of these begin a character whose end is missing.
    Payload { unmasked: u32, utf8_tail: u8 },
    /// The frame's header is consumed, and so many bytes of its payload are still to be dropped. Never 0.
    Skip(u32),
}

impl Front {
    pub(super) const FRESH: Self = Self::Payload { unmasked: 0, utf8_tail: 0 };

    pub(super) fn skip(missing: u32) -> Self {
        if missing == 0 { Self::FRESH } else { Self::Skip(missing) }
    }

    /// Returns how many bytes of the payload at the front are unmasked, and how many of them begin a character whose
    /// end is missing.
    #[inline]
    pub(super) fn held(self) -> (usize, usize) {
        match self {
            Self::Payload { unmasked, utf8_tail } => (unmasked as usize, usize::from(utf8_tail)),
            Self::Skip(_) => (0, 0),
        }
    }
}

/// Checks a code that is to be sent.
///
/// # Panics
///
/// If `code` is neither [`CloseCode::is_sendable`] nor [`CloseCode::NO_STATUS`].
pub(super) fn assert_may_send(code: CloseCode) {
    assert!(code.is_sendable() || code == CloseCode::NO_STATUS, "close code {code} must not be sent");
}
