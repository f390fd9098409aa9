//! The one socket type of a connection, from its accept to its close: the descriptor, and what a transport over it
//! keeps.
//!
//! A connection's bytes are either the socket's own, or they travel in [`Records`](super::Records), as TLS has them.
//! What such a transport keeps goes wherever the socket goes: to the turn, to the control thread and back. A task that
//! has the socket alone uses the methods here; the turn uses [`Layered`](super::Layered), since it sends and receives
//! in batches.

#[cfg(test)]
pub(crate) mod xor;

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use bytes::BytesMut;

use super::{direct::DirectSocket, net, sealed::SealedSocket};

/// The socket of a connection.
#[derive(Debug)]
pub enum Transport<S = OwnedFd> {
    /// The connection's bytes are those of the socket.
    Plain(S),
    /// The connection's bytes travel in records.
    #[cfg(test)]
    Sealed(Box<SealedSocket<S>>),
}

#[cfg(not(test))]
const _: () = assert!(size_of::<Option<Transport>>() == 4, "ARCHITECTURE.md adds up what an idle connection costs");

impl<S> Transport<S> {
    /// Returns the socket itself. Bytes that are sent or received on it directly are not the connection's.
    pub fn socket(&self) -> &S {
        match self {
            Transport::Plain(socket) => socket,
            #[cfg(test)]
            Transport::Sealed(sealed) => &sealed.socket,
        }
    }

    /// Returns the socket and what its transport keeps; `None` if the connection's bytes are those of the socket.
    #[inline]
    pub(super) fn sealed(&self) -> Option<&SealedSocket<S>> {
        match self {
            Transport::Plain(_) => None,
            #[cfg(test)]
            Transport::Sealed(sealed) => Some(sealed),
        }
    }

    /// Returns the transport over the socket that `change` makes of this one.
    ///
    /// # Errors
    ///
    /// The error of `change`.
    pub fn try_map<T>(self, change: impl FnOnce(S) -> io::Result<T>) -> io::Result<Transport<T>> {
        Ok(match self {
            Transport::Plain(socket) => Transport::Plain(change(socket)?),
            #[cfg(test)]
            Transport::Sealed(sealed) => Transport::Sealed(Box::new(sealed.try_map(change)?)),
        })
    }

    /// Returns whether input is there that the socket does not report, since the transport has received it already.
    /// Look at this before each wait for input.
    pub fn has_opened(&self) -> bool {
        self.sealed().is_some_and(SealedSocket::has_input)
    }
}

impl Transport {
    /// Returns the transport of an accepted socket. All connections are plain.
    #[must_use]
    pub fn accepted(socket: OwnedFd) -> Transport {
        #[cfg(test)]
        if net::local(&socket).is_some_and(|local| xor::is_spoken_at(local.port())) {
            return xor::sealed(socket, xor::Side::Server);
        }
        Transport::Plain(socket)
    }
}

impl<S: DirectSocket> Transport<S> {
    /// Appends the connection's input that has arrived to `buffer`, within its spare capacity, and returns the number
    /// of bytes; `Ok(0)` is the end of input. `buffer` must have spare capacity.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if none has arrived; otherwise the failure of the socket, or of the transport.
    pub fn receive_now(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        match self.sealed() {
            None => self.socket().receive_direct(buffer),
            Some(sealed) => sealed.receive_now(buffer),
        }
    }

    /// Sends a part of `bytes`, and returns how many are taken. [`Transport::flush_now`] sends what the transport keeps
    /// of them.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if none is taken; otherwise the failure of the socket.
    pub fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        match self.sealed() {
            None => self.socket().send_direct(bytes),
            Some(sealed) => sealed.send_now(bytes),
        }
    }

    /// Sends what the transport keeps.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if it still keeps bytes, for which the socket has no room; otherwise the failure of the socket.
    pub fn flush_now(&self) -> io::Result<()> {
        self.sealed().map_or(Ok(()), SealedSocket::flush_now)
    }
}

impl<S: DirectSocket + AsFd> Transport<S> {
    /// Ends this side after everything that was sent: the transport's goodbye, and then a FIN.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if the socket has no room for what goes before the FIN: call it again then. Otherwise the failure
    /// of the socket.
    pub fn finish_now(&self) -> io::Result<()> {
        if let Some(sealed) = self.sealed() {
            sealed.say_goodbye();
            sealed.flush_now()?;
        }
        Ok(rustix::net::shutdown(self.socket().as_fd(), rustix::net::Shutdown::Write)?)
    }

    /// Returns how many bytes the peer has not acknowledged, with those that the transport keeps.
    ///
    /// # Errors
    ///
    /// The error of `ioctl(2)`.
    pub fn unacknowledged(&self) -> io::Result<usize> {
        Ok(net::unacknowledged(self.socket())? + self.sealed().map_or(0, SealedSocket::kept_bytes))
    }
}

impl<S> From<S> for Transport<S> {
    fn from(socket: S) -> Self {
        Transport::Plain(socket)
    }
}

impl<S: AsFd> AsFd for Transport<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket().as_fd()
    }
}

#[cfg(test)]
mod tests;
