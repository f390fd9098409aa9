//! The authenticator of tokens.

use std::{borrow::Cow, collections::BTreeSet, fmt, sync::Arc, time::Instant};

use super::{
    super::{Authenticator, Credentials, Identity, Later},
    fault::Fault,
    issuer::{Issuer, JwtIssuer},
    shown::shown,
    token::Parts,
};
use crate::proto::Refusal;

/// JSON Web Tokens (RFC 7519): your application signs a token for a user, and the user's client shows it here.
///
/// A request shows a token in `Authorization`, or as browsers can: in the query's `access_token`, in the list of
/// subprotocols after the name `access_token`, or in a cookie. A token's claims make the [`Identity`]:
///
/// | claim | meaning |
/// | --- | --- |
/// | `sub` | the identity's name; required |
/// | `info` | what others may know of the identity: any JSON, to 1 KiB |
/// | `subscribe`, `publish`, `presence`, `history` | lists of patterns: the topics that the identity may use |
/// | `exp` | the end of the token, and of its connections; required by default |
/// | `nbf` | the time from which the token is accepted |
/// | `iss`, `aud` | the issuer and the audience, which must be those of the settings |
/// | `jti` | the id by which the token can be revoked |
///
/// ```
/// use ringhub::auth::{Jwt, JwtIssuer};
/// let secret = "a random text of 32 bytes, or more";
/// let jwt = Jwt::new([JwtIssuer::new("app").iss("https://app.example").audience("hub").secret(secret)])?;
/// # let _: &dyn ringhub::auth::Authenticator = &jwt;
/// assert!(Jwt::new([JwtIssuer::new("app").secret("short")]).unwrap_err().contains("HS256 needs 32"));
/// # Ok::<(), String>(())
/// ```
///
/// The signatures are checked by the provider of cryptography that the crate `jsonwebtoken` has for the process. If
/// `jsonwebtoken` has no provider when the first issuer is checked, ringhub gives it one that uses `ring` and checks
/// signatures only. A program that also signs tokens with `jsonwebtoken` should set a provider of its own first
/// (`CryptoProvider::install_default`).
#[derive(Clone)]
pub struct Jwt {
    issuers: Arc<[Arc<Issuer>]>,
}

impl Jwt {
    /// Checks the settings of issuers, of which there is at least one. A token's `iss` chooses among several.
    ///
    /// # Errors
    ///
    /// A sentence about the first wrong setting, which has no secret.
    pub fn new(issuers: impl IntoIterator<Item = JwtIssuer>) -> Result<Jwt, String> {
        let checked = issuers.into_iter().map(|issuer| {
            let checked = issuer.check().map(Arc::new);
            checked.map_err(|(key, what)| format!("the issuer {:?}: {key}: {what}", issuer.name))
        });
        Jwt::of(checked.collect::<Result<_, _>>()?)
    }

    /// Returns the authenticator of issuers, each of which has been checked already.
    ///
    /// # Errors
    ///
    /// A sentence, if there is none, if two have one name, or if a token's `iss` could not choose one.
    pub(crate) fn of(issuers: Vec<Arc<Issuer>>) -> Result<Jwt, String> {
        if issuers.is_empty() {
            return Err("without issuers, no token could be accepted".into());
        }
        let mut seen = (BTreeSet::new(), BTreeSet::new());
        if let Some(twice) = issuers.iter().find(|issuer| !seen.0.insert(issuer.name())) {
            return Err(format!("two issuers have the name {:?}", twice.name()));
        }
        for issuer in &issuers {
            match issuer.iss() {
                None if issuers.len() > 1 => {
                    return Err(format!("the issuer {:?} needs an iss, since there are several", issuer.name()));
                }
                Some(iss) if !seen.1.insert(iss) => return Err(format!("two issuers have the iss {iss:?}")),
                _ => {}
            }
        }
        Ok(Jwt { issuers: issuers.into() })
    }

    pub(super) fn issuers(&self) -> impl Iterator<Item = &Issuer> {
        self.issuers.iter().map(|issuer| &**issuer)
    }

    /// Returns the names of the issuers.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.issuers.iter().map(|issuer| issuer.name())
    }

    /// Returns the identity of the token that a request shows.
    fn identify(&self, credentials: &Credentials<'_>, now: Instant) -> Result<Option<Identity>, Fault> {
        let Some(Unverified { token, parts, issuer }) = self.read(credentials)? else { return Ok(None) };
        issuer.identify(&token, &parts, credentials.answers(), now).map(Some)
    }

    /// Returns the names of the cookies that may have a token.
    fn cookies(&self) -> Vec<&str> {
        self.issuers.iter().filter_map(|issuer| issuer.cookie()).collect()
    }

    /// Returns the token that a request shows.
    fn read<'a>(&self, credentials: &Credentials<'a>) -> Result<Option<Unverified<'a, '_>>, Fault> {
        let Some(shown) = shown(credentials, &self.cookies())? else { return Ok(None) };
        let parts = Parts::read(&shown.token)?;
        let issuer = self.issuer(&parts)?;
        if shown.cookie.is_some() && shown.cookie != issuer.cookie() {
            return Err(Fault::of("it came as a cookie that is not for tokens of its issuer"));
        }
        Ok(Some(Unverified { token: shown.token, parts, issuer }))
    }

    /// Returns the issuer of a token. What the token says about it only chooses the keys, by which the token is
    /// checked.
    fn issuer(&self, parts: &Parts) -> Result<&Arc<Issuer>, Fault> {
        if let [only] = &*self.issuers
            && only.iss().is_none()
        {
            return Ok(only);
        }
        let Some(iss) = &parts.issuer else { return Err(Fault::of("its claim iss is missing")) };
        let found = self.issuers.iter().find(|issuer| issuer.iss() == Some(iss));
        found.ok_or(Fault::of("its issuer (iss) is not one whose tokens are accepted here"))
    }
}

impl Authenticator for Jwt {
    fn depends_on_topic(&self) -> bool {
        false
    }

    fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Identity, Refusal> {
        match self.identify(credentials, Instant::now()) {
            Ok(Some(identity)) => Ok(identity),
            Ok(None) => Err(Refusal::new(401, "this needs a token (JWT)").header("WWW-Authenticate", "Bearer")),
            Err(fault) => Err(fault.into()),
        }
    }

    fn prepare(&self, credentials: &Credentials<'_>) -> Option<Later> {
        let Unverified { parts, issuer, .. } = self.read(credentials).ok()??;
        issuer.prepare(&parts, credentials.answers(), Instant::now())
    }

    fn takes_cookies(&self) -> bool {
        self.issuers.iter().any(|issuer| issuer.cookie().is_some())
    }

    fn sees_credentials(&self, credentials: &Credentials<'_>) -> bool {
        !matches!(shown(credentials, &self.cookies()), Ok(None))
    }
}

/// A token that a request shows, with its parts and the issuer that it names.
struct Unverified<'a, 'i> {
    token: Cow<'a, [u8]>,
    parts: Parts,
    issuer: &'i Issuer,
}

/// Prints the names of the issuers.
impl fmt::Debug for Jwt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.issuers.iter().map(|issuer| issuer.name())).finish()
    }
}
