//! The flags, and the checked plan that they become.

mod plan;
mod scenarios;
mod target;

#[cfg(test)]
mod guide_test;

pub(crate) use plan::{Activity, Pace, Share};
pub use plan::{Load, Plan, Span, Verify};
pub use scenarios::{
    ChurnOptions, EchoOptions, IdleOptions, RampBy, RampOptions, ReplayOptions, Scenario, StallOptions, StormOptions,
};
pub use target::{PackingFlag, TargetFlags};

use crate::output::OutputOptions;
use clap::{Args, Parser, ValueEnum};
use std::str::FromStr;
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
    /// Publish nothing: open the subscribers' connections and hold them for this time. Pings are answered.
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
    #[arg(long, default_value_t = 1_000, value_parser = whole::<usize>, allow_negative_numbers = true)]
    pub subscribers: usize,
    /// Connections that publish. They take turns: one message each.
    #[arg(long, default_value_t = 1, value_parser = whole::<usize>, allow_negative_numbers = true)]
    pub publishers: usize,
    /// Payload bytes of each message, at least 17. Below 32 there is no room for a time, so no latency is measured.
    #[arg(long, default_value_t = 128, value_parser = whole::<usize>, allow_negative_numbers = true)]
    pub size: usize,
    /// Send binary messages instead of text.
    #[arg(long)]
    pub binary: bool,
    /// Open loop: publish this many messages per second, over all publishers, whatever the server does. Latency
    /// counts from the time at which a message was due.
    #[arg(long, conflicts_with = "in_flight", value_parser = whole::<u64>, allow_negative_numbers = true)]
    pub rate: Option<u64>,
    /// Closed loop: publish so that this many messages are in flight.
    ///
    /// The messages in flight are the outstanding deliveries divided by the mean number of subscribers of a message.
    /// A single slow subscriber hardly holds the loop back. Latency counts from the push, so the waits of a server
    /// that stops are not in it.
    #[arg(long, value_parser = whole::<u64>, allow_negative_numbers = true)]
    pub in_flight: Option<u64>,
    /// Publish as fast as the server reads. Latency counts from the push, as with --in-flight.
    #[arg(long, conflicts_with_all = ["rate", "in_flight"])]
    pub unthrottled: bool,
    /// Length of the measured window, such as 4s, 500ms or 2m; a number alone is seconds. In ramp: of each step.
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    pub duration: Duration,
    /// Time of publishing before the measured window; by default 1s, none with --messages. In ramp: of each step.
    #[arg(long, value_parser = parse_duration)]
    pub warmup: Option<Duration>,
    /// Publish this many messages instead of for a duration; the window ends when all are delivered.
    #[arg(long, conflicts_with = "duration", value_parser = whole::<u64>, allow_negative_numbers = true)]
    pub messages: Option<u64>,
    /// How long to wait for the last deliveries.
    ///
    /// With --in-flight, --unthrottled or --messages the window also ends when nothing was delivered for this time.
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    pub drain: Duration,
    /// Which subscribers read every frame.
    ///
    /// With `sample` the kernel drops the bytes of the other subscribers, and only the number of bytes is checked.
    /// This needs ws://, a server that sends no pings, and one whole message for each delivery.
    #[arg(long, value_enum, default_value_t = VerifyFlag::All)]
    pub verify: VerifyFlag,
    /// Subscribers that read every frame with --verify sample. They are spread evenly over all subscribers.
    #[arg(long, default_value_t = 16)]
    pub sample: usize,
    /// Also check that all subscribers get the messages of all publishers in one order. Needs one topic, and
    /// subscribers that stay.
    #[arg(long)]
    pub total_order: bool,
    /// Count messages without a stamp of this run as foreign, but not as a mistake.
    #[arg(long)]
    pub ignore_foreign: bool,
}

/// How the generator itself runs.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Generator")]
pub struct MachineFlags {
    /// New connections per second, also in storm, but not in churn; 0 for no limit.
    ///
    /// Each thread has at most 100 handshakes in progress at the same time, but in storm.
    #[arg(long, default_value_t = 0)]
    pub connect_rate: u64,
    /// Process id of the server, to report its CPU time and memory.
    ///
    /// A server with worker processes has the CPU time of one process in the report only.
    #[arg(long)]
    pub server_pid: Option<u32>,
    /// Spread the connections over this many source addresses, 127.0.0.1 and up to 253 more.
    ///
    /// Only for a server in 127.0.0.0/8. The default is one address for up to 25 000 connections, and beyond that one
    /// for each 14 000.
    #[arg(long)]
    pub source_addresses: Option<u8>,
    /// Threads that share the subscribers evenly. The first one also publishes; in echo each thread sends on its own
    /// connections.
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// Pin the threads to these CPUs: one CPU for all threads, such as 1, or one for each, such as 1,2,3.
    ///
    /// Without this flag, several threads are pinned away from the CPUs of --server-pid if it does not use all.
    #[arg(long, value_delimiter = ',')]
    pub cpu: Vec<usize>,
    /// Sleep in epoll instead of spinning. The server then pays for waking the generator up.
    #[arg(long)]
    pub sleep: bool,
    /// Report the figures of a disturbed run, which would be void: the generator was the bottleneck, or it had too
    /// little CPU.
    #[arg(long)]
    pub allow_disturbance: bool,
}

impl Options {
    /// Returns what is probably a mistake in the flags, although a run can do it: a sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let unknown = self.target.unknown_placeholders();
        let told =
            |(flag, name): (&str, String)| format!("{flag}: {{{name}}} is no placeholder, and stands for itself");
        unknown.into_iter().map(told).collect()
    }
}

/// How deliveries are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum VerifyFlag {
    /// Every subscriber reads every frame.
    All,
    /// Some subscribers read every frame; of the others the bytes are counted.
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

/// Parses a time whose unit must be there.
fn parse_time(text: &str) -> Result<Duration, String> {
    match text.ends_with(|letter: char| letter.is_ascii_digit()) {
        true => Err(format!("{text} has no unit; there are us, ms, s and m")),
        false => parse_duration(text),
    }
}

/// Parses a number without a fraction, from 0.
fn whole<N: FromStr>(text: &str) -> Result<N, String> {
    text.parse().map_err(|_| "expected a whole number from 0, without a unit".to_owned())
}

/// Parses a number that may have a fraction.
fn parse_number(text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| "expected a number, such as 1.5".to_owned())
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
