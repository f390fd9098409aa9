//! Looks at the memory that a shard holds, once in a tick, and closes the connections that hold the most while the
//! server is short of memory.

use std::cmp::Reverse;

use super::{
    incoming::{RECEIVE_BUFFER, paused_bytes},
    slow::GivenUp,
    state::Shard,
};
use crate::{
    config::weights,
    handler::Seat,
    hub::{ConnectionId, PresenceCounts},
    metrics::Counter,
    proto::{CloseCode, State},
    sys::Io,
};

/// A connection that may be closed because the server is short of memory.
#[derive(Debug, Clone, Copy)]
struct Holder {
    id: ConnectionId,
    /// Bytes of the connection's backlog.
    backlog: u64,
    /// Bytes of the connection's unfinished message, of its input that waits, of its messages that wait for decisions,
    /// and of its profile if large ones are given up too.
    other: u64,
}

impl Holder {
    fn bytes(&self) -> u64 {
        self.backlog + self.other
    }
}

impl<I: Io> Shard<I> {
    /// Adds up the memory that the shard holds, if the tick has changed. While the server is short of memory, the
    /// connections that hold the most are closed.
    pub(super) fn watch_memory(&mut self) {
        if self.memory.at == Some(self.now) {
            return;
        }
        self.memory.at = Some(self.now);
        self.hub.forget_ended_ids();
        self.hub.trim_histories();
        self.hub.expire_receipts();
        self.look_at_connections();
        self.note_memory();
    }

    /// Notes the memory that the shard holds, and what histories and presence keep: once in a tick, and before the
    /// shard sleeps. Without the latter, the sums of a busy moment would count for as long as the shard sleeps.
    pub(crate) fn note_memory(&self) {
        let waiting = self.incoming.paused_bytes() + self.handlers.waiting_bytes();
        let unanswered = (self.handlers.askers.len() + self.handlers.readers.len()) * weights::COMMAND as usize;
        let input = self.incoming.buffers_held() * RECEIVE_BUFFER + waiting + unanswered;
        let connections = self.hub.connections.len() * weights::OPEN_CONNECTION as usize + self.handlers.kept_bytes();
        // The first subscription of a connection is a part of the connection.
        let subscriptions = self.hub.subscribed().saturating_sub(self.hub.connections.len());
        let topics = self.hub.topics() * weights::TOPIC as usize + subscriptions * weights::SUBSCRIPTION as usize;
        let kinds = [
            (Counter::MemoryBacklogs, self.memory.backlogs() as usize),
            (Counter::MemoryGathered, self.hub.gathered_bytes()),
            (Counter::MemoryUnfinished, self.incoming.unfinished.bytes()),
            (Counter::MemoryInput, input),
            (Counter::MemoryLanes, self.hub.lane_bytes()),
            (Counter::MemoryConnections, connections),
            (Counter::MemoryTopics, topics),
            (Counter::MemoryIds, self.hub.id_bytes()),
            (Counter::MemoryHistory, self.hub.history_bytes()),
            (Counter::MemoryPresence, self.hub.presence_bytes()),
        ];
        let (kept, evicted) = self.hub.history_messages();
        self.counters.set(Counter::HistoryMessages, kept);
        self.counters.set(Counter::HistoryEvicted, evicted);
        let PresenceCounts { members, unlisted, batches } = self.hub.presence_counts();
        self.counters.set(Counter::PresenceMembers, members);
        self.counters.set(Counter::PresenceUnlisted, unlisted);
        self.counters.set(Counter::PresenceBatches, batches);
        let mut all = 0;
        for (counter, bytes) in kinds {
            self.counters.set(counter, bytes as u64);
            all += bytes as u64;
        }
        let spare = self.incoming.unfinished.bytes() + waiting + self.hub.history_bytes();
        let kept = self.handlers.large_kept_bytes() as u64;
        self.memory.note_held(all, self.memory.backlogs() + spare as u64, kept);
    }

    /// Adds up the backlogs of some slots. If the server is short of memory, closes those connections of these slots
    /// that hold the most.
    fn look_at_connections(&mut self) {
        let to_give_up = self.memory.to_give_up();
        if self.counters.get(Counter::SlowConsumers) == 0 && to_give_up.bytes == 0 {
            return self.memory.clear();
        }
        // Nobody is closed for what a history holds, so histories give way before connections do.
        let of_histories = if to_give_up.bytes == 0 { 0 } else { self.hub.give_up_histories(to_give_up.bytes) };
        let all = self.hub.connections.slots();
        let (slots, mut sum, mut found) = (self.memory.slots(all), 0, Vec::new());
        let end = slots.end;
        for slot in slots {
            let Some(id) = self.hub.connections.id_at(slot) else { continue };
            let Some(connection) = self.hub.connections.get(id) else { continue };
            let output = connection.io.output.as_ref().filter(|_| connection.io.has_backlog());
            let backlog = output.map_or(0, |output| output.bytes() as u64);
            sum += backlog;
            if to_give_up.bytes == 0 {
                continue;
            }
            if connection.io.session.state() != State::Open {
                self.give_up_waiting(id);
                continue;
            }
            let kept = if to_give_up.has_kept { self.handlers.large_kept_by(id) } else { 0 };
            let waiting = paused_bytes(connection) + self.handlers.waiting_of(id);
            let other = self.incoming.unfinished.bytes_of(id) + waiting + kept;
            let holder = Holder { id, backlog, other: other as u64 };
            if holder.bytes() >= to_give_up.holder_bytes_min {
                found.push(holder);
            }
        }
        self.memory.add(sum, end, all);
        self.give_up_largest(found, to_give_up.bytes.saturating_sub(of_histories));
    }

    /// Gives up the messages that wait for decisions, if the connection is closing. Call this outside of the handler's
    /// calls.
    pub(super) fn give_up_waiting(&mut self, id: ConnectionId) {
        let connection = self.hub.connections.get(id);
        let is_closing = connection.is_none_or(|connection| connection.io.session.state() != State::Open);
        if is_closing && self.handlers.waiting_of(id) > 0 {
            let (route, key) = self.handlers.seats[id.slot() as usize];
            self.handlers.routes[usize::from(route)].handler.give_up_waiting(Seat { id, key });
            self.handlers.note_waiting(id, 0);
        }
    }

    /// Closes connections, those with the most bytes first, until `to_give_up` bytes are given up or
    /// [`GIVEN_UP_PER_TICK`] connections are closed. Backlogs and other bytes count alike.
    fn give_up_largest(&mut self, mut holders: Vec<Holder>, to_give_up: u64) {
        let largest_first = |holder: &Holder| Reverse(holder.bytes());
        if holders.len() > GIVEN_UP_PER_TICK {
            holders.select_nth_unstable_by_key(GIVEN_UP_PER_TICK, largest_first);
            holders.truncate(GIVEN_UP_PER_TICK);
        }
        holders.sort_unstable_by_key(largest_first);
        let (mut given_up, mut backlogs) = (0, 0);
        for holder in holders {
            if given_up >= to_give_up {
                break;
            }
            given_up += holder.bytes();
            if holder.backlog >= holder.other {
                backlogs += holder.backlog;
                self.close_slow(holder.id, GivenUp::ForMemory);
            } else {
                tracing::debug!(id = %holder.id, peer = self.peer(holder.id), "closed: the server is short of memory");
                self.count(Counter::MemoryClosed, 1);
                self.close(holder.id, CloseCode::TRY_AGAIN_LATER, "the server is short of memory");
            }
            self.give_up_waiting(holder.id);
        }
        self.memory.give_up(backlogs);
    }
}

/// The most connections that a shard closes in a tick because the server is short of memory.
const GIVEN_UP_PER_TICK: usize = 512;
