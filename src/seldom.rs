//! When to log what lasts and is met again and again.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Says when something is logged that happens all the time: at first, and again when it happens after
/// [`Seldom::SILENCE`] has passed.
#[derive(Debug, Default)]
pub(crate) struct Seldom(Mutex<Option<Instant>>);

impl Seldom {
    const SILENCE: Duration = Duration::from_secs(60);

    /// Returns whether it is time to log; if so, the next time is after [`Seldom::SILENCE`].
    pub(crate) fn is_due(&self) -> bool {
        let now = Instant::now();
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = last.is_none_or(|last| now.duration_since(last) >= Self::SILENCE);
        if is_due {
            *last = Some(now);
        }
        is_due
    }
}
