//! Tests clients of two protocols on real sockets: they agree on one order of a topic.
//!
//! Members stay to the end; guests join and leave in the middle of the fan-out.

use std::{
    io::{Read, Write},
    mem,
    net::{SocketAddr, TcpStream},
    sync::{Barrier, mpsc},
    thread,
    time::Duration,
};

use bytes::BytesMut;

use crate::{
    config::Time,
    handler::{Connection, Handler, Refused, Sent},
    metrics::Counter,
    proto::{ClientHandshake, CloseCode, Fin, Message, OpCode, ResponseHead, Tick},
    server::Server,
    shard::session::{
        client_end::{ClientEnd, Heard, Protocol},
        length_prefixed::SUBPROTOCOL,
    },
};

/// A message, by its sender and its number among the sender's messages.
type Name = (u32, u32);

/// A client of one protocol on a real socket.
struct Client {
    stream: TcpStream,
    end: ClientEnd,
    rest: BytesMut,
    received: Vec<Name>,
    goodbye: Option<CloseCode>,
}

impl Client {
    /// Returns a client whose opening request for this path is answered: from now on it receives all messages of the
    /// topic.
    fn connect(address: SocketAddr, path: &str, protocol: Protocol, number: u32) -> Self {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        let seed = u128::from(number).to_le_bytes();
        let mut handshake = ClientHandshake::new(seed);
        let offered: &[&str] = if protocol == Protocol::LengthPrefixed { &[SUBPROTOCOL] } else { &[] };
        stream.write_all(&handshake.request("hub.example", path, offered, &[])).unwrap();
        let mut client = Client {
            stream,
            end: ClientEnd::new(protocol, seed),
            rest: BytesMut::new(),
            received: Vec::new(),
            goodbye: None,
        };
        let length = loop {
            assert!(client.receive(), "client {number} is not let in");
            if let Some((head, length)) = ResponseHead::decode(&client.rest).unwrap() {
                assert_eq!(handshake.check(&head), Ok(None), "the answer to client {number}");
                break length;
            }
        };
        drop(client.rest.split_to(length));
        client
    }

    /// Receives more bytes. Returns whether any came before the end.
    fn receive(&mut self) -> bool {
        let mut chunk = [0; 16 * 1_024];
        let count = self.stream.read(&mut chunk).expect("something comes in time");
        self.rest.extend_from_slice(&chunk[..count]);
        count > 0
    }

    /// Handles the received bytes, and answers as the protocol requires.
    fn hear(&mut self) {
        let mut replies = Vec::new();
        let (heard, rest) = self.end.hear(Tick(0), mem::take(&mut self.rest), &mut replies);
        self.rest = rest;
        for heard in heard {
            match heard {
                Heard::Message(_, payload) => self.received.push(read_payload(&payload)),
                Heard::Pong(_) => panic!("nobody has pinged"),
                Heard::Goodbye(code, _) => self.goodbye = Some(code),
            }
        }
        self.stream.write_all(&replies).expect("the server is there");
    }

    /// Receives until the server has said goodbye and ended its side, and returns the code.
    fn receive_to_the_end(&mut self) -> Option<CloseCode> {
        self.hear();
        while self.receive() {
            self.hear();
        }
        assert!(self.rest.is_empty(), "nothing follows a goodbye");
        self.goodbye
    }
}

/// Returns the bytes of a sender's message.
fn message(end: &mut ClientEnd, (sender, number): Name) -> Vec<u8> {
    let size = match number % 50 {
        7 => 20_000,
        13 => 70_000,
        other => other as usize * 10,
    };
    let text = format!("{sender}.{number}.{size}.{}", "x".repeat(size));
    let mut bytes = Vec::new();
    assert!(end.send(OpCode::Text, Fin::Set, text.as_bytes(), &mut bytes));
    bytes
}

fn read_payload(payload: &[u8]) -> Name {
    let text = std::str::from_utf8(payload).expect("text is UTF-8");
    let parts: Vec<&str> = text.split('.').collect();
    let [sender, number, size, filling] = parts[..] else { panic!("no message of this test: {text}") };
    assert_eq!(filling, "x".repeat(size.parse().unwrap()), "the payload of {sender}.{number}");
    (sender.parse().unwrap(), number.parse().unwrap())
}

/// Receives until the member has all messages, and reports; then awaits the goodbye. Another thread sends the member's
/// messages meanwhile.
fn run_member(mut client: Client, number: u32, begin: &Barrier, whole: &mpsc::Sender<()>) -> Vec<Name> {
    let mut stream = client.stream.try_clone().unwrap();
    let mut sender = ClientEnd::new(client.end.protocol(), [number as u8; 16]);
    begin.wait();
    thread::scope(|scope| {
        scope.spawn(move || {
            for own in 0..MESSAGES {
                stream.write_all(&message(&mut sender, (number, own))).unwrap();
            }
        });
        while client.received.len() < ALL {
            assert!(client.receive(), "member {number} is cut off");
            client.hear();
        }
        whole.send(()).unwrap();
        assert_eq!(client.receive_to_the_end(), Some(CloseCode::GOING_AWAY), "member {number}");
    });
    client.received
}

/// Lets guests join one after the other, send a few messages and leave. Every second guest leaves when it has received
/// its own messages; the others leave at once, and may miss their own if the topic's home is slow to order them.
/// Returns the messages that each guest has received.
fn run_guests(address: SocketAddr, protocol: Protocol, first: u32, begin: &Barrier) -> Vec<Vec<Name>> {
    begin.wait();
    let guests = (first..first + GUESTS).map(|number| {
        let mut client = Client::connect(address, TOPIC, protocol, number);
        let bytes: Vec<u8> = (0..GUEST_MESSAGES).flat_map(|own| message(&mut client.end, (number, own))).collect();
        client.stream.write_all(&bytes).unwrap();
        if number.is_multiple_of(2) {
            let own = |client: &Client| client.received.iter().filter(|(sender, _)| *sender == number).count();
            client.hear();
            while own(&client) < GUEST_MESSAGES as usize {
                assert!(client.receive(), "guest {number} is cut off");
                client.hear();
            }
        }
        let mut goodbye = Vec::new();
        client.end.say_goodbye(&mut goodbye);
        client.stream.write_all(&goodbye).unwrap();
        assert_eq!(client.receive_to_the_end(), Some(CloseCode::NORMAL), "guest {number}");
        client.received
    });
    guests.collect()
}

#[test]
fn clients_of_two_protocols_agree_on_one_order() {
    let server = Server::builder().listen(["127.0.0.1:0".parse().unwrap()]).shards(3).topics().settings(|settings| {
        settings.ping_interval = Time(Duration::ZERO);
        settings.close_timeout = Time(DEADLINE);
        settings.drain_timeout = Time(DEADLINE);
    });
    let running = server.build().unwrap().start().unwrap();
    let address = running.local_addr();
    let protocol_of = |number: u32| [Protocol::WebSocket, Protocol::LengthPrefixed][number as usize % 2];
    let begin = Barrier::new(MEMBERS as usize + 2);
    let (whole, is_whole) = mpsc::channel();
    let (orders, guests) = thread::scope(|scope| {
        let clients: Vec<Client> =
            (0..MEMBERS).map(|number| Client::connect(address, TOPIC, protocol_of(number), number)).collect();
        let (begin, whole) = (&begin, &whole);
        let members: Vec<_> = (0..MEMBERS)
            .zip(clients)
            .map(|(number, client)| scope.spawn(move || run_member(client, number, begin, whole)))
            .collect();
        let guests: Vec<_> = (0..2)
            .map(|kind| {
                let first = MEMBERS + kind * GUESTS;
                scope.spawn(move || run_guests(address, protocol_of(kind), first, begin))
            })
            .collect();
        (0..MEMBERS).for_each(|_| is_whole.recv_timeout(DEADLINE).expect("every member has all messages in time"));
        let guests: Vec<Vec<Name>> = guests.into_iter().flat_map(|guest| guest.join().unwrap()).collect();
        running.stop();
        let orders: Vec<Vec<Name>> = members.into_iter().map(|member| member.join().unwrap()).collect();
        (orders, guests)
    });
    let order = &orders[0];
    orders.iter().enumerate().for_each(|(number, other)| assert!(other == order, "the order of member {number}"));
    let mut next = vec![0; (MEMBERS + 2 * GUESTS) as usize];
    for &(sender, number) in order {
        assert_eq!(number, next[sender as usize], "the messages of client {sender} in the order");
        next[sender as usize] += 1;
    }
    for (guest, received) in guests.iter().enumerate() {
        let Some(first) = received.first() else { continue };
        let from = order.iter().position(|name| name == first).expect("members have it too");
        assert_eq!(order[from..from + received.len()], received[..], "guest {guest} gets a piece of the order");
    }
    let counted = |counter| running.counters().iter().map(|counters| counters.get(counter)).sum::<u64>();
    assert_eq!(counted(Counter::SlowClosed) + counted(Counter::ProtocolErrors), 0);
    running.wait_blocking().unwrap();
}

/// Sends a ping and a pong for each message, and tells the outcome.
struct Pinging;

impl Handler for Pinging {
    type State = ();

    fn on_message(&self, connection: &mut Connection<'_, ()>, _: Message<'_>) {
        let outcomes = [connection.send_ping(b"1"), connection.send_pong(b"2")];
        let is_refused = outcomes.map(|sent| sent == Sent::Refused(Refused::OpCode));
        assert!(connection.send_text(format!("{is_refused:?}")).is_accepted());
    }
}

#[test]
fn a_handler_pings_where_the_protocol_has_pings() {
    let server = Server::builder().listen(["127.0.0.1:0".parse().unwrap()]).shards(1).route("/pinging", Pinging);
    let running = server.build().unwrap().start().unwrap();
    for (protocol, expected) in [(Protocol::WebSocket, "[false, false]"), (Protocol::LengthPrefixed, "[true, true]")] {
        let mut client = Client::connect(running.local_addr(), "/pinging", protocol, 1);
        let mut bytes = Vec::new();
        assert!(client.end.send(OpCode::Text, Fin::Set, b"?", &mut bytes));
        client.stream.write_all(&bytes).unwrap();
        let mut heard = Vec::new();
        while !matches!(heard.last(), Some(Heard::Message(..))) {
            assert!(client.receive(), "{protocol:?}");
            let (more, rest) = client.end.hear(Tick(0), mem::take(&mut client.rest), &mut Vec::new());
            client.rest = rest;
            heard.extend(more);
        }
        let Some(Heard::Message(_, told)) = heard.pop() else { unreachable!("a message ends the loop") };
        assert_eq!(String::from_utf8(told).unwrap(), expected, "{protocol:?}");
        assert_eq!(heard.len(), usize::from(protocol == Protocol::WebSocket), "the pong");
    }
    running.stop();
    running.wait_blocking().unwrap();
}

const TOPIC: &str = "/t/mixed?echo=true";
const MEMBERS: u32 = 8;
const MESSAGES: u32 = 100;
const GUESTS: u32 = 10;
const GUEST_MESSAGES: u32 = 5;
const ALL: usize = (MEMBERS * MESSAGES + 2 * GUESTS * GUEST_MESSAGES) as usize;

/// The longest time that any step may take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);
