//! Cuts: whole messages are taken out of a backlog's labels, and lags take their places.
//!
//! A message of which a byte has been sent is never cut. The notice of a lag stands where the first message of the lag
//! was. A message that is dropped later is added to a lag of the same topic, subscription and epoch that has not been
//! told yet. So notices that wait are merged.

use std::{
    collections::{HashSet, VecDeque},
    hash::{BuildHasher, RandomState},
    mem,
    ops::Range,
    sync::Arc,
};

use super::{
    label::{Label, Labels},
    publication::Place,
    slow::Overflow,
    tag::{PieceTags, Tag},
    topic_name::TopicName,
    waiting::{Gap, Waiting},
};

/// A part of a backlog's unsent bytes that is taken out: whole messages of a label, or a notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    /// The unsent bytes before the part.
    pub(super) at: usize,
    pub(super) bytes: usize,
    pub(super) messages: u32,
}

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Drop,
    Keep,
    /// The message is kept, and no other is looked at.
    Stop,
}

/// A message that may be dropped.
pub(super) struct Judged<'a> {
    /// All that waits of the message's topic, the message included.
    pub(super) waiting: &'a Waiting,
    pub(super) tag: &'a Tag,
    /// How many labels the pass has come by.
    pub(super) passed: usize,
}

/// Says what becomes of a message.
pub(super) type Judge<'a> = &'a mut dyn FnMut(Judged<'_>) -> Verdict;

impl Labels {
    /// Cuts the messages of a topic that `judge` drops, the oldest first. Returns the cuts in their order.
    pub(super) fn cut_oldest(&mut self, topic: &TopicName, judge: Judge<'_>) -> Vec<Cut> {
        let Some(waiting) = self.waiting.take(topic) else { return Vec::new() };
        let rest = mem::take(&mut self.labels);
        let mut pass = Pass {
            topic,
            subscription: waiting.first_subscription(),
            waiting,
            front: Vec::new(),
            cuts: Vec::new(),
            cuts_before: 0,
            at: 0,
            notices: 0,
            moved: None,
            freed: 0,
            taken: 0,
        };
        self.labels = pass.run(rest, judge);
        let Pass { mut waiting, cuts, freed, taken, .. } = pass;
        waiting.note_gone();
        self.memory = self.memory + taken - freed;
        self.finish(topic, waiting, &cuts);
        cuts
    }

    /// Cuts the messages of a topic that `judge` drops, the newest first, until it keeps one. `bytes` is the length of
    /// the backlog. Returns the cuts in their order.
    pub(super) fn cut_newest(&mut self, topic: &TopicName, bytes: usize, judge: Judge<'_>) -> Vec<Cut> {
        self.cut_back(topic, bytes, judge).0
    }

    /// As [`Labels::cut_newest`]. Returns the place of the first message that is cut, too. Messages that are to be read
    /// from a history make no lag, and those of earlier subscriptions stay.
    pub(super) fn cut_back(&mut self, topic: &TopicName, bytes: usize, judge: Judge<'_>) -> (Vec<Cut>, Option<Place>) {
        let Some(waiting) = self.waiting.take(topic) else { return (Vec::new(), None) };
        let subscription = waiting.last_subscription();
        let (back, places, first) = (Vec::new(), Vec::new(), None);
        let mut pass =
            BackwardPass { topic, waiting, subscription, back, places, placed: subscription, notices: 0, first };
        let mut cuts = Vec::new();
        let (mut at, mut is_done) = (bytes, false);
        while !is_done && let Some(label) = self.labels.pop_back() {
            at -= label.bytes;
            let is_own = label.topic() == Some(topic);
            pass.notices += usize::from(is_own && label.is_unsent_notice());
            pass.subscription -= u64::from(is_own && label.is_end());
            let Some(tags) = label.tags.clone().filter(|_| is_own) else {
                pass.back.push(label);
                continue;
            };
            let Range { start: first, end } = label.range();
            let left = pass.drop_messages(&label, &tags, judge);
            is_done = left > first;
            if left == end {
                pass.back.push(label);
                continue;
            }
            let bytes_left = tags.messages()[first..left].last().map_or(0, |last| last.end - label.sent());
            cuts.push(Cut { at: at + bytes_left, bytes: label.bytes - bytes_left, messages: (end - left) as u32 });
            // A new notice stands before the dropped messages of its own subscription, not before earlier ones.
            if let Some(place) = pass.places.last_mut().filter(|_| pass.placed == pass.subscription) {
                *place = pass.back.len();
            }
            self.memory -= label.memory();
            if left > first {
                let label = Label { bytes: bytes_left, ..kept(&label, &tags, first..left) };
                self.memory += label.memory();
                pass.back.push(label);
            } else {
                pass.waiting.amount.memory -= label.own_memory();
            }
        }
        let BackwardPass { mut waiting, mut back, places, first, .. } = pass;
        // No message that came later than the first that is kept from the back is left.
        if let Some(time) = waiting.too_late() {
            waiting.newest = waiting.newest.min(time);
        }
        waiting.note_gone();
        for index in places.into_iter().rev() {
            let notice = Label::notice(topic);
            self.memory += notice.memory();
            back.insert(index, notice);
        }
        self.labels.extend(back.into_iter().rev());
        cuts.reverse();
        self.finish(topic, waiting, &cuts);
        (cuts, first)
    }

    /// Says for each message of a topic that may be dropped, the oldest first, whether it is the newest of its key.
    pub(super) fn newest_of_keys(&self, topic: &TopicName) -> VecDeque<bool> {
        self.newest_of(topic, RandomState::new())
    }

    /// As [`Labels::newest_of_keys`], with this hasher. Keys of one hash are compared.
    fn newest_of(&self, topic: &TopicName, hasher: impl BuildHasher) -> VecDeque<bool> {
        let (mut keys, mut are_newest) = (HashSet::with_hasher(hasher), VecDeque::new());
        for label in self.labels.iter().rev().filter(|label| label.topic() == Some(topic)) {
            let Some(tags) = &label.tags else { continue };
            let sent = label.sent();
            for index in label.range().rev() {
                if tags.begin(index) >= sent {
                    are_newest.push_front(keys.insert(tags.messages()[index].tag.key.as_deref()));
                }
            }
        }
        are_newest
    }

    /// Returns how many messages of the labels end within the first `bytes` bytes, in which every message of a label
    /// without tags ends.
    pub(super) fn messages_within(&self, bytes: usize) -> u64 {
        let (mut end, mut messages) = (0, 0);
        for label in &self.labels {
            if end + label.bytes > bytes {
                return messages + label.tags().filter(|(of, _)| end + of <= bytes).count() as u64;
            }
            end += label.bytes;
            messages += u64::from(label.messages);
        }
        messages
    }

    /// Puts a topic back, and counts the messages that are left.
    fn finish(&mut self, topic: &TopicName, waiting: Waiting, cuts: &[Cut]) {
        self.waiting.put(topic, waiting);
        self.messages -= cuts.iter().map(|cut| u64::from(cut.messages)).sum::<u64>();
    }
}

/// Returns what is left of a label: messages that follow each other. The caller sets the bytes.
fn kept(label: &Label, tags: &Arc<PieceTags>, messages: Range<usize>) -> Label {
    let count = messages.len() as u32;
    let (tags, first) = tags.kept(messages);
    Label { bytes: 0, messages: count, first: first as u32, topic: label.topic.clone(), tags: Some(tags) }
}

/// A pass over the labels of a backlog, from the back, that cuts the newest messages of one topic.
struct BackwardPass<'a> {
    topic: &'a TopicName,
    waiting: Waiting,
    /// The number of the subscription of the next messages.
    subscription: u64,
    /// The labels that the pass has come by, the last of the backlog first.
    back: Vec<Label>,
    /// Where new notices stand in `back`.
    places: Vec<usize>,
    /// The unsent notices of the topic that the pass has come by.
    notices: usize,
    /// The subscription of the last of these notices.
    placed: u64,
    /// The place of the first message that is dropped.
    first: Option<Place>,
}

impl BackwardPass<'_> {
    /// Notes the messages of a label that `judge` drops, the newest first. Returns how many messages of the label's
    /// tags are left.
    fn drop_messages(&mut self, label: &Label, tags: &PieceTags, judge: Judge<'_>) -> usize {
        let (sent, first, policy) = (label.sent(), label.first as usize, self.waiting.slow.overflow);
        let is_replayed = policy == Overflow::Replay;
        let mut left = label.range().end;
        if is_replayed && self.subscription != self.waiting.last_subscription() {
            return left;
        }
        while left > first {
            let (message, begin) = (&tags.messages()[left - 1], tags.begin(left - 1));
            let tag = &message.tag;
            let judged = Judged { waiting: &self.waiting, tag, passed: self.back.len() };
            if begin < sent || judge(judged) != Verdict::Drop {
                break;
            }
            self.waiting.amount.bytes -= message.end - begin;
            self.waiting.amount.messages -= 1;
            self.waiting.amount.memory -= message.memory();
            self.first = tag.place;
            if is_replayed {
                left -= 1;
                continue;
            }
            let gaps = &mut self.waiting.gaps;
            let subscription = self.subscription;
            let told = gaps.iter().rposition(|gap| gap.takes(tag, subscription)).unwrap_or_else(|| {
                let index = gaps.len() - self.notices - self.places.len();
                gaps.insert(index, Gap::new(self.topic, policy, subscription));
                self.places.push(self.back.len());
                self.placed = subscription;
                index
            });
            gaps[told].note(tag, policy);
            left -= 1;
        }
        left
    }
}

/// A pass over the labels of a backlog, from the front, that cuts messages of one topic.
struct Pass<'a> {
    topic: &'a TopicName,
    waiting: Waiting,
    /// The number of the subscription of the next messages.
    subscription: u64,
    /// The labels that the pass has come by.
    front: Vec<Label>,
    cuts: Vec<Cut>,
    /// The cuts of the labels before this one. A cut is within a label, and so within a piece.
    cuts_before: usize,
    /// The unsent bytes before the next label.
    at: usize,
    /// The unsent notices of the topic that the pass has come by.
    notices: usize,
    /// The number, among the topic's unsent notices that are still ahead, of a notice that has moved to the front.
    moved: Option<usize>,
    /// The memory of the labels that are gone.
    freed: usize,
    /// The memory of the labels that are new.
    taken: usize,
}

impl Pass<'_> {
    /// Makes the pass, and returns the labels that are left.
    fn run(&mut self, mut rest: VecDeque<Label>, judge: Judge<'_>) -> VecDeque<Label> {
        let mut is_done = false;
        while (!is_done || self.moved.is_some())
            && let Some(label) = rest.pop_front()
        {
            let (at, is_own) = (self.at, label.topic() == Some(self.topic));
            self.at += label.bytes;
            if is_own && label.is_unsent_notice() {
                self.pass_notice(at, label);
            } else if is_own && label.tags.is_some() && !is_done {
                is_done = self.pass_messages(at, label, judge);
            } else {
                self.subscription += u64::from(is_own && label.is_end());
                self.front.push(label);
            }
        }
        for label in self.front.drain(..).rev() {
            rest.push_front(label);
        }
        rest
    }

    /// Keeps a notice, unless the notice has moved to the front.
    fn pass_notice(&mut self, at: usize, label: Label) {
        match self.moved {
            Some(0) => {
                self.moved = None;
                self.freed += label.memory();
                if label.bytes > 0 {
                    self.cuts.push(Cut { at, bytes: label.bytes, messages: 0 });
                }
                return;
            }
            Some(ahead) => self.moved = Some(ahead - 1),
            None => {}
        }
        self.notices += 1;
        self.front.push(label);
    }

    /// Cuts the messages of a label that `judge` drops. Returns whether the pass is done.
    fn pass_messages(&mut self, at: usize, mut label: Label, judge: Judge<'_>) -> bool {
        let Some(tags) = label.tags.clone() else { return false };
        let (sent, Range { start: first, end: count }) = (label.sent(), label.range());
        // The messages that are kept before the first that is dropped, and after it.
        let (mut before, mut after) = (first..first, Vec::<Range<usize>>::new());
        self.cuts_before = self.cuts.len();
        let (mut has_notice, mut is_cut, mut is_done) = (false, false, false);
        for index in first..count {
            let (begin, message) = (tags.begin(index), &tags.messages()[index]);
            let verdict = match begin < sent {
                true => Verdict::Keep,
                false => judge(Judged { waiting: &self.waiting, tag: &message.tag, passed: self.front.len() }),
            };
            is_done = verdict == Verdict::Stop;
            let left = if is_done { index..count } else { index..index + 1 };
            if verdict == Verdict::Drop {
                has_notice |= self.note(&message.tag);
                self.waiting.amount.memory -= message.memory();
                self.cut(at + begin - sent, message.end - begin);
                is_cut = true;
            } else if !is_cut {
                before.end = left.end;
            } else if let Some(last) = after.last_mut().filter(|last| last.end == left.start) {
                last.end = left.end;
            } else {
                after.push(left);
            }
            if is_done {
                break;
            }
        }
        if !is_cut {
            self.front.push(label);
            return is_done;
        }
        self.freed += label.memory();
        self.waiting.amount.memory -= label.own_memory();
        // The backlog parts a piece at the first cut of a pass, and a label with tags is of one piece.
        if !before.is_empty() && !has_notice && self.cuts_before > 0 {
            after.insert(0, before.clone());
            before.end = before.start;
        }
        if !before.is_empty() {
            let bytes = tags.messages()[before.end - 1].end - sent;
            self.keep(Label { bytes, ..kept(&label, &tags, before) });
        }
        if has_notice {
            self.keep(Label::notice(self.topic));
        }
        let bytes = |part: &Range<usize>| tags.messages()[part.end - 1].end - tags.begin(part.start).max(sent);
        label.bytes = after.iter().map(bytes).sum();
        match &after[..] {
            [] => return is_done,
            [rest] => label = Label { bytes: label.bytes, ..kept(&label, &tags, rest.clone()) },
            _ => {
                label.messages = after.iter().map(|part| part.len() as u32).sum();
                (label.first, label.tags) = (0, Some(tags.left(&after)));
            }
        }
        self.keep(label);
        is_done
    }

    /// Notes a message that is dropped in a lag of its topic. Returns whether the lag needs a new notice here.
    fn note(&mut self, tag: &Tag) -> bool {
        let Waiting { gaps, slow, .. } = &mut self.waiting;
        let told = gaps.iter().position(|gap| gap.takes(tag, self.subscription));
        let (index, is_new) = match told {
            Some(index) if index < self.notices => (index, false),
            // The notice stands after this message.
            Some(index) if self.moved.is_none() => {
                self.moved = Some(index - self.notices);
                let gap = gaps.remove(index).expect("the lag was found");
                gaps.insert(self.notices, gap);
                (self.notices, true)
            }
            _ => {
                gaps.insert(self.notices, Gap::new(self.topic, slow.overflow, self.subscription));
                (self.notices, true)
            }
        };
        gaps[index].note(tag, slow.overflow);
        self.notices += usize::from(is_new);
        is_new
    }

    /// Keeps a label that is new.
    fn keep(&mut self, label: Label) {
        self.taken += label.memory();
        if label.tags.is_some() {
            self.waiting.amount.memory += label.own_memory();
        }
        self.front.push(label);
    }

    fn cut(&mut self, at: usize, bytes: usize) {
        self.waiting.amount.bytes -= bytes;
        self.waiting.amount.messages -= 1;
        let last = self.cuts[self.cuts_before..].last_mut();
        match last.filter(|last| last.at + last.bytes == at) {
            Some(last) => (last.bytes, last.messages) = (last.bytes + bytes, last.messages + 1),
            None => self.cuts.push(Cut { at, bytes, messages: 1 }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasherDefault, Hasher};

    use super::*;
    use crate::{
        hub::{SlowRules, TaggedMessage},
        proto::Millis,
    };

    /// Gives every key one hash.
    #[derive(Default)]
    struct OneHash;

    impl Hasher for OneHash {
        fn finish(&self) -> u64 {
            17
        }

        fn write(&mut self, _: &[u8]) {}
    }

    #[test]
    fn keys_of_one_hash_are_two_keys() {
        let keys = [Some("a"), Some("b"), None, Some("a"), Some(""), None, Some("c")];
        let tag = |key: Option<&str>| Tag { place: None, time: Millis(0), key: key.map(Into::into) };
        let messages = keys.iter().zip(1..).map(|(key, end)| TaggedMessage { end, tag: tag(*key) });
        let topic = TopicName::new("t").unwrap();
        let mut labels = Labels::default();
        let tags = Some(PieceTags::new(messages.collect()));
        labels.push((keys.len(), keys.len() as u32), Some((&topic, SlowRules::default())), tags);
        let expected = [false, true, false, true, true, true, true];
        assert_eq!(labels.newest_of(&topic, BuildHasherDefault::<OneHash>::default()), expected);
        assert_eq!(labels.newest_of_keys(&topic), expected);
    }
}
