//! The connections that a drain has yet to close, and how fast it closes them.

use std::collections::VecDeque;

use crate::{hub::ConnectionId, proto::Tick};

/// A drain under way. Connections are closed at a pace, so that their clients do not all come to their next server at
/// the same moment, and within the first half of the drain's time.
#[derive(Debug)]
pub(super) struct Drain {
    remaining: VecDeque<ConnectionId>,
    per_tick: usize,
    last_step: Tick,
}

impl Drain {
    /// Plans to close the remaining connections within half of `ticks`. The first are due at once; if the drain
    /// `waits`, a tick later, when the messages in the lanes of other shards have been delivered.
    pub(super) fn new(now: Tick, remaining: VecDeque<ConnectionId>, ticks: u32, waits: bool) -> Self {
        let per_tick = remaining.len().div_ceil((ticks / 2).max(1) as usize).max(CLOSES_PER_TICK);
        let last_step = if waits { now } else { Tick(now.0.saturating_sub(1)) };
        Drain { remaining, per_tick, last_step }
    }

    /// Takes out the connections that are due to be closed.
    pub(super) fn step(&mut self, now: Tick) -> Vec<ConnectionId> {
        let steps = now.since(self.last_step) as usize;
        self.last_step = self.last_step.max(now);
        let count = steps.saturating_mul(self.per_tick).min(self.remaining.len());
        self.remaining.drain(..count).collect()
    }

    /// Adds a connection that was accepted before the drain and established only now.
    pub(super) fn add(&mut self, id: ConnectionId) {
        self.remaining.push_back(id);
    }

    /// Returns when the next connections are due, or the driver looks whether the other shards are done.
    pub(super) fn next_step(&self, now: Tick) -> Tick {
        if self.remaining.is_empty() { now.after(1) } else { self.last_step.after(1) }
    }
}

/// Connections that are closed in a tick at least, if there are so many: 1 000 in a second.
const CLOSES_PER_TICK: usize = 100;
