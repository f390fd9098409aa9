//! Finds the end of a body that arrives piece by piece.

use super::{
    error::{HEAD_BYTES_MAX, HttpError},
    headers::Headers,
};

/// The scan of the body after a head (RFC 9112 6.3). The scan finds the end of the body. So bytes after the body are
/// never read as a part of the body, and no part of the body is read as the next request.
///
/// ```
/// use ringhub::proto::RequestHead;
/// let request = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\nGET ";
/// let (head, head_len) = RequestHead::decode(request)?.expect("whole");
/// let mut scan = head.body();
/// assert_eq!(scan.take(&request[head_len..])?, 12);
/// assert!(scan.is_whole());
/// # Ok::<(), ringhub::proto::HttpError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyScan {
    at: At,
    /// The missing bytes of the body, or of its current chunk.
    left: u64,
    /// The number of bytes so far in chunk extensions and trailers, which are ignored.
    aside: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Length,
    Size { digits: u8 },
    Extension,
    SizeEnd,
    Data,
    DataEnd,
    DataEndFeed,
    TrailerBegin,
    Trailer,
    TrailerEnd,
    LastFeed,
    End,
}

impl BodyScan {
    /// Returns the scan of the body that a head with these lines announces.
    ///
    /// # Errors
    ///
    /// [`HttpError::TransferEncoding`] for every encoding but `chunked`, and for `chunked` in HTTP/1.0;
    /// [`HttpError::ContentLength`] for a length of 2^64 or more.
    pub(super) fn new(headers: &Headers, minor_version: u8) -> Result<Self, HttpError> {
        let body = |at, left| BodyScan { at, left, aside: 0 };
        if headers.get("transfer-encoding").is_some() {
            let is_chunked = headers.only("transfer-encoding").is_ok_and(|it| it.eq_ignore_ascii_case(b"chunked"));
            let is_understood = is_chunked && minor_version > 0;
            return if is_understood { Ok(body(SIZE, 0)) } else { Err(HttpError::TransferEncoding) };
        }
        let length = headers.get("content-length");
        let length = length.map_or(Some(0), |length| str::from_utf8(length).ok()?.parse().ok());
        Ok(body(At::Length, length.ok_or(HttpError::ContentLength)?))
    }

    /// Takes the next bytes, and returns how many of them belong to the body.
    ///
    /// # Errors
    ///
    /// [`HttpError::Chunk`] for a malformed chunk, about whose end two readers could disagree (RFC 9112 7.1).
    pub fn take(&mut self, bytes: &[u8]) -> Result<usize, HttpError> {
        let mut taken = 0;
        while taken < bytes.len() && !self.is_whole() {
            if matches!(self.at, At::Length | At::Data) {
                let count = self.left.min((bytes.len() - taken) as u64);
                self.left -= count;
                taken += count as usize;
                if self.left == 0 && self.at == At::Data {
                    self.at = At::DataEnd;
                }
            } else {
                self.at = self.step(bytes[taken])?;
                taken += 1;
            }
        }
        Ok(taken)
    }

    /// Returns whether the last byte of the body was taken.
    pub fn is_whole(&self) -> bool {
        self.at == At::End || (self.at == At::Length && self.left == 0)
    }

    /// Returns the state after `octet`, a byte outside of the chunks' data.
    fn step(&mut self, octet: u8) -> Result<At, HttpError> {
        match (self.at, octet) {
            (At::Size { digits: 0..SIZE_DIGITS_MAX }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let At::Size { digits } = self.at else { unreachable!("it was matched") };
                let digit = char::from(octet).to_digit(16).unwrap_or_default();
                self.left = self.left * 16 + u64::from(digit);
                Ok(At::Size { digits: digits + 1 })
            }
            (At::Size { digits: 1.. } | At::Extension, b'\r') => Ok(At::SizeEnd),
            (At::Size { digits: 1.. }, b';') => Ok(At::Extension),
            (At::SizeEnd, b'\n') => Ok(if self.left == 0 { At::TrailerBegin } else { At::Data }),
            (At::DataEnd, b'\r') => Ok(At::DataEndFeed),
            (At::DataEndFeed, b'\n') => Ok(SIZE),
            (At::TrailerBegin, b'\r') => Ok(At::LastFeed),
            (At::LastFeed, b'\n') => Ok(At::End),
            (At::Trailer, b'\r') => Ok(At::TrailerEnd),
            (At::TrailerEnd, b'\n') => Ok(At::TrailerBegin),
            (At::Extension | At::TrailerBegin | At::Trailer, b'\t' | 0x20..=0x7E | 0x80..) => {
                self.aside += 1;
                let next = if self.at == At::Extension { At::Extension } else { At::Trailer };
                if self.aside > HEAD_BYTES_MAX { Err(HttpError::Chunk) } else { Ok(next) }
            }
            _ => Err(HttpError::Chunk),
        }
    }
}

const SIZE: At = At::Size { digits: 0 };

/// The most hexadecimal digits of a chunk's size, so that the size is below 2^60.
const SIZE_DIGITS_MAX: u8 = 15;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::RequestHead;

    /// Checks how many bytes of `body` belong to the body of a head with this line, whole and one byte at a time.
    fn check(line: &str, body: &str, expected: Result<Option<usize>, HttpError>) {
        let head = format!("POST / HTTP/1.1\r\n{line}\r\n\r\n");
        let scan = RequestHead::decode(head.as_bytes()).map(|head| head.expect("it is whole").0.body());
        let whole = |mut scan: BodyScan| scan.take(body.as_bytes()).map(|count| scan.is_whole().then_some(count));
        assert_eq!(scan.and_then(whole), expected, "{line} {body:?}");
        let in_bytes = |mut scan: BodyScan| {
            let mut count = 0;
            for byte in body.as_bytes().chunks(1) {
                count += scan.take(byte)?;
            }
            Ok(scan.is_whole().then_some(count))
        };
        assert_eq!(scan.and_then(in_bytes), expected, "{line} {body:?} in bytes");
    }

    /// RFC 9112 6.2.
    #[test]
    fn lengths() {
        check("A: b", "next", Ok(Some(0)));
        check("Content-Length: 0", "next", Ok(Some(0)));
        check("Content-Length: 3", "bodynext", Ok(Some(3)));
        check("Content-Length: 9", "body", Ok(None));
        check("Content-Length: 18446744073709551615", "body", Ok(None));
        check("Content-Length: 18446744073709551616", "", Err(HttpError::ContentLength));
    }

    /// RFC 9112 7.1.
    #[test]
    fn chunks() {
        let check = |body: &str, expected| check("Transfer-Encoding: Chunked", body, expected);
        check("0\r\n\r\nnext", Ok(Some(5)));
        check("1\r\nx\r\n00A\r\n0123456789\r\n0\r\n\r\nnext", Ok(Some(28)));
        check("1;a=\"b c\"\r\nx\r\n0;z\r\n\r\nnext", Ok(Some(21)));
        check("0\r\nTrailer: x\r\nOther: y\r\n\r\nnext", Ok(Some(27)));
        check("5\r\nabc", Ok(None));
        for bad in [
            "\r\n",
            "x\r\n",
            "-1\r\n",
            "0x1\r\n",
            "1 \r\nx",
            "+1\r\n",
            " 1\r\n",
            "1\n",
            "1\r\r",
            "1\r\nxy\r\n",
            "1\r\nx\n",
            "0\r\n\n",
            "0\n",
            "1;a\nx",
            "0\r\nA: b\n",
            "0\r\nA\0",
            "1000000000000000\r\n",
        ] {
            check(bad, Err(HttpError::Chunk));
        }
        check(&format!("1;{}", "x".repeat(HEAD_BYTES_MAX)), Ok(None));
        check(&format!("1;{}", "x".repeat(HEAD_BYTES_MAX + 1)), Err(HttpError::Chunk));
    }

    /// RFC 9112 6.1.
    #[test]
    fn encodings() {
        for bad in ["gzip", "chunked, chunked", "gzip, chunked", "chunked\r\nTransfer-Encoding: chunked", ", chunked"] {
            check(&format!("Transfer-Encoding: {bad}"), "", Err(HttpError::TransferEncoding));
        }
        let old = RequestHead::decode(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n");
        assert_eq!(old.err(), Some(HttpError::TransferEncoding));
    }
}
