//! A WebSocket broadcast hub for Linux on io_uring.

pub mod proto;
