//! Owners: whom publications count for in the tables of a home that all publishers share.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
};

/// Whom a publication counts for: an identity, or the network of an address. Publications of the server's own program
/// have no owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Owner(u64);

impl Owner {
    /// Returns the owner of this name.
    #[must_use]
    pub fn of(name: &impl Hash) -> Owner {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        Owner(hasher.finish())
    }
}

/// How much of a table each owner takes. An owner may take as much as is left: the first one half of the table, the
/// next one half of the rest, and so on. So nobody fills a table for the others.
#[derive(Debug, Default)]
pub(super) struct Shares(HashMap<Owner, usize>);

impl Shares {
    /// Returns whether an owner may take so much more of a table in which so much is left.
    pub(super) fn may_take(&self, owner: Option<Owner>, amount: usize, left: usize) -> bool {
        let own = owner.and_then(|owner| self.0.get(&owner).copied()).unwrap_or_default();
        own + amount <= left
    }

    pub(super) fn take(&mut self, owner: Option<Owner>, amount: usize) {
        if let Some(owner) = owner {
            *self.0.entry(owner).or_default() += amount;
        }
    }

    pub(super) fn give_back(&mut self, owner: Option<Owner>, amount: usize) {
        let Some(owner) = owner else { return };
        let own = self.0.get_mut(&owner).expect("the owner has taken as much");
        *own -= amount;
        if *own == 0 {
            self.0.remove(&owner);
            if self.0.is_empty() {
                // The large table of a crowd is not kept.
                self.0 = HashMap::new();
            }
        }
    }
}

/// Bytes of an owner in the table, which is up to half empty.
pub(super) const OWNER_BYTES: usize = 2 * (size_of::<(Owner, usize)>() + 1);

#[cfg(test)]
mod tests {
    use super::*;

    /// One owner has half of a table, the next one half of the rest, and there is a place for a newcomer.
    #[test]
    fn an_owner_leaves_room_to_others() {
        const ALL: usize = 16;
        let (mut shares, mut taken) = (Shares::default(), 0);
        for (name, expected) in [("a", 8), ("b", 4), ("c", 2), ("d", 1)] {
            let owner = Some(Owner::of(&name));
            let before = taken;
            while shares.may_take(owner, 1, ALL - taken) {
                shares.take(owner, 1);
                taken += 1;
            }
            assert_eq!(taken - before, expected, "{name}");
        }
        assert!(!shares.may_take(Some(Owner::of(&"a")), 1, 1) && shares.may_take(Some(Owner::of(&"e")), 1, 1));
        assert!(shares.may_take(None, 1, 1) && !shares.may_take(None, 2, 1), "the program has all that is left");
        for (name, count) in [("a", 8), ("b", 4), ("c", 2), ("d", 1)] {
            shares.give_back(Some(Owner::of(&name)), count);
        }
        assert!(shares.0.is_empty());
    }
}
