//! The barriers of a drain, which show a hub that no message from before the drain is still on its way.
//!
//! 1. Each end that begins to leave sends a barrier down its request lanes to all other shards: no request from before
//!    follows.
//! 2. A shard that has sent its own barriers, and has taken those of all other shards and of the control thread, sends
//!    a barrier to each engine. An engine that has taken the barriers of all shards answers each with a barrier: all
//!    messages that the engine was to order have come back.
//! 3. A shard that has taken the barriers of the engines too sends a barrier down its delivery lanes to all other
//!    shards: no delivery from before follows.
//!
//! A barrier stands after everything that its sender has put into the same lane, or beside that lane. So a shard that
//! has taken all barriers of the first two kinds has put every earlier message of its topics in order. A shard that has
//! also taken those of the third kind has gathered every earlier message of all topics.

/// The barriers that a shard has sent and taken. An end sends each other shard at most one barrier of each kind.
#[derive(Debug, Default)]
pub(super) struct Barriers {
    /// Whether the shard has begun to leave.
    pub(super) has_begun: bool,
    /// Shards and control threads whose barrier has come down their request lane.
    pub(super) requests: u16,
    /// Whether the shard has sent its barriers to the engines.
    pub(super) has_told_engines: bool,
    /// Engines whose barrier has come.
    pub(super) engines: u16,
    /// Shards whose barrier has come down their delivery lane.
    pub(super) deliveries: u16,
}
