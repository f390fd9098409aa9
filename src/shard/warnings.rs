//! Limits how often shards write certain log lines.

use std::time::Duration;

use crate::log_throttle::LogThrottle;

/// The throttles of lines about limits, which all shards of a server share: each line comes once in its interval,
/// whichever shards reach the limit.
#[derive(Debug)]
pub(crate) struct Warnings {
    /// Descriptors or memory are used up.
    pub(super) shortage: LogThrottle,
    /// There are as many connections as the server allows.
    pub(super) full: LogThrottle,
    /// As many connections as are allowed are on their way to the control thread.
    pub(super) http_full: LogThrottle,
    /// A connection has as much work under way as is allowed.
    pub(super) work_full: LogThrottle,
    /// A slow consumer was closed.
    pub(super) slow_consumer: LogThrottle,
}

impl Default for Warnings {
    fn default() -> Self {
        Warnings {
            shortage: LogThrottle::of_limit(),
            full: LogThrottle::of_limit(),
            http_full: LogThrottle::of_limit(),
            work_full: LogThrottle::of_limit(),
            slow_consumer: LogThrottle::new(SLOW_CONSUMER_INTERVAL),
        }
    }
}

/// The least time between two lines about slow consumers at the level of information.
const SLOW_CONSUMER_INTERVAL: Duration = Duration::from_secs(10);
