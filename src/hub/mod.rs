//! What one shard knows: connections, topics, and what is owed to whom. Plain data: no socket, no clock, no `unsafe`.

#![forbid(unsafe_code)]

mod backlog;
mod broadcast;
mod connections;
mod run;
mod signal;
mod topics;

pub use backlog::Backlog;
pub use broadcast::{Hub, Owed, Published, Scope, Walk};
pub use connections::{Connection, ConnectionId, Connections, Output};
pub use run::{FrozenRun, Run, Share};
pub use topics::{TopicId, TopicName, TopicNameError};
