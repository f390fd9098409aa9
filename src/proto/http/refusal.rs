//! A request refused: a whole response, after which the connection ends.

use super::push_header;
use bytes::Bytes;
use std::fmt::Write;

/// A complete HTTP/1.1 response that refuses a request; its body is `{"error":"..."}` (RFC 9110 15).
///
/// ```
/// use ringhub::proto::Refusal;
/// let response = Refusal::new(405, "only GET").header("Allow", "GET").encode();
/// assert_eq!(
///     response,
///     "HTTP/1.1 405 Method Not Allowed\r\nAllow: GET\r\nConnection: close\r\nContent-Type: application/json\r\n\
///      Content-Length: 20\r\n\r\n{\"error\":\"only GET\"}"
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status code.
    pub status: u16,
    /// Header lines beside those that every refusal has.
    pub headers: Vec<(String, String)>,
    /// What the body says.
    pub error: String,
}

impl Refusal {
    /// A refusal without headers of its own.
    pub fn new(status: u16, error: impl Into<String>) -> Self {
        Self { status, headers: Vec::new(), error: error.into() }
    }

    /// The same with one more header line.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The JSON body.
    pub fn body(&self) -> String {
        let mut body = String::from("{\"error\":\"");
        for character in self.error.chars() {
            match character {
                '"' | '\\' => body.extend(['\\', character]),
                '\0'..='\x1f' => write!(body, "\\u{:04x}", u32::from(character)).unwrap_or_default(),
                _ => body.push(character),
            }
        }
        body + "\"}"
    }

    /// The response, which ends the connection.
    ///
    /// # Panics
    ///
    /// If the name of a header is not a token. Control characters in values become spaces.
    pub fn encode(&self) -> Bytes {
        self.encode_for("GET")
    }

    /// The response to a request with this method: one to HEAD has no body, but says how long it would be (RFC 9110
    /// 9.3.2).
    ///
    /// # Panics
    ///
    /// If the name of a header is not a token.
    pub fn encode_for(&self, method: &str) -> Bytes {
        let body = self.body();
        let mut out = Vec::with_capacity(RESPONSE_BYTES_USUAL + body.len());
        out.extend_from_slice(format!("HTTP/1.1 {} {}\r\n", self.status, reason_phrase(self.status)).as_bytes());
        for (name, value) in &self.headers {
            push_header(&mut out, name, value);
        }
        // RFC 9110 7.8: who sends Upgrade also names it in Connection.
        let upgrade = self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("upgrade"));
        push_header(&mut out, "Connection", if upgrade { "close, Upgrade" } else { "close" });
        push_header(&mut out, "Content-Type", "application/json");
        push_header(&mut out, "Content-Length", &body.len().to_string());
        out.extend_from_slice(b"\r\n");
        if method != "HEAD" {
            out.extend_from_slice(body.as_bytes());
        }
        out.into()
    }
}

/// RFC 9110 15: for people only; empty is allowed.
fn reason_phrase(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

const RESPONSE_BYTES_USUAL: usize = 192;
