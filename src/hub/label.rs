//! Labels: the notes about the parts of a backlog.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    ops::Range,
    sync::Arc,
};

use super::{
    lag::Lag,
    memory::ALLOCATION,
    slow::SlowRules,
    tag::{PieceTags, SHARED_TAGS, Tag, TaggedMessage},
    topic_name::TopicName,
    waiting::{Amount, WaitingTopics},
};
use crate::proto::Millis;

/// The note that a part of a backlog is messages of one topic, frames for the connection alone, or the notice of a lag.
#[derive(Debug, Clone)]
pub struct Label {
    /// The bytes that have not been sent.
    pub(super) bytes: usize,
    pub(super) messages: u32,
    /// The index in `tags` of the first message that has not been sent whole. The label's other messages follow it, and
    /// the tags may be of messages that are gone, too. For a notice, [`NOTICE`] or [`BEGUN`]; for the end of a
    /// subscription, [`END`].
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

    /// Returns the label of the end of a subscription, which has no bytes.
    fn end(topic: &TopicName) -> Self {
        Label { first: END, ..Label::notice(topic) }
    }

    /// Returns whether the label is of the end of a subscription: the topic's messages behind the label are of another
    /// one.
    pub(super) fn is_end(&self) -> bool {
        self.tags.is_none() && self.first == END
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
        self.tagged().iter().map(move |message| (message.end - sent, &message.tag))
    }

    /// Returns the indices in the tags of the messages that have not been sent whole.
    pub(super) fn range(&self) -> Range<usize> {
        self.first as usize..(self.first + self.messages) as usize
    }

    /// Returns the messages that have not been sent whole; none of a topic that asks for no tags.
    pub(super) fn tagged(&self) -> &[TaggedMessage] {
        self.tags.as_ref().map_or(&[], |tags| &tags.messages()[self.range()])
    }

    /// Returns the time of the first message of which no byte has been sent.
    pub(super) fn oldest(&self) -> Option<Millis> {
        let begun = usize::from(self.sent() > self.tags.as_ref()?.begin(self.first as usize));
        self.tagged().get(begun).map(|message| message.tag.time)
    }

    /// Returns the memory that the label takes in addition to its place in the queue.
    pub(super) fn memory(&self) -> usize {
        // The name may outlive its topic. Names and tags that several labels share are charged to each.
        self.name_memory() + self.tags.as_ref().map_or(0, |tags| tags.memory())
    }

    /// Returns how much the label adds to what waits of its topic. The memory is that of the label and of the tags that
    /// it needs.
    pub(super) fn amount(&self) -> Amount {
        let tags = self.tagged().iter().map(TaggedMessage::memory).sum::<usize>();
        Amount { bytes: self.bytes, messages: u64::from(self.messages), memory: self.own_memory() + tags }
    }

    /// Returns the memory of a label with tags, in addition to the tags of its messages.
    pub(super) fn own_memory(&self) -> usize {
        size_of::<Label>() + self.name_memory() + SHARED_TAGS
    }

    fn name_memory(&self) -> usize {
        self.topic.as_ref().map_or(0, |topic| NAME + topic.as_str().len())
    }

    /// Returns how many of the bytes that the tags count have been sent or are gone.
    pub(super) fn sent(&self) -> usize {
        let last = self.tagged().last();
        last.map_or(0, |last| last.end - self.bytes)
    }

    /// Marks `count` bytes as sent, fewer than the label has. Returns what has gone with them. Without tags no message
    /// is known to have ended.
    fn advance(&mut self, count: usize) -> Amount {
        self.bytes -= count;
        let sent = self.sent();
        let ended = self.tagged().partition_point(|message| message.end <= sent);
        let memory = self.tagged()[..ended].iter().map(TaggedMessage::memory).sum();
        self.first += ended as u32;
        self.messages -= ended as u32;
        Amount { bytes: count, messages: ended as u64, memory }
    }

    /// Returns whether the label can also stand for a further piece that has no tags: the label has none either, and
    /// its topic is the same.
    fn continues_with(&self, topic: Option<&TopicName>, messages: u32) -> bool {
        self.tags.is_none()
            && !self.is_notice()
            && !self.is_end()
            && self.topic() == topic
            && self.messages.checked_add(messages).is_some()
    }
}

/// Returns how many messages these labels count, by topic. Frames for the connection alone are no messages.
#[must_use]
pub fn messages_by_topic(labels: &[Label]) -> BTreeMap<&TopicName, u64> {
    let mut topics = BTreeMap::new();
    for label in labels {
        if let Some(topic) = label.topic().filter(|_| !label.is_notice() && !label.is_end()) {
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
        let slow = topic.map(|(_, slow)| slow).unwrap_or_default();
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
        if let Some(topic) = &label.topic {
            self.waiting.add(topic, slow, label.tagged(), label.amount());
        }
        self.append(label);
    }

    /// Notes that the subscriber has left a topic. The messages of the topic that come later are of another
    /// subscription: they are told of apart from the earlier ones.
    pub(super) fn end(&mut self, topic: &TopicName) {
        if self.waiting.end(topic) {
            self.append(Label::end(topic));
        }
    }

    /// Appends the notice of a lag, whose frame has so many bytes.
    pub(super) fn push_notice(&mut self, bytes: usize, lag: Lag, slow: SlowRules) {
        self.append(Label { bytes, ..Label::notice(&lag.topic) });
        self.waiting.add_gap(lag, slow);
    }

    /// Notes that a subscriber, which gets no notices, may be said to be told of a lag.
    pub(super) fn tell(&mut self, lag: Lag) {
        self.told.push(lag);
    }

    fn append(&mut self, label: Label) {
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
                // A label without bytes is passed by what follows it.
                break;
            }
            if count < first.bytes {
                if first.is_unsent_notice() && count > 0 {
                    first.first = BEGUN;
                    self.begun = first.topic.as_ref().and_then(|topic| self.waiting.take_gap(topic));
                }
                let gone = first.advance(count);
                self.messages -= gone.messages;
                if let (Some(topic), Some(_)) = (&first.topic, &first.tags) {
                    self.waiting.subtract(topic, gone);
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
            let amount = first.amount();
            let Some(Label { topic: Some(topic), tags, first, .. }) = self.labels.pop_front() else { continue };
            match (tags, first) {
                (Some(_), _) => self.waiting.subtract(&topic, amount),
                (None, NOTICE) => self.told.extend(self.waiting.take_gap(&topic)),
                (None, BEGUN) => self.told.extend(self.begun.take()),
                (None, END) => self.waiting.pass_end(&topic),
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
            let kept = cut.tags.as_ref().map(|tags| tags.kept(own));
            let first = kept.as_ref().map_or(cut.first, |(_, first)| *first as u32);
            let tags = kept.map(|(tags, _)| tags);
            self.labels.push_back(Label { bytes, messages, first, tags, topic: cut.topic.clone() });
            cut.bytes -= bytes;
            cut.messages -= messages;
            cut.first += if ended.is_some() { messages } else { 0 };
        }
        others.retain(|label| !label.is_notice() && !label.is_end());
        // Nothing more is dropped, so where subscriptions end does not matter any more.
        self.labels.retain(|label| !label.is_end());
        // The notices among the labels that stay are told.
        let mut before = std::mem::take(&mut self.waiting);
        for label in &self.labels {
            let Some(topic) = &label.topic else { continue };
            if label.is_unsent_notice() {
                self.waiting.move_gap(topic, &mut before);
            } else if let Some(was) = before.get(topic) {
                self.waiting.add(topic, was.slow, label.tagged(), label.amount());
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

    /// Returns the names of the topics that are over their limits now, or whose policies have something to do.
    pub(super) fn over(&mut self, now: Millis) -> Vec<TopicName> {
        if !self.waiting.is_over && !self.waiting.is_due(now) {
            return Vec::new();
        }
        self.find_oldest();
        self.waiting.is_over = false;
        self.waiting.names(|waiting| waiting.is_over() || waiting.is_due(now))
    }

    /// Returns whether the first message of a topic has waited for too long.
    pub(super) fn is_overdue(&mut self, topic: &TopicName, now: Millis) -> bool {
        self.find_oldest();
        self.waiting.get(topic).is_some_and(|waiting| waiting.is_overdue(now))
    }

    /// Looks for the first message, of which no byte has been sent, of each topic with an age of which another message
    /// was the first.
    pub(super) fn find_oldest(&mut self) {
        let mut unknown: HashSet<TopicName> = self.waiting.forget_gone().into_iter().collect();
        for label in &self.labels {
            if unknown.is_empty() {
                break;
            }
            if let Some(topic) = label.topic.as_ref().filter(|topic| unknown.contains(*topic))
                && let Some(oldest) = label.oldest()
            {
                self.waiting.note_oldest(topic, oldest);
                unknown.remove(topic);
            }
        }
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

/// The field `first` of the end of a subscription.
const END: u32 = u32::MAX - 2;

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
