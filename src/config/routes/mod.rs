//! Routes: the tables of a file that name the handler of each path.

pub(super) mod admission;
mod auth;
pub(super) mod config;
pub(super) mod given;
pub(super) mod keys;
mod reader;
pub(super) mod rules;
mod table;

use toml::{Spanned, de::DeValue};

use self::{
    given::{GivenRoute, ROUTES},
    reader::Reader,
};
use super::toml::TomlFile;
use crate::{endpoints::OPERATIONS, error::ConfigError, handler::Pattern};

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
        // A folder of files has its own path too.
        let is_here = |path: &str| {
            Pattern::new(path).is_ok_and(|own| own.clashes_with(&route.served()) || own.clashes_with(&route.pattern))
        };
        if let Some((path, _)) = OPERATIONS.into_iter().find(|(path, _)| is_here(path)) {
            let what = format!("{path} is the server's own, for its operator");
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
