//! What a client hears of: a stream of events, or a callback that is given them.

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

/// What happens on a connection, in its order. After [`connect`](super::Client::connect) has succeeded there are
/// messages, perhaps losses and returns, and exactly one [`Event::Closed`] at the end.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A whole text message (RFC 6455 5.6).
    Text(String),
    /// A whole binary message (RFC 6455 5.6).
    Binary(Bytes),
    /// A ping (RFC 6455 5.5.2). It is being answered, unless [`auto_pong(false)`](super::ClientBuilder::auto_pong)
    /// leaves that to the caller.
    Ping(Bytes),
    /// A pong, other than those to the keep-alive's own pings (RFC 6455 5.5.3).
    Pong(Bytes),
    /// The connection has ended, and the client does not open it again by itself.
    Closed(Closed),
    /// The connection has ended, and the client is about to open it again.
    Lost(Closed),
    /// The next attempt to open a lost connection comes after `delay`.
    Reconnecting {
        /// The attempt's number since the last stable connection, from 1.
        attempt: u32,
        /// The time until then.
        delay: Duration,
        /// Why the attempt before failed; `None` before the first.
        error: Option<ConnectError>,
    },
    /// A lost connection was opened again. Whatever the server was told on the old one (subscriptions, for example) it
    /// must be told again.
    Reconnected(Box<Opened>),
}

/// The end of a connection (RFC 6455 7.1.4 to 7.1.6).
#[derive(Debug)]
pub struct Closed {
    /// The code of the server's close frame; [`CloseCode::NO_STATUS`] if it had none, [`CloseCode::ABNORMAL`] if there
    /// was no close frame.
    pub code: CloseCode,
    /// The reason in the server's close frame.
    pub reason: String,
    /// The closing handshake was completed: both sides have sent a close frame.
    pub is_clean: bool,
    /// What ended it.
    pub cause: Cause,
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}", self.cause, self.code)?;
        if self.reason.is_empty() { f.write_str(")") } else { write!(f, " {:?})", self.reason) }
    }
}

/// What ends a connection.
#[derive(Debug)]
#[non_exhaustive]
pub enum Cause {
    /// The server sent a close frame.
    Server,
    /// [`close`](super::Client::close) or one of its kin.
    Caller,
    /// A second [`connect`](super::Client::connect).
    Replaced,
    /// No handle was left.
    Dropped,
    /// The server broke the protocol or exceeded a limit, and was told so with [`ProtocolError::close_code`].
    Protocol(ProtocolError),
    /// Nothing came for [`idle_timeout`](super::ClientBuilder::idle_timeout).
    Idle,
    /// The server did not complete the closing handshake within [`close_timeout`](super::ClientBuilder::close_timeout).
    CloseTimeout,
    /// The server ended the connection without a close frame.
    EndOfStream,
    /// The connection failed.
    Io(io::Error),
    /// An answer to an attempt to reconnect was final, see [`Reconnect`](super::Reconnect).
    Refused(ConnectError),
    /// That was the last attempt to reconnect; why it failed, or `None` if every attempt led to a connection that was
    /// soon lost again.
    GaveUp(Option<ConnectError>),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server => f.write_str("the server closed"),
            Self::Caller => f.write_str("closed by the caller"),
            Self::Replaced => f.write_str("replaced by another connection"),
            Self::Dropped => f.write_str("no handle is left"),
            Self::Protocol(error) => error.fmt(f),
            Self::Idle => f.write_str("nothing came for too long"),
            Self::CloseTimeout => f.write_str("the server did not answer the close"),
            Self::EndOfStream => f.write_str("the server ended the connection without a close"),
            Self::Io(error) => write!(f, "the connection failed: {error}"),
            Self::Refused(error) => write!(f, "the server does not want it back: {error}"),
            Self::GaveUp(Some(error)) => write!(f, "gave up: {error}"),
            Self::GaveUp(None) => f.write_str("gave up"),
        }
    }
}

/// The events of a client, over all its connections. It ends when no [`Client`](super::Client) handle is left.
///
/// At most [`events_max`](super::ClientLimits) wait here. Beyond that nothing is received until there is room, so the
/// server's messages wait in the network; nor are pings answered then. Dropping it lets all further events go.
#[derive(Debug)]
pub struct Events(mpsc::Receiver<Event>);

impl Events {
    pub(super) fn new(receiver: mpsc::Receiver<Event>) -> Self {
        Self(receiver)
    }

    /// The next event; `None` after the last. It may be cancelled without losing an event.
    pub async fn next(&mut self) -> Option<Event> {
        self.0.recv().await
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        self.0.poll_recv(context)
    }
}
