//! Renews the token of a connection, so that the connection outlives the token that it was opened with.

use std::{
    fmt, mem,
    time::{Duration, SystemTime},
};

use super::{
    connection::Connection,
    handle::Handle,
    profile::{Profile, RenewedToken},
};
use crate::{
    auth::{
        Answers, Credentials, Decision, Identities, Identity, Later, OTHERS_MAX, ROUNDS_MAX, TOKEN_BYTES_MAX,
        TopicRight, decide,
    },
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

impl From<NotRenewed> for RenewError {
    fn from(reason: NotRenewed) -> Self {
        match reason {
            NotRenewed::For(error) => error,
            NotRenewed::Waits(_) => RenewError::MustWait,
        }
    }
}

/// A token that the authenticator of the route has accepted, and that has not taken the place of the earlier one.
#[derive(Debug)]
pub(crate) struct AcceptedToken {
    /// The identities of the connection as they are with this token.
    pub(crate) identities: Identities,
    pub(crate) token: RenewedToken,
}

impl AcceptedToken {
    /// Returns the bytes of memory of the token and of the identities, roughly.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<AcceptedToken>() + self.token.as_str().len() + self.identities.bytes()
    }

    /// Adds the identities that the gates of other routes have found for a topic by this token.
    ///
    /// # Errors
    ///
    /// 429 for more than [`OTHERS_MAX`] identities.
    pub(crate) fn note_others(&mut self, found: &Identities) -> Result<(), Refusal> {
        self.identities = self.identities.with_others(found).ok_or_else(too_many_others)?;
        Ok(())
    }
}

fn too_many_others() -> Refusal {
    Refusal::new(429, format!("the topics of this connection have needed more than {OTHERS_MAX} identities"))
}

impl<S: 'static> Connection<'_, S> {
    /// Renews the token of the connection. The authenticator of the route judges the token as if it had come with the
    /// opening request. From then on the new grants hold, and the connection ends when the new token expires, or before
    /// when an identity expires that the authenticator of another route has found.
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
        self.try_renew(token, &Answers::default()).map_err(RenewError::from)
    }

    /// Replaces the identity of the connection by one of the same name, as a new token does: for handlers that
    /// authenticate their clients themselves ([`Accept::identity`](super::Accept::identity)). The identities that
    /// authenticators have found stay beside it, and the connection still ends when one of them expires.
    ///
    /// # Errors
    ///
    /// [`RenewError::NotOpen`], [`RenewError::OtherIdentity`], and [`RenewError::Refused`] if it has been revoked.
    pub fn renew_identity(&mut self, identity: Identity) -> Result<Renewed, RenewError> {
        self.renew(|identities| identities.renew_chosen(identity))
    }

    /// Changes the identities of the connection. `change` returns whether the names of the identities stay the same.
    fn renew(&mut self, change: impl FnOnce(&mut Identities) -> bool) -> Result<Renewed, RenewError> {
        let mut identities = self.identities().cloned().unwrap_or_default();
        if !change(&mut identities) {
            return Err(RenewError::OtherIdentity);
        }
        self.take_identities(identities)
    }

    /// Lets identities take the place of the earlier ones.
    fn take_identities(&mut self, identities: Identities) -> Result<Renewed, RenewError> {
        if self.websocket_state() != State::Open {
            return Err(RenewError::NotOpen);
        }
        self.shard.note_identities(self.id, &identities).map_err(RenewError::Refused)?;
        let ends = identities.ends();
        let profile = self.profile.get_or_insert_default();
        let earlier = mem::replace(&mut profile.identities, identities);
        profile.permitted = None;
        profile.renewals = profile.renewals.wrapping_add(1);
        self.note_kept();
        self.shard.set_lifetime(self.id, ends.map(lifetime));
        Ok(Renewed { unsubscribed: self.leave_topics_after(&earlier) })
    }

    /// Judges a token, and lets it take the place of the earlier one.
    fn try_renew(&mut self, token: &str, answers: &Answers) -> Result<Renewed, NotRenewed> {
        let accepted = self.try_accept(token, answers)?;
        self.take_token(accepted).map_err(NotRenewed::For)
    }

    /// Judges a token as [`Connection::renew_token`] does, and changes nothing: the surface judges the topics of the
    /// connection by the accepted token first.
    ///
    /// # Errors
    ///
    /// See [`RenewError`].
    pub(crate) fn accept_token(&mut self, token: &str) -> Result<AcceptedToken, RenewError> {
        self.try_accept(token, &Answers::default()).map_err(RenewError::from)
    }

    /// Lets an accepted token take the place of the earlier one.
    ///
    /// # Errors
    ///
    /// [`RenewError::NotOpen`], and [`RenewError::Refused`] if an identity has been revoked meanwhile.
    pub(crate) fn take_token(&mut self, accepted: AcceptedToken) -> Result<Renewed, RenewError> {
        let AcceptedToken { identities, token } = accepted;
        let renewed = self.take_identities(identities)?;
        self.profile.get_or_insert_default().token = Some(token);
        self.note_kept();
        Ok(renewed)
    }

    /// Judges a token.
    fn try_accept(&mut self, token: &str, answers: &Answers) -> Result<AcceptedToken, NotRenewed> {
        let for_reason = |error| Err(NotRenewed::For(error));
        if self.websocket_state() != State::Open {
            return for_reason(RenewError::NotOpen);
        }
        // The connection keeps the token, so its size is checked even where no authenticator looks at it.
        if token.len() > TOKEN_BYTES_MAX {
            let refusal = Refusal::new(401, format!("the token has more than {TOKEN_BYTES_MAX} bytes"));
            return for_reason(RenewError::Refused(refusal));
        }
        let Some(authenticator) = self.shard.authenticator(self.id) else {
            return for_reason(RenewError::NoAuthenticator);
        };
        let Some(request) = self.request() else { return for_reason(RenewError::RequestForgotten) };
        let credentials = Credentials::new(&request.head, request.peer).about(request.topic.as_ref());
        let credentials = credentials.with_token(token).with_answers(answers);
        if let Some(later) = authenticator.prepare(&credentials) {
            return Err(NotRenewed::Waits(later));
        }
        let refused = |refusal| NotRenewed::For(RenewError::Refused(refusal));
        let identity = authenticator.authenticate(&credentials).map_err(refused)?;
        identity.each().try_for_each(Identity::check_expiry).map_err(refused)?;
        let mut identities = self.identities().cloned().unwrap_or_default();
        if !identities.renew_of_gate(identity) {
            return for_reason(RenewError::OtherIdentity);
        }
        Ok(AcceptedToken { identities, token: RenewedToken::new(token) })
    }

    /// Leaves the topics that the connection might use by its earlier identities, and may not use by its present ones.
    /// Topics that neither might use stay: the handler has subscribed the connection to them without asking.
    fn leave_topics_after(&mut self, earlier: &Identities) -> Vec<TopicName> {
        let mut topics = self.topics();
        topics.retain(|topic| {
            let permission = self.shard.topic_rules(topic).permission(TopicRight::Subscribe);
            let is_denied = |identities: &Identities| {
                let decision = decide(permission, identities.of_route(), TopicRight::Subscribe, topic);
                !matches!(decision, Decision::Allowed | Decision::Asks)
            };
            !is_denied(earlier) && self.identities().is_some_and(is_denied)
        });
        topics.iter().for_each(|topic| _ = self.unsubscribe(topic));
        topics
    }

    /// Notes what the profile keeps now.
    fn note_kept(&mut self) {
        let bytes = self.profile.as_ref().map_or(0, |profile| profile.bytes());
        self.shard.note_kept(self.id, bytes);
    }
}

impl<S: 'static> Connection<'_, S> {
    /// Returns the identities of the connection, if it may have any.
    pub(crate) fn identities(&self) -> Option<&Identities> {
        self.profile.as_ref().map(|profile| &profile.identities)
    }

    /// Returns whether the judge has permitted this use of a topic, by the table of this number.
    pub(crate) fn is_permitted(&self, table: u32, right: TopicRight, topic: &TopicName) -> bool {
        let permitted = self.profile.as_ref().and_then(|profile| profile.permitted.as_ref());
        permitted.is_some_and(|permitted| permitted.has(table, right, topic))
    }

    /// Notes the identities that the gates of other routes have found for a topic. From then on they belong to the
    /// connection: it ends with [`TOKEN_EXPIRED`] when one of them expires, and is closed when one is revoked.
    ///
    /// # Errors
    ///
    /// The refusal of an identity that has been revoked meanwhile, and 429 for more than [`OTHERS_MAX`] identities.
    pub(crate) fn note_others(&mut self, found: &Identities) -> Result<(), Refusal> {
        if found.is_empty() {
            return Ok(());
        }
        let with_others = match self.identities() {
            Some(identities) => identities.with_others(found),
            None => Some(found.clone()),
        };
        let identities = with_others.ok_or_else(too_many_others)?;
        self.shard.note_identities(self.id, &identities)?;
        self.profile.get_or_insert_default().identities = identities;
        self.note_kept();
        if let Some(ends) = found.ends() {
            self.shard.shorten_lifetime(self.id, lifetime(ends));
        }
        Ok(())
    }

    /// Notes that the judge has permitted this use of a topic.
    pub(crate) fn note_permitted(&mut self, table: u32, right: TopicRight, topic: &TopicName) {
        self.profile.get_or_insert_default().permitted.get_or_insert_default().add(table, right, topic);
        self.note_kept();
    }

    /// Returns a number that changes when the identity of the connection is renewed.
    pub(crate) fn renewals(&self) -> u32 {
        self.profile.as_ref().map_or(0, |profile| profile.renewals)
    }

    /// Returns the token that has been renewed last.
    pub(crate) fn renewed_token(&self) -> Option<&RenewedToken> {
        self.profile.as_ref()?.token.as_ref()
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
        self.in_rounds(token.into(), |connection, token, answers| connection.try_renew(token, answers)).await
    }

    /// Judges a token as [`Connection::accept_token`] does, and waits for the authenticator.
    ///
    /// # Errors
    ///
    /// See [`RenewError`].
    pub(crate) async fn accept_token(&self, token: String) -> Result<AcceptedToken, RenewError> {
        self.in_rounds(token, |connection, token, answers| connection.try_accept(token, answers)).await
    }

    /// Attempts something with a token, again after each wait of the authenticator.
    async fn in_rounds<T: 'static>(&self, token: String, attempt: Attempt<S, T>) -> Result<T, RenewError> {
        let rounds = async {
            let answers = Answers::default();
            for _ in 0..=ROUNDS_MAX {
                let (token, answers) = (token.clone(), answers.clone());
                let outcome = self.with(move |connection| attempt(connection, &token, &answers)).await;
                match outcome {
                    None => return Err(RenewError::NotOpen),
                    Some(Ok(done)) => return Ok(done),
                    Some(Err(NotRenewed::For(error))) => return Err(error),
                    Some(Err(NotRenewed::Waits(later))) => later.await,
                }
            }
            Err(RenewError::Undecided)
        };
        tokio::time::timeout(WAIT_MAX, rounds).await.unwrap_or(Err(RenewError::Undecided))
    }
}

type Attempt<S, T> = fn(&mut Connection<'_, S>, &str, &Answers) -> Result<T, NotRenewed>;

impl Profile {
    /// Returns the time until the first identity of the connection expires, if one expires.
    pub(crate) fn lifetime(&self) -> Option<Duration> {
        self.identities.ends().map(lifetime)
    }
}

/// Returns the time until a point in time; none is left of one that has passed.
fn lifetime(ends: SystemTime) -> Duration {
    ends.duration_since(SystemTime::now()).unwrap_or_default()
}

/// The longest wait for the decision about a new token.
const WAIT_MAX: Duration = Duration::from_secs(10);
