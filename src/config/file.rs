//! Settings in a file of TOML.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use toml::de::DeTable;

use super::{
    entry::{Entry, Part, nearest_key},
    issuers::{self, GivenIssuers, ISSUERS},
    routes::{
        self,
        given::{GivenRoute, ROUTES},
    },
    settings::{SETTINGS, Setting},
    toml::{TomlFile, in_order},
    topics::{self, TOPICS, config::GivenTopicRule},
};
use crate::{
    error::{ConfigError, Origin},
    outbound::Outbound,
};

/// The settings and routes of a file, and all its errors, by their lines.
#[derive(Default)]
pub(super) struct Contents {
    pub(super) entries: Vec<Entry>,
    pub(super) routes: Vec<GivenRoute>,
    pub(super) topics: Vec<GivenTopicRule>,
    pub(super) issuers: GivenIssuers,
    /// The way of the requests that these make.
    pub(super) outbound: Outbound,
    pub(super) errors: Vec<ConfigError>,
    pub(super) warnings: Vec<String>,
}

impl Contents {
    fn only(errors: Vec<ConfigError>) -> Contents {
        Contents { errors, ..Contents::default() }
    }
}

/// Reads a part of the settings of a file. `named_by` is the flag or variable with the file's path.
pub(super) fn read(path: &Path, named_by: &Origin, part: Part) -> Contents {
    let file = match read_whole(path) {
        Ok(bytes) => TomlFile::new(path, bytes),
        Err(error) => {
            let what = format!("{path:?} cannot be read: {error}");
            return Contents::only(vec![ConfigError::at(named_by.clone(), what)]);
        }
    };
    let contents = contents(&file, part);
    Contents { warnings: file.values.warnings(), ..contents }
}

fn read_whole(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

/// Reads a part of the settings and of the routes of a file.
fn contents(file: &TomlFile, part: Part) -> Contents {
    let text = match std::str::from_utf8(&file.bytes) {
        Ok(text) => text,
        Err(error) => {
            let origin = file.origin(error.valid_up_to());
            return Contents::only(vec![ConfigError::at(origin, "this is not UTF-8".into())]);
        }
    };
    let (table, faults) = DeTable::parse_recoverable(text);
    if !faults.is_empty() {
        // The parser's result for the rest of the file is a guess.
        return Contents::only(faults.iter().map(|fault| syntax_error(file, text, fault)).collect());
    }
    let mut contents = Contents::default();
    if let (Part::All, Some(value)) = (part, table.get_ref().get(ISSUERS)) {
        // Routes name them.
        contents.issuers = issuers::read(file, value, &mut contents.errors, &contents.outbound);
    }
    for (key, value) in in_order(table.get_ref()) {
        let origin = file.origin(key.span().start);
        let setting = Setting::by_key(key.get_ref());
        if let Part::One(_) = part
            && !setting.is_some_and(|setting| part.includes(setting))
        {
            continue;
        }
        if key.get_ref() == ROUTES {
            contents.routes = routes::read(file, value, &contents.issuers, &mut contents.errors);
            continue;
        }
        if key.get_ref() == ISSUERS {
            continue;
        }
        if key.get_ref() == TOPICS {
            contents.topics = topics::read(file, value, &mut contents.errors);
            continue;
        }
        match setting {
            None => contents.errors.push(ConfigError::at(origin, unknown_key(key.get_ref()))),
            Some(setting) => match file.items(setting.shape(), value) {
                Ok(items) => contents.entries.push(Entry { setting, items, origin }),
                Err(error) => contents.errors.push(error),
            },
        }
    }
    contents
}

/// Returns an error of the syntax without the parser's text, which would show the line, and with it perhaps a token.
fn syntax_error(file: &TomlFile, text: &str, fault: &toml::de::Error) -> ConfigError {
    let span = fault.span().unwrap_or_default();
    let mut what = fault.message().to_string();
    if what == "duplicate key" {
        what = format!("duplicate key {:?}", text.get(span.clone()).unwrap_or_default());
    }
    ConfigError::at(file.origin(span.start), what)
}

fn unknown_key(key: &str) -> String {
    match nearest_key(key, SETTINGS.iter().map(|setting| setting.key).chain([ROUTES, TOPICS, ISSUERS])) {
        Some(nearest) => format!("unknown key {key:?}; did you mean {nearest:?}?"),
        None => format!("unknown key {key:?}; `ringhub example-config` prints them all"),
    }
}

/// The most bytes of a file of settings: no real file has more, and it is little memory.
const FILE_BYTES_MAX: u64 = 1 << 20;
