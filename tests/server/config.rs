//! Settings from flags, variables and a file: which wins, what is said of a wrong one, and `ringhub check-config`.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
    sync::atomic::{AtomicU32, Ordering},
};

use ringhub::{
    auth::Credentials,
    config::{Flags, Given, RouteConfig, RouteHandler, SETTINGS, Setting, Settings, Size, Time},
    proto::{KeepAlive, RequestHead},
};

use crate::support::{Server, program, run_to_end};

/// Of each type of setting one, in every source.
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
        ("max_idle_topics", "1", "2", "3"),
        ("ping_interval", "0", "2s", "3h"),
        ("log", "\"warn\"", "off", "ringhub=debug"),
        ("log_format", "\"json\"", "text", "json"),
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
    // CPU 0 is perhaps not this process's.
    let pairs: Vec<(&str, &str)> = pairs.into_iter().filter(|(key, _)| *key != "cpus").collect();
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
    check("max_idle_topics = -1", "1: max_idle_topics: \"-1\" is no whole number from 0 to");
    check("ping_interval = \"5sec\"", "1: ping_interval: \"5sec\": \"sec\" is no unit of time: ms, s, m or h");
    check("ping_interval = \"1.5s\"", "1: ping_interval: \"1.5s\" is no whole number of a unit of time");
    check("cpus = \"0-\"", "1: cpus: \"0-\" is no CPU number or range; write it like 0 or 2-3");
    check("log = \"a=b=c\"", "1: log: \"a=b=c\" is no filter of logs");
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

#[test]
fn a_route_says_what_is_wrong_and_where() {
    fs::create_dir_all(scratch_folder().join("site")).unwrap();
    let check = |text: &str, expected: &str| {
        let file = Scratch::new(text);
        check_failure(check_config(&file), &[&format!("{}:{expected}", file.name())]);
    };
    // Behind a route that is right in itself.
    let hub = |text: &str, expected: &str| {
        check(&format!("[[routes]]\nmatch = \"/t/{{topic}}\"\nhandler = \"hub\"\n{text}"), expected);
    };
    check("routes = 1", "1: routes: tables are expected, each under [[routes]], not this integer");
    check("[routes]\nmatch = \"/\"", "1: routes: tables are expected, each under [[routes]], not this table");
    check("routes = [\n  1]", "2: routes: a table is expected, not this integer");
    check("[[route]]", "1: unknown key \"route\"; did you mean \"routes\"?");
    check("\n[[routes]]", "2: routes.match: a route needs a path");
    check("[[routes]]\nmatch = \"/\"", "1: routes.handler: a route needs a handler: \"hub\", \"echo\", \"files\" or");
    check(
        "[[routes]]\nmatch = 1",
        "2: routes.match: a path in quotes, such as \"/chat/{room}\", is expected, not this",
    );
    for bad in ["", "chat", "/a b", "/a?b", "/a#", "/ü", "/{a}/{a}", "/x{a}", "/%zz"] {
        check(
            &format!("[[routes]]\nmatch = {bad:?}\nhandler = \"echo\""),
            &format!("2: routes.match: the route {bad:?} "),
        );
    }
    check(
        "[[routes]]\nhandler = \"ech\"\nmatch = \"/\"",
        "2: routes.handler: \"ech\" is none of hub, echo, files, page",
    );
    check("[[routes]]\nhandler = \"hub\"\nmatch = \"/t/topic\"", "3: routes.match: \"/t/topic\" has no {topic}");
    check("[[routes]]\nhandler = \"files\"\nmatch = \"/\"", "2: routes.documents: a route of files needs a folder");
    check("[[routes]]\nmatch = \"/\"\ndocuments = \"./nowhere\"", "3: routes.documents: the folder ");
    check("[[routes]]\nmatch = \"/\"\ndocuments = []", "3: routes.documents: a folder in quotes");
    check("[[routes]]\nmatch = \"/{a...}\"\ndocuments = \"site\"", "2: routes.match: \"/{a...}\" has parameters");
    let files = "1: routes: max_frame concerns WebSockets, and a route of files opens none";
    check("[[routes]]\nmatch = \"/\"\ndocuments = \"site\"\nmax_frame = 1", files);
    let page = "1: routes: ping_payload concerns WebSockets, and a route of the page opens none";
    check("[[routes]]\nmatch = \"/w\"\nhandler = \"page\"\nping_payload = \"x\"", page);
    check("[[routes]]\nmatch = \"/{w}\"\nhandler = \"page\"", "2: routes.match: \"/{w}\" has parameters; the page is");
    check("[[routes]]\nmatch = \"/w\"\nhandler = \"page\"\ndocuments = \"site\"", "4: routes.documents: only a route");
    hub("documents = \"site\"", "4: routes.documents: only a route of files has a folder");
    hub("[[routes]]\nmatch = \"/t/{x}\"\nhandler = \"echo\"", "4: routes.match: \"/t/{x}\" is there already, at ");
    check("[[routes]]\nmatch = \"/%68ealthz\"\nhandler = \"echo\"", "1: routes.match: /healthz is the server's own");
    check(
        "[[routes]]\nmatch = \"/s/{a...}\"\nhandler = \"echo\"\n[[routes]]\nmatch = \"/s\"\ndocuments = \"site\"",
        "4: routes.match: \"/s\" is there already, at ",
    );
    hub(
        "[[routes]]\nmatch = \"/t/{topic}\"\nhandler = \"echo\"",
        "4: routes.match: \"/t/{topic}\" is there already, at ",
    );
    hub("max_mesage = 1", "4: unknown key \"max_mesage\" of a route; did you mean \"max_message\"?");
    hub("nonsense = 1", "4: unknown key \"nonsense\" of a route, which has match, handler, documents, basic,");
    hub("listen = \"127.0.0.1:0\"", "4: \"listen\" is no key of a route but of the server: it has to stand before the");
    hub("protocols = [\"a\",\n\"b c\"]", "5: routes.protocols: \"b c\" is no subprotocol");
    hub("protocols = [\"a\", \"a\"]", "4: routes.protocols: \"a\" is there twice");
    hub(
        "protocols = 1",
        "4: routes.protocols: a subprotocol in quotes, or a list of such, is expected, not this integer",
    );
    hub("allowed_origins = []", "4: routes.allowed_origins: the list is empty");
    hub("topic_prefix = \"\"", "4: routes.topic_prefix: it is empty");
    hub("topic_prefix = \"a\\u0001\"", "4: routes.topic_prefix: no topic begins with");
    check(
        "[[routes]]\nmatch = \"/e\"\nhandler = \"echo\"\ntopic_prefix = \"a/\"",
        "4: routes.topic_prefix: only a route of the hub has topics",
    );
    hub("allowed_origins = [\"example.org\"]", "4: routes.allowed_origins: \"example.org\" is no origin");
    hub("max_message = 0", "4: routes.max_message: 0 is not between 1 and 1GiB");
    hub("max_message = \"much\"", "4: routes.max_message: \"much\" is no size");
    hub("max_message = \"4MiB\"", "4: routes.max_message: 4MiB needs a max_backlog of 8MiB, which is 4MiB");
    hub("max_frame = \"2MiB\"", "4: routes.max_frame: 2MiB is more than the route's largest message, 1MiB");
    hub("max_message = 10\nmax_frame = 11", "5: routes.max_frame: 11 is more than the route's largest message, 10");
    hub("max_frame = true", "4: routes.max_frame: a size, such as 65536 or \"64KiB\" is expected, not this boolean");
    hub("max_fragments = 0", "4: routes.max_fragments: a message has at least one frame");
    hub("ping_interval = 30", "4: routes.ping_interval: \"30\" needs a unit of time");
    hub("pong_timeout = \"9999h\"", "4: routes.pong_timeout: 9999h is more than a year");
    hub(&format!("ping_payload = \"{}\"", "x".repeat(126)), "4: routes.ping_payload: 126 bytes are more than a ping");
    hub("ping_payload = 1", "4: routes.ping_payload: text in quotes is expected, not this integer");
    hub("check_utf8 = \"no\"", "4: routes.check_utf8: true or false is expected, not this string");
    hub("basic = \"x\"", "4: routes.basic: a table is expected, not this string");
    hub("[routes.basic]", "4: routes.basic: without users, nobody could be admitted");
    hub("[routes.basic]\nrealm = \"ü\"\nusers = {a = \"b\"}", "4: routes.basic: the realm \"ü\" is empty or has");
    hub("[routes.basic]\nrealm = 1", "5: routes.basic.realm: a name in quotes is expected");
    hub("[routes.basic]\nusers = 1", "5: routes.basic.users: a table is expected, not this integer");
    hub("[routes.basic.users]\na = \"x\"\nb = 1", "6: routes.basic.users: a password in quotes is expected, not this");
    hub("[routes.basic.users]\n\"a:b\" = \"x\"", "4: routes.basic: the user \"a:b\" is empty or has a colon");
    hub("[routes.basic]\nuser = {}", "5: unknown key \"user\" of routes.basic; did you mean \"users\"?");
    hub("[routes.bearer]", "4: routes.bearer: without tokens, nobody could be admitted");
    hub("[routes.bearer]\ntoken = {}", "5: unknown key \"token\" of routes.bearer; did you mean \"tokens\"?");
    hub(
        "[routes.bearer.tokens]\na = [1]",
        "5: routes.bearer.tokens: a token in quotes, or a list of such, is expected",
    );
    hub("[routes.bearer.tokens]\na = \"ü\"", "4: routes.bearer: the token of \"a\" is empty or has characters");
    hub("[routes.network]", "4: routes.network: without networks to allow or to deny");
    hub("[routes.network]\nallow = [\"10.0.0.0/8\",\n\"x\"]", "6: routes.network.allow: \"x\" is no network");
    hub("[routes.network]\ndeny = \"10.0.0.1/8\"", "5: routes.network.deny: \"10.0.0.1/8\" is no network");
    hub("[routes.network]\nallowed = []", "5: unknown key \"allowed\" of routes.network; did you mean \"allow\"?");
    hub("admit = \"some\"", "4: routes.admit: \"some\" is none of all, any");
    hub("admit = \"any\"", "4: routes.admit: there is nothing to choose");
}

/// Each error of every route, and none that only follows from one in the settings.
#[test]
fn all_errors_of_routes_are_told_at_once() {
    let file = Scratch::new(
        "max_backlog = \"x\"\n[[routes]]\nmatch = \"/t/{topic}\"\nhandler = \"hub\"\nmax_message = \"64MiB\"\n\
         [[routes]]\nmatch = 1\nhandler = 2\n[routes.network]\nallow = \"x\"\n[[routes]]\n",
    );
    let output = run_to_end(check_config(&file));
    let log = String::from_utf8(output.stderr).unwrap();
    let keys =
        ["7: routes.match", "8: routes.handler", "10: routes.network.allow", "11: routes.match", "1: max_backlog"];
    assert_eq!(log.lines().count(), keys.len(), "{log}");
    for key in keys {
        assert!(log.contains(&format!("{}:{key}", file.name())), "{key}: {log}");
    }
    let file = Scratch::new(
        "max_backlog = \"1GiB\"\nmax_gathered = \"9MiB\"\n[[routes]]\nmatch = \"/\"\nhandler = \"echo\"\n\
         max_message = \"64MiB\"",
    );
    let path = file.name();
    let gathered = "routes.max_message: 64MiB needs a max_gathered of 64MiB, which is 9MiB";
    check_failure(check_config(&file), &[&format!("{path}:6: {gathered} (max_gathered is from {path}:2)")]);
}

/// Beside the settings' file lies `site`.
const ROUTES: &str = r#"
max_backlog = "8MiB"

[[routes]]
match = "/t/{topic...}"
handler = "hub"
max_message = "4MiB"
[routes.bearer.tokens]
billing = ["hush", "hush2"]
"a b" = "hush3"

[[routes]]
match = "/echo"
handler = "echo"
protocols = ["v2.echo", "v1.echo"]
allowed_origins = ["https://example.org"]
max_message = "64KiB"
max_frame = 0x400
max_fragments = 16
pong_timeout = "5s"
ping_payload = "a \"b\\ ü"
check_utf8 = false

[[routes]]
match = "/inside"
documents = "./site"
admit = "any"
[routes.basic]
users = { alice = "hush, hush", bob = "sha256:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b" }
[routes.network]
allow = "10.0.0.0/8"
deny = ["10.66.0.0/16", "10.67.0.1"]

[[routes]]
match = "/both"
handler = "echo"
network = { allow = ["10.0.0.0/8"] }
basic = { realm = "r", users = { alice = "hush", realm = "hush" } }
"#;

#[test]
fn routes_are_what_the_file_says() {
    fs::create_dir_all(scratch_folder().join("site")).unwrap();
    let file = Scratch::new(ROUTES);
    let mut flags = Flags::default();
    flags.read_file(file.0.clone(), "test");
    let config = Given::read(&flags, []).config(20_000).unwrap();
    let [hub, echo, files, both] = &config.routes[..] else { panic!("{config:?}") };
    assert_eq!((hub.pattern.as_str(), hub.rules.limits.message_bytes_max), ("/t/{topic...}", 4 << 20));
    assert!(matches!(hub.handler, RouteHandler::Hub) && hub.rules.keep_alive == config.keep_alive && !hub.is_open());
    assert_eq!(hub.origin.to_string(), format!("{}:4", file.name()));
    assert_eq!(
        (echo.pattern.as_str(), &echo.rules.protocols[..]),
        ("/echo", &["v2.echo".into(), "v1.echo".into()][..])
    );
    let limits = echo.rules.limits;
    assert_eq!((limits.message_bytes_max, limits.frame_bytes_max, limits.fragments_max), (65_536, 1_024, 16));
    let KeepAlive { ping_interval, pong_timeout, .. } = echo.rules.keep_alive;
    assert_eq!((ping_interval, pong_timeout), (300, 50));
    assert_eq!((&echo.rules.ping_payload[..], limits.checks_utf8), ("a \"b\\ ü".as_bytes(), false));
    assert!(echo.rules.origins().unwrap().allow(b"https://example.org") && echo.rules.authenticator().is_none());
    let RouteHandler::Files(documents) = &files.handler else { panic!("{files:?}") };
    assert_eq!(documents.root(), scratch_folder().join("site").canonicalize().unwrap());
    let check = |route: &RouteConfig, user: &str, peer: &str, expected: Result<&str, u16>| {
        let line = if user.is_empty() { String::new() } else { format!("Authorization: {user}\r\n") };
        let head = RequestHead::decode(format!("GET / HTTP/1.1\r\n{line}\r\n").as_bytes()).unwrap().unwrap().0;
        let credentials = Credentials { head: &head, peer: Some(format!("{peer}:1").parse().unwrap()) };
        let outcome = route.rules.authenticator().unwrap().authenticate(&credentials);
        let found = outcome.as_ref().map(|identity| &*identity.name).map_err(|refusal| refusal.status);
        assert_eq!(found, expected, "{} {user} {peer}", route.pattern);
    };
    check(hub, "Bearer hush2", "10.0.0.1", Ok("billing"));
    check(hub, "Bearer hush3", "10.0.0.1", Ok("a b"));
    check(hub, "Bearer hush4", "10.0.0.1", Err(401));
    let (alice, bob) = ("Basic YWxpY2U6aHVzaCwgaHVzaA==", "Basic Ym9iOnNlY3JldA==");
    check(files, alice, "11.0.0.1", Ok("alice"));
    check(files, bob, "11.0.0.1", Ok("bob"));
    check(files, "", "10.0.0.1", Ok("10.0.0.0/8"));
    check(files, "", "10.67.0.1", Err(401));
    check(both, "Basic YWxpY2U6aHVzaA==", "10.0.0.1", Ok("alice"));
    check(both, "Basic YWxpY2U6aHVzaA==", "11.0.0.1", Err(403));
    check(both, "", "10.0.0.1", Err(401));
    assert!(Given::read(&Flags::default(), []).config(20_000).unwrap().routes.is_empty());
}

/// The largest message is that of any route, and each body needs room.
#[test]
fn a_route_with_larger_messages_needs_room_for_them() {
    let config = |text: &str| {
        let file = Scratch::new(&format!("shards = 2\nmax_backlog = \"256MiB\"\nmax_gathered = \"128MiB\"\n{text}"));
        let mut flags = Flags::default();
        flags.read_file(file.0.clone(), "test");
        Given::read(&flags, []).config(20_000).map_err(|errors| errors.to_string().replace(&file.name(), "FILE"))
    };
    let hub = |size: &str| format!("[[routes]]\nmatch = \"/t/{{topic}}\"\nhandler = \"hub\"\nmax_message = \"{size}\"");
    let bytes = |text: &str, name: &str| {
        let memory = config(text).unwrap().memory();
        memory.into_iter().find(|part| part.name == name).unwrap().bytes
    };
    // Two between each two shards; one in the runs of each; one body.
    for (name, count) in [("lanes between shards", 4), ("runs", 2), ("bodies", 1)] {
        assert_eq!(bytes(&hub("3MiB"), name), bytes("", name) + count * (2 << 20), "{name}");
        assert_eq!(bytes(&hub("1KiB"), name), bytes("", name), "{name}");
    }
    let error = config(&hub("65MiB")).unwrap_err();
    assert_eq!(error, "FILE:7: routes.max_message: 65MiB needs a max_bodies of 65MiB, which is 64MiB");
    assert!(config(&format!("max_bodies = \"65MiB\"\n{}", hub("65MiB"))).is_ok());
    // An echo takes no bodies.
    assert!(config(&hub("65MiB").replace("hub", "echo")).is_ok());
}

/// The server keeps a descriptor of each folder.
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

/// What is shown can be written and means the same, but for its secrets.
#[test]
fn routes_are_shown() {
    fs::create_dir_all(scratch_folder().join("site")).unwrap();
    let shown = |file: &Scratch| {
        let output = run_to_end(check_config(file));
        let text = String::from_utf8(output.stdout).unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !text.contains("hush") && !text.contains("sha256"), "{text}{log}");
        let routes = text[text.find("[[routes]]").unwrap()..text.find("# ---- Memory").unwrap()].trim_end().to_string();
        let origins: Vec<String> =
            routes.lines().filter_map(|line| Some(line.split_once("# ")?.1.to_string())).collect();
        (routes.lines().filter(|line| !line.contains("[[")).collect::<Vec<_>>().join("\n"), origins, text)
    };
    let file = Scratch::new(ROUTES);
    let (routes, origins, text) = shown(&file);
    assert_eq!(origins, [4, 12, 24, 34].map(|line| format!("{}:{line}", file.name())));
    assert!(routes.contains("bearer = { tokens = { billing = [\"***\", \"***\"], \"a b\" = \"***\" } }"), "{routes}");
    assert!(routes.contains("basic = { realm = \"r\", users = { alice = \"***\", realm = \"***\" } }"), "{routes}");
    // The same masks would be the same token.
    let again =
        Scratch::new(&text.replacen("[\"***\", \"***\"], \"a b\" = \"***\"", "[\"1\", \"2\"], \"a b\" = \"3\"", 1));
    assert_eq!(shown(&again).0, routes);
    let none = String::from_utf8(run_to_end(check_config(&Scratch::new(""))).stdout).unwrap();
    assert!(none.contains("#[[routes]]") && none.contains("# default: the hub at /t/{topic...}"), "{none}");
}

/// With everything uncommented, and those of the page of routes.
#[test]
fn the_examples_of_routes_hold() {
    fs::create_dir_all(scratch_folder().join("site")).unwrap();
    let example = String::from_utf8(run_to_end(command(&["example-config"])).stdout).unwrap();
    let example = &example[example.find("#[[routes]]").unwrap()..];
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/routes.md")).unwrap();
    let of_page: Vec<&str> = page.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(of_page.len(), 2);
    let example = example.replace("\n#", "\n").replacen('#', "", 1);
    for text in std::iter::once(&*example).chain(of_page) {
        let output = run_to_end(check_config(&Scratch::new(text)));
        let log = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && log.is_empty(), "{log}");
        let count = String::from_utf8(output.stdout).unwrap().matches("\n[[routes]]").count();
        assert_eq!(count, text.matches("[[routes]]").count());
    }
}

/// Only a hub that lets everybody in is worth a warning.
#[test]
fn routes_that_let_everybody_in_are_warned_of() {
    let warns = |routes: &str| {
        let output = run_to_end(check_config(&Scratch::new(&format!("listen = \"0.0.0.0:0\"\n{routes}"))));
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stderr).contains("whoever reaches")
    };
    let hub = "[[routes]]\nmatch = \"/{topic}\"\nhandler = \"hub\"\n";
    assert!(warns("") && warns(hub));
    assert!(!warns(&format!("{hub}network = {{ allow = \"10.0.0.0/8\" }}")));
    assert!(!warns(&format!("{hub}allowed_origins = \"https://a.example\"")));
    assert!(!warns("[[routes]]\nmatch = \"/\"\nhandler = \"echo\""));
}

/// Two routes to the same topics that let different people in are told of, with the lines where they stand.
#[test]
fn routes_that_lead_to_the_same_topics_are_warned_of() {
    let warnings = |text: &str| {
        let output = run_to_end(check_config(&Scratch::new(text)));
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let hub = |path: &str, rules: &str| format!("[[routes]]\nmatch = \"{path}\"\nhandler = \"hub\"\n{rules}\n");
    let (bearer, basic) = ("bearer.tokens.a = \"word\"", "basic = { realm = \"r\", users = { a = \"hush\" } }");
    let told = warnings(&(hub("/t/{topic...}", "") + &hub("/t/admin/{topic...}", basic)));
    let words = ["warning: ", "\"/t/{topic...}\" (", ".toml:1)", "\"/t/admin/{topic...}\" (", ".toml:5)", "by both"];
    assert!(words.iter().all(|word| told.contains(word)) && !told.contains("hush"), "{told}");
    let prefix = |prefix: &str, rules: &str| format!("topic_prefix = \"{prefix}\"\n{rules}");
    for (first, second, is_told) in [
        ("", "", false),
        (bearer, bearer, false),
        (bearer, &bearer.replace("word", "other"), true),
        (bearer, &format!("{bearer}\nallowed_origins = \"https://a.example\""), true),
        ("", &prefix("staff/", bearer), true),
        (&prefix("public/", ""), &prefix("staff/", bearer), false),
        (&prefix("staff/a", basic), &prefix("staff/", bearer), true),
        (&prefix("staff/", bearer), &prefix("staff/", bearer), false),
    ] {
        let told = warnings(&(hub("/t/{topic}", first) + &hub("/s/{topic...}", second)));
        assert_eq!(told.contains("lead to the same topics"), is_told, "{first} {second}: {told}");
    }
    // What is to be done, and what it needs until then.
    let told = warnings(&(hub("/t/{topic...}", bearer) + &hub("/staff/{topic...}", &prefix("staff/", basic))));
    let asked = "\"/t/{topic...}\" asks for bearer, \"/staff/{topic...}\" for basic";
    let remedy = "give \"/t/{topic...}\", which has no topic_prefix, one too, or both the same rules";
    assert!(told.contains(asked) && told.contains(remedy), "{told}");
    let pages = "allowed_origins = \"https://a.example\"";
    let told = warnings(&(hub("/s/{topic...}", &prefix("a/", pages)) + &hub("/t/{topic...}", &prefix("a/b", bearer))));
    let asked =
        "\"/s/{topic...}\" asks for nothing, of pages also for its allowed_origins, \"/t/{topic...}\" for bearer";
    let remedy = "give \"/s/{topic...}\" a topic_prefix with which that of \"/t/{topic...}\" does not begin";
    assert!(told.contains(asked) && told.contains(remedy), "{told}");
    let told = warnings(&(hub("/s/{topic...}", "") + &hub("/t/{topic...}", bearer)));
    assert!(told.contains("give each a topic_prefix of its own"), "{told}");
    // An open route to topics that another keeps is open to nobody else.
    let opens = |text: &str| warnings(&format!("listen = \"0.0.0.0:0\"\n{text}")).contains("whoever reaches");
    let hubs = |first: &str, second: &str| hub("/t/{topic...}", first) + &hub("/s/{topic...}", second);
    assert!(opens(&hubs("", &prefix("staff/", bearer))) && opens(&hubs(&prefix("a/", ""), &prefix("b/", bearer))));
    assert!(!opens(&hubs("", bearer)) && !opens(&hubs(&prefix("staff/", ""), bearer)));
}

/// What a browser knows of its user, any page may use in that person's name.
#[test]
fn routes_that_any_page_may_use_are_warned_of() {
    fs::create_dir_all(scratch_folder().join("site")).unwrap();
    let (network, basic) = ("network.allow = \"10.0.0.0/8\"\n", "basic.users.a = \"hush\"\n");
    let (bearer, origins) = ("bearer.tokens.a = \"hush\"\n", "allowed_origins = \"https://a.example\"\n");
    let check = |settings: &str, handler: &str, rules: &[&str], is_told: bool| {
        let rules = rules.concat();
        let text = format!("{settings}[[routes]]\nmatch = \"/x\"\n{handler}\n{rules}");
        let text = if handler.contains("hub") { text.replace("/x", "/{topic}") } else { text };
        let output = run_to_end(check_config(&Scratch::new(&text)));
        let log = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && !log.contains("hush"), "{log}");
        let words = ["the route \"/", "allowed_origins: any web page", "as allowed_origins"];
        assert_eq!(words.map(|word| log.contains(word)), [is_told; 3], "{text}: {log}");
    };
    let (hub, echo, page) = ("handler = \"hub\"", "handler = \"echo\"", "handler = \"page\"");
    let files = "documents = \"site\"";
    for handler in [hub, echo] {
        check("", handler, &[network], true);
        check("", handler, &[basic], true);
        check("", handler, &["admit = \"any\"\n", basic, bearer], true);
        check("", handler, &[basic, bearer], false);
        check("", handler, &[bearer], false);
        check("", handler, &[], false);
        check("", handler, &[network, origins], false);
        check(origins, handler, &[network], false);
    }
    check("", files, &[network], true);
    check("", files, &[network, origins], false);
    check("", files, &[basic], false);
    check("", page, &[network, basic], false);
}

/// A request shows one token, which both lists have to know.
#[test]
fn routes_whose_tokens_are_of_no_use_are_warned_of() {
    let check = |settings: &str, rules: &str, told: &[&str]| {
        let text = format!("{settings}\n[[routes]]\nmatch = \"/{{topic}}\"\nhandler = \"hub\"\n{rules}");
        let output = run_to_end(check_config(&Scratch::new(&text)));
        let log = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && !log.contains("hush"), "{log}");
        let expected = ["publish", "subscribe"].map(|what| told.contains(&what));
        let lists = ["publish_tokens have no token in common", "subscribe_tokens have no token in common"];
        assert_eq!(lists.map(|words| log.contains(words)), expected, "{text}: {log}");
        assert_eq!(["nobody can publish", "nobody can subscribe"].map(|words| log.contains(words)), expected, "{log}");
    };
    let bearer = "bearer.tokens = { a = [\"hush1\", \"hush2\"] }";
    check("publish_tokens = \"hush\"", bearer, &["publish"]);
    check("subscribe_tokens = \"hush\"\npublish_tokens = \"hush2\"", bearer, &["subscribe"]);
    check("subscribe_tokens = \"hush\"\npublish_tokens = \"hush3\"", bearer, &["publish", "subscribe"]);
    check("publish_tokens = [\"hush\", \"hush1\"]", bearer, &[]);
    check("", bearer, &[]);
    check("publish_tokens = \"hush\"", "", &[]);
    let other = "admit = \"any\"\nbasic.users.a = \"hush\"\n";
    check("publish_tokens = \"hush\"", &format!("{other}{bearer}"), &[]);
    check("publish_tokens = \"hush\"", &format!("{}{bearer}", other.replace("any", "all")), &["publish"]);
}

#[test]
fn what_does_not_fit_together_says_where_both_come_from() {
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

/// Not only the first, from all sources, those of the file by its lines; and nothing that only follows from another.
#[test]
fn all_errors_are_told_at_once() {
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
    // With several faults of syntax too.
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

/// A flag names the file although a variable names another; an empty file is as good as none.
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

/// What Kubernetes gives to every container once there is a service `ringhub`, or `ringhub-metrics`.
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
fn what_is_not_utf8_is_named() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};
    let bad = OsStr::from_bytes(b"\xff");
    let mut command = program();
    command.env("RINGHUB_LOG", bad).arg("--publish-tokens").arg(bad);
    check_failure(command, &["RINGHUB_LOG: this is not UTF-8", "--publish-tokens: this is not UTF-8"]);
}

/// However a token is given, right or wrong, it is not shown.
#[test]
fn tokens_stay_secret() {
    let check = |mut command: Command, is_right: bool| {
        command.env("RINGHUB_LOG", "trace");
        let output = run_to_end(command);
        assert_eq!(output.status.success(), is_right, "{}", String::from_utf8_lossy(&output.stderr));
        for text in [output.stdout, output.stderr] {
            let text = String::from_utf8(text).unwrap();
            assert!(!text.contains("hush"), "{text}");
        }
    };
    let file = |text: &str, is_right: bool| {
        let file = Scratch::new(text);
        check(check_config(&file), is_right);
    };
    file("publish_tokens = [\"hush\"]\nmetrics_tokens = \"hush,hush\"", true);
    file("publish_tokens = [\"hush hush\"]", false);
    file("publish_tokens = [\"hush\", 1]", false);
    file("publish_tokens = \"hush\npublish_tokens = 'hush'", false);
    file("publish_tokens = hush", false);
    file("publish_tokens = \"\\hush\"", false);
    file("publish_tokens = {hush = 1}", false);
    file("publish_tokens = \"hush\"\npublish_tokens = \"hush\"", false);
    file("publish_token = \"hush\"", false);
    let route = "[[routes]]\nmatch = \"/{topic}\"\nhandler = \"hub\"\n";
    file(&format!("{route}[routes.basic.users]\na = \"hush\"\n[routes.bearer.tokens]\na = \"hush\""), true);
    for bad in [
        "[routes.basic]\nusers = \"hush\"",
        "[routes.basic]\nusers = [\"hush\"]",
        "[routes.basic]\nuser = \"hush\"",
        "[routes.basic.users]\na = \"sha256:hush\"",
        "[routes.basic.users]\na = {b = \"hush\"}",
        "[routes.basic.users]\na = \"hush",
        "[routes.basic.users]\na = \"hush\"\n\"\" = \"hush\"",
        "[routes.bearer]\ntokens = \"hush\"",
        "[routes.bearer]\na = \"hush\"",
        "[routes.bearer.tokens]\na = \"hush hush\"",
        "[routes.bearer.tokens]\na = [\"hush\", \"hush\"]",
        "bearer = \"hush\"",
        "basic = \"hush\"",
        "[routes.bearer.tokens]\na = hush",
    ] {
        file(&format!("{route}{bad}"), false);
    }
    check(command(&["check-config", "--subscribe-tokens", "hush"]), true);
    check(command(&["check-config", "--subscribe-tokens", "hush,"]), false);
    check(command(&["check-config", "--subscribe-token=hush"]), false);
    check(command(&["--subscribe-tokens", "a,", "hush"]), false);
    check(command(&["serve", "--subscribe-tokens=a", "hush"]), false);
    check(command(&["check-config", "no-such-file", "hush", "--metrics-tokens", "a"]), false);
    for help in ["-h", "--help", "help", "example-config"] {
        let mut command = command(&[help]);
        command.env("RINGHUB_PUBLISH_TOKENS", "hush");
        check(command, true);
    }
    let mut command = program();
    command.env("RINGHUB_PUBLISH_TOKENS", "hush").args(["--log", "trace"]);
    let log = Server::start_command(command).end();
    assert!(!log.contains("hush"), "{log}");
}

/// It says what to set, before it listens. The address is of another machine, so that it does not.
#[test]
fn a_hub_that_is_open_to_the_world_warns() {
    let log = |flags: &[&str]| {
        let mut command = command(&["--listen", "192.0.2.1:6455"]);
        command.args(flags);
        let output = run_to_end(command);
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let open = log(&[]);
    for word in ["WARN", "192.0.2.1:6455", "publish_tokens", "subscribe_tokens", "allowed_origins"] {
        assert!(open.contains(word), "{word} is not in: {open}");
    }
    assert!(!log(&["--publish-tokens", "a"]).contains("WARN"));
    let check = run_to_end(command(&["check-config", "--listen", "192.0.2.1:6455"]));
    assert!(check.status.success() && String::from_utf8_lossy(&check.stderr).contains("warning: whoever reaches"));
}

/// The whole of it: a file decides where and how the server serves and logs.
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

/// The example of the page of settings holds.
#[test]
fn the_file_of_the_page_of_settings() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/settings.md")).unwrap();
    let example = page.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let file = Scratch::new(example);
    let output = run_to_end(check_config(&file));
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && log.is_empty(), "{log}");
    assert_eq!(String::from_utf8(output.stdout).unwrap().matches(&file.name()).count(), example.lines().count());
}

/// `ringhub reference settings >docs/settings.md` writes the page anew; the same for routes.
#[test]
fn the_pages_of_reference_are_up_to_date() {
    for name in ["settings", "routes"] {
        let output = run_to_end(command(&["reference", name]));
        let page = fs::read_to_string(format!("{}/docs/{name}.md", env!("CARGO_MANIFEST_DIR"))).unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        let is_same = String::from_utf8(output.stdout).unwrap() == page;
        assert!(is_same, "docs/{name}.md is not what `ringhub reference {name}` prints");
    }
}

/// The ranges that the page of settings has: their ends are taken, and the next value beyond each end is refused.
#[test]
fn ranges_are_those_that_hold() {
    const SHARDS: u64 = 2;
    let factor = |text: &str, is_time: bool| match text {
        "max_message" => Settings::default().max_message.0,
        "max_backlog" => 4 << 20,
        "shards" => SHARDS,
        text if is_time => text.parse::<Time>().unwrap().0.as_millis() as u64,
        text => text.parse::<Size>().unwrap().0,
    };
    let error = |setting: &Setting, value: u64| {
        let unit = if setting.value_name == "TIME" { "ms" } else { "" };
        let shards = ("RINGHUB_SHARDS".into(), SHARDS.to_string().into());
        let others = [shards].into_iter().filter(|_| setting.key != "shards");
        let variables = others.chain([(setting.variable().into(), format!("{value}{unit}").into())]);
        let config = Given::read(&Flags::default(), variables).config(1 << 40);
        config.map(drop).map_err(|errors| errors.0.iter().filter_map(|error| error.setting()).collect::<Vec<_>>())
    };
    let mut ends = 0;
    for setting in SETTINGS {
        let has_range = ["COUNT", "SIZE", "TIME"].contains(&setting.value_name);
        assert_eq!(setting.range.is_some(), has_range, "{}", setting.key);
        let Some(range) = setting.range else { continue };
        let is_time = setting.value_name == "TIME";
        let end = |text: &str| text.split(" × ").map(|text| factor(text, is_time)).product::<u64>();
        let (least, most) = match range.split_once(" to ") {
            Some((least, most)) => (end(least), Some(end(most))),
            None => (end(range.strip_suffix(" or more").unwrap()), None),
        };
        let refused = Err(vec![setting.key]);
        assert_eq!(error(setting, least), Ok(()), "{} from {least}", setting.key);
        assert!(least == 0 || error(setting, least - 1) == refused, "{} from {least}", setting.key);
        ends += usize::from(least > 0);
        if let Some(most) = most {
            assert_eq!(error(setting, most), Ok(()), "{} to {most}", setting.key);
            assert_eq!(error(setting, most + 1), refused, "{} to {most}", setting.key);
            ends += 1;
        }
    }
    assert!(ends > 20, "only {ends} ends");
}

/// What a slip of the hand on the command line is told.
#[test]
fn a_command_line_that_is_none_says_how_to_write_it() {
    let told = |arguments: &[&str]| {
        let output = run_to_end(command(arguments));
        assert!(output.status.code() == Some(2) && output.stdout.is_empty(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let spaced = "ringhub: a value has no space in it: write 4MiB\n";
    assert_eq!(told(&["--max-message", "4", "MiB"]), spaced);
    assert_eq!(told(&["check-config", "FILE", "--max-message", "4", "MiB"]), spaced);
    assert_eq!(told(&["serve", "--ping-interval", "10", "s"]), spaced.replace("4MiB", "10s"));
    let after = "ringhub: flags go after the subcommand: ringhub check-config --FLAG VALUE\n";
    assert_eq!(told(&["--shards", "2", "check-config"]), after);
    assert_eq!(told(&["--publish-tokens", "hush", "check-config", "--shards", "2"]), after);
    for (arguments, words) in [(&["--max-message", "4", "x"][..], "'x'"), (&["--nonsense"], "--nonsense")] {
        let told = told(arguments);
        assert!(told.starts_with("error: ") && told.contains(words), "{told}");
    }
    let hidden = told(&["--publish-tokens", "4", "MiB"]);
    assert!(hidden.contains("may be a token") && !hidden.contains('4'), "{hidden}");
}

/// Whoever asks for something gets it, or a status that says that it was lost.
#[test]
fn an_output_that_takes_nothing_is_a_failure() {
    for arguments in [
        &["check-config"][..],
        &["example-config"],
        &["reference", "routes"],
        &["--help"],
        &["help", "serve"],
        &["--version"],
    ] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = command(arguments).stdout(full).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?} {told}");
        assert!(told.starts_with("ringhub: standard output cannot be written: No space left"), "{arguments:?} {told}");
    }
}

#[test]
fn help_is_short_or_long_and_fits() {
    let help = |arguments: &[&str]| {
        let output = run_to_end(command(arguments));
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let (short, long) = (help(&["-h"]), help(&["--help"]));
    assert!(short.lines().count() < long.lines().count());
    assert_eq!(help(&["help"]), long);
    assert_eq!(help(&["help", "serve"]), help(&["serve", "--help"]));
    for text in [&short, &long] {
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        for setting in SETTINGS {
            assert!(text.contains(&format!("--{} ", setting.flag())), "{} is missing:\n{text}", setting.key);
            assert!(text.contains(&format!("\n{}:\n", setting.heading)), "{} is missing:\n{text}", setting.heading);
        }
        assert!(text.contains("[default: 10000]") && text.contains("RINGHUB_MAX_MESSAGE"), "{text}");
    }
}

/// What holds for one setting, and where it comes from.
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

/// It ends with status 1 or, for a command line that is none, 2, and says all this on standard error only.
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
    command.args(arguments);
    command
}

/// Without the settings that servers in tests have.
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

/// A file that is gone with its test.
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
        fs::remove_file(&self.0).expect("nobody else removes it");
    }
}
