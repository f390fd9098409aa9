//! Issuers of tokens: the tables of a file that name their keys.

pub(super) mod keys;
mod table;

use std::sync::Arc;

use toml::{Spanned, de::DeValue};

pub(super) use self::keys::ISSUERS;
use self::table::GivenIssuer;
use super::{routes::reader::Reader, toml::TomlFile};
use crate::{
    auth::{Issuer, Jwt},
    error::{ConfigError, Origin},
    outbound::Outbound,
};

/// The issuers of a file.
#[derive(Debug, Default)]
pub(super) struct GivenIssuers {
    issuers: Vec<GivenIssuer>,
    /// Whether there are issuers with errors, which are not among these.
    has_errors: bool,
}

impl GivenIssuers {
    /// Returns the issuer of a name; `None` if an issuer with errors may be the one.
    ///
    /// # Errors
    ///
    /// A sentence, if no issuer has the name.
    pub(super) fn named(&self, name: &str) -> Result<Option<Arc<Issuer>>, String> {
        let found = self.issuers.iter().find(|given| given.issuer.name() == name);
        match found {
            Some(given) => Ok(Some(Arc::clone(&given.issuer))),
            None if self.has_errors => Ok(None),
            None if self.issuers.is_empty() => Err(format!("there is no issuer {name:?}, and no [[{ISSUERS}]] at all")),
            None => {
                let names: Vec<&str> = self.issuers.iter().map(|given| given.issuer.name()).collect();
                Err(format!("there is no issuer {name:?}; there are {}", names.join(", ")))
            }
        }
    }

    /// Returns the authenticator of all issuers, if there are any.
    pub(super) fn all(&self) -> Option<Jwt> {
        // The reader has checked that they fit together.
        Jwt::of(self.issuers.iter().map(|given| Arc::clone(&given.issuer)).collect()).ok()
    }

    /// Returns the warnings about issuers.
    pub(super) fn warnings(&self) -> impl Iterator<Item = &String> {
        self.issuers.iter().filter_map(|given| given.warning.as_ref())
    }

    /// Returns the place of each issuer, with its keys and values as they are shown, those of secrets masked.
    pub(super) fn shown(&self) -> impl Iterator<Item = (&Origin, &str)> {
        self.issuers.iter().map(|given| (&given.origin, &*given.shown))
    }
}

/// Reads the issuers of a file. `outbound` will fetch the keys that issuers publish.
pub(super) fn read(
    file: &TomlFile,
    value: &Spanned<DeValue<'_>>,
    errors: &mut Vec<ConfigError>,
    outbound: &Outbound,
) -> GivenIssuers {
    let count = errors.len();
    let mut issuers: Vec<GivenIssuer> = Vec::new();
    let mut reader = Reader { file, errors };
    let tables = match value.get_ref() {
        DeValue::Array(tables) => &tables[..],
        other => {
            let what = format!("tables are expected, each under [[{ISSUERS}]], not this {}", other.type_str());
            reader.fail::<()>(ISSUERS, file.origin(value.span().start), &what);
            &[]
        }
    };
    for table in tables {
        let origin = file.origin(table.span().start);
        let Some(keys) = reader.table(ISSUERS, table) else { continue };
        issuers.extend(reader.issuer(keys, origin, outbound));
    }
    let together = check_together(&issuers, tables.len());
    reader.errors.extend(together);
    GivenIssuers { has_errors: errors.len() > count, issuers }
}

/// Returns the errors of issuers that do not fit together: a token's `iss` has to choose one.
fn check_together(issuers: &[GivenIssuer], count: usize) -> Vec<ConfigError> {
    let mut errors = Vec::new();
    for (at, given) in issuers.iter().enumerate() {
        let mut fail = |key, what: String| errors.push(ConfigError::of(key, what).from(given.origin.clone()));
        let earlier = || issuers[..at].iter();
        if let Some(other) = earlier().find(|other| other.issuer.name() == given.issuer.name()) {
            fail("issuers.name", format!("{:?} is there already, at {}", given.issuer.name(), other.origin));
        }
        match given.issuer.iss() {
            None if count > 1 => {
                fail("issuers.iss", "with several issuers each needs one: a token's iss chooses its issuer".into());
            }
            Some(iss) => {
                if let Some(other) = earlier().find(|other| other.issuer.iss() == Some(iss)) {
                    fail("issuers.iss", format!("{iss:?} is that of the issuer at {} already", other.origin));
                }
            }
            None => {}
        }
    }
    errors
}
