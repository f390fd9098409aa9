//! The client, with the cases of Qore's client, against a server of this library. `tests/client` has the details, and
//! the cases that need a special peer: TLS, proxies, redirects, deadlines.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use ringhub::{
    client::{
        Cause, Client, ClientBuildError, ClientBuilder, ClientEvent, Events, Operation, Reconnect, SendError, UrlError,
    },
    proto::CloseCode,
};

use crate::{Live, Script, serve, support::DEADLINE};

fn on_tokio(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(DEADLINE, test).await.expect("the test has not ended in time") });
}

/// Starts a server that echoes. A message `close 4000` makes the server close the connection with this code.
fn server() -> Live {
    let (script, _) = Script::<()>::by_message(|connection, text| match text.split_once(' ') {
        Some(("close", code)) => connection.close(CloseCode(code.parse().unwrap()), "as told").unwrap(),
        _ => _ = connection.send_text(text),
    });
    let options = ringhub::handler::RouteOptions::new().protocols(["v1"]);
    serve(1, |builder| builder.route_with("/", script, options))
}

fn to(server: &Live) -> ClientBuilder {
    Client::builder().url(format!("ws://{}/", server.address))
}

async fn next(events: &mut Events) -> ClientEvent {
    events.next().await.expect("an event")
}

async fn expect_text(events: &mut Events, text: &str) {
    match next(events).await {
        ClientEvent::Text(received) => assert_eq!(received, text),
        other => panic!("{other:?}"),
    }
}

#[test]
fn qore_client_options_are_checked() {
    let refused = |builder: ClientBuilder, error: ClientBuildError| assert_eq!(builder.build().map(drop), Err(error));
    refused(Client::builder(), ClientBuildError::UrlMissing);
    refused(Client::builder().url("http://hub/"), ClientBuildError::Url(UrlError::UnknownScheme("http".into())));
    refused(Client::builder().url("ws://hub/").header("a b", "c"), ClientBuildError::HeaderName("a b".into()));
}

#[test]
fn qore_client_connect_returns_the_head_and_facts() {
    let server = server();
    on_tokio(async {
        let (client, mut events) = to(&server).subprotocol("v1").build().unwrap();
        let opened = client.connect().await.unwrap();
        assert_eq!((opened.head.status(), opened.protocol.as_deref()), (101, Some("v1")));
        assert_eq!((opened.peer_address, opened.tls.is_none()), (server.address, true));
        assert!(opened.timings.total >= opened.timings.handshake);
        // The second `connect` closes the first connection with 1001.
        let again = client.connect().await.unwrap();
        assert_ne!(again.connection_id, opened.connection_id);
        let ClientEvent::Closed(closed) = next(&mut events).await else { panic!("the first connection is not closed") };
        assert!(closed.is_clean && matches!(closed.cause, Cause::Replaced), "{closed:?}");
        client.send_text("second").await.unwrap();
        expect_text(&mut events, "second").await;
    });
}

#[test]
fn qore_client_tells_messages_and_the_end() {
    let server = server();
    on_tokio(async {
        let (client, mut events) = to(&server).build().unwrap();
        client.connect().await.unwrap();
        client.send_text("é").await.unwrap();
        expect_text(&mut events, "é").await;
        client.send_text("close 4000").await.unwrap();
        let ClientEvent::Closed(closed) = next(&mut events).await else { panic!("no end") };
        assert_eq!((closed.code, &*closed.reason, closed.is_clean), (CloseCode(4000), "as told", true));
        assert!(!client.is_open());
    });
}

#[test]
fn qore_client_by_callback() {
    let server = server();
    on_tokio(async {
        let told = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&told);
        let on_event = move |client: &Client, event| match event {
            ClientEvent::Text(text) if text == "1" => client.try_send_text("close 1000").unwrap(),
            ClientEvent::Closed(closed) => seen.lock().unwrap().push(closed.code),
            other => panic!("{other:?}"),
        };
        let client = to(&server).build_with(on_event).unwrap();
        client.connect().await.unwrap();
        client.send_text("1").await.unwrap();
        client.closed().await;
        // The callback may be called a moment later.
        while told.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(*told.lock().unwrap(), [CloseCode::NORMAL]);
    });
}

#[test]
fn qore_client_disconnects_with_1001() {
    let (script, journal) = Script::<()>::new();
    let server = serve(1, |builder| builder.route("/", script));
    on_tokio(async {
        let (client, _events) = to(&server).build().unwrap();
        assert!(!client.is_open());
        client.connect().await.unwrap();
        assert!(client.is_open());
        client.close().await.unwrap();
        assert!(!client.is_open());
        client.connect().await.unwrap();
        client.close_with(CloseCode(4000), "mine").await.unwrap();
    });
    journal.expect_at_the_end(server, &["open", r#"close 1001 "" clean"#, "open", r#"close 4000 "mine" clean"#]);
}

#[test]
fn qore_client_sends_pings_and_pongs() {
    let (script, journal) = Script::<()>::new();
    let script = script.on_message(|connection, _| _ = connection.send_ping(b"are you there"));
    let server = serve(1, |builder| builder.route("/", script));
    on_tokio(async {
        let (client, mut events) = to(&server).build().unwrap();
        client.connect().await.unwrap();
        client.ping("p").await.unwrap();
        assert!(matches!(next(&mut events).await, ClientEvent::Pong(payload) if payload == "p"));
        client.pong("q").await.unwrap();
        client.send_binary(Bytes::from_static(b"b")).await.unwrap();
        assert!(matches!(next(&mut events).await, ClientEvent::Ping(payload) if payload == "are you there"));
        journal.expect(&["open", "ping p", "pong q", "binary b"]);
        client.close().await.unwrap();
        assert!(matches!(client.send_text("late").await, Err(SendError::NotOpen)));
    });
    // The client has answered the ping by itself.
    journal.expect_at_the_end(server, &["pong are you there", r#"close 1001 "" clean"#]);
}

#[test]
fn qore_client_reconnects() {
    let server = server();
    let quick = Reconnect { first_delay_max: Duration::from_millis(1), ..Reconnect::default() };
    on_tokio(async {
        let (client, mut events) = to(&server).reconnect(quick).build().unwrap();
        client.connect().await.unwrap();
        client.send_text("close 1012").await.unwrap();
        assert!(matches!(next(&mut events).await, ClientEvent::Lost(closed) if closed.code.0 == 1012));
        assert!(matches!(next(&mut events).await, ClientEvent::Reconnecting { .. }));
        assert!(matches!(next(&mut events).await, ClientEvent::Reconnected(_)));
        client.send_text("again").await.unwrap();
        expect_text(&mut events, "again").await;
        // After a close with 1008 the client does not reconnect.
        client.send_text("close 1008").await.unwrap();
        assert!(matches!(next(&mut events).await, ClientEvent::Closed(closed) if closed.code.0 == 1008));
        assert!(!client.is_reconnecting());
    });
}

#[test]
fn qore_client_counts_and_warns() {
    let server = server();
    on_tokio(async {
        let slow = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&slow);
        let builder = to(&server).on_slow(Duration::ZERO, move |slow| told.lock().unwrap().push(slow.operation));
        let (client, mut events) = builder.basic_auth("me", "secret").build().unwrap();
        client.connect().await.unwrap();
        client.send_text("12345").await.unwrap();
        expect_text(&mut events, "12345").await;
        let stats = client.stats();
        assert_eq!((stats.connections, stats.messages_sent, stats.messages_received), (1, 1, 1));
        assert!(slow.lock().unwrap().contains(&Operation::Connect));
        assert!(client.connection_id().is_some() && !client.url().contains("secret"));
    });
}
