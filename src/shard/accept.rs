//! Accepts the sockets that wait at a listener, up to a bound after each poll, and reclaims connections that the
//! control thread hands back.

use std::{
    io,
    os::fd::OwnedFd,
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::{
    handshake::{self, Opening},
    lobby::{Lobby, NoRoom},
};
use crate::{
    handover::HandedOff,
    metrics::Counter,
    sys::{net, oneshot},
};

/// Reclaims connections that the control thread hands back, until that thread ends.
pub(super) async fn reclaim_handed_back(lobby: Rc<Lobby>, mut returns: mpsc::Receiver<HandedOff>) {
    while let Some(HandedOff { socket, received, permits, .. }) = returns.recv().await {
        let permit = lobby.reclaim(permits);
        tokio_uring::spawn(handshake::serve(Rc::clone(&lobby), Opening { socket, received }, permit));
    }
}

/// Accepts until the listener is shut down.
///
/// The runtime submits and completes once between two turns. So many accepts follow each poll: one by one, a shard with
/// long turns would accept hardly any socket.
pub(super) async fn accept(lobby: Rc<Lobby>, listener: Rc<OwnedFd>) {
    loop {
        let ready = oneshot::readable(Rc::clone(&listener)).await;
        let go = || accept_waiting(&listener, lobby.refusals.at_once_max(), |socket| admit(&lobby, socket));
        match ready.and_then(|()| go()) {
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

/// Accepts the sockets that wait, up to [`ACCEPTS_MAX`], until `refusals` of them have found no room. `admit` counts
/// each socket, as a connection or as a refusal, before the next is accepted, and returns whether there was room.
fn accept_waiting(listener: &OwnedFd, mut refusals: usize, mut admit: impl FnMut(OwnedFd) -> bool) -> io::Result<()> {
    for _ in 0..ACCEPTS_MAX {
        let socket = match net::accept_now(listener) {
            Ok(socket) => socket,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        };
        if !admit(socket) {
            refusals -= 1;
            if refusals == 0 {
                break;
            }
        }
    }
    Ok(())
}

/// Begins the opening handshake of an accepted socket. Returns whether there is room for it.
fn admit(lobby: &Rc<Lobby>, socket: OwnedFd) -> bool {
    let admission = lobby.admit(&socket);
    let has_room = admission.is_ok();
    if let Err(error) = net::prepare_connection(&socket, lobby.config.send_buffer_bytes) {
        tracing::debug!(%error, "the client left before it was served");
        return has_room;
    }
    match admission {
        Ok(permit) => drop(tokio_uring::spawn(handshake::serve(Rc::clone(lobby), Opening::new(socket), permit))),
        Err(no_room) => {
            note(lobby, no_room);
            let socket = Rc::new(socket);
            // Without room for a refusal the socket is closed without an answer.
            if let Some(kept) = lobby.refusals.keep(&socket) {
                drop(tokio_uring::spawn(handshake::refuse(Rc::clone(lobby), socket, no_room, kept)));
            }
        }
    }
    has_room
}

/// Counts a socket for which there is no room, and logs the limit now and then.
fn note(lobby: &Lobby, no_room: NoRoom) {
    let limits = &lobby.config.limits;
    match no_room {
        NoRoom::Connections => {
            lobby.counters.add(Counter::RefusedLimit, 1);
            if let Some(suppressed) = lobby.warnings.full.allow(Instant::now()) {
                let limit = limits.connections_max;
                tracing::warn!(limit, suppressed, "as many connections as --max-connections allows: more are refused");
            }
        }
        NoRoom::Address(address) => {
            lobby.counters.add(Counter::RefusedAddress, 1);
            let addresses = lobby.sockets.of_addresses.as_ref();
            if let Some(suppressed) = addresses.and_then(|addresses| addresses.full.allow(Instant::now())) {
                let limit = limits.connections_per_address_max;
                tracing::warn!(
                    limit,
                    suppressed,
                    %address,
                    "an address has as many connections as --max-connections-per-address allows: further ones are \
                     refused"
                );
            }
        }
    }
}

/// Returns whether an error says that descriptors or memory are used up.
fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    error.raw_os_error().is_some_and(|code| shortages.iter().any(|shortage| shortage.raw_os_error() == code))
}

/// The most sockets that are accepted from one listener between two turns.
const ACCEPTS_MAX: usize = 64;

/// The pause of accepting when descriptors are used up.
const PAUSE: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn a_go_is_bounded() {
        let (listeners, address) = net::listen("127.0.0.1:0".parse().unwrap(), 1, false).unwrap();
        let clients: Vec<_> = (0..2 * ACCEPTS_MAX + 1).map(|_| TcpStream::connect(address).unwrap()).collect();
        let go = |refusals, has_room| {
            let mut count = 0;
            let admit = |_socket| {
                count += 1;
                has_room
            };
            accept_waiting(&listeners[0], refusals, admit).map(|()| count).map_err(|error| error.kind())
        };
        assert_eq!(go(1, true), Ok(ACCEPTS_MAX));
        assert_eq!(go(3, false), Ok(3));
        assert_eq!(go(1, true), Ok(clients.len() - ACCEPTS_MAX - 3));
        assert_eq!(go(1, true), Ok(0));
        net::stop_listening(&listeners[0]).unwrap();
        assert_eq!(go(1, true), Err(io::ErrorKind::InvalidInput));
    }
}
