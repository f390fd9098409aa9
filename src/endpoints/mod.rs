//! The endpoints by their paths: one table for all threads.
//!
//! A request is resolved to its [`Endpoint`] first, by the segments of its path alone, and then answered: by a shard,
//! or by the control thread. No other code interprets a path.
//!
//! If the patterns of several endpoints match a path, the endpoint with the most precise pattern has the path. Patterns
//! are compared segment by segment from the front: a fixed segment is more precise than `{name}`, and `{name}` is more
//! precise than `{name...}`. The server's own endpoints (`/healthz`, `/readyz`, `/metrics`, its page at `/`, and its
//! administration) have patterns of fixed segments, except for the id of a connection. Files at `/site` have the paths
//! that `/site/{name...}` matches, and `/site` itself unless a route has exactly that path.

#![forbid(unsafe_code)]

mod authorize;
mod client_file;
mod client_paths;
mod denied;
#[doc(hidden)]
pub mod fuzz;
mod guesses;
mod http;
mod intent;
mod judge;
mod permissions;
mod readiness;
mod served_path;
mod served_service;
mod values;
mod waiting;

pub(crate) use client_file::ClientFile;
pub(crate) use denied::{Admittance, AdmittedSender, Denied};
pub(crate) use guesses::Guesses;
pub(crate) use http::{
    BodyLimit, Commands, Forgetting, HttpEndpoint, HttpRequest, PublishGrant, Publishing, PublishingAll, Reading,
    ReadingPresence,
};
pub(crate) use intent::Intent;
pub(crate) use judge::Judge;
pub(crate) use permissions::{Permissions, asking};
pub(crate) use readiness::Readiness;
pub(crate) use served_path::{NewPath, OpeningAt, Openings, Opens, RouteBeside, ServedPath, ServedRoute};
pub(crate) use served_service::ServedService;
pub(crate) use values::{RouteValue, RouteValues};
pub(crate) use waiting::until_decided;

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use crate::{
    auth::{Access, Gate, Revocations},
    documents::Documents,
    handler::{Parameters, Pattern, Route, TOPIC},
    hub::TopicName,
    proto::{MessageLimits, Refusal, RequestHead, RequestPath},
};

/// The endpoint of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// A path of a route: the WebSockets of its handler, and the HTTP endpoints of its surface. The topic is the one
    /// that the path names.
    Path { path: usize, topic: Option<TopicName> },
    /// Files: the number of the folder, and the segments below it; no segments for the folder's own path without a
    /// slash at its end.
    Files { mount: usize, below: Vec<String> },
    /// The page that watches topics: the number of a route's page, or `None` for the server's own.
    Page { page: Option<usize> },
    /// A file of the client in JavaScript.
    ClientFile(ClientFile),
    /// The HTTP service of an embedder, by its number.
    Service { service: usize },
    /// `/healthz`: whether the server is alive.
    Health,
    /// `/readyz`: whether the server takes traffic.
    Ready,
    /// `/metrics`: the counters of the server.
    Metrics,
    /// `/debug/top`: the busiest topics, and the largest backlogs.
    Top,
    /// The administration of the server.
    Admin(AdminPath),
    /// A path without an endpoint.
    Nothing,
}

/// A path of the administration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AdminPath {
    /// `/connections`: the open connections.
    Connections,
    /// `/connections/{id}`: one connection, by the text in the place of its id.
    Connection(String),
    /// `/topics`: the topics that connections use.
    Topics,
    /// `/revocations`: the identities and tokens that are refused.
    Revocations,
}

impl Endpoint {
    /// Returns the topic that the path names.
    pub(crate) fn topic(&self) -> Option<&TopicName> {
        if let Endpoint::Path { topic, .. } = self { topic.as_ref() } else { None }
    }

    /// Returns the topic that the path names, and drops the rest.
    pub(crate) fn into_topic(self) -> Option<TopicName> {
        if let Endpoint::Path { topic, .. } = self { topic } else { None }
    }

    /// Returns the answer about the server's health, for every thread: a text, or a refusal. `None` if the endpoint is
    /// neither health nor readiness.
    pub(crate) fn health(&self, method: &str, is_unready: bool) -> Option<Result<&'static str, Refusal>> {
        let text = match self {
            Endpoint::Health => "alive\n",
            Endpoint::Ready => "ready\n",
            _ => return None,
        };
        Some(match method {
            "GET" | "HEAD" if is_unready && *self == Endpoint::Ready => Err(Refusal::leaving()),
            "GET" | "HEAD" => Ok(text),
            _ => Err(Refusal::not_allowed("GET, HEAD")),
        })
    }
}

/// A folder of files at a path.
#[derive(Debug, Clone)]
pub(crate) struct Mount {
    /// The path, of fixed segments.
    pattern: Pattern,
    /// The segments below the folder's path.
    below: Pattern,
    pub(crate) documents: Documents,
    pub(crate) gate: Gate,
}

impl Mount {
    /// Returns a folder at a path such as `/site` or `/`; a slash at the end of the path makes no difference. `None`
    /// for a malformed path.
    pub(crate) fn new(path: &str, documents: Documents, gate: Gate) -> Option<Mount> {
        let pattern = Pattern::new(&format!("/{}", path.trim_matches('/'))).ok()?;
        let below = pattern.below()?;
        Some(Mount { pattern, below, documents, gate })
    }

    /// Returns whether both are at the same path.
    pub(crate) fn is_where(&self, other: &Mount) -> bool {
        self.below.clashes_with(&other.below)
    }

    /// Returns whether the folder is at `/`.
    pub(crate) fn is_root(&self) -> bool {
        self.below.segment_count() == 1
    }
}

/// The table of all endpoints.
#[derive(Debug)]
pub(crate) struct Endpoints {
    /// The most precise first.
    rows: Vec<(Pattern, Target)>,
    routes: Vec<Route>,
    /// The paths of all routes.
    paths: Vec<ServedPath>,
    mounts: Vec<Mount>,
    /// The gates of the routes' pages.
    pages: Vec<Gate>,
    services: Vec<ServedService>,
    /// The server's own origins and tokens.
    access: Access,
    /// Whether any endpoint is for pages of certain origins only, or takes cookies.
    restricts_origins: bool,
    /// Whether everybody may subscribe and publish to the topics of all routes: neither the server nor a route has
    /// origins, tokens or an authenticator for them.
    has_open_gates: bool,
    /// Whether the paths of the administration would exist if there were tokens for it.
    lacks_admin_tokens: bool,
    /// The identities and tokens that the judge refuses.
    revocations: Revocations,
    /// The rate of requests whose credentials the judge refuses.
    guesses: Guesses,
    /// The longest time for which a request waits for the judge.
    wait_max: Duration,
    permissions: Permissions,
    /// The number that no other table has.
    number: u32,
}

/// The owner of the paths of a pattern. Of two equally precise patterns, a route's has a path before that of a folder,
/// or of the path above a service's.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Own(Endpoint),
    Path(usize),
    Page(usize),
    Service(usize),
    Folder(usize),
    Below(usize),
}

/// The reason for which a table cannot be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Conflict {
    /// Two patterns are for the same paths.
    Clash(Pattern, Pattern),
    /// A pattern is for a path of the server's own.
    Own(Pattern),
    /// Two endpoints of a surface at a path have the same method, or one has a method that the server itself answers.
    Method(Pattern, &'static str),
}

impl Endpoints {
    /// Makes the table of these routes, folders and pages, with the server's own page at `/` if `has_page`, with
    /// health, readiness and metrics if `has_operations`, and then with the administration if there are tokens for it.
    /// `access` holds where an endpoint has no rules of its own.
    ///
    /// # Errors
    ///
    /// [`Conflict::Clash`] if two patterns match the same paths, [`Conflict::Own`] if one matches a path of the
    /// server's own, [`Conflict::Method`] if a method has two answers.
    pub(crate) fn new(
        served: Vec<ServedRoute>,
        mounts: Vec<Mount>,
        pages: Vec<(Pattern, Gate)>,
        has_page: bool,
        has_operations: bool,
        access: Access,
    ) -> Result<Endpoints, Conflict> {
        Self::with_services(served, mounts, pages, Vec::new(), (has_page, has_operations), access)
    }

    /// Makes the table of [`Endpoints::new`] with the HTTP services of an embedder too.
    ///
    /// # Errors
    ///
    /// As of [`Endpoints::new`].
    pub(crate) fn with_services(
        mut served: Vec<ServedRoute>,
        mounts: Vec<Mount>,
        pages: Vec<(Pattern, Gate)>,
        services: Vec<(Pattern, ServedService)>,
        (has_page, has_operations): (bool, bool),
        access: Access,
    ) -> Result<Endpoints, Conflict> {
        served.sort_by_key(|served| std::cmp::Reverse(served.route.pattern.precision()));
        let (mut routes, mut paths) = (Vec::new(), Vec::new());
        for ServedRoute { route, paths: unnumbered, values, beside } in served {
            let number = routes.len();
            routes.push(route);
            let numbered: Vec<_> = (number + 1..).zip(&beside).map(|(at, beside)| beside.numbered(at)).collect();
            paths.extend(unnumbered.into_iter().map(|path| path.numbered(number, &values, &numbered)));
            routes.extend(beside.into_iter().map(|beside| beside.route));
        }
        if let Some((path, method)) = paths.iter().find_map(|path| Some((path, path.ambiguous_method()?))) {
            return Err(Conflict::Method(path.pattern.clone(), method));
        }
        let mut rows: Vec<(Pattern, Target)> = Vec::new();
        let operations = OPERATIONS.into_iter().filter(|_| has_operations);
        let has_admin = has_operations && access.admin.are_required();
        let admin = admin_paths().into_iter().filter(|_| has_admin);
        let page = has_page.then_some(("/", Endpoint::Page { page: None }));
        for (path, endpoint) in operations.chain(admin).chain(page) {
            rows.push((Pattern::new(path).expect("a path"), Target::Own(endpoint)));
        }
        rows.extend(paths.iter().enumerate().map(|(at, path)| (path.pattern.clone(), Target::Path(at))));
        rows.extend(pages.iter().enumerate().map(|(at, (pattern, _))| (pattern.clone(), Target::Page(at))));
        rows.extend(services.iter().enumerate().map(|(at, (pattern, _))| (pattern.clone(), Target::Service(at))));
        rows.extend(mounts.iter().enumerate().map(|(at, mount)| (mount.below.clone(), Target::Below(at))));
        for (at, (pattern, _)) in rows.iter().enumerate() {
            if let Some((other, target)) = rows[..at].iter().find(|(other, _)| other.clashes_with(pattern)) {
                return Err(match target {
                    Target::Own(_) => Conflict::Own(pattern.clone()),
                    _ => Conflict::Clash(other.clone(), pattern.clone()),
                });
            }
        }
        let folders = mounts.iter().enumerate().filter(|(_, mount)| !mount.is_root());
        rows.extend(folders.map(|(at, mount)| (mount.pattern.clone(), Target::Folder(at))));
        // A service that a narrower pattern guards would otherwise be reached at the path above by a wider one.
        let above = services.iter().enumerate().filter_map(|(at, (pattern, _))| Some((at, pattern.above()?)));
        rows.extend(above.map(|(at, above)| (above, Target::Service(at))));
        // The sort is stable. Of two equally precise patterns for a path, one is a route and the other a folder itself:
        // the route was added first, so it has the path.
        rows.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.precision()));
        let pages: Vec<Gate> = pages.into_iter().map(|(_, gate)| gate).collect();
        let services: Vec<ServedService> = services.into_iter().map(|(_, service)| service).collect();
        let is_restricted =
            |gate: &Gate| gate.takes_cookies() || gate.origins.as_ref().is_some_and(|origins| !origins.are_any());
        let restricts_origins = !access.origins.are_any()
            || routes.iter().any(|route| is_restricted(&route.rules.gate))
            || mounts.iter().any(|mount| is_restricted(&mount.gate))
            || pages.iter().any(is_restricted)
            || services.iter().any(|service| is_restricted(&service.gate));
        let is_open = |gate: &Gate| gate.authenticator.is_none() && !is_restricted(gate);
        let has_open_gates = access.are_topics_open() && routes.iter().all(|route| is_open(&route.rules.gate));
        let (wait_max, permissions) = (Duration::from_secs(10), Permissions::default());
        // Relaxed: only the number itself matters.
        let number = TABLES.fetch_add(1, Ordering::Relaxed);
        Ok(Endpoints {
            rows,
            routes,
            paths,
            mounts,
            pages,
            services,
            access,
            restricts_origins,
            has_open_gates,
            lacks_admin_tokens: has_operations && !has_admin,
            revocations: Revocations::default(),
            guesses: Guesses::default(),
            wait_max,
            permissions,
            number,
        })
    }

    /// Lets the judge refuse these identities and tokens.
    pub(crate) fn with_revocations(self, revocations: Revocations) -> Endpoints {
        Endpoints { revocations, ..self }
    }

    /// Returns the identities and tokens that the judge refuses.
    pub(crate) fn revocations(&self) -> &Revocations {
        &self.revocations
    }

    /// Returns the rate of wrong credentials, and its buckets.
    pub(crate) fn guesses(&self) -> &Guesses {
        &self.guesses
    }

    /// Lets the judge refuse requests of addresses that show wrong credentials faster than this rate.
    pub(crate) fn with_guesses(self, guesses: Guesses) -> Endpoints {
        Endpoints { guesses, ..self }
    }

    /// Lets the judge decide about topics by these rules.
    pub(crate) fn with_permissions(self, permissions: Permissions) -> Endpoints {
        Endpoints { permissions, ..self }
    }

    /// Returns the number of the table, which no other table has. A decision of the judge holds while the number is the
    /// same.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// Lets requests wait for the judge for so long at most, which is the time for an opening request.
    pub(crate) fn with_wait_max(self, wait_max: Duration) -> Endpoints {
        Endpoints { wait_max, ..self }
    }

    /// Returns the longest time for which a request waits for the judge.
    pub(crate) fn wait_max(&self) -> Duration {
        self.wait_max
    }

    /// Returns the endpoint of a request by the segments of its path alone.
    ///
    /// # Errors
    ///
    /// 400 for a path that two readers could understand differently, or a malformed name of a topic.
    pub(crate) fn resolve(&self, head: &RequestHead) -> Result<Endpoint, Refusal> {
        let path = head.segments().map_err(|error| Refusal::new(400, error.to_string()))?;
        let row = self.rows.iter().find(|(pattern, _)| pattern.matches(path));
        row.map_or(Ok(Endpoint::Nothing), |(pattern, target)| self.endpoint(pattern, target, path))
    }

    fn endpoint(&self, pattern: &Pattern, target: &Target, path: &RequestPath) -> Result<Endpoint, Refusal> {
        let below = |mount: usize| {
            let depth = self.mounts[mount].below.segment_count() - 1;
            Endpoint::Files { mount, below: path.segments().skip(depth).map(Into::into).collect() }
        };
        match *target {
            Target::Own(Endpoint::Admin(AdminPath::Connection(_))) => {
                let id = pattern.parameter_of(ADMIN_ID, path).into_owned();
                Ok(Endpoint::Admin(AdminPath::Connection(id)))
            }
            Target::Own(ref endpoint) => Ok(endpoint.clone()),
            Target::Page(page) => Ok(Endpoint::Page { page: Some(page) }),
            Target::Service(service) => self.service(service, path),
            Target::Folder(mount) | Target::Below(mount) => Ok(below(mount)),
            Target::Path(number) => {
                let route = self.paths[number].route;
                let names_topic = self.routes[route].topics.is_some() && pattern.has_parameter(TOPIC);
                let topic = names_topic.then(|| self.topic(route, &pattern.parameter_of(TOPIC, path))).transpose()?;
                Ok(Endpoint::Path { path: number, topic })
            }
        }
    }

    /// Returns the endpoint of a service.
    ///
    /// # Errors
    ///
    /// 400 for an encoded slash in a segment, unless the service takes such paths: the service might find another path
    /// in the request than this table.
    fn service(&self, service: usize, path: &RequestPath) -> Result<Endpoint, Refusal> {
        if !self.services[service].takes_encoded_slashes && path.segments().any(|segment| segment.contains('/')) {
            return Err(Refusal::new(400, "the path has an encoded slash (%2F), which is not taken here"));
        }
        Ok(Endpoint::Service { service })
    }

    /// Returns the topic that a client of a route means by a name, in its path or elsewhere. It begins with the prefix
    /// of the route's topics.
    ///
    /// # Errors
    ///
    /// 400 for a malformed name, and 404 at a route that leads to no topics.
    pub(crate) fn topic(&self, route: usize, name: &str) -> Result<TopicName, Refusal> {
        let Some(topics) = &self.routes[route].topics else {
            return Err(Refusal::new(404, format!("the route {} leads to no topics", self.routes[route].pattern)));
        };
        topics.topic(name).map_err(|error| Refusal::new(400, error.to_string()))
    }

    /// Returns the values of the pattern's parameters in the path of a request. `number` is that of the path to which
    /// the request was resolved.
    pub(crate) fn parameters(&self, number: usize, head: &RequestHead) -> Parameters {
        head.segments().map_or_else(|_| Parameters::new(), |path| self.paths[number].pattern.parameters_of(path))
    }

    /// Returns the most bytes of a message to an endpoint; 0 for an endpoint without messages. For a topic it is the
    /// smallest limit of all routes whose topics include the topic, whatever path the request has.
    pub(crate) fn message_bytes_max(&self, endpoint: &Endpoint) -> u32 {
        match endpoint {
            Endpoint::Path { topic: Some(topic), .. } => self.topic_bytes_max(topic),
            Endpoint::Path { path, topic: None } => self.routes[self.paths[*path].route].rules.limits.message_bytes_max,
            _ => 0,
        }
    }

    /// Returns the limits of a connection of a route whose messages have at most `bytes_max` bytes, if that is less
    /// than the route allows.
    pub(crate) fn limits_of_topic(&self, route: usize, bytes_max: u32) -> Option<MessageLimits> {
        let of_route = &self.routes[route].rules.limits;
        (bytes_max < of_route.message_bytes_max).then(|| MessageLimits {
            message_bytes_max: bytes_max,
            frame_bytes_max: of_route.frame_bytes_max.min(bytes_max),
            ..*of_route
        })
    }

    /// Returns the limits of a connection whose messages are forwarded to a topic, if they differ from those of its
    /// route: where the path names the topic, the smallest limit of all routes to the topic holds.
    pub(crate) fn limits_of_forwarding(&self, route: usize, topic: &TopicName) -> Option<MessageLimits> {
        let Route { pattern, topics, .. } = &self.routes[route];
        let names_topic = topics.is_some() && pattern.has_parameter(TOPIC);
        names_topic.then(|| self.limits_of_topic(route, self.topic_bytes_max(topic)))?
    }

    /// Returns whether another table has the same routes, pages and folders at the same paths, so that the numbers of
    /// this table mean the same there.
    pub(crate) fn has_same_paths(&self, other: &Endpoints) -> bool {
        fn patterns(table: &Endpoints) -> impl Iterator<Item = &Pattern> {
            table.routes.iter().map(|route| &route.pattern)
        }
        // The paths of the server's own have no numbers, and some of them come with a token.
        fn numbered(table: &Endpoints) -> impl Iterator<Item = &(Pattern, Target)> {
            table.rows.iter().filter(|(_, target)| !matches!(target, Target::Own(_)))
        }
        numbered(self).eq(numbered(other))
            && patterns(self).eq(patterns(other))
            && self.paths.len() == other.paths.len()
            && self.paths.iter().zip(&other.paths).all(|(one, other)| one.route == other.route)
    }

    /// Returns the most bytes of a message to a topic: the smallest limit of all routes whose topics include it.
    fn topic_bytes_max(&self, topic: &TopicName) -> u32 {
        let leading = self.routes.iter().filter(|route| route.leads_to(topic));
        leading.map(|route| route.rules.limits.message_bytes_max).min().unwrap_or_default()
    }

    /// Returns whether only a shard may answer a request: it asks for a WebSocket, or for an event stream where there
    /// is one.
    pub(crate) fn opens(&self, head: &RequestHead) -> bool {
        Opens::asked_by(head).is_some_and(|opens| match opens {
            Opens::WebSocket => true,
            Opens::EventStream => self.resolve(head).is_ok_and(|endpoint| self.opening(&endpoint, head).is_some()),
        })
    }

    /// Returns what a request opens at its endpoint, if that is opened there.
    pub(crate) fn opening(&self, endpoint: &Endpoint, head: &RequestHead) -> Option<OpeningAt> {
        let Endpoint::Path { path: number, .. } = endpoint else { return None };
        self.paths[*number].opening(*number, head)
    }

    /// Returns the paths of all routes, by their numbers.
    pub(crate) fn served_paths(&self) -> &[ServedPath] {
        &self.paths
    }

    /// Returns the routes, by their numbers.
    pub(crate) fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// Returns the folders, by their numbers.
    pub(crate) fn mounts(&self) -> &[Mount] {
        &self.mounts
    }

    /// Returns the HTTP services of the embedder, by their numbers.
    pub(crate) fn services(&self) -> &[ServedService] {
        &self.services
    }

    /// Returns the refusal of a WebSocket at a path without one.
    pub(crate) fn no_websocket_at(&self, path: &str) -> Refusal {
        let opening = || {
            let opens =
                |served: &&ServedPath| served.openings.is_some_and(|openings| openings.opens == Opens::WebSocket);
            self.paths.iter().filter(opens)
        };
        let patterns: Vec<&str> = opening().take(NAMED_MAX).map(|served| served.pattern.as_str()).collect();
        let elsewhere = match opening().count() - patterns.len() {
            _ if patterns.is_empty() => "nowhere".into(),
            0 => patterns.join(", "),
            more => format!("{} and {more} more", patterns.join(", ")),
        };
        Refusal::new(404, format!("no WebSocket is at {path:?}; there are some at {elsewhere}"))
    }

    /// Returns the refusal of any other request at a path without an endpoint.
    pub(crate) fn nothing_at(&self, path: &str) -> Refusal {
        let is_admin = ["/revocations", "/connections", "/topics"].contains(&path) || path.starts_with("/connections/");
        if self.lacks_admin_tokens && is_admin {
            return Refusal::new(404, format!("nothing is at {path:?}: the setting admin_tokens switches it on"));
        }
        let names_topic =
            |served: &&ServedPath| self.routes[served.route].topics.is_some() && served.pattern.has_parameter(TOPIC);
        match self.paths.iter().find(names_topic) {
            Some(served) => Refusal::new(404, format!("nothing is at {path:?}; topics are at {}", served.pattern)),
            None => Refusal::new(404, format!("nothing is at {path:?}")),
        }
    }
}

/// The endpoints for the operator of the server.
pub(crate) const OPERATIONS: [(&str, Endpoint); 4] = [
    ("/healthz", Endpoint::Health),
    ("/readyz", Endpoint::Ready),
    ("/metrics", Endpoint::Metrics),
    ("/debug/top", Endpoint::Top),
];

/// The number of the next table.
static TABLES: AtomicU32 = AtomicU32::new(1);

/// Returns the paths of the administration.
fn admin_paths() -> [(&'static str, Endpoint); 4] {
    let admin = [
        ("/connections", AdminPath::Connections),
        ("/connections/{id}", AdminPath::Connection(String::new())),
        ("/topics", AdminPath::Topics),
        ("/revocations", AdminPath::Revocations),
    ];
    admin.map(|(path, endpoint)| (path, Endpoint::Admin(endpoint)))
}

/// The parameter of the path of one connection.
const ADMIN_ID: &str = "id";

/// The most patterns that a refusal names.
const NAMED_MAX: usize = 3;

#[cfg(test)]
mod tests;
