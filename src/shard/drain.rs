//! Leaving in an orderly way: every client is told, a few at a time, and may finish the closing handshake.

use super::{leaving::Drain, state::Shard};
use crate::{
    hub::ConnectionId,
    proto::{CloseCode, Tick},
    sys::Io,
};

impl<I: Io> Shard<I> {
    /// Begins to close every connection with 1001, over at most half of `ticks`.
    pub(crate) fn drain(&mut self, now: Tick, ticks: u32) {
        let remaining = self.hub.connections.ids().collect();
        let waits = !self.hub.is_alone();
        self.drain = Some(Drain::new(now, remaining, ticks, waits));
    }

    pub(super) fn pace_drain(&mut self) {
        let Some(drain) = &mut self.drain else { return };
        let told = drain.step(self.now);
        for id in told {
            self.close(id, CloseCode::GOING_AWAY, "the server is going away");
        }
    }

    /// Ends every connection without a word. Their handlers are told.
    pub(crate) fn drop_all(&mut self) {
        let ids: Vec<ConnectionId> = self.hub.connections.ids().collect();
        ids.into_iter().for_each(|id| self.remove(id));
        self.io.submit();
        self.tell_ended();
    }
}
