//! Issuers of tokens: their settings, and the check of a token against them.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use jsonwebtoken::{Algorithm, Validation, decode, errors::ErrorKind};

use super::{
    super::{Answers, Identity, Later, TopicRight},
    algorithms,
    claims::{BareTokens, ClaimNames, identity},
    crypto,
    digest::IssuerDigest,
    fault::Fault,
    keys::{Allowed, KeySet},
    remote::{Fetch, Need, RemoteKeys, Times, first_needed, needed},
    token::{Object, Parts},
};
use crate::{outbound::Target, proto::is_token};

/// The settings of an issuer of tokens. [`Jwt::new`](super::Jwt::new) checks them.
#[derive(Clone)]
pub struct JwtIssuer {
    pub(super) name: String,
    pub(super) iss: Option<String>,
    pub(super) keys: Vec<GivenKey>,
    pub(super) source: Option<Arc<dyn Fetch>>,
    pub(super) algorithms: Option<Vec<String>>,
    pub(super) audience: Vec<String>,
    pub(super) leeway: Duration,
    pub(super) needs_exp: bool,
    pub(super) cookie: Option<String>,
    pub(super) names: ClaimNames,
    pub(super) bare_tokens: BareTokens,
    pub(super) times: Times,
}

/// A key as it is given.
#[derive(Clone, Hash)]
pub(super) enum GivenKey {
    Secret(Option<String>, String),
    Pem(Option<String>, String),
    Set(String),
}

impl JwtIssuer {
    /// Returns the settings of an issuer without keys. The name is for logs, errors and routes.
    #[must_use]
    pub fn new(name: impl Into<String>) -> JwtIssuer {
        JwtIssuer {
            name: name.into(),
            iss: None,
            keys: Vec::new(),
            source: None,
            algorithms: None,
            audience: Vec::new(),
            leeway: LEEWAY,
            needs_exp: true,
            cookie: None,
            names: ClaimNames::default(),
            bare_tokens: BareTokens::default(),
            times: Times::default(),
        }
    }

    /// Sets the claim `iss` that the issuer's tokens have. It is needed if there are several issuers. Without it, a
    /// token may have any or none.
    #[must_use]
    pub fn iss(self, iss: impl Into<String>) -> Self {
        JwtIssuer { iss: Some(iss.into()), ..self }
    }

    /// Adds a secret that the issuer shares with this server: at least 32 bytes for HS256, 48 for HS384, 64 for HS512.
    /// Without [`JwtIssuer::algorithms`], it is for HS256 alone.
    #[must_use]
    pub fn secret(self, secret: impl Into<String>) -> Self {
        self.key(GivenKey::Secret(None, secret.into()))
    }

    /// Adds a secret like [`JwtIssuer::secret`], with the key id (`kid`) that tokens name it by.
    #[must_use]
    pub fn secret_with_id(self, id: impl Into<String>, secret: impl Into<String>) -> Self {
        self.key(GivenKey::Secret(Some(id.into()), secret.into()))
    }

    /// Adds a public key in PEM: RSA, P-256, P-384 or Ed25519.
    #[must_use]
    pub fn public_key(self, pem: impl Into<String>) -> Self {
        self.key(GivenKey::Pem(None, pem.into()))
    }

    /// Adds a public key like [`JwtIssuer::public_key`], with the key id (`kid`) that tokens name it by.
    #[must_use]
    pub fn public_key_with_id(self, id: impl Into<String>, pem: impl Into<String>) -> Self {
        self.key(GivenKey::Pem(Some(id.into()), pem.into()))
    }

    /// Adds a set of keys, or one key, in JSON (RFC 7517).
    #[must_use]
    pub fn jwks(self, json: impl Into<String>) -> Self {
        self.key(GivenKey::Set(json.into()))
    }

    /// Fetches the keys, as a set in JSON, from where the issuer publishes them. They are fetched again when they are
    /// as old as the answer allows (1 minute to 1 hour, 5 minutes if it does not say it), and when a token names a key
    /// that is not among them. While they cannot be fetched, the last ones stay in use for [`JwtIssuer::jwks_keep`].
    ///
    /// ```
    /// use ringhub::{Server, auth::{Jwt, JwtIssuer}};
    /// let builder = Server::builder();
    /// let keys = builder.outbound().target("https://login.example/.well-known/jwks.json")?;
    /// let jwt = Jwt::new([JwtIssuer::new("login").iss("https://login.example").jwks_at(keys)])?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn jwks_at(self, target: Target) -> Self {
        self.source(Arc::new(target))
    }

    /// Sets how long the last keys stay in use while no others can be fetched; the default is a day.
    #[must_use]
    pub fn jwks_keep(mut self, time: Duration) -> Self {
        self.times.kept = time;
        self
    }

    /// Sets the algorithms that the issuer uses, by their names. Without it, a key is used with its own algorithm
    /// (`alg` in JSON), or else with the usual one for its kind: HS256, RS256, ES256, ES384 or EdDSA. An algorithm is
    /// only ever used with a key of its kind.
    #[must_use]
    pub fn algorithms<N: Into<String>>(self, names: impl IntoIterator<Item = N>) -> Self {
        JwtIssuer { algorithms: Some(names.into_iter().map(Into::into).collect()), ..self }
    }

    /// Adds a name of this server. A token has to be for one of the server's names (`aud`). A server without a name
    /// accepts only tokens without `aud`.
    #[must_use]
    pub fn audience(mut self, name: impl Into<String>) -> Self {
        self.audience.push(name.into());
        self
    }

    /// Sets how far the clocks of the issuer and this server may differ, at most an hour; the default is 5 s. It counts
    /// for `exp` and `nbf`.
    #[must_use]
    pub fn leeway(self, leeway: Duration) -> Self {
        JwtIssuer { leeway, ..self }
    }

    /// Accepts tokens that never expire: those without `exp`.
    #[must_use]
    pub fn accept_without_exp(self) -> Self {
        JwtIssuer { needs_exp: false, ..self }
    }

    /// Takes a token from the cookie of this name too. It counts only for requests that show, by `Origin` or
    /// `Sec-Fetch-Site`, that their page is of this server's host or of one of the allowed origins, since a browser
    /// adds a cookie to the requests of every page.
    #[must_use]
    pub fn cookie(self, name: impl Into<String>) -> Self {
        JwtIssuer { cookie: Some(name.into()), ..self }
    }

    /// Reads the name of the identity from this claim, instead of `sub`.
    #[must_use]
    pub fn subject_claim(mut self, name: impl Into<String>) -> Self {
        self.names.subject = name.into();
        self
    }

    /// Reads what others may know of the identity from this claim, instead of `info`.
    #[must_use]
    pub fn info_claim(mut self, name: impl Into<String>) -> Self {
        self.names.info = name.into();
        self
    }

    /// Reads the topics of a right from this claim, instead of `subscribe`, `publish`, `presence` or `history`.
    #[must_use]
    pub fn topics_claim(mut self, right: TopicRight, name: impl Into<String>) -> Self {
        if let Some((_, claim)) = self.names.topics.iter_mut().find(|(other, _)| *other == right) {
            *claim = name.into();
        }
        self
    }

    /// Sets the topics of a token that has none of the claims for topics.
    #[must_use]
    pub fn bare_tokens(self, bare_tokens: BareTokens) -> Self {
        JwtIssuer { bare_tokens, ..self }
    }

    /// Fetches the keys from a source, again and again.
    #[must_use]
    pub(super) fn source(self, source: Arc<dyn Fetch>) -> Self {
        JwtIssuer { source: Some(source), ..self }
    }

    #[cfg(test)]
    pub(super) fn times(self, times: Times) -> Self {
        JwtIssuer { times, ..self }
    }

    fn key(mut self, key: GivenKey) -> Self {
        self.keys.push(key);
        self
    }

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// The key of the file that a wrong setting has, and a sentence, which has no secret.
    pub(crate) fn check(&self) -> Result<Issuer, (&'static str, String)> {
        if self.name.is_empty() {
            return Err(("name", "the name is empty".into()));
        }
        if self.leeway > LEEWAY_MAX {
            return Err(("leeway", "more than an hour: tokens would hardly expire".into()));
        }
        if !(KEEP_MIN..=KEEP_MAX).contains(&self.times.kept) {
            return Err(("jwks_keep", "less than a minute, or more than a year".into()));
        }
        if let Some(cookie) = self.cookie.as_ref().filter(|name| !is_token(name.as_bytes())) {
            return Err(("cookie", format!("{cookie:?} is no name of a cookie")));
        }
        self.check_names()?;
        let allowed = self.allowed()?;
        let keys = match &self.source {
            Some(_) if !self.keys.is_empty() => {
                return Err(("jwks_url", "the issuer has keys already, and it is for issuers without".into()));
            }
            Some(source) => Keys::Remote(RemoteKeys::new(&self.name, Arc::clone(source), allowed, self.times)),
            None => Keys::Fixed(self.given_keys(&allowed)?),
        };
        crypto::provide();
        Ok(Issuer {
            name: self.name.clone(),
            iss: self.iss.clone(),
            keys,
            validation: self.validation(),
            cookie: self.cookie.clone(),
            names: self.names.clone(),
            bare_tokens: self.bare_tokens,
            leeway: self.leeway,
            digest: self.digest(),
        })
    }

    fn digest(&self) -> IssuerDigest {
        let JwtIssuer { name: _, keys, source, iss, algorithms, audience, leeway, .. } = self;
        let JwtIssuer { needs_exp, cookie, names, bare_tokens, times, .. } = self;
        let url = source.as_ref().map(|source| source.url());
        let rest = (iss, algorithms, audience, leeway, needs_exp, cookie, names, bare_tokens, times.kept);
        IssuerDigest::new(&(keys, url), &rest)
    }

    fn check_names(&self) -> Result<(), (&'static str, String)> {
        let topics = self.names.topics.iter().map(|(_, name)| name);
        let mut seen = BTreeMap::new();
        for name in [&self.names.subject, &self.names.info].into_iter().chain(topics) {
            if name.is_empty() {
                return Err(("claims", "the name of a claim is empty".into()));
            }
            if seen.insert(name, ()).is_some() {
                return Err(("claims", format!("{name:?} stands for two things")));
            }
        }
        Ok(())
    }

    fn allowed(&self) -> Result<Allowed, (&'static str, String)> {
        let Some(names) = &self.algorithms else { return Ok(None) };
        if names.is_empty() {
            return Err(("algorithms", "the list is empty, and no token would be accepted".into()));
        }
        let known = names.iter().map(|name| match algorithms::algorithm(name) {
            Some(algorithm) => Ok(algorithm),
            None if name.eq_ignore_ascii_case("none") => Err("\"none\" is no signature, and is never accepted".into()),
            None => Err(format!("{name:?} is unknown; {} are known", algorithms::names(algorithms::ALL))),
        });
        known.collect::<Result<_, _>>().map(Some).map_err(|what| ("algorithms", what))
    }

    fn given_keys(&self, allowed: &Allowed) -> Result<KeySet, (&'static str, String)> {
        let mut keys = KeySet::default();
        for key in &self.keys {
            match key {
                GivenKey::Secret(id, secret) => {
                    keys.add_secret(id.clone(), secret, allowed).map_err(|what| ("secrets", what))?;
                }
                GivenKey::Pem(id, text) => {
                    keys.add_pem(id.clone(), text, allowed).map_err(|what| ("public_keys", what))?;
                }
                GivenKey::Set(text) => keys.add_set(text, allowed).map_err(|what| ("jwks", what))?,
            }
        }
        if keys.is_empty() {
            return Err(("name", "the issuer has no keys: secrets, public_keys, jwks or jwks_url".into()));
        }
        Ok(keys)
    }

    /// Returns what the crate for tokens has to check. The comment above each line begins with the crate's own default.
    fn validation(&self) -> Validation {
        // [HS256], which is replaced for each token by the one algorithm of its header, once that has chosen a key.
        let mut validation = Validation::new(Algorithm::HS256);
        // {"exp"}. The crate checks `aud` and `iss` only where a token has them, so they are required too.
        let required = [
            self.needs_exp.then_some("exp"),
            self.iss.is_some().then_some("iss"),
            (!self.audience.is_empty()).then_some("aud"),
        ];
        validation.required_spec_claims = required.into_iter().flatten().map(String::from).collect();
        // 60 s. Whole seconds are what it counts.
        validation.leeway = self.leeway.as_secs() + u64::from(self.leeway.subsec_nanos() > 0);
        // 0: the end of a token's time ends its connection anyway.
        validation.reject_tokens_expiring_in_less_than = 0;
        // true: also where `exp` is not required.
        validation.validate_exp = true;
        // false.
        validation.validate_nbf = true;
        // true: a token for somebody is not accepted by a server without a name (RFC 7519 4.1.3).
        validation.validate_aud = true;
        // None.
        validation.aud = (!self.audience.is_empty()).then(|| self.audience.iter().cloned().collect());
        // None.
        validation.iss = self.iss.clone().map(|iss| HashSet::from([iss]));
        // None: every subject.
        validation.sub = None;
        validation
    }
}

/// Prints the name and `iss`: keys are secrets.
impl fmt::Debug for JwtIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtIssuer").field("name", &self.name).field("iss", &self.iss).finish_non_exhaustive()
    }
}

/// An issuer whose settings are checked.
pub(crate) struct Issuer {
    name: String,
    iss: Option<String>,
    keys: Keys,
    validation: Validation,
    cookie: Option<String>,
    names: ClaimNames,
    bare_tokens: BareTokens,
    leeway: Duration,
    digest: IssuerDigest,
}

enum Keys {
    Fixed(KeySet),
    Remote(Arc<RemoteKeys>),
}

impl Issuer {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn iss(&self) -> Option<&str> {
        self.iss.as_deref()
    }

    pub(super) fn cookie(&self) -> Option<&str> {
        self.cookie.as_deref()
    }

    pub(super) fn digest(&self) -> IssuerDigest {
        self.digest
    }

    /// Takes over the keys that the issuer has fetched by earlier settings, if the URL is the same.
    pub(super) fn take_over_keys(&self, earlier: &Issuer) {
        if let (Keys::Remote(remote), Keys::Remote(earlier)) = (&self.keys, &earlier.keys) {
            remote.take_over(earlier);
        }
    }

    /// Returns the identity of a token of this issuer.
    ///
    /// # Errors
    ///
    /// The first thing about the token that is wrong. The claims are read only once the signature is right. `answers`
    /// are those of the request, if it can wait.
    pub(super) fn identify(
        &self,
        token: &[u8],
        parts: &Parts,
        answers: Option<&Answers>,
        now: Instant,
    ) -> Result<Identity, Fault> {
        let remote = match &self.keys {
            Keys::Fixed(keys) => return self.verify(token, parts, keys),
            Keys::Remote(remote) => remote,
        };
        let outcome = self.verify(token, parts, &*remote.keys(now).ok_or(Fault::NoKeys)?);
        let is_new = || answers.is_some_and(|answers| !remote.are_fetched_since(first_needed(answers, now)));
        outcome.map_err(|fault| if fault == Fault::UnknownKey && is_new() { Fault::NewKey } else { fault })
    }

    /// Returns the work that a token of this issuer has to wait for, before it can be judged: one fetch at most, for a
    /// request that can wait. If that has brought no keys, the token is judged by those that are there.
    pub(super) fn prepare(&self, parts: &Parts, answers: Option<&Answers>, now: Instant) -> Option<Later> {
        let Keys::Remote(remote) = &self.keys else { return None };
        if answers.and_then(needed).is_some_and(|needed| remote.has_fetch_ended_since(needed)) {
            return None;
        }
        let found = remote.usable(now).map(|keys| keys.candidates(parts.key_id.as_deref(), parts.algorithm).err());
        let need = if found == Some(Some(Fault::UnknownKey)) { Need::Another } else { Need::Any };
        let later = remote.renewed(need, now)?;
        if let Some(answers) = answers {
            first_needed(answers, now);
        }
        Some(later)
    }

    fn verify(&self, token: &[u8], parts: &Parts, keys: &KeySet) -> Result<Identity, Fault> {
        let mut validation = self.validation.clone();
        validation.algorithms = vec![parts.algorithm];
        for key in keys.candidates(parts.key_id.as_deref(), parts.algorithm)? {
            match decode::<Object>(token, key, &validation) {
                Ok(data) => {
                    let found = identity(&data.claims, &self.names, self.bare_tokens, self.leeway);
                    return found.map_err(Fault::of_genuine);
                }
                Err(error) if *error.kind() == ErrorKind::InvalidSignature => {}
                Err(error) if is_after_signature(error.kind()) => return Err(self.fault(error.kind()).of_genuine()),
                Err(error) => return Err(self.fault(error.kind())),
            }
        }
        Err(Fault::of("its signature is wrong"))
    }

    fn fault(&self, kind: &ErrorKind) -> Fault {
        Fault::of(match kind {
            ErrorKind::ExpiredSignature => "it has expired (exp)",
            ErrorKind::ImmatureSignature => "it is not valid yet (nbf)",
            ErrorKind::InvalidAudience if self.validation.aud.is_none() => {
                "it is for an audience (aud), and this server has no name for it (audience)"
            }
            ErrorKind::InvalidAudience => "it is for another audience (aud)",
            ErrorKind::InvalidIssuer => "it is of another issuer (iss)",
            ErrorKind::MissingRequiredClaim(claim) => {
                return Fault::of(format!("its claim {claim} is missing or malformed"));
            }
            ErrorKind::InvalidClaimFormat(claim) => return Fault::of(format!("its claim {claim} is malformed")),
            // The payload is an object of JSON, which has been read already.
            ErrorKind::Json(_) => "a claim among sub, iss, aud, exp and nbf is malformed",
            ErrorKind::Base64(_) => "a part of it is not in base64url",
            _ => "it is malformed",
        })
    }
}

/// Returns whether the crate for tokens finds this fault only once the signature is right.
fn is_after_signature(kind: &ErrorKind) -> bool {
    use ErrorKind::{
        ExpiredSignature, ImmatureSignature, InvalidAudience, InvalidClaimFormat, InvalidIssuer, MissingRequiredClaim,
    };
    matches!(
        kind,
        ExpiredSignature
            | ImmatureSignature
            | InvalidAudience
            | InvalidIssuer
            | MissingRequiredClaim(_)
            | InvalidClaimFormat(_)
    )
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The difference of clocks that is accepted by default: clocks that a network sets differ by less.
const LEEWAY: Duration = Duration::from_secs(5);
const LEEWAY_MAX: Duration = Duration::from_secs(60 * 60);

/// The bounds of the time for which the last keys stay in use.
const KEEP_MIN: Duration = Duration::from_secs(60);
const KEEP_MAX: Duration = Duration::from_secs(366 * 24 * 60 * 60);
