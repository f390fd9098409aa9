//! The places of requests. The parties for whom requests are sent take turns.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use crate::rates::{AddressBlock, NetworkBlock};

/// The party for whom a request is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Party {
    /// The server itself, or its embedder.
    Server,
    /// The clients of an address, or of a /64 of IPv6. `None` stands for clients without an address.
    Client(Option<AddressBlock>),
}

/// The parties that have one turn and one share of the places together: the server, or the clients of a network. `None`
/// stands for clients without an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Group {
    Server,
    Network(Option<NetworkBlock>),
}

impl Party {
    fn group(self) -> Group {
        match self {
            Party::Server => Group::Server,
            Party::Client(address) => Group::Network(address.map(NetworkBlock::of)),
        }
    }
}

/// Room for a number of requests, of which a smaller number may be under way.
///
/// When a request ends, the next one to be under way is the first one of the party whose turn it is. After its turn, a
/// party comes after all others that wait. The clients of a network have one turn, which they take one after the other.
/// So a request waits for one request of each other network, however many addresses and requests these have. A network
/// has at most as many places as are left, so that several networks leave places for others too. Clients leave some
/// places for the server.
#[derive(Clone)]
pub(super) struct Room(Arc<Mutex<State>>);

struct State {
    /// The places that are left.
    free: usize,
    /// How many more requests may be under way. It is 0 while a request waits.
    idle: usize,
    /// The places that clients leave for the server.
    of_server: usize,
    /// The groups that have places.
    groups: HashMap<Group, Holding>,
    /// The groups with requests that wait, the next one first.
    turns: VecDeque<Group>,
    /// The number of the next place.
    next: u64,
}

/// The places of a group.
#[derive(Default)]
struct Holding {
    count: usize,
    /// The requests that wait, by the numbers of their places, of each party that has some.
    waiting: HashMap<Party, BTreeMap<u64, oneshot::Sender<()>>>,
    /// These parties, the next one first.
    turns: VecDeque<Party>,
}

/// The place of a request in its room, until it is dropped.
pub(super) struct Place {
    room: Room,
    party: Party,
    number: u64,
    /// Resolves when the request may be under way.
    begun: oneshot::Receiver<()>,
}

impl Room {
    /// Returns room for `all` requests, of which `in_flight` may be under way. Clients leave `of_server` places for the
    /// server.
    pub(super) fn new(all: usize, in_flight: usize, of_server: usize) -> Room {
        let (groups, turns) = (HashMap::new(), VecDeque::new());
        Room(Arc::new(Mutex::new(State { free: all, idle: in_flight, of_server, groups, turns, next: 0 })))
    }

    /// Takes a place for a request; `None` if there is none for this party.
    pub(super) fn take(&self, party: Party) -> Option<Place> {
        let mut state = self.lock();
        let group = party.group();
        let count = state.groups.get(&group).map_or(0, |holding| holding.count);
        let is_full = match group {
            Group::Server => state.free == 0,
            Group::Network(_) => count >= state.free.saturating_sub(state.of_server),
        };
        if is_full {
            return None;
        }
        let (begin, begun) = oneshot::channel();
        let number = state.next;
        state.next += 1;
        state.free -= 1;
        let is_idle = state.idle > 0;
        let holding = state.groups.entry(group).or_default();
        holding.count += 1;
        if is_idle {
            // The receiver is there.
            _ = begin.send(());
            state.idle -= 1;
        } else {
            let is_first = holding.turns.is_empty();
            holding.wait(party, number, begin);
            if is_first {
                state.turns.push_back(group);
            }
        }
        Some(Place { room: self.clone(), party, number, begun })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No call panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Gives a place back: of a request that has waited in vain, or that was under way.
    fn give_back(&mut self, party: Party, number: u64) {
        self.free += 1;
        let group = party.group();
        let Some(holding) = self.groups.get_mut(&group) else { return };
        holding.count -= 1;
        let has_waited = holding.forget(party, number);
        if has_waited && holding.turns.is_empty() {
            self.turns.retain(|other| *other != group);
        }
        if holding.count == 0 {
            self.groups.remove(&group);
        }
        if !has_waited {
            self.idle += 1;
            self.begin_next();
        }
    }

    /// Lets the next request be under way, if one waits.
    fn begin_next(&mut self) {
        let Some(group) = self.turns.pop_front() else { return };
        let Some(holding) = self.groups.get_mut(&group) else { return };
        let Some(begin) = holding.next() else { return };
        if !holding.turns.is_empty() {
            self.turns.push_back(group);
        }
        // The receiver is there: a place drops it last, after `give_back` has removed the sender.
        _ = begin.send(());
        self.idle -= 1;
    }
}

impl Holding {
    /// Adds a request that waits.
    fn wait(&mut self, party: Party, number: u64, begin: oneshot::Sender<()>) {
        let of_party = self.waiting.entry(party).or_default();
        if of_party.is_empty() {
            self.turns.push_back(party);
        }
        of_party.insert(number, begin);
    }

    /// Removes a request that waits in vain. Returns whether it has waited.
    fn forget(&mut self, party: Party, number: u64) -> bool {
        let Some(of_party) = self.waiting.get_mut(&party) else { return false };
        let has_waited = of_party.remove(&number).is_some();
        if of_party.is_empty() {
            self.waiting.remove(&party);
            self.turns.retain(|other| *other != party);
        }
        has_waited
    }

    /// Removes the next request that waits, if there is one.
    fn next(&mut self) -> Option<oneshot::Sender<()>> {
        let party = self.turns.pop_front()?;
        let of_party = self.waiting.get_mut(&party)?;
        let (_, begin) = of_party.pop_first()?;
        if of_party.is_empty() {
            self.waiting.remove(&party);
        } else {
            self.turns.push_back(party);
        }
        Some(begin)
    }
}

impl Place {
    /// Waits until the request may be under way.
    pub(super) async fn begin(&mut self) {
        // The room keeps the sender until it has sent, or as long as the place lives.
        drop((&mut self.begun).await);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.room.lock().give_back(self.party, self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(number: u32) -> Party {
        Party::Client(Some(AddressBlock::of(std::net::Ipv4Addr::from_bits(number).into())))
    }

    /// Returns whether the request of a place may be under way. It is asked once for each place that has begun.
    fn has_begun(place: &mut Place) -> bool {
        place.begun.try_recv().is_ok()
    }

    /// Returns the parties of the places in the order in which they begin, when one place after the other is dropped.
    fn order(mut under_way: Vec<Place>, mut waiting: Vec<Place>) -> Vec<Party> {
        let mut order = Vec::new();
        while !waiting.is_empty() {
            drop(under_way.remove(0));
            let begun = waiting.iter_mut().position(has_begun).expect("the next request begins");
            order.push(waiting[begun].party);
            under_way.push(waiting.remove(begun));
        }
        order
    }

    #[test]
    fn a_client_with_many_requests_lets_others_go_first() {
        let room = Room::new(100, 4, 0);
        let mut under_way: Vec<_> = (0..4).map(|_| room.take(client(1)).unwrap()).collect();
        assert!(under_way.iter_mut().all(has_begun));
        let mut waiting: Vec<_> = (0..40).map(|_| room.take(client(1)).unwrap()).collect();
        waiting.extend([2, 3, 2].map(|number| room.take(client(number)).unwrap()));
        waiting.push(room.take(Party::Server).unwrap());
        assert!(!waiting.iter_mut().any(has_begun));
        let order = order(under_way, waiting);
        let expected = [client(1), client(2), client(3), Party::Server, client(1), client(2), client(1), client(1)];
        assert_eq!(order[..8], expected);
        let state = room.lock();
        assert_eq!((state.free, state.idle, state.groups.len(), state.turns.len()), (100, 4, 0, 0));
    }

    /// Requests that wait in vain, among them the only one of a party, leave the turns of the others as they are.
    #[test]
    fn a_request_that_waits_in_vain_is_forgotten() {
        let room = Room::new(100, 1, 0);
        let under_way = vec![room.take(client(1)).unwrap()];
        let [first, second] = [1, 1].map(|number| room.take(client(number)).unwrap());
        let only = room.take(client(2)).unwrap();
        let waiting = vec![room.take(client(1)).unwrap(), room.take(client(3)).unwrap()];
        drop((only, first, second));
        assert_eq!(order(under_way, waiting), [client(1), client(3)]);
        let state = room.lock();
        assert_eq!((state.free, state.idle, state.groups.len(), state.turns.len()), (100, 1, 0, 0));
    }

    /// A place that has begun, and that nobody has waited for any more, is given to the next request.
    #[test]
    fn a_place_that_nobody_waits_for_any_more() {
        let room = Room::new(100, 1, 0);
        let first = room.take(client(1)).unwrap();
        let (second, mut third) = (room.take(client(2)).unwrap(), room.take(client(3)).unwrap());
        drop(first);
        assert!(!has_begun(&mut third));
        drop(second);
        assert!(has_begun(&mut third));
    }

    /// A client of this /64 of a site, which has a /48.
    fn of_site(subnet: u16) -> Party {
        Party::Client(Some(AddressBlock::of(std::net::Ipv6Addr::new(0x2001, 0xdb8, 1, subnet, 0, 0, 0, 1).into())))
    }

    /// A site has one turn, however many addresses it has. They take it one after the other.
    #[test]
    fn the_addresses_of_a_network_share_its_turn() {
        let room = Room::new(100, 1, 0);
        let under_way = vec![room.take(of_site(0)).unwrap()];
        let waiting = [1, 1, 2, 2, 3, 3].map(of_site).into_iter();
        let waiting = waiting.chain([client(9), client(9), Party::Server]);
        let order = order(under_way, waiting.map(|party| room.take(party).unwrap()).collect());
        let (of_server, other) = (Party::Server, client(9));
        let [first, second, third] = [1, 2, 3].map(of_site);
        assert_eq!(order, [first, other, of_server, second, other, third, first, second, third]);
        let state = room.lock();
        assert_eq!((state.free, state.idle, state.groups.len(), state.turns.len()), (100, 1, 0, 0));
    }

    /// A site has one share of the places. Clients leave some for the server.
    #[test]
    fn the_addresses_of_a_network_share_its_places() {
        let room = Room::new(100, 1, 4);
        let of_one_site: Vec<_> = (0..).map_while(|subnet| room.take(of_site(subnet))).collect();
        assert_eq!(of_one_site.len(), 48);
        let of_others: Vec<_> = (0..).map_while(|number| room.take(client(number))).collect();
        let of_server: Vec<_> = std::iter::from_fn(|| room.take(Party::Server)).collect();
        assert_eq!((of_others.len(), of_server.len()), (48, 4));
        drop(of_server);
        assert!(room.take(client(99)).is_none());
        drop(of_one_site);
        assert!(room.take(of_site(7)).is_some());
    }

    /// Clients leave as many places as each of them has. The server's own requests may take all.
    #[test]
    fn clients_leave_places_for_others() {
        let room = Room::new(100, 1, 0);
        let take_all = |number| std::iter::from_fn(|| room.take(client(number))).collect::<Vec<_>>();
        let places: Vec<_> = (0..4).map(take_all).collect();
        assert_eq!(places.iter().map(Vec::len).collect::<Vec<_>>(), [50, 25, 13, 6]);
        assert!(room.take(client(9)).is_some());
        let own: Vec<_> = std::iter::from_fn(|| room.take(Party::Server)).collect();
        assert_eq!(own.len(), 6);
        assert!(room.take(client(9)).is_none());
        drop(places);
        assert!(room.take(client(9)).is_some());
    }
}
