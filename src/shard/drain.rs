//! The shard's part in an orderly end: the shard closes its connections, a few at a time, and each connection may
//! finish the closing handshake.
//!
//! No connection is closed before the barriers of all other ends have come, or the time for them is over. This time is
//! a quarter of the drain's time, or up to half of it while the shard has mail to take. Until then mail goes before
//! input. [`Shard::drain`] sends this shard's own barriers. So a connection that is closed has been handed, or is owed,
//! every message from before the drain, and its goodbye comes after these messages. A message that comes later reaches
//! the connections that are still open.
//!
//! A client may publish until its connection is closed, and its publication is answered when its home has given it a
//! place, or when its receipt is complete. So a connection that waits for such answers is closed when they have come;
//! after an eighth of the drain's time it is closed without them.

use super::{leaving::Drain, state::Shard};
use crate::{hub::ConnectionId, metrics::Counter, proto::Millis, sys::Io};

impl<I: Io> Shard<I> {
    /// Begins a drain: every connection is closed with 1012, once every message from before this call is gathered.
    /// Gathering and closing take at most three quarters of `ticks`, and an eighth more where answers are awaited.
    pub(crate) fn drain(&mut self, now: Millis, ticks: u32) {
        self.note_time(now);
        self.hub.send_barrier();
        let remaining = self.hub.connections.ids().collect();
        self.drain = Some(Drain::new(self.now, remaining, ticks, self.seed));
    }

    /// Closes the connections that are due in the drain.
    pub(super) fn pace_drain(&mut self) {
        if self.drain.is_none() {
            return;
        }
        let has_mail = self.has_taken_mail() || self.hub.has_mail();
        let Some(drain) = &mut self.drain else { return };
        if has_mail {
            drain.note_mail(self.now);
        }
        let is_premature = drain.begin_closing(self.now, self.hub.has_passed_barrier());
        let due = drain.step(self.now, || self.handlers.askers.values().map(|(id, _)| *id).collect());
        if is_premature && !self.is_empty() {
            tracing::warn!(
                connections = self.open(),
                "barriers of other threads are late: connections are closed, although messages may be on their way"
            );
            self.count(Counter::BarrierTimeout, 1);
        }
        for id in due {
            self.close_in_drain(id);
        }
    }

    /// Closes a connection, unless its closing handshake has begun. A lost connection is left alone too: it ends when
    /// its input is handled.
    fn close_in_drain(&mut self, id: ConnectionId) {
        let is_open = self.hub.connections.get(id).is_some_and(|c| c.is_open());
        if let Some(drain) = &mut self.drain
            && is_open
        {
            drain.note_closing(id);
            let retry_after_ms = drain.next_retry();
            self.count(Counter::DrainClosed, 1);
            let Some(connection) = self.hub.connections.get_mut(id) else { return };
            let (code, reason) = connection.io.session.goodbye_of_restart(retry_after_ms);
            self.close(id, code, &reason);
        }
    }

    /// Ends every connection without a goodbye, and reports the ends to the handlers.
    pub(crate) fn drop_all(&mut self) {
        let ids: Vec<ConnectionId> = self.hub.connections.ids().collect();
        ids.into_iter().for_each(|id| self.remove(id));
        self.io.submit();
        self.report_ended();
    }
}
