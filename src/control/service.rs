//! Answers requests.

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::{
    Method, Request, StatusCode,
    body::{Body as _, Frame, Incoming},
    header::{self, HeaderMap, HeaderValue},
};

use super::{
    answers::{Answer, Body, JSON, TEXT, append, preflight, refuse, response, the_page},
    bodies::{Incomplete, NoRoom, Room},
    date,
    publisher::NotPublished,
    router::{RequestRouter, RoutedRequest},
    shared::Shared,
};
use crate::{
    auth::{Credentials, TOKEN_KEY},
    documents::Documents,
    endpoints::{Endpoint, Intent},
    hub::{Place, Publication, TopicName},
    metrics::Counter,
    proto::{HandshakeError, Refusal, query_pairs},
    surface::raw::RawRequest,
};

/// Answers the requests of one connection.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) shared: Arc<Shared>,
    pub(super) router: Arc<RequestRouter>,
    pub(super) served: ServedEndpoints,
    /// Whether the connection has a permit. Without one, only requests for metrics, health and readiness are answered.
    pub(super) has_permit: bool,
}

/// The endpoints that a connection may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServedEndpoints {
    Everything,
    /// Metrics, health and readiness, for a connection to the address of the metrics.
    Operations,
}

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = Answer;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, Infallible>> + Send>>;

    /// Begins to answer a request. Only a body to read or a file takes longer than this call.
    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let shared = &self.shared;
        shared.counters.add(Counter::HttpRequests, 1);
        let mut facts = RequestFacts {
            has_body: !request.body().is_end_stream(),
            target: None,
            page_lines: Vec::new(),
            peer: self.router.peer(),
        };
        if tracing::enabled!(tracing::Level::DEBUG) {
            facts.target = Some(Box::new((request.method().clone(), request.uri().path().to_owned())));
        }
        // The connection has let hyper read one request, and has routed that one.
        let routed = self.router.take();
        let routed = routed.ok_or_else(|| Refusal::new(500, "this server has lost the state of the request"));
        let origin = request.headers().get(header::ORIGIN).map(HeaderValue::as_bytes);
        let endpoint = routed.as_ref().ok().and_then(|routed| routed.endpoint.as_ref().ok());
        facts.page_lines = shared.endpoints.page_lines(origin, endpoint);
        match routed.and_then(|routed| self.begin(request, routed, facts.peer)) {
            Ok(Begun::Answered(answer)) => Box::pin(std::future::ready(Ok(facts.finish(shared, Ok(answer))))),
            Err(refusal) => Box::pin(std::future::ready(Ok(facts.finish(shared, Err(refusal))))),
            Ok(Begun::Publish { topic, is_text, bytes_max, body }) => {
                let shared = Arc::clone(shared);
                Box::pin(async move {
                    let answer = publish(&shared, topic, is_text, bytes_max, body).await;
                    Ok(facts.finish(&shared, answer))
                })
            }
            Ok(Begun::Read { request, documents, below }) => {
                let shared = Arc::clone(shared);
                Box::pin(async move {
                    let answer = read(&shared, &request, &documents, &below).await;
                    Ok(facts.finish(&shared, answer))
                })
            }
        }
    }
}

/// The facts about a request that complete its answer.
#[derive(Debug)]
struct RequestFacts {
    has_body: bool,
    /// The method and the path, where refusals are logged.
    target: Option<Box<(Method, String)>>,
    /// The header lines that tell a browser which pages may have the answer.
    page_lines: Vec<(&'static str, String)>,
    peer: Option<SocketAddr>,
}

impl RequestFacts {
    /// Completes the answer of a request.
    fn finish(self, shared: &Shared, answer: Result<Answer, Refusal>) -> Answer {
        let mut answer = answer.unwrap_or_else(|refusal| {
            // The query may hold a token, and the text of the refusal may repeat the query, so neither is logged.
            if let Some((method, path)) = self.target.as_deref() {
                let (status, cause) = (refusal.status, shared.cause(&refusal).cause());
                tracing::debug!(peer = self.peer.map(display), status, cause, %method, path, "refused");
            }
            let mut answer = refuse(shared, &refusal);
            if self.has_body {
                // The unread rest of the body stands in front of the next request.
                answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            answer
        });
        if shared.is_leaving() {
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        append(answer.headers_mut(), &self.page_lines);
        answer.headers_mut().insert(header::DATE, date::now());
        answer
    }
}

/// The course of a request.
enum Begun {
    Answered(Answer),
    /// The body is read and published.
    Publish {
        topic: TopicName,
        is_text: bool,
        /// The largest size of the body.
        bytes_max: u32,
        body: Incoming,
    },
    /// A file is read.
    Read {
        request: Box<Request<()>>,
        documents: Documents,
        below: Vec<String>,
    },
}

impl Service {
    /// Begins to answer a request by its head.
    fn begin(
        &self,
        request: Request<Incoming>,
        RoutedRequest { head, endpoint, refusal }: RoutedRequest,
        peer: Option<SocketAddr>,
    ) -> Result<Begun, Refusal> {
        let shared = &*self.shared;
        let health = |endpoint: &Endpoint| endpoint.health(head.method(), shared.is_leaving());
        if let Some(text) = endpoint.as_ref().ok().and_then(health).filter(|_| refusal.is_none()) {
            return text.map(|text| Begun::Answered(response(StatusCode::OK, TEXT, text)));
        }
        if !self.has_permit && !matches!(endpoint, Ok(Endpoint::Metrics)) {
            return Err(Refusal::not_now("there are as many HTTP connections as this server allows"));
        }
        if let Some(refusal) = refusal {
            return Err(refusal);
        }
        let endpoint = endpoint?;
        let is_for_metrics = self.served == ServedEndpoints::Operations;
        if is_for_metrics && endpoint != Endpoint::Metrics {
            let path = head.path();
            return Err(Refusal::new(
                404,
                format!("nothing is at {path:?}; /metrics is here, with /healthz and /readyz"),
            ));
        }
        let credentials = Credentials { head: &head, peer };
        match &endpoint {
            Endpoint::Metrics if !is_for_metrics && shared.config.metrics_listen.is_some() => {
                Err(Refusal::new(404, "the metrics are served on another address (metrics_listen)"))
            }
            Endpoint::Metrics | Endpoint::Files { .. } if request.method() == Method::OPTIONS => {
                Ok(Begun::Answered(preflight("GET, HEAD")))
            }
            Endpoint::Metrics => {
                only(&request, &[Method::GET, Method::HEAD, Method::OPTIONS])?;
                shared.authorize(&credentials, Intent::ReadMetrics, &endpoint)?;
                let text = shared.metrics();
                Ok(Begun::Answered(response(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text)))
            }
            Endpoint::Page { page } => {
                only(&request, &[Method::GET, Method::HEAD])?;
                // The server's own page is public: it holds no data.
                if page.is_some() {
                    shared.authorize(&credentials, Intent::Use, &endpoint)?;
                }
                Ok(Begun::Answered(the_page()))
            }
            Endpoint::Topic { topic, .. } => begin_at_topic(shared, request, &credentials, &endpoint, topic),
            Endpoint::WebSocket { .. } => {
                only(&request, &[Method::GET, Method::HEAD])?;
                Err(HandshakeError::Upgrade.refusal())
            }
            Endpoint::Files { mount, below } => {
                shared.authorize(&credentials, Intent::Use, &endpoint)?;
                only(&request, &[Method::GET, Method::HEAD, Method::OPTIONS])?;
                let documents = shared.endpoints.mounts()[*mount].documents.clone();
                Ok(Begun::Read { request: Box::new(request.map(drop)), documents, below: below.clone() })
            }
            Endpoint::Health | Endpoint::Ready | Endpoint::Nothing => Err(shared.endpoints.nothing_at(head.path())),
        }
    }
}

/// Begins to answer a request at a topic without an upgrade to a WebSocket.
fn begin_at_topic(
    shared: &Shared,
    request: Request<Incoming>,
    credentials: &Credentials<'_>,
    endpoint: &Endpoint,
    topic: &TopicName,
) -> Result<Begun, Refusal> {
    match *request.method() {
        Method::POST => {
            if shared.is_leaving() {
                return Err(Refusal::leaving());
            }
            check_query_of_post(credentials.head.query())?;
            shared.authorize(credentials, Intent::Publish, endpoint)?;
            let (topic, is_text) = (topic.clone(), is_text(request.headers()));
            let bytes_max = shared.endpoints.message_bytes_max(endpoint);
            Ok(Begun::Publish { topic, is_text, bytes_max, body: request.into_body() })
        }
        Method::OPTIONS => Ok(Begun::Answered(preflight("POST"))),
        Method::GET | Method::HEAD => {
            // A browser hides the response to a failed opening handshake from its page; this request has the same
            // answer.
            let raw = RawRequest::new(topic.clone(), credentials.head.query())?;
            shared.authorize(credentials, raw.intent(), endpoint)?;
            Err(HandshakeError::Upgrade.refusal())
        }
        _ => Err(Refusal::not_allowed("GET, POST, OPTIONS")),
    }
}

/// Answers with a file.
async fn read(
    shared: &Shared,
    request: &Request<()>,
    documents: &Documents,
    below: &[String],
) -> Result<Answer, Refusal> {
    let sending = Arc::clone(&shared.files).try_acquire_owned();
    let sending = sending.map_err(|_| Refusal::not_now("as many files are being sent as this server allows"))?;
    let answer = documents.answer(request, below).await?;
    // The permit is kept until the last frame is sent or dropped.
    let keep = move |frame| {
        _ = &sending;
        frame
    };
    Ok(answer.map(|body| Body::Right(body.map_frame(keep).boxed_unsync())))
}

/// Checks that the query of a POST has no key but the token.
fn check_query_of_post(query: Option<&str>) -> Result<(), Refusal> {
    query_pairs(query).try_for_each(|pair| match pair {
        (Some(key), Some(_)) if key == TOKEN_KEY => Ok(()),
        (Some(key), Some(_)) => {
            Err(Refusal::new(400, format!("{key:?} is not known here; the only key is {TOKEN_KEY}")))
        }
        _ => Err(Refusal::new(400, "the query is not percent-encoded UTF-8")),
    })
}

/// Publishes the body of `POST /t/{topic}`, of at most `bytes_max` bytes.
async fn publish(
    shared: &Shared,
    topic: TopicName,
    is_text: bool,
    bytes_max: u32,
    mut body: Incoming,
) -> Result<Answer, Refusal> {
    // Most bodies arrive whole with their heads.
    let (body, room) = match take_whole(shared, bytes_max, &mut body)? {
        Ok(whole) => whole,
        Err(begun) => Box::pin(read_body(shared, bytes_max, body, begun)).await?,
    };
    let publication = if is_text {
        let text = simdutf8::compat::from_utf8(&body).map_err(|error| {
            let at = error.valid_up_to();
            Refusal::new(400, format!("the body is text by its Content-Type and not UTF-8 at byte {at}"))
        })?;
        Publication::text(text)
    } else {
        Publication::binary(&body)
    };
    let bytes = body.len() as u64;
    // The publication has a copy of the body, and may wait for its offset.
    drop(body);
    let place = shared.publisher.publish_body(topic.clone(), publication, bytes).await;
    // From here on the mesh and the shards count the publication's memory.
    drop(room);
    let Place { epoch, offset, .. } = place.map_err(|reason| match reason {
        NotPublished::Leaving => Refusal::leaving(),
        NotPublished::HomeIsBehind => Refusal::not_now(
            "the shard of this topic is behind, and as many requests wait for it as this server allows",
        ),
    })?;
    let topic = serde_json::to_string(topic.as_str()).expect("a string can be encoded");
    let answer = format!("{{\"topic\":{topic},\"epoch\":{epoch},\"offset\":{offset}}}\n");
    Ok(response(StatusCode::ACCEPTED, JSON, answer))
}

/// Takes a body that has arrived whole, and room for it. If the body has not arrived whole, the inner error is the part
/// that has arrived.
fn take_whole(shared: &Shared, bytes_max: u32, body: &mut Incoming) -> Result<Result<(Bytes, Room), Bytes>, Refusal> {
    check_size(bytes_max, body.size_hint().lower())?;
    let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(&mut Context::from_waker(Waker::noop())) else {
        return Ok(Err(Bytes::new()));
    };
    let is_whole = frame.is_none() || body.is_end_stream();
    let data = frame.map(data_of).transpose()?.unwrap_or_default();
    check_size(bytes_max, data.len() as u64)?;
    if !is_whole {
        return Ok(Err(data));
    }
    let room = shared.bodies.take(data.len()).map_err(|NoRoom| no_room_for_bodies())?;
    Ok(Ok((data, room)))
}

/// Reads a body to its end, within the limits of a message, of all bodies together, and of time.
async fn read_body(
    shared: &Shared,
    bytes_max: u32,
    mut body: Incoming,
    begun: Bytes,
) -> Result<(Bytes, Room), Refusal> {
    let (incomplete, given_way) = shared.bodies.begin();
    let read = async {
        let announced = body.size_hint().upper().map(|rest| begun.len() as u64 + rest);
        let most = announced.map_or(bytes_max, |bytes| bytes.min(bytes_max.into()) as u32) as usize;
        let mut whole = Vec::new();
        gather(&mut whole, &begun, most, &incomplete).map_err(|NoRoom| no_room_for_bodies())?;
        drop(begun);
        while let Some(frame) = body.frame().await {
            let data = data_of(frame)?;
            check_size(bytes_max, (whole.len() + data.len()) as u64)?;
            gather(&mut whole, &data, most, &incomplete).map_err(|NoRoom| no_room_for_bodies())?;
        }
        Ok(whole.into())
    };
    let timeout = shared.config.http.body_timeout;
    let whole = tokio::select! {
        biased;
        _ = given_way => Err(no_room_for_bodies()),
        whole = read => whole,
        () = tokio::time::sleep(timeout) => {
            Err(Refusal::new(408, format!("the body did not arrive within {timeout:?}")))
        }
    }?;
    let room = incomplete.complete().map_err(|NoRoom| no_room_for_bodies())?;
    Ok((whole, room))
}

/// Appends a piece to a body of at most `most` bytes, and takes room for its memory, which doubles as the body grows.
fn gather(whole: &mut Vec<u8>, piece: &[u8], most: usize, incomplete: &Incomplete) -> Result<(), NoRoom> {
    let needed = whole.len() + piece.len();
    if needed > whole.capacity() {
        let capacity = (2 * whole.capacity()).min(most).max(needed);
        incomplete.grow(capacity - whole.capacity())?;
        whole.reserve_exact(capacity - whole.len());
    }
    whole.extend_from_slice(piece);
    Ok(())
}

/// Returns the data of a frame of a body. Trailers have none.
fn data_of(frame: hyper::Result<Frame<Bytes>>) -> Result<Bytes, Refusal> {
    let frame = frame.map_err(|error| Refusal::new(400, format!("the body is broken: {}", cause(&error))))?;
    Ok(frame.into_data().unwrap_or_default())
}

fn check_size(bytes_max: u32, bytes: u64) -> Result<(), Refusal> {
    let too_large = || Refusal::new(413, format!("the body is larger than the largest message, {bytes_max} bytes"));
    if bytes > u64::from(bytes_max) { Err(too_large()) } else { Ok(()) }
}

fn no_room_for_bodies() -> Refusal {
    Refusal::not_now("as many bytes of bodies are in memory as this server allows")
}

/// Returns the text of an error of a body.
fn cause(error: &hyper::Error) -> String {
    let source = std::error::Error::source(error);
    source.map_or_else(|| error.to_string(), ToString::to_string)
}

/// Returns whether a body is text. Every other body is binary.
fn is_text(headers: &HeaderMap) -> bool {
    let Some(content_type) = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()) else {
        return false;
    };
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    let is = |other: &str, part: Option<&str>| part.is_some_and(|part| part.eq_ignore_ascii_case(other));
    is("text/", media_type.get(.."text/".len()))
        || is("+json", media_type.len().checked_sub("+json".len()).and_then(|at| media_type.get(at..)))
        || ["application/json", "application/x-www-form-urlencoded"].iter().any(|other| is(other, Some(media_type)))
}

fn only(request: &Request<Incoming>, methods: &[Method]) -> Result<(), Refusal> {
    if methods.contains(request.method()) {
        return Ok(());
    }
    Err(Refusal::not_allowed(&methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ")))
}

#[cfg(test)]
mod tests {
    use super::{super::bodies::Bodies, *};

    /// The sum of `check-config` holds for bodies whatever their memory has grown to.
    #[test]
    fn a_body_weighs_its_memory() {
        let check = |pieces: &[usize], most: usize, expected: usize| {
            let bodies = Bodies::new(1_000);
            let (incomplete, _given_way) = bodies.begin();
            let mut whole = Vec::new();
            for &piece in pieces {
                gather(&mut whole, &vec![7; piece], most, &incomplete).expect("there is room");
            }
            assert_eq!((whole.len(), whole.capacity()), (pieces.iter().sum(), expected), "{pieces:?}");
            let _room = incomplete.complete().expect("it has not given way");
            let is_free = |bytes: usize| bodies.take(bytes).is_ok();
            assert_eq!((is_free(1_001 - expected), is_free(1_000 - expected)), (false, true), "{pieces:?}");
        };
        check(&[100], 1_000, 100);
        check(&[100, 1], 1_000, 200);
        check(&[100, 1, 99], 1_000, 200);
        check(&[100, 500, 1], 1_000, 1_000);
        check(&[100, 1, 100], 201, 201);
        check(&[0, 3], 3, 3);
        let bodies = Bodies::new(150);
        let (incomplete, _given_way) = bodies.begin();
        let mut whole = vec![7; 100];
        incomplete.grow(100).expect("there is room");
        assert_eq!(gather(&mut whole, b"x", 1_000, &incomplete), Err(NoRoom));
    }
}
