//! Reads the path of a request's target, once for all uses.

use super::syntax::percent_decode;
use std::fmt;

/// The path of a request's target (RFC 3986 3.3), split at its slashes and percent-decoded. The endpoint of a request
/// follows from these segments alone; no other code splits or decodes a path.
///
/// `/` has one segment, which is empty; `/a/b` has two, and `/a/b/` a third, which is empty. A character that is
/// encoded without need does not make another path (RFC 3986 6.2.2.2): `/%61` is `/a`. An encoded slash, `%2F`, ends no
/// segment and belongs to its segment's text.
///
/// A path that two readers could understand differently is refused, see [`PathError`].
///
/// ```
/// use ringhub::proto::{PathError, RequestPath};
/// let path = RequestPath::parse("/site/a%20b/c%2Fd")?;
/// assert_eq!(path.segments().collect::<Vec<_>>(), ["site", "a b", "c/d"]);
/// assert_eq!(RequestPath::parse("/site//a"), Err(PathError::EmptySegment));
/// assert_eq!(RequestPath::parse("/site/%2e./a"), Err(PathError::DotSegment));
/// # Ok::<(), PathError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestPath {
    /// All segments, with [`SEPARATOR`] between each two.
    text: String,
    count: u32,
}

/// No segment has a control character.
const SEPARATOR: u8 = 0;

/// The segments of a path, in their order.
#[derive(Debug)]
struct Segments<'a> {
    rest: &'a str,
    count: u32,
}

impl<'a> Iterator for Segments<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        self.count = self.count.checked_sub(1)?;
        let end = self.rest.bytes().position(|octet| octet == SEPARATOR).unwrap_or(self.rest.len());
        let (segment, rest) = self.rest.split_at(end);
        self.rest = rest.get(1..).unwrap_or_default();
        Some(segment)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.count as usize, Some(self.count as usize))
    }
}

impl ExactSizeIterator for Segments<'_> {}

/// The reason for which a path is refused, with 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PathError {
    /// The path does not begin with a slash.
    NoSlash,
    /// A `%` is not followed by two hexadecimal digits, or the decoded bytes are not UTF-8.
    Encoding,
    /// A segment before the last is empty: other readers merge `//` into one slash.
    EmptySegment,
    /// A segment is `.` or `..`, encoded or not: other readers resolve these (RFC 3986 5.2.4).
    DotSegment,
    /// The path has an encoded control character.
    ControlCharacter,
}

impl RequestPath {
    /// Returns the bytes of memory of the segments.
    pub(super) fn bytes(&self) -> usize {
        self.text.capacity()
    }

    /// Splits and decodes a path, which begins with a slash and is without a query.
    ///
    /// # Errors
    ///
    /// See [`PathError`].
    pub fn parse(path: &str) -> Result<RequestPath, PathError> {
        let path = path.strip_prefix('/').ok_or(PathError::NoSlash)?;
        let (mut text, mut count) = (String::with_capacity(path.len()), 0);
        #[expect(clippy::manual_pattern_char_comparison, reason = "a search by words costs more in so short a path")]
        let mut parts = path.split(|character| character == '/').peekable();
        while let Some(part) = parts.next() {
            if count > 0 {
                text.push(SEPARATOR.into());
            }
            let segment = percent_decode(part).ok_or(PathError::Encoding)?;
            match &*segment {
                "" if parts.peek().is_some() => return Err(PathError::EmptySegment),
                "." | ".." => return Err(PathError::DotSegment),
                segment if has_control(segment) => return Err(PathError::ControlCharacter),
                segment => text.push_str(segment),
            }
            count += 1;
        }
        Ok(RequestPath { text, count })
    }

    /// Returns the segments in their order.
    pub fn segments(&self) -> impl ExactSizeIterator<Item = &str> {
        Segments { rest: &self.text, count: self.count }
    }
}

/// Returns whether text has a control character.
fn has_control(text: &str) -> bool {
    if text.is_ascii() {
        text.bytes().any(|octet| octet.is_ascii_control())
    } else {
        text.chars().any(char::is_control)
    }
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSlash => "the path does not begin with /",
            Self::Encoding => "the path is not percent-encoded UTF-8",
            Self::EmptySegment => "the path has an empty segment before its last (// between two segments)",
            Self::DotSegment => "the path has a segment . or ..",
            Self::ControlCharacter => "the path has a control character",
        })
    }
}

impl std::error::Error for PathError {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(path: &str, expected: Result<&[&str], PathError>) {
        let found = RequestPath::parse(path);
        let found = found.as_ref().map(|path| path.segments().collect::<Vec<_>>()).map_err(|error| *error);
        assert_eq!(found, expected.map(<[&str]>::to_vec), "{path}");
    }

    #[test]
    fn segments() {
        check("/", Ok(&[""]));
        check("/a", Ok(&["a"]));
        check("/a/", Ok(&["a", ""]));
        check("/a/b%20c/%C3%BC", Ok(&["a", "b c", "ü"]));
        check("/%61%2fb/%252F", Ok(&["a/b", "%2F"]));
        check("/a+b;c=d,e:f@g|h", Ok(&["a+b;c=d,e:f@g|h"]));
        check("/.well-known/..a/a../...", Ok(&[".well-known", "..a", "a..", "..."]));
        check("/..%2Fa/a%2F..", Ok(&["../a", "a/.."]));
    }

    #[test]
    fn paths_that_two_readers_understand_differently() {
        use PathError::{ControlCharacter, DotSegment, EmptySegment, Encoding, NoSlash};
        for (path, error) in [
            ("", NoSlash),
            ("a", NoSlash),
            ("*", NoSlash),
            ("//", EmptySegment),
            ("//a", EmptySegment),
            ("///a", EmptySegment),
            ("/a//b", EmptySegment),
            ("/a//", EmptySegment),
            ("/.", DotSegment),
            ("/..", DotSegment),
            ("/a/../b", DotSegment),
            ("/a/./b", DotSegment),
            ("/a/%2e%2E", DotSegment),
            ("/%2e/a", DotSegment),
            ("/.%2e/", DotSegment),
            ("/%", Encoding),
            ("/a/%4", Encoding),
            ("/%zz", Encoding),
            ("/%+1", Encoding),
            ("/%ff", Encoding),
            ("/%C3/%BC", Encoding),
            ("/a%00", ControlCharacter),
            ("/a%0Ab", ControlCharacter),
            ("/%7f", ControlCharacter),
            ("/%C2%85", ControlCharacter),
        ] {
            check(path, Err(error));
        }
    }

    proptest! {
        /// Segments are found again after they were encoded, partly or all, and joined.
        #[test]
        fn encoded_segments_are_found_again(segments in prop::collection::vec("[^\\p{Cc}]{1,6}", 1..5), all: bool) {
            prop_assume!(segments.iter().all(|segment| ![".", ".."].contains(&&**segment)));
            let encode = |byte: u8| match byte {
                b'a'..=b'z' | b'0'..=b'9' if !all => char::from(byte).to_string(),
                _ => format!("%{byte:02x}"),
            };
            let encoded = segments.iter().map(|segment| segment.bytes().map(encode).collect::<String>());
            let path = encoded.fold(String::new(), |path, segment| path + "/" + &segment);
            let found = RequestPath::parse(&path).unwrap();
            prop_assert_eq!(found.segments().collect::<Vec<_>>(), segments);
        }
    }
}
