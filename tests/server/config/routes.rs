//! The routes of a file of settings: the errors of wrong routes, and the values of right ones.

use std::fs;

use ringhub::{
    auth::Credentials,
    config::{Flags, Given, RouteConfig, RouteHandler},
    proto::{KeepAlive, RequestHead},
};

use super::{Scratch, check_config, check_failure, command, scratch_folder};
use crate::support::run_to_end;

#[test]
fn a_route_says_what_is_wrong_and_where() {
    fs::create_dir_all(scratch_folder().join("site")).unwrap();
    let check = |text: &str, expected: &str| {
        let file = Scratch::new(text);
        check_failure(check_config(&file), &[&format!("{}:{expected}", file.name())]);
    };
    // The text is appended to a correct route.
    let hub = |text: &str, expected: &str| {
        check(&format!("[[routes]]\nmatch = \"/t/{{topic}}\"\nhandler = \"hub\"\n{text}"), expected);
    };
    check("routes = 1", "1: routes: tables are expected, each under [[routes]], not this integer");
    check("[routes]\nmatch = \"/\"", "1: routes: tables are expected, each under [[routes]], not this table");
    check("routes = [\n  1]", "2: routes: a table is expected, not this integer");
    check("[[route]]", "1: unknown key \"route\"; did you mean \"routes\"?");
    check("\n[[routes]]", "2: routes.match: a route needs a path");
    check(
        "[[routes]]\nmatch = \"/\"",
        "1: routes.handler: a route needs a handler: \"hub\", \"echo\", \"ringhub.v1\",",
    );
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
        "2: routes.handler: \"ech\" is none of hub, echo, ringhub.v1, events, publish, files, page",
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
    let files = "[[routes]]\nmatch = \"/metrics\"\nhandler = \"files\"\ndocuments = \".\"";
    check(files, "1: routes.match: /metrics is the server's own");
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
    hub("topic_prefix = \"\"", "4: routes.topic_prefix: an empty prefix includes every topic; leave the key out");
    hub("topic_prefix = \"a\\u0001\"", "4: routes.topic_prefix: no topic begins with");
    check(
        "[[routes]]\nmatch = \"/e\"\nhandler = \"echo\"\ntopic_prefix = \"a/\"",
        "4: routes.topic_prefix: only a route of the hub has topics",
    );
    hub("allowed_origins = [\"example.org\"]", "4: routes.allowed_origins: \"example.org\" is no origin");
    hub("max_message = 0", "4: routes.max_message: 0 is not between 1 and 1GiB");
    hub("max_message = \"much\"", "4: routes.max_message: \"much\" is no size");
    hub("max_message = \"8MiB\"", "4: routes.max_message: 8MiB needs a max_backlog of 16MiB, which is 13MiB");
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

/// Each error of every route is reported, except those that only follow from an error in the settings.
#[test]
fn all_errors_of_routes_are_reported_at_once() {
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

/// The folder `site` is next to the settings' file.
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
    assert!(hub.handler.to_string() == "hub" && hub.rules.keep_alive == config.keep_alive && !hub.is_open());
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
        let credentials = Credentials::new(&head, Some(format!("{peer}:1").parse().unwrap()));
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

/// The routes' largest message counts for the memory, and a body of this size must fit.
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
    // Two lanes lead from each shard to the other. Each lane has room for one of the largest messages; so have the
    // bodies. The runs of each shard have it in all forms: raw and binary, and, with six times the bytes, as JSON
    // and in the four forms of event streams.
    for (name, count) in [("lanes between shards", 4), ("runs", 2 * 32), ("bodies", 1)] {
        assert_eq!(bytes(&hub("3MiB"), name), bytes("", name) + count * (2 << 20), "{name}");
        assert_eq!(bytes(&hub("1KiB"), name), bytes("", name), "{name}");
    }
    let error = config(&hub("65MiB")).unwrap_err();
    assert_eq!(error, "FILE:7: routes.max_message: 65MiB needs a max_bodies of 65MiB, which is 64MiB");
    assert!(config(&format!("max_bodies = \"65MiB\"\n{}", hub("65MiB"))).is_ok());
    // A route with an echo has no bodies.
    assert!(config(&hub("65MiB").replace("hub", "echo")).is_ok());
}

/// The output of `check-config` is a valid file with the same meaning, except for its secrets.
#[test]
fn routes_are_shown() {
    fs::create_dir_all(scratch_folder().join("site")).unwrap();
    let shown = |file: &Scratch| {
        let output = run_to_end(check_config(file));
        let text = String::from_utf8(output.stdout).unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !text.contains("hush") && !text.contains("sha256"), "{text}{log}");
        let routes =
            text[text.find("[[routes]]").unwrap()..text.find("# ---- Memory at worst").unwrap()].trim_end().to_string();
        let origins: Vec<String> =
            routes.lines().filter_map(|line| Some(line.split_once("# ")?.1.to_string())).collect();
        (routes.lines().filter(|line| !line.contains("[[")).collect::<Vec<_>>().join("\n"), origins, text)
    };
    let file = Scratch::new(ROUTES);
    let (routes, origins, text) = shown(&file);
    assert_eq!(origins, [4, 12, 24, 34].map(|line| format!("{}:{line}", file.name())));
    assert!(routes.contains("bearer = { tokens = { billing = [\"***\", \"***\"], \"a b\" = \"***\" } }"), "{routes}");
    assert!(routes.contains("basic = { realm = \"r\", users = { alice = \"***\", realm = \"***\" } }"), "{routes}");
    // Equal masks would be equal tokens, so they are replaced.
    let again =
        Scratch::new(&text.replacen("[\"***\", \"***\"], \"a b\" = \"***\"", "[\"1\", \"2\"], \"a b\" = \"3\"", 1));
    assert_eq!(shown(&again).0, routes);
    let none = String::from_utf8(run_to_end(check_config(&Scratch::new(""))).stdout).unwrap();
    assert!(none.contains("#[[routes]]") && none.contains("# default: the hub at /t/{topic...}"), "{none}");
}

/// The example of `example-config` with everything uncommented, and those on the page of routes, are valid.
#[test]
fn the_examples_of_routes_hold() {
    fs::create_dir_all(scratch_folder().join("site")).unwrap();
    let example = String::from_utf8(run_to_end(command(&["example-config"])).stdout).unwrap();
    let example = &example[example.find("#[[routes]]").unwrap()..];
    let example = example.split("\n# ----").next().unwrap();
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/routes.md")).unwrap();
    let of_page: Vec<&str> = page.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(of_page.len(), 3);
    let example = example.replace("\n#", "\n").replacen('#', "", 1);
    // The routes name an issuer, whose table stands in another part of the example.
    let example = example + "\n[[issuers]]\nname = \"app\"\nsecrets = \"a random text of 32 bytes, or more\"\n";
    for text in std::iter::once(&*example).chain(of_page) {
        let file = Scratch::new(text);
        let mut command = check_config(&file);
        if text.contains("callback = true") {
            command.args(["--callback-url=https://app.example/", "--callback-secrets=a-secret-of-16-characters"]);
            command.arg("--callback-headers=authorization");
        }
        let output = run_to_end(command);
        let log = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && log.is_empty(), "{log}");
        let count = String::from_utf8(output.stdout).unwrap().matches("\n[[routes]]").count();
        assert_eq!(count, text.matches("[[routes]]").count());
    }
}
