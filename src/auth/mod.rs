//! Admits requests: authenticators, bearer tokens, and the origins of browsers' pages.
//!
//! An [`Authenticator`] finds out who sent a request, from the request's head and the address it comes from. There are
//! [`Basic`] (users and passwords), [`Bearer`] (tokens of a list), [`Jwt`] (tokens that an application signs),
//! [`Callback`] (the application is asked) and [`Network`] (addresses); [`all_of`] and [`any_of`] combine several. For
//! anything else, implement the trait.
//!
//! ```
//! use ringhub::auth::{Basic, Bearer, Network, all_of, any_of};
//! let people = Basic::new("the hub", [("alice", "a long password")])?;
//! let services = Bearer::new([("billing", "a-long-random-word")])?;
//! let inside = Network::new(&["10.0.0.0/8", "fd00::/8"], &["10.66.0.0/16"])?;
//! let authenticator = all_of(inside).and(any_of(people).or(services));
//! # let _: &dyn ringhub::auth::Authenticator = &authenticator;
//! # Ok::<(), String>(())
//! ```
//!
//! With Basic and Bearer, clients send their secrets in the clear (RFC 7617 4, RFC 6750 5.2). Outside a trusted
//! network, use them only behind TLS.

#![forbid(unsafe_code)]

mod access;
mod answers;
mod basic;
mod bearer;
mod callback;
mod chain;
mod credentials;
mod gate;
mod grants;
mod identities;
mod jwt;
mod network;
mod origins;
mod permission;
mod proxies;
mod revocations;
#[cfg(test)]
mod testing;
mod tokens;

use std::{iter, sync::Arc, time::SystemTime};

pub use access::Access;
pub(crate) use access::Right;
pub(crate) use answers::ROUNDS_MAX;
pub use answers::{Answers, Later};
pub use basic::Basic;
pub use bearer::{Bearer, TokenFault};
pub use callback::{Callback, CallbackOptions, OnError};
pub(crate) use chain::together;
pub use chain::{AllOf, AnyOf, all_of, any_of};
pub use credentials::{Credentials, TOKEN_KEY};
pub(crate) use gate::{Gate, Stopped};
pub use grants::{Grants, TopicRight};
pub(crate) use identities::{Identities, OTHERS_MAX};
pub use jwt::{BareTokens, Jwt, JwtIssuer};
pub(crate) use jwt::{Issuer, IssuerChange, TOKEN_BYTES_MAX};
pub use network::{AddressRange, Network};
pub use origins::Origins;
pub(crate) use permission::{Decision, decide};
pub use permission::{PermissionSource, TopicQuestion};
pub(crate) use proxies::Remote;
pub use proxies::{ClientAddress, TrustedProxies};
pub use revocations::{Revocation, RevocationError};
pub(crate) use revocations::{Revocations, unix_seconds};
pub use tokens::Tokens;

use crate::proto::Refusal;

/// The sender of a request, as an authenticator has found it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Identity {
    /// The name: a user, a token's owner, a network.
    pub name: String,
    /// What others may know of the identity: a text of JSON.
    pub info: Option<Arc<str>>,
    /// The topics that the identity may use; `None` leaves the decision to routes and the rules of topics.
    pub grants: Option<Arc<Grants>>,
    /// The time from which on the identity is not valid any more, because its token expires. A tolerance for clocks
    /// that differ is part of it.
    pub expires: Option<SystemTime>,
    /// The id of the identity's token (`jti`), by which the token can be revoked.
    pub token_id: Option<Arc<str>>,
    /// Whether the name is that of a network, which many clients share.
    pub(crate) is_network: bool,
    /// The identity that the authenticator before has found, where both must admit a request.
    pub(crate) earlier: Option<Box<Identity>>,
}

impl Identity {
    /// Returns the identity of a name, without grants of its own.
    pub fn new(name: impl Into<String>) -> Self {
        Identity {
            name: name.into(),
            info: None,
            grants: None,
            expires: None,
            token_id: None,
            is_network: false,
            earlier: None,
        }
    }

    /// Returns this identity, and those that other authenticators have found for the same request, where all of several
    /// must admit it ([`AllOf`]): the last one first. The grants and the revocations of each hold, and the first expiry
    /// of all.
    pub fn each(&self) -> impl Iterator<Item = &Identity> + Clone {
        iter::successors(Some(self), |identity| identity.earlier.as_deref())
    }

    /// Adds the identity, with those before it, that the authenticator before has found for the same request.
    pub(crate) fn after(mut self, earlier: Identity) -> Identity {
        let mut place = &mut self.earlier;
        while let Some(identity) = place {
            place = &mut identity.earlier;
        }
        *place = Some(Box::new(earlier));
        self
    }

    /// Returns the parts of the identity that its expiry, its revocation and its rates need: no info, no grants, no
    /// earlier identity.
    fn without_grants(&self) -> Identity {
        let Identity { name, expires, token_id, is_network, .. } = self;
        Identity { expires: *expires, token_id: token_id.clone(), is_network: *is_network, ..Identity::new(&**name) }
    }

    /// Gives the identity the topics that it may use, and no others.
    #[must_use]
    pub fn with_grants(self, grants: Grants) -> Self {
        Identity { grants: Some(Arc::new(grants)), ..self }
    }

    /// Sets the time from which on the identity is not valid any more. A connection of the identity is closed then with
    /// the code 4401, unless it gets a fresh token ([`Connection::renew_token`](crate::Connection::renew_token)).
    #[must_use]
    pub fn with_expiry(self, expires: SystemTime) -> Self {
        Identity { expires: Some(expires), ..self }
    }

    /// Returns the bytes of memory of the identity, roughly.
    pub(crate) fn bytes(&self) -> usize {
        let texts =
            self.name.len() + [&self.info, &self.token_id].into_iter().flatten().map(|text| text.len()).sum::<usize>();
        size_of::<Identity>() + texts + self.grants.as_ref().map_or(0, |grants| grants.bytes())
    }

    /// Checks that the identity's token has not expired.
    ///
    /// # Errors
    ///
    /// 401.
    pub(crate) fn check_expiry(&self) -> Result<(), Refusal> {
        if self.expires.is_some_and(|expires| expires <= SystemTime::now()) {
            let challenge = "Bearer error=\"invalid_token\"";
            return Err(Refusal::new(401, "the token has expired").header("WWW-Authenticate", challenge));
        }
        Ok(())
    }
}

/// Finds out who sent a request.
///
/// An authenticator is called on the threads of shards and on the control thread, and must answer at once. A check that
/// takes longer, such as a slow hash or a question to another server, belongs on another thread:
/// [`Authenticator::prepare`] lets the request wait for it.
///
/// ```
/// use ringhub::{
///     auth::{Authenticator, Credentials, Identity},
///     proto::Refusal,
/// };
///
/// /// Trusts the name that a proxy in front has found.
/// struct Proxied;
///
/// impl Authenticator for Proxied {
///     fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Identity, Refusal> {
///         let user = credentials.head.headers().get("x-user").and_then(|user| str::from_utf8(user).ok());
///         user.map(Identity::new).ok_or_else(|| Refusal::new(403, "nobody has vouched for you"))
///     }
/// }
/// ```
pub trait Authenticator: Send + Sync + 'static {
    /// Returns the sender, or refuses: 401 with a challenge (`WWW-Authenticate`, RFC 9110 11.6.1), or 403.
    ///
    /// # Errors
    ///
    /// The refusal. A status that is not between 200 and 599 is sent as 500. Header lines that frame the answer
    /// (`Connection`, `Content-Length`, `Transfer-Encoding`), or whose names are not valid header names (RFC 9110 5.1),
    /// are left out.
    ///
    /// A refusal of credentials that are wrong has a mark ([`Refusal::for_wrong_credentials`]), by which the server
    /// limits how fast an address can guess (`max_guess_rate`). Only marked refusals count, whatever their status is.
    /// Do not mark a refusal of missing credentials, or of right ones that are for something else.
    fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Identity, Refusal>;

    /// Returns whether a request shows credentials that this authenticator looks at, whatever they are worth. An
    /// address that has shown wrong credentials faster than `max_guess_rate` allows is refused unheard with each
    /// request that shows some, so that it does not learn which guess is right. Its other requests are judged.
    ///
    /// The default implementation returns `true` for every request.
    ///
    /// ```
    /// use ringhub::{
    ///     auth::{Authenticator, Credentials, Identity, Tokens},
    ///     proto::Refusal,
    /// };
    ///
    /// /// Admits whoever shows a key of the service.
    /// struct ByKey(Tokens);
    ///
    /// impl Authenticator for ByKey {
    ///     fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Identity, Refusal> {
    ///         match credentials.head.headers().get("x-api-key") {
    ///             None => Err(Refusal::new(401, "this needs X-Api-Key")),
    ///             key if self.0.admit(key) => Ok(Identity::new("service")),
    ///             Some(_) => Err(Refusal::new(401, "the key is wrong").for_wrong_credentials()),
    ///         }
    ///     }
    ///
    ///     fn sees_credentials(&self, credentials: &Credentials<'_>) -> bool {
    ///         credentials.head.headers().get("x-api-key").is_some()
    ///     }
    /// }
    /// ```
    fn sees_credentials(&self, credentials: &Credentials<'_>) -> bool {
        _ = credentials;
        true
    }

    /// Returns the work that a request has to wait for before [`Authenticator::authenticate`] can decide, or `None` if
    /// it can decide at once.
    ///
    /// The server calls this function only with credentials that have [`Credentials::answers`]: for a request that can
    /// wait. It awaits the work, and asks both functions again. The work runs on the thread that asks, so it must only
    /// wait for another thread. It must not begin before it is polled: where another authenticator decides, the work is
    /// dropped unpolled. It puts its result into a cache of the authenticator, or into the request's own
    /// [`Credentials::answers`]. A request that still has to wait after some rounds, or for too long, is answered 503.
    fn prepare(&self, credentials: &Credentials<'_>) -> Option<Later> {
        _ = credentials;
        None
    }

    /// Returns whether the decision depends on the topic of the request ([`Credentials::topic`]).
    ///
    /// A client of `ringhub.v1` opens its connection without a topic, and names topics in its messages. If the decision
    /// depends on the topic, this authenticator is asked again about each of them, unless every identity that it has
    /// found without a topic has grants, which name the topics. So it must not take a credential that is good for one
    /// question.
    ///
    /// The default implementation returns `true`.
    fn depends_on_topic(&self) -> bool {
        true
    }

    /// Returns whether a cookie alone may admit a request. A browser adds cookies to the requests of every page, so the
    /// answers then have the header lines that keep them out of foreign pages, whatever origins are allowed.
    fn takes_cookies(&self) -> bool {
        false
    }
}

impl<A: Authenticator + ?Sized> Authenticator for Arc<A> {
    fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Identity, Refusal> {
        (**self).authenticate(credentials)
    }

    fn prepare(&self, credentials: &Credentials<'_>) -> Option<Later> {
        (**self).prepare(credentials)
    }

    fn takes_cookies(&self) -> bool {
        (**self).takes_cookies()
    }

    fn depends_on_topic(&self) -> bool {
        (**self).depends_on_topic()
    }

    fn sees_credentials(&self, credentials: &Credentials<'_>) -> bool {
        (**self).sees_credentials(credentials)
    }
}
