//! The mesh of lanes between ends: requests go to a topic's home, and deliveries come from the home.
//!
//! Each ordered pair of ends has two lanes, single producer to single consumer, lock-free. An entry that finds no room
//! waits, in order, in an overflow beside the lane. Its sender then takes on no more messages for a home that is
//! *behind*:
//!
//! - while a shard's *requests* to a home wait, the shard receives nothing from connections that publish to that home;
//! - while a shard's *deliveries* wait beyond [`MeshLimits::overflow_bytes_max`], the shard takes no requests, so the
//!   request lanes to it fill. For its own connections the shard is then a home that is behind;
//! - while the waiting requests to all homes together, or the waiting deliveries, exceed the same limit, connections
//!   that may publish to any home wait;
//! - a shard takes deliveries as soon as it has room to gather them, and a taken delivery puts nothing into a lane;
//! - while messages that an *engine* is to order wait beyond the limit, the home takes no requests but those of
//!   engines; an engine takes nothing from a home that is behind.
//!
//! Waits form a chain for each home: receive, the home's request lane, perhaps the lanes to an engine and back, the
//! home's delivery lanes, sockets. Sends to sockets never block, and deliveries wait for no request. A home takes the
//! publications that an engine has ordered even while other publications wait for the engine. So no chain has a cycle.
//! A connection may also wait until its shard has handed out the messages of its topic. This wait is for sockets only,
//! and no entry of a lane waits for a connection, so this wait closes no cycle either.

use std::sync::Arc;

use super::{
    end_role::EndRole,
    entry::{Delivery, Request},
    link::Link,
    mesh_limits::MeshLimits,
    signal::Signal,
};

/// One end of the mesh: the lanes between this end and every other end.
#[derive(Debug)]
pub struct MeshEnd {
    number: u16,
    /// The roles of all ends, by the ends' numbers.
    roles: Arc<[EndRole]>,
    /// How many ends are shards; these have the lowest numbers.
    shards: u16,
    /// The links to the other ends, by the ends' numbers. An end has no link to itself.
    links: Vec<Option<Link>>,
    signals: Arc<[Signal]>,
    /// The link whose lanes are looked at first, so that no lane is always the last.
    next: usize,
    overflow_bytes_max: usize,
    /// The weight of the requests, and of the deliveries, that wait for room in all links together.
    requests_waiting: usize,
    deliveries_waiting: usize,
    /// The home with the most requests waiting, of all homes that have had no room for a request since the last
    /// [`MeshEnd::take_behind`].
    behind: Option<u16>,
}

/// Wakes an end's thread, even if the call comes just before the thread falls asleep.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

impl MeshEnd {
    /// Connects shards, one for each `wake`.
    #[must_use]
    pub fn connect(wake: Vec<Wake>, limits: &MeshLimits) -> Vec<MeshEnd> {
        let roles = vec![EndRole::Shard; wake.len()];
        Self::connect_with(wake, &roles, limits)
    }

    /// Connects ends of these roles, each with its `wake`.
    ///
    /// # Panics
    ///
    /// If a shard comes after an end of another role, or the numbers of roles and wakes differ.
    #[must_use]
    pub fn connect_with(wake: Vec<Wake>, roles: &[EndRole], limits: &MeshLimits) -> Vec<MeshEnd> {
        let count = wake.len();
        assert!(roles.len() == count && count <= usize::from(u16::MAX), "{count} ends have {roles:?}");
        let shards = roles.iter().take_while(|&&role| role == EndRole::Shard).count();
        assert!(!roles[shards..].contains(&EndRole::Shard), "shards have the lowest numbers: {roles:?}");
        let roles: Arc<[EndRole]> = roles.into();
        let entries = limits.lane_entries(count);
        let bytes_max = limits.message_bytes_max / (2 * count * count.saturating_sub(1)).max(1);
        let signals: Arc<[Signal]> = wake.into_iter().map(Signal::new).collect();
        let mut ends: Vec<MeshEnd> = (0..count)
            .map(|number| MeshEnd {
                number: number as u16,
                roles: Arc::clone(&roles),
                shards: shards as u16,
                links: (0..count).map(|_| None).collect(),
                signals: Arc::clone(&signals),
                next: 0,
                overflow_bytes_max: limits.overflow_bytes_max,
                requests_waiting: 0,
                deliveries_waiting: 0,
                behind: None,
            })
            .collect();
        for low in 0..count {
            for high in low + 1..count {
                let (up, down) = Link::pair(entries, bytes_max);
                ends[low].links[high] = Some(up);
                ends[high].links[low] = Some(down);
            }
        }
        ends
    }

    /// Returns the end of a mesh with one shard.
    #[must_use]
    pub fn alone() -> MeshEnd {
        MeshEnd::connect(vec![Arc::new(|| {})], &MeshLimits::default()).remove(0)
    }

    /// Returns this end's number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }

    /// Returns how many ends the mesh has.
    #[must_use]
    pub fn ends(&self) -> usize {
        self.roles.len()
    }

    /// Returns how many ends are shards. The shards have the lowest numbers.
    #[must_use]
    pub fn shards(&self) -> u16 {
        self.shards
    }

    /// Returns the numbers of the other shards.
    pub fn other_shards(&self) -> impl Iterator<Item = u16> + use<> {
        let own = self.number;
        (0..self.shards).filter(move |&shard| shard != own)
    }

    /// Returns the numbers of the engines.
    pub fn engines(&self) -> impl Iterator<Item = u16> + use<> {
        let roles = Arc::clone(&self.roles);
        (0..roles.len()).filter(move |&end| roles[end] == EndRole::Engine).map(|end| end as u16)
    }

    /// Returns how many other ends there are that are no engine.
    #[must_use]
    pub fn other_publishers(&self) -> u16 {
        let own = usize::from(self.number);
        (0..self.roles.len()).filter(|&end| end != own && self.roles[end] != EndRole::Engine).count() as u16
    }

    /// Returns the role of an end.
    #[must_use]
    pub fn role(&self, end: u16) -> EndRole {
        self.roles[usize::from(end)]
    }

    /// Sends a request to another end.
    ///
    /// # Panics
    ///
    /// If `home` is this end itself.
    pub fn request(&mut self, home: u16, request: Request) {
        let link = self.links[usize::from(home)].as_mut().expect(NO_LANE);
        let waits = link.request(request);
        if waits > 0 {
            self.requests_waiting += waits;
            let most = self.behind.map_or(0, |other| self.requests_waiting_for(other));
            if self.requests_waiting_for(home) > most {
                self.behind = Some(home);
            }
        }
    }

    /// Sends a delivery to another end.
    ///
    /// # Panics
    ///
    /// If `shard` is this end itself.
    pub fn deliver(&mut self, shard: u16, delivery: Delivery) {
        let link = self.links[usize::from(shard)].as_mut().expect(NO_LANE);
        self.deliveries_waiting += link.deliver(delivery);
    }

    /// Returns whether a request to that end would go into the lane at once.
    #[must_use]
    pub fn has_room_for_requests(&self, home: u16) -> bool {
        let link = self.links[usize::from(home)].as_ref();
        link.is_none_or(Link::has_room_for_requests)
    }

    /// Takes the next delivery. The ends are served in rotation.
    pub fn next_delivery(&mut self) -> Option<Delivery> {
        self.take(Link::next_delivery).map(|(_, delivery)| delivery)
    }

    /// Takes the next request, and the number of its end. Returns `None` while deliveries wait for room beyond the
    /// limit. While requests to engines wait beyond the limit, takes only requests of engines.
    pub fn next_request(&mut self) -> Option<(u16, Request)> {
        if self.orders_wait() {
            return self.next_request_where(|mesh, end| mesh.role(end) == EndRole::Engine);
        }
        if self.deliveries_wait() { None } else { self.take(Link::next_request) }
    }

    /// Takes the next request of an end for which `may` returns `true`. Returns `None` while deliveries wait for room
    /// beyond the limit.
    pub(super) fn next_request_where(&mut self, may: impl Fn(&MeshEnd, u16) -> bool) -> Option<(u16, Request)> {
        if self.deliveries_wait() {
            return None;
        }
        let count = self.links.len();
        let from = (0..count).map(|step| (self.next + step) % count).find(|&end| {
            let has_request = self.links[end].as_ref().is_some_and(Link::has_request);
            has_request && may(self, end as u16)
        })?;
        self.next = from;
        self.take(Link::next_request)
    }

    /// Returns whether some home may be behind. A shard calls this between any two messages, so the call only compares
    /// numbers.
    #[inline]
    #[must_use]
    pub fn has_waiting(&self) -> bool {
        self.requests_waiting > 0 || self.deliveries_wait()
    }

    /// Returns whether a message for a topic of that home must wait: requests to the home wait for room, or the home is
    /// this end and too many deliveries wait.
    #[must_use]
    pub fn is_behind(&self, home: u16) -> bool {
        if home == self.number { self.deliveries_wait() } else { self.requests_waiting_for(home) > 0 }
    }

    /// Returns whether a message for a topic of any home must wait: too many requests, or too many deliveries, wait for
    /// room.
    #[must_use]
    pub fn is_congested(&self) -> bool {
        self.requests_waiting > self.overflow_bytes_max || self.deliveries_wait()
    }

    /// Takes the home with the most requests waiting, of all homes that have had no room for a request since the last
    /// call.
    pub fn take_behind(&mut self) -> Option<u16> {
        self.behind.take()
    }

    /// Sends the entries that have waited for room, and signals the other ends whose lanes have new entries.
    pub fn send_out(&mut self) {
        if !self.send_overflow() {
            // An end that makes room from here on wakes this one; the second try finds room that was made just before.
            self.wants_room();
            self.send_overflow();
        }
        for (link, signal) in self.links.iter_mut().zip(self.signals.iter()) {
            if let Some(link) = link
                && link.take_touched()
            {
                signal.arrived();
            }
        }
    }

    /// Notes that the owner has an entry for a lane without room. The owner must try once more after this call, and is
    /// woken when there is room later.
    pub(super) fn wants_room(&self) {
        self.signals[usize::from(self.number)].wants_room();
    }

    /// Returns whether there is a delivery, or a request that would be taken now. An engine takes none from a home that
    /// is behind: it sleeps until the home makes room.
    #[must_use]
    pub fn has_mail(&self) -> bool {
        let (requests, others) = (!self.deliveries_wait(), !self.orders_wait());
        let is_engine = self.role(self.number) == EndRole::Engine;
        let is_open = |end: usize| !is_engine || !self.is_behind(end as u16);
        let takes = |end: usize| requests && (others || self.roles[end] == EndRole::Engine) && is_open(end);
        let mut links = self.links.iter().enumerate().filter_map(|(end, link)| Some((end, link.as_ref()?)));
        links.any(|(end, link)| link.has_delivery() || (takes(end) && link.has_request()))
    }

    /// Returns whether there is a delivery.
    #[must_use]
    pub fn has_deliveries(&self) -> bool {
        self.links().any(Link::has_delivery)
    }

    /// Returns whether there is a request of that end, which may be taken now or later.
    #[must_use]
    pub fn has_request_of(&self, end: u16) -> bool {
        self.links[usize::from(end)].as_ref().is_some_and(Link::has_request)
    }

    /// Notes that the owner is about to sleep. The owner must ask [`MeshEnd::has_mail`] once more after this call.
    pub fn about_to_sleep(&self) {
        self.signals[usize::from(self.number)].about_to_sleep();
    }

    /// Notes that the owner is awake.
    pub fn awake(&self) {
        self.signals[usize::from(self.number)].awake();
    }

    /// Returns the memory of the deliveries that wait for room.
    #[must_use]
    pub fn overflow_bytes(&self) -> usize {
        self.deliveries_waiting
    }

    /// Returns the memory of the deliveries and requests that wait for room.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.requests_waiting + self.deliveries_waiting
    }

    /// Returns the number of entries in the fullest lane to this end.
    #[must_use]
    pub fn fullest_lane(&self) -> usize {
        self.links().map(Link::fullest_in).max().unwrap_or_default()
    }

    /// Returns the memory of the requests and deliveries that this end has sent and that were not taken.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.links().map(Link::bytes).sum()
    }

    /// Returns how many requests and deliveries have found no room in their lane so far.
    #[must_use]
    pub fn overflowed(&self) -> u64 {
        self.links().map(Link::overflowed).sum()
    }

    /// Returns whether a request waits for room.
    #[must_use]
    pub fn has_waiting_requests(&self) -> bool {
        self.requests_waiting > 0
    }

    /// Returns whether something waits for room in a lane to an end that is no shard.
    #[must_use]
    pub fn owes_external_ends(&self) -> bool {
        let external = self.links.iter().skip(self.shards().into()).flatten();
        external.map(|link| link.requests_waiting() + link.deliveries_waiting()).sum::<usize>() > 0
    }

    /// Returns whether nothing waits for room.
    #[cfg(test)]
    pub(super) fn has_sent_all(&self) -> bool {
        self.requests_waiting + self.deliveries_waiting == 0
    }

    /// Returns the weight of the requests that wait for room in the lane to that home.
    fn requests_waiting_for(&self, home: u16) -> usize {
        if self.requests_waiting == 0 {
            return 0;
        }
        self.links[usize::from(home)].as_ref().map_or(0, Link::requests_waiting)
    }

    /// Returns whether too many messages that engines are to order wait for room. The home still takes the publications
    /// that engines have ordered: an engine takes further messages of the home only when it has returned these.
    fn orders_wait(&self) -> bool {
        self.requests_waiting > self.overflow_bytes_max
            && self.engines().map(|engine| self.requests_waiting_for(engine)).sum::<usize>() > self.overflow_bytes_max
    }

    fn deliveries_wait(&self) -> bool {
        self.deliveries_waiting > self.overflow_bytes_max
    }

    /// Moves entries from the overflows into the lanes while the lanes have room. Returns whether nothing waits any
    /// more.
    fn send_overflow(&mut self) -> bool {
        if self.requests_waiting + self.deliveries_waiting == 0 {
            return true;
        }
        (self.requests_waiting, self.deliveries_waiting) = (0, 0);
        for link in self.links.iter_mut().flatten() {
            link.send_overflow();
            self.requests_waiting += link.requests_waiting();
            self.deliveries_waiting += link.deliveries_waiting();
        }
        self.requests_waiting + self.deliveries_waiting == 0
    }

    fn links(&self) -> impl Iterator<Item = &Link> {
        self.links.iter().flatten()
    }

    /// Takes an entry of the first link that has one, and returns it with the number of the other end.
    fn take<T>(&mut self, next: impl Fn(&mut Link) -> Option<T>) -> Option<(u16, T)> {
        let count = self.links.len();
        for step in 0..count {
            let from = (self.next + step) % count;
            let Some(link) = &mut self.links[from] else { continue };
            if let Some(item) = next(link) {
                self.next = from + 1;
                self.signals[from].made_room();
                return Some((from as u16, item));
            }
        }
        None
    }
}

const NO_LANE: &str = "no lane leads from an end to itself";

#[cfg(test)]
mod tests {
    use std::{
        iter,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use super::*;
    use crate::{
        hub::{
            Command, ConnectionId, DearFormats, Interest, Place, Posted, Publication, Reply, TopicName, entry::Weight,
        },
        proto::CloseCode,
    };

    fn mesh(ends: usize, limits: &MeshLimits) -> Vec<MeshEnd> {
        MeshEnd::connect((0..ends).map(|_| -> Wake { Arc::new(|| {}) }).collect(), limits)
    }

    fn tiny() -> MeshLimits {
        MeshLimits { lane_entries_max: 2, overflow_bytes_max: 10, ..MeshLimits::default() }
    }

    fn name() -> TopicName {
        TopicName::new("t").expect("a name")
    }

    fn publication(text: &str) -> Arc<Posted> {
        Arc::new(Posted { topic: name(), source: None, publication: Publication::text(text) })
    }

    fn request(text: &str) -> Request {
        Request::Publish(publication(text))
    }

    fn delivery(text: &str) -> Delivery {
        Delivery::Publication { posted: publication(text), place: Place { previous: 0, epoch: 0, offset: 0 } }
    }

    fn text(request: Option<(u16, Request)>) -> Option<(u16, String)> {
        match request? {
            (from, Request::Publish(posted)) => {
                Some((from, String::from_utf8(posted.publication.payload().into()).ok()?))
            }
            _ => None,
        }
    }

    #[test]
    fn entries_without_room_come_later_and_in_order() {
        let mut ends = mesh(2, &tiny());
        for number in 0..5 {
            ends[0].request(1, request(&number.to_string()));
        }
        assert!(ends[0].is_congested());
        let mut received = Vec::new();
        while received.len() < 5 {
            ends[0].send_out();
            received.extend(text(ends[1].next_request()));
        }
        assert_eq!(received.into_iter().map(|(_, text)| text).collect::<String>(), "01234");
        assert!(!ends[0].is_congested());
        assert!(!ends[1].has_mail());
    }

    #[test]
    fn waiting_deliveries_hold_requests_back() {
        let mut ends = mesh(3, &tiny());
        ends[1].request(0, request("later"));
        for _ in 0..4 {
            ends[0].deliver(2, delivery("a delivery"));
        }
        assert!(ends[0].overflow_bytes() > 10 && ends[0].is_congested());
        assert!(!ends[0].has_mail() && ends[0].next_request().is_none());
        assert!(ends[2].next_delivery().is_some() && ends[2].next_delivery().is_some());
        ends[0].send_out();
        assert!(!ends[0].is_congested() && ends[0].has_mail());
        assert_eq!(text(ends[0].next_request()), Some((1, "later".into())));
    }

    #[test]
    fn a_lane_is_full_at_its_share_of_bytes() {
        let long = "x".repeat(10_000);
        let limits = MeshLimits { message_bytes_max: 4 * (request(&long).weight() + 1), ..MeshLimits::default() };
        let mut ends = mesh(2, &limits);
        ends[0].request(1, request(&long));
        ends[0].request(1, request(&long));
        assert!(!ends[0].is_behind(1));
        ends[0].request(1, request("one more"));
        assert!(ends[0].is_behind(1), "two of them are more than a lane's share");
        assert!(ends[1].next_request().is_some());
        ends[0].send_out();
        assert!(!ends[0].is_behind(1));
    }

    #[test]
    fn lanes_are_looked_at_in_turn() {
        let mut ends = mesh(3, &MeshLimits::default());
        for _ in 0..2 {
            ends[0].request(2, request("a"));
            ends[1].request(2, request("b"));
        }
        let order: String = (0..4).filter_map(|_| text(ends[2].next_request())).map(|(_, text)| text).collect();
        assert!(order == "abab" || order == "baba", "{order}");
    }

    #[test]
    fn only_sleeping_ends_are_woken() {
        let woken = Arc::new(AtomicUsize::new(0));
        let wake: Vec<Wake> = (0..2)
            .map(|_| -> Wake {
                let woken = Arc::clone(&woken);
                Arc::new(move || {
                    woken.fetch_add(1, Ordering::Relaxed);
                })
            })
            .collect();
        let mut ends = MeshEnd::connect(wake, &tiny());
        let count = || woken.load(Ordering::Relaxed);
        ends[0].request(1, request("a"));
        ends[0].send_out();
        assert_eq!(count(), 0, "no end sleeps");
        ends[1].about_to_sleep();
        ends[0].send_out();
        assert_eq!(count(), 0, "nothing new");
        ends[0].request(1, request("b"));
        ends[0].send_out();
        ends[0].send_out();
        assert_eq!(count(), 1);
        ends[0].request(1, request("no room"));
        ends[0].send_out();
        assert!(ends[1].next_request().is_some());
        assert_eq!(count(), 2, "an end that waits for room is woken when there is some");
        assert!(ends[1].next_request().is_some());
        assert_eq!(count(), 2);
    }

    /// A shard that ends before the others, as in a drain, takes nothing more.
    #[test]
    fn an_end_that_is_gone_disturbs_no_other() {
        let mut ends = mesh(3, &tiny());
        ends[0].request(1, request("before"));
        ends[1].request(0, request("its last"));
        drop(ends.remove(1));
        for _ in 0..5 {
            ends[0].request(1, request("after"));
            ends[0].send_out();
        }
        assert!(ends[0].is_congested());
        assert_eq!(text(ends[0].next_request()), Some((1, "its last".into())));
        ends[0].request(2, request("to another"));
        ends[0].send_out();
        assert_eq!(text(ends[1].next_request()), Some((0, "to another".into())));
    }

    /// An interest that is announced again and again makes acknowledgements without messages; they count as well.
    #[test]
    fn waiting_acknowledgements_hold_requests_back() {
        let mut ends = mesh(2, &tiny());
        ends[1].request(
            0,
            Request::Interest {
                topic: name(),
                number: 9,
                interest: Interest::Messages { dear: DearFormats::default() },
            },
        );
        for number in 0..4 {
            ends[0].deliver(1, Delivery::Acknowledged { topic: name(), number, end: None });
        }
        assert!(ends[0].is_congested() && ends[0].next_request().is_none());
    }

    /// The limits hold for the sums over all lanes.
    #[test]
    fn the_sums_are_those_of_all_lanes() {
        let mut ends = mesh(3, &MeshLimits { overflow_bytes_max: 1_000, ..tiny() });
        let check = |end: &MeshEnd| {
            let requests: usize = end.links().map(Link::requests_waiting).sum();
            let deliveries: usize = end.links().map(Link::deliveries_waiting).sum();
            assert_eq!((end.requests_waiting, end.deliveries_waiting), (requests, deliveries));
            assert_eq!(end.has_waiting(), requests > 0 || deliveries > 1_000);
            assert_eq!(end.is_congested(), requests > 1_000 || deliveries > 1_000);
            let waiting = |home: usize| end.links[home].as_ref().is_some_and(|link| link.requests_waiting() > 0);
            assert_eq!([0, 1, 2].map(|home| end.is_behind(home)), [deliveries > 1_000, waiting(1), waiting(2)]);
        };
        for round in 0..200_usize {
            match round * 7 % 5 {
                0 => ends[0].request(1 + (round % 2) as u16, request("a request")),
                1 => ends[0].deliver(1 + (round % 2) as u16, delivery(&"x".repeat(round))),
                2 => ends[0].send_out(),
                _ => drop((ends[1 + round % 2].next_request(), ends[1 + round % 2].next_delivery())),
            }
            check(&ends[0]);
        }
        for _ in 0..100 {
            (1..3).for_each(|end| while ends[end].next_request().is_some() || ends[end].next_delivery().is_some() {});
            ends[0].send_out();
            check(&ends[0]);
        }
        assert!(ends[0].has_sent_all() && !ends[0].is_congested());
    }

    /// An entry is charged in addition to its message, so that a limit in bytes limits the number of empty messages
    /// too.
    #[test]
    fn an_entry_weighs_its_own_size() {
        let mut ends = mesh(2, &MeshLimits { overflow_bytes_max: 64 << 10, ..tiny() });
        let mut count = 0;
        while !ends[0].is_congested() {
            ends[0].deliver(1, delivery(""));
            count += 1;
        }
        assert!((100..500).contains(&count), "{count} empty messages are charged 64 KiB");
        for entry in [
            Request::Interest {
                topic: name(),
                number: 1,
                interest: Interest::Messages { dear: DearFormats::default() },
            },
            Request::Command { command: Box::new(Command::List), ticket: 1 },
            Request::Mark { id: ConnectionId::new(0, 0, 0) },
        ] {
            assert!(entry.weight() >= size_of::<Request>());
        }
        assert!(Delivery::Mark { id: ConnectionId::new(0, 0, 0) }.weight() >= size_of::<Delivery>());
        let close = |reason: &str| {
            let command =
                Command::Close { id: ConnectionId::new(0, 0, 0), code: CloseCode::NORMAL, reason: reason.into() };
            Request::Command { command: Box::new(command), ticket: 1 }.weight()
        };
        assert_eq!(close("a reason") - close(""), 8);
        let list = |count| {
            let ids = iter::repeat_n(ConnectionId::new(0, 0, 0), count).collect();
            Delivery::Reply { ticket: 1, reply: Reply::Connections(ids) }.weight()
        };
        assert_eq!(list(1_000) - list(0), 1_000 * size_of::<ConnectionId>());
    }

    /// The memory for many waiting entries is freed when they have left.
    #[test]
    fn an_overflow_that_has_emptied_is_small() {
        let mut ends = mesh(2, &tiny());
        let most = |ends: &[MeshEnd]| ends[0].links().map(Link::deliveries_capacity).max();
        (0..10_000).for_each(|_| ends[0].deliver(1, delivery("")));
        assert!(most(&ends) >= Some(9_000));
        while !ends[0].has_sent_all() {
            assert!(ends[1].next_delivery().is_some());
            ends[0].send_out();
        }
        assert!(most(&ends) <= Some(64), "{:?}", most(&ends));
    }
}
