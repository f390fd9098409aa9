//! Settings in a file of TOML.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
    sync::Arc,
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    Setting,
    given::{Entry, Item, nearest_key},
};
use crate::error::{ConfigError, Origin};

/// The entries of a file, and everything that is wrong with it, by their lines.
pub(super) fn read(path: &Path, named_by: &Origin) -> (Vec<Entry>, Vec<ConfigError>) {
    let file = match read_whole(path) {
        Ok(bytes) => TomlFile { path: path.into(), bytes },
        Err(error) => {
            let what = format!("{path:?} cannot be read: {error}");
            return (Vec::new(), vec![ConfigError::at(named_by.clone(), what)]);
        }
    };
    file.entries()
}

fn read_whole(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

struct TomlFile {
    path: Arc<Path>,
    bytes: Vec<u8>,
}

impl TomlFile {
    fn entries(&self) -> (Vec<Entry>, Vec<ConfigError>) {
        let text = match std::str::from_utf8(&self.bytes) {
            Ok(text) => text,
            Err(error) => {
                let origin = self.origin(error.valid_up_to());
                return (Vec::new(), vec![ConfigError::at(origin, "this is not UTF-8".into())]);
            }
        };
        let (table, faults) = DeTable::parse_recoverable(text);
        if !faults.is_empty() {
            // What was understood of the rest is a guess.
            return (Vec::new(), faults.iter().map(|fault| self.syntax_error(text, fault)).collect());
        }
        let mut keys: Vec<_> = table.get_ref().iter().collect();
        keys.sort_by_key(|(key, _)| key.span().start);
        let (mut entries, mut errors) = (Vec::new(), Vec::new());
        for (key, value) in keys {
            let origin = self.origin(key.span().start);
            match Setting::by_key(key.get_ref()) {
                None => errors.push(ConfigError::at(origin, unknown_key(key.get_ref()))),
                Some(setting) => match self.items(setting, value) {
                    Ok(items) => entries.push(Entry { setting, items, origin }),
                    Err(error) => errors.push(error),
                },
            }
        }
        (entries, errors)
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

    fn items(&self, setting: &'static Setting, value: &Spanned<DeValue<'_>>) -> Result<Vec<Item>, ConfigError> {
        match value.get_ref() {
            DeValue::Array(items) if setting.is_list => {
                items.iter().map(|item| Ok((self.item(setting, item)?, self.origin(item.span().start)))).collect()
            }
            // As on a command line.
            DeValue::String(text) => {
                let origin = self.origin(value.span().start);
                Ok(setting.split(text).into_iter().map(|item| (item.into(), origin.clone())).collect())
            }
            _ => Ok(vec![(self.item(setting, value)?, self.origin(value.span().start))]),
        }
    }

    fn item(&self, setting: &'static Setting, value: &Spanned<DeValue<'_>>) -> Result<String, ConfigError> {
        match value.get_ref() {
            DeValue::String(text) => Ok(text.to_string()),
            DeValue::Integer(number) if setting.takes_integers => {
                let decimal = i128::from_str_radix(number.as_str(), number.radix());
                Ok(decimal.map_or_else(|_| number.to_string(), |number| number.to_string()))
            }
            other => {
                let list = if setting.is_list { ", or a list of such," } else { "" };
                let what = format!("{}{list} is expected, not this {}", setting.expected, other.type_str());
                Err(ConfigError::of(setting.key, what).from(self.origin(value.span().start)))
            }
        }
    }

    fn origin(&self, at: usize) -> Origin {
        let before = &self.bytes[..at.min(self.bytes.len())];
        Origin::File(Arc::clone(&self.path), 1 + before.iter().filter(|&&byte| byte == b'\n').count())
    }
}

fn unknown_key(key: &str) -> String {
    match nearest_key(key) {
        Some(nearest) => format!("unknown key {key:?}; did you mean {nearest:?}?"),
        None => format!("unknown key {key:?}; `ringhub example-config` prints them all"),
    }
}

/// Larger than any file of settings, smaller than what would hurt.
const FILE_BYTES_MAX: u64 = 1 << 20;
