//! The watches of an epoll instance: for each slot its last owner, and what the owner waits for.

use crate::sys::Key;

/// The owner of each slot whose socket is watched, and whether the owner waits for room. A report of an earlier owner
/// is recognised by its generation.
#[derive(Debug, Default)]
pub(super) struct Watches {
    by_slot: Vec<Watch>,
    /// The number of slots whose sockets are watched.
    count: u64,
}

/// 24 bits generation, then flags. 0 stands for a slot without an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Watch(u32);

impl Watches {
    /// The largest generation.
    pub(super) const GENERATION_MAX: u32 = (1 << 24) - 1;

    /// Returns the number of sockets that are watched.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Notes that the socket of `key` is watched. A wait for room that an earlier watch of the same key began goes on.
    pub(super) fn begin(&mut self, key: Key) {
        let slot = key.slot as usize;
        if self.by_slot.len() <= slot {
            self.by_slot.resize(slot + 1, Watch::default());
        }
        let watch = &mut self.by_slot[slot];
        self.count += u64::from(!watch.is_owned());
        if !watch.is_of(key) {
            *watch = Watch::of(key);
        }
    }

    /// Notes that the socket of `key` is not watched any more.
    pub(super) fn end(&mut self, key: Key) {
        if let Some(watch) = self.of(key) {
            *watch = Watch::default();
            self.count -= 1;
        }
    }

    /// Notes that the owner waits for room. Returns whether its socket is watched.
    pub(super) fn await_room(&mut self, key: Key) -> bool {
        let watch = self.of(key);
        let is_watched = watch.is_some();
        if let Some(watch) = watch {
            watch.0 |= Watch::AWAITS_ROOM;
        }
        is_watched
    }

    /// Returns whether `key` is the slot's owner.
    pub(super) fn has(&mut self, key: Key) -> bool {
        self.of(key).is_some()
    }

    /// Ends the owner's wait for room. Returns whether there was one.
    pub(super) fn take_wait(&mut self, key: Key) -> bool {
        let Some(watch) = self.of(key) else { return false };
        let waited = watch.0 & Watch::AWAITS_ROOM != 0;
        watch.0 &= !Watch::AWAITS_ROOM;
        waited
    }

    fn of(&mut self, key: Key) -> Option<&mut Watch> {
        self.by_slot.get_mut(key.slot as usize).filter(|watch| watch.is_of(key))
    }
}

impl Watch {
    const OWNED: u32 = 1;
    const AWAITS_ROOM: u32 = 2;

    fn of(key: Key) -> Watch {
        debug_assert!(key.generation <= Watches::GENERATION_MAX);
        Watch(key.generation << 8 | Self::OWNED)
    }

    fn is_owned(self) -> bool {
        self.0 & Self::OWNED != 0
    }

    fn is_of(self, key: Key) -> bool {
        self.0 & !Self::AWAITS_ROOM == Self::of(key).0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(slot: u32, generation: u32) -> Key {
        Key { slot, generation }
    }

    #[test]
    fn a_wait_for_room_belongs_to_one_owner_and_ends_once() {
        let mut watches = Watches::default();
        assert!(!watches.await_room(key(3, 0)), "nobody owns the slot");
        watches.begin(key(3, 0));
        assert!(watches.await_room(key(3, 0)) && !watches.await_room(key(3, 1)));
        assert!(!watches.take_wait(key(3, 1)) && watches.take_wait(key(3, 0)) && !watches.take_wait(key(3, 0)));
        watches.await_room(key(3, 0));
        watches.begin(key(3, 0));
        assert!(watches.take_wait(key(3, 0)), "a watch that begins again keeps the wait");
        watches.await_room(key(3, 0));
        watches.end(key(3, 0));
        watches.begin(key(3, Watches::GENERATION_MAX));
        assert!(!watches.take_wait(key(3, Watches::GENERATION_MAX)) && !watches.has(key(3, 0)));
    }

    #[test]
    fn watches_are_counted_by_their_slots() {
        let mut watches = Watches::default();
        watches.begin(key(0, 0));
        watches.begin(key(9, 0));
        watches.begin(key(9, 0));
        // The owner has gone without an end; the next takes its place.
        watches.begin(key(9, 1));
        assert_eq!(watches.count(), 2);
        watches.end(key(9, 0));
        assert_eq!(watches.count(), 2, "an owner from before ends nothing");
        watches.end(key(9, 1));
        watches.end(key(9, 1));
        watches.end(key(100, 0));
        assert_eq!((watches.count(), watches.has(key(0, 0))), (1, true));
    }
}
