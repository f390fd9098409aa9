//! The topics that one connection receives: subscribing, and giving up.

use std::{mem, slice};

use super::{
    Attachment, ConnectionId, Connections, Hub, Piece, TopicId, TopicName,
    topics::{Interest, VACANT},
};
use crate::proto::State;

/// What became of the wish to subscribe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subscribed {
    /// The connection is a subscriber, and owed every message published from here on.
    Live,
    /// It will be one when [`Hub::take_delivery`] or [`Hub::release`] says so, and must not be told before.
    Waiting,
    /// It was one before this call, or waits to be. Nothing has changed, the echo neither.
    Already,
    /// Refused: it has [`HubLimits::subscriptions_max`](super::HubLimits::subscriptions_max) of them.
    TooMany,
    /// Refused: the connection is closing, or is gone.
    Closed,
}

/// A subscription that has gone live after it had to wait: the connection may be told, and is owed every message
/// published from here on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// Who subscribed.
    pub id: ConnectionId,
    /// The topic.
    pub topic: TopicName,
}

/// One topic that a connection receives, or will as soon as the topic's home has said so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Subscription {
    pub(super) topic: TopicId,
    pub(super) standing: Standing,
    /// Does the connection receive its own messages?
    pub(super) echo: bool,
}

/// Where a subscription stands among those of its topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nowhere yet: owed nothing before it goes live.
    Waiting,
    /// In the side list of those who joined during a walk.
    Joiner(u32),
    /// In the dense array.
    Member(u32),
}

/// The subscriptions of one connection, each topic at most once. Nearly every connection has one, which costs nothing
/// beside the connection itself.
#[derive(Debug, Default)]
pub(super) enum Subscriptions<M> {
    #[default]
    None,
    One(Subscription),
    Several(Box<Several<M>>),
}

/// Two subscriptions or more.
#[derive(Debug)]
pub(super) struct Several<M> {
    /// In the order of their topics' ids.
    list: Vec<Subscription>,
    /// What the hub's owner keeps of the connection only if it has several.
    mark: M,
}

impl<M: Default> Subscriptions<M> {
    /// All of them, by topic.
    pub(super) fn as_slice(&self) -> &[Subscription] {
        match self {
            Subscriptions::None => &[],
            Subscriptions::One(one) => slice::from_ref(one),
            Subscriptions::Several(several) => &several.list,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.as_slice().len()
    }

    pub(super) fn get(&self, topic: TopicId) -> Option<&Subscription> {
        match self {
            Subscriptions::None => None,
            Subscriptions::One(one) => (one.topic == topic).then_some(one),
            Subscriptions::Several(several) => several.find(topic).ok().map(|index| &several.list[index]),
        }
    }

    pub(super) fn get_mut(&mut self, topic: TopicId) -> Option<&mut Subscription> {
        match self {
            Subscriptions::None => None,
            Subscriptions::One(one) => (one.topic == topic).then_some(one),
            Subscriptions::Several(several) => several.find(topic).ok().map(|index| &mut several.list[index]),
        }
    }

    /// Adds a topic that is not among them.
    pub(super) fn insert(&mut self, new: Subscription) {
        match self {
            Subscriptions::None => *self = Subscriptions::One(new),
            Subscriptions::One(one) => {
                debug_assert_ne!(one.topic, new.topic);
                let list = if one.topic < new.topic { vec![*one, new] } else { vec![new, *one] };
                *self = Subscriptions::Several(Box::new(Several { list, mark: M::default() }));
            }
            Subscriptions::Several(several) => {
                let Err(index) = several.find(new.topic) else { unreachable!("a topic is subscribed at most once") };
                several.list.insert(index, new);
            }
        }
    }

    /// Takes a topic out.
    pub(super) fn remove(&mut self, topic: TopicId) -> Option<Subscription> {
        match self {
            Subscriptions::None => None,
            Subscriptions::One(one) if one.topic != topic => None,
            Subscriptions::One(one) => {
                let removed = *one;
                *self = Subscriptions::None;
                Some(removed)
            }
            Subscriptions::Several(several) => {
                let index = several.find(topic).ok()?;
                let removed = several.list.remove(index);
                if let [last] = several.list[..] {
                    *self = Subscriptions::One(last);
                } else if several.list.len() < several.list.capacity() / 4 {
                    several.list.shrink_to(2 * several.list.len());
                }
                Some(removed)
            }
        }
    }

    /// Returns what the hub's owner keeps of a connection with several.
    pub(super) fn mark(&mut self) -> Option<&mut M> {
        match self {
            Subscriptions::Several(several) => Some(&mut several.mark),
            _ => None,
        }
    }
}

impl<M> Several<M> {
    fn find(&self, topic: TopicId) -> Result<usize, usize> {
        self.list.binary_search_by_key(&topic, |subscription| subscription.topic)
    }
}

impl<T: Attachment> Hub<T> {
    /// Makes the connection a subscriber of the topic. With `echo` it receives its own messages too.
    pub fn subscribe(&mut self, id: ConnectionId, name: &TopicName, echo: bool) -> Subscribed {
        let Some(connection) = self.connections.get_mut(id) else { return Subscribed::Closed };
        if connection.websocket.state() != State::Open {
            return Subscribed::Closed;
        }
        let subscriptions = &mut connection.subscriptions;
        if self.topics.find(name).is_some_and(|topic| subscriptions.get(topic).is_some()) {
            return Subscribed::Already;
        }
        if subscriptions.len() >= self.limits.subscriptions_max {
            return Subscribed::TooMany;
        }
        let topic_id = self.topics.attach(name);
        subscriptions.insert(Subscription { topic: topic_id, standing: Standing::Waiting, echo });
        let is_held = connection.is_held;
        let topic = &mut self.topics[topic_id];
        topic.subscribed += 1;
        if topic.is_live(self.mesh.number()) {
            if is_held {
                return Subscribed::Waiting;
            }
            self.join(id, topic_id);
            return Subscribed::Live;
        }
        self.wait(id, topic_id);
        Subscribed::Waiting
    }

    /// Ends a subscription. Returns what the connection is still owed of the topic: what was gathered before this call
    /// and has not come to it yet.
    ///
    /// If it was held for the topic, [`Hub::release`] must follow.
    pub fn unsubscribe(&mut self, id: ConnectionId, name: &TopicName) -> Vec<Piece> {
        let Some(topic) = self.topics.find(name) else { return Vec::new() };
        let connection = self.connections.get_mut(id);
        let Some(subscription) = connection.and_then(|connection| connection.subscriptions.remove(topic)) else {
            return Vec::new();
        };
        let owed = self.owed(id, &[subscription]);
        self.forget(&subscription);
        owed
    }

    /// The topics that the connection has subscribed to, waiting ones included.
    #[must_use]
    pub fn subscriptions(&self, id: ConnectionId) -> Vec<TopicName> {
        let connection = self.connections.get(id);
        let subscriptions = connection.map_or(&[][..], |connection| connection.subscriptions.as_slice());
        subscriptions.iter().map(|subscription| self.topics[subscription.topic].name.clone()).collect()
    }

    /// Ends all of the connection's subscriptions and returns what it is owed up to now, for each topic in order: its
    /// share of the walk under way if that has not come to it yet, and of what has been gathered since.
    pub fn leave(&mut self, id: ConnectionId) -> Vec<Piece> {
        let subscriptions = self.take_subscriptions(id);
        let owed = self.owed(id, subscriptions.as_slice());
        subscriptions.as_slice().iter().for_each(|subscription| self.forget(subscription));
        owed
    }

    /// Ends all of the connection's subscriptions. It is owed nothing more.
    pub fn unsubscribe_all(&mut self, id: ConnectionId) {
        let subscriptions = self.take_subscriptions(id);
        subscriptions.as_slice().iter().for_each(|subscription| self.forget(subscription));
    }

    /// Is the connection a subscriber of the topic, and owed its messages?
    #[must_use]
    pub fn is_subscribed(&self, id: ConnectionId, name: &TopicName) -> bool {
        let subscription = self.topics.find(name).and_then(|topic| self.connections.get(id)?.subscriptions.get(topic));
        subscription.is_some_and(|subscription| subscription.standing != Standing::Waiting)
    }

    /// From here on the connection is owed every message of the topic.
    pub(super) fn join(&mut self, id: ConnectionId, topic_id: TopicId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let Some(subscription) = connection.subscriptions.get_mut(topic_id) else { return };
        debug_assert_eq!(subscription.standing, Standing::Waiting, "who joins is not there yet");
        let topic = &mut self.topics[topic_id];
        if let Some(run) = &mut topic.run {
            let before = run.weight();
            run.join(id.slot());
            self.gathered_bytes = self.gathered_bytes - before + run.weight();
        }
        let list = if topic.walk.is_some() { &mut topic.joiners } else { &mut topic.members };
        let index = list.len() as u32;
        list.push(id.slot());
        subscription.standing = if topic.walk.is_some() { Standing::Joiner(index) } else { Standing::Member(index) };
    }

    /// What the subscriptions of a connection are owed and has not come to it.
    fn owed(&mut self, id: ConnectionId, subscriptions: &[Subscription]) -> Vec<Piece> {
        let mut owed = Vec::new();
        for subscription in subscriptions {
            let topic = &mut self.topics[subscription.topic];
            if let Standing::Member(index) = subscription.standing
                && let Some(walk) = &mut topic.walk
                && walk.is_ahead_of(index)
            {
                owed.extend(walk.run.owed(id.slot()));
            }
            if subscription.standing != Standing::Waiting
                && let Some(run) = &mut topic.run
            {
                let before = run.weight();
                owed.extend(run.owed(id.slot()));
                self.gathered_bytes = self.gathered_bytes - before + run.weight();
            }
        }
        owed
    }

    fn take_subscriptions(&mut self, id: ConnectionId) -> Subscriptions<T::Mark> {
        self.connections.get_mut(id).map(|connection| mem::take(&mut connection.subscriptions)).unwrap_or_default()
    }

    /// The topic's side of a subscription that its connection has given up.
    fn forget(&mut self, &Subscription { topic: topic_id, standing, .. }: &Subscription) {
        let topic = &mut self.topics[topic_id];
        topic.subscribed -= 1;
        match standing {
            Standing::Waiting => {}
            Standing::Joiner(index) => {
                topic.joiners.swap_remove(index as usize);
                if let Some(&moved) = topic.joiners.get(index as usize) {
                    Self::moved(&mut self.connections, moved, topic_id, standing);
                }
            }
            Standing::Member(index) if topic.walk.is_some() => {
                topic.members[index as usize] = VACANT;
                topic.vacant += 1;
            }
            Standing::Member(index) => {
                topic.members.swap_remove(index as usize);
                if let Some(&moved) = topic.members.get(index as usize) {
                    Self::moved(&mut self.connections, moved, topic_id, standing);
                }
            }
        }
        if topic.subscribed == 0 {
            topic.interest = Interest::None;
            topic.waiting = Vec::new();
        }
        self.detach(topic_id);
    }

    /// A subscriber stands elsewhere now.
    pub(super) fn moved(connections: &mut Connections<T>, slot: u32, topic: TopicId, standing: Standing) {
        let connection = connections.at_mut(slot).expect("a subscriber is a connection");
        connection.subscriptions.get_mut(topic).expect("and knows that it is one").standing = standing;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn subscription(topic: u32) -> Subscription {
        Subscription { topic: TopicId(topic), standing: Standing::Member(10 * topic), echo: topic.is_multiple_of(2) }
    }

    #[test]
    fn one_needs_no_memory_of_its_own() {
        assert_eq!(size_of::<Subscriptions<()>>(), 16);
        let mut subscriptions = Subscriptions::<()>::default();
        subscriptions.insert(subscription(5));
        assert!(matches!(subscriptions, Subscriptions::One(_)) && subscriptions.mark().is_none());
        subscriptions.insert(subscription(3));
        assert!(subscriptions.mark().is_some());
        assert_eq!(subscriptions.remove(TopicId(5)), Some(subscription(5)));
        assert!(matches!(subscriptions, Subscriptions::One(one) if one == subscription(3)));
    }

    #[test]
    fn memory_is_given_back_as_they_go() {
        let mut subscriptions = Subscriptions::<()>::default();
        (0..1_024).for_each(|topic| subscriptions.insert(subscription(topic)));
        (2..1_024).for_each(|topic| assert!(subscriptions.remove(TopicId(topic)).is_some()));
        let Subscriptions::Several(several) = &subscriptions else { panic!("two are several") };
        assert!(several.list.capacity() <= 16, "{}", several.list.capacity());
    }

    proptest! {
        #[test]
        fn they_are_a_map(steps in prop::collection::vec((any::<bool>(), 0..12_u32), 0..80)) {
            let mut map: BTreeMap<u32, Subscription> = BTreeMap::new();
            let mut subscriptions = Subscriptions::<()>::default();
            for (adds, topic) in steps {
                if adds && !map.contains_key(&topic) {
                    map.insert(topic, subscription(topic));
                    subscriptions.insert(subscription(topic));
                } else if !adds {
                    prop_assert_eq!(subscriptions.remove(TopicId(topic)), map.remove(&topic));
                }
                prop_assert_eq!(subscriptions.as_slice(), map.values().copied().collect::<Vec<_>>());
                for topic in 0..12 {
                    prop_assert_eq!(subscriptions.get(TopicId(topic)), map.get(&topic));
                    prop_assert_eq!(subscriptions.get_mut(TopicId(topic)).copied(), map.get(&topic).copied());
                }
            }
        }
    }
}
