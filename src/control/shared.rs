//! The state that all connections of the control thread share.

use std::{
    future::pending,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::{
    Semaphore,
    mpsc::{self, error::SendError},
    watch,
};

use super::{
    bodies::Bodies, calls::ServiceCalls, history_reads::HistoryReads, merged_top::LastTop, permits::Farewells,
    publish_rates::PublishBuckets, publisher::Publisher,
};
use crate::{
    access_log::AccessLog,
    auth::{Answers, Callback, Credentials, Identities, Identity},
    clock::{Clock, WallStart},
    config::{Config, weights},
    current::Current,
    endpoints::{Denied, Endpoint, Endpoints, Intent, Readiness, until_decided},
    handover::{AddressPermit, Addresses, HandedOff},
    metrics::{
        BackendInfo, Counter, Counters,
        text::{TextFormat, metrics_text},
    },
    proto::Refusal,
    rates::{OVER_HANDSHAKE_RATE, RateTable, over_rate},
    refusal_log::{RefusalLog, counter_of},
    sys::bounded_close::BoundedClose,
};

/// The state that all connections of the control thread share.
#[derive(Debug)]
pub(super) struct Shared {
    /// The settings, which a connection or a request reads once for each decision.
    pub(super) config: Current<Config>,
    pub(super) publisher: Publisher,
    /// The endpoints by their paths, which a request reads once.
    pub(super) endpoints: Current<Endpoints>,
    pub(super) returns: Vec<mpsc::Sender<HandedOff>>,
    pub(super) shards: Vec<Arc<Counters>>,
    pub(super) counters: Arc<Counters>,
    pub(super) refusal_log: Arc<RefusalLog>,
    /// The sockets of each address, where their number is limited.
    pub(super) of_addresses: Option<Arc<Addresses>>,
    pub(super) access_log: AccessLog,
    /// The backend of the shards.
    pub(super) backend: BackendInfo,
    pub(super) leaving: watch::Receiver<bool>,
    pub(super) readiness: Readiness,
    /// Connections without room whose requests are for the metrics.
    pub(super) monitors: Farewells,
    pub(super) bodies: Bodies,
    pub(super) clock: Clock,
    /// The start of the clock by the wall clock.
    pub(super) wall_start: WallStart,
    /// The buckets of the addresses that open WebSockets, which the shards have too.
    pub(super) handshakes: Arc<RateTable>,
    pub(super) publish_buckets: PublishBuckets,
    /// The readings of histories under way.
    pub(super) history_reads: HistoryReads,
    /// Files that may be sent at the same time.
    pub(super) files: Arc<Semaphore>,
    /// The calls of services under way.
    pub(super) calls: ServiceCalls,
    /// The last text of `/metrics` in each format, and the time at which it was made.
    pub(super) metrics: Mutex<[Option<(Instant, Bytes)>; TextFormat::ALL.len()]>,
    /// The last answer of all shards about what is on top.
    pub(super) top: LastTop,
    /// The number of connections that went back to shards, which get them in turn.
    pub(super) returned: AtomicUsize,
}

impl Shared {
    /// Returns whether the server leaves.
    pub(super) fn is_leaving(&self) -> bool {
        *self.leaving.borrow()
    }

    /// Returns whether the server is not ready any more: it leaves, or is about to.
    pub(super) fn is_unready(&self) -> bool {
        self.is_leaving() || self.readiness.has_ended()
    }

    /// Waits until the server leaves, or until its owner has dropped it.
    pub(super) async fn has_left(&self) {
        drop(self.leaving.clone().wait_for(|&is_leaving| is_leaving).await);
    }

    /// Authorizes a request at its endpoint of a table, and returns the identities of its sender. The judge may have to
    /// wait. A client that leaves meanwhile is noticed only when it gets its answer, since a client may end its side of
    /// the connection after its request.
    ///
    /// # Errors
    ///
    /// The answer that refuses it.
    pub(super) async fn authorize(
        &self,
        endpoints: &Endpoints,
        credentials: &Credentials<'_>,
        intent: Intent,
        endpoint: &Endpoint,
    ) -> Result<Identities, Refusal> {
        let answers = Answers::default();
        let credentials = credentials.with_answers(&answers);
        let ask = || endpoints.authorize(&credentials, intent, endpoint);
        let judged = until_decided(endpoints.wait_max(), pending(), ask).await;
        self.refused(judged).map(|admitted| admitted.identities)
    }

    /// Returns the outcome of the judge with the answer that refuses a request.
    pub(super) fn refused<T>(&self, outcome: Result<T, Denied>) -> Result<T, Refusal> {
        outcome.map_err(|denied| self.refusal_of(denied))
    }

    /// Returns the answer that refuses a request which the judge has not admitted. A panic of an authenticator is
    /// counted.
    pub(super) fn refusal_of(&self, denied: Denied) -> Refusal {
        if matches!(denied, Denied::Panicked) {
            self.counters.add(Counter::HandlerPanics, 1);
        }
        denied.into()
    }

    /// Checks an opening request against the rate of its sender's address. A shard counts the request if it opens a
    /// WebSocket.
    ///
    /// # Errors
    ///
    /// 429 with the time after which the address may open a WebSocket again.
    pub(super) fn check_handshake(&self, credentials: &Credentials<'_>) -> Result<(), Refusal> {
        let Some((rate, block)) = self.config.get().handshake_rate_of(credentials.address()) else { return Ok(()) };
        let now = self.clock.now();
        self.handshakes.due(&rate, block, now).map_or(Ok(()), |due| {
            self.counters.add(Counter::LimitedHandshakes, 1);
            Err(over_rate(OVER_HANDSHAKE_RATE, now, due))
        })
    }

    /// Counts an opening request that was refused here, and that no shard sees, against the rate of its sender's
    /// address.
    pub(super) fn count_refused_handshake(&self, credentials: &Credentials<'_>) {
        if let Some((rate, block)) = self.config.get().handshake_rate_of(credentials.address()) {
            // A shard may have emptied the bucket meanwhile.
            _ = self.handshakes.take(&rate, block, self.clock.now());
        }
    }

    /// Counts a message that a request publishes against the rates of its sender, who has these identities.
    ///
    /// # Errors
    ///
    /// 429 with the time after which the sender may publish again.
    pub(super) fn count_publish<'a>(
        &self,
        sender: &Credentials<'_>,
        identities: impl Iterator<Item = &'a Identity>,
    ) -> Result<(), Refusal> {
        self.publish_buckets.count(&self.config.get(), sender, identities, &self.counters)
    }

    /// Returns the counter of a refusal.
    pub(super) fn cause(&self, refusal: &Refusal) -> Counter {
        counter_of(refusal.status, refusal.cause, self.is_leaving())
    }

    /// Counts a refusal by its cause, and logs the cause unless a line about it was written a short time before.
    pub(super) fn note_cause(&self, cause: Counter, status: u16) {
        self.counters.add(cause, 1);
        self.refusal_log.note(cause, status);
    }

    /// Counts a request whose header lines have named its client, until the permit is dropped: among the connections of
    /// the client's address, where their number is limited. The connection of such a request belongs to a proxy, and is
    /// not counted. An address of a trusted proxy is not counted either.
    ///
    /// # Errors
    ///
    /// 429 if the address has as many connections as allowed.
    pub(super) fn admit_client(&self, client: SocketAddr) -> Result<Option<AddressPermit>, Refusal> {
        let Some(addresses) = &self.of_addresses else { return Ok(None) };
        if self.config.get().trusted_proxies.include(client.ip()) {
            return Ok(None);
        }
        let displaced = || self.counters.add(Counter::HttpDisplaced, 1);
        addresses.admit(client.ip(), displaced).map(Some).map_err(|address| {
            addresses.warn_of(address);
            Refusal::too_many_of_address()
        })
    }

    /// Notes the memory that the control thread holds, and returns it in bytes. The tables that all threads share are
    /// part of it.
    pub(super) fn note_memory(&self) -> u64 {
        let connections = self.counters.get(Counter::HttpConnectionsOpen) * weights::HTTP_CONNECTION;
        let endpoints = self.endpoints.get();
        let revocations = endpoints.revocations().count_all() as u64 * weights::REVOCATION;
        let of_callback = self.config.get().callback.as_ref().map_or(0, Callback::cache_bytes);
        let rates = self.publish_buckets.bytes() + self.handshakes.bytes() + endpoints.guesses().bytes();
        let kinds = [
            (Counter::MemoryBodies, self.bodies.bytes() as u64 + self.history_reads.bytes()),
            (Counter::MemoryHttp, connections),
            (Counter::MemoryStreams, self.publisher.queued_bytes() as u64),
            (Counter::MemoryTables, revocations + (of_callback + rates) as u64),
        ];
        kinds.iter().for_each(|&(counter, bytes)| self.counters.set(counter, bytes));
        kinds.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Returns the text of `/metrics` in a format. All requests within a second get the same text, so no client can
    /// keep this
    /// thread busy with it.
    pub(super) fn metrics(&self, format: TextFormat) -> Bytes {
        let mut last = self.metrics.lock().unwrap_or_else(PoisonError::into_inner);
        let last = &mut last[format as usize];
        match &*last {
            Some((time, text)) if time.elapsed() < METRICS_AGE_MAX => text.clone(),
            _ => {
                self.note_memory();
                let text = Bytes::from(metrics_text(format, &self.shards, &self.counters, &self.backend));
                *last = Some((Instant::now(), text.clone()));
                text
            }
        }
    }

    /// Gives a connection back to a shard. The shards take turns.
    pub(super) async fn hand_back(&self, handed_off: HandedOff) {
        // Relaxed: any shard will do.
        let at = self.returned.fetch_add(1, Ordering::Relaxed) % self.returns.len();
        self.counters.add(Counter::HttpReturned, 1);
        if let Err(SendError(handed_off)) = self.returns[at].send(handed_off).await {
            tracing::debug!("a shard has ended before it took a connection back");
            drop(BoundedClose::new(handed_off.socket));
        }
    }
}

/// The longest age of the text of `/metrics`.
const METRICS_AGE_MAX: Duration = Duration::from_secs(1);
