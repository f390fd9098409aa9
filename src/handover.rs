//! Sockets on their way between shards and the control thread.
//!
//! A shard accepts every connection and reads its first head. A connection whose request asks for no WebSocket goes to
//! the control thread, which speaks HTTP. If a later request on this connection asks for a WebSocket, the connection
//! goes back to a shard.

mod addresses;
mod idle;
#[cfg(test)]
pub(crate) mod testing;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::BytesMut;
use tokio::sync::mpsc;

use crate::{budget::Budget, proto::ProxyHeader, rates::RateTable, sys::transport::Transport};

pub(crate) use addresses::{AddressPermit, Addresses};
pub(crate) use idle::{IdleConnection, has_input};

/// A connection that one thread hands to another, with everything that is known of it.
#[derive(Debug)]
pub(crate) struct HandedOff {
    pub(crate) socket: Transport,
    /// The bytes that have been received and are to be read first.
    pub(crate) received: BytesMut,
    pub(crate) permits: SocketPermits,
    /// The header of the PROXY protocol by which a trusted proxy has begun the connection.
    pub(crate) header: Option<ProxyHeader>,
    /// Whether there is no room for the connection. It then gets only the answer to a monitor's request, and is counted
    /// in [`Sockets::monitors`].
    pub(crate) is_refused: bool,
}

/// The permits of a socket, which count it until they are dropped.
#[derive(Debug)]
pub(crate) struct SocketPermits {
    /// Among all sockets, or among those without room.
    pub(crate) of_all: CountPermit,
    /// Among the sockets of its peer's address, where their number is limited.
    pub(crate) of_address: Option<AddressPermit>,
}

/// The sockets of all threads together, and those of each peer address where their number is limited.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sockets {
    pub(crate) all: Count,
    pub(crate) of_addresses: Option<Arc<Addresses>>,
    /// The buckets of the addresses that open WebSockets.
    pub(crate) handshakes: Arc<RateTable>,
    /// The budget of the server's memory, if there is a limit.
    pub(crate) budget: Option<Arc<Budget>>,
    /// Sockets without room that are handed over nevertheless because their request is for the metrics.
    pub(crate) monitors: Count,
}

impl Sockets {
    /// Returns counts of 0. An address may have `of_address_max` sockets, or any number if that is 0.
    pub(crate) fn new(of_address_max: usize) -> Sockets {
        let of_addresses = (of_address_max > 0).then(|| Addresses::new(of_address_max));
        Sockets { of_addresses, ..Sockets::default() }
    }
}

/// A number of things over all threads.
#[derive(Clone, Debug, Default)]
pub(crate) struct Count(Arc<AtomicUsize>);

impl Count {
    /// Counts one more, unless there are `most` already.
    pub(crate) fn admit(&self, most: usize) -> Option<CountPermit> {
        // Relaxed: no other memory depends on the count. The number is raised first, and lowered again if there was no
        // room, so that two threads cannot both take the last place.
        let is_full = self.0.fetch_add(1, Ordering::Relaxed) >= most;
        let counted = CountPermit(Some(Arc::clone(&self.0)));
        (!is_full).then_some(counted)
    }

    #[cfg(test)]
    pub(crate) fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Subtracts `count` permits whose numbers the caller has kept by [`CountPermit::keep`].
    pub(crate) fn give_back(&self, count: usize) {
        self.0.fetch_sub(count, Ordering::Relaxed);
    }

    /// Returns a permit for a number that the caller has kept by [`CountPermit::keep`].
    pub(crate) fn counted(&self) -> CountPermit {
        CountPermit(Some(Arc::clone(&self.0)))
    }
}

/// Counts one of a [`Count`] until it is dropped.
pub(crate) struct CountPermit(Option<Arc<AtomicUsize>>);

impl CountPermit {
    /// Leaves the count as it is: the caller keeps the number from now on.
    pub(crate) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for CountPermit {
    fn drop(&mut self) {
        if let Some(count) = &self.0 {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for CountPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CountPermit")
    }
}

/// The way from a shard to the control thread.
#[derive(Clone, Debug)]
pub(crate) struct ControlHandoff {
    handed_off: mpsc::Sender<HandedOff>,
}

impl ControlHandoff {
    /// Returns the way, and the receiver at its end.
    pub(crate) fn new() -> (ControlHandoff, mpsc::Receiver<HandedOff>) {
        let (handed_off, arrivals) = mpsc::channel(HANDOFFS_MAX);
        (ControlHandoff { handed_off }, arrivals)
    }

    /// Hands a connection over.
    ///
    /// # Errors
    ///
    /// The connection, if [`HANDOFFS_MAX`] are on their way already.
    pub(crate) fn transfer(&self, handed_off: HandedOff) -> Result<(), Box<HandedOff>> {
        self.handed_off.try_send(handed_off).map_err(|error| Box::new(error.into_inner()))
    }
}

/// The most connections on their way to the control thread at the same time.
const HANDOFFS_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;

    #[test]
    fn a_handoff_has_a_limit() {
        let (handoff, mut arrivals) = ControlHandoff::new();
        let sockets = Sockets::new(0);
        let handed_off = || {
            let socket = OwnedFd::from(std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).into();
            let permits = SocketPermits { of_all: sockets.all.admit(usize::MAX).unwrap(), of_address: None };
            HandedOff { socket, received: BytesMut::new(), permits, header: None, is_refused: false }
        };
        (0..HANDOFFS_MAX).for_each(|_| handoff.transfer(handed_off()).expect("there is room"));
        drop(handoff.transfer(handed_off()).expect_err("there is none"));
        assert_eq!(sockets.all.get(), HANDOFFS_MAX);
        drop(arrivals.try_recv().unwrap());
        handoff.transfer(handed_off()).expect("there is room again");
        drop(arrivals);
        assert_eq!(sockets.all.get(), 0);
    }

    #[test]
    fn a_count_has_a_limit() {
        let count = Count::default();
        let first = count.admit(2).unwrap();
        let second = count.admit(2).unwrap();
        assert!(count.admit(2).is_none());
        drop(first);
        second.keep();
        assert_eq!(count.get(), 1);
        drop(count.counted());
        assert_eq!(count.get(), 0);
    }
}
