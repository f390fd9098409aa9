//! UTF-8 as it arrives (RFC 6455 8.1).

use super::error::ProtocolError;

/// The check of one text, piece by piece, wherever it is cut.
#[derive(Debug, Default)]
pub(super) struct Utf8 {
    /// The first bytes of the character in which the pieces so far end.
    begun: [u8; 3],
    begun_len: u8,
}

impl Utf8 {
    /// Checks the next piece.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::InvalidUtf8`] when no continuation can make the text UTF-8.
    pub(super) fn append(&mut self, mut piece: &[u8]) -> Result<(), ProtocolError> {
        while self.begun_len > 0
            && let [octet, rest @ ..] = piece
        {
            let len = usize::from(self.begun_len);
            let [a, b, c] = self.begun;
            let mut character = [a, b, c, 0];
            character[len] = *octet;
            match utf8_prefix(&character[..=len])? {
                0 => self.begin(&character[..=len]),
                _ => self.begun_len = 0,
            }
            piece = rest;
        }
        let whole = utf8_prefix(piece)?;
        if whole < piece.len() {
            self.begin(&piece[whole..]);
        }
        Ok(())
    }

    /// Checks that the text may end here.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::InvalidUtf8`] inside a character.
    pub(super) fn end(&self) -> Result<(), ProtocolError> {
        if self.is_cut() { Err(ProtocolError::InvalidUtf8) } else { Ok(()) }
    }

    /// Returns whether the pieces so far end inside a character.
    #[inline]
    pub(super) fn is_cut(&self) -> bool {
        self.begun_len > 0
    }

    fn begin(&mut self, character: &[u8]) {
        self.begun[..character.len()].copy_from_slice(character);
        self.begun_len = character.len() as u8;
    }
}

/// Returns the number of bytes at the front that are whole characters. Up to three bytes after them may be the
/// beginning of another one.
///
/// # Errors
///
/// [`ProtocolError::InvalidUtf8`] when no continuation can make the bytes UTF-8.
#[inline]
pub fn utf8_prefix(bytes: &[u8]) -> Result<usize, ProtocolError> {
    match simdutf8::compat::from_utf8(bytes) {
        Ok(_) => Ok(bytes.len()),
        Err(error) if error.error_len().is_none() => Ok(error.valid_up_to()),
        Err(_) => Err(ProtocolError::InvalidUtf8),
    }
}
