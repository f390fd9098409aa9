//! The few operations that go through the runtime's own ring, one completion each.
//!
//! tokio-uring takes raw entries with [`UnsubmittedOneshot`]. Use it only for operations with exactly one completion:
//! tokio-uring panics on a second completion, and leaks memory if there is none. A future dropped before its completion
//! does not cancel the operation; the data that the operation owns stays alive until the kernel is done.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd, AsRawFd as _},
    rc::Rc,
};

use io_uring::{cqueue, opcode, types::Fd};
use tokio_uring::{OneshotOutputTransform, UnsubmittedOneshot};

/// Waits until `socket` has input, the end of input, or an error. If it is a listener, waits until a connection can be
/// accepted, or the listener was shut down.
///
/// # Errors
///
/// The error of the poll.
pub(in crate::sys) async fn readable(socket: Rc<impl AsFd + 'static>) -> io::Result<()> {
    polled(socket, libc::POLLIN | libc::POLLRDHUP).await
}

/// Waits until `socket` has room for output, or can send no more.
///
/// # Errors
///
/// The error of the poll.
pub(in crate::sys) async fn writable(socket: Rc<impl AsFd + 'static>) -> io::Result<()> {
    polled(socket, libc::POLLOUT).await
}

async fn polled(socket: Rc<impl AsFd + 'static>, events: i16) -> io::Result<()> {
    let entry = opcode::PollAdd::new(Fd(socket.as_fd().as_raw_fd()), events as u32).build();
    UnsubmittedOneshot::new(socket, Done::new(), entry).submit().await
}

/// Yields until the runtime has run the other tasks that are ready, and has submitted the entries that its ring has
/// queued. `yield_now` would only let the tasks run.
pub(in crate::sys) async fn nop() {
    let entry = opcode::Nop::new().build();
    // A NOP cannot fail.
    let _done: io::Result<()> = UnsubmittedOneshot::new((), Done::new(), entry).submit().await;
}

/// Success or failure. The operation owns its data (`D`), which is dropped with its completion.
pub(super) struct Done<D>(PhantomData<D>);

impl<D> Done<D> {
    pub(super) fn new() -> Self {
        Done(PhantomData)
    }
}

impl<D> OneshotOutputTransform for Done<D> {
    type Output = io::Result<()>;
    type StoredData = D;

    fn transform_oneshot_output(self, _held: D, completion: cqueue::Entry) -> Self::Output {
        match completion.result() {
            0.. => Ok(()),
            error => Err(io::Error::from_raw_os_error(-error)),
        }
    }
}
