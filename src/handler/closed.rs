//! The end of a connection: its close code, its reason, and whether it was clean.

use crate::proto::CloseCode;

/// The close code of a connection whose subscription was to begin at a position, while messages after the position are
/// not kept.
pub const UNRECOVERED: CloseCode = CloseCode(4410);

/// The end of a connection.
///
/// ```
/// use ringhub::{handler::Closed, proto::CloseCode};
/// // Of a connection that was lost:
/// let lost = Closed { code: CloseCode::ABNORMAL, reason: String::new(), is_clean: false };
/// assert_eq!(lost, Closed::default());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// The code that the peer sent (RFC 6455 7.1.5), 1005 if its close frame had none, 1006 if it sent no close frame.
    pub code: CloseCode,
    /// The reason in the peer's close frame.
    pub reason: String,
    /// Whether the peer has sent its close frame (RFC 6455 7.1.4). The server's answer to it may not have left yet.
    pub is_clean: bool,
}

impl Default for Closed {
    fn default() -> Self {
        Closed { code: CloseCode::ABNORMAL, reason: String::new(), is_clean: false }
    }
}
