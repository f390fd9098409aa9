//! The people whom a route lets in, as far as an operator can be warned of it.

use std::fmt;

use crate::auth::Bearer;

/// Whom a route of a file lets in, as far as an operator can be warned of it.
#[derive(Debug, Clone)]
pub(in crate::config) struct Whom {
    /// The same for two routes that let the same people in.
    pub(in crate::config) fingerprint: u64,
    /// What is asked for, by its keys.
    pub(in crate::config) keys: Vec<&'static str>,
    /// Whether all of that is needed, not one of it.
    pub(super) is_all: bool,
    pub(super) bearer: Option<Bearer>,
}

impl Whom {
    /// Returns whether somebody is let in by what a browser adds to the requests of any page: the user's address, or a
    /// password that was typed once.
    pub(in crate::config) fn is_known_to_browsers(&self) -> bool {
        let [network, basic, bearer] = [NETWORK, BASIC, BEARER].map(|key| self.keys.contains(&key));
        (network || basic) && !(bearer && self.is_all)
    }

    /// Returns the tokens of which everybody has to show one.
    pub(in crate::config) fn needed_bearer(&self) -> Option<&Bearer> {
        self.bearer.as_ref().filter(|_| self.is_all || self.keys.len() == 1)
    }
}

/// What is asked for, in words.
impl fmt::Display for Whom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let between = if self.is_all { " and " } else { " or " };
        f.write_str(if self.keys.is_empty() { "nothing" } else { "" })?;
        f.write_str(&self.keys.join(between))
    }
}

/// The keys of a route that say whom it lets in.
pub(in crate::config) const NETWORK: &str = "network";
pub(super) const BASIC: &str = "basic";
pub(super) const BEARER: &str = "bearer";
