//! Tests of the checks of settings.

use super::*;
use crate::{
    config::{SETTINGS, Setting},
    rates::Rate,
};

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
    assert_eq!(config.limits.backlog_bytes_max, 13 << 20);
    let KeepAlive { ping_interval, pong_timeout, .. } = config.keep_alive;
    assert_eq!((ping_interval, pong_timeout), (300, 100));
}

/// Further shards, addresses and folders reserve descriptors, which leaves fewer for connections.
#[test]
fn descriptors_are_reserved_for_what_is_asked_for() {
    let connections = |flags: &[&str]| config(flags).unwrap().limits.connections_max;
    assert_eq!(connections(&["--shards", "2"]), 20_000 - 201 - 9);
    assert_eq!(connections(&["--shards", "1", "--listen", "127.0.0.1:1,[::1]:1"]), 20_000 - 201 - 1);
    assert_eq!(connections(&["--shards", "1", "--metrics-listen", "127.0.0.1:1"]), 20_000 - 201 - 81);
    let with_folders =
        Config::with_folders(&settings(&["--shards", "1"]), DESCRIPTORS, 3, Outbound::default()).unwrap();
    assert_eq!(with_folders.limits.connections_max, 20_000 - 201 - 3);
    assert_eq!(descriptors::sum(&with_folders.descriptors()), 201 + 3);
    // With only its reserved descriptors the server could serve no client.
    let error = |descriptors| Config::new(&settings(&["--shards", "1"]), descriptors).map(drop).unwrap_err();
    for few in [0, 64, 201] {
        let ConfigErrors(errors) = error(few);
        assert_eq!(errors.iter().map(ConfigError::setting).collect::<Vec<_>>(), [Some("max_connections")]);
        let expected = format!("the limit of {few} open descriptors leaves none");
        assert!(errors[0].to_string().contains(&expected), "{errors:?}");
    }
    // Each shard may refuse two sockets.
    assert_eq!(connections(&["--shards", "256"]), 20_000 - 201 - 255 * 9 - (2 * 256 - 64));
}

/// A limit of descriptors that leaves few connections is told, or refused, unless the operator has set the number.
#[test]
fn few_descriptors_are_told_and_fewer_are_refused() {
    let start = |descriptors, flags: &[&str]| {
        let flags = [&["--shards", "1"], flags].concat();
        Config::new(&settings(&flags), 201 + descriptors).map_err(|ConfigErrors(errors)| errors[0].to_string())
    };
    let remedies = ["`ulimit -n 4096`", "LimitNOFILE=4096", "`--ulimit nofile=4096:4096`"];
    for few in [1, 63] {
        let error = start(few, &[]).unwrap_err();
        let what = format!("the limit of {} open descriptors leaves {few} for connections", 201 + few);
        assert!(error.starts_with(&what), "{error}");
        assert!(error.contains(&format!("set max_connections to {few} or less")), "{error}");
        assert!(remedies.iter().all(|remedy| error.contains(remedy)), "{error}");
        let config = start(few, &["--max-connections", &few.to_string()]).unwrap();
        assert_eq!((config.limits.connections_max as u64, config.warnings().len()), (few, 0));
    }
    for few in [64, 1_023] {
        let [warning] = &start(few, &[]).unwrap().warnings()[..] else { panic!("one warning") };
        assert!(warning.starts_with(&format!("only {few} connections have room: ")), "{warning}");
        assert!(warning.contains(&format!("is {}, and the server's own are 201", 201 + few)), "{warning}");
        assert!(remedies.iter().all(|remedy| warning.contains(remedy)), "{warning}");
        assert!(start(few, &["--max-connections", "64"]).unwrap().warnings().is_empty());
    }
    assert!(start(1_024, &[]).unwrap().warnings().is_empty());
    let error = start(100, &["--max-connections", "101"]).unwrap_err();
    assert!(error.contains("101 is not between 1 and 100"), "{error}");
    // The remedy leaves a useful number also where the server's own descriptors are many.
    let error = start(1, &["--shards", "256"]).unwrap_err();
    assert!(error.contains("leaves none") && error.contains("`ulimit -n 8192`"), "{error}");
}

/// The limit that the remedy names has room for the connections that are wanted.
#[test]
fn a_remedy_raises_the_limit_far_enough() {
    let start = |limit, flags: &[&str]| {
        Config::new(&settings(flags), limit).map_err(|ConfigErrors(errors)| errors[0].to_string())
    };
    for shards in ["1", "40"] {
        let flags = ["--max-connections", "100000", "--shards", shards];
        let error = start(20_000, &flags).unwrap_err();
        let told = error.split("`ulimit -n ").nth(1).and_then(|rest| rest.split('`').next()).expect("a number");
        let enough: u64 = told.parse().unwrap();
        for way in [format!("LimitNOFILE={enough} "), format!("nofile={enough}:{enough}`")] {
            assert!(error.contains(&way), "{error}");
        }
        assert_eq!(start(enough, &flags).unwrap().limits.connections_max, 100_000);
        assert!(start(enough - 1, &flags).is_err(), "{enough} is the least");
    }
    // No limit helps.
    for impossible in ["0", "16777217"] {
        let error = start(1 << 40, &["--max-connections", impossible, "--shards", "1"]).unwrap_err();
        assert!(error.starts_with("max_connections: ") && !error.contains("ulimit"), "{error}");
    }
}

/// Fewer shards are a remedy only where there are several, and one would leave room.
#[test]
fn fewer_shards_are_named_where_they_help() {
    let helps = |limit, flags: &[&str]| {
        let ConfigErrors(errors) = Config::new(&settings(flags), limit).map(drop).unwrap_err();
        errors[0].to_string().contains("run fewer shards")
    };
    // One shard takes 201 descriptors, and the 64 connections that are the fewest have room beside it.
    assert!(helps(265, &["--shards", "20"]) && !helps(264, &["--shards", "20"]));
    assert!(!helps(264, &["--shards", "1"]));
    let of_few = |limit| helps(limit, &["--shards", "20", "--max-connections", "10"]);
    assert!(of_few(211) && !of_few(210));
    // The server's own leave some for connections, yet too few.
    assert!(helps(400, &["--shards", "20"]) && !helps(220, &["--shards", "2"]));
}

/// A time that is added to a clock does not overflow it.
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

/// No sum or product of sizes overflows.
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
    // A default can be given too.
    let largest = config(&["max_backlog", "1024GiB", "shards", "256"]).unwrap();
    let unfinished = largest.limits.unfinished_bytes_max;
    assert_eq!(unfinished, 512 << 40);
    let given = ["max_backlog", "1024GiB", "shards", "256", "max_unfinished", "524288GiB"];
    assert_eq!(config(&given).unwrap().limits.unfinished_bytes_max, unfinished);
    assert_eq!(config(&["send_buffer", "1GiB"]).unwrap().send_buffer_bytes, Some(1 << 30));
    assert_eq!(config(&["unsent_low_water", "1"]).unwrap().unsent_low_water_bytes, Some(1));
    let error = config(&["unsent_low_water", "0"]).unwrap_err().to_string();
    assert_eq!(error, "unsent_low_water: 0 is not between 1 and 1GiB");
    let error = config(&["send_buffer", "1025MiB"]).unwrap_err().to_string();
    assert_eq!(error, "send_buffer: 1025MiB is not between 0 and 1GiB");
}

#[test]
fn the_backlog_holds_two_of_the_largest_messages() {
    // As JSON each may have six times its bytes.
    assert_eq!(config(&["--max-message", "16MiB"]).unwrap().limits.backlog_bytes_max, 193 << 20);
    assert_eq!(config(&["--max-message", "64KiB"]).unwrap().limits.backlog_bytes_max, 4 << 20);
    let warns = |flags: &[&str]| config(flags).unwrap().warnings().iter().any(|text| text.contains("max_backlog is"));
    assert!(warns(&["--max-backlog", "12MiB"]) && !warns(&["--max-backlog", "13MiB"]) && !warns(&[]));
}

/// Each shard has its part of the accepts, and no other rate is divided.
#[test]
fn rates_and_the_limit_of_memory_are_settings() {
    let flags = ["--max-accept-rate", "100/s burst 9", "--max-handshake-rate", "5/m", "--shards", "4"];
    let limits = config(&flags).unwrap().limits;
    let rate = |rate: Option<Rate>| rate.map(|rate| (rate.count(), rate.period().as_secs(), rate.burst()));
    assert_eq!(rate(limits.arrival_rates.accepts), Some((100, 4, 2)));
    assert_eq!(rate(limits.arrival_rates.handshakes), Some((5, 60, 5)));
    assert_eq!(limits.input_rates, InputRates::default());
    let memory = |size: &str| config(&["--max-memory", size]).unwrap().limits.memory_bytes_max;
    assert_eq!((memory("off"), memory("16MiB"), memory("734003200")), (None, Some(16 << 20), Some(700 << 20)));
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
    check(&["--rate-timeout", "9999h"], "rate_timeout");
    check(&["--max-memory", "1MiB"], "max_memory");
    check(&["--max-memory", "1025GiB"], "max_memory");
    // A setting that is not given admits all requests; an empty list is refused.
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
    for apart in ["0.0.0.0:1,[::]:1", "127.0.0.1:0,127.0.0.1:0", "127.0.0.1:1,127.0.0.2:1", "127.0.0.1:1,0.0.0.0:2"] {
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
    let flags = ["--shards", "0", "--cpus", "4000", "--max-fragments", "0", "--max-gathered", "1", "--max-frame", "0"];
    let ConfigErrors(errors) = config(&flags).unwrap_err();
    let settings: Vec<&str> = errors.iter().filter_map(ConfigError::setting).collect();
    assert_eq!(settings, ["cpus", "shards", "max_fragments", "max_frame", "max_gathered"]);
    // A fault of one setting hides no fault of a setting that does not depend on it.
    let settings = |flags: &[&str]| -> Vec<&'static str> {
        config(flags).unwrap_err().0.iter().filter_map(ConfigError::setting).collect()
    };
    assert_eq!(settings(&["--max-message", "0", "--message-timeout", "9999h"]), ["message_timeout", "max_message"]);
    let listen = "a.invalid:1,127.0.0.1:1,b.invalid:1,127.0.0.1:1";
    let found = settings(&["--listen", listen, "--metrics-listen", "127.0.0.1:1"]);
    assert_eq!(found, ["listen", "listen", "listen", "metrics_listen"]);
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
