//! The output of a shard: the connections and walks that are due, and the batch that is being planned.

use std::{collections::VecDeque, io, mem};

use super::io_state::{BatchEntry, IoHub, Output, ShardConnection};
use crate::{
    hub::{AudienceId, ConnectionId, Lag, Piece, Share, bounded},
    proto::Tick,
    sys::{SendEntry, Unsent},
};

/// The output of a shard.
#[derive(Debug, Default)]
pub(super) struct Flush {
    /// Audiences whose walk is under way or due. The first walk is the one that a batch begins with.
    pub(super) walks: VecDeque<AudienceId>,
    /// Visits of the first walk since it came to the front.
    pub(super) visits: usize,
    /// Connections with something in their outbox.
    pub(super) outboxes: VecDeque<ConnectionId>,
    /// Connections with a backlog that may be offered to their sockets. They have a queue of their own, since some of
    /// them have enough to send for a whole batch.
    pub(super) backlogs: VecDeque<ConnectionId>,
    /// Connections whose sockets had reported room and took nothing: the kernel is short of memory. The shard tries
    /// again in the next tick.
    pub(super) paused: Vec<ConnectionId>,
    /// When the first of `paused` was refused.
    pub(super) paused_at: Tick,
    /// The next flush begins with outboxes and backlogs: the last flush began with walks and left some of these
    /// waiting.
    pub(super) dirty_first: bool,
    /// The flush under way began with outboxes and backlogs.
    pub(super) began_with_dirty: bool,
    /// Shares that the walks of the last flush handed out.
    pub(super) last_walked: usize,
    /// After its walks, the batch being planned serves backlogs before outboxes.
    pub(super) backlogs_first: bool,
    /// The number of the batch being planned; the first is 1.
    pub(super) batch: u64,
    /// The lags whose notices sockets have taken in this turn, for the handlers.
    pub(super) told: Vec<(ConnectionId, Lag)>,
    /// Scratch memory: this field and the next three are empty between batches.
    pub(super) ahead: Vec<AudienceId>,
    pub(super) plan: Vec<Planned>,
    pub(super) refused: Vec<Unsent>,
    pub(super) outcomes: Vec<Outcome>,
}

/// One entry of a batch.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) id: ConnectionId,
    pub(super) contents: Contents,
    /// The entry's length.
    pub(super) bytes: usize,
}

/// The rest of a flush's portion.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) entries: usize,
    pub(super) bytes: usize,
    /// Shares that the flush's walks have handed out.
    pub(super) walked: usize,
}

/// The contents of an entry.
#[derive(Debug)]
pub(super) enum Contents {
    /// A portion of one walk, or an outbox alone.
    One(Portion),
    /// Portions of several walks.
    Several(Vec<Portion>),
    /// The front of a backlog.
    Backlog,
}

/// The part of an entry that one walk hands to a connection without a backlog, or such a connection's outbox alone.
#[derive(Debug)]
pub(super) enum Portion {
    /// The whole run of the audience's walk.
    Run(AudienceId),
    /// The connection's outbox if there is one, and its share of the run of the audience's walk.
    Pieces { outbox: Option<Piece>, share: Vec<Piece>, audience: Option<AudienceId> },
}

/// An outcome of a batch, which the turn acts on.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The connection's socket has failed. Input may wait in it.
    Lost(ConnectionId, io::Error),
    /// The connection is not open, and its socket has taken all that the connection was owed.
    Done(ConnectionId),
    /// The connection's output has grown, and may be beyond its limit.
    Slow(ConnectionId),
}

impl Flush {
    /// Notes that the connection has something to be sent.
    pub(super) fn mark_dirty(&mut self, connection: &mut ShardConnection, id: ConnectionId) {
        if !connection.io.is_dirty {
            connection.io.is_dirty = true;
            let queue = if connection.io.has_backlog() { &mut self.backlogs } else { &mut self.outboxes };
            queue.push_back(id);
        }
    }

    /// Returns when the connections that were refused in spite of room try again.
    pub(super) fn next_try(&self) -> Option<Tick> {
        (!self.paused.is_empty()).then(|| self.paused_at.after(1))
    }

    /// Lets a connection that was refused in spite of room wait for the next tick.
    pub(super) fn pause(&mut self, id: ConnectionId, now: Tick) {
        // A connection that is refused later does not make the first one wait longer.
        if self.paused.is_empty() {
            self.paused_at = now;
        }
        self.paused.push(id);
    }

    /// Returns whether a walk is under way or due.
    pub(super) fn has_walks(&self) -> bool {
        !self.walks.is_empty()
    }

    /// Lets the other walks come before the first one.
    pub(super) fn give_way(&mut self) {
        self.visits = 0;
        if !self.walks.is_empty() {
            self.walks.rotate_left(1);
        }
    }

    /// Returns whether a connection has something to be sent to it alone.
    pub(super) fn has_dirty(&self) -> bool {
        !self.outboxes.is_empty() || !self.backlogs.is_empty()
    }

    /// Returns the queue of the kind that the batch begins with.
    pub(super) fn first_kind(&mut self) -> &mut VecDeque<ConnectionId> {
        if self.backlogs_first { &mut self.backlogs } else { &mut self.outboxes }
    }

    /// Takes the next connection of the kind that the batch does not begin with, or else of the kind that it begins
    /// with.
    pub(super) fn pop_dirty(&mut self) -> Option<ConnectionId> {
        let (first, second) = if self.backlogs_first {
            (&mut self.backlogs, &mut self.outboxes)
        } else {
            (&mut self.outboxes, &mut self.backlogs)
        };
        second.pop_front().or_else(|| first.pop_front())
    }

    /// Returns whether nothing is left to be sent.
    pub(super) fn is_idle(&self) -> bool {
        !self.has_walks() && !self.has_dirty()
    }

    /// Plans a share of a connection that may be in several walks of the batch. The share goes into the connection's
    /// entry in this batch; if there is none, the share begins one, which `own` names from then on. Returns whether the
    /// entry had room.
    pub(super) fn plan_share(
        &mut self,
        own: &mut BatchEntry,
        (pieces, entry_pieces): (usize, usize),
        (id, portion, bytes): (ConnectionId, Portion, usize),
    ) -> bool {
        if own.batch != self.batch {
            *own = BatchEntry { batch: self.batch, index: self.plan.len() as u32, pieces: pieces as u32 };
            self.plan.push(Planned { id, contents: Contents::One(portion), bytes });
            return true;
        }
        if own.pieces as usize + pieces > entry_pieces {
            return false;
        }
        own.pieces += pieces as u32;
        let entry = &mut self.plan[own.index as usize];
        assert_eq!(entry.id, id, "a connection finds its own entry");
        entry.bytes += bytes;
        entry.contents.push(portion);
        true
    }
}

impl Contents {
    /// Appends a portion of one more walk.
    fn push(&mut self, portion: Portion) {
        match self {
            Contents::Several(portions) => portions.push(portion),
            Contents::One(_) => {
                let first = mem::replace(self, Contents::Several(Vec::with_capacity(2)));
                if let (Contents::One(first), Contents::Several(portions)) = (first, self) {
                    portions.extend([first, portion]);
                }
            }
            Contents::Backlog => unreachable!("the share of a connection with a backlog goes into the backlog"),
        }
    }
}

impl Left {
    /// Returns whether the portion is used up.
    pub(super) fn is_used_up(&self) -> bool {
        self.entries == 0 || self.bytes == 0
    }

    /// Takes an entry of so many bytes. The last entry may have more bytes than are left.
    pub(super) fn take(&mut self, bytes: usize) {
        self.entries -= 1;
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Takes an entry with a share of so many bytes.
    pub(super) fn hand_out(&mut self, bytes: usize) {
        self.take(bytes);
        self.walked += 1;
    }

    /// Takes a further share of an entry, which counts as an entry. The last entry may have more shares than entries
    /// are left.
    pub(super) fn hand_out_more(&mut self, bytes: usize) {
        self.entries = self.entries.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
        self.walked += 1;
    }

    /// Takes the work of looking at so many subscriptions, as entries.
    pub(super) fn look_at(&mut self, subscriptions: usize) {
        self.entries = self.entries.saturating_sub(subscriptions / SUBSCRIPTIONS_PER_ENTRY);
    }
}

impl Portion {
    /// Returns the portion that the audience's walk hands to the connection at `slot`, after its outbox; `None` if
    /// there is nothing to be sent.
    pub(super) fn of_walk(hub: &IoHub, audience: AudienceId, slot: u32, outbox: Option<Piece>) -> Option<Portion> {
        let run = hub.run(audience);
        // Nearly every member is owed the whole run and nothing else.
        if outbox.is_none() && run.is_whole(slot) {
            return Some(Portion::Run(audience));
        }
        let notice = hub.lag_of_walk(audience, slot).map(|owed| owed.notice).filter(|notice| !notice.is_empty());
        let mut share = match (run.share(slot), &outbox) {
            (Share::Nothing, None) if notice.is_none() => return None,
            (Share::Whole, _) => run.pieces().to_vec(),
            (Share::Part(share), _) => bounded(share, PIECES_MAX - 2),
            (Share::Nothing, _) => Vec::new(),
        };
        if let Some(notice) = notice {
            share.insert(0, Piece::new(notice, 0));
        }
        Some(Portion::Pieces { outbox, share, audience: Some(audience) })
    }

    /// Returns how many pieces the portion has, and how many bytes.
    pub(super) fn size(&self, hub: &IoHub) -> (usize, usize) {
        match self {
            Portion::Run(audience) => (hub.run(*audience).pieces().len(), hub.run(*audience).bytes()),
            Portion::Pieces { outbox, share, .. } => {
                (usize::from(outbox.is_some()) + share.len(), length(outbox.iter().chain(share)))
            }
        }
    }

    /// Returns how many messages the portion has.
    pub(super) fn messages(&self, hub: &IoHub) -> u64 {
        match self {
            Portion::Run(audience) => u64::from(hub.run(*audience).messages()),
            // The frames of an outbox do not count as messages.
            Portion::Pieces { share, .. } => share.iter().map(|piece| u64::from(piece.messages)).sum(),
        }
    }

    /// Returns whether these portions are whole runs of the same audiences in the same order, and so the same pieces.
    pub(super) fn are_same_runs(these: &[Portion], those: &[Portion]) -> bool {
        let is_same = |(this, that): (&_, &_)| matches!((this, that), (Portion::Run(a), Portion::Run(b)) if a == b);
        these.len() == those.len() && these.iter().zip(those).all(is_same)
    }

    /// Returns the pieces of the portion.
    pub(super) fn pieces<'a>(&'a self, hub: &'a IoHub) -> impl Iterator<Item = &'a Piece> {
        let (outbox, share) = match self {
            Portion::Run(audience) => (&None, hub.run(*audience).pieces()),
            Portion::Pieces { outbox, share, .. } => (outbox, &share[..]),
        };
        outbox.iter().chain(share)
    }
}

/// Takes the frames out of an outbox.
pub(super) fn outbox(output: &mut Output) -> Option<Piece> {
    let outbox = mem::take(&mut output.outbox);
    let unused = outbox.capacity() - outbox.len();
    let piece = Piece::new(outbox.into(), 0);
    (!piece.bytes.is_empty()).then(|| Piece { charge: piece.charge + unused, ..piece })
}

/// Returns how many bytes these pieces have.
pub(super) fn length<'a>(pieces: impl IntoIterator<Item = &'a Piece>) -> usize {
    pieces.into_iter().map(|piece| piece.bytes.len()).sum()
}

/// The most pieces of an entry. One of them may be the outbox, and one the notice of a lag.
const PIECES_MAX: usize = SendEntry::<()>::PIECES_MAX;

/// Looks at so many subscriptions count as one entry. A look at a subscription and its topic costs a few cache misses,
/// and a send costs some microseconds.
const SUBSCRIPTIONS_PER_ENTRY: usize = 16;
