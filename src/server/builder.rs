//! What a server is made of, before it listens.

use std::{fmt, net::SocketAddr, sync::Arc};

use super::{Server, hub::Hub};
use crate::{
    auth::Gate,
    config::{Config, CpuList, Pin, RouteConfig, RouteHandler, RuleFault, Settings, settle},
    control::publisher::Requests,
    documents::Documents,
    endpoints::{Conflict, Endpoints, Mount},
    error::{ConfigErrors, StartError},
    handler::{Handler, Pattern, PatternError, Route, RouteOptions, Rules, TopicSpace, Typed},
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
    documents: Vec<(String, Documents, RouteOptions)>,
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

impl Server {
    /// Returns a builder of a server without routes, on 127.0.0.1:6455.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
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
        self.documents.push((path.into(), documents, options));
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
        let Builder { base, routes: given, documents, topics, mut page, operations, hub } = self;
        let config = match base {
            Base::Settings(settings) => {
                Config::new(&settings, net::raise_descriptor_limit()).map_err(BuildError::Config)?
            }
            Base::Config(config) => *config,
        };
        // Routes of handlers take no bodies, and topics have the server's own rules.
        let base = config.base_of_routes().without_bodies();
        let rules = |pattern: &Pattern, options: &RouteOptions| {
            settle(options, &base).map_err(|mut faults| {
                let RuleFault { key, what, .. } = faults.swap_remove(0);
                BuildError::Options(pattern.clone(), format!("{key}: {what}"))
            })
        };
        let mut routes = Vec::new();
        for (pattern, options, factory) in given {
            let pattern = Pattern::new(&pattern).map_err(BuildError::Pattern)?;
            let rules = rules(&pattern, &options)?;
            routes.push(Route { pattern, rules, topics: None, factory });
        }
        if topics {
            let pattern = Pattern::new(TOPIC_PATTERN).map_err(BuildError::Pattern)?;
            let rules = rules(&pattern, &RouteOptions::new())?;
            routes.push(hub_route(pattern, rules, TopicSpace::default()));
        }
        let mut mounts: Vec<Mount> = Vec::new();
        let mut mount = |path: &str, documents: Documents, gate: Gate| {
            let mount = Mount::new(path, documents, gate).filter(|new| !mounts.iter().any(|old| old.is_where(new)));
            mounts.push(mount.ok_or_else(|| BuildError::Mount(path.into()))?);
            Ok(())
        };
        for (path, documents, options) in documents {
            mount(&path, documents, options.gate)?;
        }
        let mut pages = Vec::new();
        for RouteConfig { pattern, handler, topics, rules, .. } in &config.routes {
            let (pattern, rules) = (pattern.clone(), rules.clone());
            match handler {
                RouteHandler::Hub => routes.push(hub_route(pattern, rules, topics.clone())),
                RouteHandler::Echo => {
                    let factory = Arc::new(Typed(Arc::new(Echo)));
                    routes.push(Route { pattern, rules, topics: None, factory });
                }
                RouteHandler::Page => pages.push((pattern, rules.gate)),
                RouteHandler::Files(folder) => mount(pattern.as_str(), folder.clone(), rules.gate)?,
            }
        }
        let has =
            |pattern: &str| routes.iter().any(|route| route.topics.is_some() && route.pattern.as_str() == pattern);
        if !config.routes.is_empty() && has(TOPIC_PATTERN) {
            // A file's routes say nothing of the page, which watches the topics there.
            let is_root = |route: &Route| route.pattern.as_str() == "/";
            page = pages.is_empty() && !mounts.iter().any(Mount::is_root) && !routes.iter().any(is_root);
        }
        let endpoints = Endpoints::new(routes, mounts, pages, page, operations, config.access.clone());
        let endpoints = endpoints.map_err(|conflict| match conflict {
            Conflict::Clash(first, second) => BuildError::Clash(first, second),
            Conflict::Own(pattern) => BuildError::Own(pattern),
        })?;
        Server::bind(config, endpoints, hub).map_err(BuildError::Start)
    }
}

/// A route of the hub. A topic's subscriber costs nothing beside its slot.
fn hub_route(pattern: Pattern, rules: Rules, topics: TopicSpace) -> Route {
    let rules = Rules { forgets_request: true, no_broadcast: true, ..rules };
    Route { pattern, rules, topics: Some(topics), factory: Arc::new(Typed(Arc::new(RawTopics))) }
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
