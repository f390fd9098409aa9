//! Three promises about the end of a connection.
//!
//! - A drain closes no connection before certain messages have come: those for which the control thread got a place,
//!   and those that a shard took before it began to drain. The promise does not hold if a barrier is late.
//! - A client with an echo gets all messages that it sent before its close frame, or before it broke the protocol. They
//!   come before the server's close frame, whichever shard is the topic's home, unless the marks take too long.
//! - Input before the end of a client's side, and before a reset that leaves data readable, is taken whole.

use super::{
    client::{Client, Leaving},
    owed::Placed,
    simulation::{Simulation, count_up_to},
    socket::SimulatedIo,
};
use crate::{
    hub::ConnectionId,
    metrics::Counter,
    proto::CloseCode,
    shard::{io_state::ShardConnection, state::Shard},
};

/// Returns whether the connection gets the messages that come to its shard: it is open, or waits for its marks.
pub(super) fn receives(shard: &Shard<SimulatedIo>, id: ConnectionId, connection: &ShardConnection) -> bool {
    connection.is_open() || shard.marks.has(id)
}

impl Simulation {
    /// Returns the place in the topic's order up to which a client that was closed by the server is owed messages at
    /// least, if its subscription lasted as long as its connection.
    pub(super) fn owed_at_least(&self, client: &Client, topic: usize, order: &[Placed]) -> u64 {
        let mut place = client.open_until[topic];
        let is_drained = client.close.as_ref().is_some_and(|(code, _)| *code == CloseCode::SERVICE_RESTART);
        let is_late = self.drivers.iter().any(|driver| driver.counters.get(Counter::BarrierTimeout) > 0);
        let last = client.subscriptions.iter().rev().find(|subscription| subscription.topic == topic);
        let is_live = last.is_some_and(|last| last.live_at.is_some());
        if is_drained && !is_late && is_live {
            place = place.max(self.before_drain(topic, order));
        }
        if topic == client.topic && self.gets_its_own(client) {
            let last = order.iter().rposition(|placed| placed.is_sent_by(client));
            place = place.max(last.map_or(0, |last| last as u64 + 1));
        }
        place
    }

    /// Returns whether the last messages that the client has sent come back to it.
    fn gets_its_own(&self, client: &Client) -> bool {
        let live_at = client.subscriptions.last().and_then(|last| last.live_at);
        let has_echo = client.echo && client.publishes && live_at.is_some();
        let is_at_home = self.homes[client.topic] == client.shard && !self.is_of_engine(client.topic);
        let waits_for_marks = !client.has_late_marks && !self.plan.backlog_is_limited;
        match (client.leaving, client.close.as_ref().map(|(code, _)| *code)) {
            _ if !has_echo => false,
            (Some(Leaving::Goodbye), Some(CloseCode::NORMAL)) => waits_for_marks || is_at_home,
            (Some(Leaving::Breach), Some(CloseCode::PROTOCOL_ERROR)) => waits_for_marks || is_at_home,
            _ => false,
        }
    }

    /// Returns the place in the topic's order after the last message that was answered with a place, or taken by a
    /// shard before it began to drain.
    fn before_drain(&self, topic: usize, order: &[Placed]) -> u64 {
        let answered = self.control.posts.iter().filter(|post| post.topic == topic);
        let places = answered.filter_map(|post| post.place);
        let mut place = places.map(|place| count_up_to(self.order(topic), place)).max().unwrap_or(0);
        let mut left = self.taken_before_drain[topic].clone();
        for (at, placed) in order.iter().enumerate() {
            let Some(author) = placed.author.filter(|_| !placed.is_posted()) else { continue };
            if let Some(rest) = left[self.clients[author].shard].checked_sub(1) {
                left[self.clients[author].shard] = rest;
                place = place.max(at as u64 + 1);
            }
        }
        place
    }

    /// Returns whether all that the client has sent has arrived, and could be read.
    fn has_arrived_whole(&self, client: &Client) -> bool {
        let is_lost = self.drivers[client.shard].network.borrow().lines[client.line].is_lost;
        !client.is_truncated && !is_lost
    }

    /// Returns whether the shard had no reason to close the client but the client's own end.
    pub(super) fn is_left_alone(&self, client: &Client) -> bool {
        let is_limited = self.plan.backlog_is_limited || self.plan.unfinished_is_limited;
        let is_pinged = self.keep_alive.ping_interval > 0;
        !is_limited && !is_pinged && !self.is_draining && !client.asks_for_close && !client.is_closed_by_command
    }

    /// Returns whether every message that the client has sent must have a place, or must have come to its handler.
    pub(super) fn is_taken_whole(&self, client: &Client) -> bool {
        let code = client.close.as_ref().map(|(code, _)| *code);
        match client.leaving {
            Some(Leaving::Goodbye) => code == Some(CloseCode::NORMAL),
            Some(Leaving::Cut(_)) => client.has_ended_it && self.has_arrived_whole(client),
            _ => false,
        }
    }
}
