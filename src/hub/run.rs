//! What a turn owes a topic: the contiguous bytes that each of its subscribers is sent at once.

use std::{collections::HashMap, ops::Range};

use bytes::{Bytes, BytesMut};

use crate::proto::PreparedMessage;

/// The messages that have been gathered for a topic since its last walk began.
///
/// Small frames are copied one behind the other, so that a subscriber's share is one piece of memory and one send
/// carries them all. A large frame stays where it is and stands between.
#[derive(Debug, Default)]
pub struct Run {
    /// All of it, but for the bytes that are still in `tail`.
    gathered: FrozenRun,
    tail: BytesMut,
}

/// A part of a run that one subscriber is not owed.
#[derive(Debug, Clone)]
struct Exclusion {
    bytes: Range<usize>,
    messages: u32,
}

impl Run {
    /// An empty run that gathers into `buffer`, which must be empty.
    #[must_use]
    pub fn new(buffer: BytesMut) -> Self {
        debug_assert!(buffer.is_empty());
        Run { gathered: FrozenRun::default(), tail: buffer }
    }

    /// Appends a message. The subscriber at slot `except` is not owed it.
    pub fn append(&mut self, message: &PreparedMessage, except: Option<u32>) {
        let frame = message.frame();
        if frame.len() >= LARGE_PIECE && self.gathered.pieces.len() < PIECES_MAX {
            self.seal_tail();
            self.gathered.pieces.push(frame.clone());
        } else {
            self.tail.extend_from_slice(frame);
        }
        let gathered = &mut self.gathered;
        let begin = gathered.bytes;
        gathered.bytes += frame.len();
        gathered.messages += 1;
        if let Some(slot) = except {
            let exclusion = Exclusion { bytes: begin..gathered.bytes, messages: 1 };
            gathered.excluded.entry(slot).or_default().push(exclusion);
        }
    }

    /// The subscriber at `slot` joins now: it is owed only what is appended from here on.
    pub fn join(&mut self, slot: u32) {
        let gathered = &mut self.gathered;
        if gathered.messages > 0 {
            let before = Exclusion { bytes: 0..gathered.bytes, messages: gathered.messages };
            // Replaces what is noted of an earlier owner of the slot.
            gathered.excluded.insert(slot, vec![before]);
        }
    }

    /// What the run owes the subscriber at `slot` so far. For one that leaves before the walk.
    pub fn share_so_far(&mut self, slot: u32) -> Share {
        self.seal_tail();
        self.gathered.share(slot)
    }

    /// What has been gathered so far, but for the bytes that came last; complete after [`Run::share_so_far`].
    #[must_use]
    pub fn so_far(&self) -> &FrozenRun {
        &self.gathered
    }

    /// Ends gathering.
    #[must_use]
    pub fn freeze(mut self) -> FrozenRun {
        self.seal_tail();
        self.gathered
    }

    fn seal_tail(&mut self) {
        if self.tail.is_empty() {
            return;
        }
        let pieces = &mut self.gathered.pieces;
        pieces.push(self.tail.split().freeze());
        // Only many who leave in one turn come here.
        if pieces.len() > 2 * PIECES_MAX - 2 {
            *pieces = vec![pieces.concat().into()];
        }
    }
}

/// A run on its way to the subscribers. It never changes again; laggards keep references into it.
#[derive(Debug, Default)]
pub struct FrozenRun {
    pieces: Vec<Bytes>,
    bytes: usize,
    messages: u32,
    /// What the run does not owe a subscriber: its own messages, and those before it joined.
    excluded: HashMap<u32, Vec<Exclusion>>,
}

/// What a frozen run owes one subscriber.
#[derive(Debug)]
pub enum Share {
    /// All of it.
    Whole,
    /// These pieces, none of them empty and each whole frames, which hold so many messages.
    Part(Vec<Bytes>, u32),
    /// None of it.
    Nothing,
}

impl FrozenRun {
    /// What it owes the subscriber at `slot`.
    #[must_use]
    pub fn share(&self, slot: u32) -> Share {
        // Nearly every run has no exclusions, and then this is all that a recipient costs.
        if self.excluded.is_empty() {
            return Share::Whole;
        }
        let Some(exclusions) = self.excluded.get(&slot) else { return Share::Whole };
        let mut pieces = Vec::new();
        let mut from = 0;
        let mut messages = self.messages;
        for exclusion in exclusions {
            self.slice(from..exclusion.bytes.start, &mut pieces);
            from = exclusion.bytes.end;
            messages -= exclusion.messages;
        }
        self.slice(from..self.bytes, &mut pieces);
        if pieces.is_empty() { Share::Nothing } else { Share::Part(pieces, messages) }
    }

    /// The whole run, as pieces of whole frames.
    #[must_use]
    pub fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }

    /// Its length.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many messages it holds.
    #[must_use]
    pub fn messages(&self) -> u32 {
        self.messages
    }

    /// Gives back the memory it gathered in, unless a laggard still refers to it.
    #[must_use]
    pub fn into_buffer(mut self) -> Option<BytesMut> {
        let only = self.pieces.pop()?;
        if !self.pieces.is_empty() || only.len() >= LARGE_PIECE {
            return None;
        }
        let mut buffer = only.try_into_mut().ok()?;
        buffer.clear();
        Some(buffer)
    }

    fn slice(&self, range: Range<usize>, into: &mut Vec<Bytes>) {
        let mut begin = 0;
        for piece in &self.pieces {
            let end = begin + piece.len();
            let (from, to) = (range.start.max(begin), range.end.min(end));
            if from < to {
                into.push(piece.slice(from - begin..to - begin));
            }
            begin = end;
        }
    }
}

/// A frame of so many bytes is a piece of its own, shared and not copied. Below it, copying costs less than another
/// piece in every send.
const LARGE_PIECE: usize = crate::proto::LARGE_FRAME;

/// Beyond so many pieces even large frames are copied, so that one send can carry the run whatever stands before it.
/// Each large frame adds two at the most, and the tail is one more.
const PIECES_MAX: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    fn text(run: &FrozenRun, slot: u32) -> (Vec<String>, u32) {
        let payloads = |pieces: &[Bytes]| {
            let joined = pieces.concat();
            let mut rest = joined.as_slice();
            let mut payloads = Vec::new();
            while !rest.is_empty() {
                let (header, length) = crate::proto::FrameHeader::decode(rest).unwrap().unwrap();
                let end = length + header.payload_len as usize;
                let payload = &rest[length..end];
                payloads.push(if payload.len() > 16 {
                    "large".into()
                } else {
                    String::from_utf8_lossy(payload).into()
                });
                rest = &rest[end..];
            }
            payloads
        };
        match run.share(slot) {
            Share::Whole => (payloads(run.pieces()), run.messages()),
            Share::Part(pieces, messages) => (payloads(&pieces), messages),
            Share::Nothing => (Vec::new(), 0),
        }
    }

    fn message(text: &str) -> PreparedMessage {
        PreparedMessage::text(text)
    }

    #[test]
    fn small_frames_are_one_piece() {
        let mut run = Run::default();
        run.append(&message("a"), None);
        run.append(&message("b"), None);
        let run = run.freeze();
        assert_eq!(run.pieces().len(), 1);
        assert_eq!(text(&run, 7), (vec!["a".into(), "b".into()], 2));
    }

    #[test]
    fn a_large_frame_is_shared_between_them() {
        let large = PreparedMessage::binary(&vec![1; LARGE_PIECE]);
        let mut run = Run::default();
        run.append(&message("a"), None);
        run.append(&large, Some(7));
        run.append(&message("b"), None);
        let run = run.freeze();
        assert_eq!(run.pieces()[1].as_ptr(), large.frame().as_ptr());
        assert_eq!(text(&run, 1), (vec!["a".into(), "large".into(), "b".into()], 3));
        assert_eq!(text(&run, 7), (vec!["a".into(), "b".into()], 2));
    }

    #[test]
    fn the_number_of_pieces_is_bounded() {
        let large = PreparedMessage::binary(&vec![1; LARGE_PIECE]);
        let mut run = Run::default();
        for _ in 0..600 {
            run.append(&message("a"), None);
            run.append(&large, None);
        }
        let run = run.freeze();
        assert!(run.pieces().len() <= PIECES_MAX + 2, "{}", run.pieces().len());
        assert_eq!(run.messages(), 1_200);
        assert_eq!(run.pieces().iter().map(Bytes::len).sum::<usize>(), run.bytes());
        assert_eq!(text(&run, 0).0.len(), 1_200);
    }

    #[test]
    fn own_messages_are_cut_out() {
        let mut run = Run::default();
        for (payload, source) in [("1", Some(7)), ("2", None), ("3", Some(7)), ("4", Some(8)), ("5", Some(7))] {
            run.append(&message(payload), source);
        }
        let run = run.freeze();
        assert_eq!(text(&run, 7), (vec!["2".into(), "4".into()], 2));
        assert_eq!(text(&run, 8).1, 4);
        assert_eq!(text(&run, 9).1, 5);
    }

    #[test]
    fn only_own_messages_is_nothing() {
        let mut run = Run::default();
        run.append(&message("1"), Some(7));
        run.append(&message("2"), Some(7));
        assert!(matches!(run.freeze().share(7), Share::Nothing));
    }

    #[test]
    fn who_joins_late_gets_the_rest() {
        let mut run = Run::default();
        run.append(&message("before"), Some(7));
        run.join(7);
        run.append(&message("own"), Some(7));
        run.append(&message("after"), None);
        assert_eq!(text(&run.freeze(), 7), (vec!["after".into()], 1));
    }

    #[test]
    fn who_leaves_takes_its_share_so_far() {
        let mut run = Run::default();
        run.append(&message("1"), Some(7));
        run.append(&message("2"), None);
        assert!(matches!(run.share_so_far(7), Share::Part(pieces, 1) if pieces.concat() == message("2").frame()[..]));
        for _ in 0..5_000 {
            run.append(&message("x"), None);
            assert!(matches!(run.share_so_far(8), Share::Whole));
        }
        let run = run.freeze();
        assert!(run.pieces().len() < 2 * PIECES_MAX);
        assert_eq!(text(&run, 8).1, 5_002);
    }

    #[test]
    fn the_buffer_comes_back_unless_it_is_referred_to() {
        let filled = || {
            let mut run = Run::new(BytesMut::with_capacity(1_024));
            run.append(&message("a"), None);
            run.freeze()
        };
        let buffer = filled().into_buffer().expect("nobody refers to it");
        assert!(buffer.is_empty() && buffer.capacity() >= 1_000);
        let run = filled();
        let laggard = run.pieces()[0].clone();
        assert!(run.into_buffer().is_none());
        assert_eq!(laggard, message("a").frame());
    }
}
