//! System calls: the only folder with `unsafe`.
//!
//! [`Io`] has the operations that a shard needs: readiness, one batch of receives, one batch of sends. [`HotRing`]
//! implements it with a private `io_uring`; the simulator of the shard's tests implements it too. [`oneshot`] has the
//! few operations that go through the runtime's ring instead. [`net`] has operations of single sockets; [`cpu`],
//! [`memory`], [`inherited`] and [`probe`] run once at start. [`bounded_close`] limits what a socket that speaks HTTP
//! leaves to the kernel when it is closed. [`system_calls`] lists all system calls of a server, for profiles that
//! forbid the others.
//!
//! Public for the workspace's own measurements; not part of the crate's API.

#![allow(unsafe_code)]

pub mod bounded_close;
pub mod cpu;
mod hot_ring;
pub mod inherited;
mod io;
pub mod memory;
pub mod net;
pub mod oneshot;
pub mod probe;
pub mod system_calls;

pub use hot_ring::HotRing;
pub use io::{Io, Key, Readiness, Receive, SendEntry, Unsent};
