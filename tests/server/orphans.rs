//! Tests that ended connections leave nothing in the kernel that the server does not know of.

use std::{
    env,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use ringhub::proto::OpCode;
use rustix::process::Signal;

use crate::support::{
    Client, DEADLINE, KernelSocket, RESTART, Received, Server, close, dial_with, exchange, frame, pattern, request,
};

/// The server ends connections whose clients break the protocol and go on sending. The sockets are gone for the kernel
/// too, although input arrives at that moment.
///
/// `RINGHUB_ORPHANS` is the number of connections; `tests/orphans` asks for 20 000.
#[test]
fn connections_given_up_in_mid_stream() {
    const AT_A_TIME: usize = 64;
    let count: usize = env::var("RINGHUB_ORPHANS").map_or(1_000, |count| count.parse().expect("a number"));
    let server = Server::start(&["--close-timeout", "100ms", "--shards", "2"]);
    let address = server.address();
    let (begun, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while begun.fetch_add(1, Ordering::Relaxed) < count {
                    let mut stream = Client::connect(address, "/t/x").into_stream();
                    // A frame with a reserved bit.
                    let mut outcome = stream.write_all(b"\xc1\x80\0\0\0\0");
                    while outcome.is_ok() {
                        outcome = stream.write_all(b"more");
                    }
                    let is_over = outcome.is_err_and(|error| error.kind() != ErrorKind::WouldBlock);
                    refused.fetch_add(usize::from(is_over), Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(refused.into_inner(), count, "a socket still takes input that the server does not read");
    let is_over =
        |counts: &crate::support::Counts| counts.get("connections_open") == 0 && counts.get("polls_armed") == 0;
    let counts = server.counts_until("every poll has ended", is_over);
    assert_eq!((counts.get("protocol_errors_total"), counts.get("ended_total")), (count as u64, count as u64));
    KernelSocket::until_none("sockets without a descriptor", || KernelSocket::without_descriptor(&server));
    println!("{count} connections ended in mid-stream, 0 sockets without a descriptor");
}

/// The server closes fifty subscribers that read nothing as slow. After `close_timeout` the kernel keeps nothing of
/// them.
#[test]
fn slow_consumers_leave_the_kernel_too() {
    const COUNT: u64 = 50;
    let server = Server::start(&["--max-message", "64KiB", "--max-backlog", "256KiB", "--close-timeout", "1s"]);
    let slow: Vec<Client> = (0..COUNT).map(|_| server.connect("/t/x?mode=sub")).collect();
    let mut trickling = server.connect("/t/x?mode=sub").into_stream();
    let trickler = thread::spawn(move || {
        // This subscriber reads slowly; it gets no more time than the others.
        loop {
            match trickling.read(&mut [0; 64]) {
                Ok(1..) => thread::sleep(Duration::from_millis(1)),
                outcome => return outcome.map_err(|error| error.kind()),
            }
        }
    });
    let mut publisher = server.connect("/t/x?mode=pub");
    let mut sent = 0;
    while server.counts().get("slow_closed_total") <= COUNT {
        publisher.send_binary(&pattern(sent, 60_000));
        sent += 1;
        assert!(sent < 10_000, "backlogs have no limit");
    }
    server.expect_counts(&[
        ("close_timeout_total", COUNT + 1),
        ("reset_total", COUNT + 1),
        ("connections_open", 1),
        ("slow_consumers", 0),
    ]);
    KernelSocket::until_none("sockets without a descriptor", || KernelSocket::without_descriptor(&server));
    assert_eq!(trickler.join().unwrap(), Err(ErrorKind::ConnectionReset));
    for client in slow {
        let mut rest = Vec::new();
        assert_eq!(client.into_stream().read_to_end(&mut rest).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    publisher.leave();
}

/// Sends requests and then `behind`. The answers are larger than the client's socket. Then ends the client's side if
/// `is_finished`. Returns the client when its first answer has begun to arrive; the client has read nothing.
fn ask_and_read_nothing(address: SocketAddr, behind: &str, is_finished: bool) -> TcpStream {
    let mut stream = dial_with(address, Some(4_096));
    stream.write_all((request("GET", "/").repeat(6) + behind).as_bytes()).unwrap();
    if is_finished {
        stream.shutdown(Shutdown::Write).unwrap();
    }
    assert_eq!(stream.peek(&mut [0]).unwrap(), 1);
    stream
}

/// Waits until no socket of the server's port has much unsent, and expects that the clients are reset.
#[track_caller]
fn expect_resets(port: u16, clients: Vec<TcpStream>) {
    KernelSocket::until_none("sockets with much unsent", || KernelSocket::with_much_unsent(port));
    for mut client in clients {
        assert_eq!(client.read_to_end(&mut Vec::new()).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}

/// Connections whose clients do not read their answers leave the kernel. They end by a malformed request, with and
/// without the end of the client's side, and by a request that does not come in time.
#[test]
fn unread_answers_leave_the_kernel_too() {
    const COUNT: usize = 20;
    let server = Server::start(&["--send-buffer", "4MiB", "--handshake-timeout", "1s", "--body-timeout", "1h"]);
    for (behind, is_finished) in [("\n", true), ("\n", false), ("G", false)] {
        let clients = (0..COUNT).map(|_| ask_and_read_nothing(server.address(), behind, is_finished)).collect();
        server.expect_counts(&[("http_connections_open", 0), ("http_too_slow_total", 0)]);
        expect_resets(server.address().port(), clients);
    }
    let counts = server.counts();
    let (malformed, late) = (counts.get("refused_total{cause=\"malformed\"}"), counts.get("handshake_timeout_total"));
    assert_eq!((malformed, late), (2 * COUNT as u64, COUNT as u64));
}

/// Connections that give way to others leave the kernel too, whether or not their clients have ended their side.
#[test]
fn unread_answers_that_give_way_leave_the_kernel_too() {
    for is_finished in [false, true] {
        let server = Server::start(&["--send-buffer", "4MiB", "--max-http-connections", "1", "--body-timeout", "1s"]);
        let client = ask_and_read_nothing(server.address(), "", is_finished);
        let other = "GET /nothing HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        let begin = Instant::now();
        // The connection gives way only after a `body_timeout` without progress.
        while exchange(server.address(), other).status() != 404 {
            assert!(begin.elapsed() < DEADLINE, "the connection does not give way");
        }
        server.expect_counts(&[("http_too_slow_total", 1), ("http_connections_open", 0)]);
        expect_resets(server.address().port(), vec![client]);
    }
}

/// At the end of the server, a client that has not read its last answer is reset too.
#[test]
fn unread_answers_do_not_outlive_the_server() {
    let mut server = Server::start(&["--send-buffer", "4MiB", "--body-timeout", "1h"]);
    let clients = [false, true].map(|is_finished| ask_and_read_nothing(server.address(), "", is_finished)).into();
    server.expect_counts(&[("http_requests_total", 12)]);
    let port = server.address().port();
    server.end();
    expect_resets(port, clients);
}

/// A client that has ended its side and then reads gets all of its answers, although they had filled its socket.
#[test]
fn answers_that_are_read_arrive() {
    let server = Server::start(&["--send-buffer", "4MiB"]);
    let mut stream = ask_and_read_nothing(server.address(), "\n", true);
    server.counts_until("the last request is refused", |counts| counts.refused() == 1);
    let mut all = String::new();
    stream.read_to_string(&mut all).unwrap();
    assert_eq!((all.matches("HTTP/1.1 200").count(), all.matches("HTTP/1.1 400").count()), (6, 1));
    assert!(all.ends_with("}\n"), "{all}");
}

/// A server whose drain runs out of time leaves nothing in the kernel. A client that took everything gets an orderly
/// end.
#[test]
fn a_drain_that_takes_too_long() {
    let mut server = Server::start(&[
        "--max-message",
        "64KiB",
        "--max-backlog",
        "1GiB",
        "--close-timeout",
        "60s",
        "--drain-timeout",
        "1s",
    ]);
    let slow: Vec<Client> = (0..10).map(|_| server.connect("/t/x?mode=sub")).collect();
    let mut quiet = server.connect("/t/y");
    quiet.never_answer();
    let mut publisher = server.connect("/t/x?mode=pub");
    let mut sent = 0;
    while server.counts().get("slow_consumers") < 10 {
        publisher.send_binary(&pattern(sent, 60_000));
        sent += 1;
        assert!(sent < 10_000, "a socket takes everything");
    }
    let port = server.address().port();
    server.signal(Signal::TERM);
    quiet.expect(close(1012, RESTART));
    assert!(server.wait().success());
    quiet.expect(Received::End);
    let unsent = || KernelSocket::of_port(port).into_iter().filter(|socket| socket.unsent > 0).collect();
    KernelSocket::until_none("sockets with unsent bytes outlive the server", unsent);
    for client in slow {
        let mut rest = Vec::new();
        assert_eq!(client.into_stream().read_to_end(&mut rest).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}

/// A client that ends its side without a closing handshake may still read what the server has sent. A client that does
/// not read is reset after `close_timeout`.
#[test]
fn clients_that_end_only_their_side() {
    let server = Server::start(&["--max-message", "64KiB", "--max-backlog", "1GiB", "--close-timeout", "2s"]);
    let mut reads = server.connect("/t/x?mode=sub").into_stream();
    let never_reads = server.connect("/t/x?mode=sub").into_stream();
    let mut publisher = server.connect("/t/x?mode=pub");
    let mut sent = 0;
    while server.counts().get("slow_consumers") < 2 {
        publisher.send_binary(&pattern(sent, 60_000));
        sent += 1;
        assert!(sent < 10_000, "a socket takes everything");
    }
    reads.shutdown(Shutdown::Write).unwrap();
    never_reads.shutdown(Shutdown::Write).unwrap();
    server.expect_counts(&[("aborted_total", 2), ("slow_consumers", 0)]);
    let mut received = Vec::new();
    reads.read_to_end(&mut received).expect("an orderly end");
    assert!(received.len() > 60_000, "{} bytes", received.len());
    server.expect_counts(&[("reset_total", 1), ("close_timeout_total", 1), ("connections_open", 1)]);
    KernelSocket::until_none("sockets without a descriptor", || KernelSocket::without_descriptor(&server));
    let outcome = (&never_reads).read_to_end(&mut Vec::new());
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::ConnectionReset);
    publisher.leave();
}

/// The server receives and drops a message that is 4 MiB too large. So the close frame and the connection's end arrive
/// each time.
#[test]
fn a_close_for_a_size_arrives() {
    const TIMES: u64 = 60;
    let server = Server::start(&[]);
    let address = server.address();
    let whole = frame(OpCode::Binary, true, &vec![0; 5 << 20]);
    let begin = frame(OpCode::Binary, false, &vec![0; 1 << 20]);
    let next = frame(OpCode::Continuation, false, &vec![0; 1 << 20]);
    let last = frame(OpCode::Continuation, true, &vec![0; 1 << 20]);
    let in_pieces = [begin, next.repeat(3), last].concat();
    for message in [&whole, &in_pieces] {
        thread::scope(|scope| {
            let times: Vec<_> = (0..TIMES / 2).map(|_| scope.spawn(|| send_and_read(address, message))).collect();
            times.into_iter().for_each(|time| time.join().unwrap());
        });
    }
    server.expect_counts(&[("protocol_errors_total", TIMES), ("ended_total", TIMES), ("reset_total", 0)]);
}

/// Sends a whole message on one thread, while this one reads and answers the close frame.
fn send_and_read(address: SocketAddr, message: &[u8]) {
    let mut client = Client::connect(address, "/t/x");
    let mut stream = client.stream().try_clone().unwrap();
    thread::scope(|scope| {
        let sender = scope.spawn(move || stream.write_all(message));
        client.expect_close(1009, "a message is larger than 1048576 bytes");
        sender.join().unwrap().expect("the server takes all of it");
    });
}
