//! Compares the messages that a client has received with the messages that it is owed: pieces of the topics' orders.

use std::collections::BTreeSet;

use super::{
    client::{Client, Span},
    names::{CONTROL, Name, Stream, read_name, sender, stream_of, topic_of},
    simulation::Simulation,
};
use crate::hub::Place;

/// A message in its topic's order.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placed {
    pub(super) name: Name,
    /// The client that is the message's source: it gets the message only with an echo.
    pub(super) author: Option<usize>,
    pub(super) place: Place,
}

impl Placed {
    /// Returns whether the control thread has published the message.
    pub(super) fn is_posted(&self) -> bool {
        sender(self.name) == Some(CONTROL)
    }

    /// Returns whether the client has sent the message itself.
    pub(super) fn is_sent_by(&self, client: &Client) -> bool {
        self.author == Some(client.number) && !self.is_posted() && stream_of(self.name) == Stream::Forwarded
    }
}

/// A part of a topic's order that a client is owed, by one subscription.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    echo: bool,
    from: Span,
    until: Span,
}

/// The outcome of comparing the messages that a client has received of a topic with those that it was owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Whole,
    /// The last messages are missing.
    Beginning,
    Different,
}

impl Part {
    /// Compares the messages received from number `at` on with this part, as if the part began at the place `from`.
    /// Adds to `ends` each number at which the part's messages may end among the received messages. Returns whether the
    /// received messages end within the part.
    fn compare(
        &self,
        client: &Client,
        order: &[Placed],
        received: &[Name],
        (mut at, from): (usize, u64),
        ends: &mut BTreeSet<usize>,
    ) -> bool {
        for place in from..=self.until.high.max(from) {
            if place >= self.until.low {
                ends.insert(at);
            }
            let Some(placed) = order.get(place as usize).filter(|_| place < self.until.high) else { break };
            if !self.echo && placed.author == Some(client.number) {
                continue;
            }
            if received.get(at) != Some(&placed.name) {
                return at == received.len();
            }
            at += 1;
        }
        false
    }

    /// Returns how many messages of the order the part has for the client at least, and at most.
    fn count(&self, client: &Client, order: &[Placed]) -> (u64, u64) {
        let count = |from: u64, until: u64| {
            let until = until.min(order.len() as u64);
            let part = &order[from.min(until) as usize..until as usize];
            part.iter().filter(|placed| self.echo || placed.author != Some(client.number)).count() as u64
        };
        (count(self.from.high, self.until.low), count(self.from.low, self.until.high))
    }
}

/// Returns the parts of a topic's order that the client is owed. A subscription that has lasted as long as the
/// connection ends at `end`.
pub(super) fn parts(client: &Client, topic: usize, end: Span) -> Vec<Part> {
    let own = client.subscriptions.iter().filter(|subscription| subscription.topic == topic);
    own.map(|subscription| {
        let until = subscription.until.unwrap_or(end);
        let low = subscription.asked_at;
        let high = subscription.live_at.unwrap_or(until.high).max(low);
        Part { echo: subscription.echo, from: Span { low, high }, until }
    })
    .collect()
}

/// Compares the messages that the client has received of a topic with these parts of the topic's order.
pub(super) fn compare(client: &Client, topic: usize, order: &[Placed], parts: &[Part]) -> Comparison {
    let received: Vec<Name> = client.received.iter().copied().filter(|&name| topic_of(name) == topic).collect();
    let mut starts = BTreeSet::from([0]);
    let mut is_beginning = false;
    for part in parts {
        let mut ends = BTreeSet::new();
        for start in starts {
            for from in part.from.low..=part.from.high {
                is_beginning |= part.compare(client, order, &received, (start, from), &mut ends);
            }
        }
        starts = ends;
    }
    match () {
        () if starts.contains(&received.len()) => Comparison::Whole,
        () if is_beginning => Comparison::Beginning,
        () => Comparison::Different,
    }
}

impl Simulation {
    /// Returns the order of each topic, as its home has distributed it.
    pub(super) fn orders(&self) -> Vec<Vec<Placed>> {
        let order = |topic: usize| {
            let placed = self.order(topic).iter().map(|ordered| Placed {
                name: read_name(&ordered.beginning),
                author: ordered.source.map(|id| self.numbers[&id]),
                place: ordered.tag.place.expect("it has been ordered"),
            });
            placed.collect()
        };
        (0..self.topics.len()).map(order).collect()
    }

    /// Returns how many messages the client was owed at its end, at least and at most.
    pub(super) fn owed_at_end(&self, client: &Client, orders: &[Vec<Placed>]) -> (u64, u64) {
        let closed_at = client.closed_at.as_ref().expect("it is closed");
        let (mut least, mut most) = (0, 0);
        for (topic, order) in orders.iter().enumerate() {
            let end = Span { low: client.open_until[topic], high: closed_at[topic] };
            for part in parts(client, topic, end) {
                let (low, high) = part.count(client, order);
                (least, most) = (least + low, most + high);
            }
        }
        (least, most)
    }
}
