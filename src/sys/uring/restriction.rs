//! Restricts a ring to the operations in use, so that code that has taken a server over can ask it for nothing else.
//!
//! A seccomp filter does not see the operations of a ring. So a ring is set up disabled, gets its restrictions
//! (`IORING_REGISTER_RESTRICTIONS`), and is enabled then; from there on its restrictions cannot be changed.

use std::{
    fmt, io,
    os::fd::RawFd,
    sync::{Mutex, PoisonError},
};

use io_uring::{register::Restriction, squeue};

/// The operations that the rings of a shard take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RingAccess {
    /// Every operation that the kernel knows.
    Unrestricted,
    /// The operations that a shard uses, and no registrations.
    InUse,
}

/// A ring that cannot be restricted.
#[derive(Debug)]
pub struct RestrictionError {
    what: &'static str,
    error: Option<io::Error>,
}

impl fmt::Display for RestrictionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the rings cannot be restricted to the operations in use, as `sandbox` asks: {}", self.what)?;
        self.error.as_ref().map_or(Ok(()), |error| write!(f, " ({error})"))
    }
}

impl std::error::Error for RestrictionError {}

fn refused(what: &'static str, error: Option<io::Error>) -> io::Error {
    io::Error::other(RestrictionError { what, error })
}

/// Restricts a disabled ring of the calling thread to these operations and flags, and enables it.
///
/// # Errors
///
/// [`RestrictionError`] in an [`io::Error`].
pub(super) fn restrict(ring: RawFd, operations: &[u8], flags: squeue::Flags) -> io::Result<()> {
    let mut restrictions: Vec<Restriction> = operations.iter().map(|code| Restriction::sqe_op(*code)).collect();
    restrictions.push(Restriction::sqe_flags_allowed(flags.bits()));
    let count = restrictions.len() as u32;
    // SAFETY: the kernel reads `count` restrictions, which live until the call returns and have its layout.
    let restricted = unsafe { register(ring, REGISTER_RESTRICTIONS, restrictions.as_ptr(), count) };
    restricted.map_err(|error| refused("IORING_REGISTER_RESTRICTIONS fails", Some(error)))?;
    // SAFETY: this registration has no argument.
    let enabled = unsafe { register(ring, REGISTER_ENABLE_RINGS, std::ptr::null(), 0) };
    enabled.map_err(|error| refused("IORING_REGISTER_ENABLE_RINGS fails", Some(error)))
}

/// Calls `io_uring_register(2)`.
///
/// # Safety
///
/// `arguments` must point to `count` valid arguments of this registration.
unsafe fn register(ring: RawFd, what: u32, arguments: *const Restriction, count: u32) -> io::Result<()> {
    // SAFETY: the caller vouches for the arguments; a descriptor that is no ring is an error.
    let outcome = unsafe { libc::syscall(libc::SYS_io_uring_register, ring, what, arguments, count) };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The rings that are set up disabled, seen while no other thread of this module has one.
pub(super) struct DisabledRings(Vec<RawFd>);

impl DisabledRings {
    /// Returns the descriptor of the one ring that was made since. tokio-uring keeps the descriptor of its ring to
    /// itself, but no other disabled ring comes meanwhile.
    ///
    /// # Errors
    ///
    /// [`RestrictionError`] in an [`io::Error`] if there is no such ring, or more than one.
    pub(super) fn the_new_one(&self) -> io::Result<RawFd> {
        let mut rings = disabled_rings();
        rings.retain(|ring| !self.0.contains(ring));
        match rings[..] {
            [ring] => Ok(ring),
            [] => Err(refused("the ring of the runtime has a descriptor that is too high to look for", None)),
            _ => Err(refused("the ring of the runtime cannot be told from another one that is disabled", None)),
        }
    }
}

/// Sets up a ring while no other thread does so here.
pub(super) fn while_alone<T>(set_up: impl FnOnce(&DisabledRings) -> io::Result<T>) -> io::Result<T> {
    static SETS_UP: Mutex<()> = Mutex::new(());
    // A set-up that has panicked has left nothing behind that the next one could find.
    let _alone = SETS_UP.lock().unwrap_or_else(PoisonError::into_inner);
    set_up(&DisabledRings(disabled_rings()))
}

/// Returns the descriptors of all rings of this process that are not enabled yet.
fn disabled_rings() -> Vec<RawFd> {
    // An `enter` that submits nothing and waits for nothing changes nothing, whatever the descriptor is of.
    // SAFETY: nothing is pointed to.
    let enter = |fd: RawFd| unsafe { libc::syscall(libc::SYS_io_uring_enter, fd, 0, 0, 0, std::ptr::null::<u8>(), 0) };
    let is_disabled = |fd: &RawFd| enter(*fd) < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EBADFD);
    (0..DESCRIPTORS_MAX).filter(is_disabled).collect()
}

/// The number of descriptors among which a ring is looked for. A new descriptor has the lowest free number, and a
/// server has few open descriptors at its start.
const DESCRIPTORS_MAX: RawFd = 16_384;

/// `IORING_REGISTER_RESTRICTIONS` and `IORING_REGISTER_ENABLE_RINGS`.
const REGISTER_RESTRICTIONS: u32 = 11;
const REGISTER_ENABLE_RINGS: u32 = 12;

#[cfg(test)]
mod tests;
