//! A connection that waits for its next request, as those see it who may want its place.

use std::{
    mem::MaybeUninit,
    sync::{Arc, Weak},
    task::Waker,
};

use socket2::SockRef;
use tokio::net::TcpStream;

/// An idle connection: everything that was asked is answered, and nothing more has come.
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

    /// Returns whether something has arrived that was not read yet: a request, which keeps the connection's place.
    pub(crate) fn has_input(&self) -> bool {
        self.stream.upgrade().is_some_and(|stream| has_input(&stream))
    }

    /// Lets the connection find out that it has given way.
    pub(crate) fn wake(&self) {
        self.waker.wake_by_ref();
    }
}

/// Returns whether something has arrived that was not read yet, of which the runtime need not know.
pub(crate) fn has_input(stream: &TcpStream) -> bool {
    let mut octet = [MaybeUninit::uninit()];
    // The end, or an error, is no request.
    SockRef::from(stream).peek(&mut octet).is_ok_and(|count| count > 0)
}
