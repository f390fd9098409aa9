//! The runtime of a shard on io_uring: tokio-uring's, with a ring of its own for accepts and opening handshakes.

use std::{future::Future, io};

/// Runs `future`, and the tasks that it spawns, on the calling thread.
///
/// # Errors
///
/// If the runtime's ring cannot be set up.
pub(in crate::sys) fn block_on<F: Future>(future: F) -> io::Result<F::Output> {
    let mut ring = tokio_uring::uring_builder();
    ring.setup_coop_taskrun().setup_single_issuer().setup_submit_all().setup_cqsize(COMPLETIONS);
    let mut builder = tokio_uring::builder();
    builder.entries(ENTRIES).uring_builder(&ring);
    Ok(tokio_uring::Runtime::new(&builder)?.block_on(future))
}

/// The sizes of the runtime's own ring, which serves accepts and opening handshakes: each operation has one completion.
const ENTRIES: u32 = 256;
const COMPLETIONS: u32 = 4_096;
