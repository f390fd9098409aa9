//! The differences between the issuers before and after a reload.

use std::collections::BTreeMap;

use super::{authenticator::Jwt, issuer::Issuer};

/// What a reload has changed of an issuer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IssuerChange {
    Added,
    Removed,
    /// Its keys differ, or the URL at which it publishes them.
    Keys,
    /// Its other settings differ.
    Settings,
    KeysAndSettings,
}

impl Jwt {
    /// Returns the names of the issuers that differ, and what has changed, in the order of the names.
    pub(crate) fn changes<'a>(from: Option<&'a Jwt>, to: Option<&'a Jwt>) -> Vec<(&'a str, IssuerChange)> {
        let mut pairs: BTreeMap<&str, (Option<&Issuer>, Option<&Issuer>)> = BTreeMap::new();
        issuers(from).for_each(|issuer| pairs.entry(issuer.name()).or_default().0 = Some(issuer));
        issuers(to).for_each(|issuer| pairs.entry(issuer.name()).or_default().1 = Some(issuer));
        let changed = pairs.into_iter().filter_map(|(name, pair)| {
            let change = match pair {
                (None, _) => IssuerChange::Added,
                (_, None) => IssuerChange::Removed,
                (Some(from), Some(to)) => {
                    let (from, to) = (from.digest(), to.digest());
                    match (from.keys == to.keys, from.rest == to.rest) {
                        (true, true) => return None,
                        (false, true) => IssuerChange::Keys,
                        (true, false) => IssuerChange::Settings,
                        (false, false) => IssuerChange::KeysAndSettings,
                    }
                }
            };
            Some((name, change))
        });
        changed.collect()
    }

    /// Takes over the keys that the issuers of the same names have fetched from the same URLs.
    pub(crate) fn take_over_keys(&self, earlier: &Jwt) {
        for issuer in self.issuers() {
            if let Some(earlier) = earlier.issuers().find(|earlier| earlier.name() == issuer.name()) {
                issuer.take_over_keys(earlier);
            }
        }
    }
}

fn issuers(jwt: Option<&Jwt>) -> impl Iterator<Item = &Issuer> {
    jwt.into_iter().flat_map(Jwt::issuers)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{
        super::{super::TopicRight, BareTokens, JwtIssuer},
        *,
    };

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn each_change_of_an_issuer_is_named() {
        let app = || JwtIssuer::new("app").iss("a").secret(SECRET);
        let of = |issuers: Vec<JwtIssuer>| Jwt::new(issuers).unwrap();
        let check = |to: JwtIssuer, expected: &[(&str, IssuerChange)]| {
            assert_eq!(Jwt::changes(Some(&of(vec![app()])), Some(&of(vec![to]))), expected);
        };
        let (keys, settings) = ([("app", IssuerChange::Keys)], [("app", IssuerChange::Settings)]);
        check(app(), &[]);
        check(app().secret(SECRET.to_uppercase()), &keys);
        check(JwtIssuer::new("app").iss("a").secret_with_id("1", SECRET), &keys);
        check(app().iss("b"), &settings);
        check(app().algorithms(["HS256"]), &settings);
        check(app().audience("hub"), &settings);
        check(app().leeway(Duration::ZERO), &settings);
        check(app().accept_without_exp(), &settings);
        check(app().cookie("session"), &settings);
        check(app().subject_claim("user"), &settings);
        check(app().topics_claim(TopicRight::Publish, "may_publish"), &settings);
        check(app().bare_tokens(BareTokens::All), &settings);
        check(app().jwks_keep(Duration::from_secs(60)), &settings);
        check(app().iss("b").secret(SECRET.to_uppercase()), &[("app", IssuerChange::KeysAndSettings)]);
        // The order of issuers makes no difference.
        let other = || JwtIssuer::new("b").iss("b").secret(SECRET);
        let (one, both) = (of(vec![app()]), of(vec![other(), app()]));
        assert_eq!(Jwt::changes(Some(&one), Some(&both)), [("b", IssuerChange::Added)]);
        assert_eq!(Jwt::changes(Some(&both), Some(&of(vec![app(), other()]))), []);
        assert_eq!(Jwt::changes(Some(&both), Some(&one)), [("b", IssuerChange::Removed)]);
        let removed = [("app", IssuerChange::Removed), ("b", IssuerChange::Removed)];
        assert_eq!(Jwt::changes(Some(&both), None), removed);
        assert_eq!(Jwt::changes(None, None), []);
    }
}
