//! A WebSocket broadcast hub for Linux on io_uring.

pub mod proto;
#[doc(hidden)]
pub mod sys;
