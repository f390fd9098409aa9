//! Messages that have begun and do not end, and how long they may take.

use super::world::{PONG, World};
use crate::{
    config::Config,
    hub::ConnectionId,
    metrics::Counter,
    proto::{State, Tick},
    shard::pace::Pace,
};

/// The beginning of a message, and its end.
pub(super) const BEGIN: &[u8] = b"\x02\x80\0\0\0\0";
const END: &[u8] = b"\x80\x80\0\0\0\0";
const MESSAGE: &[u8] = b"\x82\x80\0\0\0\0";

/// A message may take so many ticks.
const TICKS_MAX: u32 = 20;

/// Returns a shard that receives nothing while a message waits to be sent. The shard has a subscriber and a second
/// client, number 1, whose id is returned too.
fn world(pace: Pace) -> (World, ConnectionId) {
    let mut world = World::without_clients(|config: &mut Config| {
        config.keep_alive.ping_interval = 0;
        config.limits.message_ticks_max = TICKS_MAX;
        config.limits.gathered_bytes_max = 1;
    });
    world.connect(usize::MAX, true);
    let id = world.connect(usize::MAX, false);
    while world.shard.turn(Tick(0).begin()) {}
    world.shard.pace = pace;
    (world, id)
}

impl World {
    fn is_open(&self, id: ConnectionId) -> bool {
        let connection = self.shard.hub.connections.get(id);
        connection.is_some_and(|connection| connection.io.session.state() == State::Open)
    }

    fn messages(&self) -> (u64, u64) {
        (self.counters.get(Counter::MessagesIn), self.counters.get(Counter::MessageTimeout))
    }
}

/// The client has sent the end in time. The end stands in the socket, after more than one receive takes, and the shard
/// comes to it much later.
#[test]
fn the_end_of_a_message_may_wait_in_the_socket() {
    let (mut world, id) = world(Pace { frames: 500, ..Pace::DEFAULT });
    world.arrive(1, BEGIN, 1);
    world.shard.turn(Tick(0).begin());
    world.arrive(1, PONG, 30_000);
    world.arrive(1, END, 1);
    for tick in 1..50 {
        world.shard.turn(Tick(tick).begin());
        assert!(world.is_open(id), "tick {tick}");
    }
    assert_eq!(world.messages(), (0, 0), "the end has been parsed too early for this test");
    while world.shard.turn(Tick(50).begin()) {}
    assert_eq!((world.messages(), world.is_open(id)), ((1, 0), true));
}

/// Other clients fill the shard, so that each turn parses one frame of a client that floods. Only the input that had
/// arrived when the time of its message was over delays the close of that client.
#[test]
fn a_full_shard_does_not_extend_the_time_of_a_message() {
    let (mut world, id) = world(Pace::DEFAULT);
    let publisher = world.connect(usize::MAX, false);
    while world.shard.turn(Tick(0).begin()) {}
    world.arrive(2, MESSAGE, 10);
    world.shard.turn(Tick(0).begin());
    world.arrive(1, BEGIN, 1);
    let (mut arrived, mut closed_at) = (0, None);
    for tick in 0..400 {
        world.arrive(2, MESSAGE, 2);
        world.arrive(1, PONG, 3);
        arrived += u64::from(tick <= TICKS_MAX) * 3;
        world.shard.turn(Tick(tick).begin());
        closed_at = closed_at.or((!world.is_open(id)).then_some(u64::from(tick)));
    }
    let closed_at = closed_at.expect("it is closed");
    // Each tick takes one frame: the frames that had arrived in time, and the others of the receive in which the last
    // of these came.
    assert!((u64::from(TICKS_MAX)..=2 * arrived).contains(&closed_at), "closed at tick {closed_at}");
    assert!(world.messages().1 == 1 && world.is_open(publisher));
    assert!(world.counters.get(Counter::InputDeferred) > closed_at, "the shard was not full");
}

/// A client can send nothing while the shard receives nothing.
#[test]
fn a_message_takes_no_time_while_the_shard_receives_nothing() {
    let pace = Pace { send_batch: 1, flush_entries: 1, ..Pace::DEFAULT };
    let (mut world, id) = world(pace);
    let publisher = world.connect(usize::MAX, false);
    (0..10).for_each(|_| _ = world.connect(usize::MAX, true));
    while world.shard.turn(Tick(0).begin()) {}
    world.arrive(1, BEGIN, 1);
    while world.shard.turn(Tick(0).begin()) {}
    // The walk over the subscribers takes a turn for each of them.
    world.arrive(2, MESSAGE, 1);
    world.shard.turn(Tick(1).begin());
    world.arrive(1, PONG, 1);
    let paused = world.counters.get(Counter::ReceivePaused);
    for tick in [2, 20, 40, 60, 79] {
        world.shard.turn(Tick(tick).begin());
        assert!(world.is_open(id), "tick {tick}");
    }
    assert_eq!(world.counters.get(Counter::ReceivePaused), paused + 5, "the shard received something");
    while world.shard.turn(Tick(80).begin()) {}
    assert!(world.is_open(id) && world.is_open(publisher));
    // The message's time goes on. Two ticks of it were used up before.
    world.shard.turn(Tick(80 + TICKS_MAX - 3).begin());
    assert!(world.is_open(id));
    world.shard.turn(Tick(80 + TICKS_MAX).begin());
    assert_eq!((world.messages(), world.is_open(id)), ((1, 1), false));
}
