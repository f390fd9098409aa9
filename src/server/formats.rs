//! Tests of formats end to end: subscribers that want different formats of the same topics, on real sockets.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use bytes::BytesMut;

use super::Server;
use crate::{
    handler::{Accept, Connection, Handler, OpeningRequest, Response},
    hub::{
        Format, Scope, SubscribeOptions, TopicName,
        testing::{REVERSED, reversed},
    },
    proto::{Event, Fin, Input, Message, MessageLimits, MessageType, OpCode, Role, Tick, WebSocket, encode_masked},
};

/// Opens `/{topic}`: the client subscribes, publishes, and wants this format.
struct Topics(Format);

impl Handler for Topics {
    type State = ();

    async fn opening(&self, request: &OpeningRequest) -> Result<Accept<()>, Response> {
        let topic = TopicName::new(request.parameter("topic").expect("the pattern has it")).expect("a name");
        Ok(Accept::default()
            .subscribe(topic.clone(), SubscribeOptions::default().echo())
            .forward(topic, Scope::Server)
            .format(self.0))
    }

    fn on_message(&self, _: &mut Connection<'_, ()>, _: Message<'_>) {
        unreachable!("messages are forwarded");
    }
}

/// A client that sees publications in a format.
struct Client {
    stream: TcpStream,
    format: Format,
    websocket: WebSocket,
    rest: BytesMut,
    seen: Vec<String>,
}

impl Client {
    /// Opens a connection. From then on it is owed every message of the topic.
    fn open(address: SocketAddr, topic: &str, format: Format) -> Self {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let prefix = if format == REVERSED { "reversed" } else { "raw" };
        let request = format!(
            "GET /{prefix}/{topic} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
        let websocket = WebSocket::new(Role::Client { masking_seed: [7; 16] }, Tick(0));
        Client { stream, format, websocket, rest: BytesMut::new(), seen: Vec::new() }
    }

    fn publish(&mut self, text: &str) {
        let mut frame = Vec::new();
        encode_masked(OpCode::Text, Fin::Set, text.as_bytes(), [1, 2, 3, 4], &mut frame);
        self.stream.write_all(&frame).unwrap();
    }

    /// Reads until so many messages have been seen.
    fn see(&mut self, count: usize) {
        while self.seen.len() < count {
            let mut part = [0; 4 * 1_024];
            let length = self.stream.read(&mut part).unwrap();
            assert!(length > 0, "the server goes on");
            self.rest.extend_from_slice(&part[..length]);
            let mut input = Input::new(std::mem::take(&mut self.rest));
            let limits = MessageLimits::default();
            while let Some(event) = self.websocket.receive(Tick(0), &mut input, &limits, &mut Vec::new()).unwrap() {
                let Event::Message(message) = event else { continue };
                let payload = match self.format {
                    REVERSED => reversed(MessageType::Text, message.payload()),
                    _ => message.payload().to_vec(),
                };
                self.seen.push(String::from_utf8(payload).unwrap());
            }
            self.rest = input.into_rest();
        }
    }
}

/// Subscribers of both formats, on two shards, see every message of three publishers once and in one order, while
/// others of both formats come and go.
#[test]
fn subscribers_of_all_formats_see_one_order() {
    let server = Server::builder()
        .listen(["127.0.0.1:0".parse().unwrap()])
        .shards(2)
        .route("/raw/{topic}", Topics(Format::RAW))
        .route("/reversed/{topic}", Topics(REVERSED))
        .build()
        .unwrap();
    let running = server.start().unwrap();
    let address = running.local_addr();
    for topic in ["one", "other", "third"] {
        let formats = [Format::RAW, REVERSED, REVERSED, Format::RAW, REVERSED, Format::RAW];
        let mut clients = formats.map(|format| Client::open(address, topic, format));
        let published = AtomicUsize::new(0);
        thread::scope(|scope| {
            for (number, client) in clients.iter_mut().enumerate() {
                let published = &published;
                scope.spawn(move || {
                    if number < PUBLISHERS {
                        for count in 0..MESSAGES {
                            client.publish(&format!("{number} {count} {}", "x".repeat(count * count % 5_000)));
                            published.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    client.see(PUBLISHERS * MESSAGES);
                });
            }
            scope.spawn(|| {
                while published.load(Ordering::Relaxed) < PUBLISHERS * MESSAGES {
                    for format in [REVERSED, Format::RAW] {
                        let mut passing = Client::open(address, topic, format);
                        if published.load(Ordering::Relaxed) < PUBLISHERS * MESSAGES / 2 {
                            passing.see(1);
                        }
                    }
                }
            });
        });
        let order = &clients[0].seen;
        for number in 0..PUBLISHERS {
            let own = order.iter().filter(|text| text.starts_with(&format!("{number} ")));
            let counts: Vec<usize> = own.map(|text| text.split(' ').nth(1).unwrap().parse().unwrap()).collect();
            assert!(counts.into_iter().eq(0..MESSAGES), "publisher {number} in {topic}");
        }
        assert!(clients.iter().all(|client| client.seen == *order), "{topic} has one order");
    }
    running.stop();
    running.wait_blocking().unwrap();
}

const PUBLISHERS: usize = 3;
const MESSAGES: usize = 300;
