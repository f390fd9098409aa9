//! Raw settings become a [`Config`] that cannot be wrong; afterwards nobody checks again.

use std::{fmt, net::SocketAddr, str::FromStr, time::Duration};

use crate::{
    auth::{Origins, Tokens},
    error::ConfigError,
    proto::{KeepAlive, MessageLimits, Tick},
    sys,
};

/// The settings as they are given: flags, or `RINGHUB_*` variables where a flag is missing.
#[derive(Debug, Clone, clap::Args)]
pub struct Settings {
    /// Addresses and ports to listen on, with commas between them; port 0 takes a free one.
    #[arg(
        long,
        env = "RINGHUB_LISTEN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:6455",
        value_delimiter = ',',
        help_heading = "Network"
    )]
    pub listen: Vec<SocketAddr>,

    /// Another address and port for /metrics, which is then nowhere else [default: where everything is].
    #[arg(long, env = "RINGHUB_METRICS_LISTEN", value_name = "ADDRESS", help_heading = "Network")]
    pub metrics_listen: Option<SocketAddr>,

    /// Origins whose pages may use the hub, such as https://example.org, with commas between them [default: any].
    #[arg(
        long,
        env = "RINGHUB_ALLOWED_ORIGINS",
        value_name = "ORIGIN",
        value_delimiter = ',',
        hide_env_values = true,
        help_heading = "Access"
    )]
    pub allowed_origins: Vec<String>,

    /// Bearer tokens of which one is needed to publish, with commas between them [default: none is needed].
    #[arg(
        long,
        env = "RINGHUB_PUBLISH_TOKENS",
        value_name = "TOKEN",
        value_delimiter = ',',
        hide_env_values = true,
        help_heading = "Access"
    )]
    pub publish_tokens: Vec<String>,

    /// The same to subscribe.
    #[arg(
        long,
        env = "RINGHUB_SUBSCRIBE_TOKENS",
        value_name = "TOKEN",
        value_delimiter = ',',
        hide_env_values = true,
        help_heading = "Access"
    )]
    pub subscribe_tokens: Vec<String>,

    /// The same to read /metrics.
    #[arg(
        long,
        env = "RINGHUB_METRICS_TOKENS",
        value_name = "TOKEN",
        value_delimiter = ',',
        hide_env_values = true,
        help_heading = "Access"
    )]
    pub metrics_tokens: Vec<String>,

    /// Shards: threads that each serve their share of the connections [default: one for each CPU, or fewer under a
    /// cgroup quota].
    #[arg(long, env = "RINGHUB_SHARDS", value_name = "COUNT", help_heading = "CPUs")]
    pub shards: Option<usize>,

    /// CPUs to run on, such as 0 or 0,2-3 [default: all that the affinity mask allows].
    #[arg(long, env = "RINGHUB_CPUS", value_name = "LIST", help_heading = "CPUs")]
    pub cpus: Option<CpuList>,

    /// Keep each shard on its CPU: auto does so unless a cgroup quota is smaller than the affinity mask.
    #[arg(long, env = "RINGHUB_PIN", value_name = "WHEN", default_value = "auto", help_heading = "CPUs")]
    pub pin: Pin,

    /// Connections at the same time, those still in their opening handshake included. Beyond it: 503.
    /// [default: what the limit of open descriptors leaves].
    #[arg(long, env = "RINGHUB_MAX_CONNECTIONS", value_name = "COUNT", help_heading = "Limits")]
    pub max_connections: Option<usize>,

    /// Largest message from a client, such as 32MiB. Beyond it: close 1009.
    #[arg(long, env = "RINGHUB_MAX_MESSAGE", value_name = "SIZE", default_value = "1MiB", help_heading = "Limits")]
    pub max_message: Size,

    /// Largest frame from a client [default: the largest message]. Beyond it: close 1009.
    #[arg(long, env = "RINGHUB_MAX_FRAME", value_name = "SIZE", help_heading = "Limits")]
    pub max_frame: Option<Size>,

    /// Fragments of one message. Beyond it: close 1009.
    #[arg(long, env = "RINGHUB_MAX_FRAGMENTS", value_name = "COUNT", default_value = "65537", help_heading = "Limits")]
    pub max_fragments: u32,

    /// What a slow subscriber may be owed before it is closed with 1008
    /// [default: 4MiB, or two of the largest messages].
    #[arg(long, env = "RINGHUB_MAX_BACKLOG", value_name = "SIZE", help_heading = "Limits")]
    pub max_backlog: Option<Size>,

    /// The same in messages.
    #[arg(
        long,
        env = "RINGHUB_MAX_BACKLOG_MESSAGES",
        value_name = "COUNT",
        default_value = "65536",
        help_heading = "Limits"
    )]
    pub max_backlog_messages: u64,

    /// What may wait to be sent, over all topics, before publishers are read no further
    /// [default: 4MiB, or two of the largest messages].
    #[arg(long, env = "RINGHUB_MAX_GATHERED", value_name = "SIZE", help_heading = "Limits")]
    pub max_gathered: Option<Size>,

    /// Topics without a connection whose offsets are remembered.
    #[arg(
        long,
        env = "RINGHUB_MAX_IDLE_TOPICS",
        value_name = "COUNT",
        default_value = "10000",
        help_heading = "Limits"
    )]
    pub max_idle_topics: usize,

    /// Send buffer of each connection's socket (SO_SNDBUF) [default: the kernel's own tuning].
    #[arg(long, env = "RINGHUB_SEND_BUFFER", value_name = "SIZE", help_heading = "Limits")]
    pub send_buffer: Option<Size>,

    /// Connections that HTTP requests keep alive at the same time. Beyond it: 503, and the connection ends.
    #[arg(
        long,
        env = "RINGHUB_MAX_HTTP_CONNECTIONS",
        value_name = "COUNT",
        default_value = "1024",
        help_heading = "Limits"
    )]
    pub max_http_connections: usize,

    /// How long a client may take over its opening request, or the head of any request.
    #[arg(long, env = "RINGHUB_HANDSHAKE_TIMEOUT", value_name = "TIME", default_value = "10s", help_heading = "Times")]
    pub handshake_timeout: Time,

    /// How long the body of a request may take.
    #[arg(long, env = "RINGHUB_BODY_TIMEOUT", value_name = "TIME", default_value = "10s", help_heading = "Times")]
    pub body_timeout: Time,

    /// How long a connection is kept alive for its next request.
    #[arg(long, env = "RINGHUB_IDLE_TIMEOUT", value_name = "TIME", default_value = "75s", help_heading = "Times")]
    pub idle_timeout: Time,

    /// Ping a client that has been silent for so long; 0 never does.
    #[arg(long, env = "RINGHUB_PING_INTERVAL", value_name = "TIME", default_value = "30s", help_heading = "Times")]
    pub ping_interval: Time,

    /// How long after a ping a sign of life may take; 0 waits forever.
    #[arg(long, env = "RINGHUB_PONG_TIMEOUT", value_name = "TIME", default_value = "10s", help_heading = "Times")]
    pub pong_timeout: Time,

    /// How long the closing handshake may take.
    #[arg(long, env = "RINGHUB_CLOSE_TIMEOUT", value_name = "TIME", default_value = "5s", help_heading = "Times")]
    pub close_timeout: Time,

    /// How long connections may take to leave after SIGTERM or SIGINT.
    #[arg(long, env = "RINGHUB_DRAIN_TIMEOUT", value_name = "TIME", default_value = "10s", help_heading = "Times")]
    pub drain_timeout: Time,
}

/// Checked settings of a server.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen: at least one address.
    pub listen: Vec<SocketAddr>,
    /// Where to serve `/metrics`, if not there.
    pub metrics_listen: Option<SocketAddr>,
    /// Who may do what.
    pub access: Access,
    /// Plain HTTP: publishing, health, metrics, the page.
    pub http: Http,
    /// How many shards to run.
    pub shards: usize,
    /// The CPUs to run on, at least one. Shards take them in turn.
    pub cpus: Vec<usize>,
    /// Whether shards stay on their CPUs.
    pub pinned: bool,
    /// Every limit.
    pub limits: Limits,
    /// When silent or closing connections are pinged or given up.
    pub keep_alive: KeepAlive,
    /// How long the opening request may take.
    pub handshake_timeout: Duration,
    /// How long connections may take to leave when the server stops.
    pub drain_timeout: Duration,
    /// `SO_SNDBUF` of each connection.
    pub send_buffer_bytes: Option<usize>,
}

/// Who may do what. Without tokens and origins, everybody may do everything.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// Origins whose pages may use the hub; a request of another is answered 403.
    pub origins: Origins,
    /// To publish.
    pub publish: Tokens,
    /// To subscribe.
    pub subscribe: Tokens,
    /// To read `/metrics`.
    pub metrics: Tokens,
}

impl Access {
    /// May anybody who reaches the port use it?
    #[must_use]
    pub fn is_open(&self) -> bool {
        let tokens = [&self.publish, &self.subscribe];
        self.origins.are_any() && !tokens.iter().any(|tokens| tokens.are_required())
    }
}

/// Limits of connections that speak HTTP without becoming WebSockets.
#[derive(Debug, Clone)]
pub struct Http {
    /// Kept alive at the same time, of all shards. One more is answered 503 and closed.
    pub connections_max: usize,
    /// How long a head may take, counted from its first byte on a connection that was kept alive.
    pub header_timeout: Duration,
    /// How long a body may take. Beyond it: 408.
    pub body_timeout: Duration,
    /// How long a connection may be silent between two requests.
    pub idle_timeout: Duration,
}

/// Every limit of a server, and what happens beyond it.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections, those in their opening handshake included. One more is answered 503.
    ///
    /// Default: the limit of open descriptors less [`Limits::DESCRIPTORS_RESERVED`]. Each idle one costs about 120
    /// bytes here and 4 KB in the kernel.
    pub connections_max: usize,
    /// What one message may be. Beyond it the connection is failed with 1009.
    pub message: MessageLimits,
    /// Bytes that a slow subscriber's backlog may keep alive. Beyond it the connection is closed with 1008.
    ///
    /// At worst every connection has one. It is never below two of the largest messages, so that one can always be on
    /// its way while the next is published. One run, however large, closes nobody who had kept up until then; so a
    /// backlog may be larger than this by [`Limits::gathered_bytes_max`].
    pub backlog_bytes_max: usize,
    /// Messages of such a backlog.
    pub backlog_messages_max: u64,
    /// Bytes gathered in all runs of a shard before it stops receiving until some were sent. A turn that is under way
    /// may add what it has already received.
    pub gathered_bytes_max: usize,
    /// Topics that no connection names but whose offsets are remembered. Beyond it the longest idle is forgotten; when
    /// it returns it has a new epoch. Each costs some 300 bytes.
    pub topics_idle_max: usize,
}

impl Limits {
    /// Descriptors that are not for connections: rings, listeners, logs, and the sockets that are being refused.
    pub const DESCRIPTORS_RESERVED: u64 = 128;

    /// The most shards that can be asked for. The lanes between them share one limit, so more only make them shorter.
    pub const SHARDS_MAX: usize = 256;

    /// The largest message or frame that can be allowed.
    pub const MESSAGE_BYTES_MAX: u64 = 1 << 30;
}

impl Config {
    /// Checks settings against each other and against this machine.
    ///
    /// # Errors
    ///
    /// See [`ConfigError`]; each names the setting.
    pub fn new(settings: &Settings, descriptors: u64) -> Result<Config, ConfigError> {
        let message = size_within("max-message", settings.max_message, 1, Limits::MESSAGE_BYTES_MAX)?;
        let frame = settings.max_frame.unwrap_or(settings.max_message);
        let frame = size_within("max-frame", frame, 1, Limits::MESSAGE_BYTES_MAX)?;
        if frame > message {
            return Err(ConfigError::new(
                "max-frame",
                format!("{frame} bytes is more than max-message, {message} bytes"),
            ));
        }
        if settings.max_fragments == 0 {
            return Err(ConfigError::new("max-fragments", "a message has at least one frame".into()));
        }
        let least = 2 * message as usize;
        let backlog = settings.max_backlog.map_or(least.max(4 << 20), |size| size.0 as usize);
        if backlog < least {
            let what = format!("{backlog} bytes is less than two of the largest messages, {least} bytes");
            return Err(ConfigError::new("max-backlog", what));
        }
        let gathered = settings.max_gathered.unwrap_or(Size((2 * message).max(4 << 20)));
        let gathered = size_within("max-gathered", gathered, message, 2 * Limits::MESSAGE_BYTES_MAX)? as usize;
        let affordable = descriptors.saturating_sub(Limits::DESCRIPTORS_RESERVED).clamp(1, SLOTS_MAX) as usize;
        let connections_max = settings.max_connections.unwrap_or(affordable);
        if connections_max == 0 || connections_max > affordable {
            let what = format!(
                "{connections_max} is not between 1 and {affordable}, which is what the limit of {descriptors} open \
                 descriptors leaves (raise it with `ulimit -n`)"
            );
            return Err(ConfigError::new("max-connections", what));
        }
        let (cpus, pinned, shards) = choose_cpus(settings, &sys::cpu::allowed(), sys::cpu::quota())?;
        let keep_alive = KeepAlive {
            ping_interval: ticks("ping-interval", settings.ping_interval)?,
            pong_timeout: ticks("pong-timeout", settings.pong_timeout)?,
            close_timeout: ticks("close-timeout", at_least_a_tick("close-timeout", settings.close_timeout)?)?,
        };
        let access = Access {
            origins: Origins::new(settings.allowed_origins.clone())
                .map_err(|what| ConfigError::new("allowed-origins", what))?,
            publish: tokens("publish-tokens", &settings.publish_tokens)?,
            subscribe: tokens("subscribe-tokens", &settings.subscribe_tokens)?,
            metrics: tokens("metrics-tokens", &settings.metrics_tokens)?,
        };
        let handshake_timeout = at_least_a_tick("handshake-timeout", settings.handshake_timeout)?.0;
        if settings.max_http_connections == 0 {
            return Err(ConfigError::new("max-http-connections", "nothing could be published by HTTP".into()));
        }
        Ok(Config {
            listen: settings.listen.clone(),
            metrics_listen: settings.metrics_listen,
            access,
            http: Http {
                connections_max: settings.max_http_connections,
                header_timeout: handshake_timeout,
                body_timeout: at_least_a_tick("body-timeout", settings.body_timeout)?.0,
                idle_timeout: at_least_a_tick("idle-timeout", settings.idle_timeout)?.0,
            },
            shards,
            cpus,
            pinned,
            limits: Limits {
                connections_max,
                message: MessageLimits {
                    frame_bytes_max: frame as u32,
                    message_bytes_max: message as u32,
                    fragments_max: settings.max_fragments,
                    ..MessageLimits::DEFAULT
                },
                backlog_bytes_max: backlog,
                backlog_messages_max: settings.max_backlog_messages,
                gathered_bytes_max: gathered,
                topics_idle_max: settings.max_idle_topics,
            },
            keep_alive,
            handshake_timeout,
            drain_timeout: ticks("drain-timeout", settings.drain_timeout).map(|ticks| TICK * ticks)?,
            send_buffer_bytes: settings.send_buffer.map(|size| size.0 as usize),
        })
    }
}

/// The CPUs to use, whether to stay on them, and how many shards to run there.
fn choose_cpus(
    settings: &Settings,
    allowed: &[usize],
    quota: Option<f64>,
) -> Result<(Vec<usize>, bool, usize), ConfigError> {
    let cpus = match &settings.cpus {
        None => allowed.to_vec(),
        Some(CpuList(cpus)) => {
            if let Some(cpu) = cpus.iter().find(|cpu| !allowed.contains(cpu)) {
                let what = format!("CPU {cpu} is not among those this process may use: {allowed:?}");
                return Err(ConfigError::new("cpus", what));
            }
            cpus.clone()
        }
    };
    if cpus.is_empty() {
        return Err(ConfigError::new("cpus", "the affinity mask could not be read; name the CPUs".into()));
    }
    let pinned = match settings.pin {
        Pin::On => true,
        Pin::Off => false,
        Pin::Auto => settings.cpus.is_some() || quota.is_none_or(|quota| quota >= allowed.len() as f64),
    };
    let shards = match settings.shards {
        Some(shards) if (1..=Limits::SHARDS_MAX).contains(&shards) => shards,
        Some(shards) => {
            let what = format!("{shards} is not between 1 and {}", Limits::SHARDS_MAX);
            return Err(ConfigError::new("shards", what));
        }
        // A quota of 2.5 CPUs keeps two shards busy; a third would only be throttled with them.
        None => quota.map_or(cpus.len(), |quota| cpus.len().min(quota as usize)).clamp(1, Limits::SHARDS_MAX),
    };
    Ok((cpus, pinned, shards))
}

fn tokens(setting: &'static str, tokens: &[String]) -> Result<Tokens, ConfigError> {
    Tokens::new(tokens.to_vec()).map_err(|what| ConfigError::new(setting, what))
}

fn size_within(setting: &'static str, size: Size, least: u64, most: u64) -> Result<u64, ConfigError> {
    if (least..=most).contains(&size.0) {
        return Ok(size.0);
    }
    Err(ConfigError::new(setting, format!("{} bytes is not between {least} and {most}", size.0)))
}

fn at_least_a_tick(setting: &'static str, time: Time) -> Result<Time, ConfigError> {
    if time.0 >= TICK {
        return Ok(time);
    }
    Err(ConfigError::new(setting, format!("{:?} is less than {TICK:?}", time.0)))
}

/// Whole ticks, rounded up.
fn ticks(setting: &'static str, time: Time) -> Result<u32, ConfigError> {
    let ticks = time.0.as_nanos().div_ceil(TICK.as_nanos());
    match u32::try_from(ticks) {
        Ok(ticks) if ticks <= TICKS_MAX => Ok(ticks),
        _ => Err(ConfigError::new(setting, format!("{:?} is more than a year", time.0))),
    }
}

/// A number of bytes: `4096`, `64KiB`, `32MiB`, `1GiB`; `kB`, `MB`, `GB` are powers of ten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = split_number(text);
        let factor: u64 = match unit {
            "" | "B" => 1,
            "kB" | "KB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "K" | "KiB" => 1 << 10,
            "M" | "MiB" => 1 << 20,
            "G" | "GiB" => 1 << 30,
            _ => return Err(format!("{unit:?} is no unit of size; use B, KiB, MiB, GiB, kB, MB or GB")),
        };
        let number: u64 = number.parse().map_err(|_| format!("{text:?} is no size; write it like 65536 or 64KiB"))?;
        number.checked_mul(factor).map(Size).ok_or_else(|| format!("{text:?} is too large"))
    }
}

/// A span of time: `10s`, `500ms`, `2m`, `1h`; `0` has no unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Time(pub Duration);

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = split_number(text);
        let count: u64 = number.parse().map_err(|_| format!("{text:?} is no time; write it like 10s or 500ms"))?;
        let seconds = |factor: u64| count.checked_mul(factor).map(Duration::from_secs);
        let time = match unit {
            "" if count == 0 => Some(Duration::ZERO),
            "ms" => Some(Duration::from_millis(count)),
            "s" => seconds(1),
            "m" | "min" => seconds(60),
            "h" => seconds(3_600),
            _ => return Err(format!("{text:?} needs a unit of time: ms, s, m or h")),
        };
        time.map(Time).ok_or_else(|| format!("{text:?} is too long"))
    }
}

/// CPU numbers and ranges: `0`, `0,2`, `0-3,6`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuList(pub Vec<usize>);

impl FromStr for CpuList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |part: &str| part.trim().parse::<usize>().map_err(|_| format!("{part:?} is no CPU number"));
        let mut cpus = Vec::new();
        for part in text.split(',') {
            let (first, last) = match part.split_once('-') {
                Some((first, last)) => (number(first)?, number(last)?),
                None => (number(part)?, number(part)?),
            };
            if first > last || last - first > 4_096 {
                return Err(format!("{part:?} is no range of CPUs"));
            }
            cpus.extend(first..=last);
        }
        cpus.sort_unstable();
        cpus.dedup();
        Ok(CpuList(cpus))
    }
}

/// Whether shards stay on their CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Pin {
    /// Unless a cgroup quota is smaller than the affinity mask.
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Limits { connections_max, message, backlog_bytes_max, .. } = &self.limits;
        write!(
            f,
            "{connections_max} connections, messages to {} bytes, backlogs to {backlog_bytes_max} bytes",
            message.message_bytes_max
        )
    }
}

fn split_number(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

/// One [`Tick`].
pub(crate) const TICK: Duration = Duration::from_millis(1_000 / Tick::PER_SECOND as u64);
const TICKS_MAX: u32 = 366 * 24 * 3_600 * Tick::PER_SECOND;
const SLOTS_MAX: u64 = crate::hub::ConnectionId::SLOTS_MAX as u64;

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        settings: Settings,
    }

    fn config(flags: &[&str]) -> Result<Config, ConfigError> {
        let settings = Flags::parse_from(std::iter::once("ringhub").chain(flags.iter().copied())).settings;
        Config::new(&settings, 20_000)
    }

    #[test]
    fn sizes() {
        let check = |text: &str, bytes: u64| assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        check("0", 0);
        check("4096", 4_096);
        check("64KiB", 65_536);
        check("32 MiB", 32 << 20);
        check("1GB", 1_000_000_000);
        for bad in ["", "x", "1.5MiB", "-1", "1XB", "99999999999999999999", "18446744073709551615GiB"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
    }

    #[test]
    fn times() {
        let check = |text: &str, ms: u64| assert_eq!(text.parse(), Ok(Time(Duration::from_millis(ms))), "{text}");
        check("0", 0);
        check("500ms", 500);
        check("10s", 10_000);
        check("2m", 120_000);
        check("1h", 3_600_000);
        for bad in ["", "10", "1.5s", "1d", "s", "18446744073709551615h"] {
            assert!(bad.parse::<Time>().is_err(), "{bad}");
        }
    }

    #[test]
    fn cpu_lists() {
        assert_eq!("0".parse(), Ok(CpuList(vec![0])));
        assert_eq!("3,0-1,1".parse(), Ok(CpuList(vec![0, 1, 3])));
        for bad in ["", "a", "1-", "3-1", "0-99999999"] {
            assert!(bad.parse::<CpuList>().is_err(), "{bad}");
        }
    }

    #[test]
    fn defaults_are_those_of_the_documentation() {
        let config = config(&[]).unwrap();
        assert_eq!(config.listen, ["127.0.0.1:6455".parse().unwrap()]);
        assert_eq!(config.limits.connections_max, 20_000 - 128);
        assert_eq!(config.limits.message.message_bytes_max, 1 << 20);
        assert_eq!(config.limits.message.frame_bytes_max, 1 << 20);
        assert_eq!(config.limits.message.fragments_max, 65_537);
        assert_eq!(config.limits.backlog_bytes_max, 4 << 20);
        let KeepAlive { ping_interval, pong_timeout, .. } = config.keep_alive;
        assert_eq!((ping_interval, pong_timeout), (300, 100));
    }

    #[test]
    fn the_backlog_holds_two_of_the_largest_messages() {
        assert_eq!(config(&["--max-message", "16MiB"]).unwrap().limits.backlog_bytes_max, 32 << 20);
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let check = |flags: &[&str], setting: &str| {
            let error = config(flags).expect_err(setting);
            assert_eq!(error.setting(), setting, "{error}");
        };
        check(&["--max-message", "0"], "max-message");
        check(&["--max-message", "2GiB"], "max-message");
        check(&["--max-message", "1KiB", "--max-frame", "2KiB"], "max-frame");
        check(&["--max-fragments", "0"], "max-fragments");
        check(&["--max-backlog", "2MB"], "max-backlog");
        check(&["--max-gathered", "1000"], "max-gathered");
        check(&["--max-connections", "0"], "max-connections");
        check(&["--max-connections", "19873"], "max-connections");
        check(&["--cpus", "4000"], "cpus");
        check(&["--shards", "0"], "shards");
        check(&["--shards", "257"], "shards");
        check(&["--close-timeout", "0"], "close-timeout");
        check(&["--handshake-timeout", "99ms"], "handshake-timeout");
        check(&["--max-gathered", "3GiB"], "max-gathered");
        check(&["--allowed-origins", "example.org"], "allowed-origins");
        check(&["--publish-tokens", "a b"], "publish-tokens");
        check(&["--subscribe-tokens", "a,,b"], "subscribe-tokens");
        check(&["--metrics-tokens", ""], "metrics-tokens");
        check(&["--max-http-connections", "0"], "max-http-connections");
        check(&["--body-timeout", "0"], "body-timeout");
        check(&["--idle-timeout", "0"], "idle-timeout");
        check(&["--ping-interval", "9999h"], "ping-interval");
        check(&["--drain-timeout", "9999h"], "drain-timeout");
    }

    #[test]
    fn a_quota_below_the_mask_lets_shards_float() {
        let settings =
            |flags: &[&str]| Flags::parse_from(std::iter::once("ringhub").chain(flags.iter().copied())).settings;
        let pinned = |flags: &[&str], quota| choose_cpus(&settings(flags), &[0, 1], quota).unwrap().1;
        assert!(pinned(&[], None));
        assert!(pinned(&[], Some(2.0)));
        assert!(!pinned(&[], Some(1.5)));
        assert!(pinned(&["--cpus", "1"], Some(0.5)));
        assert!(pinned(&["--pin", "on"], Some(0.5)));
        assert!(!pinned(&["--pin", "off"], None));
        let shards = |flags: &[&str], quota| choose_cpus(&settings(flags), &[0, 1, 2, 3], quota).unwrap().2;
        assert_eq!(shards(&[], None), 4);
        assert_eq!(shards(&[], Some(2.9)), 2);
        assert_eq!(shards(&[], Some(0.5)), 1);
        assert_eq!(shards(&[], Some(8.0)), 4);
        assert_eq!(shards(&["--cpus", "1"], None), 1);
        assert_eq!(shards(&["--cpus", "1", "--shards", "3"], None), 3);
    }
}
