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
    /// A string has half of a surrogate pair, such as `\ud800` alone, which many readers of JSON refuse (RFC 8259 8.2).
    LoneSurrogate,
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
        NotJson::check_value(text)
    }

    /// Checks the nesting of a text that is JSON, and the escapes of its strings.
    ///
    /// # Errors
    ///
    /// [`NotJson::TooDeep`] and [`NotJson::LoneSurrogate`].
    fn check_value(json: &str) -> Result<(), NotJson> {
        let bytes = json.as_bytes();
        let (mut depth, mut is_in_string, mut at) = (0_usize, false, 0);
        while let Some(byte) = bytes.get(at) {
            match byte {
                b'\\' => {
                    at += match (utf16_escape(bytes, at), utf16_escape(bytes, at + 6)) {
                        (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => 12,
                        (Some(0xD800..=0xDFFF), _) => return Err(NotJson::LoneSurrogate),
                        (Some(_), _) => 6,
                        (None, _) => 2,
                    };
                    continue;
                }
                b'"' => is_in_string = !is_in_string,
                _ if is_in_string => {}
                b'[' | b'{' => depth += 1,
                b']' | b'}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth > NotJson::DEPTH_MAX {
                return Err(NotJson::TooDeep);
            }
            at += 1;
        }
        Ok(())
    }
}

/// Returns the UTF-16 code unit of the escape (`\u0061`) that stands at a place of a text, if one does.
fn utf16_escape(text: &[u8], at: usize) -> Option<u16> {
    let digits = text.get(at..at + 6)?.strip_prefix(b"\\u")?;
    u16::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()
}

impl fmt::Display for NotJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotJson::Syntax(error) => write!(f, "the text is not JSON: {error}"),
            NotJson::TooDeep => write!(f, "the JSON is nested deeper than {}", NotJson::DEPTH_MAX),
            NotJson::LoneSurrogate => f.write_str("a string of the JSON has half of a surrogate pair"),
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
    fn surrogates_stand_in_pairs() {
        for text in [r#""\ud83d\ude00""#, r#"{"\uD83D\uDE00":"\u00e9\\ud800"}"#, r#"["\\\\ud800"]"#] {
            assert_eq!(NotJson::check(text), Ok(()), "{text}");
        }
        for text in [r#""\ud800""#, r#"["\ud800x"]"#, r#"{"\uDC00":1}"#, r#"["\ud800\u0041"]"#, r#"["\\\ud800\ud800"]"#]
        {
            assert_eq!(NotJson::check(text), Err(NotJson::LoneSurrogate), "{text}");
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
