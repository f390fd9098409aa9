//! What a laggard is still owed.

use std::collections::VecDeque;

use super::Piece;

/// The bytes that a socket did not take, in order. They are references into runs and large frames, so what counts
/// against the limit is what they keep alive.
///
/// Every piece is a sequence of whole frames; only the first may have been sent in part.
#[derive(Debug, Default)]
pub struct Backlog {
    pieces: VecDeque<Piece>,
    /// How much of the first piece has been sent.
    sent: usize,
    bytes: usize,
    messages: u64,
    was_refused: bool,
}

impl Backlog {
    /// Appends a piece.
    pub fn push(&mut self, piece: Piece) {
        if piece.bytes.is_empty() {
            return;
        }
        self.bytes += cost(&piece);
        self.messages += u64::from(piece.messages);
        self.pieces.push_back(piece);
    }

    /// Marks the next `count` bytes as sent.
    ///
    /// # Panics
    ///
    /// If there are fewer.
    pub fn advance(&mut self, count: usize) {
        self.sent += count;
        while let Some(first) = self.pieces.front() {
            if self.sent < first.bytes.len() {
                return;
            }
            self.sent -= first.bytes.len();
            self.bytes -= cost(first);
            self.messages -= u64::from(first.messages);
            self.pieces.pop_front();
        }
        assert_eq!(self.sent, 0, "more was sent than was owed");
        self.was_refused = false;
    }

    /// The socket did not take all that it was offered.
    pub fn refuse(&mut self) {
        self.was_refused = true;
    }

    /// Has the socket refused any of it? If not, its owner has kept up until now: it holds the shares of topics that
    /// were left before their walks came.
    #[must_use]
    pub fn was_refused(&self) -> bool {
        self.was_refused
    }

    /// What to send next, at most `pieces_max` pieces.
    pub fn unsent(&self, pieces_max: usize) -> impl Iterator<Item = &[u8]> {
        let mut skip = self.sent;
        self.pieces.iter().take(pieces_max).map(move |piece| &piece.bytes[std::mem::take(&mut skip)..])
    }

    /// Gives up everything behind the first piece, so that what follows starts at a frame's boundary, and returns how
    /// many messages were given up.
    ///
    /// The first piece stays even if nothing of it was sent: it may be the answer of the opening handshake, which no
    /// frame may overtake.
    pub fn truncate(&mut self) -> u64 {
        let before = self.messages;
        self.pieces.truncate(1);
        self.bytes = self.pieces.front().map_or(0, cost);
        self.messages = self.pieces.front().map_or(0, |first| u64::from(first.messages));
        before - self.messages
    }

    /// Is nothing owed?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Bytes kept alive, by pieces sent in part as well.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Messages owed, counting one that was sent in part.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.messages
    }
}

/// What a piece keeps alive, and what it takes itself.
fn cost(piece: &Piece) -> usize {
    piece.charge + size_of::<Piece>()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const PIECE: usize = size_of::<Piece>();

    fn backlog(pieces: &[&'static str]) -> Backlog {
        let mut backlog = Backlog::default();
        for piece in pieces {
            backlog.push(Piece::new(Bytes::from_static(piece.as_bytes()), 1));
        }
        backlog
    }

    fn unsent(backlog: &Backlog) -> String {
        backlog.unsent(1_024).map(|piece| std::str::from_utf8(piece).unwrap()).collect::<Vec<_>>().join("|")
    }

    #[test]
    fn advances_byte_by_byte_over_pieces() {
        let whole = "abcdefgh";
        let mut backlog = backlog(&["ab", "cde", "f", "gh"]);
        for count in 0..whole.len() {
            assert_eq!(unsent(&backlog).replace('|', ""), whole[count..]);
            backlog.advance(1);
        }
        assert!(backlog.is_empty());
        assert_eq!((backlog.bytes(), backlog.messages()), (0, 0));
    }

    #[test]
    fn it_is_new_until_it_has_been_refused() {
        let mut backlog = backlog(&["ab", "cd"]);
        backlog.advance(3);
        assert!(!backlog.was_refused());
        backlog.refuse();
        assert!(backlog.was_refused());
        backlog.advance(1);
        assert!(!backlog.was_refused(), "what comes now begins a new one");
    }

    #[test]
    fn counts_what_it_keeps_alive() {
        let mut backlog = backlog(&["abcd", "ef"]);
        backlog.advance(3);
        assert_eq!((backlog.bytes(), backlog.messages()), (6 + 2 * PIECE, 2));
        backlog.advance(2);
        assert_eq!((backlog.bytes(), backlog.messages()), (2 + PIECE, 1));
        assert_eq!(unsent(&backlog), "f");
    }

    #[test]
    fn a_cut_keeps_the_piece_that_was_begun() {
        let mut backlog = backlog(&["abcd", "ef", "gh"]);
        backlog.advance(1);
        assert_eq!(backlog.truncate(), 2);
        assert_eq!(unsent(&backlog), "bcd");
        backlog.push(Piece::new(Bytes::from_static(b"close"), 0));
        assert_eq!(unsent(&backlog), "bcd|close");
        backlog.advance(8);
        assert!(backlog.is_empty());
    }

    #[test]
    #[should_panic(expected = "more was sent than was owed")]
    fn more_than_owed_cannot_have_been_sent() {
        backlog(&["ab"]).advance(3);
    }

    #[test]
    fn at_most_so_many_pieces() {
        assert_eq!(backlog(&["a", "b", "c"]).unsent(2).count(), 2);
    }
}
