//! Pauses single connections: connections that are owed much, and connections whose messages go to a home or a topic
//! that is behind. Lets these, and throttled connections, be received from again.

use super::{
    incoming::{Queue, STAYS_IN_PLACE},
    io_state::Reading,
    state::Shard,
};
use crate::{
    hub::{ConnectionId, Homes},
    metrics::Counter,
    proto::State,
    sys::Io,
};

impl<I: Io> Shard<I> {
    /// Returns whether the connection is owed so much that it is not received from: more than half of one of the
    /// backlog's limits. Messages that a policy may drop do not count: while the connection lags, there are always many
    /// of them, so a client that reads too slowly would never be heard. A connection that is closing is always received
    /// from, since its client's goodbye or end is awaited.
    pub(super) fn owes_much(&self, id: ConnectionId) -> bool {
        let Some(connection) = self.hub.connections.get(id) else { return false };
        let Some(output) = &connection.io.output else { return false };
        let limits = &self.limits;
        let is_much = |bytes: usize, messages: u64| {
            bytes > limits.backlog_bytes_max / 2 || messages > limits.backlog_messages_max / 2
        };
        let owes_much = || {
            let (bytes, messages) = output.backlog.undroppable();
            is_much(bytes.saturating_add(output.outbox.capacity()), messages)
        };
        is_much(output.bytes(), output.backlog.messages())
            && owes_much()
            && connection.io.session.state() == State::Open
            && !self.handlers.has_manual_backpressure(id)
    }

    /// Lets a parked connection be received from again if it has taken enough of its backlog, or is closing.
    pub(super) fn unpark(&mut self, id: ConnectionId) {
        let is_parked = self.hub.connections.get(id).is_some_and(|connection| connection.io.reading == Reading::Parked);
        if is_parked
            && !self.owes_much(id)
            && let Some(connection) = self.hub.connections.get_mut(id)
        {
            self.incoming.unpark(connection, id, self.now);
            self.schedule(id);
        }
    }

    /// Lets a throttled connection be received from again if its rates allow it, or if it is closing.
    pub(super) fn unthrottle(&mut self, id: ConnectionId) {
        let is_throttled =
            self.hub.connections.get(id).is_some_and(|connection| connection.io.reading == Reading::Throttled);
        if is_throttled
            && self.exceeded_rate(id).is_none()
            && let Some(connection) = self.hub.connections.get_mut(id)
            && let Some(table) = &mut self.rates
        {
            table.resume(id, self.now);
            self.incoming.unthrottle(connection, id, self.now);
            self.note_throttled();
            self.schedule(id);
        }
    }

    /// Returns whether there is a connection to receive from or to parse.
    pub(super) fn has_input(&self) -> bool {
        self.incoming.has_next(|homes| self.hub.is_behind(homes))
    }

    /// Returns the homes that the client's next message goes to, or may go to, and its topic, if the message may have
    /// to wait for them. A connection that is closing is always received from, since its client's goodbye or end is
    /// awaited, and its messages go nowhere.
    pub(super) fn next_homes(&self, id: ConnectionId) -> impl Iterator<Item = Homes> + Clone + use<I> {
        let connection = self.hub.connections.get(id).filter(|connection| connection.io.session.state() == State::Open);
        let [homes, topic] = match connection.map(|connection| connection.publishes) {
            None => [None, None],
            Some(Some(publishing)) => [self.hub.homes_of(publishing), Some(Homes::Topic(publishing.topic))],
            Some(None) => [self.handlers.route(id).handler.publishes().then_some(Homes::Any), None],
        };
        homes.into_iter().chain(topic)
    }

    /// Returns the homes, or the topic, that the connection has to wait for, since they are behind. The shard assumes
    /// that a handler publishes again to the homes, or the topic, that its connection has just waited for.
    #[inline]
    pub(super) fn lacking(&self, id: ConnectionId) -> Option<Homes> {
        if !self.hub.has_waiting() {
            return None;
        }
        let homes = self.next_homes(id);
        let awaited = self.incoming.has_awaited(id).filter(|_| homes.clone().next().is_some());
        homes.chain(awaited).find(|&homes| self.hub.is_behind(homes))
    }

    /// Notes that the connection waits for these homes, unless it is closing.
    pub(super) fn await_home(&mut self, id: ConnectionId, homes: Homes, queue: Queue) {
        let Some(connection) = self.hub.connections.get_mut(id) else { return };
        if connection.io.session.state() != State::Open {
            return;
        }
        self.incoming.await_home(connection, id, homes, queue, self.now);
        self.count_wait(homes);
        let connections = &self.hub.connections;
        let waits = |id| connections.get(id).is_some_and(|connection| connection.io.reading == Reading::AwaitsHome);
        self.incoming.compact_awaiting(waits);
    }

    /// Counts a connection that begins to wait for these homes.
    pub(super) fn count_wait(&self, homes: Homes) {
        let is_topic = matches!(homes, Homes::Topic(_));
        self.count(if is_topic { Counter::AwaitedTopic } else { Counter::AwaitedHome }, 1);
    }

    /// Lets a connection that waits for a home or a topic be received from again, if it is closing.
    fn leave_home(&mut self, id: ConnectionId) {
        let Some(connection) = self.hub.connections.get_mut(id) else { return };
        if connection.io.reading == Reading::AwaitsHome && connection.io.session.state() != State::Open {
            self.incoming.leave_home(connection, id, self.now);
            self.schedule(id);
        }
    }

    /// Lets parsing drop the rest of a message that a closing connection does not take any more.
    pub(super) fn drop_partial(&mut self, id: ConnectionId) {
        self.unpark(id);
        self.unthrottle(id);
        self.leave_home(id);
        self.incoming.unfinished.forget(id);
        let Some(connection) = self.hub.connections.get_mut(id) else { return };
        if connection.io.session.state() == State::Closed {
            return self.incoming.drop_input(connection);
        }
        // A shorter rest may be the beginning of a header or of the peer's goodbye, and stays.
        if !connection.io.has_unparsed
            && connection.io.partial.as_ref().is_some_and(|partial| partial.len() >= STAYS_IN_PLACE)
            && let Some(rest) = connection.io.partial.take()
        {
            self.incoming.keep_unparsed(connection, *rest);
            self.incoming.push_busy(connection, id);
        }
    }
}
