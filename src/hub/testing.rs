//! Helpers of the tests in this folder, and of the simulated shards that use it.

mod engine;

use std::{cell::Cell, collections::HashMap, sync::Arc};

use bytes::{Bytes, BytesMut};

use super::{
    connection_id::ConnectionId,
    connections::Attachment,
    encoding::{Encodable, Encodings, Growth, NewEncoding},
    external::ExternalEnd,
    format::Format,
    hub::ShardHub,
    lag::Lag,
    mesh::MeshEnd,
    piece::{Owed, Piece},
    publication::{Place, Publication},
    receipt::Receipt,
    tag::Tag,
    topic_name::TopicName,
    topics::{Feed, TopicRole},
};
use crate::proto::{Fin, FrameHeader, MessageType, OpCode, encode_frame};

pub(crate) use engine::TestEngine;

/// The texts of the messages in these pieces of frames.
pub(super) fn texts(pieces: &[Piece]) -> Vec<String> {
    let bytes: Vec<u8> = pieces.iter().flat_map(|piece| piece.bytes.to_vec()).collect();
    let mut rest = bytes.as_slice();
    let mut texts = Vec::new();
    while let Some((header, length)) = FrameHeader::decode(rest).unwrap() {
        let end = length + header.payload_len as usize;
        texts.push(String::from_utf8(rest[length..end].to_vec()).unwrap());
        rest = &rest[end..];
    }
    texts
}

/// A connection that wants a format.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Wants(pub(super) Format);

impl Attachment for Wants {
    type Note = ();

    fn format(&self) -> Format {
        self.0
    }

    fn is_open(&self) -> bool {
        true
    }
}

/// The format whose frames have the payload backwards.
pub(crate) const REVERSED: Format = Format(1);

/// The format whose frames have the place in front of the payload: its offset, the previous offset and the epoch.
pub(super) const PLACED: Format = Format(2);

/// All formats of [`encodings`].
pub(super) const FORMATS: [Format; 3] = [Format::RAW, REVERSED, PLACED];

/// Returns the encodings of tests.
pub(crate) fn encodings() -> Arc<Encodings> {
    let mut encodings = Encodings::default();
    assert_eq!(encodings.add("reversed", reverse), REVERSED);
    assert_eq!(encodings.add_dear("placed", prepare_place, put_place), PLACED);
    Arc::new(encodings)
}

/// Returns encodings of tests whose format [`REVERSED`] has notices of lags.
pub(crate) fn telling_encodings() -> Arc<Encodings> {
    let mut encodings = Encodings::default();
    let new = NewEncoding {
        name: "reversed",
        encode: reverse,
        encode_lag: Some(tell_of_lag),
        growth: Growth::RAW,
        is_body: false,
    };
    assert_eq!(encodings.add_new(&new), REVERSED);
    Arc::new(encodings)
}

thread_local! {
    /// How often this thread has encoded a publication in another format than the raw one.
    static ENCODED: Cell<usize> = const { Cell::new(0) };
    /// How often this thread has made the dear part of a publication.
    static PREPARED: Cell<usize> = const { Cell::new(0) };
}

/// Returns how often this thread has made the dear part of a publication since the last call.
pub(super) fn take_prepared() -> usize {
    PREPARED.replace(0)
}

/// Returns how often this thread has encoded a publication, in another format than the raw one, since the last call.
pub(super) fn take_encoded() -> usize {
    ENCODED.replace(0)
}

pub(crate) fn reverse(encodable: &Encodable<'_>, out: &mut BytesMut) {
    let Encodable { publication, .. } = encodable;
    put_frame(encodable, &reversed(publication.kind(), publication.payload()), out);
}

/// Appends a notice of a lag in the format [`REVERSED`].
pub(crate) fn tell_of_lag(lag: &Lag, out: &mut BytesMut) {
    let Lag { topic, epoch, from, to, count, policy } = lag;
    let text = format!("lag {} {epoch} {from} {to} {count} {}", topic.as_str(), policy.name());
    let mut frame = Vec::new();
    encode_frame(OpCode::Text, Fin::Set, &reversed(MessageType::Text, text.as_bytes()), &mut frame);
    out.extend_from_slice(&frame);
}

/// Returns a payload backwards: text by its characters.
pub(crate) fn reversed(kind: MessageType, payload: &[u8]) -> Vec<u8> {
    match kind {
        MessageType::Text => {
            std::str::from_utf8(payload).expect("text is UTF-8").chars().rev().collect::<String>().into()
        }
        MessageType::Binary => payload.iter().rev().copied().collect(),
    }
}

/// Makes the dear part of the format [`PLACED`]: the payload, as if it were expensive to make.
fn prepare_place(publication: &Publication) -> Bytes {
    PREPARED.set(PREPARED.get() + 1);
    Bytes::copy_from_slice(publication.payload())
}

fn put_place(encodable: &Encodable<'_>, out: &mut BytesMut) {
    let place = encodable
        .place
        .map_or("nowhere ".into(), |Place { epoch, offset, previous }| format!("{offset} {previous} {epoch} "));
    let made = if encodable.prepared.is_none() { Some(prepare_place(encodable.publication)) } else { None };
    let payload = encodable.prepared.or(made.as_ref()).expect("one of the two");
    assert_eq!(payload, encodable.publication.payload(), "the part is of this publication");
    put_frame(encodable, &[place.as_bytes(), payload].concat(), out);
}

fn put_frame(encodable: &Encodable<'_>, payload: &[u8], out: &mut BytesMut) {
    ENCODED.set(ENCODED.get() + 1);
    let mut frame = Vec::new();
    encode_frame(encodable.publication.kind().opcode(), Fin::Set, payload, &mut frame);
    out.extend_from_slice(&frame);
}

/// A message as a subscriber of some format has got it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Got {
    pub(super) text: String,
    /// The place, if the format tells it.
    pub(super) place: Option<Place>,
}

/// Reads messages that were encoded in this format.
pub(super) fn decode(format: Format, pieces: &[Piece]) -> Vec<Got> {
    let read = |text: String| match format {
        REVERSED => Got { text: text.chars().rev().collect(), place: None },
        PLACED => match text.strip_prefix("nowhere ") {
            Some(text) => Got { text: text.into(), place: None },
            None => {
                let mut parts = text.splitn(4, ' ');
                let mut number = || parts.next().and_then(|part| part.parse().ok()).expect("a number");
                let (offset, previous, epoch) = (number(), number(), number());
                let text = parts.next().expect("the payload").into();
                Got { text, place: Some(Place { epoch, offset, previous }) }
            }
        },
        _ => Got { text, place: None },
    };
    texts(pieces).into_iter().map(read).collect()
}

/// Returns all pieces that a connection is owed.
pub(super) fn pieces(owed: impl IntoIterator<Item = Owed>) -> Vec<Piece> {
    owed.into_iter().flat_map(|owed| owed.pieces).collect()
}

/// The notes of a simulated run about one hub. No caller of the product needs them.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    /// The messages of each topic whose home the hub is, in the order that the hub has given them.
    pub(crate) ordered: HashMap<TopicName, Vec<Ordered>>,
    /// How many messages of each topic the hub's own connections have published for another end to order: the hub has
    /// sent them to the topic's home, or to an engine.
    pub(crate) sent: HashMap<TopicName, u64>,
    /// The place of each topic's last message that has come from the topic's home.
    pub(crate) taken: HashMap<TopicName, Place>,
    /// The messages whose receipts the hub, as their home, has begun to wait for: the topic and the offset of each, by
    /// the number of the receipt.
    pub(crate) receipts: HashMap<u64, (TopicName, u64)>,
    /// The counts of the hub's walks for receipts: the home and the number of each receipt, and the count.
    pub(crate) counted: Vec<(u16, u64, Receipt)>,
}

/// A message that has a place in its topic's order.
#[derive(Debug)]
pub(crate) struct Ordered {
    pub(crate) source: Option<ConnectionId>,
    pub(crate) tag: Tag,
    /// The first bytes of the payload. The journal keeps no reference to a frame: that would pin the frame's memory.
    pub(crate) beginning: Box<[u8]>,
}

impl Journal {
    pub(super) fn note_ordered(&mut self, topic: &TopicName, source: Option<ConnectionId>, payload: &[u8], tag: Tag) {
        let beginning = payload[..payload.len().min(BEGINNING)].into();
        self.ordered.entry(topic.clone()).or_default().push(Ordered { source, tag, beginning });
    }

    pub(super) fn note_sent(&mut self, topic: &TopicName) {
        *self.sent.entry(topic.clone()).or_default() += 1;
    }

    pub(super) fn note_taken(&mut self, topic: &TopicName, place: Place) {
        let last = self.taken.insert(topic.clone(), place);
        let is_next = last.is_none_or(|last| last.epoch != place.epoch || last.offset <= place.previous);
        assert!(is_next && place.previous < place.offset, "{place:?} of {topic} has come after {last:?}");
    }
}

/// Bytes of a payload that a journal keeps.
const BEGINNING: usize = 20;

/// The work that is under way in a hub and in its lanes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct UnderWay {
    pub(crate) has_mail: bool,
    /// Whether interests wait for room.
    pub(crate) has_due: bool,
    /// The weight of the requests, and of the deliveries, that wait for room.
    pub(crate) requests: usize,
    pub(crate) deliveries: usize,
    /// The weight of all runs.
    pub(crate) gathered: usize,
}

impl UnderWay {
    /// Returns the work that is under way in the hub, and in the lanes that lead to it.
    pub(crate) fn of<T: Attachment>(hub: &ShardHub<T>) -> Self {
        let gathered = hub.gathered.bytes;
        UnderWay { has_due: !hub.due.is_empty(), gathered, ..Self::of_end(&hub.mesh) }
    }

    /// Returns the work that is under way at an external end.
    pub(crate) fn of_external(end: &ExternalEnd) -> Self {
        Self::of_end(end.mesh())
    }

    fn of_end(mesh: &MeshEnd) -> Self {
        let deliveries = mesh.overflow_bytes();
        UnderWay {
            has_mail: mesh.has_mail(),
            requests: mesh.waiting_bytes() - deliveries,
            deliveries,
            ..UnderWay::default()
        }
    }
}

/// The use of a topic, as one hub knows it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct TopicUse {
    /// The connections that are attached to the topic, and the subscriptions among these attachments.
    pub(crate) attached: u32,
    pub(crate) subscribed: u32,
    /// Whether the topic has members, or a walk or a run for members.
    pub(crate) has_members: bool,
    /// At the home: the other shards that get the topic's messages, and those for which only the offsets are kept.
    pub(crate) interested: Vec<u16>,
    pub(crate) remembering: Vec<u16>,
    /// On another shard: whether the shard gets the topic's messages, or waits for the home's acknowledgement.
    pub(crate) is_live: bool,
    pub(crate) is_pending: bool,
}

impl TopicUse {
    /// Returns the use of the topic of that name, if the hub knows it.
    pub(crate) fn of<T: Attachment>(hub: &ShardHub<T>, name: &TopicName) -> Option<Self> {
        let topic = &hub.topics[hub.topics.find(name)?];
        let mut own = TopicUse {
            attached: topic.attached,
            subscribed: topic.subscribed,
            has_members: topic.audiences.iter().any(|audience| audience.has_places() || audience.is_busy()),
            interested: Vec::new(),
            remembering: Vec::new(),
            is_live: false,
            is_pending: false,
        };
        match &topic.role {
            TopicRole::Home(home) => {
                let interested = home.interested.iter().map(|(shard, _)| *shard).collect();
                (own.interested, own.remembering) = (interested, home.remembering.clone());
                own.interested.sort_unstable();
                own.remembering.sort_unstable();
            }
            TopicRole::Remote(remote) => {
                own.is_live = remote.feed == Feed::Live;
                own.is_pending = remote.feed == Feed::Requested || remote.is_due || !remote.pending.is_empty();
            }
        }
        Some(own)
    }
}
