//! The errors of heads, and the limits of their length.

use super::refusal::Refusal;
use std::fmt;

/// The reason for which a head is not acceptable HTTP/1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HttpError {
    /// A line ends without a carriage return (RFC 9112 2.2; tolerating it opens the door to request smuggling).
    BareLineFeed,
    /// A carriage return that ends no line (RFC 9112 2.2).
    BareCarriageReturn,
    /// A control character (RFC 9110 5.5).
    ControlCharacter,
    /// The first line is not `method target version` (RFC 9112 3).
    RequestLine,
    /// A target in none of the four forms, or with a character that has to be percent-encoded: `"`, `<`, `>`, and in
    /// its path a backtick (RFC 9112 3.2). Readers differ about such characters.
    Target,
    /// The first line is not `version status reason` (RFC 9112 4).
    StatusLine,
    /// The version is not HTTP/1.x (RFC 9112 2.3).
    Version,
    /// A header line that is not `name: value`, such as a folded one (RFC 9112 5, 5.2).
    Header,
    /// A `Content-Length` that is not one decimal number (RFC 9112 6.3).
    ContentLength,
    /// Both `Content-Length` and `Transfer-Encoding` (RFC 9112 6.3).
    LengthAndEncoding,
    /// A `Transfer-Encoding` other than `chunked` alone, or in HTTP/1.0 (RFC 9112 6.1).
    TransferEncoding,
    /// A chunked body that is malformed (RFC 9112 7.1).
    Chunk,
    /// An `Expect` other than `100-continue` (RFC 9110 10.1.1).
    Expectation,
    /// More than one `Host` (RFC 9112 3.2).
    DuplicateHost,
    /// A request of HTTP/1.1 without `Host` (RFC 9112 3.2).
    MissingHost,
    /// A head without an end within [`HEAD_BYTES_MAX`] (RFC 6585 5).
    HeadTooLong,
    /// More than [`HEADERS_MAX`] header lines (RFC 6585 5).
    TooManyHeaders,
}

impl HttpError {
    /// Returns the status of the response to the client (RFC 9110 15.5.1, 15.6.2, 15.6.6; RFC 6585 5).
    pub fn status(self) -> u16 {
        match self {
            Self::Expectation => 417,
            Self::HeadTooLong | Self::TooManyHeaders => 431,
            Self::TransferEncoding => 501,
            Self::Version => 505,
            Self::BareLineFeed
            | Self::BareCarriageReturn
            | Self::ControlCharacter
            | Self::RequestLine
            | Self::Target
            | Self::StatusLine
            | Self::Header
            | Self::ContentLength
            | Self::LengthAndEncoding
            | Self::Chunk
            | Self::DuplicateHost
            | Self::MissingHost => 400,
        }
    }

    /// Returns the response to the client.
    pub fn refusal(self) -> Refusal {
        Refusal::new(self.status(), self.to_string())
    }
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BareLineFeed => "a line ends without a carriage return",
            Self::BareCarriageReturn => "a carriage return ends no line",
            Self::ControlCharacter => "the head has a control character",
            Self::RequestLine => "the request line is malformed",
            Self::Target => "the request's target is malformed, or has a character to be percent-encoded",
            Self::StatusLine => "the status line is malformed",
            Self::Version => "the HTTP version is not supported",
            Self::Header => "a header line is malformed",
            Self::ContentLength => "Content-Length is not one decimal number",
            Self::LengthAndEncoding => "both Content-Length and Transfer-Encoding are present",
            Self::TransferEncoding => "Transfer-Encoding is not chunked",
            Self::Chunk => "a chunk of the body is malformed",
            Self::Expectation => "Expect is not 100-continue",
            Self::DuplicateHost => "more than one Host is present",
            Self::MissingHost => "Host is missing",
            Self::HeadTooLong => "the head is longer than 8 KiB",
            Self::TooManyHeaders => "the head has more than 64 header lines",
        })
    }
}

impl std::error::Error for HttpError {}

/// The longest head, its final empty line included; a longer one is refused with 431.
pub const HEAD_BYTES_MAX: usize = 8 * 1024;

/// The most header lines of a head; more are refused with 431.
pub const HEADERS_MAX: usize = 64;

const _: () = assert!(HEAD_BYTES_MAX <= u16::MAX as usize, "positions in a head are u16");
