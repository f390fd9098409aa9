//! What one shard knows: connections, topics, and what is owed to whom. Plain data: no socket, no clock, no `unsafe`.

#![forbid(unsafe_code)]

mod backlog;
mod broadcast;
mod command;
mod connections;
mod due;
mod entry;
mod lane;
mod memory;
mod mesh;
mod order;
mod outside;
mod run;
mod signal;
mod subscriptions;
#[cfg(test)]
mod testing;
mod topics;

pub use backlog::Backlog;
use broadcast::Walk;
pub use broadcast::{Hub, HubLimits, Published, SPARE_RUN_BYTES_MAX, Scope};
pub use command::{Command, Commanded, Refused, Reply, Sent};
pub use connections::{Attachment, Connection, ConnectionId, ConnectionIdError, Connections, Publishing};
pub use entry::{Delivery, Publication, Request, Wish};
pub use memory::LARGE_PIECE_PINS;
pub use mesh::{MeshEnd, MeshLimits, Wake};
pub use outside::Outside;
pub use run::{FrozenRun, Piece, Run, Share, bounded};
pub use subscriptions::{Joined, Subscribed};
pub use topics::{TopicId, TopicName, TopicNameError};
