//! The blocks of event streams: messages of topics, and the events of the server.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{BufMut as _, BytesMut};
use serde::Serialize;

use super::{
    super::v1,
    options::{Requested, TOPICS_MAX, cut},
};
use crate::{
    hub::{Encodable, Growth, Lag, OrderEnd, Place, TopicName},
    proto::{Framing, MessageType, put_data, put_field},
};

/// The beginning of a stream, or of one of its topics.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Beginning<'a> {
    /// The position after which messages follow.
    pub(super) end: Option<OrderEnd>,
    /// The position of the client in several topics. Without it, `end` is the position of the client.
    pub(super) id: Option<&'a str>,
    /// Whether every message after the requested position follows.
    pub(super) is_recovered: bool,
}

/// Appends the first event of a stream, or of one of its topics: `ready`, or `gap` if messages after the requested
/// position may be missing.
pub(super) fn put_greeting(
    framing: Framing,
    topic: &TopicName,
    requested: Option<&Requested>,
    Beginning { end, id, is_recovered }: Beginning<'_>,
    out: &mut BytesMut,
) {
    let position = end.map(|OrderEnd { epoch, offset }| format!("{epoch}.{offset}"));
    // Who has every message up to the position misses none, though no history says so.
    let is_at_end = |requested: &Requested| end.is_some() && requested.end() == end;
    let gap = requested.filter(|requested| !is_recovered && !is_at_end(requested));
    framing.in_block(out, |out| {
        if let Some(id) = id.or(position.as_deref()) {
            put_field("id", id, out);
        }
        put_field("event", if gap.is_some() { GAP } else { READY }, out);
        put_field("retry", RETRY_MS, out);
        let topic = topic.as_str();
        match gap {
            None => put_json(&Ready { topic, position: position.as_deref() }, out),
            Some(requested) => {
                let epoch = end.map(|end| end.epoch);
                let reset = requested.end().is_some_and(|position| Some(position.epoch) != epoch);
                let resumed = position.as_deref();
                put_json(&Gap { topic, requested: &requested.text, resumed, missed: None, reset }, out);
            }
        }
    });
}

#[derive(Serialize)]
struct Ready<'a> {
    topic: &'a str,
    position: Option<&'a str>,
}

#[derive(Serialize)]
struct Gap<'a> {
    topic: &'a str,
    requested: &'a str,
    resumed: Option<&'a str>,
    /// How many messages are missing, if that is known.
    missed: Option<u64>,
    /// Whether the order of the topic has begun anew.
    reset: bool,
}

/// Appends a message of a topic.
pub(super) fn put_message(framing: Framing, message: &Encodable<'_>, out: &mut BytesMut) {
    let Encodable { publication, place, .. } = message;
    framing.in_block(out, |out| {
        if let Some(Place { epoch, offset, .. }) = place {
            writeln!(out, "id: {epoch}.{offset}").expect(MEMORY);
        }
        let event = publication.event_name().filter(|event| !OWN_EVENTS.contains(event));
        put_payload(publication.kind(), publication.payload(), event, out);
    });
}

/// Appends the body of a message on a stream of several topics: an object of JSON that names the topic. The connection
/// adds the id.
pub(super) fn put_body(message: &Encodable<'_>, out: &mut BytesMut) {
    let mut json = BytesMut::new();
    v1::encode::put_message(message, &mut json);
    put_data(&json, out);
}

/// The largest growth of a body: that of a message of `ringhub.v1`, and the id of the most topics with its chunk.
pub(super) const GROWTH_OF_BODY: Growth = Growth {
    factor: v1::encode::GROWTH_AS_JSON.factor,
    besides: v1::encode::GROWTH_AS_JSON.besides + 28 * TOPICS_MAX as u64 + 50,
};

/// Returns the block of a message to one client alone, which has no position.
pub(crate) fn message_to_one(framing: Framing, kind: MessageType, payload: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    framing.in_block(&mut out, |out| put_payload(kind, payload, None, out));
    out
}

fn put_payload(kind: MessageType, payload: &[u8], event: Option<&str>, out: &mut BytesMut) {
    if kind == MessageType::Binary {
        put_field("event", BINARY, out);
        out.put_slice(b"data: ");
        let begin = out.len();
        let length = base64::encoded_len(payload.len(), true).expect("a message is no longer than 1 GiB");
        out.put_bytes(0, length);
        STANDARD.encode_slice(payload, &mut out[begin..]).expect("the buffer has this length");
        out.put_u8(b'\n');
        return;
    }
    if let Some(event) = event {
        put_field("event", cut(event, EVENT_BYTES_MAX), out);
    }
    // A route may take text without a look at its UTF-8.
    match simdutf8::basic::from_utf8(payload) {
        Ok(_) => put_data(payload, out),
        Err(_) => put_data(String::from_utf8_lossy(payload).as_bytes(), out),
    }
}

/// Appends the notice that messages of a topic are missing.
pub(super) fn put_lag(framing: Framing, lag: &Lag, out: &mut BytesMut) {
    let Lag { topic, epoch, from, to, count, policy, .. } = lag;
    framing.in_block(out, |out| {
        put_field("event", LAGGED, out);
        // Offsets begin at 1: messages without a place have none.
        let of_order = (*from != 0).then(|| (epoch.to_string(), *from, *to));
        let (epoch, from, to) =
            of_order.map_or((None, None, None), |(epoch, from, to)| (Some(epoch), Some(from), Some(to)));
        put_json(&Lagged { topic: topic.as_str(), epoch, from, to, count: *count, policy: policy.name() }, out);
    });
}

#[derive(Serialize)]
struct Lagged<'a> {
    topic: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<u64>,
    count: u64,
    policy: &'static str,
}

/// Appends a value as JSON, which has no line breaks.
fn put_json(value: &impl Serialize, out: &mut BytesMut) {
    out.put_slice(b"data: ");
    serde_json::to_writer(out.writer(), value).expect(MEMORY);
    out.put_u8(b'\n');
}

/// The largest growth of a message as an event: an empty line of the payload becomes `data:` and its end. Besides,
/// there are the name of the event, and less than 100 bytes of the id, of the first line, and of a chunk.
pub(super) const GROWTH: Growth = Growth { factor: 6, besides: EVENT_BYTES_MAX as u64 + 100 };

/// Bytes of the longest name of an event. A handler may give a longer one, which is cut.
const EVENT_BYTES_MAX: usize = 255;

const MEMORY: &str = "memory takes all bytes";

/// The events of the server, and those of an `EventSource` itself. A message whose event has one of these names comes
/// without it, so that no publisher can tell a client of a gap, or of a connection that has failed.
const OWN_EVENTS: [&str; 7] = [READY, GAP, LAGGED, "close", BINARY, "open", "error"];
const READY: &str = "ready";
const GAP: &str = "gap";
const LAGGED: &str = "lagged";
const BINARY: &str = "binary";

/// The time after which a client connects again, in milliseconds. A client keeps the time of an earlier stream, which a
/// drain may have made longer.
const RETRY_MS: &str = "1000";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::Publication;

    fn text_of(put: impl FnOnce(&mut BytesMut)) -> String {
        let mut out = BytesMut::new();
        put(&mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    fn message(publication: &Publication, place: Option<Place>) -> String {
        let topic = TopicName::new("t").unwrap();
        let message = Encodable { topic: &topic, publication, place, prepared: None };
        let plain = text_of(|out| put_message(Framing::CloseDelimited, &message, out));
        let chunked = text_of(|out| put_message(Framing::Chunked, &message, out));
        assert_eq!(chunked, format!("{:x}\r\n{plain}\r\n", plain.len()));
        plain
    }

    #[test]
    fn a_message_is_a_block() {
        let place = Some(Place { epoch: 17, offset: 42, previous: 41 });
        let text = Publication::text;
        assert_eq!(message(&text("hello"), place), "id: 17.42\ndata: hello\n\n");
        assert_eq!(message(&text(""), None), "data:\n\n");
        assert_eq!(message(&text("a\r\n b"), place), "id: 17.42\ndata: a\ndata:  b\n\n");
        assert_eq!(message(&text("x").event("said"), place), "id: 17.42\nevent: said\ndata: x\n\n");
        assert_eq!(message(&text("x").event("a\nid: 9"), None), "event: a id: 9\ndata: x\n\n");
        for event in ["gap", "error", "open"] {
            assert_eq!(message(&text("x").event(event), None), "data: x\n\n");
        }
        assert_eq!(message(&Publication::binary(&[0, 1]), place), "id: 17.42\nevent: binary\ndata: AAE=\n\n");
        let long = "\u{e4}".repeat(200);
        assert_eq!(message(&text("x").event(&long), None), format!("event: {}\ndata: x\n\n", "\u{e4}".repeat(127)));
    }

    /// No message is larger than [`GROWTH`] says.
    #[test]
    fn messages_grow_within_their_bound() {
        let place = Some(Place { epoch: u64::MAX, offset: u64::MAX, previous: 0 });
        let event = "e".repeat(EVENT_BYTES_MAX);
        for payload in ["\n".repeat(70_000), "\r".repeat(3), String::new(), "x".repeat(9)] {
            let most = GROWTH.largest(payload.len() as u64);
            for publication in [Publication::text(&payload).event(&event), Publication::binary(payload.as_bytes())] {
                let bytes = message(&publication, place).len() as u64 + 12;
                assert!(bytes <= most, "{} bytes become {bytes}, not {most}", payload.len());
            }
        }
    }

    #[test]
    fn a_stream_begins_with_its_position() {
        let topic = TopicName::new("a/b").unwrap();
        let end = Some(OrderEnd { epoch: 17, offset: 42 });
        let greeting = |requested: Option<&str>, end| {
            let requested = requested.map(Requested::after);
            let beginning = Beginning { end, ..Beginning::default() };
            text_of(|out| put_greeting(Framing::CloseDelimited, &topic, requested.as_ref(), beginning, out))
        };
        let ready = "id: 17.42\nevent: ready\nretry: 1000\ndata: {\"topic\":\"a/b\",\"position\":\"17.42\"}\n\n";
        assert_eq!(greeting(None, end), ready);
        assert_eq!(greeting(Some("17.42"), end), ready);
        let none = "event: ready\nretry: 1000\ndata: {\"topic\":\"a/b\",\"position\":null}\n\n";
        assert_eq!(greeting(None, None), none);
        for (requested, reset) in [("17.41", false), ("17.43", false), ("16.42", true), ("x\"", false)] {
            let requested_json = serde_json::to_string(requested).unwrap();
            let gap = format!(
                "id: 17.42\nevent: gap\nretry: 1000\ndata: {{\"topic\":\"a/b\",\"requested\":{requested_json},\
                 \"resumed\":\"17.42\",\"missed\":null,\"reset\":{reset}}}\n\n"
            );
            assert_eq!(greeting(Some(requested), end), gap);
        }
        let recovered = Beginning { end, id: Some("x;y"), is_recovered: true };
        let requested = Requested::after("17.41");
        let text = text_of(|out| put_greeting(Framing::CloseDelimited, &topic, Some(&requested), recovered, out));
        assert_eq!(text, ready.replacen("17.42", "x;y", 1));
    }

    #[test]
    fn a_lag_is_an_event() {
        let topic = TopicName::new("t").unwrap();
        let policy = crate::hub::Overflow::DropOldest;
        let lag = Lag { topic, epoch: 17, from: 3, to: 5, count: 2, policy };
        let of = |lag: &Lag| text_of(|out| put_lag(Framing::CloseDelimited, lag, out));
        let data = r#"{"topic":"t","epoch":"17","from":3,"to":5,"count":2,"policy":"drop_oldest"}"#;
        assert_eq!(of(&lag), format!("event: lagged\ndata: {data}\n\n"));
        let data = r#"{"topic":"t","count":2,"policy":"drop_oldest"}"#;
        assert_eq!(of(&Lag { epoch: 0, from: 0, to: 0, ..lag }), format!("event: lagged\ndata: {data}\n\n"));
    }
}
