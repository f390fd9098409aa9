//! The runtime of a shard on epoll: plain tokio, whose own epoll instance has the sockets that a task waits for.

use std::{
    future::Future,
    io,
    os::fd::{AsFd, AsRawFd, RawFd},
    rc::Rc,
};

use tokio::{
    io::{Interest, unix::AsyncFd},
    runtime::Builder,
    task::{LocalSet, yield_now},
};

/// Runs `future`, and the tasks that it spawns, on the calling thread.
///
/// # Errors
///
/// If the runtime's epoll instance cannot be set up.
pub(in crate::sys) fn block_on<F: Future>(future: F) -> io::Result<F::Output> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    Ok(LocalSet::new().block_on(&runtime, future))
}

/// Waits until `socket` has input, the end of input, or an error. If it is a listener, waits until a connection can be
/// accepted, or the listener was shut down.
///
/// # Errors
///
/// If the socket cannot be watched.
pub(in crate::sys) async fn readable(socket: Rc<impl AsFd + 'static>) -> io::Result<()> {
    // A listener that was shut down reports a hang-up without input, which tokio counts as readable too.
    Waiting::watch(socket, Interest::READABLE)?.readable().await?.retain_ready();
    Ok(())
}

/// Waits until `socket` has room for output, or can send no more.
///
/// # Errors
///
/// If the socket cannot be watched.
pub(in crate::sys) async fn writable(socket: Rc<impl AsFd + 'static>) -> io::Result<()> {
    Waiting::watch(socket, Interest::WRITABLE)?.writable().await?.retain_ready();
    Ok(())
}

/// Yields until the runtime has run the other tasks that are ready, and has looked for readiness: tokio does so before
/// it goes on with a task that has yielded.
pub(in crate::sys) async fn pass() {
    yield_now().await;
}

/// A socket that a task waits for. The runtime watches the socket from here until this is dropped, so a wait that is
/// dropped leaves nothing behind.
struct Waiting<S> {
    fd: RawFd,
    _socket: Rc<S>,
}

impl<S: AsFd> Waiting<S> {
    fn watch(socket: Rc<S>, interest: Interest) -> io::Result<AsyncFd<Self>> {
        let waiting = Waiting { fd: socket.as_fd().as_raw_fd(), _socket: socket };
        // SAFETY: `fd` never changes, and names the descriptor that the socket owns. The socket is shared, so nobody
        // can take the descriptor out of it, and the `AsyncFd` drops its owner after the registration.
        unsafe { AsyncFd::register_with_interest(waiting, interest) }.map_err(Into::into)
    }
}

impl<S> AsRawFd for Waiting<S> {
    fn as_raw_fd(&self) -> RawFd {
        self.fd
    }
}
