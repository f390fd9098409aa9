//! The descriptors that a server needs in addition to the one per connection.

use super::checked::{Config, Limits};
use crate::outbound::OutboundLimits;

impl Limits {
    /// Sockets that all shards together keep only to refuse them, including those that have given way and are about to
    /// be closed; but each shard may always have two. Further sockets are closed without an answer.
    pub const REFUSALS_MAX: usize = 64;

    /// Connections on the control thread without a permit, which get one answer, or time to read their last one. They
    /// count against [`Limits::connections_max`]. Beyond this number the oldest is closed.
    pub const FAREWELLS_MAX: usize = 64;

    /// Connections that a full server serves because they request the metrics and may read them, including those that
    /// have given way and are about to be closed. The control thread serves three quarters of this number at once.
    /// Beyond the limit such connections are refused like all others.
    pub const MONITORS_MAX: usize = 16;

    /// Files that are sent at the same time. One more request is answered 503.
    pub const FILES_MAX: usize = 64;

    /// Connections that are served on the address of the metrics. If none of them is idle, one more is closed
    /// after its first answer.
    pub const METRICS_CONNECTIONS_MAX: usize = 64;

    /// [`Limits::FAREWELLS_MAX`] for the address of the metrics.
    pub const METRICS_FAREWELLS_MAX: usize = 16;
}

/// The descriptors that are reserved for one purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DescriptorPart {
    /// The purpose.
    pub name: &'static str,
    /// The number of descriptors.
    pub count: u64,
}

impl Config {
    /// Returns the descriptors that the server needs in addition to those of its connections, part by part. The limit
    /// of the process less their sum is the most that [`Limits::connections_max`] can be.
    ///
    /// ```
    /// use ringhub::config::{Config, Settings};
    /// let settings = Settings { shards: Some(1), ..Settings::default() };
    /// let config = Config::new(&settings, 20_000)?;
    /// let reserved: u64 = config.descriptors().iter().map(|part| part.count).sum();
    /// assert_eq!(config.limits.connections_max as u64, 20_000 - reserved);
    /// # Ok::<(), ringhub::error::ConfigErrors>(())
    /// ```
    #[must_use]
    pub fn descriptors(&self) -> Vec<DescriptorPart> {
        let has_metrics_listener = self.metrics_listen.is_some();
        parts(self.shards, self.listen.len(), self.folders, has_metrics_listener, self.outbound.has_targets())
    }
}

/// Returns the descriptors that a server with these numbers of shards, addresses and folders of files needs.
pub(super) fn parts(
    shards: usize,
    addresses: usize,
    folders: usize,
    has_metrics_listener: bool,
    sends_requests: bool,
) -> Vec<DescriptorPart> {
    let metrics =
        if has_metrics_listener { 1 + Limits::METRICS_CONNECTIONS_MAX + Limits::METRICS_FAREWELLS_MAX } else { 0 };
    let of_requests = if sends_requests { OutboundLimits::DESCRIPTORS_MAX } else { 0 };
    let parts = [
        ("the process", PROCESS),
        ("shards: rings and runtimes", shards * SHARD),
        ("shards: listeners, and the socket that has just been accepted", shards * (addresses + 1)),
        ("sockets that are being refused", Limits::REFUSALS_MAX.max(2 * shards)),
        ("requests for metrics that are served although the server is full", Limits::MONITORS_MAX),
        ("folders of files", folders),
        ("files that are being sent", Limits::FILES_MAX),
        ("the address for metrics and its connections", metrics),
        ("requests to other servers", of_requests),
    ];
    parts.into_iter().map(|(name, count)| DescriptorPart { name, count: count as u64 }).collect()
}

/// Returns the sum of all parts.
pub(super) fn sum(parts: &[DescriptorPart]) -> u64 {
    parts.iter().map(|part| part.count).sum()
}

/// Returns the ways to raise the limit of open descriptors, for a server that needs `reserved` descriptors itself.
/// `connections` is the setting `max_connections`.
pub(super) fn remedy(reserved: u64, connections: Option<usize>) -> String {
    let enough = match connections {
        Some(count) => reserved + count as u64,
        None => (reserved + 2 * CONNECTIONS_USEFUL as u64).next_power_of_two(),
    };
    format!(
        "raise the limit: `ulimit -n {enough}` in a shell, LimitNOFILE={enough} in a systemd unit, `--ulimit \
         nofile={enough}:{enough}` for Docker and Podman"
    )
}

/// The fewest connections with which a server starts, unless `max_connections` is set: with fewer, a server would seem
/// to work and would refuse nearly every client.
pub(super) const CONNECTIONS_NEEDED: usize = 64;

/// The number of connections below which a server warns of the limit of descriptors, unless `max_connections` is set.
pub(super) const CONNECTIONS_USEFUL: usize = 1_024;

/// Standard streams, the runtimes of the main thread and of the control thread, descriptors from before the start, and
/// others: a file of settings while it is read, the folders that an embedder adds to a checked configuration.
const PROCESS: usize = 48;

/// Seven descriptors of one shard: three for its two rings, two epolls, one eventfd, and the runtime's end of the
/// signals.
const SHARD: usize = 7;
