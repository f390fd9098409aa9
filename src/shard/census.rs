//! Answers commands about many connections, a bounded step for each command: pages of connections, and closes of all
//! connections of one owner.

use std::{sync::Arc, time::Duration};

use super::{io_state::ShardConnection, state::Shard};
use crate::{
    handler::Seat,
    hub::{ConnectionFilter, ConnectionId, ConnectionSummary, LOOKS_MAX, PagePart, ROWS_MAX, Who},
    metrics::Counter,
    proto::{CloseCode, State, Tick},
    sys::Io,
};

impl<I: Io> Shard<I> {
    /// Returns summaries of open connections from a slot on: at most `rows_max` and [`ROWS_MAX`], of at most
    /// [`LOOKS_MAX`] slots that are looked at.
    pub(super) fn page(&self, filter: &ConnectionFilter, from: u32, rows_max: usize) -> PagePart {
        let most = rows_max.min(ROWS_MAX);
        match &filter.identity {
            Some(name) => {
                let slots = self.people.slots(&Who::Identity(Arc::clone(name)), from);
                self.page_of(slots, filter, most)
            }
            None => self.page_of(from..self.hub.connections.slots(), filter, most),
        }
    }

    fn page_of(&self, slots: impl Iterator<Item = u32>, filter: &ConnectionFilter, most: usize) -> PagePart {
        let mut part = PagePart::default();
        for (looks, slot) in slots.enumerate() {
            if part.connections.len() == most || looks == LOOKS_MAX as usize {
                part.next = Some(slot);
                break;
            }
            let Some(id) = self.open_at(slot) else { continue };
            if filter.topic.as_ref().is_none_or(|topic| self.hub.is_subscribed(id, topic)) {
                part.connections.push(self.summary(id));
            }
        }
        part
    }

    /// Begins the closing handshakes of open connections of one owner, from a slot on: at most [`ROWS_MAX`], of at most
    /// [`LOOKS_MAX`] that are looked at. A connection whose socket has failed counts as open while its session is: the
    /// shard still handles its messages. Returns how many were open, and the slot with which the next step begins.
    pub(super) fn close_all(&mut self, who: &Who, from: u32, code: CloseCode, reason: &str) -> (u32, Option<u32>) {
        let looks = LOOKS_MAX as usize;
        let mut slots: Vec<u32> = self.people.slots(who, from).take(looks + 1).collect();
        let mut next = if slots.len() > looks { slots.pop() } else { None };
        let mut closed = 0;
        for slot in slots {
            if closed as usize == ROWS_MAX {
                next = Some(slot);
                break;
            }
            let Some(id) = self.hub.connections.id_at(slot) else { continue };
            if self.hub.connections.get(id).is_some_and(|connection| connection.io.session.state() == State::Open) {
                self.disconnect(id, code, reason);
                closed += 1;
            }
        }
        (closed, next)
    }

    /// Begins the closing handshake of an open connection for somebody who looks at the server from outside.
    pub(super) fn disconnect(&mut self, id: ConnectionId, code: CloseCode, reason: &str) {
        self.count(Counter::Disconnected, 1);
        if code == CloseCode::POLICY_VIOLATION {
            self.count(Counter::PolicyClosed, 1);
        }
        self.close(id, code, reason);
    }

    /// Returns the id of a slot's connection, if messages may be sent to it.
    fn open_at(&self, slot: u32) -> Option<ConnectionId> {
        let id = self.hub.connections.id_at(slot)?;
        self.hub.connections.get(id).is_some_and(ShardConnection::is_open).then_some(id)
    }

    fn summary(&self, id: ConnectionId) -> ConnectionSummary {
        let slot = id.slot();
        let (route, key) = self.handlers.seats[slot as usize];
        let route = &self.handlers.routes[usize::from(route)];
        let about = route.handler.about(Seat { id, key });
        let (topics, topic_count) = self.hub.some_subscriptions(id, ConnectionSummary::TOPICS_MAX);
        let output = self.hub.connections.get(id).and_then(|connection| connection.io.output.as_ref());
        let ticks = self.now.0.saturating_sub(self.opened[slot as usize].0);
        ConnectionSummary {
            id,
            identity: self.people.identity(slot).cloned(),
            address: about.peer.or_else(|| self.addresses_of(id).0),
            route: Arc::clone(&route.name),
            path: about.path,
            protocol: about.protocol,
            topics,
            topic_count,
            age: Duration::from_millis(Tick(ticks).begin().0),
            owed_bytes: output.map_or(0, |output| output.bytes()),
        }
    }
}
