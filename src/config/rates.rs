//! Rates as settings: `100/s`, `30/m burst 5`, `64KiB/s`, or `off`.

use std::{fmt, num::NonZeroU64, str::FromStr, time::Duration};

use super::quantities::Size;
use crate::rates::Rate;

/// A limit of messages, requests or the like by a rate, or none: `100/s`, `30/m burst 5`, `off`. The periods are `s`,
/// `m` and `h`. Without a burst, as many as come in a period may come at once.
///
/// ```
/// use ringhub::config::RateLimit;
/// let limit: RateLimit = "30/m burst 5".parse()?;
/// assert_eq!(limit.0.map(|rate| (rate.count(), rate.burst())), Some((30, 5)));
/// assert_eq!(limit.to_string(), "30/m burst 5");
/// # Ok::<(), String>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RateLimit(pub Option<Rate>);

/// A limit of bytes by a rate, or none: `64KiB/s`, `1MiB/s burst 8MiB`, `off`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ByteRateLimit(pub Option<Rate>);

impl FromStr for RateLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |number: &str| number.parse::<u64>().ok();
        read(text, number, "100/s or 30/m burst 5").map(RateLimit)
    }
}

impl FromStr for ByteRateLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |number: &str| number.parse::<Size>().ok().map(|size| size.0);
        read(text, number, "64KiB/s or 1MiB/s burst 8MiB").map(ByteRateLimit)
    }
}

impl fmt::Display for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(self.0.as_ref(), f, |number| number)
    }
}

impl fmt::Display for ByteRateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(self.0.as_ref(), f, Size)
    }
}

/// Reads `off`, or a number, a slash and a period, and perhaps `burst` and a second number.
fn read(text: &str, number: impl Fn(&str) -> Option<u64>, example: &str) -> Result<Option<Rate>, String> {
    let bad = || format!("{text:?} is no rate; write it like {example}, or off");
    let words = text.trim();
    if words == "off" {
        return Ok(None);
    }
    let (rate, burst) = match words.split_once("burst") {
        Some((rate, burst)) => (rate.trim(), Some(burst.trim())),
        None => (words, None),
    };
    let (count, period) = rate.split_once('/').ok_or_else(bad)?;
    let (_, period) = PERIODS.iter().find(|(name, _)| *name == period.trim()).ok_or_else(bad)?;
    let read = |word: &str| {
        let count = number(word.trim()).ok_or_else(bad)?;
        let count =
            NonZeroU64::new(count).ok_or_else(|| format!("{text:?} lets nothing through; off sets no limit"))?;
        if count.get() <= NUMBER_MAX {
            return Ok(count);
        }
        Err(format!("{text:?} has a number above {NUMBER_MAX}"))
    };
    let count = read(count)?;
    let burst = burst.map_or(Ok(count), read)?;
    Ok(Some(Rate::new(count, Duration::from_secs(*period), burst)))
}

fn show<T: fmt::Display>(rate: Option<&Rate>, f: &mut fmt::Formatter<'_>, number: fn(u64) -> T) -> fmt::Result {
    let Some(rate) = rate else { return f.write_str("off") };
    let of = PERIODS.iter().find(|(_, seconds)| Duration::from_secs(*seconds) == rate.period());
    match of {
        Some((name, _)) => write!(f, "{}/{name}", number(rate.count()))?,
        // An embedder may have chosen any period.
        None => write!(f, "{} in {:?}", number(rate.count()), rate.period())?,
    }
    if rate.burst() == rate.count() { Ok(()) } else { write!(f, " burst {}", number(rate.burst())) }
}

/// The largest number of a rate: more than any machine needs, as of every size.
const NUMBER_MAX: u64 = 1 << 40;

/// The names of the periods, and their lengths in seconds.
const PERIODS: [(&str, u64); 3] = [("s", 1), ("m", 60), ("h", 3_600)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        let check = |text: &str, expected: (u64, u64, u64), shown: &str| {
            let limit: RateLimit = text.parse().unwrap_or_else(|error| panic!("{error}"));
            let rate = limit.0.expect("a rate");
            assert_eq!((rate.count(), rate.period().as_secs(), rate.burst()), expected, "{text}");
            assert_eq!(limit.to_string(), shown);
        };
        check("100/s", (100, 1, 100), "100/s");
        check(" 30 / m  burst 5 ", (30, 60, 5), "30/m burst 5");
        check("1/h burst 1", (1, 3_600, 1), "1/h");
        assert_eq!("off".parse(), Ok(RateLimit(None)));
        for (bad, what) in [
            ("", "is no rate"),
            ("100", "is no rate"),
            ("100/d", "is no rate"),
            ("1KiB/s", "is no rate"),
            ("-1/s", "is no rate"),
            ("100/s burst", "is no rate"),
            ("0/s", "lets nothing through"),
            ("5/s burst 0", "lets nothing through"),
            ("9999999999999/s", "has a number above"),
        ] {
            let error = bad.parse::<RateLimit>().expect_err(bad);
            assert!(error.contains(what), "{bad}: {error}");
        }
    }

    #[test]
    fn rates_of_bytes() {
        let limit: ByteRateLimit = "64KiB/s burst 1MiB".parse().expect("a rate");
        assert_eq!(limit.0.map(|rate| (rate.count(), rate.burst())), Some((65_536, 1 << 20)));
        assert_eq!(limit.to_string(), "64KiB/s burst 1MiB");
        assert_eq!("1000/s".parse::<ByteRateLimit>().map(|limit| limit.to_string()), Ok("1000/s".into()));
        assert!("fast/s".parse::<ByteRateLimit>().is_err());
    }
}
