//! The origins and bearer tokens of the server's own settings.

use super::{credentials::Credentials, origins::Origins, tokens::Tokens};
use crate::proto::Refusal;

/// The origins and tokens that requests need. Without any, every request is admitted, except those to the
/// administration, which are all refused.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// Origins whose pages may use the hub. A request of a page of another origin is answered 403.
    pub origins: Origins,
    /// The tokens to publish with.
    pub publish: Tokens,
    /// The tokens to subscribe with.
    pub subscribe: Tokens,
    /// The tokens to read `/metrics` with.
    pub metrics: Tokens,
    /// The tokens to administrate the server with: to list and close connections, and to revoke. Without any, nobody
    /// may.
    pub admin: Tokens,
}

/// An act for which the settings may require a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Right {
    /// Publish to topics.
    Publish,
    /// Subscribe to topics.
    Subscribe,
    /// Read the metrics.
    Metrics,
    /// List and close connections, and revoke.
    Administer,
}

impl Access {
    /// Returns whether these settings let every client publish and subscribe. The authenticators of routes and the
    /// rules of topics may still refuse a client.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let tokens = [&self.publish, &self.subscribe];
        self.origins.are_any() && !tokens.iter().any(|tokens| tokens.are_required())
    }

    /// Checks that a request has a token for each of these rights, where one is required. If the request could use one
    /// of the rights alone, the refusal names the `mode` that asks for that right.
    ///
    /// # Errors
    ///
    /// 401 without a token or with an unknown one, 403 with a token for other rights, and 403 for the administration
    /// without tokens for it.
    pub(crate) fn check_tokens(&self, credentials: &Credentials<'_>, rights: &[Right]) -> Result<(), Refusal> {
        if rights == [Right::Administer] {
            return self.check_admin(credentials);
        }
        if !rights.iter().any(|&right| self.tokens(right).are_required()) {
            return Ok(());
        }
        let shown = credentials.token();
        for &right in rights {
            if self.tokens(right).admit(shown.as_deref()) {
                continue;
            }
            let less = rights.iter().filter(|&&other| other != right && self.tokens(other).admit(shown.as_deref()));
            let mode = less.copied().find_map(mode);
            let refusal = match &shown {
                None => {
                    let remedy = mode.map(|mode| format!("; {mode} asks for none")).unwrap_or_default();
                    Refusal::new(401, format!("{} needs a bearer token{remedy}", name(right)))
                        .header("WWW-Authenticate", "Bearer")
                }
                Some(token) if self.is_known(token) => {
                    let remedy = mode.map(|mode| format!("; with {mode} it is enough")).unwrap_or_default();
                    Refusal::new(403, format!("this token is not for {}{remedy}", name(right)))
                        .header("WWW-Authenticate", "Bearer error=\"insufficient_scope\"")
                }
                Some(_) => invalid(),
            };
            return Err(refusal);
        }
        Ok(())
    }

    /// Returns whether pages of every origin may use topics, without a token.
    pub(crate) fn are_topics_open(&self) -> bool {
        self.origins.are_any() && !self.publish.are_required() && !self.subscribe.are_required()
    }

    /// Returns whether a request shows a token where one of these rights needs one.
    pub(crate) fn sees_credentials(&self, credentials: &Credentials<'_>, rights: &[Right]) -> bool {
        rights.iter().any(|&right| self.tokens(right).are_required()) && credentials.token().is_some()
    }

    /// Checks that a request may administrate the server. The token has to be in `Authorization`: a query stands in the
    /// logs of proxies and in the histories of browsers.
    fn check_admin(&self, credentials: &Credentials<'_>) -> Result<(), Refusal> {
        if !self.admin.are_required() {
            return Err(Refusal::new(403, "the administration of this server is off; admin_tokens switches it on"));
        }
        let shown = credentials.authorization("Bearer");
        match shown {
            Some(_) if self.admin.admit(shown) => Ok(()),
            None => Err(Refusal::new(401, "administration needs a bearer token in the header Authorization")
                .header("WWW-Authenticate", "Bearer")),
            Some(token) if self.is_known(token) => Err(Refusal::new(403, "this token is not for administration")
                .header("WWW-Authenticate", "Bearer error=\"insufficient_scope\"")),
            Some(_) => Err(invalid()),
        }
    }

    fn tokens(&self, right: Right) -> &Tokens {
        match right {
            Right::Publish => &self.publish,
            Right::Subscribe => &self.subscribe,
            Right::Metrics => &self.metrics,
            Right::Administer => &self.admin,
        }
    }

    /// Returns whether the token is valid for any right.
    fn is_known(&self, token: &[u8]) -> bool {
        let all = [&self.publish, &self.subscribe, &self.metrics, &self.admin];
        all.iter().any(|tokens| tokens.are_required() && tokens.admit(Some(token)))
    }
}

/// Returns the refusal of a token that is valid for nothing.
fn invalid() -> Refusal {
    Refusal::new(401, "the bearer token is not valid")
        .header("WWW-Authenticate", "Bearer error=\"invalid_token\"")
        .for_wrong_credentials()
}

fn name(right: Right) -> &'static str {
    match right {
        Right::Publish => "publishing",
        Right::Subscribe => "subscribing",
        Right::Metrics => "reading the metrics",
        Right::Administer => "administration",
    }
}

/// Returns the pair of the query by which a client asks for this right alone.
fn mode(right: Right) -> Option<&'static str> {
    match right {
        Right::Publish => Some("mode=pub"),
        Right::Subscribe => Some("mode=sub"),
        Right::Metrics | Right::Administer => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::RequestHead;

    /// Checks the answer to a request with this target and these header lines.
    fn check(target: &str, lines: &[&str], rights: &[Right], expected: Result<(), u16>) {
        let tokens = |tokens: &[&str]| Tokens::new(tokens.iter().map(ToString::to_string).collect()).unwrap();
        let access =
            Access { publish: tokens(&["pub", "both"]), subscribe: tokens(&["sub", "both"]), ..Access::default() };
        let lines: String = lines.iter().map(|line| format!("Authorization: {line}\r\n")).collect();
        let head = RequestHead::decode(format!("GET {target} HTTP/1.1\r\n{lines}\r\n").as_bytes()).unwrap().unwrap().0;
        let outcome = access.check_tokens(&Credentials::new(&head, None), rights);
        assert_eq!(outcome.map_err(|refusal| refusal.status), expected, "{target} {lines} {rights:?}");
    }

    #[test]
    fn tokens_are_for_what_they_are_for() {
        use Right::{Metrics, Publish, Subscribe};
        let shown = |line: &str, rights: &[Right], expected| check("/", &[line], rights, expected);
        shown("Bearer pub", &[Publish], Ok(()));
        shown("bearer  both ", &[Publish, Subscribe], Ok(()));
        shown("Bearer pub", &[Publish, Subscribe], Err(403));
        shown("Bearer sub", &[Publish], Err(403));
        shown("Bearer nothing", &[Publish], Err(401));
        shown("Basic pub", &[Publish], Err(401));
        shown("Bearer", &[Publish], Err(401));
        check("/", &[], &[Publish], Err(401));
        check("/", &[], &[Metrics], Ok(()));
        check("/", &[], &[], Ok(()));
        // A proxy in front may have judged another one of several header lines.
        check("/", &["Bearer pub", "Bearer pub"], &[Publish], Err(401));
    }

    /// A client that only subscribes learns how to say so.
    #[test]
    fn a_refusal_names_what_would_do() {
        use Right::{Metrics, Publish, Subscribe};
        let tokens = |tokens: &[&str]| match tokens {
            [] => Tokens::default(),
            _ => Tokens::new(tokens.iter().map(ToString::to_string).collect()).unwrap(),
        };
        let told = |publish: &[&str], subscribe: &[&str], shown: &str, rights: &[Right]| {
            let access = Access { publish: tokens(publish), subscribe: tokens(subscribe), ..Access::default() };
            let line = if shown.is_empty() { String::new() } else { format!("Authorization: Bearer {shown}\r\n") };
            let head = RequestHead::decode(format!("GET / HTTP/1.1\r\n{line}\r\n").as_bytes()).unwrap().unwrap().0;
            let refusal = access.check_tokens(&Credentials::new(&head, None), rights).unwrap_err();
            (refusal.status, refusal.error)
        };
        let check = |publish: &[&str], subscribe: &[&str], shown: &str, status: u16, error: &str| {
            assert_eq!(told(publish, subscribe, shown, &[Subscribe, Publish]), (status, error.into()), "{shown}");
        };
        check(&["p"], &[], "", 401, "publishing needs a bearer token; mode=sub asks for none");
        check(&[], &["s"], "", 401, "subscribing needs a bearer token; mode=pub asks for none");
        check(&["p"], &["s"], "", 401, "subscribing needs a bearer token");
        check(&["p"], &["s"], "s", 403, "this token is not for publishing; with mode=sub it is enough");
        check(&["p"], &["s"], "p", 403, "this token is not for subscribing; with mode=pub it is enough");
        check(&["p"], &["s"], "x", 401, "the bearer token is not valid");
        assert_eq!(told(&["p"], &["s"], "s", &[Publish]).1, "this token is not for publishing");
        assert_eq!(told(&["p"], &["s"], "", &[Publish]).1, "publishing needs a bearer token");
        let access = Access { metrics: tokens(&["m"]), ..Access::default() };
        let head = RequestHead::decode(b"GET / HTTP/1.1\r\n\r\n").unwrap().unwrap().0;
        let refusal = access.check_tokens(&Credentials::new(&head, None), &[Metrics]).unwrap_err();
        assert_eq!(refusal.error, "reading the metrics needs a bearer token");
    }

    /// The administration is never open, and takes no token from a query.
    #[test]
    fn administration_needs_a_token_in_the_header() {
        let tokens = |token: &str| Tokens::new(vec![token.into()]).unwrap();
        let check = |access: &Access, target: &str, line: &str, expected: Result<(), (u16, &str)>| {
            let head = format!("GET {target} HTTP/1.1\r\n{line}\r\n");
            let head = RequestHead::decode(head.as_bytes()).unwrap().unwrap().0;
            let outcome = access.check_tokens(&Credentials::new(&head, None), &[Right::Administer]);
            let outcome = outcome.map_err(|refusal| (refusal.status, refusal.error));
            assert_eq!(outcome, expected.map_err(|(status, error)| (status, error.into())), "{target} {line}");
        };
        let closed = Access { publish: tokens("p"), ..Access::default() };
        let off = Err((403, "the administration of this server is off; admin_tokens switches it on"));
        check(&closed, "/", "", off);
        check(&closed, "/", "Authorization: Bearer p\r\n", off);
        let open = Access { admin: tokens("a"), ..closed };
        check(&open, "/", "Authorization: Bearer a\r\n", Ok(()));
        let missing = Err((401, "administration needs a bearer token in the header Authorization"));
        check(&open, "/", "", missing);
        check(&open, "/?access_token=a", "", missing);
        check(&open, "/", "Authorization: Bearer p\r\n", Err((403, "this token is not for administration")));
        check(&open, "/", "Authorization: Bearer x\r\n", Err((401, "the bearer token is not valid")));
    }

    #[test]
    fn a_query_shows_a_token_too() {
        let shown = |query: &str, expected| check(&format!("/?{query}"), &[], &[Right::Subscribe], expected);
        shown("mode=sub&access_token=s%75b", Ok(()));
        shown("%61ccess_token=sub", Ok(()));
        shown("access_token=x", Err(401));
        shown("access_token=%", Err(401));
        shown("xaccess_token=sub", Err(401));
        // The header goes first.
        check("/?access_token=sub", &["Bearer x"], &[Right::Subscribe], Err(401));
    }
}
