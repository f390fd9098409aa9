//! Adds up the worst case of a server's memory from its limits.

use super::{
    checked::{Config, Limits},
    quantities::Size,
    weights::{
        ATTENDANCE, COMMAND, EXCHANGE, HTTP_CONNECTION, OPENING, QUESTION, REVOCATION, SERVER, SHARD, SUBSCRIPTION,
        TOPIC, WAITING_INPUT,
    },
};
use crate::{
    handler::Waiting,
    hub::{MeshLimits, RECEIPT_BYTES, RECEIPTS_MAX, SPARE_RUN_BYTES_MAX},
    outbound::OutboundLimits,
    rates::{KEY_BYTES, KEYS_MAX},
    surface::{COMMANDS_MAX, all_forms, largest_form},
};

/// The memory that one of a server's limits allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryPart {
    /// The use of the memory.
    pub name: &'static str,
    /// An upper bound in bytes, cut off at 1 EiB so that the sum of all parts does not overflow.
    pub bytes: u64,
    /// The limits from which the number follows.
    pub follows_from: String,
}

impl Config {
    /// Returns the worst case of the server's memory, part by part, without the kernel's socket buffers and without
    /// what an embedder's code allocates: states of handlers, spawned work, messages that a `Hub` publishes, and the
    /// queues of its subscriptions.
    ///
    /// ```
    /// use ringhub::config::{Config, Settings};
    /// let config = Config::new(&Settings::default(), 20_000)?;
    /// let worst: u64 = config.memory().iter().map(|part| part.bytes).sum();
    /// assert!(worst > config.limits.unfinished_bytes_max as u64);
    /// # Ok::<(), ringhub::error::ConfigErrors>(())
    /// ```
    #[must_use]
    pub fn memory(&self) -> Vec<MemoryPart> {
        let Config { limits, http, .. } = self;
        let (connections, shards) = (limits.connections_max as u64, self.shards as u64);
        // A route's messages may be larger than those of the server's own setting.
        let of_routes = self.routes.iter().map(|route| route.rules.limits.message_bytes_max);
        let message = u64::from(of_routes.fold(limits.message.message_bytes_max, u32::max));
        let gathered = limits.gathered_bytes_max as u64;
        // A single run may become the backlog of a subscriber whose backlog was empty.
        let (largest, forms) = (largest_form(message), all_forms(message));
        let backlog = gathered.max(limits.backlog_bytes_max as u64).max(largest);
        let unfinished = limits.unfinished_bytes_max as u64;
        // On one shard a message has its place at once, and without an authenticator no decision has to wait.
        let unanswered = if shards > 1 { COMMANDS_MAX as u64 * COMMAND } else { 0 };
        let commands = unanswered + if self.has_authenticators() { Waiting::bytes_max(message) } else { 0 };
        // Connections that have given way exist for a while longer, and connections that ask a full server for the
        // metrics are served beyond `max_connections`.
        let farewells = Limits::FAREWELLS_MAX as u64;
        let monitors = Limits::MONITORS_MAX as u64;
        let of_metrics = if self.metrics_listen.is_some() { METRICS_CONNECTIONS } else { 0 };
        let of_port = (http.connections_max as u64).saturating_add(farewells).min(connections);
        let http_connections = of_port + monitors + of_metrics;
        let mesh = MeshLimits::default();
        // The control thread is an end of the mesh too. The bodies that it publishes are counted as bodies.
        let (ends, lane_memory) = (shards + 1, mesh.lane_memory(self.shards + 1) as u64);
        let between_shards = mesh.message_bytes_max as u64 * shards * (shards - 1) / (shards * ends);
        // Deliveries and requests each have this limit.
        let overflow = if shards > 1 { 2 * shards * mesh.overflow_bytes_max as u64 } else { 0 };
        // A lane takes one message of any size, and one more waits beside the lane.
        let between_shards = between_shards + 2 * shards * (shards - 1) * message;
        // `max_idle_topics` may be any number.
        let idle = shards.saturating_mul(limits.topics_idle_max as u64);
        let subscriptions = connections.saturating_mul(limits.subscriptions_max as u64);
        let (idle, subscribed) = (idle.saturating_mul(TOPIC), subscriptions.saturating_mul(TOPIC + SUBSCRIPTION));
        let (presence, attended) = (limits.presence_bytes_max as u64, subscriptions.saturating_mul(ATTENDANCE));
        let publish = &http.publish_rates;
        let arrivals = &limits.arrival_rates;
        let of_senders =
            [publish.of_address, publish.of_identity, publish.of_token, arrivals.handshakes, arrivals.guesses];
        let rate_tables = of_senders.into_iter().flatten().count() as u64;
        let requests = if self.outbound.has_targets() { self.requests_memory() } else { 0 };
        let rows = [
            (
                "backlogs",
                connections.saturating_mul(backlog),
                format!("{connections} (max_connections) × {} (max_backlog, max_gathered, one message)", Size(backlog)),
            ),
            (
                "connections",
                connections * OPENING,
                format!("{connections} (max_connections) × {}, an opening request or a slot", Size(OPENING)),
            ),
            ("unfinished messages", unfinished, format!("{} (max_unfinished)", Size(unfinished))),
            (
                "received input",
                shards * Limits::RECEIVED_BYTES_MAX as u64,
                format!("{shards} (shards) × {}", Size(Limits::RECEIVED_BYTES_MAX as u64)),
            ),
            (
                "input that waits",
                connections * WAITING_INPUT,
                format!("{connections} (max_connections) × {}, not received from", Size(WAITING_INPUT)),
            ),
            (
                "commands that wait",
                connections.saturating_mul(commands),
                format!("{connections} (max_connections) × {}, of `ringhub.v1`", Size(commands)),
            ),
            (
                "runs",
                shards * (gathered + forms + SPARE_RUN_BYTES_MAX as u64),
                format!(
                    "{shards} (shards) × ({} (max_gathered) + {} (a message of max_message in all forms) + {})",
                    Size(gathered),
                    Size(forms),
                    Size(SPARE_RUN_BYTES_MAX as u64)
                ),
            ),
            (
                "lanes between shards",
                lane_memory + between_shards + overflow,
                format!(
                    "{shards} (shards): {:.1} MiB of lanes, {:.1} in them, {:.1} beside them",
                    mib(lane_memory),
                    mib(between_shards),
                    mib(overflow)
                ),
            ),
            (
                "HTTP connections",
                http_connections * HTTP_CONNECTION,
                format!(
                    "({of_port} (max_http_connections + {farewells}, up to max_connections) + {monitors} for metrics \
                     of a full server + {of_metrics} of metrics_listen) × {}",
                    Size(HTTP_CONNECTION)
                ),
            ),
            (
                "bodies",
                http.bodies_bytes_max as u64 + message,
                format!("{} (max_bodies) + {} (max_message)", Size(http.bodies_bytes_max as u64), Size(message)),
            ),
            (
                "rates",
                rate_tables * (KEYS_MAX * KEY_BYTES) as u64,
                format!("{rate_tables} (rates of addresses, identities and tokens) × {KEYS_MAX} × {KEY_BYTES}"),
            ),
            (
                "topics",
                idle.saturating_add(subscribed),
                format!(
                    "{shards} (shards) × {} (max_idle_topics) × {}, and {connections} (max_connections) × {} \
                     (max_subscriptions) × {}",
                    limits.topics_idle_max,
                    Size(TOPIC),
                    limits.subscriptions_max,
                    Size(TOPIC + SUBSCRIPTION)
                ),
            ),
            (
                "pages of histories",
                if self.keeps_history() || self.keeps_presence() { HISTORY_ANSWERS } else { 0 },
                format!(
                    "{} (HISTORY_ANSWERS_BYTES_MAX), if a rule of topics keeps messages or presence",
                    Size(HISTORY_ANSWERS)
                ),
            ),
            (
                "histories",
                if self.keeps_history() { limits.history_bytes_max as u64 } else { 0 },
                format!(
                    "{} (history_memory), if a rule of topics keeps messages",
                    Size(limits.history_bytes_max as u64)
                ),
            ),
            (
                "members of topics",
                if self.keeps_presence() { presence.saturating_add(attended) } else { 0 },
                format!(
                    "{} (presence_memory), and {connections} (max_connections) × {} (max_subscriptions) × {}, if a \
                     rule of topics keeps presence",
                    Size(presence),
                    limits.subscriptions_max,
                    Size(ATTENDANCE)
                ),
            ),
            (
                "requests to other servers",
                requests,
                format!(
                    "{} under way × {}, {} in all × {}, and callback_cache_size with a callback",
                    OutboundLimits::IN_FLIGHT_MAX,
                    Size(EXCHANGE),
                    OutboundLimits::REQUESTS_MAX,
                    Size(QUESTION)
                ),
            ),
            (
                "receipts",
                shards * (RECEIPTS_MAX * RECEIPT_BYTES) as u64,
                format!("{shards} (shards) × {RECEIPTS_MAX} × {RECEIPT_BYTES}"),
            ),
            (
                "idempotency keys",
                limits.ids_bytes_max as u64,
                format!("{} (max_idempotency)", Size(limits.ids_bytes_max as u64)),
            ),
            (
                "revocations",
                (limits.revocations_max as u64).saturating_mul(REVOCATION),
                format!("{} (max_revocations) × {}", limits.revocations_max, Size(REVOCATION)),
            ),
            (
                "the server itself",
                SERVER + shards * SHARD,
                format!("{} + {shards} (shards) × {}", Size(SERVER), Size(SHARD)),
            ),
        ];
        let part = |(name, bytes, follows_from): (_, u64, _)| MemoryPart {
            name,
            bytes: bytes.min(PART_BYTES_MAX),
            follows_from,
        };
        let may_lack = |name| {
            let rare = ["commands that wait", "requests to other servers", "pages of histories", "histories"];
            rare.contains(&name) || name == "members of topics"
        };
        let rows = rows.into_iter().filter(|(name, bytes, _)| *bytes > 0 || !may_lack(*name));
        rows.map(part).collect()
    }

    /// Returns whether an authenticator or the callback may have to wait for a decision, or to judge many topics.
    fn has_authenticators(&self) -> bool {
        let of_routes = self.routes.iter().any(|route| route.rules.gate.authenticator.is_some());
        of_routes || self.callback.is_some() || self.jwt.is_some()
    }

    /// Returns the memory of the server's own requests, and of the answers that a callback keeps.
    fn requests_memory(&self) -> u64 {
        let kept = self.callback.as_ref().map_or(0, |callback| callback.cache_bytes_max() as u64);
        OutboundLimits::IN_FLIGHT_MAX as u64 * EXCHANGE + OutboundLimits::REQUESTS_MAX as u64 * QUESTION + kept
    }
}

impl Config {
    /// Returns what the server holds without connections and messages.
    pub(crate) fn idle_memory(&self) -> u64 {
        SERVER + self.shards as u64 * SHARD
    }
}

/// Returns a number of bytes in mebibytes.
pub(super) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Bytes of the pages of histories that clients have not taken.
const HISTORY_ANSWERS: u64 = Limits::HISTORY_ANSWERS_BYTES_MAX as u64;

/// The most bytes that a part shows.
const PART_BYTES_MAX: u64 = 1 << 60;

/// The connections of the address for metrics.
const METRICS_CONNECTIONS: u64 = (Limits::METRICS_CONNECTIONS_MAX + Limits::METRICS_FAREWELLS_MAX) as u64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{HttpUrl, Secrets, Settings};

    fn part(settings: &Settings, name: &str) -> u64 {
        let config = Config::new(settings, 20_000).expect("settings that fit");
        config.memory().into_iter().find(|part| part.name == name).expect("a part").bytes
    }

    /// The largest settings that can be given.
    #[test]
    fn no_sum_is_more_than_a_number_holds() {
        let settings = Settings {
            shards: Some(Limits::SHARDS_MAX),
            max_connections: Some(1 << 24),
            max_backlog: Some(Size(Limits::SIZE_MAX)),
            max_bodies: Some(Size(Limits::SIZE_MAX)),
            max_idle_topics: usize::MAX,
            max_http_connections: usize::MAX,
            max_revocations: usize::MAX,
            ..Settings::default()
        };
        let memory = Config::new(&settings, u64::MAX).expect("settings that fit").memory();
        let sum = memory.iter().try_fold(0_u64, |sum, part| sum.checked_add(part.bytes));
        assert!(sum.is_some_and(|sum| sum > PART_BYTES_MAX), "{memory:?}");
        for name in ["backlogs", "topics", "revocations"] {
            let part = memory.iter().find(|part| part.name == name).expect("a part");
            assert_eq!(part.bytes, PART_BYTES_MAX, "{name}");
        }
    }

    #[test]
    fn parts_follow_their_settings() {
        let settings = |change: fn(&mut Settings)| {
            let mut settings = Settings { shards: Some(1), max_connections: Some(10), ..Settings::default() };
            change(&mut settings);
            settings
        };
        let largest = 6 * (1 << 20) + 4_156;
        assert!(2 * largest <= 13 << 20);
        assert_eq!(part(&settings(|_| {}), "backlogs"), 10 * (13 << 20), "two messages as JSON");
        assert_eq!(part(&settings(|s| s.max_message = Size(1 << 10)), "backlogs"), 10 * (4 << 20));
        // A subscriber whose backlog is empty may be owed one message of any form.
        assert_eq!(part(&settings(|s| s.max_backlog = Some(Size(2 << 20))), "backlogs"), 10 * largest);
        assert_eq!(part(&settings(|s| s.max_backlog = Some(Size(8 << 20))), "backlogs"), 10 * (8 << 20));
        assert_eq!(part(&settings(|s| s.max_unfinished = Some(Size(27 << 20))), "unfinished messages"), 27 << 20);
        assert_eq!(part(&settings(|s| s.max_bodies = Some(Size(9 << 20))), "bodies"), 10 << 20);
        assert_eq!(part(&settings(|_| {}), "input that waits"), 10 * (64 << 10));
        // Only a server of several shards, or with an authenticator, lets commands wait.
        let rows = |settings: &Settings| Config::new(settings, 20_000).expect("settings that fit").memory();
        assert!(rows(&settings(|_| {})).iter().all(|part| part.name != "commands that wait"));
        let unanswered = part(&settings(|s| s.shards = Some(2)), "commands that wait");
        assert_eq!(unanswered, 10 * (64 << 10));
        let asking = |message: u64| Settings {
            shards: Some(2),
            max_connections: Some(10),
            max_message: Size(message),
            callback_url: Some(HttpUrl("http://localhost/".into())),
            callback_secrets: Some(Secrets(vec!["a-secret-of-16-characters".into()])),
            ..Settings::default()
        };
        let commands = |message| part(&asking(message), "commands that wait") - unanswered;
        assert_eq!(commands(1 << 20), 10 * Waiting::bytes_max(1 << 20));
        assert_eq!(commands(1 << 20) - commands(1 << 10), 10 * 2 * ((1 << 20) - (1 << 10)));
        let requests = |size| {
            let settings = Settings {
                callback_url: Some(HttpUrl("http://localhost/".into())),
                callback_secrets: Some(Secrets(vec!["a-secret-of-16-characters".into()])),
                callback_cache_size: Size(size),
                ..Settings::default()
            };
            part(&settings, "requests to other servers")
        };
        assert_eq!(requests(0), 64 * (512 << 10) + 1_024 * (32 << 10));
        assert_eq!(requests(9), requests(0) + 9);
        assert_eq!(part(&settings(|s| s.max_revocations = 3), "revocations"), 3 * 768);
        assert_eq!(part(&settings(|s| s.max_idempotency = Some(Size(5 << 20))), "idempotency keys"), 5 << 20);
        let http = |change: fn(&mut Settings)| part(&settings(change), "HTTP connections") / HTTP_CONNECTION;
        assert_eq!(http(|_| {}), 10 + 16, "all connections may speak HTTP");
        assert_eq!(http(|s| s.max_connections = Some(5_000)), 1_024 + 64 + 16);
        assert_eq!(http(|s| s.metrics_listen = Some("127.0.0.1:9".parse().unwrap())), 10 + 16 + 64 + 16);
        let lanes = |shards| part(&Settings { shards: Some(shards), ..Settings::default() }, "lanes between shards");
        assert!(
            lanes(1) < 1 << 20 && lanes(2) > 64 << 20 && lanes(64) < 9 << 30,
            "{} {} {}",
            lanes(1),
            lanes(2),
            lanes(64)
        );
    }
}
