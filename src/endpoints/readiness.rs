//! The readiness of a server, for all threads: `/readyz` tells balancers whether the server takes traffic.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// The readiness of a server. A clone is another handle to the same readiness.
#[derive(Debug, Clone, Default)]
pub(crate) struct Readiness {
    has_ended: Arc<AtomicBool>,
}

impl Readiness {
    /// Ends the readiness, which never comes back. Returns whether it had not ended before.
    pub(crate) fn end(&self) -> bool {
        // Relaxed: nothing else depends on it.
        !self.has_ended.swap(true, Ordering::Relaxed)
    }

    /// Returns whether the server is about to leave.
    pub(crate) fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Relaxed)
    }
}
