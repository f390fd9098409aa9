//! The answers that are kept, and the questions under way.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::question::Key;

/// The answers to questions, by the hashes of these, and the questions that are being asked.
///
/// The answer that was not used for the longest time goes first, when all of them together weigh more than the limit.
#[derive(Debug)]
pub(super) struct Cache<T> {
    answers: HashMap<Key, Kept<T>>,
    /// The answers in the order of their last uses.
    order: BTreeMap<u64, Key>,
    uses: u64,
    bytes: usize,
    bytes_max: usize,
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
    /// When the answer is too old even for a time in which there is no other.
    ends: Instant,
    used: u64,
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
        let (answers, order, flights) = (HashMap::new(), BTreeMap::new(), HashMap::new());
        Cache { answers, order, uses: 0, bytes: 0, bytes_max, flights }
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

    /// Notes that a question is no longer being asked, and keeps its answer, of so many bytes, for `fresh`, and for
    /// `spare` beyond that, for times in which there is no other. `None` leaves the earlier answer as it is.
    pub(super) fn land(
        &mut self,
        key: &Key,
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
        let stale = now + fresh;
        self.answers.insert(*key, Kept { answer, bytes, stale, ends: stale + spare, used: 0 });
        self.touch(key);
        while self.bytes > self.bytes_max
            && let Some((_, oldest)) = self.order.first_key_value()
        {
            let oldest = *oldest;
            self.remove(&oldest);
        }
    }

    /// Puts an answer at the end of the order.
    fn touch(&mut self, key: &Key) {
        let Some(kept) = self.answers.get_mut(key) else { return };
        self.uses += 1;
        self.order.remove(&kept.used);
        kept.used = self.uses;
        self.order.insert(self.uses, *key);
    }

    fn remove(&mut self, key: &Key) {
        if let Some(kept) = self.answers.remove(key) {
            self.order.remove(&kept.used);
            self.bytes -= kept.bytes;
        }
    }
}

/// Bytes that an answer costs in the tables, in addition to its own.
pub(super) const ENTRY_BYTES: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

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
        cache.land(&key(1), Some((7, 0)), MINUTE, ZERO, now);
        assert_eq!(found(&mut cache, 1, now + MINUTE - Duration::from_millis(1)), Ok(7));
        assert_eq!(found(&mut cache, 2, now), Err(None), "it is the answer to another question");
        assert_eq!(found(&mut cache, 1, now + MINUTE), Err(None));
        assert_eq!((cache.bytes, cache.order.len()), (0, 0));
        cache.land(&key(1), Some((7, 0)), ZERO, ZERO, now);
        assert_eq!(found(&mut cache, 1, now), Err(None), "it may not be kept");
    }

    #[test]
    fn a_spare_answer_is_there_while_there_is_no_other() {
        let (mut cache, now) = (Cache::new(1 << 20), Instant::now());
        cache.land(&key(1), Some((7, 0)), ZERO, MINUTE, now);
        assert_eq!(found(&mut cache, 1, now), Err(Some(7)));
        drop(cache.depart(key(1)));
        cache.land(&key(1), None, ZERO, ZERO, now);
        assert_eq!(found(&mut cache, 1, now), Err(Some(7)), "a failure leaves it");
        cache.land(&key(1), Some((8, 0)), ZERO, MINUTE, now);
        assert_eq!(found(&mut cache, 1, now), Err(Some(8)), "an answer replaces it");
        assert_eq!(found(&mut cache, 1, now + MINUTE), Err(None));
    }

    #[test]
    fn one_flight_for_each_question() {
        let (mut cache, now) = (Cache::new(1 << 20), Instant::now());
        let sender = cache.depart(key(1));
        assert_eq!(found(&mut cache, 2, now), Err(None));
        let Found::Flight(flight) = cache.find(&key(1), now) else { panic!("the question is being asked") };
        cache.land(&key(1), Some((7, 0)), MINUTE, ZERO, now);
        sender.send(Some(7)).unwrap();
        assert_eq!(*flight.borrow(), Some(7));
        assert_eq!(found(&mut cache, 1, now), Ok(7));
    }

    #[test]
    fn the_least_used_answers_go_first() {
        let (mut cache, now) = (Cache::new(3 * (ENTRY_BYTES + 10)), Instant::now());
        for number in 0..3 {
            cache.land(&key(number), Some((number.into(), 10)), MINUTE, ZERO, now);
        }
        assert_eq!(found(&mut cache, 0, now), Ok(0));
        cache.land(&key(3), Some((3, 10)), MINUTE, ZERO, now);
        let kept = [0, 1, 2, 3].map(|number| found(&mut cache, number, now).is_ok());
        assert_eq!(kept, [true, false, true, true]);
        // A larger answer takes the places of several, and one that is larger than all others together is not kept.
        cache.land(&key(4), Some((4, ENTRY_BYTES)), MINUTE, ZERO, now);
        assert!(found(&mut cache, 4, now).is_ok() && cache.bytes <= cache.bytes_max);
        cache.land(&key(5), Some((5, 3 * ENTRY_BYTES)), MINUTE, ZERO, now);
        assert!(found(&mut cache, 5, now).is_err() && found(&mut cache, 4, now).is_ok());
        assert_eq!(cache.answers.len(), cache.order.len());
        // A second answer to a question replaces the first.
        let before = cache.bytes;
        cache.land(&key(4), Some((6, ENTRY_BYTES)), MINUTE, ZERO, now);
        assert_eq!((cache.bytes, found(&mut cache, 4, now)), (before, Ok(6)));
    }
}
