//! Reloads of a shard's settings between two turns, in the middle of messages and of silences.

use std::sync::Arc;

use super::{
    answering::Answering,
    message_times::BEGIN,
    world::{PONG, World, take_sent},
};
use crate::{
    auth::Access,
    config::{Config, Settings, Size, Sources, Time, settle},
    endpoints::Endpoints,
    handler::{Pattern, Route, RouteOptions, ShardApi as _, Typed},
    hub::ConnectionId,
    metrics::Counter,
    proto::{Fin, KeepAlive, MessageLimits, Millis, OpCode, State, Tick, encode_masked},
    surface::raw::TOPIC_PATTERN,
};

/// Returns the defaults after `change`.
fn config(change: impl FnOnce(&mut Settings)) -> Config {
    let mut settings = Settings::default();
    change(&mut settings);
    Config::new(&settings, 20_000).expect("settings that fit")
}

/// Returns the table of the one route that simulated shards have.
fn endpoints(config: &Config) -> Endpoints {
    let options = RouteOptions::new().forget_request().no_broadcast();
    let rules = settle(&options, Sources::WebSockets, &config.base_of_routes()).expect("rules that can be");
    let pattern = Pattern::new(TOPIC_PATTERN).expect("a pattern");
    let factory = Arc::new(Typed(Arc::new(Answering::default())));
    let route = Route { pattern, rules, topics: Some(Default::default()), factory };
    Endpoints::new(vec![route.into()], Vec::new(), Vec::new(), false, false, Access::default()).expect("one route")
}

/// A shard with the defaults and one client, which can be reloaded.
struct Reloaded {
    world: World,
    id: ConnectionId,
    config: Config,
}

impl Reloaded {
    fn new(change: impl FnOnce(&mut Settings)) -> Reloaded {
        let config = config(change);
        let mut world = World::without_clients(|started| *started = config.clone());
        let id = world.connect(usize::MAX, true);
        world.turns();
        take_sent(&world.network, 0);
        Reloaded { world, id, config }
    }

    fn reload(&mut self, at: Tick, change: impl FnOnce(&mut Settings)) {
        let new = config(change);
        let (before, after) = (endpoints(&self.config), endpoints(&new));
        self.world.shard.take_settings(at.begin(), &new, &before, &after);
        self.config = new;
    }

    fn arrive(&mut self, bytes: &[u8]) {
        self.world.arrive(0, bytes, 1);
        self.world.turns();
    }

    fn messages(&self) -> u64 {
        self.world.counters.get(Counter::MessagesIn)
    }

    fn is_open(&self) -> bool {
        let connection = self.world.shard.hub.connections.get(self.id);
        connection.is_some_and(|connection| connection.io.session.state() == State::Open)
    }

    fn limits(&self) -> MessageLimits {
        self.world.shard.facts(self.id).expect("an open connection").limits
    }
}

fn frame(opcode: OpCode, fin: Fin, length: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    encode_masked(opcode, fin, &vec![b'x'; length], [1, 2, 3, 4], &mut frame);
    frame
}

fn message(length: usize) -> Vec<u8> {
    frame(OpCode::Binary, Fin::Set, length)
}

/// The smaller limit holds for the next message, whether the end of a fragmented message is missing, or the end of a
/// frame, or of its header.
#[test]
fn a_message_that_has_begun_keeps_its_limits() {
    let (first, last) = (frame(OpCode::Binary, Fin::Unset, 80), frame(OpCode::Continuation, Fin::Set, 80));
    let whole = message(150);
    for (begin, end) in [(&first[..], &last[..]), whole.split_at(100), whole.split_at(1), whole.split_at(5)] {
        let mut shard = Reloaded::new(|_| {});
        shard.arrive(begin);
        shard.reload(Tick(0), |settings| settings.max_message = Size(100));
        // A frame of control is no end of the message.
        if begin == first {
            shard.arrive(PONG);
        }
        shard.arrive(end);
        assert_eq!((shard.messages(), shard.is_open()), (1, true), "{}", begin.len());
        assert_eq!(shard.limits().message_bytes_max, 100);
        assert!(shard.world.shard.handlers.own.is_empty(), "nothing is kept of a message that has ended");
        shard.arrive(&message(100));
        assert_eq!((shard.messages(), shard.is_open()), (2, true), "{}", begin.len());
        shard.arrive(&message(101));
        assert_eq!((shard.messages(), shard.is_open()), (2, false), "{}", begin.len());
        assert_eq!(shard.world.counters.get(Counter::ProtocolErrors), 1);
    }
}

/// Two reloads come within one message.
#[test]
fn a_second_reload_within_a_message_changes_the_next_one() {
    let mut shard = Reloaded::new(|_| {});
    let whole = message(150);
    shard.arrive(&whole[..50]);
    shard.reload(Tick(0), |settings| settings.max_message = Size(100));
    shard.reload(Tick(0), |settings| settings.max_message = Size(120));
    shard.arrive(&whole[50..]);
    shard.arrive(&message(120));
    assert_eq!((shard.messages(), shard.is_open()), (2, true));
    shard.arrive(&message(121));
    assert!(!shard.is_open());
}

#[test]
fn limits_that_a_handler_has_set_stay() {
    let mut shard = Reloaded::new(|_| {});
    let own = MessageLimits { message_bytes_max: 10, frame_bytes_max: 10, ..shard.limits() };
    shard.world.shard.set_limits(shard.id, own);
    shard.arrive(&message(10));
    shard.reload(Tick(0), |settings| settings.max_message = Size(1 << 10));
    assert_eq!(shard.limits(), own);
    shard.arrive(&message(11));
    assert!(!shard.is_open());
}

/// A connection that was never pinged is looked at from the reload on.
#[test]
fn pings_begin_and_end_with_a_reload() {
    let mut shard = Reloaded::new(|settings| settings.ping_interval = Time(std::time::Duration::ZERO));
    let pings = |shard: &mut Reloaded, ticks: std::ops::Range<u32>| {
        let before = shard.world.counters.get(Counter::PingsSent);
        for tick in ticks {
            while shard.world.shard.turn(Tick(tick).begin()) {}
        }
        shard.world.arrive(0, PONG, 1);
        shard.world.counters.get(Counter::PingsSent) - before
    };
    let every = |interval: u64| {
        move |settings: &mut Settings| settings.ping_interval = Time(std::time::Duration::from_secs(interval))
    };
    assert_eq!(pings(&mut shard, 0..100), 0);
    shard.reload(Tick(100), every(1));
    assert!(pings(&mut shard, 100..150) >= 1, "the connection was silent before");
    shard.reload(Tick(150), every(0));
    assert_eq!(pings(&mut shard, 150..400), 0);
    assert!(shard.is_open());
}

/// A keep-alive that code has set for all connections gives way only to another keep-alive in the settings.
#[test]
fn a_keep_alive_set_by_code_stays_unless_the_settings_change_it() {
    let mut shard = Reloaded::new(|_| {});
    let by_code = KeepAlive { ping_interval: 7, pong_timeout: 8, close_timeout: 9 };
    shard.world.shard.set_all_keep_alive(by_code);
    let keep_alive = |shard: &Reloaded| shard.world.shard.facts(shard.id).expect("an open connection").keep_alive;
    shard.reload(Tick(0), |settings| settings.max_message = Size(100));
    assert_eq!(keep_alive(&shard), by_code);
    shard.reload(Tick(0), |settings| settings.pong_timeout = Time(std::time::Duration::from_secs(3)));
    assert_eq!(keep_alive(&shard).pong_timeout, 30);
}

/// The time of a message counts from its first byte, also if a limit comes only later.
#[test]
fn a_message_under_way_gets_a_time() {
    let mut shard = Reloaded::new(|settings| {
        settings.message_timeout = Time(std::time::Duration::ZERO);
        settings.ping_interval = Time(std::time::Duration::ZERO);
    });
    shard.arrive(BEGIN);
    shard.reload(Tick(5), |settings| {
        settings.message_timeout = Time(std::time::Duration::from_secs(2));
        settings.ping_interval = Time(std::time::Duration::ZERO);
    });
    for tick in 5..20 {
        while shard.world.shard.turn(Tick(tick).begin()) {}
        assert!(shard.is_open(), "{tick}");
    }
    while shard.world.shard.turn(Tick(21).begin()) {}
    assert!(!shard.is_open());
    assert_eq!(shard.world.counters.get(Counter::MessageTimeout), 1);
}

#[test]
fn the_limits_of_the_shard_are_those_of_the_reload() {
    let mut shard = Reloaded::new(|_| {});
    shard.reload(Tick(3), |settings| {
        settings.max_message = Size(1 << 10);
        settings.max_backlog = Some(Size(1 << 20));
        settings.max_backlog_messages = 7;
        settings.max_gathered = Some(Size(2 << 20));
        settings.max_unfinished = Some(Size(1 << 30));
    });
    let limits = &shard.world.shard.limits;
    assert_eq!((limits.backlog_bytes_max, limits.backlog_messages_max), (1 << 20, 7));
    assert_eq!(shard.world.shard.unfinished_bytes_max, (1 << 30) / shard.config.shards);
    assert_eq!(shard.world.shard.now, Tick(3));
    assert_eq!(shard.world.shard.hub.now(), Millis(300));
}
