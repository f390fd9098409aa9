//! A WebSocket client (RFC 6455) for any tokio runtime: `ws` and `wss`, direct or through a proxy, with events as a
//! stream or by a callback, and with automatic reconnects.
//!
//! [`ClientBuilder`] checks all settings once and builds a [`Client`], which [`Client::connect`] then connects. A
//! client is a handle: clones of it send from any number of tasks, and the drop of the last handle closes the
//! connection. Messages arrive as [`ClientEvent`]s, either from [`Events`] ([`ClientBuilder::build`]) or by a callback
//! ([`ClientBuilder::build_with`]).
//!
//! ```no_run
//! use ringhub::client::{Client, ClientEvent, Reconnect};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (client, mut events) = Client::builder()
//!     .url("ws://127.0.0.1:6455/t/news?echo=true")
//!     .reconnect(Reconnect::default())
//!     .build()?;
//! let opened = client.connect().await?;
//! println!("connected to {} after {:?}", opened.peer_address, opened.timings.total);
//! client.send_text("hello").await?;
//! while let Some(event) = events.next().await {
//!     match event {
//!         ClientEvent::Text(text) => println!("{text}"),
//!         ClientEvent::Lost(closed) => println!("lost: {closed}"),
//!         ClientEvent::Reconnected(_) => client.send_text("hello again").await?,
//!         ClientEvent::Closed(closed) => {
//!             println!("closed: {closed}");
//!             break;
//!         }
//!         _ => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! fastwebsockets reads and writes the frames, and the client checks the frames that it reads against RFC 6455. The
//! opening handshake comes from [`proto`](crate::proto). The client negotiates no extensions.

mod builder;
mod config;
mod connection;
mod control_queue;
mod error;
mod event;
mod handle;
mod inspect;
mod lifecycle;
mod open;
mod opened;
mod reconnect;
mod send_queue;
mod session;
mod shared;
mod stats;
mod tls;
mod topic_book;
mod topic_error;
mod topic_event;
mod topic_publish;
mod topic_subscribe;
mod topics;
mod url;

pub use builder::ClientBuilder;
pub use config::ClientLimits;
pub use error::{ClientBuildError, ClientCloseError, ConnectError, Rejection, SendError, Stage};
pub use event::{Cause, ClientEvent, ConnectionEnd, Events};
pub use handle::Client;
pub use opened::{Opened, Timings};
pub use reconnect::Reconnect;
pub use stats::{Operation, SlowOperation, Stats};
pub use tls::TlsFacts;
pub use topic_error::TopicError;
pub use topic_event::{CommandError, Lagged, Payload, TopicEvent, TopicMessage, TopicPlace, TopicPublished};
pub use topic_publish::{NoTopicReceipt, PublishOptions, TopicReceipt};
pub use topic_subscribe::{TopicOptions, TopicSubscribed};
pub use topics::{TopicClient, TopicEvents};
pub use url::UrlError;
