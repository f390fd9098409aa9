//! Serves the opening handshake of an accepted socket: a short-lived task reads the head, within a deadline.

use std::{
    future::Future,
    io,
    pin::{Pin, pin},
    rc::Rc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use tokio::{task::spawn_local, time::timeout};
use tracing::field::display;

use super::{
    arrival::Arrival,
    listener::Beginning,
    lobby::{Lobby, NoRoom, OpeningPermit},
    opening::{Accepted, NotOpened, judge},
    refusals::RefusalPermit,
};
use crate::{
    access_log::Access,
    auth::{Credentials, Remote},
    config::Limits,
    endpoints::{Endpoint, Endpoints, Intent, Opens},
    handler::{Opened, Profile, Response},
    handover::{HandedOff, SocketPermits},
    metrics::Counter,
    proto::{Framing, HeadScan, HttpError, ProxyHeader, ProxyHeaderError, Refusal, RefusalCause, RequestHead},
    refusal_log::counter_of,
    surface::raw::is_opening_request,
    sys::{
        BackendKind, Transport,
        bounded_close::{BoundedClose, until_taken},
        net, runtime,
    },
};

/// A socket whose opening request is to be read.
#[derive(Debug)]
pub(super) struct Opening<S = Transport> {
    socket: S,
    /// The bytes that have been received on the socket.
    received: BytesMut,
    /// The next bytes that are to be read.
    beginning: Beginning,
    /// The header of the PROXY protocol by which a trusted proxy has begun the connection.
    header: Option<ProxyHeader>,
    /// The time at which the socket was accepted, or was handed back by the control thread.
    begun: Instant,
}

impl<S> Opening<S> {
    pub(super) fn new(socket: S, beginning: Beginning) -> Self {
        Opening { beginning, ..Opening::with(socket, BytesMut::new(), None) }
    }

    /// Returns the opening of a socket on which these bytes of a request have been received, and whose connection a
    /// trusted proxy may have begun with a header of the PROXY protocol.
    pub(super) fn with(socket: S, received: BytesMut, header: Option<ProxyHeader>) -> Self {
        Opening { socket, received, beginning: Beginning::Request, header, begun: Instant::now() }
    }
}

/// Serves the opening request of one socket. The socket becomes a connection, is refused, or goes to the control thread
/// because the request asks for no WebSocket. `permit` counts the socket until then.
pub(super) async fn serve(lobby: Rc<Lobby>, opening: Opening, mut permit: OpeningPermit) {
    let Opening { socket, mut received, beginning, mut header, begun } = opening;
    let socket = BoundedClose::new(Rc::new(socket));
    permit.allow_end(&socket);
    let ends = Instant::now() + lobby.config.get().handshake_timeout;
    if beginning == Beginning::ProxyHeader {
        let found = proxy_header_in_time(&lobby, &socket, &mut received, ends).await;
        let Some(found) = found else { return end_unjudged(lobby, socket, permit) };
        header = Some(found);
        if let Err(no_room) = lobby.admit_client(&mut permit, found.source()) {
            lobby.note_refusal(no_room);
            let socket = socket.into_inner();
            if let Some(kept) = lobby.refusals.keep(&socket) {
                let opening = Opening::with(socket, received, header);
                drop(spawn_local(refuse(lobby, opening, no_room, kept)));
            }
            return;
        }
    }
    match read_in_time(&lobby, &socket, &mut received, ends).await.filter(|_| !permit.is_given_up()) {
        None => end_unjudged(lobby, socket, permit),
        Some(Err(error)) => {
            let refused = Refused::before_its_head(Remote::of_socket(net::peer(&**socket), header));
            let response = Response::from(error.refusal());
            refuse_opening(&lobby, socket, refused, cause_of(&lobby, &response, RefusalCause::OfStatus), &response)
                .await;
        }
        Some(Ok((head, _))) if !lobby.endpoints.get().opens(&head) => match health(&lobby, &head) {
            // The shard answers this itself, since the control thread may be busy or have no room.
            Some(response) => send_and_close(lobby.backend, socket, response).await,
            None => {
                let Some(socket) = sole_owner(socket) else { return };
                let permits = lobby.release(permit);
                hand_over(&lobby, HandedOff { socket, received, permits, header, is_refused: false }).await;
            }
        },
        Some(Ok((head, length))) => {
            let leftover = received.split_off(length);
            let of_connection = Remote::of_socket(net::peer(&**socket), header);
            let remote = lobby.config.get().trusted_proxies.remote(of_connection, &head);
            open(&lobby, socket, (head, begun), remote, leftover, permit).await;
        }
    }
}

/// Judges an opening request: queues its connection for the turn, or refuses the request.
async fn open(
    lobby: &Rc<Lobby>,
    socket: BoundedClose<Rc<Transport>>,
    (head, begun): (RequestHead, Instant),
    remote: Remote,
    leftover: BytesMut,
    mut permit: OpeningPermit,
) {
    if let Err(no_room) = lobby.admit_client(&mut permit, remote.client) {
        lobby.note_refusal(no_room);
        return send_and_close(lobby.backend, socket, refusal_of_room(no_room, &head)).await;
    }
    // Without the query, which may hold a token.
    let path = tracing::enabled!(tracing::Level::DEBUG).then(|| head.path().to_owned());
    let mut refused = Refused { remote, path, has_body: head.method() != "HEAD", stream: None };
    if Opens::asked_by(&head) == Some(Opens::EventStream) {
        let endpoints = lobby.endpoints.get();
        let endpoint = endpoints.resolve(&head).ok();
        refused.stream = Some(endpoints.page_lines(head.headers().get("origin"), endpoint.as_ref()));
    }
    let access = lobby.access_log.begin(|| remote.client, head.method(), head.path());
    let mut access = access.map(|access| Box::new(Access { begun, ..access }));
    let judged = judge(lobby, &socket, head, remote).await;
    if permit.is_given_up() {
        return end_unjudged(Rc::clone(lobby), socket, permit);
    }
    match judged {
        Ok(Accepted { session, route, opened, profile, limits, answer }) => {
            let Some(socket) = sole_owner(socket) else { return };
            let Opened { state, subscriptions, forwards, format, .. } = opened;
            let of_address = permit.take_address_permit();
            if let Some(access) = &mut access {
                access.identity = profile.as_deref().and_then(Profile::identity).map(|identity| identity.name.clone());
            }
            lobby.add_arrival(Arrival {
                socket,
                begun,
                access,
                of_address,
                named: remote.named_client(),
                session,
                route,
                state,
                profile,
                limits,
                subscriptions,
                forwards,
                format,
                answer,
                leftover,
            });
        }
        Err(NotOpened::Refused { response, cause }) => {
            note_refused(lobby, access.as_deref(), &response);
            refuse_opening(lobby, socket, refused, cause_of(lobby, &response, cause), &response).await;
        }
        Err(NotOpened::Undecided) => {
            let response = Response::from(Refusal::undecided());
            note_refused(lobby, access.as_deref(), &response);
            refuse_opening(lobby, socket, refused, Counter::RefusedUndecided, &response).await;
        }
        Err(NotOpened::Left) => {
            let (peer, proxy) = (remote.client.map(display), remote.proxy.map(display));
            tracing::debug!(peer, proxy, "the client left before its request was answered");
        }
    }
}

/// Ends a handshake without the answer of the judge. If it was given up because memory is short, its client is answered
/// 503, unless too many sockets are being refused. The permit ends first: a task that only answers is no handshake.
/// As with every refusal for want of room, the access log has no line.
fn end_unjudged(lobby: Rc<Lobby>, socket: BoundedClose<Rc<Transport>>, permit: OpeningPermit) {
    if permit.is_given_up()
        && let Some(kept) = lobby.refusals.keep(&socket)
    {
        spawn_local(async move {
            send_and_close(lobby.backend, socket, NoRoom::Memory.refusal().encode()).await;
            drop(kept);
        });
    }
}

/// Writes the line of a refused opening into the access log, if it is on.
fn note_refused(lobby: &Lobby, access: Option<&Access>, response: &Response) {
    if let Some(access) = access {
        lobby.access_log.refused(access, response.status());
    }
}

/// Returns the counter of a refusal.
fn cause_of(lobby: &Lobby, response: &Response, cause: RefusalCause) -> Counter {
    counter_of(response.status(), cause, lobby.is_leaving())
}

/// The facts about a refused opening request.
struct Refused {
    remote: Remote,
    /// The path, where it is logged.
    path: Option<String>,
    /// Whether the answer has a body.
    has_body: bool,
    /// The header lines for browsers' pages, if the request has asked for an event stream.
    stream: Option<Vec<(&'static str, String)>>,
}

impl Refused {
    /// Returns the facts about a request whose head is refused.
    fn before_its_head(remote: Remote) -> Refused {
        Refused { remote, path: None, has_body: true, stream: None }
    }
}

/// Counts, logs and sends the refusal of an opening request. The refusal's text is not logged, since it may repeat a
/// token.
async fn refuse_opening(
    lobby: &Lobby,
    socket: BoundedClose<Rc<Transport>>,
    Refused { remote, path, has_body, stream }: Refused,
    cause: Counter,
    response: &Response,
) {
    let (peer, proxy, status) = (remote.client.map(display), remote.proxy.map(display), response.status());
    tracing::debug!(peer, proxy, status, cause = cause.cause(), path, "refused");
    lobby.note_cause(cause, status);
    let answer = match stream {
        None => response.encode(has_body),
        Some(lines) => with_lines(response.clone().for_stream(), &lines).encode(has_body),
    };
    send_and_close(lobby.backend, socket, answer).await;
}

/// Returns the answer to a client for whose connection there is no room.
fn refusal_of_room(no_room: NoRoom, head: &RequestHead) -> Bytes {
    let refusal = no_room.refusal();
    if Framing::is_asked_for(head) {
        return Response::from(refusal).for_stream().encode(true);
    }
    refusal.encode_for(head.method())
}

/// Adds header lines to a response.
fn with_lines(response: Response, lines: &[(&'static str, String)]) -> Response {
    lines.iter().fold(response, |response, (name, value)| response.header(name, value))
}

/// Answers a client for which there is no room. The answer is the refusal, unless the client has asked for the server's
/// health or metrics.
pub(super) async fn refuse(lobby: Rc<Lobby>, opening: Opening<Rc<Transport>>, no_room: NoRoom, permit: RefusalPermit) {
    let Opening { socket, mut received, beginning, mut header, .. } = opening;
    let socket = BoundedClose::new(socket);
    let ends = Instant::now() + lobby.config.get().handshake_timeout;
    if beginning == Beginning::ProxyHeader {
        let Some(found) = proxy_header_in_time(&lobby, &socket, &mut received, ends).await else { return };
        header = Some(found);
    }
    let of_connection = Remote::of_socket(net::peer(&**socket), header);
    let (peer, proxy) = (of_connection.client.map(display), of_connection.proxy.map(display));
    tracing::debug!(peer, proxy, ?no_room, "there is no room for a socket: refused");
    let Some(head) = read_in_time(&lobby, &socket, &mut received, ends).await else { return };
    let head = head.as_ref().ok().map(|(head, _)| head);
    let plain = head.filter(|head| !is_opening_request(head));
    let mut response = plain.and_then(|head| health(&lobby, head));
    let endpoints = lobby.endpoints.get();
    if let Some(head) = plain.filter(|head| response.is_none() && is_for_metrics(&lobby, &endpoints, head)) {
        // The check of the token comes first: clients without one would take the permits of monitors.
        response = refused_metrics(&lobby, &endpoints, of_connection, head);
        if response.is_none()
            && let Some(of_all) = lobby.sockets.monitors.admit(Limits::MONITORS_MAX)
        {
            drop(permit);
            let Some(socket) = sole_owner(socket) else { return };
            let permits = SocketPermits { of_all, of_address: None };
            return hand_over(&lobby, HandedOff { socket, received, permits, header, is_refused: true }).await;
        }
    }
    let refusal = || head.map_or_else(|| no_room.refusal().encode(), |head| refusal_of_room(no_room, head));
    send_and_close(lobby.backend, socket, response.unwrap_or_else(refusal)).await;
}

/// Returns whether a request is for the metrics, and they are served at this address.
fn is_for_metrics(lobby: &Lobby, endpoints: &Endpoints, head: &RequestHead) -> bool {
    lobby.config.get().metrics_listen.is_none() && endpoints.resolve(head) == Ok(Endpoint::Metrics)
}

/// Returns the refusal of a request for metrics, if its sender may not read them. The connection ends after it.
fn refused_metrics(lobby: &Lobby, endpoints: &Endpoints, of_connection: Remote, head: &RequestHead) -> Option<Bytes> {
    let remote = lobby.config.get().trusted_proxies.remote(of_connection, head);
    let endpoint = Endpoint::Metrics;
    // No gate of its own stands before the metrics, so nobody has to wait here.
    let judged = endpoints.authorize(&Credentials::new(head, remote.client), Intent::ReadMetrics, &endpoint);
    let refusal = lobby.refusal(judged.err()?);
    let (peer, proxy, status) = (remote.client.map(display), remote.proxy.map(display), refusal.status);
    let counter = counter_of(status, refusal.cause, lobby.is_leaving());
    tracing::debug!(peer, proxy, status, cause = counter.cause(), path = head.path(), "refused");
    lobby.counters.add(Counter::HttpRequests, 1);
    lobby.note_cause(counter, status);
    Some(complete(endpoints, head, &endpoint, refusal.into()))
}

/// Returns the answer to a request for the server's health. The connection ends after the answer. `None` for any other
/// request, also for a request that the control thread will refuse.
fn health(lobby: &Lobby, head: &RequestHead) -> Option<Bytes> {
    head.check_host().ok()?;
    let endpoints = lobby.endpoints.get();
    let endpoint = endpoints.resolve(head).ok()?;
    let answer = endpoint.health(head.method(), lobby.is_unready())?;
    lobby.counters.add(Counter::HttpRequests, 1);
    let response = match answer {
        Ok(text) => Response::new(200, "text/plain; charset=utf-8", text),
        Err(refusal) => {
            lobby.note_cause(Counter::refused(refusal.status), refusal.status);
            refusal.into()
        }
    };
    Some(complete(&endpoints, head, &endpoint, response))
}

/// Encodes the answer to a request that asks for no WebSocket, with the header lines for browsers' pages.
fn complete(endpoints: &Endpoints, head: &RequestHead, endpoint: &Endpoint, response: Response) -> Bytes {
    let lines = endpoints.page_lines(head.headers().get("origin"), Some(endpoint));
    with_lines(response, &lines).encode(head.method() != "HEAD")
}

/// Gives a connection that speaks HTTP to the control thread, or refuses it if the control thread has no room.
async fn hand_over(lobby: &Lobby, handed_off: HandedOff) {
    if let Err(handed_off) = lobby.control.transfer(handed_off) {
        lobby.counters.add(Counter::RefusedLimit, 1);
        if let Some(suppressed) = lobby.warnings.http_full.allow(Instant::now()) {
            tracing::warn!(
                suppressed,
                "connections that speak HTTP come faster than they are taken in: some are refused"
            );
        }
        let refusal = Refusal::not_now("connections that speak HTTP come faster than this server takes them in");
        let method = if handed_off.received.starts_with(b"HEAD ") { "HEAD" } else { "GET" };
        let answer = refusal.encode_for(method);
        send_and_close(lobby.backend, BoundedClose::new(Rc::new(handed_off.socket)), answer).await;
    }
}

/// Returns the socket, unless an operation still has a reference to it, which is an error of the server.
fn sole_owner(socket: BoundedClose<Rc<Transport>>) -> Option<Transport> {
    let outlived = |_| tracing::error!("an operation on the socket outlived the opening handshake");
    Rc::try_unwrap(socket.into_inner()).map_err(outlived).ok()
}

/// A head and its length.
type Head = Result<(RequestHead, usize), HttpError>;

/// Returns the head at the front of `received`, or its error. `None` if the client left or took too long.
async fn read_in_time(lobby: &Lobby, socket: &Rc<Transport>, received: &mut BytesMut, ends: Instant) -> Option<Head> {
    in_time(lobby, socket, ends, pin!(read_head(lobby.backend, socket, received))).await
}

/// Takes the header of the PROXY protocol from the front of `received`. `None` if it is missing or malformed, which is
/// noted, or if the proxy left or took too long.
async fn proxy_header_in_time(
    lobby: &Lobby,
    socket: &Rc<Transport>,
    received: &mut BytesMut,
    ends: Instant,
) -> Option<ProxyHeader> {
    match in_time(lobby, socket, ends, pin!(read_proxy_header(lobby.backend, socket, received))).await? {
        Ok(header) => Some(header),
        Err(error) => {
            lobby.note_proxy_header(net::peer(&**socket), error.word());
            None
        }
    }
}

/// Returns the outcome of reading. `None` if the client left or took too long.
async fn in_time<T>(
    lobby: &Lobby,
    socket: &Rc<Transport>,
    ends: Instant,
    reading: Pin<&mut impl Future<Output = io::Result<T>>>,
) -> Option<T> {
    match within(ends.saturating_duration_since(Instant::now()), socket, reading).await {
        Some(Ok(outcome)) => Some(outcome),
        Some(Err(error)) => {
            tracing::debug!(%error, "the input of an opening handshake has ended");
            None
        }
        None => {
            tracing::debug!(peer = net::peer(socket).map(display), "a request or PROXY header did not arrive in time");
            lobby.counters.add(Counter::HandshakeTimeout, 1);
            None
        }
    }
}

async fn read_proxy_header(
    backend: BackendKind,
    socket: &Rc<Transport>,
    received: &mut BytesMut,
) -> io::Result<Result<ProxyHeader, ProxyHeaderError>> {
    loop {
        match ProxyHeader::decode(received) {
            Ok(None) => receive_more(backend, socket, received).await?,
            Ok(Some((header, length))) => {
                // The bytes of the header are not kept while the first request is awaited.
                *received = BytesMut::from(&received[length..]);
                return Ok(Ok(header));
            }
            Err(error) => return Ok(Err(error)),
        }
    }
}

async fn read_head(backend: BackendKind, socket: &Rc<Transport>, received: &mut BytesMut) -> io::Result<Head> {
    let mut scan = HeadScan::default();
    loop {
        match RequestHead::decode_with(&mut scan, received) {
            // A socket on which nothing arrives costs this task, but no buffer.
            Ok(None) => receive_more(backend, socket, received).await?,
            Ok(Some(found)) => return Ok(Ok(found)),
            Err(error) => return Ok(Err(error)),
        }
    }
}

/// Sends a whole response, then waits up to [`LINGER`] until the client has taken it, since a close at once could
/// destroy the response. If the client has no room for the whole response in this time, the connection is reset.
async fn send_and_close(backend: BackendKind, socket: BoundedClose<Rc<Transport>>, response: Bytes) {
    let ends = Instant::now() + LINGER;
    let left = || ends.saturating_duration_since(Instant::now());
    let sent = within(left(), &socket, pin!(send_to_end(backend, &socket, &response))).await;
    if !matches!(sent, Some(Ok(()))) {
        tracing::debug!(outcome = ?sent, "the client did not take the answer");
        net::reset_when_closed(&*socket);
        return;
    }
    let rest = async {
        let (mut received, mut count) = (BytesMut::new(), 0);
        while count < LINGER_BYTES_MAX && receive_more(backend, &socket, &mut received).await.is_ok() {
            count += received.len();
            received.clear();
        }
    };
    within(left(), &socket, pin!(rest)).await;
    drop(timeout(left(), until_taken(&*socket)).await);
}

/// Sends all of `bytes`, each part when there is room for it, and ends our side after them.
async fn send_to_end(backend: BackendKind, socket: &Rc<Transport>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let count = with_room(backend, socket, || socket.send_now(bytes)).await?;
        bytes = &bytes[count..];
    }
    with_room(backend, socket, || socket.finish_now()).await
}

/// Tries `act` until the socket has room for it.
async fn with_room<T>(
    backend: BackendKind,
    socket: &Rc<Transport>,
    mut act: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    loop {
        match act() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                runtime::writable(backend, Rc::clone(socket)).await?;
            }
            outcome => return outcome,
        }
    }
}

/// Appends the bytes that arrive next.
async fn receive_more(backend: BackendKind, socket: &Rc<Transport>, received: &mut BytesMut) -> io::Result<()> {
    loop {
        if !socket.has_opened() {
            runtime::readable(backend, Rc::clone(socket)).await?;
        }
        match receive_now(socket, received) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            outcome => return outcome.map(drop),
        }
    }
}

/// Appends bytes that have arrived. `received` grows by no more than they need.
fn receive_now(socket: &Transport, received: &mut BytesMut) -> io::Result<usize> {
    let mut chunk = BytesMut::with_capacity(2_048);
    let count = socket.receive_now(&mut chunk)?;
    received.extend_from_slice(&chunk);
    Ok(count)
}

/// Runs `work` on the socket until it is done or the time is up. If the time is up, the socket is shut down, which ends
/// the operation that `work` waits for: dropping `work` would leave the operation, and the socket, to the kernel.
async fn within<T>(time: Duration, socket: &Transport, mut work: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    match timeout(time, work.as_mut()).await {
        Ok(outcome) => Some(outcome),
        Err(_) => {
            net::shutdown(socket, true);
            work.await;
            None
        }
    }
}

/// The longest time for a client to take the last answer.
const LINGER: Duration = Duration::from_secs(2);
/// The most bytes that a client may send while it takes the last answer.
const LINGER_BYTES_MAX: usize = 64 * 1_024;
