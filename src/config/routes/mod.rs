//! Routes: the tables of a file that name the handler of each path.

pub(super) mod admission;
mod auth;
pub(super) mod config;
mod digest;
pub(super) mod given;
pub(super) mod keys;
pub(super) mod reader;
pub(super) mod rules;
mod table;

use toml::{Spanned, de::DeValue};

use self::{
    given::{GivenRoute, ROUTES},
    reader::Reader,
};
use super::{issuers::GivenIssuers, toml::TomlFile};
use crate::{endpoints::OPERATIONS, error::ConfigError, handler::Pattern};

/// Reads the routes of a file.
pub(super) fn read(
    file: &TomlFile,
    value: &Spanned<DeValue<'_>>,
    issuers: &GivenIssuers,
    errors: &mut Vec<ConfigError>,
) -> Vec<GivenRoute> {
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
        let Some(route) = Reader { file, errors }.route(keys, origin, issuers) else { continue };
        let served = route.served();
        let fail = |what: String| ConfigError::of("routes.match", what).from(route.origin.clone());
        // Files are served at the route's own path too.
        let folder = route.serves_files().then_some(&route.pattern);
        let is_here = |path: &str| {
            let own = Pattern::new(path).expect("a path");
            served.iter().chain(folder).any(|pattern| own.clashes_with(pattern))
        };
        if let Some((path, _)) = OPERATIONS.into_iter().find(|(path, _)| is_here(path)) {
            errors.push(fail(format!("{path} is the server's own, for its operator")));
        }
        let clash = routes.iter().find_map(|other| {
            let theirs = other.served();
            let clash = served.iter().find(|pattern| theirs.iter().any(|their| their.clashes_with(pattern)))?;
            Some((other, clash))
        });
        if let Some((other, clash)) = clash {
            let shown = if route.serves_files() { &route.pattern } else { clash };
            errors.push(fail(format!("{:?} is there already, at {}", shown.as_str(), other.origin())));
        }
        routes.push(route);
    }
    routes
}
