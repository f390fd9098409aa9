//! Checked routes: the handler of each path, and its rules.

use std::{fmt, sync::Arc};

use super::{admission::Admission, digest::RouteDigest};
use crate::{
    auth::{Gate, Origins},
    documents::Documents,
    endpoints::RouteValues,
    error::Origin,
    handler::{Pattern, RouteOptions, Rules, TopicSpace},
    surface::{Surface, TopicUse},
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
    /// The rules of the route before they were completed.
    pub(in crate::config) options: RouteOptions,
    /// The authenticators of the route, in the form that warnings need.
    pub(in crate::config) admission: Admission,
    /// The place of `callback = true`.
    pub(in crate::config) callback: Option<Origin>,
    /// The place of the route's table in the file.
    pub origin: Origin,
    /// The keys and values as they are shown, those of secrets masked.
    pub(in crate::config) shown: String,
    pub(in crate::config) digest: RouteDigest,
}

/// The handler of a route.
#[derive(Debug, Clone)]
pub enum RouteHandler {
    /// A surface: WebSockets, and the HTTP endpoints beside them.
    Surface(SurfaceConfig),
    /// The files of a folder, to plain HTTP.
    Files(Documents),
    /// The page that watches topics, to plain HTTP.
    Page,
}

/// Writes the handler's name in a file.
impl fmt::Display for RouteHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RouteHandler::Surface(config) => config.surface.name,
            RouteHandler::Files(_) => "files",
            RouteHandler::Page => "page",
        })
    }
}

/// A surface, with the values of its own keys.
///
/// ```
/// use ringhub::config::{Flags, Given, RouteHandler};
/// let mut flags = Flags::default();
/// # let path = std::env::temp_dir().join(format!("surface-{}.toml", std::process::id()));
/// # std::fs::write(&path, "[[routes]]\nmatch = \"/echo\"\nhandler = \"echo\"\n")?;
/// flags.read_file(path.clone(), "--config");
/// let config = Given::read(&flags, []).config(20_000)?;
/// let RouteHandler::Surface(surface) = &config.routes[0].handler else { panic!() };
/// assert_eq!(surface.name(), "echo");
/// # std::fs::remove_file(path)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct SurfaceConfig {
    pub(crate) surface: &'static Surface,
    pub(crate) values: Arc<RouteValues>,
}

impl SurfaceConfig {
    /// Returns a surface without values of its keys.
    pub(crate) fn without_values(surface: &'static Surface) -> SurfaceConfig {
        SurfaceConfig { surface, values: Arc::default() }
    }

    /// Returns the surface's name among the handlers of a file: `hub`, `echo`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.surface.name
    }
}

impl RouteHandler {
    /// Returns whether the handler leads to topics, whose access then depends on the rules of the route.
    pub(crate) fn leads_to_topics(&self) -> bool {
        matches!(self, RouteHandler::Surface(config) if config.surface.topics != TopicUse::Nothing)
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
