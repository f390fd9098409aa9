//! Lost connections: some are opened again, others are not.

use std::time::Duration;

use ringhub::{
    client::{Cause, Client, ClientBuilder, ClientEvent, ConnectError, ConnectionEnd, Events, Reconnect},
    proto::CloseCode,
};
use tokio::net::TcpStream;

use super::{
    expect_closed, expect_text, next, on_tokio,
    peer::{Peer, Side},
};

const QUICK: Reconnect = Reconnect {
    first_delay_max: Duration::from_millis(1),
    delay_max: Duration::from_millis(5),
    attempts_max: None,
    stable_after: Duration::from_secs(3600),
};

fn returning(peer: &Peer) -> ClientBuilder {
    peer.client().reconnect(QUICK)
}

async fn expect_lost(events: &mut Events) -> ConnectionEnd {
    match next(events).await {
        ClientEvent::Lost(closed) => closed,
        other => panic!("{other:?} instead of a loss"),
    }
}

async fn expect_attempt(events: &mut Events, number: u32) -> Option<ConnectError> {
    match next(events).await {
        ClientEvent::Reconnecting { attempt, delay, error } => {
            assert!(attempt == number && delay <= QUICK.delay_max, "{attempt}, {delay:?}");
            error
        }
        other => panic!("{other:?} instead of attempt {number}"),
    }
}

async fn expect_return(events: &mut Events) {
    match next(events).await {
        ClientEvent::Reconnected(opened) => assert_eq!(opened.head.status(), 101),
        other => panic!("{other:?} instead of a connection"),
    }
}

/// Refuses an attempt.
async fn refuse(peer: &Peer, status: u16) {
    let mut side = peer.accept().await;
    side.request().await;
    side.raw(format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n").as_bytes()).await;
}

/// Closes from the server's side.
async fn leave(mut side: Side<TcpStream>, code: u16) {
    side.send_close(code, "").await;
    side.expect_close(code, "").await;
    side.end().await;
}

async fn lost(peer: &Peer) -> (Client, Events) {
    let (client, events, side) = peer.connected(returning(peer)).await;
    drop(side);
    (client, events)
}

#[test]
fn a_lost_connection_is_opened_again() {
    on_tokio(async {
        let peer = Peer::listen().await;
        let (client, mut events, side) = peer.connected(returning(&peer)).await;
        leave(side, 1012).await;
        let closed = expect_lost(&mut events).await;
        assert!(closed.is_clean && closed.code == CloseCode::SERVICE_RESTART, "{closed:?}");
        assert!(client.is_reconnecting() && !client.is_open());
        assert!(expect_attempt(&mut events, 1).await.is_none());
        let mut side = peer.open().await;
        expect_return(&mut events).await;
        assert!(client.is_open() && !client.is_reconnecting());
        client.send_text("again").await.unwrap();
        side.expect_text("again").await;
        side.send_text("welcome").await;
        expect_text(&mut events, "welcome").await;
        let stats = client.stats();
        assert_eq!((stats.connections, stats.reconnects, stats.failures), (2, 1, 0));
    });
}

/// Every end that is not final is followed by attempts. Each `Reconnecting` has the error of the attempt before.
#[test]
fn every_end_that_is_not_final_is_followed_by_attempts() {
    on_tokio(async {
        let peer = Peer::listen().await;
        let (client, mut events) = lost(&peer).await;
        let closed = expect_lost(&mut events).await;
        assert!(matches!(closed.cause, Cause::EndOfStream), "{closed:?}");
        assert!(expect_attempt(&mut events, 1).await.is_none());
        for (attempt, status) in [(2, 503), (3, 429), (4, 408), (5, 500)] {
            refuse(&peer, status).await;
            match expect_attempt(&mut events, attempt).await {
                Some(ConnectError::Refused(refused)) => assert_eq!(refused.head.status(), status),
                other => panic!("{other:?}"),
            }
        }
        let side = peer.open().await;
        expect_return(&mut events).await;
        assert_eq!(client.stats().failures, 4);
        // The connection was not stable, so the count of attempts goes on.
        leave(side, 1000).await;
        expect_lost(&mut events).await;
        expect_attempt(&mut events, 6).await;
    });
}

#[test]
fn a_stable_connection_resets_the_count() {
    on_tokio(async {
        let peer = Peer::listen().await;
        let reconnect = Reconnect { stable_after: Duration::ZERO, ..QUICK };
        let (_client, mut events, mut side) = peer.connected(peer.client().reconnect(reconnect)).await;
        for _ in 0..3 {
            drop(side);
            expect_lost(&mut events).await;
            expect_attempt(&mut events, 1).await;
            side = peer.open().await;
            expect_return(&mut events).await;
        }
    });
}

/// A client that was too slow comes back, after a delay.
#[test]
fn a_slow_consumer_comes_back() {
    on_tokio(async {
        let peer = Peer::listen().await;
        let (_client, mut events, mut side) = peer.connected(returning(&peer)).await;
        side.send_close(1008, "slow consumer").await;
        side.expect_close(1008, "").await;
        drop(side);
        expect_lost(&mut events).await;
        expect_attempt(&mut events, 1).await;
        let _side = peer.open().await;
        expect_return(&mut events).await;
    });
}

/// A close with 1008 or 4000-4999 rules out a reconnect.
#[test]
fn final_closes() {
    on_tokio(async {
        for code in [1008, 4000, 4999] {
            let peer = Peer::listen().await;
            let (client, mut events, side) = peer.connected(returning(&peer)).await;
            leave(side, code).await;
            let closed = expect_closed(&mut events).await;
            assert_eq!((closed.code, closed.is_clean), (CloseCode(code), true));
            client.closed().await;
            assert!(!client.is_reconnecting());
        }
    });
}

#[test]
fn final_refusals() {
    on_tokio(async {
        for status in [400, 401, 403, 404] {
            let peer = Peer::listen().await;
            let (_client, mut events) = lost(&peer).await;
            expect_lost(&mut events).await;
            expect_attempt(&mut events, 1).await;
            refuse(&peer, status).await;
            match expect_closed(&mut events).await.cause {
                Cause::Refused(ConnectError::Refused(refused)) => assert_eq!(refused.head.status(), status),
                other => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn attempts_are_used_up() {
    on_tokio(async {
        let peer = Peer::listen().await;
        let builder = peer.client().reconnect(Reconnect { attempts_max: Some(2), ..QUICK });
        let (_client, mut events, side) = peer.connected(builder).await;
        // The drop closes the listener.
        drop((side, peer));
        expect_lost(&mut events).await;
        assert!(expect_attempt(&mut events, 1).await.is_none());
        assert!(matches!(expect_attempt(&mut events, 2).await, Some(ConnectError::Connect(..))));
        let closed = expect_closed(&mut events).await;
        assert!(matches!(closed.cause, Cause::GaveUp(Some(ConnectError::Connect(..)))), "{closed:?}");
    });
}

/// RFC 9110 10.2.3, bounded by `delay_max`.
#[test]
fn retry_after_delays_an_attempt() {
    on_tokio(async {
        let peer = Peer::listen().await;
        let (_client, mut events) = lost(&peer).await;
        expect_lost(&mut events).await;
        expect_attempt(&mut events, 1).await;
        for attempt in 2..=5 {
            let mut side = peer.accept().await;
            side.request().await;
            side.raw(b"HTTP/1.1 503 Busy\r\nRetry-After: 3600\r\nContent-Length: 0\r\n\r\n").await;
            match next(&mut events).await {
                ClientEvent::Reconnecting { attempt: number, delay, .. } => {
                    assert_eq!((number, delay), (attempt, QUICK.delay_max));
                }
                other => panic!("{other:?}"),
            }
        }
    });
}

/// A connection that is not stable counts as an attempt.
#[test]
fn short_connections_use_up_attempts() {
    on_tokio(async {
        let peer = Peer::listen().await;
        let builder = peer.client().reconnect(Reconnect { attempts_max: Some(2), ..QUICK });
        let (_client, mut events, mut side) = peer.connected(builder).await;
        for attempt in 1..=2 {
            drop(side);
            expect_lost(&mut events).await;
            expect_attempt(&mut events, attempt).await;
            side = peer.open().await;
            expect_return(&mut events).await;
        }
        drop(side);
        expect_lost(&mut events).await;
        let closed = expect_closed(&mut events).await;
        assert!(matches!(closed.cause, Cause::GaveUp(None)), "{closed:?}");
    });
}

const NEVER: Reconnect =
    Reconnect { first_delay_max: Duration::from_secs(1 << 40), delay_max: Duration::from_secs(1 << 40), ..QUICK };

/// A connection that the caller closes is neither lost nor opened again.
#[test]
fn the_caller_closes() {
    on_tokio(async {
        let peer = Peer::listen().await;
        let (client, mut events, mut side) = peer.connected(returning(&peer)).await;
        let answer = async {
            side.expect_close(1001, "").await;
            side.send_close(1001, "").await;
            side.end().await;
        };
        let (closed, ()) = tokio::join!(client.close(), answer);
        closed.unwrap();
        assert!(matches!(expect_closed(&mut events).await.cause, Cause::Caller));
    });
}

/// A close ends the delay before the next attempt.
#[test]
fn the_caller_closes_between_attempts() {
    on_tokio(async {
        let peer = Peer::listen().await;
        let (client, mut events, side) = peer.connected(peer.client().reconnect(NEVER)).await;
        drop(side);
        expect_lost(&mut events).await;
        assert!(client.is_reconnecting());
        client.close().await.unwrap();
        assert!(!client.is_reconnecting());
        assert!(matches!(next(&mut events).await, ClientEvent::Reconnecting { .. }));
        let closed = expect_closed(&mut events).await;
        assert!(matches!(closed.cause, Cause::Caller), "{closed:?}");
    });
}

#[test]
fn the_last_handle_is_dropped_between_attempts() {
    on_tokio(async {
        let peer = Peer::listen().await;
        let (client, mut events, side) = peer.connected(peer.client().reconnect(NEVER)).await;
        drop(side);
        expect_lost(&mut events).await;
        assert!(matches!(next(&mut events).await, ClientEvent::Reconnecting { .. }));
        drop(client);
        assert!(matches!(expect_closed(&mut events).await.cause, Cause::Dropped));
        assert!(events.next().await.is_none());
    });
}

/// A close ends an attempt under way, which is then not reported as a failure.
#[test]
fn the_caller_closes_during_an_attempt() {
    on_tokio(async {
        let peer = Peer::listen().await;
        let (client, mut events) = lost(&peer).await;
        let mut side = peer.accept().await;
        side.request().await;
        client.close().await.unwrap();
        side.expect_end().await;
        expect_lost(&mut events).await;
        expect_attempt(&mut events, 1).await;
        assert!(matches!(expect_closed(&mut events).await.cause, Cause::Caller));
    });
}

/// A new `connect` does not wait for the old one's attempts.
#[test]
fn a_second_connect_between_attempts() {
    on_tokio(async {
        let peer = Peer::listen().await;
        let (client, mut events, side) = peer.connected(peer.client().reconnect(NEVER)).await;
        drop(side);
        expect_lost(&mut events).await;
        let mut side = peer.connect(&client).await;
        assert!(matches!(next(&mut events).await, ClientEvent::Reconnecting { .. }));
        assert!(matches!(expect_closed(&mut events).await.cause, Cause::Replaced));
        side.send_text("new").await;
        expect_text(&mut events, "new").await;
    });
}
