//! The subscriptions of one connection.

use std::{mem, slice};

use super::{audience::AudienceId, format::Format, topic_id::TopicId};

/// One topic that a connection receives, or will receive when the topic's home has acknowledged the interest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Subscription {
    pub(super) topic: TopicId,
    pub(super) membership: Membership,
    /// The form in which the connection gets the topic's publications.
    pub(super) format: Format,
    /// Whether the connection receives its own messages too.
    pub(super) echo: bool,
    /// Whether the topic's policy may drop messages although no frame tells the client of it.
    pub(super) has_silent_lags: bool,
    /// Whether the visit of another walk has handed out the connection's share of the topic's walk. When the topic's
    /// own walk comes to the connection, that walk passes the connection and clears the flag. So a flag that is set
    /// always belongs to the walk under way.
    pub(super) is_taken: bool,
}

impl Subscription {
    /// Returns the audience that the connection stands in.
    #[inline]
    pub(super) fn audience(&self) -> AudienceId {
        AudienceId { topic: self.topic, format: self.format }
    }
}

/// The place of a subscription among all subscriptions of its audience.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Membership {
    /// No place yet: nothing is owed before the subscription goes live.
    Pending,
    /// This index in the list of subscribers that have joined during a walk.
    Joining(u32),
    /// This index in the dense array of members.
    Member(u32),
}

/// The subscriptions of one connection, each topic at most once. Nearly every connection has one subscription, which
/// costs nothing in addition to the connection itself. `M` is the note that the hub's owner keeps for a connection with
/// several subscriptions.
#[derive(Debug, Default)]
pub(super) enum Subscriptions<M> {
    #[default]
    None,
    One(Subscription),
    Several(Box<Several<M>>),
}

/// Two subscriptions or more, and the owner's note. The last subscription stays here while its share is taken, since a
/// walk looks for taken shares only here.
#[derive(Debug)]
pub(super) struct Several<M> {
    /// In the order of their topics' ids.
    list: Vec<Subscription>,
    note: M,
}

const _: () = {
    assert!(size_of::<Subscription>() == 16, "ARCHITECTURE.md adds up what a further subscription costs");
    assert!(size_of::<Subscriptions<u64>>() == 16, "ARCHITECTURE.md adds up what an idle connection costs");
};

impl<M: Default> Subscriptions<M> {
    /// Returns all subscriptions in the order of their topics' ids.
    pub(super) fn as_slice(&self) -> &[Subscription] {
        match self {
            Subscriptions::None => &[],
            Subscriptions::One(one) => slice::from_ref(one),
            Subscriptions::Several(several) => &several.list,
        }
    }

    /// Returns how many subscriptions there are.
    pub(super) fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Returns the subscription to a topic.
    pub(super) fn get(&self, topic: TopicId) -> Option<&Subscription> {
        match self {
            Subscriptions::None => None,
            Subscriptions::One(one) => (one.topic == topic).then_some(one),
            Subscriptions::Several(several) => several.find(topic).ok().map(|index| &several.list[index]),
        }
    }

    /// Returns the subscription to a topic.
    pub(super) fn get_mut(&mut self, topic: TopicId) -> Option<&mut Subscription> {
        match self {
            Subscriptions::None => None,
            Subscriptions::One(one) => (one.topic == topic).then_some(one),
            Subscriptions::Several(several) => several.find(topic).ok().map(|index| &mut several.list[index]),
        }
    }

    /// Adds a subscription to a topic that has none.
    pub(super) fn insert(&mut self, new: Subscription) {
        match self {
            Subscriptions::None => *self = Subscriptions::One(new),
            Subscriptions::One(one) => {
                assert_ne!(one.topic, new.topic, "a topic is subscribed at most once");
                let list = if one.topic < new.topic { vec![*one, new] } else { vec![new, *one] };
                *self = Subscriptions::Several(Box::new(Several { list, note: M::default() }));
            }
            Subscriptions::Several(several) => {
                let Err(index) = several.find(new.topic) else { unreachable!("a topic is subscribed at most once") };
                several.list.insert(index, new);
            }
        }
    }

    /// Removes the subscription to a topic.
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
                match several.list[..] {
                    [] => *self = Subscriptions::None,
                    [last] if !last.is_taken => *self = Subscriptions::One(last),
                    _ if several.list.len() < several.list.capacity() / 4 => {
                        several.list.shrink_to(2 * several.list.len());
                    }
                    _ => {}
                }
                Some(removed)
            }
        }
    }

    /// Returns whether the share of the subscription to a topic is taken, and clears the flag.
    pub(super) fn pass(&mut self, topic: TopicId) -> bool {
        let Subscriptions::Several(several) = self else { return false };
        let Ok(index) = several.find(topic) else { return false };
        let is_taken = mem::take(&mut several.list[index].is_taken);
        if is_taken && let [last] = several.list[..] {
            *self = Subscriptions::One(last);
        }
        is_taken
    }

    /// Returns whether there are several subscriptions: only then may a share be taken.
    #[inline]
    pub(super) fn are_several(&self) -> bool {
        matches!(self, Subscriptions::Several(_))
    }

    /// Returns the note of a connection with several subscriptions.
    pub(super) fn note(&mut self) -> Option<&mut M> {
        match self {
            Subscriptions::Several(several) => Some(&mut several.note),
            _ => None,
        }
    }
}

impl<M> Several<M> {
    fn find(&self, topic: TopicId) -> Result<usize, usize> {
        self.list.binary_search_by_key(&topic, |subscription| subscription.topic)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn subscription(topic: u32) -> Subscription {
        Subscription {
            topic: TopicId(topic),
            membership: Membership::Member(10 * topic),
            format: Format::RAW,
            echo: topic.is_multiple_of(2),
            has_silent_lags: false,
            is_taken: false,
        }
    }

    #[test]
    fn one_subscription_has_no_memory_of_its_own() {
        let mut subscriptions = Subscriptions::<()>::default();
        subscriptions.insert(subscription(5));
        assert!(matches!(subscriptions, Subscriptions::One(_)) && subscriptions.note().is_none());
        subscriptions.insert(subscription(3));
        assert!(subscriptions.note().is_some());
        assert_eq!(subscriptions.remove(TopicId(5)), Some(subscription(5)));
        assert!(matches!(subscriptions, Subscriptions::One(one) if one == subscription(3)));
    }

    /// A walk finds the taken share of the last subscription, whichever others were removed before.
    #[test]
    fn a_taken_subscription_stands_among_several() {
        let mut subscriptions = Subscriptions::<()>::default();
        (3..6).for_each(|topic| subscriptions.insert(subscription(topic)));
        subscriptions.get_mut(TopicId(4)).unwrap().is_taken = true;
        assert!(subscriptions.remove(TopicId(3)).is_some() && subscriptions.remove(TopicId(5)).is_some());
        assert!(subscriptions.are_several());
        assert!(!subscriptions.pass(TopicId(3)));
        assert!(subscriptions.pass(TopicId(4)));
        assert!(matches!(subscriptions, Subscriptions::One(one) if one == subscription(4)));
        assert!(!subscriptions.pass(TopicId(4)), "the next walk visits");
        subscriptions.insert(subscription(9));
        subscriptions.get_mut(TopicId(9)).unwrap().is_taken = true;
        assert!(subscriptions.remove(TopicId(4)).is_some());
        assert!(subscriptions.remove(TopicId(9)).is_some_and(|last| last.is_taken));
        assert!(matches!(subscriptions, Subscriptions::None));
    }

    #[test]
    fn memory_is_freed_as_subscriptions_are_removed() {
        let mut subscriptions = Subscriptions::<()>::default();
        (0..1_024).for_each(|topic| subscriptions.insert(subscription(topic)));
        (2..1_024).for_each(|topic| assert!(subscriptions.remove(TopicId(topic)).is_some()));
        let Subscriptions::Several(several) = &subscriptions else { panic!("two subscriptions are several") };
        assert!(several.list.capacity() <= 16, "{}", several.list.capacity());
    }

    proptest! {
        #[test]
        fn subscriptions_are_a_map(steps in prop::collection::vec((any::<bool>(), 0..12_u32), 0..80)) {
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
