//! Accepts the sockets that wait at a listener, up to a bound after each poll, and reclaims connections that the
//! control thread hands back.

use std::{
    io,
    os::fd::OwnedFd,
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::{
    io::unix::AsyncFd,
    sync::mpsc,
    task::{JoinHandle, spawn_local},
};

use super::{
    handshake::{self, Opening},
    listener::{Beginning, Listener, ListenerOwner},
    lobby::Lobby,
    state::send_limits,
};
use crate::{
    handover::HandedOff,
    metrics::Counter,
    sys::{Transport, net, runtime},
};

/// A task that accepts on a listener, by the way in which it ends.
#[derive(Debug)]
pub(super) enum Accepting {
    /// The task accepts until this socket, which the server has opened, is shut down.
    Own(Rc<OwnedFd>),
    /// The task accepts until it is aborted. The socket is not shut down, since a shutdown would end it for the parent
    /// too.
    OfParent(JoinHandle<()>),
}

impl Accepting {
    /// Begins to accept.
    ///
    /// # Errors
    ///
    /// If the readiness of the listener cannot be watched.
    pub(super) fn begin(lobby: &Rc<Lobby>, listener: Listener) -> io::Result<Accepting> {
        let Listener { socket, owner, beginning } = listener;
        let begin = |queue| spawn_local(accept(Rc::clone(lobby), queue, beginning));
        match owner {
            ListenerOwner::Server => {
                let socket = Rc::new(socket);
                drop(begin(Queue::Own(Rc::clone(&socket))));
                Ok(Accepting::Own(socket))
            }
            ListenerOwner::Parent => Ok(Accepting::OfParent(begin(Queue::OfParent(net::watch(socket)?)))),
        }
    }

    /// Ends accepting.
    ///
    /// # Errors
    ///
    /// The error of `shutdown(2)`.
    pub(super) fn end(&self) -> io::Result<()> {
        match self {
            Accepting::Own(socket) => net::stop_listening(socket)?,
            // The task waits at a point where it holds no socket that was accepted.
            Accepting::OfParent(task) => task.abort(),
        }
        Ok(())
    }
}

/// Reclaims connections that the control thread hands back, until that thread ends.
pub(super) async fn reclaim_handed_back(lobby: Rc<Lobby>, mut returns: mpsc::Receiver<HandedOff>) {
    while let Some(HandedOff { socket, received, permits, header, .. }) = returns.recv().await {
        let permit = lobby.begin_opening(permits);
        spawn_local(handshake::serve(Rc::clone(&lobby), Opening::with(socket, received, header), permit));
    }
}

/// The queue of a listener, and the way to wait for a connection in it.
#[derive(Debug)]
enum Queue {
    /// Waits as the backend's runtime does; the shutdown of the listener ends the wait.
    Own(Rc<OwnedFd>),
    /// Waits by tokio's epoll: a task that is aborted there leaves nothing behind in the kernel.
    OfParent(AsyncFd<OwnedFd>),
}

impl Queue {
    /// Waits for connections, and accepts some of them.
    async fn accept_some(&self, lobby: &Rc<Lobby>, beginning: Beginning) -> io::Result<()> {
        let go = |listener: &OwnedFd| {
            let (refusals, may_accept) = (lobby.refusals.at_once_max(), || lobby.accepts_after().is_none());
            accept_waiting(listener, refusals, may_accept, |socket| admit(lobby, socket, beginning))
        };
        match self {
            Queue::Own(listener) => {
                runtime::readable(lobby.backend, Rc::clone(listener)).await?;
                go(listener).map(drop)
            }
            Queue::OfParent(listener) => {
                let mut ready = listener.readable().await?;
                match go(listener.get_ref())? {
                    Rest::Nothing => ready.clear_ready(),
                    // The listener stays ready: without this pass the task would go on before the next turn.
                    Rest::Unknown => runtime::pass(lobby.backend).await,
                }
                Ok(())
            }
        }
    }
}

/// The connections that are left in a listener's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// None.
    Nothing,
    /// Any number.
    Unknown,
}

/// Accepts until the listener is shut down, or the task is aborted.
///
/// The runtime submits and completes once between two turns. So up to [`ACCEPTS_MAX`] accepts follow each poll. With
/// one accept for each poll, a shard with long turns would accept hardly any socket.
async fn accept(lobby: Rc<Lobby>, queue: Queue, beginning: Beginning) {
    loop {
        if let Some(wait) = lobby.accepts_after() {
            // The sockets that wait stay in the kernel's queue. The rate may change, and the server may leave.
            lobby.counters.add(Counter::AcceptThrottled, 1);
            tokio::time::sleep(wait.min(ACCEPT_WAIT_MAX)).await;
            continue;
        }
        match queue.accept_some(&lobby, beginning).await {
            Ok(()) => {}
            Err(_) if lobby.is_leaving() => return,
            Err(error) if is_shortage(&error) => {
                // The connections that wait stay in the kernel's queue; another try at once would only burn the CPU.
                lobby.counters.add(Counter::AcceptPaused, 1);
                if let Some(suppressed) = lobby.warnings.shortage.allow(Instant::now()) {
                    tracing::warn!(
                        %error,
                        suppressed,
                        "accepting pauses, descriptors or memory are used up: raise their limit or lower \
                         --max-connections"
                    );
                }
                tokio::time::sleep(PAUSE).await;
            }
            // The client gave up while it waited, or the network failed: the next socket is unaffected.
            Err(error) => {
                tracing::debug!(%error, "accept");
                tokio::time::sleep(PAUSE / 100).await;
            }
        }
    }
}

/// Accepts the sockets that wait, up to [`ACCEPTS_MAX`], until `refusals` of them have found no room, or `may_accept`
/// lets no further one in. `admit` counts
/// each socket, as a connection or as a refusal, before the next is accepted, and returns whether there was room.
/// Returns what is left in the queue.
fn accept_waiting(
    listener: &OwnedFd,
    mut refusals: usize,
    may_accept: impl Fn() -> bool,
    mut admit: impl FnMut(OwnedFd) -> bool,
) -> io::Result<Rest> {
    for _ in 0..ACCEPTS_MAX {
        if !may_accept() {
            break;
        }
        let socket = match net::accept_now(listener) {
            Ok(socket) => socket,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Rest::Nothing),
            Err(error) => return Err(error),
        };
        if !admit(socket) {
            refusals -= 1;
            if refusals == 0 {
                break;
            }
        }
    }
    Ok(Rest::Unknown)
}

/// Begins the opening handshake of an accepted socket. Returns whether there is room for it.
///
/// A socket that has to begin with a header of the PROXY protocol, and comes from no trusted proxy, is closed at once.
fn admit(lobby: &Rc<Lobby>, socket: OwnedFd, beginning: Beginning) -> bool {
    lobby.count_accept();
    let socket = Transport::accepted(socket);
    if beginning == Beginning::ProxyHeader {
        let peer = net::peer(&socket);
        if !peer.is_some_and(|peer| lobby.config.get().trusted_proxies.include(peer.ip())) {
            lobby.counters.add(Counter::Accepted, 1);
            lobby.note_proxy_header(peer, "untrusted");
            return true;
        }
    }
    let admission = lobby.admit(&socket);
    let has_room = admission.is_ok();
    if let Err(error) = net::prepare_connection(socket.socket(), send_limits(&lobby.config.get())) {
        tracing::debug!(%error, "the client left before it was served");
        return has_room;
    }
    match admission {
        Ok(permit) => drop(spawn_local(handshake::serve(Rc::clone(lobby), Opening::new(socket, beginning), permit))),
        Err(no_room) => {
            lobby.note_refusal(no_room);
            let socket = Rc::new(socket);
            // Without room for a refusal the socket is closed without an answer.
            if let Some(kept) = lobby.refusals.keep(&socket) {
                drop(spawn_local(handshake::refuse(Rc::clone(lobby), Opening::new(socket, beginning), no_room, kept)));
            }
        }
    }
    has_room
}

/// Returns whether an error says that descriptors or memory are used up.
fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    error.raw_os_error().is_some_and(|code| shortages.iter().any(|shortage| shortage.raw_os_error() == code))
}

/// The most sockets that are accepted from one listener between two turns.
const ACCEPTS_MAX: usize = 64;

/// The longest sleep of accepting while sockets come faster than their rate.
const ACCEPT_WAIT_MAX: Duration = Duration::from_secs(1);

/// The pause of accepting when descriptors or memory are used up.
const PAUSE: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn a_bounded_number_of_accepts_follows_a_poll() {
        let (listeners, address) = net::listen("127.0.0.1:0".parse().unwrap(), 1, false).unwrap();
        let clients: Vec<_> = (0..2 * ACCEPTS_MAX + 1).map(|_| TcpStream::connect(address).unwrap()).collect();
        let accept = |refusals, has_room| {
            let mut count = 0;
            let admit = |_socket| {
                count += 1;
                has_room
            };
            accept_waiting(&listeners[0], refusals, || true, admit)
                .map(|rest| (count, rest))
                .map_err(|error| error.kind())
        };
        assert_eq!(accept(1, true), Ok((ACCEPTS_MAX, Rest::Unknown)));
        assert_eq!(accept(3, false), Ok((3, Rest::Unknown)));
        assert_eq!(accept(1, true), Ok((clients.len() - ACCEPTS_MAX - 3, Rest::Nothing)));
        assert_eq!(accept(1, true), Ok((0, Rest::Nothing)));
        net::stop_listening(&listeners[0]).unwrap();
        assert_eq!(accept(1, true), Err(io::ErrorKind::InvalidInput));
    }
}
