//! The backlog of a connection: the output that is queued until its socket takes it.

use std::{collections::VecDeque, mem};

use bytes::BytesMut;

use super::{
    awaited::Awaited,
    label::{Label, Labels},
    lag::OwedLag,
    memory::BUFFER,
    piece::{COPIED_BELOW, Piece},
    receipt::Ticket,
    slow::SlowRules,
    topic_name::TopicName,
};
use crate::proto::Millis;

/// The output that is queued for a socket, in order. Most pieces are references into runs and large frames. A piece is
/// charged for the memory that it keeps alive. Little pieces, below 4 KiB, are copied one after the other.
///
/// Every piece is a sequence of whole frames; only the first may have been sent in part.
#[derive(Debug, Default)]
pub struct Backlog {
    pub(super) pieces: VecDeque<Piece>,
    /// Little pieces, after all others.
    pub(super) tail: BytesMut,
    tail_messages: u32,
    /// How many bytes of the first piece have been sent, or of the tail if there is no piece.
    pub(super) sent: usize,
    /// The bytes that the pieces keep alive.
    pub(super) charged: usize,
    pub(super) messages: u64,
    /// The bytes that have not been sent.
    pub(super) length: usize,
    pub(super) labels: Labels,
    pub(super) was_refused: bool,
    /// The messages whose publishers wait for receipts.
    pub(super) awaited: Option<Box<Awaited>>,
}

impl Backlog {
    /// Bytes by which a connection's output may exceed its limit: for places in queues, frame headers and pongs. So a
    /// limit of the size of two messages allows two messages.
    pub const BESIDES: usize = 4 * 1_024;

    /// Appends a piece: messages of `topic`, or frames for the connection alone.
    pub fn push(&mut self, piece: Piece, topic: Option<&TopicName>) {
        self.push_by(piece, topic.map(|topic| (topic, SlowRules::default())));
    }

    /// Appends messages of a topic, which has these rules for the subscriber.
    pub fn owe(&mut self, piece: Piece, topic: &TopicName, slow: SlowRules) {
        self.push_by(piece, Some((topic, slow)));
    }

    /// Notes that the subscriber has left a topic. What is dropped of the messages so far, and of messages of a later
    /// subscription to the topic, is told of apart.
    pub fn end_subscription(&mut self, topic: &TopicName) {
        self.labels.end(topic);
    }

    /// Appends the notice of a lag of a topic, which has these rules for the subscriber. If a notice of the topic waits
    /// already, that notice tells of this lag too. A lag without a notice is told at once if nothing stands before it.
    pub fn owe_lag(&mut self, OwedLag { lag, notice }: OwedLag, slow: SlowRules) {
        if self.labels.waiting.merge(&lag) {
            return;
        }
        if notice.is_empty() && self.length == 0 {
            return self.labels.tell(lag);
        }
        self.labels.push_notice(notice.len(), lag, slow);
        self.length += notice.len();
        if !notice.is_empty() {
            // A notice is a piece of its own, which another notice may replace.
            self.seal_tail();
            self.append(Piece::new(notice, 0));
        }
    }

    /// Notes the messages of the pieces that are appended next whose publishers wait for receipts: where each of them
    /// ends among the bytes of these pieces.
    pub fn await_receipts(&mut self, tickets: Vec<(usize, Ticket)>) {
        if !tickets.is_empty() {
            self.awaited.get_or_insert_default().add(self.length, tickets);
        }
    }

    fn push_by(&mut self, mut piece: Piece, topic: Option<(&TopicName, SlowRules)>) {
        let length = piece.bytes.len();
        if length == 0 {
            return;
        }
        self.messages += u64::from(piece.messages);
        self.length += length;
        self.labels.push((length, piece.messages), topic, piece.tags.take());
        if length < COPIED_BELOW {
            self.make_room(length);
            self.tail.extend_from_slice(&piece.bytes);
            self.tail_messages += piece.messages;
        } else {
            self.seal_tail();
            self.append(piece);
        }
    }

    /// Marks the next `count` bytes as sent.
    ///
    /// # Panics
    ///
    /// If fewer bytes are owed.
    pub fn advance(&mut self, count: usize) {
        self.advance_pieces(count);
        self.length -= count;
        if self.awaited.as_mut().is_some_and(|awaited| awaited.advance(count)) {
            self.awaited = None;
        }
        self.labels.advance(count, (self.messages, self.length));
    }

    fn advance_pieces(&mut self, count: usize) {
        self.sent += count;
        while let Some(first) = self.pieces.front() {
            if self.sent < first.bytes.len() {
                return self.give_back_places();
            }
            self.sent -= first.bytes.len();
            self.charged -= first.charge;
            self.messages -= u64::from(first.messages);
            self.pieces.pop_front();
        }
        self.give_back_places();
        if self.sent < self.tail.len() {
            return;
        }
        self.sent -= self.tail.len();
        self.messages -= u64::from(mem::take(&mut self.tail_messages));
        self.tail = BytesMut::new();
        assert_eq!(self.sent, 0, "more was sent than was owed");
        self.was_refused = false;
    }

    /// Notes that the socket did not take all bytes that it was offered.
    pub fn refuse(&mut self) {
        self.was_refused = true;
    }

    /// Returns whether the socket has refused a part of the backlog. If not, the connection has kept up until now: its
    /// backlog began with the last shares of topics that it has left.
    #[must_use]
    pub fn was_refused(&self) -> bool {
        self.was_refused
    }

    /// Returns the bytes to send next: at most `pieces_max` pieces, of at most `bytes_max` bytes together. The last
    /// slice may be a part of a piece.
    pub fn unsent(&self, pieces_max: usize, bytes_max: usize) -> impl Iterator<Item = &[u8]> {
        let mut skip = self.sent;
        let mut left = bytes_max;
        let tail = Some(&self.tail[..]).filter(|tail| !tail.is_empty());
        let all = self.pieces.iter().map(|piece| &piece.bytes[..]).chain(tail);
        all.take(pieces_max).map_while(move |bytes| {
            let bytes = &bytes[mem::take(&mut skip)..];
            let offered = &bytes[..bytes.len().min(left)];
            left -= offered.len();
            (!offered.is_empty()).then_some(offered)
        })
    }

    /// Drops everything after the first piece, and returns the labels of the dropped bytes. Bytes that are appended
    /// next start at a frame's boundary. If all output stands in the tail, nothing is dropped.
    ///
    /// The first piece stays even if nothing of it was sent: it may be the answer of the opening handshake, which no
    /// frame may overtake. So do the notices that stand before the bytes of the first piece, among them, or right
    /// behind them: nobody gets a message behind a gap without the notice of the gap.
    pub fn truncate(&mut self) -> Vec<Label> {
        let Some(first) = self.pieces.pop_front() else { return Vec::new() };
        let (sent, was_refused, messages) = (self.sent, self.was_refused, u64::from(first.messages));
        // The messages that no label counts any more stood in this piece and have been sent.
        let ended = self.messages - self.labels.messages();
        let mut labels = mem::take(&mut self.labels);
        let given_up = labels.truncate(first.bytes.len() - sent, messages - ended);
        let length = first.bytes.len() - sent;
        let mut awaited = self.awaited.take();
        awaited.take_if(|awaited| awaited.truncate(length));
        *self = Backlog { sent, was_refused, messages, length, labels, awaited, ..Backlog::default() };
        self.append(first);
        given_up
    }

    /// Returns whether nothing is owed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.tail.is_empty()
    }

    /// Returns how many bytes have not been sent.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }

    /// Returns the memory, in bytes, that the backlog takes and keeps alive. A piece that was sent in part counts
    /// whole. Memory that several connections keep alive together is charged to each of them.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let tail = if self.tail.capacity() > 0 { self.tail.capacity() + BUFFER } else { 0 };
        let awaited = self.awaited.as_ref().map_or(0, |awaited| awaited.memory());
        self.charged + size_of::<Piece>() * self.pieces.capacity() + tail + self.labels.bytes() + awaited
    }

    /// Returns how many messages the backlog holds. A piece that was sent in part counts with all its messages.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// Returns the labels of the unsent bytes, in order. Neighbouring pieces of one topic have one label, unless the
    /// topic asks for tags.
    pub fn labels(&self) -> impl Iterator<Item = &Label> {
        self.labels.iter()
    }

    /// Returns the time of the first unsent message that has a tag.
    #[must_use]
    pub fn oldest(&self) -> Option<Millis> {
        self.labels.iter().find_map(|label| label.tags().next().map(|(_, tag)| tag.time))
    }

    pub(super) fn append(&mut self, piece: Piece) {
        self.charged += piece.charge;
        if self.pieces.len() == self.pieces.capacity() {
            // The queue grows by a quarter and does not double, since empty places count against the limit.
            self.pieces.reserve_exact((self.pieces.len() / 4).max(4));
        }
        self.pieces.push_back(piece);
    }

    pub(super) fn give_back_places(&mut self) {
        let places = self.pieces.capacity();
        if self.pieces.is_empty() || self.pieces.len() < places / 4 {
            self.pieces.shrink_to(2 * self.pieces.len());
        }
    }

    /// Makes room for so many bytes after the tail. If the tail's buffer has its greatest size, the tail becomes a
    /// piece.
    fn make_room(&mut self, bytes: usize) {
        let capacity = self.tail.capacity();
        if capacity - self.tail.len() >= bytes {
            return;
        }
        let capacity = if capacity >= TAIL_MAX {
            self.seal_tail();
            TAIL_MAX
        } else {
            (2 * capacity).clamp(TAIL_MIN, TAIL_MAX).max(self.tail.len() + bytes)
        };
        let outgrown = mem::replace(&mut self.tail, BytesMut::with_capacity(capacity));
        self.tail.extend_from_slice(&outgrown);
    }

    pub(super) fn seal_tail(&mut self) {
        if self.tail.is_empty() {
            return;
        }
        let charge = self.tail.capacity() + BUFFER;
        let bytes = mem::take(&mut self.tail).freeze();
        let messages = mem::take(&mut self.tail_messages);
        // Nothing more is copied into this buffer, so the piece needs no free room in it.
        self.append(Piece { bytes, messages, charge, tags: None }.compact());
    }
}

/// The buffers of little pieces double, from the first of these sizes to the second, in bytes.
const TAIL_MIN: usize = 64;
pub(super) const TAIL_MAX: usize = 32 * 1_024;

const _: () = assert!(TAIL_MIN < COPIED_BELOW && COPIED_BELOW <= TAIL_MAX, "every little piece fits into a buffer");

#[cfg(test)]
mod tests;
