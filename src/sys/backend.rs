//! The backends: the kernel's interfaces by which shards reach their sockets.

use std::{fmt, io, net::SocketAddr, os::fd::OwnedFd};

use tokio::io::unix::AsyncFd;

#[cfg(test)]
use super::faulty::Faulty;
use super::{
    epoll::Epoll,
    io::{Io, Key, Readiness, Receive, SendEntry, SendLimits, Unsent},
    transport::Transport,
    uring::{HotRing, RingAccess},
};

/// A backend by its name. All shards of a server have the same, from its start to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendKind {
    /// io_uring: a hot ring for each shard.
    Uring,
    /// epoll: an instance for each shard.
    Epoll,
    /// A real backend with faults that a seed decides.
    #[cfg(test)]
    Faulty {
        /// The real backend.
        over: &'static BackendKind,
        seed: u64,
    },
}

impl BackendKind {
    /// Returns the kind of backend that talks to the kernel, and so decides about the runtime.
    pub(super) fn real(self) -> BackendKind {
        match self {
            #[cfg(test)]
            BackendKind::Faulty { over, .. } => *over,
            real => real,
        }
    }
}

impl fmt::Display for BackendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BackendKind::Uring => "uring",
            BackendKind::Epoll => "epoll",
            #[cfg(test)]
            BackendKind::Faulty { .. } => "faulty",
        })
    }
}

/// The sockets of one shard on the backend of its server, used by the thread that made it.
///
/// The backend is chosen once for each call, so a batch costs one branch more than without the choice.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "a shard has one, and a ring in a box would be one step further away")]
pub enum Backend {
    /// io_uring.
    Uring(HotRing),
    /// epoll.
    Epoll(Epoll),
    /// A real backend with faults.
    #[cfg(test)]
    Faulty(Box<Faulty>),
}

/// The socket type of all backends.
type Socket = Transport;

impl Backend {
    /// Makes the backend of the calling thread.
    ///
    /// # Errors
    ///
    /// See [`HotRing::new`] and [`Epoll::new`].
    pub fn new(kind: BackendKind) -> io::Result<Backend> {
        Self::with(kind, RingAccess::Unrestricted)
    }

    /// Makes the backend of the calling thread; a ring of it takes the operations that `access` allows.
    ///
    /// # Errors
    ///
    /// See [`HotRing::with`] and [`Epoll::new`].
    pub fn with(kind: BackendKind, access: RingAccess) -> io::Result<Backend> {
        match kind {
            BackendKind::Uring => HotRing::with(access).map(Backend::Uring),
            BackendKind::Epoll => Epoll::new().map(Backend::Epoll),
            #[cfg(test)]
            BackendKind::Faulty { over, seed } => {
                Ok(Backend::Faulty(Box::new(Faulty::new(Backend::with(*over, access)?, seed))))
            }
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
            Backend::Epoll(epoll) => epoll.watch(),
            #[cfg(test)]
            Backend::Faulty(faulty) => faulty.watch(),
        }
    }

    /// Returns the number of polls that were asked for and have not ended.
    #[must_use]
    pub fn armed(&self) -> u64 {
        match self {
            Backend::Uring(ring) => ring.armed(),
            Backend::Epoll(epoll) => epoll.armed(),
            #[cfg(test)]
            Backend::Faulty(faulty) => faulty.armed(),
        }
    }

    /// Returns how often the end of a poll had to be asked for again.
    #[must_use]
    pub fn repeated(&self) -> u64 {
        match self {
            Backend::Uring(ring) => ring.repeated(),
            Backend::Epoll(_) => 0,
            #[cfg(test)]
            Backend::Faulty(faulty) => faulty.real().repeated(),
        }
    }
}

impl Io for Backend {
    type Socket = Socket;

    #[inline]
    fn arm(&mut self, key: Key, socket: &Socket) {
        match self {
            Backend::Uring(ring) => ring.arm(key, socket),
            Backend::Epoll(epoll) => epoll.arm(key, socket),
            #[cfg(test)]
            Backend::Faulty(faulty) => faulty.arm(key, socket),
        }
    }

    #[inline]
    fn await_room(&mut self, key: Key, socket: &Socket) {
        match self {
            Backend::Uring(ring) => ring.await_room(key, socket),
            Backend::Epoll(epoll) => epoll.await_room(key, socket),
            #[cfg(test)]
            Backend::Faulty(faulty) => faulty.await_room(key, socket),
        }
    }

    #[inline]
    fn disarm(&mut self, key: Key) {
        match self {
            Backend::Uring(ring) => ring.disarm(key),
            Backend::Epoll(epoll) => epoll.disarm(key),
            #[cfg(test)]
            Backend::Faulty(faulty) => faulty.disarm(key),
        }
    }

    #[inline]
    fn submit(&mut self) {
        match self {
            Backend::Uring(ring) => ring.submit(),
            Backend::Epoll(epoll) => epoll.submit(),
            #[cfg(test)]
            Backend::Faulty(faulty) => faulty.submit(),
        }
    }

    #[inline]
    fn reap(&mut self, ready: &mut Vec<Readiness>) {
        match self {
            Backend::Uring(ring) => ring.reap(ready),
            Backend::Epoll(epoll) => epoll.reap(ready),
            #[cfg(test)]
            Backend::Faulty(faulty) => faulty.reap(ready),
        }
    }

    #[inline]
    fn has_reports(&mut self) -> bool {
        match self {
            Backend::Uring(ring) => ring.has_reports(),
            Backend::Epoll(epoll) => epoll.has_reports(),
            #[cfg(test)]
            Backend::Faulty(faulty) => faulty.has_reports(),
        }
    }

    #[inline]
    fn receive(&mut self, batch: &mut [Receive<'_, Socket>]) {
        match self {
            Backend::Uring(ring) => ring.receive(batch),
            Backend::Epoll(epoll) => epoll.receive(batch),
            #[cfg(test)]
            Backend::Faulty(faulty) => faulty.receive(batch),
        }
    }

    #[inline]
    fn discard(&mut self, socket: &Socket, most: usize) -> io::Result<usize> {
        match self {
            Backend::Uring(ring) => ring.discard(socket, most),
            Backend::Epoll(epoll) => epoll.discard(socket, most),
            #[cfg(test)]
            Backend::Faulty(faulty) => faulty.discard(socket, most),
        }
    }

    #[inline]
    fn send(&mut self, batch: &[SendEntry<'_, Socket>], refused: &mut Vec<Unsent>) {
        match self {
            Backend::Uring(ring) => ring.send(batch, refused),
            Backend::Epoll(epoll) => epoll.send(batch, refused),
            #[cfg(test)]
            Backend::Faulty(faulty) => faulty.send(batch, refused),
        }
    }

    #[inline]
    fn addresses(&self, socket: &Socket) -> (Option<SocketAddr>, Option<SocketAddr>) {
        match self {
            Backend::Uring(ring) => ring.addresses(socket),
            Backend::Epoll(epoll) => epoll.addresses(socket),
            #[cfg(test)]
            Backend::Faulty(faulty) => faulty.addresses(socket),
        }
    }

    #[inline]
    fn finish(&mut self, socket: &Socket) {
        match self {
            Backend::Uring(ring) => ring.finish(socket),
            Backend::Epoll(epoll) => epoll.finish(socket),
            #[cfg(test)]
            Backend::Faulty(faulty) => faulty.finish(socket),
        }
    }

    #[inline]
    fn unread(&self, socket: &Socket) -> usize {
        match self {
            Backend::Uring(ring) => ring.unread(socket),
            Backend::Epoll(epoll) => epoll.unread(socket),
            #[cfg(test)]
            Backend::Faulty(faulty) => faulty.unread(socket),
        }
    }

    #[inline]
    fn limit_output(&mut self, socket: &Socket, limits: SendLimits) {
        match self {
            Backend::Uring(ring) => ring.limit_output(socket, limits),
            Backend::Epoll(epoll) => epoll.limit_output(socket, limits),
            #[cfg(test)]
            Backend::Faulty(faulty) => faulty.limit_output(socket, limits),
        }
    }

    #[inline]
    fn unacknowledged(&self, socket: &Socket) -> usize {
        match self {
            Backend::Uring(ring) => ring.unacknowledged(socket),
            Backend::Epoll(epoll) => epoll.unacknowledged(socket),
            #[cfg(test)]
            Backend::Faulty(faulty) => faulty.unacknowledged(socket),
        }
    }

    #[inline]
    fn reset(&mut self, socket: &Socket) {
        match self {
            Backend::Uring(ring) => ring.reset(socket),
            Backend::Epoll(epoll) => epoll.reset(socket),
            #[cfg(test)]
            Backend::Faulty(faulty) => faulty.reset(socket),
        }
    }
}
