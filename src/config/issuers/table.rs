//! Reads the table of an issuer.

use std::{collections::BTreeMap, sync::Arc};

use toml::de::{DeTable, DeValue};

use super::{
    super::{
        entry::nearest_key,
        file_value::Item,
        quantities::Time,
        routes::reader::{Reader, Value},
        toml::{Masks, in_order, line, toml_pair},
        value::{Shape, one_of},
    },
    keys::{ISSUERS, names, names_of_claims},
};
use crate::{
    auth::{BareTokens, Issuer, JwtIssuer, TopicRight},
    error::{ConfigError, Origin},
    outbound::Outbound,
};

/// An issuer of a file.
#[derive(Debug)]
pub(super) struct GivenIssuer {
    pub(super) issuer: Arc<Issuer>,
    /// The place of the issuer's table.
    pub(super) origin: Origin,
    /// The keys and values as they are shown, those of secrets masked.
    pub(super) shown: String,
    pub(super) warning: Option<String>,
}

impl Reader<'_> {
    /// Reads the table of an issuer, and notes all its errors.
    pub(super) fn issuer(&mut self, keys: &DeTable<'_>, origin: Origin, outbound: &Outbound) -> Option<GivenIssuer> {
        let count = self.errors.len();
        let Some(name) = keys.get("name") else {
            return self.fail("issuers.name", origin, "an issuer needs a name, such as name = \"app\"");
        };
        let mut issuer = JwtIssuer::new(self.text("issuers.name", "a name in quotes", name)?);
        let (mut shown, mut origins) = (String::new(), BTreeMap::new());
        for (key, value) in in_order(keys) {
            let name = &**key.get_ref();
            let Some(known) = names().into_iter().find(|known| *known == name) else {
                let at = self.file.origin(key.span().start);
                self.unknown_of_issuer(at, "an issuer", name, &names());
                continue;
            };
            // A value that is wrong leaves the issuer as it was.
            if let Some(changed) = self.with_key(issuer.clone(), known, value, outbound) {
                issuer = changed;
            }
            let masks = if ["secrets", "jwks"].contains(&known) { Masks::All } else { Masks::None };
            line(&mut shown, &toml_pair(known, value.get_ref(), masks));
            origins.insert(known, self.file.origin(value.span().start));
        }
        if self.errors.len() > count {
            return None;
        }
        let checked = issuer.check().map_err(|(key, what)| {
            let at = origins.get(key).unwrap_or(&origin);
            ConfigError::of(qualified(key), what).from(at.clone())
        });
        let issuer = Arc::new(self.keep(checked)?);
        let url = keys.get("jwks_url").and_then(|value| value.get_ref().as_str()).filter(|url| is_unsafe(url));
        let warning = url.map(|url| {
            let name = issuer.name();
            format!(
                "the keys of the issuer {name:?} come unencrypted, from {url}: whoever is on the way can replace them, \
                 and then make tokens"
            )
        });
        Some(GivenIssuer { issuer, origin, shown, warning })
    }

    /// Returns the issuer with the value of a key.
    fn with_key(
        &mut self,
        issuer: JwtIssuer,
        key: &'static str,
        value: Value<'_, '_>,
        outbound: &Outbound,
    ) -> Option<JwtIssuer> {
        Some(match key {
            "iss" => issuer.iss(self.text("issuers.iss", "text in quotes", value)?),
            "secrets" => {
                let secrets = self.by_id("issuers.secrets", "a secret in quotes", Lines::Texts, value)?;
                secrets.into_iter().fold(issuer, |issuer, (id, secret)| match id {
                    Some(id) => issuer.secret_with_id(id, secret),
                    None => issuer.secret(secret),
                })
            }
            "public_keys" => {
                let expected = "a public key in PEM, in quotes";
                let keys = self.by_id("issuers.public_keys", expected, Lines::OneText, value)?;
                keys.into_iter().fold(issuer, |issuer, (id, pem)| match id {
                    Some(id) => issuer.public_key_with_id(id, pem),
                    None => issuer.public_key(pem),
                })
            }
            "jwks" => issuer.jwks(self.text("issuers.jwks", "a set of keys in JSON, in quotes", value)?),
            "jwks_url" => {
                let url = self.text("issuers.jwks_url", "a URL in quotes", value)?;
                let target = || outbound.target(&url).map_err(|error| error.to_string());
                issuer.jwks_at(self.checked("issuers.jwks_url", value, target)?)
            }
            "jwks_keep" => {
                let time: Time = self.keep(self.file.value("issuers.jwks_keep", value))?;
                issuer.jwks_keep(time.0)
            }
            "algorithms" => {
                let names = self.texts("issuers.algorithms", "an algorithm in quotes, such as \"ES256\"", value)?;
                issuer.algorithms(names.into_iter().map(|(name, _)| name))
            }
            "audience" => {
                let names = self.texts("issuers.audience", "a name in quotes", value)?;
                names.into_iter().fold(issuer, |issuer, (name, _)| issuer.audience(name))
            }
            "leeway" => {
                let time: Time = self.keep(self.file.value("issuers.leeway", value))?;
                issuer.leeway(time.0)
            }
            "require_exp" => match self.boolean("issuers.require_exp", value)? {
                true => issuer,
                false => issuer.accept_without_exp(),
            },
            "cookie" => issuer.cookie(self.text("issuers.cookie", "the name of a cookie in quotes", value)?),
            "bare_tokens" => {
                let word = self.text("issuers.bare_tokens", "\"none\" or \"all\"", value)?;
                let choices = [("none", BareTokens::None), ("all", BareTokens::All)];
                issuer.bare_tokens(self.checked("issuers.bare_tokens", value, || one_of(&word, &choices))?)
            }
            "claims" => self.claims(issuer, value)?,
            // The name, which is read first.
            _ => issuer,
        })
    }

    /// Reads the names of claims.
    fn claims(&mut self, mut issuer: JwtIssuer, value: Value<'_, '_>) -> Option<JwtIssuer> {
        for (key, value) in in_order(self.table("issuers.claims", value)?) {
            let right = match &**key.get_ref() {
                "sub" | "info" => None,
                "subscribe" => Some(TopicRight::Subscribe),
                "publish" => Some(TopicRight::Publish),
                "presence" => Some(TopicRight::Presence),
                "history" => Some(TopicRight::History),
                other => {
                    let at = self.file.origin(key.span().start);
                    self.unknown_of_issuer(at, "issuers.claims", other, &names_of_claims());
                    continue;
                }
            };
            let name = self.text("issuers.claims", "the name of a claim in quotes", value)?;
            issuer = match right {
                Some(right) => issuer.topics_claim(right, name),
                None if key.get_ref() == "sub" => issuer.subject_claim(name),
                None => issuer.info_claim(name),
            };
        }
        Some(issuer)
    }

    /// Reads texts, with a key id for each if they are in a table. Outside a table, each line of a file is a text if
    /// `lines` says so; a written text may have commas.
    fn by_id(
        &mut self,
        key: &'static str,
        expected: &'static str,
        lines: Lines,
        value: Value<'_, '_>,
    ) -> Option<Vec<(Option<String>, String)>> {
        if let DeValue::Table(table) = value.get_ref() {
            let pairs = in_order(table).into_iter().map(|(id, value)| {
                let text = self.text(key, expected, value)?;
                if lines == Lines::Texts && has_lines(&text) {
                    let id = id.get_ref();
                    let what = format!("the key id {id:?} has several lines, and a key id is that of one secret");
                    return self.fail(key, self.file.origin(value.span().start), &what);
                }
                Some((Some(id.get_ref().to_string()), text))
            });
            return pairs.collect();
        }
        let texts = match (value.get_ref(), lines) {
            (DeValue::Array(items), Lines::OneText) if !items.is_empty() => {
                items.iter().map(|item| self.text(key, expected, item)).collect::<Option<Vec<_>>>()?
            }
            (DeValue::Array(_), _) => self.lines_of(key, self.file.items(list(key, expected), value))?,
            (DeValue::String(text), Lines::Texts) => {
                let item = (text.to_string(), self.file.origin(value.span().start));
                self.lines_of(key, self.file.values.resolve(list(key, expected), vec![item]))?
            }
            _ => vec![self.text(key, expected, value)?],
        };
        Some(texts.into_iter().map(|text| (None, text)).collect())
    }

    /// Returns the texts of items, of which each has one line.
    fn lines_of(&mut self, key: &'static str, items: Result<Vec<Item>, ConfigError>) -> Option<Vec<String>> {
        let items = self.keep(items)?;
        for (text, at) in &items {
            if has_lines(text) {
                let what = "a text has several lines, and each secret is a text of its own: write a list of them";
                return self.fail(key, at.clone(), what);
            }
        }
        Some(items.into_iter().map(|(text, _)| text).collect())
    }

    /// Notes that a table has a key that is not known.
    fn unknown_of_issuer(&mut self, at: Origin, owner: &str, key: &str, known: &[&'static str]) {
        let what = match nearest_key(key, known.iter().copied()) {
            Some(nearest) => format!("unknown key {key:?} of {owner}; did you mean {nearest:?}?"),
            None => format!("unknown key {key:?} of {owner}, which has {}", known.join(", ")),
        };
        self.errors.push(ConfigError::at(at, what));
    }
}

/// What the lines of a file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lines {
    /// Each line is a text.
    Texts,
    /// All lines are one text, as those of a key in PEM.
    OneText,
}

/// Returns the shape of a list of texts.
fn list(key: &'static str, expected: &'static str) -> Shape {
    Shape { key, is_list: true, takes_integers: false, expected }
}

/// Returns whether a text has more than one line.
fn has_lines(text: &str) -> bool {
    text.contains(['\n', '\r'])
}

/// Returns whether the answers of a URL could be replaced on their way.
fn is_unsafe(url: &str) -> bool {
    let Some((scheme, rest)) = url.split_once("://") else { return false };
    let host = rest.split(['/', '?']).next().unwrap_or_default();
    let is_here = ["127.", "[::1]", "localhost"].iter().any(|here| host.starts_with(here));
    scheme.eq_ignore_ascii_case("http") && !is_here
}

/// Returns the name of a key in errors.
fn qualified(key: &'static str) -> &'static str {
    match key {
        "name" => "issuers.name",
        "iss" => "issuers.iss",
        "secrets" => "issuers.secrets",
        "public_keys" => "issuers.public_keys",
        "jwks" => "issuers.jwks",
        "jwks_url" => "issuers.jwks_url",
        "jwks_keep" => "issuers.jwks_keep",
        "algorithms" => "issuers.algorithms",
        "leeway" => "issuers.leeway",
        "cookie" => "issuers.cookie",
        "claims" => "issuers.claims",
        _ => ISSUERS,
    }
}
