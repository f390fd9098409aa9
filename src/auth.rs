//! Who may do what: authenticators, bearer tokens, and the origins of browsers' pages.

use std::{fmt, net::SocketAddr};

use subtle::{Choice, ConstantTimeEq};

use crate::proto::{Refusal, RequestHead};

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
#[derive(Debug, Clone, Copy)]
pub struct Credentials<'a> {
    /// Its head.
    pub head: &'a RequestHead,
    /// The address it comes from; nothing if the client has gone meanwhile.
    pub peer: Option<SocketAddr>,
}

/// Finds out who sent a request.
///
/// It is asked on a shard's thread and must answer at once; what takes longer belongs into
/// [`Handler::opening`](crate::handler::Handler::opening).
pub trait Authenticator: Send + Sync + 'static {
    /// Who it is, or what to answer instead: 401 with a challenge (`WWW-Authenticate`, RFC 9110 11.6.1), or 403.
    ///
    /// # Errors
    ///
    /// The refusal.
    fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Identity, Refusal>;
}

/// Bearer tokens (RFC 6750) of which one must be shown. Without any, nobody has to show one.
///
/// ```
/// use ringhub::auth::Tokens;
/// let tokens = Tokens::new(vec!["secret".into()])?;
/// assert!(tokens.admit(Some(b"secret")) && !tokens.admit(Some(b"guess")) && !tokens.admit(None));
/// assert!(Tokens::default().admit(None));
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Default)]
pub struct Tokens(Vec<String>);

impl Tokens {
    /// Checks that each could be sent in an `Authorization` header.
    ///
    /// # Errors
    ///
    /// A sentence about the token, which does not repeat it, if it is empty or has characters other than those of RFC
    /// 6750 2.1.
    pub fn new(tokens: Vec<String>) -> Result<Tokens, String> {
        let is_allowed = |octet: u8| octet.is_ascii_alphanumeric() || b"-._~+/=".contains(&octet);
        for (at, token) in tokens.iter().enumerate() {
            if token.is_empty() || !token.bytes().all(is_allowed) {
                return Err(format!("token {} is empty or has characters beyond A-Z a-z 0-9 - . _ ~ + / =", at + 1));
            }
        }
        Ok(Tokens(tokens))
    }

    /// Must one be shown?
    #[must_use]
    pub fn are_required(&self) -> bool {
        !self.0.is_empty()
    }

    /// Is this one of them, or is none required? Takes as long for a wrong one as for a right one of the same length.
    #[must_use]
    pub fn admit(&self, shown: Option<&[u8]>) -> bool {
        if !self.are_required() {
            return true;
        }
        let Some(shown) = shown else { return false };
        let equal = self.0.iter().map(|token| token.as_bytes().ct_eq(shown));
        equal.fold(Choice::from(0), |any, equal| any | equal).into()
    }
}

/// Says how many there are, never which.
impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokens({})", self.0.len())
    }
}

/// The origins whose pages may use the hub (RFC 6454). Without any, all may.
///
/// A request without an `Origin` header does not come from a browser's page and is not judged by this.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins(Vec<String>);

impl Origins {
    /// Checks that each is one, such as `https://example.org` or `http://localhost:8080`.
    ///
    /// # Errors
    ///
    /// A sentence about the first that is none.
    pub fn new(origins: Vec<String>) -> Result<Origins, String> {
        for origin in &origins {
            let host = origin.split_once("://").map(|(scheme, host)| (!scheme.is_empty()).then_some(host));
            let is_origin = host.flatten().is_some_and(|host| {
                !host.is_empty() && host.bytes().all(|octet| octet.is_ascii_graphic() && !b"/?#@".contains(&octet))
            });
            if !is_origin && origin != "null" {
                let example = "write it as a browser does, like https://example.org, without a path";
                return Err(format!("{origin:?} is no origin; {example}"));
            }
        }
        Ok(Origins(origins.into_iter().map(|origin| origin.to_ascii_lowercase()).collect()))
    }

    /// Are all allowed?
    #[must_use]
    pub fn are_any(&self) -> bool {
        self.0.is_empty()
    }

    /// May a page of this origin use the hub?
    #[must_use]
    pub fn allow(&self, origin: &[u8]) -> bool {
        self.are_any() || self.0.iter().any(|allowed| allowed.as_bytes().eq_ignore_ascii_case(origin))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens() {
        let tokens = Tokens::new(vec!["a.b".into(), "c/d=".into()]).unwrap();
        assert!(tokens.are_required());
        for (shown, is_admitted) in
            [(Some("a.b"), true), (Some("c/d="), true), (Some("a.c"), false), (Some("a"), false), (None, false)]
        {
            assert_eq!(tokens.admit(shown.map(str::as_bytes)), is_admitted, "{shown:?}");
        }
        assert_eq!(format!("{tokens:?}"), "Tokens(2)");
        for bad in ["", "a b", "a\n", "ü", "a\"b"] {
            assert!(Tokens::new(vec!["a".into(), bad.into()]).unwrap_err().starts_with("token 2 "), "{bad}");
        }
    }

    #[test]
    fn origins() {
        let origins = Origins::new(vec!["https://Example.org".into(), "http://[::1]:8080".into()]).unwrap();
        assert!(origins.allow(b"https://example.org") && origins.allow(b"http://[::1]:8080"));
        assert!(!origins.allow(b"https://example.org:8443") && !origins.allow(b"null"));
        assert!(Origins::default().allow(b"null"));
        for bad in ["", "example.org", "https://", "://x", "https://a/", "https://u@a", "*"] {
            assert!(Origins::new(vec![bad.into()]).is_err(), "{bad}");
        }
    }
}
