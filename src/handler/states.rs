//! The states of a route's connections on a shard, in a table of slots.

use std::{cell::RefCell, net::SocketAddr, rc::Rc};

use super::profile::{About, Profile};
use crate::hub::ConnectionId;

/// A connection, and the key of its state at its route.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seat {
    pub(crate) id: ConnectionId,
    pub(crate) key: u32,
}

/// The states of a route's connections on a shard.
pub(crate) struct States<S>(RefCell<Table<S>>);

struct Table<S> {
    entries: Vec<Option<Entry<S>>>,
    free: Vec<u32>,
}

/// The state and the profile of one connection.
pub(super) struct Entry<S> {
    pub(super) state: S,
    pub(super) profile: Option<Box<Profile>>,
}

impl<S: 'static> States<S> {
    pub(super) fn new() -> Rc<Self> {
        Rc::new(States(RefCell::new(Table { entries: Vec::new(), free: Vec::new() })))
    }

    /// Keeps a state, and returns its key.
    pub(super) fn insert(&self, state: S, profile: Option<Box<Profile>>) -> u32 {
        let mut table = self.0.borrow_mut();
        let entry = Some(Entry { state, profile });
        if let Some(key) = table.free.pop() {
            table.entries[key as usize] = entry;
            return key;
        }
        table.entries.push(entry);
        table.entries.len() as u32 - 1
    }

    /// Drops the state of a key.
    pub(super) fn remove(&self, key: u32) {
        let mut table = self.0.borrow_mut();
        let entry = table.entries[key as usize].take();
        table.free.push(key);
        drop(table);
        // The entry is dropped outside of the borrow, since the drop of a state runs an embedder's code.
        drop(entry);
    }

    /// Returns what the profile of a connection says about its opening, if the entry is in the table.
    pub(super) fn about(&self, key: u32) -> About {
        let table = self.0.borrow();
        let entry = table.entries.get(key as usize).and_then(Option::as_ref);
        entry.and_then(|entry| entry.profile.as_deref()).map(Profile::about).unwrap_or_default()
    }

    /// Returns the client's address, if it is kept.
    pub(super) fn peer(&self, key: u32) -> Option<SocketAddr> {
        self.0.borrow().entries.get(key as usize)?.as_ref()?.profile.as_ref()?.peer()
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
        let entry = states.0.borrow_mut().entries.get_mut(key as usize)?.take()?;
        Some(Out { states, key, entry: Some(entry) })
    }
}

impl<S> Drop for Out<'_, S> {
    fn drop(&mut self) {
        self.states.0.borrow_mut().entries[self.key as usize] = self.entry.take();
    }
}
