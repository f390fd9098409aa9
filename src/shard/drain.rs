//! Leaving in an orderly way: every client is told, a few at a time, and may finish the closing handshake.

use std::collections::VecDeque;

use super::turn::Shard;
use crate::{
    hub::ConnectionId,
    proto::{CloseCode, Tick},
    sys::Io,
};

/// A drain under way. Clients are closed at a pace, so that they do not all come back to their next server at the same
/// moment, and all within the first half of the time there is.
#[derive(Debug)]
pub(super) struct Drain {
    remaining: VecDeque<ConnectionId>,
    per_tick: usize,
    last_step: Tick,
}

impl Drain {
    /// A connection that was accepted before the drain and established only now.
    pub(super) fn add(&mut self, id: ConnectionId) {
        self.remaining.push_back(id);
    }

    /// When the next clients are to be told, or whether the other shards are done is to be looked at.
    pub(super) fn next_step(&self, now: Tick) -> Tick {
        if self.remaining.is_empty() { now.after(1) } else { self.last_step.after(1) }
    }
}

impl<I: Io> Shard<I> {
    /// Begins to close every connection with 1001, over at most half of `ticks`.
    pub(crate) fn drain(&mut self, now: Tick, ticks: u32) {
        let remaining: VecDeque<_> = self.hub.connections.ids().collect();
        let per_tick = remaining.len().div_ceil((ticks / 2).max(1) as usize).max(CLOSES_PER_TICK);
        // The first are told at once; where there are other shards a tick later, when what stands in the lanes is out.
        let last_step = if self.hub.is_alone() { Tick(now.0.saturating_sub(1)) } else { now };
        self.drain = Some(Drain { remaining, per_tick, last_step });
    }

    pub(super) fn pace_drain(&mut self) {
        let Some(drain) = &mut self.drain else { return };
        let steps = self.now.since(drain.last_step) as usize;
        drain.last_step = drain.last_step.max(self.now);
        let count = steps.saturating_mul(drain.per_tick).min(drain.remaining.len());
        let told: Vec<ConnectionId> = drain.remaining.drain(..count).collect();
        for id in told {
            self.close(id, CloseCode::GOING_AWAY, "the server is going away");
        }
    }

    /// Starts the closing handshake.
    pub(super) fn close(&mut self, id: ConnectionId, code: CloseCode, reason: &str) {
        let Some(connection) = self.hub.connections.get_mut(id) else { return };
        let mut frame = Vec::new();
        connection.websocket.close(self.now, code, reason, &mut frame);
        self.reply(id, &frame);
        self.notice_close(id);
    }
}

/// Clients told in a tenth of a second if there is time: 1 000 a second.
const CLOSES_PER_TICK: usize = 100;
