//! Checked routes: the handler of each path, and its rules.

use std::fmt;

use super::admission::Admission;
use crate::{
    auth::{Gate, Origins},
    documents::Documents,
    error::Origin,
    handler::{Pattern, Rules, TopicSpace},
};

/// A route: the handler of a path, and its rules.
#[derive(Clone)]
pub struct RouteConfig {
    /// The paths: fixed segments, `{name}` for one segment, `{name...}` for the rest. Files are served at this path and
    /// below it.
    pub pattern: Pattern,
    /// The handler.
    pub handler: RouteHandler,
    /// The topics that a route of the hub leads to.
    pub(crate) topics: TopicSpace,
    /// The rules: those of the route, completed with the server's.
    pub rules: Rules,
    /// The authenticators of the route, in the form that warnings need.
    pub(in crate::config) admission: Admission,
    /// The place of the route's table in the file.
    pub origin: Origin,
}

/// The handler of a route.
#[derive(Debug, Clone)]
pub enum RouteHandler {
    /// The hub: the topic is the pattern's `{topic}` or `{topic...}`.
    Hub,
    /// An echo: every message goes back to its sender.
    Echo,
    /// The files of a folder, to plain HTTP.
    Files(Documents),
    /// The page that watches topics, to plain HTTP.
    Page,
}

/// Writes the handler's name in a file.
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
    /// Returns whether every client that reaches the route may use it.
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
