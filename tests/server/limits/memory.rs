//! The limit of a server's memory.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use ringhub::proto::OpCode;

use crate::support::{Client, Received, Server, dial, dial_with, exchange, frame, pattern, read_response, text};

const HEALTH: &str = "GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// Messages whose end does not arrive take the memory. New connections are refused until the connections that hold the
/// most are closed; other connections, and monitors, are served.
#[test]
fn new_connections_are_refused_while_memory_is_short() {
    let flags = ["--max-memory=32MiB", "--shards=2", "--message-timeout=0", "--max-unfinished=256MiB"];
    let server = Server::start(&flags);
    let mut subscriber = server.connect("/t/x?mode=sub");
    let mut publisher = server.connect("/t/x?mode=pub");
    let begun = frame(OpCode::Binary, true, &pattern(0, 1_000_000));
    let mut hoarders: Vec<Client> = Vec::new();
    let refused = loop {
        match Client::open(dial(server.address()), "/t/y", &[]) {
            Ok(mut client) => {
                client.send_raw(&begun[..begun.len() - 1]);
                hoarders.push(client);
            }
            Err(response) => break response,
        }
        assert!(hoarders.len() < 500, "there is no limit");
    };
    assert_eq!((refused.status(), refused.header("retry-after")), (503, Some("1")));
    assert_eq!(refused.error(), "this server is short of memory");
    // The memory is looked at once in a tick, in which more may come.
    assert!(hoarders.len() >= 20, "{} messages", hoarders.len());
    assert_eq!(exchange(server.address(), HEALTH).status(), 200);
    publisher.send_text("still served");
    subscriber.expect(text("still served"));
    let counts = server.counts_until("the shortage counts", |counts| counts.get("memory_short_total") > 0);
    assert!(counts.get("refused_total{cause=\"memory\"}") > 0, "{counts:?}");
    assert_eq!(counts.get("memory_max_bytes"), 32 << 20);
    server.log_until("memory is above --max-memory");
    // The messages go, and nobody else: there is room again although no hoarder leaves by itself.
    let late = Client::open_when_there_is_room(server.address(), "/t/y");
    let counts = server.counts_until("hoarders are closed", |counts| counts.get("memory_closed_total") > 0);
    assert_eq!((counts.get("unfinished_closed_total"), counts.get("slow_closed_total")), (0, 0));
    publisher.send_text("and later");
    subscriber.expect(text("and later"));
    late.leave();
    drop(hoarders);
}

/// Returns a subscriber that is behind, and the message that it gets ten times.
fn subscriber_behind(server: &Server) -> (Client, Vec<u8>) {
    let behind = Client::open(dial_with(server.address(), Some(4_096)), "/t/x?mode=sub", &[]).expect("room");
    let mut publisher = server.connect("/t/x?mode=pub");
    let message = pattern(3, 30_000);
    (0..10).for_each(|_| publisher.send_binary(&message));
    server.counts_until("the subscriber is behind", |counts| counts.get("backlog_bytes") > 100_000);
    (behind, message)
}

/// Whoever fills the memory goes, and not a bystander that is behind for a moment: the connections that hold the most
/// are closed first, whatever they hold.
#[test]
fn a_slow_consumer_stays_while_messages_without_end_fill_the_memory() {
    let flags = [
        "--max-memory=48MiB",
        "--shards=1",
        "--send-buffer=4096",
        "--ping-interval=0",
        "--message-timeout=0",
        "--max-unfinished=256MiB",
    ];
    let server = Server::start(&flags);
    let (mut behind, message) = subscriber_behind(&server);
    let begun = frame(OpCode::Binary, true, &pattern(0, 1_000_000));
    let mut hoarders: Vec<Client> = Vec::new();
    let mut most = 0;
    while server.counts().get("memory_closed_total") < 10 {
        if let Ok(mut client) = Client::open(dial(server.address()), "/t/y", &[]) {
            client.send_raw(&begun[..begun.len() - 1]);
            hoarders.push(client);
        }
        most += 1;
        assert!(most < 2_000, "nothing is given up");
    }
    assert_eq!(server.counts().get("slow_closed_total"), 0);
    (0..10).for_each(|_| behind.expect(Received::Binary(message.clone())));
    behind.leave();
}

/// Opening requests whose end does not arrive end by themselves while they make memory short, the oldest first: a
/// subscriber that is behind does not pay for them.
#[test]
fn openings_without_end_are_given_up_when_they_fill_the_memory() {
    let flags = [
        "--max-memory=16MiB",
        "--shards=1",
        "--send-buffer=4096",
        "--ping-interval=0",
        "--handshake-timeout=10m",
        "--max-connections=2000",
    ];
    let server = Server::start(&flags);
    let (mut behind, message) = subscriber_behind(&server);
    let head = format!("GET /t/y HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(7_000));
    let mut begun: Vec<TcpStream> = Vec::new();
    while server.counts().get("memory_openings_ended_total") == 0 {
        for _ in 0..10 {
            let mut stream = dial(server.address());
            _ = stream.write_all(head.as_bytes());
            begun.push(stream);
        }
        // The memory is looked at once in a tick. Sockets that come meanwhile are refused.
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(begun.len() < 900, "there is no limit");
    }
    // Of many that end at once, some are closed without an answer.
    let mut answer = String::new();
    _ = begun[0].read_to_string(&mut answer);
    assert!(answer.is_empty() || answer.contains("this server is short of memory"), "{answer}");
    Client::open_when_there_is_room(server.address(), "/t/y").leave();
    let counts = server.counts();
    assert_eq!((counts.get("memory_closed_total"), counts.get("handshake_timeout_total")), (0, 0));
    assert!(counts.get("memory_openings_ended_total") < begun.len() as u64 / 2, "{counts:?}");
    (0..10).for_each(|_| behind.expect(Received::Binary(message.clone())));
    behind.leave();
}

/// Bodies that do not arrive whole give way too while memory is short.
#[test]
fn bodies_without_end_are_given_up_when_memory_is_short() {
    let flags = ["--max-memory=32MiB", "--shards=1", "--max-bodies=256MiB", "--body-timeout=1h"];
    let server = Server::start(&flags);
    let body = pattern(1, 1 << 20);
    let head = format!("POST /t/x HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
    let mut begun: Vec<TcpStream> = Vec::new();
    while server.counts().get("memory_bodies_given_up_total") == 0 {
        let mut stream = dial(server.address());
        // A server that is short of memory refuses the connection.
        _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body[..body.len() - 1]));
        begun.push(stream);
        assert!(begun.len() < 500, "there is no limit");
    }
    let counts = server.counts();
    assert!(counts.get("memory_short_total") > 0 && counts.get("refused_total{cause=\"memory\"}") < 500, "{counts:?}");
    drop(begun);
    server.counts_until("the bodies are gone", |counts| counts.get("memory_bytes{kind=\"bodies\"}") == 0);
}

/// The connection with the largest backlog is closed, with the reason; one with a smaller backlog stays, and so does an
/// opening handshake.
#[test]
fn the_largest_backlog_goes_first() {
    let flags = [
        "--max-memory=48MiB",
        "--max-backlog=1GiB",
        "--shards=1",
        "--send-buffer=4096",
        "--ping-interval=0",
        "--handshake-timeout=10m",
    ];
    let server = Server::start(&flags);
    let deaf = |target: &str| Client::open(dial_with(server.address(), Some(4_096)), target, &[]).expect("room");
    let (mut large, mut small) = (deaf("/t/large?mode=sub"), deaf("/t/small?mode=sub"));
    let mut begun = dial(server.address());
    begun.write_all(b"GET /t/x HTTP/1.1\r\n").expect("the server takes half a request");
    let message = pattern(7, 60_000);
    let mut publisher = dial(server.address());
    let mut publish = |target: &str| {
        let head = format!("POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", message.len());
        publisher.write_all(head.as_bytes()).expect("the server takes the head");
        publisher.write_all(&message).expect("the server takes the body");
        let response = read_response(&mut publisher, &[], true);
        assert_eq!(response.status(), 202, "{response:?}");
    };
    (0..50).for_each(|_| publish("/t/small"));
    let mut published = 0;
    while server.counts().get("memory_closed_total") == 0 {
        (0..10).for_each(|_| publish("/t/large"));
        published += 10;
        assert!(published < 5_000, "there is no limit");
    }
    server.expect_counts(&[("memory_closed_total", 1), ("slow_closed_total", 0), ("slow_consumers", 2)]);
    server.expect_counts(&[("memory_openings_ended_total", 0)]);
    let told = loop {
        match large.receive() {
            Received::Binary(bytes) => assert_eq!(bytes, message),
            other => break other,
        }
    };
    assert_eq!(told, Received::Close(Some(1008), "slow consumer, and the server is short of memory".into()));
    (0..50).for_each(|_| small.expect(Received::Binary(message.clone())));
    small.leave();
}
