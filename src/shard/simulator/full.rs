//! Shards that have gathered as much as they may, and the work that waits until they have room.

use super::{
    super::io_state::Reading,
    homes::{Client, World},
};
use crate::{
    hub::MeshLimits,
    metrics::Counter,
    proto::{CloseCode, Fin, LARGE_FRAME, OpCode, encode_masked},
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

/// Clients fill a shard whenever it has room: requests of another shard are taken nevertheless, at the latest after one
/// more walk.
#[test]
fn input_does_not_keep_mail_waiting() {
    let mut world = World::with(MeshLimits::default(), |config| config.limits.gathered_bytes_max = 200_000);
    // Each topic may gather its first message, and together they fill the shard.
    let topics = World::topics(0, 8);
    (0..5).for_each(|_| topics.iter().for_each(|topic| _ = world.subscriber(0, topic)));
    let clients = topics.iter().map(|topic| world.publisher(0, topic)).collect();
    let other = world.publisher(1, &topics[0]);
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
            turns.is_some_and(|turns| turns <= longest + 2),
            "{turns:?} turns in round {round}, {longest} in a walk"
        );
    }
}

/// Deliveries fill a shard whenever it has room: requests are taken nevertheless, alternately with the deliveries.
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

/// Returns shards with room for two large messages of one topic, and with flushes that send little: a walk over a
/// crowd takes many turns.
fn with_long_walks() -> World {
    let mut world = World::with(MeshLimits::default(), |config| config.limits.gathered_bytes_max = 400_000);
    for node in &mut world.nodes {
        (node.shard.pace.send_batch, node.shard.pace.flush_entries) = (8, 8);
    }
    world
}

/// Subscribers whose walk takes 25 turns with [`with_long_walks`].
const CROWD: usize = 200;

const PING: &[u8] = b"\x89\x84\0\0\0\0ping";

/// Clients beside a flood: a subscriber that sends only pings, and a client that publishes to another topic than the
/// flood does.
struct Bystanders {
    quiet: Client,
    busy: Client,
}

impl Bystanders {
    fn new(world: &mut World) -> Self {
        let topic = &World::topics(0, 2)[1];
        Bystanders { quiet: world.subscriber(0, topic), busy: world.connect(0, Some(topic), Some(topic)) }
    }

    /// Checks that within four turns a ping is answered, and a message delivered. `turn` runs a turn.
    fn check(&self, world: &mut World, mut turn: impl FnMut(&mut World)) {
        world.arrive(self.quiet, PING);
        world.send(self.busy, "message", 1);
        let (mut quiet, mut busy) = (Vec::new(), Vec::new());
        for _ in 0..4 {
            turn(world);
            quiet.extend(world.sent(self.quiet));
            busy.extend(world.sent(self.busy));
        }
        quiet.sort_unstable();
        assert_eq!((quiet, busy), (vec!["message 0".to_owned(), "ping".into()], vec!["message 0".to_owned()]));
    }
}

/// A flood of one topic waits for the topic's walks, and everybody else goes on.
#[test]
fn a_topic_that_is_behind_holds_up_only_its_publishers() {
    let mut world = with_long_walks();
    let topic = World::topic(0);
    (0..CROWD).for_each(|_| _ = world.subscriber(0, &topic));
    let clients: Vec<Client> = (0..8).map(|_| world.publisher(0, &topic)).collect();
    let bystanders = Bystanders::new(&mut world);
    world.run_all();
    let flood = Flood { clients, frame: message(LARGE_FRAME) };
    for _ in 0..40 {
        flood.turn(&mut world, 0);
        bystanders.check(&mut world, |world| _ = flood.turn(world, 0));
    }
    assert!(world.count(0, Counter::MessagesIn) > 50, "the flood goes on");
    assert!(world.count(0, Counter::AwaitedTopic) > 50, "and waits again and again");
    let counts = [Counter::AwaitedHome, Counter::ReceivePaused].map(|counter| world.count(0, counter));
    assert_eq!(counts, [0, 0], "the shard was never full");
    // A client that waits is closed like any other.
    let waits = |client: &&Client| world.reading(**client) == Some(Reading::AwaitsHome);
    let waiting = *flood.clients.iter().find(waits).expect("some of them wait");
    world.nodes[0].shard.close(waiting.id, CloseCode::GOING_AWAY, "");
    world.sent(waiting);
    (0..3).for_each(|_| world.turn(0));
    assert_eq!(world.sent(waiting), ["close 1001"]);
    assert_ne!(world.reading(waiting), Some(Reading::AwaitsHome));
}

/// Messages of other shards for a topic that is behind leave room for the clients of this shard.
#[test]
fn mail_leaves_room_for_input() {
    let mut world = with_long_walks();
    let topic = World::topic(1);
    (0..CROWD).for_each(|_| _ = world.subscriber(0, &topic));
    let clients = (0..8).map(|_| world.publisher(1, &topic)).collect();
    let bystanders = Bystanders::new(&mut world);
    world.run_all();
    let flood = Flood { clients, frame: message(LARGE_FRAME) };
    let turn = |world: &mut World| {
        flood.turn(world, 1);
        world.turn(0);
        world.nodes[0].network.borrow_mut().lines[..CROWD].iter_mut().for_each(|line| line.sent.clear());
    };
    for _ in 0..40 {
        turn(&mut world);
        bystanders.check(&mut world, turn);
    }
    assert!(world.nodes[0].shard.hub.has_deliveries(), "more of them wait");
    assert_eq!(world.count(0, Counter::ReceivePaused), 0, "the shard was never full");
}

/// A handler may publish to any topic: its connection waits for the topic to which the handler has published more than
/// the topic's share.
#[test]
fn a_handlers_connection_waits_for_the_topic_that_it_has_published_to() {
    let mut world = with_long_walks();
    let topic = World::topic(0);
    (0..CROWD).for_each(|_| _ = world.subscriber(0, &topic));
    let clients: Vec<Client> = (0..8).map(|_| world.connect(0, None, None)).collect();
    let bystanders = Bystanders::new(&mut world);
    world.run_all();
    let mut frame = Vec::new();
    let text = format!("{} {}", topic.as_str(), "x".repeat(LARGE_FRAME));
    encode_masked(OpCode::Text, Fin::Set, text.as_bytes(), [1, 2, 3, 4], &mut frame);
    let flood = Flood { clients, frame };
    // At first the shard does not know where the handlers publish, and takes a message of each client.
    (0..100).for_each(|_| _ = flood.turn(&mut world, 0));
    let [waited, paused] = [Counter::AwaitedTopic, Counter::ReceivePaused].map(|counter| world.count(0, counter));
    for _ in 0..20 {
        flood.turn(&mut world, 0);
        bystanders.check(&mut world, |world| _ = flood.turn(world, 0));
    }
    assert!(world.count(0, Counter::AwaitedTopic) > waited + 5, "they wait again");
    assert_eq!(world.count(0, Counter::ReceivePaused), paused, "and the shard is not full");
}

/// Topics that are flooded share the room, each of them goes on, and some room is left.
#[test]
fn topics_that_are_flooded_share_the_room() {
    const TOPICS: usize = 8;
    let mut world = with_long_walks();
    let topics = World::topics(0, TOPICS);
    let subscribers: Vec<Client> = topics.iter().map(|topic| world.subscriber(0, topic)).collect();
    (1..CROWD / TOPICS).for_each(|_| topics.iter().for_each(|topic| _ = world.subscriber(0, topic)));
    let clients: Vec<Client> = topics.iter().map(|topic| world.publisher(0, topic)).collect();
    world.run_all();
    let flood = Flood { clients, frame: message(4_000) };
    let mut received = [0; TOPICS];
    for _ in 0..300 {
        flood.arrive(&world, 0);
        world.turn(0);
        let gathered = world.nodes[0].shard.hub.gathered_bytes();
        // A run's buffer doubles, and a topic that has gathered nothing takes a message in any case.
        assert!(gathered <= 400_000 / 2 + TOPICS * 16_000, "{gathered} bytes are gathered");
        for (received, subscriber) in received.iter_mut().zip(&subscribers) {
            *received += world.nodes[0].network.borrow().lines[subscriber.line].sent.len() / 4_000;
        }
    }
    assert!(received.iter().all(|&count| count > 30), "{received:?}");
    assert_eq!(world.count(0, Counter::ReceivePaused), 0, "the shard was never full");
}
