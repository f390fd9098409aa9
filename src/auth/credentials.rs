//! The credentials of a request.

use std::{
    borrow::Cow,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering},
};

use super::{answers::Answers, origins::Origins};
use crate::{
    hub::TopicName,
    proto::{Refusal, RequestHead, query_pairs, token_of_protocols},
};

/// The parts of a request that show who sent it.
#[derive(Clone, Copy)]
pub struct Credentials<'a> {
    /// The head of the request.
    pub head: &'a RequestHead,
    /// The client's address; `None` if the client has gone meanwhile.
    pub peer: Option<SocketAddr>,
    answers: Option<&'a Answers>,
    /// The token that has taken the place of the one in the request.
    renewed: Option<&'a str>,
    origins: Option<&'a Origins>,
    topic: Option<&'a TopicName>,
    /// Where a chain of authenticators notes that one of them has found wrong credentials.
    wrong: Option<&'a AtomicBool>,
}

impl<'a> Credentials<'a> {
    /// Returns the credentials of a request that waits for no answers.
    #[must_use]
    pub fn new(head: &'a RequestHead, peer: Option<SocketAddr>) -> Self {
        Credentials { head, peer, answers: None, origins: None, renewed: None, topic: None, wrong: None }
    }

    /// Returns the credentials of a request that can wait for answers, which are kept in `answers`.
    #[must_use]
    pub fn with_answers(self, answers: &'a Answers) -> Self {
        Credentials { answers: Some(answers), ..self }
    }

    /// Returns the same credentials with another token in the place of the one in the request: a token that renews the
    /// token of a connection.
    #[must_use]
    pub fn with_token(self, token: &'a str) -> Self {
        Credentials { renewed: Some(token), ..self }
    }

    /// Returns the token that has taken the place of the one in the request, if there is one. An authenticator that
    /// looks for tokens in other places than [`Credentials::token`] does has to look here first.
    #[must_use]
    pub fn renewed_token(&self) -> Option<&'a str> {
        self.renewed
    }

    /// Returns the answers that the request has waited for; `None` if it cannot wait.
    #[must_use]
    pub fn answers(&self) -> Option<&'a Answers> {
        self.answers
    }

    /// Returns the credentials of a request whose pages these origins restrict.
    #[must_use]
    pub(crate) fn behind(self, origins: &'a Origins) -> Self {
        Credentials { origins: Some(origins), ..self }
    }

    /// Returns the credentials of a request to use a topic, if it is about one.
    #[must_use]
    pub(crate) fn about(self, topic: Option<&'a TopicName>) -> Self {
        Credentials { topic, ..self }
    }

    /// Returns the topic that the request is about: its path names the topic, or its body or a message does.
    #[must_use]
    pub fn topic(&self) -> Option<&'a TopicName> {
        self.topic
    }

    /// Returns the origins that restrict the pages of the request, where they are known.
    pub(super) fn origins(&self) -> Option<&'a Origins> {
        self.origins
    }

    /// Returns the credentials after a scheme in `Authorization` (RFC 9110 11.6.2). Returns `None` for another scheme,
    /// without the header, and also if there are several `Authorization` headers: a proxy in front may have judged
    /// another of them.
    #[must_use]
    pub fn authorization(&self, scheme: &str) -> Option<&'a [u8]> {
        after_scheme(self.header()?, scheme)
    }

    /// Returns the client's address. An IPv4 client of an IPv6 socket (`::ffff:192.0.2.1`) has its IPv4 address.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        self.peer.map(|peer| peer.ip().to_canonical())
    }

    /// Returns the token that has been renewed; else the bearer token in `Authorization`, or else in the query's
    /// `access_token` (RFC 6750 2.1, 2.3), or else the token after the name `access_token` in the list of
    /// subprotocols. The query and the list are for browsers that open a WebSocket, since they cannot set a header. A
    /// list is in fewer logs than a query.
    #[must_use]
    pub fn token(&self) -> Option<Cow<'a, [u8]>> {
        if let Some(renewed) = self.renewed {
            return Some(Cow::Borrowed(renewed.as_bytes()));
        }
        let of_query = || {
            let mut pairs = query_pairs(self.head.query());
            let (_, value) = pairs.find(|(key, _)| key.as_deref() == Some(TOKEN_KEY))?;
            // A value that is not UTF-8 equals no token.
            Some(Cow::Owned(value.unwrap_or_default().into_owned().into_bytes()))
        };
        let of_protocols = || token_of_protocols(self.head.headers()).map(Cow::Borrowed);
        self.authorization("Bearer").map(Cow::Borrowed).or_else(of_query).or_else(of_protocols)
    }

    /// Returns the credentials of a request whose wrong credentials are noted in `wrong`, also where the outcome does
    /// not tell them: another authenticator may have to wait, or may admit the request.
    #[must_use]
    pub(crate) fn noting(self, wrong: &'a AtomicBool) -> Self {
        Credentials { wrong: Some(wrong), ..self }
    }

    /// Notes wrong credentials, if the outcome of an authenticator is a refusal for these.
    pub(super) fn note<T>(&self, outcome: &Result<T, Refusal>) {
        if let (Some(wrong), Err(refusal)) = (self.wrong, outcome)
            && refusal.is_for_wrong_credentials
        {
            // Relaxed: the judge reads it on the thread that writes it.
            wrong.store(true, Ordering::Relaxed);
        }
    }

    /// Returns the value of `Authorization`, if the request has exactly one.
    pub(super) fn header(&self) -> Option<&'a [u8]> {
        let mut values = self.head.headers().get_all("authorization");
        values.next().filter(|_| values.next().is_none())
    }
}

/// Shows neither headers nor the query: they may hold secrets.
impl fmt::Debug for Credentials<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Credentials { head, peer, .. } = self;
        f.debug_struct("Credentials").field("path", &head.path()).field("peer", peer).finish_non_exhaustive()
    }
}

/// Returns the credentials after a scheme. Schemes compare without regard to case, and are followed by spaces (RFC 9110
/// 11.1, 11.4).
pub(super) fn after_scheme<'a>(value: &'a [u8], scheme: &str) -> Option<&'a [u8]> {
    let (before, rest) = value.split_at_checked(scheme.len())?;
    let is_this = before.eq_ignore_ascii_case(scheme.as_bytes()) && rest.first() == Some(&b' ');
    is_this.then(|| rest.trim_ascii())
}

/// The query's key for a token (RFC 6750 2.3).
pub const TOKEN_KEY: &str = "access_token";
