//! What a shard does for handlers. It is what [`Connection`](super::Connection) is made of, and what the simulator
//! replaces nothing of: the shard itself implements it.

use std::{
    cell::RefCell,
    collections::{HashMap, VecDeque},
    fmt,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
};

use tokio::sync::Notify;

use super::{errors::SubscribeError, panicked::Panicked};
use crate::{
    hub::{ConnectionId, Published, Scope, Sent, SubscribeOptions, TopicName},
    proto::{CloseCode, KeepAlive, MessageLimits, PreparedMessage, State},
};

/// A shard, as handlers see it. Nothing here calls a handler back before it returns.
pub(crate) trait Door {
    /// What is known of a connection, while it exists.
    fn facts(&self, id: ConnectionId) -> Option<Facts>;

    /// The addresses of both sides: the peer's, and ours.
    fn addresses(&self, id: ConnectionId) -> (Option<SocketAddr>, Option<SocketAddr>);

    /// Appends whole frames to what leaves next.
    fn send(&mut self, id: ConnectionId, frames: &[u8]) -> Sent;

    /// Begins the closing handshake.
    fn close(&mut self, id: ConnectionId, code: CloseCode, reason: &str);

    /// Its handler has panicked: that is told, and closes it.
    fn fail(&mut self, id: ConnectionId, panicked: &Panicked);

    /// Subscribes the connection.
    fn subscribe(
        &mut self,
        id: ConnectionId,
        topic: &TopicName,
        options: SubscribeOptions,
    ) -> Result<(), SubscribeError>;

    /// Returns whether it was subscribed.
    fn unsubscribe(&mut self, id: ConnectionId, topic: &TopicName) -> bool;

    /// The topics it has subscribed to.
    fn topics(&self, id: ConnectionId) -> Vec<TopicName>;

    /// Publishes to a topic.
    fn publish(
        &mut self,
        source: Option<ConnectionId>,
        topic: &TopicName,
        message: &PreparedMessage,
        scope: Scope,
    ) -> Option<Published>;

    /// From now on the connection has limits or deadlines of its own.
    fn set_limits(&mut self, id: ConnectionId, limits: MessageLimits);
    fn set_keep_alive(&mut self, id: ConnectionId, keep_alive: KeepAlive);

    /// Tells `waiter` when nothing waits to be sent to the connection any more, or it has ended.
    fn when_drained(&mut self, id: ConnectionId, waiter: tokio::sync::oneshot::Sender<()>);

    /// The work that others give the shard.
    fn tasks(&self) -> &Tasks;

    /// All connections of this shard that are open.
    fn connections(&self) -> Vec<ConnectionId>;
}

/// What is known of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    pub(crate) state: State,
    pub(crate) message_length: usize,
    /// Bytes that its socket has not taken, and how many there may be.
    pub(crate) backlog_bytes: usize,
    pub(crate) backlog_bytes_max: usize,
    pub(crate) limits: MessageLimits,
    pub(crate) keep_alive: KeepAlive,
}

/// Work for a shard from its own thread: what is to be done in a turn, and futures to run beside it.
#[derive(Clone, Default)]
pub(crate) struct Tasks(Rc<Queues>);

#[derive(Default)]
struct Queues {
    calls: RefCell<VecDeque<(ConnectionId, Call)>>,
    spawned: RefCell<VecDeque<(ConnectionId, Spawned)>>,
    /// How much runs beside the turns, or is to, by connection.
    running: RefCell<HashMap<ConnectionId, usize>>,
    notify: Notify,
}

/// Something to be done in a turn, for a connection: a panic is its handler's.
pub(crate) type Call = Box<dyn FnOnce(&mut dyn Door)>;

/// Something to run beside the turns, for a connection.
pub(crate) type Spawned = Pin<Box<dyn Future<Output = ()>>>;

impl Tasks {
    pub(crate) fn call(&self, id: ConnectionId, call: Call) {
        self.0.calls.borrow_mut().push_back((id, call));
        self.0.notify.notify_one();
    }

    /// Returns whether there was room for it.
    pub(crate) fn spawn(&self, id: ConnectionId, future: impl Future<Output = ()> + 'static) -> bool {
        let mut running = self.0.running.borrow_mut();
        let count = running.entry(id).or_default();
        if *count >= WORK_MAX {
            return false;
        }
        *count += 1;
        let part = Part { tasks: self.clone(), id };
        let work = async move {
            let _part = part;
            future.await;
        };
        self.0.spawned.borrow_mut().push_back((id, Box::pin(work)));
        self.0.notify.notify_one();
        true
    }

    pub(crate) fn next_call(&self) -> Option<(ConnectionId, Call)> {
        self.0.calls.borrow_mut().pop_front()
    }

    pub(crate) fn next_spawned(&self) -> Option<(ConnectionId, Spawned)> {
        self.0.spawned.borrow_mut().pop_front()
    }

    pub(crate) fn has_calls(&self) -> bool {
        !self.0.calls.borrow().is_empty()
    }

    /// Waits until something has been added since the last call.
    pub(crate) async fn added(&self) {
        self.0.notify.notified().await;
    }
}

/// One connection's part of what runs beside the turns, until it is dropped.
struct Part {
    tasks: Tasks,
    id: ConnectionId,
}

impl Drop for Part {
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

/// Pieces of work that run for one connection at the same time. One more is refused.
pub(super) const WORK_MAX: usize = 1_024;

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks").field("calls", &self.0.calls.borrow().len()).finish_non_exhaustive()
    }
}
