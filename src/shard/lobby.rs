//! Between accept and the turn: connections whose opening handshake is under way or just done.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    os::fd::OwnedFd,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::Notify;

use super::turn::Arrival;
use crate::{
    config::Config,
    metrics::{Counter, Counters},
};

/// What the shard's tasks share. All of them run on its thread.
#[derive(Debug)]
pub(super) struct Lobby {
    pub(super) config: Arc<Config>,
    pub(super) counters: Arc<Counters>,
    arrivals: RefCell<VecDeque<Arrival<OwnedFd>>>,
    arrived: Notify,
    /// Connections established, as the turn last said.
    open: Cell<usize>,
    /// Opening handshakes under way.
    pending: Cell<usize>,
    /// How many sockets each shard has, by its number; this one's is kept up to date here.
    occupancy: Arc<[AtomicUsize]>,
    number: usize,
    /// Sockets kept only to tell them that there is no room.
    refusals: Cell<usize>,
    leaving: Cell<bool>,
}

/// Whether there is room for one more connection.
#[derive(Debug)]
pub(super) enum Admission {
    /// It may do its opening handshake.
    Admitted(Place),
    /// It may do it, to be told that there is no room.
    Refused(Place),
    /// There is not even room to tell.
    Dropped,
}

/// Counts a socket for as long as its task lasts.
#[derive(Debug)]
pub(super) struct Place {
    lobby: Rc<Lobby>,
    is_refusal: bool,
}

impl Lobby {
    pub(super) fn new(
        number: usize,
        config: Arc<Config>,
        counters: Arc<Counters>,
        occupancy: Arc<[AtomicUsize]>,
    ) -> Self {
        Lobby {
            config,
            counters,
            occupancy,
            number,
            arrivals: RefCell::default(),
            arrived: Notify::new(),
            open: Cell::new(0),
            pending: Cell::new(0),
            refusals: Cell::new(0),
            leaving: Cell::new(false),
        }
    }

    /// A connection was accepted.
    pub(super) fn admit(self: &Rc<Self>) -> Admission {
        self.counters.add(Counter::Accepted, 1);
        // Each shard writes its own count; several that admit at the same moment may go beyond the limit by as many.
        let own = self.open.get() + self.pending.get() + self.arrivals.borrow().len();
        self.occupancy[self.number].store(own, Ordering::Relaxed);
        let taken: usize = self.occupancy.iter().map(|count| count.load(Ordering::Relaxed)).sum();
        let is_refusal = taken >= self.config.limits.connections_max;
        let place = Place { lobby: Rc::clone(self), is_refusal };
        if !is_refusal {
            self.pending.update(|count| count + 1);
            return Admission::Admitted(place);
        }
        self.counters.add(Counter::RefusedLimit, 1);
        self.refusals.update(|count| count + 1);
        if self.refusals.get() <= REFUSALS_MAX { Admission::Refused(place) } else { Admission::Dropped }
    }

    /// Hands a connection to the turn.
    pub(super) fn enter(&self, arrival: Arrival<OwnedFd>) {
        self.arrivals.borrow_mut().push_back(arrival);
        self.arrived.notify_one();
    }

    /// The next connection that has arrived.
    pub(super) fn take(&self) -> Option<Arrival<OwnedFd>> {
        let arrival = self.arrivals.borrow_mut().pop_front();
        if arrival.is_some() {
            // It counts as open from here on; the turn will say how many there are.
            self.open.update(|count| count + 1);
        }
        arrival
    }

    /// Waits until a connection has arrived since the last call.
    pub(super) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    pub(super) fn set_open(&self, open: usize) {
        if self.open.replace(open) != open {
            self.occupancy[self.number].store(open + self.pending.get(), Ordering::Relaxed);
        }
    }

    /// Has nobody arrived?
    pub(super) fn is_empty(&self) -> bool {
        self.arrivals.borrow().is_empty()
    }

    /// The server is leaving: an opening handshake that is done from now on ends with 503.
    pub(super) fn refuse_from_now_on(&self) {
        self.leaving.set(true);
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.get()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let count = if self.is_refusal { &self.lobby.refusals } else { &self.lobby.pending };
        count.update(|count| count - 1);
    }
}

/// Sockets kept at the same time only to be told that there is no room. Beyond it they are closed without a word.
const REFUSALS_MAX: usize = 64;
