//! Several shards behave like one hub, whatever shards the clients are on.

use std::{
    collections::HashSet,
    fs,
    io::Write as _,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use ringhub::proto::OpCode;
use rustix::process::Signal;

use crate::support::{
    Client, CrowdPermit, RESTART, Received, Server, binary_path, clean, close, dial, frame, is_on_epoll, post, program,
    run_to_end, take_response, text,
};

/// A hash of both addresses chooses the shard, so the parts are not exactly even. Of a thousand connections on four
/// shards, each shard has between 125 and 375.
#[test]
fn connections_spread_over_the_shards() {
    let _permit = CrowdPermit::take();
    let server = Server::start(&["--shards", "4"]);
    let clients: Vec<Client> = (0..1_000).map(|_| server.connect("/t/x?mode=sub")).collect();
    let counts = server.counts_until("everybody is counted", |counts| counts.get("connections_open") == 1_000);
    let shares = counts.by_shard("connections_open");
    assert_eq!(shares.len(), 4);
    assert!(shares.iter().all(|share| (125..=375).contains(share)), "{shares:?}");
    drop(clients);
    server.expect_counts(&[("connections_open", 0)]);
}

#[test]
fn a_message_reaches_subscribers_on_every_shard_once() {
    let server = Server::start(&["--shards", "4"]);
    for topic in ["a", "b", "c", "d", "e"] {
        let target = format!("/t/{topic}");
        let mut clients: Vec<Client> = (0..24).map(|_| server.connect(&target)).collect();
        for sender in 0..clients.len() {
            clients[sender].send_text(&format!("from {sender}"));
            for (receiver, client) in clients.iter_mut().enumerate() {
                if receiver != sender {
                    client.expect(text(&format!("from {sender}")));
                }
            }
        }
        // No client gets a second copy, or its own message.
        for client in &mut clients {
            client.expect_nothing();
        }
    }
}

/// A shard has as many descriptors open as are reserved for it: rings, runtime, listeners. More are reserved for
/// sockets that have just been accepted; none is open here.
#[test]
fn a_shard_opens_what_is_reserved_for_it() {
    let open = |shards: &str, addresses: &str| {
        let mut command = program();
        command.env("RINGHUB_SHARDS", shards).args(["--listen", addresses]);
        let server = Server::start_at(command);
        fs::read_dir(format!("/proc/{}/fd", server.pid().as_raw_nonzero())).unwrap().count()
    };
    let (one, two) = ("127.0.0.1:0", "127.0.0.1:0,127.0.0.1:0");
    // Descriptors are reserved for rings, since the backend is chosen later. With epoll a shard has one descriptor
    // less.
    let own = if is_on_epoll() { 6 } else { 7 };
    assert_eq!(open("9", one) - open("1", one), 8 * (own + 1));
    assert_eq!(open("9", two) - open("1", two), 8 * (own + 2));
}

/// A server whose own descriptors use up the limit does not start.
#[test]
fn too_few_descriptors_for_so_many_shards() {
    let mut command = clean(Command::new("sh"));
    command.args(["-c", "ulimit -n 700; exec \"$0\" \"$@\"", binary_path(), "--shards", "64"]);
    let output = run_to_end(command);
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(log.contains("ringhub: the limit of 700 open descriptors leaves none"), "{log}");
}

/// A server with descriptors for very few connections does not start. With descriptors for few it warns, unless the
/// operator has set `max_connections`.
#[test]
fn few_descriptors_are_told_at_the_start() {
    let serve = |limit: u64, flags: &str| {
        let mut command = clean(Command::new("sh"));
        command.args(["-c", &format!("ulimit -n {limit}; exec \"$0\" \"$@\" {flags}"), binary_path()]);
        command
    };
    let output = run_to_end(serve(202, ""));
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(log.contains("the limit of 202 open descriptors leaves 1 for connections"), "{log}");
    assert!(log.contains("LimitNOFILE=4096"), "{log}");
    let mut told = Server::start_command(serve(301, ""));
    let log = told.end();
    assert!(log.contains(" WARN ") && log.contains("only 100 connections have room"), "{log}");
    let mut meant = Server::start_command(serve(202, "--max-connections 1"));
    drop(meant.connect("/t/x"));
    let log = meant.end();
    assert!(!log.contains("WARN"), "{log}");
}

/// With many shards too, the limit of connections is reached before descriptors are used up.
#[test]
fn many_shards_leave_descriptors_for_all_connections() {
    let mut command = clean(Command::new("sh"));
    // Of the 1 100 descriptors each shard takes 9, and 2 for refusals; 128 are for other things.
    command.args(["-c", "ulimit -n 1100; exec \"$0\" \"$@\"", binary_path(), "--shards", "64"]);
    let server = Server::start_command(command);
    let mut clients = Vec::new();
    let refused = loop {
        match Client::open(dial(server.address()), "/t/x?mode=sub", &[]) {
            Ok(client) => clients.push(client),
            Err(refusal) => break refusal,
        }
    };
    assert_eq!((refused.status(), clients.len()), (503, 1_100 - 64 * 9 - 128 - 2 * 64));
    let counts = server.counts();
    assert_eq!((counts.get("accept_paused_total"), counts.get("refused_total{cause=\"limit\"}")), (0, 1));
    // The server keeps refused sockets that send nothing for a while; descriptors are reserved for them too.
    let silent: Vec<_> = (0..200).map(|_| dial(server.address())).collect();
    server.expect_counts(&[("refused_total{cause=\"limit\"}", 201), ("accept_paused_total", 0)]);
    drop((clients, silent));
    server.expect_counts(&[("connections_open", 0)]);
}

#[test]
fn local_scope_stays_on_the_shard() {
    let server = Server::start(&["--shards", "3"]);
    let mut subscribers: Vec<Client> = (0..60).map(|_| server.connect("/t/x?mode=sub")).collect();
    let before = server.counts_until("everybody is counted", |counts| counts.get("connections_open") == 60);
    let mut local = server.connect("/t/x?mode=pub&scope=local");
    let after = server.counts_until("the publisher is counted", |counts| counts.get("connections_open") == 61);
    let shares = before.by_shard("connections_open");
    let own = shares.iter().zip(after.by_shard("connections_open")).position(|(before, after)| before < after);
    let neighbours = shares[own.expect("the publisher is on one of the shards")];
    local.send_text("only here");
    server.expect_counts(&[("messages_in_total", 1), ("deliveries_total", neighbours)]);
    server.connect("/t/x?mode=pub").send_text("everywhere");
    let mut received = 0;
    for subscriber in &mut subscribers {
        let first = subscriber.receive();
        if first == text("only here") {
            received += 1;
            subscriber.expect(text("everywhere"));
        } else {
            assert_eq!(first, text("everywhere"));
        }
    }
    assert_eq!(received, neighbours);
}

/// A client's messages and its end come in one segment. Whatever shards the client and its topic's home are on, the
/// server's close frame follows the echoes of all these messages.
#[test]
fn a_close_frame_follows_the_echoes() {
    let server = Server::start(&["--shards", "4"]);
    let close = (frame(OpCode::Close, true, &[0x03, 0xe8]), 1000, "");
    let breach = (vec![0xc1, 0x80, 0, 0, 0, 0], 1002, "a reserved bit is set");
    for (end, code, reason) in [close, breach] {
        for number in 0..40 {
            let mut client = server.connect(&format!("/t/{code}/{number}?echo=true"));
            let words: Vec<u8> =
                (0..20).flat_map(|word| frame(OpCode::Text, true, format!("{word}").as_bytes())).collect();
            client.send_raw(&[words, end.clone()].concat());
            (0..20).for_each(|word| client.expect(text(&format!("{word}"))));
            client.expect_close(code, reason);
        }
    }
}

/// Close frames follow the echoes also in a crowd on one topic, in which each client gets messages of others too.
#[test]
fn the_close_frames_of_a_crowd_follow_its_echoes() {
    let server = Server::start(&["--shards", "4"]);
    let mut clients: Vec<Client> = (0..100).map(|_| server.connect("/t/x?echo=true")).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        let word = |word| frame(OpCode::Text, true, format!("{number} {word}").as_bytes());
        let words: Vec<u8> = (0..20).flat_map(word).collect();
        client.send_raw(&[words, frame(OpCode::Close, true, &[0x03, 0xe8])].concat());
    }
    for (number, client) in clients.iter_mut().enumerate() {
        let mut own = 0;
        loop {
            match client.receive() {
                Received::Text(word) if word.starts_with(&format!("{number} ")) => {
                    assert_eq!(word, format!("{number} {own}"));
                    own += 1;
                }
                Received::Text(_) => {}
                other => break assert_eq!((other, own), (close(1000, ""), 20), "client {number}"),
            }
        }
    }
}

/// A subscriber gets its opening answer only when it will miss no message any more.
#[test]
fn a_subscriber_with_its_answer_misses_nothing() {
    let server = Server::start(&["--shards", "4"]);
    let mut publisher = server.connect("/t/x?mode=pub");
    for number in 0..200 {
        let mut subscriber = server.connect("/t/x?mode=sub");
        publisher.send_text(&number.to_string());
        subscriber.expect(text(&number.to_string()));
    }
}

#[test]
fn several_addresses_are_one_hub() {
    let server = Server::start(&["--shards", "2", "--listen", "[::1]:0"]);
    let other = server.other_address().expect("a second address");
    assert!(server.address().is_ipv6() && other.is_ipv4());
    let mut one = server.connect("/t/x");
    let mut two = Client::connect(other, "/t/x");
    two.send_text("over IPv4");
    one.expect(text("over IPv4"));
    one.send_text("over IPv6");
    two.expect(text("over IPv6"));
}

#[test]
fn a_host_name_stands_for_its_addresses() {
    let server = Server::start(&["--shards", "2", "--listen", "localhost:0"]);
    assert!(server.address().ip().is_loopback() && server.other_address().is_some());
    let (mut one, mut two) = (server.connect("/t/x"), Client::connect(server.other_address().unwrap(), "/t/x"));
    two.send_text("over another address");
    one.expect(text("over another address"));
}

#[test]
fn a_listener_on_ipv6_takes_ipv4_if_it_is_dual() {
    for (flags, is_dual) in [(&[][..], false), (&["--listen-ipv6", "only"], false), (&["--listen-ipv6", "dual"], true)]
    {
        let server = Server::start(&[&["--shards", "2", "--listen", "[::]:0"], flags].concat());
        assert!(server.address().is_ipv6());
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, server.address().port()));
        assert_eq!(TcpStream::connect(address).is_ok(), is_dual, "{flags:?}");
        if is_dual {
            let mut client = Client::connect(address, "/t/x?echo=true");
            client.send_text("over IPv4");
            client.expect(text("over IPv4"));
        }
    }
}

#[test]
fn a_drain_empties_every_shard() {
    let mut server = Server::start(&["--shards", "4"]);
    let mut clients: Vec<Client> = (0..40).map(|_| server.connect("/t/x?echo=true")).collect();
    server.signal(Signal::TERM);
    for client in &mut clients {
        client.expect_close(1012, RESTART);
    }
    drop(clients);
    assert!(server.wait().success());
}

/// A message that was answered 202 comes before the close frame, whatever shards its publisher, the topic's home and
/// the subscriber are on.
#[test]
fn every_202_reaches_every_subscriber_before_its_1012() {
    for round in 0..ROUNDS {
        let mut server = Server::start(&["--shards", "4", "--drain-timeout", "60s"]);
        let address = server.address();
        let mut subscribers: Vec<(usize, Client)> = (0..TOPICS * 4)
            .map(|number| (number % TOPICS, server.connect(&format!("/t/{}?mode=sub", number % TOPICS))))
            .collect();
        let count = AtomicUsize::new(0);
        let accepted: Vec<Vec<String>> = thread::scope(|scope| {
            let posting: Vec<_> =
                (0..TOPICS).map(|topic| scope.spawn(move || post_to_the_end(address, topic))).collect();
            while count.load(Ordering::Relaxed) < 20 * (round + 1) {
                count.store(server.counts().get("messages_in_total") as usize, Ordering::Relaxed);
            }
            server.signal(Signal::TERM);
            posting.into_iter().map(|posting| posting.join().unwrap()).collect()
        });
        for (topic, subscriber) in &mut subscribers {
            let mut received = HashSet::new();
            loop {
                match subscriber.receive() {
                    Received::Text(text) => assert!(received.insert(text), "a message comes twice"),
                    end => break assert_eq!(end, close(1012, RESTART)),
                }
            }
            subscriber.expect(Received::End);
            let missing: Vec<&String> = accepted[*topic].iter().filter(|text| !received.contains(*text)).collect();
            assert!(missing.is_empty(), "round {round}: {missing:?} of {}", accepted[*topic].len());
        }
        drop(subscribers);
        assert!(server.wait().success(), "{}", server.log());
        let report = format!("told={0} left={0} dropped=0 is_barrier_whole=true", TOPICS * 4);
        assert!(server.log().contains(&report), "{}", server.log());
    }
}

/// Publishes to a topic until the server leaves. Returns the messages that were answered 202.
fn post_to_the_end(address: SocketAddr, topic: usize) -> Vec<String> {
    let mut stream = dial(address);
    let mut accepted = Vec::new();
    loop {
        let message = format!("message {}", accepted.len());
        let request = post(&format!("/t/{topic}"), "text/plain", &message);
        // The server may end an idle connection while a request is on its way.
        if stream.write_all(request.as_bytes()).is_err() || !matches!(stream.peek(&mut [0]), Ok(1)) {
            return accepted;
        }
        match take_response(&mut stream, Vec::new(), true).0.status() {
            202 => accepted.push(message),
            503 => return accepted,
            status => panic!("{status}"),
        }
    }
}

const ROUNDS: usize = 24;
const TOPICS: usize = 6;
