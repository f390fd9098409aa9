//! Settings in a file of TOML.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
    sync::Arc,
};

use toml::{
    Spanned,
    de::{DeString, DeTable, DeValue},
};

use super::{
    SETTINGS, Setting,
    given::{Entry, Item, nearest_key},
    routes::{self, GivenRoute, ROUTES},
    values::{Shape, Value},
};
use crate::error::{ConfigError, Origin};

/// What a file gives, and everything that is wrong with it, by their lines.
#[derive(Default)]
pub(super) struct Contents {
    pub(super) entries: Vec<Entry>,
    pub(super) routes: Vec<GivenRoute>,
    pub(super) errors: Vec<ConfigError>,
}

impl Contents {
    fn only(errors: Vec<ConfigError>) -> Contents {
        Contents { errors, ..Contents::default() }
    }
}

/// Reads a file.
pub(super) fn read(path: &Path, named_by: &Origin) -> Contents {
    let file = match read_whole(path) {
        Ok(bytes) => TomlFile { path: path.into(), bytes },
        Err(error) => {
            let what = format!("{path:?} cannot be read: {error}");
            return Contents::only(vec![ConfigError::at(named_by.clone(), what)]);
        }
    };
    file.contents()
}

fn read_whole(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

pub(super) struct TomlFile {
    pub(super) path: Arc<Path>,
    bytes: Vec<u8>,
}

impl TomlFile {
    fn contents(&self) -> Contents {
        let text = match std::str::from_utf8(&self.bytes) {
            Ok(text) => text,
            Err(error) => {
                let origin = self.origin(error.valid_up_to());
                return Contents::only(vec![ConfigError::at(origin, "this is not UTF-8".into())]);
            }
        };
        let (table, faults) = DeTable::parse_recoverable(text);
        if !faults.is_empty() {
            // What was understood of the rest is a guess.
            return Contents::only(faults.iter().map(|fault| self.syntax_error(text, fault)).collect());
        }
        let mut contents = Contents::default();
        for (key, value) in in_order(table.get_ref()) {
            let origin = self.origin(key.span().start);
            if key.get_ref() == ROUTES {
                contents.routes = routes::read(self, value, &mut contents.errors);
                continue;
            }
            match Setting::by_key(key.get_ref()) {
                None => contents.errors.push(ConfigError::at(origin, unknown_key(key.get_ref()))),
                Some(setting) => match self.items(setting.shape(), value) {
                    Ok(items) => contents.entries.push(Entry { setting, items, origin }),
                    Err(error) => contents.errors.push(error),
                },
            }
        }
        contents
    }

    /// A value of that type.
    pub(super) fn value<T: Value>(&self, key: &'static str, value: &Spanned<DeValue<'_>>) -> Result<T, ConfigError> {
        let items = self.items(Shape::of::<T>(key), value)?;
        let texts: Vec<&str> = items.iter().map(|(text, _)| &**text).collect();
        T::read(&texts).map_err(|fault| {
            let origin = items.get(fault.item).map_or_else(|| self.origin(value.span().start), |(_, at)| at.clone());
            ConfigError::of(key, fault.what).from(origin)
        })
    }

    /// The parser's own text of an error would show the line, and with it perhaps a token.
    fn syntax_error(&self, text: &str, fault: &toml::de::Error) -> ConfigError {
        let span = fault.span().unwrap_or_default();
        let mut what = fault.message().to_string();
        if what == "duplicate key" {
            what = format!("duplicate key {:?}", text.get(span.clone()).unwrap_or_default());
        }
        ConfigError::at(self.origin(span.start), what)
    }

    /// The items of a value, and where each stands.
    pub(super) fn items(&self, shape: Shape, value: &Spanned<DeValue<'_>>) -> Result<Vec<Item>, ConfigError> {
        match value.get_ref() {
            // It could mean none as well as any, and is more likely a list that somebody failed to fill.
            DeValue::Array(items) if shape.is_list && items.is_empty() => {
                let what = "the list is empty; leave the key away if nothing is to be said".into();
                Err(ConfigError::of(shape.key, what).from(self.origin(value.span().start)))
            }
            DeValue::Array(items) if shape.is_list => {
                items.iter().map(|item| Ok((self.item(shape, item)?, self.origin(item.span().start)))).collect()
            }
            // As on a command line.
            DeValue::String(text) => {
                let origin = self.origin(value.span().start);
                Ok(shape.split(text).into_iter().map(|item| (item.into(), origin.clone())).collect())
            }
            _ => Ok(vec![(self.item(shape, value)?, self.origin(value.span().start))]),
        }
    }

    fn item(&self, shape: Shape, value: &Spanned<DeValue<'_>>) -> Result<String, ConfigError> {
        match value.get_ref() {
            DeValue::String(text) => Ok(text.to_string()),
            DeValue::Integer(number) if shape.takes_integers => {
                let decimal = i128::from_str_radix(number.as_str(), number.radix());
                Ok(decimal.map_or_else(|_| number.to_string(), |number| number.to_string()))
            }
            other => {
                let list = if shape.is_list { ", or a list of such," } else { "" };
                let what = format!("{}{list} is expected, not this {}", shape.expected, other.type_str());
                Err(ConfigError::of(shape.key, what).from(self.origin(value.span().start)))
            }
        }
    }

    pub(super) fn origin(&self, at: usize) -> Origin {
        let before = &self.bytes[..at.min(self.bytes.len())];
        Origin::File(Arc::clone(&self.path), 1 + before.iter().filter(|&&byte| byte == b'\n').count())
    }
}

/// The keys of a table as they were written, and their values.
pub(super) fn in_order<'a, 'i>(table: &'a DeTable<'i>) -> Vec<(&'a Spanned<DeString<'i>>, &'a Spanned<DeValue<'i>>)> {
    let mut keys: Vec<_> = table.iter().collect();
    keys.sort_by_key(|(key, _)| key.span().start);
    keys
}

fn unknown_key(key: &str) -> String {
    match nearest_key(key, SETTINGS.iter().map(|setting| setting.key).chain([ROUTES])) {
        Some(nearest) => format!("unknown key {key:?}; did you mean {nearest:?}?"),
        None => format!("unknown key {key:?}; `ringhub example-config` prints them all"),
    }
}

/// Larger than any file of settings, smaller than what would hurt.
const FILE_BYTES_MAX: u64 = 1 << 20;
