//! The histograms of the hub: one table, and the buckets of one histogram.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

macro_rules! histograms {
    ($($(#[doc = $help:literal])+ $variant:ident $name:literal $bounds:expr;)+) => {
        /// One row of the table of histograms. Shards count in all of them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Histogram {
            $($(#[doc = $help])+ $variant,)+
        }

        impl Histogram {
            /// Every row, in the order of the table.
            pub const ALL: &[Histogram] = &[$(Histogram::$variant,)+];

            /// Returns the name in Prometheus' style, such as `turn_seconds`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Histogram::$variant => $name,)+ }
            }

            /// Returns the upper bounds of the buckets in microseconds, in rising order. The last bucket has no bound.
            pub(super) const fn bounds_us(self) -> [u64; BOUNDS] {
                match self { $(Histogram::$variant => $bounds,)+ }
            }

            /// Returns a sentence about the times that the histogram counts.
            #[must_use]
            pub const fn help(self) -> &'static str {
                match self { $(Histogram::$variant => concat!($($help),+).trim_ascii(),)+ }
            }
        }
    };
}

/// The number of upper bounds of each histogram.
pub(super) const BOUNDS: usize = 9;

const BACKLOG_BOUNDS: [u64; BOUNDS] =
    [1_000, 4_000, 16_000, 64_000, 250_000, 1_000_000, 4_000_000, 16_000_000, 64_000_000];

histograms! {
    /// Lengths of turns.
    Turn "turn_seconds" [10, 40, 160, 640, 2_500, 10_000, 40_000, 160_000, 640_000];
    /// Times from the accept of a socket, or from its return by the control thread, to the 101 of its WebSocket.
    Handshake "handshake_seconds" [100, 400, 1_600, 6_400, 25_000, 100_000, 400_000, 1_600_000, 6_400_000];
    /// Times from the turn in which a walk's first message was gathered to the end of the walk. Of walks over fewer
    /// than 16 members, one in 16 is looked at and counts for 16.
    PublishToFlush "publish_to_flush_seconds" [10, 40, 160, 640, 2_500, 10_000, 40_000, 160_000, 640_000];
    /// Times that bytes waited in backlogs, of one byte at a time in each backlog, in steps of a turn.
    BacklogAge "backlog_age_seconds" BACKLOG_BOUNDS;
}

/// The buckets of one histogram of one thread. Only this thread counts.
#[derive(Debug)]
pub(super) struct Buckets {
    /// The times by length: each is counted once, at the first bound that it does not exceed, or at the end.
    counts: [AtomicU64; BOUNDS + 1],
    sum_ns: AtomicU64,
}

/// The numbers of a histogram at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Snapshot {
    /// For each bound, and for the end, how many times are not longer.
    pub(super) cumulative: [u64; BOUNDS + 1],
    /// The sum of all times, in seconds.
    pub(super) sum: f64,
}

impl Buckets {
    pub(super) const fn new() -> Self {
        Buckets { counts: [const { AtomicU64::new(0) }; BOUNDS + 1], sum_ns: AtomicU64::new(0) }
    }

    /// Counts so many times of the same length. Only the buckets' own thread may call this.
    pub(super) fn count(&self, bounds_us: &[u64; BOUNDS], time: Duration, times: u64) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let bucket = bounds_us.iter().position(|bound| ns <= bound * 1_000).unwrap_or(BOUNDS);
        // Relaxed, as in `Counters::set`.
        let add = |number: &AtomicU64, count| {
            number.store(number.load(Ordering::Relaxed).saturating_add(count), Ordering::Relaxed);
        };
        add(&self.counts[bucket], times);
        add(&self.sum_ns, ns.saturating_mul(times));
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let mut count = 0;
        let cumulative = self.counts.each_ref().map(|bucket| {
            count += bucket.load(Ordering::Relaxed);
            count
        });
        Snapshot { cumulative, sum: self.sum_ns.load(Ordering::Relaxed) as f64 / 1e9 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_whole() {
        for &histogram in Histogram::ALL {
            assert!(histogram.name().ends_with("_seconds"), "{histogram:?}");
            assert!(histogram.help().ends_with('.'), "{histogram:?}");
            assert!(histogram.bounds_us().is_sorted_by(|low, high| low < high), "{histogram:?}");
        }
    }

    #[test]
    fn each_time_is_in_its_first_bucket() {
        let bounds = Histogram::BacklogAge.bounds_us();
        let buckets = Buckets::new();
        for micros in [0, 1_000, 1_001, 64_000_000, 64_000_001] {
            buckets.count(&bounds, Duration::from_micros(micros), 1);
        }
        buckets.count(&bounds, Duration::from_secs(100), 1);
        let Snapshot { cumulative, sum } = buckets.snapshot();
        assert_eq!(cumulative, [2, 3, 3, 3, 3, 3, 3, 3, 4, 6]);
        assert_eq!(sum.floor(), 228.0);
        buckets.count(&bounds, Duration::MAX, 2);
        assert_eq!(buckets.snapshot().cumulative[BOUNDS], 8);
    }
}
