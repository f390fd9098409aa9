//! Fan-out: the runs that gather messages for the members of a topic, and the walks that hand each member its share.

use std::mem;

use super::{
    connection_id::ConnectionId,
    connections::{Attachment, Connections},
    hub::ShardHub,
    piece::Piece,
    run::{FrozenRun, Run},
    subscriptions::{Membership, Subscription},
    topics::{Topic, TopicId},
    walk::{VACANT, Walk},
};
use crate::proto::PreparedMessage;

impl<T: Attachment> ShardHub<T> {
    /// Gathers the message for the topic's subscribers on this shard.
    pub(super) fn gather(&mut self, topic: TopicId, source: Option<ConnectionId>, message: &PreparedMessage) {
        let subscription = source.and_then(|id| self.connections.get(id)?.subscriptions.get(topic));
        let excludes = subscription.is_some_and(|own| !own.echo && own.membership != Membership::Pending);
        let entry = &mut self.topics[topic];
        if entry.members.len() == entry.vacant as usize && entry.joining.is_empty() {
            return;
        }
        if entry.run.is_none() {
            entry.run = Some(Box::new(Run::new(self.spare.pop().unwrap_or_default())));
            if entry.walk.is_none() {
                self.dirty.push(topic);
            }
        }
        if let Some(run) = &mut entry.run {
            let except = source.filter(|_| excludes).map(ConnectionId::slot);
            change(&mut self.gathered_bytes, run, |run| run.append(message, except));
        }
    }

    /// Begins a walk for every topic that has a run and no walk: freezes the run, and adds the topic to `walks`.
    pub fn begin_walks(&mut self, walks: &mut impl Extend<TopicId>) {
        for &id in &self.dirty {
            let topic = &mut self.topics[id];
            assert!(topic.walk.is_none(), "a topic has one walk at a time");
            let run = topic.run.take().expect("a dirty topic has a run");
            let before = run.weight();
            let run = run.freeze();
            self.gathered_bytes = self.gathered_bytes - before + run.weight();
            // A step that shares no divisor with most lengths: over many walks every subscriber is early and late.
            topic.rotation = topic.rotation.wrapping_add(ROTATION_STEP);
            topic.walk = Some(Box::new(Walk::new(run, topic.members.len() as u32, topic.rotation)));
        }
        walks.extend(self.dirty.drain(..));
    }

    /// Returns the run that the topic's walk hands out.
    ///
    /// # Panics
    ///
    /// If the topic has no walk. The same holds for the methods below, up to [`ShardHub::step_back`].
    #[inline]
    #[must_use]
    pub fn run(&self, topic: TopicId) -> &FrozenRun {
        &self.topics[topic].walk.as_ref().expect(WALKING).run
    }

    /// Returns the share of the subscriber at `slot` in the run of the topic's walk, as pieces that may be kept for
    /// long.
    #[must_use]
    pub fn owed_by_walk(&mut self, topic: TopicId, slot: u32) -> Vec<Piece> {
        self.topics[topic].walk.as_mut().expect(WALKING).run.owed(slot)
    }

    /// Returns the slot of the next subscriber that the topic's walk visits.
    pub fn next_member(&mut self, topic: TopicId) -> Option<u32> {
        let Topic { members, walk, .. } = &mut self.topics[topic];
        walk.as_mut().expect(WALKING).next(members)
    }

    /// Undoes the last [`ShardHub::next_member`]: the next call returns the same member once more.
    pub fn step_back(&mut self, topic: TopicId) {
        self.topics[topic].walk.as_mut().expect(WALKING).step_back();
    }

    /// Adds to `ahead` the topics whose walks still owe the connection a share: the walk has yet to come to the
    /// connection, which has not got the share from another visit. `walks` are the topics of all walks under way.
    /// Returns how many walks or subscriptions were looked at.
    pub fn walks_ahead(
        &self,
        id: ConnectionId,
        walks: impl ExactSizeIterator<Item = TopicId>,
        ahead: &mut Vec<TopicId>,
    ) -> usize {
        let Some(connection) = self.connections.get(id) else { return 0 };
        let subscriptions = &connection.subscriptions;
        let is_owed = |own: &&Subscription| self.walk_owing(own).is_some();
        // A connection with a thousand topics may meet two walks, and one with two topics a thousand walks.
        if walks.len() < subscriptions.len() {
            let looked_at = walks.len();
            let own = walks.filter_map(|topic| subscriptions.get(topic)).filter(is_owed);
            ahead.extend(own.map(|own| own.topic));
            return looked_at;
        }
        ahead.extend(subscriptions.as_slice().iter().filter(is_owed).map(|own| own.topic));
        subscriptions.len()
    }

    /// Notes that the connection has got its share of the topic's walk before the walk has come to it. When the walk
    /// comes, [`ShardHub::passes`] returns `true`.
    ///
    /// # Panics
    ///
    /// If the connection has one subscription only, or does not wait for that share.
    pub fn take_share(&mut self, id: ConnectionId, topic: TopicId) {
        let connection = self.connections.get(id).filter(|connection| connection.has_several());
        let own = connection.and_then(|connection| connection.subscriptions.get(topic));
        assert!(own.is_some_and(|own| self.walk_owing(own).is_some()), "a share is handed out once");
        if let Some(own) = self.connections.get_mut(id).and_then(|connection| connection.subscriptions.get_mut(topic)) {
            own.is_taken = true;
        }
    }

    /// Returns whether the connection, to which the topic's walk comes now, has got its share before. Clears the note
    /// of [`ShardHub::take_share`].
    pub fn passes(&mut self, id: ConnectionId, topic: TopicId) -> bool {
        self.connections.get_mut(id).is_some_and(|connection| connection.subscriptions.pass(topic))
    }

    /// Returns the topic's walk if it still owes this subscription its share.
    fn walk_owing(&self, own: &Subscription) -> Option<&Walk> {
        let Membership::Member(index) = own.membership else { return None };
        self.topics[own.topic].walk.as_deref().filter(|walk| walk.has_yet_to_visit(index) && !own.is_taken)
    }

    /// Ends the topic's walk: vacant places of members are filled, joining subscriptions become members, and the topic
    /// is dirty if messages were gathered meanwhile.
    pub fn end_walk(&mut self, id: TopicId) {
        let topic = &mut self.topics[id];
        let run = topic.walk.take().expect(WALKING).run;
        let mut index = 0;
        while topic.vacant > 0 {
            if topic.members[index] != VACANT {
                index += 1;
                continue;
            }
            topic.members.swap_remove(index);
            topic.vacant -= 1;
            if let Some(&moved) = topic.members.get(index)
                && moved != VACANT
            {
                note_membership(&mut self.connections, moved, id, Membership::Member(index as u32));
            }
        }
        for slot in mem::take(&mut topic.joining) {
            let index = topic.members.len() as u32;
            topic.members.push(slot);
            note_membership(&mut self.connections, slot, id, Membership::Member(index));
        }
        if topic.run.is_some() {
            self.dirty.push(id);
        }
        if topic.attached == 0 {
            topic.forget_members();
        }
        assert!(self.gathered_bytes >= run.weight(), "the weight of all runs has that of each");
        self.gathered_bytes -= run.weight();
        if let Some(buffer) = run.into_buffer()
            && self.spare.len() < SPARE_BUFFERS_MAX
            && buffer.capacity() <= SPARE_BYTES_MAX
        {
            self.spare.push(buffer);
        }
        self.topics.forget_idle();
    }

    /// Makes a pending subscription live: from here on the connection is owed every message of the topic.
    pub(super) fn join(&mut self, id: ConnectionId, topic_id: TopicId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let Some(subscription) = connection.subscriptions.get_mut(topic_id) else { return };
        assert_eq!(subscription.membership, Membership::Pending, "a subscription joins once");
        let topic = &mut self.topics[topic_id];
        if let Some(run) = &mut topic.run {
            change(&mut self.gathered_bytes, run, |run| run.join(id.slot()));
        }
        let list = if topic.walk.is_some() { &mut topic.joining } else { &mut topic.members };
        let index = list.len() as u32;
        list.push(id.slot());
        subscription.membership =
            if topic.walk.is_some() { Membership::Joining(index) } else { Membership::Member(index) };
    }

    /// Removes the connection from the members of a topic. `membership` is the place of its subscription among them.
    pub(super) fn remove_member(&mut self, id: ConnectionId, topic_id: TopicId, membership: Membership) {
        let topic = &mut self.topics[topic_id];
        let (list, index) = match membership {
            Membership::Pending => return,
            Membership::Joining(index) => (&mut topic.joining, index),
            Membership::Member(index) => (&mut topic.members, index),
        };
        let place = &mut list[index as usize];
        assert_eq!(*place, id.slot(), "a member stands where its subscription says");
        if matches!(membership, Membership::Member(_)) && topic.walk.is_some() {
            *place = VACANT;
            topic.vacant += 1;
            return;
        }
        list.swap_remove(index as usize);
        if let Some(&moved) = list.get(index as usize) {
            note_membership(&mut self.connections, moved, topic_id, membership);
        }
    }

    /// Returns the messages that the connection is owed for these subscriptions, from walks under way and from runs.
    pub(super) fn owed(&mut self, id: ConnectionId, subscriptions: &[Subscription]) -> Vec<Piece> {
        let mut owed = Vec::new();
        for subscription in subscriptions {
            let is_owed_by_walk = self.walk_owing(subscription).is_some();
            let topic = &mut self.topics[subscription.topic];
            if is_owed_by_walk && let Some(walk) = &mut topic.walk {
                owed.extend(walk.run.owed(id.slot()));
            }
            if subscription.membership != Membership::Pending
                && let Some(run) = &mut topic.run
            {
                owed.extend(change(&mut self.gathered_bytes, run, |run| run.owed(id.slot())));
            }
        }
        owed
    }

    /// Returns the number of messages of [`ShardHub::owed`].
    pub(super) fn owed_messages(&self, id: ConnectionId, subscriptions: &[Subscription]) -> u64 {
        let of_topic = |subscription: &Subscription| {
            let topic = &self.topics[subscription.topic];
            let walk = self.walk_owing(subscription).map_or(0, |walk| walk.run.owed_messages(id.slot()));
            let run = topic.run.as_ref().filter(|_| subscription.membership != Membership::Pending);
            u64::from(walk) + run.map_or(0, |run| u64::from(run.owed_messages(id.slot())))
        };
        subscriptions.iter().map(of_topic).sum()
    }
}

/// Notes the new place among the topic's members in the subscription of the connection at `slot`.
fn note_membership<T: Attachment>(connections: &mut Connections<T>, slot: u32, topic: TopicId, membership: Membership) {
    let connection = connections.at_mut(slot).expect("a member is a connection");
    connection.subscriptions.get_mut(topic).expect("a member has a subscription").membership = membership;
}

/// Changes a run, and updates the weight of all runs. A run that was empty has not been counted before.
#[inline]
fn change<R>(gathered_bytes: &mut usize, run: &mut Run, change: impl FnOnce(&mut Run) -> R) -> R {
    let before = if run.is_empty() { 0 } else { run.weight() };
    let result = change(run);
    *gathered_bytes = *gathered_bytes - before + run.weight();
    result
}

const WALKING: &str = "the topic has a walk";

/// About the golden ratio of 2³², and odd.
const ROTATION_STEP: u32 = 0x9e37_79b1;

const _: () = assert!(!ROTATION_STEP.is_multiple_of(2), "walks over 2ⁿ members begin at each of them");

/// Memory kept for runs to come: a few small buffers.
const SPARE_BUFFERS_MAX: usize = 16;
const SPARE_BYTES_MAX: usize = 256 * 1_024;

/// The most bytes of buffers that are kept for runs to come.
pub const SPARE_RUN_BYTES_MAX: usize = SPARE_BUFFERS_MAX * SPARE_BYTES_MAX;

#[cfg(test)]
mod tests;
