//! Subscriptions that have gone live, and the parts of histories that their connections are owed.

use super::{connection_id::ConnectionId, piece::Owed, publication::OrderEnd, topic_name::TopicName};

/// A subscription that was pending and has gone live: the connection may be told, and is owed every message published
/// from here on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// The subscriber.
    pub id: ConnectionId,
    /// The topic.
    pub topic: TopicName,
    /// The end of the topic's order at which the subscription begins, if it is known. For a subscription that resumes:
    /// the position after which its messages follow.
    pub end: Option<OrderEnd>,
    /// Whether a subscription that resumes gets every message after the position that it has asked for; `None` for a
    /// subscription that does not resume.
    pub recovered: Option<bool>,
}

/// What a part of a history means for the subscriber that has asked for it.
#[derive(Debug)]
pub struct HistoryPart {
    /// The subscriber.
    pub id: ConnectionId,
    /// The topic.
    pub topic: TopicName,
    /// The position of the subscription, if it was not known before: the subscriber is to be told before it gets
    /// messages.
    pub joined: Option<Joined>,
    /// The messages. The lag, if there is one, stands before them.
    pub owed: Owed,
    /// Whether the connection is to be closed: messages are missing, which the subscriber has not agreed to.
    pub is_unrecovered: bool,
}
