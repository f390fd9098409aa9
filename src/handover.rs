//! Sockets on their way between shards and the control thread.
//!
//! A shard accepts every connection and reads its first head. What asks for no WebSocket goes to the control thread,
//! which speaks HTTP; and what asks for one there, on a connection that was kept alive, goes to a shard.

mod addresses;
mod idle;

use std::{
    fmt,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::BytesMut;
use tokio::sync::mpsc;

pub(crate) use addresses::{Addresses, Network, AddressPermit};
pub(crate) use idle::{IdleConnection, has_input};

/// One connection and all that is known of it.
#[derive(Debug)]
pub(crate) struct HandedOff {
    pub(crate) socket: OwnedFd,
    /// What has been received and is to be read first.
    pub(crate) received: BytesMut,
    pub(crate) permits: SocketPermits,
    /// There is no room for it: it is only answered what a monitor asks, and counted in [`Sockets::monitors`].
    pub(crate) is_refused: bool,
}

/// A socket's part in what is counted of sockets, until it is dropped.
#[derive(Debug)]
pub(crate) struct SocketPermits {
    /// In the number of all sockets, or of those that have no room.
    pub(crate) of_all: CountPermit,
    /// In the number of those of its peer's address, where that is limited.
    pub(crate) of_address: Option<AddressPermit>,
}

/// How many sockets all threads have together, and how many of each peer address where that is limited.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sockets {
    pub(crate) all: Count,
    pub(crate) of_addresses: Option<Arc<Addresses>>,
    /// Those that have no room, and are handed over nevertheless because they ask for the metrics.
    pub(crate) monitors: Count,
}

impl Sockets {
    /// Counts none yet; an address may have so many, or any number if that is 0.
    pub(crate) fn new(of_address_max: usize) -> Sockets {
        let of_addresses = (of_address_max > 0).then(|| Addresses::new(of_address_max));
        Sockets { of_addresses, ..Sockets::default() }
    }
}

/// How many there are of something, over all threads.
#[derive(Clone, Debug, Default)]
pub(crate) struct Count(Arc<AtomicUsize>);

impl Count {
    /// Adds one, unless there are `most` already.
    pub(crate) fn admit(&self, most: usize) -> Option<CountPermit> {
        // Relaxed: the count stands for itself. Taken first and given back, so that two threads cannot both take the
        // last.
        let is_full = self.0.fetch_add(1, Ordering::Relaxed) >= most;
        let counted = CountPermit(Some(Arc::clone(&self.0)));
        (!is_full).then_some(counted)
    }

    #[cfg(test)]
    pub(crate) fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Takes back what was counted without being kept.
    pub(crate) fn give_back(&self, count: usize) {
        self.0.fetch_sub(count, Ordering::Relaxed);
    }

    /// Makes something of one that was counted without being kept.
    pub(crate) fn counted(&self) -> CountPermit {
        CountPermit(Some(Arc::clone(&self.0)))
    }
}

/// One of a [`Count`], until it is dropped.
pub(crate) struct CountPermit(Option<Arc<AtomicUsize>>);

impl CountPermit {
    /// Goes on being counted, by somebody else.
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

/// A shard's way to the control thread.
#[derive(Clone, Debug)]
pub(crate) struct ControlHandoff {
    handed_off: mpsc::Sender<HandedOff>,
}

impl ControlHandoff {
    /// A handoff, and where those who go through it come out.
    pub(crate) fn new() -> (ControlHandoff, mpsc::Receiver<HandedOff>) {
        let (handed_off, arrivals) = mpsc::channel(HANDOFFS_MAX);
        (ControlHandoff { handed_off }, arrivals)
    }

    /// Hands a connection over.
    ///
    /// # Errors
    ///
    /// Gives it back if more are on their way than are taken in.
    pub(crate) fn transfer(&self, handed_off: HandedOff) -> Result<(), Box<HandedOff>> {
        self.handed_off.try_send(handed_off).map_err(|error| Box::new(error.into_inner()))
    }
}

/// Connections on their way to the control thread at the same time.
const HANDOFFS_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handoff_has_a_limit() {
        let (handoff, mut arrivals) = ControlHandoff::new();
        let sockets = Sockets::new(0);
        let handed_off = || {
            let socket = OwnedFd::from(std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
            let permits = SocketPermits { of_all: sockets.all.admit(usize::MAX).unwrap(), of_address: None };
            HandedOff { socket, received: BytesMut::new(), permits, is_refused: false }
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
