//! The errors of the server's own requests.

use std::{fmt, time::Duration};

/// The reason for which a request of the server has no answer. The text names no part of the request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum OutboundError {
    /// Too many requests are under way or wait already, or the request has waited for a place as long as it may.
    Limit,
    /// No answer has come within the time of the request, from its beginning.
    Timeout(Duration),
    /// The name of the host cannot be resolved.
    Name(String),
    /// No connection can be opened.
    Connect(String),
    /// The TLS handshake has failed: the certificate, for example.
    Tls(String),
    /// The connection has failed, or what came was no answer in HTTP.
    Exchange(String),
    /// The body of the answer has more bytes than this number.
    TooLarge(usize),
    /// The server has not started yet, or has ended.
    NotServing,
}

impl fmt::Display for OutboundError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OutboundError::Limit => f.write_str("too many requests of this server wait for answers"),
            OutboundError::Timeout(time) => write!(f, "no answer within {time:?}"),
            OutboundError::Name(error) => write!(f, "the name of the host cannot be resolved: {error}"),
            OutboundError::Connect(error) => write!(f, "no connection can be opened: {error}"),
            OutboundError::Tls(error) => write!(f, "the TLS handshake has failed: {error}"),
            OutboundError::Exchange(error) => write!(f, "the exchange has failed: {error}"),
            OutboundError::TooLarge(bytes) => write!(f, "the answer has more than {bytes} bytes"),
            OutboundError::NotServing => f.write_str("the server is not serving"),
        }
    }
}

impl std::error::Error for OutboundError {}
