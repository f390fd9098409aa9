//! Routes that hold: what is served where.

use std::fmt;

use super::whom::Whom;
use crate::{
    auth::{Gate, Origins},
    documents::Documents,
    error::Origin,
    handler::{Pattern, Rules, TopicSpace},
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
    pub(in crate::config) whom: Whom,
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
