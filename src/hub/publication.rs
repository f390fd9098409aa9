//! Publications, their places in the order of their topics, and the subscribers that they are for.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    connection_id::ConnectionId, format::Format, not_a_key::NotAKey, not_json::NotJson, owner::Owner,
    topic_name::TopicName,
};
use crate::proto::{Fin, Message, MessageType, Millis, PreparedMessage};

/// The subscribers that a publication is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scope {
    /// The subscribers on the publisher's shard only, in no order with the publications of other publishers.
    Shard,
    /// The subscribers on all shards of the server, in one order.
    #[default]
    Server,
}

/// The place of a publication in the order of its topic.
///
/// Offsets grow within an epoch, but need not be neighbours: the number of publications between two places is not the
/// difference of their offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The life of the topic: a random number of 53 bits, which a `double` holds exactly. A topic that was forgotten
    /// comes back with another epoch.
    pub epoch: u64,
    /// The publication's number within the epoch, from 1.
    pub offset: u64,
    /// The offset of the publication before; 0 for the first of the epoch.
    pub previous: u64,
}

/// The end of a topic's order, as far as it is known: the place of the last message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrderEnd {
    /// The life of the topic.
    pub epoch: u64,
    /// The offset of the last message; 0 before the first.
    pub offset: u64,
}

/// A whole message of text or of binary data that is published to a topic. A publication does not change, and a clone
/// shares its bytes.
///
/// ```
/// use ringhub::{Publication, proto::MessageType};
/// let news = Publication::text("good news").event("news").key("weather")?.id("17");
/// assert_eq!((news.payload(), news.kind()), (&b"good news"[..], MessageType::Text));
/// assert_eq!((news.event_name(), news.key_name(), news.id_name()), (Some("news"), Some("weather"), Some("17")));
/// # Ok::<(), ringhub::NotAKey>(())
/// ```
#[derive(Debug, Clone)]
pub struct Publication {
    /// One data frame as a WebSocket of a server sends it (RFC 6455 5.2): the header, then the payload.
    frame: Bytes,
    /// The length of the header.
    header: u8,
    kind: MessageType,
    /// Whether the payload is JSON by the word of the publisher.
    is_json: bool,
    time: Millis,
    names: Option<Arc<Names>>,
    /// The parts that the topic's home has made for dear formats.
    prepared: Option<Arc<[(Format, Bytes)]>>,
}

/// The optional names of a publication.
#[derive(Debug, Clone, Default)]
struct Names {
    event: Option<Box<str>>,
    key: Option<Arc<str>>,
    id: Option<Arc<str>>,
    receipt: ReceiptWish,
    /// Whom the id and the receipt count for.
    owner: Option<Owner>,
}

/// Whether the publisher wants a receipt. Publications without any name and without a receipt have no [`Names`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum ReceiptWish {
    #[default]
    Nothing,
    Receipt,
    /// The home of the topic has given the receipt this number.
    Numbered(u64),
}

impl Publication {
    /// Makes a publication of text.
    #[must_use]
    pub fn text(payload: &str) -> Self {
        Self::of_message(PreparedMessage::text(payload), MessageType::Text)
    }

    /// Makes a publication of binary data.
    #[must_use]
    pub fn binary(payload: &[u8]) -> Self {
        Self::of_message(PreparedMessage::binary(payload), MessageType::Binary)
    }

    /// Makes a publication of JSON (RFC 8259), for clients that get JSON as a part of their frames. Raw subscribers get
    /// the same text. The text is not changed.
    ///
    /// # Errors
    ///
    /// [`NotJson`] for a text that is not JSON, or is nested deeper than [`NotJson::DEPTH_MAX`].
    ///
    /// ```
    /// use ringhub::Publication;
    /// let price = Publication::json(r#"{"price": 17}"#)?;
    /// assert!(price.is_json() && !Publication::text("17").is_json());
    /// assert!(Publication::json("{").is_err());
    /// # Ok::<(), ringhub::NotJson>(())
    /// ```
    pub fn json(payload: &str) -> Result<Self, NotJson> {
        NotJson::check(payload)?;
        Ok(Publication { is_json: true, ..Self::text(payload) })
    }

    /// Names the event that the publication tells of, for clients that tell events apart by name.
    #[must_use]
    pub fn event(mut self, name: &str) -> Self {
        self.names_mut().event = Some(name.into());
        self
    }

    /// Names the thing that the publication is about: a later publication of the same key replaces this one for readers
    /// that want only the latest state.
    ///
    /// # Errors
    ///
    /// [`NotAKey`] for a key that does not have 1 to [`NotAKey::BYTES_MAX`] bytes, or has a control character.
    ///
    /// ```
    /// use ringhub::{NotAKey, Publication};
    /// assert_eq!(Publication::text("17").key("price")?.key_name(), Some("price"));
    /// assert_eq!(Publication::text("17").key("").unwrap_err(), NotAKey::Empty);
    /// # Ok::<(), NotAKey>(())
    /// ```
    pub fn key(mut self, key: &str) -> Result<Self, NotAKey> {
        NotAKey::check(key)?;
        self.names_mut().key = Some(key.into());
        Ok(self)
    }

    /// Gives the publication an id of the publisher's own: its idempotency key. The home of a topic publishes
    /// publications with the same id and the same contents once within `idempotency_window`. A later one gets the
    /// answer of the first, and one with other contents is refused. [`Scope::Shard`] knows no ids.
    #[must_use]
    pub fn id(mut self, id: &str) -> Self {
        self.names_mut().id = Some(id.into());
        self
    }

    /// Asks for a receipt.
    pub(crate) fn ask_receipt(mut self) -> Self {
        self.names_mut().receipt = ReceiptWish::Receipt;
        self
    }

    /// Notes whom the id and the receipt of the publication count for. A publication without names counts for nobody.
    pub(crate) fn owned_by(mut self, owner: Option<Owner>) -> Self {
        if let Some(names) = &mut self.names {
            Arc::make_mut(names).owner = owner;
        }
        self
    }

    /// Returns whom the id and the receipt count for.
    pub(super) fn owner(&self) -> Option<Owner> {
        self.names.as_ref()?.owner
    }

    /// Notes the number that the home of the topic has given to the receipt; `None` if there is none.
    pub(super) fn number_receipt(mut self, number: Option<u64>) -> Self {
        self.names_mut().receipt = number.map_or(ReceiptWish::Nothing, ReceiptWish::Numbered);
        self
    }

    /// Returns whether the publisher wants a receipt, which has no number yet.
    #[inline]
    pub(super) fn asks_receipt(&self) -> bool {
        self.names.as_ref().is_some_and(|names| names.receipt == ReceiptWish::Receipt)
    }

    /// Returns the number of the receipt, if the publisher wants one.
    #[inline]
    pub(super) fn receipt_number(&self) -> Option<u64> {
        match self.names.as_ref()?.receipt {
            ReceiptWish::Numbered(number) => Some(number),
            ReceiptWish::Nothing | ReceiptWish::Receipt => None,
        }
    }

    /// Returns the payload.
    #[inline]
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.frame[usize::from(self.header)..]
    }

    /// Returns whether the payload is text or binary data.
    #[inline]
    #[must_use]
    pub fn kind(&self) -> MessageType {
        self.kind
    }

    /// Returns whether the publisher has said that the payload is JSON, and it is.
    #[must_use]
    pub fn is_json(&self) -> bool {
        self.is_json
    }

    /// Returns the time at which the server has taken the publication: milliseconds since the server's start, 0 before
    /// it is published.
    #[must_use]
    pub fn time(&self) -> Millis {
        self.time
    }

    /// Returns the name of the event; `None` if [`Publication::event`] has not been called.
    #[must_use]
    pub fn event_name(&self) -> Option<&str> {
        self.names.as_ref()?.event.as_deref()
    }

    /// Returns the key; `None` if [`Publication::key`] has not been called.
    #[must_use]
    pub fn key_name(&self) -> Option<&str> {
        self.names.as_ref()?.key.as_deref()
    }

    /// Returns another handle to the key.
    pub(super) fn shared_key(&self) -> Option<Arc<str>> {
        self.names.as_ref()?.key.clone()
    }

    /// Returns another handle to the id.
    pub(super) fn shared_id(&self) -> Option<Arc<str>> {
        self.names.as_ref()?.id.clone()
    }

    /// Returns the publisher's id; `None` if [`Publication::id`] has not been called.
    #[must_use]
    pub fn id_name(&self) -> Option<&str> {
        self.names.as_ref()?.id.as_deref()
    }

    /// Returns the frame that a WebSocket of a server sends.
    #[inline]
    #[must_use]
    pub fn frame(&self) -> &Bytes {
        &self.frame
    }

    /// Notes the time at which the server has taken the publication.
    #[inline]
    pub(crate) fn stamp(&mut self, now: Millis) {
        self.time = now;
    }

    /// Takes the parts that the topic's home has made for dear formats.
    pub(super) fn with_prepared(mut self, prepared: Vec<(Format, Bytes)>) -> Self {
        self.prepared = Some(prepared.into());
        self
    }

    /// Returns the part that the topic's home has made for a dear format.
    pub(super) fn prepared(&self, format: Format) -> Option<&Bytes> {
        self.prepared.as_ref()?.iter().find(|(of, _)| *of == format).map(|(_, part)| part)
    }

    /// Returns the bytes of the parts for dear formats.
    pub(super) fn prepared_bytes(&self) -> usize {
        let parts = self.prepared.as_deref().unwrap_or_default();
        parts.iter().map(|part| size_of_val(part) + part.1.len()).sum()
    }

    /// Returns the bytes of the names.
    pub(super) fn names_bytes(&self) -> usize {
        let Some(names) = &self.names else { return 0 };
        let length = |name: Option<&str>| name.map_or(0, str::len);
        size_of::<Names>() + length(names.event.as_deref()) + length(names.key.as_deref()) + length(names.id.as_deref())
    }

    fn names_mut(&mut self) -> &mut Names {
        Arc::make_mut(self.names.get_or_insert_default())
    }

    /// Makes a publication of a message that a history has kept. JSON has been checked before, and so has the UTF-8 of
    /// a text, unless its route takes any text.
    pub(super) fn kept(payload: &[u8], kind: MessageType, is_json: bool) -> Self {
        let message = PreparedMessage::one(kind.opcode(), Fin::Set, payload);
        Publication { is_json, ..Self::of_message(message, kind) }
    }

    /// Makes a publication of a message that is one frame of this kind.
    fn of_message(message: PreparedMessage, kind: MessageType) -> Self {
        let payload = message.payload().len();
        Self::of_frame(message.into_frame(), payload, kind)
    }

    /// Makes a publication of one data frame, whose payload has `payload` bytes.
    #[inline]
    fn of_frame(frame: Bytes, payload: usize, kind: MessageType) -> Self {
        let header = (frame.len() - payload) as u8;
        Publication { frame, header, kind, is_json: false, time: Millis::default(), names: None, prepared: None }
    }
}

/// Makes a publication of a message that a client has sent. Only a small payload is copied, see [`Message::prepare`].
impl From<Message<'_>> for Publication {
    #[inline]
    fn from(message: Message<'_>) -> Self {
        let (kind, payload) = (message.message_type(), message.payload().len());
        Publication::of_frame(message.prepare().into_frame(), payload, kind)
    }
}

/// Shares a publication's bytes.
impl From<&Publication> for Publication {
    #[inline]
    fn from(publication: &Publication) -> Self {
        publication.clone()
    }
}

/// Makes a publication of a prepared message.
///
/// # Errors
///
/// [`NotAMessage`] for a control frame or a fragment, and for a message in several frames.
impl TryFrom<PreparedMessage> for Publication {
    type Error = NotAMessage;

    fn try_from(message: PreparedMessage) -> Result<Self, NotAMessage> {
        let mut frames = message.frames();
        let is_whole = frames.next().is_some_and(|(header, _)| header.fin.is_set()) && frames.next().is_none();
        drop(frames);
        match message.message_type() {
            Some(kind) if is_whole => Ok(Publication::of_message(message, kind)),
            _ => Err(NotAMessage),
        }
    }
}

/// The reason for which frames are no publication: they are not one whole message of text or binary data in one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAMessage;

impl std::fmt::Display for NotAMessage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("only a whole message in one frame can be published, no control frame and no fragment")
    }
}

impl std::error::Error for NotAMessage {}

/// A publication on its way to the subscribers of a topic. All lanes that carry the publication share one `Posted`.
#[derive(Debug)]
pub struct Posted {
    /// The topic.
    pub topic: TopicName,
    /// The connection that has sent the message. This connection receives the publication only if it has subscribed
    /// with echo.
    pub source: Option<ConnectionId>,
    /// The publication.
    pub publication: Publication,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publication_is_a_whole_message_in_one_frame() {
        let check = |message: PreparedMessage, payload: &[u8], kind| {
            let publication = Publication::try_from(message.clone()).unwrap();
            assert_eq!((publication.payload(), publication.kind()), (payload, kind));
            assert_eq!(publication.frame(), message.frame());
        };
        check(PreparedMessage::text(""), b"", MessageType::Text);
        check(PreparedMessage::text("short"), b"short", MessageType::Text);
        check(PreparedMessage::binary(&[7; 300]), &[7; 300], MessageType::Binary);
        check(PreparedMessage::binary(&[7; 70_000]), &[7; 70_000], MessageType::Binary);
        for other in [
            PreparedMessage::ping(b"x").unwrap(),
            PreparedMessage::first_fragment(MessageType::Text, b"x"),
            PreparedMessage::last_fragment(b"x"),
            PreparedMessage::fragments(MessageType::Text, b"xyz", 2).unwrap(),
        ] {
            assert_eq!(Publication::try_from(other).unwrap_err(), NotAMessage);
        }
    }

    #[test]
    fn keys_have_a_length() {
        let key = |key: &str| Publication::text("x").key(key).map(|publication| publication.key_name().map(str::len));
        assert_eq!(key(&"é".repeat(127)), Ok(Some(254)));
        assert_eq!(key(&"x".repeat(255)), Ok(Some(255)));
        assert_eq!(key(&"é".repeat(128)), Err(NotAKey::TooLong(256)));
        assert_eq!((key(""), key("a\n")), (Err(NotAKey::Empty), Err(NotAKey::Character)));
    }

    #[test]
    fn a_clone_with_a_name_leaves_the_first_as_it_is() {
        let first = Publication::text("x").key("a").unwrap();
        let mut second = first.clone().key("bcd").unwrap().event("e");
        assert_eq!((first.key_name(), first.event_name()), (Some("a"), None));
        assert_eq!((second.key_name(), second.event_name()), (Some("bcd"), Some("e")));
        assert_eq!(second.names_bytes() - first.names_bytes(), 3);
        assert_eq!(second.frame().as_ptr(), first.frame().as_ptr(), "the bytes are shared");
        assert_eq!(second.time(), Millis(0));
        second.stamp(Millis(5));
        assert_eq!((first.time(), second.time()), (Millis(0), Millis(5)));
    }
}
