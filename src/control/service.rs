//! Answers the requests that hyper reads.

use std::{convert::Infallible, future::Future, mem, pin::Pin, sync::Arc};

use http_body_util::BodyExt as _;
use hyper::{
    Method, Request, StatusCode,
    body::{Body as _, Incoming},
    header::{self, HeaderValue},
};
use tracing::field::display;

use super::{
    admin::AdminCall,
    answers::{Answer, Body, TEXT, append, preflight, refuse, response, the_page},
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
    endpoints::{Endpoint, Intent},
    handover::AddressPermit,
    metrics::{Counter, text::TextFormat},
    proto::Refusal,
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
    /// Metrics, health and readiness, for a connection to the address of the metrics.
    Operations,
}

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = Answer;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, Infallible>> + Send>>;

    /// Begins to answer a request. Only an endpoint of a surface, a file, and a judge that has to wait take longer than
    /// the first poll of the work.
    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let shared = &self.shared;
        shared.counters.add(Counter::HttpRequests, 1);
        let mut facts = RequestFacts {
            has_body: !request.body().is_end_stream(),
            target: None,
            page_lines: Vec::new(),
            remote: Remote::default(),
            of_address: None,
            access: None,
        };
        facts.access = shared.access_log.begin(|| None, request.method().as_str(), request.uri().path());
        if tracing::enabled!(tracing::Level::DEBUG) {
            facts.target = Some(Box::new((request.method().clone(), request.uri().path().to_owned())));
        }
        // The connection has let hyper read one request, and has routed that one.
        let routed = self.router.take();
        let routed = routed.ok_or_else(|| Refusal::new(500, "this server has lost the state of the request"));
        let origin = request.headers().get(header::ORIGIN).map(HeaderValue::as_bytes);
        let endpoint = routed.as_ref().ok().and_then(|routed| routed.endpoint.as_ref().ok());
        facts.page_lines = match &routed {
            Ok(routed) => routed.endpoints.page_lines(origin, endpoint),
            Err(_) => shared.endpoints.get().page_lines(origin, None),
        };
        let service = self.clone();
        // The state of this future is memory of each request, so what few requests need stands apart.
        Box::pin(async move {
            let begun = match routed {
                Ok(routed) => service.begin(request, routed, &mut facts).await,
                Err(refusal) => Err(refusal),
            };
            match &begun {
                Ok(Begun::Call(call)) => facts.note_sender(call.identity()),
                Ok(Begun::Serve(call)) => facts.note_sender(call.identity()),
                _ => {}
            }
            let answer = match begun {
                Ok(Begun::Answered(answer)) => Ok(answer),
                Ok(Begun::Call(call)) => call.answer(&service.shared).await,
                Ok(Begun::Serve(call)) => Box::pin(call.answer(&service.shared)).await,
                Ok(Begun::Top(format)) => Ok(Box::pin(top::answer(&service.shared, format)).await),
                Ok(Begun::Admin(call)) => Box::pin(call.answer(&service.shared)).await,
                Ok(Begun::Read { request, documents, below }) => {
                    Box::pin(read(&service.shared, &request, &documents, &below)).await
                }
                Err(refusal) => Err(refusal),
            };
            Ok(facts.finish(&service.shared, answer))
        })
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
    remote: Remote,
    /// The permit that counts the request among the connections of its client's address.
    of_address: Option<AddressPermit>,
    /// The facts for the access log, if it is on.
    access: Option<Access>,
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
        // A service may have said itself which pages may have its answer.
        let says = answer.headers().contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN);
        let lines = self.page_lines.iter().filter(|(name, _)| !(says && name.starts_with("Access-Control-")));
        let mut lines: Vec<_> = lines.cloned().collect();
        if !lines.is_empty() {
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

/// The course of a request.
enum Begun {
    Answered(Answer),
    /// An endpoint of a surface is called when its body has been read.
    Call(EndpointCall),
    /// The shards are asked what is on top.
    Top(TopFormat),
    /// The service of an embedder is called when its body has been read.
    Serve(Box<ServiceCall>),
    /// The administration answers when it has asked the shards.
    Admin(Box<AdminCall>),
    /// A file is read.
    Read {
        request: Box<Request<()>>,
        documents: Documents,
        below: Vec<String>,
    },
}

impl Service {
    /// Begins to answer a request by its head.
    async fn begin(
        &self,
        request: Request<Incoming>,
        routed: Box<RoutedRequest>,
        facts: &mut RequestFacts,
    ) -> Result<Begun, Refusal> {
        let RoutedRequest { head, endpoints, endpoint, refusal, remote, named } = *routed;
        let shared = &self.shared;
        facts.remote = remote;
        if let Some(access) = &mut facts.access {
            access.peer = remote.client;
        }
        let health = |endpoint: &Endpoint| endpoint.health(head.method(), shared.is_unready());
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
        if endpoint != Endpoint::Metrics {
            facts.of_address = named.map(|client| shared.admit_client(client)).transpose()?.flatten();
        }
        let is_for_metrics = self.served == ServedEndpoints::Operations;
        if is_for_metrics && !matches!(endpoint, Endpoint::Metrics | Endpoint::Top | Endpoint::Admin(_)) {
            let path = head.path();
            return Err(Refusal::new(
                404,
                format!("nothing is at {path:?}; /metrics is here, with /healthz and /readyz"),
            ));
        }
        let credentials = Credentials::new(&head, remote.client);
        match &endpoint {
            Endpoint::Metrics | Endpoint::Top if !is_for_metrics && shared.config.get().metrics_listen.is_some() => {
                Err(Refusal::new(404, "the metrics are served on another address (metrics_listen)"))
            }
            Endpoint::Metrics | Endpoint::Top | Endpoint::Files { .. } if request.method() == Method::OPTIONS => {
                Ok(Begun::Answered(preflight("GET, HEAD", &[])))
            }
            Endpoint::Metrics => {
                only(&request, &[Method::GET, Method::HEAD, Method::OPTIONS])?;
                Box::pin(shared.authorize(&endpoints, &credentials, Intent::ReadMetrics, &endpoint)).await?;
                let lines = request.headers().get_all(header::ACCEPT).iter();
                let format = TextFormat::negotiate(lines.filter_map(|line| line.to_str().ok()));
                let mut answer = response(StatusCode::OK, format.content_type(), shared.metrics(format));
                answer.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
                Ok(Begun::Answered(answer))
            }
            Endpoint::Top => {
                only(&request, &[Method::GET, Method::HEAD, Method::OPTIONS])?;
                Box::pin(shared.authorize(&endpoints, &credentials, Intent::ReadTop, &endpoint)).await?;
                Ok(Begun::Top(TopFormat::of(&head)?))
            }
            Endpoint::Admin(path) => {
                let methods = AdminCall::methods(path);
                if request.method() == Method::OPTIONS {
                    return Ok(Begun::Answered(preflight(methods, &[])));
                }
                if !methods.split(", ").any(|method| method == request.method().as_str()) {
                    return Err(Refusal::not_allowed(&format!("{methods}, OPTIONS")));
                }
                Box::pin(shared.authorize(&endpoints, &credentials, Intent::Administer, &endpoint)).await?;
                let call = AdminCall::read(path, &head, request.into_body())?;
                Ok(Begun::Admin(Box::new(call)))
            }
            Endpoint::Page { page } => {
                only(&request, &[Method::GET, Method::HEAD])?;
                // The server's own page is public: it holds no data.
                if page.is_some() {
                    Box::pin(shared.authorize(&endpoints, &credentials, Intent::Use, &endpoint)).await?;
                }
                Ok(Begun::Answered(the_page()))
            }
            Endpoint::Path { path, .. } => {
                match paths::begin(shared, &endpoints, *path, &credentials, &endpoint).await? {
                    AtPath::Preflight(answer) => Ok(Begun::Answered(answer)),
                    AtPath::Call(admitted) => {
                        let body = request.into_body();
                        Ok(Begun::Call(EndpointCall::new(
                            shared,
                            endpoints,
                            admitted,
                            head,
                            endpoint,
                            remote.client,
                            body,
                        )))
                    }
                }
            }
            Endpoint::Service { service } => {
                let begun = embedded::begin(shared, &endpoints, *service, &credentials, &endpoint, request);
                match Box::pin(begun).await? {
                    AtService::Preflight(answer) => Ok(Begun::Answered(answer)),
                    AtService::Call(call) => Ok(Begun::Serve(call)),
                }
            }
            Endpoint::Files { mount, below } => {
                Box::pin(shared.authorize(&endpoints, &credentials, Intent::Use, &endpoint)).await?;
                only(&request, &[Method::GET, Method::HEAD, Method::OPTIONS])?;
                let documents = endpoints.mounts()[*mount].documents.clone();
                Ok(Begun::Read { request: Box::new(request.map(drop)), documents, below: below.clone() })
            }
            Endpoint::Health | Endpoint::Ready | Endpoint::Nothing => Err(endpoints.nothing_at(head.path())),
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
