//! Rosters: the members of a topic, as its home keeps them, and what has changed since the last batch of events.

use std::{
    collections::{BTreeMap, btree_map},
    sync::Arc,
};

use super::{
    presence::{Member, MemberInfo, MemberKey, Presence, PresenceChange},
    presence_rules::PresenceRules,
};
use crate::proto::Millis;

/// The members of a topic, of all shards.
#[derive(Debug, Default)]
pub(super) struct Roster {
    members: BTreeMap<MemberKey, Entry>,
    /// How many members have a description.
    listed: u64,
    /// The memory of these descriptions.
    listed_bytes: usize,
    /// The subscriptions of connections without an identity.
    anonymous: u64,
    /// The number of the last change.
    pub(super) version: u64,
    changed: Changed,
    /// Whether a batch of events is to follow.
    pub(super) is_scheduled: bool,
}

/// A member.
#[derive(Debug)]
struct Entry {
    /// The id and the info; `None` for a member that is counted and not listed.
    about: Option<MemberInfo>,
    /// The member's subscriptions on all shards.
    connections: u32,
    /// The time at which the member leaves, if its last subscription has ended.
    leaves_at: Option<Millis>,
}

/// What has changed since the last batch.
#[derive(Debug, Default)]
struct Changed {
    /// The members that have joined, or have another info (`None`), and those that have left, with their ids.
    members: BTreeMap<MemberKey, Option<Arc<str>>>,
    bytes: usize,
    /// Whether only the counts are told.
    are_too_many: bool,
}

/// The circumstances of a change.
#[derive(Debug, Clone, Copy)]
pub(super) struct Circumstances {
    pub(super) now: Millis,
    pub(super) rules: PresenceRules,
    /// Bytes for the descriptions of further members.
    pub(super) room: usize,
    /// Whether somebody gets events.
    pub(super) is_watched: bool,
}

/// The effect of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    Nothing,
    /// The counts or the list have changed.
    Changed,
    /// The member leaves at this time.
    Leaves(Millis),
    /// The member does not leave at this time: it has come back.
    Stays(Millis),
}

/// The events of a topic since the last batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) count: u64,
    pub(super) anonymous: u64,
    /// Who has joined, or has another info, and who has left; `None` if only the counts are told.
    pub(super) names: Option<(Vec<MemberInfo>, Vec<Arc<str>>)>,
}

impl Roster {
    /// Takes a change that a shard has told.
    pub(super) fn change(&mut self, change: PresenceChange, at: &Circumstances) -> Effect {
        let PresenceChange { key, more, about } = change;
        if key == MemberKey::ANONYMOUS {
            self.anonymous = self.anonymous.saturating_add_signed(more.into());
            self.note(key, None, at);
            return Effect::Changed;
        }
        let may_be_listed = |about: &MemberInfo, listed: u64| about.bytes() <= at.room && listed < at.rules.members_max;
        let entry = match self.members.entry(key) {
            // The member has left before the home has heard of it.
            btree_map::Entry::Vacant(_) if more <= 0 => return Effect::Nothing,
            btree_map::Entry::Vacant(vacant) => {
                let about = about.filter(|about| may_be_listed(about, self.listed));
                self.listed += u64::from(about.is_some());
                self.listed_bytes += about.as_ref().map_or(0, MemberInfo::bytes);
                vacant.insert(Entry { about, connections: more.unsigned_abs(), leaves_at: None });
                self.note(key, None, at);
                return Effect::Changed;
            }
            btree_map::Entry::Occupied(occupied) => occupied.into_mut(),
        };
        entry.connections = entry.connections.saturating_add_signed(more);
        let others = self.listed - u64::from(entry.about.is_some());
        // A connection without an info takes none away.
        let known = entry.about.as_ref().and_then(|known| known.info.clone());
        let about = about.map(|about| MemberInfo { info: about.info.or(known), ..about });
        let renewed = about.filter(|about| entry.about.as_ref() != Some(about) && may_be_listed(about, others));
        let is_renewed = renewed.is_some();
        if let Some(about) = renewed {
            self.listed_bytes = self.listed_bytes + about.bytes() - entry.about.as_ref().map_or(0, MemberInfo::bytes);
            self.listed = others + 1;
            entry.about = Some(about);
        }
        let effect = match entry.leaves_at {
            None if entry.connections == 0 => {
                // A member that is not listed has no place in the memory for presence, so nothing bounds how many would
                // wait: it leaves at once.
                let delay = if entry.about.is_some() { at.rules.leave_delay_ms } else { 0 };
                let leaves_at = Millis(at.now.0.saturating_add(delay));
                entry.leaves_at = Some(leaves_at);
                Effect::Leaves(leaves_at)
            }
            Some(leaves_at) if entry.connections > 0 => {
                entry.leaves_at = None;
                Effect::Stays(leaves_at)
            }
            _ => Effect::Changed,
        };
        if is_renewed {
            self.note(key, None, at);
        }
        effect
    }

    /// Lets a member leave whose time has come.
    pub(super) fn end(&mut self, key: MemberKey, at: &Circumstances) {
        let Some(entry) = self.members.remove(&key) else { return };
        let Some(about) = entry.about else { return self.note(MemberKey::ANONYMOUS, None, at) };
        self.listed -= 1;
        self.listed_bytes -= about.bytes();
        self.note(key, Some(about.id), at);
    }

    /// Notes a change for the next batch: a member that has joined, or the id of one that has left.
    fn note(&mut self, key: MemberKey, left: Option<Arc<str>>, at: &Circumstances) {
        if !at.is_watched {
            return;
        }
        let text = |left: &Option<Arc<str>>| left.as_ref().map_or(0, |id| id.len());
        self.changed.bytes += CHANGE_BYTES + text(&left);
        if let Some(before) = self.changed.members.insert(key, left) {
            self.changed.bytes -= CHANGE_BYTES + text(&before);
        }
        if self.changed.members.len() as u64 > at.rules.events_members_max.saturating_add(1) {
            self.changed = Changed { are_too_many: true, ..Changed::default() };
            self.note_count(key);
        }
    }

    /// Keeps an entry, so that the counts are told.
    fn note_count(&mut self, key: MemberKey) {
        self.changed.members.insert(key, None);
        self.changed.bytes = CHANGE_BYTES;
    }

    /// Returns whether there is something to tell.
    pub(super) fn has_events(&self) -> bool {
        !self.changed.members.is_empty()
    }

    /// Takes what has changed since the last batch.
    pub(super) fn take_batch(&mut self, rules: &PresenceRules) -> Batch {
        let Changed { members, are_too_many, .. } = std::mem::take(&mut self.changed);
        let batch = Batch { count: self.members.len() as u64, anonymous: self.anonymous, names: None };
        if are_too_many || batch.count > rules.events_members_max {
            return batch;
        }
        let (mut joined, mut left, mut bytes) = (Vec::new(), Vec::new(), 0);
        for (key, id) in members {
            if let Some(id) = id {
                bytes += id.len();
                left.push(id);
            } else if let Some(about) = self.members.get(&key).and_then(|entry| entry.about.clone()) {
                bytes += about.text_bytes();
                joined.push(about);
            }
        }
        let names = (bytes <= BATCH_BYTES_MAX).then_some((joined, left));
        Batch { names, ..batch }
    }

    /// Returns the members, or only how many they are.
    pub(super) fn list(&self, has_members: bool) -> Presence {
        let mut presence =
            Presence { count: self.members.len() as u64, anonymous: self.anonymous, ..Presence::default() };
        let mut bytes = 0;
        let members = self.members.values().take_while(|_| has_members);
        for (MemberInfo { id, info }, connections) in
            members.filter_map(|entry| Some((entry.about.as_ref()?, entry.connections)))
        {
            bytes += Presence::MEMBER_BYTES + id.len() + info.as_ref().map_or(0, |info| info.len());
            if bytes > Presence::BYTES_MAX {
                break;
            }
            presence.members.push(Member { id: Arc::clone(id), info: info.clone(), connections });
        }
        presence
    }

    /// Returns whether nobody is there, and nothing is to be told.
    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty() && self.anonymous == 0 && !self.is_scheduled
    }

    /// Returns the number of members, and how many of them are listed.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.members.len() as u64, self.listed)
    }

    /// Returns the memory of the roster.
    pub(super) fn bytes(&self) -> usize {
        ENTRY_BYTES * self.members.len() + self.listed_bytes + self.changed.bytes
    }
}

/// Bytes of a member in a tree whose nodes are at least half full, and of its place among those that leave.
const ENTRY_BYTES: usize = 2 * size_of::<(MemberKey, Entry)>() + 96;

/// Bytes of a change in a tree whose nodes are at least half full.
const CHANGE_BYTES: usize = 2 * size_of::<(MemberKey, Option<Arc<str>>)>() + 16;

/// The most bytes of ids and infos in a batch that tells of names.
pub(super) const BATCH_BYTES_MAX: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(now: u64, room: usize, members_max: u64) -> Circumstances {
        let rules = PresenceRules { leave_delay_ms: 50, members_max, events_members_max: 3 };
        Circumstances { now: Millis(now), rules, room, is_watched: true }
    }

    fn change(id: &str, more: i32) -> PresenceChange {
        PresenceChange { key: MemberKey::of(id), more, about: (more > 0).then(|| MemberInfo::new(id, None)) }
    }

    fn ids(presence: &Presence) -> Vec<String> {
        let mut ids: Vec<String> = presence.members.iter().map(|member| member.id.to_string()).collect();
        ids.sort();
        ids
    }

    fn names(roster: &mut Roster, rules: &PresenceRules) -> Option<(Vec<String>, Vec<String>)> {
        let (joined, left) = roster.take_batch(rules).names?;
        let mut joined: Vec<String> = joined.iter().map(|about| about.id.to_string()).collect();
        joined.sort();
        Some((joined, left.iter().map(|id| id.to_string()).collect()))
    }

    #[test]
    fn a_member_leaves_after_the_delay() {
        let (mut roster, now) = (Roster::default(), at(100, 10_000, 10));
        assert_eq!(roster.change(change("ann", -1), &now), Effect::Nothing, "it has left before");
        assert_eq!(roster.change(change("ann", 2), &now), Effect::Changed);
        assert_eq!(roster.change(change("ann", -1), &now), Effect::Changed);
        assert_eq!(roster.change(change("ann", -1), &now), Effect::Leaves(Millis(150)));
        assert_eq!(roster.list(true).members[0].connections, 0);
        assert_eq!(names(&mut roster, &now.rules), Some((vec!["ann".into()], vec![])));
        assert_eq!(roster.change(change("ann", 1), &at(140, 10_000, 10)), Effect::Stays(Millis(150)));
        assert!(!roster.has_events(), "it has never left");
        assert_eq!(roster.change(change("ann", -1), &now), Effect::Leaves(Millis(150)));
        roster.end(MemberKey::of("ann"), &now);
        assert_eq!(names(&mut roster, &now.rules), Some((vec![], vec!["ann".into()])));
        assert!(roster.is_empty() && roster.bytes() == 0);
    }

    #[test]
    fn members_beyond_a_limit_are_counted() {
        let one = MemberInfo::new("ann", None).bytes();
        for (room, members_max) in [(0, 10), (10_000, 1)] {
            let (mut roster, few, plenty) = (Roster::default(), at(0, room, members_max), at(0, 10_000, 10));
            roster.change(change("ann", 1), &plenty);
            for id in ["ben", "cat", "ben"] {
                roster.change(change(id, 1), &few);
            }
            let presence = roster.list(true);
            assert_eq!((presence.count, ids(&presence), presence.unlisted()), (3, vec!["ann".into()], 2));
            assert_eq!(roster.counts(), (3, 1));
            // Their leaves are counted too and have no delay, and who subscribes again is listed if there is room.
            assert_eq!(roster.change(change("cat", -1), &few), Effect::Leaves(Millis(0)));
            roster.end(MemberKey::of("cat"), &few);
            assert_eq!(names(&mut roster, &few.rules), Some((vec!["ann".into()], vec![])));
            roster.change(change("ben", 1), &plenty);
            assert_eq!(ids(&roster.list(true)), ["ann", "ben"]);
            assert_eq!(roster.list(true).members.iter().map(|member| member.connections).max(), Some(3));
            assert_eq!(roster.bytes(), 2 * (ENTRY_BYTES + one) + CHANGE_BYTES);
        }
    }

    /// An identity has an info by one of its authenticators, and none by another.
    #[test]
    fn a_connection_without_an_info_takes_none_away() {
        let (mut roster, now) = (Roster::default(), at(0, 10_000, 10));
        let about = |info: Option<&str>| Some(MemberInfo::new("ann", info.map(Arc::from).as_ref()));
        for info in [None, Some("1"), None, Some("2"), None] {
            roster.change(PresenceChange { about: about(info), ..change("ann", 1) }, &now);
        }
        assert_eq!(roster.list(true).members[0].info.as_deref(), Some("2"));
        assert_eq!(roster.bytes(), ENTRY_BYTES + about(Some("2")).unwrap().bytes() + CHANGE_BYTES);
    }

    #[test]
    fn many_changes_are_told_by_their_counts() {
        let (mut roster, now) = (Roster::default(), at(0, 10_000, 100));
        for id in ["a", "b", "c"] {
            roster.change(change(id, 1), &now);
        }
        assert!(names(&mut roster, &now.rules).is_some());
        roster.change(change("d", 1), &now);
        let batch = roster.take_batch(&now.rules);
        assert_eq!(batch, Batch { count: 4, anonymous: 0, names: None });
        // Few members, and many changes.
        for id in ["a", "b", "c", "d"] {
            roster.end(MemberKey::of(id), &now);
        }
        for id in ["e", "f"] {
            roster.change(change(id, 1), &now);
            roster.end(MemberKey::of(id), &now);
        }
        assert!(roster.bytes() < 5 * (CHANGE_BYTES + 1));
        assert_eq!(roster.take_batch(&now.rules), Batch { count: 0, anonymous: 0, names: None });
        let long = "x".repeat(BATCH_BYTES_MAX);
        roster.change(change(&long, 1), &at(0, usize::MAX, 100));
        assert!(names(&mut roster, &now.rules).is_some());
        roster.change(change("y", 1), &now);
        roster.end(MemberKey::of(&long), &now);
        assert_eq!(roster.take_batch(&now.rules).names, None, "the ids are too long");
    }

    #[test]
    fn a_list_is_bounded_in_bytes() {
        let (mut roster, now) = (Roster::default(), at(0, usize::MAX, 100));
        let long = |number: usize| format!("{number}{}", "x".repeat(Presence::BYTES_MAX / 3));
        (0..4).for_each(|number| _ = roster.change(change(&long(number), 1), &now));
        let presence = roster.list(true);
        assert_eq!((presence.members.len(), presence.count, presence.unlisted()), (2, 4, 2));
        assert_eq!((roster.list(false).members.len(), roster.list(false).count), (0, 4));
    }

    /// A change of the info is told as a join, and one of the number of connections is not.
    #[test]
    fn another_info_is_told() {
        let (mut roster, now) = (Roster::default(), at(0, 10_000, 100));
        roster.change(change("ann", 1), &now);
        roster.take_batch(&now.rules);
        roster.change(change("ann", 1), &now);
        assert!(!roster.has_events());
        let about = MemberInfo::new("ann", Some(&"[1]".into()));
        roster.change(PresenceChange { key: MemberKey::of("ann"), more: 0, about: Some(about.clone()) }, &now);
        assert_eq!(roster.take_batch(&now.rules).names, Some((vec![about], vec![])));
        roster.change(PresenceChange { key: MemberKey::ANONYMOUS, more: 2, about: None }, &now);
        assert_eq!(roster.take_batch(&now.rules), Batch { count: 1, anonymous: 2, names: Some((vec![], vec![])) });
    }
}
