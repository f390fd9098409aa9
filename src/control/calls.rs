//! Bounds the calls of services under way, so that a client whose calls take long leaves room for others.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{proto::Refusal, rates::AddressBlock};

/// The calls of services under way. A clone is another handle to the same calls.
///
/// A client that has ended its side of a connection may still wait for the answer, so a call goes on and holds an HTTP
/// connection of the server, although perhaps nobody waits. All calls together have half of the HTTP connections. An
/// address may begin a call while it has fewer under way than there are places left: so the first address gets half of
/// the places, the next one half of the rest, and so on.
#[derive(Debug, Clone)]
pub(super) struct ServiceCalls(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    calls_max: usize,
    under_way: usize,
    /// The calls of each address that has some.
    of_addresses: HashMap<AddressBlock, usize>,
}

/// A call of a service, until it is dropped.
#[derive(Debug)]
pub(super) struct CallPermit {
    calls: ServiceCalls,
    address: Option<AddressBlock>,
}

/// The reason for which a call does not begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoPermit {
    /// As many calls are under way as are allowed.
    OfAll,
    /// The address has as many calls under way as there are places left.
    OfAddress,
}

impl From<NoPermit> for Refusal {
    fn from(no_permit: NoPermit) -> Refusal {
        Refusal::not_now(match no_permit {
            NoPermit::OfAll => "services answer as many requests as this server allows",
            NoPermit::OfAddress => "services answer as many requests from one address as this server allows now",
        })
    }
}

impl ServiceCalls {
    /// Returns the calls of a server that has so many HTTP connections at most.
    pub(super) fn new(connections_max: usize) -> ServiceCalls {
        let calls = ServiceCalls(Arc::default());
        calls.set_max(connections_max);
        calls
    }

    /// Sets the most calls by the most HTTP connections. Calls beyond a smaller number go on.
    pub(super) fn set_max(&self, connections_max: usize) {
        self.lock().calls_max = (connections_max / 2).max(1);
    }

    /// Begins a call for a client at one of these addresses; `None` stands for a client whose address is unknown, or
    /// is that of many clients.
    ///
    /// # Errors
    ///
    /// If there is no place for the call.
    pub(super) fn begin(&self, address: Option<AddressBlock>) -> Result<CallPermit, NoPermit> {
        let mut table = self.lock();
        let left = table.calls_max.saturating_sub(table.under_way);
        if left == 0 {
            return Err(NoPermit::OfAll);
        }
        if let Some(address) = address {
            if table.of_addresses.get(&address).is_some_and(|&own| own >= left) {
                return Err(NoPermit::OfAddress);
            }
            *table.of_addresses.entry(address).or_default() += 1;
        }
        table.under_way += 1;
        drop(table);
        Ok(CallPermit { calls: self.clone(), address })
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for CallPermit {
    fn drop(&mut self) {
        let mut table = self.calls.lock();
        table.under_way -= 1;
        if let Some(address) = self.address {
            let own = table.of_addresses.get_mut(&address).expect("a call of the address is counted");
            *own -= 1;
            if *own == 0 {
                table.of_addresses.remove(&address);
                if table.of_addresses.is_empty() {
                    // The large table of a crowd is not kept.
                    table.of_addresses.shrink_to(TABLE_KEPT);
                }
            }
        }
    }
}

/// Addresses that an empty table has room for.
const TABLE_KEPT: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> Option<AddressBlock> {
        Some(AddressBlock::of([192, 0, 2, last].into()))
    }

    /// One address has half of the places, the next one half of the rest, and there is a place for a newcomer.
    #[test]
    fn an_address_leaves_places_to_others() {
        let calls = ServiceCalls::new(16);
        let mut held = Vec::new();
        for (last, expected) in [(1, 4), (2, 2), (3, 1)] {
            let before = held.len();
            let refused = loop {
                match calls.begin(address(last)) {
                    Ok(call) => held.push(call),
                    Err(no_permit) => break no_permit,
                }
            };
            assert_eq!((held.len() - before, refused), (expected, NoPermit::OfAddress), "address {last}");
        }
        held.push(calls.begin(address(4)).expect("a place for an address that has none"));
        assert_eq!([calls.begin(address(5)).unwrap_err(), calls.begin(None).unwrap_err()], [NoPermit::OfAll; 2]);
        held.clear();
        assert!(calls.lock().of_addresses.is_empty());
        let of_many: Vec<CallPermit> = (0..8).map(|_| calls.begin(None).expect("clients without an address")).collect();
        assert_eq!((calls.begin(None).unwrap_err(), of_many.len()), (NoPermit::OfAll, 8));
    }

    #[test]
    fn a_smaller_limit_leaves_calls_as_they_are() {
        let calls = ServiceCalls::new(8);
        let two = [calls.begin(None).unwrap(), calls.begin(None).unwrap()];
        calls.set_max(2);
        assert_eq!(calls.begin(address(1)).unwrap_err(), NoPermit::OfAll);
        drop(two);
        drop(calls.begin(address(1)).expect("one call"));
        calls.set_max(1);
        drop(calls.begin(address(1)).expect("one connection has one call"));
    }
}
