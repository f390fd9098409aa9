//! The notes that handlers and calls have taken, as the simulation reads them.

use std::mem;

use super::{
    answering::Note,
    client::{Span, Subscription},
    control::Answers,
    simulation::Simulation,
};
use crate::{handler::SubscribeError, hub::ConnectionId};

impl Simulation {
    /// Reads the notes of a turn or a call of this shard; `before` has the shard's places before the turn or the call.
    pub(super) fn read_notes(&mut self, shard: usize, before: &[u64]) {
        let notes = mem::take(&mut self.desk.papers().notes);
        if notes.is_empty() {
            return;
        }
        let after = self.places(shard);
        for note in notes {
            if self.is_logged {
                println!("{note:?}");
            }
            match note {
                Note::Message => self.drivers[shard].handled += 1,
                Note::Published { is_asked } => {
                    self.events.published_in_callbacks += 1;
                    self.unasked += usize::from(!is_asked);
                }
                Note::Subscribed { id, topic, echo, outcome } => {
                    self.note_subscribed(id, Subscription::new(topic, echo, before[topic]), outcome);
                }
                Note::Live { id, topic } => self.note_live(id, topic),
                Note::Unsubscribed { id, topic } => {
                    let client = &mut self.clients[self.numbers[&id]];
                    let subscription = client.subscription(topic).expect("only a subscription ends");
                    subscription.until = Some(Span { low: before[topic], high: after[topic] });
                    // The share of the topic may make a backlog of any size: the client had kept up.
                    client.backlog = None;
                }
            }
        }
    }

    /// Notes the outcome of subscribing.
    fn note_subscribed(&mut self, id: ConnectionId, new: Subscription, outcome: Result<(), SubscribeError>) {
        let client = &mut self.clients[self.numbers[&id]];
        let count = client.subscriptions.iter().filter(|subscription| subscription.until.is_none()).count();
        let expected = match client.subscription(new.topic) {
            _ if outcome == Err(SubscribeError::NotOpen) => outcome,
            Some(_) => Err(SubscribeError::Already),
            None if count >= self.plan.subscriptions_max => Err(SubscribeError::TooMany),
            None => Ok(()),
        };
        assert_eq!(outcome, expected, "client {} and topic {}", client.number, new.topic);
        if outcome.is_ok() {
            client.subscriptions.push(new);
        }
    }

    /// Notes that a subscription has gone live.
    fn note_live(&mut self, id: ConnectionId, topic: usize) {
        let live_at = self.ordered(topic);
        let client = &mut self.clients[self.numbers[&id]];
        self.events.far_subscriptions += u64::from(self.homes[topic] != client.shard);
        let subscription = client.subscription(topic).expect("only a subscription goes live");
        let earlier = subscription.live_at.replace(live_at);
        assert_eq!(earlier, None, "a subscription goes live once");
    }

    /// Notes the answers that the control thread has got.
    pub(super) fn note_answers(&mut self, Answers { places, accepted, connections }: Answers) {
        for number in places {
            self.events.posts += 1;
            self.events.posts_with_source += u64::from(self.control.posts[number].source.is_some());
            self.events.posts_in_drain += u64::from(self.is_draining);
        }
        for (client, ticket) in accepted {
            self.clients[client].accepted.push(ticket);
        }
        for (shard, clients, ids) in connections {
            assert!(ids.iter().all(|id| id.shard() == shard && self.numbers.contains_key(id)), "unknown: {ids:?}");
            for client in self.clients[..clients].iter().filter(|client| client.shard == usize::from(shard)) {
                let id = client.id.expect("it has joined");
                let connection = self.drivers[client.shard].shard.hub.connections.get(id);
                let is_open = connection.is_some_and(|connection| connection.is_open());
                assert!(!is_open || ids.contains(&id), "client {} is open and not listed", client.number);
            }
        }
    }
}
