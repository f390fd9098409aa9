//! Attending: who is subscribed to the topics whose rules keep presence.
//!
//! Each shard knows the members among its own connections ([`Attendance`]), and tells the home of the topic what
//! changes: each member once, as long as the lane to the home has no room. The home keeps the members of all shards
//! ([`Roster`]). The rules are those of each shard at its last look, so the home takes what shards tell it whatever its
//! own rules say: a shard whose rules keep no presence any more tells that its members have left.

use std::mem;

use super::{
    attendance::Attendance,
    command::Command,
    connection_id::ConnectionId,
    connections::Attachment,
    entry::{PresenceNews, Request},
    hub::ShardHub,
    presence::{MemberInfo, Presence, PresenceChange},
    presence_rules::PresenceRules,
    roster::{Circumstances, Effect, Roster},
    rosters::PresenceCounts,
    topic_id::TopicId,
    topic_name::TopicName,
    topics::TopicRole,
};
use crate::proto::Millis;

impl<T: Attachment> ShardHub<T> {
    /// Asks for the member of a new subscription, if the rules of the topic keep presence.
    pub(super) fn greet(&mut self, id: ConnectionId, topic: TopicId) {
        if self.topics[topic].rules.members.is_some() {
            self.rosters.newcomers.push((id, topic));
        }
    }

    /// Takes the subscriptions whose members are not known, since the last call. For each, [`ShardHub::attend`] must
    /// follow.
    pub fn take_newcomers(&mut self) -> Vec<(ConnectionId, TopicId)> {
        mem::take(&mut self.rosters.newcomers)
    }

    /// Returns whether [`ShardHub::take_newcomers`] returns a subscription.
    #[must_use]
    pub fn has_newcomers(&self) -> bool {
        !self.rosters.newcomers.is_empty()
    }

    /// Notes the member that a subscription of [`ShardHub::take_newcomers`] counts for; `None` for a connection without
    /// an identity.
    pub fn attend(&mut self, id: ConnectionId, topic: TopicId, about: Option<MemberInfo>) {
        let connection = self.connections.get(id);
        let is_subscribed = connection.is_some_and(|connection| connection.subscriptions.get(topic).is_some());
        if is_subscribed && self.topics[topic].rules.members.is_some() {
            self.change_attendance(topic, |attendance| attendance.join(id.slot(), about));
        }
    }

    /// Asks again for the members of a connection, since its identities have changed.
    pub fn renew_member(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        for subscription in connection.subscriptions.as_slice() {
            if self.topics[subscription.topic].attendance.is_some() {
                self.rosters.newcomers.push((id, subscription.topic));
            }
        }
    }

    /// Notes that a subscription has ended.
    pub(super) fn dismiss(&mut self, id: ConnectionId, topic: TopicId) {
        if self.topics[topic].attendance.is_some() {
            self.change_attendance(topic, |attendance| attendance.leave(id.slot()));
        }
    }

    /// Looks at some subscriptions after a replacement of the rules of topics: topics may keep presence that did not,
    /// and the other way round.
    pub fn sweep_presence(&mut self) {
        let generation = self.topics.rules_generation();
        if mem::replace(&mut self.rosters.swept_generation, generation) != generation {
            self.rosters.sweep = Some(0);
        }
        let Some(from) = self.rosters.sweep else { return };
        let mut looks = 0;
        for slot in from..self.connections.slots() {
            if looks >= SWEPT_MAX {
                self.rosters.sweep = Some(slot);
                return;
            }
            looks += 1;
            let Some(id) = self.connections.id_at(slot) else { continue };
            let subscriptions =
                self.connections.get(id).map_or(&[][..], |connection| connection.subscriptions.as_slice());
            let topics: Vec<TopicId> = subscriptions.iter().map(|subscription| subscription.topic).collect();
            looks += topics.len();
            for topic in topics {
                self.topics.renew_rules(topic);
                match (self.topics[topic].rules.members, &self.topics[topic].attendance) {
                    (Some(_), Some(attendance)) if attendance.has(slot) => {}
                    (Some(_), _) => self.rosters.newcomers.push((id, topic)),
                    (None, Some(_)) => self.change_attendance(topic, Attendance::leave_all),
                    (None, None) => {}
                }
            }
        }
        self.rosters.sweep = None;
    }

    /// Returns whether [`ShardHub::sweep_presence`] has not come to its end.
    #[must_use]
    pub fn is_sweeping(&self) -> bool {
        self.rosters.sweep.is_some()
    }

    fn change_attendance(&mut self, topic: TopicId, change: impl FnOnce(&mut Attendance)) {
        let own = self.mesh.number();
        let entry = &mut self.topics[topic];
        let attendance = entry.attendance.get_or_insert_default();
        let before = attendance.bytes();
        change(attendance);
        self.rosters.note_bytes(before, attendance.bytes());
        if !mem::replace(&mut attendance.is_due, true) {
            let home = if let TopicRole::Remote(remote) = &entry.role { remote.home } else { own };
            self.rosters.due.push(home, topic);
        }
    }

    /// Tells the homes of topics who has joined and left, as far as the lanes have room. Returns whether all is told.
    pub(super) fn send_presence(&mut self) -> bool {
        let mut due = mem::take(&mut self.rosters.due);
        due.retry(|topic| self.send_news(topic));
        self.rosters.due = due;
        self.rosters.due.is_empty()
    }

    /// Tells the home of a topic who has joined and left. Returns whether all is told.
    fn send_news(&mut self, id: TopicId) -> bool {
        loop {
            let topic = &mut self.topics[id];
            let Some(attendance) = &mut topic.attendance else { return true };
            let before = attendance.bytes();
            if !attendance.has_news() {
                attendance.is_due = false;
                if attendance.is_empty() {
                    topic.attendance = None;
                    self.topics.notice_unused(id);
                }
                return true;
            }
            let home = match &topic.role {
                TopicRole::Remote(remote) if self.mesh.has_room_for_requests(remote.home) => Some(remote.home),
                TopicRole::Remote(_) => return false,
                TopicRole::Home(_) => None,
            };
            let changes = attendance.take_news(CHANGES_MAX);
            self.rosters.note_bytes(before, attendance.bytes());
            match home {
                Some(home) => {
                    let news = PresenceNews { topic: topic.name.clone(), changes: changes.into() };
                    self.mesh.request(home, Request::Presence(Box::new(news)));
                }
                None => self.enroll(id, changes),
            }
        }
    }

    /// Notes at a topic's home who has joined and left on a shard. Unless an attendance keeps the topic,
    /// [`Topics::notice_unused`](super::topics::Topics::notice_unused) must follow.
    pub(super) fn enroll(&mut self, id: TopicId, changes: Vec<PresenceChange>) {
        let mut at = self.circumstances(id);
        let version = self.rosters.next_version();
        let (rosters, most) = (&mut self.rosters, self.limits.presence_bytes_max);
        let TopicRole::Home(home) = &mut self.topics[id].role else { unreachable!("the news are for the home") };
        let roster = home.roster.get_or_insert_default();
        let (before, counts) = (roster.bytes(), roster.counts());
        let others = rosters.bytes() - before;
        for change in changes {
            let key = change.key;
            at.room = most.saturating_sub(others + roster.bytes());
            match roster.change(change, &at) {
                Effect::Nothing => continue,
                Effect::Changed => {}
                Effect::Leaves(time) => _ = rosters.ends.insert((time, id, key)),
                Effect::Stays(time) => _ = rosters.ends.remove(&(time, id, key)),
            }
            roster.version = version;
        }
        rosters.note_bytes(before, roster.bytes());
        rosters.note_members(counts, roster.counts());
        self.schedule_batch(id);
    }

    /// Lets the members leave whose time has come, a bounded number of them.
    pub(super) fn end_members(&mut self) {
        for _ in 0..ENDED_MAX {
            let Some(&(time, id, key)) = self.rosters.ends.first().filter(|&&(time, ..)| time <= self.now()) else {
                return;
            };
            self.rosters.ends.remove(&(time, id, key));
            let at = self.circumstances(id);
            let version = self.rosters.next_version();
            let Some(roster) = self.roster_mut(id) else { continue };
            let (before, counts) = (roster.bytes(), roster.counts());
            roster.end(key, &at);
            roster.version = version;
            let after = (roster.bytes(), roster.counts());
            self.rosters.note_bytes(before, after.0);
            self.rosters.note_members(counts, after.1);
            self.schedule_batch(id);
            self.topics.notice_unused(id);
        }
    }

    fn circumstances(&mut self, id: TopicId) -> Circumstances {
        self.topics.renew_rules(id);
        // Where the rules keep no presence any more, nobody is waited for.
        let none = PresenceRules { leave_delay_ms: 0, ..PresenceRules::default() };
        let rules = self.topics[id].rules.members.unwrap_or(none);
        let room = self.limits.presence_bytes_max.saturating_sub(self.rosters.bytes());
        Circumstances { now: self.now(), rules, room, is_watched: self.is_watched(id) }
    }

    /// Returns whether somebody gets the events of a topic.
    fn is_watched(&self, id: TopicId) -> bool {
        let Some(events) = self.topics.find(&self.topics[id].name.events()) else { return false };
        let TopicRole::Home(home) = &self.topics[events].role else { return false };
        self.topics[events].subscribed > 0 || !home.interested.is_empty()
    }

    /// Lets a batch of events follow, if there is something to tell; forgets a roster without members, as
    /// [`ShardHub::forget_roster`] does.
    fn schedule_batch(&mut self, id: TopicId) {
        let due = Millis(self.now().0 + BATCH_INTERVAL_MS);
        let Some(roster) = self.roster_mut(id) else { return };
        if roster.has_events() && !mem::replace(&mut roster.is_scheduled, true) {
            self.rosters.batches.push_back((due, id));
        } else {
            self.forget_roster(id);
        }
    }

    /// Forgets the roster of a topic if nobody is there and nothing is to be told.
    /// [`Topics::notice_unused`](super::topics::Topics::notice_unused) must follow.
    pub(super) fn forget_roster(&mut self, id: TopicId) {
        let TopicRole::Home(home) = &mut self.topics[id].role else { return };
        if let Some(roster) = home.roster.take_if(|roster| roster.is_empty()) {
            self.rosters.note_bytes(roster.bytes(), 0);
        }
    }

    pub(super) fn roster_mut(&mut self, id: TopicId) -> Option<&mut Roster> {
        let TopicRole::Home(home) = &mut self.topics[id].role else { return None };
        home.roster.as_deref_mut()
    }

    /// Returns the members of a topic, or only how many they are; `None` if the topic's rules keep no presence.
    ///
    /// # Panics
    ///
    /// If the topic's home is another shard.
    pub fn presence(&mut self, name: &TopicName, has_members: bool) -> Option<Presence> {
        self.send_presence();
        let Some(id) = self.topics.find(name) else {
            return self
                .topics
                .rules()
                .of(name)
                .members
                .map(|_| Presence { version: self.rosters.version(), ..Presence::default() });
        };
        self.topics.renew_rules(id);
        self.topics[id].rules.members?;
        let (end, version) = (self.topics[id].end(), self.rosters.version());
        let TopicRole::Home(home) = &self.topics[id].role else { unreachable!("only the home keeps the members") };
        let mut presence = home.roster.as_ref().map_or_else(Presence::default, |roster| roster.list(has_members));
        (presence.end, presence.version) = (end, home.roster.as_ref().map_or(version, |roster| roster.version));
        Some(presence)
    }

    /// Asks the topic's home for its members, for a connection of this shard. [`ShardHub::take_presences`] returns the
    /// answer with this ticket. It has all that this shard has told before.
    pub fn ask_presence(&mut self, topic: TopicName, ticket: u64) {
        self.rosters.asks.push_back((topic, ticket));
    }

    /// Takes the answers to [`ShardHub::ask_presence`] since the last call, each with its ticket. An answer is `None`
    /// if the rules of the topic keep no presence.
    pub fn take_presences(&mut self) -> Vec<(u64, Option<Presence>)> {
        mem::take(&mut self.rosters.answers)
    }

    /// Returns whether a question can be sent: nothing waits for room that must be sent before.
    #[must_use]
    pub fn has_asks(&self) -> bool {
        !self.rosters.asks.is_empty() && self.due.is_empty() && self.rosters.due.is_empty()
    }

    /// Sends the questions that wait. Everything else about their topics must have been sent.
    pub(super) fn send_asks(&mut self) {
        while let Some((topic, ticket)) = self.rosters.asks.pop_front() {
            let home = self.home(&topic);
            if home == self.mesh.number() {
                let presence = self.presence(&topic, true);
                self.rosters.answers.push((ticket, presence));
            } else {
                let command = Box::new(Command::ReadPresence { topic, has_members: true });
                self.mesh.request(home, Request::Command { command, ticket });
            }
        }
    }

    /// Returns the memory of everything about presence, in bytes.
    #[must_use]
    pub fn presence_bytes(&self) -> usize {
        self.rosters.bytes()
    }

    /// Returns numbers about the presence of the topics whose home is this shard.
    #[must_use]
    pub fn presence_counts(&self) -> PresenceCounts {
        self.rosters.counts()
    }

    /// Returns when [`ShardHub::advance_presence`] has something to do, if nothing happens before.
    #[must_use]
    pub fn next_presence(&self) -> Option<Millis> {
        self.rosters.next()
    }
}

/// The most changes of one request.
const CHANGES_MAX: usize = 64;

/// The most members that leave in one turn.
const ENDED_MAX: usize = 4_096;

/// The most slots and subscriptions that are looked at in a tick after a replacement of the rules.
const SWEPT_MAX: usize = 8_192;

/// Milliseconds from a change to the batch of events that tells of it.
const BATCH_INTERVAL_MS: u64 = 100;
