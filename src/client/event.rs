//! The events of a client.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_core::Stream;
use tokio::sync::mpsc;

use super::{error::ConnectError, opened::Opened};
use crate::proto::{CloseCode, ProtocolError};

/// An event of a connection. Events come in the order of their causes. After a successful
/// [`connect`](super::Client::connect) they are messages, losses and reconnects, and exactly one
/// [`ClientEvent::Closed`] at the end.
#[derive(Debug)]
#[non_exhaustive]
pub enum ClientEvent {
    /// A whole text message (RFC 6455 5.6).
    Text(String),
    /// A whole binary message (RFC 6455 5.6).
    Binary(Bytes),
    /// A ping (RFC 6455 5.5.2). The client answers it, unless [`manual_pong`](super::ClientBuilder::manual_pong)
    /// leaves that to the caller.
    Ping(Bytes),
    /// A pong (RFC 6455 5.5.3). Answers to the keep-alive's pings are left out.
    Pong(Bytes),
    /// The connection has ended, and the client does not open it again.
    Closed(ConnectionEnd),
    /// The connection has ended. The client opens it again, unless the attempts are used up.
    Lost(ConnectionEnd),
    /// The next attempt to open a lost connection begins after `delay`.
    Reconnecting {
        /// The attempt's number since the last stable connection, from 1.
        attempt: u32,
        /// The time from this event to the attempt.
        delay: Duration,
        /// The error of the previous attempt; `None` if there was none, or it opened a connection.
        error: Option<ConnectError>,
    },
    /// A lost connection was opened again. It is a new connection for the server, so the caller must send again
    /// whatever the server needs, subscriptions for example.
    Reconnected(Box<Opened>),
}

/// The end of a connection (RFC 6455 7.1.4 to 7.1.6).
#[derive(Debug)]
pub struct ConnectionEnd {
    /// The code of the server's close frame; [`CloseCode::NO_STATUS`] if it had none, [`CloseCode::ABNORMAL`] if there
    /// was no close frame.
    pub code: CloseCode,
    /// The reason in the server's close frame.
    pub reason: String,
    /// Whether both sides have sent a close frame, which completes the closing handshake.
    pub is_clean: bool,
    /// The cause of the end.
    pub cause: Cause,
}

impl fmt::Display for ConnectionEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}", self.cause, self.code)?;
        if self.reason.is_empty() { f.write_str(")") } else { write!(f, " {:?})", self.reason) }
    }
}

/// The cause of a connection's end.
#[derive(Debug)]
#[non_exhaustive]
pub enum Cause {
    /// The server sent a close frame.
    Server,
    /// The caller called [`close`](super::Client::close), `close_with` or `begin_close`.
    Caller,
    /// The caller called [`connect`](super::Client::connect) a second time.
    Replaced,
    /// The caller dropped its last handle.
    Dropped,
    /// The server broke the protocol or exceeded a limit. The client's close frame has [`ProtocolError::close_code`].
    Protocol(ProtocolError),
    /// The server sent no byte for [`idle_timeout`](super::ClientBuilder::idle_timeout).
    Idle,
    /// The server did not complete the closing handshake within [`close_timeout`](super::ClientBuilder::close_timeout).
    CloseTimeout,
    /// The server ended the connection without a close frame.
    EndOfStream,
    /// The connection failed.
    Io(io::Error),
    /// The server refused a reconnect for good, see [`Reconnect`](super::Reconnect).
    Refused(ConnectError),
    /// The attempts to reconnect are used up. The error is the one of the last attempt, or `None` if that opened a
    /// connection that was soon lost again.
    GaveUp(Option<ConnectError>),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server => f.write_str("the server closed"),
            Self::Caller => f.write_str("closed by the caller"),
            Self::Replaced => f.write_str("replaced by another connection"),
            Self::Dropped => f.write_str("the last handle was dropped"),
            Self::Protocol(error) => error.fmt(f),
            Self::Idle => f.write_str("idle timeout"),
            Self::CloseTimeout => f.write_str("close timeout"),
            Self::EndOfStream => f.write_str("the server ended the connection without a close frame"),
            Self::Io(error) => write!(f, "the connection failed: {error}"),
            Self::Refused(error) => write!(f, "the server refused the reconnect: {error}"),
            Self::GaveUp(Some(error)) => write!(f, "no attempts to reconnect are left: {error}"),
            Self::GaveUp(None) => f.write_str("no attempts to reconnect are left"),
        }
    }
}

/// The events of a client, over all its connections. The stream ends after the last [`Client`](super::Client) handle is
/// dropped.
///
/// The queue holds at most [`events_max`](super::ClientLimits) events. While it is full the client receives nothing:
/// the server's messages stay in the network, and its pings get no answer. Dropping `Events` discards all further
/// events.
#[derive(Debug)]
pub struct Events(mpsc::Receiver<ClientEvent>);

impl Events {
    pub(super) fn new(receiver: mpsc::Receiver<ClientEvent>) -> Self {
        Self(receiver)
    }

    /// Returns the next event; `None` after the last. Dropping the future loses no event.
    pub async fn next(&mut self) -> Option<ClientEvent> {
        self.0.recv().await
    }
}

impl Stream for Events {
    type Item = ClientEvent;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<ClientEvent>> {
        self.0.poll_recv(context)
    }
}
