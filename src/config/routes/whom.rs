//! The people whom a route lets in, as far as warnings need them.

use std::fmt;

use crate::auth::Bearer;

/// The people whom a route of a file lets in, as far as warnings need them.
#[derive(Debug, Clone)]
pub(in crate::config) struct Whom {
    /// A hash that is equal for two routes that let the same people in.
    pub(in crate::config) fingerprint: u64,
    /// The keys of the authenticators.
    pub(in crate::config) keys: Vec<&'static str>,
    /// Whether all authenticators must admit, not one of them.
    pub(super) is_all: bool,
    pub(super) bearer: Option<Bearer>,
}

impl Whom {
    /// Returns whether a person is let in by credentials that a browser adds to the requests of any page: the user's
    /// address, or a password that was typed once.
    pub(in crate::config) fn is_known_to_browsers(&self) -> bool {
        let [network, basic, bearer] = [NETWORK, BASIC, BEARER].map(|key| self.keys.contains(&key));
        (network || basic) && !(bearer && self.is_all)
    }

    /// Returns the tokens of which every request has to show one.
    pub(in crate::config) fn needed_bearer(&self) -> Option<&Bearer> {
        self.bearer.as_ref().filter(|_| self.is_all || self.keys.len() == 1)
    }
}

/// Writes the authenticators in words.
impl fmt::Display for Whom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let between = if self.is_all { " and " } else { " or " };
        f.write_str(if self.keys.is_empty() { "nothing" } else { "" })?;
        f.write_str(&self.keys.join(between))
    }
}

/// The keys of a route for its authenticators.
pub(in crate::config) const NETWORK: &str = "network";
pub(super) const BASIC: &str = "basic";
pub(super) const BEARER: &str = "bearer";
