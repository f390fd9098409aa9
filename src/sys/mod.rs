//! System calls: the only folder with `unsafe`.
//!
//! [`Io`] has the operations that a shard needs: readiness, one batch of receives, one batch of sends. A [`Backend`]
//! implements it with one of the kernel's interfaces; the simulator of the shard's tests implements it too. [`runtime`]
//! has the runtime of a shard's thread, and the waits on single sockets before they are a shard's. [`uring`] is
//! io_uring. [`net`] has operations of single sockets; [`cpu`], [`memory`], [`inherited`] and [`uring::probe`] run once
//! at start. [`bounded_close`] limits what a socket that speaks HTTP leaves to the kernel when it is closed.
//! [`system_calls`] lists all system calls of a server, for profiles that forbid the others.
//!
//! Public for the workspace's own measurements; not part of the crate's API.

#![allow(unsafe_code)]

mod backend;
pub mod bounded_close;
pub mod cpu;
pub mod inherited;
mod io;
pub mod memory;
pub mod net;
pub mod runtime;
pub mod system_calls;
pub mod uring;

pub use backend::{Backend, BackendKind};
pub use io::{Io, Key, Readiness, Receive, SendEntry, Unsent};
pub use uring::HotRing;
