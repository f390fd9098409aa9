//! Whether a request may do what it asks for: its origin, and the bearer token it shows.

use std::borrow::Cow;

pub use crate::auth::TOKEN_KEY;
use crate::{
    auth::{Origins, Tokens, shown_token},
    config::Access,
    proto::{Refusal, RequestHead},
};

/// What a request may want to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// Publish to topics.
    Publish,
    /// Subscribe to topics.
    Subscribe,
    /// Read the metrics.
    Metrics,
}

/// What a request shows of itself.
#[derive(Debug, Clone, Default)]
pub struct Shown<'a> {
    /// The page it comes from (RFC 6454 7), if it is a browser's.
    pub origin: Option<&'a [u8]>,
    /// A bearer token (RFC 6750 2).
    token: Option<Cow<'a, [u8]>>,
}

impl<'a> Shown<'a> {
    /// From the values of `Origin` and `Authorization`, and the query, whose `access_token` is for those who cannot set
    /// a header: browsers that open a WebSocket (RFC 6750 2.3).
    #[must_use]
    pub fn new(origin: Option<&'a [u8]>, authorization: Option<&'a [u8]>, query: Option<&'a str>) -> Self {
        Shown { origin, token: shown_token(authorization, query) }
    }

    /// The same of a head.
    #[must_use]
    pub fn of(head: &'a RequestHead) -> Self {
        let headers = head.headers();
        Self::new(headers.get("origin"), headers.get("authorization"), head.query())
    }

    /// May the request do all of this?
    ///
    /// # Errors
    ///
    /// 403 for an origin that is not allowed or a token for something else, 401 for no token or a wrong one.
    pub fn check(&self, access: &Access, rights: &[Right]) -> Result<(), Refusal> {
        self.check_origin(&access.origins)?;
        self.check_tokens(access, rights)
    }

    /// Does it show a token for all of this?
    ///
    /// # Errors
    ///
    /// 401 for no token or a wrong one, 403 for one that is for something else.
    pub fn check_tokens(&self, access: &Access, rights: &[Right]) -> Result<(), Refusal> {
        for &right in rights {
            if tokens(access, right).admit(self.token.as_deref()) {
                continue;
            }
            let refusal = match &self.token {
                None => Refusal::new(401, format!("{} needs a bearer token", name(right)))
                    .header("WWW-Authenticate", "Bearer"),
                Some(token) if is_known(access, token) => {
                    Refusal::new(403, format!("this token is not for {}", name(right)))
                        .header("WWW-Authenticate", "Bearer error=\"insufficient_scope\"")
                }
                Some(_) => Refusal::new(401, "the bearer token is not valid")
                    .header("WWW-Authenticate", "Bearer error=\"invalid_token\""),
            };
            return Err(refusal);
        }
        Ok(())
    }

    /// May pages of its origin use what these are the origins for?
    ///
    /// # Errors
    ///
    /// 403.
    pub fn check_origin(&self, origins: &Origins) -> Result<(), Refusal> {
        self.origin.map_or(Ok(()), |origin| origins.check(origin))
    }
}

fn tokens(access: &Access, right: Right) -> &Tokens {
    match right {
        Right::Publish => &access.publish,
        Right::Subscribe => &access.subscribe,
        Right::Metrics => &access.metrics,
    }
}

fn name(right: Right) -> &'static str {
    match right {
        Right::Publish => "publishing",
        Right::Subscribe => "subscribing",
        Right::Metrics => "reading the metrics",
    }
}

/// Is it valid for anything?
fn is_known(access: &Access, token: &[u8]) -> bool {
    let rights = [Right::Publish, Right::Subscribe, Right::Metrics];
    let tokens = rights.map(|right| tokens(access, right));
    tokens.iter().any(|tokens| tokens.are_required() && tokens.admit(Some(token)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access() -> Access {
        let tokens = |tokens: &[&str]| Tokens::new(tokens.iter().map(ToString::to_string).collect()).unwrap();
        Access {
            origins: Origins::new(vec!["https://a.example".into()]).unwrap(),
            publish: tokens(&["pub", "both"]),
            subscribe: tokens(&["sub", "both"]),
            metrics: Tokens::default(),
        }
    }

    fn check(shown: &Shown<'_>, rights: &[Right], expected: Result<(), u16>) {
        assert_eq!(shown.check(&access(), rights).map_err(|refusal| refusal.status), expected, "{shown:?} {rights:?}");
    }

    #[test]
    fn tokens_are_for_what_they_are_for() {
        use Right::{Metrics, Publish, Subscribe};
        let shown = |token: &'static str| Shown::new(None, Some(token.as_bytes()), None);
        check(&shown("Bearer pub"), &[Publish], Ok(()));
        check(&shown("bearer  both "), &[Publish, Subscribe], Ok(()));
        check(&shown("Bearer pub"), &[Publish, Subscribe], Err(403));
        check(&shown("Bearer sub"), &[Publish], Err(403));
        check(&shown("Bearer nothing"), &[Publish], Err(401));
        check(&shown("Basic pub"), &[Publish], Err(401));
        check(&shown("Bearer"), &[Publish], Err(401));
        check(&Shown::default(), &[Publish], Err(401));
        check(&Shown::default(), &[Metrics], Ok(()));
        check(&Shown::default(), &[], Ok(()));
    }

    #[test]
    fn a_query_shows_a_token_too() {
        let shown = |query| Shown::new(None, None, Some(query));
        check(&shown("mode=sub&access_token=s%75b"), &[Right::Subscribe], Ok(()));
        check(&shown("access_token=x"), &[Right::Subscribe], Err(401));
        check(&shown("access_token=%"), &[Right::Subscribe], Err(401));
        check(&shown("xaccess_token=sub"), &[Right::Subscribe], Err(401));
        // The header goes first.
        check(&Shown::new(None, Some(b"Bearer x"), Some("access_token=sub")), &[Right::Subscribe], Err(401));
    }

    #[test]
    fn origins_are_judged_where_there_is_one() {
        let shown = |origin: &'static [u8]| Shown::new(Some(origin), None, None);
        check(&shown(b"https://a.example"), &[], Ok(()));
        check(&shown(b"https://A.example"), &[], Ok(()));
        check(&shown(b"http://a.example"), &[], Err(403));
        check(&shown(b"null"), &[], Err(403));
    }
}
