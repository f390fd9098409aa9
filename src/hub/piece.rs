//! Pieces: whole frames in one piece of memory, of which runs and backlogs are made.

use std::{mem, sync::Arc};

use bytes::Bytes;

use super::{lag::OwedLag, memory::BUFFER, receipt::Ticket, slow::SlowRules, tag::PieceTags, topic_name::TopicName};

/// Whole frames in one piece of memory.
#[derive(Debug, Clone)]
pub struct Piece {
    /// The frames.
    pub bytes: Bytes,
    /// How many messages the frames carry.
    pub messages: u32,
    /// How many bytes of memory the piece keeps alive, its own bytes included.
    pub charge: usize,
    /// The messages' tags, if their topic asks for tags.
    pub tags: Option<Arc<PieceTags>>,
}

/// The pieces of one topic that a connection is owed, in order.
#[derive(Debug)]
pub struct Owed {
    /// The topic.
    pub topic: TopicName,
    /// The lag of the connection that the topic's runs have made, if there is one. It stands before the pieces.
    pub lag: Option<OwedLag>,
    /// The pieces, each with at least one message.
    pub pieces: Vec<Piece>,
    /// The rules of the topic for this subscriber.
    pub slow: SlowRules,
    /// For each message whose publisher waits for a receipt: where it ends among the bytes of the pieces, and the
    /// ticket that tells what becomes of it.
    pub tickets: Vec<(usize, Ticket)>,
}

impl Piece {
    /// Returns a piece without tags that keeps nothing alive but itself.
    #[must_use]
    pub fn new(bytes: Bytes, messages: u32) -> Self {
        let charge = bytes.len() + BUFFER;
        Piece { bytes, messages, charge, tags: None }
    }

    /// Returns how many bytes of memory the piece alone keeps alive: none if it stands in a run's buffer.
    pub(super) fn own_bytes(&self) -> usize {
        if self.charge == self.bytes.len() + BUFFER { self.bytes.len() } else { 0 }
    }

    /// Returns the piece as a backlog keeps it: copied to a buffer of its size if its charge is over a tenth more than
    /// its bytes.
    pub(super) fn kept(&self) -> Piece {
        // A backlog copies a piece this small in any case.
        if self.bytes.len() < COPIED_BELOW { self.clone() } else { self.compact() }
    }

    /// Returns the piece, copied to a buffer of its size if its charge is over a tenth more than its bytes.
    pub(super) fn compact(&self) -> Piece {
        if self.charge <= self.bytes.len() + self.bytes.len() / 10 + BUFFER {
            return self.clone();
        }
        Piece { tags: self.tags.clone(), ..Piece::new(Bytes::copy_from_slice(&self.bytes), self.messages) }
    }
}

/// Returns the same bytes in at most `pieces_max` pieces, which must be more than 512. If there are more pieces, small
/// neighbouring pieces are copied into one.
#[must_use]
pub fn bounded(pieces: Vec<Piece>, pieces_max: usize) -> Vec<Piece> {
    if pieces.len() <= pieces_max {
        return pieces;
    }
    let bytes = pieces.iter().map(|piece| piece.bytes.len()).sum();
    joined(pieces, small_piece_max(bytes))
}

/// Joins neighbours into pieces of at most `bytes_max` bytes. A larger piece stays as it is. So a piece comes near the
/// 2 GiB that one send takes only if it has a frame of nearly that size.
pub(super) fn joined(pieces: Vec<Piece>, bytes_max: usize) -> Vec<Piece> {
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
    let tags = PieceTags::joined(group.iter().map(|piece| (piece.bytes.len(), piece.tags.as_deref())));
    Some(Piece { tags, ..Piece::new(all.concat().into(), messages) })
}

/// Returns the size of pieces at which this many bytes are at most 513 pieces, if no two neighbours fit into one.
pub(super) fn small_piece_max(bytes: usize) -> usize {
    (bytes / 256).max(SMALL_PIECE_MAX)
}

/// A backlog copies pieces below this size in bytes, since a further piece would cost it more.
pub(super) const COPIED_BELOW: usize = 4 * 1_024;

/// Small frames are gathered in pieces of at most this size, unless a run is so large that its pieces must be larger.
pub(super) const SMALL_PIECE_MAX: usize = 256 * 1_024;

const _: () = assert!(COPIED_BELOW < SMALL_PIECE_MAX, "a full tail is kept as it is, not copied into each backlog");

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(pieces: &[Piece]) -> Vec<u8> {
        pieces.iter().flat_map(|piece| piece.bytes.to_vec()).collect()
    }

    /// If there are more pieces than one send takes, neighbours are joined. No joined piece comes near the bytes that
    /// one send takes.
    #[test]
    fn joined_pieces_have_a_limit() {
        let piece = |length: usize| Piece::new(vec![length as u8; length].into(), 1);
        let pieces: Vec<Piece> = [3, 3, 3, 20, 3, 9, 1].into_iter().map(piece).collect();
        let lengths = |pieces: &[Piece]| pieces.iter().map(|piece| piece.bytes.len()).collect::<Vec<_>>();
        let joined = joined(pieces.clone(), 10);
        assert_eq!(lengths(&joined), [9, 20, 3, 10]);
        assert_eq!(joined.iter().map(|piece| piece.messages).collect::<Vec<_>>(), [3, 1, 1, 2]);
        assert_eq!(bytes_of(&joined), bytes_of(&pieces));
        assert_eq!(joined[1].bytes.as_ptr(), pieces[3].bytes.as_ptr(), "what stands alone is not copied");
        assert_eq!(lengths(&bounded(pieces.clone(), 7)), lengths(&pieces), "few stay as they are");

        // Large and small pieces alternate; there are more than one send takes.
        let many: Vec<Piece> = (0..3_000).map(|number| piece(if number % 2 == 0 { 1 } else { 1_000 })).collect();
        let some = bounded(many.clone(), 1_023);
        assert_eq!(bytes_of(&some), bytes_of(&many));
        assert!(some.len() <= 513 && some.iter().all(|piece| piece.bytes.len() <= SMALL_PIECE_MAX));
        let bytes = 2 << 30;
        assert!(small_piece_max(bytes) <= 8 << 20 && bytes / small_piece_max(bytes) <= 256);
    }
}
