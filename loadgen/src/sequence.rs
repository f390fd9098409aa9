//! Checks whether one subscriber saw every message of one publisher once and in order.

use std::ops::Range;

/// Counts of what went wrong with a publisher's messages at a subscriber.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Messages that were published and never seen.
    pub lost: u64,
    /// Messages that were seen again.
    pub duplicated: u64,
    /// Messages that were seen after a later one.
    pub reordered: u64,
    /// Messages that were seen, but never published.
    pub invented: u64,
}

impl Tally {
    /// Adds another subscriber's or publisher's counts.
    pub fn add(&mut self, other: Tally) {
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.invented += other.invented;
    }
}

/// Follows the sequence numbers of one publisher. A gap is provisional: a number that arrives late counts as reordered,
/// not as lost.
#[derive(Clone, Debug, Default)]
pub struct SequenceChecker {
    next: u64,
    /// The gaps below `next`, ascending, at most [`GAPS_MAX`].
    gaps: Vec<Range<u64>>,
    tally: Tally,
}

impl SequenceChecker {
    /// Takes the next sequence number that arrived.
    pub fn see(&mut self, sequence: u64) {
        if sequence == self.next {
            self.next += 1;
        } else if sequence > self.next {
            self.open_gap(self.next..sequence);
            self.next = sequence + 1;
        } else {
            self.see_late(sequence);
        }
    }

    /// Returns the final counts, after `published` messages were sent and no more will arrive.
    pub fn finish(&self, published: u64) -> Tally {
        let mut tally = self.tally;
        let open = |gap: &Range<u64>| gap.end.min(published).saturating_sub(gap.start);
        tally.lost += self.gaps.iter().map(open).sum::<u64>() + published.saturating_sub(self.next);
        tally.invented += self.next.saturating_sub(published);
        tally
    }

    fn open_gap(&mut self, gap: Range<u64>) {
        if self.gaps.len() == GAPS_MAX {
            let oldest = self.gaps.remove(0);
            self.tally.lost += oldest.end - oldest.start;
        }
        self.gaps.push(gap);
    }

    fn see_late(&mut self, sequence: u64) {
        let Some(index) = self.gaps.iter().position(|gap| gap.contains(&sequence)) else {
            self.tally.duplicated += 1;
            return;
        };
        self.tally.reordered += 1;
        let gap = self.gaps.remove(index);
        for rest in [sequence + 1..gap.end, gap.start..sequence] {
            if !rest.is_empty() {
                self.gaps.insert(index, rest);
            }
        }
    }
}

/// The most gaps that are remembered. Beyond this number the oldest gap counts as lost, and messages that arrive for it
/// count as duplicated.
pub const GAPS_MAX: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(seen: impl IntoIterator<Item = u64>, published: u64) -> Tally {
        let mut checker = SequenceChecker::default();
        seen.into_iter().for_each(|sequence| checker.see(sequence));
        checker.finish(published)
    }

    #[test]
    fn everything_once_in_order() {
        assert_eq!(check(0..1_000, 1_000), Tally::default());
    }

    #[test]
    fn loss_at_the_start_in_the_middle_and_at_the_end() {
        assert_eq!(check([2, 3, 6, 7], 10), Tally { lost: 6, ..Tally::default() });
        assert_eq!(check([], 10), Tally { lost: 10, ..Tally::default() });
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
}
