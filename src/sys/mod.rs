//! System calls: the only folder with `unsafe`.
//!
//! [`Io`] has the operations that a shard needs: readiness, one batch of receives, one batch of sends. A [`Backend`]
//! implements [`Io`] with [`HotRing`], a private `io_uring`, or with [`Epoll`]. The simulator of the shard's tests
//! implements [`Io`] too. [`runtime`] has the runtime of a shard's thread, and the waits on single sockets. [`net`] has
//! operations of single sockets. [`cpu`], [`memory`], [`inherited`] and [`uring::probe`] are used at start.
//! [`system_calls`] lists all system calls of a server, for profiles that forbid all other calls. [`sandbox`] forbids
//! the calls that a serving server does not need.
//! [`bounded_close`] limits the bytes that a socket that speaks HTTP leaves to the kernel when the socket is closed.
//! [`Transport`] is the one socket type of a connection. [`Layered`] stands between a shard and an [`Io`]: it changes
//! the bytes of a connection into the form in which the connection's transport sends them, and back.
//!
//! Public for the workspace's own measurements; not part of the crate's API.

#![allow(unsafe_code)]

mod backend;
pub mod bounded_close;
#[cfg(test)]
mod contract;
pub mod cpu;
mod direct;
mod epoll;
#[cfg(test)]
mod faulty;
pub mod inherited;
mod io;
mod layered;
pub mod memory;
pub mod net;
pub mod runtime;
pub mod sandbox;
mod sealed;
pub mod system_calls;
#[cfg(test)]
mod testing;
pub mod transport;
pub mod uring;

pub use backend::{Backend, BackendKind};
pub use direct::DirectSocket;
pub use epoll::Epoll;
pub use io::{Io, Key, Readiness, Receive, Resumed, SendEntry, SendLimits, Unsent};
pub use layered::Layered;
pub use sealed::{OVERHEAD_BYTES_MAX, OpenedRecords, RECORD_BYTES_MAX, Records, SealedSocket, UNSENT_BYTES_MAX};
pub use transport::Transport;
pub use uring::{HotRing, RestrictionError, RingAccess};
