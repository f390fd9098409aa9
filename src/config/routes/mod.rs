//! Routes: the tables of a file that say what is served where.

mod people;
mod reader;

use std::{fmt, sync::Arc};

use toml::{Spanned, de::DeValue};

use self::reader::Reader;
#[cfg(doc)]
use super::Limits;
use super::{Config, file::TomlFile, values::Size};
use crate::{
    auth::{Authenticator, Origins},
    documents::Documents,
    error::{ConfigError, Origin},
    handler::TopicSpace,
    proto::KeepAlive,
};

/// What is served at a path, and under which rules. What is not set is as the server has it.
#[derive(Clone)]
pub struct RouteConfig {
    /// The paths: fixed segments, `{name}` for one segment, `{name...}` for the rest. Files are served at it and below.
    pub pattern: String,
    /// Who answers.
    pub handler: RouteHandler,
    /// Of the hub: which topics it leads to.
    pub(crate) topics: TopicSpace,
    /// A fingerprint of its rules about whom to let in, by which two routes are told to have the same.
    pub(super) whom: u64,
    /// Whom to let in; everybody if there is none.
    pub authenticator: Option<Arc<dyn Authenticator>>,
    /// Origins whose pages may open it.
    pub origins: Option<Origins>,
    /// Sub-protocols, the best first (RFC 6455 1.9).
    pub protocols: Vec<String>,
    /// The largest message in bytes: 1 to [`Limits::MESSAGE_BYTES_MAX`], and half of the server's backlog at most.
    pub max_message: Option<u32>,
    /// The largest frame in bytes: 1 to the largest message.
    pub max_frame: Option<u32>,
    /// Fragments of one message: at least 1.
    pub max_fragments: Option<u32>,
    /// Whether text is checked to be UTF-8 (RFC 6455 8.1).
    pub check_utf8: Option<bool>,
    /// When silent clients are pinged and given up, if either differs from the server's.
    pub keep_alive: Option<KeepAlive>,
    /// What pings carry: at most 125 bytes (RFC 6455 5.5).
    pub ping_payload: Vec<u8>,
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
}

/// By its name in a file.
impl fmt::Display for RouteHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RouteHandler::Hub => "hub",
            RouteHandler::Echo => "echo",
            RouteHandler::Files(_) => "files",
        })
    }
}

impl RouteConfig {
    /// May everybody who reaches it open it?
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.authenticator.is_none() && self.origins.as_ref().is_none_or(Origins::are_any)
    }
}

impl fmt::Debug for RouteConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteConfig")
            .field("pattern", &self.pattern)
            .field("handler", &self.handler)
            .field("is_authenticated", &self.authenticator.is_some())
            .finish_non_exhaustive()
    }
}

/// The key of a file that has the routes.
pub(super) const ROUTES: &str = "routes";

/// A route as the file gives it, each value right in itself.
#[derive(Debug)]
pub(super) struct GivenRoute {
    config: RouteConfig,
    max_message: Option<(Size, Origin)>,
    max_frame: Option<(Size, Origin)>,
    ping_interval: Option<u32>,
    pong_timeout: Option<u32>,
    /// For people: its keys and values, those of secrets masked.
    pub(super) shown: String,
}

impl GivenRoute {
    /// Of nothing yet.
    fn at(origin: Origin) -> GivenRoute {
        let config = RouteConfig {
            pattern: String::new(),
            handler: RouteHandler::Hub,
            topics: TopicSpace::default(),
            whom: 0,
            authenticator: None,
            origins: None,
            protocols: Vec::new(),
            max_message: None,
            max_frame: None,
            max_fragments: None,
            check_utf8: None,
            keep_alive: None,
            ping_payload: Vec::new(),
            origin,
        };
        let shown = String::new();
        GivenRoute { config, max_message: None, max_frame: None, ping_interval: None, pong_timeout: None, shown }
    }

    /// Checks it against the server's own limits, whose settings come from there.
    pub(super) fn settle(&self, config: &Config, from: impl Fn(&str) -> Origin) -> Result<RouteConfig, ConfigError> {
        let mut route = self.config.clone();
        let mut message = u64::from(config.limits.message.message_bytes_max);
        if let Some((size, origin)) = &self.max_message {
            message = size.0;
            let room = [
                ("max_backlog", config.limits.backlog_bytes_max as u64, 2),
                ("max_gathered", config.limits.gathered_bytes_max as u64, 1),
            ];
            if let Some((setting, bytes, times)) = room.into_iter().find(|(_, bytes, times)| times * message > *bytes) {
                let what = format!("{size} needs a {setting} of {}, which is {}", Size(times * message), Size(bytes));
                let error = ConfigError::of("routes.max_message", what).from(origin.clone());
                return Err(error.against_one(setting, from(setting)));
            }
            route.max_message = Some(message as u32);
        }
        if let Some((size, origin)) = &self.max_frame {
            if size.0 > message {
                let what = format!("{size} is more than the route's largest message, {}", Size(message));
                let error = ConfigError::of("routes.max_frame", what).from(origin.clone());
                return Err(error.against_one("max_message", from("max_message")));
            }
            route.max_frame = Some(size.0 as u32);
        }
        if self.ping_interval.is_some() || self.pong_timeout.is_some() {
            let server = config.keep_alive;
            route.keep_alive = Some(KeepAlive {
                ping_interval: self.ping_interval.unwrap_or(server.ping_interval),
                pong_timeout: self.pong_timeout.unwrap_or(server.pong_timeout),
                ..server
            });
        }
        Ok(route)
    }

    /// What is given of it, and where.
    pub(super) fn origin(&self) -> &Origin {
        &self.config.origin
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
        if let Some(same) = routes.iter().find(|other| other.config.pattern == route.config.pattern) {
            let what = format!("{:?} is there already, at {}", route.config.pattern, same.origin());
            errors.push(ConfigError::of("routes.match", what).from(route.config.origin.clone()));
        }
        routes.push(route);
    }
    routes
}
