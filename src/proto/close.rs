//! The payload of a close frame (RFC 6455 5.5.1, 7.4).

use super::{close_code::CloseCode, error::ProtocolError, frame::CONTROL_PAYLOAD_MAX};
use std::fmt;

impl CloseCode {
    /// Returns a code for a close frame.
    ///
    /// # Errors
    ///
    /// [`CloseFrameError::CodeNotSendable`] unless [`CloseCode::is_sendable`].
    ///
    /// ```
    /// use ringhub::proto::{CloseCode, CloseFrameError};
    /// assert_eq!(CloseCode::new(4000), Ok(CloseCode(4000)));
    /// assert_eq!(CloseCode::new(1006), Err(CloseFrameError::CodeNotSendable(1006)));
    /// ```
    pub const fn new(code: u16) -> Result<Self, CloseFrameError> {
        if Self(code).is_sendable() { Ok(Self(code)) } else { Err(CloseFrameError::CodeNotSendable(code)) }
    }
}

/// The payload of a close frame (RFC 6455 5.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseFrame<'a> {
    /// The code; `None` when the payload is empty.
    pub code: Option<CloseCode>,
    /// Text for a log, not for a person; empty without a code.
    pub reason: &'a str,
}

impl<'a> CloseFrame<'a> {
    /// Returns a close frame that can be sent as it is, with the whole reason.
    ///
    /// # Errors
    ///
    /// [`CloseFrameError::CodeNotSendable`], or [`CloseFrameError::ReasonTooLong`] above [`CLOSE_REASON_MAX`] bytes.
    ///
    /// ```
    /// use ringhub::proto::{CloseFrameError, CloseFrame};
    /// assert_eq!(CloseFrame::new(1000, "bye")?.reason, "bye");
    /// assert_eq!(CloseFrame::new(1005, "bye"), Err(CloseFrameError::CodeNotSendable(1005)));
    /// assert_eq!(CloseFrame::new(1000, &"é".repeat(62)), Err(CloseFrameError::ReasonTooLong(124)));
    /// # Ok::<(), CloseFrameError>(())
    /// ```
    pub const fn new(code: u16, reason: &'a str) -> Result<Self, CloseFrameError> {
        match CloseCode::new(code) {
            Err(error) => Err(error),
            Ok(_) if reason.len() > CLOSE_REASON_MAX => Err(CloseFrameError::ReasonTooLong(reason.len())),
            Ok(code) => Ok(Self { code: Some(code), reason }),
        }
    }

    /// Reads an unmasked payload.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::CloseTooShort`], [`ProtocolError::CloseCodeInvalid`] or [`ProtocolError::CloseReasonNotUtf8`].
    pub fn parse(payload: &'a [u8]) -> Result<Self, ProtocolError> {
        let (code, reason) = match payload {
            [] => return Ok(Self { code: None, reason: "" }),
            [_] => return Err(ProtocolError::CloseTooShort),
            [high, low, reason @ ..] => (CloseCode(u16::from_be_bytes([*high, *low])), reason),
        };
        if !code.is_sendable() {
            return Err(ProtocolError::CloseCodeInvalid(code.0));
        }
        let reason = simdutf8::compat::from_utf8(reason).map_err(|_| ProtocolError::CloseReasonNotUtf8)?;
        Ok(Self { code: Some(code), reason })
    }

    /// Appends the payload: nothing without a code, else the code and the reason. At most [`CLOSE_REASON_MAX`] bytes of
    /// the reason are appended, cut between two characters.
    ///
    /// ```
    /// use ringhub::proto::{CloseCode, CloseFrame};
    /// let mut payload = Vec::new();
    /// CloseFrame { code: Some(CloseCode::NORMAL), reason: &"é".repeat(100) }.encode(&mut payload);
    /// assert_eq!(payload.len(), 2 + 122);
    /// ```
    pub fn encode(&self, out: &mut Vec<u8>) {
        let Some(code) = self.code else { return };
        out.extend_from_slice(&code.0.to_be_bytes());
        out.extend_from_slice(truncate_reason(self.reason).as_bytes());
    }
}

/// Returns as much of a reason as a close frame can hold: at most 123 bytes, cut between two characters (RFC 6455 5.5).
///
/// ```
/// use ringhub::handler::truncate_reason;
/// assert_eq!(truncate_reason(&"é".repeat(62)), "é".repeat(61));
/// ```
#[must_use]
pub fn truncate_reason(reason: &str) -> &str {
    let mut end = reason.len().min(CLOSE_REASON_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    &reason[..end]
}

/// The longest reason in a close frame, in bytes: what the code leaves of a control frame's payload (RFC 6455 5.5,
/// 5.5.1).
pub const CLOSE_REASON_MAX: usize = CONTROL_PAYLOAD_MAX - 2;

/// Why a close frame cannot be sent as it is.
///
/// ```
/// use ringhub::proto::CloseFrameError;
/// assert_eq!(CloseFrameError::ReasonTooLong(124).to_string(), "a close reason of 124 bytes is longer than 123");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseFrameError {
    /// A code that must not appear on the wire (RFC 6455 7.4).
    CodeNotSendable(u16),
    /// A reason of so many bytes, above [`CLOSE_REASON_MAX`] (RFC 6455 5.5).
    ReasonTooLong(usize),
}

impl fmt::Display for CloseFrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CodeNotSendable(code) => write!(f, "close code {code} must not be sent"),
            Self::ReasonTooLong(bytes) => {
                write!(f, "a close reason of {bytes} bytes is longer than {CLOSE_REASON_MAX}")
            }
        }
    }
}

impl std::error::Error for CloseFrameError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::testing::hex;

    fn check(payload: &str, expected: Result<(Option<u16>, &str), ProtocolError>) {
        let payload = hex(payload);
        let parsed = CloseFrame::parse(&payload);
        assert_eq!(parsed, expected.map(|(code, reason)| CloseFrame { code: code.map(CloseCode), reason }));
        if let Ok(frame) = parsed {
            let mut encoded = Vec::new();
            frame.encode(&mut encoded);
            assert_eq!(encoded, payload);
        }
    }

    /// RFC 6455 5.5.1: the body may be empty, or a code and a reason.
    #[test]
    fn bodies() {
        check("", Ok((None, "")));
        check("03e8", Ok((Some(1000), "")));
        check("03e8 627965", Ok((Some(1000), "bye")));
        check("03e9 e29aa1", Ok((Some(1001), "⚡")));
        check("03", Err(ProtocolError::CloseTooShort));
        check("03e8 e29a", Err(ProtocolError::CloseReasonNotUtf8));
        check("03ed", Err(ProtocolError::CloseCodeInvalid(1005)));
    }

    /// RFC 6455 7.4: defined and reserved codes.
    #[test]
    fn codes_on_the_wire() {
        for code in 0..=u16::MAX {
            let expected = match code {
                1000..=1003 | 1007..=1014 | 3000..=4999 => Ok(CloseFrame { code: Some(CloseCode(code)), reason: "" }),
                _ => Err(ProtocolError::CloseCodeInvalid(code)),
            };
            assert_eq!(CloseFrame::parse(&code.to_be_bytes()), expected);
        }
    }

    /// RFC 6455 7.4, 5.5: what is accepted for sending is what a peer accepts.
    #[test]
    fn checked_before_sending() {
        for code in 0..=u16::MAX {
            assert_eq!(CloseCode::new(code).is_ok(), CloseFrame::parse(&code.to_be_bytes()).is_ok());
        }
        assert_eq!(CloseFrame::new(1000, &"x".repeat(123)).map(|frame| frame.reason.len()), Ok(123));
        assert_eq!(CloseFrame::new(1000, &"x".repeat(124)), Err(CloseFrameError::ReasonTooLong(124)));
        assert_eq!(CloseFrame::new(1006, &"x".repeat(124)), Err(CloseFrameError::CodeNotSendable(1006)));
    }

    /// RFC 6455 5.5: 125 bytes hold a code and 123 bytes of reason.
    #[test]
    fn a_long_reason_is_cut_between_characters() {
        for (reason, kept) in [("x".repeat(123), 123), ("x".repeat(124), 123), ("é".repeat(62), 122)] {
            let mut encoded = Vec::new();
            CloseFrame { code: Some(CloseCode::NORMAL), reason: &reason }.encode(&mut encoded);
            assert_eq!(CloseFrame::parse(&encoded).unwrap().reason, &reason[..kept]);
        }
    }
}
