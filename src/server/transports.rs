//! Tests of a whole server over real sockets whose clients have different transports: plain ones, and ones whose bytes
//! travel in records, on the same topics.

use std::{io::Write, net::SocketAddr, thread, time::Duration};

use super::{
    Running, Server,
    testing::{Client, ClientTransport, Manner, check_publishers, speak_both},
};
use crate::{
    documents::Documents,
    metrics::{Counter, Counters},
    proto::{CloseCode, Fin, OpCode, encode_masked},
    sys::BackendKind,
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
    let addresses = speak_both(&server);
    (server.start().unwrap(), addresses)
}

/// Connects with the transport of one of the addresses.
fn dial(addresses: [SocketAddr; 2], transport: usize, is_slow: bool) -> Client {
    Client::dial(addresses[transport], manner(transport, is_slow))
}

/// Opens a WebSocket with the transport of one of the addresses.
fn open(addresses: [SocketAddr; 2], transport: usize, is_slow: bool, target: &str) -> Client {
    Client::open(addresses[transport], target, manner(transport, is_slow))
}

fn manner(transport: usize, is_slow: bool) -> Manner {
    let transport = [ClientTransport::Plain, ClientTransport::Sealed][transport];
    Manner { transport, is_slow, ..Manner::default() }
}

/// Reads the rest: the end alone, and in front of it the goodbye of the transport.
fn expect_end(client: &mut Client) {
    assert_eq!(client.rest(), (Vec::new(), None), "something follows");
}

/// Reads the server's close frame, answers it, and reads the end.
fn expect_close(client: &mut Client) {
    assert_eq!(client.rest(), (Vec::new(), Some(CloseCode::SERVICE_RESTART)));
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
    let mut plain = open(addresses, 0, false, "/t/bytes");
    let mut client = dial(addresses, 1, false);
    let request = upgrade("/t/bytes?echo=true");
    let (slowly, last) = request.split_at(request.len() - 3);
    let stream = client.wire.sealed();
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
    client.wire.write_all(&rest).unwrap();
    assert!(client.read_head().starts_with("HTTP/1.1 101 "));
    assert_eq!((client.text(), plain.text()), ("early".into(), "early".into()));
    let stream = client.wire.sealed();
    assert_eq!(stream.records.answered, slowly.len().div_ceil(10) as u64);
    running.stop();
    for client in [&mut plain, &mut client] {
        expect_close(client);
    }
    running.wait_blocking().unwrap();
}

/// A connection goes to the control thread with the bytes that its transport keeps, and comes back to a shard.
#[test]
fn http_and_then_a_websocket_on_one_connection() {
    let (running, addresses) = start(|_| {});
    let mut watching = open(addresses, 0, false, "/t/both?mode=sub");
    let mut client = dial(addresses, 1, false);
    // The shard answers no POST, so this connection goes to the control thread, where the rest of the body arrives.
    client
        .wire
        .write_all(b"POST /t/both HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 7\r\n\r\npub")
        .unwrap();
    thread::sleep(Duration::from_millis(50));
    client.wire.write_all(b"lishGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let (head, _) = client.read_answer();
    assert!(head.starts_with("HTTP/1.1 202 "), "{head}");
    let (head, body) = client.read_answer();
    assert!(head.starts_with("HTTP/1.1 200 ") && body.contains("alive"), "{head}{body}");
    client.wire.sealed().ask().unwrap();
    client.wire.write_all(&upgrade("/t/both?echo=true")).unwrap();
    assert!(client.read_head().starts_with("HTTP/1.1 101 "));
    client.say("socket");
    assert_eq!(client.text(), "socket");
    assert_eq!((watching.text(), watching.text()), ("publish".into(), "socket".into()));
    let stream = client.wire.sealed();
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
            let mut client = dial(addresses, transport, expected == "200");
            client.wire.write_all(request.as_bytes()).unwrap();
            thread::sleep(Duration::from_millis(50));
            let (head, _) = client.read_answer();
            assert!(head.starts_with(&format!("HTTP/1.1 {expected} ")), "{request}{head}");
            expect_end(&mut client);
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
    let addresses = speak_both(&server);
    let running = server.start().unwrap();
    for transport in [0, 1] {
        let mut client = dial(addresses, transport, true);
        for last in ["", "Connection: close\r\n"] {
            let request = format!("GET /files/ARCHITECTURE.md HTTP/1.1\r\nHost: x\r\n{last}\r\n");
            client.wire.write_all(request.as_bytes()).unwrap();
            thread::sleep(Duration::from_millis(50));
            let (head, body) = client.read_answer();
            assert!(head.starts_with("HTTP/1.1 200 ") && body == file, "{head}{} bytes", body.len());
        }
        expect_end(&mut client);
    }
    running.stop();
    running.wait_blocking().unwrap();
}

/// A client that says goodbye has ended its side, before its socket has.
#[test]
fn a_goodbye_ends_the_input() {
    let (running, addresses) = start(|_| {});
    let mut client = open(addresses, 1, false, "/t/leaving");
    let stream = client.wire.sealed();
    stream.say_goodbye().unwrap();
    expect_end(&mut client);
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
        (0..8).map(|number| open(addresses, number % 2, number % 4 < 2, "/t/order?mode=sub")).collect();
    let publishers: Vec<Client> =
        (0..PUBLISHERS).map(|number| open(addresses, number % 2, false, "/t/order?mode=pub")).collect();
    let reading: Vec<_> = subscribers
        .into_iter()
        .enumerate()
        .map(|(number, mut client)| {
            thread::spawn(move || {
                let read = |at| {
                    if number % 4 < 2 && at % 50 == 0 {
                        thread::sleep(Duration::from_millis(20));
                    }
                    let text = client.text();
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
                    client.say(&format!("{number} {at} {}", "x".repeat(length)));
                }
                client
            })
        })
        .collect();
    let publishers: Vec<Client> = sending.into_iter().map(|thread| thread.join().unwrap()).collect();
    let (clients, orders): (Vec<Client>, Vec<Vec<String>>) =
        reading.into_iter().map(|thread| thread.join().unwrap()).unzip();
    check_publishers(&orders[0], PUBLISHERS, MESSAGES);
    assert!(orders.iter().all(|order| *order == orders[0]), "subscribers see different orders");
    running.stop();
    for mut client in clients.into_iter().chain(publishers) {
        expect_close(&mut client);
    }
    running.wait_blocking().unwrap();
}
