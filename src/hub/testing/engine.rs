//! An engine for tests: an end that gives the publications of some topics places which no home would give.

use std::collections::HashMap;

use crate::hub::{EngineTopics, ExternalEnd, MeshEnd, Order, Place, TopicName};

/// An engine, and the places that it has given.
#[derive(Debug)]
pub(crate) struct TestEngine {
    pub(crate) end: ExternalEnd,
    /// By topic, in order.
    pub(crate) places: HashMap<TopicName, Vec<Place>>,
    has_answered: bool,
}

impl TestEngine {
    pub(crate) fn new(mesh: MeshEnd) -> Self {
        TestEngine { end: ExternalEnd::new(mesh), places: HashMap::new(), has_answered: false }
    }

    /// Returns the topics that an engine at this end orders.
    pub(crate) fn topics(end: u16) -> EngineTopics {
        EngineTopics { end, has: TestEngine::has }
    }

    /// Returns whether the engine orders the topic of that name: every other one of those that end with a number.
    pub(crate) fn has(name: &TopicName) -> bool {
        name.as_str().bytes().last().is_some_and(|last| last.is_multiple_of(2))
    }

    /// Gives the next publication a place: offsets leave gaps, and sometimes an epoch begins. Answers the barriers of
    /// all shards. `draw` returns a number below the one that it is given. Returns whether there was a publication.
    pub(crate) fn work(&mut self, mut draw: impl FnMut(usize) -> usize) -> bool {
        if let Some(order) = self.end.next_order() {
            self.order(order, &mut draw);
            return true;
        }
        if self.end.has_all_barriers() && !self.has_answered {
            self.has_answered = true;
            self.end.send_barrier();
        }
        false
    }

    fn order(&mut self, order: Order, draw: &mut impl FnMut(usize) -> usize) {
        let places = self.places.entry(order.unplaced.posted.topic.clone()).or_default();
        let gap = 1 + draw(5) as u64;
        let place = match places.last() {
            Some(last) if draw(10) > 0 => Place { epoch: last.epoch, offset: last.offset + gap, previous: last.offset },
            last => Place { epoch: last.map_or(5, |last| last.epoch + 7), offset: gap, previous: 0 },
        };
        places.push(place);
        self.end.distribute(order, place);
    }
}
