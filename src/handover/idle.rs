//! A connection that waits for its next request, as the two tables of permits see it: the table of all HTTP
//! connections, and the table of addresses.

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
    /// The most idle connections whose sockets are looked at for one new connection.
    pub(crate) const LOOKS_MAX: usize = 32;

    fn new(stream: &Arc<TcpStream>, waker: &Waker) -> IdleConnection {
        IdleConnection { stream: Arc::downgrade(stream), waker: waker.clone() }
    }

    /// Returns the connection with the waker of its task: `known`, or a new value when the connection is idle for the
    /// first time.
    pub(crate) fn renewed(known: Option<IdleConnection>, stream: &Arc<TcpStream>, waker: &Waker) -> IdleConnection {
        let Some(mut known) = known else { return IdleConnection::new(stream, waker) };
        known.set_waker(waker);
        known
    }

    /// Sets the waker of the connection's task, which is usually the same as before.
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

/// Returns whether bytes have arrived that were not read yet. The kernel is asked, so bytes count that the runtime has
/// not noticed.
pub(crate) fn has_input(stream: &TcpStream) -> bool {
    let mut octet = [MaybeUninit::uninit()];
    // Neither the end nor an error is a request.
    SockRef::from(stream).peek(&mut octet).is_ok_and(|count| count > 0)
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        task::Wake,
    };

    use super::{
        super::testing::{pair, run},
        *,
    };

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A connection that has been idle several times wakes the task of its last waker.
    #[test]
    fn the_last_waker_is_woken() {
        run(|listener| {
            let (stream, _peer) = pair(listener);
            let wakers = [Arc::<Woken>::default(), Arc::default(), Arc::default()];
            let idle = IdleConnection::renewed(None, &stream, &Waker::from(Arc::clone(&wakers[0])));
            let mut idle = IdleConnection::renewed(Some(idle), &stream, &Waker::from(Arc::clone(&wakers[1])));
            idle.wake();
            idle.set_waker(&Waker::from(Arc::clone(&wakers[2])));
            idle.wake();
            assert_eq!(wakers.map(|woken| woken.0.load(Ordering::Relaxed)), [0, 1, 1]);
        });
    }
}
