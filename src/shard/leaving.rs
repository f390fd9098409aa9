//! The connections that a drain has yet to close, and how fast it closes them.

use std::collections::{HashSet, VecDeque};

use crate::{hub::ConnectionId, proto::Tick};

/// A drain under way. A drain closes connections only when every message from before the drain has been gathered, or
/// when the time to gather them is over. This time is a quarter of the drain's time, or up to half of it while the
/// shard has mail to take. Then the drain closes its connections at a pace, so that their clients do not all come to
/// the next server at the same moment. The closes take up to half of the drain's time, or up to a quarter if gathering
/// took more than a quarter. A connection whose publications wait for their answers is closed later, by an eighth of
/// the drain's time at most.
#[derive(Debug)]
pub(super) struct Drain {
    /// The connections to close, in order. Some may have ended.
    remaining: VecDeque<ConnectionId>,
    /// The connections that are due, and whose publications wait for their answers; each with the tick from which on
    /// it waits no more.
    asking: VecDeque<(Tick, ConnectionId)>,
    /// Connections that the drain has closed and that have not ended.
    closing: HashSet<ConnectionId>,
    ticks: u32,
    stage: Stage,
    /// The state of a generator of random numbers (xorshift64*), never 0.
    random: u64,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    /// Messages from before the drain are on their way.
    Gathers {
        since: Tick,
        /// When the shard last had mail to take.
        last_mail: Tick,
    },
    /// The drain closes connections.
    Closes {
        /// How many connections are closed in a tick.
        per_tick: usize,
        /// When the next connections are due.
        next: Tick,
    },
}

impl Drain {
    /// Plans to close the remaining connections within `ticks`. The times of the retry hints follow from `seed`, a
    /// random number.
    pub(super) fn new(now: Tick, remaining: VecDeque<ConnectionId>, ticks: u32, seed: u64) -> Self {
        let stage = Stage::Gathers { since: now, last_mail: now };
        let asking = VecDeque::new();
        Drain { remaining, asking, closing: HashSet::new(), ticks, stage, random: seed.max(1) }
    }

    /// Returns the milliseconds after which the next client that is told should connect again: a random time, so that
    /// clients that were told at the same moment do not come at the same moment.
    pub(super) fn next_retry(&mut self) -> u32 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        let random = self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        let most = self.ticks.saturating_mul(Tick::MILLIS as u32).min(RETRY_MS_MAX);
        ((random * (u64::from(most) + 1)) >> 32) as u32
    }

    /// Returns whether messages from before the drain are on their way.
    pub(super) fn is_gathering(&self) -> bool {
        matches!(self.stage, Stage::Gathers { .. })
    }

    /// Notes that the shard has mail to take, or has taken some: messages from before the drain may be among it.
    pub(super) fn note_mail(&mut self, now: Tick) {
        if let Stage::Gathers { last_mail, .. } = &mut self.stage {
            *last_mail = now;
        }
    }

    /// Returns the tick at which gathering ends at the latest if no more mail comes; `None` if gathering has ended.
    fn gathers_until(&self) -> Option<Tick> {
        let Stage::Gathers { since, last_mail } = self.stage else { return None };
        let (quarter, half) = (since.after(self.ticks.div_ceil(4)), since.after(self.ticks.div_ceil(2)));
        Some(if last_mail == since { quarter } else { quarter.max(last_mail.after(MAIL_TICKS)).min(half) })
    }

    /// Begins to close connections if every message from before the drain `is_gathered`, or the time to gather them is
    /// over. Does nothing if closing has begun. Returns whether closing begins although messages from before the drain
    /// are missing.
    pub(super) fn begin_closing(&mut self, now: Tick, is_gathered: bool) -> bool {
        let (Stage::Gathers { since, .. }, Some(until)) = (self.stage, self.gathers_until()) else { return false };
        if is_gathered || until <= now {
            let is_late = now > since.after(self.ticks.div_ceil(4));
            let steps = (self.ticks / if is_late { 4 } else { 2 }).max(1) as usize;
            let per_tick = self.remaining.len().div_ceil(steps).max(CLOSES_PER_TICK);
            self.stage = Stage::Closes { per_tick, next: now };
            return !is_gathered;
        }
        false
    }

    /// Takes out the connections that are due to be closed. `asking` returns those whose publications wait for their
    /// answers.
    pub(super) fn step(&mut self, now: Tick, asking: impl FnOnce() -> HashSet<ConnectionId>) -> Vec<ConnectionId> {
        let Stage::Closes { per_tick, next } = &mut self.stage else { return Vec::new() };
        if now < *next {
            return Vec::new();
        }
        let steps = now.since(*next) as usize + 1;
        *next = now.after(1);
        let count = steps.saturating_mul(*per_tick).min(self.remaining.len());
        if count == 0 && self.asking.is_empty() {
            return Vec::new();
        }
        let (until, asking) = (now.after(self.ticks / 8), asking());
        self.asking.extend(self.remaining.drain(..count).map(|id| (until, id)));
        let is_due = |&(until, id): &(Tick, ConnectionId)| until <= now || !asking.contains(&id);
        let due = self.asking.iter().filter(|waiting| is_due(waiting)).map(|(_, id)| *id).collect();
        self.asking.retain(|waiting| !is_due(waiting));
        due
    }

    /// Adds a connection that was accepted before the drain and is established only now.
    pub(super) fn add(&mut self, id: ConnectionId) {
        self.remaining.push_back(id);
    }

    /// Notes that the drain has closed a connection.
    pub(super) fn note_closing(&mut self, id: ConnectionId) {
        self.closing.insert(id);
    }

    /// Notes the end of a connection. Returns whether the drain has closed it.
    pub(super) fn note_end(&mut self, id: ConnectionId) -> bool {
        self.closing.remove(&id)
    }

    /// Returns when the shard has to look at the drain again: when gathering must end, or when the next connections are
    /// due. A shard without connections, or with none left to close, looks in every tick, since the drain ends when the
    /// other shards are done too. `is_empty` says whether the shard has no connections; `remaining` may still have ids
    /// of connections that have ended.
    pub(super) fn next_step(&self, now: Tick, is_empty: bool) -> Tick {
        match self.stage {
            Stage::Closes { next, .. } if !(self.remaining.is_empty() && self.asking.is_empty()) => next,
            _ => self.gathers_until().filter(|_| !is_empty).unwrap_or(now.after(1)),
        }
    }
}

/// The longest time of a retry hint, in milliseconds. A drain may last much longer, and then spreads its closes itself.
const RETRY_MS_MAX: u32 = 10_000;

/// The least number of connections that are closed in a tick, if there are so many: 1 000 in a second.
const CLOSES_PER_TICK: usize = 100;

/// Once a quarter of the drain's time is over, a shard that has had no mail for so many ticks stops gathering.
const MAIL_TICKS: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a drain that begins at tick 50, and has so much time and so many connections.
    fn drain(ticks: u32, connections: u32) -> Drain {
        Drain::new(Tick(50), (0..connections).map(|slot| ConnectionId::new(0, slot, 0)).collect(), ticks, 7)
    }

    /// Returns how many connections are closed at each tick from this one on, until none is left.
    fn closes(drain: &mut Drain, from: u32) -> Vec<usize> {
        let closed = (from..).map(|tick| drain.step(Tick(tick), HashSet::new).len());
        closed.take_while(|&count| count > 0).collect()
    }

    #[test]
    fn nothing_is_closed_before_everything_is_gathered() {
        let mut drain = drain(100, 250);
        for tick in 50..75 {
            assert!(!drain.begin_closing(Tick(tick), false));
            assert!(drain.step(Tick(tick), HashSet::new).is_empty());
            assert_eq!(drain.next_step(Tick(tick), false), Tick(75));
        }
        assert!(!drain.begin_closing(Tick(74), true), "nothing is missing");
        assert_eq!(drain.next_step(Tick(74), false), Tick(74));
        assert_eq!(closes(&mut drain, 74), [100, 100, 50]);
    }

    #[test]
    fn a_quarter_of_the_time_is_the_most_that_is_waited() {
        for (ticks, quarter) in [(0, 0), (1, 1), (4, 1), (5, 2), (100, 25)] {
            let mut drain = drain(ticks, 1);
            let last = 50 + quarter;
            assert_eq!(drain.next_step(Tick(50), false), Tick(last), "{ticks}");
            assert!((50..last).all(|tick| !drain.begin_closing(Tick(tick), false)), "{ticks}");
            assert!(drain.begin_closing(Tick(last), false), "{ticks}");
            assert_eq!(closes(&mut drain, last), [1], "{ticks}");
            // Closing has begun: messages that are gathered later change nothing.
            assert!(!drain.begin_closing(Tick(last + 1), false), "{ticks}");
        }
    }

    /// While mail is taken, the shard waits for more than a quarter of the time, and for half at most. Then closes take
    /// a quarter.
    #[test]
    fn a_shard_that_takes_mail_waits_for_half_of_the_time() {
        for (last_mail, end) in [(50, 75), (60, 75), (74, 76), (90, 92), (99, 100), (120, 100)] {
            let mut drain = drain(100, 1);
            (50..=last_mail).for_each(|tick| drain.note_mail(Tick(tick)));
            let closes_at = (50..).find(|&tick| drain.begin_closing(Tick(tick), false));
            assert_eq!(closes_at, Some(end), "the last mail at {last_mail}");
            assert!(!drain.is_gathering());
        }
        let mut late = drain(100, 5_000);
        (50..75).for_each(|tick| late.note_mail(Tick(tick)));
        assert!(!late.begin_closing(Tick(76), true));
        assert_eq!(closes(&mut late, 76), [200; 25]);
    }

    /// If closing begins within a quarter of the time, more than 100 connections a tick are closed over half of the
    /// time. A later tick makes up for ticks in which no turn ran.
    #[test]
    fn connections_are_closed_over_half_of_the_time() {
        let mut drain = drain(20, 10_000);
        drain.begin_closing(Tick(55), false);
        assert_eq!(closes(&mut drain, 55), [1_000; 10]);
        let mut drain = self::drain(20, 10_000);
        drain.begin_closing(Tick(50), true);
        assert_eq!((drain.step(Tick(50), HashSet::new).len(), drain.step(Tick(50), HashSet::new).len()), (1_000, 0));
        assert_eq!(
            (drain.step(Tick(53), HashSet::new).len(), drain.step(Tick(54), HashSet::new).len()),
            (3_000, 1_000)
        );
        // A drain without any time closes all connections at once.
        let mut drain = self::drain(0, 10_000);
        assert!(drain.begin_closing(Tick(50), false));
        assert_eq!(closes(&mut drain, 50), [10_000]);
    }

    /// The hints spread over the time of the drain, and over ten seconds at most.
    #[test]
    fn retry_hints_are_spread() {
        for (ticks, most) in [(0, 0), (1, 100), (20, 2_000), (100, 10_000), (36_000, 10_000), (u32::MAX, 10_000)] {
            let mut drain = drain(ticks, 0);
            let hints: Vec<u32> = (0..1_000).map(|_| drain.next_retry()).collect();
            let quarters = hints.iter().map(|hint| (hint * 4 / (most + 1)) as usize);
            let mut counts = [0; 4];
            quarters.for_each(|quarter| counts[quarter] += 1);
            let is_even = most == 0 || counts.iter().all(|count| (200..300).contains(count));
            assert!(is_even && hints.iter().all(|hint| *hint <= most), "{ticks}: {counts:?}");
        }
    }

    /// A connection whose publications wait for their answers is closed when they have come, or after an eighth of the
    /// time. The others are closed as always.
    #[test]
    fn connections_wait_for_the_answers_to_their_publications() {
        let mut drain = drain(80, 3);
        let [one, two, three] = [0, 1, 2].map(|slot| ConnectionId::new(0, slot, 0));
        drain.begin_closing(Tick(50), true);
        assert_eq!(drain.step(Tick(50), || [one, two].into()), [three]);
        assert_eq!(drain.next_step(Tick(50), false), Tick(51));
        assert!(drain.step(Tick(50), || panic!("once in a tick")).is_empty());
        assert!(drain.step(Tick(51), || [one, two].into()).is_empty());
        assert_eq!(drain.step(Tick(55), || [two].into()), [one]);
        assert!(drain.step(Tick(59), || [two].into()).is_empty());
        assert_eq!(drain.step(Tick(60), || [two].into()), [two]);
        assert_eq!(drain.next_step(Tick(60), true), Tick(61));
        assert!(drain.step(Tick(61), || panic!("nobody is left to close")).is_empty());
        // A drain without any time waits for nobody.
        let mut drain = self::drain(0, 1);
        drain.begin_closing(Tick(50), true);
        assert_eq!(drain.step(Tick(50), || [one].into()), [one]);
    }

    /// The first connections are due at once, also within the first tick of a shard's life.
    #[test]
    fn the_first_are_due_at_once() {
        let mut drain = Drain::new(Tick(0), [ConnectionId::new(0, 0, 0)].into(), 100, 0);
        drain.begin_closing(Tick(0), true);
        assert_eq!(drain.step(Tick(0), HashSet::new).len(), 1);
    }

    #[test]
    fn connections_that_come_late_are_closed_too() {
        let mut drain = drain(100, 0);
        drain.add(ConnectionId::new(0, 7, 0));
        drain.begin_closing(Tick(50), true);
        assert_eq!(drain.step(Tick(50), HashSet::new), [ConnectionId::new(0, 7, 0)]);
        assert!(drain.step(Tick(51), HashSet::new).is_empty());
        drain.add(ConnectionId::new(0, 8, 0));
        assert_eq!(drain.step(Tick(52), HashSet::new), [ConnectionId::new(0, 8, 0)]);
    }

    /// A shard without connections looks in each tick whether the others are done, whatever it waits for.
    #[test]
    fn an_empty_shard_looks_at_every_tick() {
        let mut drain = drain(100, 1);
        assert_eq!(drain.next_step(Tick(50), true), Tick(51));
        drain.begin_closing(Tick(50), true);
        drain.step(Tick(50), HashSet::new);
        assert_eq!(drain.next_step(Tick(50), true), Tick(51));
    }

    #[test]
    fn only_connections_that_the_drain_has_closed_have_left_it() {
        let mut drain = drain(100, 2);
        let [one, two] = [0, 1].map(|slot| ConnectionId::new(0, slot, 0));
        drain.note_closing(one);
        assert_eq!((drain.note_end(one), drain.note_end(one), drain.note_end(two)), (true, false, false));
    }
}
