//! The listeners of a shard.

use std::os::fd::OwnedFd;

/// A socket on which a shard accepts connections.
#[derive(Debug)]
pub(crate) struct Listener {
    /// The socket, which is non-blocking.
    pub(crate) socket: OwnedFd,
    /// The process that the socket belongs to.
    pub(crate) owner: ListenerOwner,
    pub(crate) beginning: Beginning,
}

/// The beginning of the connections of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beginning {
    /// The first request.
    Request,
    /// A header of the PROXY protocol, from a trusted proxy.
    ProxyHeader,
}

/// The process that a listener belongs to, which decides about the socket when the server leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ListenerOwner {
    /// The server has opened the socket for one shard. When the server leaves, the port refuses connections.
    Server,
    /// The server's parent has opened the socket, and keeps it. When the server leaves, connections still reach the
    /// port, and wait for the next server.
    Parent,
}
