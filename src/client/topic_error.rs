//! The errors of a `TopicClient`'s commands.

use std::fmt;

use super::{error::SendError, topic_event::CommandError};

/// The reason for which a command has failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum TopicError {
    /// The server has refused the command.
    Refused(CommandError),
    /// The command could not be sent.
    Send(SendError),
    /// The connection was lost before the answer, so nobody knows whether the command has had its effect. Nobody reads
    /// the events any more, or the connection was lost.
    Lost,
}

impl fmt::Display for TopicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TopicError::Refused(error) => error.fmt(f),
            TopicError::Send(error) => error.fmt(f),
            TopicError::Lost => f.write_str("the connection was lost before the answer"),
        }
    }
}

impl std::error::Error for TopicError {}
