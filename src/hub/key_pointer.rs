//! Pointers to the keys in messages of JSON.

use std::{fmt, str::FromStr, sync::Arc};

use super::publication::Publication;
use crate::proto::MessageType;

/// A JSON pointer (RFC 6901) to the part of a message that is its key, such as `/symbol`.
///
/// The key is the text of a string, or the JSON text of any other value. A message that is no JSON, or has no such
/// part, has no key.
///
/// ```
/// use ringhub::KeyPointer;
/// assert_eq!("/trade/symbol".parse::<KeyPointer>()?.as_str(), "/trade/symbol");
/// assert!("symbol".parse::<KeyPointer>().is_err());
/// # Ok::<(), ringhub::KeyPointerError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPointer(Arc<str>);

/// The reason for which a text is no pointer to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyPointerError {
    /// The text does not begin with a slash.
    NoSlash,
    /// A tilde is not followed by 0 or 1 (RFC 6901 3).
    Tilde,
}

impl KeyPointer {
    /// Returns the text of the pointer.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the key in a text message.
    pub(super) fn find(&self, publication: &Publication) -> Option<String> {
        if publication.kind() != MessageType::Text {
            return None;
        }
        let value: serde_json::Value = serde_json::from_slice(publication.payload()).ok()?;
        Some(match value.pointer(&self.0)? {
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        })
    }
}

impl FromStr for KeyPointer {
    type Err = KeyPointerError;

    fn from_str(text: &str) -> Result<Self, KeyPointerError> {
        if !text.starts_with('/') {
            return Err(KeyPointerError::NoSlash);
        }
        if text.split('~').skip(1).any(|rest| !rest.starts_with(['0', '1'])) {
            return Err(KeyPointerError::Tilde);
        }
        Ok(KeyPointer(text.into()))
    }
}

impl fmt::Display for KeyPointerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KeyPointerError::NoSlash => "a JSON pointer begins with a slash",
            KeyPointerError::Tilde => "in a JSON pointer, ~ is followed by 0 (for ~) or 1 (for a slash)",
        })
    }
}

impl std::error::Error for KeyPointerError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found() {
        let found = |pointer: &str, text: &str| pointer.parse::<KeyPointer>().unwrap().find(&Publication::text(text));
        for (pointer, text, expected) in [
            ("/s", r#"{"s":"A"}"#, Some("A")),
            ("/s", r#"{"s":"\u0041"}"#, Some("A")),
            ("/s/1", r#"{"s":[1,{"x":2}]}"#, Some(r#"{"x":2}"#)),
            ("/s", r#"{"s":17}"#, Some("17")),
            ("/s", r#"{"s":null}"#, Some("null")),
            ("/a~1b~0c", r#"{"a/b~c":"x"}"#, Some("x")),
            ("/", r#"{"":"x"}"#, Some("x")),
            ("/s", r#"{"t":"A"}"#, None),
            ("/s", "no JSON", None),
        ] {
            assert_eq!(found(pointer, text).as_deref(), expected, "{pointer} {text}");
        }
        let binary = Publication::binary(br#"{"s":"A"}"#);
        assert_eq!("/s".parse::<KeyPointer>().unwrap().find(&binary), None);
    }

    #[test]
    fn some_texts_are_no_pointers() {
        for (text, error) in [
            ("", KeyPointerError::NoSlash),
            ("s", KeyPointerError::NoSlash),
            ("/a~", KeyPointerError::Tilde),
            ("/a~2", KeyPointerError::Tilde),
        ] {
            assert_eq!(text.parse::<KeyPointer>(), Err(error), "{text:?}");
        }
    }
}
