//! Settings become a [`Client`].

use std::{fmt, sync::Arc, time::Duration};

use super::{
    config::{ClientLimits, Config, Raw},
    error::BuildError,
    event::{Event, Events},
    handle::Client,
    reconnect::Reconnect,
    shared::{Delivery, Shared, Slow},
    stats::SlowOperation,
};

/// How a client is set up. Nothing is checked, and nothing happens, before it is built.
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
/// # Ok::<(), ringhub::client::BuildError>(())
/// ```
#[must_use = "it is built with build or build_with"]
pub struct ClientBuilder {
    raw: Raw,
    limits: ClientLimits,
    slow: Option<Slow>,
}

impl Client {
    /// Begins to set up a client.
    pub fn builder() -> ClientBuilder {
        ClientBuilder { raw: Raw::default(), limits: ClientLimits::default(), slow: None }
    }
}

impl ClientBuilder {
    /// Where to connect to: `ws://` or `wss://`, a host and perhaps a port, path and query (RFC 6455 3). Required.
    pub fn url(mut self, url: impl Into<String>) -> Self {
        self.raw.url = Some(url.into());
        self
    }

    /// One more header for the opening request, such as `Origin` or `Cookie`. Where a redirect leads to another origin
    /// than that of `url` only `Origin` and `User-Agent` are sent, since any other may hold a secret.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.raw.headers.push((name.into(), value.into()));
        self
    }

    /// A user name and a password for the server (RFC 7617).
    pub fn basic_auth(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.raw.basic = Some((user.into(), password.into()));
        self
    }

    /// A token for the server (RFC 6750).
    pub fn bearer_auth(mut self, token: impl Into<String>) -> Self {
        self.raw.bearer = Some(token.into());
        self
    }

    /// A subprotocol to ask for, after those that were given before (RFC 6455 1.9).
    pub fn subprotocol(mut self, name: impl Into<String>) -> Self {
        self.raw.protocols.push(name.into());
        self
    }

    /// A proxy to go through by `CONNECT`, `http://host:port` (RFC 9110 9.3.6). None unless set: variables of the
    /// environment are not looked at.
    pub fn proxy(mut self, url: impl Into<String>) -> Self {
        self.raw.proxy = Some(url.into());
        self
    }

    /// A user name and a password for the proxy (RFC 7617).
    pub fn proxy_basic_auth(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.raw.proxy_basic = Some((user.into(), password.into()));
        self
    }

    /// Certificate authorities to trust for `wss`, in PEM form, beside the system's and those given before.
    pub fn certificate_authority(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.raw.authorities.push(pem.into());
        self
    }

    /// Whether the system's certificate authorities are trusted for `wss`. `true` unless set.
    pub fn system_authorities(mut self, trusted: bool) -> Self {
        self.raw.system_authorities = trusted;
        self
    }

    /// Whether any certificate is accepted for `wss`. Then TLS protects against nobody who stands between: it is for
    /// experiments. `false` unless set.
    pub fn danger_accept_any_certificate(mut self, accepted: bool) -> Self {
        self.raw.any_certificate = accepted;
        self
    }

    /// How many redirects in a row are followed (RFC 9110 15.4); 0 takes a redirect for a refusal. 5 unless set.
    pub fn redirects_max(mut self, redirects: u32) -> Self {
        self.raw.redirects_max = redirects;
        self
    }

    /// How long finding the name's addresses and connecting a socket may take. 10 s unless set; not 0.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.raw.connect_timeout = timeout;
        self
    }

    /// How long it may take from there until the connection is open: proxy, TLS and opening handshake. 10 s unless set;
    /// not 0. Each redirect has both deadlines anew.
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.raw.handshake_timeout = timeout;
        self
    }

    /// How long the closing handshake may take, and the server to end the connection after it (RFC 6455 7.1.1). 5 s
    /// unless set; not 0.
    pub fn close_timeout(mut self, timeout: Duration) -> Self {
        self.raw.close_timeout = timeout;
        self
    }

    /// Silence from the server after which it is pinged (RFC 6455 5.5.2). 30 s unless set; 0 never pings.
    pub fn ping_interval(mut self, interval: Duration) -> Self {
        self.raw.ping_interval = interval;
        self
    }

    /// Silence from the server after which the connection is taken for dead. It counts while the client is ready to
    /// receive, and any received byte ends it. 40 s unless set; 0 waits forever.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.raw.idle_timeout = timeout;
        self
    }

    /// Whether pings are answered at once (RFC 6455 5.5.3). `true` unless set; otherwise [`Client::pong`] does.
    pub fn auto_pong(mut self, answered: bool) -> Self {
        self.raw.auto_pong = answered;
        self
    }

    /// What may come and what may wait.
    pub fn limits(mut self, limits: ClientLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Opens a connection again when it was lost. It is not done unless set, and never for one that [`Client::connect`]
    /// could not open.
    pub fn reconnect(mut self, reconnect: Reconnect) -> Self {
        self.raw.reconnect = Some(reconnect);
        self
    }

    /// Is told of every operation that took `threshold` or longer. It must not block.
    pub fn on_slow(mut self, threshold: Duration, callback: impl Fn(SlowOperation) + Send + Sync + 'static) -> Self {
        self.slow = Some(Slow { threshold, callback: Box::new(callback) });
        self
    }

    /// A client whose events are a stream.
    ///
    /// # Errors
    ///
    /// The first setting that cannot be used.
    pub fn build(self) -> Result<(Client, Events), BuildError> {
        let config = Config::new(self.raw, self.limits)?;
        let (delivery, events) = Delivery::queue(self.limits.events_max);
        Ok((Client::new(config, delivery, self.slow), events))
    }

    /// A client that gives its events to a callback, one after the other, with a handle to answer by. The callback must
    /// not block: nothing is received or sent on this client meanwhile. If it panics, its connection is dropped.
    ///
    /// ```
    /// use ringhub::client::{Client, Event};
    ///
    /// let client = Client::builder().url("ws://127.0.0.1:6455/t/echo").build_with(|client, event| match event {
    ///     Event::Text(text) => client.try_send_text(text).unwrap_or_else(|error| println!("no answer: {error}")),
    ///     Event::Closed(closed) => println!("{closed}"),
    ///     _ => {}
    /// })?;
    /// # Ok::<(), ringhub::client::BuildError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The first setting that cannot be used.
    pub fn build_with(self, mut on_event: impl FnMut(&Client, Event) + Send + 'static) -> Result<Client, BuildError> {
        let config = Config::new(self.raw, self.limits)?;
        let callback = move |shared: &Arc<Shared>, event| on_event(&Client::for_callback(shared.clone()), event);
        Ok(Client::new(config, Delivery::callback(Box::new(callback)), self.slow))
    }
}

impl fmt::Debug for ClientBuilder {
    /// Without what may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder").field("limits", &self.limits).finish_non_exhaustive()
    }
}
