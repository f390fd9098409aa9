//! Presence: the members of a topic, and the changes of them on their way to the topic's home.

use std::sync::Arc;

use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use super::{memory::ALLOCATION, publication::OrderEnd};

/// The members of a topic, as its home knew them at one place of the topic's order.
///
/// A member is an identity that is subscribed to the topic, with one connection or with several. Connections without an
/// identity are counted in [`Presence::anonymous`]. A member whose last subscription has ended stays in the list, with
/// no connection, until [`PresenceRules::leave_delay_ms`](super::PresenceRules::leave_delay_ms) is over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Presence {
    /// The end of the topic's order when the list was made, if the home knows it.
    pub end: Option<OrderEnd>,
    /// The number of the last change that the list has. Numbers grow; a batch of events with a larger number brings
    /// changes that the list lacks.
    pub version: u64,
    /// The number of members. There may be more of them than `members`: those for which the topic's
    /// [`PresenceRules::members_max`](super::PresenceRules::members_max), the memory for presence, or
    /// [`Presence::BYTES_MAX`] leave no room.
    pub count: u64,
    /// The number of subscriptions of connections without an identity.
    pub anonymous: u64,
    /// The members that are listed, in no order that has a meaning; empty if only the numbers were asked for.
    pub members: Vec<Member>,
}

impl Presence {
    /// The most bytes of a list: the ids and infos of its members, each with [`Presence::MEMBER_BYTES`] more.
    pub const BYTES_MAX: usize = 1 << 20;

    /// Bytes that a member of a list has beside its id and its info.
    pub const MEMBER_BYTES: usize = 48;

    /// Returns how many members are counted and not listed.
    #[must_use]
    pub fn unlisted(&self) -> u64 {
        self.count.saturating_sub(self.members.len() as u64)
    }
}

/// A member of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Member {
    /// The name of the identity.
    pub id: Arc<str>,
    /// What others may know of the identity: a text of JSON, of the member's last connection that has brought one.
    pub info: Option<Arc<str>>,
    /// The number of the member's subscriptions.
    pub connections: u32,
}

/// The id and the info of a member. A clone shares the texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberInfo {
    /// The name of the identity.
    pub id: Arc<str>,
    /// What others may know of it: a text of JSON.
    pub info: Option<Arc<str>>,
}

impl MemberInfo {
    /// Returns what is told of an identity. An info that is not JSON becomes a string of JSON.
    #[must_use]
    pub fn new(id: &str, info: Option<&Arc<str>>) -> Self {
        let as_json = |info: &Arc<str>| match serde_json::from_str::<&RawValue>(info) {
            Ok(_) => Arc::clone(info),
            Err(_) => serde_json::Value::from(&**info).to_string().into(),
        };
        MemberInfo { id: id.into(), info: info.map(as_json) }
    }

    /// Returns the bytes of both texts.
    pub(super) fn text_bytes(&self) -> usize {
        self.id.len() + self.info.as_ref().map_or(0, |info| info.len())
    }

    /// Returns the memory of both texts.
    pub(super) fn bytes(&self) -> usize {
        let texts = 1 + usize::from(self.info.is_some());
        self.text_bytes() + texts * (ALLOCATION + 2 * size_of::<usize>())
    }
}

/// The key of a member: a hash of its id, by which all shards know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberKey([u64; 2]);

impl MemberKey {
    /// The key of all connections without an identity.
    pub const ANONYMOUS: MemberKey = MemberKey([0; 2]);

    /// Returns the key of an id. Nobody can find two ids with one key.
    #[must_use]
    pub fn of(id: &str) -> MemberKey {
        let hash = Sha256::digest(id.as_bytes());
        let part = |from: usize| hash[from..from + 8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        MemberKey([part(0), part(8)])
    }
}

/// A change of a member's subscriptions on one shard, for the topic's home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresenceChange {
    /// The member.
    pub key: MemberKey,
    /// How many more subscriptions the member has than before; fewer if negative.
    pub more: i32,
    /// The id and the info, if the member has subscribed or has other ones than before.
    pub about: Option<MemberInfo>,
}

impl PresenceChange {
    /// Returns the memory of the change outside of the list that it stands in.
    pub(super) fn kept(&self) -> usize {
        self.about.as_ref().map_or(0, MemberInfo::bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_info_is_json() {
        let info = |text: &str| MemberInfo::new("ann", Some(&text.into())).info.unwrap().to_string();
        assert_eq!(info(r#"{"name": "Ann"}"#), r#"{"name": "Ann"}"#);
        assert_eq!(info(r#"say "hi""#), r#""say \"hi\"""#);
        assert_eq!(MemberInfo::new("ann", None).info, None);
    }

    #[test]
    fn keys_follow_from_ids() {
        assert_eq!(MemberKey::of("ann"), MemberKey::of("ann"));
        assert!(MemberKey::of("ann") != MemberKey::of("ben") && MemberKey::of("") != MemberKey::ANONYMOUS);
    }
}
