//! Where a shard and the handlers of its routes meet: what handlers are told, and what they may do.
//!
//! Nothing recurses: what a handler does never calls one back before it returns. That a connection has ended is told
//! when the shard next has nothing else in its hands.

use std::{
    collections::HashMap,
    mem,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
};

use tokio::sync::oneshot;
use tracing::field::{DisplayValue, display};

use super::turn::{Arrival, Shard};
use crate::{
    handler::{Call, Closed, Door, Facts, Panicked, Route, Rules, Seat, ShardRoute, SubscribeError, Tasks},
    hub::{
        Command, Commanded, ConnectionId, Joined, Published, Refused, Reply, Scope, Sent, SubscribeOptions, Subscribed,
        TopicName,
    },
    metrics::Counter,
    proto::{CloseCode, Event, KeepAlive, MessageLimits, PreparedMessage, State, Tick},
    sys::Io,
};

/// A route on this shard.
pub(super) struct OnShard {
    pub(super) handler: Rc<dyn ShardRoute>,
    pub(super) rules: Rules,
}

/// What handlers have to do with a shard.
#[derive(Default)]
pub(super) struct Handlers {
    routes: Rc<[OnShard]>,
    /// By slot: the route of its connection, and the key there.
    seats: Vec<(u16, u32)>,
    /// Connections with limits or deadlines of their own.
    own: HashMap<ConnectionId, Own>,
    /// Who waits until a connection is owed nothing more.
    drained: HashMap<ConnectionId, Vec<oneshot::Sender<()>>>,
    /// Of those who are waited for, perhaps among others: connections whose output a flush has taken or sent.
    emptied: Vec<ConnectionId>,
    /// Connections that have ended and whose handler has not been told.
    ended: Vec<(ConnectionId, u16, u32)>,
    pub(super) tasks: Tasks,
    /// Of connections that have ended: work that was spawned for them is to end.
    pub(super) abandoned: Vec<ConnectionId>,
}

impl std::fmt::Debug for Handlers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handlers").field("routes", &self.routes.len()).finish_non_exhaustive()
    }
}

#[derive(Debug, Default, Clone, Copy)]
struct Own {
    limits: Option<MessageLimits>,
    /// Limits for when the message under way has ended: they cannot change within one.
    next_limits: Option<MessageLimits>,
    keep_alive: Option<KeepAlive>,
}

impl Handlers {
    pub(super) fn new(routes: &[Route], handlers: &[Rc<dyn ShardRoute>], tasks: Tasks) -> Self {
        let routes = routes.iter().zip(handlers);
        let routes = routes.map(|(route, handler)| OnShard { handler: Rc::clone(handler), rules: route.rules.clone() });
        Handlers { routes: routes.collect(), tasks, ..Handlers::default() }
    }

    fn own(&self, id: ConnectionId) -> Own {
        if self.own.is_empty() { Own::default() } else { self.own.get(&id).copied().unwrap_or_default() }
    }

    fn route(&self, id: ConnectionId) -> &OnShard {
        &self.routes[usize::from(self.seats[id.slot() as usize].0)]
    }

    /// The limits of a connection's messages; `is_between` says whether no message is under way.
    #[inline]
    pub(super) fn limits(&mut self, id: ConnectionId, is_between: impl FnOnce() -> bool) -> MessageLimits {
        let own = if self.own.is_empty() { None } else { self.own.get_mut(&id) };
        if let Some(own) = own {
            if own.next_limits.is_some() && is_between() {
                own.limits = own.next_limits.take();
            }
            if let Some(limits) = own.limits {
                return limits;
            }
        }
        self.route(id).rules.limits
    }

    /// Returns whether the connection's handler looks after slow clients itself.
    pub(super) fn has_manual_backpressure(&self, id: ConnectionId) -> bool {
        self.route(id).rules.manual_backpressure
    }

    pub(super) fn keep_alive(&self, id: ConnectionId) -> KeepAlive {
        self.own(id).keep_alive.unwrap_or(self.route(id).rules.keep_alive)
    }

    pub(super) fn ping_payload(&self, id: ConnectionId) -> &[u8] {
        &self.route(id).rules.ping_payload
    }

    /// Tells everybody who waits for it that the connection is owed nothing more.
    pub(super) fn notice_drained(&mut self, id: ConnectionId) {
        if !self.drained.is_empty()
            && let Some(waiters) = self.drained.remove(&id)
        {
            // Who waited may have given up.
            waiters.into_iter().for_each(|waiter| _ = waiter.send(()));
        }
    }

    fn notice_waiting(&mut self, id: ConnectionId, waiter: oneshot::Sender<()>) {
        let waiters = self.drained.entry(id).or_default();
        // Who asks again and again with a time limit stands here once.
        waiters.retain(|waiter| !waiter.is_closed());
        waiters.push(waiter);
    }

    /// What the connection was owed has been offered to its socket. Somebody may wait until all of it is taken.
    #[inline]
    pub(super) fn notice_emptied(&mut self, id: ConnectionId) {
        if !self.drained.is_empty() {
            self.emptied.push(id);
        }
    }

    /// The connection is no more: its handler is to be told.
    pub(super) fn notice_ended(&mut self, id: ConnectionId) {
        let (route, key) = self.seats[id.slot() as usize];
        self.ended.push((id, route, key));
        if !self.own.is_empty() {
            self.own.remove(&id);
        }
        self.notice_drained(id);
    }
}

impl<I: Io> Shard<I> {
    /// Gives a connection that was just made its seat.
    pub(super) fn seat(&mut self, id: ConnectionId, arrival: &mut Arrival<I::Socket>) {
        let state = mem::replace(&mut arrival.state, Box::new(()));
        let key = self.handlers.routes[usize::from(arrival.route)].handler.insert(state, arrival.profile.take());
        if arrival.limits.is_some() {
            self.handlers.own.entry(id).or_default().limits = arrival.limits;
        }
        let slot = id.slot() as usize;
        if self.handlers.seats.len() <= slot {
            self.handlers.seats.resize(slot + 1, (0, 0));
        }
        self.handlers.seats[slot] = (arrival.route, key);
    }

    /// Calls the handler of a connection's route. [`Shard::tell_joined`] must follow.
    pub(super) fn call(
        &mut self,
        id: ConnectionId,
        work: impl FnOnce(&dyn ShardRoute, &mut dyn Door, Seat) -> Result<(), Panicked>,
    ) {
        let (route, key) = self.handlers.seats[id.slot() as usize];
        let routes = Rc::clone(&self.handlers.routes);
        if let Err(panicked) = work(&*routes[usize::from(route)].handler, self, Seat { id, key }) {
            self.fail(id, &panicked);
        }
    }

    /// A handler has panicked over a connection.
    pub(super) fn notice_panic(&mut self, id: ConnectionId, Panicked(panic): &Panicked) {
        tracing::error!(%id, peer = self.peer(id), panic, "a handler has panicked; its connection is closed");
        self.count(Counter::HandlerPanics, 1);
    }

    /// The client's address, for events about a connection.
    pub(super) fn peer(&self, id: ConnectionId) -> Option<DisplayValue<SocketAddr>> {
        // Its seat may be another's by now.
        self.hub.connections.get(id)?;
        let (route, key) = self.handlers.seats[id.slot() as usize];
        let kept = self.handlers.routes[usize::from(route)].handler.peer(Seat { id, key });
        kept.or_else(|| self.addresses(id).0).map(display)
    }

    /// Tells a handler what its client has sent.
    pub(super) fn tell(&mut self, id: ConnectionId, event: Event<'_>) {
        match event {
            Event::Message(message) => self.call(id, |handler, door, seat| handler.on_message(door, seat, message)),
            Event::Fragment(fragment) => {
                self.call(id, |handler, door, seat| handler.on_fragment(door, seat, fragment));
            }
            Event::Ping(payload) => self.call(id, |handler, door, seat| handler.on_ping(door, seat, payload)),
            Event::Pong(payload) => self.call(id, |handler, door, seat| handler.on_pong(door, seat, payload)),
            Event::Close(frame) => {
                let code = frame.code.unwrap_or(CloseCode::NO_STATUS);
                let closed = Closed { code, reason: frame.reason.into(), is_clean: true };
                self.call(id, |handler, _, seat| {
                    handler.set_closed(seat, closed);
                    Ok(())
                });
            }
        }
        self.tell_joined();
    }

    /// After a flush: tells those who wait until a connection is owed nothing more.
    pub(super) fn tell_drained(&mut self) {
        for id in mem::take(&mut self.handlers.emptied) {
            if !self.hub.connections.get(id).is_some_and(|connection| connection.io.owes_output()) {
                self.handlers.notice_drained(id);
            }
        }
    }

    /// Tells the handlers of connections that have ended. What they do meanwhile leaves with the next flush.
    pub(super) fn tell_ended(&mut self) {
        while let Some((id, route, key)) = self.handlers.ended.pop() {
            let routes = Rc::clone(&self.handlers.routes);
            let handler = &routes[usize::from(route)].handler;
            let seat = Seat { id, key };
            let told = handler.on_close(self, seat);
            let peer = handler.peer(seat).map(display);
            // The end of its state is the handler's too.
            for outcome in [told, handler.remove(key)] {
                if let Err(Panicked(panic)) = outcome {
                    tracing::error!(%id, peer, panic, "a handler has panicked over a connection that has ended");
                    self.count(Counter::HandlerPanics, 1);
                }
            }
            self.handlers.abandoned.push(id);
        }
    }

    /// Connections that have ended since the last call.
    pub(crate) fn take_abandoned(&mut self) -> Vec<ConnectionId> {
        mem::take(&mut self.handlers.abandoned)
    }

    /// Ends every connection without a word. Their handlers are told.
    pub(crate) fn drop_all(&mut self) {
        let ids: Vec<ConnectionId> = self.hub.connections.ids().collect();
        ids.into_iter().for_each(|id| self.remove(id));
        self.io.submit();
        self.tell_ended();
    }

    /// Does what others on this thread have asked for.
    pub(crate) fn call_back(&mut self, now: Tick, id: ConnectionId, work: Call) {
        self.now = now;
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| work(self))) {
            self.fail(id, &Panicked::new(&*panic));
        }
        self.tell_joined();
        self.tell_ended();
    }

    /// Does what was asked from outside, and answers.
    pub(super) fn obey(&mut self, Commanded { end, ticket, command }: Commanded) {
        let reply = match command {
            Command::Send { id, message } => Reply::Sent(self.send(id, message.frame())),
            Command::Close { id, code, reason } => {
                let is_open = self.facts(id).is_some_and(|facts| facts.state == State::Open);
                Door::close(self, id, code, &reason);
                Reply::Done(is_open)
            }
            Command::List => Reply::Connections(self.connections().into()),
            Command::KeepAlive { id: Some(id), keep_alive } => {
                let is_there = self.facts(id).is_some();
                self.set_keep_alive(id, keep_alive);
                Reply::Done(is_there)
            }
            Command::KeepAlive { id: None, keep_alive } => {
                self.set_all_keep_alive(keep_alive);
                Reply::Done(true)
            }
        };
        self.hub.reply(end, ticket, reply);
    }

    /// From now on all connections, and those to come, are pinged and given up as this says.
    fn set_all_keep_alive(&mut self, keep_alive: KeepAlive) {
        let routes = self.handlers.routes.iter().map(|route| OnShard {
            handler: Rc::clone(&route.handler),
            rules: Rules { keep_alive, ..route.rules.clone() },
        });
        self.handlers.routes = routes.collect();
        self.handlers.own.values_mut().for_each(|own| own.keep_alive = None);
        let ids: Vec<ConnectionId> = self.hub.connections.ids().collect();
        ids.into_iter().for_each(|id| self.schedule(id));
    }

    pub(super) fn looks_at_frames(&self, id: ConnectionId) -> Option<(Rc<dyn ShardRoute>, Seat)> {
        let route = self.handlers.route(id);
        route
            .rules
            .inspects_frames
            .then(|| (Rc::clone(&route.handler), Seat { id, key: self.handlers.seats[id.slot() as usize].1 }))
    }
}

impl<I: Io> Door for Shard<I> {
    fn facts(&self, id: ConnectionId) -> Option<Facts> {
        let connection = self.hub.connections.get(id)?;
        let backlog = connection.io.output.as_ref().map_or(0, |output| output.backlog.bytes());
        let own = self.handlers.own(id);
        Some(Facts {
            state: connection.websocket.state(),
            message_length: connection.websocket.message_length(),
            backlog_bytes: backlog,
            backlog_bytes_max: self.limits.backlog_bytes_max,
            limits: own.next_limits.or(own.limits).unwrap_or(self.handlers.route(id).rules.limits),
            keep_alive: self.handlers.keep_alive(id),
        })
    }

    fn addresses(&self, id: ConnectionId) -> (Option<SocketAddr>, Option<SocketAddr>) {
        if self.hub.connections.get(id).is_none() {
            return (None, None);
        }
        let socket = self.sockets[id.slot() as usize].as_ref();
        socket.map_or((None, None), |socket| self.io.addresses(socket))
    }

    fn send(&mut self, id: ConnectionId, frames: &[u8]) -> Sent {
        let Some(connection) = self.hub.connections.get(id) else { return Sent::Refused(Refused::NotOpen) };
        if connection.websocket.state() != State::Open {
            return Sent::Refused(Refused::NotOpen);
        }
        // One message, however large, is refused to nobody who is owed nothing.
        let output = connection.io.output.as_ref().filter(|output| !output.is_empty());
        if output.is_some_and(|output| !output.has_room_for(frames.len(), self.limits.backlog_bytes_max)) {
            if !self.handlers.has_manual_backpressure(id) {
                self.close_slow(id);
            }
            return Sent::Refused(Refused::Full);
        }
        let backlog = output.map_or(0, |output| output.backlog.bytes());
        self.reply(id, frames);
        if backlog == 0 { Sent::Sent } else { Sent::Queued { bytes: backlog } }
    }

    fn close(&mut self, id: ConnectionId, code: CloseCode, reason: &str) {
        let is_open = self.hub.connections.get(id).is_some_and(|c| c.websocket.state() == State::Open);
        if is_open && code == CloseCode::POLICY_VIOLATION {
            self.count(Counter::PolicyClosed, 1);
        }
        Shard::close(self, id, code, reason);
    }

    fn fail(&mut self, id: ConnectionId, panicked: &Panicked) {
        self.notice_panic(id, panicked);
        Shard::close(self, id, CloseCode::INTERNAL_ERROR, "a handler has failed");
    }

    fn subscribe(
        &mut self,
        id: ConnectionId,
        topic: &TopicName,
        options: SubscribeOptions,
    ) -> Result<(), SubscribeError> {
        match self.hub.subscribe(id, topic, options.echo) {
            Subscribed::Live => {
                self.joined.push(Joined { id, topic: topic.clone() });
                Ok(())
            }
            Subscribed::Pending => Ok(()),
            Subscribed::Already => Err(SubscribeError::Already),
            Subscribed::TooMany => Err(SubscribeError::TooMany),
            Subscribed::Closed => Err(SubscribeError::NotOpen),
        }
    }

    fn unsubscribe(&mut self, id: ConnectionId, topic: &TopicName) -> bool {
        let was_subscribed = self.hub.subscriptions(id).contains(topic);
        Shard::unsubscribe(self, id, topic);
        was_subscribed
    }

    fn topics(&self, id: ConnectionId) -> Vec<TopicName> {
        let mut topics = self.hub.subscriptions(id);
        topics.retain(|topic| !topic.is_everyone());
        topics
    }

    fn publish(
        &mut self,
        source: Option<ConnectionId>,
        topic: &TopicName,
        message: &PreparedMessage,
        scope: Scope,
    ) -> Option<Published> {
        self.hub.publish_by_name(topic, source, message, scope)
    }

    fn set_limits(&mut self, id: ConnectionId, limits: MessageLimits) {
        if self.hub.connections.get(id).is_some() {
            self.handlers.own.entry(id).or_default().next_limits = Some(limits);
        }
    }

    fn set_keep_alive(&mut self, id: ConnectionId, keep_alive: KeepAlive) {
        if self.hub.connections.get(id).is_some() {
            self.handlers.own.entry(id).or_default().keep_alive = Some(keep_alive);
            self.schedule(id);
        }
    }

    fn when_drained(&mut self, id: ConnectionId, waiter: oneshot::Sender<()>) {
        if self.hub.connections.get(id).is_some_and(|connection| connection.io.owes_output()) {
            self.handlers.notice_waiting(id, waiter);
        } else {
            // Who waits may have given up.
            _ = waiter.send(());
        }
    }

    fn tasks(&self) -> &Tasks {
        &self.handlers.tasks
    }

    fn connections(&self) -> Vec<ConnectionId> {
        let is_open = |&id: &ConnectionId| {
            self.hub.connections.get(id).is_some_and(|connection| connection.websocket.state() == State::Open)
        };
        self.hub.connections.ids().filter(is_open).collect()
    }
}
