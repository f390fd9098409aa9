//! The judge of topics that clients name in their messages, for the handlers of surfaces.

#![cfg_attr(not(test), expect(dead_code, reason = "only the surface of the tests uses all of it so far"))]

use std::{
    future::{Future, pending},
    pin::Pin,
    sync::{Arc, OnceLock},
};

use super::{Denied, Endpoints, http::PublishGrant, intent::Intent, waiting::until_decided};
use crate::{
    auth::{Answers, Credentials},
    current::{Current, WeakCurrent},
    handler::{Connection, OpeningRequest},
    hub::TopicName,
    proto::Refusal,
};

/// The judge of topics that clients name in their messages. A handler gets it before the table of endpoints exists. A
/// clone is another handle to the same judge.
///
/// A handler of a surface has to ask the judge about every topic that a client names, and gives it the client's
/// connection, whose route keeps its opening requests.
#[derive(Debug, Clone, Default)]
pub(crate) struct Judge(Arc<OnceLock<WeakCurrent<Endpoints>>>);

/// The decision of the judge about a topic in a message.
pub(crate) enum Judged<T> {
    /// The judge has decided.
    Now(Result<T, Refusal>),
    /// The judge has to wait. A handler spawns this work ([`Connection::spawn`]), so that it ends with its connection.
    /// Messages that come meanwhile are handled first.
    Later(Judging<T>),
}

/// The work that ends with the decision of the judge.
pub(crate) type Judging<T> = Pin<Box<dyn Future<Output = Result<T, Refusal>>>>;

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

    /// Judges whether a client may receive from a topic.
    ///
    /// The refusal is that of [`Endpoints::authorize_topic`]; or 503 if the judge has waited for too long, or if the
    /// server has ended.
    ///
    /// # Panics
    ///
    /// If an authenticator panics. The connection then ends as it does when its handler panics.
    pub(crate) fn may_subscribe<S: 'static>(&self, connection: &Connection<'_, S>, topic: &TopicName) -> Judged<()> {
        self.judged(connection, topic, |endpoints, sender, route, topic| {
            let intent = Intent::Attach { subscribes: true, publishes: false };
            endpoints.authorize_topic(sender, intent, route, topic)
        })
    }

    /// Judges whether a client may publish to a topic, and gives the permission.
    ///
    /// See [`Judge::may_subscribe`].
    pub(crate) fn may_publish<S: 'static>(
        &self,
        connection: &Connection<'_, S>,
        topic: &TopicName,
    ) -> Judged<PublishGrant> {
        self.judged(connection, topic, Endpoints::authorize_publish)
    }

    /// Asks a question about a topic. If the judge has to wait, the question is asked again in the work that is
    /// returned.
    fn judged<S: 'static, T: 'static>(
        &self,
        connection: &Connection<'_, S>,
        topic: &TopicName,
        ask: impl Fn(&Endpoints, &Credentials<'_>, usize, &TopicName) -> Result<T, Denied> + 'static,
    ) -> Judged<T> {
        let endpoints = match self.endpoints() {
            Ok(endpoints) => endpoints,
            Err(refusal) => return Judged::Now(Err(refusal)),
        };
        let OpeningRequest { head, peer, route, .. } = opening(connection);
        let answers = Answers::default();
        let later = match ask(&endpoints, &Credentials::new(head, *peer).with_answers(&answers), *route, topic) {
            Err(Denied::Later(later)) => later,
            outcome => return Judged::Now(decided(outcome)),
        };
        let (head, peer, route, topic) = (head.clone(), *peer, *route, topic.clone());
        Judged::Later(Box::pin(async move {
            let mut later = Some(later);
            let ask = || match later.take() {
                Some(later) => Err(Denied::Later(later)),
                None => ask(&endpoints, &Credentials::new(&head, peer).with_answers(&answers), route, &topic),
            };
            decided(until_decided(endpoints.wait_max(), pending(), ask).await)
        }))
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
fn opening<'a, S: 'static>(connection: &'a Connection<'_, S>) -> &'a OpeningRequest {
    connection.request().expect("the surface keeps the opening requests")
}

fn decided<T>(outcome: Result<T, Denied>) -> Result<T, Refusal> {
    assert!(!matches!(outcome, Err(Denied::Panicked)), "an authenticator has panicked over a message");
    outcome.map_err(Refusal::from)
}
