//! Handlers: an embedder writes a [`Handler`] for each route.
//!
//! A handler is shared by all shards. All calls about a connection, from [`Handler::opening`] to
//! [`Handler::on_close`], happen on the thread of that connection's shard, so the connection's state need not be
//! `Send`. A handler acts on the connection through a [`Connection`]. On the whole server it acts, from any thread,
//! through a [`Hub`](crate::server::Hub).
//!
//! ```no_run
//! use ringhub::{
//!     handler::{Connection, Handler},
//!     proto::Message,
//!     server::Server,
//! };
//!
//! struct Echo;
//!
//! impl Handler for Echo {
//!     type State = ();
//!
//!     fn on_message(&self, connection: &mut Connection<'_, ()>, message: Message<'_>) {
//!         connection.send_prepared(&message.prepare());
//!     }
//! }
//!
//! let running = Server::builder().listen(["127.0.0.1:8080".parse()?]).route("/echo", Echo).build()?.start()?;
//! running.wait_blocking()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

mod answer;
mod closed;
mod connection;
mod errors;
mod handle;
mod http_service;
mod owners;
mod panicked;
mod permitted;
mod profile;
mod renewal;
mod request;
mod route;
mod rules;
mod shard_api;
mod states;
mod typed;
mod waiting;

use std::future::{Future, ready};

pub use crate::hub::{
    ConnectionId, ConnectionIdError, Lag, NotAMessage, NotJson, Overflow, Place, Publication, Refused, Resume, Scope,
    Sent, SubscribeOptions, TopicName, TopicNameError,
};
pub use crate::proto::truncate_reason;
pub use answer::{Accept, Response};
pub(crate) use answer::{ProtocolChoice, sendable};
pub use closed::{Closed, UNRECOVERED};
pub use connection::{Connection, Part};
pub use errors::{CloseError, SubscribeError};
pub use handle::Handle;
pub(crate) use http_service::{BodyRoom, HttpService, OfTower, ServiceBody, ServiceFault};
pub use http_service::{HttpBody, RequestSender};
pub(crate) use owners::owner_of;
pub(crate) use panicked::Panicked;
pub(crate) use profile::{Profile, RenewedToken};
pub(crate) use renewal::AcceptedToken;
pub use renewal::{RenewError, Renewed, TOKEN_EXPIRED};
pub use request::OpeningRequest;
pub use route::{Parameters, Pattern, PatternError};
pub(crate) use route::{Route, TOPIC, TopicSpace};
pub(crate) use rules::ANY_PROTOCOL;
pub use rules::{RouteOptions, Rules};
pub(crate) use shard_api::{Call, Facts, OnAnswered, OnPresence, ShardApi, Tasks, WORK_MAX};
pub(crate) use states::Seat;
pub(crate) use typed::{Factory, Opened, ShardRoute, Typed};
pub(crate) use waiting::{HeldPublication, Waiting};

use crate::proto::{Fragment, FrameHeader, Message, ProtocolError, Verdict};

/// Serves the connections of a route. Every method has a default: an implementation has only the methods that it needs.
///
/// A panic in a method closes that connection with 1011, a panic in `opening` answers the request with 500, and either
/// is logged; the shard goes on. A slow method delays all connections of the shard: give long work to
/// [`Connection::spawn`].
///
/// Each method is called in a `tracing` span `connection` with the fields `id` and `peer`. Only `opening`, before there
/// is an id, is called in a span `opening` with `request`, `peer` and `path`. Events that are logged in a method have
/// these fields.
///
/// The order for each connection is: `opening`, `on_open`, any number of the others, `on_close`. If `opening` refuses,
/// or the client leaves meanwhile, no other call follows.
///
/// ```
/// use ringhub::{
///     handler::{
///         Accept, Closed, Connection, Handler, OpeningRequest, Response, Scope, SubscribeOptions, TopicName,
///     },
///     Publication,
///     proto::Message,
/// };
///
/// /// Serves `/chat/{room}`.
/// struct Chat;
///
/// #[derive(Default)]
/// struct Member {
///     room: Option<TopicName>,
///     said: usize,
/// }
///
/// impl Handler for Chat {
///     type State = Member;
///
///     async fn opening(&self, request: &OpeningRequest) -> Result<Accept<Member>, Response> {
///         let room = request.parameter("room").unwrap_or_default();
///         let room = TopicName::new(room).map_err(|error| Response::error(400, &error.to_string()))?;
///         let member = Member { room: Some(room.clone()), said: 0 };
///         Ok(Accept::with(member).subscribe(room, SubscribeOptions::default().echo()))
///     }
///
///     fn on_message(&self, connection: &mut Connection<'_, Member>, message: Message<'_>) {
///         connection.state_mut().said += 1;
///         if let Some(room) = connection.state().room.clone() {
///             connection.publish(&room, message, Scope::Server);
///         }
///     }
///
///     fn on_close(&self, connection: &mut Connection<'_, Member>, closed: &Closed) {
///         let Member { room, said } = connection.state();
///         if let Some(room) = room.clone() {
///             let goodbye = format!("a member of {said} messages has left ({})", closed.code);
///             connection.publish(&room, Publication::text(&goodbye), Scope::Server);
///         }
///     }
/// }
/// ```
pub trait Handler: Send + Sync + 'static {
    /// The state of one connection. The state is made when the connection is accepted, and dropped when the connection
    /// has ended. For a type without a default, use an `Option` of this type: `opening` makes the state, so the state
    /// need never be `None`.
    type State: Default + 'static;

    /// Whether the methods of this trait may publish; `true` by default.
    ///
    /// While the server is too busy to order more messages, it receives nothing from connections whose handler may
    /// publish to any topic. A handler that publishes nothing sets this to `false`, and its connections are received
    /// from all the same. If it publishes in spite of that, its message is published, and waits in memory for room.
    const PUBLISHES: bool = true;

    /// Decides on an opening request: accept it, with a subprotocol, headers, an identity and a state, or answer any
    /// HTTP response. Origins, authenticators and subprotocols of the route have been judged before.
    fn opening(&self, request: &OpeningRequest) -> impl Future<Output = Result<Accept<Self::State>, Response>> {
        _ = request;
        ready(Ok(Accept::default()))
    }

    /// Is called when the connection is established; messages that are sent now follow the opening answer.
    ///
    /// This call, [`Handler::on_subscribed`] and [`Handler::on_close`] are made however busy the server is, and what
    /// they publish may take memory beyond `max_gathered`.
    fn on_open(&self, connection: &mut Connection<'_, Self::State>) {
        _ = connection;
    }

    /// Is called with each whole message (RFC 6455 5.6).
    fn on_message(&self, connection: &mut Connection<'_, Self::State>, message: Message<'_>) {
        _ = (connection, message);
    }

    /// Is called with each fragment, if [`RouteOptions::deliver`] chooses fragments instead of whole messages.
    fn on_fragment(&self, connection: &mut Connection<'_, Self::State>, fragment: Fragment<'_>) {
        _ = (connection, fragment);
    }

    /// Judges a whole frame before it is processed, if the route has [`RouteOptions::inspect_frames`]: lets it pass,
    /// drops it, or fails the connection.
    fn on_frame(&self, state: &mut Self::State, header: &FrameHeader, payload: &[u8]) -> Verdict {
        _ = (state, header, payload);
        Verdict::Pass
    }

    /// Is called with each ping (RFC 6455 5.5.2). The server answers the ping itself.
    fn on_ping(&self, connection: &mut Connection<'_, Self::State>, payload: &[u8]) {
        _ = (connection, payload);
    }

    /// Is called with each pong, solicited or not (RFC 6455 5.5.3).
    fn on_pong(&self, connection: &mut Connection<'_, Self::State>, payload: &[u8]) {
        _ = (connection, payload);
    }

    /// Is called when a subscription is live: the connection receives every message of the topic from here on. The call
    /// happens once for each subscription that was not cancelled before: for subscriptions of [`Accept::subscribe`]
    /// after [`Handler::on_open`], for later subscriptions after the call that subscribed. A subscription that
    /// [resumes](crate::Resume) is live when its position is known, and gets the messages of the topic's history first.
    fn on_subscribed(&self, connection: &mut Connection<'_, Self::State>, topic: &TopicName) {
        _ = (connection, topic);
    }

    /// Is called when the program has ended a subscription of the connection by
    /// [`Hub::unsubscribe_connection`](crate::server::Hub::unsubscribe_connection), whether or not the subscription was
    /// live. The messages of the topic that the connection is owed come before all that the handler sends in this call.
    /// A handler that unsubscribes its connection itself is not called.
    fn on_unsubscribed(&self, connection: &mut Connection<'_, Self::State>, topic: &TopicName) {
        _ = (connection, topic);
    }

    /// Is called when the policy of a topic has dropped messages for the connection, whose client was too slow, or when
    /// the topic's history did not keep messages until the connection had room for them. Where
    /// the format of the connection has frames about lags, such a frame tells the client too. The frame stands where
    /// the first message is missing, and the call follows when the socket has taken the frame. Messages that the
    /// handler sends in this call come after all that the connection is owed.
    fn on_lag(&self, connection: &mut Connection<'_, Self::State>, lag: &Lag) {
        _ = (connection, lag);
    }

    /// Is called when the client has broken the protocol or a limit. The close frame names the error; `on_close`
    /// follows.
    fn on_error(&self, connection: &mut Connection<'_, Self::State>, error: &ProtocolError) {
        _ = (connection, error);
    }

    /// Is called exactly once, when the connection has ended. The connection can send no more, and its subscriptions
    /// have ended: to publish a farewell, keep the topic in the state.
    fn on_close(&self, connection: &mut Connection<'_, Self::State>, closed: &Closed) {
        _ = (connection, closed);
    }
}
