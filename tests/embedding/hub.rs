//! The hub's handle, with the cases of Qore's `sendAll`, `sendOne`, `stopOne`, `getConnectionIds` and setters.

use std::thread;

use ringhub::{
    Publication,
    handler::{CloseError, ConnectionId, RouteOptions, Sent},
    metrics::Counter,
    proto::{CloseCode, CloseFrameError, KeepAlive, PreparedMessage},
    server::{Hub, HubError},
};

use crate::{
    Script, serve,
    support::{Received, text},
    topic,
};

fn ids(hub: &Hub) -> Vec<ConnectionId> {
    Hub::wait(hub.connections()).unwrap()
}

#[test]
fn qore_send_all_from_any_thread() {
    let server = serve(3, |builder| builder.route("/", Script::<()>::new().0));
    let mut clients = server.connect_to_all("/", 2);
    thread::scope(|scope| {
        for number in 0..4 {
            let hub = server.hub();
            scope.spawn(move || Hub::wait(hub.send_all(Publication::text(&number.to_string()))).unwrap());
        }
    });
    for client in &mut clients {
        let mut received: Vec<Received> = (0..4).map(|_| client.receive()).collect();
        received.sort_by_key(|received| format!("{received:?}"));
        assert_eq!(received, [text("0"), text("1"), text("2"), text("3")]);
        client.expect_nothing();
    }
}

#[test]
fn qore_send_one_reaches_one() {
    let server = serve(3, |builder| builder.route("/", Script::<()>::new().0));
    let mut clients = server.connect_to_all("/", 2);
    let ids = ids(&server.hub());
    for id in &ids {
        let sent = Hub::wait(server.hub().send_one(*id, &PreparedMessage::text(&id.to_string())));
        assert_eq!(sent, Ok(Sent::Sent));
    }
    let mut names: Vec<String> = ids.iter().map(ToString::to_string).collect();
    for client in &mut clients {
        let Received::Text(name) = client.receive() else { panic!("not its id") };
        let at = names.iter().position(|other| *other == name).expect("an id, once");
        names.remove(at);
        client.expect_nothing();
    }
}

#[test]
fn qore_send_one_to_a_dead_id_is_an_error() {
    let (script, journal) = Script::<()>::new();
    let server = serve(1, |builder| builder.route("/", script));
    let client = server.connect("/");
    let hub = server.hub();
    let id = ids(&hub)[0];
    client.leave();
    journal.until(r#"close 1000 "bye" clean"#);
    let message = PreparedMessage::text("x");
    // The slot of the first id has another owner now, and there is no shard 9.
    let _other = server.connect("/");
    for id in [id, ConnectionId::new(0, 99, 0), ConnectionId::new(9, 0, 0)] {
        let dead = HubError::NoConnection(id);
        assert_eq!(Hub::wait(hub.send_one(id, &message)), Err(dead));
        assert_eq!(Hub::wait(hub.disconnect(id, CloseCode::NORMAL, "")), Err(dead));
        assert_eq!(Hub::wait(hub.set_keep_alive(Some(id), KeepAlive::default())), Err(dead));
    }
    assert_eq!(HubError::NoConnection(id).to_string(), format!("there is no open connection {id}"));
}

#[test]
fn qore_stop_one_checks_code_and_reason() {
    let server = serve(1, |builder| builder.route("/", Script::<()>::new().0));
    let mut client = server.connect("/");
    let hub = server.hub();
    let id = ids(&hub)[0];
    let error = |error| Err(HubError::Close(CloseError::Frame(error)));
    let disconnect = |code: u16, reason: &str| Hub::wait(hub.disconnect(id, CloseCode(code), reason));
    assert_eq!(disconnect(1006, ""), error(CloseFrameError::CodeNotSendable(1006)));
    assert_eq!(disconnect(1000, &"x".repeat(124)), error(CloseFrameError::ReasonTooLong(124)));
    assert_eq!(disconnect(1008, "out"), Ok(()));
    assert_eq!(disconnect(1008, "again"), Err(HubError::NoConnection(id)));
    assert_eq!(ids(&hub), [], "one that is closing is not open");
    client.expect_close(1008, "out");
    assert_eq!(hub.count(Counter::PolicyClosed), 1);
}

#[test]
fn qore_get_connection_ids() {
    let (script, journal) = Script::<()>::new();
    let server = serve(3, |builder| builder.route("/", script));
    let hub = server.hub();
    assert_eq!(ids(&hub), []);
    let clients = server.connect_to_all("/", 1);
    let found = ids(&hub);
    assert_eq!(found.len(), clients.len());
    let mut sorted = found.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted, found, "shard by shard, each once");
    for id in &found {
        assert_eq!(id.to_string().parse(), Ok(*id));
    }
    assert_eq!(hub.count(Counter::ConnectionsOpen), clients.len() as u64);
    clients.into_iter().for_each(crate::Client::leave);
    for _ in &found {
        journal.until(r#"close 1000 "bye" clean"#);
    }
    assert_eq!(ids(&hub), []);
}

#[test]
fn qore_publish_tells_the_place_in_the_topic() {
    let server = serve(3, |builder| builder.topics().route("/", Script::<()>::new().0));
    let mut client = server.connect("/t/news");
    let hub = server.hub();
    let publish = |text: &str| Hub::wait(hub.publish(&topic("news"), Publication::text(text))).unwrap();
    let (first, second) = (publish("a"), publish("b"));
    assert_eq!((first.offset, second.offset, first.epoch), (1, 2, second.epoch));
    client.expect(text("a"));
    client.expect(text("b"));
    // Subscribers of raw topics get no broadcasts.
    Hub::wait(hub.send_all(Publication::text("all"))).unwrap();
    client.expect_nothing();
}

/// Returns options without pings, so that pings come only after a later call.
fn without_pings() -> RouteOptions {
    RouteOptions::new().keep_alive(KeepAlive { ping_interval: 0, ..KeepAlive::default() })
}

/// Sets a keep-alive for one connection, then for all, including later ones.
#[test]
fn qore_heartbeats_change_while_connected() {
    let server =
        serve(3, |builder| builder.route_with("/", Script::<()>::new().0, without_pings().ping_payload(b"beat")));
    let hub = server.hub();
    let beat = Received::Ping(b"beat".to_vec());
    let fast = KeepAlive { ping_interval: 1, ..KeepAlive::default() };
    let mut first = server.connect("/");
    Hub::wait(hub.set_keep_alive(Some(ids(&hub)[0]), fast)).unwrap();
    first.expect(beat.clone());
    first.expect(beat.clone());
    let mut others = server.connect_to_all("/", 2);
    Hub::wait(hub.set_keep_alive(None, fast)).unwrap();
    others.push(server.connect("/"));
    for client in &mut others {
        client.expect(beat.clone());
    }
    Hub::wait(hub.set_keep_alive(None, KeepAlive { ping_interval: 0, ..fast })).unwrap();
}

#[test]
fn qore_a_handler_sets_its_own_heartbeat() {
    let (script, _) = Script::<()>::new();
    let fast = KeepAlive { ping_interval: 1, ..KeepAlive::default() };
    let script = script.on_open(move |connection| {
        assert_eq!(connection.keep_alive().map(|k| k.ping_interval), Some(0));
        connection.set_keep_alive(fast);
        assert_eq!(connection.keep_alive(), Some(fast));
    });
    let server = serve(1, |builder| builder.route_with("/", script, without_pings()));
    let mut client = server.connect("/");
    client.expect(Received::Ping(Vec::new()));
    client.expect(Received::Ping(Vec::new()));
}

#[test]
fn qore_after_the_end_every_call_says_so() {
    let mut server = serve(3, |builder| builder.route("/", Script::<()>::new().0));
    let hub = server.hub();
    server.end();
    let message = PreparedMessage::text("x");
    let id = ConnectionId::new(1, 0, 0);
    assert_eq!(Hub::wait(hub.publish(&topic("t"), Publication::text("x"))), Err(HubError::Ended));
    assert_eq!(Hub::wait(hub.broadcast(None, Publication::text("x"))), Err(HubError::Ended));
    assert_eq!(Hub::wait(hub.send_all(Publication::text("x"))), Err(HubError::Ended));
    assert_eq!(Hub::wait(hub.send_one(id, &message)), Err(HubError::Ended));
    assert_eq!(Hub::wait(hub.disconnect(id, CloseCode::NORMAL, "")), Err(HubError::Ended));
    assert_eq!(Hub::wait(hub.connections()), Err(HubError::Ended));
    assert_eq!(Hub::wait(hub.set_keep_alive(None, KeepAlive::default())), Err(HubError::Ended));
    assert_eq!(hub.count(Counter::ConnectionsOpen), 0);
}

/// Calls that are under way when the server ends return a result or an error.
#[test]
fn qore_calls_at_the_end_are_answered() {
    for _ in 0..20 {
        let mut server = serve(2, |builder| builder.route("/", Script::<()>::new().0));
        let hub = server.hub();
        let caller = thread::spawn(move || while Hub::wait(hub.send_all(Publication::text("x"))).is_ok() {});
        server.end();
        caller.join().unwrap();
    }
}
