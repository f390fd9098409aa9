//! Samples of walks: the time from the gathering of a walk's first message to the walk's end, and the work for topics.
//!
//! A walk over few members costs a microsecond or two, so looking at a clock would show. Such a walk is looked at one
//! time in [`SAMPLED`], on average, and then counts as [`SAMPLED`] walks. The gaps are random: a walk of every
//! sixteenth topic would otherwise be the only one that is ever looked at.

use std::time::{Duration, Instant};

use crate::{
    hub::{AudienceId, BusiestTopics, TopicWork, Walked},
    metrics::{Counters, Histogram},
};

use super::io_state::IoHub;

/// The samples of a shard's walks.
#[derive(Debug)]
pub(super) struct WalkSamples {
    /// The beginning of the times that the hub notes.
    start: Instant,
    /// The walks that pass before the next sample.
    left: u32,
    random: u32,
    /// The topics with the most deliveries.
    pub(super) busiest: BusiestTopics,
}

impl WalkSamples {
    pub(super) fn new(seed: u64) -> Self {
        // Xorshift never leaves 0.
        WalkSamples { start: Instant::now(), left: 0, random: seed as u32 | 1, busiest: BusiestTopics::default() }
    }

    /// Returns the microseconds from the beginning of all times to this instant.
    pub(super) fn micros_at(&self, instant: Instant) -> u64 {
        instant.saturating_duration_since(self.start).as_micros().try_into().unwrap_or(u64::MAX)
    }

    /// Looks at the walk of an audience, which is about to end.
    #[inline]
    pub(super) fn note_end(&mut self, hub: &IoHub, audience: AudienceId, counters: &Counters) {
        let walked = hub.walked(audience);
        let Some(weight) = self.weight(walked.members) else { return };
        let Walked { topic, messages, bytes, members, gathered_at_us } = walked;
        let waited = self.micros_at(Instant::now()).saturating_sub(gathered_at_us);
        counters.count_times(Histogram::PublishToFlush, Duration::from_micros(waited), weight.into());
        let (weight, messages) = (u64::from(weight), u64::from(messages));
        let work = TopicWork {
            deliveries: messages * u64::from(members) * weight,
            messages: messages * weight,
            bytes: bytes as u64 * weight,
        };
        self.busiest.count(topic, work, hub.now());
    }

    /// Returns the number of walks that a walk over so many members counts for; `None` if the walk is not looked at.
    #[inline]
    fn weight(&mut self, members: u32) -> Option<u32> {
        if members >= SAMPLED {
            return Some(1);
        }
        if self.left > 0 {
            self.left -= 1;
            return None;
        }
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        // The gaps are 0 to 30 walks long, so one walk in 16 is looked at.
        self.left = self.random % (2 * SAMPLED - 1);
        Some(SAMPLED)
    }
}

/// One in so many walks over few members is looked at, on average. Few are fewer than the same number.
const SAMPLED: u32 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_walks_are_all_looked_at() {
        let mut samples = WalkSamples::new(1);
        assert!((0..1_000).all(|_| samples.weight(SAMPLED) == Some(1)));
    }

    /// What the samples count is what has happened, also for topics that take turns.
    #[test]
    fn small_walks_count_in_full() {
        let mut samples = WalkSamples::new(0);
        let mut counted = [0_u32; 16];
        for walk in 0..160_000 {
            counted[walk % 16] += samples.weight(1).unwrap_or(0);
        }
        assert!(counted.iter().all(|&count| (8_500..11_500).contains(&count)), "{counted:?}");
    }
}
