//! Decides whether an opening request becomes a connection: first by the rules of its route, then by the route's
//! handler.

use std::{
    future::poll_fn,
    mem,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tracing::{Instrument, field::display};

#[cfg(test)]
use super::session::length_prefixed::LengthPrefixed;
use super::{lobby::Lobby, session::Session};
use crate::{
    auth::{Answers, Credentials, Identities, Remote},
    endpoints::{Admittance, AdmittedSender, Denied, Endpoint, Endpoints, Intent, OpeningAt, Opens, until_decided},
    handler::{ANY_PROTOCOL, Opened, OpeningRequest, Panicked, Profile, ProtocolChoice, Response, Route},
    hub::{SubscribeOptions, TopicName},
    metrics::Counter,
    proto::{Framing, MessageLimits, Refusal, RefusalCause, RequestHead, Upgrade},
    surface::Positions,
    sys::{Transport, net},
};

/// An accepted opening request: the beginning of its connection, and the answer to its client.
pub(super) struct Accepted {
    pub(super) session: Session,
    pub(super) route: u16,
    pub(super) opened: Opened,
    pub(super) profile: Option<Box<Profile>>,
    /// The limits of the connection's messages, if the limits of its topic differ from those of its route.
    pub(super) limits: Option<MessageLimits>,
    pub(super) answer: Bytes,
}

/// The reason for which an opening request does not become a connection.
pub(super) enum NotOpened {
    /// The route, the handler or the server refuses the request with this response.
    Refused { response: Response, cause: RefusalCause },
    /// The judge or the route's handler took too long to decide.
    Undecided,
    /// The client has not waited for an answer.
    Left,
}

impl From<Response> for NotOpened {
    fn from(response: Response) -> Self {
        NotOpened::Refused { response, cause: RefusalCause::OfStatus }
    }
}

impl From<Refusal> for NotOpened {
    fn from(refusal: Refusal) -> Self {
        NotOpened::Refused { cause: refusal.cause, response: refusal.into() }
    }
}

/// Judges an opening request.
pub(super) async fn judge(
    lobby: &Lobby,
    socket: &Rc<Transport>,
    head: RequestHead,
    remote: Remote,
) -> Result<Accepted, NotOpened> {
    let endpoints = lobby.endpoints.get();
    let endpoint = endpoints.resolve(&head)?;
    let opening = endpoints.opening(&endpoint, &head);
    let Some(OpeningAt { path, route: at, openings }) = opening else {
        return Err(endpoints.no_websocket_at(head.path()).into());
    };
    let parameters = endpoints.parameters(path, &head);
    let route = &endpoints.routes()[at];
    let asked = Asked::read(&head, openings.opens)?;
    check_leaving(lobby)?;
    let intent = openings.intent(&head)?;
    let Remote { client: peer, proxy, .. } = remote;
    // The cheap check comes before those of tokens and passwords.
    lobby.count_handshake(&Credentials::new(&head, peer))?;
    // The connection gets an id of its own only when the shard adopts it.
    let id = lobby.next_request();
    let (shown, of_proxy) = (peer.map(display), proxy.map(display));
    let span = tracing::info_span!("opening", request = id, peer = shown, proxy = of_proxy, path = head.path());
    let answers = Answers::default();
    let credentials = Credentials::new(&head, peer).with_answers(&answers);
    let Admittance { mut identities, .. } =
        admit(lobby, &endpoints, socket, &credentials, intent, &endpoint).instrument(span.clone()).await?;
    let topics = match openings.topics {
        None => Box::default(),
        Some(read_topics) => {
            let names = read_topics(&head)?;
            let sender = (&credentials, at);
            admit_to_topics(lobby, &endpoints, socket, sender, &names, &mut identities).instrument(span.clone()).await?
        }
    };
    let histories = match openings.resumes {
        Some(resumes) if resumes(&head)? => {
            let sender =
                AdmittedSender { credentials: credentials.about(endpoint.topic()), identities: &identities, route: at };
            let topics = topics.iter().chain(endpoint.topic());
            admit_to_histories(lobby, &endpoints, socket, &sender, topics).instrument(span.clone()).await?
        }
        _ => Box::default(),
    };
    let protocol = choose_protocol(route, asked.offered())?;
    let page_lines = asked.page_lines(&endpoints, &head, &endpoint);
    let local = net::local(&**socket);
    let listener = local.and_then(|local| lobby.addresses.iter().position(|&address| serves(address, local)));
    let request = OpeningRequest {
        id,
        parameters,
        topic: endpoint.topic().cloned(),
        topics,
        histories,
        route: at,
        head,
        peer,
        proxy,
        local,
        listener: listener.unwrap_or_default(),
        protocols: asked.protocols().to_vec(),
        protocol,
        identity: identities.own().cloned(),
    };
    let positions = openings.topics.is_some().then(|| Positions::new(&request.topics));
    let mut opened = call_handler(lobby, socket, at, &request).instrument(span.clone()).await?;
    // The server may have begun to leave meanwhile.
    check_leaving(lobby)?;
    if let Some(identity) = opened.identity.take() {
        identities.choose(identity);
    }
    // The judge does not know the identity that a handler has chosen, and the handler may have taken its time.
    endpoints.revocations().check(identities.all())?;
    // The limits are those of the table that holds when the shard adopts the connection, and not of the table by which
    // the request was judged: a reload may have come meanwhile.
    let latest = lobby.endpoints.get();
    let limits = latest.limits_of_topic(at, latest.message_bytes_max(&endpoint));
    opened.headers.extend(page_lines);
    let (profile, answer) = span.in_scope(|| complete(lobby, route, &asked, request, identities, &mut opened))?;
    let session = asked.session(socket, &latest.routes()[at], positions);
    Ok(Accepted { session, route: at as u16, opened, profile, limits, answer })
}

/// What an opening request asks for, as its head has it.
enum Asked {
    WebSocket(Upgrade),
    EventStream(Framing),
}

impl Asked {
    /// Reads the head of an opening request.
    ///
    /// # Errors
    ///
    /// The refusal of a head that is not what the protocol demands.
    fn read(head: &RequestHead, opens: Opens) -> Result<Asked, Refusal> {
        match opens {
            Opens::WebSocket => Upgrade::from_request(head).map(Asked::WebSocket).map_err(|error| error.refusal()),
            Opens::EventStream => Framing::of_answer_to(head).map(Asked::EventStream),
        }
    }

    /// Returns the subprotocols that the client offers; `None` if the protocol has none.
    fn offered(&self) -> Option<&[String]> {
        if let Asked::WebSocket(upgrade) = self { Some(upgrade.protocols()) } else { None }
    }

    /// Returns the subprotocols that the client offers.
    fn protocols(&self) -> &[String] {
        self.offered().unwrap_or_default()
    }

    /// Returns the header lines that tell a browser which pages may read the answer. A browser does not look for them
    /// in the answer for a WebSocket.
    fn page_lines(&self, endpoints: &Endpoints, head: &RequestHead, endpoint: &Endpoint) -> Vec<(String, String)> {
        if let Asked::WebSocket(_) = self {
            return Vec::new();
        }
        let lines = endpoints.page_lines(head.headers().get("origin"), Some(endpoint));
        lines.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// Returns the answer that accepts the request.
    fn answer(&self, protocol: Option<&str>, headers: &[(&str, &str)]) -> Bytes {
        match self {
            Asked::WebSocket(upgrade) => upgrade.response(protocol, headers),
            Asked::EventStream(framing) => framing.response(headers).into(),
        }
    }

    /// Returns the session that begins with the answer.
    fn session(&self, socket: &Transport, route: &Route, positions: Option<Positions>) -> Session {
        match self {
            Asked::WebSocket(upgrade) => {
                #[cfg(test)]
                if let Some(session) = LengthPrefixed::asked_for(upgrade) {
                    return session;
                }
                #[cfg(not(test))]
                let _: &Upgrade = upgrade;
                Session::web_socket()
            }
            Asked::EventStream(framing) => {
                // The client of a stream sends no sign of life.
                if let Some(silence_ms) = route.rules.keep_alive.silence_ms() {
                    net::limit_silence(socket, silence_ms);
                }
                Session::event_stream(*framing, positions)
            }
        }
    }
}

/// Returns the sender of a request that the judge has admitted. The judge may have to wait, within the time for
/// an opening request. A client that leaves meanwhile ends the wait.
async fn admit(
    lobby: &Lobby,
    endpoints: &Endpoints,
    socket: &Transport,
    credentials: &Credentials<'_>,
    intent: Intent,
    endpoint: &Endpoint,
) -> Result<Admittance, NotOpened> {
    let ask = || endpoints.authorize(credentials, intent, endpoint);
    until_decided(endpoints.wait_max(), left(socket), ask).await.map_err(|denied| not_opened(lobby, denied))
}

/// Returns the topics of these names, to which the judge has admitted the sender of a request. Adds the identities that
/// the gates of other routes to these topics have found.
async fn admit_to_topics(
    lobby: &Lobby,
    endpoints: &Endpoints,
    socket: &Transport,
    (credentials, route): (&Credentials<'_>, usize),
    names: &[String],
    identities: &mut Identities,
) -> Result<Box<[TopicName]>, NotOpened> {
    let intent = Intent::Attach { subscribes: true, publishes: false };
    let mut topics = Vec::with_capacity(names.len());
    for name in names {
        let topic = endpoints.topic(route, name)?;
        let found = {
            let sender = AdmittedSender { credentials: *credentials, identities, route };
            let ask = || endpoints.authorize_topic(&sender, intent, &topic);
            until_decided(endpoints.wait_max(), left(socket), ask).await.map_err(|denied| not_opened(lobby, denied))?
        };
        let sum = identities.with_others(&found.identities);
        *identities =
            sum.ok_or_else(|| Refusal::new(403, "the topics have more identities than a connection may have"))?;
        topics.push(topic);
    }
    Ok(topics.into())
}

/// Returns those of the topics whose histories the sender of a request may read.
async fn admit_to_histories(
    lobby: &Lobby,
    endpoints: &Endpoints,
    socket: &Transport,
    sender: &AdmittedSender<'_>,
    topics: impl Iterator<Item = &TopicName>,
) -> Result<Box<[TopicName]>, NotOpened> {
    let mut readable = Vec::new();
    for topic in topics {
        let ask = || endpoints.authorize_topic(sender, Intent::ReadHistory, topic);
        match until_decided(endpoints.wait_max(), left(socket), ask).await {
            Ok(_) => readable.push(topic.clone()),
            Err(Denied::Refused(_)) => {}
            Err(denied) => return Err(not_opened(lobby, denied)),
        }
    }
    Ok(readable.into())
}

fn not_opened(lobby: &Lobby, denied: Denied) -> NotOpened {
    match denied {
        Denied::Later(_) | Denied::Undecided => NotOpened::Undecided,
        Denied::Left => NotOpened::Left,
        Denied::Refused(_) | Denied::Panicked => lobby.refusal(denied).into(),
    }
}

/// Completes an accepted request: chooses its subprotocol, and subscribes its connection to broadcasts. Returns the
/// profile that the connection keeps, if there is one, and the answer to the client.
///
/// # Errors
///
/// 500 if the handler has chosen a subprotocol that the client has not offered.
fn complete(
    lobby: &Lobby,
    route: &Route,
    asked: &Asked,
    mut request: OpeningRequest,
    identities: Identities,
    opened: &mut Opened,
) -> Result<(Option<Box<Profile>>, Bytes), Response> {
    let protocol = match mem::take(&mut opened.protocol) {
        ProtocolChoice::OfRoute => request.protocol.take(),
        ProtocolChoice::None => None,
        ProtocolChoice::Named(name) => Some(name),
    };
    if let Some(protocol) = &protocol
        && !asked.protocols().contains(protocol)
    {
        tracing::error!(protocol, "a handler has chosen a subprotocol that was not offered");
        return Err(Response::error(500, "this server has chosen a subprotocol that was not offered"));
    }
    if protocol.is_none() && !asked.protocols().is_empty() {
        warn_of_protocols(lobby, route);
    }
    if !route.rules.skips_broadcasts {
        opened.subscriptions.push((TopicName::everyone(), SubscribeOptions::default()));
    }
    let headers: Vec<(&str, &str)> = opened.headers.iter().map(|(name, value)| (&**name, &**value)).collect();
    let answer = asked.answer(protocol.as_deref(), &headers);
    let keeps_request = !route.rules.forgets_request;
    let profile = (keeps_request || !identities.is_empty() || protocol.is_some()).then(|| {
        let request = keeps_request.then(|| Arc::new(request));
        Box::new(Profile { request, identities, protocol, ..Profile::default() })
    });
    Ok((profile, answer))
}

/// Checks that the server does not leave, or still serves opening requests while it leaves.
fn check_leaving(lobby: &Lobby) -> Result<(), Refusal> {
    if lobby.refuses_openings() {
        return Err(Refusal::leaving());
    }
    Ok(())
}

/// Logs that a client is served without any of the subprotocols that it has offered, unless a line about this was
/// written a short time before. RFC 6455 4.2.2 has it so, but a browser fails such a connection at once.
fn warn_of_protocols(lobby: &Lobby, route: &Route) {
    if let Some(suppressed) = lobby.warnings.unknown_protocols.allow(Instant::now()) {
        tracing::info!(
            cause = "subprotocol",
            route = %route.pattern,
            suppressed,
            "a client has offered subprotocols, and the route has chosen none: browsers fail such a connection. Name \
             the subprotocol in the route's protocols, or put \"*\" there to accept the first one that is offered"
        );
    }
}

/// Returns the first of the route's subprotocols that the client offers (RFC 6455 4.2.2). If the route has
/// [`ANY_PROTOCOL`], this is the first that the client offers, if the route names none of the others.
///
/// # Errors
///
/// 400 if the client offers none of them and the route requires one.
fn choose_protocol(route: &Route, offered: Option<&[String]>) -> Result<Option<String>, Response> {
    let ours = &route.rules.protocols;
    let Some(offered) = offered else { return Ok(None) };
    let named = ours.iter().filter(|ours| *ours != ANY_PROTOCOL).find(|ours| offered.contains(ours));
    let any = || offered.first().filter(|_| ours.iter().any(|ours| ours == ANY_PROTOCOL));
    let chosen = named.or_else(any).cloned();
    if chosen.is_none() && route.rules.requires_protocol {
        let error = format!("this route needs one of the subprotocols {}", ours.join(", "));
        return Err(Refusal::new(400, error).into());
    }
    Ok(chosen)
}

/// Returns the decision of the route's handler, within the time for an opening request. A client that leaves meanwhile
/// ends the call.
async fn call_handler(
    lobby: &Lobby,
    socket: &Transport,
    at: usize,
    request: &OpeningRequest,
) -> Result<Opened, NotOpened> {
    let mut opening = lobby.handlers[at].opening(request);
    let mut has_waited = false;
    let decision = poll_fn(|cx| match Panicked::catch(|| opening.as_mut().poll(cx)) {
        Ok(poll) => {
            has_waited |= poll.is_pending();
            poll
        }
        Err(panicked) => Poll::Ready(Err(panicked_over(lobby, &panicked))),
    });
    let outcome = tokio::select! {
        biased;
        outcome = tokio::time::timeout(lobby.config.get().handshake_timeout, decision) => outcome,
        () = left(socket) => return Err(NotOpened::Left),
    };
    if has_waited && net::has_left(socket) {
        return Err(NotOpened::Left);
    }
    Ok(outcome.map_err(|_| NotOpened::Undecided)??)
}

/// Waits until the client has left. A poll by the ring would stay in the kernel when this future is dropped.
async fn left(socket: &Transport) {
    loop {
        tokio::time::sleep(LOOK_AFTER_CLIENT).await;
        if net::has_left(socket) {
            return;
        }
    }
}

/// Logs and counts a panic of a handler, and returns the answer to its client.
fn panicked_over(lobby: &Lobby, Panicked(panic): &Panicked) -> Response {
    tracing::error!(panic, "a handler has panicked over an opening request");
    lobby.counters.add(Counter::HandlerPanics, 1);
    Response::error(500, "a handler of this server has failed")
}

/// Returns whether a connection to the address `local` has come in by this listener.
fn serves(listener: SocketAddr, local: SocketAddr) -> bool {
    listener.port() == local.port() && (listener.ip() == local.ip() || listener.ip().is_unspecified())
}

/// The interval of looks at whether a client still waits for its handler's decision.
const LOOK_AFTER_CLIENT: Duration = Duration::from_millis(100);
