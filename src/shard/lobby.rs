//! Between accept and the turn: connections whose opening handshake is under way or just done.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    net::SocketAddr,
    os::fd::OwnedFd,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::turn::Arrival;
use crate::{
    config::{Config, Limits},
    endpoints::Endpoints,
    handler::ShardRoute,
    handover::{ControlDoor, Count, Counted},
    metrics::{Counter, Counters},
};

/// What the shard's tasks share. All of them run on its thread.
pub(super) struct Lobby {
    pub(super) config: Arc<Config>,
    pub(super) counters: Arc<Counters>,
    /// Where those go who want no WebSocket.
    pub(super) control: ControlDoor,
    /// What is at which path, and each route's handler on this shard.
    pub(super) endpoints: Arc<Endpoints>,
    pub(super) handlers: Rc<[Rc<dyn ShardRoute>]>,
    /// What the server listens on.
    pub(super) addresses: Vec<SocketAddr>,
    arrivals: RefCell<VecDeque<Arrival<OwnedFd>>>,
    arrived: Notify,
    /// Connections established, as the turn last said.
    open: Cell<usize>,
    /// Opening handshakes under way.
    pending: Cell<usize>,
    /// How many sockets all shards have together, and this one's part of it.
    occupancy: Count,
    occupied: Cell<usize>,
    /// Sockets kept only to tell them that there is no room.
    refusals: Cell<usize>,
    leaving: Cell<bool>,
    /// What the log is told of used-up descriptors, and of limits that are reached.
    pub(super) shortage: Seldom,
    pub(super) full: Seldom,
    pub(super) http_full: Seldom,
    /// The number of the next opening request. The shard's own stands in the upper bits, so that no other has it.
    next_request: Cell<u64>,
}

/// When to log what lasts and is met again and again: at first, and once in [`Seldom::SILENCE`].
#[derive(Default)]
pub(super) struct Seldom(Cell<Option<Instant>>);

impl Seldom {
    const SILENCE: Duration = Duration::from_secs(60);

    /// Whether it is time, which then has been used.
    pub(super) fn is_due(&self) -> bool {
        let now = Instant::now();
        let is_due = self.0.get().is_none_or(|last| now.duration_since(last) >= Self::SILENCE);
        if is_due {
            self.0.set(Some(now));
        }
        is_due
    }
}

/// Whether there is room for one more connection.
pub(super) enum Admission {
    /// It may do its opening handshake.
    Admitted(Place),
    /// It may do it, to be told that there is no room.
    Refused(Place),
    /// There is not even room to tell.
    Dropped,
}

/// Counts a socket for as long as its task lasts.
pub(super) struct Place {
    lobby: Rc<Lobby>,
    is_refusal: bool,
}

impl Lobby {
    pub(super) fn new(
        config: Arc<Config>,
        counters: Arc<Counters>,
        occupancy: Count,
        control: ControlDoor,
        endpoints: Arc<Endpoints>,
        handlers: Rc<[Rc<dyn ShardRoute>]>,
        addresses: Vec<SocketAddr>,
    ) -> Self {
        Lobby {
            config,
            counters,
            control,
            endpoints,
            handlers,
            addresses,
            occupancy,
            occupied: Cell::new(0),
            arrivals: RefCell::default(),
            arrived: Notify::new(),
            open: Cell::new(0),
            pending: Cell::new(0),
            refusals: Cell::new(0),
            leaving: Cell::new(false),
            shortage: Seldom::default(),
            full: Seldom::default(),
            http_full: Seldom::default(),
            next_request: Cell::new(0),
        }
    }

    /// The same with opening requests numbered as those of this shard.
    pub(super) fn of_shard(self, number: u16) -> Self {
        self.next_request.set(u64::from(number) << 48);
        self
    }

    /// A number for an opening request.
    pub(super) fn next_request(&self) -> u64 {
        let number = self.next_request.get();
        self.next_request.set(number + 1);
        number
    }

    /// A connection was accepted.
    pub(super) fn admit(self: &Rc<Self>) -> Admission {
        self.counters.add(Counter::Accepted, 1);
        if let Some(counted) = self.occupancy.admit(self.config.limits.connections_max) {
            return Admission::Admitted(self.take_in(counted));
        }
        let place = Place { lobby: Rc::clone(self), is_refusal: true };
        self.counters.add(Counter::RefusedLimit, 1);
        self.refusals.update(|count| count + 1);
        let most = (Limits::REFUSALS_MAX / self.config.shards).max(1);
        if self.refusals.get() <= most { Admission::Refused(place) } else { Admission::Dropped }
    }

    /// A connection that is counted already begins an opening handshake here.
    pub(super) fn take_in(self: &Rc<Self>, counted: Counted) -> Place {
        counted.keep();
        self.occupied.update(|count| count + 1);
        self.pending.update(|count| count + 1);
        Place { lobby: Rc::clone(self), is_refusal: false }
    }

    /// The connection goes elsewhere, and goes on being counted.
    pub(super) fn let_go(&self, place: Place) -> Counted {
        self.occupied.update(|count| count - 1);
        drop(place);
        self.occupancy.counted()
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
            self.give_back();
        }
    }

    /// Gives back the places of those who are neither connected nor on their way to it any more.
    fn give_back(&self) {
        let own = self.open.get() + self.pending.get() + self.arrivals.borrow().len();
        // More only for a moment: one who has just entered is counted until its task ends.
        let left = self.occupied.get().saturating_sub(own);
        self.occupied.update(|count| count - left);
        self.occupancy.give_back(left);
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
        self.lobby.give_back();
    }
}
