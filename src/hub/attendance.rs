//! Attendance: the members of a topic among the connections of one shard, and what the topic's home has not been told
//! of them.

use std::collections::{BTreeMap, HashMap};

use super::presence::{MemberInfo, MemberKey, PresenceChange};

/// The subscriptions of a topic on this shard, by the members that they count for.
#[derive(Debug, Default)]
pub(super) struct Attendance {
    /// By slot: the member that the connection counts for.
    slots: HashMap<u32, MemberKey>,
    /// What the home has not been told, each member once.
    news: BTreeMap<MemberKey, News>,
    /// The memory of the texts in `news`.
    news_bytes: usize,
    /// Whether the topic stands in the queue of those with news.
    pub(super) is_due: bool,
}

#[derive(Debug, Default)]
struct News {
    more: i32,
    about: Option<MemberInfo>,
}

impl Attendance {
    /// Notes that a connection counts for a member, whether it counted before or not.
    pub(super) fn join(&mut self, slot: u32, about: Option<MemberInfo>) {
        let key = about.as_ref().map_or(MemberKey::ANONYMOUS, |about| MemberKey::of(&about.id));
        let before = self.slots.insert(slot, key);
        if before == Some(key) && about.is_none() {
            return;
        }
        if let Some(before) = before.filter(|before| *before != key) {
            self.add(before, -1, None);
        }
        self.add(key, i32::from(before != Some(key)), about);
    }

    /// Notes that a connection is no subscriber any more.
    pub(super) fn leave(&mut self, slot: u32) {
        if let Some(key) = self.slots.remove(&slot) {
            self.add(key, -1, None);
        }
        if self.slots.len() < self.slots.capacity() / 4 {
            self.slots.shrink_to(2 * self.slots.len());
        }
    }

    /// Notes that no connection counts any more, since the topic's rules keep no presence.
    pub(super) fn leave_all(&mut self) {
        for key in std::mem::take(&mut self.slots).into_values() {
            self.add(key, -1, None);
        }
    }

    fn add(&mut self, key: MemberKey, more: i32, about: Option<MemberInfo>) {
        let news = self.news.entry(key).or_default();
        news.more += more;
        if about.is_some() {
            let bytes = |about: &Option<MemberInfo>| about.as_ref().map_or(0, MemberInfo::bytes);
            self.news_bytes = self.news_bytes + bytes(&about) - bytes(&news.about);
            news.about = about;
        } else if news.more == 0 && news.about.is_none() {
            self.news.remove(&key);
        }
    }

    /// Takes news for the home, at most so many.
    pub(super) fn take_news(&mut self, most: usize) -> Vec<PresenceChange> {
        let mut changes = Vec::with_capacity(most.min(self.news.len()));
        while changes.len() < most
            && let Some((key, News { more, about })) = self.news.pop_first()
        {
            let change = PresenceChange { key, more, about };
            self.news_bytes -= change.kept();
            changes.push(change);
        }
        changes
    }

    /// Returns whether a connection counts.
    pub(super) fn has(&self, slot: u32) -> bool {
        self.slots.contains_key(&slot)
    }

    /// Returns whether there is something that the home has not been told.
    pub(super) fn has_news(&self) -> bool {
        !self.news.is_empty()
    }

    /// Returns whether no connection counts, and the home knows all.
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty() && self.news.is_empty()
    }

    /// Returns the memory of the attendance.
    pub(super) fn bytes(&self) -> usize {
        SLOT_BYTES * self.slots.len() + NEWS_BYTES * self.news.len() + self.news_bytes
    }
}

/// Bytes of a slot in a table that is at least seven sixteenths full.
const SLOT_BYTES: usize = (size_of::<(u32, MemberKey)>() + 1) * 16 / 7;

/// Bytes of news in a tree whose nodes are at least half full.
const NEWS_BYTES: usize = 2 * size_of::<(MemberKey, News)>() + 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn about(id: &str) -> Option<MemberInfo> {
        Some(MemberInfo::new(id, None))
    }

    fn news(attendance: &mut Attendance) -> Vec<(Option<String>, i32)> {
        let changes = attendance.take_news(usize::MAX).into_iter();
        let mut changes: Vec<_> =
            changes.map(|change| (change.about.map(|about| about.id.to_string()), change.more)).collect();
        changes.sort();
        changes
    }

    #[test]
    fn changes_of_a_member_are_told_together() {
        let mut attendance = Attendance::default();
        for slot in 0..3 {
            attendance.join(slot, about("ann"));
        }
        attendance.join(3, None);
        attendance.join(3, None);
        attendance.leave(0);
        attendance.leave(9);
        assert_eq!(news(&mut attendance), [(None, 1), (Some("ann".into()), 2)]);
        // A connection that gets an identity, and one that gets another.
        attendance.join(3, about("ben"));
        attendance.join(2, about("ben"));
        assert_eq!(news(&mut attendance), [(None, -1), (None, -1), (Some("ben".into()), 2)]);
        // The same identity with another info.
        attendance.join(2, about("ben"));
        assert_eq!(news(&mut attendance), [(Some("ben".into()), 0)]);
        attendance.leave_all();
        assert_eq!(news(&mut attendance), [(None, -2), (None, -1)]);
        assert!(attendance.is_empty() && attendance.bytes() == 0);
    }

    #[test]
    fn news_are_taken_in_parts() {
        let mut attendance = Attendance::default();
        for slot in 0..10 {
            attendance.join(slot, about(&slot.to_string()));
        }
        assert_eq!((attendance.take_news(7).len(), attendance.take_news(7).len()), (7, 3));
        assert!(!attendance.has_news() && !attendance.is_empty());
        attendance.leave(3);
        attendance.join(3, about("3"));
        assert_eq!(attendance.take_news(7).len(), 1, "the info may be another one");
        attendance.join(11, None);
        attendance.leave(11);
        assert!(!attendance.has_news(), "the home need not know");
    }
}
