//! Looks at the memory that a shard holds, once in a tick, and gives up backlogs while the server is short of memory.

use std::cmp::Reverse;

use super::{incoming::RECEIVE_BUFFER, slow::GivenUp, state::Shard};
use crate::{hub::ConnectionId, metrics::Counter, proto::State, sys::Io};

impl<I: Io> Shard<I> {
    /// Adds up the memory that the shard holds, if the tick has changed. While the server is short of memory, the
    /// largest backlogs are given up.
    pub(super) fn watch_memory(&mut self) {
        if self.memory.at == Some(self.now) {
            return;
        }
        self.memory.at = Some(self.now);
        self.look_at_backlogs();
        let kinds = [
            (Counter::MemoryBacklogs, self.memory.backlogs() as usize),
            (Counter::MemoryGathered, self.hub.gathered_bytes()),
            (Counter::MemoryUnfinished, self.incoming.unfinished.bytes()),
            (Counter::MemoryInput, self.incoming.buffers_held() * RECEIVE_BUFFER),
            (Counter::MemoryLanes, self.hub.lane_bytes()),
            (Counter::MemoryConnections, self.hub.connections.len() * CONNECTION),
            (Counter::MemoryTopics, self.hub.topics() * TOPIC),
        ];
        let mut all = 0;
        for (counter, bytes) in kinds {
            self.counters.set(counter, bytes as u64);
            all += bytes as u64;
        }
        self.memory.note_held(all);
    }

    /// Adds up the backlogs of some slots, and gives up the largest of these if the server is short of memory.
    fn look_at_backlogs(&mut self) {
        if self.counters.get(Counter::SlowConsumers) == 0 {
            return self.memory.clear();
        }
        let to_give_up = self.memory.to_give_up();
        let all = self.hub.connections.slots();
        let (slots, mut sum, mut found) = (self.memory.slots(all), 0, Vec::new());
        let end = slots.end;
        for slot in slots {
            let Some(id) = self.hub.connections.id_at(slot) else { continue };
            let Some(connection) = self.hub.connections.get(id) else { continue };
            let Some(output) = connection.io.output.as_ref().filter(|_| connection.io.has_backlog()) else { continue };
            let bytes = output.bytes() as u64;
            sum += bytes;
            if to_give_up > 0 && connection.io.session.state() == State::Open {
                found.push((bytes, id));
            }
        }
        self.memory.add(sum, end, all);
        self.give_up_largest(found, to_give_up);
    }

    /// Closes the connections with the largest of these backlogs, until `to_give_up` bytes are given up.
    fn give_up_largest(&mut self, mut backlogs: Vec<(u64, ConnectionId)>, to_give_up: u64) {
        backlogs.sort_unstable_by_key(|&(bytes, _)| Reverse(bytes));
        let mut given_up = 0;
        for (bytes, id) in backlogs.into_iter().take(GIVEN_UP_PER_TICK) {
            if given_up >= to_give_up {
                break;
            }
            self.close_slow(id, GivenUp::ForMemory);
            given_up += bytes;
        }
        self.memory.give_up(given_up);
    }
}

/// The most connections that a shard closes in a tick because the server is short of memory.
const GIVEN_UP_PER_TICK: usize = 512;

/// Bytes of an open connection without input and output: its slot, its places, and its opening request.
const CONNECTION: usize = 512;

/// Bytes of a topic whose home is the shard.
const TOPIC: usize = 1_024;
