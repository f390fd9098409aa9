//! The connections of a shard by their identities and tokens.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use crate::{auth::Identity, hub::Who};

/// The connections of a shard by their identities and tokens. A connection without an identity costs nothing here.
#[derive(Debug, Default)]
pub(super) struct People {
    /// The slots of each owner's connections.
    slots: HashMap<Who, BTreeSet<u32>>,
    /// By slot: the name of the connection's identity, and the id of its token.
    names: HashMap<u32, Named>,
}

#[derive(Debug)]
struct Named {
    identity: Arc<str>,
    token: Option<Arc<str>>,
}

impl People {
    /// Notes the identity of a connection. An earlier identity of the connection is forgotten.
    pub(super) fn add(&mut self, slot: u32, identity: &Identity) {
        self.remove(slot);
        let name = self.note(Who::identity(&identity.name), slot);
        let token = identity.token_id.as_ref().map(|id| self.note(Who::Token(Arc::clone(id)), slot));
        self.names.insert(slot, Named { identity: name, token });
    }

    /// Forgets a connection, which may have had no identity.
    pub(super) fn remove(&mut self, slot: u32) {
        if self.names.is_empty() {
            return;
        }
        let Some(Named { identity, token }) = self.names.remove(&slot) else { return };
        self.forget(&Who::Identity(identity), slot);
        if let Some(token) = token {
            self.forget(&Who::Token(token), slot);
        }
    }

    /// Returns the name of the identity of a slot's connection.
    pub(super) fn identity(&self, slot: u32) -> Option<&Arc<str>> {
        self.names.get(&slot).map(|named| &named.identity)
    }

    /// Returns the slots of the owner's connections, from a slot on, in order.
    pub(super) fn slots(&self, who: &Who, from: u32) -> impl Iterator<Item = u32> + '_ {
        self.slots.get(who).into_iter().flat_map(move |slots| slots.range(from..).copied())
    }

    /// Returns whether no connection has an identity.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty() && self.names.is_empty()
    }

    /// Adds a slot to those of its owner, and returns the owner's name, which all slots of the owner share.
    fn note(&mut self, who: Who, slot: u32) -> Arc<str> {
        let known = self.slots.get_key_value(&who).map(|(known, _)| known.clone());
        let who = known.unwrap_or(who);
        let name = Arc::clone(who.name());
        self.slots.entry(who).or_default().insert(slot);
        name
    }

    fn forget(&mut self, who: &Who, slot: u32) {
        let Some(slots) = self.slots.get_mut(who) else { return };
        slots.remove(&slot);
        if slots.is_empty() {
            self.slots.remove(who);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_found_by_identity_and_by_token() {
        let mut people = People::default();
        let ann = Identity { token_id: Some("t".into()), ..Identity::new("ann") };
        people.add(7, &ann);
        people.add(3, &Identity::new("ann"));
        people.add(5, &Identity::new("t"));
        let slots = |people: &People, who: &Who, from| people.slots(who, from).collect::<Vec<_>>();
        assert_eq!(slots(&people, &Who::identity("ann"), 0), [3, 7]);
        assert_eq!(slots(&people, &Who::identity("ann"), 4), [7]);
        assert_eq!(slots(&people, &Who::token("t"), 0), [7], "an identity of that name is another owner");
        assert_eq!(people.identity(5).map(|name| &**name), Some("t"));
        // A connection that gets another identity.
        people.add(7, &Identity::new("bob"));
        assert!(slots(&people, &Who::token("t"), 0).is_empty());
        assert_eq!(slots(&people, &Who::identity("bob"), 0), [7]);
        [3, 5, 7, 9].into_iter().for_each(|slot| people.remove(slot));
        assert!(people.is_empty());
    }
}
