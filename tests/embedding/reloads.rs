//! Reloads of a server in this process, by the program that has built it.

use std::{
    sync::{Mutex, mpsc::channel},
    time::{Duration, Instant},
};

use ringhub::{
    RouteOptions,
    config::{Config, Secrets, Settings, Size, Time},
    error::ConfigErrors,
    proto::KeepAlive,
    server::{ReloadError, ReloadReport},
};

use crate::{
    DEADLINE, Live, Script, builder, serve,
    support::{Client, Received, exchange, post, text},
};

fn settings(change: impl FnOnce(&mut Settings)) -> Settings {
    let mut settings = Settings { drain_timeout: Time(Duration::from_secs(2)), ..Settings::default() };
    change(&mut settings);
    settings
}

fn reload(live: &Live, change: impl FnOnce(&mut Settings)) -> Result<ReloadReport, ReloadError> {
    live.running().reload(|_| Config::new(&settings(change), 20_000))
}

fn keys(changes: &[ringhub::config::SettingChange]) -> Vec<&str> {
    changes.iter().map(|change| &*change.key).collect()
}

#[track_caller]
fn echoes(client: &mut Client, message: &str) {
    client.send_text(message);
    client.expect(text(message));
}

fn echo() -> Script<()> {
    Script::<()>::by_message(|connection, text| _ = connection.send_text(text)).0
}

/// The rules of a route in code stay, and the server's settings complete them.
#[test]
fn routes_of_the_program_follow_the_settings() {
    let own = RouteOptions::new().max_message(50);
    let server = serve(2, |builder| builder.route("/all", echo()).route_with("/own", echo(), own).topics());
    let (mut all, mut own) = (server.connect("/all"), server.connect("/own"));
    let report = reload(&server, |settings| {
        settings.max_message = Size(100);
        settings.publish_tokens = Some(Secrets(vec!["secret".into()]));
    });
    let report = report.unwrap();
    assert_eq!(keys(&report.applied), ["publish_tokens", "max_message"]);
    // The builder has set these, and the settings of the reload leave them out.
    assert_eq!(keys(&report.pending), ["listen", "shards", "pin"]);
    assert_eq!(server.running().config().limits.message.message_bytes_max, 100);
    echoes(&mut all, &"x".repeat(100));
    echoes(&mut own, &"x".repeat(50));
    for (client, length) in [(&mut all, 101), (&mut own, 51)] {
        client.send_text(&"x".repeat(length));
        assert!(matches!(client.receive(), Received::Close(Some(1009), _)), "{length}");
    }
    assert_eq!(exchange(server.address, &post("/t/x", "text/plain", "no token")).status(), 401);
    assert_eq!(keys(&reload(&server, |_| {}).unwrap().applied), ["publish_tokens", "max_message"]);
    assert_eq!(exchange(server.address, &post("/t/x", "text/plain", "open again")).status(), 202);
}

/// A route of the program that does not fit the new settings refuses the reload, and nothing has changed.
#[test]
fn a_route_of_the_program_may_refuse_the_settings() {
    let large = RouteOptions::new().max_message(2 << 20);
    let server = serve(1, |builder| builder.route_with("/large", echo(), large).topics());
    let mut client = server.connect("/large");
    let refused = reload(&server, |settings| {
        settings.max_message = Size(1 << 10);
        settings.max_backlog = Some(Size(1 << 20));
        settings.publish_tokens = Some(Secrets(vec!["secret".into()]));
    });
    let error = refused.unwrap_err();
    assert!(matches!(error, ReloadError::Routes(_)), "{error}");
    assert_eq!(error.to_string(), "the route \"/large\": max_message: 2MiB needs a max_backlog of 4MiB, which is 1MiB");
    assert_eq!(exchange(server.address, &post("/t/x", "text/plain", "no token")).status(), 202);
    echoes(&mut client, "still here");
    let failed = server.running().reload(|_| Config::new(&settings(|settings| settings.max_message = Size(0)), 20_000));
    assert!(matches!(failed, Err(ReloadError::Settings(ConfigErrors(errors))) if errors.len() == 1));
}

/// A reload does not wait for a blocked shard for longer than a second. The shard takes the settings later.
#[test]
fn a_stuck_shard_takes_the_settings_later() {
    let ((blocks, is_blocked), (let_go, is_let_go)) = (channel(), channel::<()>());
    let (blocks, is_let_go) = (Mutex::new(blocks), Mutex::new(is_let_go));
    let (script, _journal) = Script::<()>::by_message(move |connection, text| match text {
        "block" => {
            blocks.lock().unwrap().send(()).unwrap();
            is_let_go.lock().unwrap().recv_timeout(DEADLINE).unwrap();
        }
        _ => _ = connection.send_text(text),
    });
    let server = Live::start(builder(1).route("/", script));
    let mut client = server.connect("/");
    client.send_text("block");
    is_blocked.recv_timeout(DEADLINE).unwrap();
    let begun = Instant::now();
    let report = reload(&server, |settings| settings.max_message = Size(100)).unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(keys(&report.applied), ["max_message"]);
    let_go.send(()).unwrap();
    echoes(&mut client, &"x".repeat(100));
    client.send_text(&"x".repeat(101));
    assert!(matches!(client.receive(), Received::Close(Some(1009), _)));
}

/// Reloads from several threads come one after the other, and the last one holds.
#[test]
fn reloads_at_the_same_time_are_all_whole() {
    let server = serve(2, |builder| builder.topics());
    std::thread::scope(|scope| {
        for number in 0..4_u64 {
            let server = &server;
            scope.spawn(move || {
                for round in 1..=5 {
                    let size = 100 * (number + 1) + round;
                    let report = reload(server, |settings| {
                        settings.max_message = Size(size);
                        settings.max_frame = Some(Size(size));
                    });
                    assert!(keys(&report.unwrap().applied).contains(&"max_message"));
                    let limits = server.running().config().limits.message;
                    assert_eq!(limits.message_bytes_max, limits.frame_bytes_max);
                }
            });
        }
    });
}

/// A keep-alive that the program has set for all connections stays until the settings have another one.
#[test]
fn a_keep_alive_of_the_program_stays() {
    let server = serve(1, |builder| builder.route("/", echo()));
    let mut client = server.connect("/");
    let hub = server.hub();
    ringhub::Hub::wait(hub.set_keep_alive(None, KeepAlive { ping_interval: 1, pong_timeout: 600, close_timeout: 50 }))
        .unwrap();
    client.expect(Received::Ping(Vec::new()));
    reload(&server, |settings| settings.max_message = Size(100)).unwrap();
    client.expect(Received::Ping(Vec::new()));
}
