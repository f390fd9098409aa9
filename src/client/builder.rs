//! `ClientBuilder`: collects the settings of a [`Client`] and builds it.

use std::{fmt, sync::Arc, time::Duration};

use super::{
    config::{ClientLimits, Config, Raw},
    error::ClientBuildError,
    event::{ClientEvent, Events},
    handle::Client,
    reconnect::Reconnect,
    shared::{Delivery, Shared, Slow},
    stats::SlowOperation,
};
use crate::proto::MessageLimits;

/// The settings of a client to be built. [`build`](Self::build) and [`build_with`](Self::build_with) check them; the
/// other methods only store them.
///
/// ```
/// use std::time::Duration;
/// use ringhub::client::{Client, Reconnect};
///
/// let (client, events) = Client::builder()
///     .url("wss://hub.example/t/news?mode=sub")
///     .bearer_auth("secret")
///     .handshake_timeout(Duration::from_secs(5))
///     .reconnect(Reconnect::default())
///     .build()?;
/// assert!(!client.is_open());
/// # Ok::<(), ringhub::client::ClientBuildError>(())
/// ```
#[must_use = "build or build_with makes the client"]
pub struct ClientBuilder {
    raw: Raw,
    limits: ClientLimits,
    slow: Option<Slow>,
}

impl Client {
    /// Returns a builder with the default settings.
    pub fn builder() -> ClientBuilder {
        ClientBuilder { raw: Raw::default(), limits: ClientLimits::default(), slow: None }
    }
}

impl ClientBuilder {
    /// Sets the URL to connect to: `ws://` or `wss://`, a host, and optionally a port, path and query (RFC 6455 3).
    /// Required.
    pub fn url(mut self, url: impl Into<String>) -> Self {
        self.raw.url = Some(url.into());
        self
    }

    /// Adds a header to the opening request, such as `Origin` or `Cookie`. After a redirect to an origin that differs
    /// from that of `url`, only `Origin` and `User-Agent` are sent, since any other header may hold a secret.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.raw.headers.push((name.into(), value.into()));
        self
    }

    /// Sets a user name and a password for the server (RFC 7617).
    pub fn basic_auth(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.raw.basic = Some((user.into(), password.into()));
        self
    }

    /// Sets a bearer token for the server (RFC 6750).
    pub fn bearer_auth(mut self, token: impl Into<String>) -> Self {
        self.raw.bearer = Some(token.into());
        self
    }

    /// Adds a subprotocol to request (RFC 6455 1.9). The order of the calls is the order of preference.
    pub fn subprotocol(mut self, name: impl Into<String>) -> Self {
        self.raw.protocols.push(name.into());
        self
    }

    /// Sets a proxy, `http://host:port`, which is asked for a tunnel by `CONNECT` (RFC 9110 9.3.6). None by default:
    /// the client reads no environment variables.
    pub fn proxy(mut self, url: impl Into<String>) -> Self {
        self.raw.proxy = Some(url.into());
        self
    }

    /// Sets a user name and a password for the proxy (RFC 7617).
    pub fn proxy_basic_auth(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.raw.proxy_basic = Some((user.into(), password.into()));
        self
    }

    /// Adds certificate authorities to trust for `wss`, in PEM form, in addition to the system's.
    pub fn certificate_authority(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.raw.authorities.push(pem.into());
        self
    }

    /// Trusts only the given certificate authorities for `wss`, not those of the system.
    pub fn without_system_authorities(mut self) -> Self {
        self.raw.has_system_authorities = false;
        self
    }

    /// Accepts every certificate for `wss`. TLS then protects against no attacker on the path, so this is for
    /// experiments.
    pub fn danger_accept_any_certificate(mut self) -> Self {
        self.raw.accepts_any_certificate = true;
        self
    }

    /// Sets the number of redirects in a row that are followed (RFC 9110 15.4). With 0 a redirect is a refusal. 5 by
    /// default.
    pub fn redirects_max(mut self, redirects: u32) -> Self {
        self.raw.redirects_max = redirects;
        self
    }

    /// Sets the time limit for resolving the host's name and connecting a socket. 10 s by default; not 0.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.raw.connect_timeout = timeout;
        self
    }

    /// Sets the time limit from the connected socket to the open connection: proxy, TLS and opening handshake. 10 s by
    /// default; not 0. Each redirect starts this limit and `connect_timeout` anew.
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.raw.handshake_timeout = timeout;
        self
    }

    /// Sets the time limit for a close: the closing handshake, and the server's end of the socket after it
    /// (RFC 6455 7.1.1). 5 s by default; not 0.
    pub fn close_timeout(mut self, timeout: Duration) -> Self {
        self.raw.close_timeout = timeout;
        self
    }

    /// Sets the time without a received byte after which the client sends a ping (RFC 6455 5.5.2). 30 s by default; 0
    /// sends no pings.
    pub fn ping_interval(mut self, interval: Duration) -> Self {
        self.raw.ping_interval = interval;
        self
    }

    /// Sets the time without a received byte after which the connection is ended. This time runs only while the client
    /// is ready to receive, not while an event waits for the caller. 40 s by default; 0 waits forever.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.raw.idle_timeout = timeout;
        self
    }

    /// Leaves the answers to pings to the caller, who sends them by [`Client::pong`]. Without this call the client
    /// answers pings by itself (RFC 6455 5.5.3).
    pub fn manual_pong(mut self) -> Self {
        self.raw.has_auto_pong = false;
        self
    }

    /// Sets the limits of received messages and of both queues.
    pub fn limits(mut self, limits: ClientLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets the most bytes of received messages, unless the program has set other limits of messages than the default.
    pub(super) fn preset_message_bytes(mut self, bytes: u32) -> Self {
        if self.limits.message == MessageLimits::DEFAULT {
            (self.limits.message.frame_bytes_max, self.limits.message.message_bytes_max) = (bytes, bytes);
        }
        self
    }

    /// Lets the client open a lost connection again. By default it does not. A failed [`Client::connect`] is never
    /// repeated.
    pub fn reconnect(mut self, reconnect: Reconnect) -> Self {
        self.raw.reconnect = Some(reconnect);
        self
    }

    /// Sets a callback for every operation that takes `threshold` or longer. The callback must not block.
    pub fn on_slow(mut self, threshold: Duration, callback: impl Fn(SlowOperation) + Send + Sync + 'static) -> Self {
        self.slow = Some(Slow { threshold, callback: Box::new(callback) });
        self
    }

    /// Builds a client whose events are a stream.
    ///
    /// # Errors
    ///
    /// The first setting that is not valid.
    pub fn build(self) -> Result<(Client, Events), ClientBuildError> {
        let config = Config::new(self.raw, self.limits)?;
        let (delivery, events) = Delivery::queue(self.limits.events_max);
        Ok((Client::new(config, delivery, self.slow), events))
    }

    /// Builds a client that calls `on_event` with each event and with a handle for answers. The calls come one after
    /// the other. The callback must not block: the client neither receives nor sends during a call. A panic in the
    /// callback drops the connection.
    ///
    /// ```
    /// use ringhub::client::{Client, ClientEvent};
    ///
    /// let client = Client::builder().url("ws://127.0.0.1:6455/t/echo").build_with(|client, event| match event {
    ///     ClientEvent::Text(text) => {
    ///         client.try_send_text(text).unwrap_or_else(|error| println!("no answer: {error}"));
    ///     }
    ///     ClientEvent::Closed(closed) => println!("{closed}"),
    ///     _ => {}
    /// })?;
    /// # Ok::<(), ringhub::client::ClientBuildError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The first setting that is not valid.
    pub fn build_with(
        self,
        mut on_event: impl FnMut(&Client, ClientEvent) + Send + 'static,
    ) -> Result<Client, ClientBuildError> {
        let config = Config::new(self.raw, self.limits)?;
        let callback = move |shared: &Arc<Shared>, event| on_event(&Client::for_callback(shared.clone()), event);
        Ok(Client::new(config, Delivery::callback(Box::new(callback)), self.slow))
    }
}

impl fmt::Debug for ClientBuilder {
    /// Shows the limits alone, since other settings may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder").field("limits", &self.limits).finish_non_exhaustive()
    }
}
