//! Tags: the places and times of messages, for topics that ask for them.

use std::{ops::Range, sync::Arc};

use super::{memory::ALLOCATION, publication::Place};
use crate::proto::Millis;

/// Whether the messages of a run are tagged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tags {
    /// No message has a tag, which costs nothing.
    #[default]
    Off,
    /// Each message has a tag.
    On,
    /// Each message has a tag, and a run keeps only the newest message of each key.
    Newest,
}

/// The place of a message in the order of its topic, its time and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    /// The place; `None` for a message without a place, such as a message for the publisher's shard only.
    pub place: Option<Place>,
    /// The time at which the server has taken the message.
    pub time: Millis,
    /// The key, if the topic's policy keeps the newest message of each key.
    pub key: Option<Arc<str>>,
}

/// A tag, and the end of its message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaggedMessage {
    /// How many bytes of the piece come before the end of the message.
    pub end: usize,
    /// The message's tag.
    pub tag: Tag,
}

/// The tags of the messages of one piece: one for each message, in order. All pieces with the same messages share one
/// `PieceTags`.
#[derive(Debug, PartialEq, Eq)]
pub struct PieceTags {
    messages: Box<[TaggedMessage]>,
    /// The memory, in bytes, that the tags and their keys take.
    memory: usize,
}

impl PieceTags {
    /// Returns the tags of a piece with these messages.
    #[must_use]
    pub fn new(messages: Vec<TaggedMessage>) -> Arc<Self> {
        let memory = SHARED_TAGS + messages.iter().map(TaggedMessage::memory).sum::<usize>();
        Arc::new(PieceTags { messages: messages.into(), memory })
    }

    /// Returns the tags of the messages.
    #[must_use]
    pub fn messages(&self) -> &[TaggedMessage] {
        &self.messages
    }

    /// Returns the tags of a part of the messages, for a piece with the bytes of that part alone. A part with all
    /// messages shares the tags.
    pub(super) fn part(self: &Arc<Self>, messages: Range<usize>) -> Arc<Self> {
        if messages == (0..self.messages.len()) {
            return Arc::clone(self);
        }
        let begin = self.begin(messages.start);
        let part = self.messages[messages].iter();
        PieceTags::new(part.map(|message| TaggedMessage { end: message.end - begin, ..message.clone() }).collect())
    }

    /// Returns tags that have those of a part of the messages, and the index of the part's first message in them. The
    /// tags are shared, unless more than half of them would be of other messages, which nobody needs any more.
    pub(super) fn kept(self: &Arc<Self>, messages: Range<usize>) -> (Arc<Self>, usize) {
        if 2 * messages.len() < self.messages.len() {
            return (self.part(messages), 0);
        }
        (Arc::clone(self), messages.start)
    }

    /// Returns the tags of the parts that are left of the messages, for a piece with the bytes of these parts alone.
    pub(super) fn left(self: &Arc<Self>, parts: &[Range<usize>]) -> Arc<Self> {
        let (mut all, mut end) = (Vec::new(), 0);
        for index in parts.iter().cloned().flatten() {
            end += self.messages[index].end - self.begin(index);
            all.push(TaggedMessage { end, ..self.messages[index].clone() });
        }
        PieceTags::new(all)
    }

    /// Returns how many bytes of the piece come before a message.
    pub(super) fn begin(&self, index: usize) -> usize {
        index.checked_sub(1).map_or(0, |before| self.messages[before].end)
    }

    /// Returns the tags of a piece that is made of several pieces, each given by its length in bytes and its tags;
    /// `None` if a piece has no tags.
    pub(super) fn joined<'a>(parts: impl IntoIterator<Item = (usize, Option<&'a PieceTags>)>) -> Option<Arc<Self>> {
        let (mut all, mut begin) = (Vec::new(), 0);
        for (length, tags) in parts {
            let moved = |message: &TaggedMessage| TaggedMessage { end: begin + message.end, ..message.clone() };
            all.extend(tags?.messages.iter().map(moved));
            begin += length;
        }
        Some(PieceTags::new(all))
    }

    /// Returns the memory that the tags take.
    pub(super) fn memory(&self) -> usize {
        self.memory
    }
}

impl TaggedMessage {
    /// Returns the memory that the tag takes, its key included.
    pub(super) fn memory(&self) -> usize {
        size_of::<TaggedMessage>() + self.tag.key.as_ref().map_or(0, |key| KEY + key.len())
    }
}

/// Bytes of the two allocations of a piece's tags, in addition to the tags: counters, address, length and memory.
pub(super) const SHARED_TAGS: usize = 2 * ALLOCATION + 5 * size_of::<usize>();

/// Bytes of the allocation of a key, in addition to its characters: two counters.
const KEY: usize = ALLOCATION + 2 * size_of::<usize>();

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(ends: &[usize]) -> Arc<PieceTags> {
        let tag = |end: usize| Tag { place: None, time: Millis(end as u64), key: None };
        PieceTags::new(ends.iter().map(|&end| TaggedMessage { end, tag: tag(end) }).collect())
    }

    fn ends(tags: &PieceTags) -> Vec<(usize, u64)> {
        tags.messages().iter().map(|message| (message.end, message.tag.time.0)).collect()
    }

    #[test]
    fn a_part_counts_from_its_own_beginning() {
        let tags = tags(&[3, 7, 8, 20]);
        assert_eq!(ends(&tags.part(0..2)), [(3, 3), (7, 7)]);
        assert_eq!(ends(&tags.part(2..4)), [(1, 8), (13, 20)]);
        assert_eq!(ends(&tags.part(1..1)), []);
        assert!(Arc::ptr_eq(&tags.part(0..4), &tags), "the whole is shared");
    }

    #[test]
    fn a_joined_piece_has_the_tags_of_all() {
        let (first, second) = (tags(&[3, 7]), tags(&[2]));
        let joined = PieceTags::joined([(7, Some(&*first)), (2, Some(&*second)), (7, Some(&*first))]).unwrap();
        assert_eq!(ends(&joined), [(3, 3), (7, 7), (9, 2), (12, 3), (16, 7)]);
        assert_eq!(PieceTags::joined([(7, Some(&*first)), (5, None)]), None);
    }
}
