//! Computes when to publish, and the part of the run that is measured, in nanoseconds of the run's clock.

/// An open loop: message `k` is due at `start + k / rate`, independently of the server.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// The time at which the first message is due.
    pub start_ns: u64,
    /// Messages per second over all publishers, above 0.
    pub per_second: u64,
}

impl Rate {
    /// Returns the number of messages that are due by `now_ns`.
    pub fn due_count(&self, now_ns: u64) -> u64 {
        match now_ns.checked_sub(self.start_ns) {
            Some(elapsed) => (u128::from(elapsed) * u128::from(self.per_second) / NANOS) as u64 + 1,
            None => 0,
        }
    }

    /// Returns the time at which message `index` is due: the first at which [`Self::due_count`] includes the message.
    pub fn due_ns(&self, index: u64) -> u64 {
        self.start_ns + (u128::from(index) * NANOS).div_ceil(u128::from(self.per_second)) as u64
    }
}

/// Returns how many messages a closed loop may publish now, so that `in_flight` are under way. As many are under way as
/// the missing deliveries are, if `published` messages have `expected` deliveries.
pub fn permits(in_flight: u64, published: u64, expected: u64, delivered: u64) -> u64 {
    let missing = u128::from(expected.saturating_sub(delivered));
    let under_way = (missing * u128::from(published)).div_ceil(u128::from(expected.max(1)));
    in_flight.saturating_sub(u64::try_from(under_way).unwrap_or(u64::MAX))
}

/// The measured part of a run, including `start_ns` and excluding `end_ns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The first measured time.
    pub start_ns: u64,
    /// The first time after the window.
    pub end_ns: u64,
}

impl Window {
    /// Returns the window after a warm-up.
    pub fn after(begin_ns: u64, warmup_ns: u64, duration_ns: u64) -> Window {
        let start_ns = begin_ns.saturating_add(warmup_ns);
        Window { start_ns, end_ns: start_ns.saturating_add(duration_ns) }
    }

    /// Returns whether `time_ns` is in the window.
    pub fn contains(&self, time_ns: u64) -> bool {
        (self.start_ns..self.end_ns).contains(&time_ns)
    }
}

const NANOS: u128 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_message_is_due_at_once_and_the_rest_evenly() {
        let rate = Rate { start_ns: 1_000, per_second: 100 };
        assert_eq!(rate.due_count(999), 0);
        assert_eq!(rate.due_count(1_000), 1);
        assert_eq!(rate.due_count(10_000_999), 1);
        assert_eq!(rate.due_count(10_001_000), 2);
        assert_eq!(rate.due_count(1_000_001_000), 101);
    }

    #[test]
    fn due_count_and_due_time_agree_at_every_rate() {
        for per_second in [1, 3, 7, 100, 999_983, 30_000_000] {
            let rate = Rate { start_ns: 12_345, per_second };
            for index in [0, 1, 2, 3, 1_000, 123_456_789] {
                let due = rate.due_ns(index);
                assert!(rate.due_count(due) > index, "{per_second}/s, message {index}");
                assert!(rate.due_count(due - 1) <= index, "{per_second}/s, message {index}");
            }
        }
    }

    #[test]
    fn permits_follow_the_mean_of_the_deliveries() {
        assert_eq!(permits(16, 0, 0, 0), 16);
        assert_eq!(permits(16, 16, 16_000, 999), 0);
        assert_eq!(permits(16, 16, 16_000, 1_000), 1);
        assert_eq!(permits(16, 16, 16_000, 15_999), 15);
        assert_eq!(permits(16, 16, 16_000, 16_000), 16);
        assert_eq!(permits(4, 10, 10_000, 0), 0);
    }

    /// Four topics of ten subscribers have 3, 3, 2 and 2 of them, which is 2.5 on average.
    #[test]
    fn permits_do_not_drift_with_a_mean_that_is_no_whole_number() {
        for rounds in [100, 1_000, 1_000_000] {
            let (published, expected) = (4 * rounds, 10 * rounds);
            assert_eq!(permits(16, published, expected, expected), 16);
            assert_eq!(permits(16, published, expected, expected - 40), 0);
            assert_eq!(permits(16, published, expected, expected - 30), 4);
        }
        // Messages to nobody are not under way.
        assert_eq!(permits(16, 100, 0, 0), 16);
    }

    #[test]
    fn window_is_half_open() {
        let window = Window::after(100, 10, 5);
        assert_eq!(window, Window { start_ns: 110, end_ns: 115 });
        assert!(!window.contains(109) && window.contains(110) && window.contains(114) && !window.contains(115));
    }
}
