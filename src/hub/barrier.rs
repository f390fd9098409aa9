//! The barriers of a drain, which show a hub that no message from before the drain is still on its way.
//!
//! 1. Each shard and the control thread, when they begin to leave, send a barrier down their request lanes to all other
//!    shards: no request from before the drain follows.
//! 2. When a shard has sent these barriers, and has taken those of all other shards and of the control thread, it sends
//!    a barrier to each engine. When an engine has taken the barriers of all shards, it answers each shard with a
//!    barrier. The answer follows all messages that the engine was to order.
//! 3. A shard that has taken the barriers of the engines too sends a barrier down its delivery lanes to all other
//!    shards: no delivery from before the drain follows.
//!
//! A barrier stands after everything that its sender has put into the same lane, or beside that lane. So a shard that
//! has taken all barriers of steps 1 and 2 has put every earlier message of its topics in order. A shard that has also
//! taken the barriers of step 3 has gathered every earlier message of all topics.

/// The barriers that a shard has sent and taken. An end sends each other shard at most one barrier in each step.
#[derive(Debug, Default)]
pub(super) struct Barriers {
    /// Whether the shard has begun to leave.
    pub(super) has_begun: bool,
    /// How many barriers of other shards and of the control thread have come down request lanes.
    pub(super) requests: u16,
    /// Whether the shard has sent its barriers to the engines.
    pub(super) has_told_engines: bool,
    /// How many engines have sent their barrier.
    pub(super) engines: u16,
    /// How many barriers of other shards have come down delivery lanes.
    pub(super) deliveries: u16,
}
