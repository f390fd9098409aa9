//! The table of all keys of an issuer. The keys that the reader knows and docs/routes.md follow from this table.

/// The key of a file that has the issuers.
pub(in crate::config) const ISSUERS: &str = "issuers";

/// One row of the table.
pub(in crate::config) struct IssuerKey {
    /// The key. A key of a table within the issuer has the table's name before it: `claims.info`.
    pub(in crate::config) name: &'static str,
    /// The type of the key's value, in words.
    pub(in crate::config) value: &'static str,
    /// The default, in words.
    pub(in crate::config) preset: &'static str,
    pub(in crate::config) help: &'static str,
}

/// Returns the keys of an issuer itself.
pub(super) fn names() -> Vec<&'static str> {
    let mut names: Vec<&str> = KEYS.iter().filter_map(|key| key.name.split('.').next()).collect();
    names.dedup();
    names
}

/// Returns the keys of the table `claims`.
pub(super) fn names_of_claims() -> Vec<&'static str> {
    KEYS.iter().filter_map(|key| key.name.strip_prefix("claims.")).collect()
}

/// `key: "value", "default", "help";`
macro_rules! keys {
    ($($name:literal: $value:literal, $preset:literal, $help:literal;)+) => {
        /// Every key; the keys of one table stand together.
        pub(in crate::config) const KEYS: &[IssuerKey] = &[$(IssuerKey {
            name: $name,
            value: $value,
            preset: $preset,
            help: $help,
        },)+];
    };
}

keys! {
    "name": "text", "required", "Name of the issuer, for routes (`jwt`), logs and errors.";
    "iss": "text", "any; required if there are several issuers",
        "Claim `iss` of its tokens. It chooses among several issuers.";
    "secrets": "text, list of texts, or table: a text for each key id", "none",
        "Secrets that the issuer shares with the server, of 32 bytes at least: for HS256 (HS384: 48 bytes, HS512: 64). \
         Each line of a file (`file:`) is a secret; in a table a file has one.";
    "public_keys": "text, list of texts, or table: a text for each key id", "none",
        "Public keys in PEM (`-----BEGIN PUBLIC KEY-----`): RSA of 2048 bits or more, P-256, P-384, Ed25519.";
    "jwks": "text", "none", "Set of keys, or one key, in JSON (RFC 7517).";
    "jwks_url": "URL", "none",
        "Address at which the issuer publishes its set of keys. It is fetched again when it is old, and when a token \
         names a key that is not in it.";
    "jwks_keep": "time, 1m to 8784h", "`24h`",
        "How long the last keys of `jwks_url` are used while no others can be fetched. Then tokens are answered 503.";
    "algorithms": "list of `HS256`, `HS384`, `HS512`, `RS256`, `RS384`, `RS512`, `PS256`, `PS384`, `PS512`, `ES256`, \
         `ES384`, `EdDSA`", "for each key its own (`alg`), or `HS256`, `RS256`, `ES256`, `ES384` or `EdDSA`",
        "Algorithms of its tokens. An algorithm is only ever used with a key of its kind; `none` is never accepted.";
    "audience": "text, or list of texts", "none",
        "Names of this server: a token must be for one of them (`aud`). Without a name, a token with `aud` is refused.";
    "leeway": "time, 0 to 1h", "`5s`",
        "How far the clocks of the issuer and the server may differ, for `exp` and `nbf`.";
    "require_exp": "`true` or `false`", "`true`", "Whether a token without `exp`, which never expires, is refused.";
    "cookie": "text", "none",
        "Cookie that may have the token. It counts for pages of the server's own host and of `allowed_origins` alone.";
    "bare_tokens": "`none` or `all`", "`none`",
        "What a token without any claim for topics may use: no topic, or all that its route and the rules of topics \
         leave to everybody who is admitted.";
    "claims.sub": "text", "`sub`", "Claim with the name of the identity: text, or a whole number.";
    "claims.info": "text", "`info`", "Claim that callbacks and handlers get with the identity: any JSON, to 1 KiB.";
    "claims.subscribe": "text", "`subscribe`",
        "Claim with the topics to subscribe to, a list of patterns: `orders/42`, `news/*` (one segment), `news/**`.";
    "claims.publish": "text", "`publish`", "Claim with the topics to publish to.";
    "claims.presence": "text", "`presence`",
        "Claim with the topics whose members may be seen.";
    "claims.history": "text", "`history`",
        "Claim with the topics whose earlier messages may be read.";
}
