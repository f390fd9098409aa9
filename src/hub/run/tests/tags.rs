//! Tests of the tags of runs.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{super::*, binary};
use crate::{
    hub::publication::Place,
    proto::{FrameHeader, Millis},
};

/// Returns a message whose payload is its number and `length` further bytes.
fn message(number: u64, length: usize) -> Bytes {
    let mut payload = number.to_le_bytes().to_vec();
    payload.resize(8 + length, 0);
    binary(&payload)
}

/// Returns the tag of a message; every third message has no place.
fn tag(number: u64) -> Tag {
    let place = Place { previous: 0, epoch: 7, offset: 10 * number };
    Tag { place: Some(place).filter(|_| !number.is_multiple_of(3)), time: Millis(number), key: None }
}

/// Returns the numbers of the messages in these pieces, after a check of each piece's tags against its frames.
fn numbers(pieces: &[Piece]) -> Vec<u64> {
    let mut numbers = Vec::new();
    for piece in pieces {
        let mut tags = Vec::new();
        let mut end = 0;
        while end < piece.bytes.len() {
            let (header, length) = FrameHeader::decode(&piece.bytes[end..]).unwrap().unwrap();
            let payload = &piece.bytes[end + length..][..header.payload_len as usize];
            let number = u64::from_le_bytes(payload[..8].try_into().unwrap());
            end += length + payload.len();
            tags.push(TaggedMessage { end, tag: tag(number) });
            numbers.push(number);
        }
        assert_eq!(piece.messages as usize, tags.len());
        assert_eq!(piece.tags.as_ref().expect("the run has tags").messages(), tags);
    }
    numbers
}

fn tagged(capacity: usize) -> Run {
    Run::new(BytesMut::with_capacity(capacity), Tags::On)
}

#[derive(Debug, Clone)]
enum Step {
    /// Appends a message of so many bytes, which is not owed to the subscriber at this slot.
    Append(usize, Option<u32>),
    Join(u32),
    /// Takes what the subscriber at this slot is owed so far.
    Owed(u32),
}

const SLOTS: u32 = 4;

fn step() -> impl Strategy<Value = Step> {
    let length = prop_oneof![8 => 0..300_usize, 2 => 3_000..6_000_usize, 1 => LARGE_FRAME - 20..LARGE_FRAME + 20];
    prop_oneof![
        10 => (length, prop::option::of(0..SLOTS)).prop_map(|(length, except)| Step::Append(length, except)),
        1 => (0..SLOTS).prop_map(Step::Join),
        2 => (0..SLOTS).prop_map(Step::Owed),
    ]
}

proptest! {
    /// The pieces that a subscriber is owed have the tags and the ends of their messages, however the pieces were
    /// sealed, merged, cut and copied.
    #[test]
    fn the_pieces_of_a_share_have_its_tags(
        steps in prop::collection::vec(step(), 1..80),
        capacity in prop_oneof![Just(0), Just(100_000)],
    ) {
        let mut run = tagged(capacity);
        let mut list: Vec<(u64, Option<u32>)> = Vec::new();
        let mut joined: BTreeMap<u32, usize> = BTreeMap::new();
        let owed = |list: &[(u64, Option<u32>)], joined: &BTreeMap<u32, usize>, slot| {
            let from = joined.get(&slot).copied().unwrap_or_default();
            let owed = list[from..].iter().filter(|(_, except)| *except != Some(slot));
            owed.map(|(number, _)| *number).collect::<Vec<_>>()
        };
        for step in steps {
            match step {
                Step::Append(length, except) => {
                    let number = list.len() as u64 + 1;
                    run.append(&message(number, length), except, Some(&tag(number)));
                    list.push((number, except));
                }
                Step::Join(slot) => {
                    run.join(slot);
                    joined.insert(slot, list.len());
                }
                Step::Owed(slot) => prop_assert_eq!(numbers(&run.owed(slot)), owed(&list, &joined, slot)),
            }
            let tags = run.gathered.pieces.iter().filter_map(|piece| piece.tags.as_deref()).map(PieceTags::memory);
            prop_assert_eq!(run.tags.as_ref().unwrap().sealed, tags.sum::<usize>());
        }
        let mut run = run.freeze();
        prop_assert_eq!(numbers(run.pieces()), list.iter().map(|(number, _)| *number).collect::<Vec<_>>());
        for slot in (0..=SLOTS).chain(0..SLOTS) {
            prop_assert_eq!(numbers(&run.owed(slot)), owed(&list, &joined, slot));
            if let Share::Part(part) = run.share(slot) {
                prop_assert!(part.iter().all(|piece| piece.tags.is_none()), "what is sent at once needs no tags");
            }
        }
    }
}

/// A run of so many pieces that they are joined.
#[test]
fn joined_pieces_keep_their_tags() {
    let mut run = tagged(0);
    for number in 1..=2 * PIECES_MAX as u64 {
        run.append(&message(number, LARGE_FRAME), Some(7).filter(|_| number.is_multiple_of(2)), Some(&tag(number)));
        run.append(&message(number, 0), None, Some(&tag(number)));
    }
    let mut run = run.freeze();
    assert!(run.pieces().len() < 2 * PIECES_MAX);
    let all: Vec<u64> = (1..=2 * PIECES_MAX as u64).flat_map(|number| [number; 2]).collect();
    assert_eq!(numbers(&run.owed(1)), all);
    let odd = |number: u64| if number.is_multiple_of(2) { vec![number] } else { vec![number; 2] };
    assert_eq!(numbers(&run.owed(7)), (1..=2 * PIECES_MAX as u64).flat_map(odd).collect::<Vec<_>>());
}

#[test]
fn a_run_without_tags_ignores_them() {
    let fill = |mut run: Run, tag: &dyn Fn(u64) -> Option<Tag>| {
        for number in 0..100 {
            run.append(&message(number, 300 * number as usize), Some(number as u32 % 2), tag(number).as_ref());
        }
        run
    };
    let (with, without) = (fill(Run::default(), &|number| Some(tag(number))), fill(Run::default(), &|_| None));
    assert_eq!(with.weight(), without.weight());
    let mut run = with.freeze();
    assert!(run.owed(0).iter().chain(run.owed(9).iter()).all(|piece| piece.tags.is_none()));
}

#[test]
#[should_panic(expected = "each message of a run with tags has one")]
fn a_message_without_a_tag_belongs_to_no_run_with_tags() {
    tagged(0).append(&message(1, 0), None, None);
}

/// Tags add to the weight of a run, in the tail and in pieces, also after many subscribers have left.
#[test]
fn tags_weigh() {
    let weigh = |tags, leavers: u32| {
        let mut run = Run::new(BytesMut::new(), tags);
        for number in 0..1_000 {
            run.append(&message(number, 0), None, Some(&tag(number)));
            if number % 100 < u64::from(leavers) {
                drop(run.owed(number as u32));
            }
        }
        run.weight()
    };
    for leavers in [0, 1, 100] {
        let tags = weigh(Tags::On, leavers) - weigh(Tags::Off, leavers);
        let least = 1_000 * size_of::<TaggedMessage>();
        assert!((least..=2 * least + 4_096).contains(&tags), "{tags} with {leavers} leavers");
    }
}
