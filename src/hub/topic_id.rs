//! Ids of topics.

/// The id of a topic on one shard. It is valid as long as a connection is attached to the topic, other shards use it,
/// or it is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId(pub(crate) u32);
