//! The calls between a shard and the handlers of its routes, in both directions.
//!
//! Nothing recurses: a call of a handler returns before another handler is called. A handler learns that a connection
//! has ended when the shard is not in the midst of an action for another connection.

use std::{
    mem,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;
use tracing::field::display;

use super::{io_state::ShardConnection, seats::LocalRoute, slow::GivenUp, state::Shard};
use crate::{
    auth::{Authenticator, Identities},
    handler::{
        Call, Closed, Facts, OnAnswered, OnPresence, Panicked, Rules, Seat, ShardApi, ShardRoute, SubscribeError,
        Tasks, WORK_MAX,
    },
    hub::{
        Command, Commanded, ConnectionId, Joined, OrderEnd, Place, Publication, PublishOutcome, Refused, Reply, Scope,
        Sent, SubscribeOptions, SubscribeOutcome, Subscribed, TopicName, TopicRules,
    },
    metrics::Counter,
    proto::{CloseCode, Event, KeepAlive, MessageLimits, Millis, PreparedMessage, Refusal, State},
    surface::message_to_one,
    sys::Io,
};

impl<I: Io> Shard<I> {
    /// Calls the handler of a connection's route. [`Shard::report_joined`] must follow.
    pub(super) fn call(
        &mut self,
        id: ConnectionId,
        work: impl FnOnce(&dyn ShardRoute, &mut dyn ShardApi, Seat) -> Result<(), Panicked>,
    ) {
        let (route, key) = self.handlers.seats[id.slot() as usize];
        let routes = Rc::clone(&self.handlers.routes);
        if let Err(panicked) = work(&*routes[usize::from(route)].handler, self, Seat { id, key }) {
            self.fail(id, &panicked);
        }
    }

    /// Logs and counts a panic of a handler over a connection.
    pub(super) fn notice_panic(&mut self, id: ConnectionId, Panicked(panic): &Panicked) {
        tracing::error!(%id, peer = self.peer(id), panic, "a handler has panicked; its connection is closed");
        self.count(Counter::HandlerPanics, 1);
    }

    /// Calls the handler with an event of its client.
    pub(super) fn dispatch(&mut self, id: ConnectionId, event: Event<'_>) {
        match event {
            Event::Message(message) => self.call(id, |handler, shard, seat| handler.on_message(shard, seat, message)),
            Event::Fragment(fragment) => {
                self.call(id, |handler, shard, seat| handler.on_fragment(shard, seat, fragment));
            }
            Event::Ping(payload) => self.call(id, |handler, shard, seat| handler.on_ping(shard, seat, payload)),
            Event::Pong(payload) => self.call(id, |handler, shard, seat| handler.on_pong(shard, seat, payload)),
            Event::Close(frame) => {
                let code = frame.code.unwrap_or(CloseCode::NO_STATUS);
                self.access.note_code(id, code);
                let closed = Closed { code, reason: frame.reason.into(), is_clean: true };
                self.call(id, |handler, _, seat| {
                    handler.set_closed(seat, closed);
                    Ok(())
                });
            }
        }
        self.report_joined();
    }

    /// Calls the handlers of subscriptions that have gone live. Opening answers that waited for these subscriptions may
    /// leave.
    pub(super) fn report_joined(&mut self) {
        // The order is reversed for `pop`: the first that went live is reported first. A handler may add subscriptions
        // meanwhile, or take some out.
        self.joined.reverse();
        while let Some(Joined { id, topic, end, recovered }) = self.joined.pop() {
            tracing::trace!(%id, peer = self.peer(id), %topic, "subscribed");
            if let Some(is_recovered) = recovered {
                self.count(if is_recovered { Counter::Recovered } else { Counter::Unrecovered }, 1);
            }
            // The subscription may be the last for which the connection was held.
            self.note_opened(id);
            let Some(connection) = self.hub.connections.get_mut(id) else { continue };
            if connection.io.owes_output() {
                self.flush.mark_dirty(connection, id);
            }
            for (end, ticket) in self.joining.take(id, &topic) {
                self.hub.reply(end, ticket, Reply::Subscribed(SubscribeOutcome::Live));
            }
            let Some(connection) = self.hub.connections.get(id) else { continue };
            if !topic.is_hidden() && connection.is_open() {
                (self.handlers.order_end, self.handlers.recovered) = (end, recovered);
                self.call(id, |handler, shard, seat| handler.on_subscribed(shard, seat, &topic));
            }
        }
    }

    /// Tells the handlers of the lags whose notices have been sent.
    pub(super) fn report_lags(&mut self) {
        for (id, lag) in mem::take(&mut self.flush.told) {
            self.count(Counter::LagsTold, 1);
            if self.hub.connections.get(id).is_some_and(|connection| connection.is_open()) {
                self.call(id, |handler, shard, seat| handler.on_lag(shard, seat, &lag));
                self.report_joined();
            }
        }
    }

    /// Calls those that wait for the answers to their publications, or for the members of topics, and whose answers
    /// have come.
    pub(super) fn report_answered(&mut self) {
        for (ticket, answer) in self.hub.take_answered() {
            let Some((id, on_answered)) = self.handlers.askers.remove(&ticket) else { continue };
            if let Err(panicked) = Panicked::catch(|| on_answered(self, answer)) {
                self.fail(id, &panicked);
            }
            self.report_joined();
        }
        for (ticket, presence) in self.hub.take_presences() {
            let Some((id, on_presence)) = self.handlers.readers.remove(&ticket) else { continue };
            if let Err(panicked) = Panicked::catch(|| on_presence(self, presence)) {
                self.fail(id, &panicked);
            }
            self.report_joined();
        }
    }

    /// Ends the waits for connections that are owed nothing more after a flush.
    pub(super) fn report_drained(&mut self) {
        for id in mem::take(&mut self.handlers.emptied) {
            if !self.hub.connections.get(id).is_some_and(|connection| connection.io.owes_output()) {
                self.handlers.notice_drained(id);
            }
        }
    }

    /// Calls the handlers of connections that have ended. The output of these handlers leaves with the next flush.
    pub(super) fn report_ended(&mut self) {
        while let Some((id, route, key)) = self.handlers.ended.pop() {
            let routes = Rc::clone(&self.handlers.routes);
            let handler = &routes[usize::from(route)].handler;
            let seat = Seat { id, key };
            let closed = handler.on_close(self, seat);
            let peer = handler.peer(seat).map(display);
            // Dropping the state runs the handler's code too.
            for outcome in [closed, handler.remove(key)] {
                if let Err(Panicked(panic)) = outcome {
                    tracing::error!(%id, peer, panic, "a handler has panicked over a connection that has ended");
                    self.count(Counter::HandlerPanics, 1);
                }
            }
            self.handlers.abandoned.push(id);
        }
    }

    /// Takes the connections that have ended since the last call.
    pub(crate) fn take_abandoned(&mut self) -> Vec<ConnectionId> {
        mem::take(&mut self.handlers.abandoned)
    }

    /// Makes a call of a handle, which has waited in the queue of calls.
    pub(crate) fn call_back(&mut self, now: Millis, id: ConnectionId, work: Call) {
        self.note_time(now);
        if let Err(panicked) = Panicked::catch(|| work(self)) {
            self.fail(id, &panicked);
        }
        self.report_joined();
        self.report_ended();
    }

    /// Runs a command of an external end, and replies.
    pub(super) fn run_command(&mut self, Commanded { end, ticket, command }: Commanded) {
        let reply = match command {
            Command::Send { id, message } => Reply::Sent(self.send_message(id, &message)),
            Command::Close { id, code, reason } => {
                let is_open = self.facts(id).is_some_and(|facts| facts.state == State::Open);
                if is_open {
                    self.disconnect(id, code, &reason);
                }
                Reply::Done(is_open)
            }
            Command::Page { filter, from, rows_max } => Reply::Page(Box::new(self.page(&filter, from, rows_max))),
            Command::CloseAll { who, from, code, reason } => {
                let (closed, next) = self.close_all(&who, from, code, &reason);
                Reply::Closed { closed, next }
            }
            Command::Topics { from, most, prefix } => Reply::Topics(Box::new(self.hub.topic_part(from, most, &prefix))),
            Command::ReadHistory { topic, query } => Reply::History(Box::new(self.hub.read_history(&topic, &query))),
            Command::ForgetHistory(topic) => Reply::Forgotten(self.hub.forget_history(&topic)),
            Command::ReadPresence { topic, has_members } => {
                self.name_members();
                Reply::Presence(self.hub.presence(&topic, has_members).map(Box::new))
            }
            Command::CountSubscribers(topics) => {
                Reply::Counts(topics.iter().map(|topic| self.hub.subscribers(topic) as u32).collect())
            }
            Command::Subscribe { id, topic, options } => match ShardApi::subscribe(self, id, &topic, options) {
                // The answer follows when the subscription is live.
                Ok(()) => return self.joining.add(id, topic, end, ticket),
                Err(error) => Reply::Subscribed(match error {
                    SubscribeError::NotOpen => SubscribeOutcome::NotOpen,
                    SubscribeError::TooMany => SubscribeOutcome::TooMany,
                    SubscribeError::Already => SubscribeOutcome::Already,
                }),
            },
            Command::Unsubscribe { id, topic } => Reply::Done(self.end_subscription(id, &topic)),
            Command::List => Reply::Connections(self.connections().into()),
            Command::Top => Reply::Top(Box::new(self.top())),
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

    /// Sends a message of the program to one connection. An event stream has no fragments and no control frames.
    fn send_message(&mut self, id: ConnectionId, message: &PreparedMessage) -> Sent {
        let framing = self.hub.connections.get(id).and_then(|connection| connection.io.session.framing());
        let Some(framing) = framing else { return self.send(id, message.frame()) };
        let is_whole = message.frames().last().is_some_and(|(header, _)| header.fin.is_set());
        let Some(kind) = message.message_type().filter(|_| is_whole) else { return Sent::Refused(Refused::OpCode) };
        let payload = message.frames().flat_map(|(_, part)| part).copied().collect::<Vec<u8>>();
        self.send(id, &message_to_one(framing, kind, &payload))
    }

    /// Ends a subscription for the program, and tells the handler. Returns whether the connection was a subscriber.
    fn end_subscription(&mut self, id: ConnectionId, topic: &TopicName) -> bool {
        let was_subscribed = ShardApi::unsubscribe(self, id, topic);
        // A connection that its backlog has closed meanwhile is told nothing more.
        if was_subscribed && self.hub.connections.get(id).is_some_and(|connection| connection.is_open()) {
            self.call(id, |handler, shard, seat| handler.on_unsubscribed(shard, seat, topic));
            self.report_joined();
        }
        was_subscribed
    }

    /// Sets the times of the keep-alive of all connections, also of later ones.
    pub(super) fn set_all_keep_alive(&mut self, keep_alive: KeepAlive) {
        let routes = self.handlers.routes.iter().map(|route| LocalRoute {
            name: Arc::clone(&route.name),
            handler: Rc::clone(&route.handler),
            rules: Rules { keep_alive, ..route.rules.clone() },
        });
        self.handlers.routes = routes.collect();
        self.handlers.own.values_mut().for_each(|own| own.keep_alive = None);
        let ids: Vec<ConnectionId> = self.hub.connections.ids().collect();
        ids.into_iter().for_each(|id| self.schedule(id));
    }

    /// Returns the handler of a connection whose route inspects frames, and the connection's seat.
    pub(super) fn frame_hook(&self, id: ConnectionId) -> (Rc<dyn ShardRoute>, Seat) {
        let handler = Rc::clone(&self.handlers.route(id).handler);
        (handler, Seat { id, key: self.handlers.seats[id.slot() as usize].1 })
    }
}

impl<I: Io> ShardApi for Shard<I> {
    fn facts(&self, id: ConnectionId) -> Option<Facts> {
        let connection = self.hub.connections.get(id)?;
        let backlog = connection.io.output.as_ref().map_or(0, |output| output.backlog.bytes());
        let own = self.handlers.own(id);
        Some(Facts {
            state: connection.io.session.state(),
            has_pings: connection.io.session.has_pings(),
            message_length: connection.io.session.message_length(),
            backlog_bytes: backlog,
            backlog_bytes_max: self.limits.backlog_bytes_max,
            limits: own.next_limits.unwrap_or(self.handlers.limits_in_force(id)),
            keep_alive: self.handlers.keep_alive(id),
        })
    }

    fn addresses(&self, id: ConnectionId) -> (Option<SocketAddr>, Option<SocketAddr>) {
        self.addresses_of(id)
    }

    fn send(&mut self, id: ConnectionId, frames: &[u8]) -> Sent {
        let Some(connection) = self.hub.connections.get(id) else { return Sent::Refused(Refused::NotOpen) };
        if !connection.is_open() {
            return Sent::Refused(Refused::NotOpen);
        }
        // A connection that is owed nothing takes one message of any size.
        let output = connection.io.output.as_ref().filter(|output| !output.is_empty());
        if output.is_some_and(|output| !output.has_room_for(frames.len(), &self.output_limits())) {
            if !self.handlers.has_manual_backpressure(id) {
                self.close_slow(id, GivenUp::BeyondLimit);
            }
            return Sent::Refused(Refused::Full);
        }
        let backlog = output.map_or(0, |output| output.backlog.bytes());
        self.reply(id, frames);
        if backlog == 0 { Sent::Sent } else { Sent::Queued { bytes: backlog } }
    }

    fn close(&mut self, id: ConnectionId, code: CloseCode, reason: &str) {
        let is_open = self.hub.connections.get(id).is_some_and(|c| c.io.session.state() == State::Open);
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
        match self.hub.subscribe(id, topic, options) {
            Subscribed::Live => {
                let end = self.hub.order_end(topic);
                // Who resumes is live at once only if the topic keeps no messages.
                let recovered = options.resume.map(|_| false);
                self.joined.push(Joined { id, topic: topic.clone(), end, recovered });
                Ok(())
            }
            Subscribed::Pending => Ok(()),
            Subscribed::Already => Err(SubscribeError::Already),
            Subscribed::TooMany => Err(SubscribeError::TooMany),
            Subscribed::Closed => Err(SubscribeError::NotOpen),
        }
    }

    fn unsubscribe(&mut self, id: ConnectionId, topic: &TopicName) -> bool {
        let was_subscribed = self.hub.has_subscription(id, topic);
        Shard::unsubscribe(self, id, topic);
        was_subscribed
    }

    fn is_subscribed(&self, id: ConnectionId, topic: &TopicName) -> bool {
        self.hub.has_subscription(id, topic)
    }

    fn topics(&self, id: ConnectionId) -> Vec<TopicName> {
        let mut topics = self.hub.subscriptions(id);
        topics.retain(|topic| !topic.is_hidden());
        topics
    }

    fn publish(
        &mut self,
        source: Option<ConnectionId>,
        topic: &TopicName,
        publication: Publication,
        scope: Scope,
    ) -> Option<Place> {
        self.hub.publish_by_name(topic, source, publication, scope)
    }

    fn recovered(&self) -> Option<bool> {
        self.handlers.recovered
    }

    fn order_end(&self) -> Option<OrderEnd> {
        self.handlers.order_end
    }

    fn note_position(&mut self, id: ConnectionId, topic: &TopicName, end: Option<OrderEnd>) -> Option<String> {
        let (_, positions) = self.hub.connections.get_mut(id)?.io.session.positions()?;
        if let Some(end) = end {
            positions.note(topic, end);
        }
        Some(positions.to_string())
    }

    fn publish_asking(
        &mut self,
        source: ConnectionId,
        topic: &TopicName,
        publication: Publication,
        on_answered: OnAnswered,
    ) -> Option<PublishOutcome> {
        let ticket = self.handlers.next_ticket();
        let answer = self.hub.publish_asking(topic, source, publication, ticket);
        if answer.is_none() {
            self.handlers.askers.insert(ticket, (source, on_answered));
        }
        answer
    }

    fn ask_presence(&mut self, source: ConnectionId, topic: &TopicName, on_presence: OnPresence) {
        let ticket = self.handlers.next_ticket();
        self.handlers.readers.insert(ticket, (source, on_presence));
        self.hub.ask_presence(topic.clone(), ticket);
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

    fn authenticator(&self, id: ConnectionId) -> Option<Arc<dyn Authenticator>> {
        self.hub.connections.get(id)?;
        self.handlers.route(id).rules.gate.authenticator.clone()
    }

    fn note_identities(&mut self, id: ConnectionId, identities: &Identities) -> Result<(), Refusal> {
        self.revocations.check(identities.all())?;
        if self.hub.connections.get(id).is_some() {
            self.people.note(id.slot(), identities);
            self.hub.renew_member(id);
        }
        Ok(())
    }

    fn note_kept(&mut self, id: ConnectionId, bytes: usize) {
        if self.hub.connections.get(id).is_some() {
            self.handlers.note_kept(id, bytes);
        }
    }

    fn note_waiting(&mut self, id: ConnectionId, bytes: usize) {
        if self.hub.connections.get(id).is_some() {
            self.handlers.note_waiting(id, bytes);
        }
    }

    fn topic_rules(&self, topic: &TopicName) -> TopicRules {
        self.hub.topic_rules().of(topic)
    }

    fn set_lifetime(&mut self, id: ConnectionId, lifetime: Option<Duration>) {
        if self.hub.connections.get(id).is_some() {
            self.handlers.set_lifetime(id, lifetime, self.now);
            self.schedule(id);
        }
    }

    fn shorten_lifetime(&mut self, id: ConnectionId, lifetime: Duration) {
        let earlier = self.handlers.expiry(id);
        self.set_lifetime(id, Some(lifetime));
        if let (Some(earlier), Some(expiry)) = (earlier, self.handlers.expiries.get_mut(&id)) {
            *expiry = earlier.min(*expiry);
        }
    }

    fn when_drained(&mut self, id: ConnectionId, waiter: oneshot::Sender<()>) {
        if self.hub.connections.get(id).is_some_and(|connection| connection.io.owes_output()) {
            self.handlers.notice_waiting(id, waiter);
        } else {
            // The waiter may be gone.
            _ = waiter.send(());
        }
    }

    fn tasks(&self) -> &Tasks {
        &self.handlers.tasks
    }

    fn warn_of_refused_work(&self, id: ConnectionId) {
        if let Some(suppressed) = self.warnings.work_full.allow(Instant::now()) {
            let limit = WORK_MAX;
            tracing::warn!(
                %id,
                limit,
                suppressed,
                "a connection has too much work under way: further work is refused"
            );
        }
    }

    fn connections(&self) -> Vec<ConnectionId> {
        let is_open = |&id: &ConnectionId| self.hub.connections.get(id).is_some_and(ShardConnection::is_open);
        self.hub.connections.ids().filter(is_open).collect()
    }
}
