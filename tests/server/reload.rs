//! Reloads: every setting that a reload can change is changed while clients are connected, and nothing is lost.

mod commands;
mod crowd;
mod leaving;
mod slow_rules;
mod values;

use std::{
    fs,
    io::{Read as _, Write as _},
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use ringhub::config::SETTINGS;
use rustix::process::Signal;

use crate::support::{
    Client, Counts, Received, Server, ask, dial, exchange, post, program, request, text, upgrade_request,
};

/// A server with a file of settings, in a folder of its own that is removed at the end.
struct Reloadable {
    server: Option<Server>,
    folder: PathBuf,
}

impl Reloadable {
    /// Starts a server with these settings in its file.
    fn start(settings: &str) -> Reloadable {
        Reloadable::start_with(settings, |_| {})
    }

    /// Starts a server whose command `change` has changed.
    fn start_with(settings: &str, change: impl FnOnce(&mut Command)) -> Reloadable {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("ringhub-reload-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let mut reloadable = Reloadable { server: None, folder };
        reloadable.write("ringhub.toml", settings);
        let mut command = program();
        command.arg("--config").arg(reloadable.path("ringhub.toml"));
        // Variables win over the file.
        for name in ["RINGHUB_SHARDS", "RINGHUB_PIN", "RINGHUB_DRAIN_TIMEOUT"] {
            command.env_remove(name);
        }
        change(&mut command);
        reloadable.server = Some(Server::start_command(command));
        reloadable
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn write(&self, name: &str, contents: &str) {
        fs::write(self.path(name), contents).unwrap();
    }

    fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    /// Waits until the server, which leaves, has ended.
    fn end(&mut self) {
        let server = self.server.as_mut().unwrap();
        assert!(server.wait().success(), "{}", server.log());
    }

    /// Writes other settings, and waits until the server has them.
    #[track_caller]
    fn reload(&self, settings: &str) {
        self.write("ringhub.toml", settings);
        let before = self.counts();
        self.server().signal(Signal::HUP);
        let server = self.server();
        let after = server.counts_until("a reload", |counts| reloads(counts) > before.0 + before.1);
        assert_eq!(after.get("config_reloads_total"), before.0 + 1, "{}", server.log());
        assert_eq!(after.get("config_last_reload_success"), 1);
    }

    /// Writes settings that the server must refuse.
    #[track_caller]
    fn refuse(&self, settings: &str, cause: &str) {
        self.write("ringhub.toml", settings);
        let before = self.counts();
        self.server().signal(Signal::HUP);
        let server = self.server();
        let after = server.counts_until("a reload", |counts| reloads(counts) > before.0 + before.1);
        assert_eq!(after.get("config_reloads_refused_total"), before.1 + 1, "{}", server.log());
        assert_eq!(after.get("config_last_reload_success"), 0);
        server.log_until(cause);
    }

    /// Returns the numbers of reloads that were applied and that were refused.
    fn counts(&self) -> (u64, u64) {
        let counts = self.server().counts();
        (counts.get("config_reloads_total"), counts.get("config_reloads_refused_total"))
    }

    /// Returns the status of the answer to a POST with this token.
    fn post(&self, target: &str, token: Option<&str>, body: &str) -> u16 {
        let line = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        let request = post(target, "text/plain", body).replace("Host:", &format!("{line}Host:"));
        exchange(self.server().address(), &request.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")).status()
    }
}

impl Drop for Reloadable {
    fn drop(&mut self) {
        drop(self.server.take());
        drop(fs::remove_dir_all(&self.folder));
    }
}

fn reloads(counts: &Counts) -> u64 {
    counts.get("config_reloads_total") + counts.get("config_reloads_refused_total")
}

/// Returns the status of the answer to an opening request: 101 or that of a refusal.
fn status_of(server: &Server, request: &str) -> u16 {
    let mut stream = dial(server.address());
    stream.write_all(request.as_bytes()).unwrap();
    let mut line = [0; 12];
    stream.read_exact(&mut line).unwrap();
    str::from_utf8(&line[9..]).unwrap().parse().unwrap()
}

/// Two clients that talk to each other without a token while tokens come and go.
struct Pair {
    publisher: Client,
    subscriber: Client,
    count: usize,
}

impl Pair {
    fn connect(server: &Server, topic: &str) -> Pair {
        let publisher = server.connect(&format!("/t/{topic}?mode=pub"));
        Pair { publisher, subscriber: server.connect(&format!("/t/{topic}?mode=sub")), count: 0 }
    }

    /// Checks that the next message arrives, and nothing else.
    #[track_caller]
    fn talk(&mut self) {
        self.count += 1;
        let said = format!("message {}", self.count);
        self.publisher.send_text(&said);
        loop {
            match self.subscriber.receive() {
                // A slow machine may need longer than the interval of pings.
                Received::Ping(_) => {}
                received => return assert_eq!(received, text(&said)),
            }
        }
    }
}

#[test]
fn tokens_change_for_new_requests_and_cut_nobody_off() {
    let hub = Reloadable::start("");
    let mut pair = Pair::connect(hub.server(), "x");
    pair.talk();
    let mut kept_alive = dial(hub.server().address());
    assert_eq!(ask(&mut kept_alive, &post("/t/x", "text/plain", "by post")).status(), 202);
    pair.subscriber.expect(text("by post"));
    hub.reload("publish_tokens = [\"p1\", \"p2\"]\nsubscribe_tokens = \"s1\"\nmetrics_tokens = \"m1\"\n");
    pair.talk();
    // A connection that speaks HTTP is judged anew with each request.
    assert_eq!(ask(&mut kept_alive, &post("/t/x", "text/plain", "refused")).status(), 401);
    assert_eq!((hub.post("/t/x", None, "no"), hub.post("/t/x", Some("p2"), "with a token")), (401, 202));
    pair.subscriber.expect(text("with a token"));
    assert_eq!(status_of(hub.server(), &upgrade_request("/t/x?mode=sub")), 401);
    assert_eq!(status_of(hub.server(), &upgrade_request("/t/x?mode=sub&access_token=s1")), 101);
    assert_eq!(exchange(hub.server().address(), &request("GET", "/metrics")).status(), 401);
    hub.reload("publish_tokens = [\"p2\"]\n");
    pair.talk();
    assert_eq!((hub.post("/t/x", Some("p1"), "no"), hub.post("/t/x", Some("p2"), "still")), (401, 202));
    pair.subscriber.expect(text("still"));
    assert_eq!(status_of(hub.server(), &upgrade_request("/t/x?mode=sub")), 101);
    assert_eq!(exchange(hub.server().address(), &request("GET", "/metrics")).status(), 200);
    hub.reload("");
    assert_eq!(hub.post("/t/x", None, "open again"), 202);
    pair.subscriber.expect(text("open again"));
    pair.talk();
    hub.server().log_until("publish_tokens: [\"***\", \"***\"] -> [\"***\"]");
    let log = hub.server().log();
    assert!(!log.contains("p1") && !log.contains("s1"), "a token stands in the log: {log}");
}

#[test]
fn origins_change() {
    let hub = Reloadable::start("");
    let foreign = upgrade_request("/t/x").replace("Host:", "Origin: https://other.example\r\nHost:");
    let own = upgrade_request("/t/x").replace("Host:", "Origin: https://own.example\r\nHost:");
    let both = |expected| assert_eq!([&own, &foreign].map(|request| status_of(hub.server(), request)), expected);
    both([101, 101]);
    hub.reload("allowed_origins = \"https://own.example\"\n");
    both([101, 403]);
    hub.reload("allowed_origins = \"https://other.example\"\n");
    both([403, 101]);
}

const ROUTES: &str = "[[routes]]\nmatch = \"/t/{topic...}\"\nhandler = \"hub\"\n";

#[test]
fn the_rules_of_routes_change() {
    let echo = "[[routes]]\nmatch = \"/echo\"\nhandler = \"echo\"\n";
    let hub = Reloadable::start(&format!("{ROUTES}{echo}"));
    let mut open = hub.server().connect("/echo");
    let echoes = |client: &mut Client| {
        client.send_text("hello");
        client.expect(text("hello"));
    };
    echoes(&mut open);
    let guarded =
        "protocols = [\"v2\", \"v1\"]\nping_payload = \"there?\"\n[routes.bearer]\ntokens = { app = \"secret\" }\n";
    hub.reload(&format!("{ROUTES}{echo}{guarded}"));
    echoes(&mut open);
    assert_eq!(status_of(hub.server(), &upgrade_request("/echo")), 401);
    let with = |token: &str| upgrade_request(&format!("/echo?access_token={token}"));
    assert_eq!((status_of(hub.server(), &with("secret")), status_of(hub.server(), &with("other"))), (101, 401));
    // Only the secret changes.
    hub.reload(&format!("{ROUTES}{echo}{}", guarded.replace("secret", "other")));
    assert_eq!((status_of(hub.server(), &with("secret")), status_of(hub.server(), &with("other"))), (401, 101));
    hub.server().log_until("route /echo: \"***\" -> \"***\"");
    // The order of the routes in the file makes no difference, and a keep-alive reaches open connections.
    hub.reload(&format!("{echo}ping_interval = \"100ms\"\nping_payload = \"there?\"\n{ROUTES}"));
    open.expect(Received::Ping(b"there?".to_vec()));
    assert_eq!(status_of(hub.server(), &upgrade_request("/echo")), 101);
}

/// The limit of a topic is the smallest of all routes to it, also for connections that were open before.
#[test]
fn a_smaller_limit_of_another_route_reaches_open_connections() {
    let other = "[[routes]]\nmatch = \"/small/{topic}\"\nhandler = \"hub\"\ntopic_prefix = \"small/\"\n";
    let hub = Reloadable::start(&format!("{ROUTES}{other}"));
    let (mut small, mut large) = (Pair::connect(hub.server(), "small/x"), Pair::connect(hub.server(), "large"));
    hub.reload(&format!("{ROUTES}{other}max_message = 10\n"));
    small.talk_of(10);
    large.talk_of(100);
    assert_eq!(
        (hub.post("/t/small/x", None, "more than ten"), hub.post("/t/large", None, "more than ten")),
        (413, 202)
    );
    large.subscriber.expect(text("more than ten"));
    hub.reload(&format!("{ROUTES}{other}max_message = 20\n"));
    small.talk_of(20);
    small.publisher.send_text(&"x".repeat(21));
    assert!(matches!(small.publisher.receive(), Received::Close(Some(1009), _)));
    hub.reload(&format!("max_message = 50\n{ROUTES}{other}"));
    large.talk_of(50);
    large.publisher.send_text(&"x".repeat(51));
    assert!(matches!(large.publisher.receive(), Received::Close(Some(1009), _)));
}

impl Pair {
    #[track_caller]
    fn talk_of(&mut self, length: usize) {
        let said = "x".repeat(length);
        self.publisher.send_text(&said);
        self.subscriber.expect(text(&said));
    }
}

#[test]
fn limits_of_connections_and_bodies_change() {
    let hub = Reloadable::start("max_connections = 3\n");
    let mut pair = Pair::connect(hub.server(), "x");
    let third = hub.server().connect("/t/x");
    assert_eq!(status_of(hub.server(), &upgrade_request("/t/x")), 503);
    hub.reload("max_connections = 5\n");
    assert_eq!(status_of(hub.server(), &upgrade_request("/t/x")), 101);
    hub.server().counts_until("only three are left", |counts| counts.get("connections_open") == 3);
    assert_eq!(hub.server().counts().get("connections_max"), 5);
    // Those beyond a smaller limit stay.
    hub.reload("max_connections = 1\n");
    pair.talk();
    assert_eq!(status_of(hub.server(), &upgrade_request("/t/x")), 503);
    hub.reload("max_message = 100\nmax_bodies = 100\n");
    assert_eq!((hub.post("/t/y", None, &"x".repeat(100)), hub.post("/t/y", None, &"x".repeat(101))), (202, 413));
    pair.talk();
    drop(third);
}

/// What is wrong changes nothing at all, and the log names the cause.
#[test]
fn a_wrong_file_changes_nothing() {
    let hub = Reloadable::start("publish_tokens = \"old\"\n");
    let mut subscriber = hub.server().connect("/t/x?mode=sub");
    let wrong = [
        ("publish_tokens = \"new\"\nmax_message = \"much\"\n", "ringhub.toml:2: max_message: "),
        ("publish_tokens = \"new\"\nmax_mesage = 1\n", "did you mean \\\"max_message\\\"?"),
        ("publish_tokens = \"new\"\nmax_frame = \"2MiB\"\n", "max_frame: 2MiB is more than max_message, 1MiB"),
        ("publish_tokens = \"new\"\n[[routes]\n", "ringhub.toml:2"),
        ("publish_tokens = \"new\"\n[[routes]]\nmatch = \"/t\"\nhandler = \"hub\"\n", "has no {topic}"),
        ("publish_tokens = \"file:missing\"\n", "missing of the value cannot be read: No such file"),
    ];
    for (settings, cause) in wrong {
        hub.refuse(settings, &cause.replace("\\\"", "\""));
        assert_eq!(
            (hub.post("/t/x", Some("new"), "no"), hub.post("/t/x", Some("old"), "yes")),
            (401, 202),
            "{settings}"
        );
        subscriber.expect(text("yes"));
    }
    fs::remove_file(hub.path("ringhub.toml")).unwrap();
    hub.server().signal(Signal::HUP);
    hub.server().log_until("the reload is refused, and all settings stay as they were: --config: ");
    hub.reload("publish_tokens = \"new\"\n");
    assert_eq!((hub.post("/t/x", Some("new"), "new"), hub.post("/t/x", Some("old"), "no")), (202, 401));
    subscriber.expect(text("new"));
}

#[test]
fn what_needs_a_restart_is_named_and_stays() {
    let fixed = |command: &mut Command| {
        command.env_remove("RINGHUB_IO").env_remove("RINGHUB_SANDBOX");
    };
    let hub = Reloadable::start_with("shards = 2\n", fixed);
    hub.reload(
        "shards = 1\nio = \"epoll\"\npin = \"off\"\nsandbox = \"on\"\nmetrics_listen = \"127.0.0.1:1\"\n\
         max_connections_per_address = 7\nmax_message = \"2MiB\"\n[[routes]]\nmatch = \"/new\"\nhandler = \"echo\"\n",
    );
    for pending in [
        "shards: 2 -> 1",
        "pin: \"auto\" -> \"off\"",
        "sandbox: \"off\" -> \"on\"",
        "max_connections_per_address: 0 -> 7",
        "route /new: no route -> handler echo",
    ] {
        hub.server().log_until(&format!("needs a restart, and stays as it was: {pending}"));
    }
    hub.server().log_until("reloaded max_message: \"1MiB\" -> \"2MiB\"");
    let counts = hub.server().counts();
    assert!(counts.get("config_restart_pending") >= 6, "{counts:?}");
    assert_eq!(counts.by_shard("turns_total").len(), 2);
    assert_eq!(status_of(hub.server(), &upgrade_request("/new")), 404);
    assert_eq!(exchange(hub.server().address(), &request("GET", "/metrics")).status(), 200);
    hub.reload("shards = 2\nmax_message = \"2MiB\"\n");
    assert_eq!(hub.server().counts().get("config_restart_pending"), 0);
}

/// The number of sockets of an address is counted from the start on if it has a limit, and the limit can change.
#[test]
fn the_limit_of_an_address_changes() {
    let hub = Reloadable::start("max_connections_per_address = 1\n");
    let mut client = hub.server().connect("/t/x?echo=true");
    assert_eq!(status_of(hub.server(), &upgrade_request("/t/x")), 429);
    hub.reload("max_connections_per_address = 2\n");
    assert_eq!(status_of(hub.server(), &upgrade_request("/t/x")), 101);
    client.send_text("still");
    client.expect(text("still"));
}

/// Who has used up a slow rate does not wait for it once a faster one is in force.
#[test]
fn a_faster_rate_holds_at_once() {
    let rates = |rate: &str| format!("max_message_rate = \"{rate}\"\nmax_publish_rate_per_address = \"{rate}\"\n");
    let hub = Reloadable::start(&rates("1/h burst 2"));
    let mut subscriber = hub.server().connect("/t/x?mode=sub");
    let mut publisher = hub.server().connect("/t/x?mode=pub");
    (0..4).for_each(|number| publisher.send_text(&number.to_string()));
    (0..2).for_each(|number| subscriber.expect(text(&number.to_string())));
    let posted = || hub.post("/t/y", None, "x");
    assert_eq!([posted(), posted(), posted()], [202, 202, 429]);
    hub.server().counts_until("the publisher to wait", |counts| counts.get("connections_throttled") == 1);
    hub.reload(&rates("100/s"));
    (2..4).for_each(|number| subscriber.expect(text(&number.to_string())));
    // The bucket is empty, and has one more in ten milliseconds.
    assert_eq!(posted(), 429);
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!(posted(), 202);
}

/// The rate of wrong credentials changes, and what was counted before is kept.
#[test]
fn the_rate_of_refused_credentials_changes() {
    let rate = |rate: &str| format!("publish_tokens = [\"right\"]\nmax_guess_rate = \"{rate}\"\n");
    let hub = Reloadable::start(&rate("1/h burst 2"));
    let posted = |token: &str| hub.post("/t/x", Some(token), "x");
    assert_eq!([posted("a"), posted("b"), posted("right")], [401, 401, 429]);
    hub.reload(&rate("1/h burst 2").replace("right", "other"));
    assert_eq!(posted("other"), 429);
    hub.reload(&rate("off"));
    assert_eq!([posted("a"), posted("b"), posted("c"), posted("right")], [401, 401, 401, 202]);
}

#[test]
fn the_level_of_the_log_changes() {
    for format in ["text", "json"] {
        let hub = Reloadable::start(&format!("log_format = \"{format}\"\n"));
        let asks = |path: &str| assert_eq!(exchange(hub.server().address(), &request("GET", path)).status(), 404);
        asks("/before");
        hub.reload(&format!("log = \"ringhub=debug\"\nlog_format = \"{format}\"\n"));
        asks("/meanwhile");
        hub.server().log_until("/meanwhile");
        hub.reload(&format!("log_format = \"{format}\"\n"));
        asks("/after");
        let log = hub.server().log();
        assert!(!log.contains("/before") && !log.contains("/after"), "{log}");
    }
}

/// The table of settings is right about reloads: each setting changes, or is named as one that needs a restart.
/// Settings whose values depend on this machine or on another setting are left out.
#[test]
fn every_setting_is_reloaded_or_named() {
    let fixed = |command: &mut Command| {
        command.env_remove("RINGHUB_IO").env_remove("RINGHUB_SANDBOX");
    };
    let hub = Reloadable::start_with("shards = 1\nmax_connections_per_address = 5\n", fixed);
    let mut pair = Pair::connect(hub.server(), "x");
    for setting in SETTINGS.iter().filter(|setting| {
        !["listen", "cpus", "outbound_ca", "proxy_protocol", "callback_url", "callback_secrets"].contains(&setting.key)
    }) {
        let value = crowd::other_value(setting.key);
        let kept = ["shards = 1\n", "max_connections_per_address = 5\n"];
        let kept: String = kept.into_iter().filter(|line| !line.starts_with(setting.key)).collect();
        let change =
            if setting.key == "log" { "log = \"ringhub=info\"".into() } else { format!("{} = {value}", setting.key) };
        hub.reload(&format!("{kept}{change}\n"));
        let words = match setting.reloads {
            ringhub::config::Reloads::No => format!("stays as it was: {}: ", setting.key),
            _ => format!("reloaded {}: ", setting.key),
        };
        hub.server().log_until(&words);
        pair.talk();
    }
}
