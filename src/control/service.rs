//! Answers the requests that hyper reads.

use std::{
    convert::Infallible,
    future::{Future, ready},
    mem,
    pin::Pin,
    sync::Arc,
};

use http_body_util::BodyExt as _;
use hyper::{
    Method, Request, StatusCode,
    body::{Body as _, Incoming},
    header::{self, HeaderValue},
};
use tracing::field::display;

use super::{
    admin::AdminCall,
    answers::{Answer, Body, TEXT, append, client_file, preflight, refuse, refuse_stream, response, the_page},
    date,
    embedded::{self, AtService, ServiceCall},
    paths::{self, AtPath, EndpointCall},
    router::{RequestRouter, RoutedRequest},
    shared::Shared,
    top::{self, TopFormat},
};
use crate::{
    access_log::Access,
    auth::{Credentials, Identity, Remote},
    documents::Documents,
    endpoints::{ClientFile, Endpoint, Intent},
    handover::AddressPermit,
    metrics::{Counter, text::TextFormat},
    proto::{Framing, Refusal},
};

/// Answers the requests of one connection.
#[derive(Debug, Clone)]
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
    /// Metrics, what is on top, health, readiness and the administration: all that the address of the metrics has.
    Operations,
}

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = Answer;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, Infallible>> + Send>>;

    /// Begins to answer a request. Most requests are answered in the first poll. Endpoints of surfaces, services,
    /// files, questions to the shards and a judge that has to wait may take longer.
    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let shared = &self.shared;
        shared.counters.add(Counter::HttpRequests, 1);
        let access = shared.access_log.begin(|| None, request.method().as_str(), request.uri().path());
        let mut facts = RequestFacts {
            has_body: !request.body().is_end_stream(),
            target: None,
            asks_for_stream: false,
            page_lines: Vec::new(),
            remote: Remote::default(),
            of_address: None,
            access: access.map(Box::new),
        };
        if tracing::enabled!(tracing::Level::DEBUG) {
            facts.target = Some(Box::new((request.method().clone(), request.uri().path().to_owned())));
        }
        let origin = request.headers().get(header::ORIGIN).map(HeaderValue::as_bytes);
        // The connection has let hyper read one request, and has routed that one.
        let Some(routed) = self.router.take() else {
            facts.page_lines = shared.endpoints.get().page_lines(origin, None);
            let refusal = Refusal::new(500, "this server has lost the state of the request");
            return Box::pin(ready(Ok(facts.finish(shared, Err(refusal)))));
        };
        facts.page_lines = routed.endpoints.page_lines(origin, routed.endpoint.as_ref().ok());
        facts.remote = routed.remote;
        facts.asks_for_stream = (routed.refusal.is_some() || !self.has_permit) && Framing::is_asked_for(&routed.head);
        if let Some(access) = &mut facts.access {
            access.peer = routed.remote.client;
        }
        if matches!(routed.endpoint, Ok(Endpoint::Path { .. })) {
            // hyper's copy of the head has no further use.
            return Box::pin(self.clone().answer_at_path(request.into_body(), routed, facts));
        }
        Box::pin(self.clone().answer(request, routed, facts))
    }
}

/// The facts about a request that complete its answer.
#[derive(Debug)]
struct RequestFacts {
    has_body: bool,
    /// The method and the path, where refusals are logged.
    target: Option<Box<(Method, String)>>,
    /// Whether the request asks for an event stream, and is refused.
    asks_for_stream: bool,
    /// The header lines that tell a browser which pages may have the answer.
    page_lines: Vec<(&'static str, String)>,
    remote: Remote,
    /// The permit that counts the request among the connections of its client's address.
    of_address: Option<AddressPermit>,
    /// The facts for the access log, if it is on.
    access: Option<Box<Access>>,
}

impl RequestFacts {
    /// Notes the sender of the request for the access log.
    fn note_sender(&mut self, identity: Option<&Identity>) {
        if let Some(access) = &mut self.access {
            access.identity = identity.map(|identity| identity.name.clone());
        }
    }

    /// Completes the answer of a request.
    fn finish(self, shared: &Shared, answer: Result<Answer, Refusal>) -> Answer {
        let mut answer = answer.unwrap_or_else(|refusal| {
            // The query may hold a token, and the text of the refusal may repeat the query, so neither is logged.
            if let Some((method, path)) = self.target.as_deref() {
                let (status, cause) = (refusal.status, shared.cause(&refusal).cause());
                let (peer, proxy) = (self.remote.client.map(display), self.remote.proxy.map(display));
                tracing::debug!(peer, proxy, status, cause, %method, path, "refused");
            }
            let mut answer =
                if self.asks_for_stream { refuse_stream(shared, refusal) } else { refuse(shared, &refusal) };
            if self.has_body {
                // The unread rest of the body stands in front of the next request.
                answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            answer
        });
        if shared.is_leaving() {
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        let mut lines = self.page_lines;
        if !lines.is_empty() {
            // A service may have said itself which pages may have its answer.
            let says = answer.headers().contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN);
            lines.retain(|(name, _)| !(says && name.starts_with("Access-Control-")));
            join_vary(&mut answer, &mut lines);
            append(answer.headers_mut(), &lines);
        }
        answer.headers_mut().insert(header::DATE, date::now());
        if let Some(access) = &self.access {
            shared.access_log.request(access, answer.status().as_u16());
        }
        answer
    }
}

/// Joins the `Vary` of an answer with that of further lines, so that there is one line.
fn join_vary(answer: &mut Answer, lines: &mut [(&'static str, String)]) {
    let Some((_, vary)) = lines.iter_mut().find(|(name, _)| *name == "Vary") else { return };
    let mut own: Vec<String> =
        answer.headers().get_all(header::VARY).iter().filter_map(|own| own.to_str().ok()).map(Into::into).collect();
    answer.headers_mut().remove(header::VARY);
    own.push(mem::take(vary));
    *vary = own.join(", ");
}

/// The course of a request that is not at a path of a route.
enum Begun {
    Answered(Answer),
    /// The shards are asked what is on top.
    Top(TopFormat),
    /// The service of an embedder is called when its body has been read.
    Serve(Box<ServiceCall>),
    /// The administration answers when it has asked the shards.
    Admin(Box<AdminCall>),
    /// A file is read. If the folder has no such file, the answer is `instead`.
    Read {
        documents: Documents,
        below: Vec<String>,
        instead: Option<ClientFile>,
    },
}

impl Service {
    /// Answers a request at a path of a route. The state of the returned future is memory of each request, so what few
    /// requests need stands apart.
    #[expect(clippy::manual_async_fn, reason = "the state of an `async fn` would hold each parameter twice")]
    fn answer_at_path(
        self,
        body: Incoming,
        routed: Box<RoutedRequest>,
        mut facts: RequestFacts,
    ) -> impl Future<Output = Result<Answer, Infallible>> + Send {
        async move {
            let shared = &self.shared;
            let begun = match self.admit(&routed, &mut facts) {
                Ok(Some(answer)) => Ok(AtPath::Answered(answer)),
                Ok(None) => paths::begin(shared, &routed).await,
                Err(refusal) => Err(refusal),
            };
            let answer = match begun {
                Ok(AtPath::Answered(answer)) => Ok(answer),
                Ok(AtPath::Call(admitted)) => {
                    facts.note_sender(admitted.identity());
                    match EndpointCall::new(shared, *routed, admitted) {
                        Ok(call) => call.answer(shared, body).await,
                        Err(refusal) => Err(refusal),
                    }
                }
                Err(refusal) => Err(refusal),
            };
            Ok(facts.finish(shared, answer))
        }
    }

    /// Answers a request that is not at a path of a route.
    async fn answer(
        self,
        request: Request<Incoming>,
        routed: Box<RoutedRequest>,
        mut facts: RequestFacts,
    ) -> Result<Answer, Infallible> {
        let shared = &self.shared;
        let begun = match self.admit(&routed, &mut facts) {
            Ok(Some(answer)) => Ok(Begun::Answered(answer)),
            Ok(None) => self.begin(&routed, &request).await,
            Err(refusal) => Err(refusal),
        };
        let answer = match begun {
            Ok(Begun::Answered(answer)) => Ok(answer),
            Ok(Begun::Serve(call)) => {
                facts.note_sender(call.identity());
                call.answer(shared, &self.router, request).await
            }
            Ok(Begun::Top(format)) => Ok(top::answer(shared, format).await),
            Ok(Begun::Admin(call)) => call.answer(shared, request.into_body()).await,
            Ok(Begun::Read { documents, below, instead }) => {
                let request = request.map(drop);
                match (read(shared, &request, &documents, &below).await, instead) {
                    (Err(Refusal { status: 404, .. }), Some(file)) => Ok(client_file(&request, file)),
                    (read, _) => read,
                }
            }
            Err(refusal) => Err(refusal),
        };
        Ok(facts.finish(shared, answer))
    }

    /// Decides by the head, and without a judge, whether a request may go on. Returns the answer of a request for the
    /// server's health.
    fn admit(&self, routed: &RoutedRequest, facts: &mut RequestFacts) -> Result<Option<Answer>, Refusal> {
        let RoutedRequest { head, endpoint, refusal, named, .. } = routed;
        let shared = &self.shared;
        let health = |endpoint: &Endpoint| endpoint.health(head.method(), shared.is_unready());
        if let Some(text) = endpoint.as_ref().ok().and_then(health).filter(|_| refusal.is_none()) {
            return text.map(|text| Some(response(StatusCode::OK, TEXT, text)));
        }
        if !self.has_permit && !matches!(endpoint, Ok(Endpoint::Metrics)) {
            return Err(Refusal::not_now("there are as many HTTP connections as this server allows"));
        }
        if let Some(refusal) = refusal {
            return Err(refusal.clone());
        }
        let endpoint = endpoint.as_ref().map_err(Clone::clone)?;
        if *endpoint != Endpoint::Metrics {
            facts.of_address = named.map(|client| shared.admit_client(client)).transpose()?.flatten();
        }
        let is_for_metrics = self.served == ServedEndpoints::Operations;
        if is_for_metrics && !matches!(endpoint, Endpoint::Metrics | Endpoint::Top | Endpoint::Admin(_)) {
            let path = head.path();
            return Err(Refusal::new(
                404,
                format!("nothing is at {path:?}; /metrics is here, with /debug/top, /healthz and /readyz"),
            ));
        }
        Ok(None)
    }

    /// Begins to answer a request for an endpoint that is not at a path of a route.
    async fn begin(&self, routed: &RoutedRequest, request: &Request<Incoming>) -> Result<Begun, Refusal> {
        let RoutedRequest { head, endpoints, endpoint, remote, .. } = routed;
        let (shared, endpoint) = (&self.shared, endpoint.as_ref().map_err(Clone::clone)?);
        let credentials = &Credentials::new(head, remote.client);
        let is_for_metrics = self.served == ServedEndpoints::Operations;
        let authorize = |intent| shared.authorize(endpoints, credentials, intent, endpoint);
        match endpoint {
            Endpoint::Metrics | Endpoint::Top if !is_for_metrics && shared.config.get().metrics_listen.is_some() => {
                Err(Refusal::new(404, "the metrics are served on another address (metrics_listen)"))
            }
            Endpoint::Metrics | Endpoint::Top | Endpoint::Files { .. } if request.method() == Method::OPTIONS => {
                Ok(Begun::Answered(preflight("GET, HEAD", &[])))
            }
            Endpoint::Metrics => {
                only(request, &[Method::GET, Method::HEAD, Method::OPTIONS])?;
                authorize(Intent::ReadMetrics).await?;
                let lines = request.headers().get_all(header::ACCEPT).iter();
                let format = TextFormat::negotiate(lines.filter_map(|line| line.to_str().ok()));
                let mut answer = response(StatusCode::OK, format.content_type(), shared.metrics(format));
                answer.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
                Ok(Begun::Answered(answer))
            }
            Endpoint::Top => {
                only(request, &[Method::GET, Method::HEAD, Method::OPTIONS])?;
                authorize(Intent::ReadTop).await?;
                Ok(Begun::Top(TopFormat::of(head)?))
            }
            Endpoint::Admin(path) => {
                let methods = AdminCall::methods(path);
                if request.method() == Method::OPTIONS {
                    return Ok(Begun::Answered(preflight(methods, &[])));
                }
                if !methods.split(", ").any(|method| method == request.method().as_str()) {
                    return Err(Refusal::not_allowed(&format!("{methods}, OPTIONS")));
                }
                authorize(Intent::Administer).await?;
                Ok(Begun::Admin(Box::new(AdminCall::read(path, head)?)))
            }
            Endpoint::Page { page } => {
                only(request, &[Method::GET, Method::HEAD])?;
                // The server's own page is public: it holds no data.
                if page.is_some() {
                    authorize(Intent::Use).await?;
                }
                Ok(Begun::Answered(the_page()))
            }
            // The client is public too.
            Endpoint::ClientFile(file) => {
                only(request, &[Method::GET, Method::HEAD])?;
                Ok(Begun::Answered(client_file(request, *file)))
            }
            Endpoint::Service { service } => {
                match embedded::begin(shared, endpoints, *service, credentials, endpoint, request).await? {
                    AtService::Preflight(answer) => Ok(Begun::Answered(answer)),
                    AtService::Call(call) => Ok(Begun::Serve(call)),
                }
            }
            Endpoint::Files { mount, below } => {
                authorize(Intent::Use).await?;
                only(request, &[Method::GET, Method::HEAD, Method::OPTIONS])?;
                let documents = endpoints.mounts()[*mount].documents.clone();
                let instead = endpoints.client_file_beside(*mount, below);
                Ok(Begun::Read { documents, below: below.clone(), instead })
            }
            Endpoint::Path { .. } | Endpoint::Health | Endpoint::Ready | Endpoint::Nothing => {
                Err(endpoints.nothing_at(head.path()))
            }
        }
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

fn only(request: &Request<Incoming>, methods: &[Method]) -> Result<(), Refusal> {
    if methods.contains(request.method()) {
        return Ok(());
    }
    Err(Refusal::not_allowed(&methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the size of a function's result in bytes.
    fn size_of_result<A, R>(_: impl Fn(A) -> R) -> usize {
        size_of::<R>()
    }

    /// The state is allocated and copied for each request. glibc keeps blocks of up to 1 032 bytes at hand for each
    /// thread.
    #[test]
    fn the_state_of_a_request_is_small() {
        let bytes = size_of_result(|(service, request, routed, facts): (Service, _, _, _)| {
            service.answer_at_path(request, routed, facts)
        });
        assert!(bytes <= 1_032, "{bytes}");
    }
}
