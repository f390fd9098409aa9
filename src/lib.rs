//! A WebSocket broadcast hub for Linux on io_uring: a server, a library for your own servers, and a client.
//!
//! A server is built of routes, each with a [`Handler`] whose methods are all optional. A server runs on its own
//! threads, one *shard* for each CPU, within any program. This is a complete server:
//!
//! ```no_run
//! use ringhub::{
//!     Accept, Connection, Handler, Message, OpeningRequest, Publication, Response, Scope, Server,
//!     SubscribeOptions, TopicName,
//! };
//!
//! struct Rooms;
//!
//! impl Handler for Rooms {
//!     type State = ();
//!
//!     async fn opening(&self, request: &OpeningRequest) -> Result<Accept<()>, Response> {
//!         let room = TopicName::new(request.parameter("room").unwrap_or_default());
//!         let room = room.map_err(|error| Response::error(400, &error.to_string()))?;
//!         Ok(Accept::default().subscribe(room, SubscribeOptions::default()))
//!     }
//!
//!     fn on_message(&self, connection: &mut Connection<'_, ()>, message: Message<'_>) {
//!         let text = message.as_text().unwrap_or("something that is not text");
//!         let said = Publication::text(&format!("{}: {text}", connection.id()));
//!         for room in connection.topics() {
//!             connection.publish(&room, &said, Scope::Server);
//!         }
//!     }
//! }
//!
//! let server = Server::builder().listen(["127.0.0.1:8080".parse()?]).route("/rooms/{room}", Rooms).build()?;
//! server.start()?.wait_blocking()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | where | what |
//! | --- | --- |
//! | [`Server`], [`server`] | building a server, starting and stopping it |
//! | [`Handler`], [`handler`] | what a route does with opening requests and messages, by a [`Connection`] |
//! | [`Hub`] | acts on all connections of a server, from any thread |
//! | [`Publication`] | a message that is published, encoded once for all its subscribers |
//! | [`PreparedMessage`] | a message to single connections, a ping or a fragment, encoded once |
//! | [`TopicName`], [`Scope`], [`Place`], [`ConnectionId`] | who gets a message, and the message's place in its topic |
//! | [`Rate`] | how much may come in a second, and how much at once |
//! | [`auth`], [`documents`] | which requests are admitted; the files of a folder |
//! | [`client`] | a WebSocket client for any tokio runtime |
//! | [`config`], [`error`], [`metrics`] | every setting, the errors of settings and of the start, every counter |
//! | [`logs`] | logs that never wait for their reader |
//! | [`outbound`] | requests of the server to other servers |
//! | [`proto`] | RFC 6455 without sockets |
//!
#![cfg_attr(
    any(doc, doctest),
    doc = "[`guide`] runs a hub beside axum, and translates names of uWebSockets, Socket.IO, Kore and others."
)]

mod access_log;
pub mod auth;
mod budget;
pub mod client;
mod clock;
pub mod config;
mod control;
mod current;
pub mod documents;
mod endpoints;
pub mod error;
pub mod handler;
mod handover;
#[doc(hidden)]
pub mod hub;
mod log_throttle;
pub mod logs;
pub mod metrics;
pub mod outbound;
pub mod proto;
mod rates;
mod refusal_log;
pub mod server;
mod shard;
#[doc(hidden)]
pub mod surface;
#[doc(hidden)]
pub mod sys;

#[doc(hidden)]
pub use endpoints::fuzz as endpoints_fuzz;

#[doc(inline)]
pub use auth::{Authenticator, Identity};
#[doc(inline)]
pub use handler::{Accept, Closed, Connection, Handle, Handler, OpeningRequest, Response, RouteOptions};
pub use hub::{
    ConnectionFilter, ConnectionId, ConnectionIdError, ConnectionPage, ConnectionSummary, KernelRules, KeyPointer,
    KeyPointerError, Lag, Member, NoReceipt, NotAKey, NotAMessage, NotJson, Overflow, Permission, Place, Presence,
    PresenceRules, Publication, PublishError, Receipt, Refused, Resume, Scope, Sent, SlowRules, SubscribeOptions,
    TopicCursor, TopicName, TopicNameError, TopicPage, TopicPattern, TopicPatternError, TopicRule, TopicRules,
    TopicSummary, TopicTable, Who,
};
#[doc(inline)]
pub use proto::{CloseCode, KeepAlive, Message, MessageType, OpCode, PreparedMessage};
pub use rates::Rate;
#[doc(inline)]
pub use server::{Builder, Hub, Running, Server};

#[cfg(any(doc, doctest))]
#[doc = include_str!("../docs/coming-from.md")]
pub mod guide {}
