//! Runs: the publications that an audience gathers for one walk.

mod conflation;
mod losses;
mod weights;

use std::{cell::Cell, collections::HashMap, iter, mem, ops::Range, rc::Rc, sync::Arc};

use bytes::{Bytes, BytesMut};

pub(super) use self::weights::RunWeights;

use self::losses::{Conflation, Losses};
use super::{
    lag::Lost,
    memory::{ALLOCATION, BUFFER, pinned},
    piece::{Piece, SMALL_PIECE_MAX, joined, small_piece_max},
    receipt::{Ticket, Watch},
    tag::{PieceTags, Tag, TaggedMessage, Tags},
};
use crate::proto::LARGE_FRAME;

/// The messages that an audience has gathered for one walk.
///
/// Small frames are copied one after the other, so that one send carries them all from one piece of memory. A large
/// frame is not copied: it becomes a piece of its own.
#[derive(Debug, Default)]
pub struct Run {
    /// The whole run, except the bytes that are still in `tail`.
    gathered: FrozenRun,
    tail: BytesMut,
    /// How many messages are in the tail.
    tail_messages: u32,
    /// The size, in bytes, of the buffer that the tail is in.
    buffer: usize,
    /// The size, in bytes, of all buffers of small frames.
    buffers: usize,
    /// Whether pieces of the run are in the tail's buffer too.
    is_shared: bool,
    /// Whether the run still gathers into the buffer that [`Run::new`] got, whose memory was allocated before the run.
    is_given: bool,
    /// Bytes of all small frames.
    small: usize,
    /// Bytes that the large frames keep alive.
    large: usize,
    /// Bytes of the pieces that [`Run::merge_last`] has made.
    merged: usize,
    /// Memory of the exclusions.
    exclusions: usize,
    /// The epoch of the messages that have a place; `None` while no message has a place.
    epoch: Option<u64>,
    /// The run before this one: its messages have another epoch, and its walk has not begun.
    pub(super) earlier: Option<Box<Run>>,
    /// The tags of a run with tags.
    tags: Option<Box<GatheredTags>>,
}

/// The tags of a run that gathers.
#[derive(Debug, Default)]
struct GatheredTags {
    /// The tags of the messages in the tail.
    tail: Vec<TaggedMessage>,
    /// Memory of the tags that the pieces have.
    sealed: usize,
    /// When the run drops messages that a newer one of their key has replaced; `None` if the run keeps all.
    conflation: Option<Conflation>,
}

impl Run {
    /// Returns an empty run that gathers into `buffer`, which must be empty.
    #[must_use]
    pub fn new(buffer: BytesMut, tags: Tags) -> Self {
        assert!(buffer.is_empty(), "a run gathers into an empty buffer");
        let capacity = buffer.capacity();
        let conflation = (tags == Tags::Newest).then(Conflation::default);
        let tags = (tags != Tags::Off).then(|| Box::new(GatheredTags { conflation, ..GatheredTags::default() }));
        Run { tail: buffer, buffer: capacity, buffers: capacity, is_given: capacity > 0, tags, ..Run::default() }
    }

    /// Returns whether a message of this epoch belongs to the run. A run has messages of one epoch, and messages
    /// without a place.
    #[inline]
    pub(super) fn takes_epoch(&self, epoch: Option<u64>) -> bool {
        epoch.is_none() || self.epoch.is_none() || self.epoch == epoch
    }

    /// Notes the epoch of the message that is appended next.
    #[inline]
    pub(super) fn note_epoch(&mut self, epoch: Option<u64>) {
        if self.epoch.is_none() {
            self.epoch = epoch;
        }
    }

    /// Appends the frame of a message, which is not owed to the subscriber at slot `except`. A run without tags does
    /// not look at `tag`.
    ///
    /// # Panics
    ///
    /// If the run has tags, and the message has none.
    pub fn append(&mut self, frame: &Bytes, except: Option<u32>, tag: Option<&Tag>) {
        if frame.len() >= LARGE_FRAME && self.gathered.pieces.len() < PIECES_MAX {
            self.seal_tail();
            let charge = pinned(frame);
            self.large += charge;
            self.tag(frame.len(), tag);
            let tags = self.seal_tags();
            self.gathered.pieces.push(Piece { bytes: frame.clone(), messages: 1, charge, tags });
            self.note_end(frame.len(), except);
            self.conflate_if_due();
        } else {
            self.append_copy(frame, except, tag);
        }
    }

    /// Appends a copy of a frame, as [`Run::append`] does with a small frame.
    ///
    /// # Panics
    ///
    /// As of [`Run::append`].
    #[inline]
    pub(super) fn append_copy(&mut self, frame: &[u8], except: Option<u32>, tag: Option<&Tag>) {
        self.make_room(frame.len());
        self.tail.extend_from_slice(frame);
        self.tail_messages += 1;
        self.small += frame.len();
        self.note_end(frame.len(), except);
        if self.tags.is_some() {
            self.tag(self.tail.len(), tag);
            self.conflate_if_due();
        }
    }

    /// Notes that a message of this many bytes was appended, which is not owed to the subscriber at slot `except`.
    #[inline]
    fn note_end(&mut self, bytes: usize, except: Option<u32>) {
        let begin = self.gathered.end;
        self.gathered.end = Position { byte: begin.byte + bytes, message: begin.message + 1 };
        if let Some(slot) = except {
            self.exclude(slot, begin..self.gathered.end);
        }
    }

    /// Notes that the subscriber at `slot` joins now: it is owed only messages that are appended from here on.
    pub fn join(&mut self, slot: u32) {
        if !self.is_empty() {
            // Replaces the exclusions of an earlier owner of the slot.
            if let Some(replaced) = self.gathered.excluded.remove(&slot) {
                self.exclusions -= EXCLUDED + size_of::<Range<Position>>() * replaced.capacity();
            }
            self.exclude(slot, Position::default()..self.gathered.end);
            if let Some(losses) = &mut self.gathered.losses {
                losses.join(slot);
            }
        }
    }

    /// Returns the messages that the run owes so far to the subscriber at `slot`, which leaves before the walk.
    ///
    /// Each call makes a piece of the tail. Small neighbouring pieces are merged, so that a crowd that leaves has few
    /// pieces and shares nearly all of them. Every piece is more than twice as long as the next, except full pieces and
    /// large frames.
    pub fn owed(&mut self, slot: u32) -> Vec<Piece> {
        self.seal_tail();
        // The share is taken before merging. If the last piece holds the subscriber's own messages, merging first would
        // copy that piece twice.
        let owed = self.gathered.owed(slot);
        self.merge_last();
        owed
    }

    /// Notes that the publisher of the last message, which is owed to so many members, waits for a receipt.
    pub(super) fn watch(&mut self, watch: &Rc<Watch>, members: u32) {
        watch.begin_run(members);
        let (end, members) = (Some(self.gathered.end), Cell::new(members));
        self.gathered.watched.push(Watched { end, members, watch: Rc::clone(watch) });
    }

    /// Returns what [`FrozenRun::tickets`] returns for the messages up to now.
    pub(super) fn tickets(&self, slot: u32) -> Vec<(usize, Ticket)> {
        self.gathered.tickets(slot)
    }

    /// Returns how many messages the run owes the subscriber at `slot` so far.
    pub(super) fn owed_messages(&self, slot: u32) -> u32 {
        self.gathered.owed_messages(slot)
    }

    /// Returns whether the run has no message.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.gathered.messages() == 0
    }

    /// Returns the memory that the run takes and keeps alive: its messages, its exclusions, its tags, itself and its
    /// later walk.
    #[inline]
    #[must_use]
    pub fn weight(&self) -> usize {
        let small = if self.is_given { self.small } else { self.buffers };
        let pieces = size_of::<Piece>() * self.gathered.pieces.capacity();
        let bytes = small + self.large + self.merged;
        let tags = self.tags.as_deref().map_or(0, GatheredTags::memory);
        let losses = self.gathered.losses.as_deref().map_or(0, Losses::memory);
        let watched = WATCHED * self.gathered.watched.capacity();
        size_of::<Self>() + WALK_BYTES + 2 * ALLOCATION + bytes + pieces + self.exclusions + tags + losses + watched
    }

    /// Notes the time of the turn in which the run gathers its first message.
    pub(super) fn note_begin(&mut self, turn_us: u64) {
        self.gathered.gathered_at_us = turn_us;
    }

    /// Adds `weight` to the part of the run's weight that has come by lanes.
    pub(super) fn note_from_mail(&mut self, weight: usize) {
        self.gathered.from_mail += weight;
    }

    /// As [`FrozenRun::bound_from_mail`].
    fn bound_from_mail(&mut self) -> usize {
        self.gathered.weight = self.weight();
        self.gathered.bound_from_mail()
    }

    /// Ends gathering.
    #[must_use]
    pub fn freeze(mut self) -> FrozenRun {
        self.conflate();
        self.seal_tail();
        self.gathered.weight = self.weight();
        self.gathered.has_parts = self.gathered.losses.is_some() || !self.gathered.excluded.is_empty();
        self.gathered
    }

    /// Drops the messages that a newer one of their key has replaced, if there may be many.
    #[inline]
    fn conflate_if_due(&mut self) {
        let conflation = self.tags.as_ref().and_then(|tags| tags.conflation);
        let Some(conflation) = conflation else { return };
        let (end, own) = (self.gathered.end, self.gathered.losses.as_ref().map_or(0, |losses| losses.own.len()));
        if conflation.is_due(end.message, end.byte, own) {
            self.conflate();
        }
    }

    fn exclude(&mut self, slot: u32, what: Range<Position>) {
        let slots = self.gathered.excluded.len();
        let exclusions = self.gathered.excluded.entry(slot).or_default();
        let before = exclusions.capacity();
        match exclusions.last_mut() {
            // Messages that one receive has brought from a connection are neighbours in the run.
            Some(last) if last.end == what.start => last.end = what.end,
            _ => exclusions.push(what),
        }
        self.exclusions += size_of::<Range<Position>>() * (exclusions.capacity() - before);
        self.exclusions += EXCLUDED * (self.gathered.excluded.len() - slots);
    }

    /// Makes room for this many bytes after the tail. A tail of the greatest length becomes a piece, because slow
    /// consumers free memory piece by piece.
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

    /// Returns the greatest length of a tail. In a run of many pieces the greatest length grows with the run, which
    /// bounds the number of pieces.
    fn tail_max(&self) -> usize {
        if self.gathered.pieces.len() < PIECES_MAX { SMALL_PIECE_MAX } else { small_piece_max(self.gathered.end.byte) }
    }

    /// Merges the last two pieces, again and again, while both fit into one piece and the first is at most twice as
    /// long as the second. A large frame is not merged.
    fn merge_last(&mut self) {
        let is_large = |piece: &Piece| piece.messages == 1 && piece.bytes.len() >= LARGE_FRAME;
        while let [.., first, second] = &self.gathered.pieces[..] {
            let length = first.bytes.len() + second.bytes.len();
            let is_much_longer = first.bytes.len() > 2 * second.bytes.len();
            if is_much_longer || length > SMALL_PIECE_MAX || is_large(first) || is_large(second) {
                return;
            }
            let own: usize = [first, second].iter().map(|piece| piece.own_bytes()).sum();
            self.merged = (self.merged + length).saturating_sub(own);
            let two = self.gathered.pieces.split_off(self.gathered.pieces.len() - 2);
            self.gathered.kept.truncate(self.gathered.pieces.len());
            self.gathered.pieces.extend(joined(two, SMALL_PIECE_MAX));
            self.weigh_tags();
        }
    }

    fn seal_tail(&mut self) {
        if self.tail.is_empty() {
            return;
        }
        let bytes = self.tail.split().freeze();
        let messages = mem::take(&mut self.tail_messages);
        self.is_shared = true;
        let tags = self.seal_tags();
        self.gathered.pieces.push(Piece { bytes, messages, charge: self.buffer + BUFFER, tags });
        // Two kinds of runs have so many pieces: a run far beyond the limit of gathered bytes, and a run whose topic
        // many subscribers leave in one turn.
        if self.gathered.pieces.len() > 2 * PIECES_MAX - 2 {
            self.gathered.pieces =
                joined(mem::take(&mut self.gathered.pieces), small_piece_max(self.gathered.end.byte));
            self.gathered.kept.clear();
            self.weigh_tags();
        }
    }

    /// Tags the message that ends at byte `end` of the next piece.
    #[inline]
    fn tag(&mut self, end: usize, tag: Option<&Tag>) {
        if let Some(tags) = &mut self.tags {
            let tag = tag.expect("each message of a run with tags has one").clone();
            tags.tail.push(TaggedMessage { end, tag });
        }
    }

    /// Takes the tags of the next piece.
    #[inline]
    fn seal_tags(&mut self) -> Option<Arc<PieceTags>> {
        self.tags.as_deref_mut().map(GatheredTags::seal)
    }

    /// Weighs the tags of all pieces, some of which have been joined.
    fn weigh_tags(&mut self) {
        if let Some(tags) = &mut self.tags {
            let of_pieces = self.gathered.pieces.iter().filter_map(|piece| piece.tags.as_deref());
            tags.sealed = of_pieces.map(PieceTags::memory).sum();
        }
    }
}

impl GatheredTags {
    fn seal(&mut self) -> Arc<PieceTags> {
        let tags = PieceTags::new(mem::take(&mut self.tail));
        self.sealed += tags.memory();
        tags
    }

    fn memory(&self) -> usize {
        size_of::<Self>() + 2 * ALLOCATION + size_of::<TaggedMessage>() * self.tail.capacity() + self.sealed
    }
}

/// A run on its way to the subscribers. Its messages do not change; `kept` grows as backlogs take shares.
#[derive(Debug, Default)]
pub struct FrozenRun {
    pieces: Vec<Piece>,
    end: Position,
    /// For each slot the parts that are not owed to its subscriber, in order: the subscriber's own messages, and the
    /// messages from before it joined.
    excluded: HashMap<u32, Vec<Range<Position>>>,
    /// The messages that were dropped while the run gathered, because a newer one of their key had come.
    losses: Option<Box<Losses>>,
    /// Whether a subscriber is owed anything but all messages: some of them, or the notice of a lag too.
    has_parts: bool,
    /// Whether the run has bodies, to which each connection adds a part of its own.
    has_bodies: bool,
    /// The leading ones of `pieces`, in the form in which backlogs keep them. A piece that keeps much more memory alive
    /// than its bytes is copied once for all backlogs: its buffer has other pieces too, or has doubled.
    kept: Vec<Piece>,
    weight: usize,
    /// The part of the weight that has come by lanes.
    from_mail: usize,
    /// The time of the turn in which the first message was gathered, see `ShardHub::note_turn`.
    gathered_at_us: u64,
    /// The messages whose publishers wait for receipts, in order.
    watched: Vec<Watched>,
}

/// A message of a run whose publisher waits for a receipt.
#[derive(Debug)]
struct Watched {
    /// The end of the message; `None` if the run has dropped it.
    end: Option<Position>,
    /// The members that the message is owed to and that have no ticket.
    members: Cell<u32>,
    watch: Rc<Watch>,
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
    /// The whole run.
    Whole,
    /// These pieces, each with at least one message.
    Part(Vec<Piece>),
    /// No message.
    Nothing,
}

impl FrozenRun {
    /// Returns whether the subscriber at `slot` is owed the whole run, and no notice of a lag.
    #[inline]
    #[must_use]
    pub fn is_whole(&self, slot: u32) -> bool {
        // Nearly every run has no exclusions; then a recipient costs only this check.
        !self.has_parts || !self.has_bodies && self.losses.is_none() && !self.excluded.contains_key(&slot)
    }

    /// Returns what the subscriber at `slot` has lost while the run gathered.
    pub(super) fn lost(&self, slot: u32) -> Option<Lost> {
        let losses = self.losses.as_deref()?;
        Some(losses.of(slot)).filter(|lost| lost.count > 0)
    }

    /// Notes that the run has bodies: no connection is sent the run itself.
    pub(super) fn note_bodies(&mut self) {
        (self.has_parts, self.has_bodies) = (true, true);
    }

    /// Makes the notice of what most subscribers have lost.
    pub(super) fn encode_notice(&mut self, encode: impl FnOnce(&Lost) -> Bytes) {
        if let Some(losses) = &mut self.losses {
            losses.set_notice(encode);
        }
    }

    /// Returns the notice of [`FrozenRun::encode_notice`] if it is for the subscriber at `slot`.
    pub(super) fn notice(&self, slot: u32) -> Option<Bytes> {
        self.losses.as_deref().and_then(|losses| losses.notice(slot))
    }

    /// Returns the share of the subscriber at `slot`. The pieces of a part have no tags.
    #[must_use]
    pub fn share(&self, slot: u32) -> Share {
        let Some(exclusions) = self.excluded.get(&slot) else { return Share::Whole };
        let part = without(&self.pieces, self.end, exclusions, Tags::Off);
        if part.is_empty() { Share::Nothing } else { Share::Part(part) }
    }

    /// Returns the share of the subscriber at `slot`, to be kept for later: each piece is charged with the memory that
    /// it keeps alive, which is little more than its bytes. In a run with tags each piece has the tags of its messages.
    #[must_use]
    pub fn owed(&mut self, slot: u32) -> Vec<Piece> {
        let new = self.pieces[self.kept.len()..].iter().map(Piece::kept);
        self.kept.extend(new);
        match self.excluded.get(&slot) {
            None => self.kept.clone(),
            Some(exclusions) => without(&self.kept, self.end, exclusions, Tags::On).iter().map(Piece::kept).collect(),
        }
    }

    /// Returns the number of messages in the share of the subscriber at `slot`.
    pub(super) fn owed_messages(&self, slot: u32) -> u32 {
        let exclusions = self.excluded.get(&slot).map_or(&[][..], Vec::as_slice);
        self.end.message - exclusions.iter().map(|range| range.end.message - range.start.message).sum::<u32>()
    }

    /// Returns, for each message whose publisher waits for a receipt and that is owed to the subscriber at `slot`, the
    /// end of the message within the subscriber's share, and a ticket of the subscriber.
    pub(super) fn tickets(&self, slot: u32) -> Vec<(usize, Ticket)> {
        if self.watched.is_empty() {
            return Vec::new();
        }
        let exclusions = self.excluded.get(&slot).map_or(&[][..], Vec::as_slice);
        let of_message = |Watched { end, members, watch }: &Watched| {
            let end = (*end)?;
            let before = exclusions.iter().take_while(|excluded| excluded.start.byte < end.byte);
            let is_owed = |excluded: &Range<Position>| excluded.end.byte < end.byte;
            let bytes = before.map(|excluded| is_owed(excluded).then_some(excluded.end.byte - excluded.start.byte));
            let bytes = bytes.sum::<Option<usize>>()?;
            members.set(members.get() - 1);
            Some((end.byte - bytes, Ticket::new(watch)))
        };
        self.watched.iter().filter_map(of_message).collect()
    }

    /// Takes the counts for the receipts of the run's messages.
    pub(super) fn take_watches(&mut self) -> impl Iterator<Item = Rc<Watch>> + use<> {
        mem::take(&mut self.watched).into_iter().map(|watched| watched.watch)
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

    /// Returns the memory that the run takes and keeps alive, without the copies that backlogs keep.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.weight
    }

    /// Returns the time of the turn in which the first message was gathered.
    pub(super) fn gathered_at_us(&self) -> u64 {
        self.gathered_at_us
    }

    /// Returns the part of the weight that has come by lanes.
    fn mail_weight(&self) -> usize {
        self.from_mail
    }

    /// Lets no more than the run's weight have come by lanes, after the run has lost weight. Returns by how much the
    /// part that has come by lanes is smaller now.
    fn bound_from_mail(&mut self) -> usize {
        let before = self.from_mail;
        self.from_mail = before.min(self.weight);
        before - self.from_mail
    }

    /// Returns the buffer that the run gathered in, if the run is one piece and nothing else refers to its buffer.
    #[must_use]
    pub fn into_buffer(mut self) -> Option<BytesMut> {
        self.kept.clear();
        let only = self.pieces.pop().filter(|_| self.pieces.is_empty())?;
        let mut buffer = only.bytes.try_into_mut().ok()?;
        buffer.clear();
        Some(buffer)
    }
}

/// Returns the pieces of a run that ends at `end`, without the excluded ranges. A part of a piece keeps the whole piece
/// alive. `tags` says whether the parts get the tags of their messages.
fn without(pieces: &[Piece], end: Position, exclusions: &[Range<Position>], tags: Tags) -> Vec<Piece> {
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
            let tags = whole.tags.as_ref().filter(|_| tags == Tags::On);
            let begin = (from.message - piece_begin.message) as usize;
            let tags = tags.map(|tags| tags.part(begin..(until.message - piece_begin.message) as usize));
            part.push(Piece { bytes, messages: until.message - from.message, charge: whole.charge, tags });
            from = until;
        }
    }
    part
}

impl Position {
    fn after(self, piece: &Piece) -> Position {
        Position { byte: self.byte + piece.bytes.len(), message: self.message + piece.messages }
    }
}

/// Bytes of the walk that a run becomes: the frozen run, and the walk's numbers.
pub(super) const WALK_BYTES: usize = size_of::<FrozenRun>() + 16;

/// Bytes of a message whose publisher waits for a receipt: its entry, and the shard's count.
const WATCHED: usize = size_of::<Watched>() + size_of::<Watch>() + 2 * size_of::<usize>() + ALLOCATION;

/// Bytes of one subscriber's entry in the table of exclusions, without the exclusions. The table is up to half empty.
const EXCLUDED: usize = 2 * (size_of::<(u32, Vec<Range<Position>>)>() + 1) + ALLOCATION;

/// The size, in bytes, of the smallest buffer of a tail.
const TAIL_MIN: usize = 64;

/// Beyond so many pieces even large frames are copied, so that one send can carry the run and all that stands before
/// it. Each large frame adds at most two pieces, itself and the tail before it, and the last tail is one more.
const PIECES_MAX: usize = 512;

#[cfg(test)]
mod tests;
