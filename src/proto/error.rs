//! The errors of a peer on an established connection, and their one mapping to a close code.

use super::{close_code::CloseCode, limits::MessageLimits};
use std::fmt;

/// A violation of RFC 6455, or of our limits and rules, by the peer: the connection must be failed (RFC 6455 7.1.7).
///
/// ```
/// use ringhub::proto::{CloseCode, ProtocolError};
/// assert_eq!(ProtocolError::InvalidUtf8.close_code(), CloseCode::INVALID_PAYLOAD);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProtocolError {
    /// RSV1, RSV2 or RSV3 is set though no extension was negotiated (RFC 6455 5.2).
    ReservedBits,
    /// Opcodes 3-7 and 11-15 are reserved (RFC 6455 5.2).
    ReservedOpCode(u8),
    /// A control frame must not be fragmented (RFC 6455 5.5).
    FragmentedControl,
    /// A control frame carries 125 bytes at most (RFC 6455 5.5).
    ControlTooLong,
    /// The payload length is not in its shortest encoding (RFC 6455 5.2).
    LengthNotMinimal,
    /// The most significant bit of a 64-bit payload length is set (RFC 6455 5.2).
    LengthTooLarge,
    /// A client must mask every frame (RFC 6455 5.1).
    MaskMissing,
    /// A server must not mask any frame (RFC 6455 5.1).
    MaskUnexpected,
    /// A continuation frame without a message to continue (RFC 6455 5.4).
    NothingToContinue,
    /// A new message began before the fragmented one under way was finished (RFC 6455 5.4).
    MessageInterrupted,
    /// A close frame with one byte of payload, where a code has two (RFC 6455 5.5.1).
    CloseTooShort,
    /// A close code that must not appear on the wire (RFC 6455 7.4).
    CloseCodeInvalid(u16),
    /// A close reason that is not UTF-8 (RFC 6455 5.5.1).
    CloseReasonNotUtf8,
    /// A text message that is not UTF-8 (RFC 6455 8.1).
    InvalidUtf8,
    /// A frame above [`MessageLimits::frame_bytes_max`](super::MessageLimits) (RFC 6455 10.4).
    FrameTooBig,
    /// A message above [`MessageLimits::message_bytes_max`](super::MessageLimits) (RFC 6455 10.4).
    MessageTooBig,
    /// A message in more fragments than [`MessageLimits::fragments_max`](super::MessageLimits) (RFC 6455 10.4).
    TooManyFragments,
    /// A hook of [`WebSocket::receive_with`](super::WebSocket::receive_with) failed the connection with this code (RFC
    /// 6455 7.1.7).
    Refused(CloseCode),
    /// The client of an event stream has sent more than the 8 KiB after its request that are dropped.
    StreamInput,
}

impl ProtocolError {
    /// Returns the code of the close frame that reports the error to the peer (RFC 6455 7.4.1).
    pub fn close_code(self) -> CloseCode {
        match self {
            Self::ReservedBits
            | Self::ReservedOpCode(_)
            | Self::FragmentedControl
            | Self::ControlTooLong
            | Self::LengthNotMinimal
            | Self::LengthTooLarge
            | Self::MaskMissing
            | Self::MaskUnexpected
            | Self::NothingToContinue
            | Self::MessageInterrupted
            | Self::CloseTooShort
            | Self::CloseCodeInvalid(_) => CloseCode::PROTOCOL_ERROR,
            Self::CloseReasonNotUtf8 | Self::InvalidUtf8 => CloseCode::INVALID_PAYLOAD,
            Self::FrameTooBig | Self::MessageTooBig | Self::TooManyFragments => CloseCode::MESSAGE_TOO_BIG,
            Self::Refused(code) => code,
            Self::StreamInput => CloseCode::POLICY_VIOLATION,
        }
    }

    /// Returns the reason of the close frame: the error, with the limit that was exceeded.
    #[cold]
    pub(super) fn reason(self, limits: &MessageLimits) -> String {
        let &MessageLimits { frame_bytes_max, message_bytes_max, fragments_max, .. } = limits;
        match self {
            Self::FrameTooBig if frame_bytes_max < message_bytes_max => {
                format!("a frame is larger than {frame_bytes_max} bytes")
            }
            // Here a frame that is too large exceeds the limit of messages too.
            Self::FrameTooBig | Self::MessageTooBig => format!("a message is larger than {message_bytes_max} bytes"),
            Self::TooManyFragments => format!("a message has more than {fragments_max} fragments"),
            other => other.to_string(),
        }
    }
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReservedBits => "a reserved bit is set",
            Self::ReservedOpCode(opcode) => return write!(f, "opcode {opcode} is reserved"),
            Self::FragmentedControl => "a control frame is fragmented",
            Self::ControlTooLong => "a control frame is longer than 125 bytes",
            Self::LengthNotMinimal => "a payload length is not in its shortest form",
            Self::LengthTooLarge => "a payload length has its highest bit set",
            Self::MaskMissing => "a client's frame is not masked",
            Self::MaskUnexpected => "a server's frame is masked",
            Self::NothingToContinue => "a continuation frame continues nothing",
            Self::MessageInterrupted => "a message began inside a fragmented one",
            Self::CloseTooShort => "a close frame has half a close code",
            Self::CloseCodeInvalid(code) => return write!(f, "close code {code} must not be sent"),
            Self::CloseReasonNotUtf8 => "a close reason is not UTF-8",
            Self::InvalidUtf8 => "a text message is not UTF-8",
            Self::FrameTooBig => "a frame is too big",
            Self::MessageTooBig => "a message is too big",
            Self::TooManyFragments => "a message has too many fragments",
            Self::Refused(_) => "the frame was refused",
            Self::StreamInput => "the client of an event stream has sent more than 8192 bytes",
        })
    }
}

impl std::error::Error for ProtocolError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::CLOSE_REASON_MAX;

    #[test]
    fn a_reason_names_the_limit() {
        let check = |error: ProtocolError, (frame, message, fragments): (u32, u32, u32), expected: &str| {
            let limits = MessageLimits {
                frame_bytes_max: frame,
                message_bytes_max: message,
                fragments_max: fragments,
                ..MessageLimits::DEFAULT
            };
            let reason = error.reason(&limits);
            assert_eq!(reason, expected);
            assert!(reason.len() <= CLOSE_REASON_MAX);
        };
        check(ProtocolError::FrameTooBig, (10, 11, 1), "a frame is larger than 10 bytes");
        check(ProtocolError::FrameTooBig, (11, 11, 1), "a message is larger than 11 bytes");
        check(ProtocolError::MessageTooBig, (10, u32::MAX, 1), "a message is larger than 4294967295 bytes");
        check(ProtocolError::TooManyFragments, (1, 1, 7), "a message has more than 7 fragments");
        check(ProtocolError::MaskMissing, (1, 1, 1), "a client's frame is not masked");
    }
}
