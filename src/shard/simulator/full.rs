//! Shards that have gathered as much as they may, and the work that waits until they have room.

use super::homes::{Client, World};
use crate::{
    hub::MeshLimits,
    metrics::Counter,
    proto::{Fin, LARGE_FRAME, OpCode, encode_masked},
};

/// Returns a binary message of so many bytes.
fn message(length: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    encode_masked(OpCode::Binary, Fin::Set, &vec![0; length], [1, 2, 3, 4], &mut frame);
    frame
}

/// Clients of a shard that send large messages without pause.
struct Flood {
    clients: Vec<Client>,
    frame: Vec<u8>,
}

impl Flood {
    /// Lets so much arrive that no client runs out of input, and lets subscribers take what they were sent.
    fn arrive(&self, world: &World, shard: usize) {
        for &client in &self.clients {
            let arrived = world.nodes[shard].network.borrow().lines[client.line].arrived.len();
            if arrived < 8 * self.frame.len() {
                world.arrive(client, &self.frame.repeat(8));
            }
        }
        world.nodes[shard].network.borrow_mut().lines.iter_mut().for_each(|line| line.sent.clear());
    }

    /// Runs a turn of the shard beside the flood. Returns whether it has taken messages of its clients.
    fn turn(&self, world: &mut World, shard: usize) -> bool {
        self.arrive(world, shard);
        let before = world.count(shard, Counter::MessagesIn);
        world.turn(shard);
        world.count(shard, Counter::MessagesIn) > before
    }
}

/// Clients fill a shard whenever it has room: requests of another shard are taken all the same, at the latest after
/// two more walks.
#[test]
fn input_does_not_keep_mail_waiting() {
    let mut world = World::with(MeshLimits::default(), |config| config.limits.gathered_bytes_max = 200_000);
    let topic = World::topic(0);
    (0..20).for_each(|_| _ = world.subscriber(0, &topic));
    let clients = (0..8).map(|_| world.publisher(0, &topic)).collect();
    let other = world.publisher(1, &topic);
    world.run_all();
    let pace = &mut world.nodes[0].shard.pace;
    (pace.send_batch, pace.flush_entries) = (4, 4);
    let flood = Flood { clients, frame: message(LARGE_FRAME) };
    let (mut walk, mut longest) = (0, 0);
    for _ in 0..30 {
        walk = if flood.turn(&mut world, 0) { 0 } else { walk + 1 };
        longest = longest.max(walk);
    }
    assert!((4..20).contains(&longest), "a walk of {longest} turns");
    assert!(world.count(0, Counter::ReceivePaused) > 0, "the shard was full");
    for round in 0..10 {
        world.send(other, "other", 1);
        world.turn(1);
        assert!(world.nodes[0].shard.hub.has_mail());
        let turns = (1..100).find(|_| {
            flood.turn(&mut world, 0);
            !world.nodes[0].shard.hub.has_mail()
        });
        assert!(
            turns.is_some_and(|turns| turns <= 2 * longest + 3),
            "{turns:?} turns in round {round}, {longest} in a walk"
        );
    }
}

/// Deliveries fill a shard whenever it has room: requests are taken all the same, by turns with them.
#[test]
fn deliveries_keep_no_requests_waiting() {
    let mut world = World::with(MeshLimits::default(), |config| config.limits.gathered_bytes_max = 100_000);
    let topics = [0, 1].map(World::topic);
    let [near, flooded] = topics.each_ref().map(|topic| world.subscriber(0, topic));
    let clients = (0..8).map(|_| world.publisher(1, &topics[1])).collect();
    let far = world.publisher(1, &topics[0]);
    world.run_all();
    world.sent(near);
    let flood = Flood { clients, frame: message(LARGE_FRAME) };
    // From then on deliveries wait beside the lane.
    (0..10).for_each(|_| _ = flood.turn(&mut world, 1));
    for round in 0..10 {
        world.send(far, "far", 1);
        let mut received = Vec::new();
        let turns = (1..100).find(|_| {
            flood.turn(&mut world, 1);
            world.turn(0);
            world.nodes[0].network.borrow_mut().lines[flooded.line].sent.clear();
            received.extend(world.sent(near));
            !received.is_empty()
        });
        assert!(turns.is_some_and(|turns| turns <= 6), "{turns:?} turns in round {round}");
        assert_eq!(received, ["far 0"]);
    }
}
