//! From an accepted socket to a connection: a short-lived task reads the head, within a deadline.

use std::{
    future::Future,
    io,
    os::fd::OwnedFd,
    pin::{Pin, pin},
    rc::Rc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::time::timeout;
use tracing::field::display;

use super::{
    arrival::Arrival,
    lobby::{Lobby, NoRoom, OpeningPermit},
    opening::{Accepted, NotOpened, judge},
    refusals::RefusalPermit,
};
use crate::{
    config::Limits,
    endpoints::Endpoint,
    handler::{Opened, Response},
    handover::{SocketPermits, HandedOff},
    metrics::Counter,
    proto::{HeadScan, HttpError, Refusal, RequestHead},
    surface::raw::asks_for_websocket,
    sys::{net, oneshot},
};

/// A socket whose opening request is to be read.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) socket: OwnedFd,
    /// What has been received of it.
    pub(super) received: BytesMut,
}

impl Opening {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Opening { socket, received: BytesMut::new() }
    }
}

/// Serves the opening request of one socket: it becomes a connection, is refused, or goes to the control thread because
/// it asks for no WebSocket. `place` counts it until then.
pub(super) async fn serve(lobby: Rc<Lobby>, opening: Opening, mut permit: OpeningPermit) {
    let Opening { socket, mut received } = opening;
    let socket = Rc::new(socket);
    let Some(head) = read_in_time(&lobby, &socket, &mut received).await else { return };
    // Without the query, which may hold a token; and not the answer, which may repeat it.
    let path = match &head {
        Ok((head, _)) if tracing::enabled!(tracing::Level::DEBUG) => Some(head.path().to_owned()),
        _ => None,
    };
    let mut cause = None;
    let (response, has_body) = match head {
        Err(error) => (error.refusal().into(), true),
        Ok((head, _)) if !asks_for_websocket(&head) => match health(&lobby, &head) {
            // Whatever the control thread is doing, and however many connections it has.
            Some(response) => return say_and_close(&socket, response).await,
            None => {
                let Some(socket) = sole_owner(socket) else { return };
                let permits = lobby.release(permit);
                return hand_over(&lobby, HandedOff { socket, received, permits, is_refused: false }).await;
            }
        },
        Ok((head, length)) => {
            let has_body = head.method() != "HEAD";
            match judge(&lobby, &socket, head).await {
                Ok(Accepted { route, opened, profile, limits, answer }) => {
                    let Some(socket) = sole_owner(socket) else { return };
                    let Opened { state, subscriptions, forwards, .. } = opened;
                    let leftover = received.split_off(length);
                    lobby.enter(Arrival {
                        socket,
                        of_address: permit.take_address_permit(),
                        route,
                        state,
                        profile,
                        limits,
                        subscriptions,
                        forwards,
                        answer,
                        leftover,
                    });
                    return;
                }
                Err(NotOpened::Refused(response)) => (response, has_body),
                Err(NotOpened::Undecided) => {
                    cause = Some(Counter::RefusedUndecided);
                    (Refusal::not_now("the decision about this request took too long").into(), has_body)
                }
                Err(NotOpened::Left) => {
                    let peer = net::peer(&socket).map(display);
                    tracing::debug!(peer, "the client left before its request was answered");
                    return;
                }
            }
        }
    };
    let by_status = || match response.status() {
        503 if lobby.is_leaving() => Counter::RefusedLeaving,
        status => Counter::refused(status),
    };
    let counter = cause.unwrap_or_else(by_status);
    let (peer, status) = (net::peer(&socket).map(display), response.status());
    tracing::debug!(peer, status, cause = counter.cause(), path, "refused");
    lobby.counters.add(counter, 1);
    say_and_close(&socket, response.encode(has_body)).await;
}

/// Tells a client that there is no room for it, or what a monitor asks.
pub(super) async fn refuse(lobby: Rc<Lobby>, socket: Rc<OwnedFd>, no_room: NoRoom, kept: RefusalPermit) {
    tracing::debug!(peer = net::peer(&socket).map(display), "as many connections as allowed: refused");
    let mut received = BytesMut::new();
    let Some(head) = read_in_time(&lobby, &socket, &mut received).await else { return };
    let head = head.as_ref().ok().map(|(head, _)| head);
    let asks = head.filter(|head| !asks_for_websocket(head));
    let response = asks.and_then(|head| health(&lobby, head));
    if response.is_none()
        && asks.is_some_and(|head| asks_for_metrics(&lobby, head))
        && let Some(of_all) = lobby.sockets.monitors.admit(Limits::MONITORS_MAX)
    {
        drop(kept);
        let Some(socket) = sole_owner(socket) else { return };
        let permits = SocketPermits { of_all, of_address: None };
        return hand_over(&lobby, HandedOff { socket, received, permits, is_refused: true }).await;
    }
    let method = head.map_or("GET", RequestHead::method);
    say_and_close(&socket, response.unwrap_or_else(|| no_room.refusal().encode_for(method))).await;
}

/// Returns whether a request is for metrics that are on this address. Whether it may have them, the control thread
/// decides.
fn asks_for_metrics(lobby: &Lobby, head: &RequestHead) -> bool {
    lobby.config.metrics_listen.is_none() && lobby.endpoints.resolve(head) == Ok(Endpoint::Metrics)
}

/// The answer to a request for the server's health, after which the connection ends. `None` for any other request, also
/// for one that the control thread refuses.
fn health(lobby: &Lobby, head: &RequestHead) -> Option<Bytes> {
    head.check_host().ok()?;
    let answer = lobby.endpoints.resolve(head).ok()?.health(head.method(), lobby.is_leaving())?;
    lobby.counters.add(Counter::HttpRequests, 1);
    let mut response = match answer {
        Ok(text) => Response::new(200, "text/plain; charset=utf-8", text),
        Err(refusal) => {
            lobby.counters.add(Counter::refused(refusal.status), 1);
            refusal.into()
        }
    };
    if let Some(origin) = head.headers().get("origin") {
        response = response.header("Vary", "origin");
        if lobby.config.access.origins.allow(origin) {
            response = response.header("Access-Control-Allow-Origin", &String::from_utf8_lossy(origin));
        }
    }
    Some(response.encode(head.method() != "HEAD"))
}

/// Gives a connection that speaks HTTP to the control thread.
async fn hand_over(lobby: &Lobby, handed_off: HandedOff) {
    if let Err(handed_off) = lobby.control.transfer(handed_off) {
        lobby.counters.add(Counter::RefusedLimit, 1);
        if lobby.http_full.is_due() {
            tracing::warn!("connections that speak HTTP come faster than they are taken in: some are refused");
        }
        let refusal = Refusal::not_now("as many HTTP connections as this server allows");
        say_and_close(&Rc::new(handed_off.socket), refusal.encode()).await;
    }
}

/// Every operation on the socket has ended, and so has every other reference to it.
fn sole_owner(socket: Rc<OwnedFd>) -> Option<OwnedFd> {
    let socket = Rc::try_unwrap(socket).ok();
    if socket.is_none() {
        tracing::error!("an operation of the opening handshake outlived it");
    }
    socket
}

/// A head and its length.
type Head = Result<(RequestHead, usize), HttpError>;

/// The head at the front of `received`, or what is wrong with it. `None` if the client left or took too long.
async fn read_in_time(lobby: &Lobby, socket: &Rc<OwnedFd>, received: &mut BytesMut) -> Option<Head> {
    match within(lobby.config.handshake_timeout, socket, pin!(read_head(socket, received))).await {
        Some(Ok(head)) => Some(head),
        Some(Err(error)) => {
            tracing::debug!(%error, "the client left in its opening handshake");
            None
        }
        None => {
            tracing::debug!(peer = net::peer(socket).map(display), "the opening request did not arrive in time");
            lobby.counters.add(Counter::HandshakeTimeout, 1);
            None
        }
    }
}

async fn read_head(socket: &Rc<OwnedFd>, received: &mut BytesMut) -> io::Result<Head> {
    let mut scan = HeadScan::default();
    loop {
        match RequestHead::decode_with(&mut scan, received) {
            // A socket that never sends costs this task, not a buffer.
            Ok(None) => receive_more(socket, received).await?,
            Ok(Some(found)) => return Ok(Ok(found)),
            Err(error) => return Ok(Err(error)),
        }
    }
}

/// Sends a whole response, then waits a moment for the client to take it: closing at once could destroy it.
async fn say_and_close(socket: &Rc<OwnedFd>, response: Bytes) {
    // It is the first thing sent on this socket, and fits.
    match net::send_now(socket, &response) {
        Ok(count) if count == response.len() => {}
        outcome => {
            tracing::debug!(?outcome, "the client did not take the answer");
            return;
        }
    }
    net::shutdown(socket, false);
    let rest = async {
        let (mut received, mut count) = (BytesMut::new(), 0);
        while count < LINGER_BYTES_MAX && receive_more(socket, &mut received).await.is_ok() {
            count += received.len();
            received.clear();
        }
    };
    within(LINGER, socket, pin!(rest)).await;
}

/// Appends what arrives next.
async fn receive_more(socket: &Rc<OwnedFd>, received: &mut BytesMut) -> io::Result<()> {
    loop {
        oneshot::readable(Rc::clone(socket)).await?;
        match receive_now(socket, received) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            outcome => return outcome.map(drop),
        }
    }
}

fn receive_now(socket: &OwnedFd, received: &mut BytesMut) -> io::Result<usize> {
    let mut chunk = [0; 2_048];
    let count = net::receive_now(socket, &mut chunk)?;
    received.extend_from_slice(&chunk[..count]);
    Ok(count)
}

/// Runs `work` on the socket until it is done or the time is up. Then the socket is shut down, which ends the operation
/// that `work` waits for: dropping it would leave it, and the socket, to the kernel.
async fn within<T>(time: Duration, socket: &OwnedFd, mut work: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    match timeout(time, work.as_mut()).await {
        Ok(outcome) => Some(outcome),
        Err(_) => {
            net::shutdown(socket, true);
            work.await;
            None
        }
    }
}

/// How long a refused client may take to read why, and how much it may still send.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 64 * 1_024;
