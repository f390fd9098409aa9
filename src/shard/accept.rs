//! Accepting: a few one-shot accepts in flight, each handing its socket to an opening handshake; and taking in those
//! who come back from the control thread.

use std::{io, os::fd::OwnedFd, rc::Rc, time::Duration};

use tokio::sync::mpsc;

use super::{
    handshake::{self, Opening},
    lobby::{Lobby, NoRoom},
};
use crate::{
    config::Limits,
    handover::Visit,
    metrics::Counter,
    sys::{net, oneshot},
};

/// Takes in what comes back from the control thread, until that ends.
pub(super) async fn take_back(lobby: Rc<Lobby>, mut returns: mpsc::Receiver<Visit>) {
    while let Some(Visit { socket, received, ticket }) = returns.recv().await {
        let place = lobby.take_in(ticket);
        tokio_uring::spawn(handshake::serve(Rc::clone(&lobby), Opening { socket, received }, place));
    }
}

/// Accepts until the listener is shut down.
pub(super) fn start(lobby: &Rc<Lobby>, listener: &Rc<OwnedFd>) {
    for _ in 0..Limits::ACCEPTS_MAX {
        tokio_uring::spawn(accept(Rc::clone(lobby), Rc::clone(listener)));
    }
}

async fn accept(lobby: Rc<Lobby>, listener: Rc<OwnedFd>) {
    loop {
        match oneshot::accept(Rc::clone(&listener)).await {
            Ok(socket) => admit(&lobby, socket),
            Err(_) if lobby.is_leaving() => return,
            Err(error) if is_shortage(&error) => {
                // The connections that wait stay in the kernel's queue; trying again at once would only burn the CPU.
                lobby.counters.add(Counter::AcceptPaused, 1);
                if lobby.shortage.is_due() {
                    tracing::warn!(
                        %error,
                        "accepting pauses, descriptors or memory are used up: raise their limit or lower \
                         --max-connections"
                    );
                }
                tokio::time::sleep(PAUSE).await;
            }
            // The client gave up while it waited, or the network failed under it: the next one is unaffected.
            Err(error) => {
                tracing::debug!(%error, "accept");
                tokio::time::sleep(PAUSE / 100).await;
            }
        }
    }
}

fn admit(lobby: &Rc<Lobby>, socket: OwnedFd) {
    let admission = lobby.admit(&socket);
    if let Err(error) = net::prepare_connection(&socket, lobby.config.send_buffer_bytes) {
        tracing::debug!(%error, "the client left before it was served");
        return;
    }
    match admission {
        Ok(place) => drop(tokio_uring::spawn(handshake::serve(Rc::clone(lobby), Opening::new(socket), place))),
        Err(no_room) => {
            note(lobby, no_room);
            let socket = Rc::new(socket);
            // Without room even for that it is closed without a word.
            if let Some(kept) = lobby.refusals.keep(&socket) {
                drop(tokio_uring::spawn(handshake::refuse(Rc::clone(lobby), socket, no_room, kept)));
            }
        }
    }
}

/// Counts a socket for which there is no room, and now and then says so.
fn note(lobby: &Lobby, no_room: NoRoom) {
    let limits = &lobby.config.limits;
    match no_room {
        NoRoom::Connections => {
            lobby.counters.add(Counter::RefusedLimit, 1);
            if lobby.full.is_due() {
                let limit = limits.connections_max;
                tracing::warn!(limit, "as many connections as --max-connections allows: more are refused");
            }
        }
        NoRoom::Address(address) => {
            lobby.counters.add(Counter::RefusedAddress, 1);
            if lobby.sockets.of_addresses.as_ref().is_some_and(|addresses| addresses.full.is_due()) {
                let limit = limits.connections_per_address_max;
                tracing::warn!(
                    limit,
                    %address,
                    "an address has as many connections as --max-connections-per-address allows: more are refused"
                );
            }
        }
    }
}

/// Descriptors or memory are used up.
fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    error.raw_os_error().is_some_and(|code| shortages.iter().any(|shortage| shortage.raw_os_error() == code))
}

/// How long accepting pauses when descriptors are used up.
const PAUSE: Duration = Duration::from_millis(200);
