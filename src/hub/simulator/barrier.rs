//! Tests the barriers of a drain while clients publish, with steps of the shards in any order.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use super::world::{next, topic};
use crate::hub::{
    ConnectionId, EndRole, ExternalEnd, Homes, HubConnection, HubLimits, MeshEnd, MeshLimits, Publication, Scope,
    ShardHub, SubscribeOptions, Wake,
    testing::{TestEngine, pieces, texts},
};

/// Some shards, each with a subscriber of every topic, and an external end. All of them publish until they begin to
/// leave; shards publish after that too.
struct World {
    random: u64,
    hubs: Vec<ShardHub>,
    engine: Option<TestEngine>,
    outside: ExternalEnd,
    /// The subscriber of each shard.
    subscribers: Vec<ConnectionId>,
    /// For each end, the external end last: whether it sleeps, has been woken since, and has sent its barrier.
    sleeps: Vec<bool>,
    woken: Vec<Arc<AtomicBool>>,
    has_begun: Vec<bool>,
    has_passed: Vec<bool>,
    /// The messages of each topic that ends have published before their barriers.
    before: Vec<Vec<String>>,
    published: u64,
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let shards = 1 + next(&mut random, 4);
        let limits = MeshLimits {
            lane_entries_max: 2 + next(&mut random, 6),
            overflow_bytes_max: next(&mut random, 2_000),
            message_bytes_max: if next(&mut random, 2) == 0 { 0 } else { 1 << 20 },
            ..MeshLimits::default()
        };
        let mut roles = EndRole::shards_and_control(shards);
        roles.extend((next(&mut random, 2) == 0).then_some(EndRole::Engine));
        let has_engine = roles.contains(&EndRole::Engine);
        let woken: Vec<Arc<AtomicBool>> = roles.iter().map(|_| Arc::default()).collect();
        let wake = woken.iter().map(|woken| {
            let woken = Arc::clone(woken);
            Arc::new(move || woken.store(true, Ordering::Relaxed)) as Wake
        });
        let mut ends = MeshEnd::connect_with(wake.collect(), &roles, &limits);
        let engine = has_engine.then(|| TestEngine::new(ends.pop().unwrap()));
        let outside = ExternalEnd::new(ends.pop().unwrap());
        let mut hubs: Vec<ShardHub> =
            ends.into_iter().map(|mesh| ShardHub::new(mesh, HubLimits::default(), 1_000)).collect();
        if has_engine {
            let topics = TestEngine::topics(shards as u16 + 1);
            hubs = hubs.into_iter().map(|hub| hub.with_engine(topics)).collect();
        }
        let subscribers = hubs.iter_mut().map(|hub| {
            let connection = HubConnection::new(());
            let id = hub.connections.insert(connection).unwrap();
            (0..TOPICS).for_each(|number| _ = hub.subscribe(id, &topic(number), SubscribeOptions::default()));
            id
        });
        let subscribers: Vec<ConnectionId> = subscribers.collect();
        while !hubs.iter().zip(&subscribers).all(|(hub, &id)| (0..TOPICS).all(|at| hub.is_subscribed(id, &topic(at)))) {
            for hub in &mut hubs {
                while hub.take_delivery(&mut Vec::new()) || hub.take_request(&mut Vec::new()) {}
                hub.send_out();
            }
        }
        World {
            random,
            hubs,
            engine,
            outside,
            subscribers,
            sleeps: vec![false; shards + 1],
            woken,
            has_begun: vec![false; shards + 1],
            has_passed: vec![false; shards],
            before: vec![Vec::new(); TOPICS],
            published: 0,
        }
    }

    fn pick(&mut self, below: usize) -> usize {
        next(&mut self.random, below)
    }

    fn is_external(&self, end: usize) -> bool {
        end == self.hubs.len()
    }

    fn rouse(&mut self, end: usize) {
        self.sleeps[end] = false;
        if self.is_external(end) { self.outside.awake() } else { self.hubs[end].awake() }
    }

    fn publish(&mut self, end: usize) {
        let number = self.pick(TOPICS);
        let home = self.hubs[0].home(&topic(number));
        let is_behind = if self.is_external(end) {
            self.outside.is_behind(home)
        } else {
            // The home of a topic that the engine orders waits for the engine.
            let engine = self.hubs.len() as u16 + 1;
            let has_engine = self.engine.is_some() && TestEngine::has(&topic(number));
            let orders = if has_engine && usize::from(home) == end { engine } else { home };
            self.hubs[end].is_behind(Homes::One(orders))
        };
        // An external end publishes nothing after its barrier; a shard's handlers and clients may.
        if is_behind || (self.is_external(end) && self.has_begun[end]) {
            return;
        }
        self.rouse(end);
        self.published += 1;
        let text = format!("{} from {end} {number}", self.published);
        let message = Publication::text(&text);
        if self.is_external(end) {
            self.outside.submit(topic(number), None, message, self.published);
        } else {
            self.hubs[end].publish_by_name(&topic(number), None, message, Scope::Server);
        }
        if !self.has_begun[end] {
            self.before[number].push(text);
        }
    }

    fn begin(&mut self, end: usize) {
        if self.has_begun[end] {
            return;
        }
        self.rouse(end);
        self.has_begun[end] = true;
        if self.is_external(end) { self.outside.send_barrier() } else { self.hubs[end].send_barrier() }
    }

    /// Lets an end act, unless it sleeps.
    fn work(&mut self, end: usize, act: usize) {
        if self.sleeps[end] {
            if !self.woken[end].load(Ordering::Relaxed) {
                return;
            }
            self.rouse(end);
        }
        if self.is_external(end) {
            _ = self.outside.next_answer();
        } else {
            match act {
                0 => _ = self.hubs[end].take_delivery(&mut Vec::new()),
                1 => _ = self.hubs[end].take_request(&mut Vec::new()),
                2 => self.hubs[end].send_out(),
                _ => {}
            }
            self.check(end);
        }
        if act == 3 {
            self.end_turn(end);
        }
    }

    /// Ends a turn: an end that has nothing to do sleeps until it is woken.
    fn end_turn(&mut self, end: usize) {
        self.woken[end].store(false, Ordering::Relaxed);
        let may_sleep = if self.is_external(end) {
            self.outside.send_out();
            self.outside.may_sleep()
        } else {
            self.hubs[end].send_out();
            self.hubs[end].about_to_sleep();
            !self.hubs[end].has_mail()
        };
        self.sleeps[end] = true;
        if !may_sleep {
            self.rouse(end);
        }
    }

    /// Ends the subscriptions of a shard's subscriber, as its close would, when the shard has passed the barrier.
    /// Checks that the subscriber is owed every message from before the drain, and each message once.
    fn check(&mut self, shard: usize) {
        if self.has_passed[shard] || !self.hubs[shard].has_passed_barrier() {
            return;
        }
        self.has_passed[shard] = true;
        assert!(self.has_begun.iter().all(|&has_begun| has_begun), "an end still publishes: {:?}", self.has_begun);
        let owed = texts(&pieces(self.hubs[shard].leave(self.subscribers[shard])));
        for (number, before) in self.before.iter().enumerate() {
            let is_of_topic = |text: &&String| text.ends_with(&format!(" {number}"));
            let owed: Vec<&String> = owed.iter().filter(is_of_topic).collect();
            for text in before {
                let count = owed.iter().filter(|other| **other == text).count();
                assert_eq!(count, 1, "{text} on shard {shard}");
            }
        }
    }

    /// Lets all ends publish, then one after the other begin to leave, until all shards have passed the barrier.
    /// Returns whether anything was on its way when the last end began.
    fn run(&mut self) -> bool {
        let ends = self.hubs.len() + 1;
        let mut is_late = false;
        for step in 0..STEPS_MAX {
            let (end, act) = (self.pick(ends), self.pick(8));
            if let Some(engine) = &mut self.engine
                && next(&mut self.random, 3) == 0
            {
                engine.work(|below| next(&mut self.random, below));
                engine.end.send_out();
            }
            match act {
                4..6 => self.publish(end),
                6 if step > 100 && self.pick(8) == 0 => {
                    let begins_last = self.has_begun.iter().filter(|&&has_begun| !has_begun).count() == 1;
                    is_late |= begins_last && self.hubs.iter().any(|hub| hub.has_mail() || hub.has_waiting());
                    self.begin(end);
                }
                _ => self.work(end, act % 4),
            }
            if self.has_passed.iter().all(|&has_passed| has_passed) {
                return is_late;
            }
            let mut all = self.sleeps.iter().zip(&self.woken);
            let all_sleep = all.all(|(sleeps, woken)| *sleeps && !woken.load(Ordering::Relaxed));
            let all_leave = self.has_begun.iter().all(|&has_begun| has_begun);
            let is_quiet = self.engine.as_ref().is_none_or(|engine| engine.end.is_quiet());
            assert!(!all_sleep || !all_leave || !is_quiet, "every end sleeps, and a barrier is under way");
        }
        panic!("a shard has not passed the barrier");
    }
}

#[test]
fn everything_before_the_barrier_is_gathered_when_it_has_passed() {
    let mut late = 0;
    for seed in 0..SEEDS {
        let outcome = std::panic::catch_unwind(|| World::new(seed).run());
        late += u64::from(outcome.unwrap_or_else(|_| panic!("it was seed {seed}")));
    }
    assert!(late > SEEDS / 4, "of {SEEDS} barriers only {late} had something to wait for");
}

/// A shard without other ends passes its barrier at once.
#[test]
#[should_panic(expected = "a shard drains once")]
fn a_shard_drains_once() {
    let mut hub: ShardHub = ShardHub::new(MeshEnd::alone(), HubLimits::default(), 1);
    hub.send_barrier();
    assert!(hub.has_passed_barrier(), "it waits for nobody");
    hub.send_barrier();
}

const TOPICS: usize = 4;
const SEEDS: u64 = 500;
const STEPS_MAX: usize = 200_000;
