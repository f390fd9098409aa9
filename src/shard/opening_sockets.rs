//! The sockets of the opening handshakes under way. While the server is short of memory, the oldest handshakes are
//! ended.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::{Rc, Weak},
};

use tokio::sync::Notify;

use crate::sys::{Transport, net};

/// The sockets of the opening handshakes under way of a shard, in the order in which the handshakes began.
#[derive(Debug, Default)]
pub(super) struct OpeningSockets {
    sockets: RefCell<BTreeMap<u64, Weak<Transport>>>,
    /// The number of the next handshake.
    next: Cell<u64>,
    /// The number of handshakes that were given up and have not ended.
    given_up: Cell<usize>,
    /// Notified when a handshake begins while there is no other.
    begun: Notify,
}

impl OpeningSockets {
    /// Adds the socket of a handshake that begins. Returns the number of the handshake.
    pub(super) fn add(&self, socket: &Rc<Transport>) -> u64 {
        let number = self.next.get();
        self.next.set(number + 1);
        let mut sockets = self.sockets.borrow_mut();
        if sockets.is_empty() {
            self.begun.notify_one();
        }
        sockets.insert(number, Rc::downgrade(socket));
        number
    }

    /// Removes a handshake that ends.
    pub(super) fn remove(&self, number: u64) {
        if self.sockets.borrow_mut().remove(&number).is_none() {
            self.given_up.update(|count| count - 1);
        }
    }

    /// Returns whether a handshake that has not ended was given up.
    pub(super) fn is_given_up(&self, number: u64) -> bool {
        !self.sockets.borrow().contains_key(&number)
    }

    /// Returns how many handshakes were given up and have not ended.
    pub(super) fn given_up(&self) -> usize {
        self.given_up.get()
    }

    /// Gives up the handshakes that began first, `most` at most. Returns how many. The end of the input ends what
    /// their tasks wait for, and leaves them the way to answer.
    pub(super) fn give_up_oldest(&self, most: usize) -> usize {
        let mut sockets = self.sockets.borrow_mut();
        let count = most.min(sockets.len());
        for _ in 0..count {
            let (_, socket) = sockets.pop_first().expect("as many as were counted");
            if let Some(socket) = socket.upgrade() {
                net::end_input(&*socket);
            }
        }
        self.given_up.update(|before| before + count);
        count
    }

    /// Waits until a handshake is under way.
    pub(super) async fn begun(&self) {
        while self.sockets.borrow().is_empty() {
            self.begun.notified().await;
        }
    }
}
