//! Tokens that expire, and connections that end with them.

use std::time::Duration;

use super::world::{World, take_sent};
use crate::{
    handler::ShardApi as _,
    hub::ConnectionId,
    metrics::Counter,
    proto::{CloseCode, State, Tick},
};

/// Returns a shard that looks at its connections for no other reason, and one of its two connections.
fn world() -> (World, ConnectionId) {
    let mut world = World::without_clients(|config| config.keep_alive.ping_interval = 0);
    let id = world.connect(usize::MAX, true);
    world.connect(usize::MAX, true);
    world.turns();
    assert_eq!(world.shard.next_deadline(), None);
    (world, id)
}

impl World {
    /// Runs the turns of these ticks. Returns the tick at which the connection leaves the open state.
    fn closes_within(&mut self, id: ConnectionId, ticks: std::ops::Range<u32>) -> Option<u32> {
        for tick in ticks {
            while self.shard.turn(Tick(tick).begin()) {}
            if self.shard.facts(id).is_none_or(|facts| facts.state != State::Open) {
                return Some(tick);
            }
        }
        None
    }
}

/// The connection ends at the first tick after its token has expired, and no other connection does.
#[test]
fn a_connection_ends_at_the_tick_of_its_token() {
    let (mut world, id) = world();
    world.shard.set_lifetime(id, Some(Duration::from_millis(2_050)));
    assert_eq!(world.shard.next_deadline(), Some(Tick(21).begin()));
    assert_eq!(world.closes_within(id, 0..50), Some(21));
    assert_eq!(take_sent(&world.network, 0), ["answer", "close 4401"]);
    assert_eq!(take_sent(&world.network, 1), ["answer"]);
    assert_eq!(world.counters.get(Counter::TokenExpired), 1);
    assert!(world.shard.handlers.expiries.is_empty());
}

/// A fresh token moves the end in either direction, or takes it away; another token of the same connection only brings
/// it nearer.
#[test]
fn a_fresh_token_moves_the_end() {
    let seconds = Duration::from_secs;
    for (change, ends) in [
        (None, Some(20)),
        (Some((Some(seconds(5)), None)), Some(60)),
        // The next tick.
        (Some((Some(seconds(0)), None)), Some(11)),
        (Some((None, None)), None),
        (Some((Some(seconds(5)), Some(seconds(3)))), Some(40)),
        (Some((Some(seconds(5)), Some(seconds(9)))), Some(60)),
        (Some((None, Some(seconds(2)))), Some(30)),
        // Longer than the wheel spans, and longer than ticks can say.
        (Some((Some(seconds(100)), None)), Some(1_010)),
        (Some((Some(Duration::MAX), None)), None),
    ] {
        let (mut world, id) = world();
        world.shard.set_lifetime(id, Some(seconds(2)));
        assert_eq!(world.closes_within(id, 0..11), None);
        if let Some((fresh, other)) = change {
            world.shard.set_lifetime(id, fresh);
            other.into_iter().for_each(|other| world.shard.shorten_lifetime(id, other));
        }
        assert_eq!(world.closes_within(id, 10..1_100), ends, "{change:?}");
        assert_eq!(world.counters.get(Counter::TokenExpired), u64::from(ends.is_some()));
    }
}

/// The end of a connection that is closing anyway stays as it is.
#[test]
fn a_token_ends_no_connection_twice() {
    let (mut world, id) = world();
    world.shard.set_lifetime(id, Some(Duration::from_secs(1)));
    world.shard.close(id, CloseCode::GOING_AWAY, "bye");
    assert_eq!(world.closes_within(id, 0..1), Some(0));
    assert_eq!(take_sent(&world.network, 0), ["answer", "close 1001"]);
    for tick in 1..200 {
        while world.shard.turn(Tick(tick).begin()) {}
    }
    assert_eq!(take_sent(&world.network, 0), Vec::<String>::new());
    assert_eq!(world.counters.get(Counter::TokenExpired), 0);
    assert!(world.shard.handlers.expiries.is_empty());
}
