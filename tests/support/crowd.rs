//! Crowds: thousands of connections of one test.

use std::sync::{Mutex, MutexGuard, PoisonError};

use ringhub::sys::net::raise_descriptor_limit;

/// A permit that a test holds while it has a crowd. Only one permit exists at a time: the tests of a process share its
/// descriptors, which do not suffice for two crowds.
pub(crate) struct CrowdPermit {
    descriptors: usize,
    _alone: MutexGuard<'static, ()>,
}

impl CrowdPermit {
    /// Waits until no other test has a crowd.
    pub(crate) fn take() -> CrowdPermit {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let descriptors = raise_descriptor_limit().saturating_sub(FOR_OTHERS);
        CrowdPermit { descriptors: descriptors.try_into().unwrap(), _alone: alone }
    }

    /// Returns how many descriptors the crowd may have.
    pub(crate) fn descriptors(&self) -> usize {
        self.descriptors
    }

    /// Returns `wanted`, or fewer if the descriptors do not suffice for `wanted` connections and `others`.
    pub(crate) fn afford(&self, wanted: usize, others: usize) -> usize {
        let affordable = self.descriptors.saturating_sub(others);
        if affordable < wanted {
            println!("only {affordable} of {wanted} connections: the hard limit of descriptors allows no more");
        }
        assert!(affordable >= wanted.min(100), "the limit of descriptors is too low for this test");
        wanted.min(affordable)
    }
}

/// Descriptors that are left to the tests that run at the same time.
const FOR_OTHERS: u64 = 1_000;
