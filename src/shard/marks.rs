//! Marks: a goodbye waits for messages of its connection that another shard orders.
//!
//! When a connection leaves the open state, messages that it published may still be on their way to the home of their
//! topic; if the connection has subscribed to that topic with echo, it is owed these messages. A mark follows them to
//! each such home and comes back after them. Until then the connection stays a subscriber, and its goodbye waits
//! here.
//!
//! A mark that has come back may stand in its lane after messages that the shard has no room for: deliveries of another
//! home, or what an engine has ordered. The time of the wait stands still then: only a home or an engine that does not
//! answer uses it up.

use std::collections::HashMap;

use crate::{hub::ConnectionId, proto::Tick};

/// The connections that wait for marks. A connection that does not wait costs nothing here.
#[derive(Debug, Default)]
pub(super) struct Marks {
    waiting: HashMap<ConnectionId, Marked>,
    /// When the shard last left mail in its lanes in which marks may stand.
    left_mail: Tick,
}

/// A connection that waits for marks.
#[derive(Debug)]
struct Marked {
    /// The marks that have not come back.
    awaited: usize,
    /// The session's goodbye, and the replies before it.
    goodbye: Vec<u8>,
    /// When the wait began.
    since: Tick,
    wait: MarkWait,
}

/// How long a connection waits for its marks, in ticks.
#[derive(Debug, Clone, Copy)]
pub(super) struct MarkWait {
    /// The time for the homes, without the ticks in which the shard leaves such mail in its lanes.
    pub(super) homes: u32,
    /// The most time in all.
    pub(super) most: u32,
}

impl MarkWait {
    /// Returns the wait of a connection that has `close_timeout` ticks to close; 0 ticks mean that its time has no
    /// limit.
    pub(super) fn within(close_timeout: u32) -> Self {
        let most = if close_timeout == 0 { u32::MAX } else { close_timeout / 2 };
        MarkWait { homes: MARK_TICKS_MAX.min(most), most }
    }
}

impl Marks {
    /// Notes that the connection waits from now on for so many marks with this goodbye.
    pub(super) fn begin(&mut self, id: ConnectionId, awaited: usize, goodbye: &[u8], now: Tick, wait: MarkWait) {
        let earlier = self.waiting.insert(id, Marked { awaited, goodbye: goodbye.to_vec(), since: now, wait });
        assert!(earlier.is_none(), "a connection leaves the open state once");
    }

    /// Returns whether the connection waits.
    #[inline]
    pub(super) fn has(&self, id: ConnectionId) -> bool {
        self.waiting.contains_key(&id)
    }

    /// Appends output to the goodbye that waits. Returns whether the connection waits.
    #[inline]
    pub(super) fn append(&mut self, id: ConnectionId, output: &[u8]) -> bool {
        let marked = self.waiting.get_mut(&id);
        marked.is_some_and(|marked| {
            marked.goodbye.extend_from_slice(output);
            true
        })
    }

    /// Returns when the wait of the connection ends at the latest, if it waits.
    pub(super) fn until(&self, id: ConnectionId) -> Option<Tick> {
        let Marked { since, wait, .. } = self.waiting.get(&id)?;
        Some(self.left_mail.max(*since).after(wait.homes).min(since.after(wait.most)))
    }

    /// Notes that the shard has left mail in its lanes in which marks may stand.
    pub(super) fn note_left_mail(&mut self, now: Tick) {
        self.left_mail = now;
    }

    /// Notes that a mark has come back. Returns whether it was the last that the connection waits for. The mark of a
    /// connection that does not wait any more is ignored.
    pub(super) fn arrive(&mut self, id: ConnectionId) -> bool {
        let Some(marked) = self.waiting.get_mut(&id) else { return false };
        marked.awaited = marked.awaited.checked_sub(1).expect("each mark comes back once");
        marked.awaited == 0
    }

    /// Ends the wait, and returns the goodbye; `None` if the connection does not wait.
    pub(super) fn end(&mut self, id: ConnectionId) -> Option<Vec<u8>> {
        let marked = self.waiting.remove(&id)?;
        if self.waiting.is_empty() {
            // The large table of a crowd is not kept.
            self.waiting.shrink_to(TABLE_KEPT);
        }
        Some(marked.goodbye)
    }
}

/// The most ticks that a goodbye waits for homes that do not answer; half of the close timeout, if that is less.
pub(super) const MARK_TICKS_MAX: u32 = 2;

/// Entries that an empty table has room for.
const TABLE_KEPT: usize = 64;
