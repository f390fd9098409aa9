//! Renews the token of a connection, so that the connection outlives the token that it was opened with.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use super::{
    connection::Connection,
    handle::Handle,
    profile::{Profile, RenewedToken},
};
use crate::{
    auth::{Answers, Credentials, Decision, Identity, Later, ROUNDS_MAX, TopicRight, decide},
    hub::TopicName,
    proto::{CloseCode, Refusal, State},
};

/// The close code of a connection whose token has expired, and has not been renewed.
pub const TOKEN_EXPIRED: CloseCode = CloseCode(4401);

/// The effect of a new token on its connection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Renewed {
    /// The topics that the connection was subscribed to, and that the new grants do not have. The connection has left
    /// them.
    pub unsubscribed: Vec<TopicName>,
}

/// The reason for which a token, or an identity, does not take the place of an earlier one. The connection goes on as
/// it was.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RenewError {
    /// The connection is closing already, or has ended.
    NotOpen,
    /// The route has no authenticator that could judge a token.
    NoAuthenticator,
    /// The route forgets its opening requests, with which a new token is judged.
    RequestForgotten,
    /// The authenticator of the route refuses the token, or the identity has been revoked.
    Refused(Refusal),
    /// The token is that of another identity. A new identity needs a new connection.
    OtherIdentity,
    /// The authenticator has to wait before it can decide, as only [`Handle::renew_token`] can.
    MustWait,
    /// The authenticator had to wait for too long.
    Undecided,
}

impl fmt::Display for RenewError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RenewError::NotOpen => "the connection is not open",
            RenewError::NoAuthenticator => "the route has no authenticator that could judge a token",
            RenewError::RequestForgotten => "the route has not kept the opening request, which the token belongs to",
            RenewError::Refused(refusal) => &refusal.error,
            RenewError::OtherIdentity => "the token is that of another identity",
            RenewError::MustWait => "the authenticator has to wait before it can decide",
            RenewError::Undecided => "the decision about this token took too long",
        })
    }
}

impl std::error::Error for RenewError {}

/// The reason for which an attempt has not renewed a token.
enum NotRenewed {
    For(RenewError),
    /// The authenticator can decide when this work is done.
    Waits(Later),
}

impl<S: 'static> Connection<'_, S> {
    /// Renews the token of the connection. The authenticator of the route judges the token as if it had come with the
    /// opening request. From then on the new grants hold, and the connection ends when the new token expires.
    ///
    /// # Errors
    ///
    /// See [`RenewError`]; the connection goes on as it was.
    ///
    /// ```
    /// # use ringhub::{handler::Connection, proto::Message};
    /// # fn example(connection: &mut Connection<'_, ()>, message: Message<'_>) {
    /// if let Some(token) = message.as_text().and_then(|text| text.strip_prefix("token ")) {
    ///     match connection.renew_token(token) {
    ///         Ok(_) => connection.send_text("renewed"),
    ///         Err(error) => connection.send_text(error.to_string()),
    ///     };
    /// }
    /// # }
    /// ```
    pub fn renew_token(&mut self, token: &str) -> Result<Renewed, RenewError> {
        self.try_renew(token, &Answers::default()).map_err(|reason| match reason {
            NotRenewed::For(error) => error,
            NotRenewed::Waits(_) => RenewError::MustWait,
        })
    }

    /// Replaces the identity of the connection by one of the same name, as a new token does: for handlers that
    /// authenticate their clients themselves ([`Accept::identity`](super::Accept::identity)).
    ///
    /// # Errors
    ///
    /// [`RenewError::NotOpen`], [`RenewError::OtherIdentity`], and [`RenewError::Refused`] if it has been revoked.
    pub fn renew_identity(&mut self, identity: Identity) -> Result<Renewed, RenewError> {
        if self.websocket_state() != State::Open {
            return Err(RenewError::NotOpen);
        }
        if self.identity().is_some_and(|earlier| earlier.name != identity.name) {
            return Err(RenewError::OtherIdentity);
        }
        self.shard.note_identity(self.id, &identity).map_err(RenewError::Refused)?;
        let ends = identity.expires;
        let profile = self.profile.get_or_insert_default();
        let earlier = profile.identity.replace(identity);
        profile.permitted = None;
        self.note_kept();
        self.shard.set_lifetime(self.id, ends.map(lifetime));
        Ok(Renewed { unsubscribed: self.leave_topics_after(earlier.as_ref()) })
    }

    /// Judges a token, and lets it take the place of the earlier one.
    fn try_renew(&mut self, token: &str, answers: &Answers) -> Result<Renewed, NotRenewed> {
        let for_reason = |error| Err(NotRenewed::For(error));
        if self.websocket_state() != State::Open {
            return for_reason(RenewError::NotOpen);
        }
        let Some(authenticator) = self.shard.authenticator(self.id) else {
            return for_reason(RenewError::NoAuthenticator);
        };
        let Some(request) = self.request() else { return for_reason(RenewError::RequestForgotten) };
        let credentials = Credentials::new(&request.head, request.peer).with_token(token).with_answers(answers);
        if let Some(later) = authenticator.prepare(&credentials) {
            return Err(NotRenewed::Waits(later));
        }
        let identity = authenticator.authenticate(&credentials).and_then(Identity::check_expiry);
        let identity = identity.map_err(|refusal| NotRenewed::For(RenewError::Refused(refusal)))?;
        let renewed = self.renew_identity(identity).map_err(NotRenewed::For)?;
        self.profile.get_or_insert_default().token = Some(RenewedToken::new(token));
        self.note_kept();
        Ok(renewed)
    }

    /// Leaves the topics that the earlier identity might use, and that the present identity may not. Topics that
    /// neither might use stay: the handler has subscribed the connection to them without asking.
    fn leave_topics_after(&mut self, earlier: Option<&Identity>) -> Vec<TopicName> {
        let mut topics = self.topics();
        topics.retain(|topic| {
            let permission = self.shard.topic_rules(topic).permission(TopicRight::Subscribe);
            let is_denied = |identity: Option<&Identity>| {
                let decision = decide(permission, identity.into_iter(), TopicRight::Subscribe, topic);
                !matches!(decision, Decision::Allowed | Decision::Asks)
            };
            !is_denied(earlier) && is_denied(self.identity())
        });
        topics.iter().for_each(|topic| _ = self.unsubscribe(topic));
        topics
    }

    /// Notes what the profile keeps now.
    fn note_kept(&mut self) {
        let bytes = self.profile.as_ref().map_or(0, |profile| profile.bytes());
        self.shard.note_kept(self.id, bytes);
    }

    /// Lets the connection end at that time with [`TOKEN_EXPIRED`], unless it ends earlier.
    pub(crate) fn end_by(&mut self, ends: SystemTime) {
        self.shard.shorten_lifetime(self.id, lifetime(ends));
    }
}

impl<S: 'static> Connection<'_, S> {
    /// Returns whether the judge has permitted this use of a topic, by the rules of this number.
    pub(crate) fn is_permitted(&self, generation: u64, right: TopicRight, topic: &TopicName) -> bool {
        let permitted = self.profile.as_ref().and_then(|profile| profile.permitted.as_ref());
        permitted.is_some_and(|permitted| permitted.has(generation, right, topic))
    }

    /// Notes that the judge has permitted this use of a topic.
    pub(crate) fn note_permitted(&mut self, generation: u64, right: TopicRight, topic: &TopicName) {
        self.profile.get_or_insert_default().permitted.get_or_insert_default().add(generation, right, topic);
        self.note_kept();
    }

    /// Returns the token that has been renewed last.
    pub(crate) fn renewed_token(&self) -> Option<&str> {
        self.profile.as_ref()?.token.as_ref().map(RenewedToken::as_str)
    }
}

impl<S: 'static> Handle<S> {
    /// Renews the token of the connection, as [`Connection::renew_token`] does. If the authenticator has to wait, so
    /// does this call, for 10 seconds at most.
    ///
    /// # Errors
    ///
    /// See [`RenewError`]; the connection goes on as it was.
    pub async fn renew_token(&self, token: impl Into<String>) -> Result<Renewed, RenewError> {
        let token = token.into();
        let rounds = async {
            let answers = Answers::default();
            for _ in 0..=ROUNDS_MAX {
                let (token, answers) = (token.clone(), answers.clone());
                let outcome = self.with(move |connection| connection.try_renew(&token, &answers)).await;
                match outcome {
                    None => return Err(RenewError::NotOpen),
                    Some(Ok(renewed)) => return Ok(renewed),
                    Some(Err(NotRenewed::For(error))) => return Err(error),
                    Some(Err(NotRenewed::Waits(later))) => later.await,
                }
            }
            Err(RenewError::Undecided)
        };
        tokio::time::timeout(WAIT_MAX, rounds).await.unwrap_or(Err(RenewError::Undecided))
    }
}

impl Profile {
    /// Returns the time until the token of the connection expires, if it expires.
    pub(crate) fn lifetime(&self) -> Option<Duration> {
        self.ends.map(lifetime)
    }
}

/// Returns the time until a point in time; none is left of one that has passed.
fn lifetime(ends: SystemTime) -> Duration {
    ends.duration_since(SystemTime::now()).unwrap_or_default()
}

/// The longest wait for the decision about a new token.
const WAIT_MAX: Duration = Duration::from_secs(10);
