//! Header lines, owned and compact.

use super::error::{HEADERS_MAX, HttpError};

/// The header lines of a head, in their order (RFC 9110 5). Names compare without regard to case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// The name, in lower case, and the value of each line, one after the other. They are bytes, because a value may
    /// hold any byte above 0x7F (RFC 9110 5.5).
    text: Box<[u8]>,
    /// The ends of the name and of the value of each line.
    ends: Box<[(u16, u16)]>,
    /// The marks of all names, so that most names without a line need no search.
    marks: u64,
}

/// Returns the mark of a name: one bit, by the length and the first letter.
const fn mark(name: &[u8]) -> u64 {
    let first = if name.is_empty() { 0 } else { name[0].to_ascii_lowercase() };
    1 << ((name.len() * 7 + first as usize) % 64)
}

impl Headers {
    /// Returns the bytes of memory of the lines.
    pub(super) fn bytes(&self) -> usize {
        self.text.len() + size_of_val(&*self.ends)
    }

    /// Returns names and values in their order; names in lower case, values without the white space around them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        // A name is a token (RFC 9110 5.1), which is ASCII.
        self.lines(&self.ends).map(|(name, value)| (str::from_utf8(name).unwrap_or_default(), value))
    }

    /// Returns the values of all lines of that name.
    pub fn get_all(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        let ends: &[_] = if self.marks & mark(name.as_bytes()) == 0 { &[] } else { &self.ends };
        // Most lines have a name of another length, so the lengths are compared first.
        let is_it = move |line: &[u8]| {
            line.len() == name.len() && (line == name.as_bytes() || line.eq_ignore_ascii_case(name.as_bytes()))
        };
        self.lines(ends).filter_map(move |(line, value)| is_it(line).then_some(value))
    }

    /// Returns the names and values of the first lines, which end there.
    fn lines<'a>(&'a self, ends: &'a [(u16, u16)]) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        let mut start = 0;
        ends.iter().map(move |&(name_end, value_end)| {
            let (name_end, value_end) = (usize::from(name_end), usize::from(value_end));
            let line = (&self.text[start..name_end], &self.text[name_end..value_end]);
            start = value_end;
            line
        })
    }

    /// Returns the value of the first line of that name.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.get_all(name).next()
    }

    /// Returns the elements of a comma-separated list, which may stretch over several lines (RFC 9110 5.6.1), without
    /// empty elements.
    pub fn list(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        let elements = self.get_all(name).flat_map(|value| value.split(|&octet| octet == b','));
        elements.map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
    }

    /// Returns whether the list of that name has the element `token`, without regard to case.
    pub fn list_contains(&self, name: &str, token: &str) -> bool {
        self.list(name).any(|element| element.eq_ignore_ascii_case(token.as_bytes()))
    }

    /// Returns whether `Accept` has a media type by name (RFC 9110 12.5.1), not only by a range such as `*/*`.
    pub(crate) fn accepts(&self, media_type: &str) -> bool {
        self.list("accept").any(|element| {
            let mut parts = element.split(|&octet| octet == b';').map(<[u8]>::trim_ascii);
            let is_it = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(media_type.as_bytes()));
            // A weight of 0 means "not acceptable" (RFC 9110 12.4.2).
            let is_refusal = |parameter: &[u8]| match parameter {
                [b'q' | b'Q', b'=', weight @ ..] => weight.iter().all(|octet| matches!(octet, b'0' | b'.')),
                _ => false,
            };
            is_it && !parts.any(is_refusal)
        })
    }

    /// Returns the value of the only line of that name.
    ///
    /// # Errors
    ///
    /// The number of lines, if it is not 1.
    pub(crate) fn only(&self, name: &str) -> Result<&[u8], usize> {
        let mut values = self.get_all(name);
        match (values.next(), values.count()) {
            (Some(value), 0) => Ok(value),
            (None, _) => Err(0),
            (Some(_), others) => Err(1 + others),
        }
    }

    pub(super) fn new(lines: &[httparse::Header<'_>]) -> Self {
        // The capacity is the final length, so the box is made without a copy.
        let length = lines.iter().map(|line| line.name.len() + line.value.trim_ascii().len()).sum();
        let (mut text, mut ends) = (Vec::with_capacity(length), Vec::with_capacity(lines.len()));
        let mut marks = 0;
        for line in lines {
            marks |= mark(line.name.as_bytes());
            let start = text.len();
            text.extend_from_slice(line.name.as_bytes());
            text[start..].make_ascii_lowercase();
            let name_end = text.len() as u16;
            text.extend_from_slice(line.value.trim_ascii());
            ends.push((name_end, text.len() as u16));
        }
        Self { text: text.into(), ends: ends.into(), marks }
    }

    /// Reads the lines after the first, up to the end of the head.
    pub(super) fn parse(lines: &[u8]) -> Result<Self, HttpError> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        match httparse::parse_headers(lines, &mut headers) {
            Ok(httparse::Status::Complete((_, headers))) => Ok(Self::new(headers)),
            Ok(httparse::Status::Partial) => Err(HttpError::Header),
            Err(error) => Err(header_error(error)),
        }
    }
}

pub(super) fn header_error(error: httparse::Error) -> HttpError {
    match error {
        httparse::Error::TooManyHeaders => HttpError::TooManyHeaders,
        httparse::Error::Version => HttpError::Version,
        httparse::Error::Status => HttpError::StatusLine,
        _ => HttpError::Header,
    }
}
