//! Hostile clients and broken networks beside a broadcast that must not notice them: one publisher, and twenty
//! subscribers that get every message once and in order.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use ringhub::proto::OpCode;
use rustix::process::{Resource, Rlimit, prlimit};

use crate::support::{
    Client, CrowdPermit, Received, Server, binary, close, dial, dial_with, frame, pattern, read_response, reset, text,
    upgrade_request,
};

/// The server ends connections whose heads stop, trickle or never begin, at the deadline. Then their places are free.
#[test]
fn slow_heads() {
    let server = Server::start(&["--handshake-timeout", "500ms", "--max-connections", "60"]);
    let broadcast = Broadcast::start(&server);
    let request = upgrade_request("/t/x");
    let slow: Vec<TcpStream> = (0..30).map(|_| dial(server.address())).collect();
    for (number, mut stream) in slow.iter().enumerate() {
        stream.write_all(&request.as_bytes()[..number * 4]).unwrap();
    }
    let trickler = thread::spawn({
        let mut stream = dial(server.address());
        // A byte now and then does not help: the deadline is for the whole head.
        move || {
            while stream.write_all(b"G").is_ok() {
                thread::sleep(Duration::from_millis(20));
            }
        }
    });
    for mut stream in slow {
        let mut rest = Vec::new();
        // Input that the server has not read may turn the end into a reset.
        drop(stream.read_to_end(&mut rest));
        assert!(rest.is_empty(), "{rest:?}");
    }
    trickler.join().unwrap();
    server.expect_counts(&[("handshake_timeout_total", 31), ("refused_total{cause=\"limit\"}", 0)]);
    let filled: Vec<Client> = (0..60 - Broadcast::CONNECTIONS).map(|_| server.connect("/t/x")).collect();
    drop(filled);
    broadcast.finish();
}

/// A message that never ends is refused when it is too large, or has too many fragments.
#[test]
fn endless_fragments() {
    let server = Server::start(&["--max-fragments", "100"]);
    let broadcast = Broadcast::start(&server);
    for (size, error) in
        [(100_000, "a message is larger than 1048576 bytes"), (0, "a message has more than 100 fragments")]
    {
        let mut client = server.connect("/t/x");
        client.send(OpCode::Binary, false, &[]);
        let piece = frame(OpCode::Continuation, false, &vec![0; size]);
        // The writes fail when the server ends the connection.
        let mut stream = client.stream().try_clone().unwrap();
        let sender = thread::spawn(move || while stream.write_all(&piece).is_ok() {});
        client.expect(close(1009, error));
        drop(client.into_stream().shutdown(std::net::Shutdown::Both));
        sender.join().unwrap();
    }
    server.expect_counts(&[("protocol_errors_total", 2)]);
    broadcast.finish();
}

/// A subscriber that never reads is closed with a reason and counted. The others on its topic get everything.
#[test]
fn a_subscriber_that_never_reads() {
    let limits =
        ["--max-message", "64KiB", "--max-backlog", "256KiB", "--send-buffer", "16KiB", "--close-timeout", "60s"];
    // On another shard than its peer, the subscriber might be closed only after the peer has got further messages.
    let server = Server::start(&[&limits[..], &["--shards", "1"]].concat());
    let broadcast = Broadcast::start(&server);
    let mut slow = Client::open(dial_with(server.address(), Some(4_096)), "/t/x?mode=sub", &[]).unwrap();
    let mut fast = server.connect("/t/x?mode=sub");
    let mut publisher = server.connect("/t/x?mode=pub");
    let mut sent = 0;
    while server.counts().get("slow_closed_total") == 0 {
        publisher.send_binary(&pattern(sent, 60_000));
        fast.expect(binary(&pattern(sent, 60_000)));
        // The message has its place in the backlog when the shard takes input again: a message that comes after the
        // close is neither received nor dropped.
        fast.expect_nothing();
        sent += 1;
        assert!(sent < 1_000, "a backlog has no limit");
    }
    // The subscriber gets the first messages, in order and without a gap, then the reason.
    let mut received = 0;
    loop {
        match slow.receive() {
            Received::Close(code, reason) => {
                assert_eq!((code, &*reason), (Some(1008), "slow consumer"));
                break;
            }
            message => assert!(message == binary(&pattern(received, 60_000)), "{message:?} is not number {received}"),
        }
        received += 1;
    }
    slow.expect(Received::End);
    drop(slow);
    assert!(received < sent, "no message was dropped");
    publisher.send_text("still here");
    fast.expect(text("still here"));
    broadcast.finish();
    server.expect_counts(&[
        ("slow_closed_total", 1),
        ("slow_dropped_total", (sent - received) as u64),
        ("slow_consumers", 0),
        ("aborted_total", 0),
    ]);
}

/// For messages of any size, a backlog holds as many bytes as `--max-backlog` says.
#[test]
fn a_backlog_is_as_large_as_its_limit() {
    for length in [17, 1_000, 16_383, 16_384, 65_536, 1 << 20] {
        let (message, limit) = if length <= 65_536 { ("64KiB", 1 << 20) } else { ("1MiB", 8 << 20) };
        let max_backlog = limit.to_string();
        let limits = ["--max-message", message, "--max-backlog", &max_backlog, "--max-backlog-messages", "1000000"];
        let server = Server::start(&[&limits[..], &["--send-buffer", "4096", "--close-timeout", "60s"]].concat());
        let slow = Client::open(dial_with(server.address(), Some(4_096)), "/t/x?mode=sub", &[]).unwrap();
        let mut fast = server.connect("/t/x?mode=sub");
        let mut publisher = server.connect("/t/x?mode=pub");
        let together = (16_384 / length).max(1);
        let mut bytes = 0;
        while server.counts().get("slow_closed_total") == 0 {
            (0..together).for_each(|at| publisher.send_binary(&pattern(at, length)));
            (0..together).for_each(|at| fast.expect(binary(&pattern(at, length))));
            bytes += together * length;
            assert!(bytes < 3 * limit, "a backlog of messages of {length} has no limit");
        }
        // The buffers of both sockets take the first messages. With tiny messages the headers count too.
        let (least, kernel) = (limit * 3 / 4, 256 * 1_024 + 2 * length);
        assert!(bytes >= least, "{bytes} bytes in messages of {length} were too many for a backlog of {limit}");
        assert!(
            bytes <= limit * 11 / 10 + kernel,
            "{bytes} bytes in messages of {length} fit into a backlog of {limit}"
        );
        // A backlog holds at least two of the largest messages.
        assert!(bytes >= 2 * length);
        drop(slow);
    }
}

/// Each of a crowd of slow consumers is closed and counted; the log has at most one line about them in ten seconds.
#[test]
fn subscribers_that_never_read_do_not_fill_the_log() {
    const COUNT: usize = 50;
    let limits = ["--max-message", "64KiB", "--max-backlog", "128KiB", "--send-buffer", "4096"];
    let begun = Instant::now();
    let mut server = Server::start(&[&limits[..], &["--close-timeout", "60s", "--shards", "2"]].concat());
    let slow: Vec<Client> = (0..COUNT)
        .map(|_| Client::open(dial_with(server.address(), Some(4_096)), "/t/x?mode=sub", &[]).unwrap())
        .collect();
    let mut publisher = server.connect("/t/x?mode=pub");
    while server.counts().get("slow_closed_total") < COUNT as u64 {
        publisher.send_binary(&pattern(0, 60_000));
    }
    drop(slow);
    publisher.leave();
    server.expect_counts(&[("connections_open", 0)]);
    expect_few(&server.end(), "slow consumer", begun, Duration::from_secs(10));
}

/// At the level `debug` the log names the topic whose messages a slow consumer did not get.
#[test]
fn the_log_names_the_topics_of_dropped_messages() {
    let limits = ["--max-message", "64KiB", "--max-backlog", "128KiB", "--send-buffer", "4096", "--log", "debug"];
    let mut server = Server::start(&limits);
    let slow = Client::open(dial_with(server.address(), Some(4_096)), "/t/x?mode=sub", &[]).unwrap();
    let mut publisher = server.connect("/t/x?mode=pub");
    while server.counts().get("slow_closed_total") == 0 {
        publisher.send_binary(&pattern(0, 60_000));
    }
    drop(slow);
    publisher.leave();
    server.expect_counts(&[("connections_open", 0)]);
    let log = server.end();
    let line = log.lines().find(|line| line.contains("messages of the topic were dropped"));
    assert!(line.is_some_and(|line| line.contains("topic=x ") && line.contains("dropped_topics=1")), "{log}");
}

/// A subscriber that never reads is closed for the number of its messages, long before their bytes are too many.
#[test]
fn a_backlog_of_too_many_messages() {
    let limits = ["--max-backlog-messages", "50", "--max-backlog", "1GiB", "--send-buffer", "4096"];
    let server = Server::start(&[&limits[..], &["--close-timeout", "60s"]].concat());
    let mut slow = Client::open(dial_with(server.address(), Some(4_096)), "/t/x?mode=sub", &[]).unwrap();
    let mut publisher = server.connect("/t/x?mode=pub");
    let mut sent = 0;
    while server.counts().get("slow_closed_total") == 0 {
        for _ in 0..20 {
            publisher.send_binary(&pattern(sent, 1_000));
            sent += 1;
        }
        assert!(sent < 10_000, "a backlog has no limit");
    }
    let mut received = 0;
    while let Received::Binary(message) = slow.receive() {
        assert_eq!(message, pattern(received, 1_000));
        received += 1;
    }
    slow.expect(Received::End);
    assert!(received < sent, "no message was dropped");
}

/// A subscriber that never reads and never leaves is dropped when the closing handshake has taken too long.
#[test]
fn a_subscriber_that_never_reads_its_close() {
    let server = Server::start(&["--max-message", "64KiB", "--close-timeout", "300ms", "--send-buffer", "4096"]);
    let deaf = Client::open(dial_with(server.address(), Some(4_096)), "/t/x?mode=sub", &[]).unwrap();
    let mut publisher = server.connect("/t/x?mode=pub");
    for number in 0..200 {
        publisher.send_binary(&pattern(number, 60_000));
    }
    publisher.expect_nothing();
    server.expect_counts(&[("slow_closed_total", 1), ("close_timeout_total", 1), ("connections_open", 1)]);
    drop(deaf);
}

/// The network under a client fails in the middle of a frame.
#[test]
fn resets_within_a_frame() {
    let server = Server::start(&[]);
    let broadcast = Broadcast::start(&server);
    let mut subscriber = server.connect("/t/x");
    let message = frame(OpCode::Binary, true, &pattern(1, 100_000));
    for cut in [1, 2, 3, 9, 13, 14, 1_000, 70_000, 100_013] {
        let mut client = server.connect("/t/x");
        client.send_raw(&message[..cut]);
        reset(client.into_stream());
    }
    for cut in [1, 14, 70_000] {
        let mut client = server.connect("/t/x");
        client.send_raw(&message[..cut]);
        drop(client);
    }
    // Half a message is not published.
    server.expect_counts(&[("connections_open", Broadcast::CONNECTIONS as u64 + 1), ("aborted_total", 12)]);
    subscriber.expect_nothing();
    broadcast.finish();
}

/// Peers whose kernel still answers but whose program does not: no pong comes, so the server closes them.
#[test]
fn half_open_peers() {
    let server = Server::start(&["--ping-interval", "300ms", "--pong-timeout", "3s", "--close-timeout", "300ms"]);
    let broadcast = Broadcast::start(&server);
    let mut gone: Vec<Client> = (0..20).map(|_| server.connect("/t/x")).collect();
    for client in &mut gone {
        client.never_answer();
    }
    let mut quiet = server.connect("/t/y");
    let quiet = thread::spawn(move || {
        for _ in 0..8 {
            quiet.expect(Received::Ping(Vec::new()));
        }
        quiet.leave();
    });
    server.counts_until("all are closed", |counts| counts.get("close_timeout_total") == 20);
    for client in &mut gone {
        client.expect(Received::Ping(Vec::new()));
        client.expect(close(1011, "no answer to a ping"));
        assert!(matches!(client.receive(), Received::End | Received::Reset));
    }
    // A client that only answers pings stays.
    quiet.join().unwrap();
    server.expect_counts(&[("pong_timeout_total", 20)]);
    broadcast.finish();
}

/// A pong may take longer than the interval between two pings, and the pings still come in this interval. One client
/// gets three pings before the first pong of another client is overdue.
#[test]
fn pings_come_again_however_long_a_pong_may_take() {
    let server = Server::start(&["--ping-interval", "200ms", "--pong-timeout", "10s"]);
    let mut deaf = server.connect("/t/x");
    deaf.never_answer();
    let mut client = server.connect("/t/x");
    for _ in 0..3 {
        client.expect(Received::Ping(Vec::new()));
    }
    assert_eq!(server.counts().get("pong_timeout_total"), 0);
    client.leave();
}

/// Without a pong timeout a silent client is pinged and never closed. Without an interval it is not pinged.
#[test]
fn pings_without_consequences() {
    let server = Server::start(&["--ping-interval", "200ms", "--pong-timeout", "0"]);
    let mut deaf = server.connect("/t/x");
    deaf.never_answer();
    for _ in 0..3 {
        deaf.expect(Received::Ping(Vec::new()));
    }
    deaf.leave();
    server.expect_counts(&[("pong_timeout_total", 0), ("connections_open", 0)]);
}

/// Ten thousand connections, or as many as this process may open, never send a byte.
#[test]
fn connections_without_a_byte() {
    let permit = CrowdPermit::take();
    let count = (permit.descriptors() / 2).min(10_000);
    println!("{count} connections, of {} descriptors", permit.descriptors());
    let limit = (count + 100).to_string();
    let server = Server::start(&["--max-connections", &limit, "--handshake-timeout", "1h"]);
    let broadcast = Broadcast::start(&server);
    let silent: Vec<TcpStream> = (0..count).map(|_| dial(server.address())).collect();
    let all = (count + Broadcast::CONNECTIONS) as u64;
    server.expect_counts(&[("accepted_total", all), ("refused_total{cause=\"limit\"}", 0)]);
    server.connect("/t/x").leave();
    drop(silent);
    let mut clients: Vec<Client> = Vec::new();
    // The places of the silent connections are free again: more clients find room than before.
    while clients.len() < 200 {
        clients.push(Client::open_when_there_is_room(server.address(), "/t/x"));
    }
    broadcast.finish();
}

/// The server stops reading from a client that does not read its pongs, and closes it when it does not answer a ping.
#[test]
fn pings_from_a_client_that_never_reads() {
    let times = ["--ping-interval", "500ms", "--pong-timeout", "500ms", "--close-timeout", "300ms"];
    let server = Server::start(&[&["--send-buffer", "4096"][..], &times].concat());
    let broadcast = Broadcast::start(&server);
    let client = Client::open(dial_with(server.address(), Some(4_096)), "/t/x", &[]).unwrap();
    let pings = frame(OpCode::Ping, true, &pattern(1, 125)).repeat(500);
    let mut stream = client.into_stream();
    let sender = thread::spawn(move || {
        // The writes go on until the server ends the connection.
        while stream.write_all(&pings).is_ok() {}
    });
    server.expect_counts(&[("pong_timeout_total", 1), ("connections_open", Broadcast::CONNECTIONS as u64)]);
    assert!(server.counts().get("parked_total") > 0, "the server never stopped reading");
    sender.join().unwrap();
    broadcast.finish();
}

/// The server closes a client that reads nothing, whatever the client sends. One of the two tested clients is parked,
/// the other is not.
#[test]
fn a_client_that_takes_nothing_is_given_up_whatever_it_sends() {
    let times = ["--ping-interval", "500ms", "--pong-timeout", "500ms", "--close-timeout", "300ms"];
    let limits = ["--send-buffer", "4096", "--max-message", "64KiB", "--max-backlog", "2MiB"];
    for (messages, is_parked) in [(10, false), (25, true)] {
        let server = Server::start(&[&limits[..], &times].concat());
        let client = Client::open(dial_with(server.address(), Some(4_096)), "/t/x", &[]).unwrap();
        let mut stream = client.into_stream();
        let sender = thread::spawn(move || {
            // The client sends pongs byte by byte, until a write fails.
            let pong = frame(OpCode::Pong, true, b"");
            while pong.iter().all(|&byte| {
                thread::sleep(Duration::from_millis(50));
                stream.write_all(&[byte]).is_ok()
            }) {}
        });
        let mut publisher = server.connect("/t/x?mode=pub");
        (0..messages).for_each(|number| publisher.send_binary(&pattern(number, 65_000)));
        publisher.leave();
        server.expect_counts(&[("pong_timeout_total", 1), ("slow_closed_total", 0), ("connections_open", 0)]);
        assert_eq!(server.counts().get("parked_total") > 0, is_parked, "{messages} messages");
        sender.join().unwrap();
    }
}

/// A client that sends its close frame and ends its side at once is gone at once, and its close is clean. So is one
/// that closes its socket, whose kernel answers the close frame with a reset.
#[test]
fn close_frames_followed_by_the_end() {
    let server = Server::start(&["--close-timeout", "1h"]);
    let close_frame = frame(OpCode::Close, true, b"\x03\xe8");
    for number in 0..200 {
        let mut stream = server.connect("/t/x").into_stream();
        stream.write_all(&close_frame).unwrap();
        if number % 2 == 0 {
            continue;
        }
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"\x88\x02\x03\xe8");
    }
    server.expect_counts(&[("connections_open", 0), ("close_timeout_total", 0), ("reset_total", 0)]);
}

/// A message has `message_timeout` from its first byte on, whatever else its client sends meanwhile. Between two
/// messages this timeout does not run.
#[test]
fn messages_that_take_too_long() {
    let server = Server::start(&["--message-timeout", "500ms", "--close-timeout", "1s"]);
    let broadcast = Broadcast::start(&server);
    let mut idle = server.connect("/t/x");
    idle.send_text("whole");
    let large = frame(OpCode::Binary, true, &pattern(1, 100_000));
    let first_fragment = frame(OpCode::Text, false, b"");
    for begun in [&large[..1], &large[..20], &large[..90_000], &first_fragment] {
        let mut client = server.connect("/t/y");
        client.send_raw(begun);
        client.expect_close(1008, "a message did not arrive in time");
        // The same bytes come in one write with the opening request.
        let mut client = Client::open(dial(server.address()), "/t/y", begun).unwrap();
        client.expect_close(1008, "a message did not arrive in time");
    }
    let mut trickler = server.connect("/t/y");
    let mut stream = trickler.stream().try_clone().unwrap();
    let sender = thread::spawn(move || {
        let mut pieces = large.chunks(100);
        while pieces.next().is_some_and(|piece| stream.write_all(piece).is_ok()) {
            thread::sleep(Duration::from_millis(20));
        }
    });
    trickler.expect(close(1008, "a message did not arrive in time"));
    // The client's close frame would be read as a part of the unfinished frame, so the closing handshake does not end.
    assert!(matches!(trickler.receive(), Received::End | Received::Reset));
    drop(trickler);
    sender.join().unwrap();
    let mut pinger = server.connect("/t/y");
    pinger.send_raw(&first_fragment);
    loop {
        pinger.send_raw(&frame(OpCode::Ping, true, b""));
        match pinger.receive() {
            Received::Pong(_) => thread::sleep(Duration::from_millis(20)),
            other => break assert_eq!(other, close(1008, "a message did not arrive in time")),
        }
    }
    idle.expect_nothing();
    server.expect_counts(&[("message_timeout_total", 10), ("protocol_errors_total", 0)]);
    broadcast.finish();
}

/// The message's timeout does not run while the server does not read from the client.
#[test]
fn a_client_that_is_not_read_from_has_its_time() {
    let limits = ["--message-timeout", "3s", "--send-buffer", "4096", "--max-backlog", "20MiB"];
    let server = Server::start(&limits);
    let mut slow = Client::open(dial_with(server.address(), Some(4_096)), "/t/x", &[]).unwrap();
    let mut publisher = server.connect("/t/x");
    let publish = |publisher: &mut Client, numbers: std::ops::Range<usize>| {
        for number in numbers {
            publisher.send_binary(&pattern(number, 64_000));
        }
        publisher.expect_nothing();
    };
    publish(&mut publisher, 0..150);
    let received = server.counts().get("bytes_in_total");
    let whole = frame(OpCode::Text, true, b"in two halves");
    slow.send_raw(&whole[..4]);
    server.counts_until("its message has begun", |counts| counts.get("bytes_in_total") == received + 4);
    // These messages are more than half of the backlog's limit.
    publish(&mut publisher, 150..200);
    slow.send_raw(&whole[4..8]);
    server.counts_until("the client is parked", |counts| counts.get("parked_total") > 0);
    // The pause is longer than `message_timeout`.
    thread::sleep(Duration::from_secs(5));
    for number in 0..200 {
        slow.expect(binary(&pattern(number, 64_000)));
    }
    slow.send_raw(&whole[8..]);
    publisher.expect(text("in two halves"));
    slow.leave();
    server.expect_counts(&[("message_timeout_total", 0)]);
}

/// All unfinished messages have one limit together: the oldest give way, and later ones arrive.
#[test]
fn unfinished_messages_have_a_limit_together() {
    let limits = ["--max-message", "64KiB", "--max-backlog", "128KiB", "--max-unfinished", "256KiB"];
    // The first closed client answers only after the last one has connected, which takes a busy machine seconds.
    let server = Server::start(&[&limits[..], &["--close-timeout", "60s"]].concat());
    let broadcast = Broadcast::start(&server);
    let message = frame(OpCode::Binary, true, &pattern(1, 65_000));
    let mut clients: Vec<Client> = Vec::new();
    for number in 1..=20 {
        let mut client = server.connect("/t/y?mode=pub");
        client.send_raw(&message[..60_000]);
        clients.push(client);
        server.counts_until("the message has arrived", |counts| counts.get("bytes_in_total") >= 60_000 * number);
    }
    let mut subscriber = server.connect("/t/y?mode=sub");
    let mut last = clients.pop().unwrap();
    last.send_raw(&message[60_000..]);
    subscriber.expect(binary(&pattern(1, 65_000)));
    for mut client in clients.drain(..10) {
        // A close frame in the middle of another frame would be a part of that frame, and the close would time out.
        client.send_raw(&message[60_000..]);
        client.expect_close(1013, "too many messages are unfinished");
    }
    let closed = server.counts().get("unfinished_closed_total");
    assert!((15..=18).contains(&closed), "{closed} of 20 were closed, of which four have room");
    broadcast.finish();
}

/// Each way to break the protocol has its close code (RFC 6455 7.4.1), and ends only the connection that did it.
#[test]
fn protocol_errors() {
    let server = Server::start(&[]);
    let broadcast = Broadcast::start(&server);
    let mut subscriber = server.connect("/t/x");
    let masked = |first: u8, length: u8, payload: &[u8]| [&[first, 0x80 | length, 0, 0, 0, 0], payload].concat();
    let long = |first: u8, length: [u8; 8]| [&[first, 0xff][..], &length, &[0; 4]].concat();
    let cases: Vec<(Vec<u8>, u16, &str)> = vec![
        (vec![0x81, 0x02, b'h', b'i'], 1002, "a client's frame is not masked"),
        (masked(0xc1, 0, b""), 1002, "a reserved bit is set"),
        (masked(0xa1, 0, b""), 1002, "a reserved bit is set"),
        (masked(0x91, 0, b""), 1002, "a reserved bit is set"),
        (masked(0x83, 0, b""), 1002, "opcode 3 is reserved"),
        (masked(0x8f, 0, b""), 1002, "opcode 15 is reserved"),
        (masked(0x80, 0, b""), 1002, "a continuation frame continues nothing"),
        ([masked(0x01, 0, b""), masked(0x81, 0, b"")].concat(), 1002, "a message began inside a fragmented one"),
        (masked(0x09, 0, b""), 1002, "a control frame is fragmented"),
        (masked(0x89, 126, &[0, 126]), 1002, "a control frame is longer than 125 bytes"),
        (masked(0x88, 1, &[0x03]), 1002, "a close frame has half a close code"),
        (masked(0x88, 2, &[0x03, 0xed]), 1002, "close code 1005 must not be sent"),
        (masked(0x88, 2, &[0x00, 0x00]), 1002, "close code 0 must not be sent"),
        (masked(0x88, 3, &[0x03, 0xe8, 0xff]), 1007, "a close reason is not UTF-8"),
        ([&[0x82, 0xfe, 0, 5][..], &[0; 9]].concat(), 1002, "a payload length is not in its shortest form"),
        (long(0x82, [0, 0, 0, 0, 0, 0, 0, 1]), 1002, "a payload length is not in its shortest form"),
        (long(0x82, [0xff; 8]), 1002, "a payload length has its highest bit set"),
        (long(0x82, [0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), 1009, "a message is larger than 1048576 bytes"),
        (masked(0x81, 2, &[0xc3, 0x28]), 1007, "a text message is not UTF-8"),
        (masked(0x81, 3, &[0xed, 0xa0, 0x80]), 1007, "a text message is not UTF-8"),
        // The server sees the bad octet before the rest of the frame has come.
        (masked(0x81, 100, &[b'a', 0xff]), 1007, "a text message is not UTF-8"),
        ([masked(0x01, 1, &[0xc3]), masked(0x80, 1, &[0x28])].concat(), 1007, "a text message is not UTF-8"),
        ([masked(0x01, 1, &[0xc3]), masked(0x80, 0, b"")].concat(), 1007, "a text message is not UTF-8"),
    ];
    for (bytes, code, error) in &cases {
        let mut client = server.connect("/t/x");
        client.send_raw(bytes);
        client.expect_close(*code, error);
    }
    subscriber.expect_nothing();
    // Only the broadcast's messages count: no broken message was published.
    let sent = broadcast.finish();
    server.expect_counts(&[("protocol_errors_total", cases.len() as u64), ("messages_in_total", sent)]);
}

/// Thousands of clients join and leave the broadcast's topic, some without a closing handshake.
#[test]
fn connection_churn() {
    let server = Server::start(&[]);
    let broadcast = Broadcast::start(&server);
    let address = server.address();
    let churners: Vec<JoinHandle<()>> = (0..4)
        .map(|own: usize| {
            thread::spawn(move || {
                for round in 0..250 {
                    let mut client = Client::connect(address, Broadcast::TOPIC);
                    match (own + round) % 4 {
                        0 => drop(client),
                        1 => reset(client.into_stream()),
                        2 => drop(client.receive()),
                        _ => {
                            client.send_close(1000, "");
                            while !matches!(client.receive(), Received::Close(..)) {}
                        }
                    }
                }
            })
        })
        .collect();
    for churner in churners {
        churner.join().unwrap();
    }
    server.expect_counts(&[
        ("connections_open", Broadcast::CONNECTIONS as u64),
        ("opened_total", Broadcast::CONNECTIONS as u64 + 1_000),
        ("ended_total", 1_000),
    ]);
    broadcast.finish();
}

/// When descriptors are used up, the server stops accepting and keeps its connections. When some are free again, it
/// accepts again.
///
/// At its start the server checks that its descriptors suffice, so the test lowers the limit while it runs.
#[test]
fn descriptors_used_up() {
    let begun = Instant::now();
    let mut server = Server::start(&["--max-connections", "1"]);
    let limit = Some(64);
    prlimit(Some(server.pid()), Resource::Nofile, Rlimit { current: limit, maximum: limit }).unwrap();
    let mut client = server.connect("/t/x?echo=true");
    let mut waiting: Vec<TcpStream> = (0..100).map(|_| dial(server.address())).collect();
    server.counts_until("accepting pauses", |counts| counts.get("accept_paused_total") >= 12);
    client.send_text("undisturbed");
    client.expect(text("undisturbed"));
    // A connection that waits in the kernel's queue is served when others have gone.
    let mut last = waiting.pop().unwrap();
    drop(waiting);
    last.write_all(upgrade_request("/t/x").as_bytes()).unwrap();
    assert_eq!(read_response(&mut last, &[], true).status(), 503);
    client.leave();
    server.expect_counts(&[("connections_open", 0)]);
    Client::open_when_there_is_room(server.address(), "/t/x").leave();
    expect_few(&server.end(), "accepting pauses", begun, MINUTE);
}

/// Connections for which there is no place, not even for a refusal, are closed without an answer. The server survives a
/// thousand of them.
#[test]
fn a_crowd_beyond_the_limit() {
    let _permit = CrowdPermit::take();
    let begun = Instant::now();
    let mut server = Server::start(&["--max-connections", "30", "--shards", "2"]);
    let broadcast = Broadcast::start(&server);
    let filling: Vec<Client> = (0..30 - Broadcast::CONNECTIONS).map(|_| server.connect("/t/x")).collect();
    let crowd: Vec<TcpStream> = (0..1_000).map(|_| dial(server.address())).collect();
    server.expect_counts(&[("refused_total{cause=\"limit\"}", 1_000)]);
    let mut closed = 0;
    for mut stream in &crowd {
        stream.set_nonblocking(true).unwrap();
        match stream.read(&mut [0]) {
            Ok(0) => closed += 1,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            outcome => panic!("{outcome:?}"),
        }
    }
    assert!(closed >= 900, "only {closed} of 1000 were closed");
    drop((crowd, filling));
    Client::open_when_there_is_room(server.address(), "/t/x").leave();
    broadcast.finish();
    expect_few(&server.end(), "--max-connections allows", begun, MINUTE);
}

/// Expects that the log has `words` at most once per interval since `begun`, over all shards together.
fn expect_few(log: &str, words: &str, begun: Instant, interval: Duration) {
    let count = log.matches(words).count();
    let intervals = begun.elapsed().div_duration_f64(interval) as usize;
    assert!((1..=1 + intervals).contains(&count), "{count} times {words:?}:\n{log}");
}

/// The interval of warnings about limits.
const MINUTE: Duration = Duration::from_secs(60);

/// One publisher and twenty subscribers. Each message is a number; each subscriber checks that none is missing.
struct Broadcast {
    goes_on: Arc<AtomicBool>,
    publisher: JoinHandle<u64>,
    subscribers: Vec<JoinHandle<()>>,
}

impl Broadcast {
    const TOPIC: &str = "/t/broadcast";
    const SUBSCRIBERS: usize = 20;
    const CONNECTIONS: usize = Self::SUBSCRIBERS + 1;

    fn start(server: &Server) -> Broadcast {
        let subscribers: Vec<Client> = (0..Self::SUBSCRIBERS).map(|_| server.connect(Self::TOPIC)).collect();
        let mut publisher = server.connect(&format!("{}?mode=pub", Self::TOPIC));
        let goes_on = Arc::new(AtomicBool::new(true));
        let more = Arc::clone(&goes_on);
        Broadcast {
            goes_on,
            publisher: thread::spawn(move || {
                let mut sent = 0;
                loop {
                    let last = !more.load(Ordering::Relaxed);
                    publisher.send_text(&format!("{sent}{}", if last { " last" } else { "" }));
                    sent += 1;
                    if last {
                        break;
                    }
                    publisher.expect_nothing();
                    thread::sleep(Duration::from_millis(1));
                }
                publisher.leave();
                sent
            }),
            subscribers: subscribers.into_iter().map(|client| thread::spawn(move || Self::check(client))).collect(),
        }
    }

    fn check(mut client: Client) {
        let mut next = 0_u64;
        loop {
            let message = match client.receive() {
                Received::Text(message) => message,
                Received::Ping(_) => continue,
                other => panic!("{other:?} after {next} messages"),
            };
            let (number, last) = message.split_once(' ').unwrap_or((&message, ""));
            assert_eq!(number.parse(), Ok(next), "a gap or a repetition");
            next += 1;
            if last == "last" {
                break;
            }
        }
        client.leave();
    }

    /// Ends the broadcast, and fails if a subscriber missed a message. Returns the number of messages.
    fn finish(self) -> u64 {
        self.goes_on.store(false, Ordering::Relaxed);
        let sent = self.publisher.join().expect("the broadcast's publisher");
        for subscriber in self.subscribers {
            subscriber.join().expect("a subscriber of the broadcast");
        }
        sent
    }
}
