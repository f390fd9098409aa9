//! Limits how often shards write certain log lines.

use std::{sync::Arc, time::Duration};

use crate::{log_throttle::LogThrottle, refusal_log::RefusalLog};

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
    /// A client that has offered subprotocols was accepted without any.
    pub(super) unknown_protocols: LogThrottle,
    /// The lines about refusals, which the control thread shares too.
    pub(super) refusals: Arc<RefusalLog>,
}

impl Default for Warnings {
    fn default() -> Self {
        Warnings::new(Arc::default())
    }
}

impl Warnings {
    /// Returns throttles that allow each line at once. `refusals` are those of the whole server.
    pub(crate) fn new(refusals: Arc<RefusalLog>) -> Warnings {
        Warnings {
            shortage: LogThrottle::of_limit(),
            full: LogThrottle::of_limit(),
            http_full: LogThrottle::of_limit(),
            work_full: LogThrottle::of_limit(),
            slow_consumer: LogThrottle::new(SLOW_CONSUMER_INTERVAL),
            unknown_protocols: LogThrottle::of_limit(),
            refusals,
        }
    }
}

/// The least time between two lines about slow consumers at the level of information.
const SLOW_CONSUMER_INTERVAL: Duration = Duration::from_secs(10);
