//! Lags: what a subscriber is told about the messages of a topic that it does not get.

use bytes::{Bytes, BytesMut};

use super::{publication::Place, slow::Overflow, topic_name::TopicName};

/// Messages of a topic that a slow subscriber does not get, because the topic's policy has dropped them.
///
/// A notice of a lag stands where the first of the messages is missing: `count` messages of the offsets `from` to `to`
/// are missing, and the subscriber gets the other messages of these offsets after the notice.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lag {
    /// The topic.
    pub topic: TopicName,
    /// The epoch of the offsets.
    pub epoch: u64,
    /// The offset of the first message that is missing. It is 0, as are `to` and `epoch`, if none of the messages has a
    /// place, such as messages for the publisher's shard only.
    pub from: u64,
    /// The offset of the last message that is missing.
    pub to: u64,
    /// How many messages are missing. Messages without a place count too.
    pub count: u64,
    /// The policy that has dropped the messages.
    pub policy: Overflow,
}

/// Messages that a subscriber does not get because a newer one of their key has come before their walk began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Lost {
    /// The numbers of a [`Lag`].
    epoch: u64,
    from: u64,
    to: u64,
    pub(super) count: u64,
}

impl Lost {
    /// Notes messages of one epoch, given by their places in their order.
    pub(super) fn note(&mut self, places: &[(u32, Option<Place>)]) {
        self.count += places.len() as u64;
        let first = places.iter().find_map(|(_, place)| *place);
        let last = places.iter().rev().find_map(|(_, place)| *place);
        if let (Some(first), Some(last)) = (first, last) {
            self.from = if self.epoch == 0 { first.offset } else { self.from.min(first.offset) };
            (self.epoch, self.to) = (first.epoch, self.to.max(last.offset));
        }
    }

    /// Returns the lag of the messages, which are of this topic.
    pub(super) fn lag(&self, topic: &TopicName) -> Lag {
        let Lost { epoch, from, to, count } = *self;
        Lag { topic: topic.clone(), epoch, from, to, count, policy: Overflow::Latest }
    }
}

/// A lag that a subscriber is to be told of, with its share of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwedLag {
    /// The lag.
    pub lag: Lag,
    /// The notice of the lag; empty if the subscriber's format has no notices.
    pub notice: Bytes,
}

/// Appends the frames that tell a subscriber of a lag to an empty buffer. The function is total: it has a form for
/// every lag. It may be called again for the same messages before they are told of, with more of them.
pub type EncodeLag = fn(&Lag, &mut BytesMut);
