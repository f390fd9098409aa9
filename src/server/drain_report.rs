//! The outcome of a server's end.

use std::sync::Arc;

use crate::metrics::{Counter, Counters};

/// The outcome of a server's end, which [`Running::stop`](super::Running::stop) begins: its WebSocket connections in
/// numbers. While the server leaves, the report shows how far the end has come.
///
/// ```no_run
/// use ringhub::server::{DrainReport, Server};
///
/// let running = Server::builder().listen(["127.0.0.1:0".parse()?]).topics().build()?.start()?;
/// running.stop();
/// // The counters outlive the server, which `wait_blocking` takes.
/// let counters = running.counters().to_vec();
/// running.wait_blocking()?;
/// let DrainReport { told, left, dropped, .. } = DrainReport::of(&counters);
/// println!("{left} of {told} clients have left, {dropped} were dropped");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct DrainReport {
    /// Connections whose clients the server has told, by a close frame with 1012, that it leaves.
    pub told: u64,
    /// Of these, connections that their clients have ended in time.
    pub left: u64,
    /// Connections that the server has dropped while it leaves: connections that their clients have not ended within
    /// [`close_timeout`](crate::proto::KeepAlive::close_timeout), and connections that are left after
    /// [`Config::drain_timeout`](crate::config::Config::drain_timeout).
    pub dropped: u64,
    /// Whether no connection was closed before it had been sent, or was owed, every message of its topics that the
    /// server had accepted before it began to leave. `false` if some shard or the control thread could not be waited
    /// for: the first close waits for at most a quarter of the drain timeout, and a shard that still takes messages
    /// for at most half.
    pub is_barrier_whole: bool,
}

impl DrainReport {
    /// Returns the report of a server with these counters of its shards, which
    /// [`Running::counters`](super::Running::counters) returns.
    #[must_use]
    pub fn of(shards: &[Arc<Counters>]) -> DrainReport {
        let sum = |counter| shards.iter().map(|shard| shard.get(counter)).sum();
        let barrier_timeouts: u64 = sum(Counter::BarrierTimeout);
        DrainReport {
            told: sum(Counter::DrainClosed),
            left: sum(Counter::DrainLeft),
            dropped: sum(Counter::DrainDropped),
            is_barrier_whole: barrier_timeouts == 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_adds_up_all_shards() {
        let shards: Vec<Arc<Counters>> = (0..3).map(|_| Arc::default()).collect();
        assert_eq!(DrainReport::of(&shards), DrainReport { told: 0, left: 0, dropped: 0, is_barrier_whole: true });
        for (number, shard) in (1..).zip(&shards) {
            shard.add(Counter::DrainClosed, 100 * number);
            shard.add(Counter::DrainLeft, 10 * number);
            shard.add(Counter::DrainDropped, number);
        }
        assert_eq!(DrainReport::of(&shards), DrainReport { told: 600, left: 60, dropped: 6, is_barrier_whole: true });
        shards[1].add(Counter::BarrierTimeout, 1);
        assert!(!DrainReport::of(&shards).is_barrier_whole);
    }
}
