//! The flags, and the checked plan that they become.

use crate::error::Error;
use crate::frame::{PAYLOAD_MAX, opcode};
use crate::output::OutputOptions;
use crate::payload::SHORT_STAMP_LENGTH;
use clap::{Parser, ValueEnum};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// The flags of a run.
#[derive(Clone, Debug, Parser)]
pub struct Options {
    /// Where to connect; an IP literal or localhost.
    #[arg(long, default_value = "ws://127.0.0.1:6455/t/bench")]
    pub url: String,
    /// Connections that receive.
    #[arg(long, default_value_t = 1_000)]
    pub subscribers: usize,
    /// Connections that publish, in turn: one message each.
    #[arg(long, default_value_t = 1)]
    pub publishers: usize,
    /// Query of the subscribers' request; empty for none.
    #[arg(long, default_value = "mode=sub")]
    pub sub_query: String,
    /// Query of the publishers' request; empty for none.
    #[arg(long, default_value = "mode=pub")]
    pub pub_query: String,
    /// Whole path and query of the subscribers' request, for other servers.
    #[arg(long)]
    pub subscribe_path: Option<String>,
    /// Whole path and query of the publishers' request, for other servers.
    #[arg(long)]
    pub publish_path: Option<String>,
    /// The publishers receive messages too; these are ignored instead of being reported as foreign.
    #[arg(long)]
    pub publishers_receive: bool,
    /// Payload bytes of each message, at least 17. Below 32 there is no room for a time, so no latency is measured.
    #[arg(long, default_value_t = 128)]
    pub size: usize,
    /// Send binary messages instead of text.
    #[arg(long)]
    pub binary: bool,
    /// Open loop: messages per second over all publishers; latency counts from the time at which a message was due.
    #[arg(long, conflicts_with = "in_flight")]
    pub rate: Option<u64>,
    /// Closed loop: the number of messages that are published and not yet delivered to all subscribers.
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
    /// How long to wait for the last deliveries, and for the next delivery with --in-flight or --unthrottled.
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    pub drain: Duration,
    /// Which subscribers read every frame. With `sample` the kernel drops the bytes of the other subscribers, and only
    /// the number of bytes is checked.
    #[arg(long, value_enum, default_value_t = VerifyFlag::All)]
    pub verify: VerifyFlag,
    /// Subscribers that read every frame with --verify sample, spread evenly over the connection order.
    #[arg(long, default_value_t = 16)]
    pub sample: usize,
    /// Also check that all subscribers get the messages of different publishers in the same order.
    #[arg(long)]
    pub total_order: bool,
    /// Only connect the subscribers, and stay idle for this time; pings are answered.
    #[arg(long, value_parser = parse_duration, conflicts_with_all = ["rate", "in_flight", "unthrottled", "messages"])]
    pub hold: Option<Duration>,
    /// New connections per second; 0 for no limit.
    #[arg(long, default_value_t = 0)]
    pub connect_rate: u64,
    /// Process id of the server, to report its CPU time and memory.
    #[arg(long)]
    pub server_pid: Option<u32>,
    /// Spread the connections over this many source addresses 127.0.0.x; by default one for each 25 000.
    #[arg(long)]
    pub source_addresses: Option<u8>,
    /// Pin the generator to this CPU.
    #[arg(long)]
    pub cpu: Option<usize>,
    /// Sleep in epoll instead of spinning. The server then pays for waking the generator.
    #[arg(long)]
    pub sleep: bool,
    /// What is printed.
    #[command(flatten)]
    pub output: OutputOptions,
}

/// How deliveries are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum VerifyFlag {
    /// Every subscriber reads every frame.
    All,
    /// Some subscribers read every frame, the others count bytes.
    Sample,
}

/// The plan of a run, without contradictions.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(crate) target: SocketAddr,
    pub(crate) subscribe: Request,
    pub(crate) publish: Request,
    pub(crate) publishers_receive: bool,
    pub(crate) subscribers: usize,
    pub(crate) publishers: usize,
    pub(crate) size: usize,
    pub(crate) opcode: u8,
    pub(crate) activity: Activity,
    pub(crate) drain_ns: u64,
    pub(crate) verify: Verify,
    pub(crate) total_order: bool,
    pub(crate) connect_rate: u64,
    pub(crate) server_pid: Option<u32>,
    pub(crate) source_addresses: Vec<Ipv4Addr>,
    pub(crate) cpu: Option<usize>,
    pub(crate) sleep: bool,
}

/// The request target and Host of an opening handshake.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) host: String,
    pub(crate) target: String,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Activity {
    Hold { hold_ns: u64 },
    Publish { load: Load, span: Span, warmup_ns: u64 },
}

/// The rule for when the next message is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Messages per second, on a fixed schedule.
    Rate(u64),
    /// At most this many messages that have not reached all subscribers.
    InFlight(u64),
    /// As many messages as the publishers' sockets take.
    Unthrottled,
}

/// The end of publishing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// After this number of nanoseconds.
    Time(u64),
    /// After this number of messages.
    Messages(u64),
}

/// How deliveries are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// Every subscriber reads every frame.
    All,
    /// This many subscribers read every frame, the others count bytes.
    Sample(usize),
}

impl Verify {
    /// Returns whether subscriber `index` of `count` reads every frame. A sample is spread evenly over the connection
    /// order.
    pub fn reads_frames(&self, index: usize, count: usize) -> bool {
        match *self {
            Verify::All => true,
            Verify::Sample(sample) => (index + 1) * sample / count > index * sample / count,
        }
    }
}

impl Options {
    /// Checks the flags against each other.
    ///
    /// # Errors
    /// The first contradiction is returned, as a text for the user.
    pub fn plan(&self) -> Result<Plan, Error> {
        let wrong = |why: &str| Err(Error::Options(why.to_owned()));
        let url = Url::parse(&self.url)?;
        let load = match (self.rate, self.in_flight) {
            (Some(0), _) | (_, Some(0)) => return wrong("--rate and --in-flight must be above 0"),
            (Some(rate), _) => Some(Load::Rate(rate)),
            (_, Some(in_flight)) => Some(Load::InFlight(in_flight)),
            (None, None) => self.unthrottled.then_some(Load::Unthrottled),
        };
        let activity = match (self.hold, load) {
            (Some(hold), _) => Activity::Hold { hold_ns: nanos(hold) },
            (None, Some(load)) => {
                let span = self.messages.map_or(Span::Time(nanos(self.duration)), Span::Messages);
                let usual = if self.messages.is_some() { Duration::ZERO } else { Duration::from_secs(1) };
                Activity::Publish { load, span, warmup_ns: nanos(self.warmup.unwrap_or(usual)) }
            }
            (None, None) => {
                return wrong("say how to publish: --rate, --in-flight, --unthrottled or, to stay idle, --hold");
            }
        };
        let holding = self.hold.is_some();
        if self.subscribers == 0 || (!holding && self.publishers == 0) {
            return wrong("at least one subscriber and one publisher are needed");
        }
        if self.publishers > usize::from(u16::MAX) {
            return wrong("--publishers is at most 65535");
        }
        if !(SHORT_STAMP_LENGTH..=PAYLOAD_MAX).contains(&self.size) {
            return Err(Error::Options(format!("--size is {SHORT_STAMP_LENGTH} to {PAYLOAD_MAX} bytes")));
        }
        let verify = match self.verify {
            VerifyFlag::Sample if self.sample == 0 => return wrong("--sample must be above 0"),
            VerifyFlag::Sample if self.sample < self.subscribers => Verify::Sample(self.sample),
            VerifyFlag::All | VerifyFlag::Sample => Verify::All,
        };
        if holding && verify != Verify::All {
            return wrong(
                "--hold answers pings, for which every subscriber must read its frames: leave out --verify sample",
            );
        }
        let publishers = if holding { 0 } else { self.publishers };
        Ok(Plan {
            target: url.address,
            subscribe: url.request(self.subscribe_path.as_deref(), &self.sub_query),
            publish: url.request(self.publish_path.as_deref(), &self.pub_query),
            publishers_receive: self.publishers_receive,
            subscribers: self.subscribers,
            publishers,
            size: self.size,
            opcode: if self.binary { opcode::BINARY } else { opcode::TEXT },
            activity,
            drain_ns: nanos(self.drain),
            verify,
            total_order: self.total_order,
            connect_rate: self.connect_rate,
            server_pid: self.server_pid,
            source_addresses: self.source_addresses(url.address, self.subscribers + publishers)?,
            cpu: self.cpu,
            sleep: self.sleep || holding,
        })
    }

    /// Returns the source addresses; none if the system may choose.
    fn source_addresses(&self, target: SocketAddr, sockets: usize) -> Result<Vec<Ipv4Addr>, Error> {
        let loopback = target.ip().is_loopback() && target.is_ipv4();
        let needed = sockets.div_ceil(SOCKETS_PER_ADDRESS);
        let count = match self.source_addresses {
            Some(_) if !loopback => {
                return Err(Error::Options("--source-addresses needs a target in 127.0.0.0/8".to_owned()));
            }
            Some(count) => usize::from(count),
            None if loopback => needed,
            None => 1,
        };
        if count > usize::from(u8::MAX) - 1 {
            return Err(Error::Options("more connections than 254 source addresses can carry".to_owned()));
        }
        Ok(if count <= 1 { Vec::new() } else { (1..=count).map(|host| Ipv4Addr::new(127, 0, 0, host as u8)).collect() })
    }
}

/// A `ws:` URL whose host needs no resolver.
struct Url {
    address: SocketAddr,
    host: String,
    path: String,
}

impl Url {
    fn parse(url: &str) -> Result<Url, Error> {
        let wrong = || {
            Error::Options(format!("--url {url}: expected ws://ADDRESS[:PORT]/PATH with an IP literal or localhost"))
        };
        let rest = url.strip_prefix("ws://").ok_or_else(wrong)?;
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let numeric = match host.strip_prefix("localhost") {
            Some(port) => format!("127.0.0.1{port}"),
            None => host.to_owned(),
        };
        let address = numeric.parse().or_else(|_| format!("{numeric}:80").parse()).map_err(|_| wrong())?;
        let path = if path.is_empty() { "/" } else { path };
        if path.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
            return Err(wrong());
        }
        Ok(Url { address, host: host.to_owned(), path: path.to_owned() })
    }

    fn request(&self, whole: Option<&str>, query: &str) -> Request {
        let target = match whole {
            Some(whole) => whole.to_owned(),
            None if query.is_empty() => self.path.clone(),
            None => format!("{}{}{query}", self.path, if self.path.contains('?') { '&' } else { '?' }),
        };
        Request { host: self.host.clone(), target }
    }
}

/// Parses a number of seconds, or a number with `ms`, `s` or `m`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let scale = match &text[digits.len()..] {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        unit => return Err(format!("unknown unit `{unit}`")),
    };
    let number: f64 = digits.parse().map_err(|_| "expected a number, such as 4, 4s, 500ms or 2m".to_owned())?;
    Duration::try_from_secs_f64(number * scale).map_err(|error| error.to_string())
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The sockets of one source address, fewer than its usual 28 232 ephemeral ports.
const SOCKETS_PER_ADDRESS: usize = 25_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(flags: &str) -> Result<Plan, String> {
        let options = Options::try_parse_from(["ringhub-loadgen"].into_iter().chain(flags.split_ascii_whitespace()));
        options.map_err(|error| error.to_string())?.plan().map_err(|error| error.to_string())
    }

    #[test]
    fn queries_join_the_path() {
        let plan = plan("--rate 1 --url ws://localhost:99/t/a?scope=local --pub-query= ").unwrap();
        assert_eq!(plan.target, "127.0.0.1:99".parse().unwrap());
        assert_eq!(plan.subscribe.host, "localhost:99");
        assert_eq!(plan.subscribe.target, "/t/a?scope=local&mode=sub");
        assert_eq!(plan.publish.target, "/t/a?scope=local");
    }

    #[test]
    fn contradictions_are_refused() {
        for flags in [
            "",
            "--rate 0",
            "--rate 1 --in-flight 1",
            "--rate 1 --size 16",
            "--rate 1 --unthrottled",
            "--hold 1s --unthrottled",
            "--rate 1 --url wss://127.0.0.1/",
            "--rate 1 --url ws://example.org/",
            "--rate 1 --subscribers 0",
            "--hold 1s --verify sample",
            "--rate 1 --duration 3h",
            "--rate 1 --source-addresses 2 --url ws://10.0.0.1/",
        ] {
            assert!(plan(flags).is_err(), "{flags}");
        }
    }

    #[test]
    fn sample_is_exact_and_spread() {
        for (sample, count) in [(16, 1_000), (1, 7), (6, 7), (3, 3)] {
            let readers: Vec<usize> = (0..count).filter(|&at| Verify::Sample(sample).reads_frames(at, count)).collect();
            assert_eq!(readers.len(), sample);
            let widest = readers.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
            assert!(widest <= count.div_ceil(sample), "{sample} of {count}: {readers:?}");
        }
    }

    #[test]
    fn many_sockets_spread_over_source_addresses() {
        assert!(plan("--rate 1").unwrap().source_addresses.is_empty());
        assert_eq!(plan("--hold 1 --subscribers 50001").unwrap().source_addresses.len(), 3);
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("4"), Ok(Duration::from_secs(4)));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1_500)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert!(parse_duration("-1").is_err() && parse_duration("x").is_err() && parse_duration("1h").is_err());
    }
}
