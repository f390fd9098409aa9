//! Ids: the publications with an id that a home has ordered lately, and the answers that their publishers have got.
//!
//! A home publishes a publication with an id once. While the id is remembered, a further publication to the same topic
//! with the same id and the same contents gets the answer of the first, and one with other contents is refused. No id
//! is forgotten before its time: if there is no room for a further one, the further publication is refused.

use std::{
    collections::{HashMap, VecDeque},
    mem,
    sync::Arc,
};

use sha2::{Digest, Sha256};

use super::{
    memory::ALLOCATION,
    owner::{OWNER_BYTES, Owner, Shares},
    publication::{Posted, Publication},
    publish_error::PublishError,
    receipt::Published,
    topic_name::TopicName,
};
use crate::proto::Millis;

/// The limits of the ids that a hub remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdLimits {
    /// Milliseconds for which an id is remembered, from the time at which its publication gets its place.
    pub window_ms: u64,
    /// Bytes of memory of all ids.
    pub bytes_max: usize,
}

impl Default for IdLimits {
    fn default() -> Self {
        IdLimits { window_ms: 300_000, bytes_max: 64 << 20 }
    }
}

/// The ids that a home remembers.
#[derive(Debug, Default)]
pub(super) struct Ids {
    by_key: HashMap<Key, Remembered>,
    /// The ids whose publications have their places, by the times at which they are forgotten. An id that was forgotten
    /// earlier may still stand here.
    ends: VecDeque<(Millis, Key)>,
    /// The memory of all ids, and the parts that owners have of it.
    bytes: usize,
    shares: Shares,
    limits: IdLimits,
    counts: IdCounts,
}

/// How many publications with ids were not published since the beginning, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IdCounts {
    /// The publications that were published before.
    pub repeated: u64,
    /// The publications with the id and not the contents of an earlier one.
    pub other_contents: u64,
    /// The publications whose ids found no room.
    pub full: u64,
}

/// A topic, and an id of a publication to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    topic: TopicName,
    id: Arc<str>,
}

#[derive(Debug)]
struct Remembered {
    /// The hash of the contents.
    contents: Contents,
    owner: Option<Owner>,
    answer: AnswerOfId,
}

/// The SHA-256 of a publication without its id.
type Contents = [u8; 32];

#[derive(Debug)]
enum AnswerOfId {
    /// An engine has not given the place yet, or the receipt is not complete. The publishers of the same publication
    /// wait for that too.
    Awaited(Vec<Asker>),
    Given {
        published: Published,
        until: Millis,
    },
}

/// An end that waits for an answer, and its ticket.
pub(super) type Asker = (u16, u64);

/// What becomes of a publication with an id.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Begun {
    /// The publication is new. [`Ids::note_answer`] must follow.
    New,
    /// The publication was published before, and this is the answer that its publisher has got.
    Repeated(Published),
    /// The publication is under way, and is answered later.
    Awaited,
}

impl Ids {
    pub(super) fn new(limits: IdLimits) -> Self {
        Ids { limits, ..Ids::default() }
    }

    pub(super) fn set_limits(&mut self, limits: IdLimits) {
        self.limits = limits;
    }

    /// Begins to publish a publication with an id. `asker` waits for the answer.
    ///
    /// # Errors
    ///
    /// See [`PublishError`].
    pub(super) fn begin(&mut self, posted: &Posted, asker: Option<Asker>, now: Millis) -> Result<Begun, PublishError> {
        self.forget_ended(now, FORGOTTEN_PER_STEP);
        let Some(key) = Key::of(posted) else { return Ok(Begun::New) };
        let contents = contents_of(&posted.publication);
        if let Some(known) = self.by_key.get_mut(&key).filter(|known| !known.has_ended(now)) {
            if known.contents != contents {
                self.counts.other_contents += 1;
                return Err(PublishError::OtherContents);
            }
            self.counts.repeated += 1;
            return Ok(match &mut known.answer {
                AnswerOfId::Given { published, .. } => Begun::Repeated(*published),
                AnswerOfId::Awaited(askers) => {
                    let before = askers.capacity();
                    askers.extend(asker);
                    self.bytes += (askers.capacity() - before) * size_of::<Asker>();
                    Begun::Awaited
                }
            });
        }
        let (weight, owner) = (key.weight(), posted.publication.owner());
        self.make_room(weight, owner, now)?;
        let remembered = Remembered { contents, owner, answer: AnswerOfId::Awaited(Vec::new()) };
        match self.by_key.insert(key, remembered) {
            None => self.bytes += weight,
            Some(ended) => self.shares.give_back(ended.owner, weight),
        }
        self.shares.take(owner, weight);
        Ok(Begun::New)
    }

    /// Notes the answer to a publication with an id, from which time on the id is remembered for the window. Returns
    /// the publishers of the same publication that wait for the answer.
    pub(super) fn note_answer(&mut self, key: Key, published: Published, now: Millis) -> Vec<Asker> {
        let Some(known) = self.by_key.get_mut(&key) else { return Vec::new() };
        let until = Millis(now.0.saturating_add(self.limits.window_ms));
        match mem::replace(&mut known.answer, AnswerOfId::Given { published, until }) {
            AnswerOfId::Awaited(askers) => {
                self.bytes -= askers.capacity() * size_of::<Asker>();
                self.ends.push_back((until, key));
                askers
            }
            AnswerOfId::Given { .. } => unreachable!("a publication with an id gets one answer"),
        }
    }

    /// Forgets ids whose time has ended, at most `most` of them.
    pub(super) fn forget_ended(&mut self, now: Millis, most: usize) {
        for _ in 0..most {
            if self.ends.front().is_none_or(|(until, _)| *until > now) {
                break;
            }
            let Some((until, key)) = self.ends.pop_front() else { break };
            // The id may have come again after its end, and is then a later one.
            let is_it =
                |known: &Remembered| matches!(known.answer, AnswerOfId::Given { until: own, .. } if own == until);
            if self.by_key.get(&key).is_some_and(is_it)
                && let Some(Remembered { owner, .. }) = self.by_key.remove(&key)
            {
                self.bytes -= key.weight();
                self.shares.give_back(owner, key.weight());
            }
        }
        if self.by_key.is_empty() && self.ends.capacity() > 0 {
            // The memory of the tables is weighed by their entries.
            self.by_key = HashMap::new();
            self.ends = VecDeque::new();
        }
    }

    /// Returns the memory of all ids.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn counts(&self) -> IdCounts {
        self.counts
    }

    /// Makes room for an id of this weight, by forgetting ids whose time has ended.
    fn make_room(&mut self, weight: usize, owner: Option<Owner>, now: Millis) -> Result<(), PublishError> {
        while !self.shares.may_take(owner, weight, self.limits.bytes_max.saturating_sub(self.bytes)) {
            let before = self.ends.len();
            self.forget_ended(now, FORGOTTEN_PER_STEP);
            if self.ends.len() == before {
                self.counts.full += 1;
                // An id without its place is remembered until an engine gives the place.
                let next = self.ends.front().map_or(RETRY_MS, |(until, _)| until.0.saturating_sub(now.0));
                return Err(PublishError::IdsFull { free_in_ms: next.clamp(1, u64::from(u32::MAX)) as u32 });
            }
        }
        Ok(())
    }
}

impl Remembered {
    fn has_ended(&self, now: Millis) -> bool {
        matches!(self.answer, AnswerOfId::Given { until, .. } if until <= now)
    }
}

impl Key {
    pub(super) fn of(Posted { topic, publication, .. }: &Posted) -> Option<Key> {
        Some(Key { topic: topic.clone(), id: publication.shared_id()? })
    }

    /// Returns the memory of an id: its places in the two tables, which are up to half empty, its owner, and its two
    /// texts.
    fn weight(&self) -> usize {
        let texts = 2 * (ALLOCATION + 2 * size_of::<usize>()) + self.topic.as_str().len() + self.id.len();
        PLACES + OWNER_BYTES + texts
    }
}

/// The memory of the places of an id in the two tables.
const PLACES: usize = 2 * (size_of::<(Key, Remembered)>() + 1 + size_of::<(Millis, Key)>());

/// The most ids that are forgotten at once.
const FORGOTTEN_PER_STEP: usize = 64;

/// Milliseconds after which a publisher may try again when every remembered id waits for its place.
const RETRY_MS: u64 = 1_000;

/// Returns the hash of what a publication contains, its id aside.
fn contents_of(publication: &Publication) -> Contents {
    let mut hash = Sha256::new();
    // Each text stands behind its length, so that no two publications give the same bytes.
    for name in [publication.event_name(), publication.key_name()] {
        hash.update([u8::from(name.is_some())]);
        let name = name.unwrap_or_default();
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name);
    }
    hash.update([publication.kind() as u8, u8::from(publication.is_json())]);
    hash.update(publication.payload());
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::Place;

    fn posted(topic: &str, publication: Publication) -> Posted {
        Posted { topic: TopicName::new(topic).unwrap(), source: None, publication }
    }

    fn place(offset: u64) -> Published {
        Published::at(Place { epoch: 7, offset, previous: offset - 1 })
    }

    fn ids(window_ms: u64, bytes_max: usize) -> Ids {
        Ids::new(IdLimits { window_ms, bytes_max })
    }

    /// Publishes as a home does.
    fn publish(ids: &mut Ids, posted: &Posted, offset: u64, now: u64) -> Result<Begun, PublishError> {
        let begun = ids.begin(posted, None, Millis(now));
        if begun == Ok(Begun::New) {
            let key = Key::of(posted);
            let waiting = key.map_or(Vec::new(), |key| ids.note_answer(key, place(offset), Millis(now)));
            assert_eq!(waiting, []);
        }
        begun
    }

    #[test]
    fn an_id_belongs_to_one_publication_to_one_topic() {
        let mut ids = ids(100, 1 << 20);
        let text = |topic, text: &str, id: &str| posted(topic, Publication::text(text).id(id));
        assert_eq!(publish(&mut ids, &text("a", "x", "1"), 1, 0), Ok(Begun::New));
        assert_eq!(publish(&mut ids, &text("a", "x", "1"), 2, 99), Ok(Begun::Repeated(place(1))));
        assert_eq!(publish(&mut ids, &text("a", "y", "1"), 2, 99), Err(PublishError::OtherContents));
        assert_eq!(publish(&mut ids, &text("b", "y", "1"), 1, 99), Ok(Begun::New));
        assert_eq!(publish(&mut ids, &text("a", "y", "2"), 2, 99), Ok(Begun::New));
        assert_eq!(publish(&mut ids, &text("a", "y", "1"), 3, 100), Ok(Begun::New), "the window is over");
        assert_eq!(publish(&mut ids, &text("a", "x", "1"), 4, 150), Err(PublishError::OtherContents));
        assert_eq!(ids.counts(), IdCounts { repeated: 1, other_contents: 2, full: 0 });
        assert_eq!(publish(&mut ids, &posted("a", Publication::text("x")), 5, 150), Ok(Begun::New), "it has no id");
    }

    /// All that a subscriber may notice belongs to the contents.
    #[test]
    fn contents_are_all_but_the_id() {
        let text = || Publication::text("17");
        let others = [
            text(),
            Publication::binary(b"17"),
            Publication::json("17").unwrap(),
            text().event("e"),
            text().event("e").key("k").unwrap(),
            text().key("ek").unwrap(),
            text().event("ek"),
            Publication::text("18"),
        ];
        let all: Vec<Contents> = others.iter().map(contents_of).collect();
        for (at, contents) in all.iter().enumerate() {
            assert!(!all[..at].contains(contents), "{at}");
        }
        assert_eq!(contents_of(&text().id("a")), contents_of(&text().id("b")));
    }

    /// The memory of all ids, of one and of many, is what the weights say; beyond it no id is forgotten for another.
    #[test]
    fn full_ids_refuse_and_forget_nothing() {
        let of = |number: u64| posted("t", Publication::text("x").id(&format!("{number:03}")));
        let one = Key::of(&of(1)).unwrap().weight();
        let mut ids = ids(100, 10 * one);
        for number in 0..10 {
            assert_eq!(publish(&mut ids, &of(number), number + 1, number), Ok(Begun::New));
        }
        assert_eq!(ids.bytes(), 10 * one);
        assert_eq!(publish(&mut ids, &of(10), 11, 60), Err(PublishError::IdsFull { free_in_ms: 40 }));
        for number in 0..10 {
            assert_eq!(publish(&mut ids, &of(number), 0, 60), Ok(Begun::Repeated(place(number + 1))));
        }
        assert_eq!(publish(&mut ids, &of(10), 11, 100), Ok(Begun::New), "the first id has gone");
        assert_eq!(publish(&mut ids, &of(11), 12, 100), Err(PublishError::IdsFull { free_in_ms: 1 }));
        assert_eq!(ids.counts().full, 2);
        ids.forget_ended(Millis(1_000), usize::MAX);
        assert_eq!((ids.bytes(), ids.by_key.capacity(), ids.ends.capacity()), (0, 0, 0));
    }

    /// One owner takes half of the memory, so that others find room.
    #[test]
    fn an_owner_does_not_fill_the_memory_for_others() {
        let of = |owner: &str, number: u64| {
            posted("t", Publication::text("x").id(&format!("{owner}{number:03}")).owned_by(Some(Owner::of(&owner))))
        };
        let mut ids = ids(100, 16 * Key::of(&of("a", 1)).unwrap().weight());
        let publish_all = |ids: &mut Ids, owner: &str, now: u64| {
            (0..100).take_while(|number| publish(ids, &of(owner, *number), 1, now) == Ok(Begun::New)).count()
        };
        let counts = ["a", "b", "c"].map(|owner| publish_all(&mut ids, owner, 0));
        assert_eq!(counts, [8, 4, 2]);
        assert_eq!(publish(&mut ids, &of("a", 99), 1, 60), Err(PublishError::IdsFull { free_in_ms: 40 }));
        assert_eq!(publish(&mut ids, &of("a", 0), 9, 60), Ok(Begun::Repeated(place(1))), "it needs no room");
        assert_eq!(publish_all(&mut ids, "b", 200), 8, "all have ended");
        ids.forget_ended(Millis(1_000), usize::MAX);
        assert!(ids.shares.may_take(Some(Owner::of(&"b")), usize::MAX, usize::MAX), "nothing stays counted");
    }

    /// More ids end at the same time than are forgotten at once: an id that comes again is new, and its earlier end
    /// does not forget it.
    #[test]
    fn an_id_that_has_ended_is_not_known_even_if_it_is_still_there() {
        let mut ids = ids(100, 1 << 20);
        let of = |number: usize| posted("t", Publication::text("x").id(&number.to_string()));
        let count = 3 * FORGOTTEN_PER_STEP;
        (0..count).for_each(|number| _ = publish(&mut ids, &of(number), 1, 0));
        assert_eq!(publish(&mut ids, &of(count - 1), 2, 150), Ok(Begun::New));
        assert_eq!(ids.by_key.len(), count - FORGOTTEN_PER_STEP);
        ids.forget_ended(Millis(150), usize::MAX);
        assert_eq!(ids.by_key.len(), 1);
        assert_eq!(ids.bytes(), Key::of(&of(count - 1)).unwrap().weight());
        assert_eq!(publish(&mut ids, &of(count - 1), 3, 249), Ok(Begun::Repeated(place(2))));
        assert_eq!(publish(&mut ids, &of(count - 1), 3, 250), Ok(Begun::New));
    }

    /// While an engine has not given the place, the publishers of the same publication wait, and the id stays.
    #[test]
    fn publishers_wait_for_a_place_that_is_under_way() {
        let mut ids = ids(100, 1 << 20);
        let first = posted("t", Publication::text("x").id("1"));
        assert_eq!(ids.begin(&first, Some((0, 1)), Millis(0)), Ok(Begun::New));
        let before = ids.bytes();
        assert_eq!(ids.begin(&first, Some((2, 5)), Millis(500)), Ok(Begun::Awaited));
        assert_eq!(ids.begin(&first, None, Millis(500)), Ok(Begun::Awaited));
        assert!(ids.bytes() > before);
        let other = posted("t", Publication::text("y").id("1"));
        assert_eq!(ids.begin(&other, Some((2, 6)), Millis(500)), Err(PublishError::OtherContents));
        assert_eq!(ids.note_answer(Key::of(&first).unwrap(), place(4), Millis(600)), [(2, 5)]);
        assert_eq!(ids.bytes(), before);
        assert_eq!(ids.begin(&first, Some((2, 7)), Millis(699)), Ok(Begun::Repeated(place(4))));
        ids.set_limits(IdLimits { window_ms: 100, bytes_max: before });
        assert_eq!(ids.begin(&other, None, Millis(700)), Ok(Begun::New), "the window begins with the place");
        let another = posted("t", Publication::text("y").id("2"));
        assert_eq!(ids.begin(&another, None, Millis(700)), Err(PublishError::IdsFull { free_in_ms: 1_000 }));
    }
}
