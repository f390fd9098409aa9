//! Refusals of requests: status, header lines and sentence of each, and whole responses made of them.

use super::syntax::push_header;
use bytes::Bytes;
use std::fmt::Write;

/// A refusal of a request (RFC 9110 15). [`Refusal::encode`] makes a complete HTTP/1.1 response of it, whose body is
/// `{"error":"..."}`, and after which the connection ends.
///
/// ```
/// use ringhub::proto::Refusal;
/// let response = Refusal::new(405, "only GET").header("Allow", "GET").encode();
/// assert_eq!(
///     response,
///     "HTTP/1.1 405 Method Not Allowed\r\nConnection: close\r\nAllow: GET\r\nContent-Type: application/json\r\n\
///      Cache-Control: no-store\r\nContent-Length: 21\r\n\r\n{\"error\":\"only GET\"}\n"
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status code.
    pub status: u16,
    /// Header lines in addition to those that every refusal has.
    pub headers: Vec<(String, String)>,
    /// The sentence in the body.
    pub error: String,
    /// The cause, for counters and logs.
    pub(crate) cause: RefusalCause,
    /// Whether the request has shown wrong credentials, which counts for `max_guess_rate`.
    pub(crate) is_for_wrong_credentials: bool,
}

/// The cause of a refusal, for counters and logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum RefusalCause {
    /// The one that the status tells. 503 and 429 tell none.
    #[default]
    OfStatus,
    /// A limit of the server is reached.
    Limit,
    /// A limit for one address is reached.
    Address,
    /// Nobody has decided about the request: the decision took too long, or whoever decides does not answer.
    Undecided,
}

impl Refusal {
    /// Returns a refusal without additional headers.
    pub fn new(status: u16, error: impl Into<String>) -> Self {
        let cause = RefusalCause::OfStatus;
        Self { status, headers: Vec::new(), error: error.into(), cause, is_for_wrong_credentials: false }
    }

    /// Returns the 503 of a limit of the server, which asks the client to try again after a second (RFC 9110 15.6.4).
    pub(crate) fn not_now(error: impl Into<String>) -> Self {
        Self::new(503, error).header("Retry-After", "1").because(RefusalCause::Limit)
    }

    /// Gives the refusal another cause.
    pub(crate) fn because(self, cause: RefusalCause) -> Self {
        Self { cause, ..self }
    }

    /// Returns the refusal of a request whose judge had to wait for too long.
    pub(crate) fn undecided() -> Self {
        Self::no_decision("the decision about this request took too long")
    }

    /// Returns the 503 of a request about which nobody decides now, for instance because an application does not
    /// answer. It asks the client to try again after a second, and its cause is no limit of the server.
    pub(crate) fn no_decision(error: impl Into<String>) -> Self {
        Self::not_now(error).because(RefusalCause::Undecided)
    }

    /// Returns a 405 with the methods that the path takes (RFC 9110 15.5.6).
    pub(crate) fn not_allowed(allowed: &str) -> Self {
        Self::new(405, format!("this path takes {allowed}")).header("Allow", allowed)
    }

    /// Returns a 429 for an address with too many connections (RFC 6585 4). 503 would let its client take the server
    /// for an overloaded one.
    pub(crate) fn too_many_of_address() -> Self {
        Self::new(429, "there are as many connections from one address as this server allows")
            .header("Retry-After", "1")
            .because(RefusalCause::Address)
    }

    /// Returns the refusal of a server that leaves.
    pub(crate) fn leaving() -> Self {
        Self::not_now("this server is going away")
    }

    /// Marks the refusal as one for wrong credentials: the request has shown a token, a password or the like, and it is
    /// not right. Only such refusals count for `max_guess_rate`, whatever their status is. A refusal for missing
    /// credentials, or for right ones that are for something else, has no mark.
    ///
    /// ```
    /// use ringhub::proto::Refusal;
    /// let wrong = Refusal::new(401, "the key is wrong").for_wrong_credentials();
    /// assert!(wrong.is_for_wrong_credentials());
    /// assert!(!Refusal::new(401, "this needs a key").is_for_wrong_credentials());
    /// ```
    #[must_use]
    pub fn for_wrong_credentials(self) -> Self {
        Self { is_for_wrong_credentials: true, ..self }
    }

    /// Returns whether the refusal is marked as one for wrong credentials.
    #[must_use]
    pub fn is_for_wrong_credentials(&self) -> bool {
        self.is_for_wrong_credentials
    }

    /// Adds a header line.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Returns the JSON body, which is one line.
    pub fn body(&self) -> String {
        let mut body = String::from("{\"error\":\"");
        for character in self.error.chars() {
            match character {
                '"' | '\\' => body.extend(['\\', character]),
                '\0'..='\x1f' => write!(body, "\\u{:04x}", u32::from(character)).unwrap_or_default(),
                _ => body.push(character),
            }
        }
        body + "\"}\n"
    }

    /// Encodes the response, which ends the connection.
    ///
    /// # Panics
    ///
    /// If the name of a header is not a token. Control characters in values become spaces.
    pub fn encode(&self) -> Bytes {
        self.encode_for("GET")
    }

    /// Encodes the response to a request with this method. The response to HEAD has the length of the body but not the
    /// body (RFC 9110 9.3.2).
    ///
    /// # Panics
    ///
    /// If the name of a header is not a token.
    pub fn encode_for(&self, method: &str) -> Bytes {
        let mut headers = self.headers.clone();
        headers.push(("Content-Type".into(), "application/json".into()));
        encode_response(self.status, &headers, self.body().as_bytes(), method != "HEAD")
    }
}

/// Encodes a whole response after which the connection ends. Without `has_body` it is the response to HEAD: it has the
/// length of the body but not the body (RFC 9110 9.3.2). A failure without its own `Cache-Control` gets `no-store` (RFC
/// 9111 5.2.2.5).
///
/// # Panics
///
/// If the name of a header is not a token. Control characters in values become spaces.
pub(crate) fn encode_response(
    status: u16,
    headers: &[(impl AsRef<str>, impl AsRef<str>)],
    body: &[u8],
    has_body: bool,
) -> Bytes {
    let mut out = Vec::with_capacity(RESPONSE_BYTES_USUAL + body.len());
    out.extend_from_slice(format!("HTTP/1.1 {status} {}\r\n", reason_phrase(status)).as_bytes());
    // RFC 9110 7.8: a sender of Upgrade also names it in Connection.
    let upgrade = headers.iter().any(|(name, _)| name.as_ref().eq_ignore_ascii_case("upgrade"));
    push_header(&mut out, "Connection", if upgrade { "close, Upgrade" } else { "close" });
    for (name, value) in headers {
        push_header(&mut out, name.as_ref(), value.as_ref());
    }
    // A cache must not answer the next client with this refusal.
    if status >= 400 && !headers.iter().any(|(name, _)| name.as_ref().eq_ignore_ascii_case("cache-control")) {
        push_header(&mut out, "Cache-Control", "no-store");
    }
    push_header(&mut out, "Content-Length", &body.len().to_string());
    out.extend_from_slice(b"\r\n");
    if has_body {
        out.extend_from_slice(body);
    }
    out.into()
}

/// Returns the reason phrase, which is for people only and may be empty (RFC 9110 15).
fn reason_phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
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

const RESPONSE_BYTES_USUAL: usize = 256;
