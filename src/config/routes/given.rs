//! Routes of a file, before their rules are settled.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    admission::Admission,
    config::{RouteConfig, RouteHandler},
    digest::RouteDigest,
    rules::{Base, RuleFault, Sources, settle, settle_surface},
};
use crate::{
    auth::together,
    error::{ConfigError, Origin},
    handler::{Pattern, RouteOptions, Rules, TopicSpace},
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
    pub(super) digest: RouteDigest,
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
        let rules = rules_of(&self.handler, &self.options, base);
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
        let mut admission = self.admission.clone();
        ask_application(self.callback.as_ref(), base, &mut rules, &mut admission)?;
        Ok(RouteConfig {
            pattern: self.pattern.clone(),
            handler: self.handler.clone(),
            topics: self.topics.clone(),
            rules,
            options: self.options.clone(),
            admission,
            callback: self.callback.clone(),
            origin: self.origin.clone(),
            shown: self.shown.clone(),
            digest: self.digest,
        })
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

/// Adds the application to the authenticators of a route that asks it; `at` is the place of `callback = true`.
///
/// # Errors
///
/// If the settings do not say where the application is.
fn ask_application(
    at: Option<&Origin>,
    base: &Base,
    rules: &mut Rules,
    admission: &mut Admission,
) -> Result<(), Vec<ConfigError>> {
    match (at, &base.callback) {
        (Some(_), Some(callback)) => {
            admission.asks_with_cookies = callback.sends_header("cookie");
            let before = rules.gate.authenticator.take();
            let each = before.into_iter().chain([Arc::new(callback.clone()) as _]).collect();
            rules.gate.authenticator = together(each, admission.is_all);
            Ok(())
        }
        (Some(at), None) if !base.is_any => {
            let what = "the application cannot be asked: callback_url does not say where it is";
            Err(vec![ConfigError::of("routes.callback", what.into()).from(at.clone())])
        }
        _ => Ok(()),
    }
}

/// Checks the rules of a route, and completes them with those of the server.
fn rules_of(handler: &RouteHandler, options: &RouteOptions, base: &Base) -> Result<Rules, Vec<RuleFault>> {
    match handler {
        RouteHandler::Surface(config) => settle_surface(config.surface, options, base),
        RouteHandler::Files(_) | RouteHandler::Page => settle(options, Sources::WebSockets, base),
    }
}

impl RouteConfig {
    /// Returns the same route with the rules that follow from other settings of the server.
    ///
    /// # Errors
    ///
    /// All rules that do not fit these settings.
    pub(in crate::config) fn settle_again(&self, base: &Base) -> Result<RouteConfig, Vec<ConfigError>> {
        let mut rules = rules_of(&self.handler, &self.options, base).map_err(|faults| {
            let located = faults
                .into_iter()
                .map(|RuleFault { key, what, .. }| ConfigError::of(qualified(key), what).from(self.origin.clone()));
            located.collect::<Vec<_>>()
        })?;
        let mut admission = self.admission.clone();
        ask_application(self.callback.as_ref(), base, &mut rules, &mut admission)?;
        Ok(RouteConfig { rules, admission, ..self.clone() })
    }

    /// Returns whether the handler of a running route can serve this route.
    pub(in crate::config) fn is_same_handler(&self, running: &RouteConfig) -> bool {
        self.digest.lasting == running.digest.lasting
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
