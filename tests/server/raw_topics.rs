//! Raw topics over real sockets: what a client sends to a topic reaches all of the topic's subscribers.

use std::{collections::VecDeque, io::Write, thread};

use ringhub::proto::OpCode;

use crate::support::{Client, Received, Server, binary, dial, dial_with, exchange, frame, pattern, text, text_pattern};

#[test]
fn a_message_reaches_everybody_but_its_sender() {
    let server = Server::start(&[]);
    let mut publisher = server.connect("/t/news");
    let mut subscribers: Vec<Client> = (0..5).map(|_| server.connect("/t/news")).collect();
    publisher.send_text("hello");
    for subscriber in &mut subscribers {
        subscriber.expect(text("hello"));
    }
    subscribers[0].send_text("and back");
    publisher.expect(text("and back"));
    for subscriber in &mut subscribers[1..] {
        subscriber.expect(text("and back"));
    }
    publisher.expect_nothing();
    subscribers[0].expect_nothing();
}

/// RFC 6455 5.6: text stays text, binary stays binary, and empty messages are messages.
#[test]
fn text_and_binary_stay_what_they_are() {
    let server = Server::start(&[]);
    let (mut publisher, mut subscriber) = (server.connect("/t/x"), server.connect("/t/x"));
    publisher.send_text("é⚡");
    publisher.send_binary("é⚡".as_bytes());
    publisher.send_binary(&[0xff, 0x00, 0x80]);
    publisher.send_text("");
    publisher.send_binary(&[]);
    subscriber.expect(text("é⚡"));
    subscriber.expect(binary("é⚡".as_bytes()));
    subscriber.expect(binary(&[0xff, 0x00, 0x80]));
    subscriber.expect(text(""));
    subscriber.expect(binary(&[]));
}

#[test]
fn echo_returns_ones_own_messages() {
    let server = Server::start(&[]);
    let mut echoed = server.connect("/t/x?echo=true");
    let mut plain = server.connect("/t/x?echo=false");
    echoed.send_text("one");
    echoed.expect(text("one"));
    plain.expect(text("one"));
    plain.send_text("two");
    echoed.expect(text("two"));
    plain.expect_nothing();
}

/// One send carries messages of several senders; each sender's share leaves out its own messages.
#[test]
fn own_messages_are_left_out_of_a_share() {
    const ROUNDS: usize = 200;
    let server = Server::start(&[]);
    let mut clients: Vec<Client> = (0..4).map(|_| server.connect("/t/x")).collect();
    for round in 0..ROUNDS {
        for (number, client) in clients.iter_mut().enumerate() {
            client.send_text(&format!("{number} {round}"));
        }
    }
    for (own, client) in clients.iter_mut().enumerate() {
        let mut next = [0; 4];
        for _ in 0..3 * ROUNDS {
            let Received::Text(message) = client.receive() else { panic!("only text is sent here") };
            let (number, round) = message.split_once(' ').unwrap();
            let number: usize = number.parse().unwrap();
            assert_ne!(number, own, "its own message came back");
            assert_eq!(round.parse(), Ok(next[number]), "client {own} from {number}");
            next[number] += 1;
        }
        client.expect_nothing();
    }
}

#[test]
fn a_receive_only_client_is_closed_when_it_sends() {
    let server = Server::start(&[]);
    let mut other = server.connect("/t/x");
    let mut receiver = server.connect("/t/x?mode=sub");
    other.send_text("one");
    receiver.expect(text("one"));
    receiver.send_text("not allowed");
    receiver.expect_close(1008, "this connection only receives");
    other.expect_nothing();
    assert_eq!(server.counts().get("policy_closed_total"), 1);
}

/// Pings and close frames are not messages.
#[test]
fn a_receive_only_client_may_ping_and_leave() {
    let server = Server::start(&[]);
    let mut receiver = server.connect("/t/x?mode=sub");
    receiver.send(OpCode::Ping, true, b"there?");
    receiver.expect(Received::Pong(b"there?".into()));
    receiver.leave();
}

#[test]
fn a_send_only_client_never_receives() {
    let server = Server::start(&[]);
    let mut subscriber = server.connect("/t/x?echo=true");
    for target in ["/t/x?mode=pub", "/t/x?mode=pub&echo=true"] {
        let mut publisher = server.connect(target);
        publisher.send_text("from it");
        subscriber.expect(text("from it"));
        subscriber.send_text("to all");
        subscriber.expect(text("to all"));
        publisher.expect_nothing();
        publisher.leave();
    }
}

#[test]
fn topics_do_not_mix() {
    let server = Server::start(&[]);
    let topics = ["a", "b", "A", "a/b", "a%2Fb%2F", "%C3%A4", "a+b", "a%20b"];
    let mut pairs: Vec<(Client, Client)> = Vec::new();
    for topic in topics {
        let target = format!("/t/{topic}");
        pairs.push((server.connect(&target), server.connect(&target)));
    }
    for (topic, (publisher, _)) in topics.iter().zip(&mut pairs) {
        publisher.send_text(topic);
    }
    for (topic, (publisher, subscriber)) in topics.iter().zip(&mut pairs) {
        subscriber.expect(text(topic));
        subscriber.expect_nothing();
        publisher.expect_nothing();
    }
}

/// RFC 3986 2.1: percent-encoding does not change a topic's name.
#[test]
fn names_are_percent_decoded() {
    let server = Server::start(&[]);
    let longest = "x".repeat(255);
    let escaped: String = longest.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let same = [
        ["news", "%6e%65w%73"],
        ["a/b", "a%2fb"],
        ["%C3%BC", "%c3%bc"],
        ["a%25b", "%61%25%62"],
        ["a?echo=true", "%61?echo=true"],
        [&longest, &escaped],
    ];
    for [one, other] in same {
        let mut publisher = server.connect(&format!("/t/{one}"));
        let mut subscriber = server.connect(&format!("/t/{other}"));
        publisher.send_text(one);
        subscriber.expect(text(one));
    }
}

#[test]
fn a_target_in_absolute_form_names_the_same_topic() {
    let server = Server::start(&[]);
    let mut publisher = server.connect("/t/x");
    let mut subscriber = server.connect("http://hub.example/t/x");
    publisher.send_text("here");
    subscriber.expect(text("here"));
}

#[test]
fn names_and_queries_that_cannot_be_are_refused() {
    let server = Server::start(&[]);
    let too_long = format!("/t/{}", "x".repeat(256));
    let escaped_too_long = format!("/t/{}", "%78".repeat(256));
    let bad = [
        ("/t/", "empty"),
        (&too_long, "256 bytes, more than 255"),
        (&escaped_too_long, "256 bytes, more than 255"),
        ("/t/%", "percent-encoded"),
        ("/t/a%4", "percent-encoded"),
        ("/t/%zz", "percent-encoded"),
        ("/t/%ff", "percent-encoded UTF-8"),
        ("/t/%C3", "percent-encoded UTF-8"),
        ("/t/%ED%A0%80", "percent-encoded UTF-8"),
        ("/t/%00", "control"),
        ("/t/a%0Ab", "control"),
        ("/t/%7F", "control"),
        ("/t/%C2%85", "control"),
        ("/t/x?echo=1", "echo"),
        ("/t/x?echo", "echo"),
        ("/t/x?mode=write", "mode"),
        ("/t/x?scope=world", "scope"),
        ("/t/x?color=red", "color"),
        ("/t/x?echo=true&echo=true", "echo"),
        ("/t/x?mode=sub&mode=pub", "mode"),
        ("/t/x?Echo=true", "Echo"),
    ];
    for (target, named) in bad {
        let response = exchange(server.address(), &crate::support::upgrade_request(target));
        assert_eq!(response.status(), 400, "{target}");
        assert!(response.error().contains(named), "{target}: {}", response.error());
    }
    let counts = server.counts();
    assert_eq!(counts.refused(), bad.len() as u64);
    assert_eq!(counts.get("opened_total"), 0);
}

#[test]
fn messages_of_one_publisher_stay_in_order() {
    const COUNT: usize = 5_000;
    let server = Server::start(&[]);
    let subscribers: Vec<Client> = (0..3).map(|_| server.connect("/t/x?mode=sub")).collect();
    let mut publisher = server.connect("/t/x?mode=pub");
    let readers: Vec<_> = subscribers
        .into_iter()
        .map(|mut subscriber| {
            thread::spawn(move || {
                for number in 0..COUNT {
                    subscriber.expect(text(&number.to_string()));
                }
                subscriber.expect_nothing();
            })
        })
        .collect();
    for number in 0..COUNT {
        publisher.send_text(&number.to_string());
    }
    for reader in readers {
        reader.join().unwrap();
    }
    server.expect_counts(&[("messages_in_total", COUNT as u64), ("deliveries_total", 3 * COUNT as u64)]);
}

/// Tests sizes around each edge: of the length's encoding, of frames that are sent from the receive buffer, of the
/// receive buffer itself, and of the limit.
#[test]
fn messages_of_every_size_arrive_intact() {
    let server = Server::start(&[]);
    let (mut publisher, mut subscriber) = (server.connect("/t/x?echo=true"), server.connect("/t/x"));
    let edges = [1, 125, 126, 127, 16 << 10, 64 << 10, 128 << 10, 1 << 20];
    for size in edges.into_iter().flat_map(|edge| [edge - 1, edge, edge + 1]).filter(|&size| size <= 1 << 20) {
        let bytes = pattern(size, size);
        publisher.send_binary(&bytes);
        publisher.expect(binary(&bytes));
        subscriber.expect(binary(&bytes));
        let letters = text_pattern(size);
        assert_eq!(letters.len(), size);
        publisher.send_text(&letters);
        publisher.expect(text(&letters));
        subscriber.expect(text(&letters));
    }
}

/// Small and large messages alternate. Large ones are sent from the receive buffer, small ones are copied.
#[test]
fn small_and_large_messages_keep_their_order() {
    let server = Server::start(&[]);
    let mut subscriber = server.connect("/t/x?mode=sub");
    let mut publisher = server.connect("/t/x?mode=pub");
    let messages: Vec<Vec<u8>> = (0..200).map(|number| pattern(number, [3, 20_000, 900, 70_000][number % 4])).collect();
    let sent = messages.clone();
    let sender = thread::spawn(move || {
        for message in &sent {
            publisher.send_binary(message);
        }
        publisher
    });
    for message in &messages {
        subscriber.expect(binary(message));
    }
    sender.join().unwrap().leave();
}

#[test]
fn a_message_beyond_the_limit_is_refused() {
    let server = Server::start(&[]);
    let mut subscriber = server.connect("/t/x");
    let mut publisher = server.connect("/t/x");
    // The header alone is refused; the server does not wait for the payload.
    publisher.send_raw(&frame(OpCode::Binary, true, &vec![0; (1 << 20) + 1])[..14]);
    publisher.expect(crate::support::close(1009, "a message is larger than 1048576 bytes"));
    subscriber.expect_nothing();
    assert_eq!(server.counts().get("protocol_errors_total"), 1);
}

#[test]
fn limits_of_messages_are_settings() {
    let server = Server::start(&["--max-message", "1000", "--max-frame", "600", "--max-fragments", "3"]);
    let mut subscriber = server.connect("/t/x");
    let refused = |frames: &[(OpCode, bool, usize)], error: &str| {
        let mut publisher = server.connect("/t/x");
        for &(opcode, fin, size) in frames {
            publisher.send(opcode, fin, &vec![b'x'; size]);
        }
        publisher.expect(crate::support::close(1009, error));
    };
    refused(&[(OpCode::Text, true, 601)], "a frame is larger than 600 bytes");
    refused(&[(OpCode::Text, false, 600), (OpCode::Continuation, false, 401)], "a message is larger than 1000 bytes");
    let four = [OpCode::Text, OpCode::Continuation, OpCode::Continuation, OpCode::Continuation];
    refused(&four.map(|opcode| (opcode, false, 1)), "a message has more than 3 fragments");
    let mut publisher = server.connect("/t/x");
    publisher.send(OpCode::Text, false, &[b'x'; 600]);
    publisher.send(OpCode::Continuation, false, &[]);
    publisher.send(OpCode::Continuation, true, &[b'x'; 400]);
    subscriber.expect(text(&"x".repeat(1_000)));
    subscriber.expect_nothing();
}

/// RFC 6455 5.4: fragments become one message, and control frames between them are answered.
#[test]
fn fragmented_messages_arrive_whole() {
    let server = Server::start(&[]);
    let (mut publisher, mut subscriber) = (server.connect("/t/x"), server.connect("/t/x"));
    publisher.send(OpCode::Text, false, "é".as_bytes().split_at(1).0);
    publisher.send(OpCode::Continuation, false, &[]);
    publisher.send(OpCode::Ping, true, b"between");
    publisher.expect(Received::Pong(b"between".into()));
    publisher.send(OpCode::Continuation, true, "é".as_bytes().split_at(1).1);
    subscriber.expect(text("é"));
    let bytes = pattern(1, 100_000);
    let pieces: Vec<&[u8]> = bytes.chunks(777).collect();
    for (number, piece) in pieces.iter().enumerate() {
        let opcode = if number == 0 { OpCode::Binary } else { OpCode::Continuation };
        publisher.send(opcode, number == pieces.len() - 1, piece);
    }
    subscriber.expect(binary(&bytes));
}

/// The socket buffer holds only a part of a message: each send is short, and the rest follows when there is room.
#[test]
fn messages_larger_than_the_socket_buffer_arrive_intact() {
    const COUNT: usize = 12;
    let server = Server::start(&["--send-buffer", "4096", "--max-backlog", "64MiB"]);
    let mut slow = Client::open(dial_with(server.address(), Some(4_096)), "/t/x?mode=sub", &[]).unwrap();
    let mut fast = server.connect("/t/x?mode=sub");
    let mut publisher = server.connect("/t/x?mode=pub");
    let messages: Vec<Vec<u8>> = (0..COUNT).map(|number| pattern(number, 50_000 + 40_000 * (number % 3))).collect();
    for message in &messages {
        // Pongs for this client and messages for all clients become due at about the same time.
        slow.send(OpCode::Ping, true, &message[..4]);
        publisher.send_binary(message);
        slow.send(OpCode::Ping, true, &message[4..8]);
        publisher.send_text("small");
        slow.send(OpCode::Ping, true, &message[8..12]);
        fast.expect(binary(message));
        fast.expect(text("small"));
    }
    let counts = server.counts();
    assert!(counts.get("slow_consumers") >= 1 && counts.get("short_sends_total") >= 1, "{counts:?}");
    let mut owed: VecDeque<_> = messages.iter().flat_map(|message| [binary(message), text("small")]).collect();
    let mut pongs: VecDeque<_> = messages.iter().flat_map(|message| message[..12].chunks(4)).collect();
    while !owed.is_empty() || !pongs.is_empty() {
        match slow.receive() {
            Received::Pong(payload) => assert_eq!(Some(&*payload), pongs.pop_front()),
            message => assert!(Some(&message) == owed.pop_front().as_ref(), "{message:?}, {} are left", owed.len()),
        }
    }
    // The client has no backlog any more.
    publisher.send_text("again");
    slow.expect(text("again"));
    fast.expect(text("again"));
    let deliveries = 2 * (2 * COUNT as u64 + 1);
    server.expect_counts(&[("slow_consumers", 0), ("slow_closed_total", 0), ("deliveries_total", deliveries)]);
}

/// RFC 6455 5.5.1: the server's close frame repeats the client's code, or has none if the client sent none.
#[test]
fn close_codes_are_echoed() {
    let server = Server::start(&[]);
    for code in [1000, 1001, 1003, 1007, 1011, 3000, 4000, 4999] {
        let mut client = server.connect("/t/x");
        client.send_close(code, "because");
        let Received::Close(Some(echoed), _) = client.receive() else { panic!("no close frame") };
        assert_eq!(echoed, code);
        client.expect(Received::End);
    }
    let mut client = server.connect("/t/x");
    client.send_close(1005, "");
    client.expect(Received::Close(None, String::new()));
    client.expect(Received::End);
    drop(client);
    server.expect_counts(&[("connections_open", 0), ("ended_total", 9), ("aborted_total", 0)]);
}

/// RFC 6455 5.5.1: data after the client's close frame is no message.
#[test]
fn nothing_counts_after_a_close() {
    let server = Server::start(&[]);
    let (mut client, mut other) = (server.connect("/t/x"), server.connect("/t/x"));
    let frames = [frame(OpCode::Text, true, b"before"), frame(OpCode::Close, true, &[0x03, 0xe8])];
    client.send_raw(&[&frames.concat()[..], &frame(OpCode::Text, true, b"behind")].concat());
    client.expect_close(1000, "");
    other.expect(text("before"));
    other.expect_nothing();
}

/// RFC 6455 5.5.2 and 5.5.3.
#[test]
fn pings_are_answered_and_pongs_are_not() {
    let server = Server::start(&[]);
    let mut client = server.connect("/t/x");
    client.send(OpCode::Pong, true, b"nobody asked");
    for payload in [&[][..], b"a", &pattern(3, 125)] {
        client.send(OpCode::Ping, true, payload);
        client.expect(Received::Pong(payload.into()));
    }
    client.leave();
}

/// RFC 6455 4.1: a client should wait for the answer, but the server must not lose frames that came with the request.
#[test]
fn frames_after_the_opening_request_are_not_lost() {
    let server = Server::start(&[]);
    let mut subscriber = server.connect("/t/x");
    let large = pattern(5, 40_000);
    for at in [0, 1, 2, 9] {
        let frames = [
            frame(OpCode::Text, true, b"eager"),
            frame(OpCode::Ping, true, b"there?"),
            frame(OpCode::Binary, true, &large),
        ]
        .concat();
        // The first write ends within the first frame, or after all three.
        let first = if at == 0 { frames.len() } else { at };
        let mut client = Client::open(dial(server.address()), "/t/x", &frames[..first]).unwrap();
        client.stream().write_all(&frames[first..]).unwrap();
        subscriber.expect(text("eager"));
        subscriber.expect(binary(&large));
        client.expect(Received::Pong(b"there?".into()));
        client.leave();
    }
}

#[test]
fn bytes_that_arrive_one_by_one() {
    let server = Server::start(&[]);
    let (client, mut subscriber) = (server.connect("/t/x"), server.connect("/t/x"));
    let frames = [frame(OpCode::Text, true, "é⚡".as_bytes()), frame(OpCode::Binary, true, &pattern(1, 200))].concat();
    for byte in frames {
        client.stream().write_all(&[byte]).unwrap();
        thread::yield_now();
    }
    subscriber.expect(text("é⚡"));
    subscriber.expect(binary(&pattern(1, 200)));
}

/// Once a client has its 101, it gets every message published from then on.
#[test]
fn a_new_subscriber_gets_all_later_messages() {
    let server = Server::start(&[]);
    let mut publisher = server.connect("/t/x?mode=pub");
    let mut joined: Vec<Client> = Vec::new();
    for number in 0..50 {
        joined.push(server.connect("/t/x?mode=sub"));
        publisher.send_text(&number.to_string());
        if number % 5 == 4 {
            joined.remove(0).leave();
        }
        for client in &mut joined {
            client.expect(text(&number.to_string()));
        }
    }
}
