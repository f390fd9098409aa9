//! Names the members of topics whose rules keep presence: the identities of the connections that have subscribed.

use super::state::Shard;
use crate::{handler::Seat, sys::Io};

impl<I: Io> Shard<I> {
    /// Tells the hub which members new subscriptions count for.
    pub(super) fn name_members(&mut self) {
        if !self.hub.has_newcomers() {
            return;
        }
        for (id, topic) in self.hub.take_newcomers() {
            // The slot of a connection that has ended may have no seat.
            if self.hub.connections.get(id).is_some() {
                let (route, key) = self.handlers.seats[id.slot() as usize];
                let member = self.handlers.routes[usize::from(route)].handler.member(Seat { id, key });
                self.hub.attend(id, topic, member);
            }
        }
    }

    /// Does what is due for the presence of topics, before the shard sends to other shards.
    pub(super) fn advance_presence(&mut self) {
        self.hub.sweep_presence();
        self.name_members();
        self.hub.advance_presence();
    }
}
