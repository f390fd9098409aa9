//! What is left of a backlog at a limit, and when it is given up.

use bytes::Bytes;

use super::{
    super::*,
    shed::{NOTICE, WIDE, encode, outcome, topic},
};
use crate::hub::{
    Decision, Dropped, Lag, OutputLimits, Overflow, OwedOutput, Place, Shedding, SlowRules, Tag, TaggedMessage,
    tag::PieceTags,
};

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

/// A client without notices is told of a lag when what stands before it has been sent.
#[test]
fn a_lag_without_a_notice_is_told_in_its_place() {
    let lag = |from: u64, to: u64| OwedLag {
        lag: Lag { topic: topic(0), epoch: 1, from, to, count: to - from + 1, policy: Overflow::Latest },
        notice: Bytes::new(),
    };
    let told = |backlog: &mut Backlog| backlog.take_told().iter().map(|lag| (lag.from, lag.to)).collect::<Vec<_>>();
    let mut backlog = Backlog::default();
    backlog.owe_lag(lag(1, 2), LATEST);
    assert_eq!((told(&mut backlog), backlog.is_empty(), backlog.has_tagged()), (vec![(1, 2)], true, false));
    owe_keys(&mut backlog, 1..=3, LATEST);
    backlog.owe_lag(lag(5, 6), LATEST);
    backlog.owe_lag(lag(8, 9), LATEST);
    assert!(told(&mut backlog).is_empty() && backlog.has_lags());
    backlog.advance(29);
    assert!(told(&mut backlog).is_empty());
    backlog.advance(1);
    assert_eq!((told(&mut backlog), backlog.has_tagged()), (vec![(5, 9)], false));
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

/// Owes a stalled client one message of a topic, which has come at this time.
fn owe_at(backlog: &mut Backlog, number: u8, slow: SlowRules, offset: u64, time: u64) {
    let place = Some(Place { epoch: 1, offset, previous: offset - 1 });
    let tag = Tag { place, time: Millis(time), key: None };
    let tags = Some(PieceTags::new(vec![TaggedMessage { end: 10, tag }]));
    backlog.owe(Piece { tags, ..Piece::new(vec![0; 10].into(), 1) }, &topic(number), slow);
    backlog.refuse();
}

/// Sheds a backlog. Returns the offsets that are left of each topic, and whether the output is beyond a limit.
fn shed_at(backlog: &mut Backlog, now: u64) -> (Vec<(u8, u64)>, bool) {
    let now = Millis(now);
    let output = OwedOutput { backlog, outbox_bytes: 0, is_held: false };
    let mut is_beyond = false;
    if output.decide(&WIDE, now) == Decision::Shed {
        let mut shedding = Shedding { outbox_bytes: 0, limits: &WIDE, now, mark: &mut 0 };
        is_beyond = backlog.shed(&mut shedding).is_beyond;
    }
    let number = |label: &Label| label.topic().unwrap().as_str().as_bytes()[1] - b'0';
    let offsets = backlog.labels().flat_map(|label| {
        label.tags().map(move |(_, tag)| (number(label), tag.place.map_or(0, |place| place.offset))).collect::<Vec<_>>()
    });
    (offsets.collect(), is_beyond)
}

/// The age of each topic is its own, wherever its messages stand and whatever the rules of the others are.
#[test]
fn each_topic_has_its_own_age() {
    let slow = |overflow, age| SlowRules { overflow, age_max_ms: Some(age), ..SlowRules::default() };
    let oldest = slow(Overflow::DropOldest, 50);
    let mut backlog = Backlog::default();
    owe_at(&mut backlog, 1, slow(Overflow::Close, 200), 1, 0);
    owe_at(&mut backlog, 0, oldest, 1, 10);
    owe_at(&mut backlog, 0, oldest, 2, 20);
    owe_at(&mut backlog, 2, slow(Overflow::DropNewest, 30), 1, 20);
    owe_at(&mut backlog, 2, slow(Overflow::DropNewest, 30), 2, 50);
    let all = vec![(1, 1), (0, 1), (0, 2), (2, 1), (2, 2)];
    assert_eq!(shed_at(&mut backlog, 60), (all, false));
    assert_eq!(shed_at(&mut backlog, 61), (vec![(1, 1), (0, 2), (2, 1), (2, 2)], false));
    // The topic's newest message stays until the socket has room.
    assert_eq!(shed_at(&mut backlog, 100), (vec![(1, 1), (0, 2), (2, 1), (2, 2)], false));
    owe_at(&mut backlog, 2, slow(Overflow::DropNewest, 30), 3, 51);
    assert_eq!(shed_at(&mut backlog, 100), (vec![(1, 1), (0, 2), (2, 1), (2, 2)], false), "message 3 came too late");
    let dropped = backlog.prepare(None, usize::MAX, Millis(100), &mut 0);
    assert_eq!(dropped, Dropped { oldest: 1, ..Dropped::default() });
    assert_eq!(shed_at(&mut backlog, 200), (vec![(1, 1), (2, 1), (2, 2)], false));
    assert!(shed_at(&mut backlog, 201).1, "the topic that closes its subscribers has waited for too long");
}

/// The age of a topic begins again with its next message when its first one has begun to be sent, whatever stands
/// between the two.
#[test]
fn an_age_goes_on_with_the_next_message() {
    let slow = |age_max_ms| SlowRules { age_max_ms, overflow: Overflow::DropOldest, ..SlowRules::default() };
    let mut backlog = Backlog::default();
    owe_at(&mut backlog, 0, slow(Some(50)), 1, 0);
    (1..=20).for_each(|offset| owe_at(&mut backlog, 1, slow(None), offset, 0));
    owe_at(&mut backlog, 0, slow(Some(50)), 2, 40);
    owe_at(&mut backlog, 0, slow(Some(50)), 3, 60);
    backlog.advance(1);
    backlog.refuse();
    assert_eq!(shed_at(&mut backlog, 90).0.len(), 23, "the first message is being sent");
    let left = shed_at(&mut backlog, 91).0;
    assert_eq!((left.len(), left[21]), (22, (0, 3)));
    let close = SlowRules { age_max_ms: Some(50), ..SlowRules::default() };
    let mut backlog = Backlog::default();
    owe_at(&mut backlog, 0, close, 1, 0);
    owe_at(&mut backlog, 0, close, 2, 40);
    backlog.advance(10);
    backlog.refuse();
    assert_eq!((shed_at(&mut backlog, 90).1, shed_at(&mut backlog, 91).1), (false, true));
}

/// A topic that is over a budget gives up its own messages alone.
#[test]
fn a_topic_drops_its_own_messages() {
    let slow =
        |overflow, messages_max| SlowRules { overflow, messages_max: Some(messages_max), ..SlowRules::default() };
    let mut backlog = Backlog::default();
    for offset in 1..=4 {
        owe_at(&mut backlog, 0, slow(Overflow::DropOldest, 2), offset, 0);
        owe_at(&mut backlog, 1, slow(Overflow::DropNewest, 3), offset, 0);
        owe_at(&mut backlog, 2, slow(Overflow::Close, 4), offset, 0);
        shed_at(&mut backlog, 0);
    }
    let left = vec![(1, 1), (2, 1), (1, 2), (2, 2), (0, 3), (1, 3), (2, 3), (0, 4), (2, 4)];
    assert_eq!(shed_at(&mut backlog, 0), (left.clone(), false));
    owe_at(&mut backlog, 2, slow(Overflow::Close, 4), 5, 0);
    assert_eq!(shed_at(&mut backlog, 0), ([&left[..], &[(2, 5)]].concat(), true));
}

/// What a label with tags takes, its place and its topic's name included, and what a message of one byte takes with its
/// tag.
const ALONE: u64 = 40 + 34 + 72;
const BURST: u64 = 1 + 64;

/// A budget in bytes counts what the hub keeps about each message, too; but one message may always wait.
#[test]
fn a_budget_in_bytes_counts_labels_and_tags() {
    let slow = |bytes_max| SlowRules { bytes_max: Some(bytes_max), ..SlowRules::default() };
    let mut backlog = Backlog::default();
    owe_at(&mut backlog, 0, slow(1), 1, 0);
    assert!(!shed_at(&mut backlog, 0).1, "one message may wait");
    owe_at(&mut backlog, 0, slow(300), 2, 0);
    assert!(shed_at(&mut backlog, 0).1, "20 bytes of frames take more than 300 bytes");
    // A message of a burst takes less.
    let mut backlog = Backlog::default();
    let tags = (1..=10).map(|end| TaggedMessage { end, tag: Tag { place: None, time: Millis(0), key: None } });
    let tags = Some(PieceTags::new(tags.collect()));
    backlog.owe(Piece { tags, ..Piece::new(vec![0; 10].into(), 10) }, &topic(0), slow(10 * BURST + ALONE));
    backlog.refuse();
    assert!(!shed_at(&mut backlog, 0).1);
    backlog.advance(1);
    backlog.refuse();
    owe_at(&mut backlog, 0, slow(9 * BURST + 2 * ALONE + 10 + 64), 1, 0);
    assert!(!shed_at(&mut backlog, 0).1, "a message that has been sent does not count");
    owe_at(&mut backlog, 0, slow(9 * BURST + 2 * ALONE + 10 + 64), 1, 0);
    assert!(shed_at(&mut backlog, 0).1);
}

/// A topic whose messages stand behind many others drops a few more than it must, so that passes over the others are
/// seldom.
#[test]
fn messages_behind_many_others_are_dropped_together() {
    let slow = |messages_max| SlowRules {
        overflow: Overflow::DropOldest,
        messages_max: Some(messages_max),
        ..SlowRules::default()
    };
    let mut backlog = Backlog::default();
    (1..=640).for_each(|offset| owe_at(&mut backlog, 1, slow(1_000), offset, 0));
    (1..=101).for_each(|offset| owe_at(&mut backlog, 0, slow(100), offset, 0));
    assert_eq!(shed_at(&mut backlog, 0).0.len(), 640 + 90);
    let mut few = Backlog::default();
    (1..=62).for_each(|offset| owe_at(&mut few, 1, slow(1_000), offset, 0));
    (1..=101).for_each(|offset| owe_at(&mut few, 0, slow(100), offset, 0));
    assert_eq!(shed_at(&mut few, 0).0.len(), 62 + 100, "behind few others none is dropped beside");
}
