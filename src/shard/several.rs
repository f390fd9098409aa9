//! Plans the shares of a connection: of one walk, or of several.
//!
//! The plain version: each walk visits each of its members. A connection with several topics would then need one send
//! for each walk of its topics: walks begin at different members, so they seldom come to a connection in the same
//! batch. Two things are added:
//!
//! - **One visit.** The first walk that comes to such a connection hands out the connection's shares of all walks under
//!   way, in one entry. The other walks pass the connection when they come to it. A share may come early: messages of
//!   different topics have no order among each other, and the share is complete, since a walk that has begun gathers
//!   nothing more.
//! - **One entry.** A share that does not fit into the entry is left to its own walk. If that walk comes to the
//!   connection within the same batch, the batch ends there, and the share is the first of the next batch. The
//!   connection's [`BatchEntry`](super::io_state::BatchEntry) has the index of the connection's entry.

use std::mem;

use super::{
    io_state::ShardConnection,
    outgoing::{Contents, Left, Outcome, Planned, Portion, outbox},
    state::Shard,
};
use crate::{
    hub::{AudienceId, ConnectionId, Piece},
    sys::Io,
};

impl<I: Io> Shard<I> {
    /// Plans a walk's visit to a connection with several subscriptions: the connection's share of this walk, and its
    /// shares of the other walks that have yet to come to it. Returns whether this batch had room for the share of this
    /// walk.
    pub(super) fn plan_several(&mut self, id: ConnectionId, audience: AudienceId, left: &mut Left) -> bool {
        if self.hub.passes(id, audience) {
            left.take(0);
            return true;
        }
        let Some(bytes) = self.plan_share(id, audience) else { return false };
        left.hand_out(bytes);
        if self.flush.walks.len() > 1 {
            self.plan_further_shares(id, bytes, left);
        }
        true
    }

    /// Plans the connection's shares of all walks that have yet to come to it, as far as they fit: the visit may have
    /// [`Pace::batch_bytes`], of which `planned` bytes are taken, and the pieces of one entry. Each other share is left
    /// to its own walk.
    ///
    /// [`Pace::batch_bytes`]: super::pace::Pace::batch_bytes
    fn plan_further_shares(&mut self, id: ConnectionId, mut planned: usize, left: &mut Left) {
        let mut ahead = mem::take(&mut self.flush.ahead);
        left.look_at(self.hub.walks_ahead(id, self.flush.walks.iter().copied(), &mut ahead));
        for audience in ahead.drain(..) {
            if planned + self.hub.run(audience).bytes() <= self.pace.batch_bytes
                && let Some(bytes) = self.plan_share(id, audience)
            {
                self.hub.take_share(id, audience);
                left.hand_out_more(bytes);
                planned += bytes;
            }
        }
        self.flush.ahead = ahead;
    }

    /// Plans a connection's share of an audience's walk, after the connection's outbox. Returns how many bytes the
    /// connection is handed, to its socket or to its backlog; `None` if this batch has no room for the share: the
    /// connection's entry is full, or the connection is owed more than it may be.
    pub(super) fn plan_share(&mut self, id: ConnectionId, audience: AudienceId) -> Option<usize> {
        let own = self
            .hub
            .connections
            .get(id)
            .map(|own| (own.io.output.is_some(), own.io.has_backlog(), own.io.session.adds_positions()));
        let outbox = match own {
            Some((_, _, true)) => return self.owe_bodies(id, audience),
            Some((_, true, false)) => return self.owe_share(id, audience),
            Some((true, false, false)) => self.take_outbox(id),
            _ => None,
        };
        let Some(portion) = Portion::of_walk(&self.hub, audience, id.slot(), outbox) else {
            // A client without notices may have lost messages and get none.
            self.note_lag(id, audience);
            return Some(0);
        };
        let (pieces, bytes) = portion.size(&self.hub);
        match self.hub.connections.get_mut(id).and_then(ShardConnection::note) {
            Some(own) => {
                let has_room = self.flush.plan_share(own, (pieces, self.pace.entry_pieces), (id, portion, bytes));
                has_room.then_some(bytes)
            }
            None => {
                self.flush.plan.push(Planned { id, contents: Contents::One(portion), bytes });
                Some(bytes)
            }
        }
    }

    /// Appends a subscriber's share of an audience's walk to the subscriber's backlog. Returns the number of bytes of
    /// the share. These bytes count for the flush although none is sent, since they may have to be copied. Returns
    /// `None` if the connection is owed more than it may be.
    fn owe_share(&mut self, id: ConnectionId, audience: AudienceId) -> Option<usize> {
        if !matches!(self.flush.outcomes.last(), Some(&Outcome::Slow(last)) if last == id) {
            self.flush.outcomes.push(Outcome::Slow(id));
        }
        if self.is_too_slow(id) {
            // The turn closes the connection before the next batch, unless this batch sends enough of its backlog.
            return None;
        }
        let owed = self.hub.owed_by_walk(audience, id.slot());
        Some(self.owe_in_order(id, [owed]))
    }

    /// Appends a share of bodies to the backlog of a connection that adds its positions to them. The backlog of a
    /// connection that keeps up leaves with this flush.
    fn owe_bodies(&mut self, id: ConnectionId, audience: AudienceId) -> Option<usize> {
        let bytes = self.owe_share(id, audience)?;
        if let Some(connection) = self.hub.connections.get_mut(id) {
            self.flush.mark_dirty(connection, id);
        }
        Some(bytes)
    }

    /// Takes the outbox of a connection without a backlog; the connection then owns no output.
    pub(super) fn take_outbox(&mut self, id: ConnectionId) -> Option<Piece> {
        let output = self.hub.connections.get_mut(id)?.io.output.take();
        self.handlers.notice_emptied(id);
        output.and_then(|mut output| outbox(&mut output))
    }
}
