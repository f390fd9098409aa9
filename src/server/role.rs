//! The role of a thread in a server.

use std::cell::Cell;

/// The work of a thread that a server has started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Shard,
    Control,
}

thread_local! {
    static ROLE: Cell<Option<Role>> = const { Cell::new(None) };
}

impl Role {
    /// Gives this thread the role, until the thread ends.
    pub(super) fn assume(self) {
        ROLE.set(Some(self));
    }

    /// Returns the role of this thread; `None` if no server has started it.
    pub(super) fn of_this_thread() -> Option<Role> {
        ROLE.get()
    }
}
