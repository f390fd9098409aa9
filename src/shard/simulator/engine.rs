//! An engine beside the shards: it orders some of the topics, on a thread of its own.

use super::{driver::Woken, memory::LANE_BESIDES, random::Random, simulation::Simulation};
use crate::hub::{
    MeshEnd, Place, TopicName,
    testing::{TestEngine, UnderWay},
};

/// The engine, driven as a thread of its own would drive it.
pub(super) struct Engine {
    engine: TestEngine,
    woken: Woken,
    is_asleep: bool,
}

impl Engine {
    pub(super) fn new(mesh: MeshEnd, woken: Woken) -> Self {
        Engine { engine: TestEngine::new(mesh), woken, is_asleep: false }
    }

    /// Returns whether a step is due.
    pub(super) fn is_due(&self) -> bool {
        !self.is_asleep || self.woken.is_set()
    }

    /// Returns whether the engine has given every publication its place.
    pub(super) fn is_at_rest(&self) -> bool {
        UnderWay::of_external(&self.engine.end) == UnderWay::default()
    }

    /// Gives up to `most` publications their places.
    pub(super) fn step(&mut self, most: usize, random: &mut Random) {
        if self.is_asleep {
            self.woken.take();
            self.is_asleep = false;
            self.engine.end.awake();
        }
        for _ in 0..most {
            if !self.engine.work(|below| random.within(0..=below - 1)) {
                break;
            }
        }
        self.engine.end.send_out();
        self.is_asleep = self.engine.end.may_sleep();
    }

    /// Returns the places that the engine has given in a topic.
    pub(super) fn places(&self, topic: &TopicName) -> &[Place] {
        self.engine.places.get(topic).map_or(&[], Vec::as_slice)
    }

    /// Returns how many publications have found no room in the lane to their home.
    pub(super) fn overflowed(&self) -> u64 {
        self.engine.end.overflowed()
    }

    /// Returns how many publications the engine has given a place.
    pub(super) fn orders(&self) -> u64 {
        self.engine.places.values().map(|places| places.len() as u64).sum()
    }

    /// Returns how many epochs have begun in the midst of a topic.
    pub(super) fn epochs(&self) -> u64 {
        let later = self.engine.places.values().flat_map(|places| places.windows(2));
        later.filter(|two| two[0].epoch != two[1].epoch).count() as u64
    }
}

impl Simulation {
    /// Lets the engine take a step, if one is due.
    pub(super) fn step_engine(&mut self) {
        let most_of_a_frame = self.most_of_a_frame();
        let Some(engine) = self.engine.as_mut().filter(|engine| engine.is_due()) else { return };
        let most = self.random.pick(&[1, 3, 64]);
        engine.step(most, &mut self.random);
        // An engine takes nothing from a home that is behind. Beside each lane waits the message that has made the home
        // fall behind, and perhaps a barrier.
        let UnderWay { requests, .. } = UnderWay::of_external(&engine.engine.end);
        let most = self.drivers.len() * (most_of_a_frame + 2 * LANE_BESIDES);
        assert!(requests <= most, "{requests} bytes wait in the engine, of at most {most}");
    }
}
