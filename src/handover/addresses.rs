//! Counts the sockets of each peer address over all threads, and chooses the one that gives way to a new one.

use std::{
    collections::{HashMap, hash_map::RandomState},
    fmt,
    hash::BuildHasher as _,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::Waker,
    time::Instant,
};

use tokio::net::TcpStream;

use super::IdleConnection;
use crate::{log_throttle::LogThrottle, rates::AddressBlock};

/// The sockets of each network that has any, and the most sockets of one network.
///
/// An entry exists only while its network has a socket, so the table has at most as many entries as there are sockets.
/// Locks are taken when a socket is accepted, when it ends, and when a connection that speaks HTTP becomes idle or
/// busy; never for a delivery.
#[derive(Debug)]
pub(crate) struct Addresses {
    sockets_max: AtomicUsize,
    hasher: RandomState,
    stripes: [Mutex<Stripe>; STRIPES],
    /// The throttle of warnings that a network has as many sockets as it may.
    full: LogThrottle,
}

#[derive(Debug, Default)]
struct Stripe {
    networks: HashMap<AddressBlock, NetworkSockets>,
    /// The number of times that a connection has become idle.
    idle_count: u64,
}

/// The sockets of one network.
#[derive(Debug, Default)]
struct NetworkSockets {
    count: usize,
    /// The sockets that speak HTTP and are idle, the one that has been idle longest first.
    idle: Vec<Idle>,
}

/// A socket that speaks HTTP and is idle.
#[derive(Debug)]
struct Idle {
    /// The [`Stripe::idle_count`] when the socket became idle.
    since: u64,
    connection: IdleConnection,
    /// Whether the socket had unread input when it was last looked at.
    has_input: bool,
}

impl Addresses {
    pub(crate) fn new(sockets_max: usize) -> Arc<Addresses> {
        Arc::new(Addresses {
            sockets_max: AtomicUsize::new(sockets_max),
            hasher: RandomState::new(),
            stripes: Default::default(),
            full: LogThrottle::of_limit(),
        })
    }

    /// Sets the most sockets of one network. A network that has more keeps them.
    pub(crate) fn set_max(&self, sockets_max: usize) {
        self.sockets_max.store(sockets_max, Ordering::Relaxed);
    }

    /// Counts one more socket of the address. If there are as many as allowed, the connection that has been idle
    /// longest and has no unread input gives way, and `gave_way` is called.
    ///
    /// # Errors
    ///
    /// The network of the address, if it has reached the limit and no connection gives way. At most
    /// [`IdleConnection::LOOKS_MAX`] idle ones are looked at.
    pub(crate) fn admit(
        self: &Arc<Self>,
        address: IpAddr,
        gave_way: impl FnOnce(),
    ) -> Result<AddressPermit, AddressBlock> {
        let network = AddressBlock::of(address);
        let mut stripe = self.stripe(network);
        let sockets = stripe.networks.entry(network).or_default();
        let mut gives_way = None;
        // Relaxed: a reload sets the number, and no other memory depends on it.
        if sockets.count < self.sockets_max.load(Ordering::Relaxed) {
            sockets.count += 1;
        } else {
            let at = sockets.longest_idle().ok_or(network)?;
            gives_way = Some(sockets.idle.remove(at).connection);
        }
        drop(stripe);
        if let Some(connection) = gives_way {
            connection.wake();
            gave_way();
        }
        Ok(AddressPermit { all: Arc::clone(self), network, idle_since: None, connection: None })
    }

    /// Logs that a network has as many sockets as it may, unless a line about it was written a short time before.
    pub(crate) fn warn_of(&self, address: AddressBlock) {
        if let Some(suppressed) = self.full.allow(Instant::now()) {
            tracing::warn!(
                limit = self.sockets_max.load(Ordering::Relaxed),
                suppressed,
                %address,
                "an address has as many connections as --max-connections-per-address allows: further ones are refused"
            );
        }
    }

    /// Returns the stripe of the table in which the network stands. No peer can choose addresses that are all in one
    /// stripe.
    fn stripe(&self, network: AddressBlock) -> MutexGuard<'_, Stripe> {
        let stripe = &self.stripes[self.hasher.hash_one(network) as usize % STRIPES];
        stripe.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts one of the sockets of an address until it is dropped or has given way.
pub(crate) struct AddressPermit {
    all: Arc<Addresses>,
    network: AddressBlock,
    /// The [`Stripe::idle_count`] when the socket became idle; `None` while it is busy. It stays set if the socket has
    /// given way.
    idle_since: Option<u64>,
    /// The connection, while it is busy again after it has been idle.
    connection: Option<IdleConnection>,
}

impl AddressPermit {
    /// Marks the socket as idle; repeated calls keep its age. Returns whether the permit still holds; if not, the
    /// connection has to end.
    pub(crate) fn set_idle(&mut self, stream: &Arc<TcpStream>, waker: &Waker) -> bool {
        let mut stripe = self.all.stripe(self.network);
        let next = stripe.idle_count;
        let Some(sockets) = stripe.networks.get_mut(&self.network) else { return false };
        match self.idle_since.map(|since| sockets.find_idle(since)) {
            Some(Some(at)) => {
                sockets.idle[at].connection.set_waker(waker);
                sockets.idle[at].has_input = false;
            }
            Some(None) => return false,
            None => {
                let connection = IdleConnection::renewed(self.connection.take(), stream, waker);
                sockets.idle.push(Idle { since: next, connection, has_input: false });
                self.idle_since = Some(next);
                stripe.idle_count += 1;
            }
        }
        true
    }

    /// Returns whether the socket has not given way.
    #[cfg(test)]
    pub(crate) fn is_held(&self) -> bool {
        let Some(since) = self.idle_since else { return true };
        let stripe = self.all.stripe(self.network);
        stripe.networks.get(&self.network).is_some_and(|sockets| sockets.find_idle(since).is_some())
    }

    /// Marks the socket as busy. Returns whether the permit still holds; if not, the connection has to end.
    pub(crate) fn set_busy(&mut self) -> bool {
        let Some(since) = self.idle_since else { return true };
        let mut stripe = self.all.stripe(self.network);
        let sockets = stripe.networks.get_mut(&self.network);
        let connection = sockets.and_then(|sockets| sockets.find_idle(since).map(|at| sockets.idle.remove(at)));
        drop(stripe);
        self.connection = connection.map(|idle| idle.connection);
        let is_held = self.connection.is_some();
        if is_held {
            self.idle_since = None;
        }
        is_held
    }

    /// Returns the permit of a busy connection without the waker of the task that served the connection. A waker would
    /// keep the memory of that task.
    pub(crate) fn without_connection(mut self) -> AddressPermit {
        self.connection = None;
        self
    }
}

impl NetworkSockets {
    fn find_idle(&self, since: u64) -> Option<usize> {
        self.idle.binary_search_by_key(&since, |idle| idle.since).ok()
    }

    /// Returns the index of the socket that has been idle longest and has no unread input. Looks at
    /// [`IdleConnection::LOOKS_MAX`] sockets at most, and at none in which an earlier call has found input: each look
    /// is a system call under the lock.
    fn longest_idle(&mut self) -> Option<usize> {
        let unseen = self.idle.iter_mut().enumerate().filter(|(_, idle)| !idle.has_input);
        for (at, idle) in unseen.take(IdleConnection::LOOKS_MAX) {
            idle.has_input = idle.connection.has_input();
            if !idle.has_input {
                return Some(at);
            }
        }
        None
    }
}

impl Drop for AddressPermit {
    fn drop(&mut self) {
        // A socket that has given way has nothing to give back.
        if !self.set_busy() {
            return;
        }
        let mut stripe = self.all.stripe(self.network);
        if let Some(sockets) = stripe.networks.get_mut(&self.network) {
            sockets.count -= 1;
            if sockets.count == 0 {
                stripe.networks.remove(&self.network);
            }
        }
    }
}

impl fmt::Debug for AddressPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AddressPermit").field(&self.network).finish()
    }
}

/// The stripes of the table, each with its own lock.
const STRIPES: usize = 16;

#[cfg(test)]
mod tests {
    use std::{io::Write as _, net::Ipv4Addr, task::Wake};

    use super::{
        super::testing::{pair, run},
        *,
    };

    struct Task;

    impl Wake for Task {
        fn wake(self: Arc<Self>) {}
    }

    fn entries(addresses: &Addresses) -> usize {
        addresses.stripes.iter().map(|stripe| stripe.lock().unwrap().networks.len()).sum()
    }

    #[test]
    fn a_smaller_limit_leaves_sockets_as_they_are() {
        let addresses = Addresses::new(2);
        let admit = || addresses.admit("192.0.2.1".parse().unwrap(), || panic!("none is idle"));
        let two = [admit().unwrap(), admit().unwrap()];
        addresses.set_max(1);
        let [one, other] = two;
        drop(one);
        assert!(admit().is_err());
        addresses.set_max(3);
        let further = [admit().unwrap(), admit().unwrap()];
        assert!(admit().is_err());
        drop((other, further));
        assert_eq!(entries(&addresses), 0);
    }

    #[test]
    fn each_network_has_a_limit_of_its_own() {
        let addresses = Addresses::new(2);
        let admit = |text: &str| {
            let address = text.parse().unwrap();
            addresses.admit(address, || panic!("none is idle")).map_err(|network| network.to_string())
        };
        let one = admit("192.0.2.1").unwrap();
        let mapped = admit("::ffff:192.0.2.1").unwrap();
        assert_eq!(admit("192.0.2.1").unwrap_err(), "192.0.2.1");
        let other = admit("192.0.2.2").unwrap();
        let six = [admit("2001:db8:0:1::1").unwrap(), admit("2001:db8:0:1:ffff::2").unwrap()];
        assert_eq!(admit("2001:db8:0:1::3").unwrap_err(), "2001:db8:0:1::/64");
        let neighbour = admit("2001:db8:0:2::3").unwrap();
        drop(one);
        let again = admit("::ffff:192.0.2.1").unwrap();
        assert!(admit("::ffff:192.0.2.1").is_err());
        assert_eq!(entries(&addresses), 4);
        // The entry of a network without sockets is removed, and a refused socket never made one.
        drop((mapped, other, six, neighbour, again));
        assert_eq!(entries(&addresses), 0);
    }

    /// An idle socket gives way once, and gives nothing back then; one that is busy again keeps its permit.
    #[test]
    fn the_longest_idle_socket_gives_way() {
        run(|listener| {
            let (stream, mut peer) = pair(listener);
            let addresses = Addresses::new(3);
            let address = IpAddr::from([192, 0, 2, 1]);
            let admit = || addresses.admit(address, || {});
            let mut held: Vec<AddressPermit> = (0..3).map(|_| admit().unwrap()).collect();
            for at in [1, 0, 2, 1] {
                assert!(held[at].set_idle(&stream, Waker::noop()));
            }
            assert!(held[0].set_busy());
            let first = admit().expect("the second is idle");
            let held_still = |held: &[AddressPermit]| held.iter().map(AddressPermit::is_held).collect::<Vec<_>>();
            assert_eq!(held_still(&held), [true, false, true]);
            assert!(!held[1].set_idle(&stream, Waker::noop()) && !held[1].set_busy());
            let second = admit().expect("the third is idle");
            assert_eq!(held_still(&held), [true, false, false]);
            assert!(admit().is_err(), "the first is busy");
            assert!(addresses.admit([192, 0, 2, 2].into(), || panic!("it has room")).is_ok());
            // A socket that has given way has nothing to give back.
            held.drain(1..);
            assert!(admit().is_err());
            assert!(held[0].set_idle(&stream, Waker::noop()));
            // Bytes that have arrived and were not read yet are a request.
            peer.write_all(b"G").unwrap();
            while !super::super::has_input(&stream) {
                std::thread::yield_now();
            }
            assert!(admit().is_err());
            drop((held, first, second));
            assert_eq!(entries(&addresses), 0);
        });
    }

    /// A busy permit keeps the waker for the next time that it is idle, until it goes on without its connection.
    #[test]
    fn a_permit_without_its_connection_keeps_no_waker() {
        run(|listener| {
            let (stream, _peer) = pair(listener);
            let task = Arc::new(Task);
            let addresses = Addresses::new(1);
            let mut permit = addresses.admit([192, 0, 2, 1].into(), || {}).unwrap();
            assert!(permit.set_idle(&stream, &Waker::from(Arc::clone(&task))));
            assert!(permit.set_busy());
            assert_eq!((Arc::strong_count(&task), Arc::weak_count(&stream)), (2, 1));
            let permit = permit.without_connection();
            assert_eq!((Arc::strong_count(&task), Arc::weak_count(&stream)), (1, 0));
            assert!(permit.is_held() && addresses.admit([192, 0, 2, 1].into(), || {}).is_err());
            drop(permit);
            assert_eq!(entries(&addresses), 0);
        });
    }

    /// More idle sockets have unread input than one new socket may have looked at. The next new socket does not look at
    /// the same ones again.
    #[test]
    fn a_new_socket_looks_at_so_many_idle_ones() {
        run(|listener| {
            let ((asking, mut peer), (silent, _silent_peer)) = (pair(listener), pair(listener));
            peer.write_all(b"G").unwrap();
            while !super::super::has_input(&asking) {
                std::thread::yield_now();
            }
            let addresses = Addresses::new(IdleConnection::LOOKS_MAX + 2);
            let admit = || addresses.admit([192, 0, 2, 1].into(), || {});
            let mut held: Vec<AddressPermit> = (0..IdleConnection::LOOKS_MAX + 2).map(|_| admit().unwrap()).collect();
            for (at, permit) in held.iter_mut().enumerate() {
                assert!(
                    permit.set_idle(if at <= IdleConnection::LOOKS_MAX { &asking } else { &silent }, Waker::noop())
                );
            }
            assert!(admit().is_err(), "the last one is not looked at");
            let new = admit().expect("the last one is idle");
            assert_eq!(held.iter().position(|permit| !permit.is_held()), Some(IdleConnection::LOOKS_MAX + 1));
            // A socket that becomes idle again may give way again.
            assert_eq!(rustix::io::read(&*asking, &mut [0; 8]), Ok(1));
            assert!(held[1].set_idle(&asking, Waker::noop()));
            let newer = admit().expect("the second one has no input any more");
            assert!(held[0].is_held() && !held[1].is_held());
            drop((held, new, newer));
            assert_eq!(entries(&addresses), 0);
        });
    }

    #[test]
    fn threads_share_one_count() {
        let addresses = Addresses::new(100);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for number in 0..2_000_u32 {
                        let address = IpAddr::from(Ipv4Addr::from_bits(number % 7));
                        drop(addresses.admit(address, || {}).expect("four threads hold at most four"));
                    }
                });
            }
        });
        assert_eq!(entries(&addresses), 0);
    }
}
