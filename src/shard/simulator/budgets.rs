//! Shards of a server that is short of memory.

use std::sync::Arc;

use super::world::{PONG, World, take_sent};
use crate::{
    budget::Budget,
    config::Config,
    hub::ConnectionId,
    metrics::Counter,
    proto::{CloseCode, KeepAlive, State, Tick},
};

/// Returns a shard whose server has so much memory, with three subscribers that take nothing, and with a publisher.
/// The first subscriber's socket has the least room, so the subscriber is owed the most. The third is owed nothing.
fn three_subscribers(bytes_max: u64) -> (World, Arc<Budget>, [ConnectionId; 3]) {
    let mut world = World::without_clients(|config: &mut Config| {
        config.keep_alive = KeepAlive { ping_interval: 0, pong_timeout: 0, close_timeout: 50 };
    });
    let budget = Budget::new(bytes_max, u64::MAX, 0, 1);
    world.shard.memory.budget = Some((Arc::clone(&budget), 0));
    let ids = [20_000, 500_000, usize::MAX].map(|room| world.connect(room, true));
    world.connect(usize::MAX, false);
    while world.shard.turn(Tick(0).begin()) {}
    (world, budget, ids)
}

impl World {
    /// Publishes so many messages of 10 000 bytes, and runs turns at this tick.
    fn publish_at(&mut self, tick: u32, count: usize) {
        let message = [&b"\x82\xfe\x27\x10\0\0\0\0"[..], &[0; 10_000]].concat();
        for _ in 0..count {
            self.arrive(3, &message, 1);
            while self.shard.turn(Tick(tick).begin()) {}
        }
    }

    fn states(&self, ids: [ConnectionId; 3]) -> [Option<State>; 3] {
        ids.map(|id| self.shard.hub.connections.get(id).map(|connection| connection.io.session.state()))
    }

    /// Returns the bytes of all backlogs, added up here.
    fn backlogs(&self, ids: [ConnectionId; 3]) -> u64 {
        let outputs =
            ids.map(|id| self.shard.hub.connections.get(id).and_then(|connection| connection.io.output.as_ref()));
        outputs.into_iter().flatten().map(|output| output.bytes() as u64).sum()
    }
}

/// The largest backlog goes first, and only as many as are needed. Its client is told, and the others get everything.
#[test]
fn the_largest_backlog_is_given_up_when_memory_is_short() {
    let (mut world, budget, ids) = three_subscribers(1_000_000);
    world.publish_at(1, 80);
    world.shard.turn(Tick(2).begin());
    let (backlogs, told) = (world.backlogs(ids), world.counters.get(Counter::MemoryBacklogs));
    assert_eq!((told, world.states(ids)), (backlogs, [Some(State::Open); 3]));
    assert!((1_000_000..1_200_000).contains(&backlogs), "{backlogs}");
    // The sum is known now, and is above the limit.
    assert!(budget.judge() > 100_000);
    while world.shard.turn(Tick(3).begin()) {}
    assert_eq!(world.states(ids), [Some(State::Closing), Some(State::Open), Some(State::Open)]);
    while world.shard.turn(Tick(4).begin()) {}
    assert_eq!((budget.judge(), budget.is_short()), (0, false));
    assert_eq!(world.counters.get(Counter::MemoryBacklogs), world.backlogs(ids));
    let counters = [Counter::MemoryClosed, Counter::SlowClosed].map(|counter| world.counters.get(counter));
    assert_eq!(counters, [1, 0]);
    assert!(world.counters.get(Counter::SlowDropped) > 60);
    let mut told = Vec::new();
    for tick in 5..100 {
        world.sent(1);
        told.extend(take_sent(&world.network, 0));
        while world.shard.turn(Tick(tick).begin()) {}
    }
    assert_eq!(world.states(ids)[1..], [Some(State::Open); 2]);
    assert_eq!(world.backlogs(ids), 0, "who reads gets all");
    assert_eq!((&*told[0], told.last().map(String::as_str)), ("answer", Some("close 1008")));
}

/// Nothing is given up while the process needs less than its backlogs are charged, since they share memory.
#[test]
fn shared_memory_is_not_counted_twice() {
    let (mut world, budget, ids) = three_subscribers(100_000);
    budget.note_resident(Some(100_000));
    world.publish_at(1, 80);
    (2..5).for_each(|tick| while world.shard.turn(Tick(tick).begin()) {});
    assert!(world.counters.get(Counter::MemoryBacklogs) > 500_000);
    assert_eq!((world.states(ids), budget.is_short()), ([Some(State::Open); 3], false));
    budget.note_resident(Some(100_001));
    (5..7).for_each(|tick| while world.shard.turn(Tick(tick).begin()) {});
    assert_ne!(world.states(ids)[0], Some(State::Open));
}

/// A shard that sleeps on its backlogs looks at the memory of the server with each tick.
#[test]
fn a_sleeping_shard_gives_up_its_backlogs_too() {
    let (mut world, budget, ids) = three_subscribers(4_000_000);
    assert_eq!(world.shard.next_deadline(), None, "without backlogs there is nothing to look at");
    world.publish_at(1, 80);
    assert_eq!(world.shard.next_deadline(), Some(Tick(2).begin()));
    while world.shard.turn(Tick(2).begin()) {}
    // The control thread, the second one, takes the rest.
    budget.note(1, 4_000_000, 0);
    assert_eq!(world.shard.next_deadline(), Some(Tick(3).begin()));
    while world.shard.turn(Tick(3).begin()) {}
    assert_eq!(world.states(ids), [Some(State::Closing), Some(State::Closing), Some(State::Open)]);
}

/// A tick looks at few slots of many, and all backlogs are added up in the end.
#[test]
fn a_tick_looks_at_a_bounded_number_of_slots() {
    let (mut world, _, ids) = three_subscribers(1 << 40);
    world.shard.memory.slots_per_tick = 1;
    world.publish_at(1, 80);
    let all = world.backlogs(ids);
    let seen: Vec<u64> = (2..10)
        .map(|tick| {
            world.arrive(3, PONG, 1);
            while world.shard.turn(Tick(tick).begin()) {}
            world.counters.get(Counter::MemoryBacklogs)
        })
        .collect();
    assert!(seen.iter().skip(4).all(|&bytes| bytes == all), "{all} in {seen:?}");
}

/// The connection that holds the most is closed, whatever it holds. Here that is a message whose end does not arrive;
/// subscribers with smaller backlogs stay, and so does a publisher that holds next to nothing.
#[test]
fn the_largest_unfinished_message_is_given_up_before_smaller_backlogs() {
    let (mut world, budget, ids) = three_subscribers(1_500_000);
    let [large, small] = [world.connect(usize::MAX, false), world.connect(usize::MAX, false)];
    while world.shard.turn(Tick(0).begin()) {}
    let begun = |length: u32| [&b"\x82\xff\0\0\0\0\0\x0f\xff\xff\0\0\0\0"[..], &vec![0; length as usize]].concat();
    world.arrive(4, &begun(900_000), 1);
    world.arrive(5, &begun(1_000), 1);
    world.publish_at(1, 50);
    world.shard.turn(Tick(2).begin());
    let backlogs = world.backlogs(ids);
    assert!((300_000..900_000).contains(&backlogs), "{backlogs}");
    assert!(budget.judge() > 0, "{budget:?}");
    while world.shard.turn(Tick(3).begin()) {}
    while world.shard.turn(Tick(4).begin()) {}
    assert_eq!((budget.judge(), budget.is_short()), (0, false));
    assert_eq!(world.states(ids), [Some(State::Open); 3]);
    assert_eq!(world.states([large, small, ids[2]]), [Some(State::Closing), Some(State::Open), Some(State::Open)]);
    assert_eq!([Counter::MemoryClosed, Counter::UnfinishedClosed].map(|counter| world.counters.get(counter)), [1, 0]);
    assert!(world.counters.get(Counter::MemoryUnfinished) < 10_000, "its memory is free");
    assert_eq!(take_sent(&world.network, 4).last().map(String::as_str), Some("close 1013"));
}

/// Commands that wait for a decision count as what their connection holds, and are given up with it. A connection that
/// is closing already gives them up, too.
#[test]
fn the_commands_that_wait_are_given_up_with_their_connection() {
    let (mut world, budget, ids) = three_subscribers(1_500_000);
    let [large, small] = [world.connect(usize::MAX, false), world.connect(usize::MAX, false)];
    while world.shard.turn(Tick(0).begin()) {}
    world.shard.handlers.note_waiting(large, 1_000_000);
    world.shard.handlers.note_waiting(small, 1_000);
    world.publish_at(1, 50);
    world.shard.turn(Tick(2).begin());
    assert!(world.counters.get(Counter::MemoryInput) > 1_001_000 && budget.judge() > 0, "{budget:?}");
    while world.shard.turn(Tick(3).begin()) {}
    while world.shard.turn(Tick(4).begin()) {}
    assert_eq!((budget.judge(), budget.is_short()), (0, false));
    assert_eq!(world.states(ids), [Some(State::Open); 3]);
    assert_eq!(world.states([large, small, ids[2]]), [Some(State::Closing), Some(State::Open), Some(State::Open)]);
    let waiting = |world: &World| [large, small].map(|id| world.shard.handlers.waiting_of(id));
    assert_eq!(waiting(&world)[0], 0);
    assert_eq!(waiting(&world)[1], world.shard.handlers.waiting_bytes());
    assert_eq!(take_sent(&world.network, 4).last().map(String::as_str), Some("close 1013"));
    world.shard.close(small, CloseCode::NORMAL, "");
    assert!(waiting(&world)[1] > 1_000, "nobody needs the memory");
    budget.note(1, 1_500_000, 0);
    while world.shard.turn(Tick(5).begin()) {}
    assert_eq!(world.shard.handlers.waiting_bytes(), 0);
}

/// Connections that hold next to nothing are not closed: that would free nothing, and they could not come back.
#[test]
fn small_backlogs_are_not_given_up_in_vain() {
    let (mut world, budget, ids) = three_subscribers(1_000_000);
    let message = [&b"\x82\xfe\x03\xe8\0\0\0\0"[..], &[0; 1_000]].concat();
    let mut published = 0;
    while world.backlogs(ids) < 2_000 {
        world.arrive(3, &message, 1);
        while world.shard.turn(Tick(1).begin()) {}
        published += 1;
        assert!(published < 30, "the first subscriber's socket takes everything");
    }
    let backlogs = world.backlogs(ids);
    assert!(backlogs < 4_096, "{backlogs}");
    // The control thread holds much that cannot be given up.
    budget.note(1, 2_000_000, 0);
    (2..9).for_each(|tick| while world.shard.turn(Tick(tick).begin()) {});
    assert!(budget.is_short());
    assert_eq!((world.states(ids), world.counters.get(Counter::MemoryClosed)), ([Some(State::Open); 3], 0));
}

/// What openings hold is not given up by subscribers: the openings end for it.
#[test]
fn subscribers_do_not_pay_for_openings() {
    let (mut world, budget, ids) = three_subscribers(1_000_000);
    world.publish_at(1, 50);
    let backlogs = world.backlogs(ids);
    assert!((300_000..700_000).contains(&backlogs), "{backlogs}");
    budget.note_openings(0, 3_000_000);
    (2..6).for_each(|tick| while world.shard.turn(Tick(tick).begin()) {});
    assert!(budget.is_short() && budget.openings_to_end(0, 1) > 2_000_000);
    assert_eq!((world.states(ids), world.backlogs(ids)), ([Some(State::Open); 3], backlogs));
    // The control thread holds more than is left of the limit.
    budget.note(1, 900_000, 0);
    while world.shard.turn(Tick(6).begin()) {}
    assert_ne!(world.states(ids)[0], Some(State::Open));
}

/// Messages under way that are small each, and fill the memory together, are given up: the largest first.
#[test]
fn many_small_messages_are_given_up_when_they_fill_the_memory() {
    let mut world = World::without_clients(|_| {});
    let budget = Budget::new(1_000_000, u64::MAX, 0, 1);
    world.shard.memory.budget = Some((Arc::clone(&budget), 0));
    let begun = |length: usize| [&b"\x82\xfe\x0f\xff\0\0\0\0"[..], &vec![0; length]].concat();
    let ids: Vec<ConnectionId> = (0..500).map(|_| world.connect(usize::MAX, false)).collect();
    for client in 0..500 {
        // The first client's message is the smallest.
        world.arrive(client, &begun(if client == 0 { 600 } else { 2_000 }), 1);
        while world.shard.turn(Tick(0).begin()) {}
    }
    let each = world.shard.incoming.unfinished.bytes_of(ids[1]);
    assert!((2_000..4_096).contains(&each), "{each}");
    for tick in 1..5 {
        while world.shard.turn(Tick(tick).begin()) {}
    }
    let closed = world.counters.get(Counter::MemoryClosed);
    assert!((20..450).contains(&closed), "{closed}");
    assert_eq!((budget.judge(), budget.is_short()), (0, false));
    assert_eq!(world.states([ids[0]; 3]), [Some(State::Open); 3]);
}

/// An idle connection is closed for a large opening request only if such requests are much of the memory.
#[test]
fn an_idle_connection_keeps_its_large_request_unless_many_do() {
    let (mut world, budget, ids) = three_subscribers(1_000_000);
    world.publish_at(1, 10);
    assert!(world.backlogs(ids) > 4_096);
    world.shard.handlers.note_kept(ids[2], 200_000);
    world.shard.handlers.note_kept(ids[1], 4_000);
    budget.note(1, 2_000_000, 0);
    (2..6).for_each(|tick| while world.shard.turn(Tick(tick).begin()) {});
    let states = world.states(ids);
    assert!(budget.is_short() && states[0] != Some(State::Open), "{states:?}");
    assert_eq!(states[1..], [Some(State::Open); 2]);
    world.shard.handlers.note_kept(ids[2], 250_000);
    (6..9).for_each(|tick| while world.shard.turn(Tick(tick).begin()) {});
    let states = world.states(ids);
    assert!(states[2] != Some(State::Open) && states[1] == Some(State::Open), "{states:?}");
    assert_eq!(take_sent(&world.network, 2).last().map(String::as_str), Some("close 1013"));
}
