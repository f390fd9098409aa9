//! The roles of the ends of the mesh.

use super::topic_name::TopicName;

/// The role of an end of the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndRole {
    /// A shard: it has connections, and is the home of its share of the topics. Shards have the lowest numbers.
    Shard,
    /// The control thread: it publishes, sends commands and takes the answers.
    Control,
    /// An engine: it gives the publications of some topics their places, instead of the topics' homes.
    Engine,
}

impl EndRole {
    /// Returns the roles of so many shards and of the control thread.
    #[must_use]
    pub fn shards_and_control(shards: usize) -> Vec<EndRole> {
        let mut roles = vec![EndRole::Shard; shards];
        roles.push(EndRole::Control);
        roles
    }
}

/// The topics that an engine orders.
#[derive(Debug, Clone, Copy)]
pub struct EngineTopics {
    /// The engine's end of the mesh.
    pub end: u16,
    /// Returns whether the engine orders the topic of that name. The function gives the same answer whenever it is
    /// called.
    pub has: fn(&TopicName) -> bool,
}
