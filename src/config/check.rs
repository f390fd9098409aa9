//! Checks settings against each other and against this machine: [`Settings`] become a [`Config`].

use std::{net::SocketAddr, num::NonZeroU64};

use super::{
    applications,
    checked::{Config, Http, Limits, Unchecked},
    descriptors,
    quantities::Size,
    settings::Settings,
    ticks::{TICK, at_least_a_tick, ticks},
    types::{CpuList, ListenIpv6, Pin, Secrets},
};
use crate::{
    auth::{Access, Origins, Tokens, TrustedProxies},
    error::{ConfigError, ConfigErrors},
    outbound::Outbound,
    proto::{KeepAlive, MessageLimits},
    rates::{ArrivalRates, InputRates, PublishRates},
    surface::largest_form,
    sys,
};

impl Config {
    /// Checks settings against each other and against this machine. `descriptors` is the limit of open descriptors of
    /// the process.
    ///
    /// # Errors
    ///
    /// All faults of the settings; see [`ConfigError`].
    pub fn new(settings: &Settings, descriptors: u64) -> Result<Config, ConfigErrors> {
        Config::with_folders(settings, descriptors, 0, Outbound::default())
    }

    /// Checks settings like [`Config::new`], for a server that serves `folders` folders of files, and whose own
    /// requests leave by `outbound`. Each folder takes a descriptor.
    pub(crate) fn with_folders(
        settings: &Settings,
        descriptors: u64,
        folders: usize,
        outbound: Outbound,
    ) -> Result<Config, ConfigErrors> {
        checked(settings, descriptors, folders, outbound, None)
    }

    /// Checks settings like [`Config::new`], for a server that runs: its addresses, its shards and their CPUs, and its
    /// callback stay as they are, and no name is resolved.
    pub(super) fn again(settings: &Settings, running: &Config) -> Result<Config, ConfigErrors> {
        checked(settings, running.descriptor_limit, running.folders, running.outbound.clone(), Some(running))
    }
}

fn checked(
    settings: &Settings,
    descriptors: u64,
    folders: usize,
    outbound: Outbound,
    running: Option<&Config>,
) -> Result<Config, ConfigErrors> {
    let mut faults = Faults(Vec::new());
    match check(settings, descriptors, folders, outbound, running, &mut faults) {
        Some(config) if faults.0.is_empty() => Ok(config),
        _ => Err(ConfigErrors(faults.0)),
    }
}

/// Checks all settings. All faults are found in one pass, so that an operator can correct them together. Only a setting
/// that depends on a wrong setting is not checked until the wrong setting is mended.
fn check(
    settings: &Settings,
    descriptors: u64,
    folders: usize,
    outbound: Outbound,
    running: Option<&Config>,
    faults: &mut Faults,
) -> Option<Config> {
    let descriptor_limit = descriptors;
    let listen = running.map_or_else(|| check_addresses(settings, faults), |running| running.listen.clone());
    let proxy_protocol = match running {
        Some(running) => running.proxy_protocol.clone(),
        None => check_proxy_protocol(settings, &listen, faults),
    };
    let access = check_access(settings, faults);
    let handshake_timeout = faults.keep(at_least_a_tick("handshake_timeout", settings.handshake_timeout));
    let http = check_http(settings, faults);
    let Placement { cpus, shards, is_pinned } = match running {
        Some(running) => Placement::of(running),
        None => choose_placement(settings, faults),
    };
    let addresses = listen.len();
    let callback = match running {
        Some(running) => Some(running.callback.clone()),
        None => faults.keep(applications::callback(settings, &outbound)),
    };
    let (has_metrics, sends_requests) = (settings.metrics_listen.is_some(), outbound.has_targets());
    let reserved =
        |shards| descriptors::sum(&descriptors::parts(shards, addresses, folders, has_metrics, sends_requests));
    let (of_all, of_one) = (reserved(shards.unwrap_or(1)), reserved(1));
    let descriptors = Descriptors { limit: descriptors, reserved: of_all, reserved_by_one_shard: of_one };
    let limits = check_limits(settings, &descriptors, shards.unwrap_or(1), faults);
    let few_descriptors = limits.as_ref().and_then(|limits| few_descriptors(settings, limits, descriptors.limit));
    let keep_alive = check_keep_alive(settings, faults);
    let sample = faults.keep(match settings.access_log_sample {
        sample @ 1..=1_000_000 => Ok(sample),
        other => Err(ConfigError::of("access_log_sample", format!("{other} is not between 1 and 1000000"))),
    });
    let drain_timeout = faults.keep(ticks("drain_timeout", settings.drain_timeout));
    let drain_delay = faults.keep(ticks("drain_delay", settings.drain_delay));
    let send_buffer = settings.send_buffer.map(|size| size_within("send_buffer", size, 0, Limits::SEND_BUFFER_MAX));
    let send_buffer = faults.keep(send_buffer.transpose());
    let low_water =
        settings.unsent_low_water.map(|size| size_within("unsent_low_water", size, 1, Limits::SEND_BUFFER_MAX));
    let low_water = faults.keep(low_water.transpose());
    let authorities = faults.keep(applications::authorities(settings));
    let handshake_timeout = handshake_timeout?.0;
    Some(Config {
        listen,
        listen_ipv6: settings.listen_ipv6,
        io: settings.io,
        sandbox: settings.sandbox,
        metrics_listen: settings.metrics_listen,
        access_log: settings.access_log,
        access_log_sample: sample?,
        access: access?,
        trusted_proxies: TrustedProxies::new(
            settings.trusted_proxies.clone().unwrap_or_default(),
            settings.client_address,
        ),
        proxy_protocol,
        http: Http { header_timeout: handshake_timeout, ..http? },
        shards: shards?,
        cpus: cpus?,
        is_pinned,
        limits: limits?,
        keep_alive: keep_alive?,
        handshake_timeout,
        drain_timeout: TICK * drain_timeout?,
        drain_delay: TICK * drain_delay?,
        send_buffer_bytes: send_buffer?.map(|bytes| bytes as usize),
        unsent_low_water_bytes: low_water?.map(|bytes| bytes as usize),
        routes: Vec::new(),
        callback: callback?,
        callback_connect: settings.callback_connect,
        outbound,
        topics: Vec::new(),
        authorities: authorities?,
        jwt: None,
        folders,
        few_descriptors,
        descriptor_limit,
        settings: Unchecked(Box::new(settings.clone())),
    })
}

/// The shards and their CPUs, as far as they could be chosen.
struct Placement {
    cpus: Option<Vec<usize>>,
    shards: Option<usize>,
    is_pinned: bool,
}

impl Placement {
    fn of(running: &Config) -> Placement {
        Placement { cpus: Some(running.cpus.clone()), shards: Some(running.shards), is_pinned: running.is_pinned }
    }
}

fn choose_placement(settings: &Settings, faults: &mut Faults) -> Placement {
    let quota = sys::cpu::quota();
    let allowed = sys::cpu::allowed();
    let cpus = faults.keep(choose_cpus(settings, &allowed));
    let shards = faults.keep(choose_shards(settings, cpus.as_ref().map_or(1, Vec::len), quota));
    Placement { cpus, shards, is_pinned: choose_pinning(settings, allowed.len(), quota) }
}

/// The faults found so far.
struct Faults(Vec<ConfigError>);

impl Faults {
    fn keep<T>(&mut self, result: Result<T, ConfigError>) -> Option<T> {
        result.map_err(|error| self.0.push(error)).ok()
    }
}

/// Resolves the names among the addresses, and checks that no address is given twice. An unspecified address includes
/// all other addresses of its family; with `listen_ipv6 = dual`, `[::]` includes the addresses of IPv4 too.
fn check_addresses(settings: &Settings, faults: &mut Faults) -> Vec<SocketAddr> {
    let includes = |all: &SocketAddr, one: &SocketAddr| {
        let is_dual = all.is_ipv6() && settings.listen_ipv6 == ListenIpv6::Dual;
        all.ip().is_unspecified() && (all.is_ipv4() == one.is_ipv4() || is_dual)
    };
    let clash = |first: &SocketAddr, second: &SocketAddr| {
        let is_one = first.ip() == second.ip() || includes(first, second) || includes(second, first);
        is_one && first.port() == second.port() && first.port() != 0
    };
    let twice = |first: &SocketAddr, second: &SocketAddr| match first == second {
        true => format!("{second} is given twice"),
        false => format!("{second} is given twice: {first} stands for the same"),
    };
    if settings.listen.is_empty() {
        faults.0.push(ConfigError::of("listen", "at least one address is needed".into()));
    }
    let mut listen: Vec<SocketAddr> = Vec::new();
    for address in &settings.listen {
        let resolved = address.resolve().map_err(|what| ConfigError::of("listen", what));
        for second in faults.keep(resolved).unwrap_or_default() {
            if let Some(first) = listen.iter().find(|first| clash(first, &second)) {
                faults.0.push(ConfigError::of("listen", twice(first, &second)));
            }
            listen.push(second);
        }
    }
    if let Some(metrics) = &settings.metrics_listen
        && let Some(first) = listen.iter().find(|first| clash(first, metrics))
    {
        faults.0.push(ConfigError::of("metrics_listen", twice(first, metrics)).against("listen"));
    }
    listen
}

/// Resolves the names among the addresses at which connections begin with a header of the PROXY protocol, and checks
/// that the server listens on each of them and that somebody may send such a header.
fn check_proxy_protocol(settings: &Settings, listen: &[SocketAddr], faults: &mut Faults) -> Vec<SocketAddr> {
    let mut addresses = Vec::new();
    for address in settings.proxy_protocol.iter().flatten() {
        let resolved = address.resolve().map_err(|what| ConfigError::of("proxy_protocol", what));
        for address in faults.keep(resolved).unwrap_or_default() {
            if !listen.contains(&address) {
                let what = format!("{address} is none of the addresses that the server listens on");
                faults.0.push(ConfigError::of("proxy_protocol", what).against("listen"));
            }
            addresses.push(address);
        }
    }
    if !addresses.is_empty() && settings.trusted_proxies.is_none() {
        let what = "without trusted_proxies every connection to these addresses would be closed";
        faults.0.push(ConfigError::of("proxy_protocol", what.into()));
    }
    addresses
}

fn check_access(settings: &Settings, faults: &mut Faults) -> Option<Access> {
    let origins = settings.allowed_origins.clone().map_or_else(|| Ok(Origins::default()), Origins::new);
    let origins = faults.keep(origins.map_err(|what| ConfigError::of("allowed_origins", what)));
    let mut tokens = |setting, secrets: &Option<Secrets>| {
        let tokens = secrets.as_ref().map_or_else(|| Ok(Tokens::default()), |secrets| Tokens::new(secrets.0.clone()));
        faults.keep(tokens.map_err(|what| ConfigError::of(setting, what)))
    };
    let publish = tokens("publish_tokens", &settings.publish_tokens);
    let subscribe = tokens("subscribe_tokens", &settings.subscribe_tokens);
    let metrics = tokens("metrics_tokens", &settings.metrics_tokens);
    let admin = tokens("admin_tokens", &settings.admin_tokens);
    Some(Access { origins: origins?, publish: publish?, subscribe: subscribe?, metrics: metrics?, admin: admin? })
}

/// Checks the settings of HTTP. `handshake_timeout` limits the heads of HTTP's requests too.
fn check_http(settings: &Settings, faults: &mut Faults) -> Option<Http> {
    let connections_max = faults.keep(match settings.max_http_connections {
        0 => Err(ConfigError::of("max_http_connections", "nothing could be published by HTTP".into())),
        count => Ok(count),
    });
    let body_timeout = faults.keep(at_least_a_tick("body_timeout", settings.body_timeout));
    let idle_timeout = faults.keep(at_least_a_tick("idle_timeout", settings.idle_timeout));
    // A fault of `max_memory` is reported with the limits.
    let memory = memory_bytes_max(settings).unwrap_or(None);
    let bodies_bytes_max = faults.keep(bodies_bytes_max(settings, memory));
    let rate_min = faults.keep(size_within("min_rate", settings.min_rate, 0, Limits::SIZE_MAX));
    Some(Http {
        connections_max: connections_max?,
        bodies_bytes_max: bodies_bytes_max? as usize,
        rate_min: rate_min?,
        publish_rates: PublishRates {
            of_address: settings.max_publish_rate_per_address.0,
            of_identity: settings.max_publish_rate_per_identity.0,
            of_token: settings.max_publish_rate_per_token.0,
        },
        header_timeout: settings.handshake_timeout.0,
        body_timeout: body_timeout?.0,
        idle_timeout: idle_timeout?.0,
    })
}

fn bodies_bytes_max(settings: &Settings, memory: Option<u64>) -> Result<u64, ConfigError> {
    let message = settings.max_message.0;
    let default = || within_a_quarter(message.saturating_mul(4).max(64 << 20), memory).max(message);
    let bodies = settings.max_bodies.unwrap_or_else(|| Size(default()));
    if bodies.0 < message {
        let what = format!("{bodies} is less than one of the largest messages, {}", Size(message));
        return Err(ConfigError::of("max_bodies", what).against("max_message"));
    }
    match settings.max_bodies {
        Some(bodies) => size_within("max_bodies", bodies, message, Limits::SIZE_MAX),
        None => Ok(bodies.0),
    }
}

fn check_keep_alive(settings: &Settings, faults: &mut Faults) -> Option<KeepAlive> {
    let ping_interval = faults.keep(ticks("ping_interval", settings.ping_interval));
    let pong_timeout = faults.keep(ticks("pong_timeout", settings.pong_timeout));
    let close_timeout = at_least_a_tick("close_timeout", settings.close_timeout);
    let close_timeout = faults.keep(close_timeout.and_then(|time| ticks("close_timeout", time)));
    Some(KeepAlive { ping_interval: ping_interval?, pong_timeout: pong_timeout?, close_timeout: close_timeout? })
}

fn check_limits(settings: &Settings, descriptors: &Descriptors, shards: usize, faults: &mut Faults) -> Option<Limits> {
    let connections_max = faults.keep(connections_max(settings, descriptors));
    let fragments_max = faults.keep(match settings.max_fragments {
        0 => Err(ConfigError::of("max_fragments", "a message has at least one frame".into())),
        count => Ok(count),
    });
    let subscriptions_max = faults.keep(match settings.max_subscriptions {
        count @ 1..=Limits::SUBSCRIPTIONS_MAX => Ok(count),
        count => {
            let what = format!("{count} is not between 1 and {}", Limits::SUBSCRIPTIONS_MAX);
            Err(ConfigError::of("max_subscriptions", what))
        }
    });
    let message_ticks_max = faults.keep(ticks("message_timeout", settings.message_timeout));
    let memory = faults.keep(memory_bytes_max(settings));
    let rate_ticks_max = faults.keep(ticks("rate_timeout", settings.rate_timeout));
    let ids_window = faults.keep(at_least_a_tick("idempotency_window", settings.idempotency_window));
    let receipt_timeout = faults.keep(at_least_a_tick("receipt_timeout", settings.receipt_timeout));
    let ids = settings.max_idempotency.unwrap_or(Size(ids_bytes_preset(memory.flatten())));
    let ids = faults.keep(size_within("max_idempotency", ids, 0, Limits::SIZE_MAX));
    // The limits below depend on `message`.
    let message = faults.keep(size_within("max_message", settings.max_message, 1, Limits::MESSAGE_BYTES_MAX))?;
    let frame = faults.keep(frame_bytes_max(settings, message));
    // Two messages have room in any form.
    let preset = (2 * largest_form(message)).next_multiple_of(1 << 20).max(4 << 20);
    let backlog = settings.max_backlog.map_or(preset, |size| size.0);
    let backlog = faults.keep(match backlog {
        _ if backlog >= 2 * message => size_within("max_backlog", Size(backlog), 2 * message, Limits::SIZE_MAX),
        _ => {
            let what = format!("{} is less than two of the largest messages, {}", Size(backlog), Size(2 * message));
            Err(ConfigError::of("max_backlog", what).against("max_message"))
        }
    });
    let gathered = faults.keep(gathered_bytes_max(settings, message));
    let history = settings.history_memory.unwrap_or(Size(memory.flatten().map_or(256 << 20, |memory| memory / 4)));
    let history = faults.keep(size_within("history_memory", history, 0, Limits::SIZE_MAX));
    let presence = settings.presence_memory.unwrap_or(Size(memory.flatten().map_or(64 << 20, |memory| memory / 8)));
    let presence = faults.keep(size_within("presence_memory", presence, 0, Limits::SIZE_MAX));
    let of_each = NonZeroU64::new(shards as u64).unwrap_or(NonZeroU64::MIN);
    let unfinished =
        backlog.and_then(|backlog| faults.keep(unfinished_bytes_max(settings, shards, backlog, memory.flatten())));
    Some(Limits {
        connections_max: connections_max?,
        connections_per_address_max: settings.max_connections_per_address,
        message: MessageLimits {
            frame_bytes_max: frame? as u32,
            message_bytes_max: message as u32,
            fragments_max: fragments_max?,
            ..MessageLimits::DEFAULT
        },
        backlog_bytes_max: backlog? as usize,
        backlog_messages_max: settings.max_backlog_messages,
        gathered_bytes_max: gathered? as usize,
        unfinished_bytes_max: unfinished? as usize,
        message_ticks_max: message_ticks_max?,
        memory_bytes_max: memory?,
        resident_bytes_max: resident_bytes_max(memory?),
        input_rates: InputRates { messages: settings.max_message_rate.0, bytes: settings.max_byte_rate.0 },
        arrival_rates: ArrivalRates {
            handshakes: settings.max_handshake_rate.0,
            accepts: settings.max_accept_rate.0.map(|rate| rate.part(of_each)),
            guesses: settings.max_guess_rate.0,
        },
        rate_ticks_max: rate_ticks_max?,
        subscriptions_max: subscriptions_max?,
        topics_idle_max: settings.max_idle_topics,
        receipt_timeout: receipt_timeout?.0,
        ids_window: ids_window?.0,
        ids_bytes_max: ids? as usize,
        history_bytes_max: history? as usize,
        presence_bytes_max: presence? as usize,
        revocations_max: settings.max_revocations,
    })
}

fn connections_max(settings: &Settings, descriptors: &Descriptors) -> Result<usize, ConfigError> {
    let &Descriptors { limit, reserved, .. } = descriptors;
    let affordable = limit.saturating_sub(reserved).min(SLOTS_MAX) as usize;
    let remedy = descriptors::remedy(reserved, settings.max_connections);
    let fewer_shards =
        |connections| if descriptors.suffice_for_one_shard(connections) { "run fewer shards, or " } else { "" };
    match settings.max_connections {
        Some(count) if (1..=affordable).contains(&count) => Ok(count),
        None if affordable >= descriptors::CONNECTIONS_NEEDED => Ok(affordable),
        Some(count) => {
            let room = match affordable {
                0 => format!(
                    "the limit of {limit} open descriptors leaves none for connections: the server's own are {reserved}"
                ),
                _ => format!(
                    "{count} is not between 1 and {affordable}, which is what the limit of {limit} open descriptors \
                     leaves beside the server's own {reserved}"
                ),
            };
            // No limit of descriptors makes room for none, nor for more than a server can number.
            let is_possible = (1..=SLOTS_MAX as usize).contains(&count);
            let way =
                if is_possible { format!(". To have {count}, {}{remedy}", fewer_shards(count)) } else { String::new() };
            Err(ConfigError::of("max_connections", room + &way))
        }
        None => {
            let fewer_shards = fewer_shards(descriptors::CONNECTIONS_NEEDED);
            let what = match affordable {
                0 => format!(
                    "the limit of {limit} open descriptors leaves none for connections: the server's own are \
                     {reserved}. For some, {fewer_shards}{remedy}"
                ),
                _ => format!(
                    "the limit of {limit} open descriptors leaves {affordable} for connections beside the server's own \
                     {reserved}, which is mostly a mistake. For so few connections, set max_connections to \
                     {affordable} or less. For more, {fewer_shards}{remedy}"
                ),
            };
            Err(ConfigError::of_default("max_connections", what))
        }
    }
}

/// The limit of open descriptors, and what the server itself takes of it.
struct Descriptors {
    limit: u64,
    /// The descriptors that are not for connections.
    reserved: u64,
    /// The same if the server had one shard.
    reserved_by_one_shard: u64,
}

impl Descriptors {
    /// Returns whether fewer shards than the server has would leave room for these connections.
    fn suffice_for_one_shard(&self, connections: usize) -> bool {
        let needed = self.reserved_by_one_shard.saturating_add(connections as u64);
        self.reserved_by_one_shard < self.reserved && needed <= self.limit
    }
}

/// Returns the limit of open descriptors if it alone limits the connections, and leaves fewer than are useful.
fn few_descriptors(settings: &Settings, limits: &Limits, descriptors: u64) -> Option<u64> {
    let are_few = settings.max_connections.is_none() && limits.connections_max < descriptors::CONNECTIONS_USEFUL;
    are_few.then_some(descriptors)
}

fn frame_bytes_max(settings: &Settings, message: u64) -> Result<u64, ConfigError> {
    let frame = settings.max_frame.unwrap_or(Size(message));
    if frame.0 > message {
        let what = format!("{frame} is more than max_message, {}", Size(message));
        return Err(ConfigError::of("max_frame", what).against("max_message"));
    }
    size_within("max_frame", frame, 1, message)
}

fn gathered_bytes_max(settings: &Settings, message: u64) -> Result<u64, ConfigError> {
    let gathered = settings.max_gathered.unwrap_or(Size((2 * message).max(4 << 20)));
    if gathered.0 < message {
        let what = format!("{gathered} is less than max_message, {}", Size(message));
        return Err(ConfigError::of("max_gathered", what).against("max_message"));
    }
    size_within("max_gathered", gathered, message, 2 * Limits::MESSAGE_BYTES_MAX)
}

/// Returns the limit of the server's memory, if there is one. By default it is 70 % of what the cgroup may have: the
/// kernel ends a process that needs more than all of it. The memory of a machine is not only the server's, so it sets
/// no limit.
fn memory_bytes_max(settings: &Settings) -> Result<Option<u64>, ConfigError> {
    match settings.max_memory {
        Some(limit) => {
            limit.0.map(|size| size_within("max_memory", size, Limits::MEMORY_BYTES_MIN, Limits::SIZE_MAX)).transpose()
        }
        None => {
            let of_cgroup = sys::memory::available().filter(|available| available.is_cgroup);
            Ok(of_cgroup.map(|available| (available.bytes / 10 * 7).max(Limits::MEMORY_BYTES_MIN)))
        }
    }
}

/// Returns the limit of the resident memory of the process alone, beside a limit of the server's memory: 85 % of what
/// the process may have at all.
fn resident_bytes_max(memory: Option<u64>) -> u64 {
    let most = sys::memory::available().map_or(u64::MAX, |available| available.bytes / 100 * 85);
    most.max(memory.unwrap_or(0))
}

/// Returns a default that is at most a quarter of the server's memory, so that the two kinds of memory whose defaults
/// do not depend on the number of connections leave half of the server's memory to others.
fn within_a_quarter(default: u64, memory: Option<u64>) -> u64 {
    memory.map_or(default, |memory| default.min(memory / 4))
}

/// Returns the default of the memory for idempotency keys, which nothing but time gives up.
fn ids_bytes_preset(memory: Option<u64>) -> u64 {
    memory.map_or(64 << 20, |memory| (memory / 8).min(64 << 20))
}

/// Returns the limit of unfinished messages. A message is at most half as large as a backlog, and its buffer at most
/// doubles as it fills, so two backlogs for each shard suffice.
fn unfinished_bytes_max(
    settings: &Settings,
    shards: usize,
    backlog: u64,
    memory: Option<u64>,
) -> Result<u64, ConfigError> {
    let least = 2 * backlog * shards as u64;
    let unfinished = settings.max_unfinished.unwrap_or(Size(within_a_quarter(256 << 20, memory).max(least)));
    if unfinished.0 < least {
        let what = format!("{unfinished} is less than two of the largest backlogs for each shard, {}", Size(least));
        return Err(ConfigError::of("max_unfinished", what).against("max_backlog"));
    }
    // A given value may equal the default, which may exceed `SIZE_MAX`.
    size_within("max_unfinished", unfinished, least, Limits::SIZE_MAX.max(least))
}

fn choose_cpus(settings: &Settings, allowed: &[usize]) -> Result<Vec<usize>, ConfigError> {
    let cpus = settings.cpus.as_ref().map_or(allowed, |CpuList(cpus)| cpus);
    if let Some(cpu) = cpus.iter().find(|cpu| !allowed.contains(cpu)) {
        let what = format!("CPU {cpu} is not among those this process may use: {allowed:?}");
        return Err(ConfigError::of("cpus", what));
    }
    if cpus.is_empty() {
        return Err(ConfigError::of("cpus", "the affinity mask could not be read; name the CPUs".into()));
    }
    Ok(cpus.to_vec())
}

fn choose_pinning(settings: &Settings, allowed: usize, quota: Option<f64>) -> bool {
    match settings.pin {
        Pin::On => true,
        Pin::Off => false,
        Pin::Auto => settings.cpus.is_some() || quota.is_none_or(|quota| quota >= allowed as f64),
    }
}

fn choose_shards(settings: &Settings, cpus: usize, quota: Option<f64>) -> Result<usize, ConfigError> {
    match settings.shards {
        Some(shards) if (1..=Limits::SHARDS_MAX).contains(&shards) => Ok(shards),
        Some(shards) => {
            let what = format!("{shards} is not between 1 and {}", Limits::SHARDS_MAX);
            Err(ConfigError::of("shards", what))
        }
        // A quota of 2.5 CPUs is enough for two busy shards. With a third one all three would be throttled.
        None => Ok(quota.map_or(cpus, |quota| cpus.min(quota as usize)).clamp(1, Limits::SHARDS_MAX)),
    }
}

fn size_within(setting: &'static str, size: Size, least: u64, most: u64) -> Result<u64, ConfigError> {
    if (least..=most).contains(&size.0) {
        return Ok(size.0);
    }
    Err(ConfigError::of(setting, format!("{size} is not between {} and {}", Size(least), Size(most))))
}

const SLOTS_MAX: u64 = crate::hub::ConnectionId::SLOTS_MAX as u64;

#[cfg(test)]
mod tests;
