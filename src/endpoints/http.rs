//! The HTTP endpoints of surfaces: the rows that surfaces register, and the requests that reach them.

#![cfg_attr(not(test), expect(dead_code, reason = "only the surface of the tests uses all of it so far"))]

use std::{
    future::{Future, pending},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;

use super::{denied::Denied, intent::ReadIntent, values::RouteValues, waiting::until_decided};
use crate::{
    auth::{Answers, Credentials, Identities, Identity},
    handler::{BodyRoom, Parameters, Response, owner_of},
    hub::{HistoryPage, HistoryQuery, KeyPointer, Owner, Presence, Publication, Published, TopicName},
    proto::{Refusal, RequestHead},
};

/// An HTTP endpoint that a surface registers at a path.
///
/// The control thread answers everything else by itself: preflights, methods that the path does not have, requests that
/// `intent` or the judge refuses, bodies that are broken, too large, too slow or without room, and requests to a server
/// that leaves. For all other requests it calls `answer`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HttpEndpoint {
    /// The methods, in the order in which `Allow` names them. HEAD is answered as GET is; OPTIONS cannot be among them.
    pub(crate) methods: &'static [&'static str],
    /// Reads the intent that the judge decides about before the body is read.
    pub(crate) intent: ReadIntent,
    pub(crate) body: BodyLimit,
    /// Further header lines that a page of another origin may send beside `Authorization` and `Content-Type`.
    pub(crate) page_headers: &'static [&'static str],
    pub(crate) answer: fn(Box<HttpRequest>) -> Answering,
}

/// The largest body of a request to an endpoint. Beyond it the answer is 413.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyLimit {
    /// The endpoint wants no body, and a body is not read.
    Nothing,
    /// The body is a message: the limit is that of messages to the topic of the path, or else that of the route.
    Message,
    /// A number of bytes.
    Bytes(u32),
}

/// The work that ends with the answer to a request.
pub(crate) type Answering = Pin<Box<dyn Future<Output = Result<Response, Refusal>> + Send>>;

/// A request to an endpoint, which the judge has admitted by its head, and whose body has arrived.
pub(crate) struct HttpRequest {
    pub(crate) head: Arc<RequestHead>,
    /// The topic that the path names.
    pub(crate) topic: Option<TopicName>,
    /// The permission to publish to the topic of the path, if the request was admitted with this intent.
    pub(crate) granted: Option<PublishGrant>,
    /// The identity that the authenticator of the route has found.
    pub(crate) identity: Option<Identity>,
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) body: Bytes,
    /// The values of the route's own keys.
    pub(crate) values: Arc<RouteValues>,
    /// The number of the path.
    pub(crate) path: usize,
    /// The number of the route.
    pub(crate) route: usize,
    pub(crate) commands: Box<dyn Commands>,
}

/// The permission to publish to a topic, which only the judge gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PublishGrant {
    topic: TopicName,
    bytes_max: u32,
    /// The pointer to the keys of the topic's messages.
    key: Option<KeyPointer>,
}

impl PublishGrant {
    /// Returns the permission to publish messages of at most `bytes_max` bytes to a topic, for which the judge has
    /// admitted [`Intent::Publish`](super::Intent::Publish). `key` points to the keys of the messages, if the topic's
    /// rule says so.
    pub(super) fn new(topic: TopicName, bytes_max: u32, key: Option<KeyPointer>) -> PublishGrant {
        PublishGrant { topic, bytes_max, key }
    }

    /// Returns the topic.
    pub(crate) fn topic(&self) -> &TopicName {
        &self.topic
    }

    /// Returns the topic, and gives the permission up.
    pub(crate) fn into_topic(self) -> TopicName {
        self.topic
    }

    /// Checks the size of a message against the limit of the topic, and gives the message its key if the rule of the
    /// topic says where it is.
    ///
    /// # Errors
    ///
    /// 413 for a message that is larger, and 422 for one without the key.
    pub(crate) fn check(&self, message: Publication) -> Result<Publication, Refusal> {
        let bytes_max = self.bytes_max;
        if message.payload().len() > bytes_max as usize {
            let what = format!("the message is larger than the largest one to this topic, {bytes_max} bytes");
            return Err(Refusal::new(413, what));
        }
        let Some(pointer) = &self.key else { return Ok(message) };
        pointer.give_key(message).map_err(|error| {
            let (topic, pointer) = (self.topic.as_str(), pointer.as_str());
            let what = format!("messages to the topic {topic:?} have their key at {pointer:?}, and {error}");
            Refusal::new(422, what + "; give another key beside the message, or correct the message")
        })
    }
}

/// The commands of an endpoint to the hub. The control thread implements them.
pub(crate) trait Commands: Send + Sync {
    /// Returns the values of the parameters in the path of a request.
    fn parameters(&self, path: usize, head: &RequestHead) -> Parameters;

    /// Returns the topic of a name that a request to a route has in its body.
    ///
    /// # Errors
    ///
    /// 400 for a malformed name.
    fn topic(&self, route: usize, name: &str) -> Result<TopicName, Refusal>;

    /// Judges whether the sender of a request, which the route of this number has admitted, may publish to a topic that
    /// the path does not name. Returns the grant, and the identities that the gates of other routes have found.
    ///
    /// # Errors
    ///
    /// See [`Endpoints::authorize_publish`](super::Endpoints::authorize_publish).
    fn judge(
        &self,
        sender: &Credentials<'_>,
        route: usize,
        topic: &TopicName,
    ) -> Result<(PublishGrant, Identities), Denied>;

    /// Counts a message against the rates of its sender. `others` are the identities that the judge has found for the
    /// topic of the message.
    ///
    /// # Errors
    ///
    /// 429 beyond a rate.
    fn count(&self, sender: &Credentials<'_>, others: &Identities) -> Result<(), Refusal>;

    /// Returns the answer that refuses a request which the judge has not admitted.
    fn refusal(&self, denied: Denied) -> Refusal;

    /// Checks that none of the sender's identities has expired or been revoked since the judge admitted the request.
    ///
    /// # Errors
    ///
    /// 401 for an identity that has expired and for a revoked token, 403 for a revoked identity.
    fn check_again(&self) -> Result<(), Refusal>;

    /// Returns the longest time for which a request waits for the judge.
    fn wait_max(&self) -> Duration;

    /// Publishes a message, and waits for its place in the order of the topic.
    ///
    /// # Errors
    ///
    /// 413 for a message that is too large; 503 if too many bodies wait for the topic's home, or if the server leaves
    /// and has not published the message.
    fn publish(&self, grant: PublishGrant, message: Publication) -> Publishing;

    /// Reads a part of the history of a topic.
    ///
    /// # Errors
    ///
    /// 503 if the server leaves, or the topic's home is behind.
    fn read_history(&self, topic: TopicName, query: HistoryQuery) -> Reading;

    /// Returns the time of the wall clock, in milliseconds since 1970, from which the times of messages count.
    fn wall_start_ms(&self) -> u64;

    /// Reads the members of a topic, or only how many they are; `None` if the topic's rules keep no presence.
    ///
    /// # Errors
    ///
    /// 503 if the server leaves, or the topic's home is behind.
    fn read_presence(&self, topic: TopicName, has_members: bool) -> ReadingPresence;

    /// Returns a page of a history, or a list of members, that counts as memory of the server until the client has
    /// taken it.
    ///
    /// # Errors
    ///
    /// 503 if clients have not taken as many bytes of pages as allowed.
    fn hold(&self, page: Bytes) -> Result<Bytes, Refusal>;

    /// Takes room, until the returned value is dropped, for the messages of a batch and their answers.
    ///
    /// # Errors
    ///
    /// 503 if batches have as much room as they may.
    fn take_room(&self, bytes: usize) -> Result<Box<dyn BodyRoom>, Refusal>;

    /// Forgets the history of a topic, and returns how many messages were kept.
    ///
    /// # Errors
    ///
    /// 503 if the server leaves.
    fn forget_history(&self, topic: TopicName) -> Forgetting;

    /// Publishes messages, those to one topic in their order, and waits for the answers, which have the order of the
    /// messages. Each has the errors of [`Commands::publish`].
    fn publish_all(&self, messages: Vec<(PublishGrant, Publication)>) -> PublishingAll;
}

/// The work that ends with a part of a history.
pub(crate) type Reading = Pin<Box<dyn Future<Output = Result<HistoryPage, Refusal>> + Send>>;

/// The work that ends with the members of a topic.
pub(crate) type ReadingPresence = Pin<Box<dyn Future<Output = Result<Option<Presence>, Refusal>> + Send>>;

/// The work that ends with the number of messages that were forgotten.
pub(crate) type Forgetting = Pin<Box<dyn Future<Output = Result<u64, Refusal>> + Send>>;

/// The work that ends with the answers to several messages.
pub(crate) type PublishingAll = Pin<Box<dyn Future<Output = Vec<Result<Published, Refusal>>> + Send>>;

/// The work that ends with the place of a message, and with its receipt if the message asks for one.
pub(crate) type Publishing = Pin<Box<dyn Future<Output = Result<Published, Refusal>> + Send>>;

impl HttpRequest {
    /// Returns the values of the parameters in the path.
    pub(crate) fn parameters(&self) -> Parameters {
        self.commands.parameters(self.path, &self.head)
    }

    /// Returns the topic of a name in the body. It begins with the prefix of the route's topics, as a topic of a path
    /// does.
    ///
    /// # Errors
    ///
    /// 400 for a malformed name.
    pub(crate) fn topic_named(&self, name: &str) -> Result<TopicName, Refusal> {
        self.commands.topic(self.route, name)
    }

    /// Returns the permission to publish to a topic. The judge is asked about the topic, and may have to wait, unless
    /// it has already admitted the request to publish to this topic by the path.
    ///
    /// # Errors
    ///
    /// The refusal of the judge.
    pub(crate) async fn may_publish(&self, topic: &TopicName) -> Result<PublishGrant, Refusal> {
        if let Some(granted) = self.granted.as_ref().filter(|granted| granted.topic == *topic) {
            return Ok(granted.clone());
        }
        let (grant, others) = self.judge_publish(topic).await?;
        self.count_publish(&others)?;
        Ok(grant)
    }

    /// Returns the permission to publish to a topic, and the identities that the judge has found for the topic. The
    /// judge may have to wait. Each message that is published by the permission must be counted by
    /// [`HttpRequest::count_publish`].
    ///
    /// # Errors
    ///
    /// The refusal of the judge.
    pub(crate) async fn judge_publish(&self, topic: &TopicName) -> Result<(PublishGrant, Identities), Refusal> {
        let answers = Answers::default();
        let credentials = Credentials::new(&self.head, self.peer).with_answers(&answers);
        let ask = || self.commands.judge(&credentials, self.route, topic);
        let judged = until_decided(self.commands.wait_max(), pending(), ask).await;
        judged.map_err(|denied| self.commands.refusal(denied))
    }

    /// Reads a part of the history of the topic of the path, which the judge has admitted for
    /// [`Intent::ReadHistory`](super::Intent::ReadHistory).
    ///
    /// # Errors
    ///
    /// 404 if the path names no topic; 503 if the server leaves.
    pub(crate) fn read_history(&self, query: HistoryQuery) -> Result<Reading, Refusal> {
        Ok(self.commands.read_history(self.topic_of_path()?, query))
    }

    /// Reads the members of the topic of the path, which the judge has admitted for
    /// [`Intent::ReadPresence`](super::Intent::ReadPresence).
    ///
    /// # Errors
    ///
    /// 404 if the path names no topic; 503 if the server leaves.
    pub(crate) fn read_presence(&self, has_members: bool) -> Result<ReadingPresence, Refusal> {
        Ok(self.commands.read_presence(self.topic_of_path()?, has_members))
    }

    /// Forgets the history of the topic of the path, which the judge has admitted for
    /// [`Intent::ForgetHistory`](super::Intent::ForgetHistory).
    ///
    /// # Errors
    ///
    /// 404 if the path names no topic; 503 if the server leaves.
    pub(crate) fn forget_history(&self) -> Result<Forgetting, Refusal> {
        Ok(self.commands.forget_history(self.topic_of_path()?))
    }

    fn topic_of_path(&self) -> Result<TopicName, Refusal> {
        self.topic.clone().ok_or_else(|| Refusal::new(404, "this path names no topic"))
    }

    /// Counts a message against the rates of the sender. `others` are the identities that the judge has found for the
    /// topic of the message.
    ///
    /// # Errors
    ///
    /// 429 beyond a rate.
    pub(crate) fn count_publish(&self, others: &Identities) -> Result<(), Refusal> {
        self.commands.count(&Credentials::new(&self.head, self.peer), others)
    }

    /// Publishes a message, and waits for its place in the order of the topic.
    ///
    /// # Errors
    ///
    /// 413 for a message that is too large; 422 for one without the key that its topic asks for; 503 if too many bodies
    /// wait for the topic's home, or if the server leaves and has not published the message.
    pub(crate) fn publish(&self, grant: PublishGrant, message: Publication) -> Publishing {
        self.commands.publish(grant, message.owned_by(self.owner()))
    }

    /// Returns whom the ids and receipts of the sender's messages count for.
    pub(crate) fn owner(&self) -> Option<Owner> {
        owner_of(self.identity.as_ref(), self.peer)
    }
}
