//! Lags: what a subscriber is told about the messages of a topic that it does not get.

use bytes::BytesMut;

use super::{slow::Overflow, topic_name::TopicName};

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

/// Appends the frames that tell a subscriber of a lag to an empty buffer. The function is total: it has a form for
/// every lag. It may be called again for the same messages before they are told of, with more of them.
pub type EncodeLag = fn(&Lag, &mut BytesMut);
