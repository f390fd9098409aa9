//! The handle that a caller holds.

use std::{fmt, sync::Arc};

use bytes::{Bytes, BytesMut};
use fastwebsockets::OpCode;

use super::{
    config::Config,
    error::{CloseError, ConnectError, SendError},
    life::{CloseRequest, Life, Requester},
    link::Outgoing,
    opened::Opened,
    session::{self, Tenure},
    shared::{Delivery, Shared, Slow},
    stats::Stats,
};
use crate::proto::{CONTROL_PAYLOAD_MAX, CloseCode};

/// A WebSocket client: a handle that any number of tasks may share. It works within a tokio runtime whose I/O and time
/// are enabled.
///
/// Dropping the last handle closes the connection with 1001, after what was accepted before has been sent. Handles that
/// a callback is given do not count.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    _keeper: Option<Arc<Keeper>>,
}

/// Shared by the caller's handles. Dropping it closes the connection.
struct Keeper(Arc<Shared>);

impl Client {
    pub(super) fn new(config: Config, delivery: Delivery, slow: Option<Slow>) -> Self {
        let shared = Arc::new(Shared::new(config, delivery, slow));
        Self { _keeper: Some(Arc::new(Keeper(shared.clone()))), shared }
    }

    /// Returns a handle for a callback, which does not keep the client alive.
    pub(super) fn lent(shared: Arc<Shared>) -> Self {
        Self { shared, _keeper: None }
    }

    /// Opens a connection, and returns what the server said and how it came about. A connection that is open already is
    /// closed with 1001 first, and another call under way ends with [`ConnectError::Cancelled`]. Cancelling this
    /// leaves no connection.
    ///
    /// # Errors
    ///
    /// Why there is no connection. It is not tried again, whatever [`Reconnect`](super::Reconnect) says.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub async fn connect(&self) -> Result<Opened, ConnectError> {
        self.shared.end(Requester::Replaced).await;
        let _turn = self.shared.connecting.lock().await;
        self.shared.end(Requester::Replaced).await;
        let life = Arc::new(Life::new());
        self.shared.begin(life.clone());
        let tenure = Tenure::new(life.clone());
        // A handle that a callback was given; nobody would ever close its connection.
        if self.shared.is_abandoned() {
            return Err(ConnectError::Cancelled);
        }
        let connected = session::open(&self.shared, &life).await?;
        let opened = connected.opened.clone();
        let linked = session::link(&self.shared, &life, connected);
        tokio::spawn(session::run(self.shared.clone(), tenure, linked));
        Ok(opened)
    }

    /// Whether messages can be sent: the connection is open and not being closed.
    pub fn is_open(&self) -> bool {
        self.shared.current().is_some_and(|life| life.link().is_some())
    }

    /// Whether a connection was lost and the client is about to open it again.
    pub fn is_reconnecting(&self) -> bool {
        self.shared.current().is_some_and(|life| life.is_reconnecting())
    }

    /// The number of the open connection, see [`Opened::connection_id`].
    pub fn connection_id(&self) -> Option<u64> {
        self.shared.current()?.link().map(|link| link.connection_id())
    }

    /// Where it connects to, without the query, in which there may be a secret. An address with credentials is refused.
    pub fn url(&self) -> String {
        self.shared.config.url.to_string()
    }

    /// What it has counted since it was built.
    pub fn stats(&self) -> Stats {
        self.shared.counters.read()
    }

    /// Sends a text message, when there is room among what waits to be sent; see [`Client::flush`].
    ///
    /// # Errors
    ///
    /// [`SendError::NotOpen`], also if the connection ends while this waits; [`SendError::TooLarge`].
    pub async fn send_text(&self, text: impl Into<String>) -> Result<(), SendError> {
        self.send(OpCode::Text, owned_text(text.into())).await
    }

    /// Sends a binary message in the same way.
    ///
    /// # Errors
    ///
    /// As [`Client::send_text`].
    pub async fn send_binary(&self, bytes: impl Into<Bytes>) -> Result<(), SendError> {
        self.send(OpCode::Binary, bytes.into().into()).await
    }

    /// Sends a text message if there is room for it now.
    ///
    /// # Errors
    ///
    /// [`SendError::QueueFull`], [`SendError::NotOpen`], [`SendError::TooLarge`].
    pub fn try_send_text(&self, text: impl Into<String>) -> Result<(), SendError> {
        self.try_send(OpCode::Text, owned_text(text.into()))
    }

    /// Sends a binary message if there is room for it now.
    ///
    /// # Errors
    ///
    /// As [`Client::try_send_text`].
    pub fn try_send_binary(&self, bytes: impl Into<Bytes>) -> Result<(), SendError> {
        self.try_send(OpCode::Binary, bytes.into().into())
    }

    /// Sends a ping (RFC 6455 5.5.2), behind what waits to be sent. The answer is an
    /// [`Event::Pong`](super::Event::Pong) with the same bytes.
    ///
    /// # Errors
    ///
    /// [`SendError::ControlTooLong`] beyond 125 bytes, [`SendError::NotOpen`].
    pub async fn ping(&self, payload: impl Into<Bytes>) -> Result<(), SendError> {
        self.send_control(OpCode::Ping, payload.into()).await
    }

    /// Sends a pong (RFC 6455 5.5.3), behind what waits to be sent: nobody asked for it, or
    /// [`auto_pong`](super::ClientBuilder::auto_pong) is off.
    ///
    /// # Errors
    ///
    /// As [`Client::ping`].
    pub async fn pong(&self, payload: impl Into<Bytes>) -> Result<(), SendError> {
        self.send_control(OpCode::Pong, payload.into()).await
    }

    /// Waits until everything that was accepted before has been handed to the socket.
    ///
    /// # Errors
    ///
    /// [`SendError::NotOpen`], also if the connection ends before.
    pub async fn flush(&self) -> Result<(), SendError> {
        self.shared.link()?.flush().await
    }

    /// Closes with 1001 and no reason; otherwise [`Client::close_with`].
    ///
    /// # Errors
    ///
    /// None, in fact.
    pub async fn close(&self) -> Result<(), CloseError> {
        self.close_with(CloseCode::GOING_AWAY, "").await
    }

    /// Closes the connection (RFC 6455 7.1.2) after what was accepted before has been sent, and waits for its end, or
    /// ends the attempt to open one. Without either it does nothing. Of the reason 123 bytes are sent, or fewer where a
    /// character would be cut. What the server sends meanwhile still comes as events, so far as there is room.
    ///
    /// # Errors
    ///
    /// [`CloseError::Code`]; then nothing is closed.
    pub async fn close_with(&self, code: CloseCode, reason: &str) -> Result<(), CloseError> {
        self.begin_close(code, reason)?;
        self.closed().await;
        Ok(())
    }

    /// The same without waiting, as a callback needs it.
    ///
    /// # Errors
    ///
    /// As [`Client::close_with`].
    pub fn begin_close(&self, code: CloseCode, reason: &str) -> Result<(), CloseError> {
        if !code.is_sendable() {
            return Err(CloseError::Code(code));
        }
        if let Some(life) = self.shared.current() {
            life.request_close(CloseRequest { code, reason: reason.into(), requester: Requester::Caller });
        }
        Ok(())
    }

    /// Waits until there is no connection, and none is being opened.
    pub async fn closed(&self) {
        if let Some(life) = self.shared.current() {
            life.over().await;
        }
    }

    async fn send(&self, opcode: OpCode, payload: BytesMut) -> Result<(), SendError> {
        let link = self.shared.link()?;
        link.send(Outgoing::new(opcode, payload)).await?;
        self.count_accepted(opcode);
        Ok(())
    }

    fn try_send(&self, opcode: OpCode, payload: BytesMut) -> Result<(), SendError> {
        self.shared.link()?.try_send(Outgoing::new(opcode, payload))?;
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

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// The same bytes where they are.
fn owned_text(text: String) -> BytesMut {
    Bytes::from(text).into()
}
