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

use super::{Server, blueprint::Blueprint, build_error::BuildError, hub::Hub};
use crate::{
    access_log::{self, AccessLog, Sink},
    auth::PermissionSource,
    config::{AccessLogFormat, Config, CpuList, ListenAddress, Pin, Settings, TopicRuleConfig},
    control::publisher::Requests,
    current::Current,
    documents::Documents,
    endpoints::{Guesses, Judge},
    error::Origin,
    handler::{Handler, HttpBody, HttpService, OfTower, RouteOptions, Typed},
    hub::{RulesOfTopics, TopicRule},
    outbound::Outbound,
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

    /// Serves all paths that match the pattern by a handler. See [`Pattern`](crate::handler::Pattern).
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

    /// Serves topics at `/t/{topic}`, by WebSocket and by POST, and the subprotocol `ringhub.v1` at `/ws`, unless the
    /// program or the settings have an endpoint of their own there. The server of the command line does the same if its
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
    /// A service at `/api/{rest...}` also has the path `/api`, so that its authenticator stands before that path too. A
    /// path with an encoded slash (`%2F`) in a segment is answered 400 unless
    /// [`RouteOptions::encoded_slashes`](crate::handler::RouteOptions::encoded_slashes).
    ///
    /// The service is called on the one thread that serves all HTTP connections, so it must not block. It has 30 s
    /// until its answer begins, or [`RouteOptions::answer_timeout`](crate::handler::RouteOptions::answer_timeout);
    /// beyond that the request is answered 504. The connection counts as one of `max_http_connections` meanwhile, and
    /// the body as one of `max_bodies` until the service has taken it. The call also ends when the client resets its
    /// connection. A client that has only ended its side still gets the answer. Half of `max_http_connections` may wait
    /// for services, and of these one address as many as it leaves to others; beyond that a request is answered 503.
    ///
    /// The body of an answer, such as an event stream, has no end that the server sets: neither a revocation nor the
    /// expiry of the sender's token ends it. A service that streams to an identity has to look after both itself.
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

    /// Leaves out `/healthz`, `/readyz`, `/metrics`, `/debug/top`, and the administration at `/connections`,
    /// `/topics` and `/revocations`.
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
        let Builder { base, routes, documents, services, serves_topics, serves_page, serves_operations, .. } = self;
        let Builder { topic_rules, source, inherited, access_sink, hub, outbound, .. } = self;
        let config = match base {
            Base::Settings(settings) => {
                let descriptors = net::raise_descriptor_limit();
                let config = Config::with_folders(&settings, descriptors, documents.len(), outbound.clone());
                config.map_err(BuildError::Config)?
            }
            Base::Config(config) => *config,
        };
        let revocations = hub.0.revocations.clone();
        revocations.set_max(config.limits.revocations_max);
        let judge = Judge::default();
        let blueprint = Blueprint {
            routes,
            documents,
            services,
            topic_rules,
            source,
            rules: RulesOfTopics::default(),
            serves_topics,
            serves_page,
            serves_operations,
            judge,
            revocations,
            guesses: Guesses::default(),
        };
        let (endpoints, topics) = blueprint.endpoints(&config)?;
        blueprint.rules.replace(topics);
        let endpoints = Current::new(endpoints);
        blueprint.judge.decide_by(&endpoints);
        let access_log = match config.access_log {
            AccessLogFormat::Off => AccessLog::off(),
            AccessLogFormat::Json => {
                let sink = access_sink.unwrap_or_else(|| Arc::new(access_log::trace));
                AccessLog::new(sink, config.access_log_sample)
            }
        };
        let bound = Server::bind(config, inherited, endpoints, blueprint, hub, outbound);
        let server = bound.map_err(BuildError::Start)?;
        Ok(Server { access_log, ..server })
    }
}
