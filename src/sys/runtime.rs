//! The runtime of a shard's thread, and the waits on single sockets that belong to it.
//!
//! Each backend has a runtime of its own. Code on it uses tokio alone: it spawns with [`tokio::task::spawn_local`], and
//! its timers and channels are tokio's. Only the waits here know which runtime runs.

use std::{future::Future, io, os::fd::AsFd, rc::Rc};

use super::{BackendKind, epoll, uring};

/// Runs `future` on the calling thread, on the runtime of a backend, and beside it the tasks that it spawns.
///
/// # Errors
///
/// If the runtime cannot be set up.
pub fn block_on<F: Future>(backend: BackendKind, future: F) -> io::Result<F::Output> {
    match backend.real() {
        BackendKind::Epoll => epoll::block_on(future),
        _ => uring::block_on(future),
    }
}

/// Waits until `socket` has input, the end of input, or an error. If it is a listener, waits until a connection can be
/// accepted, or the listener was shut down.
///
/// Ends a wait by shutting the socket down, rather than by dropping the future: on io_uring the kernel would keep the
/// socket.
///
/// # Errors
///
/// The error of the wait.
pub async fn readable(backend: BackendKind, socket: Rc<impl AsFd + 'static>) -> io::Result<()> {
    match backend.real() {
        BackendKind::Epoll => epoll::readable(socket).await,
        _ => uring::readable(socket).await,
    }
}

/// Waits until `socket` has room for output, or can send no more. Ends as [`readable`] does.
///
/// # Errors
///
/// The error of the wait.
pub async fn writable(backend: BackendKind, socket: Rc<impl AsFd + 'static>) -> io::Result<()> {
    match backend.real() {
        BackendKind::Epoll => epoll::writable(socket).await,
        _ => uring::writable(socket).await,
    }
}

/// Yields until the runtime has run the other tasks that are ready, and has looked for the sockets that waits of theirs
/// are for.
pub async fn pass(backend: BackendKind) {
    match backend.real() {
        BackendKind::Epoll => epoll::pass().await,
        _ => uring::nop().await,
    }
}
