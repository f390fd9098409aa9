//! What the hub counts: one table, and one array of numbers for each shard.
//!
//! Each counter has a single writer, its shard's thread; everybody else only reads. So an increment is a plain load and
//! store, and a reader sees each number a moment late, never torn.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

macro_rules! counters {
    ($($(#[doc = $help:literal])+ $variant:ident $name:literal $unit:literal $kind:ident;)+) => {
        /// One row of the table of counters.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Counter {
            $($(#[doc = $help])+ $variant,)+
        }

        impl Counter {
            /// Every row, in the order of the table.
            pub const ALL: &[Counter] = &[$(Counter::$variant,)+];

            /// Its name, in Prometheus' style.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Counter::$variant => $name,)+ }
            }

            /// What one of it is.
            #[must_use]
            pub fn unit(self) -> &'static str {
                match self { $(Counter::$variant => $unit,)+ }
            }

            /// Whether it only ever grows.
            #[must_use]
            pub fn kind(self) -> Kind {
                match self { $(Counter::$variant => Kind::$kind,)+ }
            }

            /// What it counts, in a sentence.
            #[must_use]
            pub fn help(self) -> &'static str {
                match self { $(Counter::$variant => concat!($($help),+).trim_ascii(),)+ }
            }
        }
    };
}

/// How a counter moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
}

counters! {
    /// Connections that are established now.
    ConnectionsOpen "connections_open" "connections" Gauge;
    /// Sockets accepted.
    Accepted "accepted_total" "connections" Counter;
    /// Opening handshakes accepted.
    Opened "opened_total" "connections" Counter;
    /// Established connections that have ended, for whatever reason.
    Ended "ended_total" "connections" Counter;
    /// Opening requests refused because they were no acceptable WebSocket upgrade.
    RefusedRequest "refused_request_total" "connections" Counter;
    /// Connections refused because there were as many as allowed.
    RefusedLimit "refused_limit_total" "connections" Counter;
    /// Connections dropped because their opening request did not arrive in time.
    HandshakeOverdue "handshake_overdue_total" "connections" Counter;
    /// Times accepting paused because descriptors or memory were used up.
    AcceptPaused "accept_paused_total" "pauses" Counter;
    /// Messages received from clients.
    MessagesIn "messages_in_total" "messages" Counter;
    /// Bytes received on established connections.
    BytesIn "bytes_in_total" "bytes" Counter;
    /// Messages handed to subscribers, one for each recipient.
    Deliveries "deliveries_total" "messages" Counter;
    /// Bytes handed to sockets.
    BytesOut "bytes_out_total" "bytes" Counter;
    /// Sends that carried them; deliveries divided by sends is how many messages ride in one.
    Sends "sends_total" "sends" Counter;
    /// Sends that a socket took in part or not at all, which made or kept a backlog.
    ShortSends "short_sends_total" "sends" Counter;
    /// Connections that have a backlog now.
    Laggards "laggards" "connections" Gauge;
    /// Connections closed with 1008 because their backlog went beyond its limit.
    SlowClosed "slow_closed_total" "connections" Counter;
    /// Messages that slow consumers were owed when they were closed.
    SlowDropped "slow_dropped_total" "messages" Counter;
    /// Connections failed because the client broke the protocol or a limit.
    ProtocolErrors "protocol_errors_total" "connections" Counter;
    /// Connections closed with 1008 because a receive-only client sent a message.
    PolicyClosed "policy_closed_total" "connections" Counter;
    /// Pings sent to silent clients.
    PingsSent "pings_sent_total" "pings" Counter;
    /// Connections given up because no sign of life followed a ping.
    PongOverdue "pong_overdue_total" "connections" Counter;
    /// Connections given up because the closing handshake did not end in time.
    CloseOverdue "close_overdue_total" "connections" Counter;
    /// Connections that ended without a closing handshake.
    Aborted "aborted_total" "connections" Counter;
    /// Turns in which receiving paused because too much waited to be sent.
    ReceivePaused "receive_paused_total" "turns" Counter;
    /// Turns.
    Turns "turns_total" "turns" Counter;
}

/// The counters of one shard.
#[derive(Debug)]
pub struct Counters([AtomicU64; Counter::ALL.len()]);

impl Default for Counters {
    fn default() -> Self {
        Counters([const { AtomicU64::new(0) }; Counter::ALL.len()])
    }
}

impl Counters {
    /// Adds to a counter. Only the shard's own thread may call this.
    pub fn add(&self, counter: Counter, count: u64) {
        self.set(counter, self.get(counter).wrapping_add(count));
    }

    /// Sets a gauge. Only the shard's own thread may call this.
    pub fn set(&self, counter: Counter, value: u64) {
        // Relaxed: the number stands for itself, no other memory is read on its word.
        self.0[counter as usize].store(value, Ordering::Relaxed);
    }

    /// The present number.
    #[must_use]
    pub fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize].load(Ordering::Relaxed)
    }
}

/// The table of counters as text: a line for each, with the sum over all shards, its unit, and each shard's part.
#[must_use]
pub fn table(shards: &[Arc<Counters>]) -> String {
    let mut table = String::new();
    for &counter in Counter::ALL {
        let parts: Vec<String> = shards.iter().map(|shard| shard.get(counter).to_string()).collect();
        let sum: u64 = shards.iter().map(|shard| shard.get(counter)).sum();
        let line = format!("{} {sum}", counter.name());
        let parts = if parts.len() > 1 { format!("  = {}", parts.join(" + ")) } else { String::new() };
        table.push_str(format!("{line:<40} {:<12}{parts}", counter.unit()).trim_end());
        table.push('\n');
    }
    table
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_table_is_complete() {
        let names: HashSet<_> = Counter::ALL.iter().map(|counter| counter.name()).collect();
        assert_eq!(names.len(), Counter::ALL.len());
        for &counter in Counter::ALL {
            assert!(counter.help().ends_with('.'), "{counter:?}");
            assert_eq!(counter.name().ends_with("_total"), counter.kind() == Kind::Counter, "{counter:?}");
        }
    }

    #[test]
    fn counting() {
        let counters = Counters::default();
        counters.add(Counter::Sends, 2);
        counters.add(Counter::Sends, 3);
        counters.set(Counter::Laggards, 1);
        assert_eq!((counters.get(Counter::Sends), counters.get(Counter::Laggards)), (5, 1));
        let other = Counters::default();
        other.add(Counter::Sends, 1);
        let table = table(&[Arc::new(counters), Arc::new(other)]);
        let line = table.lines().find(|line| line.starts_with("sends_total ")).unwrap();
        assert_eq!(line.split_whitespace().collect::<Vec<_>>(), ["sends_total", "6", "sends", "=", "5", "+", "1"]);
    }
}
