//! Checked settings: a [`Config`], which is always valid, and its limits.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use super::{
    quantities::Size,
    routes::config::RouteConfig,
    settings::Settings,
    topics::config::TopicRuleConfig,
    types::{AccessLogFormat, CallbackConnect, IoChoice, ListenIpv6, SandboxChoice},
};
use crate::{
    auth::{Access, Authenticator, Callback, Jwt, TrustedProxies, together},
    outbound::{Authorities, Outbound},
    proto::{KeepAlive, MessageLimits},
    rates::{AddressBlock, ArrivalRates, InputRates, PublishRates, Rate},
};

/// Checked settings of a server.
#[derive(Debug, Clone)]
pub struct Config {
    /// The addresses to listen on, at least one.
    pub listen: Vec<SocketAddr>,
    /// The connections that a listener on an IPv6 address takes.
    pub listen_ipv6: ListenIpv6,
    /// The address of `/metrics`, if that is not one of `listen`.
    pub metrics_listen: Option<SocketAddr>,
    /// The origins and tokens that requests need.
    pub access: Access,
    /// The proxies that are believed when they name the address of a client.
    pub trusted_proxies: TrustedProxies,
    /// The addresses among `listen` at which each connection begins with a header of the PROXY protocol.
    pub proxy_protocol: Vec<SocketAddr>,
    /// The limits of connections that speak HTTP: publishing, health, metrics, the page.
    pub http: Http,
    /// The number of shards.
    pub shards: usize,
    /// The CPUs to run on, at least one. Each shard gets the next one of them.
    pub cpus: Vec<usize>,
    /// Whether shards stay on their CPUs.
    pub is_pinned: bool,
    /// The kernel's interface that shards use.
    pub io: IoChoice,
    /// Whether the server gives up what only its start needs, once it serves.
    pub sandbox: SandboxChoice,
    /// The format of the access log.
    pub access_log: AccessLogFormat,
    /// One in so many connections, and one in so many requests, has lines in the access log.
    pub access_log_sample: u32,
    /// Every limit.
    pub limits: Limits,
    /// The times after which silent or closing connections are pinged or ended.
    pub keep_alive: KeepAlive,
    /// The longest time for an opening request.
    pub handshake_timeout: Duration,
    /// The longest time for connections to leave when the server stops.
    pub drain_timeout: Duration,
    /// The time from the end of readiness to the beginning of the drain.
    pub drain_delay: Duration,
    /// `SO_SNDBUF` of each connection.
    pub send_buffer_bytes: Option<usize>,
    /// `TCP_NOTSENT_LOWAT` of each connection.
    pub unsent_low_water_bytes: Option<usize>,
    /// The routes in the order of the file. Without routes, the server has the hub and its page.
    pub routes: Vec<RouteConfig>,
    /// The callback to the application, for routes and topics that ask it.
    pub(crate) callback: Option<Callback>,
    /// Whether routes that are not in the file ask it.
    pub(crate) callback_connect: CallbackConnect,
    /// The rules of topics in the order of the file.
    pub topics: Vec<TopicRuleConfig>,
    /// The way of the server's own requests, for what the settings have made of URLs.
    pub(crate) outbound: Outbound,
    /// The authorities that the server trusts when it sends requests, in addition to those of the system.
    pub(crate) authorities: Authorities,
    /// The authenticator of the issuers of the file. It holds for topics at their usual path if the file has no routes.
    pub jwt: Option<Jwt>,
    /// The number of folders of files. Each has a descriptor.
    pub(crate) folders: usize,
    /// The limit of open descriptors, if it alone limits the connections, and leaves fewer than are useful.
    pub(crate) few_descriptors: Option<u64>,
    /// The limit of open descriptors of the process.
    pub(crate) descriptor_limit: u64,
    /// The settings before the check, with which a reload compares its own.
    pub(crate) settings: Unchecked,
}

/// Settings before their check. They are not printed with a configuration, which has what follows from them.
#[derive(Clone)]
pub(crate) struct Unchecked(pub(super) Box<Settings>);

impl fmt::Debug for Unchecked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unchecked").finish_non_exhaustive()
    }
}

/// Limits of connections that speak HTTP without becoming WebSockets.
#[derive(Debug, Clone)]
pub struct Http {
    /// Connections that are served at the same time. Beyond it the connection that has been idle longest is ended; if
    /// none is idle, the new connection is answered 503 and closed.
    pub connections_max: usize,
    /// Bytes of memory of all bodies that are being received or published, over all connections. Beyond it the
    /// incomplete body with the highest bytes × age is answered 503.
    pub bodies_bytes_max: usize,
    /// Bytes of an answer that a client has to take in a second, on average over [`Http::body_timeout`], while the
    /// server waits for the client. Below it the connection is reset; with 0, one byte in each `body_timeout` is
    /// enough.
    pub rate_min: u64,
    /// The rates of messages that are published. Beyond one of them: 429.
    pub(crate) publish_rates: PublishRates,
    /// The longest time for a head; on a connection that was kept alive, from the first byte of the head on.
    pub header_timeout: Duration,
    /// The longest time for a body. Beyond it: 408.
    pub body_timeout: Duration,
    /// The longest silence of a connection between two requests.
    pub idle_timeout: Duration,
}

/// The limits of a server. The documentation of each field has the effect of its limit.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections, also during their opening handshake. One more is answered 503.
    ///
    /// Default: the limit of open descriptors less [`Config::descriptors`]. Each idle connection costs about 150 bytes
    /// in the server and 4 KB in the kernel.
    pub connections_max: usize,
    /// Connections of one peer address, for HTTP and WebSockets, over all shards; 0 is any number. Beyond it the HTTP
    /// connection of the address that has been idle longest is ended; if none is idle, the new connection is answered
    /// 429. An IPv4 address counts by itself, an IPv6 address with all addresses that have the same first 64 bits.
    ///
    /// Behind a proxy all clients have the proxy's address. With a limit, each connection costs 40 bytes more.
    pub connections_per_address_max: usize,
    /// The limits of one message. Beyond them the connection is failed with 1009.
    pub message: MessageLimits,
    /// Bytes of memory that a slow subscriber's backlog may keep alive: its messages, which are counted to within a
    /// tenth, and their queue, with a label at each change of topic. Beyond it the connection is closed with 1008.
    ///
    /// At worst every connection has such a backlog. Memory that several backlogs share exists once and is charged to
    /// each of them. The limit is never below two of the largest messages, so that one message can always be on its way
    /// while the next is published; the backlog may have 4 KiB more for small frames. A single run does not close a
    /// subscriber whose backlog was empty; so a backlog may be as large as [`Limits::gathered_bytes_max`], if that is
    /// more.
    pub backlog_bytes_max: usize,
    /// Messages of a slow subscriber's backlog. Beyond it the connection is closed with 1008.
    pub backlog_messages_max: u64,
    /// Bytes of memory of the messages that a shard gathers for its subscribers, of their exclusions, and of the
    /// buffers that large messages keep. A quarter is for messages of other shards and of the control thread: beyond
    /// the quarter the shard takes none. Three quarters are for messages of the shard's own clients: beyond them the
    /// shard does not receive until walks have ended. The message with which the limit is exceeded is gathered too, and
    /// so are all messages that a handler publishes in one call.
    pub gathered_bytes_max: usize,
    /// Bytes of two kinds of buffers, over all connections: buffers with messages whose end has not arrived, and
    /// buffers with input that came with an opening request and is not parsed yet. Each shard has an equal part of the
    /// limit. Beyond it the connections whose messages have been under way for the longest time are closed with 1013.
    pub unfinished_bytes_max: usize,
    /// Ticks that a message may take from its first byte on; 0 for any number. Beyond it the connection is closed with
    /// 1008.
    pub message_ticks_max: u32,
    /// Bytes of memory of the server, if there is a limit. Above it new connections are answered 503, the connections
    /// that hold the most are closed with 1008 or 1013, and the largest bodies that have not arrived whole are answered
    /// 503.
    pub memory_bytes_max: Option<u64>,
    /// Bytes of resident memory of the process, beyond which the same happens if `memory_bytes_max` is a limit,
    /// whatever the server knows to hold: 85 % of the memory that the process may have, and at least
    /// `memory_bytes_max`.
    pub resident_bytes_max: u64,
    /// The rates of what a client sends on one connection. Beyond one of them the connection is not received from until
    /// the rate allows it. A connection of a route with rates costs 32 bytes more.
    pub(crate) input_rates: InputRates,
    /// The rates at which clients come. Beyond them opening requests are answered 429, and sockets wait to be accepted.
    pub(crate) arrival_rates: ArrivalRates,
    /// Ticks for which a connection may be over its rates without a break; 0 for any number. Beyond it the connection
    /// is closed with 1008.
    pub rate_ticks_max: u32,
    /// Topics that one connection may subscribe to at the same time. Beyond it a subscription is refused. Each topic
    /// costs some 300 bytes, and each subscription some hundred.
    pub subscriptions_max: usize,
    /// Topics that no connection subscribes or publishes to, but whose offsets each shard remembers. Beyond it the
    /// topic at the front of the queue of idle topics is forgotten; when it is used again it has a new epoch. Each
    /// topic costs some 300 bytes.
    pub topics_idle_max: usize,
    /// The longest wait for the receipt of a publication. Beyond it its publisher gets the place alone.
    pub receipt_timeout: Duration,
    /// The time for which the id of a publication, its idempotency key, is remembered.
    pub ids_window: Duration,
    /// Bytes of memory of the ids that are remembered. Each shard has an equal part, for the topics whose home it is.
    /// Beyond it a publication with a further id is answered 503: none is forgotten before its end.
    pub ids_bytes_max: usize,
    /// Bytes of the histories of all topics, of which each shard has an equal part. Beyond it the histories that have
    /// not been used for the longest time are forgotten.
    pub history_bytes_max: usize,
    /// Bytes of presence over all topics, of which each shard has an equal part. Beyond it further members of topics
    /// are counted, and not listed.
    pub presence_bytes_max: usize,
    /// Revocations of identities and tokens in force. Beyond it a further one is answered 503: none is forgotten before
    /// its end. Each costs at most some 700 bytes.
    pub revocations_max: usize,
}

impl Limits {
    /// The most subscriptions that a connection may be allowed to have.
    pub const SUBSCRIPTIONS_MAX: usize = 65_536;

    /// The most shards of a server. Their lanes share one limit, so more shards have shorter lanes.
    pub const SHARDS_MAX: usize = 256;

    /// Bytes of the buffers that a shard receives into: the buffers of one batch, and the buffers with unparsed input.
    pub const RECEIVED_BYTES_MAX: usize = 3 * 64 * crate::hub::LARGE_PIECE_PINS;

    /// The largest value of the limits of messages and frames.
    pub const MESSAGE_BYTES_MAX: u64 = 1 << 30;

    /// Bytes of the pages of histories that clients have not taken yet. Beyond it: 503.
    pub const HISTORY_ANSWERS_BYTES_MAX: usize = 64 << 20;

    /// The largest limit in bytes: 1 TiB, more than any machine needs. Sums of such limits do not overflow.
    pub const SIZE_MAX: u64 = 1 << 40;

    /// The smallest limit of memory: a server without connections needs about as much.
    pub const MEMORY_BYTES_MIN: u64 = 16 << 20;

    /// The largest send buffer. The kernel doubles it, and does not accept a larger one.
    pub const SEND_BUFFER_MAX: u64 = 1 << 30;
}

impl Config {
    /// Returns whether a rule of topics keeps messages.
    pub(super) fn keeps_history(&self) -> bool {
        self.topics.iter().any(|given| given.rule.rules().kept.keeps_messages())
    }

    /// Returns whether a rule of topics keeps presence.
    pub(super) fn keeps_presence(&self) -> bool {
        self.topics.iter().any(|given| given.rule.rules().members.is_some())
    }

    /// Returns the bytes of presence of one shard.
    pub(crate) fn presence_bytes_max_of_shard(&self) -> usize {
        self.limits.presence_bytes_max / self.shards.max(1)
    }

    /// Returns the bytes of the histories of one shard.
    pub(crate) fn history_bytes_max_of_shard(&self) -> usize {
        self.limits.history_bytes_max / self.shards.max(1)
    }

    /// Returns the authenticator of topics at their usual path, which holds if the file has no routes: the issuers and
    /// the callback must both admit.
    pub(crate) fn authenticator_of_topics(&self) -> Option<Arc<dyn Authenticator>> {
        let jwt = self.jwt.clone().map(|jwt| Arc::new(jwt) as Arc<dyn Authenticator>);
        let callback = self.callback_at_connect().cloned().map(|callback| Arc::new(callback) as _);
        together(jwt.into_iter().chain(callback).collect(), true)
    }

    /// Returns the callback for routes that are not in the file.
    pub(crate) fn callback_at_connect(&self) -> Option<&Callback> {
        self.callback.as_ref().filter(|_| self.callback_connect == CallbackConnect::On)
    }

    /// Returns the rate of opening requests of an address, and the addresses that it holds for together. An address of
    /// a trusted proxy stands for many clients, so it has no rate.
    pub(crate) fn handshake_rate_of(&self, address: Option<IpAddr>) -> Option<(Rate, AddressBlock)> {
        let rate = self.limits.arrival_rates.handshakes?;
        let address = address.filter(|&address| !self.trusted_proxies.include(address))?;
        Some((rate, AddressBlock::of(address)))
    }

    /// Returns the number of shards and their CPUs, in words.
    #[must_use]
    pub fn placement(&self) -> String {
        let shards = if self.shards == 1 { "shard" } else { "shards" };
        let (how, cpus) = match self.is_pinned {
            // Each shard gets the next CPU, so some CPUs may have no shard.
            true => ("pinned to", &self.cpus[..self.cpus.len().min(self.shards)]),
            false => ("floating over", &self.cpus[..]),
        };
        let cpus = if let [cpu] = cpus { format!("CPU {cpu}") } else { format!("CPUs {cpus:?}") };
        format!("{} {shards} {how} {cpus}", self.shards)
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Limits { connections_max, message, backlog_bytes_max, .. } = &self.limits;
        let connections = if *connections_max == 1 { "connection" } else { "connections" };
        write!(
            f,
            "{connections_max} {connections}, messages to {}, backlogs to {}",
            Size(u64::from(message.message_bytes_max)),
            Size(*backlog_bytes_max as u64)
        )
    }
}
