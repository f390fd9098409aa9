//! Admits requests: authenticators, bearer tokens, and the origins of browsers' pages.
//!
//! An [`Authenticator`] finds out who sent a request, from the request's head and the address it comes from. There are
//! [`Basic`] (users and passwords), [`Bearer`] (tokens) and [`Network`] (addresses); [`all_of`] and [`any_of`] combine
//! several. For anything else, implement the trait.
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
mod basic;
mod bearer;
mod chain;
mod credentials;
mod gate;
mod network;
mod origins;
#[cfg(test)]
mod testing;
mod tokens;

use std::sync::Arc;

pub use access::Access;
pub(crate) use access::Right;
pub use basic::Basic;
pub use bearer::{Bearer, TokenFault};
pub(crate) use chain::together;
pub use chain::{AllOf, AnyOf, all_of, any_of};
pub use credentials::{Credentials, TOKEN_KEY};
pub(crate) use gate::Gate;
pub use network::Network;
pub use origins::Origins;
pub use tokens::Tokens;

use crate::proto::Refusal;

/// The sender of a request, as an authenticator has found it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The name: a user, a token's owner, a network.
    pub name: String,
}

impl Identity {
    /// Returns the identity of a name.
    pub fn new(name: impl Into<String>) -> Self {
        Identity { name: name.into() }
    }
}

/// Finds out who sent a request.
///
/// An authenticator is called on the threads of shards and on the control thread, and must answer at once. A check that
/// takes longer, such as a slow hash or a question to another server, belongs on another thread: let a handler's
/// `opening` wait for it.
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
    fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Identity, Refusal>;
}

impl<A: Authenticator + ?Sized> Authenticator for Arc<A> {
    fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Identity, Refusal> {
        (**self).authenticate(credentials)
    }
}
