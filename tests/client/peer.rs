//! `Peer`: a server that a test controls, down to single bytes.

use std::net::SocketAddr;

use bytes::BytesMut;
use ringhub::proto::{CloseCode, CloseFrame, FrameHeader, OpCode, RequestHead, Upgrade, encode_frame};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{Client, ClientBuilder, Events, client};

pub(crate) struct Peer {
    listener: TcpListener,
}

impl Peer {
    pub(crate) async fn listen() -> Peer {
        Peer { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    pub(crate) fn url(&self) -> String {
        format!("ws://{}/t/x", self.address())
    }

    /// Returns a builder for a client of this peer.
    pub(crate) fn client(&self) -> ClientBuilder {
        client(&self.url())
    }

    pub(crate) async fn accept(&self) -> Side<TcpStream> {
        Side::new(self.listener.accept().await.unwrap().0)
    }

    /// Accepts a connection and its opening handshake.
    pub(crate) async fn open(&self) -> Side<TcpStream> {
        let mut side = self.accept().await;
        side.upgrade().await;
        side
    }

    /// Connects a client to this peer, and returns both sides of the connection.
    pub(crate) async fn connected(&self, builder: ClientBuilder) -> (Client, Events, Side<TcpStream>) {
        let (client, events) = builder.build().unwrap();
        let side = self.connect(&client).await;
        (client, events, side)
    }

    pub(crate) async fn connect(&self, client: &Client) -> Side<TcpStream> {
        let (opened, side) = tokio::join!(client.connect(), self.open());
        opened.unwrap();
        assert!(client.is_open());
        side
    }
}

/// The server's side of one connection.
pub(crate) struct Side<S> {
    pub(crate) stream: S,
    received: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Side<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, received: BytesMut::new() }
    }

    pub(crate) async fn request(&mut self) -> RequestHead {
        loop {
            if let Some((head, length)) = RequestHead::decode(&self.received).unwrap() {
                drop(self.received.split_to(length));
                return head;
            }
            assert_ne!(self.stream.read_buf(&mut self.received).await.unwrap(), 0, "the connection has ended");
        }
    }

    /// Reads an acceptable opening request and answers it with 101. Returns the request.
    pub(crate) async fn upgrade(&mut self) -> RequestHead {
        self.upgrade_with(None, b"").await
    }

    /// Answers with 101 and a subprotocol, and with `behind` in the same write.
    pub(crate) async fn upgrade_with(&mut self, protocol: Option<&str>, behind: &[u8]) -> RequestHead {
        let head = self.request().await;
        let mut answer = Upgrade::from_request(&head).unwrap().response(protocol, &[("X-From", "peer")]).to_vec();
        answer.extend_from_slice(behind);
        self.raw(&answer).await;
        head
    }

    pub(crate) async fn raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    pub(crate) async fn send(&mut self, opcode: OpCode, fin: bool, payload: &[u8]) {
        let mut bytes = Vec::new();
        encode_frame(opcode, fin.into(), payload, &mut bytes);
        self.raw(&bytes).await;
    }

    pub(crate) async fn send_text(&mut self, text: &str) {
        self.send(OpCode::Text, true, text.as_bytes()).await;
    }

    pub(crate) async fn send_close(&mut self, code: u16, reason: &str) {
        let mut payload = Vec::new();
        CloseFrame { code: Some(CloseCode(code)), reason }.encode(&mut payload);
        self.send(OpCode::Close, true, &payload).await;
    }

    /// Returns the next frame, which must be masked, as all frames of a client.
    pub(crate) async fn frame(&mut self) -> (OpCode, Vec<u8>) {
        loop {
            if let Some((header, length)) = FrameHeader::decode(&self.received).unwrap() {
                let end = length + header.payload_len as usize;
                if self.received.len() >= end {
                    let frame = self.received.split_to(end);
                    let key = header.mask.expect("a client masks its frames");
                    assert!(header.fin.is_set() && header.rsv == 0, "{header:?}");
                    let payload = frame[length..].iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key);
                    return (header.opcode, payload.collect());
                }
            }
            assert_ne!(self.stream.read_buf(&mut self.received).await.unwrap(), 0, "the connection has ended");
        }
    }

    pub(crate) async fn expect(&mut self, opcode: OpCode, payload: &[u8]) {
        let (received, bytes) = self.frame().await;
        assert_eq!(received, opcode, "{bytes:?}");
        assert!(bytes == payload, "{} bytes instead of {}", bytes.len(), payload.len());
    }

    pub(crate) async fn expect_text(&mut self, text: &str) {
        self.expect(OpCode::Text, text.as_bytes()).await;
    }

    pub(crate) async fn expect_close(&mut self, code: u16, reason: &str) {
        let (opcode, payload) = self.frame().await;
        assert_eq!(opcode, OpCode::Close, "{payload:?}");
        let expected = CloseFrame { code: Some(CloseCode(code)), reason };
        assert_eq!(CloseFrame::parse(&payload), Ok(expected));
    }

    /// Ends the server's side, then waits for the end of the client's side.
    pub(crate) async fn end(mut self) {
        self.stream.shutdown().await.unwrap();
        self.expect_end().await;
    }

    pub(crate) async fn expect_end(&mut self) {
        let count = self.stream.read_buf(&mut self.received).await.unwrap();
        assert_eq!((count, self.received.len()), (0, 0), "{:?}", self.received);
    }
}
