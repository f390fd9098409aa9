//! Reads and writes TOML: values with their places in the file, and text with its secrets masked.

use std::{path::Path, sync::Arc};

use toml::{
    Spanned,
    de::{DeString, DeTable, DeValue},
};

use super::{
    file_value::{FileValues, Item},
    value::{Shape, Value},
};
use crate::error::{ConfigError, Origin};

/// A file of TOML that has been read.
pub(super) struct TomlFile {
    pub(super) path: Arc<Path>,
    pub(super) bytes: Vec<u8>,
    /// The values that stand in files of their own. Their relative paths belong to the folder of this file.
    pub(super) values: FileValues,
}

impl TomlFile {
    pub(super) fn new(path: &Path, bytes: Vec<u8>) -> TomlFile {
        let values = FileValues::below(path.parent().unwrap_or(Path::new("")));
        TomlFile { path: path.into(), bytes, values }
    }

    /// Reads a value of a type.
    pub(super) fn value<T: Value>(&self, key: &'static str, value: &Spanned<DeValue<'_>>) -> Result<T, ConfigError> {
        let items = self.items(Shape::of::<T>(key), value)?;
        let texts: Vec<&str> = items.iter().map(|(text, _)| &**text).collect();
        T::read(&texts).map_err(|fault| {
            let origin = items.get(fault.item).map_or_else(|| self.origin(value.span().start), |(_, at)| at.clone());
            ConfigError::of(key, fault.what).from(origin)
        })
    }

    /// Returns the items of a value, each with its place. The contents of a file stand in the place of `file:PATH`.
    pub(super) fn items(&self, shape: Shape, value: &Spanned<DeValue<'_>>) -> Result<Vec<Item>, ConfigError> {
        self.values.resolve(shape, self.written_items(shape, value)?)
    }

    fn written_items(&self, shape: Shape, value: &Spanned<DeValue<'_>>) -> Result<Vec<Item>, ConfigError> {
        match value.get_ref() {
            // An empty list could mean "none" or "any", and is probably a list that was never filled.
            DeValue::Array(items) if shape.is_list && items.is_empty() => {
                let what = "the list is empty; remove the key if it has no values".into();
                Err(ConfigError::of(shape.key, what).from(self.origin(value.span().start)))
            }
            DeValue::Array(items) if shape.is_list => {
                items.iter().map(|item| Ok((self.item(shape, item)?, self.origin(item.span().start)))).collect()
            }
            // Text is split as on a command line.
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
            DeValue::Boolean(is_on) if shape.takes_booleans() => Ok(if *is_on { "on" } else { "off" }.into()),
            other => {
                let list = if shape.is_list { ", or a list of such," } else { "" };
                let what = format!("{}{list} is expected, not this {}", shape.expected, other.type_str());
                Err(ConfigError::of(shape.key, what).from(self.origin(value.span().start)))
            }
        }
    }

    /// Returns the line of a position in the file.
    pub(super) fn origin(&self, at: usize) -> Origin {
        let before = &self.bytes[..at.min(self.bytes.len())];
        Origin::File(Arc::clone(&self.path), 1 + before.iter().filter(|&&byte| byte == b'\n').count())
    }
}

/// Returns the keys of a table in the order of the file, with their values.
pub(super) fn in_order<'a, 'i>(table: &'a DeTable<'i>) -> Vec<(&'a Spanned<DeString<'i>>, &'a Spanned<DeValue<'i>>)> {
    let mut keys: Vec<_> = table.iter().collect();
    keys.sort_by_key(|(key, _)| key.span().start);
    keys
}

/// The texts of a value that are masked.
#[derive(Debug, Clone, Copy)]
pub(super) enum Masks {
    None,
    All,
    /// All but the text of this key, at the first level.
    Beside(&'static str),
}

/// Returns a key and its value as TOML.
pub(super) fn toml_pair(key: &str, value: &DeValue<'_>, masks: Masks) -> String {
    let is_bare = !key.is_empty() && key.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_".contains(&c));
    let key = if is_bare { key.to_string() } else { quoted(key) };
    format!("{key} = {}", toml_value(value, masks))
}

fn toml_value(value: &DeValue<'_>, masks: Masks) -> String {
    match value {
        DeValue::String(text) if matches!(masks, Masks::None) => quoted(text),
        DeValue::String(_) => "\"***\"".into(),
        DeValue::Boolean(is_so) => is_so.to_string(),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(items) => {
            let items: Vec<String> = items.iter().map(|item| toml_value(item.get_ref(), masks)).collect();
            format!("[{}]", items.join(", "))
        }
        DeValue::Table(table) => {
            let pairs = in_order(table).into_iter().map(|(key, value)| {
                let below = match masks {
                    Masks::Beside(open) if key.get_ref() == open => Masks::None,
                    Masks::Beside(_) => Masks::All,
                    other => other,
                };
                toml_pair(key.get_ref(), value.get_ref(), below)
            });
            format!("{{ {} }}", pairs.collect::<Vec<_>>().join(", "))
        }
    }
}

/// Returns a text as a basic string (TOML 1.0, "String").
pub(super) fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            control if control.is_control() => quoted.push_str(&format!("\\U{:08X}", u32::from(control))),
            other => quoted.push(other),
        }
    }
    quoted + "\""
}

/// Appends a line.
pub(super) fn line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}
