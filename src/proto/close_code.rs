//! Close codes (RFC 6455 7.4).

use std::fmt;

/// A close code: the reason for the end of a connection (RFC 6455 7.4).
///
/// Some codes are only reported and never sent; [`CloseCode::is_sendable`] tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CloseCode(pub u16);

impl CloseCode {
    /// The purpose of the connection is fulfilled (RFC 6455 7.4.1).
    pub const NORMAL: Self = Self(1000);
    /// A server goes down, or a browser leaves the page (RFC 6455 7.4.1).
    pub const GOING_AWAY: Self = Self(1001);
    /// The peer broke the protocol (RFC 6455 7.4.1).
    pub const PROTOCOL_ERROR: Self = Self(1002);
    /// Data of a type that this endpoint does not take, such as binary where it wants text (RFC 6455 7.4.1).
    pub const UNSUPPORTED: Self = Self(1003);
    /// Reported, never sent: the close frame had no code (RFC 6455 7.4.1).
    pub const NO_STATUS: Self = Self(1005);
    /// Reported, never sent: the connection ended without a close frame (RFC 6455 7.4.1).
    pub const ABNORMAL: Self = Self(1006);
    /// Text that is not UTF-8 (RFC 6455 7.4.1).
    pub const INVALID_PAYLOAD: Self = Self(1007);
    /// A message that violates the endpoint's policy (RFC 6455 7.4.1).
    pub const POLICY_VIOLATION: Self = Self(1008);
    /// A message too big to process (RFC 6455 7.4.1).
    pub const MESSAGE_TOO_BIG: Self = Self(1009);
    /// The server met a condition that it did not expect (RFC 6455 7.4.1).
    pub const INTERNAL_ERROR: Self = Self(1011);
    /// The server restarts; reconnect after a random delay (IANA registry of RFC 6455 11.7).
    pub const SERVICE_RESTART: Self = Self(1012);
    /// The server is overloaded; try another address, or try later (IANA registry of RFC 6455 11.7).
    pub const TRY_AGAIN_LATER: Self = Self(1013);

    /// Returns whether a close frame may carry this code: 1000-1003 and 1007-1014 are defined, 3000-4999 belong to
    /// libraries and applications (RFC 6455 7.4.1, 7.4.2, and the IANA registry).
    ///
    /// ```
    /// use ringhub::proto::CloseCode;
    /// assert!(CloseCode::NORMAL.is_sendable() && CloseCode(4999).is_sendable());
    /// assert!(!CloseCode::NO_STATUS.is_sendable() && !CloseCode(5000).is_sendable());
    /// ```
    pub const fn is_sendable(self) -> bool {
        matches!(self.0, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
