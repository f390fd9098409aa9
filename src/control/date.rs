//! The date of answers (RFC 9110 6.6.1), by the wall clock, even if that is set back.
//!
//! hyper adds a date too, but keeps it until the wall clock shows a later second. If the clock is set back by a day,
//! hyper's date stands still for a day.

use std::{
    cell::RefCell,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use httpdate::HttpDate;
use hyper::header::HeaderValue;

/// Returns the value of the header line `date` for an answer that is sent now.
pub(super) fn now() -> HeaderValue {
    thread_local! {
        static LAST: RefCell<Date> = RefCell::new(Date::of_second(0));
    }
    LAST.with_borrow_mut(|last| last.at(SystemTime::now()))
}

/// A date, written once for all answers of its second.
#[derive(Debug)]
struct Date {
    /// Seconds since 1970.
    second: u64,
    value: HeaderValue,
}

impl Date {
    fn of_second(second: u64) -> Date {
        let text = HttpDate::from(UNIX_EPOCH + Duration::from_secs(second)).to_string();
        Date { second, value: HeaderValue::try_from(text).expect("a date is visible ASCII") }
    }

    /// Returns the value at a time. A time before 1970 gives the first second of 1970, and a time after 9999 the last
    /// second of 9999.
    fn at(&mut self, time: SystemTime) -> HeaderValue {
        let second = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().min(SECOND_MAX));
        if second != self.second {
            *self = Date::of_second(second);
        }
        self.value.clone()
    }
}

/// The last second of the year 9999.
const SECOND_MAX: u64 = 253_402_300_799;

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 9110 5.6.7, a later moment of the same second, the next second, the first second again, and
    /// the bounds.
    #[test]
    fn a_date_follows_the_clock_ahead_and_back() {
        let mut date = Date::of_second(0);
        let mut at = |seconds: f64| date.at(UNIX_EPOCH + Duration::from_secs_f64(seconds));
        assert_eq!(at(784_111_777.0), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(at(784_111_777.9), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(at(784_111_778.0), "Sun, 06 Nov 1994 08:49:38 GMT");
        assert_eq!(at(784_111_777.5), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(at(253_402_300_799.0), "Fri, 31 Dec 9999 23:59:59 GMT");
        assert_eq!(at(253_402_300_800.0), "Fri, 31 Dec 9999 23:59:59 GMT");
        assert_eq!(date.at(UNIX_EPOCH - Duration::from_secs(1)), "Thu, 01 Jan 1970 00:00:00 GMT");
    }
}
