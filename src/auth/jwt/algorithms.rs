//! The algorithms of signatures (RFC 7518 3.1, RFC 8037 3.1), and the kinds of keys that they are for.

use jsonwebtoken::Algorithm;

/// A kind of key. An algorithm is used with keys of its own kind alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyKind {
    /// A secret, which the issuer and this server share.
    Hmac,
    Rsa,
    P256,
    P384,
    Ed25519,
}

impl KeyKind {
    /// Returns the algorithms for keys of this kind. The first one is used if nothing names another: a key is for one
    /// algorithm (RFC 8725 3.1).
    pub(super) fn algorithms(self) -> &'static [Algorithm] {
        use Algorithm::{ES256, ES384, EdDSA, HS256, HS384, HS512, PS256, PS384, PS512, RS256, RS384, RS512};
        match self {
            KeyKind::Hmac => &[HS256, HS384, HS512],
            KeyKind::Rsa => &[RS256, PS256, RS384, RS512, PS384, PS512],
            KeyKind::P256 => &[ES256],
            KeyKind::P384 => &[ES384],
            KeyKind::Ed25519 => &[EdDSA],
        }
    }

    /// Returns the kind in words.
    pub(super) fn words(self) -> &'static str {
        match self {
            KeyKind::Hmac => "a secret",
            KeyKind::Rsa => "an RSA key",
            KeyKind::P256 => "a key of the curve P-256",
            KeyKind::P384 => "a key of the curve P-384",
            KeyKind::Ed25519 => "an Ed25519 key",
        }
    }
}

/// Returns the algorithm of a name, in exactly this spelling (RFC 7515 4.1.1).
pub(super) fn algorithm(name: &str) -> Option<Algorithm> {
    ALL.iter().copied().find(|&algorithm| self::name(algorithm) == name)
}

/// Returns the name of an algorithm.
pub(super) fn name(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::HS256 => "HS256",
        Algorithm::HS384 => "HS384",
        Algorithm::HS512 => "HS512",
        Algorithm::RS256 => "RS256",
        Algorithm::RS384 => "RS384",
        Algorithm::RS512 => "RS512",
        Algorithm::PS256 => "PS256",
        Algorithm::PS384 => "PS384",
        Algorithm::PS512 => "PS512",
        Algorithm::ES256 => "ES256",
        Algorithm::ES384 => "ES384",
        Algorithm::EdDSA => "EdDSA",
        // The crate may get algorithms that this server does not have.
        _ => "",
    }
}

/// Returns the names of algorithms, as a list.
pub(super) fn names(algorithms: &[Algorithm]) -> String {
    algorithms.iter().map(|&algorithm| name(algorithm)).collect::<Vec<_>>().join(", ")
}

/// Every algorithm of this server. `none` is not among them (RFC 8725 3.2).
pub(super) const ALL: &[Algorithm] = &[
    Algorithm::HS256,
    Algorithm::HS384,
    Algorithm::HS512,
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_algorithm_has_a_name_and_one_kind_of_key() {
        let kinds = [KeyKind::Hmac, KeyKind::Rsa, KeyKind::P256, KeyKind::P384, KeyKind::Ed25519];
        for &one in ALL {
            assert_eq!(algorithm(name(one)), Some(one));
            assert_eq!(name(one), format!("{one:?}"));
            let of: Vec<KeyKind> = kinds.into_iter().filter(|kind| kind.algorithms().contains(&one)).collect();
            assert_eq!(of.len(), 1, "{one:?} {of:?}");
        }
        for unknown in ["", "none", "None", "NONE", "hs256", "ES512", "ES256K", "HS256 "] {
            assert_eq!(algorithm(unknown), None, "{unknown}");
        }
    }
}
