//! The connections that a drain has yet to close, and how fast it closes them.

use std::collections::{HashSet, VecDeque};

use crate::{hub::ConnectionId, proto::Tick};

/// A drain under way. It closes no connection before every message from before the drain has been gathered, or a
/// quarter of its time is over. Then it closes connections within half of its time, at a pace, so that their clients do
/// not all come to the next server at the same moment.
#[derive(Debug)]
pub(super) struct Drain {
    /// The connections to close, in order. Some may have ended.
    remaining: VecDeque<ConnectionId>,
    /// Connections that the drain has closed and that have not ended.
    closing: HashSet<ConnectionId>,
    ticks: u32,
    stage: Stage,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    /// Messages from before the drain are on their way.
    Gathers {
        /// The latest end of this stage.
        until: Tick,
    },
    /// Connections are closed.
    Closes {
        /// How many in a tick.
        per_tick: usize,
        /// When the next are due.
        next: Tick,
    },
}

impl Drain {
    /// Plans to close the remaining connections within `ticks`.
    pub(super) fn new(now: Tick, remaining: VecDeque<ConnectionId>, ticks: u32) -> Self {
        let until = now.after(ticks.div_ceil(4));
        Drain { remaining, closing: HashSet::new(), ticks, stage: Stage::Gathers { until } }
    }

    /// Begins to close connections, unless it has begun, if every message from before the drain `is_gathered`, or if
    /// the time to gather them is over. Returns whether it begins although messages from before the drain are missing.
    pub(super) fn begin_closing(&mut self, now: Tick, is_gathered: bool) -> bool {
        let Stage::Gathers { until } = self.stage else { return false };
        if is_gathered || until <= now {
            let steps = (self.ticks / 2).max(1) as usize;
            let per_tick = self.remaining.len().div_ceil(steps).max(CLOSES_PER_TICK);
            self.stage = Stage::Closes { per_tick, next: now };
            return !is_gathered;
        }
        false
    }

    /// Takes out the connections that are due to be closed.
    pub(super) fn step(&mut self, now: Tick) -> Vec<ConnectionId> {
        let Stage::Closes { per_tick, next } = &mut self.stage else { return Vec::new() };
        if now < *next {
            return Vec::new();
        }
        let steps = now.since(*next) as usize + 1;
        *next = now.after(1);
        let count = steps.saturating_mul(*per_tick).min(self.remaining.len());
        self.remaining.drain(..count).collect()
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
    /// due; otherwise in the next tick, since the other shards may be done. `is_empty` says whether the shard has no
    /// connections; `remaining` may still have ids of connections that have ended.
    pub(super) fn next_step(&self, now: Tick, is_empty: bool) -> Tick {
        match self.stage {
            Stage::Gathers { until } if !is_empty => until,
            Stage::Closes { next, .. } if !self.remaining.is_empty() => next,
            Stage::Gathers { .. } | Stage::Closes { .. } => now.after(1),
        }
    }
}

/// The least number of connections that are closed in a tick, if there are so many: 1 000 in a second.
const CLOSES_PER_TICK: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a drain that begins at tick 50, and has so much time and so many connections.
    fn drain(ticks: u32, connections: u32) -> Drain {
        Drain::new(Tick(50), (0..connections).map(|slot| ConnectionId::new(0, slot, 0)).collect(), ticks)
    }

    /// Returns how many connections are closed at each tick from this one on, until none is left.
    fn closes(drain: &mut Drain, from: u32) -> Vec<usize> {
        let closed = (from..).map(|tick| drain.step(Tick(tick)).len());
        closed.take_while(|&count| count > 0).collect()
    }

    #[test]
    fn nothing_is_closed_before_everything_is_gathered() {
        let mut drain = drain(100, 250);
        for tick in 50..75 {
            assert!(!drain.begin_closing(Tick(tick), false));
            assert!(drain.step(Tick(tick)).is_empty());
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
            // It has begun: what is gathered later changes nothing.
            assert!(!drain.begin_closing(Tick(last + 1), false), "{ticks}");
        }
    }

    /// However late the closes begin, they take half of the time; ticks in which no turn ran are made up for.
    #[test]
    fn connections_are_closed_over_half_of_the_time() {
        let mut drain = drain(20, 10_000);
        drain.begin_closing(Tick(55), false);
        assert_eq!(closes(&mut drain, 55), [1_000; 10]);
        let mut drain = self::drain(20, 10_000);
        drain.begin_closing(Tick(50), true);
        assert_eq!((drain.step(Tick(50)).len(), drain.step(Tick(50)).len()), (1_000, 0));
        assert_eq!((drain.step(Tick(53)).len(), drain.step(Tick(54)).len()), (3_000, 1_000));
        // Without any time all are closed at once.
        let mut drain = self::drain(0, 10_000);
        assert!(drain.begin_closing(Tick(50), false));
        assert_eq!(closes(&mut drain, 50), [10_000]);
    }

    /// The first are due at once, also within the first tick of a shard's life.
    #[test]
    fn the_first_are_due_at_once() {
        let mut drain = Drain::new(Tick(0), [ConnectionId::new(0, 0, 0)].into(), 100);
        drain.begin_closing(Tick(0), true);
        assert_eq!(drain.step(Tick(0)).len(), 1);
    }

    #[test]
    fn connections_that_come_late_are_closed_too() {
        let mut drain = drain(100, 0);
        drain.add(ConnectionId::new(0, 7, 0));
        drain.begin_closing(Tick(50), true);
        assert_eq!(drain.step(Tick(50)), [ConnectionId::new(0, 7, 0)]);
        assert!(drain.step(Tick(51)).is_empty());
        drain.add(ConnectionId::new(0, 8, 0));
        assert_eq!(drain.step(Tick(52)), [ConnectionId::new(0, 8, 0)]);
    }

    /// A shard without connections looks in each tick whether the others are done, whatever it waits for.
    #[test]
    fn an_empty_shard_looks_at_every_tick() {
        let mut drain = drain(100, 1);
        assert_eq!(drain.next_step(Tick(50), true), Tick(51));
        drain.begin_closing(Tick(50), true);
        drain.step(Tick(50));
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
