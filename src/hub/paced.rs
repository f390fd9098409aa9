//! Paced audiences: they have a run, and wait for the end of their topic's interval between two deliveries.

use std::collections::BTreeSet;

use super::audience::AudienceId;
use crate::proto::Millis;

/// The audiences that have a run and no walk, and whose next walk is not due yet, by the times at which it is due.
#[derive(Debug, Default)]
pub(super) struct Paced {
    waiting: BTreeSet<(Millis, AudienceId)>,
    /// What these audiences weigh, as far as it has been added up, and by how much all runs had grown at that time.
    weighed: usize,
    grown: usize,
}

impl Paced {
    /// Lets an audience of this weight wait until this time.
    pub(super) fn insert(&mut self, until: Millis, id: AudienceId, weight: usize) {
        assert!(self.waiting.insert((until, id)), "an audience waits once");
        self.weighed += weight;
    }

    /// Returns what the audiences weigh at most, if all runs have grown by `grown` until now.
    pub(super) fn weighs_at_most(&self, grown: usize) -> usize {
        self.weighed.saturating_add(grown.wrapping_sub(self.grown))
    }

    /// Notes what the audiences weigh, and by how much all runs have grown until now.
    pub(super) fn note_weight(&mut self, weight: usize, grown: usize) {
        (self.weighed, self.grown) = (weight, grown);
    }

    /// Returns whether no audience waits.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Returns the first time at which a walk is due.
    pub(super) fn next(&self) -> Option<Millis> {
        self.waiting.first().map(|(until, _)| *until)
    }

    /// Takes the audience whose walk is due first, if the walk is due by now.
    pub(super) fn take_due(&mut self, now: Millis) -> Option<AudienceId> {
        self.next().filter(|&until| until <= now)?;
        self.take_first()
    }

    /// Takes the audience whose walk is due first.
    pub(super) fn take_first(&mut self) -> Option<AudienceId> {
        self.waiting.pop_first().map(|(_, id)| id)
    }

    /// Returns the audiences that wait.
    pub(super) fn iter(&self) -> impl Iterator<Item = AudienceId> {
        self.waiting.iter().map(|(_, id)| *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::{format::Format, topic_id::TopicId};

    #[test]
    fn the_audience_that_is_due_first_comes_first() {
        let id = |topic| AudienceId { topic: TopicId(topic), format: Format::RAW };
        let mut paced = Paced::default();
        assert_eq!((paced.next(), paced.take_due(Millis(9))), (None, None));
        for (until, topic) in [(30, 1), (10, 2), (20, 3), (10, 4)] {
            paced.insert(Millis(until), id(topic), 100);
        }
        assert_eq!((paced.next(), paced.take_due(Millis(9))), (Some(Millis(10)), None));
        assert_eq!([paced.take_due(Millis(10)), paced.take_due(Millis(10))], [Some(id(2)), Some(id(4))]);
        assert_eq!((paced.take_due(Millis(10)), paced.take_first()), (None, Some(id(3))));
        assert_eq!(paced.iter().collect::<Vec<_>>(), [id(1)]);
        assert_eq!((paced.weighs_at_most(0), paced.weighs_at_most(50)), (400, 450));
        paced.note_weight(120, 50);
        assert_eq!((paced.weighs_at_most(50), paced.weighs_at_most(80)), (120, 150));
    }
}
