//! The atomics of a signal: those of std. The models of `tests/models` put loom's in their place.

pub(super) use std::sync::atomic::{AtomicBool, Ordering, fence};
