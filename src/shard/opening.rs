//! Whether an opening request becomes a connection: its route's rules first, then its handler.

use std::{
    future::poll_fn,
    mem,
    net::SocketAddr,
    os::fd::OwnedFd,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    rc::Rc,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use tracing::Instrument;

use super::lobby::Lobby;
use crate::{
    auth::Credentials,
    endpoints::{Denied, Endpoint, Intent},
    handler::{Opened, OpeningRequest, Panicked, Profile, ProtocolChoice, Response, Route},
    hub::{SubscribeOptions, TopicName},
    metrics::Counter,
    proto::{MessageLimits, Refusal, RequestHead, Upgrade},
    surface::raw::RawRequest,
    sys::net,
};

/// An accepted opening request: what its connection begins with, and what the client is answered.
pub(super) struct Accepted {
    pub(super) route: u16,
    pub(super) opened: Opened,
    pub(super) profile: Option<Box<Profile>>,
    /// The limits of its messages, where its topic has others than its route.
    pub(super) limits: Option<MessageLimits>,
    pub(super) answer: Bytes,
}

/// An opening request that does not become a connection.
pub(super) enum NotOpened {
    /// It is answered so.
    Refused(Response),
    /// Its handler took too long to decide.
    Undecided,
    /// The client has not waited for an answer.
    Left,
}

impl From<Response> for NotOpened {
    fn from(response: Response) -> Self {
        NotOpened::Refused(response)
    }
}

impl From<Refusal> for NotOpened {
    fn from(refusal: Refusal) -> Self {
        NotOpened::Refused(refusal.into())
    }
}

/// Judges a request for a WebSocket.
pub(super) async fn judge(lobby: &Lobby, socket: &Rc<OwnedFd>, head: RequestHead) -> Result<Accepted, NotOpened> {
    let endpoint = lobby.endpoints.resolve(&head)?;
    let (Endpoint::Topic { route: at, .. } | Endpoint::WebSocket { route: at, .. }) = endpoint else {
        return Err(lobby.endpoints.no_websocket_at(head.path()).into());
    };
    let route = &lobby.endpoints.routes()[at];
    let upgrade = Upgrade::from_request(&head).map_err(|error| Response::from(error.refusal()))?;
    check_leaving(lobby)?;
    let raw = match &endpoint {
        Endpoint::Topic { topic, .. } => Some(RawRequest::new(topic.clone(), head.query())?),
        _ => None,
    };
    let (peer, local) = (net::peer(socket), net::local(socket));
    // The connection's id comes with the connection.
    let id = lobby.next_request();
    let span = tracing::info_span!("opening", request = id, peer = peer.map(display), path = head.path());
    let intent = raw.as_ref().map_or(Intent::Use, RawRequest::intent);
    let admitted = span.in_scope(|| lobby.endpoints.authorize(&Credentials { head: &head, peer }, intent, &endpoint));
    let identity = admitted.map_err(|denied| {
        if denied == Denied::Panicked {
            lobby.counters.add(Counter::HandlerPanics, 1);
        }
        Refusal::from(denied)
    })?;
    let protocol = choose_protocol(route, &upgrade)?;
    let listener = local.and_then(|local| lobby.addresses.iter().position(|&address| serves(address, local)));
    let mut request = OpeningRequest {
        id,
        parameters: lobby.endpoints.parameters(at, &head),
        head,
        peer,
        local,
        listener: listener.unwrap_or_default(),
        protocols: upgrade.protocols().to_vec(),
        protocol,
        identity,
    };
    let mut opened = match raw {
        // The query has said it all.
        Some(raw) => raw.accept().into(),
        None => ask(lobby, socket, at, &request).instrument(span.clone()).await?,
    };
    // That may have taken its time.
    check_leaving(lobby)?;
    let protocol = match mem::take(&mut opened.protocol) {
        ProtocolChoice::OfRoute => request.protocol.take(),
        ProtocolChoice::None => None,
        ProtocolChoice::Named(name) => Some(name),
    };
    if let Some(protocol) = &protocol
        && !upgrade.protocols().contains(protocol)
    {
        span.in_scope(|| tracing::error!(protocol, "a handler has chosen a subprotocol that was not offered"));
        return Err(Response::error(500, "this server has chosen a subprotocol that was not offered").into());
    }
    if !route.rules.no_broadcast {
        opened.subscriptions.push((TopicName::everyone(), SubscribeOptions::default()));
    }
    let headers: Vec<(&str, &str)> = opened.headers.iter().map(|(name, value)| (&**name, &**value)).collect();
    let answer = upgrade.response(protocol.as_deref(), &headers);
    let identity = opened.identity.take().or_else(|| request.identity.clone());
    let keeps = !route.rules.forgets_request;
    let profile = (keeps || identity.is_some() || protocol.is_some()).then(|| {
        let request = keeps.then_some(request);
        Box::new(Profile { request, identity, protocol, ..Profile::default() })
    });
    let limits = limits_of_topic(lobby.endpoints.message_bytes_max(&endpoint), &route.rules.limits);
    Ok(Accepted { route: at as u16, opened, profile, limits, answer })
}

fn check_leaving(lobby: &Lobby) -> Result<(), Refusal> {
    if lobby.is_leaving() {
        return Err(Refusal::leaving());
    }
    Ok(())
}

/// The best of the route's subprotocols that the client offers (RFC 6455 4.2.2).
fn choose_protocol(route: &Route, upgrade: &Upgrade) -> Result<Option<String>, Response> {
    let ours = &route.rules.protocols;
    let chosen = ours.iter().find(|ours| upgrade.protocols().contains(ours)).cloned();
    if chosen.is_none() && route.rules.requires_protocol {
        let error = format!("this route needs one of the subprotocols {}", ours.join(", "));
        return Err(Refusal::new(400, error).into());
    }
    Ok(chosen)
}

/// Returns the limits of messages to a topic that takes smaller ones than the route by which it is reached.
fn limits_of_topic(bytes_max: u32, of_route: &MessageLimits) -> Option<MessageLimits> {
    (bytes_max < of_route.message_bytes_max).then(|| MessageLimits {
        message_bytes_max: bytes_max,
        frame_bytes_max: of_route.frame_bytes_max.min(bytes_max),
        ..*of_route
    })
}

/// What the handler says, within the time for an opening request. A client that leaves meanwhile ends it.
async fn ask(lobby: &Lobby, socket: &OwnedFd, at: usize, request: &OpeningRequest) -> Result<Opened, NotOpened> {
    let mut answer = lobby.handlers[at].opening(request);
    let mut has_waited = false;
    let answer = poll_fn(|cx| {
        let poll = AssertUnwindSafe(|| Pin::new(&mut answer).as_mut().poll(cx));
        match catch_unwind(poll) {
            Ok(poll) => {
                has_waited |= poll.is_pending();
                poll
            }
            Err(panic) => Poll::Ready(Err(failed(lobby, "a handler", &Panicked::new(&*panic)))),
        }
    });
    let outcome = tokio::select! {
        biased;
        outcome = tokio::time::timeout(lobby.config.handshake_timeout, answer) => outcome,
        () = left(socket) => return Err(NotOpened::Left),
    };
    if has_waited && net::has_left(socket) {
        return Err(NotOpened::Left);
    }
    Ok(outcome.map_err(|_| NotOpened::Undecided)??)
}

/// Waits until the client has left. Nothing is left in the kernel when this is dropped, as a poll by the ring would be.
async fn left(socket: &OwnedFd) {
    loop {
        tokio::time::sleep(LOOK_AFTER_CLIENT).await;
        if net::has_left(socket) {
            return;
        }
    }
}

fn failed(lobby: &Lobby, who: &str, Panicked(panic): &Panicked) -> Response {
    tracing::error!(panic, "{who} has panicked over an opening request");
    lobby.counters.add(Counter::HandlerPanics, 1);
    Response::error(500, &format!("{who} of this server has failed"))
}

/// Would a connection to this address have come in there?
fn serves(listener: SocketAddr, local: SocketAddr) -> bool {
    listener.port() == local.port() && (listener.ip() == local.ip() || listener.ip().is_unspecified())
}

/// How often it is looked whether a client still waits for a handler that takes its time.
const LOOK_AFTER_CLIENT: Duration = Duration::from_millis(100);
