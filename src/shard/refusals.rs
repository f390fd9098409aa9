//! Sockets for which there is no room, kept only until they are refused.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
};

use crate::{
    config::Limits,
    sys::{Transport, net},
};

/// The sockets that a shard keeps although it has no room for them.
///
/// The oldest socket gives way to a newer one: its client has had the time to send a request, or to read the answer. So
/// silent sockets do not keep other clients from their answers. A client is answered if its request arrives before
/// `kept_max` newer sockets do.
pub(super) struct Refusals {
    kept: Rc<RefCell<VecDeque<Rc<Transport>>>>,
    kept_max: usize,
    /// The number of kept sockets, and of sockets that have given way and are about to be closed.
    open: Rc<Cell<usize>>,
    open_max: usize,
}

/// Keeps a socket among the refused until it is dropped.
pub(super) struct RefusalPermit {
    kept: Rc<RefCell<VecDeque<Rc<Transport>>>>,
    open: Rc<Cell<usize>>,
    socket: Rc<Transport>,
}

impl Refusals {
    /// Returns the refusals of one of `shards` shards.
    pub(super) fn new(shards: usize) -> Refusals {
        let open_max = (Limits::REFUSALS_MAX / shards).max(2);
        Refusals { kept: Rc::default(), kept_max: open_max * 3 / 4, open: Rc::default(), open_max }
    }

    /// Returns how many sockets, at least one, may get permits before the tasks of kept sockets run again. Within this
    /// number, a socket whose request has arrived is answered before the socket gives way.
    pub(super) fn at_once_max(&self) -> usize {
        self.kept_max.div_ceil(4)
    }

    /// Returns a permit for a socket; `None` if sockets that are kept or about to be closed have all permits. If kept
    /// sockets have three quarters of the permits, the oldest of them is shut down.
    pub(super) fn keep(&self, socket: &Rc<Transport>) -> Option<RefusalPermit> {
        if self.open.get() >= self.open_max {
            return None;
        }
        let mut kept = self.kept.borrow_mut();
        if kept.len() >= self.kept_max
            && let Some(oldest) = kept.pop_front()
        {
            // The shutdown ends the operation that the socket's task waits for.
            net::shutdown(&*oldest, true);
        }
        self.open.update(|count| count + 1);
        kept.push_back(Rc::clone(socket));
        Some(RefusalPermit { kept: Rc::clone(&self.kept), open: Rc::clone(&self.open), socket: Rc::clone(socket) })
    }
}

impl Drop for RefusalPermit {
    fn drop(&mut self) {
        self.open.update(|count| count - 1);
        self.kept.borrow_mut().retain(|other| !Rc::ptr_eq(other, &self.socket));
    }
}
