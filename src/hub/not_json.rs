//! The reason for which a text cannot be published as JSON.

use std::fmt;

use serde::de::IgnoredAny;

/// The reason for which a text cannot be published as JSON ([`Publication::json`](super::Publication::json)).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotJson {
    /// The text is not JSON (RFC 8259): the first error, with its place.
    Syntax(String),
    /// Arrays and objects are nested deeper than [`NotJson::DEPTH_MAX`].
    TooDeep,
}

impl NotJson {
    /// The most arrays and objects around a value: deeper nesting would break the readers of some subscribers.
    pub const DEPTH_MAX: usize = 100;

    /// Checks a text.
    ///
    /// # Errors
    ///
    /// See [`NotJson`].
    pub(crate) fn check(text: &str) -> Result<(), NotJson> {
        serde_json::from_str::<IgnoredAny>(text).map_err(|error| NotJson::Syntax(error.to_string()))?;
        NotJson::check_depth(text)
    }

    /// Checks the nesting of a text that is JSON.
    ///
    /// # Errors
    ///
    /// [`NotJson::TooDeep`].
    pub(crate) fn check_depth(json: &str) -> Result<(), NotJson> {
        let (mut depth, mut is_in_string, mut is_escaped) = (0_usize, false, false);
        for byte in json.bytes() {
            match byte {
                _ if is_escaped => is_escaped = false,
                b'\\' => is_escaped = true,
                b'"' => is_in_string = !is_in_string,
                _ if is_in_string => {}
                b'[' | b'{' => depth += 1,
                b']' | b'}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth > NotJson::DEPTH_MAX {
                return Err(NotJson::TooDeep);
            }
        }
        Ok(())
    }
}

impl fmt::Display for NotJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotJson::Syntax(error) => write!(f, "the text is not JSON: {error}"),
            NotJson::TooDeep => write!(f, "the JSON is nested deeper than {}", NotJson::DEPTH_MAX),
        }
    }
}

impl std::error::Error for NotJson {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_json_or_not() {
        for text in ["{}", "[1, 2]", " null ", "\"a\"", "1e9", r#"{"a":"]}\"\\"}"#] {
            assert_eq!(NotJson::check(text), Ok(()), "{text}");
        }
        for text in ["", "{", "{}x", "'a'", "01", "[1,]", "\"\n\"", "NaN"] {
            assert!(matches!(NotJson::check(text), Err(NotJson::Syntax(_))), "{text}");
        }
    }

    #[test]
    fn nesting_has_a_limit() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(NotJson::check(&nested(NotJson::DEPTH_MAX)), Ok(()));
        assert_eq!(NotJson::check(&nested(NotJson::DEPTH_MAX + 1)), Err(NotJson::TooDeep));
        // Brackets in strings do not nest, and brackets that are closed count no more.
        assert_eq!(NotJson::check(&format!("[{:?}]", "[{".repeat(200))), Ok(()));
        assert_eq!(NotJson::check(&format!("[{}1]", "[],".repeat(200))), Ok(()));
    }
}
