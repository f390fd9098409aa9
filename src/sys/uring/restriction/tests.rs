//! Restricted rings: what they take and what they refuse.

use std::{os::fd::AsRawFd as _, thread};

use io_uring::{IoUring, opcode, types::Fd};
use tokio_uring::UnsubmittedOneshot;

use super::*;
use crate::sys::uring::{
    HotRing, block_on, nop,
    oneshot::Done,
    operations::{HOT_RING, RUNTIME_RING},
};

/// Submits an entry that changes nothing, whatever the kernel thinks of it, and returns its result.
fn outcome(ring: &mut IoUring, entry: squeue::Entry) -> i32 {
    // SAFETY: these entries point to nothing.
    unsafe { ring.submission().push(&entry) }.unwrap();
    ring.submit_and_wait(1).unwrap();
    ring.completion().next().expect("a completion").result()
}

/// An operation that no shard uses, on no descriptor.
fn foreign() -> squeue::Entry {
    opcode::Fallocate::new(Fd(-1), 1).build()
}

#[test]
fn a_restricted_ring_takes_the_operations_in_use_and_refuses_others() {
    let mut ring: IoUring = IoUring::builder().setup_r_disabled().build(2).unwrap();
    restrict(ring.as_raw_fd(), RUNTIME_RING, squeue::Flags::empty()).unwrap();
    assert_eq!(outcome(&mut ring, opcode::Nop::new().build()), 0);
    assert_eq!(outcome(&mut ring, opcode::AsyncCancel::new(1).build()), -libc::ENOENT);
    assert_eq!(outcome(&mut ring, foreign()), -libc::EACCES);
    // An operation in use, with a flag that is not.
    assert_eq!(outcome(&mut ring, opcode::Nop::new().build().flags(squeue::Flags::ASYNC)), -libc::EACCES);
    // No registration takes a restriction back.
    let again = restrict(ring.as_raw_fd(), HOT_RING, squeue::Flags::empty()).unwrap_err();
    assert!(again.to_string().contains("IORING_REGISTER_RESTRICTIONS fails"), "{again}");
    let mut open: IoUring = IoUring::new(2).unwrap();
    assert_eq!(outcome(&mut open, foreign()), -libc::EBADF, "without restrictions the descriptor is looked at");
}

#[test]
fn a_hot_ring_is_restricted_if_asked() {
    for (access, expected) in [(RingAccess::InUse, -libc::EACCES), (RingAccess::Unrestricted, -libc::EBADF)] {
        let mut ring = HotRing::with(access).unwrap();
        assert_eq!(outcome(ring.raw(), foreign()), expected, "{access:?}");
        assert_eq!(outcome(ring.raw(), opcode::Nop::new().build()), 0, "{access:?}");
    }
}

/// Several shards set their runtimes up at the same time, and each finds its own ring.
#[test]
fn the_ring_of_a_runtime_is_restricted_if_asked() {
    let result_on_runtime = |access| {
        block_on(access, async {
            nop().await;
            UnsubmittedOneshot::new((), Done::new(), foreign()).submit().await
        })
        .unwrap()
    };
    let check = |access, expected| {
        let error: io::Error = result_on_runtime(access).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(expected), "{access:?}: {error}");
    };
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| check(RingAccess::InUse, libc::EACCES));
            scope.spawn(|| drop(HotRing::with(RingAccess::InUse).unwrap()));
        }
    });
    check(RingAccess::Unrestricted, libc::EBADF);
}

/// A disabled ring of somebody else is not taken for the runtime's.
#[test]
fn a_ring_that_was_disabled_before_stays_as_it_is() {
    while_alone(|before| {
        let none = before.the_new_one().unwrap_err();
        assert!(none.to_string().contains("too high to look for"), "{none}");
        let theirs: IoUring = IoUring::builder().setup_r_disabled().build(2)?;
        let between = DisabledRings(disabled_rings());
        let ours: IoUring = IoUring::builder().setup_r_disabled().build(2)?;
        assert_eq!(between.the_new_one()?, ours.as_raw_fd());
        let two = before.the_new_one().unwrap_err();
        assert!(two.to_string().contains("cannot be told from another"), "{two}");
        restrict(ours.as_raw_fd(), RUNTIME_RING, squeue::Flags::empty())?;
        theirs.submitter().register_enable_rings()?;
        Ok(())
    })
    .unwrap();
}
