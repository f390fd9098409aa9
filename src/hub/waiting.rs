//! What waits in a backlog, by topic, and the lags that the subscriber has not been told of.

use std::collections::{HashMap, VecDeque};

use super::{
    lag::Lag,
    memory::ALLOCATION,
    slow::{Overflow, SlowRules},
    tag::Tag,
    topic_name::TopicName,
};
use crate::proto::Millis;

/// The messages of one topic in a backlog, as far as they have tags.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// The rules by which the last messages have come.
    pub(super) slow: SlowRules,
    /// The bytes that have not been sent.
    pub(super) bytes: usize,
    /// The messages that have not been sent whole.
    pub(super) messages: u64,
    /// The lags whose notices have not begun to be sent, in the order of their notices.
    pub(super) gaps: VecDeque<Gap>,
    /// How many messages are left of those that were the newest of their keys the last time that others were dropped.
    conflated: u64,
}

/// A lag whose notice has not begun to be sent.
#[derive(Debug)]
pub(super) struct Gap {
    pub(super) lag: Lag,
    /// Whether messages were dropped after the notice was encoded.
    pub(super) is_stale: bool,
}

impl Gap {
    /// Returns the lag before any message is noted.
    pub(super) fn new(topic: &TopicName, policy: Overflow) -> Self {
        let lag = Lag { topic: topic.clone(), epoch: 0, from: 0, to: 0, count: 0, policy };
        Gap { lag, is_stale: true }
    }

    /// Returns whether a message of this tag can be told of together with the others: all places have one epoch.
    pub(super) fn takes(&self, tag: &Tag) -> bool {
        tag.place.is_none_or(|place| self.lag.epoch == 0 || self.lag.epoch == place.epoch)
    }

    /// Notes that the message of this tag was dropped.
    pub(super) fn note(&mut self, tag: &Tag, policy: Overflow) {
        let lag = &mut self.lag;
        (lag.count, lag.policy) = (lag.count + 1, policy);
        self.is_stale = true;
        if let Some(place) = tag.place {
            lag.from = if lag.epoch == 0 { place.offset } else { lag.from.min(place.offset) };
            (lag.epoch, lag.to) = (place.epoch, lag.to.max(place.offset));
        }
    }
}

impl Waiting {
    /// Returns whether more waits than the topic's rules allow, its age aside, or so much that a policy which keeps the
    /// newest messages should act.
    pub(super) fn is_over(&self) -> bool {
        let is_due = self.slow.overflow == Overflow::Latest && self.messages > 2 * self.conflated + CONFLATES_FROM;
        is_due || !self.slow.allow(self.bytes, self.messages)
    }

    /// Returns whether a message of this time has waited too long.
    pub(super) fn is_overdue(&self, time: Millis, now: Millis) -> bool {
        self.slow.age_max_ms.is_some_and(|most| now.0.saturating_sub(time.0) > most)
    }

    /// Returns how many messages have come since only the newest of each key were kept.
    fn unconflated(&self) -> u64 {
        self.messages.saturating_sub(self.conflated)
    }

    /// Returns whether there may be messages that are not the newest of their keys.
    pub(super) fn may_be_outdated(&self) -> bool {
        self.messages > 1 && self.unconflated() > 0
    }

    /// Returns whether the policy may drop a message at a limit. The newest of each key are looked for only if the
    /// messages that have come since the last time are a quarter of those that were kept, or these are few. So the work
    /// for each message is bounded near a limit, too.
    pub(super) fn may_drop(&self) -> bool {
        match self.slow.overflow {
            Overflow::Close => false,
            Overflow::DropOldest | Overflow::DropNewest => self.messages > 1,
            Overflow::Latest => {
                let is_due = self.conflated <= CONFLATES_FROM || self.unconflated() > self.conflated / 4;
                self.may_be_outdated() && is_due
            }
        }
    }

    /// Notes that only the newest messages of each key are left.
    pub(super) fn note_conflated(&mut self) {
        self.conflated = self.messages;
    }

    fn is_empty(&self) -> bool {
        self.messages == 0 && self.bytes == 0 && self.gaps.is_empty()
    }
}

/// The topics with tags of a backlog. A backlog without such messages has an empty table, which takes no memory.
#[derive(Debug, Default)]
pub(super) struct WaitingTopics {
    topics: Option<HashMap<TopicName, Waiting>>,
    /// How many lags are not told of yet.
    pub(super) gaps: usize,
    /// Whether a topic may be over its limits.
    pub(super) is_over: bool,
}

impl WaitingTopics {
    /// Notes messages of a topic that have been appended.
    pub(super) fn add(&mut self, topic: &TopicName, slow: SlowRules, bytes: usize, messages: u32) {
        let topics = self.topics.get_or_insert_default();
        if !topics.contains_key(topic) {
            topics.insert(topic.clone(), Waiting::default());
        }
        let waiting = topics.get_mut(topic).expect("the topic was added");
        waiting.slow = slow;
        waiting.bytes += bytes;
        waiting.messages += u64::from(messages);
        if slow.overflow != Overflow::Latest {
            waiting.conflated = 0;
        }
        self.is_over |= waiting.is_over();
    }

    /// Notes that so many bytes of a topic are gone, and so many messages.
    pub(super) fn subtract(&mut self, topic: &TopicName, bytes: usize, messages: u32) {
        let Some(waiting) = self.get_mut(topic) else { return };
        waiting.bytes -= bytes;
        waiting.messages -= u64::from(messages);
        // The messages leave in their order, and those that were kept stand before those that have come since.
        waiting.conflated = waiting.conflated.saturating_sub(u64::from(messages));
        self.forget_empty(topic);
    }

    /// Takes the first lag of a topic, whose notice begins to be sent.
    pub(super) fn take_gap(&mut self, topic: &TopicName) -> Option<Lag> {
        let gap = self.get_mut(topic)?.gaps.pop_front()?;
        self.gaps -= 1;
        self.forget_empty(topic);
        Some(gap.lag)
    }

    /// Moves the first lag of a topic from another table to this one.
    pub(super) fn move_gap(&mut self, topic: &TopicName, from: &mut WaitingTopics) {
        let Some(was) = from.get_mut(topic) else { return };
        let (slow, gap) = (was.slow, was.gaps.pop_front());
        self.add(topic, slow, 0, 0);
        if let (Some(waiting), Some(gap)) = (self.get_mut(topic), gap) {
            waiting.gaps.push_back(gap);
            self.gaps += 1;
        }
    }

    pub(super) fn get(&self, topic: &TopicName) -> Option<&Waiting> {
        self.topics.as_ref()?.get(topic)
    }

    pub(super) fn get_mut(&mut self, topic: &TopicName) -> Option<&mut Waiting> {
        self.topics.as_mut()?.get_mut(topic)
    }

    /// Takes a topic out of the table. [`WaitingTopics::put`] must follow.
    pub(super) fn take(&mut self, topic: &TopicName) -> Option<Waiting> {
        let waiting = self.topics.as_mut()?.remove(topic)?;
        self.gaps -= waiting.gaps.len();
        Some(waiting)
    }

    /// Puts a topic back into the table.
    pub(super) fn put(&mut self, topic: &TopicName, waiting: Waiting) {
        self.gaps += waiting.gaps.len();
        self.topics.get_or_insert_default().insert(topic.clone(), waiting);
        self.forget_empty(topic);
    }

    /// Returns whether no message of the backlog has a tag, and nobody has to be told of a lag.
    pub(super) fn is_empty(&self) -> bool {
        self.topics.is_none()
    }

    /// Returns all topics.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&TopicName, &Waiting)> {
        self.topics.iter().flat_map(|topics| topics.iter())
    }

    /// Returns the names of the topics that `is_wanted` returns `true` for, in their order.
    pub(super) fn names(&self, is_wanted: impl Fn(&Waiting) -> bool) -> Vec<TopicName> {
        let wanted = self.iter().filter(|(_, waiting)| is_wanted(waiting));
        let mut names: Vec<TopicName> = wanted.map(|(name, _)| name.clone()).collect();
        names.sort_unstable();
        names
    }

    /// Returns the memory that the table takes.
    pub(super) fn memory(&self) -> usize {
        let Some(topics) = &self.topics else { return 0 };
        ALLOCATION + topics.capacity() * PLACE + self.gaps * 2 * size_of::<Gap>()
    }

    fn forget_empty(&mut self, topic: &TopicName) {
        let Some(topics) = &mut self.topics else { return };
        if topics.get(topic).is_some_and(Waiting::is_empty) {
            topics.remove(topic);
            if topics.is_empty() {
                self.topics = None;
            }
        }
    }
}

/// The memory of a place in the table of topics, which is up to half empty, and one more byte for each place.
const PLACE: usize = 2 * (size_of::<(TopicName, Waiting)>() + 1);

/// A topic that keeps the newest messages drops others when twice as many messages as it kept wait, and so many more.
/// So its work for each message is bounded. A topic that has kept no more than these looks for the newest at every
/// limit.
const CONFLATES_FROM: u64 = 64;
