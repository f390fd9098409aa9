//! Models of the wake-ups between the ends of the mesh: loom runs every interleaving of two threads that use a signal.
//!
//! The signal is the hub's own file, compiled once more with loom's atomics.

mod atomic {
    pub(super) use loom::sync::atomic::{AtomicBool, Ordering, fence};
}
#[path = "../../src/hub/signal.rs"]
mod signal;

use atomic::Ordering;
use loom::{
    sync::{Arc, Notify, atomic::AtomicUsize},
    thread,
};
use signal::Signal;

/// A lane as its ends see it: how much was ever pushed and popped, ordered no better than `rtrb` does.
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
