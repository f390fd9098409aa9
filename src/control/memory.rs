//! Watches the memory of the process, where it has a limit.

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
};

/// Notes what the control thread holds and what the process has in RAM, again and again, and logs when the server
/// becomes short of memory.
pub(super) async fn watch(shared: Arc<Shared>, budget: Arc<Budget>, thread: usize) {
    let (mut was_short, warnings) = (false, LogThrottle::of_limit());
    loop {
        let bytes = shared.note_memory();
        budget.note(thread, bytes, 0);
        budget.note_resident(resident_bytes());
        let excess = budget.judge();
        let (is_short, used, max_memory) = (budget.is_short(), budget.used(), budget.bytes_max());
        match (was_short, is_short) {
            (false, true) => {
                if let Some(suppressed) = warnings.allow(Instant::now()) {
                    tracing::warn!(
                        used,
                        max_memory,
                        excess,
                        suppressed,
                        "memory is above --max-memory: new connections are refused, and the largest backlogs are \
                         given up"
                    );
                }
            }
            (true, false) => tracing::debug!(used, max_memory, "memory is below --max-memory again"),
            _ => {}
        }
        shared.counters.add(Counter::MemoryShort, u64::from(is_short && !was_short));
        was_short = is_short;
        sleep(if used > max_memory / 2 { OFTEN } else { SELDOM }).await;
    }
}

/// The time between two looks while more than half of the limit is used: a tick, as the shards have it.
const OFTEN: Duration = Duration::from_millis(100);

/// The time between two looks otherwise.
const SELDOM: Duration = Duration::from_secs(1);
