//! Errors of a handler's calls on its connection.

use std::fmt;

use crate::proto::CloseFrameError;

/// The reason for which a close is refused.
///
/// ```
/// use ringhub::{handler::CloseError, proto::CloseFrameError};
/// let error = CloseError::Frame(CloseFrameError::CodeNotSendable(1006));
/// assert_eq!(error.to_string(), "close code 1006 must not be sent");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseError {
    /// The close code or the reason is not allowed.
    Frame(CloseFrameError),
    /// The connection is closing already, or has ended.
    NotOpen,
}

impl From<CloseFrameError> for CloseError {
    fn from(error: CloseFrameError) -> Self {
        CloseError::Frame(error)
    }
}

impl fmt::Display for CloseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CloseError::Frame(error) => error.fmt(f),
            CloseError::NotOpen => f.write_str("the connection is not open"),
        }
    }
}

impl std::error::Error for CloseError {}

/// The reason for which a subscription is refused; see
/// [`Connection::subscribe`](super::Connection::subscribe).
///
/// ```
/// use ringhub::handler::SubscribeError;
/// assert_eq!(SubscribeError::Already.to_string(), "the connection is a subscriber of this topic");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubscribeError {
    /// The connection is closing, its socket has failed, or it has ended.
    NotOpen,
    /// The connection has as many subscriptions as allowed.
    TooMany,
    /// The connection is a subscriber of that topic.
    Already,
}

impl fmt::Display for SubscribeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SubscribeError::NotOpen => "the connection is not open",
            SubscribeError::TooMany => "the connection has as many subscriptions as allowed",
            SubscribeError::Already => "the connection is a subscriber of this topic",
        })
    }
}

impl std::error::Error for SubscribeError {}
