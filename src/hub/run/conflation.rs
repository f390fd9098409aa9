//! Conflation: while a run gathers, it keeps only the newest message of each key, in the place of the newest.
//!
//! The plain version: when the walk begins, look at all messages, and drop those that a newer one of their key has
//! replaced. Two things are added:
//!
//! - **Bounds.** The run conflates whenever it has twice as many messages or bytes as it kept the last time, and some
//!   more. So its memory is bounded by the newest messages, and its work for each message too.
//! - **Losses.** What was dropped is noted for all members together. Only members that are not owed some of the
//!   messages have losses of their own: nobody is told of its own messages, or of those from before it joined.

use std::{collections::HashSet, mem, ops::Range};

use bytes::BytesMut;

use super::{Position, Run, losses::Conflation};
use crate::{
    hub::{lag::Lost, memory::pinned, publication::Place, tag::Tags},
    proto::LARGE_FRAME,
};

impl Run {
    /// Drops the messages that a newer one of their key has replaced, if the run keeps only the newest.
    pub(super) fn conflate(&mut self) {
        let Some(conflation) = self.tags.as_ref().and_then(|tags| tags.conflation) else { return };
        if self.gathered.end.message == conflation.kept {
            return;
        }
        self.seal_tail();
        let replaced = self.replaced();
        if !replaced.is_empty() {
            self.note_losses(&replaced);
            self.drop_messages(&replaced);
        }
        let Position { byte, message } = self.gathered.end;
        if let Some(tags) = &mut self.tags {
            tags.conflation = Some(Conflation { kept: message, kept_bytes: byte });
        }
    }

    /// Lets the run keep every message that comes from now on: a subscriber may lose none.
    pub(in crate::hub) fn keep_all(&mut self) {
        if let Some(tags) = &mut self.tags {
            tags.conflation = None;
        }
    }

    /// Returns what the run has dropped for the subscriber at `slot`.
    pub(in crate::hub) fn lost(&self, slot: u32) -> Option<Lost> {
        self.gathered.lost(slot)
    }

    /// Returns the messages that a newer one of their key has replaced: their numbers in the run, and their places.
    fn replaced(&self) -> Vec<(u32, Option<Place>)> {
        let (mut keys, mut replaced) = (HashSet::new(), Vec::new());
        let mut number = self.gathered.end.message;
        for piece in self.gathered.pieces.iter().rev() {
            let tags = piece.tags.as_ref().expect("each piece of a run with tags has them");
            for message in tags.messages().iter().rev() {
                number -= 1;
                if !keys.insert(message.tag.key.as_deref()) {
                    replaced.push((number, message.tag.place));
                }
            }
        }
        replaced.reverse();
        replaced
    }

    /// Notes that these messages are dropped, for each member that they were owed to.
    fn note_losses(&mut self, dropped: &[(u32, Option<Place>)]) {
        let losses = self.gathered.losses.get_or_insert_default();
        for &slot in self.gathered.excluded.keys() {
            // A subscriber without an entry has lost as much as all others: it was owed all that was dropped before.
            losses.own.entry(slot).or_insert(losses.all);
        }
        losses.all.note(dropped);
        let before = |number: u32| dropped.partition_point(|(other, _)| *other < number);
        for (slot, lost) in &mut losses.own {
            let exclusions = self.gathered.excluded.get(slot).map_or(&[][..], Vec::as_slice);
            let mut from = 0;
            for exclusion in exclusions {
                lost.note(&dropped[from..before(exclusion.start.message)]);
                from = before(exclusion.end.message);
            }
            lost.note(&dropped[from..]);
        }
    }

    /// Gathers again the messages that are not dropped. A large frame is not copied.
    fn drop_messages(&mut self, dropped: &[(u32, Option<Place>)]) {
        let mut left = Run::new(BytesMut::new(), Tags::On);
        // The end of each message that is left, after a 0.
        let mut ends = vec![0];
        let mut dropped_next = dropped.iter().map(|(number, _)| *number).peekable();
        let mut number = 0;
        for piece in mem::take(&mut self.gathered.pieces) {
            let is_large = piece.messages == 1 && piece.bytes.len() >= LARGE_FRAME;
            let tags = piece.tags.as_ref().expect("each piece of a run with tags has them");
            for (index, message) in tags.messages().iter().enumerate() {
                if dropped_next.next_if_eq(&number).is_none() {
                    if is_large && piece.charge <= pinned(&piece.bytes) {
                        left.append(&piece.bytes, None, Some(&message.tag));
                    } else {
                        left.append_copy(&piece.bytes[tags.begin(index)..message.end], None, Some(&message.tag));
                    }
                    ends.push(left.gathered.end.byte);
                }
                number += 1;
            }
        }
        let moved = |Position { message, .. }: Position| {
            let message = message - dropped.partition_point(|(other, _)| *other < message) as u32;
            Position { byte: ends[message as usize], message }
        };
        for (slot, exclusions) in mem::take(&mut self.gathered.excluded) {
            for Range { start, end } in exclusions {
                let range = moved(start)..moved(end);
                if range.start != range.end {
                    left.exclude(slot, range);
                }
            }
        }
        left.gathered.watched = mem::take(&mut self.gathered.watched);
        for watched in &mut left.gathered.watched {
            let Some(end) = watched.end else { continue };
            if dropped.binary_search_by_key(&(end.message - 1), |(number, _)| *number).is_ok() {
                watched.watch.drop_for(watched.members.take());
                watched.end = None;
            } else {
                watched.end = Some(moved(end));
            }
        }
        left.gathered.losses = self.gathered.losses.take();
        left.gathered.from_mail = self.gathered.from_mail;
        left.gathered.gathered_at_us = self.gathered.gathered_at_us;
        (left.epoch, left.earlier) = (self.epoch, self.earlier.take());
        *self = left;
    }
}
