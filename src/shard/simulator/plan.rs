//! The plan of a run, which its seed draws.

use std::time::Duration;

use super::{network::Weather, random::Random};
use crate::{
    config::Config,
    hub::{MeshLimits, RECEIPTS_MAX},
    proto::{KeepAlive, Tick},
    shard::pace::Pace,
};

/// The most topics of a run.
pub(super) const TOPICS_MAX: usize = 6;

/// The plan of a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) start: Tick,
    pub(super) steps: usize,
    pub(super) shards: usize,
    /// An engine orders some of the topics.
    pub(super) has_engine: bool,
    /// By topic: whether it asks for tags.
    pub(super) tagged: [bool; TOPICS_MAX],
    /// The limits of the lanes between the shards and the control thread's end.
    pub(super) mesh: MeshLimits,
    /// A shard that has few turns.
    pub(super) lazy: Option<usize>,
    pub(super) topics: usize,
    /// The most topics of one client.
    pub(super) subscriptions_max: usize,
    pub(super) clients_max: usize,
    /// How many clients of a thousand speak the second protocol.
    pub(super) second_protocol: u32,
    /// The number of free slots that rest before one of them gets its next owner.
    pub(super) slots_resting: usize,
    /// Largest message; few runs have large ones.
    pub(super) message_max: usize,
    /// Largest room of a socket.
    pub(super) room_max: usize,
    pub(super) backlog_is_limited: bool,
    /// Messages whose end has not arrived have little time, or little room together.
    pub(super) unfinished_is_limited: bool,
    /// Chance per mille that a client's bytes travel in records.
    pub(super) sealed: u32,
    /// Chance per mille that a message of the control thread asks for a receipt, and the most receipts that a home
    /// waits for.
    pub(super) receipts: u32,
    pub(super) receipts_max: usize,
    /// Clients get all their messages before the end begins.
    pub(super) settles: bool,
    pub(super) weather: Weather,
    pub(super) pace: Pace,
}

impl Plan {
    /// Fair weather, for tests that choose the actions themselves.
    pub(super) const CALM: Plan = Plan {
        start: Tick(0),
        steps: 0,
        shards: 1,
        has_engine: false,
        tagged: [false; TOPICS_MAX],
        mesh: MeshLimits {
            lane_bytes_max: 32 << 20,
            message_bytes_max: 256 << 20,
            overflow_bytes_max: 4 << 20,
            lane_entries_max: 1_024,
        },
        lazy: None,
        topics: 1,
        subscriptions_max: 1_024,
        clients_max: 100,
        second_protocol: 0,
        slots_resting: 0,
        message_max: 100,
        room_max: 100_000,
        backlog_is_limited: false,
        unfinished_is_limited: false,
        sealed: 0,
        receipts: 0,
        receipts_max: RECEIPTS_MAX,
        settles: true,
        weather: Weather::FAIR,
        pace: Pace::DEFAULT,
    };

    /// Draws a plan, and the limits and times of `config` that go with it.
    pub(super) fn draw(random: &mut Random, config: &mut Config) -> Self {
        let huge = 1 << 30;
        config.keep_alive = KeepAlive {
            ping_interval: if random.chance(500) { 0 } else { random.within(20..=80) as u32 },
            pong_timeout: if random.chance(300) { 0 } else { random.within(10..=40) as u32 },
            close_timeout: random.within(10..=50) as u32,
        };
        config.limits.gathered_bytes_max = random.pick(&[1, 100, 5_000, huge, huge]);
        config.limits.backlog_bytes_max = huge;
        config.limits.backlog_messages_max = huge as u64;
        let backlog_is_limited = random.chance(500);
        if backlog_is_limited {
            config.limits.backlog_bytes_max = random.pick(&[200, 1_000, 5_000, 60_000]);
            config.limits.backlog_messages_max = random.pick(&[1, 3, 10, huge as u64]);
        }
        config.limits.unfinished_bytes_max = huge;
        config.limits.message_ticks_max = 0;
        let unfinished_is_limited = random.chance(300);
        if unfinished_is_limited {
            config.limits.unfinished_bytes_max = random.pick(&[2_000, 20_000, huge]);
            config.limits.message_ticks_max = random.pick(&[0, 25, 60]);
        }
        config.limits.receipt_timeout = Duration::from_millis(random.pick(&[100, 300, 5_000]));
        let shards = random.pick(&[1, 2, 2, 3, 4]);
        Plan {
            start: Tick(random.within(0..=2_000) as u32),
            steps: random.within(60..=900),
            shards,
            has_engine: random.chance(400),
            tagged: if random.chance(400) {
                [(); TOPICS_MAX].map(|()| random.chance(500))
            } else {
                [false; TOPICS_MAX]
            },
            mesh: Self::draw_mesh(random),
            lazy: (shards > 1 && random.chance(400)).then(|| random.within(0..=shards - 1)),
            topics: random.pick(&[1, 2, 3, TOPICS_MAX]),
            subscriptions_max: random.pick(&[2, 4, 1_024]),
            clients_max: random.within(2..=14),
            second_protocol: random.pick(&[0, 300, 500, 1_000]),
            slots_resting: random.pick(&[0, 0, 3]),
            message_max: if random.chance(60) { 200_000 } else { random.pick(&[30, 300, 3_000]) },
            room_max: random.pick(&[30, 300, 3_000, 100_000]),
            backlog_is_limited,
            unfinished_is_limited,
            sealed: random.pick(&[0, 300, 300, 1_000]),
            receipts: random.pick(&[0, 300, 1_000]),
            receipts_max: random.pick(&[1, 3, RECEIPTS_MAX]),
            settles: random.chance(500),
            weather: Weather {
                late: random.pick(&[0, 100, 500, 900]),
                repeated: random.pick(&[0, 0, 100]),
                ended: random.pick(&[0, 50, 300]),
                short_receive: random.pick(&[0, 100, 400]),
                short_send: random.pick(&[0, 50, 300]),
                busy: random.pick(&[0, 300, 900]),
            },
            pace: if random.chance(900) { Self::draw_pace(random) } else { Pace::DEFAULT },
        }
    }

    /// Draws lanes that are mostly short: a few messages fill them.
    fn draw_mesh(random: &mut Random) -> MeshLimits {
        if random.chance(100) {
            return MeshLimits::default();
        }
        MeshLimits {
            lane_entries_max: random.within(2..=7),
            overflow_bytes_max: random.within(0..=2_000),
            message_bytes_max: random.pick(&[0, 1 << 20]),
            ..MeshLimits::default()
        }
    }

    /// Draws small portions, for which a handful of connections is as much as many thousand are for a real shard.
    fn draw_pace(random: &mut Random) -> Pace {
        let flush_bytes = random.pick(&[1, 100, 5_000, 1 << 30]);
        let batch_bytes = random.pick(&[1, 1_000, 1 << 30]);
        let backlog_bytes = random.pick(&[500, 5_000, 256 << 10]);
        let mut portion = || random.pick(&[1, 1, 2, 3, 8, 64]);
        Pace {
            flush_bytes,
            batch_bytes,
            receive_batch: portion(),
            receive_batches: portion(),
            frames: portion() as u32,
            send_batch: portion(),
            entry_pieces: portion(),
            flush_entries: portion(),
            backlog_pieces: portion(),
            backlog_bytes,
            mail: portion(),
            history_parts: 1,
        }
    }
}
