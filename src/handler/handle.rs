//! Asynchronous work on a connection: futures on its shard's thread, and the handle by which they reach it.

use std::{fmt, future::Future, rc::Rc};

use bytes::Bytes;
use tokio::sync::oneshot;
use tracing::Instrument;

use super::{
    connection::{Connection, call_with},
    errors::CloseError,
    shard_api::{ShardApi, Tasks},
    states::{Seat, States},
};
use crate::{
    hub::{ConnectionId, Refused, Sent},
    proto::CloseCode,
};

impl<S: 'static> Connection<'_, S> {
    /// Returns a handle for asynchronous work on this shard.
    #[must_use]
    pub fn handle(&self) -> Handle<S> {
        Handle { id: self.id, key: self.key, states: Rc::clone(self.states), tasks: self.shard.tasks().clone() }
    }

    /// Runs asynchronous work on the shard's thread between its turns: timers, sockets, any tokio library. The work is
    /// dropped when the connection ends. A panic in the work closes the connection with 1011.
    ///
    /// Returns whether the work is begun: a connection has at most 1 024 pieces of work at the same time, since a
    /// client that sends faster than the pieces end could begin any number of them. A further piece is dropped. The log
    /// gets at most one line about dropped pieces in a minute.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use ringhub::{handler::Connection, proto::CloseCode};
    /// # fn example(connection: &mut Connection<'_, ()>) {
    /// connection.spawn(|handle| async move {
    ///     for number in 1..=3 {
    ///         tokio::time::sleep(Duration::from_secs(1)).await;
    ///         handle.send_text(format!("{number} s")).await;
    ///     }
    ///     // The client has taken all of it.
    ///     handle.drained().await;
    ///     _ = handle.close(CloseCode::NORMAL, "time is up").await;
    /// });
    /// # }
    /// ```
    pub fn spawn<F: Future<Output = ()> + 'static>(&mut self, work: impl FnOnce(Handle<S>) -> F) -> bool {
        let future = work(self.handle());
        let is_begun = self.shard.tasks().spawn(self.id, future.in_current_span());
        if !is_begun {
            self.shard.warn_of_refused_work(self.id);
        }
        is_begun
    }
}

/// The handle by which asynchronous work reaches a connection of its shard. See [`Connection::spawn`].
///
/// The handle stays on the shard's thread. After the end of the connection, [`Handle::with`] returns `None`, and sends
/// and closes are refused.
pub struct Handle<S> {
    id: ConnectionId,
    key: u32,
    states: Rc<States<S>>,
    tasks: Tasks,
}

impl<S> Clone for Handle<S> {
    fn clone(&self) -> Self {
        Handle { id: self.id, key: self.key, states: Rc::clone(&self.states), tasks: self.tasks.clone() }
    }
}

impl<S> fmt::Debug for Handle<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Handle").field(&self.id).finish()
    }
}

impl<S: 'static> Handle<S> {
    /// Returns the connection's id.
    #[must_use]
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// Calls `work` with the connection in the shard's next turn. Returns `None` if the connection has ended, or if
    /// `work` panics, which closes the connection as in a handler's method.
    ///
    /// ```
    /// # use ringhub::handler::Handle;
    /// # async fn example(handle: Handle<u64>) {
    /// let total = handle.with(|connection| {
    ///     *connection.state_mut() += 1;
    ///     *connection.state()
    /// });
    /// match total.await {
    ///     Some(total) => println!("{total} so far"),
    ///     None => println!("it has ended"),
    /// }
    /// # }
    /// ```
    pub async fn with<T: 'static>(&self, work: impl FnOnce(&mut Connection<'_, S>) -> T + 'static) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        let (id, key, states) = (self.id, self.key, Rc::clone(&self.states));
        let call = Box::new(move |shard: &mut dyn ShardApi| {
            let outcome = shard.facts(id).and_then(|_| call_with(&states, shard, Seat { id, key }, work));
            if let Some(outcome) = outcome {
                // The caller may have been dropped meanwhile.
                _ = answer.send(outcome);
            }
        });
        self.tasks.call(id, call);
        answered.await.ok()
    }

    /// Sends text. Returns a refusal if the connection has ended.
    pub async fn send_text(&self, text: impl Into<String>) -> Sent {
        let text = text.into();
        self.with(move |connection| connection.send_text(text)).await.unwrap_or(Sent::Refused(Refused::NotOpen))
    }

    /// Sends bytes. Returns a refusal if the connection has ended.
    pub async fn send_binary(&self, bytes: impl Into<Bytes>) -> Sent {
        let bytes = bytes.into();
        self.with(move |connection| connection.send_binary(bytes)).await.unwrap_or(Sent::Refused(Refused::NotOpen))
    }

    /// Begins the closing handshake.
    ///
    /// # Errors
    ///
    /// See [`CloseError`].
    pub async fn close(&self, code: CloseCode, reason: impl Into<String>) -> Result<(), CloseError> {
        let reason = reason.into();
        let closed = self.with(move |connection| connection.close(code, &reason)).await;
        closed.unwrap_or(Err(CloseError::NotOpen))
    }

    /// Waits until the client's socket has taken all output, or the connection has ended.
    pub async fn drained(&self) {
        let (waiter, drained) = oneshot::channel();
        let id = self.id;
        self.tasks.call(id, Box::new(move |shard| shard.when_drained(id, waiter)));
        // An error means that the connection has ended.
        _ = drained.await;
    }
}
