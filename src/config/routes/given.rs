//! Routes of a file, before their rules are settled.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    admission::Admission,
    config::{RouteConfig, RouteHandler},
    rules::{Base, RuleFault, Sources, settle, settle_surface},
};
use crate::{
    auth::together,
    error::{ConfigError, Origin},
    handler::{Pattern, RouteOptions, TopicSpace},
};

/// The key of a file that has the routes.
pub(in crate::config) const ROUTES: &str = "routes";

/// A route of a file, each value of the right type.
#[derive(Debug)]
pub(in crate::config) struct GivenRoute {
    pub(super) pattern: Pattern,
    pub(super) handler: RouteHandler,
    pub(super) topics: TopicSpace,
    pub(super) options: RouteOptions,
    pub(super) admission: Admission,
    /// The place of `callback = true`: the application is asked, in addition to the authenticators of the options.
    pub(super) callback: Option<Origin>,
    pub(super) origin: Origin,
    /// The places of the values of each key.
    pub(super) origins: BTreeMap<&'static str, Vec<Origin>>,
    /// The keys and values as they are shown, those of secrets masked.
    pub(in crate::config) shown: String,
}

impl GivenRoute {
    /// Checks the rules against the server's own settings, whose sources `from` returns.
    ///
    /// # Errors
    ///
    /// All faults of the rules.
    pub(in crate::config) fn settle(
        &self,
        base: &Base,
        from: impl Fn(&str) -> Origin,
    ) -> Result<RouteConfig, Vec<ConfigError>> {
        let rules = match &self.handler {
            RouteHandler::Surface(config) => settle_surface(config.surface, &self.options, base),
            RouteHandler::Files(_) | RouteHandler::Page => settle(&self.options, Sources::WebSockets, base),
        };
        let mut rules = rules.map_err(|faults| {
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
        let GivenRoute { pattern, handler, topics, admission, origin, .. } = self;
        let (pattern, handler, topics) = (pattern.clone(), handler.clone(), topics.clone());
        let mut admission = admission.clone();
        match (&self.callback, &base.callback) {
            (Some(_), Some(callback)) => {
                admission.asks_with_cookies = callback.sends_header("cookie");
                let before = rules.gate.authenticator.take();
                let each = before.into_iter().chain([Arc::new(callback.clone()) as _]).collect();
                rules.gate.authenticator = together(each, admission.is_all);
            }
            (Some(at), None) if !base.is_any => {
                let what = "the application cannot be asked: callback_url does not say where it is";
                return Err(vec![ConfigError::of("routes.callback", what.into()).from(at.clone())]);
            }
            _ => {}
        }
        Ok(RouteConfig { pattern, handler, topics, rules, admission, origin: origin.clone() })
    }

    /// Returns the patterns of all paths that no other route may serve: those of a surface, that of the page, or those
    /// below the path of a folder.
    pub(super) fn served(&self) -> Vec<Pattern> {
        match &self.handler {
            RouteHandler::Surface(config) => {
                config.surface.patterns(&self.pattern).expect("the reader has checked that they fit")
            }
            RouteHandler::Files(_) => vec![self.pattern.below().unwrap_or_else(|| self.pattern.clone())],
            RouteHandler::Page => vec![self.pattern.clone()],
        }
    }

    /// Returns whether the route serves the files of a folder.
    pub(in crate::config) fn serves_files(&self) -> bool {
        matches!(self.handler, RouteHandler::Files(_))
    }

    /// Returns the place of the route's table in the file.
    pub(in crate::config) fn origin(&self) -> &Origin {
        &self.origin
    }
}

/// Returns the name of a rule in errors.
fn qualified(key: &'static str) -> &'static str {
    match key {
        "max_message" => "routes.max_message",
        "max_frame" => "routes.max_frame",
        "max_fragments" => "routes.max_fragments",
        "ping_payload" => "routes.ping_payload",
        "protocols" => "routes.protocols",
        "handler" => "routes.handler",
        _ => ROUTES,
    }
}
