//! The result of opening a connection.

use std::{net::SocketAddr, time::Duration};

use super::tls::TlsFacts;
use crate::proto::ResponseHead;

/// An opened connection: the server's answer, the addresses of both ends, and the timings of the opening.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Opened {
    /// The server's answer to the opening handshake.
    pub head: ResponseHead,
    /// The subprotocol that the server chose (RFC 6455 1.9).
    pub protocol: Option<String>,
    /// A number that is unique among the connections of this process.
    pub connection_id: u64,
    /// The URL of the server, without its query. After redirects it differs from the configured URL.
    pub url: String,
    /// The client's address.
    pub local_address: SocketAddr,
    /// The address of the server, or of the proxy.
    pub peer_address: SocketAddr,
    /// The result of the TLS handshake, for `wss`.
    pub tls: Option<TlsFacts>,
    /// The number of redirects that were followed.
    pub redirects: u32,
    /// The time that each stage took.
    pub timings: Timings,
}

/// The time that each stage of an opening took. After redirects, all times but `total` are those of the last server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timings {
    /// Resolving the host's name.
    pub resolve: Duration,
    /// Connecting the TCP socket.
    pub connect: Duration,
    /// Requesting a tunnel from the proxy.
    pub proxy: Option<Duration>,
    /// The TLS handshake.
    pub tls: Option<Duration>,
    /// The opening handshake, from the request to its answer.
    pub handshake: Duration,
    /// The whole opening, redirects included.
    pub total: Duration,
}
