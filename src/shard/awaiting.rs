//! The connections that are not received from because a home is behind.
//!
//! A connection whose messages go to one topic stands in the queues of that topic's home. Where a handler decides where
//! messages go, the connection stands in the queues of the home to which it has just published without room, or else in
//! those for any home. When these homes are not behind any more, the connection is served in its turn among the
//! connections of the shard.
//!
//! A connection that begins to close, or ends, leaves nothing but its id in a queue. It never waits for a home again,
//! so the id is passed over.

use std::collections::VecDeque;

use crate::hub::{ConnectionId, Homes};

/// The connections that are not received from because a home is behind.
#[derive(Debug, Default)]
pub(super) struct Awaiting {
    /// By the home's number.
    by_home: Vec<OfHome>,
    any: OfHome,
    /// The ids in all queues.
    entries: usize,
    /// The connections among them that still wait.
    waiting: usize,
    /// The waiting connections whose input is not parsed to its end.
    unparsed: usize,
    /// The home whose queues are looked at first, so that no home is always the last.
    next: usize,
}

impl Awaiting {
    /// Returns whether no queue has an entry.
    pub(super) fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Returns how many entries there are.
    pub(super) fn len(&self) -> usize {
        self.entries
    }

    /// Returns how many connections wait with input that is not parsed to its end.
    pub(super) fn unparsed(&self) -> usize {
        self.unparsed
    }

    /// Returns whether connections stand in the queues for these homes.
    pub(super) fn has(&self, homes: Homes) -> bool {
        let queues = match homes {
            Homes::One(home) => self.by_home.get(usize::from(home)),
            Homes::Any => Some(&self.any),
        };
        queues.is_some_and(|queues| !queues.is_empty())
    }

    /// Adds a connection to a queue of these homes: to `busy`, for connections that had more input than their part of
    /// the frames, if `is_busy`; otherwise to `ready`.
    pub(super) fn push(&mut self, homes: Homes, is_busy: bool, id: ConnectionId) {
        self.entries += 1;
        let queues = self.queues(homes);
        let queue = if is_busy { &mut queues.busy } else { &mut queues.ready };
        queue.push_back(id);
    }

    /// Adds a connection in front of the others in the queue `busy` of these homes.
    pub(super) fn push_front(&mut self, homes: Homes, id: ConnectionId) {
        self.entries += 1;
        self.queues(homes).busy.push_front(id);
    }

    /// Returns whether a connection stands in the queues of a home that is not behind.
    pub(super) fn has_next(&self, is_behind: impl Fn(Homes) -> bool) -> bool {
        self.entries > 0 && self.first(&is_behind).is_some()
    }

    /// Takes the next connection of a home that is not behind. The homes take turns.
    pub(super) fn pop(&mut self, is_behind: impl Fn(Homes) -> bool) -> Option<ConnectionId> {
        if self.entries == 0 {
            return None;
        }
        let homes = self.first(&is_behind)?;
        self.next = if let Homes::One(home) = homes { usize::from(home) + 1 } else { 0 };
        let queues = self.queues(homes);
        let next = queues.pop();
        if queues.is_empty() {
            queues.shrink();
        }
        self.entries -= 1;
        next
    }

    /// Notes that a connection waits, and whether it has input that is not parsed to its end.
    pub(super) fn enter(&mut self, has_unparsed: bool) {
        self.waiting += 1;
        self.unparsed += usize::from(has_unparsed);
    }

    /// Notes that a connection does not wait any more.
    pub(super) fn leave(&mut self, has_unparsed: bool) {
        self.waiting = self.waiting.checked_sub(1).expect("a connection that waits has been counted");
        self.unparsed = self.unparsed.checked_sub(usize::from(has_unparsed)).expect("unparsed input has been counted");
    }

    /// Removes the ids of connections that do not wait any more, once these ids outnumber those of waiting connections
    /// by more than `SLACK`.
    pub(super) fn compact(&mut self, waits: impl Fn(ConnectionId) -> bool) {
        if self.entries <= 2 * self.waiting + SLACK {
            return;
        }
        self.by_home.iter_mut().chain([&mut self.any]).for_each(|queues| queues.retain(&waits));
        self.entries = self.by_home.iter().chain([&self.any]).map(OfHome::len).sum();
    }

    /// Returns the homes whose connections come next; homes that are behind are skipped.
    fn first(&self, is_behind: &impl Fn(Homes) -> bool) -> Option<Homes> {
        let count = self.by_home.len() + 1;
        let at = |at: usize| if at < self.by_home.len() { Homes::One(at as u16) } else { Homes::Any };
        let mut all = (0..count).map(|step| at((self.next + step) % count));
        all.find(|&homes| self.has(homes) && !is_behind(homes))
    }

    fn queues(&mut self, homes: Homes) -> &mut OfHome {
        let Homes::One(home) = homes else { return &mut self.any };
        let home = usize::from(home);
        if self.by_home.len() <= home {
            self.by_home.resize_with(home + 1, OfHome::default);
        }
        &mut self.by_home[home]
    }
}

/// The connections that wait for one home, in two queues that are served alternately, like those of the shard: a client
/// that sends little need not wait for a crowd of clients that send much to the same home.
#[derive(Debug, Default)]
struct OfHome {
    ready: VecDeque<ConnectionId>,
    /// Connections that had more input than their part of the frames.
    busy: VecDeque<ConnectionId>,
    /// Whether the next connection comes from `busy`.
    takes_busy: bool,
}

impl OfHome {
    fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.busy.is_empty()
    }

    fn len(&self) -> usize {
        self.ready.len() + self.busy.len()
    }

    fn pop(&mut self) -> Option<ConnectionId> {
        self.takes_busy = !self.takes_busy;
        let (first, second) =
            if self.takes_busy { (&mut self.busy, &mut self.ready) } else { (&mut self.ready, &mut self.busy) };
        first.pop_front().or_else(|| second.pop_front())
    }

    fn retain(&mut self, waits: impl Fn(ConnectionId) -> bool) {
        self.ready.retain(|&id| waits(id));
        self.busy.retain(|&id| waits(id));
    }

    /// Gives up the memory of a crowd that has been served.
    fn shrink(&mut self) {
        self.ready.shrink_to(KEPT);
        self.busy.shrink_to(KEPT);
    }
}

/// By how much the ids of connections that do not wait any more may outnumber the waiting connections before they are
/// removed.
const SLACK: usize = 64;

/// Places that an empty queue keeps.
const KEPT: usize = 64;
