//! The output of a connection: its outbox and its backlog.

use std::mem;

use super::{
    io_state::Output,
    lag::{BacklogSize, MarkedByte},
    marks::MarkWait,
    outgoing::{length, outbox},
    own_ids,
    state::Shard,
};
use crate::{
    hub::{AudienceId, ConnectionId, Overflow, Owed, OwedLag, Piece},
    metrics::{Counter, Histogram},
    proto::State,
    sys::Io,
};

impl<I: Io> Shard<I> {
    /// Appends whole frames for this connection alone, after the shares of topics from which the connection has
    /// unsubscribed. The next flush sends the frames unless the connection is held or its socket has no room. A lost
    /// connection gets no frames. A goodbye may have to wait for marks.
    pub(super) fn append(&mut self, id: ConnectionId, frames: &[u8]) {
        let Some(connection) = self.hub.connections.get(id) else { return };
        if frames.is_empty() || connection.is_lost {
            return;
        }
        if connection.io.session.state() != State::Open {
            let is_first = connection.io.sides.is_open();
            if self.marks.append(id, frames) || is_first && self.await_marks(id, frames) {
                return;
            }
            self.leave_topics(id);
        }
        let Some(connection) = self.hub.connections.get_mut(id) else { return };
        connection.io.output.get_or_insert_default().append(frames);
        // The output of a held connection stays out of the flush until the connection is released.
        if !connection.is_held {
            self.flush.mark_dirty(connection, id);
        }
    }

    /// Sends marks after the messages of a connection that has just left the open state, and lets its goodbye, and the
    /// replies before it, wait until all marks are back. Returns whether there is a mark.
    fn await_marks(&mut self, id: ConnectionId, goodbye: &[u8]) -> bool {
        let wait = MarkWait::within(self.handlers.keep_alive(id).close_timeout);
        let awaited = if wait.homes == 0 { 0 } else { self.hub.send_marks(id) };
        if awaited > 0 {
            self.marks.begin(id, awaited, goodbye, self.now, wait);
        }
        awaited > 0
    }

    /// Ends the subscriptions of a connection that has left `Open`. Its shares up to now are appended to its backlog,
    /// before the goodbye.
    pub(super) fn leave_topics(&mut self, id: ConnectionId) {
        let owed = self.hub.leave(id);
        self.owe_behind_outbox(id, owed);
    }

    /// Appends the frames of the outbox and then `owed` to the backlog, and queues the connection for the flush.
    pub(super) fn owe_behind_outbox(&mut self, id: ConnectionId, owed: Vec<Owed>) {
        if owed.is_empty() {
            return;
        }
        self.owe_in_order(id, owed);
        // The connection has a backlog now, so `mark_dirty` puts it into `backlogs`, unless it is queued.
        if let Some(connection) = self.hub.connections.get_mut(id) {
            self.flush.mark_dirty(connection, id);
        }
    }

    /// Appends the frames in the connection's outbox to its backlog, and then `owed`. Returns the bytes of the latter.
    pub(super) fn owe_in_order(&mut self, id: ConnectionId, owed: impl IntoIterator<Item = Owed>) -> usize {
        let Some(connection) = self.hub.connections.get_mut(id) else { return 0 };
        let outbox = connection.io.output.as_mut().and_then(|output| outbox(output));
        self.owe(id, outbox, owed)
    }

    /// Appends `outbox` and then `owed` to the connection's backlog. `owed` has pieces that the socket did not take,
    /// shares of walks, or shares of topics that the connection has left. A connection with a backlog counts as a slow
    /// consumer. Returns the bytes of `owed`, with the ids that a connection adds to bodies.
    pub(super) fn owe(
        &mut self,
        id: ConnectionId,
        outbox: Option<Piece>,
        owed: impl IntoIterator<Item = Owed>,
    ) -> usize {
        let Some(connection) = self.hub.connections.get_mut(id) else { return 0 };
        let was_slow = connection.io.has_backlog();
        let backlog = &mut connection.io.output.get_or_insert_default().backlog;
        let before = backlog.messages();
        let (mut bytes, mut lost, mut missed, mut has_lag) = (0, 0, 0, false);
        outbox.into_iter().for_each(|outbox| backlog.push(outbox, None));
        for mut owed in owed {
            own_ids::stamp(&mut connection.io.session, &mut owed);
            let Owed { topic, lag, pieces, slow, tickets } = owed;
            if let Some(lag) = lag {
                *(if lag.lag.policy == Overflow::Replay { &mut missed } else { &mut lost }) += lag.lag.count;
                has_lag = true;
                backlog.owe_lag(lag, slow);
            }
            backlog.await_receipts(tickets);
            bytes += length(&pieces);
            pieces.into_iter().for_each(|piece| backlog.owe(piece, &topic, slow));
        }
        let messages = backlog.messages() - before;
        let is_slow = !backlog.is_empty();
        self.count(Counter::Deliveries, messages);
        self.count_slow(was_slow, is_slow);
        self.measure_backlog(id);
        if has_lag {
            self.count(Counter::DroppedByInterval, lost);
            self.count(Counter::MissedInHistory, missed);
            self.note_told(id);
            if let Some(connection) = self.hub.connections.get_mut(id) {
                // The handler may have been told of a lag, and nothing more is owed.
                connection.io.drop_empty_output();
            }
        }
        bytes
    }

    /// Notes the lags whose notices the socket has taken, so that the handler is told.
    pub(super) fn note_told(&mut self, id: ConnectionId) {
        let Some(connection) = self.hub.connections.get_mut(id) else { return };
        let Some(output) = &mut connection.io.output else { return };
        let told = output.backlog.take_told();
        self.flush.told.extend(told.into_iter().map(|lag| (id, lag)));
    }

    /// Notes the lag that the connection was told of with its share of a walk, so that the handler is told.
    pub(super) fn note_lag(&mut self, id: ConnectionId, walk: AudienceId) {
        if let Some(OwedLag { lag, .. }) = self.hub.lag_of_walk(walk, id.slot()) {
            self.count(Counter::DroppedByInterval, lag.count);
            self.flush.told.push((id, lag));
        }
    }

    /// Measures a backlog that has changed: its size for the gauges, and the wait of a byte if none is measured.
    pub(super) fn measure_backlog(&mut self, id: ConnectionId) {
        let now = self.hub.now();
        let Some(connection) = self.hub.connections.get_mut(id) else { return };
        let Some(output) = &mut connection.io.output else { return };
        let before = mem::replace(&mut output.counted, BacklogSize::of(&output.backlog));
        self.backlogs.replace(before, output.counted);
        match (before == BacklogSize::default(), output.backlog.is_empty()) {
            (true, false) => _ = self.laggards.insert(id),
            (false, true) => _ = self.laggards.remove(&id),
            (true, true) | (false, false) => {}
        }
        output.marked = output.marked.or_else(|| MarkedByte::last_of(&output.backlog, now));
    }

    /// Counts the wait of a byte of a backlog. The byte was sent, or its connection has ended.
    pub(super) fn count_age(&self, marked: Option<MarkedByte>) {
        if let Some(marked) = marked {
            self.counters.count_time(Histogram::BacklogAge, marked.waited(self.hub.now()));
        }
    }

    /// Takes the output of a connection that has ended, or is dropped, out of the measures of backlogs.
    pub(super) fn forget_output(&mut self, id: ConnectionId, output: Option<&Output>) {
        if let Some(output) = output {
            self.laggards.remove(&id);
            self.backlogs.replace(output.counted, BacklogSize::default());
            self.count_age(output.marked);
        }
    }

    /// Updates the count of slow consumers after a connection's backlog may have appeared or gone.
    pub(super) fn count_slow(&mut self, was_slow: bool, is_slow: bool) {
        match (was_slow, is_slow) {
            (false, true) => self.count(Counter::SlowConsumers, 1),
            (true, false) => {
                let others = self.counters.get(Counter::SlowConsumers).checked_sub(1);
                self.counters.set(Counter::SlowConsumers, others.expect("a slow consumer has been counted"));
            }
            (false, false) | (true, true) => {}
        }
    }

    /// Ends the holding of a connection whose subscriptions can all go live, so that its output may leave.
    /// [`Shard::report_joined`] must follow when no handler is being called.
    pub(super) fn release(&mut self, id: ConnectionId) {
        if self.hub.release(id, &mut self.joined)
            && let Some(connection) = self.hub.connections.get_mut(id)
        {
            self.flush.mark_dirty(connection, id);
            self.note_opened(id);
        }
    }

    /// Counts the time of an opening handshake whose answer may leave now.
    pub(super) fn note_opened(&mut self, id: ConnectionId) {
        if !self.opening.is_empty()
            && let Some(begun) = self.opening.remove(&id)
        {
            self.counters.count_time(Histogram::Handshake, begun.elapsed());
        }
    }
}
