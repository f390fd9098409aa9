//! Waking another end of the mesh: no system call unless the end sleeps, and no lost wake-up.
//!
//! In a plain version the producer wakes the consumer after every push. Here the consumer sets a flag before it sleeps,
//! and then looks at its lanes once more:
//!
//! | consumer | producer |
//! | --- | --- |
//! | sets its flag | pushes into the lane |
//! | fence | fence |
//! | looks at its lanes; sleeps only if they are empty | looks at the flag; wakes the consumer if it is set |
//!
//! In every order of these steps, at least one end sees what the other has written: the fences forbid that both look
//! before both have written. The same pattern wakes a producer that waits for room in a full lane.

use std::{fmt, sync::Arc};

use super::atomic::{AtomicBool, Ordering, fence};

/// The flags by which the other ends of the mesh know whether one end, the owner, has to be woken.
pub(super) struct Signal {
    /// Whether the owner sleeps until something arrives.
    sleeps: AtomicBool,
    /// Whether the owner has an entry for a full lane.
    wants_room: AtomicBool,
    wake: Arc<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signal").finish_non_exhaustive()
    }
}

impl Signal {
    /// Returns a signal whose owner is awake. `wake` must make the owner look at its lanes again, even if `wake` is
    /// called just before the owner falls asleep.
    pub(super) fn new(wake: Arc<dyn Fn() + Send + Sync>) -> Self {
        Signal { sleeps: AtomicBool::new(false), wants_room: AtomicBool::new(false), wake }
    }

    /// Notes that the owner is about to sleep. The owner must look at its lanes once more after this call, and sleep
    /// only if they are empty.
    pub(super) fn about_to_sleep(&self) {
        // Relaxed: the fence orders this swap before the look at the lanes, and pairs with the fence in `arrived`. A
        // swap, unlike a store, has a place in one order with the swap in `arrived`.
        self.sleeps.swap(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Notes that the owner is awake.
    pub(super) fn awake(&self) {
        // Relaxed: a producer that still sees the flag set wakes the owner in vain, which does no harm.
        self.sleeps.store(false, Ordering::Relaxed);
    }

    /// Notes that an entry was pushed for the owner.
    pub(super) fn arrived(&self) {
        // The fence orders the push before the look at the flag, and pairs with the fence in `about_to_sleep`.
        fence(Ordering::SeqCst);
        if self.sleeps.load(Ordering::Relaxed) && self.sleeps.swap(false, Ordering::Relaxed) {
            (self.wake)();
        }
    }

    /// Notes that the owner has an entry for a lane that was full. The owner must try once more after this call.
    pub(super) fn wants_room(&self) {
        // Relaxed: as in `about_to_sleep`; the fence pairs with the fence in `made_room`.
        self.wants_room.swap(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Notes that an entry was taken out of a lane that the owner fills.
    pub(super) fn made_room(&self) {
        fence(Ordering::SeqCst);
        if self.wants_room.load(Ordering::Relaxed) && self.wants_room.swap(false, Ordering::Relaxed) {
            (self.wake)();
        }
    }
}
