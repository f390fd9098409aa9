//! The server's own requests to other servers, over HTTP/1.1 with or without TLS.
//!
//! An [`Outbound`] is a handle that every thread may have. It makes a [`Target`] of each URL that the settings or the
//! embedder name, and a target sends [`OutboundRequest`]s. So a request reaches no server that only a client has named.
//! The service of a server makes the requests on the control thread, at most [`OutboundLimits::IN_FLIGHT_MAX`] at the
//! same time. Clients for whom requests are sent take turns. Without a target there is no service.
//!
//! A request follows no redirect, and uses no proxy.

#![forbid(unsafe_code)]

mod authorities;
mod connections;
mod error;
mod exchange;
mod handle;
mod job;
mod limits;
mod message;
mod room;
mod service;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod url;

pub use authorities::Authorities;
pub use error::OutboundError;
pub use handle::{Outbound, Target};
pub use limits::OutboundLimits;
pub use message::{OutboundAnswer, OutboundRequest};
pub(crate) use service::Service;
pub use url::TargetUrlError;
