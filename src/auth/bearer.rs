//! Bearer tokens with names (RFC 6750).

use std::{fmt, sync::Arc};

use subtle::ConstantTimeEq as _;

use super::{
    Authenticator, Identity,
    credentials::Credentials,
    jwt::has_jwt_form,
    tokens::{CHARACTERS, Tokens},
};
use crate::proto::Refusal;

/// Bearer tokens (RFC 6750), in `Authorization` or, for browsers that open a WebSocket, in the query's `access_token`.
///
/// A request without a token, or with an invalid one, is answered 401 with a challenge. A request whose token is for
/// something else is answered 403.
///
/// ```
/// use ringhub::auth::{Bearer, Identity, TokenFault};
/// let bearer = Bearer::new([("billing", "a-long-random-word"), ("billing", "its-successor")])?;
/// assert_eq!(format!("{bearer:?}"), "Bearer { tokens: 2 }");
/// let bearer = Bearer::checked_by(|token| match token.split_once('.') {
///     Some((name, "chat")) => Ok(Identity::new(name)),
///     Some(_) => Err(TokenFault::InsufficientScope),
///     None => Err(TokenFault::Invalid),
/// });
/// # Ok::<(), String>(())
/// ```
#[derive(Clone)]
pub struct Bearer(Check);

#[derive(Clone)]
enum Check {
    Named(Vec<(String, String)>),
    By(Arc<Judge>),
}

/// Finds the owner of a token.
type Judge = dyn Fn(&str) -> Result<Identity, TokenFault> + Send + Sync;

/// The reason for which a token is not accepted (RFC 6750 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenFault {
    /// The token is unknown, expired or revoked: 401.
    Invalid,
    /// The token is valid, but for something else: 403.
    InsufficientScope,
}

impl Bearer {
    /// Admits these tokens, at least one, each with the name of its owner. An owner may have several tokens, for
    /// instance while a new token replaces an old one.
    ///
    /// # Errors
    ///
    /// A sentence without any token, if a token could not be sent (RFC 6750 2.1), if two are equal, or if there is
    /// none.
    pub fn new<N, T>(tokens: impl IntoIterator<Item = (N, T)>) -> Result<Bearer, String>
    where
        N: Into<String>,
        T: Into<String>,
    {
        let mut named: Vec<(String, String)> = Vec::new();
        for (name, token) in tokens {
            let (name, token): (String, String) = (name.into(), token.into());
            if Tokens::new(vec![token.clone()]).is_err() {
                return Err(format!("the token of {name:?} is empty or has characters beyond {CHARACTERS}"));
            }
            if let Some((other, _)) = named.iter().find(|(_, other)| *other == token) {
                return Err(format!("{other:?} and {name:?} have the same token"));
            }
            named.push((name, token));
        }
        if named.is_empty() {
            return Err("without tokens, nobody could be admitted".into());
        }
        Ok(Bearer(Check::Named(named)))
    }

    /// Finds the owner of a token by a function. The function is called on the threads of shards and on the control
    /// thread, so it must be quick.
    #[must_use]
    pub fn checked_by(check: impl Fn(&str) -> Result<Identity, TokenFault> + Send + Sync + 'static) -> Bearer {
        Bearer(Check::By(Arc::new(check)))
    }

    /// Returns whether this authenticator and `tokens` have a token in common. If a function finds the owners, returns
    /// `true`, since the function may find an owner for any token.
    pub(crate) fn shares_one_with(&self, tokens: &Tokens) -> bool {
        match &self.0 {
            Check::Named(named) => named.iter().any(|(_, token)| tokens.admit(Some(token.as_bytes()))),
            Check::By(_) => true,
        }
    }

    fn owner(&self, token: &[u8]) -> Result<Identity, TokenFault> {
        match &self.0 {
            Check::Named(named) => {
                // All tokens are compared, so that the time does not depend on which one is equal.
                let mut owner = None;
                for (name, known) in named {
                    if known.as_bytes().ct_eq(token).into() {
                        owner = Some(Identity::new(name.clone()));
                    }
                }
                owner.ok_or(TokenFault::Invalid)
            }
            Check::By(check) => str::from_utf8(token).map_or(Err(TokenFault::Invalid), |token| check(token)),
        }
    }
}

impl Bearer {
    /// Returns whether a token that is not valid may be a guess. A list in which no token has the form of a JWT cannot
    /// be guessed by one: such a token is for an authenticator beside this one.
    fn may_be_guessed_by(&self, token: &[u8]) -> bool {
        match &self.0 {
            Check::Named(named) => {
                !has_jwt_form(token) || named.iter().any(|(_, known)| has_jwt_form(known.as_bytes()))
            }
            Check::By(_) => true,
        }
    }
}

impl Authenticator for Bearer {
    fn depends_on_topic(&self) -> bool {
        false
    }

    fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Identity, Refusal> {
        let refusal = |status, what: &str, challenge| Refusal::new(status, what).header("WWW-Authenticate", challenge);
        let Some(token) = credentials.token() else {
            return Err(refusal(401, "this needs a bearer token", "Bearer"));
        };
        self.owner(&token).map_err(|fault| match fault {
            TokenFault::Invalid => {
                let challenge = "Bearer error=\"invalid_token\"";
                let refusal = refusal(401, "the bearer token is not valid", challenge);
                if self.may_be_guessed_by(&token) { refusal.for_wrong_credentials() } else { refusal }
            }
            TokenFault::InsufficientScope => {
                refusal(403, "the bearer token is not for this", "Bearer error=\"insufficient_scope\"")
            }
        })
    }

    fn sees_credentials(&self, credentials: &Credentials<'_>) -> bool {
        credentials.token().is_some()
    }
}

/// Prints the number of tokens, if they are a list, never a token.
impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bearer = f.debug_struct("Bearer");
        match &self.0 {
            Check::Named(named) => bearer.field("tokens", &named.len()).finish(),
            Check::By(_) => bearer.finish_non_exhaustive(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::judge, *};

    fn check(bearer: &Bearer, target: &str, lines: &[&str], expected: Result<&str, (u16, &str)>) {
        let expected = expected.map(String::from).map_err(|(status, challenge)| (status, vec![challenge.to_string()]));
        assert_eq!(judge(bearer, target, lines, None), expected, "{target} {lines:?}");
    }

    const NONE: Result<&str, (u16, &str)> = Err((401, "Bearer"));
    const INVALID: Result<&str, (u16, &str)> = Err((401, "Bearer error=\"invalid_token\""));
    const SCOPE: Result<&str, (u16, &str)> = Err((403, "Bearer error=\"insufficient_scope\""));

    /// RFC 6750 2.1 and 2.3.
    #[test]
    fn named_tokens() {
        let bearer = Bearer::new([("a", "old+1="), ("a", "new"), ("b", "other")]).unwrap();
        check(&bearer, "/", &["Authorization: Bearer old+1="], Ok("a"));
        check(&bearer, "/", &["Authorization: bearer  new "], Ok("a"));
        check(&bearer, "/?x=1&access_token=old+1%3D", &[], Ok("a"));
        check(&bearer, "/?access_token=other", &["Authorization: Basic eA=="], Ok("b"));
        check(&bearer, "/", &[], NONE);
        check(&bearer, "/?access_toke", &["Authorization: Bearer"], NONE);
        check(&bearer, "/?%61ccess_token=%6eew", &[], Ok("a"));
        check(&bearer, "/", &["Authorization: Basic new"], NONE);
        check(&bearer, "/", &["Authorization: Bearernew"], NONE);
        check(&bearer, "/", &["Authorization: Bearer new", "Authorization: Bearer new"], NONE);
        check(&bearer, "/", &["Authorization: Bearer ne"], INVALID);
        check(&bearer, "/", &["Authorization: Bearer new other"], INVALID);
        check(&bearer, "/?access_token=%ff", &[], INVALID);
        check(&bearer, "/?access_token=%", &[], INVALID);
        // The header goes first.
        check(&bearer, "/?access_token=new", &["Authorization: Bearer x"], INVALID);
    }

    #[test]
    fn a_closure_decides() {
        let bearer = Bearer::checked_by(|token| match token {
            "known" => Ok(Identity::new("k")),
            "read-only" => Err(TokenFault::InsufficientScope),
            _ => Err(TokenFault::Invalid),
        });
        check(&bearer, "/", &["Authorization: Bearer known"], Ok("k"));
        check(&bearer, "/", &["Authorization: Bearer read-only"], SCOPE);
        check(&bearer, "/?access_token=%ff", &[], INVALID);
        assert_eq!(format!("{bearer:?}"), "Bearer { .. }");
    }

    /// A token of an issuer may be shown to a list beside the issuer, and then is no guess.
    #[test]
    fn a_jwt_is_no_guess_at_a_list_of_other_tokens() {
        const JWT: &str = "eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl";
        let is_guess = |bearer: &Bearer, token: &str| {
            let head = format!("GET / HTTP/1.1\r\nAuthorization: Bearer {token}\r\n\r\n");
            let head = crate::proto::RequestHead::decode(head.as_bytes()).unwrap().unwrap().0;
            bearer.authenticate(&Credentials::new(&head, None)).unwrap_err().is_for_wrong_credentials()
        };
        let list = Bearer::new([("a", "word")]).unwrap();
        assert!(!is_guess(&list, JWT));
        for guess in ["guess", "a.b.c", "e30.e30.c2lnbmF0dXJl", &JWT[1..]] {
            assert!(is_guess(&list, guess), "{guess}");
        }
        assert!(is_guess(&Bearer::new([("a", "word"), ("b", &JWT[..JWT.len() - 1])]).unwrap(), JWT));
        assert!(is_guess(&Bearer::checked_by(|_| Err(TokenFault::Invalid)), JWT));
    }

    #[test]
    fn what_cannot_be_sent_is_refused_without_the_token() {
        let check = |tokens: &[(&str, &str)], expected: &str| {
            let error = Bearer::new(tokens.iter().copied()).unwrap_err();
            assert!(error.contains(expected) && !error.contains("hush"), "{error}");
        };
        check(&[], "without tokens");
        check(&[("a", "ok"), ("b", "")], "the token of \"b\" is empty");
        check(&[("a", "hush hush")], "the token of \"a\"");
        check(&[("a", "hush"), ("b", "hush")], "\"a\" and \"b\" have the same token");
    }
}
