//! Limits how often a kind of log line is written.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Lets one line of a kind into the log in each interval, and counts the lines that it suppresses.
///
/// Threads that share a throttle write one line in each interval together.
#[derive(Debug)]
pub(crate) struct LogThrottle {
    interval: Duration,
    lines: Mutex<Lines>,
}

#[derive(Debug, Default)]
struct Lines {
    /// When a line was last allowed.
    allowed: Option<Instant>,
    /// The number of lines that were suppressed since then.
    suppressed: u64,
}

impl LogThrottle {
    /// Returns a throttle that allows the first line at once, and each further line an interval after the one before.
    pub(crate) fn new(interval: Duration) -> Self {
        LogThrottle { interval, lines: Mutex::default() }
    }

    /// Returns a throttle for the warnings of one limit, which allows a line in a minute.
    pub(crate) fn of_limit() -> Self {
        Self::new(LIMIT_INTERVAL)
    }

    /// Allows a line if an interval has passed since the last allowed line, and returns how many lines were suppressed
    /// in between. Otherwise suppresses the line, and returns `None`.
    pub(crate) fn allow(&self, now: Instant) -> Option<u64> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.allowed.is_some_and(|allowed| now.duration_since(allowed) < self.interval) {
            lines.suppressed += 1;
            return None;
        }
        let suppressed = lines.suppressed;
        *lines = Lines { allowed: Some(now), suppressed: 0 };
        Some(suppressed)
    }
}

/// The least time between two warnings of one limit.
const LIMIT_INTERVAL: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_in_each_interval_says_how_many_were_suppressed() {
        let throttle = LogThrottle::new(Duration::from_secs(10));
        let begin = Instant::now();
        let lines = [0, 1, 9, 10, 20, 21, 100].map(|second| throttle.allow(begin + Duration::from_secs(second)));
        assert_eq!(lines, [Some(0), None, None, Some(2), Some(0), None, Some(1)]);
    }

    /// A thread may have read its clock before another one allowed a line.
    #[test]
    fn an_earlier_time_is_within_the_interval() {
        let throttle = LogThrottle::of_limit();
        let begin = Instant::now() + LIMIT_INTERVAL;
        assert_eq!(throttle.allow(begin), Some(0));
        assert_eq!(throttle.allow(begin - LIMIT_INTERVAL), None);
        assert_eq!(throttle.allow(begin + LIMIT_INTERVAL), Some(1));
    }
}
