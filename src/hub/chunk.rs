//! Chunks: the parts of histories that travel between shards, to subscribers that resume.

use super::{
    connection_id::ConnectionId,
    history_page::{HistoryPage, HistoryQuery},
    memory::ALLOCATION,
    topic_name::TopicName,
};

/// A question of a shard for a part of a history, for one of its connections.
#[derive(Debug, Clone)]
pub struct ReadOn {
    /// The topic.
    pub(super) topic: TopicName,
    /// The part.
    pub(super) query: HistoryQuery,
    /// The connection.
    pub(super) id: ConnectionId,
    /// The number of the part, which no other part of the shard has.
    pub(super) number: u64,
}

/// A part of a history, for a connection that has asked for it.
///
/// A part without further messages reaches the end of the topic's order, and every later message of the topic comes
/// behind the part, in the same lane.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// The connection.
    pub(super) id: ConnectionId,
    /// The number of the part.
    pub(super) number: u64,
    /// The part.
    pub(super) page: HistoryPage,
}

impl ReadOn {
    /// Returns the bytes that the question keeps alive.
    pub(super) fn kept(&self) -> usize {
        size_of_val(self) + ALLOCATION
    }
}

impl Chunk {
    /// Returns the bytes that the part keeps alive.
    pub(super) fn kept(&self) -> usize {
        size_of_val(self) + ALLOCATION + self.page.kept()
    }
}
