//! Between accept and the turn: connections whose opening handshake is under way or just done.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    net::SocketAddr,
    os::fd::OwnedFd,
    rc::Rc,
    sync::Arc,
};

use tokio::sync::Notify;

use super::{arrival::Arrival, refusals::Refusals};
use crate::{
    config::Config,
    endpoints::Endpoints,
    handler::ShardRoute,
    handover::{ControlHandoff, Network, AddressPermit, Sockets, SocketPermits},
    metrics::{Counter, Counters},
    proto::Refusal,
    seldom::Seldom,
    sys::net,
};

/// What the shard's tasks share. All of them run on its thread.
pub(super) struct Lobby {
    pub(super) config: Arc<Config>,
    pub(super) counters: Arc<Counters>,
    /// Where those go who want no WebSocket.
    pub(super) control: ControlHandoff,
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
    pub(super) sockets: Sockets,
    occupied: Cell<usize>,
    /// Sockets for which there is no room.
    pub(super) refusals: Refusals,
    leaving: Cell<bool>,
    /// What the log is told of used-up descriptors, and of limits that are reached.
    pub(super) shortage: Seldom,
    pub(super) full: Seldom,
    pub(super) http_full: Seldom,
    /// The number of the next opening request. The shard's own stands in the upper bits, so that no other has it.
    next_request: Cell<u64>,
}

/// Why there is no room for one more connection.
#[derive(Debug, Clone, Copy)]
pub(super) enum NoRoom {
    /// There are as many as the server allows.
    Connections,
    /// There are as many as it allows from this address.
    Address(Network),
}

impl NoRoom {
    /// Returns what the client is answered. That one address has too many is its own matter, and no reason to take the
    /// server for an overloaded one: 429 (RFC 6585 4).
    pub(super) fn refusal(self) -> Refusal {
        match self {
            NoRoom::Connections => Refusal::not_now("as many connections as this server allows"),
            NoRoom::Address(_) => Refusal::new(429, "as many connections as this server allows from one address")
                .header("Retry-After", "1"),
        }
    }
}

/// Counts a socket for as long as its task lasts.
pub(super) struct OpeningPermit {
    lobby: Rc<Lobby>,
    of_address: Option<AddressPermit>,
}

impl OpeningPermit {
    /// Hands on the socket's part in the number of those of its address, which from then on is counted for as long as
    /// this lives.
    pub(super) fn take_address_permit(&mut self) -> Option<AddressPermit> {
        self.of_address.take()
    }
}

impl Lobby {
    pub(super) fn new(
        config: Arc<Config>,
        counters: Arc<Counters>,
        sockets: Sockets,
        control: ControlHandoff,
        endpoints: Arc<Endpoints>,
        handlers: Rc<[Rc<dyn ShardRoute>]>,
        addresses: Vec<SocketAddr>,
    ) -> Self {
        let refusals = Refusals::new(config.shards);
        Lobby {
            config,
            counters,
            control,
            endpoints,
            handlers,
            addresses,
            sockets,
            occupied: Cell::new(0),
            arrivals: RefCell::default(),
            arrived: Notify::new(),
            open: Cell::new(0),
            pending: Cell::new(0),
            refusals,
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

    /// Counts a socket that was accepted.
    ///
    /// # Errors
    ///
    /// Why it is one too many.
    pub(super) fn admit(self: &Rc<Self>, socket: &OwnedFd) -> Result<OpeningPermit, NoRoom> {
        self.counters.add(Counter::Accepted, 1);
        let of_address = self.admit_address(socket)?;
        let of_all = self.sockets.all.admit(self.config.limits.connections_max).ok_or(NoRoom::Connections)?;
        Ok(self.reclaim(SocketPermits { of_all, of_address }))
    }

    fn admit_address(&self, socket: &OwnedFd) -> Result<Option<AddressPermit>, NoRoom> {
        let Some(addresses) = &self.sockets.of_addresses else { return Ok(None) };
        // Without a peer the client has left, which whoever serves it will find out.
        let Some(peer) = net::peer(socket) else { return Ok(None) };
        let displaced = || self.counters.add(Counter::HttpDisplaced, 1);
        addresses.admit(peer.ip(), displaced).map(Some).map_err(NoRoom::Address)
    }

    /// A connection that is counted already begins an opening handshake here.
    pub(super) fn reclaim(self: &Rc<Self>, SocketPermits { of_all, of_address }: SocketPermits) -> OpeningPermit {
        of_all.keep();
        self.occupied.update(|count| count + 1);
        self.pending.update(|count| count + 1);
        OpeningPermit { lobby: Rc::clone(self), of_address }
    }

    /// The connection goes elsewhere, and goes on being counted.
    pub(super) fn release(&self, mut permit: OpeningPermit) -> SocketPermits {
        let of_address = permit.take_address_permit();
        self.occupied.update(|count| count - 1);
        drop(permit);
        SocketPermits { of_all: self.sockets.all.counted(), of_address }
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
        self.sockets.all.give_back(left);
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

impl Drop for OpeningPermit {
    fn drop(&mut self) {
        self.lobby.pending.update(|count| count - 1);
        self.lobby.give_back();
    }
}
