//! Marks: a goodbye waits for messages of its connection that another shard orders.
//!
//! When a connection leaves the open state, messages that it published may still be on their way to the home of their
//! topic; if the connection has subscribed to that topic with echo, it is owed these messages. A mark follows them to
//! each such home and comes back after them. Until then the connection stays a subscriber, and its goodbye waits
//! here.

use std::collections::HashMap;

use crate::{hub::ConnectionId, proto::Tick};

/// The connections that wait for marks. A connection that does not wait costs nothing here.
#[derive(Debug, Default)]
pub(super) struct Marks(HashMap<ConnectionId, Marked>);

/// A connection that waits for marks.
#[derive(Debug)]
struct Marked {
    /// The marks that have not come back.
    awaited: usize,
    /// The session's goodbye, and the replies before it.
    goodbye: Vec<u8>,
    /// When the marks are given up.
    until: Tick,
}

impl Marks {
    /// Notes that the connection waits for so many marks with this goodbye.
    pub(super) fn begin(&mut self, id: ConnectionId, awaited: usize, goodbye: &[u8], until: Tick) {
        let earlier = self.0.insert(id, Marked { awaited, goodbye: goodbye.to_vec(), until });
        assert!(earlier.is_none(), "a connection leaves the open state once");
    }

    /// Returns whether the connection waits.
    #[inline]
    pub(super) fn has(&self, id: ConnectionId) -> bool {
        self.0.contains_key(&id)
    }

    /// Appends output to that of the connection. Returns whether it waits.
    #[inline]
    pub(super) fn append(&mut self, id: ConnectionId, output: &[u8]) -> bool {
        let marked = self.0.get_mut(&id);
        marked.is_some_and(|marked| {
            marked.goodbye.extend_from_slice(output);
            true
        })
    }

    /// Returns when the marks of the connection are given up, if it waits.
    pub(super) fn until(&self, id: ConnectionId) -> Option<Tick> {
        self.0.get(&id).map(|marked| marked.until)
    }

    /// Notes that a mark has come back. Returns whether it was the last that the connection waits for. The mark of a
    /// connection that does not wait any more is ignored.
    pub(super) fn arrive(&mut self, id: ConnectionId) -> bool {
        let Some(marked) = self.0.get_mut(&id) else { return false };
        marked.awaited = marked.awaited.checked_sub(1).expect("each mark comes back once");
        marked.awaited == 0
    }

    /// Ends the wait, and returns the goodbye; `None` if the connection does not wait.
    pub(super) fn end(&mut self, id: ConnectionId) -> Option<Vec<u8>> {
        let marked = self.0.remove(&id)?;
        if self.0.is_empty() {
            // A crowd's table is not kept.
            self.0.shrink_to(TABLE_KEPT);
        }
        Some(marked.goodbye)
    }
}

/// The most ticks that a goodbye waits for marks. `await_marks` shortens the wait to half of the close timeout, if
/// that is less.
pub(super) const MARK_TICKS_MAX: u32 = 2;

/// Entries that an empty table has room for.
const TABLE_KEPT: usize = 64;
