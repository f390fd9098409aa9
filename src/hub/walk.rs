//! Walks: the passes of a fan-out over the members of an audience.

use super::run::{FrozenRun, WALK_BYTES};

/// One pass over the members of an audience. A walk owns the run that it hands out. It visits the subscribers that were
/// members when it began, except those that leave before it comes to them.
#[derive(Debug)]
pub(super) struct Walk {
    /// The run that the members are owed.
    pub(super) run: FrozenRun,
    /// The index of the member that is visited first.
    start: u32,
    visited: u32,
    length: u32,
}

const _: () = assert!(size_of::<Walk>() <= WALK_BYTES, "a run weighs the walk that it becomes");

impl Walk {
    /// Returns a walk over this many members. `rotation` decides at which member the walk begins.
    pub(super) fn new(run: FrozenRun, length: u32, rotation: u32) -> Self {
        Walk { run, start: rotation.checked_rem(length).unwrap_or(0), visited: 0, length }
    }

    /// Returns the slot of the next member that has not left.
    #[inline]
    pub(super) fn next(&mut self, members: &[u32]) -> Option<u32> {
        while self.visited < self.length {
            let index = self.start + self.visited;
            self.visited += 1;
            let index = if index < self.length { index } else { index - self.length };
            let slot = members[index as usize];
            if slot != VACANT {
                return Some(slot);
            }
        }
        None
    }

    /// Undoes the last [`Walk::next`]: the next call returns the same member once more.
    pub(super) fn step_back(&mut self) {
        assert!(self.visited > 0, "a member was returned before");
        self.visited -= 1;
    }

    /// Returns how many members the audience had when the walk began.
    pub(super) fn length(&self) -> u32 {
        self.length
    }

    /// Returns whether the member at this index is still to be visited.
    pub(super) fn has_yet_to_visit(&self, index: u32) -> bool {
        let position = if index >= self.start { index - self.start } else { index + self.length - self.start };
        position >= self.visited
    }
}

/// The slot that stands for a member that has left during a walk.
pub(super) const VACANT: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_visits_every_member_once_from_its_start() {
        let mut walk = Walk::new(FrozenRun::default(), 4, 6);
        let members = [10, VACANT, 12, 13];
        assert_eq!(walk.next(&members), Some(12));
        assert!(!walk.has_yet_to_visit(2) && walk.has_yet_to_visit(3) && walk.has_yet_to_visit(0));
        walk.step_back();
        assert!(walk.has_yet_to_visit(2));
        let visited: Vec<u32> = std::iter::from_fn(|| walk.next(&members)).collect();
        assert_eq!(visited, [12, 13, 10]);
        assert!((0..4).all(|index| !walk.has_yet_to_visit(index)));
    }

    #[test]
    fn a_walk_over_nobody_ends_at_once() {
        assert_eq!(Walk::new(FrozenRun::default(), 0, 7).next(&[]), None);
    }
}
