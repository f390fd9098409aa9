//! The checks of the memory that has a limit for all connections of a shard.

use super::{super::incoming::RECEIVE_BUFFER, simulation::Simulation, socket::SimulatedIo};
use crate::{
    hub::{ConnectionId, LARGE_PIECE_PINS, RECEIPT_BYTES, testing::UnderWay},
    metrics::Counter,
    proto::{LARGE_FRAME, State},
    shard::state::Shard,
};

/// The room that a shard has before a turn, and the input that it has taken by then.
#[derive(Debug)]
pub(super) struct Room {
    messages_in: u64,
    /// The shard receives nothing.
    is_full: bool,
    /// The shard takes no mail.
    has_gathered_much: bool,
    /// The shard takes no requests.
    delivers_much: bool,
    places: Vec<u64>,
    /// The number of messages that handlers have published by then without waiting for room.
    unasked: usize,
}

impl Simulation {
    /// Returns the room that a shard has before a turn.
    pub(super) fn room(&self, number: usize) -> Room {
        let driver = &self.drivers[number];
        let UnderWay { deliveries, .. } = UnderWay::of(&driver.shard.hub);
        Room {
            messages_in: driver.counters.get(Counter::MessagesIn),
            is_full: driver.shard.is_full(),
            has_gathered_much: !driver.shard.hub.has_room_for_mail(),
            delivers_much: deliveries > self.plan.mesh.overflow_bytes_max,
            places: self.places(number),
            unasked: self.unasked,
        }
    }

    /// Checks the input that a turn of the shard has taken, and the memory after it. The shard's room before the turn
    /// was `before`.
    pub(super) fn check_memory(&self, number: usize, before: &Room) {
        let driver = &self.drivers[number];
        let messages_in = driver.counters.get(Counter::MessagesIn) - before.messages_in;
        assert!(!before.is_full || messages_in == 0, "a full shard has taken {messages_in} messages");
        let places = self.places(number);
        for (topic, &home) in self.homes.iter().enumerate() {
            // The shard's own clients may go on publishing to topics that it orders itself.
            let is_own = home == number && !self.is_of_engine(topic);
            let takes_nothing = before.has_gathered_much && (before.is_full || !is_own);
            let holds = takes_nothing || before.delivers_much && home == number;
            let has_more = places[topic] > before.places[topic];
            assert!(!holds || !has_more || self.unasked > before.unasked, "a full shard has taken mail: {before:?}");
        }
        let (shard, others) = (&driver.shard, self.drivers.len() - 1);
        let engines = usize::from(self.engine.is_some());
        let UnderWay { requests, deliveries, gathered, .. } = UnderWay::of(&shard.hub);
        // The limits are checked between any two messages of a connection. Beyond the limits come one message of each
        // connection of a batch, and the messages that handlers publish without waiting for room.
        let beyond = shard.pace.receive_batch.min(driver.clients.len()) + 1 + self.unasked;
        let in_lane = beyond * (self.most_of_a_frame() + LANE_BESIDES);
        // At the limit, connections with handlers wait for any home. Other connections publish to each home, and each
        // of them may leave a mark.
        let marks = driver.clients.len() * LANE_BESIDES;
        // The counts and the answers of receipts come when walks end.
        let receipts = self.control.receipts_missing() * RECEIPT_BYTES;
        // The messages that an engine is to order have the limit for themselves.
        let most = (self.plan.mesh.overflow_bytes_max * (1 + engines))
            .saturating_add((in_lane + marks) * (others + engines) + receipts);
        assert!(requests <= most, "{requests} bytes of requests wait for room, of at most {most}");
        let most =
            self.plan.mesh.overflow_bytes_max.saturating_add((in_lane + marks) * others + LANE_BESIDES + receipts);
        assert!(deliveries <= most, "{deliveries} bytes of deliveries wait for room, of at most {most}");
        // The buffer of a run doubles.
        let run = RUN + driver.clients.len() * RUN_BESIDES;
        let tag = if self.plan.tagged.contains(&true) { TAG } else { 0 };
        let runs = self.topics.len() * 2 * run + beyond * 2 * (self.most_of_a_frame() + RUN_BESIDES + tag);
        let most = shard.limits.gathered_bytes_max.saturating_mul(2).saturating_add(runs);
        assert!(gathered <= most, "{gathered} bytes are gathered, of at most {most}");
        let unfinished = shard.incoming.unfinished.bytes();
        assert!(unfinished <= shard.unfinished_bytes_max, "{unfinished} bytes of messages are unfinished");
        let held: usize = shard.hub.connections.ids().map(|id| held_by_message(shard, id)).sum();
        assert!(held <= unfinished, "messages under way hold {held} bytes, of which {unfinished} are counted");
    }

    /// Returns the most memory that a frame pins.
    pub(super) fn most_of_a_frame(&self) -> usize {
        let frame = self.plan.message_max.max(NAME) + HEADER;
        match frame {
            _ if frame < LARGE_FRAME => frame,
            _ if frame < LARGE_PIECE_PINS => LARGE_PIECE_PINS,
            _ => 2 * frame,
        }
    }
}

/// Returns the memory that the message under way of an open connection holds: its fragments so far, and the buffer of a
/// large frame. A buffer with input that waits is one of a bounded number.
fn held_by_message(shard: &Shard<SimulatedIo>, id: ConnectionId) -> usize {
    let connection = shard.hub.connections.get(id).filter(|connection| connection.io.session.state() == State::Open);
    connection.map_or(0, |connection| {
        let partial = connection.io.partial.as_ref().map_or(0, |partial| partial.capacity());
        let is_of_message = partial > RECEIVE_BUFFER && !connection.io.has_unparsed;
        connection.io.session.assembled_bytes() + if is_of_message { partial } else { 0 }
    })
}

/// Bytes of the longest name of a message.
const NAME: usize = 20;
/// Bytes of the longest header of a frame.
const HEADER: usize = 10;

/// An entry of a lane without its frame, in an overflow that doubles.
pub(super) const LANE_BESIDES: usize = 300;

/// Bytes of a run without messages.
const RUN: usize = 1_024;
/// Bytes of a piece or an exclusion, which each message and each subscriber that has joined may add to a run.
const RUN_BESIDES: usize = 100;

/// The tag of a message, in lists that double, and of a piece of its own.
const TAG: usize = 300;
