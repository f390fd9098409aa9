//! A table of buckets by key, of a bounded size.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::{BuildHasher as _, Hash},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{Bucket, Rate};
use crate::proto::Millis;

/// The buckets of keys that clients choose: addresses, tokens, names. Any thread may use the table.
///
/// The table keeps a hash of each key, under a key of its own: neither a long name nor a secret.
///
/// A bucket that is full again is as good as none, so a table without room forgets one of those. If the next
/// [`LOOKS_MAX`] have none, the table forgets the one among them that is full first: its key begins anew. So a client
/// with many addresses takes no more memory than the table has, and a key that has used up its rate is among the last
/// that it sets free.
#[derive(Debug)]
pub(crate) struct RateTable {
    hasher: RandomState,
    buckets: Mutex<Buckets>,
    /// The time at which every bucket is full, in milliseconds, rounded up; 0 if none has been taken out of. From then
    /// on the table is looked at without a lock.
    all_full: AtomicU64,
}

#[derive(Debug)]
struct Buckets {
    entries_max: usize,
    /// The hashes of keys, each with its bucket.
    entries: Vec<(u64, Bucket)>,
    /// The places in `entries`, by hash.
    places: HashMap<u64, u32>,
    /// The place at which the next look for a bucket to forget begins.
    next: usize,
}

impl Default for RateTable {
    fn default() -> Self {
        RateTable::new(KEYS_MAX)
    }
}

impl RateTable {
    /// Returns an empty table with room for so many keys, at least one.
    fn new(entries_max: usize) -> RateTable {
        let buckets = Buckets { entries_max, entries: Vec::new(), places: HashMap::new(), next: 0 };
        RateTable { hasher: RandomState::new(), buckets: Mutex::new(buckets), all_full: AtomicU64::new(0) }
    }

    /// Returns whether no bucket has ever been taken out of.
    pub(crate) fn is_untouched(&self) -> bool {
        // Relaxed: who comes at the same time as the first key need not see it.
        self.all_full.load(Ordering::Relaxed) == 0
    }

    /// Returns the bytes of memory of all entries.
    pub(crate) fn bytes(&self) -> usize {
        self.buckets().entries.len() * KEY_BYTES
    }

    /// Returns when the key's bucket has one, if it has none now.
    pub(crate) fn due(&self, rate: &Rate, key: impl Hash, now: Millis) -> Option<Millis> {
        if self.all_full.load(Ordering::Relaxed) <= now.0 {
            return None;
        }
        let key = self.hasher.hash_one(key);
        let mut buckets = self.buckets();
        let place = *buckets.places.get(&key)? as usize;
        let bucket = &mut buckets.entries[place].1;
        // From now on the bucket fills at this rate.
        *bucket = bucket.at_rate(rate, now);
        Some(bucket.due(rate, 1)).filter(|&due| due > now)
    }

    /// Takes one out of the key's bucket.
    ///
    /// # Errors
    ///
    /// When the bucket has one.
    pub(crate) fn take(&self, rate: &Rate, key: impl Hash, now: Millis) -> Result<(), Millis> {
        let key = self.hasher.hash_one(key);
        let mut buckets = self.buckets();
        let full_at = match buckets.places.get(&key).copied() {
            Some(place) => {
                let bucket = &mut buckets.entries[place as usize].1;
                *bucket = bucket.at_rate(rate, now);
                bucket.take(rate, now, 1)?;
                bucket.full_at()
            }
            None => {
                let mut bucket = Bucket::default();
                bucket.take(rate, now, 1)?;
                buckets.insert(key, bucket, now);
                bucket.full_at()
            }
        };
        self.all_full.fetch_max(full_at.0, Ordering::Relaxed);
        Ok(())
    }

    fn buckets(&self) -> MutexGuard<'_, Buckets> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Buckets {
    fn insert(&mut self, key: u64, bucket: Bucket, now: Millis) {
        if self.entries.len() < self.entries_max {
            self.places.insert(key, self.entries.len() as u32);
            self.entries.push((key, bucket));
            return;
        }
        let place = self.forgettable(now);
        self.places.remove(&self.entries[place].0);
        self.places.insert(key, place as u32);
        self.entries[place] = (key, bucket);
    }

    /// Returns the place of the bucket to forget.
    fn forgettable(&mut self, now: Millis) -> usize {
        let count = self.entries.len();
        let mut looked_at = (0..count.min(LOOKS_MAX)).map(|step| (self.next + step) % count);
        let found = looked_at.clone().find(|&place| self.entries[place].1.is_full(now));
        let first = || looked_at.by_ref().min_by_key(|&place| self.entries[place].1);
        let place = found.or_else(first).unwrap_or_default();
        self.next = (place + 1) % count;
        place
    }
}

/// The most keys of a table.
pub(crate) const KEYS_MAX: usize = 65_536;

/// Bytes of an entry: its place in both tables, one of which may be half full.
pub(crate) const KEY_BYTES: usize = 64;

/// The most buckets that are looked at to find one that may be forgotten.
const LOOKS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use std::{num::NonZeroU64, time::Duration};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn two() -> Rate {
        Rate::per_second(NonZeroU64::new(2).expect("not zero"))
    }

    fn count(table: &RateTable) -> usize {
        let buckets = table.buckets();
        assert_eq!(buckets.places.len(), buckets.entries.len());
        buckets.entries.len()
    }

    #[test]
    fn each_key_has_its_own_bucket() {
        let table = RateTable::default();
        for key in ["a", "b"] {
            assert_eq!(table.due(&two(), key, Millis(0)), None);
            assert_eq!(table.take(&two(), key, Millis(0)), Ok(()));
            assert_eq!(table.take(&two(), key, Millis(0)), Ok(()));
            assert_eq!(table.due(&two(), key, Millis(0)), Some(Millis(500)));
            assert_eq!(table.take(&two(), key, Millis(0)), Err(Millis(500)));
        }
        assert_eq!(table.take(&two(), "a", Millis(500)), Ok(()));
        assert_eq!(count(&table), 2);
    }

    /// A reload to a faster rate lets a key go on at once, and one to a slower rate takes nothing that was in the
    /// bucket.
    #[test]
    fn a_bucket_lacks_no_more_than_its_rate_has_at_once() {
        let (table, slow) =
            (RateTable::default(), Rate::new(NonZeroU64::MIN, HOUR, NonZeroU64::new(2).expect("not zero")));
        (0..2).for_each(|_| assert_eq!(table.take(&slow, "a", Millis(0)), Ok(())));
        assert_eq!(table.due(&slow, "a", Millis(1)), Some(Millis(3_600_000)));
        assert_eq!(table.due(&two(), "a", Millis(1)), Some(Millis(501)));
        assert_eq!(table.due(&two(), "a", Millis(500)), Some(Millis(501)), "it fills meanwhile");
        assert_eq!(table.take(&two(), "a", Millis(500)), Err(Millis(501)));
        assert_eq!(table.take(&two(), "a", Millis(501)), Ok(()));
        assert_eq!(table.take(&slow, "a", Millis(502)), Ok(()), "one of the burst is left");
    }

    /// A table is looked at without its lock once all buckets are full again.
    #[test]
    fn full_buckets_owe_nothing() {
        let table = RateTable::default();
        assert!(table.is_untouched());
        (0..2).for_each(|_| assert_eq!(table.take(&two(), "a", Millis(0)), Ok(())));
        assert!(!table.is_untouched());
        assert_eq!(
            (table.due(&two(), "a", Millis(499)), table.due(&two(), "a", Millis(500))),
            (Some(Millis(500)), None)
        );
        let guard = table.buckets();
        assert_eq!(table.due(&two(), "a", Millis(1_000)), None);
        drop(guard);
    }

    /// A crowd of keys does not grow the table, and the keys that it displaces begin anew. A key whose bucket is full,
    /// or fuller, gives way first, so a crowd does not set free a key that has used up its rate.
    #[test]
    fn a_crowd_of_keys_takes_no_more_room() {
        let table = RateTable::new(50);
        let take = |key: u32, at| table.take(&two(), key, Millis(at));
        (0..2).for_each(|_| assert_eq!(take(7, 0), Ok(())));
        (100..149).for_each(|key| assert_eq!(take(key, 0), Ok(())));
        // All others are full again after half a second, and the first key is not.
        assert_eq!(take(200, 600), Ok(()));
        assert_eq!(count(&table), 50);
        assert_eq!(take(7, 600), Ok(()));
        assert_eq!(take(7, 600), Err(Millis(1_000)), "its bucket was not forgotten");
        (1_000..2_000).for_each(|key| assert_eq!(take(key, 600), Ok(())));
        assert_eq!(count(&table), 50);
        assert_eq!(take(7, 600), Err(Millis(1_000)), "keys with fuller buckets give way first");
        assert_eq!(take(100, 600), Ok(()), "a key that was displaced begins anew");
    }
}
