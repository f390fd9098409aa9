//! The view of a connection that a handler gets in a call.

use std::{fmt, net::SocketAddr, rc::Rc, sync::Arc};

use serde::Serialize;
use tracing::Span;

use super::{
    closed::Closed,
    errors::{CloseError, SubscribeError},
    profile::Profile,
    request::OpeningRequest,
    shard_api::ShardApi,
    states::{Entry, Out, Seat, States},
    waiting::{HeldPublication, Waiting},
};
use crate::{
    auth::Identity,
    hub::{
        ConnectionId, OrderEnd, Place, Presence, Publication, PublishOutcome, Refused, Scope, Sent, SubscribeOptions,
        TopicName, TopicRules,
    },
    proto::{
        CONTROL_PAYLOAD_MAX, CloseCode, CloseFrame, Fin, KeepAlive, MessageLimits, MessageType, OpCode, PrepareError,
        PreparedMessage, ProtocolError, State, encode_frame,
    },
};

/// A connection, for the time of one call of its handler. Messages to it leave with the flush at the end of the turn,
/// in order, together with all other output of the connection.
///
/// ```
/// use ringhub::{
///     handler::{Connection, Handler, Refused, Sent},
///     proto::{CloseCode, Message},
/// };
///
/// struct Counting;
///
/// impl Handler for Counting {
///     type State = u64;
///
///     fn on_message(&self, connection: &mut Connection<'_, u64>, message: Message<'_>) {
///         *connection.state_mut() += message.payload().len() as u64;
///         let total = *connection.state();
///         if connection.send_text(format!("{total} bytes so far")) == Sent::Refused(Refused::Full) {
///             // The client does not read. The connection may be closing already.
///             _ = connection.close(CloseCode::POLICY_VIOLATION, "read faster");
///         }
///     }
/// }
/// ```
pub struct Connection<'a, S> {
    pub(super) shard: &'a mut dyn ShardApi,
    pub(super) id: ConnectionId,
    pub(super) key: u32,
    pub(super) state: &'a mut S,
    pub(super) profile: &'a mut Option<Box<Profile>>,
    pub(super) states: &'a Rc<States<S>>,
}

/// A fragment to be sent (RFC 6455 5.4); see [`Connection::send_fragment`].
///
/// ```
/// use ringhub::{handler::Part, proto::MessageType};
/// let parts = [Part::First(MessageType::Text), Part::Next, Part::Last];
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Begins a message of that type.
    First(MessageType),
    /// Continues the message.
    Next,
    /// Ends the message.
    Last,
}

impl<S: 'static> Connection<'_, S> {
    /// Returns the connection's id. An id is used again only after 2^24 other connections on its slot.
    #[must_use]
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// Returns the state.
    #[must_use]
    pub fn state(&self) -> &S {
        self.state
    }

    /// Returns the state for changes.
    pub fn state_mut(&mut self) -> &mut S {
        self.state
    }

    /// Returns the opening request, unless the route forgets requests.
    #[must_use]
    pub fn request(&self) -> Option<&OpeningRequest> {
        self.profile.as_ref()?.request.as_deref()
    }

    /// Returns the opening request, to be shared with a question about it.
    pub(crate) fn shared_request(&self) -> Option<&Arc<OpeningRequest>> {
        self.profile.as_ref()?.request.as_ref()
    }

    /// Returns the identity that the authenticator of the route has found, or the identity that
    /// [`Accept::identity`](super::Accept::identity) has set.
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        self.profile.as_ref()?.identities.own()
    }

    /// Returns the subprotocol that was chosen.
    #[must_use]
    pub fn protocol(&self) -> Option<&str> {
        self.profile.as_ref()?.protocol.as_deref()
    }

    /// Returns the client's address. Where the route forgets requests, it may be `None` once the connection has ended.
    #[must_use]
    pub fn peer(&self) -> Option<SocketAddr> {
        let kept = self.profile.as_ref().and_then(|profile| profile.peer());
        kept.or_else(|| self.shard.addresses(self.id).0)
    }

    /// Returns the server's address that the client has connected to. Where the route forgets requests, it is `None`
    /// once the connection has ended.
    #[must_use]
    pub fn local(&self) -> Option<SocketAddr> {
        self.request().and_then(OpeningRequest::local).or_else(|| self.shard.addresses(self.id).1)
    }

    /// Returns the state of the closing handshake; closed once the connection has ended.
    #[must_use]
    pub fn websocket_state(&self) -> State {
        self.shard.facts(self.id).map_or(State::Closed, |facts| facts.state)
    }

    /// Returns the received bytes of a message whose end has not arrived.
    #[must_use]
    pub fn message_length(&self) -> usize {
        self.shard.facts(self.id).map_or(0, |facts| facts.message_length)
    }

    /// Returns the bytes of memory of the backlog: the output that the client's socket has not taken.
    #[must_use]
    pub fn backlog_bytes(&self) -> usize {
        self.shard.facts(self.id).map_or(0, |facts| facts.backlog_bytes)
    }

    /// Returns the client's protocol error, after [`Handler::on_error`](super::Handler::on_error).
    #[must_use]
    pub fn last_error(&self) -> Option<ProtocolError> {
        self.profile.as_ref()?.error
    }

    /// Returns the close code and reason of the client, and whether the end was clean, once the client has sent a close
    /// frame or the connection has ended.
    #[must_use]
    pub fn closed(&self) -> Option<&Closed> {
        self.profile.as_ref()?.closed.as_ref()
    }

    /// Sends text.
    pub fn send_text(&mut self, text: impl AsRef<str>) -> Sent {
        self.send_data(OpCode::Text, text.as_ref().as_bytes())
    }

    /// Sends bytes.
    pub fn send_binary(&mut self, bytes: impl AsRef<[u8]>) -> Sent {
        self.send_data(OpCode::Binary, bytes.as_ref())
    }

    /// Sends a value as JSON text.
    ///
    /// # Errors
    ///
    /// The error of `serde_json` for a value that cannot be JSON.
    ///
    /// ```
    /// # use ringhub::handler::Connection;
    /// # fn example(connection: &mut Connection<'_, ()>) -> Result<(), serde_json::Error> {
    /// let members = ["ann", "bob"];
    /// connection.send_json(&members)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn send_json(&mut self, value: &impl Serialize) -> Result<Sent, serde_json::Error> {
        Ok(self.send_text(serde_json::to_string(value)?))
    }

    /// Sends a ping (RFC 6455 5.5.2), in addition to those that keep the connection alive.
    pub fn send_ping(&mut self, payload: &[u8]) -> Sent {
        self.send(OpCode::Ping, payload)
    }

    /// Sends an unsolicited pong (RFC 6455 5.5.3). Pings are answered without this.
    pub fn send_pong(&mut self, payload: &[u8]) -> Sent {
        self.send(OpCode::Pong, payload)
    }

    /// Sends a frame: text, binary, ping or pong.
    pub fn send(&mut self, opcode: OpCode, payload: &[u8]) -> Sent {
        match opcode {
            OpCode::Close | OpCode::Continuation => Sent::Refused(Refused::OpCode),
            OpCode::Text if simdutf8::basic::from_utf8(payload).is_err() => Sent::Refused(Refused::NotText),
            OpCode::Ping | OpCode::Pong if payload.len() > CONTROL_PAYLOAD_MAX => {
                Sent::Refused(Refused::ControlTooLong)
            }
            OpCode::Ping | OpCode::Pong if self.shard.facts(self.id).is_some_and(|facts| !facts.has_pings) => {
                Sent::Refused(Refused::OpCode)
            }
            OpCode::Ping | OpCode::Pong => {
                let mut frame = Vec::with_capacity(payload.len() + 2);
                encode_frame(opcode, Fin::Set, payload, &mut frame);
                self.shard.send(self.id, &frame)
            }
            OpCode::Text | OpCode::Binary => self.send_data(opcode, payload),
        }
    }

    /// Sends a message that was encoded before, for this connection or for many.
    ///
    /// ```
    /// # use ringhub::handler::Connection;
    /// # use ringhub::proto::PreparedMessage;
    /// # fn example(connection: &mut Connection<'_, ()>) {
    /// let welcome = PreparedMessage::text("welcome");
    /// assert!(connection.send_prepared(&welcome).is_accepted());
    /// # }
    /// ```
    pub fn send_prepared(&mut self, message: &PreparedMessage) -> Sent {
        if self.is_within_a_message() {
            return Sent::Refused(Refused::Fragment);
        }
        self.shard.send(self.id, message.frame())
    }

    /// Notes, for a stream of several topics, that the client has the messages of a topic up to this end. Returns the
    /// text of the client's position in all topics; `None` for any other connection.
    pub(crate) fn note_position(&mut self, topic: &TopicName, end: Option<OrderEnd>) -> Option<String> {
        self.shard.note_position(self.id, topic, end)
    }

    /// Sends bytes that are whole in the protocol of the connection, such as a block of an event stream.
    pub(crate) fn send_encoded(&mut self, bytes: &[u8]) -> Sent {
        self.shard.send(self.id, bytes)
    }

    /// Sends a message in frames of at most `frame_bytes_max` payload bytes each (RFC 6455 5.4).
    ///
    /// # Errors
    ///
    /// Frames of 0 bytes, and text that is not UTF-8.
    pub fn send_split(
        &mut self,
        message_type: MessageType,
        payload: &[u8],
        frame_bytes_max: usize,
    ) -> Result<Sent, PrepareError> {
        let message = PreparedMessage::fragments(message_type, payload, frame_bytes_max)?;
        Ok(self.send_prepared(&message))
    }

    /// Sends a fragment of a message. All fragments leave together with the last, since no other message may come
    /// between them (RFC 6455 5.4) and a message of a topic may be due at any time. Until then no other message is
    /// accepted.
    ///
    /// ```
    /// # use ringhub::{handler::{Connection, Part}, proto::MessageType};
    /// # fn example(connection: &mut Connection<'_, ()>) {
    /// connection.send_fragment(Part::First(MessageType::Text), b"one, ");
    /// connection.send_fragment(Part::Next, b"two, ");
    /// connection.send_fragment(Part::Last, b"three");
    /// # }
    /// ```
    pub fn send_fragment(&mut self, part: Part, payload: &[u8]) -> Sent {
        let Some(facts) = self.shard.facts(self.id).filter(|facts| facts.state == State::Open) else {
            return Sent::Refused(Refused::NotOpen);
        };
        let under_way = &mut self.profile.get_or_insert_default().fragments;
        let (opcode, mut frames) = match (part, under_way.take()) {
            (Part::First(message_type), None) => (message_type.opcode(), Vec::new()),
            (Part::Next | Part::Last, Some(frames)) => (OpCode::Continuation, frames),
            (_, fragments) => {
                *under_way = fragments;
                return Sent::Refused(Refused::Fragment);
            }
        };
        if frames.len() + payload.len() > facts.backlog_bytes_max {
            *under_way = Some(frames);
            return Sent::Refused(Refused::Full);
        }
        encode_frame(opcode, (part == Part::Last).into(), payload, &mut frames);
        if part == Part::Last {
            return self.shard.send(self.id, &frames);
        }
        let bytes = frames.len();
        *under_way = Some(frames);
        Sent::Queued { bytes }
    }

    /// Returns whether a fragmented message to the client is not finished.
    fn is_within_a_message(&self) -> bool {
        self.profile.as_ref().is_some_and(|profile| profile.fragments.is_some())
    }

    fn send_data(&mut self, opcode: OpCode, payload: &[u8]) -> Sent {
        if self.is_within_a_message() {
            return Sent::Refused(Refused::Fragment);
        }
        let mut frame = Vec::with_capacity(payload.len() + 10);
        encode_frame(opcode, Fin::Set, payload, &mut frame);
        self.shard.send(self.id, &frame)
    }

    /// Begins the closing handshake (RFC 6455 7.1.2). Messages that were sent before go first, and no message follows.
    ///
    /// # Errors
    ///
    /// See [`CloseError`]; the connection is as it was. [`truncate_reason`](super::truncate_reason) makes any reason
    /// short enough.
    ///
    /// ```
    /// # use ringhub::{handler::{Connection, truncate_reason}, proto::CloseCode};
    /// # fn example(connection: &mut Connection<'_, ()>) {
    /// let reason = format!("{} is not a member", "a member with a long name");
    /// if connection.close(CloseCode(4001), truncate_reason(&reason)).is_err() {
    ///     println!("it was closing already");
    /// }
    /// # }
    /// ```
    pub fn close(&mut self, code: CloseCode, reason: &str) -> Result<(), CloseError> {
        CloseFrame::new(code.0, reason)?;
        if self.websocket_state() != State::Open {
            return Err(CloseError::NotOpen);
        }
        self.shard.close(self.id, code, reason);
        Ok(())
    }

    /// Subscribes the connection to a topic: from [`Handler::on_subscribed`](super::Handler::on_subscribed) on, the
    /// connection receives every message, but its own messages only with [`SubscribeOptions::echo`]. `on_subscribed` is
    /// called after the call that subscribes, or a moment later if the topic's home is another shard.
    ///
    /// # Errors
    ///
    /// See [`SubscribeError`].
    ///
    /// ```
    /// # use ringhub::handler::{Connection, SubscribeOptions, TopicName};
    /// # fn example(connection: &mut Connection<'_, ()>) {
    /// let news = TopicName::new("news").expect("a name");
    /// if let Err(error) = connection.subscribe(&news, SubscribeOptions::default()) {
    ///     connection.send_text(error.to_string());
    /// }
    /// # }
    /// ```
    pub fn subscribe(&mut self, topic: &TopicName, options: SubscribeOptions) -> Result<(), SubscribeError> {
        self.shard.subscribe(self.id, topic, options)
    }

    /// Unsubscribes the connection from a topic. Returns whether the connection was a subscriber.
    pub fn unsubscribe(&mut self, topic: &TopicName) -> bool {
        self.shard.unsubscribe(self.id, topic)
    }

    /// Returns whether the connection has subscribed to a topic, also if the subscription is not live.
    #[must_use]
    pub fn is_subscribed(&self, topic: &TopicName) -> bool {
        self.shard.is_subscribed(self.id, topic)
    }

    /// Returns the topics of the connection's subscriptions.
    #[must_use]
    pub fn topics(&self) -> Vec<TopicName> {
        self.shard.topics(self.id)
    }

    /// Publishes to a topic's subscribers; the connection itself need not subscribe. A subscriber receives its own
    /// publication only with [`SubscribeOptions::echo`]. Returns the place of the publication if this shard is the
    /// topic's home and the scope is [`Scope::Server`].
    ///
    /// ```
    /// # use ringhub::{handler::{Connection, Scope, TopicName}, proto::Message, Publication};
    /// # fn example(connection: &mut Connection<'_, ()>, message: Message<'_>) {
    /// let news = TopicName::new("news").expect("a name");
    /// connection.publish(&news, Publication::text("good news"), Scope::Server);
    /// // What the client has sent, without a copy.
    /// connection.publish(&news, message, Scope::Server);
    /// # }
    /// ```
    pub fn publish(&mut self, topic: &TopicName, publication: impl Into<Publication>, scope: Scope) -> Option<Place> {
        self.shard.publish(Some(self.id), topic, publication.into(), scope)
    }

    /// Returns, in [`Handler::on_subscribed`](super::Handler::on_subscribed), the end of the topic's order at which the
    /// subscription begins, if it is known: the connection gets every message after it.
    pub(crate) fn order_end(&self) -> Option<OrderEnd> {
        self.shard.order_end()
    }

    /// Returns, in [`Handler::on_subscribed`](super::Handler::on_subscribed), whether a subscription that
    /// [resumes](crate::Resume) gets every message after its position; `None` if it does not resume. With
    /// `Some(false)` messages may be missing: the topic keeps no history or has a new epoch, the position is not in its
    /// order, or messages after the position are not kept any more.
    #[must_use]
    pub fn is_recovered(&self) -> Option<bool> {
        self.shard.recovered()
    }

    /// Publishes to a topic's subscribers on all shards, as [`Connection::publish`] does. Returns the place of the
    /// publication or the reason for which it has none, or calls `on_answered` with that when the topic's home has
    /// answered, unless the connection has ended by then.
    pub(crate) fn publish_asking(
        &mut self,
        topic: &TopicName,
        publication: Publication,
        on_answered: impl FnOnce(&mut Connection<'_, S>, PublishOutcome) + 'static,
    ) -> Option<PublishOutcome> {
        let (id, key, states) = (self.id, self.key, Rc::clone(self.states));
        let on_answered = Box::new(move |shard: &mut dyn ShardApi, answer| {
            let is_there = shard.facts(id).is_some();
            _ = is_there
                .then(|| call_with(&states, shard, Seat { id, key }, |connection| on_answered(connection, answer)));
        });
        self.shard.publish_asking(self.id, topic, publication, on_answered)
    }

    /// Returns the rules of a topic.
    pub(crate) fn topic_rules(&self, topic: &TopicName) -> TopicRules {
        self.shard.topic_rules(topic)
    }

    /// Asks for the members of a topic. `on_presence` is called with them when the topic's home has answered, unless
    /// the connection has ended by then; with `None` if the rules of the topic keep no presence.
    pub(crate) fn ask_presence(
        &mut self,
        topic: &TopicName,
        on_presence: impl FnOnce(&mut Connection<'_, S>, Option<Presence>) + 'static,
    ) {
        let (id, key, states) = (self.id, self.key, Rc::clone(self.states));
        let on_presence = Box::new(move |shard: &mut dyn ShardApi, presence| {
            let is_there = shard.facts(id).is_some();
            _ = is_there
                .then(|| call_with(&states, shard, Seat { id, key }, |connection| on_presence(connection, presence)));
        });
        self.shard.ask_presence(self.id, topic, on_presence);
    }

    /// Keeps a message of the client that waits for a decision about an earlier one. Returns whether there was room.
    pub(crate) fn wait_behind(&mut self, text: &str) -> bool {
        self.change_waiting(|waiting| waiting.add(text))
    }

    /// Takes the message that has waited for the longest time.
    pub(crate) fn next_waiting(&mut self) -> Option<Box<str>> {
        self.profile.as_ref()?.waiting.as_ref()?;
        self.change_waiting(Waiting::next)
    }

    /// Keeps what the judge decides about, and counts its bytes, until the next call. 0 bytes are nothing.
    pub(crate) fn hold(&mut self, held: Option<HeldPublication>, bytes: usize) {
        let has_any = self.profile.as_ref().is_some_and(|profile| profile.waiting.is_some());
        if has_any || bytes > 0 {
            self.change_waiting(|waiting| waiting.hold(held, bytes));
        }
    }

    /// Changes what waits, and notes its memory.
    fn change_waiting<T>(&mut self, change: impl FnOnce(&mut Waiting) -> T) -> T {
        let place = &mut self.profile.get_or_insert_default().waiting;
        let outcome = change(place.get_or_insert_default());
        if place.as_ref().is_some_and(|waiting| waiting.is_empty()) {
            *place = None;
        }
        let bytes = place.as_ref().map_or(0, |waiting| waiting.bytes());
        self.shard.note_waiting(self.id, bytes);
        outcome
    }

    /// Sends to all connections of the server, or of this shard, except `source`, and except connections of routes
    /// without broadcasts ([`RouteOptions::no_broadcast`](super::RouteOptions::no_broadcast)). Each connection gets the
    /// message once, in one order with all other broadcasts of [`Scope::Server`].
    ///
    /// ```
    /// # use ringhub::{handler::{Connection, Scope}, Publication};
    /// # fn example(connection: &mut Connection<'_, ()>) {
    /// let news = Publication::text("a member has joined");
    /// // To all other connections.
    /// connection.broadcast(Some(connection.id()), news, Scope::Server);
    /// # }
    /// ```
    pub fn broadcast(&mut self, source: Option<ConnectionId>, publication: impl Into<Publication>, scope: Scope) {
        self.shard.publish(source, &TopicName::everyone(), publication.into(), scope);
    }

    /// Sets the keep-alive of the connection.
    ///
    /// ```
    /// # use ringhub::{handler::Connection, proto::KeepAlive};
    /// # fn example(connection: &mut Connection<'_, ()>) {
    /// connection.set_keep_alive(KeepAlive::seconds(5, 2));
    /// # }
    /// ```
    pub fn set_keep_alive(&mut self, keep_alive: KeepAlive) {
        self.shard.set_keep_alive(self.id, keep_alive);
    }

    /// Returns the keep-alive of the connection.
    #[must_use]
    pub fn keep_alive(&self) -> Option<KeepAlive> {
        self.shard.facts(self.id).map(|facts| facts.keep_alive)
    }

    /// Sets the limits of the client's messages, from the next message on.
    ///
    /// ```
    /// # use ringhub::{handler::Connection, proto::MessageLimits};
    /// # fn example(connection: &mut Connection<'_, ()>) {
    /// let large = MessageLimits { message_bytes_max: 16 << 20, ..connection.limits().unwrap_or_default() };
    /// connection.set_limits(large);
    /// # }
    /// ```
    pub fn set_limits(&mut self, limits: MessageLimits) {
        self.shard.set_limits(self.id, limits);
    }

    /// Returns the limits of the client's messages.
    #[must_use]
    pub fn limits(&self) -> Option<MessageLimits> {
        self.shard.facts(self.id).map(|facts| facts.limits)
    }

    /// Returns the ids of all open connections of this shard, with this one while it is open.
    #[must_use]
    pub fn connections_on_shard(&self) -> Vec<ConnectionId> {
        self.shard.connections()
    }
}

impl<S> fmt::Debug for Connection<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Calls `work` with a connection, in the connection's span. The connection's state is out of the table meanwhile.
/// Returns `None` if the connection has ended.
pub(super) fn call_with<S: 'static, T>(
    states: &Rc<States<S>>,
    shard: &mut dyn ShardApi,
    Seat { id, key }: Seat,
    work: impl FnOnce(&mut Connection<'_, S>) -> T,
) -> Option<T> {
    let mut out = Out::take(states, key)?;
    let Entry { state, profile } = out.entry.as_mut()?;
    // A panic loses the span, and the next call makes another.
    let span = take_span(profile, shard, id);
    let outcome = span.in_scope(|| work(&mut Connection { shard, id, key, state, profile, states }));
    if !span.is_disabled() {
        profile.get_or_insert_default().span = Some(span);
    } else if profile.as_ref().is_some_and(|profile| profile.is_empty()) {
        *profile = None;
    }
    Some(outcome)
}

/// Takes the span of a connection out of its profile, or makes it. On a route that forgets its requests, where a
/// connection must cost little, the span has the level DEBUG.
fn take_span(profile: &mut Option<Box<Profile>>, shard: &dyn ShardApi, id: ConnectionId) -> Span {
    if let Some(span) = profile.as_mut().and_then(|profile| profile.span.take()) {
        return span;
    }
    // The fields of a span are looked up only if a `tracing` subscriber is enabled for it.
    if let Some(peer) = profile.as_ref().and_then(|profile| profile.request.as_deref()).map(OpeningRequest::peer) {
        return tracing::info_span!("connection", %id, peer = peer.map(display));
    }
    let mut find_peer = || {
        let profile = profile.get_or_insert_default();
        profile.peer = profile.peer.or_else(|| shard.addresses(id).0);
        profile.peer
    };
    tracing::debug_span!("connection", %id, peer = find_peer().map(display))
}
