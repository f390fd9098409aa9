//! The connections of a shard by their identities and tokens.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use crate::{auth::Identities, hub::Who};

/// The connections of a shard by their identities and tokens. A connection without an identity costs nothing here.
#[derive(Debug, Default)]
pub(super) struct People {
    /// The slots of each owner's connections.
    slots: HashMap<Who, BTreeSet<u32>>,
    /// By slot: the names by which the connection is found.
    names: HashMap<u32, Named>,
}

/// The names by which a connection is found.
#[derive(Debug)]
struct Named {
    /// The name of the identity by which the connection is known, and the id of its token.
    identity: Arc<str>,
    token: Option<Arc<str>>,
    /// The names of the connection's other identities, and the ids of their tokens.
    others: Box<[Who]>,
}

impl People {
    /// Notes the identities of a connection. Earlier ones are forgotten.
    pub(super) fn note(&mut self, slot: u32, identities: &Identities) {
        self.remove(slot);
        let mut all = identities.all();
        let Some(main) = all.next() else { return };
        let identity = Arc::clone(self.add(Who::identity(&main.name), slot).name());
        let token = main.token_id.as_ref().map(|id| Arc::clone(self.add(Who::Token(Arc::clone(id)), slot).name()));
        let mut others = Vec::new();
        for other in all {
            others.push(self.add(Who::identity(&other.name), slot));
            others.extend(other.token_id.as_ref().map(|id| self.add(Who::Token(Arc::clone(id)), slot)));
        }
        self.names.insert(slot, Named { identity, token, others: others.into() });
    }

    /// Forgets a connection, which may have had no identity.
    pub(super) fn remove(&mut self, slot: u32) {
        if self.names.is_empty() {
            return;
        }
        let Some(Named { identity, token, others }) = self.names.remove(&slot) else { return };
        let main = [Some(Who::Identity(identity)), token.map(Who::Token)];
        main.iter().flatten().chain(&others).for_each(|who| self.forget(who, slot));
    }

    /// Returns the name of the identity by which a slot's connection is known. Where the gate of the connection's own
    /// route has found none, it is the first one that the gate of another route has found.
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

    /// Adds a slot to those of its owner, and returns the owner, whose name all slots of the owner share.
    fn add(&mut self, who: Who, slot: u32) -> Who {
        let known = self.slots.get_key_value(&who).map(|(known, _)| known.clone());
        let who = known.unwrap_or(who);
        self.slots.entry(who.clone()).or_default().insert(slot);
        who
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
    use crate::auth::Identity;

    fn slots(people: &People, who: &Who, from: u32) -> Vec<u32> {
        people.slots(who, from).collect()
    }

    fn of(identity: Identity) -> Identities {
        Identities::new(Some(identity), &[])
    }

    fn with_token(name: &str, token: &str) -> Identity {
        Identity { token_id: Some(token.into()), ..Identity::new(name) }
    }

    #[test]
    fn connections_are_found_by_identity_and_by_token() {
        let mut people = People::default();
        people.note(7, &of(with_token("ann", "t")));
        people.note(3, &of(Identity::new("ann")));
        people.note(5, &of(Identity::new("t")));
        assert_eq!(slots(&people, &Who::identity("ann"), 0), [3, 7]);
        assert_eq!(slots(&people, &Who::identity("ann"), 4), [7]);
        assert_eq!(slots(&people, &Who::token("t"), 0), [7], "an identity of that name is another owner");
        assert_eq!(people.identity(5).map(|name| &**name), Some("t"));
        // A connection that gets another identity.
        people.note(7, &of(Identity::new("bob")));
        assert!(slots(&people, &Who::token("t"), 0).is_empty());
        assert_eq!(slots(&people, &Who::identity("bob"), 0), [7]);
        [3, 5, 7, 9].into_iter().for_each(|slot| people.remove(slot));
        assert!(people.is_empty());
    }

    /// All identities lead to a connection, whichever gate has found them, and one of them names it.
    #[test]
    fn connections_are_found_by_every_identity() {
        let mut people = People::default();
        let own = with_token("42", "a").after(with_token("ann", "b"));
        people.note(1, &Identities::new(Some(own), &[with_token("guest", "c"), with_token("42", "a")]));
        people.note(2, &Identities::new(None, &[with_token("guest", "d")]));
        people.note(3, &Identities::default());
        let names = ["42", "ann", "guest"].map(Who::identity);
        let tokens = ["a", "b", "c", "d"].map(Who::token);
        let found: Vec<Vec<u32>> = names.iter().chain(&tokens).map(|who| slots(&people, who, 0)).collect();
        assert_eq!(found, [vec![1], vec![1], vec![1, 2], vec![1], vec![1], vec![1], vec![2]]);
        let named = [1, 2, 3].map(|slot| people.identity(slot).map(|name| &**name));
        assert_eq!(named, [Some("42"), Some("guest"), None]);
        people.note(1, &of(Identity::new("42")));
        assert_eq!(slots(&people, &Who::identity("guest"), 0), [2]);
        assert_eq!(slots(&people, &Who::identity("42"), 0), [1]);
        [1, 2, 3].into_iter().for_each(|slot| people.remove(slot));
        assert!(people.is_empty());
    }
}
