//! The list of a shard's histories, and their sums.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, binary_heap::PeekMut},
};

use super::topic_id::TopicId;
use crate::proto::Millis;

/// The histories of a shard.
#[derive(Debug, Default)]
pub(super) struct Histories {
    /// One entry for each history, the one with the earliest known use first. An entry may know an earlier use than the
    /// last one. The entry of a history that has ended stays until it is met.
    entries: BinaryHeap<Reverse<Entry>>,
    /// How many entries belong to histories that have ended.
    over: usize,
    /// The number of uses of all histories.
    uses: u64,
    bytes: usize,
    messages: u64,
    evicted: u64,
    /// Topics whose history has ended, so that they may be unused now.
    pub(super) ended: Vec<TopicId>,
    /// The entry after the one whose age was looked at last.
    cursor: usize,
    /// When the ages are to be looked at again, if a message has an age at which it leaves.
    pub(super) next_look: Option<Millis>,
}

/// A history in the list. Entries are compared by their uses first, of which no two have the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    /// The last use that the entry knows of.
    pub(super) used: u64,
    /// The number of the history.
    pub(super) number: u64,
    pub(super) topic: TopicId,
}

impl Histories {
    /// Returns the number of a use that begins now.
    pub(super) fn next_use(&mut self) -> u64 {
        self.uses += 1;
        self.uses
    }

    /// Adds the entry of a history.
    pub(super) fn add(&mut self, entry: Entry) {
        self.entries.push(Reverse(entry));
    }

    /// Returns the entry of the history whose last use is the earliest. `last_use` returns the last use of the history
    /// of an entry, or `None` if it has ended.
    pub(super) fn oldest(&mut self, mut last_use: impl FnMut(Entry) -> Option<u64>) -> Option<Entry> {
        while let Some(mut first) = self.entries.peek_mut() {
            match last_use(first.0) {
                None => {
                    PeekMut::pop(first);
                    self.over -= 1;
                }
                Some(used) if used == first.0.used => return Some(first.0),
                Some(used) => first.0.used = used,
            }
        }
        None
    }

    /// Returns the next entry whose age is to be looked at. All entries take turns.
    pub(super) fn next_to_trim(&mut self) -> Option<Entry> {
        if self.cursor >= self.entries.len() {
            self.cursor = 0;
        }
        let entry = self.entries.as_slice().get(self.cursor).map(|entry| entry.0);
        self.cursor += 1;
        entry
    }

    /// Notes that a message leaves its history at this time, unless it has left before.
    pub(super) fn note_expiry(&mut self, at: Option<Millis>) {
        self.next_look = self.next_look.into_iter().chain(at).min();
    }

    /// Notes that a history has ended whose entry is in the list.
    pub(super) fn note_end(&mut self, topic: TopicId) {
        self.over += 1;
        self.ended.push(topic);
    }

    /// Forgets the entries of histories that have ended, if they are half of all entries.
    pub(super) fn forget_entries(&mut self, mut is_over: impl FnMut(Entry) -> bool) {
        if self.over > 0 && self.over * 2 >= self.entries.len() {
            self.entries.retain(|entry| !is_over(entry.0));
            self.entries.shrink_to(2 * self.entries.len());
            self.over = 0;
        }
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

    /// Returns what the histories weigh in the budget: their memory, and that of the topics that they keep.
    pub(super) fn weight(&self) -> usize {
        self.bytes + (self.entries.len() - self.over) * TOPIC
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

/// Bytes of a topic that a history keeps, roughly: the topic, its name, and its places in tables.
const TOPIC: usize = 1_024;
