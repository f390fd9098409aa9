//! The memory of a ring's submission queue, so that entries that the kernel has not taken can be withdrawn.

use std::{io, os::fd::RawFd, ptr};

use io_uring::{opcode, squeue};

/// The entries of a submission queue, mapped a second time beside the ring's own mapping.
pub(super) struct Entries {
    memory: *mut squeue::Entry,
    /// The number of entries, a power of two.
    count: u32,
}

impl Entries {
    /// Maps the `count` entries of the ring whose descriptor is `ring`.
    ///
    /// # Errors
    ///
    /// The error of `mmap(2)`.
    pub(super) fn map(ring: RawFd, count: u32) -> io::Result<Entries> {
        let (length, protection) = (Self::length(count), libc::PROT_READ | libc::PROT_WRITE);
        // SAFETY: the kernel chooses an address where nothing is mapped, and the descriptor is only looked up.
        let memory = unsafe { libc::mmap(ptr::null_mut(), length, protection, libc::MAP_SHARED, ring, OFFSET) };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Entries { memory: memory.cast(), count })
    }

    /// Replaces the last `count` of the `pushed` entries by entries that do nothing, report nothing and point nowhere.
    /// The kernel must not have taken the entries that are replaced.
    pub(super) fn withdraw(&mut self, pushed: u32, count: u32) {
        for number in 1..=count {
            let index = pushed.wrapping_sub(number) & (self.count - 1);
            let nothing = opcode::Nop::new().build().flags(squeue::Flags::SKIP_SUCCESS);
            let entry = self.memory.wrapping_add(index as usize);
            // SAFETY: the index is below the number of entries that are mapped, the mapping lives as long as `self`,
            // and an entry of the ring has the layout of `squeue::Entry`, which the ring itself writes there. Nobody
            // reads it meanwhile: the kernel looks at the queue in `io_uring_enter` alone, which this thread is not in.
            unsafe { entry.write_volatile(nothing) };
        }
    }

    fn length(count: u32) -> usize {
        count as usize * size_of::<squeue::Entry>()
    }
}

impl Drop for Entries {
    fn drop(&mut self) {
        // SAFETY: it was mapped by `map` with this length, and no reference into it exists.
        let outcome = unsafe { libc::munmap(self.memory.cast(), Self::length(self.count)) };
        debug_assert_eq!(outcome, 0, "{}", io::Error::last_os_error());
    }
}

/// The offset of the entries in a ring's descriptor (`IORING_OFF_SQES`).
const OFFSET: libc::off_t = 0x1000_0000;
