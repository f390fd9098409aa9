//! Tests of runs.

mod conflation;
mod tags;

use super::*;
use crate::{hub::LARGE_PIECE_PINS, proto::PreparedMessage};

fn text(run: &FrozenRun, slot: u32) -> (Vec<String>, u32) {
    let payloads = |pieces: &[Piece]| {
        let bytes = joined_bytes(pieces);
        let mut rest = bytes.as_slice();
        let mut payloads = Vec::new();
        while !rest.is_empty() {
            let (header, length) = crate::proto::FrameHeader::decode(rest).unwrap().unwrap();
            let end = length + header.payload_len as usize;
            let payload = &rest[length..end];
            payloads.push(if payload.len() > 16 { "large".into() } else { String::from_utf8_lossy(payload).into() });
            rest = &rest[end..];
        }
        payloads
    };
    match run.share(slot) {
        Share::Whole => (payloads(run.pieces()), run.messages()),
        Share::Part(pieces) => (payloads(&pieces), pieces.iter().map(|piece| piece.messages).sum()),
        Share::Nothing => (Vec::new(), 0),
    }
}

fn joined_bytes(pieces: &[Piece]) -> Vec<u8> {
    pieces.iter().flat_map(|piece| piece.bytes.to_vec()).collect()
}

fn message(text: &str) -> Bytes {
    PreparedMessage::text(text).into_frame()
}

fn binary(payload: &[u8]) -> Bytes {
    PreparedMessage::binary(payload).into_frame()
}

#[test]
fn small_frames_are_one_piece() {
    let mut run = Run::default();
    run.append(&message("a"), None, None);
    run.append(&message("b"), None, None);
    let run = run.freeze();
    assert_eq!(run.pieces().len(), 1);
    assert_eq!(text(&run, 7), (vec!["a".into(), "b".into()], 2));
}

#[test]
fn a_large_frame_is_shared_between_them() {
    let large = binary(&vec![1; LARGE_FRAME]);
    let mut run = Run::default();
    run.append(&message("a"), None, None);
    run.append(&large, Some(7), None);
    run.append(&message("b"), None, None);
    let run = run.freeze();
    assert_eq!(run.pieces()[1].bytes.as_ptr(), large.as_ptr());
    assert_eq!(text(&run, 1), (vec!["a".into(), "large".into(), "b".into()], 3));
    assert_eq!(text(&run, 7), (vec!["a".into(), "b".into()], 2));
}

#[test]
fn the_number_of_pieces_is_bounded() {
    let large = binary(&vec![1; LARGE_FRAME]);
    let mut run = Run::default();
    for _ in 0..600 {
        run.append(&message("a"), None, None);
        run.append(&large, None, None);
    }
    let run = run.freeze();
    assert!((PIECES_MAX..2 * PIECES_MAX - 1).contains(&run.pieces().len()), "{}", run.pieces().len());
    assert_eq!(run.messages(), 1_200);
    assert_eq!(joined_bytes(run.pieces()).len(), run.bytes());
    assert_eq!(text(&run, 0).0.len(), 1_200);
}

#[test]
fn own_messages_are_cut_out() {
    let mut run = Run::default();
    for (payload, source) in [("1", Some(7)), ("2", None), ("3", Some(7)), ("4", Some(8)), ("5", Some(7))] {
        run.append(&message(payload), source, None);
    }
    let run = run.freeze();
    assert_eq!(text(&run, 7), (vec!["2".into(), "4".into()], 2));
    assert_eq!(text(&run, 8).1, 4);
    assert_eq!(text(&run, 9).1, 5);
}

#[test]
fn only_own_messages_is_nothing() {
    let mut run = Run::default();
    run.append(&message("1"), Some(7), None);
    run.append(&message("2"), Some(7), None);
    assert!(matches!(run.freeze().share(7), Share::Nothing));
}

#[test]
fn a_late_subscriber_gets_the_rest() {
    let mut run = Run::default();
    run.append(&message("before"), Some(7), None);
    run.join(7);
    run.append(&message("own"), Some(7), None);
    run.append(&message("after"), None, None);
    assert_eq!(text(&run.freeze(), 7), (vec!["after".into()], 1));
}

#[test]
fn a_leaver_takes_its_share_so_far() {
    let mut run = Run::default();
    run.append(&message("1"), Some(7), None);
    run.append(&message("2"), None, None);
    assert_eq!(joined_bytes(&run.owed(7)), message("2")[..]);
    for count in 3..5_003 {
        run.append(&message("x"), None, None);
        assert_eq!(run.owed(8).iter().map(|piece| piece.messages).sum::<u32>(), count);
    }
    let run = run.freeze();
    assert!(run.pieces().len() < 2 * PIECES_MAX);
    assert_eq!(text(&run, 8).1, 5_002);
}

#[test]
fn the_buffer_comes_back_unless_it_is_referred_to() {
    let filled = || {
        let mut run = Run::new(BytesMut::with_capacity(1_024), Tags::Off);
        run.append(&message("a"), None, None);
        run.freeze()
    };
    let buffer = filled().into_buffer().expect("no piece refers to it");
    assert!(buffer.is_empty() && buffer.capacity() >= 1_000);
    let run = filled();
    let kept = run.pieces()[0].bytes.clone();
    assert!(run.into_buffer().is_none());
    assert_eq!(kept, message("a"));
}

/// A piece in a much larger buffer is copied, once for all backlogs; a piece that nearly fills its buffer is shared.
#[test]
fn what_a_slow_consumer_keeps_is_charged_or_copied() {
    let check = |capacity: usize, frame: usize, is_copied: bool| {
        let mut run = Run::new(BytesMut::with_capacity(capacity), Tags::Off);
        run.append(&binary(&vec![0; frame]), Some(9), None);
        let mut run = run.freeze();
        let (kept, again) = (run.owed(1), run.owed(2));
        assert_eq!(kept[0].bytes, run.pieces()[0].bytes);
        assert_eq!(kept[0].bytes.as_ptr() != run.pieces()[0].bytes.as_ptr(), is_copied, "{capacity} {frame}");
        assert_eq!(kept[0].bytes.as_ptr(), again[0].bytes.as_ptr());
        let memory = kept[0].charge - BUFFER;
        assert_eq!(memory, if is_copied { kept[0].bytes.len() } else { capacity });
        assert_eq!(run.into_buffer().is_some(), is_copied, "the buffer is free for the next run");
    };
    check(100_000, 10_000, true);
    check(10_600, 10_000, false);
    for large in [LARGE_FRAME, 60_000, 65_536, 1 << 20] {
        let mut run = Run::default();
        let message = binary(&vec![0; large]);
        run.append(&message, None, None);
        let mut run = run.freeze();
        let kept = run.owed(1).remove(0);
        assert!(kept.charge <= large + large / 10 + BUFFER, "{large} bytes are charged {}", kept.charge);
        assert_eq!(kept.bytes, message);
        assert_eq!(kept.bytes.as_ptr(), run.owed(2)[0].bytes.as_ptr());
    }
}

/// A little piece is handed out as it is: a backlog copies it.
#[test]
fn little_is_copied_by_the_slow_consumer() {
    let mut run = Run::new(BytesMut::with_capacity(100_000), Tags::Off);
    run.append(&message("small"), None, None);
    let mut run = run.freeze();
    assert_eq!(run.owed(1)[0].bytes.as_ptr(), run.pieces()[0].bytes.as_ptr());
}

/// A part of a shared piece is copied if it would keep much more memory alive than its own bytes.
#[test]
fn a_part_of_a_piece_keeps_no_more_than_itself() {
    let mut run = Run::default();
    for number in 0..20 {
        run.append(&binary(&[0; 10_000]), Some(7).filter(|_| number % 2 == 0), None);
    }
    let mut run = run.freeze();
    let kept = run.owed(7);
    let bytes: usize = kept.iter().map(|piece| piece.bytes.len()).sum();
    let charge: usize = kept.iter().map(|piece| piece.charge - BUFFER).sum();
    assert_eq!((kept.len(), bytes, charge), (10, 10 * 10_004, bytes));
}

/// A subscriber that leaves takes what was gathered so far. A later one takes the same pieces, and those gathered
/// since.
#[test]
fn leavers_share_what_is_kept() {
    let mut run = Run::default();
    run.append(&binary(&vec![0; 70_000]), None, None);
    let first = run.owed(1);
    run.append(&binary(&vec![1; 70_000]), None, None);
    let second = run.owed(2);
    assert_eq!((first.len(), second.len()), (1, 2));
    assert_eq!(first[0].bytes.as_ptr(), second[0].bytes.as_ptr());
}

#[test]
fn an_own_large_frame_is_not_charged() {
    let mut run = Run::default();
    run.append(&binary(&vec![0; 200_000]), Some(7), None);
    run.append(&message("owed"), None, None);
    assert!(run.freeze().owed(7).iter().map(|piece| piece.charge).sum::<usize>() < 300);
}

/// The weight of a run is at least its bytes, whatever buffer it gathers into, and little more if its bytes are many.
#[test]
fn a_run_weighs_what_it_holds() {
    let weigh = |frame: usize, count: usize, source: &dyn Fn(usize) -> Option<u32>| {
        let mut run = Run::new(BytesMut::with_capacity(4_096), Tags::Off);
        let message = binary(&vec![0; frame]);
        for number in 0..count {
            run.append(&message, source(number), None);
        }
        let weight = run.weight();
        let run = run.freeze();
        assert!(run.weight().abs_diff(weight) <= 8 * size_of::<Piece>(), "sealing changes little");
        (run.bytes(), run.weight())
    };
    let no_source: &dyn Fn(usize) -> Option<u32> = &|_| None;
    for (frame, count) in [(0, 1), (17, 10_000), (1_000, 1_000), (16_000, 100), (65_536, 20), (1 << 20, 3)] {
        let (bytes, weight) = weigh(frame, count, no_source);
        // A buffer doubles as it grows: up to the size of a piece, and with a frame that is larger than a receive
        // buffer.
        let doubles = bytes < 2 * SMALL_PIECE_MAX || frame >= LARGE_PIECE_PINS;
        let unused = if doubles { bytes } else { bytes / 4 };
        assert!((bytes..bytes + unused + 4_096).contains(&weight), "{count} of {frame}: {bytes}, {weight}");
    }
    // A frame that leaves most of its receive buffer unused.
    assert!(weigh(LARGE_FRAME, 10, no_source).1 >= 10 * LARGE_PIECE_PINS);
    // Every message is an exclusion: of two subscribers alternately, or of another subscriber each time.
    let two = weigh(0, 10_000, &|number| Some(number as u32 % 2)).1;
    assert!(two >= 10_000 * size_of::<Range<Position>>(), "{two}");
    let many = weigh(0, 10_000, &|number| Some(number as u32)).1;
    assert!(many >= 10_000 * (size_of::<Vec<Range<Position>>>() + 4 * size_of::<Range<Position>>()), "{many}");
}

/// Subscribers that join a run that has begun add to its weight; a slot that joins again replaces its entry.
#[test]
fn joining_weighs() {
    let mut run = Run::default();
    run.append(&message("before"), Some(7), None);
    let before = run.weight();
    (0..100).for_each(|slot| run.join(slot));
    let after = run.weight();
    assert!(after >= before + 100 * size_of::<Range<Position>>());
    (0..100).for_each(|slot| run.join(slot));
    assert_eq!(run.weight(), after);
}

/// Beyond the first pieces of a run, large frames are copied into tails, and the length of a tail has a limit too.
#[test]
fn tails_have_a_limit() {
    let large = binary(&vec![1; 70_000]);
    let mut run = Run::default();
    (0..1_200).for_each(|_| run.append(&large, None, None));
    let run = run.freeze();
    let longest = run.pieces().iter().map(|piece| piece.bytes.len()).max();
    assert!(run.bytes() > 80 << 20 && longest <= Some(small_piece_max(run.bytes())), "{longest:?}");
    assert!(run.pieces().len() < 2 * PIECES_MAX);
}

/// A crowd that publishes and leaves shares what it is owed: the memory is in proportion to the run, not to the run
/// multiplied by the crowd.
#[test]
fn a_crowd_that_leaves_shares_what_it_is_owed() {
    const CROWD: u32 = 1_000;
    let message = binary(&[1; 3_000]);
    let mut run = Run::default();
    let (mut shared, mut copied, mut pieces) = (HashMap::new(), 0, 0);
    let mut all = Vec::new();
    for slot in 0..CROWD {
        run.append(&message, Some(slot), None);
        let owed = run.owed(slot);
        assert_eq!(owed.iter().map(|piece| piece.messages).sum::<u32>(), slot);
        pieces = owed.len().max(pieces);
        for piece in &owed {
            if piece.bytes.len() < super::super::piece::COPIED_BELOW {
                copied += piece.bytes.len();
            } else {
                shared.insert(piece.bytes.as_ptr(), piece.bytes.len());
            }
        }
        // The pieces stay alive, so no address is used again.
        all.push(owed);
    }
    let memory = copied + shared.values().sum::<usize>();
    let length = run.gathered.end.byte;
    assert!(memory < 6 * length, "{memory} bytes for a run of {length}");
    assert!(pieces < 40, "{pieces} pieces");
    assert!(run.weight() >= length && run.weight() < 4 * length, "{} weighs the run", run.weight());
}

#[test]
fn messages_are_counted_for_each_piece() {
    let large = binary(&vec![1; LARGE_FRAME]);
    let mut run = Run::default();
    for source in [None, Some(7), None] {
        run.append(&message("a"), source, None);
        run.append(&large, None, None);
        run.append(&message("b"), source, None);
    }
    let messages = |pieces: &[Piece]| pieces.iter().map(|piece| piece.messages).collect::<Vec<_>>();
    let mut run = run.freeze();
    assert_eq!(messages(run.pieces()), [1, 1, 2, 1, 2, 1, 1]);
    assert_eq!(messages(&run.owed(7)), [1, 1, 1, 1, 1, 1, 1]);
}

#[test]
fn much_is_gathered_in_several_pieces() {
    let mut run = Run::default();
    for _ in 0..1_000 {
        run.append(&binary(&[0; 1_000]), None, None);
    }
    let run = run.freeze();
    assert_eq!(run.pieces().len(), run.bytes().div_ceil(SMALL_PIECE_MAX));
}

#[test]
fn messages_of_one_sender_that_stand_together_are_one_exclusion() {
    let mut run = Run::default();
    for _ in 0..1_000 {
        run.append(&message("x"), Some(7), None);
    }
    assert_eq!(run.gathered.excluded[&7].len(), 1);
    assert!(matches!(run.freeze().share(7), Share::Nothing));
}
