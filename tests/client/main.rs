//! `ringhub::client` against the hub, and against servers that behave as the hub never does.

mod closing;
#[path = "../support/example.rs"]
#[allow(dead_code, reason = "these tests use one example, which does not serve")]
mod example;
mod messages;
mod opening;
mod peer;
mod reconnecting;
mod settings;
#[path = "../support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "these tests use a part of it")]
mod support;
mod tail;
mod tls;
mod topics;
mod vectors;

use std::{future::Future, time::Duration};

use ringhub::client::{Client, ClientBuilder, ClientEvent, ConnectionEnd, Events};
use support::DEADLINE;
use tokio::time::timeout;

/// Runs the test on a plain runtime of tokio, as embedders have.
fn on_tokio(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { timeout(DEADLINE, test).await.expect("the test has not ended in time") });
    runtime.shutdown_timeout(Duration::ZERO);
}

fn client(url: &str) -> ClientBuilder {
    Client::builder().url(url)
}

async fn next(events: &mut Events) -> ClientEvent {
    events.next().await.expect("an event")
}

async fn expect_text(events: &mut Events, text: &str) {
    match next(events).await {
        ClientEvent::Text(received) => assert!(received == text, "{} bytes instead of {}", received.len(), text.len()),
        other => panic!("{other:?} instead of {text:?}"),
    }
}

async fn expect_binary(events: &mut Events, bytes: &[u8]) {
    match next(events).await {
        ClientEvent::Binary(received) => {
            assert!(received == bytes, "{} bytes instead of {}", received.len(), bytes.len())
        }
        other => panic!("{other:?} instead of {} bytes", bytes.len()),
    }
}

async fn expect_closed(events: &mut Events) -> ConnectionEnd {
    match next(events).await {
        ClientEvent::Closed(closed) => closed,
        other => panic!("{other:?} instead of the end"),
    }
}
