//! Runs: the contiguous bytes that a topic's subscribers are owed after a turn, which each of them is sent at once.

use std::{collections::HashMap, iter, mem, ops::Range};

use bytes::{Bytes, BytesMut};

use super::memory::{ALLOCATION, BUFFER, LARGE_PIECE_PINS, pinned};
use crate::proto::{LARGE_FRAME, PreparedMessage};

/// Whole frames in one piece of memory.
#[derive(Debug, Clone)]
pub struct Piece {
    /// The frames.
    pub bytes: Bytes,
    /// How many messages they carry.
    pub messages: u32,
    /// How many bytes of memory the piece keeps alive, its own among them.
    pub charge: usize,
}

impl Piece {
    /// Returns a piece that keeps nothing alive but itself.
    #[must_use]
    pub fn new(bytes: Bytes, messages: u32) -> Self {
        let charge = bytes.len() + BUFFER;
        Piece { bytes, messages, charge }
    }

    /// Returns the same bytes, to be kept for long: in memory of their own if they stand in much more.
    pub(super) fn kept(&self) -> Piece {
        // The backlog of a slow consumer copies so little behind the rest.
        let is_copied = self.bytes.len() < COPIED_BELOW;
        if is_copied || self.charge <= self.bytes.len() + self.bytes.len() / 10 + BUFFER {
            return self.clone();
        }
        Piece::new(Bytes::copy_from_slice(&self.bytes), self.messages)
    }
}

/// The messages that have been gathered for a topic since its last walk began.
///
/// Small frames are copied one behind the other, so that a subscriber's share is one piece of memory and one send
/// carries them all. A large frame stays where it is and stands between.
#[derive(Debug, Default)]
pub struct Run {
    /// The whole run, but for the bytes that are still in `tail`.
    gathered: FrozenRun,
    tail: BytesMut,
    /// How many messages are in the tail.
    tail_messages: u32,
    /// Bytes of the buffer that the tail stands in, and of those of all small frames together.
    buffer: usize,
    buffers: usize,
    /// The tail's buffer has pieces in front of it.
    is_shared: bool,
    /// The run still gathers into the buffer that it was given, whose memory was there before.
    is_given: bool,
    /// Bytes of all small frames.
    small: usize,
    /// Bytes that the large frames keep alive.
    large: usize,
    /// Memory of the exclusions.
    exclusions: usize,
}

impl Run {
    /// Returns an empty run that gathers into `buffer`, which must be empty.
    #[must_use]
    pub fn new(buffer: BytesMut) -> Self {
        assert!(buffer.is_empty(), "a run gathers into an empty buffer");
        let capacity = buffer.capacity();
        Run { tail: buffer, buffer: capacity, buffers: capacity, is_given: capacity > 0, ..Run::default() }
    }

    /// Appends a message. The subscriber at slot `except` is not owed it.
    pub fn append(&mut self, message: &PreparedMessage, except: Option<u32>) {
        let frame = message.frame();
        if frame.len() >= LARGE_FRAME && self.gathered.pieces.len() < PIECES_MAX {
            self.seal_tail();
            self.large += pinned(frame);
            // A buffer that grows with its frame doubles, which leaves some of it unused.
            let charge = if frame.len() < LARGE_PIECE_PINS { pinned(frame) } else { 2 * frame.len() };
            self.gathered.pieces.push(Piece { bytes: frame.clone(), messages: 1, charge });
        } else {
            self.make_room(frame.len());
            self.tail.extend_from_slice(frame);
            self.tail_messages += 1;
            self.small += frame.len();
        }
        let begin = self.gathered.end;
        self.gathered.end = Position { byte: begin.byte + frame.len(), message: begin.message + 1 };
        if let Some(slot) = except {
            self.exclude(slot, begin..self.gathered.end);
        }
    }

    /// Notes that the subscriber at `slot` joins now: it is owed only what is appended from here on.
    pub fn join(&mut self, slot: u32) {
        if !self.is_empty() {
            // Replaces the exclusions of an earlier owner of the slot.
            if let Some(replaced) = self.gathered.excluded.remove(&slot) {
                self.exclusions -= EXCLUDED + size_of::<Range<Position>>() * replaced.capacity();
            }
            self.exclude(slot, Position::default()..self.gathered.end);
        }
    }

    /// Returns what the run owes the subscriber at `slot` so far. For a subscriber that leaves before the walk.
    pub fn owed(&mut self, slot: u32) -> Vec<Piece> {
        self.seal_tail();
        self.gathered.owed(slot)
    }

    /// Returns whether the run has no message.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.gathered.messages() == 0
    }

    /// Returns the memory that the run takes and keeps alive: its messages, its exclusions, itself and its later walk.
    #[inline]
    #[must_use]
    pub fn weight(&self) -> usize {
        let small = if self.is_given { self.small } else { self.buffers };
        let pieces = size_of::<Piece>() * self.gathered.pieces.capacity();
        size_of::<Self>() + WALK_BYTES + 2 * ALLOCATION + small + self.large + pieces + self.exclusions
    }

    /// Ends gathering.
    #[must_use]
    pub fn freeze(mut self) -> FrozenRun {
        self.seal_tail();
        self.gathered.weight = self.weight();
        self.gathered
    }

    fn exclude(&mut self, slot: u32, what: Range<Position>) {
        let slots = self.gathered.excluded.len();
        let exclusions = self.gathered.excluded.entry(slot).or_default();
        let before = exclusions.capacity();
        match exclusions.last_mut() {
            // Much of a connection that sends much is received at once: its messages stand together.
            Some(last) if last.end == what.start => last.end = what.end,
            _ => exclusions.push(what),
        }
        self.exclusions += size_of::<Range<Position>>() * (exclusions.capacity() - before);
        self.exclusions += EXCLUDED * (self.gathered.excluded.len() - slots);
    }

    /// Makes room for this many bytes behind the tail. A tail of the greatest length becomes a piece: slow consumers
    /// free memory piece by piece.
    fn make_room(&mut self, bytes: usize) {
        let length = self.tail.len();
        if self.tail.capacity() - length >= bytes {
            return;
        }
        let most = self.tail_max();
        if length > 0 && length + bytes > most {
            self.seal_tail();
        }
        let needed = self.tail.len() + bytes;
        let capacity = (2 * self.buffer).clamp(needed.max(TAIL_MIN), most.max(needed).max(TAIL_MIN));
        let outgrown = mem::replace(&mut self.tail, BytesMut::with_capacity(capacity));
        self.tail.extend_from_slice(&outgrown);
        let freed = if self.is_shared { 0 } else { self.buffer };
        self.buffers = self.buffers + capacity - freed;
        (self.buffer, self.is_shared, self.is_given) = (capacity, false, false);
    }

    /// Returns the greatest length of a tail: where there are many pieces already, a part of the whole, which bounds
    /// their number.
    fn tail_max(&self) -> usize {
        if self.gathered.pieces.len() < PIECES_MAX { TAIL_MAX } else { chunk(self.gathered.end.byte) }
    }

    fn seal_tail(&mut self) {
        if self.tail.is_empty() {
            return;
        }
        let bytes = self.tail.split().freeze();
        let messages = mem::take(&mut self.tail_messages);
        self.is_shared = true;
        self.gathered.pieces.push(Piece { bytes, messages, charge: self.buffer + BUFFER });
        // Only a run of much more than a shard gathers comes here, or one that many subscribers leave in one turn.
        if self.gathered.pieces.len() > 2 * PIECES_MAX - 2 {
            self.gathered.pieces = joined(mem::take(&mut self.gathered.pieces), chunk(self.gathered.end.byte));
            self.gathered.kept.clear();
        }
    }
}

/// A run on its way to the subscribers. It never changes again; backlogs keep references into it.
#[derive(Debug, Default)]
pub struct FrozenRun {
    pieces: Vec<Piece>,
    end: Position,
    /// What the run does not owe a subscriber, in order: its own messages, and those before it joined.
    excluded: HashMap<u32, Vec<Range<Position>>>,
    /// What backlogs keep of the first pieces. A piece that stands in much more memory than it has bytes, a buffer that
    /// others use too or that has doubled, is copied once for all backlogs.
    kept: Vec<Piece>,
    weight: usize,
}

/// A boundary between two messages of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Position {
    byte: usize,
    message: u32,
}

/// The share of one subscriber in a frozen run.
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
    /// Returns the share of the subscriber at `slot`.
    #[inline]
    #[must_use]
    pub fn share(&self, slot: u32) -> Share {
        // Nearly every run has no exclusions, and then this is all that a recipient costs.
        if self.excluded.is_empty() {
            return Share::Whole;
        }
        let Some(exclusions) = self.excluded.get(&slot) else { return Share::Whole };
        let part = without(&self.pieces, self.end, exclusions);
        if part.is_empty() { Share::Nothing } else { Share::Part(part) }
    }

    /// Returns the share of the subscriber at `slot`, to be kept for later: each piece is charged with the memory that
    /// it keeps alive, which is little more than its bytes.
    #[must_use]
    pub fn owed(&mut self, slot: u32) -> Vec<Piece> {
        let new = self.pieces[self.kept.len()..].iter().map(Piece::kept);
        self.kept.extend(new);
        match self.excluded.get(&slot) {
            None => self.kept.clone(),
            Some(exclusions) => without(&self.kept, self.end, exclusions).iter().map(Piece::kept).collect(),
        }
    }

    /// Returns the pieces of the whole run.
    #[must_use]
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Returns the length of the run in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.end.byte
    }

    /// Returns how many messages the run holds.
    #[must_use]
    pub fn messages(&self) -> u32 {
        self.end.message
    }

    /// Returns the memory that the run takes and keeps alive, beside what backlogs keep.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.weight
    }

    /// Returns the buffer that the run gathered in, unless a backlog still refers to it.
    #[must_use]
    pub fn into_buffer(mut self) -> Option<BytesMut> {
        self.kept.clear();
        let only = self.pieces.pop().filter(|_| self.pieces.is_empty())?;
        let mut buffer = only.bytes.try_into_mut().ok()?;
        buffer.clear();
        Some(buffer)
    }
}

/// Returns the pieces of a run that ends at `end`, without the excluded ranges. A part of a piece keeps all of it
/// alive.
fn without(pieces: &[Piece], end: Position, exclusions: &[Range<Position>]) -> Vec<Piece> {
    let begins = iter::once(Position::default()).chain(exclusions.iter().map(|exclusion| exclusion.end));
    let ends = exclusions.iter().map(|exclusion| exclusion.start).chain([end]);
    let mut part = Vec::new();
    let mut pieces = pieces.iter();
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
            part.push(Piece { bytes, messages: until.message - from.message, charge: whole.charge });
            from = until;
        }
    }
    part
}

/// Returns at most `pieces_max` pieces, if that is more than 512, of the same bytes as these: as far as need be
/// neighbours are copied into one.
#[must_use]
pub fn bounded(pieces: Vec<Piece>, pieces_max: usize) -> Vec<Piece> {
    if pieces.len() <= pieces_max {
        return pieces;
    }
    let bytes = pieces.iter().map(|piece| piece.bytes.len()).sum();
    joined(pieces, chunk(bytes))
}

/// Joins neighbours into pieces of at most `bytes_max` bytes. What is larger stays as it is, so no
/// piece comes near the 2 GiB that one send takes but by frames that do.
fn joined(pieces: Vec<Piece>, bytes_max: usize) -> Vec<Piece> {
    let mut joined: Vec<Piece> = Vec::new();
    let mut group: Vec<Piece> = Vec::new();
    let mut length = 0;
    for piece in pieces {
        if length + piece.bytes.len() > bytes_max {
            joined.extend(one(mem::take(&mut group)));
            length = 0;
        }
        length += piece.bytes.len();
        group.push(piece);
    }
    joined.extend(one(group));
    joined
}

fn one(mut group: Vec<Piece>) -> Option<Piece> {
    if group.len() < 2 {
        return group.pop();
    }
    let messages = group.iter().map(|piece| piece.messages).sum();
    let all: Vec<&[u8]> = group.iter().map(|piece| &piece.bytes[..]).collect();
    Some(Piece::new(all.concat().into(), messages))
}

/// Returns the size of pieces at which this many bytes are at most 513 pieces, if no two neighbours fit into one.
fn chunk(bytes: usize) -> usize {
    (bytes / 256).max(TAIL_MAX)
}

impl Position {
    fn after(self, piece: &Piece) -> Position {
        Position { byte: self.byte + piece.bytes.len(), message: self.message + piece.messages }
    }
}

/// The walk that a run becomes: the frozen run, and three places among the members.
pub(super) const WALK_BYTES: usize = size_of::<FrozenRun>() + 16;

/// Bytes of one subscriber's entry in the table of exclusions, which is up to half empty, beside its exclusions.
const EXCLUDED: usize = 2 * (size_of::<(u32, Vec<Range<Position>>)>() + 1) + ALLOCATION;

/// A backlog copies pieces below this size; another piece in it would cost more.
pub(super) const COPIED_BELOW: usize = 4 * 1_024;

/// Small frames are gathered in pieces of at most this size, in buffers of at least [`TAIL_MIN`].
const TAIL_MAX: usize = 256 * 1_024;
const TAIL_MIN: usize = 64;

/// Beyond so many pieces even large frames are copied, so that one send can carry the run whatever stands before it.
/// Each large frame adds two at the most, and the tail is one more.
const PIECES_MAX: usize = 512;

const _: () = assert!(COPIED_BELOW < TAIL_MAX, "a full tail is kept as it is, not copied into each backlog");

#[cfg(test)]
mod tests {
    use super::*;

    fn text(run: &FrozenRun, slot: u32) -> (Vec<String>, u32) {
        let payloads = |pieces: &[Piece]| {
            let bytes = joined_bytes(pieces);
            let mut rest = bytes.as_slice();
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

    fn joined_bytes(pieces: &[Piece]) -> Vec<u8> {
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
        let large = PreparedMessage::binary(&vec![1; LARGE_FRAME]);
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
        let large = PreparedMessage::binary(&vec![1; LARGE_FRAME]);
        let mut run = Run::default();
        for _ in 0..600 {
            run.append(&message("a"), None);
            run.append(&large, None);
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
        assert_eq!(joined_bytes(&run.owed(7)), message("2").frame()[..]);
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
        let buffer = filled().into_buffer().expect("no piece refers to it");
        assert!(buffer.is_empty() && buffer.capacity() >= 1_000);
        let run = filled();
        let kept = run.pieces()[0].bytes.clone();
        assert!(run.into_buffer().is_none());
        assert_eq!(kept, message("a").frame());
    }

    /// What backlogs keep of a large buffer is copied, once for all of them; what nearly fills its buffer is shared.
    #[test]
    fn what_a_laggard_keeps_is_charged_or_copied() {
        let check = |capacity: usize, frame: usize, is_copied: bool| {
            let mut run = Run::new(BytesMut::with_capacity(capacity));
            run.append(&PreparedMessage::binary(&vec![0; frame]), Some(9));
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
            let message = PreparedMessage::binary(&vec![0; large]);
            run.append(&message, None);
            let mut run = run.freeze();
            let kept = run.owed(1).remove(0);
            assert!(kept.charge <= large + large / 10 + BUFFER, "{large} bytes are charged {}", kept.charge);
            assert_eq!(kept.bytes, message.frame());
            assert_eq!(kept.bytes.as_ptr(), run.owed(2)[0].bytes.as_ptr());
        }
    }

    /// A little piece is handed out as it is: a backlog copies it.
    #[test]
    fn what_is_little_is_copied_by_the_laggard() {
        let mut run = Run::new(BytesMut::with_capacity(100_000));
        run.append(&message("small"), None);
        let mut run = run.freeze();
        assert_eq!(run.owed(1)[0].bytes.as_ptr(), run.pieces()[0].bytes.as_ptr());
    }

    /// A part of what laggards share is copied if it would keep much more alive.
    #[test]
    fn a_part_of_a_piece_keeps_no_more_than_itself() {
        let mut run = Run::default();
        for number in 0..20 {
            run.append(&PreparedMessage::binary(&[0; 10_000]), Some(7).filter(|_| number % 2 == 0));
        }
        let mut run = run.freeze();
        let kept = run.owed(7);
        let bytes: usize = kept.iter().map(|piece| piece.bytes.len()).sum();
        let charge: usize = kept.iter().map(|piece| piece.charge - BUFFER).sum();
        assert_eq!((kept.len(), bytes, charge), (10, 10 * 10_004, bytes));
    }

    /// A leaver takes what was gathered so far, another takes it with what was gathered since.
    #[test]
    fn who_leaves_shares_what_is_kept() {
        let mut run = Run::default();
        run.append(&PreparedMessage::binary(&vec![0; 70_000]), None);
        let first = run.owed(1);
        run.append(&PreparedMessage::binary(&vec![1; 70_000]), None);
        let second = run.owed(2);
        assert_eq!((first.len(), second.len()), (1, 2));
        assert_eq!(first[0].bytes.as_ptr(), second[0].bytes.as_ptr());
    }

    #[test]
    fn an_own_large_frame_is_not_charged() {
        let mut run = Run::default();
        run.append(&PreparedMessage::binary(&vec![0; 200_000]), Some(7));
        run.append(&message("owed"), None);
        assert!(run.freeze().owed(7).iter().map(|piece| piece.charge).sum::<usize>() < 300);
    }

    /// The weight of a run is at least its bytes in every buffer, and little more if they are many.
    #[test]
    fn a_run_weighs_what_it_holds() {
        let weigh = |frame: usize, count: usize, source: &dyn Fn(usize) -> Option<u32>| {
            let mut run = Run::new(BytesMut::with_capacity(4_096));
            let message = PreparedMessage::binary(&vec![0; frame]);
            for number in 0..count {
                run.append(&message, source(number));
            }
            let weight = run.weight();
            let run = run.freeze();
            assert!(run.weight().abs_diff(weight) <= 8 * size_of::<Piece>(), "sealing changes little");
            (run.bytes(), run.weight())
        };
        let no_source: &dyn Fn(usize) -> Option<u32> = &|_| None;
        for (frame, count) in [(0, 1), (17, 10_000), (1_000, 1_000), (16_000, 100), (65_536, 20), (1 << 20, 3)] {
            let (bytes, weight) = weigh(frame, count, no_source);
            // A buffer doubles as it grows, up to the size of a piece.
            let unused = if bytes < 2 * TAIL_MAX { bytes } else { bytes / 4 };
            assert!((bytes..bytes + unused + 2_048).contains(&weight), "{count} of {frame}: {bytes}, {weight}");
        }
        // A frame that leaves most of its receive buffer unused.
        assert!(weigh(LARGE_FRAME, 10, no_source).1 >= 10 * LARGE_PIECE_PINS);
        // Every message is another exclusion of one of two who take turns, or of another one.
        let two = weigh(0, 10_000, &|number| Some(number as u32 % 2)).1;
        assert!(two >= 10_000 * size_of::<Range<Position>>(), "{two}");
        let many = weigh(0, 10_000, &|number| Some(number as u32)).1;
        assert!(many >= 10_000 * (size_of::<Vec<Range<Position>>>() + 4 * size_of::<Range<Position>>()), "{many}");
    }

    /// Subscribers that join a run that has begun weigh too; one that joins again replaces its entry.
    #[test]
    fn joining_weighs() {
        let mut run = Run::default();
        run.append(&message("before"), Some(7));
        let before = run.weight();
        (0..100).for_each(|slot| run.join(slot));
        let after = run.weight();
        assert!(after >= before + 100 * size_of::<Range<Position>>());
        (0..100).for_each(|slot| run.join(slot));
        assert_eq!(run.weight(), after);
    }

    /// Beyond the number of pieces that one send takes neighbours are joined, none to more than a part of the whole: no
    /// piece comes near what one send takes.
    #[test]
    fn joined_pieces_have_a_limit() {
        let piece = |length: usize| Piece::new(vec![length as u8; length].into(), 1);
        let pieces: Vec<Piece> = [3, 3, 3, 20, 3, 9, 1].into_iter().map(piece).collect();
        let lengths = |pieces: &[Piece]| pieces.iter().map(|piece| piece.bytes.len()).collect::<Vec<_>>();
        let joined = joined(pieces.clone(), 10);
        assert_eq!(lengths(&joined), [9, 20, 3, 10]);
        assert_eq!(joined.iter().map(|piece| piece.messages).collect::<Vec<_>>(), [3, 1, 1, 2]);
        assert_eq!(joined_bytes(&joined), joined_bytes(&pieces));
        assert_eq!(joined[1].bytes.as_ptr(), pieces[3].bytes.as_ptr(), "what stands alone is not copied");
        assert_eq!(lengths(&bounded(pieces.clone(), 7)), lengths(&pieces), "few stay as they are");

        // Large and small in turn, as many as one send cannot take.
        let many: Vec<Piece> = (0..3_000).map(|number| piece(if number % 2 == 0 { 1 } else { 1_000 })).collect();
        let some = bounded(many.clone(), 1_023);
        assert_eq!(joined_bytes(&some), joined_bytes(&many));
        assert!(some.len() <= 513 && some.iter().all(|piece| piece.bytes.len() <= TAIL_MAX));
        let bytes = 2 << 30;
        assert!(chunk(bytes) <= 8 << 20 && bytes / chunk(bytes) <= 256);
    }

    /// However many large frames a run has: beyond the first pieces they are copied into tails, which have a limit too.
    #[test]
    fn tails_have_a_limit() {
        let large = PreparedMessage::binary(&vec![1; 70_000]);
        let mut run = Run::default();
        (0..1_200).for_each(|_| run.append(&large, None));
        let run = run.freeze();
        let longest = run.pieces().iter().map(|piece| piece.bytes.len()).max();
        assert!(run.bytes() > 80 << 20 && longest <= Some(chunk(run.bytes())), "{longest:?}");
        assert!(run.pieces().len() < 2 * PIECES_MAX);
    }

    #[test]
    fn messages_are_counted_for_each_piece() {
        let large = PreparedMessage::binary(&vec![1; LARGE_FRAME]);
        let mut run = Run::default();
        for source in [None, Some(7), None] {
            run.append(&message("a"), source);
            run.append(&large, None);
            run.append(&message("b"), source);
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
