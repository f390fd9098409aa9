//! Values that all threads read and that a reload replaces as a whole: settings, and the table of endpoints.

use std::sync::{
    Arc, PoisonError, RwLock, Weak,
    atomic::{AtomicU64, Ordering},
};

/// A value that is read by many threads and replaced as a whole. A clone is another handle to the same value.
///
/// A request reads the value once and keeps it: so a request that a reload overtakes is judged by one value to its end.
#[derive(Debug)]
pub(crate) struct Current<T>(Arc<Cell<T>>);

/// A handle that does not keep the value, for code that the value itself holds: another handle would keep it for ever.
#[derive(Debug)]
pub(crate) struct WeakCurrent<T>(Weak<Cell<T>>);

#[derive(Debug)]
struct Cell<T> {
    value: RwLock<Arc<T>>,
    /// The number of replacements.
    generation: AtomicU64,
}

impl<T> Current<T> {
    pub(crate) fn new(value: impl Into<Arc<T>>) -> Self {
        Current(Arc::new(Cell { value: RwLock::new(value.into()), generation: AtomicU64::new(0) }))
    }

    /// Returns the value.
    pub(crate) fn get(&self) -> Arc<T> {
        // A panic cannot leave half a value: the lock is held for the clone or the exchange of a pointer.
        Arc::clone(&self.0.value.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the value. Whoever has read the value before keeps the earlier one.
    pub(crate) fn replace(&self, value: impl Into<Arc<T>>) {
        let value = value.into();
        let mut place = self.0.value.write().unwrap_or_else(PoisonError::into_inner);
        let earlier = std::mem::replace(&mut *place, value);
        // Pairs with the load in `generation`: a reader of the number finds the value of this number, or a later one.
        self.0.generation.fetch_add(1, Ordering::Release);
        drop(place);
        // The drop of the earlier value may run an embedder's code.
        drop(earlier);
    }

    /// Returns the number of replacements so far, by which a reader notices that there was one.
    pub(crate) fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }

    /// Returns a handle that does not keep the value.
    pub(crate) fn downgrade(&self) -> WeakCurrent<T> {
        WeakCurrent(Arc::downgrade(&self.0))
    }
}

impl<T> WeakCurrent<T> {
    /// Returns the value, unless all handles that keep it are gone.
    pub(crate) fn get(&self) -> Option<Arc<T>> {
        self.0.upgrade().map(|cell| Current(cell).get())
    }
}

impl<T> Clone for Current<T> {
    fn clone(&self) -> Self {
        Current(Arc::clone(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_keeps_its_value_and_the_next_gets_the_new_one() {
        let current = Current::new("old");
        let (other, weak, read) = (current.clone(), current.downgrade(), current.get());
        assert_eq!(other.generation(), 0);
        current.replace("new");
        assert_eq!((*read, *other.get(), weak.get().as_deref()), ("old", "new", Some(&"new")));
        assert_eq!(other.generation(), 1);
        drop((current, other));
        assert_eq!(weak.get(), None);
    }

    /// Whoever sees a number of replacements finds the value of this number, or a later one.
    #[test]
    fn the_generation_never_runs_ahead_of_the_value() {
        let current = Current::new(0_u64);
        std::thread::scope(|scope| {
            scope.spawn(|| (1..=10_000).for_each(|number| current.replace(number)));
            let mut seen = 0;
            while seen < 10_000 {
                seen = current.generation();
                assert!(*current.get() >= seen);
            }
        });
    }
}
