//! The role of a thread in a server.

use std::{cell::Cell, io};

use crate::{error::StartError, handler::Panicked};

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

    /// Turns the outcome of the thread's work into the result that the thread reports. An error before the thread
    /// `has_started` is an error of the start. Any later error, and any panic, means that the thread has died.
    pub(super) fn end(self, outcome: Result<io::Result<()>, Panicked>, has_started: bool) -> Result<(), StartError> {
        let how = match outcome {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) if !has_started => {
                return Err(match self {
                    Role::Shard => StartError::Shard(error),
                    Role::Control => StartError::Control(error),
                });
            }
            Ok(Err(error)) => error.to_string(),
            Err(Panicked(text)) => text,
        };
        Err(match self {
            Role::Shard => StartError::ShardDied(how),
            Role::Control => StartError::ControlDied(how),
        })
    }

    /// Returns the role of this thread; `None` if no server has started it.
    pub(super) fn of_this_thread() -> Option<Role> {
        ROLE.get()
    }
}
