//! The flush: what a turn has made due leaves, at most one entry for each connection in a batch.
//!
//! The plain version: for each topic with a run, for each of its subscribers, send the run. What is added:
//!
//! - **One door.** What a connection is owed alone (outbox) and with others (its share of a run) leaves as one entry,
//!   the outbox first. Two entries for one socket in a batch would let the second follow a gap if the first is short.
//! - **Laggards step aside.** A socket that does not take everything gets a backlog; from then on everything for it is
//!   appended there, until its room is reported and the backlog has been sent. Nobody waits for it.
//! - **Chunks.** A flush stops after [`Pace::flush_entries`] entries, in the middle of a walk if need be, and goes on in the
//!   next turn. Until a walk ends its topic gathers into the next run.
//!
//! Each batch is planned first, which changes connections; then sent, which only borrows; then settled.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    mem,
};

use bytes::Bytes;

use super::{
    pace::Pace,
    turn::{RECEIVE_BUFFER, Shard, key},
};
use crate::{
    hub::{Backlog, Connection, ConnectionId, Output, Owed, Share, Walk},
    metrics::Counter,
    proto::{CloseCode, LARGE_FRAME, State},
    sys::{Io, Refused, Send},
};

/// What is on its way out.
#[derive(Debug, Default)]
pub(super) struct Flush {
    walks: VecDeque<Walk>,
    /// Connections with something in their outbox, or with a backlog and room for it.
    dirty: VecDeque<ConnectionId>,
    /// Scratch, empty between batches.
    plan: Vec<Planned>,
    refused: Vec<Refused>,
}

/// One entry of a batch.
#[derive(Debug)]
struct Planned {
    id: ConnectionId,
    what: What,
}

#[derive(Debug)]
enum What {
    /// The whole run of the walk at this index.
    Run(usize),
    /// Its outbox, and its share if that is not the whole run.
    Pieces(Owed),
    /// The front of its backlog.
    Backlog,
}

impl Flush {
    /// Notes that the connection has something to be sent.
    pub(super) fn mark_dirty(&mut self, connection: &mut Connection, id: ConnectionId) {
        if !connection.is_dirty {
            connection.is_dirty = true;
            self.dirty.push_back(id);
        }
    }

    /// Is nothing left to be sent?
    pub(super) fn is_idle(&self) -> bool {
        self.walks.is_empty() && self.dirty.is_empty()
    }
}

impl<I: Io> Shard<I> {
    /// Sends what is due, up to [`Pace::flush_entries`] entries.
    pub(super) fn flush(&mut self) {
        self.hub.begin_walks(&mut self.flush.walks);
        let mut entries = 0;
        while entries < self.pace.flush_entries && !self.flush.is_idle() {
            let ended = self.plan_batch();
            entries += self.flush.plan.len();
            self.send_batch();
            for walk in self.flush.walks.drain(..ended) {
                self.hub.end_walk(walk);
            }
            // Topics take turns: a large one does not keep the others waiting for all of its subscribers.
            if !self.flush.walks.is_empty() {
                self.flush.walks.rotate_left(1);
            }
        }
    }

    /// Plans up to [`Pace::send_batch`] entries and returns how many walks, from the front, end with them.
    fn plan_batch(&mut self) -> usize {
        let Pace { send_batch, .. } = self.pace;
        let mut ended = 0;
        while let Some(walk) = self.flush.walks.get_mut(ended) {
            if self.flush.plan.len() >= send_batch {
                return ended;
            }
            match self.hub.next_member(walk) {
                Some(slot) => self.plan_member(slot, ended),
                None => ended += 1,
            }
        }
        while self.flush.plan.len() < send_batch
            && let Some(id) = self.flush.dirty.pop_front()
        {
            self.plan_dirty(id);
        }
        ended
    }

    /// Plans what a subscriber is owed of a walk's run, behind what waits in its outbox.
    fn plan_member(&mut self, slot: u32, walk: usize) {
        let Some(id) = self.hub.connections.id_at(slot) else { return };
        let Some(connection) = self.hub.connections.get_mut(id) else { return };
        let run = &self.flush.walks[walk].run;
        let share = run.share(slot);
        let Some(output) = &mut connection.output else {
            let what = match share {
                Share::Whole => What::Run(walk),
                share => match Owed::new(run, share) {
                    Some(owed) => What::Pieces(bounded(owed)),
                    None => return,
                },
            };
            self.flush.plan.push(Planned { id, what });
            return;
        };
        let owed = Owed::new(run, share);
        if output.backlog.is_empty() {
            let mut all = outbox(output).unwrap_or(Owed { pieces: Vec::new(), messages: 0, charge: 0 });
            if let Some(owed) = owed.map(bounded) {
                all.pieces.extend(owed.pieces);
                all.messages += owed.messages;
                all.charge += owed.charge;
            }
            connection.output = None;
            if !all.pieces.is_empty() {
                self.flush.plan.push(Planned { id, what: What::Pieces(all) });
            }
            return;
        }
        let outbox = outbox(output);
        append(&mut output.backlog, outbox);
        let messages = owed.as_ref().map_or(0, |owed| owed.messages);
        append(&mut output.backlog, owed);
        self.count(Counter::Deliveries, u64::from(messages));
        self.check_backlog(id);
    }

    /// Plans what waits for one connection alone: its backlog if there is room, or its outbox.
    fn plan_dirty(&mut self, id: ConnectionId) {
        let Some(connection) = self.hub.connections.get_mut(id) else { return };
        connection.is_dirty = false;
        let Some(output) = &mut connection.output else { return };
        let outbox = outbox(output);
        if output.backlog.is_empty() {
            connection.output = None;
            self.flush.plan.extend(outbox.map(|outbox| Planned { id, what: What::Pieces(outbox) }));
            return;
        }
        append(&mut output.backlog, outbox);
        if !connection.awaits_room {
            self.flush.plan.push(Planned { id, what: What::Backlog });
        }
        self.check_backlog(id);
    }

    /// The connection has left the open state: what it is owed up to now goes before its close frame, nothing after.
    pub(super) fn leave_topic(&mut self, id: ConnectionId) {
        let owed = self.hub.leave(id, self.flush.walks.iter());
        if owed.is_empty() {
            return;
        }
        let Some(connection) = self.hub.connections.get_mut(id) else { return };
        let was_laggard = connection.is_laggard();
        let output = connection.output.get_or_insert_default();
        let outbox = outbox(output);
        append(&mut output.backlog, outbox);
        let messages: u64 = owed.iter().map(|owed| u64::from(owed.messages)).sum();
        append(&mut output.backlog, owed);
        self.flush.mark_dirty(connection, id);
        self.count(Counter::Deliveries, messages);
        self.count(Counter::Laggards, u64::from(!was_laggard));
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
        for (index, Planned { id, what }) in plan.drain(..).enumerate() {
            let refusal = refusals.next_if(|entry| entry.index == index).map(|entry| entry.sent);
            deliveries += match &what {
                What::Run(walk) => u64::from(self.flush.walks[*walk].run.messages()),
                What::Pieces(owed) => u64::from(owed.messages),
                What::Backlog => 0,
            };
            match (what, refusal) {
                (What::Backlog, sent) => unsent += self.settle_backlog(id, sent),
                // Only an open connection is in a walk: this cannot have been its end.
                (What::Run(_), None) => {}
                (What::Pieces(_), None) => self.end_if_done(id),
                (what, Some(sent)) => unsent += self.settle_refused(id, what, sent),
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
        let (walks, connections, sockets) = (&self.flush.walks, &self.hub.connections, &self.sockets);
        // The pieces of all entries one behind the other; those of a walk once, for all its recipients.
        let mut slices: Vec<IoSlice<'_>> = Vec::with_capacity(walks.len() + 16);
        let mut walk_slices = vec![0..0; walks.len()];
        let mut ranges = Vec::with_capacity(plan.len());
        let mut bytes = 0;
        for Planned { id, what } in plan {
            let begin = slices.len();
            match what {
                What::Run(walk) => {
                    let run = &walks[*walk].run;
                    bytes += run.bytes();
                    if walk_slices[*walk].is_empty() {
                        slices.extend(run.pieces().iter().map(|piece| IoSlice::new(piece)));
                        walk_slices[*walk] = begin..slices.len();
                    }
                    ranges.push(walk_slices[*walk].clone());
                    continue;
                }
                What::Pieces(owed) => slices.extend(owed.pieces.iter().map(|piece| IoSlice::new(piece))),
                What::Backlog => {
                    let output = connections.get(*id).and_then(|connection| connection.output.as_ref());
                    let backlog = &output.expect("planned because it has a backlog").backlog;
                    slices.extend(backlog.unsent(self.pace.backlog_pieces).map(IoSlice::new));
                }
            }
            bytes += slices[begin..].iter().map(|slice| slice.len()).sum::<usize>();
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
        bytes
    }

    /// A socket did not take everything: the connection becomes a laggard. Returns how many bytes were not sent.
    fn settle_refused(&mut self, id: ConnectionId, what: What, sent: io::Result<usize>) -> usize {
        let owed = match what {
            What::Run(walk) => Owed::new(&self.flush.walks[walk].run, Share::Whole),
            What::Pieces(owed) => Some(owed),
            What::Backlog => unreachable!("settled by settle_backlog"),
        };
        let whole: usize = owed.iter().flat_map(|owed| &owed.pieces).map(Bytes::len).sum();
        let sent = match taken(sent) {
            Ok(sent) => sent,
            Err(error) => {
                self.lose(id, &error);
                return whole;
            }
        };
        let Some(connection) = self.hub.connections.get_mut(id) else { return whole - sent };
        let output = connection.output.get_or_insert_default();
        append(&mut output.backlog, owed);
        output.backlog.advance(sent);
        connection.awaits_room = true;
        if let Some(socket) = &self.sockets[id.slot() as usize] {
            self.io.await_room(key(id), socket);
        }
        self.count(Counter::ShortSends, 1);
        self.count(Counter::Laggards, 1);
        self.check_backlog(id);
        whole - sent
    }

    /// The front of a backlog was offered; `None` means that all of it was taken. Returns how many bytes were not.
    fn settle_backlog(&mut self, id: ConnectionId, sent: Option<io::Result<usize>>) -> usize {
        let Some(connection) = self.hub.connections.get_mut(id) else { return 0 };
        let Some(output) = &mut connection.output else { return 0 };
        let offered: usize = output.backlog.unsent(self.pace.backlog_pieces).map(<[u8]>::len).sum();
        let sent = match sent.map(taken) {
            None => {
                output.backlog.advance(offered);
                if output.backlog.is_empty() {
                    connection.drop_empty_output();
                    self.counters.set(Counter::Laggards, self.counters.get(Counter::Laggards) - 1);
                    self.end_if_done(id);
                } else {
                    self.flush.mark_dirty(connection, id);
                }
                return 0;
            }
            Some(Ok(sent)) => sent,
            Some(Err(error)) => {
                self.lose(id, &error);
                return offered;
            }
        };
        output.backlog.advance(sent);
        connection.awaits_room = true;
        if let Some(socket) = &self.sockets[id.slot() as usize] {
            self.io.await_room(key(id), socket);
        }
        self.count(Counter::ShortSends, 1);
        offered - sent
    }

    /// A laggard that is owed too much is told so and closed; what it has not begun to receive is given up.
    fn check_backlog(&mut self, id: ConnectionId) {
        let Some(connection) = self.hub.connections.get_mut(id) else { return };
        // What a connection that is closing is owed grows no more, and its close frame is in it.
        if connection.websocket.state() != State::Open {
            return;
        }
        let Some(output) = &mut connection.output else { return };
        let (bytes, messages) = (output.backlog.bytes(), output.backlog.messages());
        if bytes <= self.limits.backlog_bytes_max && messages <= self.limits.backlog_messages_max {
            return;
        }
        let dropped = output.backlog.truncate();
        let mut frame = Vec::new();
        connection.websocket.close(self.now, CloseCode::POLICY_VIOLATION, "slow consumer", &mut frame);
        let charge = frame.capacity();
        output.backlog.push(frame.into(), 0, charge);
        tracing::info!(connection = %id, bytes, messages, "slow consumer: its backlog went beyond the limit");
        self.count(Counter::SlowClosed, 1);
        self.count(Counter::SlowDropped, dropped);
        self.notice_close(id);
    }
}

/// Appends what is owed, each in turn. What its pieces keep alive beyond their own bytes counts until the last of them
/// is sent.
fn append(backlog: &mut Backlog, owed: impl IntoIterator<Item = Owed>) {
    for Owed { pieces, mut messages, charge } in owed {
        let mut beyond = charge.saturating_sub(pieces.iter().map(Bytes::len).sum());
        let last = pieces.len().saturating_sub(1);
        for (index, piece) in pieces.into_iter().enumerate() {
            // A large frame may stand in a larger receive buffer.
            let mut kept = if piece.len() >= LARGE_FRAME { piece.len().max(RECEIVE_BUFFER) } else { piece.len() };
            if index == last {
                kept += mem::take(&mut beyond);
            }
            backlog.push(piece, mem::take(&mut messages), kept);
        }
    }
}

/// Takes what waits in an outbox.
fn outbox(output: &mut Output) -> Option<Owed> {
    let outbox = mem::take(&mut output.outbox);
    let charge = outbox.capacity();
    (!outbox.is_empty()).then(|| Owed { pieces: vec![outbox.into()], messages: 0, charge })
}

/// How many bytes a socket took that did not take everything, or why it takes none any more.
fn taken(sent: io::Result<usize>) -> io::Result<usize> {
    match sent {
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory) => Ok(0),
        Err(error) if matches!(error.raw_os_error(), Some(ENOBUFS)) => Ok(0),
        sent => sent,
    }
}

/// At most as many pieces as one send may have beside the outbox; more are copied into one.
fn bounded(owed: Owed) -> Owed {
    if owed.pieces.len() < PIECES_MAX { owed } else { Owed { pieces: vec![owed.pieces.concat().into()], ..owed } }
}

const PIECES_MAX: usize = Send::<()>::PIECES_MAX;
const ENOBUFS: i32 = rustix::io::Errno::NOBUFS.raw_os_error();

#[cfg(test)]
mod tests {
    use super::*;

    fn owed(lengths: &[usize], messages: u32, charge: usize) -> Owed {
        Owed { pieces: lengths.iter().map(|&length| vec![0; length].into()).collect(), messages, charge }
    }

    /// A share of 10 bytes keeps the whole run of 1 000 alive: the limit is about memory.
    #[test]
    fn a_backlog_is_charged_what_it_pins_until_the_last_piece() {
        let mut backlog = Backlog::default();
        append(&mut backlog, [owed(&[4, 6], 3, 1_000), owed(&[5], 1, 5)]);
        assert_eq!((backlog.bytes(), backlog.messages()), (1_005, 4));
        backlog.advance(4);
        assert_eq!(backlog.bytes(), 1_001);
        backlog.advance(6);
        assert_eq!(backlog.bytes(), 5);
    }

    #[test]
    fn a_large_frame_is_charged_its_receive_buffer() {
        let mut backlog = Backlog::default();
        append(&mut backlog, [owed(&[LARGE_FRAME], 1, LARGE_FRAME)]);
        assert_eq!(backlog.bytes(), RECEIVE_BUFFER);
    }

    #[test]
    fn many_pieces_become_one() {
        let few = bounded(owed(&[2; PIECES_MAX - 1], 1, 0));
        assert_eq!(few.pieces.len(), PIECES_MAX - 1);
        let many = bounded(owed(&[2; PIECES_MAX], 7, 3_000));
        assert_eq!((many.pieces.len(), many.pieces[0].len()), (1, 2 * PIECES_MAX));
        assert_eq!((many.messages, many.charge), (7, 3_000));
    }
}
