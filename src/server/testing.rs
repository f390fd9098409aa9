//! A client for the tests of this folder, on a real socket: with any transport, of any protocol, for any format.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    mem,
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use bytes::BytesMut;

use super::Server;
use crate::{
    handler::{Accept, Handler, OpeningRequest, Response},
    hub::{
        Format, Scope, SubscribeOptions, TopicName,
        testing::{REVERSED, reversed},
    },
    proto::{ClientHandshake, CloseCode, Fin, OpCode, ResponseHead, Tick},
    shard::session::{
        client_end::{ClientEnd, Heard, Protocol},
        length_prefixed::SUBPROTOCOL,
    },
    sys::transport::xor::{self, XorStream},
};

/// Returns the topic that the parameter `topic` of the path names.
pub(super) fn topic_of(request: &OpeningRequest) -> TopicName {
    TopicName::new(request.parameter("topic").expect("the pattern has it")).expect("a name")
}

/// The handler of a pattern with `{topic}`: the client subscribes to the topic in this format.
pub(super) struct Subscribers(pub(super) Format);

impl Handler for Subscribers {
    type State = ();

    async fn opening(&self, request: &OpeningRequest) -> Result<Accept<()>, Response> {
        Ok(Accept::default().subscribe(topic_of(request), SubscribeOptions::default()).format(self.0))
    }
}

/// The handler of a pattern with `{topic}`: the client publishes to the topic.
pub(super) struct Publishers;

impl Handler for Publishers {
    type State = ();

    async fn opening(&self, request: &OpeningRequest) -> Result<Accept<()>, Response> {
        Ok(Accept::default().forward(topic_of(request), Scope::Server))
    }
}

/// The way in which a client connects, and what it speaks then.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    pub(super) transport: ClientTransport,
    pub(super) protocol: Protocol,
    /// The format in which the server sends publications to this client.
    pub(super) format: Format,
    /// The client's socket has little room for bytes that the client has not read yet.
    pub(super) is_slow: bool,
}

/// The default manner: a plain WebSocket, which gets publications as they are.
impl Default for Manner {
    fn default() -> Self {
        Manner { transport: ClientTransport::Plain, protocol: Protocol::WebSocket, format: Format::RAW, is_slow: false }
    }
}

/// Makes the server speak the transport with records at its second address. Returns its first two addresses.
pub(super) fn speak_both(server: &Server) -> [SocketAddr; 2] {
    let addresses = [server.local_addrs()[0], server.local_addrs()[1]];
    xor::speak_at(addresses[1].port());
    addresses
}

/// The transport of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientTransport {
    Plain,
    /// In records, as the server expects them at the ports of [`xor::speak_at`].
    Sealed,
}

/// The client's socket, with its transport.
#[derive(Debug)]
pub(super) enum Wire {
    Plain(TcpStream),
    Sealed(XorStream),
}

impl Wire {
    pub(super) fn socket(&self) -> &TcpStream {
        match self {
            Wire::Plain(stream) => stream,
            Wire::Sealed(sealed) => &sealed.stream,
        }
    }

    /// Returns the stream of a transport with records.
    ///
    /// # Panics
    ///
    /// If the transport is plain.
    pub(super) fn sealed(&mut self) -> &mut XorStream {
        match self {
            Wire::Plain(_) => panic!("no bytes travel in records"),
            Wire::Sealed(sealed) => sealed,
        }
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Wire::Plain(stream) => stream.read(buffer),
            Wire::Sealed(stream) => stream.read(buffer),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Wire::Plain(stream) => stream.write(bytes),
            Wire::Sealed(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A client. Each of its reads waits until the server has sent enough.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) wire: Wire,
    end: ClientEnd,
    format: Format,
    /// The received bytes of a part that has not arrived whole.
    received: BytesMut,
    /// The parts that have arrived and have not been returned yet.
    heard: VecDeque<Heard>,
    has_said_goodbye: bool,
}

impl Client {
    /// Connects, and sends nothing.
    pub(super) fn dial(address: SocketAddr, manner: Manner) -> Client {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        if manner.is_slow {
            socket.set_recv_buffer_size(4_096).unwrap();
        }
        socket.connect(&address.into()).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let wire = match manner.transport {
            ClientTransport::Plain => Wire::Plain(stream),
            ClientTransport::Sealed => Wire::Sealed(XorStream::new(stream)),
        };
        Client {
            wire,
            end: ClientEnd::new(manner.protocol, [9; 16]),
            format: manner.format,
            received: BytesMut::new(),
            heard: VecDeque::new(),
            has_said_goodbye: false,
        }
    }

    /// Connects, and asks for this target. Returns the client if the server accepts it, or else the status of the
    /// refusal.
    pub(super) fn try_open(
        address: SocketAddr,
        target: &str,
        headers: &[(&str, &str)],
        manner: Manner,
    ) -> Result<Client, u16> {
        let mut client = Client::dial(address, manner);
        let mut handshake = ClientHandshake::new([7; 16]);
        let request = handshake.request("hub.example", target, manner.protocol.offered(), headers);
        client.wire.write_all(&request).unwrap();
        let head = client.read_head();
        let (head, _) = ResponseHead::decode(head.as_bytes()).unwrap().expect("a whole head");
        if head.status() != 101 {
            return Err(head.status());
        }
        assert_eq!(handshake.check(&head), Ok(None), "the answer to {target}");
        Ok(client)
    }

    /// Connects to this target, which must accept the client. From then on the server owes the client every message of
    /// the client's topics.
    pub(super) fn open(address: SocketAddr, target: &str, manner: Manner) -> Client {
        Client::try_open(address, target, &[], manner).unwrap_or_else(|status| panic!("{target}: {status}"))
    }

    /// Opens a plain WebSocket.
    pub(super) fn web_socket(address: SocketAddr, target: &str) -> Client {
        Client::open(address, target, Manner::default())
    }

    /// Returns a second client on the same connection. The second client sends while this client receives.
    ///
    /// # Panics
    ///
    /// If the bytes travel in records. Records have one order, so two clients cannot share them.
    pub(super) fn sender(&self) -> Client {
        let Wire::Plain(stream) = &self.wire else { panic!("records have one order") };
        Client {
            wire: Wire::Plain(stream.try_clone().unwrap()),
            end: ClientEnd::new(self.end.protocol(), [8; 16]),
            format: self.format,
            received: BytesMut::new(),
            heard: VecDeque::new(),
            has_said_goodbye: false,
        }
    }

    /// Sends a frame, or a message of a protocol without frames.
    pub(super) fn send(&mut self, opcode: OpCode, fin: Fin, payload: &[u8]) {
        let mut bytes = Vec::new();
        assert!(self.end.send(opcode, fin, payload, &mut bytes), "the protocol has {opcode:?}");
        self.wire.write_all(&bytes).unwrap();
    }

    /// Sends a text.
    pub(super) fn say(&mut self, text: &str) {
        self.send(OpCode::Text, Fin::Set, text.as_bytes());
    }

    /// Sends a text in two fragments.
    pub(super) fn say_in_fragments(&mut self, text: &str) {
        let (first, rest) = text.as_bytes().split_at(text.len() / 3);
        self.send(OpCode::Text, Fin::Unset, first);
        self.send(OpCode::Continuation, Fin::Set, rest);
    }

    /// Sends the goodbye of the client's protocol.
    pub(super) fn say_goodbye(&mut self) {
        let mut bytes = Vec::new();
        self.end.say_goodbye(&mut bytes);
        self.wire.write_all(&bytes).unwrap();
        self.has_said_goodbye = true;
    }

    /// Ends the client's side of the socket, without a goodbye.
    pub(super) fn end_side(&self) {
        self.wire.socket().shutdown(Shutdown::Write).unwrap();
    }

    /// Sets how long the client waits for more.
    pub(super) fn set_patience(&self, patience: Duration) {
        self.wire.socket().set_read_timeout(Some(patience)).unwrap();
    }

    /// Reads once. Returns `false` if the stream has ended.
    fn read_more(&mut self) -> io::Result<bool> {
        let mut chunk = [0; 16 * 1_024];
        let count = self.wire.read(&mut chunk)?;
        self.received.extend_from_slice(&chunk[..count]);
        Ok(count > 0)
    }

    /// Reads the head of an HTTP answer.
    pub(super) fn read_head(&mut self) -> String {
        loop {
            if let Some(end) = self.received.windows(4).position(|window| window == b"\r\n\r\n") {
                return String::from_utf8(self.received.split_to(end + 4).to_vec()).unwrap();
            }
            assert!(self.read_more().expect("the server answers"), "the answer ends in its head");
        }
    }

    /// Reads an HTTP answer with a body.
    pub(super) fn read_answer(&mut self) -> (String, String) {
        let head = self.read_head();
        let line =
            head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let length = line.unwrap_or(0);
        while self.received.len() < length {
            assert!(self.read_more().expect("the server answers"), "the answer ends in its body");
        }
        (head, String::from_utf8(self.received.split_to(length).to_vec()).unwrap())
    }

    /// Returns the next part of the server's output, or `None` if the output has ended after a whole part. Until the
    /// client has said goodbye, this also sends the replies that the protocol asks for.
    ///
    /// # Errors
    ///
    /// If nothing comes in time.
    fn try_next(&mut self) -> io::Result<Option<Heard>> {
        loop {
            if let Some(heard) = self.heard.pop_front() {
                return Ok(Some(heard));
            }
            let mut replies = Vec::new();
            let (heard, rest) = self.end.hear(Tick(0), mem::take(&mut self.received), &mut replies);
            self.received = rest;
            self.heard.extend(heard);
            if !self.has_said_goodbye {
                self.wire.write_all(&replies).expect("the server is there");
            }
            if self.heard.is_empty() && !self.read_more()? {
                assert!(self.received.is_empty(), "the stream ends in a frame");
                return Ok(None);
            }
        }
    }

    /// Returns the next part of the server's output, or `None` if the output has ended.
    pub(super) fn next(&mut self) -> Option<Heard> {
        self.try_next().expect("something comes in time")
    }

    /// Returns the next text, as it was published.
    pub(super) fn text(&mut self) -> String {
        match self.next() {
            Some(heard) => self.read(heard),
            None => panic!("the server has ended the connection"),
        }
    }

    /// Returns the next text if one comes in time.
    pub(super) fn text_in_time(&mut self) -> Option<String> {
        let heard = self.try_next().ok().flatten()?;
        Some(self.read(heard))
    }

    /// Returns the next `count` texts.
    pub(super) fn texts(&mut self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.text()).collect()
    }

    /// Reads a message that is a text in the client's format.
    fn read(&self, heard: Heard) -> String {
        let Heard::Message(kind, payload) = heard else { panic!("{heard:?} is no message") };
        let payload = if self.format == REVERSED { reversed(kind, &payload) } else { payload };
        String::from_utf8(payload).expect("text is UTF-8")
    }

    /// Reads the rest: messages, the server's goodbye, and the end. Returns the messages, and the code of the goodbye.
    pub(super) fn rest(&mut self) -> (Vec<String>, Option<CloseCode>) {
        let mut texts = Vec::new();
        let mut code = None;
        while let Some(heard) = self.next() {
            assert_eq!(code, None, "something follows the goodbye");
            match heard {
                Heard::Goodbye(said, _) => code = Some(said),
                message => texts.push(self.read(message)),
            }
        }
        if let Wire::Sealed(stream) = &self.wire {
            assert!(stream.is_over, "the server ends without the goodbye of the transport");
        }
        (texts, code)
    }

    /// Says goodbye, and waits for the server's goodbye: then the server has handled all that this client has sent.
    /// Returns the messages that came before the server's goodbye.
    pub(super) fn leave(mut self) -> Vec<String> {
        self.say_goodbye();
        let (texts, code) = self.rest();
        assert_eq!(code, Some(CloseCode::NORMAL), "the server answers a goodbye");
        texts
    }
}

impl Protocol {
    /// Returns the subprotocols by which a client asks for the protocol.
    fn offered(self) -> &'static [&'static str] {
        match self {
            Protocol::WebSocket => &[],
            Protocol::LengthPrefixed => &[SUBPROTOCOL],
        }
    }
}

/// Checks that `order` has each text of each publisher once, and in the order in which the publisher has sent the
/// texts. The texts of publisher 1 begin with `1 0`, `1 1`, and so on.
pub(super) fn check_publishers(order: &[String], publishers: usize, messages: usize) {
    assert_eq!(order.len(), publishers * messages);
    for publisher in 0..publishers {
        let prefix = format!("{publisher} ");
        let own = order.iter().filter_map(|text| text.strip_prefix(&prefix));
        let numbers = own.map(|text| text.split(' ').next().unwrap_or_default().parse::<usize>().unwrap());
        assert!(numbers.eq(0..messages), "the messages of publisher {publisher}");
    }
}

/// Checks that the texts of a client that was connected for a short time are a piece of the order, without a gap.
pub(super) fn check_piece(order: &[String], piece: &[String]) {
    let Some(first) = piece.first() else { return };
    let begin = order.iter().position(|text| text == first).expect("it was published");
    assert!(order[begin..].starts_with(piece), "{piece:?} is no piece of the order");
}

/// How long a client waits for the server. No test measures time: this limit only ends a test that hangs.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
