//! The rules of a route: the given rules (`RouteOptions`), and the checked rules (`Rules`).

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    auth::{Authenticator, Gate, Origins},
    proto::{Deliver, KeepAlive, MessageLimits},
    rates::{InputRates, Rate},
};

/// Stands for any subprotocol in a route's list of subprotocols.
pub(crate) const ANY_PROTOCOL: &str = "*";

/// The given rules of a route. The server's settings hold for the rules that are not set.
///
/// ```
/// use ringhub::handler::RouteOptions;
/// let options = RouteOptions::new().protocols(["v2.chat", "v1.chat"]).max_message(64 * 1024);
/// ```
#[derive(Clone, Default)]
pub struct RouteOptions {
    pub(crate) gate: Gate,
    pub(crate) protocols: Vec<String>,
    pub(crate) requires_protocol: bool,
    pub(crate) max_message: Option<u64>,
    pub(crate) max_frame: Option<u64>,
    pub(crate) max_fragments: Option<u32>,
    /// `Some(None)` sets no limit, whatever the server's.
    pub(crate) max_message_rate: Option<Option<Rate>>,
    pub(crate) max_byte_rate: Option<Option<Rate>>,
    pub(crate) check_utf8: Option<bool>,
    pub(crate) deliver: Deliver,
    pub(crate) inspects_frames: bool,
    pub(crate) ping_interval: Option<u32>,
    pub(crate) pong_timeout: Option<u32>,
    pub(crate) close_timeout: Option<u32>,
    pub(crate) ping_payload: Vec<u8>,
    pub(crate) forgets_request: bool,
    pub(crate) skips_broadcasts: bool,
    pub(crate) has_manual_backpressure: bool,
    /// The longest time for the answer of an HTTP service.
    pub(crate) answer_timeout: Option<Duration>,
    pub(crate) takes_encoded_slashes: bool,
}

impl RouteOptions {
    /// Returns options that leave every rule to the server.
    #[must_use]
    pub fn new() -> Self {
        RouteOptions::default()
    }

    /// Restricts the route to pages of these origins; pages of other origins are answered 403.
    #[must_use]
    pub fn origins(mut self, origins: Origins) -> Self {
        self.gate.origins = Some(origins);
        self
    }

    /// Restricts the route to requests that an authenticator admits.
    #[must_use]
    pub fn authenticator(mut self, authenticator: impl Authenticator) -> Self {
        self.gate.authenticator = Some(Arc::new(authenticator));
        self
    }

    /// Sets the subprotocols in order of preference. The first that a client offers is chosen; a client that offers
    /// none of them is served without a subprotocol (RFC 6455 4.2.2), unless [`RouteOptions::require_protocol`]. `*`,
    /// as the last one, stands for the first subprotocol that a client offers, whatever its name.
    #[must_use]
    pub fn protocols<'a>(mut self, protocols: impl IntoIterator<Item = &'a str>) -> Self {
        self.protocols = protocols.into_iter().map(Into::into).collect();
        self
    }

    /// Refuses a client that offers none of the subprotocols with 400.
    #[must_use]
    pub fn require_protocol(mut self) -> Self {
        self.requires_protocol = true;
        self
    }

    /// Sets the largest message from a client, in bytes: 1 to 1 GiB, at most half of the server's `max_backlog` and
    /// at most its `max_gathered`. Beyond it the connection is closed with 1009.
    #[must_use]
    pub fn max_message(mut self, bytes: u32) -> Self {
        self.max_message = Some(bytes.into());
        self
    }

    /// Sets the largest frame from a client, in bytes, not above the largest message. Beyond it the connection is
    /// closed with 1009.
    #[must_use]
    pub fn max_frame(mut self, bytes: u32) -> Self {
        self.max_frame = Some(bytes.into());
        self
    }

    /// Sets the most fragments of one message, at least 1. Beyond it the connection is closed with 1009.
    #[must_use]
    pub fn max_fragments(mut self, count: u32) -> Self {
        self.max_fragments = Some(count);
        self
    }

    /// Sets the rate of messages from a client; each ping, each pong, and each fragment that the handler gets counts as
    /// a message. Beyond it the connection is not received from until the rate allows it; a client that goes on for the
    /// server's `rate_timeout` is closed with 1008.
    ///
    /// ```
    /// use std::num::NonZeroU64;
    /// use ringhub::{Rate, RouteOptions};
    /// let ten = NonZeroU64::new(10).expect("not zero");
    /// let options = RouteOptions::new().max_message_rate(Rate::per_second(ten));
    /// ```
    #[must_use]
    pub fn max_message_rate(mut self, rate: Rate) -> Self {
        self.max_message_rate = Some(Some(rate));
        self
    }

    /// Sets the rate of bytes from a client, with the same effect as [`RouteOptions::max_message_rate`].
    #[must_use]
    pub fn max_byte_rate(mut self, rate: Rate) -> Self {
        self.max_byte_rate = Some(Some(rate));
        self
    }

    /// Accepts text without the check that it is UTF-8 (RFC 6455 8.1).
    #[must_use]
    pub fn skip_utf8_check(mut self) -> Self {
        self.check_utf8 = Some(false);
        self
    }

    /// Sets whether the handler gets whole messages, or each fragment as it arrives.
    #[must_use]
    pub fn deliver(mut self, deliver: Deliver) -> Self {
        self.deliver = deliver;
        self
    }

    /// Passes every whole frame to [`Handler::on_frame`](super::Handler::on_frame) before it is processed.
    #[must_use]
    pub fn inspect_frames(mut self) -> Self {
        self.inspects_frames = true;
        self
    }

    /// Sets the keep-alive of connections, such as [`KeepAlive::seconds`], and with it the longest time of a close:
    /// [`KeepAlive::close_timeout`] replaces the server's `close_timeout`, and is 10 s with [`KeepAlive::seconds`].
    #[must_use]
    pub fn keep_alive(mut self, keep_alive: KeepAlive) -> Self {
        self.ping_interval = Some(keep_alive.ping_interval);
        self.pong_timeout = Some(keep_alive.pong_timeout);
        self.close_timeout = Some(keep_alive.close_timeout);
        self
    }

    /// Sets the payload of pings, at most 125 bytes (RFC 6455 5.5); empty by default.
    #[must_use]
    pub fn ping_payload(mut self, payload: &[u8]) -> Self {
        self.ping_payload = payload.to_vec();
        self
    }

    /// Drops the opening request instead of keeping it for [`Connection::request`](super::Connection::request). This
    /// saves some hundred bytes for each connection. The span in which the handler is called, with the connection's id
    /// and peer, is then kept only if a `tracing` subscriber is enabled at DEBUG.
    #[must_use]
    pub fn forget_request(mut self) -> Self {
        self.forgets_request = true;
        self
    }

    /// Excludes the connections from [`Hub::broadcast`](crate::server::Hub::broadcast). This saves some twenty bytes
    /// for each connection.
    #[must_use]
    pub fn no_broadcast(mut self) -> Self {
        self.skips_broadcasts = true;
        self
    }

    /// Leaves slow clients to the handler. Without this option a connection that is owed more than half of its
    /// backlog's limit is not received from until it is owed no more than that, and a handler's message for which there
    /// is no room closes the connection with 1008. With this option the connection is always received from, and a
    /// message for which there is no room is only refused: [`Refused::Full`](super::Refused::Full).
    ///
    /// ```
    /// use ringhub::handler::RouteOptions;
    /// let options = RouteOptions::new().manual_backpressure();
    /// ```
    #[must_use]
    pub fn manual_backpressure(mut self) -> Self {
        self.has_manual_backpressure = true;
        self
    }

    /// Sets the longest time until an HTTP service ([`Builder::http_with`](crate::server::Builder::http_with)) begins
    /// its answer: 30 s by default. Beyond it the call is dropped and the request answered 504. The body of the answer
    /// may take any time.
    ///
    /// ```
    /// use std::time::Duration;
    /// use ringhub::handler::RouteOptions;
    /// let long_polls = RouteOptions::new().answer_timeout(Duration::from_secs(120));
    /// ```
    #[must_use]
    pub fn answer_timeout(mut self, time: Duration) -> Self {
        self.answer_timeout = Some(time);
        self
    }

    /// Lets an HTTP service have paths with an encoded slash (`%2F`) in a segment, which are otherwise answered 400. A
    /// service that decodes its path before it routes takes `/api/admin%2Fusers` for `/api/admin/users`, so the
    /// authenticator of a narrower pattern would not stand before that path.
    #[must_use]
    pub fn encoded_slashes(mut self) -> Self {
        self.takes_encoded_slashes = true;
        self
    }
}

impl fmt::Debug for RouteOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteOptions")
            .field("gate", &self.gate)
            .field("protocols", &self.protocols)
            .finish_non_exhaustive()
    }
}

/// The checked rules of a route, with the server's settings for the rules that the route does not set. Checked rules
/// are made once, when settings are checked or a server is built; shards and the control thread use only these.
///
/// ```
/// use ringhub::handler::Rules;
/// let rules = Rules::default();
/// assert!(rules.limits.checks_utf8 && rules.protocols.is_empty() && !rules.requires_protocol);
/// ```
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// The origins and the authenticator of the route.
    pub(crate) gate: Gate,
    /// Subprotocols in order of preference (RFC 6455 1.9).
    pub protocols: Vec<String>,
    /// Whether a client has to offer one of the subprotocols.
    pub requires_protocol: bool,
    /// Limits of messages, and their delivery.
    pub limits: MessageLimits,
    /// The rates of what a client sends.
    pub(crate) rates: InputRates,
    /// The keep-alive of connections.
    pub keep_alive: KeepAlive,
    /// The payload of pings: at most 125 bytes (RFC 6455 5.5).
    pub ping_payload: Vec<u8>,
    /// Whether the handler judges every frame first.
    pub inspects_frames: bool,
    /// Whether opening requests are not kept.
    pub forgets_request: bool,
    /// Whether the route's connections get no broadcasts.
    pub skips_broadcasts: bool,
    /// Whether slow clients are left to the handler.
    pub has_manual_backpressure: bool,
}

impl Rules {
    /// Returns the origins of the route, if they are not those of the server.
    #[must_use]
    pub fn origins(&self) -> Option<&Origins> {
        self.gate.origins.as_ref()
    }

    /// Returns the authenticator; a route without one is for every client.
    #[must_use]
    pub fn authenticator(&self) -> Option<&Arc<dyn Authenticator>> {
        self.gate.authenticator.as_ref()
    }
}
