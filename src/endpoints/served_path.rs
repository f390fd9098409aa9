//! The paths of a route, with the openings and the HTTP endpoints at each of them.

use std::sync::Arc;

use super::{
    http::HttpEndpoint,
    intent::{Intent, ReadIntent},
    values::RouteValues,
};
use crate::{
    handler::{Pattern, Route},
    proto::{Framing, Refusal, RequestHead},
};

/// What an opening request asks for: a connection of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opens {
    /// RFC 6455.
    WebSocket,
    /// Server-Sent Events.
    EventStream,
}

impl Opens {
    /// Returns what a request asks for; `None` for a request that asks for a response with an end. A request for a
    /// WebSocket may be malformed.
    pub(crate) fn asked_by(head: &RequestHead) -> Option<Opens> {
        if head.headers().list_contains("upgrade", "websocket") {
            return Some(Opens::WebSocket);
        }
        Framing::is_asked_for(head).then_some(Opens::EventStream)
    }
}

/// The openings of WebSockets, or of event streams, at a path.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Openings {
    pub(crate) opens: Opens,
    /// The methods that a 405 names for the openings. A request with one of them, or HEAD instead of GET, that does not
    /// ask for a WebSocket is answered 426, unless an HTTP endpoint of the path has the method.
    pub(crate) methods: &'static [&'static str],
    /// Reads the intent of an opening request. Without this function the intent is [`Intent::Use`], and only the
    /// connection's shard judges the request, just before the shard calls the handler.
    pub(crate) intent: Option<ReadIntent>,
    /// Reads the names of the topics to which the query subscribes. The judge decides about each of them.
    pub(crate) topics: Option<ReadTopics>,
    /// Reads whether the client asks for messages of the topics' histories. The judge decides about the history of each
    /// topic, and a client that may not read it gets the later messages of the topic.
    pub(crate) resumes: Option<ReadResumes>,
}

/// Reads the names of topics in the query of an opening request.
///
/// # Errors
///
/// The refusal of the query.
pub(crate) type ReadTopics = fn(&RequestHead) -> Result<Vec<String>, Refusal>;

/// Reads whether an opening request asks for messages of histories.
///
/// # Errors
///
/// The refusal of the query.
pub(crate) type ReadResumes = fn(&RequestHead) -> Result<bool, Refusal>;

impl Openings {
    /// The openings of a handler that needs only the gate of its route.
    pub(crate) const OF_ANY_HANDLER: Openings =
        Openings { opens: Opens::WebSocket, methods: &["GET", "HEAD"], intent: None, topics: None, resumes: None };

    /// Returns the intent of an opening request.
    ///
    /// # Errors
    ///
    /// See [`ReadIntent`].
    pub(crate) fn intent(&self, head: &RequestHead) -> Result<Intent, Refusal> {
        self.intent.map_or(Ok(Intent::Use), |read| read(head))
    }
}

/// The paths of one pattern, and all that a route serves there.
#[derive(Debug, Clone)]
pub(crate) struct ServedPath {
    /// The number of the route.
    pub(crate) route: usize,
    pub(crate) pattern: Pattern,
    pub(crate) openings: Option<Openings>,
    /// The openings of clients that ask for what other routes serve here.
    pub(super) beside: Vec<PathBeside>,
    pub(crate) endpoints: &'static [HttpEndpoint],
    /// The values of the route's own keys.
    pub(crate) values: Arc<RouteValues>,
}

/// The openings of a route at the path of another route.
#[derive(Debug, Clone, Copy)]
pub(super) struct PathBeside {
    /// The subprotocol that the clients offer.
    protocol: Option<&'static str>,
    /// The number of the route that the clients belong to.
    route: usize,
    openings: Openings,
}

/// What an opening request opens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OpeningAt {
    /// The number of the path.
    pub(crate) path: usize,
    /// The number of the route.
    pub(crate) route: usize,
    pub(crate) openings: Openings,
}

impl ServedPath {
    /// Returns what a request opens here; `number` is that of this path. What the request asks for, and the
    /// subprotocols that the client offers, may lead to another route than the path's own.
    pub(super) fn opening(&self, number: usize, head: &RequestHead) -> Option<OpeningAt> {
        let opens = Opens::asked_by(head)?;
        let offers =
            |name: &str| head.headers().list("sec-websocket-protocol").any(|offered| offered == name.as_bytes());
        let beside = self.beside.iter().filter(|beside| beside.openings.opens == opens);
        let of_beside = beside.filter(|beside| beside.protocol.is_none_or(offers));
        let own = self.openings.filter(|openings| openings.opens == opens).map(|openings| (self.route, openings));
        let (route, openings) = of_beside.map(|beside| (beside.route, beside.openings)).next().or(own)?;
        Some(OpeningAt { path: number, route, openings })
    }

    /// Returns the endpoint for a method. HEAD is answered as GET is (RFC 9110 9.3.2).
    pub(crate) fn endpoint(&self, method: &str) -> Option<&'static HttpEndpoint> {
        let of = |method: &str| self.endpoints.iter().find(|endpoint| endpoint.methods.contains(&method));
        of(method).or_else(|| if method == "HEAD" { of("GET") } else { None })
    }

    /// Returns a method that has two answers here: two endpoints have it, or an endpoint has OPTIONS, which the server
    /// itself answers.
    pub(super) fn ambiguous_method(&self) -> Option<&'static str> {
        let methods: Vec<&str> = self.endpoints.iter().flat_map(|endpoint| endpoint.methods).copied().collect();
        let mut each = methods.iter().enumerate();
        each.find(|(at, method)| **method == "OPTIONS" || methods[..*at].contains(method)).map(|(_, method)| *method)
    }

    /// Returns whether a request with that method could have asked for a WebSocket here.
    pub(crate) fn opens_by(&self, method: &str) -> bool {
        let method = if method == "HEAD" { "GET" } else { method };
        self.openings.is_some_and(|openings| openings.opens == Opens::WebSocket && openings.methods.contains(&method))
    }

    /// Returns the methods of the path, for `Allow` (RFC 9110 10.2.1).
    pub(crate) fn allowed(&self) -> String {
        let of_openings = self.openings.iter().flat_map(|openings| openings.methods).copied();
        let mut methods: Vec<&str> = of_openings.filter(|method| self.endpoint(method).is_none()).collect();
        methods.extend(self.endpoints.iter().flat_map(|endpoint| endpoint.methods));
        if !self.endpoints.is_empty() {
            methods.push("OPTIONS");
        }
        methods.join(", ")
    }
}

/// A route with the paths that it serves, before it is in the table of endpoints.
#[derive(Debug, Clone)]
pub(crate) struct ServedRoute {
    pub(crate) route: Route,
    pub(crate) paths: Vec<NewPath>,
    /// The values of the route's own keys.
    pub(crate) values: Arc<RouteValues>,
    /// Further routes at the same paths.
    pub(crate) beside: Vec<RouteBeside>,
}

/// A route for those clients of another route's paths that ask for what it opens.
#[derive(Debug, Clone)]
pub(crate) struct RouteBeside {
    /// The subprotocol that the clients offer.
    pub(crate) protocol: Option<&'static str>,
    pub(crate) route: Route,
    pub(crate) openings: Openings,
}

impl RouteBeside {
    /// Returns the openings of the route once it has this number.
    pub(super) fn numbered(&self, route: usize) -> PathBeside {
        PathBeside { protocol: self.protocol, route, openings: self.openings }
    }
}

/// A path of a route, before the route has a number.
#[derive(Debug, Clone)]
pub(crate) struct NewPath {
    pub(crate) pattern: Pattern,
    pub(crate) openings: Option<Openings>,
    pub(crate) endpoints: &'static [HttpEndpoint],
}

impl NewPath {
    /// Returns the path of the route that has this number.
    pub(super) fn numbered(self, route: usize, values: &Arc<RouteValues>, beside: &[PathBeside]) -> ServedPath {
        let NewPath { pattern, openings, endpoints } = self;
        ServedPath { route, pattern, openings, beside: beside.to_vec(), endpoints, values: Arc::clone(values) }
    }
}

/// A handler's WebSockets at the pattern of its route, and nothing else.
impl From<Route> for ServedRoute {
    fn from(route: Route) -> Self {
        let openings = Some(Openings::OF_ANY_HANDLER);
        let paths = vec![NewPath { pattern: route.pattern.clone(), openings, endpoints: &[] }];
        ServedRoute { route, paths, values: Arc::default(), beside: Vec::new() }
    }
}
