//! Checks whether one subscriber saw every message of one stream once and in order.

use std::ops::Range;

/// Counts of what went wrong with a stream's messages at a subscriber.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Messages that were published and never seen, although a later one was.
    pub lost: u64,
    /// Messages that were published and not seen, where no later message was seen either.
    pub outstanding: u64,
    /// Messages that were seen again.
    pub duplicated: u64,
    /// Messages that were seen after a later one.
    pub reordered: u64,
    /// Messages that were seen, but never published.
    pub invented: u64,
}

impl Tally {
    /// Adds the counts of another subscriber or stream.
    pub fn add(&mut self, other: Tally) {
        self.lost = self.lost.saturating_add(other.lost);
        self.outstanding = self.outstanding.saturating_add(other.outstanding);
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.invented = self.invented.saturating_add(other.invented);
    }
}

/// Follows the sequence numbers of one stream. A gap is provisional: a number that arrives late counts as reordered,
/// not as lost. Without trouble a checker takes 24 bytes.
#[derive(Clone, Debug, Default)]
pub struct SequenceChecker {
    /// The first number that must be seen; earlier ones may be seen.
    start: u64,
    next: u64,
    trouble: Option<Box<Trouble>>,
}

#[derive(Clone, Debug, Default)]
struct Trouble {
    /// The gaps below `next`, ascending, at most [`GAPS_MAX`].
    gaps: Vec<Range<u64>>,
    tally: Tally,
}

impl SequenceChecker {
    /// Makes a checker for a subscriber that came when `start` messages were published.
    pub fn starting_at(start: u64) -> SequenceChecker {
        SequenceChecker { start, next: start, trouble: None }
    }

    /// Takes the next sequence number that arrived. Returns the change in the number of messages that are missing so
    /// far, although a later one was seen.
    pub fn see(&mut self, sequence: u64) -> i64 {
        if sequence == self.next {
            self.next += 1;
            0
        } else if sequence > self.next {
            let skipped = self.next..sequence;
            let missing = (sequence - self.next) as i64;
            self.open_gap(skipped);
            self.next = sequence + 1;
            missing
        } else if sequence >= self.start {
            self.see_late(sequence)
        } else {
            0
        }
    }

    /// Returns the number of messages up to the latest one that was seen, from the first that must be seen.
    pub fn reached(&self) -> u64 {
        self.next - self.start
    }

    /// Returns the number of messages that must be seen, of `published` ones.
    pub fn expected(&self, published: u64) -> u64 {
        published.saturating_sub(self.start)
    }

    /// Returns the number after the latest one that was seen.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Returns the final counts, after `published` messages were sent.
    pub fn finish(&self, published: u64) -> Tally {
        let mut tally = Tally::default();
        if let Some(Trouble { gaps, tally: so_far }) = self.trouble.as_deref() {
            tally = *so_far;
            tally.lost += gaps.iter().map(|gap| gap.end.min(published).saturating_sub(gap.start)).sum::<u64>();
        }
        tally.outstanding += published.saturating_sub(self.next);
        tally.invented += self.next.saturating_sub(published.max(self.start));
        tally
    }

    fn open_gap(&mut self, gap: Range<u64>) {
        let Trouble { gaps, tally } = &mut **self.trouble.get_or_insert_default();
        gaps.push(gap);
        bound(gaps, tally);
    }

    fn see_late(&mut self, sequence: u64) -> i64 {
        let Trouble { gaps, tally } = &mut **self.trouble.get_or_insert_default();
        let Some(index) = gaps.iter().position(|gap| gap.contains(&sequence)) else {
            tally.duplicated += 1;
            return 0;
        };
        tally.reordered += 1;
        let gap = gaps.remove(index);
        for rest in [sequence + 1..gap.end, gap.start..sequence] {
            if !rest.is_empty() {
                gaps.insert(index, rest);
            }
        }
        bound(gaps, tally);
        -1
    }
}

/// Gives up the oldest gap if there are too many.
fn bound(gaps: &mut Vec<Range<u64>>, tally: &mut Tally) {
    if gaps.len() > GAPS_MAX {
        let oldest = gaps.remove(0);
        tally.lost = tally.lost.saturating_add(oldest.end - oldest.start);
    }
}

/// The largest number of gaps that are remembered. Beyond this number the oldest gap counts as lost, and messages that
/// arrive for it count as duplicated.
pub const GAPS_MAX: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(seen: impl IntoIterator<Item = u64>, published: u64) -> Tally {
        let mut checker = SequenceChecker::default();
        let missing: i64 = seen.into_iter().map(|sequence| checker.see(sequence)).sum();
        let tally = checker.finish(published);
        assert!(tally.invented > 0 || missing as u64 == tally.lost, "{missing} missing, {tally:?}");
        tally
    }

    #[test]
    fn everything_once_in_order() {
        assert_eq!(check(0..1_000, 1_000), Tally::default());
    }

    #[test]
    fn loss_at_the_start_in_the_middle_and_at_the_end() {
        assert_eq!(check([2, 3, 6, 7], 10), Tally { lost: 4, outstanding: 2, ..Tally::default() });
        assert_eq!(check([], 10), Tally { outstanding: 10, ..Tally::default() });
    }

    #[test]
    fn duplicates_next_to_each_other_and_far_apart() {
        assert_eq!(check([0, 0, 1, 2, 1, 0], 3), Tally { duplicated: 3, ..Tally::default() });
    }

    #[test]
    fn late_is_reordered_not_lost() {
        assert_eq!(check([0, 5, 3, 1, 4, 2], 6), Tally { reordered: 4, ..Tally::default() });
        assert_eq!(check([0, 5, 3, 3], 6), Tally { lost: 3, reordered: 1, duplicated: 1, ..Tally::default() });
    }

    #[test]
    fn beyond_what_was_published_is_invented() {
        assert_eq!(check(0..5, 3), Tally { invented: 2, ..Tally::default() });
    }

    #[test]
    fn gaps_are_bounded_and_still_counted() {
        let every_second = (1..10_000).step_by(2);
        assert_eq!(check(every_second, 10_000), Tally { lost: 5_000, ..Tally::default() });
    }

    #[test]
    fn messages_that_come_late_into_one_gap_make_no_more_gaps_than_are_remembered() {
        let mut checker = SequenceChecker::default();
        checker.see(1 << 39);
        (1..20_000).step_by(2).for_each(|sequence| assert!(checker.see(sequence) <= 0));
        assert!(checker.trouble.as_ref().is_some_and(|trouble| trouble.gaps.len() <= GAPS_MAX));
        assert_eq!(check([4, 1, 3, 0, 2], 5), Tally { reordered: 4, ..Tally::default() });
    }

    #[test]
    fn a_late_subscriber_owes_nothing_from_before() {
        let mut checker = SequenceChecker::starting_at(10);
        assert_eq!([9, 10, 11, 13].map(|sequence| checker.see(sequence)), [0, 0, 0, 1]);
        assert_eq!((checker.next(), checker.reached()), (14, 4));
        assert_eq!(checker.finish(15), Tally { lost: 1, outstanding: 1, ..Tally::default() });
        assert_eq!(SequenceChecker::starting_at(10).finish(10), Tally::default());
    }

    #[test]
    fn a_checker_without_trouble_is_small() {
        assert!(size_of::<SequenceChecker>() <= 24);
    }
}
