//! Tests of runs that keep only the newest message of each key.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{super::*, binary};
use crate::{
    hub::{lag::Lost, publication::Place, topic_name::TopicName},
    proto::{FrameHeader, Millis},
};

const SLOTS: u32 = 4;
const KEYS: u64 = 7;

/// Returns a message whose payload is its number and `length` further bytes.
fn message(number: u64, length: usize) -> Bytes {
    let mut payload = number.to_le_bytes().to_vec();
    payload.resize(8 + length, 0);
    binary(&payload)
}

/// Returns the tag of a message; every fifth has no place, and the messages of one of the keys have no key.
fn tag(number: u64, key: u64) -> Tag {
    let place = Place { previous: 0, epoch: 7, offset: 10 * number };
    let key = (key > 0).then(|| key.to_string().into());
    Tag { place: Some(place).filter(|_| !number.is_multiple_of(5)), time: Millis(number), key }
}

fn numbers(pieces: &[Piece]) -> Vec<u64> {
    let mut numbers = Vec::new();
    for piece in pieces {
        let (mut end, begin) = (0, numbers.len());
        while end < piece.bytes.len() {
            let (header, length) = FrameHeader::decode(&piece.bytes[end..]).unwrap().unwrap();
            let payload = &piece.bytes[end + length..][..header.payload_len as usize];
            numbers.push(u64::from_le_bytes(payload[..8].try_into().unwrap()));
            end += length + payload.len();
        }
        assert_eq!(piece.messages as usize, numbers.len() - begin);
        let of = |tags: &Arc<PieceTags>| tags.messages().iter().map(|message| message.tag.time.0).collect::<Vec<_>>();
        assert!(piece.tags.as_ref().is_none_or(|tags| of(tags) == numbers[begin..]), "the tags are of the messages");
    }
    numbers
}

fn newest() -> Run {
    Run::new(BytesMut::with_capacity(500), Tags::Newest)
}

/// The run, and what is known of it.
struct Model {
    run: Run,
    /// The messages: the key of each, and the slot that it is not owed to.
    list: Vec<(u64, Option<u32>)>,
    /// How many messages had come when the subscriber of a slot joined.
    joined: BTreeMap<u32, usize>,
    /// From here on nothing is dropped.
    kept_from: Option<usize>,
}

impl Model {
    fn new() -> Self {
        Model { run: newest(), list: Vec::new(), joined: BTreeMap::new(), kept_from: None }
    }

    fn append(&mut self, key: u64, length: usize, except: Option<u32>) {
        self.list.push((key, except));
        let number = self.list.len() as u64;
        self.run.append(&message(number, length), except, Some(&tag(number, key)));
    }

    /// Returns the numbers of the messages that are owed to the subscriber of a slot.
    fn owed(&self, slot: u32) -> BTreeSet<u64> {
        let from = self.joined.get(&slot).copied().unwrap_or_default();
        let owed = self.list.iter().enumerate().skip(from).filter(|(_, (_, except))| *except != Some(slot));
        owed.map(|(index, _)| index as u64 + 1).collect()
    }

    /// Checks that a subscriber has received, or was told of, all that it was owed.
    fn check(&self, slot: u32, received: &[u64], lost: Option<Lost>) {
        assert!(received.is_sorted_by(|a, b| a < b), "{received:?}");
        let owed = self.owed(slot);
        assert!(received.iter().all(|number| owed.contains(number)), "{received:?} of {owed:?}");
        let missing: Vec<u64> = owed.into_iter().filter(|number| !received.contains(number)).collect();
        let topic = TopicName::new("t").unwrap();
        let lag = lost.map(|lost| lost.lag(&topic));
        assert_eq!(lag.as_ref().map_or(0, |lag| lag.count), missing.len() as u64, "{missing:?}");
        let mut placed = missing.iter().filter(|number| !number.is_multiple_of(5)).map(|number| 10 * number);
        if let Some(lag) = lag {
            let from = placed.next().unwrap_or_default();
            assert_eq!((lag.from, lag.to), (from, placed.next_back().unwrap_or(from)), "{missing:?}");
            assert_eq!(lag.epoch, if lag.from == 0 { 0 } else { 7 });
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// Appends messages of a key, and of so many bytes, which are not owed to the subscriber at this slot.
    Append(u64, usize, Option<u32>, u64),
    Join(u32),
    /// Takes what the subscriber at this slot is owed so far.
    Owed(u32),
    Conflate,
    KeepAll,
}

fn step() -> impl Strategy<Value = Step> {
    let length = prop_oneof![
        8 => 0..300_usize,
        2 => 3_000..6_000_usize,
        1 => LARGE_FRAME - 20..LARGE_FRAME + 20,
        1 => Just(90_000)
    ];
    let count = prop_oneof![9 => 1..3_u64, 1 => 60..80_u64];
    prop_oneof![
        20 => (0..KEYS, length, prop::option::weighted(0.3, 0..SLOTS), count)
            .prop_map(|(key, length, except, count)| Step::Append(key, length, except, count)),
        1 => (0..SLOTS).prop_map(Step::Join),
        2 => (0..SLOTS).prop_map(Step::Owed),
        2 => Just(Step::Conflate),
        1 => prop::bool::weighted(0.1).prop_map(|all| if all { Step::KeepAll } else { Step::Conflate }),
    ]
}

proptest! {
    /// What a member gets and what it is told of is all that it is owed, whenever the run has conflated; and of each
    /// key the newest message is there.
    #[test]
    fn what_is_dropped_is_known(steps in prop::collection::vec(step(), 1..60)) {
        let mut model = Model::new();
        for step in steps {
            match step {
                Step::Append(key, length, except, count) => {
                    (0..count).for_each(|more| model.append((key + more / 3) % KEYS, length, except));
                }
                Step::Join(slot) => {
                    model.run.join(slot);
                    model.joined.insert(slot, model.list.len());
                }
                Step::Owed(slot) => {
                    let received = numbers(&model.run.owed(slot));
                    model.check(slot, &received, model.run.lost(slot));
                }
                Step::Conflate => model.run.conflate(),
                Step::KeepAll => {
                    model.run.keep_all();
                    model.kept_from.get_or_insert(model.list.len());
                }
            }
            let tags = model.run.gathered.pieces.iter().filter_map(|piece| piece.tags.as_deref());
            prop_assert_eq!(model.run.tags.as_ref().unwrap().sealed, tags.map(PieceTags::memory).sum::<usize>());
            let excluded = |ranges: &Vec<Range<Position>>| EXCLUDED + size_of::<Range<Position>>() * ranges.capacity();
            let weight: usize = model.run.gathered.excluded.values().map(excluded).sum();
            prop_assert_eq!(model.run.exclusions, weight);
        }
        let run = mem::replace(&mut model.run, newest());
        let mut run = run.freeze();
        for slot in 0..=SLOTS {
            let sent = match run.share(slot) {
                Share::Whole => numbers(run.pieces()),
                Share::Part(pieces) => numbers(&pieces),
                Share::Nothing => Vec::new(),
            };
            prop_assert_eq!(&sent, &numbers(&run.owed(slot)));
            prop_assert_eq!(run.owed_messages(slot) as usize, sent.len());
            let lost = run.lost(slot);
            prop_assert!(!run.is_whole(slot) || lost.is_none() && sent.len() == run.messages() as usize);
            model.check(slot, &sent, lost);
        }
        let all = numbers(run.pieces());
        let last = |numbers: &mut dyn Iterator<Item = u64>| -> BTreeMap<u64, u64> {
            numbers.map(|number| (model.list[number as usize - 1].0, number)).collect()
        };
        prop_assert_eq!(last(&mut all.iter().copied()), last(&mut (1..=model.list.len() as u64)));
        let kept_from = model.kept_from.unwrap_or(model.list.len()) as u64;
        prop_assert!((kept_from + 1..=model.list.len() as u64).all(|number| all.contains(&number)), "all are kept");
        if model.kept_from.is_none() {
            prop_assert_eq!(all.len(), last(&mut all.iter().copied()).len(), "no key is there twice");
        }
    }
}

/// The memory of a run is bounded by the newest messages, however many messages come.
#[test]
fn a_run_that_conflates_has_bounded_memory() {
    for (keys, length, most) in [(3, 10, 40_000), (3, 1_000, 400_000), (100, 10, 60_000), (2, LARGE_FRAME, 800_000)] {
        let mut model = Model::new();
        let mut weights = Vec::new();
        for number in 0..5_000 {
            model.append(number % keys, length, Some((number % 3) as u32));
            weights.push(model.run.weight());
        }
        let largest = *weights.iter().max().unwrap();
        assert!(largest < most, "{largest} bytes for {keys} keys of {length} bytes");
        let run = model.run.freeze();
        assert_eq!((u64::from(run.messages()), run.lost(9).map(|lost| lost.count)), (keys, Some(5_000 - keys)));
    }
}

/// A member whose own message is the newest of a key is told of the message that it has replaced.
#[test]
fn a_publisher_is_told_of_what_it_has_replaced() {
    let mut model = Model::new();
    model.append(1, 0, None);
    model.append(1, 0, Some(3));
    let run = model.run.freeze();
    assert!(matches!(run.share(3), Share::Nothing) && !run.is_whole(3) && !run.is_whole(0));
    assert_eq!([0, 3].map(|slot| run.lost(slot).map(|lost| lost.count)), [Some(1); 2]);
}

/// The losses of members are looked at once for so many messages, however many members publish.
#[test]
fn many_members_with_losses_of_their_own_are_looked_at_seldom() {
    const MEMBERS: u32 = 2_000;
    let mut run = newest();
    let (mut looks, mut before) = (0, 0);
    for number in 0..10 * MEMBERS {
        run.append(&message(number.into(), 1), Some(number % MEMBERS), Some(&tag(number.into(), 1)));
        looks += u32::from(run.gathered.messages() < before);
        before = run.gathered.messages();
    }
    assert!((5..25).contains(&looks), "{looks} looks at {MEMBERS} losses");
}
