//! Ids of topics.

/// The id of a topic on one shard. The id is valid while a connection is attached to the topic, another shard uses the
/// topic, or the shard remembers the topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId(pub(crate) u32);
