//! The routes of a shard, and the route that each connection belongs to.

use std::{any::Any, collections::HashMap, mem, rc::Rc, sync::Arc, time::Duration};

use tokio::sync::oneshot;

use super::memory::HOLDER_BYTES_MIN;
use crate::{
    handler::{OnAnswered, OnPresence, Profile, Route, Rules, ShardRoute, Tasks},
    hub::{ConnectionId, OrderEnd},
    proto::{KeepAlive, MessageLimits, Tick},
};

/// A route on this shard: its handler, and the rules that hold for its connections.
pub(super) struct LocalRoute {
    /// The pattern of its paths.
    pub(super) name: Arc<str>,
    pub(super) handler: Rc<dyn ShardRoute>,
    pub(super) rules: Rules,
}

/// The routes of a shard, and what their handlers need of each connection.
#[derive(Default)]
pub(super) struct Handlers {
    pub(super) routes: Rc<[LocalRoute]>,
    /// By slot: the route of the slot's connection, and the connection's key at this route.
    pub(super) seats: Vec<(u16, u32)>,
    /// Connections whose limits or deadlines differ from their route's.
    pub(super) own: HashMap<ConnectionId, Own>,
    /// The ticks at which the tokens of connections expire, for connections whose tokens do.
    pub(super) expiries: HashMap<ConnectionId, Tick>,
    /// By slot: the bytes that the connection's profile keeps, which is mostly its opening request. Empty as long as no
    /// connection has kept anything.
    kept: Vec<u32>,
    /// The sum of `kept`.
    kept_bytes: usize,
    /// The sum of those of `kept` that are large.
    large_kept_bytes: usize,
    /// The bytes of messages that wait for decisions, of the connections that have some.
    waiting: HashMap<ConnectionId, usize>,
    /// The sum of `waiting`.
    waiting_bytes: usize,
    /// Work that waits until a connection is owed nothing more.
    pub(super) drained: HashMap<ConnectionId, Vec<oneshot::Sender<()>>>,
    /// Connections whose output a flush has taken or sent. Connections are noted only while `drained` has entries.
    pub(super) emptied: Vec<ConnectionId>,
    /// Connections that have ended and have not been reported to their handlers.
    pub(super) ended: Vec<(ConnectionId, u16, u32)>,
    pub(super) tasks: Tasks,
    /// Those that wait for the places of their publications, by the tickets of these.
    pub(super) askers: HashMap<u64, (ConnectionId, OnAnswered)>,
    /// Those that wait for the members of topics, by the tickets of their questions.
    pub(super) readers: HashMap<u64, (ConnectionId, OnPresence)>,
    /// The end of the topic's order at which the subscription begins that is being reported.
    pub(super) order_end: Option<OrderEnd>,
    /// Whether that subscription, if it resumes, gets every message after its position.
    pub(super) recovered: Option<bool>,
    /// The last ticket.
    ticket: u64,
    /// Connections that have ended, and whose spawned work has yet to be ended.
    pub(super) abandoned: Vec<ConnectionId>,
}

impl std::fmt::Debug for Handlers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handlers").field("routes", &self.routes.len()).finish_non_exhaustive()
    }
}

/// The limits and deadlines of one connection, where they differ from those of its route.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Own {
    /// The limits that the handler has set.
    pub(super) limits: Option<MessageLimits>,
    /// The limits of the topic to which the client publishes, if they are smaller than those of the route.
    pub(super) of_topic: Option<MessageLimits>,
    /// The limits of the message under way, which had begun when a reload changed the limits.
    pub(super) until_end: Option<MessageLimits>,
    /// The limits that follow when the message under way has ended: limits cannot change within a message.
    pub(super) next_limits: Option<MessageLimits>,
    pub(super) keep_alive: Option<KeepAlive>,
}

impl Own {
    /// Returns the limits that hold instead of those of the route.
    fn in_force(&self) -> Option<MessageLimits> {
        self.until_end.or(self.limits).or(self.of_topic)
    }
}

impl Handlers {
    pub(super) fn new(routes: &[Route], handlers: &[Rc<dyn ShardRoute>], tasks: Tasks) -> Self {
        let routes = routes.iter().zip(handlers);
        let routes = routes.map(|(route, handler)| LocalRoute {
            name: route.pattern.as_str().into(),
            handler: Rc::clone(handler),
            rules: route.rules.clone(),
        });
        Handlers { routes: routes.collect(), tasks, ..Handlers::default() }
    }

    /// Returns a ticket that no other publication of this shard has.
    pub(super) fn next_ticket(&mut self) -> u64 {
        self.ticket += 1;
        self.ticket
    }

    pub(super) fn own(&self, id: ConnectionId) -> Own {
        if self.own.is_empty() { Own::default() } else { self.own.get(&id).copied().unwrap_or_default() }
    }

    pub(super) fn route(&self, id: ConnectionId) -> &LocalRoute {
        &self.routes[usize::from(self.seats[id.slot() as usize].0)]
    }

    /// Notes the bytes that a connection's profile keeps.
    pub(super) fn note_kept(&mut self, id: ConnectionId, bytes: usize) {
        let slot = id.slot() as usize;
        if self.kept.len() <= slot {
            if bytes == 0 {
                return;
            }
            self.kept.resize(slot + 1, 0);
        }
        let earlier = mem::replace(&mut self.kept[slot], bytes.try_into().unwrap_or(u32::MAX));
        self.kept_bytes = self.kept_bytes + self.kept[slot] as usize - earlier as usize;
        self.large_kept_bytes = self.large_kept_bytes + large(self.kept[slot]) - large(earlier);
    }

    /// Returns the bytes that a connection's profile keeps if they are [`LARGE_KEPT_BYTES`] or more, or else 0.
    pub(super) fn large_kept_by(&self, id: ConnectionId) -> usize {
        self.kept.get(id.slot() as usize).map_or(0, |&bytes| large(bytes))
    }

    /// Returns the bytes that all profiles of [`LARGE_KEPT_BYTES`] or more keep.
    pub(super) fn large_kept_bytes(&self) -> usize {
        self.large_kept_bytes
    }

    /// Returns the bytes that the profiles of all connections keep.
    pub(super) fn kept_bytes(&self) -> usize {
        self.kept_bytes
    }

    /// Notes the bytes of a connection's messages that wait for decisions.
    pub(super) fn note_waiting(&mut self, id: ConnectionId, bytes: usize) {
        let earlier = match bytes {
            0 => self.waiting.remove(&id),
            _ => self.waiting.insert(id, bytes + WAITING_ENTRY),
        };
        let now = if bytes == 0 { 0 } else { bytes + WAITING_ENTRY };
        self.waiting_bytes = self.waiting_bytes + now - earlier.unwrap_or(0);
        if self.waiting.is_empty() && self.waiting.capacity() > WAITING_KEPT {
            // The large table of a crowd is not kept.
            self.waiting.shrink_to(WAITING_KEPT);
        }
    }

    /// Returns the bytes of a connection's messages that wait for decisions, with their entry in the table.
    pub(super) fn waiting_of(&self, id: ConnectionId) -> usize {
        if self.waiting.is_empty() { 0 } else { self.waiting.get(&id).copied().unwrap_or(0) }
    }

    /// Returns the bytes of the messages of all connections that wait for decisions, with their entries in the table.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Returns the limits of a connection's messages; `is_between` returns whether no message is under way.
    #[inline]
    pub(super) fn limits(&mut self, id: ConnectionId, is_between: impl FnOnce() -> bool) -> MessageLimits {
        let own = if self.own.is_empty() { None } else { self.own.get_mut(&id) };
        if let Some(own) = own {
            if own.until_end.is_none() && own.next_limits.is_some() && is_between() {
                own.limits = own.next_limits.take();
            }
            if let Some(limits) = own.in_force() {
                return limits;
            }
        }
        self.route(id).rules.limits
    }

    /// Returns the limits of the connection's message under way, or of its next message if none is under way.
    pub(super) fn limits_in_force(&self, id: ConnectionId) -> MessageLimits {
        self.own(id).in_force().unwrap_or(self.route(id).rules.limits)
    }

    /// Notes that a message of the connection has ended. If the message had begun before a reload, the limits of the
    /// reload hold for the next message.
    #[inline]
    pub(super) fn notice_end_of_message(&mut self, id: ConnectionId) {
        if !self.own.is_empty() && self.own.get(&id).is_some_and(|own| own.until_end.is_some()) {
            self.change_own(id, |own| own.until_end = None);
        }
    }

    /// Changes the limits and deadlines of a connection that differ from those of its route. If none differs any more,
    /// nothing is kept of them.
    pub(super) fn change_own(&mut self, id: ConnectionId, change: impl FnOnce(&mut Own)) {
        let mut own = self.own(id);
        change(&mut own);
        if own == Own::default() {
            self.own.remove(&id);
        } else {
            self.own.insert(id, own);
        }
    }

    /// Returns whether the connection's handler looks after slow consumers itself.
    pub(super) fn has_manual_backpressure(&self, id: ConnectionId) -> bool {
        self.route(id).rules.has_manual_backpressure
    }

    pub(super) fn keep_alive(&self, id: ConnectionId) -> KeepAlive {
        self.own(id).keep_alive.unwrap_or(self.route(id).rules.keep_alive)
    }

    /// Sets the time until the connection's token expires; `None` for a token that does not expire.
    pub(super) fn set_lifetime(&mut self, id: ConnectionId, lifetime: Option<Duration>, now: Tick) {
        match lifetime {
            Some(lifetime) => drop(self.expiries.insert(id, now.after(ticks(lifetime)))),
            None if self.expiries.is_empty() => {}
            None => drop(self.expiries.remove(&id)),
        }
    }

    /// Returns the tick at which the connection's token expires.
    pub(super) fn expiry(&self, id: ConnectionId) -> Option<Tick> {
        if self.expiries.is_empty() { None } else { self.expiries.get(&id).copied() }
    }

    pub(super) fn ping_payload(&self, id: ConnectionId) -> &[u8] {
        &self.route(id).rules.ping_payload
    }

    /// Ends the waits for the connection to be owed nothing more.
    pub(super) fn notice_drained(&mut self, id: ConnectionId) {
        if !self.drained.is_empty()
            && let Some(waiters) = self.drained.remove(&id)
        {
            // A waiter may be gone.
            waiters.into_iter().for_each(|waiter| _ = waiter.send(()));
        }
    }

    /// Notes that `waiter` waits until the connection is owed nothing more.
    pub(super) fn notice_waiting(&mut self, id: ConnectionId, waiter: oneshot::Sender<()>) {
        let waiters = self.drained.entry(id).or_default();
        // The list keeps one waiter of a caller that waits again and again with a timeout.
        waiters.retain(|waiter| !waiter.is_closed());
        waiters.push(waiter);
    }

    /// Notes that the connection's output has been offered to its socket. Work may wait until all of it is taken.
    #[inline]
    pub(super) fn notice_emptied(&mut self, id: ConnectionId) {
        if !self.drained.is_empty() {
            self.emptied.push(id);
        }
    }

    /// Gives a connection its seat at a route.
    pub(super) fn seat(
        &mut self,
        id: ConnectionId,
        route: u16,
        state: Box<dyn Any>,
        profile: Option<Box<Profile>>,
        limits: Option<MessageLimits>,
    ) {
        self.note_kept(id, profile.as_ref().map_or(0, |profile| profile.bytes()));
        let key = self.routes[usize::from(route)].handler.insert(state, profile);
        if limits.is_some() {
            self.own.entry(id).or_default().of_topic = limits;
        }
        let slot = id.slot() as usize;
        if self.seats.len() <= slot {
            self.seats.resize(slot + 1, (0, 0));
        }
        self.seats[slot] = (route, key);
    }

    /// Notes that the connection has ended, which its handler learns later.
    pub(super) fn notice_ended(&mut self, id: ConnectionId) {
        let (route, key) = self.seats[id.slot() as usize];
        self.ended.push((id, route, key));
        self.note_kept(id, 0);
        if !self.waiting.is_empty() {
            self.note_waiting(id, 0);
        }
        if !self.own.is_empty() {
            self.own.remove(&id);
        }
        if !self.expiries.is_empty() {
            self.expiries.remove(&id);
        }
        self.notice_drained(id);
    }
}

/// Returns a time in ticks, rounded up. A time beyond all ticks is the longest that ticks can say, some 13 years.
fn ticks(time: Duration) -> u32 {
    u32::try_from(time.as_millis().div_ceil(u128::from(Tick::MILLIS))).unwrap_or(u32::MAX)
}

/// Returns the bytes of a profile if they are [`LARGE_KEPT_BYTES`] or more, or else 0.
fn large(bytes: u32) -> usize {
    if bytes >= LARGE_KEPT_BYTES { bytes as usize } else { 0 }
}

/// The bytes from which on a profile is large. Those of most clients are smaller.
const LARGE_KEPT_BYTES: u32 = HOLDER_BYTES_MIN as u32;

/// Bytes of an entry among the connections whose messages wait, if the table is half full.
const WAITING_ENTRY: usize = 2 * (size_of::<(ConnectionId, usize)>() + 1);

/// Entries that an empty table of these connections has room for.
const WAITING_KEPT: usize = 64;
