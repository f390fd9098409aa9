//! Event streams: `GET` of a topic with `Accept: text/event-stream` streams its messages (Server-Sent Events, WHATWG
//! HTML 9.2).
//!
//! A message is a block with its position as the `id`, and a line of data for each line of its payload. The server's
//! own events are `ready` and `gap` when the stream begins, `lagged` where a policy has dropped messages, and `close`
//! at the end.

mod encode;
mod options;
mod positions;

use std::{future::ready, slice, sync::Arc};

use bytes::BytesMut;

pub(crate) use self::encode::message_to_one;
pub(super) use self::options::{Names, StreamOptions};
pub(crate) use self::positions::Positions;
use self::{
    encode::{Beginning, GROWTH, GROWTH_OF_BODY, put_body, put_greeting, put_lag, put_message},
    options::Requested,
};
use super::surface::{PathRow, Surface, TopicUse, any_values};
use crate::{
    endpoints::{BodyLimit, HttpEndpoint, Intent, Openings, Opens},
    handler::{Accept, Connection, Handler, OpeningRequest, Response, Typed},
    hub::{Encodings, Format, NewEncoding, SubscribeOptions, TopicName},
    proto::{EVENT_STREAM, Framing, Message, Refusal, RequestHead, STREAM_HEADERS},
};

/// The path at which a server without routes of its own streams several topics.
pub const PATTERN: &str = "/events";

/// The surface of event streams: of several topics at paths of its own, and beside raw topics.
pub(crate) const EVENTS: Surface = Surface {
    name: "events",
    effect: "streams the topics in the query as Server-Sent Events: one response for many topics, see [sse.md](sse.md)",
    topics: TopicUse::OfMessages,
    keys: &[],
    check: any_values,
    forgets_request: true,
    skips_broadcasts: true,
    paths: &[PathRow { below: "", openings: Some(STREAMS), endpoints: &[HEAD] }],
    protocol: None,
    beside: &[],
    handler: |parts| Arc::new(Typed(Arc::new(EventStreams::new(parts.encodings)))),
    encodings: &ENCODINGS,
};

/// The openings at a path of the surface's own.
const STREAMS: Openings = Openings {
    opens: Opens::EventStream,
    methods: &["GET"],
    intent: Some(|head| StreamOptions::read(head, Names::Query).map(|_| Intent::Use)),
    topics: Some(|head| StreamOptions::read(head, Names::Query).map(|options| options.topics)),
    resumes: Some(|head| StreamOptions::read(head, Names::Query).map(|options| options.requested.is_some())),
};

/// `HEAD` of a stream has its head, and a `GET` that accepts no stream is told so.
const HEAD: HttpEndpoint = HttpEndpoint {
    methods: &["GET"],
    intent: |head| StreamOptions::read(head, Names::Query).map(|_| Intent::Use),
    body: BodyLimit::Nothing,
    page_headers: &["cache-control", "last-event-id"],
    answer: |request| {
        Box::pin(ready(match is_for_stream(&request.head) {
            true => Ok(headers_of_stream()),
            false => Err(Refusal::new(406, "topics are streamed here, to clients that accept text/event-stream")),
        }))
    },
};

/// The openings at a path that names a topic.
pub(super) const STREAMS_AT_A_TOPIC: Openings = Openings {
    opens: Opens::EventStream,
    methods: &["GET"],
    intent: Some(|head| StreamOptions::read(head, Names::Path).map(|_| SUBSCRIBES)),
    topics: None,
    resumes: Some(|head| StreamOptions::read(head, Names::Path).map(|options| options.requested.is_some())),
};

/// The intent of a request for a stream.
pub(super) const SUBSCRIBES: Intent = Intent::Attach { subscribes: true, publishes: false };

/// The encodings of messages as events: for clients of HTTP/1.1, and of HTTP/1.0; of one topic, and of several.
const ENCODINGS: [NewEncoding; 4] = [
    NewEncoding {
        name: CHUNKED,
        encode: |message, out| put_message(Framing::Chunked, message, out),
        encode_lag: Some(|lag, out| put_lag(Framing::Chunked, lag, out)),
        growth: GROWTH,
        is_body: false,
    },
    NewEncoding {
        name: CLOSE_DELIMITED,
        encode: |message, out| put_message(Framing::CloseDelimited, message, out),
        encode_lag: Some(|lag, out| put_lag(Framing::CloseDelimited, lag, out)),
        growth: GROWTH,
        is_body: false,
    },
    NewEncoding {
        name: SEVERAL_CHUNKED,
        encode: put_body,
        encode_lag: Some(|lag, out| put_lag(Framing::Chunked, lag, out)),
        growth: GROWTH_OF_BODY,
        is_body: true,
    },
    NewEncoding {
        name: SEVERAL_CLOSE_DELIMITED,
        encode: put_body,
        encode_lag: Some(|lag, out| put_lag(Framing::CloseDelimited, lag, out)),
        growth: GROWTH_OF_BODY,
        is_body: true,
    },
];

/// The names of the encodings.
const CHUNKED: &str = "event-stream";
const CLOSE_DELIMITED: &str = "event-stream.http-1.0";
const SEVERAL_CHUNKED: &str = "event-streams";
const SEVERAL_CLOSE_DELIMITED: &str = "event-streams.http-1.0";

/// Returns whether a request asks for an event stream, or for the head of one.
pub(super) fn is_for_stream(head: &RequestHead) -> bool {
    head.headers().accepts(EVENT_STREAM)
}

/// Returns the response to HEAD: what a stream begins with.
pub(super) fn headers_of_stream() -> Response {
    let response = Response::new(200, EVENT_STREAM, "");
    STREAM_HEADERS.iter().fold(response, |response, (name, value)| response.header(name, value))
}

/// The handler of event streams.
#[derive(Debug)]
struct EventStreams {
    /// The formats of streams of one topic, chunked and not.
    of_one: [Format; 2],
    /// The formats of streams of several topics.
    of_several: [Format; 2],
}

/// The state of a stream.
#[derive(Debug, Default)]
struct Stream {
    framing: Framing,
    /// The positions that the client has asked for, by their topics, until it is told what becomes of them.
    #[expect(clippy::box_collection, reason = "nearly every stream has none most of the time")]
    requested: Option<Box<Vec<(TopicName, Requested)>>>,
}

impl EventStreams {
    /// Returns the handler of a route. `encodings` are those of the server.
    fn new(encodings: &Encodings) -> EventStreams {
        let format = |name| encodings.format(name).expect("the surface has registered it");
        EventStreams {
            of_one: [CHUNKED, CLOSE_DELIMITED].map(format),
            of_several: [SEVERAL_CHUNKED, SEVERAL_CLOSE_DELIMITED].map(format),
        }
    }
}

impl Handler for EventStreams {
    type State = Stream;

    const PUBLISHES: bool = false;

    async fn opening(&self, request: &OpeningRequest) -> Result<Accept<Stream>, Response> {
        let names = if request.topic().is_some() { Names::Path } else { Names::Query };
        let topics = request.topic().map_or(&*request.topics, slice::from_ref);
        let StreamOptions { requested, .. } = StreamOptions::read(&request.head, names)?;
        let framing = Framing::of_answer_to(&request.head)?;
        let [chunked, close_delimited] = if names == Names::Path { self.of_one } else { self.of_several };
        let format = if framing == Framing::Chunked { chunked } else { close_delimited };
        let requested: Option<Vec<(TopicName, Requested)>> = requested.map(|requested| match names {
            Names::Path => topics.iter().map(|topic| (topic.clone(), requested.clone())).collect(),
            Names::Query => requested.of_each(topics),
        });
        let options = |topic: &TopicName| {
            let of_topic = requested.iter().flatten().find(|(name, _)| name == topic);
            match of_topic.filter(|_| request.histories.contains(topic)) {
                Some((_, requested)) => SubscribeOptions::default().resume(requested.resume()).accept_unrecovered(),
                None => SubscribeOptions::default(),
            }
        };
        let subscriptions: Vec<(TopicName, SubscribeOptions)> =
            topics.iter().map(|topic| (topic.clone(), options(topic))).collect();
        let accept = Accept::with(Stream { framing, requested: requested.map(Box::new) }).format(format);
        Ok(subscriptions.into_iter().fold(accept, |accept, (topic, options)| accept.subscribe(topic, options)))
    }

    /// Notes the positions that the client has, so that an id that is sent before a topic has begun names them.
    fn on_open(&self, connection: &mut Connection<'_, Stream>) {
        let requested = connection.state().requested.as_deref().cloned().unwrap_or_default();
        for (topic, requested) in requested {
            connection.note_position(&topic, requested.end());
        }
    }

    /// Tells the client where the stream of a topic begins, and whether that is the position that it has asked for.
    fn on_subscribed(&self, connection: &mut Connection<'_, Stream>, topic: &TopicName) {
        let (end, is_recovered) = (connection.order_end(), connection.is_recovered() == Some(true));
        let id = connection.note_position(topic, end);
        let Stream { framing, requested } = connection.state_mut();
        let of_topic = requested.as_mut().and_then(|list| {
            let at = list.iter().position(|(name, _)| name == topic)?;
            Some(list.swap_remove(at).1)
        });
        requested.take_if(|list| list.is_empty());
        let mut out = BytesMut::new();
        let beginning = Beginning { end, id: id.as_deref(), is_recovered };
        put_greeting(*framing, topic, of_topic.as_ref(), beginning, &mut out);
        connection.send_encoded(&out);
    }

    /// Is not called, since a stream has no messages of its client.
    fn on_message(&self, _: &mut Connection<'_, Stream>, _: Message<'_>) {}
}
