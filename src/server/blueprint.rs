//! The parts of a server's table of endpoints that are not in its settings, and the table that follows from both.

use std::{fmt, sync::Arc};

use super::{build_error::BuildError, topic_table::topic_table};
use crate::{
    auth::{Gate, PermissionSource, Revocations},
    config::{
        Config, RouteConfig, RouteHandler, RuleFault, Sources, SurfaceConfig, TopicRuleConfig, settle, settle_surface,
    },
    documents::Documents,
    endpoints::{Conflict, Endpoints, Guesses, Judge, Mount, Permissions, ServedRoute, ServedService},
    handler::{Factory, HttpService, Pattern, Route, RouteOptions, Rules, TopicSpace},
    hub::{RulesOfTopics, TopicTable},
    surface::{
        self, HandlerParts,
        batch::{BATCH_PATTERN, BATCHES},
        events::{self, EVENTS},
        raw::{RAW, TOPIC_PATTERN},
        v1::{PATTERN, V1},
    },
};

/// The parts of a table of endpoints that are not in the settings, from which each reload makes its table.
#[derive(Default)]
pub(super) struct Blueprint {
    pub(super) routes: Vec<(String, RouteOptions, Arc<dyn Factory>)>,
    pub(super) documents: Vec<(String, Documents, RouteOptions)>,
    pub(super) services: Vec<(String, RouteOptions, Arc<dyn HttpService>)>,
    /// The rules of topics that the program has, beside those of the settings.
    pub(super) topic_rules: Vec<TopicRuleConfig>,
    /// What decides about topics whose rule asks the application.
    pub(super) source: Option<Arc<dyn PermissionSource>>,
    /// The rules of topics in force, for the shards. The judge has those of its table.
    pub(super) rules: RulesOfTopics,
    pub(super) serves_topics: bool,
    pub(super) serves_page: bool,
    pub(super) serves_operations: bool,
    /// The judge that handlers of surfaces ask.
    pub(super) judge: Judge,
    /// The revocations of the server, which all its tables share.
    pub(super) revocations: Revocations,
    /// The addresses whose credentials are refused, which all tables of the server share.
    pub(super) guesses: Guesses,
}

impl fmt::Debug for Blueprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blueprint").field("routes", &self.routes.len()).finish_non_exhaustive()
    }
}

impl Blueprint {
    /// Makes the table of endpoints for these settings, with the table of rules by which it judges. The caller puts the
    /// table of rules into `rules` too.
    ///
    /// # Errors
    ///
    /// See [`BuildError`].
    pub(super) fn endpoints(&self, config: &Config) -> Result<(Endpoints, Arc<TopicTable>), BuildError> {
        let mut table = Table { judge: self.judge.clone(), ..Table::default() };
        for (pattern, options, factory) in &self.routes {
            let pattern = Pattern::new(pattern).map_err(BuildError::Pattern)?;
            let rules = settled(&pattern, settle(options, Sources::WebSockets, &config.base_of_routes()))?;
            table.routes.push(Route { pattern, rules, topics: None, factory: Arc::clone(factory) }.into());
        }
        if self.serves_topics {
            let mut options = RouteOptions::new();
            if config.routes.is_empty() {
                options.gate.authenticator = config.authenticator_of_topics();
            }
            for (surface, path) in
                [(&RAW, TOPIC_PATTERN), (&V1, PATTERN), (&EVENTS, events::PATTERN), (&BATCHES, BATCH_PATTERN)]
            {
                let pattern = Pattern::new(path).map_err(BuildError::Pattern)?;
                // A program that has its own endpoint there keeps it.
                if path != TOPIC_PATTERN && self.has_own_at(&pattern, config) {
                    continue;
                }
                let rules = settle_surface(surface, &options, &config.base_of_routes());
                let rules = settled(&pattern, rules)?;
                table.add_surface(&SurfaceConfig::without_values(surface), pattern, rules, TopicSpace::default())?;
            }
        }
        for (path, documents, options) in &self.documents {
            table.mount(path, documents.clone(), options.gate.clone())?;
        }
        for (pattern, options, service) in &self.services {
            let pattern = Pattern::new(pattern).map_err(BuildError::Pattern)?;
            let rules = settled(&pattern, settle(options, Sources::WebSocketsAndBodies, &config.base_of_routes()))?;
            let body_bytes_max = rules.limits.message_bytes_max;
            let service = Arc::clone(service);
            let served = ServedService {
                gate: rules.gate,
                body_bytes_max,
                answer_timeout: options.answer_timeout.unwrap_or(ServedService::ANSWER_TIMEOUT),
                takes_encoded_slashes: options.takes_encoded_slashes,
                service,
            };
            table.services.push((pattern, served));
        }
        for route in &config.routes {
            table.add(route)?;
        }
        let mut serves_page = self.serves_page;
        if !config.routes.is_empty() && table.serves_topics() {
            // The routes of a file need not name the page. If topics are at their usual path and `/` is free, the page
            // is at `/`.
            serves_page = table.is_root_free();
        }
        let Table { routes, mounts, pages, services, .. } = table;
        let own = (serves_page, self.serves_operations);
        let endpoints = Endpoints::with_services(routes, mounts, pages, services, own, config.access.clone());
        let endpoints = endpoints.map_err(|conflict| match conflict {
            Conflict::Clash(first, second) => BuildError::Clash(first, second),
            Conflict::Own(pattern) => BuildError::Own(pattern),
            Conflict::Method(pattern, method) => BuildError::Method(pattern, method),
        })?;
        // The application that is asked at connect is asked about topics too, unless the embedder has another source.
        let application = || config.callback.clone().map(|callback| Arc::new(callback) as _);
        let source = self.source.clone().or_else(application);
        let topics = Arc::new(topic_table(
            self.topic_rules.iter().chain(&config.topics),
            source.is_some(),
            config.limits.message.message_bytes_max,
        )?);
        let permissions = Permissions::new(Arc::clone(&topics), source);
        let guesses = self.guesses.with_rate(config.limits.arrival_rates.guesses, config.trusted_proxies.clone());
        let endpoints = endpoints.with_wait_max(config.handshake_timeout).with_permissions(permissions);
        let endpoints = endpoints.with_client_files();
        let endpoints = endpoints.with_guesses(guesses);
        Ok((endpoints.with_revocations(self.revocations.clone()), topics))
    }
}

impl Blueprint {
    /// Returns whether the program or the settings have an endpoint of their own at a path without parameters. Files
    /// count only if their folder is at this path.
    fn has_own_at(&self, pattern: &Pattern, config: &Config) -> bool {
        let of_routes = self.routes.iter().map(|(path, ..)| path);
        let of_services = self.services.iter().map(|(path, ..)| path);
        let mut own = of_routes.chain(of_services);
        let mut folders = self.documents.iter().map(|(path, ..)| path);
        own.any(|path| Pattern::new(path).is_ok_and(|own| own.parameters(pattern.as_str()).is_some()))
            || folders.any(|path| Pattern::new(path).is_ok_and(|own| own.clashes_with(pattern)))
            || config.routes.iter().any(|route| route.pattern.clashes_with(pattern))
    }
}

/// Checks the rules of topics in these settings, for a server without rules and without a source of permissions of its
/// own.
///
/// # Errors
///
/// [`BuildError::TopicRules`], or [`BuildError::NoPermissionSource`] if a rule asks the application and the settings do
/// not say where it is.
pub fn check_topics(config: &Config) -> Result<(), BuildError> {
    let message_bytes_max = config.limits.message.message_bytes_max;
    Ok(topic_table(config.topics.iter(), config.callback.is_some(), message_bytes_max).map(drop)?)
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
        let (values, encodings) = (Arc::clone(values), &surface::encodings());
        let parts = HandlerParts { values, judge: self.judge.clone(), encodings };
        let route = surface.route(pattern, rules, topics, &parts);
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
