//! The topics that the judge has permitted to a connection lately.

use crate::{auth::TopicRight, hub::TopicName};

/// The topics that the judge has permitted to a connection lately, so that a surface which is asked about the same
/// topic again and again need not ask the judge each time. Refusals are not kept.
#[derive(Debug, Default)]
pub(crate) struct PermittedTopics {
    /// The number of the table by which the judge has decided.
    table: u32,
    entries: Vec<(TopicRight, TopicName)>,
    /// The entry that the next one replaces, once there are [`PERMITTED_MAX`].
    next: usize,
}

impl PermittedTopics {
    /// Returns the bytes of memory of the decisions, roughly.
    pub(crate) fn bytes(&self) -> usize {
        let of_entry = |(_, name): &(TopicRight, TopicName)| size_of::<(TopicRight, TopicName)>() + name.as_str().len();
        size_of::<PermittedTopics>() + self.entries.iter().map(of_entry).sum::<usize>()
    }

    /// Returns whether the judge has permitted this use of a topic, by the table of this number.
    pub(crate) fn has(&self, table: u32, right: TopicRight, topic: &TopicName) -> bool {
        self.table == table && self.entries.iter().any(|(own, name)| *own == right && name == topic)
    }

    /// Notes that the judge has permitted this use of a topic. Decisions by an earlier table are forgotten.
    pub(crate) fn add(&mut self, table: u32, right: TopicRight, topic: &TopicName) {
        if self.table != table {
            *self = PermittedTopics { table, ..PermittedTopics::default() };
        }
        let entry = (right, topic.clone());
        match self.entries.len() {
            ..PERMITTED_MAX => self.entries.push(entry),
            _ => {
                self.entries[self.next] = entry;
                self.next = (self.next + 1) % PERMITTED_MAX;
            }
        }
    }
}

/// The most decisions that are kept for a connection.
pub(crate) const PERMITTED_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: usize) -> TopicName {
        TopicName::new(&number.to_string()).unwrap()
    }

    #[test]
    fn few_decisions_are_kept() {
        let mut permitted = PermittedTopics::default();
        for number in 0..=PERMITTED_MAX {
            permitted.add(1, TopicRight::Publish, &name(number));
            assert!(permitted.has(1, TopicRight::Publish, &name(number)));
            assert!(!permitted.has(1, TopicRight::Subscribe, &name(number)));
        }
        let kept = (0..=PERMITTED_MAX).filter(|number| permitted.has(1, TopicRight::Publish, &name(*number)));
        assert_eq!(kept.collect::<Vec<_>>(), (1..=PERMITTED_MAX).collect::<Vec<_>>());
    }

    #[test]
    fn decisions_by_an_earlier_table_are_forgotten() {
        let mut permitted = PermittedTopics::default();
        permitted.add(1, TopicRight::Publish, &name(1));
        assert!(!permitted.has(2, TopicRight::Publish, &name(1)));
        permitted.add(2, TopicRight::Publish, &name(2));
        assert!(permitted.has(2, TopicRight::Publish, &name(2)));
        assert!(!permitted.has(1, TopicRight::Publish, &name(1)) && !permitted.has(2, TopicRight::Publish, &name(1)));
    }
}
