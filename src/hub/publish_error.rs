//! The reasons for which the home of a topic does not publish a publication with an id.

use std::fmt;

use super::receipt::Published;

/// The answer of a topic's home to a publisher: the place of the publication, with a receipt if the publisher has asked
/// for one; or the reason for which it has no place.
pub type PublishOutcome = Result<Published, PublishError>;

/// The reason for which the home of a topic does not publish a publication with an id.
///
/// ```
/// use ringhub::PublishError;
/// let error = PublishError::IdsFull { free_in_ms: 1_500 };
/// assert_eq!(error.to_string(), "as many ids are remembered as the server has memory for; the next goes in 1500 ms");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublishError {
    /// A publication with the same id, and with other contents, was published to the topic a short time ago.
    OtherContents,
    /// The ids that are remembered take as much memory as they may.
    IdsFull {
        /// Milliseconds until the next id is forgotten, at least 1.
        free_in_ms: u32,
    },
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PublishError::OtherContents => {
                f.write_str("a message with the same id and other contents was published to this topic before")
            }
            PublishError::IdsFull { free_in_ms } => {
                write!(f, "as many ids are remembered as the server has memory for; the next goes in {free_in_ms} ms")
            }
        }
    }
}

impl std::error::Error for PublishError {}
