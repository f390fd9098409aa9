//! Surfaces: what clients speak at a route, as one row of the table of surfaces.

#![cfg_attr(not(test), expect(dead_code, reason = "only the surface of the tests uses all of it so far"))]

use std::sync::Arc;

use crate::{
    endpoints::{BodyLimit, HttpEndpoint, Judge, NewPath, Openings, RouteBeside, RouteValues, ServedRoute},
    handler::{Factory, Pattern, PatternError, Route, Rules, TopicSpace},
    hub::{Encodings, NewEncoding},
};

/// What clients speak at a route: its paths with their openings and HTTP endpoints, its handler, its keys in the
/// settings' file, and its encodings.
#[derive(Debug)]
pub(crate) struct Surface {
    /// The name among the handlers of routes in the settings' file.
    pub(crate) name: &'static str,
    /// The effect of a route with this handler, for docs/routes.md.
    pub(crate) effect: &'static str,
    pub(crate) topics: TopicUse,
    /// Its keys in the table of a route, beside those of every route that opens WebSockets.
    pub(crate) keys: &'static [SurfaceKey],
    /// Checks the values of its keys together.
    pub(crate) check: fn(&RouteValues) -> Result<(), KeyFault>,
    /// Whether opening requests are not kept.
    pub(crate) forgets_request: bool,
    /// Whether its connections get no broadcasts.
    pub(crate) skips_broadcasts: bool,
    pub(crate) paths: &'static [PathRow],
    /// The subprotocol that its clients have to offer.
    pub(crate) protocol: Option<&'static str>,
    /// The surfaces of those clients at its paths that ask for something else.
    pub(crate) beside: &'static [Beside],
    /// Makes the handler of a route.
    pub(crate) handler: fn(&HandlerParts<'_>) -> Arc<dyn Factory>,
    /// The encodings of its formats, in addition to raw frames.
    pub(crate) encodings: &'static [NewEncoding],
}

/// A surface at the paths of another surface: its clients offer its subprotocol, or ask for an event stream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Beside {
    pub(crate) surface: &'static Surface,
    /// The openings of its clients there.
    pub(crate) openings: Openings,
}

/// What the handler of a route is made of.
#[derive(Debug)]
pub(crate) struct HandlerParts<'a> {
    /// The values of the surface's keys.
    pub(crate) values: Arc<RouteValues>,
    /// The handler asks the judge about every topic that a message names.
    pub(crate) judge: Judge,
    /// The encodings of all surfaces.
    pub(crate) encodings: &'a Encodings,
}

/// The topics that a surface leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TopicUse {
    /// None.
    Nothing,
    /// The topic that the path names: a route needs `{topic}` or `{topic...}` in its pattern.
    OfPath,
    /// Those that clients name in their messages and bodies.
    OfMessages,
}

/// A path of a surface.
#[derive(Debug)]
pub(crate) struct PathRow {
    /// The part of the pattern after that of the route, such as `/{name}/events`; empty for the route's own path.
    pub(crate) below: &'static str,
    pub(crate) openings: Option<Openings>,
    pub(crate) endpoints: &'static [HttpEndpoint],
}

/// A key of a surface in the table of a route.
#[derive(Debug)]
pub(crate) struct SurfaceKey {
    /// The key after the prefix `routes.`, as errors name it.
    pub(crate) qualified: &'static str,
    pub(crate) kind: KeyKind,
    /// The type of its value, in words.
    pub(crate) value: &'static str,
    /// The default, in words.
    pub(crate) preset: &'static str,
    pub(crate) help: &'static str,
}

/// The type of a key's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyKind {
    Text,
    Boolean,
    /// A number of bytes, with a unit.
    Size,
    /// A table of secrets by name, which are never shown.
    Secrets,
}

/// A value that its surface does not take.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct KeyFault {
    /// The name of the key.
    pub(crate) key: &'static str,
    pub(crate) what: String,
}

impl SurfaceKey {
    /// Returns the key as it stands in the table of a route.
    pub(crate) fn name(&self) -> &'static str {
        self.qualified.strip_prefix("routes.").expect("every row has the prefix")
    }
}

impl Surface {
    /// Returns the patterns of all its paths at a route, the route's own path first if it serves that.
    ///
    /// # Errors
    ///
    /// If a path cannot stand after the pattern of the route: after `{name...}`, or with a parameter of the same name.
    pub(crate) fn patterns(&self, route: &Pattern) -> Result<Vec<Pattern>, PatternError> {
        self.paths.iter().map(|path| joined(route, path.below)).collect()
    }

    /// Returns the largest body that an endpoint takes, if that is not the largest message.
    pub(crate) fn body_bytes_max(&self) -> Option<u32> {
        let bytes = |endpoint: &HttpEndpoint| match endpoint.body {
            BodyLimit::Bytes(bytes) => Some(bytes),
            BodyLimit::Nothing | BodyLimit::Message => None,
        };
        self.endpoints().filter_map(bytes).max()
    }

    /// Returns whether an endpoint takes a message as its body.
    pub(crate) fn takes_messages_as_bodies(&self) -> bool {
        self.endpoints().any(|endpoint| endpoint.body == BodyLimit::Message)
    }

    /// Returns a route of this surface.
    ///
    /// # Errors
    ///
    /// See [`Surface::patterns`].
    pub(crate) fn route(
        &self,
        pattern: Pattern,
        rules: Rules,
        topics: TopicSpace,
        parts: &HandlerParts<'_>,
    ) -> Result<ServedRoute, PatternError> {
        let rows = self.paths.iter().zip(self.patterns(&pattern)?);
        let paths = rows.map(|(row, pattern)| NewPath { pattern, openings: row.openings, endpoints: row.endpoints });
        let paths = paths.collect();
        let beside = self.beside.iter().map(|&Beside { surface, openings }| {
            let values = Arc::default();
            let parts = HandlerParts { values, judge: parts.judge.clone(), encodings: parts.encodings };
            let route = surface.bare_route(pattern.clone(), rules.clone(), topics.clone(), &parts);
            RouteBeside { protocol: surface.protocol, route, openings }
        });
        let beside = beside.collect();
        let route = self.bare_route(pattern, rules, topics, parts);
        Ok(ServedRoute { route, paths, values: Arc::clone(&parts.values), beside })
    }

    /// Returns a route of this surface without its paths.
    fn bare_route(&self, pattern: Pattern, rules: Rules, topics: TopicSpace, parts: &HandlerParts<'_>) -> Route {
        let (forgets_request, skips_broadcasts) = (self.forgets_request, self.skips_broadcasts);
        let mut rules = Rules { forgets_request, skips_broadcasts, ..rules };
        if let Some(protocol) = self.protocol {
            (rules.protocols, rules.requires_protocol) = (vec![protocol.into()], true);
        }
        let topics = (self.topics != TopicUse::Nothing).then_some(topics);
        Route { pattern, rules, topics, factory: (self.handler)(parts) }
    }

    fn endpoints(&self) -> impl Iterator<Item = &'static HttpEndpoint> {
        self.paths.iter().flat_map(|path| path.endpoints)
    }
}

/// Returns the pattern of a path below that of a route.
fn joined(route: &Pattern, below: &str) -> Result<Pattern, PatternError> {
    if below.is_empty() {
        return Ok(route.clone());
    }
    Pattern::new(&format!("{}{below}", route.as_str().trim_end_matches('/')))
}

/// The check of a surface whose keys need none.
pub(crate) fn any_values(_: &RouteValues) -> Result<(), KeyFault> {
    Ok(())
}
