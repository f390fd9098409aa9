//! What each request is answered.

use std::{convert::Infallible, future::Future, net::SocketAddr, pin::Pin, sync::Arc};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body as _, Incoming},
    header::{self, HeaderMap, HeaderName, HeaderValue},
};

use super::{
    Shared,
    bodies::{Held, NoRoom},
    judge::{Judge, Judged},
};
use crate::{
    auth::{Credentials, TOKEN_KEY},
    documents::{Body, whole},
    endpoints::{Endpoint, Intent},
    hub::{Published, TopicName},
    metrics::Counter,
    proto::{HandshakeError, PreparedMessage, Refusal, query_pairs},
    surface::{page, raw::RawRequest},
};

/// Answers the requests of one connection.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) shared: Arc<Shared>,
    pub(super) judge: Arc<Judge>,
    pub(super) scope: Scope,
}

/// What a connection may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Everything,
    /// Metrics, health and readiness: it is on the address of the metrics.
    Operations,
    /// Health and readiness: there is no place for it.
    Health,
}

type Answer = Response<Body>;

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = Answer;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (shared, scope) = (Arc::clone(&self.shared), self.scope);
        let (judged, peer) = (self.judge.take(), self.judge.peer());
        shared.counters.add(Counter::HttpRequests, 1);
        Box::pin(async move {
            let has_body = !request.body().is_end_stream();
            let logs = tracing::enabled!(tracing::Level::DEBUG);
            let target = logs.then(|| (request.method().clone(), request.uri().path().to_owned()));
            let origin = request.headers().get(header::ORIGIN).cloned();
            // The line has let hyper read one request, and has judged that one.
            let judged = judged.ok_or_else(|| Refusal::new(500, "this server has lost what it knew of the request"));
            let endpoint = judged.as_ref().ok().and_then(|judged| judged.endpoint.as_ref().ok());
            let may_read =
                origin.as_ref().is_some_and(|origin| shared.endpoints.allow_origin(origin.as_bytes(), endpoint));
            let answer = match judged {
                Ok(judged) => answer(&shared, request, judged, peer, scope).await,
                Err(refusal) => Err(refusal),
            };
            let mut answer = answer.unwrap_or_else(|refusal| {
                // Without the query, which may hold a token; and not why, which may repeat it.
                if let Some((method, path)) = &target {
                    tracing::debug!(peer = peer.map(display), status = refusal.status, %method, path, "refused");
                }
                let mut answer = refuse(&shared, &refusal);
                if has_body {
                    // What was not read of it stands before the next request.
                    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                answer
            });
            if let Some(origin) = origin {
                share_with(origin, may_read, answer.headers_mut());
            }
            Ok(answer)
        })
    }
}

async fn answer(
    shared: &Shared,
    request: Request<Incoming>,
    Judged { head, endpoint, refusal }: Judged,
    peer: Option<SocketAddr>,
    scope: Scope,
) -> Result<Answer, Refusal> {
    let health = |endpoint: &Endpoint| endpoint.health(head.method(), shared.is_leaving());
    if let Some(text) = endpoint.as_ref().ok().and_then(health).filter(|_| refusal.is_none()) {
        return text.map(|text| response(StatusCode::OK, TEXT, text));
    }
    if scope == Scope::Health {
        return Err(Refusal::not_now("as many HTTP connections as this server allows"));
    }
    if let Some(refusal) = refusal {
        return Err(refusal);
    }
    let endpoint = endpoint?;
    let is_for_metrics = scope == Scope::Operations;
    if is_for_metrics && endpoint != Endpoint::Metrics {
        let path = head.path();
        return Err(Refusal::new(404, format!("nothing is at {path:?}; /metrics is here, with /healthz and /readyz")));
    }
    let credentials = Credentials { head: &head, peer };
    match &endpoint {
        Endpoint::Metrics if !is_for_metrics && shared.config.metrics_listen.is_some() => {
            Err(Refusal::new(404, "the metrics are served on another address (metrics_listen)"))
        }
        Endpoint::Metrics => {
            only(&request, &[Method::GET, Method::HEAD])?;
            shared.authorize(&credentials, Intent::ReadMetrics, &endpoint)?;
            Ok(response(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", shared.metrics()))
        }
        Endpoint::Page => {
            only(&request, &[Method::GET, Method::HEAD])?;
            let mut answer = response(StatusCode::OK, "text/html; charset=utf-8", page::PAGE);
            let headers = page::HEADERS.iter().map(|&(name, value)| (name, HeaderValue::from_static(value)));
            answer.headers_mut().extend(headers.map(|(name, value)| (HeaderName::from_static(name), value)));
            Ok(answer)
        }
        Endpoint::Topic { topic, .. } => at_topic(shared, request, &credentials, &endpoint, topic).await,
        Endpoint::WebSocket { .. } => {
            only(&request, &[Method::GET, Method::HEAD])?;
            Err(HandshakeError::Upgrade.refusal())
        }
        Endpoint::Files { mount, below } => {
            shared.authorize(&credentials, Intent::Use, &endpoint)?;
            let mount = &shared.endpoints.mounts()[*mount];
            let sending = Arc::clone(&shared.files).try_acquire_owned();
            let sending =
                sending.map_err(|_| Refusal::not_now("as many files as this server sends at the same time"))?;
            let answer = mount.documents.answer(&request, below).await?;
            // Until the last of it is sent or given up.
            let keep = move |frame| {
                _ = &sending;
                frame
            };
            Ok(answer.map(|body| body.map_frame(keep).boxed_unsync()))
        }
        Endpoint::Health | Endpoint::Ready | Endpoint::Nothing => Err(shared.endpoints.nothing_at(head.path())),
    }
}

/// A request at a topic that asks for no WebSocket.
async fn at_topic(
    shared: &Shared,
    request: Request<Incoming>,
    credentials: &Credentials<'_>,
    endpoint: &Endpoint,
    topic: &TopicName,
) -> Result<Answer, Refusal> {
    match *request.method() {
        Method::POST => {
            if shared.is_leaving() {
                return Err(Refusal::leaving());
            }
            check_query_of_post(credentials.head.query())?;
            shared.authorize(credentials, Intent::Publish, endpoint)?;
            publish(shared, request, topic).await
        }
        Method::OPTIONS => Ok(preflight()),
        Method::GET | Method::HEAD => {
            // A browser's page cannot see why its WebSocket was refused, and asks by this.
            let raw = RawRequest::new(topic.clone(), credentials.head.query())?;
            shared.authorize(credentials, raw.intent(), endpoint)?;
            Err(HandshakeError::Upgrade.refusal())
        }
        _ => Err(Refusal::not_allowed("GET, POST, OPTIONS")),
    }
}

/// A POST has no more to say than its token.
fn check_query_of_post(query: Option<&str>) -> Result<(), Refusal> {
    query_pairs(query).try_for_each(|pair| match pair {
        (Some(key), Some(_)) if key == TOKEN_KEY => Ok(()),
        (Some(key), Some(_)) => Err(Refusal::new(400, format!("{key:?} is not known here; {TOKEN_KEY} is"))),
        _ => Err(Refusal::new(400, "the query is not percent-encoded UTF-8")),
    })
}

/// `POST /t/{topic}`: publishes the body.
async fn publish(shared: &Shared, request: Request<Incoming>, topic: &TopicName) -> Result<Answer, Refusal> {
    let is_text = is_text(request.headers());
    // Held until it is published: the shards count what they have of it themselves.
    let (mut held, given_way) = shared.bodies.hold();
    let body = tokio::select! {
        biased;
        _ = given_way => Err(no_room_for_bodies()),
        body = read_body(shared, request.into_body(), &mut held) => body,
    }?;
    held.settle().map_err(|NoRoom| no_room_for_bodies())?;
    let message = if is_text {
        let text = simdutf8::compat::from_utf8(&body).map_err(|error| {
            let at = error.valid_up_to();
            Refusal::new(400, format!("the body is text by its Content-Type and not UTF-8 at byte {at}"))
        })?;
        PreparedMessage::text(text)
    } else {
        PreparedMessage::binary(&body)
    };
    let published = shared.publisher.publish_body(topic.clone(), message, body.len() as u64).await;
    let published = published.ok_or_else(Refusal::leaving)?;
    let topic = serde_json::Value::from(topic.as_str());
    let Published { epoch, offset } = published;
    let answer = format!("{{\"topic\":{topic},\"epoch\":{epoch},\"offset\":{offset}}}");
    Ok(response(StatusCode::ACCEPTED, JSON, answer))
}

/// The whole body, within the limits of a message, of all bodies together, and of time.
async fn read_body(shared: &Shared, mut body: Incoming, held: &mut Held) -> Result<Bytes, Refusal> {
    let most = shared.config.limits.message.message_bytes_max as usize;
    let check = |bytes: u64| {
        let too_large = || Refusal::new(413, format!("the body is larger than the largest message, {most} bytes"));
        if bytes > most as u64 { Err(too_large()) } else { Ok(()) }
    };
    check(body.size_hint().lower())?;
    let read = async {
        let mut whole = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Refusal::new(400, format!("the body is broken: {}", cause(&error))))?;
            // Trailers are nobody's.
            let Ok(data) = frame.into_data() else { continue };
            check((whole.len() + data.len()) as u64)?;
            held.grow(data.len()).map_err(|NoRoom| no_room_for_bodies())?;
            if whole.is_empty() && body.is_end_stream() {
                return Ok(data);
            }
            whole.extend_from_slice(&data);
        }
        Ok(whole.freeze())
    };
    let timeout = shared.config.http.body_timeout;
    let overdue = || Refusal::new(408, format!("the body did not arrive within {timeout:?}"));
    tokio::time::timeout(timeout, read).await.unwrap_or_else(|_| Err(overdue()))
}

fn no_room_for_bodies() -> Refusal {
    Refusal::not_now("as many bytes of bodies as this server takes at the same time")
}

/// What hyper has an error from.
fn cause(error: &hyper::Error) -> String {
    let source = std::error::Error::source(error);
    source.map_or_else(|| error.to_string(), ToString::to_string)
}

/// Is the body text? Everything else is binary.
fn is_text(headers: &HeaderMap) -> bool {
    let Some(content_type) = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()) else {
        return false;
    };
    let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media_type.starts_with("text/")
        || media_type.ends_with("+json")
        || ["application/json", "application/x-www-form-urlencoded"].contains(&&*media_type)
}

fn only(request: &Request<Incoming>, methods: &[Method]) -> Result<(), Refusal> {
    if methods.contains(request.method()) {
        return Ok(());
    }
    Err(Refusal::not_allowed(&methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ")))
}

fn refuse(shared: &Shared, refusal: &Refusal) -> Answer {
    shared.count_refusal(refusal);
    let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = response(status, JSON, refusal.body());
    let headers = answer.headers_mut();
    for (name, value) in &refusal.headers {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
            headers.append(name, value);
        }
    }
    if headers.contains_key(header::UPGRADE) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
    answer
}

fn response(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(whole(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

/// What a browser asks before a page of another origin may publish with a token (WHATWG Fetch, CORS).
fn preflight() -> Answer {
    let mut answer = Response::new(whole(""));
    *answer.status_mut() = StatusCode::NO_CONTENT;
    let headers = answer.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST"));
    let allowed = HeaderValue::from_static("authorization, content-type");
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    answer
}

/// Lets a page of an allowed origin read the answer.
fn share_with(origin: HeaderValue, may_read: bool, headers: &mut HeaderMap) {
    headers.insert(header::VARY, HeaderValue::from_static("origin"));
    if may_read {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    }
}

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
