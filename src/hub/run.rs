//! What a turn owes a topic: the contiguous bytes that each of its subscribers is sent at once.

use std::{collections::HashMap, iter, mem, ops::Range};

use bytes::{Bytes, BytesMut};

use crate::proto::PreparedMessage;

/// Whole frames in one piece of memory.
#[derive(Debug, Clone)]
pub struct Piece {
    /// The frames.
    pub bytes: Bytes,
    /// How many messages they carry.
    pub messages: u32,
    /// How many bytes of memory it keeps alive, its own among them.
    pub charge: usize,
}

impl Piece {
    /// A piece that keeps nothing alive but itself.
    #[must_use]
    pub fn new(bytes: Bytes, messages: u32) -> Self {
        let charge = bytes.len();
        Piece { bytes, messages, charge }
    }

    fn is_large(&self) -> bool {
        self.bytes.len() >= LARGE_PIECE
    }
}

/// The messages that have been gathered for a topic since its last walk began.
///
/// Small frames are copied one behind the other, so that a subscriber's share is one piece of memory and one send
/// carries them all. A large frame stays where it is and stands between.
#[derive(Debug, Default)]
pub struct Run {
    /// All of it, but for the bytes that are still in `tail`.
    gathered: FrozenRun,
    tail: BytesMut,
    /// How many messages are in the tail.
    tail_messages: u32,
}

impl Run {
    /// An empty run that gathers into `buffer`, which must be empty.
    #[must_use]
    pub fn new(buffer: BytesMut) -> Self {
        debug_assert!(buffer.is_empty());
        Run { tail: buffer, ..Run::default() }
    }

    /// Appends a message. The subscriber at slot `except` is not owed it.
    pub fn append(&mut self, message: &PreparedMessage, except: Option<u32>) {
        let frame = message.frame();
        let may_add_pieces = self.gathered.pieces.len() < PIECES_MAX;
        if frame.len() >= LARGE_PIECE && may_add_pieces {
            self.seal_tail();
            // A large frame stands in the buffer it was received into, which doubles as it grows.
            let charge = (2 * frame.len()).max(LARGE_PIECE_PINS);
            self.gathered.pieces.push(Piece { bytes: frame.clone(), messages: 1, charge });
        } else {
            self.tail.extend_from_slice(frame);
            self.tail_messages += 1;
            // Laggards give memory back piece by piece.
            if self.tail.len() >= TAIL_MAX && may_add_pieces {
                self.seal_tail();
            }
        }
        let begin = self.gathered.end;
        self.gathered.end = Position { byte: begin.byte + frame.len(), message: begin.message + 1 };
        if let Some(slot) = except {
            let end = self.gathered.end;
            let exclusions = self.gathered.excluded.entry(slot).or_default();
            match exclusions.last_mut() {
                // One who sends much is received from much at once: its messages stand together.
                Some(last) if last.end == begin => last.end = end,
                _ => exclusions.push(begin..end),
            }
        }
    }

    /// The subscriber at `slot` joins now: it is owed only what is appended from here on.
    pub fn join(&mut self, slot: u32) {
        if !self.is_empty() {
            // Replaces what is noted of an earlier owner of the slot.
            self.gathered.excluded.insert(slot, vec![Position::default()..self.gathered.end]);
        }
    }

    /// What the run owes the subscriber at `slot` so far. For one that leaves before the walk.
    pub fn owed(&mut self, slot: u32) -> Vec<Piece> {
        self.seal_tail();
        self.gathered.spare = self.tail.capacity();
        self.gathered.owed(slot)
    }

    /// Is there nothing in it?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.gathered.messages() == 0
    }

    /// Ends gathering.
    #[must_use]
    pub fn freeze(mut self) -> FrozenRun {
        self.seal_tail();
        self.gathered.spare = self.tail.capacity();
        self.gathered
    }

    fn seal_tail(&mut self) {
        if self.tail.is_empty() {
            return;
        }
        let pieces = &mut self.gathered.pieces;
        pieces.push(Piece::new(self.tail.split().freeze(), mem::take(&mut self.tail_messages)));
        // Only many who leave in one turn come here.
        if pieces.len() > 2 * PIECES_MAX - 2 {
            let all: Vec<u8> = pieces.iter().flat_map(|piece| &piece.bytes[..]).copied().collect();
            *pieces = vec![Piece::new(all.into(), self.gathered.end.message)];
        }
    }
}

/// A run on its way to the subscribers. It never changes again; laggards keep references into it.
#[derive(Debug, Default)]
pub struct FrozenRun {
    pieces: Vec<Piece>,
    end: Position,
    /// What the run does not owe a subscriber, in order: its own messages, and those before it joined.
    excluded: HashMap<u32, Vec<Range<Position>>>,
    /// Unused memory behind the last small piece, kept alive by it.
    spare: usize,
}

/// A boundary between two messages of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Position {
    byte: usize,
    message: u32,
}

/// What a frozen run owes one subscriber.
#[derive(Debug)]
pub enum Share {
    /// All of it.
    Whole,
    /// These pieces, none of them empty.
    Part(Vec<Piece>),
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
        let part = self.without(exclusions);
        if part.is_empty() { Share::Nothing } else { Share::Part(part) }
    }

    /// What it owes the subscriber at `slot`, to be kept for later.
    #[must_use]
    pub fn owed(&self, slot: u32) -> Vec<Piece> {
        let mut pieces = match self.share(slot) {
            Share::Whole => self.pieces.clone(),
            Share::Part(pieces) => pieces,
            Share::Nothing => Vec::new(),
        };
        self.keep(&mut pieces);
        pieces
    }

    /// Prepares pieces of this run for being kept after it: small ones that would keep much more memory alive than they
    /// have bytes are copied, others are charged with it.
    pub fn keep(&self, pieces: &mut [Piece]) {
        let small =
            |pieces: &[Piece]| pieces.iter().filter(|piece| !piece.is_large()).map(|piece| piece.bytes.len()).sum();
        let memory = small(&self.pieces) + self.spare;
        let kept: usize = small(pieces);
        let mut beyond = memory.saturating_sub(kept);
        for piece in pieces.iter_mut().rev().filter(|piece| !piece.is_large()) {
            if memory > 2 * kept {
                *piece = Piece::new(Bytes::copy_from_slice(&piece.bytes), piece.messages);
            } else {
                piece.charge += mem::take(&mut beyond);
            }
        }
    }

    /// The whole run.
    #[must_use]
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Its length.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.end.byte
    }

    /// How many messages it holds.
    #[must_use]
    pub fn messages(&self) -> u32 {
        self.end.message
    }

    /// Gives back the memory it gathered in, unless a laggard still refers to it.
    #[must_use]
    pub fn into_buffer(mut self) -> Option<BytesMut> {
        let only = self.pieces.pop().filter(|_| self.pieces.is_empty())?;
        let mut buffer = only.bytes.try_into_mut().ok()?;
        buffer.clear();
        Some(buffer)
    }

    /// The run without what is excluded.
    fn without(&self, exclusions: &[Range<Position>]) -> Vec<Piece> {
        let begins = iter::once(Position::default()).chain(exclusions.iter().map(|exclusion| exclusion.end));
        let ends = exclusions.iter().map(|exclusion| exclusion.start).chain([self.end]);
        let mut part = Vec::new();
        let mut pieces = self.pieces.iter();
        let mut piece = pieces.next();
        let mut piece_begin = Position::default();
        for (mut from, to) in begins.zip(ends) {
            while from.byte < to.byte
                && let Some(whole) = piece
            {
                let piece_end = piece_begin.after(whole);
                if piece_end.byte <= from.byte {
                    (piece, piece_begin) = (pieces.next(), piece_end);
                    continue;
                }
                let until = if piece_end.byte < to.byte { piece_end } else { to };
                let bytes = whole.bytes.slice(from.byte - piece_begin.byte..until.byte - piece_begin.byte);
                let charge = if whole.is_large() { whole.charge } else { bytes.len() };
                part.push(Piece { bytes, messages: until.message - from.message, charge });
                from = until;
            }
        }
        part
    }
}

impl Position {
    fn after(self, piece: &Piece) -> Position {
        Position { byte: self.byte + piece.bytes.len(), message: self.message + piece.messages }
    }
}

/// A frame of so many bytes is a piece of its own, shared and not copied. Below it, copying costs less than another
/// piece in every send.
const LARGE_PIECE: usize = crate::proto::LARGE_FRAME;

/// A large frame keeps at least so much memory alive: the buffer it was received into.
pub const LARGE_PIECE_PINS: usize = 64 * 1_024;

/// Small frames are gathered in pieces of about this size.
const TAIL_MAX: usize = 256 * 1_024;

/// Beyond so many pieces even large frames are copied, so that one send can carry the run whatever stands before it.
/// Each large frame adds two at the most, and the tail is one more.
const PIECES_MAX: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    fn text(run: &FrozenRun, slot: u32) -> (Vec<String>, u32) {
        let payloads = |pieces: &[Piece]| {
            let joined = joined(pieces);
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
            Share::Part(pieces) => (payloads(&pieces), pieces.iter().map(|piece| piece.messages).sum()),
            Share::Nothing => (Vec::new(), 0),
        }
    }

    fn joined(pieces: &[Piece]) -> Vec<u8> {
        pieces.iter().flat_map(|piece| piece.bytes.to_vec()).collect()
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
        assert_eq!(run.pieces()[1].bytes.as_ptr(), large.frame().as_ptr());
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
        assert_eq!(joined(run.pieces()).len(), run.bytes());
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
        assert_eq!(joined(&run.owed(7)), message("2").frame()[..]);
        for count in 3..5_003 {
            run.append(&message("x"), None);
            assert_eq!(run.owed(8).iter().map(|piece| piece.messages).sum::<u32>(), count);
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
        let laggard = run.pieces()[0].bytes.clone();
        assert!(run.into_buffer().is_none());
        assert_eq!(laggard, message("a").frame());
    }

    #[test]
    fn what_a_laggard_keeps_is_charged_or_copied() {
        let mut run = Run::new(BytesMut::with_capacity(1_000));
        run.append(&message("small"), Some(9));
        let run = run.freeze();
        let kept = run.owed(1);
        assert_eq!((kept[0].charge, kept[0].bytes.len()), (7, 7));
        assert_ne!(kept[0].bytes.as_ptr(), run.pieces()[0].bytes.as_ptr(), "it would keep 1 000 bytes alive");

        let mut run = Run::new(BytesMut::with_capacity(1_000));
        run.append(&PreparedMessage::binary(&[0; 600]), None);
        let run = run.freeze();
        let kept = run.owed(1);
        assert_eq!(kept[0].bytes.as_ptr(), run.pieces()[0].bytes.as_ptr());
        assert!(kept[0].charge >= 1_000, "{}", kept[0].charge);
    }

    #[test]
    fn an_own_large_frame_is_not_charged() {
        let mut run = Run::default();
        run.append(&PreparedMessage::binary(&vec![0; 200_000]), Some(7));
        run.append(&message("owed"), None);
        assert!(run.freeze().owed(7).iter().map(|piece| piece.charge).sum::<usize>() < 100);
    }

    #[test]
    fn messages_are_counted_for_each_piece() {
        let large = PreparedMessage::binary(&vec![1; LARGE_PIECE]);
        let mut run = Run::default();
        for source in [None, Some(7), None] {
            run.append(&message("a"), source);
            run.append(&large, None);
            run.append(&message("b"), source);
        }
        let messages = |pieces: &[Piece]| pieces.iter().map(|piece| piece.messages).collect::<Vec<_>>();
        let run = run.freeze();
        assert_eq!(messages(run.pieces()), [1, 1, 2, 1, 2, 1, 1]);
        assert_eq!(messages(&run.owed(7)), [1, 1, 1, 1, 1, 1, 1]);
    }

    #[test]
    fn much_is_gathered_in_several_pieces() {
        let mut run = Run::default();
        for _ in 0..1_000 {
            run.append(&PreparedMessage::binary(&[0; 1_000]), None);
        }
        let run = run.freeze();
        assert_eq!(run.pieces().len(), run.bytes().div_ceil(TAIL_MAX));
    }

    #[test]
    fn messages_of_one_sender_that_stand_together_are_one_exclusion() {
        let mut run = Run::default();
        for _ in 0..1_000 {
            run.append(&message("x"), Some(7));
        }
        assert_eq!(run.gathered.excluded[&7].len(), 1);
        assert!(matches!(run.freeze().share(7), Share::Nothing));
    }
}
