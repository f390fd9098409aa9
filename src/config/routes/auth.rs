//! Reads the authenticators of a route.

use std::sync::Arc;

use super::{
    super::{issuers::GivenIssuers, toml::in_order, value::one_of},
    given::ROUTES,
    keys::names_below,
    reader::{Reader, Value},
};
use crate::{
    auth::{Authenticator, Basic, Bearer, Jwt, Network},
    error::ConfigError,
};

impl Reader<'_> {
    pub(super) fn basic(&mut self, value: Value<'_, '_>) -> Option<Arc<dyn Authenticator>> {
        let (mut realm, mut users, mut whole) = (String::from("ringhub"), Vec::new(), true);
        for (key, value) in in_order(self.table("routes.basic", value)?) {
            match &**key.get_ref() {
                "realm" => match self.text("routes.basic.realm", "a name in quotes", value) {
                    Some(given) => realm = given,
                    None => whole = false,
                },
                "users" => {
                    for (user, value) in in_order(self.table("routes.basic.users", value)?) {
                        match self.text("routes.basic.users", "a password in quotes", value) {
                            Some(password) => users.push((user.get_ref().to_string(), password)),
                            None => whole = false,
                        }
                    }
                }
                other => self.unknown(
                    self.file.origin(key.span().start),
                    ROUTES,
                    "routes.basic",
                    other,
                    &names_below("basic"),
                ),
            }
        }
        let basic = whole.then(|| self.checked("routes.basic", value, || Basic::new(&realm, users)))?;
        basic.map(|basic| Arc::new(basic) as _)
    }

    pub(super) fn bearer(&mut self, value: Value<'_, '_>) -> Option<Bearer> {
        let (mut tokens, mut whole) = (Vec::new(), true);
        for (key, value) in in_order(self.table("routes.bearer", value)?) {
            if key.get_ref() != "tokens" {
                self.unknown(
                    self.file.origin(key.span().start),
                    ROUTES,
                    "routes.bearer",
                    key.get_ref(),
                    &names_below("bearer"),
                );
                continue;
            }
            for (name, value) in in_order(self.table("routes.bearer.tokens", value)?) {
                match self.texts("routes.bearer.tokens", "a token in quotes", value) {
                    Some(given) => {
                        tokens.extend(given.into_iter().map(|(token, _)| (name.get_ref().to_string(), token)))
                    }
                    None => whole = false,
                }
            }
        }
        whole.then(|| self.checked("routes.bearer", value, || Bearer::new(tokens)))?
    }

    /// Reads the names of the issuers whose tokens a route admits.
    pub(super) fn jwt(&mut self, value: Value<'_, '_>, issuers: &GivenIssuers) -> Option<Jwt> {
        let names = self.texts("routes.jwt", "the name of an issuer in quotes", value)?;
        let mut chosen = Vec::new();
        for (name, at) in names {
            let found = issuers.named(&name).map_err(|what| ConfigError::of("routes.jwt", what).from(at));
            chosen.push(self.keep(found)?);
        }
        // An issuer that is wrong has an error of its own.
        let chosen = chosen.into_iter().collect::<Option<Vec<_>>>()?;
        self.checked("routes.jwt", value, || Jwt::of(chosen))
    }

    pub(super) fn network(&mut self, value: Value<'_, '_>) -> Option<Arc<dyn Authenticator>> {
        let (mut allow, mut deny) = (Vec::new(), Vec::new());
        for (key, value) in in_order(self.table("routes.network", value)?) {
            match &**key.get_ref() {
                "allow" => allow = self.networks("routes.network.allow", value)?,
                "deny" => deny = self.networks("routes.network.deny", value)?,
                other => self.unknown(
                    self.file.origin(key.span().start),
                    ROUTES,
                    "routes.network",
                    other,
                    &names_below("network"),
                ),
            }
        }
        let lists = [&allow, &deny].map(|list| list.iter().map(|text| &**text).collect::<Vec<&str>>());
        let network = self.checked("routes.network", value, || Network::new(&lists[0], &lists[1]))?;
        Some(Arc::new(network))
    }

    fn networks(&mut self, key: &'static str, value: Value<'_, '_>) -> Option<Vec<String>> {
        let networks = self.texts(key, "a network in quotes, such as \"10.0.0.0/8\"", value)?;
        for (network, at) in &networks {
            let checked = Network::new(&[network], &[]).map_err(|what| ConfigError::of(key, what).from(at.clone()));
            self.keep(checked)?;
        }
        Some(networks.into_iter().map(|(network, _)| network).collect())
    }

    /// Reads whether all authenticators must admit a request, or one of them.
    pub(super) fn admit(&mut self, value: Value<'_, '_>) -> Option<bool> {
        let admit = self.text("routes.admit", "\"all\" or \"any\"", value)?;
        self.checked("routes.admit", value, || one_of(&admit, &[("all", true), ("any", false)]))
    }
}
