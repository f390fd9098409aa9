//! Shedding: backlogs drop messages by the policies of their topics, and get the notices of lags.

use super::{io_state::Output, lag::MarkedByte, state::Shard};
use crate::{
    hub::{Backlog, ConnectionId, Dropped, OutputLimits, Shedding},
    metrics::Counter,
    sys::Io,
};

impl<I: Io> Shard<I> {
    /// Returns the limits of every connection's output.
    pub(super) fn output_limits(&self) -> OutputLimits {
        OutputLimits {
            bytes_max: self.limits.backlog_bytes_max,
            messages_max: self.limits.backlog_messages_max,
            age_max_ms: None,
        }
    }

    /// Drops messages of a connection's backlog by the policies of their topics. Returns whether the output is still
    /// beyond a limit.
    pub(super) fn shed(&mut self, id: ConnectionId) -> bool {
        let (limits, now) = (self.output_limits(), self.hub.now());
        let Some(connection) = self.hub.connections.get_mut(id) else { return false };
        let Some(output) = &mut connection.io.output else { return false };
        let outbox_bytes = output.outbox.capacity();
        let shed =
            with_mark(output, |backlog, mark| backlog.shed(&mut Shedding { outbox_bytes, limits: &limits, now, mark }));
        self.count_dropped(shed.dropped);
        shed.replayed.iter().for_each(|(topic, first)| self.hub.replay(id, topic, *first));
        self.measure_backlog(id);
        self.unpark(id);
        shed.is_beyond
    }

    /// Prepares a backlog for being offered to its socket, which has room: drops what should not be sent any more, and
    /// encodes the notices of lags. Returns whether the backlog still has bytes.
    pub(super) fn prepare_backlog(&mut self, id: ConnectionId) -> bool {
        let Some(connection) = self.hub.connections.get(id) else { return false };
        if !connection.io.output.as_ref().is_some_and(|output| output.backlog.has_tagged()) {
            return connection.io.has_backlog();
        }
        let (encode, now) = (self.hub.lag_encoding(connection.io.format), self.hub.now());
        let window = self.pace.backlog_bytes;
        let Some(connection) = self.hub.connections.get_mut(id) else { return false };
        let Some(output) = &mut connection.io.output else { return false };
        let dropped = with_mark(output, |backlog, mark| backlog.prepare(encode, window, now, mark));
        let has_bytes = !output.backlog.is_empty();
        self.count_dropped(dropped);
        self.note_told(id);
        has_bytes
    }

    fn count_dropped(&self, Dropped { oldest, newest, outdated, replayed }: Dropped) {
        self.count(Counter::DroppedOldest, oldest);
        self.count(Counter::DroppedNewest, newest);
        self.count(Counter::DroppedOutdated, outdated);
        self.count(Counter::Replayed, replayed);
    }
}

/// Lets `work` change a backlog, with the number of bytes up to the byte whose wait is measured.
fn with_mark<R>(output: &mut Output, work: impl FnOnce(&mut Backlog, &mut usize) -> R) -> R {
    let mut mark = output.marked.map_or(0, |marked| marked.ahead);
    let result = work(&mut output.backlog, &mut mark);
    output.marked = output.marked.filter(|_| mark > 0).map(|marked| MarkedByte { ahead: mark, ..marked });
    result
}
