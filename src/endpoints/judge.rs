//! The judge of topics that clients name in their messages, for the handlers of surfaces.

#![cfg_attr(not(test), expect(dead_code, reason = "only the surface of the tests uses all of it so far"))]

use std::sync::{Arc, OnceLock};

use super::{Denied, Endpoints, http::PublishGrant, intent::Intent};
use crate::{
    auth::Credentials,
    current::{Current, WeakCurrent},
    handler::OpeningRequest,
    hub::TopicName,
    proto::Refusal,
};

/// The judge of topics that clients name in their messages. A handler gets it before the table of endpoints exists. A
/// clone is another handle to the same judge.
///
/// A handler of a surface has to ask the judge about every topic that a client names, and gives it the opening request
/// of the client's connection.
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
    pub(crate) fn topic(&self, opening: &OpeningRequest, name: &str) -> Result<TopicName, Refusal> {
        self.endpoints()?.topic(opening.route, name)
    }

    /// Judges whether a client may receive from a topic.
    ///
    /// # Errors
    ///
    /// See [`Endpoints::authorize_topic`]; and 503 if the server has ended.
    ///
    /// # Panics
    ///
    /// If an authenticator panics. The connection then ends as it does when its handler panics.
    pub(crate) fn may_subscribe(&self, opening: &OpeningRequest, topic: &TopicName) -> Result<(), Refusal> {
        let intent = Intent::Attach { subscribes: true, publishes: false };
        decided(self.endpoints()?.authorize_topic(&sender(opening), intent, opening.route, topic))
    }

    /// Returns the permission of a client to publish to a topic.
    ///
    /// # Errors
    ///
    /// See [`Judge::may_subscribe`].
    ///
    /// # Panics
    ///
    /// See [`Judge::may_subscribe`].
    pub(crate) fn may_publish(&self, opening: &OpeningRequest, topic: &TopicName) -> Result<PublishGrant, Refusal> {
        decided(self.endpoints()?.authorize_publish(&sender(opening), opening.route, topic))
    }

    fn endpoints(&self) -> Result<Arc<Endpoints>, Refusal> {
        self.0.get().and_then(WeakCurrent::get).ok_or_else(Refusal::leaving)
    }
}

fn sender(opening: &OpeningRequest) -> Credentials<'_> {
    Credentials::new(&opening.head, opening.peer)
}

fn decided<T>(outcome: Result<T, Denied>) -> Result<T, Refusal> {
    assert!(!matches!(outcome, Err(Denied::Panicked)), "an authenticator has panicked over a message");
    outcome.map_err(Refusal::from)
}
