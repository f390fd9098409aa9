//! Moments: the short parts of the measured window, with the counts and latencies of each part.

use serde::{Deserialize, Serialize};

/// A short part of the measured window. Counts are those of this part, except `connections` and `lost`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Moment {
    /// The end of this part, in nanoseconds since the start of the window.
    pub at_ns: u64,
    /// The length of this part.
    pub span_ns: u64,
    /// Messages that arrived, over all subscribers.
    pub deliveries: u64,
    /// Messages that were handed to the publishers' connections.
    pub published: u64,
    /// Open connections at the end of this part.
    pub connections: usize,
    /// The gaps at the end of this part: messages of the whole run that were missing, although a later one had arrived.
    /// `None` if the run does not count them meanwhile.
    #[serde(default)]
    pub lost: Option<u64>,
    /// CPU time of the server's process, with `--server-pid`.
    #[serde(default)]
    pub server_cpu_ns: Option<u64>,
    /// CPU time of the generator.
    pub own_cpu_ns: u64,
    /// The latencies of the deliveries that arrived.
    #[serde(default)]
    pub latency: LatencyRow,
}

impl Moment {
    /// Adds the next moment to this one.
    pub fn extend(&mut self, next: &Moment) {
        self.at_ns = next.at_ns;
        self.span_ns += next.span_ns;
        self.deliveries += next.deliveries;
        self.published += next.published;
        self.connections = next.connections;
        self.lost = next.lost;
        self.server_cpu_ns = self.server_cpu_ns.zip(next.server_cpu_ns).map(|(one, other)| one + other);
        self.own_cpu_ns += next.own_cpu_ns;
        let mut buckets = LatencyBuckets::default();
        buckets.add(&self.latency);
        buckets.add(&next.latency);
        self.latency = buckets.row();
    }
}

/// The moments of a window of any length, at most [`MOMENTS_MAX`]: when there are more, each two become one.
#[derive(Clone, Debug)]
pub struct Series {
    moments: Vec<Moment>,
    /// The moments that are pushed for each one that is kept.
    stride: usize,
    /// The moments that the last kept one consists of.
    gathered: usize,
}

impl Default for Series {
    fn default() -> Series {
        Series { moments: Vec::new(), stride: 1, gathered: 0 }
    }
}

impl Series {
    /// Adds the next moment.
    pub fn push(&mut self, moment: Moment) {
        if self.gathered > 0 && self.gathered < self.stride {
            self.gathered += 1;
            self.moments.last_mut().expect("the moment that gathers").extend(&moment);
            return;
        }
        if self.moments.len() == MOMENTS_MAX {
            self.halve();
        }
        self.moments.push(moment);
        self.gathered = 1;
    }

    /// Makes one moment of each two.
    fn halve(&mut self) {
        let pairs = self.moments.chunks_exact(2).map(|pair| {
            let mut both = pair[0].clone();
            both.extend(&pair[1]);
            both
        });
        self.moments = pairs.collect();
        self.stride *= 2;
    }

    /// Returns the moments in order.
    pub fn into_moments(self) -> Vec<Moment> {
        self.moments
    }
}

/// The largest number of moments of a report, which is even.
pub const MOMENTS_MAX: usize = 240;

/// Counts of latencies in buckets whose width grows with the latency: [`BUCKETS_PER_OCTAVE`] for each doubling.
#[derive(Clone, Debug)]
pub struct LatencyBuckets {
    counts: [u64; BUCKETS],
}

impl Default for LatencyBuckets {
    fn default() -> LatencyBuckets {
        LatencyBuckets { counts: [0; BUCKETS] }
    }
}

impl LatencyBuckets {
    /// Counts a latency.
    pub fn record(&mut self, latency_ns: u64) {
        self.counts[bucket_of(latency_ns)] += 1;
    }

    /// Adds the counts of a row.
    pub fn add(&mut self, row: &LatencyRow) {
        for (place, count) in self.counts.iter_mut().skip(row.first).zip(&row.counts) {
            *place += count;
        }
    }

    /// Returns the counts without the empty buckets at both ends.
    pub fn row(&self) -> LatencyRow {
        let Some(first) = self.counts.iter().position(|&count| count > 0) else { return LatencyRow::default() };
        let last = self.counts.iter().rposition(|&count| count > 0).unwrap_or(first);
        LatencyRow { first, counts: self.counts[first..=last].to_vec() }
    }

    /// Returns the counts as [`Self::row`] does, and begins anew.
    pub fn take_row(&mut self) -> LatencyRow {
        let row = self.row();
        self.counts.fill(0);
        row
    }
}

/// The counts of neighbouring buckets, beginning with bucket `first`. Bucket `b` has the latencies from
/// [`bucket_start_ns`] of `b` up to that of `b + 1`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatencyRow {
    /// The first bucket.
    pub first: usize,
    /// The counts of this bucket and the following ones.
    pub counts: Vec<u64>,
}

impl LatencyRow {
    /// Returns the number of latencies.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Returns the latency below which the fraction `quantile` of the latencies lies, rounded up to the end of its
    /// bucket; `None` without a latency.
    pub fn quantile_ns(&self, quantile: f64) -> Option<u64> {
        let total = self.total();
        let rank = ((quantile * total as f64).ceil() as u64).clamp(1, total.max(1));
        let mut seen = 0;
        let place = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank
        })?;
        Some(bucket_start_ns(self.first + place + 1))
    }
}

/// Returns the bucket of a latency. Latencies beyond the last bucket's end count in the last bucket.
fn bucket_of(latency_ns: u64) -> usize {
    let Some(octave) = (latency_ns >> FIRST_OCTAVE).checked_ilog2() else { return 0 };
    let shift = octave + FIRST_OCTAVE - BUCKETS_PER_OCTAVE.ilog2();
    let step = (latency_ns >> shift) as usize % BUCKETS_PER_OCTAVE;
    (1 + octave as usize * BUCKETS_PER_OCTAVE + step).min(BUCKETS - 1)
}

/// Returns the shortest latency of a bucket: 0 for bucket 0, and 1 024 ns for bucket 1. The width of the buckets
/// doubles every [`BUCKETS_PER_OCTAVE`].
pub fn bucket_start_ns(bucket: usize) -> u64 {
    let Some(above_first) = bucket.checked_sub(1) else { return 0 };
    let (octave, step) = (above_first / BUCKETS_PER_OCTAVE, above_first % BUCKETS_PER_OCTAVE);
    ((BUCKETS_PER_OCTAVE + step) as u64) << (octave as u32 + FIRST_OCTAVE - BUCKETS_PER_OCTAVE.ilog2())
}

/// The buckets of a doubling of the latency.
pub const BUCKETS_PER_OCTAVE: usize = 8;

/// Bucket 0 ends at 2 to the power of this, about a microsecond.
const FIRST_OCTAVE: u32 = 10;

/// Bucket 0, and buckets up to 2 to the power of 36 ns, which is 68 s.
const BUCKETS: usize = 1 + 26 * BUCKETS_PER_OCTAVE;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_latency_is_in_the_bucket_that_holds_it() {
        for shift in 0..40 {
            for offset in [0, 1, 3] {
                let latency_ns = (1_u64 << shift) + offset * (1 << shift) / 4 + offset;
                let bucket = bucket_of(latency_ns);
                assert!(bucket_start_ns(bucket) <= latency_ns, "{latency_ns}");
                assert!(bucket == BUCKETS - 1 || latency_ns < bucket_start_ns(bucket + 1), "{latency_ns}");
            }
        }
        assert_eq!((bucket_of(0), bucket_of(1_023), bucket_of(1_024), bucket_of(u64::MAX)), (0, 0, 1, BUCKETS - 1));
    }

    #[test]
    fn a_row_has_no_empty_ends_and_comes_back() {
        let mut buckets = LatencyBuckets::default();
        assert_eq!(buckets.row(), LatencyRow::default());
        for latency_ns in [1_024, 1_024, 2_048] {
            buckets.record(latency_ns);
        }
        let row = buckets.row();
        assert_eq!(row, LatencyRow { first: 1, counts: vec![2, 0, 0, 0, 0, 0, 0, 0, 1] });
        buckets.add(&row);
        assert_eq!(buckets.take_row().counts, [4, 0, 0, 0, 0, 0, 0, 0, 2]);
        assert_eq!(buckets.row().total(), 0);
    }

    #[test]
    fn quantiles_end_their_bucket() {
        let mut buckets = LatencyBuckets::default();
        assert_eq!(buckets.row().quantile_ns(0.5), None);
        (0..99).for_each(|_| buckets.record(1_100));
        buckets.record(5_000_000);
        let row = buckets.row();
        assert_eq!(row.quantile_ns(0.5), Some(1_152));
        assert_eq!(row.quantile_ns(0.99), Some(1_152));
        assert_eq!(row.quantile_ns(1.0), Some(5_242_880));
    }

    #[test]
    fn a_long_series_is_bounded_and_loses_nothing() {
        let count = MOMENTS_MAX as u64 * 5 + 3;
        let mut series = Series::default();
        for place in 1..=count {
            let latency = LatencyRow { first: place as usize % 7, counts: vec![1] };
            let server_cpu_ns = Some(2);
            series.push(Moment {
                at_ns: place * 10,
                span_ns: 10,
                deliveries: 1,
                latency,
                server_cpu_ns,
                ..Moment::default()
            });
        }
        let moments = series.into_moments();
        assert!(moments.len() <= MOMENTS_MAX && moments.len() > MOMENTS_MAX / 4, "{}", moments.len());
        let sum = |figure: fn(&Moment) -> u64| moments.iter().map(figure).sum::<u64>();
        assert_eq!((sum(|moment| moment.deliveries), sum(|moment| moment.span_ns)), (count, count * 10));
        assert_eq!(
            (sum(|moment| moment.latency.total()), sum(|moment| moment.server_cpu_ns.unwrap())),
            (count, count * 2)
        );
        assert_eq!(moments.last().map(|moment| moment.at_ns), Some(count * 10));
        let (last, others) = moments.split_last().unwrap();
        assert!(others.iter().all(|moment| moment.span_ns == others[0].span_ns) && last.span_ns <= others[0].span_ns);
        assert!(moments.windows(2).all(|pair| pair[0].at_ns + pair[1].span_ns == pair[1].at_ns));
    }
}
