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

#[cfg(ringhub_loom)]
use loom::sync::atomic::{AtomicBool, Ordering, fence};
#[cfg(not(ringhub_loom))]
use std::sync::atomic::{AtomicBool, Ordering, fence};

use std::{fmt, sync::Arc};

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

#[cfg(all(test, ringhub_loom))]
mod tests {
    use loom::{
        sync::{Arc, Notify, atomic::AtomicUsize},
        thread,
    };

    use super::*;

    /// A lane as its ends see it: how many entries were ever pushed and popped, in no stronger order than `rtrb`
    /// guarantees.
    #[derive(Default)]
    struct Lane {
        pushed: AtomicUsize,
        popped: AtomicUsize,
    }

    impl Lane {
        /// Only the producer calls this.
        fn push(&self, capacity: usize) -> bool {
            let pushed = self.pushed.load(Ordering::Relaxed);
            let has_room = pushed - self.popped.load(Ordering::Acquire) < capacity;
            if has_room {
                self.pushed.store(pushed + 1, Ordering::Release);
            }
            has_room
        }

        fn is_empty(&self) -> bool {
            self.popped.load(Ordering::Relaxed) == self.pushed.load(Ordering::Acquire)
        }

        /// Only the consumer calls this.
        fn pop(&self) -> bool {
            let some = !self.is_empty();
            if some {
                self.popped.store(self.popped.load(Ordering::Relaxed) + 1, Ordering::Release);
            }
            some
        }
    }

    struct World {
        lane: Lane,
        signal: Signal,
        woken: Arc<Notify>,
    }

    fn world() -> Arc<World> {
        let woken = Arc::new(Notify::new());
        let wake = {
            let woken = woken.clone();
            move || woken.notify()
        };
        Arc::new(World { lane: Lane::default(), signal: Signal::new(std::sync::Arc::new(wake)), woken })
    }

    /// A consumer that sleeps whenever its lane is empty gets everything: loom reports a deadlock if a wake-up is lost.
    #[test]
    fn no_wake_up_is_lost() {
        loom::model(|| {
            let world = world();
            let producer = {
                let world = world.clone();
                thread::spawn(move || {
                    for _ in 0..2 {
                        assert!(world.lane.push(2));
                        world.signal.arrived();
                    }
                })
            };
            let mut received = 0;
            while received < 2 {
                if world.lane.pop() {
                    received += 1;
                    continue;
                }
                world.signal.about_to_sleep();
                if world.lane.is_empty() {
                    world.woken.wait();
                }
                world.signal.awake();
            }
            producer.join().unwrap();
        });
    }

    /// A producer that waits for room in a full lane gets everything through.
    #[test]
    fn no_room_is_missed() {
        loom::model(|| {
            let world = world();
            let consumer = {
                let world = world.clone();
                thread::spawn(move || {
                    let mut received = 0;
                    while received < 2 {
                        if world.lane.pop() {
                            received += 1;
                            world.signal.made_room();
                        } else {
                            thread::yield_now();
                        }
                    }
                })
            };
            for _ in 0..2 {
                while !world.lane.push(1) {
                    world.signal.wants_room();
                    if world.lane.push(1) {
                        break;
                    }
                    world.woken.wait();
                }
            }
            consumer.join().unwrap();
        });
    }
}
