//! The lobby of a shard: the state that the tasks of its accepts and opening handshakes share, and the queue of
//! accepted connections on their way to the turn.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::{arrival::Arrival, opening_sockets::OpeningSockets, refusals::Refusals, warnings::Warnings};
use crate::{
    access_log::AccessLog,
    auth::Credentials,
    clock::Clock,
    config::{Config, TICK, weights},
    current::Current,
    endpoints::{Denied, Endpoints, Readiness},
    handler::ShardRoute,
    handover::{AddressPermit, ControlHandoff, SocketPermits, Sockets},
    metrics::{Counter, Counters},
    proto::Refusal,
    rates::{AddressBlock, Bucket, OVER_HANDSHAKE_RATE, over_rate},
    sys::{BackendKind, Transport, net},
};

/// The state that a shard's tasks share. All of them run on its thread.
pub(super) struct Lobby {
    /// The settings. An opening handshake reads them once for each decision.
    pub(super) config: Current<Config>,
    pub(super) counters: Arc<Counters>,
    /// The way to the control thread, for connections that ask for no WebSocket.
    pub(super) control: ControlHandoff,
    /// The endpoints by their paths, which a request reads once.
    pub(super) endpoints: Current<Endpoints>,
    /// Each route's handler on this shard. All tables have the same routes.
    pub(super) handlers: Rc<[Rc<dyn ShardRoute>]>,
    /// The addresses that the server listens on.
    pub(super) addresses: Vec<SocketAddr>,
    arrivals: RefCell<VecDeque<Arrival<Transport>>>,
    arrived: Notify,
    /// The number of established connections, as the last turn has set it.
    open: Cell<usize>,
    /// The number of opening handshakes under way.
    pending: Cell<usize>,
    /// The sockets of opening handshakes, if `max_memory` is set.
    opening_sockets: OpeningSockets,
    /// The counts of the sockets of all threads, which limits bound.
    pub(super) sockets: Sockets,
    /// This shard's part of the count of all sockets.
    occupied: Cell<usize>,
    /// Sockets for which there is no room.
    pub(super) refusals: Refusals,
    leaving: Cell<Option<Openings>>,
    pub(super) warnings: Arc<Warnings>,
    pub(super) access_log: AccessLog,
    clock: Clock,
    /// The sockets that may be accepted now, where they have a rate.
    accepts: Cell<Bucket>,
    /// The backend whose runtime this thread has.
    pub(super) backend: BackendKind,
    readiness: Readiness,
    /// The number of this shard.
    shard: usize,
    /// The number of the next opening request. The shard's number stands in the upper 16 bits, so that no two requests
    /// of a server have the same number.
    next_request: Cell<u64>,
}

/// The fate of the opening requests of a server that leaves, on sockets that were accepted before.
#[derive(Debug, Clone, Copy)]
pub(super) enum Openings {
    /// They are answered 503.
    Refused,
    /// They become connections, which are closed with 1012 like all others.
    Served {
        /// When the shard waits for them no longer.
        until: Instant,
    },
}

/// The reason for which there is no room for one more connection.
#[derive(Debug, Clone, Copy)]
pub(super) enum NoRoom {
    /// The server has as many connections as it allows.
    Connections,
    /// The server is short of memory.
    Memory,
    /// The server has as many connections from this address as it allows.
    Address(AddressBlock),
}

impl NoRoom {
    /// Returns the answer to the client.
    pub(super) fn refusal(self) -> Refusal {
        match self {
            NoRoom::Connections => Refusal::not_now("there are as many connections as this server allows"),
            NoRoom::Memory => Refusal::not_now("this server is short of memory"),
            NoRoom::Address(_) => Refusal::too_many_of_address(),
        }
    }
}

/// Counts a socket among the opening handshakes until it is dropped.
pub(super) struct OpeningPermit {
    lobby: Rc<Lobby>,
    of_address: Option<AddressPermit>,
    /// The number of the handshake in `opening_sockets`, if the server may end it.
    number: Option<u64>,
}

impl OpeningPermit {
    /// Lets the server end the handshake when memory is short, if `max_memory` is set.
    pub(super) fn allow_end(&mut self, socket: &Rc<Transport>) {
        if self.lobby.sockets.budget.is_some() {
            self.number = Some(self.lobby.opening_sockets.add(socket));
        }
    }

    /// Returns whether the handshake was given up because memory is short.
    pub(super) fn is_given_up(&self) -> bool {
        self.number.is_some_and(|number| self.lobby.opening_sockets.is_given_up(number))
    }

    /// Takes the permit of the socket's address, which counts the socket until the permit is dropped.
    pub(super) fn take_address_permit(&mut self) -> Option<AddressPermit> {
        self.of_address.take()
    }
}

impl Lobby {
    pub(super) fn new(
        config: Current<Config>,
        counters: Arc<Counters>,
        sockets: Sockets,
        control: ControlHandoff,
        endpoints: Current<Endpoints>,
        handlers: Rc<[Rc<dyn ShardRoute>]>,
        addresses: Vec<SocketAddr>,
    ) -> Self {
        let refusals = Refusals::new(config.get().shards);
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
            opening_sockets: OpeningSockets::default(),
            refusals,
            leaving: Cell::new(None),
            warnings: Arc::default(),
            access_log: AccessLog::off(),
            clock: Clock::new(),
            accepts: Cell::default(),
            backend: BackendKind::Uring,
            readiness: Readiness::default(),
            shard: 0,
            next_request: Cell::new(0),
        }
    }

    /// Returns the same lobby with opening requests numbered as those of this shard, and with the warnings, the clock,
    /// the backend and the readiness that all shards share.
    pub(super) fn of_shard(
        self,
        number: u16,
        warnings: Arc<Warnings>,
        clock: Clock,
        backend: BackendKind,
        readiness: Readiness,
    ) -> Self {
        self.next_request.set(u64::from(number) << 48);
        Lobby { warnings, clock, backend, readiness, shard: usize::from(number), ..self }
    }

    /// Returns the answer that refuses a request which the judge has not admitted. A panic of an authenticator is
    /// counted.
    pub(super) fn refusal(&self, denied: Denied) -> Refusal {
        if matches!(denied, Denied::Panicked) {
            self.counters.add(Counter::HandlerPanics, 1);
        }
        denied.into()
    }

    /// Counts an opening request against the rate of its sender's address.
    ///
    /// # Errors
    ///
    /// 429 (RFC 6585 4) with the time after which the address may open a WebSocket again.
    pub(super) fn count_handshake(&self, credentials: &Credentials<'_>) -> Result<(), Refusal> {
        let Some((rate, block)) = self.config.get().handshake_rate_of(credentials.address()) else { return Ok(()) };
        let now = self.clock.now();
        self.sockets.handshakes.take(&rate, block, now).map_err(|due| {
            self.counters.add(Counter::LimitedHandshakes, 1);
            over_rate(OVER_HANDSHAKE_RATE, now, due)
        })
    }

    /// Counts a socket that was accepted against the rate of this shard.
    pub(super) fn count_accept(&self) {
        if let Some(rate) = self.config.get().limits.arrival_rates.accepts {
            let mut bucket = self.accepts.get();
            bucket.charge(&rate, self.clock.now(), 1);
            self.accepts.set(bucket);
        }
    }

    /// Returns the time until the next socket may be accepted; `None` if one may be accepted now.
    pub(super) fn accepts_after(&self) -> Option<Duration> {
        let rate = self.config.get().limits.arrival_rates.accepts?;
        let (due, now) = (self.accepts.get().due(&rate, 1), self.clock.now());
        (due > now).then(|| Duration::from_millis(due.0 - now.0))
    }

    /// Returns a number for an opening request.
    pub(super) fn next_request(&self) -> u64 {
        let number = self.next_request.get();
        self.next_request.set(number + 1);
        number
    }

    /// Counts a socket that was accepted.
    ///
    /// # Errors
    ///
    /// The limit that the socket would exceed.
    pub(super) fn admit(self: &Rc<Self>, socket: &Transport) -> Result<OpeningPermit, NoRoom> {
        self.counters.add(Counter::Accepted, 1);
        if self.sockets.budget.as_ref().is_some_and(|budget| budget.is_short()) {
            return Err(NoRoom::Memory);
        }
        // The limit of the server comes first: at the limit of the address an idle connection gives way, and none must
        // give way for a socket that is then refused.
        let of_all = self.sockets.all.admit(self.config.get().limits.connections_max).ok_or(NoRoom::Connections)?;
        // A socket without a peer has been left by its client, as its task will find out.
        let of_address = self.admit_address(net::peer(socket))?;
        Ok(self.begin_opening(SocketPermits { of_all, of_address }))
    }

    /// Counts a socket that came through a trusted proxy among those of its client.
    ///
    /// # Errors
    ///
    /// The limit of the client's address.
    pub(super) fn admit_client(&self, permit: &mut OpeningPermit, client: Option<SocketAddr>) -> Result<(), NoRoom> {
        if permit.of_address.is_none() {
            permit.of_address = self.admit_address(client)?;
        }
        Ok(())
    }

    /// Counts a socket among those of a client's address, where their number is limited. An address of a trusted proxy
    /// stands for many clients, so its sockets are not counted.
    fn admit_address(&self, client: Option<SocketAddr>) -> Result<Option<AddressPermit>, NoRoom> {
        let Some(addresses) = &self.sockets.of_addresses else { return Ok(None) };
        let counted = client.filter(|client| !self.config.get().trusted_proxies.include(client.ip()));
        let Some(client) = counted else { return Ok(None) };
        let displaced = || self.counters.add(Counter::HttpDisplaced, 1);
        addresses.admit(client.ip(), displaced).map(Some).map_err(NoRoom::Address)
    }

    /// Counts a refusal by its cause, and logs the cause unless a line about it was written a short time before.
    pub(super) fn note_cause(&self, cause: Counter, status: u16) {
        self.counters.add(cause, 1);
        self.warnings.refusals.note(cause, status);
    }

    /// Counts and logs a connection that is closed since it does not begin with a header of the PROXY protocol, or
    /// comes from nobody who may send one. `fault` is a fixed word.
    pub(super) fn note_proxy_header(&self, peer: Option<SocketAddr>, fault: &'static str) {
        let cause = Counter::RefusedProxyHeader;
        tracing::debug!(peer = peer.map(display), cause = cause.cause(), fault, "refused");
        self.counters.add(cause, 1);
        self.warnings.refusals.note_connection(cause, fault);
    }

    /// Counts a socket for which there is no room, and logs the limit unless a line about it was written a short time
    /// before.
    pub(super) fn note_refusal(&self, no_room: NoRoom) {
        match no_room {
            NoRoom::Connections => {
                self.counters.add(Counter::RefusedLimit, 1);
                if let Some(suppressed) = self.warnings.full.allow(Instant::now()) {
                    let limit = self.config.get().limits.connections_max;
                    tracing::warn!(
                        limit,
                        suppressed,
                        "as many connections as --max-connections allows: more are refused"
                    );
                }
            }
            // The control thread logs when memory becomes short.
            NoRoom::Memory => self.counters.add(Counter::RefusedMemory, 1),
            NoRoom::Address(address) => {
                self.counters.add(Counter::RefusedAddress, 1);
                if let Some(addresses) = &self.sockets.of_addresses {
                    addresses.warn_of(address);
                }
            }
        }
    }

    /// Begins the opening handshake of a socket that has these permits.
    pub(super) fn begin_opening(self: &Rc<Self>, SocketPermits { of_all, of_address }: SocketPermits) -> OpeningPermit {
        of_all.keep();
        self.occupied.update(|count| count + 1);
        self.pending.update(|count| count + 1);
        self.note_openings();
        OpeningPermit { lobby: Rc::clone(self), of_address, number: None }
    }

    /// Notes the memory of the opening handshakes under way, without those that were given up and are about to end.
    /// Most of them begin and end between two turns of the shard.
    fn note_openings(&self) {
        let count = self.pending.get() - self.opening_sockets.given_up();
        let bytes = count as u64 * weights::OPENING;
        self.counters.set(Counter::MemoryOpenings, bytes);
        if let Some(budget) = &self.sockets.budget {
            budget.note_openings(self.shard, bytes);
        }
    }

    /// Gives up opening handshakes while the server is short of memory, the oldest first: as many as hold the shard's
    /// part of what is too much.
    pub(super) async fn watch_openings(self: Rc<Self>) {
        let Some(budget) = &self.sockets.budget else { return };
        loop {
            self.opening_sockets.begun().await;
            tokio::time::sleep(TICK).await;
            let most = budget.openings_to_end(self.shard, weights::OPENING);
            let count = self.opening_sockets.give_up_oldest(most.try_into().unwrap_or(usize::MAX));
            if count > 0 {
                tracing::debug!(count, "opening handshakes are given up: the server is short of memory");
                self.counters.add(Counter::MemoryOpeningsEnded, count as u64);
                self.note_openings();
            }
        }
    }

    /// Ends an opening handshake, and returns the permits of its socket, which another thread will serve.
    pub(super) fn release(&self, mut permit: OpeningPermit) -> SocketPermits {
        let of_address = permit.take_address_permit();
        self.occupied.update(|count| count - 1);
        drop(permit);
        SocketPermits { of_all: self.sockets.all.counted(), of_address }
    }

    /// Appends a connection to those that the turn will adopt.
    pub(super) fn add_arrival(&self, arrival: Arrival<Transport>) {
        self.arrivals.borrow_mut().push_back(arrival);
        self.arrived.notify_one();
    }

    /// Returns the next connection that has arrived.
    pub(super) fn next_arrival(&self) -> Option<Arrival<Transport>> {
        let arrival = self.arrivals.borrow_mut().pop_front();
        if arrival.is_some() {
            // The connection counts as open from here on; the turn will set the number.
            self.open.update(|count| count + 1);
        }
        arrival
    }

    /// Waits until a connection has arrived since the last call.
    pub(super) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Sets the number of established connections.
    pub(super) fn set_open(&self, open: usize) {
        if self.open.replace(open) != open {
            self.give_back();
        }
    }

    /// Gives back the permits of sockets that are neither connections nor on their way to become one any more.
    fn give_back(&self) {
        let own = self.open.get() + self.pending.get() + self.arrivals.borrow().len();
        // `own` exceeds `occupied` only for a moment: an arrival also counts as pending until its task ends.
        let left = self.occupied.get().saturating_sub(own);
        self.occupied.update(|count| count - left);
        self.sockets.all.give_back(left);
    }

    /// Returns whether no connection waits for the turn, and, while the server leaves, none is to come.
    pub(super) fn is_empty(&self) -> bool {
        let is_one_to_come = match self.leaving.get() {
            Some(Openings::Served { until }) => self.pending.get() > 0 && Instant::now() < until,
            Some(Openings::Refused) | None => false,
        };
        self.arrivals.borrow().is_empty() && !is_one_to_come
    }

    /// Notes that the server leaves, and what becomes of opening requests from now on.
    pub(super) fn leave(&self, openings: Openings) {
        self.leaving.set(Some(openings));
    }

    /// Returns whether the server leaves.
    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.get().is_some()
    }

    /// Returns whether the server is not ready any more: it leaves, or is about to.
    pub(super) fn is_unready(&self) -> bool {
        self.is_leaving() || self.readiness.has_ended()
    }

    /// Returns whether every opening request is refused with 503, since the server leaves.
    pub(super) fn refuses_openings(&self) -> bool {
        matches!(self.leaving.get(), Some(Openings::Refused))
    }
}

impl Drop for OpeningPermit {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.lobby.opening_sockets.remove(number);
        }
        self.lobby.pending.update(|count| count - 1);
        self.lobby.note_openings();
        self.lobby.give_back();
    }
}
