//! Finds the end of a head that arrives piece by piece.

use super::error::{HEAD_BYTES_MAX, HttpError};
use std::ops::Range;

/// The search for the end of a head. It looks at every byte once, however slowly the bytes arrive.
///
/// Empty lines in front of a head are passed over (RFC 9112 2.2).
///
/// ```
/// use ringhub::proto::HeadScan;
/// let mut scan = HeadScan::default();
/// assert_eq!(scan.find(b"GET / HTTP/1.1\r\n")?, None);
/// assert_eq!(scan.find(b"GET / HTTP/1.1\r\n\r\nmore")?, Some(0..18));
/// # Ok::<(), ringhub::proto::HttpError>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct HeadScan {
    /// The end of the scanned bytes.
    searched: u16,
    /// The beginning of the current line.
    line_at: u16,
    /// The beginning of the first line that is not empty.
    head_at: Option<u16>,
}

impl HeadScan {
    /// Returns the range of the head in `bytes`, which begins with the bytes of the call before; `None` if the end of
    /// the head is missing.
    ///
    /// # Errors
    ///
    /// [`HttpError::BareLineFeed`], [`HttpError::BareCarriageReturn`] or, for any other control character but a tab,
    /// [`HttpError::ControlCharacter`], each as soon as the byte is in `bytes`; [`HttpError::HeadTooLong`].
    pub fn find(&mut self, bytes: &[u8]) -> Result<Option<Range<usize>>, HttpError> {
        let end = bytes.len().min(HEAD_BYTES_MAX);
        let mut at = usize::from(self.searched);
        while at < end {
            let after_cr = at > 0 && bytes[at - 1] == b'\r';
            if !after_cr {
                at += plain(&bytes[at..end]);
                self.searched = at as u16;
                if at == end {
                    break;
                }
            }
            match bytes[at] {
                b'\n' if !after_cr => return Err(HttpError::BareLineFeed),
                b'\n' => {
                    let empty_line = usize::from(self.line_at) + 1 == at;
                    match (empty_line, self.head_at) {
                        (true, Some(head_at)) => return Ok(Some(usize::from(head_at)..at + 1)),
                        (false, None) => self.head_at = Some(self.line_at),
                        _ => {}
                    }
                    self.line_at = at as u16 + 1;
                }
                _ if after_cr => return Err(HttpError::BareCarriageReturn),
                b'\r' | b'\t' | 0x20..=0x7E | 0x80.. => {}
                0x00..=0x1F | 0x7F => return Err(HttpError::ControlCharacter),
            }
            at += 1;
            self.searched = at as u16;
        }
        if end == HEAD_BYTES_MAX { Err(HttpError::HeadTooLong) } else { Ok(None) }
    }
}

/// Returns the number of bytes in front of the first control character, or of all bytes.
fn plain(bytes: &[u8]) -> usize {
    let (words, rest) = bytes.as_chunks::<8>();
    for (number, word) in words.iter().enumerate() {
        let controls = controls(u64::from_le_bytes(*word));
        if controls != 0 {
            return 8 * number + controls.trailing_zeros() as usize / 8;
        }
    }
    let is_control = |octet: &u8| octet.is_ascii_control();
    8 * words.len() + rest.iter().position(is_control).unwrap_or(rest.len())
}

/// Returns a word whose lowest set bit is in the first byte that is a control character: below 0x20, or 0x7F. Without
/// such a byte the word is 0.
const fn controls(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    // A byte borrows from its high bit if it is smaller than what is subtracted. A byte whose high bit was set before
    // is no control character. A byte that borrows from the next one is a control character itself, and comes first.
    const fn below(word: u64, least: u64) -> u64 {
        word.wrapping_sub(ONES * least) & !word & (ONES * 0x80)
    }
    below(word, 0x20) | below(word ^ (ONES * 0x7F), 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_found() {
        for octet in 0..=u8::MAX {
            for length in 1..20 {
                for at in 0..length {
                    for others in [b' ', b'~', 0x80, 0xFF] {
                        let mut bytes = vec![others; length];
                        bytes[at] = octet;
                        let expected = if octet.is_ascii_control() { at } else { length };
                        assert_eq!(plain(&bytes), expected, "{bytes:?}");
                        bytes[at..].fill(octet);
                        assert_eq!(plain(&bytes), expected, "{bytes:?}");
                    }
                }
            }
        }
        assert_eq!(plain(b""), 0);
    }
}
