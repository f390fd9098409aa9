//! What a shard is asked from outside about single connections, and what it answers.

use super::{ConnectionId, Published};
use crate::proto::{CloseCode, KeepAlive, PreparedMessage};

/// What became of something that was to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It leaves with the flush at the end of this turn.
    Sent,
    /// It stands behind so many bytes that the client's socket has not taken.
    Queued {
        /// The bytes before it.
        bytes: usize,
    },
    /// It was not accepted.
    Refused(Refused),
}

impl Sent {
    /// Was it accepted?
    #[must_use]
    pub fn is_accepted(self) -> bool {
        !matches!(self, Sent::Refused(_))
    }
}

/// Why something is not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The connection is closing or has ended: nothing follows a close frame (RFC 6455 5.5.1).
    NotOpen,
    /// More would be owed to it than a backlog may have.
    Full,
    /// A control frame has at most 125 bytes (RFC 6455 5.5).
    ControlTooLong,
    /// Text that is not UTF-8 (RFC 6455 5.6).
    NotText,
    /// Close frames and continuations have calls of their own.
    OpCode,
    /// A message sent by fragments is not finished (RFC 6455 5.4), or none was begun.
    Fragment,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Refused::NotOpen => "the connection is not open",
            Refused::Full => "more would be owed to the connection than its backlog may have",
            Refused::ControlTooLong => "a control frame has at most 125 bytes",
            Refused::NotText => "the text is not UTF-8",
            Refused::OpCode => "close frames and continuations have calls of their own",
            Refused::Fragment => "a message sent by fragments is not finished, or none was begun",
        })
    }
}

impl std::error::Error for Refused {}

/// What a shard is asked to do by an end of the mesh that is none.
#[derive(Debug, Clone)]
pub enum Command {
    /// Send a message to one connection.
    Send {
        /// To this one.
        id: ConnectionId,
        /// This.
        message: PreparedMessage,
    },
    /// Begin the closing handshake of one connection.
    Close {
        /// Of this one.
        id: ConnectionId,
        /// With a code that may be sent.
        code: CloseCode,
        /// And a reason that fits.
        reason: Box<str>,
    },
    /// Name all connections that are open.
    List,
    /// Ping and give up as this says.
    KeepAlive {
        /// This connection, or all of the shard, those to come included.
        id: Option<ConnectionId>,
        /// So.
        keep_alive: KeepAlive,
    },
}

/// What is answered to who is outside.
#[derive(Debug, Clone)]
pub enum Reply {
    /// What was submitted has this place in its topic's order.
    Published(Published),
    /// What became of what was to be sent.
    Sent(Sent),
    /// Whether the connection was there, and open.
    Done(bool),
    /// The shard's open connections.
    Connections(Box<[ConnectionId]>),
}

/// A command that has arrived at its shard, and what the answer needs.
#[derive(Debug)]
pub struct Commanded {
    /// Which end asks.
    pub end: u16,
    /// What the answer is told apart by.
    pub ticket: u64,
    /// What is asked.
    pub command: Command,
}
