//! The clock of a server: milliseconds since its start, which never go back.

use std::time::Instant;

use crate::proto::Millis;

/// The clock that all threads of a server share. The machine's wall clock has no part in it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    /// The start of the server.
    pub(crate) start: Instant,
}

impl Clock {
    /// Returns a clock that starts now.
    pub(crate) fn new() -> Self {
        Clock { start: Instant::now() }
    }

    /// Returns the time.
    pub(crate) fn now(&self) -> Millis {
        self.at(Instant::now())
    }

    /// Returns the time at this instant.
    pub(crate) fn at(&self, instant: Instant) -> Millis {
        let elapsed = instant.saturating_duration_since(self.start);
        Millis(elapsed.as_millis().try_into().unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_clock_counts_milliseconds() {
        let clock = Clock::new();
        let at = |micros| clock.at(clock.start + Duration::from_micros(micros));
        assert_eq!((at(999), at(1_000), at(1_234_999)), (Millis(0), Millis(1), Millis(1_234)));
        assert_eq!(clock.at(clock.start - Duration::from_secs(1)), Millis(0));
    }
}
