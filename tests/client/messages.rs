//! Messages, pings and pongs of an open connection.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_core::Stream;
use ringhub::{
    client::{Client, ClientEvent, ClientLimits, Events, Operation, SendError},
    proto::OpCode,
};

use tokio::io::AsyncWriteExt;

use super::{
    client, expect_binary, expect_closed, expect_text, next, on_tokio,
    peer::{Peer, Side},
    support::{Server, pattern, text_pattern},
};

async fn echo(server: &Server) -> (Client, Events) {
    let (client, events) = client(&format!("ws://{}/t/x?echo=true", server.address())).build().unwrap();
    client.connect().await.unwrap();
    (client, events)
}

/// Tests sizes around those at which the encoding of the length, or the copying of the payload, changes.
#[test]
fn messages_of_every_size() {
    on_tokio(async {
        let server = Server::start(&[]);
        let (client, mut events) = echo(&server).await;
        for size in [0, 1, 125, 126, 1024, 1025, 65_535, 65_536, (16 << 10) - 1, 16 << 10, 1 << 20] {
            client.send_text(text_pattern(size)).await.unwrap();
            client.send_binary(pattern(size, size)).await.unwrap();
            expect_text(&mut events, &text_pattern(size)).await;
            expect_binary(&mut events, &pattern(size, size)).await;
        }
        client.close().await.unwrap();
    });
}

/// Several tasks on several threads share one handle.
#[test]
fn senders_on_all_threads() {
    const fn is_shared<T: Send + Sync + Clone>() {}
    const { is_shared::<Client>() };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    runtime.block_on(async {
        let server = Server::start(&[]);
        let (client, mut events) = echo(&server).await;
        for sender in 0..8_u32 {
            let client = client.clone();
            tokio::spawn(async move {
                for number in 0..200_u32 {
                    client.send_binary([sender.to_be_bytes(), number.to_be_bytes()].concat()).await.unwrap();
                }
            });
        }
        let mut expected = [0; 8];
        for _ in 0..8 * 200 {
            let ClientEvent::Binary(bytes) = next(&mut events).await else { panic!("something else") };
            let (sender, number) = bytes.split_at(4);
            let sender = u32::from_be_bytes(sender.try_into().unwrap()) as usize;
            assert_eq!(number, u32::to_be_bytes(expected[sender]), "of {sender}");
            expected[sender] += 1;
        }
        client.close().await.unwrap();
        let stats = client.stats();
        assert_eq!((stats.messages_accepted, stats.messages_sent, stats.messages_received), (1600, 1600, 1600));
        assert_eq!((stats.bytes_sent, stats.bytes_received, stats.connections), (12_800, 12_800, 1));
    });
}

/// RFC 6455 5.4, with fragments that split a character and have a ping between them.
#[test]
fn fragments() {
    on_tokio(async {
        let peer = Peer::listen().await;
        let (_client, mut events, mut side) = peer.connected(peer.client()).await;
        side.send(OpCode::Text, false, &"é⚡".as_bytes()[..3]).await;
        side.send(OpCode::Ping, true, b"\xff").await;
        side.send(OpCode::Continuation, false, b"").await;
        side.send(OpCode::Continuation, true, &"é⚡".as_bytes()[3..]).await;
        side.send(OpCode::Binary, false, &[1]).await;
        side.send(OpCode::Continuation, true, &[2]).await;
        side.expect(OpCode::Pong, b"\xff").await;
        assert!(matches!(next(&mut events).await, ClientEvent::Ping(payload) if payload[..] == [0xff]));
        expect_text(&mut events, "é⚡").await;
        expect_binary(&mut events, &[1, 2]).await;
    });
}

/// RFC 6455 5.5.2 and 5.5.3, in both directions.
#[test]
fn pings_and_pongs() {
    on_tokio(async {
        let peer = Peer::listen().await;
        let (client, mut events, mut side) = peer.connected(peer.client()).await;
        client.ping("there?").await.unwrap();
        side.expect(OpCode::Ping, b"there?").await;
        side.send(OpCode::Pong, true, b"there?").await;
        assert!(matches!(next(&mut events).await, ClientEvent::Pong(payload) if payload == "there?"));
        client.pong(vec![0; 125]).await.unwrap();
        side.expect(OpCode::Pong, &[0; 125]).await;
        assert_eq!(client.ping(vec![0; 126]).await, Err(SendError::ControlTooLong));
        assert_eq!(client.pong(vec![0; 126]).await, Err(SendError::ControlTooLong));
        let stats = client.stats();
        assert_eq!((stats.pings_sent, stats.pongs_sent, stats.pongs_received), (1, 1, 1));
    });
}

#[test]
fn pings_that_the_caller_answers() {
    on_tokio(async {
        let peer = Peer::listen().await;
        let (client, mut events, mut side) = peer.connected(peer.client().manual_pong()).await;
        side.send(OpCode::Ping, true, b"1").await;
        assert!(matches!(next(&mut events).await, ClientEvent::Ping(payload) if payload == "1"));
        client.pong("one").await.unwrap();
        side.expect(OpCode::Pong, b"one").await;
    });
}

#[test]
fn nothing_is_sent_without_a_connection() {
    on_tokio(async {
        let peer = Peer::listen().await;
        let (client, _events) = peer.client().build().unwrap();
        assert!(!client.is_open() && !client.is_reconnecting());
        assert_eq!(client.send_text("x").await, Err(SendError::NotOpen));
        assert_eq!(client.try_send_binary("x"), Err(SendError::NotOpen));
        assert_eq!(client.ping("x").await, Err(SendError::NotOpen));
        assert_eq!(client.flush().await, Err(SendError::NotOpen));
        client.close().await.unwrap();
        client.closed().await;
    });
}

/// If the server does not read, `send_` waits and `try_send_` fails. When the server reads again, every message
/// arrives.
#[test]
fn limits_of_the_send_queue() {
    on_tokio(async {
        let peer = Peer::listen().await;
        let limits = ClientLimits { queue_messages_max: 4, queue_bytes_max: 1 << 20, ..ClientLimits::default() };
        let (client, _events, mut side) = peer.connected(peer.client().limits(limits)).await;
        assert_eq!(client.send_binary(vec![0; (1 << 20) + 1]).await, Err(SendError::TooLarge));
        let mut sent = 0;
        loop {
            match client.try_send_binary(vec![0; 1 << 18]) {
                Ok(()) => sent += 1,
                Err(error) => {
                    assert_eq!(error, SendError::QueueFull);
                    // The queue is full. If this send waits for long, the socket is full too.
                    let waiting = client.send_binary(vec![0; 1 << 18]);
                    match tokio::time::timeout(Duration::from_millis(100), waiting).await {
                        Ok(done) => done.unwrap(),
                        Err(_) => break,
                    }
                    sent += 1;
                }
            }
        }
        let (flushed, ()) = tokio::join!(client.flush(), async {
            for _ in 0..sent {
                side.expect(OpCode::Binary, &[0; 1 << 18]).await;
            }
        });
        flushed.unwrap();
        assert_eq!(client.stats().messages_sent, sent);
    });
}

/// A sender that waits for room in bytes fails when the connection ends.
#[test]
fn a_sender_that_waits_for_bytes_at_the_end() {
    on_tokio(async {
        let peer = Peer::listen().await;
        let limits = ClientLimits { queue_bytes_max: 1 << 20, ..ClientLimits::default() };
        let (client, mut events, side) = peer.connected(peer.client().limits(limits)).await;
        let sending = async {
            loop {
                if let Err(error) = client.send_binary(vec![0; 1 << 20]).await {
                    return error;
                }
            }
        };
        let end = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            drop(side);
        };
        assert_eq!(tokio::join!(sending, end).0, SendError::NotOpen);
        expect_closed(&mut events).await;
    });
}

/// A sender that waits for room in messages fails when the connection ends.
#[test]
fn a_sender_that_waits_at_the_end() {
    on_tokio(async {
        let peer = Peer::listen().await;
        let limits = ClientLimits { queue_messages_max: 1, ..ClientLimits::default() };
        let (client, mut events, side) = peer.connected(peer.client().limits(limits)).await;
        let sending = async {
            loop {
                if let Err(error) = client.send_binary(vec![0; 1 << 20]).await {
                    return error;
                }
            }
        };
        let end = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            drop(side);
        };
        assert_eq!(tokio::join!(sending, end).0, SendError::NotOpen);
        expect_closed(&mut events).await;
    });
}

/// The client still sends while the server floods it, faster than the client reads.
#[test]
fn a_flood_does_not_hold_up_sends() {
    on_tokio(async {
        let peer = Peer::listen().await;
        let client = peer.client().build_with(|_, _| {}).unwrap();
        let side = peer.connect(&client).await;
        let (read, mut write) = tokio::io::split(side.stream);
        let flood = tokio::spawn(async move {
            let frames = b"\x82\x01x".repeat(100_000);
            while write.write_all(&frames).await.is_ok() {}
        });
        let mut answers = Side::new(tokio::io::join(read, tokio::io::sink()));
        for number in 0..20 {
            client.send_text(number.to_string()).await.unwrap();
            answers.expect_text(&number.to_string()).await;
        }
        flood.abort();
    });
}

/// A slow caller loses no message: the server waits.
#[test]
fn a_caller_that_is_slow() {
    on_tokio(async {
        let peer = Peer::listen().await;
        let limits = ClientLimits { events_max: 1, ..ClientLimits::default() };
        let (timeout, longer) = (Duration::from_millis(400), Duration::from_millis(600));
        let (client, mut events, mut side) = peer.connected(peer.client().limits(limits).idle_timeout(timeout)).await;
        side.send_text("first").await;
        side.send_text("second, for which there is no room").await;
        // The caller's pause does not count as the server's silence.
        tokio::time::sleep(longer).await;
        expect_text(&mut events, "first").await;
        expect_text(&mut events, "second, for which there is no room").await;
        client.send_text("still there").await.unwrap();
        side.expect_text("still there").await;
        let send = async {
            for number in 0..1000 {
                side.send_text(&number.to_string()).await;
            }
        };
        let take = async {
            for number in 0..1000 {
                expect_text(&mut events, &number.to_string()).await;
            }
        };
        tokio::join!(send, take);
    });
}

#[test]
fn events_are_a_stream() {
    on_tokio(async {
        let server = Server::start(&[]);
        let (client, mut events) = echo(&server).await;
        client.send_text("streamed").await.unwrap();
        let event = std::future::poll_fn(|context| Pin::new(&mut events).poll_next(context)).await;
        assert!(matches!(event, Some(ClientEvent::Text(text)) if text == "streamed"));
    });
}

#[test]
fn a_callback_gets_events_and_answers() {
    on_tokio(async {
        let peer = Peer::listen().await;
        let calls = Arc::new(AtomicU32::new(0));
        let counted = calls.clone();
        let client = peer.client().build_with(move |client, event| {
            counted.fetch_add(1, Ordering::Relaxed);
            if let ClientEvent::Text(text) = event {
                client.try_send_text(text.to_uppercase()).unwrap();
            }
        });
        let client = client.unwrap();
        let mut side = peer.connect(&client).await;
        for text in ["one", "two"] {
            side.send_text(text).await;
            side.expect_text(&text.to_uppercase()).await;
        }
        assert_eq!(calls.load(Ordering::Relaxed), 2);
    });
}

#[test]
fn slow_operations() {
    on_tokio(async {
        let peer = Peer::listen().await;
        let slow = Arc::new(Mutex::new(Vec::new()));
        let told = slow.clone();
        let builder = peer.client().on_slow(Duration::ZERO, move |slow| told.lock().unwrap().push(slow.operation));
        let (client, mut events, mut side) = peer.connected(builder).await;
        client.send_text("x").await.unwrap();
        side.expect_text("x").await;
        side.send_text("y").await;
        expect_text(&mut events, "y").await;
        assert_eq!(*slow.lock().unwrap(), [Operation::Connect, Operation::Send, Operation::Deliver]);
        assert_eq!(client.stats().slow_operations, 3);
        let builder = peer.client().on_slow(Duration::from_secs(3600), |slow| panic!("{slow:?}"));
        let (client, _events, mut side) = peer.connected(builder).await;
        client.send_text("x").await.unwrap();
        side.expect_text("x").await;
    });
}
