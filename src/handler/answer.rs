//! Answers to an opening request.

use std::{
    borrow::Cow,
    hash::{BuildHasher as _, RandomState},
};

use bytes::{Bytes, BytesMut};

use crate::{
    auth::Identity,
    hub::{Format, Scope, SubscribeOptions, TopicName},
    proto::{EVENT_STREAM, Framing, Refusal, STREAM_HEADERS, encode_response, is_token, put_data, put_field},
};

/// Accepts an opening request.
///
/// ```
/// use ringhub::{Accept, SubscribeOptions, TopicName};
/// let accept = Accept::with(7).header("X-Served-By", "me");
/// let accept = accept.subscribe(TopicName::new("news")?, SubscribeOptions::default());
/// # let _: Accept<i32> = accept;
/// # Ok::<(), ringhub::TopicNameError>(())
/// ```
#[derive(Debug, Default)]
pub struct Accept<S> {
    pub(crate) state: S,
    pub(crate) protocol: ProtocolChoice,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) identity: Option<Identity>,
    pub(crate) subscriptions: Vec<(TopicName, SubscribeOptions)>,
    pub(crate) forwards: Option<(TopicName, Scope)>,
    pub(crate) format: Format,
}

/// The subprotocol that a handler chooses (RFC 6455 1.9).
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) enum ProtocolChoice {
    /// The subprotocol that the route's list prefers.
    #[default]
    OfRoute,
    None,
    Named(String),
}

impl<S> Accept<S> {
    /// Accepts with a state.
    pub fn with(state: S) -> Self {
        Accept {
            state,
            protocol: ProtocolChoice::OfRoute,
            headers: Vec::new(),
            identity: None,
            subscriptions: Vec::new(),
            forwards: None,
            format: Format::RAW,
        }
    }

    /// Chooses this subprotocol, or `None`, instead of the subprotocol that the route's list prefers. A subprotocol
    /// that the client has not offered is answered 500 and logged, since a client would have to fail the connection
    /// (RFC 6455 4.1).
    #[must_use]
    pub fn protocol(mut self, protocol: Option<&str>) -> Self {
        self.protocol = protocol.map_or(ProtocolChoice::None, |name| ProtocolChoice::Named(name.into()));
        self
    }

    /// Adds a header line to the 101. Control characters in the value become spaces.
    ///
    /// # Panics
    ///
    /// If the name is not a token (RFC 9110 5.1), or the handshake itself sets that header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        assert!(is_token(name), "{name:?} is no header name");
        let is_ours = ["upgrade", "connection"].iter().any(|ours| name.eq_ignore_ascii_case(ours))
            || name.to_ascii_lowercase().starts_with("sec-websocket-");
        assert!(!is_ours, "{name} belongs to the handshake");
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sets the identity by which the connection is known, in place of the identity that the route's authenticator has
    /// found. The grants, the expiry and the revocations of that one go on to hold.
    #[must_use]
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// Subscribes the connection to a topic. The 101 is sent once the subscription is live, and the client sees every
    /// message from then on. It sees its own messages only with [`SubscribeOptions::echo`].
    ///
    /// The code of a handler is trusted: the server's tokens and the rules of the hub's routes hold for topics that
    /// clients name at those routes, not for the topics that a handler chooses, here, in [`Accept::forward`] or later.
    #[must_use]
    pub fn subscribe(mut self, topic: TopicName, options: SubscribeOptions) -> Self {
        self.subscriptions.push((topic, options));
        self
    }

    /// Publishes the client's messages to a topic as they are, without a call of `on_message`. A large frame is sent
    /// from the memory that it was received into. Fragments are not forwarded.
    #[must_use]
    pub fn forward(mut self, topic: TopicName, scope: Scope) -> Self {
        self.forwards = Some((topic, scope));
        self
    }

    /// Chooses the form in which the connection gets the publications of its topics.
    #[must_use]
    pub(crate) fn format(mut self, format: Format) -> Self {
        self.format = format;
        self
    }
}

/// A whole HTTP response instead of a WebSocket, after which the connection ends.
///
/// The client has two seconds to take the response. If it has not made room for all of it by then, the connection is
/// reset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(Cow<'static, str>, Cow<'static, str>)>,
    pub(crate) body: Bytes,
}

impl Response {
    /// Returns a response with a body of a media type.
    ///
    /// # Panics
    ///
    /// If the status is not between 200 and 599.
    ///
    /// ```
    /// use ringhub::handler::Response;
    /// let response = Response::new(402, "text/plain", "pay first").header("Retry-After", "60");
    /// ```
    pub fn new(status: u16, content_type: impl Into<Cow<'static, str>>, body: impl Into<Bytes>) -> Self {
        assert!(is_status(status), "{status} is no status of an answer");
        Response { status, headers: vec![("Content-Type".into(), content_type.into())], body: body.into() }
    }

    /// Returns a response with a JSON body `{"error": "…"}`, like the server's own refusals.
    ///
    /// # Panics
    ///
    /// If the status is not between 200 and 599.
    pub fn error(status: u16, error: &str) -> Self {
        Refusal::new(status, error).into()
    }

    /// Adds a header line. Control characters in the value become spaces.
    ///
    /// # Panics
    ///
    /// If the name is not a token (RFC 9110 5.1), or if the header frames the body.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        assert!(is_token(name), "{name:?} is no header name");
        assert!(!is_ours(name), "{name} belongs to the server");
        self.headers.push((name.to_owned().into(), value.to_owned().into()));
        self
    }

    /// Returns the response to a request for an event stream. A browser gives up a stream for good after any other
    /// status than 200. So a refusal that will not last, 429 or 503, becomes a stream that ends at once, and that tells
    /// the client to ask again in 5 to 15 s. Its event has the body of the refusal.
    pub(crate) fn for_stream(self) -> Response {
        if !matches!(self.status, 429 | 503) {
            return self;
        }
        let jitter = RandomState::new().hash_one(()) % 10_000;
        let mut block = BytesMut::new();
        Framing::CloseDelimited.in_block(&mut block, |out| {
            put_field("event", "close", out);
            put_field("retry", &(5_000 + jitter).to_string(), out);
            put_data(self.body.trim_ascii_end(), out);
        });
        let response = Response::new(200, EVENT_STREAM, block.freeze());
        STREAM_HEADERS.iter().fold(response, |response, (name, value)| response.header(name, value))
    }

    /// Encodes the whole response, after which the connection ends.
    pub(crate) fn encode(&self, has_body: bool) -> Bytes {
        encode_response(self.status, &self.headers, &self.body, has_body)
    }

    /// Returns the status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }
}

/// Never panics: a status that is not between 200 and 599 becomes 500, and header lines that [`Response::header`] does
/// not take are left out. Both are logged.
impl From<Refusal> for Response {
    fn from(refusal: Refusal) -> Self {
        let refusal = sendable(refusal);
        let body = refusal.body();
        let response = Response::new(refusal.status, "application/json", body);
        refusal.headers.iter().fold(response, |response, (name, value)| response.header(name, value))
    }
}

/// Returns a refusal of an embedder's code as it can be sent: a status that [`Response`] does not take is replaced,
/// header lines that [`Response`] does not take are left out, and both are logged.
pub(crate) fn sendable(mut refusal: Refusal) -> Refusal {
    refusal.headers.retain(|(name, _)| {
        let is_sendable = is_token(name) && !is_ours(name);
        if !is_sendable {
            tracing::error!(name, "a refusal has a header line that cannot be sent, which is left out");
        }
        is_sendable
    });
    if is_status(refusal.status) {
        return refusal;
    }
    tracing::error!(status = refusal.status, "a refusal has a status that cannot be sent; 500 is sent instead");
    let replaced = Refusal::new(500, "this server has refused the request with a status that cannot be sent");
    if refusal.is_for_wrong_credentials { replaced.for_wrong_credentials() } else { replaced }
}

/// Returns whether a whole response may have the status.
fn is_status(status: u16) -> bool {
    (200..=599).contains(&status)
}

/// Returns whether the server itself writes the header lines of that name, since they frame the response.
fn is_ours(name: &str) -> bool {
    ["connection", "content-length", "transfer-encoding"].iter().any(|ours| name.eq_ignore_ascii_case(ours))
}
