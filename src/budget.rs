//! The memory budget of a server: what its threads hold, and whether that is too much.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

/// The memory budget of a server (`max_memory`).
///
/// Each thread notes what it holds once in a tick; the control thread also notes the resident memory of the process.
/// Two numbers bound from above what the server needs: the sum of what its threads hold, since backlogs are charged
/// memory that they share; and the resident memory, since the allocator keeps memory that was freed. So the smaller
/// number counts. Above the limit the server is short of memory, until the smaller number is a tenth below the limit.
///
/// All loads and stores are relaxed: a number that is a tick old is as good.
#[derive(Debug)]
pub(crate) struct Budget {
    bytes_max: u64,
    /// What the server holds without connections and messages.
    idle_bytes: u64,
    /// By the number of the thread: the shards, then the control thread.
    threads: Box<[Held]>,
    /// The resident memory of the process, [`u64::MAX`] if it is unknown.
    resident: AtomicU64,
    is_short: AtomicBool,
}

/// What one thread holds.
#[derive(Debug, Default)]
struct Held {
    /// All of it, in bytes.
    bytes: AtomicU64,
    /// Of it, the backlogs of slow consumers, which can be given up.
    backlogs: AtomicU64,
}

impl Budget {
    /// Returns the budget of a server with so many shards. `idle_bytes` is what the server holds without connections
    /// and messages.
    pub(crate) fn new(bytes_max: u64, idle_bytes: u64, shards: usize) -> Arc<Budget> {
        Arc::new(Budget {
            bytes_max,
            idle_bytes,
            threads: (0..=shards).map(|_| Held::default()).collect(),
            resident: AtomicU64::new(u64::MAX),
            is_short: AtomicBool::new(false),
        })
    }

    /// Returns the limit.
    pub(crate) fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// Notes what a thread holds, and how much of it are backlogs.
    pub(crate) fn note(&self, thread: usize, bytes: u64, backlogs: u64) {
        self.threads[thread].bytes.store(bytes, Ordering::Relaxed);
        self.threads[thread].backlogs.store(backlogs, Ordering::Relaxed);
    }

    /// Notes the resident memory of the process; `None` if it cannot be read.
    pub(crate) fn note_resident(&self, bytes: Option<u64>) {
        self.resident.store(bytes.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Returns the bytes that count: the sum of what the threads hold, or the resident memory if that is smaller.
    pub(crate) fn used(&self) -> u64 {
        let held = self.threads.iter().map(|held| held.bytes.load(Ordering::Relaxed));
        held.fold(self.idle_bytes, u64::saturating_add).min(self.resident.load(Ordering::Relaxed))
    }

    /// Decides whether the server is short of memory. Returns by how many bytes the use exceeds nine tenths of the
    /// limit; 0 if the server is not short.
    pub(crate) fn judge(&self) -> u64 {
        let (used, mark) = (self.used(), self.bytes_max / 10 * 9);
        let is_short = used > if self.is_short() { mark } else { self.bytes_max };
        self.is_short.store(is_short, Ordering::Relaxed);
        if is_short { used.saturating_sub(mark) } else { 0 }
    }

    /// Returns whether the server is short of memory, by the last decision.
    pub(crate) fn is_short(&self) -> bool {
        self.is_short.load(Ordering::Relaxed)
    }

    /// Returns how many bytes of backlogs a shard is to give up: its part of what is too much, by its backlogs.
    pub(crate) fn part_to_give_up(&self, shard: usize) -> u64 {
        let excess = self.judge();
        let backlogs = |held: &Held| held.backlogs.load(Ordering::Relaxed);
        let all = self.threads.iter().map(backlogs).fold(0, u64::saturating_add);
        if excess == 0 || all == 0 {
            return 0;
        }
        let part = u128::from(excess) * u128::from(backlogs(&self.threads[shard]));
        part.div_ceil(u128::from(all)).try_into().unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smaller_number_counts() {
        let budget = Budget::new(1_000, 100, 2);
        budget.note(0, 500, 0);
        budget.note(2, 300, 0);
        assert_eq!((budget.used(), budget.judge(), budget.is_short()), (900, 0, false));
        budget.note(1, 5_000, 0);
        assert_eq!((budget.used(), budget.judge(), budget.is_short()), (5_900, 5_000, true));
        budget.note_resident(Some(950));
        assert_eq!((budget.used(), budget.judge(), budget.is_short()), (950, 50, true), "it is not below the mark");
        budget.note_resident(Some(900));
        assert_eq!((budget.judge(), budget.is_short()), (0, false));
        budget.note_resident(Some(950));
        assert_eq!((budget.judge(), budget.is_short()), (0, false), "it is not above the limit");
        budget.note_resident(None);
        assert_eq!((budget.judge(), budget.is_short()), (5_000, true));
    }

    /// Shards give up backlogs in proportion to those that they hold.
    #[test]
    fn each_shard_has_its_part() {
        let budget = Budget::new(1_000, 0, 2);
        budget.note(0, 1_000, 900);
        budget.note(1, 500, 300);
        budget.note(2, 400, 0);
        assert_eq!((budget.part_to_give_up(0), budget.part_to_give_up(1), budget.part_to_give_up(2)), (750, 250, 0));
        budget.note(0, 0, 0);
        assert_eq!((budget.part_to_give_up(0), budget.part_to_give_up(1)), (0, 0));
    }
}
