//! `on_close` is called exactly once for every way in which a connection ends.

use std::time::Duration;

use ringhub::{
    Publication,
    config::{Size, Time},
    handler::{Connection, RouteOptions},
    proto::{CloseCode, KeepAlive, OpCode},
    server::Hub,
};

use crate::{
    Journal, Live, Script, builder,
    support::{Client, RESTART, Received, dial_with, frame, reset},
};

/// Starts a server whose handler closes the connection on the message `close`, with a short pong timeout.
fn server(shards: usize) -> (Live, Journal) {
    let (script, journal) = Script::<()>::by_message(|connection, text| {
        if text == "close" {
            connection.close(CloseCode(4000), "as told").unwrap();
        }
    });
    let keep_alive = KeepAlive { ping_interval: 0, pong_timeout: 2, close_timeout: 2 };
    let impatient = KeepAlive { ping_interval: 2, ..keep_alive };
    let patient = KeepAlive { close_timeout: 6_000, ..keep_alive };
    let script = script.on_open(move |connection: &mut Connection<'_, ()>| {
        match connection.request().and_then(|request| request.raw_query()) {
            Some("impatient") => connection.set_keep_alive(impatient),
            Some("patient") => connection.set_keep_alive(patient),
            _ => {}
        }
    });
    let builder = builder(shards).route_with("/", script, RouteOptions::new().keep_alive(keep_alive));
    let server = Live::start(builder.settings(|settings| {
        settings.drain_timeout = Time(Duration::from_millis(500));
        settings.max_message = Size(64 * 1_024);
        settings.max_backlog = Some(Size(128 * 1_024));
    }));
    (server, journal)
}

/// Ends a connection by `way`. Expects that its handler is called with `end` once, and not called after that.
fn check(end: &str, way: impl Fn(&mut Live, Client)) {
    check_at("/", end, way);
}

fn check_at(target: &str, end: &str, way: impl Fn(&mut Live, Client)) {
    for shards in [1, 3] {
        let (mut server, journal) = server(shards);
        let client = Client::open(dial_with(server.address, Some(4_096)), target, b"").unwrap();
        way(&mut server, client);
        let told = journal.rest(server);
        let ends = told.iter().filter(|entry| entry.starts_with("close")).count();
        assert_eq!((ends, told.last().map(|entry| &**entry)), (1, Some(end)), "{told:?}");
    }
}

#[test]
fn qore_the_peer_closes() {
    check(r#"close 1000 "bye" clean"#, |_, client| client.leave());
    check(r#"close 1005 "" clean"#, |_, mut client| {
        client.send_raw(&frame(OpCode::Close, true, b""));
        client.expect(Received::Close(None, String::new()));
    });
}

#[test]
fn qore_we_close() {
    check(r#"close 4000 "" clean"#, |_, mut client| {
        client.send_text("close");
        client.expect_close(4000, "as told");
    });
}

#[test]
fn qore_we_close_and_are_not_answered() {
    check(r#"close 1006 "" unclean"#, |_, mut client| {
        client.never_answer();
        client.send_text("close");
        client.expect_close(4000, "as told");
    });
}

#[test]
fn qore_the_protocol_is_broken() {
    check(r#"close 1006 "" unclean"#, |_, mut client| {
        client.send_raw(b"\xff\xff");
        client.expect(crate::support::close(1002, "opcode 15 is reserved"));
    });
}

#[test]
fn qore_the_connection_is_reset() {
    check(r#"close 1006 "" unclean"#, |_, client| reset(client.into_stream()));
}

#[test]
fn qore_the_connection_just_ends() {
    check(r#"close 1006 "" unclean"#, |_, client| drop(client));
}

#[test]
fn qore_a_ping_is_not_answered() {
    check_at("/?impatient", r#"close 1006 "" unclean"#, |_, mut client| {
        client.never_answer();
        client.expect(Received::Ping(Vec::new()));
        client.expect_close(1011, "no answer to a ping");
    });
}

#[test]
fn qore_a_slow_consumer() {
    check(r#"close 1006 "" unclean"#, |server, slow| {
        let message = Publication::binary(&[0; 64 * 1_024]);
        while server.running().counters().iter().all(|c| c.get(ringhub::metrics::Counter::SlowClosed) == 0) {
            Hub::wait(server.hub().send_all(&message)).unwrap();
        }
        drop(slow);
    });
}

#[test]
fn qore_stop_one() {
    check(r#"close 4001 "" clean"#, |server, mut client| {
        let ids = Hub::wait(server.hub().connections()).unwrap();
        Hub::wait(server.hub().disconnect(ids[0], CloseCode(4001), "one")).unwrap();
        client.expect_close(4001, "one");
    });
}

#[test]
fn qore_the_server_leaves() {
    check(r#"close 1012 "" clean"#, |server, mut client| {
        server.running().stop();
        client.expect_close(1012, RESTART);
    });
}

#[test]
fn qore_the_server_leaves_and_its_time_is_up() {
    check_at("/?patient", r#"close 1006 "" unclean"#, |server, mut client| {
        client.never_answer();
        client.send_raw(&frame(OpCode::Binary, true, &[0; 1_000])[..500]);
        server.end();
    });
}

/// `on_close` is called once even if both sides close at the same moment.
#[test]
fn qore_both_close() {
    check(r#"close 4002 "me" clean"#, |_, mut client| {
        client.never_answer();
        let mut both = frame(OpCode::Text, true, b"close");
        both.extend(frame(OpCode::Close, true, b"\x0f\xa2me"));
        client.send_raw(&both);
        client.expect_close(4000, "as told");
    });
}
