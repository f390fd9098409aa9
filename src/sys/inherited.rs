//! Listeners that the service manager has opened and passed to this process (sd_listen_fds(3)).

use std::{
    fmt, io,
    net::TcpListener,
    os::fd::{FromRawFd as _, OwnedFd, RawFd},
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::net::{SocketType, sockopt};

/// Listeners that were announced and cannot be served on.
#[derive(Debug)]
pub enum InheritedError {
    /// The variables `LISTEN_PID` and `LISTEN_FDS` are malformed, or announce descriptors that are not open.
    Announced(io::Error),
    /// The descriptor is no TCP socket that listens.
    NoListener(RawFd),
    /// The listener cannot be made ready for use.
    Unusable(RawFd, io::Error),
}

impl fmt::Display for InheritedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InheritedError::Announced(error) => {
                write!(f, "LISTEN_FDS announces listeners that cannot be taken over: {error}")
            }
            InheritedError::NoListener(number) => write!(
                f,
                "the service manager has passed descriptor {number}, which is no TCP socket that listens: use \
                 ListenStream= with an address and a port, and Accept=no"
            ),
            InheritedError::Unusable(number, error) => {
                write!(f, "the listener that the service manager has passed as descriptor {number} fails: {error}")
            }
        }
    }
}

impl std::error::Error for InheritedError {}

/// Takes the listeners that the service manager has passed to this process. They are non-blocking and closed on exec.
/// Returns none if there are none, and from the second call on.
///
/// # Errors
///
/// See [`InheritedError`].
pub fn take_listeners() -> Result<Vec<TcpListener>, InheritedError> {
    if IS_TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    let announced = sd_notify::listen_fds().map_err(InheritedError::Announced)?;
    announced.map(take_listener).collect()
}

/// Takes a listener by the number of its descriptor, which [`take_listeners`] passes once.
fn take_listener(number: RawFd) -> Result<TcpListener, InheritedError> {
    // SAFETY: the descriptor is open, since `listen_fds` has just set its flags. Only this call makes an owner of it:
    // the service manager passed it to this process, which `LISTEN_PID` says, so no code of this process has opened it,
    // and `IS_TAKEN` lets only one call of `take_listeners` get here.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    let is_listener = sockopt::socket_type(&descriptor).is_ok_and(|kind| kind == SocketType::STREAM)
        && sockopt::socket_acceptconn(&descriptor).is_ok_and(|accepts| accepts);
    let listener = TcpListener::from(descriptor);
    if !is_listener || listener.local_addr().is_err() {
        return Err(InheritedError::NoListener(number));
    }
    listener.set_nonblocking(true).map_err(|error| InheritedError::Unusable(number, error))?;
    Ok(listener)
}

/// Whether the listeners have been taken.
static IS_TAKEN: AtomicBool = AtomicBool::new(false);
