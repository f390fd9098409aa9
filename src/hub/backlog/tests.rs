//! Tests of backlogs.

mod model;
mod shed;
mod shed_limits;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

/// Returns a backlog of pieces with these lengths, in bytes. All pieces differ.
fn backlog(lengths: &[usize]) -> Backlog {
    let mut backlog = Backlog::default();
    for (at, &length) in lengths.iter().enumerate() {
        backlog.push(Piece::new(vec![b'a' + at as u8; length].into(), 1), None);
    }
    backlog
}

fn unsent(backlog: &Backlog) -> Vec<u8> {
    backlog.unsent(usize::MAX, usize::MAX).flatten().copied().collect()
}

/// Drops what a close does not send, and returns how many messages were dropped.
fn dropped(backlog: &mut Backlog) -> u32 {
    backlog.truncate().iter().map(Label::messages).sum()
}

const LARGE: usize = COPIED_BELOW;

/// Frames for the connection alone have one label.
const LABEL: usize = size_of::<Label>();

#[test]
fn a_backlog_advances_over_pieces_and_copied_bytes() {
    let lengths = [3, LARGE, 5, 7, LARGE + 1, 2];
    let mut backlog = backlog(&lengths);
    let whole = unsent(&backlog);
    assert_eq!(whole.len(), lengths.iter().sum::<usize>());
    for count in 0..whole.len() {
        assert!(unsent(&backlog) == whole[count..]);
        backlog.advance(1);
    }
    assert!(backlog.is_empty());
    assert_eq!((backlog.bytes(), backlog.messages()), (0, 0));
}

#[test]
fn a_backlog_is_new_until_the_socket_has_refused_it() {
    for lengths in [[2, 2], [LARGE, LARGE]] {
        let mut backlog = backlog(&lengths);
        backlog.advance(lengths[0] + 1);
        assert!(!backlog.was_refused());
        backlog.refuse();
        assert!(backlog.was_refused());
        backlog.advance(lengths[1] - 1);
        assert!(!backlog.was_refused(), "what comes now begins a new backlog");
    }
}

/// Pieces sent in part count whole, and so do empty places. The label counts too.
#[test]
fn a_backlog_counts_what_it_keeps_alive() {
    let places = |count: usize| count * size_of::<Piece>();
    let mut backlog = backlog(&[LARGE, 2 * LARGE]);
    backlog.advance(LARGE - 1);
    assert_eq!((backlog.bytes(), backlog.messages()), (3 * LARGE + 2 * BUFFER + places(4) + LABEL, 2));
    backlog.advance(2);
    assert_eq!((backlog.bytes(), backlog.messages()), (2 * LARGE + BUFFER + places(4) + LABEL, 1));
    backlog.push(Piece::new(Bytes::from_static(b"little"), 1), None);
    assert_eq!((backlog.bytes(), backlog.messages()), (2 * LARGE + 2 * BUFFER + places(4) + TAIL_MIN + LABEL, 2));
    backlog.advance(2 * LARGE - 1);
    assert_eq!((backlog.bytes(), backlog.messages()), (BUFFER + TAIL_MIN + LABEL, 1));
}

/// The order of little and large pieces does not matter.
#[test]
fn little_and_large_pieces_in_turn_weigh_little_more_than_their_bytes() {
    let mut backlog = Backlog::default();
    for number in 0..1_000 {
        backlog.push(Piece::new(vec![0; if number % 7 == 0 { LARGE } else { LARGE - 100 }].into(), 1), None);
    }
    let bytes: usize = backlog.unsent(usize::MAX, usize::MAX).map(<[u8]>::len).sum();
    assert!(backlog.bytes() <= bytes + bytes / 10, "{bytes} bytes are charged {}", backlog.bytes());
}

/// Many little pieces take hardly more than their bytes, and few pieces take little.
#[test]
fn little_pieces_are_copied_one_behind_the_other() {
    for (length, count) in [(21, 1), (21, 100), (21, 100_000), (1_004, 4_000), (LARGE - 1, 1_000)] {
        let mut backlog = Backlog::default();
        (0..count).for_each(|_| backlog.push(Piece::new(vec![0; length].into(), 1), None));
        let bytes = length * count;
        let most = if bytes < 4 * TAIL_MAX { 2 * bytes + 2 * BUFFER + LABEL } else { bytes + bytes / 7 };
        assert!((bytes..=most).contains(&backlog.bytes()), "{count} of {length}: {}", backlog.bytes());
        assert!(backlog.unsent(usize::MAX, usize::MAX).count() <= 1 + bytes / (TAIL_MAX - LARGE));
        assert_eq!(backlog.messages(), count as u64);
    }
}

#[test]
fn a_cut_keeps_the_piece_that_was_begun() {
    let mut backlog = backlog(&[LARGE, 2 * LARGE, 2]);
    backlog.advance(1);
    backlog.refuse();
    assert_eq!(dropped(&mut backlog), 2);
    assert_eq!(unsent(&backlog), [b'a'; LARGE - 1]);
    assert!(backlog.was_refused() && backlog.bytes() < 2 * LARGE);
    backlog.push(Piece::new(Bytes::from_static(b"close"), 0), None);
    assert!(unsent(&backlog).ends_with(b"aaclose"));
    backlog.advance(LARGE - 1 + 5);
    assert!(backlog.is_empty());
}

/// Pieces that were copied together stay together.
#[test]
fn a_cut_keeps_the_first_piece_whole() {
    let mut backlog = backlog(&[2, 3]);
    backlog.advance(1);
    assert_eq!((dropped(&mut backlog), backlog.messages()), (0, 2));
    assert_eq!(unsent(&backlog), b"abbb");
}

#[test]
#[should_panic(expected = "more was sent than was owed")]
fn advancing_beyond_the_end_panics() {
    backlog(&[2]).advance(3);
}

#[test]
fn the_number_of_unsent_pieces_is_bounded() {
    let backlog = backlog(&[LARGE, LARGE, 1]);
    let count = |pieces, bytes| backlog.unsent(pieces, bytes).count();
    assert_eq!((count(2, usize::MAX), count(9, usize::MAX)), (2, 3));
    let length = |bytes| backlog.unsent(9, bytes).map(<[u8]>::len).sum::<usize>();
    assert_eq!((length(1), length(LARGE + 1)), (1, LARGE + 1));
}

proptest! {
    /// The unsent bytes are those that were pushed after the sent bytes, and an empty backlog weighs nothing.
    #[test]
    fn a_backlog_is_a_queue_of_bytes(steps in prop::collection::vec((any::<bool>(), 0..3 * COPIED_BELOW), 0..60)) {
        let (mut backlog, mut model) = (Backlog::default(), Vec::new());
        for (at, (is_sent, length)) in steps.into_iter().enumerate() {
            if is_sent {
                let count = length.min(model.len());
                model.drain(..count);
                backlog.advance(count);
            } else {
                model.extend(vec![at as u8; length]);
                backlog.push(Piece::new(vec![at as u8; length].into(), 1), None);
            }
            prop_assert!(unsent(&backlog) == model);
            prop_assert_eq!(backlog.is_empty(), model.is_empty());
            prop_assert!(backlog.bytes() >= model.len());
        }
        backlog.advance(model.len());
        prop_assert_eq!((backlog.bytes(), backlog.messages()), (0, 0));
    }
}
