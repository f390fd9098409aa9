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

use super::{
    lobby::{Lobby, Place},
    turn::Arrival,
};
use crate::{
    metrics::Counter,
    proto::{HeadScan, HttpError, Refusal, RequestHead, Upgrade},
    surface::{page, raw::RawRequest},
    sys::{net, oneshot},
};

/// Serves the opening request of one socket. `_place` counts it until it is established or gone.
pub(super) async fn serve(lobby: Rc<Lobby>, socket: OwnedFd, _place: Place) {
    let socket = Rc::new(socket);
    let Some(head) = read_in_time(&lobby, &socket).await else { return };
    let (head, leftover) = match head {
        Ok(read) => read,
        Err(error) => return answer(&lobby, &socket, error.refusal().encode()).await,
    };
    if let Some(page) = page::answer(&head) {
        return say_and_close(&socket, page).await;
    }
    match open(&lobby, &head) {
        Ok((request, upgrade)) => match Rc::try_unwrap(socket) {
            Ok(socket) => {
                lobby.enter(Arrival { socket, request, answer: upgrade.response(None, &[]), leftover });
            }
            Err(_) => tracing::error!("an operation of the opening handshake outlived it"),
        },
        Err(refusal) => answer(&lobby, &socket, refusal.encode_for(head.method())).await,
    }
}

/// Tells a client that there is no room for it.
pub(super) async fn refuse(lobby: Rc<Lobby>, socket: OwnedFd, _place: Place) {
    let socket = Rc::new(socket);
    if read_in_time(&lobby, &socket).await.is_some() {
        say_and_close(&socket, no_room("as many connections as this server allows").encode()).await;
    }
}

/// Whether an opening request is acceptable.
fn open(lobby: &Lobby, head: &RequestHead) -> Result<(RawRequest, Upgrade), Refusal> {
    let request = RawRequest::from_head(head)?;
    let upgrade = Upgrade::from_request(head).map_err(|error| error.refusal())?;
    if lobby.is_leaving() {
        return Err(no_room("this server is going away"));
    }
    Ok((request, upgrade))
}

fn no_room(why: &str) -> Refusal {
    Refusal::new(503, why).header("Retry-After", "1")
}

async fn answer(lobby: &Lobby, socket: &Rc<OwnedFd>, response: Bytes) {
    lobby.counters.add(Counter::RefusedRequest, 1);
    say_and_close(socket, response).await;
}

type Head = Result<(RequestHead, BytesMut), HttpError>;

/// The head and what came behind it, or what is wrong with it. `None` if the client left or took too long.
async fn read_in_time(lobby: &Lobby, socket: &Rc<OwnedFd>) -> Option<Head> {
    match within(lobby.config.handshake_timeout, socket, pin!(read_head(socket))).await {
        Some(Ok(head)) => Some(head),
        Some(Err(error)) => {
            tracing::debug!(%error, "the client left in its opening handshake");
            None
        }
        None => {
            lobby.counters.add(Counter::HandshakeOverdue, 1);
            None
        }
    }
}

async fn read_head(socket: &Rc<OwnedFd>) -> io::Result<Head> {
    let mut scan = HeadScan::default();
    let mut received = BytesMut::new();
    loop {
        // A socket that never sends costs this task, not a buffer.
        receive_more(socket, &mut received).await?;
        match RequestHead::decode_with(&mut scan, &received) {
            Ok(None) => {}
            Ok(Some((head, length))) => return Ok(Ok((head, received.split_off(length)))),
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
