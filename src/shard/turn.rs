//! The turn: everything that happens between one wake-up of a shard and the flush that ends it.

use std::{any::Any, fmt, mem, sync::Arc};

use bytes::{Bytes, BytesMut};

use super::{
    drain::Drain,
    flush::Flush,
    handlers::Handlers,
    incoming::Incoming,
    io_state::{Connection, Hub, IoState, Reading, Watch},
    pace::Pace,
    timers::Wheel,
};
use crate::{
    config::{Config, Limits},
    handler::Profile,
    handover::OfAddress,
    hub::{Commanded, ConnectionId, HubLimits, Joined, MeshEnd, Scope, SubscribeOptions, Subscribed, TopicName},
    metrics::{Counter, Counters},
    proto::{CloseCode, KeepAlive, MessageLimits, Role, State, Tick, Timeout, WebSocket},
    sys::{Io, Key, Readiness},
};

/// One CPU's connections and topics, and the turn that serves them.
///
/// A turn takes what has arrived, handles it, and sends what that made due. Nothing recurses, and nothing is sent but
/// by the flush. It is generic over [`Io`], so that the same code runs on the hot ring and on a simulated network.
///
/// - getters: [`Shard::next_deadline`], [`Shard::is_empty`], [`Shard::open`]
/// - inputs: [`Shard::adopt`], [`Shard::establish`], [`Shard::turn`]
/// - commands: [`Shard::subscribe`], [`Shard::unsubscribe`], [`Shard::drain`]
#[derive(Debug)]
pub(crate) struct Shard<I: Io> {
    pub(super) io: I,
    pub(super) hub: Hub,
    /// By slot.
    pub(super) sockets: Vec<Option<I::Socket>>,
    /// By slot, and empty unless the number of an address' sockets is limited.
    pub(super) of_address: Vec<Option<OfAddress>>,
    pub(super) limits: Limits,
    pub(super) handlers: Handlers,
    pub(super) counters: Arc<Counters>,
    pub(super) now: Tick,
    pub(super) flush: Flush,
    pub(super) drain: Option<Drain>,
    pub(super) pace: Pace,
    pub(super) incoming: Incoming,
    /// This shard's part of [`Limits::unfinished_bytes_max`].
    pub(super) unfinished_bytes_max: usize,
    wheel: Wheel,
    /// Scratch, empty between uses.
    readiness: Vec<Readiness>,
    pub(super) replies: Vec<u8>,
    due: Vec<(Tick, ConnectionId)>,
    /// Subscriptions that have gone live and whose handlers have not been told.
    pub(super) joined: Vec<Joined>,
    commands: Vec<Commanded>,
}

/// An accepted opening handshake on its way to become a connection.
pub(crate) struct Arrival<S> {
    pub(crate) socket: S,
    /// Its part in the number of its address' sockets, where that is limited.
    pub(crate) of_address: Option<OfAddress>,
    /// Which route it is for, and what that keeps of it.
    pub(crate) route: u16,
    pub(crate) state: Box<dyn Any>,
    pub(crate) profile: Option<Box<Profile>>,
    /// The limits of its messages, where they are not those of its route.
    pub(crate) limits: Option<MessageLimits>,
    /// The topics it subscribes to from the beginning. Its answer is held until all subscriptions are live.
    pub(crate) subscriptions: Vec<(TopicName, SubscribeOptions)>,
    /// Where its client's messages go, if its handler is not to see them.
    pub(crate) forwards: Option<(TopicName, Scope)>,
    /// The head that tells the client so (RFC 6455 4.2.2). No frame may overtake it.
    pub(crate) answer: Bytes,
    /// What the client sent behind its own head.
    pub(crate) leftover: BytesMut,
}

impl<S: fmt::Debug> fmt::Debug for Arrival<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrival").field("socket", &self.socket).field("route", &self.route).finish_non_exhaustive()
    }
}

impl<I: Io> Shard<I> {
    pub(crate) fn new(
        mesh: MeshEnd,
        config: &Config,
        io: I,
        handlers: Handlers,
        counters: Arc<Counters>,
        epoch_first: u64,
        now: Tick,
    ) -> Self {
        let hub_limits = HubLimits { topics_idle_max: config.limits.topics_idle_max, ..HubLimits::default() };
        Shard {
            io,
            hub: Hub::new(mesh, hub_limits, epoch_first),
            sockets: Vec::new(),
            of_address: Vec::new(),
            limits: config.limits.clone(),
            handlers,
            counters,
            now,
            flush: Flush::default(),
            drain: None,
            pace: Pace::DEFAULT,
            incoming: Incoming::default(),
            unfinished_bytes_max: config.limits.unfinished_bytes_max / config.shards,
            wheel: Wheel::new(now),
            readiness: Vec::new(),
            replies: Vec::new(),
            due: Vec::new(),
            joined: Vec::new(),
            commands: Vec::new(),
        }
    }

    /// Takes over a connection whose opening handshake is accepted: it is subscribed, then told so.
    pub(crate) fn adopt(&mut self, now: Tick, mut arrival: Arrival<I::Socket>) -> Option<ConnectionId> {
        self.now = now;
        // What was ordered before it came is not for it.
        self.take_mail();
        let mut connection = Connection::new(WebSocket::new(Role::Server, now), IoState::new());
        // Who is told that it subscribes is owed everything from then on.
        connection.is_held = true;
        let id = self.hub.connections.insert(connection).ok()?;
        self.seat(id, &mut arrival);
        let Arrival { socket, of_address, subscriptions, forwards, answer, leftover, .. } = arrival;
        let slot = id.slot() as usize;
        if self.sockets.len() <= slot {
            self.sockets.resize_with(slot + 1, || None);
        }
        self.io.arm(key(id), &socket);
        self.sockets[slot] = Some(socket);
        if of_address.is_some() {
            if self.of_address.len() <= slot {
                self.of_address.resize_with(slot + 1, || None);
            }
            self.of_address[slot] = of_address;
        }
        let mut is_refused = false;
        for (topic, options) in subscriptions {
            is_refused |= self.hub.subscribe(id, &topic, options.echo) == Subscribed::TooMany;
        }
        // Behind the subscriptions: who asks for a topic's messages need not ask that it is remembered.
        if let Some((topic, scope)) = forwards {
            self.hub.publish_to(id, &topic, scope);
        }
        self.count(Counter::Opened, 1);
        self.counters.set(Counter::ConnectionsOpen, self.hub.connections.len() as u64);
        // Whatever a handler sends stands behind it.
        self.reply(id, &answer);
        self.schedule(id);
        self.call(id, |handler, door, seat| handler.on_open(door, seat));
        self.release(id);
        self.tell_joined();
        if is_refused {
            self.count(Counter::PolicyClosed, 1);
            self.close(id, CloseCode::POLICY_VIOLATION, "more subscriptions than a connection may have");
        }
        self.receive_leftover(id, leftover);
        if let Some(drain) = &mut self.drain {
            drain.add(id);
        }
        Some(id)
    }

    /// One turn. Returns whether there is more to do at once; if not, the next turn is due when the ring has something,
    /// at [`Shard::next_deadline`], or after [`Shard::adopt`].
    pub(crate) fn turn(&mut self, now: Tick) -> bool {
        self.now = now;
        self.reap();
        self.receive();
        self.take_mail();
        self.expire_timers();
        self.resume_paused();
        self.pace_drain();
        self.tell_ended();
        // Before the flush: the other shards can begin while this one sends.
        self.hub.send_out();
        self.flush();
        self.tell_drained();
        self.tell_ended();
        self.hub.send_out();
        self.io.submit();
        self.count(Counter::Turns, 1);
        self.counters.set(Counter::LaneOverflow, self.hub.overflowed());
        self.has_work()
    }

    /// When the next turn is due even if nothing happens.
    pub(crate) fn next_deadline(&self) -> Option<Tick> {
        let drain = self.drain.as_ref().map(|drain| drain.next_step(self.now));
        self.wheel.next().into_iter().chain(drain).chain(self.flush.next_try()).min()
    }

    /// Are there no connections?
    pub(crate) fn is_empty(&self) -> bool {
        self.hub.connections.is_empty()
    }

    /// How many connections there are.
    pub(crate) fn open(&self) -> usize {
        self.hub.connections.len()
    }

    pub(crate) fn io_mut(&mut self) -> &mut I {
        &mut self.io
    }

    /// Does so much wait to be sent, or to go on to other shards, that nothing may be added?
    pub(crate) fn is_full(&self) -> bool {
        self.hub.gathered_bytes() > self.limits.gathered_bytes_max || self.hub.is_congested()
    }

    fn has_work(&self) -> bool {
        let can_receive = !self.hub.is_congested();
        (can_receive && !self.incoming.is_empty())
            || !self.flush.is_idle()
            || self.hub.is_dirty()
            || self.hub.has_mail()
    }

    /// The shard is about to sleep. Returns whether it may: something may have come down a lane just now.
    pub(crate) fn may_sleep(&self) -> bool {
        self.hub.about_to_sleep();
        !self.hub.has_mail()
    }

    /// The shard is awake.
    pub(crate) fn awake(&self) {
        self.hub.awake();
    }

    /// Takes what has come down the lanes, up to a bound: deliveries as long as there is room to gather them, then
    /// requests.
    fn take_mail(&mut self) {
        let may_gather = |hub: &Hub| hub.gathered_bytes() <= self.limits.gathered_bytes_max;
        for _ in 0..self.pace.mail {
            if !may_gather(&self.hub) || !self.hub.take_delivery(&mut self.joined) {
                break;
            }
        }
        for _ in 0..self.pace.mail {
            if !may_gather(&self.hub) || !self.hub.take_request(&mut self.commands) {
                break;
            }
        }
        self.tell_joined();
        let mut commands = mem::take(&mut self.commands);
        commands.drain(..).for_each(|command| self.obey(command));
        self.commands = commands;
    }

    /// What has been held back from the connection leaves if it has nothing to wait for any more.
    /// [`Shard::tell_joined`] must follow when no handler is being called.
    pub(super) fn release(&mut self, id: ConnectionId) {
        if self.hub.release(id, &mut self.joined)
            && let Some(connection) = self.hub.connections.get_mut(id)
        {
            self.flush.mark_dirty(connection, id);
        }
    }

    /// Subscriptions that had to wait have gone live: their handlers are told. Opening answers that waited for them may
    /// leave.
    pub(super) fn tell_joined(&mut self) {
        // In the order in which they have joined. What a handler does meanwhile may add some, or take some out.
        self.joined.reverse();
        while let Some(Joined { id, topic }) = self.joined.pop() {
            tracing::trace!(%id, peer = self.peer(id), %topic, "subscribed");
            let Some(connection) = self.hub.connections.get_mut(id) else { continue };
            if connection.io.owes_output() {
                self.flush.mark_dirty(connection, id);
            }
            if !topic.is_everyone() && connection.websocket.state() == State::Open {
                self.call(id, |handler, door, seat| handler.on_subscribed(door, seat, &topic));
            }
        }
    }

    /// Notes what has become ready.
    fn reap(&mut self) {
        let mut readiness = mem::take(&mut self.readiness);
        self.io.reap(&mut readiness);
        for Readiness { key, readable, hung_up, writable, disarmed } in readiness.drain(..) {
            let id = self.hub.connections.name(key.slot, key.generation);
            // A report that was on its way when its connection ended.
            let Some(connection) = self.hub.connections.get_mut(id) else { continue };
            connection.io.hung_up |= hung_up;
            if disarmed && let Some(socket) = &self.sockets[key.slot as usize] {
                self.io.arm(key, socket);
            }
            if readable {
                self.incoming.push_ready(connection, id);
            }
            if writable {
                connection.io.awaits_room = false;
                if let Some(output) = &mut connection.io.output {
                    output.found_room = true;
                }
                self.flush.mark_dirty(connection, id);
            }
        }
        self.readiness = readiness;
    }

    /// Sends what the protocol wants sent, and gives the scratch back.
    pub(super) fn finish_replies(&mut self, id: ConnectionId, mut replies: Vec<u8>) {
        self.reply(id, &replies);
        replies.clear();
        self.replies = replies;
    }

    /// Appends whole frames for this connection alone. They leave with the next flush.
    pub(super) fn reply(&mut self, id: ConnectionId, frames: &[u8]) {
        if frames.is_empty() {
            return;
        }
        if self.hub.connections.get(id).is_some_and(|connection| connection.websocket.state() != State::Open) {
            self.leave_topics(id);
        }
        let Some(connection) = self.hub.connections.get_mut(id) else { return };
        connection.io.output.get_or_insert_default().append(frames);
        if connection.is_held {
            // It is not in the flush's hands yet, but may answer pings.
            self.check_backlog(id);
        } else {
            self.flush.mark_dirty(connection, id);
        }
    }

    /// Enters the connection's next deadline into the wheel, unless an earlier look is due anyway.
    ///
    /// A deadline only moves to later times, with one exception: where a pong may take longer than the interval between
    /// pings, the next ping after it is due before the pong was. So an open connection is looked at in every interval.
    pub(super) fn schedule(&mut self, id: ConnectionId) {
        let waits = self.close_waits(id);
        let Some(connection) = self.hub.connections.get_mut(id) else { return };
        let keep_alive = self.handlers.keep_alive(id);
        let interval = keep_alive.ping_interval;
        let pings = connection.websocket.state() == State::Open && interval > 0;
        let look = pings.then(|| self.now.after(interval));
        let deadline = connection.websocket.deadline(&keep_alive);
        let message = match self.limits.message_ticks_max {
            0 => None,
            ticks => self.incoming.unfinished.since(id).map(|since| since.after(ticks)),
        };
        let watch = connection.io.output.as_ref().and_then(|output| output.watch);
        let taken = watch.filter(|_| pings).and_then(|watch| deadline_of(&watch, &keep_alive));
        let deadlines = [deadline, connection.io.ends_by, look, message, waits, taken];
        let deadline = deadlines.into_iter().flatten().min();
        if let Some(deadline) = deadline
            && connection.io.timer.is_none_or(|timer| deadline < timer)
        {
            connection.io.timer = Some(self.wheel.insert(deadline, id));
        }
    }

    fn expire_timers(&mut self) {
        let mut due = mem::take(&mut self.due);
        self.wheel.advance(self.now, &mut due);
        for (tick, id) in due.drain(..) {
            let Some(connection) = self.hub.connections.get_mut(id) else { continue };
            // An entry that an earlier one has replaced.
            if connection.io.timer == Some(tick) {
                connection.io.timer = None;
                self.expire(id);
            }
        }
        self.due = due;
    }

    /// Does what is due for a connection, and enters its next deadline.
    fn expire(&mut self, id: ConnectionId) {
        let Some(connection) = self.hub.connections.get_mut(id) else { return };
        if connection.io.ends_by.is_some_and(|ends_by| ends_by <= self.now) {
            tracing::debug!(%id, peer = self.peer(id), "the closing handshake did not end in time");
            self.count(Counter::CloseTimeout, 1);
            self.remove(id);
            return;
        }
        if connection.io.reading != Reading::Idle {
            // What it has sent waits to be received, or is not received because of what it is owed.
            connection.websocket.excuse_silence(self.now);
        }
        self.expire_watch(id);
        self.expire_message(id);
        let Some(connection) = self.hub.connections.get_mut(id) else { return };
        let mut replies = mem::take(&mut self.replies);
        let keep_alive = self.handlers.keep_alive(id);
        let ping = self.handlers.ping_payload(id);
        let timeout = connection.websocket.handle_timeout(self.now, &keep_alive, ping, &mut replies);
        self.finish_replies(id, replies);
        match timeout {
            Timeout::Nothing => {}
            Timeout::PingSent => self.count(Counter::PingsSent, 1),
            Timeout::PongTimeout => {
                tracing::debug!(%id, peer = self.peer(id), "no sign of life has followed a ping");
                self.count(Counter::PongTimeout, 1);
            }
            Timeout::CloseTimeout => {
                tracing::debug!(%id, peer = self.peer(id), "the closing handshake did not end in time");
                self.count(Counter::CloseTimeout, 1);
                self.remove(id);
                return;
            }
        }
        self.notice_close(id);
        self.schedule(id);
    }

    /// Gives up the peer of an open connection with a backlog if it has taken nothing for as long as one may be silent.
    ///
    /// What it takes is its sign of life. What it sends is none: a client that sends a byte now and then, and takes
    /// nothing, would keep its backlog for ever. Nor is a missing pong a sign of death: a client that reads slowly has
    /// yet to read all that stands before the ping.
    fn expire_watch(&mut self, id: ConnectionId) {
        let keep_alive = self.handlers.keep_alive(id);
        let Some(connection) = self.hub.connections.get_mut(id) else { return };
        let awaits_peer = connection.io.awaits_peer() && connection.websocket.state() == State::Open;
        let Some(output) = &mut connection.io.output else { return };
        let Some(socket) = self.sockets[id.slot() as usize].as_ref().filter(|_| awaits_peer) else {
            output.watch = None;
            return;
        };
        let held = self.io.unacknowledged(socket);
        match output.watch {
            Some(watch) if !watch.sees_progress(held) => {
                if deadline_of(&watch, &keep_alive).is_none_or(|deadline| self.now < deadline) {
                    return;
                }
                tracing::debug!(%id, peer = self.peer(id), "the client takes nothing of what it is owed");
                self.count(Counter::PongTimeout, 1);
                self.close(id, CloseCode::INTERNAL_ERROR, "the client takes nothing");
            }
            _ => {
                output.watch = Some(Watch::new(self.now, held));
                connection.websocket.excuse_silence(self.now);
            }
        }
    }

    pub(super) fn count(&self, counter: Counter, count: u64) {
        self.counters.add(counter, count);
    }
}

/// Returns when a peer that has taken nothing since the watch began is given up: after as long as one may be silent.
fn deadline_of(watch: &Watch, keep_alive: &KeepAlive) -> Option<Tick> {
    let KeepAlive { ping_interval, pong_timeout, .. } = *keep_alive;
    (ping_interval > 0 && pong_timeout > 0).then(|| watch.since.after(ping_interval.saturating_add(pong_timeout)))
}

/// The ring's name of a connection.
pub(super) fn key(id: ConnectionId) -> Key {
    Key { slot: id.slot(), generation: id.generation() }
}
