//! The events of a `TopicClient`, and the frames of `ringhub.v1` that they are read from.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::value::RawValue;

use super::{
    event::ClientEvent,
    topic_publish::{NoTopicReceipt, TopicReceipt},
};

/// An event of a [`TopicClient`](super::TopicClient).
#[derive(Debug)]
#[non_exhaustive]
pub enum TopicEvent {
    /// A message of a topic.
    Message(TopicMessage),
    /// Messages of a topic are missing here, because the client was too slow.
    Lagged(Lagged),
    /// A subscription is live that nobody waits for: after a reconnect, or made by the server itself.
    Subscribed {
        /// The topic.
        topic: String,
        /// The place of the last message before the subscription, if the server knows it. For a topic with a history it
        /// is the place of the last message that came, if the server still has every message after it: then these
        /// follow.
        place: Option<TopicPlace>,
        /// If an earlier connection had the subscription: the place of the last message that came, or that a notice
        /// told of as missing. If it is before `place`, or of another epoch, messages between both are missing.
        last: Option<TopicPlace>,
        /// Whether every message after the requested place follows; `None` if the subscription has begun live.
        recovered: Option<bool>,
    },
    /// The server has ended a subscription, or has refused it after a reconnect. It is not made again.
    Unsubscribed {
        /// The topic.
        topic: String,
        /// The reason.
        because: Option<CommandError>,
    },
    /// A command has failed that nobody waits for any more, or the server cannot decide about a subscription after a
    /// reconnect at the moment.
    Error(CommandError),
    /// A frame that this version of the client does not know.
    Unknown(String),
    /// An event of the connection.
    Connection(ClientEvent),
}

/// A message of a topic.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TopicMessage {
    /// The topic, with the prefix of the server's route.
    pub topic: String,
    /// The place of the message; `None` for a message that was published for one shard only.
    pub place: Option<TopicPlace>,
    /// The name of the event, if the publisher has given one.
    pub event: Option<String>,
    /// The payload.
    pub payload: Payload,
}

/// A place in the order of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicPlace {
    /// The life of the topic.
    pub epoch: u64,
    /// The offset within the epoch.
    pub offset: u64,
}

impl TopicPlace {
    /// Returns whether this place is behind another one of the same epoch.
    pub(super) fn is_after(self, other: TopicPlace) -> bool {
        self.epoch == other.epoch && self.offset > other.offset
    }
}

/// The answer to a message that was published.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicPublished {
    /// The place of the message in its topic.
    pub place: TopicPlace,
    /// The receipt, or the reason for which there is none; `None` if none was asked for.
    pub receipt: Option<Result<TopicReceipt, NoTopicReceipt>>,
}

/// The payload of a message.
#[derive(Debug, Clone)]
pub enum Payload {
    /// Text.
    Text(String),
    /// JSON as the publisher has written it. A string of JSON comes as [`Payload::Text`].
    Json(Box<RawValue>),
    /// Binary data.
    Binary(Bytes),
}

impl Payload {
    /// Returns the payload of a value as JSON.
    ///
    /// # Errors
    ///
    /// The error of `serde_json` for a value that cannot be JSON.
    pub fn json(value: &impl serde::Serialize) -> serde_json::Result<Payload> {
        serde_json::value::to_raw_value(value).map(Payload::Json)
    }
}

/// Messages of a topic that a slow client does not get. The other messages of these offsets follow.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lagged {
    /// The topic.
    pub topic: String,
    /// The epoch of the offsets; `None` if the messages have no place.
    #[serde(default, deserialize_with = "some_epoch")]
    pub epoch: Option<u64>,
    /// The offset of the first message that is missing.
    pub from: Option<u64>,
    /// The offset of the last message that is missing.
    pub to: Option<u64>,
    /// How many messages are missing.
    pub count: u64,
    /// The policy that has dropped the messages.
    pub policy: String,
}

/// An error of the server about a command.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
#[non_exhaustive]
pub struct CommandError {
    /// The number of the error.
    pub code: u16,
    /// The name of the error.
    pub name: String,
    /// The reason, for people.
    pub reason: String,
    /// Whether the same command may succeed later.
    #[serde(rename = "temporary")]
    pub is_temporary: bool,
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} {})", self.reason, self.code, self.name)
    }
}

impl std::error::Error for CommandError {}

/// A frame of the server.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Frame {
    Message(MessageFrame),
    Lagged(Lagged),
    Subscribed(PlacedFrame),
    Unsubscribed(EndedFrame),
    Published(PlacedFrame),
    Refreshed {
        id: Option<u64>,
    },
    Pong {
        id: Option<u64>,
    },
    Error {
        id: Option<u64>,
        #[serde(flatten)]
        error: CommandError,
    },
}

#[derive(Deserialize)]
pub(super) struct PlacedFrame {
    pub(super) id: Option<u64>,
    pub(super) topic: String,
    #[serde(default, deserialize_with = "some_epoch")]
    epoch: Option<u64>,
    offset: Option<u64>,
    receipt: Option<ReceiptFrame>,
    pub(super) recovered: Option<bool>,
}

/// The answer to a command about a topic, as far as it tells places.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) place: Option<TopicPlace>,
    pub(super) receipt: Option<Result<TopicReceipt, NoTopicReceipt>>,
    pub(super) recovered: Option<bool>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ReceiptFrame {
    Counts(TopicReceipt),
    Missing(NoTopicReceipt),
}

impl PlacedFrame {
    pub(super) fn place(&self) -> Option<TopicPlace> {
        place(self.epoch, self.offset)
    }

    pub(super) fn placed(self) -> Option<Placed> {
        let receipt = self.receipt.map(|receipt| match receipt {
            ReceiptFrame::Counts(counts) => Ok(counts),
            ReceiptFrame::Missing(why) => Err(why),
        });
        place(self.epoch, self.offset).map(|place| Placed { place: Some(place), receipt, recovered: None })
    }
}

#[derive(Deserialize)]
pub(super) struct EndedFrame {
    pub(super) id: Option<u64>,
    pub(super) topic: String,
    #[serde(flatten)]
    pub(super) because: Option<CommandError>,
}

#[derive(Deserialize)]
pub(super) struct MessageFrame {
    topic: String,
    #[serde(default, deserialize_with = "some_epoch")]
    epoch: Option<u64>,
    offset: Option<u64>,
    event: Option<String>,
    #[serde(default, deserialize_with = "some_json")]
    data: Option<Box<RawValue>>,
    base64: Option<String>,
}

impl MessageFrame {
    /// Returns the message; `None` if its payload is missing or malformed.
    pub(super) fn read(self) -> Option<TopicMessage> {
        let MessageFrame { topic, epoch, offset, event, data, base64 } = self;
        let payload = match (data, base64) {
            (Some(data), None) if data.get().starts_with('"') => Payload::Text(serde_json::from_str(data.get()).ok()?),
            (Some(data), None) => Payload::Json(data),
            (None, Some(base64)) => Payload::Binary(STANDARD.decode(base64).ok()?.into()),
            _ => return None,
        };
        Some(TopicMessage { topic, place: place(epoch, offset), event, payload })
    }
}

fn place(epoch: Option<u64>, offset: Option<u64>) -> Option<TopicPlace> {
    Some(TopicPlace { epoch: epoch?, offset: offset? })
}

/// Reads any value of JSON, `null` too.
fn some_json<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::deserialize(deserializer).map(Some)
}

/// Reads an epoch, which is a string of digits.
fn some_epoch<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let digits = String::deserialize(deserializer)?;
    digits.parse().map(Some).map_err(|_| D::Error::custom("an epoch is a string of digits"))
}
