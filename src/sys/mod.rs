//! System calls: the only folder with `unsafe`.
//!
//! [`Io`] has the operations that a shard needs: readiness, one batch of receives, one batch of sends. A [`Backend`]
//! implements it with [`HotRing`], a private `io_uring`, or with [`Epoll`]; the simulator of the shard's tests
//! implements it too. [`runtime`] has the runtime of a shard's thread, and the waits on single sockets. [`net`] has
//! operations of single sockets; [`cpu`], [`memory`], [`inherited`] and [`uring::probe`] run once at start.
//! [`system_calls`] lists all system calls of a server, for profiles that forbid the others, and [`sandbox`] forbids
//! those that a serving server does not need.
//! [`bounded_close`] limits what a socket that speaks HTTP leaves to the kernel when it is closed.
//! [`Transport`] is the one socket type of a connection; [`Layered`] lets an [`Io`] send and receive what a transport
//! makes of a connection's bytes.
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
pub use io::{Io, Key, Readiness, Receive, Resumed, SendEntry, Unsent};
pub use layered::Layered;
pub use sealed::{OVERHEAD_BYTES_MAX, OpenedRecords, RECORD_BYTES_MAX, Records, SealedSocket, UNSENT_BYTES_MAX};
pub use transport::Transport;
pub use uring::{HotRing, RestrictionError, RingAccess};
