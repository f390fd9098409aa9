//! The sums of the memory that a shard holds.

use std::{mem, sync::Arc};

use crate::{budget::Budget, config::weights, proto::Tick};

/// The sums of a shard's memory. Backlogs are added up slot by slot, some slots in each tick.
#[derive(Debug)]
pub(super) struct Memory {
    /// The budget of the server, and the number of this shard, if there is a limit.
    pub(super) budget: Option<(Arc<Budget>, usize)>,
    /// The tick of the last look; `None` before the first.
    pub(super) at: Option<Tick>,
    /// The most slots that a tick looks at.
    pub(super) slots_per_tick: u32,
    /// The slot at which the next tick goes on.
    next: u32,
    /// The backlogs of the slots before.
    sum: u64,
    /// All backlogs, as they were added up last.
    backlogs: u64,
}

/// What a shard is to give up, since the server is short of memory.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ToGiveUp {
    pub(super) bytes: u64,
    /// The fewest bytes for which a connection is closed.
    pub(super) holder_bytes_min: u64,
    /// Whether a connection may be closed for its large opening request.
    pub(super) has_kept: bool,
}

impl Default for Memory {
    fn default() -> Self {
        Memory { budget: None, at: None, slots_per_tick: SLOTS_PER_TICK, next: 0, sum: 0, backlogs: 0 }
    }
}

impl Memory {
    /// Returns the bytes of all backlogs, as they were added up last.
    pub(super) fn backlogs(&self) -> u64 {
        self.backlogs
    }

    /// Returns what the shard is to give up, since the server is short of memory.
    pub(super) fn to_give_up(&self) -> ToGiveUp {
        let Some((budget, shard)) = &self.budget else { return ToGiveUp::default() };
        let bytes = budget.part_to_give_up(*shard);
        if bytes == 0 {
            return ToGiveUp::default();
        }
        let holder_bytes_min = if budget.gives_up_small() { SMALL_HOLDER_BYTES_MIN } else { HOLDER_BYTES_MIN };
        ToGiveUp { bytes, holder_bytes_min, has_kept: budget.gives_up_kept() }
    }

    /// Notes what the shard holds, how much of it can be given up, and how much is kept of large opening requests.
    pub(super) fn note_held(&self, bytes: u64, spare: u64, kept: u64) {
        if let Some((budget, shard)) = &self.budget {
            budget.note(*shard, bytes, spare);
            budget.note_kept(*shard, kept);
        }
    }

    /// Returns the tick of the next look, even if nothing happens: a shard that sleeps on its backlogs, or on much
    /// memory of another kind, would not notice that the server is short of memory.
    pub(super) fn next_look(&self, has_backlogs: bool, now: Tick) -> Option<Tick> {
        let (budget, shard) = self.budget.as_ref()?;
        (has_backlogs || budget.holds_much(*shard)).then(|| now.after(1))
    }

    /// Returns the slots to look at in this tick, of so many.
    pub(super) fn slots(&self, all: u32) -> std::ops::Range<u32> {
        self.next.min(all)..all.min(self.next.saturating_add(self.slots_per_tick))
    }

    /// Notes the backlogs of the slots up to `end`, of so many slots.
    pub(super) fn add(&mut self, bytes: u64, end: u32, all: u32) {
        self.sum += bytes;
        if end < all {
            self.backlogs = self.backlogs.max(self.sum);
            self.next = end;
        } else {
            self.backlogs = mem::take(&mut self.sum);
            self.next = 0;
        }
    }

    /// Notes that there is no backlog.
    pub(super) fn clear(&mut self) {
        (self.next, self.sum, self.backlogs) = (0, 0, 0);
    }

    /// Notes that backlogs of so many bytes were given up.
    pub(super) fn give_up(&mut self, bytes: u64) {
        self.backlogs = self.backlogs.saturating_sub(bytes);
    }
}

/// The fewest bytes for which a connection is closed. The close of a connection that holds less, for example of a
/// subscriber that is behind for a moment, frees hardly more than the connection's place.
pub(super) const HOLDER_BYTES_MIN: u64 = 4 * 1_024;

/// The same where messages under way and backlogs are much of the memory: as much as the place of a connection.
const SMALL_HOLDER_BYTES_MIN: u64 = weights::OPEN_CONNECTION;

/// The most slots whose backlogs are added up in a tick, in about a millisecond.
const SLOTS_PER_TICK: u32 = 65_536;
