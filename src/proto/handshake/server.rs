//! The server's side: the check of a request for a WebSocket, and the answer (RFC 6455 4.2).

use super::{VERSION, accept_for};
use crate::proto::http::{is_token, push_header};
use crate::proto::{Headers, HttpError, Refusal, RequestHead};
use base64::Engine;
use base64::alphabet;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use std::fmt;

/// A request that may be answered with 101: it has everything that RFC 6455 4.2.1 demands. The caller decides about its
/// path, origin and subprotocols.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade {
    accept: String,
    protocols: Vec<String>,
    /// Whether a token stands among the subprotocols, which is not one of them.
    shows_token: bool,
    origin: Option<String>,
}

impl Upgrade {
    /// Checks a request against RFC 6455 4.2.1.
    ///
    /// # Errors
    ///
    /// The first missing or wrong line; [`HandshakeError::refusal`] is the answer to it.
    ///
    /// ```
    /// use ringhub::proto::{RequestHead, Upgrade};
    /// let request = b"GET /chat HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    ///     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    /// let (head, _) = RequestHead::decode(request)?.expect("whole");
    /// let response = Upgrade::from_request(&head)?.response(None, &[]);
    /// assert!(response.windows(28).any(|window| window == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn from_request(head: &RequestHead) -> Result<Self, HandshakeError> {
        let headers = head.headers();
        if head.minor_version() < 1 {
            return Err(HandshakeError::Version);
        }
        if head.method() != "GET" {
            return Err(HandshakeError::Method);
        }
        if !headers.only("host").is_ok_and(is_host) {
            return Err(HandshakeError::Host);
        }
        if !headers.list_contains("upgrade", "websocket") {
            return Err(HandshakeError::Upgrade);
        }
        if !headers.list_contains("connection", "upgrade") {
            return Err(HandshakeError::Connection);
        }
        if headers.only("sec-websocket-version") != Ok(VERSION.as_bytes()) {
            return Err(HandshakeError::WebSocketVersion);
        }
        let key = headers.only("sec-websocket-key").ok().filter(|key| is_key(key)).ok_or(HandshakeError::Key)?;
        if head.has_body() {
            return Err(HandshakeError::Body);
        }
        let mut protocols: Vec<String> = Vec::new();
        let mut shows_token = false;
        let mut list = headers.list(PROTOCOLS).peekable();
        while let Some(protocol) = list.next() {
            if protocol == TOKEN_PROTOCOL.as_bytes() && list.peek().is_some() {
                let is_good = !shows_token && list.next().is_some_and(is_token);
                shows_token = is_good;
                is_good.then_some(()).ok_or(HandshakeError::Protocol)?;
                continue;
            }
            let name = str::from_utf8(protocol).ok().filter(|name| is_token(name.as_bytes()));
            let name = name.ok_or(HandshakeError::Protocol)?;
            if protocols.iter().any(|other| other == name) {
                return Err(HandshakeError::Protocol);
            }
            protocols.push(name.into());
        }
        let origin = match headers.only("origin") {
            Ok(origin) => Some(str::from_utf8(origin).map_err(|_| HandshakeError::Origin)?.into()),
            Err(0) => None,
            Err(_) => return Err(HandshakeError::Origin),
        };
        Ok(Self { accept: accept_for(key), protocols, shows_token, origin })
    }

    /// Returns the subprotocols that the client offers, in its order of preference (RFC 6455 1.9). The name
    /// `access_token` and the token after it are not among them.
    pub fn protocols(&self) -> &[String] {
        &self.protocols
    }

    /// Returns the origin of the page that a browser's request comes from (RFC 6455 10.2).
    pub fn origin(&self) -> Option<&str> {
        self.origin.as_deref()
    }

    /// Encodes the response that opens the connection (RFC 6455 4.2.2). Control characters in the values of
    /// `extra_headers` become spaces. If the client has shown a token among its subprotocols, and `protocol` is `None`,
    /// the answer has the name `access_token`: a browser fails a connection whose answer has none of the offered names.
    ///
    /// # Panics
    ///
    /// If `protocol` is not one of those offered, or the name of a header is not a token.
    pub fn response(&self, protocol: Option<&str>, extra_headers: &[(&str, &str)]) -> Bytes {
        let mut out = Vec::with_capacity(RESPONSE_BYTES_USUAL);
        out.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\n");
        push_header(&mut out, "Upgrade", "websocket");
        push_header(&mut out, "Connection", "Upgrade");
        push_header(&mut out, "Sec-WebSocket-Accept", &self.accept);
        if let Some(protocol) = protocol {
            assert!(self.protocols.iter().any(|offered| offered == protocol), "{protocol:?} was not offered");
            push_header(&mut out, "Sec-WebSocket-Protocol", protocol);
        } else if self.shows_token {
            push_header(&mut out, "Sec-WebSocket-Protocol", TOKEN_PROTOCOL);
        }
        for (name, value) in extra_headers {
            push_header(&mut out, name, value);
        }
        out.extend_from_slice(b"\r\n");
        out.into()
    }
}

/// Returns the token after the name `access_token` in the list of subprotocols: `new WebSocket(url, ["access_token",
/// token])`. A browser can send a token in no other header.
pub(crate) fn token_of_protocols(headers: &Headers) -> Option<&[u8]> {
    let mut list = headers.list(PROTOCOLS);
    list.find(|protocol| *protocol == TOKEN_PROTOCOL.as_bytes())?;
    list.next()
}

const PROTOCOLS: &str = "sec-websocket-protocol";

/// The name that stands before a token in the list of subprotocols.
const TOKEN_PROTOCOL: &str = "access_token";

/// The reason for which a request cannot become a WebSocket (RFC 6455 4.2.1, 4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The head itself is not acceptable.
    Http(HttpError),
    /// The version is below HTTP/1.1.
    Version,
    /// The method is not GET.
    Method,
    /// `Host` is missing, empty or malformed.
    Host,
    /// `Upgrade` does not list `websocket`: an ordinary request.
    Upgrade,
    /// `Connection` does not list `upgrade`.
    Connection,
    /// `Sec-WebSocket-Version` is not 13.
    WebSocketVersion,
    /// There is not exactly one `Sec-WebSocket-Key`, or it is not 16 bytes in base64.
    Key,
    /// The head announces a body, which could be taken for frames.
    Body,
    /// `Sec-WebSocket-Protocol` has a name that is not a token, or a name twice (RFC 6455 4.1).
    Protocol,
    /// There is more than one `Origin`, or it is not text (RFC 6454 7.3).
    Origin,
}

impl HandshakeError {
    /// Returns the response to the client.
    pub fn refusal(self) -> Refusal {
        let refusal = |status| Refusal::new(status, self.to_string());
        match self {
            Self::Http(error) => error.refusal(),
            Self::Version => refusal(505),
            Self::Method => refusal(405).header("Allow", "GET"),
            // RFC 9110 15.5.22: a 426 names the protocol to upgrade to.
            Self::Upgrade | Self::Connection => refusal(426).header("Upgrade", "websocket"),
            Self::WebSocketVersion => {
                refusal(426).header("Upgrade", "websocket").header("Sec-WebSocket-Version", VERSION)
            }
            Self::Host | Self::Key | Self::Body | Self::Protocol | Self::Origin => refusal(400),
        }
    }
}

impl From<HttpError> for HandshakeError {
    fn from(error: HttpError) -> Self {
        Self::Http(error)
    }
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http(error) => return error.fmt(f),
            Self::Version => "a WebSocket needs HTTP/1.1",
            Self::Method => "a WebSocket is opened with GET",
            Self::Host => "Host is missing, empty or malformed",
            Self::Upgrade => "this needs a WebSocket: Upgrade does not list websocket",
            Self::Connection => "Connection does not list upgrade",
            Self::WebSocketVersion => "Sec-WebSocket-Version is not 13",
            Self::Key => "Sec-WebSocket-Key is not 16 bytes in base64",
            Self::Body => "an opening handshake has no body",
            Self::Protocol => "Sec-WebSocket-Protocol is malformed or names a protocol twice",
            Self::Origin => "Origin is malformed or present twice",
        })
    }
}

impl std::error::Error for HandshakeError {}

/// Returns whether a value has only characters of a host and a port (RFC 9110 7.2, RFC 3986 3.2.2).
fn is_host(host: &[u8]) -> bool {
    !host.is_empty() && host.iter().all(|octet| octet.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(octet))
}

/// Returns whether a key is "a base64-encoded value that, when decoded, is 16 bytes in length" (RFC 6455 4.2.1).
fn is_key(key: &[u8]) -> bool {
    KEY_ENGINE.decode_slice(key, &mut [0; 18]).is_ok_and(|decoded| decoded == 16)
}

/// The unused bits of the last digit do not matter, since the decoded key is not used.
const KEY_ENGINE: GeneralPurpose =
    GeneralPurpose::new(&alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));

const RESPONSE_BYTES_USUAL: usize = 192;
