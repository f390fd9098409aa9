//! What is left of a backlog at a limit, and when it is given up.

use super::{
    super::*,
    shed::{NOTICE, WIDE, encode, outcome, topic},
};
use crate::hub::{OutputLimits, Overflow, Place, Shedding, SlowRules, Tag, TaggedMessage, tag::PieceTags};

/// Owes a stalled client messages of the first topic with these keys, of 10 bytes each. Returns whether the output is
/// beyond a limit.
fn owe_keys(backlog: &mut Backlog, keys: impl IntoIterator<Item = u64>, slow: SlowRules) -> bool {
    owe_within(backlog, keys, slow, &WIDE)
}

/// As [`owe_keys`], within these limits.
fn owe_within(
    backlog: &mut Backlog,
    keys: impl IntoIterator<Item = u64>,
    slow: SlowRules,
    limits: &OutputLimits,
) -> bool {
    let (time, place) = (Millis(0), Some(Place { epoch: 1, offset: 1, previous: 0 }));
    let tag = |key: u64| Tag { place, time, key: Some(key.to_string().into()) };
    let tags = keys.into_iter().enumerate().map(|(at, key)| TaggedMessage { end: 10 * at + 10, tag: tag(key) });
    let tags: Vec<TaggedMessage> = tags.collect();
    let piece = Piece::new(vec![0; 10 * tags.len()].into(), tags.len() as u32);
    backlog.owe(Piece { tags: Some(PieceTags::new(tags)), ..piece }, &topic(0), slow);
    backlog.refuse();
    backlog.shed(&mut Shedding { outbox_bytes: 0, limits, now: time, mark: &mut 0 }).is_beyond
}

/// Near a budget that is hardly larger than the number of keys, the newest of each key would be looked for at every
/// message. The connection is closed instead, unless the keys are few.
#[test]
fn a_budget_of_the_latest_needs_room() {
    for (keys, messages_max, is_beyond) in [(1_000, 1_100, true), (1_000, 1_300, false), (60, 61, false)] {
        let slow = SlowRules { overflow: Overflow::Latest, messages_max: Some(messages_max), ..SlowRules::default() };
        let limits = OutputLimits { bytes_max: 4 << 20, messages_max, age_max_ms: None };
        for (slow, limits) in [(slow, OutputLimits { messages_max: 1 << 20, ..limits }), (LATEST, limits)] {
            let mut backlog = Backlog::default();
            let mut all: Vec<bool> = vec![owe_within(&mut backlog, 0..keys, slow, &limits)];
            all.extend((0..4 * keys).map(|key| owe_within(&mut backlog, [key % keys], slow, &limits)));
            assert_eq!((all[0], all.contains(&true)), (false, is_beyond), "{keys} {messages_max}");
        }
    }
}

/// What has been sent does not count among the messages that were kept.
#[test]
fn messages_that_are_sent_leave_room_for_the_latest() {
    let slow = SlowRules { messages_max: Some(1_200), ..LATEST };
    let limits = OutputLimits { messages_max: 1 << 20, ..WIDE };
    let mut backlog = Backlog::default();
    for round in 0..10 {
        assert!(!owe_within(&mut backlog, 0..1_000, slow, &limits), "{round}");
        backlog.prepare(None, usize::MAX, Millis(0), &mut 0);
        assert_eq!(backlog.labels.messages(), 1_000);
        backlog.advance(9_000);
        assert!(!owe_within(&mut backlog, (0..1_101).map(|key| key % 200), slow, &limits), "{round}");
        assert_eq!(backlog.labels.messages(), 300);
    }
}

/// A time beyond all times is no time.
#[test]
fn the_longest_age_is_never_reached() {
    let slow =
        SlowRules { overflow: Overflow::DropNewest, messages_max: Some(4), age_max_ms: Some(u64::MAX), ..LATEST };
    assert_eq!(outcome(slow, WIDE), (vec![1, 2, 3, 4], vec![(5, 20, 16)], false));
}

const LATEST: SlowRules =
    SlowRules { overflow: Overflow::Latest, bytes_max: None, messages_max: None, age_max_ms: None };

/// A close keeps the first piece, also where a message between two others was dropped.
#[test]
fn a_close_parts_what_a_policy_has_left() {
    let slow = SlowRules { overflow: Overflow::Latest, messages_max: Some(4), ..SlowRules::default() };
    let mut backlog = Backlog::default();
    for (keys, is_beyond) in [(&[1, 2, 3, 4][..], false), (&[1], false), (&[3], false), (&[5], true)] {
        assert_eq!(owe_keys(&mut backlog, keys.iter().copied(), slow), is_beyond);
    }
    let given_up: u32 = backlog.truncate().iter().map(Label::messages).sum();
    assert_eq!((backlog.length(), backlog.messages(), given_up), (10, 1, 4));
}

/// A message behind a gap comes with the notice of the gap, also if the backlog is given up before the notice is
/// encoded.
#[test]
fn a_close_keeps_the_notice_before_its_first_piece() {
    let mut backlog = Backlog::default();
    let slow = SlowRules { overflow: Overflow::DropOldest, messages_max: Some(3), ..SlowRules::default() };
    owe_keys(&mut backlog, 1..=5, slow);
    assert!(backlog.truncate().is_empty());
    backlog.prepare(Some(encode), usize::MAX, Millis(0), &mut 0);
    let bytes: Vec<u8> = backlog.unsent(usize::MAX, usize::MAX).flatten().copied().collect();
    assert_eq!((bytes[0], bytes.len()), (NOTICE, 35 + 6 + 30));
    backlog.advance(bytes.len());
    assert_eq!((backlog.take_told().len(), backlog.has_tagged()), (1, false));
}

/// A label that goes on behind the first piece is parted at the end of a message.
#[test]
fn a_label_is_parted_at_the_end_of_a_piece() {
    let mut backlog = Backlog::default();
    owe_keys(&mut backlog, 1..=5, SlowRules { overflow: Overflow::DropOldest, ..SlowRules::default() });
    backlog.advance(13);
    let given_up: Vec<u32> = backlog.labels.truncate(17, 2).iter().map(Label::messages).collect();
    let kept: Vec<Vec<usize>> = backlog.labels().map(|label| label.tags().map(|(end, _)| end).collect()).collect();
    assert_eq!((kept, given_up), (vec![vec![7, 17]], vec![2]));
}
