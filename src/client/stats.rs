//! The counters of a client, and its report of slow operations.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// The counters of a client since it was built, over all its connections. Bytes are those of payloads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Connections opened, including reconnects.
    pub connections: u64,
    /// Connections opened again after one was lost.
    pub reconnects: u64,
    /// Attempts to open a connection that failed, and calls of `connect` that were cancelled while they opened one.
    pub failures: u64,
    /// Messages accepted by a send method. A message that was neither sent nor is queued was lost with a connection.
    pub messages_accepted: u64,
    /// Messages written to a connection.
    pub messages_sent: u64,
    /// The bytes of the messages sent.
    pub bytes_sent: u64,
    /// Messages received whole.
    pub messages_received: u64,
    /// The bytes of the messages received.
    pub bytes_received: u64,
    /// Events dropped because the queue was full while the connection was being closed.
    pub events_dropped: u64,
    /// Pings written, including the keep-alive's.
    pub pings_sent: u64,
    /// Pings received.
    pub pings_received: u64,
    /// Pongs written.
    pub pongs_sent: u64,
    /// Pongs received.
    pub pongs_received: u64,
    /// Operations that took at least the threshold of [`on_slow`](super::ClientBuilder::on_slow).
    pub slow_operations: u64,
}

/// An operation that took at least the threshold of [`on_slow`](super::ClientBuilder::on_slow).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowOperation {
    /// The kind of the operation.
    pub operation: Operation,
    /// The time that it took.
    pub took: Duration,
}

/// A kind of operation that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Opening a connection, from the resolution of its name to the end of the opening handshake.
    Connect,
    /// Queueing and writing a message, from the send method to the socket. It is slow if the server or the network is.
    Send,
    /// Delivering an event: the wait for room in the queue, or the callback. It is slow if the caller is.
    Deliver,
}

/// One counter for each field of [`Stats`].
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) connections: Count,
    pub(super) reconnects: Count,
    pub(super) failures: Count,
    pub(super) messages_accepted: Count,
    pub(super) messages_sent: Count,
    pub(super) bytes_sent: Count,
    pub(super) messages_received: Count,
    pub(super) bytes_received: Count,
    pub(super) events_dropped: Count,
    pub(super) pings_sent: Count,
    pub(super) pings_received: Count,
    pub(super) pongs_sent: Count,
    pub(super) pongs_received: Count,
    pub(super) slow_operations: Count,
}

impl Counters {
    pub(super) fn read(&self) -> Stats {
        Stats {
            connections: self.connections.get(),
            reconnects: self.reconnects.get(),
            failures: self.failures.get(),
            messages_accepted: self.messages_accepted.get(),
            messages_sent: self.messages_sent.get(),
            bytes_sent: self.bytes_sent.get(),
            messages_received: self.messages_received.get(),
            bytes_received: self.bytes_received.get(),
            events_dropped: self.events_dropped.get(),
            pings_sent: self.pings_sent.get(),
            pings_received: self.pings_received.get(),
            pongs_sent: self.pongs_sent.get(),
            pongs_received: self.pongs_received.get(),
            slow_operations: self.slow_operations.get(),
        }
    }
}

/// A counter. No other memory depends on its value, so its ordering is relaxed.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub(super) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
