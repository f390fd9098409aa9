//! The flush: what a turn has made due leaves, at most one entry for each connection in a batch.
//!
//! The plain version: for each topic with a run, for each of its subscribers, send the run. What is added:
//!
//! - **One entry.** What a connection is owed alone (outbox) and with others (its share of a run) leaves as one entry,
//!   the outbox first. Two entries for one socket in a batch would let the second follow a gap if the first is short.
//!   The later shares of a connection that is in several walks of a batch go behind the first, into its [`BatchEntry`];
//!   if that is full, the batch ends before the share.
//! - **Laggards step aside.** A socket that does not take everything gets a backlog; from then on everything for it is
//!   appended there, until its room is reported and the backlog has been sent. Nobody waits for it.
//! - **Chunks.** A flush stops after [`Pace::flush_entries`] entries or [`Pace::flush_bytes`] bytes, in the middle of a
//!   walk if need be, and goes on in the next turn. Until a walk ends its topic gathers into the next run.
//!
//! Each batch is planned first, which changes connections; then sent, which only borrows; then settled.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    mem,
    ops::Range,
};

use super::{
    io_state::{BatchEntry, Connection, Hub, Output},
    pace::Pace,
    turn::{Shard, key},
};
use crate::{
    hub::{ConnectionId, Piece, Share, TopicId, TopicName, bounded},
    metrics::Counter,
    proto::{CloseCode, State, Tick},
    sys::{Io, Refused, Send},
};

/// What is on its way out.
#[derive(Debug, Default)]
pub(super) struct Flush {
    /// Topics whose walk is under way.
    walks: VecDeque<TopicId>,
    /// Connections with something in their outbox, or with a backlog and room for it.
    dirty: VecDeque<ConnectionId>,
    /// Connections that were refused though there was room: the kernel is short of memory. They wait for the tick after
    /// this one before their room is awaited again, which is there already.
    paused: Vec<ConnectionId>,
    /// When the first of them was refused.
    paused_at: Tick,
    /// The next flush begins with `dirty`: the last one began with walks and left some of `dirty` waiting.
    dirty_first: bool,
    /// The number of the batch being planned; the first is 1.
    batch: u64,
    /// Scratch, empty between batches.
    plan: Vec<Planned>,
    refused: Vec<Refused>,
    /// When a slow consumer was last named, and how many were not since.
    slow_named: Option<Tick>,
    slow_unnamed: u64,
}

/// One entry of a batch.
#[derive(Debug)]
struct Planned {
    id: ConnectionId,
    what: What,
    /// Its length.
    bytes: usize,
}

/// What is left of a flush's portion.
#[derive(Debug)]
struct Left {
    entries: usize,
    bytes: usize,
}

#[derive(Debug)]
enum What {
    /// All that the topic's walk hands out.
    Run(TopicId),
    /// Its outbox if there is one, and its share of what the topic's walk hands out.
    Pieces { outbox: Option<Piece>, share: Vec<Piece>, topic: Option<TopicId> },
    /// Its shares of several walks, each one of the two above.
    Several(Vec<What>),
    /// The front of its backlog.
    Backlog,
}

impl Flush {
    /// Notes that the connection has something to be sent.
    pub(super) fn mark_dirty(&mut self, connection: &mut Connection, id: ConnectionId) {
        if !connection.io.is_dirty {
            connection.io.is_dirty = true;
            self.dirty.push_back(id);
        }
    }

    /// When those who were refused in spite of room are to try again.
    pub(super) fn next_try(&self) -> Option<Tick> {
        (!self.paused.is_empty()).then(|| self.paused_at.after(1))
    }

    fn pause(&mut self, id: ConnectionId, now: Tick) {
        // Nobody waits longer for those who come after it.
        if self.paused.is_empty() {
            self.paused_at = now;
        }
        self.paused.push(id);
    }

    /// Returns whether a topic's walk is under way.
    pub(super) fn has_walks(&self) -> bool {
        !self.walks.is_empty()
    }

    /// Is nothing left to be sent?
    pub(super) fn is_idle(&self) -> bool {
        self.walks.is_empty() && self.dirty.is_empty()
    }

    /// Plans a share of a connection that may be in several walks of the batch: in the entry that it has already, or in
    /// one of its own, which its mark names from then on. Returns whether there was room.
    fn plan_share(&mut self, mark: &mut BatchEntry, (pieces, entry_pieces): (usize, usize), planned: Planned) -> bool {
        if mark.batch != self.batch {
            *mark = BatchEntry { batch: self.batch, index: self.plan.len() as u32, pieces: pieces as u32 };
            self.plan.push(planned);
            return true;
        }
        if mark.pieces as usize + pieces > entry_pieces {
            return false;
        }
        mark.pieces += pieces as u32;
        let entry = &mut self.plan[mark.index as usize];
        entry.bytes += planned.bytes;
        match &mut entry.what {
            What::Several(shares) => shares.push(planned.what),
            first => {
                let first_share = mem::replace(first, What::Backlog);
                *first = What::Several(vec![first_share, planned.what]);
            }
        }
        true
    }
}

impl Left {
    fn is_used_up(&self) -> bool {
        self.entries == 0 || self.bytes == 0
    }

    /// Takes an entry of so many bytes. The last one may have more than are left.
    fn take(&mut self, bytes: usize) {
        self.entries -= 1;
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

impl What {
    /// The pieces of one share.
    fn pieces<'a>(&'a self, hub: &'a Hub) -> impl Iterator<Item = &'a Piece> {
        let (outbox, share) = match self {
            What::Run(topic) => (&None, hub.run(*topic).pieces()),
            What::Pieces { outbox, share, .. } => (outbox, &share[..]),
            What::Several(_) | What::Backlog => (&None, &[][..]),
        };
        outbox.iter().chain(share)
    }
}

impl<I: Io> Shard<I> {
    /// Sends what is due, until [`Pace::flush_entries`] or [`Pace::flush_bytes`] are used up.
    pub(super) fn flush(&mut self) {
        self.hub.begin_walks(&mut self.flush.walks);
        let dirty_first = self.flush.dirty_first;
        let Pace { flush_entries, flush_bytes, .. } = self.pace;
        let mut left = Left { entries: flush_entries, bytes: flush_bytes };
        while !left.is_used_up() && !self.flush.is_idle() {
            let ended = self.plan_batch(&mut left);
            self.send_batch();
            self.flush.walks.drain(..ended).for_each(|topic| self.hub.end_walk(topic));
            // Topics take turns: a large one does not keep the others waiting for all of its subscribers.
            if !self.flush.walks.is_empty() {
                self.flush.walks.rotate_left(1);
            }
        }
        // By turns: one batch of them may use up a flush, and some of them may always be left.
        self.flush.dirty_first = !dirty_first && !self.flush.dirty.is_empty();
    }

    /// Plans a batch: visits up to [`Pace::send_batch`] connections and plans up to [`Pace::batch_bytes`], as long as
    /// something is left of the flush's portion. Returns how many walks, from the front, end with it.
    ///
    /// Walks come first, since who is in one leaves with its outbox and its share in one entry. But those whom the last
    /// flush left waiting go before all walks: there may always be a walk.
    fn plan_batch(&mut self, left: &mut Left) -> usize {
        let entries_after = left.entries.saturating_sub(self.pace.send_batch);
        let bytes_after = left.bytes.saturating_sub(self.pace.batch_bytes);
        let is_full = |left: &Left| left.entries == entries_after || left.bytes <= bytes_after;
        let mut ended = 0;
        self.flush.batch += 1;
        if !mem::take(&mut self.flush.dirty_first) {
            while let Some(&topic) = self.flush.walks.get(ended) {
                if is_full(left) {
                    return ended;
                }
                let Some(slot) = self.hub.next_member(topic) else {
                    ended += 1;
                    continue;
                };
                let Some(bytes) = self.plan_member(slot, topic) else {
                    // It will be the first share of the next batch.
                    self.hub.step_back(topic);
                    return ended;
                };
                left.take(bytes);
            }
        }
        while !is_full(left)
            && let Some(id) = self.flush.dirty.pop_front()
        {
            let bytes = self.plan_dirty(id);
            left.take(bytes);
        }
        ended
    }

    /// Plans what a subscriber is owed by a topic's walk, behind what waits in its outbox. Returns how many bytes it is
    /// handed, to its socket or to its backlog; `None` if there was no room in the connection's entry of this batch.
    fn plan_member(&mut self, slot: u32, topic: TopicId) -> Option<usize> {
        let Some(id) = self.hub.connections.id_at(slot) else { return Some(0) };
        let run = self.hub.run(topic);
        let share = run.share(slot);
        let (mut pieces, mut bytes) = (run.pieces().len(), run.bytes());
        let Some(connection) = self.hub.connections.get_mut(id) else { return Some(0) };
        let what = match (&mut connection.io.output, share) {
            (None, Share::Whole) => What::Run(topic),
            (None, Share::Part(share)) => {
                What::Pieces { outbox: None, share: bounded(share, PIECES_MAX - 1), topic: Some(topic) }
            }
            (None, Share::Nothing) => return Some(0),
            (Some(output), _) if !output.backlog.is_empty() => {
                let owed = self.hub.owed_by_walk(topic, slot);
                // Much of it may have to be copied.
                let bytes = length(&owed);
                self.owe(id, owed);
                self.check_backlog(id);
                return Some(bytes);
            }
            (Some(output), share) => {
                let outbox = outbox(output);
                connection.io.output = None;
                self.handlers.notice_emptied(id);
                let share = match share {
                    Share::Whole => self.hub.run(topic).pieces().to_vec(),
                    Share::Part(share) => bounded(share, PIECES_MAX - 1),
                    Share::Nothing => Vec::new(),
                };
                if outbox.is_none() && share.is_empty() {
                    return Some(0);
                }
                What::Pieces { outbox, share, topic: Some(topic) }
            }
        };
        if let What::Pieces { outbox, share, .. } = &what {
            pieces = share.len() + usize::from(outbox.is_some());
            bytes = length(outbox.iter().chain(share));
        }
        let Some(connection) = self.hub.connections.get_mut(id) else { return Some(0) };
        let planned = Planned { id, what, bytes };
        if let Some(mark) = connection.mark() {
            return self.flush.plan_share(mark, (pieces, self.pace.entry_pieces), planned).then_some(bytes);
        }
        self.flush.plan.push(planned);
        Some(bytes)
    }

    /// Plans what waits for one connection alone: its backlog if there is room, or its outbox. Returns how many bytes
    /// of it.
    fn plan_dirty(&mut self, id: ConnectionId) -> usize {
        let Some(connection) = self.hub.connections.get_mut(id) else { return 0 };
        connection.io.is_dirty = false;
        if connection.websocket.state() == State::Closed && self.close_waits(id).is_some() {
            return 0;
        }
        let Some(connection) = self.hub.connections.get_mut(id) else { return 0 };
        let Some(output) = &mut connection.io.output else { return 0 };
        if output.backlog.is_empty() {
            let outbox = outbox(output);
            connection.io.output = None;
            self.handlers.notice_emptied(id);
            let bytes = length(&outbox);
            if outbox.is_some() {
                let what = What::Pieces { outbox, share: Vec::new(), topic: None };
                self.flush.plan.push(Planned { id, what, bytes });
            }
            return bytes;
        }
        if connection.io.awaits_room {
            // Its outbox stays together until there is room, and counts.
            self.check_backlog(id);
            return 0;
        }
        if let Some(outbox) = outbox(output) {
            output.backlog.push(outbox);
        }
        let bytes = output.backlog.unsent(self.pace.backlog_pieces).map(<[u8]>::len).sum();
        self.flush.plan.push(Planned { id, what: What::Backlog, bytes });
        bytes
    }

    /// The connection has left the open state: what it is owed up to now goes before its close frame, nothing after.
    pub(super) fn leave_topics(&mut self, id: ConnectionId) {
        let owed = self.hub.leave(id);
        self.owe_behind_outbox(id, owed);
    }

    /// Ends a subscription: what was gathered for it before goes to the connection, nothing after.
    pub(crate) fn unsubscribe(&mut self, id: ConnectionId, topic: &TopicName) {
        let owed = self.hub.unsubscribe(id, topic);
        // It has gone live just now: nobody is told any more.
        self.joined.retain(|joined| joined.id != id || joined.topic != *topic);
        if !owed.is_empty() {
            self.owe_behind_outbox(id, owed);
            self.check_backlog(id);
        }
        self.release(id);
    }

    /// Appends to the connection's backlog, behind what waits in its outbox.
    fn owe_behind_outbox(&mut self, id: ConnectionId, owed: Vec<Piece>) {
        if owed.is_empty() {
            return;
        }
        let Some(connection) = self.hub.connections.get_mut(id) else { return };
        self.flush.mark_dirty(connection, id);
        let outbox = connection.io.output.as_mut().and_then(|output| outbox(output));
        self.owe(id, outbox.into_iter().chain(owed));
    }

    /// Appends to the connection's backlog, which makes it a laggard if it is none.
    fn owe(&mut self, id: ConnectionId, owed: impl IntoIterator<Item = Piece>) {
        let Some(connection) = self.hub.connections.get_mut(id) else { return };
        let was_laggard = connection.io.has_backlog();
        let backlog = &mut connection.io.output.get_or_insert_default().backlog;
        let before = backlog.messages();
        owed.into_iter().for_each(|piece| backlog.push(piece));
        let messages = backlog.messages() - before;
        let is_new = !was_laggard && !backlog.is_empty();
        self.count(Counter::Deliveries, messages);
        self.count(Counter::Laggards, u64::from(is_new));
    }

    /// Hands the plan to the kernel in one call and settles what it did not take.
    fn send_batch(&mut self) {
        if self.flush.plan.is_empty() {
            return;
        }
        let plan = mem::take(&mut self.flush.plan);
        let mut refused = mem::take(&mut self.flush.refused);
        let bytes = self.send_plan(&plan, &mut refused);
        // Completions come in the order of submission as far as we know; nothing promises it.
        refused.sort_unstable_by_key(|entry| entry.index);
        let mut unsent = 0;
        let mut refusals = refused.drain(..).peekable();
        let mut deliveries = 0;
        let entries = plan.len();
        let mut plan = plan;
        for (index, Planned { id, what, bytes: offered }) in plan.drain(..).enumerate() {
            let refusal = refusals.next_if(|entry| entry.index == index).map(|entry| entry.sent);
            match (what, refusal) {
                (What::Backlog, sent) => unsent += self.settle_backlog(id, offered, sent),
                // Only an open connection is in a walk: this cannot have been its end.
                (What::Run(topic), None) => deliveries += u64::from(self.hub.run(topic).messages()),
                (What::Several(shares), None) => {
                    deliveries += shares.iter().map(|share| messages(share.pieces(&self.hub))).sum::<u64>();
                    self.unpark(id);
                }
                (what @ What::Pieces { .. }, None) => {
                    deliveries += messages(what.pieces(&self.hub));
                    self.unpark(id);
                    self.end_if_done(id);
                }
                (What::Several(shares), Some(sent)) => unsent += self.settle_refused(id, shares, offered, sent),
                (share, Some(sent)) => unsent += self.settle_refused(id, [share], offered, sent),
            }
        }
        drop(refusals);
        self.flush.plan = plan;
        self.flush.refused = refused;
        self.count(Counter::Sends, entries as u64);
        self.count(Counter::Deliveries, deliveries);
        self.count(Counter::BytesOut, (bytes - unsent) as u64);
    }

    /// Sends the planned entries and returns how many bytes they have.
    fn send_plan(&mut self, plan: &[Planned], refused: &mut Vec<Refused>) -> usize {
        let (hub, sockets) = (&self.hub, &self.sockets);
        // The pieces of all entries one behind the other; those of a walk once for recipients that follow each other.
        let mut slices: Vec<IoSlice<'_>> = Vec::with_capacity(plan.len().min(32));
        let mut ranges: Vec<Range<usize>> = Vec::with_capacity(plan.len());
        let mut last_run = None;
        let mut sum = 0;
        for Planned { id, what, bytes } in plan {
            let begin = slices.len();
            sum += bytes;
            match what {
                What::Run(topic) => {
                    let run = hub.run(*topic);
                    let range = match last_run {
                        Some((last, (begin, end))) if last == *topic => begin..end,
                        _ => {
                            slices.extend(run.pieces().iter().map(|piece| IoSlice::new(&piece.bytes)));
                            begin..slices.len()
                        }
                    };
                    last_run = Some((*topic, (range.start, range.end)));
                    ranges.push(range);
                    continue;
                }
                What::Pieces { .. } => slices.extend(what.pieces(hub).map(|piece| IoSlice::new(&piece.bytes))),
                What::Several(shares) => {
                    let pieces = shares.iter().flat_map(|share| share.pieces(hub));
                    slices.extend(pieces.map(|piece| IoSlice::new(&piece.bytes)));
                }
                What::Backlog => {
                    let output = hub.connections.get(*id).and_then(|connection| connection.io.output.as_ref());
                    let backlog = &output.expect("planned because it has a backlog").backlog;
                    slices.extend(backlog.unsent(self.pace.backlog_pieces).map(IoSlice::new));
                }
            }
            debug_assert_eq!(slices[begin..].iter().map(|slice| slice.len()).sum::<usize>(), *bytes);
            ranges.push(begin..slices.len());
        }
        let entries: Vec<Send<'_, I::Socket>> = plan
            .iter()
            .zip(ranges)
            .map(|(Planned { id, .. }, range)| {
                let socket = sockets[id.slot() as usize].as_ref().expect("a connection has a socket");
                Send { socket, pieces: &slices[range] }
            })
            .collect();
        self.io.send(&entries, refused);
        sum
    }

    /// A socket did not take everything: the connection becomes a laggard. Returns how many bytes were not sent.
    ///
    /// One run, however large, closes nobody who had kept up until then.
    fn settle_refused(
        &mut self,
        id: ConnectionId,
        shares: impl IntoIterator<Item = What>,
        offered: usize,
        sent: io::Result<usize>,
    ) -> usize {
        for share in shares {
            let (outbox, topic) = match share {
                What::Run(topic) => (None, Some(topic)),
                What::Pieces { outbox, topic, .. } => (outbox, topic),
                What::Several(_) | What::Backlog => continue,
            };
            // Not the pieces that were offered: those stand in buffers that are used again.
            let owed = topic.map(|topic| self.hub.owed_by_walk(topic, id.slot())).unwrap_or_default();
            self.owe(id, outbox.into_iter().chain(owed));
        }
        self.advance(id, offered, sent)
    }

    /// The front of a backlog was offered; `None` means that all of it was taken. Returns how many bytes were not.
    fn settle_backlog(&mut self, id: ConnectionId, offered: usize, sent: Option<io::Result<usize>>) -> usize {
        let Some(connection) = self.hub.connections.get_mut(id) else { return 0 };
        let Some(output) = &mut connection.io.output else { return 0 };
        if let Some(sent) = sent {
            return self.advance(id, offered, sent);
        }
        output.advance(offered);
        if output.backlog.is_empty() {
            connection.io.drop_empty_output();
            self.handlers.notice_emptied(id);
            self.counters.set(Counter::Laggards, self.counters.get(Counter::Laggards) - 1);
            self.unpark(id);
            self.end_if_done(id);
        } else {
            output.found_room = false;
            self.flush.mark_dirty(connection, id);
            self.unpark(id);
        }
        0
    }

    /// So many bytes were offered of a backlog and not all were taken: the rest waits for room. Returns how many.
    fn advance(&mut self, id: ConnectionId, offered: usize, sent: io::Result<usize>) -> usize {
        let sent = match taken(sent) {
            Ok(sent) => sent,
            Err(error) => {
                self.lose(id, &error);
                return offered;
            }
        };
        self.count(Counter::ShortSends, 1);
        let Some(connection) = self.hub.connections.get_mut(id) else { return offered };
        let mut found_room = false;
        if let Some(output) = &mut connection.io.output {
            output.advance(sent);
            output.backlog.refuse();
            found_room = mem::take(&mut output.found_room);
        }
        connection.io.awaits_room = true;
        if found_room && sent == 0 {
            // Room would be reported at once, turn after turn.
            self.flush.pause(id, self.now);
        } else if let Some(socket) = &self.sockets[id.slot() as usize] {
            self.io.await_room(key(id), socket);
        }
        self.unpark(id);
        offered - sent
    }

    /// Awaits room for those who were refused in spite of it, a tick later.
    pub(super) fn resume_paused(&mut self) {
        if self.flush.next_try().is_none_or(|tick| self.now < tick) {
            return;
        }
        for id in mem::take(&mut self.flush.paused) {
            let still_waits = |connection: &&Connection| connection.io.awaits_room;
            if self.hub.connections.get(id).filter(still_waits).is_some()
                && let Some(socket) = &self.sockets[id.slot() as usize]
            {
                self.io.await_room(key(id), socket);
            }
        }
    }

    /// A laggard that is owed too much is told so and closed; what it has not begun to receive is given up.
    pub(super) fn check_backlog(&mut self, id: ConnectionId) {
        let Some(connection) = self.hub.connections.get_mut(id) else { return };
        // What a connection that is closing is owed grows no more, and its close frame is in it.
        if connection.websocket.state() != State::Open {
            return;
        }
        let Some(output) = &mut connection.io.output else { return };
        let is_within = output.has_room_for(0, self.limits.backlog_bytes_max)
            && output.backlog.messages() <= self.limits.backlog_messages_max;
        if is_within || !(output.backlog.was_refused() || connection.is_held) {
            return;
        }
        self.close_slow(id);
    }

    /// Closes an open connection that does not take what it is sent; what it has not begun to receive is given up.
    pub(super) fn close_slow(&mut self, id: ConnectionId) {
        let Some(connection) = self.hub.connections.get_mut(id) else { return };
        let Some(output) = &mut connection.io.output else { return };
        let (bytes, messages) = (output.bytes(), output.backlog.messages());
        let mut dropped = output.backlog.truncate();
        if !output.backlog.is_empty() {
            // Without a backlog the opening answer may be in it.
            output.outbox = Vec::new();
        }
        connection.websocket.close(self.now, CloseCode::POLICY_VIOLATION, "slow consumer", &mut output.outbox);
        let ahead = self.hub.leave(id);
        dropped += ahead.iter().map(|piece| u64::from(piece.messages)).sum::<u64>();
        let peer = self.peer(id);
        // They come in crowds: one in a while stands for all.
        let others = self.flush.slow_unnamed;
        if self.flush.slow_named.is_none_or(|named| self.now.since(named) >= SLOW_SILENCE) {
            (self.flush.slow_named, self.flush.slow_unnamed) = (Some(self.now), 0);
            tracing::info!(%id, peer, bytes, messages, others, "slow consumer: its backlog went beyond the limit");
        } else {
            self.flush.slow_unnamed += 1;
            tracing::debug!(%id, peer, bytes, messages, "slow consumer: its backlog went beyond the limit");
        }
        self.count(Counter::SlowClosed, 1);
        self.count(Counter::SlowDropped, dropped);
        self.notice_close(id);
    }
}

/// Takes what waits in an outbox.
fn outbox(output: &mut Output) -> Option<Piece> {
    let outbox = mem::take(&mut output.outbox);
    let unused = outbox.capacity() - outbox.len();
    let piece = Piece::new(outbox.into(), 0);
    (!piece.bytes.is_empty()).then(|| Piece { charge: piece.charge + unused, ..piece })
}

fn messages<'a>(pieces: impl Iterator<Item = &'a Piece>) -> u64 {
    pieces.map(|piece| u64::from(piece.messages)).sum()
}

/// The bytes of these pieces.
fn length<'a>(pieces: impl IntoIterator<Item = &'a Piece>) -> usize {
    pieces.into_iter().map(|piece| piece.bytes.len()).sum()
}

/// How many bytes a socket took that did not take everything, or why it takes none any more.
fn taken(sent: io::Result<usize>) -> io::Result<usize> {
    match sent {
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory) => Ok(0),
        Err(error) if matches!(error.raw_os_error(), Some(ENOBUFS)) => Ok(0),
        sent => sent,
    }
}

/// An entry has one piece beside those of a share: the outbox.
const PIECES_MAX: usize = Send::<()>::PIECES_MAX;
/// Ticks after a slow consumer was named at the level of information before another is.
const SLOW_SILENCE: u32 = 10 * Tick::PER_SECOND;
const ENOBUFS: i32 = rustix::io::Errno::NOBUFS.raw_os_error();
