//! Hashes of an issuer's settings.

use std::hash::{DefaultHasher, Hash, Hasher as _};

/// Hashes of an issuer's settings, by which a reload notices a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IssuerDigest {
    /// Of the keys, or of the URL at which the issuer publishes them.
    pub(super) keys: u64,
    /// Of all other settings.
    pub(super) rest: u64,
}

impl IssuerDigest {
    pub(super) fn new(keys: &impl Hash, rest: &impl Hash) -> IssuerDigest {
        IssuerDigest { keys: hash(keys), rest: hash(rest) }
    }
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
