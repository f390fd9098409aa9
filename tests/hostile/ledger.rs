//! The ledger of an honest crowd: the messages of its publishers, and the check of each subscription against these
//! messages.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fmt::Write as _,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use crate::crowd::SECRET;

/// The messages of all publishers.
#[derive(Default)]
pub(crate) struct Ledger {
    sent: Mutex<Vec<Arc<Sent>>>,
    /// Publishers that have not ended.
    publishing: AtomicUsize,
    /// From then on publishers begin no further message.
    is_over: AtomicBool,
    /// All publishers have ended, so every count is final.
    is_complete: AtomicBool,
    /// The order in which each subscription has received its messages, by topic.
    orders: Mutex<Vec<(usize, Vec<Place>)>>,
}

/// A message: its publisher, and its number among the publisher's messages.
pub(crate) type Place = (u64, u64);

/// The messages of one publisher on one topic.
pub(crate) struct Sent {
    id: u64,
    topic: usize,
    begun: AtomicU64,
    /// Messages whose publisher got no answer: the server may have taken them.
    uncertain: Mutex<BTreeSet<u64>>,
}

impl Ledger {
    /// Adds a publisher. A drop of the permit ends the publisher.
    pub(crate) fn publisher(&self, topic: usize) -> (Arc<Sent>, Publishing<'_>) {
        self.publishing.fetch_add(1, Ordering::SeqCst);
        let mut all = self.sent.lock().unwrap();
        let sent = Sent { id: all.len() as u64, topic, begun: AtomicU64::new(0), uncertain: Mutex::default() };
        let sent = Arc::new(sent);
        all.push(Arc::clone(&sent));
        (sent, Publishing(self))
    }

    pub(crate) fn publishing(&self) -> usize {
        self.publishing.load(Ordering::SeqCst)
    }

    /// Ends all publishers after their next message.
    pub(crate) fn finish(&self) {
        self.is_over.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    /// Notes that no publisher is left.
    pub(crate) fn complete(&self) {
        self.is_complete.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.is_complete.load(Ordering::SeqCst)
    }

    /// Returns how many messages there are, and how many of them are uncertain.
    pub(crate) fn totals(&self) -> (u64, u64) {
        let sent = self.sent.lock().unwrap();
        let of = |sent: &Arc<Sent>| (sent.begun(), sent.uncertain.lock().unwrap().len() as u64);
        sent.iter().map(of).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }

    fn on_topic(&self, topic: usize) -> Vec<Arc<Sent>> {
        self.sent.lock().unwrap().iter().filter(|sent| sent.topic == topic).map(Arc::clone).collect()
    }

    /// Checks that each topic has one order that contains the order of each subscription. Returns the number of
    /// received messages.
    pub(crate) fn check_orders(&self) -> usize {
        let orders = self.orders.lock().unwrap();
        let topics: BTreeSet<usize> = orders.iter().map(|(topic, _)| *topic).collect();
        for topic in topics {
            let of_topic = orders.iter().filter(|(of, _)| *of == topic).map(|(_, order)| &**order);
            if let Some(cycle) = contradiction(of_topic) {
                panic!("topic {topic} has no common order of its subscribers: {cycle:?} contradict each other");
            }
        }
        orders.iter().map(|(_, order)| order.len()).sum()
    }
}

/// A permit that a publisher holds while it publishes.
pub(crate) struct Publishing<'a>(&'a Ledger);

impl Drop for Publishing<'_> {
    fn drop(&mut self) {
        self.0.publishing.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Returns some of the messages that have no common order, if there are any.
fn contradiction<'a>(orders: impl Iterator<Item = &'a [Place]>) -> Option<Vec<Place>> {
    let mut next: HashMap<Place, HashSet<Place>> = HashMap::new();
    let mut before: HashMap<Place, usize> = HashMap::new();
    for pair in orders.flat_map(|order| order.windows(2)) {
        before.entry(pair[0]).or_default();
        if next.entry(pair[0]).or_default().insert(pair[1]) {
            *before.entry(pair[1]).or_default() += 1;
        }
    }
    let mut open: Vec<Place> = before.iter().filter(|(_, count)| **count == 0).map(|(place, _)| *place).collect();
    while let Some(place) = open.pop() {
        before.remove(&place);
        for follower in next.remove(&place).unwrap_or_default() {
            let count = before.get_mut(&follower).expect("a follower has a message before it");
            *count -= 1;
            if *count == 0 {
                open.push(follower);
            }
        }
    }
    let left: Vec<Place> = before.into_keys().take(6).collect();
    (!left.is_empty()).then_some(left)
}

impl Sent {
    pub(crate) fn begun(&self) -> u64 {
        self.begun.load(Ordering::SeqCst)
    }

    /// Begins a message and returns its number.
    pub(crate) fn begin(&self) -> u64 {
        self.begun.fetch_add(1, Ordering::SeqCst)
    }

    /// Notes that the server may or may not have taken a message.
    pub(crate) fn is_uncertain(&self, number: u64) {
        self.uncertain.lock().unwrap().insert(number);
    }

    /// Returns the numbers from `begin` to `end` whose messages the server has certainly taken.
    fn certain(&self, begin: u64, end: u64) -> Vec<u64> {
        let uncertain = self.uncertain.lock().unwrap();
        (begin..end).filter(|number| !uncertain.contains(number)).collect()
    }

    /// Returns the text of a message.
    pub(crate) fn text(&self, number: u64, length: usize, is_private: bool) -> String {
        let mark = if is_private { SECRET } else { "public" };
        format!("honest {} {number} {mark} {length} {}", self.id, "x".repeat(length))
    }
}

/// One subscription, and the messages that it has received.
pub(crate) struct Watch {
    ledger: Arc<Ledger>,
    topic: usize,
    /// The client's own publisher, and whether the client gets its own messages.
    own: Option<(Arc<Sent>, bool)>,
    publishers: HashMap<u64, Arc<Sent>>,
    /// The number of each publisher's next message. The first message of a publisher may have a lower number.
    next: HashMap<u64, u64>,
    seen: HashSet<u64>,
    order: Vec<Place>,
    foreign: u64,
}

impl Watch {
    /// Begins a subscription whose opening answer has come: every message that a publisher begins from now on must
    /// come.
    pub(crate) fn begin(ledger: &Arc<Ledger>, topic: usize, own: Option<(Arc<Sent>, bool)>) -> Watch {
        let publishers: HashMap<u64, Arc<Sent>> =
            ledger.on_topic(topic).into_iter().map(|sent| (sent.id, sent)).collect();
        let next = publishers.iter().map(|(id, sent)| (*id, sent.begun())).collect();
        let ledger = Arc::clone(ledger);
        Watch { ledger, topic, own, publishers, next, seen: HashSet::new(), order: Vec::new(), foreign: 0 }
    }

    /// Checks a message that has come.
    pub(crate) fn take(&mut self, message: &str) {
        let words: Vec<&str> = message.splitn(6, ' ').collect();
        match *words {
            ["honest", id, number, mark, length, filler] => {
                let is_whole = length.parse() == Ok(filler.len()) && filler.bytes().all(|octet| octet == b'x');
                assert!(is_whole && (mark == SECRET || mark == "public"), "a part of a message: {message:?}");
                self.take_honest(id.parse().expect("a publisher"), number.parse().expect("a number"));
            }
            ["foreign", length, filler] => {
                let is_whole = length.parse() == Ok(filler.len()) && filler.bytes().all(|octet| octet == b'y');
                assert!(is_whole, "a part of a hostile client's message: {message:?}");
                self.foreign += 1;
            }
            ["end"] => {}
            _ => panic!("a message that no client may send to topic {}: {message:?}", self.topic),
        }
    }

    fn take_honest(&mut self, id: u64, number: u64) {
        if !self.publishers.contains_key(&id) {
            let known = self.ledger.on_topic(self.topic).into_iter().map(|sent| (sent.id, sent));
            self.publishers = known.collect();
        }
        let sent = self.publishers.get(&id).unwrap_or_else(|| panic!("publisher {id} is on another topic"));
        if let Some((own, has_echo)) = &self.own {
            assert!(*has_echo || own.id != id, "its own message {number} without echo");
        }
        assert!(number < sent.begun(), "message {number} of publisher {id} comes before it was sent");
        let next = self.next.entry(id).or_default();
        let is_first = self.seen.insert(id);
        let missing = sent.certain(*next, number);
        assert!(missing.is_empty(), "{missing:?} of publisher {id} are missing before {number}");
        assert!(is_first || number >= *next, "{number} of publisher {id} comes again, or late, after {}", *next - 1);
        *next = number + 1;
        self.order.push((id, number));
    }

    /// Describes the messages that have not come. All publishers must have ended.
    pub(crate) fn missing(&self) -> Option<String> {
        let mut text = String::new();
        for sent in self.ledger.on_topic(self.topic) {
            let is_owed = self.own.as_ref().is_none_or(|(own, has_echo)| *has_echo || own.id != sent.id);
            let next = self.next.get(&sent.id).copied().unwrap_or_default();
            let missing = if is_owed { sent.certain(next, sent.begun()) } else { Vec::new() };
            if !missing.is_empty() {
                let (first, last) = (missing[0], missing[missing.len() - 1]);
                write!(text, "{} of publisher {}, from {first} to {last}; ", missing.len(), sent.id).unwrap();
            }
        }
        (!text.is_empty()).then_some(text)
    }

    /// Ends the subscription.
    pub(crate) fn end(self) {
        self.ledger.orders.lock().unwrap().push((self.topic, self.order));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched(begun: u64, before: u64) -> (Arc<Sent>, Watch) {
        let ledger = Arc::new(Ledger::default());
        let (sent, _) = ledger.publisher(0);
        (0..before).for_each(|_| assert!(sent.begin() < 10));
        let watch = Watch::begin(&ledger, 0, None);
        (before..begun).for_each(|_| assert!(sent.begin() < 10));
        (sent, watch)
    }

    fn take(sent: &Sent, watch: &mut Watch, numbers: &[u64]) {
        numbers.iter().for_each(|number| watch.take(&sent.text(*number, 3, false)));
    }

    #[test]
    fn every_message_from_the_subscription_on() {
        for first in [3, 5] {
            let (sent, mut watch) = watched(8, 5);
            take(&sent, &mut watch, &(first..7).collect::<Vec<_>>());
            assert!(watch.missing().unwrap().starts_with("1 of publisher 0, from 7 to 7"));
            take(&sent, &mut watch, &[7]);
            assert_eq!(watch.missing(), None);
        }
        let (sent, mut watch) = watched(8, 5);
        sent.is_uncertain(6);
        take(&sent, &mut watch, &[5, 7]);
        assert_eq!(watch.missing(), None);
    }

    #[test]
    #[should_panic(expected = "[5] of publisher 0 are missing before 6")]
    fn a_message_after_the_subscription_is_missing() {
        let (sent, mut watch) = watched(8, 5);
        take(&sent, &mut watch, &[6]);
    }

    #[test]
    #[should_panic(expected = "[6] of publisher 0 are missing before 7")]
    fn a_message_in_between_is_missing() {
        let (sent, mut watch) = watched(8, 5);
        take(&sent, &mut watch, &[5, 7]);
    }

    #[test]
    #[should_panic(expected = "5 of publisher 0 comes again, or late, after 6")]
    fn a_message_comes_again() {
        let (sent, mut watch) = watched(8, 5);
        take(&sent, &mut watch, &[5, 6, 5]);
    }

    #[test]
    #[should_panic(expected = "a part of a hostile client")]
    fn a_message_is_cut() {
        watched(1, 0).1.take("foreign 5 yyy");
    }

    #[test]
    #[should_panic(expected = "a message that no client may send to topic")]
    fn a_message_is_forged() {
        watched(1, 0).1.take("forged");
    }

    #[test]
    #[should_panic(expected = "its own message 0 without echo")]
    fn a_message_is_the_clients_own() {
        let ledger = Arc::new(Ledger::default());
        let (sent, _) = ledger.publisher(0);
        let mut watch = Watch::begin(&ledger, 0, Some((Arc::clone(&sent), false)));
        sent.begin();
        take(&sent, &mut watch, &[0]);
    }

    #[test]
    fn orders_agree_or_not() {
        let orders: [&[Place]; 3] = [&[(0, 0), (1, 0), (0, 1)], &[(1, 0), (0, 1), (1, 1)], &[(0, 0), (1, 1)]];
        assert_eq!(contradiction(orders.into_iter()), None);
        let turned: [&[Place]; 2] = [&[(0, 0), (1, 0)], &[(1, 0), (0, 1), (0, 0)]];
        assert_eq!(contradiction(turned.into_iter()).map(|cycle| cycle.is_empty()), Some(false));
    }
}
