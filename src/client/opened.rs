//! What opening a connection has yielded.

use std::{net::SocketAddr, time::Duration};

use super::tls::TlsFacts;
use crate::proto::ResponseHead;

/// An opened connection: what the server said, and how it came about.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Opened {
    /// The server's answer to the opening handshake.
    pub head: ResponseHead,
    /// The subprotocol that the server chose (RFC 6455 1.9).
    pub protocol: Option<String>,
    /// A number that no other connection of this process has.
    pub connection_id: u64,
    /// The address connected to, without its query; another than was asked for if there were redirects.
    pub url: String,
    /// Our end.
    pub local_address: SocketAddr,
    /// The server's end, or the proxy's.
    pub peer_address: SocketAddr,
    /// What TLS was agreed on, for `wss`.
    pub tls: Option<TlsFacts>,
    /// How often the server sent us elsewhere.
    pub redirects: u32,
    /// Where the time went.
    pub timings: Timings,
}

/// How long each part of an opening took. After redirects all but `total` are those of the last server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timings {
    /// Finding the addresses of the name.
    pub resolve: Duration,
    /// Connecting the TCP socket.
    pub connect: Duration,
    /// Getting a tunnel from the proxy.
    pub proxy: Option<Duration>,
    /// The TLS handshake.
    pub tls: Option<Duration>,
    /// From sending the opening request to having its answer.
    pub handshake: Duration,
    /// All of it.
    pub total: Duration,
}
