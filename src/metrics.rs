//! The counters and histograms of the hub: a table of each, and one array of numbers for each shard, for the control
//! thread, and for the process.
//!
//! A counter of a shard or of the control thread is written by that thread alone, so its increment is a plain load and
//! store. Every thread may add to the counters of the process. A reader may see a number a moment late, never torn.

mod histogram;
mod process;
pub mod text;

pub(crate) use process::resident_bytes;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

pub use self::histogram::Histogram;
use self::histogram::{Buckets, Snapshot};

macro_rules! counters {
    ($($(#[doc = $help:literal])+ $variant:ident $name:literal $unit:literal $kind:ident $place:ident;)+) => {
        /// One row of the table of counters.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Counter {
            $($(#[doc = $help])+ $variant,)+
        }

        impl Counter {
            /// Every row, in the order of the table.
            pub const ALL: &[Counter] = &[$(Counter::$variant,)+];

            /// Returns the name in Prometheus' style, with a label if the family has several counters.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Counter::$variant => $name,)+ }
            }

            /// Returns the unit, such as `connections`.
            #[must_use]
            pub fn unit(self) -> &'static str {
                match self { $(Counter::$variant => $unit,)+ }
            }

            /// Returns the threads that write the counter.
            #[must_use]
            pub fn counted_by(self) -> CountedBy {
                match self { $(Counter::$variant => CountedBy::$place,)+ }
            }

            /// Returns whether the number only grows, or goes up and down.
            #[must_use]
            pub fn kind(self) -> Kind {
                match self { $(Counter::$variant => Kind::$kind,)+ }
            }

            /// Returns a sentence about the meaning of the number.
            #[must_use]
            pub fn help(self) -> &'static str {
                match self { $(Counter::$variant => concat!($($help),+).trim_ascii(),)+ }
            }
        }
    };
}

const PREFIX: &str = "ringhub_";

/// The help texts of families with several counters.
const FAMILIES: &[(&str, &str)] = &[
    ("refused_total", "Requests refused, by cause."),
    ("outbound_requests_total", "Requests of the server itself to other servers, by outcome."),
    ("throttled_total", "Times a connection was not received from because it was over a rate, by rate."),
    ("rate_refused_total", "Requests refused with 429 because their sender was over a rate, by rate."),
    ("memory_bytes", "Memory that the server holds, by kind: what backlogs share counts in each."),
    ("idempotency_total", "Messages with an idempotency key that were not published, by outcome."),
    ("receipts_total", "Receipts that publishers have asked for, by outcome."),
    ("lag_dropped_total", "Messages that policies of topics have dropped for slow subscribers, by policy."),
    ("resumed_total", "Subscriptions that began in the history of their topic, by whether they were recovered."),
    ("rate_closed_total", "Connections closed with 1008 because they were over a rate for too long, by rate."),
];

/// How a counter moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The number only grows.
    Counter,
    /// The number goes up and down.
    Gauge,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        }
    }
}

/// The threads that write a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CountedBy {
    /// Each shard.
    Shard,
    /// The control thread.
    Control,
    /// Each shard, and the control thread.
    ShardAndControl,
    /// Any thread of the process, for all servers in it.
    Process,
}

counters! {
    /// Connections that are established now.
    ConnectionsOpen "connections_open" "connections" Gauge Shard;
    /// The limit of connections, also during their opening handshake.
    ConnectionsMax "connections_max" "connections" Gauge Control;
    /// Sockets accepted.
    Accepted "accepted_total" "connections" Counter Shard;
    /// Opening handshakes accepted.
    Opened "opened_total" "connections" Counter Shard;
    /// Established connections that have ended, for whatever reason.
    Ended "ended_total" "connections" Counter Shard;
    /// Requests refused because a limit of the server was reached (503), such as that of connections, of bodies in
    /// memory, of files being sent, or of requests that wait for one shard.
    RefusedLimit "refused_total{cause=\"limit\"}" "requests" Counter ShardAndControl;
    /// Sockets refused because the server was short of memory (503).
    RefusedMemory "refused_total{cause=\"memory\"}" "requests" Counter Shard;
    /// Sockets, and requests through trusted proxies, refused because their address had as many as allowed (429).
    RefusedAddress "refused_total{cause=\"address\"}" "requests" Counter ShardAndControl;
    /// Requests refused because the server is leaving (503).
    RefusedLeaving "refused_total{cause=\"leaving\"}" "requests" Counter ShardAndControl;
    /// Requests refused because they were malformed: heads, handshakes, queries, topics, bodies (400, 431, 501, 505).
    RefusedMalformed "refused_total{cause=\"malformed\"}" "requests" Counter ShardAndControl;
    /// Requests refused because they showed no valid token or password (401).
    RefusedToken "refused_total{cause=\"token\"}" "requests" Counter ShardAndControl;
    /// Requests refused because of their origin or their network, or because their token is for something else (403).
    RefusedForbidden "refused_total{cause=\"forbidden\"}" "requests" Counter ShardAndControl;
    /// Requests refused because nothing is at their path (404).
    RefusedNotFound "refused_total{cause=\"not_found\"}" "requests" Counter ShardAndControl;
    /// Requests refused because their method is not for their path (405).
    RefusedMethod "refused_total{cause=\"method\"}" "requests" Counter ShardAndControl;
    /// Requests refused because their body took too long (408).
    RefusedTimeout "refused_total{cause=\"timeout\"}" "requests" Counter ShardAndControl;
    /// Requests refused because their body was too large (413).
    RefusedTooLarge "refused_total{cause=\"too_large\"}" "requests" Counter ShardAndControl;
    /// Requests refused because their path needs an upgrade to a WebSocket, and they have none or another (426).
    RefusedUpgrade "refused_total{cause=\"upgrade\"}" "requests" Counter ShardAndControl;
    /// Requests refused because their sender came too often (429): opening requests, messages to publish, requests with
    /// credentials.
    RefusedRate "refused_total{cause=\"rate\"}" "requests" Counter ShardAndControl;
    /// Requests refused because nobody decided about them (503): a decision took too long, the application has not
    /// answered, or its answer is not understood, or the keys of an issuer cannot be fetched.
    RefusedUndecided "refused_total{cause=\"undecided\"}" "requests" Counter ShardAndControl;
    /// Connections to an address of proxy_protocol that were closed: they do not begin with a header of the PROXY
    /// protocol, or come from none of trusted_proxies.
    RefusedProxyHeader "refused_total{cause=\"proxy_header\"}" "connections" Counter Shard;
    /// Requests refused for any other reason.
    RefusedOther "refused_total{cause=\"other\"}" "requests" Counter ShardAndControl;
    /// Connections dropped because the head of a request, or the header of the PROXY protocol before it, did not arrive
    /// in time.
    HandshakeTimeout "handshake_timeout_total" "connections" Counter ShardAndControl;
    /// Times accepting paused because descriptors or memory were used up.
    AcceptPaused "accept_paused_total" "pauses" Counter Shard;
    /// HTTP connections that are open now: those that did not become WebSockets.
    HttpConnectionsOpen "http_connections_open" "connections" Gauge Control;
    /// HTTP connections that the control thread has taken over.
    HttpConnections "http_connections_total" "connections" Counter Control;
    /// Answered requests that are no opening requests, whatever the answer. A shard answers requests for the server's
    /// health, and, when there is no room, requests for its metrics without a valid token; the control thread answers
    /// the others.
    HttpRequests "http_requests_total" "requests" Counter ShardAndControl;
    /// Idle HTTP connections that gave way to new ones.
    HttpDisplaced "http_displaced_total" "connections" Counter ShardAndControl;
    /// HTTP connections reset because their client took an answer too slowly.
    HttpTooSlow "http_too_slow_total" "connections" Counter Control;
    /// Connections that the control thread gave back to a shard, for a WebSocket.
    HttpReturned "http_returned_total" "connections" Counter Control;
    /// Topics whose home is the shard. Topics that are not used any more, but remembered, count too.
    Topics "topics" "topics" Gauge Shard;
    /// Subscriptions of connections to topics with names.
    Subscriptions "subscriptions" "subscriptions" Gauge Shard;
    /// Messages that the histories of topics keep.
    HistoryMessages "history_messages" "messages" Gauge Shard;
    /// Messages that left their history early, because all histories together were beyond `history_memory`.
    HistoryEvicted "history_evicted_total" "messages" Counter Shard;
    /// Subscriptions that began in the history of their topic and got every message after their position.
    Recovered "resumed_total{recovered=\"true\"}" "subscriptions" Counter Shard;
    /// Subscriptions that began in the history of their topic, and were told that messages after their position may be
    /// missing.
    Unrecovered "resumed_total{recovered=\"false\"}" "subscriptions" Counter Shard;
    /// Connections closed with 4410, because messages after the position of a subscription were not kept.
    UnrecoveredClosed "unrecovered_closed_total" "connections" Counter Shard;
    /// Messages received from clients: from WebSockets on shards, by HTTP on the control thread.
    MessagesIn "messages_in_total" "messages" Counter ShardAndControl;
    /// Bytes received on established connections, and of bodies that were published.
    BytesIn "bytes_in_total" "bytes" Counter ShardAndControl;
    /// Messages handed to sockets or put into backlogs, one for each recipient.
    Deliveries "deliveries_total" "messages" Counter Shard;
    /// Bytes handed to sockets.
    BytesOut "bytes_out_total" "bytes" Counter Shard;
    /// Sends to established connections. Deliveries divided by sends is the number of messages in one send.
    Sends "sends_total" "sends" Counter Shard;
    /// Sends that a socket took in part or not at all, which made or kept a backlog.
    ShortSends "short_sends_total" "sends" Counter Shard;
    /// Connections that have a backlog now.
    SlowConsumers "slow_consumers" "connections" Gauge Shard;
    /// Memory of the backlogs of all connections, as `max_backlog` counts it for each: what several keep alive together
    /// counts for each of them.
    BacklogBytes "backlog_bytes" "bytes" Gauge Shard;
    /// Messages in the backlogs of all connections.
    BacklogMessages "backlog_messages" "messages" Gauge Shard;
    /// Memory of the messages that were gathered and not yet handed to all subscribers.
    GatheredBytes "gathered_bytes" "bytes" Gauge Shard;
    /// The limit of that memory for each shard. A shard that has gathered three quarters of it from its clients
    /// receives nothing.
    GatheredBytesMax "gathered_bytes_max" "bytes" Gauge Control;
    /// Connections closed with 1008 because their backlog went beyond its limit.
    SlowClosed "slow_closed_total" "connections" Counter Shard;
    /// Messages dropped when slow consumers were closed.
    SlowDropped "slow_dropped_total" "messages" Counter Shard;
    /// Messages that a topic's policy has dropped because a subscriber was slow: its oldest waiting messages.
    DroppedOldest "lag_dropped_total{policy=\"drop_oldest\"}" "messages" Counter Shard;
    /// Messages that a topic's policy has dropped because a subscriber was slow: its newest waiting messages.
    DroppedNewest "lag_dropped_total{policy=\"drop_newest\"}" "messages" Counter Shard;
    /// Messages that a topic's policy has dropped because a subscriber was slow: those that a newer one of their key
    /// has replaced.
    DroppedOutdated "lag_dropped_total{policy=\"latest\"}" "messages" Counter Shard;
    /// Messages that a newer one of their key has replaced while they waited for the end of their topic's
    /// `delivery_interval`.
    DroppedByInterval "lag_dropped_total{policy=\"delivery_interval\"}" "messages" Counter Shard;
    /// Messages that left the history of their topic before a subscriber had read them there.
    MissedInHistory "lag_dropped_total{policy=\"replay\"}" "messages" Counter Shard;
    /// Messages that were taken out of the backlogs of slow subscribers, to be read from the histories of their topics.
    Replayed "replayed_total" "messages" Counter Shard;
    /// Lags that slow subscribers, or their handlers, were told of.
    LagsTold "lags_told_total" "lags" Counter Shard;
    /// Connections with a lag now that they have not been told of.
    Lagging "lagging_connections" "connections" Gauge Shard;
    /// Connections closed with 1008 or 1013 because they held the most memory while the server was short of memory.
    MemoryClosed "memory_closed_total" "connections" Counter Shard;
    /// Opening handshakes answered 503, or closed, because they were the oldest while the server was short of memory.
    MemoryOpeningsEnded "memory_openings_ended_total" "connections" Counter Shard;
    /// Bodies answered 503 because they were the largest incomplete ones while the server was short of memory.
    MemoryBodiesGivenUp "memory_bodies_given_up_total" "bodies" Counter Control;
    /// Times the server became short of memory: its memory went beyond `max_memory`, or its resident memory beyond the
    /// limit of that.
    MemoryShort "memory_short_total" "times" Counter Control;
    /// The limit of memory, or 0 if there is none.
    MemoryMax "memory_max_bytes" "bytes" Gauge Control;
    /// Bytes of the backlogs of slow consumers.
    MemoryBacklogs "memory_bytes{kind=\"backlogs\"}" "bytes" Gauge Shard;
    /// Bytes of messages that wait to be handed to subscribers.
    MemoryGathered "memory_bytes{kind=\"gathered\"}" "bytes" Gauge Shard;
    /// Bytes of messages whose end has not arrived.
    MemoryUnfinished "memory_bytes{kind=\"unfinished\"}" "bytes" Gauge Shard;
    /// Bytes of buffers for input, of input that waits to be parsed, and of commands that wait.
    MemoryInput "memory_bytes{kind=\"input\"}" "bytes" Gauge Shard;
    /// Bytes of messages on their way to other threads.
    MemoryLanes "memory_bytes{kind=\"lanes\"}" "bytes" Gauge Shard;
    /// Bytes of opening requests that are being read or judged, roughly.
    MemoryOpenings "memory_bytes{kind=\"openings\"}" "bytes" Gauge Shard;
    /// Bytes of connections without input and output, roughly, and of what they keep of their opening requests.
    MemoryConnections "memory_bytes{kind=\"connections\"}" "bytes" Gauge Shard;
    /// Bytes of topics, roughly.
    MemoryTopics "memory_bytes{kind=\"topics\"}" "bytes" Gauge Shard;
    /// Bytes of the idempotency keys that are remembered.
    MemoryIds "memory_bytes{kind=\"idempotency\"}" "bytes" Gauge Shard;
    /// Bytes of the histories of topics.
    MemoryHistory "memory_bytes{kind=\"history\"}" "bytes" Gauge Shard;
    /// Bytes of the members of topics.
    MemoryPresence "memory_bytes{kind=\"presence\"}" "bytes" Gauge Shard;
    /// Bytes of bodies of requests, and of pages of histories that clients have not taken.
    MemoryBodies "memory_bytes{kind=\"bodies\"}" "bytes" Gauge Control;
    /// Bytes of the tables of rates, of revocations, and of the callback's answers, roughly.
    MemoryTables "memory_bytes{kind=\"tables\"}" "bytes" Gauge Control;
    /// Bytes of messages that wait to be read by subscriptions in the process.
    MemoryStreams "memory_bytes{kind=\"streams\"}" "bytes" Gauge Control;
    /// Bytes of connections that speak HTTP, roughly.
    MemoryHttp "memory_bytes{kind=\"http\"}" "bytes" Gauge Control;
    /// Members of the topics whose rules keep presence; each topic counts its own.
    PresenceMembers "presence_members" "members" Gauge Shard;
    /// Members that are counted and not listed, because a limit of members or of memory leaves no room.
    PresenceUnlisted "presence_unlisted" "members" Gauge Shard;
    /// Batches of joins and leaves that were published to those who want them.
    PresenceBatches "presence_batches_total" "batches" Counter Shard;
    /// Connections failed because the client broke the protocol or a limit.
    ProtocolErrors "protocol_errors_total" "connections" Counter Shard;
    /// Connections closed with 1008 because a message did not arrive in time.
    MessageTimeout "message_timeout_total" "connections" Counter Shard;
    /// Connections closed with 4401 because their token has expired.
    TokenExpired "token_expired_total" "connections" Counter Shard;
    /// Connections closed with 1013 because all messages whose end had not arrived held too much memory.
    UnfinishedClosed "unfinished_closed_total" "connections" Counter Shard;
    /// Panics of handlers and authenticators. Each has closed a connection with 1011, or refused a request with 500.
    HandlerPanics "handler_panics_total" "panics" Counter ShardAndControl;
    /// Connections closed with 1008 by their handler, or because they subscribe to too many topics.
    PolicyClosed "policy_closed_total" "connections" Counter Shard;
    /// Connections closed by the administration, a revocation or a `Hub`.
    Disconnected "disconnected_total" "connections" Counter Shard;
    /// Pings sent to silent clients, and heartbeats sent on event streams.
    PingsSent "pings_sent_total" "pings" Counter Shard;
    /// Connections ended because no sign of life followed a ping, or because their clients took nothing of their
    /// backlogs.
    PongTimeout "pong_timeout_total" "connections" Counter Shard;
    /// Connections dropped because the closing handshake did not end in time.
    CloseTimeout "close_timeout_total" "connections" Counter Shard;
    /// Connections reset at their end, because their clients had not taken all output, or had sent on after it.
    Reset "reset_total" "connections" Counter Shard;
    /// Connections that ended without a closing handshake.
    Aborted "aborted_total" "connections" Counter Shard;
    /// Connections closed with 1012 because the server leaves.
    DrainClosed "drain_closed_total" "connections" Counter Shard;
    /// Of these, connections that their clients have ended in time.
    DrainLeft "drain_left_total" "connections" Counter Shard;
    /// Connections dropped while the server leaves: at their `close_timeout`, or at `drain_timeout`.
    DrainDropped "drain_dropped_total" "connections" Counter Shard;
    /// Shards that closed connections although messages from before the server began to leave could still be on their
    /// way: the time for these messages, a quarter or half of `drain_timeout`, was over.
    BarrierTimeout "barrier_timeout_total" "shards" Counter Shard;
    /// Turns in which receiving paused because too much waited to be sent.
    ReceivePaused "receive_paused_total" "turns" Counter Shard;
    /// Times a connection was parked, since its client did not take its output.
    Parked "parked_total" "times" Counter Shard;
    /// Connections that are not received from now because they are over a rate.
    ConnectionsThrottled "connections_throttled" "connections" Gauge Shard;
    /// Times a connection was not received from because it had sent more messages than its rate.
    ThrottledMessages "throttled_total{rate=\"messages\"}" "times" Counter Shard;
    /// Times a connection was not received from because it had sent more bytes than its rate.
    ThrottledBytes "throttled_total{rate=\"bytes\"}" "times" Counter Shard;
    /// Connections closed with 1008 because they were over their rate of messages for too long.
    RateClosedMessages "rate_closed_total{rate=\"messages\"}" "connections" Counter Shard;
    /// Connections closed with 1008 because they were over their rate of bytes for too long.
    RateClosedBytes "rate_closed_total{rate=\"bytes\"}" "connections" Counter Shard;
    /// Opening requests refused because their address made more than its rate.
    LimitedHandshakes "rate_refused_total{rate=\"handshakes\"}" "requests" Counter ShardAndControl;
    /// Requests with credentials refused because their address has shown refused ones faster than its rate.
    LimitedGuesses "rate_refused_total{rate=\"guesses\"}" "requests" Counter Process;
    /// Messages to publish by HTTP refused because their address published more than its rate.
    LimitedPublishesOfAddress "rate_refused_total{rate=\"publishes_of_address\"}" "requests" Counter Control;
    /// Messages to publish by HTTP refused because their identity published more than its rate.
    LimitedPublishesOfIdentity "rate_refused_total{rate=\"publishes_of_identity\"}" "requests" Counter Control;
    /// Messages to publish by HTTP refused because their token published more than its rate.
    LimitedPublishesOfToken "rate_refused_total{rate=\"publishes_of_token\"}" "requests" Counter Control;
    /// Times accepting paused because sockets came faster than their rate.
    AcceptThrottled "accept_throttled_total" "pauses" Counter Shard;
    /// Times a connection was not received from because a home that its messages go to was behind.
    AwaitedHome "awaited_home_total" "times" Counter Shard;
    /// Times a connection was not received from because the topic that its messages go to had gathered its share of
    /// memory, and had yet to hand it to all subscribers.
    AwaitedTopic "awaited_topic_total" "times" Counter Shard;
    /// Times a connection's input was left for later because its share of a turn was used up, or too much waited to be
    /// sent.
    InputDeferred "input_deferred_total" "times" Counter Shard;
    /// Requests and deliveries between threads that found no room in their lane and waited beside it.
    LaneOverflow "lane_overflow_total" "entries" Counter ShardAndControl;
    /// Messages with an idempotency key that were published before. Their publishers got the first answer.
    IdsRepeated "idempotency_total{outcome=\"repeated\"}" "messages" Counter Shard;
    /// Messages refused because another message with the same idempotency key was published before.
    IdsOtherContents "idempotency_total{outcome=\"other_contents\"}" "messages" Counter Shard;
    /// Messages refused because the idempotency keys that are remembered take as much memory as they may.
    IdsFull "idempotency_total{outcome=\"full\"}" "messages" Counter Shard;
    /// Receipts that publishers have asked for and got.
    ReceiptsComplete "receipts_total{outcome=\"complete\"}" "receipts" Counter Shard;
    /// Receipts that were given up because a shard had not ended its walks within `receipt_timeout`.
    ReceiptsTimedOut "receipts_total{outcome=\"timed_out\"}" "receipts" Counter Shard;
    /// Receipts that were refused because too many were waited for.
    ReceiptsTooMany "receipts_total{outcome=\"too_many\"}" "receipts" Counter Shard;
    /// Entries in the fullest lane to the thread.
    LaneEntries "lane_entries" "entries" Gauge Shard;
    /// The places of each lane.
    LaneEntriesMax "lane_entries_max" "entries" Gauge Control;
    /// Memory of the requests and deliveries that wait beside the lanes from the thread.
    LaneWaitingBytes "lane_waiting_bytes" "bytes" Gauge Shard;
    /// Polls armed in the kernel: one for each connection, and a second one for each that waits for room to send. A
    /// larger number for more than a moment means that polls keep closed sockets open.
    PollsArmed "polls_armed" "polls" Gauge Shard;
    /// Cancellations of polls that the kernel refused and that were repeated.
    CancelsRepeated "cancels_repeated_total" "cancellations" Counter Shard;
    /// Turns.
    Turns "turns_total" "turns" Counter Shard;
    /// Questions to the application (`callback_url`).
    CallbackAsked "callback_asked_total" "questions" Counter Process;
    /// Questions to the application whose answers were kept, and that were not asked again.
    CallbackCached "callback_cached_total" "questions" Counter Process;
    /// Questions to the application that it has answered with a refusal.
    CallbackDenied "callback_denied_total" "questions" Counter Process;
    /// Questions to the application that were not sent for want of a place, that got no answer for another reason than
    /// time, or whose answer was a status of failure or was not understood.
    CallbackFailed "callback_failed_total" "questions" Counter Process;
    /// Questions to the application that it has not answered in time.
    CallbackTimeout "callback_timeout_total" "questions" Counter Process;
    /// Questions that were not asked, since those before got no answer, or a status of failure.
    CallbackPaused "callback_paused_total" "questions" Counter Process;
    /// Questions that were not asked, since as many of their client's address were under way as may be (429).
    CallbackLimited "callback_limited_total" "questions" Counter Process;
    /// Requests of the server itself that were answered, whatever the status.
    OutboundAnswered "outbound_requests_total{outcome=\"answered\"}" "requests" Counter Process;
    /// Requests of the server itself that failed: no name, no connection, no TLS, no answer in HTTP, one too large.
    OutboundFailed "outbound_requests_total{outcome=\"failed\"}" "requests" Counter Process;
    /// Requests of the server itself that were not answered in time.
    OutboundTimeout "outbound_requests_total{outcome=\"timeout\"}" "requests" Counter Process;
    /// Requests of the server itself that were not made, since too many were under way or waited.
    OutboundLimit "outbound_requests_total{outcome=\"limit\"}" "requests" Counter Process;
    /// Lines for standard error or standard output that were dropped, since the stream was closed, full, or not read in
    /// time.
    LogLinesDropped "log_lines_dropped_total" "lines" Counter Process;
    /// Reloads of the settings that were applied.
    ConfigReloads "config_reloads_total" "reloads" Counter Process;
    /// Reloads of the settings that were refused: the earlier settings stayed in force.
    ConfigReloadsRefused "config_reloads_refused_total" "reloads" Counter Process;
    /// Whether the last reload of the settings was applied: 1 if it was, and before the first reload, else 0.
    ConfigLastReloadSuccess "config_last_reload_success" "reloads" Gauge Process;
    /// The time of the last reload, applied or refused, or of the start: seconds since 1970.
    ConfigLastReloadTime "config_last_reload_timestamp_seconds" "seconds" Gauge Process;
    /// Settings and routes with a new value at the last reload that only a restart puts in force.
    ConfigPending "config_restart_pending" "settings" Gauge Process;
    /// Sets of keys of token issuers that were fetched.
    JwksFetched "jwks_fetched_total" "sets" Counter Process;
    /// Sets of keys of token issuers that could not be fetched or used. The last keys stay in use for a day.
    JwksFailed "jwks_failed_total" "sets" Counter Process;
}

impl Counter {
    /// Returns the name of the family, which is the name without its label.
    #[must_use]
    pub fn family(self) -> &'static str {
        self.name().split('{').next().unwrap_or_default()
    }

    /// Returns the label within the family, such as `cause="limit"`. It is empty if the family has one counter.
    #[must_use]
    pub fn label(self) -> &'static str {
        self.name().split_once('{').map_or("", |(_, label)| label.trim_end_matches('}'))
    }

    /// Returns the value of the label: for refused requests, the cause, such as `limit`.
    #[must_use]
    pub fn cause(self) -> &'static str {
        self.label().split('"').nth(1).unwrap_or_default()
    }

    /// Returns the counter for a request refused with this status, for callers that do not know the cause. 503 has
    /// several causes, and a handler may use any status.
    #[must_use]
    pub fn refused(status: u16) -> Counter {
        match status {
            400 | 431 | 501 | 505 => Counter::RefusedMalformed,
            401 => Counter::RefusedToken,
            403 => Counter::RefusedForbidden,
            404 => Counter::RefusedNotFound,
            405 => Counter::RefusedMethod,
            408 => Counter::RefusedTimeout,
            413 => Counter::RefusedTooLarge,
            426 => Counter::RefusedUpgrade,
            429 => Counter::RefusedRate,
            _ => Counter::RefusedOther,
        }
    }
}

/// The counters of one thread.
#[derive(Debug)]
pub struct Counters {
    numbers: [AtomicU64; Counter::ALL.len()],
    histograms: [Buckets; Histogram::ALL.len()],
    /// The time at which the counters began; `None` for those of the process.
    created: Option<SystemTime>,
}

impl Default for Counters {
    fn default() -> Self {
        Counters { created: Some(SystemTime::now()), ..Self::new() }
    }
}

impl Counters {
    const fn new() -> Self {
        Counters {
            numbers: [const { AtomicU64::new(0) }; Counter::ALL.len()],
            histograms: [const { Buckets::new() }; Histogram::ALL.len()],
            created: None,
        }
    }

    /// Adds to a counter. Only the counters' own thread may call this.
    pub fn add(&self, counter: Counter, count: u64) {
        self.set(counter, self.get(counter).wrapping_add(count));
    }

    /// Sets a counter or gauge. Only the counters' own thread may call this.
    pub fn set(&self, counter: Counter, value: u64) {
        // Relaxed: no reader uses the number to decide whether other memory may be read.
        self.numbers[counter as usize].store(value, Ordering::Relaxed);
    }

    /// Returns the present number.
    #[must_use]
    pub fn get(&self, counter: Counter) -> u64 {
        self.numbers[counter as usize].load(Ordering::Relaxed)
    }
}

impl Counters {
    /// Counts a time in a histogram. Only the counters' own thread may call this.
    pub fn count_time(&self, histogram: Histogram, time: Duration) {
        self.count_times(histogram, time, 1);
    }

    /// Counts so many times of the same length in a histogram. Only the counters' own thread may call this.
    pub fn count_times(&self, histogram: Histogram, time: Duration, times: u64) {
        self.histograms[histogram as usize].count(&histogram.bounds_us(), time, times);
    }

    fn histogram(&self, histogram: Histogram) -> Snapshot {
        self.histograms[histogram as usize].snapshot()
    }
}

/// The counters of the process, which belong to no thread and no server.
static PROCESS: Counters = Counters::new();

/// Adds to a counter of the whole process. Any thread may call this.
pub(crate) fn add_for_process(counter: Counter, count: u64) {
    // Relaxed, as in `Counters::set`.
    PROCESS.numbers[counter as usize].fetch_add(count, Ordering::Relaxed);
}

/// Sets a gauge of the whole process. Any thread may call this.
pub(crate) fn set_for_process(gauge: Counter, value: u64) {
    PROCESS.set(gauge, value);
}

/// The backend of a server and the reason for it, as values of labels: without quotes, backslashes and line ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendInfo {
    /// The name of the backend.
    pub backend: String,
    /// The reason for which the server has it.
    pub reason: String,
}

/// Returns the table of counters as text: a line for each, with the sum over all threads, the unit, and each thread's
/// part.
#[must_use]
pub fn table(shards: &[Arc<Counters>], control: &Counters) -> String {
    let mut table = String::new();
    for &counter in Counter::ALL {
        let mut parts: Vec<String> = shards.iter().map(|shard| shard.get(counter).to_string()).collect();
        match counter.counted_by() {
            CountedBy::Shard => {}
            CountedBy::Control | CountedBy::Process => parts.clear(),
            CountedBy::ShardAndControl => parts.push(format!("{} (control)", control.get(counter))),
        }
        let of_shards: u64 = shards.iter().map(|shard| shard.get(counter)).sum();
        let sum = of_shards + control.get(counter) + PROCESS.get(counter);
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
            assert_eq!(counter.family().ends_with("_total"), counter.kind() == Kind::Counter, "{counter:?}");
            let same = Counter::ALL.iter().filter(|other| other.family() == counter.family()).count();
            assert_eq!(same > 1, FAMILIES.iter().any(|(name, _)| *name == counter.family()), "{counter:?}");
            assert_eq!(same > 1, !counter.label().is_empty(), "{counter:?}");
        }
    }

    #[test]
    fn counting() {
        let counters = Counters::default();
        counters.add(Counter::Sends, 2);
        counters.add(Counter::Sends, 3);
        counters.set(Counter::SlowConsumers, 1);
        assert_eq!((counters.get(Counter::Sends), counters.get(Counter::SlowConsumers)), (5, 1));
        let other = Counters::default();
        other.add(Counter::Sends, 1);
        let control = Counters::default();
        control.add(Counter::MessagesIn, 2);
        control.add(Counter::HttpReturned, 3);
        let table = table(&[Arc::new(counters), Arc::new(other)], &control);
        let lines: Vec<String> =
            table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        for line in [
            "sends_total 6 sends = 5 + 1",
            "messages_in_total 2 messages = 0 + 0 + 2 (control)",
            "http_returned_total 3 connections",
        ] {
            assert!(lines.iter().any(|found| found == line), "{line}\n{table}");
        }
    }
}
