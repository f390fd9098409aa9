//! io_uring: the hot ring of a shard, the operations that go through the runtime's ring, and the probe of both.

pub mod cause;
mod hot_ring;
mod oneshot;
pub mod probe;
mod runtime;

pub use hot_ring::HotRing;
pub(super) use oneshot::{nop, readable, writable};
pub(super) use runtime::block_on;
