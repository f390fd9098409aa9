//! The frames of the server: messages of topics in both of their forms, and answers.

use std::io::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{Buf as _, BufMut as _, BytesMut};
use serde::Serialize;

use super::{
    super::receipt::ReceiptJson,
    command::{Fault, SHORT_BYTES_MAX},
};
use crate::{
    hub::{Encodable, Growth, Lag, OrderEnd, Place, Publication, Published},
    proto::{Fin, FrameHeader, MessageType, OpCode, truncate_reason},
};

/// The names of the encodings.
pub(super) const AS_JSON: &str = "ringhub.v1";
pub(super) const AS_BINARY: &str = "ringhub.v1.binary";

/// Encodes a message of a topic as JSON.
pub(super) fn message_as_json(message: &Encodable<'_>, out: &mut BytesMut) {
    if message.topic.is_of_events() {
        return events(message.publication, out);
    }
    in_frame(OpCode::Text, out, |out| {
        out.put_slice(b"{\"message\":");
        put_message(message, out);
        out.put_u8(b'}');
    });
}

/// Appends a message of a topic as an object of JSON.
pub(in crate::surface) fn put_message(Encodable { topic, publication, place, .. }: &Encodable<'_>, out: &mut BytesMut) {
    out.put_slice(b"{\"topic\":");
    put_string(topic.as_str(), out);
    if let Some(Place { epoch, offset, .. }) = place {
        write!(out.writer(), ",\"epoch\":\"{epoch}\",\"offset\":{offset}").expect(MEMORY);
    }
    if let Some(event) = publication.event_name().map(short) {
        out.put_slice(b",\"event\":");
        put_string(event, out);
    }
    put_payload(publication, out);
    out.put_u8(b'}');
}

/// Returns the name of an event with no more bytes than a client can give it. A handler may give a longer one.
fn short(event: &str) -> &str {
    if event.len() > SHORT_BYTES_MAX { truncate_reason(event) } else { event }
}

/// The largest growth of a message as JSON: a control character has six bytes (`\u0001`). Besides, there are the names
/// of the topic and of the event, whose bytes grow in the same way, and less than 150 bytes of numbers and members.
pub(in crate::surface) const GROWTH_AS_JSON: Growth =
    Growth { factor: 6, besides: 2 * 6 * SHORT_BYTES_MAX as u64 + 150 };

/// The largest growth of a message in a binary frame: its headers, and the names of the topic and of the event.
pub(super) const GROWTH_AS_BINARY: Growth = Growth { factor: 1, besides: 2 * SHORT_BYTES_MAX as u64 + 24 + 10 };

/// Appends the payload of a publication as the last member of a message.
pub(in crate::surface) fn put_payload(publication: &Publication, out: &mut BytesMut) {
    let payload = publication.payload();
    match publication.kind() {
        MessageType::Text => {
            out.put_slice(b",\"data\":");
            // A route may take text without a look at its UTF-8.
            match simdutf8::basic::from_utf8(payload) {
                Ok(_) if publication.is_json() => out.put_slice(payload),
                Ok(text) => put_string(text, out),
                Err(_) => put_string(&String::from_utf8_lossy(payload), out),
            }
        }
        MessageType::Binary => {
            out.put_slice(b",\"base64\":\"");
            let begin = out.len();
            let length = base64::encoded_len(payload.len(), true).expect("a message is no longer than 1 GiB");
            out.put_bytes(0, length);
            STANDARD.encode_slice(payload, &mut out[begin..]).expect("the buffer has this length");
            out.put_u8(b'"');
        }
    }
}

/// Encodes a message of a topic with a fixed header in front of its payload, which stays as it is.
pub(super) fn message_as_binary(encodable: &Encodable<'_>, out: &mut BytesMut) {
    let Encodable { topic, publication, place, .. } = encodable;
    if topic.is_of_events() {
        return events(publication, out);
    }
    let event = publication.event_name().map(short).unwrap_or_default();
    let (epoch, offset) = place.map_or((0, 0), |place| (place.epoch, place.offset));
    let kind = match publication.kind() {
        MessageType::Text if publication.is_json() => KIND_JSON,
        MessageType::Text => KIND_TEXT,
        MessageType::Binary => KIND_BINARY,
    };
    in_frame(OpCode::Binary, out, |out| {
        out.put_u8(TYPE_MESSAGE);
        out.put_u8(kind);
        out.put_u16(topic.as_str().len() as u16);
        out.put_u16(event.len() as u16);
        out.put_u16(0);
        out.put_u64(epoch);
        out.put_u64(offset);
        out.put_slice(topic.as_str().as_bytes());
        out.put_slice(event.as_bytes());
        out.put_slice(publication.payload());
    });
}

/// Encodes a batch of joins and leaves, which is the text of the frame.
fn events(publication: &Publication, out: &mut BytesMut) {
    in_frame(OpCode::Text, out, |out| out.put_slice(publication.payload()));
}

/// The first byte of a binary message.
pub(crate) const TYPE_MESSAGE: u8 = 1;

/// The kinds of payloads in binary messages.
pub(crate) const KIND_TEXT: u8 = 0;
pub(crate) const KIND_JSON: u8 = 1;
pub(crate) const KIND_BINARY: u8 = 2;

/// Encodes the notice that messages of a topic are missing.
pub(super) fn lag(lag: &Lag, out: &mut BytesMut) {
    let Lag { topic, epoch, from, to, count, policy, .. } = lag;
    in_frame(OpCode::Text, out, |out| {
        out.put_slice(b"{\"lagged\":{\"topic\":");
        put_string(topic.as_str(), out);
        let mut out = out.writer();
        // Offsets begin at 1: these messages have none.
        if *from != 0 {
            write!(out, ",\"epoch\":\"{epoch}\",\"from\":{from},\"to\":{to}").expect(MEMORY);
        }
        write!(out, ",\"count\":{count},\"policy\":\"{}\"}}}}", policy.name()).expect(MEMORY);
    });
}

const MEMORY: &str = "memory takes all bytes";

/// Lets `put` append a payload, and puts the header of a frame in front of it.
fn in_frame(opcode: OpCode, out: &mut BytesMut, put: impl FnOnce(&mut BytesMut)) {
    debug_assert!(out.is_empty(), "a frame begins the buffer");
    out.put_bytes(0, HEADER_BYTES_MAX);
    put(out);
    let mut header = [0; FrameHeader::LEN_MAX];
    let length = FrameHeader::new(opcode, Fin::Set, out.len() - HEADER_BYTES_MAX).encode(&mut header);
    out.advance(HEADER_BYTES_MAX - length);
    out[..length].copy_from_slice(&header[..length]);
}

/// Bytes of the longest header that a server sends: it has no masking key.
const HEADER_BYTES_MAX: usize = FrameHeader::LEN_MAX - 4;

/// Appends a string of JSON.
pub(in crate::surface) fn put_string(text: &str, out: &mut BytesMut) {
    serde_json::to_writer(out.writer(), text).expect(MEMORY);
}

/// An answer of the server, or a frame that it sends without being asked.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Answer<'a> {
    /// A subscription is live.
    Subscribed(Subscribed<'a>),
    /// A subscription has ended.
    Unsubscribed(Unsubscribed<'a>),
    /// A message has its place.
    Published(Placed<'a>),
    /// A token has taken the place of the earlier one.
    Refreshed(OfId),
    /// The answer to a ping.
    Pong(OfId),
    /// A command has failed.
    Error(Failed<'a>),
}

#[derive(Debug, Serialize)]
pub(super) struct OfId {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<u64>,
}

#[derive(Debug, Serialize)]
pub(super) struct Subscribed<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
    topic: &'a str,
    #[serde(flatten)]
    end: Option<End>,
    /// Whether a subscription that resumes gets every message after its position.
    #[serde(skip_serializing_if = "Option::is_none")]
    recovered: Option<bool>,
}

/// The end of a topic's order.
#[derive(Debug, Serialize)]
struct End {
    epoch: String,
    offset: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Placed<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
    topic: &'a str,
    epoch: String,
    offset: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<ReceiptJson>,
}

#[derive(Debug, Serialize)]
pub(super) struct Unsubscribed<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<u64>,
    pub(super) topic: &'a str,
    /// The reason, if the server has ended the subscription.
    #[serde(flatten)]
    pub(super) because: Option<Because<'a>>,
}

#[derive(Debug, Serialize)]
pub(super) struct Failed<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
    #[serde(flatten)]
    because: Because<'a>,
}

/// An error, as clients see it.
#[derive(Debug, Serialize)]
pub(super) struct Because<'a> {
    code: u16,
    name: &'static str,
    reason: &'a str,
    temporary: bool,
}

impl<'a> From<&'a Fault> for Because<'a> {
    fn from(Fault { code, reason, .. }: &'a Fault) -> Self {
        Because { code: code.number(), name: code.name(), reason, temporary: code.is_temporary() }
    }
}

impl<'a> From<&'a Fault> for Answer<'a> {
    fn from(fault: &'a Fault) -> Self {
        Answer::Error(Failed { id: fault.id, because: fault.into() })
    }
}

impl Answer<'_> {
    /// Returns the answer to a message that has got its place.
    pub(super) fn published(id: u64, topic: &str, Published { place, receipt }: Published) -> Answer<'_> {
        let Place { epoch, offset, .. } = place;
        let receipt = receipt.map(ReceiptJson::from);
        Answer::Published(Placed { id: Some(id), topic, epoch: epoch.to_string(), offset, receipt })
    }

    /// Returns the answer to a subscription that is live, and begins at this position in the topic's order.
    pub(super) fn subscribed(
        id: Option<u64>,
        topic: &str,
        end: Option<OrderEnd>,
        recovered: Option<bool>,
    ) -> Answer<'_> {
        let end = end.map(|OrderEnd { epoch, offset }| End { epoch: epoch.to_string(), offset });
        Answer::Subscribed(Subscribed { id, topic, end, recovered })
    }

    /// Returns the text of the answer.
    pub(super) fn text(&self) -> String {
        serde_json::to_string(self).expect("names and numbers can be encoded")
    }
}
