//! The head of a request and of a response.

use std::borrow::Cow;

use super::{
    body::BodyScan,
    error::{HEADERS_MAX, HttpError},
    headers::{Headers, header_error},
    path::{PathError, RequestPath},
    scan::HeadScan,
    syntax::is_token,
};

/// The head of a request (RFC 9112 3), owned and independent of the buffer it came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHead {
    method: Cow<'static, str>,
    target: Box<str>,
    /// The length of the target before its query.
    path_len: usize,
    segments: Result<RequestPath, PathError>,
    minor_version: u8,
    headers: Headers,
    body: BodyScan,
}

impl RequestHead {
    /// Reads the head at the front of `bytes`, and returns it with its length; `Ok(None)` if its end is missing. For
    /// bytes that trickle in, keep a [`HeadScan`] and call [`RequestHead::decode_with`].
    ///
    /// # Errors
    ///
    /// [`HttpError`] for a head that is malformed, or that two readers could understand differently.
    ///
    /// ```
    /// use ringhub::proto::RequestHead;
    /// let request = b"GET /t/news?echo=true HTTP/1.1\r\nHost: hub\r\n\r\n";
    /// let (head, head_len) = RequestHead::decode(request)?.expect("whole");
    /// assert_eq!((head.method(), head.path(), head.query()), ("GET", "/t/news", Some("echo=true")));
    /// assert_eq!(head.headers().get("host"), Some(&b"hub"[..]));
    /// assert_eq!(head_len, 45);
    /// # Ok::<(), ringhub::proto::HttpError>(())
    /// ```
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, HttpError> {
        Self::decode_with(&mut HeadScan::default(), bytes)
    }

    /// Reads a head like [`RequestHead::decode`], and scans only the bytes that `scan` has not seen.
    ///
    /// # Errors
    ///
    /// See [`HttpError`].
    pub fn decode_with(scan: &mut HeadScan, bytes: &[u8]) -> Result<Option<(Self, usize)>, HttpError> {
        let Some(head) = scan.find(bytes)? else { return Ok(None) };
        let head_end = head.end;
        Self::parse(&bytes[head]).map(|head| Some((head, head_end)))
    }

    /// Returns the bytes of memory of the head, roughly.
    pub(crate) fn bytes(&self) -> usize {
        let path = self.segments.as_ref().map_or(0, RequestPath::bytes);
        size_of::<RequestHead>() + self.method.len() + self.target.len() + path + self.headers.bytes()
    }

    /// Returns the method, as it was sent (RFC 9110 9.1).
    pub fn method(&self) -> &str {
        &self.method
    }

    /// Returns the request target, as it was sent (RFC 9112 3.2).
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Returns the path of the target as it was sent: `/path` for `/path?query`, and for `http://host/path?query` too
    /// (RFC 6455 4.2.1). `*` and `host:port` are returned as they are. The endpoint of a request follows from
    /// [`RequestHead::segments`].
    pub fn path(&self) -> &str {
        path_of(&self.target[..self.path_len]).unwrap_or(&self.target)
    }

    /// Returns the path split and percent-decoded; without any segment if the target has no path (`*`, `host:port`).
    ///
    /// # Errors
    ///
    /// See [`PathError`]. The head stays valid: the end of the request does not depend on its path.
    pub fn segments(&self) -> Result<&RequestPath, PathError> {
        self.segments.as_ref().map_err(|error| *error)
    }

    /// Returns the query: the part of the target after its first `?`.
    pub fn query(&self) -> Option<&str> {
        self.target.get(self.path_len + 1..)
    }

    /// Returns the x of HTTP/1.x (RFC 9112 2.3).
    pub fn minor_version(&self) -> u8 {
        self.minor_version
    }

    /// Returns the header lines.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// Checks the version, and that a request of HTTP/1.1 has a `Host` (RFC 9112 3.2). A request for a WebSocket is
    /// checked by [`Upgrade`](crate::proto::Upgrade).
    ///
    /// # Errors
    ///
    /// [`HttpError::MissingHost`], or [`HttpError::Version`] for another HTTP/1.x than 1.0 and 1.1.
    pub fn check_host(&self) -> Result<(), HttpError> {
        match self.minor_version {
            0 => Ok(()),
            1 if self.headers.get("host").is_some() => Ok(()),
            1 => Err(HttpError::MissingHost),
            _ => Err(HttpError::Version),
        }
    }

    /// Returns whether a body follows the head (RFC 9112 6.3): any `Transfer-Encoding`, or a `Content-Length` other
    /// than 0.
    pub fn has_body(&self) -> bool {
        let length_is_zero = |length: &[u8]| length.iter().all(|&octet| octet == b'0');
        self.headers.get("transfer-encoding").is_some() || !self.headers.get_all("content-length").all(length_is_zero)
    }

    /// Returns the scan of the body that follows the head, at its first byte.
    pub fn body(&self) -> BodyScan {
        self.body
    }

    /// Parses `head`. The last line of `head` is empty, and every line ends with CR LF.
    fn parse(head: &[u8]) -> Result<Self, HttpError> {
        let line_end = head.iter().position(|&octet| octet == b'\r').ok_or(HttpError::RequestLine)?;
        let line = str::from_utf8(&head[..line_end]).map_err(|_| HttpError::RequestLine)?;
        #[expect(clippy::manual_pattern_char_comparison, reason = "a search by words costs more in so short a line")]
        let mut words = line.splitn(3, |character| character == ' ');
        let (Some(method), Some(target), Some(version)) = (words.next(), words.next(), words.next()) else {
            return Err(HttpError::RequestLine);
        };
        let target_ok = !target.is_empty() && target.bytes().all(|octet| octet.is_ascii_graphic() && octet != b'#');
        if !is_token(method.as_bytes()) || !target_ok {
            return Err(HttpError::RequestLine);
        }
        let minor_version = match version.as_bytes() {
            [b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor @ b'0'..=b'9'] => minor - b'0',
            [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => return Err(HttpError::Version),
            _ => return Err(HttpError::RequestLine),
        };
        let path_len = target.bytes().position(|octet| octet == b'?').unwrap_or(target.len());
        let segments = read_target(target, &target[..path_len])?;
        let headers = Headers::parse(&head[line_end + 2..])?;
        check_framing(&headers)?;
        // RFC 9110 10.1.1: `Expect` has no meaning in HTTP/1.0.
        let is_met = |expectation: &[u8]| expectation.eq_ignore_ascii_case(b"100-continue");
        if minor_version > 0 && !headers.list("expect").all(is_met) {
            return Err(HttpError::Expectation);
        }
        let body = BodyScan::new(&headers, minor_version)?;
        Ok(Self {
            method: owned_method(method),
            target: target.into(),
            path_len,
            segments,
            minor_version,
            headers,
            body,
        })
    }
}

/// Returns the method without an allocation, if it is a usual one.
fn owned_method(method: &str) -> Cow<'static, str> {
    let usual = ["GET", "POST", "HEAD", "OPTIONS"].into_iter().find(|usual| *usual == method);
    usual.map_or_else(|| method.to_owned().into(), Cow::Borrowed)
}

/// Checks the form of a target and its characters (RFC 9112 3.2), and reads its path. A target that passes is a URI to
/// hyper too, with the same path.
fn read_target(target: &str, before_query: &str) -> Result<Result<RequestPath, PathError>, HttpError> {
    let is_forbidden = |octet: u8| matches!(octet, b'"' | b'<' | b'>');
    if target.bytes().any(is_forbidden) || before_query.bytes().any(|octet| octet == b'`') {
        return Err(HttpError::Target);
    }
    match path_of(before_query) {
        Some(path) if before_query.starts_with('/') || is_absolute(before_query) => Ok(RequestPath::parse(path)),
        None if target == "*" || is_authority(target) => Ok(Ok(RequestPath::default())),
        _ => Err(HttpError::Target),
    }
}

/// Returns the path of a target in origin-form or absolute-form, without its query.
fn path_of(target: &str) -> Option<&str> {
    if target.starts_with('/') {
        return Some(target);
    }
    let (_, rest) = target.split_once("://")?;
    Some(rest.find('/').map_or("/", |at| &rest[at..]))
}

/// Returns whether a target, without its query, is in absolute-form (RFC 9112 3.2.2).
fn is_absolute(target: &str) -> bool {
    let Some((scheme, rest)) = target.split_once("://") else { return false };
    let is_scheme = |octet: u8| octet.is_ascii_alphanumeric() || b"+-.".contains(&octet);
    let scheme_ok = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.len() <= SCHEME_BYTES_MAX
        && scheme.bytes().all(is_scheme);
    scheme_ok && is_authority(rest.split('/').next().unwrap_or_default())
}

/// Returns whether `authority` is a host with or without a port (RFC 3986 3.2.2, 3.2.3). User information before the
/// host is not accepted (RFC 9110 4.2.4).
fn is_authority(authority: &str) -> bool {
    let (is_host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let Some((address, port)) = rest.split_once(']') else { return false };
            let is_address = |octet: u8| octet.is_ascii_hexdigit() || b":.".contains(&octet);
            let colons = address.bytes().filter(|&octet| octet == b':').count();
            (address.bytes().all(is_address) && (2..=8).contains(&colons), port)
        }
        None => {
            let (name, port) = authority.find(':').map_or((authority, ""), |at| authority.split_at(at));
            let is_name = |octet: u8| octet.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&octet);
            (!name.is_empty() && name.bytes().all(is_name), port)
        }
    };
    let is_port = |port: &str| port.bytes().all(|octet| octet.is_ascii_digit());
    is_host && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
}

/// The longest scheme of a target in absolute-form.
const SCHEME_BYTES_MAX: usize = 64;

/// The head of a response (RFC 9112 4), for the client's side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    status: u16,
    reason: Box<str>,
    minor_version: u8,
    headers: Headers,
}

impl ResponseHead {
    /// Reads the head at the front of `bytes`, and returns it with its length; `Ok(None)` if its end is missing.
    ///
    /// # Errors
    ///
    /// See [`HttpError`].
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, HttpError> {
        Self::decode_with(&mut HeadScan::default(), bytes)
    }

    /// Reads a head like [`ResponseHead::decode`], and scans only the bytes that `scan` has not seen.
    ///
    /// # Errors
    ///
    /// See [`HttpError`].
    pub fn decode_with(scan: &mut HeadScan, bytes: &[u8]) -> Result<Option<(Self, usize)>, HttpError> {
        let Some(head) = scan.find(bytes)? else { return Ok(None) };
        let head_end = head.end;
        let mut lines = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut response = httparse::Response::new(&mut lines);
        match response.parse(&bytes[head]) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) => return Err(HttpError::StatusLine),
            Err(error) => return Err(header_error(error)),
        }
        let (Some(status), Some(minor_version)) = (response.code, response.version) else {
            return Err(HttpError::StatusLine);
        };
        let (reason, headers) = (response.reason.unwrap_or_default().into(), Headers::new(response.headers));
        check_framing(&headers)?;
        Ok(Some((Self { status, reason, minor_version, headers }, head_end)))
    }

    /// Returns the status code (RFC 9110 15).
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Returns the reason phrase, which is for people.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Returns the x of HTTP/1.x (RFC 9112 2.3).
    pub fn minor_version(&self) -> u8 {
        self.minor_version
    }

    /// Returns the header lines.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }
}

/// Checks the header lines by which two readers could disagree about the end of a message or its host (RFC 9112 3.2,
/// 6.3).
fn check_framing(headers: &Headers) -> Result<(), HttpError> {
    match headers.only("content-length") {
        Ok(length) if length.is_empty() || !length.iter().all(u8::is_ascii_digit) => {
            return Err(HttpError::ContentLength);
        }
        Err(lines) if lines > 1 => return Err(HttpError::ContentLength),
        Ok(_) if headers.get("transfer-encoding").is_some() => return Err(HttpError::LengthAndEncoding),
        _ => {}
    }
    match headers.only("host") {
        Err(lines) if lines > 1 => Err(HttpError::DuplicateHost),
        _ => Ok(()),
    }
}
