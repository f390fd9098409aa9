//! Crowds: thousands of connections of one test.

use std::sync::{Mutex, MutexGuard, PoisonError};

use ringhub::sys::net::raise_descriptor_limit;

/// What a test with a crowd holds as long as the crowd is there. There is one at a time: the tests of a process share
/// its descriptors, and two crowds would be more than there are.
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

    /// How many descriptors the crowd may have.
    pub(crate) fn descriptors(&self) -> usize {
        self.descriptors
    }

    /// Returns the wanted number of connections, or how many are possible beside so many others.
    pub(crate) fn afford(&self, wanted: usize, others: usize) -> usize {
        let affordable = self.descriptors.saturating_sub(others);
        if affordable < wanted {
            println!("only {affordable} of {wanted} connections: the hard limit of descriptors allows no more");
        }
        assert!(affordable >= wanted.min(100), "the limit of descriptors is too low for this test");
        wanted.min(affordable)
    }
}

/// Descriptors of the tests that run beside.
const FOR_OTHERS: u64 = 1_000;
