//! Stops questions to an application that does not answer, so that not every request waits for its timeout.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use crate::rates::AddressBlock;

/// The clients that ask as one: those of an address, or of a /64 of IPv6. `None` stands for clients without an address.
pub(super) type Asker = Option<AddressBlock>;

/// Counts the questions in a row that the application has not answered: those of all clients, and those of each client.
///
/// | pauses | begin after so many failures in a row |
/// | --- | --- |
/// | of all clients | [`Breaker::FAILURES_MAX`], of [`Breaker::ASKERS_MIN`] clients or more |
/// | of one client | [`Breaker::FAILURES_MAX`] of this client, whatever the application answers to others |
///
/// During the pauses one question is asked in each [`Breaker::PAUSE`], until one is answered. A client may find a
/// question at which the application fails. Such a client stops its own questions, and no others. In the pauses of all,
/// the clients that have asked in vain last come after the others.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    /// The failures in a row, of all clients.
    failures: u32,
    /// The first clients of these failures, at most [`Breaker::ASKERS_MIN`].
    failing: Vec<Asker>,
    /// When the next question may be asked, in the pauses of all clients.
    next: Option<Instant>,
    /// The clients that have asked last in these pauses, the last one at the end, at most [`PROBERS_MAX`].
    probers: VecDeque<Asker>,
    /// The clients whose last question was not answered, at most [`ASKERS_MAX`].
    askers: HashMap<Asker, Failing>,
}

/// A client whose last question was not answered.
#[derive(Debug, Clone, Copy)]
struct Failing {
    /// The failures in a row.
    failures: u32,
    blame: Blame,
    /// When the client's next question may be asked, if there were too many failures.
    next: Instant,
}

/// The cause of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blame {
    /// The application: it cannot be reached, or takes too long.
    Application,
    /// The question may be: the application has answered that it has failed.
    Question,
}

/// The answer to whether a question may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Permit {
    /// The question may be asked.
    Asks,
    /// Questions of this client pause. The cause is that of the client's last failure.
    AskerPauses(Blame),
    /// Questions of all clients pause.
    AllPause,
}

impl Breaker {
    pub(super) const FAILURES_MAX: u32 = 5;
    pub(super) const PAUSE: Duration = Duration::from_secs(1);
    /// The fewest clients whose failures begin the pauses of all.
    pub(super) const ASKERS_MIN: usize = 3;

    /// Returns whether the questions of all clients pause (the circuit breaker is open). One question is then asked in
    /// each pause.
    pub(super) fn is_open(&self) -> bool {
        self.next.is_some()
    }

    /// Returns whether a client's question may be asked now.
    pub(super) fn permit(&self, asker: Asker, now: Instant) -> Permit {
        if let Some(next) = self.next {
            let due = if self.probers.contains(&asker) { next + Self::PAUSE } else { next };
            return if now < due { Permit::AllPause } else { Permit::Asks };
        }
        match self.askers.get(&asker) {
            Some(failing) if failing.failures >= Self::FAILURES_MAX && now < failing.next => {
                Permit::AskerPauses(failing.blame)
            }
            _ => Permit::Asks,
        }
    }

    /// Notes that a client's question is asked now, which [`Breaker::permit`] has permitted.
    pub(super) fn asks(&mut self, asker: Asker, now: Instant) {
        if let Some(next) = &mut self.next {
            *next = now + Self::PAUSE;
            self.probers.retain(|prober| *prober != asker);
            self.probers.push_back(asker);
            if self.probers.len() > PROBERS_MAX {
                self.probers.pop_front();
            }
        }
        if let Some(failing) = self.askers.get_mut(&asker) {
            failing.next = now + Self::PAUSE;
        }
    }

    /// Notes that the application has answered a client's question. Returns whether this ends the pauses of all.
    pub(super) fn answered(&mut self, asker: Asker) -> bool {
        if self.is_open() {
            *self = Breaker::default();
            return true;
        }
        self.failures = 0;
        self.failing.clear();
        self.askers.remove(&asker);
        false
    }

    /// Notes that the application has not answered a client's question. Returns whether this begins the pauses of all.
    pub(super) fn failed(&mut self, asker: Asker, blame: Blame, now: Instant) -> bool {
        self.make_room(asker, now);
        let next = now + Self::PAUSE;
        let failing = self.askers.entry(asker).or_insert(Failing { failures: 0, blame, next });
        *failing = Failing { failures: failing.failures.saturating_add(1), blame, next };
        self.failures = self.failures.saturating_add(1);
        if self.failing.len() < Self::ASKERS_MIN && !self.failing.contains(&asker) {
            self.failing.push(asker);
        }
        if self.failures < Self::FAILURES_MAX || self.failing.len() < Self::ASKERS_MIN {
            return false;
        }
        self.next.replace(next).is_none()
    }

    /// Makes room for a client in a full table: forgets the clients whose pause is over, or all clients if no pause is
    /// over.
    fn make_room(&mut self, asker: Asker, now: Instant) {
        if self.askers.len() < ASKERS_MAX || self.askers.contains_key(&asker) {
            return;
        }
        self.askers.retain(|_, failing| now < failing.next);
        if self.askers.len() >= ASKERS_MAX {
            self.askers.clear();
        }
    }
}

/// The most clients that come after the others in the pauses of all.
const PROBERS_MAX: usize = 4;

/// The most clients whose failures are counted.
const ASKERS_MAX: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::{Blame::*, *};

    fn asker(number: u32) -> Asker {
        Some(AddressBlock::of(std::net::Ipv4Addr::from_bits(number).into()))
    }

    /// Asks a question if it may be asked.
    fn ask(breaker: &mut Breaker, number: u32, now: Instant) -> Permit {
        let permit = breaker.permit(asker(number), now);
        if permit == Permit::Asks {
            breaker.asks(asker(number), now);
        }
        permit
    }

    /// Returns a breaker that several clients have opened, and the time.
    fn opened() -> (Breaker, Instant) {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        for number in 1..Breaker::FAILURES_MAX {
            assert!(!breaker.failed(asker(number), Application, now) && !breaker.is_open());
        }
        assert!(breaker.failed(asker(0), Application, now) && breaker.is_open());
        (breaker, now)
    }

    #[test]
    fn one_question_in_each_pause() {
        let (mut breaker, now) = opened();
        assert!(!breaker.failed(asker(0), Application, now), "the pauses have begun already");
        assert_eq!(ask(&mut breaker, 99, now), Permit::AllPause);
        let later = now + Breaker::PAUSE;
        assert_eq!(breaker.permit(asker(99), later), Permit::Asks, "a look does not count as a question");
        assert_eq!(ask(&mut breaker, 99, later), Permit::Asks);
        assert_eq!(ask(&mut breaker, 98, later), Permit::AllPause, "one alone");
        assert!(!breaker.failed(asker(99), Application, later));
        assert_eq!(ask(&mut breaker, 98, later + Breaker::PAUSE / 2), Permit::AllPause);
        assert_eq!(ask(&mut breaker, 98, later + Breaker::PAUSE), Permit::Asks);
        assert!(breaker.answered(asker(98)) && !breaker.answered(asker(98)));
        assert_eq!([0, 1, 98, 99].map(|number| ask(&mut breaker, number, later)), [Permit::Asks; 4]);
    }

    /// The client that has asked in vain does not take the next question from the others, and asks if no other does.
    #[test]
    fn clients_take_turns_in_the_pauses() {
        let (mut breaker, now) = opened();
        let mut now = now + Breaker::PAUSE;
        for number in 10..13 {
            assert_eq!(ask(&mut breaker, number, now), Permit::Asks);
            breaker.failed(asker(number), Application, now);
            now += Breaker::PAUSE;
            for earlier in 10..=number {
                assert_eq!(ask(&mut breaker, earlier, now), Permit::AllPause, "{earlier}");
            }
        }
        assert_eq!(ask(&mut breaker, 10, now + Breaker::PAUSE), Permit::Asks, "nobody else has asked");
    }

    /// Failures of one client, and of two, stop the questions of these clients alone.
    #[test]
    fn a_client_stops_only_its_own_questions() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        for _ in 0..100 {
            assert!(!breaker.failed(asker(1), Question, now) && !breaker.failed(asker(2), Application, now));
        }
        assert!(!breaker.is_open());
        assert_eq!(ask(&mut breaker, 1, now), Permit::AskerPauses(Question));
        assert_eq!(ask(&mut breaker, 2, now), Permit::AskerPauses(Application));
        assert_eq!(ask(&mut breaker, 3, now), Permit::Asks);
        let later = now + Breaker::PAUSE;
        assert_eq!(ask(&mut breaker, 1, later), Permit::Asks);
        assert_eq!(ask(&mut breaker, 1, later), Permit::AskerPauses(Question), "one in each pause");
        breaker.answered(asker(1));
        assert_eq!(ask(&mut breaker, 1, later), Permit::Asks);
    }

    #[test]
    fn an_answer_between_failures_begins_the_count_again() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        for round in 0..10 {
            for number in 1..Breaker::FAILURES_MAX {
                breaker.failed(asker(100 * round + number), Application, now);
            }
            assert!(!breaker.answered(asker(7)), "no pauses have begun");
            assert!(!breaker.is_open());
        }
    }

    #[test]
    fn a_crowd_of_failing_clients_takes_no_more_room() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        for number in 0..3 * ASKERS_MAX as u32 {
            breaker.failed(asker(number), Question, now);
            breaker.answered(None);
            assert!(breaker.askers.len() <= ASKERS_MAX);
        }
        (0..Breaker::FAILURES_MAX).for_each(|_| _ = breaker.failed(asker(1), Question, now));
        assert_eq!(breaker.permit(asker(1), now), Permit::AskerPauses(Question));
    }
}
