//! The backlog of a slow consumer: the output that its socket has not taken.

use std::{collections::VecDeque, mem};

use bytes::BytesMut;

use super::{
    label::{Label, Labels},
    memory::BUFFER,
    piece::{COPIED_BELOW, Piece},
    topic_name::TopicName,
};
use crate::proto::Millis;

/// The bytes that a socket did not take, in order. Many pieces are references into runs and large frames, so the memory
/// that they keep alive counts against the limit. Little pieces are copied one after the other.
///
/// Every piece is a sequence of whole frames; only the first may have been sent in part.
#[derive(Debug, Default)]
pub struct Backlog {
    pieces: VecDeque<Piece>,
    /// Little pieces, after all others.
    tail: BytesMut,
    tail_messages: u32,
    /// How many bytes of the first piece have been sent, or of the tail if there is no piece.
    sent: usize,
    /// The bytes that the pieces keep alive.
    charged: usize,
    messages: u64,
    labels: Labels,
    was_refused: bool,
}

impl Backlog {
    /// Bytes by which a connection's output may exceed its limit: for places in queues, frame headers, answers to
    /// pings. So a limit of the size of two messages allows two messages.
    pub const BESIDES: usize = 4 * 1_024;

    /// Appends a piece: messages of `topic`, or frames for the connection alone.
    pub fn push(&mut self, mut piece: Piece, topic: Option<&TopicName>) {
        let length = piece.bytes.len();
        if length == 0 {
            return;
        }
        self.messages += u64::from(piece.messages);
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
    /// If there are fewer.
    pub fn advance(&mut self, count: usize) {
        self.advance_pieces(count);
        self.labels.advance(count, self.messages);
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

    /// Notes that the socket did not take all that it was offered.
    pub fn refuse(&mut self) {
        self.was_refused = true;
    }

    /// Returns whether the socket has refused any of the backlog. If not, the connection has kept up until now: the
    /// backlog began with shares of topics that the connection left before their walks visited the connection.
    #[must_use]
    pub fn was_refused(&self) -> bool {
        self.was_refused
    }

    /// Returns the bytes to send next: at most `pieces_max` pieces, of at most `bytes_max` bytes together. The last of
    /// them may be a part of a piece.
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

    /// Gives up everything after the first piece, and returns its labels. Bytes that are appended next start at a
    /// frame's boundary.
    ///
    /// The first piece stays even if nothing of it was sent: it may be the answer of the opening handshake, which no
    /// frame may overtake.
    pub fn truncate(&mut self) -> Vec<Label> {
        let Some(first) = self.pieces.pop_front() else { return Vec::new() };
        let (sent, was_refused, messages) = (self.sent, self.was_refused, u64::from(first.messages));
        // Messages that no label counts any more were sent, and stood in this piece.
        let ended = self.messages - self.labels.messages();
        let mut labels = mem::take(&mut self.labels);
        let given_up = labels.truncate(first.bytes.len() - sent, messages - ended);
        *self = Backlog { sent, was_refused, messages, labels, ..Backlog::default() };
        self.append(first);
        given_up
    }

    /// Returns whether nothing is owed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.tail.is_empty()
    }

    /// Returns the memory, in bytes, that the backlog takes and keeps alive. A piece that was sent in part counts
    /// whole. Memory that several connections keep alive together is charged to each of them.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let tail = if self.tail.capacity() > 0 { self.tail.capacity() + BUFFER } else { 0 };
        self.charged + size_of::<Piece>() * self.pieces.capacity() + tail + self.labels.bytes()
    }

    /// Returns how many messages the backlog holds. A piece that was sent in part counts with all its messages.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// Returns the labels of the unsent bytes, in order. Neighbours of one topic have one label, unless the topic asks
    /// for tags.
    pub fn labels(&self) -> impl Iterator<Item = &Label> {
        self.labels.iter()
    }

    /// Returns the time of the first unsent message that has a tag.
    #[must_use]
    pub fn oldest(&self) -> Option<Millis> {
        self.labels.iter().find_map(|label| label.tags().next()).map(|(_, tag)| tag.time)
    }

    fn append(&mut self, piece: Piece) {
        self.charged += piece.charge;
        if self.pieces.len() == self.pieces.capacity() {
            // A quarter more, not twice as many: empty places count against the limit.
            self.pieces.reserve_exact((self.pieces.len() / 4).max(4));
        }
        self.pieces.push_back(piece);
    }

    fn give_back_places(&mut self) {
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

    fn seal_tail(&mut self) {
        if self.tail.is_empty() {
            return;
        }
        let charge = self.tail.capacity() + BUFFER;
        let bytes = mem::take(&mut self.tail).freeze();
        let messages = mem::take(&mut self.tail_messages);
        // Nothing more is copied into this buffer, so the piece needs no free room in it.
        self.append(Piece { bytes, messages, charge, tags: None }.kept());
    }
}

/// Little pieces are gathered in buffers that double between these sizes.
const TAIL_MIN: usize = 64;
const TAIL_MAX: usize = 32 * 1_024;

const _: () = assert!(TAIL_MIN < COPIED_BELOW && COPIED_BELOW <= TAIL_MAX, "every little piece fits into a buffer");

#[cfg(test)]
<<<<<<< ours
mod tests {
    mod model;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    /// Pieces of so many bytes, all different.
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

    /// Gives up what a close does not send, and returns how many messages it was.
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
            assert!(!backlog.was_refused(), "what comes now begins a new one");
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

    /// Many little pieces take hardly more than their bytes, and few take little.
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
        /// The unsent bytes are those that were pushed after the sent ones, and a backlog that has emptied weighs
        /// nothing.
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
}
=======
mod tests;
>>>>>>> theirs
