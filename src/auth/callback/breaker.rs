//! Stops questions to an application that does not answer, so that not every request waits for its timeout.

use std::time::{Duration, Instant};

/// Counts the questions in a row that the application did not answer. After [`Breaker::FAILURES_MAX`] of them, one
/// question is asked in each [`Breaker::PAUSE`], until one is answered.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    failures: u32,
    /// When the next question may be asked, after too many failures.
    next: Option<Instant>,
}

impl Breaker {
    pub(super) const FAILURES_MAX: u32 = 5;
    pub(super) const PAUSE: Duration = Duration::from_secs(1);

    /// Returns whether a question may be asked now. With `true` the caller has to ask it.
    pub(super) fn may_ask(&mut self, now: Instant) -> bool {
        match self.next {
            Some(next) if now < next => false,
            Some(_) => {
                self.next = Some(now + Self::PAUSE);
                true
            }
            None => true,
        }
    }

    /// Notes that the application has answered. Returns whether this ends the pauses.
    pub(super) fn answered(&mut self) -> bool {
        std::mem::take(self).next.is_some()
    }

    /// Notes that the application has not answered. Returns whether this begins the pauses.
    pub(super) fn failed(&mut self, now: Instant) -> bool {
        self.failures = self.failures.saturating_add(1);
        if self.failures < Self::FAILURES_MAX {
            return false;
        }
        self.next = Some(now + Self::PAUSE);
        self.failures == Self::FAILURES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_question_in_each_pause() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        for _ in 1..Breaker::FAILURES_MAX {
            assert!(breaker.may_ask(now));
            assert!(!breaker.failed(now));
        }
        assert!(breaker.may_ask(now) && breaker.may_ask(now));
        assert!(breaker.failed(now));
        assert!(!breaker.failed(now), "the pauses have begun already");
        assert!(!breaker.may_ask(now));
        let later = now + Breaker::PAUSE;
        assert!(breaker.may_ask(later));
        assert!(!breaker.may_ask(later), "one alone");
        assert!(!breaker.failed(later));
        assert!(!breaker.may_ask(later + Breaker::PAUSE / 2));
        assert!(breaker.may_ask(later + Breaker::PAUSE));
        assert!(breaker.answered() && !breaker.answered());
        assert!(breaker.may_ask(later) && breaker.may_ask(later));
    }

    #[test]
    fn an_answer_between_failures_begins_the_count_again() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        for _ in 0..10 {
            for _ in 1..Breaker::FAILURES_MAX {
                breaker.failed(now);
            }
            assert!(!breaker.answered(), "no pauses have begun");
            assert!(breaker.may_ask(now));
        }
    }
}
