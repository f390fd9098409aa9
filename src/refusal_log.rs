//! Logs refusals by their causes: a line for each cause in each interval, whichever threads refuse.

use std::time::{Duration, Instant};

use crate::{log_throttle::LogThrottle, metrics::Counter, proto::RefusalCause};

/// The throttles of the lines about refusals, one for each cause. All threads of a server share them.
///
/// A line has the cause as a fixed word, and nothing that a client has sent: neither a path nor the text of an answer.
/// The lines at the level of debugging have the addresses and the path of each refusal.
#[derive(Debug)]
pub(crate) struct RefusalLog {
    /// By the number of the cause's counter.
    throttles: Vec<LogThrottle>,
}

impl Default for RefusalLog {
    fn default() -> Self {
        RefusalLog { throttles: Counter::ALL.iter().map(|_| LogThrottle::new(INTERVAL)).collect() }
    }
}

impl RefusalLog {
    /// Logs that a request was refused, unless a line about this cause was written a short time before. `status` is
    /// that of the answer.
    pub(crate) fn note(&self, cause: Counter, status: u16) {
        if let Some(suppressed) = self.allow(cause) {
            tracing::info!(cause = cause.cause(), status, suppressed, "a request was refused");
        }
    }

    /// Logs that a connection was refused, unless a line about this cause was written a short time before. `fault` is a
    /// fixed word.
    pub(crate) fn note_connection(&self, cause: Counter, fault: &'static str) {
        if let Some(suppressed) = self.allow(cause) {
            tracing::info!(
                cause = cause.cause(),
                fault,
                suppressed,
                "a connection was refused: at an address of proxy_protocol each one has to come from trusted_proxies, \
                 and to begin with a header of the PROXY protocol"
            );
        }
    }

    fn allow(&self, cause: Counter) -> Option<u64> {
        if !tracing::enabled!(tracing::Level::INFO) {
            return None;
        }
        self.throttles[cause as usize].allow(Instant::now())
    }
}

/// Returns the counter of a refusal with this status, on a shard and on the control thread alike.
pub(crate) fn counter_of(status: u16, cause: RefusalCause, is_leaving: bool) -> Counter {
    match (status, cause) {
        (503, _) if is_leaving => Counter::RefusedLeaving,
        (_, RefusalCause::Limit) => Counter::RefusedLimit,
        (_, RefusalCause::Address) => Counter::RefusedAddress,
        (_, RefusalCause::Undecided) => Counter::RefusedUndecided,
        (_, RefusalCause::OfStatus) => Counter::refused(status),
    }
}

/// The least time between two lines about one cause.
const INTERVAL: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::Refusal;

    #[test]
    fn a_status_with_several_causes_is_told_apart() {
        let check = |refusal: Refusal, is_leaving, expected| {
            assert_eq!(counter_of(refusal.status, refusal.cause, is_leaving), expected, "{refusal:?}");
        };
        check(Refusal::not_now("full"), false, Counter::RefusedLimit);
        check(Refusal::not_now("full"), true, Counter::RefusedLeaving);
        check(Refusal::leaving(), true, Counter::RefusedLeaving);
        check(Refusal::undecided(), false, Counter::RefusedUndecided);
        check(Refusal::no_decision("no answer"), false, Counter::RefusedUndecided);
        check(Refusal::no_decision("no answer"), true, Counter::RefusedLeaving);
        // As of an authenticator.
        check(Refusal::new(503, "later"), false, Counter::RefusedOther);
        check(Refusal::new(503, "later"), true, Counter::RefusedLeaving);
        check(Refusal::new(429, "slower"), false, Counter::RefusedRate);
        check(Refusal::too_many_of_address(), true, Counter::RefusedAddress);
        check(Refusal::new(401, "who"), true, Counter::RefusedToken);
    }
}
