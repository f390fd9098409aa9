//! A connection that waits for its next request, as the holders of limits see it.

use std::{
    mem::MaybeUninit,
    sync::{Arc, Weak},
    task::Waker,
};

use socket2::SockRef;
use tokio::net::TcpStream;

/// An idle connection: all its requests are answered, and nothing more has arrived.
#[derive(Debug)]
pub(crate) struct IdleConnection {
    stream: Weak<TcpStream>,
    /// Wakes the connection's task.
    waker: Waker,
}

impl IdleConnection {
    pub(crate) fn new(stream: &Arc<TcpStream>, waker: &Waker) -> IdleConnection {
        IdleConnection { stream: Arc::downgrade(stream), waker: waker.clone() }
    }

    /// Returns the connection with the waker of its task, made anew only the first time that it is idle.
    pub(crate) fn renewed(known: Option<IdleConnection>, stream: &Arc<TcpStream>, waker: &Waker) -> IdleConnection {
        let Some(mut known) = known else { return IdleConnection::new(stream, waker) };
        known.set_waker(waker);
        known
    }

    /// Sets the waker of the connection's task, which is mostly the same.
    pub(crate) fn set_waker(&mut self, waker: &Waker) {
        self.waker.clone_from(waker);
    }

    /// Returns whether bytes have arrived that were not read yet: a request, which keeps the connection's permits.
    pub(crate) fn has_input(&self) -> bool {
        self.stream.upgrade().is_some_and(|stream| has_input(&stream))
    }

    /// Wakes the connection's task, which finds out that the connection has given way.
    pub(crate) fn wake(&self) {
        self.waker.wake_by_ref();
    }
}

/// Returns whether bytes have arrived that were not read yet, of which the runtime need not know.
pub(crate) fn has_input(stream: &TcpStream) -> bool {
    let mut octet = [MaybeUninit::uninit()];
    // Neither the end nor an error is a request.
    SockRef::from(stream).peek(&mut octet).is_ok_and(|count| count > 0)
}
