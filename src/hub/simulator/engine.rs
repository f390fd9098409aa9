//! An engine of the simulator: an end that gives the publications of some topics places which no home would give.

use std::collections::HashMap;

use super::world::{next, topic};
use crate::hub::{EngineTopics, ExternalEnd, MeshEnd, Order, Place, TopicName};

/// An engine, and the places that it has given.
pub(super) struct SimulatedEngine {
    pub(super) end: ExternalEnd,
    /// The places of each topic, in order.
    pub(super) places: HashMap<TopicName, Vec<Place>>,
    has_answered: bool,
}

impl SimulatedEngine {
    pub(super) fn new(mesh: MeshEnd) -> Self {
        SimulatedEngine { end: ExternalEnd::new(mesh), places: HashMap::new(), has_answered: false }
    }

    /// Returns the topics that an engine at this end orders: every second topic of the simulator.
    pub(super) fn topics(end: u16) -> EngineTopics {
        EngineTopics { end, has: |name| (0..100).step_by(2).any(|number| topic(number) == *name) }
    }

    /// Gives the next publication a place: offsets leave gaps, and sometimes an epoch begins. Answers the barriers of
    /// all shards.
    pub(super) fn work(&mut self, random: &mut u64) {
        if let Some(order) = self.end.next_order() {
            self.order(order, random);
        } else if self.end.has_all_barriers() && !self.has_answered {
            self.has_answered = true;
            self.end.send_barrier();
        }
    }

    fn order(&mut self, order: Order, random: &mut u64) {
        let places = self.places.entry(order.unplaced.posted.topic.clone()).or_default();
        let gap = 1 + next(random, 5) as u64;
        let place = match places.last() {
            Some(last) if next(random, 10) > 0 => {
                Place { epoch: last.epoch, offset: last.offset + gap, previous: last.offset }
            }
            last => Place { epoch: last.map_or(5, |last| last.epoch + 7), offset: gap, previous: 0 },
        };
        places.push(place);
        self.end.distribute(order, place);
    }
}
