//! Sets up a hot ring.

use std::{collections::VecDeque, io, os::fd::AsRawFd as _};

use io_uring::{IoUring, squeue};

use super::{COMPLETIONS, Entries, HotRing};
use crate::sys::uring::{
    operations::HOT_RING,
    restriction::{RingAccess, restrict, while_alone},
};

impl HotRing {
    /// Makes a ring for the calling thread, which takes every operation.
    ///
    /// # Errors
    ///
    /// The error of `io_uring_setup(2)`: `EPERM` and `ENOSYS` where a container's seccomp profile or
    /// `kernel.io_uring_disabled` forbids it, `EINVAL` where the kernel is older than 6.0, `ENOMEM` where locked memory
    /// is used up.
    pub fn new() -> io::Result<HotRing> {
        Self::with(RingAccess::Unrestricted)
    }

    /// Makes a ring for the calling thread, which takes the operations that the access allows.
    ///
    /// # Errors
    ///
    /// Those of [`HotRing::new`], and `RestrictionError` in an [`io::Error`] if the ring cannot be restricted.
    pub fn with(access: RingAccess) -> io::Result<HotRing> {
        let mut builder = IoUring::builder();
        builder.setup_coop_taskrun().setup_single_issuer().setup_submit_all().setup_cqsize(COMPLETIONS);
        let ring: IoUring = match access {
            RingAccess::Unrestricted => builder.build(Self::BATCH_MAX as u32)?,
            RingAccess::InUse => while_alone(|_| {
                let ring = builder.setup_r_disabled().build(Self::BATCH_MAX as u32)?;
                restrict(ring.as_raw_fd(), HOT_RING, squeue::Flags::SKIP_SUCCESS)?;
                Ok(ring)
            })?,
        };
        let entries = Entries::map(ring.as_raw_fd(), ring.params().sq_entries())?;
        Ok(HotRing {
            ring,
            entries,
            pushed: 0,
            waiting: VecDeque::new(),
            armed: 0,
            repeated: 0,
            ready: Vec::new(),
            completed: Vec::new(),
            batch: 0,
            #[cfg(test)]
            memory: None,
        })
    }
}
