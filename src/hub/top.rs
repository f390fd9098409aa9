//! The busiest topics and the largest backlogs of a shard, in bounded memory.

use std::{collections::HashMap, hash::Hash};

use super::{connection_id::ConnectionId, memory::ALLOCATION, topic_name::TopicName};
use crate::proto::Millis;

/// The most entries of each kind that a shard keeps and tells.
pub const TOP_MAX: usize = 64;

/// The work for a topic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TopicWork {
    /// Messages handed to subscribers, one for each subscriber.
    pub deliveries: u64,
    /// Messages.
    pub messages: u64,
    /// Bytes of the messages, as they stand in their frames.
    pub bytes: u64,
}

impl TopicWork {
    /// Adds the work of another shard, or of another walk.
    pub fn add(&mut self, other: TopicWork) {
        self.deliveries = self.deliveries.saturating_add(other.deliveries);
        self.messages = self.messages.saturating_add(other.messages);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }

    fn halve(&mut self) {
        (self.deliveries, self.messages, self.bytes) = (self.deliveries / 2, self.messages / 2, self.bytes / 2);
    }
}

/// A topic among the busiest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BusyTopic {
    /// The name.
    pub topic: TopicName,
    /// The work that was counted since the topic is among the busiest.
    pub work: TopicWork,
    /// Deliveries that the topic may have had in addition, before it was among the busiest.
    pub missed: u64,
}

/// A connection with a backlog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LargeBacklog {
    /// The connection.
    pub id: ConnectionId,
    /// The client's address, as text.
    pub peer: Option<Box<str>>,
    /// Memory of the backlog.
    pub bytes: u64,
    /// Messages in the backlog.
    pub messages: u64,
    /// How long a byte of the backlog has waited, in milliseconds. No byte that has waited for longer was put into the
    /// backlog after this one.
    pub age_ms: u64,
}

/// The answer of a shard to [`Command::Top`](super::Command::Top).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Top {
    /// The busiest topics, at most [`TOP_MAX`], in any order.
    pub topics: Vec<BusyTopic>,
    /// The largest backlogs and the oldest ones, at most [`TOP_MAX`] of each kind, in any order, each once.
    pub backlogs: Vec<LargeBacklog>,
}

impl Top {
    /// Returns the bytes that the answer keeps alive. The names of topics belong to the topics.
    pub(super) fn kept(&self) -> usize {
        size_of::<Self>()
            + size_of::<BusyTopic>() * self.topics.capacity()
            + size_of::<LargeBacklog>() * self.backlogs.capacity()
            + 2 * ALLOCATION
    }
}

/// Counts the work for the busiest topics, after the algorithm Space-Saving (Metwally, Agrawal and El Abbadi, 2005): a
/// topic without a place takes the place of the topic with the fewest deliveries, and may have missed as many itself.
/// So a topic that has had more deliveries than that is always among the busiest.
///
/// All counts halve each [`HALF_LIFE_MS`], so that they tell of the last minutes.
#[derive(Debug, Default)]
pub struct BusiestTopics {
    places: Places<TopicName>,
    halved_at: Millis,
}

impl BusiestTopics {
    /// Counts the work of a walk.
    pub fn count(&mut self, topic: &TopicName, work: TopicWork, now: Millis) {
        self.age(now);
        self.places.count(topic, work);
    }

    /// Returns the busiest topics in any order. Topics without public names are left out.
    pub fn list(&mut self, now: Millis) -> Vec<BusyTopic> {
        self.age(now);
        let busy =
            |place: &Place<TopicName>| BusyTopic { topic: place.key.clone(), work: place.work, missed: place.missed };
        self.places.list.iter().filter(|place| !place.key.is_hidden() && place.total() > 0).map(busy).collect()
    }

    fn age(&mut self, now: Millis) {
        let halvings = now.0.saturating_sub(self.halved_at.0) / HALF_LIFE_MS;
        if halvings > 0 {
            self.halved_at = now;
            // More halvings leave nothing of any number.
            (0..halvings.min(64)).for_each(|_| self.places.halve());
        }
    }
}

/// The time in which counts halve, in milliseconds.
pub const HALF_LIFE_MS: u64 = 60_000;

/// The places of Space-Saving.
#[derive(Debug)]
struct Places<K> {
    list: Vec<Place<K>>,
    /// The index of each key's place.
    index: HashMap<K, usize>,
}

impl<K> Default for Places<K> {
    fn default() -> Self {
        Places { list: Vec::new(), index: HashMap::new() }
    }
}

#[derive(Debug)]
struct Place<K> {
    key: K,
    work: TopicWork,
    missed: u64,
}

impl<K> Place<K> {
    /// Returns the most deliveries that the key may have had.
    fn total(&self) -> u64 {
        self.work.deliveries.saturating_add(self.missed)
    }
}

impl<K: Clone + Eq + Hash> Places<K> {
    fn count(&mut self, key: &K, work: TopicWork) {
        if let Some(&at) = self.index.get(key) {
            return self.list[at].work.add(work);
        }
        if self.list.len() < TOP_MAX {
            self.index.insert(key.clone(), self.list.len());
            return self.list.push(Place { key: key.clone(), work, missed: 0 });
        }
        let least = self.list.iter().enumerate().min_by_key(|(_, place)| place.total());
        let (at, place) = least.expect("all places are taken");
        let missed = place.total();
        self.index.remove(&place.key);
        self.index.insert(key.clone(), at);
        self.list[at] = Place { key: key.clone(), work, missed };
    }

    fn halve(&mut self) {
        for place in &mut self.list {
            place.work.halve();
            place.missed /= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(deliveries: u64) -> TopicWork {
        TopicWork { deliveries, messages: 1, bytes: 10 }
    }

    /// A few busy keys among a thousand others are all found, with counts that are too low by `missed` at most.
    #[test]
    fn busy_keys_are_always_found() {
        let mut places: Places<u32> = Places::default();
        for round in 0..20_000_u32 {
            places.count(&(round % 5), work(10));
            places.count(&(100 + round.wrapping_mul(2_654_435_761) % 1_000), work(1));
        }
        assert_eq!((places.list.len(), places.index.len()), (TOP_MAX, TOP_MAX));
        // What is given up with a place is what its next key may have missed, so nothing is lost from the sum.
        assert_eq!(places.list.iter().map(Place::total).sum::<u64>(), 20_000 * 11);
        for key in 0..5 {
            let place = &places.list[places.index[&key]];
            assert!(place.work.deliveries <= 40_000 && place.total() >= 40_000, "{key}: {place:?}");
        }
        for (key, &at) in &places.index {
            assert_eq!(places.list[at].key, *key);
        }
    }

    #[test]
    fn counts_halve_each_minute() {
        let (name, everyone) = (TopicName::new("a/b").unwrap(), TopicName::everyone());
        let mut busiest = BusiestTopics::default();
        for _ in 0..4 {
            busiest.count(&name, TopicWork { deliveries: 100, messages: 10, bytes: 1_000 }, Millis(1));
            busiest.count(&everyone, work(1), Millis(1));
        }
        let at = |busiest: &mut BusiestTopics, now| busiest.list(Millis(now));
        let listed = at(&mut busiest, 59_999);
        assert_eq!(listed.len(), 1, "the topic of all connections is left out: {listed:?}");
        assert_eq!(listed[0].work, TopicWork { deliveries: 400, messages: 40, bytes: 4_000 });
        assert_eq!(at(&mut busiest, 60_000)[0].work.deliveries, 200);
        assert_eq!(at(&mut busiest, 119_999)[0].work.deliveries, 200);
        assert_eq!(at(&mut busiest, 180_000)[0].work.deliveries, 50);
        assert!(at(&mut busiest, u64::MAX).is_empty(), "nothing is left after a long time");
    }

    #[test]
    fn sums_have_an_end() {
        let mut work = TopicWork { deliveries: u64::MAX, messages: 1, bytes: 1 };
        work.add(TopicWork { deliveries: 1, messages: 2, bytes: 3 });
        assert_eq!(work, TopicWork { deliveries: u64::MAX, messages: 3, bytes: 4 });
    }
}
