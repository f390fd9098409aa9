//! The scenarios, and the flags of those that are not `fanout`.

use super::{
    LoadFlags, MachineFlags, Options, TargetFlags, VerifyFlag, parse_duration, parse_number, parse_time, whole,
};
use crate::output::OutputOptions;
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

/// What a run does, beside the flags that all runs share.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Scenario {
    /// Publishers send messages to topics. Each subscriber must receive every message of its topics.
    #[default]
    Fanout,
    /// Every connection sends messages, and the server sends each back.
    Echo {
        /// Messages in flight on each connection.
        depth: u64,
    },
    /// Connections open in steps and stay open.
    Idle {
        /// The number of steps.
        steps: usize,
        /// The time between the last connection of a step and the reading of the memory.
        settle: Duration,
    },
    /// All connections close at once and come back at once.
    Storm {
        /// The number of times.
        rounds: usize,
        /// The largest number of handshakes in progress at the same time.
        at_once: usize,
    },
    /// Subscribers leave, and others join, while messages are published.
    Churn {
        /// Subscribers that leave per second; as many join.
        per_second: u64,
    },
    /// A share of the subscribers stops reading.
    Stall {
        /// The share, from 0, for nobody, and below 1.
        share: f64,
    },
    /// The load rises until the latency exceeds a bound.
    Ramp {
        /// What rises.
        by: RampBy,
        /// The first step: messages per second, or subscribers.
        from: u64,
        /// The factor from one step to the next.
        factor: f64,
        /// The largest number of steps.
        steps: usize,
        /// The bound of the 99th percentile.
        p99: Duration,
    },
    /// Publishers send messages of the sizes and at the times that a file gives.
    Replay {
        /// The file.
        file: PathBuf,
        /// The factor of the speed: with 2, in half of the recorded time.
        speed: f64,
    },
}

impl Scenario {
    /// Returns the flag of the number of connections that receive.
    pub(crate) fn connections_flag(&self) -> &'static str {
        match self {
            Scenario::Echo { .. } | Scenario::Idle { .. } | Scenario::Storm { .. } => "--connections",
            Scenario::Ramp { by: RampBy::Connections, .. } => "--from",
            _ => "--subscribers",
        }
    }
}

/// What rises in a `ramp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RampBy {
    /// Messages per second.
    Rate,
    /// Subscribers; --rate is the rate of all steps.
    Connections,
}

/// The flags of `echo`.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Scenario")]
pub struct EchoOptions {
    /// Connections, each of which sends and receives.
    #[arg(long, alias = "subscribers", default_value_t = 100, value_parser = whole::<usize>)]
    connections: usize,
    /// Messages in flight on each connection.
    #[arg(long, default_value_t = 1)]
    depth: u64,
    /// Payload bytes of each message, at least 17. Below 32 there is no room for a time, so no latency is measured.
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// Send binary messages instead of text.
    #[arg(long)]
    binary: bool,
    /// Length of the measured window, such as 4s, 500ms or 2m; a number alone is seconds.
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    duration: Duration,
    /// Time of sending before the measured window.
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    warmup: Duration,
    /// How long to wait for the last messages.
    ///
    /// The window also ends when no message came back for this time.
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    drain: Duration,
    #[command(flatten)]
    target: TargetFlags,
    #[command(flatten)]
    machine: MachineFlags,
    #[command(flatten)]
    output: OutputOptions,
}

/// The flags of `idle`.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Scenario")]
pub struct IdleOptions {
    /// Connections to hold.
    #[arg(long, alias = "subscribers", default_value_t = 1_000, value_parser = whole::<usize>)]
    connections: usize,
    /// Steps in which the connections open; with --server-pid the memory for each connection is the slope over the
    /// steps.
    #[arg(long, default_value_t = 4)]
    steps: usize,
    /// Time after each step, before the server's memory is read.
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    settle: Duration,
    /// How long all connections are held after the last step.
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    hold: Duration,
    #[command(flatten)]
    target: TargetFlags,
    #[command(flatten)]
    machine: MachineFlags,
    #[command(flatten)]
    output: OutputOptions,
}

/// The flags of `storm`.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Scenario")]
pub struct StormOptions {
    /// Connections to close and to open again.
    #[arg(long, alias = "subscribers", default_value_t = 1_000, value_parser = whole::<usize>)]
    connections: usize,
    /// How often all connections are closed and opened again.
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// Largest number of handshakes in progress at the same time; --connect-rate bounds their rate.
    #[arg(long, default_value_t = 1_000_000)]
    at_once: usize,
    /// Time for which the connections are held before each round.
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    hold: Duration,
    /// How long to wait for a connection to come back. When none has come back for this time, those that are not back
    /// count as disconnected, and the run ends.
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    drain: Duration,
    #[command(flatten)]
    target: TargetFlags,
    #[command(flatten)]
    machine: MachineFlags,
    #[command(flatten)]
    output: OutputOptions,
}

/// The flags of `churn`.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Scenario")]
pub struct ChurnOptions {
    /// Subscribers that leave per second; as many join.
    #[arg(long, default_value_t = 100)]
    churn: u64,
    #[command(flatten)]
    target: TargetFlags,
    #[command(flatten)]
    load: LoadFlags,
    #[command(flatten)]
    machine: MachineFlags,
    #[command(flatten)]
    output: OutputOptions,
}

/// The flags of `stall`.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Scenario")]
pub struct StallOptions {
    /// The share of the subscribers that stops reading in the middle of the window, from 0 and below 1.
    ///
    /// The stall lasts for half of the window. The server notices it only when the socket buffers of a stalled
    /// subscriber are full: give enough --rate, --size and --duration.
    #[arg(long, default_value_t = 0.1, value_parser = parse_number)]
    share: f64,
    #[command(flatten)]
    target: TargetFlags,
    #[command(flatten)]
    load: LoadFlags,
    #[command(flatten)]
    machine: MachineFlags,
    #[command(flatten)]
    output: OutputOptions,
}

/// The flags of `ramp`.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Scenario")]
pub struct RampOptions {
    /// What rises. With rate, --from is the rate; with connections, --from is the number of subscribers, and --rate is
    /// needed.
    #[arg(long, value_enum, default_value_t = RampBy::Rate)]
    by: RampBy,
    /// The first step: messages per second, or subscribers with --by connections. It takes the place of --rate or
    /// --subscribers.
    #[arg(long, default_value_t = 100)]
    from: u64,
    /// The factor from one step to the next.
    #[arg(long, default_value_t = 1.5, value_parser = parse_number)]
    factor: f64,
    /// Largest number of steps, each of --warmup and --duration.
    #[arg(long, default_value_t = 20)]
    steps: usize,
    /// The bound that the 99th percentile of the latency must not exceed, such as 10ms.
    #[arg(long, default_value = "10ms", value_parser = parse_time)]
    p99: Duration,
    #[command(flatten)]
    target: TargetFlags,
    #[command(flatten)]
    load: LoadFlags,
    #[command(flatten)]
    machine: MachineFlags,
    #[command(flatten)]
    output: OutputOptions,
}

/// The flags of `replay`.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Scenario")]
pub struct ReplayOptions {
    /// Lines such as {"at_ms": 12.5, "size": 200, "topic": 0}.
    ///
    /// at_ms: milliseconds, in ascending order. size: bytes of the payload, from 32. topic: from 0 and below --topics;
    /// without it the topics take turns. Other fields are left out. The payloads are the generator's own.
    file: PathBuf,
    /// How many times faster than recorded to publish.
    #[arg(long, default_value_t = 1.0, value_parser = parse_number)]
    speed: f64,
    /// Connections that receive.
    #[arg(long, default_value_t = 1_000)]
    subscribers: usize,
    /// Connections that publish.
    #[arg(long, default_value_t = 1)]
    publishers: usize,
    /// How long to wait for the last deliveries.
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    drain: Duration,
    /// Count messages without a stamp of this run as foreign, but not as a mistake.
    #[arg(long)]
    ignore_foreign: bool,
    #[command(flatten)]
    target: TargetFlags,
    #[command(flatten)]
    machine: MachineFlags,
    #[command(flatten)]
    output: OutputOptions,
}

impl Default for LoadFlags {
    /// Returns the flags of a run whose scenario has its own way to publish.
    fn default() -> LoadFlags {
        LoadFlags {
            subscribers: 1_000,
            publishers: 1,
            size: 128,
            binary: false,
            rate: None,
            in_flight: None,
            unthrottled: false,
            duration: Duration::from_secs(10),
            warmup: None,
            messages: None,
            drain: Duration::from_secs(5),
            verify: VerifyFlag::All,
            sample: 16,
            total_order: false,
            ignore_foreign: false,
        }
    }
}

impl From<EchoOptions> for Options {
    fn from(flags: EchoOptions) -> Options {
        let EchoOptions { mut target, connections, depth, size, binary, duration, warmup, drain, machine, output } =
            flags;
        // The hub sends a message back only to those who ask for it.
        if target.is_for_ringhub() {
            target.sub_query.get_or_insert_with(|| "echo=true".to_owned());
        }
        let load = LoadFlags { subscribers: connections, size, binary, duration, drain, ..LoadFlags::default() };
        let load = LoadFlags { warmup: Some(warmup), in_flight: Some(depth), ..load };
        Options { scenario: Scenario::Echo { depth }, target, load, hold: None, machine, output }
    }
}

impl From<IdleOptions> for Options {
    fn from(flags: IdleOptions) -> Options {
        let IdleOptions { target, connections, steps, settle, hold, machine, output } = flags;
        let load = LoadFlags { subscribers: connections, ..LoadFlags::default() };
        Options { scenario: Scenario::Idle { steps, settle }, target, load, hold: Some(hold), machine, output }
    }
}

impl From<StormOptions> for Options {
    fn from(flags: StormOptions) -> Options {
        let StormOptions { target, connections, rounds, at_once, hold, drain, machine, output } = flags;
        let load = LoadFlags { subscribers: connections, drain, ..LoadFlags::default() };
        Options { scenario: Scenario::Storm { rounds, at_once }, target, load, hold: Some(hold), machine, output }
    }
}

impl From<ChurnOptions> for Options {
    fn from(flags: ChurnOptions) -> Options {
        let ChurnOptions { target, churn, load, machine, output } = flags;
        Options { scenario: Scenario::Churn { per_second: churn }, target, load, hold: None, machine, output }
    }
}

impl From<StallOptions> for Options {
    fn from(flags: StallOptions) -> Options {
        let StallOptions { target, share, load, machine, output } = flags;
        Options { scenario: Scenario::Stall { share }, target, load, hold: None, machine, output }
    }
}

impl From<RampOptions> for Options {
    fn from(flags: RampOptions) -> Options {
        let RampOptions { target, by, from, factor, steps, p99, mut load, machine, output } = flags;
        match by {
            // The plan refuses another rate.
            RampBy::Rate => load.rate = load.rate.or(Some(from)),
            RampBy::Connections => load.subscribers = usize::try_from(from).unwrap_or(usize::MAX),
        }
        let scenario = Scenario::Ramp { by, from, factor, steps, p99 };
        Options { scenario, target, load, hold: None, machine, output }
    }
}

impl From<ReplayOptions> for Options {
    fn from(flags: ReplayOptions) -> Options {
        let ReplayOptions { file, target, speed, subscribers, publishers, drain, ignore_foreign, machine, output } =
            flags;
        let load = LoadFlags { subscribers, publishers, drain, ignore_foreign, ..LoadFlags::default() };
        Options { scenario: Scenario::Replay { file, speed }, target, load, hold: None, machine, output }
    }
}
