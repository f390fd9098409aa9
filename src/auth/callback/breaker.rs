//! Stops questions to an application that does not answer, so that not every request waits for its timeout.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use crate::rates::{AddressBlock, NetworkBlock};

/// The clients that ask as one: those of an address, or of a /64 of IPv6. `None` stands for clients without an address.
pub(super) type Asker = Option<AddressBlock>;

/// Counts the questions in a row that have failed: those of all clients, and those of each client. After too many,
/// questions pause: at most one is asked in each [`Breaker::PAUSE`].
///
/// | questions pause | after | until |
/// | --- | --- | --- |
/// | of all: an outage | [`Breaker::FAILURES_MAX`] [`Blame::Application`] in a row, of several networks | any answer |
/// | of one client | [`Breaker::FAILURES_MAX`] failures of its questions in a row | an answer to this client |
///
/// The end of an outage also ends the pauses of single clients whose last question got no answer, and a full table
/// forgets clients and their pauses. That the application says it has failed at a question ([`Blame::Question`]) is an
/// answer for an outage, and a failure for the client. A client may find such a question, and stops its own questions
/// alone.
///
/// In an outage, clients take turns. The next question may be asked at once by a client of a network that has not asked
/// in this outage, half a pause later also by one of the network that has asked longest ago, and after a whole pause by
/// any. If another network asks after a whole pause, the network that has asked longest ago goes to the end. So a crowd
/// of clients whose questions are never answered, and that ask as soon as they may, does not keep the others from
/// asking.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    /// The failures of all clients in a row for which the application is to blame.
    failures: u32,
    /// The first networks of these failures, at most [`Breaker::NETWORKS_MIN`].
    failing: Vec<Network>,
    /// When the next question may be asked, in an outage.
    next: Option<Instant>,
    /// The networks that have asked in this outage, the last one at the end, at most [`PROBERS_MAX`].
    probers: VecDeque<Network>,
    /// The clients whose last question has failed, at most [`ASKERS_MAX`].
    askers: HashMap<Asker, Failing>,
}

/// The clients that count as one where there have to be several. `None` stands for clients without an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Network(Option<NetworkBlock>);

impl Network {
    fn of(asker: Asker) -> Network {
        Network(asker.map(NetworkBlock::of))
    }
}

/// A client whose last question has failed.
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
    /// Perhaps the question: the application has answered with a status of failure.
    Question,
}

/// Whether a question may be asked, and if not, why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Permit {
    /// The question may be asked.
    Asks,
    /// Questions of this client pause. The cause is that of the client's last failure.
    AskerPauses(Blame),
    /// Questions of all clients pause, in an outage.
    AllPause,
}

impl Breaker {
    pub(super) const FAILURES_MAX: u32 = 5;
    pub(super) const PAUSE: Duration = Duration::from_secs(1);
    /// The fewest networks whose failures begin an outage.
    pub(super) const NETWORKS_MIN: usize = 3;

    /// Returns whether there is an outage: the circuit breaker is open.
    pub(super) fn is_open(&self) -> bool {
        self.next.is_some()
    }

    /// Returns whether a client's question may be asked now.
    pub(super) fn permit(&self, asker: Asker, now: Instant) -> Permit {
        if let Some(next) = self.next {
            // Most questions come before `next`, and need no look at the networks.
            let pauses = now < next || now < next + self.wait(Network::of(asker));
            return if pauses { Permit::AllPause } else { Permit::Asks };
        }
        match self.askers.get(&asker) {
            Some(failing) if failing.failures >= Self::FAILURES_MAX && now < failing.next => {
                Permit::AskerPauses(failing.blame)
            }
            _ => Permit::Asks,
        }
    }

    /// Returns whether questions of a client pause because the application does not answer: those of all clients, or
    /// those of this client. It is also true for the one question that may be asked in each pause.
    pub(super) fn is_outage_for(&self, asker: Asker) -> bool {
        let failing = self.askers.get(&asker).filter(|failing| failing.failures >= Self::FAILURES_MAX);
        self.is_open() || failing.is_some_and(|failing| failing.blame == Blame::Application)
    }

    /// Notes that a client's question is asked now, which [`Breaker::permit`] has permitted.
    pub(super) fn asks(&mut self, asker: Asker, now: Instant) {
        let network = Network::of(asker);
        if let Some(next) = &mut self.next {
            let has_passed_oldest = now >= *next + Self::PAUSE;
            *next = now + Self::PAUSE;
            if has_passed_oldest && let Some(oldest) = self.probers.pop_front() {
                self.probers.push_back(oldest);
            }
            self.probers.retain(|prober| *prober != network);
            self.probers.push_back(network);
            if self.probers.len() > PROBERS_MAX {
                self.probers.pop_front();
            }
        }
        if let Some(failing) = self.askers.get_mut(&asker) {
            failing.next = now + Self::PAUSE;
        }
    }

    /// Returns for how long the clients of a network wait in an outage, after the time at which others may ask.
    fn wait(&self, network: Network) -> Duration {
        match self.probers.iter().position(|prober| *prober == network) {
            None => Duration::ZERO,
            Some(0) => Self::PAUSE / 2,
            Some(_) => Self::PAUSE,
        }
    }

    /// Notes that the application has answered a client's question. Returns whether this ends an outage.
    pub(super) fn answered(&mut self, asker: Asker) -> bool {
        self.askers.remove(&asker);
        self.end_outage()
    }

    /// Notes that the application has failed at a client's question, and has said so. Returns whether this ends an
    /// outage: the application can be reached.
    pub(super) fn failed(&mut self, asker: Asker, now: Instant) -> bool {
        self.count(asker, Blame::Question, now);
        self.end_outage()
    }

    /// Notes that the application has not answered a client's question. Returns whether this begins an outage.
    pub(super) fn unanswered(&mut self, asker: Asker, now: Instant) -> bool {
        self.count(asker, Blame::Application, now);
        self.failures = self.failures.saturating_add(1);
        let network = Network::of(asker);
        if self.failing.len() < Self::NETWORKS_MIN && !self.failing.contains(&network) {
            self.failing.push(network);
        }
        if self.failures < Self::FAILURES_MAX || self.failing.len() < Self::NETWORKS_MIN {
            return false;
        }
        self.next.replace(now + Self::PAUSE).is_none()
    }

    /// Counts a failure of a client.
    fn count(&mut self, asker: Asker, blame: Blame, now: Instant) {
        self.make_room(asker, now);
        let next = now + Self::PAUSE;
        let failing = self.askers.entry(asker).or_insert(Failing { failures: 0, blame, next });
        *failing = Failing { failures: failing.failures.saturating_add(1), blame, next };
    }

    /// Ends the outage, if there is one, and begins the count of all clients' failures again. Returns whether there was
    /// an outage. Its end also ends the pauses of single clients whose last question got no answer.
    fn end_outage(&mut self) -> bool {
        self.failures = 0;
        self.failing.clear();
        let was_open = self.next.take().is_some();
        if was_open {
            self.probers.clear();
            self.askers.retain(|_, failing| failing.blame == Blame::Question);
        }
        was_open
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

/// The most networks that take turns in an outage after those that have not asked in it.
const PROBERS_MAX: usize = 1_024;

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
            assert!(!breaker.unanswered(asker(number), now) && !breaker.is_open());
        }
        assert!(breaker.unanswered(asker(0), now) && breaker.is_open());
        (breaker, now)
    }

    #[test]
    fn one_question_in_each_pause() {
        let (mut breaker, now) = opened();
        assert!(!breaker.unanswered(asker(0), now), "the outage has begun already");
        assert_eq!(ask(&mut breaker, 99, now), Permit::AllPause);
        let later = now + Breaker::PAUSE;
        assert_eq!(breaker.permit(asker(99), later), Permit::Asks, "a look does not count as a question");
        assert_eq!(ask(&mut breaker, 99, later), Permit::Asks);
        assert_eq!(ask(&mut breaker, 98, later), Permit::AllPause, "one alone");
        assert!(!breaker.unanswered(asker(99), later));
        assert_eq!(ask(&mut breaker, 98, later + Breaker::PAUSE / 2), Permit::AllPause);
        assert_eq!(ask(&mut breaker, 98, later + Breaker::PAUSE), Permit::Asks);
        assert!(breaker.answered(asker(98)) && !breaker.answered(asker(98)));
        assert_eq!([0, 1, 98, 99].map(|number| ask(&mut breaker, number, later)), [Permit::Asks; 4]);
    }

    /// A client that has asked in vain does not take the next question from the others, and asks if no other does.
    #[test]
    fn clients_take_turns_in_the_pauses() {
        let (mut breaker, now) = opened();
        let mut now = now + Breaker::PAUSE;
        for number in 10..20 {
            assert_eq!(ask(&mut breaker, number, now), Permit::Asks);
            now += Breaker::PAUSE;
            for earlier in 10..=number {
                assert_eq!(ask(&mut breaker, earlier, now), Permit::AllPause, "{earlier}");
            }
        }
        for number in (10..20).chain(10..20) {
            now += Breaker::PAUSE / 2;
            for other in (10..20).filter(|other| *other != number) {
                assert_eq!(ask(&mut breaker, other, now), Permit::AllPause, "{other} instead of {number}");
            }
            assert_eq!(ask(&mut breaker, number, now), Permit::Asks, "it has asked longest ago");
            now += Breaker::PAUSE;
        }
        assert_eq!(ask(&mut breaker, 19, now + Breaker::PAUSE), Permit::Asks, "nobody else has asked");
    }

    /// A crowd that asks as soon as it may leaves a part of each round to a client that asks now and then, and so does
    /// a crowd whose oldest client never asks.
    #[test]
    fn a_crowd_does_not_keep_a_client_from_asking() {
        for crowd in [8, 40] {
            let (mut breaker, mut now) = opened();
            let tick = Breaker::PAUSE / 10;
            let mut asked = Vec::new();
            for round in 0..1_000 * crowd {
                now += tick;
                // The client comes once in 1.3 pauses, after all others. One of the crowd asks once.
                let client = (round % 13 == 0).then_some(99);
                let crowd = (1..crowd).filter(|number| *number != 1 || !asked.contains(&1));
                for number in crowd.chain(client).collect::<Vec<u32>>() {
                    if ask(&mut breaker, number, now) == Permit::Asks {
                        asked.push(number);
                        breaker.unanswered(asker(number), now);
                    }
                }
            }
            let count = asked.iter().filter(|number| **number == 99).count();
            assert!(count > 10, "{count} of {}, {crowd}", asked.len());
        }
    }

    /// The clients of a site of IPv6 are one network.
    #[test]
    fn a_site_takes_one_turn() {
        let of = |text: &str| Some(AddressBlock::of(text.parse().unwrap()));
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        for number in 0..100 {
            assert!(!breaker.unanswered(of(&format!("2001:db8:1:{number}::1")), now));
        }
        breaker.unanswered(of("2001:db8:2::1"), now);
        assert!(breaker.unanswered(of("192.0.2.1"), now), "the third network");
        let later = now + Breaker::PAUSE;
        breaker.asks(of("2001:db8:1:a::1"), later);
        let later = later + Breaker::PAUSE;
        assert_eq!(breaker.permit(of("2001:db8:1:b::1"), later), Permit::AllPause);
        assert_eq!(breaker.permit(of("2001:db8:2:b::1"), later), Permit::Asks);
    }

    /// Failures of one client, and of two, stop the questions of these clients alone.
    #[test]
    fn a_client_stops_only_its_own_questions() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        for _ in 0..100 {
            assert!(!breaker.failed(asker(1), now));
        }
        for _ in 0..100 {
            assert!(!breaker.unanswered(asker(2), now));
        }
        assert!(!breaker.is_open());
        assert_eq!(ask(&mut breaker, 1, now), Permit::AskerPauses(Question));
        assert_eq!(ask(&mut breaker, 2, now), Permit::AskerPauses(Application));
        assert_eq!(ask(&mut breaker, 3, now), Permit::Asks);
        assert_eq!([1, 2, 3].map(|number| breaker.is_outage_for(asker(number))), [false, true, false]);
        let later = now + Breaker::PAUSE;
        assert_eq!(ask(&mut breaker, 1, later), Permit::Asks);
        assert_eq!(ask(&mut breaker, 1, later), Permit::AskerPauses(Question), "one in each pause");
        assert_eq!(ask(&mut breaker, 2, later), Permit::Asks);
        assert!(breaker.is_outage_for(asker(2)), "for this question too");
        breaker.answered(asker(1));
        breaker.answered(asker(2));
        assert_eq!(ask(&mut breaker, 1, later), Permit::Asks);
        assert!(!breaker.is_outage_for(asker(2)));
    }

    /// Questions at which the application fails neither begin an outage nor keep it up, whoever asks them.
    #[test]
    fn bad_questions_of_many_clients_stop_nobody_else() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        for number in (0..100).flat_map(|number| [number; 6]) {
            assert!(!breaker.failed(asker(number), now) && !breaker.is_open());
            assert!(number % 2 == 0 || !breaker.unanswered(asker(500 + number % 5), now), "an answer came before");
        }
        assert_eq!(ask(&mut breaker, 1_000, now), Permit::Asks);
        let (mut breaker, now) = opened();
        assert!(breaker.is_outage_for(asker(99)));
        let later = now + Breaker::PAUSE;
        assert_eq!(ask(&mut breaker, 99, later), Permit::Asks);
        assert!(breaker.failed(asker(99), later) && !breaker.is_open() && !breaker.is_outage_for(asker(0)));
        assert_eq!([0, 1, 98].map(|number| ask(&mut breaker, number, later)), [Permit::Asks; 3]);
    }

    #[test]
    fn an_answer_between_failures_begins_the_count_again() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        for round in 0..10 {
            for number in 1..Breaker::FAILURES_MAX {
                breaker.unanswered(asker(100 * round + number), now);
            }
            assert!(!breaker.answered(asker(7)), "there was no outage");
            assert!(!breaker.is_open());
        }
    }

    #[test]
    fn a_crowd_of_failing_clients_takes_no_more_room() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        for number in 0..3 * ASKERS_MAX as u32 {
            breaker.failed(asker(number), now);
            assert!(breaker.askers.len() <= ASKERS_MAX);
        }
        (0..Breaker::FAILURES_MAX).for_each(|_| _ = breaker.failed(asker(1), now));
        assert_eq!(breaker.permit(asker(1), now), Permit::AskerPauses(Question));
        let (mut breaker, now) = opened();
        for number in 0..2 * PROBERS_MAX as u32 {
            breaker.asks(asker(number), now);
            assert!(breaker.probers.len() <= PROBERS_MAX);
        }
    }
}
