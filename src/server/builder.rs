//! Builds a server from its settings and its routes, before it listens.

use std::{
    fmt,
    net::{SocketAddr, TcpListener},
    panic::Location,
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use hyper::{Request, Response, body::Body};
use tower_service::Service;

use super::{
    Server,
    hub::Hub,
    topic_table::{TopicConflict, topic_table},
};
use crate::{
    access_log::{self, AccessLog, Sink},
    auth::{Gate, PermissionSource},
    config::{
        AccessLogFormat, Config, CpuList, ListenAddress, Pin, RouteConfig, RouteHandler, RuleFault, Settings, Sources,
        SurfaceConfig, TopicRuleConfig, settle, settle_surface,
    },
    control::publisher::Requests,
    current::Current,
    documents::Documents,
    endpoints::{Conflict, Endpoints, Judge, Mount, Permissions, ServedRoute, ServedService},
    error::{ConfigErrors, Origin, StartError},
    handler::{
        Handler, HttpBody, HttpService, OfTower, Pattern, PatternError, Route, RouteOptions, Rules, TopicSpace, Typed,
    },
    hub::{RulesOfTopics, TopicPattern, TopicRule},
    outbound::Outbound,
    surface::raw::{RAW, TOPIC_PATTERN},
    sys::net,
};

/// Builds a [`Server`]: its addresses, its shards, its limits, and the handlers of its paths.
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
pub struct Builder {
    base: Base,
    routes: Vec<(String, RouteOptions, Arc<dyn crate::handler::Factory>)>,
    documents: Vec<(String, Documents, RouteOptions)>,
    services: Vec<(String, RouteOptions, Arc<dyn HttpService>)>,
    /// Whether topics are served at their usual path.
    serves_topics: bool,
    /// Whether the page that watches topics is served at `/`.
    serves_page: bool,
    serves_operations: bool,
    topic_rules: Vec<TopicRuleConfig>,
    source: Option<Arc<dyn PermissionSource>>,
    /// Listeners that another process has opened.
    inherited: Vec<TcpListener>,
    access_sink: Option<Sink>,
    hub: (Hub, Requests),
    outbound: Outbound,
}

#[derive(Debug)]
enum Base {
    Settings(Box<Settings>),
    Config(Box<Config>),
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("base", &self.base).field("routes", &self.routes.len()).finish_non_exhaustive()
    }
}

impl Default for Builder {
    fn default() -> Self {
        Builder {
            base: Base::Settings(Box::default()),
            routes: Vec::new(),
            documents: Vec::new(),
            services: Vec::new(),
            serves_topics: false,
            serves_page: false,
            serves_operations: true,
            topic_rules: Vec::new(),
            source: None,
            inherited: Vec::new(),
            access_sink: None,
            hub: Hub::new(),
            outbound: Outbound::default(),
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
    /// Changes settings. The command line of the server has the same settings.
    ///
    /// # Panics
    ///
    /// If [`Builder::config`] was called before, since its settings have been checked already. [`Builder::listen`],
    /// [`Builder::shards`], [`Builder::cpus`] and [`Builder::pin`] panic then too.
    #[must_use]
    pub fn settings(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        match &mut self.base {
            Base::Settings(settings) => change(settings),
            Base::Config(_) => panic!("settings were checked when the configuration was made"),
        }
        self
    }

    /// Replaces all settings by the checked settings of `config`, and adds the routes of their file.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.base = Base::Config(Box::new(config));
        self
    }

    /// Listens on these addresses, instead of 127.0.0.1:6455. Port 0 takes a free port.
    #[must_use]
    pub fn listen(self, addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        let addresses = addresses.into_iter().map(ListenAddress::Socket).collect();
        self.settings(|settings| settings.listen = addresses)
    }

    /// Serves on listeners that another process, such as a service manager, has opened. The server then opens no
    /// listeners for the addresses of the settings. Each shard accepts on each address. If an address has fewer
    /// listeners than there are shards, shards share a listener.
    ///
    /// When the server leaves, it does not shut these listeners down. New connections wait in the queues of the
    /// listeners until the next server with the same listeners accepts them. The leaving server still serves opening
    /// requests on sockets that it has accepted before, for a second at most. A leaving server with listeners of its
    /// own refuses such requests.
    ///
    /// The warnings about addresses, and [`Config::descriptors`], follow from the addresses of the settings. So call
    /// [`Builder::listen`] too, with the addresses of these listeners.
    #[must_use]
    pub fn listeners(mut self, listeners: impl IntoIterator<Item = TcpListener>) -> Self {
        self.inherited.extend(listeners);
        self
    }

    /// Serves on a listener that the embedder has opened, as [`Builder::listeners`] does. All shards accept on it.
    #[must_use]
    pub fn listener(self, listener: TcpListener) -> Self {
        self.listeners([listener])
    }

    /// Sets the number of shards, 1 to 256. The default is one for each CPU, or fewer under a cgroup quota of CPUs.
    #[must_use]
    pub fn shards(self, count: usize) -> Self {
        self.settings(|settings| settings.shards = Some(count))
    }

    /// Runs the shards on these CPUs: the first shard on the CPU with the lowest number, the second shard on the next
    /// CPU, and so on. After the last CPU the first one is used again.
    #[must_use]
    pub fn cpus(self, cpus: impl IntoIterator<Item = usize>) -> Self {
        let mut cpus: Vec<usize> = cpus.into_iter().collect();
        cpus.sort_unstable();
        cpus.dedup();
        self.settings(|settings| settings.cpus = Some(CpuList(cpus)))
    }

    /// Sets whether each shard stays on its CPU.
    #[must_use]
    pub fn pin(self, pin: Pin) -> Self {
        self.settings(|settings| settings.pin = pin)
    }

    /// Serves all paths that match the pattern by a handler. See [`Pattern`].
    #[must_use]
    pub fn route(self, pattern: &str, handler: impl Handler) -> Self {
        self.route_with(pattern, handler, RouteOptions::new())
    }

    /// Serves all paths that match the pattern by a handler, with rules for this route.
    #[must_use]
    pub fn route_with(mut self, pattern: &str, handler: impl Handler, options: RouteOptions) -> Self {
        self.routes.push((pattern.into(), options, Arc::new(Typed(Arc::new(handler)))));
        self
    }

    /// Serves topics at `/t/{topic}`, by WebSocket and by POST. The server of the command line does the same if its
    /// settings have no routes.
    #[must_use]
    pub fn topics(mut self) -> Self {
        self.serves_topics = true;
        self
    }

    /// Serves the page at `/`, which watches topics.
    #[must_use]
    pub fn page(mut self) -> Self {
        self.serves_page = true;
        self
    }

    /// Serves the files of a folder to plain HTTP, at a path and below it.
    #[must_use]
    pub fn documents(self, path: &str, documents: Documents) -> Self {
        self.documents_with(path, documents, RouteOptions::new())
    }

    /// Serves the files of a folder like [`Builder::documents`]. The origins and the authenticator of `options` decide
    /// which requests get the files.
    #[must_use]
    pub fn documents_with(mut self, path: &str, documents: Documents, options: RouteOptions) -> Self {
        self.documents.push((path.into(), documents, options));
        self
    }

    /// Adds a rule of topics: who may use them. The rules of a settings' file hold in addition; a pattern may have one
    /// rule only.
    ///
    /// ```
    /// use ringhub::{Permission, Server, TopicRule};
    /// let orders = TopicRule::new(["orders/*".parse()?]).subscribe(Permission::Granted).publish(Permission::Nobody);
    /// let builder = Server::builder().topics().topic_rule(orders);
    /// # Ok::<(), ringhub::TopicPatternError>(())
    /// ```
    #[must_use]
    #[track_caller]
    pub fn topic_rule(mut self, rule: TopicRule) -> Self {
        let place = Location::caller();
        let origin = Origin::File(Path::new(place.file()).into(), place.line() as usize);
        self.topic_rules.push(TopicRuleConfig { rule, origin });
        self
    }

    /// Lets a source decide about the topics whose rule is [`Permission::Callback`](crate::Permission::Callback).
    #[must_use]
    pub fn permission_source(mut self, source: impl PermissionSource) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// Serves all HTTP requests at the paths of a pattern by a service of tower, such as a `Router` of axum. See
    /// [`Builder::http_with`].
    ///
    /// ```
    /// use axum::{Router, routing::get};
    /// use ringhub::Server;
    ///
    /// let rest = Router::new().route("/api/time", get(async || "now"));
    /// let builder = Server::builder().http("/api/{rest...}", rest).topics();
    /// ```
    #[must_use]
    pub fn http<S, B>(self, pattern: &str, service: S) -> Self
    where
        S: Service<Request<HttpBody>, Response = Response<B>> + Clone + Send + 'static,
        S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
        S::Future: Send,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.http_with(pattern, service, RouteOptions::new())
    }

    /// Serves HTTP requests like [`Builder::http`], with rules: the origins and the authenticator of `options` decide
    /// which requests reach the service, and its largest message is the largest body.
    ///
    /// The service gets every method, HEAD and OPTIONS too, and the whole path. The control thread has read the body
    /// before, within the limits of bodies in bytes, memory and time. A
    /// [`RequestSender`](crate::handler::RequestSender) is among the extensions of the request. The body of the answer
    /// may come piece by piece. A panic of the service, and its error, are answered 500. A preflight of a browser has
    /// no credentials, so the server answers it where there is an authenticator. A request for a WebSocket is answered
    /// 404: a service opens none.
    ///
    /// The service is called on the one thread that serves all HTTP connections, so it must not block. It has as much
    /// time for its answer as it likes; the connection counts as one of `max_http_connections` meanwhile.
    #[must_use]
    pub fn http_with<S, B>(mut self, pattern: &str, service: S, options: RouteOptions) -> Self
    where
        S: Service<Request<HttpBody>, Response = Response<B>> + Clone + Send + 'static,
        S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
        S::Future: Send,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.services.push((pattern.into(), options, Arc::new(OfTower::new(service))));
        self
    }

    /// Leaves out `/healthz`, `/readyz`, `/metrics`, `/debug/top`, and the administration at `/connections` and
    /// `/revocations`.
    #[must_use]
    pub fn without_operations(mut self) -> Self {
        self.serves_operations = false;
        self
    }

    /// Gives the lines of the access log to a function, if the setting `access_log` is on. Otherwise they are events of
    /// `tracing` with the target `ringhub::access_log` and the level `INFO`. Each line is an object of JSON without the
    /// end of the line.
    ///
    /// The function is called on the threads of shards and on the control thread, so it must not wait.
    #[must_use]
    pub fn access_log(mut self, sink: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.access_sink = Some(Arc::new(sink));
        self
    }

    /// Returns the handle to all connections that the server will have. Handlers that act on other connections need it.
    /// Before the server has started, a publication waits for the start, and every other call finds no connection.
    ///
    /// ```
    /// use ringhub::{Connection, Handler, Hub, Message, Publication, Server};
    ///
    /// struct Announcer(Hub);
    ///
    /// impl Handler for Announcer {
    ///     type State = ();
    ///
    ///     fn on_message(&self, connection: &mut Connection<'_, ()>, message: Message<'_>) {
    ///         let (hub, news) = (self.0.clone(), Publication::from(message));
    ///         connection.spawn(async move |_| _ = hub.send_all(news).await);
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

    /// Returns the way by which requests of the server leave it, for authenticators that ask another server. Its
    /// targets have to be made before [`Server::start`].
    #[must_use]
    pub fn outbound(&self) -> Outbound {
        self.outbound.clone()
    }

    /// Checks everything, then listens. Connections are accepted from [`Server::start`] on.
    ///
    /// # Errors
    ///
    /// See [`BuildError`].
    pub fn build(self) -> Result<Server, BuildError> {
        let Builder { base, routes, documents, services, serves_topics, mut serves_page, serves_operations, .. } = self;
        let Builder { topic_rules, source, inherited, access_sink, hub, outbound, .. } = self;
        let config = match base {
            Base::Settings(settings) => {
                let descriptors = net::raise_descriptor_limit();
                let config = Config::with_folders(&settings, descriptors, documents.len(), outbound.clone());
                config.map_err(BuildError::Config)?
            }
            Base::Config(config) => *config,
        };
        let mut table = Table::default();
        for (pattern, options, factory) in routes {
            let pattern = Pattern::new(&pattern).map_err(BuildError::Pattern)?;
            let rules = settled(&pattern, settle(&options, Sources::WebSockets, &config.base_of_routes()))?;
            table.routes.push(Route { pattern, rules, topics: None, factory }.into());
        }
        if serves_topics {
            let pattern = Pattern::new(TOPIC_PATTERN).map_err(BuildError::Pattern)?;
            let mut options = RouteOptions::new();
            if config.routes.is_empty() {
                options.gate.authenticator = config.authenticator_of_topics();
            }
            let rules = settle_surface(&RAW, &options, &config.base_of_routes());
            let rules = settled(&pattern, rules)?;
            table.add_surface(&SurfaceConfig::without_values(&RAW), pattern, rules, TopicSpace::default())?;
        }
        for (path, documents, options) in documents {
            table.mount(&path, documents, options.gate)?;
        }
        for (pattern, options, service) in services {
            let pattern = Pattern::new(&pattern).map_err(BuildError::Pattern)?;
            let rules = settled(&pattern, settle(&options, Sources::WebSocketsAndBodies, &config.base_of_routes()))?;
            let body_bytes_max = rules.limits.message_bytes_max;
            table.services.push((pattern, ServedService { gate: rules.gate, body_bytes_max, service }));
        }
        for route in &config.routes {
            table.add(route)?;
        }
        if !config.routes.is_empty() && table.serves_topics() {
            // The routes of a file need not name the page. If topics are at their usual path and `/` is free, the page
            // is at `/`.
            serves_page = table.is_root_free();
        }
        let Table { routes, mounts, pages, services, judge } = table;
        let own = (serves_page, serves_operations);
        let endpoints = Endpoints::with_services(routes, mounts, pages, services, own, config.access.clone());
        let endpoints = endpoints.map_err(|conflict| match conflict {
            Conflict::Clash(first, second) => BuildError::Clash(first, second),
            Conflict::Own(pattern) => BuildError::Own(pattern),
            Conflict::Method(pattern, method) => BuildError::Method(pattern, method),
        })?;
        hub.0.revocations.set_max(config.limits.revocations_max);
        // The application that is asked at connect is asked about topics too, unless the embedder has another source.
        let source = source.or_else(|| config.callback.clone().map(|callback| Arc::new(callback) as _));
        let rules = topic_table(topic_rules.iter().chain(&config.topics), source.is_some())?;
        let permissions = Permissions::new(RulesOfTopics::of_table(rules), source);
        let endpoints = endpoints.with_wait_max(config.handshake_timeout).with_permissions(permissions);
        let endpoints = Current::new(endpoints.with_revocations(hub.0.revocations.clone()));
        judge.decide_by(&endpoints);
        let access_log = match config.access_log {
            AccessLogFormat::Off => AccessLog::off(),
            AccessLogFormat::Json => {
                let sink = access_sink.unwrap_or_else(|| Arc::new(access_log::trace));
                AccessLog::new(sink, config.access_log_sample)
            }
        };
        let server = Server::bind(config, inherited, endpoints, hub, outbound).map_err(BuildError::Start)?;
        Ok(Server { access_log, ..server })
    }
}

/// Returns the rules of an embedder's route, or the error that names all their faults.
fn settled(pattern: &Pattern, rules: Result<Rules, Vec<RuleFault>>) -> Result<Rules, BuildError> {
    rules.map_err(|faults| {
        let faults = faults.into_iter().map(|RuleFault { key, what, .. }| format!("{key}: {what}"));
        BuildError::Options(pattern.clone(), faults.collect::<Vec<_>>().join("; "))
    })
}

/// The routes, folders and pages of a server.
#[derive(Default)]
struct Table {
    routes: Vec<ServedRoute>,
    mounts: Vec<Mount>,
    pages: Vec<(Pattern, Gate)>,
    services: Vec<(Pattern, ServedService)>,
    /// The judge that handlers of surfaces ask.
    judge: Judge,
}

impl Table {
    /// Adds a route of the settings' file.
    fn add(&mut self, route: &RouteConfig) -> Result<(), BuildError> {
        let RouteConfig { pattern, handler, topics, rules, .. } = route;
        let (pattern, rules) = (pattern.clone(), rules.clone());
        match handler {
            RouteHandler::Surface(surface) => self.add_surface(surface, pattern, rules, topics.clone())?,
            RouteHandler::Page => self.pages.push((pattern, rules.gate)),
            RouteHandler::Files(folder) => self.mount(pattern.as_str(), folder.clone(), rules.gate)?,
        }
        Ok(())
    }

    fn add_surface(
        &mut self,
        config: &SurfaceConfig,
        pattern: Pattern,
        rules: Rules,
        topics: TopicSpace,
    ) -> Result<(), BuildError> {
        let SurfaceConfig { surface, values } = config;
        let route = surface.route(pattern, rules, topics, Arc::clone(values), &self.judge);
        self.routes.push(route.map_err(BuildError::Pattern)?);
        Ok(())
    }

    fn mount(&mut self, path: &str, documents: Documents, gate: Gate) -> Result<(), BuildError> {
        let mount = Mount::new(path, documents, gate).filter(|new| !self.mounts.iter().any(|old| old.is_where(new)));
        self.mounts.push(mount.ok_or_else(|| BuildError::Mount(path.into()))?);
        Ok(())
    }

    /// Returns whether a route with topics has the usual path of topics.
    fn serves_topics(&self) -> bool {
        let is_usual = |route: &Route| route.topics.is_some() && route.pattern.as_str() == TOPIC_PATTERN;
        self.routes.iter().any(|served| is_usual(&served.route))
    }

    /// Returns whether nothing is at `/`, and no page is at another path.
    fn is_root_free(&self) -> bool {
        let is_root = |served: &ServedRoute| served.paths.iter().any(|path| path.pattern.as_str() == "/");
        let is_service_root = self.services.iter().any(|(pattern, _)| pattern.as_str() == "/");
        self.pages.is_empty()
            && !is_service_root
            && !self.mounts.iter().any(Mount::is_root)
            && !self.routes.iter().any(is_root)
    }
}

/// The reason for which a server cannot be built.
///
/// ```
/// use ringhub::server::{BuildError, Server};
/// let error = Server::builder().shards(0).build().unwrap_err();
/// assert!(matches!(error, BuildError::Config(_)));
/// assert_eq!(error.to_string(), "shards: 0 is not between 1 and 256");
/// ```
#[derive(Debug)]
pub enum BuildError {
    /// Settings that are wrong.
    Config(ConfigErrors),
    /// A malformed pattern.
    Pattern(PatternError),
    /// Two routes are for the same paths, or a route and a folder are for all paths below a path.
    Clash(Pattern, Pattern),
    /// A route is for a path that the server itself uses: the path of the page, or a path that
    /// [`Builder::without_operations`] frees.
    Own(Pattern),
    /// Two HTTP endpoints at the same paths have this method, or one has OPTIONS, which the server itself answers.
    Method(Pattern, &'static str),
    /// A path for files that is malformed, has parameters, or has two folders.
    Mount(String),
    /// All wrong rules of a route, each with its key.
    Options(Pattern, String),
    /// Two rules of topics have this pattern, at these places.
    TopicRules(TopicPattern, Origin, Origin),
    /// The rule of topics at that place asks a source of permissions, and the server has none.
    NoPermissionSource(TopicPattern, Origin),
    /// An address cannot be listened on, a listener cannot be used, or the kernel lacks an operation.
    Start(StartError),
}

impl From<TopicConflict> for BuildError {
    fn from(conflict: TopicConflict) -> Self {
        match conflict {
            TopicConflict::Clash(pattern, first, second) => BuildError::TopicRules(pattern, first, second),
            TopicConflict::NoSource(pattern, origin) => BuildError::NoPermissionSource(pattern, origin),
        }
    }
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
            BuildError::Method(pattern, method) => {
                write!(f, "the route {:?} has more than one answer to {method}", pattern.as_str())
            }
            BuildError::Mount(path) => write!(f, "{path:?} is no path for files, or two folders are at this path"),
            BuildError::Options(pattern, what) => write!(f, "the route {:?}: {what}", pattern.as_str()),
            BuildError::TopicRules(pattern, first, second) => {
                write!(f, "{second}: the topics {:?} have a rule already, at {first}", pattern.to_string())
            }
            BuildError::NoPermissionSource(pattern, origin) => write!(
                f,
                "{origin}: the rule of the topics {:?} asks the application (callback), and nothing says how: set \
                 callback_url or Builder::permission_source",
                pattern.to_string()
            ),
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
            BuildError::Clash(..)
            | BuildError::Own(_)
            | BuildError::Method(..)
            | BuildError::Mount(_)
            | BuildError::TopicRules(..)
            | BuildError::NoPermissionSource(..)
            | BuildError::Options(..) => None,
        }
    }
}
