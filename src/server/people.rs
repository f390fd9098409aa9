//! Looks at the connections and topics of a server, and acts on people: closes, revocations, subscriptions.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use super::hub::{Hub, HubError};
pub use crate::control::feed::{Lagged, QueueLimits, Subscription, TopicMessage};
use crate::{
    auth::{Revocation, RevocationError},
    handler::SubscribeError,
    hub::{
        Command, ConnectionFilter, ConnectionId, ConnectionPage, Presence, Reply, SubscribeOptions, SubscribeOutcome,
        TopicCursor, TopicName, TopicPage, Who,
    },
    proto::{CloseCode, CloseFrame},
};

impl Hub {
    /// Returns a page of open connections: those after `after`, at most `most` of them. A page may have fewer although
    /// more follow, as [`ConnectionPage::next`] says. A connection that stays open is in exactly one page, whatever
    /// connections come and go meanwhile.
    ///
    /// # Errors
    ///
    /// [`HubError::Ended`].
    ///
    /// ```
    /// # use ringhub::{ConnectionFilter, server::{Hub, HubError}};
    /// # async fn example(hub: Hub) -> Result<(), HubError> {
    /// let (filter, mut after) = (ConnectionFilter::default().identity("ann"), None);
    /// loop {
    ///     let page = hub.connection_page(&filter, after, 100).await?;
    ///     for connection in page.connections {
    ///         println!("{} from {:?}: {:?}", connection.id, connection.address, connection.topics);
    ///     }
    ///     match page.next {
    ///         Some(next) => after = Some(next),
    ///         None => return Ok(()),
    ///     }
    /// }
    /// # }
    /// ```
    pub async fn connection_page(
        &self,
        filter: &ConnectionFilter,
        after: Option<ConnectionId>,
        most: usize,
    ) -> Result<ConnectionPage, HubError> {
        self.publisher.connection_page(self.shards(), filter, after, most).await.ok_or(HubError::Ended)
    }

    /// Begins the closing handshakes of all open connections whose identity has this name. Returns how many they were.
    /// What a connection is owed goes before its close frame.
    ///
    /// # Errors
    ///
    /// [`HubError::Close`] for a code that may not be sent or a reason that is too long; [`HubError::Ended`].
    pub async fn disconnect_identity(&self, name: &str, code: CloseCode, reason: &str) -> Result<u64, HubError> {
        CloseFrame::new(code.0, reason).map_err(|error| HubError::Close(error.into()))?;
        let closed = self.publisher.disconnect_all(self.shards(), &Who::identity(name), code, reason).await;
        closed.ok_or(HubError::Ended)
    }

    /// Refuses an identity or a token until a time, at connect and at every request by HTTP, and closes its open
    /// connections with 1008. Returns how many they were. A later call for the same one replaces the time.
    ///
    /// Revocations are kept in memory alone: after a restart of the server they have to be made again.
    ///
    /// # Errors
    ///
    /// [`HubError::Revocation`] for an end that is not in the future, a name that is too long, or if as many
    /// revocations are in force as `max_revocations` allows.
    ///
    /// ```
    /// # use std::time::{Duration, SystemTime};
    /// # use ringhub::{Who, server::{Hub, HubError}};
    /// # async fn example(hub: Hub) -> Result<(), HubError> {
    /// let tomorrow = SystemTime::now() + Duration::from_secs(24 * 3_600);
    /// let closed = hub.revoke(&Who::identity("mallory"), tomorrow).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn revoke(&self, who: &Who, until: SystemTime) -> Result<u64, HubError> {
        let over = HubError::Revocation(RevocationError::Over);
        if until <= SystemTime::now() {
            return Err(over);
        }
        let until = until.duration_since(UNIX_EPOCH).map_err(|_| over)?;
        let until = until.as_secs() + u64::from(until.subsec_nanos() > 0);
        let close = (CloseCode::POLICY_VIOLATION, "revoked");
        let revoked = self.publisher.revoke(self.shards(), &self.revocations, who, until, close).await;
        revoked.map_err(HubError::Revocation)
    }

    /// Ends a revocation. Returns whether it was in force.
    #[must_use]
    pub fn lift(&self, who: &Who) -> bool {
        self.revocations.lift(who)
    }

    /// Returns revocations that are in force: those after `after`, at most `most` of them, in the order of [`Who`].
    #[must_use]
    pub fn revocations(&self, after: Option<&Who>, most: usize) -> Vec<Revocation> {
        self.revocations.page(after, most).0
    }

    /// Returns a page of the topics that connections use, each with the number of its subscribers: the topics after
    /// `after`, at most `most` of them. A topic that stays in use is in exactly one page.
    ///
    /// # Errors
    ///
    /// [`HubError::Ended`].
    pub async fn topics(&self, after: Option<TopicCursor>, most: usize) -> Result<TopicPage, HubError> {
        self.publisher.topic_page(self.shards(), &"".into(), after, most.max(1)).await.ok_or(HubError::Ended)
    }

    /// Returns how many connections have subscribed to a topic, on all shards. [`Hub::connection_page`] with
    /// [`ConnectionFilter::topic`] returns their ids.
    ///
    /// # Errors
    ///
    /// [`HubError::Ended`].
    pub async fn subscribers(&self, topic: &TopicName) -> Result<u64, HubError> {
        let topics: Arc<[TopicName]> = [topic.clone()].into();
        let counts = self.publisher.counts(self.shards(), &topics).await;
        counts.and_then(|counts| counts.first().copied()).ok_or(HubError::Ended)
    }

    /// Returns who is subscribed to a topic; `None` if the rules of the topic keep no presence
    /// ([`TopicRule::presence`](crate::TopicRule::presence)).
    ///
    /// # Errors
    ///
    /// [`HubError::Ended`].
    ///
    /// ```
    /// # use ringhub::{TopicName, server::{Hub, HubError}};
    /// # async fn example(hub: Hub, room: TopicName) -> Result<(), HubError> {
    /// let presence = hub.presence(&room).await?.expect("the room's rule keeps presence");
    /// for member in &presence.members {
    ///     println!("{} is here, {} times", member.id, member.connections);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn presence(&self, topic: &TopicName) -> Result<Option<Presence>, HubError> {
        self.publisher.read_presence(topic.clone(), true).await.ok_or(HubError::Ended)
    }

    /// Subscribes to a topic in the process of the server. When this returns, the stream gets every later message of
    /// the topic, in the order that all subscribers see, each once, with its place.
    ///
    /// # Errors
    ///
    /// [`HubError::Ended`] if the server leaves or has ended.
    ///
    /// ```
    /// # use ringhub::{TopicName, server::{Hub, HubError}};
    /// # async fn example(hub: Hub, topic: TopicName) -> Result<(), HubError> {
    /// let mut news = hub.subscribe(&topic).await?;
    /// while let Some(message) = news.next().await {
    ///     match message {
    ///         Ok(message) => println!("{}: {:?}", message.place.offset, message.publication.payload()),
    ///         Err(lagged) => println!("{lagged}"),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn subscribe(&self, topic: &TopicName) -> Result<Subscription, HubError> {
        self.subscribe_with(topic, QueueLimits::default()).await
    }

    /// Subscribes like [`Hub::subscribe`], with a queue of these limits.
    ///
    /// # Errors
    ///
    /// As of [`Hub::subscribe`].
    pub async fn subscribe_with(&self, topic: &TopicName, limits: QueueLimits) -> Result<Subscription, HubError> {
        self.publisher.subscribe(topic.clone(), limits).await.ok_or(HubError::Ended)
    }

    /// Makes a connection a subscriber of a topic. When this returns, the subscription is live: the connection gets
    /// every later message. Its handler is told, as of its own subscriptions.
    ///
    /// # Errors
    ///
    /// [`HubError::Subscribe`] if the connection is a subscriber already or has as many subscriptions as allowed;
    /// [`HubError::NoConnection`] if it is not open, or closes meanwhile; [`HubError::Ended`].
    pub async fn subscribe_connection(
        &self,
        id: ConnectionId,
        topic: &TopicName,
        options: SubscribeOptions,
    ) -> Result<(), HubError> {
        match self.command(id, Command::Subscribe { id, topic: topic.clone(), options }).await? {
            Reply::Subscribed(SubscribeOutcome::Live) => Ok(()),
            Reply::Subscribed(SubscribeOutcome::Already) => Err(HubError::Subscribe(SubscribeError::Already)),
            Reply::Subscribed(SubscribeOutcome::TooMany) => Err(HubError::Subscribe(SubscribeError::TooMany)),
            Reply::Subscribed(SubscribeOutcome::NotOpen) => Err(HubError::NoConnection(id)),
            _ => Err(HubError::Ended),
        }
    }

    /// Ends a connection's subscription to a topic. The connection still gets the messages that it was owed before.
    /// Returns whether the connection was a subscriber.
    ///
    /// # Errors
    ///
    /// [`HubError::NoConnection`] if there is no such shard; [`HubError::Ended`].
    pub async fn unsubscribe_connection(&self, id: ConnectionId, topic: &TopicName) -> Result<bool, HubError> {
        match self.command(id, Command::Unsubscribe { id, topic: topic.clone() }).await? {
            Reply::Done(was_subscriber) => Ok(was_subscriber),
            _ => Err(HubError::Ended),
        }
    }
}
