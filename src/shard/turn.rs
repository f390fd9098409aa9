//! The turn: everything that happens between one wake-up of a shard and the flush that ends it.

use std::{any::Any, collections::VecDeque, fmt, io, mem, sync::Arc};

use bytes::{Bytes, BytesMut};

use super::{drain::Drain, flush::Flush, handlers::Handlers, pace::Pace, timers::Wheel};
use crate::{
    config::{Config, Limits},
    handler::Profile,
    hub::{
        Commanded, Connection, ConnectionId, Hub, HubLimits, Joined, LARGE_PIECE_PINS, MeshEnd, Publishing, Scope,
        Subscribed, TopicName,
    },
    metrics::{Counter, Counters},
    proto::{CloseCode, Event, Input, MessageLimits, ProtocolError, Role, State, Tick, Timeout, Verdict, WebSocket},
    sys::{Io, Key, Readiness, Receive},
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
    pub(super) limits: Limits,
    pub(super) handlers: Handlers,
    pub(super) counters: Arc<Counters>,
    pub(super) now: Tick,
    pub(super) flush: Flush,
    pub(super) drain: Option<Drain>,
    pub(super) pace: Pace,
    /// Connections to receive from.
    ready: VecDeque<ConnectionId>,
    wheel: Wheel,
    /// Receive buffers nobody uses now.
    buffers: Vec<BytesMut>,
    /// Scratch, empty between uses.
    readiness: Vec<Readiness>,
    replies: Vec<u8>,
    due: Vec<(Tick, ConnectionId)>,
    /// Subscriptions that have gone live and whose handlers have not been told.
    pub(super) joined: Vec<Joined>,
    commands: Vec<Commanded>,
}

/// An accepted opening handshake on its way to become a connection.
pub(crate) struct Arrival<S> {
    pub(crate) socket: S,
    /// Which route it is for, and what that keeps of it.
    pub(crate) route: u16,
    pub(crate) state: Box<dyn Any>,
    pub(crate) profile: Option<Box<Profile>>,
    /// The topics it subscribes to from the beginning, and whether with echo. Its answer is held until all are live.
    pub(crate) subscriptions: Vec<(TopicName, bool)>,
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
            limits: config.limits.clone(),
            handlers,
            counters,
            now,
            flush: Flush::default(),
            drain: None,
            pace: Pace::DEFAULT,
            ready: VecDeque::new(),
            wheel: Wheel::new(now),
            buffers: Vec::new(),
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
        let mut connection = Connection::new(WebSocket::new(Role::Server, now));
        // Who is told that it subscribes is owed everything from then on.
        connection.is_held = true;
        let id = self.hub.connections.insert(connection).ok()?;
        self.seat(id, &mut arrival);
        let Arrival { socket, subscriptions, forwards, answer, leftover, .. } = arrival;
        let slot = id.slot() as usize;
        if self.sockets.len() <= slot {
            self.sockets.resize_with(slot + 1, || None);
        }
        self.io.arm(key(id), &socket);
        self.sockets[slot] = Some(socket);
        if let Some((topic, scope)) = forwards {
            self.hub.publish_to(id, &topic, scope);
        }
        let mut is_refused = false;
        for (topic, echo) in subscriptions {
            is_refused |= self.hub.subscribe(id, &topic, echo) == Subscribed::TooMany;
        }
        self.release(id);
        self.count(Counter::Opened, 1);
        self.counters.set(Counter::ConnectionsOpen, self.hub.connections.len() as u64);
        // Before any handler can say something.
        self.reply(id, &answer);
        self.schedule(id);
        self.call(id, |handler, door, seat| handler.on_open(door, seat));
        self.tell_joined();
        if is_refused {
            self.count(Counter::PolicyClosed, 1);
            self.close(id, CloseCode::POLICY_VIOLATION, "more subscriptions than a connection may have");
        }
        if !leftover.is_empty() {
            self.input(id, Buffer { bytes: leftover, is_own: true, is_consumed: false });
        }
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
        self.wheel.next().into_iter().chain(drain).min()
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
        (can_receive && !self.ready.is_empty()) || !self.flush.is_idle() || self.hub.is_dirty() || self.hub.has_mail()
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
            if connection.owes_output() {
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
            connection.hung_up |= hung_up;
            if disarmed && let Some(socket) = &self.sockets[key.slot as usize] {
                self.io.arm(key, socket);
            }
            if readable && !connection.is_ready {
                connection.is_ready = true;
                self.ready.push_back(id);
            }
            if writable {
                connection.awaits_room = false;
                self.flush.mark_dirty(connection, id);
            }
        }
        self.readiness = readiness;
    }

    /// Receives from those who are ready and handles what they sent, up to a bound, so that sending has its turn too.
    fn receive(&mut self) {
        for _ in 0..self.pace.receive_batches {
            if self.ready.is_empty() {
                return;
            }
            if self.is_full() {
                // Publishers wait in their sockets until subscribers have been served, here or on other shards.
                self.count(Counter::ReceivePaused, 1);
                return;
            }
            self.receive_batch();
        }
    }

    fn receive_batch(&mut self) {
        let most = self.pace.receive_batch.min(self.ready.len());
        let mut batch: Vec<(ConnectionId, Buffer)> = Vec::with_capacity(most);
        while batch.len() < most
            && let Some(id) = self.ready.pop_front()
        {
            let Some(connection) = self.hub.connections.get_mut(id) else { continue };
            connection.is_ready = false;
            batch.push((id, buffer_for(connection, &mut self.buffers)));
        }
        let sockets = &self.sockets;
        let mut entries: Vec<Receive<'_, I::Socket>> = batch
            .iter_mut()
            .map(|(id, buffer)| {
                let socket = sockets[id.slot() as usize].as_ref().expect("a connection has a socket");
                Receive::new(socket, &mut buffer.bytes)
            })
            .collect();
        self.io.receive(&mut entries);
        let results: Vec<io::Result<usize>> = entries.into_iter().map(|entry| entry.result).collect();
        for ((id, buffer), result) in batch.into_iter().zip(results) {
            self.received(id, buffer, result);
        }
    }

    /// Handles the outcome of one receive.
    fn received(&mut self, id: ConnectionId, buffer: Buffer, result: io::Result<usize>) {
        let Some(connection) = self.hub.connections.get_mut(id) else { return self.give_back(buffer) };
        match result {
            Ok(0) => {
                connection.peer_done = true;
                self.give_back(buffer);
                self.end_if_done(id);
            }
            Ok(count) => {
                // A full buffer may have left something behind, and a hang-up is not reported again: look once more.
                if (buffer.bytes.len() == buffer.bytes.capacity() || connection.hung_up) && !connection.is_ready {
                    connection.is_ready = true;
                    self.ready.push_back(id);
                }
                self.count(Counter::BytesIn, count as u64);
                self.input(id, buffer);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.keep_rest(id, buffer),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                connection.is_ready = true;
                self.ready.push_back(id);
                self.keep_rest(id, buffer);
            }
            Err(error) => {
                self.give_back(buffer);
                self.lose(id, &error);
            }
        }
    }

    /// Parses what has arrived and does what it says.
    fn input(&mut self, id: ConnectionId, received: Buffer) {
        let length = received.bytes.len();
        let mut input = Input::new(received.bytes);
        let mut replies = mem::take(&mut self.replies);
        while let Some(connection) = self.hub.connections.get(id) {
            let limits = self.handlers.limits(id, || !connection.websocket.is_within_message());
            match self.next_event(id, &mut input, &limits, &mut replies) {
                Ok(None) => break,
                Ok(Some(Event::Message(message))) => {
                    self.count(Counter::MessagesIn, 1);
                    let forwards = self.hub.connections.get(id).and_then(|connection| connection.publishes);
                    if let Some(Publishing { topic, scope }) = forwards {
                        self.hub.publish(topic, Some(id), &message.prepare(), scope);
                        continue;
                    }
                    self.say(id, &mut replies);
                    self.tell(id, Event::Message(message));
                }
                Ok(Some(event)) => {
                    // What the protocol has said before goes before what a handler says: it may close.
                    self.say(id, &mut replies);
                    self.tell(id, event);
                }
                Err(error) => {
                    tracing::debug!(%id, peer = self.peer(id), %error, "the client broke the protocol");
                    self.count(Counter::ProtocolErrors, 1);
                    self.say(id, &mut replies);
                    self.call(id, |handler, door, seat| handler.on_error(door, seat, &error));
                }
            }
        }
        self.finish_replies(id, replies);
        let bytes = input.into_rest();
        let is_consumed = bytes.len() < length;
        self.keep_rest(id, Buffer { bytes, is_own: received.is_own, is_consumed });
        self.notice_close(id);
    }

    /// The next event of what has arrived, after the handler has looked at its frames if it wants to.
    #[inline]
    fn next_event<'a>(
        &mut self,
        id: ConnectionId,
        input: &'a mut Input,
        limits: &MessageLimits,
        replies: &mut Vec<u8>,
    ) -> Result<Option<Event<'a>>, ProtocolError> {
        let hook = self.looks_at_frames(id);
        let Some(connection) = self.hub.connections.get_mut(id) else { return Ok(None) };
        let Some((handler, seat)) = hook else {
            return connection.websocket.receive(self.now, input, limits, replies);
        };
        let mut panicked = None;
        let event =
            connection.websocket.receive_with(self.now, input, limits, replies, |header, payload| {
                match handler.on_frame(seat, header, payload) {
                    Ok(Verdict::Fail(code)) if !code.is_sendable() && code != CloseCode::NO_STATUS => {
                        tracing::error!(%id, %code, "a handler fails a connection with a code nobody may send");
                        Verdict::Fail(CloseCode::INTERNAL_ERROR)
                    }
                    Ok(verdict) => verdict,
                    Err(panic) => {
                        panicked = Some(panic);
                        Verdict::Fail(CloseCode::INTERNAL_ERROR)
                    }
                }
            });
        if let Some(panicked) = panicked {
            // The client is told; the handler knows.
            self.notice_panic(id, &panicked);
            return Ok(None);
        }
        event
    }

    /// Appends what the protocol has said so far.
    #[inline]
    fn say(&mut self, id: ConnectionId, replies: &mut Vec<u8>) {
        if !replies.is_empty() {
            self.reply(id, replies);
            replies.clear();
        }
    }

    /// Sends what the protocol wants sent, and gives the scratch back.
    fn finish_replies(&mut self, id: ConnectionId, mut replies: Vec<u8>) {
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
        connection.output.get_or_insert_default().outbox.extend_from_slice(frames);
        if !connection.is_held {
            self.flush.mark_dirty(connection, id);
        }
    }

    /// After anything that may have ended the open state: no more messages for it, and a deadline.
    pub(super) fn notice_close(&mut self, id: ConnectionId) {
        let Some(connection) = self.hub.connections.get_mut(id) else { return };
        if connection.websocket.state() == State::Open {
            return;
        }
        if mem::take(&mut connection.is_held) {
            // It will not become a subscriber any more; it is still owed its answer.
            self.flush.mark_dirty(connection, id);
        }
        if connection.websocket.state() == State::Closed && connection.ends_by.is_none() {
            connection.ends_by = Some(self.now.after(self.handlers.keep_alive(id).close_timeout));
        }
        self.hub.unsubscribe_all(id);
        self.schedule(id);
        self.end_if_done(id);
    }

    /// Takes the connection through the end of its socket: when the closing handshake is over and everything has been
    /// sent, our side is finished; when the peer's is too, the socket is closed. Closing it before could destroy what
    /// is still on its way to the peer (RFC 6455 7.1.1).
    pub(super) fn end_if_done(&mut self, id: ConnectionId) {
        let Some(connection) = self.hub.connections.get_mut(id) else { return };
        let state = connection.websocket.state();
        if state != State::Closed {
            // The peer has gone without a closing handshake, or without answering ours.
            if connection.peer_done {
                if state == State::Open {
                    self.count(Counter::Aborted, 1);
                }
                self.remove(id);
            }
            return;
        }
        if connection.owes_output() {
            return;
        }
        if !connection.is_finished {
            connection.is_finished = true;
            if let Some(socket) = &self.sockets[id.slot() as usize] {
                self.io.finish(socket);
            }
        }
        if connection.peer_done {
            self.remove(id);
        }
    }

    /// The socket has failed: nothing more can be sent or received.
    pub(super) fn lose(&mut self, id: ConnectionId, error: &io::Error) {
        tracing::debug!(%id, peer = self.peer(id), %error, "the connection was lost");
        if self.hub.connections.get(id).is_some_and(|connection| connection.websocket.state() == State::Open) {
            self.count(Counter::Aborted, 1);
        }
        self.remove(id);
    }

    /// Ends a connection at once. Every end comes through here.
    pub(super) fn remove(&mut self, id: ConnectionId) {
        let Some(connection) = self.hub.remove(id) else { return };
        self.handlers.notice_ended(id);
        if connection.is_laggard() {
            let laggards = self.counters.get(Counter::Laggards) - 1;
            self.counters.set(Counter::Laggards, laggards);
        }
        self.io.disarm(key(id));
        self.sockets[id.slot() as usize] = None;
        self.count(Counter::Ended, 1);
        self.counters.set(Counter::ConnectionsOpen, self.hub.connections.len() as u64);
    }

    /// Enters the connection's next deadline into the wheel, unless an earlier look is due anyway.
    ///
    /// A deadline only moves to later times, with one exception: where a pong may take longer than the interval between
    /// pings, the next ping after it is due before the pong was. So an open connection is looked at in every interval.
    pub(super) fn schedule(&mut self, id: ConnectionId) {
        let Some(connection) = self.hub.connections.get_mut(id) else { return };
        let keep_alive = self.handlers.keep_alive(id);
        let interval = keep_alive.ping_interval;
        let pings = connection.websocket.state() == State::Open && interval > 0;
        let look = pings.then(|| self.now.after(interval));
        let deadline = connection.websocket.deadline(&keep_alive);
        if let Some(deadline) = deadline.into_iter().chain(connection.ends_by).chain(look).min()
            && connection.timer.is_none_or(|timer| deadline < timer)
        {
            connection.timer = Some(self.wheel.insert(deadline, id));
        }
    }

    fn expire_timers(&mut self) {
        let mut due = mem::take(&mut self.due);
        self.wheel.advance(self.now, &mut due);
        for (tick, id) in due.drain(..) {
            let Some(connection) = self.hub.connections.get_mut(id) else { continue };
            // An entry that an earlier one has replaced.
            if connection.timer == Some(tick) {
                connection.timer = None;
                self.expire(id);
            }
        }
        self.due = due;
    }

    /// Does what is due for a connection, and enters its next deadline.
    fn expire(&mut self, id: ConnectionId) {
        let Some(connection) = self.hub.connections.get_mut(id) else { return };
        if connection.ends_by.is_some_and(|ends_by| ends_by <= self.now) {
            self.count(Counter::CloseOverdue, 1);
            self.remove(id);
            return;
        }
        if connection.is_ready {
            // It has sent something that we have not come to receive.
            connection.websocket.excuse_silence(self.now);
        }
        let mut replies = mem::take(&mut self.replies);
        let keep_alive = self.handlers.keep_alive(id);
        let ping = self.handlers.ping_payload(id);
        let timeout = connection.websocket.handle_timeout(self.now, &keep_alive, ping, &mut replies);
        self.finish_replies(id, replies);
        match timeout {
            Timeout::Nothing => {}
            Timeout::PingSent => self.count(Counter::PingsSent, 1),
            Timeout::PongOverdue => self.count(Counter::PongOverdue, 1),
            Timeout::CloseOverdue => {
                self.count(Counter::CloseOverdue, 1);
                self.remove(id);
                return;
            }
        }
        self.notice_close(id);
        self.schedule(id);
    }

    /// Keeps what is left of the input for the next receive, and gives the receive buffer back.
    ///
    /// Little is copied into as little memory. Much is the beginning of a large frame, which goes on arriving where it
    /// will stay, since it is to be sent from there. Its buffer doubles as it fills: a peer that has only announced a
    /// frame does not hold memory for it.
    fn keep_rest(&mut self, id: ConnectionId, buffer: Buffer) {
        let Buffer { bytes: mut rest, is_own, is_consumed } = buffer;
        if let Some(connection) = self.hub.connections.get_mut(id)
            && !rest.is_empty()
        {
            let missing = connection.websocket.missing(&rest);
            // Behind a frame that was consumed a buffer of its own would go on keeping that frame's memory.
            let stays = if is_own { !is_consumed } else { rest.len() >= RECEIVE_BUFFER / 2 };
            if stays {
                if rest.len() == rest.capacity() {
                    rest.reserve(missing.clamp(1, rest.len()));
                }
                connection.partial = Some(Box::new(rest));
                return;
            }
            // Below the limit it goes back into a receive buffer and needs no room.
            let room = if rest.len() >= STAYS_IN_PLACE { missing.min(rest.len()).max(1) } else { 0 };
            let mut partial = BytesMut::with_capacity(rest.len() + room);
            partial.extend_from_slice(&rest);
            connection.partial = Some(Box::new(partial));
        }
        self.give_back(Buffer { bytes: rest, is_own, is_consumed });
    }

    /// Takes a receive buffer back. One that grew with a connection's frame is not kept.
    fn give_back(&mut self, buffer: Buffer) {
        if !buffer.is_own && self.buffers.len() < BUFFERS_MAX {
            self.buffers.push(buffer.bytes);
        }
    }

    pub(super) fn count(&self, counter: Counter, count: u64) {
        self.counters.add(counter, count);
    }
}

/// A buffer to receive into.
#[derive(Debug)]
struct Buffer {
    bytes: BytesMut,
    /// Made for one connection's frame, not one of the shard's receive buffers.
    is_own: bool,
    /// Something at its front has been parsed and is gone.
    is_consumed: bool,
}

/// A buffer with room for what the connection sends next, behind what is left of its input.
fn buffer_for(connection: &mut Connection, buffers: &mut Vec<BytesMut>) -> Buffer {
    match connection.partial.take() {
        Some(partial) if partial.len() >= STAYS_IN_PLACE => {
            let mut bytes = *partial;
            if bytes.len() == bytes.capacity() {
                bytes.reserve(bytes.len());
            }
            Buffer { bytes, is_own: true, is_consumed: false }
        }
        partial => {
            let mut bytes = empty_buffer(buffers);
            if let Some(partial) = partial {
                bytes.extend_from_slice(&partial);
            }
            Buffer { bytes, is_own: false, is_consumed: false }
        }
    }
}

fn empty_buffer(buffers: &mut Vec<BytesMut>) -> BytesMut {
    let mut buffer = buffers.pop().unwrap_or_default();
    buffer.clear();
    // Takes the memory back that parsing has moved past, or new memory if a large frame has kept the old.
    buffer.reserve(RECEIVE_BUFFER);
    buffer
}

/// The ring's name of a connection.
pub(super) fn key(id: ConnectionId) -> Key {
    Key { slot: id.slot(), generation: id.generation() }
}

/// The shard's receive buffers: what one receive takes, unless it goes on with a large frame in a buffer of its own.
const RECEIVE_BUFFER: usize = LARGE_PIECE_PINS;

/// The beginning of a frame stays where it is from so many bytes on; less is copied.
const STAYS_IN_PLACE: usize = 4 * 1_024;

/// Receive buffers kept for the next batch.
const BUFFERS_MAX: usize = Pace::DEFAULT.receive_batch;
