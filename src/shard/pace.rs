//! The pace of a turn: the portion of each kind of work that is done before the next kind of work.

use crate::sys::SendEntry;

/// The sizes of a turn's portions. The sizes bound latency and decide how the kinds of work are interleaved. The result
/// is the same with any sizes, which the simulator tests by drawing them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Connections received from in one system call.
    pub(super) receive_batch: usize,
    /// Receive batches of one turn.
    pub(super) receive_batches: usize,
    /// Frames parsed in one turn; fewer while a walk is under way, see [`Pace::part`].
    pub(super) frames: u32,
    /// Sends in one system call.
    pub(super) send_batch: usize,
    /// Bytes after which a batch ends if several topics, or other output, are due. The last send counts, and may have
    /// more bytes than are left. The next batch begins with the next topic.
    pub(super) batch_bytes: usize,
    /// The most pieces of an entry of a batch. Shares of further walks join the entry up to so many pieces, and up to
    /// [`Pace::batch_bytes`].
    pub(super) entry_pieces: usize,
    /// Sends after which a flush ends, to go on in the next turn. A flush sends one batch at least. A further share in
    /// a send counts as a send. So does the visit of a walk that hands out nothing.
    pub(super) flush_entries: usize,
    /// Bytes after which a flush ends, to go on in the next turn. The last send counts, and may have more bytes than
    /// are left. Bytes that are appended to the backlog of a slow consumer count too.
    pub(super) flush_bytes: usize,
    /// The most pieces of a backlog that are offered in one send.
    pub(super) backlog_pieces: usize,
    /// The most bytes of a backlog that are offered in one send. They count in a batch whether the socket takes them or
    /// not.
    pub(super) backlog_bytes: usize,
    /// Deliveries taken from other ends in one turn, and requests likewise; fewer while a walk is under way, see
    /// [`Pace::part`].
    pub(super) mail: usize,
    /// Parts of histories that connections read, or ask homes for, in one turn.
    pub(super) history_parts: usize,
}

impl Pace {
    /// The pace of real connections.
    pub(super) const DEFAULT: Pace = Pace {
        receive_batch: 64,
        receive_batches: 4,
        // 14 frames for each of `flush_entries`. With more, the run of an unthrottled publisher outgrows the CPU's
        // cache.
        frames: 3_584,
        send_batch: 256,
        // A quarter of a flush: a topic with little to send waits for one batch of a topic with much, some 1 ms.
        batch_bytes: 4 << 20,
        entry_pieces: SendEntry::<()>::PIECES_MAX,
        // With fewer entries the shard comes back to its publishers sooner, so more messages leave by one send. But
        // smaller batches cost more than they gain where few messages are in flight.
        flush_entries: 256,
        // Four times the usual `max_gathered`. The kernel copies so many bytes in some 4 ms, and a turn's fixed work
        // takes a few hundredths of that time. If sends have less than 64 KiB each, the number of sends decides.
        flush_bytes: 16 << 20,
        backlog_pieces: 256,
        // A socket that reports room has room for a third of its buffer. A batch offers to 16 slow consumers at least.
        backlog_bytes: 256 << 10,
        mail: 1_024,
        // A megabyte, which is copied and encoded in a millisecond or two.
        history_parts: 16,
    };

    /// Returns the visits after which a walk gives way to the others: those of one batch if few audiences have a walk
    /// under way or due, of up to [`WALK_BATCHES_MAX`] batches if many have.
    ///
    /// A closed number of messages under way leaves by the fewest sends if all topics have their walks equally often:
    /// then small topics have gathered more when their turn comes. With many audiences a round of all walks takes long
    /// anyway. With few, a small topic waits for no more than a batch of a large one.
    pub(super) fn walk_portion(&self, walks: usize) -> usize {
        self.send_batch * (walks / AUDIENCES_PER_BATCH).clamp(1, WALK_BATCHES_MAX)
    }

    /// Returns how much of a portion of frames or mail a turn takes: all of it if no walk is under way. Otherwise the
    /// turn takes `portion × last_walked / flush_entries`, but at least one frame or message for each connection of a
    /// receive batch. The last flush has handed out `last_walked` shares.
    ///
    /// A topic gathers messages while its walk is under way. If the bound in bytes ends the flushes of a walk early,
    /// the walk takes more turns, and with a constant portion each run would be longer than the run before it. With
    /// portions in proportion to the shares, the topic gathers `portion × subscribers / flush_entries` messages during
    /// a walk, however many turns the walk takes.
    pub(super) fn part(&self, portion: usize, has_walks: bool, last_walked: usize) -> usize {
        if !has_walks || last_walked >= self.flush_entries {
            return portion;
        }
        (portion * last_walked / self.flush_entries).max(self.receive_batch).min(portion)
    }
}

/// The kinds of mail. The kind that has used up the room for mail comes last from then on, so that a flood of one kind
/// does not starve the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mail {
    Deliveries,
    Requests,
}

/// The rest of a turn's part of the mail.
#[derive(Debug, Default)]
pub(super) struct MailLeft {
    pub(super) deliveries: usize,
    pub(super) requests: usize,
}

const _: () = {
    let pace = Pace::DEFAULT;
    assert!(pace.receive_batch * pace.receive_batches <= pace.frames as usize, "each connection may send a frame");
    assert!(pace.send_batch <= pace.flush_entries, "a flush has room for a batch");
    assert!(4 * pace.batch_bytes <= pace.flush_bytes, "topics take turns within a flush");
    assert!(0 < pace.entry_pieces && pace.entry_pieces <= SendEntry::<()>::PIECES_MAX, "an entry is one send");
    assert!(0 < pace.backlog_pieces && pace.backlog_pieces <= SendEntry::<()>::PIECES_MAX, "a front is one send");
    assert!(16 * pace.backlog_bytes <= pace.batch_bytes, "a batch offers to 16 slow consumers at least");
    assert!(0 < pace.mail, "mail is taken");
    assert!(0 < pace.history_parts, "histories are read");
};

/// The most batches of a walk before it gives way to others: some 10 ms.
const WALK_BATCHES_MAX: usize = 8;

/// Audiences with a walk for each batch of a walk's portion.
const AUDIENCES_PER_BATCH: usize = 4;

/// Returns the number of frames that so many bytes count as, received or copied.
pub(super) fn frames_of(bytes: usize) -> u32 {
    (bytes / BYTES_PER_FRAME) as u32
}

/// Bytes that count as one frame, received or copied. They count in addition to the frames that are parsed.
const BYTES_PER_FRAME: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_gives_way_after_one_batch_or_after_several_among_many() {
        let portion = |walks| Pace::DEFAULT.walk_portion(walks);
        assert_eq!([0, 1, 7, 8, 15, 16, 32, 1_000].map(portion), [256, 256, 256, 512, 768, 1_024, 2_048, 2_048]);
    }

    #[test]
    fn a_walk_gathers_no_more_by_taking_more_turns() {
        let pace = Pace::DEFAULT;
        assert_eq!(pace.part(4_096, false, 0), 4_096);
        assert_eq!(pace.part(4_096, true, 256), 4_096);
        assert_eq!(pace.part(4_096, true, 64), 1_024);
        // One frame for each connection of a batch.
        assert_eq!(pace.part(4_096, true, 0), 64);
        // Eight turns of 128 sends parse as many frames as four of 256.
        assert_eq!(8 * pace.part(4_096, true, 128), 4 * pace.part(4_096, true, 256));
        assert_eq!(pace.part(1, true, 0), 1);
    }
}
