//! A lane: a lock-free queue from one end of the mesh to another, and the overflow that waits beside it.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use rtrb::{Consumer, Producer, RingBuffer};

use super::entry::Weight;

/// The producing end of a lane, with the entries that have found no room in it.
#[derive(Debug)]
pub(super) struct LaneOut<T> {
    producer: Producer<T>,
    /// The weight of the entries in the lane. The producer adds, the consumer subtracts.
    bytes: Arc<AtomicUsize>,
    bytes_max: usize,
    overflow: VecDeque<T>,
    overflow_bytes: usize,
    /// How many entries have ever had to wait.
    overflowed: u64,
}

/// The consuming end of a lane.
#[derive(Debug)]
pub(super) struct LaneIn<T> {
    consumer: Consumer<T>,
    bytes: Arc<AtomicUsize>,
}

/// Returns both ends of a lane. The lane has places for `entries` entries, and takes no entry while the entries in it
/// weigh more than `bytes_max`.
pub(super) fn lane<T>(entries: usize, bytes_max: usize) -> (LaneOut<T>, LaneIn<T>) {
    let (producer, consumer) = RingBuffer::new(entries);
    let bytes = Arc::new(AtomicUsize::new(0));
    let out = LaneOut {
        producer,
        bytes: Arc::clone(&bytes),
        bytes_max,
        overflow: VecDeque::new(),
        overflow_bytes: 0,
        overflowed: 0,
    };
    (out, LaneIn { consumer, bytes })
}

impl<T: Weight> LaneOut<T> {
    /// Puts an entry into the lane, or at the end of the overflow. Returns the weight of the entry if it has to wait,
    /// else 0.
    pub(super) fn send(&mut self, item: T) -> usize {
        if self.would_take() {
            self.push(item);
            return 0;
        }
        let weight = item.weight();
        self.overflow_bytes += weight;
        self.overflowed += 1;
        self.overflow.push_back(item);
        weight
    }

    /// Returns whether an entry would go into the lane at once.
    pub(super) fn would_take(&self) -> bool {
        self.overflow.is_empty() && self.has_room()
    }

    /// Moves entries from the overflow into the lane while the lane has room. Returns how many entries were moved.
    pub(super) fn send_overflow(&mut self) -> usize {
        let mut moved = 0;
        while self.has_room()
            && let Some(item) = self.overflow.pop_front()
        {
            self.overflow_bytes -= item.weight();
            self.push(item);
            moved += 1;
        }
        if moved > 0 && self.overflow.is_empty() {
            // Memory for a crowd of entries is not kept.
            self.overflow.shrink_to(OVERFLOW_KEPT);
        }
        moved
    }

    /// Returns the weight of the overflow.
    pub(super) fn overflow_bytes(&self) -> usize {
        self.overflow_bytes
    }

    /// Returns the weight of all entries, in the lane and beside it.
    pub(super) fn bytes(&self) -> usize {
        // Relaxed: the sum is only shown, and compared with a budget.
        self.bytes.load(Ordering::Relaxed) + self.overflow_bytes
    }

    /// Returns how many entries have ever had to wait.
    pub(super) fn overflowed(&self) -> u64 {
        self.overflowed
    }

    /// Returns the number of places in the overflow.
    #[cfg(test)]
    pub(super) fn overflow_capacity(&self) -> usize {
        self.overflow.capacity()
    }

    fn has_room(&self) -> bool {
        // Relaxed: the count only bounds memory. If an old value is too high, the entry waits until the next try, after
        // `made_room`.
        !self.producer.is_full() && self.bytes.load(Ordering::Relaxed) <= self.bytes_max
    }

    fn push(&mut self, item: T) {
        self.bytes.fetch_add(item.weight(), Ordering::Relaxed);
        assert!(self.producer.push(item).is_ok(), "only this end fills the lane, and it had room");
    }
}

impl<T: Weight> LaneIn<T> {
    /// Takes the next entry.
    pub(super) fn take(&mut self) -> Option<T> {
        let item = self.consumer.pop().ok()?;
        self.bytes.fetch_sub(item.weight(), Ordering::Relaxed);
        Some(item)
    }

    /// Returns how many entries are in the lane.
    pub(super) fn entries(&self) -> usize {
        self.consumer.slots()
    }

    /// Returns whether the lane has no entry.
    pub(super) fn is_empty(&self) -> bool {
        self.consumer.is_empty()
    }
}

/// Places that an empty overflow keeps for the next entries.
const OVERFLOW_KEPT: usize = 64;
