//! Deadlines of all connections, on one coarse wheel.

use crate::{hub::ConnectionId, proto::Tick};

/// A wheel of ticks. An entry is only the time of the next look at a connection. The connection's deadline may have
/// moved by then, so each look enters the next look. So traffic costs nothing here, and an idle connection costs one
/// entry of 8 bytes.
#[derive(Debug)]
pub(super) struct Wheel {
    /// One list for each tick of the span, by the tick's remainder.
    lists: Box<[Vec<ConnectionId>]>,
    /// The last tick that was taken out.
    now: Tick,
}

impl Wheel {
    pub(super) fn new(now: Tick) -> Self {
        Wheel { lists: (0..SPAN).map(|_| Vec::new()).collect(), now }
    }

    /// Enters a look at the connection at the tick `at`, or earlier if the wheel does not span so far. Returns the tick
    /// of the entry, which distinguishes the entry from older ones.
    pub(super) fn insert(&mut self, at: Tick, id: ConnectionId) -> Tick {
        let at = at.clamp(self.now.after(1), self.now.after(SPAN - 1));
        self.lists[(at.0 % SPAN) as usize].push(id);
        at
    }

    /// Takes out the entries that have come due, each with its tick.
    pub(super) fn advance(&mut self, now: Tick, due: &mut Vec<(Tick, ConnectionId)>) {
        // After a long sleep one revolution of the wheel passes all lists.
        let steps = now.since(self.now);
        for _ in 0..steps.min(SPAN) {
            let tick = self.now.after(1);
            let list = std::mem::take(&mut self.lists[(tick.0 % SPAN) as usize]);
            due.extend(list.into_iter().map(|id| (tick, id)));
            self.now = tick;
        }
        self.now = self.now.max(now);
    }

    /// Returns the next tick that has an entry.
    pub(super) fn next(&self) -> Option<Tick> {
        (1..SPAN).map(|ticks| self.now.after(ticks)).find(|tick| !self.lists[(tick.0 % SPAN) as usize].is_empty())
    }
}

/// Ticks on the wheel: 51 seconds, longer than the default ping interval.
const SPAN: u32 = 512;

#[cfg(test)]
mod tests {
    use super::*;

    fn id(slot: u32) -> ConnectionId {
        ConnectionId::new(0, slot, 0)
    }

    fn due(wheel: &mut Wheel, now: u32) -> Vec<(u32, u32)> {
        let mut due = Vec::new();
        wheel.advance(Tick(now), &mut due);
        due.into_iter().map(|(tick, id)| (tick.0, id.slot())).collect()
    }

    #[test]
    fn entries_come_due_in_order() {
        let mut wheel = Wheel::new(Tick(1_000));
        assert_eq!(wheel.next(), None);
        for (at, slot) in [(1_005, 5), (1_002, 2), (1_005, 6)] {
            assert_eq!(wheel.insert(Tick(at), id(slot)), Tick(at));
        }
        assert_eq!(wheel.next(), Some(Tick(1_002)));
        assert_eq!(due(&mut wheel, 1_001), []);
        assert_eq!(due(&mut wheel, 1_005), [(1_002, 2), (1_005, 5), (1_005, 6)]);
        assert_eq!(wheel.next(), None);
    }

    #[test]
    fn a_past_deadline_comes_next_and_a_far_one_early() {
        let mut wheel = Wheel::new(Tick(1_000));
        assert_eq!(wheel.insert(Tick(5), id(1)), Tick(1_001));
        let early = wheel.insert(Tick(900_000), id(2));
        assert!(early > Tick(1_400) && early < Tick(1_000 + SPAN));
        assert_eq!(due(&mut wheel, 1_001), [(1_001, 1)]);
        assert_eq!(due(&mut wheel, 1_000_000), [(early.0, 2)]);
    }
}
