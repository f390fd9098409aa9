//! Where the hub meets the kernel, and the only folder that may say `unsafe`.
//!
//! [`Io`] is what a shard asks of the outside: readiness, one batch of receives, one batch of sends. [`HotRing`] is
//! the private `io_uring` behind it; the simulator of the shard's tests is another. [`oneshot`] carries the few
//! operations that go through the runtime's ring instead, [`net`], [`cpu`], [`memory`] and [`probe`] what is done once
//! at start. [`bounded_close`] is for sockets that speak HTTP to their end.
//!
//! Public for the workspace's own measurements; not part of the crate's API.

#![allow(unsafe_code)]

pub mod bounded_close;
pub mod cpu;
mod hot_ring;
mod io;
pub mod memory;
pub mod net;
pub mod oneshot;
pub mod probe;

pub use hot_ring::HotRing;
pub use io::{Io, Key, Readiness, Receive, SendEntry, Unsent};
