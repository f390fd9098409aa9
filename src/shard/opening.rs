//! Whether an opening request becomes a connection: its route's rules first, then its handler.

use std::{
    future::poll_fn,
    net::SocketAddr,
    os::fd::OwnedFd,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    rc::Rc,
};

use bytes::Bytes;

use super::lobby::Lobby;
use crate::{
    auth::Credentials,
    handler::{Opened, OpeningRequest, Profile, Response, Route},
    hub::TopicName,
    metrics::Counter,
    proto::{Refusal, RequestHead, Upgrade},
    sys::net,
};

/// An accepted opening request: what its connection begins with, and what the client is answered.
pub(super) struct Accepted {
    pub(super) route: u16,
    pub(super) opened: Opened,
    pub(super) profile: Option<Box<Profile>>,
    pub(super) answer: Bytes,
}

/// Judges a request for a WebSocket.
pub(super) async fn judge(lobby: &Lobby, socket: &Rc<OwnedFd>, head: RequestHead) -> Result<Accepted, Response> {
    let Some((at, parameters)) = lobby.routes.find(head.path()) else {
        return Err(lobby.routes.nothing_at(head.path()).into());
    };
    let route = lobby.routes.get(at);
    let parameters = parameters?;
    let upgrade = Upgrade::from_request(&head).map_err(|error| Response::from(error.refusal()))?;
    if lobby.is_leaving() {
        return Err(Refusal::new(503, "this server is going away").header("Retry-After", "1").into());
    }
    let (peer, local) = (net::peer(socket), net::local(socket));
    let identity = check_rules(lobby, route, &head, peer)?;
    let protocol = choose_protocol(route, &upgrade)?;
    let listener = local.and_then(|local| lobby.addresses.iter().position(|&address| serves(address, local)));
    let mut request = OpeningRequest {
        head,
        parameters,
        peer,
        local,
        listener: listener.unwrap_or_default(),
        protocols: upgrade.protocols().to_vec(),
        protocol,
        identity,
    };
    let mut opened = ask(lobby, at, &request).await?;
    let protocol = match opened.protocol.take() {
        None => request.protocol.take(),
        Some(chosen) => chosen,
    };
    if let Some(protocol) = &protocol
        && !upgrade.protocols().contains(protocol)
    {
        tracing::error!(protocol, "a handler has chosen a sub-protocol that the client has not offered");
        return Err(Response::error(500, "this server has chosen a sub-protocol that was not offered"));
    }
    if !route.options.no_broadcast {
        opened.subscriptions.push((TopicName::everyone(), false));
    }
    let headers: Vec<(&str, &str)> = opened.headers.iter().map(|(name, value)| (&**name, &**value)).collect();
    let answer = upgrade.response(protocol.as_deref(), &headers);
    let identity = opened.identity.take().or_else(|| request.identity.clone());
    let keeps = !route.options.forgets_request;
    let profile = (keeps || identity.is_some() || protocol.is_some()).then(|| {
        let request = keeps.then_some(request);
        Box::new(Profile { request, identity, protocol, ..Profile::default() })
    });
    Ok(Accepted { route: at as u16, opened, profile, answer })
}

/// The route's origins, and its authenticator.
fn check_rules(
    lobby: &Lobby,
    route: &Route,
    head: &RequestHead,
    peer: Option<SocketAddr>,
) -> Result<Option<crate::auth::Identity>, Response> {
    let (gate, credentials) = (&route.options.gate, Credentials { head, peer });
    match catch_unwind(AssertUnwindSafe(|| gate.admit(&lobby.config.access.origins, &credentials))) {
        Ok(identity) => Ok(identity?),
        Err(_) => Err(failed(lobby, "an authenticator")),
    }
}

/// The best of the route's sub-protocols that the client offers (RFC 6455 4.2.2).
fn choose_protocol(route: &Route, upgrade: &Upgrade) -> Result<Option<String>, Response> {
    let ours = &route.options.protocols;
    let chosen = ours.iter().find(|ours| upgrade.protocols().contains(ours)).cloned();
    if chosen.is_none() && route.options.needs_protocol {
        let error = format!("this route needs one of the sub-protocols {}", ours.join(", "));
        return Err(Refusal::new(400, error).into());
    }
    Ok(chosen)
}

/// What the handler says, within the time for an opening request.
async fn ask(lobby: &Lobby, at: usize, request: &OpeningRequest) -> Result<Opened, Response> {
    let mut answer = lobby.handlers[at].opening(request);
    let answer = poll_fn(|cx| {
        let poll = AssertUnwindSafe(|| Pin::new(&mut answer).as_mut().poll(cx));
        match catch_unwind(poll) {
            Ok(poll) => poll,
            Err(_) => std::task::Poll::Ready(Err(failed(lobby, "a handler"))),
        }
    });
    let late = || Refusal::new(503, "the decision about this request took too long").header("Retry-After", "1").into();
    tokio::time::timeout(lobby.config.handshake_timeout, answer).await.unwrap_or_else(|_| Err(late()))
}

fn failed(lobby: &Lobby, who: &str) -> Response {
    tracing::error!("{who} has panicked over an opening request");
    lobby.counters.add(Counter::HandlerPanics, 1);
    Response::error(500, &format!("{who} of this server has failed"))
}

/// Would a connection to this address have come in there?
fn serves(listener: SocketAddr, local: SocketAddr) -> bool {
    listener.port() == local.port() && (listener.ip() == local.ip() || listener.ip().is_unspecified())
}
