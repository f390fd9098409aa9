//! Routes: the tables of a file that say what is served where.

mod people;
mod reader;
mod rules;

use std::{collections::BTreeMap, fmt};

use toml::{Spanned, de::DeValue};

pub(super) use self::people::{NETWORK, Whom};
use self::reader::Reader;
pub(crate) use self::rules::{Base, RuleFault, settle};
use super::file::TomlFile;
use crate::{
    auth::{Gate, Origins},
    documents::Documents,
    endpoints::OPERATIONS,
    error::{ConfigError, Origin},
    handler::{Pattern, RouteOptions, Rules, TopicSpace},
};

/// What is served at a path, and under which rules.
#[derive(Clone)]
pub struct RouteConfig {
    /// The paths: fixed segments, `{name}` for one segment, `{name...}` for the rest. Files are served at it and below.
    pub pattern: Pattern,
    /// Who answers.
    pub handler: RouteHandler,
    /// Of the hub: which topics it leads to.
    pub(crate) topics: TopicSpace,
    /// Its rules, with the server's where it has none of its own.
    pub rules: Rules,
    /// What it asks of those whom it lets in.
    pub(super) whom: Whom,
    /// Where it stands.
    pub origin: Origin,
}

/// Who answers at a route.
#[derive(Debug, Clone)]
pub enum RouteHandler {
    /// The hub: the topic is the pattern's `{topic}` or `{topic...}`.
    Hub,
    /// Every message goes back to who has sent it.
    Echo,
    /// The files of a folder, to plain HTTP.
    Files(Documents),
    /// The page that watches topics, to plain HTTP.
    Page,
}

/// By its name in a file.
impl fmt::Display for RouteHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RouteHandler::Hub => "hub",
            RouteHandler::Echo => "echo",
            RouteHandler::Files(_) => "files",
            RouteHandler::Page => "page",
        })
    }
}

impl RouteConfig {
    /// May everybody who reaches it open it?
    #[must_use]
    pub fn is_open(&self) -> bool {
        let Gate { origins, authenticator } = &self.rules.gate;
        authenticator.is_none() && origins.as_ref().is_none_or(Origins::are_any)
    }
}

impl fmt::Debug for RouteConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteConfig")
            .field("pattern", &self.pattern)
            .field("handler", &self.handler)
            .field("is_authenticated", &self.rules.gate.authenticator.is_some())
            .finish_non_exhaustive()
    }
}

/// The key of a file that has the routes.
pub(super) const ROUTES: &str = "routes";

/// A route as the file gives it, each value of the right type.
#[derive(Debug)]
pub(super) struct GivenRoute {
    pattern: Pattern,
    handler: RouteHandler,
    topics: TopicSpace,
    options: RouteOptions,
    whom: Whom,
    origin: Origin,
    /// Where the values of each of its keys stand.
    origins: BTreeMap<&'static str, Vec<Origin>>,
    /// For people: its keys and values, those of secrets masked.
    pub(super) shown: String,
}

impl GivenRoute {
    /// Checks its rules against the server's own settings, which come from there.
    ///
    /// # Errors
    ///
    /// Everything that is wrong.
    pub(super) fn settle(&self, base: &Base, from: impl Fn(&str) -> Origin) -> Result<RouteConfig, Vec<ConfigError>> {
        let base = match self.handler {
            RouteHandler::Hub => base.clone(),
            RouteHandler::Echo | RouteHandler::Files(_) | RouteHandler::Page => base.clone().without_bodies(),
        };
        let rules = settle(&self.options, &base);
        let rules = rules.map_err(|faults| {
            let located = faults.into_iter().map(|RuleFault { key, item, what, against }| {
                let origins = self.origins.get(key);
                let origin = origins.and_then(|origins| origins.get(item).or(origins.first())).unwrap_or(&self.origin);
                let error = ConfigError::of(qualified(key), what).from(origin.clone());
                match against {
                    Some(setting) => error.against_one(setting, from(setting)),
                    None => error,
                }
            });
            located.collect::<Vec<_>>()
        })?;
        let GivenRoute { pattern, handler, topics, whom, origin, .. } = self;
        let (pattern, handler, topics) = (pattern.clone(), handler.clone(), topics.clone());
        Ok(RouteConfig { pattern, handler, topics, rules, whom: whom.clone(), origin: origin.clone() })
    }

    /// The paths at which it alone is: of files those below theirs.
    fn served(&self) -> Pattern {
        let below = matches!(self.handler, RouteHandler::Files(_)).then(|| self.pattern.below()).flatten();
        below.unwrap_or_else(|| self.pattern.clone())
    }

    /// Where it stands.
    pub(super) fn origin(&self) -> &Origin {
        &self.origin
    }
}

/// What an error calls a rule.
fn qualified(key: &'static str) -> &'static str {
    match key {
        "max_message" => "routes.max_message",
        "max_frame" => "routes.max_frame",
        "max_fragments" => "routes.max_fragments",
        "ping_payload" => "routes.ping_payload",
        "protocols" => "routes.protocols",
        _ => ROUTES,
    }
}

/// Reads the routes of a file.
pub(super) fn read(file: &TomlFile, value: &Spanned<DeValue<'_>>, errors: &mut Vec<ConfigError>) -> Vec<GivenRoute> {
    let tables = match value.get_ref() {
        DeValue::Array(tables) => &tables[..],
        other => {
            let what = format!("tables are expected, each under [[{ROUTES}]], not this {}", other.type_str());
            errors.push(ConfigError::of(ROUTES, what).from(file.origin(value.span().start)));
            return Vec::new();
        }
    };
    let mut routes: Vec<GivenRoute> = Vec::new();
    for table in tables {
        let origin = file.origin(table.span().start);
        let DeValue::Table(keys) = table.get_ref() else {
            let what = format!("a table is expected, not this {}", table.get_ref().type_str());
            errors.push(ConfigError::of(ROUTES, what).from(origin));
            continue;
        };
        let Some(route) = Reader { file, errors }.route(keys, origin) else { continue };
        let is_here = |path: &str| Pattern::new(path).is_ok_and(|own| own.clashes_with(&route.served()));
        if let Some((path, _)) = OPERATIONS.into_iter().find(|(path, _)| is_here(path)) {
            let what = format!("{path} is the server's own, for whoever operates it");
            errors.push(ConfigError::of("routes.match", what).from(route.origin.clone()));
        }
        if let Some(same) = routes.iter().find(|other| other.served().clashes_with(&route.served())) {
            let what = format!("{:?} is there already, at {}", route.pattern.as_str(), same.origin());
            errors.push(ConfigError::of("routes.match", what).from(route.origin.clone()));
        }
        routes.push(route);
    }
    routes
}
