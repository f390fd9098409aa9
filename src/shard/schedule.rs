//! The schedule: the shard's next look at each connection.

use super::{
    io_state::{Reading, Watch},
    state::Shard,
};
use crate::{
    hub::ConnectionId,
    proto::{KeepAlive, State, Tick},
    sys::Io,
};

impl<I: Io> Shard<I> {
    /// Enters the connection's next deadline into the wheel, unless the wheel has an earlier look.
    ///
    /// A deadline only moves to later times, with one exception: where a pong may take longer than the interval between
    /// pings, the next ping may be due before the deadline of the last pong. So an open connection is looked at in
    /// every interval.
    pub(super) fn schedule(&mut self, id: ConnectionId) {
        let (waits, throttled) = (self.close_waits(id), self.throttled_until(id));
        let Some(connection) = self.hub.connections.get_mut(id) else { return };
        let keep_alive = self.handlers.keep_alive(id);
        let interval = keep_alive.ping_interval;
        let pings = connection.io.session.state() == State::Open && interval > 0;
        let look = pings.then(|| self.now.after(interval));
        let deadline = connection.io.session.deadline(&keep_alive);
        let message = match self.limits.message_ticks_max {
            0 => None,
            ticks => self.incoming.unfinished.since(id, self.now).map(|since| since.after(ticks)),
        };
        let watch = connection.io.output.as_ref().and_then(|output| output.watch);
        let taken = watch.filter(|_| pings).and_then(|watch| deadline_of(&watch, &keep_alive));
        let (ends_by, marks) = (connection.io.sides.ends_by(), self.marks.until(id));
        let expiry = self.handlers.expiry(id);
        let deadlines = [deadline, ends_by, look, message, waits, taken, marks, throttled, expiry];
        let deadline = deadlines.into_iter().flatten().min();
        if let Some(deadline) = deadline
            && connection.io.timer.is_none_or(|timer| deadline < timer)
        {
            connection.io.timer = Some(self.wheel.insert(deadline, id));
        }
    }

    /// Returns the tick until which the connection's goodbye waits, if it waits. A goodbye that awaits the rest of a
    /// message ([`Session::awaits_rest`]) waits until the peer has ended its input or has been silent for 300 ms, for
    /// at most half of the close timeout. The input is dropped either way.
    ///
    /// [`Session::awaits_rest`]: super::session::Session::awaits_rest
    pub(super) fn close_waits(&self, id: ConnectionId) -> Option<Tick> {
        let connection = self.hub.connections.get(id)?;
        let session = &connection.io.session;
        if !session.awaits_rest() || !connection.io.owes_output() || connection.io.sides.has_peer_ended() {
            return None;
        }
        let last_received = if connection.io.reading == Reading::Queued { self.now } else { session.last_received() };
        let half = self.handlers.keep_alive(id).close_timeout / 2;
        let latest = Tick(connection.io.sides.ends_by()?.0.saturating_sub(half));
        Some(last_received.after(SILENCE).min(latest)).filter(|&until| self.now < until)
    }
}

/// Returns when the connection of a peer that takes nothing is closed: after as long as a peer may be silent.
pub(super) fn deadline_of(watch: &Watch, keep_alive: &KeepAlive) -> Option<Tick> {
    let KeepAlive { ping_interval, pong_timeout, .. } = *keep_alive;
    (ping_interval > 0 && pong_timeout > 0).then(|| watch.since.after(ping_interval.saturating_add(pong_timeout)))
}

/// Ticks of silence after which the shard assumes that a message was sent whole: longer than most round trips.
const SILENCE: u32 = 3 * Tick::PER_SECOND / 10;
