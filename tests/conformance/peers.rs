//! The hub with another WebSocket client, fastwebsockets, with hyper's HTTP, on tokio.

use std::{future::Future, time::Duration};

use bytes::Bytes;
use fastwebsockets::{FragmentCollector, Frame, OpCode, Payload, WebSocketError, handshake};
use http_body_util::Empty;
use hyper::{
    Request,
    header::{CONNECTION, HOST, UPGRADE},
    upgrade::Upgraded,
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use crate::support::{DEADLINE, Server, pattern, text, text_pattern};

type Peer = FragmentCollector<TokioIo<Upgraded>>;

#[test]
fn peers_talk_through_the_hub() {
    on_tokio(async {
        let server = Server::start(&[]);
        let (mut one, mut other) = (connect(&server, "/t/x").await, connect(&server, "/t/x").await);
        send(&mut one, OpCode::Text, "é⚡".as_bytes()).await;
        send(&mut one, OpCode::Binary, &[0xff, 0, 1]).await;
        expect(&mut other, OpCode::Text, "é⚡".as_bytes()).await;
        expect(&mut other, OpCode::Binary, &[0xff, 0, 1]).await;
        send(&mut other, OpCode::Text, b"and back").await;
        expect(&mut one, OpCode::Text, b"and back").await;
        leave(one, 1000).await;
        leave(other, 4001).await;
    });
}

#[test]
fn a_peer_and_our_own_client() {
    on_tokio(async {
        let server = Server::start(&[]);
        let mut peer = connect(&server, "/t/x?echo=true").await;
        let mut own = server.connect("/t/x");
        let own = tokio::task::spawn_blocking(move || {
            own.send_text("from ours");
            own.expect(text("from theirs"));
            own.leave();
        });
        expect(&mut peer, OpCode::Text, b"from ours").await;
        send(&mut peer, OpCode::Text, b"from theirs").await;
        expect(&mut peer, OpCode::Text, b"from theirs").await;
        own.await.unwrap();
    });
}

/// Tests sizes around those at which the encoding of the length, or the way through the hub, changes.
#[test]
fn messages_of_every_size() {
    on_tokio(async {
        let server = Server::start(&[]);
        let mut peer = connect(&server, "/t/x?echo=true").await;
        for size in [0, 1, 125, 126, 65_535, 65_536, (16 << 10) - 1, 16 << 10, 100_000, (1 << 20) - 1, 1 << 20] {
            send(&mut peer, OpCode::Binary, &pattern(size, size)).await;
            expect(&mut peer, OpCode::Binary, &pattern(size, size)).await;
            send(&mut peer, OpCode::Text, text_pattern(size).as_bytes()).await;
            expect(&mut peer, OpCode::Text, text_pattern(size).as_bytes()).await;
        }
        leave(peer, 1000).await;
    });
}

/// RFC 6455 5.4: the peer sends fragments with a ping between them, and gets the pong.
#[test]
fn fragments_and_pings() {
    on_tokio(async {
        let server = Server::start(&[]);
        let (mut one, mut other) = (connect(&server, "/t/x").await, connect(&server, "/t/x").await);
        let frame = |fin, opcode, payload: &'static [u8]| Frame::new(fin, opcode, None, Payload::Borrowed(payload));
        one.write_frame(frame(false, OpCode::Text, b"one, ")).await.unwrap();
        one.write_frame(frame(false, OpCode::Continuation, b"two, ")).await.unwrap();
        one.write_frame(frame(true, OpCode::Ping, b"there?")).await.unwrap();
        one.write_frame(frame(true, OpCode::Continuation, b"three")).await.unwrap();
        expect(&mut one, OpCode::Pong, b"there?").await;
        expect(&mut other, OpCode::Text, b"one, two, three").await;
    });
}

#[test]
fn a_message_too_large_closes_with_1009() {
    on_tokio(async {
        let server = Server::start(&["--max-message", "1000"]);
        let mut peer = connect(&server, "/t/x").await;
        send(&mut peer, OpCode::Binary, &[0; 1_001]).await;
        let mut payload = 1009_u16.to_be_bytes().to_vec();
        payload.extend_from_slice(b"a message is larger than 1000 bytes");
        expect(&mut peer, OpCode::Close, &payload).await;
    });
}

#[test]
fn a_refusal_is_http() {
    on_tokio(async {
        let server = Server::start(&[]);
        match open(&server, "/nothing").await {
            Err(WebSocketError::InvalidStatusCode(status)) => assert_eq!(status, 404),
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("a path without a route must be refused"),
        }
    });
}

/// Twenty peers on one thread receive every message in order.
#[test]
fn a_broadcast() {
    const MESSAGES: u32 = 500;
    on_tokio(async {
        let server = Server::start(&[]);
        let mut readers = Vec::new();
        for _ in 0..20 {
            let mut peer = connect(&server, "/t/x?mode=sub").await;
            readers.push(tokio::spawn(async move {
                for number in 0..MESSAGES {
                    expect(&mut peer, OpCode::Binary, &number.to_be_bytes()).await;
                }
                leave(peer, 1000).await;
            }));
        }
        let mut publisher = connect(&server, "/t/x?mode=pub").await;
        for number in 0..MESSAGES {
            send(&mut publisher, OpCode::Binary, &number.to_be_bytes()).await;
        }
        for reader in readers {
            reader.await.unwrap();
        }
        leave(publisher, 1000).await;
    });
}

fn on_tokio(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { timeout(DEADLINE, test).await.expect("the test has not ended in time") });
    runtime.shutdown_timeout(Duration::ZERO);
}

async fn connect(server: &Server, target: &str) -> Peer {
    open(server, target).await.unwrap_or_else(|error| panic!("{target}: {error}"))
}

async fn open(server: &Server, target: &str) -> Result<Peer, WebSocketError> {
    let stream = TcpStream::connect(server.address()).await?;
    stream.set_nodelay(true)?;
    let request = Request::get(target)
        .header(HOST, server.address().to_string())
        .header(UPGRADE, "websocket")
        .header(CONNECTION, "upgrade")
        .header("Sec-WebSocket-Key", handshake::generate_key())
        .header("Sec-WebSocket-Version", "13")
        .body(Empty::<Bytes>::new())
        .unwrap();
    let (websocket, _) = handshake::client(&OnTokio, request, stream).await?;
    Ok(FragmentCollector::new(websocket))
}

/// Runs the tasks of hyper's side of the opening handshake.
struct OnTokio;

impl<F> hyper::rt::Executor<F> for OnTokio
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        tokio::spawn(future);
    }
}

async fn send(peer: &mut Peer, opcode: OpCode, payload: &[u8]) {
    peer.write_frame(Frame::new(true, opcode, None, Payload::Borrowed(payload))).await.unwrap();
}

async fn expect(peer: &mut Peer, opcode: OpCode, payload: &[u8]) {
    let frame = peer.read_frame().await.unwrap();
    assert_eq!(frame.opcode, opcode);
    assert!(&*frame.payload == payload, "{} bytes came instead of {}", frame.payload.len(), payload.len());
}

/// RFC 6455 5.5.1: the server answers with the same code.
async fn leave(mut peer: Peer, code: u16) {
    peer.write_frame(Frame::close(code, b"bye")).await.unwrap();
    expect(&mut peer, OpCode::Close, &code.to_be_bytes()).await;
}
