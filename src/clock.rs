//! The clock of a server: milliseconds since its start, which never go back.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

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

/// The time of the wall clock at which a server's clock was at 0, for readers who want to know when something was.
///
/// Two looks at two clocks are never at the same moment, so each look finds another time. The time stays the same until
/// the wall clock has been set.
#[derive(Debug, Default)]
pub(crate) struct WallStart(AtomicU64);

impl WallStart {
    /// Returns the time, in milliseconds since 1970.
    pub(crate) fn of(&self, clock: &Clock) -> u64 {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall: u64 = wall.as_millis().try_into().unwrap_or(u64::MAX);
        self.note(wall.saturating_sub(clock.now().0))
    }

    /// Notes the time that a look has found. Returns the time.
    fn note(&self, found: u64) -> u64 {
        let known = self.0.load(Ordering::Relaxed);
        if known != 0 && known.abs_diff(found) <= SET_MS {
            return known;
        }
        self.0.store(found, Ordering::Relaxed);
        found
    }
}

/// The wall clock has been set if it has gone more milliseconds, or fewer, than the server's clock by more than this.
const SET_MS: u64 = 1_000;

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

    #[test]
    fn the_start_stays_until_the_wall_clock_is_set() {
        let wall = WallStart::default();
        let found = [1_000_000, 999_000, 1_001_000, 1_001_001, 1_000_001, 1_000_000, 0];
        let noted = [1_000_000, 1_000_000, 1_000_000, 1_001_001, 1_001_001, 1_000_000, 0];
        assert_eq!(found.map(|found| wall.note(found)), noted);
    }
}
