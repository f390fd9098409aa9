//! How much a turn does of each kind of work before the next kind has its turn.

use crate::sys::Send;

/// The sizes of a turn's portions. They bound latency and decide which work is interleaved with which; the result is
/// the same with any of them, which the simulator proves by drawing them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Connections received from in one system call.
    pub(super) receive_batch: usize,
    /// Receive batches of one turn.
    pub(super) receive_batches: usize,
    /// Frames parsed in one turn. One more for each connection of a batch may be parsed when they are used up.
    pub(super) frames: u32,
    /// The same while a walk is under way: a publisher must not outrun its subscribers.
    pub(super) frames_beside_walks: u32,
    /// Sends in one system call.
    pub(super) send_batch: usize,
    /// Bytes after which a batch ends, those of its last send included. Topics take turns between two batches.
    pub(super) batch_bytes: usize,
    /// Pieces up to which the shares of further walks join an entry of a batch.
    pub(super) entry_pieces: usize,
    /// Sends after which a flush lets the rest of the turn go first. Below the size of a batch it is the batch's.
    pub(super) flush_entries: usize,
    /// Bytes after which it does, those of its last send included, which may have more than are left. What a laggard's
    /// backlog is given counts too.
    pub(super) flush_bytes: usize,
    /// Pieces of a backlog offered at once.
    pub(super) backlog_pieces: usize,
    /// Deliveries, and requests, taken from the other shards in one turn.
    pub(super) mail: usize,
}

impl Pace {
    /// What real connections are served at.
    pub(super) const DEFAULT: Pace = Pace {
        receive_batch: 64,
        receive_batches: 4,
        frames: 4_096,
        // A run that grows while the run before it leaves makes the next one longer still. At 17 B for 1 000
        // subscribers 512 frames are as many bytes as leave by 10 MiB of sends, so a run stays within the cache.
        frames_beside_walks: 512,
        send_batch: 256,
        // A quarter of a flush: a topic with little to send waits for one batch of a topic with much, some 1 ms.
        batch_bytes: 4 << 20,
        entry_pieces: Send::<()>::PIECES_MAX,
        // Publishers are read sooner after a pause, so more messages leave by one send; smaller batches cost more than
        // that brings where few messages are in flight.
        flush_entries: 256,
        // Four runs of the size at which a shard stops gathering. The kernel copies them in some 4 ms; a turn's fixed
        // work is a few hundredths of that. Where a send has less than 64 KiB the number of sends decides.
        flush_bytes: 16 << 20,
        backlog_pieces: 256,
        mail: 1_024,
    };
}
