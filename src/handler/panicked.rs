//! Catches panics of embedders' code.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
};

/// A caught panic, with its text.
#[derive(Debug)]
pub(crate) struct Panicked(pub(crate) String);

impl Panicked {
    /// Calls a function, and catches its panic. The caller must not use state that the panic has left half changed.
    ///
    /// # Errors
    ///
    /// The panic.
    pub(crate) fn catch<T>(call: impl FnOnce() -> T) -> Result<T, Panicked> {
        catch_unwind(AssertUnwindSafe(call)).map_err(|panic| Panicked::new(&*panic))
    }

    /// Returns the text that a panic was begun with.
    pub(crate) fn new(panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().map(ToString::to_string);
        Panicked(text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".into()))
    }
}
