//! Header lines, owned and compact.

use super::error::{HEADERS_MAX, HttpError};

/// The header lines of a head, in their order (RFC 9110 5). Names compare without regard to case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    names: Box<str>,
    /// Bytes, because a value may hold any byte above 0x7F (RFC 9110 5.5).
    values: Box<[u8]>,
    /// The ends of the name and of the value of each line.
    ends: Box<[(u16, u16)]>,
    /// The marks of all names, so that most names without a line need no search.
    marks: u64,
}

/// Returns the mark of a name: one bit, by the length and the first letter.
const fn mark(name: &str) -> u64 {
    let first = if name.is_empty() { 0 } else { name.as_bytes()[0].to_ascii_lowercase() };
    1 << ((name.len() * 7 + first as usize) % 64)
}

impl Headers {
    /// Returns the bytes of memory of the lines.
    pub(super) fn bytes(&self) -> usize {
        self.names.len() + self.values.len() + size_of_val(&*self.ends)
    }

    /// Returns names and values in their order; values without the white space around them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let mut start = (0, 0);
        self.ends.iter().map(move |&(name_end, value_end)| {
            let end = (usize::from(name_end), usize::from(value_end));
            let line = (&self.names[start.0..end.0], &self.values[start.1..end.1]);
            start = end;
            line
        })
    }

    /// Returns the values of all lines of that name.
    pub fn get_all(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        let mut start = (0, 0);
        let ends: &[_] = if self.marks & mark(name) == 0 { &[] } else { &self.ends };
        // Most lines have a name of another length, so the lengths are compared first.
        ends.iter().filter_map(move |&(name_end, value_end)| {
            let (begin, end) = (start, (usize::from(name_end), usize::from(value_end)));
            start = end;
            let is_it = end.0 - begin.0 == name.len() && self.names[begin.0..end.0].eq_ignore_ascii_case(name);
            is_it.then(|| &self.values[begin.1..end.1])
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
        // The capacities are the final lengths, so the boxes are made without a copy.
        let mut names = String::with_capacity(lines.iter().map(|line| line.name.len()).sum());
        let mut values = Vec::with_capacity(lines.iter().map(|line| line.value.trim_ascii().len()).sum());
        let mut ends = Vec::with_capacity(lines.len());
        let mut marks = 0;
        for line in lines {
            marks |= mark(line.name);
            names.push_str(line.name);
            values.extend_from_slice(line.value.trim_ascii());
            ends.push((names.len() as u16, values.len() as u16));
        }
        Self { names: names.into(), values: values.into(), ends: ends.into(), marks }
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
