//! Connections that end in the middle of a message or request, and peers that the network does not reach any more.

use std::{
    collections::HashSet,
    io::Write as _,
    net::{Shutdown, TcpStream},
};

use ringhub::proto::OpCode;
use rustix::process::Signal;
use socket2::{SockFilter, SockRef};

use crate::support::{
    Client, KernelSocket, Received, Server, ask, dial, dial_with, frame, pattern, post, request, reset, text,
};

/// The size of the largest message. There is room for four such bodies.
const LARGEST: usize = 1 << 20;
const BODIES: &[&str] = &["--shards=2", "--max-message=1MiB", "--max-bodies=4MiB", "--body-timeout=1h"];

/// The network under a client fails in the middle of a body. Half a body is no message, and its memory is free again.
#[test]
fn bodies_that_end_in_a_reset() {
    let server = Server::start(BODIES);
    let mut subscriber = server.connect("/t/x?mode=sub");
    let whole = post("/t/x", "text/plain", &"x".repeat(LARGEST));
    let head = whole.len() - LARGEST;
    for round in 0..20 {
        // The cuts are within the head, after it, and within the body. Together the bodies are far larger than their
        // limit.
        for cut in [10, head, head + 1, head + LARGEST / 2, whole.len() - 1] {
            let mut stream = dial(server.address());
            stream.write_all(&whole.as_bytes()[..cut]).unwrap();
            // Every second round ends orderly.
            if round % 2 == 0 { reset(stream) } else { drop(stream) }
        }
    }
    server.expect_counts(&[("http_connections_open", 0), ("messages_in_total", 0), ("connections_open", 1)]);
    let mut streams: Vec<TcpStream> = (0..3).map(|_| dial(server.address())).collect();
    for stream in &mut streams {
        stream.write_all(&whole.as_bytes()[..whole.len() - 1]).unwrap();
    }
    for stream in &mut streams {
        assert_eq!(ask(stream, "x").status(), 202, "the memory of the broken bodies is not free");
        subscriber.expect(text(&whole[head..]));
    }
    subscriber.expect_nothing();
    KernelSocket::until_none("sockets without a descriptor", || KernelSocket::without_descriptor(&server));
}

/// Clients reset their connections before they have an answer: each message is published once or not at all.
#[test]
fn posts_whose_clients_do_not_wait_for_the_answer() {
    const COUNT: usize = 200;
    let server = Server::start(BODIES);
    let mut subscriber = server.connect("/t/x?mode=sub");
    for number in 0..COUNT {
        let mut stream = dial(server.address());
        stream.write_all(post("/t/x", "text/plain", &number.to_string()).as_bytes()).unwrap();
        reset(stream);
    }
    server.expect_counts(&[("http_connections_open", 0), ("connections_open", 1)]);
    let mut stream = dial(server.address());
    assert_eq!(ask(&mut stream, &post("/t/x", "text/plain", "last")).status(), 202);
    let mut seen = HashSet::new();
    loop {
        match subscriber.receive() {
            Received::Text(last) if last == "last" => break,
            Received::Text(number) => assert!(seen.insert(number.clone()), "{number} twice"),
            other => panic!("{other:?}"),
        }
    }
    println!("{} of {COUNT} were published", seen.len());
    server.expect_counts(&[("messages_in_total", seen.len() as u64 + 1)]);
}

/// A client's messages before its end are all published, in order, for each way to end and for each home of the topic.
#[test]
fn messages_in_front_of_an_end() {
    const MESSAGES: usize = 300;
    let server = Server::start(&["--shards=4"]);
    let large = "x".repeat(3_000);
    for (round, topic) in ["a", "b", "c", "d", "e", "f", "g", "h"].into_iter().cycle().take(24).enumerate() {
        let mut subscriber = server.connect(&format!("/t/{topic}?mode=sub"));
        let mut stream = server.connect(&format!("/t/{topic}?mode=pub")).into_stream();
        let message =
            |number: usize| format!("{round} {number} {}", if number.is_multiple_of(10) { &large } else { "" });
        let mut bytes = Vec::new();
        (0..MESSAGES)
            .for_each(|number| bytes.extend_from_slice(&frame(OpCode::Text, true, message(number).as_bytes())));
        if round % 3 == 0 {
            bytes.extend_from_slice(&frame(OpCode::Close, true, &1000_u16.to_be_bytes()));
        }
        // In half of the rounds the server reads the messages as they arrive. In the others they wait in the socket,
        // with the end after them.
        let is_stopped = round % 4 >= 2;
        if is_stopped {
            server.signal(Signal::STOP);
        }
        stream.write_all(&bytes).unwrap();
        // The client ends its side, or closes its socket. The server has sent nothing, so the kernel sends no reset.
        let kept = (round % 2 == 0).then(|| {
            stream.shutdown(Shutdown::Write).unwrap();
            stream.try_clone().unwrap()
        });
        drop(stream);
        if is_stopped {
            server.signal(Signal::CONT);
        }
        (0..MESSAGES).for_each(|number| subscriber.expect(text(&message(number))));
        subscriber.leave();
        drop(kept);
    }
    server.expect_counts(&[("connections_open", 0), ("messages_in_total", 24 * MESSAGES as u64)]);
    assert_eq!(server.counts().get("protocol_errors_total"), 0);
}

/// A client that has shut down its reading side publishes as before, and is closed as a slow consumer in the end.
#[test]
fn a_client_that_shuts_down_its_reading_side() {
    let limits = ["--max-message=64KiB", "--max-backlog=256KiB", "--send-buffer=4096", "--close-timeout=1s"];
    let server = Server::start(&[&limits[..], &["--shards=2"]].concat());
    let mut subscriber = server.connect("/t/x?mode=sub");
    let mut publisher = server.connect("/t/x?mode=pub");
    let mut deaf = Client::open(dial_with(server.address(), Some(4_096)), "/t/x", &[]).unwrap();
    deaf.stream().shutdown(Shutdown::Read).unwrap();
    let mut sent = 0;
    while server.counts().get("slow_closed_total") == 0 {
        publisher.send_binary(&pattern(sent, 30_000));
        subscriber.expect(crate::support::binary(&pattern(sent, 30_000)));
        // With more than half of its backlog's limit the client is parked.
        if sent < 3 {
            deaf.send_text(&format!("from the deaf {sent}"));
            subscriber.expect(text(&format!("from the deaf {sent}")));
        }
        sent += 1;
        assert!(sent < 100, "a backlog has no limit");
    }
    server.expect_counts(&[("close_timeout_total", 1), ("reset_total", 1), ("connections_open", 2)]);
    KernelSocket::until_none("sockets without a descriptor", || KernelSocket::without_descriptor(&server));
    publisher.send_text("still here");
    subscriber.expect(text("still here"));
}

/// Clients shut down both sides of their sockets while a topic is busy: the kernel answers messages for them with a
/// reset.
#[test]
fn clients_that_shut_down_both_sides() {
    const COUNT: usize = 50;
    let server = Server::start(&["--shards=2"]);
    let mut subscriber = server.connect("/t/x?mode=sub");
    let mut publisher = server.connect("/t/x?mode=pub");
    let clients: Vec<Client> = (0..COUNT).map(|_| server.connect("/t/x")).collect();
    for (number, client) in clients.iter().enumerate() {
        publisher.send_binary(&pattern(number, 20_000));
        client.stream().shutdown(Shutdown::Both).unwrap();
    }
    (0..COUNT).for_each(|number| subscriber.expect(crate::support::binary(&pattern(number, 20_000))));
    server.expect_counts(&[("aborted_total", COUNT as u64), ("connections_open", 2), ("slow_consumers", 0)]);
    KernelSocket::until_none("sockets without a descriptor", || KernelSocket::without_descriptor(&server));
}

/// Peers that do not even acknowledge any more: idle ones, ones that messages are on their way to, and one that has not
/// read its answer. The server ends their connections, and nothing of them stays in the kernel.
#[test]
fn peers_behind_a_dead_network() {
    const COUNT: usize = 20;
    let times = ["--ping-interval=300ms", "--pong-timeout=2s", "--close-timeout=300ms", "--body-timeout=1s"];
    let server = Server::start(&[&times[..], &["--shards=2", "--send-buffer=64KiB"]].concat());
    let mut subscriber = server.connect("/t/x?mode=sub");
    let mut publisher = server.connect("/t/x?mode=pub");
    let gone: Vec<Client> = (0..COUNT)
        .map(|number| {
            let target = if number % 2 == 0 { "/t/x" } else { "/t/idle" };
            let client = Client::open(dial_with(server.address(), Some(4_096)), target, &[]).unwrap();
            cut_off(client.stream());
            client
        })
        .collect();
    let mut asked = dial_with(server.address(), Some(4_096));
    asked.write_all(request("GET", "/").repeat(6).as_bytes()).unwrap();
    asked.peek(&mut [0]).unwrap();
    cut_off(&asked);
    let mut next = 0;
    let mut publish = |publisher: &mut Client, subscriber: &mut Client| {
        publisher.send_text(&next.to_string());
        loop {
            match subscriber.receive() {
                Received::Ping(_) => {}
                other => break assert_eq!(other, text(&next.to_string())),
            }
        }
        next += 1;
    };
    let count = COUNT as u64;
    server.counts_until("all are ended", |counts| {
        publish(&mut publisher, &mut subscriber);
        let given_up = counts.get("pong_timeout_total") == count && counts.get("close_timeout_total") == count;
        given_up && counts.get("http_too_slow_total") == 1
    });
    server.expect_counts(&[("reset_total", count), ("connections_open", 2), ("http_connections_open", 0)]);
    KernelSocket::until_none("sockets without a descriptor", || KernelSocket::without_descriptor(&server));
    KernelSocket::until_none("sockets besides the two", || {
        let mut sockets = KernelSocket::open_ones(server.address().port());
        sockets.truncate(sockets.len().saturating_sub(2));
        sockets
    });
    drop((gone, asked));
}

/// Lets the kernel drop all that arrives for this socket from now on, acknowledgements included. The socket still
/// sends.
pub(crate) fn cut_off(stream: &TcpStream) {
    // A program of BPF with one instruction: return 0, the number of bytes to accept (BPF_RET | BPF_K).
    SockRef::from(stream).attach_filter(&[SockFilter::new(0x06, 0, 0, 0)]).unwrap();
}
