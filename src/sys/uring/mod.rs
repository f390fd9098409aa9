//! io_uring: the hot ring of a shard, the operations that go through the runtime's ring, and the probe of both.

pub mod cause;
mod hot_ring;
mod oneshot;
mod operations;
pub mod probe;
mod restriction;
mod runtime;

pub use hot_ring::HotRing;
pub(super) use oneshot::{nop, readable, writable};
pub use restriction::{RestrictionError, RingAccess};
pub(super) use runtime::block_on;
