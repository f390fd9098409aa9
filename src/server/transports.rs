//! Tests of a whole server over real sockets whose clients have different transports: plain ones, and ones whose bytes
//! travel in records, on the same topics.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use bytes::{Buf as _, BytesMut};

use super::{Running, Server};
use crate::{
    documents::Documents,
    metrics::{Counter, Counters},
    proto::{Fin, FrameHeader, OpCode, encode_masked},
    sys::{
        BackendKind,
        transport::xor::{self, XorStream},
    },
};

/// Returns a server with two shards, the address of its plain clients, and that of the others.
fn start(change: impl FnOnce(&mut crate::config::Settings)) -> (Running, [SocketAddr; 2]) {
    start_on(None, change)
}

/// Does the same on a backend; without one, on the backend that the server chooses.
fn start_on(
    backend: Option<BackendKind>,
    change: impl FnOnce(&mut crate::config::Settings),
) -> (Running, [SocketAddr; 2]) {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let mut server = Server::builder().settings(change).listen([any, any]).shards(2).topics().build().unwrap();
    server.backend.kind = backend.unwrap_or(server.backend.kind);
    let addresses = [server.local_addrs()[0], server.local_addrs()[1]];
    xor::speak_at(addresses[1].port());
    (server.start().unwrap(), addresses)
}

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Sealed(XorStream),
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(stream) => stream.read(buffer),
            Stream::Sealed(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(stream) => stream.write(bytes),
            Stream::Sealed(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A client whose reads block.
#[derive(Debug)]
struct Client {
    stream: Stream,
    received: BytesMut,
}

impl Client {
    /// Connects by one of the two transports, each of which has its address. A slow client has a small receive buffer.
    fn connect(addresses: [SocketAddr; 2], transport: usize, is_slow: bool) -> Client {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        if is_slow {
            socket.set_recv_buffer_size(4_096).unwrap();
        }
        socket.connect(&addresses[transport].into()).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let stream = if transport == 0 { Stream::Plain(stream) } else { Stream::Sealed(XorStream::new(stream)) };
        Client { stream, received: BytesMut::new() }
    }

    /// Connects to a topic, and waits for the answer.
    fn open(addresses: [SocketAddr; 2], transport: usize, is_slow: bool, target: &str) -> Client {
        let mut client = Client::connect(addresses, transport, is_slow);
        client.stream.write_all(&upgrade(target)).unwrap();
        assert!(client.read_head().starts_with("HTTP/1.1 101 "));
        client
    }

    /// Reads more bytes. Returns whether there were any.
    fn read_more(&mut self) -> bool {
        let mut chunk = [0; 2_000];
        let count = self.stream.read(&mut chunk).expect("the server answers");
        self.received.extend_from_slice(&chunk[..count]);
        count > 0
    }

    /// Reads the head of an answer.
    fn read_head(&mut self) -> String {
        loop {
            if let Some(end) = self.received.windows(4).position(|window| window == b"\r\n\r\n") {
                return String::from_utf8(self.received.split_to(end + 4).to_vec()).unwrap();
            }
            assert!(self.read_more(), "the answer ends in its head");
        }
    }

    /// Reads an answer with a body.
    fn read_answer(&mut self) -> (String, String) {
        let head = self.read_head();
        let line =
            head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let length = line.unwrap_or(0);
        while self.received.len() < length {
            assert!(self.read_more(), "the answer ends in its body");
        }
        (head, String::from_utf8(self.received.split_to(length).to_vec()).unwrap())
    }

    fn send(&mut self, opcode: OpCode, payload: &[u8]) {
        let mut frame = Vec::new();
        encode_masked(opcode, Fin::Set, payload, [1, 2, 3, 4], &mut frame);
        self.stream.write_all(&frame).unwrap();
    }

    /// Reads the next frame; `None` at the end.
    fn next(&mut self) -> Option<(OpCode, BytesMut)> {
        loop {
            if let Some((header, length)) = FrameHeader::decode(&self.received).expect("a frame") {
                let payload = header.payload_len as usize;
                if self.received.len() >= length + payload {
                    self.received.advance(length);
                    return Some((header.opcode, self.received.split_to(payload)));
                }
            }
            if !self.read_more() {
                assert!(self.received.is_empty(), "the stream ends in a frame");
                return None;
            }
        }
    }

    fn next_text(&mut self) -> String {
        let (opcode, payload) = self.next().expect("a message");
        assert_eq!(opcode, OpCode::Text, "{payload:?}");
        String::from_utf8(payload.to_vec()).unwrap()
    }

    /// Checks that nothing follows but the goodbye of the transport, if it has one, and the end.
    fn expect_end(&mut self) {
        assert!(self.next().is_none(), "something follows");
        if let Stream::Sealed(stream) = &self.stream {
            assert!(stream.is_over, "the server ends without a goodbye");
        }
    }
}

fn upgrade(target: &str) -> Vec<u8> {
    format!(
        "GET {target} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    .into_bytes()
}

/// The opening request of a client with records comes in records of one byte, each of which comes byte by byte, with
/// questions of the transport between them. The first frame is in the same record as the end of the request.
#[test]
fn an_opening_handshake_byte_by_byte() {
    let (running, addresses) = start(|_| {});
    let mut plain = Client::open(addresses, 0, false, "/t/bytes");
    let mut client = Client::connect(addresses, 1, false);
    let request = upgrade("/t/bytes?echo=true");
    let (slowly, last) = request.split_at(request.len() - 3);
    let Stream::Sealed(stream) = &mut client.stream else { unreachable!() };
    for (at, byte) in slowly.iter().enumerate() {
        let mut sealed = Vec::new();
        if at % 10 == 0 {
            stream.records.ask(&mut sealed);
        }
        crate::sys::Records::seal(&mut stream.records, &[*byte], &mut sealed);
        for byte in sealed {
            stream.stream.write_all(&[byte]).unwrap();
        }
    }
    let mut rest = last.to_vec();
    encode_masked(OpCode::Text, Fin::Set, b"early", [0; 4], &mut rest);
    client.stream.write_all(&rest).unwrap();
    assert!(client.read_head().starts_with("HTTP/1.1 101 "));
    assert_eq!((client.next_text(), plain.next_text()), ("early".into(), "early".into()));
    let Stream::Sealed(stream) = &client.stream else { unreachable!() };
    assert_eq!(stream.records.answered, slowly.len().div_ceil(10) as u64);
    running.stop();
    for client in [&mut plain, &mut client] {
        assert_eq!(client.next().map(|(opcode, _)| opcode), Some(OpCode::Close));
        client.send(OpCode::Close, b"\x03\xe9");
        client.expect_end();
    }
    running.wait_blocking().unwrap();
}

/// A connection goes to the control thread with the bytes that its transport keeps, and comes back to a shard.
#[test]
fn http_and_then_a_websocket_on_one_connection() {
    let (running, addresses) = start(|_| {});
    let mut watching = Client::open(addresses, 0, false, "/t/both?mode=sub");
    let mut client = Client::connect(addresses, 1, false);
    // The shard answers no POST, so this connection goes to the control thread, where the rest of the body arrives.
    client
        .stream
        .write_all(b"POST /t/both HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 7\r\n\r\npub")
        .unwrap();
    thread::sleep(Duration::from_millis(50));
    client.stream.write_all(b"lishGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let (head, _) = client.read_answer();
    assert!(head.starts_with("HTTP/1.1 202 "), "{head}");
    let (head, body) = client.read_answer();
    assert!(head.starts_with("HTTP/1.1 200 ") && body.contains("alive"), "{head}{body}");
    if let Stream::Sealed(stream) = &mut client.stream {
        stream.ask().unwrap();
    }
    client.stream.write_all(&upgrade("/t/both?echo=true")).unwrap();
    assert!(client.read_head().starts_with("HTTP/1.1 101 "));
    client.send(OpCode::Text, b"socket");
    assert_eq!(client.next_text(), "socket");
    assert_eq!((watching.next_text(), watching.next_text()), ("publish".into(), "socket".into()));
    let Stream::Sealed(stream) = &client.stream else { unreachable!() };
    assert_eq!(stream.records.answered, 1);
    assert_eq!(running.control_counters().get(Counter::HttpReturned), 1);
    running.stop();
    running.wait_blocking().unwrap();
}

/// Answers that end a connection come whole, and after them come the goodbye and the end: answers of a shard, of the
/// control thread, and long answers to a client with little room.
#[test]
fn answers_end_with_a_goodbye() {
    let (running, addresses) = start(|_| {});
    for (request, expected) in [
        ("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", "200"),
        ("GET /t/x HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n", "426"),
        ("GET /t/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "426"),
        ("GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "200"),
        ("nonsense\r\n\r\n", "400"),
    ] {
        for transport in [0, 1] {
            let mut client = Client::connect(addresses, transport, expected == "200");
            client.stream.write_all(request.as_bytes()).unwrap();
            thread::sleep(Duration::from_millis(50));
            let (head, _) = client.read_answer();
            assert!(head.starts_with(&format!("HTTP/1.1 {expected} ")), "{request}{head}");
            client.expect_end();
        }
    }
    running.stop();
    running.wait_blocking().unwrap();
}

/// A file for which the socket has no room comes whole, and so does the answer after it on the same connection.
#[test]
fn a_long_answer_to_a_slow_client() {
    let root = env!("CARGO_MANIFEST_DIR");
    let file = std::fs::read_to_string(format!("{root}/ARCHITECTURE.md")).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let builder = Server::builder().settings(|settings| settings.send_buffer = Some(crate::config::Size(4_096)));
    let builder = builder.listen([any, any]).documents("/files", Documents::new(root).unwrap());
    let server = builder.build().unwrap();
    let addresses = [server.local_addrs()[0], server.local_addrs()[1]];
    xor::speak_at(addresses[1].port());
    let running = server.start().unwrap();
    for transport in [0, 1] {
        let mut client = Client::connect(addresses, transport, true);
        for last in ["", "Connection: close\r\n"] {
            let request = format!("GET /files/ARCHITECTURE.md HTTP/1.1\r\nHost: x\r\n{last}\r\n");
            client.stream.write_all(request.as_bytes()).unwrap();
            thread::sleep(Duration::from_millis(50));
            let (head, body) = client.read_answer();
            assert!(head.starts_with("HTTP/1.1 200 ") && body == file, "{head}{} bytes", body.len());
        }
        client.expect_end();
    }
    running.stop();
    running.wait_blocking().unwrap();
}

/// A client that says goodbye has ended its side, before its socket has.
#[test]
fn a_goodbye_ends_the_input() {
    let (running, addresses) = start(|_| {});
    let mut client = Client::open(addresses, 1, false, "/t/leaving");
    let Stream::Sealed(stream) = &mut client.stream else { unreachable!() };
    stream.say_goodbye().unwrap();
    client.expect_end();
    let aborted = |counters: &Counters| counters.get(Counter::Aborted);
    while running.counters().iter().map(|counters| aborted(counters)).sum::<u64>() == 0 {
        thread::sleep(Duration::from_millis(5));
    }
    running.stop();
    running.wait_blocking().unwrap();
}

#[test]
fn one_order_for_all_transports_on_io_uring() {
    agree(BackendKind::Uring);
}

#[test]
fn one_order_for_all_transports_on_epoll() {
    agree(BackendKind::Epoll);
}

#[test]
fn one_order_for_all_transports_on_a_faulty_io_uring() {
    agree(BackendKind::Faulty { over: &BackendKind::Uring, seed: 1 });
}

/// No edge follows a send that this backend has refused although there was room, so the bytes that a transport keeps
/// are tried again.
#[test]
fn one_order_for_all_transports_on_a_faulty_epoll() {
    agree(BackendKind::Faulty { over: &BackendKind::Epoll, seed: 1 });
}

/// Every subscriber sees the same messages of each topic in the same order, whatever its transport and that of the
/// publishers, and however slowly it reads.
fn agree(backend: BackendKind) {
    const PUBLISHERS: usize = 4;
    const MESSAGES: usize = 150;
    let (running, addresses) =
        start_on(Some(backend), |settings| settings.send_buffer = Some(crate::config::Size(4_096)));
    let subscribers: Vec<Client> =
        (0..8).map(|number| Client::open(addresses, number % 2, number % 4 < 2, "/t/order?mode=sub")).collect();
    let publishers: Vec<Client> =
        (0..PUBLISHERS).map(|number| Client::open(addresses, number % 2, false, "/t/order?mode=pub")).collect();
    let reading: Vec<_> = subscribers
        .into_iter()
        .enumerate()
        .map(|(number, mut client)| {
            thread::spawn(move || {
                let read = |at| {
                    if number % 4 < 2 && at % 50 == 0 {
                        thread::sleep(Duration::from_millis(20));
                    }
                    let text = client.next_text();
                    text.trim_end_matches('x').to_owned()
                };
                let order: Vec<String> = (0..PUBLISHERS * MESSAGES).map(read).collect();
                (client, order)
            })
        })
        .collect();
    let sending: Vec<_> = publishers
        .into_iter()
        .enumerate()
        .map(|(number, mut client)| {
            thread::spawn(move || {
                for at in 0..MESSAGES {
                    let length = [0, 10, 300, 3_000, 20_000][(number + at) % 5];
                    client.send(OpCode::Text, format!("{number} {at} {}", "x".repeat(length)).as_bytes());
                }
                client
            })
        })
        .collect();
    let publishers: Vec<Client> = sending.into_iter().map(|thread| thread.join().unwrap()).collect();
    let (clients, orders): (Vec<Client>, Vec<Vec<String>>) =
        reading.into_iter().map(|thread| thread.join().unwrap()).unzip();
    for number in 0..PUBLISHERS {
        let own = format!("{number} ");
        let of_one: Vec<&String> = orders[0].iter().filter(|text| text.starts_with(&own)).collect();
        let expected: Vec<String> = (0..MESSAGES).map(|at| format!("{number} {at} ")).collect();
        assert!(of_one.into_iter().eq(&expected), "the messages of publisher {number}");
    }
    assert!(orders.iter().all(|order| *order == orders[0]), "subscribers see different orders");
    running.stop();
    for mut client in clients.into_iter().chain(publishers) {
        assert_eq!(client.next().map(|(opcode, _)| opcode), Some(OpCode::Close));
        client.send(OpCode::Close, b"\x03\xe9");
        client.expect_end();
    }
    running.wait_blocking().unwrap();
}

/// The time after which a test that hangs fails. No test measures time.
const PATIENCE: Duration = Duration::from_secs(60);
