//! The end of a connection (RFC 6455 7), by the caller, the server or a failure.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use ringhub::{
    client::{Cause, ClientCloseError, ClientEvent, ClientLimits, ConnectError, ConnectionEnd, SendError},
    proto::{CloseCode, MessageLimits, OpCode, ProtocolError},
};
use tokio::sync::oneshot;

use super::{expect_closed, expect_text, next, on_tokio, peer::Peer, support::Server};

const SOON: Duration = Duration::from_millis(200);

/// Acts as a server that answers a close and ends the connection.
macro_rules! answer_close {
    ($side:expr, $code:expr, $reason:expr) => {
        async {
            $side.expect_close($code, $reason).await;
            $side.send_close($code, "").await;
            $side.end().await;
        }
    };
}

#[track_caller]
fn assert_cause(closed: &ConnectionEnd, code: u16, is_clean: bool, is_cause: impl Fn(&Cause) -> bool) {
    assert_eq!((closed.code, closed.is_clean), (CloseCode(code), is_clean), "{closed:?}");
    assert!(is_cause(&closed.cause), "{closed:?}");
    assert!(!closed.to_string().is_empty());
}

/// RFC 6455 7.1.2: `close` sends 1001.
#[test]
fn the_caller_closes() {
    on_tokio(async {
        let peer = Peer::listen().await;
        let (client, mut events, mut side) = peer.connected(peer.client()).await;
        let (closed, ()) = tokio::join!(client.close(), answer_close!(side, 1001, ""));
        closed.unwrap();
        assert!(!client.is_open());
        assert_cause(&expect_closed(&mut events).await, 1001, true, |cause| matches!(cause, Cause::Caller));
        assert_eq!(client.send_text("late").await, Err(SendError::NotOpen));
        // A second close does nothing.
        client.close().await.unwrap();
    });
}

/// RFC 6455 5.5: the reason has at most 123 bytes, and is cut between two characters.
#[test]
fn a_code_and_a_reason() {
    on_tokio(async {
        let peer = Peer::listen().await;
        let (client, _events, mut side) = peer.connected(peer.client()).await;
        assert_eq!(client.begin_close(CloseCode(1005), ""), Err(ClientCloseError::Code(CloseCode::NO_STATUS)));
        assert_eq!(client.close_with(CloseCode(5000), "").await, Err(ClientCloseError::Code(CloseCode(5000))));
        assert!(client.is_open());
        let close = async { client.close_with(CloseCode(4000), &"é".repeat(100)).await };
        let (closed, ()) = tokio::join!(close, answer_close!(side, 4000, &"é".repeat(61)));
        closed.unwrap();
    });
}

/// Accepted messages go before the close frame, and nothing goes after it.
#[test]
fn accepted_messages_go_before_the_close() {
    on_tokio(async {
        let peer = Peer::listen().await;
        let (client, _events, mut side) = peer.connected(peer.client()).await;
        for number in 0..100 {
            client.try_send_text(number.to_string()).unwrap();
        }
        client.begin_close(CloseCode::NORMAL, "done").unwrap();
        assert!(!client.is_open());
        assert_eq!(client.try_send_text("late"), Err(SendError::NotOpen));
        for number in 0..100 {
            side.expect_text(&number.to_string()).await;
        }
        tokio::join!(client.closed(), answer_close!(side, 1000, "done"));
    });
}

#[test]
fn the_last_handle_closes() {
    on_tokio(async {
        let peer = Peer::listen().await;
        let (client, mut events, mut side) = peer.connected(peer.client()).await;
        let other = client.clone();
        drop(client);
        other.send_text("still there").await.unwrap();
        drop(other);
        side.expect_text("still there").await;
        answer_close!(side, 1001, "").await;
        assert_cause(&expect_closed(&mut events).await, 1001, true, |cause| matches!(cause, Cause::Dropped));
        assert!(events.next().await.is_none());
    });
}

/// RFC 6455 5.5.1: the client answers with the server's code.
#[test]
fn the_server_closes() {
    on_tokio(async {
        let peer = Peer::listen().await;
        let (client, mut events, mut side) = peer.connected(peer.client()).await;
        side.send_text("before").await;
        side.send_close(4001, "a reason ⚡").await;
        side.expect_close(4001, "").await;
        side.end().await;
        expect_text(&mut events, "before").await;
        let closed = expect_closed(&mut events).await;
        assert_eq!(closed.reason, "a reason ⚡");
        assert_cause(&closed, 4001, true, |cause| matches!(cause, Cause::Server));
        client.closed().await;
        assert!(!client.is_open());
    });
}

/// RFC 6455 7.1.5.
#[test]
fn the_server_closes_without_a_code() {
    on_tokio(async {
        let peer = Peer::listen().await;
        let (_client, mut events, mut side) = peer.connected(peer.client()).await;
        side.send(OpCode::Close, true, b"").await;
        side.expect(OpCode::Close, b"").await;
        side.end().await;
        assert_cause(&expect_closed(&mut events).await, 1005, true, |cause| matches!(cause, Cause::Server));
    });
}

/// Messages that the client accepted before the server's close arrived are sent before the answer to this close.
#[test]
fn the_answer_to_a_close_goes_last() {
    on_tokio(async {
        let peer = Peer::listen().await;
        let client = peer.client().build_with(|client, event| {
            if let ClientEvent::Text(text) = event {
                client.try_send_text(text).unwrap();
            }
        });
        let mut side = peer.connect(client.as_ref().unwrap()).await;
        side.raw(b"\x81\x03one\x81\x03two\x88\x02\x03\xe8").await;
        side.expect_text("one").await;
        side.expect_text("two").await;
        side.expect_close(1000, "").await;
        side.end().await;
    });
}

#[test]
fn the_connection_just_ends() {
    on_tokio(async {
        let peer = Peer::listen().await;
        let (_client, mut events, side) = peer.connected(peer.client()).await;
        drop(side);
        assert_cause(&expect_closed(&mut events).await, 1006, false, |cause| matches!(cause, Cause::EndOfStream));
        let (_client, mut events, mut side) = peer.connected(peer.client()).await;
        side.raw(b"\x81\x05Hel").await;
        drop(side);
        assert_cause(&expect_closed(&mut events).await, 1006, false, |cause| matches!(cause, Cause::EndOfStream));
        let (_client, mut events, side) = peer.connected(peer.client()).await;
        side.stream.set_zero_linger().unwrap();
        drop(side);
        assert_cause(&expect_closed(&mut events).await, 1006, false, |cause| matches!(cause, Cause::Io(_)));
    });
}

/// RFC 6455 7.1.1: a client does not wait forever for the answer to its close.
#[test]
fn a_close_that_is_not_answered() {
    on_tokio(async {
        let peer = Peer::listen().await;
        let (client, mut events, mut side) = peer.connected(peer.client().close_timeout(SOON)).await;
        client.close().await.unwrap();
        assert_cause(&expect_closed(&mut events).await, 1006, false, |cause| matches!(cause, Cause::CloseTimeout));
        side.expect_close(1001, "").await;
        side.expect_end().await;
        // After a clean closing handshake the client does not wait forever for the end of the socket either.
        let (_client, mut events, mut side) = peer.connected(peer.client().close_timeout(SOON)).await;
        side.send_close(1000, "").await;
        assert_cause(&expect_closed(&mut events).await, 1000, true, |cause| matches!(cause, Cause::Server));
        side.expect_close(1000, "").await;
        side.expect_end().await;
    });
}

/// RFC 6455 7.1.1: the server ends the socket first; the client's end comes after it.
#[test]
fn the_server_ends_the_socket() {
    on_tokio(async {
        let peer = Peer::listen().await;
        let (_client, mut events, mut side) = peer.connected(peer.client()).await;
        side.send_close(1000, "").await;
        side.expect_close(1000, "").await;
        assert!(tokio::time::timeout(SOON, side.expect_end()).await.is_err(), "the client ended the socket first");
        assert!(
            tokio::time::timeout(Duration::ZERO, events.next()).await.is_err(),
            "the connection must not have ended"
        );
        side.end().await;
        expect_closed(&mut events).await;
    });
}

#[test]
fn an_idle_timeout() {
    on_tokio(async {
        let peer = Peer::listen().await;
        let builder = peer.client().ping_interval(SOON / 4).idle_timeout(SOON * 5);
        let (client, mut events, mut side) = peer.connected(builder).await;
        let (opcode, payload) = side.frame().await;
        assert_eq!(opcode, OpCode::Ping);
        side.send(OpCode::Pong, true, &payload).await;
        assert_eq!(side.frame().await.0, OpCode::Ping);
        // The pong to the keep-alive's ping is no event. The idle timeout after it is.
        assert_cause(&expect_closed(&mut events).await, 1006, false, |cause| matches!(cause, Cause::Idle));
        assert_eq!(client.stats().pongs_received, 1);
        assert!(client.stats().pings_sent >= 2, "{:?}", client.stats());
    });
}

/// RFC 6455 7.1.7, with the code of RFC 6455 7.4.1. Messages before the violation are delivered.
#[test]
fn violations() {
    on_tokio(async {
        let message =
            MessageLimits { frame_bytes_max: 100, message_bytes_max: 150, fragments_max: 3, ..MessageLimits::DEFAULT };
        let limits = ClientLimits { message, ..ClientLimits::default() };
        let check = async |bytes: &[u8], error: ProtocolError| {
            let peer = Peer::listen().await;
            let (_client, mut events, mut side) = peer.connected(peer.client().limits(limits)).await;
            side.raw(&[b"\x81\x06before", bytes].concat()).await;
            side.expect_close(error.close_code().0, &error.to_string()).await;
            side.end().await;
            expect_text(&mut events, "before").await;
            let is_cause = |cause: &Cause| matches!(cause, Cause::Protocol(found) if *found == error);
            assert_cause(&expect_closed(&mut events).await, 1006, false, is_cause);
        };
        check(b"\xc1\x00", ProtocolError::ReservedBits).await;
        check(b"\x83\x00", ProtocolError::ReservedOpCode(3)).await;
        check(b"\x81\x85abcdHello", ProtocolError::MaskUnexpected).await;
        check(b"\x81\x7e\x00\x05Hello", ProtocolError::LengthNotMinimal).await;
        check(b"\x80\x00", ProtocolError::NothingToContinue).await;
        check(b"\x01\x01a\x81\x01b", ProtocolError::MessageInterrupted).await;
        check(b"\x89\x7e\x00\x7e", ProtocolError::ControlTooLong).await;
        check(b"\x88\x01\x03", ProtocolError::CloseTooShort).await;
        check(b"\x88\x02\x03\xee", ProtocolError::CloseCodeInvalid(1006)).await;
        check(b"\x88\x03\x03\xe8\xff", ProtocolError::CloseReasonNotUtf8).await;
        check(b"\x81\x02\xff", ProtocolError::InvalidUtf8).await;
        check(b"\x01\x01\xe2\x80\x01A", ProtocolError::InvalidUtf8).await;
        check(b"\x82\x65", ProtocolError::FrameTooBig).await;
        check(&[b"\x02\x64", &[0; 100][..], b"\x80\x33"].concat(), ProtocolError::MessageTooBig).await;
        check(b"\x02\x00\x00\x00\x00\x00\x80\x00", ProtocolError::TooManyFragments).await;
    });
}

/// Frames and messages at the limits are no violations.
#[test]
fn no_violations() {
    on_tokio(async {
        let message =
            MessageLimits { frame_bytes_max: 100, message_bytes_max: 150, fragments_max: 3, ..MessageLimits::DEFAULT };
        let peer = Peer::listen().await;
        let builder = peer.client().limits(ClientLimits { message, ..ClientLimits::default() });
        let (_client, mut events, mut side) = peer.connected(builder).await;
        side.send_text(&"x".repeat(100)).await;
        side.send(OpCode::Text, false, &[b'a'; 100]).await;
        side.send(OpCode::Ping, true, &[0; 125]).await;
        side.send(OpCode::Continuation, false, &[b'a'; 50]).await;
        side.send(OpCode::Continuation, true, b"").await;
        expect_text(&mut events, &"x".repeat(100)).await;
        assert!(matches!(next(&mut events).await, ClientEvent::Ping(payload) if payload.len() == 125));
        expect_text(&mut events, &"a".repeat(150)).await;
    });
}

/// A close succeeds while the caller takes no events.
#[test]
fn a_close_with_a_full_queue_of_events() {
    on_tokio(async {
        let peer = Peer::listen().await;
        let limits = ClientLimits { events_max: 1, ..ClientLimits::default() };
        let (client, mut events, mut side) = peer.connected(peer.client().limits(limits)).await;
        for number in 0..10 {
            side.send_text(&number.to_string()).await;
        }
        let (closed, ()) = tokio::join!(client.close(), answer_close!(side, 1001, ""));
        closed.unwrap();
        expect_text(&mut events, "0").await;
        // One event may have waited for room before the close.
        let closed = match next(&mut events).await {
            ClientEvent::Closed(closed) => closed,
            _ => expect_closed(&mut events).await,
        };
        assert_cause(&closed, 1001, true, |cause| matches!(cause, Cause::Caller));
        assert!(client.stats().events_dropped >= 8, "{:?}", client.stats());
    });
}

/// Dropping `Events` ends neither the connection nor the answers to pings.
#[test]
fn dropped_events() {
    on_tokio(async {
        let peer = Peer::listen().await;
        let (client, events, mut side) = peer.connected(peer.client()).await;
        drop(events);
        side.send_text("to nobody").await;
        side.send(OpCode::Ping, true, b"there?").await;
        side.expect(OpCode::Pong, b"there?").await;
        client.send_text("from somebody").await.unwrap();
        side.expect_text("from somebody").await;
    });
}

#[test]
fn a_callback_that_panics() {
    on_tokio(async {
        let peer = Peer::listen().await;
        let client =
            peer.client().build_with(|_, event| assert!(!matches!(event, ClientEvent::Text(_)), "as asked for"));
        let client = client.unwrap();
        let mut side = peer.connect(&client).await;
        side.send_text("panic").await;
        client.closed().await;
        assert!(!client.is_open());
        side.expect_end().await;
        let mut side = peer.connect(&client).await;
        client.send_text("again").await.unwrap();
        side.expect_text("again").await;
    });
}

#[test]
fn a_callback_gets_the_closed_event() {
    on_tokio(async {
        let peer = Peer::listen().await;
        let (tell, told) = oneshot::channel();
        let tell = Arc::new(Mutex::new(Some(tell)));
        let client = peer.client().build_with(move |client, event| match event {
            ClientEvent::Text(_) => client.begin_close(CloseCode::NORMAL, "enough").unwrap(),
            ClientEvent::Closed(closed) => drop(tell.lock().unwrap().take().map(|tell| tell.send(closed))),
            _ => {}
        });
        let client = client.unwrap();
        let mut side = peer.connect(&client).await;
        side.send_text("go").await;
        answer_close!(side, 1000, "enough").await;
        assert_cause(&told.await.unwrap(), 1000, true, |cause| matches!(cause, Cause::Caller));
        client.closed().await;
    });
}

/// The handle of a callback can outlive the caller's handles. Then it opens no connection, since no drop would close
/// that connection.
#[test]
fn a_callbacks_handle_does_not_connect() {
    on_tokio(async {
        let peer = Peer::listen().await;
        let (lend, lent) = oneshot::channel();
        let mut lend = Some(lend);
        let client = peer.client().build_with(move |client, _| {
            lend.take().map(|lend| lend.send(client.clone()));
        });
        let client = client.unwrap();
        let mut side = peer.connect(&client).await;
        side.send_text("lend").await;
        let lent = lent.await.unwrap();
        lent.send_text("lent").await.unwrap();
        side.expect_text("lent").await;
        drop(client);
        answer_close!(side, 1001, "").await;
        lent.closed().await;
        assert!(matches!(lent.connect().await, Err(ConnectError::Cancelled)));
        lent.closed().await;
    });
}

#[test]
fn with_the_hub() {
    on_tokio(async {
        let mut server = Server::start(&[]);
        let (client, mut events) = super::client(&format!("ws://{}/t/x", server.address())).build().unwrap();
        client.connect().await.unwrap();
        client.close_with(CloseCode(3001), "bye").await.unwrap();
        assert_cause(&expect_closed(&mut events).await, 3001, true, |cause| matches!(cause, Cause::Caller));
        client.connect().await.unwrap();
        let ended = tokio::task::spawn_blocking(move || server.end());
        assert_cause(&expect_closed(&mut events).await, 1012, true, |cause| matches!(cause, Cause::Server));
        ended.await.unwrap();
    });
}
