//! The flags, and the checked plan that they become.

mod plan;
mod scenarios;
mod target;

pub(crate) use plan::{Activity, Pace, Share};
pub use plan::{Load, Plan, Span, Verify};
pub use scenarios::{
    ChurnOptions, EchoOptions, IdleOptions, RampBy, RampOptions, ReplayOptions, Scenario, StallOptions, StormOptions,
};
pub use target::{PackingFlag, TargetFlags};

use crate::output::OutputOptions;
use clap::{Args, Parser, ValueEnum};
use std::time::Duration;

/// The flags of `fanout`; the flags of other scenarios become these.
#[derive(Clone, Debug, Parser)]
pub struct Options {
    /// The scenario.
    #[arg(skip)]
    pub scenario: Scenario,
    /// The server.
    #[command(flatten)]
    pub target: TargetFlags,
    /// Connections and messages.
    #[command(flatten)]
    pub load: LoadFlags,
    /// Only connect the subscribers, and stay idle for this time; pings are answered.
    #[arg(long, value_parser = parse_duration, conflicts_with_all = ["rate", "in_flight", "unthrottled", "messages"])]
    pub hold: Option<Duration>,
    /// How the generator itself runs.
    #[command(flatten)]
    pub machine: MachineFlags,
    /// What is printed.
    #[command(flatten)]
    pub output: OutputOptions,
}

/// Connections and messages.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Load")]
pub struct LoadFlags {
    /// Connections that receive.
    #[arg(long, default_value_t = 1_000)]
    pub subscribers: usize,
    /// Connections that publish, in turn: one message each.
    #[arg(long, default_value_t = 1)]
    pub publishers: usize,
    /// Payload bytes of each message, at least 17. Below 32 there is no room for a time, so no latency is measured.
    #[arg(long, default_value_t = 128)]
    pub size: usize,
    /// Send binary messages instead of text.
    #[arg(long)]
    pub binary: bool,
    /// Open loop: messages per second over all publishers; latency counts from the time at which a message was due.
    #[arg(long, conflicts_with = "in_flight")]
    pub rate: Option<u64>,
    /// Closed loop: the number of messages under way, that is, the missing deliveries divided by the mean number of
    /// subscribers. A single slow subscriber hardly holds the loop up.
    #[arg(long)]
    pub in_flight: Option<u64>,
    /// Publish as fast as the server reads.
    #[arg(long, conflicts_with_all = ["rate", "in_flight"])]
    pub unthrottled: bool,
    /// Length of the measured window, such as 4, 4s, 500ms or 2m.
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    pub duration: Duration,
    /// Time of publishing before the measured window; by default 1s, none with --messages.
    #[arg(long, value_parser = parse_duration)]
    pub warmup: Option<Duration>,
    /// Publish this many messages instead of for a duration; the window ends when all are delivered.
    #[arg(long, conflicts_with = "duration")]
    pub messages: Option<u64>,
    /// How long to wait for the last deliveries. With --in-flight, --unthrottled or --messages the window also ends if
    /// nothing arrives for this time.
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    pub drain: Duration,
    /// Which subscribers read every frame. With `sample` the kernel drops the bytes of the other subscribers, and only
    /// their number is checked. These subscribers answer no pings, so the server must send none.
    #[arg(long, value_enum, default_value_t = VerifyFlag::All)]
    pub verify: VerifyFlag,
    /// Subscribers that read every frame with --verify sample, spread evenly over the connection order.
    #[arg(long, default_value_t = 16)]
    pub sample: usize,
    /// Also check that all subscribers get the messages of different publishers in the same order; for one topic.
    #[arg(long)]
    pub total_order: bool,
    /// Messages that are not of this run are counted, but are no mistake.
    #[arg(long)]
    pub ignore_foreign: bool,
}

/// How the generator itself runs.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Generator")]
pub struct MachineFlags {
    /// New connections per second, at first, in a ramp and in a storm; 0 for no limit.
    #[arg(long, default_value_t = 0)]
    pub connect_rate: u64,
    /// Process id of the server, to report the CPU time and memory of this one process, without its children.
    #[arg(long)]
    pub server_pid: Option<u32>,
    /// Spread the connections over this many source addresses 127.0.0.x, at most 254; by default one for each 25 000
    /// connections. It needs a server in 127.0.0.0/8.
    #[arg(long)]
    pub source_addresses: Option<u8>,
    /// Threads that share the subscribers evenly. The first one also publishes; in echo each thread sends on its own
    /// connections.
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// Pin the threads to these CPUs: one CPU for all threads, or one for each, such as 1,2,3. Without it, several
    /// threads keep away from the CPUs that the process of --server-pid may use, unless it may use all.
    #[arg(long, value_delimiter = ',')]
    pub cpu: Vec<usize>,
    /// Sleep in epoll instead of spinning. The server then pays for waking the generator.
    #[arg(long)]
    pub sleep: bool,
    /// Report figures even if the generator was the bottleneck or other programs disturbed the run.
    #[arg(long)]
    pub allow_disturbance: bool,
}

/// How deliveries are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum VerifyFlag {
    /// Every subscriber reads every frame.
    All,
    /// Some subscribers read every frame, the others count bytes.
    Sample,
}

/// Parses a number of seconds, or a number with `ms`, `s` or `m`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let scale = match &text[digits.len()..] {
        "us" => 0.000_001,
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        unit => {
            return Err(format!("unknown unit `{unit}`; there are us, ms, s and m, and a number alone is in seconds"));
        }
    };
    let number: f64 = digits.parse().map_err(|_| "expected a number, such as 4, 4s, 500ms or 2m".to_owned())?;
    Duration::try_from_secs_f64(number * scale).map_err(|error| error.to_string())
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(parse_duration("4"), Ok(Duration::from_secs(4)));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1_500)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("500us"), Ok(Duration::from_micros(500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert!(parse_duration("-1").is_err() && parse_duration("x").is_err() && parse_duration("1h").is_err());
    }
}
