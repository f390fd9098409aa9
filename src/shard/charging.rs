//! Counts what clients send against the rates of their routes.

use super::{
    io_state::Reading,
    rates::{InputRate, Rates},
    state::Shard,
};
use crate::{
    hub::ConnectionId,
    proto::{Millis, State, Tick},
    rates::InputRates,
    sys::Io,
};

impl<I: Io> Shard<I> {
    /// Begins the count of a new connection.
    pub(super) fn begin_rates(&mut self, id: ConnectionId) {
        if let Some(table) = &mut self.rates {
            table.begin(id);
        }
    }

    /// Counts a message, a fragment that is an event of its own, a ping or a pong.
    #[inline]
    pub(super) fn charge_message(&mut self, id: ConnectionId) {
        if self.rates.is_some() {
            self.charge(id, |table, rates, now| table.charge_message(id, rates, now));
        }
    }

    /// Counts bytes that were received.
    #[inline]
    pub(super) fn charge_bytes(&mut self, id: ConnectionId, count: usize) {
        if self.rates.is_some() {
            self.charge(id, |table, rates, now| table.charge_bytes(id, rates, now, count));
        }
    }

    fn charge(&mut self, id: ConnectionId, charge: impl FnOnce(&mut Rates, &InputRates, Millis)) {
        // A connection that has ended has no route.
        if let (Some(table), true) = (&mut self.rates, self.hub.connections.get(id).is_some()) {
            charge(table, &self.handlers.route(id).rules.rates, self.hub.now());
        }
    }

    /// Returns the rate that keeps the connection from being received from. A connection that is closing is always
    /// received from, since its client's goodbye or end is awaited.
    #[inline]
    pub(super) fn exceeded_rate(&self, id: ConnectionId) -> Option<InputRate> {
        let table = self.rates.as_ref()?;
        self.hub.connections.get(id).filter(|connection| connection.io.session.state() == State::Open)?;
        table.exceeded(id, &self.handlers.route(id).rules.rates, self.hub.now())
    }

    /// Returns whether the rate, which the connection exceeds, keeps it from being served now. Bytes that have arrived
    /// are parsed, whatever the rate of bytes.
    pub(super) fn holds_up(&self, id: ConnectionId, rate: InputRate) -> bool {
        let has_unparsed = self.hub.connections.get(id).is_some_and(|connection| connection.io.has_unparsed);
        rate == InputRate::Messages || !has_unparsed
    }

    /// Returns whether the connection's next message would exceed the rate of messages.
    #[inline]
    pub(super) fn is_over_message_rate(&self, id: ConnectionId) -> bool {
        self.rates.is_some() && self.exceeded_rate(id) == Some(InputRate::Messages)
    }

    /// Returns the tick at which a throttled connection is looked at next: when its rates let it be received from, or
    /// when it is closed because it has been over them for too long.
    pub(super) fn throttled_until(&self, id: ConnectionId) -> Option<Tick> {
        let table = self.rates.as_ref()?;
        self.hub.connections.get(id).filter(|connection| connection.io.reading == Reading::Throttled)?;
        let due = table.due(id, &self.handlers.route(id).rules.rates).0.div_ceil(Tick::MILLIS);
        let due = Tick(due.try_into().unwrap_or(u32::MAX));
        Some(self.throttled_at_most(id).map_or(due, |closed| closed.min(due)))
    }

    /// Returns the tick at which a throttled connection is closed, if a time is set: when it has been over its rates
    /// for too long, or its client has been gone for the close timeout. Otherwise a client that is gone would keep its
    /// place until its input is due, which may be hours.
    pub(super) fn throttled_at_most(&self, id: ConnectionId) -> Option<Tick> {
        let table = self.rates.as_ref()?;
        let after = |since: Tick, ticks: u32| (ticks > 0).then(|| since.after(ticks));
        let is_over = after(table.over_since(id), self.limits.rate_ticks_max);
        let is_gone = table.gone_since(id).and_then(|since| after(since, self.handlers.keep_alive(id).close_timeout));
        is_over.into_iter().chain(is_gone).min()
    }
}
