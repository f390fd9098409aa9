//! The backends: the kernel's interfaces by which shards reach their sockets.

use std::{fmt, io, net::SocketAddr, os::fd::OwnedFd};

use tokio::io::unix::AsyncFd;

use super::{
    io::{Io, Key, Readiness, Receive, SendEntry, Unsent},
    uring::HotRing,
};

/// A backend by its name. All shards of a server have the same, from its start to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendKind {
    /// io_uring: a hot ring for each shard.
    Uring,
}

impl fmt::Display for BackendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BackendKind::Uring => "uring",
        })
    }
}

/// The sockets of one shard on the backend of its server, used by the thread that made it.
///
/// The backend is chosen once for each call, so a batch costs one branch more than without the choice.
#[derive(Debug)]
pub enum Backend {
    /// io_uring.
    Uring(HotRing),
}

/// The socket type of all backends.
type Socket = OwnedFd;

impl Backend {
    /// Makes the backend of the calling thread.
    ///
    /// # Errors
    ///
    /// See [`HotRing::new`].
    pub fn new(kind: BackendKind) -> io::Result<Backend> {
        match kind {
            BackendKind::Uring => HotRing::new().map(Backend::Uring),
        }
    }

    /// Lets the runtime of the calling thread watch for reports, on a descriptor that is readable when there are some.
    ///
    /// # Errors
    ///
    /// If the descriptor cannot be duplicated or registered.
    pub fn watch(&self) -> io::Result<AsyncFd<OwnedFd>> {
        match self {
            Backend::Uring(ring) => ring.watch(),
        }
    }

    /// Returns whether [`Io::reap`] is due before a sleep.
    pub fn has_reports(&mut self) -> bool {
        match self {
            Backend::Uring(ring) => ring.has_completions(),
        }
    }

    /// Returns the number of polls that were asked for and have not ended.
    #[must_use]
    pub fn armed(&self) -> u64 {
        match self {
            Backend::Uring(ring) => ring.armed(),
        }
    }

    /// Returns how often the end of a poll had to be asked for again.
    #[must_use]
    pub fn repeated(&self) -> u64 {
        match self {
            Backend::Uring(ring) => ring.repeated(),
        }
    }
}

impl Io for Backend {
    type Socket = Socket;

    #[inline]
    fn arm(&mut self, key: Key, socket: &Socket) {
        match self {
            Backend::Uring(ring) => ring.arm(key, socket),
        }
    }

    #[inline]
    fn await_room(&mut self, key: Key, socket: &Socket) {
        match self {
            Backend::Uring(ring) => ring.await_room(key, socket),
        }
    }

    #[inline]
    fn disarm(&mut self, key: Key) {
        match self {
            Backend::Uring(ring) => ring.disarm(key),
        }
    }

    #[inline]
    fn submit(&mut self) {
        match self {
            Backend::Uring(ring) => ring.submit(),
        }
    }

    #[inline]
    fn reap(&mut self, ready: &mut Vec<Readiness>) {
        match self {
            Backend::Uring(ring) => ring.reap(ready),
        }
    }

    #[inline]
    fn receive(&mut self, batch: &mut [Receive<'_, Socket>]) {
        match self {
            Backend::Uring(ring) => ring.receive(batch),
        }
    }

    #[inline]
    fn discard(&mut self, socket: &Socket, most: usize) -> io::Result<usize> {
        match self {
            Backend::Uring(ring) => ring.discard(socket, most),
        }
    }

    #[inline]
    fn send(&mut self, batch: &[SendEntry<'_, Socket>], refused: &mut Vec<Unsent>) {
        match self {
            Backend::Uring(ring) => ring.send(batch, refused),
        }
    }

    #[inline]
    fn addresses(&self, socket: &Socket) -> (Option<SocketAddr>, Option<SocketAddr>) {
        match self {
            Backend::Uring(ring) => ring.addresses(socket),
        }
    }

    #[inline]
    fn finish(&mut self, socket: &Socket) {
        match self {
            Backend::Uring(ring) => ring.finish(socket),
        }
    }

    #[inline]
    fn unread(&self, socket: &Socket) -> usize {
        match self {
            Backend::Uring(ring) => ring.unread(socket),
        }
    }

    #[inline]
    fn unacknowledged(&self, socket: &Socket) -> usize {
        match self {
            Backend::Uring(ring) => ring.unacknowledged(socket),
        }
    }

    #[inline]
    fn reset(&mut self, socket: &Socket) {
        match self {
            Backend::Uring(ring) => ring.reset(socket),
        }
    }
}
