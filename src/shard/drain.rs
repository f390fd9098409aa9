//! The shard's part in an orderly end: it closes its connections, a few at a time, and each may finish the closing
//! handshake.

use super::{leaving::Drain, state::Shard};
use crate::{
    hub::ConnectionId,
    proto::{CloseCode, Millis},
    sys::Io,
};

impl<I: Io> Shard<I> {
    /// Begins to close every connection with 1001, over at most half of `ticks`.
    pub(crate) fn drain(&mut self, now: Millis, ticks: u32) {
        self.note_time(now);
        let remaining = self.hub.connections.ids().collect();
        let waits = !self.hub.is_alone();
        self.drain = Some(Drain::new(self.now, remaining, ticks, waits));
    }

    /// Closes the connections that are due in the drain.
    pub(super) fn pace_drain(&mut self) {
        let Some(drain) = &mut self.drain else { return };
        for id in drain.step(self.now) {
            self.close(id, CloseCode::GOING_AWAY, "the server is going away");
        }
    }

    /// Ends every connection without a closing handshake. Their handlers learn of it.
    pub(crate) fn drop_all(&mut self) {
        let ids: Vec<ConnectionId> = self.hub.connections.ids().collect();
        ids.into_iter().for_each(|id| self.remove(id));
        self.io.submit();
        self.report_ended();
    }
}
