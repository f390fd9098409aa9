//! What each request is answered.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body as _, Incoming},
    header::{self, HeaderMap, HeaderName, HeaderValue},
    upgrade::OnUpgrade,
};

use super::{
    Endpoints, Shared,
    line::{Line, Phase},
};
use crate::{
    documents::{Body, whole},
    handover::Visit,
    metrics::{self, Counter},
    proto::{self, HandshakeError, PreparedMessage, Refusal, RequestHead},
    surface::{
        access::{Right, Shown, TOKEN_KEY},
        page,
        raw::{self, RawRequest, TOPIC_PREFIX},
    },
};

/// Answers the requests of one connection.
#[derive(Debug)]
pub(super) struct Service {
    shared: Arc<Shared>,
    phase: Arc<Phase>,
    upgrade: Upgrade,
    only_metrics: bool,
}

type Answer = Response<Body>;

impl Service {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Service { shared, phase: Arc::default(), upgrade: Upgrade::default(), only_metrics: false }
    }

    /// For the address that is for `/metrics` alone.
    pub(super) fn only_metrics(shared: Arc<Shared>) -> Self {
        Service { only_metrics: true, ..Self::new(shared) }
    }

    /// The same for the line whose phase that is.
    pub(super) fn on(self, phase: Arc<Phase>) -> Self {
        Service { phase, ..self }
    }

    /// Where a connection that is to become a WebSocket will be found.
    pub(super) fn upgrade(&self) -> Upgrade {
        self.upgrade.clone()
    }
}

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = Answer;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, Infallible>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let (shared, phase) = (Arc::clone(&self.shared), Arc::clone(&self.phase));
        phase.begin_answer();
        shared.counters.add(Counter::HttpRequests, 1);
        if !self.only_metrics && asks_for_websocket(request.headers()) {
            let answer = self.upgrade.begin(&shared, &mut request);
            if answer.is_ok() {
                phase.capture();
                return Box::pin(async { answer.map_err(|_| unreachable!("it is Ok")) });
            }
            let answer = answer.unwrap_or_else(|refusal| refuse(&shared, &refusal));
            phase.end_answer();
            return Box::pin(async { Ok(answer) });
        }
        let only_metrics = self.only_metrics;
        Box::pin(async move {
            let origin = request.headers().get(header::ORIGIN).cloned();
            let has_body = !request.body().is_end_stream();
            let mut answer = match answer(&shared, request, only_metrics).await {
                Ok(answer) => answer,
                Err(refusal) => {
                    let mut answer = refuse(&shared, &refusal);
                    if has_body {
                        // What was not read of it stands before the next request.
                        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                    }
                    answer
                }
            };
            if let Some(origin) = origin {
                share_with(&shared, &origin, answer.headers_mut());
            }
            phase.end_answer();
            Ok(answer)
        })
    }
}

async fn answer(shared: &Shared, request: Request<Incoming>, only_metrics: bool) -> Result<Answer, Refusal> {
    let path = request.uri().path();
    let Endpoints { topics, page, operations } = shared.endpoints;
    let is_metrics = path == "/metrics" && (only_metrics || shared.config.metrics_listen.is_none());
    match path {
        _ if is_metrics && operations => {
            only(&request, &[Method::GET, Method::HEAD])?;
            shown(&request).check(&shared.config.access, &[Right::Metrics])?;
            let text = metrics::prometheus(&shared.shards, &shared.counters);
            Ok(response(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text))
        }
        "/metrics" if operations => {
            Err(Refusal::new(404, "the metrics are served on another address (metrics_listen)"))
        }
        _ if only_metrics => Err(Refusal::new(404, format!("nothing is at {path:?}; /metrics is here"))),
        "/healthz" if operations => {
            only(&request, &[Method::GET, Method::HEAD])?;
            Ok(response(StatusCode::OK, TEXT, "alive\n"))
        }
        "/readyz" if operations => {
            only(&request, &[Method::GET, Method::HEAD])?;
            if shared.is_leaving() { Err(leaving()) } else { Ok(response(StatusCode::OK, TEXT, "ready\n")) }
        }
        "/" if page => {
            only(&request, &[Method::GET, Method::HEAD])?;
            let mut answer = response(StatusCode::OK, "text/html; charset=utf-8", page::PAGE);
            let headers = page::HEADERS.iter().map(|&(name, value)| (name, HeaderValue::from_static(value)));
            answer.headers_mut().extend(headers.map(|(name, value)| (HeaderName::from_static(name), value)));
            Ok(answer)
        }
        path if topics && path.starts_with(TOPIC_PREFIX) => match *request.method() {
            Method::POST => publish(shared, request).await,
            Method::OPTIONS => Ok(preflight()),
            Method::GET | Method::HEAD => {
                // A browser's page cannot see why its WebSocket was refused, and asks by this.
                RawRequest::new(path, request.uri().query())?.check(&shown(&request), &shared.config.access)?;
                Err(HandshakeError::Upgrade.refusal())
            }
            _ => Err(not_allowed("GET, POST, OPTIONS")),
        },
        path if shared.routes.find(path).is_some() => {
            only(&request, &[Method::GET, Method::HEAD])?;
            Err(HandshakeError::Upgrade.refusal())
        }
        _ if topics => Err(Refusal::new(404, format!("nothing is at {path:?}; topics are at {TOPIC_PREFIX}{{topic}}"))),
        _ => Err(Refusal::new(404, format!("nothing is at {path:?}"))),
    }
}

/// `POST /t/{topic}`: publishes the body.
async fn publish(shared: &Shared, request: Request<Incoming>) -> Result<Answer, Refusal> {
    if shared.is_leaving() {
        return Err(leaving());
    }
    let topic = raw::topic(request.uri().path())?;
    let keys = request.uri().query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    if let Some(key) = keys.map(|pair| pair.split('=').next().unwrap_or_default()).find(|key| *key != TOKEN_KEY) {
        return Err(Refusal::new(400, format!("{key:?} is not known here; {TOKEN_KEY} is")));
    }
    shown(&request).check(&shared.config.access, &[Right::Publish])?;
    let is_text = is_text(request.headers());
    let body = read_body(shared, request.into_body()).await?;
    let message = if is_text {
        let text = simdutf8::compat::from_utf8(&body).map_err(|error| {
            let at = error.valid_up_to();
            Refusal::new(400, format!("the body is text by its Content-Type and not UTF-8 at byte {at}"))
        })?;
        PreparedMessage::text(text)
    } else {
        PreparedMessage::binary(&body)
    };
    shared.counters.add(Counter::MessagesIn, 1);
    shared.counters.add(Counter::BytesIn, body.len() as u64);
    let published = shared.publisher.publish(topic.clone(), None, message).await.ok_or_else(leaving)?;
    let answer = serde_json::json!({
        "topic": topic.as_str(),
        "epoch": published.epoch,
        "offset": published.offset,
    });
    Ok(response(StatusCode::ACCEPTED, JSON, answer.to_string()))
}

/// The whole body, within the limits of a message and of time.
async fn read_body(shared: &Shared, body: Incoming) -> Result<Bytes, Refusal> {
    let most = shared.config.limits.message.message_bytes_max as usize;
    let too_large = || Refusal::new(413, format!("the body is larger than the largest message, {most} bytes"));
    if body.size_hint().exact().is_some_and(|bytes| bytes > most as u64) {
        return Err(too_large());
    }
    let timeout = shared.config.http.body_timeout;
    match tokio::time::timeout(timeout, Limited::new(body, most).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => Err(Refusal::new(400, format!("the body is broken: {error}"))),
        Err(_) => Err(Refusal::new(408, format!("the body did not arrive within {timeout:?}"))),
    }
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

fn shown(request: &Request<Incoming>) -> Shown<'_> {
    let value = |name| request.headers().get(name).map(HeaderValue::as_bytes);
    Shown::new(value(header::ORIGIN), value(header::AUTHORIZATION), request.uri().query())
}

fn only(request: &Request<Incoming>, methods: &[Method]) -> Result<(), Refusal> {
    if methods.contains(request.method()) {
        return Ok(());
    }
    Err(not_allowed(&methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ")))
}

fn not_allowed(allowed: &str) -> Refusal {
    Refusal::new(405, format!("this path takes {allowed}")).header("Allow", allowed)
}

fn leaving() -> Refusal {
    Refusal::new(503, "this server is going away").header("Retry-After", "1")
}

fn refuse(shared: &Shared, refusal: &Refusal) -> Answer {
    shared.counters.add(Counter::refused(refusal.status), 1);
    let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = response(status, JSON, refusal.body());
    let headers = answer.headers_mut();
    for (name, value) in &refusal.headers {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
            headers.insert(name, value);
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
fn share_with(shared: &Shared, origin: &HeaderValue, headers: &mut HeaderMap) {
    headers.insert(header::VARY, HeaderValue::from_static("origin"));
    if shared.config.access.origins.allow(origin.as_bytes()) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    }
}

/// A connection that is to become a WebSocket: its socket, what has been received of it, its head first, and what is
/// still to be sent before the answer.
pub(super) type Returned = (std::os::fd::OwnedFd, BytesMut, Bytes);

/// A request that asks for a WebSocket on a connection that was kept alive.
///
/// A shard is to answer it, since nobody may be told that it subscribes before it does. So hyper is made to believe
/// that it was answered 101, which it writes into the line's capture and not to the peer; it then gives the connection
/// up, and the shard gets the head as it would have read it.
#[derive(Debug, Clone, Default)]
pub(super) struct Upgrade(Arc<Mutex<Option<(BytesMut, OnUpgrade)>>>);

impl Upgrade {
    /// Takes a request that may become a WebSocket: whether it does a shard will judge.
    fn begin(&self, shared: &Shared, request: &mut Request<Incoming>) -> Result<Answer, Refusal> {
        let bytes = head_of(request);
        let malformed = || Refusal::new(400, "the head of this request is malformed");
        let (head, _) = RequestHead::decode(&bytes).map_err(|error| error.refusal())?.ok_or_else(malformed)?;
        if shared.routes.find(head.path()).is_none() {
            return Err(shared.routes.nothing_at(head.path()));
        }
        proto::Upgrade::from_request(&head).map_err(|error| error.refusal())?;
        if shared.is_leaving() {
            return Err(leaving());
        }
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((bytes, hyper::upgrade::on(request)));
        let mut answer = Response::new(whole(""));
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = answer.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        Ok(answer)
    }

    /// The connection, if there was such a request.
    pub(super) async fn take(&self) -> Option<Returned> {
        let taken = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (mut received, upgrade) = taken?;
        let parts = upgrade.await.ok()?.downcast::<Line>().ok()?;
        received.extend_from_slice(&parts.read_buf);
        let (socket, captured) = parts.io.into_parts().ok()?;
        // Answers to earlier requests may have stood before it in hyper's buffer.
        let end = captured.windows(SWITCHING.len()).rposition(|window| window == SWITCHING).unwrap_or(captured.len());
        Some((socket, received, Bytes::copy_from_slice(&captured[..end])))
    }
}

/// Gives a connection to a shard, each in turn.
pub(super) async fn hand_back(shared: &Shared, visit: Visit) {
    // Relaxed: any shard will do.
    let at = NEXT.fetch_add(1, Ordering::Relaxed) % shared.returns.len();
    shared.counters.add(Counter::HttpReturned, 1);
    if shared.returns[at].send(visit).await.is_err() {
        tracing::debug!("a shard has ended before it took a connection back");
    }
}

static NEXT: AtomicUsize = AtomicUsize::new(0);

/// The head as it would have been read.
fn head_of(request: &Request<Incoming>) -> BytesMut {
    let version = if request.version() == hyper::Version::HTTP_11 { "HTTP/1.1" } else { "HTTP/1.0" };
    let mut head = BytesMut::from(&*format!("{} {} {version}\r\n", request.method(), request.uri()));
    for (name, value) in request.headers() {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// As `surface::raw` judges it.
fn asks_for_websocket(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::UPGRADE).iter();
    let mut protocols = values.flat_map(|value| value.as_bytes().split(|&octet| octet == b','));
    protocols.any(|protocol| protocol.trim_ascii().eq_ignore_ascii_case(b"websocket"))
}

const SWITCHING: &[u8] = b"HTTP/1.1 101 ";
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
