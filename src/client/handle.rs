//! `Client`, the handle that a caller holds.

use std::{fmt, sync::Arc};

use bytes::{Bytes, BytesMut};
use fastwebsockets::OpCode;

use super::{
    config::Config,
    error::{ClientCloseError, ConnectError, SendError},
    lifecycle::{CloseRequest, Lifecycle, Requester},
    opened::Opened,
    send_queue::{Queued, SendQueue},
    session::{self, LifetimeGuard},
    shared::{Delivery, Shared, Slow},
    stats::Stats,
};
use crate::proto::{CONTROL_PAYLOAD_MAX, CloseCode};

/// A WebSocket client: a handle, whose clones any number of tasks may use. The client needs a tokio runtime with I/O
/// and time enabled.
///
/// The drop of the last handle closes the connection with 1001, after the messages that were accepted before have been
/// sent. The handle that a callback gets does not keep the connection open, and neither do clones of this handle.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    _last_handle: Option<Arc<LastHandle>>,
}

/// Shared by the caller's handles. Dropping it closes the connection.
struct LastHandle(Arc<Shared>);

impl Client {
    pub(super) fn new(config: Config, delivery: Delivery, slow: Option<Slow>) -> Self {
        let shared = Arc::new(Shared::new(config, delivery, slow));
        Self { _last_handle: Some(Arc::new(LastHandle(shared.clone()))), shared }
    }

    /// Returns a handle for a callback, which does not keep the client alive.
    pub(super) fn for_callback(shared: Arc<Shared>) -> Self {
        Self { shared, _last_handle: None }
    }

    /// Opens a connection, and returns the server's answer and the timings of the opening. A connection that is open
    /// already is closed with 1001 first, and another call under way ends with [`ConnectError::Cancelled`]. If the
    /// future is dropped before it completes, no connection is left.
    ///
    /// # Errors
    ///
    /// The reason of a failed attempt. [`Reconnect`](super::Reconnect) repeats no call of this method.
    ///
    /// # Panics
    ///
    /// The call panics outside a tokio runtime.
    pub async fn connect(&self) -> Result<Opened, ConnectError> {
        self.shared.end(Requester::Replaced).await;
        let _only_call = self.shared.connecting.lock().await;
        self.shared.end(Requester::Replaced).await;
        let lifecycle = Arc::new(Lifecycle::new());
        self.shared.begin(lifecycle.clone());
        let guard = LifetimeGuard::new(lifecycle.clone());
        // This is a callback's handle and the caller has no handle left: no drop would ever close the connection.
        if self.shared.is_abandoned() {
            return Err(ConnectError::Cancelled);
        }
        let connected = session::open(&self.shared, &lifecycle).await?;
        let opened = connected.opened.clone();
        let established = session::establish(&self.shared, &lifecycle, connected);
        tokio::spawn(session::run(self.shared.clone(), guard, established));
        Ok(opened)
    }

    /// Returns whether messages can be sent: the connection is open and no close was requested.
    pub fn is_open(&self) -> bool {
        self.shared.current().is_some_and(|lifecycle| lifecycle.send_queue().is_some())
    }

    /// Returns whether the client is about to open a lost connection again.
    pub fn is_reconnecting(&self) -> bool {
        self.shared.current().is_some_and(|lifecycle| lifecycle.is_reconnecting())
    }

    /// Returns the id of the open connection, see [`Opened::connection_id`].
    pub fn connection_id(&self) -> Option<u64> {
        self.shared.current()?.send_queue().map(|queue| queue.connection_id())
    }

    /// Returns the URL that the client connects to, without its query, which may hold a secret. A URL with credentials
    /// is refused by the builder.
    pub fn url(&self) -> String {
        self.shared.config.url.to_string()
    }

    /// Returns the client's counters, from the building of the client on.
    pub fn stats(&self) -> Stats {
        self.shared.counters.read()
    }

    /// Sends a text message: queues it, waiting until the queue has room. [`Client::flush`] waits for the socket.
    ///
    /// # Errors
    ///
    /// [`SendError::NotOpen`], even if the connection ends only during the wait; [`SendError::TooLarge`].
    pub async fn send_text(&self, text: impl Into<String>) -> Result<(), SendError> {
        self.send(OpCode::Text, owned_text(text.into())).await
    }

    /// Sends a binary message, like [`Client::send_text`].
    ///
    /// # Errors
    ///
    /// As [`Client::send_text`].
    pub async fn send_binary(&self, bytes: impl Into<Bytes>) -> Result<(), SendError> {
        self.send(OpCode::Binary, bytes.into().into()).await
    }

    /// Sends a text message if the queue has room for it now.
    ///
    /// # Errors
    ///
    /// [`SendError::QueueFull`], [`SendError::NotOpen`], [`SendError::TooLarge`].
    pub fn try_send_text(&self, text: impl Into<String>) -> Result<(), SendError> {
        self.try_send(OpCode::Text, owned_text(text.into()))
    }

    /// Sends a binary message if the queue has room for it now.
    ///
    /// # Errors
    ///
    /// As [`Client::try_send_text`].
    pub fn try_send_binary(&self, bytes: impl Into<Bytes>) -> Result<(), SendError> {
        self.try_send(OpCode::Binary, bytes.into().into())
    }

    /// Sends a ping (RFC 6455 5.5.2), after the messages in the queue. The server answers with a pong of the same
    /// bytes, an [`ClientEvent::Pong`](super::ClientEvent::Pong).
    ///
    /// # Errors
    ///
    /// [`SendError::ControlTooLong`] beyond 125 bytes, [`SendError::NotOpen`], [`SendError::TooLarge`].
    pub async fn ping(&self, payload: impl Into<Bytes>) -> Result<(), SendError> {
        self.send_control(OpCode::Ping, payload.into()).await
    }

    /// Sends a pong (RFC 6455 5.5.3), after the messages in the queue: an unsolicited one, or the answer to a ping
    /// where [`manual_pong`](super::ClientBuilder::manual_pong) is set.
    ///
    /// # Errors
    ///
    /// As [`Client::ping`].
    pub async fn pong(&self, payload: impl Into<Bytes>) -> Result<(), SendError> {
        self.send_control(OpCode::Pong, payload.into()).await
    }

    /// Waits until the messages that were accepted before have been written to the socket.
    ///
    /// # Errors
    ///
    /// [`SendError::NotOpen`], even if the connection ends only during the wait.
    pub async fn flush(&self) -> Result<(), SendError> {
        self.shared.send_queue()?.flush().await
    }

    /// Closes the connection like [`Client::close_with`], with 1001 and no reason.
    ///
    /// # Errors
    ///
    /// The code is sendable, so this method returns no error.
    pub async fn close(&self) -> Result<(), ClientCloseError> {
        self.close_with(CloseCode::GOING_AWAY, "").await
    }

    /// Closes the connection (RFC 6455 7.1.2) after the messages that were accepted before have been sent, and waits
    /// for its end. An attempt to open a connection is given up. Without a connection or an attempt this does nothing.
    /// The close frame holds at most 123 bytes of the reason, cut between two characters. Messages that the server
    /// sends before its close frame still come as events, unless the queue of events is full.
    ///
    /// # Errors
    ///
    /// [`ClientCloseError::Code`]; the connection then stays open.
    pub async fn close_with(&self, code: CloseCode, reason: &str) -> Result<(), ClientCloseError> {
        self.begin_close(code, reason)?;
        self.closed().await;
        Ok(())
    }

    /// Requests the close that [`Client::close_with`] describes, without waiting for its end. A callback must not
    /// block, so this method is its way to close.
    ///
    /// # Errors
    ///
    /// As [`Client::close_with`].
    pub fn begin_close(&self, code: CloseCode, reason: &str) -> Result<(), ClientCloseError> {
        if !code.is_sendable() {
            return Err(ClientCloseError::Code(code));
        }
        if let Some(lifecycle) = self.shared.current() {
            lifecycle.request_close(CloseRequest { code, reason: reason.into(), requester: Requester::Caller });
        }
        Ok(())
    }

    /// Waits until the client has neither a connection nor an attempt to open one.
    pub async fn closed(&self) {
        if let Some(lifecycle) = self.shared.current() {
            lifecycle.ended().await;
        }
    }

    /// Returns the send queue of the open connection.
    pub(super) fn send_queue(&self) -> Result<Arc<SendQueue>, SendError> {
        self.shared.send_queue()
    }

    /// Sends a text message on the connection of this queue, as [`Client::send_text`] does.
    pub(super) async fn send_text_by(&self, queue: &SendQueue, text: String) -> Result<(), SendError> {
        queue.send(Queued::frame(OpCode::Text, owned_text(text))).await?;
        self.count_accepted(OpCode::Text);
        Ok(())
    }

    /// Sends a text message on the connection of this queue, as [`Client::try_send_text`] does.
    pub(super) fn try_send_text_by(&self, queue: &SendQueue, text: String) -> Result<(), SendError> {
        queue.try_send(Queued::frame(OpCode::Text, owned_text(text)))?;
        self.count_accepted(OpCode::Text);
        Ok(())
    }

    async fn send(&self, opcode: OpCode, payload: BytesMut) -> Result<(), SendError> {
        let queue = self.shared.send_queue()?;
        queue.send(Queued::frame(opcode, payload)).await?;
        self.count_accepted(opcode);
        Ok(())
    }

    fn try_send(&self, opcode: OpCode, payload: BytesMut) -> Result<(), SendError> {
        self.shared.send_queue()?.try_send(Queued::frame(opcode, payload))?;
        self.count_accepted(opcode);
        Ok(())
    }

    async fn send_control(&self, opcode: OpCode, payload: Bytes) -> Result<(), SendError> {
        if payload.len() > CONTROL_PAYLOAD_MAX {
            return Err(SendError::ControlTooLong);
        }
        self.send(opcode, payload.into()).await
    }

    fn count_accepted(&self, opcode: OpCode) {
        if matches!(opcode, OpCode::Text | OpCode::Binary) {
            self.shared.counters.messages_accepted.add(1);
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("url", &self.url())
            .field("is_open", &self.is_open())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl Drop for LastHandle {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// Returns the text's bytes without copying them.
fn owned_text(text: String) -> BytesMut {
    Bytes::from(text).into()
}
