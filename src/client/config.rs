//! The client's settings, as given ([`Raw`]) and as checked ([`Config`]). A `Config` is always valid.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use tokio_rustls::rustls::pki_types::CertificateDer;

use super::{
    error::ClientBuildError,
    reconnect::Reconnect,
    tls::{self, Tls, Trust},
    url::Url,
};
use crate::proto::{ClientHandshake, HEAD_BYTES_MAX, MessageLimits, is_token};

/// The limits of received messages and of the client's queues. Each is at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientLimits {
    /// The limits of received messages. A larger frame or message fails the connection with 1009 (RFC 6455 7.4.1). The
    /// client allocates a frame's announced length before its payload arrives. `checks_utf8` and `deliver` have no
    /// effect here: text is always checked, and messages are always whole.
    pub message: MessageLimits,
    /// The number of queued messages, pings and pongs. At the limit `send_` methods wait, and `try_send_` methods fail
    /// with [`SendError::QueueFull`](super::SendError::QueueFull).
    pub queue_messages_max: usize,
    /// The payload bytes of the queue, with the same effect at the limit. A single message larger than this fails with
    /// [`SendError::TooLarge`](super::SendError::TooLarge).
    pub queue_bytes_max: u32,
    /// The number of events queued in [`Events`](super::Events). At the limit the client receives nothing.
    pub events_max: usize,
}

impl Default for ClientLimits {
    /// Returns the default of [`MessageLimits`], 1 024 queued messages of 16 MiB together, and 256 events.
    fn default() -> Self {
        Self { message: MessageLimits::default(), queue_messages_max: 1024, queue_bytes_max: 16 << 20, events_max: 256 }
    }
}

/// The settings as the caller gave them, unchecked.
pub(super) struct Raw {
    pub(super) url: Option<String>,
    pub(super) headers: Vec<(String, String)>,
    pub(super) basic: Option<(String, String)>,
    pub(super) bearer: Option<String>,
    pub(super) protocols: Vec<String>,
    pub(super) proxy: Option<String>,
    pub(super) proxy_basic: Option<(String, String)>,
    pub(super) authorities: Vec<Vec<u8>>,
    pub(super) has_system_authorities: bool,
    pub(super) accepts_any_certificate: bool,
    pub(super) redirects_max: u32,
    pub(super) connect_timeout: Duration,
    pub(super) handshake_timeout: Duration,
    pub(super) close_timeout: Duration,
    pub(super) ping_interval: Duration,
    pub(super) idle_timeout: Duration,
    pub(super) has_auto_pong: bool,
    pub(super) reconnect: Option<Reconnect>,
}

impl Default for Raw {
    fn default() -> Self {
        Self {
            url: None,
            headers: Vec::new(),
            basic: None,
            bearer: None,
            protocols: Vec::new(),
            proxy: None,
            proxy_basic: None,
            authorities: Vec::new(),
            has_system_authorities: true,
            accepts_any_certificate: false,
            redirects_max: 5,
            connect_timeout: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(5),
            ping_interval: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(40),
            has_auto_pong: true,
            reconnect: None,
        }
    }
}

/// The checked settings.
pub(super) struct Config {
    pub(super) url: Url,
    headers: Vec<(String, String)>,
    authorization: Option<String>,
    protocols: Vec<String>,
    pub(super) proxy: Option<Proxy>,
    pub(super) tls: Tls,
    pub(super) redirects_max: u32,
    pub(super) connect_timeout: Duration,
    pub(super) handshake_timeout: Duration,
    pub(super) close_timeout: Duration,
    /// `None` sends no pings.
    pub(super) ping_interval: Option<Duration>,
    /// `None` waits forever.
    pub(super) idle_timeout: Option<Duration>,
    pub(super) has_auto_pong: bool,
    pub(super) limits: ClientLimits,
    pub(super) reconnect: Option<Reconnect>,
}

pub(super) struct Proxy {
    pub(super) url: Url,
    pub(super) authorization: Option<String>,
}

impl Config {
    pub(super) fn new(raw: Raw, limits: ClientLimits) -> Result<Self, ClientBuildError> {
        let url = Url::websocket(&raw.url.ok_or(ClientBuildError::UrlMissing)?).map_err(ClientBuildError::Url)?;
        check_headers(&raw.headers)?;
        check_protocols(&raw.protocols)?;
        check_limits(&limits)?;
        raw.reconnect.as_ref().map_or(Ok(()), Reconnect::check)?;
        let has_authorization = raw.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("authorization"));
        let credentials = [raw.basic.is_some(), raw.bearer.is_some(), has_authorization];
        if credentials.iter().filter(|&&given| given).count() > 1 {
            return Err(ClientBuildError::CredentialsTwice);
        }
        let authorization = match (raw.basic, raw.bearer) {
            (Some((user, password)), _) => Some(basic(&user, &password)?),
            (None, Some(token)) if is_header_value(&token) => Some(format!("Bearer {token}")),
            (None, Some(_)) => return Err(ClientBuildError::Credentials),
            (None, None) => None,
        };
        let proxy = match (raw.proxy, raw.proxy_basic) {
            (None, None) => None,
            (None, Some(_)) => return Err(ClientBuildError::ProxyMissing),
            (Some(url), credentials) => Some(Proxy {
                url: Url::proxy(&url).map_err(ClientBuildError::Proxy)?,
                authorization: credentials.map(|(user, password)| basic(&user, &password)).transpose()?,
            }),
        };
        let given: Vec<CertificateDer<'static>> =
            raw.authorities.iter().map(|pem| tls::certificates(pem)).collect::<Result<Vec<_>, _>>()?.concat();
        let trust = match raw.accepts_any_certificate {
            true => Trust::Insecure,
            false => Trust::Authorities { given, has_system: raw.has_system_authorities },
        };
        let config = Self {
            url,
            headers: raw.headers,
            authorization,
            protocols: raw.protocols,
            proxy,
            tls: Tls::new(trust),
            redirects_max: raw.redirects_max,
            connect_timeout: required("connect_timeout", raw.connect_timeout)?,
            handshake_timeout: required("handshake_timeout", raw.handshake_timeout)?,
            close_timeout: required("close_timeout", raw.close_timeout)?,
            ping_interval: optional(raw.ping_interval),
            idle_timeout: optional(raw.idle_timeout),
            has_auto_pong: raw.has_auto_pong,
            limits,
            reconnect: raw.reconnect,
        };
        if config.opening_request(&mut ClientHandshake::new([0; 16]), &config.url).len() > HEAD_BYTES_MAX {
            return Err(ClientBuildError::HeadTooLong);
        }
        Ok(config)
    }

    /// Returns the opening request for `url`, the configured URL or a redirect's target. A target of another origin
    /// gets no credentials, and of the caller's headers only [`SHARED_HEADERS`].
    pub(super) fn opening_request(&self, handshake: &mut ClientHandshake, url: &Url) -> Bytes {
        let is_own_origin = url.is_same_origin(&self.url);
        let is_shared = |name: &str| SHARED_HEADERS.iter().any(|shared| shared.eq_ignore_ascii_case(name));
        let given = self.headers.iter().map(|(name, value)| (&**name, &**value));
        let mut headers: Vec<(&str, &str)> = given.filter(|(name, _)| is_own_origin || is_shared(name)).collect();
        if let Some(authorization) = self.authorization.as_deref().filter(|_| is_own_origin) {
            headers.push(("Authorization", authorization));
        }
        let protocols: Vec<&str> = self.protocols.iter().map(|protocol| &**protocol).collect();
        handshake.request(&url.authority(), url.target(), &protocols, &headers)
    }
}

fn check_headers(headers: &[(String, String)]) -> Result<(), ClientBuildError> {
    for (name, value) in headers {
        if !is_token(name.as_bytes()) {
            return Err(ClientBuildError::HeaderName(name.clone()));
        }
        let begins = name.get(..WEBSOCKET_PREFIX.len());
        if begins.is_some_and(|begin| begin.eq_ignore_ascii_case(WEBSOCKET_PREFIX))
            || RESERVED_HEADERS.iter().any(|reserved| reserved.eq_ignore_ascii_case(name))
        {
            return Err(ClientBuildError::HeaderReserved(name.clone()));
        }
        if !is_header_value(value) {
            return Err(ClientBuildError::HeaderValue(name.clone()));
        }
    }
    Ok(())
}

fn check_protocols(protocols: &[String]) -> Result<(), ClientBuildError> {
    for (index, protocol) in protocols.iter().enumerate() {
        if !is_token(protocol.as_bytes()) {
            return Err(ClientBuildError::Subprotocol(protocol.clone()));
        }
        if protocols[..index].contains(protocol) {
            return Err(ClientBuildError::SubprotocolTwice(protocol.clone()));
        }
    }
    Ok(())
}

fn check_limits(limits: &ClientLimits) -> Result<(), ClientBuildError> {
    let zero = [
        ("limits.message.frame_bytes_max", limits.message.frame_bytes_max == 0),
        ("limits.message.message_bytes_max", limits.message.message_bytes_max == 0),
        ("limits.message.fragments_max", limits.message.fragments_max == 0),
        ("limits.queue_messages_max", limits.queue_messages_max == 0),
        ("limits.queue_bytes_max", limits.queue_bytes_max == 0),
        ("limits.events_max", limits.events_max == 0),
    ];
    zero.iter().find(|(_, is_zero)| *is_zero).map_or(Ok(()), |(name, _)| Err(ClientBuildError::Zero(name)))
}

/// Returns the `Authorization` value for a user name and a password (RFC 7617 2).
fn basic(user: &str, password: &str) -> Result<String, ClientBuildError> {
    if user.contains(':') || !is_header_value(user) || !is_header_value(password) {
        return Err(ClientBuildError::Credentials);
    }
    Ok(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
}

/// Returns whether a header may have this value. RFC 9110 5.5 would allow a tab.
fn is_header_value(value: &str) -> bool {
    !value.bytes().any(|octet| octet.is_ascii_control())
}

fn required(setting: &'static str, duration: Duration) -> Result<Duration, ClientBuildError> {
    optional(duration).ok_or(ClientBuildError::Zero(setting))
}

/// Returns `None` for 0, which turns a setting off. [`FOREVER`] bounds all other durations, so that each can be added
/// to a time.
fn optional(duration: Duration) -> Option<Duration> {
    (!duration.is_zero()).then(|| duration.min(FOREVER))
}

/// The headers that a caller may not add, in addition to those of the handshake: they frame messages, manage the
/// connection, or hold the credentials for a proxy.
const RESERVED_HEADERS: &[&str] =
    &["Host", "Upgrade", "Connection", "Content-Length", "Transfer-Encoding", "TE", "Trailer", "Proxy-Authorization"];

const WEBSOCKET_PREFIX: &str = "Sec-WebSocket-";

/// The headers that say who the caller is, but not what the caller may do.
const SHARED_HEADERS: &[&str] = &["Origin", "User-Agent"];

const FOREVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
