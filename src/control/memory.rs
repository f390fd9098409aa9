//! Watches the memory of the process where it has a limit, and gives free memory back to the kernel after a storm.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use super::shared::Shared;
use crate::{
    budget::Budget,
    log_throttle::LogThrottle,
    metrics::{Counter, resident_bytes},
    sys::memory::trim,
};

/// Notes what the control thread holds and what the process has in RAM, again and again. While the server is short of
/// memory, the largest bodies that have not arrived whole give way. Logs when the server becomes short of memory.
pub(super) async fn watch(shared: Arc<Shared>, budget: Arc<Budget>, thread: usize) {
    let (mut was_short, warnings) = (false, LogThrottle::of_limit());
    let mut trimmed: Option<Instant> = None;
    loop {
        budget.note(thread, shared.note_memory(), shared.bodies.incomplete_bytes() as u64);
        let mut resident = resident_bytes();
        if budget.is_too_resident(resident) && trimmed.is_none_or(|at| at.elapsed() >= TRIM_INTERVAL) {
            // Much of it may be free memory that the allocator keeps.
            trim();
            trimmed = Some(Instant::now());
            resident = resident_bytes();
        }
        budget.note_resident(resident);
        let excess = budget.judge();
        let part = budget.part_to_give_up(thread);
        let (used, max_memory) = (budget.used(), budget.bytes_max());
        // A shard may have found the server short, and have given up enough, since the last look.
        let shortages = budget.take_shortages();
        if shortages > 0
            && let Some(suppressed) = warnings.allow(Instant::now())
        {
            let held = budget.held();
            tracing::warn!(
                used,
                held,
                resident,
                max_memory,
                excess,
                suppressed,
                "memory is above --max-memory: new connections are refused, the oldest opening handshakes end, and the \
                 connections and bodies that hold the most are given up"
            );
        }
        let is_short = budget.is_short();
        if (was_short || shortages > 0) && !is_short {
            tracing::debug!(used, max_memory, "memory is below --max-memory again");
        }
        shared.counters.add(Counter::MemoryShort, shortages);
        was_short = is_short;
        shared.counters.add(Counter::MemoryBodiesGivenUp, shared.bodies.give_up(part));
        // The resident memory alone may become too much.
        let is_near = used.max(resident.unwrap_or(0)) > max_memory / 2;
        sleep(if is_near { OFTEN } else { SELDOM }).await;
    }
}

/// Gives the allocator's free memory back to the kernel after each storm of opening handshakes. Their heads and buffers
/// are free then, but lie between the tables of connections that stay.
pub(super) async fn trim_after_storms(shared: Arc<Shared>) {
    let mut storms = Storms::default();
    loop {
        sleep(SELDOM).await;
        if storms.have_passed(shared.shards.iter().map(|shard| shard.get(Counter::Opened)).sum()) {
            trim();
        }
    }
}

/// The opening handshakes between two looks, and since the last storm.
#[derive(Debug, Default)]
struct Storms {
    /// All handshakes at the last look.
    seen: u64,
    /// Handshakes since the end of the last storm.
    since: u64,
}

impl Storms {
    /// Takes the number of all handshakes so far. Returns whether a storm has ended: [`STORM`] handshakes or more, and
    /// then at most [`QUIET`] between two looks.
    fn have_passed(&mut self, handshakes: u64) -> bool {
        let new = handshakes.wrapping_sub(self.seen);
        self.seen = handshakes;
        self.since = self.since.saturating_add(new);
        let have_passed = self.since >= STORM && new <= QUIET;
        if have_passed {
            self.since = 0;
        }
        have_passed
    }
}

/// The least handshakes of a storm. What fewer have left free is little.
const STORM: u64 = 1_000;

/// The handshakes between two looks that are no storm.
const QUIET: u64 = 10;

/// The time between two looks while more than half of the limit is used or resident: a tick, as the shards have it.
const OFTEN: Duration = Duration::from_millis(100);

/// The time between two looks otherwise.
const SELDOM: Duration = Duration::from_secs(1);

/// The time between two calls of the allocator that give its free memory back. The shards wait while it does that.
const TRIM_INTERVAL: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_passes_once() {
        let mut storms = Storms::default();
        let mut handshakes = 0;
        let mut look = |new| {
            handshakes += new;
            storms.have_passed(handshakes)
        };
        assert!(!look(STORM - 1));
        assert!(!look(0), "a storm has {STORM} handshakes");
        assert!(!look(QUIET + 1), "the storm goes on");
        assert!(look(QUIET));
        assert!(!look(0), "the memory is free already");
        assert!(!look(STORM));
        assert!(look(0));
    }
}
