//! The external ends that wait for subscriptions of connections to go live.

use std::collections::HashMap;

use crate::hub::{ConnectionId, TopicName};

/// The external ends that have asked for subscriptions, until these are live or have ended.
#[derive(Debug, Default)]
pub(super) struct Joining {
    /// The numbers of the ends, and the tickets of their answers.
    askers: HashMap<(ConnectionId, TopicName), Vec<(u16, u64)>>,
}

impl Joining {
    /// Notes that an end waits for a subscription.
    pub(super) fn add(&mut self, id: ConnectionId, topic: TopicName, end: u16, ticket: u64) {
        self.askers.entry((id, topic)).or_default().push((end, ticket));
    }

    /// Takes the ends that wait for a subscription.
    pub(super) fn take(&mut self, id: ConnectionId, topic: &TopicName) -> Vec<(u16, u64)> {
        if self.askers.is_empty() {
            return Vec::new();
        }
        self.askers.remove(&(id, topic.clone())).unwrap_or_default()
    }

    /// Takes the ends that wait for any subscription of a connection that has ended.
    pub(super) fn take_all(&mut self, id: ConnectionId) -> Vec<(u16, u64)> {
        let mut taken = Vec::new();
        self.askers.retain(|(of, _), askers| {
            if *of == id {
                taken.append(askers);
            }
            *of != id
        });
        taken
    }
}
