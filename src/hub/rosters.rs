//! The rosters of a shard: their sums, and the times at which members leave and batches of events are due.

use std::collections::{BTreeSet, VecDeque};

use super::{
    connection_id::ConnectionId,
    due::Due,
    presence::{MemberKey, Presence},
    topic_id::TopicId,
    topic_name::TopicName,
};
use crate::proto::Millis;

/// What a shard keeps about presence beside its topics.
#[derive(Debug, Default)]
pub(super) struct Rosters {
    /// Subscriptions whose members are not known yet, and which [`ShardHub::take_newcomers`] has not taken.
    ///
    /// [`ShardHub::take_newcomers`]: super::ShardHub::take_newcomers
    pub(super) newcomers: Vec<(ConnectionId, TopicId)>,
    /// Topics with news that their homes have not been told.
    pub(super) due: Due,
    /// The slot from which on subscriptions are looked at, since the rules of topics have changed.
    pub(super) sweep: Option<u32>,
    /// The number of the replacement after which subscriptions were looked at last.
    pub(super) swept_generation: u32,
    /// When members leave that have no subscription any more.
    pub(super) ends: BTreeSet<(Millis, TopicId, MemberKey)>,
    /// When batches of events are due, the first one first.
    pub(super) batches: VecDeque<(Millis, TopicId)>,
    /// The questions of this shard's connections that have not been sent to the homes of their topics.
    pub(super) asks: VecDeque<(TopicName, u64)>,
    /// The answers to such questions, each with its ticket.
    pub(super) answers: Vec<(u64, Option<Presence>)>,
    /// The number of the last change of all rosters.
    version: u64,
    bytes: usize,
    members: u64,
    listed: u64,
    batched: u64,
}

/// Numbers about the presence of the topics of a shard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PresenceCounts {
    /// The members of all topics whose home is this shard.
    pub members: u64,
    /// How many of them are counted and not listed.
    pub unlisted: u64,
    /// The batches of events that were published so far.
    pub batches: u64,
}

impl Rosters {
    /// Returns the number of the next change.
    pub(super) fn next_version(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    /// Returns the number of the last change.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Returns when the next member leaves, or the next batch is due.
    pub(super) fn next(&self) -> Option<Millis> {
        let leaves = self.ends.first().map(|&(at, ..)| at);
        leaves.into_iter().chain(self.batches.front().map(|&(at, _)| at)).min()
    }

    /// Notes the memory of a roster or an attendance before and after a change.
    pub(super) fn note_bytes(&mut self, before: usize, after: usize) {
        self.bytes = self.bytes - before + after;
    }

    /// Notes the members of a roster, and how many are listed, before and after a change.
    pub(super) fn note_members(&mut self, before: (u64, u64), after: (u64, u64)) {
        self.members = self.members - before.0 + after.0;
        self.listed = self.listed - before.1 + after.1;
    }

    /// Notes a batch that was published.
    pub(super) fn note_batch(&mut self) {
        self.batched += 1;
    }

    /// Returns the memory of all of it.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns numbers about all rosters.
    pub(super) fn counts(&self) -> PresenceCounts {
        PresenceCounts { members: self.members, unlisted: self.members - self.listed, batches: self.batched }
    }
}
