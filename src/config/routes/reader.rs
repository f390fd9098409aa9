//! Reads the values of a route's table; a wrong value becomes an error.

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::super::{entry::nearest_key, settings::Setting, toml::TomlFile, value::Shape};
use crate::error::{ConfigError, Origin};

/// Reads values of a file, and collects their errors.
pub(in crate::config) struct Reader<'a> {
    pub(in crate::config) file: &'a TomlFile,
    pub(in crate::config) errors: &'a mut Vec<ConfigError>,
}

pub(in crate::config) type Value<'a, 'i> = &'a Spanned<DeValue<'i>>;

impl Reader<'_> {
    pub(in crate::config) fn keep<T>(&mut self, result: Result<T, ConfigError>) -> Option<T> {
        result.map_err(|error| self.errors.push(error)).ok()
    }

    pub(in crate::config) fn fail<T>(&mut self, key: &'static str, at: Origin, what: &str) -> Option<T> {
        self.keep(Err(ConfigError::of(key, what.into()).from(at)))
    }

    /// Notes a key that a table does not have. `tables` is the key of the file that has such tables.
    pub(in crate::config) fn unknown(
        &mut self,
        at: Origin,
        tables: &str,
        owner: &str,
        key: &str,
        known: &[&'static str],
    ) {
        let what = match nearest_key(key, known.iter().copied()) {
            _ if Setting::by_key(key).is_some() => {
                format!("{key:?} is no key of {owner} but of the server: it has to stand before the first [[{tables}]]")
            }
            Some(nearest) => format!("unknown key {key:?} of {owner}; did you mean {nearest:?}?"),
            None => format!("unknown key {key:?} of {owner}, which has {}", known.join(", ")),
        };
        self.errors.push(ConfigError::at(at, what));
    }

    /// Returns the value that a function makes, or notes its error.
    pub(in crate::config) fn checked<T>(
        &mut self,
        key: &'static str,
        value: Value<'_, '_>,
        check: impl FnOnce() -> Result<T, String>,
    ) -> Option<T> {
        let at = self.file.origin(value.span().start);
        self.keep(check().map_err(|what| ConfigError::of(key, what).from(at)))
    }

    pub(in crate::config) fn text(
        &mut self,
        key: &'static str,
        expected: &'static str,
        value: Value<'_, '_>,
    ) -> Option<String> {
        let shape = Shape { key, is_list: false, takes_integers: false, expected };
        let items = self.keep(self.file.items(shape, value))?;
        items.into_iter().next().map(|(text, _)| text)
    }

    /// Reads a list of texts, each with its place. A single text needs no brackets.
    pub(in crate::config) fn texts(
        &mut self,
        key: &'static str,
        expected: &'static str,
        value: Value<'_, '_>,
    ) -> Option<Vec<(String, Origin)>> {
        let shape = Shape { key, is_list: true, takes_integers: false, expected };
        self.keep(self.file.items(shape, value))
    }

    pub(in crate::config) fn boolean(&mut self, key: &'static str, value: Value<'_, '_>) -> Option<bool> {
        match value.get_ref() {
            DeValue::Boolean(is_so) => Some(*is_so),
            other => {
                let what = format!("true or false is expected, not this {}", other.type_str());
                self.fail(key, self.file.origin(value.span().start), &what)
            }
        }
    }

    pub(in crate::config) fn table<'a, 'i>(
        &mut self,
        key: &'static str,
        value: Value<'a, 'i>,
    ) -> Option<&'a DeTable<'i>> {
        match value.get_ref() {
            DeValue::Table(table) => Some(table),
            other => {
                let what = format!("a table is expected, not this {}", other.type_str());
                self.fail(key, self.file.origin(value.span().start), &what)
            }
        }
    }
}
