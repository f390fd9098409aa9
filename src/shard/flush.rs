//! The flush sends the output that is due, at most one entry for each connection in a batch.
//!
//! The plain version: for each audience with a run, for each of its members, send the run. Three things are added:
//!
//! - **One entry.** A connection's own frames (outbox) and its share of a run leave as one entry, the outbox first. Two
//!   entries for one socket in a batch would let the second follow a gap if the first is short. A connection that is in
//!   several walks gets its shares of the other walks after its share of the first walk, see [`super::several`].
//! - **Slow consumers step aside.** A connection whose socket does not take everything gets a backlog. Until the
//!   backlog has been sent, the connection's shares are appended to it, and its own frames wait in the outbox. The
//!   outbox is appended before the next share, or when room is reported. No other connection waits for a slow consumer.
//! - **Chunks.** A flush stops after [`Pace::flush_entries`] entries or [`Pace::flush_bytes`] bytes, in the middle of a
//!   walk if need be, and goes on in the next turn. Until a walk ends, its audience gathers into the next run.
//!
//! A batch is planned, then sent, then settled. Planning and settling change connections; sending only borrows them.

use std::{
    io::{self, IoSlice},
    mem,
    ops::Range,
    slice,
};

use super::{
    io_state::Room,
    outgoing::{Contents, Left, Outcome, Planned, Portion, length, outbox},
    pace::Pace,
    state::{Shard, key},
};
use crate::{
    hub::{AudienceId, ConnectionId},
    metrics::Counter,
    proto::State,
    sys::{Io, SendEntry, Unsent},
};

impl<I: Io> Shard<I> {
    /// Begins a flush, and returns its portion: [`Pace::flush_entries`] and [`Pace::flush_bytes`].
    pub(super) fn begin_flush(&mut self) -> Left {
        self.hub.take_due(&mut self.flush.walks);
        self.flush.began_with_dirty = self.flush.dirty_first;
        let Pace { flush_entries, flush_bytes, .. } = self.pace;
        Left { entries: flush_entries, bytes: flush_bytes, walked: 0 }
    }

    /// Sends a batch. Returns whether there was something to send and something left of the portion; the outcomes of
    /// the batch stand in [`Flush::outcomes`](super::outgoing::Flush::outcomes).
    pub(super) fn flush_batch(&mut self, left: &mut Left) -> bool {
        if left.is_used_up() || self.flush.is_idle() {
            return false;
        }
        assert!(self.flush.plan.is_empty(), "a batch is settled before the next is planned");
        let bytes_before = left.bytes;
        let ended = self.plan_batch(left);
        self.send_batch();
        for audience in self.flush.walks.drain(..ended) {
            self.walk_samples.note_end(&self.hub, audience, &self.counters);
            self.hub.end_walk(audience);
        }
        // Audiences take turns: a large one does not keep the others waiting for all of its subscribers.
        let portion = self.pace.walk_portion(self.flush.walks.len());
        if self.flush.visits + self.pace.send_batch > portion || bytes_before - left.bytes >= self.pace.batch_bytes {
            self.flush.give_way();
        }
        true
    }

    /// Ends a flush. If the flush began with walks and has left outboxes or backlogs waiting, the next flush begins
    /// with those.
    pub(super) fn end_flush(&mut self, left: &Left) {
        self.flush.last_walked = left.walked;
        self.flush.dirty_first = !self.flush.began_with_dirty && self.flush.has_dirty();
    }

    /// Plans a batch: visits up to [`Pace::send_batch`] connections and plans up to [`Shard::batch_bytes`], as long as
    /// something is left of the flush's portion. Returns how many walks, from the front, end with this batch.
    ///
    /// Walks come first, since the outbox of a member leaves in one entry with its share. The first batch of a flush
    /// with `dirty_first` has no walks: they may never run out, and outboxes and backlogs would wait for ever.
    fn plan_batch(&mut self, left: &mut Left) -> usize {
        let entries_after = left.entries.saturating_sub(self.pace.send_batch);
        let bytes_after = left.bytes.saturating_sub(self.batch_bytes(left));
        let is_full = |left: &Left| left.entries <= entries_after || left.bytes <= bytes_after;
        let mut ended = 0;
        self.flush.batch += 1;
        if !mem::take(&mut self.flush.dirty_first) {
            while let Some(&audience) = self.flush.walks.get(ended) {
                if is_full(left) {
                    return ended;
                }
                let Some(slot) = self.hub.next_member(audience) else {
                    ended += 1;
                    self.flush.visits = 0;
                    continue;
                };
                self.flush.visits += 1;
                if !self.plan_member(slot, audience, left) {
                    // The share will be the first of the next batch. The visit counts as an entry: its connection may
                    // have to be closed.
                    self.hub.step_back(audience);
                    left.take(0);
                    return ended;
                }
            }
        }
        // Half of the rest for each kind: backlogs use up bytes, and a crowd of outboxes uses up entries. The kinds
        // begin alternately, since a single large outbox may take more than its half.
        let half = (left.entries.midpoint(entries_after), left.bytes.midpoint(bytes_after));
        self.flush.backlogs_first = !self.flush.backlogs_first;
        while left.entries > half.0
            && left.bytes > half.1
            && let Some(id) = self.flush.first_kind().pop_front()
        {
            let bytes = self.plan_dirty(id);
            left.take(bytes);
        }
        while !is_full(left)
            && let Some(id) = self.flush.pop_dirty()
        {
            let bytes = self.plan_dirty(id);
            left.take(bytes);
        }
        ended
    }

    /// Returns the bytes after which a batch ends: [`Pace::batch_bytes`] if other output waits for the next batch. If
    /// one walk has all output that is due, only the flush's portion ends the batch: several system calls for the same
    /// sends would cost a tenth more.
    fn batch_bytes(&self, left: &Left) -> usize {
        if self.flush.walks.len() == 1 && !self.flush.has_dirty() { left.bytes } else { self.pace.batch_bytes }
    }

    /// Plans a walk's visit to a member. Returns whether this batch had room for the member's share.
    fn plan_member(&mut self, slot: u32, audience: AudienceId, left: &mut Left) -> bool {
        let Some(id) = self.hub.connections.id_at(slot) else { return true };
        let Some(connection) = self.hub.connections.get(id) else { return true };
        if connection.has_several() {
            return self.plan_several(id, audience, left);
        }
        let run = self.hub.run(audience);
        let bytes = if connection.io.output.is_none() && run.is_whole(slot) {
            let bytes = run.bytes();
            self.flush.plan.push(Planned { id, contents: Contents::One(Portion::Run(audience)), bytes });
            Some(bytes)
        } else {
            self.plan_share(id, audience)
        };
        bytes.inspect(|&bytes| left.hand_out(bytes)).is_some()
    }

    /// Plans the output of one connection alone: its backlog if there is room, or its outbox. Returns how many bytes
    /// were planned.
    fn plan_dirty(&mut self, id: ConnectionId) -> usize {
        let Some(connection) = self.hub.connections.get_mut(id) else { return 0 };
        connection.io.is_dirty = false;
        if connection.io.session.state() == State::Closed && self.close_waits(id).is_some() {
            return 0;
        }
        let Some(connection) = self.hub.connections.get_mut(id) else { return 0 };
        let Some(output) = &mut connection.io.output else { return 0 };
        if output.backlog.is_empty() {
            let outbox = self.take_outbox(id);
            let bytes = length(&outbox);
            if outbox.is_some() {
                let contents = Contents::One(Portion::Pieces { outbox, share: Vec::new(), audience: None });
                self.flush.plan.push(Planned { id, contents, bytes });
            }
            return bytes;
        }
        if output.room == Room::Awaited {
            // The outbox waits until there is room, and counts against the limit.
            self.flush.outcomes.push(Outcome::Slow(id));
            return 0;
        }
        if let Some(outbox) = outbox(output) {
            output.backlog.push(outbox, None);
        }
        if !self.prepare_backlog(id) {
            // Everything that waited was too old.
            self.settle_emptied(id);
            return 0;
        }
        let Some(connection) = self.hub.connections.get_mut(id) else { return 0 };
        let Some(output) = &mut connection.io.output else { return 0 };
        let bytes = output.backlog.unsent(self.pace.backlog_pieces, self.pace.backlog_bytes).map(<[u8]>::len).sum();
        self.flush.plan.push(Planned { id, contents: Contents::Backlog, bytes });
        self.measure_backlog(id);
        bytes
    }

    /// Hands the plan to the kernel in one call, and settles each entry by how much its socket has taken.
    fn send_batch(&mut self) {
        if self.flush.plan.is_empty() {
            return;
        }
        let plan = mem::take(&mut self.flush.plan);
        let mut refused = mem::take(&mut self.flush.refused);
        let bytes = self.send_plan(&plan, &mut refused);
        // Completions have always come in the order of submission, but nothing promises that order.
        refused.sort_unstable_by_key(|entry| entry.index);
        let mut unsent = 0;
        let mut refusals = refused.drain(..).peekable();
        let mut deliveries = 0;
        // Neighbours have the same run, and the same number of messages.
        let mut last_run = None;
        let entries = plan.len();
        let mut plan = plan;
        for (index, planned) in plan.drain(..).enumerate() {
            let refusal = refusals.next_if(|entry| entry.index == index).map(|entry| entry.sent);
            // The connection's end cannot be due: a connection in a walk is open, or its goodbye waits for marks.
            if let (Contents::One(Portion::Run(audience)), None) = (&planned.contents, &refusal) {
                let messages = match last_run {
                    Some((last, messages)) if last == *audience => messages,
                    _ => u64::from(self.hub.run(*audience).messages()),
                };
                last_run = Some((*audience, messages));
                deliveries += messages;
                // The entry owns no memory: a drop would be a call for nothing.
                mem::forget(planned);
                continue;
            }
            let Planned { id, contents, bytes: offered } = planned;
            match (contents, refusal) {
                (Contents::Backlog, sent) => unsent += self.settle_backlog(id, offered, sent),
                (Contents::One(portion), None) => {
                    deliveries += portion.messages(&self.hub);
                    self.note_lags(id, slice::from_ref(&portion));
                    self.settle_all(id);
                }
                (Contents::Several(portions), None) => {
                    deliveries += portions.iter().map(|portion| portion.messages(&self.hub)).sum::<u64>();
                    self.note_lags(id, &portions);
                    self.unpark(id);
                }
                (Contents::One(portion), Some(sent)) => unsent += self.settle_refused(id, [portion], offered, sent),
                (Contents::Several(portions), Some(sent)) => unsent += self.settle_refused(id, portions, offered, sent),
            }
        }
        assert!(refusals.next().is_none(), "each refusal is of one entry of the batch");
        drop(refusals);
        self.flush.plan = plan;
        self.flush.refused = refused;
        self.count(Counter::Sends, entries as u64);
        self.count(Counter::Deliveries, deliveries);
        self.count(Counter::BytesOut, (bytes - unsent) as u64);
    }

    /// Sends the planned entries and returns how many bytes they have.
    fn send_plan(&mut self, plan: &[Planned], refused: &mut Vec<Unsent>) -> usize {
        let (hub, sockets) = (&self.hub, &self.sockets);
        // The pieces of all entries in order. Entries of the same run, or of the same runs, share slices.
        let mut slices: Vec<IoSlice<'_>> = Vec::with_capacity(plan.len().min(32));
        let mut ranges: Vec<Range<usize>> = Vec::with_capacity(plan.len());
        let mut last_run = None;
        let mut last_runs: Option<(&[Portion], Range<usize>)> = None;
        let mut sum = 0;
        for Planned { id, contents, bytes } in plan {
            let begin = slices.len();
            sum += bytes;
            match contents {
                Contents::One(Portion::Run(audience)) => {
                    let range = match last_run {
                        Some((last, (begin, end))) if last == *audience => begin..end,
                        _ => {
                            slices.extend(hub.run(*audience).pieces().iter().map(|piece| IoSlice::new(&piece.bytes)));
                            begin..slices.len()
                        }
                    };
                    last_run = Some((*audience, (range.start, range.end)));
                    ranges.push(range);
                    continue;
                }
                Contents::One(portion) => slices.extend(portion.pieces(hub).map(|piece| IoSlice::new(&piece.bytes))),
                Contents::Several(portions) => {
                    if let Some((last, range)) = &last_runs
                        && Portion::are_same_runs(last, portions)
                    {
                        ranges.push(range.clone());
                        continue;
                    }
                    let pieces = portions.iter().flat_map(|portion| portion.pieces(hub));
                    slices.extend(pieces.map(|piece| IoSlice::new(&piece.bytes)));
                    last_runs = Some((portions, begin..slices.len()));
                }
                Contents::Backlog => {
                    let output = hub.connections.get(*id).and_then(|connection| connection.io.output.as_ref());
                    let backlog = &output.expect("planned because it has a backlog").backlog;
                    slices.extend(backlog.unsent(self.pace.backlog_pieces, self.pace.backlog_bytes).map(IoSlice::new));
                }
            }
            debug_assert_eq!(slices[begin..].iter().map(|slice| slice.len()).sum::<usize>(), *bytes);
            ranges.push(begin..slices.len());
        }
        let entries: Vec<SendEntry<'_, I::Socket>> = plan
            .iter()
            .zip(ranges)
            .map(|(Planned { id, .. }, range)| {
                let socket = sockets[id.slot() as usize].as_ref().expect("a connection has a socket");
                SendEntry { socket, pieces: &slices[range] }
            })
            .collect();
        self.io.send(&entries, refused);
        sum
    }

    /// Moves the portions of an entry that a socket did not take whole to the backlog: the connection becomes a slow
    /// consumer. Returns how many bytes were not sent.
    ///
    /// The limit of the backlog is not checked here: one run alone never closes a connection that had kept up.
    fn settle_refused(
        &mut self,
        id: ConnectionId,
        portions: impl IntoIterator<Item = Portion>,
        offered: usize,
        sent: io::Result<usize>,
    ) -> usize {
        for portion in portions {
            let (outbox, audience) = match portion {
                Portion::Run(audience) => (None, Some(audience)),
                Portion::Pieces { outbox, audience, .. } => (outbox, audience),
            };
            // The backlog does not keep the pieces that were offered: these stand in buffers that are used again.
            let owed = audience.map(|audience| self.hub.owed_by_walk(audience, id.slot()));
            self.owe(id, outbox, owed);
        }
        self.advance(id, offered, sent)
    }

    /// Notes the lags that a connection was told of in these portions, which its socket has taken whole.
    fn note_lags(&mut self, id: ConnectionId, portions: &[Portion]) {
        for portion in portions {
            // The whole run of a walk has no lags.
            if let Portion::Pieces { audience: Some(audience), .. } = portion {
                self.note_lag(id, *audience);
            }
        }
    }

    /// Settles an entry after which the connection is owed nothing more. A connection that is closing may end with it.
    fn settle_all(&mut self, id: ConnectionId) {
        self.unpark(id);
        if self.hub.connections.get(id).is_some_and(|connection| connection.io.session.state() != State::Open) {
            self.flush.outcomes.push(Outcome::Done(id));
        }
    }

    /// Settles a connection whose backlog has become empty.
    fn settle_emptied(&mut self, id: ConnectionId) {
        self.measure_backlog(id);
        let Some(connection) = self.hub.connections.get_mut(id) else { return };
        connection.io.drop_empty_output();
        self.handlers.notice_emptied(id);
        self.count_slow(true, false);
        self.settle_all(id);
        self.note_room_for_history(id);
    }

    /// Settles an entry with the front of a backlog; `None` means that the socket took all of it. Returns how many
    /// bytes it did not take.
    fn settle_backlog(&mut self, id: ConnectionId, offered: usize, sent: Option<io::Result<usize>>) -> usize {
        let Some(connection) = self.hub.connections.get_mut(id) else { return 0 };
        let Some(output) = &mut connection.io.output else { return 0 };
        if let Some(sent) = sent {
            return self.advance(id, offered, sent);
        }
        let sent = output.advance(offered);
        self.count_age(sent);
        self.measure_backlog(id);
        self.note_told(id);
        let Some(connection) = self.hub.connections.get_mut(id) else { return 0 };
        let Some(output) = &mut connection.io.output else { return 0 };
        if output.backlog.is_empty() {
            self.settle_emptied(id);
        } else {
            output.room = Room::Unknown;
            if connection.io.session.adds_positions() {
                // The shares of other connections are in no backlog as long as their sockets take them. This backlog
                // grows by more than a flush offers, so its limits count from here on.
                output.backlog.refuse();
            }
            self.flush.mark_dirty(connection, id);
            self.unpark(id);
        }
        0
    }

    /// Waits for room for the rest of a backlog, of which `offered` bytes were offered and not all taken. Returns how
    /// many of the offered bytes were not taken.
    fn advance(&mut self, id: ConnectionId, offered: usize, sent: io::Result<usize>) -> usize {
        let sent = match Unsent::taken(sent) {
            Ok(sent) => sent,
            Err(error) => {
                self.flush.outcomes.push(Outcome::Lost(id, error));
                return offered;
            }
        };
        self.count(Counter::ShortSends, 1);
        let Some(connection) = self.hub.connections.get_mut(id) else { return offered };
        let output = connection.io.output.as_mut().expect("the bytes that a socket refuses are in the backlog");
        let marked = output.advance(sent);
        output.backlog.refuse();
        let room = mem::replace(&mut output.room, Room::Awaited);
        if room == Room::Found && sent == 0 {
            // Room would be reported immediately, turn after turn.
            self.flush.pause(id, self.now);
        } else if let Some(socket) = &self.sockets[id.slot() as usize] {
            self.io.await_room(key(id), socket);
        }
        self.count_age(marked);
        self.measure_backlog(id);
        self.note_told(id);
        self.unpark(id);
        offered - sent
    }

    /// Tries again, a tick later, the sockets that had reported room and took nothing: first the bytes that their
    /// transports keep, then the backlogs.
    pub(super) fn resume_paused(&mut self) {
        if self.flush.next_try().is_none_or(|tick| self.now < tick) {
            return;
        }
        for id in mem::take(&mut self.flush.paused) {
            let Some(connection) = self.hub.connections.get_mut(id) else { continue };
            if let Some(socket) = &self.sockets[id.slot() as usize] {
                self.io.retry(socket);
            }
            if !connection.io.awaits_room() {
                continue;
            }
            if let Some(output) = &mut connection.io.output {
                output.room = Room::Unknown;
            }
            self.flush.mark_dirty(connection, id);
        }
    }
}
