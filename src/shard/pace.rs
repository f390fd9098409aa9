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
    /// Frames parsed in one turn. One more for each connection of a batch may be parsed when they are used up. While a
    /// walk is under way it is fewer, see [`Pace::frames_of_turn`].
    pub(super) frames: u32,
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
    /// Bytes of a backlog offered at once. They count in a batch whether the socket takes them or not.
    pub(super) backlog_bytes: usize,
    /// Deliveries, and requests, taken from the other shards in one turn.
    pub(super) mail: usize,
}

impl Pace {
    /// What real connections are served at.
    pub(super) const DEFAULT: Pace = Pace {
        receive_batch: 64,
        receive_batches: 4,
        frames: 4_096,
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
        // A socket that reports room has room for a third of its buffer. A batch offers to 16 slow consumers at least.
        backlog_bytes: 256 << 10,
        mail: 1_024,
    };

    /// Returns how many frames a turn parses: all of [`Pace::frames`] if no walk is under way; else the part of them
    /// that `last_entries`, the sends of the last flush, are of [`Pace::flush_entries`], at least one for each
    /// connection of a receive batch.
    ///
    /// A topic gathers messages while its walk is under way. If the bound in bytes ends the flushes of a walk early, the
    /// walk takes more turns, and with a constant number of frames a turn the next run is longer still, without end. In
    /// proportion to the sends a walk gathers `frames × subscribers / flush_entries` messages however many turns it
    /// takes.
    pub(super) fn frames_of_turn(&self, has_walks: bool, last_entries: usize) -> u32 {
        if !has_walks || last_entries >= self.flush_entries {
            return self.frames;
        }
        let part = self.frames as usize * last_entries / self.flush_entries;
        part.max(self.receive_batch).min(self.frames as usize) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_gathers_no_more_by_taking_more_turns() {
        let pace = Pace::DEFAULT;
        assert_eq!(pace.frames_of_turn(false, 0), 4_096);
        assert_eq!(pace.frames_of_turn(true, 256), 4_096);
        assert_eq!(pace.frames_of_turn(true, 64), 1_024);
        // One connection of a batch after the other can still say something.
        assert_eq!(pace.frames_of_turn(true, 0), 64);
        // Eight turns of 128 sends parse as many frames as four of 256.
        assert_eq!(8 * pace.frames_of_turn(true, 128), 4 * pace.frames_of_turn(true, 256));
        let one = Pace { frames: 1, ..pace };
        assert_eq!(one.frames_of_turn(true, 0), 1);
    }
}
