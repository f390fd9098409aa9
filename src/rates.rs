//! Rates: how much may come in a period, and how much at once; and the buckets that tell whether more has come.

mod block;
mod table;

use std::{num::NonZeroU64, time::Duration};

use crate::proto::{Millis, Refusal};
pub(crate) use block::{AddressBlock, NetworkBlock};
pub(crate) use table::{KEY_BYTES, KEYS_MAX, RateTable};

/// A rate of messages, bytes, requests or the like: how many in a second, a minute or an hour, and how many at once.
///
/// ```
/// use std::num::NonZeroU64;
/// use ringhub::Rate;
/// let at_once = |count| NonZeroU64::new(count).expect("at least one");
/// let rate = Rate::per_second(at_once(100)).with_burst(at_once(500));
/// assert_eq!((rate.count(), rate.burst()), (100, 500));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    count: NonZeroU64,
    period: Duration,
    burst: NonZeroU64,
    /// The time in which one comes at this rate, in nanoseconds. Each message asks for it.
    one_ns: u64,
    /// The time in which an empty bucket is full again, in nanoseconds.
    refill_ns: u64,
}

impl Rate {
    /// Returns a rate for each second. As many as come in a second may come at once.
    #[must_use]
    pub fn per_second(count: NonZeroU64) -> Rate {
        Rate::new(count, Duration::from_secs(1), count)
    }

    /// Returns a rate of `count` in each period; up to `burst` may come at once. A period of zero counts as a
    /// nanosecond.
    #[must_use]
    pub fn new(count: NonZeroU64, period: Duration, burst: NonZeroU64) -> Rate {
        let period = period.max(Duration::from_nanos(1));
        let time = |number| nanoseconds_of(number, count, period);
        Rate { count, period, burst, one_ns: time(1), refill_ns: time(burst.get()) }
    }

    /// Returns the same rate with another burst: up to `burst` may come at once.
    #[must_use]
    pub fn with_burst(self, burst: NonZeroU64) -> Rate {
        Rate::new(self.count, self.period, burst)
    }

    /// Returns the part of the rate that each of `parts` has. A part has a burst of one at least.
    #[must_use]
    pub(crate) fn part(self, parts: NonZeroU64) -> Rate {
        let period = self.period.saturating_mul(parts.get().try_into().unwrap_or(u32::MAX));
        let burst = NonZeroU64::new(self.burst() / parts).unwrap_or(NonZeroU64::MIN);
        Rate::new(self.count, period, burst)
    }

    /// Returns how many may come in a period.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count.get()
    }

    /// Returns the period.
    #[must_use]
    pub fn period(&self) -> Duration {
        self.period
    }

    /// Returns how many may come at once.
    #[must_use]
    pub fn burst(&self) -> u64 {
        self.burst.get()
    }

    /// Returns the time in which so many come at this rate, in nanoseconds, rounded up.
    #[inline]
    fn cost(&self, count: u64) -> u64 {
        if count == 1 { self.one_ns } else { nanoseconds_of(count, self.count, self.period) }
    }
}

/// Returns the time in which `number` come if `count` come in a period, in nanoseconds, rounded up.
fn nanoseconds_of(number: u64, count: NonZeroU64, period: Duration) -> u64 {
    let ns = u128::from(number) * period.as_nanos();
    u64::try_from(ns.div_ceil(u128::from(count.get()))).unwrap_or(u64::MAX)
}

/// The rates that limit what a client sends on its connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct InputRates {
    /// Messages, fragments that are events of their own, pings and pongs.
    pub(crate) messages: Option<Rate>,
    /// Bytes.
    pub(crate) bytes: Option<Rate>,
}

impl InputRates {
    /// Returns whether there is a rate.
    pub(crate) fn has_any(&self) -> bool {
        self.messages.is_some() || self.bytes.is_some()
    }
}

/// The rates of messages that are published by HTTP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PublishRates {
    /// Of each address, or each /64 of IPv6.
    pub(crate) of_address: Option<Rate>,
    /// Of each identity that an authenticator has found, but not of networks.
    pub(crate) of_identity: Option<Rate>,
    /// Of each bearer token that requests show.
    pub(crate) of_token: Option<Rate>,
}

/// The rates at which clients come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ArrivalRates {
    /// Opening requests of each address, or each /64 of IPv6.
    pub(crate) handshakes: Option<Rate>,
    /// Accepted sockets of a shard.
    pub(crate) accepts: Option<Rate>,
    /// Requests of each address, or each /64 of IPv6, whose credentials are refused.
    pub(crate) guesses: Option<Rate>,
}

/// A bucket of one rate: GCRA, the generic cell rate algorithm, whose whole state is one time. A new bucket is full.
///
/// The time is that at which the bucket will be full again. The bucket lacks as many as come at its rate between now
/// and that time. A bucket whose time is over is as good as a new one, so a table of buckets may forget it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Bucket {
    /// In nanoseconds since the clock's start.
    full_at: u64,
}

impl Bucket {
    /// Takes so many out of the bucket if they are in it.
    ///
    /// # Errors
    ///
    /// The time at which so many are in the bucket. If the bucket never holds so many, the time at which it is full.
    pub(crate) fn take(&mut self, rate: &Rate, now: Millis, count: u64) -> Result<(), Millis> {
        let due = self.due(rate, count);
        if due > now {
            return Err(due);
        }
        self.charge(rate, now, count);
        Ok(())
    }

    /// Takes so many out of the bucket, even if they are not in it: the bucket then owes them.
    #[inline]
    pub(crate) fn charge(&mut self, rate: &Rate, now: Millis, count: u64) {
        self.full_at = self.full_at.max(nanoseconds(now)).saturating_add(rate.cost(count));
    }

    /// Returns when so many are in the bucket, or when the bucket is full if it never holds so many.
    pub(crate) fn due(&self, rate: &Rate, count: u64) -> Millis {
        let spare = rate.refill_ns - rate.cost(count).min(rate.refill_ns);
        Millis(self.full_at.saturating_sub(spare).div_ceil(NANOSECONDS_PER_MILLI))
    }

    /// Returns whether the bucket is empty: not even one more is in it.
    #[inline]
    pub(crate) fn is_empty(&self, rate: &Rate, now: Millis) -> bool {
        // A full bucket is the usual case, and needs no division.
        self.full_at > nanoseconds(now) && self.due(rate, 1) > now
    }

    /// Returns the bucket at a rate that has taken the place of another one: the bucket lacks no more than it holds. A
    /// bucket of a slower rate may be full only long after.
    fn at_rate(self, rate: &Rate, now: Millis) -> Bucket {
        Bucket { full_at: self.full_at.min(nanoseconds(now).saturating_add(rate.refill_ns)) }
    }

    /// Returns when the bucket is full.
    fn full_at(&self) -> Millis {
        Millis(self.full_at.div_ceil(NANOSECONDS_PER_MILLI))
    }

    /// Returns whether the bucket is full.
    pub(crate) fn is_full(&self, now: Millis) -> bool {
        self.full_at <= nanoseconds(now)
    }
}

const NANOSECONDS_PER_MILLI: u64 = 1_000_000;

fn nanoseconds(time: Millis) -> u64 {
    time.0.saturating_mul(NANOSECONDS_PER_MILLI)
}

/// The error of an opening request beyond [`ArrivalRates::handshakes`].
pub(crate) const OVER_HANDSHAKE_RATE: &str = "more opening requests from one address than max_handshake_rate allows";

/// Returns the refusal of a request that is over a rate (RFC 6585 4). `due` is the time at which the sender may ask
/// again.
pub(crate) fn over_rate(error: impl Into<String>, now: Millis, due: Millis) -> Refusal {
    Refusal::new(429, error).header("Retry-After", &retry_after(now, due).to_string())
}

/// Returns the whole seconds from `now` until `due`, at least one, for the header line `Retry-After` (RFC 9110 10.2.3).
fn retry_after(now: Millis, due: Millis) -> u64 {
    due.0.saturating_sub(now.0).div_ceil(1_000).max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rate(count: u64, seconds: u64, burst: u64) -> Rate {
        let number = |number| NonZeroU64::new(number).expect("not zero");
        Rate::new(number(count), Duration::from_secs(seconds), number(burst))
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let rate = rate(10, 1, 3);
        let mut bucket = Bucket::default();
        for left in [true, true, false] {
            assert_eq!(bucket.take(&rate, Millis(5_000), 1), Ok(()));
            assert_eq!(bucket.is_empty(&rate, Millis(5_000)), !left);
        }
        assert_eq!(bucket.take(&rate, Millis(5_000), 1), Err(Millis(5_100)));
        assert_eq!(bucket.take(&rate, Millis(5_099), 1), Err(Millis(5_100)));
        assert_eq!(bucket.take(&rate, Millis(5_100), 1), Ok(()));
        assert_eq!(bucket.take(&rate, Millis(5_100), 2), Err(Millis(5_300)));
        assert!(!bucket.is_full(Millis(5_399)) && bucket.is_full(Millis(5_400)));
        assert_eq!(bucket.take(&rate, Millis(9_000), 3), Ok(()));
        assert_eq!(bucket.take(&rate, Millis(9_000), 1), Err(Millis(9_100)));
    }

    /// Bytes are charged when they have come, so a bucket may owe many times its burst.
    #[test]
    fn a_bucket_owes_what_was_not_in_it() {
        let rate = rate(1_000, 1, 1_000);
        let mut bucket = Bucket::default();
        bucket.charge(&rate, Millis(0), 64_000);
        assert!(bucket.is_empty(&rate, Millis(63_000)) && !bucket.is_empty(&rate, Millis(63_001)));
        assert_eq!(bucket.due(&rate, 1), Millis(63_001));
    }

    #[test]
    fn each_part_has_the_rate_and_the_burst_divided() {
        let three = NonZeroU64::new(3).expect("not zero");
        assert_eq!(rate(100, 1, 50).part(three), rate(100, 3, 16));
        assert_eq!(rate(100, 1, 2).part(three), rate(100, 3, 1));
    }

    /// More than a bucket ever holds is given from a full bucket.
    #[test]
    fn more_than_the_burst_waits_for_a_full_bucket() {
        let rate = rate(10, 1, 2);
        let mut bucket = Bucket::default();
        assert_eq!(bucket.take(&rate, Millis(0), 50), Ok(()));
        assert_eq!(bucket.take(&rate, Millis(4_999), 50), Err(Millis(5_000)));
        assert_eq!(bucket.take(&rate, Millis(5_000), 50), Ok(()));
    }

    #[test]
    fn no_number_overflows() {
        let slow = rate(1, u64::MAX / 1_000_000_000, u64::MAX);
        let mut bucket = Bucket::default();
        bucket.charge(&slow, Millis(u64::MAX), u64::MAX);
        assert!(!bucket.is_full(Millis(0)) && bucket.due(&slow, u64::MAX) >= bucket.due(&slow, 1));
        assert_eq!((retry_after(Millis(5), Millis(3)), retry_after(Millis(0), Millis(1_001))), (1, 2));
    }

    /// A plain model: the tokens of a bucket as a fraction, refilled as time goes by.
    struct Model {
        tokens: f64,
        at: u64,
    }

    impl Model {
        fn refill(&mut self, rate: &Rate, now: u64) {
            let more = (now - self.at) as f64 / 1_000.0 * rate.count() as f64 / rate.period().as_secs_f64();
            self.tokens = (self.tokens + more).min(rate.burst() as f64);
            self.at = now;
        }
    }

    proptest! {
        /// The bucket agrees with the model, but where the model is within a rounding of its decision.
        #[test]
        fn a_bucket_is_a_refilled_number(
            (count, seconds, burst) in (1_u64..2_000, prop_oneof![Just(1_u64), Just(60)], 1_u64..3_000),
            steps in proptest::collection::vec((0_u64..3_000, 1_u64..100, any::<bool>()), 1..100),
        ) {
            let rate = rate(count, seconds, burst);
            let (mut bucket, mut model) = (Bucket::default(), Model { tokens: burst as f64, at: 0 });
            let mut now = 0;
            for (wait, wanted, charges) in steps {
                now += wait;
                model.refill(&rate, now);
                let wanted = wanted.min(burst);
                let missing = wanted as f64 - model.tokens;
                if charges {
                    bucket.charge(&rate, Millis(now), wanted);
                    model.tokens -= wanted as f64;
                    continue;
                }
                let due = bucket.due(&rate, wanted).0;
                let taken = bucket.take(&rate, Millis(now), wanted).is_ok();
                if missing.abs() > 1e-3 {
                    prop_assert_eq!(taken, missing < 0.0, "{} missing at {}", missing, now);
                }
                if taken {
                    model.tokens -= wanted as f64;
                } else {
                    let due_in = missing / rate.count() as f64 * rate.period().as_secs_f64() * 1_000.0;
                    prop_assert!(((due - now) as f64 - due_in).abs() < 2.0, "due in {} not {}", due - now, due_in);
                }
            }
        }
    }
}
