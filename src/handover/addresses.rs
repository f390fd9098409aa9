//! How many sockets each peer address has, over all threads.

use std::{
    collections::{HashMap, hash_map::RandomState},
    fmt,
    hash::BuildHasher as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
};

use crate::seldom::Seldom;

/// The sockets of each network that has any, and how many one network may have.
///
/// An entry exists only while a socket of its network does, so the table is no larger than the number of sockets.
/// Locks are taken when a socket is accepted and when it ends, never for a delivery.
#[derive(Debug)]
pub(crate) struct Addresses {
    sockets_max: usize,
    hasher: RandomState,
    parts: [Mutex<HashMap<Network, usize>>; PARTS],
    /// When the log is told of a network that has as many as it may.
    pub(crate) full: Seldom,
}

impl Addresses {
    pub(crate) fn new(sockets_max: usize) -> Arc<Addresses> {
        Arc::new(Addresses {
            sockets_max,
            hasher: RandomState::new(),
            parts: Default::default(),
            full: Seldom::default(),
        })
    }

    /// Counts one more socket of the address.
    ///
    /// # Errors
    ///
    /// The network that has as many as it may.
    pub(crate) fn admit(self: &Arc<Self>, address: IpAddr) -> Result<OfAddress, Network> {
        let network = Network::of(address);
        let mut part = self.part(network).lock().unwrap_or_else(PoisonError::into_inner);
        let count = part.entry(network).or_default();
        if *count >= self.sockets_max {
            return Err(network);
        }
        *count += 1;
        drop(part);
        Ok(OfAddress { all: Arc::clone(self), network })
    }

    /// The part of the table in which the network stands. No peer can choose addresses that all stand in one.
    fn part(&self, network: Network) -> &Mutex<HashMap<Network, usize>> {
        &self.parts[self.hasher.hash_one(network) as usize % PARTS]
    }
}

/// One of the sockets of an address, until it is dropped.
pub(crate) struct OfAddress {
    all: Arc<Addresses>,
    network: Network,
}

impl Drop for OfAddress {
    fn drop(&mut self) {
        let mut part = self.all.part(self.network).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = part.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                part.remove(&self.network);
            }
        }
    }
}

impl fmt::Debug for OfAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OfAddress").field(&self.network).finish()
    }
}

/// The addresses that count as one: an IPv4 address, also where it is mapped into IPv6, or the 2^64 IPv6 addresses that
/// one subscriber of a provider usually has (RFC 6177).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Network {
    V4(Ipv4Addr),
    /// The first 64 bits.
    V6(u64),
}

impl Network {
    fn of(address: IpAddr) -> Network {
        match address.to_canonical() {
            IpAddr::V4(address) => Network::V4(address),
            IpAddr::V6(address) => Network::V6((address.to_bits() >> 64) as u64),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Network::V4(address) => address.fmt(f),
            Network::V6(bits) => write!(f, "{}/64", Ipv6Addr::from_bits(u128::from(bits) << 64)),
        }
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Parts of the table, each with a lock of its own.
const PARTS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(addresses: &Addresses) -> usize {
        addresses.parts.iter().map(|part| part.lock().unwrap().len()).sum()
    }

    #[test]
    fn each_network_has_a_limit_of_its_own() {
        let addresses = Addresses::new(2);
        let admit = |text: &str| addresses.admit(text.parse().unwrap()).map_err(|network| network.to_string());
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
        // What no socket stands behind any more is forgotten, a refused one was never there.
        drop((mapped, other, six, neighbour, again));
        assert_eq!(entries(&addresses), 0);
    }

    #[test]
    fn threads_share_one_count() {
        let addresses = Addresses::new(100);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for number in 0..2_000_u32 {
                        let address = IpAddr::from(Ipv4Addr::from_bits(number % 7));
                        drop(addresses.admit(address).expect("four threads hold at most four"));
                    }
                });
            }
        });
        assert_eq!(entries(&addresses), 0);
    }
}
