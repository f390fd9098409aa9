//! The addresses that a server listens on: the same methods for a built `Server` and for a `Running` one.

use std::net::SocketAddr;

use super::{Server, running::Running};

macro_rules! local_addresses {
    ($($server:ty),+) => {$(
        impl $server {
            /// Returns the first address of the server, with the port that was chosen in place of 0.
            #[must_use]
            pub fn local_addr(&self) -> SocketAddr {
                self.addresses[0]
            }

            /// Returns all addresses of the server.
            #[must_use]
            pub fn local_addrs(&self) -> &[SocketAddr] {
                &self.addresses
            }
        }
    )+};
}

local_addresses!(Server, Running);
