//! Acts on all connections of a server, from any thread.

use std::{
    fmt,
    future::Future,
    pin::pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

use super::role::Role;
use crate::{
    auth::{RevocationError, Revocations},
    control::publisher::{Publisher, Requests},
    handler::{CloseError, Sent, SubscribeError},
    hub::{Command, ConnectionId, NoReceipt, Place, Publication, PublishError, Receipt, Reply, TopicName},
    metrics::{Counter, Counters},
    proto::{CloseCode, CloseFrame, KeepAlive, PreparedMessage},
};

/// Acts on all connections of a server, from any thread and any runtime; a clone is another handle to the same server.
///
/// [`Hub::wait`] waits for an answer on a thread without a runtime.
///
/// ```no_run
/// # use ringhub::{Hub, Publication, Server, TopicName};
/// # let running = Server::builder().topics().build()?.start()?;
/// let hub = running.hub();
/// let published = Hub::wait(hub.publish(&TopicName::new("news")?, Publication::text("good news")))?;
/// println!("message {} of the topic", published.offset);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Hub {
    pub(super) publisher: Publisher,
    /// The counters of each shard, from the start on.
    counters: Arc<OnceLock<Box<[Arc<Counters>]>>>,
    /// The identities and tokens that the server refuses.
    pub(super) revocations: Revocations,
}

impl Hub {
    /// Returns a handle to a server that has not started.
    pub(super) fn new() -> (Hub, Requests) {
        let (publisher, requests) = Publisher::new();
        (Hub { publisher, counters: Arc::default(), revocations: Revocations::default() }, requests)
    }

    /// Takes the counters of the shards, when they start.
    pub(super) fn start(&self, counters: &[Arc<Counters>]) {
        self.counters.set(counters.into()).expect("a server starts once");
    }

    pub(super) fn publisher(&self) -> Publisher {
        self.publisher.clone()
    }

    fn counters(&self) -> &[Arc<Counters>] {
        self.counters.get().map_or(&[], |counters| counters)
    }

    /// Returns the number of shards; 0 before the start.
    pub(super) fn shards(&self) -> u16 {
        self.counters().len() as u16
    }

    /// Publishes to all subscribers of a topic and waits for the publication's place in it.
    ///
    /// # Errors
    ///
    /// [`HubError::Publish`] for a publication with an id ([`Publication::id`]) that is not published for its id;
    /// [`HubError::Ended`], after which the publication may have reached subscribers nevertheless.
    ///
    /// ```
    /// # use ringhub::{Publication, TopicName, server::{Hub, HubError}};
    /// # async fn example(hub: Hub, topic: &TopicName) -> Result<(), HubError> {
    /// let first = hub.publish(topic, Publication::text("paid").id("order-17")).await?;
    /// // A repetition, for example after a timeout, is not published again.
    /// assert_eq!(hub.publish(topic, Publication::text("paid").id("order-17")).await?, first);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn publish(&self, topic: &TopicName, publication: impl Into<Publication>) -> Result<Place, HubError> {
        let answer = self.publisher.publish(topic.clone(), None, publication.into()).await;
        answer.ok_or(HubError::Ended)?.map(|published| published.place).map_err(HubError::Publish)
    }

    /// Publishes as [`Hub::publish`] does, and waits until every shard has handed the publication to its subscribers:
    /// to their sockets, or to the backlogs of those that are slow. The wait is at most `receipt_timeout` long.
    ///
    /// The receipt counts connections alone, no [`Hub::subscribe`]. It is exact for the moment at which the last shard
    /// was done: a subscriber in `queued` may get the publication later.
    ///
    /// # Errors
    ///
    /// As of [`Hub::publish`]. The publication has its place even if there is no receipt, see [`NoReceipt`].
    ///
    /// ```
    /// # use ringhub::{Publication, TopicName, server::{Hub, HubError}};
    /// # async fn example(hub: Hub, topic: &TopicName) -> Result<(), HubError> {
    /// let (place, receipt) = hub.publish_with_receipt(topic, Publication::text("good news")).await?;
    /// match receipt {
    ///     Ok(receipt) => println!("{} of {} have it", receipt.sent, receipt.matched),
    ///     Err(why) => println!("offset {}, and no receipt: {why}", place.offset),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn publish_with_receipt(
        &self,
        topic: &TopicName,
        publication: impl Into<Publication>,
    ) -> Result<(Place, Result<Receipt, NoReceipt>), HubError> {
        let answer = self.publisher.publish(topic.clone(), None, publication.into().ask_receipt()).await;
        let published = answer.ok_or(HubError::Ended)?.map_err(HubError::Publish)?;
        Ok((published.place, published.receipt.unwrap_or(Err(NoReceipt::NotAsked))))
    }

    /// Sends to all connections except `source` and the connections of routes without broadcasts. Each connection gets
    /// the publication once, in one order with all other broadcasts.
    ///
    /// # Errors
    ///
    /// As of [`Hub::publish`].
    pub async fn broadcast(
        &self,
        source: Option<ConnectionId>,
        publication: impl Into<Publication>,
    ) -> Result<(), HubError> {
        let answer = self.publisher.publish(TopicName::everyone(), source, publication.into()).await;
        answer.ok_or(HubError::Ended)?.map(drop).map_err(HubError::Publish)
    }

    /// Sends to all connections, like [`Hub::broadcast`] without a source.
    ///
    /// # Errors
    ///
    /// As of [`Hub::publish`].
    pub async fn send_all(&self, publication: impl Into<Publication>) -> Result<(), HubError> {
        self.broadcast(None, publication).await
    }

    /// Sends to one connection, and returns the outcome.
    ///
    /// # Errors
    ///
    /// [`HubError::NoConnection`] if the connection is closing, has ended or never existed; [`HubError::Ended`].
    ///
    /// ```
    /// # use ringhub::{handler::Sent, proto::PreparedMessage, server::{Hub, HubError}};
    /// # async fn example(hub: Hub) -> Result<(), HubError> {
    /// let message = PreparedMessage::text("to each of you");
    /// for id in hub.connections().await? {
    ///     match hub.send_one(id, &message).await {
    ///         Ok(Sent::Refused(why)) => println!("{id} does not get it: {why}"),
    ///         Ok(_) => {}
    ///         Err(HubError::NoConnection(_)) => println!("{id} has left meanwhile"),
    ///         Err(error) => return Err(error),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn send_one(&self, id: ConnectionId, message: &PreparedMessage) -> Result<Sent, HubError> {
        match self.command(id, Command::Send { id, message: message.clone() }).await? {
            Reply::Sent(Sent::Refused(crate::hub::Refused::NotOpen)) => Err(HubError::NoConnection(id)),
            Reply::Sent(sent) => Ok(sent),
            _ => Err(HubError::Ended),
        }
    }

    /// Begins the closing handshake of one connection.
    ///
    /// # Errors
    ///
    /// [`HubError::Close`] for a code that may not be sent or a reason that is too long; [`HubError::NoConnection`] if
    /// the connection is closing or has ended; [`HubError::Ended`].
    pub async fn disconnect(&self, id: ConnectionId, code: CloseCode, reason: &str) -> Result<(), HubError> {
        CloseFrame::new(code.0, reason).map_err(|error| HubError::Close(error.into()))?;
        match self.command(id, Command::Close { id, code, reason: reason.into() }).await? {
            Reply::Done(true) => Ok(()),
            Reply::Done(false) => Err(HubError::NoConnection(id)),
            _ => Err(HubError::Ended),
        }
    }

    /// Returns the ids of all open connections, shard by shard.
    ///
    /// # Errors
    ///
    /// [`HubError::Ended`].
    pub async fn connections(&self) -> Result<Vec<ConnectionId>, HubError> {
        let mut all = Vec::new();
        for shard in 0..self.counters().len() as u16 {
            match self.publisher.command(shard, Command::List).await {
                Some(Reply::Connections(ids)) => all.extend_from_slice(&ids),
                _ => return Err(HubError::Ended),
            }
        }
        Ok(all)
    }

    /// Sets the keep-alive of one connection, or of all connections and those to come. Without an id the call has no
    /// effect before the server has started.
    ///
    /// # Errors
    ///
    /// [`HubError::NoConnection`] if the connection has ended; [`HubError::Ended`].
    pub async fn set_keep_alive(&self, id: Option<ConnectionId>, keep_alive: KeepAlive) -> Result<(), HubError> {
        let command = Command::KeepAlive { id, keep_alive };
        if let Some(id) = id {
            return match self.command(id, command).await? {
                Reply::Done(true) => Ok(()),
                _ => Err(HubError::NoConnection(id)),
            };
        }
        for shard in 0..self.counters().len() as u16 {
            self.publisher.command(shard, command.clone()).await.ok_or(HubError::Ended)?;
        }
        Ok(())
    }

    /// Returns the sum of a counter over all shards, gauges included: `count(Counter::ConnectionsOpen)` is the number
    /// of open connections.
    #[must_use]
    pub fn count(&self, counter: Counter) -> u64 {
        self.counters().iter().map(|counters| counters.get(counter)).sum()
    }

    pub(super) async fn command(&self, id: ConnectionId, command: Command) -> Result<Reply, HubError> {
        if usize::from(id.shard()) >= self.counters().len() {
            return Err(HubError::NoConnection(id));
        }
        self.publisher.command(id.shard(), command).await.ok_or(HubError::Ended)
    }

    /// Waits for an answer on a thread that has no runtime.
    ///
    /// # Panics
    ///
    /// If called in a handler or an authenticator: the answer comes from shards by way of the control thread, and this
    /// thread would wait for itself.
    ///
    /// ```
    /// # use ringhub::server::Hub;
    /// assert_eq!(Hub::wait(async { 6 * 7 }), 42);
    /// ```
    pub fn wait<T>(answer: impl Future<Output = T>) -> T {
        match Role::of_this_thread() {
            Some(Role::Shard) => panic!("a handler cannot wait for its own shard; spawn the work on the connection"),
            Some(Role::Control) => panic!("an authenticator cannot wait for the thread it is called on"),
            None => {}
        }
        struct Unpark(Thread);
        impl Wake for Unpark {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut answer = pin!(answer);
        loop {
            match answer.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(outcome) => return outcome,
                Poll::Pending => thread::park(),
            }
        }
    }
}

/// The reason for which a hub does not carry out a call.
///
/// ```
/// use ringhub::{handler::ConnectionId, server::HubError};
/// let error = HubError::NoConnection(ConnectionId::new(0, 17, 3));
/// assert_eq!(error.to_string(), "there is no open connection 0.17.3");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HubError {
    /// No open connection has that id.
    NoConnection(ConnectionId),
    /// The close code or the reason is not allowed.
    Close(CloseError),
    /// The publication is refused for its id.
    Publish(PublishError),
    /// The connection's subscription is refused.
    Subscribe(SubscribeError),
    /// The revocation is refused.
    Revocation(RevocationError),
    /// The server has ended, or leaves and publishes nothing more.
    Ended,
}

impl fmt::Display for HubError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HubError::NoConnection(id) => write!(f, "there is no open connection {id}"),
            HubError::Close(error) => error.fmt(f),
            HubError::Publish(error) => error.fmt(f),
            HubError::Subscribe(error) => error.fmt(f),
            HubError::Revocation(error) => error.fmt(f),
            HubError::Ended => f.write_str("the server has ended"),
        }
    }
}

impl std::error::Error for HubError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::Server;

    /// The server of a handler's hub may never start.
    #[test]
    fn without_a_server_no_connection_is_found() {
        let (hub, requests) = Hub::new();
        let (id, message) = (ConnectionId::new(0, 0, 0), PreparedMessage::text("hello"));
        assert_eq!(Hub::wait(hub.connections()), Ok(Vec::new()));
        assert_eq!(Hub::wait(hub.send_one(id, &message)), Err(HubError::NoConnection(id)));
        assert_eq!(hub.count(Counter::ConnectionsOpen), 0);
        drop(requests);
        assert_eq!(Hub::wait(hub.send_all(Publication::text("hello"))), Err(HubError::Ended));
    }

    #[test]
    fn a_publication_before_the_start_waits_for_it() {
        let builder = Server::builder().listen(["127.0.0.1:0".parse().unwrap()]).shards(1);
        let (hub, topic, publication) = (builder.hub(), TopicName::new("early").unwrap(), Publication::text("hello"));
        let mut early = pin!(hub.publish(&topic, &publication));
        assert!(early.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let running = builder.build().unwrap().start().unwrap();
        assert_eq!(Hub::wait(early).unwrap().offset, 1);
        assert_eq!(Hub::wait(running.hub().publish(&topic, &publication)).unwrap().offset, 2);
        running.stop();
        running.wait_blocking().unwrap();
    }
}
