//! The errors of the client: of building, connecting, sending and closing.

use std::{fmt, io, time::Duration};

use super::url::UrlError;
use crate::proto::{CloseCode, HttpError, ResponseError, ResponseHead};

/// An invalid setting, for which [`build`](super::ClientBuilder::build) fails.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientBuildError {
    /// [`url`](super::ClientBuilder::url) was not called.
    UrlMissing,
    /// The URL is not that of a WebSocket.
    Url(UrlError),
    /// The proxy's URL is not usable.
    Proxy(UrlError),
    /// There are credentials for a proxy, but no proxy.
    ProxyMissing,
    /// A header's name is not a token (RFC 9110 5.6.2).
    HeaderName(String),
    /// The value of the named header has control characters.
    HeaderValue(String),
    /// The client sets the named header itself, for HTTP or the opening handshake.
    HeaderReserved(String),
    /// The head of the opening request is too long, see [`HEAD_BYTES_MAX`](crate::proto::HEAD_BYTES_MAX).
    HeadTooLong,
    /// More than one of these was given: [`basic_auth`](super::ClientBuilder::basic_auth),
    /// [`bearer_auth`](super::ClientBuilder::bearer_auth) and a header `Authorization`.
    CredentialsTwice,
    /// The user name has a colon, or credentials have a control character (RFC 7617 2).
    Credentials,
    /// The subprotocol's name is not a token (RFC 6455 4.1, requirement 10).
    Subprotocol(String),
    /// The subprotocol was given twice (RFC 6455 4.1, requirement 10).
    SubprotocolTwice(String),
    /// The bytes of a certificate authority hold no certificate in PEM form, or a broken one.
    CertificateAuthority(String),
    /// The named setting is 0, and must not be.
    Zero(&'static str),
    /// The first duration, `Reconnect::first_delay_max`, is longer than the second, `delay_max`.
    ReconnectDelays(Duration, Duration),
}

impl fmt::Display for ClientBuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UrlMissing => f.write_str("there is no URL to connect to"),
            Self::Url(error) => write!(f, "url: {error}"),
            Self::Proxy(error) => write!(f, "proxy: {error}"),
            Self::ProxyMissing => f.write_str("there are credentials for a proxy, but no proxy"),
            Self::HeaderName(name) => write!(f, "{name:?} is not a header name"),
            Self::HeaderValue(name) => write!(f, "the value of {name} has control characters"),
            Self::HeaderReserved(name) => write!(f, "{name} is set by the client itself"),
            Self::HeadTooLong => f.write_str("the headers are longer than 8 KiB together"),
            Self::CredentialsTwice => f.write_str("there is more than one set of credentials"),
            Self::Credentials => {
                f.write_str("the credentials have a colon or a control character that is not allowed there")
            }
            Self::Subprotocol(name) => write!(f, "{name:?} is not a subprotocol's name"),
            Self::SubprotocolTwice(name) => write!(f, "the subprotocol {name} was given twice"),
            Self::CertificateAuthority(error) => write!(f, "certificate authority: {error}"),
            Self::Zero(setting) => write!(f, "{setting} must not be 0"),
            Self::ReconnectDelays(min, max) => write!(f, "delay_max, {max:?}, is below first_delay_max, {min:?}"),
        }
    }
}

impl std::error::Error for ClientBuildError {}

/// A stage of opening a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Resolving the host's name.
    Resolve,
    /// Connecting a TCP socket.
    Connect,
    /// Requesting a tunnel from the proxy.
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

/// The reason of a failed attempt to connect.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConnectError {
    /// The stage exceeded its time limit.
    Timeout(Stage),
    /// The named host, the server or the proxy, has no address.
    Resolve(String, io::Error),
    /// No address of the named host and port accepts a connection. The error is the one of the last address.
    Connect(String, io::Error),
    /// The connection failed in this stage.
    Io(Stage, io::Error),
    /// The connection ended in this stage.
    EndOfStream(Stage),
    /// The answer in this stage is not HTTP, or is HTTP that the client does not accept.
    Http(Stage, HttpError),
    /// The proxy refused the tunnel. Status 407 asks for credentials.
    ProxyRefused(Box<ResponseHead>),
    /// The server's certificate is not valid for the host, or is signed by no trusted authority.
    Certificate(String),
    /// The TLS handshake failed for another reason.
    Tls(io::Error),
    /// There is no certificate authority to trust, neither a given one nor one of the system.
    NoCertificateAuthorities,
    /// The server answered with another status than 101.
    Refused(Box<Rejection>),
    /// The server answered 101 without the headers that RFC 6455 4.1 demands.
    Handshake(ResponseError),
    /// The server redirected more often than [`redirects_max`](super::ClientBuilder::redirects_max).
    TooManyRedirects(u32),
    /// A redirect has no `Location`, or one that is not usable.
    RedirectLocation(Option<UrlError>),
    /// A redirect leads from `wss` to `ws`, and is not followed.
    RedirectInsecure,
    /// A close, or a further call of `connect`, came before the connection was open.
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
            Self::RedirectLocation(Some(error)) => write!(f, "a redirect's Location is not usable: {error}"),
            Self::RedirectInsecure => f.write_str("a redirect leads from wss to ws"),
            Self::Cancelled => f.write_str("the client was closed before the connection was open"),
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

/// A server's answer other than 101.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The status and the headers.
    pub head: ResponseHead,
    /// The beginning of the body, at most [`Rejection::BODY_BYTES_MAX`]. Empty without a `Content-Length`.
    pub body: Vec<u8>,
}

impl Rejection {
    /// The number of bytes that are kept of a body.
    pub const BODY_BYTES_MAX: usize = 4096;
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server refused: {} {}", self.head.status(), self.head.reason())
    }
}

/// The reason why a frame is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError {
    /// There is no connection, or a close was requested.
    NotOpen,
    /// The queue has reached a limit of [`ClientLimits`](super::ClientLimits). Only `try_` methods return this.
    QueueFull,
    /// The message is larger than [`ClientLimits::queue_bytes_max`](super::ClientLimits).
    TooLarge,
    /// The payload of a ping or a pong is longer than 125 bytes (RFC 6455 5.5).
    ControlTooLong,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotOpen => "the connection is not open",
            Self::QueueFull => "the queue is full",
            Self::TooLarge => "the message is larger than the queue",
            Self::ControlTooLong => "a ping or a pong is longer than 125 bytes",
        })
    }
}

impl std::error::Error for SendError {}

/// The reason why a close is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientCloseError {
    /// An endpoint must not send this code, see [`CloseCode::is_sendable`].
    Code(CloseCode),
}

impl fmt::Display for ClientCloseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "close code {code} must not be sent"),
        }
    }
}

impl std::error::Error for ClientCloseError {}
