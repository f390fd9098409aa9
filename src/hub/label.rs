//! Labels: the notes about the parts of a backlog.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use super::{
    lag::Lag,
    memory::ALLOCATION,
    slow::SlowRules,
    tag::{PieceTags, Tag},
    topic_name::TopicName,
    waiting::WaitingTopics,
};

/// The note that a part of a backlog is messages of one topic, frames for the connection alone, or the notice of a lag.
#[derive(Debug, Clone)]
pub struct Label {
    /// The bytes that have not been sent.
    pub(super) bytes: usize,
    pub(super) messages: u32,
    /// The index in `tags` of the first message that has not been sent whole. For a notice, [`NOTICE`] or [`BEGUN`].
    pub(super) first: u32,
    pub(super) topic: Option<TopicName>,
    pub(super) tags: Option<Arc<PieceTags>>,
}

impl Label {
    /// Returns the topic of the messages, or of a notice; `None` for frames for the connection alone.
    #[must_use]
    pub fn topic(&self) -> Option<&TopicName> {
        self.topic.as_ref()
    }

    /// Returns how many bytes have not been sent.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns how many messages have not been sent whole. Without tags the ends of messages are unknown, so all
    /// messages of a piece that was sent in part count.
    #[must_use]
    pub fn messages(&self) -> u32 {
        self.messages
    }

    /// Returns the label of a notice about a topic. The notice has no bytes until it is encoded.
    pub(super) fn notice(topic: &TopicName) -> Self {
        Label { bytes: 0, messages: 0, first: NOTICE, topic: Some(topic.clone()), tags: None }
    }

    /// Returns whether the label is of a notice.
    #[must_use]
    pub fn is_notice(&self) -> bool {
        self.tags.is_none() && self.first >= BEGUN
    }

    /// Returns whether the label is of a notice that has not begun to be sent.
    pub(super) fn is_unsent_notice(&self) -> bool {
        self.tags.is_none() && self.first == NOTICE
    }

    /// Returns, for each message that has not been sent whole, the number of unsent bytes up to its end, and its tag. A
    /// label of a topic that asks for no tags has none.
    pub fn tags(&self) -> impl Iterator<Item = (usize, &Tag)> {
        let sent = self.sent();
        let messages = self.tags.iter().flat_map(|tags| tags.messages());
        messages.skip(self.first as usize).map(move |message| (message.end - sent, &message.tag))
    }

    /// Returns the memory that the label takes in addition to its place in the queue.
    pub(super) fn memory(&self) -> usize {
        // The name may outlive its topic. Names and tags that several labels share are charged to each.
        let name = self.topic.as_ref().map_or(0, |topic| NAME + topic.as_str().len());
        name + self.tags.as_ref().map_or(0, |tags| tags.memory())
    }

    /// Returns how many bytes of the tagged piece have been sent.
    pub(super) fn sent(&self) -> usize {
        let last = self.tags.as_ref().and_then(|tags| tags.messages().last());
        last.map_or(0, |last| last.end - self.bytes)
    }

    /// Marks `count` bytes as sent, fewer than the label has. Returns how many messages have ended with them; 0 without
    /// tags.
    fn advance(&mut self, count: usize) -> u32 {
        self.bytes -= count;
        let sent = self.sent();
        let Some(tags) = &self.tags else { return 0 };
        let unsent = &tags.messages()[self.first as usize..];
        let ended = unsent.partition_point(|message| message.end <= sent) as u32;
        self.first += ended;
        self.messages -= ended;
        ended
    }

    /// Returns whether the label can also stand for a further piece that has no tags: the label has none either, and
    /// its topic is the same.
    fn continues_with(&self, topic: Option<&TopicName>, messages: u32) -> bool {
        self.tags.is_none()
            && !self.is_notice()
            && self.topic() == topic
            && self.messages.checked_add(messages).is_some()
    }
}

/// Returns how many messages these labels count, by topic. Frames for the connection alone are no messages.
#[must_use]
pub fn messages_by_topic(labels: &[Label]) -> BTreeMap<&TopicName, u64> {
    let mut topics = BTreeMap::new();
    for label in labels {
        if let Some(topic) = label.topic().filter(|_| !label.is_notice()) {
            *topics.entry(topic).or_default() += u64::from(label.messages());
        }
    }
    topics
}

/// The labels of a backlog's unsent bytes, in order. Neighbouring pieces of one topic have one label, unless they have
/// tags.
#[derive(Debug, Default)]
pub(super) struct Labels {
    pub(super) labels: VecDeque<Label>,
    /// The messages of all labels.
    pub(super) messages: u64,
    /// The memory of all labels in addition to their places.
    pub(super) memory: usize,
    /// The topics of the labels with tags.
    pub(super) waiting: WaitingTopics,
    /// The lag whose notice has been sent in part.
    begun: Option<Lag>,
    /// The lags whose notices have been sent, and that have not been taken.
    told: Vec<Lag>,
}

impl Labels {
    /// Appends a label for so many bytes, which hold so many messages.
    pub(super) fn push(
        &mut self,
        (bytes, messages): (usize, u32),
        topic: Option<(&TopicName, SlowRules)>,
        tags: Option<Arc<PieceTags>>,
    ) {
        self.messages += u64::from(messages);
        if let Some((topic, slow)) = topic
            && tags.is_some()
        {
            self.waiting.add(topic, slow, bytes, messages);
        }
        let topic = topic.map(|(topic, _)| topic);
        if tags.is_none()
            && let Some(last) = self.labels.back_mut()
            && last.continues_with(topic, messages)
        {
            last.bytes += bytes;
            last.messages += messages;
            return;
        }
        let label = Label { bytes, messages, first: 0, topic: topic.cloned(), tags };
        self.memory += label.memory();
        if self.labels.len() == self.labels.capacity() {
            // Empty places count against the limit.
            self.labels.reserve_exact((self.labels.len() / 4).max(1));
        }
        self.labels.push_back(label);
    }

    /// Marks the next `count` bytes as sent. The pieces of the backlog that have not been sent whole hold
    /// `messages_left` messages, and `bytes_left` bytes are left to be sent.
    pub(super) fn advance(&mut self, mut count: usize, (messages_left, bytes_left): (u64, usize)) {
        while let Some(first) = self.labels.front_mut() {
            if count == 0 && first.bytes == 0 && bytes_left > 0 {
                // A notice without bytes is passed by what follows it.
                break;
            }
            if count < first.bytes {
                if first.is_unsent_notice() && count > 0 {
                    first.first = BEGUN;
                    self.begun = first.topic.as_ref().and_then(|topic| self.waiting.take_gap(topic));
                }
                let ended = first.advance(count);
                self.messages -= u64::from(ended);
                if let (Some(topic), Some(_)) = (&first.topic, &first.tags) {
                    self.waiting.subtract(topic, count, ended);
                }
                // All other labels, and all messages of a label with tags, stand in pieces that are left. So the
                // surplus stood in pieces that have gone, and the first label has counted it.
                let gone = self.messages.saturating_sub(messages_left);
                first.messages -= gone as u32;
                self.messages -= gone;
                break;
            }
            count -= first.bytes;
            self.messages -= u64::from(first.messages);
            self.memory -= first.memory();
            let Some(Label { bytes, messages, topic: Some(topic), tags, first }) = self.labels.pop_front() else {
                continue;
            };
            match (tags, first) {
                (Some(_), _) => self.waiting.subtract(&topic, bytes, messages),
                (None, NOTICE) => self.told.extend(self.waiting.take_gap(&topic)),
                (None, BEGUN) => self.told.extend(self.begun.take()),
                (None, _) => {}
            }
        }
        let places = self.labels.capacity();
        if self.labels.is_empty() || self.labels.len() < places / 4 {
            self.labels.shrink_to(2 * self.labels.len());
        }
    }

    /// Keeps the labels of the next `bytes` bytes, which are one piece with `messages` messages, and the notices that
    /// stand among them or have no bytes and stand right behind them. Returns the other labels of messages and of
    /// frames for the connection alone.
    pub(super) fn truncate(&mut self, mut bytes: usize, mut messages: u64) -> Vec<Label> {
        let mut kept = 0;
        while let Some(label) = self.labels.get(kept).filter(|label| label.bytes <= bytes) {
            bytes -= label.bytes;
            messages -= u64::from(label.messages);
            kept += 1;
        }
        let mut others = self.labels.split_off(kept);
        if bytes > 0
            && let Some(cut) = others.front_mut()
        {
            // A piece ends at the end of a message.
            let ended = cut.tags.as_ref().map(|_| cut.tags().take_while(|(end, _)| *end <= bytes).count());
            let messages = ended.unwrap_or(messages as usize) as u32;
            let own = cut.first as usize..(cut.first + messages) as usize;
            let tags = cut.tags.as_ref().map(|tags| tags.part(own));
            let first = if tags.is_some() { 0 } else { cut.first };
            self.labels.push_back(Label { bytes, messages, first, tags, topic: cut.topic.clone() });
            cut.bytes -= bytes;
            cut.messages -= messages;
            cut.first += if ended.is_some() { messages } else { 0 };
        }
        others.retain(|label| !label.is_notice());
        // The notices among the labels that stay are told.
        let mut before = std::mem::take(&mut self.waiting);
        for label in &self.labels {
            let Some(topic) = &label.topic else { continue };
            if label.is_unsent_notice() {
                self.waiting.move_gap(topic, &mut before);
            } else if let (Some(was), Some(_)) = (before.get(topic), &label.tags) {
                self.waiting.add(topic, was.slow, label.bytes, label.messages);
            }
        }
        self.labels.shrink_to_fit();
        self.messages = self.labels.iter().map(|label| u64::from(label.messages)).sum();
        self.memory = self.labels.iter().map(Label::memory).sum();
        others.into()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Label> {
        self.labels.iter()
    }

    /// Returns how many messages the labels count.
    pub(super) fn messages(&self) -> u64 {
        self.messages
    }

    /// Takes the lags whose notices have been sent.
    pub(super) fn take_told(&mut self) -> Vec<Lag> {
        std::mem::take(&mut self.told)
    }

    /// Returns the memory, in bytes, that the labels take and keep alive.
    pub(super) fn bytes(&self) -> usize {
        size_of::<Label>() * self.labels.capacity() + self.memory + self.waiting.memory()
    }
}

/// The field `first` of a notice that has not begun to be sent.
pub(super) const NOTICE: u32 = u32::MAX;

/// The field `first` of a notice that has been sent in part.
const BEGUN: u32 = u32::MAX - 1;

/// Bytes of the allocation of a name, in addition to its characters.
const NAME: usize = ALLOCATION + 2 * size_of::<usize>();

const _: () = assert!(size_of::<Label>() == 40, "a slow consumer of alternating topics has a label for each piece");

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the labels of pieces, each given by its topic, if it has one, and its number of messages.
    fn labels(pieces: &[(Option<&str>, u32)]) -> Labels {
        let mut labels = Labels::default();
        for &(name, messages) in pieces {
            let topic = name.map(|name| TopicName::new(name).unwrap());
            labels.push((10, messages), topic.as_ref().map(|topic| (topic, SlowRules::default())), None);
        }
        labels
    }

    #[test]
    fn messages_are_counted_by_topic() {
        let labels: Vec<Label> =
            labels(&[(None, 0), (Some("b"), 2), (Some("a"), 1), (Some("b"), 3), (None, 0)]).iter().cloned().collect();
        let (a, b) = (TopicName::new("a").unwrap(), TopicName::new("b").unwrap());
        assert_eq!(messages_by_topic(&labels), BTreeMap::from([(&a, 1), (&b, 5)]));
    }

    /// A label counts no more messages than its counter can hold.
    #[test]
    fn a_full_label_is_followed_by_another() {
        let labels = labels(&[(Some("a"), u32::MAX - 1), (Some("a"), 1), (Some("a"), 1)]);
        assert_eq!(labels.iter().map(Label::messages).collect::<Vec<_>>(), [u32::MAX, 1]);
        assert_eq!(labels.messages(), u64::from(u32::MAX) + 1);
    }
}
