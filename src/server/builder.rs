//! What a server is made of, before it listens.

use std::{fmt, net::SocketAddr, sync::Arc};

use super::{Hub, Server};
use crate::{
    auth::Gate,
    config::{Config, CpuList, Pin, RouteConfig, RouteHandler, Settings},
    control::publisher::Requests,
    documents::Documents,
    endpoints::{Conflict, Endpoints, Mount, TOPIC},
    error::{ConfigErrors, StartError},
    handler::{Handler, Pattern, PatternError, Route, RouteOptions, TopicSpace, Typed},
    proto::{CONTROL_PAYLOAD_MAX, MessageLimits, is_token},
    surface::{
        echo::Echo,
        raw::{RawTopics, TOPIC_PATTERN},
    },
    sys::net,
};

/// Builds a [`Server`]: what it listens on, its shards, its limits, and who serves which path.
///
/// ```no_run
/// use ringhub::{handler::{Connection, Handler, RouteOptions}, server::Server};
///
/// struct Greeter;
///
/// impl Handler for Greeter {
///     type State = ();
///
///     fn on_open(&self, connection: &mut Connection<'_, ()>) {
///         connection.send_text("welcome");
///     }
/// }
///
/// let server = Server::builder()
///     .listen(["127.0.0.1:0".parse()?])
///     .shards(1)
///     .settings(|settings| settings.max_connections = Some(1_000))
///     .route_with("/greet/{name}", Greeter, RouteOptions::new().max_message(4_096))
///     .topics()
///     .build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Builder {
    base: Base,
    routes: Vec<(String, RouteOptions, Arc<dyn crate::handler::Factory>)>,
    documents: Vec<(String, Documents, Gate)>,
    /// Whether topics, and the page that watches them, are served where they usually are.
    topics: bool,
    page: bool,
    operations: bool,
    hub: (Hub, Requests),
}

#[derive(Debug)]
enum Base {
    Settings(Box<Settings>),
    Config(Box<Config>),
}

impl Default for Builder {
    fn default() -> Self {
        Builder {
            base: Base::Settings(Box::default()),
            routes: Vec::new(),
            documents: Vec::new(),
            topics: false,
            page: false,
            operations: true,
            hub: Hub::new(),
        }
    }
}

impl Builder {
    /// Changes settings: everything that the server's command line has.
    ///
    /// # Panics
    ///
    /// After [`Builder::config`], whose settings have been checked already.
    #[must_use]
    pub fn settings(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        match &mut self.base {
            Base::Settings(settings) => change(settings),
            Base::Config(_) => panic!("settings were checked when the configuration was made"),
        }
        self
    }

    /// Takes settings that have been checked, instead of all those set before, and the routes of their file.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.base = Base::Config(Box::new(config));
        self
    }

    /// Listens on these addresses, instead of 127.0.0.1:6455; port 0 takes a free one.
    #[must_use]
    pub fn listen(self, addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        let addresses = addresses.into_iter().collect();
        self.settings(|settings| settings.listen = addresses)
    }

    /// Runs so many shards, instead of one for each CPU.
    #[must_use]
    pub fn shards(self, count: usize) -> Self {
        self.settings(|settings| settings.shards = Some(count))
    }

    /// Runs them on these CPUs, which they take in turn.
    #[must_use]
    pub fn cpus(self, cpus: impl IntoIterator<Item = usize>) -> Self {
        let mut cpus: Vec<usize> = cpus.into_iter().collect();
        cpus.sort_unstable();
        cpus.dedup();
        self.settings(|settings| settings.cpus = Some(CpuList(cpus)))
    }

    /// Whether each shard stays on its CPU.
    #[must_use]
    pub fn pin(self, pin: Pin) -> Self {
        self.settings(|settings| settings.pin = pin)
    }

    /// A handler for all paths that match the pattern; see [`Pattern`].
    #[must_use]
    pub fn route(self, pattern: &str, handler: impl Handler) -> Self {
        self.route_with(pattern, handler, RouteOptions::new())
    }

    /// The same under rules of its own.
    #[must_use]
    pub fn route_with(mut self, pattern: &str, handler: impl Handler, options: RouteOptions) -> Self {
        self.routes.push((pattern.into(), options, Arc::new(Typed(Arc::new(handler)))));
        self
    }

    /// Serves topics at `/t/{topic}` as the server does: by WebSocket, and by POST.
    #[must_use]
    pub fn topics(mut self) -> Self {
        self.topics = true;
        self
    }

    /// Serves the page at `/`, which watches topics.
    #[must_use]
    pub fn page(mut self) -> Self {
        self.page = true;
        self
    }

    /// Serves the files of a folder to plain HTTP, at a path and below it.
    #[must_use]
    pub fn documents(self, path: &str, documents: Documents) -> Self {
        self.documents_with(path, documents, RouteOptions::new())
    }

    /// The same under the rules of a route: its origins and its authenticator.
    #[must_use]
    pub fn documents_with(mut self, path: &str, documents: Documents, options: RouteOptions) -> Self {
        self.documents.push((path.into(), documents, options.gate));
        self
    }

    /// Does not serve `/healthz`, `/readyz` and `/metrics`.
    #[must_use]
    pub fn without_operations(mut self) -> Self {
        self.operations = false;
        self
    }

    /// The handle to all connections that the server will have, for handlers that act on others' connections. Before
    /// the server has started, publishing waits, and everything else finds nobody.
    ///
    /// ```
    /// use ringhub::{Connection, Handler, Hub, Message, Server};
    ///
    /// struct Announcer(Hub);
    ///
    /// impl Handler for Announcer {
    ///     type State = ();
    ///
    ///     fn on_message(&self, connection: &mut Connection<'_, ()>, message: Message<'_>) {
    ///         let (hub, message) = (self.0.clone(), message.prepare());
    ///         connection.spawn(async move |_| _ = hub.send_all(&message).await);
    ///     }
    /// }
    ///
    /// let builder = Server::builder();
    /// let announcer = Announcer(builder.hub());
    /// let builder = builder.route("/announce", announcer);
    /// ```
    #[must_use]
    pub fn hub(&self) -> Hub {
        self.hub.0.clone()
    }

    /// Checks everything, then listens. Connections are accepted from [`Server::start`] on.
    ///
    /// # Errors
    ///
    /// See [`BuildError`].
    pub fn build(self) -> Result<Server, BuildError> {
        let Builder { base, routes: given, mut documents, topics, mut page, operations, hub } = self;
        let config = match base {
            Base::Settings(settings) => {
                Config::new(&settings, net::raise_descriptor_limit()).map_err(BuildError::Config)?
            }
            Base::Config(config) => *config,
        };
        let mut routes = Vec::new();
        for (pattern, options, factory) in given {
            let pattern = Pattern::new(&pattern).map_err(BuildError::Pattern)?;
            check(&pattern, &options, &config.limits.message)?;
            routes.push(Route { pattern, options, topics: None, factory });
        }
        let mut hubs = Vec::new();
        if topics {
            hubs.push((TOPIC_PATTERN.into(), RouteOptions::new(), TopicSpace::default()));
        }
        for route in &config.routes {
            let (pattern, options) = (&route.pattern, options_of(route));
            match &route.handler {
                RouteHandler::Hub => hubs.push((pattern.clone(), options, route.topics.clone())),
                RouteHandler::Echo => {
                    let pattern = Pattern::new(pattern).map_err(BuildError::Pattern)?;
                    let factory = Arc::new(Typed(Arc::new(Echo)));
                    routes.push(Route { pattern, options, topics: None, factory });
                }
                RouteHandler::Files(folder) => documents.push((pattern.clone(), folder.clone(), options.gate)),
            }
        }
        for (pattern, options, topics) in hubs {
            let pattern = Pattern::new(&pattern).map_err(BuildError::Pattern)?;
            if !pattern.has_parameter(TOPIC) {
                return Err(BuildError::Options(pattern, format!("it has no {{{TOPIC}}} to name a topic")));
            }
            // A topic's subscriber costs nothing beside its slot.
            let options = options.forget_request().no_broadcast();
            routes.push(Route {
                pattern,
                options,
                topics: Some(topics),
                factory: Arc::new(Typed(Arc::new(RawTopics))),
            });
        }
        let mut mounts: Vec<Mount> = Vec::new();
        for (path, documents, gate) in documents {
            let mount = Mount::new(&path, documents, gate).ok_or_else(|| BuildError::Mount(path.clone()))?;
            if mounts.iter().any(|other| other.is_where(&mount)) {
                return Err(BuildError::Mount(path));
            }
            mounts.push(mount);
        }
        let has =
            |pattern: &str| routes.iter().any(|route| route.topics.is_some() && route.pattern.as_str() == pattern);
        if !config.routes.is_empty() && has(TOPIC_PATTERN) {
            // A file's routes say nothing of the page, which watches the topics there.
            let is_root = |route: &Route| route.pattern.as_str() == "/";
            page = !mounts.iter().any(Mount::is_root) && !routes.iter().any(is_root);
        }
        let endpoints = Endpoints::new(routes, mounts, page, operations, config.access.clone());
        let endpoints = endpoints.map_err(|conflict| match conflict {
            Conflict::Clash(first, second) => BuildError::Clash(first, second),
            Conflict::Own(pattern) => BuildError::Own(pattern),
        })?;
        Server::bind(config, endpoints, hub).map_err(BuildError::Start)
    }
}

/// The rules of a route of the file, which have been checked there.
fn options_of(route: &RouteConfig) -> RouteOptions {
    RouteOptions {
        gate: Gate { origins: route.origins.clone(), authenticator: route.authenticator.clone() },
        protocols: route.protocols.clone(),
        max_message: route.max_message,
        max_frame: route.max_frame,
        max_fragments: route.max_fragments,
        check_utf8: route.check_utf8,
        keep_alive: route.keep_alive,
        ping_payload: route.ping_payload.clone(),
        ..RouteOptions::new()
    }
}

/// Are a route's rules possible?
fn check(pattern: &Pattern, options: &RouteOptions, default: &MessageLimits) -> Result<(), BuildError> {
    let error = |what: String| Err(BuildError::Options(pattern.clone(), what));
    let limits = options.message_limits(default);
    if limits.message_bytes_max == 0 || u64::from(limits.message_bytes_max) > crate::config::Limits::MESSAGE_BYTES_MAX {
        return error(format!("max_message of {} bytes is not between 1 and 1 GiB", limits.message_bytes_max));
    }
    if limits.frame_bytes_max == 0 || limits.frame_bytes_max > limits.message_bytes_max {
        let (frame, message) = (limits.frame_bytes_max, limits.message_bytes_max);
        return error(format!("max_frame of {frame} bytes is not between 1 and max_message, {message} bytes"));
    }
    if limits.fragments_max == 0 {
        return error("max_fragments is 0, and a message has at least one frame".into());
    }
    if options.ping_payload.len() > CONTROL_PAYLOAD_MAX {
        let bytes = options.ping_payload.len();
        return error(format!("a ping payload of {bytes} bytes is longer than {CONTROL_PAYLOAD_MAX}"));
    }
    if options.needs_protocol && options.protocols.is_empty() {
        return error("a sub-protocol is needed and none is named".into());
    }
    let protocols = &options.protocols;
    if let Some(name) = protocols.iter().find(|name| !is_token(name)) {
        return error(format!("{name:?} is no name of a sub-protocol"));
    }
    match protocols.iter().enumerate().find(|(at, name)| protocols[..*at].contains(name)) {
        Some((_, name)) => error(format!("the sub-protocol {name:?} is named twice")),
        None => Ok(()),
    }
}

/// Why there is no such server.
///
/// ```
/// use ringhub::server::{BuildError, Server};
/// let error = Server::builder().shards(0).build().unwrap_err();
/// assert!(matches!(error, BuildError::Config(_)));
/// assert_eq!(error.to_string(), "shards: 0 is not between 1 and 256");
/// ```
#[derive(Debug)]
pub enum BuildError {
    /// Settings that cannot be.
    Config(ConfigErrors),
    /// A pattern that cannot be.
    Pattern(PatternError),
    /// Two routes for the same paths, or a route and a folder for everything below one.
    Clash(Pattern, Pattern),
    /// A route for a path of the server's own: the page's, or one that [`Builder::without_operations`] gives free.
    Own(Pattern),
    /// A path for files that is not percent-encoded UTF-8, or has two folders.
    Mount(String),
    /// A route's rules that cannot be.
    Options(Pattern, String),
    /// It cannot listen, or run here.
    Start(StartError),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BuildError::Config(error) => error.fmt(f),
            BuildError::Pattern(error) => error.fmt(f),
            BuildError::Clash(first, second) => {
                write!(f, "the routes {:?} and {:?} are for the same paths", first.as_str(), second.as_str())
            }
            BuildError::Own(pattern) => {
                write!(f, "the route {:?} is for a path of the server's own", pattern.as_str())
            }
            BuildError::Mount(path) => write!(f, "{path:?} is no path for files, or one for two folders"),
            BuildError::Options(pattern, what) => write!(f, "the route {:?}: {what}", pattern.as_str()),
            BuildError::Start(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for BuildError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            BuildError::Config(error) => Some(error),
            BuildError::Pattern(error) => Some(error),
            BuildError::Start(error) => Some(error),
            BuildError::Clash(..) | BuildError::Own(_) | BuildError::Mount(_) | BuildError::Options(..) => None,
        }
    }
}
