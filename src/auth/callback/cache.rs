//! The answers that are kept, and the questions under way.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{breaker::Asker, question::Key};

/// The answers to questions, by the hashes of these, and the questions that are being asked.
///
/// When all answers together weigh more than the limit, the one goes first that was not used for the longest time. But
/// if the answers of some clients weigh more than a client's share, it is one of the client with the most of them. So a
/// client with many questions displaces its own answers, and not those of others.
#[derive(Debug)]
pub(super) struct Cache<T> {
    answers: HashMap<Key, Kept<T>>,
    /// The answers in the order of their last uses.
    order: BTreeMap<u64, Key>,
    uses: u64,
    bytes: usize,
    bytes_max: usize,
    /// The answers of each client that has any.
    shares: HashMap<Asker, Share>,
    /// The clients whose answers weigh more than a client's share, fewer than [`SHARES`].
    heavy: Vec<Asker>,
    flights: HashMap<Key, Flight<T>>,
}

/// The outcome of a question that is being asked, once it is there.
pub(super) type Flight<T> = watch::Receiver<Option<T>>;

#[derive(Debug)]
struct Kept<T> {
    answer: T,
    bytes: usize,
    /// When the answer is too old for a request.
    stale: Instant,
    /// When the answer is too old even for a request that the application does not answer.
    ends: Instant,
    used: u64,
    /// The client whose request has asked.
    asker: Asker,
}

/// The answers to one client's questions.
#[derive(Debug, Default)]
struct Share {
    bytes: usize,
    /// In the order of their last uses.
    order: BTreeMap<u64, Key>,
}

/// What is known of a question.
#[derive(Debug)]
pub(super) enum Found<T> {
    /// The answer.
    Answer(T),
    /// The question is being asked.
    Flight(Flight<T>),
    /// There is no answer; but perhaps an earlier one, which is too old.
    Nothing(Option<T>),
}

impl<T: Clone> Cache<T> {
    pub(super) fn new(bytes_max: usize) -> Cache<T> {
        let (answers, order, shares, flights) = (HashMap::new(), BTreeMap::new(), HashMap::new(), HashMap::new());
        Cache { answers, order, uses: 0, bytes: 0, bytes_max, shares, heavy: Vec::new(), flights }
    }

    /// Returns the bytes of all answers.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns what is known of a question.
    pub(super) fn find(&mut self, key: &Key, now: Instant) -> Found<T> {
        let earlier = match self.answers.get(key) {
            Some(kept) if now < kept.ends => Some((kept.answer.clone(), now < kept.stale)),
            Some(_) => {
                self.remove(key);
                None
            }
            None => None,
        };
        match (earlier, self.flights.get(key)) {
            (Some((answer, true)), _) => {
                self.touch(key);
                Found::Answer(answer)
            }
            (_, Some(flight)) => Found::Flight(flight.clone()),
            (earlier, None) => Found::Nothing(earlier.map(|(answer, _)| answer)),
        }
    }

    /// Notes that a question is being asked. Its outcome comes by the sender.
    pub(super) fn depart(&mut self, key: Key) -> watch::Sender<Option<T>> {
        let (sender, flight) = watch::channel(None);
        self.flights.insert(key, flight);
        sender
    }

    /// Notes that a question is no longer being asked, and keeps its answer, of so many bytes. For the time `fresh` the
    /// answer is used. For the time `spare` after that, it is used only if the application does not answer. `None`
    /// leaves the earlier answer as it is.
    pub(super) fn land(
        &mut self,
        key: &Key,
        asker: Asker,
        answer: Option<(T, usize)>,
        fresh: Duration,
        spare: Duration,
        now: Instant,
    ) {
        self.flights.remove(key);
        let Some((answer, bytes)) = answer else { return };
        self.remove(key);
        let bytes = bytes + ENTRY_BYTES;
        if (fresh + spare).is_zero() || bytes > self.bytes_max {
            return;
        }
        self.bytes += bytes;
        self.shares.entry(asker).or_default().bytes += bytes;
        let stale = now + fresh;
        self.answers.insert(*key, Kept { answer, bytes, stale, ends: stale + spare, used: 0, asker });
        self.touch(key);
        self.weigh(asker);
        while self.bytes > self.bytes_max
            && let Some(oldest) = self.first_to_go()
        {
            self.remove(&oldest);
        }
    }

    /// Returns the answer that goes first.
    fn first_to_go(&self) -> Option<Key> {
        let heavy = self.heavy.iter().filter_map(|asker| self.shares.get(asker));
        // An answer that is alone may be larger than a share.
        let heaviest = heavy.filter(|share| share.order.len() > 1).max_by_key(|share| share.bytes);
        heaviest.map_or(&self.order, |share| &share.order).first_key_value().map(|(_, key)| *key)
    }

    /// Notes whether the answers of a client weigh more than a client's share.
    fn weigh(&mut self, asker: Asker) {
        self.heavy.retain(|heavy| *heavy != asker);
        if self.shares.get(&asker).is_some_and(|share| share.bytes > self.bytes_max / SHARES) {
            self.heavy.push(asker);
        }
    }

    /// Puts an answer at the end of both orders: that of all answers, and that of its client.
    fn touch(&mut self, key: &Key) {
        let Some(kept) = self.answers.get_mut(key) else { return };
        self.uses += 1;
        let order_of_share = &mut self.shares.entry(kept.asker).or_default().order;
        for order in [&mut self.order, order_of_share] {
            order.remove(&kept.used);
            order.insert(self.uses, *key);
        }
        kept.used = self.uses;
    }

    fn remove(&mut self, key: &Key) {
        let Some(Kept { used, bytes, asker, .. }) = self.answers.remove(key) else { return };
        self.order.remove(&used);
        self.bytes -= bytes;
        if let Some(share) = self.shares.get_mut(&asker) {
            share.order.remove(&used);
            share.bytes -= bytes;
            if share.order.is_empty() {
                self.shares.remove(&asker);
            }
        }
        self.weigh(asker);
    }
}

/// The shares of the limit, of which a client may use one while there is no room for all.
pub(super) const SHARES: usize = 8;

/// Bytes that an answer costs in the tables, in addition to its own.
pub(super) const ENTRY_BYTES: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rates::AddressBlock;

    const ZERO: Duration = Duration::ZERO;
    const MINUTE: Duration = Duration::from_secs(60);

    fn key(number: u8) -> Key {
        [number; 32]
    }

    fn found(cache: &mut Cache<u32>, number: u8, now: Instant) -> Result<u32, Option<u32>> {
        match cache.find(&key(number), now) {
            Found::Answer(answer) => Ok(answer),
            Found::Nothing(earlier) => Err(earlier),
            Found::Flight(_) => panic!("nothing is being asked"),
        }
    }

    #[test]
    fn an_answer_holds_for_its_time() {
        let (mut cache, now) = (Cache::new(1 << 20), Instant::now());
        assert_eq!(found(&mut cache, 1, now), Err(None));
        cache.land(&key(1), None, Some((7, 0)), MINUTE, ZERO, now);
        assert_eq!(found(&mut cache, 1, now + MINUTE - Duration::from_millis(1)), Ok(7));
        assert_eq!(found(&mut cache, 2, now), Err(None), "it is the answer to another question");
        assert_eq!(found(&mut cache, 1, now + MINUTE), Err(None));
        assert_eq!((cache.bytes, cache.order.len()), (0, 0));
        cache.land(&key(1), None, Some((7, 0)), ZERO, ZERO, now);
        assert_eq!(found(&mut cache, 1, now), Err(None), "it may not be kept");
    }

    #[test]
    fn a_spare_answer_is_there_while_there_is_no_other() {
        let (mut cache, now) = (Cache::new(1 << 20), Instant::now());
        cache.land(&key(1), None, Some((7, 0)), ZERO, MINUTE, now);
        assert_eq!(found(&mut cache, 1, now), Err(Some(7)));
        drop(cache.depart(key(1)));
        cache.land(&key(1), None, None, ZERO, ZERO, now);
        assert_eq!(found(&mut cache, 1, now), Err(Some(7)), "a failure leaves it");
        cache.land(&key(1), None, Some((8, 0)), ZERO, MINUTE, now);
        assert_eq!(found(&mut cache, 1, now), Err(Some(8)), "an answer replaces it");
        assert_eq!(found(&mut cache, 1, now + MINUTE), Err(None));
    }

    #[test]
    fn one_flight_for_each_question() {
        let (mut cache, now) = (Cache::new(1 << 20), Instant::now());
        let sender = cache.depart(key(1));
        assert_eq!(found(&mut cache, 2, now), Err(None));
        let Found::Flight(flight) = cache.find(&key(1), now) else { panic!("the question is being asked") };
        cache.land(&key(1), None, Some((7, 0)), MINUTE, ZERO, now);
        sender.send(Some(7)).unwrap();
        assert_eq!(*flight.borrow(), Some(7));
        assert_eq!(found(&mut cache, 1, now), Ok(7));
    }

    #[test]
    fn the_answer_used_longest_ago_goes_first() {
        let (mut cache, now) = (Cache::new(3 * (ENTRY_BYTES + 10)), Instant::now());
        for number in 0..3 {
            cache.land(&key(number), None, Some((number.into(), 10)), MINUTE, ZERO, now);
        }
        assert_eq!(found(&mut cache, 0, now), Ok(0));
        cache.land(&key(3), None, Some((3, 10)), MINUTE, ZERO, now);
        let kept = [0, 1, 2, 3].map(|number| found(&mut cache, number, now).is_ok());
        assert_eq!(kept, [true, false, true, true]);
        // A larger answer takes the places of several, and one that is larger than the limit is not kept.
        cache.land(&key(4), None, Some((4, ENTRY_BYTES)), MINUTE, ZERO, now);
        assert!(found(&mut cache, 4, now).is_ok() && cache.bytes <= cache.bytes_max);
        cache.land(&key(5), None, Some((5, 3 * ENTRY_BYTES)), MINUTE, ZERO, now);
        assert!(found(&mut cache, 5, now).is_err() && found(&mut cache, 4, now).is_ok());
        assert_eq!(cache.answers.len(), cache.order.len());
        // A second answer to a question replaces the first.
        let before = cache.bytes;
        cache.land(&key(4), None, Some((6, ENTRY_BYTES)), MINUTE, ZERO, now);
        assert_eq!((cache.bytes, found(&mut cache, 4, now)), (before, Ok(6)));
    }

    /// A client that asks many questions displaces its own answers, and not those of others.
    #[test]
    fn a_client_displaces_its_own_answers() {
        let asker = |number: u32| Some(AddressBlock::of(std::net::Ipv4Addr::from_bits(number).into()));
        let many = 4 * SHARES;
        let (mut cache, now) = (Cache::new(many * ENTRY_BYTES), Instant::now());
        let numbered = |number: usize| {
            let mut key = key(0);
            key[..8].copy_from_slice(&number.to_be_bytes());
            key
        };
        for number in 0..many / 2 {
            cache.land(&numbered(number), asker(number as u32), Some((number as u32, 0)), MINUTE, ZERO, now);
        }
        for number in many..4 * many {
            cache.land(&numbered(number), asker(u32::MAX), Some((0, 0)), MINUTE, ZERO, now);
            assert!(cache.bytes <= cache.bytes_max);
        }
        let is_kept = |cache: &mut Cache<u32>, number| matches!(cache.find(&numbered(number), now), Found::Answer(_));
        assert!((0..many / 2).all(|number| is_kept(&mut cache, number)), "those of others");
        assert_eq!((many..4 * many).filter(|number| is_kept(&mut cache, *number)).count(), many / 2);
        // Others take their share from it.
        for number in many / 2..many {
            cache.land(&numbered(number), asker(number as u32), Some((0, 0)), MINUTE, ZERO, now);
        }
        assert!((many / SHARES..many).all(|number| is_kept(&mut cache, number)), "only its own share is left to it");
        assert_eq!((many..4 * many).filter(|number| is_kept(&mut cache, *number)).count(), many / SHARES);
        assert_eq!(cache.shares.values().map(|share| share.bytes).sum::<usize>(), cache.bytes);
        assert_eq!(cache.shares.values().map(|share| share.order.len()).sum::<usize>(), cache.answers.len());
        // Nothing is left of answers that are too old.
        (0..4 * many).for_each(|number| _ = cache.find(&numbered(number), now + MINUTE));
        assert!(cache.shares.is_empty() && cache.heavy.is_empty() && cache.answers.is_empty() && cache.bytes == 0);
    }
}
