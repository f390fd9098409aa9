//! The bytes that a hostile connection has received, searched for answers and secrets.

/// A word that every message to a private topic and every private file contains.
pub(crate) const SECRET: &str = "private-marker";

/// Counts the answers that accept a request, and notices the secret word. Only the first [`SEARCHED_MAX`] bytes of a
/// connection are searched, since the search of floods would slow the crowd down.
#[derive(Debug, Default)]
pub(crate) struct ReceivedBytes {
    /// The last bytes, fewer than the longest word.
    tail: Vec<u8>,
    searched: usize,
    accepted: usize,
    has_secret: bool,
    head: Vec<u8>,
}

impl ReceivedBytes {
    /// Adds the bytes of one receive.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        if self.head.len() < HEAD_MAX && !self.has_head() {
            self.head.extend_from_slice(&bytes[..bytes.len().min(HEAD_MAX)]);
        }
        if self.searched >= SEARCHED_MAX {
            return;
        }
        self.searched += bytes.len();
        let old = self.tail.len();
        self.tail.extend_from_slice(bytes);
        for word in [ACCEPTED, SWITCHED] {
            self.accepted += new_words(&self.tail, old, word.as_bytes());
        }
        self.has_secret |= new_words(&self.tail, old, SECRET.as_bytes()) > 0;
        let end = self.tail.len().saturating_sub(TAIL);
        self.tail.drain(..end);
    }

    /// Returns whether a head has ended.
    pub(crate) fn has_head(&self) -> bool {
        self.head.windows(4).any(|window| window == b"\r\n\r\n")
    }

    /// Returns whether the first answer is 101.
    pub(crate) fn is_open(&self) -> bool {
        self.head.starts_with(SWITCHED.as_bytes())
    }

    /// Returns how many answers were 101 or 2xx.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted
    }

    /// Returns whether the secret word was received.
    pub(crate) fn has_secret(&self) -> bool {
        self.has_secret
    }
}

/// Counts the occurrences of a word that end after the first `old` bytes.
fn new_words(bytes: &[u8], old: usize, word: &[u8]) -> usize {
    let begins = bytes.windows(word.len()).enumerate().filter(|(_, window)| *window == word);
    begins.filter(|(at, _)| at + word.len() > old).count()
}

const ACCEPTED: &str = "HTTP/1.1 2";
const SWITCHED: &str = "HTTP/1.1 101";

/// One byte less than the longest word.
const TAIL: usize = SECRET.len() - 1;

const SEARCHED_MAX: usize = 64 * 1_024;
const HEAD_MAX: usize = 4_096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_once_however_they_are_cut() {
        let bytes =
            b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 101 Switching Protocols\r\n\r\nHTTP/1.1 404 a private-marker";
        for piece in 1..bytes.len() {
            let mut received = ReceivedBytes::default();
            bytes.chunks(piece).for_each(|part| received.add(part));
            assert_eq!(
                (received.accepted(), received.has_secret(), received.has_head(), received.is_open()),
                (2, true, true, false),
                "{piece}"
            );
        }
        let mut received = ReceivedBytes::default();
        received.add(b"HTTP/1.1 403 Forbidden\r\n\r\nprivate-marke");
        assert_eq!((received.accepted(), received.has_secret()), (0, false));
    }
}
