//! Faults of clients, of their network and of this machine, on real sockets, beside clients that must not notice.

mod clock;
mod crowds;
mod machine;
mod network;

pub(crate) use crowds::{line_with, listen_elsewhere};
pub(crate) use network::cut_off;
