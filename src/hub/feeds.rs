//! Feeds: the topics whose messages an external end takes, and the readers of each.

use std::collections::{HashMap, hash_map::Entry};

use super::topic_name::TopicName;

/// The topics whose messages an external end takes. As on a shard, a topic is announced to its home for the first
/// reader, its messages count from the home's acknowledgement of the latest announcement on, and the last reader
/// withdraws the interest.
#[derive(Debug, Default)]
pub(super) struct Feeds {
    by_topic: HashMap<TopicName, Feed>,
    /// The number of the last announcement, over all topics.
    number: u64,
}

/// A topic whose messages the end takes, or will take when the topic's home has acknowledged the interest.
#[derive(Debug)]
struct Feed {
    /// The number of the announcement.
    number: u64,
    is_live: bool,
    readers: Vec<u64>,
}

/// What follows from a new reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begun {
    /// The reader gets every message that comes from here on.
    Live,
    /// The reader waits for an acknowledgement that is on its way.
    Pending,
    /// The interest is to be announced with this number.
    Announce(u64),
}

impl Feeds {
    /// Adds a reader of a topic. A reader has its own number.
    pub(super) fn add(&mut self, topic: &TopicName, reader: u64) -> Begun {
        match self.by_topic.entry(topic.clone()) {
            Entry::Occupied(mut feed) => {
                let feed = feed.get_mut();
                feed.readers.push(reader);
                if feed.is_live { Begun::Live } else { Begun::Pending }
            }
            Entry::Vacant(vacant) => {
                self.number += 1;
                vacant.insert(Feed { number: self.number, is_live: false, readers: vec![reader] });
                Begun::Announce(self.number)
            }
        }
    }

    /// Removes a reader of a topic. Returns the number with which the interest is to be withdrawn, if the reader was
    /// the last.
    pub(super) fn remove(&mut self, topic: &TopicName, reader: u64) -> Option<u64> {
        let feed = self.by_topic.get_mut(topic)?;
        feed.readers.retain(|&other| other != reader);
        if !feed.readers.is_empty() {
            return None;
        }
        self.by_topic.remove(topic);
        self.number += 1;
        Some(self.number)
    }

    /// Takes an acknowledgement of a topic's home. Returns whether the topic is live from here on: an acknowledgement
    /// of an earlier announcement is ignored.
    pub(super) fn acknowledge(&mut self, topic: &TopicName, number: u64) -> bool {
        let feed = self.by_topic.get_mut(topic).filter(|feed| feed.number == number);
        feed.is_some_and(|feed| !std::mem::replace(&mut feed.is_live, true))
    }

    /// Returns the readers of a topic that is live.
    pub(super) fn readers(&self, topic: &TopicName) -> &[u64] {
        self.by_topic.get(topic).filter(|feed| feed.is_live).map_or(&[], |feed| &feed.readers)
    }
}
