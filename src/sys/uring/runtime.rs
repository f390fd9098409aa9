//! The runtime of a shard on io_uring: tokio-uring's, with a ring of its own for accepts and opening handshakes.

use std::{future::Future, io};

use io_uring::squeue;
use tokio_uring::Runtime;

use super::{
    operations::RUNTIME_RING,
    restriction::{RingAccess, restrict, while_alone},
};

/// Runs `future`, and the tasks that it spawns, on the calling thread.
///
/// # Errors
///
/// If the runtime's ring cannot be set up or restricted.
pub(in crate::sys) fn block_on<F: Future>(access: RingAccess, future: F) -> io::Result<F::Output> {
    Ok(set_up(access)?.block_on(future))
}

fn set_up(access: RingAccess) -> io::Result<Runtime> {
    let mut ring = tokio_uring::uring_builder();
    ring.setup_coop_taskrun().setup_single_issuer().setup_submit_all().setup_cqsize(COMPLETIONS);
    let mut builder = tokio_uring::builder();
    builder.entries(ENTRIES);
    match access {
        RingAccess::Unrestricted => Runtime::new(builder.uring_builder(&ring)),
        RingAccess::InUse => while_alone(|disabled| {
            let runtime = Runtime::new(builder.uring_builder(ring.setup_r_disabled()))?;
            restrict(disabled.the_new_one()?, RUNTIME_RING, squeue::Flags::empty())?;
            Ok(runtime)
        }),
    }
}

/// The sizes of the runtime's own ring, which serves accepts and opening handshakes: each operation has one completion.
const ENTRIES: u32 = 256;
const COMPLETIONS: u32 = 4_096;
