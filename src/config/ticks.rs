//! Times as whole ticks, at most a year, so that a clock can add them.

use std::time::Duration;

use super::quantities::Time;
use crate::{error::ConfigError, proto::Tick};

/// Checks that a time is at least one tick, and short enough for any clock to add.
pub(super) fn at_least_a_tick(setting: &'static str, time: Time) -> Result<Time, ConfigError> {
    if time.0 >= TICK {
        return ticks(setting, time).map(|_| time);
    }
    Err(ConfigError::of(setting, format!("{time} is less than {}", Time(TICK))))
}

/// Returns a time in whole ticks, rounded up.
pub(super) fn ticks(setting: &'static str, time: Time) -> Result<u32, ConfigError> {
    let ticks = time.0.as_nanos().div_ceil(TICK.as_nanos());
    match u32::try_from(ticks) {
        Ok(ticks) if ticks <= TICKS_MAX => Ok(ticks),
        _ => Err(ConfigError::of(setting, format!("{time} is more than a year"))),
    }
}

/// One [`Tick`].
pub(crate) const TICK: Duration = Duration::from_millis(Tick::MILLIS);
const TICKS_MAX: u32 = 366 * 24 * 3_600 * Tick::PER_SECOND;
