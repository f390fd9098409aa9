//! A blocking client over `ringhub::proto`.

use std::{
    fmt,
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use bytes::BytesMut;
use ringhub::proto::{
    ClientHandshake, CloseCode, Event, FrameHeader, Input, MessageLimits, MessageType, OpCode, ResponseHead, Role,
    State, Tick, WebSocket, encode_masked,
};

use super::{
    DEADLINE, dial,
    http::{Response, read_response},
};

/// One connection. Each call that receives also answers pings and close frames (RFC 6455 5.5).
pub(crate) struct Client {
    stream: TcpStream,
    websocket: WebSocket,
    input: BytesMut,
    answers: bool,
    head: ResponseHead,
    protocol: Option<String>,
    /// The time in the goodbye of a server that leaves, in milliseconds.
    pub(crate) retry_after_ms: Option<u32>,
}

/// A frame or an end that came from the server.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Received {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    /// A close frame: its code if it had one, and its reason.
    Close(Option<u16>, String),
    /// The orderly end of the connection (FIN).
    End,
    /// The end of the connection by a reset.
    Reset,
}

pub(crate) fn text(text: &str) -> Received {
    Received::Text(text.into())
}

pub(crate) fn binary(bytes: &[u8]) -> Received {
    Received::Binary(bytes.into())
}

/// The reason of the goodbye of a server that leaves. [`Client::receive`] takes the time out of the hint, since that is
/// random; [`Client::retry_after_ms`] has the time.
pub(crate) const RESTART: &str = r#"{"retry_after_ms":...}"#;

pub(crate) fn close(code: u16, reason: &str) -> Received {
    Received::Close(Some(code), reason.into())
}

impl Client {
    /// Opens a connection that the server must accept.
    pub(crate) fn connect(address: SocketAddr, target: &str) -> Client {
        Self::open(dial(address), target, &[]).unwrap_or_else(|response| panic!("{target}: {response:?}"))
    }

    /// Opens a connection on a stream. One write sends the opening request and, after it, `behind`.
    pub(crate) fn open(stream: TcpStream, target: &str, behind: &[u8]) -> Result<Client, Response> {
        Self::handshake(stream, target, &[], &[], behind).expect("an answer to the opening request")
    }

    /// Opens a connection on a stream with subprotocols and header lines.
    pub(crate) fn open_with(
        stream: TcpStream,
        target: &str,
        protocols: &[&str],
        headers: &[(&str, &str)],
    ) -> Result<Client, Response> {
        Self::handshake(stream, target, protocols, headers, &[]).expect("an answer to the opening request")
    }

    /// Opens a connection as soon as the server has room; until then the server may refuse or drop it.
    pub(crate) fn open_when_there_is_room(address: SocketAddr, target: &str) -> Client {
        let begin = Instant::now();
        loop {
            if let Ok(Ok(client)) = Self::handshake(dial(address), target, &[], &[], &[]) {
                return client;
            }
            assert!(begin.elapsed() < DEADLINE, "the server has no room");
        }
    }

    fn handshake(
        mut stream: TcpStream,
        target: &str,
        protocols: &[&str],
        headers: &[(&str, &str)],
        behind: &[u8],
    ) -> io::Result<Result<Client, Response>> {
        let mut handshake = ClientHandshake::new(unique());
        let host = stream.peer_addr()?.to_string();
        let mut request = handshake.request(&host, target, protocols, headers).to_vec();
        request.extend_from_slice(behind);
        stream.write_all(&request)?;
        let mut input = BytesMut::new();
        let head = loop {
            let mut chunk = [0; 1_024];
            let count = stream.read(&mut chunk)?;
            if count == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            input.extend_from_slice(&chunk[..count]);
            if let Some((head, length)) = ResponseHead::decode(&input).expect("the answer is HTTP") {
                if head.status() != 101 {
                    return Ok(Err(read_response(&mut stream, &input, true)));
                }
                drop(input.split_to(length));
                break head;
            }
        };
        let protocol = handshake.check(&head).expect("the answer opens a WebSocket");
        let websocket = WebSocket::new(Role::Client { masking_seed: unique() }, Tick(0));
        Ok(Ok(Client { stream, websocket, input, answers: true, head, protocol, retry_after_ms: None }))
    }

    /// Makes the client answer no more pings or close frames.
    pub(crate) fn never_answer(&mut self) {
        self.answers = false;
    }

    /// Returns the subprotocol that the server has chosen.
    pub(crate) fn protocol(&self) -> Option<&str> {
        self.protocol.as_deref()
    }

    /// Returns the value of a header line of the opening answer.
    #[allow(dead_code, reason = "only handlers add such lines")]
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.headers().get(name).map(|value| str::from_utf8(value).unwrap())
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub(crate) fn into_stream(self) -> TcpStream {
        self.stream
    }

    pub(crate) fn send_text(&mut self, text: &str) {
        self.send(OpCode::Text, true, text.as_bytes());
    }

    pub(crate) fn send_binary(&mut self, bytes: &[u8]) {
        self.send(OpCode::Binary, true, bytes);
    }

    /// Sends one frame.
    pub(crate) fn send(&mut self, opcode: OpCode, fin: bool, payload: &[u8]) {
        let mut out = Vec::new();
        assert!(self.websocket.send(opcode, fin.into(), payload, &mut out), "the connection is closing");
        self.send_raw(&out);
    }

    /// Sends bytes as they are.
    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server takes what is sent");
    }

    /// Starts the closing handshake.
    pub(crate) fn send_close(&mut self, code: u16, reason: &str) {
        let mut out = Vec::new();
        self.websocket.close(Tick(0), CloseCode(code), reason, &mut out);
        self.send_raw(&out);
    }

    /// Waits for the next frame or end. After a close frame only an end may come.
    pub(crate) fn receive(&mut self) -> Received {
        let mut chunk = vec![0; 64 * 1_024];
        loop {
            while let Some(frame) = self.next_frame() {
                if let Some(received) = self.take(frame) {
                    return received;
                }
            }
            match self.stream.read(&mut chunk) {
                Ok(0) if self.input.is_empty() => return Received::End,
                Ok(0) => panic!("the connection ended within a frame"),
                Ok(count) => self.input.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Received::Reset,
                // A stop and a continue of the process interrupt a read with a timeout (signal(7)).
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("nothing arrives"),
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Takes one whole frame from the bytes that have arrived.
    fn next_frame(&mut self) -> Option<BytesMut> {
        let (header, length) = FrameHeader::decode(&self.input).expect("the server sends frames")?;
        let length = length + header.payload_len as usize;
        (self.input.len() >= length).then(|| self.input.split_to(length))
    }

    fn take(&mut self, frame: BytesMut) -> Option<Received> {
        assert!(self.websocket.state() != State::Closed, "something follows the close frame");
        let mut input = Input::new(frame);
        let mut replies = Vec::new();
        let event = match self.websocket.receive(Tick(0), &mut input, &LIMITS, &mut replies) {
            Ok(event) => event?,
            Err(error) => panic!("the server broke the protocol: {error}"),
        };
        let received = match event {
            Event::Message(message) => match message.message_type() {
                MessageType::Text => Received::Text(message.as_text().unwrap().into()),
                MessageType::Binary => Received::Binary(message.payload().into()),
            },
            Event::Fragment(_) => unreachable!("whole messages were asked for"),
            Event::Ping(payload) => Received::Ping(payload.into()),
            Event::Pong(payload) => Received::Pong(payload.into()),
            Event::Close(frame) => {
                self.retry_after_ms = retry_after_ms(frame.reason);
                let reason = if self.retry_after_ms.is_some() { RESTART } else { frame.reason };
                Received::Close(frame.code.map(|code| code.0), reason.into())
            }
        };
        if self.answers && !replies.is_empty() {
            // The write fails if the server has ended the connection, which is allowed.
            drop(self.stream.write_all(&replies));
        }
        Some(received)
    }

    /// Expects the next frame or end to be `expected`.
    #[track_caller]
    pub(crate) fn expect(&mut self, expected: Received) {
        let received = self.receive();
        assert!(received == expected, "{received:?} came instead of {expected:?}");
    }

    /// Expects that nothing is on its way to this client: the answer to a ping comes next.
    #[track_caller]
    pub(crate) fn expect_nothing(&mut self) {
        let payload = unique();
        self.send(OpCode::Ping, true, &payload);
        self.expect(Received::Pong(payload.into()));
    }

    /// Expects a close frame with this code and reason, then the end of the connection.
    #[track_caller]
    pub(crate) fn expect_close(&mut self, code: u16, reason: &str) {
        self.expect(close(code, reason));
        self.expect(Received::End);
    }

    /// Ends the connection with a closing handshake.
    #[track_caller]
    pub(crate) fn leave(mut self) {
        self.send_close(1000, "bye");
        self.expect_close(1000, "");
    }
}

/// Returns the time in the goodbye of a server that leaves.
fn retry_after_ms(reason: &str) -> Option<u32> {
    reason.strip_prefix(r#"{"retry_after_ms":"#)?.strip_suffix('}')?.parse().ok()
}

/// Shows at most 80 bytes of a payload, since some payloads have a megabyte.
impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = |f: &mut fmt::Formatter<'_>, name: &str, bytes: &[u8]| {
            let begin = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]);
            write!(f, "{name}({} bytes: {begin:?})", bytes.len())
        };
        match self {
            Received::Text(text) => bytes(f, "Text", text.as_bytes()),
            Received::Binary(payload) => bytes(f, "Binary", payload),
            Received::Ping(payload) => bytes(f, "Ping", payload),
            Received::Pong(payload) => bytes(f, "Pong", payload),
            Received::Close(code, reason) => write!(f, "Close({code:?}, {reason:?})"),
            Received::End => f.write_str("End"),
            Received::Reset => f.write_str("Reset"),
        }
    }
}

/// Returns a client's frame as bytes.
pub(crate) fn frame(opcode: OpCode, fin: bool, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_masked(opcode, fin.into(), payload, [0x37, 0xfa, 0x21, 0x3d], &mut out);
    out
}

/// Returns sixteen bytes that no other call in this process returns. Tests need no better randomness.
fn unique() -> [u8; 16] {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).to_be_bytes()
}

/// Tests of the server's limits must see the server's refusal, so this client allows more than the server sends.
const LIMITS: MessageLimits = MessageLimits {
    frame_bytes_max: 64 << 20,
    message_bytes_max: 64 << 20,
    fragments_max: u32::MAX,
    ..MessageLimits::DEFAULT
};
