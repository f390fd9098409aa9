//! Calls the HTTP services of embedders.

use std::{sync::Arc, time::Duration};

use http_body_util::Either;
use hyper::{
    Method, Request,
    body::Incoming,
    header::{self, HeaderValue},
};

use super::{
    answers::{Answer, preflight},
    body::{self, BodyMax},
    router::RequestRouter,
    shared::Shared,
};
use crate::{
    auth::{Credentials, Identities, Identity, Revocations},
    endpoints::{Endpoint, Endpoints, Intent, ServedService},
    handler::{HttpBody, HttpService, Panicked, RequestSender, ServiceFault},
    metrics::Counter,
    proto::Refusal,
    rates::AddressBlock,
};

/// The answer to the head of a request for a service.
pub(super) enum AtService {
    Preflight(Answer),
    Call(Box<ServiceCall>),
}

/// A call of a service, whose body is still to be read.
pub(super) struct ServiceCall {
    service: Arc<dyn HttpService>,
    body_max: BodyMax,
    answer_timeout: Duration,
    sender: RequestSender,
    /// The addresses whose calls count together; `None` for a client whose address is unknown or that of a proxy.
    address: Option<AddressBlock>,
    identities: Identities,
    revocations: Revocations,
}

/// Begins to answer a request for a service.
///
/// # Errors
///
/// 503 while the server leaves, and the refusal of the judge.
pub(super) async fn begin(
    shared: &Shared,
    endpoints: &Endpoints,
    number: usize,
    credentials: &Credentials<'_>,
    endpoint: &Endpoint,
    request: &Request<Incoming>,
) -> Result<AtService, Refusal> {
    let ServedService { gate, body_bytes_max, answer_timeout, service, .. } = &endpoints.services()[number];
    if shared.is_leaving() {
        return Err(Refusal::leaving());
    }
    if gate.authenticator.is_some()
        && let Some(answer) = preflight_of(request)
    {
        return Ok(AtService::Preflight(answer));
    }
    let identities = shared.authorize(endpoints, credentials, Intent::Use, endpoint).await?;
    let config = shared.config.get();
    let address = credentials.address().filter(|&address| !config.trusted_proxies.include(address));
    Ok(AtService::Call(Box::new(ServiceCall {
        service: Arc::clone(service),
        body_max: BodyMax { bytes: *body_bytes_max, what: "the largest body that this path takes" },
        answer_timeout: *answer_timeout,
        sender: RequestSender { peer: credentials.peer, identity: identities.own().cloned() },
        address: address.map(AddressBlock::of),
        identities,
        revocations: endpoints.revocations().clone(),
    })))
}

/// Returns the answer to a preflight. A preflight never has credentials, so a service behind an authenticator could not
/// answer it. The judge decides about the request that follows, and the service adds its header lines.
fn preflight_of(request: &Request<Incoming>) -> Option<Answer> {
    let value = |name| request.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let method = value(header::ACCESS_CONTROL_REQUEST_METHOD).filter(|_| request.method() == Method::OPTIONS)?;
    let headers = value(header::ACCESS_CONTROL_REQUEST_HEADERS).unwrap_or_default();
    let headers: Vec<&str> = headers.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    Some(preflight(method, &headers))
}

impl ServiceCall {
    /// Returns the identity that the authenticator of the route has found.
    pub(super) fn identity(&self) -> Option<&Identity> {
        self.sender.identity.as_ref()
    }

    /// Reads the body, and calls the service if there is a place for one more call. The call ends when the service has
    /// begun its answer, when the answer takes too long, and when the client has reset its connection.
    pub(super) async fn answer(
        self,
        shared: &Shared,
        router: &RequestRouter,
        request: Request<Incoming>,
    ) -> Result<Answer, Refusal> {
        let ServiceCall { service, body_max, answer_timeout, sender, address, identities, revocations } = self;
        let (mut parts, body) = request.into_parts();
        let (whole, room) = body::read(shared, body_max, body).await?;
        // The judge has seen the head alone, and the client may have taken its time since.
        identities.check_again(&revocations)?;
        let _permit = shared.calls.begin(address)?;
        // Among the extensions of hyper is the way to take the connection over, which is not the service's.
        parts.extensions = hyper::http::Extensions::new();
        parts.extensions.insert(sender);
        let path = parts.uri.path().to_owned();
        // The room is kept until the service has taken the body, or has answered.
        let call = service.serve(Request::from_parts(parts, HttpBody::new(whole).with_room(room)));
        let answered = tokio::select! {
            biased;
            answered = call => answered,
            () = tokio::time::sleep(answer_timeout) => {
                tracing::debug!(path, ?answer_timeout, "a service has not answered in time");
                return Err(Refusal::new(504, "the service at this path has not answered in time"));
            }
            () = router.until_reset() => return Err(Refusal::new(408, "the client has reset its connection")),
        };
        match answered {
            Ok(answer) if answer.status().is_informational() => {
                let status = answer.status().as_u16();
                tracing::error!(path, status, "a service has answered with a status that ends no request");
                Err(failed())
            }
            Ok(answer) => Ok(answer.map(Either::Right)),
            Err(ServiceFault::Failed(error)) => {
                tracing::error!(path, error, "a service has failed");
                Err(failed())
            }
            Err(ServiceFault::Panicked(Panicked(panic))) => {
                tracing::error!(path, panic, "a service has panicked over a request");
                shared.counters.add(Counter::HandlerPanics, 1);
                Err(failed())
            }
        }
    }
}

fn failed() -> Refusal {
    Refusal::new(500, "the service at this path has failed")
}
