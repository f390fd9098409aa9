//! The judge of topics that clients name in their messages, for the handlers of surfaces.

use std::{
    cell::Cell,
    future::pending,
    rc::Rc,
    sync::{Arc, OnceLock},
};

use super::{
    Endpoints,
    denied::{Admittance, AdmittedSender, Denied},
    http::PublishGrant,
    intent::Intent,
    waiting::until_decided,
};
use crate::{
    auth::{Answers, Credentials, Identities, Later, TopicRight},
    current::{Current, WeakCurrent},
    handler::{Connection, OpeningRequest, RenewedToken},
    hub::TopicName,
    proto::{Refusal, State},
};

/// The judge of topics that clients name in their messages. A handler gets it before the table of endpoints exists. A
/// clone is another handle to the same judge.
///
/// A handler of a surface has to ask the judge about every topic that a client names, and gives it the client's
/// connection, whose route keeps its opening requests.
#[derive(Debug, Clone, Default)]
pub(crate) struct Judge(Arc<OnceLock<WeakCurrent<Endpoints>>>);

impl Judge {
    /// Lets the judge decide by the table that is current at each question. The handlers in the table keep the judge,
    /// so the judge does not keep the table.
    pub(crate) fn decide_by(&self, endpoints: &Current<Endpoints>) {
        assert!(self.0.set(endpoints.downgrade()).is_ok(), "a server has one current table of endpoints");
    }

    /// Returns the topic that a client means by a name in a message: the prefix of the route's topics, then the name.
    ///
    /// # Errors
    ///
    /// 400 for a malformed name, 404 at a route without topics, and 503 if the server has ended.
    pub(crate) fn topic<S: 'static>(&self, connection: &Connection<'_, S>, name: &str) -> Result<TopicName, Refusal> {
        self.endpoints()?.topic(opening(connection).route, name)
    }

    /// Judges whether a client may receive from a topic, and then calls `act` with the decision: at once, or in work
    /// beside the connection if the judge has to wait. Messages that come meanwhile are handled first.
    ///
    /// The refusal is that of [`Endpoints::authorize_topic`]; 429 if too much work of the connection is under way; or
    /// 503 if the judge has waited for too long, or if the server has ended.
    ///
    /// # Panics
    ///
    /// If an authenticator panics. The connection then ends as it does when its handler panics.
    pub(crate) fn may_subscribe<S: 'static>(
        &self,
        connection: &mut Connection<'_, S>,
        topic: &TopicName,
        act: impl FnOnce(&mut Connection<'_, S>, Result<(), Refusal>) + 'static,
    ) {
        let act = |connection: &mut Connection<'_, S>, decided: Decided| act(connection, decided.map(drop));
        self.judge(connection, TopicRight::Subscribe, topic, act);
    }

    /// Judges whether a client may receive from a topic and read its history, and then calls `act` with the decision.
    ///
    /// See [`Judge::may_subscribe`].
    pub(crate) fn may_resume<S: 'static>(
        &self,
        connection: &mut Connection<'_, S>,
        topic: &TopicName,
        act: impl FnOnce(&mut Connection<'_, S>, Result<(), Refusal>) + 'static,
    ) {
        let act = |connection: &mut Connection<'_, S>, decided: Decided| act(connection, decided.map(drop));
        self.judge(connection, TopicRight::History, topic, act);
    }

    /// Judges whether a client may receive from a topic by a token that has not taken the place of the earlier one, and
    /// by the identities that the connection would have with the token. Then calls `act` with the identities that gates
    /// have found, or with the refusal. The connection learns nothing of the decision.
    ///
    /// See [`Judge::may_subscribe`].
    pub(crate) fn may_subscribe_by<S: 'static>(
        &self,
        connection: &mut Connection<'_, S>,
        (identities, token): (&Arc<Identities>, &RenewedToken),
        topic: &TopicName,
        act: impl FnOnce(&mut Connection<'_, S>, Result<Identities, Refusal>) + 'static,
    ) {
        let endpoints = match self.endpoints() {
            Ok(endpoints) => endpoints,
            Err(refusal) => return act(connection, Err(refusal)),
        };
        let asker = Asker::of(connection, endpoints, TopicRight::Subscribe, topic.clone());
        let (token, identities) = (Some(token.clone()), Arc::clone(identities));
        let asker = Asker { token, identities, by: TokenAsked::Accepted, ..asker };
        asker.decide(connection, |connection, decided| act(connection, decided.map(|judged| judged.others)));
    }

    /// Judges whether a client may receive from a topic and see who is subscribed to it, and then calls `act` with the
    /// decision.
    ///
    /// See [`Judge::may_subscribe`].
    pub(crate) fn may_see_presence<S: 'static>(
        &self,
        connection: &mut Connection<'_, S>,
        topic: &TopicName,
        act: impl FnOnce(&mut Connection<'_, S>, Result<(), Refusal>) + 'static,
    ) {
        let act = |connection: &mut Connection<'_, S>, decided: Decided| act(connection, decided.map(drop));
        self.judge(connection, TopicRight::Presence, topic, act);
    }

    /// Judges whether a client may publish to a topic, and then calls `act` with the permission or the refusal.
    ///
    /// See [`Judge::may_subscribe`].
    pub(crate) fn may_publish<S: 'static>(
        &self,
        connection: &mut Connection<'_, S>,
        topic: &TopicName,
        act: impl FnOnce(&mut Connection<'_, S>, Result<PublishGrant, Refusal>) + 'static,
    ) {
        let name = topic.clone();
        let act = move |connection: &mut Connection<'_, S>, decided: Decided| {
            act(connection, decided.map(|judged| judged.endpoints.grant(&name)));
        };
        self.judge(connection, TopicRight::Publish, topic, act);
    }

    /// Checks whether a client may show another token in a message: it could guess tokens there.
    ///
    /// # Errors
    ///
    /// 429 if the client's address has shown wrong credentials faster than its rate allows, 503 if the server has
    /// ended.
    pub(crate) fn may_show_token<S: 'static>(&self, connection: &Connection<'_, S>) -> Result<(), Refusal> {
        let OpeningRequest { head, peer, route, .. } = &**opening(connection);
        let judged = self.endpoints()?.judge_guess(&Credentials::new(head, *peer), *route, None);
        judged.map_err(Refusal::from)
    }

    /// Counts a token that was refused as a guess, if the refusal says that the token is wrong.
    pub(crate) fn count_guess<S: 'static>(&self, connection: &Connection<'_, S>, refusal: &Refusal) {
        let OpeningRequest { head, peer, route, .. } = &**opening(connection);
        if let Ok(endpoints) = self.endpoints() {
            // The refusal comes back.
            _ = endpoints.judge_guess(&Credentials::new(head, *peer), *route, Some(refusal));
        }
    }

    /// Judges a use of a topic, and then calls `act` with the table that has decided, or with the refusal.
    fn judge<S: 'static>(
        &self,
        connection: &mut Connection<'_, S>,
        right: TopicRight,
        topic: &TopicName,
        act: impl FnOnce(&mut Connection<'_, S>, Decided) + 'static,
    ) {
        let endpoints = match self.endpoints() {
            Ok(endpoints) => endpoints,
            Err(refusal) => return act(connection, Err(refusal)),
        };
        if connection.is_permitted(endpoints.number(), right, topic) {
            // The identities that the judge has found then may have expired, or have been revoked.
            let known = connection.identities();
            let checked = known.map_or(Ok(()), |known| known.check_again(&endpoints.revocations));
            return act(connection, checked.map(|()| Judged { endpoints, others: Identities::default() }));
        }
        Asker::of(connection, endpoints, right, topic.clone()).decide(connection, act);
    }

    fn endpoints(&self) -> Result<Arc<Endpoints>, Refusal> {
        self.0.get().and_then(WeakCurrent::get).ok_or_else(Refusal::leaving)
    }
}

/// Returns the opening request of a connection.
///
/// # Panics
///
/// If the route forgets its requests: a surface whose clients name topics in messages keeps them.
fn opening<'a, S: 'static>(connection: &'a Connection<'_, S>) -> &'a Arc<OpeningRequest> {
    connection.shared_request().expect("the surface keeps the opening requests")
}

/// What the judge has found when it has admitted a use of a topic, or the refusal.
type Decided = Result<Judged, Refusal>;

/// The table by which the judge has admitted a use of a topic, and the identities that the gates of other routes have
/// found for it.
struct Judged {
    endpoints: Arc<Endpoints>,
    others: Identities,
}

/// The token by which a question is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TokenAsked {
    /// The token of the connection.
    Own,
    /// One that has not taken the place of that token.
    Accepted,
}

/// A question about a topic in a message, with all that it takes to ask it again later.
struct Asker {
    endpoints: Arc<Endpoints>,
    right: TopicRight,
    topic: TopicName,
    request: Arc<OpeningRequest>,
    token: Option<RenewedToken>,
    identities: Arc<Identities>,
    by: TokenAsked,
    /// The number of renewals of the connection when the question was made.
    renewals: u32,
    answers: Answers,
}

impl Asker {
    fn of<S: 'static>(
        connection: &Connection<'_, S>,
        endpoints: Arc<Endpoints>,
        right: TopicRight,
        topic: TopicName,
    ) -> Asker {
        let request = Arc::clone(opening(connection));
        let token = connection.renewed_token().cloned();
        let identities = Arc::new(connection.identities().cloned().unwrap_or_default());
        let (renewals, answers) = (connection.renewals(), Answers::default());
        let by = TokenAsked::Own;
        Asker { endpoints, right, topic, request, token, identities, by, renewals, answers }
    }

    /// Asks the judge, and then calls `act` with the decision: at once, or when the judge need not wait any more.
    fn decide<S: 'static>(
        self,
        connection: &mut Connection<'_, S>,
        act: impl FnOnce(&mut Connection<'_, S>, Decided) + 'static,
    ) {
        match self.ask() {
            Err(Denied::Later(later)) => self.wait(connection, later, act),
            judged => {
                let decided = self.note(connection, judged);
                act(connection, decided);
            }
        }
    }

    fn ask(&self) -> Result<Admittance, Denied> {
        let credentials = Credentials::new(&self.request.head, self.request.peer).with_answers(&self.answers);
        let credentials = credentials.about(self.request.topic.as_ref());
        let token = self.token.as_ref().map(RenewedToken::as_str);
        let credentials = token.map_or(credentials, |token| credentials.with_token(token));
        let sender = AdmittedSender { credentials, identities: &self.identities, route: self.request.route };
        let intent = match self.right {
            TopicRight::Publish => Intent::Publish,
            TopicRight::Presence => Intent::ReadPresence,
            TopicRight::History => Intent::ReadHistory,
            _ => Intent::Attach { subscribes: true, publishes: false },
        };
        self.endpoints.authorize_topic(&sender, intent, &self.topic)
    }

    /// Waits beside the connection until the judge decides.
    fn wait<S: 'static>(
        self,
        connection: &mut Connection<'_, S>,
        later: Later,
        act: impl FnOnce(&mut Connection<'_, S>, Decided) + 'static,
    ) {
        // The connection drops its work if it has too much of it, and then the refusal needs `act`.
        let act = Rc::new(Cell::new(Some(act)));
        let of_work = Rc::clone(&act);
        let is_begun = connection.spawn(async move |handle| {
            let mut later = Some(later);
            let ask = || match later.take() {
                Some(later) => Err(Denied::Later(later)),
                None => self.ask(),
            };
            let judged = until_decided(self.endpoints.wait_max(), pending(), ask).await;
            let acted = handle.with(move |connection| {
                let Some(act) = of_work.take() else { return };
                // A connection that is closing carries out nothing more.
                if connection.websocket_state() != State::Open {
                    return;
                }
                if self.by == TokenAsked::Own && connection.renewals() != self.renewals {
                    // The decision is about an identity that the connection does not have any more.
                    let Asker { endpoints, right, topic, .. } = self;
                    return Asker::of(connection, endpoints, right, topic).decide(connection, act);
                }
                let decided = self.note(connection, judged);
                act(connection, decided);
            });
            // The connection may have ended.
            _ = acted.await;
        });
        if !is_begun && let Some(act) = act.take() {
            act(connection, Err(Refusal::new(429, "too many messages of this connection wait for a decision")));
        }
    }

    /// Notes what a decision means for the connection.
    fn note<S: 'static>(&self, connection: &mut Connection<'_, S>, judged: Result<Admittance, Denied>) -> Decided {
        assert!(!matches!(judged, Err(Denied::Panicked)), "an authenticator has panicked over a message");
        let Admittance { identities, is_lasting } = judged.map_err(Refusal::from)?;
        if self.by == TokenAsked::Own {
            connection.note_others(&identities)?;
            if is_lasting {
                connection.note_permitted(self.endpoints.number(), self.right, &self.topic);
            }
        }
        Ok(Judged { endpoints: Arc::clone(&self.endpoints), others: identities })
    }
}
