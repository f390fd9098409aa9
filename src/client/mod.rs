//! A WebSocket client (RFC 6455) for any tokio runtime: `ws` and `wss`, through a proxy if need be, as callback or
//! stream, that comes back when its connection is lost.
//!
//! A [`Client`] is built once, with all settings checked, and then connected. It is a handle: clones of it send from
//! any number of tasks, and the last one dropped closes the connection. What arrives comes as [`Event`]s, either from
//! [`Events`] ([`ClientBuilder::build`]) or to a callback ([`ClientBuilder::build_with`]).
//!
//! ```no_run
//! use ringhub::client::{Client, Event, Reconnect};
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
//!         Event::Text(text) => println!("{text}"),
//!         Event::Lost(closed) => println!("lost: {closed}"),
//!         Event::Reconnected(_) => client.send_text("hello again").await?,
//!         Event::Closed(closed) => {
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
//! The frames are fastwebsockets'; the opening handshake, and what of the protocol must be seen before a frame is
//! whole, are [`proto`](crate::proto)'s. There are no extensions.

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
mod url;

pub use builder::ClientBuilder;
pub use config::ClientLimits;
pub use error::{BuildError, CloseError, ConnectError, Refused, SendError, Stage};
pub use event::{Cause, Closed, Event, Events};
pub use handle::Client;
pub use opened::{Opened, Timings};
pub use reconnect::Reconnect;
pub use stats::{Operation, SlowOperation, Stats};
pub use tls::TlsFacts;
pub use url::UrlError;
