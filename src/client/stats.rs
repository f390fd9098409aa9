//! What a client has counted, and what it found slow.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// What a client has done since it was built, over all its connections. Bytes are payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Connections opened, reconnects among them.
    pub connections: u64,
    /// Connections opened again after one was lost.
    pub reconnects: u64,
    /// Attempts to open a connection that failed.
    pub failures: u64,
    /// Messages taken by a send method. What was neither sent nor is still waiting was lost with a connection.
    pub messages_accepted: u64,
    /// Messages written to a connection.
    pub messages_sent: u64,
    /// Their bytes.
    pub bytes_sent: u64,
    /// Messages received whole.
    pub messages_received: u64,
    /// Their bytes.
    pub bytes_received: u64,
    /// Events that found no room while the connection was being closed.
    pub events_dropped: u64,
    /// Pings written, the keep-alive's among them.
    pub pings_sent: u64,
    /// Pings received.
    pub pings_received: u64,
    /// Pongs written.
    pub pongs_sent: u64,
    /// Pongs received.
    pub pongs_received: u64,
    /// Operations that took longer than the threshold of [`on_slow`](super::ClientBuilder::on_slow).
    pub slow_operations: u64,
}

/// What took longer than it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowOperation {
    /// What it was.
    pub operation: Operation,
    /// How long it took.
    pub took: Duration,
}

/// What may be slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Opening a connection, from the resolution of its name to the end of the opening handshake.
    Connect,
    /// A message on its way from a send method to the socket: the server, or the network, does not keep up.
    Send,
    /// The caller's callback, or room for an event: the caller does not keep up.
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

/// A figure that nothing else depends on, so relaxed.
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
