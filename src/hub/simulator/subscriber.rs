//! A subscription in the simulator, and the messages that its connection must have received through it.

use std::collections::HashMap;

use crate::hub::{ConnectionId, Place};

/// A subscription, and the messages that it has brought.
#[derive(Clone)]
pub(super) struct Subscriber {
    pub(super) id: ConnectionId,
    pub(super) topic: usize,
    pub(super) echo: bool,
    /// Whether the subscription is at the topic's home and never ends, so that it sees the one order.
    pub(super) is_observer: bool,
    /// How many messages the home had ordered when the connection was told of the subscription.
    pub(super) told_at: Option<u64>,
    pub(super) seen: Vec<String>,
    /// The places of the messages in the order, if the subscriber's format tells them.
    pub(super) places: Vec<(String, Place)>,
}

impl Subscriber {
    /// Returns the seen messages that have a place in the topic's order.
    pub(super) fn seen_in_order(&self) -> Vec<&String> {
        self.seen.iter().filter(|text| !is_local(text)).collect()
    }

    /// Checks that the subscription has seen a part of the topic's order without a gap or a repetition. The part begins
    /// where the connection was told, and reaches to the end if the subscription is live. Without echo it lacks the
    /// connection's own messages.
    pub(super) fn check(&self, order: &[&String], places: Option<&[Place]>, is_live: bool) {
        let Subscriber { id, echo, .. } = self;
        let seen = self.seen_in_order();
        let Some(told_at) = self.told_at else {
            assert!(seen.is_empty(), "{id} has seen something before it was told");
            return;
        };
        let position: HashMap<&String, usize> = order.iter().enumerate().map(|(at, text)| (*text, at)).collect();
        let first = seen.first().map_or(order.len(), |text| position[text]);
        let last = if is_live { order.len() } else { seen.last().map_or(first, |text| position[text] + 1) };
        // Only the connection's own messages stand between the place where it was told and the first message that it
        // has seen.
        for (text, place) in &self.places {
            let at = position[text];
            // A home numbers its messages one by one; an engine need not.
            let own = Place { offset: at as u64 + 1, previous: at as u64, ..*place };
            assert_eq!(*place, places.map_or(own, |places| places[at]), "{id} {text}");
        }
        let from = first.min(told_at as usize);
        let owed = order[from..last.max(from)].iter().filter(|text| *echo || !self.is_own(text)).copied();
        let owed: Vec<&String> = if is_live { owed.collect() } else { owed.take(seen.len()).collect() };
        assert_eq!(seen, owed, "{id} echo {echo} told {told_at}");
        // Local messages stay on their shard.
        for text in self.seen.iter().filter(|text| is_local(text)) {
            let shard = source(text).split('.').next().unwrap();
            assert_eq!(shard, id.shard().to_string());
            assert!(*echo || !self.is_own(text));
        }
    }

    fn is_own(&self, text: &str) -> bool {
        source(text) == self.id.to_string()
    }
}

fn is_local(text: &str) -> bool {
    text.starts_with("local ")
}

/// Returns the connection that has published a message.
fn source(text: &str) -> &str {
    text.trim_start_matches("local ").split(' ').next().unwrap_or_default()
}
