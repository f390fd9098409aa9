//! The methods of a shard for handlers. [`Connection`](super::Connection) delegates to this trait; `Shard` implements
//! it, in the simulator too.

use std::{
    cell::RefCell,
    collections::{HashMap, VecDeque},
    fmt,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use tokio::sync::Notify;

use super::{errors::SubscribeError, panicked::Panicked};
use crate::{
    auth::{Authenticator, Identities},
    hub::{
        ConnectionId, OrderEnd, Place, Presence, Publication, PublishOutcome, Scope, Sent, SubscribeOptions, TopicName,
        TopicRules,
    },
    proto::{CloseCode, KeepAlive, MessageLimits, Refusal, State},
};

/// The methods of a shard for handlers. No method calls a handler before it returns.
pub(crate) trait ShardApi {
    /// Returns the facts about a connection, while it exists.
    fn facts(&self, id: ConnectionId) -> Option<Facts>;

    /// Returns the addresses of both sides: the peer's, and the server's.
    fn addresses(&self, id: ConnectionId) -> (Option<SocketAddr>, Option<SocketAddr>);

    /// Appends whole frames to the output of a connection.
    fn send(&mut self, id: ConnectionId, frames: &[u8]) -> Sent;

    /// Begins the end of the session: a WebSocket's closing handshake.
    fn close(&mut self, id: ConnectionId, code: CloseCode, reason: &str);

    /// Reports a panic of a connection's handler, and closes the connection.
    fn fail(&mut self, id: ConnectionId, panicked: &Panicked);

    /// Subscribes the connection.
    fn subscribe(
        &mut self,
        id: ConnectionId,
        topic: &TopicName,
        options: SubscribeOptions,
    ) -> Result<(), SubscribeError>;

    /// Unsubscribes the connection. Returns whether it was a subscriber.
    fn unsubscribe(&mut self, id: ConnectionId, topic: &TopicName) -> bool;

    /// Returns whether the connection has subscribed to a topic.
    fn is_subscribed(&self, id: ConnectionId, topic: &TopicName) -> bool;

    /// Returns the topics of the connection's subscriptions.
    fn topics(&self, id: ConnectionId) -> Vec<TopicName>;

    /// Publishes to a topic.
    fn publish(
        &mut self,
        source: Option<ConnectionId>,
        topic: &TopicName,
        publication: Publication,
        scope: Scope,
    ) -> Option<Place>;

    /// Returns, in the call that reports a subscription, whether one that resumes gets all messages after its position.
    fn recovered(&self) -> Option<bool>;

    /// Returns, in the call that reports a subscription, the end of the topic's order at which it begins.
    fn order_end(&self) -> Option<OrderEnd>;

    /// Notes, for a stream of several topics, that the client has the messages of a topic up to this end. Returns the
    /// text of the client's position in all topics; `None` for any other connection.
    fn note_position(&mut self, id: ConnectionId, topic: &TopicName, end: Option<OrderEnd>) -> Option<String>;

    /// Publishes to a topic for a connection that wants the answer of the topic's home. Returns the answer, or calls
    /// `on_answered` with it later.
    fn publish_asking(
        &mut self,
        source: ConnectionId,
        topic: &TopicName,
        publication: Publication,
        on_answered: OnAnswered,
    ) -> Option<PublishOutcome>;

    /// Asks for the members of a topic, for a connection. Calls `on_presence` with them later; with `None` if the rules
    /// of the topic keep no presence.
    fn ask_presence(&mut self, source: ConnectionId, topic: &TopicName, on_presence: OnPresence);

    /// Sets the limits of the client's messages, from the next message on.
    fn set_limits(&mut self, id: ConnectionId, limits: MessageLimits);

    /// Sets the keep-alive of the connection.
    fn set_keep_alive(&mut self, id: ConnectionId, keep_alive: KeepAlive);

    /// Returns the authenticator of the connection's route.
    fn authenticator(&self, id: ConnectionId) -> Option<Arc<dyn Authenticator>>;

    /// Notes the identities that take the place of a connection's earlier ones.
    ///
    /// # Errors
    ///
    /// The refusal of an identity that has been revoked, or whose token has.
    fn note_identities(&mut self, id: ConnectionId, identities: &Identities) -> Result<(), Refusal>;

    /// Notes the bytes that the connection's profile keeps.
    fn note_kept(&mut self, id: ConnectionId, bytes: usize);

    /// Notes the bytes of the connection's messages that wait for decisions.
    fn note_waiting(&mut self, id: ConnectionId, bytes: usize);

    /// Returns the rules of a topic.
    fn topic_rules(&self, topic: &TopicName) -> TopicRules;

    /// Sets the time until the connection ends because its token has expired; `None` for a token that does not expire.
    fn set_lifetime(&mut self, id: ConnectionId, lifetime: Option<Duration>);

    /// Sets that time, unless less time is left.
    fn shorten_lifetime(&mut self, id: ConnectionId, lifetime: Duration);

    /// Notifies `waiter` when the connection has no output left, or has ended.
    fn when_drained(&mut self, id: ConnectionId, waiter: tokio::sync::oneshot::Sender<()>);

    /// Returns the queues of work for the shard.
    fn tasks(&self) -> &Tasks;

    /// Warns, at most once a minute, that a connection was refused further work.
    fn warn_of_refused_work(&self, id: ConnectionId);

    /// Returns all open connections of this shard.
    fn connections(&self) -> Vec<ConnectionId>;
}

/// The facts about a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    /// The state of the connection's session.
    pub(crate) state: State,
    /// Whether the session's protocol has pings and pongs.
    pub(crate) has_pings: bool,
    pub(crate) message_length: usize,
    /// The bytes that the connection's socket has not taken, and their limit.
    pub(crate) backlog_bytes: usize,
    pub(crate) backlog_bytes_max: usize,
    pub(crate) limits: MessageLimits,
    pub(crate) keep_alive: KeepAlive,
}

/// Work for a shard from its own thread: calls for the next turn, and futures to run between the turns.
#[derive(Clone, Default)]
pub(crate) struct Tasks(Rc<Queues>);

#[derive(Default)]
struct Queues {
    calls: RefCell<VecDeque<(ConnectionId, Call)>>,
    spawned: RefCell<VecDeque<(ConnectionId, SpawnedFuture)>>,
    /// The number of futures that run between the turns, or wait to, by connection.
    running: RefCell<HashMap<ConnectionId, usize>>,
    notify: Notify,
}

/// A call in a turn, for a connection. A panic in it counts as a panic of the connection's handler.
pub(crate) type Call = Box<dyn FnOnce(&mut dyn ShardApi)>;

/// A call with the place of a publication, when the topic's home has given it. A panic in it counts as in a [`Call`].
pub(crate) type OnAnswered = Box<dyn FnOnce(&mut dyn ShardApi, PublishOutcome)>;

/// The call that waits for the members of a topic.
pub(crate) type OnPresence = Box<dyn FnOnce(&mut dyn ShardApi, Option<Presence>)>;

/// A future that runs between the turns, for a connection.
pub(crate) type SpawnedFuture = Pin<Box<dyn Future<Output = ()>>>;

impl Tasks {
    /// Adds a call for the next turn.
    pub(crate) fn call(&self, id: ConnectionId, call: Call) {
        self.0.calls.borrow_mut().push_back((id, call));
        self.0.notify.notify_one();
    }

    /// Adds a future. Returns whether the connection had room for it.
    pub(crate) fn spawn(&self, id: ConnectionId, future: impl Future<Output = ()> + 'static) -> bool {
        let mut running = self.0.running.borrow_mut();
        let count = running.entry(id).or_default();
        if *count >= WORK_MAX {
            return false;
        }
        *count += 1;
        let running_future = RunningFuture { tasks: self.clone(), id };
        let work = async move {
            let _running_future = running_future;
            future.await;
        };
        self.0.spawned.borrow_mut().push_back((id, Box::pin(work)));
        self.0.notify.notify_one();
        true
    }

    /// Returns the next call.
    pub(crate) fn next_call(&self) -> Option<(ConnectionId, Call)> {
        self.0.calls.borrow_mut().pop_front()
    }

    /// Returns the next future that was added.
    pub(crate) fn next_spawned(&self) -> Option<(ConnectionId, SpawnedFuture)> {
        self.0.spawned.borrow_mut().pop_front()
    }

    /// Returns whether calls wait for the next turn.
    pub(crate) fn has_calls(&self) -> bool {
        !self.0.calls.borrow().is_empty()
    }

    /// Waits until work has been added since the last call.
    pub(crate) async fn added(&self) {
        self.0.notify.notified().await;
    }
}

/// Counts one future of a connection until this value is dropped.
struct RunningFuture {
    tasks: Tasks,
    id: ConnectionId,
}

impl Drop for RunningFuture {
    fn drop(&mut self) {
        let mut running = self.tasks.0.running.borrow_mut();
        if let Some(count) = running.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                running.remove(&self.id);
            }
        }
    }
}

/// The most futures that run for one connection at the same time. A further one is refused.
pub(crate) const WORK_MAX: usize = 1_024;

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks").field("calls", &self.0.calls.borrow().len()).finish_non_exhaustive()
    }
}
