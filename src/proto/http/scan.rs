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
        for at in usize::from(self.searched)..end {
            let after_cr = at > 0 && bytes[at - 1] == b'\r';
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
            self.searched = at as u16 + 1;
        }
        if end == HEAD_BYTES_MAX { Err(HttpError::HeadTooLong) } else { Ok(None) }
    }
}
