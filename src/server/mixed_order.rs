//! Tests clients of two protocols on real sockets: they agree on one order of a topic.
//!
//! Members stay to the end; guests join and leave in the middle of the fan-out.

use std::{
    net::SocketAddr,
    sync::{Barrier, mpsc},
    thread,
    time::Duration,
};

use super::testing::{Client, Manner, PATIENCE};
use crate::{
    config::Time,
    handler::{Connection, Handler, Refused, Sent},
    metrics::Counter,
    proto::{CloseCode, Message},
    server::Server,
    shard::session::client_end::{Heard, Protocol},
};

/// A message, by its sender and its number among the sender's messages.
type Name = (u32, u32);

/// Opens a connection of this protocol.
fn open(address: SocketAddr, target: &str, protocol: Protocol) -> Client {
    Client::open(address, target, Manner { protocol, ..Manner::default() })
}

/// Returns the text of a sender's message.
fn message((sender, number): Name) -> String {
    let size = match number % 50 {
        7 => 20_000,
        13 => 70_000,
        other => other as usize * 10,
    };
    format!("{sender}.{number}.{size}.{}", "x".repeat(size))
}

fn read_name(text: &str) -> Name {
    let parts: Vec<&str> = text.split('.').collect();
    let [sender, number, size, filling] = parts[..] else { panic!("no message of this test: {text}") };
    assert_eq!(filling, "x".repeat(size.parse().unwrap()), "the payload of {sender}.{number}");
    (sender.parse().unwrap(), number.parse().unwrap())
}

/// Receives until the member has all messages, and reports; then awaits the goodbye. Another thread sends the member's
/// messages meanwhile.
fn run_member(mut client: Client, number: u32, begin: &Barrier, whole: &mpsc::Sender<()>) -> Vec<Name> {
    let mut sender = client.sender();
    begin.wait();
    thread::scope(|scope| {
        scope.spawn(move || (0..MESSAGES).for_each(|own| sender.say(&message((number, own)))));
        let received = (0..ALL).map(|_| read_name(&client.text())).collect();
        whole.send(()).unwrap();
        assert_eq!(client.rest(), (Vec::new(), Some(CloseCode::SERVICE_RESTART)), "member {number}");
        received
    })
}

/// Lets guests join one after the other, send a few messages and leave. Every second guest leaves when it has received
/// its own messages; the others leave at once, and may miss their own if the topic's home is slow to order them.
/// Returns the messages that each guest has received.
fn run_guests(address: SocketAddr, protocol: Protocol, first: u32, begin: &Barrier) -> Vec<Vec<Name>> {
    begin.wait();
    let guests = (first..first + GUESTS).map(|number| {
        let mut client = open(address, TOPIC, protocol);
        (0..GUEST_MESSAGES).for_each(|own| client.say(&message((number, own))));
        let mut received = Vec::new();
        if number.is_multiple_of(2) {
            while received.iter().filter(|(sender, _)| *sender == number).count() < GUEST_MESSAGES as usize {
                received.push(read_name(&client.text()));
            }
        }
        received.extend(client.leave().iter().map(|text| read_name(text)));
        received
    });
    guests.collect()
}

#[test]
fn clients_of_two_protocols_agree_on_one_order() {
    let server = Server::builder().listen(["127.0.0.1:0".parse().unwrap()]).shards(3).topics().settings(|settings| {
        settings.ping_interval = Time(Duration::ZERO);
        settings.close_timeout = Time(PATIENCE);
        settings.drain_timeout = Time(PATIENCE);
    });
    let running = server.build().unwrap().start().unwrap();
    let address = running.local_addr();
    let protocol_of = |number: u32| [Protocol::WebSocket, Protocol::LengthPrefixed][number as usize % 2];
    let begin = Barrier::new(MEMBERS as usize + 2);
    let (whole, is_whole) = mpsc::channel();
    let (orders, guests) = thread::scope(|scope| {
        let clients: Vec<Client> = (0..MEMBERS).map(|number| open(address, TOPIC, protocol_of(number))).collect();
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
        (0..MEMBERS).for_each(|_| is_whole.recv_timeout(PATIENCE).expect("every member has all messages in time"));
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
        let mut client = open(running.local_addr(), "/pinging", protocol);
        client.say("?");
        let mut heard = Vec::new();
        while !matches!(heard.last(), Some(Heard::Message(..))) {
            heard.extend(client.next());
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
