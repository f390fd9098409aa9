//! The client's side: the request, and the check of the response (RFC 6455 4.1).

use super::{VERSION, accept_for};
use crate::proto::ResponseHead;
use crate::proto::http::{is_token, push_header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use std::fmt;

/// One attempt to open a connection.
///
/// ```
/// use ringhub::proto::{ClientHandshake, ResponseHead};
/// let mut handshake = ClientHandshake::new(*b"the sample nonce"); // RFC 6455 1.3; a real nonce is 16 random bytes
/// let request = handshake.request("server.example.com", "/chat", &[], &[]);
/// assert!(request.starts_with(b"GET /chat HTTP/1.1\r\nHost: server.example.com\r\n"));
/// let response = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
///     Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
/// let (head, _) = ResponseHead::decode(response)?.expect("whole");
/// assert_eq!(handshake.check(&head), Ok(None));
/// # Ok::<(), ringhub::proto::HttpError>(())
/// ```
#[derive(Clone, Debug)]
pub struct ClientHandshake {
    key: String,
    protocols: Vec<String>,
}

impl ClientHandshake {
    /// Begins an attempt. `key_nonce` is random and new for each connection (RFC 6455 4.1, requirement 7).
    pub fn new(key_nonce: [u8; 16]) -> Self {
        Self { key: STANDARD.encode(key_nonce), protocols: Vec::new() }
    }

    /// Encodes the request. `target` is the path with the query, and `protocols` are the subprotocols in order of
    /// preference. `extra_headers` are further header lines, such as `Origin` or `Authorization`. Control characters in
    /// values become spaces.
    ///
    /// # Panics
    ///
    /// If `target` has a space or a character that is not visible ASCII, or a header name or a subprotocol is not a
    /// token.
    pub fn request(&mut self, host: &str, target: &str, protocols: &[&str], extra_headers: &[(&str, &str)]) -> Bytes {
        assert!(!target.is_empty() && target.bytes().all(|octet| octet.is_ascii_graphic()), "{target:?} is no target");
        assert!(protocols.iter().all(|protocol| is_token(protocol.as_bytes())), "{protocols:?} are not all tokens");
        self.protocols = protocols.iter().map(|&protocol| protocol.into()).collect();
        let mut out = Vec::with_capacity(REQUEST_BYTES_USUAL);
        out.extend_from_slice(format!("GET {target} HTTP/1.1\r\n").as_bytes());
        push_header(&mut out, "Host", host);
        push_header(&mut out, "Upgrade", "websocket");
        push_header(&mut out, "Connection", "Upgrade");
        push_header(&mut out, "Sec-WebSocket-Key", &self.key);
        push_header(&mut out, "Sec-WebSocket-Version", VERSION);
        if !protocols.is_empty() {
            push_header(&mut out, "Sec-WebSocket-Protocol", &protocols.join(", "));
        }
        for (name, value) in extra_headers {
            push_header(&mut out, name, value);
        }
        out.extend_from_slice(b"\r\n");
        out.into()
    }

    /// Checks that the response opens the connection, and returns the subprotocol that the server has chosen (RFC 6455
    /// 4.1).
    ///
    /// # Errors
    ///
    /// The first missing or wrong line, for which the client must fail the connection.
    pub fn check(&self, response: &ResponseHead) -> Result<Option<String>, ResponseError> {
        let headers = response.headers();
        if response.status() != 101 {
            return Err(ResponseError::Status(response.status()));
        }
        if !headers.only("upgrade").is_ok_and(|upgrade| upgrade.eq_ignore_ascii_case(b"websocket")) {
            return Err(ResponseError::Upgrade);
        }
        if !headers.list_contains("connection", "upgrade") {
            return Err(ResponseError::Connection);
        }
        if headers.only("sec-websocket-accept") != Ok(accept_for(self.key.as_bytes()).as_bytes()) {
            return Err(ResponseError::Accept);
        }
        if headers.list("sec-websocket-extensions").next().is_some() {
            return Err(ResponseError::Extension);
        }
        match headers.only("sec-websocket-protocol") {
            Err(0) => Ok(None),
            Err(_) => Err(ResponseError::Protocol),
            Ok(chosen) => {
                let offered = self.protocols.iter().find(|offered| offered.as_bytes() == chosen);
                offered.cloned().map(Some).ok_or(ResponseError::Protocol)
            }
        }
    }
}

/// The reason for which a response does not open a WebSocket (RFC 6455 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResponseError {
    /// The status is not 101: a refusal, a redirect or a request for credentials, to be handled as HTTP.
    Status(u16),
    /// `Upgrade` is not `websocket`.
    Upgrade,
    /// `Connection` does not list `upgrade`.
    Connection,
    /// `Sec-WebSocket-Accept` does not prove that the server understood the request.
    Accept,
    /// The server has chosen an extension that was not offered.
    Extension,
    /// The server has chosen a subprotocol that was not offered.
    Protocol,
}

impl fmt::Display for ResponseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Status(status) => return write!(f, "the server answered with status {status} instead of 101"),
            Self::Upgrade => "the server's Upgrade is not websocket",
            Self::Connection => "the server's Connection does not list upgrade",
            Self::Accept => "the server's Sec-WebSocket-Accept does not match the key",
            Self::Extension => "the server uses an extension that was not offered",
            Self::Protocol => "the server uses a subprotocol that was not offered",
        })
    }
}

impl std::error::Error for ResponseError {}

const REQUEST_BYTES_USUAL: usize = 256;
