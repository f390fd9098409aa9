//! What a caller can be told, by what was asked for: to build, to connect, to send, to close.

use std::{fmt, io, time::Duration};

use super::url::UrlError;
use crate::proto::{CloseCode, HttpError, ResponseError, ResponseHead};

/// A setting with which no client can be made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BuildError {
    /// There is no address to connect to.
    UrlMissing,
    /// The address is not one of a WebSocket.
    Url(UrlError),
    /// The proxy's address is not usable.
    Proxy(UrlError),
    /// Credentials for a proxy, but no proxy.
    ProxyMissing,
    /// A header's name is not a token (RFC 9110 5.6.2).
    HeaderName(String),
    /// The value of the header of this name has control characters.
    HeaderValue(String),
    /// The opening handshake, or HTTP, sets the header of this name itself.
    HeaderReserved(String),
    /// All headers together make a head that servers refuse, see [`HEAD_BYTES_MAX`](crate::proto::HEAD_BYTES_MAX).
    HeadTooLong,
    /// More than one of [`basic_auth`](super::ClientBuilder::basic_auth),
    /// [`bearer_auth`](super::ClientBuilder::bearer_auth) and a header `Authorization`.
    CredentialsTwice,
    /// A user name with a colon, or a control character in credentials (RFC 7617 2).
    Credentials,
    /// A subprotocol's name is not a token (RFC 6455 4.1, requirement 10).
    Subprotocol(String),
    /// A subprotocol is asked for twice (RFC 6455 4.1, requirement 10).
    SubprotocolTwice(String),
    /// What was given as a certificate authority has no certificate in PEM form, or a broken one.
    CertificateAuthority(String),
    /// The setting of this name must not be 0.
    Zero(&'static str),
    /// The longest delay between two attempts to reconnect is shorter than the shortest.
    ReconnectDelays(Duration, Duration),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UrlMissing => f.write_str("there is no address to connect to"),
            Self::Url(error) => write!(f, "url: {error}"),
            Self::Proxy(error) => write!(f, "proxy: {error}"),
            Self::ProxyMissing => f.write_str("there are credentials for a proxy, but no proxy"),
            Self::HeaderName(name) => write!(f, "{name:?} is no header name"),
            Self::HeaderValue(name) => write!(f, "the value of {name} has control characters"),
            Self::HeaderReserved(name) => write!(f, "{name} is set by the client itself"),
            Self::HeadTooLong => f.write_str("the headers are longer than 8 KiB together"),
            Self::CredentialsTwice => f.write_str("there is more than one set of credentials"),
            Self::Credentials => f.write_str("credentials have a character that is not possible there"),
            Self::Subprotocol(name) => write!(f, "{name:?} is no name of a subprotocol"),
            Self::SubprotocolTwice(name) => write!(f, "the subprotocol {name} is asked for twice"),
            Self::CertificateAuthority(what) => write!(f, "certificate authority: {what}"),
            Self::Zero(setting) => write!(f, "{setting} must not be 0"),
            Self::ReconnectDelays(min, max) => write!(f, "the longest delay {max:?} is below the shortest, {min:?}"),
        }
    }
}

impl std::error::Error for BuildError {}

/// How far the opening of a connection had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Finding the addresses of a name.
    Resolve,
    /// Connecting a TCP socket.
    Connect,
    /// Asking a proxy for a tunnel.
    Proxy,
    /// The TLS handshake.
    Tls,
    /// The opening handshake (RFC 6455 4).
    Handshake,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resolve => "name resolution",
            Self::Connect => "connecting",
            Self::Proxy => "the proxy's answer",
            Self::Tls => "the TLS handshake",
            Self::Handshake => "the opening handshake",
        })
    }
}

/// Why a connection was not opened.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConnectError {
    /// A deadline has passed.
    Timeout(Stage),
    /// The name of the server, or of the proxy, has no address.
    Resolve(String, io::Error),
    /// No address of the host (with its port) accepts a connection; the error of the last.
    Connect(String, io::Error),
    /// The connection failed in the middle of this.
    Io(Stage, io::Error),
    /// The connection ended in the middle of this.
    EndOfStream(Stage),
    /// The answer to this is not HTTP, or unacceptable HTTP.
    Http(Stage, HttpError),
    /// The proxy refuses to make a tunnel. 407 asks for credentials.
    ProxyRefused(Box<ResponseHead>),
    /// The server's certificate is not valid for it, or not to be trusted.
    Certificate(String),
    /// The TLS handshake failed otherwise.
    Tls(io::Error),
    /// The system has no trusted certificate authorities, and none was given.
    NoCertificateAuthorities,
    /// The server answered with another status than 101.
    Refused(Box<Refused>),
    /// The server answered 101, but not what RFC 6455 4.1 asks for with it.
    Handshake(ResponseError),
    /// More redirects than [`redirects_max`](super::ClientBuilder::redirects_max).
    TooManyRedirects(u32),
    /// A redirect without a `Location`, or to one that is not usable.
    RedirectLocation(Option<UrlError>),
    /// A redirect from `wss` to `ws`, which is not followed.
    RedirectInsecure,
    /// The client was closed, or asked to connect again, before the connection was open.
    Cancelled,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout(stage) => write!(f, "{stage} took too long"),
            Self::Resolve(host, error) => write!(f, "{host} has no address: {error}"),
            Self::Connect(host, error) => write!(f, "{host} does not accept a connection: {error}"),
            Self::Io(stage, error) => write!(f, "{stage} failed: {error}"),
            Self::EndOfStream(stage) => write!(f, "the connection ended during {stage}"),
            Self::Http(stage, error) => write!(f, "{stage} failed: {error}"),
            Self::ProxyRefused(head) => write!(f, "the proxy refused: {} {}", head.status(), head.reason()),
            Self::Certificate(error) => write!(f, "the server's certificate is not accepted: {error}"),
            Self::Tls(error) => write!(f, "the TLS handshake failed: {error}"),
            Self::NoCertificateAuthorities => f.write_str("there are no certificate authorities to trust"),
            Self::Refused(refused) => refused.fmt(f),
            Self::Handshake(error) => error.fmt(f),
            Self::TooManyRedirects(max) => write!(f, "more than {max} redirects"),
            Self::RedirectLocation(None) => f.write_str("a redirect has no Location"),
            Self::RedirectLocation(Some(error)) => write!(f, "a redirect leads nowhere: {error}"),
            Self::RedirectInsecure => f.write_str("a redirect leads from wss to ws"),
            Self::Cancelled => f.write_str("the client was closed meanwhile"),
        }
    }
}

impl std::error::Error for ConnectError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Resolve(_, error) | Self::Connect(_, error) | Self::Io(_, error) | Self::Tls(error) => Some(error),
            Self::Http(_, error) => Some(error),
            Self::Handshake(error) => Some(error),
            Self::RedirectLocation(Some(error)) => Some(error),
            _ => None,
        }
    }
}

/// A server's answer that opens nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its status and headers.
    pub head: ResponseHead,
    /// The beginning of its body, if it announced a length; at most [`Refused::BODY_BYTES_MAX`].
    pub body: Vec<u8>,
}

impl Refused {
    /// How much of a refusal's body is kept.
    pub const BODY_BYTES_MAX: usize = 4096;
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server refused: {} {}", self.head.status(), self.head.reason())
    }
}

/// Why something is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError {
    /// There is no connection, or it is being closed.
    NotOpen,
    /// Only from the `try_` methods: what waits to be sent has reached a limit of
    /// [`ClientLimits`](super::ClientLimits).
    QueueFull,
    /// The message is larger than [`ClientLimits::queue_bytes_max`](super::ClientLimits).
    TooLarge,
    /// A ping or a pong carries at most 125 bytes (RFC 6455 5.5).
    ControlTooLong,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotOpen => "the connection is not open",
            Self::QueueFull => "too much waits to be sent",
            Self::TooLarge => "the message is larger than all that may wait to be sent",
            Self::ControlTooLong => "a ping or a pong is longer than 125 bytes",
        })
    }
}

impl std::error::Error for SendError {}

/// Why a connection is not closed with what was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseError {
    /// This code must not be sent; see [`CloseCode::is_sendable`].
    Code(CloseCode),
}

impl fmt::Display for CloseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "close code {code} must not be sent"),
        }
    }
}

impl std::error::Error for CloseError {}
