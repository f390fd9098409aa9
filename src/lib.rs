//! A WebSocket broadcast hub for Linux on io_uring.

pub mod auth;
pub mod client;
pub mod config;
mod control;
pub mod documents;
pub mod error;
pub mod handler;
mod handover;
#[doc(hidden)]
pub mod hub;
pub mod metrics;
pub mod proto;
pub mod server;
mod shard;
pub mod surface;
#[doc(hidden)]
pub mod sys;
