//! The states of a route's connections on a shard, in a table of slots.

use std::{cell::RefCell, net::SocketAddr, rc::Rc};

use super::profile::{About, Profile};
use crate::hub::{ConnectionId, MemberInfo};

/// A connection, and the key of its state at its route.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seat {
    pub(crate) id: ConnectionId,
    pub(crate) key: u32,
}

/// The states of a route's connections on a shard.
pub(crate) struct States<S>(RefCell<Table<S>>);

/// The parts of all entries, by key. States and profiles stand apart: a state may take no memory, as that of the raw
/// topics, and an entry of both would be twice as long as a profile.
struct Table<S> {
    /// `None` for a key without a connection, and while an entry is out of the table.
    states: Vec<Option<S>>,
    /// No longer than up to the last profile that there has been.
    profiles: Vec<Option<Box<Profile>>>,
    free: Vec<u32>,
}

/// The state and the profile of one connection.
pub(super) struct Entry<S> {
    pub(super) state: S,
    pub(super) profile: Option<Box<Profile>>,
}

impl<S> Table<S> {
    /// Puts an entry at a key that has a place.
    fn put(&mut self, key: u32, Entry { state, profile }: Entry<S>) {
        let at = key as usize;
        self.states[at] = Some(state);
        if self.profiles.len() <= at {
            if profile.is_none() {
                return;
            }
            self.profiles.resize_with(at + 1, || None);
        }
        self.profiles[at] = profile;
    }

    /// Takes the entry of a key, if it is in the table.
    fn take(&mut self, key: u32) -> Option<Entry<S>> {
        let state = self.states.get_mut(key as usize)?.take()?;
        Some(Entry { state, profile: self.profiles.get_mut(key as usize).and_then(Option::take) })
    }

    /// Returns the profile of a key, if it is in the table.
    fn profile(&self, key: u32) -> Option<&Profile> {
        self.profiles.get(key as usize)?.as_deref()
    }
}

impl<S: 'static> States<S> {
    pub(super) fn new() -> Rc<Self> {
        Rc::new(States(RefCell::new(Table { states: Vec::new(), profiles: Vec::new(), free: Vec::new() })))
    }

    /// Keeps a state, and returns its key.
    pub(super) fn insert(&self, state: S, profile: Option<Box<Profile>>) -> u32 {
        let mut table = self.0.borrow_mut();
        let key = table.free.pop().unwrap_or_else(|| {
            table.states.push(None);
            table.states.len() as u32 - 1
        });
        table.put(key, Entry { state, profile });
        key
    }

    /// Drops the state of a key.
    pub(super) fn remove(&self, key: u32) {
        let mut table = self.0.borrow_mut();
        let entry = table.take(key);
        table.free.push(key);
        drop(table);
        // The entry is dropped outside of the borrow, since the drop of a state runs an embedder's code.
        drop(entry);
    }

    /// Returns what the profile of a connection says about its opening, if the entry is in the table.
    pub(super) fn about(&self, key: u32) -> About {
        self.0.borrow().profile(key).map(Profile::about).unwrap_or_default()
    }

    /// Returns the member of topics that a connection counts for, if it has an identity.
    pub(super) fn member(&self, key: u32) -> Option<MemberInfo> {
        self.0.borrow().profile(key)?.member()
    }

    /// Returns the client's address, if it is kept.
    pub(super) fn peer(&self, key: u32) -> Option<SocketAddr> {
        self.0.borrow().profile(key)?.peer()
    }
}

/// An entry that is out of its table, and goes back into the table even after a panic.
pub(super) struct Out<'a, S> {
    states: &'a States<S>,
    key: u32,
    pub(super) entry: Option<Entry<S>>,
}

impl<'a, S> Out<'a, S> {
    /// Takes the entry of a key out of its table. Returns `None` if the connection has ended, or if the entry is out
    /// already.
    pub(super) fn take(states: &'a States<S>, key: u32) -> Option<Self> {
        let entry = states.0.borrow_mut().take(key)?;
        Some(Out { states, key, entry: Some(entry) })
    }
}

impl<S> Drop for Out<'_, S> {
    fn drop(&mut self) {
        if let Some(entry) = self.entry.take() {
            self.states.0.borrow_mut().put(self.key, entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(protocol: &str) -> Option<Box<Profile>> {
        Some(Box::new(Profile { protocol: Some(protocol.to_owned()), ..Profile::default() }))
    }

    #[test]
    fn connections_without_profiles_take_no_memory_for_them() {
        let states = States::<()>::new();
        let keys: Vec<u32> = (0..100).map(|_| states.insert((), None)).collect();
        assert_eq!(keys, (0..100).collect::<Vec<_>>());
        let table = states.0.borrow();
        assert_eq!((table.profiles.capacity(), size_of_val(&table.states[..])), (0, 100));
    }

    #[test]
    fn a_profile_belongs_to_one_connection() {
        let states = States::new();
        let keys = [None, profile("first"), None].map(|profile| states.insert(7, profile));
        let protocols = || keys.map(|key| states.about(key).protocol.map(String::from));
        assert_eq!(protocols(), [None, Some("first".to_owned()), None]);
        // The entry has no profile while it is out, and may come back with another one.
        let mut out = Out::take(&states, keys[2]).unwrap();
        assert!(Out::take(&states, keys[2]).is_none());
        out.entry.as_mut().unwrap().profile = profile("third");
        drop(out);
        assert_eq!(protocols()[2].as_deref(), Some("third"));
        // The next connection of a key has nothing of the last one, also if that one ended while its entry was out.
        let out = Out::take(&states, keys[1]).unwrap();
        states.remove(keys[1]);
        drop(out);
        assert_eq!(states.insert(8, None), keys[1]);
        assert_eq!(protocols()[1], None);
        assert_eq!(Out::take(&states, keys[1]).unwrap().entry.as_ref().unwrap().state, 8);
    }
}
