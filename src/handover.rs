//! Sockets on their way between shards and the control thread.
//!
//! A shard accepts every connection and reads its first head. What asks for no WebSocket goes to the control thread,
//! which speaks HTTP; and what asks for one there, on a connection that was kept alive, goes to a shard.

mod addresses;

use std::{
    fmt,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::BytesMut;
use tokio::sync::mpsc;

pub(crate) use addresses::{Addresses, Network, OfAddress};

/// One connection and all that is known of it.
#[derive(Debug)]
pub(crate) struct Visit {
    pub(crate) socket: OwnedFd,
    /// What has been received and is to be read first.
    pub(crate) received: BytesMut,
    pub(crate) ticket: Ticket,
}

/// A socket's part in what is counted of sockets, until it is dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    /// In the number of all sockets.
    pub(crate) of_all: Counted,
    /// In the number of those of its peer's address, where that is limited.
    pub(crate) of_address: Option<OfAddress>,
}

/// How many there are of something, over all threads.
#[derive(Clone, Debug, Default)]
pub(crate) struct Count(Arc<AtomicUsize>);

impl Count {
    /// Adds one, unless there are `most` already.
    pub(crate) fn admit(&self, most: usize) -> Option<Counted> {
        // Relaxed: the count stands for itself. Taken first and given back, so that two threads cannot both take the
        // last.
        let is_full = self.0.fetch_add(1, Ordering::Relaxed) >= most;
        let counted = Counted(Some(Arc::clone(&self.0)));
        (!is_full).then_some(counted)
    }

    #[cfg(test)]
    pub(crate) fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Takes back what was counted without being kept.
    pub(crate) fn give_back(&self, count: usize) {
        self.0.fetch_sub(count, Ordering::Relaxed);
    }

    /// Makes something of one that was counted without being kept.
    pub(crate) fn counted(&self) -> Counted {
        Counted(Some(Arc::clone(&self.0)))
    }
}

/// One of a [`Count`], until it is dropped.
pub(crate) struct Counted(Option<Arc<AtomicUsize>>);

impl Counted {
    /// Goes on being counted, by somebody else.
    pub(crate) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(count) = &self.0 {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counted")
    }
}

/// Bytes of bodies that are in memory, and how many there may be.
#[derive(Debug)]
pub(crate) struct Bodies {
    bytes: Arc<AtomicUsize>,
    bytes_max: usize,
}

/// One body's part of it, until it is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    all: Arc<AtomicUsize>,
    all_max: usize,
    own: usize,
}

impl Bodies {
    pub(crate) fn new(bytes_max: usize) -> Bodies {
        Bodies { bytes: Arc::default(), bytes_max }
    }

    pub(crate) fn hold(&self) -> Held {
        Held { all: Arc::clone(&self.bytes), all_max: self.bytes_max, own: 0 }
    }
}

impl Held {
    /// Holds so many more, unless that would be too many.
    pub(crate) fn grow(&mut self, bytes: usize) -> bool {
        // Relaxed: the number stands for itself.
        let room = |all: usize| (all + bytes <= self.all_max).then_some(all + bytes);
        let is_held = self.all.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok();
        self.own += if is_held { bytes } else { 0 };
        is_held
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.fetch_sub(self.own, Ordering::Relaxed);
    }
}

/// A shard's way to the control thread.
#[derive(Clone, Debug)]
pub(crate) struct ControlDoor {
    visits: mpsc::Sender<(Visit, Counted)>,
    /// Connections that speak HTTP, of all shards.
    open: Count,
    open_max: usize,
}

impl ControlDoor {
    /// A door, and where those who go through it come out.
    pub(crate) fn new(open_max: usize) -> (ControlDoor, mpsc::Receiver<(Visit, Counted)>) {
        let (visits, arrivals) = mpsc::channel(VISITS_MAX.min(open_max));
        (ControlDoor { visits, open: Count::default(), open_max }, arrivals)
    }

    /// Hands a connection over.
    ///
    /// # Errors
    ///
    /// Gives it back if there are as many as allowed, or more than are taken in.
    pub(crate) fn enter(&self, visit: Visit) -> Result<(), Box<Visit>> {
        let Some(counted) = self.open.admit(self.open_max) else { return Err(Box::new(visit)) };
        let full = |error: mpsc::error::TrySendError<(Visit, Counted)>| Box::new(error.into_inner().0);
        self.visits.try_send((visit, counted)).map_err(full)
    }
}

/// Connections on their way to the control thread at the same time.
const VISITS_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_have_a_limit_together() {
        let bodies = Bodies::new(10);
        let (mut one, mut other) = (bodies.hold(), bodies.hold());
        assert!(one.grow(4) && other.grow(5) && !one.grow(2) && one.grow(1) && !other.grow(1));
        drop(one);
        assert!(other.grow(5) && !other.grow(1));
    }

    #[test]
    fn a_count_has_a_limit() {
        let count = Count::default();
        let first = count.admit(2).unwrap();
        let second = count.admit(2).unwrap();
        assert!(count.admit(2).is_none());
        drop(first);
        second.keep();
        assert_eq!(count.get(), 1);
        drop(count.counted());
        assert_eq!(count.get(), 0);
    }
}
