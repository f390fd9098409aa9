//! Checks settings against each other and against this machine: [`Settings`] become a [`Config`].

use std::net::SocketAddr;

use super::{
    checked::{Config, Http, Limits},
    descriptors,
    quantities::Size,
    settings::Settings,
    ticks::{TICK, at_least_a_tick, ticks},
    values::{CpuList, ListenIpv6, Pin, Secrets},
};
use crate::{
    auth::{Access, Origins, Tokens},
    error::{ConfigError, ConfigErrors},
    proto::{KeepAlive, MessageLimits},
    sys,
};

impl Config {
    /// Checks settings against each other and against this machine. `descriptors` is the limit of open descriptors of
    /// the process.
    ///
    /// # Errors
    ///
    /// Everything that is wrong; see [`ConfigError`].
    pub fn new(settings: &Settings, descriptors: u64) -> Result<Config, ConfigErrors> {
        Config::with_folders(settings, descriptors, 0)
    }

    /// Does the same for a server that serves so many folders of files, each of which has a descriptor.
    pub(crate) fn with_folders(settings: &Settings, descriptors: u64, folders: usize) -> Result<Config, ConfigErrors> {
        let mut faults = Faults(Vec::new());
        match check(settings, descriptors, folders, &mut faults) {
            Some(config) if faults.0.is_empty() => Ok(config),
            _ => Err(ConfigErrors(faults.0)),
        }
    }
}

/// Checks all settings. All faults are found in one pass, so that an operator can mend them together.
fn check(settings: &Settings, descriptors: u64, folders: usize, faults: &mut Faults) -> Option<Config> {
    let listen = check_addresses(settings, faults);
    let access = check_access(settings, faults);
    let handshake_timeout = faults.keep(at_least_a_tick("handshake_timeout", settings.handshake_timeout));
    let http = check_http(settings, faults);
    let quota = sys::cpu::quota();
    let allowed = sys::cpu::allowed();
    let cpus = faults.keep(choose_cpus(settings, &allowed));
    let shards = faults.keep(choose_shards(settings, cpus.as_ref().map_or(1, Vec::len), quota));
    let addresses = listen.as_ref().map_or(1, Vec::len);
    let reserved = descriptors::parts(shards.unwrap_or(1), addresses, folders, settings.metrics_listen.is_some());
    let descriptors = (descriptors, descriptors::sum(&reserved));
    let limits = check_limits(settings, descriptors, shards.unwrap_or(1), faults);
    let keep_alive = check_keep_alive(settings, faults);
    let drain_timeout = faults.keep(ticks("drain_timeout", settings.drain_timeout));
    let send_buffer = settings.send_buffer.map(|size| size_within("send_buffer", size, 0, Limits::SEND_BUFFER_MAX));
    let send_buffer = faults.keep(send_buffer.transpose());
    let handshake_timeout = handshake_timeout?.0;
    Some(Config {
        listen: listen?,
        listen_ipv6: settings.listen_ipv6,
        metrics_listen: settings.metrics_listen,
        access: access?,
        http: Http { header_timeout: handshake_timeout, ..http? },
        shards: shards?,
        cpus: cpus?,
        is_pinned: choose_pinning(settings, allowed.len(), quota),
        limits: limits?,
        keep_alive: keep_alive?,
        handshake_timeout,
        drain_timeout: TICK * drain_timeout?,
        send_buffer_bytes: send_buffer?.map(|bytes| bytes as usize),
        routes: Vec::new(),
        folders,
    })
}

/// The faults found so far.
struct Faults(Vec<ConfigError>);

impl Faults {
    fn keep<T>(&mut self, result: Result<T, ConfigError>) -> Option<T> {
        result.map_err(|error| self.0.push(error)).ok()
    }
}

/// Resolves the names among the addresses, and checks that each address is there once. One that stands for all
/// addresses includes the others of its family; `[::]` includes those of IPv4 too where it takes their connections.
fn check_addresses(settings: &Settings, faults: &mut Faults) -> Option<Vec<SocketAddr>> {
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
        for second in faults.keep(resolved)? {
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
    Some(listen)
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
    Some(Access { origins: origins?, publish: publish?, subscribe: subscribe?, metrics: metrics? })
}

/// Checks the settings of HTTP. The head of a request has the time of an opening request.
fn check_http(settings: &Settings, faults: &mut Faults) -> Option<Http> {
    let connections_max = faults.keep(match settings.max_http_connections {
        0 => Err(ConfigError::of("max_http_connections", "nothing could be published by HTTP".into())),
        count => Ok(count),
    });
    let body_timeout = faults.keep(at_least_a_tick("body_timeout", settings.body_timeout));
    let idle_timeout = faults.keep(at_least_a_tick("idle_timeout", settings.idle_timeout));
    let bodies_bytes_max = faults.keep(bodies_bytes_max(settings));
    let rate_min = faults.keep(size_within("min_rate", settings.min_rate, 0, Limits::SIZE_MAX));
    Some(Http {
        connections_max: connections_max?,
        bodies_bytes_max: bodies_bytes_max? as usize,
        rate_min: rate_min?,
        header_timeout: settings.handshake_timeout.0,
        body_timeout: body_timeout?.0,
        idle_timeout: idle_timeout?.0,
    })
}

fn bodies_bytes_max(settings: &Settings) -> Result<u64, ConfigError> {
    let message = settings.max_message.0;
    let bodies = settings.max_bodies.unwrap_or(Size(message.saturating_mul(4).max(64 << 20)));
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

/// Checks the limits. `descriptors` holds the limit of open descriptors and the number of those that are not for
/// connections.
fn check_limits(settings: &Settings, descriptors: (u64, u64), shards: usize, faults: &mut Faults) -> Option<Limits> {
    let connections_max = faults.keep(connections_max(settings, descriptors));
    let fragments_max = faults.keep(match settings.max_fragments {
        0 => Err(ConfigError::of("max_fragments", "a message has at least one frame".into())),
        count => Ok(count),
    });
    // The others depend on it.
    let message = faults.keep(size_within("max_message", settings.max_message, 1, Limits::MESSAGE_BYTES_MAX))?;
    let frame = faults.keep(frame_bytes_max(settings, message));
    let backlog = settings.max_backlog.map_or((2 * message).max(4 << 20), |size| size.0);
    let backlog = faults.keep(match backlog {
        _ if backlog >= 2 * message => size_within("max_backlog", Size(backlog), 2 * message, Limits::SIZE_MAX),
        _ => {
            let what = format!("{} is less than two of the largest messages, {}", Size(backlog), Size(2 * message));
            Err(ConfigError::of("max_backlog", what).against("max_message"))
        }
    });
    let gathered = faults.keep(gathered_bytes_max(settings, message));
    let unfinished = backlog.and_then(|backlog| faults.keep(unfinished_bytes_max(settings, shards, backlog)));
    let message_ticks_max = faults.keep(ticks("message_timeout", settings.message_timeout));
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
        topics_idle_max: settings.max_idle_topics,
    })
}

fn connections_max(settings: &Settings, (descriptors, reserved): (u64, u64)) -> Result<usize, ConfigError> {
    let affordable = descriptors.saturating_sub(reserved).min(SLOTS_MAX) as usize;
    if affordable == 0 {
        let what = format!(
            "the limit of {descriptors} open descriptors leaves none for connections: the server's own are {reserved} \
             (raise it with `ulimit -n`, or run fewer shards)"
        );
        return Err(ConfigError::of("max_connections", what));
    }
    let count = settings.max_connections.unwrap_or(affordable);
    if (1..=affordable).contains(&count) {
        return Ok(count);
    }
    let what = format!(
        "{count} is not between 1 and {affordable}, which is what the limit of {descriptors} open descriptors leaves \
         beside the server's own {reserved} (raise it with `ulimit -n`)"
    );
    Err(ConfigError::of("max_connections", what))
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

/// Returns the limit of unfinished messages. A route's messages have at most half a backlog, and a buffer doubles as it
/// fills.
fn unfinished_bytes_max(settings: &Settings, shards: usize, backlog: u64) -> Result<u64, ConfigError> {
    let least = 2 * backlog * shards as u64;
    let unfinished = settings.max_unfinished.unwrap_or(Size(least.max(256 << 20)));
    if unfinished.0 < least {
        let what = format!("{unfinished} is less than two of the largest backlogs for each shard, {}", Size(least));
        return Err(ConfigError::of("max_unfinished", what).against("max_backlog"));
    }
    // The default can be given too.
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
        // A quota of 2.5 CPUs keeps two shards busy; a third would only be throttled with them.
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
mod tests {
    use super::*;
    use crate::config::{SETTINGS, Setting};

    const DESCRIPTORS: u64 = 20_000;

    /// Settings of which these are given, by their flags.
    fn settings(flags: &[&str]) -> Settings {
        let flags = flags.chunks(2).map(|pair| (pair[0].trim_start_matches("--").replace('-', "_"), pair[1]));
        let mut settings = Settings::default();
        for (key, text) in flags {
            let setting = Setting::by_key(&key).unwrap();
            (setting.read)(&mut settings, &setting.split(text)).unwrap();
        }
        settings
    }

    fn config(flags: &[&str]) -> Result<Config, ConfigErrors> {
        Config::new(&settings(flags), DESCRIPTORS)
    }

    #[test]
    fn defaults_are_those_of_the_documentation() {
        let config = config(&["--shards", "1"]).unwrap();
        assert_eq!(config.listen, ["127.0.0.1:6455".parse().unwrap()]);
        assert_eq!(config.limits.connections_max, 20_000 - 201);
        assert_eq!(config.limits.message.message_bytes_max, 1 << 20);
        assert_eq!(config.limits.message.frame_bytes_max, 1 << 20);
        assert_eq!(config.limits.message.fragments_max, 65_537);
        assert_eq!(config.limits.backlog_bytes_max, 4 << 20);
        let KeepAlive { ping_interval, pong_timeout, .. } = config.keep_alive;
        assert_eq!((ping_interval, pong_timeout), (300, 100));
    }

    /// Whatever has more sockets of its own leaves fewer for connections.
    #[test]
    fn descriptors_are_reserved_for_what_is_asked_for() {
        let connections = |flags: &[&str]| config(flags).unwrap().limits.connections_max;
        assert_eq!(connections(&["--shards", "2"]), 20_000 - 201 - 9);
        assert_eq!(connections(&["--shards", "1", "--listen", "127.0.0.1:1,[::1]:1"]), 20_000 - 201 - 1);
        assert_eq!(connections(&["--shards", "1", "--metrics-listen", "127.0.0.1:1"]), 20_000 - 201 - 81);
        let with_folders = Config::with_folders(&settings(&["--shards", "1"]), DESCRIPTORS, 3).unwrap();
        assert_eq!(with_folders.limits.connections_max, 20_000 - 201 - 3);
        assert_eq!(descriptors::sum(&with_folders.descriptors()), 201 + 3);
        // With no more than its own the server could serve nobody.
        let error = |descriptors| Config::new(&settings(&["--shards", "1"]), descriptors).map(drop).unwrap_err();
        for few in [0, 64, 201] {
            let ConfigErrors(errors) = error(few);
            assert_eq!(errors.iter().map(ConfigError::setting).collect::<Vec<_>>(), [Some("max_connections")]);
            let expected = format!("the limit of {few} open descriptors leaves none");
            assert!(errors[0].to_string().contains(&expected), "{errors:?}");
        }
        assert_eq!(Config::new(&settings(&["--shards", "1"]), 202).unwrap().limits.connections_max, 1);
        // Each shard may refuse two sockets.
        assert_eq!(connections(&["--shards", "256"]), 20_000 - 201 - 255 * 9 - (2 * 256 - 64));
    }

    /// Nothing that is added to a clock is more than it can take.
    #[test]
    fn times_are_at_most_a_year() {
        let times = SETTINGS.iter().filter(|setting| setting.value_name == "TIME");
        let keys: Vec<&str> = times.map(|setting| setting.key).collect();
        assert!(keys.len() >= 8, "{keys:?}");
        for key in keys {
            assert!(config(&[key, "8784h"]).is_ok(), "{key}");
            for more in ["31622400001ms", "8785h", "18446744073709551615s"] {
                let ConfigErrors(errors) = config(&[key, more]).expect_err(key);
                assert_eq!(errors.iter().map(ConfigError::setting).collect::<Vec<_>>(), [Some(key)], "{errors:?}");
                assert!(errors[0].to_string().contains("more than a year"), "{errors:?}");
            }
        }
    }

    /// No sum or product of sizes is more than a number holds.
    #[test]
    fn sizes_are_at_most_a_tebibyte() {
        for key in ["max_backlog", "max_unfinished", "max_bodies", "min_rate"] {
            assert!(config(&[key, "1024GiB"]).is_ok(), "{key}");
            for more in ["1099511627777", "8589934592GiB", "18446744073709551615"] {
                let ConfigErrors(errors) = config(&[key, more]).expect_err(key);
                assert_eq!(errors.iter().map(ConfigError::setting).collect::<Vec<_>>(), [Some(key)], "{errors:?}");
                assert!(errors[0].to_string().ends_with(" and 1024GiB"), "{errors:?}");
            }
        }
        let error = config(&["max_backlog", "8589934592GiB"]).unwrap_err().to_string();
        assert_eq!(error, "max_backlog: 8589934592GiB is not between 2MiB and 1024GiB");
        // What holds by default can be given too.
        let largest = config(&["max_backlog", "1024GiB", "shards", "256"]).unwrap();
        let unfinished = largest.limits.unfinished_bytes_max;
        assert_eq!(unfinished, 512 << 40);
        let given = ["max_backlog", "1024GiB", "shards", "256", "max_unfinished", "524288GiB"];
        assert_eq!(config(&given).unwrap().limits.unfinished_bytes_max, unfinished);
        assert_eq!(config(&["send_buffer", "1GiB"]).unwrap().send_buffer_bytes, Some(1 << 30));
        let error = config(&["send_buffer", "1025MiB"]).unwrap_err().to_string();
        assert_eq!(error, "send_buffer: 1025MiB is not between 0 and 1GiB");
    }

    #[test]
    fn the_backlog_holds_two_of_the_largest_messages() {
        assert_eq!(config(&["--max-message", "16MiB"]).unwrap().limits.backlog_bytes_max, 32 << 20);
    }

    #[test]
    fn impossible_settings_are_refused_by_name() {
        let check = |flags: &[&str], setting: &str| {
            let ConfigErrors(errors) = config(flags).expect_err(setting);
            assert_eq!(errors.iter().map(ConfigError::setting).collect::<Vec<_>>(), [Some(setting)], "{errors:?}");
        };
        check(&["--max-message", "0"], "max_message");
        check(&["--max-message", "2GiB", "--max-frame", "3GiB"], "max_message");
        check(&["--max-message", "1KiB", "--max-frame", "2KiB"], "max_frame");
        check(&["--max-frame", "0"], "max_frame");
        check(&["--max-fragments", "0"], "max_fragments");
        check(&["--max-backlog", "2MB"], "max_backlog");
        check(&["--max-gathered", "1000"], "max_gathered");
        check(&["--max-gathered", "3GiB"], "max_gathered");
        check(&["--max-connections", "0"], "max_connections");
        check(&["--max-connections", "19816", "--shards", "1"], "max_connections");
        check(&["--cpus", "4000"], "cpus");
        check(&["--shards", "0"], "shards");
        check(&["--shards", "257"], "shards");
        check(&["--close-timeout", "0"], "close_timeout");
        check(&["--handshake-timeout", "99ms"], "handshake_timeout");
        check(&["--allowed-origins", "example.org"], "allowed_origins");
        check(&["--publish-tokens", "a b"], "publish_tokens");
        check(&["--subscribe-tokens", "a,,b"], "subscribe_tokens");
        check(&["--metrics-tokens", ""], "metrics_tokens");
        check(&["--max-http-connections", "0"], "max_http_connections");
        check(&["--body-timeout", "0"], "body_timeout");
        check(&["--idle-timeout", "0"], "idle_timeout");
        check(&["--ping-interval", "9999h"], "ping_interval");
        check(&["--pong-timeout", "9999h"], "pong_timeout");
        check(&["--close-timeout", "9999h"], "close_timeout");
        check(&["--drain-timeout", "9999h"], "drain_timeout");
        // Not given means everybody; an empty list does not.
        let (none, given) = (Some(Secrets(Vec::new())), Settings::default);
        for (empty, setting) in [
            (Settings { allowed_origins: Some(Vec::new()), ..given() }, "allowed_origins"),
            (Settings { publish_tokens: none.clone(), ..given() }, "publish_tokens"),
            (Settings { subscribe_tokens: none.clone(), ..given() }, "subscribe_tokens"),
            (Settings { metrics_tokens: none.clone(), ..given() }, "metrics_tokens"),
        ] {
            let error = Config::new(&empty, DESCRIPTORS).unwrap_err().0.remove(0);
            assert_eq!(error.setting(), Some(setting));
            assert!(error.to_string().contains("the list is empty"), "{error}");
        }
        for listen in ["127.0.0.1:1,127.0.0.1:1", "0.0.0.0:1,127.0.0.1:1", "127.0.0.1:1,0.0.0.0:1", "[::1]:1,[::]:1"] {
            check(&["--listen", listen], "listen");
        }
        check(&["--metrics-listen", "127.0.0.1:1", "--listen", "[::1]:1,127.0.0.1:1"], "metrics_listen");
        check(&["--metrics-listen", "0.0.0.0:1", "--listen", "127.0.0.1:1"], "metrics_listen");
        for apart in ["0.0.0.0:1,[::]:1", "127.0.0.1:0,127.0.0.1:0", "127.0.0.1:1,127.0.0.2:1", "127.0.0.1:1,0.0.0.0:2"]
        {
            assert!(config(&["--listen", apart]).is_ok(), "{apart}");
        }
        for both in ["0.0.0.0:1,[::]:1", "[::]:1,127.0.0.1:1"] {
            check(&["--listen-ipv6", "dual", "--listen", both], "listen");
        }
        assert!(config(&["--listen-ipv6", "dual", "--listen", "[::1]:1,127.0.0.1:1"]).is_ok());
        check(&["--listen", "127.0.0.1:1,no-such-host.invalid:1"], "listen");
        let nowhere = Settings { listen: Vec::new(), ..Settings::default() };
        assert_eq!(Config::new(&nowhere, DESCRIPTORS).unwrap_err().0[0].setting(), Some("listen"));
    }

    #[test]
    fn all_that_is_wrong_is_found_at_once() {
        let flags =
            ["--shards", "0", "--cpus", "4000", "--max-fragments", "0", "--max-gathered", "1", "--max-frame", "0"];
        let ConfigErrors(errors) = config(&flags).unwrap_err();
        let settings: Vec<&str> = errors.iter().filter_map(ConfigError::setting).collect();
        assert_eq!(settings, ["cpus", "shards", "max_fragments", "max_frame", "max_gathered"]);
    }

    #[test]
    fn a_server_open_to_the_world_is_warned_about() {
        let warnings = |flags: &[&str]| config(flags).unwrap().warnings().len();
        assert_eq!(warnings(&[]), 0);
        assert_eq!(warnings(&["--listen", "127.0.0.1:0,[::1]:0"]), 0);
        for public in ["0.0.0.0:1", "[::]:1", "127.0.0.1:1,192.0.2.1:1"] {
            assert_eq!(warnings(&["--listen", public]), 1, "{public}");
            assert_eq!(warnings(&["--listen", public, "--publish-tokens", "a"]), 0);
            assert_eq!(warnings(&["--listen", public, "--subscribe-tokens", "a"]), 0);
            assert_eq!(warnings(&["--listen", public, "--allowed-origins", "https://a.example"]), 0);
            assert_eq!(warnings(&["--listen", public, "--metrics-tokens", "a"]), 1);
        }
    }

    /// Only CPUs that a shard runs on are named.
    #[test]
    fn where_shards_run_is_told() {
        let placement =
            |flags: &[&str], cpus: &[usize]| Config { cpus: cpus.to_vec(), ..config(flags).unwrap() }.placement();
        let (one, two) = (["--shards", "1", "--pin", "on"], ["--shards", "2", "--pin", "on"]);
        assert_eq!(placement(&one, &[0, 1]), "1 shard pinned to CPU 0");
        assert_eq!(placement(&one, &[3]), "1 shard pinned to CPU 3");
        assert_eq!(placement(&two, &[0, 1, 2]), "2 shards pinned to CPUs [0, 1]");
        assert_eq!(placement(&two, &[1]), "2 shards pinned to CPU 1");
        assert_eq!(placement(&["--shards", "1", "--pin", "off"], &[0, 1]), "1 shard floating over CPUs [0, 1]");
        let config = |count: &str| config(&["--max-connections", count, "--shards", "1"]).unwrap().to_string();
        assert!(config("1").starts_with("1 connection, ") && config("2").starts_with("2 connections, "));
    }

    #[test]
    fn a_quota_below_the_mask_lets_shards_float() {
        let pinned = |flags: &[&str], quota| choose_pinning(&settings(flags), 2, quota);
        assert!(pinned(&[], None));
        assert!(pinned(&[], Some(2.0)));
        assert!(!pinned(&[], Some(1.5)));
        assert!(pinned(&["--cpus", "1"], Some(0.5)));
        assert!(pinned(&["--pin", "on"], Some(0.5)));
        assert!(!pinned(&["--pin", "off"], None));
        let shards = |flags: &[&str], quota| {
            let settings = settings(flags);
            choose_shards(&settings, choose_cpus(&settings, &[0, 1, 2, 3]).unwrap().len(), quota).unwrap()
        };
        assert_eq!(shards(&[], None), 4);
        assert_eq!(shards(&[], Some(2.9)), 2);
        assert_eq!(shards(&[], Some(0.5)), 1);
        assert_eq!(shards(&[], Some(8.0)), 4);
        assert_eq!(shards(&["--cpus", "1"], None), 1);
        assert_eq!(shards(&["--cpus", "1", "--shards", "3"], None), 3);
    }
}
