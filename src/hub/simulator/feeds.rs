//! Tests an external end that reads topics, with steps of the shards in any order: what each reader gets is compared
//! with the topic's one order.

use std::{collections::HashMap, sync::Arc};

use super::{
    super::{
        Arrival, EndRole, ExternalEnd, Homes, HubLimits, MeshEnd, MeshLimits, Publication, Scope, ShardHub, Wake,
        seeds::each_seed,
    },
    TOPICS,
    world::{next, topic},
};

/// Some shards, and an external end that publishes and reads.
struct Readers {
    random: u64,
    hubs: Vec<ShardHub>,
    external: ExternalEnd,
    readers: HashMap<u64, Reader>,
    next_reader: u64,
    ticket: u64,
    /// How many messages readers have got, and how many readers have waited for an acknowledgement.
    seen: [u64; 2],
}

/// A reader, and the offsets that it has got.
struct Reader {
    topic: usize,
    /// How many messages the home had ordered when the topic was announced for the reader; `None` if another reader had
    /// the topic.
    asked_at: Option<u64>,
    /// How many messages the home had ordered when the reader was told that it is live.
    live_at: Option<u64>,
    offsets: Vec<u64>,
}

impl Readers {
    fn new(seed: u64) -> Readers {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let shards = 1 + next(&mut random, 4);
        let limits = MeshLimits {
            lane_entries_max: 2 + next(&mut random, 6),
            overflow_bytes_max: next(&mut random, 2_000),
            ..MeshLimits::default()
        };
        let wake = (0..=shards).map(|_| Arc::new(|| {}) as Wake).collect();
        let mut ends = MeshEnd::connect_with(wake, &EndRole::shards_and_control(shards), &limits);
        let external = ExternalEnd::new(ends.pop().expect("the last end"));
        // Topics that nobody uses are forgotten at once.
        let limits = HubLimits { topics_idle_max: 0, ..HubLimits::default() };
        let hubs = ends.into_iter().map(|mesh| ShardHub::new(mesh, limits, 1_000)).collect();
        Readers { random, hubs, external, readers: HashMap::new(), next_reader: 0, ticket: 0, seen: [0; 2] }
    }

    fn pick(&mut self, below: usize) -> usize {
        next(&mut self.random, below)
    }

    fn home(&self, number: usize) -> u16 {
        self.hubs[0].home(&topic(number))
    }

    fn ordered(&self, number: usize) -> u64 {
        self.hubs[usize::from(self.home(number))].offset(&topic(number))
    }

    fn read(&mut self, number: usize) {
        self.next_reader += 1;
        let is_first = !self.readers.values().any(|reader| reader.topic == number);
        let is_live = self.external.read(&topic(number), self.next_reader);
        let ordered = self.ordered(number);
        let (asked_at, live_at) = (is_first.then_some(ordered), is_live.then_some(ordered));
        self.seen[1] += u64::from(!is_live);
        self.readers.insert(self.next_reader, Reader { topic: number, asked_at, live_at, offsets: Vec::new() });
    }

    fn stop(&mut self, reader: u64) {
        let Some(gone) = self.readers.remove(&reader) else { return };
        self.external.stop_reading(&topic(gone.topic), reader);
        gone.check(None);
    }

    fn publish(&mut self, number: usize) {
        let (home, at) = (self.home(number), self.pick(self.hubs.len() + 1));
        let message = Publication::text("x");
        match self.hubs.get_mut(at) {
            Some(hub) if !hub.is_behind(Homes::One(home)) => {
                hub.publish_by_name(&topic(number), None, message, Scope::Server);
            }
            None if !self.external.is_behind(home) => {
                self.ticket += 1;
                self.external.submit(topic(number), None, message, self.ticket);
            }
            _ => {}
        }
    }

    /// Takes what has come next for the external end. Returns whether there was something.
    fn take(&mut self) -> bool {
        let Some(arrival) = self.external.next_arrival() else { return false };
        match arrival {
            Arrival::Answer { .. } => {}
            Arrival::Live { topic: name } => {
                for reader in self.external.readers(&name).to_vec() {
                    let ordered = self.ordered(self.readers[&reader].topic);
                    let reader = self.readers.get_mut(&reader).expect("a reader");
                    assert_eq!(reader.live_at.replace(ordered), None, "told once");
                }
            }
            Arrival::Message { posted, place } => {
                for reader in self.external.readers(&posted.topic) {
                    let reader = self.readers.get_mut(reader).expect("a reader");
                    assert!(reader.live_at.is_some() && topic(reader.topic) == posted.topic);
                    reader.offsets.push(place.offset);
                    self.seen[0] += 1;
                }
            }
        }
        true
    }

    fn step(&mut self) {
        let (number, at) = (self.pick(TOPICS), self.pick(self.hubs.len()));
        match self.pick(16) {
            0 => self.read(number),
            1 => {
                // A topic whose last reader stops may be forgotten, and begin a new epoch: one reader of each stays.
                let reader = TOPICS as u64 + 1 + self.pick(self.next_reader as usize + 1) as u64;
                self.stop(reader);
            }
            2..=5 => self.publish(number),
            6..=8 => _ = self.hubs[at].take_request(&mut Vec::new()),
            9 => _ = self.hubs[at].take_delivery(&mut Vec::new()),
            10..=11 => self.hubs[at].send_out(),
            12 => self.external.send_out(),
            _ => _ = self.take(),
        }
    }

    /// Takes steps until nothing is on its way.
    fn settle(&mut self) {
        loop {
            let mut is_quiet = self.external.is_quiet();
            self.external.send_out();
            while self.take() {}
            for hub in &mut self.hubs {
                is_quiet &= !hub.has_mail() && hub.mesh.has_sent_all();
                while hub.take_request(&mut Vec::new()) {}
                while hub.take_delivery(&mut Vec::new()) {}
                hub.send_out();
            }
            if is_quiet {
                return;
            }
        }
    }
}

impl Reader {
    /// Checks that the reader has got a piece of the topic's order, without a gap or a repetition, up to `last` if it
    /// is still there.
    fn check(&self, last: Option<u64>) {
        let Reader { asked_at, live_at, offsets, .. } = self;
        assert!(offsets.windows(2).all(|pair| pair[1] == pair[0] + 1), "{offsets:?}");
        let Some(live_at) = live_at else { return assert!(offsets.is_empty() && last.is_none()) };
        if let Some(first) = offsets.first() {
            assert!(*first <= live_at + 1 && asked_at.is_none_or(|asked_at| *first > asked_at), "{offsets:?}");
        }
        if let Some(last) = last {
            assert_eq!(offsets.last().copied().unwrap_or(*live_at), last, "{offsets:?}");
        }
    }
}

/// Whatever the shards do meanwhile, every reader gets a piece of its topic's order, each message once, from the moment
/// that it is told of, or from just before.
#[test]
fn readers_get_each_message_once() {
    let run = |seed| {
        let mut world = Readers::new(seed);
        (0..TOPICS).for_each(|number| world.read(number));
        (0..400).for_each(|_| world.step());
        world.settle();
        for reader in world.readers.values() {
            reader.check(Some(world.ordered(reader.topic)));
        }
        // Without readers the homes send nothing more.
        let all: Vec<u64> = world.readers.keys().copied().collect();
        all.into_iter().for_each(|reader| world.stop(reader));
        world.settle();
        assert!(world.hubs.iter().all(|hub| hub.topics() == 0), "every topic is forgotten");
        world.seen
    };
    let mut seen = [0; 2];
    each_seed("hub::simulator::feeds", 500, run, |[messages, waited]| {
        seen[0] += messages;
        seen[1] += waited;
    });
    assert!(seen[0] > 10_000 && seen[1] > 1_500, "{seen:?}");
}

/// A reader that comes back gets nothing that was ordered before its new acknowledgement, even if it is on its way.
#[test]
fn a_reader_that_comes_back_begins_anew() {
    let mut world = Readers::new(3);
    world.read(0);
    world.settle();
    let home = usize::from(world.home(0));
    world.hubs[home].publish_by_name(&topic(0), None, Publication::text("before"), Scope::Server);
    world.hubs[home].send_out();
    world.stop(1);
    world.read(0);
    world.settle();
    assert!(world.readers[&2].offsets.is_empty(), "it was ordered before");
    world.hubs[home].publish_by_name(&topic(0), None, Publication::text("after"), Scope::Server);
    world.settle();
    assert_eq!(world.readers[&2].offsets.len(), 1);
}
