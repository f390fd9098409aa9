//! Bounds the bodies that wait for each home, so that a home that is behind leaves room for the bodies of the others.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The bodies that wait for their topic's home to give them a place. A clone is another handle to the same bodies.
#[derive(Debug, Clone)]
pub(super) struct Waits(Arc<Mutex<Homes>>);

#[derive(Debug)]
struct Homes {
    most_of_each: Bound,
    /// By the home's number; homes without a body may be missing.
    bodies: Vec<Bound>,
}

/// A number of bodies, and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Bound {
    bodies: usize,
    bytes: usize,
}

impl Bound {
    /// Returns the room of each home, of so much room for all bodies.
    fn of_a_home(shards: usize, bodies_max: usize, bytes_max: usize) -> Bound {
        let part = if shards == 1 { 1 } else { 2 };
        Bound { bodies: bodies_max / part, bytes: bytes_max / part }
    }
}

/// A body that waits for its topic's home, until it is dropped.
#[derive(Debug)]
pub(super) struct Wait {
    waits: Waits,
    home: u16,
    bytes: usize,
}

/// The error of a body if too many bodies wait for its home.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HomeIsBehind;

impl Waits {
    /// Returns the waits of a server with room for `bodies_max` bodies that have `bytes_max` bytes together. The bodies
    /// for one home may have half of both; where there is only one home, all.
    pub(super) fn new(shards: usize, bodies_max: usize, bytes_max: usize) -> Waits {
        let most_of_each = Bound::of_a_home(shards, bodies_max, bytes_max);
        Waits(Arc::new(Mutex::new(Homes { most_of_each, bodies: Vec::new() })))
    }

    /// Sets the room of all bodies. Bodies beyond a smaller number wait on.
    pub(super) fn set_max(&self, shards: usize, bodies_max: usize, bytes_max: usize) {
        self.lock().most_of_each = Bound::of_a_home(shards, bodies_max, bytes_max);
    }

    /// Begins the wait of a body. One body waits whatever its size.
    ///
    /// # Errors
    ///
    /// If too many bodies, or bytes of bodies, wait for that home.
    pub(super) fn begin(&self, home: u16, bytes: usize) -> Result<Wait, HomeIsBehind> {
        let mut homes = self.lock();
        let at = usize::from(home);
        if homes.bodies.len() <= at {
            homes.bodies.resize(at + 1, Bound::default());
        }
        let Bound { bodies: others, bytes: before } = homes.bodies[at];
        let Bound { bodies, bytes: bytes_max } = homes.most_of_each;
        if others > 0 && (others >= bodies || before + bytes > bytes_max) {
            return Err(HomeIsBehind);
        }
        homes.bodies[at] = Bound { bodies: others + 1, bytes: before + bytes };
        drop(homes);
        Ok(Wait { waits: self.clone(), home, bytes })
    }

    fn lock(&self) -> MutexGuard<'_, Homes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let mut homes = self.waits.lock();
        let own = &mut homes.bodies[usize::from(self.home)];
        own.bodies -= 1;
        own.bytes -= self.bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bodies of one home leave half of the room to the others, and a single body may be of any size.
    #[test]
    fn a_home_has_half_of_the_room() {
        let waits = Waits::new(2, 6, 100);
        let of_bytes = [waits.begin(0, 30).unwrap(), waits.begin(0, 20).unwrap()];
        assert_eq!(waits.begin(0, 1).unwrap_err(), HomeIsBehind);
        let large = waits.begin(1, 90).unwrap();
        drop(of_bytes);
        let of_number: Vec<Wait> = (0..3).map(|_| waits.begin(0, 0).unwrap()).collect();
        assert_eq!(waits.begin(0, 0).unwrap_err(), HomeIsBehind);
        drop((of_number, large));
        assert!(waits.lock().bodies.iter().all(|&own| own == Bound::default()));
    }

    #[test]
    fn a_smaller_limit_leaves_waits_as_they_are() {
        let waits = Waits::new(2, 4, 100);
        let two = [waits.begin(0, 10).unwrap(), waits.begin(0, 10).unwrap()];
        waits.set_max(2, 8, 30);
        assert_eq!(waits.begin(0, 1).unwrap_err(), HomeIsBehind);
        drop(two);
        let one = waits.begin(0, 10).unwrap();
        assert_eq!(waits.begin(0, 6).unwrap_err(), HomeIsBehind);
        waits.set_max(1, 8, 30);
        assert!(waits.begin(0, 20).is_ok());
        drop(one);
    }

    #[test]
    fn the_only_home_has_all_of_the_room() {
        let waits = Waits::new(1, 2, 100);
        let all = [waits.begin(0, 50).unwrap(), waits.begin(0, 50).unwrap()];
        assert_eq!(waits.begin(0, 0).unwrap_err(), HomeIsBehind);
        drop(all);
    }
}
