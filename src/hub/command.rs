//! Commands of external ends about connections and topics, and their answers.

use std::sync::Arc;

use super::{
    connection_id::ConnectionId,
    history_page::{HistoryPage, HistoryQuery},
    listing::{ConnectionFilter, PagePart, TopicPart, Who},
    presence::Presence,
    publication::Place,
    publish_error::{PublishError, PublishOutcome},
    receipt::Published,
    subscribe_options::SubscribeOptions,
    top::Top,
    topic_name::TopicName,
};
use crate::proto::{CloseCode, KeepAlive, PreparedMessage};

/// The outcome of sending something to one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// The message leaves with the flush at the end of this turn.
    Sent,
    /// The message waits after bytes that the client's socket has not taken.
    Queued {
        /// How many bytes wait before the message.
        bytes: usize,
    },
    /// The message was not accepted.
    Refused(Refused),
}

impl Sent {
    /// Returns whether the message was accepted.
    #[must_use]
    pub fn is_accepted(self) -> bool {
        !matches!(self, Sent::Refused(_))
    }
}

/// The reason for which something is not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The connection is closing or has ended: nothing follows a close frame (RFC 6455 5.5.1). Or its socket has
    /// failed, while its handler still gets the messages that had arrived.
    NotOpen,
    /// The connection would be owed more than a backlog may have.
    Full,
    /// The control frame has more than 125 bytes (RFC 6455 5.5).
    ControlTooLong,
    /// The text is not UTF-8 (RFC 6455 5.6).
    NotText,
    /// The frame is a close frame or a continuation, for which there are other calls; or it is a ping or a pong, which
    /// the connection's protocol does not have.
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
            Refused::OpCode => "the frame has a call of its own, or the connection's protocol does not have it",
            Refused::Fragment => "a message sent by fragments is not finished, or none was begun",
        })
    }
}

impl std::error::Error for Refused {}

/// A command of an external end for connections of a shard.
#[derive(Debug, Clone)]
pub enum Command {
    /// Send a message to one connection.
    Send {
        /// The recipient.
        id: ConnectionId,
        /// The message.
        message: PreparedMessage,
    },
    /// Begin the closing handshake of one connection.
    Close {
        /// The connection.
        id: ConnectionId,
        /// A close code that may be sent (RFC 6455 7.4).
        code: CloseCode,
        /// A reason that fits into a close frame.
        reason: Box<str>,
    },
    /// Return the ids of all open connections.
    List,
    /// Return the busiest topics, and the largest backlogs.
    Top,
    /// Change how connections are pinged and when they time out.
    KeepAlive {
        /// The connection; `None` means all connections of the shard, later ones included.
        id: Option<ConnectionId>,
        /// The new keep-alive.
        keep_alive: KeepAlive,
    },
    /// Return summaries of open connections, as many as one step allows.
    Page {
        /// The connections that are wanted.
        filter: Arc<ConnectionFilter>,
        /// The slot to begin with.
        from: u32,
        /// The most summaries.
        rows_max: usize,
    },
    /// Begin the closing handshakes of open connections, as many as one step allows.
    CloseAll {
        /// The owner of the connections.
        who: Who,
        /// The slot to begin with.
        from: u32,
        /// A close code that may be sent (RFC 6455 7.4).
        code: CloseCode,
        /// A reason that fits into a close frame.
        reason: Arc<str>,
    },
    /// Return the names of topics whose home is the shard, as many as one step allows.
    Topics {
        /// The index to begin with.
        from: u32,
        /// The most names.
        most: usize,
        /// The beginning of the names that are wanted.
        prefix: Arc<str>,
    },
    /// Return how many subscribers each of these topics has on the shard.
    CountSubscribers(Arc<[TopicName]>),
    /// Return a part of the history of a topic whose home is the shard.
    ReadHistory {
        /// The topic.
        topic: TopicName,
        /// The part.
        query: HistoryQuery,
    },
    /// Forget the history of a topic whose home is the shard.
    ForgetHistory(TopicName),
    /// Return the members of a topic whose home is the shard.
    ReadPresence {
        /// The topic.
        topic: TopicName,
        /// Whether the members are wanted, or only how many they are.
        has_members: bool,
    },
    /// Make one connection a subscriber of a topic. The answer comes when the subscription is live.
    Subscribe {
        /// The connection.
        id: ConnectionId,
        /// The topic.
        topic: TopicName,
        /// The options of the subscription.
        options: SubscribeOptions,
    },
    /// End a subscription of one connection.
    Unsubscribe {
        /// The connection.
        id: ConnectionId,
        /// The topic.
        topic: TopicName,
    },
}

/// The answer to an external end.
#[derive(Debug, Clone)]
pub enum Reply {
    /// The place of the submitted publication in its topic's order.
    Published(Place),
    /// The place of the submitted publication, and the outcome of its receipt.
    Receipted(Box<Published>),
    /// The submitted publication is not published.
    NotPublished(PublishError),
    /// The outcome of [`Command::Send`].
    Sent(Sent),
    /// The outcome of a [`Command::Close`]: whether the connection was open. Or the outcome of a
    /// [`Command::KeepAlive`]: whether the connection exists; `true` if the command is for all connections.
    Done(bool),
    /// The shard's open connections.
    Connections(Box<[ConnectionId]>),
    /// The shard's busiest topics and largest backlogs.
    Top(Box<Top>),
    /// The outcome of a [`Command::Page`].
    Page(Box<PagePart>),
    /// The outcome of a [`Command::CloseAll`].
    Closed {
        /// How many connections were open, and are closing now.
        closed: u32,
        /// The slot with which the next step begins; `None` if no connection of the owner follows.
        next: Option<u32>,
    },
    /// The outcome of a [`Command::Topics`].
    Topics(Box<TopicPart>),
    /// The outcome of a [`Command::CountSubscribers`], in the order of the topics.
    Counts(Box<[u32]>),
    /// The outcome of a [`Command::ReadHistory`].
    History(Box<HistoryPage>),
    /// The outcome of a [`Command::ForgetHistory`]: how many messages were kept.
    Forgotten(u64),
    /// The outcome of a [`Command::ReadPresence`]; `None` if the topic's rules keep no presence.
    Presence(Option<Box<Presence>>),
    /// The outcome of a [`Command::Subscribe`].
    Subscribed(SubscribeOutcome),
}

impl From<PublishOutcome> for Reply {
    fn from(outcome: PublishOutcome) -> Self {
        match outcome {
            Ok(Published { place, receipt: None }) => Reply::Published(place),
            Ok(published) => Reply::Receipted(Box::new(published)),
            Err(error) => Reply::NotPublished(error),
        }
    }
}

impl Reply {
    /// Returns the outcome of a submitted publication, if the reply is one.
    #[must_use]
    pub fn published(&self) -> Option<PublishOutcome> {
        match self {
            Reply::Published(place) => Some(Ok(Published::at(*place))),
            Reply::Receipted(published) => Some(Ok(**published)),
            Reply::NotPublished(error) => Some(Err(*error)),
            _ => None,
        }
    }
}

/// The outcome of a subscription that an external end has asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubscribeOutcome {
    /// The subscription is live.
    Live,
    /// The connection had the subscription before.
    Already,
    /// The connection has as many subscriptions as allowed.
    TooMany,
    /// The connection is closing or has ended, or the subscription has ended before it was live.
    NotOpen,
}

/// A command that has arrived at its shard, and the address of the answer.
#[derive(Debug)]
pub struct Commanded {
    /// The end that has sent the command.
    pub end: u16,
    /// The number that goes back with the answer.
    pub ticket: u64,
    /// The command.
    pub command: Command,
}
