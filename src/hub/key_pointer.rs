//! Pointers to the keys in messages of JSON.

use std::{fmt, str::FromStr, sync::Arc};

use serde::de::IgnoredAny;

use super::{not_a_key::NotAKey, publication::Publication};
use crate::proto::MessageType;

/// A JSON pointer (RFC 6901) to the part of a message that is its key, such as `/symbol`.
///
/// The key is the text of a string, or the JSON text of a number or a boolean as the message has it. A message has no
/// key if it is no JSON, has no such part, or its part is another value or no key ([`NotAKey`]). Of several members
/// with one name the last counts.
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

    /// Gives a publication without a key the one that the pointer finds in it.
    ///
    /// # Errors
    ///
    /// [`NotAKey`] if the publication has no key.
    pub(crate) fn give_key(&self, publication: Publication) -> Result<Publication, NotAKey> {
        if publication.key_name().is_some() {
            return Ok(publication);
        }
        let key = self.find(&publication)?;
        publication.key(&key)
    }

    /// Returns the key in a message. The message is read as it stands, so the work and the memory are no larger than
    /// its text.
    pub(super) fn find(&self, publication: &Publication) -> Result<String, NotAKey> {
        if publication.kind() != MessageType::Text {
            return Err(NotAKey::Binary);
        }
        let text = std::str::from_utf8(publication.payload()).map_err(|_| NotAKey::NotJson)?;
        // The check takes no memory but a byte for each level.
        serde_json::from_str::<IgnoredAny>(text).map_err(|_| NotAKey::NotJson)?;
        let mut value = trimmed(text);
        for token in self.0.split('/').skip(1) {
            value = part(value, &token.replace("~1", "/").replace("~0", "~")).ok_or(NotAKey::NoPart)?;
        }
        if value.starts_with(['{', '[', 'n']) {
            return Err(NotAKey::NoValue);
        }
        let is_string = value.starts_with('"');
        let key = match is_string {
            true => decoded(value).ok_or(NotAKey::Character)?,
            false => value.trim_end_matches(WHITESPACE).to_owned(),
        };
        NotAKey::check(&key).map(|()| key)
    }
}

/// Returns the last member of an object with this name, or the element of an array with this number. `value` begins
/// with a valid value.
fn part<'a>(value: &'a str, token: &str) -> Option<&'a str> {
    let is_object = value.starts_with('{');
    let mut rest = trimmed(value.strip_prefix(['{', '['])?);
    let wanted = token.parse::<usize>().ok().filter(|wanted| wanted.to_string() == token);
    let (mut number, mut found) = (0_usize, None);
    while !rest.starts_with(['}', ']']) {
        let is_wanted = if is_object {
            let (name, after) = rest.split_at_checked(value_length(rest))?;
            rest = trimmed(trimmed(after).strip_prefix(':')?);
            is_named(name, token)
        } else {
            wanted == Some(number)
        };
        let (value, after) = rest.split_at_checked(value_length(rest)).filter(|(value, _)| !value.is_empty())?;
        if is_wanted {
            found = Some(value);
        }
        let after = trimmed(after);
        rest = trimmed(after.strip_prefix(',').unwrap_or(after));
        number += 1;
    }
    found
}

/// Returns the length of the value that a text begins with.
fn value_length(text: &str) -> usize {
    let (mut depth, mut is_in_string, mut is_escaped) = (0_usize, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => is_in_string = !is_in_string,
            _ if is_in_string => continue,
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth > 0 => depth -= 1,
            // The number, or the word, has ended.
            b'}' | b']' | b',' if depth == 0 => return at,
            _ => continue,
        }
        if depth == 0 && !is_in_string && matches!(byte, b'"' | b'}' | b']') {
            return at + 1;
        }
    }
    text.len()
}

fn is_named(name: &str, wanted: &str) -> bool {
    if name.contains('\\') {
        return decoded(name).is_some_and(|name| name == wanted);
    }
    name.strip_prefix('"').and_then(|name| name.strip_suffix('"')) == Some(wanted)
}

/// Returns the text of a string; `None` if it has half of a surrogate pair.
fn decoded(string: &str) -> Option<String> {
    serde_json::from_str(string).ok()
}

fn trimmed(text: &str) -> &str {
    text.trim_start_matches(WHITESPACE)
}

/// White space between the parts of JSON.
const WHITESPACE: [char; 4] = [' ', '\t', '\n', '\r'];

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
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[test]
    fn keys_are_found() {
        let found = |pointer: &str, text: &str| pointer.parse::<KeyPointer>().unwrap().find(&Publication::text(text));
        for (pointer, text, expected) in [
            ("/s", r#"{"s":"A"}"#, Ok("A")),
            ("/s", r#"{"s":"\u0041"}"#, Ok("A")),
            ("/s/1", r#"{"s":[1,{"x":2}]}"#, Err(NotAKey::NoValue)),
            ("/s", r#"{"s":[1]}"#, Err(NotAKey::NoValue)),
            ("/s", r#"{"s":17}"#, Ok("17")),
            ("/s", r#"{"s":false}"#, Ok("false")),
            ("/s", r#"{"s":null}"#, Err(NotAKey::NoValue)),
            ("/a~1b~0c", r#"{"a/b~c":"x"}"#, Ok("x")),
            ("/", r#"{"":"x"}"#, Ok("x")),
            ("/s", r#"{"t":"A"}"#, Err(NotAKey::NoPart)),
            ("/s", "no JSON", Err(NotAKey::NotJson)),
            ("/s", r#"{"s":"A"} x"#, Err(NotAKey::NotJson)),
            ("/s", r#"{"s":"A","t":[1,}"#, Err(NotAKey::NotJson)),
            ("/s", r#"{"s":""}"#, Err(NotAKey::Empty)),
            ("/s", r#"{"s":"\ud800"}"#, Err(NotAKey::Character)),
            ("/s", r#"{"s":"a\nb"}"#, Err(NotAKey::Character)),
            ("/s", " { \"t\" : [ \"]}\\\"\" , 1 ] ,\n\"s\" : 1e2 } ", Ok("1e2")),
            ("/s", r#"{"s":18446744073709551617}"#, Ok("18446744073709551617")),
            ("/s", r#"{"s":"A","s":"B"}"#, Ok("B")),
            ("/s", r#"{"\u0073":"A"}"#, Ok("A")),
            ("/0", r#"["A"]"#, Ok("A")),
            ("/00", r#"["A"]"#, Err(NotAKey::NoPart)),
            ("/0", r#""A""#, Err(NotAKey::NoPart)),
            ("/s/t", r#"{"s":17}"#, Err(NotAKey::NoPart)),
        ] {
            assert_eq!(found(pointer, text).as_deref(), expected.as_ref().map(|key| *key), "{pointer} {text}");
        }
        let pointer = "/s".parse::<KeyPointer>().unwrap();
        assert_eq!(pointer.find(&Publication::binary(br#"{"s":"A"}"#)), Err(NotAKey::Binary));
        let keyed = pointer.give_key(Publication::text("no JSON").key("B").unwrap()).unwrap();
        assert_eq!(keyed.key_name(), Some("B"), "a key that the publisher has given stays");
    }

    /// A deep message is no danger, and a long part is no key.
    #[test]
    fn large_messages_are_read_as_they_stand() {
        let find = |text: &str| "/s".parse::<KeyPointer>().unwrap().find(&Publication::text(text));
        let deep = format!(r#"{{"t":{}{},"s":"A"}}"#, "[".repeat(200_000), "]".repeat(200_000));
        assert_eq!(find(&deep).as_deref(), Ok("A"));
        let long = |length| find(&format!(r#"{{"s":"{}"}}"#, "x".repeat(length))).map(|key| key.len());
        assert_eq!((long(255), long(256)), (Ok(255), Err(NotAKey::TooLong(256))));
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-b\\[\\]{},:\"\\\\é/~ ]{0,4}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 4, |inner| {
            let members = prop::collection::btree_map("[a-b\"\\\\/~]{0,2}", inner.clone(), 0..4);
            prop_oneof![
                prop::collection::vec(inner, 0..4).prop_map(Value::from),
                members.prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// A pointer finds what it finds in the tree of the message.
        #[test]
        fn a_pointer_finds_a_part_of_the_tree(
            value in value(),
            tokens in prop::collection::vec("[a-b0-2\"/~]{0,2}", 1..4),
            is_pretty in any::<bool>(),
        ) {
            let tokens = tokens.iter().map(|token| format!("/{}", token.replace('~', "~0").replace('/', "~1")));
            let pointer: String = tokens.collect();
            let text = if is_pretty { format!("{value:#}") } else { value.to_string() };
            let found = pointer.parse::<KeyPointer>().unwrap().find(&Publication::text(&text));
            match value.pointer(&pointer) {
                Some(Value::String(text)) if text.is_empty() => prop_assert_eq!(found, Err(NotAKey::Empty)),
                Some(Value::String(text)) => prop_assert_eq!(found.as_ref(), Ok(text)),
                Some(Value::Object(_) | Value::Array(_) | Value::Null) => {
                    prop_assert_eq!(found, Err(NotAKey::NoValue));
                }
                Some(other) => prop_assert_eq!(found, Ok(other.to_string())),
                None => prop_assert_eq!(found, Err(NotAKey::NoPart)),
            }
        }
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
