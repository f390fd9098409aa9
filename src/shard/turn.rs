//! The turn: one round of a shard's work, from the completions of its ring to the next submission.

use std::mem;

use super::{outgoing::Outcome, state::Shard};
use crate::{
    hub::{IdCounts, ReceiptCounts},
    metrics::Counter,
    proto::Millis,
    sys::Io,
};

impl<I: Io> Shard<I> {
    /// Runs one turn. Returns whether the next turn is due at once. If not, the next turn is due when the ring has
    /// completions, at [`Shard::next_deadline`], after [`Shard::adopt`], when another end of the mesh wakes the shard,
    /// when a handle makes a call, or when a drain begins.
    pub(crate) fn turn(&mut self, now: Millis) -> bool {
        self.note_time(now);
        self.reap();
        self.receive();
        self.begin_mail();
        self.expire_timers();
        self.resume_paused();
        self.read_histories();
        self.watch_memory();
        self.pace_drain();
        self.report_ended();
        self.advance_presence();
        // The mesh sends before the flush, so that the other shards can begin while this shard sends.
        self.hub.send_out();
        self.limit_sockets();
        self.flush();
        self.report_lags();
        self.report_drained();
        self.report_ended();
        self.hub.send_out();
        if self.hub.has_answered() {
            self.report_answered();
        }
        self.io.submit();
        self.count(Counter::Turns, 1);
        self.counters.set(Counter::LaneOverflow, self.hub.overflowed());
        self.counters.set(Counter::Topics, self.hub.topics() as u64);
        let IdCounts { repeated, other_contents, full } = self.hub.id_counts();
        self.counters.set(Counter::IdsRepeated, repeated);
        self.counters.set(Counter::IdsOtherContents, other_contents);
        self.counters.set(Counter::IdsFull, full);
        let ReceiptCounts { complete, timed_out, too_many } = self.hub.receipt_counts();
        self.counters.set(Counter::ReceiptsComplete, complete);
        self.counters.set(Counter::ReceiptsTimedOut, timed_out);
        self.counters.set(Counter::ReceiptsTooMany, too_many);
        self.has_work()
    }

    /// Sends the output that is due, and acts on the outcomes of each batch before the next is planned.
    fn flush(&mut self) {
        let mut left = self.begin_flush();
        while self.flush_batch(&mut left) {
            let mut outcomes = mem::take(&mut self.flush.outcomes);
            for outcome in outcomes.drain(..) {
                match outcome {
                    Outcome::Lost(id, error) => self.lose_output(id, &error),
                    Outcome::Done(id) => self.end_if_done(id),
                    Outcome::Slow(id) => self.check_backlog(id),
                }
            }
            self.flush.outcomes = outcomes;
        }
        self.end_flush(&left);
    }

    /// Returns whether work remains for another turn.
    fn has_work(&self) -> bool {
        // Connections that wait for homes that are behind are no work: the shard is woken when there is room.
        self.has_input()
            || self.incoming.has_closed()
            || !self.flush.is_idle()
            || self.hub.is_dirty()
            || self.hub.has_newcomers()
            || self.hub.has_answered()
            || self.hub.has_asks()
            || self.hub.is_sweeping()
            || self.hub.has_mail()
            || self.hub.may_read_on()
    }
}
