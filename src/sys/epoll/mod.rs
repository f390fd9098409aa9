//! epoll: the sockets and the runtime of a shard that does not use io_uring.

mod runtime;
mod sockets;
mod watches;

pub(super) use runtime::{block_on, pass, readable, writable};
pub use sockets::Epoll;
