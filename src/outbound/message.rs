//! The requests of the server, and their answers.

use std::{fmt, time::Duration};

use bytes::Bytes;
use hyper::{
    HeaderMap, Method,
    header::{HeaderName, HeaderValue},
};

use super::room::Party;
use crate::rates::AddressBlock;

/// A request of the server to a [`Target`](super::Target).
#[derive(Clone)]
pub struct OutboundRequest {
    pub(super) method: Method,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) timeout: Duration,
    pub(super) answer_bytes_max: usize,
    /// Whether the request may take one of the places that are kept for fetches of keys.
    pub(super) is_for_keys: bool,
    pub(super) party: Party,
}

impl OutboundRequest {
    /// Returns a GET that takes at most ten seconds, and whose answer has at most 64 KiB.
    #[must_use]
    pub fn get() -> OutboundRequest {
        OutboundRequest {
            method: Method::GET,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            timeout: Duration::from_secs(10),
            answer_bytes_max: 64 << 10,
            is_for_keys: false,
            party: Party::Server,
        }
    }

    /// Returns a POST of a body, with the bounds of [`OutboundRequest::get`].
    #[must_use]
    pub fn post(body: impl Into<Bytes>) -> OutboundRequest {
        OutboundRequest { method: Method::POST, body: body.into(), ..OutboundRequest::get() }
    }

    /// Adds a header line. The target adds `Host`, `Content-Length` and `User-Agent`.
    ///
    /// # Panics
    ///
    /// If the name is not a token in lower case, or the value has a control character.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> OutboundRequest {
        let value = HeaderValue::from_str(value).expect("a value without control characters");
        self.headers.append(HeaderName::from_static(name), value);
        self
    }

    /// Bounds the time from the beginning of the request to the last byte of the answer. The wait for a place among the
    /// requests under way has as much time before.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> OutboundRequest {
        OutboundRequest { timeout, ..self }
    }

    /// Lets the request take one of the places that are kept for fetches of keys ([`OutboundLimits::OF_KEYS_MAX`]).
    ///
    /// [`OutboundLimits::OF_KEYS_MAX`]: super::OutboundLimits::OF_KEYS_MAX
    #[must_use]
    pub(crate) fn for_keys(self) -> OutboundRequest {
        OutboundRequest { is_for_keys: true, ..self }
    }

    /// Lets the request wait among those that are sent for this client, an address or a /64 of IPv6. Networks, and the
    /// clients of each, take turns, so that one with many requests does not hold up the others.
    #[must_use]
    pub(crate) fn for_client(self, client: Option<AddressBlock>) -> OutboundRequest {
        OutboundRequest { party: Party::Client(client), ..self }
    }

    /// Bounds the body of the answer.
    #[must_use]
    pub fn answer_bytes_max(self, bytes: usize) -> OutboundRequest {
        OutboundRequest { answer_bytes_max: bytes, ..self }
    }
}

/// Prints neither header lines nor the body: they may hold secrets.
impl fmt::Debug for OutboundRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let OutboundRequest { method, body, timeout, .. } = self;
        f.debug_struct("OutboundRequest")
            .field("method", method)
            .field("body_bytes", &body.len())
            .field("timeout", timeout)
            .finish_non_exhaustive()
    }
}

/// The answer to a request of the server, with its whole body.
#[derive(Clone)]
pub struct OutboundAnswer {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: Bytes,
    pub(super) headers: HeaderMap,
}

impl OutboundAnswer {
    /// Returns the value of a header line, if the answer has exactly one of this name, and it is visible ASCII.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        values.next().filter(|_| values.next().is_none())?.to_str().ok()
    }
}

/// Prints neither header lines nor the body: they may hold secrets.
impl fmt::Debug for OutboundAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let OutboundAnswer { status, body, .. } = self;
        f.debug_struct("OutboundAnswer")
            .field("status", status)
            .field("body_bytes", &body.len())
            .finish_non_exhaustive()
    }
}
