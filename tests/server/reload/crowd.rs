//! A crowd beside reloads: every setting is changed under load, nobody is cut off, and nothing is lost.

use std::{
    env,
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use ringhub::{
    config::{Flags, Given, Preset, Reloads, SETTINGS, Setting, Settings},
    proto::OpCode,
};

use super::{ROUTES, Reloadable};
use crate::support::{Client, CrowdPermit, Listeners, Numbered, Received, ask, dial, post};

/// Returns a value of a setting, as a file has it, that is not its default.
pub(super) fn other_value(key: &str) -> String {
    let setting = Setting::by_key(key).expect("the key of a setting");
    let example = if let Preset::Otherwise { example, .. } = setting.preset { example } else { "7s" };
    let candidates = [
        example,
        "7s",
        "7MiB",
        "7",
        "512MiB",
        "1000000/s",
        "1GiB/s",
        "forwarded",
        "on",
        "off",
        "json",
        "allow",
        "dual",
        "epoll",
        "https://example.org",
        "127.0.0.1:1",
        "10.0.0.0/8",
        "10.0.0.1",
        "v2",
        "7%",
    ];
    let is_other = |value: &&str| {
        let given = Given::read_one(key, &Flags::default(), [(setting.variable().into(), (*value).into())]);
        let is_valid = |settings: &Settings| ringhub::config::Config::new(settings, 20_000).is_ok();
        given.check_sources().is_ok() && given.settings != Settings::default() && is_valid(&given.settings)
    };
    let value = candidates.iter().copied().find(is_other);
    format!("{:?}", value.unwrap_or_else(|| panic!("no other value of {key} is known")))
}

/// The lines of a file, beyond those of the reload under test, that leave room for the crowd.
fn with_room(setting: &Setting, count: usize) -> String {
    let change = match setting.key {
        "max_connections" => format!("max_connections = {}", count + 50),
        "max_http_connections" => "max_http_connections = 2000".into(),
        // Pings and short times, which the clients of the crowd answer and keep.
        "ping_interval" => "ping_interval = \"500ms\"".into(),
        // The tokens are for requests that come later.
        "log" => "log = \"ringhub=info\"".into(),
        "max_backlog" => "max_backlog = \"16MiB\"".into(),
        "max_backlog_messages" => "max_backlog_messages = 100000".into(),
        "max_unfinished" => "max_unfinished = \"512MiB\"".into(),
        key => format!("{key} = {}", other_value(key)),
    };
    format!("{change}\n")
}

/// Every setting that a reload changes is changed there and back, while publishers on WebSockets and by POST go on.
///
/// `RINGHUB_RELOAD_CROWD` is the number of subscribers, 200 by default; `tests/reloads` asks for 5 000.
#[test]
fn every_setting_changes_under_load_and_nothing_is_lost() {
    let permit = CrowdPermit::take();
    let wanted = env::var("RINGHUB_RELOAD_CROWD").map_or(200, |count| count.parse().expect("a number"));
    // The test has one end of each connection, and the server, with descriptors of its own, the other.
    let count = permit.afford(wanted, 100);
    let fixed = format!("{ROUTES}[[routes]]\nmatch = \"/echo\"\nhandler = \"echo\"\n");
    let hub = Reloadable::start_with(&fixed, |command| _ = command.args(["--shards", "2"]));
    let topics: Vec<Numbered> = (0..TOPICS).map(|number| Numbered::new(&format!("/t/crowd-{number}"))).collect();
    let mut listeners = Listeners::new(hub.server().address());
    topics.iter().for_each(|topic| listeners.join(count / TOPICS, topic, None));
    let (is_over, left) = (AtomicBool::new(false), AtomicUsize::new(TOPICS));
    thread::scope(|scope| {
        for (number, topic) in topics.iter().enumerate() {
            let (address, is_over, left) = (hub.server().address(), &is_over, &left);
            let client = (number > 0).then(|| Client::connect(address, &format!("{}?mode=pub", topic.target())));
            scope.spawn(move || {
                let _leaves = Leaves(left);
                publish(address, topic, client, is_over);
            });
        }
        let listening = scope.spawn(|| {
            while left.load(Ordering::SeqCst) > 0 {
                listeners.serve_once(50);
                assert_eq!(listeners.open(), listeners.len(), "a listener has lost its connection: {listeners:?}");
            }
            listeners.serve_until("all have the last message", |all| all.finished() == all.len());
        });
        let over = Over(&is_over);
        reload_all(&hub, &fixed, count);
        drop(over);
        listening.join().unwrap();
    });
    let counts = hub.server().counts();
    let published: u64 = topics.iter().map(Numbered::begun).sum();
    println!("{count} subscribers, {published} messages, {} reloads", counts.get("config_reloads_total"));
    assert_eq!((counts.get("slow_closed_total"), counts.get("protocol_errors_total")), (0, 0), "{counts:?}");
    assert!(published > 100, "too few messages for this test");
}

/// Counts a publisher until it is dropped, also by a failure.
struct Leaves<'a>(&'a AtomicUsize);

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Ends the publishing when it is dropped, also by a failure: otherwise the test would wait for ever.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Changes every setting that a reload can change, and the rules of a route, each to another value and back.
fn reload_all(hub: &Reloadable, fixed: &str, listeners: usize) {
    let mut count = 0;
    // A limit that is 0 at the start needs a restart.
    for setting in SETTINGS.iter().filter(|setting| setting.reloads == Reloads::Yes && !is_for_openings(setting)) {
        hub.reload(&format!("{}{fixed}", with_room(setting, listeners)));
        hub.reload(fixed);
        count += 1;
    }
    for rule in ["max_message = \"512KiB\"", "protocols = \"v1\"", "ping_interval = \"300ms\"", "check_utf8 = false"] {
        hub.reload(&format!("{fixed}{rule}\n"));
        hub.reload(&fixed.replace("handler = \"hub\"\n", &format!("handler = \"hub\"\n{rule}\n")));
        hub.reload(fixed);
        count += 1;
    }
    hub.refuse(&format!("max_message = 0\n{fixed}"), "max_message: ");
    // Tokens and origins last: the publisher by POST has a token of them.
    hub.reload(&format!("publish_tokens = [\"{TOKEN}\"]\nsubscribe_tokens = \"s\"\nmetrics_tokens = \"m\"\n{fixed}"));
    hub.reload(&format!("publish_tokens = [\"more\", \"{TOKEN}\"]\nallowed_origins = \"https://a.example\"\n{fixed}"));
    hub.reload(fixed);
    assert!(count > 25, "{count}");
}

/// Returns whether a setting is about the rights of requests.
fn is_for_openings(setting: &Setting) -> bool {
    setting.key.ends_with("_tokens") || setting.key == "allowed_origins"
}

/// Publishes numbered messages until the reloads are over, and then the last one: by a WebSocket, or without one by
/// POST.
fn publish(address: SocketAddr, topic: &Numbered, mut client: Option<Client>, is_over: &AtomicBool) {
    let target = topic.target();
    let mut by_post = client.is_none().then(|| dial(address));
    let mut say = |message: &str| match (&mut by_post, &mut client) {
        (Some(stream), _) => {
            let with_token = format!("Authorization: Bearer {TOKEN}\r\nHost:");
            let request = post(target, "text/plain", message).replace("Host:", &with_token);
            assert_eq!(ask(stream, &request).status(), 202, "{target}");
        }
        (None, Some(client)) => {
            client.send_text(message);
            client.send(OpCode::Ping, true, b"taken?");
            loop {
                match client.receive() {
                    Received::Pong(payload) if payload == b"taken?" => break,
                    Received::Ping(_) => {}
                    other => panic!("a publisher receives {other:?}"),
                }
            }
        }
        (None, None) => unreachable!(),
    };
    let mut count: usize = 0;
    while !is_over.load(Ordering::Relaxed) {
        say(&topic.next(if count.is_multiple_of(50) { 20_000 } else { 10 + count % 300 }));
        count += 1;
        thread::sleep(Duration::from_millis(20));
    }
    say(&topic.last());
    if let Some(client) = client {
        client.leave();
    }
}

const TOPICS: usize = 4;

const TOKEN: &str = "for-all-the-time";
