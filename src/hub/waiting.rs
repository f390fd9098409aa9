//! What waits in a backlog, by topic, and the lags that the subscriber has not been told of.

use std::collections::{HashMap, VecDeque};

use super::{
    history_rules::HISTORY_PART_BYTES,
    lag::Lag,
    memory::ALLOCATION,
    slow::{Overflow, SlowRules},
    tag::{Tag, TaggedMessage},
    topic_name::TopicName,
};
use crate::proto::Millis;

/// What waits of a topic, or a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Amount {
    /// The bytes that have not been sent.
    pub(super) bytes: usize,
    /// The messages that have not been sent whole.
    pub(super) messages: u64,
    /// The memory that labels and tags take in addition to these bytes.
    pub(super) memory: usize,
}

/// The messages of one topic in a backlog, as far as they have tags.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// The rules by which the last messages have come.
    pub(super) slow: SlowRules,
    pub(super) amount: Amount,
    /// The time of the first message of which no byte has been sent, or of one that was before it; `None` if there is
    /// no such message.
    oldest: Option<Millis>,
    /// Whether the message of this time may be gone.
    may_be_gone: bool,
    /// A time that no message is newer than.
    pub(super) newest: Millis,
    /// The lags whose notices have not begun to be sent, in the order of their notices.
    pub(super) gaps: VecDeque<Gap>,
    /// How many messages are left of those that were the newest of their keys the last time that others were dropped.
    conflated: u64,
    /// The number of the subscription whose messages are appended now.
    subscription: u64,
    /// How many earlier subscriptions end in the backlog.
    ends: u64,
}

/// A lag whose notice has not begun to be sent.
#[derive(Debug)]
pub(super) struct Gap {
    pub(super) lag: Lag,
    /// The number of the subscription whose messages were dropped.
    subscription: u64,
    /// Whether messages were dropped after the notice was encoded.
    pub(super) is_stale: bool,
}

impl Gap {
    /// Returns the lag before any message is noted.
    pub(super) fn new(topic: &TopicName, policy: Overflow, subscription: u64) -> Self {
        let lag = Lag { topic: topic.clone(), epoch: 0, from: 0, to: 0, count: 0, policy };
        Gap { lag, subscription, is_stale: true }
    }

    /// Returns whether a message of a subscription can be told of together with the others: all are of one
    /// subscription, and all places have one epoch.
    pub(super) fn takes(&self, tag: &Tag, subscription: u64) -> bool {
        let is_one_epoch = tag.place.is_none_or(|place| self.lag.epoch == 0 || self.lag.epoch == place.epoch);
        is_one_epoch && self.subscription == subscription
    }

    /// Returns whether a lag of the same topic, of a subscription, can be told of together with the others.
    fn takes_lag(&self, lag: &Lag, subscription: u64) -> bool {
        let is_one_epoch = lag.epoch == 0 || self.lag.epoch == 0 || self.lag.epoch == lag.epoch;
        is_one_epoch && self.subscription == subscription
    }

    /// Adds a lag of the same topic, which is told of together with the others.
    fn add(&mut self, added: &Lag) {
        let lag = &mut self.lag;
        (lag.count, lag.policy) = (lag.count + added.count, added.policy);
        self.is_stale = true;
        if added.epoch != 0 {
            lag.from = if lag.epoch == 0 { added.from } else { lag.from.min(added.from) };
            (lag.epoch, lag.to) = (added.epoch, lag.to.max(added.to));
        }
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
    /// Returns whether no more waits than the topic's rules allow, its age aside.
    pub(super) fn is_allowed(&self) -> bool {
        self.slow.allow(self.amount.bytes + self.amount.memory, self.amount.messages)
    }

    /// Returns whether more waits than the topic's rules allow, or so much that a policy which keeps the newest
    /// messages should act. Of the age, only what [`Overflow::DropNewest`] makes of it counts.
    pub(super) fn is_over(&self) -> bool {
        let is_due =
            self.slow.overflow == Overflow::Latest && self.amount.messages > 2 * self.conflated + CONFLATES_FROM;
        let is_replayed = self.slow.overflow == Overflow::Replay
            && self.amount.messages > 1
            && self.amount.bytes > HISTORY_PART_BYTES;
        is_due || is_replayed || !self.is_allowed() || self.too_late().is_some_and(|time| self.newest > time)
    }

    /// Returns the time after which messages come too late for [`Overflow::DropNewest`], because the first has waited
    /// for too long then.
    pub(super) fn too_late(&self) -> Option<Millis> {
        if self.slow.overflow != Overflow::DropNewest { None } else { self.last_time() }
    }

    /// Returns the last time at which the first message has not waited for too long.
    fn last_time(&self) -> Option<Millis> {
        Some(Millis(self.oldest?.0.saturating_add(self.slow.age_max_ms?)))
    }

    /// Returns whether the first message has waited for too long.
    pub(super) fn is_overdue(&self, now: Millis) -> bool {
        self.last_time().is_some_and(|last| now > last)
    }

    /// Returns whether a message of this time has waited for too long.
    pub(super) fn is_too_old(&self, time: Millis, now: Millis) -> bool {
        self.slow.age_max_ms.is_some_and(|most| now.0.saturating_sub(time.0) > most)
    }

    /// Returns whether a policy has something to do because the first message has waited for too long.
    pub(super) fn is_due(&self, now: Millis) -> bool {
        self.due().is_some_and(|last| now > last)
    }

    /// Returns the last time at which no policy has to do something because of the topic's age.
    fn due(&self) -> Option<Millis> {
        let may_act = match self.slow.overflow {
            Overflow::Close | Overflow::Latest => true,
            Overflow::DropOldest => self.amount.messages > 1,
            // It acts when a message comes, or never.
            Overflow::DropNewest | Overflow::Replay => false,
        };
        self.last_time().filter(|_| may_act)
    }

    /// Returns how many messages have come since only the newest of each key were kept.
    fn unconflated(&self) -> u64 {
        self.amount.messages.saturating_sub(self.conflated)
    }

    /// Returns whether the policy may drop a message at a limit. The newest of each key are looked for only if the
    /// messages that have come since the last time are a quarter of those that were kept, or these are few. So the work
    /// for each message is bounded near a limit, too.
    pub(super) fn may_drop(&self) -> bool {
        match self.slow.overflow {
            Overflow::Close => false,
            Overflow::DropOldest | Overflow::DropNewest | Overflow::Replay => self.amount.messages > 1,
            Overflow::Latest => {
                let is_due = self.conflated <= CONFLATES_FROM || self.unconflated() > self.conflated / 4;
                self.amount.messages > 1 && self.unconflated() > 0 && is_due
            }
        }
    }

    /// Notes that only the newest messages of each key are left.
    pub(super) fn note_conflated(&mut self) {
        self.conflated = self.amount.messages;
    }

    /// Notes that some of the messages are gone.
    pub(super) fn note_gone(&mut self) {
        self.may_be_gone = true;
    }

    fn is_empty(&self) -> bool {
        self.amount.messages == 0 && self.gaps.is_empty() && self.ends == 0
    }

    /// Returns the number of the subscription of the first messages.
    pub(super) fn first_subscription(&self) -> u64 {
        self.subscription - self.ends
    }

    /// Returns the number of the subscription of the last messages.
    pub(super) fn last_subscription(&self) -> u64 {
        self.subscription
    }
}

/// The topics with tags of a backlog. A backlog without such messages has an empty table, which takes no memory.
#[derive(Debug, Default)]
pub(super) struct WaitingTopics {
    topics: Option<HashMap<TopicName, Waiting>>,
    /// How many lags are not told of yet.
    pub(super) gaps: usize,
    /// Whether a topic may be over its limits, or what policies make of them.
    pub(super) is_over: bool,
    /// The last time at which no policy has to do something because of an age; `None` for all times.
    due: Option<Millis>,
}

impl WaitingTopics {
    /// Notes messages with tags that were appended, and the rules of their topic. Without messages only the rules are
    /// noted, for those that were appended before.
    pub(super) fn add(&mut self, topic: &TopicName, slow: SlowRules, tagged: &[TaggedMessage], amount: Amount) {
        if tagged.is_empty() && self.get(topic).is_none() {
            return;
        }
        let waiting = self.entry(topic, slow);
        if let [first, ..] = tagged
            && let [.., last] = tagged
        {
            waiting.oldest = waiting.oldest.or(Some(first.tag.time));
            waiting.newest = waiting.newest.max(last.tag.time);
            let Amount { bytes, messages, memory } = amount;
            waiting.amount.bytes += bytes;
            waiting.amount.messages += messages;
            waiting.amount.memory += memory;
        }
        let (is_over, due) = (waiting.is_over(), waiting.due());
        self.is_over |= is_over;
        self.due = [self.due, due].into_iter().flatten().min();
    }

    /// Notes that a part of what waits of a topic is gone.
    pub(super) fn subtract(&mut self, topic: &TopicName, gone: Amount) {
        let Some(waiting) = self.get_mut(topic) else { return };
        waiting.amount.bytes -= gone.bytes;
        waiting.amount.messages -= gone.messages;
        waiting.amount.memory -= gone.memory;
        waiting.note_gone();
        // The messages leave in their order, and those that were kept stand before those that have come since.
        waiting.conflated = waiting.conflated.saturating_sub(gone.messages);
        self.forget_empty(topic);
    }

    /// Notes that a subscription ends behind what waits of its topic. Returns whether something waits.
    pub(super) fn end(&mut self, topic: &TopicName) -> bool {
        let Some(waiting) = self.get_mut(topic) else { return false };
        (waiting.subscription, waiting.ends) = (waiting.subscription + 1, waiting.ends + 1);
        true
    }

    /// Notes that all that stood before the end of a subscription is gone.
    pub(super) fn pass_end(&mut self, topic: &TopicName) {
        let Some(waiting) = self.get_mut(topic) else { return };
        waiting.ends -= 1;
        self.forget_empty(topic);
    }

    /// Returns whether a policy may have something to do because of an age.
    pub(super) fn is_due(&self, now: Millis) -> bool {
        self.due.is_some_and(|last| now > last)
    }

    /// Notes when a policy has something to do next because of an age.
    pub(super) fn note_due(&mut self) {
        self.due = self.iter().filter_map(|(_, waiting)| waiting.due()).min();
    }

    /// Forgets the first messages that may be gone. Returns the topics with an age of which such a message was the
    /// first; [`WaitingTopics::note_oldest`] must follow for those that still have one.
    pub(super) fn forget_gone(&mut self) -> Vec<TopicName> {
        let mut forgotten = Vec::new();
        for (topic, waiting) in self.topics.iter_mut().flatten() {
            if waiting.slow.age_max_ms.is_some() && std::mem::take(&mut waiting.may_be_gone) {
                waiting.oldest = None;
                forgotten.push(topic.clone());
            }
        }
        forgotten
    }

    /// Notes the time of a topic's first message of which no byte has been sent.
    pub(super) fn note_oldest(&mut self, topic: &TopicName, oldest: Millis) {
        if let Some(waiting) = self.get_mut(topic) {
            waiting.oldest = Some(oldest);
        }
    }

    /// Adds a lag to the last lag of its topic, and of the same subscription, whose notice has not begun to be sent.
    /// Returns whether there is one.
    pub(super) fn merge(&mut self, lag: &Lag) -> bool {
        let Some(waiting) = self.get_mut(&lag.topic) else { return false };
        let subscription = waiting.subscription;
        let last = waiting.gaps.back_mut().filter(|last| last.takes_lag(lag, subscription));
        last.map(|last| last.add(lag)).is_some()
    }

    /// Notes a lag whose notice has been encoded and appended.
    pub(super) fn add_gap(&mut self, lag: Lag, slow: SlowRules) {
        let topic = lag.topic.clone();
        let waiting = self.entry(&topic, slow);
        let subscription = waiting.subscription;
        waiting.gaps.push_back(Gap { lag, subscription, is_stale: false });
        self.gaps += 1;
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
        if let Some(gap) = gap {
            self.entry(topic, slow).gaps.push_back(gap);
            self.gaps += 1;
        }
    }

    /// Returns what waits of a topic, which has these rules from now on.
    fn entry(&mut self, topic: &TopicName, slow: SlowRules) -> &mut Waiting {
        let topics = self.topics.get_or_insert_default();
        if !topics.contains_key(topic) {
            topics.insert(topic.clone(), Waiting::default());
        }
        let waiting = topics.get_mut(topic).expect("the topic was added");
        waiting.slow = slow;
        if slow.overflow != Overflow::Latest {
            waiting.conflated = 0;
        }
        waiting
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
