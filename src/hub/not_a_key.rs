//! The reason for which a publication has no key, or cannot have the one that was given.

use std::fmt;

/// The reason for which a text is no key of a publication ([`Publication::key`](super::Publication::key)), or for which
/// a topic's [`KeyPointer`](super::KeyPointer) finds no key in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotAKey {
    /// The key has no characters.
    Empty,
    /// The key has so many bytes, more than [`NotAKey::BYTES_MAX`].
    TooLong(usize),
    /// The key has a control character, or half of a surrogate pair.
    Character,
    /// The message is binary data.
    Binary,
    /// The message is not JSON (RFC 8259).
    NotJson,
    /// The message has no part where the pointer points to.
    NoPart,
    /// The part is an object, an array or `null`.
    NoValue,
}

impl NotAKey {
    /// The most bytes of a key, as UTF-8.
    pub const BYTES_MAX: usize = 255;

    /// Checks a key.
    ///
    /// # Errors
    ///
    /// [`NotAKey::Empty`], [`NotAKey::TooLong`] and [`NotAKey::Character`].
    pub(crate) fn check(key: &str) -> Result<(), NotAKey> {
        match key.len() {
            0 => Err(NotAKey::Empty),
            length if length > NotAKey::BYTES_MAX => Err(NotAKey::TooLong(length)),
            _ if key.chars().any(char::is_control) => Err(NotAKey::Character),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for NotAKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotAKey::Empty => f.write_str("the key is empty"),
            NotAKey::TooLong(length) => write!(f, "the key has {length} bytes, not 1 to {}", NotAKey::BYTES_MAX),
            NotAKey::Character => f.write_str("the key has a control character, or half of a surrogate pair"),
            NotAKey::Binary => f.write_str("the message is binary, and only JSON has a key"),
            NotAKey::NotJson => f.write_str("the message is not JSON"),
            NotAKey::NoPart => f.write_str("the message has no such part"),
            NotAKey::NoValue => f.write_str("this part is no string, number or boolean"),
        }
    }
}

impl std::error::Error for NotAKey {}
