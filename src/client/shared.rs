//! The state that a client's handles and its task share.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{sync::mpsc, time::Instant};

use super::{
    config::Config,
    error::SendError,
    event::{ClientEvent, Events},
    lifecycle::{CloseRequest, Lifecycle, Requester},
    send_queue::SendQueue,
    stats::{Counters, Operation, SlowOperation},
};

/// The settings, counters and current connection of one client.
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) counters: Counters,
    delivery: Delivery,
    slow: Option<Slow>,
    lifecycle: Mutex<Option<Arc<Lifecycle>>>,
    /// Held by `Client::connect`, so that its calls run one after the other.
    pub(super) connecting: tokio::sync::Mutex<()>,
    /// Set once the last handle of the caller is dropped.
    is_abandoned: AtomicBool,
}

/// The destination of a client's events.
pub(super) enum Delivery {
    Queue(mpsc::Sender<ClientEvent>),
    /// The lock is free whenever an event comes: two connections of a client do not live at once.
    Callback(Mutex<Callback>),
}

pub(super) type Callback = Box<dyn FnMut(&Arc<Shared>, ClientEvent) + Send>;

/// A callback for operations that take at least `threshold`.
pub(super) struct Slow {
    pub(super) threshold: Duration,
    pub(super) callback: OnSlow,
}

pub(super) type OnSlow = Box<dyn Fn(SlowOperation) + Send + Sync>;

impl Delivery {
    /// Returns a queue with room for `events_max` events, and its receiving end.
    pub(super) fn queue(events_max: usize) -> (Self, Events) {
        let (sender, receiver) = mpsc::channel(events_max);
        (Self::Queue(sender), Events::new(receiver))
    }

    pub(super) fn callback(callback: Callback) -> Self {
        Self::Callback(Mutex::new(callback))
    }
}

impl Shared {
    pub(super) fn new(config: Config, delivery: Delivery, slow: Option<Slow>) -> Self {
        let (counters, lifecycle, connecting, is_abandoned) = Default::default();
        Self { config, counters, delivery, slow, lifecycle, connecting, is_abandoned }
    }

    /// Reports an operation that began at `begin` to the caller's `on_slow` callback, if it took too long.
    pub(super) fn measure(&self, operation: Operation, begin: Instant) {
        let Some(slow) = &self.slow else { return };
        let took = begin.elapsed();
        if took >= slow.threshold {
            self.counters.slow_operations.add(1);
            (slow.callback)(SlowOperation { operation, took });
        }
    }

    /// Delivers an event. Waits while the queue is full, until a close is requested; then the event is dropped.
    pub(super) async fn deliver(self: &Arc<Self>, lifecycle: &Lifecycle, event: ClientEvent) {
        let begin = Instant::now();
        tokio::select! {
            biased;
            () = self.deliver_at_length(event) => {}
            () = lifecycle.close_requested() => self.counters.events_dropped.add(1),
        }
        self.measure(Operation::Deliver, begin);
    }

    /// Delivers an event. Waits while the queue is full, with no limit. Dropping the future drops the event.
    pub(super) async fn deliver_at_length(self: &Arc<Self>, event: ClientEvent) {
        match &self.delivery {
            // The caller may have dropped its `Events`.
            Delivery::Queue(sender) => drop(sender.send(event).await),
            Delivery::Callback(callback) => self.call(callback, event),
        }
    }

    /// Delivers an event without waiting.
    ///
    /// # Errors
    ///
    /// The event, if the queue is full.
    pub(super) fn try_deliver(self: &Arc<Self>, event: ClientEvent) -> Result<(), Box<ClientEvent>> {
        match &self.delivery {
            Delivery::Queue(sender) => match sender.try_send(event) {
                Err(mpsc::error::TrySendError::Full(event)) => return Err(Box::new(event)),
                Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
            },
            Delivery::Callback(callback) => self.call(callback, event),
        }
        Ok(())
    }

    fn call(self: &Arc<Self>, callback: &Mutex<Callback>, event: ClientEvent) {
        callback.lock().unwrap_or_else(PoisonError::into_inner)(self, event);
    }

    /// Makes `lifecycle` the current one.
    pub(super) fn begin(&self, lifecycle: Arc<Lifecycle>) {
        *self.lock() = Some(lifecycle);
    }

    pub(super) fn current(&self) -> Option<Arc<Lifecycle>> {
        self.lock().clone()
    }

    /// Returns the queue of the open connection.
    pub(super) fn send_queue(&self) -> Result<Arc<SendQueue>, SendError> {
        self.current().and_then(|lifecycle| lifecycle.send_queue()).ok_or(SendError::NotOpen)
    }

    /// Closes the current connection with 1001, if there is one, and waits for its end.
    pub(super) async fn end(&self, requester: Requester) {
        if let Some(lifecycle) = self.current() {
            lifecycle.request_close(CloseRequest::going_away(requester));
            lifecycle.ended().await;
        }
    }

    /// Closes the current connection without waiting, and makes further calls of `connect` fail.
    pub(super) fn abandon(&self) {
        // `connect` calls `begin` before it reads `is_abandoned`. Both sides take the lock of `lifecycle` between their
        // own write and their read, so at least one of them sees what the other has written.
        self.is_abandoned.store(true, Ordering::Relaxed);
        if let Some(lifecycle) = self.current() {
            lifecycle.request_close(CloseRequest::going_away(Requester::Dropped));
        }
    }

    /// Returns whether no handle of the caller is left.
    pub(super) fn is_abandoned(&self) -> bool {
        self.is_abandoned.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Lifecycle>>> {
        self.lifecycle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
