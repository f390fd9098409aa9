//! Who may do what: authenticators, bearer tokens, and the origins of browsers' pages.
//!
//! An [`Authenticator`] finds out who sent a request, from its head and the address it comes from. Those here are
//! [`Basic`] (users and passwords), [`Bearer`] (tokens) and [`Network`] (addresses); [`all_of`] and [`any_of`] put
//! several together, and everything else is a trait away.
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
//! Basic and Bearer send their secrets as they are (RFC 7617 4, RFC 6750 5.2): beyond a network that is trusted, only
//! behind TLS.

#![forbid(unsafe_code)]

mod access;
mod basic;
mod bearer;
mod chain;
mod gate;
mod network;
mod origins;
#[cfg(test)]
mod testing;
mod tokens;

use std::{
    borrow::Cow,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

pub use access::Access;
pub(crate) use access::Right;
pub use basic::Basic;
pub use bearer::{Bearer, TOKEN_KEY, TokenFault};
pub use chain::{AllOf, AnyOf, all_of, any_of};
pub(crate) use gate::Gate;
pub use network::Network;
pub use origins::Origins;
pub use tokens::Tokens;

use crate::proto::{Refusal, RequestHead, query_pairs};

/// Who somebody is, as an authenticator has found.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The name: a user, a token's owner, a network.
    pub name: String,
}

impl Identity {
    /// Somebody of that name.
    pub fn new(name: impl Into<String>) -> Self {
        Identity { name: name.into() }
    }
}

/// What a request shows of who sent it.
#[derive(Clone, Copy)]
pub struct Credentials<'a> {
    /// Its head.
    pub head: &'a RequestHead,
    /// The address it comes from; nothing if the client has gone meanwhile.
    pub peer: Option<SocketAddr>,
}

impl<'a> Credentials<'a> {
    /// What stands behind that scheme in `Authorization` (RFC 9110 11.6.2). Nothing if there is another scheme, no such
    /// header, or more than one: of several, somebody else may have judged another.
    #[must_use]
    pub fn authorization(&self, scheme: &str) -> Option<&'a [u8]> {
        after_scheme(self.header()?, scheme)
    }

    /// The address it comes from, as IPv4 also where it reached an IPv6 socket (`::ffff:192.0.2.1`).
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        self.peer.map(|peer| peer.ip().to_canonical())
    }

    /// The bearer token that it shows, in `Authorization` or else in the query, whose `access_token` is for those who
    /// cannot set a header: browsers that open a WebSocket (RFC 6750 2.1, 2.3).
    #[must_use]
    pub fn token(&self) -> Option<Cow<'a, [u8]>> {
        let of_query = || {
            let mut pairs = query_pairs(self.head.query());
            let (_, value) = pairs.find(|(key, _)| key.as_deref() == Some(TOKEN_KEY))?;
            // What is not UTF-8 is no token that anybody has.
            Some(Cow::Owned(value.unwrap_or_default().into_owned().into_bytes()))
        };
        self.authorization("Bearer").map(Cow::Borrowed).or_else(of_query)
    }

    fn header(&self) -> Option<&'a [u8]> {
        let mut values = self.head.headers().get_all("authorization");
        values.next().filter(|_| values.next().is_none())
    }
}

/// Shows neither headers nor the query: they may hold secrets.
impl fmt::Debug for Credentials<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Credentials { head, peer } = self;
        f.debug_struct("Credentials").field("path", &head.path()).field("peer", peer).finish_non_exhaustive()
    }
}

/// Finds out who sent a request.
///
/// It is asked on a shard's thread and must answer at once; what takes longer, such as a slow hash or another server,
/// belongs into a handler's opening.
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
    /// Who it is, or what to answer instead: 401 with a challenge (`WWW-Authenticate`, RFC 9110 11.6.1), or 403.
    ///
    /// # Errors
    ///
    /// The refusal.
    fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Identity, Refusal>;
}

impl<A: Authenticator + ?Sized> Authenticator for Arc<A> {
    fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Identity, Refusal> {
        (**self).authenticate(credentials)
    }
}

/// Schemes compare without regard to case, and are followed by spaces (RFC 9110 11.1, 11.4).
fn after_scheme<'a>(value: &'a [u8], scheme: &str) -> Option<&'a [u8]> {
    let (before, rest) = value.split_at_checked(scheme.len())?;
    let is_this = before.eq_ignore_ascii_case(scheme.as_bytes()) && rest.first() == Some(&b' ');
    is_this.then(|| rest.trim_ascii())
}
