//! Settings from flags, variables and a file: precedence, errors, and `ringhub check-config`.

mod command_line;
mod issuers;
mod reference;
mod routes;
mod warnings;

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
    sync::atomic::{AtomicU32, Ordering},
};

use ringhub::config::{Flags, Given, SETTINGS};

use crate::support::{Server, program, run_to_end};

/// Tests one setting of each type in every source.
#[test]
fn flags_win_over_variables_and_these_over_the_file() {
    let cases = [
        ("listen", "[\"127.0.0.1:1\", \"[::1]:1\"]", "127.0.0.1:2,[::1]:2", "127.0.0.1:3"),
        ("metrics_listen", "\"127.0.0.1:1\"", "127.0.0.1:2", "127.0.0.1:3"),
        ("allowed_origins", "\"https://one.example\"", "https://two.example,null", "https://three.example"),
        ("publish_tokens", "[\"one\"]", "two,three", "one,two,three"),
        ("shards", "1", "2", "3"),
        ("pin", "\"auto\"", "off", "on"),
        ("max_message", "100_000", "200000", "300KiB"),
        ("max_frame", "\"1000B\"", "2kB", "3000"),
        ("max_fragments", "0x10", "17", "18"),
        ("max_backlog_messages", "\"1\"", "2", "3"),
        ("max_unfinished", "\"512MiB\"", "513MiB", "514MiB"),
        ("max_bodies", "\"65MiB\"", "66MiB", "67MiB"),
        ("message_timeout", "\"1s\"", "2s", "3s"),
        ("max_subscriptions", "1", "2", "3"),
        ("max_idle_topics", "1", "2", "3"),
        ("ping_interval", "0", "2s", "3h"),
        ("log", "\"warn\"", "off", "ringhub=debug"),
        ("log_format", "\"json\"", "text", "json"),
        ("access_log", "\"json\"", "off", "json"),
        ("access_log_sample", "1", "10", "100"),
    ];
    for (key, in_file, variable, flag) in cases {
        let setting = SETTINGS.iter().find(|setting| setting.key == key).unwrap();
        let file = Scratch::new(&format!("# first\n{key} = {in_file}\n"));
        let mut command = check_config(&file);
        let by_file = holds(command, key);
        assert_eq!(by_file.1, format!("{}:2", file.name()));
        command = check_config(&file);
        command.env(setting.variable(), variable);
        let by_variable = holds(command, key);
        assert_eq!(by_variable.1, setting.variable());
        command = check_config(&file);
        command.env(setting.variable(), variable).args([format!("--{}", setting.flag()), flag.into()]);
        let by_flag = holds(command, key);
        assert_eq!(by_flag.1, format!("--{}", setting.flag()));
        assert!(by_file.0 != by_variable.0 && by_variable.0 != by_flag.0, "{by_file:?} {by_variable:?} {by_flag:?}");
    }
}

/// Every setting can be given in all three ways.
#[test]
fn every_setting_is_a_flag_a_variable_and_a_key() {
    let output = run_to_end(command(&["example-config"]));
    let example = String::from_utf8(output.stdout).unwrap();
    let settings = example.lines().take_while(|line| *line != "#[[routes]]");
    let lines: Vec<&str> = settings.filter_map(|line| line.strip_prefix('#')).collect();
    let lines = lines.iter().filter(|line| !line.is_empty() && !line.starts_with(' '));
    let pairs: Vec<(&str, &str)> = lines.map(|line| line.split_once(" = ").unwrap()).collect();
    assert_eq!(pairs.len(), SETTINGS.len());
    // This process may not be allowed to use CPU 0, and the file of certificates is not there.
    let is_possible = |key: &str| !["cpus", "outbound_ca"].contains(&key);
    let pairs: Vec<(&str, &str)> = pairs.into_iter().filter(|(key, _)| is_possible(key)).collect();
    let text: String = pairs.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
    let file = Scratch::new(&text);
    let (mut by_variables, mut by_flags) = (command(&["check-config"]), command(&["check-config"]));
    for (key, value) in &pairs {
        let setting = SETTINGS.iter().find(|setting| setting.key == *key).unwrap();
        let value = value.replace(['[', ']', '"'], "");
        by_variables.env(setting.variable(), &value);
        by_flags.args([format!("--{}", setting.flag()), value]);
    }
    let mut values = Vec::new();
    for command in [check_config(&file), by_variables, by_flags] {
        let output = run_to_end(command);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let shown = text.lines().filter_map(|line| line.split_once("  # "));
        let given: Vec<(String, String)> =
            shown.map(|(what, from)| (what.trim_end().to_string(), from.to_string())).collect();
        assert!(given.iter().all(|(what, from)| from != "default" || what.starts_with("#cpus")), "{text}");
        values.push(given.into_iter().map(|(what, _)| what).collect::<Vec<_>>());
    }
    assert_eq!(values[0], values[1]);
    assert_eq!(values[1], values[2]);
}

/// A boolean of the file is `on` or `off`, for the settings that have these values and for no other.
#[test]
fn on_and_off_may_be_booleans() {
    for (given, sandbox, pin) in
        [("sandbox = true\npin = false", "on", "off"), ("sandbox = false\npin = true", "off", "on")]
    {
        let file = Scratch::new(given);
        let output = run_to_end(check_config(&file));
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{given}: {}", String::from_utf8_lossy(&output.stderr));
        for line in [format!("sandbox = \"{sandbox}\" "), format!("pin = \"{pin}\" ")] {
            assert!(text.lines().any(|found| found.starts_with(&line)), "{given}: {text}");
        }
    }
    for (setting, expected) in [("io", "uring"), ("log_format", "text"), ("listen_ipv6", "only"), ("log", "a level")] {
        let file = Scratch::new(&format!("{setting} = true"));
        check_failure(check_config(&file), &[&format!("1: {setting}: "), expected, "is expected, not this boolean"]);
    }
}

#[test]
fn a_file_says_what_is_wrong_and_where() {
    let check = |text: &str, expected: &str| {
        let file = Scratch::new(text);
        check_failure(check_config(&file), &[&format!("{}:{expected}", file.name())]);
    };
    check("\n\nmax_mesage = 1", "3: unknown key \"max_mesage\"; did you mean \"max_message\"?");
    check("max-message = 1", "1: unknown key \"max-message\"; did you mean \"max_message\"?");
    check("port = 1", "1: unknown key \"port\"; `ringhub example-config` prints them all");
    check("config = \"other.toml\"", "1: unknown key \"config\"");
    check("[network]\nlisten = \"x\"", "1: unknown key \"network\"");
    check("max_message = true", "1: max_message: a size, such as 65536 or \"64KiB\" is expected, not this boolean");
    check("max_message = 1.5", "1: max_message: a size, such as 65536 or \"64KiB\" is expected, not this float");
    check("max_message = [1]", "1: max_message: a size, such as 65536 or \"64KiB\" is expected, not this array");
    check("max_message.a = 1", "1: max_message: a size, such as 65536 or \"64KiB\" is expected, not this table");
    check("listen = 6455", "1: listen: an address and port in quotes, such as \"127.0.0.1:6455\", or a list of such,");
    check("listen = [\n  \"127.0.0.1:0\",\n  6455,\n]", "3: listen: an address and port in quotes");
    check("listen = [\n  \"127.0.0.1:0\",\n  \"localhost\",\n]", "3: listen: \"localhost\" is no address and port");
    let twice = "1: listen: 127.0.0.1:1 is given twice: 0.0.0.0:1 stands for the same";
    check("listen = [\"0.0.0.0:1\", \"127.0.0.1:1\"]", twice);
    check("listen = [\"[::1]:1\", \"[::1]:1\"]", "1: listen: [::1]:1 is given twice");
    check("listen = \"[::1]:1\"\nmetrics_listen = \"[::1]:1\"", "2: metrics_listen: [::1]:1 is given twice (listen is");
    check("pin = 1", "1: pin: \"auto\", \"on\" or \"off\" is expected, not this integer");
    check("pin = \"maybe\"", "1: pin: \"maybe\" is none of auto, on, off");
    check("cpus = [0, \"3-1\"]", "1: cpus: \"3-1\" is no range of CPUs");
    check("cpus = [0, 99999]", "1: cpus: CPU 99999 is not among those this process may use");
    check("max_message = \"much\"", "1: max_message: \"much\" is no size");
    check("max_fragments = -1", "1: max_fragments: \"-1\" is no whole number from 1 to 4294967295");
    check("max_fragments = 5_000_000_000", "1: max_fragments: \"5000000000\" is no whole number");
    check("ping_interval = 30", "1: ping_interval: \"30\" needs a unit of time: ms, s, m or h");
    check("shards = \"abc\"", "1: shards: \"abc\" is no whole number from 1 to 256");
    check("max_connections = \"\"", "1: max_connections: \"\" is no whole number from 1 to 16777216");
    check("max_http_connections = -1", "1: max_http_connections: \"-1\" is no whole number from 1 to");
    check("max_subscriptions = 0", "1: max_subscriptions: 0 is not between 1 and 65536");
    check("max_subscriptions = 65537", "1: max_subscriptions: 65537 is not between 1 and 65536");
    check("max_subscriptions = -1", "1: max_subscriptions: \"-1\" is no whole number from 1 to 65536");
    check("max_idle_topics = -1", "1: max_idle_topics: \"-1\" is no whole number from 0 to");
    check("ping_interval = \"5sec\"", "1: ping_interval: \"5sec\": \"sec\" is no unit of time: ms, s, m or h");
    check("ping_interval = \"1.5s\"", "1: ping_interval: \"1.5s\" is no whole number of a unit of time");
    check("cpus = \"0-\"", "1: cpus: \"0-\" is no CPU number or range; write it like 0 or 2-3");
    check("log = \"a=b=c\"", "1: log: \"a=b=c\" is no filter of logs");
    check("log = \"warning\"", "1: log: \"warning\" is no level of logs: off, error, warn, info, debug or trace");
    check("log = \"\"", "1: log: a filter of logs is empty");
    check("log_format = \"xml\"", "1: log_format: \"xml\" is none of text, json");
    check("# first\nmax_message = 1\nmax_message = 2", "3: duplicate key \"max_message\"");
    check("max_message = 1\nmax_frame =\n", "2: ");
    check("max_message = \"1MiB\nmax_frame = 1\n", "1: ");
    check("max_message 1\n", "1: ");
    for key in ["allowed_origins", "publish_tokens", "subscribe_tokens", "metrics_tokens", "cpus", "listen"] {
        check(&format!("{key} = []"), &format!("1: {key}: the list is empty"));
    }
    check("publish_tokens = [\"a b\"]", "1: publish_tokens: token 1 is empty or has characters");
}

/// The server keeps a descriptor for each folder.
#[test]
fn folders_of_files_leave_fewer_connections() {
    fs::create_dir_all(scratch_folder().join("site")).unwrap();
    let config = |folders: usize| {
        let route = |at: usize| format!("[[routes]]\nmatch = \"/site-{at}\"\ndocuments = \"site\"\n");
        let file = Scratch::new(&(0..folders).map(route).collect::<String>());
        let mut flags = Flags::default();
        flags.read_file(file.0.clone(), "test");
        Given::read(&flags, []).config(20_000).unwrap()
    };
    let (none, sixty) = (config(0), config(60));
    assert_eq!(sixty.limits.connections_max, none.limits.connections_max - 60);
    let reserved: u64 = sixty.descriptors().iter().map(|part| part.count).sum();
    assert_eq!(sixty.limits.connections_max as u64, 20_000 - reserved);
}

#[test]
fn settings_that_contradict_each_other_name_both_sources() {
    let file = Scratch::new("max_message = \"2MiB\"\nmax_backlog = \"3MiB\"");
    let path = file.name();
    let backlog = "max_backlog: 3MiB is less than two of the largest messages, 4MiB";
    check_failure(check_config(&file), &[&format!("{path}:2: {backlog} (max_message is from {path}:1)")]);
    let mut command = check_config(&file);
    command.env("RINGHUB_MAX_BACKLOG", "4MiB").args(["--max-frame", "3MiB"]);
    let frame = "--max-frame: 3MiB is more than max_message, 2MiB";
    check_failure(command, &[&format!("{frame} (max_message is from {path}:1)")]);
    let mut command = program();
    command.env("RINGHUB_MAX_GATHERED", "1KiB").env("RINGHUB_SHARDS", "257");
    check_failure(
        command,
        &["RINGHUB_SHARDS: 257 is not between 1 and 256", "RINGHUB_MAX_GATHERED: 1KiB is less than max_message, 1MiB"],
    );
}

/// All errors from all sources are reported, those of the file in the order of its lines. Errors that only follow from
/// others are left out.
#[test]
fn all_errors_are_reported_at_once() {
    let file =
        Scratch::new("nonsense = 1\nshards = 0\nmax_message = true\nmax_backlog = 1\nmax_frame = \"3MiB\"\nlog = 1");
    let path = file.name();
    let mut command = check_config(&file);
    command.env("RINGHUB_BODY_TIMEOUT", "soon").env("RINGHUB_IDLE_TIMEOUT", "1ms").args(["--pin", "maybe"]);
    let output = run_to_end(command);
    assert_eq!(output.status.code(), Some(1));
    let log = String::from_utf8(output.stderr).unwrap();
    let begins = [
        format!("ringhub: {path}:1: unknown key \"nonsense\""),
        format!("ringhub: {path}:2: shards: 0 is not between 1 and 256"),
        format!("ringhub: {path}:3: max_message: "),
        format!("ringhub: {path}:6: log: "),
        "ringhub: RINGHUB_BODY_TIMEOUT: \"soon\" is no time".into(),
        "ringhub: --pin: \"maybe\"".into(),
        "ringhub: RINGHUB_IDLE_TIMEOUT: 1ms is less than 100ms".into(),
    ];
    assert_eq!(log.lines().count(), begins.len(), "{log}");
    for (line, begin) in log.lines().zip(&begins) {
        assert!(line.starts_with(begin), "{begin:?} does not begin {line:?}");
    }
    // Several errors of syntax are reported too.
    let file = Scratch::new("a = \nb = 1\nb = 2\n");
    let path = file.name();
    check_failure(check_config(&file), &[&format!("{path}:1: "), &format!("{path}:3: duplicate key \"b\"")]);
}

/// A value that another source overrides must be right too.
#[test]
fn overridden_values_are_checked() {
    let mut command = program();
    command.env("RINGHUB_MAX_MESSAGE", "much").args(["check-config", "--max-message", "1MiB"]);
    check_failure(command, &["RINGHUB_MAX_MESSAGE: \"much\" is no size"]);
}

#[test]
fn a_file_that_cannot_be_read() {
    let missing = command(&["--config", "no-such-folder/ringhub.toml"]);
    check_failure(missing, &["--config: \"no-such-folder/ringhub.toml\" cannot be read: No such file or directory"]);
    let mut by_variable = program();
    by_variable.env("RINGHUB_CONFIG", "src");
    check_failure(by_variable, &["RINGHUB_CONFIG: \"src\" cannot be read: Is a directory"]);
    check_failure(command(&["check-config", "no.toml"]), &["check-config: \"no.toml\" cannot be read"]);
    check_failure(command(&["check-config", "/dev/zero"]), &["it has more than 1048576 bytes"]);
    let file = Scratch::new("");
    fs::write(&file.0, b"max_message = 1\nlog = \"\xff\"").unwrap();
    check_failure(check_config(&file), &[&format!("{}:2: this is not UTF-8", file.name())]);
}

/// The flag wins over the variable that names another file. An empty file is like no file.
#[test]
fn one_file_is_read() {
    let (one, other) = (Scratch::new("shards = 3"), Scratch::new(""));
    let check = |variable: &Scratch, arguments: &[&str], expected: &str| {
        let mut command = command(&["check-config"]);
        command.env_remove("RINGHUB_SHARDS").env("RINGHUB_CONFIG", &variable.0).args(arguments);
        let shown = holds(command, "shards");
        assert!(shown.1.starts_with(expected), "{shown:?}");
    };
    check(&one, &[], &one.name());
    check(&one, &["--config", &other.name()], "default");
    check(&other, &[&one.name()], &one.name());
    check(&other, &[], "default");
    let mut both = command(&["check-config", "a.toml"]);
    both.args(["--config", "b.toml"]);
    check_failure(both, &["cannot be used with"]);
}

#[test]
fn variables_are_not_misspelled() {
    let mut command = program();
    command.env("RINGHUB_PUBLISH_TOKEN", "hush").env("RINGHUB_CONFG", "x").env("RINGHUB_max_message", "1");
    check_failure(
        command,
        &[
            "RINGHUB_PUBLISH_TOKEN: there is no such setting; did you mean RINGHUB_PUBLISH_TOKENS?",
            "RINGHUB_CONFG: there is no such setting; did you mean RINGHUB_CONFIG?",
            "RINGHUB_max_message: there is no such setting; did you mean RINGHUB_MAX_MESSAGE?",
        ],
    );
}

/// Kubernetes gives these variables to every container if there is a service `ringhub` or `ringhub-metrics`.
#[test]
fn variables_of_others_are_only_noted() {
    let foreign = [
        "RINGHUB_PORT",
        "RINGHUB_SERVICE_HOST",
        "RINGHUB_SERVICE_PORT",
        "RINGHUB_PORT_6455_TCP_ADDR",
        "RINGHUB_METRICS_PORT",
        "RINGHUB_METRICS_SERVICE_HOST",
    ];
    let mut command = command(&["check-config"]);
    command.envs(foreign.map(|name| (name, "tcp://192.0.2.1:6455")));
    let output = run_to_end(command);
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{log}");
    assert_eq!(log.lines().count(), foreign.len(), "{log}");
    for name in foreign {
        assert!(log.contains(&format!("warning: the variable {name} is no setting and is ignored")), "{log}");
    }
    let mut command = program();
    command.env(foreign[0], "1");
    let mut server = Server::start_command(command);
    let log = server.end();
    assert!(log.contains("WARN") && log.contains("RINGHUB_PORT is no setting"), "{log}");
}

#[test]
fn settings_that_are_not_utf8_are_named() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};
    let bad = OsStr::from_bytes(b"\xff");
    let mut command = program();
    command.env("RINGHUB_LOG", bad).arg("--publish-tokens").arg(bad);
    check_failure(command, &["RINGHUB_LOG: this is not UTF-8", "--publish-tokens: this is not UTF-8"]);
}

/// A file decides where the server listens, how many shards it has, and how it logs.
#[test]
fn a_server_by_its_file() {
    let file = Scratch::new("listen = [\"127.0.0.1:0\"]\nlog_format = \"json\"\nshards = 2");
    let mut command = command(&["serve"]);
    command.env_remove("RINGHUB_SHARDS").arg("--config").arg(&file.0);
    let mut server = Server::start_at(command);
    server.connect("/t/x").leave();
    let log = server.end();
    let events: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let is_start =
        |event: &&serde_json::Value| event["message"].as_str().is_some_and(|text| text.contains("serves on"));
    let start = events.iter().find(is_start).unwrap_or_else(|| panic!("{log}"));
    assert_eq!((&start["version"], &start["shards"]), (&env!("CARGO_PKG_VERSION").into(), &2.into()), "{start}");
    assert!(start["addresses"].as_str().is_some_and(|addresses| addresses.starts_with("127.0.0.1:")), "{start}");
    for number in ["max_connections", "max_message", "max_backlog", "descriptors"] {
        assert!(start[number].as_u64().is_some_and(|number| number > 0), "{number} of {start}");
    }
    assert!(start["placement"].is_string() && start["kernel"].is_string(), "{start}");
}

/// Returns the value of a setting and its source, from the output of `check-config`.
fn holds(command: Command, key: &str) -> (String, String) {
    let output = run_to_end(command);
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().filter(|line| line.trim_start_matches('#').starts_with(&format!("{key} =")));
    let lines: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once("  # ")).collect();
    let [(what, from)] = lines[..] else {
        panic!("{key}: {lines:?} in {text}\n{}", String::from_utf8_lossy(&output.stderr))
    };
    (what.trim_end().into(), from.into())
}

/// Expects that the command ends with status 1, or 2 for a wrong command line, and writes all these words, only to
/// standard error.
#[track_caller]
fn check_failure(command: Command, named: &[&str]) {
    let Output { status, stdout, stderr } = run_to_end(command);
    let log = String::from_utf8_lossy(&stderr);
    assert!(matches!(status.code(), Some(1 | 2)), "{status}: {log}");
    assert!(stdout.is_empty(), "{}", String::from_utf8_lossy(&stdout));
    assert!(!log.contains("panicked"), "{log}");
    for words in named {
        assert!(log.contains(words), "{words:?} is not in: {log}");
    }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = program();
    // Tests of settings set every variable themselves.
    command.args(arguments).env_remove("RINGHUB_IO").env_remove("RINGHUB_SANDBOX");
    command
}

/// Returns a `check-config` command without the settings that servers in tests have.
fn check_config(file: &Scratch) -> Command {
    let mut command = command(&["check-config"]);
    for name in ["RINGHUB_SHARDS", "RINGHUB_PIN", "RINGHUB_DRAIN_TIMEOUT"] {
        command.env_remove(name);
    }
    command.arg(&file.0);
    command
}

fn scratch_folder() -> PathBuf {
    env!("CARGO_TARGET_TMPDIR").into()
}

/// A file that a drop removes.
struct Scratch(PathBuf);

impl Scratch {
    fn new(text: &str) -> Scratch {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("config-{}-{number}.toml", std::process::id());
        let path = scratch_folder().join(name);
        fs::write(&path, text).unwrap();
        Scratch(path)
    }

    fn name(&self) -> String {
        self.0.display().to_string()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_file(&self.0).expect("only this removes the file");
    }
}
