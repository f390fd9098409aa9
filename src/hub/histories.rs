//! The list of a shard's histories, and their sums.

use std::collections::VecDeque;

use super::topic_id::TopicId;

/// The histories of a shard.
#[derive(Debug, Default)]
pub(super) struct Histories {
    /// One entry for each history, roughly in the order of the last uses. The entry of a history that has ended stays
    /// until it is met.
    entries: VecDeque<Entry>,
    /// The number of uses of all histories.
    uses: u64,
    bytes: usize,
    messages: u64,
    evicted: u64,
    /// Topics whose history has ended, so that they may be unused now.
    pub(super) ended: Vec<TopicId>,
    /// The entry after the one whose age was looked at last.
    cursor: usize,
}

/// A history in the list.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) topic: TopicId,
    /// The number of the history.
    pub(super) number: u64,
    /// The last use that the entry knows of.
    pub(super) used: u64,
}

impl Histories {
    /// Returns the number of a use that begins now.
    pub(super) fn next_use(&mut self) -> u64 {
        self.uses += 1;
        self.uses
    }

    /// Adds the entry of a history that was used last.
    pub(super) fn add(&mut self, entry: Entry) {
        self.entries.push_back(entry);
    }

    /// Takes the entry of the history that was used first, as far as the entries know.
    pub(super) fn take_oldest(&mut self) -> Option<Entry> {
        self.entries.pop_front()
    }

    /// Puts an entry back that [`Histories::take_oldest`] has taken.
    pub(super) fn put_back(&mut self, entry: Entry) {
        self.entries.push_front(entry);
    }

    /// Returns the next entry whose age is to be looked at. All entries take turns.
    pub(super) fn next_to_trim(&mut self) -> Option<Entry> {
        if self.cursor >= self.entries.len() {
            self.cursor = 0;
        }
        let entry = self.entries.get(self.cursor).copied();
        self.cursor += 1;
        entry
    }

    /// Forgets the entry that [`Histories::next_to_trim`] has returned last.
    pub(super) fn forget_trimmed(&mut self) {
        self.cursor -= 1;
        self.entries.swap_remove_back(self.cursor);
    }

    /// Returns how many entries there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Notes the bytes and messages of a history before and after a change.
    pub(super) fn note_change(&mut self, before: (usize, u64), after: (usize, u64)) {
        self.bytes = self.bytes - before.0 + after.0;
        self.messages = self.messages - before.1 + after.1;
    }

    /// Notes messages that were forgotten because of the budget.
    pub(super) fn note_evicted(&mut self, messages: u64) {
        self.evicted += messages;
    }

    /// Returns the memory of all histories.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns how many messages all histories have, and how many have been forgotten because of the budget.
    pub(super) fn messages(&self) -> (u64, u64) {
        (self.messages, self.evicted)
    }
}
