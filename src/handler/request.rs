//! The opening request that a handler accepts or refuses.

use std::{borrow::Cow, net::SocketAddr};

use crate::{
    auth::Identity,
    hub::TopicName,
    proto::{Headers, RequestHead},
};

/// A request for a WebSocket at a route (RFC 6455 4.1), with the addresses and the identity of its sender.
///
/// ```
/// use ringhub::handler::{Accept, OpeningRequest, Response};
///
/// // At the route /chat/{room}, of a request for /chat/lobby?name=ann:
/// fn decide(request: &OpeningRequest) -> Result<Accept<String>, Response> {
///     let room = request.parameter("room").unwrap_or_default();
///     match request.query_value("name") {
///         Some(name) if room == "lobby" => Ok(Accept::with(name.into_owned())),
///         Some(_) => Err(Response::error(404, "there is no such room")),
///         None => Err(Response::error(400, "the name is missing: ?name=...")),
///     }
/// }
/// ```
#[derive(Debug, Clone)]
pub struct OpeningRequest {
    pub(crate) id: u64,
    pub(crate) head: RequestHead,
    /// The topics that the query names, which the judge has permitted.
    pub(crate) topics: Box<[TopicName]>,
    /// Those of the request's topics whose histories the sender asks for, and may read.
    pub(crate) histories: Box<[TopicName]>,
    pub(crate) parameters: Vec<(String, String)>,
    pub(crate) topic: Option<TopicName>,
    /// The number of the route.
    pub(crate) route: usize,
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) proxy: Option<SocketAddr>,
    pub(crate) local: Option<SocketAddr>,
    pub(crate) listener: usize,
    pub(crate) protocols: Vec<String>,
    pub(crate) protocol: Option<String>,
    pub(crate) identity: Option<Identity>,
}

impl OpeningRequest {
    /// Returns the bytes of memory of the request, roughly.
    pub(crate) fn bytes(&self) -> usize {
        let parameters: usize =
            self.parameters.iter().map(|(name, value)| size_of::<(String, String)>() + name.len() + value.len()).sum();
        let protocols: usize = self.protocols.iter().map(|protocol| size_of::<String>() + protocol.len()).sum();
        let identity = self.identity.as_ref().map_or(0, Identity::bytes);
        size_of::<OpeningRequest>() + self.head.bytes() + parameters + protocols + identity
    }

    /// Returns the number by which logs tell this request apart: no other opening request of this server has it. The
    /// connection has another id.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Returns the method, which is GET (RFC 6455 4.1).
    #[must_use]
    pub fn method(&self) -> &str {
        self.head.method()
    }

    /// Returns the path, not percent-decoded.
    #[must_use]
    pub fn path(&self) -> &str {
        self.head.path()
    }

    /// Returns the value of a parameter of the route's pattern in the path, percent-decoded: with the pattern
    /// `/chat/{room}` and the path `/chat/a%20b`, `room` is `a b`.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(other, _)| other == name).map(|(_, value)| &**value)
    }

    /// Returns the topic that the path names, at a route of the hub.
    pub(crate) fn topic(&self) -> Option<&TopicName> {
        self.topic.as_ref()
    }

    /// Returns the query as it was sent.
    #[must_use]
    pub fn raw_query(&self) -> Option<&str> {
        self.head.query()
    }

    /// Returns the query's pairs in order, decoded as a form (`+` is a space).
    pub fn query(&self) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
        form_urlencoded::parse(self.head.query().unwrap_or_default().as_bytes())
    }

    /// Returns the first value of a query's key, decoded.
    #[must_use]
    pub fn query_value(&self, key: &str) -> Option<Cow<'_, str>> {
        self.query().find(|(other, _)| other == key).map(|(_, value)| value)
    }

    /// Returns the header lines.
    #[must_use]
    pub fn headers(&self) -> &Headers {
        self.head.headers()
    }

    /// Returns the value of the first header line of that name, if it is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.headers().get(name).and_then(|value| str::from_utf8(value).ok())
    }

    /// Returns the client's address; `None` if the client has left meanwhile. If the client came through a trusted
    /// proxy (the setting `trusted_proxies`), it is the address that the proxy has named, with the port 0 if the proxy
    /// has named none.
    #[must_use]
    pub fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// Returns the address of the trusted proxy that the client came through; `None` if the client came directly.
    #[must_use]
    pub fn proxy(&self) -> Option<SocketAddr> {
        self.proxy
    }

    /// Returns the address of the server that the client has connected to.
    #[must_use]
    pub fn local(&self) -> Option<SocketAddr> {
        self.local
    }

    /// Returns the index of that address ([`OpeningRequest::local`]) in the list of addresses that the server listens
    /// on.
    #[must_use]
    pub fn listener(&self) -> usize {
        self.listener
    }

    /// Returns the origin of the page, if the request comes from a browser (RFC 6455 10.2).
    #[must_use]
    pub fn origin(&self) -> Option<&str> {
        self.header("origin")
    }

    /// Returns the subprotocols that the client offers, in its order of preference (RFC 6455 1.9).
    #[must_use]
    pub fn protocols(&self) -> &[String] {
        &self.protocols
    }

    /// Returns the offered subprotocol that the route's list prefers; [`Accept::protocol`](super::Accept::protocol) may
    /// choose another.
    #[must_use]
    pub fn protocol(&self) -> Option<&str> {
        self.protocol.as_deref()
    }

    /// Returns the identity that the route's authenticator has found.
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }
}
