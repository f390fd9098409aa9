//! Publications with ids from random publishers on several shards, some of them repeated: each is published once.

use std::{collections::HashMap, sync::Arc};

use super::world::{next, topic};
use crate::hub::{
    ConnectionId, EndRole, ExternalEnd, HubConnection, HubLimits, IdLimits, MeshEnd, MeshLimits, Place, Publication,
    PublishError, PublishOutcome, Published, ShardHub, Wake, seeds::each_seed, testing::TestEngine,
};
use crate::proto::Millis;

/// Some shards with a publisher each, an external end that publishes too, and perhaps an engine.
struct World {
    random: u64,
    hubs: Vec<ShardHub>,
    engine: Option<TestEngine>,
    outside: ExternalEnd,
    publishers: Vec<ConnectionId>,
    /// The publications, by their tickets: the topic, the id, and the contents.
    asked: Vec<(usize, String, String)>,
    answers: HashMap<u64, PublishOutcome>,
}

impl World {
    fn new(seed: u64, ids: IdLimits) -> World {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let shards = 1 + next(&mut random, 4);
        let limits = MeshLimits {
            lane_entries_max: 2 + next(&mut random, 6),
            overflow_bytes_max: next(&mut random, 2_000),
            ..MeshLimits::default()
        };
        let mut roles = EndRole::shards_and_control(shards);
        roles.extend((next(&mut random, 2) == 0).then_some(EndRole::Engine));
        let wake = roles.iter().map(|_| Arc::new(|| {}) as Wake).collect();
        let mut ends = MeshEnd::connect_with(wake, &roles, &limits);
        let engine = roles.contains(&EndRole::Engine).then(|| TestEngine::new(ends.pop().unwrap()));
        let outside = ExternalEnd::new(ends.pop().unwrap());
        let limits = HubLimits { ids, ..HubLimits::default() };
        let hubs = ends.into_iter().map(|mesh| {
            let hub = ShardHub::new(mesh, limits, 1_000);
            if engine.is_some() { hub.with_engine(TestEngine::topics(shards as u16 + 1)) } else { hub }
        });
        let mut hubs: Vec<ShardHub> = hubs.collect();
        let publishers = hubs.iter_mut().map(|hub| hub.connections.insert(HubConnection::new(())).unwrap()).collect();
        World { random, hubs, engine, outside, publishers, asked: Vec::new(), answers: HashMap::new() }
    }

    fn draw(&mut self, below: usize) -> usize {
        next(&mut self.random, below)
    }

    /// Publishes from a random end: an id that was used before, or a new one; contents that were used with this id
    /// before, or seldom others.
    fn publish(&mut self, ids: usize) {
        let (number, id) = (self.draw(TOPICS), self.draw(ids).to_string());
        let contents = if self.draw(8) == 0 { format!("other {id}") } else { format!("contents {id}") };
        let (ticket, publication) = (self.asked.len() as u64, Publication::text(&contents).id(&id));
        self.asked.push((number, id, contents));
        let end = self.draw(self.hubs.len() + 1);
        if let Some(hub) = self.hubs.get_mut(end) {
            let answer = hub.publish_asking(&topic(number), self.publishers[end], publication, ticket);
            self.answers.extend(answer.map(|answer| (ticket, answer)));
        } else {
            self.outside.submit(topic(number), None, publication, ticket);
        }
    }

    fn step(&mut self) {
        let (shard, act) = (self.draw(self.hubs.len()), self.draw(6));
        let hub = &mut self.hubs[shard];
        match act {
            0 => _ = hub.take_request(&mut Vec::new()),
            1 => _ = hub.take_delivery(&mut Vec::new()),
            2 => hub.send_out(),
            3 => self.outside.send_out(),
            4 => {
                while let Some((ticket, reply)) = self.outside.next_answer() {
                    self.note(ticket, reply.published().expect("nothing else was asked for"));
                }
            }
            _ => {
                let random = &mut self.random;
                if let Some(engine) = &mut self.engine {
                    engine.work(|below| next(random, below));
                    engine.end.send_out();
                }
            }
        }
        for (ticket, answer) in self.hubs[shard].take_answered() {
            self.note(ticket, answer);
        }
    }

    fn note(&mut self, ticket: u64, answer: PublishOutcome) {
        assert_eq!(self.answers.insert(ticket, answer), None, "a publisher gets one answer");
    }

    /// Goes on until all publishers have their answers.
    fn settle(&mut self) {
        for _ in 0..1_000_000 {
            if self.answers.len() == self.asked.len() {
                return;
            }
            self.step();
        }
        panic!("{} of {} are answered", self.answers.len(), self.asked.len());
    }

    /// Returns how many publications the homes and the engine have ordered in a topic.
    fn ordered(&self, number: usize) -> usize {
        let of_engine = self.engine.as_ref().filter(|_| TestEngine::has(&topic(number)));
        let home = &self.hubs[usize::from(self.hubs[0].home(&topic(number)))];
        of_engine.map_or(home.offset(&topic(number)) as usize, |engine| {
            engine.places.get(&topic(number)).map_or(0, Vec::len)
        })
    }
}

/// Every publication with the same topic, id and contents gets the same place; one with other contents is refused; and
/// the topic has as many messages as there are places in the answers.
#[test]
fn each_id_is_published_once() {
    let run = |seed| {
        let mut world = World::new(seed, IdLimits::default());
        for _ in 0..200 {
            world.publish(20);
            (0..world.draw(20)).for_each(|_| world.step());
        }
        world.settle();
        let mut first: HashMap<(usize, &str), (&str, Place)> = HashMap::new();
        let (mut repeated, mut refused) = (0, 0);
        for (ticket, (number, id, contents)) in world.asked.iter().enumerate() {
            if let Ok(Published { place, .. }) = world.answers[&(ticket as u64)] {
                let own = first.insert((*number, id), (contents, place));
                assert!(own.is_none_or(|own| own == (contents, place)), "{number} {id} has two places");
                repeated += usize::from(own.is_some());
            }
        }
        for (ticket, (number, id, contents)) in world.asked.iter().enumerate() {
            if let Err(error) = world.answers[&(ticket as u64)] {
                assert_eq!(error, PublishError::OtherContents);
                assert_ne!(first[&(*number, id.as_str())].0, contents, "{number} {id} was published with the same");
                refused += 1;
            }
        }
        for number in 0..TOPICS {
            let places = first.keys().filter(|(topic, _)| *topic == number).count();
            assert_eq!(world.ordered(number), places, "seed {seed}");
        }
        let counts: Vec<_> = world.hubs.iter().map(ShardHub::id_counts).collect();
        assert_eq!(counts.iter().map(|counts| counts.repeated).sum::<u64>(), repeated as u64);
        assert_eq!(counts.iter().map(|counts| counts.other_contents).sum::<u64>(), refused);
        assert!(repeated > 0 && refused > 0);
        // After the window nothing is left.
        for hub in &mut world.hubs {
            hub.note_time(Millis(IdLimits::default().window_ms));
            hub.forget_ended_ids();
            assert_eq!(hub.id_bytes(), 0);
        }
    };
    each_seed("hub::simulator::ids", 300, run, |()| {});
}

/// With little memory for ids, publications are refused; those that have a place keep it until the window is over.
#[test]
fn full_ids_refuse_over_all_shards() {
    let mut full = 0;
    let run = |seed| {
        let mut world = World::new(seed, IdLimits { window_ms: 300_000, bytes_max: 4_000 });
        for _ in 0..200 {
            world.publish(1_000);
            (0..world.draw(20)).for_each(|_| world.step());
        }
        world.settle();
        let mut places: HashMap<(usize, &str), Place> = HashMap::new();
        let mut full = 0;
        for (ticket, (number, id, _)) in world.asked.iter().enumerate() {
            match world.answers[&(ticket as u64)] {
                Ok(Published { place, .. }) => {
                    assert!(places.insert((*number, id), place).is_none_or(|before| before == place))
                }
                Err(PublishError::IdsFull { .. }) => full += 1,
                Err(PublishError::OtherContents) => {}
            }
        }
        let ordered = (0..TOPICS).map(|number| world.ordered(number)).sum::<usize>();
        assert_eq!(ordered, places.len(), "what is refused is not published");
        assert!(world.hubs.iter().all(|hub| hub.id_bytes() <= 4_000));
        full
    };
    each_seed("hub::simulator::ids", 100, run, |of_run: usize| full += of_run);
    assert!(full > 1_000, "{full} were refused");
}

const TOPICS: usize = 3;
