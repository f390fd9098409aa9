//! The authenticators of a route, in the form that warnings need.

use std::fmt;

use crate::auth::Bearer;

/// The authenticators of a route, in the form that warnings need.
#[derive(Debug, Clone)]
pub(in crate::config) struct Admission {
    /// A hash of the authenticators and the origins in the route's table. The hash is equal for two routes with the
    /// same authenticators and origins.
    pub(in crate::config) fingerprint: u64,
    /// The keys of the authenticators. `bearer` and `jwt` are one authenticator, which takes a token of either kind: a
    /// request shows one token.
    pub(in crate::config) keys: Vec<&'static str>,
    /// Whether all authenticators must admit a request, or one of them.
    pub(super) is_all: bool,
    pub(super) bearer: Option<Bearer>,
    /// The names of the issuers whose tokens the route takes.
    pub(in crate::config) issuers: Vec<String>,
    /// Whether the application decides, among other things, by the cookies of a request.
    pub(super) asks_with_cookies: bool,
}

impl Admission {
    /// Returns whether the route admits a request by credentials that a browser adds to the requests of any page: the
    /// user's address, a password that the browser has stored, or cookies.
    pub(in crate::config) fn is_passed_by_browsers(&self) -> bool {
        let [network, basic, bearer, jwt] = [NETWORK, BASIC, BEARER, JWT].map(|key| self.keys.contains(&key));
        (network || basic || self.asks_with_cookies) && !((bearer || jwt) && self.is_all)
    }

    /// Returns the tokens of which every request has to show one.
    pub(in crate::config) fn needed_bearer(&self) -> Option<&Bearer> {
        self.bearer.as_ref().filter(|_| self.needs_only(BEARER))
    }

    /// Returns whether every request has to show a token of an issuer.
    pub(in crate::config) fn needs_jwt(&self) -> bool {
        self.keys.contains(&JWT) && self.needs_only(JWT)
    }

    /// Returns whether no other authenticator may stand in for the one of this key.
    fn needs_only(&self, key: &str) -> bool {
        let is_token = |key: &str| [BEARER, JWT].contains(&key);
        let mut others = self.keys.iter().filter(|other| **other != key);
        if self.is_all { !others.any(|other| is_token(other)) } else { others.next().is_none() }
    }
}

/// Writes the authenticators in words.
impl fmt::Display for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let between = if self.is_all { " and " } else { " or " };
        f.write_str(if self.keys.is_empty() { "nothing" } else { "" })?;
        let keys = self.keys.join(between);
        // The two kinds of tokens.
        let either = format!("{BEARER} or {JWT}");
        let either = if self.keys.len() > 2 && self.is_all { format!("({either})") } else { either };
        f.write_str(&keys.replace(&format!("{BEARER}{between}{JWT}"), &either))
    }
}

/// The keys of a route for its authenticators.
pub(in crate::config) const NETWORK: &str = "network";
pub(super) const BASIC: &str = "basic";
pub(super) const BEARER: &str = "bearer";
pub(super) const CALLBACK: &str = "callback";
pub(super) const JWT: &str = "jwt";
