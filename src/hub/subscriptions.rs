//! The topics that one connection receives.

use std::slice;

use super::TopicId;

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
pub(super) enum Subscriptions {
    #[default]
    None,
    One(Subscription),
    Several(Box<Several>),
}

/// Two subscriptions or more.
#[derive(Debug)]
pub(super) struct Several {
    /// In the order of their topics' ids.
    list: Vec<Subscription>,
    door: Door,
}

/// The entry of a batch that a connection with several subscriptions leaves by: its shares of all the batch's walks are
/// to be found there, since a connection stands at most once in a batch. Any other is in at most one walk.
#[derive(Debug, Clone, Copy, Default)]
pub struct Door {
    /// The batch's number; from 1.
    pub batch: u64,
    /// The entry's index.
    pub entry: u32,
    /// Pieces of memory in it so far.
    pub pieces: u32,
}

impl Subscriptions {
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
                *self = Subscriptions::Several(Box::new(Several { list, door: Door::default() }));
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

    /// The door of a connection that may be in several walks of a batch.
    pub(super) fn door(&mut self) -> Option<&mut Door> {
        match self {
            Subscriptions::Several(several) => Some(&mut several.door),
            _ => None,
        }
    }
}

impl Several {
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
        Subscription { topic: TopicId(topic), standing: Standing::Member(10 * topic), echo: topic.is_multiple_of(2) }
    }

    #[test]
    fn one_needs_no_memory_of_its_own() {
        assert_eq!(size_of::<Subscriptions>(), 16);
        let mut subscriptions = Subscriptions::default();
        subscriptions.insert(subscription(5));
        assert!(matches!(subscriptions, Subscriptions::One(_)) && subscriptions.door().is_none());
        subscriptions.insert(subscription(3));
        assert!(subscriptions.door().is_some());
        assert_eq!(subscriptions.remove(TopicId(5)), Some(subscription(5)));
        assert!(matches!(subscriptions, Subscriptions::One(one) if one == subscription(3)));
    }

    #[test]
    fn memory_is_given_back_as_they_go() {
        let mut subscriptions = Subscriptions::default();
        (0..1_024).for_each(|topic| subscriptions.insert(subscription(topic)));
        (2..1_024).for_each(|topic| assert!(subscriptions.remove(TopicId(topic)).is_some()));
        let Subscriptions::Several(several) = &subscriptions else { panic!("two are several") };
        assert!(several.list.capacity() <= 16, "{}", several.list.capacity());
    }

    proptest! {
        #[test]
        fn they_are_a_map(steps in prop::collection::vec((any::<bool>(), 0..12_u32), 0..80)) {
            let mut map: BTreeMap<u32, Subscription> = BTreeMap::new();
            let mut subscriptions = Subscriptions::default();
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
