//! A published message, its place in the order of its topic, and the subscribers that it is for.

use super::{connection_id::ConnectionId, topic_name::TopicName};
use crate::proto::PreparedMessage;

/// The subscribers that a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scope {
    /// The subscribers on the publisher's shard only, in no order with the messages of other publishers.
    Shard,
    /// The subscribers on all shards of the server, in one order.
    #[default]
    Server,
}

/// The place of a published message in the order of its topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// The life of the topic; a topic that was forgotten comes back with another epoch.
    pub epoch: u64,
    /// The message's number within the epoch, from 1.
    pub offset: u64,
}

/// A message of a topic. All lanes that carry the message share one publication.
#[derive(Debug)]
pub struct Publication {
    /// The topic.
    pub topic: TopicName,
    /// The connection that sent the message. It receives the message only if it has subscribed with echo.
    pub source: Option<ConnectionId>,
    /// The message.
    pub message: PreparedMessage,
}
