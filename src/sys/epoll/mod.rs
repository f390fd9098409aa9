//! epoll: the sockets of a shard, and its runtime, where io_uring is forbidden.

mod runtime;
mod sockets;
mod watches;

pub(super) use runtime::{block_on, pass, readable, writable};
pub use sockets::Epoll;
