//! The table of all settings. Flags, variables, keys of a file, help, the example file and the defaults follow from it.

use std::net::SocketAddr;

use Preset::{Otherwise, Value as Is};

use super::{
    checked::{Config, Limits},
    listen::ListenAddress,
    quantities::{MemoryLimit, Size, Time},
    rates::{ByteRateLimit, RateLimit},
    toml::quoted,
    types::{
        AccessLogFormat, CallbackConnect, CpuList, FilePath, HeaderName, HttpUrl, IoChoice, ListenIpv6, LogFilter,
        LogFormat, Pin, SandboxChoice, Secrets,
    },
    value::{Fault, Shape, Value},
};
use crate::{
    auth::{AddressRange, ClientAddress, OnError},
    hub::ConnectionId,
};

/// One row of the table.
#[derive(Debug)]
pub struct Setting {
    /// The key in a file, such as `max_message`.
    pub key: &'static str,
    /// The heading of the setting's group.
    pub heading: &'static str,
    /// The placeholder of a value in the help, such as `SIZE`.
    pub value_name: &'static str,
    /// The range of the values, if there is one: `1 to 1GiB`, `1 to max_message`, `2 × max_message or more`. The key of
    /// another setting stands for that setting's value.
    pub range: Option<&'static str>,
    /// The default.
    pub preset: Preset,
    /// Whether the setting may have several values.
    pub is_list: bool,
    /// Whether the values are secret.
    pub is_secret: bool,
    /// Whether a reload puts another value in force.
    pub reloads: Reloads,
    /// Whether a file may write a value as a plain integer.
    pub(super) takes_integers: bool,
    /// The type of a value, for the error about a value of another type.
    pub(super) expected: &'static str,
    /// Reads the items of a value into the settings.
    pub(super) read: fn(&mut Settings, &[&str]) -> Result<(), Fault>,
    /// Returns the items of the setting, those of secrets masked.
    pub(super) items: fn(&Settings) -> Vec<String>,
    /// Returns whether two settings have the same value, of secrets too.
    pub(super) is_same: fn(&Settings, &Settings) -> bool,
    /// Gives the first settings the value of the second.
    pub(super) keep: fn(&mut Settings, &Settings),
    /// The documentation, which [`Setting::help`] tidies.
    doc: &'static str,
}

impl Setting {
    /// Returns the setting that has this key.
    #[must_use]
    pub fn by_key(key: &str) -> Option<&'static Setting> {
        SETTINGS.iter().find(|setting| setting.key == key)
    }

    /// Returns the name of the flag, without the dashes before it: `max-message`.
    #[must_use]
    pub fn flag(&self) -> String {
        self.key.replace('_', "-")
    }

    /// Returns the name of the variable: `RINGHUB_MAX_MESSAGE`.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("{VARIABLE_PREFIX}{}", self.key.to_uppercase())
    }

    /// Returns the help: one sentence or more.
    #[must_use]
    pub fn help(&self) -> &'static str {
        self.doc.trim()
    }

    /// Splits the text of a flag or a variable into items.
    pub(super) fn split<'a>(&self, text: &'a str) -> Vec<&'a str> {
        self.shape().split(text)
    }

    /// Returns the shape in which a value is written.
    pub(super) fn shape(&self) -> Shape {
        let &Setting { key, is_list, takes_integers, expected, .. } = self;
        Shape { key, is_list, takes_integers, expected }
    }

    /// Returns items as the value of the key in a file.
    pub(super) fn toml(&self, items: &[impl AsRef<str>]) -> String {
        let item = |item: &str| {
            let is_integer = self.takes_integers && !item.is_empty() && item.bytes().all(|c| c.is_ascii_digit());
            if is_integer { item.to_string() } else { quoted(item) }
        };
        let items: Vec<String> = items.iter().map(|text| item(text.as_ref())).collect();
        if self.is_list { format!("[{}]", items.join(", ")) } else { items.concat() }
    }
}

/// Whether a reload puts another value of a setting in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reloads {
    /// A reload does.
    Yes,
    /// A reload does unless one of the two values is 0, for which a restart is needed.
    UnlessZero,
    /// A restart is needed.
    No,
}

impl Reloads {
    /// Returns the answer in words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Reloads::Yes => "yes",
            Reloads::UnlessZero => "unless from or to 0",
            Reloads::No => "restart",
        }
    }
}

/// The default of a setting.
#[derive(Debug)]
pub enum Preset {
    /// A value, written as on a command line.
    Value(&'static str),
    /// A value that other settings or the machine decide.
    Otherwise {
        /// The rule that decides, in words.
        words: &'static str,
        /// A value that could be given instead.
        example: &'static str,
        /// Returns the items of the value that results.
        effective: fn(&Config) -> Vec<String>,
    },
}

impl Preset {
    /// Returns the default in words.
    #[must_use]
    pub fn words(&self) -> &'static str {
        match self {
            Preset::Value(text) => text,
            Preset::Otherwise { words, .. } => words,
        }
    }

    fn read<T: Value>(&self) -> T {
        let items = match self {
            Preset::Value(text) if T::IS_LIST => text.split(',').collect(),
            Preset::Value(text) => vec![*text],
            Preset::Otherwise { .. } => Vec::new(),
        };
        T::read(&items).unwrap_or_else(|fault| panic!("the table of settings has a bad default: {}", fault.what))
    }
}

/// The beginning of the names of all variables.
pub(super) const VARIABLE_PREFIX: &str = "RINGHUB_";

/// Returns no items: the value of a setting that is not given.
const UNSET: fn(&Config) -> Vec<String> = |_| Vec::new();

fn one(value: impl ToString) -> Vec<String> {
    vec![value.to_string()]
}

fn bytes(count: usize) -> Vec<String> {
    one(Size(count as u64))
}

/// Checks that each item is a number. The error names the range of the setting.
fn check_numbers(items: &[&str], least: u64, most: u64) -> Result<(), Fault> {
    let no_number = items.iter().position(|item| item.trim().parse::<u64>().is_err());
    no_number.map_or(Ok(()), |item| {
        Err(Fault { item, what: format!("{:?} is no whole number from {least} to {most}", items[item]) })
    })
}

/// `"heading" { documentation key: type, VALUE_NAME [range] (from least to most), preset, reloads; ... }`. Without
/// `reloads` another value needs a restart. A range in brackets is text for the help. With numbers in parentheses, the
/// error about an item that is no number names this range. `check.rs` checks that numbers are within their ranges.
macro_rules! settings {
    ($($heading:literal { $(
        $(#[doc = $doc:literal])+
        $key:ident: $type:ty, $value:ident $([$range:literal])? $((from $least:literal to $most:expr))?, $preset:expr
        $(, $reloads:ident)?;
    )+ })+) => {
        /// Every setting, in the order of the help.
        pub const SETTINGS: &[Setting] = &[$($(Setting {
            key: stringify!($key),
            heading: $heading,
            value_name: stringify!($value),
            range: [$($range)?].first().copied(),
            preset: $preset,
            is_list: <$type as Value>::IS_LIST,
            is_secret: <$type as Value>::IS_SECRET,
            reloads: [$(Reloads::$reloads,)? Reloads::No][0],
            takes_integers: <$type as Value>::TAKES_INTEGERS,
            expected: <$type as Value>::EXPECTED,
            read: |settings, items| {
                $(check_numbers(items, $least, $most as u64)?;)?
                settings.$key = Value::read(items)?;
                Ok(())
            },
            items: |settings| Value::items(&settings.$key),
            is_same: |one, other| one.$key == other.$key,
            keep: |settings, kept| settings.$key.clone_from(&kept.$key),
            doc: concat!($($doc),+),
        },)+)+];

        /// The given settings, each valid by itself. [`Config::new`] checks them against each other.
        ///
        /// ```
        /// use ringhub::config::{Config, Settings, Size};
        /// let settings = Settings { max_message: Size(64 << 10), ..Settings::default() };
        /// assert_eq!(Config::new(&settings, 20_000)?.limits.message.frame_bytes_max, 65_536);
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[allow(rustdoc::bare_urls, reason = "the same text is shown on terminals")]
        pub struct Settings {
            $($($(#[doc = $doc])+ pub $key: $type,)+)+
        }

        /// The defaults.
        impl Default for Settings {
            fn default() -> Self {
                Settings { $($($key: { const PRESET: &Preset = &$preset; PRESET.read() },)+)+ }
            }
        }
    };
}

settings! {
    "Network" {
        /// Addresses and ports to listen on; port 0 takes a free one. A host name stands for all its addresses when
        /// the server starts.
        listen: Vec<ListenAddress>, ADDRESS, Is("127.0.0.1:6455");

        /// Connections that a listener on the address :: takes: only (those of IPv6) or dual (those of IPv4 too).
        listen_ipv6: ListenIpv6, WHICH, Is("only");

        /// Another address and port for /metrics and /debug/top, which are then not served on the addresses of listen.
        /// Health, readiness and administration are served on both.
        metrics_listen: Option<SocketAddr>, ADDRESS,
        Otherwise { words: "the addresses of listen", example: "127.0.0.1:9464", effective: UNSET };
    }

    "Access" {
        /// Origins whose pages may use the hub, such as https://example.org; the hub's own page at / needs the hub's
        /// own origin among them. Pages of other origins are answered 403.
        allowed_origins: Option<Vec<String>>, ORIGIN,
        Otherwise { words: "any", example: "https://example.org", effective: UNSET }, Yes;

        /// Bearer tokens of which one is needed to publish. Better in a file or a variable than as a flag, which every
        /// user of the machine can read.
        publish_tokens: Option<Secrets>, TOKEN,
        Otherwise { words: "none needed", example: "choose-one", effective: UNSET }, Yes;

        /// Bearer tokens of which one is needed to subscribe. A token that is also one of publish_tokens allows both.
        subscribe_tokens: Option<Secrets>, TOKEN,
        Otherwise { words: "none needed", example: "choose-another", effective: UNSET }, Yes;

        /// Bearer tokens of which one is needed to read /metrics.
        metrics_tokens: Option<Secrets>, TOKEN,
        Otherwise { words: "none needed", example: "choose-a-third", effective: UNSET }, Yes;

        /// Bearer tokens of which one is needed at /connections, /topics, /revocations and /debug/top, in the
        /// header Authorization. Without any, the first three paths do not exist, and nobody may read the last.
        admin_tokens: Option<Secrets>, TOKEN,
        Otherwise { words: "no administration", example: "choose-a-fourth", effective: UNSET }, Yes;
    }

    "Proxies" {
        /// Addresses and networks of the proxies in front, such as 10.0.0.0/8 or 192.0.2.1. They are believed when they
        /// name the address of a client, which logs, network rules and limits of addresses then see. Any machine in
        /// them can take any address.
        trusted_proxies: Option<Vec<AddressRange>>, NETWORK,
        Otherwise { words: "none, and no header line is read", example: "10.0.0.0/8", effective: UNSET }, Yes;

        /// Header line in which trusted proxies name their client: x-forwarded-for, forwarded (RFC 7239) or none. Only
        /// this one is read.
        client_address: ClientAddress, WHICH, Is("x-forwarded-for"), Yes;

        /// Addresses among those of listen at which each connection begins with a header of the PROXY protocol, version
        /// 1 or 2, and comes from one of trusted_proxies. Other connections are closed there.
        proxy_protocol: Option<Vec<ListenAddress>>, ADDRESS,
        Otherwise { words: "none", example: "127.0.0.1:6455", effective: UNSET };
    }

    "CPUs" {
        /// Shards, 1 to 256: threads that each serve their share of the connections. A cgroup quota of fewer CPUs
        /// lowers the default.
        shards: Option<usize>, COUNT ["1 to 256"] (from 1 to Limits::SHARDS_MAX),
        Otherwise { words: "one for each CPU", example: "2", effective: |config| one(config.shards) };

        /// CPUs to run on, such as 0 or 0,2-3. Each shard gets the next one of them.
        cpus: Option<CpuList>, CPU,
        Otherwise {
            words: "all allowed",
            example: "0",
            effective: |config| config.cpus.iter().map(ToString::to_string).collect(),
        };

        /// Keep each shard on its CPU: auto, on or off. With auto a shard is kept, unless no CPUs are given and a
        /// cgroup quota is smaller than the affinity mask.
        pin: Pin, WHEN, Is("auto");

        /// The kernel's interface to sockets: auto, uring or epoll. With auto it is io_uring, or epoll where the kernel
        /// or the container does not allow io_uring, with a warning; with uring the server does not start there.
        io: IoChoice, WHICH, Is("auto");

        /// Give up what only the start needs, once the server serves: on or off. With on, every system call that a
        /// serving server does not make fails with EPERM, in all threads of the process, and rings of io_uring take the
        /// operations in use alone. If the kernel or the container does not allow this, the server does not start.
        sandbox: SandboxChoice, WHEN, Is("off");
    }

    "Limits" {
        /// Connections at the same time, also during their opening handshake. At most the number that the limit of open
        /// descriptors leaves. Beyond it: 503.
        max_connections: Option<usize>, COUNT ["1 to 16777216"] (from 1 to ConnectionId::SLOTS_MAX),
        Otherwise {
            words: "from the descriptor limit",
            example: "800",
            effective: |config| one(config.limits.connections_max),
        }, Yes;

        /// Connections at the same time from one address, or from one /64 of IPv6; 0 is no limit. Beyond it the HTTP
        /// connection of the address that has been idle longest is ended; if none is idle: 429. Behind a proxy that is
        /// not among trusted_proxies all clients have the proxy's address, so 0 is right there.
        max_connections_per_address: usize, COUNT ["0 or more"], Is("0"), UnlessZero;

        /// Largest message from a client, such as 32MiB, to 1GiB. Beyond it: close 1009.
        max_message: Size, SIZE ["1 to 1GiB"], Is("1MiB"), Yes;

        /// Largest frame from a client. Beyond it: close 1009.
        max_frame: Option<Size>, SIZE ["1 to max_message"],
        Otherwise {
            words: "largest message",
            example: "1MiB",
            effective: |config| bytes(config.limits.message.frame_bytes_max as usize),
        }, Yes;

        /// Fragments of one message. Beyond it: close 1009.
        max_fragments: u32, COUNT ["1 to 4294967295"] (from 1 to u32::MAX), Is("65537"), Yes;

        /// Memory of the backlog of a slow consumer, at least two of the largest messages; a message in several
        /// backlogs counts in each, as it is sent: one of `ringhub.v1` has up to six times the bytes of its payload.
        /// Beyond it: close 1008.
        max_backlog: Option<Size>, SIZE ["2 × max_message or more"],
        Otherwise {
            words: "4MiB, or two of the largest messages in their largest form",
            example: "13MiB",
            effective: |config| bytes(config.limits.backlog_bytes_max),
        }, Yes;

        /// Messages in the backlog of a slow consumer. Beyond it: close 1008.
        max_backlog_messages: u64, COUNT ["0 or more"], Is("65536"), Yes;

        /// Memory of messages that wait to be sent, over all topics of a shard. One topic alone may have a quarter of
        /// it; beyond that its publishers wait. A quarter is for messages of other shards; when messages of its own
        /// clients fill the rest, the shard does not receive.
        max_gathered: Option<Size>, SIZE ["max_message to 2GiB"],
        Otherwise {
            words: "4MiB, or two of the largest messages",
            example: "4MiB",
            effective: |config| bytes(config.limits.gathered_bytes_max),
        }, Yes;

        /// Memory of messages whose end has not arrived, over all connections; each shard has its part. Beyond it:
        /// close 1013 for the message that began first.
        max_unfinished: Option<Size>, SIZE ["2 × max_backlog × shards or more"],
        Otherwise {
            words: "256MiB, at most a quarter of max_memory; or two backlogs for each shard",
            example: "256MiB",
            effective: |config| bytes(config.limits.unfinished_bytes_max),
        }, Yes;

        /// Topics that one connection may subscribe to at the same time. Beyond it: a `subscribe` of `ringhub.v1` is
        /// refused.
        max_subscriptions: usize, COUNT ["1 to 65536"] (from 1 to Limits::SUBSCRIPTIONS_MAX), Is("1024"), Yes;

        /// Topics that no connection uses, but whose offsets each shard remembers.
        max_idle_topics: usize, COUNT ["0 or more"], Is("10000"), Yes;

        /// Memory of the histories of all topics, of which each shard has an equal part. Beyond it the histories that
        /// have not been used for the longest time are forgotten.
        history_memory: Option<Size>, SIZE ["0 or more"],
        Otherwise {
            words: "a quarter of max_memory, or 256MiB if that is off",
            example: "256MiB",
            effective: |config| bytes(config.limits.history_bytes_max),
        }, Yes;

        /// Memory of the members of all topics with presence, of which each shard has an equal part. Beyond it further
        /// members are counted, and not listed.
        presence_memory: Option<Size>, SIZE ["0 or more"],
        Otherwise {
            words: "an eighth of max_memory, or 64MiB if that is off",
            example: "64MiB",
            effective: |config| bytes(config.limits.presence_bytes_max),
        }, Yes;

        /// Send buffer of each connection's socket (SO_SNDBUF).
        send_buffer: Option<Size>, SIZE ["0 or more"],
        Otherwise { words: "the kernel's tuning", example: "64KiB", effective: UNSET }, Yes;

        /// Unsent bytes from which on each connection's socket takes no more (TCP_NOTSENT_LOWAT). Less waits in the
        /// kernel for a slow subscriber, where no policy can drop it.
        unsent_low_water: Option<Size>, SIZE ["1 to 1GiB"],
        Otherwise { words: "the kernel's tuning", example: "64KiB", effective: UNSET }, Yes;

        /// Bytes of all bodies that are being published, at least one of the largest messages. Beyond it: 503 for
        /// the incomplete body with the highest bytes × age.
        max_bodies: Option<Size>, SIZE ["max_message or more"],
        Otherwise {
            words: "64MiB, or four of the largest messages; at most a quarter of max_memory",
            example: "64MiB",
            effective: |config| bytes(config.http.bodies_bytes_max),
        }, Yes;

        /// Memory of the idempotency keys that are remembered; each shard has an equal part for the topics that it
        /// orders. Beyond it: 503 for a message with a further key, since none is forgotten early.
        max_idempotency: Option<Size>, SIZE ["0 or more"],
        Otherwise {
            words: "64MiB, at most an eighth of max_memory",
            example: "64MiB",
            effective: |config| bytes(config.limits.ids_bytes_max),
        }, Yes;

        /// Connections that speak HTTP at the same time. Beyond it the connection that has been idle longest is ended;
        /// if none is idle: 503, and the new connection ends.
        max_http_connections: usize, COUNT ["1 or more"] (from 1 to usize::MAX), Is("1024"), Yes;

        /// Bytes of an answer that a client has to take in a second, on average over --body-timeout, while the server
        /// waits for the client. Below it the connection is reset; with 0, one byte in each --body-timeout is enough.
        min_rate: Size, SIZE ["0 or more"], Is("1KiB"), Yes;

        /// Revocations of identities and tokens that are in force at the same time. Beyond it: 503 for a further one.
        max_revocations: usize, COUNT ["0 or more"], Is("10000"), Yes;
    }

    "Rates" {
        /// Messages from one connection, such as 100/s or 30/m burst 5; each ping and each pong counts as one. Beyond
        /// it the connection is not read until the rate allows it.
        max_message_rate: RateLimit, RATE, Is("off"), Yes;

        /// Bytes from one connection, such as 64KiB/s or 1MiB/s burst 8MiB. Beyond it the connection is not read until
        /// the rate allows it.
        max_byte_rate: ByteRateLimit, RATE, Is("off"), Yes;

        /// Time for which a connection may be over its rates, without a break of more than a second; 0 is any time.
        /// Beyond it: close 1008.
        rate_timeout: Time, TIME ["0 to 8784h"], Is("30s"), Yes;

        /// Messages that one address, or one /64 of IPv6, publishes by HTTP. Addresses of trusted_proxies have
        /// no rate. Beyond it: 429, with the time to wait.
        max_publish_rate_per_address: RateLimit, RATE, Is("off"), Yes;

        /// Messages that one identity publishes by HTTP. A message counts for each name that authenticators have found
        /// for its sender, but not for a network. Beyond it: 429.
        max_publish_rate_per_identity: RateLimit, RATE, Is("off"), Yes;

        /// Messages that requests with one bearer token publish by HTTP. Where no token is needed to publish, a client
        /// may show any. Beyond it: 429.
        max_publish_rate_per_token: RateLimit, RATE, Is("off"), Yes;

        /// Opening requests for WebSockets of one address, or one /64 of IPv6, over all shards. Addresses of
        /// trusted_proxies have no rate. Beyond it: 429, with the time to wait.
        max_handshake_rate: RateLimit, RATE, Is("off"), Yes;

        /// Requests of one address, or one /64 of IPv6, with wrong credentials: a token, a password, or what the
        /// application denies (but for cookies). Requests that pages of other origins have sent have this rate for
        /// themselves. Addresses of trusted_proxies have no rate. Beyond it every request of the address that shows
        /// credentials is answered 429, with the time to wait.
        max_guess_rate: RateLimit, RATE, Is("100/s burst 1000"), Yes;

        /// Sockets that the server accepts, whatever their addresses; each shard has an equal part. Beyond it sockets
        /// wait in the kernel's queue, those for the server's health too.
        max_accept_rate: RateLimit, RATE, Is("off"), Yes;
    }

    "Memory" {
        /// Memory of the server, or off. Above it new connections and the largest bodies under way are answered 503,
        /// the oldest opening handshakes are ended with 503 or without an answer, and the connections that hold the
        /// most are closed with 1008 or 1013, until the memory is a tenth below it. What counts is the smaller of two
        /// sums: what the server holds, and the resident memory of its process. Above 85 % of the memory that the
        /// process may have, the resident memory alone counts.
        max_memory: Option<MemoryLimit>, SIZE ["16MiB or more"],
        Otherwise {
            words: "70 % of the limit of the cgroup; off if there is none",
            example: "700MiB",
            effective: |config| one(MemoryLimit(config.limits.memory_bytes_max.map(Size))),
        };
    }

    "Times" {
        /// Longest time for an opening request, or for the head of any request.
        handshake_timeout: Time, TIME ["100ms to 8784h"], Is("10s"), Yes;

        /// Longest time for a message, from its first byte on; 0 waits forever. Beyond it: close 1008.
        message_timeout: Time, TIME ["0 to 8784h"], Is("60s"), Yes;

        /// Time for which an idempotency key is remembered: a message with the same key to the same topic is published
        /// once in this time.
        idempotency_window: Time, TIME ["100ms to 8784h"], Is("5m"), Yes;

        /// Longest wait for the receipt of a message, see docs/topics.md. Beyond it the message has its place, and no
        /// receipt.
        receipt_timeout: Time, TIME ["100ms to 8784h"], Is("5s"), Yes;

        /// Longest time for the body of a request.
        body_timeout: Time, TIME ["100ms to 8784h"], Is("10s"), Yes;

        /// Time for which a connection is kept alive for its next request.
        idle_timeout: Time, TIME ["100ms to 8784h"], Is("75s"), Yes;

        /// Silence of a client after which it is pinged; 0 never pings.
        ping_interval: Time, TIME ["0 to 8784h"], Is("30s"), Yes;

        /// Longest time from a ping to the next bytes of the client; 0 waits forever. Beyond it: close 1011.
        pong_timeout: Time, TIME ["0 to 8784h"], Is("10s"), Yes;

        /// Longest time for a connection to close, in all; then output that its client has not taken is dropped.
        close_timeout: Time, TIME ["100ms to 8784h"], Is("5s"), Yes;

        /// Longest time for connections to leave after SIGTERM, SIGINT or SIGQUIT.
        drain_timeout: Time, TIME ["0 to 8784h"], Is("10s"), Yes;

        /// Time after SIGTERM, SIGINT or SIGQUIT for which the server goes on as before, but answers /readyz with 503:
        /// a balancer has this time to send clients elsewhere. Then connections have drain_timeout to leave.
        drain_delay: Time, TIME ["0 to 8784h"], Is("0"), Yes;
    }

    "Callbacks" {
        /// URL of the application that is asked who a client is and what it may do, see docs/callbacks.md.
        callback_url: Option<HttpUrl>, URL,
        Otherwise { words: "nobody is asked", example: "https://app.example/ringhub", effective: UNSET };

        /// Secrets that sign the questions to the application (HMAC-SHA256), each of at least 16 characters. Every one
        /// signs, so that a secret can be replaced: put the new one beside the old one, and take the old one away
        /// later.
        callback_secrets: Option<Secrets>, SECRET,
        Otherwise { words: "none; callback_url needs one", example: "choose-one-of-16-characters", effective: UNSET };

        /// Ask about requests at the topics of a server whose file has no routes: on or off. A route of a file asks
        /// with callback = true.
        callback_connect: CallbackConnect, WHEN, Is("on");

        /// Header lines of a request that are sent to the application. The query and the list of subprotocols are sent
        /// too, with the token that a client shows there.
        callback_headers: Vec<HeaderName>, NAME, Is("authorization,cookie,origin");

        /// Longest time for an answer of the application, from the time at which the question is sent. Before that, a
        /// question waits at most as long for its turn.
        callback_timeout: Time, TIME ["100ms to handshake_timeout"], Is("2s");

        /// What becomes of a request that the application does not answer: deny (503), last (the last answer to the
        /// same question holds for up to an hour), or allow. With allow, anybody gets in who can make the application
        /// slow.
        callback_on_error: OnError, WHAT, Is("deny");

        /// Longest time for which an answer holds for the same question, whatever its cache_for says; with 0 each
        /// question is asked. Answers for callback_on_error = "last" are kept all the same.
        callback_cache_time: Time, TIME ["0 to 8784h"], Is("5m");

        /// Memory of the answers that are kept. Beyond it, the answer goes that was not used for the longest time.
        callback_cache_size: Size, SIZE ["0 or more"], Is("16MiB");
    }

    "Requests to other servers" {
        /// File of certificates in PEM form: authorities that the server trusts, in addition to those of the system,
        /// when it sends requests to https URLs of its settings.
        outbound_ca: Option<FilePath>, FILE,
        Otherwise { words: "those of the system alone", example: "/etc/ringhub/ca.pem", effective: UNSET };
    }

    "Logs" {
        /// Events to log, such as info, or ringhub=debug.
        log: LogFilter, FILTER, Is("info"), Yes;

        /// Format of the log on standard error: text or json.
        log_format: LogFormat, FORMAT, Is("text");

        /// Lines about openings, HTTP requests and ends of connections on standard output: off or json.
        access_log: AccessLogFormat, FORMAT, Is("off");

        /// One in so many connections, and one in so many requests, has lines in the access log.
        access_log_sample: u32, COUNT ["1 to 1000000"] (from 1 to 1_000_000), Is("1");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reading a row and showing it concern the same field, and defaults and examples are right.
    #[test]
    fn every_row_is_in_order() {
        for setting in SETTINGS {
            let mut settings = Settings::default();
            match setting.preset {
                Preset::Value(text) => assert_eq!((setting.items)(&settings), setting.split(text), "{}", setting.key),
                Preset::Otherwise { example, .. } => {
                    assert_eq!((setting.items)(&settings), Vec::<String>::new(), "{}", setting.key);
                    (setting.read)(&mut settings, &setting.split(example)).unwrap();
                    assert_ne!(settings, Settings::default(), "{}", setting.key);
                    assert_eq!((setting.items)(&settings).len(), 1, "{}", setting.key);
                }
            }
            assert!(setting.help().ends_with('.') && !setting.help().contains("  "), "{}", setting.help());
            let rows = SETTINGS.iter().filter(|other| other.key == setting.key);
            assert_eq!(rows.count(), 1, "{}", setting.key);
        }
    }

    #[test]
    fn names() {
        let setting = Setting::by_key("max_message").unwrap();
        assert_eq!(setting.flag(), "max-message");
        assert_eq!(setting.variable(), "RINGHUB_MAX_MESSAGE");
        assert!(Setting::by_key("max-message").is_none());
    }

    #[test]
    fn toml() {
        let check = |key: &str, items: &[&str], expected: &str| {
            assert_eq!(Setting::by_key(key).unwrap().toml(items), expected);
        };
        check("max_message", &["1MiB"], "\"1MiB\"");
        check("max_message", &["65536"], "65536");
        check("cpus", &["0", "2"], "[0, 2]");
        check("publish_tokens", &["1", "2"], "[\"1\", \"2\"]");
        check("allowed_origins", &[], "[]");
        check("log", &["a\"b\\c\n"], "\"a\\\"b\\\\c\\U0000000A\"");
    }
}
